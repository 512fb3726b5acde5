"""A processor of the machine.

SPDX-License-Identifier: MIT
"""

from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, SupportsIndex

if TYPE_CHECKING:
    from kdmp.windows.processes import Process
    from kdmp.windows.threads import Thread

from kdmp._kdmp import KdmpError
from kdmp.windows.arguments import Arguments, long_mode
from kdmp.windows.cpustate import KPCR_FIELDS, SavedState
from kdmp.windows.entity import fact
from kdmp.windows.registers import UnknownRegisterError

__all__ = ["Cpu"]

_VENDOR_SIZE = 13


class Cpu(SavedState):
    """A processor: `number`, `address` of its KPRCB (0: only a copy of it is known), and what it saved.

    Values are as Windows stored them. `problems` tells what is missing and what does not fit together.
    """

    FACTS: ClassVar[tuple[str, ...]] = (
        "number", "kprcb", "kpcr", "is_crashing", "ip", "sp", "context_source", "cr3", "current_thread",
        "next_thread", "idle_thread", "current_process", "mhz", "vendor", "cpu_type", "cpu_model",
        "cpu_stepping", "tss", "kpcr_agrees",
    )  # fmt: skip
    COLUMNS: ClassVar[tuple[str, ...]] = (
        "number", "kprcb", "kpcr", "cr3", "current_thread", "ip", "context_source",
    )  # fmt: skip
    HEX: ClassVar[frozenset[str]] = frozenset(
        {"address", "kprcb", "kpcr", "ip", "sp", "cr3", "current_thread", "next_thread", "idle_thread",
         "current_process", "tss"}
    )  # fmt: skip

    def _brief(self) -> str:
        return f"<Cpu {self.number} kprcb={'?' if self.kprcb is None else hex(self.kprcb)}>"

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and isinstance(other, Cpu) and self.number == other.number

    def __hash__(self) -> int:
        return hash((Cpu, self.address, self.number))

    # ---- threads ----

    @fact
    def current_thread(self) -> int | None:
        """Address of the KTHREAD that runs."""
        address = self._number_at("CurrentThread", self.windows.pointer_size)
        if not address:
            self.note("current_thread", "the pointer is NULL")
        return address or None

    @fact
    def next_thread(self) -> int | None:
        """Address of the KTHREAD that was chosen to run next, None if there is none."""
        return self._number_at("NextThread", self.windows.pointer_size) or None

    @fact
    def idle_thread(self) -> int | None:
        """Address of the processor's idle thread."""
        return self._number_at("IdleThread", self.windows.pointer_size) or None

    @fact
    def current_process(self) -> int | None:
        """Address of the process that the current thread is attached to (ApcState.Process)."""
        thread = self.current_thread
        return self.windows.pointer(thread + self._offsets["Process"]) or None if thread else None

    @property
    def thread(self) -> "Thread | None":
        """The thread that runs, as an object; its address is `current_thread`."""
        from kdmp.windows.threads import thread_at

        return thread_at(self.windows, self.current_thread) if self.current_thread else None

    @property
    def process(self) -> "Process | None":
        """The process that the current thread is attached to; its address is `current_process`."""
        from kdmp.windows.processes import process_at

        return process_at(self.windows, self.current_process) if self.current_process else None

    # ---- calls ----

    @cached_property
    def arguments(self) -> Arguments:
        """Arguments of the call that the processor is at, see kdmp.windows.arguments.

        Raises UnknownRegisterError if no registers were saved.
        """
        if self.context is None:
            raise UnknownRegisterError(f"no registers of processor {self.number} were saved")
        return Arguments(self.context, self.reader, self.gdt)

    def syscall_argument(self, n: SupportsIndex) -> int:
        """Return argument `n` if the processor is at the first instruction of the system service entry."""
        return self.arguments.syscall_argument(n)

    def function_argument(self, n: SupportsIndex) -> int:
        """Return argument `n` if the processor is at the first instruction of a function."""
        return self.arguments.function_argument(n)

    @property
    def return_value(self) -> int:
        """What a function gave back, if the processor has just returned from it."""
        return self.arguments.return_value

    @property
    def return_address(self) -> int:
        """Where the function returns to, if the processor is at its first instruction."""
        return self.arguments.return_address

    @property
    def long_mode(self) -> bool | None:
        """Whether it ran 64-bit code (CS.L); None if that cannot be told."""
        try:
            return None if self.context is None else long_mode(self.context, self.gdt)
        except UnknownRegisterError:
            return None

    # ---- what it is ----

    @fact
    def mhz(self) -> int | None:
        """Nominal frequency in MHz."""
        return self._number_at("MHz", 4) or None

    @fact
    def vendor(self) -> str | None:
        """What CPUID calls the vendor ("GenuineIntel"), or what Windows does on ARM64."""
        raw = self.read(self._offsets["VendorString"], _VENDOR_SIZE).split(b"\0", 1)[0]
        text = raw.decode("ascii", "replace")
        if not text or not (text.isascii() and text.isprintable()):
            self.note("vendor", f"no text: {raw!r}")
            return None
        return text

    def _signature(self) -> bytes | None:
        """CpuType, CpuID, and CpuStep, which is stepping and model."""
        if self.windows.dump.arch not in ("x64", "x86"):
            return None
        return self.read(self._offsets["CpuType"], 4)

    @fact
    def cpu_type(self) -> int | None:
        """The family, as CPUID counts; None on ARM64."""
        signature = self._signature()
        return None if signature is None else signature[0]

    @fact
    def cpu_model(self) -> int | None:
        """The model, as CPUID counts; None on ARM64."""
        signature = self._signature()
        return None if signature is None else signature[3]

    @fact
    def cpu_stepping(self) -> int | None:
        """The stepping; None on ARM64."""
        signature = self._signature()
        return None if signature is None else signature[2]

    def check(self) -> None:
        """Note in `problems` where the KPRCB contradicts its place in the list, or KPCR its own."""
        try:
            own = self._number_at("Number", 4)
        except (KdmpError, OverflowError) as error:
            self.note("kprcb", error)
        else:
            if own != self.number:
                self.note("number", f"the KPRCB says it is of processor {own}", self.kprcb)
        for member, wanted in (("Self", self.kpcr), ("CurrentPrcb", self.kprcb)):
            at = self._offsets.get(member)
            if at is None or self.kpcr is None or self.windows.dump.arch not in KPCR_FIELDS:
                continue
            try:
                value = self.windows.pointer(self.kpcr + at)
            except (KdmpError, OverflowError):
                continue
            if value != wanted:
                self.note("kpcr", f"KPCR.{member} is {value:#x}, not {wanted or 0:#x}", self.kpcr)

    def to_dict(self) -> dict[str, Any]:
        """Return the properties, the registers by name, and the problems; not IDT and GDT."""
        found = super().to_dict()
        context, special = self.context, self.special
        found["context"] = None if context is None else context.to_dict()
        found["special"] = None if special is None else special.to_dict()
        found["problems"] = [problem.to_dict() for problem in self.problems]
        return found
