"""Which processor crashed.

A triage dump says it. In other dumps the header's registers are matched with the processors: their stack
pointer lies on the stack of one processor's current thread (or on its DPC or interrupt stack), and a
processor that did not run on afterwards saved the same registers. If that leaves a doubt, the answer is "not
known".

SPDX-License-Identifier: MIT
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdmp.windows.cpu import Cpu
    from kdmp.windows.session import Windows

from kdmp._kdmp import KdmpError
from kdmp.windows.prcb import MAX_PROCESSORS, Offsets

__all__ = ["find_crashing", "triage_number"]

_MAX_STACK = 1 << 20  # bytes; kernel stacks have 12 to 96 KiB
_DPC_STACK = 0x8000  # bytes below KPRCB.DpcStack and IsrStack that count as that stack


def triage_number(windows: "Windows", offsets: Offsets) -> int | None:
    """Return the number in the KPRCB that a triage dump has a copy of, None if there is none."""
    triage = windows.dump.triage
    at = offsets.get("Number") if triage is not None else None
    if triage is None or at is None:
        return None
    piece = triage.prcb[at : at + 4]
    number = int.from_bytes(piece, "little")
    return number if len(piece) == 4 and number < MAX_PROCESSORS else None


def find_crashing(windows: "Windows", cpus: "Sequence[Cpu]", offsets: Offsets) -> tuple[int | None, str]:
    """Return the number of the processor that crashed, None if that is uncertain; and why, in words."""
    number = triage_number(windows, offsets)
    if number is not None:
        return number, "its KPRCB is in the triage header"
    if windows.dump.processors == 1 and len(cpus) == 1:
        return cpus[0].number, "it is the only one"
    context = windows.dump.context
    if context is None:
        return None, "the header has no registers"
    place = (context.ip, context.sp)
    stack = [cpu for cpu in cpus if _on_stack(windows, cpu, context.sp, offsets)]
    same = [
        cpu for cpu in cpus if any((saved.ip, saved.sp) == place for _, saved in cpu.saved_contexts or ())
    ]
    both = [cpu for cpu in stack if cpu in same]
    if len(both) == 1:
        return both[0].number, "it saved the registers in the header, and they are on its stack"
    if len(stack) == 1 and not same:
        return stack[0].number, "the stack pointer in the header is on its stack"
    if len(same) == 1 and not stack:
        return same[0].number, "it saved the registers in the header"
    if stack or same:
        return None, "the registers in the header fit more than one processor"
    return None, "the registers in the header fit no processor"


def _on_stack(windows: "Windows", cpu: "Cpu", sp: int, offsets: Offsets) -> bool:
    thread = cpu.current_thread
    try:
        if thread:
            limit = windows.pointer(thread + offsets["StackLimit"])
            base = windows.pointer(thread + offsets["StackBase"])
            if base - _MAX_STACK <= limit <= sp < base:
                return True
    except (KdmpError, OverflowError):
        pass
    for member in ("DpcStack", "IsrStack"):
        try:
            top = cpu.read_pointer(offsets[member])
        except (KdmpError, OverflowError):
            continue
        if top and top - _DPC_STACK <= sp < top:
            return True
    return False
