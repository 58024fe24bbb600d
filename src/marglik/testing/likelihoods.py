# SPDX-License-Identifier: BSD-3-Clause
"""The contract of likelihoods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from scipy.optimize import minimize_scalar
from scipy.special import expit, kolmogorov, logit

from marglik.hyperparameters import Hyperparameters, Positive
from marglik.testing.numbers import SURE, agree, check_names, derivative, require, theta_grid
from marglik.validate import Unsupported

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.likelihoods import Likelihood, Outcomes


def check_likelihood(
    likelihood: Likelihood,
    eta: Sequence[float] = (-2.0, -0.6, 0.0, 0.7, 1.8),
    theta: Sequence[Sequence[float]] | None = None,
    n_draws: int = 10_000,
    seed: int = 0,
) -> None:
    """Check that a likelihood is a density and that all it says of itself is true.

    The density sums (or integrates) to one; `mean` and `variance` are its moments; `derivatives`, `slope`,
    `theta_derivatives` and `expected_information` equal differences and averages; `averaged` and `averaged_theta`, if
    there are any, are averages over η; `deviance` is zero at the likeliest η; `sample` follows the density; ``concave``
    and ``gaussian`` hold; ``outcomes`` refuses what is no outcome and nothing else; `start` and `start_theta` can be
    used. What a likelihood does not say is left out.

    Parameters
    ----------
    likelihood
        An instance, with the same numbers for all rows.
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
    >>> from marglik.likelihoods import Binomial, Gaussian, Poisson
    >>> from marglik.testing import check_likelihood
    >>> check_likelihood(Poisson())
    >>> check_likelihood(Gaussian(), theta=[[0.01], [100.0]])
    >>> check_likelihood(Binomial(trials=7, link="probit"))
    """
    names = likelihood.hyperparameters()
    check_names(names, type(likelihood).__name__)
    _check_outcomes(likelihood)
    rng = np.random.default_rng(seed)
    grid = np.linspace(min(eta), max(eta), 41)
    for point in theta_grid(names) if theta is None else [np.asarray(x, float) for x in theta]:
        for value in map(float, eta):
            where = f"{type(likelihood).__name__} at η = {value:g}, θ = {tuple(map(float, point))}"
            law = _law(likelihood, value, point)
            given = _said(likelihood.sample, np.full(n_draws, value), point, rng)
            draws = law.draws(n_draws, rng) if given is None else np.asarray(given, float)
            require(not likelihood.outcomes.violations(draws).any(), f"{where}: a draw is no possible outcome.")
            _check_slopes(likelihood, draws[:8], value, point, where)
            _check_deviance(likelihood, draws[:8], value, point, where)
            _check_facts(likelihood, draws[:8], grid, point, where)
            if law.resolved:
                _check_moments(likelihood, law, value, point, where)
                _check_draws(law, draws, where)
            _check_starts(likelihood, draws[:50], where)
            _check_averages(likelihood, draws[:8], value, point, where)


def _said(method: Callable[..., Array], *arguments: object) -> Array | None:
    """What a method returns; None if the likelihood does not have it."""
    try:
        return method(*arguments)
    except Unsupported:
        return None


class _Law(NamedTuple):
    """A density on nodes of its support: E[f(y)] = Σ mass f(y)."""

    y: Float[Array, "m"]
    mass: Float[Array, "m"]
    integer: bool
    resolved: bool

    def expect(self, f: Array) -> float:
        return float(np.sum(self.mass * f))

    def draws(self, n: int, rng: np.random.Generator) -> Float[Array, "n"]:
        """From a likelihood that does not give any."""
        return rng.choice(self.y, n, p=self.mass / self.mass.sum())

    def distance(self, draws: Array) -> float:
        """Largest difference between the distribution functions of the draws and of the law (Kolmogorov)."""
        draws, ranks = np.sort(draws), np.arange(len(draws) + 1) / len(draws)
        if self.integer:
            last = np.append(np.flatnonzero(np.diff(draws)), len(draws) - 1)
            below = np.append(0, np.cumsum(self.mass))[np.searchsorted(self.y, draws[last], side="right")]
            return float(np.abs(below - ranks[last + 1]).max())
        below = np.interp(draws, self.y, np.cumsum(self.mass) - self.mass / 2)
        return float(np.maximum(below - ranks[:-1], ranks[1:] - below).max())


LOST = 1e-9
"""A density with more mass than this so near to an end that numbers round to it cannot be summed to eight digits."""


def _law(likelihood: Likelihood, eta: float, theta: Array) -> _Law:
    """Every outcome of note with its probability, or nodes of a double exponential quadrature."""
    outcomes = likelihood.outcomes
    moments = [_said(f, np.array([eta]), theta) for f in (likelihood.mean, likelihood.variance)]
    if moments[0] is None or moments[1] is None:
        center, spread = _location(likelihood, eta, theta)
    else:
        center, spread = float(moments[0][0]), float(np.sqrt(moments[1][0]))
        spread = spread if 0 < spread < np.inf else 1.0
    y, weight = _nodes(outcomes, center, spread)
    with np.errstate(over="ignore", invalid="ignore"):
        mass = np.exp(likelihood.log_density(y, np.full_like(y, eta), theta)) * weight
    upper = float(np.max(outcomes.upper))
    lost = 0.0 if outcomes.integer or np.isinf(upper) else mass[-1] / weight[-1] * (upper - y[-1])
    return _Law(y, mass, outcomes.integer, lost < LOST)


def _nodes(outcomes: Outcomes, center: float, spread: float) -> tuple[Array, Array]:
    """Outcomes and their weights in a sum."""
    lower, upper = outcomes.lower, float(np.max(outcomes.upper))
    t = np.linspace(-4.4, 4.4, 4001)
    s, ds = np.pi / 2 * np.sinh(t), np.pi / 2 * np.cosh(t) * (t[1] - t[0])
    if outcomes.integer:
        ends = max(lower, np.floor(center - 200 * spread) - 60), min(upper, np.ceil(center + 200 * spread) + 60)
        y = np.arange(ends[0], ends[1] + 1)
        weight = np.ones_like(y)
    elif np.isfinite(upper):
        share = (center - lower) / (upper - lower)
        width = min(2.0, spread / (upper - lower) / (share * (1 - share)))
        p = expit(logit(share) + width * s)
        y, weight = lower + (upper - lower) * p, (upper - lower) * p * expit(-logit(share) - width * s) * width * ds
    elif np.isfinite(lower):
        width = min(4.0, spread / (center - lower))
        y, weight = lower + (center - lower) * np.exp(width * s), (center - lower) * np.exp(width * s) * width * ds
    else:
        y, weight = center + spread * np.sinh(s), spread * np.cosh(s) * ds
    inside = ~outcomes.violations(y)
    return y[inside], weight[inside]


def _location(likelihood: Likelihood, eta: float, theta: Array) -> tuple[float, float]:
    """Median and half the distance of the quartiles, from ever better nodes around them."""
    outcomes = likelihood.outcomes
    upper = float(np.max(outcomes.upper))
    ends = max(outcomes.lower, -1e3), min(upper, 1e3)
    center, spread = float(np.clip(1.0, *ends) + np.clip(0.0, *ends)) / 2, 1.0
    for _ in range(40):
        y, weight = _nodes(outcomes, center, spread)
        with np.errstate(over="ignore", invalid="ignore"):
            below = np.cumsum(np.exp(likelihood.log_density(y, np.full_like(y, eta), theta)) * weight)
        first, center, third = np.interp(np.array([0.25, 0.5, 0.75]) * below[-1], below, y)
        spread = (third - first) / 2 or 1.0
    return float(center), float(spread)


def _check_outcomes(likelihood: Likelihood) -> None:
    outcomes, name = likelihood.outcomes, type(likelihood).__name__
    ends = [e for e in (outcomes.lower, np.max(outcomes.upper)) if np.isfinite(e)]
    wrong = [np.nan, np.inf, -np.inf]
    wrong += [outcomes.lower - 1, np.max(outcomes.upper) + 1]
    wrong += ends if outcomes.open else []
    wrong += [max(outcomes.lower, 0.0) + 0.5] if outcomes.integer else []
    for y, refused in zip(wrong, outcomes.violations(np.array(wrong)), strict=True):
        require(refused, f"{name}: outcomes accepts y = {y:g}, which is not among its {outcomes.words}.")


def _check_moments(likelihood: Likelihood, law: _Law, eta: float, theta: Array, where: str) -> None:
    verb = "sum" if law.integer else "integral"
    agree(law.mass.sum(), 1.0, 1e-8, f"{where}: the {verb} of the density is not one")
    given = np.array([eta])
    second = likelihood.derivatives(law.y, np.full_like(law.y, eta), theta)[1]
    information = _said(likelihood.expected_information, given, theta)
    if information is not None:
        require(np.all(information > 0), f"{where}: expected_information is {information}, which is not positive.")
        what = f"{where}: expected_information is not the average of the second derivative"
        agree(information, law.expect(-second), 1e-7, what, law.expect(np.abs(second)))
    mean, variance = _said(likelihood.mean, given, theta), _said(likelihood.variance, given, theta)
    for said in (mean, variance):
        require(said is None or said.shape == (1,), f"{where}: mean and variance must have the shape of η.")
    if variance is not None and not np.isfinite(variance[0]):
        return
    center = law.expect(law.y)
    spread = law.expect((law.y - center) ** 2)
    if mean is not None:
        agree(mean, center, 1e-7, f"{where}: mean is not that of the density", abs(center) + np.sqrt(spread))
    if variance is not None:
        agree(variance, spread, 1e-7, f"{where}: variance is not that of the density", spread)


def _check_draws(law: _Law, draws: Array, where: str) -> None:
    n = len(draws)
    p = float(kolmogorov(np.sqrt(n) * law.distance(draws)))
    what = f"{where}: {n} draws do not follow the density (Kolmogorov distance {law.distance(draws):.3g})"
    require(p > SURE, f"{what}: chance does that once in {1 / max(p, 1e-300):.0e} times.")
    center = law.expect(law.y)
    spread, fourth = law.expect((law.y - center) ** 2), law.expect((law.y - center) ** 4)
    if fourth < 1e6 * spread**2:
        what = f"{where}: in standard errors, the mean of {n} draws"
        agree(draws.mean(), center, 4, what, np.sqrt(spread / n))
        what = f"{where}: in standard errors, the variance of {n} draws"
        mean_is_off = 4 * spread / n
        agree(draws.var(), spread, 4, what, np.sqrt(max(fourth - spread**2, 0) / n) + mean_is_off)


def _check_slopes(likelihood: Likelihood, y: Array, eta: float, theta: Array, where: str) -> None:
    at = np.full(len(y), eta)
    density, given = likelihood.log_density(y, at, theta), likelihood.derivatives(y, at, theta)
    require(np.shape(density) == y.shape, f"{where}: log_density must have the shape of y, {y.shape}.")
    require(np.isfinite(density).all(), f"{where}: log_density is not finite at an outcome that was drawn.")
    parts = likelihood.log_kernel(y, at, theta) + likelihood.log_base(y)
    agree(parts, density, 1e-12, f"{where}: log_kernel and log_base do not add up", 1 + np.abs(density))
    fits = len(given) == 3 and all(np.shape(d) == y.shape for d in given)
    require(fits, f"{where}: derivatives must be three arrays of the shape of y, {y.shape}.")
    crossed = likelihood.log_density(y[:, None], at[None, :2], theta)
    fits = np.shape(crossed) == (len(y), 2)
    require(
        fits, f"{where}: log_density must broadcast y and η, but gives {np.shape(crossed)} for ({len(y)}, 1), (1, 2)."
    )
    width = min(1.0, 1 / np.sqrt(max(float(np.abs(given[1]).max()), 1e-300)))
    powers = width ** np.arange(4)[:, None]

    def orders(e: Array, own: Array) -> Array:
        """log_density and its first two derivatives, in units of its width."""
        return np.array([likelihood.log_density(y, e, own), *likelihood.derivatives(y, e, own)[:2]]) * powers[:3]

    numeric = derivative(lambda t: orders(at + t * width, theta), 0.2)
    what = f"{where}: derivatives (of order 1, 2, 3 from row 0) differ from differences"
    agree(np.array(given) * powers[1:], numeric, 1e-7, what, 1 + np.abs(numeric))
    slope = likelihood.slope(y, at, theta)
    agree(slope, given[0], 1e-12, f"{where}: slope is not the first derivative", 1 + np.abs(y) + np.abs(given[0]))

    names = Hyperparameters(likelihood.hyperparameters())
    own = likelihood.theta_derivatives(y, at, theta)
    fits = len(own) == len(names) and all(len(one) == 3 for one in own)
    require(fits, f"{where}: theta_derivatives must be three arrays for each of {len(names)} hyperparameters.")
    for i, (h, one) in enumerate(zip(names, own, strict=True)):
        unit = np.abs(names.derivatives(theta)[0]) * (np.arange(len(names)) == i)
        numeric = derivative(lambda t, unit=unit: orders(at, theta + t * unit))  # type: ignore[misc]
        what = f"{where}: theta_derivatives in {h.name!r} (of order 0, 1, 2 in η) differ from differences"
        agree(np.array(one) * powers[:3] * unit.sum(), numeric, 1e-7, what, 1 + np.abs(numeric))


def _check_averages(likelihood: Likelihood, y: Array, eta: float, theta: Array, where: str) -> None:
    """Closed forms against Gauss–Hermite quadrature, at one standard deviation that is small and one that is not."""
    nodes, weights = hermegauss(60)
    for sd in (0.1, 1.2):
        given = y, np.full(len(y), eta), np.full(len(y), sd**2), theta
        at = eta + sd * nodes[:, None]
        closed, own = likelihood.averaged(*given), likelihood.averaged_theta(*given)
        found, wide = list(closed or []), []
        if closed is not None:
            wide += [likelihood.log_kernel(y, at, theta), *likelihood.derivatives(y, at, theta)]
        if own is not None:
            found += [d for one in own for d in one]
            wide += [d for one in likelihood.theta_derivatives(y, at, theta) for d in one]
        for i, (said, integrand) in enumerate(zip(found, wide, strict=True)):
            integrand = np.broadcast_to(integrand, (len(nodes), len(y)))
            mean, size = (weights @ x / weights.sum() for x in (integrand, np.abs(integrand)))
            what = f"{where}: entry {i} of averaged and averaged_theta is not the mean over η ± {sd}"
            agree(said, mean, 1e-9, what, 1 + size)


def _check_deviance(likelihood: Likelihood, y: Array, eta: float, theta: Array, where: str) -> None:
    """It moves as −2 log p, and its smallest value, sought along η, is zero."""
    at = np.full_like(y, eta)
    deviance = _said(likelihood.deviance, y, at, theta)
    if deviance is None:
        return
    require(np.shape(deviance) == y.shape, f"{where}: deviance must have the shape of y, {y.shape}.")
    density, second = likelihood.log_density(y, at, theta), likelihood.derivatives(y, at, theta)[1]
    width = 1 / np.sqrt(np.abs(second).max())
    steps = np.sinh(np.linspace(-10, 10, 401))
    steps = steps[np.abs(steps) < 40 + (40 + 2 * np.abs(eta)) / width]

    def path(t: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.nan_to_num(likelihood.log_density(y, eta + width * t, theta), nan=-np.inf)

    along = path(steps[:, None])
    for i, best in enumerate(np.argmax(along, axis=0)):
        near = float(steps[max(best - 1, 0)]), float(steps[min(best + 1, len(steps) - 1)])

        def fall(t: float, i: int = i) -> float:
            return -float(path(np.array(t))[i])

        found = minimize_scalar(fall, bounds=near, method="bounded", options={"xatol": 1e-6})
        what = f"{where}: deviance is not twice the distance to the largest log density"
        agree(deviance[i], 2 * (max(-found.fun, along[best, i]) - density[i]), 1e-6, what, 1 + abs(deviance[i]))


def _check_facts(likelihood: Likelihood, y: Array, grid: Array, theta: Array, where: str) -> None:
    y, eta = (a.ravel() for a in np.meshgrid(y, grid))
    _, second, third = likelihood.derivatives(y, eta, theta)
    if likelihood.concave:
        i = int(np.argmax(second))
        place = f"the second derivative is {second[i]:g} at y = {y[i]:g}, η = {eta[i]:g}"
        require(second[i] <= 0, f"{where}: declared concave, but {place}.")
    if likelihood.gaussian:
        quadratic = np.all(third == 0) and np.ptp(second) <= 1e-12 * abs(second[0])
        require(quadratic, f"{where}: declared gaussian, but the curvature in η varies.")
        agree(likelihood.mean(grid, theta), grid, 1e-12, f"{where}: declared gaussian, but the mean is not η")
        own = likelihood.hyperparameters()
        single = len(own) == 1 and isinstance(own[0].support, Positive)
        require(single, f"{where}: declared gaussian, so θ must be the standard deviation of the noise alone.")
        agree(-1 / second[0], theta[0] ** 2, 1e-12, f"{where}: variance of the noise", theta[0] ** 2)


def _check_starts(likelihood: Likelihood, y: Array, where: str) -> None:
    names, outcomes = likelihood.hyperparameters(), likelihood.outcomes
    constant = [np.full_like(y, end) for end in (outcomes.lower, np.max(outcomes.upper))]
    for response in (y, *(c for c in constant if not outcomes.violations(c).any())):
        theta = np.array(likelihood.start_theta(response), float)
        require(len(theta) == len(names), f"{where}: start_theta has {len(theta)} values, not {len(names)}.")
        for h, value in zip(names, theta, strict=True):
            inside = np.isfinite(value) and h.support.lower < value < h.support.upper
            require(inside, f"{where}: start_theta gives {value:g} for {h.name!r}, not inside its support.")
        eta = likelihood.start(response)
        with np.errstate(all="ignore"):
            density = likelihood.log_density(response, np.full(len(response), eta), theta)
        usable = np.isfinite(eta) and np.isfinite(density).all()
        require(usable, f"{where}: start gives η = {eta:g}, where log densities are not finite.")
