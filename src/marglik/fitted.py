# SPDX-License-Identifier: BSD-3-Clause
"""`Fit`: what is known of a model once its hyperparameters are learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from marglik import learn, tables
from marglik.check import Check, checked
from marglik.evidence import Evidence, EvidenceMethod, evaluate
from marglik.model import LinearModel, Model
from marglik.newrows import Source, rows_to_predict
from marglik.pools import within_one_pool
from marglik.posterior.base import ArrowPosterior, Gaussian, NewRows, Posterior, TermPosterior
from marglik.posterior.prediction import linear_predictor, one_of, predicted
from marglik.posterior.wide import widened
from marglik.simulation import simulate
from marglik.targets import TargetsPosterior, one
from marglik.uncertainty import value_at_limit
from marglik.validate import Unsupported

if TYPE_CHECKING:
    from numpy import ndarray as Array
    from pandas import DataFrame

    from marglik.integrated import Integrated

A_PROGRAM = "A program has no {}: that is for linear models. Its sites are in fit.posterior.mean."


@within_one_pool
@dataclass(frozen=True, eq=False)
class Fit:
    """A model with its hyperparameters at the maximum of the marginal likelihood.

    Made by `marglik.fit`; see there for examples. Tables are pandas frames. With several targets, values have a
    first axis (or index level) for the target.

    Attributes
    ----------
    model : Model
        The integrand.
    method : str
        How weights were integrated out; ``reason`` says why it was chosen.
    optimum : learn.Optimum
        Where learning ended.

    Examples
    --------
    >>> import marglik
    >>> data = {"y": [1.0, 1.3, 2.9, 3.1, 5.2, 4.8], "g": ["a", "a", "b", "b", "c", "c"]}
    >>> fit = marglik.fit("y ~ 1 + (1 | g)", data)
    >>> fit.random_effects("g").round(2)
       Intercept
    g
    a      -1.89
    b      -0.05
    c       1.94
    >>> fit.predict({"g": ["a", "new"]}).round(2)
    array([1.16, 3.05])
    >>> print(fit.check())
    The evidence is at a maximum and is exact.
    """

    model: Model
    evidence_method: EvidenceMethod
    reason: str
    optimum: learn.Found
    objective: learn.Objective
    source: Source | None = None
    notes: tuple[str, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """Without functions that would compute more of the evidence, which a copy computes anew."""
        return {name: value for name, value in self.__dict__.items() if name != "_evidence"}

    @property
    def method(self) -> str:
        """Name of the evidence method."""
        return type(self.evidence_method).__name__.lower()

    @property
    def converged(self) -> Any:
        """Whether learning reached a maximum (an array for several targets)."""
        return self._per_target(self.optimum.converged)

    @property
    def n_iterations(self) -> int:
        """Newton steps taken."""
        return self.optimum.n_iterations

    @property
    def trace(self) -> Array:
        """The objective after each step."""
        return self._per_target(np.array(self.optimum.trace).T)

    @property
    def optima(self) -> DataFrame:
        """Distinct maxima of the evidence that searches met, the reported one first; `fit(restarts=)` searches more."""
        return tables.optima(self.objective, self.optimum)

    @property
    def reml(self) -> bool:
        """Whether fixed effects were integrated out rather than maximised."""
        return getattr(self.model, "reml", True)

    @property
    def criterion(self) -> str:
        """Which number `log_evidence` is, in the words of other programs."""
        flat = isinstance(self.model, LinearModel) and self.model.n_flat > 0
        return tables.criterion(flat, flat and self._linear.likelihood.gaussian, self.reml)

    def _per_target(self, x: Array) -> Any:
        return x if self._many else x[0].item() if np.ndim(x[0]) == 0 else x[0]

    @cached_property
    def _many(self) -> bool:
        return isinstance(self.model, LinearModel) and self.model.rows.y.ndim == 2

    @cached_property
    def _one_by_one(self) -> bool:
        return self._many and not self.evidence_method.batched(self.model)

    def target(self, v: int) -> Fit:
        """The fit of one target, of several.

        Parameters
        ----------
        v
            Number of the target, from 0.

        Raises
        ------
        ValueError
            There is no such target, or it could not be learned.

        Examples
        --------
        >>> import numpy as np
        >>> from marglik import Flat, LinearModel, Poisson, Ridge, fit
        >>> x = np.linspace(-1, 1, 8)
        >>> counts = np.array([[0, 3], [1, 2], [2, 2], [2, 1], [3, 2], [5, 1], [9, 0], [12, 1]])
        >>> both = fit(LinearModel(Poisson(), Flat(np.ones(8), ["Intercept"]) + Ridge(x), counts))
        >>> both.target(1).fixed_effects.round(2)
                   estimate   se  lower  upper
        name
        Intercept      0.36  0.3  -0.23   0.94
        """
        if not self._many:
            raise ValueError("The fit has one target only.")
        if not 0 <= v < self._linear.n_targets:
            raise ValueError(f"There is no target {v!r}: they are numbered from 0 to {self._linear.n_targets - 1}.")
        if np.isnan(self.optimum.theta[v]).any():
            raise ValueError(f"Target {v} could not be learned; fit.notes may say why.")
        model = self._linear.target(v)
        objective = replace(self.objective, model=model)
        return replace(self, model=model, optimum=one(self.optimum, v, objective), objective=objective)

    def _each(self) -> Iterator[Fit | None]:
        """The fit of every target; None where one could not be learned."""
        learned = ~np.isnan(self.optimum.theta).any(axis=1)
        return (self.target(v) if known else None for v, known in enumerate(learned))

    def _joined(self, read: Callable[[Fit], DataFrame]) -> DataFrame:
        """A table of every target, one below the other; NaN for a target that could not be learned."""
        return tables.joined([None if fit is None else read(fit) for fit in self._each()])

    @cached_property
    def log_evidence(self) -> Any:
        """log p(y|θ̂) in nats, every constant kept; the limit where a hyperparameter runs to zero."""
        if self._one_by_one:
            return np.array([np.nan if fit is None else fit.log_evidence for fit in self._each()])
        return self._per_target(value_at_limit(self.model.hyperparameters, self.optimum, self._evidence))

    @cached_property
    def _evidence(self) -> Evidence:
        return evaluate(self.evidence_method, self.model, self.optimum.theta, self.optimum.warm)

    def log_evidence_at(self, values: Mapping[str, float]) -> Any:
        """The same objective at other hyperparameters.

        Parameters
        ----------
        values
            Name → value; hyperparameters that are not named stay at their estimates. Scales are standard
            deviations. Under ``reml=False`` the fixed effects are maximised anew.

        Raises
        ------
        UnknownName, ValueError
            A name or a value that the model does not have.
        """
        if self._one_by_one:
            return np.array([np.nan if fit is None else fit.log_evidence_at(values) for fit in self._each()])
        h = self.model.hyperparameters
        theta = h.vector(values, self.optimum.theta)
        fixed_effects = np.array([x.fixed_effect for x in h])
        if fixed_effects.any():
            free = np.broadcast_to(fixed_effects, theta.shape)
            return self._per_target(learn.maximise(self.objective, theta, free).value)
        evidence = evaluate(self.evidence_method, self.model, theta, self.optimum.warm)
        return self._per_target(np.asarray(evidence.log_value))

    @cached_property
    def hyperparameters(self) -> DataFrame:
        """Estimates with standard errors and 95 % intervals: ``estimate, se, lower, upper, at_boundary``.

        Intervals are computed on the unconstrained scale. At a boundary the estimate is exactly 0, or infinity, se is
        NaN and the other end is where twice the drop of the log evidence is 2.71, others re-optimised; with one scale
        a column, the others as they are.
        """
        if self._one_by_one:
            joined = self._joined(lambda fit: fit.hyperparameters)
            return joined.assign(at_boundary=joined["at_boundary"].fillna(0).astype(bool))
        return tables.hyperparameters(self.objective, self.optimum, self._many)

    @cached_property
    def posterior(self) -> Posterior:
        """The weights given y and θ̂: ``mean`` and ``sd`` by term, ``sample(n, seed)``."""
        if self._one_by_one:
            return TargetsPosterior(self, ~np.isnan(self.optimum.theta).any(axis=1))
        method, optimum = self.evidence_method, self.optimum
        start = self._evidence.posterior if method.modal and not method.exact else optimum.warm
        found = method.posterior(self.model, optimum.theta, start)
        if not isinstance(self.model, LinearModel):
            return self.model.posterior(self.optimum.theta[0], found)  # type: ignore[attr-defined]
        if isinstance(found, TermPosterior):
            return found
        theta = self.optimum.theta[0]
        model = self.model.compact(theta)
        if not model.flat_in_theta:
            return widened(self.model, ArrowPosterior(model, theta, found))
        joint = model.with_flat_in_theta(False)
        k = len(joint.hyperparameters)
        top, bottom = model.columns.split(found.mean)
        u = np.concatenate([top.reshape(-1), theta[k:], bottom])
        return widened(self.model, ArrowPosterior(joint, theta[:k], Gaussian(u, joint.at(u, theta[:k]).neg_hessian)))

    def _terms(self, what: str) -> TermPosterior:
        if not isinstance(self.posterior, TermPosterior):
            raise Unsupported(A_PROGRAM.format(what))
        return self.posterior

    @property
    def _linear(self) -> LinearModel:
        if not isinstance(self.model, LinearModel):
            raise Unsupported(A_PROGRAM.format("terms"))
        return self.model

    def vcov(self) -> DataFrame:
        """Covariance matrix of the fixed effects."""
        posterior = self._terms("fixed effects")
        if self._one_by_one:
            return self._joined(lambda fit: fit.vcov())
        return tables.vcov(self._linear, self.optimum, posterior)

    @cached_property
    def fixed_effects(self) -> DataFrame:
        """Flat weights: ``estimate, se, lower, upper`` (95 %), in the units of their columns."""
        return tables.fixed_effects(self._linear, self._terms("fixed effects"), self.vcov())

    def confint(self, method: str = "wald", level: float = 0.95, names: str | Sequence[str] | None = None) -> DataFrame:
        """Intervals of hyperparameters and fixed effects: columns ``estimate, lower, upper``.

        Parameters
        ----------
        method
            ``"wald"``: from the curvature on the unconstrained scale (normal for fixed effects). ``"profile"``: where
            the log evidence, all others at their best, has dropped by half the quantile of χ²₁; for fixed effects
            that of the likelihood (ML), also where the fit itself integrated them.
        level
            Coverage that is meant.
        names
            Which to compute; all by default.

        Raises
        ------
        ValueError
            A name that the fit does not have, or a profile where there is none: several targets, fixed effects outside
            the Gaussian.

        Examples
        --------
        >>> import marglik
        >>> data = {"y": [1.0, 1.3, 2.9, 3.1, 5.2, 4.8], "g": ["a", "a", "b", "b", "c", "c"]}
        >>> marglik.fit("y ~ 1 + (1 | g)", data).confint("profile").round(2)
                           estimate  lower  upper
        name
        sd(Intercept | g)      1.92   0.90   8.06
        sd(noise)              0.22   0.12   0.65
        Intercept              3.05   0.52   5.58
        """
        from marglik.intervals import confint

        return confint(self, method, level, names)

    def simulate(self, n: int = 1, seed: int = 0) -> Array:
        """Data sets from the fitted model: random weights drawn anew from their prior, fixed effects as estimated.

        Parameters
        ----------
        n, seed
            Number of data sets, and the seed of the random generator.

        Returns
        -------
        Array (n, rows)

        Raises
        ------
        ValueError
            Several targets; rows that stand for several observations; log densities with weights.

        Examples
        --------
        >>> import marglik
        >>> data = {"y": [1.0, 1.3, 2.9, 3.1, 5.2, 4.8], "g": ["a", "a", "b", "b", "c", "c"]}
        >>> marglik.fit("y ~ 1 + (1 | g)", data).simulate(n=3).shape
        (3, 6)
        """
        posterior = self._terms("rows")
        if self._many:
            raise ValueError("simulate is for one target at a time; fit the target alone.")
        theta = self.optimum.theta[0][: self._linear.n_prior_theta + len(self._linear.likelihood.hyperparameters())]
        return simulate(self._linear, theta, posterior.mean, n, seed)

    def random_effects(self, group: str | None = None) -> DataFrame:
        """Posterior means of a grouping factor's weights: levels × coefficients; ``.attrs["sd"]`` has their sds.

        Parameters
        ----------
        group
            Name of the grouping factor; may be left out if there is only one. Terms of the same factor stand side by
            side.

        Raises
        ------
        ValueError
            There is no such factor.
        """
        posterior = self._terms("random effects")
        return tables.random_effects(self._linear, posterior.mean, {"sd": posterior.sd}, group)

    @cached_property
    def edf(self) -> Any:
        """Effective degrees of freedom by term (a frame, targets × terms, for several targets)."""
        import pandas as pd

        edf = tables.edf(self._linear, self._terms("terms").edf)
        return pd.DataFrame(edf) if self._many else pd.Series(edf, name="edf")

    @cached_property
    def occam(self) -> DataFrame:
        """The log evidence as fit less complexity: one column ``nats`` that sums to `log_evidence`.

        ``fit`` is log p(y|ŵ, θ̂); a term's row is what its prior and the width of its posterior cost, log p(ŵ_t|θ̂) +
        ½ p_t log 2π − ½ log|H_tt|; ``overlap`` = ½ (Σ log|H_tt| − log|H|) ≥ 0 is what terms share; under quadrature,
        ``beyond_laplace`` is what a Gaussian posterior leaves out.
        """
        parts = dict(self._terms("terms").occam())
        if not self.evidence_method.modal:
            parts["beyond_laplace"] = self.log_evidence - sum(parts.values())
        return tables.occam(parts, self._many)

    def predict(
        self,
        new: Any = None,
        interval: float | None = None,
        scale: str = "response",
        average: bool = False,
        include: Any = None,
        new_levels: str = "population",
    ) -> Any:
        """Predict the mean of new responses.

        Parameters
        ----------
        new
            Data with the model's columns; the rows of the fit if not given. For a model of arrays, term label →
            columns (for a grouping term, the codes of its levels).
        interval
            Probability of an interval for the *mean*, such as 0.95; with it a frame ``mean, lower, upper`` is
            returned (θ held at θ̂; the noise of single observations is not included).
        scale
            ``"response"`` (inverse link of the linear predictor) or ``"link"``.
        average
            Integrate the inverse link over the posterior rather than take it at the posterior mean.
        include
            Labels of the terms to use, such as ``["fixed effects"]`` for the population; all by default. The constant
            and the offset belong to the fixed effects: any other term alone is its own contribution, as with
            ``type="terms"`` in R.
        new_levels
            For levels of a grouping factor that were not in the fit: ``"population"`` predicts with an effect of
            zero (and widens the interval by its prior), ``"raise"`` refuses.

        Returns
        -------
        Array (n,), or (n, V) for several targets; or a DataFrame with an interval.
        """
        posterior, model = self._terms("linear predictor"), self._linear
        one_of("new_levels", new_levels, ("population", "raise"))
        rows = rows_to_predict(model, self.source, new, include, new_levels)
        own = self.optimum.theta[:, model.n_prior_theta :].T
        return predicted(model.likelihood, own, self._linear_predictor(posterior, rows), interval, scale, average)

    def _linear_predictor(self, posterior: TermPosterior, rows: NewRows) -> tuple[Array, Array]:
        return linear_predictor(self._linear, self.optimum.theta[0], posterior, rows)

    def effect(
        self, label: str, at: Any = None, n: int | None = None, interval: float = 0.95, hyperparameters: bool = False
    ) -> DataFrame:
        """A smooth as a curve or surface with its band.

        The band is that of the posterior of its flat and its other weights together, centred as the smooth is (Nychka
        1988; Marra & Wood 2012). With ``hyperparameters=True`` it includes, to first order, that θ is not known
        (Kass & Steffey 1989): J V_θ Jᵀ is added, J the derivatives of the posterior mean in θ.

        Parameters
        ----------
        label
            The term's, such as ``"s(x)"``; a ValueError lists those there are.
        at
            Data with its columns; a grid over those of the fit if not given.
        n
            Points of that grid along each column of numbers; 100, or 40 where there are several.
        interval
            Probability of the band at each point.
        hyperparameters
            Whether the uncertainty of θ is included.

        Returns
        -------
        DataFrame
            The columns that the smooth is a function of, and ``estimate, se, lower, upper`` on the scale of η.

        Examples
        --------
        >>> import numpy as np
        >>> import marglik
        >>> x = np.linspace(0, 1, 60)
        >>> y = np.sin(6 * x) + np.random.default_rng(0).normal(0, 0.2, 60)
        >>> marglik.fit("y ~ s(x)", {"x": x, "y": y}).effect("s(x)", n=3).round(2)
             x  estimate    se  lower  upper
        0  0.0      0.03  0.10  -0.16   0.22
        1  0.5      0.06  0.05  -0.04   0.16
        2  1.0     -0.42  0.10  -0.62  -0.23
        """
        from marglik.effects import effect

        return effect(self, label, at, n, interval, hyperparameters)

    def integrate_hyperparameters(
        self, prior: Mapping[str, Any] | None = None, design: str = "auto", seed: int = 0
    ) -> Integrated:
        """Integrate over the hyperparameters around θ̂ instead of holding them there.

        Parameters
        ----------
        prior
            Name → log density: a function of the value, or an object with ``logpdf``, such as
            `marglik.half_normal(1.0)`. By default flat on standard deviations (not on their logarithms), correlations,
            and 1/√x for ``size``, ``shape``, ``precision`` and ``df``; of processes and fields
            `marglik.penalised_complexity` and `marglik.penalised_range`. Fixed effects are flat, whatever `reml` was.
        design
            Where the evidence is evaluated: ``"grid"`` for one hyperparameter, ``"importance"`` for some,
            ``"composite"`` for many that are known well (a few dozen evaluations); by default by their number.
        seed
            Of the draws.

        Returns
        -------
        Integrated
            Posterior of hyperparameters, weights and predictions, θ's uncertainty included.

        Raises
        ------
        ValueError
            The posterior is improper, nothing is free, the fit has not converged, or it has several targets.

        Examples
        --------
        >>> import marglik
        >>> data = {"y": [1.0, 1.3, 2.9, 3.1, 5.2, 4.8, 2.0, 2.4], "g": list("aabbccdd")}
        >>> fit = marglik.fit("y ~ 1 + (1 | g)", data)
        >>> whole = fit.integrate_hyperparameters(prior={"sd(Intercept | g)": marglik.half_normal(2.0)})
        >>> whole.prior
        {'sd(Intercept | g)': 'halfnorm(scale=2)', 'sd(noise)': 'flat'}
        >>> bool(whole.fixed_effects.loc["Intercept", "sd"] > fit.fixed_effects.loc["Intercept", "se"])
        True
        """
        from marglik.integrated import integrate

        return integrate(self, prior, design, seed)

    def nuts(self, draws: int = 1000, warmup: int = 1000, chains: int = 4, seed: int = 0) -> Any:
        """Sample a program's hyperparameters and latent sites jointly by NumPyro's NUTS, in double precision.

        Sites in ``hyper`` have their own priors, ``param`` sites are flat on their support; what is held stays so.

        Parameters
        ----------
        draws, warmup, chains, seed
            Draws kept of each chain, steps before them, chains, and the seed.

        Returns
        -------
        Samples
            ``samples``, site → draws; ``summary()``: mean, sd, quantiles, n_eff and r_hat of each element; ``plot()``.
        """
        if isinstance(self.model, LinearModel):
            raise Unsupported(
                "NUTS samples NumPyro programs, and this model is linear: fit.integrate_hyperparameters() integrates "
                "its hyperparameters, and fit.posterior.sample(n) draws weights."
            )
        names = self.model.hyperparameters
        if self.objective.hyperprior:
            raise Unsupported("NUTS takes the priors that the program itself has; write this hyperprior into it.")
        given = names.given(~self.optimum.free[0] & ~self.optimum.limit[0])
        held = [name for name, is_given in zip(names.reported, given, strict=True) if is_given]
        settings = {"draws": draws, "warmup": warmup, "chains": chains, "seed": seed}
        return self.model.nuts(self.optimum.theta[0], held, **settings)  # type: ignore[attr-defined]

    def check(self, simulations: int = 0, draws: int | None = None, seed: int = 0, anneal: bool | None = None) -> Check:
        """Whether the answer can be trusted; `print` it for a verdict and its numbers.

        Parameters
        ----------
        simulations
            How many data sets to simulate from the fit, to test whether the slope of their evidence at θ̂ is centred.
        draws
            Importance draws of each integral, outside the Gaussian; by default as many as take about a second.
        seed
            Of draws and simulations.
        anneal
            Whether to anneal as well, seconds to minutes; by default where draws do not tell of 30 weights or fewer.

        Raises
        ------
        ValueError
            ``simulations`` or ``draws`` are no numbers of such things, or nothing can be simulated.

        Examples
        --------
        >>> import marglik
        >>> data = {"y": [1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 1], "g": list("aaabbbcccddd")}
        >>> found = marglik.fit("y ~ 1 + (1 | g)", data, family="bernoulli", reml=False).check()
        >>> round(found.approximation.gap, 2), found.approximation.word
        (-0.18, 'usable')
        """
        return checked(self, simulations, draws, seed, anneal=anneal)

    def summary(self) -> str:
        """The fit in words and tables."""
        from marglik.report.text import summary

        return summary(self)

    def __repr__(self) -> str:
        return self.summary() if not self._many else f"<Fit of {len(self.optimum.theta)} targets by {self.method}>"

    def _repr_html_(self) -> str:
        from marglik.report.text import html

        return html(self)

    def plot(self, path: str | None = None) -> Any:
        """Estimates with intervals and random effects as a picture; written to a file if asked.

        Parameters
        ----------
        path
            Where to; its ending says in which format: svg, png, pdf.

        Returns
        -------
        The matplotlib figure. Needs ``pip install 'marglik[plot]'``.
        """
        from marglik.report.plots import overview

        return overview(self, path)

    def save(self, path: Any) -> None:
        """Write the fit to one file, without pickle; `marglik.load` reads it.

        It holds the columns of the data that the model uses, the settings and θ̂.

        Parameters
        ----------
        path
            Of the file; any ending.
        """
        from marglik.saving import save

        save(self, path)
