"""One operator's rule against the operator itself: run whole, and run on the part that it asks for.

What :func:`onnx_ei._graph.receptive.demand` says is done by hand here, without the planner and the
writer: inputs are cut to their windows, attributes and constants are put in their places, and
onnxruntime runs what comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime as ort
import pytest
from brute import inside, part, random
from graphs import node
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from onnx_ei._graph.receptive import Demand, demand
from onnx_ei._graph.windows import Window

Array = Any


class Case:
    """A node with its inputs; those named in ``weights`` are constants of the model."""

    def __init__(
        self,
        made: onnx.NodeProto,
        inputs: Mapping[str, Array],
        weights: Mapping[str, Array] | None = None,
        opset: int = 18,
    ) -> None:
        self.node, self.opset = made, opset
        self.inputs = {k: np.asarray(v) for k, v in inputs.items()}
        self.weights = {k: np.asarray(v) for k, v in (weights or {}).items()}

    def proto(self) -> onnx.ModelProto:
        shapes = [
            helper.make_tensor_value_info(
                k, helper.np_dtype_to_tensor_dtype(v.dtype), list(v.shape)
            )
            for k, v in self.inputs.items()
        ]
        outputs = [helper.make_empty_tensor_value_info(n) for n in self.node.output if n]
        constants = [
            numpy_helper.from_array(np.array(v, order="C"), k) for k, v in self.weights.items()
        ]
        graph = helper.make_graph([self.node], "one", shapes, outputs, constants)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def run(self) -> list[Array]:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        session = ort.InferenceSession(
            self.proto().SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return list(session.run(None, self.inputs))

    def ir_node(self, results: Sequence[Array]) -> onnx_ir.Node:
        made = onnx_ir.from_proto(self.proto()).graph[0]
        for value, array in zip([v for v in made.outputs if v.name], results, strict=True):
            value.shape = onnx_ir.Shape(array.shape)
        return made


def cut(case: Case, need: Demand) -> Case:
    """Do what a demand says."""
    made = onnx.NodeProto()
    made.CopyFrom(case.node)
    kept = [a for a in made.attribute if a.name not in (*need.drop, *need.attributes)]
    kept += [helper.make_attribute(k, v) for k, v in need.attributes.items()]
    del made.attribute[:], made.input[:]
    made.attribute.extend(kept)
    inputs, weights = {}, {}
    for index, name in enumerate(case.node.input):
        if not need.needs(index):
            continue
        if index in need.constants:
            given_ = need.constants[index]
            made.input.append("" if given_ is None else f"constant{index}")
            if given_ is not None:
                whole_numbers = not isinstance(given_, np.ndarray)
                weights[f"constant{index}"] = np.array(given_, np.int64 if whole_numbers else None)
            continue
        made.input.append(name)
        window = need.inputs[index]
        for source, target in ((case.inputs, inputs), (case.weights, weights)):
            if name in source:
                array = source[name]
                if window is not None:
                    assert inside(window, array.shape), (name, window, array.shape)
                target[name] = array if window is None else array[part(window)]
    if need.only is not None:
        made = helper.make_node("Identity", made.input, [case.node.output[need.only]])
    return Case(made, inputs, weights, case.opset)


def check(case: Case, window: Window | dict[int, Window], *, narrow: bool = False) -> Demand | None:
    """Hold a rule against the operator; None where it asks for the whole."""
    windows = window if isinstance(window, dict) else {0: window}
    results = case.run()
    need = demand(case.ir_node(results), windows, narrow=narrow)
    if need is None:
        return None
    local = cut(case, need)
    got = local.run()
    for index, wanted in windows.items():
        made = need.made.get(index, wanted)
        array = got[0 if need.only is not None else index]
        inner = tuple(
            slice(None) if w is None else slice(w[0] - (0 if m is None else m[0]),
                                                w[1] - (0 if m is None else m[0]))
            for w, m in zip(wanted, made, strict=True)
        )  # fmt: skip
        want = results[index][part(wanted)]
        assert array[inner].shape == want.shape
        if want.dtype.kind == "f":
            np.testing.assert_allclose(array[inner], want, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(array[inner], want)
    return need


def entering(need: Demand | None, index: int = 0) -> Window | None:
    assert need is not None
    return need.inputs[index]


IMAGE = random(1, 4, 8, 9, seed=5)
TOKENS = random(1, 9, 6, seed=6)
MAP = random(1, 4, 7, seed=7)


# --- pieces ----------------------------------------------------------------------------------


def halves(axis: int, *, sizes: bool = True, opset: int = 18) -> Case:
    total = TOKENS.shape[axis]
    cut_at = [total // 3, total - total // 3]
    if opset < 13:
        return Case(node("Split", "x", "a b", axis=axis, split=cut_at), {"x": TOKENS}, opset=opset)
    made = node("Split", "x sizes", "a b", axis=axis)
    return Case(made, {"x": TOKENS}, {"sizes": np.array(cut_at)}, opset)


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_split_along_units_keeps_the_window_of_positions(opset: int) -> None:
    case = halves(2, opset=opset)
    window = (None, (3, 5), None)
    assert entering(check(case, {0: window, 1: window})) == window
    need = check(case, {0: (None, (3, 5), None), 1: (None, (4, 8), None)})
    assert entering(need) == (None, (3, 8), None)
    assert entering(check(case, {1: window})) == window


@pytest.mark.parametrize("opset", [11, 18])
def test_split_along_positions_is_one_part_of_the_input(opset: int) -> None:
    case = halves(1, opset=opset)
    assert entering(check(case, {1: (None, (2, 4), None)})) == (None, (5, 7), None)
    assert entering(check(case, {0: (None, (2, 3), None)})) == (None, (2, 3), None)
    # two parts are no single window, and what lies past the end of a part is not of this part
    assert check(case, {0: (None, (2, 3), None), 1: (None, (2, 3), None)}) is None
    assert check(case, {0: (None, (2, 5), None)}) is None


def test_split_narrows_where_one_part_is_wanted_whole() -> None:
    need = check(halves(1), {1: (None, None, None)}, narrow=True)
    assert entering(need) == (None, (3, 9), None)
    whole = check(halves(1), {1: (None, None, None)})
    assert entering(whole) == (None, None, None)


def pieces(axis: int = 1) -> Case:
    made = node("Concat", "a b c", "y", axis=axis)
    return Case(made, {k: random(1, n, 6, seed=n) for k, n in (("a", 3), ("b", 4), ("c", 2))})


@pytest.mark.parametrize(
    ("window", "keep"), [((1, 3), (0,)), ((3, 5), (1,)), ((2, 8), (0, 1, 2)), ((6, 8), (1, 2))]
)
def test_concat_along_the_window_takes_the_pieces_it_touches(
    window: tuple[int, int], keep: tuple[int, ...]
) -> None:
    need = check(pieces(), (None, window, None))
    assert need is not None
    assert need.keep == keep


def test_concat_across_the_window_cuts_every_piece() -> None:
    made = node("Concat", "a b", "y", axis=2)
    case = Case(made, {"a": random(1, 5, 2), "b": random(1, 5, 3)})
    window = (None, (1, 4), None)
    need = check(case, window)
    assert need is not None
    assert need.inputs == (window, window)
    assert check(pieces(), (None, (7, 10), None)) is None  # past the end of the last piece


# --- picks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("indices", "axis", "window", "want"),
    [
        # the axis that is picked along is not cut: only the run of it that is picked from
        (np.array([4, 1, 2]), 1, (None, None, (2, 5)), (None, (1, 5), (2, 5))),
        # it is cut: those of the indices that are wanted
        (np.array([8, 0, 3, 4, -1]), 1, (None, (2, 4), None), (None, (3, 5), None)),
        (np.array([8, 0, 3, 4, -1]), 1, (None, (3, 5), None), (None, (4, 9), None)),
        # a number: the axis goes, and one position of it is left
        (np.array(-2), 1, (None, (0, 3)), (None, (7, 8), (0, 3))),
        (np.array(5), 2, (None, (3, 5)), (None, (3, 5), (5, 6))),
        (np.array([[0, 2], [5, 3]]), 1, (None, (1, 2), None, None), (None, (3, 6), None)),
    ],
)
def test_gather(indices: Array, axis: int, window: Window, want: Window) -> None:
    case = Case(node("Gather", "x i", "y", axis=axis), {"x": TOKENS}, {"i": indices})
    assert entering(check(case, window)) == want


def test_gather_narrows_where_all_is_wanted() -> None:
    made = node("Gather", "x i", "y", axis=1)
    last = Case(made, {"x": TOKENS}, {"i": np.array(-1)})
    assert entering(check(last, (None, None), narrow=True)) == (None, (8, 9), None)
    assert entering(check(last, (None, None))) == (None, None, None)


def test_gather_from_a_table_follows_the_indices() -> None:
    case = Case(node("Gather", "t i", "y"), {"i": np.array([[3, 0, 4, 1]])}, {"t": random(5, 6)})
    need = check(case, (None, (1, 3), None))
    assert need is not None
    assert need.inputs == (None, (None, (1, 3)))


def test_gather_by_indices_that_are_computed_takes_the_whole_axis() -> None:
    case = Case(node("Gather", "x i", "y", axis=1), {"x": TOKENS, "i": np.array([3, 0, 4])})
    need = check(case, (None, (1, 2), (2, 4)))
    assert need is not None
    assert need.inputs == ((None, None, (2, 4)), ((1, 2),))
    assert check(case, (None, (2, 5), None)) is None


def test_gather_elements() -> None:
    indices = np.random.default_rng(0).integers(0, 9, (1, 9, 6))
    case = Case(node("GatherElements", "x i", "y", axis=1), {"x": TOKENS}, {"i": indices})
    need = check(case, (None, (2, 4), (1, 3)))
    assert need is not None
    assert need.inputs == ((None, None, (1, 3)), (None, (2, 4), (1, 3)))
    assert check(case, (None, (7, 10), None)) is None


def sliced(starts: list[int], ends: list[int], axes: list[int], steps: list[int]) -> Case:
    named = {"s": starts, "e": ends, "a": axes, "t": steps}
    weights = {k: np.array(v) for k, v in named.items()}
    return Case(node("Slice", "x s e a t", "y"), {"x": TOKENS}, weights)


def test_slice_of_steps() -> None:
    assert entering(check(sliced([1], [9], [1], [2]), (None, (1, 3), None))) == (
        None, (3, 6), None
    )  # fmt: skip
    assert entering(check(sliced([-6], [100], [-2], [3]), (None, (1, 2), None))) == (
        None, (6, 7), None
    )  # fmt: skip
    assert check(sliced([8], [0], [1], [-1]), (None, (1, 3), None)) is None


def test_slice_narrows_where_all_is_wanted() -> None:
    case = sliced([2, 1], [7, 100], [1, 2], [2, 1])
    assert entering(check(case, (None, None, None), narrow=True)) == (None, (2, 7), (1, 6))
    everything = sliced([0], [100], [1], [1])
    assert entering(check(everything, (None, None, None), narrow=True)) == (None, None, None)


# --- repetitions -----------------------------------------------------------------------------


def test_expand() -> None:
    made = node("Expand", "x s", "y")
    rows = Case(made, {"x": random(1, 1, 6)}, {"s": np.array([1, 9, 6])})
    assert entering(check(rows, (None, (3, 5), (1, 4)))) == (None, None, (1, 4))
    short = Case(made, {"x": random(4, 1)}, {"s": np.array([2, 1, 5])})
    assert entering(check(short, ((0, 1), (2, 3), (1, 4)))) == ((2, 3), None)


def test_tile() -> None:
    case = Case(node("Tile", "x r", "y"), {"x": TOKENS}, {"r": np.array([1, 1, 3])})
    assert entering(check(case, (None, (3, 5), None))) == (None, (3, 5), None)
    assert check(case, (None, None, (3, 5))) is None


# --- blocks and scales -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_asks_for_whole_blocks(mode: str) -> None:
    made = node("DepthToSpace", "x", "y", blocksize=2, mode=mode)
    case = Case(made, {"x": IMAGE})
    need = check(case, (None, None, (5, 6), (6, 9)))
    assert need is not None
    assert need.inputs == ((None, None, (2, 3), (3, 5)),)
    assert need.made == {0: (None, None, (4, 6), (6, 10))}
    assert check(case, (None, (0, 1), (5, 6), None)) is None


def test_space_to_depth() -> None:
    case = Case(node("SpaceToDepth", "x", "y", blocksize=2), {"x": random(1, 3, 8, 10)})
    window = (None, None, (1, 2), (2, 4))
    assert entering(check(case, window)) == (None, None, (2, 4), (4, 8))
    assert check(case, (None, (0, 1), (1, 2), None)) is None


RESIZES: dict[str, dict[str, Any]] = {
    "nearest": {"mode": "nearest"},
    "nearest, asymmetric, floor": {
        "mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric",
    },
    "nearest, asymmetric, ceil": {
        "mode": "nearest", "nearest_mode": "ceil", "coordinate_transformation_mode": "asymmetric",
    },
    "nearest, rounded up": {
        "mode": "nearest", "nearest_mode": "round_prefer_ceil",
        "coordinate_transformation_mode": "asymmetric",
    },
    "linear": {"mode": "linear"},
    "linear, asymmetric": {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
    "linear, pytorch": {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
}  # fmt: skip


def resize(scales: Sequence[float], opset: int = 18, **attributes: Any) -> Case:
    weights = {"s": np.array(scales, np.float32)}
    return Case(node("Resize", "x _ s", "y", **attributes), {"x": IMAGE}, weights, opset)


@pytest.mark.parametrize("factor", [2, 3, 4, 0.5, 0.25])
@pytest.mark.parametrize("mode", RESIZES)
def test_every_position_of_a_resized_map(mode: str, factor: float) -> None:
    """All of them, those at the border too: no window may be beside the truth."""
    case = resize([1, 1, factor, 1], **RESIZES[mode])
    length = int(IMAGE.shape[2] * factor)
    for low in range(length):
        for high in {low + 1, min(low + 3, length)} - {low}:
            need = check(case, (None, None, (low, high), None))
            assert need is not None
    # and a window of it is a part, not all of it
    middle = check(case, (None, None, (length // 2, length // 2 + 1), None))
    assert entering(middle) != (None, None, (0, IMAGE.shape[2]), None)


def test_resize_to_sizes_keeps_the_scale() -> None:
    made = node("Resize", "x _ _ n", "y", mode="linear")
    case = Case(made, {"x": IMAGE}, {"n": np.array([1, 4, 16, 27])})
    need = check(case, (None, None, (5, 6), (12, 14)))
    assert need is not None
    assert need.constants[3] is None
    np.testing.assert_array_equal(need.constants[2], [1, 1, 2, 3])


def test_resize_of_named_axes() -> None:
    made = node("Resize", "x _ s", "y", mode="nearest", axes=[2, 3])
    case = Case(made, {"x": IMAGE}, {"s": np.array([2, 3], np.float32)})
    assert entering(check(case, (None, None, (5, 6), (12, 14)))) == (None, None, (2, 3), (4, 5))


@pytest.mark.parametrize(
    ("factor", "attributes"),
    [
        (1.5, {"mode": "linear"}),  # positions fall on other fractions in a part
        (1 / 3, {"mode": "nearest"}),  # 1/3 is no float
        (2, {"mode": "cubic"}),
        (2, {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
        (0.5, {"mode": "linear", "antialias": 1}),
        (0.125, {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}),
    ],
)
def test_what_a_part_would_not_resize_alike_is_whole(
    factor: float, attributes: dict[str, Any]
) -> None:
    case = resize([1, 1, factor, 1], **attributes)
    assert check(case, (None, None, (1, 2), None)) is None
    # along the axes that it leaves alone it is local even so, the scale being 1
    assert check(resize([1, 1, 1, 1], mode="linear"), (None, None, (1, 2), (3, 5))) is not None


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample(mode: str) -> None:
    made = node("Upsample", "x s", "y", mode=mode)
    case = Case(made, {"x": IMAGE}, {"s": np.array([1, 1, 2, 2], np.float32)}, opset=9)
    for low in range(16):
        need = check(case, (None, None, (low, low + 1), (3, 4)))
        assert need is not None
    old = node("Upsample", "x", "y", mode=mode, scales=[1.0, 1.0, 2.0, 2.0])
    assert check(Case(old, {"x": IMAGE}, opset=7), (None, None, (5, 6), (3, 4))) is not None


# --- sums ------------------------------------------------------------------------------------


def test_instance_and_group_norms_take_whole_maps() -> None:
    scale, shift = random(4), random(4, seed=1)
    made = node("InstanceNormalization", "x g b", "y")
    case = Case(made, {"x": MAP}, {"g": scale, "b": shift})
    assert check(case, (None, None, (2, 3))) is None
    made = node("GroupNormalization", "x g b", "y", num_groups=2)
    assert check(Case(made, {"x": MAP}, {"g": scale, "b": shift}, 21), (None, None, (2, 3))) is None


def test_local_response_norm_takes_whole_channels() -> None:
    case = Case(node("LRN", "x", "y", size=3), {"x": IMAGE})
    window = (None, None, (2, 4), (1, 2))
    assert entering(check(case, window)) == window
    assert check(case, (None, (1, 2), None, None)) is None


@pytest.mark.parametrize("op", ["CumSum", "LpNormalization", "Hardmax", "Softmax", "LogSoftmax"])
def test_what_runs_along_one_axis(op: str) -> None:
    weights = {"a": np.array(-1)} if op == "CumSum" else {}
    made = node(op, "x a" if weights else "x", "y", **({} if weights else {"axis": -1}))
    case = Case(made, {"x": TOKENS}, weights)
    window = (None, (2, 4), None)
    assert entering(check(case, window)) == window
    assert check(case, (None, None, (2, 4))) is None


@pytest.mark.parametrize("op", ["ReduceSumSquare", "ReduceLogSumExp", "ArgMax", "ArgMin"])
def test_reductions_along_units(op: str) -> None:
    arg = op.startswith("Arg")
    made = node(op, "x" if arg else "x a", "y", **({"axis": 2} if arg else {}))
    case = Case(made, {"x": TOKENS}, {} if arg else {"a": np.array([2])})
    assert entering(check(case, (None, (2, 4), None))) == (None, (2, 4), None)


EINSUMS = [
    ("btd,de->bte", [(1, 9, 6), (6, 4)], (None, (2, 4), None)),
    ("btd,de", [(1, 9, 6), (6, 4)], (None, None, (2, 4))),  # the result is "bet"
    ("bqd,bkd->bqk", [(1, 5, 6), (1, 7, 6)], (None, (2, 4), (3, 6))),
    ("bhqk,bhkd->bqhd", [(1, 2, 5, 7), (1, 2, 7, 3)], (None, (2, 4), None, None)),
    ("bcxy->byx", [(1, 4, 8, 9)], (None, (2, 4), (1, 2))),
]


@pytest.mark.parametrize(("equation", "shapes", "window"), EINSUMS)
def test_einsum(equation: str, shapes: list[tuple[int, ...]], window: Window) -> None:
    names = ["a", "b"][: len(shapes)]
    inputs = {k: random(*s, seed=9) for k, s in zip(names, shapes, strict=True)}
    case = Case(node("Einsum", " ".join(names), "y", equation=equation), inputs)
    need = check(case, window)
    assert need is not None
    assert any(w is not None for part_ in need.inputs for w in part_ or ())


def test_einsum_with_an_ellipsis_or_a_diagonal_is_whole() -> None:
    ellipsis_ = Case(node("Einsum", "a", "y", equation="...ij->...ji"), {"a": TOKENS})
    assert check(ellipsis_, (None, (2, 4), None)) is None
    diagonal = Case(node("Einsum", "a", "y", equation="bii->bi"), {"a": random(1, 5, 5)})
    assert check(diagonal, (None, (2, 4))) is None


# --- fused and quantised ---------------------------------------------------------------------


def fused(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    return node(op, inputs, outputs, domain="com.microsoft", **attributes)


def numbers(*shape: int, seed: int = 0, kind: Any = np.uint8) -> Array:
    low, high = (0, 255) if kind == np.uint8 else (-120, 120)
    return np.random.default_rng([seed, *shape]).integers(low, high, shape).astype(kind)


SCALES = {"s": np.float32(0.05), "z": np.uint8(120)}
WIDE = {"t": np.float32(0.6), "u": np.uint8(110)}
Q_TOKENS, Q_IMAGE = numbers(1, 9, 6), numbers(1, 4, 8, 9)
ROWS: Window = (None, (3, 5), None)
PATCH: Window = (None, None, (2, 4), (3, 4))

FUSED: dict[str, tuple[Callable[[], Case], Window, Window | None]] = {
    "FastGelu": (
        lambda: Case(fused("FastGelu", "x b"), {"x": TOKENS}, {"b": random(6)}), ROWS, ROWS),
    "BiasGelu": (
        lambda: Case(fused("BiasGelu", "x b"), {"x": TOKENS}, {"b": random(6)}), ROWS, ROWS),
    "QuickGelu": (lambda: Case(fused("QuickGelu", "x"), {"x": TOKENS}), ROWS, ROWS),
    "FusedConv": (
        lambda: Case(fused("FusedConv", "x w b", activation="Relu", pads=[1, 1, 1, 1]),
                     {"x": IMAGE}, {"w": random(2, 4, 3, 3), "b": random(2)}),
        PATCH, (None, None, (1, 5), (2, 5))),
    "FusedGemm": (
        lambda: Case(fused("FusedGemm", "x w b", activation="Relu"), {"x": random(7, 6)},
                     {"w": random(6, 3), "b": random(3)}),
        ((2, 4), None), ((2, 4), None)),
    "FusedMatMul": (
        lambda: Case(fused("FusedMatMul", "x w", alpha=0.5), {"x": TOKENS}, {"w": random(6, 3)}),
        ROWS, ROWS),
    "QLinearConv": (
        lambda: Case(node("QLinearConv", "x s z w s v t u", "y", strides=[2, 1]), {"x": Q_IMAGE},
                     SCALES | WIDE | {"w": numbers(2, 4, 3, 3, kind=np.int8), "v": np.int8(3)}),
        (None, None, (1, 2), (3, 4)), (None, None, (2, 5), (3, 6))),
    "ConvInteger": (
        lambda: Case(node("ConvInteger", "x w z", "y", pads=[1, 1, 1, 1]), {"x": Q_IMAGE},
                     {"w": numbers(2, 4, 3, 3), "z": np.uint8(120)}),
        PATCH, (None, None, (1, 5), (2, 5))),
    "QLinearMatMul": (
        lambda: Case(node("QLinearMatMul", "x s z w s z t u", "y"), {"x": Q_TOKENS},
                     SCALES | WIDE | {"w": numbers(6, 3)}),
        ROWS, ROWS),
    "MatMulInteger": (
        lambda: Case(node("MatMulInteger", "x w z", "y"), {"x": Q_TOKENS},
                     {"w": numbers(6, 3), "z": np.uint8(120)}),
        ROWS, ROWS),
    "MatMulIntegerToFloat": (
        lambda: Case(fused("MatMulIntegerToFloat", "x w s r z z2 b"), {"x": Q_TOKENS},
                     SCALES | {"w": numbers(6, 3), "r": np.float32(0.1), "z2": np.uint8(130),
                               "b": random(3)}),
        ROWS, ROWS),
    "QGemm": (
        lambda: Case(fused("QGemm", "x s z w s z b t u"), {"x": numbers(7, 6)},
                     SCALES | WIDE | {"w": numbers(6, 3), "b": np.array([5, 6, 7], np.int32)}),
        ((2, 4), None), ((2, 4), None)),
    "QLinearAdd": (
        lambda: Case(fused("QLinearAdd", "x s z b s z t u"),
                     {"x": Q_TOKENS, "b": numbers(1, 9, 6, seed=3)}, SCALES | WIDE),
        ROWS, ROWS),
    "QLinearMul": (
        lambda: Case(fused("QLinearMul", "x s z b s z t u"),
                     {"x": Q_TOKENS, "b": numbers(1, 1, 6, seed=3)}, SCALES | WIDE),
        ROWS, ROWS),
    "QLinearSigmoid": (
        lambda: Case(fused("QLinearSigmoid", "x s z t u"), {"x": Q_TOKENS}, SCALES | WIDE),
        ROWS, ROWS),
    "QLinearLeakyRelu": (
        lambda: Case(fused("QLinearLeakyRelu", "x s z t u", alpha=0.1), {"x": Q_TOKENS},
                     SCALES | WIDE),
        ROWS, ROWS),
    "QLinearConcat": (
        lambda: Case(fused("QLinearConcat", "t u x s z b s z", axis=2),
                     {"x": Q_TOKENS, "b": numbers(1, 9, 2)}, SCALES | WIDE),
        ROWS, None),
    "QLinearAveragePool": (
        lambda: Case(fused("QLinearAveragePool", "x s z s z", kernel_shape=[2, 2]),
                     {"x": Q_IMAGE}, SCALES),
        PATCH, (None, None, (2, 5), (3, 5))),
    "QLinearGlobalAveragePool": (
        lambda: Case(fused("QLinearGlobalAveragePool", "x s z s z"), {"x": Q_IMAGE}, SCALES),
        (None, (1, 3), None, None), (None, (1, 3), None, None)),
    "MatMulNBits": (
        lambda: Case(fused("MatMulNBits", "x w k", K=16, N=3, bits=4, block_size=16),
                     {"x": random(1, 9, 16)},
                     {"w": numbers(3, 1, 8), "k": np.abs(random(3))}),
        ROWS, ROWS),
}  # fmt: skip


@pytest.mark.parametrize("name", FUSED)
def test_fused_and_quantised(name: str) -> None:
    make, window, want = FUSED[name]
    need = check(make(), window)
    assert need is not None
    if want is None:  # pieces, among their scales
        assert [w for w in need.inputs if w is not None] == [window, window]
    else:
        assert need.inputs[0] == want


def test_a_scale_of_the_whole_tensor_is_of_the_whole_tensor() -> None:
    case = Case(node("DynamicQuantizeLinear", "x", "y s z"), {"x": TOKENS})
    assert check(case, ROWS) is None
    product = fused("DynamicQuantizeMatMul", "x w s z")
    weights = {"w": numbers(6, 3), "s": np.float32(0.1), "z": np.uint8(7)}
    assert check(Case(product, {"x": TOKENS}, weights), ROWS) is None


def test_scales_of_rows_are_not_cut() -> None:
    """A zero point for each row of the left operand: a window of rows would need part of it."""
    made = node("MatMulInteger", "x w z", "y")
    weights = {"w": numbers(6, 3), "z": np.full(9, 120, np.uint8)}
    case = Case(made, {"x": numbers(9, 6)}, weights)
    graph = onnx_ir.from_proto(case.proto()).graph
    graph[0].outputs[0].shape = onnx_ir.Shape((9, 3))
    assert demand(graph[0], ((2, 3), None)) is None


@pytest.mark.parametrize("op", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
def test_skip_layer_norm_and_the_sum_before_it(op: str) -> None:
    """The sum comes out beside the norm, and another reader may need another part of it."""
    inputs = {"x": TOKENS, "r": random(1, 9, 6, seed=8)}
    made = helper.make_node(op, ["x", "r", "g"], ["y", "", "", "sum"], domain="com.microsoft")
    case = Case(made, inputs, {"g": random(6)})
    results = case.run()
    assert len(results) == 2
    norm = onnx_ir.from_proto(case.proto()).graph[0]
    for index, array in ((0, results[0]), (3, results[1])):
        norm.outputs[index].shape = onnx_ir.Shape(array.shape)
    need = demand(norm, {0: ROWS, 3: (None, (4, 8), None)})
    assert need is not None
    assert need.inputs[:2] == ((None, (3, 8), None),) * 2
    assert need.made == {0: (None, (3, 8), None), 3: (None, (3, 8), None)}
    local = cut(case, need).run()
    for got, whole in zip(local, results, strict=True):
        np.testing.assert_allclose(got, whole[:, 3:8], rtol=1e-5, atol=1e-6)
    assert demand(norm, {0: (None, None, (1, 2))}) is None


def test_an_operator_of_an_unknown_domain_is_whole() -> None:
    made = onnx_ir.Node("com.example", "Relu", [onnx_ir.Value(name="x")], name="r")
    made.inputs[0].shape = onnx_ir.Shape((1, 9, 6))
    made.outputs[0].shape = onnx_ir.Shape((1, 9, 6))
    assert demand(made, ROWS) is None


# --- windows drawn at random -----------------------------------------------------------------

DRAWN: list[tuple[str, Callable[[], Case]]] = [
    ("resize", lambda: resize([1, 1, 0.5, 2], mode="linear")),
    ("blocks", lambda: Case(node("DepthToSpace", "x", "y", blocksize=2), {"x": IMAGE})),
    ("slice", lambda: sliced([1], [9], [1], [2])),
    ("concat", pieces),
    ("gather", lambda: Case(node("Gather", "x i", "y", axis=1), {"x": TOKENS},
                            {"i": np.array([7, 2, -1, 0, 4, 4])})),
    ("expand", lambda: Case(node("Expand", "x s", "y"), {"x": random(1, 9, 1)},
                            {"s": np.array([3, 9, 5])})),
    ("conv", lambda: Case(node("Conv", "x w", "y", strides=[2, 1], dilations=[1, 2]),
                          {"x": IMAGE}, {"w": random(2, 4, 3, 2)})),
    ("einsum", lambda: Case(node("Einsum", "a b", "y", equation="bqd,bkd->bqk"),
                            {"a": TOKENS, "b": random(1, 4, 6)})),
]  # fmt: skip


@pytest.mark.parametrize("name", [name for name, _ in DRAWN])
@settings(derandomize=True, deadline=None, max_examples=15)
@given(data=st.data())
def test_any_window(name: str, data: st.DataObject) -> None:
    """Along the axes after the batch and, of maps, the channels: any run of indices."""
    case = dict(DRAWN)[name]()
    shape = case.run()[0].shape
    window: list[tuple[int, int] | None] = []
    for axis, size in enumerate(shape):
        if axis < (2 if len(shape) == 4 else 1) or data.draw(st.booleans()):
            window.append(None)
            continue
        low = data.draw(st.integers(0, size - 1))
        window.append((low, data.draw(st.integers(low + 1, size))))
    assert check(case, tuple(window)) is not None
