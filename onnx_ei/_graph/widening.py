"""Models in bfloat16, of which onnxruntime has few kernels: the same in float32.

Weights keep the values that bfloat16 gave them; what is computed from them is no longer rounded to
it after each operator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["is_narrow", "widen", "widened"]


def is_narrow(model: ir.Model) -> bool:
    """Say whether there is bfloat16 in a model."""
    import onnx_ir as ir_module

    kind = ir_module.DataType.BFLOAT16
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    values += [v for node in model.graph for v in node.outputs]
    return any(v.dtype == kind or _dtype(v) == kind for v in values)


def _dtype(value: ir.Value) -> ir.DataType | None:
    return None if value.const_value is None else value.const_value.dtype


def widened(model: ir.Model) -> ir.Model | None:
    """Return a copy of a model in float32, or None where there is no bfloat16 in it."""
    if not is_narrow(model):
        return None
    copy = model.clone()
    widen(copy)
    return copy


def widen(model: ir.Model) -> None:
    """Make float32 of bfloat16 in a model: tensors, types, and what operators cast to.

    Parameters
    ----------
    model : onnx_ir.Model
        Changed in place.
    """
    import onnx_ir as ir_module

    narrow, wide = ir_module.DataType.BFLOAT16, ir_module.DataType.FLOAT
    for graph in model.graphs():
        values = [*graph.inputs, *graph.initializers.values()]
        for node in graph:
            values += node.outputs
            for name, attribute in list(node.attributes.items()):
                node.attributes[name] = _wide_attribute(attribute)
        for value in values:
            if value.dtype == narrow:
                value.type = ir_module.TensorType(wide)
            if value.const_value is not None and value.const_value.dtype == narrow:
                value.const_value = _wide_tensor(value.const_value)


def _wide_tensor(tensor: Any) -> Any:
    import onnx_ir as ir_module

    return ir_module.tensor(tensor.numpy().astype(np.float32), name=tensor.name)


def _wide_attribute(attribute: ir.Attr) -> ir.Attr:
    import onnx_ir as ir_module

    narrow, wide = ir_module.DataType.BFLOAT16, ir_module.DataType.FLOAT
    casting = attribute.name in ("to", "dtype", "output_dtype", "stash_type")
    if attribute.type == ir_module.AttributeType.INT and casting and attribute.value == narrow:
        return ir_module.AttrInt64(attribute.name, int(wide))
    if attribute.type == ir_module.AttributeType.TENSOR and attribute.value.dtype == narrow:
        return ir_module.AttrTensor(attribute.name, _wide_tensor(attribute.value))
    return attribute
