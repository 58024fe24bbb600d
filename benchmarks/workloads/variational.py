# SPDX-License-Identifier: BSD-3-Clause
"""Lower bounds of a NumPyro program: marglik's fit against NumPyro's SVI with the same guide.

SVI takes blocks of steps until the mean of a block's bounds comes within `CLOSE` of what marglik reports, which is of
fresh draws; at most `MOST` steps. Adam's step size is .01.
"""

from collections.abc import Iterator

import numpy as np

from benchmarks.harness import Case, Options, Side
from benchmarks.workloads.w9_programs import SCHOOLS, schools, timed_first

TITLE = "Variational bounds of NumPyro programs"
GUIDES = {"full": "AutoMultivariateNormal", "mean_field": "AutoNormal"}
BLOCK, MOST, CLOSE = 1_000, 20_000, 0.1


def cases(options: Options) -> Iterator[Case]:
    for guide in GUIDES:
        yield case(guide, 1 if options.small else 2)


def case(guide: str, rounds: int) -> Case:
    args, reached = tuple(SCHOOLS.values()), []

    def ours():
        import numpyro  # noqa: F401

        from marglik import fit

        def run():
            found = fit(schools, args=args, method="variational", guide=guide)
            reached.append(found.log_evidence)
            return found

        return timed_first(run, lambda fit: fit.log_evidence)

    def svi():
        import jax
        import numpyro
        from numpyro.infer import SVI, Trace_ELBO, autoguide

        def run():
            search = SVI(schools, getattr(autoguide, GUIDES[guide])(schools), numpyro.optim.Adam(0.01), Trace_ELBO())
            block = jax.jit(lambda state: jax.lax.scan(lambda s, _: search.update(s, *args), state, None, length=BLOCK))
            state, bound, steps = search.init(jax.random.PRNGKey(0), *args), -np.inf, 0
            while bound < reached[-1] - CLOSE and steps < MOST:
                state, losses = block(state)
                bound, steps = -float(np.mean(losses)), steps + BLOCK
            return bound, steps

        return timed_first(run, lambda found: found[0])

    sides = [
        Side("marglik", ours, "marglik", lambda found: found),
        Side("NumPyro's SVI", svi, scores=lambda found: found),
    ]
    return Case(f"eight schools, {GUIDES[guide]}", sides, rounds)
