"""The compiler that builds the C programs of the benchmarks.

SPDX-License-Identifier: MIT
"""

import os
import shlex
import subprocess
import sysconfig


def compiler() -> list[str]:
    """Return the C compiler command: $CC, else the one of this Python."""
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def version() -> str:
    """Return the first line of what it says about itself."""
    try:
        done = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.splitlines()[0]
