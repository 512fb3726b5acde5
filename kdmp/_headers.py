"""The bytes in front of the pages: dump headers, bitmaps and range tables, packed for writing.

Everything here is pure packing; `kdmp.writer` and `kdmp.triage_writer` decide where the bytes go.
What differs between the two header sizes is in two tables; the code knows one header. Offsets are
those of DUMP_HEADER64 and DUMP_HEADER32 as the Windows SDK and public readers describe them.

SPDX-License-Identifier: MIT
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

PAGE_SIZE = 0x1000

# Other readers refuse bitmaps of more bits (8 TiB of physical addresses); ranges have no such limit.
MAX_BITMAP_BITS = 0x7FFFFFFF

# Nobody stored a value: Windows fills the header with this before it starts.
FILLER = b"PAGE"


@dataclass(frozen=True)
class HeaderLayout:
    """Where everything is in a header: one object per header size."""

    bits: int  # of a pointer
    size: int
    signature: bytes
    fields: Mapping[str, tuple[int, int]]  # name: (offset, bytes)
    texts: Mapping[str, tuple[int, int]]  # name: (offset, bytes)
    runs: int  # offset of the run table
    run: struct.Struct  # first frame and count
    max_runs: int
    frames_end: int  # frames of this number and above cannot be stored
    context: tuple[int, int]  # offset, bytes
    exception: tuple[int, int]  # offset, bytes: an EXCEPTION_RECORD of the pointer size
    exception_fixed: int  # bytes of the record in front of ExceptionInformation


LAYOUT64 = HeaderLayout(
    bits=64,
    size=0x2000,
    signature=b"PAGEDU64",
    fields={
        "major_version": (0x08, 4),
        "minor_version": (0x0C, 4),
        "directory_table_base": (0x10, 8),
        "pfn_database": (0x18, 8),
        "ps_loaded_module_list": (0x20, 8),
        "ps_active_process_head": (0x28, 8),
        "machine_image_type": (0x30, 4),
        "number_processors": (0x34, 4),
        "bug_check_code": (0x38, 4),
        "bug_check_parameter1": (0x40, 8),
        "bug_check_parameter2": (0x48, 8),
        "bug_check_parameter3": (0x50, 8),
        "bug_check_parameter4": (0x58, 8),
        "kd_debugger_data_block": (0x80, 8),
        "number_of_runs": (0x88, 4),
        "number_of_pages": (0x90, 8),
        "dump_type": (0xF98, 4),
        "required_dump_space": (0xFA0, 8),
        "system_time": (0xFA8, 8),
        "system_up_time": (0x1030, 8),
        "mini_dump_fields": (0x1038, 4),
        "secondary_data_state": (0x103C, 4),
        "product_type": (0x1040, 4),
        "suite_mask": (0x1044, 4),
        "writer_status": (0x1048, 4),
        "kd_secondary_version": (0x104D, 1),
        "attributes": (0x1050, 4),
        "boot_id": (0x1054, 4),
    },
    texts={"version_user": (0x60, 32), "comment": (0xFB0, 128)},
    runs=0x98,
    run=struct.Struct("<QQ"),
    # The 700-byte buffer from 0x88 on and the padding behind it.
    max_runs=43,
    frames_end=1 << 40,
    context=(0x348, 3000),
    exception=(0xF00, 0x98),
    exception_fixed=0x20,
)

LAYOUT32 = HeaderLayout(
    bits=32,
    size=0x1000,
    signature=b"PAGEDUMP",
    fields={
        "major_version": (0x08, 4),
        "minor_version": (0x0C, 4),
        "directory_table_base": (0x10, 4),
        "pfn_database": (0x14, 4),
        "ps_loaded_module_list": (0x18, 4),
        "ps_active_process_head": (0x1C, 4),
        "machine_image_type": (0x20, 4),
        "number_processors": (0x24, 4),
        "bug_check_code": (0x28, 4),
        "bug_check_parameter1": (0x2C, 4),
        "bug_check_parameter2": (0x30, 4),
        "bug_check_parameter3": (0x34, 4),
        "bug_check_parameter4": (0x38, 4),
        "pae_enabled": (0x5C, 1),
        "kd_secondary_version": (0x5D, 1),
        "kd_debugger_data_block": (0x60, 4),
        "number_of_runs": (0x64, 4),
        "number_of_pages": (0x68, 4),
        "attributes": (0x8A0, 4),
        "boot_id": (0x8A4, 4),
        "dump_type": (0xF88, 4),
        "mini_dump_fields": (0xF8C, 4),
        "secondary_data_state": (0xF90, 4),
        "product_type": (0xF94, 4),
        "suite_mask": (0xF98, 4),
        "writer_status": (0xF9C, 4),
        "required_dump_space": (0xFA0, 8),
        "system_up_time": (0xFB8, 8),
        "system_time": (0xFC0, 8),
    },
    texts={"version_user": (0x3C, 32), "comment": (0x820, 128)},
    runs=0x6C,
    run=struct.Struct("<II"),
    # (700 - 8) / 8: the buffer from 0x64 on.
    max_runs=86,
    # A run's first frame and its count, and the sum of all counts, have 32 bits.
    frames_end=(1 << 32) - 1,
    context=(0x320, 1200),
    exception=(0x7D0, 0x50),
    exception_fixed=0x14,
)

# PE machine types whose dumps have the small header: x86 and ARM (Thumb-2).
_MACHINES32 = (0x14C, 0x1C4)

_DEFAULTS = {"major_version": 0xF, "machine_image_type": 0x8664}

# What follows from the kind, the runs and the layout; a source header has no say in it.
_DETERMINED = frozenset({"dump_type", "required_dump_space", "number_of_runs", "number_of_pages"})

_KNOWN = frozenset().union(*(t for x in (LAYOUT64, LAYOUT32) for t in (x.fields, x.texts)))


def layout_for(values: Mapping[str, Any]) -> HeaderLayout:
    """Return the header layout that goes with `machine_image_type` among the header's values."""
    return LAYOUT32 if values.get("machine_image_type") in _MACHINES32 else LAYOUT64


def pack_header(
    layout: HeaderLayout,
    kind: int,
    values: Mapping[str, Any],
    context: bytes | None,
    exception: bytes | None,
    runs: Sequence[tuple[int, int]] | None,
    required_space: int,
) -> bytearray:
    """Return the header's bytes.

    `runs` is the run table of type 1, None elsewhere (the descriptor then stays filler).
    `required_space` is in bytes. Raises ValueError or TypeError naming the field for what cannot be stored.
    """
    out = bytearray(FILLER * (layout.size // len(FILLER)))
    out[0:8] = layout.signature
    for name in values:
        if name not in _KNOWN:
            raise ValueError(f"unknown header field {name!r}")
    for name, value in (_DEFAULTS | {k: v for k, v in values.items() if v is not None}).items():
        if name in layout.texts:
            _store_text(layout, out, name, value)
        elif name not in layout.fields:
            raise ValueError(f"header field {name} does not exist in {layout.bits}-bit headers")
        elif name not in _DETERMINED:
            store_number(layout, out, name, value)
    store_number(layout, out, "dump_type", kind)
    store_number(layout, out, "required_dump_space", required_space)
    if runs is not None:
        store_number(layout, out, "number_of_runs", len(runs))
        store_number(layout, out, "number_of_pages", sum(count for _, count in runs))
        for k, run in enumerate(runs):
            layout.run.pack_into(out, layout.runs + layout.run.size * k, *run)
    _store_context(layout, out, context)
    _store_exception(layout, out, exception)
    return out


def store_number(layout: HeaderLayout, out: bytearray, name: str, value: Any) -> None:
    """Store a numeric header field by its name; ValueError or TypeError if the value does not fit."""
    offset, size = layout.fields[name]
    number = unsigned(f"header field {name}", value, 8 * size)
    out[offset : offset + size] = number.to_bytes(size, "little")


def unsigned(what: str, value: Any, bits: int) -> int:
    """Return `value` as an int of `bits` bits without sign; ValueError or TypeError names `what`."""
    try:
        number = index(value)
    except TypeError:
        raise TypeError(f"{what} must be an integer, not {type(value).__name__}") from None
    if not 0 <= number < 1 << bits:
        raise ValueError(f"{what} holds {bits} bits without sign, {number:#x} does not fit")
    return number


def _store_text(layout: HeaderLayout, out: bytearray, name: str, value: Any) -> None:
    offset, size = layout.texts[name]
    if not isinstance(value, str):
        raise TypeError(f"header field {name} must be a string, not {type(value).__name__}")
    if "\0" in value:
        raise ValueError(f"header field {name} must not contain NUL")
    try:
        raw = value.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"header field {name} holds one byte per character (Latin-1): {value!r}") from None
    if len(raw) > size:
        raise ValueError(f"header field {name} holds {size} bytes, the text has {len(raw)}")
    raw = (raw + b"\0")[:size]  # the rest stays filler, as after a strcpy
    out[offset : offset + len(raw)] = raw


def _store_context(layout: HeaderLayout, out: bytearray, context: bytes | None) -> None:
    if not context:
        return
    offset, size = layout.context
    if len(context) > size:
        raise ValueError(f"context has {len(context)} bytes, the {layout.bits}-bit header holds {size}")
    out[offset : offset + size] = context.ljust(size, b"\0")


def _store_exception(layout: HeaderLayout, out: bytearray, exception: bytes | None) -> None:
    if not exception:
        return
    offset, size = layout.exception
    if not layout.exception_fixed <= len(exception) <= size:
        raise ValueError(
            f"exception has {len(exception)} bytes, an EXCEPTION_RECORD{layout.bits} has "
            f"{layout.exception_fixed:#x} to {size:#x}"
        )
    out[offset : offset + len(exception)] = exception


def bitmap_bits(end: int) -> int:
    """Return the number of bits of a bitmap for frames below `end`.

    Rounded up to 64: several readers drop the pages of a last, incomplete word. ValueError if
    there are more than any reader accepts.
    """
    bits = (end + 63) // 64 * 64
    if bits > MAX_BITMAP_BITS:
        raise ValueError(
            f"frame {end - 1:#x} is too high for a bitmap ({MAX_BITMAP_BITS:#x} bits at most); "
            "use kind 1 or 0xA (ranges, 64-bit dumps only)"
        )
    return bits


def bitmap_first_page(header_size: int, bits: int) -> int:
    """Return the file offset of the first page of a bitmap dump: the next page boundary."""
    end = header_size + 0x38 + bits // 8
    return (end + PAGE_SIZE - 1) // PAGE_SIZE * PAGE_SIZE


def pack_bitmap_header(signature: bytes, first_page: int, pages: int, bits: int) -> bytes:
    """Return the 0x38 bytes between header and bitmap (layout of Windows 8 and later)."""
    return struct.pack("<4s4s24xQQQ", signature, b"DUMP", first_page, pages, bits)


def iter_bitmap(runs: Sequence[tuple[int, int]], bits: int, chunk: int = 1 << 20) -> Iterator[bytes]:
    """Yield the bitmap in pieces of `chunk` bytes; bit i, least significant first, is frame i.

    `runs` must be sorted and disjoint. Takes time in proportion to runs and bytes, not to bits.
    """
    k = 0
    for start in range(0, bits // 8, chunk):
        piece = bytearray(min(chunk, bits // 8 - start))
        low, high = 8 * start, 8 * (start + len(piece))
        while k < len(runs) and runs[k][0] < high:
            pfn, count = runs[k]
            _set_bits(piece, max(pfn, low) - low, min(pfn + count, high) - low)
            if pfn + count > high:
                break  # the rest of this run is in the next piece
            k += 1
        yield bytes(piece)


def _set_bits(piece: bytearray, start: int, stop: int) -> None:
    first, last = start >> 3, stop >> 3
    head, tail = 0xFF << (start & 7) & 0xFF, (1 << (stop & 7)) - 1
    if first == last:
        piece[first] |= head & tail
        return
    piece[first] |= head
    piece[first + 1 : last] = b"\xff" * (last - first - 1)
    if tail:
        piece[last] |= tail


def ranges_metadata_size(n_runs: int) -> int:
    """Return MetadataSize of an RDMP header: the 16 bytes at 0x2020, the table, a zero entry.

    The zero entry costs nothing (readers stop at frame 0) and saves those that take one entry
    too many from reading page data as a range.
    """
    return 0x10 + 0x10 * (n_runs + 1)


def pack_ranges(runs: Sequence[tuple[int, int]], complete: bool) -> bytes:
    """Return the RDMP header at 0x2000 with its table; the first page follows immediately.

    `complete` is type 0xA, which counts ranges and pages; in types 8 and 9 those 16 bytes are
    not understood and stay zero.
    """
    metadata = ranges_metadata_size(len(runs))
    head = struct.pack("<I4s4sIQQ", 0x40, b"RDMP", b"DUMP", 0, metadata, metadata + 0x2020)
    if complete:
        head += struct.pack("<IHHQ", len(runs), 0, 0, sum(count for _, count in runs))
    else:
        head += bytes(16)
    table = bytearray(16 * (len(runs) + 1))
    for k, run in enumerate(runs):
        struct.pack_into("<QQ", table, 16 * k, *run)
    return head + bytes(table)
