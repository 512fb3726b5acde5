"""Pages that the page tables do not know: "ask the VAD".

The entry of a user address may be empty, or say that the VAD describes the page. For private memory the VAD
then tells whether it is committed; for a view of a section its prototype PTE is found through the VAD, and
that one may name a frame. Order of decisions: that of the Windows pager. Source for prototype PTEs beyond
LastContiguousPte: the subsections' chain (_SUBSECTION).

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdmp._kdmp import FormatError, KdmpError, NonCanonicalError, TranslationError
from kdmp.mappings import bounds
from kdmp.pte import Decoded, decode_entry, default_layout
from kdmp.reader import Reader
from kdmp.windows.sections import is_kernel_address, walk_subsections
from kdmp.windows.vads import Vad, VadProcess, find

if TYPE_CHECKING:
    from kdmp.symbols.mmpte import PteLayout
    from kdmp.windows.session import Windows

__all__ = [
    "UserMemory", "VadPage", "asks_vad", "page_of", "read_page", "resolve", "section_views", "vad_page",
]  # fmt: skip

_PAGE = 0x1000
_MAX_RUNS = 1 << 12  # of one view
# What readers look at by themselves to read pages that the page tables do not know: VADs of all processes
# of a session, and subsections of the views of one process.
_MAX_LOOKED_AT = 1 << 21
MAX_SUBSECTIONS = 1 << 18
SECTION_TYPES = (0, 2)  # VadType of views with prototype PTEs of 4 KiB pages: None, ImageMap


# ---- what the VAD says of a page ----


@dataclass(frozen=True, slots=True)
class VadPage:
    """What a VAD says of the page at `va`.

    `state`: for private memory that was never touched "reserved", "committed" (zeros), or "untouched" if only
    some pages of the range are committed: it is one or the other; for a section, that of its prototype PTE:
    "valid", "transition", "demand_zero", "pagefile", "subsection" (in the file), "zero" (not committed);
    "other" for what has no prototype PTEs (devices, AWE, large pages), "unknown" with the reason `why`.

    `prototype` is the prototype PTE's address, `value` what it holds and `fields` that decoded; `pa` is where
    `va` is in physical memory, if it is.
    """

    va: int
    vad: Vad
    state: str
    prototype: int | None = None
    value: int | None = None
    pa: int | None = None
    fields: dict[str, int] | None = None
    why: str | None = None


def vad_page(process: VadProcess, va: int) -> VadPage | None:
    """Return what the VAD says of a user address, None if there is no VAD.

    The page tables are not asked: call it for an address whose entry is empty or says so. Raises as
    `vads.find`.
    """
    vad = find(process, va)
    return None if vad is None else page_of(vad, va)


def page_of(vad: Vad, va: int) -> VadPage:
    """Return what `vad` says of the page at `va`; ValueError if it does not cover it."""
    if not vad.contains(va):
        raise ValueError(f"{va:#x} is not in {vad!r}")
    if vad.private:
        if vad.type_value not in (0, 4):  # write-watch is common memory otherwise
            return VadPage(va, vad, "other")
        return VadPage(va, vad, _commitment(vad))
    if vad.type_value not in SECTION_TYPES:
        return VadPage(va, vad, "other")
    try:
        prototype = prototype_address(vad, va)
        value = _read_prototype(vad.windows, prototype)
    except (KdmpError, OverflowError) as error:
        return VadPage(va, vad, "unknown", why=str(error))
    return decode_prototype(vad, va, prototype, value)


def _commitment(vad: Vad) -> str:
    """Whether the untouched pages of private memory are committed."""
    if vad.mem_commit:
        return "committed"
    if vad.commit is None:
        return "untouched"
    if vad.commit >= vad.size // _PAGE:
        return "committed"
    return "untouched" if vad.commit else "reserved"


def prototype_address(vad: Vad, va: int) -> int:
    """Return the address of the prototype PTE of a page of a view.

    Up to LastContiguousPte they follow each other; beyond, the subsections say. Raises UnreadableError,
    SymbolError, and FormatError if what there is does not fit together.
    """
    windows = vad.windows
    size = windows.dump.pte_layout.size if windows.dump.pte_layout is not None else 8
    first, last = vad.first_prototype_pte, vad.last_contiguous_pte
    if first is None or last is None:
        raise FormatError(f"the prototype PTEs of {vad!r} cannot be had: {_first_problem(vad)}")
    if not is_kernel_address(windows, first, size):
        raise FormatError(f"FirstPrototypePte of {vad!r} is {first:#x}, no address of a PTE")
    number = (va - vad.start) // _PAGE
    address = first + number * size
    if address <= last:
        return _within(windows, address, size)
    subsection = vad.subsection
    if subsection is None:
        raise FormatError(f"{address:#x} is beyond the contiguous prototype PTEs of {vad!r}")
    return _in_subsections(vad, subsection.address, first, number, size)


def _in_subsections(vad: Vad, subsection: int, first: int, number: int, size: int) -> int:
    """The address of the prototype PTE `number` pages behind the one at `first`."""
    index: int | None = None
    for part in walk_subsections(vad.windows, subsection):
        base, count = part.pte_base, part.pte_count
        if base is None or count is None:
            raise FormatError(f"the subsection at {part.address:#x} cannot be read")
        if index is None:  # the view begins in this one
            if not base <= first < base + count * size or (first - base) % size:
                raise FormatError(
                    f"FirstPrototypePte {first:#x} is not in the subsection at {part.address:#x}"
                )
            index = (first - base) // size + number
        if index < count:
            if not base:
                raise FormatError(f"the subsection at {part.address:#x} has no prototype PTEs")
            return _within(vad.windows, base + index * size, size)
        index -= count
    raise FormatError(f"the subsections of {vad!r} end before the page")


def _within(windows: "Windows", address: int, size: int) -> int:
    if not is_kernel_address(windows, address, size):
        raise FormatError(f"a prototype PTE at {address:#x} is not possible")
    return address


def _first_problem(vad: Vad) -> str:
    return str(vad.problems[0]) if vad.problems else "they are not in this kind of VAD"


def _read_prototype(windows: "Windows", address: int) -> int:
    layout = windows.dump.pte_layout
    return windows.reader.read_uint(address, layout.size if layout is not None else 8)


def decode_prototype(vad: Vad, va: int, prototype: int, value: int) -> VadPage:
    """Decide what a prototype PTE says."""
    reader = vad.windows.reader
    layout: PteLayout = reader.pte_layout or default_layout(reader.paging)
    mask = reader.invalid_pte_mask
    entry = decode_entry(value, 1, reader.paging, layout, mask, prototype=True)
    if entry.kind == "transition" and mask is None and entry.pfn not in reader.owner.pages:
        # The mask is not known: the bits as they are, if that is a frame there is.
        entry = decode_entry(value, 1, reader.paging, layout, 0, prototype=True)
        if entry.pfn not in reader.owner.pages:
            return VadPage(va, vad, "unknown", prototype, value, why="its frame depends on the L1TF mask")
    state, why = _STATES.get(entry.kind), None
    if state is None:
        state, why = "unknown", f"the prototype PTE {value:#x} is none"
    pa = _frame(entry, va) if state in ("valid", "transition") else None
    return VadPage(va, vad, state, prototype, value, pa, dict(entry.fields), why)


# Kinds of Decoded by the state of a VadPage. All ones in the high half are a subsection's address here.
_STATES = {
    "page": "valid", "transition": "transition", "subsection": "subsection", "vad": "subsection",
    "demand_zero": "demand_zero", "pagefile": "pagefile", "zero": "zero",
}  # fmt: skip


def _frame(entry: Decoded, va: int) -> int | None:
    return None if entry.pfn is None else entry.pfn << 12 | va & 0xFFF


# ---- reading ----


def asks_vad(reader: Reader, va: int, error: TranslationError) -> bool:
    """Return whether a failed translation of a user address leaves the answer to the VAD."""
    if error.prototype or bounds(reader.paging, va, va, "user") is None:
        return False
    return error.state == "vad" or error.state == "zero"


def _reader(process: VadProcess) -> Reader | None:
    """The address space of a process, None if it has none."""
    try:
        return process.reader
    except KdmpError:
        return None


def resolve(process: VadProcess, va: int) -> int | None:
    """As `vads.resolve`."""
    reader = _reader(process)
    if reader is None:
        return None
    try:
        return reader.translate(va).pa
    except NonCanonicalError:
        return None
    except TranslationError as error:
        if not asks_vad(reader, va, error):
            return None
    try:
        page = vad_page(process, va)
    except (KdmpError, OverflowError):
        return None
    return None if page is None else page.pa


def read_page(process: VadProcess, va: int) -> bytes | None:
    """As `vads.read_page`."""
    reader, start = _reader(process), va & ~0xFFF
    if reader is None:
        return None
    data = reader.read(start, _PAGE)
    if len(data) == _PAGE:
        return data
    pa = resolve(process, start)
    return None if pa is None else reader.owner.phys.try_read_exact(pa, _PAGE)


class UserMemory:
    """The user memory of a process: what its page tables map, and what only its VADs lead to."""

    def __init__(self, process: VadProcess) -> None:
        self._process = process

    def read(self, va: int, size: int) -> bytes:
        """Return up to `size` bytes: those before the first hole."""
        reader = _reader(self._process)
        if reader is None:
            return b""
        data = bytearray(reader.read(va, size))
        while len(data) < size:
            at = va + len(data)
            page = read_page(self._process, at)
            if page is None:
                break
            data += page[at & 0xFFF : (at & 0xFFF) + size - len(data)]
            data += reader.read(va + len(data), size - len(data))
        return bytes(data)

    def read_exact(self, va: int, size: int) -> bytes:
        """Return exactly `size` bytes; raises what the process's reader raises for the first hole."""
        data = self.read(va, size)
        if len(data) == size:
            return data
        reader = self._process.reader
        if reader is None:
            raise FormatError("the process has no address space: its page-table root is not known")
        return reader.read_exact(va + len(data), size - len(data))


# ---- for readers ----


def section_views(reader: Reader) -> bytes:
    """Return where the prototype PTEs of the views of sections are, in the address space of a reader.

    Packed for `ReaderBase`: three unsigned 64-bit numbers each, the first address, the one behind the last,
    and the address of the first prototype PTE; ascending. b"" if nothing tells whose address space it is.
    """
    from kdmp.windows.roots import owner
    from kdmp.windows.vads import vads

    found: list[tuple[int, int, int]] = []
    try:
        process = owner(reader)
        if process is None:
            return b""
        spent: list[int] = process.windows.once("VADs of readers", lambda: [0])
        listing = vads(process) if spent[0] < _MAX_LOOKED_AT else []
    except (KdmpError, OverflowError):
        return b""
    spent[0] += len(listing)
    budget = [MAX_SUBSECTIONS]
    for vad in listing:
        if not vad.private and vad.type_value in SECTION_TYPES:
            found += section_runs(vad, budget)
    found.sort()
    end, kept = 0, []
    for run in found:  # of two that overlap neither is sure; the first stays
        if run[0] >= end:
            kept.append(run)
            end = run[1]
    return b"".join(number.to_bytes(8, "little") for run in kept for number in run)


def section_runs(vad: Vad, budget: list[int]) -> list[tuple[int, int, int]]:
    """The parts of a view whose prototype PTEs follow each other, as far as they are known.

    The subsections looked at are taken from `budget`, a list of one number.
    """
    runs: list[tuple[int, int, int]] = []
    try:
        for va, pages, first in _parts(vad, budget):
            runs.append((va, va + pages * _PAGE, first))
            if len(runs) == _MAX_RUNS:
                break
    except (KdmpError, OverflowError):
        pass  # what is known is known
    return runs


def _parts(vad: Vad, budget: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yield address, number of pages and address of the first prototype PTE of each part, in one walk along
    the subsections; their number is taken from `budget`."""
    windows = vad.windows
    size = windows.dump.pte_layout.size if windows.dump.pte_layout is not None else 8
    first, done, total = prototype_address(vad, vad.start), 0, vad.size // _PAGE
    last = vad.last_contiguous_pte
    if last is not None and first <= last:
        done = min((last - first) // size + 1, total)
        yield vad.start, done, first
    subsection = vad.subsection
    if done == total or subsection is None:
        return
    begin: int | None = None  # of the view, counted in pages from the first subsection on
    behind = 0  # pages of the subsections before
    for part in walk_subsections(windows, subsection.address):
        base, count = part.pte_base, part.pte_count
        budget[0] -= 1
        if base is None or count is None or budget[0] < 0:
            return
        if begin is None:
            if not base <= first < base + count * size or (first - base) % size:
                return
            begin = (first - base) // size
        at = begin + done - behind
        behind += count
        if at < count:
            if not base:
                return
            pages = min(count - at, total - done)
            yield vad.start + done * _PAGE, pages, _within(windows, base + at * size, size)
            done += pages
            if done == total:
                return
