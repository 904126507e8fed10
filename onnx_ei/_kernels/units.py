"""Histograms of single units."""

from __future__ import annotations

import numpy as np

from onnx_ei._kernels._jit import Array, kernel


@kernel()
def _count_codes(codes: Array, kept: Array, starts: Array, counts: Array) -> None:
    """Add the codes of the samples that were kept to their units' histograms.

    ``codes`` unsigned (units, n); ``kept`` bool (n,); ``starts`` int64 (units,): where each unit's
    histogram begins; ``counts`` int64, all histograms one after another, added to. A code of a
    sample that is kept lies in its unit's bins: an overflow clears ``kept``.
    """
    for u in range(codes.shape[0]):
        start = np.uint64(starts[u])
        for s in range(codes.shape[1]):
            if kept[s]:
                counts[start + np.uint64(codes[u, s])] += 1
