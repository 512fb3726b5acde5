"""KSPECIAL_REGISTERS: control and descriptor registers and MSRs that a processor saves in its KPRCB.

The layouts are fixed: x64 and x86 as in ntddk.h and the kernels' symbols; only the last two members of x64
came later. That of ARM64 is not public.

SPDX-License-Identifier: MIT
"""

from collections.abc import Mapping

from kdmp.windows.registers import Registers

__all__ = ["SpecialRegisters", "decode_special", "special_size"]

Fields = Mapping[str, tuple[str, int, int]]  # our name -> (Windows' name, offset, size)

# _KSPECIAL_REGISTERS of x64; the descriptor registers are KDESCRIPTOR {u16 Pad[3], u16 Limit, u64 Base}.
X64: Fields = {
    "cr0": ("Cr0", 0x00, 8),
    "cr2": ("Cr2", 0x08, 8),
    "cr3": ("Cr3", 0x10, 8),
    "cr4": ("Cr4", 0x18, 8),
    "cr8": ("Cr8", 0xA0, 8),
    "kernel_dr0": ("KernelDr0", 0x20, 8),
    "kernel_dr1": ("KernelDr1", 0x28, 8),
    "kernel_dr2": ("KernelDr2", 0x30, 8),
    "kernel_dr3": ("KernelDr3", 0x38, 8),
    "kernel_dr6": ("KernelDr6", 0x40, 8),
    "kernel_dr7": ("KernelDr7", 0x48, 8),
    "gdtr_limit": ("Gdtr.Limit", 0x56, 2),
    "gdtr_base": ("Gdtr.Base", 0x58, 8),
    "idtr_limit": ("Idtr.Limit", 0x66, 2),
    "idtr_base": ("Idtr.Base", 0x68, 8),
    "tr": ("Tr", 0x70, 2),
    "ldtr": ("Ldtr", 0x72, 2),
    "mxcsr": ("MxCsr", 0x74, 4),
    "debug_control": ("DebugControl", 0x78, 8),
    "last_branch_to_rip": ("LastBranchToRip", 0x80, 8),
    "last_branch_from_rip": ("LastBranchFromRip", 0x88, 8),
    "last_exception_to_rip": ("LastExceptionToRip", 0x90, 8),
    "last_exception_from_rip": ("LastExceptionFromRip", 0x98, 8),
    "msr_gs_base": ("MsrGsBase", 0xA8, 8),
    "msr_gs_swap": ("MsrGsSwap", 0xB0, 8),
    "msr_star": ("MsrStar", 0xB8, 8),
    "msr_lstar": ("MsrLStar", 0xC0, 8),
    "msr_cstar": ("MsrCStar", 0xC8, 8),
    "msr_syscall_mask": ("MsrSyscallMask", 0xD0, 8),
    "xcr0": ("Xcr0", 0xD8, 8),
    "msr_fs_base": ("MsrFsBase", 0xE0, 8),
}

# _KSPECIAL_REGISTERS of x86; KDESCRIPTOR {u16 Pad, u16 Limit, u32 Base}.
X86: Fields = {
    "cr0": ("Cr0", 0x00, 4),
    "cr2": ("Cr2", 0x04, 4),
    "cr3": ("Cr3", 0x08, 4),
    "cr4": ("Cr4", 0x0C, 4),
    "kernel_dr0": ("KernelDr0", 0x10, 4),
    "kernel_dr1": ("KernelDr1", 0x14, 4),
    "kernel_dr2": ("KernelDr2", 0x18, 4),
    "kernel_dr3": ("KernelDr3", 0x1C, 4),
    "kernel_dr6": ("KernelDr6", 0x20, 4),
    "kernel_dr7": ("KernelDr7", 0x24, 4),
    "gdtr_limit": ("Gdtr.Limit", 0x2A, 2),
    "gdtr_base": ("Gdtr.Base", 0x2C, 4),
    "idtr_limit": ("Idtr.Limit", 0x32, 2),
    "idtr_base": ("Idtr.Base", 0x34, 4),
    "tr": ("Tr", 0x38, 2),
    "ldtr": ("Ldtr", 0x3A, 2),
}

FIELDS: Mapping[str, Fields] = {"x64": X64, "x86": X86}
SIZES = {"x64": 0xE8, "x86": 0x54}

_MSRS = frozenset(name for name in X64 if name.startswith("msr_"))
# Windows runs in protected mode with paging, so these are never 0 in a processor that runs it. Xcr0 has its
# lowest bit always set where there is XSAVE.
_NEVER_ZERO = frozenset(
    {"cr0", "cr3", "gdtr_base", "gdtr_limit", "idtr_base", "idtr_limit", "tr", "xcr0",
     "msr_gs_base", "msr_star", "msr_lstar", "msr_syscall_mask"}
)  # fmt: skip

NOT_SAVED = "not saved: the place in SpecialRegisters is zero"


class SpecialRegisters(Registers):
    """The special registers of one processor, by name: `cr3`, `idtr_base`, `msr_lstar` ...

    Windows' own names work, too (`special["Cr3"]`, `special["Gdtr.Base"]`). None is "not known". Dumps that
    Windows writes have no MSRs, but zeros in their place: a value that cannot be zero in a running system
    counts as not saved, and if neither MsrGsBase, MsrStar nor MsrLStar was saved then no MSR was.
    """

    def _canonical(self, name: str) -> str:
        return super()._canonical(_ALIASES.get(name, name))

    def to_windows_names(self) -> dict[str, int | None]:
        """Return the values by Windows' names: "Cr3", "Gdtr.Base", "MsrLStar" ..."""
        names = FIELDS[self.arch]
        return {names[name][0]: value for name, value in self.items()}


_ALIASES = {row[0]: name for fields in FIELDS.values() for name, row in fields.items()}


def special_size(arch: str) -> int | None:
    """Return the bytes that decode_special() wants, None for a machine whose layout is not known."""
    return SIZES.get(arch)


def decode_special(data: bytes, arch: str, where: str, absent: Mapping[str, str]) -> SpecialRegisters:
    """Decode a saved KSPECIAL_REGISTERS; bytes may be missing at the end.

    `where` is what `source` says of values that are there; `absent` has the fields that this build lacks and
    the reason. ValueError for a machine without a known layout.
    """
    fields = FIELDS.get(arch)
    if fields is None:
        raise ValueError(f"the layout of KSPECIAL_REGISTERS is not known for {arch!r}")
    raw: dict[str, int | None] = {}
    for name, (_, offset, size) in fields.items():
        piece = data[offset : offset + size]
        raw[name] = int.from_bytes(piece, "little") if len(piece) == size else None
    nothing = not raw["cr0"] and not raw["cr3"]
    no_msrs = nothing or not (raw.get("msr_gs_base") or raw.get("msr_star") or raw.get("msr_lstar"))
    values: dict[str, tuple[int | None, str]] = {}
    for name, value in raw.items():
        if name in absent:
            values[name] = None, absent[name]
        elif value is None:
            values[name] = None, "not in the dump"
        elif value == 0 and (nothing or name in _NEVER_ZERO or (no_msrs and name in _MSRS)):
            values[name] = None, NOT_SAVED
        else:
            values[name] = value, where
    return SpecialRegisters(arch, values)
