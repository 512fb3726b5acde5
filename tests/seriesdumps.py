"""Later dumps of a synthetic machine: copies of its dump with changes.

SPDX-License-Identifier: MIT
"""

import struct

import patcheddump
import shareddata

SECOND = 10_000_000  # of the unit of FILETIME
# File offsets of the 64-bit header.
SYSTEM_TIME, UPTIME, BOOT_ID, ATTRIBUTES = 0xFA8, 0x1030, 0x1054, 0x1050
KUSER = 0xFFFFF78000000000
MACHINE = "win10-19041"


class Later(patcheddump.Patched):
    """A dump of the machine `seconds` later."""

    def __init__(self, machine=MACHINE, kind="full", seconds=60):
        super().__init__(shareddata.machine_dump(machine, kind))
        self.truth = shareddata.truth(machine)
        self.layout = self.original.windows.layout
        self.move(seconds, seconds)

    def move(self, system_time, uptime):
        """Add seconds to the times in the header."""
        for at, seconds in ((SYSTEM_TIME, system_time), (UPTIME, uptime)):
            (value,) = struct.unpack_from("<Q", self.image, at)
            struct.pack_into("<Q", self.image, at, value + seconds * SECOND)

    def raw(self, at, value, size=8):
        """Overwrite a number in the file."""
        self.image[at : at + size] = value.to_bytes(size, "little")

    def eprocess(self, pid):
        return next(p["eprocess"] for p in self.truth["processes"] if p["pid"] == pid)

    def field(self, type, name, address):
        return address + self.layout.offset(type, name)

    def unlink(self, links):
        """Take an entry out of its list."""
        after, before = self.u64(links), self.u64(links + 8)
        self.put_u64(before, after)
        self.put_u64(after + 8, before)

    def frame(self, va):
        return self._reader.translate(va).pa >> 12


def original(machine=MACHINE, kind="full"):
    """The machine's dump, opened once."""
    return patcheddump.original(shareddata.machine_dump(machine, kind))[0]
