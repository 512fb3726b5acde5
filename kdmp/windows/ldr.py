"""User-mode modules: the lists that ntdll's loader keeps in the PEB, of 64 and of 32 bits.

An LDR_DATA_TABLE_ENTRY is in three lists: by load order, by memory order, by initialization order (without
the executable). A process can unlink it from some; damage can break one. So all are walked and united, and
each module tells which lists have it. No symbols are needed: the members read here are at the same place in
all releases since XP but for LoadTime, which came with 7 and moved with 8. Sources: type information of
public symbol files (_PEB_LDR_DATA, _LDR_DATA_TABLE_ENTRY).

SPDX-License-Identifier: MIT
"""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from kdmp._kdmp import KdmpError
from kdmp.windows.entity import Listing, Problem, fact
from kdmp.windows.lists import walk_list
from kdmp.windows.pe import ImageIdentity, identify
from kdmp.windows.user import UserProcess, UserStructure, peb
from kdmp.windows.userimagefile import Extractable

__all__ = ["MAX_MODULES", "UserModule", "modules"]

MAX_MODULES = 1 << 14
"""Entries of a list that are followed."""

LISTS = ("load", "memory", "init")
"""The loader's lists, by the order their links have in an entry."""

_WINDOWS_7, _WINDOWS_8 = 7600, 9200


@dataclass(frozen=True, slots=True)
class _Abi:
    """Offsets of one width. `heads`: of the lists in PEB_LDR_DATA; `links`: in an entry, in this order."""

    heads: tuple[int, int, int]
    links: tuple[int, int, int]
    base: int
    entry: int
    size: int
    path: int
    name: int
    flags: int
    load_count: int
    timestamp: int
    load_time_7: int
    load_time_8: int
    user_end: int


_ABI = {
    8: _Abi(
        (0x10, 0x20, 0x30), (0, 0x10, 0x20), 0x30, 0x38, 0x40, 0x48, 0x58, 0x68, 0x6C, 0x80, 0xD8, 0x100,
        1 << 56,
    ),
    4: _Abi(
        (0xC, 0x14, 0x1C), (0, 8, 0x10), 0x18, 0x1C, 0x20, 0x24, 0x2C, 0x34, 0x38, 0x44, 0x70, 0x88, 1 << 32
    ),
}  # fmt: skip


class UserModule(UserStructure, Extractable):
    """A module of a process; `address` is that of its loader entry.

    `order` is its place in the list of its PEB (from 0), `lists` names the loader's lists that have it
    ("load", "memory", "init"), `arch` is "x64", "x86" or "arm64" by the PEB that lists it.
    """

    FACTS = (
        "base", "size", "name", "path", "entry", "timestamp", "load_time", "load_count", "flags", "arch",
        "order", "lists",
    )  # fmt: skip
    COLUMNS = ("base", "size", "name", "path", "arch")
    HEX = UserStructure.HEX | {"base", "size", "entry", "timestamp", "flags"}

    def __init__(self, process: UserProcess, address: int, width: int, lists: tuple[str, ...]) -> None:
        super().__init__(process, address, width)
        self.lists = lists
        self.order = 0

    def _brief(self) -> str:
        return f"<UserModule {self.name or '?'} at {self.show('base') or '?'}>"

    @property
    def arch(self) -> str:
        """By the PEB that lists it: "x86" for the 32-bit one, else the machine's."""
        return "x86" if self.width == 4 else self.windows.dump.arch

    @property
    def _abi(self) -> _Abi:
        return _ABI[self.width]

    @fact
    def base(self) -> int | None:
        """DllBase: address of the image."""
        return self._pointer(self._abi.base)

    @fact
    def size(self) -> int | None:
        """SizeOfImage in bytes."""
        return self._uint(self._abi.size)

    @fact
    def entry(self) -> int | None:
        """EntryPoint: address of the entry point, 0 for images without."""
        return self._pointer(self._abi.entry)

    @fact
    def name(self) -> str | None:
        """BaseDllName."""
        return self._text("name", self._abi.name)

    @fact
    def path(self) -> str | None:
        """FullDllName."""
        return self._text("path", self._abi.path)

    @fact
    def timestamp(self) -> int | None:
        """TimeDateStamp of the image's file header."""
        return self._uint(self._abi.timestamp)

    @fact
    def flags(self) -> int | None:
        """Flags, the LDRP_* bits."""
        return self._uint(self._abi.flags)

    @fact
    def load_count(self) -> int | None:
        """LoadCount: references, 0xFFFF for a module that stays for good.

        From Windows 8 on this is ObsoleteLoadCount, which the loader still sets to 6 for modules that were
        linked to and to 0xFFFF for pinned ones, but no longer counts with.
        """
        return self._uint(self._abi.load_count, 2)

    @fact
    def load_time(self) -> datetime | None:
        """LoadTime, UTC (7 and later); None for what is not known."""
        build = self.windows.dump.build
        if build is None or build < _WINDOWS_7:
            return None
        offset = self._abi.load_time_8 if build >= _WINDOWS_8 else self._abi.load_time_7
        return self.windows.filetime(self._uint(offset, 8))

    @cached_property
    def image(self) -> ImageIdentity | None:
        """What the image in memory says it is: time stamp, size, PDB name, GUID and age.

        Pages that only a VAD's prototype PTEs lead to are read, too. None if its headers are not there.
        """
        from kdmp.windows.vadpages import UserMemory

        base = self.base
        return identify(UserMemory(self.process), base) if base else None

    @property
    def pdb(self) -> str | None:
        """Name of its PDB, None if not known."""
        return self.image.pdb if self.image else None

    @property
    def symbol_id(self) -> str | None:
        """Key of its PDB on a symbol server, None if not known."""
        return self.image.symbol_id if self.image else None

    def __contains__(self, va: int) -> bool:
        return self.base is not None and self.base <= va < self.base + (self.size or 0)


def modules(process: UserProcess, *, wow64: bool | None = None) -> Listing[UserModule]:
    """Return the modules of a process: those of its PEB, then those of the 32-bit PEB of WoW64.

    `wow64` True or False asks for one of them. Order is load order; a module that only other lists have
    comes after the one it follows there. `problems` tells broken lists. Nothing raises for missing memory.
    """
    found: list[UserModule] = []
    problems: list[Problem] = []
    for narrow in (False, True):
        if wow64 in (None, narrow):
            _collect(process, narrow, found, problems)
    return Listing(found, problems, UserModule)


def _collect(process: UserProcess, narrow: bool, found: list[UserModule], problems: list[Problem]) -> None:
    what = "modules of 32 bits" if narrow else "modules"
    block = peb(process, wow64=narrow)
    if block is None:
        return
    ldr = block.ldr
    if not ldr:
        why = block.problems[0].why if ldr is None and block.problems else "PEB.Ldr is NULL"
        problems.append(Problem(what, why, block.address))
        return
    try:
        block.reader.read_exact(ldr, _ABI[block.width].heads[-1] + 2 * block.width)
    except (KdmpError, OverflowError) as error:
        problems.append(Problem(what, f"the heads of the loader's lists: {error}", ldr))
        return
    lists = _walk(block.reader, ldr, block.width, what, problems)
    membership: dict[int, list[str]] = {}
    for name, entries in lists.items():
        for entry in entries:
            membership.setdefault(entry, []).append(name)
    for order, entry in enumerate(_united(lists)):
        module = UserModule(process, entry, block.width, tuple(membership[entry]))
        module.order = order
        found.append(module)


def _walk(reader: Any, ldr: int, width: int, what: str, problems: list[Problem]) -> dict[str, list[int]]:
    """Addresses of the entries by list. What lies outside user space is garbage."""
    abi, lists = _ABI[width], dict[str, list[int]]()
    for name, head, link in zip(LISTS, abi.heads, abi.links, strict=True):
        try:
            walk = walk_list(reader, ldr + head, width, MAX_MODULES)
        except (KdmpError, OverflowError) as error:
            problems.append(Problem(what, f"list by {name} order: {error}", ldr + head))
            continue
        entries = [at - link for at in walk.links]
        user = [entry for entry in entries if 0x10000 <= entry < abi.user_end - 0x1000]
        if len(user) < len(entries):
            why = f"{len(entries) - len(user)} entries outside user space were left out"
            problems.append(Problem(what, f"list by {name} order: {why}", ldr + head))
        lists[name] = user
        problems.extend(Problem(what, f"list by {name} order: {why}", at) for why, at in walk.problems)
    return lists


def _united(lists: dict[str, list[int]]) -> list[int]:
    """All entries: those of the first list in its order; others behind what they follow elsewhere."""
    order: list[int] = []
    for entries in lists.values():
        known, extra, before = set(order), dict[int | None, list[int]](), None
        for entry in entries:
            if entry in known:
                before = entry
            else:
                extra.setdefault(before, []).append(entry)
        if not extra:
            continue
        merged = [] if order else extra.pop(None, [])
        for entry in order:
            merged.append(entry)
            merged.extend(extra.get(entry, ()))
        order = merged + extra.get(None, [])
    return order
