# SPDX-License-Identifier: BSD-3-Clause
"""The same program, hyperparameters and all, sampled by NumPyro's NUTS in double precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from numpyro import handlers
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.distributions import ImproperUniform
from numpyro.infer import MCMC, NUTS

from marglik.interfaces.numpyro.compiling import x64
from marglik.interfaces.numpyro.sites import BadProgram
from marglik.interfaces.numpyro.theta import label

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array
    from pandas import DataFrame

    from marglik.interfaces.numpyro.sites import Call
    from marglik.interfaces.numpyro.theta import Theta

QUANTILES = {"lower": 0.025, "median": 0.5, "upper": 0.975}
BINS = 40
"""Of a histogram."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Draws from the joint posterior of hyperparameters and latent sites.

    Parameters
    ----------
    samples
        Site → draws (n, …), chain after chain; ``deterministic`` sites among them.
    chains
        Number of chains.
    n_divergent
        Draws at which the simulated path went astray: where there are some, parts of the posterior were missed.
    """

    samples: Mapping[str, Float[Array, "n *shape"]]
    chains: int
    n_divergent: int

    def summary(self) -> DataFrame:
        """By element: ``mean, sd, lower, median, upper`` (95 %), ``n_eff`` and ``r_hat``."""
        import pandas as pd

        rows: dict[str, list[float]] = {}
        for name, x in self.samples.items():
            by_chain = x.reshape(self.chains, -1, *x.shape[1:])
            with np.errstate(invalid="ignore", divide="ignore"):  # what never varies
                n_eff, r_hat = effective_sample_size(by_chain), split_gelman_rubin(by_chain)
            low, median, high = np.quantile(x, list(QUANTILES.values()), axis=0)
            columns = (x.mean(axis=0), x.std(axis=0, ddof=1), low, median, high, n_eff, r_hat)
            for i in np.ndindex(*x.shape[1:]):
                rows[label(name, i)] = [float(np.asarray(column)[i]) for column in columns]
        names = ["mean", "sd", *QUANTILES, "n_eff", "r_hat"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=names).rename_axis("name")

    def plot(self, path: str | None = None) -> Any:
        """Histograms with intervals and medians: of elements alone first, then of those of arrays, 12 in all.

        Parameters
        ----------
        path
            Where to write the picture, if anywhere; its ending says in which format: svg, png, pdf.

        Returns
        -------
        The matplotlib figure. Needs ``pip install 'marglik[plot]'``.
        """
        from marglik.report.density_plots import Density, overview

        table, order = self._table, sorted(self.samples, key=lambda name: self.samples[name].ndim > 1)
        densities = []
        for name in order:
            x = self.samples[name]
            for i in np.ndindex(*x.shape[1:]):
                shown = label(name, i)
                p, edges = np.histogram(x[(slice(None), *i)], bins=BINS, density=True)
                steps = np.repeat(edges, 2)[1:-1], np.repeat(p, 2)
                densities.append(Density(shown, *steps, *table.loc[shown, list(QUANTILES)]))
        title = f"{self._n} draws in {self.chains} chains by NUTS"
        words = f"{self.n_divergent} divergent" if self.n_divergent else "none divergent"
        return overview(title, words, densities, path, more="summary()")

    @cached_property
    def _table(self) -> DataFrame:
        return self.summary()

    @property
    def _n(self) -> int:
        return len(next(iter(self.samples.values()))) if self.samples else 0

    def __repr__(self) -> str:
        astray = f", {self.n_divergent} of them divergent" if self.n_divergent else ""
        return f"{self._n} draws in {self.chains} chains by NUTS{astray}\n\n{self._table.round(3)}"


def sample(
    call: Call,
    theta: Theta,
    at: Float[Array, "k"],
    held: frozenset[str],
    draws: int,
    warmup: int,
    chains: int,
    seed: int,
) -> Samples:
    """Draws from p(θ, w|y): sample sites with their own priors, ``param`` sites flat on their support, held ones held.

    Raises
    ------
    BadProgram
        A number that is no count; a site of which some elements are held and others are not.
    """
    for what, value, least in (("draws", draws, 4), ("warmup", warmup, 0), ("chains", chains, 1)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise BadProgram(f"{what} must be a whole number, {least} or more, not {value!r}.")
    values = {name: np.asarray(value) for name, value in _values(theta, at).items()}
    flat = {s.name: ImproperUniform(s.constraint, (), s.shape) for s in theta.sites if not s.has_prior}
    given = {}
    for site in theta.sites:
        elements = [name in held for name in theta.elements(site)]
        if all(elements):
            given[site.name] = values[site.name]
        elif any(elements):
            raise BadProgram(f"Some elements of {site.name!r} are held and others are not; hold all of them or none.")
    with x64():
        function = handlers.lift(call.function, prior=flat)
        kernel = NUTS(handlers.condition(function, data=given))
        settings: dict[str, Any] = {"chain_method": "sequential" if chains == 1 else "vectorized"}
        run = MCMC(kernel, num_warmup=warmup, num_samples=draws, num_chains=chains, progress_bar=False, **settings)
        run.run(jax.random.PRNGKey(seed), *call.args, extra_fields=("diverging",), **call.kwargs)
        found = {name: np.asarray(x) for name, x in run.get_samples().items() if name not in given}
        astray = int(np.asarray(run.get_extra_fields()["diverging"]).sum())
    return Samples(found, chains, astray)


def _values(theta: Theta, at: Float[Array, "k"]) -> Mapping[str, Any]:
    with x64():
        return theta.unravel(at)
