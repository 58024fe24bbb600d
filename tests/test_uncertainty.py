# SPDX-License-Identifier: BSD-3-Clause
"""Error bars against curvatures and drops of the log evidence that are computed here."""

import numpy as np
import pytest
from scipy import optimize, stats

import marglik
from marglik import learn, uncertainty
from marglik.hyperparameters import Hyperparameter, Hyperparameters, Interval, Positive, Real
from marglik.likelihoods import Gaussian, Poisson
from marglik.model import LinearModel
from marglik.priors import Flat, RandomEffects, Ridge
from marglik.rows import InMemory
from marglik.testing import derivative
from truth import best_at

Z = stats.norm.ppf(0.975)


def groups(likelihood, reml=True, spread=1.0, ridge=False, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(12), 5)
    x, z = rng.standard_normal((2, 60))
    eta = 1 + 0.4 * x + spread * rng.standard_normal(12)[codes]
    y = likelihood.sample(eta, (0.8,) * len(likelihood.hyperparameters()), rng)
    prior = Flat(np.column_stack([np.ones(60), x]), ["Intercept", "x"])
    prior = prior + RandomEffects(codes, [str(i) for i in range(12)], group="g")
    prior = prior + Ridge(np.column_stack([z, z**2 - 1])) if ridge else prior
    return LinearModel(likelihood, prior, InMemory(y), reml=reml)


CASES = {
    "exact": lambda: groups(Gaussian()),
    "exact, ml": lambda: groups(Gaussian(), reml=False),
    "exact, three scales": lambda: groups(Gaussian(), ridge=True, seed=3),
    "laplace": lambda: groups(Poisson()),
    "laplace, ml": lambda: groups(Poisson(), reml=False),
    "one shared scale": lambda: LinearModel(
        Gaussian(),
        Flat(np.ones(30)) + Ridge(np.random.default_rng(1).standard_normal((30, 4))),
        InMemory(
            np.random.default_rng(1).standard_normal((30, 4)) @ [1, 2, -1, 0.5]
            + np.random.default_rng(2).standard_normal(30)
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_standard_errors_are_the_inverse_curvature(name):
    """In φ = log θ, by second differences of the log evidence, fixed effects that are maximised profiled out."""
    fitted = marglik.fit(CASES[name]())
    table = fitted.hyperparameters
    assert not table["at_boundary"].any()
    theta = table["estimate"].to_numpy()
    k = len(theta)

    def value(shift):
        return fitted.log_evidence_at(dict(zip(table.index, theta * np.exp(shift), strict=True)))

    H = np.empty((k, k))
    for i, d in enumerate(np.eye(k)):
        for j, e in enumerate(np.eye(k)):
            slope = lambda s, d=d, e=e: derivative(lambda t: value(s * d + t * e), 0.2, levels=4)  # noqa: E731
            H[i, j] = derivative(slope, 0.2, levels=4)
    sd = np.sqrt(np.linalg.inv(-H).diagonal())
    np.testing.assert_allclose(table["se"], theta * sd, rtol=1e-5)
    np.testing.assert_allclose(table["lower"], theta * np.exp(-Z * sd), rtol=1e-5)
    np.testing.assert_allclose(table["upper"], theta * np.exp(Z * sd), rtol=1e-5)


@pytest.mark.parametrize("reml", [True, False])
def test_standard_errors_of_a_known_layout(reml):
    """A single Gaussian sample: var(log σ̂) = 1/(2(n − f)) exactly."""
    y = np.random.default_rng(4).standard_normal(17)
    fitted = marglik.fit(LinearModel(Gaussian(), Flat(np.ones(17)), InMemory(y), reml=reml))
    freedom = 17 - reml
    row = fitted.hyperparameters.loc["sd(noise)"]
    sigma = np.sqrt(np.sum((y - y.mean()) ** 2) / freedom)
    np.testing.assert_allclose(row["estimate"], sigma, rtol=1e-10)
    np.testing.assert_allclose(row["se"], sigma / np.sqrt(2 * freedom), rtol=1e-6)
    np.testing.assert_allclose(row["upper"], sigma * np.exp(Z / np.sqrt(2 * freedom)), rtol=1e-6)


BOUNDARIES = {
    "exact": (lambda: groups(Gaussian(), spread=0.0, seed=1), "sd(Intercept | g)"),
    "exact, ml": (lambda: groups(Gaussian(), reml=False, spread=0.0, seed=1), "sd(Intercept | g)"),
    "laplace": (lambda: groups(Poisson(), spread=0.0, seed=4), "sd(Intercept | g)"),
    "one shared scale": (
        lambda: LinearModel(
            Gaussian(),
            Flat(np.ones(30)) + Ridge(np.random.default_rng(1).standard_normal((30, 4))),
            InMemory(np.random.default_rng(8).standard_normal(30)),
        ),
        "sd(weights)",
    ),
}


@pytest.mark.parametrize("name", BOUNDARIES)
def test_upper_limit_at_the_boundary(name):
    """Where twice the drop of the log evidence, the others re-optimised by SciPy, is the 0.90 quantile of χ²₁."""
    build, scale = BOUNDARIES[name]
    fitted = marglik.fit(build())
    table = fitted.hyperparameters
    row = table.loc[scale]
    assert (row["estimate"], row["lower"], row["at_boundary"]) == (0, 0, True)
    assert np.isnan(row["se"])
    others = [n for n in table.index if n != scale]

    def profile(s):
        if not others:
            return fitted.log_evidence_at({scale: s})
        (other,) = others
        centre = np.log(table.loc[other, "estimate"])
        best = optimize.minimize_scalar(
            lambda t: -fitted.log_evidence_at({scale: s, other: np.exp(t)}),
            bounds=(centre - 1, centre + 1),
            method="bounded",
            options={"xatol": 1e-8},
        )
        return -best.fun

    drop = 2 * (fitted.log_evidence - profile(row["upper"]))
    np.testing.assert_allclose(drop, stats.chi2(1).ppf(0.90), rtol=1e-5)
    assert 2 * (fitted.log_evidence - profile(row["upper"] / 2)) < drop


def swapped(codes, n, rng):
    """The codes with those of n rows passed round."""
    out, rows = codes.copy(), rng.permutation(len(codes))[:n]
    out[rows] = codes[np.roll(rows, 1)]
    return out


def two_at_zero(seed):
    """Crossed scales of which one leaves zero when another does."""
    rng = np.random.default_rng(seed)
    rng.standard_normal(40)
    k = np.arange(40) // 5
    h, j = swapped(k, 10, rng), rng.integers(0, 6, 40)
    y = rng.standard_normal(40) + 0.3 * rng.standard_normal(8)[k]
    prior = Flat(np.ones(40))
    for codes, name in ((h, "h"), (k, "k"), (j, "j")):
        prior = prior + RandomEffects(codes, [str(i) for i in range(8)], group=name)
    return LinearModel(Gaussian(), prior, y)


def nearly_one_factor(seed):
    """Beside correlated effects, two factors that all but agree."""
    rng = np.random.default_rng(seed)
    x, g, k = rng.standard_normal(60), np.arange(60) % 12, np.arange(60) // 6
    h, pair = swapped(k, 8, rng), np.column_stack([np.ones(60), x])
    b = rng.standard_normal((12, 2)) @ [[1, 0.5], [0, 0.8]]
    y = 1 + x + np.sum(b[g] * pair, axis=1) + 0.6 * rng.standard_normal(10)[k] + 0.6 * rng.standard_normal(60)
    levels = [str(i) for i in range(12)]
    prior = Flat(pair) + RandomEffects(g, levels, pair, ("Intercept", "x"), "g")
    return LinearModel(Gaussian(), prior + RandomEffects(h, levels, group="h") + RandomEffects(k, levels, group="k"), y)


@pytest.mark.parametrize(("build", "seed"), [(two_at_zero, 15), (two_at_zero, 40), (nearly_one_factor, 110)])
def test_upper_limits_while_others_leave_zero(build, seed):
    """The other scales are re-optimised, also those that lie at zero or fall to it on the way."""
    fitted = marglik.fit(build(seed))
    table = fitted.hyperparameters
    ends = table.index[table["at_boundary"]]
    assert len(ends)
    starts = [{name: r if name.startswith("cor") else 0.6 for name in table.index} for r in (-0.6, 0.6)]
    for name in ends:
        best, _ = best_at(fitted.model, {name: table.loc[name, "upper"]}, starts, polish=True)
        np.testing.assert_allclose(2 * (fitted.log_evidence - best), 2.705543454095404, rtol=1e-5)


def test_upper_limits_of_many_targets():
    """Each where it would be alone."""
    rng = np.random.default_rng(6)
    X, Y = rng.standard_normal((25, 3)), rng.standard_normal((25, 8))
    prior = Flat(np.ones(25)) + Ridge(X)
    together = marglik.fit(LinearModel(Gaussian(), prior, InMemory(Y))).hyperparameters
    assert together["at_boundary"].any()
    for v in range(8):
        alone = marglik.fit(LinearModel(Gaussian(), prior, InMemory(Y[:, v]))).hyperparameters
        for column in ("estimate", "se", "lower", "upper"):
            np.testing.assert_allclose(together.loc[v][column], alone[column], rtol=1e-5)


def test_what_is_held_has_no_error():
    fitted = marglik.fit(groups(Gaussian()), fixed={"sd(noise)": 0.7})
    row = fitted.hyperparameters.loc["sd(noise)"]
    assert np.isnan(row["se"])
    assert (row["estimate"], row["lower"], row["upper"], row["at_boundary"]) == (0.7, 0.7, 0.7, False)
    alone = fitted.hyperparameters.loc["sd(Intercept | g)"]
    s = alone["estimate"]
    curvature = derivative(
        lambda t: derivative(lambda u: fitted.log_evidence_at({"sd(Intercept | g)": s * np.exp(t + u)}), 0.2), 0.2
    )
    np.testing.assert_allclose(alone["se"], s / np.sqrt(-curvature), rtol=1e-5)


def test_intervals_stay_inside_their_supports():
    """Wald's interval on the unconstrained scale, for each kind of support, from a given curvature."""
    names = Hyperparameters(
        [Hyperparameter("a", Positive()), Hyperparameter("b", Interval(-1.0, 1.0)), Hyperparameter("c", Real())]
    )
    phi, sd = np.array([[0.3, 0.8, -2.0]]), np.array([0.5, 2.0, 0.1])
    free = np.ones((1, 3), bool)
    zero = np.zeros((1, 3))
    optimum = learn.Optimum(
        names.constrain(phi), np.zeros(1), zero, -np.diag(1 / sd**2)[None], free, ~free, np.ones(1, bool), 1
    )
    table = uncertainty.wald(names, optimum)
    low, high = phi[0] - Z * sd, phi[0] + Z * sd
    logistic = lambda x: -1 + 2 / (1 + np.exp(-x))  # noqa: E731
    np.testing.assert_allclose(table["lower"][0], [np.exp(low[0]), logistic(low[1]), low[2]], rtol=1e-12)
    np.testing.assert_allclose(table["upper"][0], [np.exp(high[0]), logistic(high[1]), high[2]], rtol=1e-12)
    slope = (1 - logistic(0.8) ** 2) / 2
    np.testing.assert_allclose(table["se"][0], [np.exp(0.3) * 0.5, slope * 2, 0.1], rtol=1e-12)


def test_a_scale_just_above_zero_has_a_wide_interval_and_no_warning():
    """Where m²/c is barely more than the noise: the curvature in log s goes to zero with s."""
    x = np.ones(4)
    y = x * np.sqrt((1 + 1e-6) / 4)
    fitted = marglik.fit(LinearModel(Gaussian(), Ridge(x), InMemory(y)), fixed={"sd(noise)": 1.0})
    row = fitted.hyperparameters.loc["sd(weights)"]
    np.testing.assert_allclose(row["estimate"] ** 2, 1e-6 / 4, rtol=1e-6)
    assert row["lower"] < 1e-100
    assert row["upper"] > 1e100


@pytest.mark.slow
def test_intervals_of_the_noise_cover():
    """95 % intervals of σ from 2,000 samples of 20: coverage within four standard errors of its exact value."""
    y = np.random.default_rng(7).standard_normal((20, 2000))
    prior = Flat(np.ones(20)) + Ridge(np.arange(20.0))
    table = marglik.fit(LinearModel(Gaussian(), prior, InMemory(y)), fixed={"sd(weights)": 0.0}).hyperparameters
    rows = table.xs("sd(noise)", level="name")
    sd = 1 / np.sqrt(2 * 19)
    # σ̂² ~ χ²₁₉/19: the interval covers 1 when |log σ̂| < 1.96 sd.
    exact = stats.chi2(19).cdf(19 * np.exp(2 * Z * sd)) - stats.chi2(19).cdf(19 * np.exp(-2 * Z * sd))
    covered = np.mean((rows["lower"] < 1) & (rows["upper"] > 1))
    assert abs(covered - exact) < 4 * np.sqrt(exact * (1 - exact) / 2000)


@pytest.mark.parametrize("reml", [True, False])
def test_the_lower_end_of_a_size_without_end_is_where_the_evidence_has_dropped(reml):
    rng = np.random.default_rng(4)
    data = {"y": 2 + rng.integers(0, 2, 120), "x": rng.standard_normal(120)}
    fit, poisson = (marglik.fit("y ~ x", data, family=f, reml=reml) for f in ("negative_binomial", "poisson"))
    row = fit.hyperparameters.loc["size"]
    assert (row["estimate"], row["upper"], row["at_boundary"]) == (np.inf, np.inf, True)
    assert fit.log_evidence == pytest.approx(poisson.log_evidence, abs=1e-7)
    drop = stats.chi2.ppf(0.90, 1) / 2
    assert fit.log_evidence_at({"size": row["lower"]}) == pytest.approx(poisson.log_evidence - drop, abs=1e-6)
    at_90 = fit.confint(level=0.9, names="size").loc["size"]
    drop = stats.chi2.ppf(0.80, 1) / 2
    assert fit.log_evidence_at({"size": at_90["lower"]}) == pytest.approx(poisson.log_evidence - drop, abs=1e-6)


def test_the_lower_end_of_degrees_of_freedom_without_end():
    rng = np.random.default_rng(4)
    x = rng.standard_normal(120)
    fit = marglik.fit("y ~ x", {"y": x + rng.uniform(-1, 1, 120), "x": x}, family="student_t")
    row = fit.hyperparameters.loc["df"]
    assert (row["estimate"], row["at_boundary"]) == (np.inf, True)
    best = optimize.minimize_scalar(
        lambda s: -fit.log_evidence_at({"df": row["lower"], "scale": s}), bounds=(0.2, 1.0), method="bounded"
    )
    assert 2 * (fit.log_evidence + best.fun) == pytest.approx(stats.chi2.ppf(0.90, 1), abs=1e-5)
