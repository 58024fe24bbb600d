# SPDX-License-Identifier: BSD-3-Clause
"""Seeded data, kept under data/ once made."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "data"

Arrays = dict[str, np.ndarray]


def cached(name: str, make: Callable[[], Arrays]) -> Arrays:
    path = FOLDER / f"{name}.npz"
    if not path.exists():
        FOLDER.mkdir(exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **make())
        partial.replace(path)
    with np.load(path) as file:
        return dict(file)


def cached_csv(name: str, frame) -> Path:
    """The file of a data frame, for programs that read no other."""
    path = FOLDER / f"{name}.csv"
    if not path.exists():
        partial = path.with_suffix(".partial.csv")
        frame.to_csv(partial, index=False)
        partial.replace(path)
    return path


def correlated_design(rng, p: int, rho: float = 0.5) -> Callable[[int], np.ndarray]:
    """Draws of rows whose columns have unit variance, a share ρ of it from max(2, p/10) common factors."""
    k = max(2, p // 10)
    loadings = rng.standard_normal((k, p))
    loadings /= np.sqrt((loadings**2).sum(0))

    def draw(m: int) -> np.ndarray:
        white = rng.standard_normal((m, p))
        return np.sqrt(1 - rho) * white + np.sqrt(rho) * rng.standard_normal((m, k)) @ loadings

    return draw
