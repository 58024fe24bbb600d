# SPDX-License-Identifier: BSD-3-Clause
"""Writes values.csv: log densities and their derivatives to 17 digits, from definitions with 150 (needs mpmath).

One row an outcome: the likelihood, its link, trials, θ, y, η (as the floating-point numbers that they are), then
log p and its first three derivatives in η, then for each hyperparameter ∂/∂θ of log p and of its first two.
"""

import csv
import itertools
from pathlib import Path

HEAD = ["likelihood", "link", "trials", "theta", "y", "eta", "values"]


def densities(mp):
    """log p(y|η, θ) by likelihood and link, as in textbooks; n is the number of trials."""
    p = {
        "logit": lambda e: 1 / (1 + mp.exp(-e)),
        "probit": mp.ncdf,
        "cloglog": lambda e: 1 - mp.exp(-mp.exp(e)),
    }
    q = {
        "logit": lambda e: 1 / (1 + mp.exp(e)),
        "probit": lambda e: mp.ncdf(-e),
        "cloglog": lambda e: mp.exp(-mp.exp(e)),
    }

    def binomial(link):
        return lambda y, e, n: (
            mp.log(mp.binomial(n, y))
            + (y * mp.log(p[link](e)) if y else 0)
            + ((n - y) * mp.log(q[link](e)) if y < n else 0)
        )

    def negative_binomial(y, e, n, s):
        mu = mp.exp(e)
        scatter = s * mp.log(s / (s + mu)) + y * mp.log(mu / (s + mu))
        return mp.loggamma(y + s) - mp.loggamma(s) - mp.loggamma(y + 1) + scatter

    def beta(y, e, n, phi):
        a, b = phi * p["logit"](e), phi * q["logit"](e)
        return mp.loggamma(phi) - mp.loggamma(a) - mp.loggamma(b) + (a - 1) * mp.log(y) + (b - 1) * mp.log(1 - y)

    def student_t(y, e, n, sigma, nu):
        gammas = mp.loggamma((nu + 1) / 2) - mp.loggamma(nu / 2) - mp.log(nu * mp.pi) / 2
        return gammas - mp.log(sigma) - (nu + 1) / 2 * mp.log(1 + ((y - e) / sigma) ** 2 / nu)

    return {
        **{(name, link): binomial(link) for name in ("bernoulli", "binomial") for link in p},
        ("gaussian", "identity"): lambda y, e, n, s: -mp.log(2 * mp.pi) / 2 - mp.log(s) - ((y - e) / s) ** 2 / 2,
        ("student_t", "identity"): student_t,
        ("poisson", "log"): lambda y, e, n: y * e - mp.exp(e) - mp.loggamma(y + 1),
        ("negative_binomial", "log"): negative_binomial,
        ("gamma", "log"): lambda y, e, n, k: (
            k * mp.log(k) - mp.loggamma(k) + (k - 1) * mp.log(y) - k * e - k * y / mp.exp(e)
        ),
        ("beta", "logit"): beta,
    }


def points():
    """Every combination to look at: likelihood, link, trials, θ, y, η."""
    both_tails = (-40, -20, -8, -5.2, -4.9, -2, -0.5, 0, 0.7, 3, 6, 12, 25, 40)
    for link, etas in {
        "logit": both_tails,
        "probit": both_tails,
        "cloglog": (-40, -20, -8, -4, -2.05, -2.1, -1, 0, 0.5, 2, 3.5, 5),
    }.items():
        yield from (("bernoulli", link, 1, (), y, e) for y, e in itertools.product((0, 1), etas))
        some = (12, 0), (12, 5), (12, 12), (1000, 700)
        yield from (("binomial", link, n, (), y, e) for (n, y), e in itertools.product(some, (-8, -3, -0.5, 0.7, 1.5)))
    for y, e in itertools.product((0, 1, 7, 400), (-30, -3, 0, 2, 6, 9)):
        yield "poisson", "log", 1, (), y, e
    for s, y, e in itertools.product((0.01, 0.7, 8, 1e3, 1e8, 1e15), (0, 1, 7, 400), (-20, -3, 0, 2, 6)):
        yield "negative_binomial", "log", 1, (s,), y, e
    for k, z, e in itertools.product((0.05, 1, 20, 1e4, 1e10), (-3, -0.3, 0.4, 2), (-10, 0, 3)):
        yield "gamma", "log", 1, (k,), 2.718281828 ** (e + z / max(1, k) ** 0.5), e
    for phi, y, e in itertools.product((0.1, 1, 20, 1e4), (1e-12, 0.01, 0.5, 0.97), (-40, -6, -1, 0, 2, 15)):
        yield "beta", "logit", 1, (phi,), y, e
    for phi, t, e in itertools.product((1e6, 1e9), (-2, 0.3), (-4, 0, 2)):
        mu = 1 / (1 + 2.718281828**-e)
        yield "beta", "logit", 1, (phi,), mu + t * (mu * (1 - mu) / phi) ** 0.5, e
    for nu, sigma, r in itertools.product((0.3, 1, 5, 100, 1e6, 1e12), (0.01, 100), (0, 0.3, -2, 50)):
        yield "student_t", "identity", 1, (sigma, nu), 1.5 + r * sigma, 1.5
    for sigma, r in itertools.product((0.01, 1, 100), (0, 0.3, -2, 50)):
        yield "gaussian", "identity", 1, (sigma,), 1.5 + r * sigma, 1.5


def main():
    import mpmath as mp

    mp.mp.dps = 150
    density = densities(mp)
    with open(Path(__file__).parent / "values.csv", "w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(HEAD)
        for name, link, trials, theta, y, eta in points():

            def f(*at, key=(name, link), y=y, n=trials):
                return density[key](mp.mpf(y), at[0], n, *at[1:])

            at = [mp.mpf(x) for x in (eta, *theta)]
            along = [mp.diff(f, at, (order, *[0] * len(theta))) for order in range(1, 4)]
            own = [[int(i == j) for j in range(len(theta))] for i in range(len(theta))]
            mixed = [mp.diff(f, at, (order, *unit)) for unit in own for order in range(3)]
            numbers = [mp.nstr(mp.chop(x, 1e-140), 17) for x in [f(*at), *along, *mixed]]
            out.writerow([name, link, trials, " ".join(map(repr, theta)), repr(y), repr(eta), " ".join(numbers)])


if __name__ == "__main__":
    main()
