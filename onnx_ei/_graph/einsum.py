"""Einsum with fixed weights: which of its letters are samples, units and positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_ei._graph.windows import dims_of

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["letters", "mixes", "roles_of_output", "spell_out"]


def letters(node: ir.Node) -> tuple[list[str], str] | None:
    """Return the letters of each operand's axes and of the result's.

    Parameters
    ----------
    node : onnx_ir.Node
        An Einsum.

    Returns
    -------
    (list of str, str) or None
        An ellipsis is spelt out in capitals that the equation has none of; None where that takes a
        rank that is not known, or the equation names an axis of an operand twice.
    """
    found = node.attributes.get("equation")
    if found is None:
        return None
    left, arrow, right = found.as_string().replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(node.inputs):
        return None
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in left + right]
    spelt, longest = [], ""
    for term, value in zip(terms, node.inputs, strict=True):
        if "..." in term:
            dims = None if value is None else dims_of(value)
            if dims is None:
                return None
            count = len(dims) - len(term.replace("...", ""))
            hidden = "".join(free)[-count:] if count else ""  # aligned at the right
            longest = max(longest, hidden, key=len)
            term = term.replace("...", hidden)
        if len(set(term)) < len(term):
            return None
        spelt.append(term)
    if arrow:
        result = right.replace("...", longest)
    else:  # in alphabetical order, what is named once
        once = [c for c in "".join(terms).replace(".", "") if "".join(terms).count(c) == 1]
        result = longest + "".join(sorted(once))
    return spelt, result


def mixes(node: ir.Node, data: int) -> bool:
    """Say whether an Einsum sums over an axis that its data and its weight share."""
    found = letters(node)
    if found is None or len(found[0]) != 2:
        return False
    (entering, weight), result = (found[0][data], found[0][1 - data]), found[1]
    return any(c in weight and c not in result for c in entering)


def roles_of_output(node: ir.Node, data: int) -> tuple[str, ...] | None:
    """Say of each axis of the result whether it counts samples, units or positions.

    The first axis of the data counts samples. What the weight names is a unit: it makes another of
    each, or weighs each in its own way. What the data alone names is a position.
    """
    found = letters(node)
    if found is None:
        return None
    (entering, weight), result = (found[0][data], found[0][1 - data]), found[1]
    return tuple(
        "unit" if c in weight else "batch" if c == entering[0] else "position" for c in result
    )


def spell_out(node: ir.Node) -> None:
    """Write an equation without its ellipsis, where the ranks are known."""
    import onnx_ir as ir_module

    found = letters(node)
    if found is not None:
        written = ",".join(found[0]) + "->" + found[1]
        node.attributes["equation"] = ir_module.AttrString("equation", written)
