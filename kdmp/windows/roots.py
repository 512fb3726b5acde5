"""Whose address space is it? From a page-table root to the process.

SPDX-License-Identifier: MIT
"""

from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from kdmp._kdmp import KdmpError
from kdmp.reader import Reader
from kdmp.windows.lists import walk_list

if TYPE_CHECKING:
    from kdmp.windows.objects import Object
    from kdmp.windows.session import Windows

__all__ = ["Owner", "owner"]

_PAGE = 0x1000
# What of a page-table root is the address of the table.
_ROOT_MASKS = {
    "x64": 0x000F_FFFF_FFFF_F000, "la57": 0x000F_FFFF_FFFF_F000, "arm64": 0x0000_FFFF_FFFF_F000,
    "pae": 0xFFFF_FFE0, "x86": 0xFFFF_F000,
}  # fmt: skip


class Owner:
    """The process whose page-table root a reader uses: `address` is its _EPROCESS."""

    def __init__(self, windows: "Windows", address: int, reader: Reader) -> None:
        self.windows = windows
        self.address = address
        self.reader = reader

    @cached_property
    def object(self) -> "Object":
        """The _EPROCESS, typed."""
        return self.windows.object("_EPROCESS", self.address)

    @property
    def name(self) -> str | None:
        """ImageFileName, None if it cannot be read."""
        try:
            text: str = self.object.ImageFileName.text
        except (KdmpError, OverflowError, TypeError):
            return None
        return text


class _Roots:
    """The processes of a dump by their page-table roots, as far as they were asked for."""

    def __init__(self, windows: "Windows", mask: int) -> None:
        self._windows = windows
        self._mask = mask
        self._roots: dict[int, int] = {}
        self._sources = [self._active, self._others]

    def find(self, root: int) -> int | None:
        """The _EPROCESS whose root it is, None if there is none. SymbolError without a layout."""
        root &= self._mask
        while root not in self._roots and self._sources:
            addresses = self._sources[0]()
            self._sources.pop(0)
            for address in addresses:
                self._add(address)
        return self._roots.get(root)

    def _active(self) -> list[int]:
        """The list of active processes."""
        windows = self._windows
        head = windows.try_symbol("PsActiveProcessHead")
        if head is None:
            return []
        link = windows.layout.offset("_EPROCESS", "ActiveProcessLinks")
        return [at - link for at in walk_list(windows.reader, head, windows.pointer_size).links]

    def _others(self) -> list[int]:
        """What other ways lead to."""
        return [process.address for process in self._windows.processes()]

    def _add(self, address: int) -> None:
        layout = self._windows.layout
        for field in ("Pcb.DirectoryTableBase", "Pcb.UserDirectoryTableBase"):
            if not layout.has("_EPROCESS", field):
                continue
            root = self._number(address, field) & self._mask
            # 1 is what a process without shadow tables has; a dead one's root may be another's now.
            if root > _PAGE and (root not in self._roots or self._is_dead(self._roots[root])):
                self._roots[root] = address

    def _number(self, address: int, field: str) -> int:
        try:
            return self._windows.pointer(address + self._windows.layout.offset("_EPROCESS", field))
        except (KdmpError, OverflowError):
            return 0

    def _is_dead(self, address: int) -> bool:
        return self._number(address, "ExitTime") != 0


_known: "WeakKeyDictionary[Windows, _Roots]" = WeakKeyDictionary()


def owner(reader: Reader) -> Owner | None:
    """Return the process that uses a reader's page-table root; None if none does or it cannot be told.

    Its DirectoryTableBase, or UserDirectoryTableBase with KVA shadow, is the root, flag bits aside. Looked
    for in the list of active processes, then among all that other ways lead to. Remembered for the dump.
    """
    mask, root = _ROOT_MASKS.get(reader.paging), reader.dtb
    if mask is None or not root:
        return None
    windows = reader.owner.windows
    try:
        if windows not in _known:
            _known[windows] = _Roots(windows, mask)
        address = _known[windows].find(root)
    except (KdmpError, OverflowError):
        return None
    return Owner(windows, address, reader) if address else None
