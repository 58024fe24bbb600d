# SPDX-License-Identifier: BSD-3-Clause
"""A fit with its hyperparameters integrated rather than maximised: mixtures over θ of what is known at each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtr, ndtri

from marglik import tables
from marglik.evidence import evaluate
from marglik.evidence.variational import Variational
from marglik.hyperparameters import Hyperparameters, Positive, Support, Triangle
from marglik.hyperpriors import Hyperprior, JointHyperprior, hyperpriors
from marglik.integration import MOST, Improper, Nodes, composite, gauss, grid, importance
from marglik.learn import Located, Objective
from marglik.model import LinearModel
from marglik.newrows import rows_to_predict
from marglik.pools import within_one_pool
from marglik.posterior.prediction import averaged, one_of
from marglik.validate import Unsupported

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array
    from pandas import DataFrame

    from marglik.fitted import Fit
    from marglik.model import Model

KEPT, SLIGHT = 40, 2e-3
"""Values of θ at which weights are looked at; those with a smaller share of the largest weight are not."""
STEP, MASS, FEWEST = 0.35, 1e-4, 5
"""Where there is one hyperparameter they are looked at by a Gauss rule, with a node for so many units of log s, … that
this share of the mass lies beyond on either side, and so many nodes at least."""
BEYOND, FURTHER = 8.0, 0.25
"""How far out on the logarithmic scale the tail of a prior that is not proper is tried, and by what step."""
SHOWN, FAINT, POINTS = (0.002, 0.998), 0.01, 201
"""Quantiles between which a density is drawn, the share of its peak below which its right tail is not, and at how many
points."""
FALLS = -0.3
"""The least slope there of the log density of log s: with three levels it is −1, with two 0."""


def integrate(fit: Fit, prior: Mapping[str, Any] | None, design: str, seed: int) -> Integrated:
    """See `Fit.integrate_hyperparameters`."""
    one_of("design", design, ("auto", "grid", "importance", "composite"))
    if not isinstance(prior or {}, Mapping):
        raise ValueError(
            f"prior must give densities by name, such as {{'sd(noise)': marglik.half_normal(1.0)}}, not {prior!r}; "
            "without it hyperparameters have default priors, and the sites of a program their own."
        )
    _refuse(fit)
    density = _Density.of(fit, prior or {})
    k = len(density.free)
    design = design if design != "auto" else _design(density)
    if (design == "grid") != (k == 1) or (design == "composite" and not 2 <= k <= MOST):
        raise ValueError(
            f"design={design!r} is not for {k} hyperparameters: a grid is for one, a composite design for 2 to {MOST}."
        )
    centre, sd = density.start
    for i, name in enumerate(density.free):
        if not density.priors[name].proper and density.log_tail_slope(centre, i) > FALLS:
            raise ValueError(
                f"With the prior of {name!r} ({density.priors[name].words}) its posterior is improper: as it grows the "
                "evidence levels off, as it does with two levels of a grouping factor or without any data to tell. "
                f"Give it a proper prior: prior={{{name!r}: marglik.half_normal(1.0)}}."
            )
    try:
        if design == "grid":
            nodes = grid(density, centre, float(sd[0]))
        elif design == "importance":
            nodes = importance(density, centre, sd, seed)
        else:
            nodes = composite(density, *density.mode)
    except Improper as end:
        where = "zero" if end.side < 0 else "infinity"
        raise ValueError(
            f"The posterior of {density.free[end.axis]!r} does not fall off towards {where}, so there is nothing to "
            "integrate. Give it a proper prior through prior=."
        ) from None
    return Integrated(fit, density.priors, nodes, density)


def _refuse(fit: Fit) -> None:
    if np.shape(fit.optimum.theta)[0] > 1:
        raise ValueError("Hyperparameters are integrated for one target at a time: use fit.target(v).")
    if not fit.converged:
        raise ValueError("The fit has not converged, so there is no maximum to integrate around; see fit.check().")
    if not (fit.optimum.free | fit.optimum.limit).any():
        raise ValueError("All hyperparameters are held, so there is nothing to integrate. Leave some out of fixed=.")


def _design(density: _Density) -> str:
    k = len(density.free)
    if k == 1:
        return "grid"
    if k <= 4 or density.table["at_boundary"].any():
        return "importance"
    return "composite"


@dataclass(frozen=True, eq=False)
class _Density:
    """log p(y|θ(x)) + log p(θ(x)) + log|∂θ/∂x| over what is reported and free."""

    fit: Fit
    model: Model
    base: Float[Array, "k"]
    table: DataFrame
    free: tuple[str, ...]
    priors: Mapping[str, Hyperprior]
    joint: tuple[JointHyperprior, ...] = ()

    @classmethod
    def of(cls, fit: Fit, prior: Mapping[str, Any]) -> _Density:
        model, names = fit.model, fit.model.hyperparameters
        own_theta = [i for i, h in enumerate(names) if not h.fixed_effect]
        if isinstance(model, LinearModel):
            model = replace(model.with_flat_in_theta(False), reml=True)
        held = names.given((~fit.optimum.free & ~fit.optimum.limit)[0])
        table = fit.hyperparameters
        free = tuple(name for name, given in zip(names.reported, held, strict=True) if not given)
        given = {**fit.objective.hyperprior, **prior}
        unknown = [name for name in given if name in names.reported and name not in free]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is held at a value, so it can have no prior.")
        found = hyperpriors(model.hyperparameters, given)
        tied = [name for _, image in names.images for name in image.names if (_, image) not in names.triangles]
        if any(name in free for name in tied):
            raise ValueError(
                f"{tied[0]!r} is tied to others, and this integrates over hyperparameters that can move one by one. "
                "Hold it with fixed=, or use fit.nuts()."
            )
        joint = tuple(
            own for own in model.hyperpriors() if not set(own.names) & set(given) and set(own.names) & set(free)
        )
        found |= {name: Hyperprior(np.zeros_like, own.words, own.proper) for own in joint for name in own.names}
        return cls(
            fit, model, fit.optimum.theta[0, own_theta], table, free, {name: found[name] for name in free}, joint
        )

    @property
    def names(self) -> Hyperparameters:
        """The coordinates of θ."""
        return self.model.hyperparameters

    @cached_property
    def supports(self) -> tuple[Support, ...]:
        """How each is put on the line."""
        known = dict(zip(self.names.reported, self.names.reported_supports, strict=True))
        return tuple(known[name] for name in self.free)

    def values(self, x: Float[Array, "*N k"]) -> Float[Array, "*N k"]:
        """What is reported, at x."""
        columns = [s.from_unconstrained(x[..., i]) for i, s in enumerate(self.supports)]
        return np.stack(columns, axis=-1)

    def theta(self, x: Float[Array, "N k"]) -> Float[Array, "N K"]:
        """θ; NaN where correlations form no covariance."""
        values, (own, places) = self.values(x), self._plain
        theta = np.tile(self.base, (len(x), 1))
        theta[:, places] = values[:, own]
        for place, triangle, reported, own, places in self._triangles:
            reported = np.tile(reported, (len(x), 1))
            reported[:, places] = values[:, own]
            theta[:, place] = triangle.each(reported)
        return theta

    @cached_property
    def _plain(self) -> tuple[list[int], list[int]]:
        """Which of the free are coordinates of θ, and where they lie there."""
        own = [i for i, name in enumerate(self.free) if name in self.names.names]
        return own, [self.names.index(self.free[i]) for i in own]

    @cached_property
    def _triangles(self) -> list[tuple[slice, Triangle, Array, list[int], list[int]]]:
        """Of coordinates that are reported together: where they lie, what they report, and which of that is free."""
        out = []
        for place, triangle in self.names.triangles:
            own = [i for i, name in enumerate(self.free) if name in triangle.names]
            places = [triangle.names.index(self.free[i]) for i in own]
            out += [(place, triangle, triangle.report(self.base[place]), own, places)] if own else []
        return out

    def log_prior(self, x: Float[Array, "N k"]) -> Float[Array, "N"]:
        """With the Jacobian."""
        total = np.zeros(len(x))
        if self.joint:
            known = [
                -math.inf if np.isnan(t).any() else sum(p.log_density(t) for p in self.joint) for t in self.theta(x)
            ]
            total += known
        for values, support, name in zip(self.values(x).T, self.supports, self.free, strict=True):
            with np.errstate(divide="ignore"):
                total += self.priors[name].log_density(values) + np.log(np.abs(support.derivatives(values)[0]))
        return total

    def log_evidence(self, theta: Float[Array, "k"]) -> float:
        """log p(y|θ), flat weights integrated."""
        here, last = self._visited
        warm = min(here, last, key=lambda known: np.abs(known[0] - theta).max())[1]
        found = evaluate(self.fit.evidence_method, self.model, theta[None], warm)
        if len(self.free) == 1 and not found.checks:  # the next point of a grid lies close
            self._visited[-1] = theta, found.posterior
        return float(np.ravel(found.log_value)[0])

    @cached_property
    def _visited(self) -> list[tuple[Float[Array, "k"], Any]]:
        """θ and posteriors from which the next search for a mode may set out: of the fit, and of the last point."""
        exact = self.fit.evidence_method.exact
        at = None if exact else evaluate(self.fit.evidence_method, self.model, self.base[None]).posterior
        return [(self.base, at)] * 2

    def __call__(self, x: Float[Array, "N k"]) -> Float[Array, "N"]:
        theta, out = self.theta(x), self.log_prior(x)
        for i in np.flatnonzero(np.isfinite(out)):
            out[i] += self.log_evidence(theta[i]) if np.isfinite(theta[i]).all() else -math.inf
        return out

    @cached_property
    def start(self) -> tuple[Float[Array, "k"], Float[Array, "k"]]:
        """Centre and standard deviations from the fit's intervals; where an end is missing, from the other."""
        centre, sd = np.empty(len(self.free)), np.empty(len(self.free))
        z = float(ndtri(0.975))
        for i, (name, support) in enumerate(zip(self.free, self.supports, strict=True)):
            row = self.table.loc[name]
            ends = np.clip([row["lower"], row["estimate"], row["upper"]], support.lower, support.upper)
            with np.errstate(all="ignore"):
                low, middle, high = (float(support.to_unconstrained(np.asarray(e))) for e in ends)
            if np.isfinite([low, middle, high]).all():
                centre[i], sd[i] = middle, (high - low) / (2 * z)
                continue
            known = next((v for v in (high, low, middle) if np.isfinite(v)), 0.0)
            side = -1 if known == high and np.isfinite(high) else 1
            centre[i], sd[i] = known + side * 1.2, 1.2
        return centre, np.clip(sd, 1e-6, 3.0)

    def log_tail_slope(self, centre: Float[Array, "k"], i: int) -> float:
        """How the log density moves with x_i, far above the rest."""
        if not isinstance(self.supports[i], Positive):
            return -math.inf
        far, further = centre.copy(), centre.copy()
        far[i], further[i] = centre[i] + BEYOND, centre[i] + BEYOND + FURTHER
        return float(np.diff(self(np.array([far, further])))[0]) / FURTHER

    @cached_property
    def mode(self) -> tuple[Float[Array, "k"], Float[Array, "k k"]]:
        """Where the density is highest, by one Newton step from θ̂, and its covariance there."""
        centre, sd = self.start
        k = len(centre)
        h = self.fit.model.hyperparameters
        own = [i for i, x in enumerate(h) if not x.fixed_effect]
        slope = np.diag(h.derivatives(self.fit.optimum.theta)[0][0])
        J = (h.report_jacobian(self.fit.optimum.theta[0]) @ slope)[:, own]
        rows = [h.reported.index(name) for name in self.free]
        values = self.values(centre)
        to_line = np.array([float(s.derivatives(np.asarray(v))[0]) for s, v in zip(self.supports, values, strict=True)])
        J = J[rows] / to_line[:, None]  # ∂x/∂φ
        free = self.fit.optimum.free[0, own]
        inverse = np.linalg.inv(J[:, free])
        H = -inverse.T @ self.fit.optimum.hessian[0][np.ix_(np.array(own)[free], np.array(own)[free])] @ inverse
        steps = 0.05 * sd
        away = steps * np.eye(k)
        pull = (self.log_prior(centre + away) - self.log_prior(centre - away)) / (2 * steps)
        covariance = np.linalg.inv(H)
        return centre + covariance @ pull, covariance


@within_one_pool
@dataclass(frozen=True, eq=False)
class Integrated:
    """The posterior of hyperparameters, weights and predictions, θ integrated under a prior.

        p(w|y) = ∫ p(w|y,θ) p(θ|y) dθ,    p(θ|y) ∝ p(y|θ) p(θ)

    Made by `Fit.integrate_hyperparameters`.

    Attributes
    ----------
    prior
        Name → the prior of each, in words or as given.
    nodes
        The values of θ at which the evidence was evaluated.

    Examples
    --------
    >>> import marglik
    >>> data = {"y": [28.0, 8, -3, 7, -1, 1, 18, 12], "school": list("ABCDEFGH")}
    >>> fit = marglik.fit("y ~ 1 + (1 | school)", data, fixed={"sd(noise)": 12.0})
    >>> whole = fit.integrate_hyperparameters()
    >>> whole.hyperparameters[["lower", "median", "upper"]].round(1)
                            lower  median  upper
    name
    sd(Intercept | school)    0.3     5.6   21.5
    >>> whole.random_effects().loc["A"].round(1).item()
    4.7
    """

    fit: Fit
    priors: Mapping[str, Hyperprior]
    nodes: Nodes
    density: _Density

    @property
    def prior(self) -> dict[str, str]:
        """Name → words."""
        return {name: prior.words for name, prior in self.priors.items()}

    @property
    def log_evidence(self) -> float:
        """log ∫ p(y|θ) p(θ) dθ in nats; under a prior that is not proper, up to its constant."""
        return self.nodes.log_integral

    @cached_property
    def hyperparameters(self) -> DataFrame:
        """Posterior ``mean, sd, lower, median, upper`` (95 %), and the ``estimate`` that maximises the evidence."""
        import pandas as pd

        x, w = self.nodes.marginals
        values = self.density.values(x)
        mean = w @ values
        sd = np.sqrt(w @ (values - mean) ** 2)
        low, median, high = (_weighted_quantile(values, w, p) for p in (0.025, 0.5, 0.975))
        estimate = self.fit.hyperparameters["estimate"].loc[list(self.density.free)].to_numpy()
        columns = {"mean": mean, "sd": sd, "lower": low, "median": median, "upper": high, "estimate": estimate}
        return pd.DataFrame(columns, index=pd.Index(self.density.free, name="name"))

    @cached_property
    def _places(self) -> tuple[Float[Array, "J k"], Float[Array, "J"]]:
        """Values of θ that stand for all, and their weights."""
        keep = self.nodes.weights > SLIGHT * self.nodes.weights.max()
        x, w = self.nodes.x[keep], self.nodes.weights[keep]
        if len(self.density.free) == 1:
            fine, mass = self.nodes.marginals[0][:, 0], self.nodes.marginals[1]
            low, high = np.interp([MASS, 1 - MASS], np.cumsum(mass), fine)
            nodes, w = gauss(fine, mass, int(np.clip(np.ceil((high - low) / STEP), FEWEST, KEPT)))
            x = nodes[:, None]
        elif len(w) > KEPT:
            edges = np.cumsum(w)
            picked = np.searchsorted(edges, (np.arange(KEPT) + 0.5) / KEPT * edges[-1])
            chosen, w = np.unique(picked, return_counts=True)
            x = x[chosen]
        return self.density.theta(x), w / w.sum()

    @cached_property
    def _fits(self) -> list[Fit]:
        return [self._at(theta) for theta in self._places[0]]

    def _at(self, theta: Float[Array, "k"]) -> Fit:
        """The fit with θ held there.

        Where weights are not Gaussian, their mean is not their mode: it is that of the best Gaussian (van Niekerk &
        Rue 2024, JMLR 25, 62).
        """
        none, method = np.zeros(len(theta), bool), self.fit.evidence_method
        method = method if method.exact else Variational()
        objective = Objective(method, self.density.model)
        place = Located(objective, theta[None], none, warm=self._warm)
        return replace(self.fit, model=self.density.model, evidence_method=method, optimum=place, objective=objective)

    @cached_property
    def _warm(self) -> Any:
        if self.fit.evidence_method.exact:
            return None
        return evaluate(Variational(), self.density.model, self.density.base[None]).posterior

    @cached_property
    def _mixtures(self) -> dict[str, dict[str, Array]]:
        """``mean, sd, lower, upper`` of the weights, by term."""
        posteriors, w = [fit.posterior for fit in self._fits], self._places[1]
        out: dict[str, dict[str, Array]] = {name: {} for name in ("mean", "sd", "lower", "upper")}
        for label in posteriors[0].mean:
            m, s = np.array([p.mean[label] for p in posteriors]), np.array([p.sd[label] for p in posteriors])
            mean = np.tensordot(w, m, 1)
            out["mean"][label] = mean
            out["sd"][label] = np.sqrt(np.tensordot(w, s**2 + (m - mean) ** 2, 1))
            out["lower"][label], out["upper"][label] = (mixture_quantile(m, s, w, p) for p in (0.025, 0.975))
        return out

    @cached_property
    def fixed_effects(self) -> DataFrame:
        """Flat weights: ``mean, sd, lower, upper`` (95 %)."""
        import pandas as pd

        model = self._linear
        flat, own = next((term.label for term in model.prior if term.flat), None), tables.parametric(model)
        columns = {name: values[flat][own] if flat else [] for name, values in self._mixtures.items()}
        names = [name for name, yes in zip(model.flat_names, own, strict=True) if yes]
        return pd.DataFrame(columns, index=pd.Index(names, name="name"))

    def random_effects(self, group: str | None = None) -> DataFrame:
        """Posterior means of a grouping factor's weights; ``.attrs`` has ``sd``, ``lower`` and ``upper``."""
        others = {name: values for name, values in self._mixtures.items() if name != "mean"}
        return tables.random_effects(self._linear, self._mixtures["mean"], others, group)

    @property
    def _linear(self) -> LinearModel:
        model = self.density.model
        if not isinstance(model, LinearModel):
            raise Unsupported("The sites of a program are integrated by fit.nuts(); here only its hyperparameters are.")
        return model

    def predict(
        self, new: Any = None, interval: float | None = None, scale: str = "response", include: Any = None
    ) -> Any:
        """The mean of new responses, averaged over weights and hyperparameters.

        Parameters
        ----------
        new, interval, scale, include
            As for `Fit.predict`; intervals are those of the mean, θ's uncertainty included.

        Returns
        -------
        Array (n,), or a DataFrame ``mean, lower, upper`` with an interval.
        """
        one_of("scale", scale, ("response", "link"))
        if interval is not None and not 0 < interval < 1:
            raise ValueError(f"interval must be a probability between 0 and 1, such as 0.95, not {interval!r}.")
        model, (theta, w) = self._linear, self._places
        rows = rows_to_predict(model, self.fit.source, new, include, "population")
        etas = [fit._linear_predictor(fit.posterior, rows) for fit in self._fits]  # type: ignore[arg-type]
        m, s = np.array([eta for eta, _ in etas]), np.sqrt([variance for _, variance in etas])
        own = theta[:, model.n_prior_theta :]

        def inverse(eta: Array, j: int) -> Array:
            return eta if scale == "link" else model.likelihood.response(eta, own[j])

        each = [averaged(lambda x, j=j: inverse(x, j), m[j], s[j]) for j in range(len(w))]
        mean = np.tensordot(w, np.array(each), 1)
        if interval is None:
            return mean
        import pandas as pd

        low, high = (mixture_quantile(m, s, w, p) for p in ((1 - interval) / 2, (1 + interval) / 2))
        return pd.DataFrame({"mean": mean, "lower": inverse(low, 0), "upper": inverse(high, 0)})

    def sample(self, n: int, seed: int = 0) -> dict[str, Array]:
        """Draws of hyperparameters by name and of weights by term, jointly; the first axis has length n."""
        names = self._linear.hyperparameters
        rng, (theta, w) = np.random.default_rng(seed), self._places
        counts = rng.multinomial(n, w)
        parts: list[dict[str, Array]] = []
        for j in np.flatnonzero(counts):
            reported = names.report(theta[j][None])[0]
            own = {name: np.full(counts[j], v) for name, v in zip(names.reported, reported, strict=True)}
            drawn = self._fits[j].posterior.sample(int(counts[j]), int(rng.integers(2**31)))
            parts.append({**own, **drawn})
        order = rng.permutation(n)
        return {key: np.concatenate([part[key] for part in parts])[order] for key in parts[0]}

    def plot(self, path: str | None = None) -> Any:
        """The posterior density of each hyperparameter, with its interval, median and the estimate of the fit.

        Parameters
        ----------
        path
            Where to write the picture, if anywhere; its ending says in which format: svg, png, pdf.

        Returns
        -------
        The matplotlib figure. Needs ``pip install 'marglik[plot]'``.

        Examples
        --------
        >>> import marglik
        >>> data = {"y": [28.0, 8, -3, 7, -1, 1, 18, 12], "school": list("ABCDEFGH")}
        >>> fit = marglik.fit("y ~ 1 + (1 | school)", data, fixed={"sd(noise)": 12.0})
        >>> figure = fit.integrate_hyperparameters().plot()
        >>> figure.axes[0].get_title(loc="left")
        'sd(Intercept | school): 5.64  (0.264, 21.5)'
        """
        from marglik.report.density_plots import Density, overview
        from marglik.report.text import title

        table = self.hyperparameters[["lower", "median", "upper", "estimate"]]
        densities = [Density(name, *self._curve(i), *table.loc[name]) for i, name in enumerate(self.density.free)]
        how = f"{self.nodes.design}, {self.nodes.n_evaluations} evaluations of the evidence"
        words = "; ".join(dict.fromkeys(self.prior.values()))
        return overview(
            title(self.fit),
            f"hyperparameters integrated by {how}; prior: {words}",
            densities,
            path,
            more="hyperparameters",
            estimate="estimate that maximises the evidence",
        )

    def _curve(self, i: int) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
        """Values of a hyperparameter and their density; p(x) / |ds/dx| where that is known at a grid of x."""
        x, w = self.nodes.marginals[0][:, i], self.nodes.marginals[1]
        support = self.density.supports[i]
        values = support.from_unconstrained(x)
        low, upper, high = (_weighted_quantile(values[:, None], w, p)[0] for p in (SHOWN[0], 0.975, SHOWN[1]))
        if len(self.density.free) == 1:
            at, p = values, w / np.gradient(x) / np.abs(support.derivatives(values)[0])
        else:
            at, p = _smoothed(values, w, low, high, support)
        shown = (at >= low) & ((at <= upper) | (at <= high) & (p > FAINT * p.max()))
        return at[shown], p[shown]

    def __repr__(self) -> str:
        priors = "; ".join(f"{name}: {words}" for name, words in self.prior.items())
        return (
            f"Hyperparameters integrated by {self.nodes.design} ({self.nodes.n_evaluations} evaluations of the "
            f"evidence)\nPrior: {priors}\n\n{self.hyperparameters.round(4)}"
        )


def _weighted_quantile(values: Float[Array, "M k"], w: Float[Array, "M"], p: float) -> Float[Array, "k"]:
    """Of each column, interpolated between the middles of the steps of the distribution function."""
    out = np.empty(values.shape[1])
    for i, column in enumerate(values.T):
        order = np.argsort(column)
        mass = w[order]
        out[i] = np.interp(p, np.cumsum(mass) - mass / 2, column[order])
    return out


def _smoothed(
    s: Float[Array, "M"], w: Float[Array, "M"], low: float, high: float, support: Support
) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
    """The density of weighted draws: Σ_j w_j N(u; u_j, h²) du/ds, reflected at the ends of the support.

    Positive s have u = arsinh(s / median): the evidence is even in a standard deviation, so flat at zero, and the tails
    are those of log s. For others u = s. h is Silverman's, for as many draws as they are worth.
    """
    m = float(_weighted_quantile(s[:, None], w, 0.5)[0]) if isinstance(support, Positive) else math.inf
    u, ends = (np.arcsinh(s / m), np.arcsinh([low / m, high / m])) if m < math.inf else (s, (low, high))
    lower, upper = (_weighted_quantile(u[:, None], w, p)[0] for p in (0.25, 0.75))
    h = 0.9 * min(math.sqrt(w @ (u - w @ u) ** 2), (upper - lower) / 1.34) * (w @ w) ** 0.2
    at = np.linspace(ends[0], ends[1], POINTS)
    mirrored = [u, *(2 * end - u for end in (support.lower, support.upper) if math.isfinite(end))]
    p = sum(np.exp(-(((at[:, None] - one) / h) ** 2) / 2) @ w for one in mirrored) / (h * math.sqrt(2 * math.pi))
    return (m * np.sinh(at), p / np.hypot(m * np.sinh(at), m)) if m < math.inf else (at, p)


def mixture_quantile(
    means: Float[Array, "J *n"], sds: Float[Array, "J *n"], weights: Float[Array, "J"], p: float
) -> Float[Array, "*n"]:
    """Where Σ_j w_j Φ((q − m_j)/s_j) = p, by bisection.

    Examples
    --------
    >>> import numpy as np
    >>> mixture_quantile(np.array([[0.0], [0.0]]), np.array([[1.0], [1.0]]), np.array([0.5, 0.5]), 0.975).round(4)
    array([1.96])
    """
    sds = np.maximum(sds, 1e-300)
    ends = means + sds * ndtri(p)
    low, high = ends.min(axis=0), ends.max(axis=0)
    for _ in range(60):
        middle = (low + high) / 2
        below = np.tensordot(weights, ndtr((middle - means) / sds), 1) < p
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2
