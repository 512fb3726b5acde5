"""A processor's registers in the form that emulators take: wtf's regs.json, and Unicorn's register names.

What the dump does not say is never made up in silence: `wtf_state` lists it, `unicorn_registers` leaves it
out. An edited copy of the registers (`Context.replace`) can stand in for those that were saved.

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, SupportsIndex

from kdmp._kdmp import KdmpError, UnsupportedDumpError
from kdmp.context import Context
from kdmp.emulator_state import DATA_SEGMENTS, DEBUG, Machine, full_tag_word, processor
from kdmp.emulator_wtf import Assumption, WtfState, wtf_state
from kdmp.windows.registers import UnknownRegisterError

if TYPE_CHECKING:
    from kdmp.dump import Dump

__all__ = ["Assumption", "WtfState", "unicorn_msrs", "unicorn_registers", "wtf_state"]

Unicorn = dict[str, int | tuple[int, ...]]

_CONTROL = ("cr0", "cr2", "cr3", "cr4", "cr8")
_MSRS = {
    "star": 0xC000_0081, "lstar": 0xC000_0082, "cstar": 0xC000_0083, "syscall_mask": 0xC000_0084,
    "fs_base": 0xC000_0100, "gs_base": 0xC000_0101, "gs_swap": 0xC000_0102,
}  # fmt: skip


def unicorn_registers(
    source: "Dump | Context",
    cpu: SupportsIndex | None = None,
    *,
    context: Context | None = None,
    selectors: bool = False,
) -> Unicorn:
    """Return registers by the names that Unicorn 2 has for them, as `Uc.reg_write` takes them.

        uc.msr_write(0xC0000080, 0xD01)  # EFER, which Windows does not save: SCE, LME, LMA, NXE
        for name, value in unicorn_registers(dump).items():
            uc.reg_write(getattr(unicorn.x86_const, name), value)
        for number, value in unicorn_msrs(dump).items():
            uc.msr_write(number, value)

    `source` is a dump (processor `cpu`, by default the one that crashed, with `context` an edited copy of its
    registers), or just a Context. Only what is known is there. Values are ints; those of UC_X86_REG_FP0 to
    FP7 are (mantissa, exponent), of GDTR, IDTR, LDTR and TR (selector, base, limit, flags). Of ARM64 there
    are the registers of the context.

    Paging is on behind CR0 and CR3: Unicorn then walks the page tables in the physical memory that it was
    given. Who maps virtual memory instead leaves CR0 to CR8 and the tables out. With `selectors` CS, DS, ES,
    SS, FS and GS come last; Unicorn loads them from the GDT at once, which ends the process if its memory is
    not there, and 64-bit code does not need them.

    Raises UnsupportedDumpError for other machines, UnknownRegisterError if there are no registers,
    IndexError for a processor that is not known.
    """
    if isinstance(source, Context):
        machine, saved = None, source
    else:
        machine, found = _unicorn_source(source, cpu, context)
        if found is None:
            raise UnknownRegisterError("no registers of this processor were saved")
        saved = found
    if saved.arch == "arm64":
        return dict(_arm64(saved))
    registers: Unicorn = {f"UC_X86_REG_{name}": value for name, value in _x86_integer(saved)}
    registers |= {f"UC_X86_REG_{name}": value for name, value in _x86_floating_point(saved)}
    registers |= {f"UC_X86_REG_{name}": value for name, value in _x86_special(machine, saved)}
    for name in ("cs", *DATA_SEGMENTS) if selectors else ():
        if saved.valid(name):
            registers[f"UC_X86_REG_{name.upper()}"] = saved[name]
    return registers


def unicorn_msrs(
    dump: "Dump", cpu: SupportsIndex | None = None, *, context: Context | None = None
) -> dict[int, int]:
    """Return the MSRs that are known, by number, for `Uc.msr_write`: none of dumps that Windows writes.

    Arguments and errors are those of `unicorn_registers`.
    """
    machine, _ = _unicorn_source(dump, cpu, context)
    found = {} if machine is None else {n: machine.get(name) for name, n in _MSRS.items()}
    return {number: value for number, value in found.items() if value is not None}


def _unicorn_source(
    dump: "Dump", cpu: SupportsIndex | None, context: Context | None
) -> tuple[Machine | None, Context | None]:
    if dump.arch not in ("x64", "x86", "arm64"):
        raise UnsupportedDumpError(f"the registers of {dump.arch} are not known")
    try:
        machine = Machine(processor(dump, cpu), context)
    except KdmpError:
        if cpu is not None or (context is None and dump.context is None):
            raise
        return None, context or dump.context
    return machine, machine.context


def _x86_integer(saved: Context) -> Iterator[tuple[str, int]]:
    ip = "rip" if saved.arch == "x64" else "eip"
    for name in dict.fromkeys((*saved.gp, ip, "eflags")):
        if saved.valid(name):
            yield name.upper(), saved[name]


def _x86_floating_point(saved: Context) -> Iterator[tuple[str, int | tuple[int, int]]]:
    if saved.valid("control_word"):
        yield "FPCW", saved["control_word"] & 0xFFFF
        yield "FPSW", saved["status_word"] & 0xFFFF
        yield "FPTAG", full_tag_word(saved)
        for n, value in enumerate(saved.st):
            yield f"FP{n}", (value & (1 << 64) - 1, value >> 64)
    if saved.valid("mxcsr"):
        yield "MXCSR", saved["mxcsr"]
    for n in range(16 if saved.arch == "x64" else 8):
        if saved.valid(f"xmm{n}"):
            yield f"XMM{n}", saved[f"xmm{n}"]


def _x86_special(machine: Machine | None, saved: Context) -> Iterator[tuple[str, int | tuple[int, ...]]]:
    for name in DEBUG:
        if saved.valid(name):
            yield name.upper(), saved[name]
    if machine is not None:
        for name in (*_CONTROL, "fs_base", "gs_base"):
            value = machine.get(name)
            if value is not None:
                yield name.upper(), value
        for table in ("gdtr", "idtr"):
            base, limit = machine.get(f"{table}_base"), machine.get(f"{table}_limit")
            if base is not None and limit is not None:
                yield table.upper(), (0, base, limit, 0)
        for name in ("ldtr", "tr"):
            selector = machine.get(name)
            found = machine.segment(selector, system=True) if selector else None
            if selector is not None and found is not None:
                base, limit, attributes = found
                yield name.upper(), (selector, base, limit, attributes << 8)


def _arm64(saved: Context) -> Iterator[tuple[str, int]]:
    for name in saved:
        if not saved.valid(name):
            continue
        if name in saved.gp or name in ("pc", "fpcr", "fpsr") or name.startswith("v"):
            yield f"UC_ARM64_REG_{name.upper()}", saved[name]
        elif name == "cpsr":
            yield "UC_ARM64_REG_PSTATE", saved[name]
