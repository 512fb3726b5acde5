"""Writing triage dumps (type 4): `write_triage`, which lays out the parts as Windows does.

A triage dump holds no frames but copies of a few kernel structures, lists of drivers and ranges of
virtual memory. All of it is small, so the file is built in memory and written at once.

SPDX-License-Identifier: MIT
"""

import os
import struct
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kdmp._headers import (
    FILLER,
    LAYOUT32,
    LAYOUT64,
    HeaderLayout,
    layout_for,
    pack_header,
    store_number,
    unsigned,
)
from kdmp.records import DumpKind
from kdmp.writer import _Bytes, _File, _flat, _Source, _write_all

__all__ = ["write_triage"]

# SizeOfDump and every offset have 32 bits.
_MAX_SIZE = 0xFFFFFFFF

_UNLOADED_NAME = 24  # bytes of the name in an unloaded driver's entry
_BLOCK = struct.Struct("<QII")  # TRIAGE_DATA_BLOCK: address, file offset, size; the same in 32-bit dumps
_BLOB_FILE = struct.Struct("<4s4sII")  # DUMP_BLOB_FILE_HEADER: signatures, size of this, raw NtBuildNumber
_BLOB = struct.Struct("<I16sIII")  # DUMP_BLOB_HEADER: size of this, GUID, data size, PrePad, PostPad


@dataclass(frozen=True)
class _Shapes:
    """The structures that depend on the pointer size."""

    # TRIAGE_DUMP, with TopOfStack and DataPageAddress as pointers
    triage: struct.Struct
    # bytes of DUMP_MM_STORAGE
    mm: int
    # number of unloaded drivers, in front of them
    count: struct.Struct
    # DUMP_UNLOADED_DRIVERS: Length and MaximumLength of the name, name, start, end
    unloaded: struct.Struct
    # DUMP_DRIVER_ENTRY: name's file offset, DllBase, SizeOfImage, CheckSum, TimeDateStamp
    driver: struct.Struct


_SHAPES = {
    LAYOUT64.bits: _Shapes(
        triage=struct.Struct("<18IQ16xQ6I"),
        mm=0x50,
        count=struct.Struct("<Q"),
        unloaded=struct.Struct("<HH12x24sQQ"),
        driver=struct.Struct("<I52xQ8xI52xI4xI4x"),
    ),
    LAYOUT32.bits: _Shapes(
        triage=struct.Struct("<18III6I"),
        mm=0x34,
        count=struct.Struct("<I"),
        unloaded=struct.Struct("<HH4x24sII"),
        driver=struct.Struct("<I24xI4xI28xII"),
    ),
}


def write_triage(
    target: _Source | _File,
    *,
    header: Mapping[str, Any] | None = None,
    context: _Bytes | None = None,
    exception: _Bytes | None = None,
    mm: _Bytes | None = None,
    unloaded: Iterable[tuple[str, int, int]] | None = None,
    prcb: _Bytes | None = None,
    process: _Bytes | None = None,
    thread: _Bytes | None = None,
    stack: tuple[int, _Bytes] | None = None,
    debugger_data: _Bytes | None = None,
    drivers: Iterable[tuple[str, int, int, int, int]] = (),
    broken_driver: str | None = None,
    data_blocks: Iterable[tuple[int, _Bytes]] = (),
    data_page: tuple[int, _Bytes] | None = None,
    blobs: Iterable[tuple[uuid.UUID, _Bytes]] = (),
    build_number: int | None = None,
    triage_options: int = 0xFFFFFFFF,
    mini_dump_fields: int | None = None,
) -> None:
    """Write a triage dump of the given parts. A part that is None or empty is absent: its offset is 0.

    `target`, `header`, `context` and `exception` are those of `DumpWriter`; the header's machine chooses
    between 64-bit (x64, ARM64) and 32-bit dumps (x86, ARM).

    `mm` is a DUMP_MM_STORAGE64 (0x50 bytes) or DUMP_MM_STORAGE32 (0x34 bytes).
    `unloaded` lists unloaded drivers as (name, start, end); of a name 12 UTF-16 units are kept. Empty is
    a list of none, None is no list.
    `prcb`, `process` and `thread` are copies of the processor's KPRCB, of EPROCESS and ETHREAD. Their
    sizes stand nowhere but in `debugger_data` (SizePrcb, SizeEProcess, SizeEThread).
    `stack` is (lowest address, bytes), `debugger_data` a decoded KDDEBUGGER_DATA64.
    `drivers` lists loaded drivers as (name, base, size, checksum, timestamp), the last two from the PE
    header; the kernel comes first, by habit. `broken_driver` is the name of the one at fault.
    `data_blocks` are ranges of virtual memory, (address, bytes), stored in this order; `data_page` is
    one more of the same kind.
    `blobs` is the secondary data: (tag, bytes) in this order.
    `build_number` is the raw NtBuildNumber in front of the blobs; by default 0xF0000000 (0xC0000000 for a
    checked build) with the header's minor version.
    `mini_dump_fields` is the header's advisory mask of parts. By default it names the parts given here,
    whatever `header` says (kernels of Windows 10 and 11 store 0xCFF for what this would call 0xD7F).

    The parts stand in the file in the order of these arguments, one right behind the other when their
    sizes are multiples of a pointer's (otherwise zeros fill up); driver names follow the driver list, the
    blobs come last. This is what the kernels of Windows 10 and 11 write, the place of `data_page` (behind
    the data blocks) apart: no such file was at hand. `required_dump_space` is the file size.

    32-bit dumps follow the public descriptions of TRIAGE_DUMP32; there was no real file to check against,
    in particular for the driver entry (0x4C bytes, with CheckSum at 0x44 and TimeDateStamp at 0x48) and
    the data blocks (16 bytes as in 64-bit dumps, addresses not sign-extended).

    Everything is in memory at once: meant for fixtures. Raises ValueError or TypeError naming the part
    for what cannot be stored, before the target is touched, and OSError.
    """
    values = header or {}
    layout = layout_for(values)
    shapes = _SHAPES[layout.bits]
    bits = layout.bits
    context_bytes = _data("context", context)
    exception_bytes = _data("exception", exception)
    head = pack_header(layout, DumpKind.TRIAGE, values, context_bytes, exception_bytes, None, 0)
    options = unsigned("triage_options", triage_options, 32)
    stack_address, stack_bytes = _range("stack", stack, bits)
    page_address, page_bytes = _range("data_page", data_page, bits)
    debugger_bytes = _data("debugger_data", debugger_data)
    driver_list = [_driver(f"drivers[{k}]", driver, bits) for k, driver in enumerate(drivers)]
    blocks = [_range(f"data_blocks[{k}]", block, bits) for k, block in enumerate(data_blocks)]

    body = _Body(layout, shapes.triage.size)
    mm_at = body.place("mm", _data("mm", mm, shapes.mm))
    unloaded_at = body.place("unloaded", b"" if unloaded is None else _pack_unloaded(shapes, unloaded, bits))
    prcb_at = body.place("prcb", _data("prcb", prcb))
    process_at = body.place("process", _data("process", process))
    thread_at = body.place("thread", _data("thread", thread))
    stack_at = body.place("stack", stack_bytes)
    debugger_at = body.place("debugger_data", debugger_bytes)
    pool = _StringPool(body.next + shapes.driver.size * len(driver_list))
    entries = [shapes.driver.pack(pool.add(name), *numbers) for name, numbers in driver_list]
    drivers_at = body.place("drivers", b"".join(entries))
    broken_at = 0 if broken_driver is None else pool.add(_utf16("broken_driver", broken_driver))
    pool_at = body.place("string pool", bytes(pool.data))
    blocks_at = body.place("data_blocks", _pack_blocks(blocks, body.next))
    page_at = body.place("data_page", page_bytes)
    size = body.finish()

    shapes.triage.pack_into(
        body.data,
        0,
        0,  # ServicePackBuild
        size,
        size - 4,
        layout.context[0] if context_bytes else 0,
        layout.exception[0] if exception_bytes else 0,
        mm_at,
        unloaded_at,
        prcb_at,
        process_at,
        thread_at,
        stack_at,
        len(stack_bytes),
        drivers_at,
        len(driver_list),
        pool_at,
        len(pool.data),
        broken_at,
        options,
        stack_address,
        page_address,
        page_at,
        len(page_bytes),
        debugger_at,
        len(debugger_bytes),
        blocks_at,
        len(blocks),
    )
    if mini_dump_fields is None:
        parts = (
            *(context_bytes, exception_bytes, prcb_at, process_at, thread_at, stack_at),
            *(drivers_at, broken_at, mm_at, page_at, debugger_at, blocks_at),
        )
        mini_dump_fields = sum(1 << bit for bit, part in enumerate(parts) if part)
    secondary = _pack_blobs(blobs, _build_number(head) if build_number is None else build_number)
    store_number(layout, head, "mini_dump_fields", mini_dump_fields)
    store_number(layout, head, "required_dump_space", size + len(secondary))
    _store(target, b"".join((head, body.data, secondary)))


class _Body:
    """The triage part of a file from the TRIAGE_DUMP structure on, growing part by part."""

    def __init__(self, layout: HeaderLayout, size: int) -> None:
        self.data = bytearray(size)
        self._start = layout.size
        self._align = layout.bits // 8

    @property
    def next(self) -> int:
        """The file offset of the next part."""
        return self._start + len(self.data) + -len(self.data) % self._align

    def place(self, part: str, data: bytes) -> int:
        """Append a part and return its file offset, or 0 if there is none."""
        if not data:
            return 0
        offset = self.next
        _check_end(part, offset + len(data))
        self.data += bytes(offset - self._start - len(self.data))
        self.data += data
        return offset

    def finish(self) -> int:
        """Append the end mark, 8-byte aligned as in real files, and return SizeOfDump."""
        self.data += bytes(-len(self.data) % 8)
        return self.place("the end mark", b"TRGD") + 4


class _StringPool:
    """Driver names as DUMP_STRINGs from a file offset on."""

    def __init__(self, start: int) -> None:
        self.data = bytearray()
        self._start = start

    def add(self, utf16: bytes) -> int:
        """Append a string and return its file offset; the next one starts a multiple of 8 bytes behind it."""
        offset = self._start + len(self.data)
        string = struct.pack("<I", len(utf16) // 2) + utf16 + b"\0\0"
        self.data += string + bytes(-len(string) % 8)
        _check_end("string pool", self._start + len(self.data))
        return offset


def _check_end(part: str, offset: int) -> None:
    if offset > _MAX_SIZE:
        raise ValueError(f"{part} does not fit: the file offsets in a triage dump end at {_MAX_SIZE:#x}")


def _pack_unloaded(shapes: _Shapes, unloaded: Iterable[tuple[str, int, int]], bits: int) -> bytes:
    entries = []
    for k, entry in enumerate(unloaded):
        part = f"unloaded[{k}]"
        name, start, end = _members(part, entry, 3)
        raw = _utf16(f"{part} name", name)[:_UNLOADED_NAME]
        start = unsigned(f"{part} start", start, bits)
        end = unsigned(f"{part} end", end, bits)
        entries.append(shapes.unloaded.pack(len(raw), len(raw), raw, start, end))
    return shapes.count.pack(len(entries)) + b"".join(entries)


def _pack_blocks(blocks: list[tuple[int, bytes]], start: int) -> bytes:
    """Return the table of data blocks, which is to stand at file offset `start`, and their bytes."""
    table, offset = bytearray(), start + _BLOCK.size * len(blocks)
    for k, (address, data) in enumerate(blocks):
        _check_end(f"data_blocks[{k}]", offset + len(data))
        table += _BLOCK.pack(address, offset, len(data))
        offset += len(data)
    return b"".join((table, *(data for _, data in blocks)))


def _pack_blobs(blobs: Iterable[tuple[uuid.UUID, _Bytes]], build_number: int) -> bytes:
    build_number = unsigned("build_number", build_number, 32)
    out = bytearray(_BLOB_FILE.pack(b"Dump", b"Blob", _BLOB_FILE.size, build_number))
    for k, blob in enumerate(blobs):
        part = f"blobs[{k}]"
        tag, raw = _members(part, blob, 2)
        if not isinstance(tag, uuid.UUID):
            raise TypeError(f"{part} tag must be a uuid.UUID, not {type(tag).__name__}")
        data = _data(part, raw)
        pad = -len(data) % 8
        out += _BLOB.pack(_BLOB.size, tag.bytes_le, unsigned(f"{part} size", len(data), 32), 0, pad)
        out += data + bytes(pad)
    return bytes(out) if len(out) > _BLOB_FILE.size else b""


def _build_number(head: bytearray) -> int:
    """Return the raw NtBuildNumber that goes with a header: 0xF (free) or 0xC (checked), then the build."""
    major, minor = head[8:12], head[12:16]
    build = 0 if minor == FILLER else int.from_bytes(minor, "little") & 0xFFFFFFF
    return (major[0] & 0xF) << 28 | build


def _driver(part: str, driver: tuple[str, int, int, int, int], bits: int) -> tuple[bytes, tuple[int, ...]]:
    """Return a driver's name in UTF-16 and its numbers, checked."""
    name, *numbers = _members(part, driver, 5)
    names = ("base", bits), ("size", 32), ("checksum", 32), ("timestamp", 32)
    checked = (
        unsigned(f"{part} {field}", number, width)
        for (field, width), number in zip(names, numbers, strict=True)
    )
    return _utf16(f"{part} name", name), tuple(checked)


def _range(part: str, given: tuple[int, _Bytes] | None, bits: int) -> tuple[int, bytes]:
    """Return address and bytes of a range of virtual memory, checked."""
    if given is None:
        return 0, b""
    address, raw = _members(part, given, 2)
    address, data = unsigned(f"{part} address", address, bits), _data(part, raw)
    if address + len(data) > 1 << bits:
        raise ValueError(
            f"{part} ends above the {bits}-bit address space: {len(data):#x} bytes at {address:#x}"
        )
    return address, data


def _data(part: str, data: _Bytes | None, size: int | None = None) -> bytes:
    """Return a part's bytes, of the given size unless there are none."""
    if data is None:
        return b""
    try:
        raw = _flat(data).tobytes()
    except TypeError:
        raise TypeError(f"{part} must be bytes, not {type(data).__name__}") from None
    if raw and size is not None and len(raw) != size:
        raise ValueError(f"{part} has {len(raw):#x} bytes instead of {size:#x}")
    return raw


def _members(part: str, item: Iterable[Any], count: int) -> tuple[Any, ...]:
    members = tuple(item)
    if len(members) != count:
        raise ValueError(f"{part} has {len(members)} members instead of {count}")
    return members


def _utf16(part: str, text: Any) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"{part} must be a string, not {type(text).__name__}")
    if "\0" in text:
        raise ValueError(f"{part} must not contain NUL")
    return text.encode("utf-16-le", "surrogatepass")  # the kernel's names are any 16-bit units


def _store(target: _Source | _File, data: bytes) -> None:
    if isinstance(target, (str, os.PathLike)):
        with open(target, "wb") as file:
            file.write(data)
        return
    target.truncate(target.tell())
    _write_all(target, data)
    target.flush()
