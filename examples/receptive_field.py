# SPDX-License-Identifier: BSD-3-Clause
"""The receptive field of a simulated neuron from its spike counts: learned smoothness against ridge.

python examples/receptive_field.py [figure.svg]
"""

import sys

import numpy as np

import marglik
from marglik import Flat, LinearModel, Poisson, ReceptiveField, Ridge

LAGS, PIXELS, N = 12, 16, 600


def simulate(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spike counts of a neuron that sees a flickering bar code, and its field."""
    rng = np.random.default_rng(seed)
    lag, pixel = np.meshgrid(np.arange(LAGS), np.arange(PIXELS), indexing="ij")
    field = np.sin(lag / 2) * np.exp(-lag / 4) * np.exp(-((pixel - 7) ** 2) / 8)
    field *= 0.8 / np.linalg.norm(field)
    movie = rng.standard_normal((N, PIXELS))
    spikes = rng.poisson(np.exp(marglik.lagged(movie, LAGS) @ field.ravel() - 0.5))
    return movie, spikes, field


def main() -> None:
    """Fit both, print what was learned, draw the fields."""
    movie, spikes, field = simulate()
    X = marglik.lagged(movie, LAGS)
    smooth = ReceptiveField(X, shape=(LAGS, PIXELS), dims=("lag", "pixel"))
    fits = {}
    for name, term in {"smooth": smooth, "ridge": Ridge(X, label="field")}.items():
        fits[name] = marglik.fit(LinearModel(Poisson(), Flat(np.ones(N), ["Intercept"]) + term, spikes))
        r = np.corrcoef(fits[name].posterior.mean["field"], field.ravel())[0, 1]
        print(f"{name}: log evidence {fits[name].log_evidence:.1f}, correlation with the field {r:.2f}")
    print(fits["smooth"].hyperparameters.round(2).to_string())
    if len(sys.argv) > 1:
        draw(field, {name: fit.posterior.mean["field"].reshape(field.shape) for name, fit in fits.items()}, sys.argv[1])


def draw(field: np.ndarray, found: dict[str, np.ndarray], path: str) -> None:
    """The true field and those found, on one colour scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.4), layout="constrained")
    axes = figure.subplots(1, 1 + len(found), sharey=True)
    most = np.abs(field).max()
    for ax, (name, values) in zip(axes, {"true": field, **found}.items(), strict=True):
        ax.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
        ax.set(title=name, xlabel="pixel")
    axes[0].set_ylabel("lag")
    figure.savefig(path)


if __name__ == "__main__":
    main()
