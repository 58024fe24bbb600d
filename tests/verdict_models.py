# SPDX-License-Identifier: BSD-3-Clause
"""Models whose evidence is known by brute force: sums over fine grids, one small integral at a time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from scipy.special import betaln, expit, gammaln, logsumexp

import marglik
from marglik import LinearModel, Ridge
from marglik.likelihoods import Bernoulli, Poisson, StudentT

GRID = np.linspace(-14, 14, 4001)


class Known(NamedTuple):
    """A fit, and log p(y|θ̂) without an approximation."""

    fit: marglik.Fit
    truth: float


def log_sum(log_f, *axes):
    """log of the integral of a function on a grid of equidistant axes (the trapezoid rule; its ends are zero)."""
    return logsumexp(log_f) + sum(np.log(axis[1] - axis[0]) for axis in axes)


def standard(u):
    return -(u**2) / 2 - np.log(2 * np.pi) / 2


def by_level(density, data, eta, sd):
    """Σ_g log ∫ Π_i p(y_i|η_i + sd u) N(u) du."""
    g = data["g"]
    return sum(
        log_sum(density(data["y"][g == k][:, None], eta[g == k][:, None] + sd * GRID).sum(0) + standard(GRID), GRID)
        for k in np.unique(g)
    )


def bernoulli(y, eta):
    return stats.bernoulli.logpmf(y, expit(eta))


def binomial(trials):
    return lambda y, eta: stats.binom.logpmf(y, trials, expit(eta))


def poisson(y, eta):
    return stats.poisson.logpmf(y, np.exp(np.minimum(eta, 600)))


def simulated(draw, levels, rows, intercept, sd, seed):
    """Data with an effect of each level."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(levels), rows)
    return {"g": g, "y": draw(rng, intercept + sd * rng.standard_normal(levels)[g]).astype(float)}


def coin(rng, eta):
    return rng.random(len(eta)) < expit(eta)


def tosses(trials):
    return lambda rng, eta: rng.binomial(trials, expit(eta))


def counts(rng, eta):
    return rng.poisson(np.exp(eta))


def grouped(family, density, data, held=None, left="y"):
    """An intercept, maximised, and an effect of each level; its sd learned, or held."""
    fixed = None if held is None else {"sd(Intercept | g)": held}
    fit = marglik.fit(f"{left} ~ 1 + (1 | g)", data, family=family, reml=False, fixed=fixed)
    sd = fit.hyperparameters.loc["sd(Intercept | g)", "estimate"]
    eta = np.full(len(data["y"]), fit.fixed_effects.loc["Intercept", "estimate"])
    return Known(fit, by_level(density, data, eta, sd))


def coins(levels, rows, sd, seed, held=None):
    return grouped("bernoulli", bernoulli, simulated(coin, levels, rows, 0.3, sd, seed), held)


def shares(levels, trials, sd, seed, held=None):
    data = simulated(tosses(trials), levels, 1, 0.3, sd, seed) | {"n": np.full(levels, float(trials))}
    return grouped("binomial", binomial(trials), data, held, left="cbind(y, n - y)")


def rates(levels, rows, level, sd, seed, held=None):
    return grouped("poisson", poisson, simulated(counts, levels, rows, level, sd, seed), held)


def integrated_intercept(seed):
    """The fixed effect is integrated too: a grid over it outside."""
    data = simulated(counts, 8, 10, 2.0, 0.5, seed)
    fit = marglik.fit("y ~ 1 + (1 | g)", data, family="poisson")
    sd = fit.hyperparameters.loc["sd(Intercept | g)", "estimate"]
    b = np.linspace(0, 4, 81)
    values = [by_level(poisson, data, np.full(len(data["y"]), one), sd) for one in b]
    return Known(fit, float(log_sum(np.array(values), b)))


def one_weight(likelihood, log_density, x, y, held):
    """η = x w, w ~ N(0, sd²)."""
    fit = marglik.fit(LinearModel(likelihood, Ridge(x[:, None]), y), fixed=held)
    sd = fit.hyperparameters.loc["sd(weights)", "estimate"]
    w = np.linspace(-14, 14, 40001) * sd
    f = log_density(y[:, None], x[:, None] * w).sum(0) + stats.norm.logpdf(w, 0, sd)
    return Known(fit, float(log_sum(f, w)))


def curve(seed):
    """A logistic regression on three columns: a grid over their weights."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((150, 3))
    y = coin(rng, X @ [1.0, -0.5, 0.2]).astype(float)
    fit = marglik.fit(LinearModel(Bernoulli(), Ridge(X), y))
    sd = fit.hyperparameters.loc["sd(weights)", "estimate"]
    axes = [
        m + s * np.linspace(-7, 7, 61)
        for m, s in zip(fit.posterior.mean["ridge"], fit.posterior.sd["ridge"], strict=True)
    ]
    W = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    f = np.concatenate([bernoulli(y[:, None], X @ part.T).sum(0) for part in np.array_split(W, 40)])
    return Known(fit, float(log_sum(f + stats.norm.logpdf(W, 0, sd).sum(1), *axes)))


def tails(df, y, sd):
    """A mean under Student's t: two observations that disagree make two modes."""
    ones, likelihood = np.ones(len(y)), StudentT()
    density = lambda y, eta: stats.t.logpdf(y, df, eta, 0.3)  # noqa: E731
    held = {"sd(weights)": sd, "df": df, "scale": 0.3}
    return one_weight(likelihood, density, ones, np.asarray(y, float), held)


def evaluated(program, *args, truth):
    """A program with nothing to learn."""
    return Known(marglik.fit(program, args=args, hyper=[]), truth)


def dist():
    import numpyro.distributions

    return numpyro.distributions


def sample(name, d, obs=None):
    import numpyro

    return numpyro.sample(name, d, obs=obs)


def funnel(y, width):
    """z ~ N(0, width²), x_i ~ N(0, e^z), y_i ~ N(x_i, 1): x_i integrate in closed form."""

    def program(y):
        z = sample("z", dist().Normal(0, width))
        x = sample("x", dist().Normal(0, np.e ** (z / 2)).expand([len(y)]).to_event(1))
        sample("y", dist().Normal(x, 1.0).to_event(1), obs=y)

    z = np.linspace(-12 * width, 12 * width, 20001)
    f = stats.norm.logpdf(y[:, None], 0, np.sqrt(np.exp(z) + 1)).sum(0) + stats.norm.logpdf(z, 0, width)
    return evaluated(program, np.asarray(y), truth=float(log_sum(f, z)))


def squared(y, noise, prior=1.0):
    """y ~ N(w² + 0.2w, noise²): two modes."""

    def program(y):
        w = sample("w", dist().Normal(0, prior))
        sample("y", dist().Normal(w**2 + 0.2 * w, noise), obs=y)

    w = np.linspace(-14 * prior, 14 * prior, 40001)
    f = stats.norm.logpdf(y, w**2 + 0.2 * w, noise) + stats.norm.logpdf(w, 0, prior)
    return evaluated(program, y, truth=float(log_sum(f, w)))


def wave(y, noise, prior):
    """y ~ N(sin 3w, noise²): a mode in every half wave."""

    def program(y):
        import jax.numpy as jnp

        w = sample("w", dist().Normal(0, prior))
        sample("y", dist().Normal(jnp.sin(3 * w), noise), obs=y)

    w = np.linspace(-14 * prior, 14 * prior, 40001)
    f = stats.norm.logpdf(y, np.sin(3 * w), noise) + stats.norm.logpdf(w, 0, prior)
    return evaluated(program, y, truth=float(log_sum(f, w)))


def product(y):
    """y ~ N(w₁w₂ + (w₁ + w₂)/10, 0.3²): two arms of a hyperbola."""

    def program(y):
        w = sample("w", dist().Normal(0, 1).expand([2]).to_event(1))
        sample("y", dist().Normal(w[0] * w[1] + (w[0] + w[1]) / 10, 0.3), obs=y)

    w = np.linspace(-9, 9, 1501)
    f = stats.norm.logpdf(y, np.outer(w, w) + np.add.outer(w, w) / 10, 0.3) + standard(w)[:, None] + standard(w)
    return evaluated(program, y, truth=float(log_sum(f, w, w)))


def schools(scale):
    """Eight schools with τ ~ half-Cauchy: means integrate in closed form, and μ with them."""
    y, se = np.array([28.0, 8, -3, 7, -1, 1, 18, 12]), np.array([15.0, 10, 16, 11, 9, 11, 10, 18])

    def program(y, se):
        mu, tau = sample("mu", dist().Normal(0, 5)), sample("tau", dist().HalfCauchy(scale))
        theta = sample("theta", dist().Normal(mu, tau).expand([8]).to_event(1))
        sample("y", dist().Normal(theta, se).to_event(1), obs=y)

    t, mu = np.linspace(-14, 14, 2001), np.linspace(-40, 40, 401)
    tau = np.exp(t)[:, None, None]
    f = stats.norm.logpdf(y, mu[:, None], np.sqrt(se**2 + tau**2)).sum(2) + stats.norm.logpdf(mu, 0, 5)
    f = f + (stats.halfcauchy.logpdf(tau[..., 0], 0, scale) + t[:, None])
    return evaluated(program, y, se, truth=float(log_sum(f, t, mu)))


def beta_binomial(successes, trials, a, b):
    def program(k):
        p = sample("p", dist().Beta(a, b))
        sample("k", dist().Binomial(trials, p), obs=k)

    choose = gammaln(trials + 1) - gammaln(successes + 1) - gammaln(trials - successes + 1)
    truth = choose + betaln(a + successes, b + trials - successes) - betaln(a, b)
    return evaluated(program, successes, truth=float(truth))


def gamma_poisson(y, shape, rate):
    def program(y):
        mean = sample("mean", dist().Gamma(shape, rate))
        sample("y", dist().Poisson(mean).expand([len(y)]).to_event(1), obs=y)

    n, total = len(y), y.sum()
    truth = shape * np.log(rate) - gammaln(shape) + gammaln(shape + total) - (shape + total) * np.log(rate + n)
    return evaluated(program, y, truth=float(truth - gammaln(y + 1).sum()))


def normal_mean(n):
    """Conjugate: Laplace's method is exact."""
    y = np.random.default_rng(n).normal(1, 2, n)

    def program(y):
        mean = sample("mean", dist().Normal(0, 3))
        sample("y", dist().Normal(mean, 2.0).expand([len(y)]).to_event(1), obs=y)

    truth = stats.multivariate_normal(np.zeros(n), 4 * np.eye(n) + 9).logpdf(y)
    return evaluated(program, y, truth=float(truth))


COUNTS = np.array([130, 118, 142, 127, 135])
MODELS: dict[str, Callable[[], Known]] = {
    # where Laplace's method is off
    "coins: 80 × 2, sd held at 3": lambda: coins(80, 2, 3.0, 0, held=3.0),
    "coins: 60 × 3, sd held at 4": lambda: coins(60, 3, 4.0, 1, held=4.0),
    "coins: 150 × 4, sd held at 4": lambda: coins(150, 4, 4.0, 2, held=4.0),
    "coins: 400 × 2, sd held at 1.5": lambda: coins(400, 2, 1.5, 3, held=1.5),
    "coins: 200 × 3, sd learned": lambda: coins(200, 3, 3.0, 4),
    "coins: 300 × 4, sd learned": lambda: coins(300, 4, 2.5, 5),
    "shares: 100 of 2 tosses, sd held at 3": lambda: shares(100, 2, 3.0, 6, held=3.0),
    "rates: 200 × 1 rare, sd held at 2": lambda: rates(200, 1, -1.5, 2.0, 7, held=2.0),
    "funnel of 4, wide": lambda: funnel(np.array([0.3, -0.2, 0.1, 0.4]), 3.0),
    "funnel of 8, wide": lambda: funnel(np.array([0.3, -0.2, 0.1, 0.4, -0.5, 0.2, 0.0, 0.1]), 3.0),
    "funnel of 3, signal": lambda: funnel(np.array([2.5, -1.0, 4.0]), 2.0),
    "square, modes apart": lambda: squared(1.5, 0.2),
    "wave, many modes": lambda: wave(0.5, 0.1, 2.0),
    "wave, few modes": lambda: wave(0.2, 0.2, 0.7),
    "product": lambda: product(2.5),
    "tails: two and three, Cauchy": lambda: tails(1.0, [-4.0, -4.1, 3.9, 4.0, 4.2], 10.0),
    "wave, wide": lambda: wave(0.3, 0.1, 3.0),
    "eight schools": lambda: schools(5.0),
    # where it is fine
    "rates: 20 × 5 large": lambda: rates(20, 5, 4.0, 0.5, 10),
    "rates: 60 × 2 large": lambda: rates(60, 2, 5.0, 0.3, 11),
    "rates: 8 × 10, intercept integrated": lambda: integrated_intercept(12),
    "shares: 30 of 100 tosses": lambda: shares(30, 100, 0.7, 13),
    "shares: 12 of 40 tosses": lambda: shares(12, 40, 0.4, 14),
    "coins: 10 × 100": lambda: coins(10, 100, 1.0, 15),
    "coins: 6 × 40": lambda: coins(6, 40, 0.6, 16),
    "coins: 30 × 4, sd held at 0.3": lambda: coins(30, 4, 0.3, 17, held=0.3),
    "logistic regression on 3 columns": lambda: curve(18),
    "one weight, counts": lambda: one_weight(
        Poisson(),
        poisson,
        np.linspace(-1, 1, 30),
        np.random.default_rng(19).poisson(2, 30).astype(float),
        {"sd(weights)": 1.0},
    ),
    "tails: agreement": lambda: tails(4.0, [1.0, 1.2, 0.9, 1.1, 0.8, 1.3], 2.0),
    "beta–binomial": lambda: beta_binomial(40, 90, 2.0, 3.0),
    "beta–binomial, few": lambda: beta_binomial(3, 8, 2.0, 2.0),
    "gamma–Poisson": lambda: gamma_poisson(COUNTS, 3.0, 0.1),
    "normal mean": lambda: normal_mean(12),
    "square, one mode": lambda: squared(-1.0, 1.0, 0.5),
}


def row(name: str) -> dict[str, Any]:
    """What the check says of a model, and whether it is right."""
    known = MODELS[name]()
    found = known.fit.check()
    gap = float(known.fit.log_evidence) - known.truth
    at = found.approximation
    return {
        "model": name,
        "gap": gap,
        "estimate": np.nan if at is None else at.gap,
        "±": np.nan if at is None else at.std_error,
        "k̂": np.nan if at is None else at.k_hat,
        "word": "bad" if not found.trusted else "exact" if found.exact else "none" if at is None else at.word,
        "right": (abs(gap) > 0.5) == (not found.trusted),
    }
