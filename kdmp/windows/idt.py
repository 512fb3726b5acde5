"""Interrupt and global descriptor tables, decoded.

Entries are those of the Intel SDM, volume 3: 3.4.5 (segment descriptors), 6.11 and 6.14.1 (IDT), 7.2.3 (TSS).
The two software vectors of Windows are APC_LEVEL's and DISPATCH_LEVEL's.

SPDX-License-Identifier: MIT
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdmp.reader import Reader

from kdmp._kdmp import KdmpError

__all__ = ["VECTORS", "GdtEntry", "IdtEntry", "Pieces", "decode_gdt", "decode_idt", "gdt_entry", "read_table"]

Pieces = list[tuple[int, bytes]]  # what there is of a table: offset and bytes

IDT_VECTORS = 256
GDT_ENTRIES = 8192  # what a 16-bit limit allows

VECTORS = {
    0x00: "#DE", 0x01: "#DB", 0x02: "NMI", 0x03: "#BP", 0x04: "#OF", 0x05: "#BR", 0x06: "#UD", 0x07: "#NM",
    0x08: "#DF", 0x09: "coprocessor overrun", 0x0A: "#TS", 0x0B: "#NP", 0x0C: "#SS", 0x0D: "#GP", 0x0E: "#PF",
    0x10: "#MF", 0x11: "#AC", 0x12: "#MC", 0x13: "#XM", 0x14: "#VE", 0x15: "#CP",
    0x1F: "APC", 0x29: "fast fail", 0x2C: "assertion", 0x2D: "debug service", 0x2F: "DPC",
}  # fmt: skip
"""What the vectors that mean the same on every machine are for; exceptions by the SDM's abbreviations."""

_SYSTEM_TYPES = {
    0x1: "TSS16", 0x2: "LDT", 0x3: "busy TSS16", 0x5: "task gate",
    0x9: "TSS", 0xB: "busy TSS", 0xC: "call gate", 0xE: "interrupt gate", 0xF: "trap gate",
}  # fmt: skip
_TSS = frozenset({0x1, 0x3, 0x9, 0xB})


@dataclass(frozen=True, slots=True)
class IdtEntry:
    """A gate of the IDT: `handler` (VA), code `selector`, `ist` (0: none), `dpl`, gate `type`, `present`.

    All but `vector` are None if the entry is not in the dump; a task gate has no handler. `symbol` names the
    handler if it is known.
    """

    vector: int
    handler: int | None = None
    selector: int | None = None
    ist: int | None = None
    type: int | None = None
    dpl: int | None = None
    present: bool | None = None
    symbol: str | None = None

    @property
    def name(self) -> str | None:
        """What the vector is for ("#PF", "APC", "DPC"), None if that differs from machine to machine."""
        return VECTORS.get(self.vector)

    @property
    def type_name(self) -> str | None:
        """The kind of gate in words, None if it is not known."""
        return None if self.type is None else _SYSTEM_TYPES.get(self.type)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the names as a dict."""
        return asdict(self) | {"name": self.name, "type_name": self.type_name}


@dataclass(frozen=True, slots=True)
class GdtEntry:
    """A descriptor of the GDT: `selector` (without RPL), `base` and `limit` in bytes (the last offset),
    `type`, `dpl`, `present`; `system` for TSS and LDT, else code or data; `long_mode` is CS.L."""

    selector: int
    base: int
    limit: int
    type: int
    dpl: int
    present: bool
    system: bool
    code: bool
    long_mode: bool
    default_big: bool

    @property
    def kind(self) -> str:
        """What it is in words: "64-bit code", "32-bit code", "data", "busy TSS" ..."""
        if self.system:
            return _SYSTEM_TYPES.get(self.type, f"system type {self.type}")
        if not self.code:
            return "data"
        return "64-bit code" if self.long_mode else "32-bit code" if self.default_big else "16-bit code"

    @property
    def is_tss(self) -> bool:
        """Whether it describes a task state segment."""
        return self.system and self.type in _TSS

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and `kind` as a dict."""
        return asdict(self) | {"kind": self.kind}


def read_table(reader: "Reader", base: int, size: int) -> Pieces:
    """Return what there is of `size` bytes at `base`: pieces of (offset, bytes) around the holes.

    `size` is at most 64 KiB: a descriptor table's limit has 16 bits.
    """
    size = min(size, 0x10000)
    try:
        data, gaps = reader.read_gaps(base, size)
    except (KdmpError, OverflowError):
        return []
    pieces, at = [], 0
    for gap in gaps:
        start = gap.address - base
        if start > at:
            pieces.append((at, bytes(data[at:start])))
        at = start + gap.size
    if at < len(data):
        pieces.append((at, bytes(data[at:])))
    return pieces


def _slot(pieces: Pieces, offset: int, size: int) -> bytes | None:
    for start, data in pieces:
        if start <= offset and offset + size <= start + len(data):
            return data[offset - start : offset - start + size]
    return None


def decode_idt(
    pieces: Pieces, limit: int | None, arch: str, name: Callable[[int], str | None]
) -> list[IdtEntry]:
    """Return the gates of an IDT by vector, at most 256; those that are missing have no handler.

    `limit` is IDTR's (None: 256 vectors), `name` gives the name of a handler's address.
    """
    size = 16 if arch == "x64" else 8
    count = IDT_VECTORS if limit is None else min((limit + 1) // size, IDT_VECTORS)
    names: dict[int, str | None] = {}
    entries = []
    for vector in range(count):
        data = _slot(pieces, vector * size, size)
        if data is None:
            entries.append(IdtEntry(vector))
            continue
        low = int.from_bytes(data[:8], "little")
        handler = low & 0xFFFF | low >> 32 & 0xFFFF0000
        if size == 16:
            handler |= int.from_bytes(data[8:12], "little") << 32
        task = low >> 40 & 0xF == 5  # the selector is that of a TSS, and there is no address
        if handler not in names:
            names[handler] = name(handler) if handler and not task else None
        entries.append(
            IdtEntry(
                vector,
                None if task else handler,
                low >> 16 & 0xFFFF,
                low >> 32 & 7 if size == 16 else 0,
                low >> 40 & 0xF,
                low >> 45 & 3,
                bool(low >> 47 & 1),
                names[handler],
            )
        )
    return entries


def decode_gdt(pieces: Pieces, limit: int | None, arch: str) -> list[GdtEntry]:
    """Return the descriptors of a GDT in the order of their selectors, without empty and missing ones.

    On x64 system descriptors have 16 bytes, and base addresses 64 bits.
    """
    end = max((start + len(data) for start, data in pieces), default=0)
    if limit is not None:
        end = min(end, limit + 1)
    entries, at = [], 0
    while at + 8 <= min(end, 8 * GDT_ENTRIES):
        data = _slot(pieces, at, 8)
        low = int.from_bytes(data, "little") if data is not None else 0
        system = not low >> 44 & 1
        wide = arch == "x64" and system and low >> 40 & 0xF != 0
        if low:
            high: bytes | None = b"\0" * 8
            if wide:
                high = _slot(pieces, at + 8, 8) if at + 16 <= end else None
            if high is not None:
                entries.append(_descriptor(at, low, int.from_bytes(high[:4], "little") if wide else 0))
        at += 16 if wide else 8
    return entries


def _descriptor(selector: int, low: int, upper: int) -> GdtEntry:
    limit = low & 0xFFFF | low >> 32 & 0xF0000
    system = not low >> 44 & 1
    return GdtEntry(
        selector=selector,
        base=low >> 16 & 0xFFFFFF | low >> 32 & 0xFF000000 | upper << 32,
        limit=limit << 12 | 0xFFF if low >> 55 & 1 else limit,
        type=low >> 40 & 0xF,
        dpl=low >> 45 & 3,
        present=bool(low >> 47 & 1),
        system=system,
        code=not system and bool(low >> 43 & 1),
        long_mode=not system and bool(low >> 53 & 1),
        default_big=bool(low >> 54 & 1),
    )


def gdt_entry(gdt: list[GdtEntry], selector: int) -> GdtEntry | None:
    """Return the descriptor that a selector chooses, None if it is not known (or in an LDT)."""
    if selector & 4 or selector < 8:
        return None
    return next((entry for entry in gdt if entry.selector == selector & 0xFFF8), None)
