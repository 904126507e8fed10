"""What a layer is called: by its module, its weight, its node or its output."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnx_ei._graph.operators import LayerOp

__all__ = ["layer_names", "weight_name"]


def layer_names(
    found: list[tuple[ir.Node, LayerOp]],
    varies: Callable[[ir.Value | None], bool],
    origins: dict[str, str],
) -> list[str]:
    """Give each layer a unique name, the same for every reading of a model.

    Parameters
    ----------
    found : list of (onnx_ir.Node, LayerOp)
        The layers, in graph order.
    varies : callable
        Whether a value depends on the model's input.
    origins : dict of str to str
        Tensors computed from weights alone, to the weight that each is made of.

    Returns
    -------
    list of str
        The module path where the exporter left one, else the weight's or the node's name, else the
        output's; equal ones are told apart by ``#2``, ``#3``.
    """
    weights = [weight_name(node, op, varies, origins) for node, op in found]
    uses = Counter(weights)
    names = []
    for (node, _), weight in zip(found, weights, strict=True):
        unshared = weight if uses[weight] == 1 else None
        names.append(_module_path(node, unshared) or _plain_name(node, unshared))
    # a name that a file gives twice makes way for one that it gives once
    taken = {name for name, count in Counter(names).items() if count == 1}
    keys: dict[str, None] = {}
    for name in names:
        key, count = name, 1
        while key in keys or (key in taken and key != name):
            count += 1
            key = f"{name}#{count}"
        keys[key] = None
    return list(keys)


def weight_name(
    node: ir.Node,
    op: LayerOp,
    varies: Callable[[ir.Value | None], bool],
    origins: dict[str, str],
) -> str | None:
    """Return the name of the initializer behind a layer's weight input.

    Parameters
    ----------
    node, op, varies, origins
        As for :func:`layer_names`.

    Returns
    -------
    str or None
        None where there is no weight.
    """
    value = None if op.weight is None else node.inputs[op.weight]
    if value is None or value.name is None or varies(value):
        return None
    name = origins.get(value.name, value.name if value.const_value is not None else None)
    return None if name is None else _QUANTISED_ENDINGS.sub("", name) or name


_WEIGHT_SUFFIXES = (".weight", ".kernel", ".weight_orig")
# What quantisers put behind the name of a weight; onnxruntime's transposes a Gemm's first.
_QUANTISED_ENDINGS = re.compile(
    r"(_Transposed)?(_quantized|_quant|_DequantizeLinear(_Output)?|(_DQ)?_Q\d+(G\d+)?|_int8|_uint8)$"
)
_MODULE_PATH = re.compile(r"^[A-Za-z_0-9]+(\.[A-Za-z_0-9]+)*$")


def _module_path(node: ir.Node, weight: str | None) -> str | None:
    """Return the module path that an exporter left, by its weight, its scope or its name."""
    for suffix in _WEIGHT_SUFFIXES:
        if weight is not None and weight.endswith(suffix) and _MODULE_PATH.match(weight):
            return weight.removesuffix(suffix)
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
    if scopes:
        # the last scope is the operator's own, the one before it the module's
        parts = [str(s) for s in re.findall(r"'([^']*)'", scopes)][:-1]
        if parts and parts[-1] and _MODULE_PATH.match(parts[-1]):
            return parts[-1]
    name = node.name or ""
    if name.startswith("/") and name.count("/") >= 2:
        return ".".join(name.strip("/").split("/")[:-1])
    return None


# Names that exporters count up for tensors of their own: they say nothing, and shift between runs.
_COUNTED = re.compile(r"^(val_?\d*|onnx::.*|\d+|const.*_\d+|.*__\d+)$", re.IGNORECASE)


# What TensorFlow and its converters put behind the name of a layer.
_TENSORFLOW_ENDINGS = re.compile(
    r"(:0|/ReadVariableOp(/resource)?|/kernel|/convolution(/ExpandDims_1)?|/MatMul|/Conv2D|/BiasAdd)$"
)


def _plain_name(node: ir.Node, weight: str | None) -> str:
    for candidate in (weight, node.name, node.outputs[0].name):
        if candidate and not _COUNTED.match(candidate):
            return _readable(candidate)
    return str(weight or node.name or node.outputs[0].name)


def _readable(name: str) -> str:
    """Cut TensorFlow's endings off: ``dense/MatMul/ReadVariableOp:0`` is layer ``dense``."""
    short = name.split(";")[0]  # TensorFlow Lite joins the names of what it fused
    while (cut := _TENSORFLOW_ENDINGS.sub("", short)) not in ("", short):
        short = cut
    return short or name
