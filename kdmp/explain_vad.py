"""The part of `Reader.explain` that asks the VAD: what is at a user address the page tables do not know.

Whose address space it is, and what its VADs say, comes from `dump.windows`; without symbols, or where the
memory of it is missing, there is no answer and `explain` says what the page tables alone allow.

SPDX-License-Identifier: MIT
"""

from typing import TYPE_CHECKING, Any

from kdmp._kdmp import KdmpError, Translation, TranslationError

if TYPE_CHECKING:
    from kdmp.explain import Explanation
    from kdmp.reader import Reader
    from kdmp.windows.vadpages import VadPage
    from kdmp.windows.vads import Vad

_KINDS = {
    "private": "private memory", "write-watch": "private memory", "awe": "AWE memory",
    "large-pages": "memory of large pages", "image": "the image", "mapped": "the mapped file",
    "pagefile": "shared memory", "physical": "a view of physical memory", "rotate": "a rotating view",
}  # fmt: skip
_READ = "kdmp.windows.vads.read_page(process, va) reads it"


def explain_by_vad(reader: "Reader", va: int, error: TranslationError, said: Any) -> "Explanation | None":
    """Return the explanation that the VAD gives for an address whose entry is empty or refers to it.

    `said` makes an Explanation, see kdmp.explain. None if nobody can be asked.
    """
    from kdmp.windows.roots import owner
    from kdmp.windows.vadpages import vad_page

    try:
        process = owner(reader)
        if process is None:
            return None
        page = vad_page(process, va)
    except (KdmpError, OverflowError):
        return None
    empty = error.state == "zero"
    if page is None:
        what = "its entry is empty" if empty else "its entry says that a VAD describes the page"
        who = f"the process {_visible(process.name)}" if process.name else "the process"
        text = f"is not allocated: {what}, and no VAD of {who} covers it"
        result: Explanation = said(text, "not_allocated")
        return result
    facts = _facts(page, empty=empty)
    own = "has an empty entry" if empty else "has no entry of its own"
    answer: Explanation = _section(reader, page, own, said, facts) or _private(page, own, said, facts)
    return answer


def vad_of_page(reader: "Reader", va: int, walk: Translation) -> tuple[str, dict[str, Any]]:
    """Return in words and as facts the VAD of a shared page whose entry refers to it; "" for other pages."""
    from kdmp.pte import decode_entry, default_layout
    from kdmp.windows.roots import owner
    from kdmp.windows.vads import find

    layout = reader.pte_layout or default_layout(reader.paging)
    entry = decode_entry(walk.entries[-1].value, 1, reader.paging, layout, reader.invalid_pte_mask)
    if entry.kind != "vad":
        return "", {}
    try:
        process = owner(reader)
        vad = find(process, va) if process is not None else None
    except (KdmpError, OverflowError):
        vad = None
    if vad is None:
        return "", {}
    facts = {
        "vad_start": vad.start, "vad_end": vad.end, "vad_kind": vad.kind,
        "vad_protection": vad.protection_name, "file": vad.file, "prototype_value": walk.prototype_value,
    }  # fmt: skip
    return _place(vad), facts


def _facts(page: "VadPage", *, empty: bool) -> dict[str, Any]:
    vad = page.vad
    facts: dict[str, Any] = {
        "vad_start": vad.start, "vad_end": vad.end, "vad_kind": vad.kind,
        "vad_protection": vad.protection_name, "file": vad.file, "prototype": page.prototype,
        "prototype_value": page.value,
    }  # fmt: skip
    if empty:
        facts |= {"protection": vad.protection, "protection_name": vad.protection_name}
    return facts


def _visible(text: str) -> str:
    """Text from the dump for a sentence that may go to a terminal: no control characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _place(vad: "Vad") -> str:
    """The VAD in words, "the image \\Windows\\explorer.exe at 0x10000-0x1ffff, ReadOnly"."""
    what = _KINDS.get(vad.kind or "", "a section")
    file = f" {_visible(vad.file)}" if vad.file else ""
    return f"{what}{file} at {vad.start:#x}-{vad.end:#x}, {vad.protection_name}"


def _private(page: "VadPage", own: str, said: Any, facts: dict[str, Any]) -> Any:
    vad, place = page.vad, _place(page.vad)
    if page.state == "reserved":
        return said(f"is reserved, not committed: {place}", "reserved", **facts)
    if page.state == "committed":
        text = "is committed, but was never touched: Windows makes a page of zeros at the first access"
        return said(f"{text} ({place})", "demand_zero", **facts)
    if page.state == "untouched":
        text = f"was never touched: {place}"
        if vad.commit is not None:
            text += f", of whose {vad.size >> 12} pages {vad.commit} are committed"
        return said(
            text + "; it is a page of zeros if it is one of them, else only reserved", "untouched", **facts
        )
    if page.state == "other":
        return said(f"{own}, and no page is there now: {place}", "empty", **facts)
    text = f"{own}; its VAD is that of {place}, but its prototype PTE cannot be had ({page.why})"
    return said(text, "vad", **facts)


def _section(reader: "Reader", page: "VadPage", own: str, said: Any, facts: dict[str, Any]) -> Any:
    """What the prototype PTE says; None if there is none."""
    by = f"the VAD's prototype PTE at {page.prototype or 0:#x}"
    place = _place(page.vad)
    if page.state in ("valid", "transition") and page.pa is not None:
        return _resident(reader, page, own, said, facts)
    if page.state == "demand_zero":
        return said(f"is demand zero by {by}: {place}", "demand_zero", **facts)
    if page.state == "pagefile":
        fields = page.fields or {}
        number, offset = fields.get("PageFileLow", 0), fields.get("PageFileHigh", 0)
        facts |= {"pagefile": number, "pagefile_page": offset, "compressed": bool(fields.get("InStore"))}
        if facts["compressed"]:
            text = f"is in the compression store, as page {offset:#x} of page file {number}, by {by}: {place}"
            return said(text, "compressed", "its bytes are in the memory of the compression process", **facts)
        return said(
            f"is paged out to page {offset:#x} of page file {number} by {by}: {place}", "paged_out", **facts
        )
    if page.state == "subsection":
        hint = "take the bytes from the file or image that is mapped there"
        return said(f"belongs to {place}, and is not in memory by {by}", "file_backed", hint, **facts)
    if page.state == "zero":
        return said(f"is not committed: {by} is empty; {place}", "empty", **facts)
    return None


def _resident(reader: "Reader", page: "VadPage", own: str, said: Any, facts: dict[str, Any]) -> Any:
    pa = page.pa or 0
    pfn = pa >> 12
    run = next(iter(reader.dump.pages[pfn : pfn + 1].runs()), None)
    facts |= {"pa": pa, "pfn": pfn, "in_dump": run is not None}
    in_transition = ", in transition" if page.state == "transition" else ""
    text = (
        f"{own}, but the VAD's prototype PTE at {page.prototype or 0:#x} names frame {pfn:#x}{in_transition}"
    )
    where = _place(page.vad)
    if run is None:
        return said(f"{text}, which is not in this dump: {where}", "not_in_dump", **facts)
    offset = run.file_offset + (pa & 0xFFF)
    facts["file_offset"] = offset
    return said(f"{text}, at file offset {offset:#x}: {where}", "vad", _READ, **facts)


__all__ = ["explain_by_vad", "vad_of_page"]
