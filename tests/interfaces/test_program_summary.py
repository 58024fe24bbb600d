# SPDX-License-Identifier: BSD-3-Clause
"""What the summary of a program says of the sites that are integrated."""

import sys

import numpy as np
import pytest

numpyro = pytest.importorskip("numpyro")

from numpyro import distributions as dist  # noqa: E402

import marglik  # noqa: E402

Y = np.array([1.0, 2.0, 4.0])


def conjugate(y):
    """Everything Gaussian: each mean is m = y/(1 + s²) of its own, with variance 1/(1/s² + 1)."""
    s = numpyro.param("s", 1.0, constraint=dist.constraints.positive)
    x = numpyro.sample("x", dist.Normal(0, 2))
    numpyro.sample("at_x", dist.Normal(x, 1), obs=3.0)
    b = numpyro.sample("b", dist.Normal(0, 1).expand([7]).to_event(1))
    numpyro.sample("at_b", dist.Normal(b, 1).to_event(1), obs=np.arange(7.0))
    with numpyro.plate("unit", len(y)):
        z = numpyro.sample("z", dist.Normal(0, s))
        numpyro.sample("y", dist.Normal(z, 1), obs=y)


@pytest.fixture(scope="module")
def fit():
    return marglik.fit(conjugate, args=(Y,), fixed={"s": 2.0})


def test_sites_with_mean_and_sd(fit):
    """x | 3 ~ N(3·4/5, 4/5); b_j | j ~ N(j/2, 1/2); z_i | y_i ~ N(4y_i/5, 4/5)."""
    sites = {site.name: site for site in fit.posterior.sites}
    assert list(sites)[-1] == "z"
    for name, mean, variance in (("x", 2.4, 0.8), ("b", np.arange(7) / 2, 0.5), ("z", 0.8 * Y, 0.8)):
        np.testing.assert_allclose(sites[name].mean, mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(sites[name].sd, np.broadcast_to(variance**0.5, np.shape(mean)), rtol=1e-9)
        np.testing.assert_allclose(sites[name].sd, fit.posterior.sd[name], rtol=0, atol=0)
    assert [site.plated for site in sites.values()] == [False, False, True]


def test_the_table(fit):
    lines = [" ".join(line.split()) for line in fit.summary().split("\n")]
    start = next(i for i, line in enumerate(lines) if line.startswith("Integrated"))
    assert lines[start] == "Integrated mean sd"
    assert lines[start + 2 : start + 10] == [
        "x 2.400 0.894",
        *(f"b[{j}] {j / 2:.3f} 0.707" for j in range(5)),
        "b: 2 more",
        "z (3) 0.8 to 3.2 0.894 to 0.894",
    ]


def test_linear_models_have_none():
    linear = marglik.fit("y ~ 1", {"y": Y})
    assert linear.posterior.sites == ()
    assert "Integrated" not in linear.summary()


def test_a_saddle_has_none_to_list(monkeypatch):
    module = sys.modules["marglik.interfaces.numpyro.program"]
    monkeypatch.setattr(module, "NEXT_TO_ZERO", 0.0)
    monkeypatch.setattr(module, "MOST_DENSE", 0)

    def bimodal():
        w = numpyro.sample("w", dist.Normal(0, 10.0))
        numpyro.sample("y", dist.Normal(w**2, 1.0), obs=9.0)

    text = marglik.fit(bimodal).summary()
    assert "Integrated" not in text
    assert "saddle" in text
