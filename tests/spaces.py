"""Memory by virtual addresses, made by hand, and a `Windows` over it with any structure layout.

    space = Space()
    space.put(0x1000, b"...")
    windows = fake_windows(layout, space)

SPDX-License-Identifier: MIT
"""

import functools
from types import SimpleNamespace

import shareddata

import kdmp
from kdmp.symbols import SymbolError
from kdmp.symbols.layouts import Catalogue, bundled
from kdmp.windows.session import Windows

PAGE = 0x1000


class Space:
    """Sparse memory with the methods of a Reader; pages that nothing was put in are missing."""

    pte_layout = None
    invalid_pte_mask = 0
    dtb = 0x1000

    def __init__(self, paging="x64", frames=range(0x10000)):
        self.pages = {}
        self.paging = paging
        self.reads = 0
        self.owner = SimpleNamespace(pages=frames, phys=self)  # physical and virtual are the same

    def put(self, va, data):
        for k, byte in enumerate(data):
            number, offset = divmod(va + k, PAGE)
            self.pages.setdefault(number, bytearray(PAGE))[offset] = byte

    def put_uint(self, va, value, size=8):
        self.put(va, value.to_bytes(size, "little"))

    def drop(self, va):
        self.pages.pop(va // PAGE, None)

    def read(self, va, size):
        self.reads += 1
        if va < 0 or va + min(size, PAGE) > 1 << 64:
            raise OverflowError("an address beyond 2^64")
        out = b""
        while len(out) < size:
            number, offset = divmod(va + len(out), PAGE)
            if number not in self.pages:
                break
            out += bytes(self.pages[number][offset : offset + size - len(out)])
        return out

    def read_exact(self, va, size):
        data = self.read(va, size)
        if len(data) < size:
            raise kdmp.NotPresentError(f"no page at {va + len(data):#x}")
        return data

    def try_read_exact(self, va, size):
        data = self.read(va, size)
        return data if len(data) == size else None

    def read_uint(self, va, size):
        return int.from_bytes(self.read_exact(va, size), "little")

    def translate(self, va):
        """Every page that is there is valid, every other one has an empty entry."""
        if va // PAGE in self.pages:
            return SimpleNamespace(pa=va)
        error = kdmp.NotPresentError(f"no page at {va:#x}")
        error.state = "zero"
        raise error

    def read_u8(self, va):
        return self.read_uint(va, 1)

    def read_u16(self, va):
        return self.read_uint(va, 2)

    def read_u32(self, va):
        return self.read_uint(va, 4)

    def read_u64(self, va):
        return self.read_uint(va, 8)

    def read_i16(self, va):
        return int.from_bytes(self.read_exact(va, 2), "little", signed=True)

    def read_i32(self, va):
        return int.from_bytes(self.read_exact(va, 4), "little", signed=True)


class _NoSymbols(Windows):
    """A Windows for whose kernel no symbols are known."""

    @property
    def layout(self):
        raise SymbolError("no symbols of this kernel")


def fake_windows(layout, space, *, pointer_size=8, build=19041, arch="x64"):
    """A Windows whose kernel memory is `space`; `layout` may be None."""
    if layout is not None:
        pointer_size, build, arch = layout.pointer_size, layout.build.number, layout.arch
    dump = SimpleNamespace(
        pointer_size=pointer_size, build=build, arch=arch, pte_layout=None, triage=None, kernel=None
    )
    windows = (_NoSymbols if layout is None else Windows)(dump)
    windows.__dict__["reader"] = space
    if layout is not None:
        windows.__dict__["layout"] = layout
    return windows


class FakeProcess:
    """A process with a user side and an _EPROCESS at `address`."""

    def __init__(self, windows, reader, *, address=0xFFFF_8000_0010_0000, peb=0, peb32=0):
        self.windows, self.reader, self.address = windows, reader, address
        self.peb, self.peb32 = peb, peb32
        self.problems = []

    @property
    def object(self):
        return self.windows.object("_EPROCESS", self.address)

    def note(self, what, why, address=None):
        self.problems.append((what, str(why), address))


@functools.cache
def catalogues():
    """The bundled layouts, and the older releases of the shared data if they are there."""
    found = [bundled()]
    folder = shareddata.SHARED / "data" / "nt-layouts"
    if (folder / "layouts-vtypes.json.xz").exists():
        found.append(Catalogue(folder, "-vtypes"))
    return found


def known_layouts(*, one_per_number=True):
    """Layouts of all builds, of each number, architecture and PAE mode one."""
    seen = {}
    for catalogue in catalogues():
        for build in catalogue.known_builds():
            key = (build.number, build.arch, build.pae) if one_per_number else build.index
            if key not in seen:
                seen[key] = catalogue.layout(build)
    return list(seen.values())


def processes_of(dump, truth):
    """The processes that a machine's truth file lists: (Process, facts)."""
    from kdmp.windows.processes import process_at

    return [(process_at(dump.windows, facts["eprocess"]), facts) for facts in truth["processes"]]


def damaged_pids(truth, *kinds):
    """Ids of the processes that such a damage befell."""
    return {one["pid"] for one in truth["damage"] if one["kind"] in kinds and "pid" in one}


def is_missing(reader, problems):
    """Whether one of the problems names an address that indeed cannot be read."""
    return any(p.address is not None and not reader.is_readable(p.address) for p in problems)
