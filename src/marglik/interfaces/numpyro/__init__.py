# SPDX-License-Identifier: BSD-3-Clause
"""Any NumPyro program as a model: named sites are hyperparameters, every other latent site is integrated out.

This package alone imports JAX. It computes in double precision inside `jax.enable_x64`, so that the caller's own
configuration stays as it is.
"""

try:
    import jax  # noqa: F401
    import numpyro  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"NumPyro programs need NumPyro and JAX ({error.name} is not installed): pip install 'marglik[numpyro]'."
    ) from error

from marglik.interfaces.numpyro.program import Program, program
from marglik.interfaces.numpyro.sites import BadProgram

__all__ = ["BadProgram", "Program", "program"]
