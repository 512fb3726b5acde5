"""A cache of things that are slow to unpack, in the user's cache folder.

The folder is `$XDG_CACHE_HOME/kdmp`, else `~/.cache/kdmp` (`%LOCALAPPDATA%\\kdmp` on Windows). A cache that
cannot be read or written, or whose files are damaged, is the same as none: nothing here raises. The values
are JSON, so that a foreign file can at worst be wrong, and a checksum tells a damaged one.

SPDX-License-Identifier: MIT
"""

import json
import os
import sys
from typing import Any
from zlib import crc32

_MAGIC = b"kdmp-cache-1"


def folder() -> str | None:
    """Path of the cache folder, which need not exist; None when the environment names no home."""
    base = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the XDG rule: a relative path is to be ignored
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "kdmp") if os.path.isabs(base) else None


def load(key: str) -> Any:
    """The value stored under `key` ("folder/name"), None when there is none that is intact."""
    base = folder()
    if base is None:
        return None
    try:
        with open(os.path.join(base, key + ".json"), "rb") as stream:
            head, _, body = stream.read().partition(b"\n")
        return json.loads(body) if head == _head(body) else None
    except (OSError, ValueError, RecursionError):
        return None


def store(key: str, value: Any) -> bool:
    """Keep `value` (what JSON can hold) under `key`; returns whether that worked."""
    body = json.dumps(value, separators=(",", ":")).encode()
    return write(key + ".json", _head(body) + b"\n" + body)


def write(name: str, data: bytes) -> bool:
    """Write the file `name` ("folder/name.ending") in one step; returns whether that worked."""
    import tempfile  # slow to import, and needed only here

    base = folder()
    if base is None:
        return False
    path = os.path.join(base, name)
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".new-")
        try:
            with open(handle, "wb") as stream:
                stream.write(data)
            os.replace(temporary, path)  # readers see the old file or the new one, whole
        except OSError:
            os.unlink(temporary)
            return False
    except OSError:
        return False
    return True


def _head(body: bytes) -> bytes:
    return b"%s %08x %d" % (_MAGIC, crc32(body), len(body))
