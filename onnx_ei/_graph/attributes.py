"""What a node says of itself in whole numbers: its attributes, or the constants that replaced them.

Opsets moved many settings from attributes to inputs; here both are read in one way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["constant_axis", "integer", "integers", "numbers", "opset_of", "text"]


def integer(node: ir.Node, name: str, default: int) -> int:
    """Return an attribute that is a whole number."""
    found = node.attributes.get(name)
    return default if found is None else int(found.as_int())


def integers(node: ir.Node, name: str, default: Sequence[int]) -> list[int]:
    """Return an attribute that is a list of whole numbers."""
    found = node.attributes.get(name)
    return list(default) if found is None else [int(v) for v in found.as_ints()]


def text(node: ir.Node, name: str, default: str) -> str:
    """Return an attribute that is a word."""
    found = node.attributes.get(name)
    return default if found is None else found.as_string()


def numbers(node: ir.Node, name: str, index: int) -> list[int] | None:
    """Return whole numbers that are an attribute or a constant input.

    Returns
    -------
    list of int or None
        Empty where neither is given, None where they are computed.
    """
    if name in node.attributes:
        return integers(node, name, [])
    value = node.inputs[index] if len(node.inputs) > index else None
    if value is None:
        return []
    constant = value.const_value
    return None if constant is None else [int(v) for v in constant.numpy().reshape(-1)]


def constant_axis(node: ir.Node, index: int, rank: int) -> int | None:
    """Return the axis that a constant input names, or None where it is computed."""
    found = numbers(node, "axis", index)
    return None if not found or not -rank <= found[0] < rank else found[0] % rank


def opset_of(node: ir.Node) -> int:
    """Return the version of ONNX's operators that a node was written for."""
    return 0 if node.graph is None else node.graph.opset_imports.get("", 0)
