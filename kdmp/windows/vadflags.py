"""Where the members and flags of a VAD are, by the structure layout of the kernel.

VADs changed often: links of their own, _MM_AVL_NODE or _RTL_BALANCED_NODE; numbers of pages with or without
high parts; flags in one word or two, and from 18362 on three views of one word. A VadShape looks all of it
up once and then decodes the bytes of a VAD. Sources: type information of public symbol files, XP to 26100.

SPDX-License-Identifier: MIT
"""

from typing import NamedTuple

from kdmp.symbols.errors import FieldNotFoundError, SymbolError, TypeNotFoundError
from kdmp.symbols.structs import Layout

__all__ = ["VAD_TYPES", "VadHead", "VadShape"]

VAD_TYPES = (
    "VadNone", "VadDevicePhysicalMemory", "VadImageMap", "VadAwe", "VadWriteWatch", "VadLargePages",
    "VadRotatePhysical", "VadLargePageSection",
)  # fmt: skip
"""Names of VadType by value (_MI_VAD_TYPE)."""

_SHORT = "_MMVAD_SHORT"
_FLAGS = "u.VadFlags"
# Bits of XP that later became values of VadType.
_XP_TYPES = (
    ("PhysicalMapping", 1),
    ("ImageMap", 2),
    ("UserPhysicalPages", 3),
    ("WriteWatch", 4),
    ("LargePages", 5),
)
_MAX_SIZE = 0x100  # bytes; no VAD is larger


class VadHead(NamedTuple):
    """The beginning of a VAD decoded: children, page numbers (both inclusive) and flags.

    `commit` counts pages, None if the layout does not say; `flags` is the word of flags as it is.
    """

    left: int
    right: int
    parent: int
    start_vpn: int
    end_vpn: int
    type: int
    protection: int
    private: bool
    mem_commit: bool
    commit: int | None
    flags: int


class _Bits(NamedTuple):
    """A member as bytes and bits: `(bytes >> shift) & mask`."""

    offset: int
    size: int
    shift: int
    mask: int

    def of(self, data: bytes) -> int:
        number = int.from_bytes(data[self.offset : self.offset + self.size], "little")
        return number >> self.shift & self.mask


class VadShape:
    """The VADs of one layout. `size` is how many bytes `decode` needs, `pte_size` that of a prototype PTE.

    Raises SymbolError if the layout lacks what nothing works without: links, page numbers, flags.
    """

    def __init__(self, layout: Layout, *, high_nibble: bool = False) -> None:
        """`high_nibble`: take StartingVpnHigher (20348 and later) into account, which only 5-level paging
        needs."""
        self._layout = layout
        self.pointer_size = layout.pointer_size
        self._left, self._right = self._bits("Left"), self._bits("Right")
        parents = ("VadNode.ParentValue", "VadNode.u1.Parent", "u1.Parent", "Parent")
        self._parent = self._first(*parents)
        self._start, self._end = self._bits("StartingVpn"), self._bits("EndingVpn")
        self._start_high, self._end_high = self._maybe("StartingVpnHigh"), self._maybe("EndingVpnHigh")
        self._higher = self._maybe("u5.StartingVpnHigher") if high_nibble else None
        self._word = self._first("u.LongFlags", "u.VadFlags.EntireField") or self._bits(_FLAGS)
        self._protection = self._bits(f"{_FLAGS}.Protection")
        self._private = self._bits(f"{_FLAGS}.PrivateMemory")
        self._type = self._first(f"{_FLAGS}.VadType")
        self._old_types = [
            (bits, kind) for name, kind in _XP_TYPES if (bits := self._maybe(f"{_FLAGS}.{name}")) is not None
        ]
        # 26100 has it in the private view only.
        self._mem_commit = self._first(f"{_FLAGS}.MemCommit", "u1.VadFlags1.MemCommit")
        self._private_mem_commit = self._maybe("u.PrivateVadFlags.MemCommit")
        self._commit = self._first("u1.VadFlags1.CommitCharge", "CommitCharge", f"{_FLAGS}.CommitCharge")
        self._commit_high = self._maybe("CommitChargeHigh")
        used = [value for value in vars(self).values() if isinstance(value, _Bits)]
        used += [bits for bits, _ in self._old_types]
        self.size = max(bits.offset + bits.size for bits in used)
        if self.size > _MAX_SIZE:
            raise TypeNotFoundError(
                _SHORT, layout.source.pdb, where=f"{layout.source}, as a structure of its size"
            )

    def _bits(self, path: str) -> _Bits:
        field = self._layout.field(_SHORT, path)
        size = field.size
        if size is None:
            raise FieldNotFoundError(_SHORT, path, self._layout.source.pdb, where="with its size")
        if field.bit_width is not None:
            return _Bits(field.offset, size, field.bit_start or 0, (1 << field.bit_width) - 1)
        return _Bits(field.offset, size, 0, (1 << 8 * size) - 1)

    def _maybe(self, path: str) -> _Bits | None:
        try:
            return self._bits(path)
        except SymbolError:
            return None

    def _first(self, *paths: str) -> _Bits | None:
        return next((bits for path in paths if (bits := self._maybe(path)) is not None), None)

    def decode(self, data: bytes) -> VadHead:
        """Decode the first `size` bytes of a VAD. Nothing is checked."""
        start, end = self._start.of(data), self._end.of(data)
        if self._start_high is not None and self._end_high is not None:
            start |= self._start_high.of(data) << 32
            end |= self._end_high.of(data) << 32
        if self._higher is not None:
            start |= self._higher.of(data) << 40
            end |= self._higher.of(data) << 40
        private = bool(self._private.of(data))
        mem_commit = self._mem_commit
        if mem_commit is None and private:
            mem_commit = self._private_mem_commit
        return VadHead(
            self._left.of(data),
            self._right.of(data),
            self._parent.of(data) if self._parent is not None else 0,
            start,
            end,
            self._vad_type(data),
            self._protection.of(data),
            private,
            mem_commit is not None and bool(mem_commit.of(data)),
            self._charge(data),
            self._word.of(data),
        )

    def _vad_type(self, data: bytes) -> int:
        if self._type is not None:
            return self._type.of(data)
        return next((kind for bits, kind in self._old_types if bits.of(data)), 0)

    def _charge(self, data: bytes) -> int | None:
        if self._commit is None:
            return None
        charge = self._commit.of(data)
        if self._commit_high is not None:  # the bits above
            charge |= self._commit_high.of(data) << self._commit.mask.bit_length()
        return charge
