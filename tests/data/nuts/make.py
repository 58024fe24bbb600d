# SPDX-License-Identifier: BSD-3-Clause
"""How these files were made: `python make.py`, with NumPyro; ten minutes. Quantiles of 4 chains of NUTS each.

Priors are flat on fixed effects and on standard deviations, and from −1 to 1 on the correlation.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from numpyro.infer import MCMC, NUTS, init_to_uniform

HERE = Path(__file__).parent
LINE, HALF_LINE = dist.constraints.real, dist.constraints.positive


def flat(name, shape=(), support=LINE):
    return numpyro.sample(name, dist.ImproperUniform(support, (), shape))


def normal(name, shape):
    return numpyro.sample(name, dist.Normal(0, 1).expand(shape).to_event(len(shape)))


def schools():
    """Rubin (1981): eight schools."""
    y, s = np.array([28.0, 8, -3, 7, -1, 1, 18, 12]), np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
    theta = numpyro.deterministic("theta", flat("tau", support=HALF_LINE) * normal("z", [8]))
    numpyro.sample("y", dist.Normal(flat("mu") + theta, s).to_event(1), obs=y)


def sleepstudy():
    data = pd.read_csv(HERE.parent / "lmm_sleepstudy" / "data.csv")
    g, x = pd.Categorical(data["Subject"]).codes.astype(int), data["Days"].to_numpy(float)
    b, s = flat("beta", (2,)), [flat(name, support=HALF_LINE) for name in ("sd_int", "sd_slope", "sigma")]
    rho = numpyro.sample("cor", dist.Uniform(-1, 1))
    z = normal("z", [g.max() + 1, 2])
    u = [s[0] * z[:, 0], s[1] * (rho * z[:, 0] + jnp.sqrt(1 - rho**2) * z[:, 1])]
    numpyro.deterministic("u", jnp.stack(u, 1))
    eta = b[0] + u[0][g] + (b[1] + u[1][g]) * x
    numpyro.sample("y", dist.Normal(eta, s[2]).to_event(1), obs=data["Reaction"].to_numpy())


def poisson():
    """40 groups of 5, drawn from the model with sd 0.6 and coefficients 0.4 and 0.5."""
    data = pd.read_csv(HERE / "poisson.csv")
    g = pd.Categorical(data["g"]).codes.astype(int)
    b = flat("beta", (2,))
    u = numpyro.deterministic("u", flat("sd", support=HALF_LINE) * normal("z", [g.max() + 1]))
    rate = jnp.exp(b[0] + b[1] * data["x"].to_numpy() + u[g])
    numpyro.sample("y", dist.Poisson(rate).to_event(1), obs=data["y"].to_numpy())


RUNS = {
    schools: (["mu", "tau", "theta"], 40_000),
    sleepstudy: (["beta", "sd_int", "sd_slope", "cor", "sigma", "u"], 20_000),
    poisson: (["beta", "sd", "u"], 20_000),
}

if __name__ == "__main__":
    numpyro.enable_x64()
    for model, (names, draws) in RUNS.items():
        kernel = NUTS(model, target_accept_prob=0.95, init_strategy=init_to_uniform(radius=0.3))
        runs = MCMC(kernel, num_warmup=2000, num_samples=draws, num_chains=4, chain_method="sequential")
        runs.run(jax.random.PRNGKey(1))
        samples = {name: np.asarray(runs.get_samples()[name]) for name in names}
        out = {
            name: {
                "mean": v.mean(axis=0).tolist(),
                "sd": v.std(axis=0).tolist(),
                **{
                    end: np.quantile(v, p, axis=0).tolist()
                    for end, p in (("lower", 0.025), ("median", 0.5), ("upper", 0.975))
                },
            }
            for name, v in samples.items()
        }
        (HERE / f"{model.__name__}.json").write_text(json.dumps(out))
