"""Lanes: where the samples of a batch stand, by hand, and every rewriting against single runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import brute
import numpy as np
import onnx
import pytest
from brute import build, random
from graphs import node
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnx_ei._graph.lanes import Lane, lanes_of, part_of, placed
from onnx_ei.runtime import runner
from onnx_ei.span import span_of
from onnx_ei.topology import topology_of

Array = Any


# --- places in memory ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "lane", "after", "want"),
    [
        ((1, 24), Lane(0), (1, 4, 6), Lane(0)),
        ((1, 4, 6), Lane(0), (1, 24), Lane(0)),
        # tokens and samples into rows, and back
        ((1, 7, 5), Lane(0), (7, 5), Lane(0, 1, 7)),
        ((7, 5), Lane(0, 1, 7), (1, 7, 5), Lane(0)),
        ((7, 1, 5), Lane(1), (7, 5), Lane(0, 7, 1)),
        ((7, 5), Lane(0, 7, 1), (7, 1, 5), Lane(1)),
        # heads merged with the samples, and apart again
        ((7, 1, 12), Lane(1), (7, 4, 3), Lane(1, 1, 4)),
        ((4, 7, 3), Lane(0, 1, 4), (1, 4, 7, 3), Lane(0)),
        ((7, 1, 4, 3), Lane(1), (7, 12), Lane(0, 7, 1)),
        # two before them and two after, merged: the two after go to the next axis
        ((4, 6), Lane(0, 2, 2), (2, 12), Lane(0, 2, 1)),
        ((1, 6), Lane(0), (2, 3), Lane(0, 1, 2)),
        # not the same number of elements
        ((1, 6), Lane(0), (1, 5), None),
    ],
)
def test_placed(
    before: tuple[int, ...], lane: Lane, after: tuple[int, ...], want: Lane | None
) -> None:
    assert placed(before, lane, after, 1) == want


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    axis=st.integers(0, 3),
    cuts=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    batch=st.integers(2, 5),
)
def test_a_place_is_the_same_in_memory(
    shape: list[int], axis: int, cuts: list[int], batch: int
) -> None:
    """A reshape of many samples gives what reshapes of each give, put at the place found."""
    axis %= len(shape)
    before = [*shape[:axis], 1, *shape[axis:]]
    total, after = int(np.prod(shape)), []
    for size in cuts:
        if total % size == 0:
            after.append(size)
            total //= size
    after.append(total)
    lane = placed(before, Lane(axis), after, 1)
    assume(lane is not None)
    many = np.random.default_rng(0).normal(size=[batch, *before])
    target = [-1 if a == lane.axis else d for a, d in enumerate(after)]
    got = np.moveaxis(many.squeeze(1 + axis), 0, axis).reshape(target)
    apart = [*after[: lane.axis], lane.outer, batch, lane.inner, *after[lane.axis + 1 :]]
    place = lane.axis + 1
    samples = np.moveaxis(got.reshape(apart), place, 0)
    for sample, made in zip(many, samples, strict=True):
        np.testing.assert_array_equal(made.reshape(after), sample.reshape(after))


def test_where_samples_may_stand() -> None:
    assert lanes_of((1, 3, 8, 8), first=True) == [Lane(0)]
    assert lanes_of((1, 7, 1, 5), first=True) == [Lane(0), Lane(2)]
    assert lanes_of((7, 1, 5), first=False) == [Lane(1), Lane(0, 1, 7), Lane(0, 7, 1)]
    assert lanes_of((7, 5), first=False) == [Lane(0, 1, 7), Lane(0, 7, 1)]
    assert part_of(Lane(0, 1, 7), 1, 1) == Lane(0)
    assert part_of(Lane(0, 7, 1), 3, 1) == Lane(0, 3, 1)


# --- what was written for one sample ---------------------------------------------------------


def attention(*, time_first: bool, merged: bool = True) -> onnx.ModelProto:
    """Two heads, merged with the samples as PyTorch's exporters write them, or beside them."""
    ends = [node("MatMul", "x wx", "t0"), node("Transpose", "t0", "t", perm=[1, 0, 2])]
    ends = ends if time_first else []
    source = "t" if time_first else "x"
    heads = [6, 2, 4] if time_first else [1, 6, 2, 4]
    turn = [1, 0, 2] if time_first else [0, 2, 1, 3]
    nodes = [*ends]
    for name in "qkv":
        nodes += [
            node("MatMul", f"{source} w{name}", f"{name}1"),
            node("Reshape", f"{name}1 heads", f"{name}2"),
            node("Transpose", f"{name}2", f"{name}3", perm=turn),
        ]
        if merged and not time_first:
            nodes.append(node("Reshape", f"{name}3 both", f"{name}4"))
        else:
            nodes.append(node("Identity", f"{name}3", f"{name}4"))
    last = [0, 2, 1] if (merged or time_first) else [0, 1, 3, 2]
    nodes += [
        node("Transpose", "k4", "kt", perm=last),
        node("MatMul", "q4 kt", "s"),
        node("Softmax", "s", "a", axis=-1),
        node("MatMul", "a v4", "c"),
    ]
    if merged and not time_first:
        nodes.append(node("Reshape", "c apart", "c2"))
    else:
        nodes.append(node("Identity", "c", "c2"))
    back = [1, 0, 2] if time_first else [0, 2, 1, 3]
    nodes += [
        node("Transpose", "c2", "c3", perm=back),
        node("Reshape", "c3 rows", "c4"),
        node("Gemm", "c4 wo", "o"),
        node("Reshape", "o tokens", "y1"),
        node("MatMul", "y1 wy", "y"),
    ]
    weights: dict[str, Array] = {f"w{n}": random(8, 8, seed=i) / 2 for i, n in enumerate("qkvo")}
    weights |= {
        "heads": np.array(heads), "both": np.array([2, 6, 4]), "apart": np.array([1, 2, 6, 4]),
        "rows": np.array([6, 8]), "wy": random(8, 3),
        "tokens": np.array([6, 1, 8] if time_first else [1, 6, 8]),
    }  # fmt: skip
    if time_first:
        weights["wx"] = random(8, 8, seed=7) / 2
    if not merged or time_first:
        del weights["both"], weights["apart"]
    return build(nodes, weights, {"x": (1, 6, 8)})


def recurrent(op: str, opset: int = 18) -> onnx.ModelProto:
    """Time before the batch, a state that the file holds for one sample."""
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[op]
    states = "h c" if op == "LSTM" else "h"
    nodes = [
        node("MatMul", "x w", "m"),
        node("Transpose", "m", "t", perm=[1, 0, 2]),
        node(op, f"t lw lr _ _ {states}", "l", hidden_size=3),
        node("Squeeze", "l axes", "s"),
        node("Transpose", "s", "b", perm=[1, 0, 2]),
        node("MatMul", "b v", "y"),
    ]
    weights = {
        "w": random(4, 5), "lw": random(1, gates * 3, 5), "lr": random(1, gates * 3, 3),
        "h": random(1, 1, 3), "c": random(1, 1, 3, seed=1), "axes": np.array([1]),
        "v": random(3, 2),
    }  # fmt: skip
    if op != "LSTM":
        del weights["c"]
    return build(nodes, weights, {"x": (1, 6, 4)}, opset=opset)


def class_token(*, expanded: bool) -> onnx.ModelProto:
    """A token for one sample before the others, a table of positions, the first one at the end."""
    start = node("Expand", "token shape", "e") if expanded else node("Identity", "token", "e")
    nodes = [
        node("MatMul", "x w", "m"),
        start,
        node("Concat", "e m", "c", axis=1),
        node("Add", "c table", "p"),
        node("Softmax", "p", "n", axis=1),
        node("Gather", "n zero", "f", axis=1),
        node("Gemm", "f v", "y"),
    ]
    weights = {
        "w": random(4, 6), "token": random(1, 1, 6), "shape": np.array([1, 1, 6]),
        "table": random(1, 6, 6, seed=1), "zero": np.array(0), "v": random(6, 3),
    }  # fmt: skip
    if not expanded:
        del weights["shape"]
    return build(nodes, weights, {"x": (1, 5, 4)})


def first_of_one() -> onnx.ModelProto:
    """``x[0]`` of a batch of one: a matrix without samples, put back at the end."""
    nodes = [
        node("MatMul", "x w", "m"),
        node("Gather", "m zero", "g", axis=0),
        node("Tanh", "g", "t"),
        node("Unsqueeze", "t axes", "u"),
        node("MatMul", "u v", "y"),
    ]
    weights = {"w": random(4, 6), "zero": np.array(0), "axes": np.array([0]), "v": random(6, 3)}
    return build(nodes, weights, {"x": (1, 5, 4)})


def sliced_one() -> onnx.ModelProto:
    """``x[0:1]`` of a batch of one."""
    nodes = [
        node("MatMul", "x w", "m"),
        node("Slice", "m from to", "s"),
        node("MatMul", "s v", "y"),
    ]
    weights = {"w": random(4, 6), "from": np.array([0]), "to": np.array([1]), "v": random(6, 3)}
    return build(nodes, weights, {"x": (1, 5, 4)})


def repeated_by_tile() -> onnx.ModelProto:
    nodes = [
        node("Gemm", "x w", "h"),
        node("Unsqueeze", "h axes", "u"),
        node("Tile", "u times", "r"),
        node("Add", "r table", "a"),
        node("Tanh", "a", "t"),
        node("MatMul", "t v", "y"),
    ]
    weights = {
        "w": random(4, 6), "axes": np.array([1]), "times": np.array([1, 5, 1]),
        "table": random(5, 6), "v": random(6, 3),
    }  # fmt: skip
    return build(nodes, weights, {"x": (1, 4)})


def table_on_rows() -> onnx.ModelProto:
    """A table of positions added to rows that tokens and samples share: it is repeated."""
    nodes = [
        node("MatMul", "x w", "m"),
        node("Reshape", "m rows", "r"),
        node("Add", "r table", "a"),
        node("Tanh", "a", "t"),
        node("Reshape", "t back", "b"),
        node("MatMul", "b v", "y"),
    ]
    weights = {
        "w": random(4, 6), "rows": np.array([5, 6]), "table": random(5, 6),
        "back": np.array([1, 5, 6]), "v": random(6, 3),
    }  # fmt: skip
    return build(nodes, weights, {"x": (1, 5, 4)})


def einsum_heads() -> onnx.ModelProto:
    nodes = [
        node("MatMul", "x w", "m"),
        node("Reshape", "m heads", "h"),
        node("Einsum", "h h", "s", equation="bqhd,bkhd->bhqk"),
        node("Softmax", "s", "a", axis=-1),
        node("Einsum", "a h", "c", equation="bhqk,bkhd->bqhd"),
        node("Reshape", "c units", "u"),
        node("MatMul", "u v", "y"),
    ]
    weights = {
        "w": random(4, 6), "heads": np.array([1, 5, 2, 3]), "units": np.array([1, 5, 6]),
        "v": random(6, 3),
    }  # fmt: skip
    return build(nodes, weights, {"x": (1, 5, 4)})


FREED: dict[str, Callable[[], onnx.ModelProto]] = {
    "heads beside the samples": lambda: attention(time_first=False, merged=False),
    "heads merged with the samples": lambda: attention(time_first=False),
    "heads merged with the samples, time first": lambda: attention(time_first=True),
    "RNN of a constant state": lambda: recurrent("RNN"),
    "GRU of a constant state": lambda: recurrent("GRU"),
    "LSTM of constant states": lambda: recurrent("LSTM"),
    "LSTM, opset 13": lambda: recurrent("LSTM", 13),
    "class token": lambda: class_token(expanded=False),
    "class token, expanded to one sample": lambda: class_token(expanded=True),
    "first of one": first_of_one,
    "slice of one": sliced_one,
    "Tile": repeated_by_tile,
    "a table on rows": table_on_rows,
    "Einsum": einsum_heads,
}


@pytest.mark.parametrize("positions", ["one", "all"])
@pytest.mark.parametrize("name", FREED)
def test_a_batch_gives_what_single_runs_of_the_file_give(name: str, positions: str) -> None:
    _, span = brute.check(FREED[name](), positions=positions, corners=False, tolerance=2e-5)
    assert span.batched
    assert span.batch_note == ""
    assert span.notes == ()


def test_a_source_whose_first_axis_counts_time() -> None:
    """The layer's own input is (time, sample, units): a batch goes on its second axis."""
    nodes = [
        node("Transpose", "x", "t", perm=[1, 0, 2]),
        node("MatMul", "t w", "m"),
        node("CumSum", "m axis", "s"),
        node("MatMul", "s v", "y"),
    ]
    weights = {"w": random(4, 6), "axis": np.array(0), "v": random(6, 3)}
    topology = topology_of(build(nodes, weights, {"x": (1, 5, 4)}))
    span = span_of(topology, "v", in_layer="w", positions="all")
    assert (span.in_shape, span.batched) == ((5, 1, 4), True)
    x = random(3, 5, 4, seed=2)
    want = np.cumsum(x @ weights["w"], axis=1) @ weights["v"]
    got = runner(span)(x.reshape(3, -1))
    np.testing.assert_allclose(got, want.reshape(3, -1), rtol=1e-4, atol=1e-4)


# --- what cannot be freed --------------------------------------------------------------------


def summed_over_samples() -> onnx.ModelProto:
    nodes = [
        node("Gemm", "x w", "h"),
        node("ReduceMean", "h", "m"),
        node("Sub", "h m", "d"),
        node("Gemm", "d w2", "y"),
    ]
    return build(nodes, {"w": random(4, 6), "w2": random(6, 3)}, {"x": (1, 4)})


def multiplied_by_themselves() -> onnx.ModelProto:
    """Every sample with every other: (samples, units) by (units, samples)."""
    nodes = [
        node("Gemm", "x w", "h"),
        node("Transpose", "h", "t", perm=[1, 0]),
        node("MatMul", "h t", "p"),
        node("MatMul", "p v", "y"),
    ]
    return build(nodes, {"w": random(4, 6), "v": random(1, 3)}, {"x": (1, 4)})


LOST: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "statistics of the batch": (
        summed_over_samples, r"^a batch of 4 differs from single runs by [\d.e+-]+ of the largest "
        r"output, first at node 'm' \(ReduceMean\)$"),
    "samples by samples": (
        multiplied_by_themselves,
        r"^does not run in a batch: MatMul 'p' multiplies samples by other samples$"),
}  # fmt: skip


@pytest.mark.parametrize("name", LOST)
def test_the_reason_is_said(name: str) -> None:
    make, note = LOST[name]
    _, span = brute.check(make(), batched=False, corners=False)
    assert re.search(note, span.batch_note), span.batch_note
    assert span.notes == (span.batch_note,)
