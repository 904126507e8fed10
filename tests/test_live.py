"""Weights that change outside: what is noticed, what is copied, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from conftest import require_peer

from onnx_ei._graph.live import LiveWeights, Reading, drop_neutral, unfolded
from onnx_ei.errors import ModelError

torch: Any = require_peer("torch")
nn: Any = torch.nn

from onnx_ei.exporters._live import Trace, trace  # noqa: E402


def initializer(name: str, array: Any) -> Any:
    tensor = ir.tensor(array, name=name)
    return ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )


class Owner:
    """Arrays by name, and a model that holds copies of them."""

    def __init__(self, **arrays: Any) -> None:
        self.arrays = arrays
        self.read_names: list[str] = []
        values = [initializer(name, array.copy()) for name, array in arrays.items()]
        self.model = ir.Model(ir.Graph([], [], nodes=[], initializers=values), ir_version=10)
        self.live = LiveWeights(self.model, list(arrays), self.read)
        self.read_names.clear()

    def read(self, name: str) -> Reading:
        self.read_names.append(name)
        array = self.arrays[name]
        return Reading(array.reshape(-1).view(np.uint8), array.shape, str(array.dtype))

    def copy(self, name: str) -> Any:
        tensor = self.live.tensor(name)
        return None if tensor is None else tensor.numpy()


class TestLiveWeights:
    def test_versions_grow_with_each_change_and_only_then(self) -> None:
        owner = Owner(w=np.ones((2, 3), np.float32), b=np.zeros(3, np.float32))
        first = owner.live.refresh()
        assert owner.live.refresh() == first
        owner.arrays["w"][0, 1] = 5
        second = owner.live.refresh()
        assert second["w"] > first["w"]
        assert second["b"] == first["b"]
        assert owner.copy("w").tolist() == [[1, 5, 1], [1, 1, 1]]
        assert owner.copy("b").tolist() == [0, 0, 0]

    def test_the_copy_is_no_view(self) -> None:
        owner = Owner(w=np.ones(2, np.float32))
        before = owner.copy("w")
        owner.arrays["w"][:] = 7
        assert before.tolist() == [1, 1]
        owner.live.refresh()
        assert before.tolist() == [1, 1]  # a session that reads it is left alone
        assert owner.copy("w").tolist() == [7, 7]

    def test_the_initializer_of_the_model_holds_the_copy(self) -> None:
        owner = Owner(w=np.ones(2, np.float32))
        owner.arrays["w"][:] = 3
        owner.live.refresh()
        tensor = owner.model.graph.initializers["w"].const_value
        assert tensor is owner.live.tensor("w")
        assert tensor.name == "w"

    def test_only_the_weights_asked_for_are_read(self) -> None:
        owner = Owner(w=np.ones(2, np.float32), b=np.ones(2, np.float32))
        owner.arrays["w"][:] = 2
        owner.arrays["b"][:] = 2
        assert list(owner.live.refresh(["b", "a side tensor"])) == ["b"]
        assert owner.read_names == ["b"]
        assert owner.copy("w").tolist() == [1, 1]
        assert owner.live.tensor("a side tensor") is None

    @pytest.mark.parametrize(
        "other", [np.ones(3, np.float32), np.ones((2, 1), np.float32), np.ones(2, np.float64)]
    )
    def test_another_shape_or_type(self, other: Any) -> None:
        owner = Owner(w=np.ones(2, np.float32))
        mine, owner.arrays["w"] = owner.arrays["w"], other
        with pytest.raises(ModelError, match=r"'w' was float32 .* call topology_of again"):
            owner.live.refresh()
        owner.arrays["w"] = mine
        owner.live.refresh()

    @pytest.mark.parametrize(
        ("before", "after"),
        [(0.0, -0.0), (1.0, np.nextafter(np.float32(1), np.float32(2))), (1.0, np.nan)],
    )
    def test_the_smallest_changes(self, before: float, after: float) -> None:
        owner = Owner(w=np.full(1, before, np.float32))
        first = owner.live.refresh()
        owner.arrays["w"][0] = after
        assert owner.live.refresh() != first

    def test_nan_that_stays_is_no_change(self) -> None:
        owner = Owner(w=np.full(2, np.nan, np.float32))
        assert owner.live.refresh() == owner.live.refresh()

    @pytest.mark.parametrize("dtype", ["float16", "float64", "int64", "bool", "uint8"])
    def test_types(self, dtype: str) -> None:
        owner = Owner(w=np.zeros((2, 2), dtype), scalar=np.zeros((), dtype))
        owner.arrays["w"][1, 0] = 1
        owner.arrays["scalar"][()] = 1
        owner.live.refresh()
        assert owner.copy("w").dtype == dtype
        assert owner.copy("w").tolist() == [[0, 0], [1, 0]]
        assert owner.copy("scalar").shape == ()
        assert owner.copy("scalar") == 1


def product(factor: Any, op_type: str = "Mul") -> Any:
    """A model of one product, its factor an initializer, then Relu."""
    x = ir.val("x", ir.DataType.FLOAT, [1, 3])
    node = ir.node(op_type, [x, factor])
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "p", x.type, x.shape
    relu = ir.node("Relu", [node.outputs[0]])
    relu.outputs[0].name, relu.outputs[0].type = "y", x.type
    graph = ir.Graph(
        [x], relu.outputs, nodes=[node, relu], initializers=[factor], opset_imports={"": 18}
    )
    return ir.Model(graph, ir_version=10)


class TestFolding:
    def test_hidden_weights_come_back(self) -> None:
        factor = initializer("f", np.ones((), np.float32))
        model = product(factor)
        tensor = factor.const_value
        with unfolded(model, ["f"]):
            assert factor.const_value is None
            assert list(model.graph.initializers) == []
            assert factor in model.graph.inputs
        assert model.graph.initializers["f"] is factor
        assert factor.const_value is tensor
        assert factor not in model.graph.inputs

    def test_hidden_weights_come_back_after_an_error(self) -> None:
        model = product(initializer("f", np.ones((), np.float32)))
        with pytest.raises(ZeroDivisionError), unfolded(model, ["f"]):
            raise ZeroDivisionError
        assert list(model.graph.initializers) == ["f"]

    @pytest.mark.parametrize("op_type", ["Mul", "Div"])
    def test_a_factor_of_one_goes(self, op_type: str) -> None:
        model = product(initializer("f", np.ones((), np.float32)), op_type)
        drop_neutral(model)
        assert [node.op_type for node in model.graph] == ["Relu"]

    @pytest.mark.parametrize("factor", [np.float32(2), np.ones(3, np.float32)])
    def test_other_factors_stay(self, factor: Any) -> None:
        model = product(initializer("f", np.asarray(factor)))
        drop_neutral(model)
        assert len(list(model.graph)) == 2

    def test_a_weight_that_is_one_today_stays(self) -> None:
        model = product(initializer("f", np.ones((), np.float32)))
        with unfolded(model, ["f"]):
            drop_neutral(model)
        assert len(list(model.graph)) == 2


class Net(nn.Module):  # type: ignore[misc,name-defined]
    """A tied weight, a module of two names, a buffer, an odd shape of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.b = nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.c = nn.Linear(3, 3)
        self.d = self.c
        self.norm = nn.BatchNorm1d(3)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.act = nn.Tanh()

    def forward(self, x: Any) -> Any:
        y = self.norm(self.b(self.act(self.a(x))))
        return self.d(self.act(self.c(y))) * self.scale


@pytest.fixture(scope="module")
def traced() -> Trace:
    torch.manual_seed(0)
    return trace(Net(), torch.zeros(1, 3))


def value(traced: Trace, name: str) -> Any:
    reading = traced.read(name)
    return reading.data.view(np.float32).reshape(reading.shape)


class TestTrace:
    def test_the_weights_are_those_that_the_graph_uses(self, traced: Trace) -> None:
        assert "scale" in traced.weights
        assert "norm.running_mean" in traced.weights
        assert set(traced.weights) <= set(traced.program.graph.initializers)
        assert set(traced.weights) <= set(traced.module.state_dict())
        assert traced.example["x"].shape == (1, 3)

    def test_reading(self, traced: Trace) -> None:
        net = traced.module
        for name in traced.weights:
            np.testing.assert_array_equal(value(traced, name), net.state_dict()[name].numpy())
        assert traced.read("scale").shape == ()

    def test_memory_in_another_order(self, traced: Trace) -> None:
        net = traced.module
        kept = net.c.weight.data
        try:
            net.c.weight.data = torch.arange(9.0).reshape(3, 3).t()
            assert value(traced, "c.weight").tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
        finally:
            net.c.weight.data = kept

    def test_bfloat16_has_bytes(self) -> None:
        module = nn.Linear(2, 2).to(torch.bfloat16)
        reading = trace(module, torch.zeros(1, 2, dtype=torch.bfloat16)).read("weight")
        assert reading.data.size == 8
        assert reading.dtype == "torch.bfloat16"

    def test_a_weight_that_is_gone(self, traced: Trace) -> None:
        net = traced.module
        kept = net.a.bias
        try:
            net.a.bias = None
            with pytest.raises(ModelError, match=r"'a.bias' is gone from Net; call topology_of"):
                traced.read("a.bias")
            del net.a.bias
            with pytest.raises(ModelError, match=r"'a.bias' is gone from Net; call topology_of"):
                traced.read("a.bias")
        finally:
            net.a.bias = kept

    def test_a_module_that_was_replaced(self, traced: Trace) -> None:
        net = traced.module
        kept = net.norm
        try:
            net.norm = nn.BatchNorm1d(3)
            with pytest.raises(ModelError, match="Net has another module at 'norm'"):
                traced.read("norm.weight")
            traced.read("a.bias")
        finally:
            net.norm = kept

    def test_a_tied_weight_that_is_tied_no_longer(self, traced: Trace) -> None:
        net = traced.module
        name = "a.weight" if "a.weight" in traced.weights else "b.weight"
        kept = net.b.weight
        try:
            net.b.weight = nn.Parameter(kept.detach().clone())
            traced.read(name)  # two of one value: what was traced still holds
            with torch.no_grad():
                net.b.weight.add_(1)
            with pytest.raises(ModelError, match=r"were one .* two now; call topology_of again"):
                traced.read(name)
        finally:
            net.b.weight = kept
        with torch.no_grad():
            kept.add_(1)
        np.testing.assert_array_equal(value(traced, name), kept.detach().numpy())

    def test_a_module_of_two_names(self, traced: Trace) -> None:
        net = traced.module
        name = "c.weight" if "c.weight" in traced.weights else "d.weight"
        kept, net.c = net.c, nn.Linear(3, 3)
        try:
            with pytest.raises(ModelError, match=r"another module at 'c'"):
                traced.read(name)
        finally:
            net.c = kept
        traced.read(name)

    def test_the_mode_of_each_module_is_put_back(self) -> None:
        net = Net()
        net.train()
        net.norm.eval()
        modes = [m.training for m in net.modules()]
        mean = net.norm.running_mean.clone()
        trace(net, torch.ones(1, 3))
        assert [m.training for m in net.modules()] == modes
        assert torch.equal(net.norm.running_mean, mean)
