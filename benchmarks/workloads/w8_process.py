# SPDX-License-Identifier: BSD-3-Clause
"""A Gaussian process with an RBF kernel and noise over three inputs: marglik against scikit-learn and tinygp."""

from collections.abc import Iterator

import numpy as np

from benchmarks.data import Arrays, cached
from benchmarks.harness import Case, Options, Side

TITLE = "W8: Gaussian processes"
NEW = 500


def cases(options: Options) -> Iterator[Case]:
    for n in (500,) if options.small else (500, 2_000):
        yield case(cached(f"w8_{n}", lambda n=n: draw(n)), 1 if options.small else 3)


def draw(n: int) -> Arrays:
    """A function of amplitude 1.5 and length scale 0.9 at n points of a cube of side 4, seen with noise of 0.3."""
    rng = np.random.default_rng(8000 + n)
    Z = 4 * rng.random((n + NEW, 3))
    squares = ((Z[:, None] - Z[None]) ** 2).sum(axis=-1)
    root = np.linalg.cholesky(1.5**2 * np.exp(-squares / (2 * 0.9**2)) + 1e-8 * np.eye(len(Z)))
    f = root @ rng.standard_normal(len(Z))
    return {"X": Z[:n], "y": f[:n] + 0.3 * rng.standard_normal(n), "Xt": Z[n:], "ft": f[n:]}


def case(data: Arrays, rounds: int) -> Case:
    X, y, Xt, ft = (data[name] for name in ("X", "y", "Xt", "ft"))

    def error(mean) -> float:
        return float(np.sqrt(np.mean((mean - ft) ** 2)))

    def marglik():
        from marglik import GaussianProcessEB

        return lambda: GaussianProcessEB(fit_intercept=False).fit(X, y)

    def scikit_learn():
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

        kernel = ConstantKernel() * RBF() + WhiteKernel()
        return lambda: GaussianProcessRegressor(kernel, alpha=0.0).fit(X, y)

    def tinygp():
        import jax
        import jax.numpy as jnp
        from scipy.optimize import minimize
        from tinygp import GaussianProcess, kernels

        jax.config.update("jax_enable_x64", True)
        points, response = jnp.asarray(X), jnp.asarray(y)

        def process(phi):
            s, ell, noise = jnp.exp(phi)
            kernel = s**2 * kernels.ExpSquared(scale=ell, distance=kernels.distance.L2Distance())
            return GaussianProcess(kernel, points, diag=noise**2)

        @jax.jit
        @jax.value_and_grad
        def objective(phi):
            return -process(phi).log_probability(response)

        def fit():
            best = minimize(objective, np.zeros(3), jac=True, method="L-BFGS-B")
            return process(best.x), -float(best.fun), response

        return fit

    def with_jax(found):
        model, value, response = found
        return {"log evidence": value, "error of f": error(np.asarray(model.predict(response, Xt)))}

    def ours(model):
        return {"log evidence": float(model.log_evidence_), "error of f": error(model.predict(Xt))}

    def theirs(model):
        return {"log evidence": float(model.log_marginal_likelihood_value_), "error of f": error(model.predict(Xt))}

    sides = [
        Side("marglik", marglik, "marglik", ours),
        Side("scikit-learn", scikit_learn, scores=theirs, apart=len(X) > 500),
        Side("tinygp, L-BFGS", tinygp, scores=with_jax, apart=len(X) > 500),
    ]
    return Case(f"n = {len(X):,}, RBF and noise", sides, rounds)
