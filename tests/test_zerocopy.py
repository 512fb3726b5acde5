"""Reader.buffer, Reader.buffers and Pages.buffer: memory that is shown where it is, not copied.

SPDX-License-Identifier: MIT
"""

import gc
import io
import pickle
from contextlib import contextmanager

import pytest
from clidumps import KERNEL, STACK, triage32_dump, triage_dump, x86_dump
from conftest import KERNEL_VA, small_machine
from dumpbuilder import (
    ALL_KINDS,
    BITMAP,
    FULL,
    MB2,
    PAGE,
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
from shareddata import machine_dump

import kdmp
from kdmp.buffers import CHUNK, Piece

HOLE = KERNEL_VA + 0x2000
BOTH = stamp(0x20)[:0x100] + b"hello\0"


@pytest.fixture(params=["memory", "map"])
def dump(request, tmp_path):
    image = small_machine().dump()
    if request.param == "map":
        (tmp_path / "small.dmp").write_bytes(image)
    return kdmp.open(image if request.param == "memory" else tmp_path / "small.dmp")


@pytest.fixture
def reader(dump):
    return dump.reader()


@pytest.fixture(params=["read", "stream"])
def unmapped(request, tmp_path):
    image = small_machine().dump()
    (tmp_path / "small.dmp").write_bytes(image)
    source = io.BytesIO(image) if request.param == "stream" else tmp_path / "small.dmp"
    return kdmp.open(source, io="read")


@contextmanager
def opened(*source, **arguments):
    """A dump that views of the test may outlive: it is closed by its end."""
    yield (kdmp.open_raw if len(source) > 1 else kdmp.open)(*source, **arguments)


def address_of(view):
    numpy = pytest.importorskip("numpy")
    return numpy.frombuffer(view, "u1").ctypes.data


# ---- one buffer ----


def test_a_buffer_is_what_reads_read(reader):
    for va, size in ((KERNEL_VA, 0x2000), (KERNEL_VA + 0xFF0, 0x20), (KERNEL_VA + 0x1FFF, 1)):
        view = reader.buffer(va, size)
        assert isinstance(view, memoryview)
        assert (view.nbytes, view.readonly, view.format, view.ndim) == (size, True, "B", 1)
        assert view == reader.read_exact(va, size)
        with pytest.raises(TypeError):
            view[0] = 1


def test_nothing_is_copied(dump, reader):
    whole, view = memoryview(dump), reader.buffer(KERNEL_VA + 8, 0x100)
    place = next(dump.phys.extents(0x20000)).offset
    assert address_of(view) - address_of(whole) == place + 8
    assert address_of(dump.phys.buffer(0x20008, 8)) == address_of(view)
    assert address_of(dump.pages.buffer(0x20)) + 8 == address_of(view)


def test_numpy_takes_it(reader):
    numpy = pytest.importorskip("numpy")
    array = numpy.frombuffer(reader.buffer(KERNEL_VA + 0x1000, PAGE), "<u8")
    assert array.tobytes() == stamp(0x21)
    assert not array.flags.writeable
    joined = numpy.concatenate([numpy.frombuffer(one.data, "u1") for one in reader.buffers()])
    assert joined.tobytes() == reader.read_exact(KERNEL_VA, 0x2000)


def test_an_empty_buffer(reader):
    assert reader.buffer(HOLE, 0) == b""


def test_contexts(reader):
    assert reader.buffer(kdmp.phys(0x20100), 5) == b"hello"
    assert reader.at(0x5000).buffer(kdmp.virt(KERNEL_VA + 0x100, 0x1000), 5) == b"hello"


@pytest.mark.parametrize("size", [1, 0x5000])
def test_missing_bytes_raise_why(reader, size):
    with pytest.raises(kdmp.NotPresentError) as caught:
        reader.buffer(HOLE, size)
    assert caught.value.address == HOLE
    with pytest.raises(kdmp.NotInDumpError) as caught:
        reader.buffer(KERNEL_VA + 0x3000, size)
    assert caught.value.pa == 0x99000
    with pytest.raises(kdmp.NonCanonicalError):
        reader.buffer(1 << 47, size)


def test_the_first_missing_byte_is_told(reader):
    with pytest.raises(kdmp.NotPresentError) as caught:
        reader.buffer(KERNEL_VA + 0x1FF0, 0x11)
    assert caught.value.address == HOLE


def scattered():
    """Pages at BASE whose frames are: 0x20, 0x21, 0x30, 0x22, 0x22."""
    memory = Memory()
    tables = Tables(memory)
    memory.fill(0x20, 0x21, 0x22, 0x30)
    for k, pfn in enumerate((0x20, 0x21, 0x30, 0x22, 0x22)):
        tables.map(KERNEL_VA + k * PAGE, pfn * PAGE, flags=P | W | U)
    return memory.dump(BITMAP)


@pytest.mark.parametrize("page, fits", [(0, 2), (2, 1), (3, 1)])
def test_where_it_is_not_contiguous(page, fits):
    with opened(scattered()) as dump:
        va, reader = KERNEL_VA + page * PAGE, dump.reader()
        reader.buffer(va, fits * PAGE)
        with pytest.raises(kdmp.NotContiguousError, match="does not follow in the file") as caught:
            reader.buffer(va, fits * PAGE + 1)
        assert caught.value.address == va + fits * PAGE
        assert isinstance(caught.value, (BufferError, kdmp.KdmpError))
        copy = pickle.loads(pickle.dumps(caught.value))
        assert (str(copy), copy.address) == (str(caught.value), caught.value.address)


def test_large_pages():
    memory = Memory()
    tables = Tables(memory)
    tables.map(KERNEL_VA, 0x40_0000, MB2, flags=P | W)
    memory.fill(*range(0x400, 0x600))
    with opened(memory.dump()) as dump:
        view = dump.reader().buffer(KERNEL_VA, MB2)
        assert view[-PAGE:] == stamp(0x5FF)
        assert [one.size for one in dump.reader().buffers()] == [MB2]


def test_32_bits():
    with opened(x86_dump()) as dump:
        assert dump.reader().buffer(0x8000_1000, 10) == b"thirty-two"
        with pytest.raises(kdmp.UnreadableError):
            dump.reader().buffer(0xFFFF_FFFF, 2)


def test_what_is_not_mapped(unmapped):
    for reader, address in ((unmapped.reader(), KERNEL_VA), (unmapped.phys, 0x20000)):
        with pytest.raises(kdmp.NotContiguousError, match="read, not mapped") as caught:
            reader.buffer(address, 1)
        assert caught.value.address == address
    with pytest.raises(kdmp.NotPresentError):
        unmapped.reader().buffer(HOLE, 1)


def test_packed_dumps_are_in_memory(tmp_path):
    import gzip

    (tmp_path / "small.dmp.gz").write_bytes(gzip.compress(small_machine().dump()))
    with opened(tmp_path / "small.dmp.gz") as dump:
        assert dump.reader().buffer(KERNEL_VA + 0x100, 5) == b"hello"


def test_overlays(dump):
    with dump.overlay() as overlay:
        reader = overlay.reader()
        before = reader.buffer(KERNEL_VA, 0x2000)
        reader.write(KERNEL_VA + 0x1000, b"new")
        with pytest.raises(kdmp.NotContiguousError) as caught:
            reader.buffer(KERNEL_VA, 0x2000)
        assert caught.value.address == KERNEL_VA + 0x1000
        with pytest.raises(kdmp.NotContiguousError, match="not in the file"):
            reader.buffer(KERNEL_VA + 0x1000, 1)
        assert reader.buffer(KERNEL_VA, PAGE) == before[:PAGE]
        assert before[PAGE:] == stamp(0x21)  # of before
        pieces = list(reader.buffers())
        assert [(one.address, one.size, one.offset is None) for one in pieces] == [
            (KERNEL_VA, PAGE, False),
            (KERNEL_VA + PAGE, PAGE, True),
        ]
        assert pieces[1].data[:4] == b"new" + stamp(0x21)[3:4]
        reader.write(KERNEL_VA + 0x1000, b"old")
        assert pieces[1].data[:3] == b"new"


def test_zeros_and_page_files(tmp_path):
    memory = Memory()
    tables = Tables(memory)
    tables.raw(KERNEL_VA, 4 << 5)  # demand zero
    tables.raw(KERNEL_VA + PAGE, 2 << 32 | 4 << 5)  # page 2 of page file 0
    memory.fill(0x20)
    tables.map(KERNEL_VA + 2 * PAGE, 0x20 * PAGE)
    pagefile = tmp_path / "pagefile.sys"
    pagefile.write_bytes(bytes(2 * PAGE) + b"\xaa" * PAGE)
    with opened(memory.dump(minor_version=19041), pagefiles=[pagefile]) as dump:
        reader = dump.reader(zero_fill=True)
        for va in (KERNEL_VA, KERNEL_VA + PAGE):
            with pytest.raises(kdmp.NotContiguousError):
                reader.buffer(va, 1)
        assert b"".join(one.data for one in reader.buffers()) == reader.read_exact(KERNEL_VA, 3 * PAGE)
        assert [one.pa for one in reader.buffers()][-1] == 0x20000


@pytest.mark.parametrize("image", [triage_dump, triage32_dump])
def test_triage_dumps(image):
    with opened(image()) as dump:
        reader = dump.reader()
        apart = 0
        for one in dump.ranges:
            try:
                assert reader.buffer(one.address, one.size) == reader.read_exact(one.address, one.size)
            except kdmp.NotContiguousError:  # another range has a part of it
                apart += 1
        assert 2 * apart < len(dump.ranges)
        for one in reader.buffers():
            assert one.data == reader.read_exact(one.address, one.size)
            assert (one.pa, memoryview(dump)[one.offset :][: one.size]) == (None, one.data)
        with pytest.raises(kdmp.UnreadableError):
            reader.buffer(1, 1)


def test_triage_ranges_are_there():
    with opened(triage_dump()) as dump:
        addresses = [one.address for one in dump.reader().buffers()]
        assert STACK in addresses
        assert any(KERNEL <= address < KERNEL + 0x10000 for address in addresses)


@pytest.mark.parametrize("arguments", [(-1, 1), (0, -1), (1 << 64, 1), ((1 << 64) - 1, 2)])
def test_wrong_arguments(reader, arguments):
    with pytest.raises((ValueError, OverflowError)):
        reader.buffer(*arguments)


def test_types(reader):
    for arguments in (("text", 1), (0, "text"), (0, None), (1.5, 1)):
        with pytest.raises(TypeError):
            reader.buffer(*arguments)
    with pytest.raises(ValueError):
        reader.buffers(5, 4)  # at once, not with the first piece
    with pytest.raises(OverflowError):
        reader.buffers(-1)


def test_faults_are_not_collected(dump, reader):
    with dump.collect_faults() as faults:
        with pytest.raises(kdmp.NotPresentError):
            reader.buffer(HOLE, 1)
        list(reader.buffers())
    assert not faults


# ---- life time ----


@pytest.mark.parametrize("get", ["buffer", "buffers", "pages"])
def test_a_view_keeps_the_dump_open(dump, get):
    reader = dump.reader()
    if get == "buffer":
        view = reader.buffer(KERNEL_VA, 16)
    elif get == "buffers":
        view = next(reader.buffers()).data
    else:
        view = dump.pages.buffer(0x20, 2)
    with pytest.raises(BufferError):
        dump.close()
    part = view[4:8]
    view.release()
    with pytest.raises(BufferError):
        dump.close()
    del view
    part.release()
    dump.close()
    assert dump.closed
    with pytest.raises(ValueError):
        reader.buffer(KERNEL_VA, 1)
    with pytest.raises(ValueError):
        dump.pages.buffer(0x20)


def test_an_unfinished_search_does_not(dump):
    pieces = dump.phys.buffers()
    next(pieces)
    dump.close()
    with pytest.raises(ValueError):
        next(pieces)


def test_a_view_outlives_everything(tmp_path):
    (tmp_path / "small.dmp").write_bytes(small_machine().dump())
    view = kdmp.open(tmp_path / "small.dmp").reader().buffer(KERNEL_VA + 0x100, 5)
    frames = kdmp.open(tmp_path / "small.dmp").pages.buffer(0x20, 2)
    gc.collect()
    assert view == b"hello"
    assert frames[PAGE:] == stamp(0x21)


# ---- all buffers ----


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_all_of_physical_memory(kind):
    frames = [1, 2, 5, 6, 7, 0x100]
    with opened(build(kind, {pfn: stamp(pfn) for pfn in frames})) as dump:
        found = {}
        for one in dump.phys.buffers():
            assert isinstance(one, Piece)
            assert one.address == one.pa
            assert one.data == memoryview(dump)[one.offset :][: one.size]
            for at in range(0, one.size, PAGE):
                found[(one.address + at) // PAGE] = one.data[at : at + PAGE]
        assert found == {pfn: stamp(pfn) for pfn in frames}


def test_pieces_are_as_large_as_can_be():
    with opened(build(FULL, {pfn: stamp(pfn) for pfn in (1, 2, 3, 7)})) as dump:
        assert [(one.address, one.size) for one in dump.phys.buffers()] == [
            (PAGE, 3 * PAGE),
            (7 * PAGE, PAGE),
        ]
        assert [(one.address, one.size) for one in dump.phys.buffers(0x1FF0, 0x200F)] == [(0x1FF0, 0x20)]


def test_pieces_of_what_is_not_mapped(tmp_path):
    size = 3 * CHUNK + PAGE
    image = build(FULL, {pfn: stamp(pfn) for pfn in range(1, 1 + size // PAGE)})
    with opened(io.BytesIO(image)) as dump, opened(image) as other:
        pieces = list(dump.phys.buffers())
        assert [one.size for one in pieces] == [CHUNK, CHUNK, CHUNK, PAGE]
        (whole,) = other.phys.buffers()
        assert b"".join(one.data for one in pieces) == whole.data
        for one in pieces:
            assert (one.address, one.pa) == (one.pa, PAGE + one.offset - whole.offset)
            assert one.data.readonly


@pytest.mark.parametrize("name", ["win10-19041", "win7-7601"])
def test_the_machines(name):
    """The pieces of an address space, against exact reads, and nothing readable between them."""
    with opened(machine_dump(name, "rdmp9")) as dump:
        reader = dump.windows.reader
        at = 0xFFFFF80000000000
        for one in reader.buffers(at):
            assert at <= one.address
            if at < one.address:
                assert reader.missing(at) is not None
                assert reader.missing(one.address - 1) is not None
            assert one.data[:64] == reader.read_exact(one.address, min(64, one.size))
            assert one.data[-64:] == reader.read_exact(
                one.address + one.size - min(64, one.size), min(64, one.size)
            )
            at = one.address + one.size


# ---- frames ----


def test_frames_together(dump):
    view = dump.pages.buffer(0x20, 2)
    assert (view.nbytes, view.readonly) == (2 * PAGE, True)
    assert view[:PAGE] == dump.pages[0x20]
    assert view[PAGE:] == dump.pages[0x21]
    assert dump.pages.buffer(pfn=0x21) == stamp(0x21)
    for run in dump.pages.runs():
        assert dump.pages.buffer(run.pfn, run.count) == b"".join(
            dump.pages[pfn] for pfn in range(run.pfn, run.pfn + run.count)
        )


@pytest.mark.parametrize("pfn, count", [(0x22, 1), (0x20, 3), (0x1F, 2), (0, 1 << 52), (1 << 51, 1 << 60)])
def test_frames_that_are_not_there(dump, pfn, count):
    with pytest.raises(kdmp.NotInDumpError):
        dump.pages.buffer(pfn, count)


def test_the_missing_frame_is_told(dump):
    with pytest.raises(kdmp.NotInDumpError) as caught:
        dump.pages.buffer(0x20, 3)
    assert caught.value.pa == 0x22000


def test_frames_beyond_the_end_of_the_file():
    image = build(FULL, {pfn: stamp(pfn) for pfn in range(1, 9)})
    with opened(image[: -2 * PAGE]) as dump:
        assert dump.pages.buffer(1, 6)[-PAGE:] == stamp(6)
        with pytest.raises(kdmp.TruncatedError):
            dump.pages.buffer(1, 7)


def test_frames_that_are_apart_in_the_file():
    with opened(bytes(PAGE) + stamp(2) + stamp(1), [(1, 1, 2 * PAGE), (2, 1, PAGE)], 0x1000) as dump:
        with pytest.raises(kdmp.NotContiguousError) as caught:
            dump.pages.buffer(1, 2)
        assert caught.value.address == 2 * PAGE
    with opened(stamp(1) + stamp(2), [(1, 1, 0), (2, 1, PAGE)], 0x1000) as dump:
        assert dump.pages.buffer(1, 2) == stamp(1) + stamp(2)  # two runs, one piece


def test_frames_of_what_is_not_mapped(unmapped):
    with pytest.raises(kdmp.NotContiguousError, match="not mapped"):
        unmapped.pages.buffer(0x20)
    with pytest.raises(kdmp.NotInDumpError):
        unmapped.pages.buffer(0x22)


def test_windows_of_frames(dump):
    window = dump.pages[0x20:0x21]
    assert window.buffer(0x20) == dump.pages[0x20]
    for pfn, count in ((0x1F, 2), (0x20, 2), (0x21, 1)):
        with pytest.raises(IndexError):
            window.buffer(pfn, count)


@pytest.mark.parametrize("arguments", [(0x20, 0), (0x20, -1), (-1,), ("text",), (0x20, None), (), (1, 2, 3)])
def test_wrong_frames(dump, arguments):
    with pytest.raises((ValueError, OverflowError, TypeError)):
        dump.pages.buffer(*arguments)


def test_many_runs_and_a_bitmap():
    frames = [pfn for pfn in range(1, 200) if pfn % 7]
    with opened(bitmap_dump(200, frames)) as dump:
        for run in dump.pages.runs():
            assert len(dump.pages.buffer(run.pfn, run.count)) == run.count * PAGE
            with pytest.raises(kdmp.NotInDumpError):
                dump.pages.buffer(run.pfn, run.count + 1)
    with opened(runs_dump([(1, 2), (3, 2)])) as dump:
        assert len(dump.pages.buffer(1, 4)) == 4 * PAGE


# ---- any layout ----

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies
BASE = 0x7FF0_0000_0000


@hypothesis.given(
    frames=st.lists(st.sampled_from([None, 0x20, 0x21, 0x22, 0x23, 0x30, 0x99]), min_size=1, max_size=8),
    start=st.integers(0, 0x9000),
    size=st.integers(1, 0x4000),
)
def test_any_mapping(frames, start, size):
    """Against page-by-page reads and the frames' order: a view, or an error at the byte that is to blame."""
    memory = Memory()
    tables = Tables(memory, spare=3)
    memory.fill(0x20, 0x21, 0x22, 0x23, 0x30)
    for k, pfn in enumerate(frames):
        if pfn is not None:
            tables.map(BASE + k * PAGE, pfn * PAGE)
    with opened(memory.dump(BITMAP)) as dump:
        reader, va = dump.reader(), BASE + start
        data = reader.read(va, size)
        places = {
            va + k: reader.translate(va + k).pa
            for k in (0, *range(PAGE - va % PAGE, len(data), PAGE))
            if data
        }
        joint = len(data)
        for at, pa in places.items():
            if pa - places[va] != at - va:
                joint = at - va
                break
        try:
            view = reader.buffer(va, size)
        except kdmp.NotContiguousError as error:
            assert error.address == va + joint
            assert joint < len(data)
        except kdmp.UnreadableError as error:
            assert error.address == va + len(data)
            assert joint == len(data) < size
        else:
            assert view == data
            assert joint == len(data) == size
        pieces = {}
        for one in reader.buffers(BASE, BASE + len(frames) * PAGE - 1):
            for at in range(0, one.size, PAGE):
                pieces[one.address + at] = bytes(one.data[at : at + PAGE])
        expected = {
            BASE + k * PAGE: stamp(pfn) for k, pfn in enumerate(frames) if pfn is not None and pfn != 0x99
        }
        assert pieces == expected
