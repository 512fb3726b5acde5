"""Checks of the two lists that the header names, by walking them: loaded modules and processes.

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterator
from dataclasses import dataclass

from kdmp.doctor.exam import Exam, check, reason
from kdmp.doctor.report import Finding, error, info, warning

_MAX_ENTRIES = 4096

# Where in a process object the links of the process list may be.
_LINK_OFFSETS = range(0, 0x600, 8)

# DISPATCHER_HEADER.Type of a process (KOBJECTS: ProcessObject).
_PROCESS_OBJECT = 3


@dataclass
class Walk:
    """How far a list can be followed: entries seen, and what ended the walk ("" for its head)."""

    entries: int = 0
    wrong_back_links: int = 0
    first_wrong: int = 0
    end: str = ""
    more: bool = False

    @property
    def whole(self) -> bool:
        """Whether the walk came back to the head."""
        return not self.end and not self.more


@check
def module_list(exam: Exam) -> Iterator[Finding]:
    """PsLoadedModuleList."""
    yield from _check_list(exam, "ps_loaded_module_list", "module list", 0x48)


@check
def process_list(exam: Exam) -> Iterator[Finding]:
    """PsActiveProcessHead."""
    yield from _check_list(exam, "ps_active_process_head", "process list", 0x50)


def _check_list(exam: Exam, field: str, what: str, kdbg_offset: int) -> Iterator[Finding]:
    head, where = exam.header[field], exam.offset(field)
    if not head:
        if head == 0:
            text = f"The header's address of the {what} is 0"
            yield warning("list-head", text, offset=where, found=0)
        return
    if exam.reader is None or exam.dump.encrypted or not (exam.maps_kernel or exam.dump.layout == "triage"):
        return
    width = exam.dump.pointer_size
    flink, back = exam.pointer(head), exam.pointer(head + width)
    if flink is None or back is None:
        # A triage dump rarely has the heads; an address without translation is told elsewhere.
        if exam.has_pages and exam.reader.try_translate(head) is not None:
            text = f"The head of the {what} at {head:#x} cannot be read: {reason(exam.why(head, 2 * width))}"
            yield error("list-unreadable", text, offset=where, found=head)
        return
    if exam.dump.layout == "triage":
        return  # the entries are not captured
    returns = exam.pointer(flink + width)
    if returns == head:
        yield from _broken(exam, walk(exam, head), head, what, where)
        return
    if returns is None and _in_kernel(exam, flink) and not _is_process(flink):
        text = (
            f"The first entry of the {what} at {flink:#x} cannot be read: {reason(exam.why(flink + width))}"
        )
        yield warning("list-broken", text, offset=where, expected=head, found=flink)
        return
    own = exam.kdbg_pointer(kdbg_offset)
    other = own if own and own != head else None
    advice = f"the debugger data block has it at {other:#x}" if other else "a damaged field or page"
    if field == "ps_active_process_head" and _is_process(flink):
        text = f"The address of the {what}, {head:#x}, is that of a process object, not of a list head"
        links = _links_in(exam, head)
        if links is not None:
            text += f"; links to other processes are at +{links:#x}"
            if other is None:
                advice = f"follow the links at {head + links:#x}: one of the entries is the list's head"
    else:
        back_to = "cannot be read" if returns is None else f"points back to {returns:#x}"
        text = f"The {what} does not begin at {head:#x}: the entry that follows, {flink:#x}, {back_to}"
    yield error("list-head", text, offset=where, expected=other, found=head, advice=advice)


def _in_kernel(exam: Exam, va: int) -> bool:
    return va >= (0x80000000 if exam.dump.pointer_size == 4 else 0xFFFF800000000000)


def _is_process(first: int) -> bool:
    """Whether the word looks like the DISPATCHER_HEADER of a process: its type, no pointer, not signalled."""
    return first & 0xFF == _PROCESS_OBJECT and first >> 32 in (0, 1)


def _links_in(exam: Exam, process: int) -> int | None:
    """Return the first offset in a process object of an entry that links it with other processes: both
    neighbours point back, and one is at the same place of another process. None if there is none."""
    width = exam.dump.pointer_size
    for offset in _LINK_OFFSETS:
        entry = process + offset
        after, before = exam.pointer(entry), exam.pointer(entry + width)
        if after is None or before is None or entry in (after, before) or not _in_kernel(exam, after):
            continue
        if exam.pointer(after + width) != entry or exam.pointer(before) != entry:
            continue
        others = (exam.pointer(after - offset), exam.pointer(before - offset))
        if any(first is not None and _is_process(first) for first in others):
            return offset
    return None


def walk(exam: Exam, head: int) -> Walk:
    """Follow a list from its head: at most 4096 entries, never one twice."""
    width, seen, result = exam.dump.pointer_size, {head}, Walk()
    previous, entry = head, exam.pointer(head)
    while entry is not None and entry != head:
        if entry in seen:
            result.end = f"it returns to the entry at {entry:#x} instead of its head"
            return result
        if result.entries >= _MAX_ENTRIES:
            result.more = True
            return result
        after, before = exam.pointer(entry), exam.pointer(entry + width)
        if after is None or before is None:
            result.end = f"the entry at {entry:#x} cannot be read ({reason(exam.why(entry, 2 * width))})"
            return result
        if before != previous:
            result.wrong_back_links += 1
            result.first_wrong = result.first_wrong or entry
        seen.add(entry)
        result.entries += 1
        previous, entry = entry, after
    if exam.pointer(head + width) != previous:
        result.wrong_back_links += 1
        result.first_wrong = result.first_wrong or head
    return result


def _broken(exam: Exam, result: Walk, head: int, what: str, where: int | None) -> Iterator[Finding]:
    torn = "the system ran on meanwhile" if exam.dump.is_live else "memory was damaged, or pages are missing"
    if result.end:
        yield warning(
            "list-broken", f"The {what} breaks after {result.entries} entries: {result.end}", offset=where,
            found=result.entries, advice=f"{torn}; follow it from its other end as well",
        )  # fmt: skip
    if result.wrong_back_links:
        yield warning(
            "list-broken", f"{result.wrong_back_links} entries of the {what} do not point back to the one "
            f"before, the first at {result.first_wrong:#x}", offset=where, found=result.wrong_back_links,
            advice=torn,
        )  # fmt: skip
    if result.more:
        text = f"The {what} has more than {_MAX_ENTRIES} entries; the rest was not followed"
        yield info("list-long", text, offset=where, found=result.entries)
