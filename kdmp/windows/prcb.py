"""Where the members of KPRCB and KPCR are.

Asked in this order: the layout if it is of this very kernel, KDBG (which is the kernel's own word), another
layout, and what is the same in all kernels of a machine (measured on their symbols).

SPDX-License-Identifier: MIT
"""

import struct
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdmp.windows.session import Windows

from kdmp.symbols.errors import FieldNotFoundError

__all__ = ["MAX_PROCESSORS", "Offsets", "own_address"]

MAX_PROCESSORS = 2048  # KiProcessorBlock of Windows Server 2022

# Member: (KDBG's name, struct and path in the layouts).
_MEMBERS = {
    "CurrentThread": ("PrcbCurrentThread", "_KPRCB", "CurrentThread"),
    "NextThread": (None, "_KPRCB", "NextThread"),
    "IdleThread": ("PrcbIdleThread", "_KPRCB", "IdleThread"),
    "Number": ("PrcbNumber", "_KPRCB", "Number"),
    "Context": ("PrcbContext", "_KPRCB", "Context"),
    "MHz": ("PrcbMhz", "_KPRCB", "MHz"),
    "CpuType": ("PrcbCpuType", "_KPRCB", "CpuType"),
    "VendorString": ("PrcbVendorString", "_KPRCB", "VendorString"),
    "DpcStack": ("PrcbDpcStack", "_KPRCB", "DpcStack"),
    "IsrStack": ("PrcbIsrStack", "_KPRCB", "IsrStack"),
    "Self": ("PcrSelfPcr", "_KPCR", "Self"),
    "CurrentPrcb": ("PcrCurrentPrcb", "_KPCR", "CurrentPrcb"),
    "SpecialRegisters": ("PrcbProcStateSpecialReg", "_KPRCB", "ProcessorState.SpecialRegisters"),
    "ContextFrame": ("PrcbProcStateContext", "_KPRCB", "ProcessorState.ContextFrame"),
    "Process": ("KThreadApcProcess", "_KTHREAD", "ApcState.Process"),
    "StackLimit": ("KThreadStackLimit", "_KTHREAD", "StackLimit"),
    "StackBase": ("KThreadStackBase", "_KTHREAD", "StackBase"),
}

# KPRCB in KPCR; the other members lie at the same place in all kernels from Windows 7 on, but for those that
# _moved_x64() has.
_CONTAINED = {"x64": 0x180, "x86": 0x120, "arm64": 0x980}
_FIXED = {
    "x64": {
        "CurrentThread": 0x08, "NextThread": 0x10, "IdleThread": 0x18, "Number": 0x24,
        "Self": 0x18, "CurrentPrcb": 0x20,
    },
    "x86": {
        "CurrentThread": 0x04, "NextThread": 0x08, "IdleThread": 0x0C, "Number": 0x3CC,
        "Self": 0x1C, "CurrentPrcb": 0x20, "ContextFrame": 0x18, "SpecialRegisters": 0x18 + 0x2CC,
    },
    "arm64": {"CurrentThread": 0x08, "IdleThread": 0x18, "Number": 0x24},
}  # fmt: skip
_WINDOWS_7, _CREATORS_UPDATE, _1809 = 7600, 15063, 17763


class Offsets:
    """Offsets of members of KPRCB, KPCR and KTHREAD in one dump."""

    def __init__(self, windows: "Windows") -> None:
        self._windows = windows
        self._arch = windows.dump.arch
        self._build = windows.dump.build or 0
        self._layout = windows.layout if windows.has_layout else None
        self._known: dict[str, int | None] = {}

    def __getitem__(self, member: str) -> int:
        """Return the offset of a member in bytes; raises FieldNotFoundError if nothing tells it."""
        if member not in self._known:
            self._known[member] = self._find(member)
        known = self._known[member]
        if known is None:
            raise FieldNotFoundError(_MEMBERS[member][1], _MEMBERS[member][2], self._pdb())
        return known

    def get(self, member: str) -> int | None:
        """Return the offset of a member in bytes, None if nothing tells it."""
        try:
            return self[member]
        except FieldNotFoundError:
            return None

    @property
    def contained(self) -> int:
        """Offset of the KPRCB in its KPCR. SymbolError for a machine that is not known."""
        if self._layout is not None:
            for path in ("Prcb", "PrcbData"):
                # On x86 Prcb is the pointer to what PrcbData is.
                if path == "Prcb" and self._arch == "x86":
                    continue
                if self._layout.has("_KPCR", path):
                    return self._layout.offset("_KPCR", path)
        known = self._kdbg("PcrContainedPrcb") or _CONTAINED.get(self._arch)
        if known is None:
            raise FieldNotFoundError("_KPCR", "Prcb", self._pdb())
        return known

    def _pdb(self) -> str | None:
        return self._layout.source.pdb if self._layout is not None else None

    def _find(self, member: str) -> int | None:
        kdbg, struct_name, path = _MEMBERS[member]
        layout, from_layout = self._layout, None
        if layout is not None and layout.has(struct_name, path):
            from_layout = layout.offset(struct_name, path)
            if layout.source.exact:
                return from_layout
        # A member at 0 would be KPRCB's first, which is none of these: 0 is "not provided".
        known = self._kdbg(kdbg) if kdbg is not None else None
        if known:
            return known
        return from_layout if from_layout is not None else self._fixed(member)

    def _kdbg(self, name: str) -> int | None:
        block = self._windows.kdbg
        return block[name] if block is not None else None

    def _fixed(self, member: str) -> int | None:
        if self._build < _WINDOWS_7:
            return None
        if self._arch == "x64":
            moved = self._moved_x64()
            if member in moved:
                return moved[member]
        return _FIXED.get(self._arch, {}).get(member)

    def _moved_x64(self) -> dict[str, int]:
        """Members of x64 that lie elsewhere before 15063 or 17763."""
        new = self._build >= _CREATORS_UPDATE
        state = 0x100 if new else 0x40
        type_at, mhz = (0x40, 0x44) if self._build >= _1809 else (0x5F0, 0x5F4)
        return {
            "SpecialRegisters": state,
            "ContextFrame": state + (0xF0 if new else 0xE0),
            "CpuType": type_at,
            "MHz": mhz,
        }

    @property
    def absent_registers(self) -> dict[str, str]:
        """The special registers that this build does not save, and why that is known."""
        layout, absent = self._layout, {}
        for name, field in (("xcr0", "Xcr0"), ("msr_fs_base", "MsrFsBase")):
            if layout is not None and "_KSPECIAL_REGISTERS" in layout:
                if not layout.has("_KSPECIAL_REGISTERS", field):
                    absent[name] = "this build does not save it"
            elif not self._room_for(name):
                absent[name] = "this build has no place for it, or it is not known"
        return absent

    def _room_for(self, register: str) -> bool:
        """Whether SpecialRegisters, which ends where ContextFrame begins, has the member."""
        if register == "xcr0":
            return self._build >= 9200
        special, context = self.get("SpecialRegisters"), self.get("ContextFrame")
        return special is not None and context is not None and context - special >= 0xF0


def own_address(copy: bytes, pointer_size: int) -> int | None:
    """Return the VA that a copy of a KPRCB was taken from, None if it cannot be told.

    A KPRCB has hundreds of list heads, most of them empty: an empty one points to itself, twice.
    """
    if pointer_size != 8:
        return None
    words = struct.unpack_from(f"<{len(copy) // 8}Q", copy)
    votes = Counter(
        word - 8 * n
        for n, word in enumerate(words[:-1])
        if word == words[n + 1] and word >> 47 == 0x1FFFF and not word & 7
    )
    if not votes:
        return None
    (address, count), *rest = votes.most_common(2)
    return address if count >= 32 and count >= 8 * (rest[0][1] if rest else 0) else None
