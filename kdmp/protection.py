"""Windows' 5-bit page protections: their names, and the rights they grant.

Software page table entries, prototype PTEs and VADs hold an index into MmProtectToValue. Bits 0-2 are the
base, bits 3-4 a modifier; some combinations have a meaning of their own.

SPDX-License-Identifier: MIT
"""

from typing import NamedTuple

_BASE = (
    "NoAccess",
    "ReadOnly",
    "Execute",
    "ExecuteRead",
    "ReadWrite",
    "WriteCopy",
    "ExecuteReadWrite",
    "ExecuteWriteCopy",
)
_MODIFIER = ("", "NoCache", "Guard", "WriteCombine")
_SPECIAL = {0x08: "NoAccess", 0x10: "Decommitted", 0x18: "NoAccess"}


class Rights(NamedTuple):
    """What a protection lets user mode and the kernel do with a page."""

    read: bool
    write: bool
    execute: bool
    copy_on_write: bool
    guard: bool


def protection_name(value: int) -> str:
    """Return the name of a 5-bit protection, such as "ReadWrite" or "ReadWrite, Guard".

    Raises ValueError for a number outside 0 ... 31.
    """
    _check(value)
    if value in _SPECIAL:
        return _SPECIAL[value]
    modifier = _MODIFIER[value >> 3]
    return _BASE[value & 7] + (f", {modifier}" if modifier else "")


def protection_rights(value: int) -> Rights:
    """Return what a 5-bit protection grants; a guard page grants it after the first access.

    Raises ValueError for a number outside 0 ... 31.
    """
    _check(value)
    base = value & 7
    return Rights(
        read=base != 0,
        write=base in (4, 5, 6, 7),
        execute=base in (2, 3, 6, 7),
        copy_on_write=base in (5, 7),
        guard=value >> 3 == 2 and base != 0,
    )


def _check(value: int) -> None:
    if not 0 <= value <= 31:
        raise ValueError(f"a protection has 5 bits: {value:#x}")
