"""What the numbers in KTHREAD.State and KTHREAD.WaitReason mean.

The kernel's own enumerations are used where the symbols have them; these are for the builds that lack them.
Source: `_KTHREAD_STATE` and `_KWAIT_REASON` of the symbols of 2600, 7601, 9600 and 14393 to 22621.

SPDX-License-Identifier: MIT
"""

from typing import TYPE_CHECKING

from kdmp.symbols.errors import SymbolError
from kdmp.windows.objects import EnumValue

if TYPE_CHECKING:
    from kdmp.windows.session import Windows

__all__ = ["processor_mode", "thread_state", "wait_reason"]

_STATES = (
    "Initialized", "Ready", "Running", "Standby", "Terminated", "Waiting", "Transition", "DeferredReady",
    "GateWait", "WaitingForProcessInSwap",
)  # fmt: skip

_REASONS = (
    "Executive", "FreePage", "PageIn", "PoolAllocation", "DelayExecution", "Suspended", "UserRequest",
    "WrExecutive", "WrFreePage", "WrPageIn", "WrPoolAllocation", "WrDelayExecution", "WrSuspended",
    "WrUserRequest", "WrEventPair", "WrQueue", "WrLpcReceive", "WrLpcReply", "WrVirtualMemory", "WrPageOut",
    "WrRendezvous", "WrKeyedEvent", "WrTerminated", "WrProcessInSwap", "WrCpuRateControl", "WrCalloutStack",
    "WrKernel", "WrResource", "WrPushLock", "WrMutex", "WrQuantumEnd", "WrDispatchInt", "WrPreempted",
    "WrYieldExecution", "WrFastMutex", "WrGuardedMutex", "WrRundown", "WrAlertByThreadId",
    "WrDeferredPreempt", "WrPhysicalFault", "WrIoRing", "WrMdlCache", "WrRcu",
)  # fmt: skip
# How many a build has, from the newest build back. Public lists have 41 and 42; 22621 does not yet.
_REASONS_UP_TO = ((26100, 43), (22000, 41), (17763, 40), (9200, 39), (7600, 37), (0, 27))
# XP and 2003 use 21 and some after it for other things.
_SINCE_VISTA = range(21, 26)

_MODES = {0: "KernelMode", 1: "UserMode"}
_NAMES_APART = {"GateWaitObsolete": "GateWait"}  # the same state; it is not used any more


def _of_the_kernel(windows: "Windows", name: str, value: int) -> EnumValue | None:
    """The name by the symbols, None if they lack the enumeration or the value."""
    try:
        for text, number in windows.layout.enum(name).items():
            if number == value and not text.startswith("Maximum"):
                return EnumValue(value, _NAMES_APART.get(text, text))
    except SymbolError:
        pass
    return None


def thread_state(windows: "Windows", value: int) -> EnumValue:
    """Return a KTHREAD.State with its name ("Waiting"); the name is None for a number without meaning."""
    named = _of_the_kernel(windows, "_KTHREAD_STATE", value)
    return named or EnumValue(value, _STATES[value] if 0 <= value < len(_STATES) else None)


def wait_reason(windows: "Windows", value: int) -> EnumValue:
    """Return a KTHREAD.WaitReason with its name ("UserRequest"), by the build for the higher numbers."""
    named = _of_the_kernel(windows, "_KWAIT_REASON", value)
    if named is not None:
        return named
    build = windows.dump.build or 0
    end = next(count for since, count in _REASONS_UP_TO if build >= since)
    known = 0 <= value < end and not (build < 6000 and value in _SINCE_VISTA)
    return EnumValue(value, _REASONS[value] if known else None)


def processor_mode(value: int) -> EnumValue:
    """Return a KPROCESSOR_MODE: KernelMode (0) or UserMode (1)."""
    return EnumValue(value, _MODES.get(value))
