# SPDX-License-Identifier: BSD-3-Clause
"""Programs that cannot be used: one sentence each."""

import random

import numpy as np
import pytest

import marglik

pytest.importorskip("jax")
numpyro = pytest.importorskip("numpyro")
import jax.numpy as jnp  # noqa: E402
import numpyro.distributions as dist  # noqa: E402

Y = np.array([0.3, -1.2, 2.2])


def refused(match, function, *args, **settings):
    with pytest.raises(ValueError, match=match):
        marglik.fit(function, args=args, **settings)


def test_missing_data():
    def program(y):
        w = numpyro.sample("w", dist.Normal(0, 2.0))
        numpyro.sample("effect", dist.Normal(w, 1.0), obs=y)

    refused(
        "2 of the observed values of site 'effect' are NaN. Leave them out", program, np.array([0.3, np.nan, np.nan])
    )


def test_density_of_zero_everywhere():
    def program(y):
        w = numpyro.sample("w", dist.Normal(0, 2.0))
        numpyro.sample("good", dist.Normal(w, 1.0), obs=y)
        numpyro.factor("wall", jnp.where(w < 1e9, -jnp.inf, 0.0))

    refused(
        "not finite at any start: at zero .* 8 draws from the prior the log density of site 'wall' is -inf", program, Y
    )


def test_nan_gradient():
    def program(y):
        w = numpyro.sample("w", dist.Normal(0, 2.0).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(jnp.where(jnp.any(w > -1e9), 0.0, jnp.sqrt(w - 1e9).sum()), 1.0), obs=y)

    refused("The gradient of site 'y' is NaN at zero", program, Y)


def test_randomness_of_its_own():
    def program(y):
        w = numpyro.sample("w", dist.Normal(0, 2.0))
        numpyro.sample("y", dist.Normal(w + random.random(), 1.0), obs=y)

    refused("Two runs of the program differ, so it has no density", program, Y)


def test_arguments_left_out():
    def program(y, sigma):
        w = numpyro.sample("w", dist.Normal(0, 2.0))
        numpyro.sample("y", dist.Normal(w, sigma), obs=y)

    refused(r"cannot be called with what was given .*missing 1 required .*args=\(…\) and kwargs=", program, Y)
    refused("cannot be called with what was given", program, Y, kwargs={"sigme": 1.0})


def test_values_handed_to_numpy():
    def program(y):
        w = numpyro.sample("w", dist.Normal(0, 2.0))
        numpyro.sample("y", dist.Normal(np.exp(np.asarray(w)), 1.0), obs=y)

    refused("hands a value that NumPyro draws to NumPy", program, Y)


def test_subsampled_plates():
    def program(y):
        w = numpyro.sample("w", dist.Normal(0, 2.0))
        with numpyro.plate("rows", 3, subsample_size=2) as i:
            numpyro.sample("y", dist.Normal(w, 1.0), obs=jnp.asarray(y)[i])

    refused("plate 'rows' looks at 2 of its 3 members at a time", program, Y)


def test_a_hyperprior_where_there_is_none():
    def program(y):
        s = numpyro.param("s", 1.0, constraint=dist.constraints.positive)
        numpyro.sample("y", dist.Normal(0, s), obs=y)

    refused("hyperprior=True adds the priors of the sites in hyper=", program, Y, hyperprior=True)
    with pytest.raises(ValueError, match="this model has none"):
        marglik.fit("y ~ 1", {"y": Y}, hyperprior=True)


def test_nothing_to_draw_from():
    from marglik.interfaces.numpyro import program

    def flat(y):
        w = numpyro.sample("w", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(w, 1.0), obs=y)

    with pytest.raises(ValueError, match="improper"):
        program(flat, (Y,), {}, ()).prior_draws(np.zeros(0), 3)
