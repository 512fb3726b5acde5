"""MemProcFS, told where the page tables are: the dumps hold no Windows that it could find by itself.

Its library needs libusb-1.0 to be loaded at all. It is kept from asking for symbols in the network.

SPDX-License-Identifier: MIT
"""

import importlib
import sys
from pathlib import Path
from typing import Any

from benchmarks.harness import MEMPROCFS
from benchmarks.peers import Peer

PAGE = 0x1000
OPTIONS = ("-disable-symbolserver", "-disable-symbols", "-disable-python")


def load() -> Any:
    """Import it, first the library that it looks for."""
    importlib.import_module("leechcorepyc")
    try:
        return importlib.import_module("memprocfs")
    except ModuleNotFoundError as error:
        first = error.__context__  # what happened before it tried another name
        raise first if isinstance(first, ImportError) else error from None


def open_dump(path: Path, dtb: int) -> Peer:
    """Open a dump and take the process it makes of the page tables."""
    vmm = load().Vmm(["-device", str(path), "-dtb", hex(dtb), *OPTIONS])
    process = vmm.process_list()[0]
    virtual_read, physical_read = process.memory.read, vmm.memory.read

    def search(owner: Any, first: int, size: int, needle: bytes) -> list[int]:
        one = owner.search(first, first + size)
        one.max_results = 0x10000
        one.add_search(needle)
        one.start()
        found = one.result()
        return sorted(at for at, _ in found)

    calls = {
        "translate": process.memory.virt2phys,
        "read8": lambda va: virtual_read(va, 8),
        "page": lambda va: virtual_read(va, PAGE),
        "read": virtual_read,
        "phys8": lambda pa: physical_read(pa, 8),
        "phys_page": lambda pa: physical_read(pa, PAGE),
        "phys_read": physical_read,
        "scan": lambda first, size, needle: search(process, first, size, needle),
        "phys_scan": lambda first, size, needle: search(vmm, first, size, needle),
        "all_mappings": lambda: process.maps.pte(),
    }
    return Peer(MEMPROCFS, calls, close=vmm.close, inner=vmm)


def starts(path: Path) -> str:
    """Return why it does not find Windows in a dump, "" if it does: for a process of its own."""
    try:
        load().Vmm(["-device", str(path), *OPTIONS]).close()
    except Exception as error:
        return str(error) or type(error).__name__
    return ""


if __name__ == "__main__":
    sys.exit(starts(Path(sys.argv[1])) or None)
