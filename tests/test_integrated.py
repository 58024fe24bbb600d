# SPDX-License-Identifier: BSD-3-Clause
"""θ integrated: against brute-force quadrature, long runs of NUTS, and coverage in simulation."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.interpolate import CubicSpline
from scipy.special import gammaln
from scipy.stats import norm

import marglik
from marglik.hyperpriors import half_cauchy, half_normal, penalised_complexity
from marglik.integrated import _weighted_quantile, mixture_quantile
from marglik.integration import Improper, composite, gauss, grid, importance

DATA = Path(__file__).parent / "data"


def schools():
    y = [28.0, 8, -3, 7, -1, 1, 18, 12]
    s = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
    data = pd.DataFrame({"y": y, "school": list("ABCDEFGH"), "w": 1 / s**2})
    return marglik.fit("y ~ 1 + (1 | school)", data, fixed={"sd(noise)": 1.0}, weights="w")


@pytest.fixture(scope="module")
def one_way():
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(7), 4)
    y = 2 + 0.8 * rng.normal(size=7)[g] + rng.normal(size=28)
    return marglik.fit("y ~ 1 + (1 | g)", pd.DataFrame({"y": y, "g": g.astype(str)}))


def brute_force(fit, names, priors, n=91, width=9.0):
    """Means, sds, quantiles and log integral by the trapezoid rule in the logarithms of one or two scales."""
    centre = np.log(fit.hyperparameters.loc[names, "estimate"].to_numpy())
    axes = [np.linspace(c - width * 0.6, c + width * 0.4, n) for c in centre]
    x = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(names))
    s = np.exp(x)
    log_p = np.array([fit.log_evidence_at(dict(zip(names, one, strict=True))) for one in s])
    log_p += sum(priors[i](s[:, i]) + x[:, i] for i in range(len(names)))
    cell = np.prod([a[1] - a[0] for a in axes])
    top = log_p.max()
    p = np.exp(log_p - top)
    total = top + np.log(p.sum() * cell)
    p /= p.sum()
    mean = p @ s
    return mean, np.sqrt(p @ (s - mean) ** 2), total, p.reshape([n] * len(names)), axes


def test_one_scale_equals_quadrature():
    """Eight schools: θ̂ = 0, and the posterior of τ under a flat prior (Gelman et al. 2013, §5.5)."""
    fit = schools()
    whole = fit.integrate_hyperparameters()
    tau = np.exp(np.linspace(-14, 8, 40001))
    log_p = np.array([fit.log_evidence_at({"sd(Intercept | school)": t}) for t in tau[::20]])
    log_p = np.interp(np.log(tau), np.log(tau[::20]), log_p) + np.log(tau)
    p = np.exp(log_p - log_p.max())
    total = log_p.max() + np.log(p.sum() * 22 / 40000)
    p /= p.sum()
    mean = p @ tau
    sd = np.sqrt(p @ (tau - mean) ** 2)
    row = whole.hyperparameters.loc["sd(Intercept | school)"]
    low, median, high = np.interp([0.025, 0.5, 0.975], np.cumsum(p) - p / 2, tau)
    assert_allclose(
        row[["mean", "sd", "lower", "median", "upper"]], [mean, sd, low, median, high], atol=1e-3 * sd, rtol=0
    )
    assert_allclose(whole.log_evidence, total, atol=1e-4, rtol=0)


def test_two_scales_equal_quadrature(one_way):
    names = ["sd(Intercept | g)", "sd(noise)"]
    flat = np.zeros_like
    mean, sd, total, p, axes = brute_force(one_way, names, [flat, flat])
    whole = one_way.integrate_hyperparameters()
    found = whole.hyperparameters.loc[names]
    assert_allclose(found["mean"], mean, atol=0.02 * sd.min(), rtol=0.01)
    assert_allclose(found["sd"], sd, rtol=0.04)
    assert_allclose(whole.log_evidence, total, atol=0.03, rtol=0)
    for i, name in enumerate(names):
        curve = CubicSpline(axes[i], p.sum(axis=1 - i)).antiderivative()
        fine = np.linspace(axes[i][0], axes[i][-1], 20001)
        low, high = np.exp(np.interp([0.025, 0.975], curve(fine) / curve(axes[i][-1]), fine))
        assert_allclose(found.loc[name, ["lower", "upper"]], [low, high], atol=0.03 * (high - low), rtol=0)


def test_a_given_prior_equals_quadrature(one_way):
    names = ["sd(Intercept | g)", "sd(noise)"]
    priors = {names[0]: half_normal(0.5), names[1]: penalised_complexity(3.0, 0.01)}
    mean, sd, total, _, _ = brute_force(one_way, names, [priors[n].logpdf for n in names])
    whole = one_way.integrate_hyperparameters(prior=priors)
    assert_allclose(whole.hyperparameters.loc[names, "mean"], mean, atol=0.03 * sd.max(), rtol=0)
    assert_allclose(whole.log_evidence, total, atol=0.03, rtol=0)
    assert whole.prior == {names[0]: "halfnorm(scale=0.5)", names[1]: "expon(scale=0.651442)"}


def gaussian(mean, C):
    H = np.linalg.inv(C)
    return lambda x: -0.5 * np.einsum("ni,ij,nj->n", x - mean, H, x - mean)


@pytest.mark.parametrize("k", [2, 3, 5, 6, 7, 8])
def test_a_gaussian_has_the_moments_of_its_design(k):
    rng = np.random.default_rng(k)
    root = rng.normal(size=(k, k))
    mean, C = rng.normal(size=k), root @ root.T + np.eye(k)
    nodes = composite(gaussian(mean, C), mean, C)
    assert_allclose(nodes.weights @ nodes.x, mean, atol=1e-12, rtol=0)
    away = nodes.x - mean
    assert_allclose((away.T * nodes.weights) @ away, C, atol=1e-10, rtol=0)
    assert_allclose(nodes.log_integral, np.linalg.slogdet(2 * np.pi * C)[1] / 2, atol=1e-12, rtol=0)
    assert nodes.n_evaluations < 60 or k > 5


@pytest.mark.parametrize(("tilt", "share"), [(0.0, 0.01), (0.3, 0.05)])
def test_skewed_densities_by_a_design(tilt, share):
    """x = −My with e^y ~ Gamma(c): a scale with few levels is as heavy to the right; also where they go together."""
    c, k = np.array([2.0, 3, 4, 6, 30]), 5
    M = np.eye(k) + tilt * np.eye(k, k=1) - tilt * np.eye(k, k=-1) / 2

    def density(x):
        y = -np.linalg.solve(M, x.T).T
        return (c * y - np.exp(y)).sum(axis=1)

    nodes = composite(density, -M @ np.log(c), M @ np.diag(1 / c) @ M.T)
    assert nodes.n_evaluations < 60
    assert_allclose(nodes.log_integral, gammaln(c).sum() + np.linalg.slogdet(M)[1], atol=0.05, rtol=0)
    x, w = nodes.marginals
    draws = -np.log(np.random.default_rng(0).gamma(c, size=(200_000, k))) @ M.T
    low, high = (np.quantile(draws, p, axis=0) for p in (0.025, 0.975))
    for p, truth in ((0.025, low), (0.5, np.median(draws, axis=0)), (0.975, high)):
        assert (np.abs(_weighted_quantile(x, w, p) - truth) < share * (high - low)).all()


def test_a_gauss_rule_is_exact_for_polynomials():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=500), rng.dirichlet(np.ones(500))
    nodes, weights = gauss(x, w, 6)
    for power in range(12):
        assert_allclose(weights @ nodes**power, w @ x**power, rtol=1e-9)
    assert (weights > 0).all()


def test_a_skewed_density_on_a_grid():
    """x = log s for s ~ Gamma(3): ∫ = Γ(3), and E s = 3."""
    nodes = grid(lambda x: 3 * x[:, 0] - np.exp(x[:, 0]), np.zeros(1), 1.0)
    assert_allclose(nodes.log_integral, np.log(2), atol=1e-5, rtol=0)
    x, w = nodes.marginals
    assert_allclose(w @ np.exp(x[:, 0]), 3, atol=1e-4, rtol=0)
    assert_allclose(nodes.weights @ np.exp(nodes.x[:, 0]), 3, atol=1e-4, rtol=0)


def test_importance_draws_learn_their_place():
    """From a start far off in place and scale, two exponential tails: s_i ~ Gamma(1 + i) in x = log s."""

    def density(x):
        return (np.array([1.0, 2.0, 3.0]) * x - np.exp(x)).sum(axis=1)

    nodes = importance(density, np.full(3, -2.0), np.full(3, 0.3), seed=1)
    assert_allclose(nodes.log_integral, np.log(2), atol=0.05, rtol=0)  # Γ(1) Γ(2) Γ(3)
    x, w = nodes.marginals
    assert_allclose(w @ np.exp(x), [1, 2, 3], rtol=0.03)
    assert nodes.effective > 100


def test_a_prior_without_names(one_way):
    with pytest.raises(ValueError, match="prior must give densities by name"):
        one_way.integrate_hyperparameters(prior=True)


def test_a_density_without_an_end_is_improper():
    with pytest.raises(Improper):
        grid(lambda x: -np.logaddexp(0, -x[:, 0]), np.zeros(1), 1.0)


def test_mixture_quantiles_solve_their_equation():
    rng = np.random.default_rng(0)
    m, s, w = rng.normal(size=(5, 4)), rng.uniform(0.1, 2, size=(5, 4)), rng.dirichlet(np.ones(5))
    for p in (0.025, 0.5, 0.9):
        q = mixture_quantile(m, s, w, p)
        assert_allclose(w @ norm.cdf((q - m) / s), p, atol=1e-12, rtol=0)


def test_weights_are_mixtures_over_theta(one_way):
    """E[w|y] = Σ π_j E[w|y,θ_j], var by the law of total variance; draws agree."""
    whole = one_way.integrate_hyperparameters()
    theta, w = whole._places
    assert_allclose(w.sum(), 1, rtol=1e-12)
    sd = whole.random_effects("g").attrs["sd"]["Intercept"]
    plug_in = one_way.random_effects("g").attrs["sd"]["Intercept"]
    assert (sd > plug_in).all()
    draws = whole.sample(20000, seed=1)
    assert_allclose(draws["(1 | g)"].mean(axis=0)[:, 0], whole.random_effects("g")["Intercept"], atol=0.03, rtol=0)
    assert_allclose(draws["(1 | g)"].std(axis=0)[:, 0], sd, rtol=0.03)
    assert_allclose(draws["sd(noise)"].mean(), w @ theta[:, -1], rtol=0.01)
    new = {"g": ["0", "3"]}
    band = whole.predict(new, interval=0.95)
    assert_allclose(band["mean"], whole.predict(new), rtol=1e-12)
    eta = draws["fixed effects"][:, [0]] + draws["(1 | g)"][:, [0, 3], 0]
    width = band["upper"] - band["lower"]
    assert_allclose(np.quantile(eta, 0.025, axis=0), band["lower"], atol=0.03 * width.max(), rtol=0)
    assert_allclose(np.quantile(eta, 0.975, axis=0), band["upper"], atol=0.03 * width.max(), rtol=0)


@pytest.mark.parametrize("c", [1e-6, 1e6])
def test_units_of_y_do_not_matter(one_way, c):
    frame = one_way.source.data
    other = marglik.fit("y ~ 1 + (1 | g)", frame.assign(y=frame["y"] * c)).integrate_hyperparameters()
    whole = one_way.integrate_hyperparameters()
    assert_allclose(other.hyperparameters / c, whole.hyperparameters, rtol=1e-5)


def cases():
    frame = pd.read_csv(DATA / "lmm_sleepstudy" / "data.csv")
    counts = pd.read_csv(DATA / "nuts" / "poisson.csv")
    return {
        "schools": (schools(), "school", {"tau": "sd(Intercept | school)"}),
        "sleepstudy": (
            marglik.fit("Reaction ~ Days + (Days | Subject)", frame),
            "Subject",
            {
                "sd_int": "sd(Intercept | Subject)",
                "sd_slope": "sd(Days | Subject)",
                "cor": "cor(Intercept, Days | Subject)",
                "sigma": "sd(noise)",
            },
        ),
        "poisson": (
            marglik.fit("y ~ x + (1 | g)", counts, family="poisson"),
            "g",
            {"sd": "sd(Intercept | g)"},
        ),
    }


@pytest.mark.parametrize("case", ["schools", "sleepstudy", "poisson"])
def test_intervals_are_those_of_long_runs_of_nuts(case):
    """tests/data/nuts has quantiles of long runs of NumPyro's NUTS on the same model and flat priors."""
    reference = json.loads((DATA / "nuts" / f"{case}.json").read_text())
    fit, group, names = cases()[case]
    whole = fit.integrate_hyperparameters()

    def agree(found, site, share=0.05):
        low, high = np.array(reference[site]["lower"]), np.array(reference[site]["upper"])
        for column, end in (("lower", low), ("upper", high)):
            assert_allclose(found[column], end, atol=share * (high - low).max(), rtol=0)

    for site, name in names.items():
        agree(whole.hyperparameters.loc[name], site)
    agree(whole.fixed_effects, "mu" if case == "schools" else "beta")
    effects = whole.random_effects(group)
    site = "theta" if case == "schools" else "u"
    columns = {key: frame.to_numpy() if case == "sleepstudy" else frame["Intercept"].to_numpy()
               for key, frame in effects.attrs.items()}  # fmt: skip
    agree(columns, site)


def test_few_evaluations_for_five_hyperparameters():
    rng = np.random.default_rng(5)
    n = 600
    groups = {name: rng.integers(size, size=n) for name, size in zip("abcd", (30, 25, 20, 15), strict=True)}
    y = 1 + rng.normal(size=n) + sum(0.8 * rng.normal(size=40)[g] for g in groups.values())
    frame = pd.DataFrame({"y": y, **{name: g.astype(str) for name, g in groups.items()}})
    fit = marglik.fit("y ~ 1 + (1 | a) + (1 | b) + (1 | c) + (1 | d)", frame)
    whole = fit.integrate_hyperparameters()
    assert whole.nodes.design == "central composite design"
    assert whole.nodes.n_evaluations < 60
    other = fit.integrate_hyperparameters(design="importance").hyperparameters
    width = other["upper"] - other["lower"]
    for column in ("mean", "lower", "upper"):
        assert (np.abs(whole.hyperparameters[column] - other[column]) < 0.03 * width).all()


@pytest.mark.slow
def test_intervals_cover_where_those_at_the_estimate_do_not():
    """Eight levels, the first with few rows: 95 % intervals of level effects, over 200 data sets."""
    rng = np.random.default_rng(12)
    inside, plug_in, scale = [], [], []
    g = np.repeat(np.arange(8), 3)
    for _ in range(200):
        s = abs(rng.normal(0, 1.0))
        u = s * rng.normal(size=8)
        frame = pd.DataFrame({"y": u[g] + 1.5 * rng.normal(size=24), "g": g.astype(str)})
        fit = marglik.fit("y ~ 1 + (1 | g)", frame)
        whole = fit.integrate_hyperparameters(prior={"sd(Intercept | g)": half_normal(1.0)})
        mean = whole.predict({"g": list("01234567")}, interval=0.95)
        inside += list((mean["lower"] < u) & (u < mean["upper"]))
        mean = fit.predict({"g": list("01234567")}, interval=0.95)
        plug_in += list((mean["lower"] < u) & (u < mean["upper"]))
        row = whole.hyperparameters.loc["sd(Intercept | g)"]
        scale.append(row["lower"] < s < row["upper"])
    assert 0.93 < np.mean(inside) < 0.97
    assert np.mean(plug_in) < 0.92
    assert 0.91 < np.mean(scale) < 0.99


def test_two_levels_leave_no_posterior_under_a_flat_prior():
    data = {"y": [1.0, 1.4, 3.0, 3.3, 1.2, 2.9], "g": list("aabbab")}
    fit = marglik.fit("y ~ 1 + (1 | g)", data)
    with pytest.raises(
        ValueError, match=r"prior of 'sd\(Intercept \| g\)' \(flat\) its posterior is improper.*half_normal"
    ):
        fit.integrate_hyperparameters()
    whole = fit.integrate_hyperparameters(prior={"sd(Intercept | g)": half_cauchy(1.0)})
    assert 0 < whole.hyperparameters.loc["sd(Intercept | g)", "median"] < 10


def test_bad_input(one_way):
    with pytest.raises(KeyError, match=r"No hyperparameter is called 'sd\(h\)'"):
        one_way.integrate_hyperparameters(prior={"sd(h)": half_normal(1)})
    with pytest.raises(ValueError, match="must be a log density"):
        one_way.integrate_hyperparameters(prior={"sd(noise)": 3.0})
    with pytest.raises(ValueError, match="is not for 2 hyperparameters: a grid is for one"):
        one_way.integrate_hyperparameters(design="grid")
    with pytest.raises(ValueError, match="design must be"):
        one_way.integrate_hyperparameters(design="ccd")
    held = marglik.fit("y ~ 1 + (1 | g)", one_way.source.data, fixed={"sd(noise)": 1.0, "sd(Intercept | g)": 1.0})
    with pytest.raises(ValueError, match="All hyperparameters are held"):
        held.integrate_hyperparameters()
    part = marglik.fit("y ~ 1 + (1 | g)", one_way.source.data, fixed={"sd(noise)": 1.0})
    with pytest.raises(ValueError, match=r"'sd\(noise\)' is held at a value, so it can have no prior"):
        part.integrate_hyperparameters(prior={"sd(noise)": half_normal(1)})
    for make in (lambda: half_normal(0), lambda: half_cauchy(-1), lambda: penalised_complexity(np.inf)):
        with pytest.raises(ValueError, match="must be a number above zero"):
            make()
    with pytest.raises(ValueError, match="tail must be a probability"):
        penalised_complexity(1.0, 5)
