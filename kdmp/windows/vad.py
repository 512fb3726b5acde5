"""One VAD: a range of addresses of a process, what it is for, and the file behind it.

Sources: type information of public symbol files (_MMVAD_SHORT, _MMVAD).

SPDX-License-Identifier: MIT
"""

from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from kdmp._kdmp import FormatError
from kdmp.protection import Rights, protection_name, protection_rights
from kdmp.reader import Reader
from kdmp.windows.entity import Entity, fact
from kdmp.windows.sections import ControlArea, Subsection, file_name, is_kernel_address
from kdmp.windows.vadflags import VAD_TYPES, VadHead

if TYPE_CHECKING:
    from kdmp.windows.objects import Object
    from kdmp.windows.session import Windows

__all__ = ["Vad", "VadProcess"]

_PHYSICAL, _IMAGE, _ROTATE = 1, 2, 6  # values of VadType


class VadProcess(Protocol):
    """What is needed of a process: `object` is its _EPROCESS, `reader` its address space."""

    @property
    def windows(self) -> "Windows": ...
    @property
    def address(self) -> int: ...
    @property
    def object(self) -> "Object": ...
    @property
    def reader(self) -> Reader | None: ...


class Vad(Entity):
    """A range of addresses of a process, `start` to `end`; `address` is that of the VAD itself.

    `end` is the last byte, as WinDbg's `!vad` counts; `stop` is the address behind it. `protection` is the
    initial protection of all of the range; that of a page may have been changed since.
    """

    FACTS = (
        "start", "end", "protection_name", "kind", "type", "commit", "mem_commit", "private", "file", "tag",
        "protection", "control_area", "file_object", "first_prototype_pte", "flags",
    )  # fmt: skip
    COLUMNS = ("start", "end", "protection_name", "kind", "commit", "file")
    HEX = Entity.HEX | {"start", "end", "control_area", "file_object", "first_prototype_pte", "flags"}

    def __init__(self, process: VadProcess, address: int, head: VadHead) -> None:
        super().__init__(process.windows, address)
        self.process = process
        self._head = head

    def _brief(self) -> str:
        return f"<Vad {self.start:#x}-{self.end:#x} {self.protection_name}>"

    # ---- what the beginning of the structure says ----

    @property
    def start(self) -> int:
        """First address."""
        return self._head.start_vpn << 12

    @property
    def end(self) -> int:
        """Last address: the range includes it."""
        return self._head.end_vpn << 12 | 0xFFF

    @property
    def stop(self) -> int:
        """The address behind the range."""
        return self.end + 1

    @property
    def size(self) -> int:
        """Bytes of the range."""
        return self.stop - self.start

    @property
    def protection(self) -> int:
        """Windows' 5-bit protection number, see kdmp.protection."""
        return self._head.protection

    @property
    def protection_name(self) -> str:
        """The protection in words, "ReadWrite"."""
        return protection_name(self.protection)

    @property
    def rights(self) -> Rights:
        """What the protection lets user mode do: read, write, execute, copy_on_write, guard."""
        return protection_rights(self.protection)

    @property
    def type_value(self) -> int:
        """VadType as a number."""
        return self._head.type

    @property
    def type(self) -> str:
        """VadType by its name in _MI_VAD_TYPE: "VadNone", "VadImageMap", "VadLargePages" ..."""
        return VAD_TYPES[self._head.type & 7]

    @property
    def private(self) -> bool:
        """PrivateMemory: whether no section is behind it."""
        return self._head.private

    @property
    def mem_commit(self) -> bool:
        """MemCommit: all of the range is committed, touched or not. False where there is no such bit."""
        return self._head.mem_commit

    @property
    def commit(self) -> int | None:
        """CommitCharge: pages charged to the process for this range."""
        return self._head.commit

    @property
    def flags(self) -> int:
        """The word of flags as it is."""
        return self._head.flags

    def __contains__(self, va: int) -> bool:
        return self.contains(va)

    def contains(self, va: int) -> bool:
        """Return whether an address lies in the range."""
        return self.start <= va <= self.end

    # ---- what takes another look ----

    @fact
    def tag(self) -> str | None:
        """The pool tag of the VAD's allocation: "VadS" (short), "Vad ", "Vadl", "Vadm", "VadF"."""
        distance = 12 if self.windows.pointer_size == 8 else 4
        data = self.windows.reader.read_exact(self.address - distance, 4)
        return data.decode("latin-1")

    @property
    def full(self) -> bool:
        """Whether the VAD is an _MMVAD, with a section; else it is an _MMVAD_SHORT."""
        return not self.private

    @cached_property
    def _full(self) -> "Object":
        return self.windows.object("_MMVAD", self.address)

    @property
    def subsection(self) -> Subsection | None:
        """The subsection that the view begins in; None for private memory, or if it cannot be had."""
        address = self.subsection_address
        return Subsection(self.windows, address) if address else None

    @fact
    def subsection_address(self) -> int | None:
        """Address of that subsection, 0 if there is none; None for private memory and on XP."""
        if not self.full or not self.windows.layout.has("_MMVAD", "Subsection"):
            return None
        address = int(self._full.Subsection)
        return self._checked(address, "Subsection")

    def _checked(self, address: int, what: str) -> int:
        if address and not is_kernel_address(self.windows, address, 4):
            raise FormatError(f"{what} of the VAD at {self.address:#x} is {address:#x}, no kernel address")
        return address

    @fact
    def control_area(self) -> int | None:
        """Address of the control area of the section; None for private memory."""
        if not self.full:
            return None
        if self.windows.layout.has("_MMVAD", "ControlArea"):  # XP
            return self._checked(int(self._full.ControlArea), "ControlArea")
        subsection = self.subsection
        if subsection is None:
            self._pass_on("control_area", "subsection_address")
            return None
        address = subsection.control_area
        if address is None:
            for problem in subsection.problems:
                self.note("control_area", problem.why, problem.address)
            return None
        return self._checked(address, "ControlArea")

    def _pass_on(self, what: str, source: str) -> None:
        """Note for one property what was the problem with another."""
        for problem in self.problems:
            if problem.what == source:
                self.note(what, problem.why, problem.address)

    @cached_property
    def section(self) -> ControlArea | None:
        """The control area of the section; None for private memory, or if it cannot be had."""
        address = self.control_area
        return ControlArea(self.windows, address) if address else None

    @fact
    def file_object(self) -> int | None:
        """Address of the FILE_OBJECT behind the range; None without a file."""
        if not self.full:
            return None
        section = self.section
        address = section.file_object if section is not None else None
        if address is None:  # the section is not there; 10 and later name the file in some VADs, too
            if section is not None:
                for problem in section.problems:
                    self.note("file_object", problem.why, problem.address)
            else:
                self._pass_on("file_object", "control_area")
            if self.windows.layout.has("_MMVAD", "FileObject"):
                address = self.windows.fast_ref(int(self._full.FileObject))
        return self._checked(address, "FileObject") if address else None

    @fact
    def file(self) -> str | None:
        r"""Path of the mapped file or image without its volume, "\Windows\explorer.exe"; None without one."""
        address = self.file_object
        if address:
            return file_name(self.windows, address)
        self._pass_on("file", "file_object")
        return None

    @fact
    def first_prototype_pte(self) -> int | None:
        """FirstPrototypePte: address of the prototype PTE of the first page; None for private memory."""
        return int(self._full.FirstPrototypePte) if self.full else None

    @fact
    def last_contiguous_pte(self) -> int | None:
        """LastContiguousPte: the last prototype PTE that follows the first without a gap."""
        return int(self._full.LastContiguousPte) if self.full else None

    @fact
    def kind(self) -> str | None:
        """What is behind the range, in a word.

        "private", "large-pages", "awe" or "write-watch" for private memory; "image", "mapped" (a file),
        "pagefile" (shared memory), "physical" (a device's) and "rotate" for views. None if its section is
        needed to tell and is not there.
        """
        number = self.type_value
        if self.private:
            return {1: "physical", 3: "awe", 4: "write-watch", 5: "large-pages", 6: "rotate"}.get(
                number, "private"
            )
        if number in (_PHYSICAL, _IMAGE, _ROTATE):
            return {_PHYSICAL: "physical", _IMAGE: "image", _ROTATE: "rotate"}[number]
        section = self.section
        if section is None or section.image is None or section.physical is None:
            self._pass_on("kind", "control_area")
            if section is not None:
                for problem in section.problems:
                    self.note("kind", problem.why, problem.address)
            return None
        if section.image:
            return "image"
        if section.physical:
            return "physical"
        if section.file_backed is False and not section.file_object:
            return "pagefile"
        return "mapped"
