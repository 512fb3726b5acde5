"""Searches: order of the file, each frame once, threads, progress, and the ways they end.

SPDX-License-Identifier: MIT
"""

import gc
import io
import random
import re
import threading
import time

import pytest
from conftest import KERNEL_VA
from dumpbuilder import GB1, PAGE, Memory, P, Tables, U, W, ranges_dump
from searchoracle import hits, pages, runs, search
from test_search import noise, space

import kdmp
from kdmp import Pattern, scanning, search_engine, search_jobs
from kdmp.search_frames import Frames


@pytest.fixture
def small_steps(monkeypatch):
    """Threads take a page at a time, and the core a bit of it."""
    monkeypatch.setattr(search_engine, "_SHARE", PAGE)
    monkeypatch.setattr(search_engine, "_SLICE", 512)
    monkeypatch.setattr(search_engine, "_BUNCH", 3)
    monkeypatch.setattr(search_engine, "_HELD", 5)


def search_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("kdmp-search")]


# ---- order of the file ----


def shuffled(ranges):
    """A dump whose frames lie in the file in this order of (frame, count)."""
    content = [noise(k) for k in range(sum(count for _, count in ranges))]
    return kdmp.Dump(ranges_dump(ranges, pages=content))


@pytest.mark.parametrize(
    "ranges",
    [
        [(5, 3)],
        [(5, 3), (9, 1), (20, 2)],
        [(20, 2), (5, 3), (8, 1)],
        [(8, 1), (5, 3), (9, 2)],
        [(3, 1), (9, 1), (4, 1), (8, 1), (5, 1)],
    ],
    ids=str,
)
@pytest.mark.parametrize("threads", [1, 2])
def test_file_order(ranges, threads, small_steps):
    dump = shuffled(ranges)
    for what in (b"ab", [b"ba", re.compile(rb"\0a"), "B"]):
        found = list(dump.phys.search(what, order="file", threads=threads))
        assert sorted(hits(found)) == sorted(search(dump.phys, what))
        assert [match.offset for match in found] == sorted(match.offset for match in found)
        places = {match.offset: match.pa for match in found}
        assert all(dump.read_file(offset, 1) == dump.phys.read(pa, 1) for offset, pa in places.items())


def test_jobs_of_a_sorted_file_are_few():
    dump = shuffled([(5, 3), (9, 1), (20, 2), (2, 1)])
    arguments = {"unique": False, "longest": 9, "share": None}
    parts = list(search_jobs.jobs(dump.phys, 0, (1 << 64) - 1, "file", **arguments))
    assert [(part.start, part.last) for part in parts] == [(0x5000, 0x15FFF), (0x2000, 0x2FFF)]


# ---- each frame once ----


def once(reader, found):
    """Of `found` what contains a frame, or has two side by side, that lower addresses have not."""
    frames, joins, new, crossings = set(), set(), set(), set()
    before = None
    for va, _ in pages(reader):
        pfn = reader.translate(va).pfn
        if pfn not in frames:
            frames.add(pfn)
            new.add(va)
        if before is not None and before[0] + PAGE == va and (before[1], pfn) not in joins:
            joins.add((before[1], pfn))
            crossings.add(va)
        before = va, pfn
    return [
        hit
        for hit in found
        for first, last in [(hit[0] & -PAGE, hit[0] + hit[2] - 1 & -PAGE)]
        if any(va in new for va in range(first, last + PAGE, PAGE))
        or any(va in crossings for va in range(first + PAGE, last + PAGE, PAGE))
    ]


@pytest.mark.parametrize("seed", range(14))
def test_unique_against_oracle(seed, monkeypatch):
    rng = random.Random(seed)
    threads = 1 + seed % 2
    monkeypatch.setattr(search_jobs, "_MOST", rng.choice([PAGE // 2, PAGE, 1 << 28]))
    frames = [rng.choice([None, 0x20, 0x21, 0x22, 0x23]) for _ in range(9)]
    reader = space(frames, {0x20 + k: noise(k) for k in range(4)})
    for what in (b"ab", [b"aabb", "bb"], b"B\0a", Pattern.bytes(bytes(9000), b"\0" * 8999 + b"\1")):
        found = hits(reader.search(what, unique=True, threads=threads))
        assert found == once(reader, search(reader, what))
    token = re.compile(rb"\0[ab]{4}\0")  # those of one cannot overlap those of the next but in the zeros
    lone = re.compile(rb"(?<=\0)[ab]{4}(?=\0)")
    for what in (token, lone):
        everything = search(reader, what)
        found = hits(reader.search(what, unique=True))
        assert set(found) <= set(everything)
    assert found == once(reader, everything)


def test_unique_in_a_space_that_has_no_end():
    """A GiB again and again, of which the dump has a few pages."""
    memory = Memory()
    tables = Tables(memory)
    memory.put(0x30000, b"needle")
    for k in range(500):
        tables.map(KERNEL_VA + k * GB1, 0, size=GB1, flags=P | W | U)
    reader = kdmp.Dump(memory.dump(minor_version=19041)).reader(dtb=0x1000, paging="x64", discover=False)
    assert [match.va for match in reader.search(b"needle", unique=True)] == [KERNEL_VA + 0x30000]
    assert len(list(reader.search(b"needle"))) == 500


def test_part_of_a_frame_does_not_count_as_seen():
    reader = space([0x20, 0x20], {0x20: b"ab" + bytes(PAGE - 4) + b"ab"})
    found = [match.va - KERNEL_VA for match in reader.search(b"ab", KERNEL_VA + 8, unique=True)]
    assert found == [PAGE - 2, PAGE, 2 * PAGE - 2]


def test_frames():
    frames = Frames()
    assert list(frames.add(10, 3)) == [(10, 3, True)]
    assert list(frames.add(8, 8)) == [(8, 2, True), (10, 3, False), (13, 3, True)]
    assert not frames.join(10, 11)
    assert frames.join(9, 10)
    assert not frames.join(9, 10)
    assert list(frames.add(8, 8)) == [(8, 5, False), (13, 3, False)]  # 12 and 13 were not joined
    assert frames.join(12, 13)
    assert list(frames.add(8, 8)) == [(8, 8, False)]
    assert frames.join(5, 50) and not frames.join(5, 50) and frames.join(50, 5)
    assert frames.join(None, 5) and frames.join(5, None)
    big = list(frames.add(4000, 10000))
    assert sum(count for _, count, _ in big) == 10000 and all(new for *_, new in big)
    assert all(not new for *_, new in frames.add(4000, 10000))


# ---- threads ----


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(threads, small_steps):
    reader = space([0x20, 0x21, None, 0x22, 0x20, 0x23], {0x20 + k: noise(k) for k in range(4)})
    for some in (reader, reader.dump.phys):
        for what in (b"a", [b"ab", "b", range(1 << 60)], [b"ab", re.compile(rb"b\0")]):
            found = some.search(what, threads=threads)
            assert hits(found) == search(some, what)
            assert found.complete
            assert found.progress[0] == sum(len(data) for _, data in runs(some))
        assert not search_threads()


def test_threads_end_with_the_search(small_steps):
    reader = space([0x20] * 60, {0x20: noise(0)})
    expected = search(reader, b"ab")

    found = reader.search(b"ab", threads=3)
    next(found)
    assert search_threads()
    found.close()
    assert not search_threads()
    assert found.cancelled and not found.complete
    assert list(found) == []
    found.close()

    with reader.search(b"ab", threads=3) as found:
        next(found)
    assert not search_threads()

    found = reader.search(b"ab", threads=3, limit=5)
    assert hits(found) == expected[:5]
    assert not search_threads()

    for _ in reader.search(b"ab", threads=3):
        break
    del found
    gc.collect()
    deadline = time.monotonic() + 20
    while search_threads() and time.monotonic() < deadline:
        time.sleep(0.01)  # a thread may have something in hand
    assert not search_threads()


def test_an_error_leaves_no_thread(small_steps):
    class Failing(io.BytesIO):
        def read(self, *size):
            if self.fail:
                raise OSError(5, "the medium fails")
            return super().read(*size)

    memory = Memory()
    memory.fill(*range(0x20, 0x40))
    file = Failing(memory.dump())
    file.fail = False
    dump = kdmp.Dump(file)
    file.fail = True
    found = dump.phys.search(b"ab", threads=3)
    with pytest.raises(OSError, match="medium"):
        list(found)
    assert not search_threads()
    assert found.cancelled

    def progress(done, total):
        raise KeyError("from progress")

    file.fail = False
    found = dump.phys.search(b"\0", threads=3, progress=progress)
    with pytest.raises(KeyError):
        list(found)
    assert not search_threads()


# ---- progress and cancelling ----


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("what", [b"ab", re.compile(b"ab"), [b"ab", re.compile(b"b")]])
def test_progress(threads, what, monkeypatch, small_steps):
    monkeypatch.setattr(scanning, "_INTERVAL", 0)
    reader = space([0x20, 0x21, None, 0x22, 0x20, 0x23], {0x20 + k: noise(k) for k in range(4)})
    calls = []
    found = reader.search(what, progress=lambda *at: calls.append(at), threads=threads)
    assert found.progress == (0, 5 * PAGE)
    list(found)
    assert calls[-1] == found.progress == (5 * PAGE, 5 * PAGE)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert {total for _, total in calls} == {5 * PAGE}
    assert len(calls) > 3


def test_progress_is_told_now_and_then():
    reader = space([0x20] * 100, {0x20: noise(0)})
    calls = []
    list(reader.search(re.compile(b"ab"), progress=lambda *at: calls.append(time.monotonic())))
    assert 1 <= len(calls) <= 3 + 25 * (calls[-1] - calls[0])


@pytest.mark.parametrize("threads", [1, 3])
def test_cancel_from_another_thread(threads, small_steps):
    reader = space([0x20] * 200, {0x20: noise(0)})
    found = reader.search(b"a", threads=threads)
    first = next(found)
    other = threading.Thread(target=found.cancel)
    other.start()
    other.join(20)
    assert list(found) == []
    assert first and found.cancelled and not found.complete
    assert not search_threads()


def test_cancel_from_progress(monkeypatch, small_steps):
    monkeypatch.setattr(scanning, "_INTERVAL", 0)
    reader = space([0x20] * 20, {0x20: noise(0)})
    for end in ("cancel", "close"):
        for what in (b"nothing like it", re.compile(b"nothing like it")):
            scans = []

            def progress(done, total, end=end, scans=scans):
                if done > 4 * PAGE:
                    getattr(scans[0], end)()

            found = reader.search(what, progress=progress)
            scans.append(found)
            assert list(found) == []
            assert found.cancelled
            assert 4 * PAGE < found.progress[0] < 8 * PAGE


def test_interrupt(monkeypatch, small_steps):
    monkeypatch.setattr(scanning, "_INTERVAL", 0)
    reader = space([0x20] * 20, {0x20: noise(0)})

    def progress(done, total):
        raise KeyboardInterrupt

    for threads in (1, 2):
        found = reader.search(b"nothing", progress=progress, threads=threads)
        with pytest.raises(KeyboardInterrupt):
            list(found)
        assert found.cancelled
        assert not search_threads()


def test_tables_without_an_end():
    memory = Memory()
    for index in range(0, 512, 12):
        memory.put_u64(0x1000 + 8 * index, 0x1067)
    reader = kdmp.Reader(kdmp.Dump(memory.dump()), paging="x64", dtb=0x1000)
    for arguments in ({}, {"threads": 2}, {"unique": True}):
        with pytest.raises(kdmp.KdmpError, match="without an end"):
            list(reader.search(b"nothing like it", **arguments))
    found = reader.search(b"nothing like it")
    assert found.progress[1] > 0


def test_two_searches_at_once():
    reader = space([0x20, 0x21], {0x20: noise(0), 0x21: noise(1)})
    expected = search(reader, b"ab")
    first, second = reader.search(b"ab"), reader.search(b"ab", threads=2)
    assert [(a.va, b.va) for a, b in zip(first, second, strict=True)] == [
        (hit[0], hit[0]) for hit in expected
    ]
