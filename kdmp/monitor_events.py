"""What `PageTableMonitor.process` reports.

SPDX-License-Identifier: MIT
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias


class MonitorState(NamedTuple):
    """What a monitored address was when the monitor last looked.

    `pa` is its physical address, None unless `paged_in`; `state` is "valid", "unknown" (a page table is not
    there), "bad" (a malformed entry), or what Windows means by the entry that is not valid, as in
    `Translation.state`. `level` is that of the last entry of the walk, 1 for a page table's, and `size` that
    of the page, None without one.
    """

    paged_in: bool
    pa: int | None
    state: str
    level: int
    size: int | None


@dataclass(frozen=True, slots=True)
class PageIn:
    """The address `va` is backed now, by the physical address `pa`; `root` is the page-table root, `tag` what
    `monitor` was given, `level` that of the entry (1: of a page table), `size` that of the page in bytes."""

    view: int
    va: int
    root: int
    pa: int
    tag: Hashable
    level: int
    size: int


@dataclass(frozen=True, slots=True)
class PageOut:
    """The address `va` is no longer backed by the physical address `pa`, of this `level` and `size`."""

    view: int
    va: int
    root: int
    pa: int
    tag: Hashable
    level: int
    size: int


@dataclass(frozen=True, slots=True)
class ProtectionChanged:
    """The same page as before, with other rights: `old` and `new` are four letters, "u" (user) or "k", "r",
    "w" or "-", "x" or "-", as all levels together have them."""

    view: int
    va: int
    root: int
    pa: int
    tag: Hashable
    level: int
    size: int
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The last entry means something else: `old` and `new` are states as in MonitorState, the same for one
    that moved (another page file offset, another frame in transition). `level` and the entries' values are
    those of the last entry of each walk; None for a table that was not there."""

    view: int
    va: int
    root: int
    tag: Hashable
    old: str
    new: str
    old_level: int
    new_level: int
    old_entry: int | None
    new_entry: int | None


@dataclass(frozen=True, slots=True)
class Unknown:
    """The page table of `level` is not there any more, so what backs `va` is not known; `pa` is where its
    entry would be. If the address was backed before and no other entry on the way says otherwise, there is
    no PageOut: `old` is the last known state, `old_pa` the last known physical address."""

    view: int
    va: int
    root: int
    pa: int
    tag: Hashable
    level: int
    old: str
    old_pa: int | None


Event: TypeAlias = PageIn | PageOut | ProtectionChanged | StateChanged | Unknown
"""Any of the events."""
