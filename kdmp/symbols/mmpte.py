"""Where the fields of page table entries and of `_MMPFN` are, for a kernel build.

`pte_layout()` and `mmpfn_layout()` take the positions from the structure layouts where these have them and
belong to the build, else from the rule by build number in `mmpte_tables`. `source` says which, `certain`
whether the choice rests on the build's own type information or on a build number that settles it.

SPDX-License-Identifier: MIT
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from kdmp.symbols import mmpte_tables as tables
from kdmp.symbols.errors import SymbolError
from kdmp.symbols.structs import Layout, version_number

__all__ = ["KINDS", "Bits", "MmpfnLayout", "PfnField", "PteLayout", "mmpfn_layout", "pte_layout"]

KINDS = {
    "hardware": "_MMPTE_HARDWARE",
    "software": "_MMPTE_SOFTWARE",
    "transition": "_MMPTE_TRANSITION",
    "prototype": "_MMPTE_PROTOTYPE",
    "subsection": "_MMPTE_SUBSECTION",
    "list": "_MMPTE_LIST",
    "timestamp": "_MMPTE_TIMESTAMP",
}
"""The kinds of entries and the names of their structures."""

# The paging modes by any of their names -> what the tables are keyed by.
_MODES = {"x64": "x64", "la57": "x64", "x86": "x86", "pae": "pae", "arm64": "arm64"}
_FIRST_BUILD = {"x64": 3790, "x86": 2600, "pae": 2600, "arm64": 0}
_FILLER = re.compile(r"(Unused|Spare|[Rr]eserved|filler|DontUse)\d*")
_ITEM = re.compile(
    r"\s*(?P<minus>-)?(?P<name>\w+)(?:\s+(?P<place>[\w{}]+:[\w{}]+))?(?:\s+(?P<bits>\d+(?:-\d+)?))?\s*"
)

# Build numbers whose own type information went into the tables; the rule is sure for these.
_EXAMINED = {
    "x64": {
        *(3790, 6000, 6001, 6002, 7600, 7601, 9200, 9600, 10240, 10586, 14393, 15063, 17134, 17763),
        *(18362, 18363, *range(19041, 19046), 20348, 22000, 22621, 22631, 26100, 26200),
    },
    "x86": {2600, 3790, 6000, 6001, 6002, 7600, 7601},
    "pae": {
        *(2600, 7601, 9200, 9600, 10240, 10586, 14393, 16299, 17134, 17763, 18362, 18363),
        *range(19041, 19046),
    },
    "arm64": {18362, 18363, 26100, 26200},
}


class Bits(NamedTuple):
    """A field of an entry: lowest bit, number of bits, and whether it is sign-extended."""

    start: int
    width: int
    signed: bool = False

    @property
    def mask(self) -> int:
        """The field's bits in place."""
        return (1 << self.width) - 1 << self.start

    def of(self, value: int) -> int:
        """The field's value in the entry `value`; negative only for a signed field."""
        field = value >> self.start & (1 << self.width) - 1
        return field - (1 << self.width) if self.signed and field >> self.width - 1 else field


@dataclass(frozen=True, slots=True)
class PteLayout:
    """Bit positions of the page table entries of a kernel, by Windows' field names.

    `hardware` is for valid entries, the others for invalid ones; a kind that the build does not have, or of
    which nothing is known, is empty. `size` is that of an entry in bytes. `family` names the layout's
    generation; `swizzle` tells whether invalid entries have a SwizzleBit (the L1TF update).

    `certain` is false when neither type information of the build nor its number decides, as for a build of
    2009 to 2018 whose revision is not known: then `source` says what was assumed, and the values of the dump
    have to confirm it.
    """

    family: str
    arch: str
    size: int
    source: str
    certain: bool
    hardware: Mapping[str, Bits]
    software: Mapping[str, Bits]
    transition: Mapping[str, Bits]
    prototype: Mapping[str, Bits]
    subsection: Mapping[str, Bits]
    list: Mapping[str, Bits]
    timestamp: Mapping[str, Bits]

    @property
    def swizzle(self) -> bool:
        """Whether invalid entries have a SwizzleBit."""
        return "SwizzleBit" in self.software

    def kind(self, name: str) -> Mapping[str, Bits]:
        """The fields of one kind ("hardware", "software", ...); raises KeyError."""
        if name not in KINDS:
            raise KeyError(name)
        fields: Mapping[str, Bits] = getattr(self, name)
        return fields

    def decode(self, kind: str, value: int) -> dict[str, int]:
        """All fields of the entry `value`, taken as of this kind."""
        return {name: bits.of(value) for name, bits in self.kind(kind).items()}


class PfnField(NamedTuple):
    """A field of `_MMPFN`: `size` bytes at `offset`, of which `width` bits from bit `start` on."""

    offset: int
    size: int
    start: int
    width: int

    def of(self, entry: bytes | memoryview) -> int:
        """The field's value in the bytes of an entry."""
        whole = int.from_bytes(entry[self.offset : self.offset + self.size], "little")
        return whole >> self.start & (1 << self.width) - 1


@dataclass(frozen=True, slots=True)
class MmpfnLayout:
    """Where the fields of an element of the PFN database are.

    `size` is that of an element in bytes; `fields` has flat names ("PteAddress", "ShareCount", "PteFrame",
    "PageLocation", ...), and only those that the build has. `source`, `certain`: as of PteLayout.
    """

    family: str
    arch: str
    size: int
    source: str
    certain: bool
    fields: Mapping[str, PfnField]

    def __getitem__(self, name: str) -> PfnField:
        return self.fields[name]

    def __contains__(self, name: object) -> bool:
        return name in self.fields

    def decode(self, entry: bytes | memoryview) -> dict[str, int]:
        """All fields of an entry, from its bytes."""
        return {name: field.of(entry) for name, field in self.fields.items()}


def pte_layout(
    layout: Layout | None,
    arch: str,
    build: int | None = None,
    *,
    revision: int | None = None,
    swizzle: bool | None = None,
) -> PteLayout:
    """The layout of page table entries.

    `arch` is a paging mode: "x64", "la57", "x86" (4-byte entries), "pae" or "arm64". `build` is the build
    number of the dump (default: the layout's), `revision` its revision if known. `swizzle` says what the dump
    shows by other means (a mask for invalid entries exists, or does not); it decides between the forms before
    and after the L1TF update for builds that exist in both.

    Raises ValueError for an unknown `arch`, SymbolError when there is neither layout nor build.
    """
    mode, number = _mode(arch), _build_number(layout, build)
    if revision is None and layout is not None and layout.source.same_build:
        revision = layout.source.revision
    new, certain = _l1tf(mode, number, revision)
    if swizzle is not None and mode in ("x64", "pae") and not certain:
        new, certain = swizzle, True
    if layout is not None and _fits(layout, mode, number) and layout.has(KINDS["software"]):
        own_new = layout.has(KINDS["software"], "SwizzleBit")
        sure = layout.exact or number not in tables.LAST_OLD or (certain and own_new == new)
        contradicted = swizzle is not None and own_new != swizzle and number in tables.LAST_OLD
        if (layout.exact or not certain or own_new == new) and not contradicted:
            kinds = {kind: _from_layout(layout, struct) for kind, struct in KINDS.items()}
            family = _family(mode, number, own_new)
            return PteLayout(family, arch, _entry_size(mode), str(layout.source), sure, **kinds)
    kinds = {
        "hardware": _rule("HARDWARE", mode, number),
        **{
            kind: _rule(kind.upper(), _form(mode, kind_new), number)
            for kind, kind_new in dict.fromkeys(list(KINDS)[1:], new).items()
        },
    }
    family = _family(mode, number, new)
    sure = certain and number in _EXAMINED[mode]
    return PteLayout(family, arch, _entry_size(mode), f"rule {family}", sure, **kinds)


def mmpfn_layout(
    layout: Layout | None, arch: str, build: int | None = None, *, revision: int | None = None
) -> MmpfnLayout:
    """The layout of an element of the PFN database; arguments and errors as of pte_layout()."""
    mode, number = _mode(arch), _build_number(layout, build)
    if revision is None and layout is not None and layout.source.same_build:
        revision = layout.source.revision
    family = _pfn_family(mode, number)
    known = revision is not None or not (mode == "x64" and _is_19041(number))  # 19041 has two forms
    if layout is not None and _fits(layout, mode, number) and layout.has("_MMPFN", "PteAddress"):
        size = layout.size("_MMPFN")
        fields = _pfn_from_layout(layout)
        if size is not None and "PteFrame" in fields:
            return MmpfnLayout(family, arch, size, str(layout.source), layout.exact or known, fields)
    fields = _pfn_rule(mode, number, revision)
    # ARM64 was never seen; 2003 for x86 has another form before its service packs.
    examined = number in _EXAMINED[mode] and mode != "arm64" and (mode == "x64" or number != 3790)
    sure = known and examined
    size = {"x86": 0x18, "pae": 0x1C}.get(mode, 0x30)
    return MmpfnLayout(family, arch, size, f"rule {family}", sure, fields)


# --- choosing ----------------------------------------------------------------------------------------------


def _mode(arch: str) -> str:
    try:
        return _MODES[arch]
    except KeyError:
        raise ValueError(f"not a paging mode: {arch!r}; one of {', '.join(_MODES)}") from None


def _build_number(layout: Layout | None, build: int | None) -> int:
    if build is not None:
        return build
    if layout is None:
        raise SymbolError("neither a layout nor a build number to choose the page table entries by")
    if layout.source.same_build or not layout.source.wanted:
        return layout.build.number
    return version_number(layout.source.wanted)


def _fits(layout: Layout, mode: str, number: int) -> bool:
    """Whether `layout` speaks about the entries of this build in this mode."""
    if not layout.source.same_build and layout.build.number != number:
        return False
    if mode in ("x86", "pae"):
        return layout.arch == "x86" and layout.build.pae in (None, mode == "pae")
    return layout.arch == mode


def _l1tf(mode: str, number: int, revision: int | None) -> tuple[bool, bool]:
    """Whether the invalid entries have the form of the L1TF update, and whether that is certain."""
    if mode not in ("x64", "pae") or number < tables.FIRST_SERVICED:
        return False, True
    if number >= tables.FIRST_NEW:
        return True, True
    last_old = tables.LAST_OLD.get(number)
    if last_old is None:  # no release that was examined: 16299 on x64 has a table entry, previews do not
        return number > max(tables.LAST_OLD), False
    first_new = tables.FIRST_SEEN_NEW.get(number)
    if revision is None:
        return first_new is not None, False
    if revision <= last_old:
        return False, True
    if first_new is not None and revision >= first_new and mode == "x64":
        return True, True
    return revision >= tables.UPDATE.get(number, last_old + 1), False


def _form(mode: str, new: bool) -> str:
    return f"{mode}-{'new' if new else 'old'}" if mode in ("x64", "pae") else mode


def _entry_size(mode: str) -> int:
    return 4 if mode == "x86" else 8


def _family(mode: str, number: int, new: bool) -> str:
    """Name of the generation: "x64-old-7", "x64-new", "pae-old", "arm64", ..."""
    if mode != "x64":
        return _form(mode, new)
    if new:
        steps = [(28000, "28000"), (20348, "20348"), (14393, "new"), (9200, "new-8"), (0, "new-7")]
    else:
        steps = [(10240, "old-10"), (9200, "old-8"), (7600, "old-7"), (6000, "old-vista"), (0, "old-2003")]
    return "x64-" + next(name for first, name in steps if number >= first)


def _is_19041(number: int) -> bool:
    return 19041 <= number < 20348


def _pfn_family(mode: str, number: int) -> str:
    firsts = [first for first, _ in tables.PFN[_pfn_table(mode)]]
    return f"{mode}-{max(first for first in firsts if first <= max(number, firsts[0]))}"


def _pfn_table(mode: str) -> str:
    return "x86" if mode in ("x86", "pae") else "x64"  # ARM64 is taken to be as x64


# --- from the layouts --------------------------------------------------------------------------------------


def _from_layout(layout: Layout, struct: str) -> dict[str, Bits]:
    if not layout.has(struct):
        return {}
    fields = {}
    for field in layout.struct(struct):
        if field.type.kind == "bits" and not _FILLER.fullmatch(field.path):
            size = field.type.size or 8
            bit = field.offset * 8 + field.type.start
            fields[field.path] = _bits(field.path, bit, field.type.width, size)
    return fields


def _bits(name: str, start: int, width: int, size: int = 8) -> Bits:
    """ProtoAddress and SubsectionAddress of 48 bits are signed; the data do not tell."""
    signed = name in ("ProtoAddress", "SubsectionAddress") and width == 48 and size == 8
    return Bits(start, width, signed)


_PFN_PATHS = {
    "Flink": ("u1.Flink",),
    "Blink": ("u2.Blink",),
    "ShareCount": ("u2.ShareCount",),
    "PteAddress": ("PteAddress",),
    "OriginalPte": ("OriginalPte",),
    "ReferenceCount": ("u3.ReferenceCount", "u3.e2.ReferenceCount"),
    **{
        name: ("u3.e1." + name,)
        for name in "PageLocation WriteInProgress Modified ReadInProgress CacheAttribute".split()
    },
    **{
        name: ("u4." + name, "u3.e3." + name, "u3.e1." + name)
        for name in (
            "Priority Rom OnProtectedStandby InPageError KernelStack SystemChargedPage RemovalRequested "
            "ParityError PteFrame PrototypePte PageColor PfnImageVerified AweAllocation VerifierAllocation "
            "MustBeCached LockCharged Channel Partition FileOnly PfnExists PageIdentity ResidentPage "
            "ResidentPageContainsBadPages"
        ).split()
    },
}


def _pfn_from_layout(layout: Layout) -> dict[str, PfnField]:
    fields = {}
    for name, paths in _PFN_PATHS.items():
        path = next((path for path in paths if layout.has("_MMPFN", path)), None)
        if path is None:
            continue
        field = layout.field("_MMPFN", path)
        size = field.size or layout.pointer_size
        start, width = (field.type.start, field.type.width) if field.bit_width else (0, size * 8)
        fields[name] = PfnField(field.offset, size, start, width)
    return fields


# --- from the tables ---------------------------------------------------------------------------------------


@cache
def _rule(table: str, form: str, number: int) -> dict[str, Bits]:
    rows: tables.Table = getattr(tables, table)[form]
    entries: dict[str, tuple[str | None, str | None]] = {}
    for first, text in rows:
        if first <= number or (first == rows[0][0] and table != "TIMESTAMP"):
            entries = _apply(entries, text)
    size = 4 if form == "x86" else 8
    return {name: _bits(name, *_range(bits), size) for name, (_, bits) in entries.items() if bits is not None}


def _pfn_rule(mode: str, number: int, revision: int | None) -> dict[str, PfnField]:
    rows = tables.PFN[_pfn_table(mode)]
    entries: dict[str, tuple[str | None, str | None]] = {}
    for first, text in rows:
        if first <= number or first == rows[0][0]:
            entries = _apply(entries, text.format(u4=0x18 if mode == "pae" else 0x14, pte=_entry_size(mode)))
    early = revision is not None and revision <= tables.PFN_19041_LAST_EARLY
    if mode == "x64" and _is_19041(number) and early:
        entries = _apply(entries, tables.PFN_19041_EARLY)
    fields = {}
    for name, (place, bits) in entries.items():
        offset, size = (int(part, 0) for part in (place or "").split(":"))
        start, width = (0, size * 8) if bits is None else _range(bits)
        fields[name] = PfnField(offset, size, start, width)
    return fields


def _apply(
    entries: Mapping[str, tuple[str | None, str | None]], text: str
) -> dict[str, tuple[str | None, str | None]]:
    """The entries that a row of the tables makes of those before it."""
    items = [item.strip() for item in text.split(",") if item.strip()]
    result = dict(entries) if items[:1] == ["="] else {}
    for item in items:
        if item == "=":
            continue
        match = _ITEM.fullmatch(item)
        if match is None:
            raise ValueError(f"bad table entry {item!r}")
        if match["minus"]:
            del result[match["name"]]
        else:
            result[match["name"]] = match["place"], match["bits"]
    return result


def _range(text: str) -> tuple[int, int]:
    """Start and width of "5-9" or "3"."""
    first, _, last = text.partition("-")
    return int(first), int(last or first) - int(first) + 1
