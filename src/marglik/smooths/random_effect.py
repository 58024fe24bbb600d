# SPDX-License-Identifier: BSD-3-Clause
"""Random effects as a smooth: one independent coefficient a level, or a combination of levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from marglik.smooths.base import NamedBasis, products

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array


@dataclass(frozen=True, eq=False)
class RandomEffect(NamedBasis):
    """The product of its covariates, where a categorical one counts as a column of zeros and ones for every level.

        S = I

    Levels of the first categorical run fastest. A level that the data do not have has no effect.

    Parameters
    ----------
    levels
        Of each covariate; None where it is a number.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.smooths import RandomEffect
    >>> effect = RandomEffect((np.array(["a", "b"]), None))
    >>> effect.design([np.array(["b", "a"]), np.array([2.0, 3.0])])
    array([[0., 2.],
           [3., 0.]])
    """

    bs = "re"
    centred = False
    levels: tuple[Any, ...]

    @classmethod
    def of(cls, x, asked):
        if asked.k is not None or asked.knots:
            raise ValueError(
                f"{asked.label} gives k or knots, but bs='re' has one coefficient a level. Leave them out."
            )
        asked.without_orders(cls.bs)
        return cls(tuple(None if np.asarray(column).dtype.kind in "iuf" else np.unique(column) for column in x))

    def extrapolates(self, covariate):
        return False

    def design(self, x):
        out = np.ones((len(x[0]), 1))
        for column, levels in zip(x, self.levels, strict=True):
            out = products(column[:, None] if levels is None else column[:, None] == levels, out)
        return out

    def unseen(self, x):
        known, size = np.ones(len(x[0]), bool), np.ones(len(x[0]))
        for column, levels in zip(x, self.levels, strict=True):
            if levels is None:
                size = size * column**2
            else:
                known &= np.isin(column, levels)
        return np.where(known, 0.0, size)

    @property
    def penalties(self) -> tuple[Float[Array, "k k"], ...]:
        return (np.eye(int(np.prod([1 if levels is None else len(levels) for levels in self.levels]))),)

    @property
    def null_dimension(self):
        return 0
