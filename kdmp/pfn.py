"""The PFN database: what Windows remembers about each frame of RAM.

`Dump.pfns` is the view over the whole database, `Dump.pfn(n)` one entry of it:

    print(dump.pfn(0x69FC8))            # like WinDbg's !pfn
    dump.pfns.summary().states          # {"Zeroed": ..., "Free": ..., "Active": ..., "unknown": ...}

The database is an array of `_MMPFN`, indexed by frame number, at the address that the kernel's variable
MmPfnDatabase holds; entries exist for RAM only. Positions of the fields: `kdmp.symbols.mmpte`. Sources: type
information of public symbol files; the enumerations _MMLISTS (states) and _MI_PFN_CACHE_ATTRIBUTE; for the
way from an entry to a virtual address, the self map of the page tables.

SPDX-License-Identifier: MIT
"""

import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

from kdmp._kdmp import KdmpError, NotPresentError, PartialReadError, UnreadableError, UnsupportedDumpError
from kdmp.protection import protection_name
from kdmp.pte import decode_entry, self_map_slot
from kdmp.symbols import SymbolError
from kdmp.symbols.mmpte import MmpfnLayout, mmpfn_layout

if TYPE_CHECKING:
    from kdmp.dump import Dump
    from kdmp.reader import Reader
    from kdmp.symbols.layouts import Layout
    from kdmp.windows.kdbg import DebuggerData

__all__ = ["CACHE_ATTRIBUTES", "STATES", "PfnCount", "PfnDatabase", "PfnEntry", "PfnSummary"]

STATES = ("Zeroed", "Free", "Standby", "Modified", "ModifiedNoWrite", "Bad", "Active", "Transition")
"""Names of PageLocation by value (_MMLISTS)."""

CACHE_ATTRIBUTES = ("NonCached", "Cached", "WriteCombined", "NotMapped")
"""Names of CacheAttribute by value (_MI_PFN_CACHE_ATTRIBUTE)."""

_BAD, _ACTIVE, _TRANSITION = 5, 6, 7
# States in which PteAddress names the entry that maps the frame, or did until the frame was trimmed.
_MAPPED = frozenset({2, 3, 4, _ACTIVE, _TRANSITION})

_MAX_FRAME = 1 << 40
_MAX_FRAMES = 1 << 32  # 16 TiB of RAM; a list of RAM that has more is not believed
_MAX_RUNS = 4096
_HEADER_RUNS = {8: 43, 4: 86}  # so many runs fit into the header; there may be more
_MAX_ROWS = 1 << 26  # of an array: 256 GiB of RAM, 3.5 GB
_CHUNK = 1 << 16  # entries a read
_FIRST_RANDOM_BASE = 14393  # before, the database and the self map were at fixed addresses
_FIXED_BASE, _FIXED_PTE_BASE = 0xFFFFFA8000000000, 0xFFFFF68000000000

_UNKNOWN, _NO_RAM = 0x80, 0x81  # keys of a summary beyond those of entries


class _Tables(NamedTuple):
    """Page tables of a mode: levels that the self map shows, bits of an index, entry size, address bits."""

    levels: int
    index_bits: int
    entry: int
    va_bits: int

    @property
    def self_map_size(self) -> int:
        """How many bytes of addresses the self map takes."""
        return self.entry << self.va_bits - 12


_TABLES = {
    "x64": _Tables(4, 9, 8, 48),
    "la57": _Tables(5, 9, 8, 57),
    "arm64": _Tables(4, 9, 8, 48),
    "x86": _Tables(2, 10, 4, 32),
    "pae": _Tables(2, 9, 8, 32),
}


class _Place(NamedTuple):
    """Where the entry that PteAddress names is: its level, the addresses it stands for, and of the frame."""

    level: int
    region: int
    va: int


@dataclass(frozen=True, slots=True)
class PfnEntry:
    """What the PFN database says about the frame `pfn`; `address` is that of its _MMPFN.

    `state` is a name of STATES. A frame on a list (all but Active and Transition) has `flink` and `blink`,
    the frames before and after it (all ones: the end), and a `share_count` of 0; the others have
    `share_count`, and `flink` is a working set index or a pointer.

    `pte_address` is the VA of the page table entry that maps the frame, or did, without its lock bits; with
    `prototype`, that of the prototype PTE of a section. `original_pte` is what this entry will become when
    the page leaves memory, and `original` says it in words. `pte_frame` is the frame with the entry
    ("containing page").

    `kind` says what the frame is used for: "page", "large page" (a part of one), "page table", "page-table
    root", "prototype" (the page of a section), or None: no page, or not to be told. `level` is that of the
    mapping entry (1 = PT), and `region` the first address it stands for: of a page table, the first that the
    table maps. `va` is where the frame itself is seen, for a page table in the self map. `dtb` is the
    page-table root it belongs to, climbed by `pte_frame`: of user addresses that is the process; kernel
    tables belong to the process that made them, mostly System. Absent facts are None.

    `layout` says which layout the entry was decoded by.
    """

    pfn: int
    address: int
    state: str
    flink: int
    blink: int | None
    share_count: int
    reference_count: int
    pte_address: int
    original_pte: int
    original: str | None
    pte_frame: int
    priority: int | None
    cache: str | None
    color: int | None
    modified: bool
    write_in_progress: bool
    read_in_progress: bool
    removal_requested: bool
    parity_error: bool
    prototype: bool
    page_identity: int | None
    partition: int | None
    file_only: bool | None
    pfn_exists: bool | None
    kind: str | None
    level: int | None
    region: int | None
    va: int | None
    dtb: int | None
    pointer_size: int
    layout: str

    def to_dict(self) -> dict[str, Any]:
        """All facts by name; absent ones are left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        """The entry as WinDbg's !pfn prints it, and below where the frame is mapped, as far as known."""
        digits = 2 * self.pointer_size
        share = self.share_count if self.blink is None else self.blink
        letters = "".join(letter if on else " " for letter, on, _ in self._flags)
        words = " ".join(word for _, on, word in self._flags if on)
        detail = [self.cache or ""]
        detail += [f"color {self.color}"] if self.color is not None else []
        detail += [f"Priority {self.priority}"] if self.priority is not None else []
        lines = [
            f"    PFN {self.pfn:08X} at address {self.address:0{digits}X}",
            f"    flink       {self.flink:08X}  blink / share count {share:08X}"
            f"  pteaddress {self.pte_address:0{digits}X}",
            f"    reference count {self.reference_count:04X}    " + " ".join(f"{d:<10}" for d in detail),
            f"    restore pte {self.original_pte:08X}  containing page {self.pte_frame:06X}"
            f"  {self.state:<10} {letters}",
            f"    {words}",
        ]
        if self.kind is not None or self.region is not None:
            lines.append(f"    {self._where()}")
        return "\n".join(line.rstrip() for line in lines if line.strip())

    @property
    def _flags(self) -> Iterable[tuple[str, bool, str]]:
        """Letter, whether it is set, and word of each flag that !pfn shows."""
        yield "M", self.modified, "Modified"
        yield "P", self.prototype, "Shared"
        yield "R", self.read_in_progress, "ReadInProgress"
        yield "W", self.write_in_progress, "WriteInProgress"
        yield "X", self.removal_requested, "RemovalRequested"
        yield "E", self.parity_error, "ParityError"

    def _where(self) -> str:
        text = self.kind or f"page table or part of a large page, for addresses from {self.region:x} on"
        if self.va is not None:
            text += f" at va {self.va:x}"
        if self.kind == "page table" and self.region is not None:
            text += f", maps addresses from {self.region:x} on"
        if self.dtb is not None:
            text += f" {self.dtb:x}" if self.kind == "page-table root" else f", root {self.dtb:x}"
        return text


class PfnCount(NamedTuple):
    """How many `frames` have all of these properties."""

    state: str
    cache: str
    modified: bool
    prototype: bool
    frames: int


@dataclass(frozen=True, slots=True)
class PfnSummary:
    """Counts over the whole database.

    `counts` has a PfnCount for each combination that occurs. `unknown` are frames of RAM whose entries are
    not in the dump. `source` says how it was known which frames are RAM.
    """

    counts: tuple[PfnCount, ...]
    unknown: int
    source: str

    @property
    def total(self) -> int:
        """All frames of RAM, known or not."""
        return self.unknown + sum(count.frames for count in self.counts)

    @property
    def states(self) -> dict[str, int]:
        """Frames by state: all of STATES, and "unknown"."""
        found = self.by("state")
        return {**{state: found.get(state, 0) for state in STATES}, "unknown": self.unknown}

    def by(self, *names: str) -> dict[Any, int]:
        """Known frames by "state", "cache", "modified" or "prototype", or by several: then keys are tuples.

        Raises ValueError for another name.
        """
        if not names or not set(names) <= {"state", "cache", "modified", "prototype"}:
            raise ValueError(f"cannot count by {names}; by state, cache, modified, prototype")
        counts: Counter[Any] = Counter()
        for count in self.counts:
            values = tuple(getattr(count, name) for name in names)
            counts[values if len(names) > 1 else values[0]] += count.frames
        return dict(counts)

    def to_dict(self) -> dict[str, Any]:
        """States, cache attributes, numbers of shared and modified frames, the total."""
        return {
            "total": self.total,
            "states": self.states,
            "cache": self.by("cache"),
            "prototype": self.by("prototype").get(True, 0),
            "modified": self.by("modified").get(True, 0),
            "ram_source": self.source,
        }


class PfnDatabase:
    """The PFN database of a dump; get it from `Dump.pfns`.

    `pfns[n]` is the PfnEntry of a frame, `len(pfns)` the number of the highest frame plus one, `n in pfns`
    says whether the entry of `n` can be read, and iteration gives the entries that can be read.

    `base` is the address of the array, `source` which ways led to it, and `verified` whether the entry of
    the page-table root is what it has to be: contained in itself. `disagreeing` are ways that led elsewhere,
    and where. `layout` is the layout of an entry.

    Raises UnsupportedDumpError if there is no way to the database, SymbolError if nothing is known about
    its entries.
    """

    def __init__(self, dump: "Dump") -> None:
        self._dump = dump
        self._reader: Reader = dump.reader(discover=False)
        self._reader.strict = True
        mode = self._reader.paging if self._reader.paging in _TABLES else dump.arch
        if mode not in _TABLES:
            raise UnsupportedDumpError(f"the PFN database of {dump.arch} is not known")
        self._mode = mode
        self._tables = _TABLES[mode]
        self._width = dump.pointer_size
        self._symbols: Layout | None = dump.structure_layout
        self.layout: MmpfnLayout = mmpfn_layout(self._symbols, mode, dump.build)
        for name in ("PageLocation", "PteAddress", "PteFrame", "OriginalPte", "ReferenceCount"):
            if name not in self.layout:
                raise SymbolError(f"the layout of _MMPFN has no {name} ({self.layout.source})")
        self.base, self.source, self.verified, self.disagreeing = self._find_base()

    def __repr__(self) -> str:
        return f"<kdmp.PfnDatabase at {self.base:#x} ({self.source}), {len(self):#x} frames>"

    # ---- finding it ----

    def _pointer(self, va: int | None) -> int | None:
        """The pointer at `va`, None if it cannot be read."""
        if va is None or not 0 <= va < 1 << 64:
            return None
        data = self._reader.try_read_exact(va, self._width)
        return None if data is None else int.from_bytes(data, "little")

    def _symbol(self, name: str) -> int | None:
        """VA of a variable, if the symbols of this very kernel are known."""
        kernel = self._dump.kernel
        rva = self._symbols.symbols.get(name) if self._symbols is not None else None
        return None if rva is None or kernel is None else kernel.base + rva

    @cached_property
    def _debugger_data(self) -> "DebuggerData | None":
        from kdmp.windows.kdbg import find_kdbg

        return find_kdbg(self._dump, self._reader)

    def _kdbg(self, name: str) -> int | None:
        """A member of the debugger data block; None if the block is missing or does not provide it."""
        return (self._debugger_data[name] if self._debugger_data is not None else None) or None

    def _bases(self) -> Iterator[tuple[str, int | None]]:
        """Ways to the database, and where they lead."""
        dump, kernel = self._dump, self._dump.kernel
        variables = (self._symbol("MmPfnDatabase"), self._kdbg("MmPfnDatabase"))
        yield "symbol MmPfnDatabase", self._pointer(variables[0])
        yield "KDBG.MmPfnDatabase", self._pointer(variables[1])
        value = dump.pfn_database
        if value is not None:
            # The header has the address of the variable or what it holds, depending on the writer.
            inside = kernel is not None and kernel.base <= value < kernel.base + kernel.image.size
            if inside or value in variables or kernel is None:
                yield "header PfnDataBase (address of MmPfnDatabase)", self._pointer(value)
            if not inside and value not in variables:
                yield "header PfnDataBase (value)", value
        if self._mode == "x64" and dump.build is not None and dump.build < _FIRST_RANDOM_BASE:
            yield "fixed address before build 14393", _FIXED_BASE

    def _find_base(self) -> tuple[int, str, bool, tuple[tuple[str, int], ...]]:
        found = [(how, base) for how, base in self._bases() if base is not None and self._plausible(base)]
        if not found:
            raise UnsupportedDumpError(
                "the PFN database was not found: neither the symbols of this kernel nor KDBG nor the header's"
                " PfnDataBase lead to it"
            )
        checks = {base: self._check(base) for _, base in found}
        base = max((base for _, base in found), key=lambda base: checks[base])  # the first of the best
        ways = ", ".join(how for how, other in found if other == base)
        return base, ways, checks[base] == 2, tuple(way for way in found if way[1] != base)

    def _plausible(self, base: int) -> bool:
        """Whether `base` is an aligned address of the kernel half."""
        bits = self._tables.va_bits
        top = base >> bits - 1
        return base % self._width == 0 and top == (1 << 8 * self._width - bits + 1) - 1

    def _check(self, base: int) -> int:
        """2: the page-table root's entry is there and contained in itself; 1: entries are there; 0: none."""
        root = self._root
        first = next(iter(self._dump.pages), None)
        readable = False
        for pfn in (root, first):
            va = None if pfn is None else base + pfn * self.layout.size
            data = None
            if va is not None and va + self.layout.size <= 1 << 64:
                data = self._reader.try_read_exact(va, self.layout.size)
            if data is not None:
                readable = True
                if pfn == root and root and self.layout["PteFrame"].of(data) == root:
                    return 2
        return int(readable)

    @cached_property
    def _root(self) -> int | None:
        """Frame of the page-table root of this reader."""
        dtb = self._reader.dtb
        return None if dtb is None else (dtb & 0x000FFFFFFFFFF000) >> 12

    # ---- the self map ----

    @cached_property
    def pte_base(self) -> int | None:
        """Address of the page tables in the self map (MmPteBase); None if it cannot be found."""
        if self._width == 4:
            return 0xC0000000
        slot = self_map_slot(self._reader)
        found = None if slot is None else self._extend(slot << self._tables.va_bits - 9)
        if found is None:
            found = self._pointer(self._symbol("MmPteBase")) or self._kdbg("PteBase")
        if found is None and self._mode == "x64" and (self._dump.build or _MAX_FRAME) < _FIRST_RANDOM_BASE:
            found = _FIXED_PTE_BASE
        return found

    def _extend(self, va: int) -> int:
        """`va` in its canonical form."""
        bits, width = self._tables.va_bits, 8 * self._width
        va &= (1 << bits) - 1
        return va | ((1 << width) - (1 << bits) if va >> bits - 1 and bits < width else 0)

    def _place(self, pte: int) -> _Place | None:
        """Level and region of the page table entry at `pte`; None if that is no address in the self map."""
        base, tables = self.pte_base, self._tables
        if base is None or not base <= pte < base + tables.self_map_size:
            return None
        va = region = self._extend((pte - base) // tables.entry << 12)
        level = 1
        while level < tables.levels and base <= region < base + tables.self_map_size:
            region = self._extend((region - base) // tables.entry << 12)
            level += 1
        return _Place(level, region, va)

    # ---- entries ----

    def _raw(self, pfn: int) -> tuple[int, bytes]:
        """Address and bytes of an entry; UnreadableError if they cannot be had."""
        address = self.base + pfn * self.layout.size
        if not 0 <= pfn < _MAX_FRAME or address + self.layout.size > 1 << 8 * self._width:
            raise UnreadableError(f"frame {pfn:#x} is beyond any PFN database")
        try:
            return address, self._reader.read_exact(address, self.layout.size)
        except PartialReadError as exc:
            error = exc.reason if exc.reason is not None else exc
            error.add_note(f"read: the entry of frame {pfn:#x} in the PFN database at {self.base:#x}")
            raise error from None

    def __getitem__(self, pfn: SupportsIndex) -> PfnEntry:
        """The entry of a frame.

        Raises UnreadableError: the plain one if the frame is not RAM, else the one of the read that failed.
        """
        number = operator.index(pfn)
        runs, source = self._ram
        if source is not None and not any(first <= number < first + count for first, count in runs):
            raise UnreadableError(
                f"frame {number:#x} is not RAM of this machine, whose last is {len(self) - 1:#x} ({source})"
            )
        return self._decode(number, *self._raw(number))

    def __contains__(self, pfn: object) -> bool:
        try:
            self._raw(operator.index(pfn))  # type: ignore[arg-type]
        except (TypeError, KdmpError):
            return False
        return True

    def __len__(self) -> int:
        return max((first + count for first, count in self.ram), default=0)

    def __iter__(self) -> Iterator[PfnEntry]:
        size = self.layout.size
        for first, data, missing in self._chunks(0, _MAX_FRAME):
            absent = {index for start, stop, _ in missing for index in range(start, stop)}
            for index in range(len(data) // size):
                if index not in absent:
                    entry = data[index * size : (index + 1) * size]
                    yield self._decode(first + index, self.base + (first + index) * size, entry)

    def _decode(self, pfn: int, address: int, data: bytes) -> PfnEntry:
        fields = self.layout.decode(data)
        state = fields["PageLocation"]
        listed = state < _ACTIVE
        pte = fields["PteAddress"] & ~7 if self._width == 8 else fields["PteAddress"] & ~3
        prototype = bool(fields.get("PrototypePte"))
        kind = "prototype" if prototype and state in _MAPPED else None
        place, dtb = None, None
        if state in _MAPPED and not prototype:
            kind, place, dtb = self._use(pfn, pte, fields["PteFrame"])
        cache = fields.get("CacheAttribute")
        return PfnEntry(
            pfn=pfn,
            address=address,
            state=STATES[state],
            flink=fields.get("Flink", 0),
            blink=fields.get("Blink", 0) if listed else None,
            share_count=0 if listed else fields.get("ShareCount", 0),
            reference_count=fields["ReferenceCount"],
            pte_address=pte,
            original_pte=fields["OriginalPte"],
            original=self._original(fields["OriginalPte"]),
            pte_frame=fields["PteFrame"],
            priority=fields.get("Priority"),
            cache=None if cache is None else CACHE_ATTRIBUTES[cache],
            color=fields.get("PageColor"),
            modified=bool(fields.get("Modified")),
            write_in_progress=bool(fields.get("WriteInProgress")),
            read_in_progress=bool(fields.get("ReadInProgress")),
            removal_requested=bool(fields.get("RemovalRequested")),
            parity_error=bool(fields.get("ParityError")),
            prototype=prototype,
            page_identity=fields.get("PageIdentity"),
            partition=fields.get("Partition"),
            file_only=bool(fields["FileOnly"]) if "FileOnly" in fields else None,
            pfn_exists=bool(fields["PfnExists"]) if "PfnExists" in fields else None,
            kind=kind,
            level=place.level if place is not None else None,
            region=place.region if place is not None else None,
            va=place.va if place is not None and kind is not None else None,
            dtb=dtb,
            pointer_size=self._width,
            layout=self.layout.source,
        )

    def _original(self, value: int) -> str | None:
        """An OriginalPte in words, such as "demand zero, ReadWrite"; None if it is no software PTE."""
        layout = self._dump.pte_layout
        if layout is None or value & 1:
            return None
        decoded = decode_entry(value, 1, self._mode, layout, self._dump.invalid_pte_mask, prototype=True)
        words = {"demand_zero": "demand zero", "pagefile": "page file"}.get(decoded.kind, decoded.kind)
        if decoded.kind == "pagefile":
            words += f" {decoded.fields['PageFileLow']:x}, page {decoded.fields['PageFileHigh']:x}"
        elif decoded.address is not None:
            words += f" {decoded.address:x}"
        return words if decoded.protection is None else f"{words}, {protection_name(decoded.protection)}"

    # ---- from a frame to its address ----

    def _use(self, pfn: int, pte: int, frame: int) -> tuple[str | None, _Place | None, int | None]:
        """What a frame that is not of a section is used for, where it is mapped, and under which root."""
        path, root = self._climb(pfn)
        dtb = None if root is None else root << 12
        if root == pfn:
            return "page-table root", None, dtb
        place = self._place(pte)
        if place is None:
            place = self._place_by(path) if root is not None and self.pte_base is None else None
            if place is None:
                return None, None, dtb
        if place.level == 1:
            return "page", place, dtb
        kind, va = self._upper(pfn, frame << 12 | pte & 0xFFF, place)
        return kind, place._replace(va=va), dtb

    def _upper(self, pfn: int, entry_pa: int, place: _Place) -> tuple[str | None, int]:
        """Whether the entry above the lowest level maps `pfn` as part of a large page, or as a page table."""
        try:
            data = self._dump.phys.try_read_exact(entry_pa, self._tables.entry)
        except UnsupportedDumpError:
            data = None
        if data is None:
            return None, place.va
        entry = int.from_bytes(data, "little")
        first = (entry & (0x000FFFFFFFFFF000 if self._tables.entry == 8 else 0xFFFFF000)) >> 12
        large = entry & 1 and (not entry & 2 if self._mode == "arm64" else entry & 0x80)
        count = 1 << self._tables.index_bits * (place.level - 1)
        if large and place.level <= 3:
            first -= first % count  # bit 12 is PAT
            if first <= pfn < first + count:
                return "large page", place.region + (pfn - first << 12)
        elif first == pfn:
            return "page table", place.va
        return None, place.va

    def _climb(self, pfn: int) -> tuple[list[int], int | None]:
        """The addresses of the entries from `pfn` up to the root, and the root.

        A root is contained in itself. None without one: an entry on the way is missing, of a section, or the
        chain does not end. PAE roots are no page tables of the self map, so there is nothing to climb to.
        """
        path: list[int] = []
        if self._mode == "pae":
            return path, None
        for _ in range(self._tables.levels + 1):
            try:
                _, data = self._raw(pfn)
            except UnreadableError:
                return path, None
            if "PrototypePte" in self.layout and self.layout["PrototypePte"].of(data):
                return path, None
            path.append(self.layout["PteAddress"].of(data))
            above = self.layout["PteFrame"].of(data)
            if above == pfn:
                return path, pfn
            pfn = above
        return path, None

    def _place_by(self, path: list[int]) -> _Place | None:
        """As _place(), from the way to the root when the self map was not found.

        The offset of each entry in its table is the index of that level.
        """
        tables = self._tables
        steps = path[:-1]  # the last is the root's own entry
        level = tables.levels - len(steps) + 1
        if level > tables.levels:
            return None
        region = 0
        for step, pte in enumerate(steps):
            index = (pte & 0xFFF) // tables.entry
            region |= index << 12 + tables.index_bits * (level - 1 + step)
        region = self._extend(region)
        return _Place(level, region, region)

    # ---- the whole database ----

    @property
    def ram(self) -> tuple[tuple[int, int], ...]:
        """The runs of frames that the database covers: (first, count), ascending."""
        return self._ram[0]

    @property
    def ram_source(self) -> str:
        """How `ram` is known."""
        return self._ram[1] or "up to the last frame that the dump describes; it may be more"

    @cached_property
    def _ram(self) -> tuple[tuple[tuple[int, int], ...], str | None]:
        """Runs of RAM and where they come from; None: just an upper limit."""
        for variable in (self._symbol("MmPhysicalMemoryBlock"), self._kdbg("MmPhysicalMemoryBlock")):
            runs = self._memory_block(self._pointer(variable))
            if runs:
                return runs, "MmPhysicalMemoryBlock"
        listed = self._dump.header["number_of_runs"] or 0
        if self._dump.layout == "runs" and listed < _HEADER_RUNS[self._width]:
            runs = tuple((run.pfn, run.count) for run in self._dump.pages.runs())
            return runs, "runs in the header"
        return ((0, min(self._dump.figures["pfn_end"], _MAX_FRAMES)),), None

    def _memory_block(self, address: int | None) -> tuple[tuple[int, int], ...]:
        """The runs of a PHYSICAL_MEMORY_DESCRIPTOR; none if it is not a sound one."""
        width = self._width

        def numbers(va: int, count: int) -> list[int] | None:
            data = self._reader.try_read_exact(va, count * width) if va + count * width < 1 << 64 else None
            if data is None:
                return None
            return [int.from_bytes(data[at : at + width], "little") for at in range(0, len(data), width)]

        head = numbers(address, 2) if address else None
        count = head[0] & 0xFFFFFFFF if head else 0
        values = numbers((address or 0) + 2 * width, 2 * count) if 0 < count <= _MAX_RUNS else None
        if head is None or values is None:
            return ()
        runs = tuple(zip(values[::2], values[1::2], strict=True))
        end = 0
        for first, length in runs:
            if first < end or not length:
                return ()
            end = first + length
        total = sum(length for _, length in runs)
        return runs if end <= _MAX_FRAME and total == head[1] and total <= _MAX_FRAMES else ()

    def _chunks(self, start: int, stop: int) -> Iterator[tuple[int, bytes, list[tuple[int, int, bool]]]]:
        """Entries of RAM frames from `start` up to `stop`: the first one's number, bytes, missing ones.

        Missing ones are (first index, index after the last, whether the database has no page there).
        KdmpError if page tables that refer to each other show more entries than the file has room for.
        """
        size = self.layout.size
        left = 2 * self._dump.file_size // size + _CHUNK
        for run, count in self.ram:
            for first in range(max(run, start), min(run + count, stop), _CHUNK):
                frames = min(_CHUNK, run + count - first, stop - first)
                address = self.base + first * size
                if address + frames * size > 1 << 8 * self._width:
                    yield first, bytes(frames * size), [(0, frames, False)]
                    continue
                data, gaps = self._reader.read_gaps(address, frames * size)
                missing = []
                for gap in gaps:
                    low, high = gap.address - address, gap.address + gap.size - address
                    absent = isinstance(gap.reason, NotPresentError)
                    missing.append((low // size, -(-high // size), absent))
                left -= frames - sum(last - low for low, last, _ in missing)
                if left < 0:
                    raise KdmpError("the PFN database has more entries than the file has room for")
                yield first, data, missing

    def summary(self) -> PfnSummary:
        """Count all frames by state, cache attribute, modified and prototype: one pass over the database.

        Takes less than a second for a machine with 64 GiB.
        """
        size = self.layout.size
        tables = self._key_tables()
        known = self._ram[1] is not None
        keys: Counter[int] = Counter()
        for _, data, missing in self._chunks(0, _MAX_FRAME):
            frames = len(data) // size
            if len(missing) == 1 and missing[0][:2] == (0, frames):
                keys[_NO_RAM if missing[0][2] and not known else _UNKNOWN] += frames
                continue
            # Each byte of the number is the key of an entry.
            joined = 0
            for offset, table in tables.items():
                joined |= int.from_bytes(data[offset::size].translate(table), "little")
            row = bytearray(joined.to_bytes(frames, "little"))
            for first, last, absent in missing:
                key = _NO_RAM if absent and not known else _UNKNOWN
                row[first:last] = bytes((key,)) * (last - first)
            while row:  # few keys occur, so this is quicker than looking at each entry
                left = row.translate(None, bytes(row[:1]))
                keys[row[0]] += len(row) - len(left)
                row = left
        unknown = keys.pop(_UNKNOWN, 0)
        keys.pop(_NO_RAM, 0)
        counts = tuple(
            PfnCount(
                STATES[key & 7], CACHE_ATTRIBUTES[key >> 4 & 3], bool(key & 8), bool(key & 0x40), keys[key]
            )
            for key in sorted(keys)
        )
        return PfnSummary(counts, unknown, self.ram_source)

    def _key_tables(self) -> Mapping[int, bytes]:
        """Per byte of an entry that matters, what each value adds to its key.

        A key is state | modified << 3 | cache attribute << 4 | prototype << 6.
        """
        parts: dict[int, list[tuple[int, int, int]]] = {}
        places = (
            ("PageLocation", 0, 3),
            ("Modified", 3, 1),
            ("CacheAttribute", 4, 2),
            ("PrototypePte", 6, 1),
        )
        for name, to, width in places:
            if name in self.layout:
                field = self.layout[name]
                shift = field.start % 8
                parts.setdefault(field.offset + field.start // 8, []).append((shift, (1 << width) - 1, to))
        return {
            offset: bytes(
                sum((value >> shift & mask) << to for shift, mask, to in found) for value in range(256)
            )
            for offset, found in parts.items()
        }

    def arrays(self, start: int = 0, stop: int | None = None) -> Any:
        """The entries of all RAM frames from `start` up to `stop` as a numpy structured array.

        Columns: pfn, known (False: the entry is not in the dump, the rest is 0), state (index into STATES),
        cache (into CACHE_ATTRIBUTES), modified, prototype, share, reference, pte (address, lock bits
        removed), pte_frame, original_pte. About 50 bytes a frame: take a large machine in parts. Raises
        ImportError without numpy, ValueError for more than 2**26 frames.
        """
        try:
            import numpy as np
        except ImportError:
            raise ImportError("PfnDatabase.arrays() needs numpy, which is not installed") from None
        spec = np.dtype(
            [
                *(("pfn", "<u8"), ("known", "?"), ("state", "u1"), ("cache", "u1"), ("modified", "?")),
                *(("prototype", "?"), ("share", "<u8"), ("reference", "<u2"), ("pte", "<u8")),
                *(("pte_frame", "<u8"), ("original_pte", "<u8")),
            ]
        )
        columns = {
            "state": "PageLocation", "cache": "CacheAttribute", "modified": "Modified",
            "prototype": "PrototypePte", "share": "ShareCount", "reference": "ReferenceCount",
            "pte": "PteAddress", "pte_frame": "PteFrame", "original_pte": "OriginalPte",
        }  # fmt: skip
        size = self.layout.size
        end = _MAX_FRAME if stop is None else stop
        rows = sum(max(0, min(first + count, end) - max(first, start)) for first, count in self.ram)
        if rows > _MAX_ROWS:
            raise ValueError(f"an array of {rows} frames; the limit is {_MAX_ROWS}: ask for a part of them")
        parts = []
        for first, data, missing in self._chunks(start, end):
            part = np.zeros(len(data) // size, spec)
            for column, name in columns.items():
                if name in self.layout:
                    field = self.layout[name]
                    part[column] = _strided(np, data, size, field) >> field.start & (1 << field.width) - 1
            part["pte"] &= ~np.uint64(7 if self._width == 8 else 3)
            part["share"][part["state"] < _ACTIVE] = 0
            part["known"] = True
            keep = np.ones(len(part), bool)
            for low, high, absent in missing:
                part[low:high] = 0
                if absent and self._ram[1] is None:
                    keep[low:high] = False
            part["pfn"] = np.arange(first, first + len(part), dtype=np.uint64)
            parts.append(part if keep.all() else part[keep])
        return np.concatenate(parts) if parts else np.zeros(0, spec)


def _strided(np: Any, data: bytes, size: int, field: Any) -> Any:
    """The numbers that a field of all entries lies in, as 64-bit ones."""
    shape = (len(data) // size,)
    raw = np.ndarray(shape, f"<u{field.size}", buffer=data, offset=field.offset, strides=(size,))
    return raw.astype(np.uint64)
