"""Constants folded and shapes inferred, in turns, until neither finds more."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from onnx_ei.importing import collector_paused

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["fold", "is_sequence", "may_fold"]

# What the folder may evaluate and keep: enough for shape arithmetic and small tables, too little
# for a weight matrix to be computed twice.
FOLD_INPUT_LIMIT = 1 << 14
FOLD_OUTPUT_LIMIT = 1 << 18
# Folded, they would hide from onnxruntime that a layer's weight is of integers, and it would take
# the kernel for real numbers, which rounds in another place.
_UNFOLDED = frozenset({"DequantizeLinear", "QuantizeLinear"})
# The folder leaves these alone while one of their inputs is open: it has rules for shapes, casts,
# gathers and control flow.
_PLAIN = frozenset(
    {
        "Add", "AveragePool", "BatchNormalization", "Clip", "Conv", "ConvTranspose", "Div", "Elu",
        "Exp", "Flatten", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid",
        "HardSwish", "LayerNormalization", "LeakyRelu", "LogSoftmax", "MatMul", "MaxPool", "Mul",
        "PRelu", "Relu", "Selu", "Sigmoid", "Softmax", "Softplus", "Sub", "Tanh", "Transpose",
    }
)  # fmt: skip


def fold(model: ir.Model) -> None:
    """Fold constants and infer shapes.

    Parameters
    ----------
    model : onnx_ir.Model
        Changed in place.
    """
    from onnx_ir.passes import common

    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    infer = common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)
    for _ in range(4):  # a fold can settle a shape that lets another fold; real files need 2
        infer(model)
        _forget_sequences(model)
        # importing the folder takes as long as reading a small model and listing its layers
        if not may_fold(model) or not _fold_once(model):
            break
    common.RemoveUnusedNodesPass()(model)
    infer(model)
    _forget_sequences(model)


def may_fold(model: ir.Model) -> bool:
    """Say whether the folder could find anything: not in a plain chain of layers."""
    return any(
        node.op_type not in _PLAIN
        or node.domain != ""
        or all(value is None or value.const_value is not None for value in node.inputs)
        for node in model.graph
    )


def _fold_once(model: ir.Model) -> bool:
    """Fold what can be folded now, and say whether anything was."""
    with collector_paused():
        from onnxscript.optimizer import fold_constants

    folded = fold_constants(
        model,
        input_size_limit=FOLD_INPUT_LIMIT,
        output_size_limit=FOLD_OUTPUT_LIMIT,
        should_fold=lambda node: False if node.op_type in _UNFOLDED else None,
    )
    return bool(folded.modified)


# What these put out is no tensor: it has no shape, and the inference pass takes its element type
# for the type of a tensor.
_SEQUENCES = frozenset(
    {
        "Optional", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert",
        "SequenceMap", "SplitToSequence", "ZipMap",
    }
)  # fmt: skip


def _forget_sequences(model: ir.Model) -> None:
    for graph in model.graphs():
        for node in graph:
            for value in node.outputs:
                if is_sequence(value) and not value.is_graph_output():
                    value.shape = value.type = None


def is_sequence(value: ir.Value) -> bool:
    """Say whether a value is a sequence, an optional or a map: no tensor."""
    node = value.producer()
    if node is None or node.op_type in _SEQUENCES:
        return node is not None
    branch = node.attributes.get("then_branch") or node.attributes.get("body")
    if branch is None:
        return False
    # a loop's body puts out its condition first
    place = node.outputs.index(value) + (node.op_type == "Loop")
    outputs = branch.as_graph().outputs
    return place < len(outputs) and is_sequence(outputs[place])
