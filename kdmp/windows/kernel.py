"""Find the kernel's image in a dump and say which one it is.

Ways, in this order: KDBG's KernBase (if the block is not encoded), the first entry of the list of loaded
modules (the driver list in a triage dump), and stepping back from an address inside the kernel. What is
found must be a PE image of the right machine whose CodeView record, if it is in memory, names a kernel.

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdmp.dump import Dump
    from kdmp.reader import Reader

from kdmp._kdmp import KdmpError
from kdmp.windows.pe import ImageIdentity, identify

# The names kernels' PDBs have had, without the ending.
KERNEL_PDBS = frozenset({"ntkrnlmp", "ntoskrnl", "ntkrnlpa", "ntkrpamp", "ntkrla57"})

# How far below an address inside it the kernel's header may be, in bytes.
MAX_BACK = 32 << 20


@dataclass(frozen=True, slots=True)
class Kernel:
    """The kernel: its `image`, and `how` it was found ("kdbg", "module list", "driver list", "scan")."""

    image: ImageIdentity
    how: str

    @property
    def base(self) -> int:
        """VA of the image."""
        return self.image.base


def find_kernel(dump: "Dump", *, max_back: int = MAX_BACK) -> Kernel | None:
    """Return the kernel of a dump, None if no way leads to it.

    `max_back` bounds the scan, in bytes. Of a triage dump, whose image pages were not captured, the driver
    list's facts are returned: base, size, time stamp.
    """
    if dump.triage is not None:
        return _from_driver_list(dump)
    try:
        reader = dump.reader(discover=False)  # discovery needs the kernel
    except KdmpError:
        return None
    for base, how in _candidates(dump, reader, max_back):
        image = identify(reader, base)
        if image is None or image.machine != dump.machine:
            continue
        if image.pdb is not None and image.pdb.rsplit(".", 1)[0].lower() not in KERNEL_PDBS:
            continue
        if image.pdb is None and how == "scan":
            continue  # just some image on the way
        return Kernel(image, how)
    return None


def _from_driver_list(dump: "Dump") -> Kernel | None:
    drivers = dump.triage.drivers if dump.triage is not None else []
    if not drivers:
        return None
    first = drivers[0]
    return Kernel(
        ImageIdentity(first.base, dump.machine or 0, first.size, first.timestamp, first.checksum),
        "driver list",
    )


def _candidates(dump: "Dump", reader: "Reader", max_back: int) -> Iterator[tuple[int, str]]:
    width = dump.pointer_size
    if dump.kd_debugger_data_block is not None:
        block = reader.try_read_exact(dump.kd_debugger_data_block, 0x20)
        if block is not None and block[0x10:0x14] == b"KDBG":
            yield int.from_bytes(block[0x18:0x20], "little") & (1 << 8 * width) - 1, "kdbg"
    if dump.ps_loaded_module_list is not None:
        # KLDR_DATA_TABLE_ENTRY.DllBase is at 0x30 (0x18 with 32 bits) on all builds.
        entry = _pointer(reader, dump.ps_loaded_module_list)
        base = _pointer(reader, entry + (0x30 if width == 8 else 0x18)) if entry else None
        if base:
            yield base, "module list"
    for anchor in (dump.ps_active_process_head, dump.ps_loaded_module_list, dump.kd_debugger_data_block):
        if anchor is not None:
            yield from _below(reader, anchor, max_back)


def _pointer(reader: "Reader", va: int) -> int | None:
    try:
        return reader.read_ptr(va)
    except (KdmpError, OverflowError):
        return None


def _below(reader: "Reader", anchor: int, max_back: int) -> Iterator[tuple[int, str]]:
    page = anchor & ~0xFFF
    try:
        mapped = list(reader.mappings(max(page - max_back, 0), page | 0xFFF))
    except (KdmpError, ValueError):
        return
    for entry in reversed(mapped):
        if entry.state not in ("valid", "transition"):
            continue
        for va in range(min(entry.start + entry.size - 0x1000, page), entry.start - 1, -0x1000):
            if reader.try_read_exact(va, 2) == b"MZ":
                yield va, "scan"
