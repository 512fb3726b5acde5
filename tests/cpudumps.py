"""Dumps of the synthetic machines with changed processors, and one layout of each set.

SPDX-License-Identifier: MIT
"""

from functools import cache

import shareddata

import kdmp
from kdmp.symbols import layouts

HEADER_CONTEXT, HEADER_PROCESSORS = 0x348, 0x34
RSP, RIP = 0x98, 0xF8  # in CONTEXT


@cache
def bundled():
    """One layout of each set."""
    found = {}
    for build in layouts.known_builds():
        if build.layout_set not in found:
            found[build.layout_set] = layouts.bundled().layout(build)
    return tuple(found.values())


def agree(cpu, truth):
    """One processor against the truth."""
    assert (cpu.number, cpu.kprcb, cpu.kpcr, cpu.address) == (
        truth["cpu"], truth["kprcb"], truth["kpcr"], truth["kprcb"],
    )  # fmt: skip
    assert (cpu.current_thread, cpu.idle_thread) == (truth["current_thread"], truth["idle_thread"])
    assert {name: cpu.context[name] for name in truth["registers"]} == truth["registers"]
    assert {name: cpu.special[name] for name in truth["specials"]} == truth["specials"]
    assert (cpu.cr3, cpu.tss, cpu.kpcr_agrees) == (truth["specials"]["Cr3"], truth["tss"], True)
    assert cpu.next_thread is None


class Image:
    """The bytes of a machine's dump, to be changed at virtual addresses."""

    def __init__(self, name, kind="kernel"):
        self.truth = shareddata.truth(name)
        self.cpus = self.truth["cpus"]
        path = shareddata.machine_dump(name, kind)
        self.data = bytearray(path.read_bytes())
        self.clean = kdmp.open(path)
        self.layout = self.clean.windows.layout
        self.runs = list(self.clean.pages.runs())

    def offset(self, va):
        translation = self.clean.reader().translate(va)
        for run in self.runs:
            if run.pfn <= translation.pfn < run.pfn + run.count:
                return run.file_offset + (translation.pfn - run.pfn) * 0x1000 + translation.pa % 0x1000
        raise AssertionError(f"{va:#x} is not in the dump")

    def put(self, va, value, size=8):
        at = self.offset(va)
        self.data[at : at + size] = value.to_bytes(size, "little")

    def header(self, offset, value, size=8):
        self.data[offset : offset + size] = value.to_bytes(size, "little")

    def prcb(self, number, path):
        """VA of a member of a KPRCB."""
        return self.cpus[number]["kprcb"] + self.layout.offset("_KPRCB", path)

    @property
    def block(self):
        return self.truth["symbols"]["KiProcessorBlock"]

    def open(self):
        return kdmp.open(bytes(self.data)).windows.cpus
