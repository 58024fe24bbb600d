# SPDX-License-Identifier: BSD-3-Clause
"""Can the answer be trusted? The optimum, the approximation, the consistency of the estimates, and a verdict."""

from marglik.check.approximation import Approximation, approximation
from marglik.check.consistency import Consistency, consistency
from marglik.check.verdict import Check, remedy

__all__ = ["Approximation", "Check", "Consistency", "approximation", "consistency", "remedy"]
