# SPDX-License-Identifier: BSD-3-Clause
"""Annealed evidence of a logistic regression: marglik's clouds against blackjax's adaptive tempered SMC.

Both anneal from the prior with clouds of 1,024, by Hamiltonian moves, in double precision. What counts is processor
seconds × variance of the log evidence: the seconds to a variance of one. blackjax is compiled beforehand, with the best
of six hand-tuned settings (steps .1 to .2, 5 or 10 leaps, one or two moves, ESS .5 or .8); marglik adapts in each call.
It estimates with eight clouds a call, the variance being that of one cloud over eight, as calls are long.
"""

import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.data import cached
from benchmarks.harness import Case, Options, Side
from benchmarks.workloads.w10_importance import PRIOR_SD, REFERENCE, make_data

TITLE = "Annealed evidence of a logistic regression, 10 weights, n = 500"
PARTICLES = 1024
STEP, LEAPS, ESS = 0.1, 5, 0.5


def cases(options: Options) -> Iterator[Case]:
    data = cached("w10", make_data)
    calls = 2 if options.small else 6
    sides = [
        Side("marglik", lambda: ours(data, calls), "marglik", lambda found: found),
        Side("blackjax", lambda: theirs(data, 2 * calls), scores=lambda found: found),
    ]
    yield Case("logistic regression", sides, 1)


def figures(log_values: np.ndarray, seconds: float, clouds: int) -> dict[str, float]:
    """Of calls that took so many seconds each, with so many clouds in a call."""
    z = np.ravel(log_values)
    variance = z.var(ddof=1) / clouds
    off = float(z.max() + np.log(np.mean(np.exp(z - z.max()))) - REFERENCE)
    return {"off": off, "sd of an estimate": variance**0.5, "seconds × variance": seconds * variance}


def ours(data, calls: int) -> Callable[[], dict[str, float]]:
    from marglik.evidence import annealed
    from marglik.likelihoods import Bernoulli
    from marglik.model import LinearModel
    from marglik.priors import Ridge

    model, theta = LinearModel(Bernoulli(), Ridge(data["X"]), data["y"]), np.array([PRIOR_SD])

    def run():
        start = time.process_time()
        found = [annealed.estimate(model, theta, seed=seed, particles=PARTICLES) for seed in range(calls)]
        return figures(np.array([f.log_values for f in found]), (time.process_time() - start) / calls, annealed.RUNS)

    return run


def theirs(data, calls: int) -> Callable[[], dict[str, float]]:
    import blackjax
    import jax
    import jax.numpy as jnp
    from blackjax.smc import extend_params, resampling

    jax.config.update("jax_enable_x64", True)
    X, sign, d = data["X"], 2 * data["y"] - 1, data["X"].shape[1]
    sampler = blackjax.adaptive_tempered_smc(
        lambda w: -w @ w / 2 / PRIOR_SD**2 - d * jnp.log(PRIOR_SD * jnp.sqrt(2 * jnp.pi)),
        lambda w: -jnp.sum(jnp.logaddexp(0, -sign * (X @ w))),
        blackjax.hmc.build_kernel(),
        blackjax.hmc.init,
        extend_params({"step_size": STEP, "inverse_mass_matrix": jnp.eye(d), "num_integration_steps": LEAPS}),
        resampling.systematic,
        ESS,
        num_mcmc_steps=1,
    )

    @jax.jit
    def once(key):
        first, key = jax.random.split(key)
        state = sampler.init(PRIOR_SD * jax.random.normal(first, (PARTICLES, d)))

        def step(carried):
            state, key, total = carried
            key, own = jax.random.split(key)
            state, info = sampler.step(own, state)
            return state, key, total + info.log_likelihood_increment

        return jax.lax.while_loop(lambda c: c[0].tempering_param < 1, step, (state, key, 0.0))[2]

    def run():
        once(jax.random.PRNGKey(calls)).block_until_ready()
        start = time.process_time()
        found = np.array([float(once(jax.random.PRNGKey(seed))) for seed in range(calls)])
        return figures(found, (time.process_time() - start) / calls, 1)

    return run
