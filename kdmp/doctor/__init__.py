"""What is wrong or odd about a dump, and what still works: `examine`, and `Dump.findings`.

    from kdmp import doctor

    report = doctor.examine("MEMORY.DMP")
    for finding in report.findings:
        print(finding, finding.advice)

Each `Finding` has a severity, a code, a sentence, a place in the file, the values that disagree and
advice. Files that do not open are examined as well. Nothing of a dump is changed.

The codes, by topic:

* the file: wrong-file, packed-damage, packed-members, packed-unsupported, header-lost, header-cut, signature,
  format, raw
* where pages are: truncated, page-count, run-list, overlap, dump-type, legacy-summary, trailing, bitmap-bits,
  bitmap-cut, first-page, range-metadata, range-entry, required-space
* the header: filler, machine, processors, system-time, uptime, attributes, encrypted, live, context-absent,
  context-flags, exception-elsewhere
* memory: dtb, dtb-frame, dtb-flags, dtb-untested, paging-default, pae, kdbg-absent, kdbg-unreadable,
  kdbg-encoded, kdbg-invalid, kdbg-size, kdbg-lists, kdbg-pae, kernel-base, pfn-database, list-head,
  list-unreadable, list-broken, list-long
* triage dumps: triage-mark, triage-overflow, triage-part, triage-blocks, driver-list, driver-names, blob-cut
* the examination: io-error (the file could not be read), internal (a check failed, which is a bug of kdmp)

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterator
from typing import Any, Literal

from kdmp._kdmp import KdmpError
from kdmp.doctor import header, layout, lists, memory, triage
from kdmp.doctor.damaged import diagnose
from kdmp.doctor.exam import CHECKS, Exam
from kdmp.doctor.report import Finding, Report, Severity, error, shown, warning, worst_first
from kdmp.dump import Dump, Progress

__all__ = ["Finding", "Report", "Severity", "examine", "examine_dump", "shown"]

# Importing these registers their checks.
_TOPICS = (header, layout, memory, lists, triage)


def examine_dump(dump: Dump, *, deep: bool = False) -> list[Finding]:
    """Return the findings about an open dump, worst first. `Dump.findings` is this.

    `deep` also looks through all pages where that may help: for another page-table root if the header's
    does not work. ValueError if the dump is closed.
    """
    if dump.closed:
        raise ValueError("operation on a closed dump")
    return _findings(Exam(dump, deep=deep))


def examine(
    source: Any,
    *,
    io: Literal["map", "read"] = "map",
    deep: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Examine a file, also one that `kdmp.open` refuses.

    `source`, `io` and `progress` are those of `kdmp.open`; `deep` is that of `examine_dump`. What is no dump
    at all is a report, not an exception; OSError if the file cannot be read.
    """
    try:
        dump = Dump(source, io=io, progress=progress)
    except KdmpError as failure:
        return diagnose(source, failure)
    with dump:
        exam = Exam(dump, deep=deep)
        return Report(True, _findings(exam), list(_works(exam)))


def _findings(exam: Exam) -> list[Finding]:
    findings: list[Finding] = []
    for function in CHECKS:
        try:
            findings.extend(function(exam))
        except OSError as exc:
            text = f"The file could not be read: {exc.strerror or exc}"
            findings.append(error("io-error", text, advice="the medium fails, or the file changes"))
            break
        except Exception as exc:
            text = f"The check {function.__name__} failed: {type(exc).__name__}: {exc}"
            findings.append(warning("internal", text, advice="a bug in kdmp: please report it"))
    return worst_first(findings)


def _works(exam: Exam) -> Iterator[str]:
    """Say in words what can be had from an open dump."""
    dump, figures = exam.dump, exam.figures
    try:
        if exam.has_header:
            stored = sum(1 for value in exam.header.values() if value is not None)
            yield f"header facts ({stored} fields)"
            if dump.context is not None:
                yield "registers of the crashing processor"
        if exam.has_pages:
            yield f"physical reads of {len(dump.pages)} of {figures['pages_described']} pages"
            if dump.dtb is not None and exam.maps_kernel and exam.reader is not None:
                yield f"virtual reads through dtb {dump.dtb:#x} ({exam.reader.paging})"
        if dump.triage is not None:
            ranges = dump.ranges
            size = sum(max(0, min(r.size, dump.file_size - r.file_offset)) for r in ranges)
            yield f"virtual reads of {len(ranges)} ranges with {size} bytes"
            if dump.triage.drivers:
                yield f"the list of {len(dump.triage.drivers)} drivers"
        yield from _lists_that_work(exam)
        whole = sum(1 for blob in exam.blobs if not blob.truncated)
        if whole:
            yield f"{whole} {'piece' if whole == 1 else 'pieces'} of secondary data"
    except (KdmpError, OSError):
        return


def _lists_that_work(exam: Exam) -> Iterator[str]:
    if not exam.has_pages or not exam.maps_kernel:
        return
    for field, what in (("ps_loaded_module_list", "modules"), ("ps_active_process_head", "processes")):
        head = exam.header[field]
        if head and exam.pointer(head) is not None:
            result = lists.walk(exam, head)
            if result.whole and result.entries and not result.wrong_back_links:
                yield f"the list of {result.entries} {what}"
