"""Change what is at virtual addresses of a 64-bit dump, in a copy of its file.

    patch = Patched(path)
    patch.put(va, bytes(8))
    patch.unmap(other)
    with patch.open() as dump: ...

SPDX-License-Identifier: MIT
"""

import bisect
import functools
import struct
from pathlib import Path

import shareddata

import kdmp

# File offsets of header fields, 64-bit.
HEADER = {
    "build": 0x0C,
    "dtb": 0x10,
    "ps_loaded_module_list": 0x20,
    "ps_active_process_head": 0x28,
    "kd_debugger_data_block": 0x80,
    "context": 0x348,
}
ABSENT = b"PAGEPAGE"  # what writers leave in a field that they do not fill
RIP, RSP = 0xF8, 0x98  # of CONTEXT


@functools.cache
def original(path):
    """The dump at a path, its bytes, and its runs (first frame, count, file offset)."""
    dump = kdmp.open(path)
    return dump, Path(path).read_bytes(), [(run.pfn, run.count, run.file_offset) for run in dump.pages.runs()]


def patched(machine, kind, patches):
    """A machine's dump with `patches` applied: virtual address -> bytes, or a number of 8 bytes."""
    patch = Patched(shareddata.machine_dump(machine, kind))
    for va, new in patches.items():
        patch.put(va, new.to_bytes(8, "little") if isinstance(new, int) else new)
    return patch.open()


def without_pages(machine, kind, *addresses):
    """A machine's dump with the pages at some kernel addresses gone."""
    patch = Patched(shareddata.machine_dump(machine, kind))
    for va in addresses:
        patch.unmap(va)
    return patch.open()


class Patched:
    """A copy of a dump's file and the way to its bytes."""

    def __init__(self, path):
        self.original, image, self._runs = original(path)
        self.image = bytearray(image)
        self._firsts = [run[0] for run in self._runs]
        self._reader = self.original.reader()

    @property
    def kernel(self):
        return self.original.kernel

    def file_offset(self, pa):
        """Where a physical address is in the file."""
        pfn, offset = divmod(pa, 0x1000)
        first, count, start = self._runs[bisect.bisect_right(self._firsts, pfn) - 1]
        assert first <= pfn < first + count, hex(pa)
        return start + (pfn - first) * 0x1000 + offset

    def file_offset_of(self, va):
        """Where a virtual address is in the file."""
        return self.file_offset(self._reader.translate(va).pa)

    def put(self, va, data):
        """Write bytes at a virtual address."""
        while data:
            room = 0x1000 - va % 0x1000
            at = self.file_offset_of(va)
            part = data[:room]
            self.image[at : at + len(part)] = part
            va, data = va + len(part), data[len(part) :]

    def put_u64(self, va, value):
        self.put(va, struct.pack("<Q", value))

    def u64(self, va):
        return self._reader.read_u64(va)

    def read(self, va, size):
        """Bytes as they were."""
        return self._reader.read_exact(va, size)

    def unmap(self, va):
        """Make the page at a virtual address not present."""
        if self._reader.try_translate(va) is None:
            return
        entry = self._reader.translate(va).entries[-1]
        at = self.file_offset(entry.pa)
        self.image[at : at + 8] = bytes(8)

    def header(self, field, value, offset=0):
        """Overwrite a header field: an int of 64 bits (the build: 32), or bytes."""
        data = value if isinstance(value, bytes) else struct.pack("<I" if field == "build" else "<Q", value)
        at = HEADER[field] + offset
        self.image[at : at + len(data)] = data

    def open(self):
        """The changed dump."""
        return kdmp.open(bytes(self.image))
