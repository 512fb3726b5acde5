"""Small machines for the tests of the page-table monitor: tables that are written through an overlay.

    world = World("x64")
    world.map(VA, 0x40_0000)
    world.open()
    world.monitor.monitor(VA, world.root)
    world.write(VA, level=1, value=0)

SPDX-License-Identifier: MIT
"""

from archtables import ArchTables, dump
from dumpbuilder import A, D, Memory, P, U, W

import kdmp
from kdmp._kdmp import OverlayBase
from kdmp.monitor import PageIn, PageOut, PageTableMonitor

ROOT, SPARE = 0x1000, 0x10
FLAGS = P | W | U
LEAF = FLAGS | A | D
PS = 0x80
VA, PAGE_A, PAGE_B = 0x7FF6_1234_5000, 0x40_0000, 0x41_0000
OTHER_PML4 = 0x0000_1234_5678_9000
SAME_PT, SAME_PD, SAME_PDPT = VA + 0x1000, VA + 0x20_0000, VA + 0x4000_0000


class World:
    """Memory with tables, later a dump, an overlay on it and a monitor."""

    def __init__(self, paging="x64", root=ROOT):
        self.memory, self.paging, self.root = Memory(), paging, root
        self.tables = ArchTables(self.memory, paging, root=root, spare=SPARE)
        self.size = self.tables.mode.entry

    def map(self, va, pa, level=1, flags=None, tables=None):
        (tables or self.tables).map(va, pa, level, flags)

    def another(self, root):
        """Tables of another root, in the same memory."""
        return ArchTables(self.memory, self.paging, root=root, spare=self.tables.spare + 0x100)

    def image(self):
        return dump(self.memory.pages, self.paging, self.root)

    def open(self):
        self.dump = kdmp.Dump(self.image())
        self.overlay = OverlayBase(self.dump)
        self.phys = kdmp.Reader(self.dump, paging="physical", overlay=self.overlay)
        self.monitor = PageTableMonitor(self.overlay)
        return self

    def reader(self, root=None, overlay=None):
        return kdmp.Reader(
            self.dump, paging=self.paging, dtb=root or self.root, overlay=overlay or self.overlay
        )

    def where(self, va, level=1, root=None):
        """The entry's physical address, by the overlay's tables now."""
        table = root or self.root
        for upper in range(len(self.tables.mode.shifts), level, -1):
            table = self.load(self.tables._where(table, va, upper)) & 0x000F_FFFF_FFFF_F000
        return self.tables._where(table, va, level)

    def load(self, pa):
        return self.phys.read_uint(pa, self.size)

    def store(self, pa, value):
        self.phys.write_uint(pa, value, self.size)

    def write(self, va, value, level=1, root=None):
        """Write the entry of `va`; return where it is."""
        pa = self.where(va, level, root)
        self.store(pa, value)
        return pa

    def watch(self, va, root=None, **more):
        return self.monitor.monitor(va, root or self.root, paging=self.paging, **more)

    def unwatch(self, va, root=None, **more):
        return self.monitor.unmonitor(va, root or self.root, paging=self.paging, **more)

    def figures(self):
        return self.monitor.tables, self.monitor.entries, self.monitor.paged_in

    def events(self, writer=None):
        """What process() returns, short: ("out"/"in", va, pa, level)."""
        return [brief(event) for event in self.monitor.process(writer)]


def brief(event):
    kind = {PageIn: "in", PageOut: "out"}[type(event)]
    return kind, event.va, event.pa, event.level


def one_page():
    """One mapped page at VA, frames for tables to come, and a second root."""
    world = World()
    world.map(VA, PAGE_A)
    for pfn in range(0x300, 0x310):
        world.memory.page(pfn)
    return world


def opened(world, *more):
    """Open it with VA and these addresses monitored."""
    for k, va in enumerate(more):
        world.map(va, PAGE_B + 0x1000 * k)
    world.open()
    for va in (VA, *more):
        assert world.watch(va).paged_in
    return world


def copy_table(world, va, level, to, root=None):
    """Copy the table that the entry of `va` at `level` leads to, to a frame; return an entry for it."""
    table = world.load(world.where(va, level, root)) & ~0xFFF
    world.phys.write(to << 12, world.phys.read(table, 0x1000))
    return to << 12 | FLAGS


class Failing(Exception):
    pass


class Breakable:
    """A source that fails when told to; P11, and the protocol."""

    def __init__(self, phys):
        self.phys, self.after = phys, None

    def read_u64(self, pa):
        if self.after is not None:
            self.after -= 1
            if self.after < 0:
                raise Failing
        return self.phys.read_u64(pa)
