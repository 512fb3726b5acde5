"""The kernel's debugger data block, KDDEBUGGER_DATA64: where its variables are, and some of its offsets.

    kdbg = find_kdbg(dump)
    kdbg.PsActiveProcessHead, kdbg["KThreadTeb"], kdbg.encoded

Since Windows 8 the block is encoded in memory unless a debugger is attached. Each 64-bit word goes through
the same function, an exclusive or with a constant behind a rotation and a byte swap, so that two words whose
plain value is known are enough to undo it: the tag at +0x10 and the page size. The kernel's keys, when its
symbols are known, give the same.

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterator, Mapping
from functools import cache
from struct import unpack_from
from typing import TYPE_CHECKING, Any, NamedTuple

from kdmp._kdmp import KdmpError
from kdmp.windows.kdbg_fields import TABLE

if TYPE_CHECKING:
    from kdmp.dump import Dump
    from kdmp.reader import Reader
    from kdmp.symbols.structs import Layout
    from kdmp.windows.kernel import Kernel

__all__ = ["DebuggerData", "decode", "find_kdbg", "header_block", "read_block"]

TAG = b"KDBG"
MIN_SIZE = 0x208  # of Windows 2000, the oldest; XP has 0x290
MAX_SIZE = 0x800  # of Windows 11 24H2: 0x3A0
_HEAD = 0x18  # LIST_ENTRY64, tag, size
_PAGE_SIZE_AT = 0x138
_SCAN_STEP = 1 << 20
_SCAN_LIMIT = 64 << 20  # larger than any kernel image
_MASK64 = (1 << 64) - 1


class _Member(NamedTuple):
    """A member of the block: offset and size in bytes, whether it is an address; bits (0: all)."""

    offset: int
    size: int
    address: bool
    start: int
    width: int


@cache
def _members() -> dict[str, _Member]:
    rows = (line.split() for line in TABLE.strip().splitlines())
    return {
        name: _Member(int(at, 16), int(kind[1]), kind[0] == "a", *map(int, bits or ("0", "0")))
        for at, kind, name, *bits in rows
    }


# Members that wdbgexts.h calls otherwise, apart from an "Offset" in front.
_OTHER_NAMES = {"KiBugcheckData": "KiBugCheckData"}


class DebuggerData(Mapping[str, int | None]):
    """The debugger data block, decoded: a mapping of its members' names, which are attributes, too.

    A member is an int; None if the block of this build ends before it, or its page is not in the dump. 0
    mostly means that Windows does not provide it any more. Addresses of 32-bit kernels are 32 bits wide.
    The names are those of wdbgexts.h without "Offset" in front, which is understood as well.

    `address` is the block's VA (None: only a copy is known), `size` what it says of itself in bytes, `how`
    the way it was found: "header", "symbol", "version block", "scan" or "triage copy". `encoded` tells
    whether it was encoded, `decoded_by` what undid that: "keys" or "known values", None if nothing had to.
    """

    __slots__ = ("_data", "_width", "address", "decoded_by", "how", "size")

    def __init__(
        self, data: bytes, address: int | None, pointer_size: int, how: str, decoded_by: str | None = None
    ) -> None:
        self.address = address
        self.size: int = unpack_from("<I", data, 0x14)[0]
        self.how = how
        self.decoded_by = decoded_by
        self._data = data[: self.size]
        self._width = pointer_size

    @property
    def encoded(self) -> bool:
        """Whether the block was encoded in the dump."""
        return self.decoded_by is not None

    @property
    def complete(self) -> bool:
        """Whether all `size` bytes of the block were read."""
        return len(self._data) == self.size

    def __getitem__(self, name: str) -> int | None:
        name = _OTHER_NAMES.get(name, name)
        member = _members().get(name) or _members().get(name.removeprefix("Offset"))
        if member is None:
            raise KeyError(name)
        raw = self._data[member.offset : member.offset + member.size]
        if len(raw) < member.size:
            return None
        value = int.from_bytes(raw, "little")
        if member.width:
            return value >> member.start & (1 << member.width) - 1
        return value & 0xFFFFFFFF if self._width == 4 and member.size == 8 else value

    if TYPE_CHECKING:  # for readers of code that uses a member by its name

        def __getattr__(self, name: str) -> int | None: ...

    else:

        def __getattr__(self, name):
            if name.startswith("_"):
                raise AttributeError(name)
            try:
                return self[name]
            except KeyError:
                raise AttributeError(f"KDDEBUGGER_DATA64 has no member {name}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(_members())

    def __len__(self) -> int:
        return len(_members())

    def __contains__(self, name: object) -> bool:
        return name in _members()

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def variable(self, name: str) -> int | None:
        """The VA of a kernel variable or list head; None if the block does not provide it."""
        member = _members().get(_OTHER_NAMES.get(name, name))
        return (self[name] or None) if member is not None and member.address else None

    @property
    def raw(self) -> bytes:
        """The decoded block."""
        return self._data

    def to_dict(self) -> dict[str, Any]:
        """Address, size, how it was found, and all members that are there."""
        known = {name: value for name, value in self.items() if value is not None}
        return {
            "address": self.address, "size": self.size, "how": self.how, "encoded": self.encoded,
            "decoded_by": self.decoded_by, "values": known,
        }  # fmt: skip

    def __str__(self) -> str:
        """All members that the block provides, one a line."""
        rows = [f"{name:<36} {value:#x}" for name, value in self.items() if value]
        return "\n".join([repr(self)[1:-1], *rows])

    def __repr__(self) -> str:
        place = "?" if self.address is None else hex(self.address)
        decoded = f", decoded by {self.decoded_by}" if self.decoded_by else ""
        return f"<DebuggerData at {place} ({self.how}{decoded}), {self.size:#x} bytes>"


# ---- decoding ----------------------------------------------------------------------------------------------


def _swap(value: int) -> int:
    return int.from_bytes(value.to_bytes(8, "little"), "big")


def _turn(value: int, by: int) -> int:
    """Rotate 64 bits to the left."""
    return (value << by | value >> (64 - by)) & _MASK64


def _words(data: bytes) -> tuple[int, ...]:
    return unpack_from(f"<{len(data) // 8}Q", data)


def _undo(data: bytes, by: int, constant: int) -> bytes:
    plain = (_swap(_turn(word, by)) ^ constant for word in _words(data))
    return b"".join(word.to_bytes(8, "little") for word in plain)


def decode(data: bytes, never: int, always: int, address: int) -> bytes:
    """Decode words of an encoded block: `never` and `always` are the values of KiWaitNever and KiWaitAlways,
    `address` is the VA of KdpDataBlockEncoded. A last part below 8 bytes is dropped."""
    by = never & 0x3F
    return _undo(data, by, always ^ _swap(address ^ _turn(never, by)))


def _sound(data: bytes) -> bool:
    """Whether this begins as a plain block does."""
    if len(data) < _HEAD or data[0x10:0x14] != TAG:
        return False
    size: int = unpack_from("<I", data, 0x14)[0]
    return MIN_SIZE <= size <= MAX_SIZE and size % 8 == 0


def _by_known_values(data: bytes) -> bytes | None:
    """Decode a block by two of its words: the page size, and the tag with a size that can be."""
    words = _words(data)
    if len(words) <= _PAGE_SIZE_AT // 8:
        return None
    for by in range(64):
        constant = _swap(_turn(words[_PAGE_SIZE_AT // 8], by)) ^ 0x1000
        if not _sound(_undo(data[:_HEAD], by, constant)):
            continue
        plain = _undo(data, by, constant)
        (base,) = unpack_from("<Q", plain, 0x18)
        if base % 0x1000 == 0 and base >> 63:
            return plain
    return None


def _keys(reader: "Reader", layout: "Layout | None", base: int | None) -> tuple[int, int, int] | None:
    """The arguments of decode(), from variables of a kernel whose symbols are known."""
    if layout is None or base is None:
        return None
    symbols = layout.symbols
    if not {"KiWaitNever", "KiWaitAlways", "KdpDataBlockEncoded"} <= symbols.keys():
        return None
    try:
        never = reader.read_u64(base + symbols["KiWaitNever"])
        always = reader.read_u64(base + symbols["KiWaitAlways"])
    except (KdmpError, OverflowError):
        return None
    return never, always, base + symbols["KdpDataBlockEncoded"]


def read_block(
    reader: "Reader", address: int, how: str, keys: tuple[int, int, int] | None = None
) -> DebuggerData | None:
    """Read the block at an address and decode it if it is encoded; None if there is none.

    `keys` are KiWaitNever, KiWaitAlways and the VA of KdpDataBlockEncoded, when known.
    """
    width = reader.pointer_size
    try:
        data = reader.read(address, MAX_SIZE)
    except (KdmpError, OverflowError):
        return None
    if _sound(data):
        return DebuggerData(data, address, width, how)
    if width == 4:
        return None  # never encoded there
    if keys is not None:
        plain = decode(data, *keys)
        if _sound(plain):
            return DebuggerData(plain, address, width, how, "keys")
    known = _by_known_values(data)
    return None if known is None else DebuggerData(known, address, width, how, "known values")


# ---- finding -----------------------------------------------------------------------------------------------


def header_block(dump: "Dump", reader: "Reader") -> DebuggerData | None:
    """The block where the dump header says it is; None if there is none. Needs to know nothing else."""
    address = dump.kd_debugger_data_block
    return None if address is None else read_block(reader, address, "header")


def find_kdbg(
    dump: "Dump", reader: "Reader | None" = None, layout: "Layout | None" = None
) -> DebuggerData | None:
    """Return the debugger data block of a dump, decoded; None if nothing leads to one.

    Ways in this order: the copy of a triage dump, the header's address, the kernel's symbols (its own
    variable, the version block), a scan of the kernel's image. A block that names another kernel base counts
    only if no way leads to a better one. `reader` is the kernel's address space and `layout` symbols, by
    default those of this very kernel if they are bundled.
    """
    if dump.triage is not None and _sound(dump.triage.debugger_data):
        return DebuggerData(
            dump.triage.debugger_data, dump.kd_debugger_data_block, dump.pointer_size, "triage copy"
        )
    try:
        space = reader or dump.reader(discover=False)
    except KdmpError:
        return None
    kernel = dump.kernel
    second = None
    for found in _ways(dump, space, kernel, layout):
        if kernel is None or found.KernBase == kernel.base:
            return found
        second = second or found
    return second


def _ways(
    dump: "Dump", reader: "Reader", kernel: "Kernel | None", layout: "Layout | None"
) -> Iterator[DebuggerData]:
    in_header = header_block(dump, reader)
    if in_header is not None:
        yield in_header
    if kernel is None:
        return
    if layout is None:
        from kdmp.windows.choose import exact_layout

        layout = exact_layout(dump, kernel)
    keys = _keys(reader, layout, kernel.base)
    for address, how in _places(dump, reader, kernel, layout):
        if in_header is None or address != in_header.address:
            found = read_block(reader, address, how, keys)
            if found is not None:
                yield found
    if dump.triage is None:
        yield from _scan(reader, kernel)


def _places(
    dump: "Dump", reader: "Reader", kernel: "Kernel", layout: "Layout | None"
) -> Iterator[tuple[int, str]]:
    """Addresses at which the block may be, and what says so."""
    if dump.kd_debugger_data_block is not None:  # with the keys now
        yield dump.kd_debugger_data_block, "header"
    symbols = layout.symbols if layout is not None else {}
    if "KdDebuggerDataBlock" in symbols:
        yield kernel.base + symbols["KdDebuggerDataBlock"], "symbol"
    if "KdVersionBlock" in symbols:
        # DBGKD_GET_VERSION64.DebuggerDataList is a list head, whose entry is the block.
        try:
            head = reader.read_uint(kernel.base + symbols["KdVersionBlock"] + 0x20, 8)
            following = reader.read_uint(head & _pointers(reader), reader.pointer_size)
            yield following, "version block"
            yield reader.read_uint(following, reader.pointer_size), "version block"
        except (KdmpError, OverflowError):
            return


def _pointers(reader: "Reader") -> int:
    """All bits of a pointer."""
    return (1 << 8 * reader.pointer_size) - 1


def _scan(reader: "Reader", kernel: "Kernel") -> Iterator[DebuggerData]:
    """Plain blocks in the kernel's image that name its base."""
    start, size = kernel.base, min(kernel.image.size, _SCAN_LIMIT)
    for at in range(start, start + size, _SCAN_STEP):
        try:
            # The steps overlap, so that no block's head is cut.
            data, _ = reader.read_gaps(at, min(_SCAN_STEP, start + size - at) + _HEAD)
        except (KdmpError, OverflowError, ValueError):
            continue
        place = data.find(TAG)
        while place >= 0:
            address = at + place - 0x10
            if address % 8 == 0 and address >= start:
                found = read_block(reader, address, "scan")
                if found is not None and not found.encoded and found.KernBase == kernel.base:
                    yield found
            place = data.find(TAG, place + 1)
