"""Operators that onnxruntime's optimizer fused -> the layer and the activation that they were.

onnxruntime fuses them again when it runs them: nothing is computed in another way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FUSED", "op_type_of", "unfuse"]

_DOMAIN = "com.microsoft"
#: The key under which a node keeps the name of the operator that it was part of.
FUSED = "onnx_ei.fused"
# Which attributes of a fused node are those of its activation, in the activation's own words.
_PARAMETERS = {
    "LeakyRelu": ("alpha",), "Elu": ("alpha",), "HardSigmoid": ("alpha", "beta"),
    "Clip": ("min", "max"), "ThresholdedRelu": ("alpha",), "Selu": ("alpha", "gamma"),
}  # fmt: skip


def op_type_of(node: ir.Node) -> str:
    """Return a node's operator as the file has it."""
    return str(node.metadata_props.get(FUSED, node.op_type))


def unfuse(model: ir.Model) -> None:
    """Take fused operators apart where they hold a layer's activation or its bias.

    Parameters
    ----------
    model : onnx_ir.Model
        Changed in place.
    """
    for graph in model.graphs():
        for node in list(graph):
            if node.domain == _DOMAIN and node.op_type in _APART:
                _APART[node.op_type](_Chain(node, model.graph.opset_imports.get("", 1)))


class _Chain:
    """The nodes that take the place of one, each reading the one before."""

    def __init__(self, node: ir.Node, opset: int) -> None:
        self.node = node
        self.opset = opset
        self._made: list[ir.Node] = []

    @property
    def end(self) -> ir.Value:
        return self._made[-1].outputs[0]

    def input(self, index: int) -> ir.Value | None:
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def add(self, op: str, inputs: list[ir.Value | None], domain: str = "", **given: Any) -> None:
        import onnx_ir as ir_module

        attributes = [ir_module.convenience.convert_attribute(k, v) for k, v in given.items()]
        made = ir_module.Node(domain, op, inputs, attributes)
        part = f"{self.node.name}/part{len(self._made)}"
        made.name = str(self.node.name) if not self._made else part
        made.outputs[0].name = f"{self.node.outputs[0].name}/part{len(self._made)}"
        made.metadata_props.update(self.node.metadata_props)
        made.metadata_props[FUSED] = self.node.op_type
        self._made.append(made)

    def activation(self, name: str, numbers: list[float]) -> None:
        words: dict[str, Any] = dict(zip(_PARAMETERS.get(name, ()), numbers, strict=False))
        if name == "Clip" and self.opset >= 11:
            ends = [_constant(f"{self.node.name}/{word}", words.get(word)) for word in words]
            self.add("Clip", [self.end, *ends])
        else:
            self.add(name, [self.end], **words)

    def kept(self, *dropped: str) -> dict[str, Any]:
        """Return the node's attributes, without those of what it was fused with."""
        return {
            name: attribute.value
            for name, attribute in self.node.attributes.items()
            if name not in dropped
        }

    def close(self) -> None:
        """Put the chain in the node's place."""
        import onnx_ir as ir_module

        graph, old = self.node.graph, self.node.outputs[0]
        if graph is None:
            return
        self.end.type, self.end.shape = old.type, old.shape
        for made in self._made:
            for value in made.inputs:
                if value is not None and value.const_value is not None and value.graph is None:
                    graph.register_initializer(value)
        graph.insert_after(self.node, self._made)
        ir_module.convenience.replace_all_uses_with(old, self.end, replace_graph_outputs=True)
        graph.remove(self.node, safe=True)
        old.name, self.end.name = None, old.name


def _constant(name: str, number: float | None) -> ir.Value | None:
    import onnx_ir as ir_module

    if number is None:
        return None
    tensor = ir_module.tensor(np.array(number, np.float32), name=name)
    return ir_module.Value(
        name=name, shape=ir_module.Shape([]), type=ir_module.TensorType(tensor.dtype),
        const_value=tensor,
    )  # fmt: skip


def _convolution(chain: _Chain) -> None:
    inputs = [chain.input(i) for i in range(min(3, len(chain.node.inputs)))]
    name = chain.node.attributes.get("activation")
    numbers = chain.node.attributes.get("activation_params")
    chain.add("Conv", inputs, **chain.kept("activation", "activation_params"))
    if chain.input(3) is not None:  # a tensor of its output's shape: a skip connection
        chain.add("Add", [chain.end, chain.input(3)])
    if name is not None and name.as_string():
        chain.activation(name.as_string(), [] if numbers is None else list(numbers.as_floats()))
    chain.close()


def _gemm(chain: _Chain) -> None:
    words = ("activation_alpha", "activation_beta", "activation_gamma")
    name = chain.node.attributes.get("activation")
    chain.add("Gemm", list(chain.node.inputs), **chain.kept("activation", *words))
    if name is not None and name.as_string():
        found = {w: a.as_float() for w in words if (a := chain.node.attributes.get(w)) is not None}
        wanted = {"Clip": words[:2], "Selu": (words[0], words[2])}.get(name.as_string(), words)
        chain.activation(name.as_string(), [found[w] for w in wanted if w in found])
    chain.close()


def _biased(op: str) -> Callable[[_Chain], None]:
    def apart(chain: _Chain) -> None:
        if chain.input(1) is None:
            return
        chain.add("Add", [chain.input(0), chain.input(1)])
        chain.add(op, [chain.end], domain=_DOMAIN)
        chain.close()

    return apart


def _gemm_gelu(chain: _Chain) -> None:
    chain.add("MatMul", [chain.input(0), chain.input(1)])
    if chain.input(2) is not None:
        chain.add("Add", [chain.end, chain.input(2)])
    chain.add("FastGelu", [chain.end], domain=_DOMAIN)
    chain.close()


_APART: dict[str, Callable[[_Chain], None]] = {
    "FusedConv": _convolution,
    "FusedGemm": _gemm,
    "BiasGelu": _biased("Gelu"),
    "FastGelu": _biased("FastGelu"),
    "GemmFastGelu": _gemm_gelu,
}
