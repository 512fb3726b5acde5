"""Page table entries as the processor takes them, for the page-table monitor.

Bits as in the Intel SDM, volume 3A, chapter "Paging", and in the Arm ARM, VMSAv8-64; the software Write bits
as in `_MMPTE_HARDWARE`. What is said of rights is what `Translation` says.

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from kdmp._kdmp import NonCanonicalError

_WIDE = 0x000F_FFFF_FFFF_F000  # bits 12-51
_P, _RW, _US, _PS, _SW_WRITE, _NX = 1, 2, 4, 0x80, 0x800, 1 << 63
# Bits that must be 0 in a present PDPTE of PAE: 1, 2, 5-8 and 63.
_PDPTE_RESERVED = _NX | 0x1E6


class Target(NamedTuple):
    """Where a valid entry leads: to a page (`leaf`) or to a table at `base`."""

    leaf: bool
    base: int


@dataclass(frozen=True, slots=True)
class Paging:
    """A paging mode. `shifts` has the lowest address bit that each level translates, level 1 first, and the
    number of address bits behind them."""

    name: str
    entry_size: int
    shifts: tuple[int, ...]
    root_mask: int

    @property
    def levels(self) -> int:
        """How many tables a walk goes through."""
        return len(self.shifts) - 1

    def check(self, va: int) -> None:
        """Raise NonCanonicalError unless `va` is an address of this mode, OverflowError beyond 64 bits."""
        if not 0 <= va < 1 << 64:
            raise OverflowError("an address has 64 bits")
        bits = self.shifts[-1]
        high = va >> bits - 1
        if va >> bits if bits == 32 else high not in (0, (1 << 65 - bits) - 1):
            raise NonCanonicalError(f"{va:#x} is no address of {self.name} paging")

    def entry(self, table: int, va: int, level: int) -> int:
        """Return the physical address of the entry of `va` in a table of `level`."""
        low, high = self.shifts[level - 1], self.shifts[level]
        return table + self.entry_size * (va >> low & (1 << high - low) - 1)

    def size(self, level: int) -> int:
        """Return the size of a page whose entry is at `level`."""
        return 1 << self.shifts[level - 1]

    def target(self, value: int, level: int) -> Target | None:
        """Return where an entry leads; None for one that is not valid or malformed."""
        if not value & _P:
            return None
        if self.name == "arm64":
            return self._target_arm64(value, level)
        if self.name == "x86":
            return _target_x86(value, level)
        if self.name == "pae" and level == 3:
            return None if value & _PDPTE_RESERVED else Target(False, value & _WIDE)
        if level == 1 or (value & _PS and level <= 3):
            return Target(True, value & _WIDE & -self.size(level))  # without the PAT bit of a large page
        return None if value & _PS else Target(False, value & _WIDE)

    def _target_arm64(self, value: int, level: int) -> Target | None:
        base = value & 0x0000_FFFF_FFFF_F000
        if level > 1 and value & 2:
            return Target(False, base)
        if level == 4 or (level == 1 and not value & 2):
            return None
        return Target(True, base & -self.size(level))

    def rights(self, entries: Iterable[tuple[int, int]], va: int) -> str:
        """Return what the (value, level) of all entries, root first, allow together, as four letters."""
        write = user = execute = True
        for value, level in entries:
            target = self.target(value, level)
            leaf = target is not None and target.leaf
            if self.name == "arm64":
                w, u, x = _rights_arm64(value, leaf, bool(va >> 63))
            elif self.name == "pae" and level == 3:
                continue
            else:
                w, u = bool(value & _RW or (leaf and value & _SW_WRITE)), bool(value & _US)
                x = self.name == "x86" or not value & _NX
                # KVA shadow sets it in the user half of the kernel's root, which says nothing of the page.
                x = x or (not leaf and level == self.levels and self.name != "pae" and not va >> 63)
            write, user, execute = write and w, user and u, execute and x
        return f"{'u' if user else 'k'}r{'w' if write else '-'}{'x' if execute else '-'}"


def _target_x86(value: int, level: int) -> Target:
    if level == 2 and value & _PS:  # PSE-36: bits 13-20 are address bits 32-39
        return Target(True, value & 0xFFC0_0000 | (value >> 13 & 0xFF) << 32)
    return Target(level == 1, value & 0xFFFF_F000)


def _rights_arm64(value: int, leaf: bool, kernel: bool) -> tuple[bool, bool, bool]:
    if not leaf:
        return not value >> 62 & 1, not value >> 61 & 1, not value >> (59 if kernel else 60) & 1
    write = not value >> 7 & 1 or bool(value >> 55 & 1)
    return write, bool(value >> 6 & 1), not value >> (53 if kernel else 54) & 1


PAGING = {
    one.name: one
    for one in (
        Paging("x64", 8, (12, 21, 30, 39, 48), _WIDE),
        Paging("la57", 8, (12, 21, 30, 39, 48, 57), _WIDE),
        Paging("pae", 8, (12, 21, 30, 32), 0xFFFF_FFE0),
        Paging("x86", 4, (12, 22, 32), 0xFFFF_F000),
        Paging("arm64", 8, (12, 21, 30, 39, 48), 0x0000_FFFF_FFFF_F000),
    )
}
"""The paging modes by name."""
