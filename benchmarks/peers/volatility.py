"""Volatility 3 as a library: the layers of a crash dump, without its automagic and without symbols.

SPDX-License-Identifier: MIT
"""

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.harness import VOLATILITY
from benchmarks.peers import Peer

PAGE = 0x1000
_CANONICAL = (1 << 48) - 1  # its layers know addresses without the sign


def load() -> Any:
    """Import what is needed of it."""
    importlib.import_module("volatility3.framework.contexts")
    for name in ("physical", "crash", "intel", "scanners"):
        importlib.import_module(f"volatility3.framework.layers.{name}")
    return importlib.import_module("volatility3.framework")


def open_dump(path: Path, dtb: int) -> Peer:
    """Stack file, crash dump and page tables."""
    framework = load()
    layers = framework.layers
    context = framework.contexts.Context()
    context.config["file.location"] = path.absolute().as_uri()
    context.add_layer(layers.physical.FileLayer(context, "file", "file"))
    context.config["crash.base_layer"] = "file"
    crash = layers.crash.WindowsCrashDump64Layer(context, "crash", "crash")
    context.add_layer(crash)
    context.config["memory.memory_layer"] = "crash"
    context.config["memory.page_map_offset"] = dtb
    memory = layers.intel.WindowsIntel32e(context, "memory", "memory")
    context.add_layer(memory)
    virtual_read, physical_read, translate = memory.read, crash.read, memory.translate

    def scanned(layer: Any, first: int, size: int, scanner: Any) -> list[int]:
        return sorted(layer.scan(context, scanner, sections=[(first, size)]))

    def scan(first: int, size: int, needle: bytes) -> list[int]:
        sign = first & ~_CANONICAL
        found = scanned(memory, first & _CANONICAL, size, layers.scanners.BytesScanner(needle))
        return [sign | at for at in found]

    def phys_scan(first: int, size: int, needle: bytes) -> list[int]:
        return scanned(crash, first, size, layers.scanners.BytesScanner(needle))

    def phys_regex(first: int, size: int, pattern: bytes) -> list[int]:
        return scanned(crash, first, size, layers.scanners.RegExScanner(pattern))

    def phys_patterns(first: int, size: int, patterns: Iterable[bytes]) -> list[int]:
        scanner = layers.scanners.MultiStringScanner(list(patterns))
        return sorted(at for at, _ in crash.scan(context, scanner, sections=[(first, size)]))

    def mappings(first: int, size: int) -> int:
        return sum(one[1] for one in memory.mapping(first & _CANONICAL, size, ignore_errors=True))

    calls = {
        "translate": lambda va: translate(va & _CANONICAL)[0],
        "read8": lambda va: virtual_read(va & _CANONICAL, 8),
        "page": lambda va: virtual_read(va & _CANONICAL, PAGE),
        "read": lambda va, size: virtual_read(va & _CANONICAL, size),
        "phys8": lambda pa: physical_read(pa, 8),
        "phys_page": lambda pa: physical_read(pa, PAGE),
        "phys_read": physical_read,
        "scan": scan,
        "phys_scan": phys_scan,
        "phys_regex": phys_regex,
        "phys_patterns": phys_patterns,
        "mappings": mappings,
    }
    return Peer(VOLATILITY, calls, close=crash.destroy, inner=context)
