"""Checks of triage dumps: the mark at the end, parts and blocks within the file, names, the KDBG copy.

SPDX-License-Identifier: MIT
"""

import struct
from collections.abc import Iterator

from kdmp.doctor.exam import Exam, check
from kdmp.doctor.report import Finding, error, info, warning
from kdmp.triage import Triage

# As many blocks as the core takes.
_MAX_BLOCKS = 1 << 18


def _at(exam: Exam, offset64: int, offset32: int) -> int:
    """File offset of a field of the triage header."""
    return exam.layout.size + (offset64 if exam.dump.pointer_size == 8 else offset32)


@check
def mark(exam: Exam) -> Iterator[Finding]:
    """The end of the triage part, and its mark TRGD."""
    triage = exam.dump.triage
    if triage is None:
        return
    size, end, place = exam.dump.file_size, triage.header["size_of_dump"], triage.header["valid_offset"]
    if end > size:
        yield error(
            "truncated", f"The file ends {end - size} bytes before the end of its triage part", offset=size,
            expected=end, found=size, advice="get the file again; ranges before that point work",
        )  # fmt: skip
    elif not triage.valid:
        yield warning(
            "triage-mark", "The mark TRGD is not where the triage header says", offset=place,
            expected=b"TRGD", found=exam.file(place, 4),
            advice="the writer was interrupted, or the header is damaged: parts may be wrong",
        )  # fmt: skip
    if triage.overflowed:
        yield warning(
            "triage-overflow", "Windows notes that not everything fitted into the dump (TriageOptions 0x100)",
            offset=_at(exam, 0x44, 0x44), found=triage.header["triage_options"], advice="parts were left out",
        )  # fmt: skip


def _parts(exam: Exam, triage: Triage) -> Iterator[tuple[str, int, int, int]]:
    """Yield (what, file offset, size, offset of the field) of each part that should exist."""
    h, wide = triage.header, exam.dump.pointer_size == 8

    def copy_size(offset: int) -> int:
        return exam.kdbg_number(offset, 2) or 1

    yield "context", h["context_offset"], 1, 0xC
    yield "exception record", h["exception_offset"], exam.layout.exception[1], 0x10
    yield "memory figures", h["mm_offset"], 0x50 if wide else 0x34, 0x14
    count_size, entry = (8, 0x38) if wide else (4, 0x28)
    start = h["unloaded_drivers_offset"]
    unloaded = int.from_bytes(exam.file(start, count_size), "little") if start else 0
    yield "list of unloaded drivers", start, count_size + entry * min(unloaded, 50), 0x18
    yield "processor copy (KPRCB)", h["prcb_offset"], copy_size(0x2B0), 0x1C
    yield "process copy (EPROCESS)", h["process_offset"], copy_size(0x2A8), 0x20
    yield "thread copy (ETHREAD)", h["thread_offset"], copy_size(0x2C0), 0x24
    yield "call stack", h["call_stack_offset"], h["size_of_call_stack"], 0x28
    yield "driver list", h["driver_list_offset"], triage.driver_stride * h["driver_count"], 0x30
    yield "string pool", h["string_pool_offset"], h["string_pool_size"], 0x38
    yield "name of the broken driver", h["broken_driver_offset"], 4, 0x40
    yield "data page", h["data_page_offset"], h["data_page_size"], 0x68 if wide else 0x50
    yield "debugger data", h["debugger_data_offset"], h["debugger_data_size"], 0x70 if wide else 0x58
    yield "table of data blocks", h["data_blocks_offset"], 12 * h["data_blocks_count"], 0x78 if wide else 0x60


@check
def parts(exam: Exam) -> Iterator[Finding]:
    """Parts that are not in the file, or lie inside the headers."""
    triage = exam.dump.triage
    if triage is None:
        return
    size = exam.dump.file_size
    for what, offset, length, field in _parts(exam, triage):
        if offset == 0 or length == 0:
            continue
        where = exam.layout.size + field
        if offset + length > size:
            text = (
                f"The {what} ({length:#x} bytes at {offset:#x}) is not in the file, which ends at {size:#x}"
            )
            yield error(
                "triage-part", text, offset=where, expected=f"an end up to {size:#x}", found=offset + length
            )
        elif offset < exam.layout.size and field not in (0xC, 0x10):
            text = f"The {what} is said to be at {offset:#x}, inside the dump header"
            yield error("triage-part", text, offset=where, found=offset)


@check
def blocks(exam: Exam) -> Iterator[Finding]:
    """Data blocks that reach beyond the file."""
    triage = exam.dump.triage
    if triage is None or not triage.header["data_blocks_offset"]:
        return
    start, size = triage.header["data_blocks_offset"], exam.dump.file_size
    count = min(triage.header["data_blocks_count"], _MAX_BLOCKS)

    def beyond(stride: int, layout: str) -> tuple[int, int]:
        table = exam.file(start, stride * count)
        entries = struct.iter_unpack(layout, table[: len(table) // stride * stride])
        bad = [k for k, (_, offset, length) in enumerate(entries) if offset + length > size]
        return len(bad), bad[0] if bad else 0

    lost, first = beyond(16, "<QII")
    stride = 16
    if lost and exam.dump.pointer_size == 4:
        other = beyond(12, "<III")
        if other[0] < lost:
            (lost, first), stride = other, 12
    if lost:
        yield error(
            "triage-blocks", f"{lost} of {count} data blocks reach beyond the end of the file",
            offset=start + stride * first, expected=0, found=lost,
            advice="their bytes are lost; the other ranges work",
        )  # fmt: skip


@check
def drivers(exam: Exam) -> Iterator[Finding]:
    """Driver entries that are missing or have no name."""
    triage = exam.dump.triage
    if triage is None:
        return
    count, found = triage.header["driver_count"], triage.drivers
    where = triage.header["driver_list_offset"] or None
    nameless = sum(1 for driver in found if not driver.name)
    if nameless:
        text = f"{nameless} of {len(found)} drivers have no name that can be read"
        advice = "base, size and time stamp of each are there"
        yield warning("driver-names", text, offset=where, expected=0, found=nameless, advice=advice)
    if len(found) < count:
        text = f"{len(found)} of {count} drivers can be read"
        yield warning("driver-list", text, offset=where, expected=count, found=len(found))
    elif not count:
        yield info("driver-list", "The dump lists no drivers", offset=_at(exam, 0x34, 0x34), found=0)


@check
def debugger_copy(exam: Exam) -> Iterator[Finding]:
    """The copy of the debugger data block, which a triage dump should have, decoded."""
    triage = exam.dump.triage
    if triage is None:
        return
    where, offset = _at(exam, 0x70, 0x58), triage.header["debugger_data_offset"]
    size = triage.header["debugger_data_size"]
    if not offset or not size:
        yield warning(
            "kdbg-absent", "The dump has no copy of the debugger data block (KDBG)",
            offset=where, found=offset,
            advice="the sizes of the processor, process and thread copies are then not known",
        )  # fmt: skip
    elif exam.kdbg and not exam.kdbg_plain:
        yield warning(
            "kdbg-invalid", "The copy of the debugger data block (KDBG) does not carry its tag",
            offset=offset + 0x10, expected=b"KDBG", found=exam.kdbg[0x10:0x14],
            advice="Windows decodes this copy: the part is damaged",
        )  # fmt: skip
