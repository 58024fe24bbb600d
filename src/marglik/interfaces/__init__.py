# SPDX-License-Identifier: BSD-3-Clause
"""Ways in: each translates to a model and calls fit."""
