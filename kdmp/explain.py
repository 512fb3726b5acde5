"""Why is this address unreadable? `Reader.explain` answers with a sentence and with facts.

SPDX-License-Identifier: MIT
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdmp._kdmp import (
    BadEntryError,
    NonCanonicalError,
    NotInDumpError,
    Run,
    Translation,
    TranslationError,
    TruncatedError,
    UnreadableError,
)
from kdmp.explain_vad import explain_by_vad, vad_of_page
from kdmp.freeptes import is_kernel, readings, why_no_page_file
from kdmp.protection import protection_name
from kdmp.pte import LEVEL_NAMES, asdict_plain, default_layout

if TYPE_CHECKING:
    from kdmp.reader import Reader

# The number that the virtual store, the pseudo page file of memory compression, has on most machines.
USUAL_STORE = 2
# The first build whose compression store is a virtual page file (Windows 10).
_FIRST_STORE_BUILD = 10240

_SIZES = {0x1000: "4 KiB", 0x200000: "2 MiB", 0x400000: "4 MiB", 0x40000000: "1 GiB"}


@dataclass(frozen=True, slots=True)
class Explanation:
    """What Windows would find at `va`, and whether its bytes can be had; `str()` is one sentence.

    `reason` is one of "readable", "zero_filled", "from_pagefile", "not_in_dump", "truncated",
    "table_not_in_dump", "table_truncated", "demand_zero", "paged_out", "compressed", "file_backed", "vad",
    "empty", "prototype" (it could not be read or told), "paged_out_or_free" and "free_pte" (see below),
    "bad_entry", "non_canonical", "no_range" (of a triage dump).

    `state` is that of `Translation.state`; `pa` and `pfn` are the place in physical memory, `file_offset`
    that in the dump's file; `level` and `entry` the last entry's; `protection` the 5-bit value and
    `protection_name` its name; `prototype` the address of the prototype PTE; `pagefile` number and
    `pagefile_page` the place of a paged-out page; `compressed` whether it is in the compression store (None:
    it may be); `ranges` the nearest ranges (start, size) of a triage dump. `suggestion` says what might help.
    Absent facts are None.

    A user address whose entry is empty or refers to the VAD is looked up there if `dump.windows` knows whose
    address space it is: `reason` may then be "not_allocated" (no VAD), "reserved", "untouched" (reserved, or
    committed and zero), and `vad_start`, `vad_end` (inclusive), `vad_kind`, `vad_protection` and `file` tell
    the range; `prototype_value` is what the prototype PTE holds. With the reason "vad" and a `pa` the page is
    in the dump, but only the VAD leads to it: a Reader does not read it, `kdmp.windows.vads.read_page` does.

    In kernel space an entry that looks paged out may be a free one of the kernel's own PTE ranges, and its
    bits do not tell which. Then `reason` is "paged_out_or_free", `certain` is False, and `readings` has the
    fields it has as "list" and as "timestamp"; "free_pte" is for an entry that names a page file which the
    machine does not have (then `certain`), or the end of a list of free entries.
    """

    va: int
    sentence: str
    reason: str
    readable: bool
    state: str
    paging: str
    pa: int | None = None
    pfn: int | None = None
    file_offset: int | None = None
    in_dump: bool | None = None
    page_size: int | None = None
    level: int | None = None
    entry: int | None = None
    protection: int | None = None
    protection_name: str | None = None
    prototype: int | None = None
    pagefile: int | None = None
    pagefile_page: int | None = None
    compressed: bool | None = None
    ranges: tuple[tuple[int, int], ...] | None = None
    suggestion: str | None = None
    certain: bool = True
    readings: Mapping[str, Mapping[str, int]] | None = None
    vad_start: int | None = None
    vad_end: int | None = None
    vad_kind: str | None = None
    vad_protection: str | None = None
    file: str | None = None
    prototype_value: int | None = None

    def __str__(self) -> str:
        return self.sentence

    def to_dict(self) -> dict[str, Any]:
        """All facts as plain values that JSON can hold; absent ones are left out."""
        facts = asdict_plain(self)
        if self.ranges is not None:
            facts["ranges"] = [list(one) for one in self.ranges]
        return facts


def explain(reader: "Reader", va: int) -> Explanation:
    """What `Reader.explain` returns."""
    if reader.paging == "triage":
        return _triage(reader, va)
    try:
        walk = reader.translate(va)
    except TranslationError as error:
        return _failed(reader, va, error)
    return _page(reader, va, walk)


# ---- there is a page ----


def _page(reader: "Reader", va: int, walk: Translation) -> Explanation:
    where = f"{va:#x}"
    facts: dict[str, Any] = {
        "pa": walk.pa, "pfn": walk.pfn, "page_size": walk.page_size, "level": walk.level or None,
        "entry": walk.entries[-1].value if walk.entries else None, "prototype": walk.prototype,
        **_protection(walk.protection),
    }  # fmt: skip
    run, changed = _place(reader, walk)
    if walk.state == "none":
        what = "physical memory"
    elif walk.state == "transition":
        what = "in transition: not valid for the processor, but still in its frame"
    elif walk.state == "prototype":
        what = f"a shared page: its prototype PTE at {walk.prototype or 0:#x} names the frame"
        place, more = vad_of_page(reader, va, walk)
        if place:
            what += f"; its own entry refers to the VAD, {place}"
            facts |= more
    else:
        what = "" if walk.page_size == 0x1000 else f"part of a {_SIZES[walk.page_size]} page"
    if run is not None:
        offset = run.file_offset + (walk.pa & 0xFFF)
        sentence = f"{where} is readable from frame {walk.pfn:#x} at file offset {offset:#x}"
        sentence += f"; it is {what}." if what else "."
        facts |= {"file_offset": offset, "in_dump": True}
        return Explanation(va, sentence, "readable", True, walk.state, reader.paging, **facts)
    if changed:
        sentence = f"{where} is readable from frame {walk.pfn:#x} of view {reader.view}, {changed}"
        sentence += f"; it is {what}." if what else "."
        facts |= {"in_dump": walk.pfn in reader.dump.pages}
        return Explanation(va, sentence, "readable", True, walk.state, reader.paging, **facts)
    cut = _is_truncated(reader, walk.pa)
    what = what or "valid"
    facts |= {"in_dump": False}
    if cut:
        sentence = f"{where} is {what}, but frame {walk.pfn:#x} lies beyond the end of the cut short file."
        return Explanation(
            va, sentence, "truncated", False, walk.state, reader.paging,
            suggestion="get the whole file: it was cut short", **facts,
        )  # fmt: skip
    sentence = f"{where} is {what}, but frame {walk.pfn:#x} is not in this dump."
    return Explanation(
        va, sentence, "not_in_dump", False, walk.state, reader.paging, suggestion=_KIND_HINT, **facts
    )


def _place(reader: "Reader", walk: Translation) -> tuple[Run | None, str]:
    """Where the file has the frame, None if it does not; or what the overlay has made of it."""
    known = reader.overlay.frame(walk.pfn) if reader.overlay is not None else None
    if known is None:
        return next(iter(reader.dump.pages[walk.pfn : walk.pfn + 1].runs()), None), ""
    _, target, made_up = known
    if target is not None:
        return None, f"which shows frame {target:#x}"
    return None, "which was made up" if made_up else "which has been written"


_KIND_HINT = "this kind of dump left the page out; a full dump has it"


def _is_truncated(reader: "Reader", pa: int) -> bool:
    try:
        reader.physical.read_u8(pa)
    except TruncatedError:
        return True
    except UnreadableError:
        return False
    return False


def _protection(value: int | None) -> dict[str, Any]:
    if value is None:
        return {}
    return {"protection": value, "protection_name": protection_name(value)}


# ---- there is none ----


def _failed(reader: "Reader", va: int, error: TranslationError) -> Explanation:
    where, state = f"{va:#x}", error.state or "none"
    facts: dict[str, Any] = {"level": error.level, "entry": error.entry, "prototype": error.prototype}
    protection = error.protection if state not in ("none", "zero", "table", "bad") else None
    facts |= _protection(protection)

    def said(sentence: str, reason: str, suggestion: str | None = None, **more: Any) -> Explanation:
        readable = more.pop("readable", False)
        text = f"{where} {sentence}."
        return Explanation(
            va, text, reason, readable, state, reader.paging, suggestion=suggestion, **{**facts, **more}
        )

    if isinstance(error, NonCanonicalError):
        facts.clear()
        return said(
            f"is no address of {reader.paging} paging: it is not canonical or too large", "non_canonical"
        )
    if isinstance(error, BadEntryError):
        return said(
            f"cannot be translated: the {_name(error)} {error.entry or 0:#x} has reserved bits set",
            "bad_entry",
            "the page-table root may be wrong, or the table is damaged",
        )  # fmt: skip
    if isinstance(error, NotInDumpError):
        return _missing(said, error)
    return _invalid(reader, va, error, said)


def _missing(said: Any, error: NotInDumpError) -> Explanation:
    """A frame that the walk itself needed is missing."""
    cut, pa = isinstance(error, TruncatedError), error.pa or 0
    place = "lies beyond the end of the cut short file" if cut else "is not in this dump"
    hint = "get the whole file: it was cut short" if cut else _KIND_HINT
    facts = {"pa": error.pa, "pfn": pa >> 12, "in_dump": False}
    if error.level and error.state != "transition":
        sentence = (
            f"cannot be translated: its page table of level {error.level} (frame {pa >> 12:#x}) {place}"
        )
        result: Explanation = said(sentence, "table_truncated" if cut else "table_not_in_dump", hint, **facts)
        return result
    what = f"through the prototype PTE at {error.prototype:#x}, " if error.prototype else ""
    sentence = f"is in transition {what}but frame {pa >> 12:#x} {place}".replace("  ", " ")
    found: Explanation = said(sentence, "truncated" if cut else "not_in_dump", hint, **facts)
    return found


def _invalid(reader: "Reader", va: int, error: TranslationError, said: Any) -> Explanation:
    """The walk ended at an entry that is not valid."""
    state, level = error.state or "none", error.level or 1
    by = f" (prototype PTE at {error.prototype:#x})" if error.prototype else ""
    rights = f", {protection_name(error.protection)}" if error.protection else ""
    result: Explanation
    if level > 1 and state in ("demand_zero", "pagefile", "prototype", "subsection", "vad"):
        by = f" (its page table of level {level - 1} is what the {_name(error)} says this of)"
    if state == "zero":
        result = _empty(reader, va, error, said)
    elif state == "demand_zero":
        done = reader.is_readable(va)
        text = f"is demand zero{rights}{by}: Windows makes a page of zeros at the first access"
        hint = None if done else "read with zero_fill=True to get the zeros"
        result = said(text, "zero_filled" if done else "demand_zero", hint, readable=done)
    elif state == "pagefile":
        result = _paged_out(reader, va, error, said, by)
    elif state == "subsection":
        text = f"belongs to a mapped file and is not in memory{by}"
        result = said(text, "file_backed", "take the bytes from the file or image that is mapped there")
    elif state == "vad" and _may_be_free(reader, va, error):
        text = f"is not mapped: its {_name(error)} {error.entry or 0:#x} looks like the last one of a list"
        text += " of free entries (there is no VAD to ask in kernel space)"
        result = said(text, "free_pte", certain=False, readings=_readings(reader, error))
    elif state == "vad":
        text = f"has no entry of its own{rights}: the entry says that the VAD describes the page{by}"
        result = explain_by_vad(reader, va, error, said) or said(
            text, "vad", "look up the VAD of the process; its section has the prototype PTE"
        )
    elif state == "prototype":
        text = f"is a shared page{rights} whose prototype PTE cannot be read or told{by}"
        hint = "the L1TF mask (invalid_pte_mask=) or a kernel root may help"
        if (why := _not_followed(reader)) is not None:
            text, hint = f"is a shared page{rights}; its prototype PTE is not followed: {why}{by}", None
        result = said(text, "prototype", hint)
    else:
        result = said(f"cannot be read: {error}", "bad_entry")
    return result


def _empty(reader: "Reader", va: int, error: TranslationError, said: Any) -> Explanation:
    result: Explanation
    if error.prototype:
        text = f"is a shared page whose prototype PTE at {error.prototype:#x} is empty: it is not committed"
        result = said(text, "empty")
        return result
    name = _name(error)
    if not is_kernel(reader.paging, va):
        text = f"is not mapped by the page tables: its {name} is empty"
        text += "; if a VAD covers it, it is reserved or was never touched"
        result = explain_by_vad(reader, va, error, said) or said(
            text, "empty", "look up the VAD of the process"
        )
    else:
        result = said(f"is not mapped: its {name} is empty", "empty")
    return result


def _not_followed(reader: "Reader") -> str | None:
    """Why no reference to a prototype PTE is followed in this build; None if they are."""
    prototype = (reader.pte_layout or default_layout(reader.paging)).prototype
    if "ProtoIndex" in prototype:
        return "entries of this build (28000 or later) hold an index into a system range, not an address"
    if "WhichPool" in prototype:
        return "entries of this build (XP or 2003 without PAE) count from the start of a pool, not known here"
    return None


def _may_be_free(reader: "Reader", va: int, error: TranslationError) -> bool:
    """Whether the entry may be a list or time-stamp entry: one of the kernel's, and no prototype."""
    return error.prototype is None and not (error.entry or 0) & 0xC00 and is_kernel(reader.paging, va)


def _readings(reader: "Reader", error: TranslationError) -> Mapping[str, Mapping[str, int]] | None:
    layout = reader.pte_layout or default_layout(reader.paging)
    return readings(error.entry or 0, layout, reader.invalid_pte_mask) or None


def _paged_out(reader: "Reader", va: int, error: TranslationError, said: Any, by: str) -> Explanation:
    number, page = error.pagefile or 0, error.pagefile_page or 0
    compressed = _compressed(reader, error, number)
    facts: dict[str, Any] = {"pagefile": number, "pagefile_page": page, "compressed": compressed}
    place, unless = f"page {page:#x} of page file {number}", ""
    if _may_be_free(reader, va, error):
        if (why := why_no_page_file(reader, number, page)) is not None:
            text = f"is not mapped: its {_name(error)} is a free entry of the kernel's own PTE ranges"
            text += f" (it would be {place}, but {why})"
            free: Explanation = said(text, "free_pte", readings=_readings(reader, error))
            return free
        facts |= {"certain": False, "readings": _readings(reader, error)}
        unless = ", unless its entry is a free one of the kernel's own PTE ranges (its bits do not tell)"
    result: Explanation
    if reader.is_readable(va):
        result = said(f"is read from {place}{by}{unless}", "from_pagefile", readable=True, **facts)
    elif compressed:
        hint = "its bytes are in the memory of the compression process"
        result = said(
            f"is in the compression store: compressed, in memory, as {place}{by}{unless}",
            "compressed", hint, **facts,
        )  # fmt: skip
    else:
        text = f"{'may be' if unless else 'is'} paged out to {place}{by}"
        if unless:
            text += ", or its entry is a free one of the kernel's own PTE ranges: its bits do not tell"
        if compressed is None:
            text += f"; {USUAL_STORE} is usually the compression store, so it may be compressed in memory"
        hint = f"give the page file with pagefiles={{{number}: PATH}}"
        result = said(text, "paged_out_or_free" if unless else "paged_out", hint, **facts)
    return result


def _compressed(reader: "Reader", error: TranslationError, number: int) -> bool | None:
    """Whether a paged-out page is compressed in memory: by InStore (7, 8); None if the number suggests it."""
    layout = reader.pte_layout or default_layout(reader.paging)
    value = error.prototype_value if error.prototype else error.entry
    if "InStore" in layout.software:
        return bool(layout.software["InStore"].of(value or 0))
    build = reader.owner.build
    if number == USUAL_STORE and (build is None or build >= _FIRST_STORE_BUILD):
        return None
    return False


def _name(error: TranslationError) -> str:
    return LEVEL_NAMES.get(error.level or 1, "entry")


# ---- triage dumps ----


def _triage(reader: "Reader", va: int) -> Explanation:
    dump = reader.owner
    for one in dump.ranges:
        if one.address <= va < one.address + one.size:
            offset = one.file_offset + va - one.address
            text = f"{va:#x} is readable at file offset {offset:#x}: the dump has it from its {one.origin}."
            readable = reader.is_readable(va)
            return Explanation(
                va, text, "readable", readable, "none", "triage", file_offset=offset, in_dump=True,
                ranges=((one.address, one.size),),
            )  # fmt: skip
    below = max(
        (one for one in dump.ranges if one.address <= va),
        key=lambda one: one.address + one.size,
        default=None,
    )
    above = min((one for one in dump.ranges if one.address > va), key=lambda one: one.address, default=None)
    near = tuple((one.address, one.size) for one in (below, above) if one is not None)
    words = [f"{start:#x}-{start + size - 1:#x}" for start, size in near]
    text = f"{va:#x} is in none of the ranges that this triage dump holds"
    text += f"; the nearest are {' and '.join(words)}." if words else "."
    return Explanation(
        va, text, "no_range", False, "none", "triage", in_dump=False, ranges=near,
        suggestion="a kernel or full dump has more than a triage dump",
    )  # fmt: skip


__all__ = ["Explanation", "explain"]
