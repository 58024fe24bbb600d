# SPDX-License-Identifier: BSD-3-Clause
"""Ridge terms with more weights of a scale than rows: the few weights that the rows can tell apart.

With X = RVᵀ and VᵀV = I, weights w ~ N(0, s²I) reach the rows through v = Vᵀw ~ N(0, s²I) alone: the evidence is that
of v with the columns R, of which there are no more than rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from marglik.priors import Ridge

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array


class Basis(NamedTuple):
    """V, group by group: columns of w, columns of v, and V between them (None where they are the same)."""

    groups: tuple[tuple[Int[Array, "p"], Int[Array, "r"], Float[Array, "p r"] | None], ...]
    n_thin: int

    def times(self, v: Float[Array, "*n r"]) -> Float[Array, "*n p"]:
        """Vv."""
        out = np.zeros((*v.shape[:-1], sum(len(wide) for wide, _, _ in self.groups)))
        for wide, thin, V in self.groups:
            out[..., wide] = v[..., thin] if V is None else v[..., thin] @ V.T
        return out

    def transpose_times(self, w: Float[Array, "*n p"]) -> Float[Array, "*n r"]:
        """Vᵀw."""
        out = np.zeros((*w.shape[:-1], self.n_thin))
        for wide, thin, V in self.groups:
            out[..., thin] = w[..., wide] if V is None else w[..., wide] @ V
        return out


def thinned(term: Ridge) -> tuple[Ridge, Basis] | None:
    """A ridge term with no more weights of a scale than there are rows, and V; None if it is one already."""
    X = term.columns
    n, p = X.shape
    of = np.zeros(p, int) if term.groups is None else term.groups
    if p <= n or np.bincount(of).max() <= n:
        return None
    columns, groups, basis, start = [], [], [], 0
    for g in range(of.max() + 1):
        wide = np.flatnonzero(of == g)
        V, R = np.linalg.qr(X[:, wide].T) if len(wide) > n else (None, X[:, wide].T)
        columns.append(R.T)
        groups.append(np.full(R.shape[0], g))
        basis.append((wide, np.arange(start, start + R.shape[0]), V))
        start += R.shape[0]
    own = None if term.groups is None else np.concatenate(groups)
    thin = replace(term, X=np.concatenate(columns, axis=1), column_names=None, groups=own)
    return thin, Basis(tuple(basis), start)
