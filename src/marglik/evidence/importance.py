# SPDX-License-Identifier: BSD-3-Clause
"""Importance sampling: draws about the mode, from a density with heavier tails than the posterior, weighted."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from marglik.evidence import draws, proposals
from marglik.evidence.base import Evidence, EvidenceMethod, first_weights
from marglik.evidence.clouds import Estimate, Held, Joint, JointWeighed, Weighed
from marglik.evidence.densities import LinearGroups, densities
from marglik.evidence.groups import GroupCloud, Place
from marglik.evidence.laplace import SADDLE, Laplace, Newton
from marglik.evidence.nodes import Levels
from marglik.evidence.quadrature import Marginal
from marglik.likelihoods import LOG_2PI
from marglik.linalg import NotPositiveDefinite
from marglik.model import LinearModel
from marglik.posterior.base import Gaussian

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.expansion import Expansion, LinearExpansion
    from marglik.model import Model

DRAWS, DRAWS_BY_LEVEL, LEAST = 4096, 1024, 256
RUNS = 16
MOST_WEIGHTS, MOST_JOINT = 1000, proposals.MOST_FITTED
"""Weights that are drawn jointly; the same of a program with a plate and other weights, which has the choice."""
PILOT_DRAWS = 512
POINTS = {1: 9, 2: 5, 3: 3}
"""Quadrature points a dimension of a level, to see where the border's weights lie."""
UNEVEN, ROUNDS = 0.5, 5
"""k̂ from which on a mixture is fitted to the draws, in so many rounds."""
TRUSTED = 0.7
"""Largest k̂ at which the value and its standard error mean something (Vehtari et al. 2024)."""


def estimate(
    model: Model, theta: Float[Array, "k"], posterior: Gaussian | None = None, n: int | None = None, seed: int = 0
) -> Estimate:
    """log p(y|θ) by importance sampling about a Gaussian, whatever method the Gaussian is from.

        log p̂ = log (1/N) Σ_i p(y, w_i|θ) / q(w_i)

    Parameters
    ----------
    model, theta
        The integrand.
    posterior
        In the model's coordinates, about the mode; found here if it is not given. Where levels are worked through one
        by one, only its mean is used, to set out for the mode from.
    n, seed
        How many draws, as in `Importance`; of the random numbers.

    Returns
    -------
    Estimate
        ``log_value`` (with the tail of the weights smoothed where they are of all weights jointly), ``std_error`` from
        16 independent runs, ``k_hat``, and ``groups`` where there is one grouping factor.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.evidence import importance
    >>> from marglik.likelihoods import Bernoulli
    >>> from marglik.model import LinearModel
    >>> from marglik.priors import RandomEffects
    >>> pupils = RandomEffects([0, 0, 0, 1, 1, 1], ["a", "b"], group="pupil")
    >>> model = LinearModel(Bernoulli(), pupils, np.array([1, 1, 1, 0, 1, 0]))
    >>> found = importance.estimate(model, np.array([2.0]))
    >>> round(found.log_value, 3), found.std_error < 0.001, found.groups.log_value.round(3)
    (-3.88, True, array([-1.299, -2.581]))
    """
    theta = np.asarray(theta, float)
    method = Importance(n, seed)
    unsuited = method.unsuited(model)
    if unsuited is None and model.n_targets > 1:
        unsuited = f"takes one target at a time, and this model has {model.n_targets}: give model.target(0)"
    if unsuited is not None:
        raise ValueError(f"Importance sampling {unsuited}.")
    here, _, trouble = weighed(method, model, theta, posterior)
    if here is None:
        raise ValueError(f"There is nothing to draw about. {trouble}")
    return here.estimate


@dataclass(frozen=True)
class Importance(EvidenceMethod):
    """Importance sampling about the mode, by scrambled Sobol points and Student's t.

        log p(y|θ) ≈ log (1/N) Σ_i p(y, w_i|θ) / q(w_i)

    q is centred at the mode with the covariance of Laplace's method times a factor; degrees of freedom and factor are
    those of a few with which a pilot's weights would vary least. With one grouping factor each level has draws of its
    own. θ is learned with draws held, so that the gradient is that of the value; see `marglik.stages`.

    The posterior is Laplace's Gaussian.

    Parameters
    ----------
    draws
        Number of draws, a power of two: 4,096 if not given, or 1,024 of each level where there is one grouping factor.
    seed
        Of the random numbers.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao & Gabry (2024), JMLR 25, 72.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.evidence import Importance
    >>> from marglik.likelihoods import Bernoulli
    >>> from marglik.model import LinearModel
    >>> from marglik.priors import Ridge
    >>> model = LinearModel(Bernoulli(), Ridge(np.ones(6)), np.array([1, 1, 1, 0, 1, 1]))
    >>> e = Importance()(model, np.array([2.0]))
    >>> round(e.log_value, 3), e.std_error < 0.001
    (-3.74, True)
    """

    draws: int | None = None
    seed: int = 0
    find_mode: Newton = field(default_factory=Newton)
    modal: ClassVar[bool] = False

    def __post_init__(self):
        if self.draws is not None:
            check_draws(self.draws, LEAST, DRAWS)
            if self.draws & (self.draws - 1):
                below = 1 << (int(self.draws).bit_length() - 1)
                raise ValueError(
                    f"draws must be a power of two, because only so many Sobol points fill the space evenly, but is "
                    f"{self.draws!r}. Ask for {below} or {2 * below}."
                )

    def size(self, model: Model) -> int:
        """Number of draws."""
        return self.draws or (DRAWS_BY_LEVEL if _by_level(model) else DRAWS)

    @property
    def first(self):
        return Laplace(self.find_mode)

    def seeded(self, seed):
        return replace(self, seed=seed)

    def __call__(self, model, theta, start=None):
        if isinstance(start, Held):
            return start.evidence(theta)
        here, posterior, trouble = weighed(self, model, theta, start)
        if here is None or posterior is None:
            return Evidence(-np.inf, np.full(len(theta), np.nan), checks={"mode": trouble or SADDLE})
        found, checks = here.estimate, {} if trouble is None else {"mode": trouble}
        if not found.k_hat <= TRUSTED:
            checks["draws"] = (
                f"The draws miss part of the posterior (Pareto k̂ = {found.k_hat:.2g}, and {TRUSTED} is the most that "
                "can be trusted), so the evidence and its standard error may be far off. Ask for more draws=."
            )
        held = Held(posterior, here.cloud, here.share)
        return Evidence(here.log_value, lambda: here.gradient, None, found.std_error, held, checks)

    def posterior(self, model, theta, start=None):
        return Laplace(self.find_mode).posterior(model, theta, start)

    def unsuited(self, model):
        if not _by_level(model) and model.working.n_weights > MOST_WEIGHTS:
            return (
                f"draws {model.working.n_weights} weights jointly for this model, and more than {MOST_WEIGHTS} cannot "
                "be covered by draws"
            )
        return None

    def assessed(self, model, theta, start=None):
        found = estimate(model, theta, None, self.draws, self.seed)
        each = " a level" if found.groups is not None else ""
        return (
            f"the integral is by importance sampling with {self.size(model)} draws{each}: standard error "
            f"{found.std_error:.1g} nats, Pareto k̂ = {found.k_hat:.2g}"
        )


def check_draws(draws: Any, least: int, usual: int) -> None:
    """Refuse what is no number of draws, and too few for a standard error."""
    whole = isinstance(draws, int | np.integer) and not isinstance(draws, bool)
    if not whole or draws < least:
        raise ValueError(
            f"draws must be a whole number, {least} or more, but is {draws!r}. It is the number of draws whose weights "
            f"are averaged; {usual} is usual."
        )


def _by_level(model: Model) -> bool:
    if isinstance(model, LinearModel):
        return len(model.groupings) == 1
    members = model.members
    return members is not None and (model.n_weights > MOST_JOINT or not members.n_border)


class Border(NamedTuple):
    """Draws of each group for every draw of the border, and draws of the border; powers of two."""

    each: int
    draws: int


def weighed(
    method: Importance, model: Model, theta: Float[Array, "k"], start: Gaussian | None, border: Border | None = None
) -> tuple[Weighed | None, Gaussian | None, str | None]:
    """Weighed draws about the mode, Laplace's posterior, and what went wrong, if anything did.

    ``border`` says how it is drawn where groups have draws of their own: 4√n times with n/4 of each group unless told.
    """
    model, theta = model.compact(theta), np.asarray(theta, float)
    mode, w, trouble = method.find_mode(model, theta, first_weights(model, theta, start))
    try:
        H = mode.neg_hessian
        trouble = trouble or model.improper(H)
        posterior = Gaussian(w, H, theta)
        if _by_level(model):
            if isinstance(model, LinearModel):
                return _grouped(mode, w, method, border), posterior, trouble  # type: ignore[arg-type]
            return _by_member(model, mode, w, theta, method, border), posterior, trouble
        return _joint(model, mode, posterior, method.size(model), method.seed), posterior, trouble
    except NotPositiveDefinite:
        return None, None, SADDLE


def _grouped(mode: LinearExpansion, w: Float[Array, "p"], method: Importance, border: Border | None) -> Weighed:
    """Draws of each level, and of the border about the mode that quadrature finds for it."""
    model = mode.model
    marginal = Marginal.about(Levels.of(mode, w, POINTS.get(mode.neg_hessian.cross.shape[1], 1)))
    at, n = marginal.levels, method.size(model)
    place = Place(at.u + at.E @ marginal.delta, at.C, at.E, at.v + marginal.delta, marginal.half)
    few, outer = border or Border(n // 4, 4 << (n.bit_length() // 2))
    wide = not model.likelihood.concave
    return GroupCloud.about(LinearGroups(at), place, mode.theta, (n, few, outer), method.seed, wide).at(mode.theta)


def _by_member(
    model: Model, mode: Expansion, w: Float[Array, "p"], theta: Float[Array, "k"], method: Importance, border: Any
) -> Weighed:
    """Draws of each member of a plate, and of all else about its mode."""
    n = method.size(model)
    few, outer = border or Border(n // 4, 4 << (n.bit_length() // 2))
    assert model.members is not None
    return GroupCloud.about(model.members, Place.of(w, mode.neg_hessian), theta, (n, few, outer), method.seed).at(theta)


def _joint(model: Model, mode: Expansion, about: Gaussian, n: int, seed: int) -> JointWeighed:
    """Draws of all weights at once, in independent runs."""
    rng, w, H, d = np.random.default_rng(seed), about.mean, about.precision, len(about.mean)
    theta = np.asarray(about.theta, float)

    def drawn(q: proposals.Mixture, n: int, runs: int) -> tuple[JointWeighed, Array, Array]:
        W, log_q, squares = q.drawn(n // runs, runs, rng)
        return Joint(densities(model, W), log_q, model.log_volume).at(theta), W, squares

    if isinstance(model, LinearModel) and model.likelihood.concave:
        pilot, _, squares = drawn(proposals.about(w, H, draws.PILOT), min(PILOT_DRAWS, n), 1)
        q = proposals.about(w, H, draws.best(pilot.log_weights.reshape(-1), squares[0], d))
    else:
        log_value = mode.log_joint + (d * LOG_2PI - H.log_det) / 2
        q = proposals.about_modes(model, theta, proposals.Mode(w, H, log_value), rng)
    here, W, _ = drawn(q, n, RUNS)
    if d > proposals.MOST_FITTED or not here.estimate.k_hat > UNEVEN:
        return here
    best, share, last = q, here.share, here
    for _ in range(ROUNDS):
        fitted = q.fitted(W, last.log_weights.reshape(-1), rng)
        last, W, _ = drawn(fitted, n, RUNS)
        if last.share > share:
            best, share = fitted, last.share
    return here if best is q else drawn(best, n, RUNS)[0]  # anew: what it was chosen by would flatter it
