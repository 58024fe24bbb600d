# SPDX-License-Identifier: BSD-3-Clause
"""Contracts of likelihoods, prior terms and evidence methods, each held against an independent truth.

Each check returns nothing, or raises an AssertionError whose sentence says what was expected, what was found
and where. They run for every class of this package, and for yours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve_triangular
from scipy.special import kolmogorov

from marglik.evidence.base import Evidence, EvidenceMethod, evaluate
from marglik.hyperparameters import Hyperparameter, Hyperparameters, Positive
from marglik.model import LinearModel, Model
from marglik.posterior import Gaussian, TermPosterior

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray as Array

    from marglik.likelihoods import Likelihood, Outcomes
    from marglik.priors import Term

LOG_2PI = float(np.log(2 * np.pi))
SURE = 6e-5
"""Probability of four standard errors or more: what chance may do before a check calls it a fault."""


def derivative(f: Callable[[float], ArrayLike], step: float = 0.1, one_sided: bool = False, levels: int = 5) -> Array:
    """f′(0) of a smooth function, by differences at step, step/2, … extrapolated to zero (Romberg).

    Parameters
    ----------
    f
        A function of one number, with values of any fixed shape.
    step
        The widest step; a tenth of the distance over which f changes its character is right.
    one_sided
        Use values at zero and above only, as at the end of a support.
    levels
        Number of steps.

    Examples
    --------
    >>> import numpy as np
    >>> bool(abs(derivative(lambda t: np.exp(3 * t)) - 3) < 1e-11)
    True
    >>> bool(abs(derivative(lambda t: np.sqrt(1 + t), one_sided=True) - 0.5) < 1e-9)
    True
    """
    steps = step / 2.0 ** np.arange(levels)
    sides = [(0.0, h) if one_sided else (-h, h) for h in steps]
    table = [np.subtract(f(b), f(a), dtype=float) / (b - a) for a, b in sides]
    for order in range(1, levels):
        ratio = 2.0**order if one_sided else 4.0**order
        table = [(ratio * fine - coarse) / (ratio - 1) for coarse, fine in pairwise(table)]
    return table[0]


def _require(condition: object, sentence: str) -> None:
    if not condition:
        raise AssertionError(sentence)


def _agree(found: ArrayLike, expected: ArrayLike, tolerance: float, what: str, size: ArrayLike = 1.0) -> None:
    """Raise unless |found − expected| ≤ tolerance · size everywhere, naming the worst place."""
    found, expected = np.broadcast_arrays(np.asarray(found, float), np.asarray(expected, float))
    error = np.nan_to_num(np.abs(found - expected) / size, nan=np.inf)
    if np.all(error <= tolerance):
        return
    worst = int(np.argmax(error))
    place = f" at {tuple(map(int, np.unravel_index(worst, error.shape)))}" if error.size > 1 else ""
    raise AssertionError(
        f"{what}: found {found.flat[worst]:.12g}{place}, expected {expected.flat[worst]:.12g} "
        f"(they differ by {error.flat[worst]:.2g} of their size, more than {tolerance:.0e})."
    )


def _check_names(names: Sequence[Hyperparameter], owner: str) -> None:
    given = [h.name for h in names]
    _require(len(set(given)) == len(given), f"{owner}: two hyperparameters have the same name: {given}.")


def _theta_grid(names: Sequence[Hyperparameter]) -> list[Array]:
    """Values inside the supports."""
    h = Hyperparameters(names)
    return [h.constrain(np.full(len(h), phi)) for phi in ((-0.7, 0.1, 0.9) if len(h) else (0.0,))]


class _Law(NamedTuple):
    """A density on nodes of its support: E[f(y)] = Σ mass f(y)."""

    y: Float[Array, "m"]
    mass: Float[Array, "m"]
    integer: bool

    def expect(self, f: Array) -> float:
        return float(np.sum(self.mass * f))

    def distance(self, draws: Array) -> float:
        """Largest difference between the distribution functions of the draws and of the law (Kolmogorov)."""
        draws, ranks = np.sort(draws), np.arange(len(draws) + 1) / len(draws)
        if self.integer:
            last = np.append(np.flatnonzero(np.diff(draws)), len(draws) - 1)
            below = np.append(0, np.cumsum(self.mass))[np.searchsorted(self.y, draws[last], side="right")]
            return float(np.abs(below - ranks[last + 1]).max())
        below = np.interp(draws, self.y, np.cumsum(self.mass) - self.mass / 2)
        return float(np.maximum(below - ranks[:-1], ranks[1:] - below).max())


def _law(likelihood: Likelihood, eta: float, theta: Array) -> _Law:
    """Every outcome of note with its probability, or nodes of a double exponential quadrature."""
    mean, variance = (float(f(np.array([eta]), theta)[0]) for f in (likelihood.mean, likelihood.variance))
    sd = float(np.sqrt(variance)) if 0 < variance < np.inf else 1.0
    outcomes = likelihood.outcomes
    lower, upper = outcomes.lower, _upper_end(outcomes, mean)
    t = np.linspace(-4.4, 4.4, 4001)
    s, ds = np.pi / 2 * np.sinh(t), np.pi / 2 * np.cosh(t) * (t[1] - t[0])
    if outcomes.integer:
        y = np.arange(max(lower, np.floor(mean - 200 * sd) - 60), np.ceil(mean + 200 * sd) + 60)
        weight = np.ones_like(y)
    elif np.isfinite(upper):
        p = 1 / (1 + np.exp(-2 * s))
        y, weight = lower + (upper - lower) * p, (upper - lower) * 2 * p * (1 - p) * ds
    elif np.isfinite(lower):
        y, weight = lower + (mean - lower) * np.exp(s), (mean - lower) * np.exp(s) * ds
    else:
        y, weight = mean + sd * np.sinh(s), sd * np.cosh(s) * ds
    inside = ~outcomes.violations(y)
    y, weight = y[inside], weight[inside]
    return _Law(y, np.exp(likelihood.log_density(y, np.full_like(y, eta), theta)) * weight, outcomes.integer)


def _upper_end(outcomes: Outcomes, inside: float) -> float:
    """The largest possible outcome, by bisection; infinity if there is none."""
    if not outcomes.violations(np.array([1e300]))[0]:
        return np.inf
    low, high = inside, 1e300
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (low, middle) if outcomes.violations(np.array([middle]))[0] else (middle, high)
    return round(high, 12)


def check_likelihood(
    likelihood: Likelihood,
    eta: Sequence[float] = (-2.0, -0.6, 0.0, 0.7, 1.8),
    theta: Sequence[Sequence[float]] | None = None,
    n_draws: int = 10_000,
    seed: int = 0,
) -> None:
    """Check that a likelihood is a density and that all it says of itself is true.

    The density sums (or integrates) to one; `mean` and `variance` are its moments; `derivatives` and
    `theta_derivatives` equal differences; `sample` follows it; ``concave`` and ``gaussian`` hold; ``outcomes``
    refuses what is no outcome and nothing else; `start` and `start_theta` can be used.

    Parameters
    ----------
    likelihood
        An instance.
    eta, theta
        Linear predictors and hyperparameters at which to look.
    n_draws, seed
        For the comparison of `sample` with the density: it errs by chance about once in ten thousand seeds.

    Raises
    ------
    AssertionError
        Something does not hold; the sentence says what, where, and by how much.

    Examples
    --------
    >>> from marglik.likelihoods import Gaussian, Poisson
    >>> from marglik.testing import check_likelihood
    >>> check_likelihood(Poisson())
    >>> check_likelihood(Gaussian(), theta=[[0.01], [100.0]])
    """
    names = likelihood.hyperparameters()
    _check_names(names, type(likelihood).__name__)
    _check_outcomes(likelihood)
    rng = np.random.default_rng(seed)
    grid = np.linspace(min(eta), max(eta), 41)
    for point in _theta_grid(names) if theta is None else [np.asarray(x, float) for x in theta]:
        for value in eta:
            where = f"{type(likelihood).__name__} at η = {value:g}, θ = {tuple(map(float, point))}"
            draws = np.asarray(likelihood.sample(np.full(n_draws, float(value)), point, rng), float)
            _check_slopes(likelihood, draws[:8], value, point, where)
            _check_facts(likelihood, draws[:8], grid, point, where)
            _check_moments(likelihood, value, point, draws, where)
            _check_starts(likelihood, draws[:50], where)


def _check_outcomes(likelihood: Likelihood) -> None:
    outcomes, name = likelihood.outcomes, type(likelihood).__name__
    wrong = [np.nan, np.inf, -np.inf]
    wrong += [outcomes.lower - 1] if np.isfinite(outcomes.lower) else []
    wrong += [max(outcomes.lower, 0.0) + 0.5] if outcomes.integer else []
    for y, refused in zip(wrong, outcomes.violations(np.array(wrong)), strict=True):
        _require(refused, f"{name}: outcomes accepts y = {y:g}, which is not among its {outcomes.words}.")


def _check_moments(likelihood: Likelihood, eta: float, theta: Array, draws: Array, where: str) -> None:
    law, n = _law(likelihood, eta, theta), len(draws)
    verb = "sum" if law.integer else "integral"
    _agree(law.mass.sum(), 1.0, 1e-8, f"{where}: the {verb} of the density is not one")
    _require(not likelihood.outcomes.violations(draws).any(), f"{where}: a draw is no possible outcome.")
    p = float(kolmogorov(np.sqrt(n) * law.distance(draws)))
    what = f"{where}: {n} draws do not follow the density (Kolmogorov distance {law.distance(draws):.3g})"
    _require(p > SURE, f"{what}: chance does that once in {1 / max(p, 1e-300):.0e} times.")
    given = np.array([eta])
    mean, variance = likelihood.mean(given, theta), likelihood.variance(given, theta)
    _require(mean.shape == variance.shape == (1,), f"{where}: mean and variance must have the shape of η.")
    if not np.isfinite(variance[0]):
        return
    center = law.expect(law.y)
    spread, fourth = law.expect((law.y - center) ** 2), law.expect((law.y - center) ** 4)
    _agree(mean, center, 1e-7, f"{where}: mean is not that of the density", abs(center) + np.sqrt(spread))
    _agree(variance, spread, 1e-7, f"{where}: variance is not that of the density", spread)
    what = f"{where}: in standard errors, the mean of {n} draws"
    _agree(draws.mean(), center, 4, what, np.sqrt(spread / n))
    if fourth < 1e6 * spread**2:
        what = f"{where}: in standard errors, the variance of {n} draws"
        _agree(draws.var(), spread, 4, what, np.sqrt((fourth - spread**2) / n))


def _check_slopes(likelihood: Likelihood, y: Array, eta: float, theta: Array, where: str) -> None:
    at = np.full(len(y), float(eta))
    density, given = likelihood.log_density(y, at, theta), likelihood.derivatives(y, at, theta)
    _require(np.shape(density) == y.shape, f"{where}: log_density must have the shape of y, {y.shape}.")
    _require(np.isfinite(density).all(), f"{where}: log_density is not finite at an outcome that was drawn.")
    fits = len(given) == 3 and all(np.shape(d) == y.shape for d in given)
    _require(fits, f"{where}: derivatives must be three arrays of the shape of y, {y.shape}.")
    width = min(1.0, 1 / np.sqrt(max(float(np.abs(given[1]).max()), 1e-300)))
    powers = width ** np.arange(4)[:, None]

    def orders(e: Array, own: Array) -> Array:
        """log_density and its first two derivatives, in units of its width."""
        return np.array([likelihood.log_density(y, e, own), *likelihood.derivatives(y, e, own)[:2]]) * powers[:3]

    numeric = derivative(lambda t: orders(at + t * width, theta), 0.2)
    what = f"{where}: derivatives (of order 1, 2, 3 from row 0) differ from differences"
    _agree(np.array(given) * powers[1:], numeric, 1e-7, what, 1 + np.abs(numeric))

    names = Hyperparameters(likelihood.hyperparameters())
    own = likelihood.theta_derivatives(y, at, theta)
    fits = len(own) == len(names) and all(len(one) == 3 for one in own)
    _require(fits, f"{where}: theta_derivatives must be three arrays for each of {len(names)} hyperparameters.")
    for i, (h, one) in enumerate(zip(names, own, strict=True)):
        unit = np.abs(names.derivatives(theta)[0]) * (np.arange(len(names)) == i)
        numeric = derivative(lambda t, unit=unit: orders(at, theta + t * unit))  # type: ignore[misc]
        what = f"{where}: theta_derivatives in {h.name!r} (of order 0, 1, 2 in η) differ from differences"
        _agree(np.array(one) * powers[:3] * unit.sum(), numeric, 1e-7, what, 1 + np.abs(numeric))


def _check_facts(likelihood: Likelihood, y: Array, grid: Array, theta: Array, where: str) -> None:
    y, eta = (a.ravel() for a in np.meshgrid(y, grid))
    _, second, third = likelihood.derivatives(y, eta, theta)
    if likelihood.concave:
        i = int(np.argmax(second))
        place = f"the second derivative is {second[i]:g} at y = {y[i]:g}, η = {eta[i]:g}"
        _require(second[i] <= 0, f"{where}: declared concave, but {place}.")
    if likelihood.gaussian:
        quadratic = np.all(third == 0) and np.ptp(second) <= 1e-12 * abs(second[0])
        _require(quadratic, f"{where}: declared gaussian, but the curvature in η varies.")
        _agree(likelihood.mean(grid, theta), grid, 1e-12, f"{where}: declared gaussian, but the mean is not η")
        own = likelihood.hyperparameters()
        single = len(own) == 1 and isinstance(own[0].support, Positive)
        _require(single, f"{where}: declared gaussian, so θ must be the standard deviation of the noise alone.")
        _agree(-1 / second[0], theta[0] ** 2, 1e-12, f"{where}: variance of the noise", theta[0] ** 2)


def _check_starts(likelihood: Likelihood, y: Array, where: str) -> None:
    names = likelihood.hyperparameters()
    lowest = np.full_like(y, likelihood.outcomes.lower)
    for response in (y,) if likelihood.outcomes.violations(lowest).any() else (y, lowest):
        theta = np.array(likelihood.start_theta(response), float)
        _require(len(theta) == len(names), f"{where}: start_theta has {len(theta)} values, not {len(names)}.")
        for h, value in zip(names, theta, strict=True):
            inside = np.isfinite(value) and h.support.lower < value < h.support.upper
            _require(inside, f"{where}: start_theta gives {value:g} for {h.name!r}, not inside its support.")
        eta = likelihood.start(response)
        with np.errstate(all="ignore"):
            density = likelihood.log_density(response, np.full(len(response), eta), theta)
        usable = np.isfinite(eta) and np.isfinite(density).all()
        _require(usable, f"{where}: start gives η = {eta:g}, where log densities are not finite.")


def check_prior(
    term: Term,
    theta: Sequence[float] | None = None,
    scaled: Callable[[float], Term] | None = None,
    seed: int = 0,
) -> None:
    """Check that a prior term fits together and that its factor's derivatives are right.

    Columns, names and number of weights agree; `factor_jvp` equals differences and `factor_vjp` is its adjoint;
    the factor is proportional to the scales, so that a scale of zero is an ordinary point; `units` are values
    at which the term adds variance of order one to η.

    Parameters
    ----------
    term
        An instance.
    theta
        Hyperparameters at which to look.
    scaled
        c ↦ the same term with its columns multiplied by c; with it, units are checked to shrink by c.
    seed
        For the directions of derivatives.

    Raises
    ------
    AssertionError
        Something does not hold; the sentence says what, where, and by how much.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.priors import Ridge
    >>> from marglik.testing import check_prior
    >>> X = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]])
    >>> check_prior(Ridge(X), scaled=lambda c: Ridge(c * X))
    """
    owner = f"{type(term).__name__} {term.label!r}"
    X, names = term.columns, Hyperparameters(term.hyperparameters())
    _require(X.ndim == 2, f"{owner}: columns must have two dimensions, but their shape is {X.shape}.")
    c, k = X.shape[1], len(names)
    _require(len(term.names) == c, f"{owner}: {len(term.names)} names for {c} columns.")
    _require(len(set(term.names)) == c, f"{owner}: two columns have the same name: {term.names}.")
    expected = c * len(term.levels) if term.grouped else c  # type: ignore[attr-defined]
    _require(term.n_weights == expected, f"{owner}: n_weights is {term.n_weights}, but there are {expected}.")
    _check_names(names, owner)
    _require(not (term.flat and k), f"{owner}: a flat term can have no hyperparameters, but has {names.names}.")
    units = np.asarray(term.units(), float)
    usable = units.shape == (k,) and np.all((units > 0) & np.isfinite(units))
    _require(usable, f"{owner}: units must be {k} positive numbers, but are {units}.")

    scales = np.array([h.even for h in names], bool)
    inside = _theta_grid(names) if theta is None else [np.asarray(theta, float)]
    rng = np.random.default_rng(seed)
    for point in [*inside, *(np.where(drop, 0.0, x) for x in inside for drop in _scale_sets(scales))]:
        _check_factor(term, point, scales, rng, f"{owner} at θ = {tuple(map(float, point))}")
    for i in np.flatnonzero(scales):
        L = term.factor(np.where(scales, units * (np.arange(k) == i), inside[0]))
        added = np.mean(np.sum((X @ L if term.grouped else X * L) ** 2, axis=1))
        what = f"at its unit {units[i]:g}, {names.names[i]!r} adds variance {added:g} to η"
        _require(1 / 30 < added < 30, f"{owner}: {what}, which is not of order one.")
    if scaled is not None:
        what = f"{owner}: columns times 100 must divide units by 100"
        _agree(scaled(100.0).units() * 100, units, 1e-12, what, units)


def _scale_sets(scales: Array) -> Iterator[Array]:
    """Each scale by itself, then all of them."""
    for i in np.flatnonzero(scales):
        yield np.arange(len(scales)) == i
    if scales.sum() > 1:
        yield scales


def _check_factor(term: Term, theta: Array, scales: Array, rng: np.random.Generator, where: str) -> None:
    L, c = term.factor(theta), len(term.names)
    shape = (c, c) if term.grouped else (c,)
    _require(np.shape(L) == shape, f"{where}: the factor must have shape {shape}, but has {np.shape(L)}.")
    _require(np.isfinite(L).all(), f"{where}: the factor is not finite.")
    bar, k = rng.standard_normal(shape), len(theta)
    pulled = term.factor_vjp(theta, bar)
    _require(np.shape(pulled) == (k,), f"{where}: factor_vjp must have shape ({k},).")
    for i, direction in enumerate(np.eye(k)):
        pushed = term.factor_jvp(theta, direction)
        _require(np.shape(pushed) == shape, f"{where}: factor_jvp must have shape {shape}.")
        at_zero = bool(scales[i] and theta[i] == 0)
        step = 0.1 if at_zero or theta[i] == 0 else min(0.1, abs(theta[i]) / 4)
        numeric = derivative(lambda t, d=direction: term.factor(theta + t * d), step, at_zero)  # type: ignore[misc]
        what = f"{where}: factor_jvp along coordinate {i} differs from differences"
        _agree(pushed, numeric, 1e-8, what, 1 + np.abs(numeric))
        adjoint = float(np.sum(bar * pushed))
        what = f"{where}: factor_vjp is not the adjoint of factor_jvp"
        _agree(pulled[i], adjoint, 1e-10, what, 1 + abs(adjoint))
    if scales.any():
        double = term.factor(np.where(scales, 2 * theta, theta))
        _agree(double, 2 * L, 1e-12, f"{where}: doubling the scales must double the factor", 1 + np.abs(L))


def check_evidence(
    method: EvidenceMethod,
    model: Model,
    theta: ArrayLike,
    gradient_rtol: float = 1e-6,
    hessian_rtol: float = 1e-4,
) -> None:
    """Check an evidence method for one model at one θ, which may have scales of exactly zero.

    All values are finite; the gradient and the Hessian (if there is one) equal differences; the posterior mean
    is a stationary point of the log joint density; a warm start changes nothing; a method that is ``exact``
    agrees with the multivariate normal density of y.

    Parameters
    ----------
    method, model
        What to check.
    theta
        One vector (k,), or one for each target (V, k).
    gradient_rtol, hessian_rtol
        Tolerances, in units of the largest entry, in nats for each unit of log θ, but at least one.

    Raises
    ------
    AssertionError
        Something does not hold; the sentence says what, where, and by how much.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.evidence import Exact, Laplace
    >>> from marglik.likelihoods import Gaussian
    >>> from marglik.model import LinearModel
    >>> from marglik.priors import Flat, Ridge
    >>> from marglik.testing import check_evidence
    >>> x = np.linspace(-1, 1, 9)
    >>> model = LinearModel(Gaussian(), Flat(np.ones(9)) + Ridge(x), 2 * x + x**2)
    >>> for theta in ([1.5, 0.4], [0.0, 0.4]):
    ...     check_evidence(Exact(), model, theta)
    ...     check_evidence(Laplace(), model, theta)
    """
    theta = np.array(np.atleast_2d(np.asarray(theta, float)))
    theta = np.repeat(theta, model.n_targets, axis=0) if len(theta) == 1 else theta
    V, k = theta.shape
    where = f"{type(method).__name__} at θ = {np.round(theta, 6).tolist()}"
    unsuited = method.unsuited(model)
    _require(unsuited is None, f"{where}: the method {unsuited}.")
    e = evaluate(method, model, theta)
    _require(not e.checks, f"{where}: {' '.join(e.checks.values())}")
    fits = np.shape(e.log_value) == (V,) and np.shape(e.gradient) == (V, k)
    _require(fits, f"{where}: log_value and gradient must have shapes ({V},) and ({V}, {k}).")
    finite = np.isfinite(e.log_value).all() and np.isfinite(e.gradient).all()
    _require(finite, f"{where}: log_value is {e.log_value} and the gradient {e.gradient.tolist()}.")

    paths = _paths(method, model, theta)
    _check_derivatives(method, model, paths, e, gradient_rtol, hessian_rtol, where)
    _check_stationary(model, theta, e, where)
    nearby = evaluate(method, model, np.where(theta == 0, paths.units / 10, theta * 1.1)).posterior
    warm = evaluate(method, model, theta, nearby).log_value
    _agree(warm, e.log_value, 1e-9, f"{where}: a warm start changes the value", 1 + np.abs(e.log_value))
    if method.exact and isinstance(model, LinearModel):
        truth = np.array([_dense_log_evidence(model.target(v), theta[v]) for v in range(V)])
        what = f"{where}: the log evidence is not the log density of y"
        _agree(e.log_value, truth, 1e-9, what, 1 + np.abs(truth))


class _Paths(NamedTuple):
    """Coordinates t along which the evidence is smooth: φ, or θ in units of its own where φ is infinite."""

    names: Hyperparameters
    theta: Float[Array, "V k"]
    units: Float[Array, "k"]
    at_end: Bool[Array, "k"]

    def moved(self, i: int, t: float) -> Float[Array, "V k"]:
        theta = self.theta.copy()
        if self.at_end[i]:
            theta[:, i] += t * self.units[i]
        else:
            support = self.names[i].support
            theta[:, i] = support.from_unconstrained(support.to_unconstrained(theta[:, i]) + t)
        return theta

    def slopes(self, theta: Float[Array, "V k"]) -> tuple[Array, Array]:
        """dθ/dt and d²θ/dt²."""
        first, second = self.names.derivatives(theta)
        return np.where(self.at_end, self.units, first), np.where(self.at_end, 0.0, second)


def _paths(method: EvidenceMethod, model: Model, theta: Array) -> _Paths:
    """With units at which a scale, leaving zero, changes the evidence by less than a hundredth of a nat."""
    names = model.hyperparameters
    phi = [[h.support.to_unconstrained(x) for x, h in zip(row, names, strict=True)] for row in theta]
    at_end = np.atleast_1d(np.isinf(phi).any(axis=0))
    sizes = np.median(np.atleast_2d(model.start_theta()), axis=0)
    inwards = np.where([x == h.support.upper for x, h in zip(theta[0], names, strict=True)], -1.0, 1.0)
    paths = _Paths(names, theta, np.where(sizes > 0, sizes, 1.0) * inwards, at_end)
    base = evaluate(method, model, theta).log_value
    for i in map(int, np.flatnonzero(paths.at_end)):
        while np.abs(evaluate(method, model, paths.moved(i, 1.0)).log_value - base).max() > 0.01:
            paths.units[i] /= 2
    return paths


def _check_derivatives(
    method: EvidenceMethod,
    model: Model,
    paths: _Paths,
    e: Evidence,
    rtol: float,
    hessian_rtol: float,
    where: str,
) -> None:
    first, second = paths.slopes(paths.theta)
    stated, k = e.gradient * first, len(paths.names)
    size = np.maximum(1, np.abs(stated).max(axis=1, initial=0))
    H = None if e.hessian is None else e.hessian * first[:, :, None] * first[:, None, :]
    if H is not None:
        H[:, range(k), range(k)] += e.gradient * second
        _require(np.isfinite(H).all(), f"{where}: the Hessian is not finite.")

    def at(theta: Array) -> Array:
        there = evaluate(method, model, theta)
        return np.column_stack([there.log_value, there.gradient * paths.slopes(theta)[0]])

    for i, h in enumerate(paths.names):
        numeric = derivative(lambda t, i=i: at(paths.moved(i, t)), one_sided=bool(paths.at_end[i]))  # type: ignore[misc]
        what = f"{where}: the gradient in {h.name!r} differs from differences"
        _agree(stated[:, i], numeric[:, 0], rtol, what, size)
        if H is not None:
            what = f"{where}: the Hessian's row {h.name!r} differs from differences of the gradient"
            _agree(
                H[:, i],
                numeric[:, 1:],
                hessian_rtol,
                what,
                np.maximum(1, np.abs(H).max(axis=(1, 2)))[:, None],
            )


def _check_stationary(model: Model, theta: Array, e: Evidence, where: str) -> None:
    """The score at the posterior mean is zero, in units of posterior standard deviations or of its parts."""
    if isinstance(e.posterior, Gaussian):
        score = model.at(e.posterior.mean, theta[0]).score
        what = f"{where}: distance of the posterior mean from the mode, in standard deviations"
        _agree(np.sqrt(score @ e.posterior.precision.solve(score)), 0.0, 1e-6, what)
    if isinstance(e.posterior, TermPosterior) and isinstance(model, LinearModel):
        noisy = (theta[:, model.n_prior_theta :] != 0).all(axis=1)  # without noise there is no score
        for v in map(int, np.flatnonzero(noisy)):
            mean = {t: m if model.rows.y.ndim == 1 else m[v] for t, m in e.posterior.mean.items()}
            _check_normal_equations(model.target(v), theta[v], mean, f"{where}, target {v}")


def _check_normal_equations(model: LinearModel, theta: Array, mean: dict[str, Array], where: str) -> None:
    """Where the score is zero, w_t = L_t L_tᵀ X_tᵀ ∂log p/∂η, and X_tᵀ ∂log p/∂η = 0 for flat terms."""
    rows = model.rows
    eta = sum(
        (t.columns @ mean[t.label] for t in model.prior),
        np.zeros(rows.n) if rows.offset is None else rows.offset,
    )
    slope = model.likelihood.derivatives(np.asarray(rows.y, float), eta, theta[model.n_prior_theta :])[0]
    slope = slope * np.prod([w for w in (rows.weights, rows.counts) if w is not None], axis=0)
    for term, own in model.term_theta(theta):
        pull, size = term.columns.T @ slope, np.linalg.norm(term.columns, axis=0) * np.linalg.norm(slope)
        w, L2 = (0.0, 1.0) if term.flat else (mean[term.label], term.factor(own) ** 2)
        what = f"{where}: {term.label!r} is not where the score is zero"
        _agree(w, L2 * pull, 1e-7, what, np.abs(w).max(initial=0) + np.max(L2 * size, initial=0) + 1e-300)


def _dense_log_evidence(model: LinearModel, theta: Float[Array, "k"]) -> float:
    """The definition, from the covariance of y: y ~ N(Xβ, K), K = σ² diag(1/weights) + Σ_t X_t L_t L_tᵀ X_tᵀ."""
    rows = model.rows
    i = np.repeat(np.arange(rows.n), 1 if rows.counts is None else np.asarray(rows.counts, int))
    K = theta[-1] ** 2 * np.diag(np.ones(len(i)) if rows.weights is None else 1 / rows.weights[i])
    for term, own in model.term_theta(theta):
        if not term.flat:
            X = (term.columns @ term.factor(own) if term.grouped else term.columns * term.factor(own))[i]
            K += (X @ X.T) * (term.codes[i, None] == term.codes[i] if term.grouped else 1)  # type: ignore[attr-defined]
    y = np.asarray(rows.y, float).reshape(-1)[i] - (0 if rows.offset is None else rows.offset[i])
    X = np.column_stack([np.zeros((len(i), 0)), *(t.columns[i] for t in model.prior if t.flat)])
    half = np.linalg.cholesky(K)
    Q, R = np.linalg.qr(solve_triangular(half, X, lower=True))
    z = solve_triangular(half, y, lower=True)
    z = z - Q @ (Q.T @ z)
    value = -len(i) * LOG_2PI / 2 - np.log(half.diagonal()).sum() - z @ z / 2
    integrated = len(R) * LOG_2PI / 2 - np.log(np.abs(R.diagonal())).sum()
    return float(value + integrated * model.reml)
