# SPDX-License-Identifier: BSD-3-Clause
"""A sample without replacement that is the same everywhere: that of R after `set.seed(1)`.

Thin plates of many points take some of them as knots. With R's own draws they have the knots, and so all the numbers,
that they have in R.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int
    from numpy import ndarray as Array


@lru_cache(maxsize=8)
def sample(n: int, size: int, seed: int = 1) -> Int[Array, "size"]:
    """`sample(n, size)`, from 0: Mersenne twister, and rejection of draws of as many bits as n has.

    Examples
    --------
    >>> from marglik.smooths.sampling import sample
    >>> sample(10, 4) + 1  # in R: set.seed(1); sample(10, 4)
    array([9, 4, 7, 1])
    """
    words = _words(seed)
    left = np.arange(n)
    out = np.empty(size, int)
    for i in range(size):
        bits = (n - i - 1).bit_length()
        drawn = n
        while drawn >= n - i:
            drawn = 0
            for _ in range(bits // 16 + 1):
                drawn = drawn << 16 | next(words) >> 16
            drawn &= (1 << bits) - 1
        out[i] = left[drawn]
        left[drawn] = left[n - i - 1]
    out.flags.writeable = False
    return out


def _words(seed: int) -> Iterator[int]:
    """32 random bits at a time, from a state that a linear congruence fills."""
    state = []
    for _ in range(50 + 625):
        seed = (69069 * seed + 1) % 2**32
        state.append(seed)
    twister = np.random.MT19937()
    twister.state = {"bit_generator": "MT19937", "state": {"key": np.array(state[51:], np.uint32), "pos": 624}}
    while True:
        yield int(twister.random_raw())
