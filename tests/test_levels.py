"""Level sets of activations: the pieces' codes are those of the values that are computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from graphs import make, node
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import onnx_ei._exact.levels as levels
from onnx_ei._exact.levels import pieces_of
from onnx_ei._exact.pieces import Pieces
from onnx_ei._exact.unitwise import Units, floats, ordered, spread
from onnx_ei._sampling.codes import binned_outputs
from onnx_ei.binning import Binning
from onnx_ei.errors import UnsupportedModelError
from onnx_ei.sessions import Session

Function = Callable[[NDArray[np.float32]], NDArray[np.float32]]

RANGES = {
    "Sigmoid": (0, 1), "Tanh": (-1, 1), "Relu": (0, 10), "LeakyRelu": (-10, 10), "Elu": (-1, 10),
    "Selu": (-1.759, 10), "Softplus": (0, 10), "Softsign": (-1, 1), "HardSigmoid": (0, 1),
    "Erf": (-1, 1), "Sin": (-1, 1), "Gelu": (-0.171, 10), "HardSwish": (-0.375, 10),
    "Mish": (-0.309, 10), "Abs": (0, 10), "Exp": (0, 100), "Sign": (-1, 1), "Sqrt": (0, 4),
    "Reciprocal": (-3, 3),
}  # fmt: skip


def in_onnxruntime(op: str) -> Function:
    model = make([node(op, "x", "y")], {"x": ("N", "U")}, ["y"], opset=20)
    session = Session(ir.from_proto(model))
    return lambda z: np.asarray(session.run({"x": z}, ["y"])[0])


def truth(function: Function, z: NDArray[np.float32], binning: Binning) -> NDArray[np.int64]:
    codes = binned_outputs(function(z[:, None]), binning)[0].astype(np.int64)
    codes[codes == binning.n_bins[0]] = -1
    return codes


def codes_of(pieces: Pieces, z: NDArray[Any]) -> NDArray[np.int64]:
    return pieces.codes[np.searchsorted(pieces.edges, z.astype(np.float64), side="right")]


def wrong(
    pieces: Pieces, function: Function, z: NDArray[np.float32], binning: Binning
) -> NDArray[np.float32]:
    """Numbers with another code than what is computed of them, further than rounding from a cut."""
    off = z[codes_of(pieces, z) != truth(function, z, binning)].astype(np.float64)
    if not off.size:
        return z[:0]
    distance = np.abs(off[:, None] - pieces.edges).min(axis=1)
    return off[distance > 1e-6 * np.maximum(np.abs(off), 1.0)].astype(np.float32)


@pytest.mark.parametrize("bins", [2, 8, 64, 256])
@pytest.mark.parametrize("op", RANGES)
def test_codes_are_those_of_what_onnxruntime_computes(op: str, bins: int) -> None:
    function, binning = in_onnxruntime(op), Binning.uniform(1, RANGES[op], bins)
    z = np.concatenate([
        np.random.default_rng(0).uniform(-20, 20, 200_000), np.linspace(-1, 1, 20_001),
        np.geomspace(1e-30, 1, 1000), -np.geomspace(1e-30, 1, 1000),
    ]).astype(np.float32)  # fmt: skip
    with np.errstate(divide="ignore", invalid="ignore"):
        (pieces,) = pieces_of(function, np.array([-20.0]), np.array([20.0]), binning)
        assert wrong(pieces, function, z, binning).size == 0
    # no cut without a change
    assert (np.diff(pieces.codes) != 0).all()


@pytest.mark.parametrize("limits", [(-1.3, 0.4), (0.1, 0.9), (-0.16, 0.02), (5, 90)])
@pytest.mark.parametrize("op", ["Tanh", "Gelu", "Mish", "HardSwish", "Elu"])
def test_asymmetric_ranges(op: str, limits: tuple[float, float]) -> None:
    function, binning = in_onnxruntime(op), Binning.uniform(1, limits, 37)
    z = np.random.default_rng(1).uniform(-9, 100, 200_000).astype(np.float32)
    (pieces,) = pieces_of(function, np.array([-9.0]), np.array([100.0]), binning)
    assert wrong(pieces, function, z, binning).size == 0


def test_identity_has_the_bins_own_edges_and_keeps_the_closed_range() -> None:
    (pieces,) = pieces_of(None, np.array([-3.0]), np.array([3.0]), Binning.uniform(1, (0, 1), 8))
    np.testing.assert_allclose(pieces.edges, np.arange(9) / 8, rtol=0, atol=3e-16)
    assert pieces.codes.tolist() == [-1, *range(8), -1]
    assert codes_of(pieces, np.array([0.0, 0.125, 1.0])).tolist() == [0, 1, 7]


def test_saturation_counts_as_the_end_of_the_range() -> None:
    # onnxruntime's Tanh returns 1.0000002 around 8.5: by the strict rule it would be dropped there
    function, binning = in_onnxruntime("Tanh"), Binning.uniform(1, (-1, 1), 4)
    z = np.linspace(7, 1e30, 5, dtype=np.float32)
    (pieces,) = pieces_of(function, np.array([-1e30]), np.array([1e30]), binning)
    assert codes_of(pieces, z).tolist() == [3] * 5
    assert codes_of(pieces, -z).tolist() == [0] * 5


def test_no_overflow_at_the_largest_numbers() -> None:
    binning = Binning.uniform(1, (0, 10), 8)
    with np.errstate(over="raise", invalid="raise"):
        (pieces,) = pieces_of(None, np.array([-1e300]), np.array([1e300]), binning)
    np.testing.assert_allclose(pieces.edges, np.arange(9) * 1.25, atol=1e-15)


@pytest.mark.parametrize("op", ["Gelu", "HardSwish", "Sigmoid", "Sign"])
def test_a_wide_interval_loses_nothing_near_zero(op: str) -> None:
    function, binning = in_onnxruntime(op), Binning.uniform(1, RANGES[op], 64)
    (narrow,) = pieces_of(function, np.array([-30.0]), np.array([30.0]), binning)
    (wide,) = pieces_of(function, np.array([-1e20]), np.array([1e25]), binning)
    assert wide.codes.tolist() == narrow.codes.tolist()
    np.testing.assert_allclose(wide.edges, narrow.edges, rtol=1e-5, atol=1e-6)


def test_extrema_that_tip_into_a_bin_are_found() -> None:
    """Only near its minimum is GELU below an edge: by 1e-6, within 2e-3 of the place."""
    gelu = in_onnxruntime("Gelu")
    low = float(gelu(np.linspace(-0.8, -0.7, 100_001, dtype=np.float32)[:, None]).min())
    binning = Binning.uniform(1, (low + 1e-6 - 1.0, low + 1e-6 + 1.0), 2)
    (pieces,) = pieces_of(gelu, np.array([-15.0]), np.array([15.0]), binning)
    # right of the dip the function goes on past the range's end
    assert pieces.codes.tolist() == [1, 0, 1, -1]
    assert -0.754 < pieces.edges[0] < -0.7518 < pieces.edges[1] < -0.749


def test_units_of_one_function_share_their_pieces_and_others_have_their_own() -> None:
    slopes = np.array([0.25, 0.5, 0.25, 0.5, 0.1], np.float32)
    binning = Binning.uniform(1, (-4, 4), 16)
    found = pieces_of(
        lambda z: np.where(z < 0, slopes * z, z), np.full(5, -9.0), np.full(5, 9.0), binning
    )
    assert found[0] is found[2]
    assert found[1] is found[3]
    assert len({id(p) for p in found}) == 3
    z = np.random.default_rng(0).uniform(-9, 9, 10_000).astype(np.float32)
    for slope, pieces in zip(slopes, found, strict=True):
        assert wrong(pieces, lambda x, s=slope: np.where(x < 0, s * x, x), z, binning).size == 0


def test_a_constant_unit_has_one_piece() -> None:
    binning = Binning.uniform(1, (0, 1), 4)
    found = pieces_of(None, np.array([0.3, 1.0, 7.0]), np.array([0.3, 1.0, 7.0]), binning)
    codes = [codes_of(p, np.array([v])).item() for p, v in zip(found, (0.3, 1, 7), strict=True)]
    assert codes == [1, 3, -1]


def test_nan_is_out_of_range() -> None:
    def root(z: NDArray[np.float32]) -> NDArray[np.float32]:
        with np.errstate(invalid="ignore"):
            return np.sqrt(z)

    binning = Binning.uniform(1, (0, 2), 2)
    (pieces,) = pieces_of(root, np.array([-4.0]), np.array([9.0]), binning)
    assert pieces.codes.tolist() == [-1, 0, 1, -1]
    np.testing.assert_allclose(pieces.edges, [0, 1, 4], atol=1e-6)


def test_a_function_that_never_comes_to_rest_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    binning = Binning.uniform(1, (-1, 1), 8)
    monkeypatch.setattr(levels, "MAX_POINTS", 1 << 15)
    with pytest.raises(UnsupportedModelError, match="changes too fast for its level sets: 32768"):
        pieces_of(np.sin, np.array([-1e6]), np.array([1e6]), binning)
    monkeypatch.undo()
    monkeypatch.setattr(levels, "MAX_EDGES", 100)
    with pytest.raises(UnsupportedModelError, match="crosses more than 100 bin edges"):
        pieces_of(np.sin, np.array([-60.0]), np.array([60.0]), binning)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    st.lists(st.floats(-2, 2, width=32), min_size=2, max_size=6),
    st.integers(1, 40),
    st.floats(-1.5, 1.0),
    st.floats(0.1, 2.0),
)
def test_any_polynomial(coefficients: list[float], bins: int, low: float, width: float) -> None:
    def function(z: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.polyval(coefficients, z.astype(np.float64)).astype(np.float32)

    binning = Binning.uniform(1, (low, low + width), bins)
    z = np.random.default_rng(0).uniform(-3, 3, 20_000).astype(np.float32)
    (pieces,) = pieces_of(function, np.array([-3.0]), np.array([3.0]), binning)
    # where it is all but flat at an edge, rounding decides over a wider stretch
    near = np.abs(np.polyval(np.polyder(coefficients), z.astype(np.float64))) < 1e-3
    assert wrong(pieces, function, z[~near], binning).size == 0


def test_integers_of_the_order_of_the_numbers() -> None:
    z = np.array([-np.inf, -2.0, -1e-45, -0.0, 0.0, 1e-45, 2.0, np.inf], np.float32)
    places = ordered(z)
    assert (np.diff(places) == [places[1] - places[0], places[2] - places[1], 1, 0, 1,
                                places[6] - places[5], places[7] - places[6]]).all()  # fmt: skip
    assert (np.diff(places) >= 0).all()
    assert floats(places).tolist() == z.tolist()
    assert spread(np.float32(2), np.float32(2), 8).tolist() == [2.0]


def test_each_function_runs_on_its_own_numbers() -> None:
    slopes = np.array([1, 2, 1, 3], np.float32)
    units = Units(lambda z: z * slopes, np.zeros(4, np.float32), np.ones(4, np.float32))
    owner = np.array([0] * 7 + [1] * 3 + [2] * 2)
    z = np.arange(12, dtype=np.float32)
    assert units.run(owner, z).tolist() == (z * np.array([1, 2, 3])[owner]).tolist()
