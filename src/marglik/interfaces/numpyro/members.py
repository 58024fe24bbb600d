# SPDX-License-Identifier: BSD-3-Clause
"""Densities of the members of a plate, each by itself, given all else."""
