from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnx_ei._sampling.codes import binned_outputs
from onnx_ei.binning import MAX_BINS, Binning, bin_values

quick = settings(derandomize=True, deadline=None, max_examples=40)


def binning_of(lower: Any, upper: Any, n_bins: Any) -> Binning:
    """Make a binning from whatever NumPy turns into arrays."""
    return Binning(lower=lower, upper=upper, n_bins=n_bins)


def codes_of(x: Any, binning: Binning) -> tuple[list[list[int]], list[int]]:
    """Bin values, and return codes and drop counts as lists."""
    x = np.asarray(x)
    out = np.empty(x.shape[::-1], binning.code_dtype)
    dropped = np.zeros(binning.n_units, np.int64)
    bin_values(x, binning, out, dropped)
    return out.tolist(), dropped.tolist()


class TestBinning:
    def test_holds_read_only_copies(self) -> None:
        lower = np.zeros(2)
        binning = binning_of(lower=lower, upper=[1, 2], n_bins=[8, 4])
        lower[0] = 9
        assert binning.lower.tolist() == [0.0, 0.0]
        assert binning.lower.dtype == np.float64
        assert binning.n_bins.dtype == np.int64
        with pytest.raises(ValueError, match="read-only"):
            binning.upper[0] = 3
        with pytest.raises(AttributeError):
            binning.lower = lower  # type: ignore[misc]

    @pytest.mark.parametrize(
        ("bins", "dtype"),
        [([1], np.uint8), ([255], np.uint8), ([3, 256], np.uint16), ([MAX_BINS], np.uint16)],
    )
    def test_code_dtype_holds_the_overflow_state(self, bins: list[int], dtype: Any) -> None:
        units = len(bins)
        binning = binning_of(lower=[0.0] * units, upper=[1.0] * units, n_bins=bins)
        assert binning.code_dtype == dtype
        assert max(bins) <= np.iinfo(dtype).max

    def test_uniform(self) -> None:
        binning = Binning.uniform(3, (-1, 1), np.int64(7))  # type: ignore[arg-type]
        assert binning.n_units == 3
        assert binning.lower.tolist() == [-1.0] * 3
        assert binning.upper.tolist() == [1.0] * 3
        assert binning.n_bins.tolist() == [7] * 3

    @pytest.mark.parametrize(
        "range_",
        [(1, 1), (2, 1), (0, np.inf), (np.nan, 1), (0, np.nan), (-1e308, 1e308)],
    )
    def test_bad_range(self, range_: tuple[float, float]) -> None:
        with pytest.raises(ValueError, match=r"lower < upper, got \(.*\) for unit 0"):
            Binning.uniform(2, range_, 8)

    @pytest.mark.parametrize("bins", [0, -3, MAX_BINS + 1, 2**63])
    def test_bad_number_of_bins(self, bins: int) -> None:
        with pytest.raises(ValueError, match="bins must be from 1 to 65535, got"):
            Binning.uniform(2, (0, 1), bins)

    @pytest.mark.parametrize("bins", [8.0, 8.5, "8", None, True, 2**70])
    def test_bins_that_are_not_integers(self, bins: Any) -> None:
        with pytest.raises(ValueError, match="bins must be integers, got"):
            Binning.uniform(2, (0, 1), bins)

    def test_the_offending_unit_is_named(self) -> None:
        with pytest.raises(ValueError, match="got 0 for unit 1"):
            binning_of(lower=[0.0, 0.0], upper=[1.0, 1.0], n_bins=[2, 0])
        with pytest.raises(ValueError, match=r"got \(0.0, -1.0\) for unit 1"):
            binning_of(lower=[0.0, 0.0], upper=[1.0, -1.0], n_bins=[2, 2])

    def test_bad_shapes(self) -> None:
        with pytest.raises(ValueError, match="got 2, 1 and 2"):
            binning_of(lower=[0.0, 0.0], upper=[1.0], n_bins=[2, 2])
        with pytest.raises(ValueError, match="got 0, 0 and 0"):
            Binning.uniform(0, (0, 1), 2)
        with pytest.raises(ValueError, match=r"upper must be one-dimensional, got shape \(\)"):
            binning_of(lower=[0.0], upper=1.0, n_bins=[2])

    @pytest.mark.parametrize("range_", [1.0, (1.0,), (0.0, 1.0, 2.0), None])
    def test_range_that_is_not_a_pair(self, range_: Any) -> None:
        with pytest.raises(ValueError, match="a range must be a pair"):
            Binning.uniform(1, range_, 2)


class TestBinValues:
    def test_edges_belong_to_the_bin_above_and_the_last_to_the_last(self) -> None:
        x = [[0.0], [0.25], [0.5], [np.nextafter(0.5, 0)], [0.75], [1.0]]
        assert codes_of(x, Binning.uniform(1, (0, 1), 4)) == ([[0, 1, 2, 1, 3, 3]], [0])

    def test_what_lies_outside_is_dropped_and_counted(self) -> None:
        x = [[-0.001], [1.001], [np.nan], [np.inf], [-np.inf], [-0.0]]
        assert codes_of(x, Binning.uniform(1, (0, 1), 4)) == ([[4, 4, 4, 4, 4, 0]], [5])

    def test_just_below_the_range_is_not_the_first_bin(self) -> None:
        # Truncation towards zero would put it there.
        x = [[np.nextafter(-1.0, -2.0)], [-1.0]]
        assert codes_of(x, Binning.uniform(1, (-1, 1), 4)) == ([[4, 0]], [1])

    def test_units_have_their_own_ranges_and_bins(self) -> None:
        binning = binning_of(lower=[0, -1], upper=[1, 1], n_bins=[2, 300])
        codes, dropped = codes_of([[0.6, 0.0], [2.0, 1.0], [0.1, -2.0]], binning)
        assert codes == [[1, 2, 0], [150, 299, 300]]
        assert dropped == [1, 1]

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32, bool])
    def test_dtypes(self, dtype: Any) -> None:
        x = np.array([[0], [1]], dtype)
        assert codes_of(x, Binning.uniform(1, (0, 1), 4)) == ([[0, 3]], [0])

    def test_layouts(self) -> None:
        x = np.random.default_rng(0).random((50, 4))
        binning = Binning.uniform(2, (0, 1), 9)
        expected = codes_of(x[:, ::2].copy(), binning)
        assert codes_of(x[:, ::2], binning) == expected
        assert codes_of(np.asfortranarray(x[:, ::2]), binning) == expected

    def test_drops_are_added(self) -> None:
        dropped, out = np.array([5]), np.empty((1, 2), np.uint8)
        for _ in range(2):
            bin_values(np.array([[2.0], [0.0]]), Binning.uniform(1, (0, 1), 4), out, dropped)
        assert dropped.tolist() == [7]

    @quick
    @given(
        hnp.arrays(
            st.sampled_from([np.float32, np.float64]),
            st.tuples(st.integers(1, 30), st.integers(1, 3)),
            elements=st.floats(-2, 2, width=32) | st.just(np.nan),
        ),
        st.integers(1, 400),
        st.floats(-1.5, 0),
        st.floats(0.01, 1.5),
    )
    def test_invariants(self, x: Any, bins: int, lower: float, upper: float) -> None:
        binning = Binning.uniform(x.shape[1], (lower, upper), bins)
        codes, dropped = codes_of(x, binning)
        wide = x.astype(np.float64)
        inside = (wide >= lower) & (wide <= upper)
        assert dropped == (~inside).sum(axis=0).tolist()
        array = np.array(codes).T
        assert (array[~inside] == bins).all()
        # Up to rounding, each value lies between the edges of its bin.
        kept = array[inside]
        edge = lower + kept * (upper - lower) / bins
        values = wide[inside]
        assert (kept < bins).all()
        assert (values >= edge - 1e-12).all()
        assert (values <= edge + (upper - lower) / bins + 1e-12).all()

    def test_bad_arguments(self) -> None:
        binning = Binning.uniform(2, (0, 1), 300)
        x, out, dropped = np.zeros((5, 2)), np.empty((2, 5), np.uint16), np.zeros(2, np.int64)
        for wrong_x, wrong_out in ((x[:, :1], out), (x[0], out), (x, out[:, :4]), (x, out.T)):
            with pytest.raises(ValueError, match="x must be"):
                bin_values(wrong_x, binning, wrong_out, dropped)
        for wrong in (dropped[:1], dropped.astype(np.int32)):
            with pytest.raises(ValueError, match="dropped must be int64 of shape"):
                bin_values(x, binning, out, wrong)  # type: ignore[arg-type]
        for dtype in (np.uint8, np.int64):
            with pytest.raises(ValueError, match="out must be uint16 or a wider unsigned, got"):
                bin_values(x, binning, out.astype(dtype), dropped)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("limits", [(-1.0, 1.0), (0.1, 0.7), (-3.0, 1e6)])
def test_rounded_ends(dtype: Any, limits: tuple[float, float]) -> None:
    """What is at most four steps of float32 past an end is in its bin, the next is dropped."""
    bins = Binning(lower=np.repeat(limits[0], 2), upper=np.repeat(limits[1], 2), n_bins=[4, 300])
    step = 4 * np.spacing(np.float32(max(map(abs, limits)))).astype(np.float64)
    ends = np.repeat([*limits, limits[0] - step, limits[1] + step], 4).astype(dtype)
    past = [np.nextafter(ends, dtype(side * 9e9)) for side in (-1, 1)]
    x = np.concatenate([ends, *past, np.array([np.nan, np.inf, -np.inf], dtype)])
    codes = binned_outputs(np.repeat(x[:, None], 2, axis=1), bins)
    low, high = (np.float64(end) for end in limits)
    for unit, n_bins in enumerate((4, 300)):
        for value, code in zip(x.astype(np.float64).tolist(), codes[unit].tolist(), strict=True):
            near = low - value <= step and value - high <= step
            moved = min(max(value, low), high)
            at = (
                min(math.floor((moved - low) * n_bins / (high - low)), n_bins - 1) if near else None
            )
            assert code == (n_bins if at is None else at), value
