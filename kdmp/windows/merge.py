"""One view of a processor's registers: those of its CONTEXT, and the special ones.

SPDX-License-Identifier: MIT
"""

from kdmp.context import Context
from kdmp.windows.arguments import long_mode
from kdmp.windows.idt import GdtEntry, gdt_entry
from kdmp.windows.registers import Registers, UnknownRegisterError
from kdmp.windows.special import SpecialRegisters

__all__ = ["merged"]

Values = dict[str, tuple[int | None, str]]

_SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs")
_RENAMED = {f"msr_{name}": name for name in ("star", "lstar", "cstar", "syscall_mask")}


def merged(
    arch: str, context: Context | None, where: str, special: SpecialRegisters | None, gdt: list[GdtEntry]
) -> Registers:
    """Return general, control, segment and special registers by name, each with its provenance.

    `where` is what the source of the context's registers reads. x64 has `gs_base`, `gs_swap`, `fs_base`
    as they were when the context was taken, `cs_long` (CS.L: 1 in 64-bit code) and `efer`, which Windows
    saves nowhere: always None.
    """
    values: Values = {}
    if context is not None:
        flags = ("cpsr",) if arch == "arm64" else ("eflags", *_SEGMENTS)
        ip = {"x64": "rip", "x86": "eip"}.get(arch, "pc")
        for name in dict.fromkeys((*context.gp, ip, *flags)):
            known = context.valid(name)
            values[name] = (context[name], where) if known else (None, "the context does not cover it")
    for name, value in (special or {}).items():
        assert special is not None
        if name not in ("msr_gs_base", "msr_gs_swap", "msr_fs_base"):
            values[_RENAMED.get(name, name)] = value, special.source(name)
    if arch == "x64":
        _add_bases(values, special)
        values["cs_long"] = _code_mode(context, gdt)
        values["efer"] = None, "Windows does not save it"
    return Registers(arch, values)


def _add_bases(values: Values, special: SpecialRegisters | None) -> None:
    """GS and FS bases. The MSRs were saved by the kernel, behind swapgs: a context of user mode has them the
    other way round."""
    if special is None:
        for name in ("gs_base", "gs_swap", "fs_base"):
            values[name] = None, "no special registers in the dump"
        return
    base, swap = special["msr_gs_base"], special["msr_gs_swap"]
    base_at, swap_at = special.source("msr_gs_base"), special.source("msr_gs_swap")
    selector = values.get("cs", (None, ""))[0]
    if selector is not None and selector & 3 == 3 and base is not None and base >> 47:
        why = "exchanged: the context is of user mode"
        base, swap, base_at, swap_at = swap, base, f"{swap_at}, {why}", f"{base_at}, {why}"
    values["gs_base"], values["gs_swap"] = (base, base_at), (swap, swap_at)
    values["fs_base"] = special["msr_fs_base"], special.source("msr_fs_base")


def _code_mode(context: Context | None, gdt: list[GdtEntry]) -> tuple[int | None, str]:
    if context is None:
        return None, "no context in the dump"
    try:
        mode = int(long_mode(context, gdt))
    except UnknownRegisterError as error:
        return None, str(error)
    entry = gdt_entry(gdt, context["cs"])
    by_table = entry is not None and entry.present and entry.code
    return mode, "GDT" if by_table else "the selector"
