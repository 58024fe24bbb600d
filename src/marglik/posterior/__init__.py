# SPDX-License-Identifier: BSD-3-Clause
"""p(w|y,θ̂): what is known of the weights, and of new responses, once θ is chosen."""
