"""A bound on private memory, so that a reader that wants too much fails instead of making the machine swap.

SPDX-License-Identifier: MIT
"""

from pathlib import Path

_SHARE = 0.7  # of what is available at the start


def available() -> int | None:
    """Return the bytes of memory that are available, None if the system does not say."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def apply() -> None:
    """Limit this process and those it starts; mapped files do not count."""
    total = available()
    if total is None:
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int(total * _SHARE)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
