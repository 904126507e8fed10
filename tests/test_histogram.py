from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_ei import histogram
from onnx_ei.histogram import Keys, check_codes, joint_counts, pack_keys, state_ids

quick = settings(derandomize=True, deadline=None, max_examples=30)

# Exact in one word, in exactly one, in two, hashed.
BINS = {
    "one word": [5, 8, 1, 3],
    "all of one word": [256] * 8,
    "two words": [7] * 30,
    "hashed": [4] * 100,
    "hashed, wide": [1000] * 20,
}


def keys_of(codes: Any, bins: Any) -> tuple[Keys, Any]:
    keys, kept = Keys.empty(codes.shape[1]), np.ones(codes.shape[1], bool)
    pack_keys(codes, np.asarray(bins), *keys, kept)
    return keys, kept


def vectors(bins: list[int], n: int, distinct: int, seed: int = 0) -> Any:
    """Draw samples from a few distinct vectors, some of which differ in one unit only."""
    rng = np.random.default_rng(seed)
    pool = rng.integers(0, np.array(bins)[:, None], (len(bins), distinct))
    for column in range(1, distinct, 2):
        pool[:, column] = pool[:, column - 1]
        unit = rng.integers(len(bins))
        pool[unit, column] = (pool[unit, column] + 1) % bins[unit]
    return pool[:, rng.integers(0, distinct, n)].astype(np.uint16)


class TestJointCounts:
    def test_against_numpy(self) -> None:
        rng = np.random.default_rng(0)
        x, y = rng.integers(0, 5, 1000), rng.integers(0, 4, 1000)
        expected = np.zeros((4, 3), int)
        good = (x < 4) & (y < 3)
        np.add.at(expected, (x[good], y[good]), 1)
        counts = joint_counts(x.astype(np.uint8), y.astype(np.uint8), 4, 3)
        assert counts.dtype == np.int64
        np.testing.assert_array_equal(counts, expected)

    @pytest.mark.parametrize("bins", [(1, 1), (1, 300), (255, 256), (1000, 2)])
    def test_sizes(self, bins: tuple[int, int]) -> None:
        rng = np.random.default_rng(1)
        x, y = (rng.integers(0, b, 200).astype(np.uint16) for b in bins)
        assert joint_counts(x, y, *bins).shape == bins
        assert joint_counts(x, y, *bins).sum() == 200

    def test_strided_codes(self) -> None:
        codes = np.arange(40, dtype=np.uint8).reshape(4, 10) % 3
        expected = joint_counts(codes[:, 0].copy(), codes[:, 3].copy(), 3, 3)
        np.testing.assert_array_equal(joint_counts(codes[:, 0], codes[:, 3], 3, 3), expected)

    def test_no_samples(self) -> None:
        nothing = np.empty(0, np.uint8)
        assert joint_counts(nothing, nothing, 2, 3).tolist() == [[0] * 3] * 2

    @quick
    @given(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=60), st.integers(0, 60)
    )
    def test_counts_and_dropped_are_the_samples_and_merge(
        self, pairs: list[tuple[int, int]], cut: int
    ) -> None:
        codes = np.array(pairs, np.uint8).reshape(-1, 2)
        counts = joint_counts(codes[:, 0], codes[:, 1], 3, 5)
        dropped = int(((codes[:, 0] == 3) | (codes[:, 1] == 5)).sum())
        assert counts.sum() + dropped == len(pairs)
        parts = [joint_counts(part[:, 0], part[:, 1], 3, 5) for part in (codes[:cut], codes[cut:])]
        np.testing.assert_array_equal(sum(parts), counts)

    def test_bad_arguments(self) -> None:
        x = np.array([0, 3], np.uint8)
        with pytest.raises(ValueError, match="two vectors of one length"):
            joint_counts(x, x[:1], 4, 4)
        with pytest.raises(ValueError, match="a code of unit 0 is 3, past its 2 bins"):
            joint_counts(x, x, 4, 2)
        with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
            joint_counts(x, x, 0, 4)
        with pytest.raises(ValueError, match="unsigned integers, got int64"):
            joint_counts(x.astype(np.int64), x, 4, 4)


def test_check_codes_names_the_unit() -> None:
    codes = np.array([[0, 1], [2, 9]], np.uint8)
    check_codes(codes, np.array([1, 9]))
    with pytest.raises(ValueError, match="a code of unit 1 is 9, past its 8 bins"):
        check_codes(codes, np.array([1, 8]))


class TestKeys:
    @pytest.mark.parametrize("case", BINS)
    def test_equal_keys_exactly_where_vectors_are_equal(self, case: str) -> None:
        codes = vectors(BINS[case], 600, 40)
        keys, kept = keys_of(codes, BINS[case])
        assert kept.all()
        _, expected = np.unique(codes, axis=1, return_inverse=True)
        _, got = np.unique(np.stack(keys), axis=1, return_inverse=True)
        np.testing.assert_array_equal(
            expected[:, None] == expected[None, :], got[:, None] == got[None, :]
        )

    def test_one_word_leaves_the_other_empty(self) -> None:
        for bins in ([5, 8], [256] * 8, [256] * 8 + [1]):
            assert not keys_of(vectors(bins, 20, 5), bins)[0].hi.any()

    def test_every_bit_of_a_full_word_counts(self) -> None:
        bins = [2] * 64
        codes = np.concatenate([np.zeros((64, 1)), np.eye(64)], axis=1).astype(np.uint8)
        keys, _ = keys_of(codes, bins)
        assert keys.lo.tolist() == [0] + [2**i for i in range(64)]

    def test_hash_spreads_over_all_bits(self) -> None:
        bins = [2] * 200
        codes = np.concatenate([np.zeros((200, 1)), np.eye(200)], axis=1).astype(np.uint8)
        for word in keys_of(codes, bins)[0]:
            ones = np.array([[int(w) >> i & 1 for i in range(64)] for w in word])
            assert abs(ones.mean() - 0.5) < 0.02
            assert np.abs(ones.mean(axis=0) - 0.5).max() < 0.15

    @pytest.mark.parametrize("case", BINS)
    def test_any_overflow_drops_the_sample(self, case: str) -> None:
        bins = BINS[case]
        codes = vectors(bins, 50, 10)
        for sample, unit in ((3, 0), (30, len(bins) - 1)):
            codes[unit, sample] = bins[unit]
        assert np.flatnonzero(~keys_of(codes, bins)[1]).tolist() == [3, 30]

    def test_kept_is_only_cleared(self) -> None:
        codes, kept = np.array([[0, 1, 2]], np.uint8), np.array([False, True, True])
        pack_keys(codes, np.array([2]), *Keys.empty(3), kept)
        assert kept.tolist() == [False, True, False]

    @pytest.mark.parametrize("case", BINS)
    def test_keys_do_not_depend_on_how_samples_are_cut(self, case: str) -> None:
        codes = vectors(BINS[case], 700, 50)
        whole, _ = keys_of(codes, BINS[case])
        parts = [keys_of(codes[:, at], BINS[case])[0] for at in (slice(0, 9), slice(9, None))]
        np.testing.assert_array_equal(np.stack(whole), np.concatenate(parts, axis=1))

    @pytest.mark.parametrize(("bins", "words"), [*zip(BINS.values(), (1, 1, 2, 2, 2), strict=True)])
    def test_words_that_are_needed(self, bins: list[int], words: int) -> None:
        n_bins = np.array(bins)
        assert Keys.words(n_bins) == words
        codes, kept = np.zeros((n_bins.size, 4), np.uint16), np.ones(4, bool)
        codes[0] = [0, 1, 2, 0]
        whole, _ = keys_of(codes, bins)
        if words == 1:
            lo = np.empty(4, np.uint64)
            pack_keys(codes, n_bins, lo[:0], lo, kept)
            np.testing.assert_array_equal(lo, whole.lo)
            assert not whole.hi.any()
        else:
            with pytest.raises(ValueError, match="out_hi, out_lo and kept must be"):
                pack_keys(codes, n_bins, whole.hi[:0], whole.lo, kept)

    def test_bad_arguments(self) -> None:
        codes, keys = np.zeros((2, 3), np.uint8), Keys.empty(3)
        for bins in ([2], [2, 2, 2], [[2, 2]]):
            with pytest.raises(ValueError, match=r"n_bins must be \(2,\)"):
                pack_keys(codes, np.array(bins), *keys, np.ones(3, bool))
        with pytest.raises(ValueError, match="at least one unit"):
            pack_keys(codes[:0], np.array([], int), *keys, np.ones(3, bool))
        with pytest.raises(ValueError, match=r"out_hi, out_lo and kept must be \(3,\)"):
            pack_keys(codes, np.array([2, 2]), *keys, np.ones(2, bool))


class TestStateIds:
    @pytest.mark.parametrize("n_states", [1, 5, 1000, 2**50])
    def test_against_numpy(self, n_states: int) -> None:
        rng = np.random.default_rng(2)
        hi, lo = rng.integers(0, [[3], [n_states]], (2, 2000)).astype(np.uint64)
        kept = rng.random(2000) < 0.9
        ids, counts = state_ids(hi, lo, kept)
        pairs = np.stack([hi, lo])[:, kept]
        _, inverse, expected = np.unique(pairs, axis=1, return_inverse=True, return_counts=True)
        assert (ids[~kept] == -1).all()
        assert sorted(counts.tolist()) == sorted(expected.tolist())
        assert counts.sum() == kept.sum()
        # One state, one number: the pairs of both numberings are as many as the states.
        assert len(set(zip(inverse.tolist(), ids[kept].tolist(), strict=True))) == counts.size
        np.testing.assert_array_equal(np.bincount(ids[kept]), counts)

    def test_both_words_tell_keys_apart(self) -> None:
        words = np.array([0, 0, 1, 1], np.uint64), np.array([0, 1, 0, 1], np.uint64)
        assert state_ids(*words, np.ones(4, bool))[1].tolist() == [1] * 4

    @pytest.mark.parametrize("n", [0, 5])
    def test_nothing_kept(self, n: int) -> None:
        words = np.zeros(n, np.uint64)
        ids, counts = state_ids(words, words, np.zeros(n, bool))
        assert ids.tolist() == [-1] * n
        assert counts.size == 0

    @quick
    @given(st.lists(st.integers(0, 8), max_size=40), st.randoms(use_true_random=False))
    def test_numbers_are_dense(self, values: list[int], random: Any) -> None:
        lo = np.array(values, np.uint64)
        kept = np.array([random.random() < 0.8 for _ in values], bool)
        ids, counts = state_ids(np.zeros_like(lo), lo, kept)
        assert set(ids[kept].tolist()) == set(range(counts.size))
        assert counts.sum() + (ids == -1).sum() == len(values)

    def test_dropped_samples_do_not_change_the_numbering(self) -> None:
        lo = np.random.default_rng(3).integers(0, 50, 300).astype(np.uint64)
        kept = np.arange(300) % 3 > 0
        ids, counts = state_ids(np.zeros_like(lo), lo, kept)
        alone = state_ids(np.zeros_like(lo)[kept], lo[kept], np.ones(200, bool))
        np.testing.assert_array_equal(ids[kept], alone[0])
        np.testing.assert_array_equal(counts, alone[1])

    def test_one_word_is_enough_where_the_other_is_zero(self) -> None:
        lo = np.random.default_rng(5).integers(0, 50, 300).astype(np.uint64)
        kept = np.arange(300) % 3 > 0
        both, alone = state_ids(np.zeros_like(lo), lo, kept), state_ids(lo[:0], lo, kept)
        for one, other in zip(both, alone, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_bad_lengths(self) -> None:
        words = np.zeros(3, np.uint64)
        with pytest.raises(ValueError, match="vectors of one length"):
            state_ids(words, words, np.ones(2, bool))


@pytest.mark.jit
@pytest.mark.skipif(numba.get_num_threads() < 2, reason="there is one thread only")
def test_states_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    lo = np.random.default_rng(4).integers(0, 3000, 50_000).astype(np.uint64)
    before, found = numba.get_num_threads(), []
    here = state_ids(np.zeros_like(lo), lo, np.ones(lo.size, bool))
    monkeypatch.setattr(histogram, "MANY_SAMPLES", 0)
    try:
        for threads in (1, 2):
            numba.set_num_threads(threads)
            found.append(state_ids(np.zeros_like(lo), lo, np.ones(lo.size, bool)))
    finally:
        numba.set_num_threads(before)
    for ids, counts in found:
        np.testing.assert_array_equal(ids, here[0])
        np.testing.assert_array_equal(counts, here[1])
