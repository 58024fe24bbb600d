# SPDX-License-Identifier: BSD-3-Clause
"""Learning on landscapes whose maxima are known, and at the boundaries of real models."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

import marglik
from marglik import learn
from marglik.evidence import Evidence, Exact, Laplace
from marglik.hyperparameters import Hyperparameter, Hyperparameters, Interval, Positive, Real
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.priors import Flat, RandomEffects, Ridge
from marglik.rows import InMemory


def landscape(supports, value, gradient, hessian=None, even=False):
    """An objective with these functions of φ (V, k) in place of an evidence."""
    names = Hyperparameters(Hyperparameter(f"h{i}", s, even=even) for i, s in enumerate(supports))
    model = SimpleNamespace(hyperparameters=names, start_theta=lambda: names.constrain(np.zeros((1, len(names)))))

    class Method:
        def batched(self, model):
            return True

        def __call__(self, model, theta, start=None):
            phi = names.unconstrain(theta)
            first, second = names.derivatives(theta)
            slope = gradient(phi) / first
            if hessian is None:
                return Evidence(value(phi), slope)
            H = hessian(phi)
            k = np.arange(len(names))
            H = H.copy()
            H[:, k, k] -= slope * second
            return Evidence(value(phi), slope, H / first[:, :, None] / first[:, None, :])

    return learn.Objective(Method(), model)


SUPPORTS = (Positive(), Interval(-1.0, 1.0), Real())


def quadratic(with_hessian=True, V=4, seed=0):
    """−½ (φ − c)ᵀA(φ − c) + quartic terms, for V targets; its maxima c."""
    rng = np.random.default_rng(seed)
    c = rng.uniform(-1, 1, (V, 3))
    half = rng.standard_normal((V, 3, 3))
    A = half @ half.transpose(0, 2, 1) + 0.3 * np.eye(3)

    def value(phi):
        d = phi - c
        return -np.einsum("vi,vij,vj->v", d, A, d) / 2 - np.sum(d**4, axis=1)

    def gradient(phi):
        d = phi - c
        return -np.einsum("vij,vj->vi", A, d) - 4 * d**3

    def hessian(phi):
        return -A - 12 * np.eye(3) * ((phi - c) ** 2)[:, None, :]

    return landscape(SUPPORTS, value, gradient, hessian if with_hessian else None), c, A


@pytest.mark.parametrize("with_hessian", [True, False])
@pytest.mark.parametrize("start", [-3.0, 0.0, 3.0])
def test_all_targets_reach_their_maxima(with_hessian, start):
    objective, c, A = quadratic(with_hessian)
    names = objective.hyperparameters
    optimum = learn.maximise(objective, names.constrain(np.full((4, 3), start)), np.ones((4, 3), bool))
    assert optimum.converged.all()
    assert not optimum.limit.any()
    np.testing.assert_allclose(names.unconstrain(optimum.theta), c, atol=1e-9)
    np.testing.assert_allclose(optimum.value, 0, atol=1e-15)
    np.testing.assert_allclose(optimum.hessian, -A, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(learn.covariance(optimum), np.linalg.inv(A), rtol=1e-5, atol=1e-6)
    assert optimum.n_iterations < 30
    trace = np.array(optimum.trace)
    assert np.all(np.diff(trace, axis=0) >= -1e-12)


def test_hessian_by_differences_of_the_gradient():
    exact, *_ = quadratic(True)
    differences, *_ = quadratic(False)
    theta = exact.hyperparameters.constrain(np.random.default_rng(1).uniform(-1, 1, (4, 3)))
    free = np.array([[True, True, True], [True, False, True], [True, True, True], [False, False, False]])
    one, other = exact.at(theta, free, None), differences.at(theta, free, None)
    for a, b in zip(one[:3], other[:3], strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-6)
    held = ~(free[:, :, None] & free[:, None, :])
    assert np.all(one[2][held] == 0)
    assert np.all(other[2][held] == 0)


def test_held_coordinates_stay_to_the_last_digit():
    objective, c, A = quadratic()
    start = objective.hyperparameters.constrain(np.full((4, 3), 0.7))
    free = np.array([True, False, True])
    optimum = learn.maximise(objective, start, np.broadcast_to(free, (4, 3)))
    assert np.array_equal(optimum.theta[:, 1], start[:, 1])
    assert optimum.converged.all()
    slope = objective.at(optimum.theta, np.ones((4, 3), bool), None)[1]
    np.testing.assert_allclose(slope[:, free], 0, atol=1e-9)
    assert np.all(learn.covariance(optimum)[:, 1] == 0)
    assert c.shape == A.shape[:2]


def test_nothing_free_is_just_evaluated():
    objective, *_ = quadratic()
    theta = objective.hyperparameters.constrain(np.full((4, 3), 0.7))
    optimum = learn.maximise(objective, theta, np.zeros((4, 3), bool))
    assert optimum.converged.all()
    np.testing.assert_array_equal(optimum.theta, theta)
    np.testing.assert_array_equal(optimum.value, objective.evaluate(theta)[0])


def test_steps_into_nowhere_are_taken_back():
    """The value is −∞ beyond φ = 1.2, right behind the maximum at 1."""

    def value(phi):
        return np.where(phi[:, 0] > 1.2, -np.inf, -np.cosh(phi[:, 0] - 1))

    objective = landscape([Positive()], value, lambda p: -np.sinh(p - 1), lambda p: -np.cosh(p - 1)[:, :, None])
    optimum = learn.maximise(objective, np.exp(np.array([[-4.0], [0.0]])), np.ones((2, 1), bool))
    assert optimum.converged.all()
    np.testing.assert_allclose(optimum.theta, np.e, rtol=1e-8)


def test_a_supremum_at_infinity_is_a_limit():
    """−exp(−φ) − (ψ − 2)²: rises to its supremum as the first scale grows."""
    objective = landscape(
        [Positive(), Positive()],
        lambda p: -np.exp(-p[:, 0]) - (p[:, 1] - 2) ** 2,
        lambda p: np.stack([np.exp(-p[:, 0]), -2 * (p[:, 1] - 2)], axis=1),
        lambda p: np.stack([np.diag([-np.exp(-x), -2.0]) for x in p[:, 0]]),
    )
    optimum = learn.maximise(objective, np.ones((1, 2)), np.ones((1, 2), bool))
    assert optimum.converged.all()
    assert optimum.limit.tolist() == [[True, False]]
    np.testing.assert_allclose(optimum.value, 0, atol=1e-8)
    np.testing.assert_allclose(optimum.theta[0, 1], np.exp(2), rtol=1e-8)


def test_without_a_maximum_learning_does_not_converge():
    """log(1 + φ²) has a minimum at zero and no maximum; nor does φ itself."""
    objective = landscape(
        [Real()],
        lambda p: np.log1p(p[:, 0] ** 2),
        lambda p: 2 * p / (1 + p**2),
        lambda p: (2 * (1 - p**2) / (1 + p**2) ** 2)[:, :, None],
    )
    assert not learn.maximise(objective, np.array([[0.5]]), np.ones((1, 1), bool)).converged.any()
    assert not learn.maximise(objective, np.zeros((1, 1)), np.ones((1, 1), bool)).converged.any()


def test_a_hyperprior_adds_its_log_density_and_nothing_else():
    objective, *_ = quadratic()
    priors = {"h0": stats.gamma(3.0), "h2": lambda x: -(np.abs(x - 1) ** 3)}
    added = learn.Objective(objective.method, objective.model, priors)
    theta = objective.hyperparameters.constrain(np.random.default_rng(2).uniform(-1, 1, (4, 3)))
    plain, more = objective.evaluate(theta), added.evaluate(theta)
    x, z = theta[:, 0], theta[:, 2]
    np.testing.assert_allclose(more[0] - plain[0], stats.gamma(3.0).logpdf(x) - np.abs(z - 1) ** 3, rtol=1e-12)
    slope = np.stack([2 / x - 1, 0 * x, -3 * (z - 1) * np.abs(z - 1)], axis=1)
    np.testing.assert_allclose(more[1] - plain[1], slope, rtol=1e-6, atol=1e-7)
    curvature = np.stack([-2 / x**2, 0 * x, -6 * np.abs(z - 1)], axis=1)
    np.testing.assert_allclose(np.einsum("vkk->vk", more[2] - plain[2]), curvature, rtol=1e-5, atol=1e-5)


# One-way layouts: q groups of m, y_ij = μ + b_i + e_ij, where everything has a closed form.


def layout(between, within, q=6, m=4, seed=0):
    """Data with exactly these mean squares."""
    rng = np.random.default_rng(seed)
    b, e = rng.standard_normal(q), rng.standard_normal((q, m))
    b = (b - b.mean()) * np.sqrt(between / m / np.var(b, ddof=1))
    e = e - e.mean(axis=1, keepdims=True)
    e = e * np.sqrt(within * q * (m - 1) / np.sum(e**2))
    return (3 + b[:, None] + e).reshape(-1), np.repeat(np.arange(q), m)


def one_way(between, within, reml=True, **more):
    y, codes = layout(between, within, **more)
    effects = RandomEffects(codes, [str(i) for i in range(codes.max() + 1)], group="g")
    return LinearModel(Gaussian(), Flat(np.ones(len(y)), ["Intercept"]) + effects, InMemory(y), reml=reml)


def closed_form(between, within, reml, q=6, m=4):
    """Variances (of groups, of noise), the log evidence, and its slope in the groups' variance at zero."""
    n, share = q * m, q - 1 if reml else q
    ssb, ssw = between * (q - 1), within * q * (m - 1)
    noise = within
    groups = (ssb / share - within) / m
    if groups <= 0:
        groups, noise = 0.0, (ssb + ssw) / (n - reml)
    total = noise + m * groups
    log_det = q * (m - 1) * np.log(noise) + (q - reml) * np.log(total)
    value = -((n - reml) * np.log(2 * np.pi) + log_det + ssw / noise + ssb / total + reml * np.log(n)) / 2
    b0 = (ssb + ssw) / (n - reml)
    slope = m * (ssb / b0 - (q - reml)) / (2 * b0)
    return groups, noise, value, slope


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("between", [0.05, 0.9, 1.1, 1.3, 40.0])
def test_boundaries_of_the_one_way_layout(between, reml):
    """The mean squares decide: below MSB = MSW (REML) or q/(q − 1) of it (ML) the estimate is exactly zero."""
    groups, noise, value, slope = closed_form(between, 1.0, reml)
    fitted = marglik.fit(one_way(between, 1.0, reml))
    assert fitted.converged
    np.testing.assert_allclose(fitted.log_evidence, value, rtol=1e-11)
    estimate = fitted.hyperparameters["estimate"]
    np.testing.assert_allclose(estimate**2, [groups, noise], rtol=1e-7, atol=0)
    assert fitted.hyperparameters["at_boundary"].tolist() == [groups == 0, False]
    assert (slope < 0) == (groups == 0)


@pytest.mark.parametrize("method", [Exact(), Laplace()])
@pytest.mark.parametrize("between", [0.05, 0.9, 1.1, 40.0])
def test_slope_in_the_variance_at_zero(between, method):
    model = one_way(between, 1.0)
    *_, slope = closed_form(between, 1.0, True)
    noise = np.sqrt((between * 5 + 18) / 23)
    found = learn.Objective(method, model).slope_in_variance(np.array([[0.0, noise]]), 0)
    np.testing.assert_allclose(found, [slope], rtol=1e-6)


def test_zero_is_left_where_the_variance_pays():
    """And only there, although every zero is stationary in the standard deviation."""
    start, everywhere = np.array([[0.0, 1.0]]), np.ones((1, 2), bool)
    pays = learn.maximise(learn.Objective(Exact(), one_way(40.0, 1.0)), start, everywhere)
    assert pays.converged.all()
    assert not pays.limit.any()
    np.testing.assert_allclose(pays.theta[0] ** 2, closed_form(40.0, 1.0, True)[:2], rtol=1e-7)
    costs = learn.maximise(learn.Objective(Exact(), one_way(0.05, 1.0)), start, everywhere)
    assert costs.converged.all()
    assert costs.limit.tolist() == [[True, False]]
    assert costs.theta[0, 0] == 0


@pytest.mark.parametrize("start", [1e-6, 1e-2, 1.0, 1e4])
@pytest.mark.parametrize("between", [0.05, 40.0])
def test_any_start_leads_there(between, start):
    groups, noise, value, _ = closed_form(between, 1.0, True)
    optimum = learn.maximise(
        learn.Objective(Exact(), one_way(between, 1.0)), np.array([[start, 1.0]]), np.ones((1, 2), bool)
    )
    assert optimum.converged.all()
    np.testing.assert_allclose(optimum.theta[0] ** 2, [groups, noise], rtol=1e-7)
    np.testing.assert_allclose(optimum.value, value, rtol=1e-11)


def test_a_scale_that_is_held_is_no_boundary():
    fitted = marglik.fit(one_way(0.05, 1.0), fixed={"sd(Intercept | g)": 0.0})
    assert not fitted.hyperparameters["at_boundary"].any()
    np.testing.assert_allclose(fitted.log_evidence, closed_form(0.05, 1.0, True)[2], rtol=1e-12)


def test_a_hyperprior_moves_the_maximum_but_not_the_evidence():
    """At θ̂ the two slopes cancel; `log_evidence` is that of the data alone."""
    model = one_way(2.0, 1.0)
    prior = stats.gamma(2.0, scale=1.5)
    fitted = marglik.fit(model, hyperprior={"sd(Intercept | g)": prior})
    theta = fitted.optimum.theta
    e = Exact()(model, theta[0])
    slope = e.gradient[0] + 1 / theta[0, 0] - 1 / 1.5
    np.testing.assert_allclose([slope, e.gradient[1]], 0, atol=1e-6)
    np.testing.assert_allclose(fitted.log_evidence, e.log_value, rtol=1e-12)
    assert abs(theta[0, 0] ** 2 - closed_form(2.0, 1.0, True)[0]) > 1e-3


def test_several_scales_find_the_better_of_their_maxima():
    """Where one of two ridges explains nothing it is dropped, and the other gets the value it has alone."""
    rng = np.random.default_rng(5)
    n = 60
    X, U = rng.standard_normal((n, 4)), rng.standard_normal((n, 3))
    U = U - X @ np.linalg.lstsq(X, U, rcond=None)[0]
    y = X @ rng.standard_normal(4) + 0.5 * rng.standard_normal(n)
    y = y - U @ np.linalg.lstsq(U, y, rcond=None)[0]  # orthogonal to the second ridge: no signal there at all
    alone = marglik.fit(LinearModel(Gaussian(), Ridge(X), InMemory(y)))
    both = marglik.fit(LinearModel(Gaussian(), Ridge(X) + Ridge(U, None, "sd(U)", "U"), InMemory(y)))
    assert both.hyperparameters["estimate"]["sd(U)"] == 0
    np.testing.assert_allclose(both.log_evidence, alone.log_evidence, rtol=1e-10)


def test_restarts_never_make_it_worse_and_are_reproducible():
    model = one_way(2.0, 1.0)
    plain, more = marglik.fit(model), marglik.fit(model, restarts=3, seed=1)
    assert more.log_evidence >= plain.log_evidence - 1e-10
    again = marglik.fit(model, restarts=3, seed=1)
    assert again.log_evidence == more.log_evidence


@pytest.mark.parametrize("curvature", [1e-3, 1.0, 1e3])
def test_from_a_saddle_uphill(curvature):
    """ℓ = a(x² − x⁴/2)/2 − y²: all targets set out from the saddle, where the slope is zero, or lies along y alone."""
    a = curvature

    def value(phi):
        return a * (phi[:, 0] ** 2 - phi[:, 0] ** 4 / 2) / 2 - phi[:, 1] ** 2

    def gradient(phi):
        return np.column_stack([a * (phi[:, 0] - phi[:, 0] ** 3), -2 * phi[:, 1]])

    def hessian(phi):
        return np.array([np.diag(d) for d in np.column_stack([a * (1 - 3 * phi[:, 0] ** 2), np.full(len(phi), -2.0)])])

    objective = landscape((Real(), Real()), value, gradient, hessian)
    start = np.array([[0.0, 0.0], [0.0, 0.7], [1e-12, 0.0], [-0.3, 0.0]])
    optimum = learn.maximise(objective, start, np.ones((4, 2), bool))
    assert optimum.converged.all()
    np.testing.assert_allclose(np.abs(optimum.theta), [[1, 0]] * 4, atol=1e-7)
    np.testing.assert_allclose(optimum.value, a / 4, rtol=1e-12)
    assert optimum.theta[3, 0] < 0
    assert optimum.n_iterations < 20


def test_turned_rows_leave_all_but_one_covariance():
    """With a first row of next to nothing, Σ is what it was, to that order; at one end the rest is one column."""
    term = RandomEffects(np.arange(6) % 2, "ab", np.random.default_rng(0).standard_normal((6, 3)), "uvw", "g")
    triangle = term.triangle
    theta = np.array([1e-9, 0.6, 0.8, 0.3, -0.5, 0.4])
    L = triangle.triangular(theta)
    ends = [triangle.triangular(t) for t in triangle.turned(theta)]
    assert len(ends) == 6
    for end in ends[:2]:
        np.testing.assert_allclose(end[1:] @ end[1:].T, L[1:] @ L[1:].T, rtol=1e-12)
        np.testing.assert_allclose(end[0], L[0])
        np.testing.assert_allclose(end[1], [np.sign(end[1, 0]), 0, 0], atol=1e-12)
    np.testing.assert_allclose(ends[0][1], -ends[1][1], atol=1e-12)
    for end in ends[4:]:
        np.testing.assert_allclose(end[2, 2], 0, atol=1e-12)
        np.testing.assert_allclose(end[2] @ end[2], L[2] @ L[2])


def scales(slope, bend=0.0, cross=0.3):
    """Two coordinates about their maxima, and a scale s with slope s² + bend s⁴ + cross s²(φ₁ − c₁); its start is 1."""
    far = np.log([3.0, 0.5])
    A = np.array([[2.0, 0.4], [0.4, 1.0]])

    def parts(phi):
        d, s2 = phi[:, :2] - far, np.exp(2 * phi[:, 2])
        return d, s2, slope + cross * d[:, 0]

    def value(phi):
        d, s2, a = parts(phi)
        return -np.einsum("vi,ij,vj->v", d, A, d) / 2 + a * s2 + bend * s2**2

    def gradient(phi):
        d, s2, a = parts(phi)
        along = np.column_stack([cross * s2, np.zeros(len(phi))])
        return np.column_stack([along - d @ A, 2 * a * s2 + 4 * bend * s2**2])

    return landscape((Positive(),) * 3, value, gradient), np.exp(far)


def counted(objective, start):
    """The maximum from there, and how many values it took."""
    calls = []
    method = objective.method
    kept = type(method).__call__
    type(method).__call__ = lambda self, *args: calls.append(args) or kept(self, *args)
    return learn.maximise(objective, np.array([start]), np.ones((1, 3), bool)), len(calls)


@pytest.mark.parametrize("bend", [0.0, -2.0])
def test_a_scale_that_belongs_at_zero_falls_there_at_once(bend):
    objective, peak = scales(-1.0, bend)
    optimum, calls = counted(objective, [1.0, 1.0, 0.28])
    assert optimum.converged.all()
    np.testing.assert_array_equal(optimum.limit, [[False, False, True]])
    np.testing.assert_allclose(optimum.theta[0, :2], peak, rtol=1e-6)
    assert optimum.theta[0, 2] < 1e-3
    assert calls < 3 + 6 + 8  # differences where it sets out and where it ends, and steps


@pytest.mark.parametrize("least", [0.01, 0.05, 0.2])
def test_a_scale_with_a_maximum_on_the_way_is_not_taken_to_zero(least):
    """That of a s² + b s⁴ lies at s² = −a/2b."""
    objective, peak = scales(0.1 / least**2, -0.05 / least**4, cross=0.0)
    optimum, _ = counted(objective, [1.0, 1.0, 0.29])
    assert optimum.converged.all()
    assert not optimum.limit.any()
    np.testing.assert_allclose(optimum.theta[0], [*peak, least], rtol=1e-6)


def test_steps_from_two_starts():
    """The gradient at a second start stands for differences at the first, where by it the evidence bends down."""
    rng = np.random.default_rng(2)
    half = rng.standard_normal((4, 4))
    A, c = half @ half.T / 4 + np.eye(4), rng.uniform(-1, 1, 4)
    seen = []

    def gradient(phi):
        seen.append(phi[0].copy())
        return -(phi - c) @ A

    objective = landscape((Positive(),) * 4, lambda phi: -np.einsum("vi,ij,vj->v", phi - c, A, phi - c) / 2, gradient)
    start, beside = np.full((1, 4), 0.2), np.ones((1, 4))
    optimum = learn.maximise(objective, start, np.ones((1, 4), bool), None, (beside, None))
    np.testing.assert_allclose(optimum.theta[0], np.exp(c), rtol=1e-8)
    np.testing.assert_allclose(optimum.hessian[0], -A, rtol=1e-5)
    np.testing.assert_allclose(seen[1], 0.0)
    assert np.abs(seen[2] - seen[0]).max() > 0.01  # a step, not a difference
