"""The C core without the binding, through cffi in API mode, beside the extension.

SPDX-License-Identifier: MIT
"""

import os

import pytest
from conftest import KERNEL_VA, small_machine
from dumpbuilder import ALL_KINDS, PAGE, Memory, P, Tables

import kdmp

pytestmark = pytest.mark.compiles

X64, PHYSICAL = "KDMP_PAGING_X64", "KDMP_PAGING_PHYSICAL"


class Core:
    """A dump opened by the core from bytes; closed by the context manager."""

    def __init__(self, core, image):
        self.ffi, self.lib = core.ffi, core.lib
        self.image = self.ffi.from_buffer(image)
        self.error = self.ffi.new("struct kdmp_error *")
        out = self.ffi.new("struct kdmp_dump **")
        self.status = self.lib.kdmp_open_memory(self.image, len(image), out, self.error)
        self.dump = out[0]

    def __enter__(self):
        assert self.status == self.lib.KDMP_OK, self.ffi.string(self.error.message)
        return self

    def __exit__(self, *exc):
        self.lib.kdmp_close(self.dump)

    @property
    def info(self):
        return self.lib.kdmp_get_info(self.dump)

    def space(self, paging, root=0x1000):
        space = self.ffi.new("struct kdmp_space *")
        space.source = self.lib.kdmp_get_source(self.dump)
        space.dump = self.dump
        space.root = root
        space.paging = getattr(self.lib, paging)
        return space

    def read(self, space, address, size):
        """(status, bytes, fault)"""
        buffer = self.ffi.new("uint8_t[]", size or 1)
        done = self.ffi.new("uint64_t *")
        fault = self.ffi.new("struct kdmp_fault *")
        status = self.lib.kdmp_read(space, address, buffer, size, done, fault)
        return status, self.ffi.buffer(buffer)[: done[0]], fault

    def translate(self, space, va):
        walk = self.ffi.new("struct kdmp_translation *")
        status = self.lib.kdmp_translate(space, va, walk)
        assert status == walk.status
        return walk


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_same_as_extension(core, kind):
    image = small_machine().dump(kind, number_processors=3)
    with Core(core, image) as c, kdmp.Dump(image) as dump:
        lib = c.lib
        assert c.info.pages_available == len(dump.pages) == lib.kdmp_count_frames(c.dump, 0, 2**64 - 1)
        assert c.info.field[lib.KDMP_F_NUMBER_PROCESSORS] == dump.processors == 3
        assert not lib.kdmp_next_run(c.dump, 2**40, c.ffi.new("struct kdmp_run *"))
        for pfn in dump.pages:
            assert lib.kdmp_frame_status(c.dump, pfn) == lib.KDMP_OK
            status, data, _ = c.read(c.space(PHYSICAL), pfn * PAGE, PAGE)
            assert (status, data) == (lib.KDMP_OK, bytes(dump.pages[pfn]))
        reader = dump.reader(dtb=0x1000, paging="x64")
        space = c.space(X64)
        for address in range(KERNEL_VA, KERNEL_VA + 0x4000, 0x1000):
            walk = c.translate(space, address + 0x123)
            got = reader.try_translate(address + 0x123)
            assert (got.pa if got else None) == (walk.paddr if walk.status == lib.KDMP_OK else None)
            status, data, fault = c.read(space, address + 0xFF0, 0x40)
            assert data == reader.read_gaps(address + 0xFF0, 0x40)[0][: len(data)]
            if status != lib.KDMP_OK:
                with pytest.raises(kdmp.UnreadableError) as exc:
                    reader.read_exact(address + 0xFF0, 0x40)
                assert exc.value.address == fault.address
                assert getattr(exc.value, "data", b"") == data


def test_header_fields_by_name(core, small_image):
    with Core(core, small_image) as c, kdmp.Dump(small_image) as dump:
        names = [c.ffi.string(c.lib.kdmp_field_name(k)).decode() for k in range(c.lib.KDMP_FIELD_COUNT)]
        assert len(set(names)) == c.lib.KDMP_FIELD_COUNT
        for k, name in enumerate(names):
            absent = c.info.absent >> k & 1
            assert dump.header[name] == (None if absent else c.info.field[k]), name
        for number in (-1, c.lib.KDMP_FIELD_COUNT, 2**31 - 1):
            assert c.lib.kdmp_field_name(number) == c.ffi.NULL


def test_runs_and_file_bytes(core, small_image):
    with Core(core, small_image) as c, kdmp.Dump(small_image) as dump:
        run = c.ffi.new("struct kdmp_run *")
        runs, pfn = [], 0
        while c.lib.kdmp_next_run(c.dump, pfn, run):
            runs.append((run.pfn, run.count, run.file_offset))
            pfn = run.pfn + run.count
        assert runs == [tuple(r) for r in dump.pages.runs()]
        size = c.ffi.new("uint64_t *")
        pointer = c.lib.kdmp_file_bytes(c.dump, size)
        assert c.ffi.buffer(pointer, size[0])[:] == small_image
        buffer = c.ffi.new("uint8_t[16]")
        assert c.lib.kdmp_read_file(c.dump, 8, buffer, 16, c.error) == c.lib.KDMP_OK
        assert c.ffi.buffer(buffer)[:] == small_image[8:24]
        assert c.lib.kdmp_read_file(c.dump, len(small_image), buffer, 0, c.error) == c.lib.KDMP_OK
        assert c.lib.kdmp_read_file(c.dump, len(small_image) - 15, buffer, 16, c.error) == c.lib.KDMP_E_FORMAT


def test_strings(core, small_image):
    with Core(core, small_image) as c:
        buffer, done = c.ffi.new("uint8_t[64]"), c.ffi.new("uint64_t *")
        space = c.space(X64)
        assert (
            c.lib.kdmp_read_string(space, KERNEL_VA + 0x100, 1, buffer, 64, done, c.ffi.NULL) == c.lib.KDMP_OK
        )
        assert c.ffi.buffer(buffer)[: done[0]] == b"hello"
        assert (
            c.lib.kdmp_read_string(space, KERNEL_VA + 0x200, 2, buffer, 64, done, c.ffi.NULL) == c.lib.KDMP_OK
        )
        assert c.ffi.buffer(buffer)[: done[0]].decode("utf-16-le") == "hello"
        status = c.lib.kdmp_read_string(space, KERNEL_VA + 0x100, 1, buffer, 3, done, c.ffi.NULL)
        assert (status, done[0]) == (c.lib.KDMP_E_LIMIT, 3)
        status = c.lib.kdmp_read_string(space, KERNEL_VA + 0x100, 3, buffer, 64, done, c.ffi.NULL)
        assert (status, done[0]) == (c.lib.KDMP_E_ARGUMENT, 0)


def test_outputs_are_safe_after_a_failure(core):
    c = Core(core, b"this is a text")
    assert c.status == c.lib.KDMP_E_WRONG_FILE
    assert c.dump == c.ffi.NULL
    assert c.error.status == c.status
    assert c.ffi.string(c.error.message)
    c.lib.kdmp_close(c.dump)  # NULL is allowed
    out = c.ffi.new("struct kdmp_dump **")
    assert c.lib.kdmp_open_memory(c.image, 14, out, c.ffi.NULL) == c.status


def test_names_of_numbers_that_mean_nothing(core):
    ffi, lib = core.ffi, core.lib
    assert ffi.string(lib.kdmp_va_origin_name(0)) == b"data block"
    for name in (lib.kdmp_va_origin_name, lib.kdmp_triage_field_name, lib.kdmp_field_name):
        assert name(-1) == name(1000) == ffi.NULL


def test_status_names(core):
    name, count = core.lib.kdmp_status_name, core.lib.KDMP_STATUS_COUNT
    names = [core.ffi.string(name(k)).decode() for k in range(count)]
    assert [getattr(core.lib, text) for text in names] == list(range(count))
    assert core.ffi.string(name(-1)) == core.ffi.string(name(count)) == b"?"


def test_stream(core, small_image):
    """A stream gives what memory gives; its error comes back as the errno."""
    ffi, lib = core.ffi, core.lib
    fail = []

    @ffi.def_extern(name="test_read_at")
    def read_at(context, offset, buffer, size):
        if fail:
            return fail[0]
        assert offset + size <= len(small_image)
        ffi.buffer(buffer, size)[:] = small_image[offset : offset + size]
        return 0

    stream = ffi.new("struct kdmp_stream *", {"read_at": lib.test_read_at, "size": len(small_image)})
    out, error = ffi.new("struct kdmp_dump **"), ffi.new("struct kdmp_error *")
    assert lib.kdmp_open_stream(stream, out, error) == lib.KDMP_OK
    c = Core(core, small_image)
    memory_dump, c.dump = c.dump, out[0]
    lib.kdmp_close(memory_dump)
    with c:
        status, data, _ = c.read(c.space(PHYSICAL), 0x20000, 0x2000)
        assert (status, data) == (lib.KDMP_OK, small_machine().dump()[-0x2000:])
        fail.append(5)
        status, data, fault = c.read(c.space(PHYSICAL), 0x20000, 8)
        assert (status, data, fault.status) == (lib.KDMP_E_OS, b"", lib.KDMP_E_OS)
    assert lib.kdmp_open_stream(stream, out, error) == lib.KDMP_E_OS
    assert (error.os_errno, out[0]) == (5, ffi.NULL)


def test_a_source_of_the_callers_own(core, small_image):
    """An overlay: one page replaced, the rest from the dump."""
    ffi, lib = core.ffi, core.lib
    page = ffi.new("uint8_t[4096]", b"\xee" * 4096)
    with Core(core, small_image) as c:
        below = lib.kdmp_get_source(c.dump)

        @ffi.def_extern(name="test_locate")
        def locate(source, paddr, want, out):
            if paddr >> 12 != 0x20:
                return below.locate(below, paddr, min(want, 0x1000 - paddr % 0x1000), out)
            out.ptr = page + paddr % 0x1000
            out.length = min(want, 0x1000 - paddr % 0x1000)
            return lib.KDMP_OK

        source = ffi.new("struct kdmp_source *", {"locate": lib.test_locate, "next_run": lib.test_next_run})
        space = c.space(X64)
        space.source = source
        status, data, _ = c.read(space, KERNEL_VA + 0xFFC, 8)
        assert status == lib.KDMP_OK
        assert data[:4] == b"\xee" * 4
        assert data[4:] == c.read(c.space(PHYSICAL), 0x21000, 4)[1]


def shared_machine():
    """KERNEL_VA: shared pages by way of prototype PTEs in frame 0x40, mapped at KERNEL_VA + 0x10000."""
    memory = Memory()
    tables = Tables(memory)
    where = KERNEL_VA + 0x1_0000
    tables.map(where, 0x40000)
    for k, value in enumerate((0x20000 | P, 0x21000 | 0x800 | 0x80, 5 << 32 | 1 << 12 | 0x80, 0x80, 0)):
        tables.raw(KERNEL_VA + k * PAGE, (where + 8 * k) << 16 & 2**64 - 1 | 0x400 | 0x10 | 0x80)
        memory.put_u64(0x40000 + 8 * k, value)
    memory.fill(0x20, 0x21)
    return memory


def test_software_states_as_in_the_extension(core):
    image = shared_machine().dump()
    with Core(core, image) as c, kdmp.Dump(image) as dump:
        space, reader = c.space(X64), kdmp.Reader(dump, paging="x64", dtb=0x1000)
        names = {"prototype": 3, "zero": 4, "demand_zero": 5, "pagefile": 6}
        for k in range(5):
            walk = c.translate(space, KERNEL_VA + k * PAGE)
            got = reader.try_translate(KERNEL_VA + k * PAGE)
            if got is None:
                with pytest.raises(kdmp.NotPresentError) as caught:
                    reader.translate(KERNEL_VA + k * PAGE)
                got = caught.value
            assert (walk.state, walk.protection) == (names[got.state], got.protection)
            assert (walk.prototype, walk.prototype_value) == (got.prototype, got.prototype_value)
        assert (walk.pagefile, walk.pagefile_page) == (0, 0)
        walk = c.translate(space, KERNEL_VA + 2 * PAGE)
        assert (walk.pagefile, walk.pagefile_page) == (1, 5)
        space.keep_prototypes = 1
        assert c.translate(space, KERNEL_VA).status == c.lib.KDMP_E_NOT_PRESENT
        space.keep_prototypes, space.zero_fill = 0, 1
        assert c.read(space, KERNEL_VA + 3 * PAGE, 4)[:2] == (c.lib.KDMP_OK, bytes(4))


def test_a_format_of_its_own(core):
    """All zero means: of current builds. A number out of place is the caller's to avoid, but harmless."""
    image = shared_machine().dump()
    with Core(core, image) as c:
        space = c.space(X64)
        plain = c.translate(space, KERNEL_VA)
        numbers = (0x000F_FFFF_FFFF_F000, 4, 5, 5, 3, 16, 0, 12, 32)
        names = (
            "frame_mask swizzle protection prototype_protection prototype_read_only prototype_address "
            "prototype_split pagefile_low pagefile_high"
        ).split()
        for name, number in zip(names, numbers, strict=True):
            setattr(space.format, name, number)
        same = c.translate(space, KERNEL_VA)
        assert c.ffi.buffer(plain)[:] == c.ffi.buffer(same)[:]
        space.format.prototype_address = 0  # not an address that can be followed
        walk = c.translate(space, KERNEL_VA)
        assert (walk.status, walk.prototype) == (c.lib.KDMP_E_NOT_PRESENT, 0)


@pytest.mark.parametrize("how", ["path", "mapped", "memory", "stream"])
def test_page_files(core, how, tmp_path):
    ffi, lib = core.ffi, core.lib
    content = b"".join(bytes([page]) * PAGE for page in range(6))
    path = tmp_path / "pagefile.sys"
    path.write_bytes(content)
    broken = []

    @ffi.def_extern(name="test_read_at")
    def read_at(context, offset, buffer, size):
        if broken:
            return 5
        ffi.buffer(buffer, size)[:] = content[offset : offset + size]
        return 0

    given = ffi.new("struct kdmp_input *")
    keep = [ffi.new("char[]", str(path).encode()), ffi.from_buffer(content)]
    keep.append(ffi.new("struct kdmp_stream *", {"read_at": lib.test_read_at, "size": len(content)}))
    if how in ("path", "mapped"):
        given.path, given.map = keep[0], how == "mapped"
    elif how == "memory":
        given.data, given.size = keep[1], len(content)
    else:
        given.stream = keep[2]
    out, error = ffi.new("struct kdmp_pagefile **"), ffi.new("struct kdmp_error *")
    assert lib.kdmp_pagefile_open(given, out, error) == lib.KDMP_OK
    try:
        with Core(core, shared_machine().dump()) as c:
            space = c.space(X64)
            address = KERNEL_VA + 2 * PAGE
            assert c.read(space, address, 8)[0] == lib.KDMP_E_NOT_PRESENT
            files = ffi.new("struct kdmp_pagefile *[]", [ffi.NULL, out[0]])
            space.pagefiles = ffi.cast("const struct kdmp_pagefile *const *", files)
            space.pagefile_count = 1
            assert c.read(space, address, 8)[0] == lib.KDMP_E_NOT_PRESENT
            space.pagefile_count = 2
            assert c.read(space, address + 0xFFC, 4)[:2] == (lib.KDMP_OK, b"\5" * 4)
            if how == "stream":
                broken.append(True)
                status, data, fault = c.read(space, address, 8)
                assert (data, fault.address) == (b"", address)
                assert status == lib.KDMP_E_OS, "a page file that fails is not a page that is not there"
    finally:
        lib.kdmp_pagefile_close(out[0])
    given.path, given.map = ffi.NULL, 0
    keep.append(ffi.new("char[]", str(tmp_path / "missing").encode()))
    given.path = keep[-1]
    assert lib.kdmp_pagefile_open(given, out, error) == lib.KDMP_E_OS
    assert (out[0], error.os_errno) == (ffi.NULL, 2)


def test_who_watches_mappings_is_told(core, tmp_path):
    """Of each before it is read and before it goes, also of a file that is refused then."""
    ffi, lib = core.ffi, core.lib
    image = shared_machine().dump()
    told, answer = [], [0]

    @ffi.callback("int(void *, const void *, size_t, int)")
    def mapped(context, base, size, fd):
        told.append(("mapped", context, base, size, os.fstat(fd).st_size))
        return answer[0]

    @ffi.callback("void(void *, const void *)")
    def unmapping(context, base):
        told.append(("unmapping", context, base, bytes(ffi.buffer(base, 8))))

    context = ffi.cast("void *", 0x1234)
    watch = ffi.new("struct kdmp_map_watch *", {"mapped": mapped, "unmapping": unmapping, "context": context})
    given, out = ffi.new("struct kdmp_input *", {"watch": watch}), ffi.new("struct kdmp_dump **")
    error = ffi.new("struct kdmp_error *")
    for content, answer[0], map_it, status in (
        (image, 0, 1, lib.KDMP_OK),
        (b"no dump at", 0, 1, lib.KDMP_E_WRONG_FILE),
        (image, 1, 1, lib.KDMP_E_NOMEM),
        (image, 0, 0, lib.KDMP_OK),
        (b"", 0, 1, lib.KDMP_E_WRONG_FILE),
    ):
        path = tmp_path / "dump"
        path.write_bytes(content)
        name = ffi.new("char[]", str(path).encode())
        given.path, given.map = name, map_it
        told.clear()
        assert lib.kdmp_open_input(given, ffi.NULL, out, error) == status
        first = [("mapped", context, told[0][2], len(content), len(content))] if told else []
        last = [("unmapping", context, told[0][2], content[:8])] if told and not answer[0] else []
        assert bool(told) == bool(map_it and content)
        assert told == first + (last if status != lib.KDMP_OK else [])
        lib.kdmp_close(out[0])
        assert told == first + last
