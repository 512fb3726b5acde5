"""Reads of many pages, which take other ways than reads of few, give what those give.

SPDX-License-Identifier: MIT
"""

import ctypes
import io
import random

import pytest
from archtables import MODES
from dumpbuilder import PAGE, TRANSITION, Memory, P, Tables, W, stamp
from hypothesis import given, settings
from hypothesis import strategies as st
from test_extents import dense

import kdmp

KIB = 1024


def small_reads(reader, address, size):
    """What reads of single pages give of a range, up to the first byte that is missing."""
    data = b""
    while len(data) < size:
        want = min(PAGE - (address + len(data)) % PAGE, size - len(data))
        got = reader.read(address + len(data), want)
        data += got
        if len(got) < want:
            break
    return data


def sources(image, folder):
    """The dump mapped, read, in memory, from a file object."""
    path = folder / "dump"
    path.write_bytes(image)
    return kdmp.open(path), kdmp.open(path, io="read"), kdmp.open(image), kdmp.open(io.BytesIO(image))


@pytest.mark.parametrize("zero_fill", [False, True])
@pytest.mark.parametrize("paging", MODES)
def test_whole_tables(paging, zero_fill, tmp_path):
    """From every extent, and from within, up to the next hole and over made-up pages."""
    rng = random.Random(f"{paging} {zero_fill}")
    image, _, root, start, count = dense(paging, rng)
    last = start + count * PAGE - 1
    readers = [
        dump.reader(paging=paging, dtb=root, invalid_pte_mask=0, zero_fill=zero_fill)
        for dump in sources(image, tmp_path)
    ]
    longest = 0
    for one in list(readers[0].extents(start, last))[::3]:
        for address in (one.address, one.address + one.size // 2 + 5):
            size = min(rng.choice((64 * KIB, 64 * KIB + 1, 200 * KIB, 1024 * KIB)), last - address + 1)
            want = small_reads(readers[0], address, size)
            longest = max(longest, len(want))
            for reader in readers:
                assert reader.read(address, size) == want, hex(address)
    assert longest > 64 * KIB


@pytest.fixture(scope="module")
def pattern():
    """600 pages: frames in disorder and in a row, a page file, zeros. Image, page file, address, content."""
    memory, rng = Memory(), random.Random(1)
    tables = Tables(memory)
    frames = rng.sample(range(0x1000, 0x1800), 600)
    for first in (40, 300):
        frames[first : first + 40] = range(0x900 + first, 0x928 + first)
    memory.fill(*frames)
    va = 0xFFFF_9000_0000_0000
    content = []
    for k, pfn in enumerate(frames):
        if k % 97 == 50:
            tables.raw(va + k * PAGE, 4 << 5 if k == 50 else k << 32)
            content.append(bytes(PAGE) if k == 50 else stamp(0x5000 + k))
        else:
            tables.raw(va + k * PAGE, pfn * PAGE | (TRANSITION if k % 7 == 3 else P | W))
            content.append(bytes(memory.pages[pfn]))
    pages = b"".join(stamp(0x5000 + k) for k in range(600))
    return memory.dump(kind=5), pages, va, b"".join(content)


@pytest.fixture(scope="module", params=["map", "read"])
def reader(pattern, request, tmp_path_factory):
    image, pages, _, _ = pattern
    folder = tmp_path_factory.mktemp("large")
    (folder / "pagefile.sys").write_bytes(pages)
    (folder / "dump").write_bytes(image)
    dump = kdmp.open(folder / "dump", io=request.param, pagefiles=[folder / "pagefile.sys"])
    return dump.reader(invalid_pte_mask=0, zero_fill=True)


@given(
    at=st.integers(0, 600 * PAGE - 1),
    size=st.one_of(st.integers(1, 600 * PAGE), st.integers(63 * KIB, 65 * KIB)),
    shift=st.integers(0, 100),
    apart=st.none() | st.integers(-2, 40),
)
@settings(max_examples=80, deadline=None)
def test_any_part(reader, pattern, at, size, shift, apart):
    """Any part into any place, also one that lies a few bytes (`apart`) higher in its page than the source.

    Bytes around it stay as they are."""
    _, _, va, content = pattern
    target = bytearray(b"\xa5" * (shift + size + 70))
    if apart is not None:
        place = ctypes.addressof(ctypes.c_char.from_buffer(target)) + shift
        at = at // PAGE * PAGE + (place - apart) % PAGE
    want = content[at : at + size]
    with memoryview(target)[shift : shift + size] as part:
        assert reader.read_into(va + at, part) == len(want)
    assert target[shift : shift + len(want)] == want
    assert set(target[:shift]) | set(target[shift + len(want) :]) <= {0xA5}


def test_what_was_written_is_read(reader, pattern):
    """Frames of an overlay, in a row and alone."""
    _, _, va, content = pattern
    dump = reader.dump
    view = dump.overlay()
    writer = dump.reader(view=view, invalid_pte_mask=0, zero_fill=True)
    assert writer.read(va, len(content)) == content
    want = bytearray(content)
    for at in (0, 5 * PAGE + 77, 60 * PAGE - 3, 61 * PAGE, 62 * PAGE, 599 * PAGE + 10):
        writer.write(va + at, b"written")
        want[at : at + 7] = b"written"
    for at, size in ((0, len(want)), (4 * PAGE + 1, 20 * PAGE), (59 * PAGE, 64 * KIB)):
        assert writer.read(va + at, size) == want[at : at + size]
        assert reader.read(va + at, size) == content[at : at + size]


def test_the_end_of_all_addresses():
    memory = Memory()
    tables = Tables(memory)
    memory.fill(*range(0x100, 0x120))
    for k in range(32):
        tables.map((1 << 64) - (32 - k) * PAGE, (0x100 + k) * PAGE)
    reader = kdmp.open(memory.dump()).reader()
    start = (1 << 64) - 32 * PAGE
    whole = b"".join(bytes(memory.pages[0x100 + k]) for k in range(32))
    assert reader.read(start, 32 * PAGE) == whole
    assert reader.read(start, 33 * PAGE) == whole
    with pytest.raises(kdmp.PartialReadError) as info:
        reader.read_exact(start + 5, 64 * PAGE)
    assert isinstance(info.value.reason, kdmp.AddressEndError)
    assert info.value.actual == 32 * PAGE - 5
