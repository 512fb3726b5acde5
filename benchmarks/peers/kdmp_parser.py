"""kdmp_parser: translations, and reads of whole pages.

SPDX-License-Identifier: MIT
"""

import importlib
from pathlib import Path
from typing import Any

from benchmarks.harness import PEER
from benchmarks.peers import Peer

PAGE = 0x1000


def load() -> Any:
    """Import it."""
    return importlib.import_module("kdmp_parser")


def open_dump(path: Path, dtb: int) -> Peer:
    """Open a dump; reading less than a page its way is reading the page and slicing."""
    parser = load().KernelDumpParser(str(path))
    page, physical = parser.read_virtual_page, parser.read_physical_page

    def read8(va: int) -> bytes:
        offset = va & 0xFFF
        data: bytes = page(va)[offset : offset + 8]
        return data

    def phys8(pa: int) -> bytes:
        offset = pa & 0xFFF  # it finds physical pages by their first address only
        data: bytes = physical(pa - offset)[offset : offset + 8]
        return data

    def read(va: int, size: int) -> bytes:
        return b"".join([page(at) for at in range(va, va + size, PAGE)])

    def phys_read(pa: int, size: int) -> bytes:
        return b"".join([physical(at) for at in range(pa, pa + size, PAGE)])

    calls = {
        "translate": parser.translate_virtual,
        "read8": read8,
        "page": page,
        "read": read,
        "phys8": phys8,
        "phys_page": physical,
        "phys_read": phys_read,
    }
    raw = getattr(parser, "_KernelDumpParser__dump", None)  # the C++ object
    if raw is not None:
        calls["raw_translate"] = raw.VirtTranslate
    no_scan = "kdmp_parser has no scan"
    reasons = {
        "scan": no_scan,
        "phys_scan": no_scan,
        "mappings": "kdmp_parser has no list of what is mapped",
        "processes": "kdmp_parser has no process list",
    }
    return Peer(PEER, calls, reasons, inner=parser)
