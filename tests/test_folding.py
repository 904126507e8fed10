"""Plain chains of layers pass by the folder: it would find nothing in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from graphs import make, node, noise, scalar

from onnx_ei._graph import folding
from onnx_ei._graph.folding import _PLAIN, fold, may_fold
from onnx_ei.loading import load_model

ZOO = Path(__file__).parent / "zoo"

SQUARE, ROW, IMAGE = (4, 4), (4,), (3, 3, 2, 2)
WEIGHTED: dict[str, dict[str, tuple[int, ...]]] = {
    **{name: {"w": SQUARE} for name in ("Add", "Div", "MatMul", "Mul", "PRelu", "Sub")},
    "BatchNormalization": {"a": ROW, "b": ROW, "c": ROW, "d": ROW},
    "Gemm": {"w": SQUARE, "b": ROW},
    "LayerNormalization": {"a": ROW},
    "Conv": {"w": IMAGE},
    "ConvTranspose": {"w": IMAGE},
}
POOLS = {"AveragePool", "MaxPool"}
OF_IMAGES = POOLS | {"Conv", "ConvTranspose", "GlobalAveragePool", "GlobalMaxPool"}


def chain(op: str) -> onnx.ModelProto:
    """One operator behind another, with its weights."""
    weights: dict[str, Any] = {n: noise(*dims) for n, dims in WEIGHTED.get(op, {}).items()}
    if op == "Clip":
        weights = {"low": scalar(0.0), "high": scalar(6.0)}
    image = op in OF_IMAGES
    extra = {"kernel_shape": [2, 2]} if op in POOLS else {}
    return make(
        [node("Sigmoid", "x", "s"), node(op, " ".join(["s", *weights]), "y", **extra)],
        {"x": ("n", 3, 5, 5) if image else ("n", 4)}, ["y"], weights,
        opset=20, ir_version=9, ranks={"y": 4 if image else 2},
    )  # fmt: skip


def bare(model: onnx.ModelProto) -> ir.Model:
    """A model whose weights are initializers, as the folder meets it."""
    onnx.checker.check_model(model, full_check=True)
    return ir.from_proto(model)


def folded(model: onnx.ModelProto) -> bytes:
    loaded = bare(model)
    fold(loaded)
    return ir.to_proto(loaded).SerializeToString(deterministic=True)


@pytest.mark.parametrize("op", sorted(_PLAIN))
def test_the_folder_leaves_a_plain_operator_alone(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = chain(op)
    assert not may_fold(bare(model))
    assert not folding._fold_once(bare(model))
    passed_by = folded(model)
    monkeypatch.setattr(folding, "may_fold", lambda model: True)
    assert folded(model) == passed_by


@pytest.mark.parametrize("name", ["mlp_torch", "mlp_jax", "mlp_keras"])
def test_a_plain_model_is_the_same_without_the_folder(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded() -> bytes:
        model = load_model(ZOO / f"{name}.onnx").ir
        return ir.to_proto(model).SerializeToString(deterministic=True)

    def refuse(model: ir.Model) -> bool:
        raise AssertionError("the folder was called")

    with monkeypatch.context() as patch:
        patch.setattr(folding, "_fold_once", refuse)
        passed_by = loaded()
    monkeypatch.setattr(folding, "may_fold", lambda model: True)
    assert loaded() == passed_by


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Relu", "w", "r"), node("MatMul", "x r", "y")],
        [node("Identity", "x", "i"), node("MatMul", "i w", "y")],
        [node("MatMul", "x w", "m"), node("Cast", "m", "y", to=1)],
    ],
    ids=["constant", "identity", "cast"],
)
def test_what_the_folder_has_rules_for_is_folded(nodes: list[onnx.NodeProto]) -> None:
    model = make(nodes, {"x": (1, 4)}, {"y": (1, 4)}, {"w": noise(4, 4)})
    assert may_fold(bare(model))
    loaded = bare(model)
    fold(loaded)
    assert [n.op_type for n in loaded.graph] == ["MatMul"]


def test_a_foreign_operator_of_a_plain_name_may_fold() -> None:
    model = make(
        [node("Relu", "x", "y", domain="somebody")], {"x": (1, 4)}, {"y": (1, 4)},
        domains={"somebody": 1},
    )  # fmt: skip
    assert may_fold(ir.from_proto(model))
