"""What the tests of the command line run it on, and how they read its text.

SPDX-License-Identifier: MIT
"""

import re
import struct

from dumpbuilder import BITMAP, MB2, NX, A, D, Memory, P, Tables, U, W

VA = 0x7FF0_0000_5000
GAP = 0x7FF0_0000_6000  # mapped, but the frame was not captured
NOTHING = 0x7FF0_0000_7000  # a page-table entry of 0
LARGE = 0x7FF0_4000_0000


def small_dump():
    """A dump of a few pages: text at VA, then a frame that is missing, then nothing."""
    memory = Memory()
    tables = Tables(memory)
    tables.map(VA, 0xA000, flags=P | W | U | A | D | NX)
    tables.map(GAP, 0xBBB000, flags=P | W | U | A)
    tables.map(LARGE, 0x40_0000, MB2, flags=P | A)
    memory.put(0xA000, b"kernel dump")
    memory.put(0xAFF8, struct.pack("<Q", 0x1122334455667788))
    memory.put(0x40_0000, b"large")
    return memory.dump(BITMAP)


def fields(text):
    """The label and value lines of a fact list as a dict."""
    pairs = (re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in text.splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
