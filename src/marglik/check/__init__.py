# SPDX-License-Identifier: BSD-3-Clause
"""Can the answer be trusted? The optimum, the approximation, the consistency of the estimates, and a verdict."""

from marglik.check.approximation import Approximation
from marglik.check.consistency import Consistency
from marglik.check.verdict import Check
from marglik.check.whole import checked

__all__ = ["Approximation", "Check", "Consistency", "checked"]
