"""`Dump.pages`: the captured frames as a set, a sequence of runs, and bytes without a copy.

SPDX-License-Identifier: MIT
"""

import pytest
from agree import agree_on_pages
from dumpbuilder import ALL_KINDS, FULL, bitmap_dump, build, ranges_dump, runs_dump, stamp
from refreader import RefDump

import kdmp

FRAMES = (1, 2, 3, 7, 9, 10, 0x40, 0x41, 0x1234)


@pytest.fixture(params=ALL_KINDS, ids=lambda kind: f"kind{kind}")
def image(request):
    return build(request.param, {pfn: stamp(pfn) for pfn in FRAMES})


@pytest.fixture(params=["memory", "map", "read"])
def dump(request, image, tmp_path):
    if request.param == "memory":
        opened = kdmp.open(image)
    else:
        path = tmp_path / "image.dmp"
        path.write_bytes(image)
        opened = kdmp.open(path, io=request.param)
    with opened:
        yield opened


def test_all_frames(dump, image):
    assert list(dump.pages) == list(FRAMES)
    agree_on_pages(dump, RefDump(image))


def test_len_and_in(dump):
    assert len(dump.pages) == len(FRAMES)
    assert all(pfn in dump.pages for pfn in FRAMES)
    assert not any(pfn in dump.pages for pfn in (0, 4, 8, 0x42, 0x1233, 0x1235, 1 << 40, (1 << 64) - 1))
    assert not any(thing in dump.pages for thing in (-1, 1 << 64, 1.0, "1", None))


def test_window(dump):
    """Slicing is by frame number, as with a sorted set, and does not make a list."""
    window = dump.pages[2:0x41]
    assert list(window) == [2, 3, 7, 9, 10, 0x40]
    assert len(window) == 6
    assert 2 in window and 0x41 not in window and 1 not in window
    assert list(window[3:10]) == [3, 7, 9]
    assert list(window[0:3]) == [2], "a window of a window cannot grow"
    assert list(dump.pages[4:7]) == [] and len(dump.pages[4:7]) == 0
    assert list(dump.pages[0x41:]) == [0x41, 0x1234]
    assert list(dump.pages[:3]) == [1, 2]
    assert [(run.pfn, run.count) for run in window.runs()] == [(2, 2), (7, 1), (9, 2), (0x40, 1)]


def test_slices_with_a_step_are_refused(dump):
    with pytest.raises(ValueError):
        dump.pages[0:10:2]


def test_page_bytes(dump):
    for pfn in FRAMES:
        page = dump.pages[pfn]
        assert isinstance(page, memoryview)
        assert (page.nbytes, page.readonly, page.itemsize) == (0x1000, True, 1)
        assert bytes(page) == stamp(pfn)


@pytest.mark.parametrize("pfn", [0, 4, 0x1235, 1 << 40])
def test_missing_page(dump, pfn):
    with pytest.raises(kdmp.NotInDumpError) as caught:
        dump.pages[pfn]
    assert isinstance(caught.value, LookupError)
    assert caught.value.pa == pfn << 12


def test_page_outside_its_window(dump):
    with pytest.raises(LookupError):
        dump.pages[2:5][7]


def test_runs(dump, image):
    runs = list(dump.pages.runs())
    assert [(run.pfn, run.count) for run in runs] == [(1, 3), (7, 1), (9, 2), (0x40, 2), (0x1234, 1)]
    for run in runs:
        assert image[run.file_offset :][:0x1000] == stamp(run.pfn)
        assert tuple(run) == (run.pfn, run.count, run.file_offset)


def test_iteration_twice_and_partly(dump):
    pages = dump.pages
    once = iter(pages)
    assert [next(once), next(once)] == [1, 2]
    assert list(pages) == list(FRAMES)
    assert list(once) == list(FRAMES[2:])


def test_truncated_page():
    image = build(FULL, {pfn: stamp(pfn) for pfn in FRAMES})[:-1]
    with kdmp.open(image) as dump:
        assert (len(dump.pages), dump.truncated) == (len(FRAMES) - 1, 1)
        assert 0x1234 not in dump.pages
        with pytest.raises(kdmp.TruncatedError):
            dump.pages[0x1234]


def test_a_view_outlives_its_dump():
    """The bytes stay valid as long as somebody looks at them."""
    image = build(FULL, {pfn: stamp(pfn) for pfn in FRAMES})
    view = kdmp.open(image).pages[7]
    del image
    assert bytes(view) == stamp(7)


@pytest.mark.parametrize(
    "image",
    [
        runs_dump([(5, 2), (6, 3), (1, 1)]),
        runs_dump([(10, 4), (10, 4)]),
        runs_dump([(10, 10), (12, 2), (8, 20)]),
        runs_dump([(3, 0), (4, 1), (5, 0)]),
        runs_dump([((1 << 40) - 1, 1), (0, 1)]),
        runs_dump([(2 * k, 1) for k in range(43)]),
        ranges_dump([(9, 1), (3, 2)]),
        ranges_dump([(9, 3), (8, 5)], spare=4),
        ranges_dump([(9, 1), (3, 2)], kind=10),
        ranges_dump([(9, 1), (3, 2)], kind=10, spare=7),
        bitmap_dump(1, [0]),
        bitmap_dump(13, [0, 3, 12], extra=[13, 15]),
        bitmap_dump(64, [63]),
        bitmap_dump(65, [0, 64], pad=3),
        bitmap_dump(200, range(200), swap=True),
        bitmap_dump(65_600, [0, 65_535, 65_536, 65_599]),
    ],
)
def test_odd_layouts(image):
    with kdmp.open(image) as dump:
        agree_on_pages(dump, RefDump(image))
