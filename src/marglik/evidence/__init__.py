# SPDX-License-Identifier: BSD-3-Clause
"""∫ p(y|w,θ) p(w|θ) dw: one method a file, one signature."""

from marglik.evidence.annealed import Annealed
from marglik.evidence.auto import choose
from marglik.evidence.base import Evidence, EvidenceMethod, evaluate
from marglik.evidence.exact import Exact
from marglik.evidence.importance import Importance
from marglik.evidence.laplace import Laplace
from marglik.evidence.quadrature import Quadrature
from marglik.evidence.simple import Simple
from marglik.evidence.variational import Variational

__all__ = [
    "Annealed",
    "Evidence",
    "EvidenceMethod",
    "Exact",
    "Importance",
    "Laplace",
    "Quadrature",
    "Simple",
    "Variational",
    "choose",
    "evaluate",
]
