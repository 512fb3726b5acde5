"""What was missing: reads that go on over holes, and the list of the holes.

    with dump.collect_faults() as faults:
        value = reader.read_u64(va)       # None if it is not there
        name = reader.read_wstr(va)
    for fault in faults:
        print(fault)

SPDX-License-Identifier: MIT
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import index
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, TypeAlias

from kdmp._kdmp import (
    AccessContext,
    AddressEndError,
    BadEntryError,
    NonCanonicalError,
    NotInDumpError,
    NotPresentError,
    TruncatedError,
    UnreadableError,
)
from kdmp.scopes import Scope
from kdmp.scopes import uncollected as uncollected  # where it was

if TYPE_CHECKING:
    from kdmp._kdmp import DumpBase

__all__ = ["Fault", "FaultCollector", "Ignored"]

_PAGE = 0x1000
_MAX_FAULTS = 1 << 20

_REASONS: tuple[tuple[type[UnreadableError], str], ...] = (
    (TruncatedError, "truncated"),
    (NotInDumpError, "not_in_dump"),
    (NotPresentError, "not_present"),
    (NonCanonicalError, "non_canonical"),
    (BadEntryError, "bad_entry"),
    (AddressEndError, "address_end"),
)


@dataclass(frozen=True, slots=True)
class Fault:
    """Memory that a read did not find.

    `address` is the first missing byte (physical if `root` is None, unless the dump is a triage dump), `root`
    the page-table root as the reader has it. `reason` is "not_present", "not_in_dump", "truncated",
    "non_canonical", "bad_entry" or "address_end". `level` is that of the page table entry or table that
    ended the walk, 0 if the page itself is missing, None without a walk; `physical` is the physical address
    that is not there, of the page or (`level` > 0) of the table, None if none is known. `size` counts the
    bytes of the read that are missing for it, 1 if that cannot be told, and of several reads the most.
    `error` is the exception that was not raised.

    Faults are equal if all but `size` and `error` are.
    """

    address: int
    root: int | None
    level: int | None
    reason: str
    physical: int | None
    size: int = field(compare=False)
    error: UnreadableError = field(compare=False, repr=False)

    @property
    def state(self) -> str | None:
        """What the last entry of the walk is, as `Translation.state`; None without a walk."""
        return getattr(self.error, "state", None)

    @property
    def pages(self) -> range:
        """The addresses of the 4 KiB pages that have the missing bytes."""
        return range(self.address & -_PAGE, self.address + self.size, _PAGE)

    def __str__(self) -> str:
        return str(self.error)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values that JSON can hold, the error as its `message`; None is left out."""
        names = ("address", "root", "level", "reason", "state", "physical", "size")
        facts = {name: getattr(self, name) for name in names}
        facts["message"] = str(self.error)
        return {name: value for name, value in facts.items() if value is not None}


# An int stands for the 4 KiB page that has it, a range for its addresses.
Ignored: TypeAlias = SupportsIndex | range | AccessContext | Fault


class FaultCollector(Scope, Sequence[Fault]):
    """The faults of the reads inside a `with` block, each once, in the order met: a sequence of Fault.

    Get it from `Dump.collect_faults()`; it can be used after the block, but not for a second one. `dropped`
    counts faults beyond the first 1048576, which are not kept.
    """

    def __init__(self, dump: "DumpBase", ignore: "Ignored | Iterable[Ignored]" = ()) -> None:
        self._dump = dump
        self._ignored = _Ranges(ignore)
        # A dict, for its order: what is equal is one fault, the value the one with the most bytes.
        self._faults: dict[Fault, Fault] = {}
        self._list: list[Fault] = []
        self._used = False
        self.dropped = 0

    @property
    def dump(self) -> "DumpBase":
        """The dump whose faults are collected."""
        return self._dump

    def _collects(self, dump: "DumpBase") -> bool:
        return self._dump is dump

    @property
    def active(self) -> bool:
        """Whether the block is being run."""
        return self._open

    def __enter__(self) -> Self:
        if self._used:
            raise RuntimeError("a fault collector is for one block: call collect_faults() again")
        self._used = True
        self._dump._collect(True)
        self._enter()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._open:
            self._leave()
            self._dump._collect(False)

    def _add(self, address: int, size: int, root: int | None, error: UnreadableError) -> None:
        """Record a hole; called by the extension."""
        reason = next((name for kind, name in _REASONS if isinstance(error, kind)), "unreadable")
        level, physical = getattr(error, "level", None), getattr(error, "pa", None)
        for start, count in self._ignored.outside(address, size, root):
            offset = start - address
            place = physical + offset if offset and physical is not None and not level else physical
            fault = Fault(start, root, level, reason, place, count, error)
            known = self._faults.get(fault)
            if known is None and len(self._faults) >= _MAX_FAULTS:
                self.dropped += 1
            elif known is None or known.size < count:
                self._faults[fault] = fault
                self._list = []

    # ---- what was met ----

    @property
    def addresses(self) -> list[int]:
        """The first missing address of each fault, each once, in the order met."""
        return list(dict.fromkeys(fault.address for fault in self))

    @property
    def pages(self) -> list[int]:
        """The addresses of the 4 KiB pages with missing bytes, each once, in the order met.

        What is missing under several roots, or physically, is told apart by the faults themselves.
        """
        return list(dict.fromkeys(page for fault in self for page in fault.pages))

    def _all(self) -> list[Fault]:
        # Another thread may add meanwhile, and empty the list again.
        found = self._list
        if len(found) != len(self._faults):
            found = self._list = list(self._faults.values())
        return found

    def __len__(self) -> int:
        return len(self._faults)

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._all())

    def __contains__(self, item: object) -> bool:
        """Whether a Fault, or the byte at an address (an int), was missing."""
        if isinstance(item, Fault):
            return item in self._faults
        if isinstance(item, SupportsIndex):
            address = index(item)
            return any(fault.address <= address < fault.address + fault.size for fault in self)
        return False

    def __getitem__(self, n: Any) -> Any:
        return self._all()[n]

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<kdmp.FaultCollector {len(self)} faults{', active' if self._open else ''}>"

    def __str__(self) -> str:
        return "\n".join(map(str, self))

    def to_dict(self) -> dict[str, Any]:
        """The `faults` as dicts, and how many were `dropped`."""
        return {"faults": [fault.to_dict() for fault in self], "dropped": self.dropped}


class _Ranges:
    """Addresses to leave out, each for one root, for physical memory, or for all spaces."""

    def __init__(self, ignore: "Ignored | Iterable[Ignored]") -> None:
        items = [ignore] if isinstance(ignore, _ONE) else list(ignore)
        self._rows: list[tuple[int, int, str | int]] = sorted(map(_row, items), key=lambda row: row[0])
        self._starts = [start for start, _, _ in self._rows]

    def outside(self, address: int, size: int, root: int | None) -> Iterator[tuple[int, int]]:
        """The parts of a hole that are not left out, as (address, size)."""
        if not self._rows:
            yield address, size
            return
        end = address + size
        # Every row that begins before the end may reach into the hole.
        for start, stop, space in self._rows[: bisect_right(self._starts, end - 1)]:
            if stop <= address or not _applies(space, root):
                continue
            if start > address:
                yield address, start - address
            address = stop
            if address >= end:
                return
        yield address, end - address


_ONE = (SupportsIndex, range, AccessContext, Fault)


def _applies(space: "str | int", root: int | None) -> bool:
    if isinstance(space, int):
        return space == root
    return space == "any" or (root is None) == (space == "physical")


def _row(item: Any) -> tuple[int, int, str | int]:
    """What an item leaves out: first address, the one behind the last, and in which space."""
    if isinstance(item, range):
        if item.step != 1:
            raise ValueError(f"a range to ignore must have step 1: {item!r}")
        return item.start, item.stop, "any"
    if isinstance(item, Fault):
        space: str | int = "physical" if item.root is None else item.root
        return item.address, item.address + item.size, space
    if isinstance(item, AccessContext):
        space = "physical" if item.physical else "virtual" if item.dtb is None else item.dtb
        page = item.address & -_PAGE
        return page, page + _PAGE, space
    page = index(item) & -_PAGE
    return page, page + _PAGE, "any"
