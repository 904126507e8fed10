"""Sizes that a span takes from the shapes of tensors outside of it: known, not needed, or said."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from brute import build, random
from graphs import node

from onnx_ei._graph.listing import Listing
from onnx_ei._graph.sizes import known_sizes
from onnx_ei.errors import UnboundedSpanError, UnsupportedModelError
from onnx_ei.runtime import runner
from onnx_ei.span import span_of
from onnx_ei.topology import topology_of

Array = Any


def heads_by_the_input(*dims: int | str) -> onnx.ModelProto:
    """Units split into heads by the shape of the model's own input, as older exporters write it.

    ``m.view(x.shape[0], x.shape[1], 2, 3)`` between two layers that the input is outside of.
    """
    nodes = [
        node("MatMul", "x w0", "a"),
        node("MatMul", "a w1", "m"),
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n"),
        node("Gather", "s one", "t"),
        node("Unsqueeze", "n axis", "n1"),
        node("Unsqueeze", "t axis", "t1"),
        node("Concat", "n1 t1 two three", "heads", axis=0),
        node("Reshape", "m heads", "h"),
        node("Mul", "h scale", "hs"),
        node("Concat", "n1 t1 six", "units", axis=0),
        node("Reshape", "hs units", "u"),
        node("MatMul", "u w2", "y"),
    ]
    weights = {
        "w0": random(4, 5), "w1": random(5, 6), "zero": np.array(0), "one": np.array(1),
        "axis": np.array([0]), "two": np.array([2]), "three": np.array([3]),
        "scale": random(2, 1), "six": np.array([6]), "w2": random(6, 3),
    }  # fmt: skip
    return build(nodes, weights, {"x": dims})


def by_hand(a: Array) -> Array:
    m = (a @ random(5, 6)).reshape(*a.shape[:-1], 2, 3) * random(2, 1)
    return m.reshape(*a.shape[:-1], 6) @ random(6, 3)


@pytest.mark.parametrize("dims", [("N", "T", 4), ("N", 7, 4), (1, 7, 4)])
@pytest.mark.parametrize("example", [False, True])
def test_a_view_by_the_shape_of_a_tensor_outside(
    dims: tuple[int | str, ...], example: bool
) -> None:
    """The layers' own tensors say the same sizes: nothing has to be given, and T may stay open."""
    given = random(1, 7, 4) if example else None
    topology = topology_of(heads_by_the_input(*dims), given)
    span = span_of(topology, "w2", in_layer="w1")
    assert (span.in_shape, span.batched, span.notes) == ((1, 5), True, ())
    a = random(4, 5, seed=3)
    np.testing.assert_allclose(runner(span)(a), by_hand(a), rtol=1e-4, atol=1e-5)


def test_an_open_length_that_is_needed_names_the_remedy() -> None:
    topology = topology_of(heads_by_the_input("N", "T", 4))
    with pytest.raises(UnsupportedModelError, match=r"is open.*pass an example input"):
        span_of(topology, "w2", in_layer="w1", positions="all")
    topology = topology_of(heads_by_the_input("N", "T", 4), random(1, 7, 4))
    span = span_of(topology, "w2", in_layer="w1", positions="all")
    a = random(2, 7, 5, seed=4)
    got = runner(span)(a.reshape(2, -1))
    np.testing.assert_allclose(got, by_hand(a).reshape(2, -1), rtol=1e-4, atol=1e-4)


def scaled_by_a_length(*dims: int | str) -> onnx.ModelProto:
    """A product with the length of the model's input: no shape of the span says it."""
    nodes = [
        node("MatMul", "x w0", "a"),
        node("MatMul", "a w1", "m"),
        node("Shape", "x", "s"),
        node("Gather", "s one", "t"),
        node("Cast", "t", "f", to=1),
        node("Mul", "m f", "p"),
        node("MatMul", "p w2", "y"),
    ]
    weights = {"w0": random(4, 5), "w1": random(5, 6), "one": np.array(1), "w2": random(6, 3)}
    return build(nodes, weights, {"x": dims})


def test_a_size_that_nothing_in_the_span_says() -> None:
    topology = topology_of(scaled_by_a_length("N", "T", 4))
    with pytest.raises(
        UnsupportedModelError, match=r"needs 'f', a size that follows from.*pass an example input"
    ):
        span_of(topology, "w2", in_layer="w1")
    span = span_of(topology, "w2", in_layer="w1", background={"f": np.array(7)})
    a = random(4, 5, seed=3)
    want = (a @ random(5, 6)) * 7 @ random(6, 3)
    np.testing.assert_allclose(runner(span)(a), want, rtol=1e-4, atol=1e-4)
    topology = topology_of(scaled_by_a_length("N", "T", 4), random(1, 7, 4))
    span = span_of(topology, "w2", in_layer="w1")
    np.testing.assert_allclose(runner(span)(a), want, rtol=1e-4, atol=1e-4)


def scaled_by_a_count() -> onnx.ModelProto:
    """A product with the number of elements above 0: a size that depends on the data."""
    nodes = [
        node("Gemm", "x w0", "a"),
        node("Gemm", "a w1", "m"),
        node("Greater", "x level", "g"),
        node("NonZero", "g", "z"),
        node("Shape", "z", "s"),
        node("Gather", "s one", "t"),
        node("Cast", "t", "f", to=1),
        node("Mul", "m f", "p"),
        node("Gemm", "p w2", "y"),
    ]
    weights = {
        "w0": random(4, 5), "w1": random(5, 6), "level": np.float32(0), "one": np.array(1),
        "w2": random(6, 3),
    }  # fmt: skip
    return build(nodes, weights, {"x": (1, 4)})


def test_a_size_that_depends_on_data_is_held_and_said() -> None:
    x = np.array([[1, -1, 2, 3]], np.float32)
    topology = topology_of(scaled_by_a_count(), x)
    span = span_of(topology, "w2", in_layer="w1", background="reference")
    a = random(3, 5, seed=3)
    np.testing.assert_allclose(
        runner(span)(a), (a @ random(5, 6)) * 3 @ random(6, 3), rtol=1e-4, atol=1e-4
    )
    (note,) = span.notes
    assert note == ("'f', a size that depends on data, is held at 3.0, its value on the example")
    (note,) = span_of(topology_of(scaled_by_a_count()), "w2", in_layer="w1").notes
    assert note.endswith("its value on made-up input")


def test_a_list_of_whole_numbers_is_no_batch() -> None:
    """A file for four samples, and a list of as many numbers from outside: it stays whole."""
    nodes = [
        node("MatMul", "x w0", "a"),
        node("MatMul", "a w1", "m"),
        node("Gather", "m k", "g", axis=1),
        node("MatMul", "g w2", "y"),
    ]
    weights = {"w0": random(5, 5), "w1": random(5, 6), "w2": random(4, 3)}
    proto = build(nodes, weights, {"x": (4, 5)})
    proto.graph.input.append(onnx.helper.make_tensor_value_info("k", onnx.TensorProto.INT64, [4]))
    topology = topology_of(proto)
    with pytest.raises(UnboundedSpanError, match="also needs 'k'"):
        span_of(topology, "w2", in_layer="w1")
    picked = np.array([5, 0, 2, 2])
    span = span_of(topology, "w2", in_layer="w1", background={"k": picked})
    a = random(3, 5, seed=3)
    want = (a @ random(5, 6))[:, picked] @ random(4, 3)
    np.testing.assert_allclose(runner(span)(a), want, rtol=1e-4, atol=1e-4)


def test_known_sizes_are_folded_and_open_ones_left() -> None:
    """Part of an open shape may be known; arithmetic on it is done, on the rest it is not."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s known", "k"),
        node("Mul", "k k", "square"),
        node("Gather", "s open", "o"),
        node("Shape", "x", "last", start=1),
        node("Size", "w", "count"),
        node("Add", "square count", "both"),
        node("Cast", "both", "y", to=1),
    ]
    weights = {"known": np.array([1]), "open": np.array([0]), "w": random(2, 3)}
    graph = onnx_ir.from_proto(build(nodes, weights, {"x": ("N", 5)})).graph
    values = {v.name: v for n in graph for v in n.outputs}
    listing = Listing(graph)
    asked = [values[name] for name in ("k", "square", "o", "s", "last", "both")]
    assert all(listing.is_size(v) for v in asked)
    found = known_sizes(listing, asked, {"": 18})
    assert {name: array.tolist() for name, array in found.items()} == {
        "k": [5], "square": [25], "last": [5], "both": [31],
    }  # fmt: skip


def test_listing_of_a_deep_graph() -> None:
    """A chain deeper than Python's recursion limit, and two values on every level."""
    nodes = [node("MatMul", "x w", "a0")]
    for i in range(1500):
        nodes.append(node("Add", f"a{i} a{i}", f"a{i + 1}"))
    nodes += [
        node("MatMul", "a1500 v", "b"),
        node("Add", "b a1500", "c"),
        node("MatMul", "c u", "y"),
    ]
    weights = {"w": random(3, 3) / 1e3, "v": random(3, 3), "u": random(3, 2)}
    graph = onnx_ir.from_proto(build(nodes, weights, {"x": ("N", 3)})).graph
    listing = Listing(graph)
    made = {v.name: v for n in graph for v in n.outputs}
    assert not listing.is_fixed(made["c"])
    assert listing.is_fixed(graph.initializers["w"])
    between = listing.between(made["a1500"], made["y"])
    assert [n.op_type for n in between] == ["MatMul", "Add", "MatMul"]
