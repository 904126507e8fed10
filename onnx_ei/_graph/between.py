"""Two layers -> what lies between them, with a value for everything else that it takes in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onnx_ei._graph.background import Background, background_values
from onnx_ei._graph.cut import Cut, nodes_between
from onnx_ei._graph.listing import Listing
from onnx_ei._graph.recurrent import cell_activation, cell_cut, states_of
from onnx_ei._graph.sizes import known_sizes

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from onnx_ei.activations import Override
    from onnx_ei.loading import Model
    from onnx_ei.topology import Layer

__all__ = ["cut_between"]


@contextmanager
def cut_between(
    model: Model, start: Layer, end: Layer, override: Override | None, background: Background
) -> Iterator[Cut]:
    """Give what lies between two layers; of a recurrent layer, one step.

    Parameters
    ----------
    model : Model
        Where it is cut out of.
    start, end : Layer
        The ends.
    override : Override or None
        What takes the place of the last activation.
    background : {"reference", "zeros"}, mapping or None
        What the other tensors are.

    Yields
    ------
    Cut

    Raises
    ------
    UnboundedSpanError
        If there are others and it is not said what they are.
    UnsupportedModelError
        If there is control flow between the two.
    """
    ends, opsets = (start.label, end.label), dict(model.ir.opset_imports)
    activation = None if override is None else override.activation
    listing = _listing(model)
    if end.op.kind == "recurrent":
        states = [v for v in states_of(end.node) if not listing.is_fixed(v)]
        sizes, _ = _sizes(model, listing, states, None)
        others = [v for v in states if str(v.name) not in sizes]
        values = sizes | background_values(model, ends, others, background)
        if override is None and end.after is not None:
            activation = cell_activation(end.after.name)
        with cell_cut(end.node, opsets, values, activation) as cut:
            yield cut
        return
    target = end.leaving if override is None else end.raw
    nodes, sides = nodes_between(start.entering, target, listing)
    sizes, notes = _sizes(model, listing, sides, background)
    left = [v for v in sides if str(v.name) not in sizes]
    given = background if isinstance(background, Mapping) else {}
    others = [v for v in left if not listing.is_size(v) or v.name in given]
    yield Cut(
        source=start.entering,
        target=target,
        nodes=nodes,
        sides=sizes | background_values(model, ends, others, background),
        opsets=opsets,
        activation=activation,
        batch=_batch_size(model.ir),
        notes=notes,
        open_sizes=frozenset(str(v.name) for v in left if v not in others),
    )


def _sizes(
    model: Model, listing: Listing, sides: Sequence[ir.Value], background: Background
) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """Return what follows from the shapes of tensors outside, and which of it the example says.

    Fixed shapes say it for every input. Those that depend on data, such as the number of elements
    that a NonZero found, are those of the example.
    """
    given = background if isinstance(background, Mapping) else {}
    asked = [v for v in sides if listing.is_size(v) and v.name not in given]
    known = known_sizes(listing, asked, dict(model.ir.opset_imports))
    left = [str(v.name) for v in asked if str(v.name) not in known]
    if left and model.example is not None:
        known |= model.tensors(left)
    where = "made-up input" if model.example is None else "the example"
    held = [str(v.name) for v in asked if v.name in known and listing.is_counted(v)]
    return known, tuple(
        f"{name!r}, a size that depends on data, is held at {known[name].tolist()}, its value on "
        f"{where}"
        for name in held
    )


def _listing(model: Model) -> Listing:
    found = model.cache.get("listing")
    if not isinstance(found, Listing):
        found = model.cache["listing"] = Listing(model.ir.graph)
    return found


def _batch_size(model: ir.Model) -> int:
    """Return the batch that the model's first input has: 1 unless the file fixes another."""
    first = model.graph.inputs[0].shape if model.graph.inputs else None
    size = first[0] if first is not None and len(first) > 0 else 1
    return size if isinstance(size, int) else 1
