# SPDX-License-Identifier: BSD-3-Clause
"""``family=`` and ``link=``: a name from the registry, or a likelihood, becomes a likelihood."""

from __future__ import annotations

from marglik.likelihoods import Likelihood
from marglik.validate import did_you_mean


def likelihood_of(family: str | Likelihood, link: str | None = None) -> Likelihood:
    """The likelihood of that name, with that link.

    Raises
    ------
    ValueError
        There is no such family, or it has no such link.

    Examples
    --------
    >>> likelihood_of("bernoulli", "probit")
    Bernoulli(link='probit')
    """
    if isinstance(family, str):
        if family not in Likelihood.registry:
            known = ", ".join(sorted(Likelihood.registry))
            hint = did_you_mean(family, Likelihood.registry)
            raise ValueError(f"There is no family {family!r}.{hint} The families are {known}.")
        family = Likelihood.registry[family]()
    if not isinstance(family, Likelihood):
        raise ValueError(
            f"family must be the name of a family or a likelihood, such as 'poisson' or Poisson(), not {family!r}."
        )
    return family if link is None else family.with_link(link)
