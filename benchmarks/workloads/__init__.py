# SPDX-License-Identifier: BSD-3-Clause
"""One workload a file: a TITLE, and cases(options) that yields what is to be measured."""

from importlib import import_module

MODULES = {
    "import": "import_time",
    "w1": "w1_ridge",
    "w2": "w2_targets",
    "w3": "w3_banded",
    "w4": "w4_ard",
    "w5": "w5_mixed",
    "w6": "w6_glmm",
    "w6-logistic": "w6_logistic",
    "w7": "w7_smooths",
    "w8": "w8_process",
    "full-bayes": "full_bayes",
    "w9": "w9_programs",
    "w10": "w10_importance",
    "annealed": "annealed",
    "variational": "variational",
}


def load(name):
    return import_module(f"benchmarks.workloads.{MODULES[name]}")
