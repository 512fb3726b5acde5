"""The ways that lead to processes: the list of active processes, and what else the kernel keeps of them.

A process missing from one way is a finding: rootkits unlink processes from the list, damage cuts it.

SPDX-License-Identifier: MIT
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from kdmp._kdmp import KdmpError
from kdmp.windows.entity import Problem
from kdmp.windows.handletable import HANDLE_STEP, HandleTable
from kdmp.windows.lists import MAX_ENTRIES, LinkWalk, walk_list

if TYPE_CHECKING:
    from kdmp.windows.session import Windows

__all__ = ["SOURCES", "Census", "census"]

SOURCES = (
    "active list", "cid table", "session list", "mm list", "scheduler list", "thread owner",
    "handle table list",
)  # fmt: skip

# KOBJECTS: the first byte of an object that can be waited for.
PROCESS_OBJECT, THREAD_OBJECT = 3, 6
MAX_ID = 1 << 31
_MAX_IDS = 1 << 18  # ids that are looked at; Windows has some thousands in use
_MAX_LINKS = 1 << 16  # of all the lists of one kind together
_NOTED = 16
_ROUNDS = 4  # how often lists through processes are tried again from the processes they led to
# A page-table root: 52 bits of physical address, or 32 without PAE; never 0 while the process lives.
_MAX_ROOT = 1 << 52

# Lists through the processes themselves: a process leads to the others of its ring. The head is in no
# process; it is told from one by its contents.
_RINGS = (
    ("session list", "SessionProcessLinks"),
    ("mm list", "MmProcessLinks"),
    ("scheduler list", "Pcb.ProcessListEntry"),
)


@dataclass(slots=True)
class Census:
    """Which processes there are: address of each EPROCESS -> the ways that lead to it.

    The list's processes come first, in its order. `gap` says that the list is cut, and processes that are
    missing from it may be so for that reason; None: the list cannot be walked at all. `threads` are the
    ETHREADs that the table of ids leads to, by their owner.
    """

    ways: dict[int, set[str]] = field(default_factory=dict)
    threads: dict[int, list[int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    gap: bool | None = None

    def hidden(self, address: int) -> bool | None:
        """Whether a process is missing from a list that is whole; None if the list is not."""
        if "active list" in self.ways.get(address, ()):
            return False
        return True if self.gap is False else None


def census(windows: "Windows") -> Census:
    """Go all ways and return what they lead to; once a session. Raises SymbolError without a layout."""
    return windows.once("census", lambda: _Census(windows).take())


def _inside(test: Callable[[int], bool], offset: int, link: int) -> bool:
    """Whether `test` holds of the structure that has a link at `offset`."""
    return test(link - offset)


class Checks:
    """Whether there is a process at an address, by the few fields that cannot have any value."""

    def __init__(self, windows: "Windows") -> None:
        layout = windows.layout
        self.read = windows.reader.read_uint
        self.width = windows.pointer_size
        self.dtb = layout.offset("_EPROCESS", "Pcb.DirectoryTableBase")
        self.pid = layout.offset("_EPROCESS", "UniqueProcessId")
        self.exit_time = layout.offset("_EPROCESS", "ExitTime")
        self.name = layout.offset("_EPROCESS", "ImageFileName")

    def field(self, va: int, size: int) -> int | None:
        """A number, None if it is not in the dump."""
        try:
            return self.read(va, size)
        except (KdmpError, OverflowError):
            return None

    def wrong(self, process: int) -> str | None:
        """What speaks against a process at an address, None if nothing that can be read does."""
        if process % 8:
            return "is not aligned"
        kind = self.field(process, 1)
        if kind is not None and kind != PROCESS_OBJECT:
            return f"is no process: its object type is {kind}, not {PROCESS_OBJECT}"
        pid = self.field(process + self.pid, self.width)
        if pid is not None and (pid % HANDLE_STEP or pid >= MAX_ID):
            return f"is no process: its id would be {pid:#x}"
        root = self.field(process + self.dtb, self.width)
        if root is not None and (root >= _MAX_ROOT or (not root and not self._exited(process))):
            return f"is no process: its page-table root would be {root:#x}"
        return None

    def _exited(self, process: int) -> bool:
        return self.field(process + self.exit_time, 8) != 0

    def sure(self, process: int) -> bool:
        """Whether everything speaks for a process at an address, and all of it can be read."""
        if self.wrong(process) is not None or self.field(process, 1) is None:
            return False
        if not self.field(process + self.pid, self.width):
            return False  # not in the dump, or the Idle process, which is in no list of active ones
        first = self.field(process + self.name, 1)
        return first is not None and first >= 0x20


class _Census(Census):
    """The work of `census`, with what it needs meanwhile."""

    __slots__ = ("checks", "noted", "windows")

    def __init__(self, windows: "Windows") -> None:
        super().__init__()
        self.windows = windows
        self.checks = Checks(windows)
        self.noted: dict[str, int] = {}

    def take(self) -> Census:
        self._go("active list", self._active_list)
        self._go("cid table", self._cid_table)
        for _ in range(_ROUNDS):
            before = len(self.ways)
            self._go("session list", self._rings)
            self._go("handle table list", self._handle_tables)
            if len(self.ways) == before:
                break  # who is new may lead to others
        for what, count in self.noted.items():
            if count > _NOTED:
                self.problems.append(Problem(what, f"{count - _NOTED} more of that kind"))
        return Census(self.ways, self.threads, self.problems, self.gap)

    def _go(self, what: str, way: Callable[[], None]) -> None:
        try:
            way()
        except (KdmpError, OverflowError) as error:
            self._note(what, str(error), None)

    def _note(self, what: str, why: str, address: int | None) -> None:
        if Problem(what, why, address) in self.problems:
            return
        self.noted[what] = self.noted.get(what, 0) + 1
        if self.noted[what] <= _NOTED:
            self.problems.append(Problem(what, why, address))

    def _note_walk(self, what: str, walk: LinkWalk) -> None:
        for why, address in walk.problems:
            self._note(what, why, address)

    def _add(self, process: int, way: str) -> None:
        self.ways.setdefault(process, set()).add(way)

    # ---- the list of active processes ----

    def _active_list(self) -> None:
        windows = self.windows
        offset = windows.layout.offset("_EPROCESS", "ActiveProcessLinks")
        head = windows.try_symbol("PsActiveProcessHead")
        if head is None:
            return self._note("active list", "nothing tells where PsActiveProcessHead is", None)
        walk = walk_list(windows.reader, head, windows.pointer_size)
        self._note_walk("active list", walk)
        for link in walk.links:
            wrong = self.checks.wrong(link - offset)
            if wrong is None:
                self._add(link - offset, "active list")
            else:
                self._note("active list", f"the entry at {link - offset:#x} {wrong}", link - offset)
        # A head that cannot be read says nothing about who is missing.
        self.gap = walk.gap if walk.links else None
        return None

    # ---- the table of ids ----

    def _cid_table(self) -> None:
        windows, read = self.windows, self.checks.field
        variable = windows.try_symbol("PspCidTable")
        if variable is None:
            return self._note("cid table", "nothing tells where PspCidTable is", None)
        table = HandleTable(windows, windows.pointer(variable))
        layout, width = windows.layout, windows.pointer_size
        owner_at = layout.offset("_KTHREAD", "Process")
        tid_at = layout.offset("_ETHREAD", "Cid") + width
        lost = 0
        for number, where in islice(table.objects(), _MAX_IDS):
            kind = read(where, 1)
            if kind == PROCESS_OBJECT:
                self._check_id(where, number)
            elif kind == THREAD_OBJECT and read(where + tid_at, width) in (number, None):
                owner = read(where + owner_at, width)
                if owner:
                    self.threads.setdefault(owner, []).append(where)
            elif kind is None:
                lost += 1
            else:
                self._note("cid table", f"id {number} leads to neither process nor thread", where)
        for problem in table.problems:
            self._note("cid table", problem.why, problem.address)
        if table.lost > len(table.problems):
            self._note("cid table", f"{table.lost - len(table.problems)} more of that kind", None)
        if lost:
            self._note("cid table", f"{lost} processes or threads are not in the dump", None)
        for owner in self.threads:
            if self.checks.sure(owner):
                self._add(owner, "thread owner")
        return None

    def _check_id(self, process: int, number: int) -> None:
        wrong = self.checks.wrong(process)
        pid = self.checks.field(process + self.checks.pid, self.windows.pointer_size)
        if wrong is None and pid not in (number, None):
            wrong = f"has the id {pid}"
        if wrong is None:
            self._add(process, "cid table")
        else:
            self._note("cid table", f"what id {number} leads to, {process:#x}, {wrong}", process)

    # ---- lists through processes and handle tables ----

    def _rings(self) -> None:
        layout = self.windows.layout
        for way, path in _RINGS:
            if not layout.has("_EPROCESS", path):
                continue
            offset = layout.offset("_EPROCESS", path)
            known = [process + offset for process in self._seeds()]
            sure = self.checks.sure
            for link in self._ring(way, known, partial(_inside, sure, offset)):
                self._add(link - offset, way)

    def _seeds(self) -> list[int]:
        """The processes known so far; the System process, which a variable names, if there are none."""
        if self.ways:
            return list(self.ways)
        variable = self.windows.try_symbol("PsInitialSystemProcess")
        system = self.checks.field(variable, self.windows.pointer_size) if variable else None
        return [system] if system and self.checks.sure(system) else []

    def _handle_tables(self) -> None:
        """HandleTableListHead links the handle tables of all processes; each names its owner."""
        layout, read, width = self.windows.layout, self.checks.field, self.windows.pointer_size
        links = layout.offset("_HANDLE_TABLE", "HandleTableList")
        owner_at = layout.offset("_HANDLE_TABLE", "QuotaProcess") - links
        table_at = layout.offset("_EPROCESS", "ObjectTable")
        tables = [read(process + table_at, width) for process in self._seeds()]
        owners: dict[int, int] = {}

        def member(link: int) -> bool:
            owner = read(link + owner_at, width)
            if owner and owner not in self.ways and not self.checks.sure(owner):
                return False
            owners[link] = owner or 0
            return owner is not None

        for link in self._ring("handle table list", [table + links for table in tables if table], member):
            if owners.get(link):
                self._add(owners[link], "handle table list")

    def _points_to(self, link: int, places: tuple[int, ...]) -> bool:
        return any(self.checks.field(at, self.windows.pointer_size) == link for at in places)

    def _ring(self, way: str, starts: Iterable[int], member: Callable[[int], bool]) -> list[int]:
        """The links of the rings that `starts` are in, without those that are no `member`, as a head is."""
        reader, width = self.windows.reader, self.windows.pointer_size
        seen: set[int] = set()
        found: list[int] = []
        budget = min(_MAX_LINKS, MAX_ENTRIES)
        for start in starts:
            if start in seen:
                continue
            seen.add(start)
            ahead, behind = self.checks.field(start, width), self.checks.field(start + width, width)
            if budget <= 0 or ahead in (None, 0, start):
                continue  # not in the dump, never linked, or alone
            if ahead in seen and behind in seen:
                if self._points_to(start, (ahead + width, behind)):
                    found += [start] if member(start) else []
                else:
                    self._note(way, f"the entry at {start:#x} is in no list, but leads into one", start)
                continue
            walk = walk_list(reader, start, width, budget)
            # The head may lie in session space, which the kernel's own page tables do not map.
            outside = not walk.gap and any(self.checks.field(at, 1) is None for _, at in walk.problems)
            if not outside:
                self._note_walk(way, walk)
            budget -= len(walk.links)
            fresh = [link for link in walk.links if link not in seen]
            seen.update(fresh)
            found += [link for link in (start, *fresh) if member(link)]
        return found
