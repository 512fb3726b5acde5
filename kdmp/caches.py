"""What the caches of readers and dumps tell of themselves.

SPDX-License-Identifier: MIT
"""

from typing import NamedTuple

__all__ = ["CacheInfo", "DumpCaches"]


class CacheInfo(NamedTuple):
    """A cache: how often it had the answer (`hits`) and not (`misses`), the pages it knows (`size`), how
    many it can know (`capacity`), and whether it is `enabled`."""

    hits: int
    misses: int
    size: int
    capacity: int
    enabled: bool


class DumpCaches(NamedTuple):
    """The caches of a dump: `translations`, those of all its readers together, and `frames`, which is
    none."""

    translations: CacheInfo
    frames: CacheInfo
