# SPDX-License-Identifier: BSD-3-Clause
"""One workload, in the process and with the threads that `python -m benchmarks` gave it."""

import argparse

from benchmarks import workloads
from benchmarks.harness import Options, measure
from benchmarks.report import print_table, record


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    options = Options(slow=arguments.slow, small=arguments.small)
    workload = workloads.load(arguments.name)
    reports = [measure(case) for case in workload.cases(options)]
    print_table(workload.TITLE, reports)
    if not options.small:
        record(arguments.name, workload.TITLE, reports)


if __name__ == "__main__":
    main()
