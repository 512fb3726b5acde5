"""A small invented machine as a dump: for trying kdmp out, for the demonstration and for tests.

The machine is made up, the way it is laid out is not: 4-level page tables with a self-map, a
kernel image with a debugger data block, module and process lists, and user memory in most of the
states a page can be in. `build` writes it through `DumpWriter` and returns what is where.

SPDX-License-Identifier: MIT
"""

import os
import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import SupportsIndex

from kdmp._sample_memory import (
    KERNEL_CODE,
    KERNEL_DATA,
    KERNEL_TABLE,
    LARGE,
    LARGE_PAT,
    NX,
    USER_DATA,
    USER_READ_ONLY,
    Memory,
    Pool,
)
from kdmp.writer import DumpWriter

__all__ = [
    "EPROCESS",
    "KLDR_DATA_TABLE_ENTRY",
    "Facts",
    "Module",
    "Process",
    "build",
    "default_path",
    "ensure",
    "facts",
]

# Part of the cached file's name; to be raised when the content changes.
_REVISION = 1

BUILD = 19041

# Offsets in _EPROCESS of 10.0.19041 (public symbols of ntkrnlmp, size 0xA40).
EPROCESS: Mapping[str, int] = MappingProxyType(
    {
        "Pcb.Header.Type": 0x0,
        "Pcb.DirectoryTableBase": 0x28,
        "Pcb.ThreadListHead": 0x30,
        "UniqueProcessId": 0x440,
        "ActiveProcessLinks": 0x448,
        "CreateTime": 0x468,
        "SectionBaseAddress": 0x520,
        "InheritedFromUniqueProcessId": 0x540,
        "Peb": 0x550,
        "ImageFileName": 0x5A8,
        "ThreadListHead": 0x5E0,
    }
)
_EPROCESS_SIZE = 0xA40

# Offsets in _KLDR_DATA_TABLE_ENTRY, the element of PsLoadedModuleList (Windows 10, size 0xA0).
KLDR_DATA_TABLE_ENTRY: Mapping[str, int] = MappingProxyType(
    {
        "InLoadOrderLinks": 0x0,
        "DllBase": 0x30,
        "EntryPoint": 0x38,
        "SizeOfImage": 0x40,
        "FullDllName": 0x48,
        "BaseDllName": 0x58,
        "CheckSum": 0x78,
        "TimeDateStamp": 0x9C,
    }
)

_KUSER = 0xFFFFF78000000000
_KUSER_USER = 0x7FFE0000
_SELF_MAP = 0x13A
_KERNEL = 0xFFFFF80312200000
_POOL = 0xFFFFC50A12340000
_PAGED_POOL = 0xFFFFD68C3C5A0000
_STACK_LIMIT = 0xFFFF8C0F4A2B0000
_STACK_BASE = _STACK_LIMIT + 0x6000
_HUGE = 0xFFFFAA8000000000
_TEXT = 0x000001D05F310000
_STATES = 0x000001D05F320000
_USER_LARGE = 0x000001D060000000
_GREETING = 0x10000

# Offsets in the kernel image; the first 2 MiB are one large page, data follows in small pages.
_DATA = 0x200000
_DATA_PAGES = 80
_KERNEL_SIZE = 0x400000
_BUG_CHECK_ROUTINE = 0x1F5A80
_BUG_CHECK_CALLER = 0x1F8E69
_KDBG = 0x200B20
_PROCESS_HEAD = 0x21E200
_MODULE_HEAD = 0x22A390
_BUG_CHECK_DATA = 0x231480
_KERNEL_HOLE = 0x240000
_BUILD_LAB = 0x24C1A0
_BUILD_LAB_TEXT = "19041.1.amd64fre.vb_release.191206-1406"

_SYSTEM_TIME = datetime(2024, 3, 14, 9, 26, 53, 589793, tzinfo=UTC)
_UPTIME = timedelta(hours=2, minutes=7, seconds=31, microseconds=415926)
_COMMENT = "kdmp sample: an invented machine"

_ASCII = "The quick brown fox jumps over the lazy dog."
_UTF16 = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich."
_UNICODE = "\\Device\\HarddiskVolume3\\Users\\demo\\journal.txt"
_CROSSING = "This text begins on one page and ends on the next one."
_LARGE_END = "the last words of a large page,"
_AFTER_LARGE = " and the first ones of the next page."
_TRANSITION = "This page is on its way out, but still here."
_KERNEL_HOLE_PFN = 0x3FF
_USER_HOLE_PFN = 0xC0DE

_SYSTEM32 = "\\SystemRoot\\system32\\"
_DRIVERS = _SYSTEM32 + "drivers\\"
_QUOKKA = 0xFFFFF80319C30000
_MODULES = (
    # name, folder, base, size, entry point (offset), time stamp, checksum, file of symbols
    ("ntoskrnl.exe", _SYSTEM32, _KERNEL, _KERNEL_SIZE, 0x1A0010, 0x5E7C2A11, 0x3F9C10, "ntkrnlmp.pdb"),
    ("hal.dll", _SYSTEM32, 0xFFFFF80311F00000, 0x6000, 0x1010, 0x6B1F00C3, 0x1082A, "hal.pdb"),
    ("kdcom.dll", _SYSTEM32, 0xFFFFF80314A00000, 0xB000, 0x1010, 0x4D0A7C55, 0x15F33, "kdcom.pdb"),
    ("Ntfs.sys", _DRIVERS, 0xFFFFF80315600000, 0x2D9000, 0x2C5010, 0x71AB90E2, 0x2D3B0F, "ntfs.pdb"),
    ("tcpip.sys", _DRIVERS, 0xFFFFF80316000000, 0x2EC000, 0x2D8010, 0x2290CE17, 0x2F01A4, "tcpip.pdb"),
    ("quokka.sys", "\\??\\C:\\Quokka\\", _QUOKKA, 0x9000, 0x7010, 0x65D1E4A0, 0xE6C4, "quokka.pdb"),
)
_FAULT = _QUOKKA + 0x161C  # the instruction in quokka.sys

_PROCESSES = (
    # name, process id, parent's, seconds after the start of the machine
    ("System", 4, 0, 0),
    ("Registry", 108, 4, 0),
    ("smss.exe", 372, 4, 2),
    ("csrss.exe", 480, 468, 5),
    ("wininit.exe", 556, 468, 5),
    ("services.exe", 640, 556, 6),
    ("lsass.exe", 660, 556, 6),
    ("svchost.exe", 780, 640, 7),
    ("explorer.exe", 2316, 2288, 31),
    ("journal.exe", 4120, 2316, 5210),
    ("SecurityHealthService.exe", 4972, 640, 64),
    ("dumpsrv.exe", 5244, 640, 7001),
)
_CURRENT = 4120


@dataclass(frozen=True)
class Module:
    """A kernel module of the sample. Addresses and sizes in bytes; `ldr` is its list element."""

    name: str
    path: str
    base: int
    size: int
    entry_point: int
    timestamp: int
    checksum: int
    guid: str  # 32 upper-case hex digits, as symbol servers write it
    age: int
    pdb: str
    ldr: int


@dataclass(frozen=True)
class Process:
    """A process of the sample. `name` is the 14 characters at most that ImageFileName holds."""

    name: str
    pid: int
    ppid: int
    eprocess: int
    dtb: int
    peb: int  # 0 for processes without user memory
    create_time: int  # FILETIME
    greeting: str | None  # the C string at `Facts.greeting_address`, different in each process


@dataclass(frozen=True)
class Facts:
    """What the sample holds, and where: the truth to compare with.

    Addresses are virtual and belong to the process that was current at the crash (`dtb`), unless
    they say otherwise. Every `*_pa` and `*_pfn` is physical.
    """

    build: int
    processors: int
    dtb: int
    system_dtb: int
    self_map_index: int
    pte_base: int
    kernel_base: int
    kernel_size: int
    kd_debugger_data_block: int
    ps_loaded_module_list: int
    ps_active_process_head: int
    kuser_shared_data: int
    build_lab_address: int
    build_lab: str
    bug_check_code: int
    bug_check_parameters: tuple[int, int, int, int]
    instruction_pointer: int
    stack_pointer: int
    stack_limit: int
    stack_base: int
    exception_code: int
    system_time: datetime
    uptime: timedelta
    comment: str
    modules: tuple[Module, ...]
    processes: tuple[Process, ...]
    current_process: Process

    ascii_address: int
    ascii_text: str
    utf16_address: int
    utf16_text: str
    unicode_string_address: int
    unicode_string_text: str
    crossing_address: int  # a C string across a page boundary
    crossing_text: str
    greeting_address: int

    kernel_large_va: int  # a complete 2 MiB page
    kernel_large_pa: int
    user_large_va: int  # a 2 MiB page of which the first and last 8 frames were captured
    user_large_pa: int
    user_large_end_text: str  # ends with the page; the next page begins with `user_after_large_text`
    user_after_large_text: str
    huge_va: int  # a 1 GiB page of which 16 frames were captured
    huge_pa: int
    huge_captured: int  # bytes

    transition_va: int  # not valid for the CPU, still in memory at `transition_pa`
    transition_pa: int
    transition_text: str
    prototype_va: int  # refers to a prototype PTE, at `prototype_pte`
    prototype_pte: int
    demand_zero_va: int
    pagefile_va: int
    zero_va: int  # a page-table entry of 0
    hole_va: int  # a valid entry, but the frame was not captured
    hole_pfn: int
    kernel_hole_va: int
    kernel_hole_pfn: int

    runs: tuple[tuple[int, int], ...]  # captured frames: first, count
    pages: int


def build(path: str | os.PathLike[str], *, kind: SupportsIndex = 5) -> Facts:
    """Write the sample dump (about 3 MB) to `path` and return what is in it.

    `kind` is a DumpType that `DumpWriter` writes. The same arguments give the same bytes.
    Raises OSError, and ValueError for other kinds.
    """
    machine = _machine()
    with DumpWriter(
        path,
        kind,
        machine.facts.runs,
        header=machine.header,
        context=machine.context,
        exception=machine.exception,
    ) as writer:
        for pfn in sorted(machine.memory.pages):
            writer.write(pfn, machine.memory.pages[pfn])
    return machine.facts


def facts() -> Facts:
    """Return what `build` writes, without writing."""
    return _machine().facts


def default_path(directory: str | os.PathLike[str] | None = None) -> Path:
    """Return where `ensure` keeps the sample.

    `directory` defaults to `kdmp` in the user's cache directory (XDG_CACHE_HOME, else LOCALAPPDATA
    on Windows, else ~/.cache).
    """
    if directory is None:
        base = os.environ.get("XDG_CACHE_HOME") or (
            os.environ.get("LOCALAPPDATA") if os.name == "nt" else None
        )
        directory = Path(base) / "kdmp" if base else Path.home() / ".cache" / "kdmp"
    return Path(directory) / f"sample-{_REVISION}.dmp"


def ensure(directory: str | os.PathLike[str] | None = None) -> Path:
    """Return the path of the sample dump, building it first if it is not there.

    `directory` as for `default_path`; it is made when missing. The file appears complete or not
    at all. Raises OSError.
    """
    path = default_path(directory)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            build(part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    return path


@dataclass(frozen=True)
class _Machine:
    memory: Memory
    header: dict[str, int | str]
    context: bytes
    exception: bytes
    facts: Facts


@cache
def _machine() -> _Machine:
    memory = Memory()
    system = memory.frames(0x1AD, 1)
    _self_map(memory, system)
    _kernel_image(memory, system)
    memory.map(system, _STACK_LIMIT, KERNEL_DATA, 6)
    memory.frames(0x10, 1)
    memory.set_entry(system, _KUSER, 0x10 << 12 | KERNEL_DATA)
    memory.write(system, _KUSER, _kuser_shared_data())
    huge_frames = 16
    huge = memory.frames(0x100000, huge_frames)
    memory.set_entry(system, _HUGE, huge << 12 | KERNEL_DATA | LARGE | LARGE_PAT, level=3)
    memory.write(system, _HUGE, b"The first bytes of a page of one gibibyte.\0")
    pool = Pool(memory, system, _POOL, 16)
    # What the driver touched: paged pool that is in the page file (page 0x51C07 of file 0).
    touched = _PAGED_POOL + 0x2B8
    memory.set_entry(system, _PAGED_POOL, 0x51C07 << 32 | 4 << 5 | 1 << 2)

    modules = _modules(memory, system, pool)
    processes = _processes(memory, system, pool)
    current = next(p for p in processes if p.pid == _CURRENT)
    prototype_pte = pool.reserve(8)
    states = _user_memory(memory, current.dtb >> 12, prototype_pte)

    parameters = (touched, 2, 0, _FAULT)
    rsp = _STACK_BASE - 0x9A8
    rip = _KERNEL + _BUG_CHECK_ROUTINE
    memory.write(system, rsp, struct.pack("<6Q", _KERNEL + _BUG_CHECK_CALLER, 0, 0, 0, 0, _FAULT))
    memory.write(system, rsp + 0x1E8, struct.pack("<Q", _FAULT))
    _debugger_data(memory, system, parameters)

    header: dict[str, int | str] = {
        "minor_version": BUILD,
        "directory_table_base": current.dtb,
        "ps_loaded_module_list": _KERNEL + _MODULE_HEAD,
        "ps_active_process_head": _KERNEL + _PROCESS_HEAD,
        "number_processors": 2,
        "bug_check_code": 0xD1,
        "kd_debugger_data_block": _KERNEL + _KDBG,
        "system_time": _filetime(_SYSTEM_TIME),
        "system_up_time": _UPTIME // timedelta(microseconds=1) * 10,
        "comment": _COMMENT,
        "product_type": 1,
        "suite_mask": 0x110,
        "writer_status": 0,
        "attributes": 0,
        "boot_id": 7,
    }
    header |= {f"bug_check_parameter{k}": value for k, value in enumerate(parameters, 1)}
    runs = memory.runs()
    return _Machine(
        memory,
        header,
        _context(rip, rsp, parameters),
        struct.pack("<IIQQI", 0x80000003, 1, 0, rip, 0).ljust(0x20, b"\0"),
        Facts(
            build=BUILD,
            processors=2,
            dtb=current.dtb,
            system_dtb=system << 12,
            self_map_index=_SELF_MAP,
            pte_base=0xFFFF << 48 | _SELF_MAP << 39,
            kernel_base=_KERNEL,
            kernel_size=_KERNEL_SIZE,
            kd_debugger_data_block=_KERNEL + _KDBG,
            ps_loaded_module_list=_KERNEL + _MODULE_HEAD,
            ps_active_process_head=_KERNEL + _PROCESS_HEAD,
            kuser_shared_data=_KUSER,
            build_lab_address=_KERNEL + _BUILD_LAB,
            build_lab=_BUILD_LAB_TEXT,
            bug_check_code=0xD1,
            bug_check_parameters=parameters,
            instruction_pointer=rip,
            stack_pointer=rsp,
            stack_limit=_STACK_LIMIT,
            stack_base=_STACK_BASE,
            exception_code=0x80000003,
            system_time=_SYSTEM_TIME,
            uptime=_UPTIME,
            comment=_COMMENT,
            modules=modules,
            processes=processes,
            current_process=current,
            ascii_address=_TEXT + 0x100,
            ascii_text=_ASCII,
            utf16_address=_TEXT + 0x200,
            utf16_text=_UTF16,
            unicode_string_address=_TEXT + 0x300,
            unicode_string_text=_UNICODE,
            crossing_address=_TEXT + 0xFE0,
            crossing_text=_CROSSING,
            greeting_address=_GREETING,
            kernel_large_va=_KERNEL,
            kernel_large_pa=0x400 << 12,
            user_large_va=_USER_LARGE,
            user_large_pa=0x800 << 12,
            user_large_end_text=_LARGE_END,
            user_after_large_text=_AFTER_LARGE,
            huge_va=_HUGE,
            huge_pa=huge << 12,
            huge_captured=huge_frames << 12,
            transition_va=_STATES,
            transition_pa=states["transition"] << 12,
            transition_text=_TRANSITION,
            prototype_va=_STATES + 0x1000,
            prototype_pte=prototype_pte,
            demand_zero_va=_STATES + 0x2000,
            pagefile_va=_STATES + 0x3000,
            zero_va=_STATES + 0x4000,
            hole_va=_STATES + 0x5000,
            hole_pfn=states["hole"],
            kernel_hole_va=_KERNEL + _KERNEL_HOLE,
            kernel_hole_pfn=_KERNEL_HOLE_PFN,
            runs=runs,
            pages=sum(count for _, count in runs),
        ),
    )


def _self_map(memory: Memory, root: int) -> None:
    struct.pack_into("<Q", memory.pages[root], _SELF_MAP * 8, NX | root << 12 | KERNEL_TABLE)


def _kernel_image(memory: Memory, root: int) -> None:
    text = memory.frames(0x400, 0x200)
    for k in range(1, 0x200):  # int3 everywhere, a long nop with the page's number in front
        memory.pages[text + k][:] = struct.pack("<II", 0x00841F0F, k).ljust(0x1000, b"\xcc")
    memory.set_entry(root, _KERNEL, text << 12 | KERNEL_CODE | LARGE, level=2)
    # Home the four register arguments, save the flags: how the bug-check routine begins.
    prologue = bytes.fromhex("48894c2408 4889542410 4c89442418 4c894c2420 9c")
    memory.write(root, _KERNEL + _BUG_CHECK_ROUTINE, prologue)
    memory.write(root, _KERNEL + _BUG_CHECK_CALLER, b"\x90")
    for k in range(_DATA_PAGES):
        va = _KERNEL + _DATA + 0x1000 * k
        if va == _KERNEL + _KERNEL_HOLE:
            memory.set_entry(root, va, _KERNEL_HOLE_PFN << 12 | KERNEL_DATA)
        else:
            memory.map(root, va, KERNEL_DATA)
    memory.write(root, _KERNEL + _BUILD_LAB, _BUILD_LAB_TEXT.encode() + b"\0")


def _kuser_shared_data() -> bytes:
    page = bytearray(0x720)  # KUSER_SHARED_DATA of Windows 10
    uptime, now = _UPTIME // timedelta(microseconds=1) * 10, _filetime(_SYSTEM_TIME)
    for offset, ticks in ((0x008, uptime), (0x014, now)):  # KSYSTEM_TIME
        struct.pack_into("<III", page, offset, ticks & 0xFFFFFFFF, ticks >> 32, ticks >> 32)
    struct.pack_into("<HH", page, 0x02C, 0x8664, 0x8664)
    root = "C:\\Windows".encode("utf-16-le")
    page[0x030 : 0x030 + len(root)] = root
    struct.pack_into("<I", page, 0x260, BUILD)
    struct.pack_into("<IBxH", page, 0x264, 1, 1, 9)  # NtProductType, valid, AMD64
    struct.pack_into("<II", page, 0x26C, 10, 0)
    struct.pack_into("<I", page, 0x2C4, 7)
    struct.pack_into("<I", page, 0x2D0, 0x110)
    struct.pack_into("<I", page, 0x2E8, 0x80000)  # NumberOfPhysicalPages
    struct.pack_into("<I", page, 0x3C0, 2)  # ActiveProcessorCount
    return bytes(page)


def _debugger_data(memory: Memory, root: int, parameters: tuple[int, int, int, int]) -> None:
    """Write KDDEBUGGER_DATA64 (size 0x380) and what it points to, decoded as after a bug check."""
    block = bytearray(0x380)
    here = _KERNEL + _KDBG
    struct.pack_into("<QQ4sI", block, 0, here, here, b"KDBG", 0x380)
    for offset, value in (
        (0x018, _KERNEL),
        (0x048, _KERNEL + _MODULE_HEAD),
        (0x050, _KERNEL + _PROCESS_HEAD),
        (0x088, _KERNEL + _BUG_CHECK_DATA),
        (0x138, 0x1000),  # MmPageSize
        (0x208, _KERNEL + _BUILD_LAB),
        (0x360, 0xFFFF << 48 | _SELF_MAP << 39),  # PteBase
    ):
        struct.pack_into("<Q", block, offset, value)
    for offset, value in (
        (0x036, 0x11),  # PaeEnabled, 4 paging levels
        (0x2A8, _EPROCESS_SIZE),
        (0x2AA, EPROCESS["Peb"]),
        (0x2AC, EPROCESS["InheritedFromUniqueProcessId"]),
        (0x2AE, EPROCESS["Pcb.DirectoryTableBase"]),
    ):
        struct.pack_into("<H", block, offset, value)
    memory.write(root, here, bytes(block))
    memory.write(root, _KERNEL + _BUG_CHECK_DATA, struct.pack("<5Q", 0xD1, *parameters))


def _modules(memory: Memory, root: int, pool: Pool) -> tuple[Module, ...]:
    modules = []
    for name, folder, base, size, entry, timestamp, checksum, pdb in _MODULES:
        guid = uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.kdmp.invalid")
        module = Module(
            name=name,
            path=folder + name,
            base=base,
            size=size,
            entry_point=base + entry,
            timestamp=timestamp,
            checksum=checksum,
            guid=guid.hex.upper(),
            age=1,
            pdb=pdb,
            ldr=pool.reserve(0xA0),
        )
        modules.append(module)
        if base != _KERNEL:
            memory.map(root, base, KERNEL_DATA)
        memory.write(root, base, _image_header(module, guid))
        element = bytearray(0xA0)
        struct.pack_into("<QQI", element, 0x30, base, base + entry, size)
        for offset, text in ((0x48, module.path), (0x58, name)):
            raw = text.encode("utf-16-le")
            struct.pack_into("<HH4xQ", element, offset, len(raw), len(raw) + 2, pool.put(raw + b"\0\0"))
        struct.pack_into("<IH", element, 0x68, 0x09104000, 1)  # Flags, LoadCount
        struct.pack_into("<I", element, 0x78, checksum)
        struct.pack_into("<I", element, 0x9C, timestamp)
        memory.write(root, module.ldr, bytes(element))
    driver = modules[-1].base
    memory.map(root, driver + 0x1000, KERNEL_CODE)
    memory.write(root, _FAULT, bytes.fromhex("488b01"))  # mov rax, [rcx]
    _link(memory, root, _KERNEL + _MODULE_HEAD, [module.ldr for module in modules])
    return tuple(modules)


def _image_header(module: Module, guid: uuid.UUID) -> bytes:
    """Return the first page of a PE image: headers, debug directory with RSDS record, export name."""
    page = bytearray(0x1000)
    page[0:2] = b"MZ"
    struct.pack_into("<I", page, 0x3C, 0xF8)
    page[0x4E:0x74] = b"This program cannot be run in DOS mode"
    struct.pack_into("<4sHHIIIHH", page, 0xF8, b"PE\0\0", 0x8664, 1, module.timestamp, 0, 0, 0xF0, 0x22)
    optional = 0xF8 + 0x18
    struct.pack_into("<H", page, optional, 0x20B)
    struct.pack_into("<I", page, optional + 0x10, module.entry_point - module.base)
    struct.pack_into("<QII", page, optional + 0x18, module.base, 0x1000, 0x200)
    struct.pack_into("<IIIH", page, optional + 0x38, module.size, 0x1000, module.checksum, 1)
    struct.pack_into("<I", page, optional + 0x6C, 16)
    struct.pack_into("<II", page, optional + 0x70, 0x700, 0x28)  # export directory
    struct.pack_into("<II", page, optional + 0x70 + 8 * 6, 0x600, 0x1C)  # debug directory
    struct.pack_into(
        "<8sIIII12xI", page, optional + 0xF0, b".text", module.size - 0x1000, 0x1000, 0, 0, 0x60000020
    )
    code_view = b"RSDS" + guid.bytes_le + struct.pack("<I", module.age) + module.pdb.encode() + b"\0"
    struct.pack_into("<IIHHIIII", page, 0x600, 0, module.timestamp, 0, 0, 2, len(code_view), 0x640, 0x640)
    page[0x640 : 0x640 + len(code_view)] = code_view
    struct.pack_into("<I", page, 0x70C, 0x728)
    page[0x728 : 0x728 + len(module.name)] = module.name.encode()
    return bytes(page)


def _processes(memory: Memory, system: int, pool: Pool) -> tuple[Process, ...]:
    boot = _filetime(_SYSTEM_TIME - _UPTIME)
    addresses = [pool.reserve(_EPROCESS_SIZE) for _ in _PROCESSES]
    processes = []
    for k, (name, pid, ppid, seconds) in enumerate(_PROCESSES):
        root = system if pid == 4 else memory.frame()
        has_user_memory = pid not in (4, 108)  # System and Registry are minimal processes
        process = Process(
            name=name[:14],
            pid=pid,
            ppid=ppid,
            eprocess=addresses[k],
            dtb=root << 12,
            peb=(0xB3_2C47_6000 + 0x1_0000_1000 * k) if has_user_memory else 0,
            create_time=boot + seconds * 10_000_000,
            greeting=f"I am {name}, process {pid}." if has_user_memory else None,
        )
        processes.append(process)
        if root != system:
            memory.pages[root][0x800:] = memory.pages[system][0x800:]  # the kernel's half
            _self_map(memory, root)
        if process.greeting is not None:
            memory.map(root, _GREETING, USER_DATA)
            memory.write(root, _GREETING, process.greeting.encode() + b"\0")
            memory.set_entry(root, _KUSER_USER, 0x10 << 12 | USER_READ_ONLY)
            memory.map(root, process.peb, USER_DATA)
            memory.write(root, process.peb + 0x10, struct.pack("<Q", 0x7FF61A2B0000 + 0x1000000 * k))
        memory.write(system, process.eprocess, _eprocess(process))
    links = EPROCESS["ActiveProcessLinks"]
    _link(memory, system, _KERNEL + _PROCESS_HEAD, [at + links for at in addresses])
    return tuple(processes)


def _eprocess(process: Process) -> bytes:
    body = bytearray(_EPROCESS_SIZE)
    struct.pack_into("<BxH", body, EPROCESS["Pcb.Header.Type"], 3, 0x438 // 4)
    for name in ("Pcb.ThreadListHead", "ThreadListHead"):  # no threads: heads of empty lists
        head = process.eprocess + EPROCESS[name]
        struct.pack_into("<QQ", body, EPROCESS[name], head, head)
    for name, value in (
        ("Pcb.DirectoryTableBase", process.dtb),
        ("UniqueProcessId", process.pid),
        ("CreateTime", process.create_time),
        ("InheritedFromUniqueProcessId", process.ppid),
        ("Peb", process.peb),
    ):
        struct.pack_into("<Q", body, EPROCESS[name], value)
    struct.pack_into("15s", body, EPROCESS["ImageFileName"], process.name.encode())
    return bytes(body)


def _link(memory: Memory, root: int, head: int, entries: list[int]) -> None:
    """Join LIST_ENTRYs at these addresses into a ring with its head."""
    ring = [head, *entries]
    for k, entry in enumerate(ring):
        memory.write(root, entry, struct.pack("<QQ", ring[(k + 1) % len(ring)], ring[k - 1]))


def _user_memory(memory: Memory, root: int, prototype_pte: int) -> dict[str, int]:
    """Fill the current process: text, a large page, and pages in every state. Return some frames."""
    memory.map(root, _TEXT, USER_DATA, 2)
    memory.write(root, _TEXT + 0x100, _ASCII.encode() + b"\0")
    memory.write(root, _TEXT + 0x200, _UTF16.encode("utf-16-le") + b"\0\0")
    raw = _UNICODE.encode("utf-16-le")
    memory.write(root, _TEXT + 0x300, struct.pack("<HH4xQ", len(raw), len(raw) + 2, _TEXT + 0x320))
    memory.write(root, _TEXT + 0x320, raw + b"\0\0")
    memory.write(root, _TEXT + 0xFE0, _CROSSING.encode() + b"\0")

    memory.frames(0x800, 8)
    memory.frames(0x9F8, 8)
    memory.set_entry(root, _USER_LARGE, 0x800 << 12 | USER_DATA | LARGE, level=2)
    memory.write(root, _USER_LARGE, b"the first words of a large page\0")
    memory.write(root, _USER_LARGE + 0x200000 - len(_LARGE_END), _LARGE_END.encode())
    memory.map(root, _USER_LARGE + 0x200000, USER_DATA)
    memory.write(root, _USER_LARGE + 0x200000, _AFTER_LARGE.encode() + b"\0")

    # Entries that are not valid, in the layout of 17763 and later: Protection in bits 5-9 (4 is
    # READWRITE), Prototype 10, Transition 11, page file number 12-15, its page 32-63.
    moving, shared = memory.frame(), memory.frame()
    memory.pages[moving][: len(_TRANSITION)] = _TRANSITION.encode()
    memory.pages[shared][:13] = b"A shared page"
    memory.write(root, prototype_pte, struct.pack("<Q", shared << 12 | KERNEL_DATA))
    for k, value in enumerate(
        (
            moving << 12 | 1 << 11 | 4 << 5,
            (prototype_pte & 0xFFFFFFFFFFFF) << 16 | 1 << 10 | 4 << 5,
            4 << 5,
            0x1A2B3 << 32 | 1 << 12 | 4 << 5 | 1 << 2,
            0,
            _USER_HOLE_PFN << 12 | USER_DATA,
        )
    ):
        memory.set_entry(root, _STATES + 0x1000 * k, value)
    return {"transition": moving, "hole": _USER_HOLE_PFN}


def _context(rip: int, rsp: int, parameters: tuple[int, int, int, int]) -> bytes:
    """Return the CONTEXT of x64 (0x4D0 bytes) of a processor that enters the bug-check routine."""
    record = bytearray(0x4D0)
    struct.pack_into("<II6HI", record, 0x30, 0x10001F, 0x1F80, 0x10, 0x2B, 0x2B, 0x53, 0x2B, 0x18, 0x40246)
    registers = {
        0x78: 0x1F,  # Rax
        0x80: 0xD1,  # Rcx: the code
        0x88: parameters[0],  # Rdx
        0x90: _POOL + 0x40,  # Rbx
        0x98: rsp,
        0xA0: rsp + 0x1A0,  # Rbp
        0xB8: parameters[1],  # R8
        0xC0: parameters[2],  # R9
        0xC8: _FAULT,  # R10
        0xF8: rip,
    }
    for offset, value in registers.items():
        struct.pack_into("<Q", record, offset, value)
    struct.pack_into("<HH14xI", record, 0x100, 0x27F, 0, 0)
    struct.pack_into("<II", record, 0x118, 0x1F80, 0x2FFFF)
    record[0x1A0:0x1B0] = b"xmm0 holds text."
    return bytes(record)


def _filetime(moment: datetime) -> int:
    """Return 100 ns units since 1601."""
    return (moment - datetime(1601, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 10
