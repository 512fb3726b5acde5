"""Reader.extract: memory into files, and Reader.missing, which measures the holes.

SPDX-License-Identifier: MIT
"""

import errno
import io
import json
import os
import pickle

import pytest
from clidumps import GAP, LARGE, NOTHING, STACK, VA, small_dump, triage32_dump, triage_dump, x86_dump
from conftest import KERNEL_VA, small_machine
from dumpbuilder import ALL_KINDS, BITMAP, FULL, PAGE, PROTOTYPE, Memory, P, Tables, U, W, build, stamp
from shareddata import machine_dump

import kdmp
from kdmp._kdmp import ReaderBase
from kdmp.buffers import CHUNK
from kdmp.extract import LIMIT, Gaps, gap_facts, pieces
from kdmp.targets import Target

HOLE = KERNEL_VA + 0x2000
GONE = KERNEL_VA + 0x3000


@pytest.fixture
def small():
    with kdmp.open(small_machine().dump()) as dump:
        yield dump


@pytest.fixture
def reader(small):
    return small.reader()


def oracle(reader, va, size, fill=0):
    """The bytes and the gaps page by page: (bytes, [(address, size, type of the reason)])."""
    data, gaps = b"", []
    for at in range(va, va + size):
        try:
            data += bytes([reader.read_u8(at)])
            continue
        except kdmp.UnreadableError as error:
            kind = type(error)
        data += bytes([fill])
        if gaps and gaps[-1][0] + gaps[-1][1] == at and gaps[-1][2] is kind:
            gaps[-1][1] += 1
        else:
            gaps.append([at, 1, kind])
    return data, [tuple(gap) for gap in gaps]


def plain(gaps):
    return [(gap.address, gap.size, type(gap.reason)) for gap in gaps]


# ---- how far a hole reaches ----


def test_missing_is_none_where_there_is_something(reader, small):
    assert reader.missing(KERNEL_VA) is None
    assert reader.missing(KERNEL_VA + 0x1FFF, 1 << 40) is None
    assert small.phys.missing(0x20000) is None


@pytest.mark.parametrize("paging", ["x64", "physical"])
def test_missing_agrees_with_reads(small, paging):
    reader = small.phys if paging == "physical" else small.reader()
    base = 0x1F000 if paging == "physical" else KERNEL_VA
    for va in range(base, base + 0x6000, 0x400):
        gap = reader.missing(va, 0x900)
        _, gaps = reader.read_gaps(va, 0x900)
        expected = gaps[0] if gaps and gaps[0].address == va else None
        if expected is None:
            assert gap is None
        else:
            assert plain([gap]) == plain([expected])
            assert str(gap.reason) == str(expected.reason)


def test_missing_reaches_as_far_as_its_cause(reader, small):
    tables = {HOLE: 0x1000, GONE: 0x1000, KERNEL_VA + 0x4000: (1 << 30) - 0x4000}
    for va, size in tables.items():
        assert reader.missing(va, size).size == size
    assert plain([reader.missing(HOLE, 1 << 40)]) == [(HOLE, 0x1000, kdmp.NotPresentError)]
    hole = 1 << 47
    assert plain([reader.missing(hole, 1 << 63)]) == [(hole, 1 << 63, kdmp.NonCanonicalError)]
    assert small.phys.missing(0x22000, 1 << 50).size == 1 << 50
    assert small.phys.missing(0x19000, 1 << 50).size == 0x7000
    assert reader.missing(HOLE, 0) is None


def test_missing_stops_where_the_vad_must_be_asked():
    """What the page tables say ends there; who asks the VADs and fails tells why, and so does a file."""

    class Asking(ReaderBase):
        def _load_views(self):
            raise ZeroDivisionError

    class Failing(io.BytesIO):
        left = 1 << 20

        def read(self, *args):
            self.left -= 1
            if self.left < 0:
                raise OSError(5, "the disk is gone")
            return super().read(*args)

    memory = Memory()
    tables = Tables(memory)
    tables.map(0x40_0000, 0x70000)
    memory.fill(0x70)
    tables.raw(0x40_3000, 0xFFFF_FFFF << 32 | PROTOTYPE)
    reader = Asking(kdmp.Dump(memory.dump()), paging="x64", dtb=0x1000)
    assert reader.missing(0x40_0800, 1 << 20) is None
    assert reader.missing(0x40_1000, 1 << 20).size == 0x2000
    with pytest.raises(ZeroDivisionError):
        reader.missing(0x40_3000)
    source = Failing(memory.dump())
    with kdmp.open(source) as dump:
        reader = dump.reader()
        want = reader.missing(0x40_1000, 0x2000)
        for left in range(20):
            source.left = left
            try:
                assert reader.missing(0x40_1000, 0x2000)[:2] == want[:2]
                break
            except OSError as error:
                assert "gone" in str(error)
        assert left > 3


def test_missing_takes_contexts_and_is_not_collected(reader, small):
    with small.collect_faults() as faults:
        assert reader.missing(kdmp.phys(0x99000), 5).size == 5
        assert reader.missing(HOLE)
    assert not faults


def test_missing_of_triage_dumps():
    with kdmp.open(triage_dump()) as dump:
        reader = dump.reader()
        for range_ in dump.ranges:
            assert reader.missing(range_.address, 1 << 40) is None
        assert reader.missing(STACK - 0x1000, 1 << 40).size == 0x1000
        assert reader.missing(0, 1 << 20).size == 1 << 20


@pytest.mark.parametrize("wrong", [-1, 1 << 64, "text", None, 1.5])
def test_missing_wants_an_address(reader, wrong):
    with pytest.raises((OverflowError, TypeError)):
        reader.missing(wrong)
    with pytest.raises((OverflowError, TypeError)):
        reader.missing(0, wrong)


def test_missing_of_a_hostile_table_comes_back():
    """Entries that are not present, at every level of tables that repeat for ever: 2^36 single pages."""
    memory = Memory()
    for k in range(512):
        memory.put_u64(0x1000 + 8 * k, 0x2067)
        memory.put_u64(0x2000 + 8 * k, 0x3067)
        memory.put_u64(0x3000 + 8 * k, 0x4067)
        memory.put_u64(0x4000 + 8 * k, 0x80)  # demand zero
    with kdmp.open(memory.dump()) as dump:
        gap = dump.reader(dtb=0x1000, paging="x64").missing(0, 1 << 47)
        assert gap.address == 0
        assert gap.size == 0x10000 * PAGE
        with pytest.raises(OverflowError):
            dump.reader(dtb=0x1000, paging="x64").extract(
                0, 1 << 39, "never", progress=lambda done, total: done > 1 << 30 and raise_this(OverflowError)
            )
    assert not os.path.exists("never")


def raise_this(kind):
    raise kind("from progress")


# ---- files ----


@pytest.mark.parametrize("fill", [0, 0xCC])
@pytest.mark.parametrize("sparse", [True, False])
def test_bytes_and_gaps(reader, tmp_path, fill, sparse):
    va, size = KERNEL_VA + 0x0F80, 0x4100
    path = tmp_path / "out.bin"
    got = reader.extract(va, size, path, fill=fill, sparse=sparse)
    data, gaps = oracle(reader, va, size, fill)
    assert path.read_bytes() == data
    assert plain(got.gaps) == gaps
    assert (got.path, got.size, got.written) == (str(path), size, 0x1080)
    assert (got.missing, got.dropped, got.complete) == (size - 0x1080, 0, False)
    assert os.listdir(tmp_path) == ["out.bin"]


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_kind_of_dump(kind, tmp_path):
    with kdmp.open(small_machine().dump(kind)) as dump:
        got = dump.reader().extract(KERNEL_VA, 0x2000, tmp_path / "out", progress=None)
        assert got.complete
        assert (tmp_path / "out").read_bytes() == stamp_of(dump)


def stamp_of(dump):
    return b"".join(bytes(dump.pages[pfn]) for pfn in (0x20, 0x21))


@pytest.mark.parametrize("io_mode", ["map", "read", "bytes", "stream"])
def test_every_way_of_opening(io_mode, tmp_path):
    image = small_machine().dump()
    path = tmp_path / "small.dmp"
    path.write_bytes(image)
    source = {"bytes": image, "stream": io.BytesIO(image)}.get(io_mode, path)
    with kdmp.open(source, io="read" if io_mode == "read" else "map") as dump:
        for overlay in (None, dump.overlay()):
            reader = dump.reader(view=overlay) if overlay is not None else dump.reader()
            expected = bytearray(oracle(reader, KERNEL_VA, 0x2200)[0])
            if overlay is not None:
                reader.write(KERNEL_VA + 0xFFE, b"written")
                expected[0xFFE:0x1005] = b"written"
            got = reader.extract(KERNEL_VA, 0x2200, tmp_path / "out", overwrite=True)
            assert (tmp_path / "out").read_bytes() == expected
            assert plain(got.gaps) == [(HOLE, 0x200, kdmp.NotPresentError)]


@pytest.mark.parametrize("image", [triage_dump, triage32_dump])
def test_triage_dumps(image, tmp_path):
    with kdmp.open(image()) as dump:
        reader = dump.reader()
        first = min(range_.address for range_ in dump.ranges)
        got = reader.extract(first - 7, 0x300, tmp_path / "out")
        data, gaps = oracle(reader, first - 7, 0x300)
        assert (tmp_path / "out").read_bytes() == data
        assert plain(got.gaps) == gaps
        assert gaps[0][:2] == (first - 7, 7)


def test_32_bits(tmp_path):
    with kdmp.open(x86_dump()) as dump:
        got = dump.reader().extract(0x8000_0000, 0x3000, tmp_path / "out")
        assert (tmp_path / "out").read_bytes()[0x1000:0x100A] == b"thirty-two"
        assert [gap[:2] for gap in plain(got.gaps)] == [(0x8000_0000, 0x1000), (0x8000_2000, 0x1000)]
        end = dump.reader().extract(0xFFFF_F000, 0x2000, tmp_path / "end")
        assert (end.size, end.missing) == (0x2000, 0x2000)


def test_physical_and_contexts(small, reader, tmp_path):
    small.phys.extract(0x20FF0, 0x20, tmp_path / "phys")
    reader.extract(kdmp.phys(0x20FF0), 0x20, tmp_path / "context")
    reader.extract(KERNEL_VA + 0xFF0, 0x20, tmp_path / "virt")
    assert len({(tmp_path / name).read_bytes() for name in ("phys", "context", "virt")}) == 1


def test_the_machines(tmp_path):
    """What read_gaps says of a whole kernel module is what is in the file."""
    with kdmp.open(machine_dump("win10-19041", "kernel")) as dump:
        reader = dump.reader()
        module = dump.windows.modules()[1]
        got = reader.extract(module.base, module.size, tmp_path / "out")
        data, gaps = reader.read_gaps(module.base, module.size)
        assert (tmp_path / "out").read_bytes() == data
        assert plain(got.gaps) == plain(gaps)
        assert got.missing == sum(gap.size for gap in gaps)


def test_terabytes_of_nothing_cost_nothing(reader, tmp_path):
    path = tmp_path / "huge"
    try:
        got = reader.extract(KERNEL_VA, LIMIT, path)
    except OSError as error:
        pytest.skip(f"no such files here: {error}")
    status = os.stat(path)
    assert status.st_size == got.size == LIMIT
    assert getattr(status, "st_blocks", 0) * 512 < 1 << 20
    with open(path, "rb") as file:
        assert file.read(0x1000) == stamp_page(reader)
    assert len(got.gaps) < 10


def stamp_page(reader):
    return reader.read_exact(KERNEL_VA, PAGE)


def test_nothing_at_all(reader, tmp_path):
    got = reader.extract(HOLE, 0, tmp_path / "empty")
    assert (got.size, got.gaps, got.complete) == (0, (), True)
    assert (tmp_path / "empty").read_bytes() == b""


def test_the_last_page(tmp_path):
    memory = Memory()
    tables = Tables(memory)
    tables.map((1 << 64) - PAGE, 0x20000, flags=P | W | U)
    memory.fill(0x20)
    with kdmp.open(memory.dump()) as dump:
        reader = dump.reader()
        got = reader.extract((1 << 64) - 2 * PAGE, 2 * PAGE, tmp_path / "last")
        assert (tmp_path / "last").read_bytes() == bytes(PAGE) + stamp(0x20)
        assert got.missing == PAGE
        with pytest.raises(ValueError, match="no part of an address space"):
            reader.extract((1 << 64) - PAGE, PAGE + 1, tmp_path / "beyond")


# ---- targets ----


def test_a_file_that_exists_stays(reader, tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        reader.extract(KERNEL_VA, 16, path)
    assert path.read_bytes() == b"precious"
    assert reader.extract(KERNEL_VA, 16, path, overwrite=True).complete
    assert len(path.read_bytes()) == 16
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_that_appears_meanwhile_stays(reader, tmp_path):
    path = tmp_path / "out"

    def appear(done, total):
        path.write_bytes(b"precious")

    with pytest.raises(FileExistsError):
        reader.extract(KERNEL_VA, 16, path, progress=appear)
    assert path.read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["out"]


def test_left_overs_of_others_are_in_nobodys_way(reader, tmp_path):
    (tmp_path / f"out.{os.getpid()}.part").write_bytes(b"of a run that was killed")
    reader.extract(KERNEL_VA, 16, tmp_path / "out")
    assert len(os.listdir(tmp_path)) == 2


def test_without_hard_links(reader, tmp_path, monkeypatch):
    def link(*names):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    reader.extract(KERNEL_VA, 16, tmp_path / "out")
    with pytest.raises(FileExistsError):
        reader.extract(KERNEL_VA, 16, tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("when", [0, 0x1000, 0x2000])
def test_an_exception_from_progress_leaves_nothing(reader, tmp_path, when):
    class Stopped(Exception):
        pass

    def progress(done, total):
        assert total == 0x4000
        if done >= when:
            raise Stopped

    with pytest.raises(Stopped):
        reader.extract(KERNEL_VA, 0x4000, tmp_path / "out", progress=progress)
    assert os.listdir(tmp_path) == []


def test_progress_counts_bytes(reader, tmp_path):
    size = 3 << 20
    for sparse in (True, False):
        calls = []

        def note(done, total, calls=calls):
            calls.append((done, total))

        reader.extract(KERNEL_VA, size, tmp_path / str(sparse), sparse=sparse, progress=note)
        done = [one for one, _ in calls]
        assert (done[0], done[-1]) == (0, size)
        assert done == sorted(set(done))
        assert {total for _, total in calls} == {size}
        assert len(calls) > (2 if sparse else 5)


def test_a_full_disk(reader):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        reader.extract(KERNEL_VA, 16, "/dev/full")
    assert os.path.exists("/dev/full")


def test_a_dump_that_shrinks_meanwhile(tmp_path):
    path, out = tmp_path / "shrinks.dmp", tmp_path / "out"
    pages = 3 * CHUNK // PAGE
    path.write_bytes(build(FULL, {pfn: stamp(pfn) for pfn in range(1, 1 + pages)}))
    dump = kdmp.open(path)
    if not hasattr(dump, "lost") or os.name != "posix":
        pytest.skip("files that shrink are not noticed here")

    def shrink(done, total):
        if done == CHUNK:
            os.truncate(path, 0x4000)

    with pytest.raises(OSError, match="read any more"):
        dump.phys.extract(PAGE, pages * PAGE, out, progress=shrink)
    assert os.listdir(tmp_path) == ["shrinks.dmp"]
    with pytest.raises(OSError, match="read any more"):
        dump.phys.missing(0)
    with pytest.raises(OSError, match="read any more"):
        dump.pages.buffer(1)


def test_a_device_is_written_to(reader):
    if not os.path.exists("/dev/null"):
        pytest.skip("no /dev/null")
    got = reader.extract(KERNEL_VA, 0x4000, "/dev/null")
    assert (got.written, got.missing) == (0x2000, 0x2000)


def test_a_folder_is_no_file(reader, tmp_path):
    with pytest.raises(OSError):
        reader.extract(KERNEL_VA, 16, tmp_path)
    with pytest.raises(FileNotFoundError):
        reader.extract(KERNEL_VA, 16, tmp_path / "missing" / "out")


def test_a_read_only_folder(reader, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    try:
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write everywhere")
        with pytest.raises(PermissionError):
            reader.extract(KERNEL_VA, 16, folder / "out")
    finally:
        folder.chmod(0o700)


def test_the_dump_itself_is_safe(tmp_path):
    image = small_machine().dump()
    path, other = tmp_path / "small.dmp", tmp_path / "link"
    path.write_bytes(image)
    other.symlink_to(path)
    pages = tmp_path / "pagefile.sys"
    pages.write_bytes(bytes(PAGE))
    with kdmp.open(path, pagefiles=[pages]) as dump, open(path, "r+b") as opened:
        for where in (path, str(path), other, opened, pages):
            with pytest.raises(ValueError, match="the dump itself"):
                dump.reader().extract(KERNEL_VA, 16, where, overwrite=True)
    assert path.read_bytes() == image
    stream = io.BytesIO(image)
    with kdmp.open(stream) as dump, pytest.raises(ValueError, match="the dump itself"):
        dump.reader().extract(KERNEL_VA, 16, stream)


@pytest.mark.parametrize("size, limit", [(LIMIT + 1, None), (17, 16), (1 << 63, None)])
def test_a_slip_of_the_hand(reader, tmp_path, size, limit):
    with pytest.raises(ValueError, match="limit"):
        reader.extract(0, size, tmp_path / "out", limit=limit)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "arguments, kind",
    [
        ((-1, 1), ValueError),
        ((1 << 64, 1), ValueError),
        ((0, -1), ValueError),
        (("text", 1), TypeError),
        ((0, 1.5), TypeError),
    ],
)
def test_wrong_arguments(reader, tmp_path, arguments, kind):
    with pytest.raises(kind):
        reader.extract(*arguments, tmp_path / "out")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("fill", [-1, 256, "0"])
def test_wrong_fill(reader, tmp_path, fill):
    with pytest.raises((ValueError, TypeError)):
        reader.extract(KERNEL_VA, 1, tmp_path / "out", fill=fill)


def test_a_closed_dump(tmp_path):
    dump = kdmp.open(small_machine().dump())
    reader = dump.reader()
    dump.close()
    with pytest.raises(ValueError, match="closed"):
        reader.extract(KERNEL_VA, 16, tmp_path / "out")
    assert os.listdir(tmp_path) == []


# ---- file objects ----


def test_into_memory(reader):
    out = io.BytesIO(b"head and what is overwritten")
    out.seek(5)
    got = reader.extract(KERNEL_VA + 0x1FF8, 16, out)
    assert got.path is None
    assert (got.size, got.written) == (16, 8)
    assert out.getvalue() == b"head " + stamp(0x21)[-8:] + bytes(8) + b"rwritten"[1:]
    assert "path" not in got.to_dict()


@pytest.mark.parametrize("mode", ["w+b", "a+b", "r+b"])
@pytest.mark.parametrize("buffering", [0, -1])
def test_into_an_open_file(reader, tmp_path, mode, buffering):
    path = tmp_path / "out"
    path.write_bytes(b"abc")
    with open(path, mode, buffering=buffering) as file:
        file.seek(0, 2)
        before = file.tell()
        reader.extract(KERNEL_VA + 0x1F00, 0x2100, file)
        file.write(b"behind")
    data, _ = oracle(reader, KERNEL_VA + 0x1F00, 0x2100)
    assert path.read_bytes() == b"abc"[:before] + data + b"behind"


def test_the_middle_of_an_open_file_is_overwritten(reader, tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"x" * 0x200)
    with open(path, "r+b") as file:
        file.seek(0x10)
        reader.extract(HOLE, 0x100, file)
    assert path.read_bytes() == b"x" * 0x10 + bytes(0x100) + b"x" * 0xF0


def test_a_file_object_that_takes_less(reader):
    class Narrow(io.RawIOBase):
        def __init__(self):
            self.data = b""

        def writable(self):
            return True

        def write(self, data):
            part = bytes(data)[:7]
            self.data += part
            return len(part)

    out = Narrow()
    reader.extract(KERNEL_VA + 0x1FF0, 0x20, out)
    assert out.data == stamp(0x21)[-0x10:] + bytes(0x10)


def test_a_file_object_that_takes_nothing(reader):
    class Full(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            return None

    with pytest.raises(BlockingIOError):
        reader.extract(KERNEL_VA, 16, Full())


def test_holes_where_they_can_be(tmp_path):
    with open(tmp_path / "out", "w+b") as file:
        assert Target(file).sparse
        assert not Target(file, fill=1).sparse
        assert not Target(file, sparse=False).sparse
    assert not Target(io.BytesIO()).sparse


# ---- results ----


def test_faults_are_not_collected(small, reader):
    with small.collect_faults() as faults:
        reader.extract(KERNEL_VA, 0x4000, io.BytesIO())
    assert not faults


def test_result_as_text_and_data():
    with kdmp.open(small_dump()) as dump:
        got = dump.reader().extract(VA, 0x3000, io.BytesIO())
    assert str(got).splitlines() == [
        "12288 bytes, 4096 of them read, 8192 missing in 2 gaps",
        f"  {GAP:#x} to {GAP + 0xFFF:#x}: {got.gaps[0].reason}",
        f"  {NOTHING:#x} to {NOTHING + 0xFFF:#x}: {got.gaps[1].reason}",
    ]
    facts = got.to_dict()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["gaps"][1]["state"] == "zero"
    assert [gap["type"] for gap in facts["gaps"]] == ["NotInDumpError", "NotPresentError"]
    copy = pickle.loads(pickle.dumps(got))
    assert (copy.size, plain(copy.gaps)) == (got.size, plain(got.gaps))
    assert "gaps" not in repr(got)


def test_large_pages_are_cut_where_frames_are_missing():
    with kdmp.open(small_dump()) as dump:
        got = dump.reader().extract(LARGE - 0x1000, 0x3000, io.BytesIO())
    assert plain(got.gaps) == [
        (LARGE - 0x1000, 0x1000, kdmp.NotPresentError),
        (LARGE + 0x1000, 0x1000, kdmp.NotInDumpError),
    ]


def test_more_gaps_than_are_kept():
    gaps = Gaps(limit=2)
    reason, other = kdmp.NotPresentError("a"), kdmp.NotInDumpError("b")
    for address, size, why in ((0, 1, reason), (1, 2, reason), (3, 1, other), (5, 1, other), (6, 4, other)):
        gaps.add(kdmp.Gap((address, size, why)))
    assert [gap[:2] for gap in gaps.kept] == [(0, 3), (3, 1)]
    assert (gaps.size, gaps.dropped) == (9, 1)


def test_gap_facts_without_a_walk(small):
    facts = gap_facts(small.phys.missing(0x99000, 5))
    assert sorted(facts) == ["address", "message", "size", "type"]


def test_memory_that_comes_and_goes():
    class Fickle:
        def read_into(self, va, buffer):
            return 0

        def missing(self, va, size):
            return None

    with pytest.raises(kdmp.UnreadableError):
        list(pieces(Fickle(), 0, 16))


# ---- any layout ----

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

BASE = 0x7FF0_0000_0000


@hypothesis.given(
    pages=st.lists(st.sampled_from("pgzdt"), min_size=1, max_size=12),
    start=st.integers(0, 0x2000),
    size=st.integers(0, 0xC000),
    fill=st.sampled_from([0, 0, 7]),
)
def test_any_holes(pages, start, size, fill):
    """Present, gone, zero, demand-zero and transition pages in any order."""
    memory = Memory()
    tables = Tables(memory, spare=3)
    for k, kind in enumerate(pages):
        va, pfn = BASE + k * PAGE, 0x100 + k
        if kind in "pt":
            memory.fill(pfn)
        if kind in "pg":
            tables.map(va, pfn * PAGE)
        elif kind == "t":
            tables.raw(va, pfn << 12 | 1 << 11 | 4 << 5)
        elif kind == "d":
            tables.raw(va, 4 << 5)
    with kdmp.open(memory.dump(BITMAP)) as dump:
        reader = dump.reader()
        out = io.BytesIO()
        got = reader.extract(BASE + start, size, out, fill=fill)
        data, gaps = reader.read_gaps(BASE + start, size, fill)
        assert out.getvalue() == data
        assert plain(got.gaps) == plain(gaps)
        assert got.written + got.missing == got.size == size
        for gap in gaps:
            assert plain([reader.missing(gap.address, gap.size)]) == plain([gap])
