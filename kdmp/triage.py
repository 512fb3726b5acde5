"""What a triage dump (DumpType 4) holds besides virtual memory: drivers, stack, copies of structures.

All offsets in the triage header are file offsets. A part exists when its offset is not zero and
lies in the file; MiniDumpFields is only advice, real writers set it wrongly in both directions.

SPDX-License-Identifier: MIT
"""

import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdmp.dump import Dump
    from kdmp.reader import Reader

from kdmp._kdmp import KdmpError, UnreadableError, VaRange
from kdmp.context import Context

# Real dumps list a few hundred drivers; nothing larger fits in the sizes a triage dump has.
_MAX_DRIVERS = 0x4000
_MAX_UNLOADED = 50
_MAX_NAME = 0x1000
_MAX_PROCESSORS = 2048


@dataclass(frozen=True, slots=True)
class TriageDriver:
    """A loaded driver: `name` (full path as stored, None if unreadable), `base`, `size` in bytes,
    `checksum` and `timestamp` of its PE header. `timestamp` is a hash on Windows 10 and later."""

    name: str | None
    base: int
    size: int
    checksum: int
    timestamp: int

    @property
    def image_id(self) -> str:
        """TimeDateStamp and SizeOfImage as symbol servers spell the key of an image."""
        return f"{self.timestamp:08X}{self.size:x}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TriageUnloadedDriver:
    """A driver that was unloaded: `name` (at most 12 characters are kept) and its range [start, end)."""

    name: str
    start: int
    end: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class MmStorage:
    """DUMP_MM_STORAGE64, the memory manager's figures as stored.

    Commit figures are pages. Pool sizes are described as bytes, but the values in real dumps of build 26100
    only make sense as pages.
    """

    version: int
    size: int
    special_pool_tag: int
    triage_action_taken: int
    verify_driver_level: int
    kernel_verifier: int
    maximum_nonpaged_pool: int
    allocated_nonpaged_pool: int
    paged_pool_maximum: int
    paged_pool_allocated: int
    committed_pages: int
    committed_pages_peak: int
    commit_limit_maximum: int

    def to_dict(self) -> dict[str, int]:
        """Return the fields as a dict."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TriageProcessor:
    """A processor whose KPRCB was captured: its `number`, `prcb` (VA; None if only the copy in the triage
    header is there), and `context` if that was captured too."""

    number: int
    prcb: int | None
    context: Context | None


class Triage:
    """The parts of a triage dump. Get it from `Dump.triage`."""

    def __init__(self, dump: "Dump", header: dict[str, int]) -> None:
        self._dump = dump
        self.header = header

    def __repr__(self) -> str:
        return f"<kdmp.Triage {len(self.drivers)} drivers, {len(self.ranges)} ranges>"

    @property
    def _reader(self) -> "Reader":
        reader = self._dump.reader()
        reader.strict = True
        return reader

    def _bytes(self, offset: int, size: int) -> bytes:
        """Return `size` bytes of the file, b"" if they are not all there or the offset is 0."""
        if offset == 0 or size <= 0 or offset + size > self._dump.file_size:
            return b""
        return self._dump.read_file(offset, size)

    def _part(self, name: str, size_name: str) -> bytes:
        return self._bytes(self.header[name], self.header[size_name])

    # ---- virtual memory ----

    @property
    def ranges(self) -> list[VaRange]:
        """The virtual ranges there are and where each comes from, in the file's order."""
        return self._dump.va_ranges()

    @property
    def valid(self) -> bool:
        """Whether the mark `TRGD` stands where the header says, which it does in a complete dump."""
        return self._bytes(self.header["valid_offset"], 4) == b"TRGD"

    @property
    def overflowed(self) -> bool:
        """Whether TriageOptions says that not everything fitted (0x100; all ones means unset)."""
        options = self.header["triage_options"]
        return options != 0xFFFFFFFF and bool(options & 0x100)

    @property
    def stack(self) -> tuple[int, bytes]:
        """Address of the saved stack's lowest byte (the stack pointer) and its bytes; (0, b"") if none."""
        data = self._part("call_stack_offset", "size_of_call_stack")
        return (self.header["top_of_stack"], data) if data else (0, b"")

    @property
    def debugger_data(self) -> bytes:
        """The copy of KDDEBUGGER_DATA64, decoded; b"" if there is none."""
        return self._part("debugger_data_offset", "debugger_data_size")

    def _kdbg(self, offset: int, size: int) -> int:
        """Return a number of the debugger data, 0 if it is not there."""
        return int.from_bytes(self.debugger_data[offset : offset + size], "little")

    @property
    def prcb(self) -> bytes:
        """The copy of the crashing processor's KPRCB (KDBG.SizePrcb bytes)."""
        return self._bytes(self.header["prcb_offset"], self._kdbg(0x2B0, 2))

    @property
    def process(self) -> bytes:
        """The copy of the current process' EPROCESS (KDBG.SizeEProcess bytes)."""
        return self._bytes(self.header["process_offset"], self._kdbg(0x2A8, 2))

    @property
    def thread(self) -> bytes:
        """The copy of the current thread's ETHREAD (KDBG.SizeEThread bytes)."""
        return self._bytes(self.header["thread_offset"], self._kdbg(0x2C0, 2))

    # ---- drivers ----

    def _string(self, offset: int) -> str | None:
        """Return a DUMP_STRING: u32 length in UTF-16 units, then the units."""
        head = self._bytes(offset, 4)
        if not head:
            return None
        length = min(int.from_bytes(head, "little"), _MAX_NAME)
        if length == 0:
            return ""
        data = self._bytes(offset + 4, 2 * length)
        return data.decode("utf-16-le", "replace") if data else None

    @property
    def driver_stride(self) -> int:
        """Bytes of one DUMP_DRIVER_ENTRY in this file: it follows the writer's headers."""
        default = 0x90 if self._dump.pointer_size == 8 else 0x4C
        start, count = self.header["driver_list_offset"], self.header["driver_count"]
        size = self.header["string_pool_offset"] - start
        if count and size > 0 and size % count == 0 and default <= size // count <= 0x200:
            return size // count
        return default

    @cached_property
    def drivers(self) -> list[TriageDriver]:
        """The loaded drivers, the kernel first. An entry whose name is damaged keeps its other facts."""
        stride = self.driver_stride
        start = self.header["driver_list_offset"]
        # KLDR_DATA_TABLE_ENTRY follows the name's offset: DllBase, SizeOfImage, CheckSum, TimeDateStamp.
        base, size, checksum, stamp = (
            (0x38, 0x48, 0x80, 0x88) if self._dump.pointer_size == 8 else (0x1C, 0x24, 0x44, 0x48)
        )
        pointer = "<Q" if self._dump.pointer_size == 8 else "<I"
        found = []
        for number in range(min(self.header["driver_count"], _MAX_DRIVERS)):
            entry = self._bytes(start + number * stride, stride) if start else b""
            if not entry:
                break
            (name_offset,) = struct.unpack_from("<I", entry)
            found.append(
                TriageDriver(
                    self._string(name_offset),
                    struct.unpack_from(pointer, entry, base)[0],
                    struct.unpack_from("<I", entry, size)[0],
                    struct.unpack_from("<I", entry, checksum)[0],
                    struct.unpack_from("<I", entry, stamp)[0],
                )
            )
        return found

    @property
    def broken_driver(self) -> str | None:
        """Name of the driver that the writer blames (BrokenDriverOffset), if it names one."""
        return self._string(self.header["broken_driver_offset"])

    @cached_property
    def unloaded_drivers(self) -> list[TriageUnloadedDriver]:
        """Drivers that were unloaded, as MmUnloadedDrivers had them: at most 50."""
        start = self.header["unloaded_drivers_offset"]
        width = self._dump.pointer_size
        entry_size, name_at = (0x38, 0x10) if width == 8 else (0x28, 0x08)
        pointers = "<QQ" if width == 8 else "<II"
        count = int.from_bytes(self._bytes(start, width), "little")
        found = []
        for number in range(min(count, _MAX_UNLOADED)):
            entry = self._bytes(start + width + number * entry_size, entry_size)
            if not entry:
                break
            length = min(int.from_bytes(entry[:2], "little"), 24)
            name = entry[name_at : name_at + length].decode("utf-16-le", "replace").rstrip("\0")
            found.append(TriageUnloadedDriver(name, *struct.unpack_from(pointers, entry, name_at + 24)))
        return found

    @property
    def mm(self) -> MmStorage | None:
        """The memory manager's figures, None if they are not there."""
        wide = self._dump.pointer_size == 8
        data = self._bytes(self.header["mm_offset"], 0x50 if wide else 0x34)
        return MmStorage(*struct.unpack("<6I7Q" if wide else "<13I", data)) if data else None

    # ---- processors ----

    def processors(self) -> Iterator[TriageProcessor]:
        """Yield the processors whose KPRCB can be read through KiProcessorBlock, by number.

        The context is the one that KPRCB.Context points to: of processors other than the crashing one it
        is saved when they are frozen. Sources: KDBG's KiProcessorBlock and OffsetPrcbContext.
        """
        width = self._dump.pointer_size
        array = self._kdbg(0x218, 8) & (1 << 8 * width) - 1
        offset, number_at = self._kdbg(0x338, 2), self._kdbg(0x2BE, 2)
        reader, seen = self._reader, set()
        for number in range(min(self._dump.processors or 0, _MAX_PROCESSORS) if array else 0):
            try:
                prcb = reader.read_ptr(array + number * width)
                context = self._context(reader.read_ptr(prcb + offset)) if offset else None
            except (UnreadableError, OverflowError):
                continue
            seen.add(number)
            yield TriageProcessor(number, prcb, context)
        # The copy in the triage header, when KiProcessorBlock does not lead to it.
        copy = self.prcb
        own = int.from_bytes(copy[number_at : number_at + 4], "little")
        if copy and number_at and own not in seen:
            pointer = int.from_bytes(copy[offset : offset + width], "little")
            yield TriageProcessor(own, None, self._context(pointer))

    def _context(self, pointer: int) -> Context | None:
        size = {"x64": 0x4D0, "x86": 0x2CC, "arm64": 0x390}.get(self._dump.arch, 0)
        try:
            return Context.from_bytes(self._reader.read_exact(pointer, size), self._dump.arch)
        except (KdmpError, OverflowError):
            return None
