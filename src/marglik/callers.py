# SPDX-License-Identifier: BSD-3-Clause
"""Warnings that point at the caller's own line, however deep in marglik they arise."""

from __future__ import annotations

import contextlib
import sys
import warnings
from pathlib import Path

INSIDE = (str(Path(__file__).parent), contextlib.__file__)
"""Where files begin whose frames are not the caller's."""


def warn(message: str | Warning) -> None:
    """Warn of what is wrong, at the line that called marglik.

    Examples
    --------
    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn("Target 0 is constant.")
    >>> str(caught[0].message)
    'Target 0 is constant.'
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(INSIDE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
