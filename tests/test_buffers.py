"""Buffers: pages and the whole file as memoryviews, and reads into memory of the caller's.

SPDX-License-Identifier: MIT
"""

import array
import ctypes
import gc

import pytest
from conftest import KERNEL_VA
from dumpbuilder import PAGE, stamp

import kdmp

MAPPED = KERNEL_VA  # data frames 0x20 and 0x21 follow each other, then nothing


@pytest.fixture(params=["memory", "map", "read"])
def dump(request, small_image, small_path):
    source = small_image if request.param == "memory" else small_path
    with kdmp.Dump(source, io="read" if request.param == "read" else "map") as dump:
        yield dump


@pytest.fixture
def reader(dump):
    return dump.reader(dtb=0x1000, paging="x64")


# ---- pages ----


def test_page_is_a_read_only_view(dump):
    page = dump.pages[0x21]
    assert isinstance(page, memoryview)
    assert (page.nbytes, page.itemsize, page.format, page.ndim, page.readonly) == (PAGE, 1, "B", 1, True)
    assert page == stamp(0x21)
    with pytest.raises(TypeError):
        page[0] = 1


def test_page_slices_are_views(dump):
    page = dump.pages[0x21]
    assert page[8:16] == stamp(0x21)[8:16]
    assert page[-8:].cast("I").tolist() == [0x21, PAGE // 8 - 1]
    assert page[::2].tobytes() == stamp(0x21)[::2]


def test_two_views_of_one_page(dump):
    one, two = dump.pages[0x21], dump.pages[0x21]
    one.release()
    assert two == stamp(0x21)


def test_page_views_do_not_copy_when_mapped(small_path):
    with kdmp.Dump(small_path) as dump:
        one, two = dump.pages[0x21], dump.pages[0x21]
        numpy = pytest.importorskip("numpy")
        address = numpy.frombuffer(one, "u1").ctypes.data
        assert address == numpy.frombuffer(two, "u1").ctypes.data
        assert address % PAGE == 0
        one.release()
        two.release()


def test_missing_page(dump):
    with pytest.raises(kdmp.NotInDumpError):
        dump.pages[0x22]
    with pytest.raises((LookupError, OverflowError)):
        dump.pages[-1]


@pytest.mark.parametrize("io", ["memory", "map"])
def test_view_keeps_the_dump_open(io, small_image, small_path):
    dump = kdmp.Dump(small_image if io == "memory" else small_path)
    page = dump.pages[0x21]
    with pytest.raises(BufferError):
        dump.close()
    assert not dump.closed
    assert page == stamp(0x21)
    page.release()
    dump.close()
    assert dump.closed
    dump.close()


def test_view_outlives_the_last_reference(small_path):
    page = kdmp.Dump(small_path).pages[0x21]
    gc.collect()
    assert page == stamp(0x21)


def test_source_buffer_is_held_and_released(small_image):
    source = bytearray(small_image)
    dump = kdmp.Dump(source)
    with pytest.raises(BufferError):
        source.append(0)
    dump.close()
    source.append(0)
    with pytest.raises(kdmp.WrongFileError):
        kdmp.Dump(view := bytearray(b"text"))
    view.append(0)  # a failed open holds nothing


def test_dump_as_a_buffer(small_image, small_path):
    with kdmp.Dump(small_path) as dump:
        try:
            view = memoryview(dump)
        except TypeError:
            pytest.skip("dumps do not export their bytes")
        assert view == small_image
        assert view.readonly
        with pytest.raises(BufferError):
            dump.close()
        view.release()


# ---- sources ----


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, lambda b: memoryview(bytearray(b))])
def test_sources(wrap, small_image):
    with kdmp.Dump(wrap(small_image)) as dump:
        assert dump.pages[0x21] == stamp(0x21)


def test_source_array_and_numpy(small_image):
    for source in (array.array("Q", small_image), numpy_bytes(small_image)):
        with kdmp.Dump(source) as dump:
            assert len(dump.pages) == len(list(dump.pages))
            assert dump.pages[0x21] == stamp(0x21)


def test_source_that_is_not_contiguous(small_image):
    with pytest.raises((BufferError, ValueError)):
        kdmp.Dump(memoryview(small_image)[::2])


def numpy_bytes(data):
    numpy = pytest.importorskip("numpy")
    return numpy.frombuffer(data, "u1")


# ---- read_into ----

TARGETS = {
    "bytearray": lambda: bytearray(16),
    "memoryview": lambda: memoryview(bytearray(32))[8:24],
    "array": lambda: array.array("I", [0] * 4),
    "ctypes": lambda: (ctypes.c_uint64 * 2)(),
    "two dimensions": lambda: memoryview(bytearray(16)).cast("B", (4, 4)),
}


@pytest.mark.parametrize("name", TARGETS)
def test_read_into(name, reader):
    target = TARGETS[name]()
    assert reader.read_into(MAPPED + 0x1008, target) == 16
    assert bytes(memoryview(target).tobytes()) == stamp(0x21)[8:24]


def test_read_into_touches_only_the_slice(reader):
    whole = bytearray(b"\xcc" * 32)
    assert reader.read_into(MAPPED + 0x1000, memoryview(whole)[8:24]) == 16
    assert whole == b"\xcc" * 8 + stamp(0x21)[:16] + b"\xcc" * 8


def test_read_into_numpy(reader):
    numpy = pytest.importorskip("numpy")
    target = numpy.zeros(PAGE // 4, "<u4")
    assert reader.read_into(MAPPED + 0x1000, target) == PAGE
    assert target.tobytes() == stamp(0x21)
    with pytest.raises((BufferError, ValueError)):
        reader.read_into(MAPPED, target[::2])


def test_read_into_is_short_at_a_hole(reader):
    target = bytearray(b"\xcc" * 64)
    assert reader.read_into(MAPPED + 0x1FF0, target) == 16
    assert target == stamp(0x21)[-16:] + b"\xcc" * 48


def test_read_into_nothing_there(reader):
    target = bytearray(b"\xcc" * 8)
    assert reader.read_into(MAPPED + 0x2000, target) == 0
    assert target == b"\xcc" * 8
    with pytest.raises(TypeError):
        reader.read_into("no address", target)
    target.append(0)  # not held, not after a failure either


def test_read_into_empty(reader):
    assert reader.read_into(MAPPED, bytearray()) == 0
    assert reader.read_into(MAPPED + 0x2000, bytearray()) == 0


@pytest.mark.parametrize("target", [bytes(8), memoryview(bytearray(8)).toreadonly(), "text", 8, None])
def test_read_into_refuses(target, reader):
    with pytest.raises((TypeError, BufferError)):
        reader.read_into(MAPPED, target)


def test_read_into_releases_its_target(reader):
    target = bytearray(8)
    for _ in range(3):
        reader.read_into(MAPPED, target)
        target.extend(b"x")
    assert len(target) == 11
