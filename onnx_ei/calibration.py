"""Ranges from data: what a calibration recorded of each layer, kept, written, and put in place.

A :class:`Calibration` is made by :func:`onnx_ei.calibrate`, which runs data through the model. It
lies in the topology from then on, and ``in_range="calibrated"`` or ``out_range="calibrated"`` of
any measure takes a layer's range from it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from onnx_ei.activations import resolve_activation
from onnx_ei.errors import UnknownLayerError, closest
from onnx_ei.topology import Key, Layer, layer_of, model_of

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["CALIBRATED", "STATISTICS", "Calibration", "Extent", "calibration_of", "resolve_ranges"]

CALIBRATED = "calibrated"
STATISTICS = ("minmax", "percentiles")
FORMAT = "onnx_ei calibration 1"

NARROW = 1e-5
"""Ends closer than this share of themselves are one value: 64 bins between them would be little
more than a float32's step (1.2e-7) each, and would count rounding."""

_PLACE = "calibration"

Range: TypeAlias = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Extent:
    """What the values at one end of a layer were on the data, all units together.

    Attributes
    ----------
    tensor : str
        The tensor's name in the graph.
    low, high : float
        Its least and greatest value, exact.
    percentiles : (float, float)
        Its values at the calibration's percentiles, to 0.1 % of themselves.
    bounds : (float, float) or None
        The exact bounds of the activation there, which are its range whatever the data say.
    """

    tensor: str
    low: float
    high: float
    percentiles: Range
    bounds: Range | None = None

    def __post_init__(self) -> None:
        """Check the order of the numbers."""
        numbers = (self.low, *self.percentiles, self.high)
        if not all(map(math.isfinite, numbers)) or list(numbers) != sorted(numbers):
            raise ValueError(
                f"tensor {self.tensor!r}: low, the two percentiles and high must be finite and "
                f"rise in this order, got {numbers}"
            )

    @property
    def constant(self) -> bool:
        """Whether all values were one: a dead layer, or data that do not vary."""
        return not _wide(self.low, self.high)

    def range(self, statistic: str) -> Range:
        r"""Return the bin range.

        Parameters
        ----------
        statistic : {"minmax", "percentiles"}
            Which of the numbers.

        Notes
        -----
        ``bounds`` where there are any. Percentiles that coincide (a ReLU that is nearly always 0)
        give way to the least and the greatest value. Where these coincide too, at c, the range is
        c ± max(\|c\|, 1) / 2.
        """
        if self.bounds is not None:
            return self.bounds
        low, high = self.percentiles if statistic == "percentiles" else (self.low, self.high)
        if not _wide(low, high):
            low, high = self.low, self.high
        if not _wide(low, high):
            middle = low / 2 + high / 2
            reach = max(abs(middle), 1.0) / 2
            low, high = middle - reach, middle + reach
        return low, high


def _wide(low: float, high: float) -> bool:
    return high - low > NARROW * max(abs(low), abs(high))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The ranges of a model's layers on data.

    Attributes
    ----------
    model : str
        What was calibrated.
    n_samples : int
        Samples that ran.
    statistic : {"minmax", "percentiles"}
        What the ranges are: ends that no sample passed, or the percentiles.
    percentiles : (float, float)
        Which ones were recorded.
    extents : dict of str to (Extent, Extent)
        Of what enters and what leaves each layer, by the layer's name.

    Examples
    --------
    See :func:`onnx_ei.calibrate`.
    """

    model: str
    n_samples: int
    statistic: str
    percentiles: tuple[float, float]
    extents: Mapping[str, tuple[Extent, Extent]]

    def __post_init__(self) -> None:
        """Check the words and the numbers."""
        check_choice(self.statistic, self.percentiles)

    @property
    def ranges(self) -> dict[str, tuple[Range, Range]]:
        """Bin ranges of each layer's input and output, by the layer's name."""
        return {
            layer: (entering.range(self.statistic), leaving.range(self.statistic))
            for layer, (entering, leaving) in self.extents.items()
        }

    def use(self, topology: nx.DiGraph[Any]) -> None:
        """Put the calibration into a topology, for ``"calibrated"`` to find.

        Parameters
        ----------
        topology : networkx.DiGraph
            Of the same model.

        Raises
        ------
        ValueError
            If its layers, or the tensors at their ends, are others.
        """
        layers = {layer.label: layer for layer in topology.graph["layers"].values()}
        for label, extents in self.extents.items():
            layer = layers.get(label)
            tensors = () if layer is None else (layer.entering.name, layer.leaving.name)
            if tensors != tuple(extent.tensor for extent in extents):
                raise ValueError(
                    f"the calibration is of another model ({self.model}): layer {label!r} is not "
                    f"the same in {model_of(topology).label}; calibrate this one"
                )
        topology.graph[_PLACE] = self

    def table(self) -> str:
        """Return the ranges as text: a line for each end of a layer."""
        low, high = self.percentiles
        heads = ("layer", "end", "min", f"{low:g} %", f"{high:g} %", "max", "range")
        lines: list[tuple[str, ...]] = [heads]
        for label, ends in self.extents.items():
            for name, extent in zip(("input", "output"), ends, strict=True):
                numbers = (extent.low, *extent.percentiles, extent.high)
                left, right = extent.range(self.statistic)
                shown = (f"{number:.5g}" for number in numbers)
                lines.append((label, name, *shown, f"{left:.5g}, {right:.5g}"))
        widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the calibration in JSON's types."""
        return {
            "format": FORMAT,
            "model": self.model,
            "n_samples": self.n_samples,
            "statistic": self.statistic,
            "percentiles": list(self.percentiles),
            "layers": {
                label: {
                    name: asdict(extent) | {"range": list(extent.range(self.statistic))}
                    for name, extent in zip(("input", "output"), ends, strict=True)
                }
                for label, ends in self.extents.items()
            },
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the calibration as a JSON file, whole or not at all.

        Parameters
        ----------
        path : path
            A file of that name is replaced.
        """
        target = Path(path)
        part = target.with_name(f"{target.name}.{os.getpid()}.part")
        try:
            text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
            part.write_text(text + "\n", encoding="utf-8")
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path : path
            The file.

        Returns
        -------
        Calibration

        Raises
        ------
        FileNotFoundError
            If there is none.
        ValueError
            If it is no calibration, or damaged.
        """
        try:
            given = json.loads(Path(path).read_text(encoding="utf-8"))
            if given["format"] != FORMAT:
                raise ValueError(f"its format is {given['format']!r}, not {FORMAT!r}")
            return cls(
                model=str(given["model"]),
                n_samples=int(given["n_samples"]),
                statistic=given["statistic"],
                percentiles=_pair(given["percentiles"]),
                extents={
                    label: (_extent(ends["input"]), _extent(ends["output"]))
                    for label, ends in given["layers"].items()
                },
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{os.fspath(path)} is not a calibration that Calibration.save wrote: "
                f"{type(error).__name__}: {error}"
            ) from error


def _pair(given: Any) -> Range:
    low, high = (float(number) for number in given)
    return low, high


def _extent(given: Mapping[str, Any]) -> Extent:
    return Extent(
        tensor=str(given["tensor"]),
        low=float(given["low"]),
        high=float(given["high"]),
        percentiles=_pair(given["percentiles"]),
        bounds=None if given["bounds"] is None else _pair(given["bounds"]),
    )


def check_choice(statistic: str, percentiles: Range) -> None:
    """Refuse a statistic that is unknown, or percentiles that are none."""
    if statistic not in STATISTICS:
        raise ValueError(f"unknown statistic {statistic!r}: {closest(str(statistic), STATISTICS)}")
    try:
        low, high = (float(number) for number in percentiles)
    except (TypeError, ValueError):
        low, high = 0.0, 0.0
    if not 0 <= low < high <= 100:
        raise ValueError(
            f"percentiles must be a pair with 0 <= lower < upper <= 100, got {percentiles!r}"
        )


def calibration_of(topology: nx.DiGraph[Any]) -> Calibration | None:
    """Return the calibration that lies in a topology, or None."""
    model_of(topology)
    found: Calibration | None = topology.graph.get(_PLACE)
    return found


def resolve_ranges(
    topology: nx.DiGraph[Any],
    layer: Key,
    in_layer: Key | None,
    in_range: Range | str | None,
    out_range: Range | str | None,
    activation: object = None,
) -> tuple[Any, Any]:
    """Put numbers in the place of ``"calibrated"``.

    Parameters
    ----------
    topology : networkx.DiGraph
        Where the calibration lies.
    layer, in_layer : hashable
        The span's ends; it begins at ``layer`` where ``in_layer`` is None.
    in_range, out_range : (float, float), str or None
        What the caller said; anything but ``"calibrated"`` comes back as it is.
    activation : object
        What the caller put in the place of the layer's own activation.

    Returns
    -------
    in_range, out_range
        That of what enters ``in_layer``, and that of what leaves ``layer``.

    Raises
    ------
    ValueError
        If nothing has been calibrated, the layer was not recorded, or its output is that of another
        activation.
    UnknownLayerError
        If a layer is not in the topology.
    """
    if isinstance(in_range, str) and in_range == CALIBRATED:
        first = layer_of(topology, layer if in_layer is None else in_layer)
        in_range = _found(topology, first, "in_range")[0]
    if isinstance(out_range, str) and out_range == CALIBRATED:
        last = layer_of(topology, layer)
        _check_own(last, activation)
        out_range = _found(topology, last, "out_range")[1]
    return in_range, out_range


def _found(topology: nx.DiGraph[Any], layer: Layer, argument: str) -> tuple[Range, Range]:
    calibration = calibration_of(topology)
    if calibration is None:
        raise ValueError(
            f"{argument}='calibrated' needs a calibration of the topology: call "
            "calibrate(topology, batches) first, or Calibration.load(path).use(topology)"
        )
    extents = calibration.extents.get(layer.label)
    if extents is None:
        raise UnknownLayerError(
            f"{argument}='calibrated': the calibration has no layer {layer.label!r}; "
            f"{closest(layer.label, calibration.extents)}; give the range as two numbers"
        )
    entering, leaving = extents
    return entering.range(calibration.statistic), leaving.range(calibration.statistic)


def _check_own(layer: Layer, activation: object) -> None:
    """Refuse the range of another activation's output."""
    if activation is None:
        return
    given = resolve_activation(activation).activation
    own = layer.after
    same = given is not None and (
        given.name == "Identity"
        if own is None
        else (given.name, given.range) == (own.name, own.range)
    )
    if not same:
        raise ValueError(
            f"out_range='calibrated' is the range of layer {layer.label!r} with its own "
            f"activation ({'none' if own is None else own.name}), which activation= replaces; "
            "give out_range as two numbers, or 'dynamic'"
        )
