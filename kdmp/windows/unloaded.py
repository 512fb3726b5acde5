"""Drivers that were unloaded: the ring MmUnloadedDrivers, or the list of a triage dump.

The entries' layout is in no public symbols; debuggers have it built in, and so has this file:
{ UNICODE_STRING Name; pointer StartAddress, EndAddress; FILETIME CurrentTime }, 50 times.

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from kdmp._kdmp import FormatError, KdmpError, UnsupportedDumpError
from kdmp.windows.entity import Entity, Listing, Problem, fact
from kdmp.windows.modules import checked_string

if TYPE_CHECKING:
    from kdmp.windows.session import Windows

__all__ = ["UnloadedModule", "unloaded_modules"]

_COUNT = 50  # MI_UNLOADED_DRIVERS
# By pointer size: entry size, StartAddress, EndAddress, CurrentTime.
_LAYOUT = {8: (0x28, 0x10, 0x18, 0x20), 4: (0x18, 0x08, 0x0C, 0x10)}


class UnloadedModule(Entity):
    """A driver that was unloaded; `address` is its entry (0 in a triage dump), `index` that in the ring."""

    FACTS = ("index", "name", "start", "end", "size", "time")
    HEX: ClassVar[frozenset[str]] = frozenset({"address", "start", "end", "size"})

    def __init__(self, windows: "Windows", address: int, index: int) -> None:
        super().__init__(windows, address)
        self.index = index

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, UnloadedModule):
            return NotImplemented
        return (self.address, self.index) == (other.address, other.index) and self.windows is other.windows

    def __hash__(self) -> int:
        return hash((self.address, self.index))

    def _brief(self) -> str:
        return f"<UnloadedModule {self.name or '?'}>"

    @fact
    def name(self) -> str | None:
        """Its file's name; triage dumps keep 12 characters of it."""
        return checked_string(self.windows, self.address)

    @fact
    def start(self) -> int:
        """VA where its image began."""
        return self.windows.pointer(self.address + _LAYOUT[self.windows.pointer_size][1])

    @fact
    def end(self) -> int:
        """The address behind its image."""
        return self.windows.pointer(self.address + _LAYOUT[self.windows.pointer_size][2])

    @property
    def size(self) -> int | None:
        """Bytes that its image had."""
        return None if self.start is None or self.end is None else max(0, self.end - self.start)

    @fact
    def time(self) -> datetime | None:
        """When it was unloaded, UTC."""
        if not self.address:
            raise UnsupportedDumpError("triage dumps do not keep the time")
        value = self.windows.reader.read_u64(self.address + _LAYOUT[self.windows.pointer_size][3])
        time = self.windows.filetime(value)
        if time is None and value:
            raise FormatError(f"{value:#x} is no time")
        return time

    def contains(self, va: int) -> bool:
        """Whether an address was inside its image: code that was still called may explain a crash."""
        return self.start is not None and self.end is not None and self.start <= va < self.end


def unloaded_modules(windows: "Windows") -> Listing[UnloadedModule]:
    """Return the drivers that were unloaded, the latest first: at most 50 are remembered.

    Of a triage dump, in the order of its list. `problems` tells what could not be read.
    """
    if windows.dump.triage is not None:
        return Listing(_of_triage(windows), (), UnloadedModule)
    problems: list[Problem] = []
    found = _of_ring(windows, problems)
    return Listing(found, problems, UnloadedModule)


def _of_triage(windows: "Windows") -> Iterator[UnloadedModule]:
    triage = windows.dump.triage
    for number, driver in enumerate(triage.unloaded_drivers if triage is not None else ()):
        module = UnloadedModule(windows, 0, number)
        vars(module).update(name=driver.name, start=driver.start, end=driver.end)
        yield module


def _of_ring(windows: "Windows", problems: list[Problem]) -> list[UnloadedModule]:
    variable = windows.try_symbol("MmUnloadedDrivers")
    if variable is None:
        problems.append(Problem("unloaded modules", "nothing tells where MmUnloadedDrivers is"))
        return []
    try:
        ring = windows.pointer(variable)
    except (KdmpError, OverflowError) as error:
        problems.append(Problem("unloaded modules", str(error), variable))
        return []
    if not ring:
        return []  # nothing was unloaded yet
    found, missing = [], []
    for index in range(_COUNT):
        module = UnloadedModule(windows, ring + index * _LAYOUT[windows.pointer_size][0], index)
        try:
            used = windows.pointer(module.address + windows.pointer_size)  # Name.Buffer
        except (KdmpError, OverflowError) as error:
            missing.append((index, error))
            continue
        if used:
            found.append(module)
    if missing:
        first, why = missing[0]
        text = f"{len(missing)} of {_COUNT} entries cannot be read, the first is {first}: {why}"
        problems.append(Problem("unloaded modules", text, ring))
    return _newest_first(windows, found, problems)


def _newest_first(
    windows: "Windows", found: list[UnloadedModule], problems: list[Problem]
) -> list[UnloadedModule]:
    """Order by MmLastUnloadedDriver, the index that is written next (50 is written as 0); by time if that
    is not known or makes no sense."""
    variable = windows.try_symbol("MmLastUnloadedDriver")
    why = "nothing tells where MmLastUnloadedDriver is"
    if variable is not None:
        try:
            following = windows.reader.read_u32(variable)
            if following <= _COUNT:
                return sorted(found, key=lambda one: (following - 1 - one.index) % _COUNT)
            why = f"MmLastUnloadedDriver is {following:#x}"
        except (KdmpError, OverflowError) as error:
            why = f"MmLastUnloadedDriver: {error}"
    if found:
        problems.append(Problem("unloaded modules", f"{why}; ordered by their times", variable))
    return sorted(found, key=lambda one: (one.time is None, -one.time.timestamp() if one.time else 0))
