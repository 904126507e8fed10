"""Affine maps read off functions, and where functions are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import make, mlp, node, noise
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_ei import topology_of
from onnx_ei._exact.affine import TOLERANCE, AffineMap, NotAffineError, affine_map, departure
from onnx_ei.runtime import runner
from onnx_ei.span import span_of

MEMORY = 1 << 30


def dense(weights: Any, bias: Any) -> Any:
    w, b = np.asarray(weights, np.float32), np.asarray(bias, np.float32)
    return lambda x: (x @ w + b).astype(np.float32)


def read(run: Any, n_inputs: int, n_outputs: int, **arguments: Any) -> AffineMap:
    return affine_map(run, n_inputs, n_outputs, **({"largest": 1.0, "memory": MEMORY} | arguments))


class TestReading:
    def test_float32_weights_come_back_to_the_bit_beside_a_large_bias(self) -> None:
        weights = noise(30, 7) * np.float32(1e-3)
        weights[3] = 0
        bias = 100 * noise(7, seed=1)
        found = read(dense(weights, bias), 30, 7)
        assert (found.columns(slice(0, 7)) == weights).all()
        assert (found.bias == bias).all()
        assert found.nbytes == weights.nbytes + 8 * 7

    @pytest.mark.parametrize("memory", [1, 4000, MEMORY])
    def test_tiles_give_the_same_weights(self, memory: int) -> None:
        weights, bias = noise(20, 50), noise(50, seed=1)
        found = read(dense(weights, bias), 20, 50, memory=memory)
        tiles = list(found.tiles)
        assert [t.start for t in tiles] == [0, *(t.stop for t in tiles[:-1])]
        assert tiles[-1].stop == 50
        assert len(tiles) == {1: 50, 4000: 5, MEMORY: 1}[memory]
        assert found.nbytes <= 400 + memory
        both = np.concatenate([found.columns(tile) for tile in tiles], axis=1)
        assert (both == weights).all()

    def test_what_float32_does_not_hold_is_held_in_float64(self) -> None:
        found = read(lambda x: (x @ np.float64([[1 / 3], [0.1]])).astype(np.float32), 2, 1)
        np.testing.assert_allclose(found.columns(slice(0, 1))[:, 0], [1 / 3, 0.1], rtol=6e-8)

    @settings(derandomize=True, deadline=None, max_examples=25)
    @given(st.integers(1, 40), st.integers(1, 40), st.integers(-30, 30), st.integers(0, 10**6))
    def test_random_layers(self, n: int, m: int, exponent: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        weights = np.ldexp(rng.normal(size=(n, m)), exponent).astype(np.float32)
        found = read(dense(weights, np.zeros(m)), n, m)
        assert (found.columns(slice(0, m)) == weights).all()

    def test_a_chain_of_layers_is_one_map(self) -> None:
        first, second = noise(6, 400), noise(400, 3, seed=1)
        bias = noise(400, seed=2)

        def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
            return (x @ first + bias) @ second

        found = read(run, 6, 3)
        wanted = first.astype(np.float64) @ second
        np.testing.assert_allclose(found.columns(slice(0, 3)), wanted, atol=2e-5)

    def test_a_tiny_weight_beside_a_large_bias_keeps_float32s_precision(self) -> None:
        found = read(dense([[1e-12], [1.0]], [100.0]), 2, 1)
        np.testing.assert_allclose(found.columns(slice(0, 1))[:, 0], [1e-12, 1.0], rtol=1e-7)

    def test_a_wide_layer_is_not_mistaken_for_another_function(self) -> None:
        weights = noise(5000, 2)
        found = read(dense(weights, [0, 0]), 5000, 2)
        assert (found.columns(slice(0, 2)) == weights).all()

    def test_units_that_cancel_to_rounding_are_affine(self) -> None:
        weights = noise(50, 4)

        def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
            y = x @ weights
            y[:, 1] -= (x.astype(np.float64) @ weights[:, 1].astype(np.float64)).astype(np.float32)
            return y

        assert np.abs(read(run, 50, 4).columns(slice(1, 2))).max() < 1e-5


class TestRefusing:
    @pytest.mark.parametrize(
        "function",
        [
            np.abs,
            lambda z: np.maximum(z, 0),
            lambda z: np.maximum(z, 0.01 * z),
            np.tanh,
            lambda z: np.clip(z, -30, 30),  # out of reach of noise in range
            lambda z: np.where(np.abs(z) < 1e-3, 0, z),  # seen near 0 only
            lambda z: z + np.float32(1e-3) * np.sin(z),
            lambda z: z.astype(np.float16).astype(np.float32),
            lambda z: np.round(z * 64) / 64,
            lambda z: z + 1e-3 * z**2,
            lambda z: z / z.std(axis=1, keepdims=True),
            lambda z: np.where(z > 1e6, np.inf, z),
        ],
    )
    def test_other_functions(self, function: Any) -> None:
        layer = dense(noise(5, 4), np.zeros(4))
        with pytest.raises(NotAffineError) as caught:
            read(lambda x: np.asarray(function(layer(x)), np.float32), 5, 4)
        assert caught.value.deviation > TOLERANCE

    def test_one_unit_of_many(self) -> None:
        layer = dense(noise(5, 300), np.zeros(300))

        def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
            z = layer(x)
            z[:, 200] = np.abs(z[:, 200]) * np.float32(0.01)
            return z

        with pytest.raises(NotAffineError, match="not affine: off by"):
            read(run, 5, 300)

    def test_every_tile_is_checked(self) -> None:
        weights = noise(20, 50)

        def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
            z = x @ weights
            # too little beside the largest result for the first look
            z[:, 49] = np.float32(1e-5) * np.abs(z[:, 49])
            return z

        for memory in (1000, MEMORY):
            with pytest.raises(NotAffineError):
                read(run, 20, 50, memory=memory)


class TestDeparture:
    def test_names_the_first_operator(self) -> None:
        span = span_of(topology_of(mlp("Tanh")), "fc2", in_layer="fc1", activation="relu")
        found = departure(span, "cpu", 1.0)
        assert found is not None
        assert (found.op_type, found.name, found.dtype) == ("Tanh", "a", "FLOAT")
        # tanh of noise far out is its sign
        assert 0.3 < found.deviation <= 1

    def test_none_where_all_is_affine_and_the_model_stays_as_it_was(self) -> None:
        span = span_of(topology_of(mlp()), "fc1", activation="identity")
        outputs = list(span.model.graph.outputs)
        assert departure(span, "cpu", 1.0) is None
        assert list(span.model.graph.outputs) == outputs
        assert runner(span)(np.zeros((1, 4), np.float32)).shape == (1, 5)

    def test_results_that_are_no_numbers_and_shapes_are_looked_through(self) -> None:
        nodes = [
            node("Shape", "x", "s"),
            node("Reshape", "x s", "r"),
            node("Greater", "r zero", "g"),
            node("Cast", "g", "c", to=TensorProto.FLOAT),
            node("Mul", "r c", "m"),
            node("MatMul", "m w", "y"),
            node("MatMul", "y v", "z"),
        ]
        weights = {"w": noise(3, 3), "v": noise(3, 2, seed=1), "zero": np.float32(0)}
        model = make([node("MatMul", "a u", "x"), *nodes], {"a": ("N", 3)}, ["z"],
                     weights | {"u": noise(3, 3, seed=2)})  # fmt: skip
        topology = topology_of(model)
        keys = list(topology)
        found = departure(span_of(topology, keys[-1], in_layer=keys[0]), "cpu", 1.0)
        assert found is not None
        assert (found.op_type, found.name) == ("Greater", "g")
