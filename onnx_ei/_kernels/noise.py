"""Random words, and uniform noise out of them."""

from __future__ import annotations

import numpy as np

from onnx_ei._kernels._jit import Array, kernel

_ONE = np.uint64(1)
_R8, _R11, _R24, _R32, _R40 = (np.uint64(n) for n in (8, 11, 24, 32, 40))
_L3 = np.uint64(3)
_LOW = np.uint64(0xFFFFFFFF)
_DROPPED_BITS = np.uint32(8)
_SCALE = np.float32(2.0**-24)
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
