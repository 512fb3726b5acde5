"""The facts of a dump's header as plain data, with the names that people know the numbers by.

`dump_facts` builds what `kdmp info --json` prints; the text of `kdmp info` is made from the same data.

SPDX-License-Identifier: MIT
"""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from kdmp.cli.output import Json
from kdmp.cli.triagefacts import packed_facts, raw_facts, secondary_facts, triage_facts

if TYPE_CHECKING:
    from kdmp import Dump

KIND_TEXT = {
    1: "full memory, found by physical runs",
    2: "summary of Windows 7 and older: kernel pages, found by a bitmap",
    3: "header only, no memory",
    4: "triage (small) dump: virtual ranges, no physical pages",
    5: "active or complete memory, found by a bitmap",
    6: "kernel pages, found by a bitmap",
    7: "automatic: kernel pages, found by a bitmap",
    8: "kernel memory written by WinDbg (.dump /k)",
    9: "kernel and user memory written by WinDbg (.dump /ka)",
    10: "complete memory written by WinDbg (.dump /f)",
}

# IMAGE_FILE_MACHINE_* of the PE format.
MACHINES = {0x14C: "x86", 0x1C4: "ARM", 0x200: "IA64", 0x8664: "x64", 0xAA64: "ARM64"}

# VER_NT_* of winnt.h.
PRODUCT_TYPES = {1: "workstation", 2: "domain controller", 3: "server"}

# VER_SUITE_* of winnt.h.
SUITES = {
    0x1: "SmallBusiness",
    0x2: "Enterprise",
    0x4: "BackOffice",
    0x8: "Communications",
    0x10: "Terminal",
    0x20: "SmallBusinessRestricted",
    0x40: "EmbeddedNT",
    0x80: "DataCenter",
    0x100: "SingleUserTS",
    0x200: "Personal",
    0x400: "Blade",
    0x800: "EmbeddedRestricted",
    0x1000: "SecurityAppliance",
    0x2000: "StorageServer",
    0x4000: "ComputeServer",
    0x8000: "WHServer",
    0x20000: "MultiUserTS",
}

# Bits of the header's Attributes field in the newer SDK's DUMP_HEADER64.
ATTRIBUTES = {
    0x1: "HiberCrash",
    0x2: "DumpDevicePowerOff",
    0x4: "InsufficientDumpfileSize",
    0x8: "KernelGeneratedTriageDump",
    0x10: "LiveDumpGeneratedDump",
    0x20: "DumpIsGeneratedOffline",
    0x40: "FilterDumpFile",
    0x80: "EarlyBootCrash",
    0x100: "EncryptedDumpData",
    0x200: "DecryptedDump",
}

# TRIAGE_DUMP_* bits of MiniDumpFields.
MINI_DUMP_FIELDS = {
    0x1: "context",
    0x2: "exception",
    0x4: "processor control block",
    0x8: "process",
    0x10: "thread",
    0x20: "call stack",
    0x40: "driver list",
    0x80: "broken driver",
    0x100: "memory management information",
    0x200: "data page",
    0x400: "debugger data",
    0x800: "data blocks",
}

# What the debugger engine's writer stores.
WRITER_STATUS = {0: "ok", 1: "no module list", 2: "corrupt module list"}

# Layouts without physical pages, and so without page tables.
_WITHOUT_PAGES = ("none", "triage")

# What `Dump.paging_source` means.
PAGING_SOURCES = {
    "machine": "the machine type leaves no choice",
    "kdbg": "from PagingLevels in the debugger data block",
    "trial": "only this one maps the kernel's data",
    "default": "nothing to tell by: the usual one",
    "header": "from the header",
    "argument": "as asked for",
}


def bits(value: int, names: dict[int, str]) -> list[str]:
    """The names of the bits set in `value`; a bit without a name is its number in hexadecimal."""
    return [names.get(1 << k, f"{1 << k:#x}") for k in range(value.bit_length()) if value >> k & 1]


def dump_facts(dump: "Dump", file: str, *, pieces: bool = False) -> Json:
    """Everything that the header of `dump` says and its layout shows, without what is absent.

    `pieces` tells that the user said where the runs of a memory image are.
    """
    facts: dict[str, Any] = {
        "file": file,
        "file_size": dump.file_size,
        "packed": packed_facts(dump, file),
        "kind": _kind(dump),
        "layout": dump.layout,
        "raw": raw_facts(dump, pieces=pieces),
        "arch": dump.arch,
        "pointer_size": dump.pointer_size,
        "machine": _named(dump.machine, MACHINES),
        "build": dump.build,
        "checked_build": dump.checked_build,
        "product_type": _named(dump.product_type, PRODUCT_TYPES),
        "suite_mask": _flags(dump.suite_mask, SUITES),
        "processors": dump.processors,
        "system_time": _iso(dump.system_time),
        "uptime_seconds": _seconds(dump.uptime),
        "boot_id": dump.boot_id,
        "bugcheck": _bugcheck(dump),
        "exception": exception_facts(dump),
        **_root(dump),
        **_paging(dump),
        "pae_enabled": dump.header["pae_enabled"],
        "kd_debugger_data_block": dump.kd_debugger_data_block,
        "ps_loaded_module_list": dump.ps_loaded_module_list,
        "ps_active_process_head": dump.ps_active_process_head,
        "pfn_database": dump.pfn_database,
        "pages": page_facts(dump),
        "triage": triage_facts(dump),
        "secondary_data": secondary_facts(dump),
        "required_dump_space": dump.required_dump_space,
        "attributes": _flags(dump.attributes, ATTRIBUTES),
        "live": dump.is_live,
        "encrypted": dump.encrypted,
        "mini_dump_fields": _flags(dump.mini_dump_fields, MINI_DUMP_FIELDS),
        "writer_status": _named(dump.writer_status, WRITER_STATUS),
        "secondary_data_state": dump.secondary_data_state,
        "kd_secondary_version": dump.kd_secondary_version,
        "version_user": dump.version_user,
        "comment": dump.comment,
        "header": {name: value for name, value in dump.header.items() if value is not None},
    }
    return _present(facts)


def page_facts(dump: "Dump") -> Json | None:
    """Page counts and where the pages are in the file; None for a dump without physical pages."""
    figures = dump.figures
    if dump.layout in _WITHOUT_PAGES:
        return None
    facts = {
        "described": figures["pages_described"],
        "available": figures["pages_available"],
        "truncated": dump.truncated,
        "claimed": figures["pages_claimed"],
        "overlapped": figures["pages_overlapped"],
        "bytes": figures["pages_available"] * 0x1000,
        "pfn_end": figures["pfn_end"],
        "first_page_offset": figures["first_page"],
        "data_end_offset": figures["data_end"],
    }
    if figures["bitmap_bits"]:
        facts["bitmap_bits"] = figures["bitmap_bits"]
    return facts


def exception_facts(dump: "Dump") -> Json | None:
    """The exception record of the header; None if there is none."""
    return None if dump.exception is None else _present(dump.exception.to_dict())


def _present(facts: Json) -> Json:
    """`facts` without what is None."""
    return {name: value for name, value in facts.items() if value is not None}


def _kind(dump: "Dump") -> Json | None:
    if dump.kind is None:
        return None
    return {"number": int(dump.kind), "name": getattr(dump.kind, "name", "UNKNOWN")}


def _root(dump: "Dump") -> Json:
    """The page-table root, and where it comes from if not from the header."""
    from kdmp import KdmpError

    stored = dump.header["directory_table_base"]
    if dump.dtb is not None:
        return {"dtb": dump.dtb} | ({} if dump.dtb == stored else {"dtb_source": "argument"})
    if dump.layout != "raw":
        return {}
    try:
        return {"dtb": dump.reader().dtb, "dtb_source": "trial"}
    except KdmpError:
        return {}


def _paging(dump: "Dump") -> Json:
    """How virtual addresses are translated, and how that was found out; nothing if they cannot be."""
    from kdmp import KdmpError

    if dump.layout in _WITHOUT_PAGES:
        return {}
    try:
        return {"paging": dump.paging, "paging_source": dump.paging_source}
    except KdmpError:  # no root, or a machine whose page tables kdmp does not walk
        return {}


def _bugcheck(dump: "Dump") -> Json | None:
    if dump.bugcheck is None:
        return None
    facts = _present(dump.bugcheck.to_dict())
    facts["parameters"] = [_present(parameter) for parameter in facts["parameters"]]
    return facts


def _named(value: int | None, names: dict[int, str]) -> Json | None:
    if value is None:
        return None
    named: Json = {"value": value}
    if value in names:
        named["name"] = names[value]
    return named


def _flags(value: int | None, names: dict[int, str]) -> Json | None:
    return None if value is None else {"value": int(value), "names": bits(value, names)}


def _iso(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()


def _seconds(value: timedelta | None) -> float | None:
    return None if value is None else value.total_seconds()
