"""Offsets that a dump gives away by itself, without symbols: from the bytes of processes and threads.

They check a layout that is not known to be this kernel's. What the bytes do not show beyond doubt is left
out. The rules were measured on real triage dumps of builds 17763 to 26100; that ActiveProcessLinks follows
UniqueProcessId holds in all layouts from XP to Windows 11 24H2.

SPDX-License-Identifier: MIT
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from kdmp._kdmp import KdmpError

if TYPE_CHECKING:
    from kdmp.dump import Dump
    from kdmp.reader import Reader
    from kdmp.windows.kdbg import DebuggerData

__all__ = ["Facts", "derived_facts", "kdbg_facts", "process_facts", "running", "thread_facts"]

# Offsets of members and sizes of structures (field ""): {(struct, field): bytes}.
Facts: TypeAlias = dict[tuple[str, str], int]

_PROCESSORS = 64
_MAX_SIZE = 0x2000  # of an EPROCESS or ETHREAD; Windows 11 has 0xB80 and 0x900
_NAME, _CLASSES = 15, b"[\x01-\x06]"
_FIRST_TIME = 0x01BF53EB256D4000  # 2000-01-01 as a FILETIME
_LAST_TIME = 0x0250000000000000  # 2134
_DAY = 24 * 3600 * 10_000_000
_FIRST_AFTER_ID = 9200  # since then CreateTime lies behind UniqueProcessId

# Members of the debugger data block, and what they are the offset or size of.
KDBG_FACTS = {
    "ThCallbackStack": ("_KTHREAD", "CallbackStack"),
    "KThreadNextProcessor": ("_KTHREAD", "NextProcessor"),
    "KThreadTeb": ("_KTHREAD", "Teb"),
    "KThreadKernelStack": ("_KTHREAD", "KernelStack"),
    "KThreadInitialStack": ("_KTHREAD", "InitialStack"),
    "KThreadApcProcess": ("_KTHREAD", "ApcState.Process"),
    "KThreadState": ("_KTHREAD", "State"),
    "KThreadStackLimit": ("_KTHREAD", "StackLimit"),
    "KThreadStackBase": ("_KTHREAD", "StackBase"),
    "KThreadQueueListEntry": ("_KTHREAD", "QueueListEntry"),
    "KThreadWaitReason": ("_KTHREAD", "WaitReason"),
    "KThreadShadowStackLimit": ("_KTHREAD", "KernelShadowStackLimit"),
    "KThreadShadowStackBase": ("_KTHREAD", "KernelShadowStackBase"),
    "SizeEThread": ("_ETHREAD", ""),
    "EThreadIrpList": ("_ETHREAD", "IrpList"),
    "SizeEProcess": ("_EPROCESS", ""),
    "EprocessPeb": ("_EPROCESS", "Peb"),
    "EprocessParentCID": ("_EPROCESS", "InheritedFromUniqueProcessId"),
    "EprocessDirectoryTableBase": ("_EPROCESS", "Pcb.DirectoryTableBase"),
    "EProcessMmHotPatchContext": ("_EPROCESS", "MmHotPatchContext"),
    "SizePrcb": ("_KPRCB", ""),
    "PrcbDpcRoutine": ("_KPRCB", "DpcRoutineActive"),
    "PrcbCurrentThread": ("_KPRCB", "CurrentThread"),
    "PrcbMhz": ("_KPRCB", "MHz"),
    "PrcbCpuType": ("_KPRCB", "CpuType"),
    "PrcbVendorString": ("_KPRCB", "VendorString"),
    "PrcbProcStateContext": ("_KPRCB", "ProcessorState.ContextFrame"),
    "PrcbProcStateSpecialReg": ("_KPRCB", "ProcessorState.SpecialRegisters"),
    "PrcbNumber": ("_KPRCB", "Number"),
    "PrcbContext": ("_KPRCB", "Context"),
    "PrcbIdleThread": ("_KPRCB", "IdleThread"),
    "PrcbNormalDpcState": ("_KPRCB", "NormalDpcState"),
    "PrcbDpcStack": ("_KPRCB", "DpcStack"),
    "PrcbIsrStack": ("_KPRCB", "IsrStack"),
    "PrcbExceptionStack": ("_KPRCB", "ExceptionStack"),
    "SizePcr": ("_KPCR", ""),
    "PcrSelfPcr": ("_KPCR", "Self"),
    "PcrCurrentPrcb": ("_KPCR", "CurrentPrcb"),
    "PcrContainedPrcb": ("_KPCR", "Prcb"),
}


def kdbg_facts(kdbg: "DebuggerData | None") -> Facts:
    """The offsets and sizes that the debugger data block names; a member that is 0 says nothing."""
    if kdbg is None:
        return {}
    return {fact: value for name, fact in KDBG_FACTS.items() if (value := kdbg[name])}


# ---- what the bytes show -----------------------------------------------------------------------------------


def _pointer(data: bytes, at: int, width: int) -> int:
    return int.from_bytes(data[at : at + width], "little")


def _kernel(value: int, width: int) -> bool:
    """Whether this can be the address of a kernel structure."""
    return value % width == 0 and (value >> 56 == 0xFF if width == 8 else value >> 31 == 1)


def process_facts(
    data: bytes, width: int, *, build: int | None = None, latest: int | None = None
) -> dict[str, int]:
    """Offsets of members of the EPROCESS whose bytes these are: {name: offset}.

    ImageFileName is the only NUL-padded name of up to 15 printable characters before a priority class.
    UniqueProcessId is the last multiple of 4, below 2^20, before it that two kernel pointers follow; these
    are ActiveProcessLinks. CreateTime is the first FILETIME behind, not after `latest`, since Windows 8.
    """
    found: dict[str, int] = {}
    pattern = re.compile(rb"(?=([\x21-\x7e][\x20-\x7e]{2,14}\0*))", re.DOTALL)
    names = []
    for hit in pattern.finditer(data):
        at = hit.start()
        text = data[at : at + _NAME]
        if at % 4 or len(data) <= at + _NAME or not 1 <= data[at + _NAME] <= 6:
            continue
        if at and data[at - 1] in range(0x21, 0x7F):
            continue  # in the middle of a text
        if text.rstrip(b"\0").find(b"\0") < 0:
            names.append(at)
    if len(names) != 1:
        return found
    found["ImageFileName"] = names[0]
    ids = []
    for at in range(0, names[0] - 3 * width, width):
        value = _pointer(data, at, width)
        links = (_pointer(data, at + width, width), _pointer(data, at + 2 * width, width))
        if 0 < value < 1 << 20 and value % 4 == 0 and all(_kernel(link, width) for link in links):
            ids.append(at)
    if not ids:
        return found
    found["UniqueProcessId"] = ids[-1]
    found["ActiveProcessLinks"] = ids[-1] + width
    if (build or 0) >= _FIRST_AFTER_ID:
        last = _LAST_TIME if latest is None else latest + _DAY
        for at in range(-(-(ids[-1] + 3 * width) // 8) * 8, names[0] - 8, 8):
            if _FIRST_TIME <= _pointer(data, at, 8) <= last:
                found["CreateTime"] = at
                break
    return found


def thread_facts(data: bytes, width: int) -> dict[str, int]:
    """Offsets of members of the ETHREAD whose bytes these are: {name: offset}.

    Cid is the only pair of multiples of 4 that a semaphore's header (type 5, size of 8 words) follows.
    """
    hits = []
    words = 0x20 if width == 8 else 0x14
    for at in range(0, len(data) - 2 * width - 4, width):
        process, thread = _pointer(data, at, width), _pointer(data, at + width, width)
        head = data[at + 2 * width : at + 2 * width + 3]
        if not (process < 1 << 20 and 0 < thread < 1 << 20 and process % 4 == 0 and thread % 4 == 0):
            continue
        if head[0] == 5 and head[2] == words // 4:
            hits.append(at)
    return {"Cid": hits[0]} if len(hits) == 1 else {}


# ---- processes and threads of a dump -----------------------------------------------------------------------


def running(reader: "Reader", kdbg: "DebuggerData | None", processors: int) -> Iterator[tuple[int, int]]:
    """Yield (EPROCESS, ETHREAD) of what each processor runs, by the debugger data block alone."""
    if kdbg is None or not (kdbg.KiProcessorBlock and kdbg.PrcbCurrentThread and kdbg.KThreadApcProcess):
        return
    width = reader.pointer_size
    for number in range(min(processors, _PROCESSORS)):
        try:
            prcb = reader.read_uint(kdbg.KiProcessorBlock + number * width, width)
            thread = reader.read_uint(prcb + kdbg.PrcbCurrentThread, width)
            yield reader.read_uint(thread + kdbg.KThreadApcProcess, width), thread
        except (KdmpError, OverflowError):
            continue


def derived_facts(dump: "Dump", reader: "Reader", kdbg: "DebuggerData | None") -> Facts:
    """The offsets that the running processes and threads show; those on which they disagree are left out.

    Of a triage dump the copies of the crashing process and thread are asked.
    """
    processes, threads = _copies(dump, reader, kdbg)
    latest = dump.header["system_time"]
    width, build = dump.pointer_size, dump.build
    found = [process_facts(data, width, build=build, latest=latest) for data in processes]
    facts = {("_EPROCESS", name): at for name, at in _agreed(found).items()}
    found = [thread_facts(data, width) for data in threads]
    return facts | {("_ETHREAD", name): at for name, at in _agreed(found).items()}


def _copies(
    dump: "Dump", reader: "Reader", kdbg: "DebuggerData | None"
) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """The bytes of processes and of threads."""
    if dump.triage is not None:
        return [dump.triage.process], [dump.triage.thread]
    if kdbg is None:
        return [], []
    sizes = [size if size and size <= _MAX_SIZE else 0 for size in (kdbg.SizeEProcess, kdbg.SizeEThread)]
    places: list[set[int]] = [set(), set()]
    for pair in running(reader, kdbg, dump.processors or 0):
        for known, place in zip(places, pair, strict=True):
            known.add(place)
    parts: list[list[bytes]] = [[], []]
    for part, known, size in zip(parts, places, sizes, strict=True):
        for place in sorted(known) if size else ():
            try:
                data = reader.read(place, size)
            except (KdmpError, OverflowError):
                continue
            if len(data) == size:
                part.append(data)
    return parts[0], parts[1]


def _agreed(found: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """What all that know it say."""
    names = {name for one in found for name in one}
    values = {name: {one[name] for one in found if name in one} for name in names}
    return {name: value.pop() for name, value in values.items() if len(value) == 1}
