"""Random words, and uniform noise out of them."""

from __future__ import annotations

import numpy as np

from onnx_ei._kernels._jit import Array, kernel

_ZERO, _ONE = np.uint64(0), np.uint64(1)
_R8, _R11, _R16, _R24, _R32, _R40 = (np.uint64(n) for n in (8, 11, 16, 24, 32, 40))
_L3 = np.uint64(3)
_LOW = np.uint64(0xFFFFFFFF)
_DROPPED_BITS = np.uint32(8)
_SCALE = np.float32(2.0**-24)
# The constants of NumPy's SeedSequence, which is O'Neill's seed_seq_fe.
_A, _A_STEP = np.uint64(0x43B0D7E5), np.uint64(0x931E8875)
_B, _B_STEP = np.uint64(0x8B51F9DD), np.uint64(0x58F38DED)
_LEFT, _RIGHT = np.uint64(0xCA01F9DD), np.uint64(0x4973F715)
_POOL = 4
_ROUNDS = 12
# Words at a time, which stay in the L1 cache between the two loops.
_BLOCK = 512


@kernel()
def _draw_words(state: Array, words: Array) -> None:
    """Draw words of Doty-Humphrey's SFC64: ``state`` uint64 (>= 4,), stepped; ``words`` uint64."""
    a, b, c, count = state[0], state[1], state[2], state[3]
    for i in range(words.size):
        word = a + b + count
        count += _ONE
        a = b ^ (b >> _R11)
        b = c + (c << _L3)
        c = ((c << _R24) | (c >> _R40)) + word
        words[i] = word
    state[0], state[1], state[2], state[3] = a, b, c, count


@kernel()
def _mix_word(pool: Array, at: int, word: np.uint64, step: Array, rest: bool) -> None:
    """Hash a word of 32 bits, and put it at one place of the pool, or mix it with what is there.

    ``pool`` uint64 (4,) of 32-bit words; ``step`` uint64 (1,): the hash's constant, stepped.
    """
    word = (word ^ step[0]) & _LOW
    step[0] = step[0] * _A_STEP & _LOW
    word = word * step[0] & _LOW
    word ^= word >> _R16
    if rest:
        word = (_LEFT * pool[at] - _RIGHT * word) & _LOW
        word ^= word >> _R16
    pool[at] = word


@kernel()
def _seed_state(words: Array, state: Array) -> None:
    """Seed one SFC64 as ``SFC64(SeedSequence(...))``; ``words`` uint64 (m,), of 32 bits each.

    ``state`` uint64 (6,): filled as for ``_draw_uniform``.
    """
    pool = np.zeros(_POOL, np.uint64)
    step = np.full(1, _A)
    for i in range(_POOL):
        _mix_word(pool, i, words[i] if i < words.size else _ZERO, step, False)
    for i in range(_POOL):
        for at in range(_POOL):
            if at != i:
                _mix_word(pool, at, pool[i], step, True)
    for i in range(_POOL, words.size):
        for at in range(_POOL):
            _mix_word(pool, at, words[i], step, True)
    state[:] = 0
    constant = _B
    for i in range(6):
        word = pool[i % _POOL] ^ constant
        constant = constant * _B_STEP & _LOW
        word = word * constant & _LOW
        state[i // 2] |= (word ^ (word >> _R16)) << (_R32 if i % 2 == 1 else np.uint64(0))
    state[3] = _ONE
    _draw_words(state, np.empty(_ROUNDS, np.uint64))


@kernel()
def _seed_chunks(words: Array, at: int, states: Array) -> None:
    """Seed the SFC64 of chunks that follow each other.

    NumPy took 12 us to seed one, most of the time of drawing a narrow chunk. ``words`` uint64 (m,):
    the seed of the first, in words of 32 bits, of which that ``at`` counts the chunks;
    ``states`` uint64 (chunks, 6), filled.
    """
    seed = words.copy()
    for i in range(states.shape[0]):
        _seed_state(seed, states[i])
        seed[at] += _ONE


@kernel()
def _scale_halves(halves: Array, low: np.float32, high: np.float32, out: Array) -> None:
    """Scale the upper 24 bits of 32-bit words to a range; ``low``, ``high`` and ``out`` float32."""
    width = high - low
    for i in range(out.size):
        value = np.float32(np.int32(halves[i] >> _DROPPED_BITS)) * _SCALE * width + low
        value = low if value < low else value
        out[i] = high if value > high else value


@kernel()
def _draw_uniform(state: Array, low: np.float32, high: np.float32, out: Array) -> None:
    """Draw uniform noise: of each word its lower half, then its upper.

    ``state`` uint64 (6,): SFC64's, whether half a word is left from the last call, and that half;
    stepped. ``low`` and ``high`` float32; ``out`` float32 (n,), filled. Words and scaling in loops
    of their own: the first waits for itself, and would keep the second from vector instructions.
    """
    words = np.empty(_BLOCK, np.uint64)
    halves = np.empty(2 * _BLOCK, np.uint32)
    done = 0
    if state[4] == _ONE and out.size > 0:
        halves[0] = np.uint32(state[5])
        state[4] = 0
        _scale_halves(halves, low, high, out[:1])
        done = 1
    for start in range(done, out.size, 2 * _BLOCK):
        part = out[start : start + 2 * _BLOCK]
        used = words[: (part.size + 1) // 2]
        _draw_words(state, used)
        for i in range(used.size):
            halves[2 * i] = np.uint32(used[i] & _LOW)
            halves[2 * i + 1] = np.uint32(used[i] >> _R32)
        _scale_halves(halves, low, high, part)
        if part.size % 2 == 1:
            state[4] = _ONE
            state[5] = halves[part.size]


@kernel()
def _draw_chunks(states: Array, low: np.float32, high: np.float32, out: Array) -> None:
    """Draw one chunk of noise from each of some states; ``out`` float32 (states, n), filled."""
    for i in range(states.shape[0]):
        _draw_uniform(states[i], low, high, out[i])
