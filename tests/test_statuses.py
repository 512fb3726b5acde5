"""Every status of the core, produced on purpose, and the exception it becomes.

SPDX-License-Identifier: MIT
"""

import errno

import pytest
from conftest import KERNEL_VA
from dumpbuilder import LARGE, Memory, P, Tables, W, patched

import kdmp

UNMAPPED = KERNEL_VA + 0x2000
NOT_CAPTURED = KERNEL_VA + 0x3000


def reader(image, **options):
    return kdmp.Dump(image).reader(dtb=0x1000, paging="x64", **options)


def last_page_image():
    memory = Memory()
    Tables(memory).map(0xFFFF_FFFF_FFFF_F000, 0x20000)
    memory.fill(0x20)
    return memory.dump()


def bad_entry_image():
    memory = Memory()
    memory.put_u64(0x1000, 0x2000 | P | W | LARGE)
    memory.fill(2)
    return memory.dump()


class Broken:
    """A file whose disk fails after the header."""

    def __init__(self, data, works):
        self.data, self.works, self.at = data, works, 0

    def seek(self, offset, whence=0):
        self.at = offset + (len(self.data) if whence == 2 else self.at if whence == 1 else 0)
        return self.at

    def read(self, size):
        if self.at >= self.works:
            raise OSError(errno.EIO, "the disk fails")
        data = self.data[self.at : self.at + size]
        self.at += len(data)
        return data


# By status: (the exception's class, a function of a good image that must raise it).
PRODUCERS = {
    "KDMP_E_OS": (OSError, lambda image: kdmp.Dump("/nonexistent/kdmp.dmp")),
    "KDMP_E_WRONG_FILE": (kdmp.WrongFileError, lambda image: kdmp.Dump(b"MDMP" + bytes(0x2000))),
    "KDMP_E_FORMAT": (kdmp.FormatError, lambda image: kdmp.Dump(image[:0x1FFF])),
    "KDMP_E_UNSUPPORTED": (
        kdmp.UnsupportedDumpError,
        lambda image: kdmp.Dump(patched(image, kind=0x77)[:-1]),
    ),
    "KDMP_E_NOT_PRESENT": (kdmp.NotPresentError, lambda image: reader(image).translate(UNMAPPED)),
    "KDMP_E_NOT_IN_DUMP": (kdmp.NotInDumpError, lambda image: kdmp.Dump(image).phys.read_u8(0x99000)),
    "KDMP_E_TRUNCATED": (kdmp.TruncatedError, lambda image: kdmp.Dump(image[:-1]).phys.read_u8(0x21000)),
    "KDMP_E_NON_CANONICAL": (kdmp.NonCanonicalError, lambda image: reader(image).translate(1 << 47)),
    "KDMP_E_BAD_ENTRY": (kdmp.BadEntryError, lambda image: reader(bad_entry_image()).translate(0)),
    "KDMP_E_ADDRESS_END": (
        kdmp.AddressEndError,
        lambda image: raise_reason(reader(last_page_image()).read_exact, 2**64 - 8, 16),
    ),
}

# What the binding never shows: tests of the core alone.
ELSEWHERE = {
    "KDMP_OK": "any other test",
    "KDMP_E_NOMEM": "test_no_memory below, tests/c/test_oom.c",
    "KDMP_E_ARGUMENT": "test_core_cffi.py: test_strings",
    "KDMP_E_LIMIT": "test_core_cffi.py: test_strings",
}


def raise_reason(function, *args):
    """Call a function that reads partly; raise the reason of the first missing byte."""
    try:
        return function(*args)
    except kdmp.PartialReadError as exc:
        raise exc.reason from exc


@pytest.mark.parametrize("name", PRODUCERS)
def test_status(name, small_image):
    kind, produce = PRODUCERS[name]
    with pytest.raises(kind) as exc:
        produce(small_image)
    assert str(exc.value)


@pytest.mark.compiles
def test_every_status_has_a_producer(core):
    names = [
        core.ffi.string(core.lib.kdmp_status_name(k)).decode() for k in range(core.lib.KDMP_STATUS_COUNT)
    ]
    assert set(names) == PRODUCERS.keys() | ELSEWHERE.keys()


@pytest.mark.compiles
def test_no_memory(core, small_image):
    """Each allocation of an open fails once; nothing but KDMP_E_NOMEM comes of it."""
    ffi, lib = core.ffi, core.lib
    image = ffi.from_buffer(small_image)
    for nth in range(100):
        out, error = ffi.new("struct kdmp_dump **"), ffi.new("struct kdmp_error *")
        lib.kdmp_test_fail_alloc(nth)
        status = lib.kdmp_open_memory(image, len(small_image), out, error)
        failed = lib.kdmp_test_alloc_failed()
        lib.kdmp_test_fail_alloc(-1)
        if not failed:
            assert (status, nth > 1) == (lib.KDMP_OK, True)
            lib.kdmp_close(out[0])
            return
        assert (status, out[0], error.status) == (lib.KDMP_E_NOMEM, ffi.NULL, lib.KDMP_E_NOMEM)
    pytest.fail("an open that never ran out of allocations")


def test_os_error_names_the_file(tmp_path):
    path = tmp_path / "missing.dmp"
    with pytest.raises(FileNotFoundError) as exc:
        kdmp.Dump(path)
    assert exc.value.errno == errno.ENOENT
    assert str(path) in str(exc.value.filename)


def test_os_error_while_reading(small_image):
    dump = kdmp.Dump(Broken(small_image, works=0x5000))
    assert dump.phys.read(0x1000, 8) == small_image[0x2000:0x2008]
    with pytest.raises(OSError, match="the disk fails"):
        dump.phys.read_exact(0x21000, 8)


def test_a_closed_dump(small_image):
    dump = kdmp.Dump(small_image)
    reader = dump.phys
    dump.close()
    with pytest.raises(ValueError, match="closed"):
        reader.read(0x1000, 1)
