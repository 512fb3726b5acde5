"""Entries of the kernel's own PTE ranges: not paged out, though they look it.

A free entry of these ranges is an `_MMPTE_LIST` (the next free entry) or an `_MMPTE_TIMESTAMP` (when it was
freed); in kernel space nothing in the entry tells them from a page-file entry. What can be known are the
page files of the machine: an entry that names none of them is a free one.

SPDX-License-Identifier: MIT
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kdmp._kdmp import KdmpError
from kdmp.mappings import bounds
from kdmp.pte import unswizzle

if TYPE_CHECKING:
    from kdmp.reader import Reader
    from kdmp.symbols.mmpte import PteLayout

MAX_PAGE_FILES = 16
"""An entry has 4 bits for the number of a page file."""

_VALID_PROTOTYPE_TRANSITION = 0xC01


def is_kernel(paging: str, va: int) -> bool:
    """Whether `va` is in the kernel's half of the address space (on x86 from 2 GiB on)."""
    return bounds(paging, va, va, "user") is None


def readings(value: int, layout: "PteLayout", mask: int | None) -> dict[str, dict[str, int]]:
    """What an invalid entry says as "list" and as "timestamp", fields by Windows' names.

    Empty for an entry that is zero, valid, a prototype or in transition, which is none of these, and for
    kinds of which nothing is known in this build. `mask` is the kernel's InvalidPteMask; None undoes the
    usual one. Fields of `_MMPTE_LIST` and `_MMPTE_TIMESTAMP` as in public symbols.
    """
    if value == 0 or value & _VALID_PROTOTYPE_TRANSITION:
        return {}
    high = layout.software["PageFileHigh"]
    last = high.of(value) == (1 << high.width) - 1  # the end of a list has all bits set, the mask's too
    plain = value if last else unswizzle(value, layout, mask)
    return {kind: layout.decode(kind, plain) for kind in ("list", "timestamp") if layout.kind(kind)}


def page_files(reader: "Reader") -> Mapping[int, int | None] | None:
    """The machine's page files: number and size in pages (None: not known). None if they are not known.

    From the array MmPagingFile where the kernel has that symbol (7 and 8; later ones keep it in a structure
    whose layout is not bundled), else the number of them from the debugger data block. Nothing is believed
    that does not look like page files: then the answer is None.
    """
    if reader.kernel_dtb:
        reader = reader.at(reader.kernel_dtb)
    try:
        return _from_array(reader) or _from_count(reader)
    except (KdmpError, OverflowError):
        return None


def _from_array(reader: "Reader") -> dict[int, int | None] | None:
    layout, kernel = reader.owner.structure_layout, reader.owner.kernel
    if layout is None or not layout.exact or kernel is None or "MmPagingFile" not in layout.symbols:
        return None
    width = _pointer(reader)
    array = reader.try_read_exact(kernel.base + layout.symbol("MmPagingFile"), MAX_PAGE_FILES * width)
    if array is None:
        return None
    found: dict[int, int | None] = {}
    for number in range(MAX_PAGE_FILES):
        address = int.from_bytes(array[number * width : (number + 1) * width], "little")
        if not address:
            continue
        if not is_kernel(reader.paging, address):
            return None
        data = None
        if layout.has("_MMPAGING_FILE", "Size"):
            data = reader.try_read_exact(address + layout.offset("_MMPAGING_FILE", "Size"), width)
        found[number] = int.from_bytes(data or b"", "little") or None
    return found or None


def _from_count(reader: "Reader") -> dict[int, int | None] | None:
    """Page files are numbered from 0 without a gap."""
    kdbg = reader.owner.windows.kdbg
    address = kdbg.variable("MmNumberOfPagingFiles") if kdbg is not None else None
    if address is None or not is_kernel(reader.paging, address):
        return None
    data = reader.try_read_exact(address, 4)
    count = int.from_bytes(data or b"", "little")
    return dict.fromkeys(range(count)) if 0 < count <= MAX_PAGE_FILES else None


def _pointer(reader: "Reader") -> int:
    return 4 if reader.paging in ("x86", "pae") else 8


def why_no_page_file(reader: "Reader", number: int, page: int) -> str | None:
    """Why page `page` of page file `number` cannot exist on this machine; None if it may."""
    files = page_files(reader)
    if files is None:
        return None
    if number not in files:
        return f"the machine has no page file {number}"
    size = files[number]
    return f"page file {number} has only {size:#x} pages" if size is not None and page >= size else None


__all__ = ["MAX_PAGE_FILES", "is_kernel", "page_files", "readings", "why_no_page_file"]
