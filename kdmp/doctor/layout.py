"""Checks of where the pages are: cut files, counts that disagree, runs that overlap, a type that lies.

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterator

from kdmp.doctor.exam import Exam, check
from kdmp.doctor.rawheader import PAGE, triage_fits
from kdmp.doctor.report import Finding, error, info, warning

# What each DumpType is laid out as; types 2 to 7 have been seen with the other bitmap layout.
_EXPECTED = {
    1: ("runs",),
    2: ("summary", "bitmap"),
    3: ("none",),
    4: ("triage",),
    5: ("bitmap",),
    6: ("bitmap",),
    7: ("bitmap",),
    8: ("ranges",),
    9: ("ranges",),
    10: ("ranges",),
}

_WORDS = {
    "runs": "runs behind the header (a full dump)",
    "summary": "the bitmap of Windows 7 and older",
    "bitmap": "a bitmap",
    "ranges": "a table of ranges (RDMP)",
    "triage": "a triage dump",
    "none": "a header alone",
    "raw": "plain memory",
}


@check
def truncated(exam: Exam) -> Iterator[Finding]:
    """A file that ends before its last page."""
    lost, figures = exam.dump.truncated, exam.figures
    if not lost:
        return
    size, first = exam.dump.file_size, figures["first_page"]
    described = figures["pages_described"]
    place = "is cut"
    if exam.dump.layout != "raw":
        total = (figures["data_end"] - first) // PAGE
        place = f"ends at page {max(0, size - first) // PAGE + 1} of {total}"
    yield error(
        "truncated", f"The file {place}: {lost} of {described} pages are missing", offset=size,
        expected=figures["data_end"] or None, found=size,
        advice="the copy or upload was cut short: get the file again; pages before that point work",
    )  # fmt: skip


@check
def counts(exam: Exam) -> Iterator[Finding]:
    """The layout's own page counter against what it describes."""
    layout, figures = exam.dump.layout, exam.figures
    claimed = figures["pages_claimed"]
    described = figures["pages_described"] + figures["pages_overlapped"]
    if layout == "runs":
        yield from _run_counts(exam)
    elif layout in ("bitmap", "summary") and claimed != figures["pages_described"]:
        described = figures["pages_described"]
        base = figures["header_size"]
        room = max(0, exam.dump.file_size - figures["first_page"]) // PAGE
        advice = "the bitmap is trusted for where pages are"
        if room == claimed < described:
            advice += (
                "; the file has room for as many pages as the counter says, so the bitmap has bits too many"
            )
        yield warning(
            "page-count", f"The bitmap has {described} bits set, its header counts {claimed} pages",
            offset=base + (0x14 if layout == "summary" else 0x28), expected=described, found=claimed,
            advice=advice,
        )  # fmt: skip
    elif layout == "ranges" and exam.header["dump_type"] == 10 and claimed != described:
        yield warning(
            "page-count", f"The ranges describe {described} pages, their header counts {claimed}",
            offset=figures["header_size"] + 0x28, expected=described, found=claimed,
            advice="the table was cut or ends early; the ranges that are there work",
        )  # fmt: skip


def _run_counts(exam: Exam) -> Iterator[Finding]:
    runs, claimed = exam.raw.runs(), exam.header["number_of_pages"]
    described, limit = runs.pages, exam.layout.max_runs
    if claimed is None or claimed == described:
        return
    advice = "the runs are trusted"
    if claimed > described and len(runs.table) >= limit - 1:
        advice = f"the header has room for {limit} runs only; the full list is in MmPhysicalMemoryBlock"
    yield warning(
        "page-count", f"The runs describe {described} pages, NumberOfPages says {claimed}",
        offset=exam.offset("number_of_pages"), expected=described, found=claimed, advice=advice,
    )  # fmt: skip


@check
def descriptor(exam: Exam) -> Iterator[Finding]:
    """The list of physical memory of a dump that does not place its pages by it."""
    if exam.dump.layout not in ("bitmap", "ranges", "summary") or exam.header["number_of_runs"] is None:
        return
    runs, claimed = exam.raw.runs(), exam.header["number_of_pages"]
    advice = "this kind of dump does not place its pages by it"
    if runs.problem:
        yield info(
            "run-list", runs.problem, offset=runs.offset, expected=runs.expected, found=runs.found,
            advice=advice,
        )  # fmt: skip
    elif claimed is not None and claimed != runs.pages:
        text = f"The list of physical memory has {runs.pages} pages, NumberOfPages says {claimed}"
        where = exam.offset("number_of_pages")
        yield info("run-list", text, offset=where, expected=runs.pages, found=claimed, advice=advice)


@check
def overlap(exam: Exam) -> Iterator[Finding]:
    """Frames that are described more than once."""
    count = exam.figures["pages_overlapped"]
    if count:
        table = exam.layout.runs if exam.dump.layout == "runs" else exam.figures["header_size"] + 0x30
        yield warning(
            "overlap", f"{count} pages are described more than once", offset=table, expected=0, found=count,
            advice="the first description wins; the others may show another moment, or the table is damaged",
        )  # fmt: skip


@check
def dump_type(exam: Exam) -> Iterator[Finding]:
    """DumpType against how the file is laid out."""
    kind, layout = exam.header["dump_type"], exam.dump.layout
    if kind is None or layout == "raw":
        return
    where = exam.offset("dump_type")
    expected = _EXPECTED.get(kind)
    if expected is None:
        text = f"The dump type {kind:#x} is not known; the file is laid out as {_WORDS[layout]}"
        yield warning("dump-type", text, offset=where, found=kind, advice="opened by its layout")
    elif layout not in expected:
        text = (
            f"The dump type {kind} goes with {_WORDS[expected[0]]}, the file is laid out as {_WORDS[layout]}"
        )
        yield warning(
            "dump-type", text, offset=where, expected=expected[0], found=layout, advice="opened by its layout"
        )
    else:
        yield from _other_layout(exam, kind, where)


def _other_layout(exam: Exam, kind: int, where: int | None) -> Iterator[Finding]:
    """A type that is obeyed because nothing behind the header contradicts it, wrongly."""
    size, header_size = exam.dump.file_size, exam.layout.size
    second = exam.file(header_size, 0x80)
    mark = exam.file(int.from_bytes(second[8:12], "little"), 4)
    if kind in (1, 3) and triage_fits(second, mark):
        text = f"The dump type {kind} is wrong: a triage header with its mark TRGD follows the header"
        yield error("dump-type", text, offset=where, expected=4, found=kind, advice="change the field to 4")
    elif kind in (3, 4) and mark != b"TRGD":
        runs = exam.raw.runs()
        if runs.sane and header_size + runs.pages * PAGE == size:
            text = f"The dump type {kind} is wrong: the runs in the header fit the file exactly (a full dump)"
            yield error(
                "dump-type", text, offset=where, expected=1, found=kind, advice="change the field to 1"
            )
        elif kind == 3 and size > header_size:
            text = f"A header alone has {size - header_size} more bytes behind it"
            yield warning("dump-type", text, offset=header_size, expected=header_size, found=size)


@check
def signature(exam: Exam) -> Iterator[Finding]:
    """The bitmap's two signatures, and the layout that nobody has a file of."""
    kind, layout = exam.header["dump_type"], exam.dump.layout
    if layout == "summary":
        yield info(
            "legacy-summary", "A summary dump of Windows 7 or older: no other public reader knows its layout",
            offset=exam.figures["header_size"],
            advice="read with care: three descriptions agree, files are rare",
        )  # fmt: skip
    usual = {5: b"FDMP", 6: b"SDMP", 7: b"SDMP"}.get(kind)
    found = exam.file(exam.figures["header_size"], 4)
    if layout == "bitmap" and usual and found in (b"FDMP", b"SDMP") and found != usual:
        text = f"The bitmap is marked {found.decode()}; type {kind} usually has {usual.decode()}"
        where = exam.figures["header_size"]
        yield info("signature", text, offset=where, expected=usual.decode(), found=found.decode())


@check
def trailing(exam: Exam) -> Iterator[Finding]:
    """Bytes behind the last page that are no secondary data; the secondary data itself."""
    size = exam.dump.file_size
    end = exam.figures["data_end"]
    for blob in exam.blobs:
        if blob.truncated:
            text = (
                f"The secondary data {blob.tag} is cut: {size - blob.offset} of {blob.size} bytes are there"
            )
            yield warning("blob-cut", text, offset=blob.offset, expected=blob.size, found=size - blob.offset)
        end = min(size, blob.offset + blob.size)
    rest = size - end
    # Up to a sector more is padding.
    if exam.dump.layout in ("raw", "none") or rest < 0x200 or not exam.figures["data_end"]:
        return
    if exam.dump.layout == "runs" and rest >= PAGE and not exam.blobs:
        yield warning(
            "trailing", f"{rest} bytes ({rest // PAGE} pages) follow the last page of the runs", offset=end,
            expected=end, found=size,
            advice="the header has room for few runs; MmPhysicalMemoryBlock in memory has them all",
        )  # fmt: skip
    else:
        what = "secondary data" if exam.blobs else "page" if exam.has_pages else "part"
        text = f"{rest} bytes follow the last {what}, without a signature that is known"
        yield info("trailing", text, offset=end, expected=end, found=size, advice="often padding of zeros")
