# SPDX-License-Identifier: BSD-3-Clause
"""Workloads timed against marglik's peers and against a floor of plain LAPACK calls."""
