"""What structures of user mode have in common: whose they are, their width, and where their members are.

These structures are the same in all releases since XP where they are given here, so no symbols are needed;
one implementation reads both widths by two tables. Sources: type information of public symbol files of the
kernel and of ntdll (_PEB, _TEB, _RTL_USER_PROCESS_PARAMETERS, and _PEB32, _TEB32 for WoW64).

SPDX-License-Identifier: MIT
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from kdmp._kdmp import FormatError
from kdmp.reader import Reader
from kdmp.windows.entity import Entity

if TYPE_CHECKING:
    from kdmp.windows.objects import Object
    from kdmp.windows.session import Windows

__all__ = ["ABI", "UserProcess", "UserStructure"]


@dataclass(frozen=True, slots=True)
class Abi:
    """Offsets of one width, in bytes. `unicode_buffer` is that of Buffer in UNICODE_STRING."""

    pointer: int
    unicode_buffer: int
    peb: dict[str, int]
    parameters: dict[str, int]
    teb: dict[str, int]


ABI = {
    8: Abi(
        8,
        8,
        peb={
            "BeingDebugged": 2, "ImageBaseAddress": 0x10, "Ldr": 0x18, "ProcessParameters": 0x20,
            "ProcessHeap": 0x30, "NumberOfProcessors": 0xB8, "NtGlobalFlag": 0xBC, "OSMajorVersion": 0x118,
            "OSMinorVersion": 0x11C, "OSBuildNumber": 0x120, "SessionId": 0x2C0,
        },
        parameters={
            "Flags": 8, "CurrentDirectory": 0x38, "DllPath": 0x50, "ImagePathName": 0x60, "CommandLine": 0x70,
            "Environment": 0x80, "WindowTitle": 0xB0, "DesktopInfo": 0xC0, "EnvironmentSize": 0x3F0,
        },
        teb={
            "ExceptionList": 0, "StackBase": 8, "StackLimit": 0x10, "Self": 0x30, "UniqueProcess": 0x40,
            "UniqueThread": 0x48, "ProcessEnvironmentBlock": 0x60, "LastErrorValue": 0x68,
            "LastStatusValue": 0x1250, "TlsSlots": 0x1480,
        },
    ),
    4: Abi(
        4,
        4,
        peb={
            "BeingDebugged": 2, "ImageBaseAddress": 8, "Ldr": 0xC, "ProcessParameters": 0x10,
            "ProcessHeap": 0x18, "NumberOfProcessors": 0x64, "NtGlobalFlag": 0x68, "OSMajorVersion": 0xA4,
            "OSMinorVersion": 0xA8, "OSBuildNumber": 0xAC, "SessionId": 0x1D4,
        },
        parameters={
            "Flags": 8, "CurrentDirectory": 0x24, "DllPath": 0x30, "ImagePathName": 0x38, "CommandLine": 0x40,
            "Environment": 0x48, "WindowTitle": 0x70, "DesktopInfo": 0x78, "EnvironmentSize": 0x290,
        },
        teb={
            "ExceptionList": 0, "StackBase": 4, "StackLimit": 8, "Self": 0x18, "UniqueProcess": 0x20,
            "UniqueThread": 0x24, "ProcessEnvironmentBlock": 0x30, "LastErrorValue": 0x34,
            "LastStatusValue": 0xBF4, "TlsSlots": 0xE10,
        },
    ),
}  # fmt: skip


class UserProcess(Protocol):
    """What is needed of a process: `reader` is its address space, `peb` and `peb32` are addresses, 0 or
    None without; `object` is its _EPROCESS, which only pages that VADs lead to need."""

    @property
    def windows(self) -> "Windows": ...
    @property
    def address(self) -> int: ...
    @property
    def object(self) -> "Object": ...
    @property
    def reader(self) -> Reader | None: ...
    @property
    def peb(self) -> Any: ...
    @property
    def peb32(self) -> Any: ...


class UserStructure(Entity):
    """A structure in the user half of `process`, read with pointers of `width` bytes (4 or 8).

    Addresses are those of the process; two processes may have different things at the same address.
    """

    def __init__(self, process: UserProcess, address: int, width: int) -> None:
        super().__init__(process.windows, address)
        self.process = process
        self.width = width

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        same = (self.address, self.width, self.process.address)
        return self.windows is other.windows and same == (other.address, other.width, other.process.address)

    def __hash__(self) -> int:
        return hash((type(self), self.address, self.process.address))

    @property
    def reader(self) -> Reader:
        """The address space of the process; FormatError if the process has no page-table root."""
        reader = self.process.reader
        if reader is None:
            raise FormatError("the process has no address space: its page-table root is not known")
        return reader

    def _uint(self, offset: int, size: int = 4) -> int:
        return self.reader.read_uint(self.address + offset, size)

    def _pointer(self, offset: int) -> int:
        return self.reader.read_uint(self.address + offset, self.width)

    def _text(self, name: str, offset: int, relative_to: int = 0) -> str | None:
        """The text of the UNICODE_STRING at `offset`, None if its Buffer is NULL.

        At most 64 KiB, and MaximumLength: a Length beyond it is a lie. So is one that goes on behind a NUL;
        the text ends there, then, and `problems` tells. `relative_to` is what an offset instead of an address
        counts from. Raises UnreadableError if some of the text is not there.
        """
        at = self.address + offset
        length, maximum = self.reader.read_u16(at), self.reader.read_u16(at + 2)
        buffer = self.reader.read_uint(at + ABI[self.width].unicode_buffer, self.width)
        if not buffer:
            if length:
                self.note(name, f"Length is {length:#x}, but Buffer is NULL", at)
            return None
        size = min(length, maximum) & ~1
        data = self.reader.read(relative_to + buffer, size)
        text, nul, _ = data[: len(data) & ~1].decode("utf-16-le", "replace").partition("\0")
        if nul:
            self.note(name, f"Length is {length:#x}, but the text has a NUL after {len(text)} characters", at)
        elif len(data) < size:
            self.reader.read_exact(relative_to + buffer, size)  # raises the reason
        elif length > maximum or length & 1:
            self.note(name, f"Length is {length:#x} with a MaximumLength of {maximum:#x}", at)
        return text
