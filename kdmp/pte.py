"""Page table entries decoded as Windows means them, and the chain of entries as `!pte` shows it.

`Reader.pte(va)` makes a PteView. Positions of fields come from `Dump.pte_layout`; the order of decisions
about an invalid entry is that of the Windows pager: prototype, transition, demand zero, page file.

SPDX-License-Identifier: MIT
"""

import html
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from kdmp._kdmp import NonCanonicalError, TranslationError, UnsupportedDumpError
from kdmp.protection import protection_name

if TYPE_CHECKING:
    from kdmp.reader import Reader
    from kdmp.symbols.mmpte import PteLayout

# Windows' names of the entries by level; ARM64 has them, too.
LEVEL_NAMES = {1: "PTE", 2: "PDE", 3: "PPE", 4: "PXE", 5: "P5E"}
_LEVELS = {"x64": 4, "la57": 5, "pae": 3, "x86": 2, "arm64": 4}
# What the core takes entries to be when nothing is known of the build.
_CURRENT = {"x64": 22000, "la57": 22000, "pae": 19041, "x86": 7601, "arm64": 26100}
# The bit that the L1TF update has been seen to set, for when the kernel's mask is not known.
USUAL_MASK = 1 << 45
_COLUMN = 27


class Decoded(NamedTuple):
    """What an entry says. `kind`: "table", "page" (valid), "transition", "prototype", "vad", "subsection",
    "demand_zero", "pagefile", "zero" or "bad"; `fields` by Windows' names; `pfn` if it names a frame."""

    kind: str
    fields: Mapping[str, int]
    pfn: int | None = None
    flags: str = ""
    protection: int | None = None
    address: int | None = None


@dataclass(frozen=True, slots=True)
class PteRow:
    """One entry of the chain.

    `level` counts from the leaf (0: a prototype PTE), `name` is Windows' for it. `va` is where the kernel
    sees the entry (by the self map), `pa` where it is in physical memory; None if not known. `kind` and
    `fields` are the entry decoded, `flags` the column of `!pte` for a valid one, `protection` the 5 bits of
    an invalid one, `address` that of a prototype PTE or subsection, `text` what `!pte` prints below the
    value.

    `readings` is for an entry of kernel space that is "pagefile" by its bits: it may as well be a free entry
    of the kernel's own PTE ranges, and these are its fields as "list" and as "timestamp". Else None.
    """

    level: int
    name: str
    va: int | None
    pa: int | None
    value: int
    kind: str
    pfn: int | None = None
    flags: str = ""
    protection: int | None = None
    address: int | None = None
    fields: Mapping[str, int] = field(default_factory=dict)
    text: tuple[str, ...] = ()
    readings: Mapping[str, Mapping[str, int]] | None = None

    @property
    def valid(self) -> bool:
        """Whether the CPU takes the entry."""
        return self.kind in ("table", "page")


@dataclass(frozen=True, slots=True)
class PteView:
    """The entries behind `va`, root first, as `Reader.pte` found them; `str()` is WinDbg's `!pte` form.

    `prototype` is the prototype PTE that the last entry refers to, if it could be read. `state` is that of
    `Translation.state`, `pa` the physical address of `va` (None without a page), `problem` says why the walk
    ended early. `layout` says where the positions of the fields are from.
    """

    va: int
    dtb: int
    paging: str
    rows: tuple[PteRow, ...]
    prototype: PteRow | None
    state: str
    pa: int | None
    problem: str | None
    layout: str

    def __str__(self) -> str:
        digits = 16 if self.paging in ("x64", "la57", "arm64") else 8
        # PAE's four root entries are not mapped anywhere, and !pte does not show them.
        shown = [row for row in self.rows if not (self.paging == "pae" and row.level == 3)]
        lines = _columns([_cells(row, digits, 8 if self.paging == "x86" else 16) for row in shown])
        width = max((len(line) for line in lines[:2]), default=0)
        out = [f"VA {self.va:0{digits}x}".rjust(max(width, 3 + digits)), *lines]
        if self.prototype is not None:
            out += ["", *_columns([_cells(self.prototype, digits, 8 if self.paging == "x86" else 16)])]
        if self.problem:
            out += ["", self.problem]
        return "\n".join(out)

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        titles = ("entry", "at", "physical", "value", "meaning")
        rows = [*self.rows, *([self.prototype] if self.prototype else [])]
        cells = [
            (
                row.name,
                "" if row.va is None else f"{row.va:#x}",
                "" if row.pa is None else f"{row.pa:#x}",
                f"{row.value:#018x}",
                "; ".join(line.strip() for line in row.text),
            )
            for row in rows
        ]
        head = "".join(f"<th>{title}</th>" for title in titles)
        body = "".join(
            "<tr>" + "".join(f"<td><code>{html.escape(cell)}</code></td>" for cell in line) + "</tr>"
            for line in cells
        )
        note = f"<p>{html.escape(self.problem)}</p>" if self.problem else ""
        return (
            f"<table><caption><code>{self.va:#x}</code></caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values that JSON can hold; None is left out."""
        facts = {
            name: value for name, value in asdict_plain(self).items() if name not in ("rows", "prototype")
        }
        facts["rows"] = [asdict_plain(row) for row in self.rows]
        if self.prototype is not None:
            facts["prototype"] = asdict_plain(self.prototype)
        return facts


def asdict_plain(record: Any) -> dict[str, Any]:
    """A dataclass as a dict without what is None."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(record).items()
        if value is not None
    }


def _cells(row: PteRow, digits: int, entry_digits: int) -> list[str]:
    if row.va is not None:
        at = f"{row.name} at {row.va:0{digits}X}"
    else:
        at = f"{row.name} at physical {row.pa or 0:X}"
    return [at, f"contains {row.value:0{entry_digits}X}", *row.text]


def _columns(columns: list[list[str]]) -> list[str]:
    height = max((len(column) for column in columns), default=0)
    widths = [max(_COLUMN, *(len(cell) + 2 for cell in column)) for column in columns]
    return [
        "".join(
            (column[k] if k < len(column) else "").ljust(width)
            for column, width in zip(columns, widths, strict=True)
        ).rstrip()
        for k in range(height)
    ]


# ---- decoding ----


@cache
def default_layout(paging: str) -> "PteLayout":
    """The entries of current builds: what the core assumes when the build is not known."""
    from kdmp.symbols.mmpte import pte_layout

    return pte_layout(None, paging, _CURRENT[paging])


def decode_entry(
    value: int, level: int, paging: str, layout: "PteLayout", mask: int | None, *, prototype: bool = False
) -> Decoded:
    """Decode one entry of a page table, or, with `prototype`, a prototype PTE.

    `mask` is the kernel's InvalidPteMask; None undoes the usual one. Nothing is read: whether a frame or an
    address makes sense is for the caller to find out.
    """
    if value & 1:
        return _decode_valid(value, level, paging, layout)
    if value == 0:
        return Decoded("zero", {})
    if paging == "pae" and level == 3:
        return Decoded("bad", {})
    high = layout.software["PageFileHigh"]
    if high.of(value) == (1 << high.width) - 1:
        return Decoded("vad", layout.decode("prototype", value), protection=_protection(layout, value, True))
    plain = unswizzle(value, layout, mask)
    if value >> 10 & 1:
        kind = "subsection" if prototype else "prototype"
        fields = layout.decode(kind, plain)
        address = _address(fields, "SubsectionAddress" if prototype else "ProtoAddress", layout)
        return Decoded(kind, fields, protection=_protection(layout, value, not prototype), address=address)
    protection = _protection(layout, value, False)
    if value >> 11 & 1:
        fields = layout.decode("transition", plain)
        return Decoded("transition", fields, pfn=fields.get("PageFrameNumber"), protection=protection)
    fields = layout.decode("software", plain)
    empty = fields["PageFileHigh"] == 0 and fields["PageFileLow"] == 0
    return Decoded("demand_zero" if empty else "pagefile", fields, protection=protection)


def unswizzle(value: int, layout: "PteLayout", mask: int | None) -> int:
    """Return an invalid entry without the bits that the L1TF update added."""
    if not layout.swizzle or value == 0 or layout.software["SwizzleBit"].of(value):
        return value
    return value & ~(USUAL_MASK if mask is None else mask)


def _protection(layout: "PteLayout", value: int, prototype: bool) -> int | None:
    bits = (layout.prototype if prototype else layout.software).get("Protection")
    return None if bits is None else bits.of(value)


def _address(fields: Mapping[str, int], name: str, layout: "PteLayout") -> int | None:
    if name in fields:
        return fields[name] & (1 << 64) - 1
    low = layout.prototype.get("ProtoAddressLow")
    if name == "ProtoAddress" and low is not None and low.width == 8:  # Vista and 7 without PAE
        high_part = fields["ProtoAddressHigh"] << 10 & 0x7FFF_FFFF
        return 0x8000_0000 | high_part | fields["ProtoAddressLow"] << 2
    return None


def _decode_valid(value: int, level: int, paging: str, layout: "PteLayout") -> Decoded:
    large = level > 1 and _is_large(value, level, paging)
    kind = "page" if level <= 1 or large else "table"
    pa = value & (0xFFFF_F000 if paging == "x86" else 0x000F_FFFF_FFFF_F000)
    if large:
        shift = 22 if paging == "x86" else 12 + 9 * (level - 1)
        high = (value >> 13 & 0xFF) << 32 if paging == "x86" else 0
        pa = pa >> shift << shift | high
    flags = _arm64_flags(value, large) if paging == "arm64" else _x86_flags(value, large, level, paging)
    fields = layout.decode("hardware", value) if layout.hardware else {}
    return Decoded(kind, fields, pfn=pa >> 12, flags=flags)


def _is_large(value: int, level: int, paging: str) -> bool:
    if paging == "arm64":
        return not value & 2
    return bool(value & 0x80) and level <= (3 if paging in ("x64", "la57") else 2)


def _letters(*pairs: tuple[object, str]) -> str:
    """The flags column: a letter where a bit is set, with another after "/" where it is not."""
    return "".join(
        letters[0] if bit else (letters[2] if letters[1:2] == "/" else "-") for bit, letters in pairs
    )


def _x86_flags(value: int, large: bool, level: int, paging: str) -> str:
    return _letters(
        (value & 0x200, "C"), (value & 0x100, "G"), (large, "L"), (value & 0x40, "D"), (value & 0x20, "A"),
        (value & 0x10, "N"), (value & 8, "T"), (value & 4, "U/K"),
        (value & 2 or (value & 0x800 and (large or level <= 1)), "W/R"),
        (paging == "x86" or not value >> 63, "E"), (1, "V"),
    )  # fmt: skip


def _arm64_flags(value: int, large: bool) -> str:
    return _letters(
        (value >> 56 & 1, "C"), (not value >> 11 & 1, "G"), (large, "L"), (not value >> 7 & 1, "D"),
        (value >> 10 & 1, "A"), (0, "N"), (0, "T"), (value >> 6 & 1, "U/K"),
        (value >> 55 & 1 or not value >> 7 & 1, "W/R"),
        (not value >> (54 if value >> 6 & 1 else 53) & 1, "E"), (1, "V"),
    )  # fmt: skip


def _text(decoded: Decoded, digits: int) -> tuple[str, ...]:
    """What `!pte` prints below the value."""
    if decoded.kind in ("page", "table"):
        return (f"pfn {decoded.pfn or 0:<10x}{decoded.flags}",)
    fields, lines = decoded.fields, []
    if decoded.kind == "demand_zero":
        lines.append(" DemandZero")
    elif decoded.kind == "pagefile":
        lines += [f" PageFile: {fields['PageFileLow']:x}", f" Offset: {fields['PageFileHigh']:x}"]
    elif decoded.kind == "transition":
        lines.append(f" Transition: {decoded.pfn or 0:x}")
    elif decoded.kind == "prototype":
        lines.append(" Proto: " + (f"{decoded.address:0{digits}X}" if decoded.address is not None else "?"))
    elif decoded.kind == "vad":
        lines.append(" Proto: VAD")
    elif decoded.kind == "subsection":
        known = decoded.address is not None
        lines.append(" Subsection: " + (f"{decoded.address:0{digits}X}" if known else "?"))
    # A prototype reference without a protection takes that of the prototype PTE.
    if decoded.protection is not None and (decoded.protection or decoded.kind != "prototype"):
        lines.append(f" Protect: {decoded.protection:x} - {protection_name(decoded.protection)}")
    return ("not valid", *lines)


# ---- where entries are ----


def self_map_slot(reader: "Reader") -> int | None:
    """Return the index of the root entry that points to the root itself, which maps all page tables; None if
    there is none, or no such thing (x86). Kernel half only, as Windows has it."""
    if reader.paging not in ("x64", "la57", "arm64") or reader.dtb is None:
        return None
    mask = 0x0000_FFFF_FFFF_F000 if reader.paging == "arm64" else 0x000F_FFFF_FFFF_F000
    root = reader.dtb & mask
    table = reader.physical.read(root, 0x1000)
    for slot in range(256, len(table) // 8):
        entry = int.from_bytes(table[8 * slot : 8 * slot + 8], "little")
        if entry & 1 and entry & mask == root:
            return slot
    return None


def entry_address(va: int, level: int, paging: str, slot: int | None) -> int | None:
    """Return where the kernel sees the entry of `va` at `level`, None if it does not see it."""
    if paging == "x86":
        return 0xC000_0000 + (va >> 12) * 4 if level == 1 else 0xC030_0000 + (va >> 22) * 4
    if paging == "pae":
        return {1: 0xC000_0000 + (va >> 12) * 8, 2: 0xC060_0000 + (va >> 21) * 8}.get(level)
    if slot is None:
        return None
    bits = 57 if paging == "la57" else 48
    base = slot << bits - 9
    if slot >= 256:
        base |= (1 << 64) - (1 << bits)
    for _ in range(level):
        va = base + ((va & (1 << bits) - 1) >> 12) * 8
    return va


def pte_view(reader: "Reader", va: int) -> PteView:
    """What `Reader.pte` returns."""
    if reader.paging not in _LEVELS:
        raise UnsupportedDumpError(f"a {reader.paging} reader has no page tables")
    layout = reader.pte_layout or default_layout(reader.paging)
    problem: str | None = None
    pa: int | None
    try:
        walk = reader.translate(va)
        entries, state, pa = walk.entries, walk.state, walk.pa
        prototype, prototype_value = walk.prototype, walk.prototype_value
    except NonCanonicalError:
        raise
    except TranslationError as error:
        entries, state, pa = error.entries, error.state or "none", None
        prototype, prototype_value = error.prototype, error.prototype_value
        problem = str(error) if state in ("table", "bad", "none") else None
    slot = self_map_slot(reader)
    digits = 8 if reader.paging in ("x86", "pae") else 16
    rows = []
    for place, entry in enumerate(entries):
        decoded = decode_entry(entry.value, entry.level, reader.paging, layout, reader.invalid_pte_mask)
        # The walk has tried what the frame and the address are; decoding alone cannot.
        if decoded.kind == "transition":
            following = entries[place + 1].pa if place + 1 < len(entries) else pa
            if following is not None and prototype is None:
                decoded = decoded._replace(pfn=following >> 12)
        elif decoded.kind == "prototype" and prototype and place == len(entries) - 1:
            decoded = decoded._replace(address=prototype)
        text = _text(decoded, digits)
        if decoded.kind == "page" and entry.level > 1 and pa is not None:
            text += (f"LARGE PAGE pfn {pa >> 12:x}",)
        rows.append(
            PteRow(
                entry.level,
                "PDPTE" if reader.paging == "pae" and entry.level == 3 else LEVEL_NAMES[entry.level],
                entry_address(va, entry.level, reader.paging, slot),
                entry.pa,
                entry.value,
                text=text,
                readings=_other_readings(reader, va, entry.value, decoded, layout),
                **decoded._asdict(),
            )
        )
    behind = None
    if prototype and prototype_value is not None:
        behind = _prototype_row(reader, layout, prototype, prototype_value, pa, digits)
    return PteView(va, reader.dtb or 0, reader.paging, tuple(rows), behind, state, pa, problem, layout.source)


def _other_readings(
    reader: "Reader", va: int, value: int, decoded: Decoded, layout: "PteLayout"
) -> Mapping[str, Mapping[str, int]] | None:
    """What else an entry may be whose bits say that the page is paged out, or look it up in the VAD."""
    from kdmp.freeptes import is_kernel, readings

    if decoded.kind not in ("pagefile", "vad") or not is_kernel(reader.paging, va):
        return None
    return readings(value, layout, reader.invalid_pte_mask) or None


def _prototype_row(
    reader: "Reader", layout: "PteLayout", va: int, value: int, pa: int | None, digits: int
) -> PteRow:
    decoded = decode_entry(value, 1, reader.paging, layout, reader.invalid_pte_mask, prototype=True)
    if decoded.kind == "transition" and pa is not None:
        decoded = decoded._replace(pfn=pa >> 12)
    place = reader.try_translate(va)
    if place is None and reader.kernel_dtb:
        place = reader.at(reader.kernel_dtb).try_translate(va)
    where = None if place is None else place.pa
    text = _text(decoded, digits)
    return PteRow(0, "Proto PTE", va, where, value, text=text, **decoded._asdict())
