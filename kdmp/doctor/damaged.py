"""Files that do not open: what they are, which field is wrong, and what can be had in spite of it.

Nothing here uses what the core decoded; the core's own words come last, when nothing else was found.

SPDX-License-Identifier: MIT
"""

import io
import os
import struct
from collections.abc import Iterator
from typing import Any

from kdmp._kdmp import FormatError, KdmpError, UnsupportedDumpError, WrongFileError
from kdmp.doctor.rawheader import (
    LAYOUTS,
    PAGE,
    RawHeader,
    bitmap_runs,
    placed,
    triage_fits,
    without_overlaps,
)
from kdmp.doctor.report import Finding, Report, error, info, warning, worst_first
from kdmp.dump import Dump
from kdmp.packed import SIGNATURE_SIZE, container_of, unpack

__all__ = ["diagnose"]

_MAX_BITS = 1 << 36
# Larger bitmaps (of more than 32 GiB) are not taken apart for a proposal.
_MAX_BITMAP = 1 << 20
_MAX_RANGES = 1 << 16
_MAX_BLOCKS = 1 << 18
# A proposal is checked for overlaps only if it has few runs.
_MAX_PROPOSED = 512

_BITMAP_SIGNATURES = (b"SDMPDUMP", b"FDMPDUMP")
_TYPES = {
    1: "runs",
    2: "bitmap",
    4: "triage",
    5: "bitmap",
    6: "bitmap",
    7: "bitmap",
    8: "ranges",
    9: "ranges",
    10: "ranges",
}

_ADVICE = (
    (b"MDMP", "a debugger for user mode opens it (WinDbg, cdb), or a minidump library"),
    (b"HIBR", "convert the hibernation file to a raw image or a dump first"),
    (b"hibr", "convert the hibernation file to a raw image or a dump first"),
    (b"WAKE", "a resumed hibernation file has lost most of its pages"),
    (b"wake", "a resumed hibernation file has lost most of its pages"),
    (b"\x7fELF", "open the core of a virtual machine with kdmp.open_raw"),
    (b"7z\xbc\xaf", "unpack it first"),
    (b"Rar!", "unpack it first"),
)


class Content:
    """The bytes of whatever was to be opened."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self._file: Any = None
        self._owned = isinstance(source, str | os.PathLike)
        if isinstance(source, str | os.PathLike):
            self._file = open(source, "rb")  # noqa: SIM115 - closed by close()
        elif hasattr(source, "read") and hasattr(source, "seek"):
            self._file = source
        else:
            self._file = io.BytesIO(memoryview(source).cast("B"))
        self.size: int = self._file.seek(0, 2)
        if self.size is None:  # some file objects return nothing from seek
            self.size = self._file.tell()

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes, fewer at the end."""
        if size <= 0 or not 0 <= offset < self.size:
            return b""
        self._file.seek(offset)
        return bytes(self._file.read(min(size, self.size - offset)))

    def close(self) -> None:
        """Close the file if it was opened here."""
        if self._owned:
            self._file.close()


class _Patient:
    """One file and what was found out about it."""

    def __init__(self, content: Content) -> None:
        self.content = content
        self.findings: list[Finding] = []
        self.works: list[str] = []
        self.runs: list[tuple[int, int, int]] = []
        self.arch: str | None = None


def diagnose(source: Any, failure: KdmpError) -> Report:
    """Examine a file that `kdmp.open` refused with `failure`. Raises OSError if it cannot be read."""
    content = Content(source)
    try:
        kind = container_of(content.read(0, SIGNATURE_SIZE))
        if kind is not None:
            return _diagnose_packed(source, kind, failure)
        patient = _Patient(content)
        _examine(patient, failure)
    finally:
        content.close()
    return Report(False, worst_first(patient.findings), patient.works, str(failure), patient.runs)


def _diagnose_packed(source: Any, kind: str, failure: KdmpError) -> Report:
    """Look at what is in a container."""
    try:
        unpacked = unpack(source)
    except KdmpError as exc:
        return Report(False, [_packed_finding(kind, exc)], [], str(failure))
    if unpacked is None:
        return Report(False, [_last_words(failure)], [], str(failure))
    with unpacked:
        inner = diagnose(unpacked.source, failure)
        findings = list(inner.findings)
        if unpacked.problem:
            text = f"The {kind} file was unpacked only in part: {unpacked.problem}"
            findings.append(error("packed-damage", text, advice="get the packed file again"))
        # Where pages are is true of the unpacked file only.
        return Report(False, worst_first(findings), inner.works, str(failure))


def _packed_finding(kind: str, exc: KdmpError) -> Finding:
    offset = exc.offset if isinstance(exc, FormatError) else None
    text = f"This is a {kind} file: {exc}"
    if isinstance(exc, WrongFileError):
        return error("wrong-file", text, offset=offset, advice="there is no kernel dump in it")
    if isinstance(exc, UnsupportedDumpError):
        return error("packed-unsupported", text, advice="unpack it with another tool first")
    if isinstance(exc, FormatError):
        return error("packed-damage", text, offset=offset, advice="get the packed file again")
    return error("packed-members", text, advice="unpack the one that is wanted with kdmp.packed.unpack")


def _last_words(failure: KdmpError) -> Finding:
    """What the core says, when nothing more is known."""
    return error("format", str(failure), offset=getattr(failure, "offset", None))


def _examine(patient: _Patient, failure: KdmpError) -> None:
    head = patient.content.read(0, 0x2000)
    layout = LAYOUTS.get(head[:8])
    if layout is None and head[:4] == b"PAGE" and len(head) >= 8:
        layout = _guess_layout(patient, head)
    if layout is None:
        patient.findings.append(_wrong_file(patient.content, head, failure))
        return
    raw = RawHeader(head, layout)
    patient.arch = raw.arch
    if len(raw.data) < layout.size:
        _cut_header(patient, raw)
        return
    patient.works.append(_facts(raw))
    if raw.number("machine_image_type") is None:
        where = raw.offset("machine_image_type")
        text = "The machine type was never written"
        patient.findings.append(error("filler", text, offset=where, found="PAGE"))
    second = patient.content.read(layout.size, 0x80)
    kind = raw.number("dump_type")
    mark = patient.content.read(int.from_bytes(second[8:12], "little"), 4)
    if second[:8] in _BITMAP_SIGNATURES:
        old = kind == 2 and not _is_new_bitmap(second, layout.size)
        patient.findings += _summary(patient, raw, second) if old else _bitmap(patient, raw, second)
    elif second[4:12] == b"RDMPDUMP" and second[:4] == b"\x40\0\0\0":
        patient.findings += _ranges(patient, raw, second)
    else:
        patient.findings += _by_type(patient, raw, second, mark)
    if not any(finding.code != "filler" for finding in patient.findings):
        patient.findings.append(_last_words(failure))
    _propose(patient)


def _wrong_file(content: Content, head: bytes, failure: KdmpError) -> Finding:
    """Say what it is instead, or that only the start is lost."""
    advice = next((text for start, text in _ADVICE if head.startswith(start)), "")
    for at in (0x2000, 0x1000):
        second = content.read(at, 12)
        if second[:8] in _BITMAP_SIGNATURES or second[4:12] == b"RDMPDUMP":
            text = f"The dump header is lost, but what should follow it is at {at:#x}"
            return error(
                "header-lost", text, offset=0, expected=b"PAGEDU64" if at == 0x2000 else b"PAGEDUMP",
                found=head[:8], advice="restore the first bytes from another copy of the file",
            )  # fmt: skip
    if head[:4] == b"PAGE":
        advice = "a page file, or the dump was never completed: Windows had no chance to finish it"
    elif head and not any(head):
        advice = "the file was allocated and never filled, or its start is lost"
    text = str(failure)
    return error("wrong-file", text[:1].upper() + text[1:], offset=0, found=head[:8], advice=advice)


def _guess_layout(patient: _Patient, head: bytes) -> Any:
    """PAGE without a second half: the layout whose machine type makes sense."""
    for mark, layout in LAYOUTS.items():
        raw = RawHeader(head, layout)
        wide = raw.number("machine_image_type") in (0x8664, 0xAA64)
        narrow = raw.number("machine_image_type") == 0x14C
        if (wide if mark == b"PAGEDU64" else narrow) and raw.number("major_version") in (0xF, 0xC):
            text = f"PAGE is followed by {head[4:8]!r}, but the rest is a {layout.bits}-bit dump header"
            patient.findings.append(
                error(
                    "signature",
                    text,
                    offset=4,
                    expected=mark[4:],
                    found=head[4:8],
                    advice=f"if only this is damaged, write {mark[4:].decode()} at offset 4 of a copy",
                )
            )
            return layout
    return None


def _facts(raw: RawHeader) -> str:
    """Say what the header tells, for the list of what works."""
    words = []
    if (build := raw.number("minor_version")) is not None:
        words.append(f"build {build}")
    if raw.arch:
        words.append(raw.arch)
    if (code := raw.number("bug_check_code")) is not None:
        words.append(f"bug check {code:#x}")
    return "header facts" + (f" ({', '.join(words)})" if words else "")


def _cut_header(patient: _Patient, raw: RawHeader) -> None:
    size, full = len(raw.data), raw.layout.size
    patient.findings.append(
        error(
            "header-cut",
            f"The file ends inside the dump header, after {size:#x} of {full:#x} bytes",
            offset=size,
            expected=full,
            found=size,
            advice="get the file again; nothing but header fields is left",
        )
    )
    there = [name for name in raw.layout.fields if raw.number(name) is not None]
    if there:
        patient.works.append(f"{_facts(raw)}: {len(there)} fields are before the end")


def _by_type(patient: _Patient, raw: RawHeader, second: bytes, mark: bytes) -> Iterator[Finding]:
    """No signature of a page layout follows the header."""
    kind = raw.number("dump_type")
    where = raw.offset("dump_type")
    runs = raw.runs()
    base, size = raw.layout.size, patient.content.size
    fits = runs.sane and base + runs.pages * PAGE == size
    shape = _TYPES.get(kind) if kind is not None else None
    if shape == "runs":
        if runs.problem:
            advice = (
                "the runs before it may be right"
                if runs.table
                else "other parts of the file may tell the layout"
            )
            yield error(
                "run-list", runs.problem, offset=runs.offset, expected=runs.expected, found=runs.found,
                advice=advice,
            )  # fmt: skip
        if runs.table:
            patient.runs = placed(runs.table, base)
    elif shape in ("bitmap", "ranges"):
        expected = "SDMPDUMP or FDMPDUMP" if shape == "bitmap" else "40 00 00 00 RDMPDUMP"
        found = second[:8] if shape == "bitmap" else second[:12]
        advice = "the page layout is lost" if len(second) >= 12 else "the file ends with its header"
        yield error(
            "signature", f"A dump of type {kind} needs {expected} behind its header", offset=base,
            expected=expected, found=found, advice=advice,
        )  # fmt: skip
        yield from _damaged_signature(patient, raw, second)
    elif shape == "triage":
        yield from _triage(patient, raw, second)
    else:
        text = "The dump type was never written" if kind is None else f"The dump type {kind:#x} is not known"
        yield error("dump-type", text, offset=where, expected="1 to 10", found=kind)
    if shape != "triage" and triage_fits(second, mark):
        text = "A triage header with its mark TRGD follows the dump header"
        yield error("dump-type", text, offset=where, expected=4, found=kind, advice="change the field to 4")
    elif shape != "runs" and fits:
        text = "The runs in the header fit the size of the file exactly: this is a full dump"
        yield error("dump-type", text, offset=where, expected=1, found=kind, advice="change the field to 1")
        patient.runs = placed(runs.table, base)


def _damaged_signature(patient: _Patient, raw: RawHeader, second: bytes) -> Iterator[Finding]:
    """Half of a signature, with the rest of the layout behind it."""
    if len(second) < 0x38:
        return
    if second[4:8] == b"DUMP" or second[:4] in (b"SDMP", b"FDMP"):
        found = list(_bitmap(patient, raw, second))
        if not found:
            text = "Behind the damaged signature the bitmap header is in order"
            yield info(
                "signature", text, offset=raw.layout.size, advice="write FDMPDUMP there in a copy of the file"
            )
    elif b"RDMP" in (second[4:8],) or second[8:12] == b"DUMP":
        found = list(_ranges(patient, raw, second))
        if not found:
            text = "Behind the damaged signature the range table is in order"
            yield info(
                "signature", text, offset=raw.layout.size, advice="write 40 00 00 00 RDMPDUMP there in a copy"
            )


def _is_new_bitmap(second: bytes, base: int) -> bool:
    return (
        len(second) >= 0x28
        and not any(second[0xC:0x20])
        and int.from_bytes(second[0x20:0x28], "little") >= base + 0x38
    )


def _summary(patient: _Patient, raw: RawHeader, second: bytes) -> Iterator[Finding]:
    base = raw.layout.size
    if len(second) < 0x28:
        yield _header_ends(patient, base + 0x28, "bitmap header")
        return
    first_page, bits, pages = struct.unpack_from("<III", second, 0xC)
    table = base + (0x28 if raw.layout.bits == 64 else 0x20)
    yield from _bits(patient, table, bits, pages, first_page, (base + 0x10, base + 0xC))


def _bitmap(patient: _Patient, raw: RawHeader, second: bytes) -> Iterator[Finding]:
    base = raw.layout.size
    if len(second) < 0x38:
        yield _header_ends(patient, base + 0x38, "bitmap header")
        return
    first_page, *numbers = struct.unpack_from("<QQQ", second, 0x20)
    pages, bits = sorted(numbers)
    bits_at = base + (0x30 if numbers[1] == bits else 0x28)
    yield from _bits(patient, base + 0x38, bits, pages, first_page, (bits_at, base + 0x20))


def _header_ends(patient: _Patient, expected: int, what: str) -> Finding:
    size = patient.content.size
    text = f"The file ends inside the {what}"
    return error("header-cut", text, offset=size, expected=expected, found=size, advice="get the file again")


def _bits(
    patient: _Patient, table: int, bits: int, pages: int, first_page: int, where: tuple[int, int]
) -> Iterator[Finding]:
    """A bitmap of `bits` bits at `table`; `where` has the offsets of that number and of the first page's."""
    size = patient.content.size
    if not 0 < bits <= _MAX_BITS:
        yield error(
            "bitmap-bits", f"The bitmap header counts {bits:#x} bits", offset=where[0], expected="1 to 2**36",
            found=bits, advice="the field is damaged; it is the highest frame number plus one",
        )  # fmt: skip
        return
    length = (bits + 7) // 8
    end = table + length
    if end > size:
        yield error(
            "bitmap-cut", f"The file ends inside the bitmap, {end - size} bytes before its end", offset=size,
            expected=end, found=size, advice="no page is left: get the file again",
        )  # fmt: skip
        return
    bad_start = first_page < end or first_page > 1 << 62
    if not bad_start:
        if length <= _MAX_BITMAP:
            patient.runs = placed(bitmap_runs(patient.content.read(table, length), bits), first_page)
        return
    # Writers put the first page at the next page boundary; the file's size must agree.
    usual = (end + PAGE - 1) // PAGE * PAGE
    advice = f"the first page usually follows the bitmap at {usual:#x}"
    if length <= _MAX_BITMAP:
        runs = bitmap_runs(patient.content.read(table, length), bits)
        total = sum(count for _, count in runs)
        if usual + total * PAGE == size:
            advice += f", and the {total} pages of the bitmap fill the file exactly from there"
        patient.runs = placed(runs, usual)
    yield error(
        "first-page", f"The first page is said to be at {first_page:#x}, "
        + ("inside the bitmap header" if first_page < end else "beyond any file"),
        offset=where[1], expected=usual, found=first_page, advice=advice,
    )  # fmt: skip


def _ranges(patient: _Patient, raw: RawHeader, second: bytes) -> Iterator[Finding]:
    base, size = raw.layout.size, patient.content.size
    if len(second) < 0x30:
        yield _header_ends(patient, base + 0x30, "range table's header")
        return
    metadata, first_page = struct.unpack_from("<QQ", second, 0x10)
    table_end = base + 0x20 + metadata
    complete = raw.number("dump_type") == 10
    total = int.from_bytes(second[0x28:0x30], "little") if complete else None
    by_first = first_page - base - 0x20
    if metadata < 0x20 or metadata % 16 or metadata > size or base + 0x20 + metadata > size:
        plausible = 0x20 <= by_first <= size - base - 0x20 and by_first % 16 == 0
        yield error(
            "range-metadata", f"MetadataSize {metadata:#x} is no size of a range table in this file",
            offset=base + 0x10, found=metadata,
            expected=by_first if plausible else "a positive multiple of 0x10",
            advice=f"the first page at {first_page:#x} goes with {by_first:#x}" if plausible else "",
        )  # fmt: skip
        if not plausible:
            return
        metadata = by_first
    elif first_page != table_end:
        severity = error if first_page < table_end or first_page > 1 << 62 else warning
        yield severity(
            "first-page", f"The first page is said to be at {first_page:#x}, the table ends at "
            f"{table_end:#x}",
            offset=base + 0x18, expected=table_end, found=first_page,
            advice="the two always agree in dumps by Windows' debuggers",
        )  # fmt: skip
        first_page = table_end
    yield from _range_table(patient, base + 0x30, metadata // 16 - 1, first_page, total)


def _range_table(
    patient: _Patient, table: int, entries: int, first_page: int, total: int | None
) -> Iterator[Finding]:
    runs: list[tuple[int, int]] = []
    described = 0
    data = patient.content.read(table, 16 * min(entries, _MAX_RANGES))
    for number, (pfn, count) in enumerate(struct.iter_unpack("<QQ", data[: len(data) & ~15])):
        if pfn == 0 or described == total:
            break
        where = table + 16 * number
        if pfn >= 1 << 40 or count > (1 << 40) - pfn:
            text = f"Range {number} (frame {pfn:#x}, {count:#x} pages) is beyond any physical memory"
            yield error(
                "range-entry", text, offset=where, expected="frames below 2**40", found=pfn,
                advice=f"the {number} ranges before it work as runs",
            )  # fmt: skip
            break
        described += count
        if total is not None and described > total:
            yield error(
                "page-count", f"The ranges describe {described} pages after entry {number}, more than "
                f"TotalNumberOfPages", offset=table - 8, expected=described, found=total,
                advice="one of the two is damaged",
            )  # fmt: skip
            total = None
        if count:
            runs.append((pfn, count))
    if not runs:
        yield error("range-entry", "The range table has no ranges", offset=table)
    patient.runs = placed(runs, first_page)


def _triage(patient: _Patient, raw: RawHeader, second: bytes) -> Iterator[Finding]:
    wide = raw.layout.bits == 64
    needed = 0x80 if wide else 0x68
    if len(second) < needed:
        yield _header_ends(patient, raw.layout.size + needed, "triage header")
        return
    field = 0x7C if wide else 0x64
    count = int.from_bytes(second[field : field + 4], "little")
    if count > _MAX_BLOCKS:
        yield error(
            "triage-blocks", f"The triage header counts {count} data blocks", offset=raw.layout.size + field,
            expected=f"at most {_MAX_BLOCKS}", found=count, advice="the field is damaged",
        )  # fmt: skip


def _propose(patient: _Patient) -> None:
    """Try the runs that were found as a raw image, and say how many pages they give."""
    runs, size = patient.runs, patient.content.size
    runs = [(pfn, count, offset) for pfn, count, offset in runs if offset + PAGE <= size]
    if len(runs) <= _MAX_PROPOSED:
        runs = without_overlaps(runs)
    patient.runs = []
    if not runs:
        return
    try:
        with Dump(patient.content.source, raw=(patient.arch, runs)) as dump:
            pages = len(dump.pages)
    except (KdmpError, ValueError, TypeError, OverflowError):
        return
    if not pages:
        return
    patient.runs = runs
    some = ", ".join(f"({pfn:#x}, {count:#x}, {offset:#x})" for pfn, count, offset in runs[:3])
    more = ", ..." if len(runs) > 3 else ""
    text = f"Opened as raw memory with the {len(runs)} runs that are described it has {pages} pages"
    machine = f", arch={patient.arch!r}" if patient.arch else ""
    advice = f"kdmp.open_raw(file, runs=[{some}{more}]{machine}); Report.runs has them all"
    patient.findings.append(info("raw", text, found=pages, advice=advice))
    patient.works.append(f"physical reads of up to {pages} pages with kdmp.open_raw")
