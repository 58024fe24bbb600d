# SPDX-License-Identifier: BSD-3-Clause
"""Annealed evidence: marglik's clouds against blackjax's adaptive tempered SMC.

Both anneal from the prior with clouds of 1,024, by Hamiltonian moves, in double precision. What counts is processor
seconds × variance of the log evidence: the seconds to a variance of one. blackjax is compiled beforehand, with the best
of some hand-tuned settings (regression: steps .1 to .2, 5 or 10 leaps, one or two moves, ESS .5 or .8; shells:
steps .1 to .4, 5 or 10 leaps, one or three moves, ESS .5 or .8); marglik adapts in each call, on the clock.
It estimates with eight clouds a call, the variance being that of one cloud over eight, as calls are long.
"""

import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.data import cached
from benchmarks.harness import Case, Options, Side
from benchmarks.workloads.w10_importance import PRIOR_SD, REFERENCE, make_data

TITLE = "Annealed evidence: a logistic regression, 10 weights, n = 500; two Gaussian shells in 5 dimensions"
PARTICLES = 1024
D, RADIUS, WIDTH, APART, BOX = 5, 2.0, 0.1, 3.5, 6.0
SHELLS = -5.67360123620021586
"""By radial quadrature."""


def cases(options: Options) -> Iterator[Case]:
    data = cached("w10", make_data)
    for name, truth, ours, theirs, calls in (
        ("logistic regression", REFERENCE, lambda: of_regression(data), lambda: regression(data), 8),
        ("Gaussian shells", SHELLS, of_shells, shells, 40),  # so that the variances are known to a tenth
    ):
        calls = 2 if options.small else calls
        sides = [
            Side("marglik", lambda o=ours, t=truth, n=calls: annealed(o(), t, n), "marglik", lambda found: found),
            Side("blackjax", lambda o=theirs, t=truth, n=4 * calls: tempered(o(), t, n), scores=lambda found: found),
        ]
        yield Case(name, sides, 1)


def figures(log_values: np.ndarray, truth: float, seconds: float, clouds: int) -> dict[str, float]:
    """Of calls that took so many seconds each, with so many clouds in a call."""
    z = np.exp(np.ravel(log_values) - truth)
    variance = z.var(ddof=1) / z.mean() ** 2 / clouds
    return {
        "off": float(np.log(z.mean())),
        "sd of an estimate": variance**0.5,
        "μs × variance": 1e6 * seconds * variance,
    }


def of_regression(data):
    from marglik.likelihoods import Bernoulli
    from marglik.model import LinearModel
    from marglik.priors import Ridge

    return LinearModel(Bernoulli(), Ridge(data["X"]), data["y"]), np.array([PRIOR_SD])


def of_shells():
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    from marglik.interfaces.numpyro import program

    def both():
        x = numpyro.sample("x", dist.Uniform(-BOX, BOX).expand([D]).to_event(1))
        numpyro.factor("shells", log_shells(jnp, x))

    return program(both, (), {}, ()), np.zeros(0)


def log_shells(jnp, x):
    """Of two shells about ±APART on the first axis."""
    away = [jnp.sqrt(jnp.sum((x - c * jnp.eye(D)[0]) ** 2)) - RADIUS for c in (-APART, APART)]
    one, other = (-jnp.log(2 * jnp.pi * WIDTH**2) / 2 - (a / WIDTH) ** 2 / 2 for a in away)
    return jnp.logaddexp(one, other)


def annealed(problem, truth: float, calls: int) -> Callable[[], dict[str, float]]:
    from marglik.evidence import annealed

    def run():
        start = time.process_time()
        found = [annealed.estimate(*problem, seed=seed, particles=PARTICLES) for seed in range(calls)]
        seconds = (time.process_time() - start) / calls
        return figures(np.array([f.log_values for f in found]), truth, seconds, annealed.RUNS)

    annealed.estimate(*problem, seed=calls, particles=PARTICLES)
    return run


def regression(data):
    """log prior, log likelihood, n draws from the prior, step, leaps, ESS."""
    import jax
    import jax.numpy as jnp

    X, sign, d = data["X"], 2 * data["y"] - 1, data["X"].shape[1]
    return (
        lambda w: -w @ w / 2 / PRIOR_SD**2 - d * jnp.log(PRIOR_SD * jnp.sqrt(2 * jnp.pi)),
        lambda w: -jnp.sum(jnp.logaddexp(0, -sign * (X @ w))),
        lambda key, n: PRIOR_SD * jax.random.normal(key, (n, d)),
        0.1,
        5,
        0.5,
    )


def shells():
    """The same."""
    import jax
    import jax.numpy as jnp

    return (
        lambda x: jnp.where(jnp.all(jnp.abs(x) < BOX), -D * jnp.log(2 * BOX), -jnp.inf),
        lambda x: log_shells(jnp, x),
        lambda key, n: jax.random.uniform(key, (n, D), minval=-BOX, maxval=BOX),
        0.2,
        10,
        0.5,
    )


def tempered(problem, truth: float, calls: int) -> Callable[[], dict[str, float]]:
    import blackjax
    import jax
    from blackjax.smc import extend_params, resampling

    jax.config.update("jax_enable_x64", True)
    log_prior, log_likelihood, draws, step_size, leaps, ess = problem
    d = draws(jax.random.PRNGKey(0), 1).shape[1]
    settings = {"step_size": step_size, "inverse_mass_matrix": np.eye(d), "num_integration_steps": leaps}
    sampler = blackjax.adaptive_tempered_smc(
        log_prior,
        log_likelihood,
        blackjax.hmc.build_kernel(),
        blackjax.hmc.init,
        extend_params(settings),
        resampling.systematic,
        ess,
        num_mcmc_steps=1,
    )

    @jax.jit
    def once(key):
        first, key = jax.random.split(key)

        def step(carried):
            state, key, total = carried
            key, own = jax.random.split(key)
            state, info = sampler.step(own, state)
            return state, key, total + info.log_likelihood_increment

        start = sampler.init(draws(first, PARTICLES)), key, 0.0
        return jax.lax.while_loop(lambda c: c[0].tempering_param < 1, step, start)[2]

    def run():
        start = time.process_time()
        found = np.array([float(once(jax.random.PRNGKey(seed))) for seed in range(calls)])
        return figures(found, truth, (time.process_time() - start) / calls, 1)

    once(jax.random.PRNGKey(calls)).block_until_ready()
    return run
