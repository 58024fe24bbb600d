# SPDX-License-Identifier: BSD-3-Clause
"""What a Gaussian model keeps of its rows, and its linear algebra for every θ."""
