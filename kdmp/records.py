"""Enumerations of dump facts that several modules share.

SPDX-License-Identifier: MIT
"""

from enum import IntEnum, IntFlag


class DumpKind(IntEnum):
    """What the DumpType field of a dump header says; the values are the header's own.

    Source: the public `mindumpdef.h` enumeration (1 to 7) and WinDbg's newer writers (8 to 10).
    """

    FULL = 1
    SUMMARY = 2
    HEADER = 3
    TRIAGE = 4
    BITMAP_FULL = 5
    BITMAP_KERNEL = 6
    AUTOMATIC = 7
    KERNEL_RANGES = 8
    KERNEL_USER_RANGES = 9
    COMPLETE_RANGES = 10


class DumpAttributes(IntFlag):
    """Bits of the header's Attributes field (0x1050 in 64-bit headers), which newer writers fill."""

    HIBER_CRASH = 1
    DUMP_DEVICE_POWER_OFF = 2
    INSUFFICIENT_DUMPFILE_SIZE = 4
    KERNEL_GENERATED_TRIAGE = 8
    LIVE = 0x10
    GENERATED_OFFLINE = 0x20
    FILTER_DUMP_FILE = 0x40
    EARLY_BOOT_CRASH = 0x80
    ENCRYPTED = 0x100
    DECRYPTED = 0x200
