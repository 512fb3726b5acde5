"""Files that commands write: not onto the dump, and not over others unless asked to.

SPDX-License-Identifier: MIT
"""

import errno
import os

from kdmp.cli.options import UsageError


def refuse_dump(path: str, dump: str) -> None:
    """Raise UsageError if `path` is the dump."""
    if os.path.exists(path) and os.path.exists(dump) and os.path.samefile(path, dump):
        raise UsageError(f"{path}: is the dump itself")


def check_free(path: str, force: bool) -> None:
    """Raise FileExistsError if `path` exists, unless it may be replaced."""
    if not force and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "exists already (--force replaces it)", path)
