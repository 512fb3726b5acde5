"""Reader.extents(): what can be read, in pieces, against single reads and translations.

SPDX-License-Identifier: MIT
"""

import io
import itertools
import random
import struct
import threading
import time
from functools import cache

import pytest
import shareddata
from archtables import MODES, ArchTables, flat
from archtables import dump as arch_dump
from conftest import KERNEL_VA
from dumpbuilder import (
    ALL_KINDS,
    FULL,
    L1TF,
    LARGE,
    MB2,
    PAGE,
    PROTOTYPE,
    TRANSITION,
    Memory,
    P,
    Tables,
    U,
    W,
    bitmap_dump,
    build,
    runs_dump,
    stamp,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from meddling import Meddling
from test_core_cffi import Core
from test_mappings import Sparse
from test_triage import triage

import kdmp
from kdmp._kdmp import ReaderBase

LAST = {"x86": 2**32 - 1, "pae": 2**32 - 1}
VAD = PROTOTYPE | 0xFFFF_FFFF << 32


def whole_runs(dump):
    """{frame: file offset} of a small dump."""
    return {run.pfn + k: run.file_offset + k * PAGE for run in dump.pages.runs() for k in range(run.count)}


def in_file(overlay, runs, pfn):
    """Where the content of an overlay's frame is in the file, None if it is not."""
    changed = {one[0]: one for one in overlay.frames()}
    if pfn not in changed:
        return runs.get(pfn)
    target = changed[pfn][1]  # None: a page of its own
    return None if target is None or changed.get(target, (0, 0))[1] is None else runs.get(target)


def page_by_page(reader, starts):
    """What reads of single pages say: [(address, pa or None, offset or None)] of those that can be read."""
    runs = whole_runs(reader.dump)
    out = []
    for start in sorted(starts):
        data = reader.read(start, PAGE)
        assert len(data) in (0, PAGE), hex(start)
        if not data:
            continue
        found = start if reader.paging == "physical" else getattr(reader.try_translate(start), "pa", None)
        offset = runs.get(found // PAGE) if found is not None else None
        if found is not None and reader.overlay is not None:
            offset = in_file(reader.overlay, runs, found // PAGE)
        out.append((start, found, offset))
    return out


def merged(pages, size=PAGE):
    """Pages that follow each other in every respect, as one: [[address, pa, offset, size]]."""
    out = []
    for start, pa, offset in pages:
        if out:
            last = out[-1]
            follows = [
                (a + last[3] if a is not None else None) == b
                for a, b in zip(last[:3], (start, pa, offset), strict=True)
            ]
            if all(follows) and (offset is not None or pa is None):  # an overlay's frames stay apart
                last[3] += size
                continue
        out.append([start, pa, offset, size])
    return [tuple(one) for one in out]


def pages_of(extents):
    """The pages that extents are made of."""
    return {start for one in extents for start in range(one.address, one.address + one.size, PAGE)}


def check(reader, starts=()):
    """extents() is what `page_by_page` says of `starts`, and has no other page; returns the extents."""
    extents = list(reader.extents())
    candidates = set(starts) | pages_of(extents)
    assert [tuple(one) for one in extents] == merged(page_by_page(reader, candidates))
    return extents


def clip(extents, first, last):
    for one in extents:
        start, end = max(one.address, first), min(one.address + one.size - 1, last)
        if start <= end:
            skip = start - one.address
            yield start, *(None if x is None else x + skip for x in (one.pa, one.offset)), end - start + 1


def check_bounds(reader, extents, rng, rounds=30):
    """Any part of a space is that part of the whole."""
    last = LAST.get(reader.paging, 2**64 - 1)
    edges = [0, last]
    for one in rng.sample(extents, min(len(extents), 30)):
        edges += [one.address + d for d in (-1, 0, 1, one.size // 2, one.size - 1, one.size, one.size + 1)]
    edges = [edge for edge in edges if 0 <= edge <= last]
    for _ in range(rounds):
        first, end = sorted(rng.choice(edges) for _ in range(2))
        got = [tuple(one) for one in reader.extents(first, end)]
        assert got == list(clip(extents, first, end)), (hex(first), hex(end))


# ---- virtual ----


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("paging", MODES)
def test_random_tables(paging, seed):
    """Everything that a page table can say, in every mode; large pages, too."""
    space = Sparse(paging, seed)
    rng = random.Random(seed)
    frames = {*space.memory.pages, 0x700, *rng.sample(range(1 << 19), 50)}
    pages = {pfn: space.memory.pages.get(pfn, bytes(PAGE)) for pfn in sorted(frames)}
    kind = rng.choice((5, 6))
    reader = kdmp.open(arch_dump(pages, paging, space.root, kind=kind)).reader(
        paging=paging, dtb=space.root, invalid_pte_mask=0, zero_fill=bool(seed % 2)
    )
    starts = set()
    for one in reader.mappings():
        if one.state == "table":
            continue
        starts |= set(range(one.start, one.start + min(one.size, MB2), PAGE))
        for frame in frames if one.pa is not None else ():  # where large pages have their frames
            for page in range(0, one.size, one.page_size) if one.size < 64 * one.page_size else (0,):
                base = reader.try_translate(one.start + page)
                if base is not None and 0 <= frame * PAGE - base.pa < one.page_size:
                    starts.add(one.start + page + frame * PAGE - base.pa)
    extents = check(reader, starts)
    assert extents or (paging, seed) == ("pae", 2)
    check_bounds(reader, extents, rng)


def dense(paging, rng):
    """Full page tables: frames in a row, in disorder, twice, missing; entries of every kind between them.

    The dump's image, its memory, the root, and the first address and count of the pages."""
    mode = MODES[paging]
    memory = Memory()
    tables = ArchTables(memory, paging, root=0x1020 if paging == "pae" else 0x1000)
    start = 0x8000_0000 if mode.machine == 0x14C else 2**64 - (1 << mode.shifts[-1] + 8)
    frames = [pfn for pfn in range(0x100, 0x300) if pfn % 50 > 5]
    memory.fill(*frames)
    count, page = 3 * PAGE // mode.entry, 0
    soft = 4 << (1 if paging == "arm64" else 5)
    while page < count:
        frame = rng.choice(frames) if rng.random() < 0.8 else 0x10000
        entry = rng.choice((mode.page, mode.page, mode.page, 0, soft, soft | TRANSITION, PROTOTYPE))
        for k in range(rng.choice((1, 2, 8, 60))):
            if page < count:
                has_frame = entry & 1 or entry & TRANSITION
                tables.raw(start + page * PAGE, entry | (frame + k) * PAGE if has_frame else entry)
            page += 1
    return arch_dump(memory.pages, paging, tables.root, kind=5), memory, tables.root, start, count


@pytest.mark.parametrize("paging", MODES)
def test_dense_tables(paging):
    """Frames in a row, in disorder, twice, missing; entries of every kind between them."""
    rng = random.Random(paging)
    image, memory, root, start, count = dense(paging, rng)
    reader = kdmp.open(image).reader(paging=paging, dtb=root, invalid_pte_mask=0)
    extents = check(reader, range(start, start + count * PAGE, PAGE))
    assert len(extents) > 20
    assert any(one.size > 5 * PAGE for one in extents)
    check_bounds(reader, extents, rng)
    for one in extents[:20]:
        for address in range(one.address, one.address + one.size, PAGE):
            frame = (one.pa + address - one.address) // PAGE
            assert reader.read(address, PAGE) == bytes(memory.pages[frame])


def shared_page(folder, zero_fill=False, views=True):
    """A reader of a space with pages by prototype, VAD, page file and demand-zero; and their addresses."""
    memory = Memory()
    tables = Tables(memory)
    memory.fill(0x70, 0x71, 0x72)
    prototypes, user = KERNEL_VA + 0x10000, 0x7FF0_0000_0000
    tables.map(prototypes, 0x60000)
    memory.put_u64(0x60000, 0x70000 | P | W)
    memory.put_u64(0x60008, 0x71000 | TRANSITION | 4 << 5)
    memory.put_u64(0x60010, 5 << 32 | 0 << 12)  # in page file 0
    memory.put_u64(0x60018, 4 << 5)  # demand zero
    memory.put_u64(0x60020, 0x9_9000 | P)  # not in the dump
    for k in range(6):
        tables.raw(user + k * PAGE, (prototypes + 8 * k) << 16 & (1 << 64) - 1 | PROTOTYPE)
        tables.raw(user + (8 + k) * PAGE, VAD)
    for k, value in enumerate((4 << 5, 6 << 32, 77 << 32, 6 << 32 | 1 << 12, 0x72000 | TRANSITION, 7 << 32)):
        tables.raw(user + (16 + k) * PAGE, value)
    tables.raw(user + 24 * PAGE, 0x9_9000 | TRANSITION)
    tables.raw(user + 25 * PAGE, L1TF)

    class Viewed(ReaderBase):
        asked = 0

        def _load_views(self):
            Viewed.asked += 1
            return struct.pack("<QQQ", user + 8 * PAGE, user + 13 * PAGE, prototypes) if views else b""

    path = folder / "pagefile.sys"
    path.write_bytes(b"".join(stamp(0x1000 + k) for k in range(8)))
    dump = kdmp.Dump(memory.dump(), pagefiles={0: path})
    reader = Viewed(dump, paging="x64", dtb=0x1000, invalid_pte_mask=0, zero_fill=zero_fill)
    return reader, user


@pytest.mark.parametrize("zero_fill", [False, True])
@pytest.mark.parametrize("views", [False, True])
def test_what_reads_make_up(zero_fill, views, tmp_path):
    """Prototype PTEs, views, page files, zeros: the first extents ask for the views, as a read would."""
    reader, user = shared_page(tmp_path, zero_fill, views)
    extents = list(reader.extents())
    assert type(reader).asked == 1
    fresh, _ = shared_page(tmp_path, zero_fill, views)
    starts = [user + k * PAGE for k in range(26)]
    want = merged(page_by_page(fresh, {*starts, KERNEL_VA + 0x10000}))
    assert [tuple(one) for one in extents] == want
    pages = pages_of(extents)
    by_number = {k for k in range(26) if user + k * PAGE in pages}
    made_up = {3, 16} if zero_fill else set()
    assert by_number == {0, 1, 2, 17, 20, 21} | made_up | (
        {8, 9, 10} | ({11} if zero_fill else set()) if views else set()
    )
    assert [tuple(one) for one in reader.extents()] == want
    assert type(reader).asked == 1
    pf = next(one for one in extents if one.address <= user + 2 * PAGE < one.address + one.size)
    assert (pf.pa, pf.offset) == (None, None)


def test_views_that_cannot_be_had():
    """What finding the VADs raises reaches the caller, and they are asked again afterwards."""
    today = [True]

    class Failing(ReaderBase):
        def _load_views(self):
            if today.pop():
                raise RuntimeError("no VADs today")
            return b""

    memory = Memory()
    tables = Tables(memory)
    tables.raw(0x5000, VAD)
    tables.map(0x6000, 0x1000)
    reader = Failing(kdmp.Dump(memory.dump()), paging="x64", dtb=0x1000)
    extents = reader.extents()
    with pytest.raises(RuntimeError, match="today"):
        next(extents)
    today.append(False)
    assert [one.address for one in extents] == [0x6000] and not today
    assert [one.address for one in reader.extents()] == [0x6000]


@pytest.mark.parametrize("machine", shareddata.MACHINES)
@pytest.mark.parametrize("kind", shareddata.KINDS)
def test_machines(machine, kind):
    """The kernel's space of every machine, and its physical memory."""
    with kdmp.open(shareddata.machine_dump(machine, kind)) as dump:
        check(dump.phys, (pfn * PAGE for pfn in dump.pages))
        reader = dump.reader()
        starts = set()
        for one in reader.mappings():
            if one.state != "table":
                starts |= set(range(one.start, one.start + min(one.size, 4 * MB2), PAGE))
        extents = check(reader, itertools.islice(sorted(starts), 20000))
        check_bounds(reader, extents, random.Random(kind), 10)


def test_process_spaces():
    """User spaces, whose shared pages need prototype PTEs and VADs."""
    from spaces import processes_of

    machine = "win10-19041"
    with kdmp.open(shareddata.machine_dump(machine, "full")) as dump:
        for process, _ in processes_of(dump, shareddata.truth(machine))[:6]:
            reader = process.reader
            starts = set()
            for one in reader.mappings(half="user"):
                if one.state != "table":
                    starts |= set(range(one.start, one.start + min(one.size, MB2), PAGE))
            extents = list(reader.extents(0, 2**47 - 1))
            got = [tuple(one) for one in extents]
            assert got == merged(page_by_page(reader, starts | pages_of(extents)))


def test_large_pages():
    memory = Memory()
    tables = Tables(memory)
    memory.fill(*range(0x200, 0x210), 0x220, 0x3FF, 0x400)
    tables.map(MB2, MB2, size=MB2)
    tables.map(2 * MB2, 2 * MB2, size=MB2)
    tables.raw(4 * MB2, 3 * MB2 | P | LARGE | 1 << 12, level=2)  # with the PAT bit: nothing is there
    for kind in (1, 5, 9):
        reader = kdmp.open(memory.dump(kind=kind)).reader()
        extents = check(reader, range(MB2, 3 * MB2, PAGE))
        want = [(MB2, 16 * PAGE), (MB2 + 0x20000, PAGE), (MB2 + 0x1FF000, 2 * PAGE)]
        if kind != 1:  # in a full dump of runs these are two
            assert [(one.address, one.size) for one in extents] == want
        check_bounds(reader, extents, random.Random(kind))


def test_the_ends_of_a_space():
    memory = Memory()
    tables = Tables(memory)
    for va in (0, 2**47 - PAGE, 2**64 - 2**47, 2**64 - PAGE):
        tables.map(va, 0x1000)
    reader = kdmp.open(memory.dump()).reader(paging="x64")
    starts = [0, 2**47 - PAGE, 2**64 - 2**47, 2**64 - PAGE]
    assert [one.address for one in reader.extents()] == starts
    assert [one.address for one in reader.extents(2**47, 2**63)] == []
    assert [one.address for one in reader.extents(2**47)] == starts[2:]
    assert [one.address for one in reader.extents(0, 2**50)] == starts[:2]
    assert [tuple(one) for one in reader.extents(2**64 - 1)] == [(2**64 - 1, 0x1FFF, 0x2FFF, 1)]
    assert [tuple(one) for one in reader.extents(5, 5)] == [(5, 0x1005, 0x2005, 1)]


# ---- physical, triage ----


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_physical(kind):
    rng = random.Random(kind)
    frames = {pfn + k for pfn in rng.sample(range(3, 3000), 40) for k in range(rng.choice((1, 2, 20)))}
    reader = kdmp.open(build(kind, {pfn: stamp(pfn) for pfn in frames})).phys
    extents = check(reader, {(pfn + d) * PAGE for pfn in frames for d in (-1, 0, 1)})
    check_bounds(reader, extents, rng)


def test_runs_that_touch_and_truncated_ones():
    image = runs_dump([(0x10, 3), (0x13, 2), (0x100, 4), (0x12, 9)])
    reader = kdmp.open(image).phys
    assert next(tuple(one) for one in reader.extents()) == (0x10000, 0x10000, 0x2000, 5 * PAGE)
    check(reader, range(0x10000, 0x200000, PAGE))
    short = kdmp.open(image[: 0x2000 + 7 * PAGE + 5])
    assert short.truncated
    extents = check(short.phys, range(0x10000, 0x200000, PAGE))
    assert sum(one.size for one in extents) == 7 * PAGE
    odd = kdmp.open(bitmap_dump(13, [1, 2, 12])).phys
    assert sum(one.size for one in check(odd, range(0, 16 * PAGE, PAGE))) == 3 * PAGE
    headers = kdmp.open(build(FULL, {1: bytes(PAGE)})[:0x2000])
    assert list(headers.phys.extents()) == []


def test_triage():
    """Ranges of any size, that touch or overlap, at the end of the space."""
    blocks = [(0x1000, b"abc"), (0x1003, b"defg"), (0x1005, b"XXXX"), (0x2000, b"z"), (2**64 - 8, b"last")]
    dump = kdmp.open(triage(data_blocks=blocks))
    reader = dump.reader()
    extents = list(reader.extents())
    memory = {}
    for address, data in blocks:
        for k, byte in enumerate(data):
            memory.setdefault(address + k, byte)
    image = triage(data_blocks=blocks)
    got = {}
    for one in extents:
        assert one.pa is None
        for k in range(one.size):
            assert one.address + k not in got
            got[one.address + k] = image[one.offset + k]
    assert got == memory
    for one in extents:
        assert reader.read(one.address, one.size) == image[one.offset : one.offset + one.size]
    for a, b in itertools.pairwise(extents):
        assert (a.address + a.size, a.offset + a.size) != (b.address, b.offset)
        assert a.address + a.size <= b.address
    for first, last in ((0x1001, 0x1004), (0x1002, 2**64 - 2), (0x3000, 2**64 - 9), (2**64 - 1, 2**64 - 1)):
        assert [tuple(one) for one in reader.extents(first, last)] == list(clip(extents, first, last))


def test_real_triage_dumps():
    for facts in shareddata.triage_index()[:4]:
        path = shareddata.unpack("triage", facts["file"])
        data = path.read_bytes()
        with kdmp.open(path) as dump:
            reader = dump.reader()
            readable = set()
            for one in dump.ranges:
                readable |= set(range(one.address, one.address + len(reader.read(one.address, one.size))))
            for one in reader.extents():
                assert data[one.offset :][: one.size] == reader.read_exact(one.address, one.size)
                assert readable >= set(range(one.address, one.address + one.size))
                readable -= set(range(one.address, one.address + one.size))
            assert not readable


# ---- other sources ----


@given(st.data())
@settings(max_examples=30)
def test_overlays(data):
    """Written, made up, remapped and taken back frames, in a physical and in a virtual space."""
    memory = Memory()
    tables = Tables(memory)
    frames = [0x20, 0x21, 0x22, 0x30, 0x31, 0x40]
    memory.fill(*frames)
    for k, pfn in enumerate([*frames, 0x50, 0x51, 0x21, 0x22]):
        tables.map(KERNEL_VA + k * PAGE, pfn * PAGE)
    dump = kdmp.Dump(io.BytesIO(memory.dump()) if data.draw(st.booleans()) else memory.dump())
    overlay = dump.overlay()
    phys, reader = overlay.phys, overlay.reader(0x1000, "x64")
    everywhere = [pfn * PAGE for pfn in range(0x60)]
    virtual = [KERNEL_VA + k * PAGE for k in range(12)]
    check(phys, everywhere)
    for _ in range(data.draw(st.integers(1, 6))):
        change = data.draw(st.sampled_from(("write", "create", "remap", "revert", "unmap", "tables")))
        pfn, other = (data.draw(st.sampled_from((*frames, 0x50, 0x51, 0x52))) for _ in range(2))
        try:
            if change == "write":
                phys.write(pfn * PAGE + 5, b"changed")
            elif change == "create":
                overlay.create(pfn)
            elif change == "remap":
                overlay.remap(pfn, other)
            elif change == "revert":
                overlay.revert(pfn)
            elif change == "unmap":
                overlay.unmap(pfn)
            else:  # an entry of the lowest table goes, or leads elsewhere
                phys.write_u64(0x4000 + 8 * data.draw(st.integers(0, 11)), other * PAGE | P)
        except (kdmp.KdmpError, ValueError):
            continue
        check(phys, everywhere)
        check(reader, virtual)


def test_unmapped_files_and_raw_images(tmp_path):
    space = Sparse("x64", 2)
    path = tmp_path / "x64.dmp"
    image = arch_dump(space.memory.pages, "x64", space.root)
    path.write_bytes(image)
    want = [tuple(one) for one in kdmp.open(image).reader(paging="x64", invalid_pte_mask=0).extents()]
    assert want
    for source, options in ((path, {"io": "read"}), (path, {"io": "map"}), (io.BytesIO(image), {})):
        with kdmp.open(source, **options) as opened:
            reader = opened.reader(paging="x64", invalid_pte_mask=0)
            assert [tuple(one) for one in reader.extents()] == want
            check(opened.phys, (pfn * PAGE for pfn in range(0x20)))
    with kdmp.open_raw(flat(space.memory), arch="x64", dtb=space.root) as raw:
        check(raw.reader(paging="x64", invalid_pte_mask=0))
        check(raw.phys, (pfn * PAGE for pfn in range(0x20)))


def test_a_file_that_cannot_be_read_is_an_error():
    class Failing(io.BytesIO):
        broken = False

        def read(self, *args):
            if self.broken:
                raise OSError(5, "the disk is gone")
            return super().read(*args)

    memory = Memory()
    tables = Tables(memory)
    tables.map(0x5000, 0x1000)
    tables.map(0x9000, 0x1000)
    source = Failing(memory.dump())
    with kdmp.open(source) as opened:
        reader = opened.reader()
        extents = reader.extents()
        source.broken = True
        with pytest.raises(OSError):
            next(extents)
        source.broken = False
        assert [one.address for one in extents] == [0x5000, 0x9000]  # it goes on where it was


@pytest.mark.compiles
def test_a_source_that_gives_little_at_a_time(core):
    """What a source describes in small pieces is one stretch all the same, if it is in one piece."""
    ffi, lib = core.ffi, core.lib
    memory = Memory()
    tables = Tables(memory)
    memory.fill(0x20, 0x21)
    for va in (0x5000, 0x6000, 0x1FF000):
        tables.map(va, (va % 2 + 0x1B) * PAGE + va if va < 0x10000 else 0xA000)

    @ffi.def_extern(name="test_locate")
    def locate(source, paddr, want, out):
        return below.locate(below, paddr, min(want, 0x100 - paddr % 0x100), out)

    @ffi.def_extern(name="test_next_run")
    def next_run(source, pfn, out):
        return below.next_run(below, pfn, out)

    def extents(space, room):
        cursor = ffi.new("struct kdmp_extent_cursor *", {"last": 2**64 - 1, "tables_left": 100})
        stretches, count = ffi.new("struct kdmp_stretch[]", room), ffi.new("size_t *")
        out = []
        while not cursor.done or cursor.has_pending:
            assert lib.kdmp_next_extents(space, cursor, stretches, room, count) == lib.KDMP_OK
            out += [(s.address, s.length, s.paddr, s.file_offset) for s in stretches[0 : count[0]]]
        return out

    with Core(core, memory.dump(kind=5)) as c:
        below = lib.kdmp_get_source(c.dump)
        for paging in ("KDMP_PAGING_X64", "KDMP_PAGING_PHYSICAL"):
            space = c.space(paging)
            whole = extents(space, 16)
            small = ffi.new(
                "struct kdmp_source *", {"locate": lib.test_locate, "next_run": lib.test_next_run}
            )
            space.source = small
            assert extents(space, 1) == extents(space, 7) == whole
            assert whole
            nothing, count = ffi.new("struct kdmp_extent_cursor *"), ffi.new("size_t *")
            assert lib.kdmp_next_extents(space, nothing, ffi.NULL, 0, count) == lib.KDMP_E_ARGUMENT
            with_bounds = ffi.new("struct kdmp_extent_cursor *", {"next": 2**63, "last": 5})
            out = ffi.new("struct kdmp_stretch[]", 1)
            assert lib.kdmp_next_extents(space, with_bounds, out, 1, count) == lib.KDMP_OK
            assert (with_bounds.done, count[0]) == (1, 0)


# ---- the iterator ----


def test_records():
    memory = Memory()
    Tables(memory).map(0x5000, 0x1000)
    one = next(kdmp.open(memory.dump()).reader().extents())
    assert one == (0x5000, 0x1000, 0x2000, 0x1000)
    assert repr(one) == "Extent(address=0x5000, pa=0x1000, offset=0x2000, size=0x1000)"
    assert type(one).__module__ == "kdmp"


@cache
def many_extents():
    """A reader with extents of every kind, frames of an overlay among them, and what they are."""
    space = Sparse("x64", 3)
    pages = {pfn: space.memory.pages.get(pfn, bytes(PAGE)) for pfn in (*space.memory.pages, 0x700, 0x701)}
    dump = kdmp.open(arch_dump(pages, "x64", space.root))
    overlay = dump.overlay()
    reader = dump.reader(view=overlay, dtb=space.root, invalid_pte_mask=0, zero_fill=True)
    for one in list(reader.extents())[::5]:
        if one.pa is not None:
            reader.write(one.address, b"new")
    whole = list(reader.extents())
    assert len(whole) > 20 and {one.offset is None for one in whole} == {True, False}
    return reader, whole


@given(st.lists(st.one_of(st.integers(1, 9000), st.none()), max_size=30), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_bytes_left_out(steps, chance):
    """An iterator of which parts are skipped gives the rest of what another gives, and says where it is."""
    reader, whole = many_extents()
    extents = reader.extents()
    left = [list(one) for one in whole]
    for step in steps:
        if step is None:
            want = tuple(left.pop(0)) if left else None
            got = next(extents, None)
            assert (None if got is None else tuple(got)) == want
            continue
        size = step * chance.choice((1, 1, 50))
        last = None
        missing = size
        while left and missing:
            address, pa, offset, length = left[0]
            part = min(length, missing)
            missing -= part
            last = address + part - 1
            if part == length:
                left.pop(0)
                continue
            left[0] = [
                address + part,
                None if pa is None else pa + part,
                None if offset is None else offset + part,
                length - part,
            ]
        assert extents.skip(size) == (None if missing else last)
    assert [tuple(one) for one in extents] == [tuple(one) for one in left]
    assert extents.skip(1) is None


def test_nothing_is_left_out_by_wrong_sizes(small_image):
    with kdmp.open_raw(small_image) as dump:
        extents = dump.phys.extents()
        for size in (0, -1, 1 << 64):
            with pytest.raises((ValueError, OverflowError)):
                extents.skip(size)
        with pytest.raises(TypeError):
            extents.skip("1")
        assert extents.skip((1 << 64) - 1) is None
        assert list(extents) == []


def test_bounds_that_make_no_sense(small_image):
    dump = kdmp.open(small_image)
    reader = dump.reader(paging="x86", dtb=0x1000)
    for bounds in ((5, 4), (0, 2**32), (2**32, None)):
        with pytest.raises(ValueError):
            reader.extents(*bounds)
    for bounds in (("text",), (0, 1.5)):
        with pytest.raises(TypeError):
            reader.extents(*bounds)
    for bounds in ((-1,), (0, 2**64)):
        with pytest.raises(OverflowError):
            reader.extents(*bounds)
    iterator = dump.phys.extents()
    dump.close()
    for call in (lambda: next(iterator), lambda: iterator.skip(1), dump.phys.extents):
        with pytest.raises(ValueError):
            call()


HOSTILE = {"every entry is the root": 0x1067, "pages that are missing": None}


@pytest.mark.parametrize("name", HOSTILE)
def test_tables_that_point_to_themselves(name, instrumented):
    """A bounded number of tables, then KdmpError; also if all their pages are missing."""
    memory = Memory()
    for index in range(512):
        memory.put_u64(0x1000 + 8 * index, 0x1067)
    if HOSTILE[name] is None:  # the last level are other tables
        for level in (1, 2, 3, 4):
            for index in range(512):
                memory.put_u64(level * PAGE + 8 * index, (level + 1) * PAGE | 0x67 if level < 4 else 0x99067)
    reader = kdmp.open(memory.dump()).reader()
    before = time.perf_counter()
    with pytest.raises(kdmp.KdmpError, match="without an end"):
        for one in reader.extents():
            assert one.size == PAGE
    assert instrumented or time.perf_counter() - before < 4


def test_lazy_and_in_bounded_steps():
    memory = Memory()
    for index in range(512):
        memory.put_u64(0x1000 + 8 * index, 0x1000 | P | (W if index % 2 else U))
    before = time.perf_counter()
    first = list(itertools.islice(kdmp.open(memory.dump()).reader().extents(), 3))
    assert [one.address for one in first] == [0, PAGE, 2 * PAGE]
    assert time.perf_counter() - before < 0.5


def test_threads_share_a_dump_but_not_an_iterator():
    memory = Memory()
    memory.fill(*range(0x100, 0x400, 2))
    tables = Tables(memory)
    for k in range(4000):
        tables.map(k * PAGE, (0x100 + k % 0x300) * PAGE)
    reader = kdmp.open(memory.dump(kind=5)).reader()
    want = [tuple(one) for one in reader.extents()]
    results = []

    def walk():
        results.append([tuple(one) for one in reader.extents()] == want)

    threads = [threading.Thread(target=walk) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 4
    shared, got, errors = reader.extents(), [], []

    def pull():
        while True:
            try:
                got.append(tuple(next(shared)))
            except StopIteration:
                return
            except ValueError as error:
                errors.append(error)

    threads = [threading.Thread(target=pull) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted(want)
    assert all("another thread" in str(error) for error in errors)


def test_an_iterator_is_busy_while_it_reads():
    memory = Memory()
    memory.fill(0x20)
    Tables(memory).map(0x5000, 0x20000)
    source = Meddling(memory.dump())
    with kdmp.open(source) as dump:
        extents = dump.reader().extents()
        source.calls = (lambda: next(extents), lambda: extents.skip(1))
        assert [tuple(one)[:2] for one in extents] == [(0x5000, 0x20000)]
        source.calls = ()
    assert source.refused
