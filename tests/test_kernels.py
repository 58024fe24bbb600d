# SPDX-License-Identifier: BSD-3-Clause
"""Terms whose factor is a whole matrix, under every evidence method."""

import numpy as np
import pytest

from marglik import priors
from marglik.evidence import EvidenceMethod
from marglik.likelihoods import Bernoulli, Gamma, Gaussian, NegativeBinomial, Poisson, StudentT
from marglik.model import LinearModel
from marglik.priors import Flat, RandomEffects, ReceptiveField, Ridge
from marglik.roots import Root
from marglik.rows import InMemory
from marglik.testing import check_evidence, derivative

rng = np.random.default_rng(5)
N = 60
X = 0.3 * rng.standard_normal((N, 24))
CODES = np.arange(N) % 7
SHAPE = (2, 3, 4)
THETA = {"inside": [0.7, 1.3, 1.1, 1.6], "long": [0.7, 40.0, 25.0, 30.0], "short": [0.7, 0.3, 0.2, 0.25]}
LIKELIHOODS = {
    "gaussian": (Gaussian(), rng.standard_normal(N), [0.9]),
    "poisson": (Poisson(), rng.poisson(2.0, N), []),
    "bernoulli": (Bernoulli(), rng.integers(0, 2, N), []),
    "negative binomial": (NegativeBinomial(), rng.poisson(rng.gamma(2, 1, N)), [2.5]),
    "gamma": (Gamma(), rng.gamma(2, 1, N), [1.8]),
    "student t": (StudentT(), rng.standard_t(5, N), [1.1, 6.0]),
}
METHODS = {name: cls() for name, cls in EvidenceMethod.registry.items() if name in ("laplace", "variational")}
LAPLACE = METHODS["laplace"]


def field(c=1.0):
    return ReceptiveField(c * X, SHAPE)


def flat():
    return Flat(np.ones(N), ["Intercept"])


def groups():
    return RandomEffects(CODES, "abcdefg", group="g")


def model(name, *more, **options):
    likelihood, y, own = LIKELIHOODS[name]
    prior = flat() + field()
    for term in more:
        prior = prior + term
    return LinearModel(likelihood, prior, y.astype(float), **options), own


@pytest.mark.parametrize("where", THETA)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_laplace(name, where):
    built, own = model(name)
    check_evidence(LAPLACE, built, THETA[where] + own, gradient_rtol=1e-5)


@pytest.mark.parametrize("name", ["poisson", "bernoulli"])
def test_the_variational_bound(name):
    built, own = model(name)
    check_evidence(METHODS["variational"], built, THETA["inside"] + own)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("where", THETA)
def test_exact(where, reml):
    built, own = model("gaussian", reml=reml)
    check_evidence(EvidenceMethod.registry["exact"](), built, THETA[where] + own, gradient_rtol=1e-5)


@pytest.mark.parametrize("more", [(groups,), (lambda: Ridge(X[:, :2], label="r"), groups)])
@pytest.mark.parametrize("name", ["gaussian", "poisson"])
def test_beside_other_terms(name, more):
    built, own = model(name, *(make() for make in more))
    theta = THETA["inside"] + [0.6] * len(more) + own
    check_evidence(LAPLACE, built, theta)
    check_evidence(EvidenceMethod.registry["exact" if name == "gaussian" else "quadrature"](), built, theta)


@pytest.mark.parametrize("where", THETA)
def test_a_held_covariance_is_that_of_gaussian_weights(where):
    theta = np.array(THETA[where])
    built, _ = model("poisson")
    K = field().covariance(theta)
    twin = LinearModel(Poisson(), flat() + priors.Gaussian(X, 0.0, K), built.rows.y)
    a, b = LAPLACE(built, theta), LAPLACE(twin, np.zeros(0))
    np.testing.assert_allclose(a.log_value, b.log_value, rtol=0, atol=1e-9)


def test_two_outer_factors_and_a_kernel_on_the_border():
    other = RandomEffects(np.arange(N) // 20, "xyz", group="h")
    built, _ = model("poisson", groups(), other)
    check_evidence(LAPLACE, built, THETA["inside"] + [0.6, 0.4])


@pytest.mark.parametrize("more", [(), (groups,)])
def test_expected_information_is_that_of_a_gaussian_model(more):
    """½ tr PV̇_kPV̇_l for the prior's θ, from the definition; the levels' own is left out beside it."""
    built, own = model("gaussian", *(make() for make in more))
    theta = np.array(THETA["inside"] + [0.6] * len(more) + own)
    F = np.ones((N, 1))
    Z = (CODES[:, None] == np.arange(7)).astype(float)

    def covariance(t):
        V = X @ field().covariance(t[:4]) @ X.T + t[-1] ** 2 * np.eye(N)
        return V + t[4] ** 2 * Z @ Z.T if more else V

    inverse = np.linalg.inv(covariance(theta))
    P = inverse - inverse @ F @ np.linalg.inv(F.T @ inverse @ F) @ F.T @ inverse
    slopes = [derivative(lambda t, e=e: covariance(theta + t * e), 0.02) for e in np.eye(len(theta))[:4]]
    expected = np.array([[np.trace(P @ a @ P @ b) / 2 for b in slopes] for a in slopes])
    found = LAPLACE(built, theta).posterior.slopes.information[:4, :4]
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


def test_weights_multiply_log_densities_and_offsets_shift():
    rows = InMemory(rng.poisson(2.0, N).astype(float), offset=rng.normal(0, 0.3, N), weights=rng.uniform(0.5, 2, N))
    check_evidence(LAPLACE, LinearModel(Poisson(), flat() + field(), rows), THETA["inside"])
    rows = InMemory(rng.standard_normal(N), offset=rng.normal(0, 0.3, N), weights=rng.uniform(0.5, 2, N))
    built = LinearModel(Gaussian(), flat() + field(), rows)
    for method in (LAPLACE, EvidenceMethod.registry["exact"]()):
        check_evidence(method, built, THETA["inside"] + [0.8])


def test_a_singular_matrix_has_a_root_that_moves():
    B, D = rng.standard_normal((6, 3)), rng.standard_normal((6, 3))

    def K(t):
        return (B + t * D) @ (B + t * D).T

    root = Root(K(0.0))
    np.testing.assert_allclose(root.matrix @ root.matrix, K(0.0), rtol=0, atol=1e-12)
    A = rng.standard_normal((5, 5))
    regular = Root(A @ A.T)
    slope = regular.slope(A + A.T)
    differences = derivative(lambda t: Root(A @ A.T + t * (A + A.T)).matrix, 1e-3)
    np.testing.assert_allclose(slope, differences, rtol=0, atol=1e-7)
    np.testing.assert_allclose(slope @ regular.matrix + regular.matrix @ slope, A + A.T, rtol=0, atol=1e-11)
