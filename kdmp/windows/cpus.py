"""The processors of the machine, by KiProcessorBlock: pointers to the KPRCB of each.

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterable
from operator import index
from typing import TYPE_CHECKING, SupportsIndex, overload

if TYPE_CHECKING:
    from kdmp.windows.session import Windows

from kdmp._kdmp import KdmpError
from kdmp.symbols.errors import SymbolError
from kdmp.windows.cpu import Cpu
from kdmp.windows.crashcpu import find_crashing, triage_number
from kdmp.windows.entity import Listing, Problem
from kdmp.windows.prcb import MAX_PROCESSORS, Offsets, own_address

__all__ = ["Cpu", "Cpus", "cpus"]


class Cpus(Listing[Cpu]):
    """The processors whose KPRCB is known. `cpus[n]` is processor number n, even if others are missing.

    `crashing` is the number of the one that crashed, None if that is not certain; `crashing_why` the reason.
    """

    crashing: int | None = None
    crashing_why: str = ""

    def __init__(self, items: Iterable[Cpu], problems: Iterable[Problem]) -> None:
        super().__init__(items, problems, Cpu)

    @overload
    def __getitem__(self, n: SupportsIndex, /) -> Cpu: ...
    @overload
    def __getitem__(self, n: slice, /) -> list[Cpu]: ...
    def __getitem__(self, n: SupportsIndex | slice, /) -> Cpu | list[Cpu]:
        """Return processor number `n`, IndexError if it is not known; negative numbers count from the end."""
        if isinstance(n, slice):
            return list(self)[n]
        number = index(n)
        if number < 0:
            return super().__getitem__(number)
        for cpu in self:
            if cpu.number == number:
                return cpu
        known = ", ".join(str(cpu.number) for cpu in self) or "none"
        raise IndexError(f"no processor {number}: known are {known}")


def cpus(windows: "Windows") -> Cpus:
    """Return the processors by number; `problems` says which are missing.

    Raises what `Dump.reader` raises.
    """
    _ = windows.reader  # without a way to memory there are none
    offsets, problems = Offsets(windows), []
    found: dict[int, Cpu] = {}
    try:
        array = windows.symbol("KiProcessorBlock")
    except SymbolError as error:
        problems.append(Problem("cpus", str(error)))
    else:
        found = _listed(windows, array, offsets, problems)
    number = triage_number(windows, offsets)
    if number is not None and windows.dump.triage is not None:
        copy = windows.dump.triage.prcb
        listed = found[number].kprcb if number in found else None
        own = own_address(copy, windows.pointer_size)
        if listed is not None and own is not None and listed != own:
            why = f"KiProcessorBlock has {listed:#x}, but the KPRCB in the triage header is from {own:#x}"
            problems.append(Problem(f"cpu {number}", why, listed))
        found[number] = Cpu(windows, number, own or listed, offsets, copy)
    result = Cpus((found[number] for number in sorted(found)), problems)
    for cpu in result:
        cpu.check()
    result.crashing, result.crashing_why = find_crashing(windows, result, offsets)
    for cpu in result:
        cpu.is_crashing = None if result.crashing is None else cpu.number == result.crashing
    return result


def _listed(windows: "Windows", array: int, offsets: Offsets, problems: list[Problem]) -> dict[int, Cpu]:
    """The processors that KiProcessorBlock lists; a slot that cannot be read or is wrong costs one."""
    claimed = windows.dump.processors
    count = MAX_PROCESSORS if claimed is None else min(claimed, MAX_PROCESSORS)
    found: dict[int, Cpu] = {}
    seen: dict[int, int] = {}
    missing: list[int] = []
    for number in range(count):
        slot = array + number * windows.pointer_size
        try:
            kprcb = windows.pointer(slot)
        except (KdmpError, OverflowError):
            missing.append(number)
            continue
        if not kprcb:
            if claimed is not None:
                why = f"the list ends after {number}, the header says {claimed}"
                problems.append(Problem("cpus", why, slot))
            break
        wrong = _wrong_pointer(kprcb, windows.pointer_size)
        if kprcb in seen:
            wrong = f"the same as processor {seen[kprcb]}"
        if wrong:
            problems.append(Problem(f"cpu {number}", f"KPRCB {kprcb:#x} is {wrong}", slot))
            continue
        seen[kprcb] = number
        found[number] = Cpu(windows, number, kprcb, offsets)
    if missing:
        who = f"{len(missing)} of {count} processors, the first is {missing[0]}"
        problems.append(Problem("cpus", f"no pointer to the KPRCB of {who}", array))
    if claimed is not None and claimed > MAX_PROCESSORS:
        problems.append(Problem("cpus", f"the header claims {claimed} processors"))
    return found


def _wrong_pointer(kprcb: int, width: int) -> str | None:
    """Why this cannot be the address of a KPRCB; None if it can."""
    if kprcb < (0xFF << 56 if width == 8 else 0x80000000):
        return "no kernel address"
    if kprcb % 0x20:
        return "not aligned"
    return None
