# SPDX-License-Identifier: BSD-3-Clause
"""The environment that the peers live in, made on demand; standard library only."""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
PEERS = HERE / ".peers"
REQUIREMENTS = HERE / "peers.txt"
CORE = ROOT / "requirements" / "core.txt"

ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
R_VERSIONS = """
cat("R", paste(getRversion()), "\n")
if (nzchar(system.file(package = "lme4"))) cat("lme4", paste(packageVersion("lme4")), "\n")
cat("LAPACK of R", basename(La_library()), "\n")
"""


def python_with_peers() -> Path:
    """The interpreter of `.peers`, brought to what peers.txt pins."""
    folder = "Scripts" if sys.platform == "win32" else "bin"
    python = PEERS / folder / "python"
    stamp = PEERS / "ready"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + CORE.read_bytes()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"making {PEERS.relative_to(ROOT)} from {REQUIREMENTS.relative_to(ROOT)}", file=sys.stderr)
    venv.create(PEERS, with_pip=True, clear=True)
    install = [str(python), "-m", "pip", "install", "-qq"]
    subprocess.run([*install, "--requirement", str(REQUIREMENTS)], check=True)
    subprocess.run([*install, "--no-deps", "--editable", str(ROOT)], check=True)
    stamp.write_text(wanted)
    return python


def pinned_peers() -> list[str]:
    """Names of the packages that peers.txt adds to marglik's own."""
    lines = REQUIREMENTS.read_text().splitlines()
    return [line.split("==")[0] for line in lines if "==" in line]


def r_versions() -> dict[str, str]:
    """R, its packages among the peers and the library it computes with; empty where there is no R."""
    program = shutil.which("Rscript")
    if program is None:
        return {}
    done = subprocess.run([program, "--vanilla", "-e", R_VERSIONS], capture_output=True, text=True, check=True)
    return {name: number for name, _, number in (line.strip().rpartition(" ") for line in done.stdout.splitlines())}


def child_environment() -> dict[str, str]:
    return {**os.environ, **ONE_THREAD}
