# SPDX-License-Identifier: BSD-3-Clause
"""``python -m marglik``: the command ``marglik``."""

from marglik.interfaces.cli import main

if __name__ == "__main__":
    main()
