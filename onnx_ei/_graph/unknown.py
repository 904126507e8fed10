"""Operators that nobody here knows: said by name and domain, with what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from onnx_ei._graph.operators import KNOWN_DOMAINS

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnx_ei.loading import Model

__all__ = ["shown", "trouble", "unknown_nodes", "unsettled"]


def unknown_nodes(nodes: Iterable[ir.Node]) -> list[ir.Node]:
    """Return the nodes whose domain is neither ONNX's nor one of onnxruntime's."""
    return [node for node in nodes if node.domain not in KNOWN_DOMAINS]


def shown(nodes: Iterable[ir.Node]) -> str:
    """Write unknown operators for a message, with the remedy."""
    named = dict.fromkeys(f"{n.op_type} of domain {n.domain!r} (node {n.name!r})" for n in nodes)
    return (
        f"operator {', '.join(named)} is of neither ONNX nor onnxruntime, and its custom-op "
        "library is not loaded; export the model with standard operators, or as far as this node"
    )


def trouble(model: ir.Model, error: Exception) -> str:
    """Say why a whole model does not run, and what follows for its layers.

    Parameters
    ----------
    model : onnx_ir.Model
        The model.
    error : Exception
        What onnxruntime said.
    """
    nodes = unknown_nodes(model.graph)
    missing = re.search(r"(\S+?):(\S+?)\(-?\d+\) is not a registered function/op", str(error))
    if nodes:
        cause = shown(nodes)
    elif missing is not None:
        cause = (
            f"operator {missing.group(2)} of domain {missing.group(1)!r} is not one of the "
            "installed onnxruntime's; upgrade it, or export the model with standard operators"
        )
    else:
        cause = f"the whole model does not run ({error})"
    return f"{cause}; layers behind it whose shapes only a run could tell are not measured"


def unsettled(model: Model) -> str | None:
    """Say what a caller can do where nothing of a model could be measured, or None.

    Parameters
    ----------
    model : Model
        A loaded model.
    """
    if model.trouble is not None:
        return model.trouble
    for name, dims in model.open_inputs.items():
        sizes = ", ".join("?" if d is None else str(d) for d in dims) or "of any rank"
        return (
            f"input {name!r} is open ({sizes}), and no example settles it: pass one (input= of "
            f"topology_of) or its shape (--input-shape {name}=... on the command line)"
        )
    return None
