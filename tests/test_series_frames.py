"""Which frames differ between two dumps: compare_frames, FrameSet, Dump.compare and the core below.

SPDX-License-Identifier: MIT
"""

import io
import struct
from array import array

import pytest
import shareddata
from dumpbuilder import FULL, PAGE, RANGES8, WRITER_KINDS, build, runs_dump, stamp
from seriesdumps import Later, original

import kdmp
from kdmp import series_frames
from kdmp.series_frames import FrameSet, compare_frames

try:
    from hypothesis import given
    from hypothesis import strategies as st
except ImportError:
    given = None


def frames_of(ranges):
    return {pfn for first, count in ranges for pfn in range(first, first + count)}


def series_of(*dumps, **options):
    return kdmp.SnapshotSeries(dumps, **options)


@pytest.mark.parametrize("kind", [kind for kind in shareddata.KINDS if kind != "full"])
@pytest.mark.parametrize("machine", shareddata.MACHINES)
def test_kinds_of_one_machine(machine, kind):
    """The same moment in two kinds of dump: nothing changed, and only what one leaves out is missing."""
    dumps = shareddata.truth(machine)["dumps"]
    whole, part = frames_of(dumps["full"]["ranges"]), frames_of(dumps[kind]["ranges"])
    series = series_of(original(machine, "full"), original(machine, kind))
    frames = series.diff().frames
    assert (frames.same, len(frames.changed), frames.changed_bytes) == (len(whole & part), 0, 0)
    assert (set(frames.only_first), set(frames.only_second)) == (whole - part, part - whole)
    swapped = compare_frames(*reversed(series), threads=1)
    assert (swapped.only_first, swapped.only_second) == (frames.only_second, frames.only_first)
    for changes in (series.diff().processes, series.diff().threads, series.diff().modules):
        assert changes.available and not changes


def test_changed_frames():
    later = Later()
    system = later.eprocess(4)
    head = later.kernel.base
    later.put(system + 0x10, bytes(b ^ 0xFF for b in later.read(system + 0x10, 3)))
    later.put(head + 0x40, bytes([later.read(head + 0x40, 1)[0] ^ 1]))
    with later.open() as second:
        diff = series_of(original(), second).diff()
        frames = diff.frames
        assert sorted(frames.changed) == sorted({later.frame(system), later.frame(head)})
        assert frames.changed_bytes == 4
        assert frames.same == len(second.pages) - 2
        assert not frames.only_first and not frames.only_second
        change = diff.frame(later.frame(system))
        offset = system + 0x10 & 0xFFF
        old = later.read(system + 0x10, 3)
        assert change.bytes == ((offset, old, bytes(b ^ 0xFF for b in old)),)
        assert (change.in_first, change.in_second, change.problems) == (True, True, ())
        assert change.before.state == change.after.state == original().pfn(change.pfn).state
        assert diff.seconds == 60
        nothing = diff.frame(0xFFFFF)
        assert (nothing.in_first, nothing.in_second, nothing.bytes, nothing.before) == (
            False,
            False,
            (),
            None,
        )
        assert len(nothing.problems) == 2


def naive(a, b):
    both = a.keys() & b.keys()
    changed = sorted(pfn for pfn in both if a[pfn] != b[pfn])
    size = sum(x != y for pfn in changed for x, y in zip(a[pfn], b[pfn], strict=True))
    return len(both) - len(changed), changed, sorted(a.keys() - both), sorted(b.keys() - both), size


def as_plain(diff):
    sets = [list(frames) for frames in (diff.changed, diff.only_first, diff.only_second)]
    return diff.same, *sets, diff.changed_bytes


if given:

    def page(numbers):
        content = bytearray(stamp(7))
        for number in numbers:
            content[number] ^= 0x80 | number & 0x7F
        return bytes(content)

    # What a page differs by from the others: made into bytes in the test, so that examples stay readable.
    PAGES = st.sets(st.sampled_from([0, 7, 8, 100, 2048, 4088, 4095]), max_size=3)
    FRAMES = st.dictionaries(st.integers(1, 70) | st.integers(3000, 3010), PAGES, min_size=1, max_size=40)

    @given(
        FRAMES, FRAMES, st.sampled_from(WRITER_KINDS), st.sampled_from(WRITER_KINDS), st.integers(1, 3),
        st.integers(1, 20), st.booleans(),
    )  # fmt: skip
    def test_against_naive(a, b, kind_a, kind_b, threads, window, streamed):
        a, b = ({pfn: page(numbers) for pfn, numbers in pages.items()} for pages in (a, b))
        images = build(kind_a, a), build(kind_b, b)
        before = series_frames._WINDOW
        series_frames._WINDOW = window
        try:
            source = io.BytesIO(images[1]) if streamed else images[1]
            with kdmp.open(images[0]) as first, kdmp.open(source) as second:
                diff = compare_frames(first, second, threads=threads)
                expected = naive(a, b)
                assert as_plain(diff) == expected
                counts = [expected[0], *map(len, expected[1:4]), expected[4]]
                assert list(first.compare(second, 0, 2**40)[1]) == counts
                assert as_plain(compare_frames(second, second, threads=threads)) == naive(b, b)
        finally:
            series_frames._WINDOW = before

    @given(st.sets(st.integers(0, 60)), st.data())
    def test_frame_set(numbers, data):
        frames = FrameSet()
        for number in sorted(numbers):
            frames._add(number, 1)
        plain = sorted(numbers)
        assert list(frames) == plain == frames[:] == frames[::-1][::-1]
        assert len(frames) == len(plain) and bool(frames) == bool(plain)
        assert [number in frames for number in range(-1, 62)] == [n in numbers for n in range(-1, 62)]
        assert "text" not in frames and 1.5 not in frames
        assert [n for first, count in frames.runs for n in range(first, first + count)] == plain
        assert all(a + n < b for (a, n), (b, _) in zip(frames.runs, frames.runs[1:], strict=False))
        for at in (*range(len(plain)), *range(-len(plain), 0)):
            assert frames[at] == plain[at]
        for at in (len(plain), -len(plain) - 1):
            with pytest.raises(IndexError):
                frames[at]
        assert array("Q", frames).tolist() == plain


@pytest.mark.parametrize("io_kind", ["map", "read"])
def test_files(tmp_path, io_kind):
    a = {pfn: stamp(pfn) for pfn in range(1, 50)}
    b = {**a, 7: stamp(99), 48: stamp(98), 60: stamp(60)}
    del b[20]
    paths = tmp_path / "a.dmp", tmp_path / "b.dmp"
    for path, pages, kind in zip(paths, (a, b), (FULL, RANGES8), strict=True):
        path.write_bytes(build(kind, pages))
    with kdmp.open(paths[0], io=io_kind) as first, kdmp.open(paths[1], io="read") as second:
        assert as_plain(compare_frames(first, second)) == naive(a, b)


def test_frames_far_apart():
    """A window is found by halving, not by going through all numbers there could be."""
    far = (1 << 33) - 2
    first = runs_dump([(1, 2), (far, 1)])
    second = runs_dump([(2, 1), (far, 2)])
    with kdmp.open(first) as a, kdmp.open(second) as b:
        diff = compare_frames(a, b, threads=2)
        assert as_plain(diff)[:4] == (0, [2, far], [1], [far + 1])


def test_truncated_frames_are_not_there():
    image = build(FULL, {pfn: stamp(pfn) for pfn in range(1, 9)})
    with kdmp.open(image) as whole, kdmp.open(image[: -2 * PAGE - 5]) as cut:
        diff = compare_frames(whole, cut)
        assert as_plain(diff) == (5, [], [6, 7, 8], [], 0)


class Broken(io.BytesIO):
    """A file that fails once it is told to."""

    broken = False

    def read(self, size=-1):
        if self.broken:
            raise LookupError("the cable is loose")
        return super().read(size)


@pytest.mark.parametrize("swapped", [False, True])
def test_errors_of_a_file_object_come_through(swapped):
    image = build(FULL, {1: stamp(1), 2: stamp(2)})
    file = Broken(image)
    with kdmp.open(image) as good, kdmp.open(file) as bad:
        file.broken = True
        with pytest.raises(LookupError, match="loose"):
            compare_frames(*((bad, good) if swapped else (good, bad)))


def test_a_file_that_shrinks(tmp_path):
    image = build(FULL, {pfn: stamp(pfn) for pfn in range(1, 200)})
    path = tmp_path / "shrinks.dmp"
    path.write_bytes(image)
    with kdmp.open(image) as good, kdmp.open(path, io="read") as bad:
        path.write_bytes(image[: 0x2000 + 100 * PAGE])
        with pytest.raises(OSError):
            compare_frames(good, bad)


def test_compare_arguments():
    image = build(FULL, {1: stamp(1), 2: stamp(2)})
    with kdmp.open(image) as dump, kdmp.open(image) as other:
        data, counts = dump.compare(other, 1, 2)
        assert (data, counts) == (b"", (1, 0, 0, 0, 0))
        assert dump.compare(other, 5, 1) == (b"", (0, 0, 0, 0, 0))
        assert dump.compare(other, 0, 2**64 - 1)[1][0] == 2
        assert dump.compare(other, 2**64 - 2, 2**64 - 1)[1][0] == 0
        for wrong in ("text", None, dump.pages):
            with pytest.raises(TypeError):
                dump.compare(wrong, 0, 1)
        with pytest.raises(OverflowError):
            dump.compare(other, -1, 1)
        with pytest.raises(TypeError):
            dump.compare(other)
        other.close()
        for pair in ((dump, other), (other, dump)):
            with pytest.raises(ValueError, match="closed"):
                pair[0].compare(pair[1], 0, 1)
        dump.close()  # not pinned any more
    with kdmp.open(image) as dump, pytest.raises(ValueError, match="threads"):
        compare_frames(dump, dump, threads=0)


def test_neighbours_are_one_run():
    """Frames that follow each other are one run if the same became of them."""
    before = {p: stamp(p) for p in range(1, 12)}
    after = {p: stamp(p + 100 * (p in (2, 3, 4, 6))) for p in (*range(1, 8), 13, 14)}
    for kind in (FULL, RANGES8):
        with kdmp.open(build(kind, before)) as first, kdmp.open(io.BytesIO(build(kind, after))) as second:
            runs, counts = first.compare(second, 0, 100)
            assert list(struct.iter_unpack("<3Q", runs)) == [
                (2, 3, 1), (6, 1, 1), (8, 4, 2), (13, 2, 3),
            ]  # fmt: skip
            assert counts[:4] == (3, 4, 4, 2)


@pytest.mark.compiles
def test_core_without_room(core):
    """The core gives what fits, and goes on where it stopped."""
    ffi, lib = core.ffi, core.lib
    images = [build(FULL, {p: stamp(p * k) for p in range(1, 9, k)}) for k in (1, 2)]
    dumps = []
    for image in images:
        out = ffi.new("struct kdmp_dump **")
        assert lib.kdmp_open_memory(ffi.from_buffer(image), len(image), out, ffi.NULL) == lib.KDMP_OK
        dumps.append(out[0])
    state = ffi.new("struct kdmp_comparison *", {"end": 2**64 - 1})
    runs, count = ffi.new("struct kdmp_frame_run[1]"), ffi.new("size_t *")
    found = []
    while state.next < state.end:
        status = lib.kdmp_compare_frames(*map(lib.kdmp_get_source, dumps), state, runs, 1, count)
        assert status == lib.KDMP_OK and count[0] <= 1
        found += [(run.pfn, run.count, run.change) for run in runs[0 : count[0]]]
    # frame 1 is stamp(1) and stamp(2)
    assert found == [(1, 1, 1), (2, 1, 2), (3, 1, 1), (4, 1, 2), (5, 1, 1), (6, 1, 2), (7, 1, 1), (8, 1, 2)]
    assert (state.changed, state.only_first, state.only_second, state.same) == (4, 4, 0, 0)
    for dump in dumps:
        lib.kdmp_close(dump)
