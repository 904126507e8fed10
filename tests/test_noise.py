from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from onnx_ei.noise import CHUNK, uniform_chunk, uniform_chunks, uniform_rows

quick = settings(derandomize=True, deadline=None, max_examples=50)


def test_shape_dtype_and_layout() -> None:
    x = uniform_chunk(1, 2, 3, 0.0, 1.0)
    assert x.shape == (CHUNK, 3) == (1024, 3)
    assert x.dtype == np.float32
    assert x.flags.c_contiguous


def test_the_definition_does_not_change() -> None:
    x = uniform_chunk(0, 0, 2, 0.0, 1.0)
    assert x[0].tolist() == GOLDEN[0]
    assert x[-1].tolist() == GOLDEN[1]


GOLDEN = (
    [0.7242795825004578, 0.568689227104187],
    [0.9917771816253662, 0.32792186737060547],
)


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**32, 2**80 + 1])
@pytest.mark.parametrize("first", [0, 5, 2**32 - 2, 2**40, 2**64 - 1, 2**70])
@pytest.mark.parametrize("stream", [0, 1])
def test_chunks_are_seeded_by_numpy(seed: int, first: int, stream: int) -> None:
    x = uniform_chunks(seed, range(first, first + 3), 1, 0.0, 1.0, stream=stream)
    for i, part in enumerate(x.reshape(3, CHUNK)):
        bits = np.random.SFC64(np.random.SeedSequence((seed, first + i, stream)))
        expected = np.random.Generator(bits).random(CHUNK, dtype=np.float32)
        np.testing.assert_array_equal(part, expected)


def test_same_arguments_same_noise() -> None:
    once, again = (uniform_chunk(7, 5, 4, -1.0, 2.0, stream=1) for _ in range(2))
    np.testing.assert_array_equal(once, again)


@pytest.mark.parametrize("other", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (2**80, 0, 0)])
def test_seeds_chunks_and_streams_are_independent(other: tuple[int, int, int]) -> None:
    seed, chunk, stream = other
    x = uniform_chunk(0, 0, 4, 0.0, 1.0).ravel()
    y = uniform_chunk(seed, chunk, 4, 0.0, 1.0, stream=stream).ravel()
    assert abs(np.corrcoef(x, y)[0, 1]) < 4 / np.sqrt(x.size)


def test_columns_are_independent_and_uniform() -> None:
    x = np.concatenate([uniform_chunk(3, chunk, 6, -2.0, 2.0) for chunk in range(20)])
    correlations = np.corrcoef(x.T)[np.triu_indices(6, 1)]
    assert np.abs(correlations).max() < 4 / np.sqrt(len(x))
    counts = np.histogram(x, bins=64, range=(-2, 2))[0]
    assert stats.chisquare(counts).pvalue > 1e-3
    assert stats.kstest(x.ravel(), stats.uniform(-2, 4).cdf).pvalue > 1e-3


@quick
@given(
    st.floats(-1e6, 1e6),
    st.floats(1.0, 1e6),
    st.integers(0, 2**70),
)
def test_never_leaves_the_range(lower: float, width: float, seed: int) -> None:
    upper = lower + width
    x = uniform_chunk(seed, 0, 2, lower, upper).astype(np.float64)
    assert x.min() >= lower
    assert x.max() <= upper


@pytest.mark.parametrize(("lower", "upper"), [(0.1, 0.3), (16777216, 16777221), (-0.7, 1e-30)])
def test_ends_that_float32_rounds(lower: float, upper: float) -> None:
    x = uniform_chunk(0, 0, 50, lower, upper).astype(np.float64)
    assert x.min() >= lower
    assert x.max() <= upper


@pytest.mark.parametrize(
    ("lower", "upper"),
    [(1.0, 1.0), (2.0, 1.0), (np.nan, 1.0), (0.0, np.inf), (-np.inf, 0.0)],
)
def test_bad_range(lower: float, upper: float) -> None:
    with pytest.raises(ValueError, match="finite with lower < upper"):
        uniform_chunk(0, 0, 1, lower, upper)


@pytest.mark.parametrize(
    ("lower", "upper"), [(1.0, 1.0 + 1e-12), (-3e38, 3e38), (0.0, 1e300), (1e300, 2e300)]
)
def test_range_that_float32_cannot_hold(lower: float, upper: float) -> None:
    with pytest.raises(ValueError, match="cannot be drawn in float32"):
        uniform_chunk(0, 0, 1, lower, upper)


@pytest.mark.parametrize("rows", [1, 7, 1000, 1024, 5000])
def test_rows_of_a_chunk_are_the_chunk(rows: int) -> None:
    # an odd number of float32 a row: SFC64 gives two from one word, across the rows too
    parts = list(uniform_rows(3, 1, 3, -1.0, 2.0, stream=1, rows=rows))
    assert {len(part) for part in parts[:-1]} <= {rows}
    whole = uniform_chunk(3, 1, 3, -1.0, 2.0, stream=1)
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_bad_rows() -> None:
    with pytest.raises(ValueError, match="rows must be at least 1, got 0"):
        uniform_rows(0, 0, 1, 0.0, 1.0, rows=0)


@pytest.mark.parametrize("name", ["seed", "chunk", "n_units", "stream"])
def test_bad_integers(name: str) -> None:
    good: dict[str, Any] = {
        "seed": 0,
        "chunk": 0,
        "n_units": 1,
        "lower": 0.0,
        "upper": 1.0,
        "stream": 0,
    }
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        uniform_chunk(**{**good, name: -1})
    wrong: Any
    for wrong in (1.0, "1", None):
        with pytest.raises(TypeError, match=f"{name} must be an integer, got {wrong!r}"):
            uniform_chunk(**{**good, name: wrong})


def test_numpy_integers_are_integers() -> None:
    numbers: Any = {"seed": np.int64(3), "chunk": np.uint8(1), "n_units": np.int32(2)}
    np.testing.assert_array_equal(
        uniform_chunk(**numbers, lower=0.0, upper=1.0), uniform_chunk(3, 1, 2, 0.0, 1.0)
    )
