"""What has to be known of a kernel to read its invalid page table entries: their layout, and the L1TF mask.

The layout follows from the kernel's identity or from the build number, the place of the mask from the symbols
of the very build. Both are looked up once and kept in the user's cache as a few numbers, so that the next
`Dump.reader()` does not unpack structure layouts.

SPDX-License-Identifier: MIT
"""

import os
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from zlib import crc32

from kdmp._kdmp import KdmpError
from kdmp.symbols import cache as disk

if TYPE_CHECKING:
    from kdmp.dump import Dump
    from kdmp.symbols.layouts import Layout
    from kdmp.symbols.mmpte import PteLayout

PteFormat: TypeAlias = tuple[int, int, int, int, int, int, int, int, int]

# Bits that a mask can have: those of a physical address above 4 GiB.
_MASK_BITS = 0x000F_FFFF_0000_0000

_SYMBOLS = os.path.join(os.path.dirname(__file__), "symbols")


class MmFacts(NamedTuple):
    """`pte_format` for `Reader` (None: the core's), the L1TF `mask` (None: unknown), its `mask_source`."""

    pte_format: PteFormat | None
    mask: int | None
    mask_source: str


def pte_format(layout: "PteLayout") -> PteFormat | None:
    """Return the nine numbers of `Reader.pte_format`, None if the layout has no positions for them."""
    software, transition, prototype = layout.software, layout.transition, layout.prototype
    if not {"PageFileHigh", "PageFileLow", "Protection"} <= software.keys():
        return None
    if "PageFrameNumber" not in transition:
        return None
    address = prototype.get("ProtoAddress")
    protection = prototype.get("Protection")
    # Vista and 7 without PAE: AddressLow has 8 bits. XP's 7 bits count from a pool base that is not known
    # here.
    low = prototype.get("ProtoAddressLow")
    return (
        transition["PageFrameNumber"].mask,
        software["SwizzleBit"].start if "SwizzleBit" in software else 0,
        software["Protection"].start,
        protection.start if protection is not None else 63,
        prototype["ReadOnly"].start if "ReadOnly" in prototype else 0,
        address.start if address is not None else 0,
        int(low is not None and low.width == 8),
        software["PageFileLow"].start,
        software["PageFileHigh"].start,
    )


def structure_layout(dump: "Dump") -> "Layout | None":
    """Return the structure layout that fits the kernel, chosen as `kdmp.windows.choose` does; None if there
    is none."""
    from kdmp.symbols.errors import SymbolError
    from kdmp.windows.choose import choose_layout

    try:
        return choose_layout(dump)
    except SymbolError:
        return None


def pte_layout(dump: "Dump") -> "PteLayout | None":
    """Return where the fields of page table entries are, None if build or paging mode is not known."""
    from kdmp.symbols.errors import SymbolError
    from kdmp.symbols.mmpte import pte_layout as choose

    mode = _mode(dump)
    if mode is None:
        return None
    try:
        return choose(dump.structure_layout, mode, dump.build)
    except (SymbolError, ValueError):
        return None


def _mode(dump: "Dump") -> str | None:
    try:
        paging = dump.paging
    except KdmpError:
        return None
    return paging if paging in ("x64", "la57", "x86", "pae", "arm64") else None


def mm_facts(dump: "Dump") -> MmFacts:
    """Return what a Reader of this dump should know."""
    if _mode(dump) is None:
        return MmFacts(None, None, "no page tables")
    known = _static_facts(dump)
    layout_format = known["format"]
    form: PteFormat | None = tuple(layout_format) if layout_format else None
    if form is not None and form[1] == 0:
        return MmFacts(form, 0, "entries of this build have no SwizzleBit")
    mask, source = _mask(dump, known)
    return MmFacts(form, mask, source)


def _static_facts(dump: "Dump") -> dict[str, Any]:
    """What depends on the kernel's image only: the format, and the RVA of the mask and its name."""
    key = _key(dump)
    found: dict[str, Any] | None = disk.load(key) if key else None
    if found is None or not _intact(found):
        found = _make(dump)
        if key:
            disk.store(key, found)
    return found


def _key(dump: "Dump") -> str | None:
    """Name in the cache: other data, other kernel, other name; None if the kernel has no identity."""
    image = dump.kernel.image if dump.kernel is not None else None
    if image is None and dump.build is None:
        return None
    try:
        version = _data_version()
    except OSError:
        return None
    identity = f"{image.symbol_id or image.image_id}" if image else "build"
    # The user's symbol files may say more.
    own = os.environ.get("KDMP_SYMBOLS", "") if dump.symbols is None else os.pathsep.join(dump.symbols)
    places = f"-{crc32(own.encode()):08x}" if own else ""
    return f"pte-2-{version}/{identity}-{dump.build or 0}-{_mode(dump)}{places}"


@cache
def _data_version() -> str:
    """A checksum of which files the facts come from; OSError if they are no plain files."""
    places = [_SYMBOLS, os.path.join(_SYMBOLS, "data")]
    files = [entry for place in places for entry in os.scandir(place) if entry.is_file()]
    facts = sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in files)
    return f"{crc32(repr(facts).encode()):08x}"


def _intact(found: Any) -> bool:
    """Whether a value of the cache has the form that _make() gives it."""
    if not isinstance(found, dict) or found.keys() != {"format", "rva", "name"}:
        return False
    form, rva = found["format"], found["rva"]
    return (
        (form is None or (isinstance(form, list) and len(form) == 9 and _numbers(form)))
        and (rva is None or _numbers([rva]))
        and isinstance(found["name"], str)
    )


def _numbers(values: list[Any]) -> bool:
    """Whether these are a number of up to 64 bits and, behind it, bit numbers."""
    wide = all(type(value) is int and 0 <= value < 1 << 64 for value in values)
    return wide and all(value < 64 for value in values[1:])


def _make(dump: "Dump") -> dict[str, Any]:
    layout, entries = dump.structure_layout, dump.pte_layout
    form = pte_format(entries) if entries is not None else None
    rva, name = None, ""
    if layout is not None and layout.exact:
        if "MiInvalidPteMask" in layout.symbols:
            rva, name = layout.symbol("MiInvalidPteMask"), "MiInvalidPteMask"
        elif "MiState" in layout.symbols and layout.has("_MI_SYSTEM_INFORMATION", "Hardware.InvalidPteMask"):
            rva = layout.symbol("MiState") + layout.offset(
                "_MI_SYSTEM_INFORMATION", "Hardware.InvalidPteMask"
            )
            name = "MiState.Hardware.InvalidPteMask"
    return {"format": list(form) if form else None, "rva": rva, "name": name}


def _mask(dump: "Dump", known: dict[str, Any]) -> tuple[int | None, str]:
    from kdmp.windows.kdbg import header_block

    reader = dump.reader(discover=False)
    if known["rva"] is not None and dump.kernel is not None:
        try:
            mask = reader.read_u64(dump.kernel.base + known["rva"])
        except (KdmpError, OverflowError):
            mask = -1
        if mask == 0 or mask & _MASK_BITS == mask:
            return mask, known["name"]
    block = header_block(dump, reader)
    if block is not None:
        high, swizzle = block.L1tfHighPhysicalBitIndex, block.L1tfSwizzleBitIndex
        if high is not None and swizzle == 4 and 32 <= high < 52:
            return 1 << high, "the debugger data block (L1tfHighPhysicalBitIndex)"
    return None, "not known: undone by trial"
