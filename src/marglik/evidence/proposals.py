# SPDX-License-Identifier: BSD-3-Clause
"""What all weights are drawn from at once: a mixture of Student's t about each mode that is found, and of the prior.

    q(w) = Σ_c (n_c/n) q_c(w),    n_c of n draws from q_c

so that no weight p(y, w|θ)/q(w) exceeds n/n_c times what q_c alone would give it: with the prior among the q_c, a few
times the largest likelihood. Where weights are uneven all the same, the mixture is fitted to them, in rounds: with
draws w_i and weights ω_i, one step of

    r_ic = α_c t(w_i; c) / Σ_d α_d t(w_i; d),    γ_ic = (ν + p) / (ν + |w_i − μ_c|²_c)
    α_c = Σ_i ω_i r_ic,    μ_c = Σ_i ω_i r_ic γ_ic w_i / Σ_i ω_i r_ic γ_ic
    Σ_c = Σ_i ω_i r_ic γ_ic (w_i − μ_c)(w_i − μ_c)ᵀ / α_c

raises the likelihood of the mixture, and so lowers the divergence from the posterior to q.

References
----------
Hesterberg (1995), Technometrics 37, 185 (defensive mixtures). Cappé, Douc, Guillin, Marin & Robert (2008), Statistics
and Computing 18, 447 (adaptation). Ionides (2008), J. Comput. Graph. Stat. 17, 295 (truncated weights).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import logsumexp

from marglik.evidence import draws
from marglik.evidence.laplace import Newton
from marglik.likelihoods import LOG_2PI
from marglik.linalg import NotPositiveDefinite, cholesky, solve_lower
from marglik.model import LinearModel

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.linalg import Arrow
    from marglik.model import Model
    from marglik.paths import Path

STARTS = 12
"""Points from which further modes are searched for."""
FEW = 6
"""Up to so many weights a wide proposal is of use."""
LOWER = 20.0
"""A mode whose integral is lower by more nats adds nothing."""
PRIOR = 0.25
"""Share of the prior, where it is proper."""
WIDE, WIDER = 0.25, 3.0
"""Share of the wide proposal, and how wide it is."""
MOST_FITTED, PARTS, STEPS, DF = 30, 8, 15, 5.0
"""Up to so many weights a mixture is fitted: so many parts, in so many steps a round, of such tails."""
OUTSIDE, AROUND = 0.2, 2.0
"""Share of a part of so many standard deviations of all weights, for what has not been met yet."""
KEPT = 0.25
"""Share of the first proposal in a fitted one."""


class Mode(NamedTuple):
    """A mode, its negative Hessian, and Laplace's log integral about it."""

    w: Float[Array, "p"]
    H: Arrow
    log_value: float


class Part(NamedTuple):
    """Student's t about a point; ``root`` is the Cholesky factor of its precision."""

    mean: Float[Array, "p"]
    root: Float[Array, "p p"]
    student: draws.Student
    share: float

    def placed(self, x: Float[Array, "N p"]) -> Float[Array, "N p"]:
        """Draws about the point from draws about zero."""
        return self.mean + solve_lower(self.root, x.T, transposed=True).T

    def square(self, W: Float[Array, "N p"]) -> Float[Array, "N"]:
        """|x|² of each row."""
        return np.sum(((W - self.mean) @ self.root) ** 2, axis=1)

    def log_density(self, square: Float[Array, "N"]) -> Float[Array, "N"]:
        """log q where |x|² is this."""
        return self.student.log_density(square, len(self.mean)) + np.log(self.root.diagonal()).sum()


@dataclass(frozen=True, eq=False)
class Mixture:
    """Student's t of several places, and the prior with a share of the draws."""

    parts: tuple[Part, ...]
    prior: Path | None = None

    def counts(self, n: int) -> list[int]:
        """How many of n draws are from each part, and from the prior."""
        own = PRIOR if self.prior is not None else 0.0
        shares = np.array([part.share for part in self.parts])
        found = np.maximum(np.round(n * (1 - own) * shares / shares.sum()), 1).astype(int)
        from_prior = max(int(n * own), 1) if own else 0
        found[np.argmax(found)] += n - from_prior - found.sum()
        return [*map(int, found), from_prior]

    def drawn(
        self, n: int, runs: int, rng: np.random.Generator
    ) -> tuple[Float[Array, "N p"], Float[Array, "runs n"], Float[Array, "c N"]]:
        """Draws in independent runs of n, their log densities, and |x|² of each about each place."""
        p, counts, blocks = len(self.parts[0].mean), self.counts(n), []
        alone = len(self.parts) == 1 and self.prior is None
        for part, count in zip(self.parts, counts, strict=False):
            points = draws.net(1 << (count - 1).bit_length(), p + 1, rng)[:count]
            x = part.student.of(draws.shifted(points, runs, rng))
            blocks.append(part.placed(x.reshape(runs * count, p)).reshape(runs, count, p))
            if alone:
                square = np.sum(x**2, axis=-1)
                return blocks[0].reshape(runs * n, p), part.log_density(square), square.reshape(1, -1)
        if self.prior is not None:
            blocks.append(self.prior.draws(runs * counts[-1], rng).reshape(runs, counts[-1], p))
        W = np.concatenate(blocks, axis=1).reshape(runs * n, p)
        squares = np.array([part.square(W) for part in self.parts])
        logs = [np.log(c) + part.log_density(s) for part, c, s in zip(self.parts, counts, squares, strict=False)]
        if self.prior is not None:
            logs.append(np.log(counts[-1]) + self.prior.at(W, 0.0).reference)
        log_q = logsumexp(np.where(np.isnan(logs), -np.inf, logs), axis=0) - np.log(n)
        return W, log_q.reshape(runs, n), squares

    def fitted(self, W: Float[Array, "N p"], log_weights: Float[Array, "N"], rng: np.random.Generator) -> Mixture:
        """With parts that are fitted to weighted draws beside these."""
        parts = _fitted(W, log_weights, rng)
        if not parts:
            return self
        base = sum(part.share for part in self.parts)
        kept = [part._replace(share=KEPT * part.share / base) for part in self.parts]
        return replace(self, parts=(*kept, *(part._replace(share=(1 - KEPT) * part.share) for part in parts)))


def _fitted(W: Float[Array, "N p"], log_weights: Float[Array, "N"], rng: np.random.Generator) -> list[Part]:
    """A mixture of Student's t by expectation and maximisation, from places drawn by weight, far from each other."""
    log_weights = np.minimum(log_weights, logsumexp(log_weights) - np.log(len(W)) / 2)  # no weight above N^(−½)
    omega = np.exp(log_weights - logsumexp(log_weights))
    p, whole = W.shape[1], np.cov(W.T, aweights=omega, ddof=0).reshape(W.shape[1], -1)
    floor = np.diag(np.diag(whole)) * 1e-6
    root = np.linalg.cholesky(whole + floor)
    Z = solve_lower(root, W.T).T
    centres = [Z[rng.choice(len(W), p=omega)]]
    for _ in range(PARTS - 1):
        far = omega * np.min([np.sum((Z - c) ** 2, axis=1) for c in centres], axis=0)
        centres.append(Z[rng.choice(len(W), p=far / far.sum())])
    means, covs = np.array(centres), np.repeat(np.eye(p)[None] / PARTS ** (2 / p), PARTS, axis=0)
    alpha = np.full(PARTS, 1 / PARTS)
    student = draws.Student(DF, 1.0)
    for _ in range(STEPS):
        roots = np.linalg.cholesky(np.linalg.inv(covs))
        squares = np.array([np.sum(((Z - mean) @ half) ** 2, axis=1) for mean, half in zip(means, roots, strict=True)])
        halves = np.log(np.einsum("cpp->cp", roots)).sum(axis=1)
        log_t = student.log_density(squares, p) + (np.log(alpha) + halves)[:, None]
        r = omega * np.exp(log_t - logsumexp(log_t, axis=0))
        alpha = r.sum(axis=1)
        enough = alpha**2 > 4 * p * np.sum(r**2, axis=1)  # what few draws speak for tells no covariance
        if not enough.any():
            return []
        alpha, r, squares = alpha[enough], r[enough], squares[enough]
        pulled = r * (DF + p) / (DF + squares)
        means = pulled @ Z / pulled.sum(axis=1)[:, None]
        away = Z[None] - means[:, None]
        covs = np.einsum("cn,cni,cnj->cij", pulled, away, away, optimize=True) / alpha[:, None, None]
        covs += 1e-4 * np.eye(p)
        alpha = alpha / alpha.sum()
    means, covs = np.vstack([means, omega @ Z]), np.concatenate([covs, AROUND**2 * np.eye(p)[None]])
    alpha = np.append((1 - OUTSIDE) * alpha, OUTSIDE)
    roots = np.linalg.cholesky(np.linalg.inv(root @ covs @ root.T))
    return [Part(root @ m, half, student, float(a)) for m, half, a in zip(means, roots, alpha, strict=True)]


def about(w: Float[Array, "p"], H: Arrow, student: draws.Student) -> Mixture:
    """About one place."""
    return Mixture((Part(w, cholesky(H.to_dense()), student, 1.0),))


def about_modes(model: Model, theta: Float[Array, "k"], first: Mode, rng: np.random.Generator) -> Mixture:
    """About every mode that is found, wide about them where weights are few, and from the prior where it is proper."""
    p, prior = len(first.w), model.path(theta)
    starts = [-first.w, *(first.w + 2 * first.H.solve_half(rng.standard_normal((p, STARTS // 2))).T)]
    if prior is not None:
        starts += list(prior.draws(STARTS // 2, rng))
        prior = prior if np.isfinite(prior.at(np.array(starts[-1:]), 0.0).reference).all() else None
    found = modes(model, theta, first, starts)
    sizes = np.exp([m.log_value - max(m.log_value for m in found) for m in found])
    shares = np.maximum(sizes / sizes.sum(), 0.5 / len(found))
    wide = WIDE if p <= FEW else 0.0
    near, far = draws.Student(4.0 + p, 1.0), draws.Student(4.0 + p, WIDER)
    roots = [cholesky(m.H.to_dense()) for m in found]
    parts = [Part(m.w, L, near, (1 - wide) * s) for m, L, s in zip(found, roots, shares, strict=True)]
    parts += [Part(m.w, L, far, wide * s) for m, L, s in zip(found, roots, shares, strict=True) if wide]
    if (
        isinstance(model, LinearModel) and prior is not None
    ):  # N(0, I) in factor coordinates: even points lie better than random ones
        parts = [part._replace(share=(1 - PRIOR) * part.share / shares.sum()) for part in parts]
        return Mixture((*parts, Part(np.zeros(p), np.eye(p), near, PRIOR)))
    return Mixture(tuple(parts), prior)


def modes(model: Model, theta: Float[Array, "k"], first: Mode, starts: list[Array]) -> list[Mode]:
    """The given mode, and others to which Newton's method leads from these weights."""
    found = [first]
    for start in starts:
        with np.errstate(all="ignore"):
            point, w, trouble = Newton(max_steps=60)(model, theta, start)
        if trouble is not None:
            continue
        try:
            log_value = point.log_joint + (len(w) * LOG_2PI - point.neg_hessian.log_det) / 2
        except NotPositiveDefinite:
            continue
        same = any((w - m.w) @ m.H.matvec(w - m.w) < 1e-4 for m in found)
        if not same and log_value > first.log_value - LOWER:
            found.append(Mode(w, point.neg_hessian, log_value))
    return found
