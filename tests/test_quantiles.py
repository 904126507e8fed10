"""Quantiles of a stream, against numpy's of the whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_ei.quantiles import Sketch

QUANTILES = (0.0, 0.001, 0.01, 0.25, 0.5, 0.9, 0.999, 1.0)
BUCKET = 2.0**-10


def sketch_of(parts):
    sketch = Sketch()
    for part in parts:
        sketch.add(np.asarray(part))
    return sketch


def streams():
    rng = np.random.default_rng(0)
    return {
        "normal": rng.normal(size=100_001),
        "rectified": np.maximum(rng.normal(size=50_000), 0).astype(np.float32),
        "heavy": rng.lognormal(size=10_000, sigma=5),
        "huge": rng.normal(size=50) * 1e30,
        "half": rng.normal(size=10_000).astype(np.float16),
        "whole": rng.integers(-128, 128, size=1000).astype(np.int8),
        "negative": -np.abs(rng.normal(size=999)) - 1e-30,
        "one outlier": np.append(rng.normal(size=9999), 1e12),
        "constant": np.full(7, -3.25),
        "matrix": rng.normal(size=(20, 3, 4)),
    }


@pytest.mark.parametrize("name", streams())
def test_quantiles_are_within_a_bucket_of_those_of_the_whole(name):
    values = streams()[name]
    sketch = sketch_of(np.array_split(values, 7))
    assert sketch.count == values.size
    assert (sketch.low, sketch.high) == (float(values.min()), float(values.max()))
    for q in QUANTILES:
        exact = np.sort(values.astype(float).ravel())
        place = q * (exact.size - 1)
        # a quantile between two far values is off by as much as both of them are
        size = max(abs(exact[int(np.floor(place))]), abs(exact[int(np.ceil(place))]))
        assert abs(sketch.quantile(q) - np.quantile(exact, q)) <= BUCKET * size + 1e-40


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1),
    st.integers(1, 6),
    st.randoms(use_true_random=False),
)
def test_order_and_batches_make_no_difference(values, parts, random):
    whole = sketch_of([values])
    shuffled = values.copy()
    random.shuffle(shuffled)
    merged = Sketch()
    for part in np.array_split(np.array(shuffled), parts):
        merged.merge(sketch_of([part]))
    assert (merged.count, merged.low, merged.high) == (whole.count, whole.low, whole.high)
    ranks = [whole.quantile(q) for q in QUANTILES]
    assert [merged.quantile(q) for q in QUANTILES] == ranks
    assert ranks == sorted(ranks)
    assert (ranks[0], ranks[-1]) == (min(values), max(values))


def test_memory_does_not_grow_with_the_stream():
    rng = np.random.default_rng(0)
    sketch = sketch_of(rng.uniform(-100, 100, 100_000) for _ in range(5))
    # two signs, 2**10 buckets an octave, and the octaves down to the smallest that comes up
    octaves = np.log2(100 / 1e-6)
    assert sketch._keys.size < 2 * 2**10 * octaves
    before = sketch._keys.size
    for _ in range(20):
        sketch.add(rng.uniform(-100, 100, 100_000))
    assert sketch._keys.size < 1.5 * before


def test_values_beyond_float32_keep_their_extremes():
    sketch = sketch_of([[1e300, -1e300, 3.0]])
    assert (sketch.low, sketch.high) == (-1e300, 1e300)
    assert sketch.quantile(0.5) == pytest.approx(3, rel=BUCKET)


def test_wrong_use():
    with pytest.raises(ValueError, match="no values were counted"):
        Sketch().quantile(0.5)
    with pytest.raises(ValueError, match=r"q must be from 0 to 1, got 1\.5"):
        sketch_of([[1.0]]).quantile(1.5)
    for bad in (np.nan, np.inf, -np.inf):
        sketch = Sketch()
        with pytest.raises(ValueError, match="must be finite, got NaN or infinity"):
            sketch.add(np.array([0.0, bad]))
        assert sketch.count == 0
    empty = sketch_of([np.zeros((0, 3))])
    assert empty.count == 0
