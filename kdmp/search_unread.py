"""What is mapped in an address space and cannot be read.

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kdmp.search import Unread

if TYPE_CHECKING:
    from kdmp.reader import Reader

__all__ = ["unread"]

# Memory that has, or had, content; demand-zero pages never had any.
_STATES = ("valid", "transition", "prototype", "pagefile", "table", "bad", "subsection", "vad")


def unread(reader: "Reader", start: int, last: int) -> Iterator[Unread]:
    """Yield the mapped ranges of [start, last] without the stretches that can be read."""
    if reader.paging in ("physical", "triage"):
        return
    stretches = reader.extents(start, last)
    stretch = next(stretches, None)
    for mapping in reader.mappings(start, last, states=_STATES):
        at = max(mapping.start, start)
        end = min(mapping.start + mapping.size, last + 1)
        while at < end:
            while stretch is not None and stretch.address + stretch.size <= at:
                stretch = next(stretches, None)
            if stretch is None or stretch.address >= end:
                yield Unread(at, end - at, mapping.state)
                break
            if stretch.address > at:
                yield Unread(at, stretch.address - at, mapping.state)
            at = stretch.address + stretch.size
