"""Threads: one ETHREAD each.

Sources: windows-objects.md section 6; offsets are those of the layout in use.

SPDX-License-Identifier: MIT
"""

from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, SupportsIndex

from kdmp._kdmp import KdmpError
from kdmp.windows.entity import Listing, Problem, fact
from kdmp.windows.enums import processor_mode, thread_state, wait_reason
from kdmp.windows.executive import Executive
from kdmp.windows.lists import walk_list
from kdmp.windows.objects import EnumValue
from kdmp.windows.process_sources import THREAD_OBJECT, census
from kdmp.windows.processes import Process, process_at, processes

if TYPE_CHECKING:
    from kdmp.reader import Reader
    from kdmp.windows.session import Windows
    from kdmp.windows.trapframe import TrapFrame

__all__ = ["Thread", "all_threads", "thread_at", "threads"]

_TERMINATED = 4  # KTHREAD_STATE
_MAX_THREADS = 1 << 16  # of a process; more than fit in its address space
_MAX_ENTRIES = 1 << 18  # of the lists of all processes together
_MAX_INCREMENT = 10_000_000  # KeTimeIncrement of a second; real ones are 1 ms to 16 ms
# A TEB32 lies this far behind the TEB64: sizeof(_TEB), rounded up to pages, on every Windows with WoW64.
_TEB32 = 0x2000
_TEB32_SELF = 0x18  # NtTib.Self of a TEB32


class Thread(Executive):
    """A thread. `address` is its ETHREAD.

    Properties are read when they are asked for; one that cannot be read is None, and `problems` says why.
    """

    TYPE = "_ETHREAD"
    FACTS: ClassVar[tuple[str, ...]] = (
        "tid", "pid", "name", "state", "wait_reason", "wait_mode", "priority", "base_priority", "create_time",
        "exit_time", "terminated", "start_address", "win32_start_address", "teb", "teb32", "stack_base",
        "stack_limit", "initial_stack", "kernel_stack", "trap_frame", "context_switches", "kernel_time",
        "user_time", "impersonating", "attached_process", "next_processor", "current", "process",
    )  # fmt: skip
    COLUMNS: ClassVar[tuple[str, ...]] = (
        "pid", "tid", "state", "wait_reason", "priority", "create_time", "win32_start_address", "teb",
        "address",
    )  # fmt: skip
    HEX: ClassVar[frozenset[str]] = frozenset(
        {"address", "start_address", "win32_start_address", "teb", "teb32", "stack_base", "stack_limit"}
        | {"initial_stack", "kernel_stack", "trap_frame"}
    )

    def __init__(
        self,
        windows: "Windows",
        address: int,
        memory: "Reader | None" = None,
        process: Process | None = None,
    ) -> None:
        super().__init__(windows, address, memory)
        self._process = process

    def _brief(self) -> str:
        return f"<Thread {self.tid} of process {self.pid} at {self.address:#x}>"

    # ---- whose it is ----

    @fact
    def tid(self) -> int | None:
        """Cid.UniqueThread."""
        return self.number("Cid.UniqueThread")

    @fact
    def pid(self) -> int | None:
        """Cid.UniqueProcess, the id of its process."""
        return self.number("Cid.UniqueProcess")

    @fact
    def process(self) -> Process | None:
        """The process it belongs to."""
        if self._process is None:
            owner = self.number("Tcb.Process")
            self._process = self._process_at(owner)
        return self._process

    @fact
    def attached_process(self) -> Process | None:
        """The process whose address space it works in (ApcState.Process): `process`, mostly."""
        address = self.number("Tcb.ApcState.Process")
        own = self.process
        return own if own is not None and own.address == address else self._process_at(address)

    def _process_at(self, address: int) -> Process | None:
        return process_at(self.windows, address) if address else None

    @fact
    def name(self) -> str | None:
        """ThreadName, as SetThreadDescription set it; None without one, and before build 14393."""
        if not self.has("ThreadName"):
            return None
        string = self.number("ThreadName")
        return self.windows.unicode_string(string, self.memory) if string else None

    # ---- what it does ----

    @fact
    def state(self) -> EnumValue | None:
        """KTHREAD.State, a number with a name: "Running", "Waiting" ..."""
        return thread_state(self.windows, self.number("Tcb.State") & 0xFF)

    @fact
    def wait_reason(self) -> EnumValue | None:
        """KTHREAD.WaitReason, a number with a name; of a thread that does not wait, that of its last wait."""
        return wait_reason(self.windows, self.number("Tcb.WaitReason") & 0xFF)

    @fact
    def wait_mode(self) -> EnumValue | None:
        """The mode it waits in: KernelMode (0) or UserMode (1)."""
        return processor_mode(self.number("Tcb.WaitMode") & 0xFF)

    @fact
    def priority(self) -> int | None:
        """The scheduling priority now, 0 to 31."""
        return self.number("Tcb.Priority")

    @fact
    def base_priority(self) -> int | None:
        """The priority without boosts."""
        return self.number("Tcb.BasePriority")

    @fact
    def context_switches(self) -> int | None:
        """How often it was switched to."""
        return self.number("Tcb.ContextSwitches")

    @fact
    def kernel_time(self) -> timedelta | None:
        """Time in kernel mode, in clock ticks of KeTimeIncrement."""
        return self._ticks("kernel_time", "Tcb.KernelTime")

    @fact
    def user_time(self) -> timedelta | None:
        """Time in user mode, in clock ticks of KeTimeIncrement."""
        return self._ticks("user_time", "Tcb.UserTime")

    def _ticks(self, name: str, path: str) -> timedelta | None:
        """A field that counts clock ticks as a time. KeTimeIncrement is in units of 100 ns."""
        ticks = self.number(path)
        if not ticks:
            return timedelta()
        increment = self.memory.read_u32(self.windows.symbol("KeTimeIncrement"))
        if not 0 < increment <= _MAX_INCREMENT:
            self.note(name, f"KeTimeIncrement is {increment}, no length of a tick")
            return None
        return timedelta(microseconds=ticks * increment // 10)

    @fact
    def next_processor(self) -> int | None:
        """The processor it runs on, or ran on last."""
        return self.number("Tcb.NextProcessor") & 0x7FFFFFFF  # bit 31: NextProcessor is a shared queue's

    @fact
    def current(self) -> int | None:
        """The number of the processor that runs it, None if none does."""
        return _running(self.windows).get(self.address)

    # ---- its life ----

    @fact
    def create_time(self) -> datetime | None:
        """When it was created, UTC."""
        value = self.quad("CreateTime")
        if (self.windows.dump.build or 0) < 3790:
            value >>= 3  # XP keeps NestedFaultCount and ApcNeeded in the low bits
        return self.windows.filetime(value)

    @fact
    def terminated(self) -> bool | None:
        """Whether it has ended, or is about to: State or the flag Terminated say so."""
        return self.number("Tcb.State") == _TERMINATED or bool(self.number("CrossThreadFlags") & 1)

    @fact
    def exit_time(self) -> datetime | None:
        """When it ended, UTC; None while it lives: the field is used for something else till then."""
        return self.time("ExitTime") if self.terminated else None

    @fact
    def impersonating(self) -> bool | None:
        """Whether it acts under another token than its process'."""
        return bool(self.number("ActiveImpersonationInfo"))

    # ---- where it is ----

    @fact
    def start_address(self) -> int | None:
        """StartAddress: where it began; of user threads the same few places of ntdll."""
        return self.pointer("StartAddress")

    @fact
    def win32_start_address(self) -> int | None:
        """Win32StartAddress: the function that CreateThread was given."""
        return self.pointer("Win32StartAddress")

    @fact
    def teb(self) -> int | None:
        """VA of its native TEB, None for system threads."""
        return self.pointer("Tcb.Teb")

    @fact
    def teb32(self) -> int | None:
        """VA of the 32-bit TEB of a thread of a WoW64 process; None if what is there is none."""
        process, teb = self.process, self.teb
        if process is None or not process.wow64 or teb is None:
            return None
        own = process.reader.read_u32(teb + _TEB32 + _TEB32_SELF)
        return own if own == teb + _TEB32 else None

    @fact
    def stack_base(self) -> int | None:
        """The end of the kernel stack: its highest address, excluded."""
        return self.pointer("Tcb.StackBase")

    @fact
    def stack_limit(self) -> int | None:
        """The lowest address of the kernel stack."""
        return self.pointer("Tcb.StackLimit")

    @fact
    def initial_stack(self) -> int | None:
        """Where the kernel stack began to be used."""
        return self.pointer("Tcb.InitialStack")

    @fact
    def kernel_stack(self) -> int | None:
        """The saved stack pointer of a thread that does not run."""
        return self.pointer("Tcb.KernelStack")

    @fact
    def trap_frame(self) -> int | None:
        """VA of the KTRAP_FRAME with its registers in user mode, None without one."""
        return self.pointer("Tcb.TrapFrame")

    @cached_property
    def registers(self) -> "TrapFrame | None":
        """The registers in its trap frame, see kdmp.windows.trapframe; None if they cannot be read."""
        if self.trap_frame is None:
            return None
        from kdmp.windows.trapframe import trap_frame

        try:
            return trap_frame(self.windows, self.trap_frame, self.memory)
        except (KdmpError, OverflowError) as error:
            self.note("registers", error)
            return None

    def syscall_argument(self, i: SupportsIndex) -> int:
        """Return argument `i` of the system call it is in, from its trap frame and user stack (A8).

        Windows saves no volatile registers in the frame of a system call, so mostly those from the fifth on
        are known; UnknownRegisterError for the others, UnreadableError if the stack is missing.
        """
        from kdmp.windows.arguments import Arguments
        from kdmp.windows.registers import UnknownRegisterError

        if self.registers is None:
            raise UnknownRegisterError(f"thread {self.tid} has no trap frame that can be read")
        owner = self.process
        if owner is None:
            raise UnknownRegisterError(f"nothing tells whose thread {self.tid} is")
        return Arguments(self.registers, owner.reader).syscall_argument(i)


def _running(windows: "Windows") -> dict[int, int]:
    """Which threads the processors run: ETHREAD -> number of the processor."""
    return windows.once("running threads", lambda: _find_running(windows))


def _find_running(windows: "Windows") -> dict[int, int]:
    running = ((cpu.current_thread, cpu.number) for cpu in windows.cpus)
    return {int(thread): number for thread, number in running if thread is not None}


def threads(process: Process) -> Listing[Thread]:
    """Return the threads of a process: those of its two lists, repaired where they are damaged, and those
    that only the table of ids leads to. Ended threads are there while the lists have them.

    Of a triage dump: the crashing thread, if it is the process'.
    """
    return _threads(process, [2 * _MAX_THREADS])


def _threads(process: Process, budget: list[int]) -> Listing[Thread]:
    """As threads(); the lists may have as many entries as are left in `budget`, which gets less."""
    windows = process.windows
    if windows.dump.triage is not None:
        from kdmp.windows.triagecopies import crash

        thread = crash(windows).thread
        own = [] if thread is None or thread.process != process else [thread]
        only = Problem("threads", "a triage dump holds the crashing thread alone")
        return Listing(own, [only], Thread)
    problems: list[Problem] = []
    lists = [
        _walk(process, "Pcb.ThreadListHead", "_KTHREAD", "kernel's list", problems, budget),
        _walk(process, "ThreadListHead", "_ETHREAD", "executive's list", problems, budget),
    ]
    # The order of the list that is whole, or longer.
    lists.sort(key=len, reverse=True)
    found = dict.fromkeys([*lists[0], *lists[1]])
    ids = census(windows).threads.get(process.address, ())
    missing = [thread for thread in ids if thread not in found]
    if missing:
        why = f"{len(missing)} threads are in the table of ids, but not in the process' lists"
        problems.append(Problem("threads", why, missing[0]))
    found.update(dict.fromkeys(missing))
    return Listing([Thread(windows, at, process.memory, process) for at in found], problems, Thread)


def _walk(
    process: Process, head: str, type: str, name: str, problems: list[Problem], budget: list[int]
) -> list[int]:
    """The threads of one list of a process, checked."""
    windows, memory = process.windows, process.memory
    try:
        limit = min(_MAX_THREADS, budget[0])
        links = walk_list(memory, process.field_address(head), windows.pointer_size, limit)
        budget[0] -= min(len(links.links), limit)
        offset = windows.layout.offset(type, "ThreadListEntry")
        owner_at = windows.layout.offset("_KTHREAD", "Process")
    except KdmpError as error:
        problems.append(Problem("threads", f"{name}: {error}", process.address))
        return []
    problems += [Problem("threads", f"{name}: {why}", at) for why, at in links.problems]
    found, dropped = [], 0
    for link in links.links:
        thread = link - offset
        try:
            kind = memory.read_u8(thread)
            owner = memory.read_uint(thread + owner_at, windows.pointer_size)
        except (KdmpError, OverflowError):
            found.append(thread)  # not in the dump: nothing speaks against it
            continue
        if kind == THREAD_OBJECT and owner == process.address:
            found.append(thread)
        else:
            dropped += 1
    if dropped:
        problems.append(Problem("threads", f"{name}: {dropped} entries are no threads of the process"))
    return found


def all_threads(windows: "Windows") -> Listing[Thread]:
    """Return the threads of all processes, in the order of `processes()`. Raises SymbolError as that does."""
    everyone = processes(windows)
    found: list[Thread] = []
    problems = list(everyone.problems)
    if windows.dump.triage is not None:  # the thread's own process need not be the one it is attached to
        from kdmp.windows.triagecopies import crash

        thread = crash(windows).thread
        return Listing([] if thread is None else [thread], problems, Thread)
    budget = [_MAX_ENTRIES]
    for process in everyone:
        own = _threads(process, budget)
        found += own
        problems += own.problems
    return Listing(found, problems, Thread)


def thread_at(windows: "Windows", address: int) -> Thread:
    """Return the thread whose ETHREAD is at an address; nothing is read or checked."""
    if windows.dump.triage is not None:
        from kdmp.windows.triagecopies import crash

        return Thread(windows, address, crash(windows).memory)
    return Thread(windows, address)
