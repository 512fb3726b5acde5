"""Processes: one EPROCESS each, and the list of them put together from all that leads to one.

Sources: windows-objects.md sections 5, 7.2 and 12; offsets are those of the layout in use.

SPDX-License-Identifier: MIT
"""

import os
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, SupportsIndex

from kdmp._kdmp import KdmpError, RootNotPresentError
from kdmp.reader import Reader
from kdmp.windows.entity import Listing, Problem, fact
from kdmp.windows.executive import Executive
from kdmp.windows.process_sources import SOURCES, census

if TYPE_CHECKING:
    from kdmp.dump import Progress
    from kdmp.targets import Writable
    from kdmp.windows.ldr import UserModule
    from kdmp.windows.processfile import ExtractedProcess, What
    from kdmp.windows.session import Windows
    from kdmp.windows.threads import Thread
    from kdmp.windows.user import Parameters
    from kdmp.windows.vads import Vad

__all__ = ["Process", "find_process", "process_at", "processes"]

# Values below this in UserDirectoryTableBase mean "the process has no second root".
_NO_ROOT = 0x1000
_MAX_NAME = 16  # bytes of ImageFileName: 15, and 16 in 2003
_CACHE = 256  # pages of the translation cache: there may be many processes
_CUT = 14  # characters that surely fit in ImageFileName

# SessionId in _PSP_SESSION_SPACE, which took the place of _MM_SESSION_SPACE in 24H2 and is in no public
# symbols: where it was before. Source: vmi-rs.
_SESSION_ID = 8
_MAX_SESSION = 0xFFFF

_PROTECTED, _PS_PROTECTION = 6000, 9600  # the builds since which there are protected processes
_PROTECTION_TYPES = {0: "None", 1: "Light", 2: "Full"}
_SIGNERS = {
    1: "Authenticode", 2: "CodeGen", 3: "Antimalware", 4: "Lsa", 5: "Windows", 6: "WinTcb", 7: "WinSystem",
    8: "App",
}  # fmt: skip


class Process(Executive):
    """A process. `address` is its EPROCESS.

    Properties are read when they are asked for; one that cannot be read is None, and `problems` says why.
    A pointer that is NULL is None, too: `peb` of the System process, `object_table` of one that exited.
    """

    TYPE = "_EPROCESS"
    FACTS: ClassVar[tuple[str, ...]] = (
        "pid", "ppid", "name", "full_name", "image_path", "session", "create_time", "exit_time", "exited",
        "exit_status", "wow64", "protection", "thread_count", "handle_count", "dtb", "user_dtb", "peb",
        "peb32", "image_base", "token", "object_table", "section_object", "job", "flags", "sources",
        "hidden", "command_line",
    )  # fmt: skip
    COLUMNS: ClassVar[tuple[str, ...]] = (
        "pid", "ppid", "name", "session", "thread_count", "create_time", "wow64", "hidden", "address",
    )  # fmt: skip
    HEX: ClassVar[frozenset[str]] = frozenset(
        "address dtb user_dtb peb peb32 image_base token object_table section_object job flags".split()
    )

    def _brief(self) -> str:
        return f"<Process {self.pid} {self.name!r} at {self.address:#x}>"

    # ---- who it is ----

    @fact
    def pid(self) -> int | None:
        """UniqueProcessId."""
        return self.number("UniqueProcessId")

    @fact
    def ppid(self) -> int | None:
        """The id of the process that created it (InheritedFromUniqueProcessId), which may be gone."""
        return self.number("InheritedFromUniqueProcessId")

    @fact
    def name(self) -> str | None:
        """ImageFileName: at most 14 characters (a damaged one has 15) of the image's file name; characters
        outside the ANSI code page are question marks there. See `full_name`."""
        field = self.object.field("ImageFileName")
        raw = self.memory.read_exact(self.address + field.offset, min(field.size or 15, _MAX_NAME))
        raw = raw.split(b"\0", 1)[0]
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return raw.decode("latin-1")

    @fact
    def full_name(self) -> str | None:
        """The file name of the image in full: the end of `image_path`, or `name` if that surely is all.

        None if the path cannot be read and `name` may be cut."""
        path = self.image_path
        if path:
            return path.rsplit("\\", 1)[-1]
        lost = any(problem.what == "image_path" for problem in self.problems)
        if self.name is None or (lost and (len(self.name) >= _CUT or "?" in self.name)):
            return None
        return self.name

    @fact
    def image_path(self) -> str | None:
        """The native path of the image, "\\\\Device\\\\HarddiskVolume2\\\\...", None if it has none.

        From SeAuditProcessCreationInfo. Failing that from the file object ImageFilePointer, without the
        device then."""
        failure: KdmpError | OverflowError | None = None
        for way in (self._audited_name, self._file_name):
            try:
                path = way()
            except (KdmpError, OverflowError) as error:
                failure = failure or error
                continue
            if path:
                return path
        if failure is not None:
            raise failure
        return None

    def _audited_name(self) -> str | None:
        name = self.number("SeAuditProcessCreationInfo.ImageFileName")
        return self.windows.unicode_string(name, self.memory) if name else None

    def _file_name(self) -> str | None:
        if not self.has("ImageFilePointer"):  # before 14393
            return None
        file = self.number("ImageFilePointer")
        if not file:
            return None
        name = file + self.windows.layout.offset("_FILE_OBJECT", "FileName")
        return self.windows.unicode_string(name, self.memory)

    @fact
    def session(self) -> int | None:
        """The number of its session; None for processes outside all sessions (System, Registry, smss).

        From the session space that EPROCESS.Session points to, failing that from the token."""
        session, layout = self.pointer("Session"), self.windows.layout
        if session is None:
            return None
        offset = _SESSION_ID
        if layout.has("_MM_SESSION_SPACE", "SessionId"):
            offset = layout.offset("_MM_SESSION_SPACE", "SessionId")
        try:
            number = self.memory.read_u32(session + offset)
            if number <= _MAX_SESSION:
                return number
        except (KdmpError, OverflowError):
            pass
        token = self.token
        return None if token is None else self.memory.read_u32(token + layout.offset("_TOKEN", "SessionId"))

    # ---- its life ----

    @fact
    def create_time(self) -> datetime | None:
        """When it was created, UTC."""
        return self.time("CreateTime")

    @fact
    def exit_time(self) -> datetime | None:
        """When it ended, UTC; None while it runs."""
        return self.time("ExitTime")

    @fact
    def exited(self) -> bool | None:
        """Whether it has ended: ExitTime is set. Its EPROCESS lives on while somebody refers to it."""
        return self.quad("ExitTime") != 0

    @fact
    def exit_status(self) -> int | None:
        """The NTSTATUS it ended with, unsigned; None while it runs."""
        return self.number("ExitStatus") & 0xFFFFFFFF if self.exited else None

    @fact
    def flags(self) -> int | None:
        """EPROCESS.Flags, 32 bits: bit 2 ProcessExiting, bit 3 ProcessDelete, ..."""
        return self.number("Flags")

    # ---- address space ----

    @fact
    def dtb(self) -> int | None:
        """DirectoryTableBase as stored, with flag bits (2: kernel's table under KVA shadow)."""
        return self.number("Pcb.DirectoryTableBase")

    @fact
    def user_dtb(self) -> int | None:
        """UserDirectoryTableBase, the page-table root in user mode under KVA shadow; None without one."""
        if not self.has("Pcb.UserDirectoryTableBase"):
            return None
        root = self.number("Pcb.UserDirectoryTableBase")
        return root if root >= _NO_ROOT else None

    @cached_property
    def reader(self) -> Reader:
        """Its address space: that of `dtb`; of a triage dump the one space there is.

        Raises RootNotPresentError if it has no root, as some exited processes; what is then read raises.
        """
        dump = self.windows.dump
        if dump.triage is not None:
            return self.memory
        if not self.dtb:
            raise RootNotPresentError(f"process {self.pid} has no page-table root")
        try:
            reader = dump.reader(dtb=self.dtb, translation_cache=_CACHE)
        except (OverflowError, ValueError) as error:
            raise RootNotPresentError(f"process {self.pid}: {self.dtb:#x} is no page-table root") from error
        reader.strict = True  # as the kernel's
        return reader

    def is_resident(self, va: int) -> bool:
        """Return whether the page at an address of this process was in memory and is in the dump."""
        return self.reader.is_resident(va)

    @fact
    def peb(self) -> int | None:
        """VA of the native PEB: of a WoW64 process the 64-bit one. None for System and minimal ones."""
        return self.pointer("Peb")

    def _wow64(self) -> int:
        """EPROCESS.WoW64Process; 0 on 32-bit Windows."""
        return 0 if self.windows.pointer_size == 4 else self.number("WoW64Process")

    @fact
    def wow64(self) -> bool | None:
        """Whether it is a 32-bit process on 64-bit Windows."""
        return self._wow64() != 0

    @fact
    def peb32(self) -> int | None:
        """VA of the 32-bit PEB of a WoW64 process, None for others.

        Until Windows 8.1 EPROCESS has that address itself (a 32-bit one), else, as in 2003 and Vista, that of
        a structure of the kernel that begins with it."""
        value = self._wow64()
        if not value:
            return None
        if value >> 32 == 0:
            return value
        return self.memory.read_u64(value) or None

    @fact
    def image_base(self) -> int | None:
        """SectionBaseAddress: where its image was mapped first; None for processes without one."""
        return self.pointer("SectionBaseAddress")

    @fact
    def section_object(self) -> int | None:
        """VA of the section object of its image."""
        return self.pointer("SectionObject")

    # ---- what it has ----

    @fact
    def token(self) -> int | None:
        """VA of its token object."""
        reference = self.pointer("Token")  # an EX_FAST_REF
        return self.windows.fast_ref(reference or 0) or None

    @fact
    def object_table(self) -> int | None:
        """VA of its HANDLE_TABLE; None once it has exited."""
        return self.pointer("ObjectTable")

    @fact
    def handle_count(self) -> int | None:
        """How many handles it has open, as its handle table counts them; None without a table."""
        table, layout = self.object_table, self.windows.layout
        if table is None:
            return None
        if layout.has("_HANDLE_TABLE", "HandleCount"):
            at = layout.offset("_HANDLE_TABLE", "HandleCount")
        else:  # from Windows 8 on
            at = layout.offset("_HANDLE_TABLE", "FreeLists")
            at += layout.offset("_HANDLE_TABLE_FREE_LIST", "HandleCount")
        return self.memory.read_u32(table + at)

    @fact
    def thread_count(self) -> int | None:
        """ActiveThreads: its threads that have not ended."""
        return self.number("ActiveThreads")

    @fact
    def job(self) -> int | None:
        """VA of the job object it is in."""
        return self.pointer("Job")

    @fact
    def protection(self) -> str | None:
        """How it is protected from others: "None", "Light (Antimalware)", "Full (WinSystem)" ...

        From _PS_PROTECTION; before Windows 8.1 the flag ProtectedProcess, in XP and 2003 nothing."""
        build = self.windows.dump.build or 0
        if build < _PROTECTED:
            return "None"
        if build >= _PS_PROTECTION:
            level = self.memory.read_u8(self.field_address("Protection"))
            kind, signer = _PROTECTION_TYPES.get(level & 7, str(level & 7)), level >> 4
            return f"{kind} ({_SIGNERS.get(signer, signer)})" if signer else kind
        return "Full" if self.number("ProtectedProcess") else "None"

    # ---- how it was found ----

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """The ways that lead to it, of kdmp.windows.process_sources.SOURCES, the surest first."""
        if self.windows.dump.triage is not None:
            return ("thread owner",)
        found = census(self.windows).ways.get(self.address, set())
        return tuple(name for name in SOURCES if name in found)

    @cached_property
    def hidden(self) -> bool | None:
        """Whether the list of active processes leaves it out, as rootkits do it.

        None if that cannot be told: the list is cut, and the process may be in what is lost."""
        if self.windows.dump.triage is not None:
            return None
        if self.pid == 0:
            return False  # the Idle process is in no list
        return census(self.windows).hidden(self.address)

    # ---- its relatives ----

    @property
    def parent(self) -> "Process | None":
        """The process with the id `ppid`; None if it is gone, or if its id was given to a later one."""
        if self.ppid is None or self.ppid == self.pid:
            return None
        return next((p for p in processes(self.windows) if p.pid == self.ppid and _before(p, self)), None)

    def children(self) -> "Listing[Process]":
        """Return the processes it created that are there, in the order of `processes()`."""
        found = (p for p in processes(self.windows) if p != self and p.ppid == self.pid)
        return Listing([p for p in found if self.pid is not None and _before(self, p)], (), Process)

    # ---- threads, user side, address space ----

    def threads(self) -> "Listing[Thread]":
        """Return its threads, see kdmp.windows.threads."""
        from kdmp.windows.threads import threads

        return threads(self)

    @cached_property
    def parameters(self) -> "Parameters | None":
        """RTL_USER_PROCESS_PARAMETERS, see kdmp.windows.user; None if nothing leads to them."""
        from kdmp.windows import user

        return user.parameters(self)

    @property
    def command_line(self) -> str | None:
        """The command line, None if it cannot be read."""
        return None if self.parameters is None else self.parameters.command_line

    @property
    def current_directory(self) -> str | None:
        """The current directory, None if it cannot be read."""
        return None if self.parameters is None else self.parameters.current_directory

    @property
    def environment(self) -> dict[str, str] | None:
        """The environment variables, None if they cannot be read."""
        return None if self.parameters is None else self.parameters.environment

    def modules(self, *, wow64: bool | None = None) -> "Listing[UserModule]":
        """Return the modules of its user side: native ones, with `wow64` 32-bit ones; None: both.

        See kdmp.windows.ldr."""
        from kdmp.windows import ldr

        return ldr.modules(self, wow64=wow64)

    def vads(self) -> "Listing[Vad]":
        """Return the regions of its address space, see kdmp.windows.vads."""
        from kdmp.windows import vads

        return vads.vads(self)

    def vad(self, va: int) -> "Vad | None":
        """Return the region an address lies in, None if there is none."""
        from kdmp.windows import vads

        return vads.find(self, va)

    # ---- into a file ----

    def extract(
        self,
        path: "Writable",
        *,
        what: "What" = None,
        untouched: bool = False,
        index: bool | str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        limit: SupportsIndex | None = None,
        progress: "Progress | None" = None,
    ) -> "ExtractedProcess":
        """Write its user memory to a file, one range after another, and return where each is.

        A range is memory without a hole in its addresses that belongs to one VAD: what page tables map, or
        know to be paged out, and pages of files and images that only the VAD leads to. Memory that was
        reserved and never touched is no range and costs nothing; with `untouched`, memory that was committed
        and not touched is one, of zeros. What is missing inside a range is a gap, a hole in the file.

        `what` chooses by the kind of the VAD, one or several of `kdmp.windows.processfile.KINDS` ("private",
        "image", "mapped" ...; "none" for memory in no VAD), or is called with each Vad. The index, a JSON
        object as of `ExtractedProcess.to_dict`, is written beside the file as PATH.json; `index` is another
        path for it, or False. Other arguments and errors are those of `Reader.extract`, and
        RootNotPresentError if the process has no page tables.
        """
        from kdmp.windows.processfile import extract_process

        return extract_process(
            self, path, what=what, untouched=untouched, index=index, overwrite=overwrite, limit=limit,
            progress=progress,
        )  # fmt: skip


def _before(first: Process, second: Process) -> bool:
    """Whether `first` may have created `second`, by their times."""
    if first.create_time is None or second.create_time is None:
        return True
    return first.create_time <= second.create_time


def processes(windows: "Windows") -> Listing[Process]:
    """Return all processes: System first, those of the list in its order, then others by id.

    `Process.sources` tells how each was found, the listing's `problems` what is wrong with the ways. A triage
    dump has the process of the crashing thread alone. Raises SymbolError if no structure layout fits.
    """
    if windows.dump.triage is not None:
        from kdmp.windows.triagecopies import crash

        process = crash(windows).process
        only = Problem("processes", "a triage dump holds the process of the crashing thread alone")
        return Listing([] if process is None else [process], [only], Process)
    known = census(windows)
    found = [Process(windows, address) for address in known.ways]
    listed = {address for address, ways in known.ways.items() if "active list" in ways}
    places = {process.address: n for n, process in enumerate(found)}

    def order(process: Process) -> tuple[bool, bool, int, int]:
        inside, pid = process.address in listed, process.pid
        number = 1 << 64 if pid is None else pid
        return pid != 4, not inside, 0 if inside else number, places[process.address]

    return Listing(sorted(found, key=order), known.problems, Process)


def process_at(windows: "Windows", address: int) -> Process:
    """Return the process whose EPROCESS is at an address; nothing is read or checked."""
    if windows.dump.triage is not None:
        from kdmp.windows.triagecopies import crash

        return Process(windows, address, crash(windows).memory)
    return Process(windows, address)


def find_process(windows: "Windows", which: int | str) -> Process:
    """Return the process with an id, or with a name: file name or its first 14 characters, in any case,
    ".exe" may be left out. LookupError if there is none, or more than one of the name."""
    found = processes(windows)
    if isinstance(which, str):
        wanted = {which.lower(), which.lower() + ".exe"}
        hits = [p for p in found if _names(p) & wanted]
    else:
        hits = [p for p in found if p.pid == which]
    if not hits:
        raise LookupError(f"there is no process {which!r} in the dump")
    if isinstance(which, str) and len(hits) > 1:
        ids = ", ".join(str(p.pid) for p in hits)
        raise LookupError(f"there are {len(hits)} processes {which!r}: {ids}")
    return hits[0]


def _names(process: Process) -> set[str]:
    name = (process.name or "").lower()
    return {name, (process.full_name or name).lower()} - {""}
