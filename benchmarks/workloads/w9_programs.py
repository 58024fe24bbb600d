# SPDX-License-Identifier: BSD-3-Clause
"""NumPyro programs: Laplace's evidence maximised, against 2,000 steps of NumPyro's SVI with AutoNormal."""

import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.data import Arrays, cached
from benchmarks.harness import Case, Options, Side

TITLE = "W9: NumPyro programs"
STEPS = 2_000
SCHOOLS = {
    "y": np.array([28.0, 8, -3, 7, -1, 1, 18, 12]),
    "se": np.array([15.0, 10, 16, 11, 9, 11, 10, 18]),
}


def cases(options: Options) -> Iterator[Case]:
    rounds = 1 if options.small else 3
    yield case("eight schools", schools, tuple(SCHOOLS.values()), rounds)
    if not options.small:
        data = cached("w9_hlogit", logistic_data)
        yield case("hierarchical logistic, 100 groups × 5", logistic, (data["X"], data["g"], data["y"]), rounds)


def logistic_data() -> Arrays:
    rng = np.random.default_rng(9009)
    groups, m, d = 100, 50, 5
    g, X = np.repeat(np.arange(groups), m), np.c_[np.ones(groups * m), rng.standard_normal((groups * m, d - 1))]
    mu, sd = np.array([-0.3, 0.8, -0.5, 0.2, 0.0]), np.array([0.8, 0.5, 0.4, 0.2, 0.05])
    B = mu + sd * rng.standard_normal((groups, d))
    y = rng.random(groups * m) < 1 / (1 + np.exp(-(X * B[g]).sum(1)))
    return {"X": X, "g": g, "y": y.astype(float)}


def schools(y, se):
    import numpyro
    import numpyro.distributions as dist

    mu = numpyro.sample("mu", dist.Normal(0, 10.0))
    tau = numpyro.param("tau", 5.0, constraint=dist.constraints.positive)
    with numpyro.plate("school", len(y)):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu + tau * z, se), obs=y)


def logistic(X, g, y):
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    d = X.shape[1]
    mu = numpyro.sample("mu", dist.Normal(0, 2.0).expand([d]).to_event(1))
    sd = numpyro.param("sd", jnp.ones(d), constraint=dist.constraints.positive)
    with numpyro.plate("group", int(g.max()) + 1):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([d]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=(X * (mu + sd * z)[g]).sum(-1)), obs=y)


def case(name: str, program: Callable[..., None], args: tuple, rounds: int) -> Case:
    def ours():
        import numpyro  # noqa: F401

        from marglik import fit

        return timed_first(lambda: fit(program, args=args), lambda fit: fit.log_evidence)

    def svi():
        import jax
        import numpyro
        from numpyro.infer import SVI, Trace_ELBO
        from numpyro.infer.autoguide import AutoNormal

        def run():
            search = SVI(program, AutoNormal(program), numpyro.optim.Adam(0.01), Trace_ELBO())
            return search.run(jax.random.PRNGKey(0), STEPS, *args, progress_bar=False)

        return timed_first(run, lambda result: -float(np.mean(result.losses[-200:])))

    sides = [
        Side("marglik", ours, "marglik", lambda found: found),
        Side(f"SVI, {STEPS:,} steps", svi, scores=lambda found: found),
    ]
    return Case(name, sides, rounds)


def timed_first(call: Callable[[], object], evidence: Callable) -> Callable[[], dict[str, float]]:
    """The call, to return its log evidence; the first, with what it compiles, is made and timed here."""
    start = time.perf_counter()
    value = evidence(call())
    first = time.perf_counter() - start

    def again() -> dict[str, float]:
        evidence(call())
        return {"log evidence": float(value), "first call s": first}

    return again
