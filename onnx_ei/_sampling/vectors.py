"""What one stage of sampling says of a vector measure beside its bits: what judges it."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_ei._kernels.units import _count_codes
from onnx_ei._sampling.growth import least_samples, likely_samples
from onnx_ei.information import VectorInformation

__all__ = ["ERRORS", "UnitCounts", "Vector"]

MAX_CELLS = 1 << 20
"""Cells of all units' histograms (8 MiB) past which their entropies are bounded by their bins."""
ERRORS = 3.0
"""Standard errors that an estimate is moved by before it counts as a bound."""


@dataclass(frozen=True, kw_only=True)
class Vector:
    """One pair of vectors after a stage of sampling.

    Parameters
    ----------
    information : VectorInformation
        Bits, states, singletons.
    in_bits, out_bits : float
        Bounds of the entropy of either vector, in bits.

    Examples
    --------
    Made by :class:`onnx_ei.sampling.JointSampler`.
    """

    information: VectorInformation
    in_bits: float
    out_bits: float

    @property
    def coverage(self) -> float:
        """Share of the states' probability seen; all of it where one end is constant: 0 bits."""
        found = self.information
        if found.n_kept > 1 and 1 in found.n_states[:2]:
            return 1.0
        return float(found.coverage)

    @property
    def saturation(self) -> float:
        """Bits / log2(samples kept): 1 at the ceiling that their number sets."""
        ceiling = math.log2(max(self.information.n_kept, 1))
        return max(self.information.bits, 0.0) / ceiling if ceiling else 1.0

    @property
    def upper_bound(self) -> float:
        """Bits that the information does not exceed: the lesser of the two entropies."""
        return min(self.in_bits, self.out_bits)

    def needed(self, n_samples: int) -> tuple[float, float]:
        """Return the least and the likely number of samples, drawn and not only kept, to cover it.

        Parameters
        ----------
        n_samples : int
            Samples drawn so far.
        """
        found = self.information
        if self.coverage == 1.0:
            return float(n_samples), float(n_samples)
        drawn = n_samples / max(found.n_kept, 1)
        least = least_samples(found.n_kept, found.singletons)
        likely = likely_samples(found.n_kept, found.singletons, found.n_states[2])
        return least * drawn, likely * drawn


class UnitCounts:
    """Histograms of the units of a vector, over the samples that it kept.

    Parameters
    ----------
    n_bins : ndarray of int64, shape (n_units,)
        Bins of each unit.

    Examples
    --------
    >>> counts = UnitCounts(np.array([2, 4]))
    >>> counts.entropy_bound()
    3.0
    >>> counts.add(np.zeros((2, 10**6), np.uint8), np.ones(10**6, bool))
    >>> counts.entropy_bound() < 1e-5
    True
    """

    def __init__(self, n_bins: NDArray[np.int64]) -> None:
        """Begin with nothing counted."""
        self._n_bins = n_bins
        self._starts = np.cumsum(n_bins) - n_bins
        total = int(n_bins.sum())
        self._counts = np.zeros(total if total <= MAX_CELLS else 0, np.int64)
        self._lock = threading.Lock()

    def add(self, codes: NDArray[Any], kept: NDArray[np.bool_]) -> None:
        """Count the codes of some samples; from any thread.

        Parameters
        ----------
        codes : ndarray of unsigned int, shape (n_units, n_samples)
            Their codes.
        kept : ndarray of bool, shape (n_samples,)
            Which of them the vector kept.
        """
        if self._counts.size:
            counts = np.zeros_like(self._counts)
            _count_codes(codes, kept, self._starts, counts)
            with self._lock:
                self._counts += counts

    def entropy_bound(self) -> float:
        r"""Return a bound of the entropy of the whole vector, in bits.

        Returns
        -------
        float
            :math:`\sum_u \min(\log_2 K_u,\; \hat H_u + \log_2(1 + (K_u - 1) / N) + 3 \sigma_u)`.

        Notes
        -----
        A vector's entropy is at most the sum of its units'. The plug-in estimate of a unit's is
        too low by no more than the second term ([1]_, proposition 1), and scatters by
        :math:`\sigma_u = \sqrt{\mathrm{Var}[\log_2 p] / N}`; the units share their samples, so
        in the worst case their errors add up. With more than a million bins in all,
        :math:`\log_2 K_u` stands for each.

        References
        ----------
        .. [1] Paninski, "Estimation of entropy and mutual information", Neural Computation 15(6),
           2003.
        """
        most = np.log2(self._n_bins)
        n = int(self._counts[: self._n_bins[0]].sum())
        if n == 0:
            return float(most.sum())
        share = self._counts / n
        logs = np.log2(share, where=share > 0, out=np.zeros_like(share))
        entropy = -np.add.reduceat(share * logs, self._starts)
        second = np.add.reduceat(share * logs**2, self._starts)
        error = np.sqrt(np.maximum(second - entropy**2, 0.0) / n)
        raised = entropy + np.log2(1 + (self._n_bins - 1) / n) + ERRORS * error
        return float(np.minimum(raised, most).sum())
