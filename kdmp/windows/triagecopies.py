"""The crashing process and thread of a triage dump, from the copies in its header.

The copies have no addresses. That of the thread is in the copied KPRCB (CurrentThread), that of the process
in the thread (ApcState.Process); where the members are, KDBG says, else the layout.

SPDX-License-Identifier: MIT
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, SupportsIndex

from kdmp._kdmp import KdmpError
from kdmp.reader import Reader
from kdmp.windows.prcb import Offsets

if TYPE_CHECKING:
    from kdmp._kdmp import Address
    from kdmp.dump import Dump
    from kdmp.windows.processes import Process
    from kdmp.windows.session import Windows
    from kdmp.windows.threads import Thread

__all__ = ["CopyReader", "Crash", "crash"]


class CopyReader(Reader):
    """The memory of a triage dump with copies of structures laid over it: (address, bytes) each."""

    copies: tuple[tuple[int, bytes], ...] = ()

    @classmethod
    def over(cls, dump: "Dump", copies: Sequence[tuple[int, bytes]]) -> "CopyReader":
        """Return the reader of a dump's ranges, with `copies` over them."""
        reader = cls(dump, paging="triage")
        reader.copies = tuple(copies)
        return reader

    def _copy(self, va: "Address", size: SupportsIndex) -> bytes | None:
        if not isinstance(va, int):
            return None
        size = index(size)
        for start, data in self.copies:
            if start <= va and va + size <= start + len(data):
                return data[va - start : va - start + size]
        return None

    def read_exact(self, va: "Address", size: SupportsIndex) -> bytes:
        """As Reader's; the copies first."""
        data = self._copy(va, size)
        return super().read_exact(va, size) if data is None else data

    def read(self, va: "Address", size: SupportsIndex) -> bytes:
        """As Reader's; the copies first."""
        data = self._copy(va, size)
        return super().read(va, size) if data is None else data

    def try_read_exact(self, va: "Address", size: SupportsIndex) -> bytes | None:
        """As Reader's; the copies first."""
        data = self._copy(va, size)
        return super().try_read_exact(va, size) if data is None else data

    def is_readable(self, va: "Address", size: SupportsIndex = 1) -> bool:
        """As Reader's; the copies first."""
        return self._copy(va, size) is not None or super().is_readable(va, size)

    def _number(self, va: "Address", size: SupportsIndex, signed: bool = False) -> int:
        return int.from_bytes(self.read_exact(va, size), "little", signed=signed)

    def read_uint(self, va: "Address", size: SupportsIndex, *, signed: bool = False) -> int:
        """As Reader's; the copies first."""
        return self._number(va, size, signed)

    def read_ptr(self, va: "Address", *, size: SupportsIndex | None = None) -> int:
        """As Reader's; the copies first."""
        return self._number(va, self.pointer_size if size is None else size)

    def read_u8(self, va: "Address") -> int:
        """As Reader's; the copies first."""
        return self._number(va, 1)

    def read_u16(self, va: "Address") -> int:
        """As Reader's; the copies first."""
        return self._number(va, 2)

    def read_u32(self, va: "Address") -> int:
        """As Reader's; the copies first."""
        return self._number(va, 4)

    def read_u64(self, va: "Address") -> int:
        """As Reader's; the copies first."""
        return self._number(va, 8)

    def read_i8(self, va: "Address") -> int:
        """As Reader's; the copies first."""
        return self._number(va, 1, signed=True)

    def read_i16(self, va: "Address") -> int:
        """As Reader's; the copies first."""
        return self._number(va, 2, signed=True)

    def read_i32(self, va: "Address") -> int:
        """As Reader's; the copies first."""
        return self._number(va, 4, signed=True)

    def read_i64(self, va: "Address") -> int:
        """As Reader's; the copies first."""
        return self._number(va, 8, signed=True)


@dataclass(frozen=True, slots=True)
class Crash:
    """What a triage dump has of the crash: the memory with the copies, and the thread and its process, None
    if neither a copy nor a range holds it."""

    memory: Reader
    thread: "Thread | None"
    process: "Process | None"


def crash(windows: "Windows") -> Crash:
    """Return the crashing thread and its process. Raises SymbolError if no structure layout fits."""
    from kdmp.windows.processes import Process
    from kdmp.windows.threads import Thread

    triage = windows.dump.triage
    if triage is None:
        return Crash(windows.reader, None, None)
    offsets, width = Offsets(windows), windows.pointer_size
    owner_at = windows.layout.offset("_KTHREAD", "Process")
    thread_copy, process_copy = triage.thread, triage.process
    thread = _pointer(triage.prcb, offsets["CurrentThread"], width)
    # The copied process is the current one: that the thread is attached to. Mostly it is the owner, too.
    current = _pointer(thread_copy, offsets["Process"], width)
    copies = [(thread, thread_copy), (current, process_copy)]
    memory = CopyReader.over(windows.dump, [(at, data) for at, data in copies if at and data])
    if current is None and thread is not None:
        current = _read_pointer(memory, thread + owner_at)
    return Crash(
        memory,
        Thread(windows, thread, memory) if thread and memory.is_readable(thread) else None,
        Process(windows, current, memory) if current and memory.is_readable(current) else None,
    )


def _pointer(copy: bytes, offset: int, width: int) -> int | None:
    """A pointer in a copied structure, None if it is NULL or not there."""
    data = copy[offset : offset + width]
    return int.from_bytes(data, "little") or None if len(data) == width else None


def _read_pointer(memory: Reader, va: int) -> int | None:
    try:
        return memory.read_ptr(va) or None
    except (KdmpError, OverflowError):
        return None
