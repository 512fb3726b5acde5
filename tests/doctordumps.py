"""Builds the dumps that the tests of kdmp.doctor damage: small kernels of each machine, triage dumps.

SPDX-License-Identifier: MIT
"""

import io
import struct
from uuid import UUID

from dumpbuilder import AUTOMATIC, BITMAP, KERNEL, PAGE, SUMMARY, patched, summary_dump

import kdmp
from kdmp.doctor import Severity

INFO, WARNING, ERROR = Severity

# ---- small machines: one 2 MiB (x86: 4 MiB) page of kernel, at physical 0x400000 ----

PA = 0x400000
KDBG, MODULES, PROCESSES, PFNS = 0x1000, 0x1800, 0x1900, 0x1F00
MODULE, PROCESS = 0x2000, 0x3000
BASES = {"x64": 0xFFFFF80000000000, "arm64": 0xFFFFF80000000000, "pae": 0x80000000, "x86": 0x80000000}
MACHINE = {"x64": 0x8664, "arm64": 0xAA64, "pae": 0x14C, "x86": 0x14C}
CONTEXT = {
    "x64": bytes(0x30) + struct.pack("<I", 0x10000F) + bytes(0x4D0 - 0x34),
    "arm64": struct.pack("<I", 0x400007) + bytes(0x38C),
    "x86": struct.pack("<I", 0x10007) + bytes(0x2C8),
}
ROOT = 0x1000


class Machine:
    """A kernel with a debugger data block, three modules and three processes."""

    def __init__(self, paging="x64"):
        self.paging, self.base = paging, BASES[paging]
        self.width = 4 if paging in ("pae", "x86") else 8
        self.links = 0x448 if self.width == 8 else 0xB8
        self.pages = {}
        self.tables()
        self.put(0, b"MZ")
        flags = 4 << 2 if self.width == 8 else paging == "pae"
        sign = (1 << 64) - (1 << 32) if self.width == 4 else 0
        self.put(KDBG, struct.pack("<QQ4sIQ", *[sign | self.va(KDBG)] * 2, b"KDBG", 0x380, sign | self.base))
        self.put(KDBG + 0x36, struct.pack("<H", flags))
        self.put(KDBG + 0x48, struct.pack("<QQ", sign | self.va(MODULES), sign | self.va(PROCESSES)))
        self.put(KDBG + 0xC0, struct.pack("<Q", sign | self.va(PFNS)))
        self.put(KDBG + 0x37F, b"\0")
        self.pointer(PFNS, self.va(0x100000))
        self.ring(MODULES, [MODULE + 0x100 * k for k in range(3)])
        for k in range(3):
            self.put(PROCESS + 0x800 * k, struct.pack("<I", 0x00B60003))
        self.ring(PROCESSES, [PROCESS + 0x800 * k + self.links for k in range(3)])
        self.header = {
            "major_version": 15, "minor_version": 19041, "machine_image_type": MACHINE[paging],
            "directory_table_base": ROOT, "pfn_database": self.va(PFNS),
            "ps_loaded_module_list": self.va(MODULES), "ps_active_process_head": self.va(PROCESSES),
            "kd_debugger_data_block": self.va(KDBG), "number_processors": 2, "bug_check_code": 0xD1,
            "system_time": 133_548_820_135_897_930, "system_up_time": 76_514_159_260, "product_type": 1,
        }  # fmt: skip
        if self.width == 4:
            self.header["pae_enabled"] = int(paging == "pae")

    def va(self, offset):
        return self.base + offset

    def tables(self):
        words = {
            "x64": {ROOT + 8 * 0x1F0: 0x2003, 0x2000: 0x3003, 0x3000: PA | 0x83},
            "arm64": {ROOT + 8 * 0x1F0: 0x2003, 0x2000: 0x3003, 0x3000: PA | 0x401},
            "pae": {ROOT + 8 * 2: 0x2001, 0x2000: PA | 0x83},
            "x86": {ROOT + 4 * 0x200: PA | 0x83},
        }[self.paging]
        for pa, value in words.items():
            at = self.pages.setdefault(pa >> 12, bytearray(PAGE))
            size = 4 if self.paging == "x86" else 8
            at[pa % PAGE : pa % PAGE + size] = value.to_bytes(size, "little")

    def put(self, offset, data):
        for k, byte in enumerate(data):
            page, at = divmod(PA + offset + k, PAGE)
            self.pages.setdefault(page, bytearray(PAGE))[at] = byte

    def pointer(self, offset, value):
        self.put(offset, value.to_bytes(self.width, "little"))

    def ring(self, head, entries):
        whole = [head, *entries]
        for at, after, before in zip(whole, whole[1:] + whole[:1], whole[-1:] + whole[:-1], strict=True):
            self.pointer(at, self.va(after))
            self.pointer(at + self.width, self.va(before))

    def dump(self, kind=BITMAP, **header):
        """The image; kinds that the writer does not know are x64 only."""
        values = self.header | header
        out = io.BytesIO()
        records = {"context": CONTEXT["x86" if self.width == 4 else self.paging]}
        pages = {pfn: bytes(page) for pfn, page in sorted(self.pages.items())}
        if kind == SUMMARY:
            return with_context(summary_dump(max(pages) + 1, pages, **values))
        kdmp.write_dump(out, KERNEL if kind == AUTOMATIC else kind, pages, header=values, **records)
        return patched(out.getvalue(), kind=AUTOMATIC) if kind == AUTOMATIC else out.getvalue()


def with_context(image):
    out = bytearray(image)
    out[0x348 : 0x348 + 0x4D0] = CONTEXT["x64"]
    return bytes(out)


def kdbg_copy():
    out = bytearray(0x380)
    base = BASES["x64"]
    struct.pack_into("<QQ4sIQ", out, 0, base, base, b"KDBG", 0x380, base)
    struct.pack_into("<H", out, 0x2A8, 0xA40)
    struct.pack_into("<H", out, 0x2B0, 0x1000)
    struct.pack_into("<H", out, 0x2C0, 0x898)
    return bytes(out)


def triage(machine="x64", **parts):
    """A triage dump with all parts, or without those given as None."""
    narrow = machine == "x86"
    source = Machine("pae" if narrow else machine)
    header = source.header | {"system_time": 133_548_820_135_897_930}
    top = source.va(0x8000)
    values = {
        "header": header,
        "context": CONTEXT[machine],
        "exception": struct.pack("<IIQQI", 0x80000003, 1, 0, 0, 0) + bytes(0x98 - 0x1C),
        "mm": bytes(0x34 if narrow else 0x50),
        "unloaded": [("gone.sys", top, top + 0x1000)],
        "prcb": bytes(0x1000),
        "process": bytes(0xA40),
        "thread": bytes(0x898),
        "stack": (top, bytes(0x500)),
        "debugger_data": kdbg_copy(),
        "drivers": [("nt.exe", source.base, 0x1000, 1, 2), ("hal.dll", top, 0x1000, 3, 4)],
        "data_blocks": [(source.va(0x9000), b"block"), (source.va(0xA000), bytes(64))],
        "blobs": [(UUID(int=5), b"12345678")],
    }
    if narrow:
        values["exception"] = bytes(0x50)
    values.update(parts)
    out = io.BytesIO()
    kdmp.write_triage(out, **{name: part for name, part in values.items() if part is not None})
    return out.getvalue()


def poke(image, *changes):
    """A copy of `image` with (offset, struct format, values...) overwritten."""
    out = bytearray(image)
    for offset, layout, *values in changes:
        struct.pack_into(layout, out, offset, *values)
    return bytes(out)


def only(findings, code):
    """The one finding with a code."""
    found = [finding for finding in findings if finding.code == code]
    assert len(found) == 1, findings
    return found[0]


def codes(report):
    return {finding.code for finding in report.findings}


def bad(report):
    """Codes at WARNING and above."""
    return {finding.code for finding in report.findings if finding.severity >= WARNING}
