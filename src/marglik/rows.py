# SPDX-License-Identifier: BSD-3-Clause
"""Where the data lies. A model sees its rows only through a sum over them and a map over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class InMemory:
    """Rows held as arrays: the response, and what comes with each of its rows.

    Parameters
    ----------
    y : (n,) or (n, V)
        The response; one column a target.
    offset : (n,), optional
        Added to the linear predictor.
    weights : (n,), optional
        Precision weights for a Gaussian likelihood, var(ε_i) = σ²/w_i; for others they multiply log densities.
    counts : (n,), optional
        How many observations each row stands for.
    chunk : int
        Number of rows that a sum or a map handles at a time.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.rows import InMemory
    >>> rows = InMemory(np.arange(5.0), chunk=2)
    >>> rows.sum(lambda part: (rows.y[part].sum(),))
    (np.float64(10.0),)
    >>> rows.map(lambda part: 2 * rows.y[part])
    array([0., 2., 4., 6., 8.])
    """

    y: Float[Array, "n *V"]
    offset: Float[Array, "n"] | None = None
    weights: Float[Array, "n"] | None = None
    counts: Float[Array, "n"] | None = None
    chunk: int = 1 << 17

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.y)

    @property
    def n_observations(self) -> float:
        """Number of observations that the rows stand for."""
        return self.n if self.counts is None else float(np.sum(self.counts))

    @property
    def n_targets(self) -> int:
        """Number of targets, V."""
        return 1 if self.y.ndim == 1 else self.y.shape[1]

    def target(self, v: int) -> InMemory:
        """The same rows with target v alone."""
        return self if self.y.ndim == 1 else replace(self, y=self.y[:, v])

    def slices(self) -> Iterator[slice]:
        """The chunks, as slices of the rows."""
        return (slice(i, min(i + self.chunk, self.n)) for i in range(0, max(self.n, 1), self.chunk))

    def sum(self, f: Callable[[slice], tuple[Array, ...]]) -> tuple[Array, ...]:
        """Σ over chunks of the arrays that f returns for one."""
        totals: tuple[Array, ...] | None = None
        for rows in self.slices():
            part = f(rows)
            totals = part if totals is None else tuple(a + b for a, b in zip(totals, part, strict=True))
        assert totals is not None
        return totals

    def map(self, f: Callable[[slice], Array]) -> Array:
        """What f returns for each chunk, one after the other."""
        parts = [f(rows) for rows in self.slices()]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
