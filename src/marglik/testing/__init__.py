# SPDX-License-Identifier: BSD-3-Clause
"""Contracts of likelihoods, prior terms and evidence methods, each held against an independent truth.

Each check returns nothing, or raises an AssertionError whose sentence says what was expected, what was found
and where. They run for every class of this package, and for yours.
"""

from marglik.testing.evidence import check_evidence
from marglik.testing.likelihoods import check_likelihood
from marglik.testing.numbers import derivative
from marglik.testing.priors import check_prior

__all__ = ["check_evidence", "check_likelihood", "check_prior", "derivative"]
