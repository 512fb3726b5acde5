"""Whether a structure layout reads the processes of a dump as they must be.

The list of active processes is walked both ways, and each process must look like one: System is there as
process 4, ids are multiples of 4 and differ, names are printable, page-table roots and PEBs can be such.
A layout of another build fails at once: then addresses of processes are off, or names are not where it says.

SPDX-License-Identifier: MIT
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdmp._kdmp import KdmpError
from kdmp.symbols.errors import SymbolError
from kdmp.windows.lists import walk_list

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kdmp.dump import Dump
    from kdmp.reader import Reader
    from kdmp.symbols.structs import Layout

__all__ = ["Verdict", "check_processes", "plausible_process"]

_MAX_PROCESSES = 1 << 14
_SYSTEM = 4, b"System"
_PROCESS = 3  # DISPATCHER_HEADER.Type
_NAME = 15
_FIRST_TIME, _LAST_TIME = 0x01B41E2A18D64000, 0x0250000000000000  # 1990 and 2134, FILETIME

# What is looked at, and how wide it is (0: a pointer).
_FIELDS = {
    "UniqueProcessId": 0,
    "InheritedFromUniqueProcessId": 0,
    "ImageFileName": _NAME,
    "Pcb.DirectoryTableBase": 0,
    "Peb": 0,
    "CreateTime": 8,
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """`right` is True: all is as it must be; False: it cannot be; None: too little can be read. `why` tells
    it in words."""

    right: bool | None
    why: str


def check_processes(
    dump: "Dump", reader: "Reader", layout: "Layout", heads: "Iterable[int | None]"
) -> Verdict:
    """Say whether `layout` reads the list of active processes right; `heads` are where it may begin."""
    verdict = Verdict(None, "the list of processes cannot be read")
    try:
        offsets = {name: layout.offset("_EPROCESS", name) for name in _FIELDS}
        links = layout.offset("_EPROCESS", "ActiveProcessLinks")
    except SymbolError as error:
        return Verdict(False, str(error))
    for head in dict.fromkeys(heads):
        if head:
            verdict = _check_list(reader, head, links, offsets)
            if verdict.right:
                return verdict
    return verdict


def _check_list(reader: "Reader", head: int, links: int, offsets: dict[str, int]) -> Verdict:
    walk = walk_list(reader, head, reader.pointer_size, limit=_MAX_PROCESSES)
    pids: set[int] = set()
    read = wrong = 0
    system = False
    for link in walk.links:
        found = _process(reader, link - links, offsets)
        if found is None:
            continue
        read += 1
        pid, name = found
        if pid is None or pid in pids:
            wrong += 1
            continue
        pids.add(pid)
        system = system or (pid, name) == _SYSTEM
    if not read:
        return Verdict(None, "the list of processes cannot be read")
    if wrong * 2 >= read or (walk.complete and read == len(walk.links) and not system):
        return Verdict(False, f"{wrong} of {read} processes are not like processes, System is {system}")
    # Back from the end it must be the same list; walk_list has noted each Blink that is not.
    if walk.complete and not walk.problems and not wrong and system and read == len(walk.links):
        return Verdict(True, f"{read} processes read by it")
    return Verdict(None, f"the list of processes is damaged: {read - wrong} of {len(walk.links)} read")


def _process(reader: "Reader", address: int, offsets: dict[str, int]) -> tuple[int | None, bytes] | None:
    """Process id and name at an address; the id is None if this is no process, None if it cannot be read."""
    width = reader.pointer_size
    try:
        head = reader.read_exact(address, 1)
        values = {
            name: reader.read_exact(address + offsets[name], size or width) for name, size in _FIELDS.items()
        }
    except KdmpError:
        return None
    except OverflowError:
        return None, b""
    name = values.pop("ImageFileName")
    numbers = {field: int.from_bytes(value, "little") for field, value in values.items()}
    if head[0] & 0x7F != _PROCESS or not plausible_process(numbers, name, width):
        return None, b""
    return numbers["UniqueProcessId"], name.rstrip(b"\0")


def plausible_process(numbers: dict[str, int], name: bytes, width: int) -> bool:
    """Whether a process can have these values: of the members by name, and ImageFileName's bytes."""
    pid, parent = numbers["UniqueProcessId"], numbers["InheritedFromUniqueProcessId"]
    dtb, peb, created = numbers["Pcb.DirectoryTableBase"], numbers["Peb"], numbers["CreateTime"]
    text = name.rstrip(b"\0")
    user_end = 1 << 56 if width == 8 else 0xC0000000
    return (
        0 < pid < 1 << 31
        and pid % 4 == 0
        and parent < 1 << 31
        and parent % 4 == 0
        and bool(text)
        and min(text) >= 0x20  # a NUL inside is none, too
        and (dtb & ~(1 << 63)) < 1 << 52  # the low bits are flags and PCID; 0 when the process is gone
        and (peb == 0 or 0x10000 <= peb < user_end)
        and (created == 0 or _FIRST_TIME <= created <= _LAST_TIME)
    )
