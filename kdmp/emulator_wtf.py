"""The state of a processor as the snapshot fuzzer wtf loads it: regs.json.

Sources: the loader (LoadCpuStateFromJSON in src/wtf/utils.cc of wtf), Intel SDM for values after reset and
descriptors.

SPDX-License-Identifier: MIT
"""

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

from kdmp._kdmp import KdmpError, UnsupportedDumpError
from kdmp.context import Context
from kdmp.emulator_state import DATA_SEGMENTS, DEBUG, Machine, full_tag_word, processor
from kdmp.windows.registers import UnknownRegisterError

if TYPE_CHECKING:
    from kdmp.dump import Dump
    from kdmp.windows.cpus import Cpu

__all__ = ["Assumption", "WtfState", "wtf_state"]

_GENERAL = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rip", "rsp", "rbp", *(f"r{n}" for n in range(8, 16)),
)  # fmt: skip
# Without these no emulator gets as far as the next instruction, and nothing stands in for them.
_SPECIAL = (
    "cr0", "cr2", "cr3", "cr4", "cr8", "gdtr_base", "gdtr_limit", "idtr_base", "idtr_limit", "tr", "ldtr",
)  # fmt: skip

_ENABLED_FEATURES = 0xFFFF_F780_0000_03D8  # KUSER_SHARED_DATA.XState.EnabledFeatures, wdm.h
_TSS_LIMIT = 0x67  # of a 64-bit TSS without an I/O map
_BUSY_TSS = 0x8B

# Data segments of Windows x64 (KGDT64_R3_DATA, KGDT64_R3_CMTEB), for a context that does not cover them.
_SELECTORS = {"ds": 0x2B, "es": 0x2B, "gs": 0x2B, "fs": 0x53, "ss": 0x18}


class Assumption(NamedTuple):
    """A value that the dump does not have: its `name`, the `value` taken instead, and `why` that one."""

    name: str
    value: int
    why: str

    def __str__(self) -> str:
        return f"{self.name} = {self.value:#x}: {self.why}"


class WtfState(NamedTuple):
    """The document `state` for wtf's regs.json, and what in it is `assumed` or derived, not saved."""

    state: dict[str, Any]
    assumed: list[Assumption]


def wtf_state(dump: "Dump", cpu: SupportsIndex | None = None, *, context: Context | None = None) -> WtfState:
    """Return what the snapshot fuzzer wtf reads as regs.json, and the list of values that were assumed.

    `cpu` is the number of a processor, by default the one that crashed; `context` an edited copy of its
    registers (`Context.replace`) to be used instead. Windows saves no EFER, TSC or APIC base, and its own
    dumps no MSRs: for those the value that Windows uses, or that after reset, is taken and listed. The state
    is that of wtf from 2024 on (x87 registers as fraction and exponent).

    Raises UnsupportedDumpError for other machines than x64, UnknownRegisterError if general, control or
    descriptor table registers are not known, or the processor that crashed is not, IndexError for a processor
    that is not.
    """
    if dump.arch != "x64":
        raise UnsupportedDumpError(f"wtf runs x64 code, not that of {dump.arch}")
    return _Wtf(processor(dump, cpu), context).result()


class _Wtf(Machine):
    """The making of a regs.json."""

    def __init__(self, cpu: "Cpu", context: Context | None) -> None:
        super().__init__(cpu, context)
        self.assumed: list[Assumption] = []
        if self.context is None:
            raise UnknownRegisterError(f"no registers of processor {cpu.number} were saved")
        missing = [n for n in (*_GENERAL, "eflags", "cs", *_SPECIAL) if self.get(n) is None]
        if missing:
            raise UnknownRegisterError(f"of processor {cpu.number} these are not known: {', '.join(missing)}")
        self.saved = self.context
        self.user = self.need("cs") & 3 == 3

    def need(self, name: str) -> int:
        return self.registers.require(name)

    def assume(self, name: str, value: int, why: str) -> int:
        self.assumed.append(Assumption(name, value, why))
        return value

    def known_or(self, name: str, key: str, value: int, why: str) -> int:
        found = self.get(name)
        return self.assume(key, value, why) if found is None else found

    def result(self) -> WtfState:
        state: dict[str, Any] = {name: self.need(name) for name in _GENERAL}
        state["rflags"] = self.need("eflags")
        state |= {name: self.need(name) for name in ("cr0", "cr2", "cr3", "cr4", "cr8")}
        state["xcr0"] = self.xcr0()
        state |= self.debug()
        state |= {name: self.one_segment(name) for name in ("cs", *DATA_SEGMENTS)}
        state["gs"]["base"], state["kernel_gs_base"] = self.gs_bases()
        state["fs"]["base"] = self.fs_base(state["fs"]["base"])
        state["tr"] = self.task_register()
        state["ldtr"] = self.one_segment("ldtr")
        state["gdtr"] = {"base": self.need("gdtr_base"), "limit": self.need("gdtr_limit")}
        state["idtr"] = {"base": self.need("idtr_base"), "limit": self.need("idtr_limit")}
        state |= self.syscall()
        state |= self.other_msrs()
        state |= self.floating_point()
        return WtfState(_hexadecimal(state), self.assumed)

    # ---- segments ----

    def one_segment(self, name: str) -> dict[str, Any]:
        """A segment register as wtf has it; base and all 0 for the null selector."""
        selector = self.get(name)
        if selector is None:
            value = _SELECTORS[name]
            selector = self.assume(f"{name}.selector", value, "not in the context; what Windows uses")
        if selector < 4:
            return {"present": False, "selector": selector, "base": 0, "limit": 0, "attr": 0}
        found = self.segment(selector, system=name == "ldtr")
        if found is None:
            found = self.flat(name, selector)
        base, limit, attributes = found
        return {
            "present": bool(attributes & 0x80),
            "selector": selector,
            "base": base,
            "limit": limit,
            "attr": attributes,
        }

    def flat(self, name: str, selector: int) -> tuple[int, int, int]:
        if name == "ldtr":
            raise UnknownRegisterError(f"the descriptor of ldtr ({selector:#x}) is not in the dump")
        privilege = (selector & 3) << 5
        if name == "cs" and self.get("cs_long") != 0:
            limit, attributes = 0, 0x209B | privilege
        else:
            limit, attributes = 0xFFFF_FFFF, (0xCF9B if name == "cs" else 0xCF93) | privilege
        self.assume(f"{name}.attr", attributes, "its descriptor is not in the dump; a flat segment")
        return 0, limit, attributes

    def task_register(self) -> dict[str, Any]:
        selector = self.need("tr")
        found = self.segment(selector, system=True)
        if found is None or found[2] & 0x9D != 0x89:  # a TSS, present, busy or not
            base = self.cpu.tss
            if base is None:
                raise UnknownRegisterError("where the task state segment is, is not in the dump")
            self.assume("tr.base", base, "KPCR.TssBase: no descriptor of a TSS in the dump")
            self.assume("tr.limit", _TSS_LIMIT, "the size of a TSS")
            found = base, _TSS_LIMIT, _BUSY_TSS
        base, limit, attributes = found
        return {
            "present": bool(attributes & 0x80),
            "selector": selector,
            "base": base,
            "limit": limit,
            "attr": attributes,
        }

    def teb(self) -> int | None:
        try:
            thread = self.cpu.thread
            return None if thread is None else thread.teb
        except KdmpError:
            return None

    def gs_bases(self) -> tuple[int, int]:
        """What gs has now, and what swapgs would give it."""
        now, other = self.get("gs_base"), self.get("gs_swap")
        kernel_why = "not saved; the address of the KPCR, as Windows has it"
        user_why = "not saved; the TEB of the current thread, as Windows has it"
        if now is None:
            base = self.teb() if self.user else self.cpu.kpcr
            if base is None:
                raise UnknownRegisterError("the base of gs is not known, nor what Windows sets it to")
            now = self.assume("gs.base", base, user_why if self.user else kernel_why)
        if other is None:
            base = self.cpu.kpcr if self.user else self.teb()
            why = kernel_why if self.user else user_why
            if base is None:
                base, why = 0, "not saved; the current thread has no TEB that is known"
            other = self.assume("kernel_gs_base", base, why)
        return now, other

    def fs_base(self, by_descriptor: int) -> int:
        return self.known_or("fs_base", "fs.base", by_descriptor, "not saved; that of its descriptor")

    # ---- control and debug registers ----

    def xcr0(self) -> int:
        value = self.get("xcr0")
        if value is not None:
            return value
        data = None
        with contextlib.suppress(KdmpError):
            data = self.cpu.windows.reader.try_read_exact(_ENABLED_FEATURES, 8)
        features = int.from_bytes(data or b"", "little")
        if features & 1:
            return self.assume(
                "xcr0", features, "not saved; KUSER_SHAREDDATA_SEGMENTS.XState.EnabledFeatures"
            )
        return self.assume("xcr0", 1, "not saved; the value after reset")

    def debug(self) -> dict[str, int]:
        """In user mode those of the context; the kernel has its own while it runs."""
        found = {}
        reset = {"dr6": 0xFFFF_0FF0, "dr7": 0x400}
        for name in DEBUG:
            in_context = self.saved[name] if self.saved.valid(name) else None
            kernel = self.get(f"kernel_{name}")
            first, second = (in_context, kernel) if self.user else (kernel, in_context)
            value = first if first is not None else second
            if value is None:
                value = self.assume(name, reset.get(name, 0), "not saved; the value after reset")
            found[name] = value
        return found

    # ---- MSRs ----

    def syscall(self) -> dict[str, int]:
        shadow = self.kva_shadow()
        return {
            "star": self.known_or(
                "star", "star", 0x0023_0010_0000_0000, "not saved; the selectors of Windows x64"
            ),
            "lstar": self.entry("lstar", "KiSystemCall64", shadow),
            "cstar": self.entry("cstar", "KiSystemCall32", shadow),
            "sfmask": self.known_or(
                "syscall_mask", "sfmask", 0x4700, "not saved; what Windows masks: TF, IF, DF, NT"
            ),
        }

    def kva_shadow(self) -> bool:
        """Whether system calls enter through the shadow page tables (KiKvaShadow)."""
        try:
            place = self.cpu.windows.try_symbol("KiKvaShadow")
            data = None if place is None else self.cpu.windows.reader.try_read_exact(place, 1)
        except (KdmpError, OverflowError):
            return False
        return bool(data and data[0])

    def entry(self, key: str, symbol: str, shadow: bool) -> int:
        value = self.get(key)
        if value is not None:
            return value
        name = f"{symbol}Shadow" if shadow else symbol
        try:
            place = self.cpu.windows.try_symbol(name)
        except KdmpError:
            place = None
        if place is None:
            return self.assume(key, 0, f"not saved, and no symbol {name}: system calls will not work")
        return self.assume(key, place, f"not saved; the address of {name}")

    def other_msrs(self) -> dict[str, int]:
        boot = 0x100 if self.cpu.number == 0 else 0
        reset, none = "Windows does not save it; the value after reset", "Windows does not save it"
        assumed = {
            "efer": (0xD01, f"{none}; what 64-bit Windows sets: SCE, LME, LMA, NXE"),
            "tsc": (0, none),
            "apic_base": (0xFEE0_0800 | boot, f"{none}; the usual place, enabled"),
            "pat": (0x0007_0406_0007_0406, reset),
            "sysenter_cs": (0, f"{none}; 64-bit Windows does not use it"),
            "sysenter_esp": (0, f"{none}; 64-bit Windows does not use it"),
            "sysenter_eip": (0, f"{none}; 64-bit Windows does not use it"),
            "tsc_aux": (0, reset),
        }
        return {name: self.assume(name, value, why) for name, (value, why) in assumed.items()}

    # ---- x87 and SSE ----

    def floating_point(self) -> dict[str, Any]:
        saved = self.saved
        if not saved.valid("control_word"):
            why = "the context does not cover it; as a function of x64 Windows finds it"
            state: dict[str, Any] = {
                "fpcw": self.assume("fpcw", 0x27F, why),
                "fpsw": self.assume("fpsw", 0, why),
                "fptw": self.assume("fptw", 0xFFFF, f"{why}: empty"),
                "fpop": self.assume("fpop", 0, why),
                "fpst": [{"fraction": 0, "exp": 0}] * 8,
                "mxcsr": self.known_or("mxcsr", "mxcsr", 0x1F80, why),
            }
            self.assume("fpst", 0, why)
        else:
            state = {
                "fpcw": saved["control_word"],
                "fpsw": saved["status_word"],
                "fptw": full_tag_word(saved),
                "fpop": saved["error_opcode"],
                "fpst": [{"fraction": st & (1 << 64) - 1, "exp": st >> 64} for st in saved.st],
                "mxcsr": saved["mxcsr"],
                # As wtf's own tools write them: 512 bits in eight parts. Its loader does not read them.
                **{
                    name: [value & (1 << 64) - 1, value >> 64, 0, 0, 0, 0, 0, 0]
                    for name, value in ((f"xmm{n}", saved[f"xmm{n}"]) for n in range(16))
                },
            }
        mask = saved["mxcsr_mask"] if saved.valid("mxcsr_mask") else 0
        default = "not saved; what a mask of 0 stands for (SDM, volume 1, 11.6.6)"
        state["mxcsr_mask"] = mask or self.assume("mxcsr_mask", 0xFFBF, default)
        return state


def _hexadecimal(value: Any) -> Any:
    """All numbers as text, which is how wtf reads them."""
    if isinstance(value, dict):
        return {name: _hexadecimal(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_hexadecimal(part) for part in value]
    return value if isinstance(value, bool) else f"{value:#x}"
