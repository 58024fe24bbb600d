# SPDX-License-Identifier: BSD-3-Clause
"""Programs of unusual shape: loops with latent sites, symmetric densities, ends of supports."""

import numpy as np
import pytest
from scipy import stats

import marglik

jax = pytest.importorskip("jax")
numpyro = pytest.importorskip("numpyro")
import jax.numpy as jnp  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
from numpyro.contrib.control_flow import scan  # noqa: E402

POSITIVE = dist.constraints.positive
SERIES = np.random.default_rng(2).normal(size=12)


def chain(y):
    s = numpyro.param("s", 1.0, constraint=POSITIVE)

    def step(before, _):
        z = numpyro.sample("z", dist.Normal(0.5 * before, 1.0))
        return z, z

    states = scan(step, numpyro.sample("first", dist.Normal(0, 1)), None, length=len(y))[1]
    numpyro.sample("y", dist.Normal(states, s), obs=y)


def positive_chain(y):
    s = numpyro.param("s", 1.0, constraint=POSITIVE)

    def step(before, _):
        z = numpyro.sample("z", dist.LogNormal(0.5 * before, 1.0))
        return jnp.log(z), z

    states = scan(step, numpyro.sample("first", dist.Normal(0, 1)), None, length=len(y))[1]
    numpyro.sample("y", dist.Normal(jnp.log(states), s), obs=y)


@pytest.mark.parametrize("program", [chain, positive_chain])
def test_latent_sites_in_a_loop(program):
    """A Gaussian chain, whose evidence and states are known; on another scale its Laplace evidence is the same."""
    n = len(SERIES)
    step = np.eye(n + 1) - 0.5 * np.eye(n + 1, k=-1)
    C = np.linalg.inv(step.T @ step)[1:, 1:]
    V = C + 0.7**2 * np.eye(n)
    fit = marglik.fit(program, args=(SERIES,), fixed={"s": 0.7})
    np.testing.assert_allclose(fit.log_evidence, stats.multivariate_normal(np.zeros(n), V).logpdf(SERIES), rtol=1e-10)
    z = fit.posterior.mean["z"]
    states = z if program is chain else np.log(z)
    np.testing.assert_allclose(states, C @ np.linalg.solve(V, SERIES), atol=1e-7, rtol=0)
    assert fit.posterior.sample(3)["z"].shape == (3, n)
    assert "z[0]" in fit.summary()


def product(y):
    a, b = (numpyro.sample(name, dist.Normal(0, 1)) for name in "ab")
    numpyro.sample("y", dist.Normal(a * b, 0.3), obs=y)


def test_the_middle_between_modes_is_left():
    """Zero is a saddle of a, b → ab; the modes are a = b and a = −b, and Laplace sees one of the two."""
    y = np.array([0.8, 1.1, 1.3, 0.9])
    fit = marglik.fit(product, args=(y,))
    a, b = (float(fit.posterior.mean[name]) for name in "ab")
    np.testing.assert_allclose(a, b, rtol=1e-6)
    n, v, r = len(y), 0.3**2, y.sum()
    np.testing.assert_allclose(a**2, (r - v) / n, rtol=1e-6)  # a = b (r − n ab)/v
    H = np.array([[n * a**2 / v + 1, (2 * n * a * b - r) / v], [(2 * n * a * b - r) / v, n * a**2 / v + 1]])
    log_joint = stats.norm(a * b, 0.3).logpdf(y).sum() + stats.norm.logpdf([a, b]).sum()
    np.testing.assert_allclose(fit.log_evidence, log_joint + np.log(2 * np.pi) - np.linalg.slogdet(H)[1] / 2, rtol=1e-9)


def mean_of(y, start, constraint):
    m = numpyro.sample("m", dist.Normal(0, 3))
    s = numpyro.param("s", start, constraint=constraint)
    numpyro.sample("y", dist.Normal(m, s), obs=y)


@pytest.mark.parametrize(
    ("start", "constraint", "end"),
    [
        (0.3, dist.constraints.interval(0.1, 0.4), 0.4),
        (2.0, dist.constraints.interval(1.5, 3.0), 1.5),
        (2.0, dist.constraints.greater_than(1.5), 1.5),
    ],
)
def test_the_evidence_at_an_end_of_the_support(start, constraint, end):
    """In closed form; the interval's other end is where twice the drop is that of a chi squared."""
    y = 1 + np.random.default_rng(4).normal(size=30)
    fit = marglik.fit(mean_of, args=(y, start, constraint))

    def truth(s):
        return stats.multivariate_normal(np.zeros(30), 9 * np.ones((30, 30)) + s**2 * np.eye(30)).logpdf(y)

    row = fit.hyperparameters.loc["s"]
    assert row["at_boundary"]
    assert row["estimate"] == end
    np.testing.assert_allclose(fit.log_evidence, truth(end), rtol=1e-9)
    inner, own = ("lower", "upper") if end == 0.4 else ("upper", "lower")
    assert row[own] == end
    np.testing.assert_allclose(2 * (truth(end) - truth(row[inner])), 2.7055, atol=1e-3, rtol=0)
    assert f"{end:g}   boundary" in fit.summary()


def test_a_start_outside_the_constraint():
    with pytest.raises(ValueError, match=r"start of numpyro\.param 's' lies outside its own constraint"):
        marglik.fit(mean_of, args=(SERIES, 1.0, dist.constraints.interval(0.1, 0.4)))


def twice(y):
    numpyro.sample("a", dist.Normal(0, 1))
    numpyro.sample("a", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(0, 1), obs=y)


def test_what_numpyro_refuses_is_said():
    with pytest.raises(ValueError, match="cannot run the program: all sites must have unique names"):
        marglik.fit(twice, args=(SERIES,))


def test_within_a_transformation():
    with pytest.raises(ValueError, match=r"cannot run inside a JAX transformation such as jax\.jit"):
        jax.jit(lambda y: marglik.fit(product, args=(y,)).log_evidence)(SERIES)


def test_a_column_of_a_frame():
    pd = pytest.importorskip("pandas")
    there = marglik.fit(product, args=(pd.Series(SERIES),)).log_evidence
    assert there == marglik.fit(product, args=(SERIES,)).log_evidence


@pytest.mark.parametrize(
    "options", [{"weights": SERIES}, {"family": "poisson"}, {"data": {}}, {"reml": False}, {"link": "log"}]
)
def test_options_of_formulas_are_refused(options):
    (name,) = options
    if name == "data":
        options = {"data": {"y": SERIES}}
    with pytest.raises(ValueError, match=f"{name}= is for formulas, and a program says that itself"):
        marglik.fit(product, args=(SERIES,), **options)


def test_options_of_programs_are_refused():
    with pytest.raises(ValueError, match="hyper= is for NumPyro programs, and this is a formula"):
        marglik.fit("y ~ 1", {"y": SERIES}, hyper=["s"])


def noise(y):
    s = numpyro.param("s", 1.0, constraint=POSITIVE)
    numpyro.sample("y", dist.Normal(0, s), obs=y)


def test_nothing_to_integrate_out():
    fit = marglik.fit(noise, args=(SERIES,))
    np.testing.assert_allclose(fit.log_evidence, stats.norm(0, np.sqrt(np.mean(SERIES**2))).logpdf(SERIES).sum())
    assert fit.check().verdict == "The evidence is at a maximum and is exact."
    for method in ("annealed", "importance", "simple", "variational"):
        with pytest.raises(ValueError, match=f"method='{method}' has nothing to integrate out"):
            marglik.fit(noise, args=(SERIES,), method=method)


def within(y):
    s = numpyro.param("s", 1.0, constraint=POSITIVE)
    m = numpyro.sample("m", dist.Normal(0, 3))
    with numpyro.plate("rows", len(y), subsample_size=6) as i:
        numpyro.sample("y", dist.Normal(m, s), obs=jnp.asarray(y)[i])


@pytest.mark.slow
def test_the_default_guide_with_parts_of_the_rows():
    fit = marglik.fit(within, args=(SERIES,), method="variational", fixed={"s": 1.0})
    truth = stats.multivariate_normal(np.zeros(12), 9 * np.ones((12, 12)) + np.eye(12)).logpdf(SERIES)
    np.testing.assert_allclose(fit.log_evidence, truth, rtol=1e-6)
