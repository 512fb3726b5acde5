"""Images into files: Module.extract, UserModule.extract, UserImage.extract.

SPDX-License-Identifier: MIT
"""

import io
import json
import os
import struct
from types import SimpleNamespace

import pebuilder
import pytest
from shareddata import MACHINES, machine_dump

import kdmp
from kdmp.windows.image import Image
from kdmp.windows.imagefile import _file_pieces, extract_image
from kdmp.windows.userimages import images
from kdmp.windows.vadpages import read_page

PAGE = 0x1000


@pytest.fixture(scope="module")
def machine():
    """Dumps of machines by name and kind, opened once."""
    opened = {}

    def get(name, kind="full"):
        if (name, kind) not in opened:
            opened[name, kind] = kdmp.open(machine_dump(name, kind))
        return opened[name, kind].windows

    yield get
    for dump in opened.values():
        dump.close()


@pytest.mark.parametrize("name", MACHINES)
def test_kernel_modules_in_memory(machine, name, tmp_path):
    windows = machine(name)
    for number, module in enumerate(windows.modules()):
        if not module.size:
            continue
        path = tmp_path / str(number)
        result = module.extract(path)
        data, gaps = windows.reader.read_gaps(module.base, module.size)
        assert path.read_bytes() == data
        assert [gap[:2] for gap in result.gaps] == [gap[:2] for gap in gaps]
        assert (result.size, result.base, result.layout) == (module.size, module.base, "memory")
        assert [part.name for part in result.parts] == [None]
        assert result.path == str(path)


def loaded(data, base=0):
    """A PE file as the loader would map it, by the headers alone."""
    nt = struct.unpack_from("<I", data, 0x3C)[0]
    count, optional = struct.unpack_from("<H12xH", data, nt + 6)
    size, headers = struct.unpack_from("<II", data, nt + 0x18 + 0x38)
    memory = bytearray(size)
    memory[:headers] = data[:headers]
    for number in range(count):
        at = nt + 0x18 + optional + 40 * number
        virtual, rva, raw, pointer = struct.unpack_from("<IIII", data, at + 8)
        part = data[pointer : pointer + min(raw, -(-virtual // PAGE) * PAGE)]
        memory[rva : rva + len(part)] = part
    return bytes(memory[:size])


@pytest.mark.parametrize("name", ["win10-19041", "win7-7601"])
def test_kernel_modules_as_files_load_again(machine, name, tmp_path):
    """Mapping the file as the loader does gives what was in memory, but for what no section has."""
    windows, tried = machine(name), 0
    for number, module in enumerate(windows.modules()):
        if module.image is None:
            continue
        path = tmp_path / str(number)
        result = module.extract(path, layout="file")
        data, again = path.read_bytes(), loaded(path.read_bytes())
        assert len(data) == result.size
        memory, _ = windows.reader.read_gaps(module.base, module.image.size)
        for section in module.image.sections:
            first, stop = section.rva, section.rva + section.size
            assert again[first:stop] == memory[first:stop]
        assert again[:0x400] == memory[:0x400]
        assert result.written + result.missing == sum(part.size for part in result.parts)
        tried += 1
        pe = parse(path) if len(data) < 1 << 20 else None
        if pe is not None:
            assert len(pe.sections) == len(module.image.sections)
            assert pe.FILE_HEADER.TimeDateStamp == module.image.timestamp
            if not result.missing and module.image.exports is not None:
                names = {one.name.decode() for one in pe.DIRECTORY_ENTRY_EXPORT.symbols if one.name}
                assert names == {one.name for one in module.image.exports if one.name}
            pe.close()
    assert tried > 5


def parse(path):
    """The file as pefile sees it; None where that is not installed."""
    try:
        import pefile
    except ImportError:
        return None
    return pefile.PE(str(path))


def test_pefile_opens_what_is_written(machine, tmp_path):
    pytest.importorskip("pefile")
    module = next(one for one in machine("win10-19041").modules() if one.name == "Ntfs.sys")
    module.extract(tmp_path / "out", layout="file")
    with parse(tmp_path / "out") as pe:
        assert not [text for text in pe.get_warnings() if "section" in text.lower()]
        for section, known in zip(pe.sections, module.image.sections, strict=True):
            data = machine("win10-19041").reader.read_exact(known.address, known.size)
            assert section.get_data()[: known.size] == data[: section.SizeOfRawData]


@pytest.mark.parametrize("layout", ["memory", "file"])
@pytest.mark.parametrize("name", MACHINES)
def test_user_modules(machine, name, layout, tmp_path):
    for process in machine(name).processes()[1::4]:
        for number, module in enumerate(process.modules()):
            if not module.base or not module.size or process.exited:
                continue
            path = tmp_path / f"{process.pid}-{number}"
            result = module.extract(path, layout=layout)
            for part in result.parts:
                data = path.read_bytes()[part.offset : part.offset + part.size]
                holes = [gap[:2] for gap in part.gaps]
                for va in range(part.va & -PAGE, part.va + part.size, PAGE):
                    page, missing = read_page(process, va), any(a <= va < a + n for a, n in holes)
                    assert missing == (page is None)
                    first = max(part.va, va)
                    expected = (page or bytes(PAGE))[first - va : part.va + part.size - va]
                    assert data[first - part.va :][: len(expected)] == expected


def test_user_images(machine, tmp_path):
    process = machine("win10-19041").process(2316)
    for number, image in enumerate(images(process)):
        result = image.extract(tmp_path / str(number))
        assert (result.base, result.size) == (image.base, image.size)
        assert image.extract(tmp_path / "file", layout="file", overwrite=True).layout == "file"
        assert Image(as_reader(loaded((tmp_path / "file").read_bytes())), 0).sections


def as_reader(data):
    fake = pebuilder.FakeReader()
    fake.put(0, data)
    return fake


def test_an_image_as_data(machine):
    module = machine("win10-19041").modules()[0]
    result = module.extract(io.BytesIO(), layout="file")
    facts = result.to_dict()
    assert json.loads(json.dumps(facts)) == facts
    assert [part.get("name") for part in facts["parts"]][:2] == [None, ".text"]
    assert sum(len(part["gaps"]) for part in facts["parts"]) == len(result.gaps)
    assert "gaps" not in facts
    assert str(result).splitlines()[0].endswith("gaps")


def test_wrong_layouts(machine, tmp_path):
    module = machine("win10-19041").modules()[1]
    with pytest.raises(ValueError, match="layout"):
        module.extract(tmp_path / "out", layout="disk")
    module.extract(tmp_path / "out")
    with pytest.raises(FileExistsError):
        module.extract(tmp_path / "out", layout="file")
    assert os.listdir(tmp_path) == ["out"]


class Bytes:
    """Memory of made bytes, for extract_image."""

    def __init__(self, base, data, holes=()):
        self.base, self.data, self.holes = base, data, holes

    def _there(self, va):
        return 0 <= va - self.base < len(self.data) and (va & -PAGE) not in self.holes

    def read_into(self, va, buffer):
        count = 0
        while count < len(buffer) and self._there(va + count):
            buffer[count] = self.data[va + count - self.base]
            count += 1
        return count

    def missing(self, va, size=1):
        count = 0
        while count < size and not self._there(va + count):
            count += 1
        return kdmp.Gap((va, count, kdmp.NotPresentError(f"no page at {va:#x}"))) if count else None


def made(sections, *, size=0x9000, wide=True, file_alignment=0x200, section_alignment=0x1000):
    """An image in memory with sections (name, virtual size, rva, raw size, pointer)."""
    data = bytearray(
        pebuilder.image(wide=wide, sections=[(s[0], s[1], s[2], 0) for s in sections], size=size)
    )
    optional = 0xE8 + 0x18
    struct.pack_into("<II", data, optional + 0x20, section_alignment, file_alignment)
    table = optional + (0xF0 if wide else 0xE0)
    for number, (_, virtual, rva, raw, pointer) in enumerate(sections):
        struct.pack_into("<IIII", data, table + 40 * number + 8, virtual, rva, raw, pointer)
    for at in range(0x1000, size):
        data[at] = data[at] or (at * 7 >> 4) & 0xFF
    return bytes(data)


def written(memory, base, layout="file", size=None):
    out = io.BytesIO()
    dump = SimpleNamespace()
    result = extract_image(memory, dump, base, size, out, layout, overwrite=False, progress=None)
    return result, out.getvalue()


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("base", [0x400000, 0xFFFFF80000000000, (1 << 64) - 0x9000])
def test_made_images(wide, base):
    image = made(
        [
            (b".text", 0x1234, 0x1000, 0x1400, 0x400),
            (b".bss", 0x1000, 0x3000, 0, 0),
            (b".data", 0x2000, 0x4000, 0x200, 0x1800),
            (b"long", 0x100, 0x6000, 0x3000, 0x1A10),  # more in the file than a page; pointer not aligned
        ],
        wide=wide,
    )  # fmt: skip
    result, data = written(Bytes(base, image), base)
    assert [(part.name, part.offset, part.va - base, part.size) for part in result.parts] == [
        (None, 0, 0, 0x400),
        (".text", 0x400, 0x1000, 0x1400),
        (".data", 0x1800, 0x4000, 0x200),
        ("long", 0x1A00, 0x6000, 0x1000),
    ]
    assert data == image[:0x400] + image[0x1000:0x2400] + image[0x4000:0x4200] + image[0x6000:0x7000]
    assert result.complete
    assert written(Bytes(base, image), base, "memory")[1] == image


def test_holes_of_an_image():
    image = made([(b".text", 0x3000, 0x1000, 0x3000, 0x400)])
    result, data = written(Bytes(0x400000, image, holes=[0x402000]), 0x400000)
    assert data == image[:0x400] + image[0x1000:0x2000] + bytes(PAGE) + image[0x3000:0x4000]
    assert [(gap.address, gap.size) for gap in result.gaps] == [(0x402000, PAGE)]
    assert [(gap.address, gap.size) for gap in result.parts[1].gaps] == [(0x402000, PAGE)]


def test_sections_that_overlap_or_lie():
    image = made(
        [
            (b"a", 0x1000, 0x1000, 0x1000, 0x400),
            (b"b", 0x1000, 0x2000, 0x1000, 0x800),  # half of it is a's
            (b"c", 0x1000, 0x3000, 0x400, 0x600),  # all of it is
            (b"d", 0x1000, 0x20000, 0x400, 0x2000),  # not in the image
            (b"e", 0xFFFFFFFF, 0x8000, 0xFFFFFFFF, 0x2000),  # too much
        ]
    )
    result, data = written(Bytes(0, image), 0)
    assert [(part.name, part.offset, part.va, part.size) for part in result.parts] == [
        (None, 0, 0, 0x400),
        ("a", 0x400, 0x1000, 0x1000),
        ("b", 0x1400, 0x2C00, 0x400),
        ("e", 0x2000, 0x8000, 0x1000),
    ]
    assert data[0x1400:0x1800] == image[0x2C00:0x3000]
    assert len(result.problems) == 3


def test_images_that_map_one_to_one():
    """Drivers with an alignment below a page are mapped as they are in the file."""
    image = made([(b".text", 0x123, 0x420, 0x130, 0x420)], section_alignment=0x20, file_alignment=0x20)
    result, data = written(Bytes(0x10000, image), 0x10000)
    assert data[: len(data)] == image[: len(data)]
    assert result.parts[-1].offset == 0x420


@pytest.mark.parametrize("damage", ["MZ", "hole", "cut", "far"])
def test_no_image(damage):
    image = bytearray(made([(b".text", 0x1000, 0x1000, 0x1000, 0x400)]))
    holes = []
    if damage == "MZ":
        image[0] = 0
    elif damage == "hole":
        holes = [0x400000]
    elif damage == "cut":
        image[0x3C:0x40] = (0xEF0).to_bytes(4, "little")
        image[0xEF0:0xEF4] = b"PE\0\0"
    else:
        table = 0xE8 + 0x18 + 0xF0
        struct.pack_into("<IIII", image, table + 8, 0x1000, 0x1000, 0x1000, 0xFFFFFF00)
    with pytest.raises((kdmp.FormatError, kdmp.UnreadableError)):
        written(Bytes(0x400000, bytes(image), holes), 0x400000)


def test_sizes_that_are_none():
    image = made([(b".text", 0x1000, 0x1000, 0x1000, 0x400)])
    memory = Bytes(0x400000, image)
    assert written(memory, 0x400000, "memory", size=None)[1] == image
    for base, size in ((None, 1), ((1 << 64) - 0x1000, 0x2000), (0x400000, 1 << 33)):
        with pytest.raises(kdmp.KdmpError):
            written(memory, base, "memory", size=size)


def test_too_many_sections():
    image = bytearray(made([(b".text", 0x1000, 0x1000, 0x1000, 0x400)]))
    struct.pack_into("<H", image, 0xE8 + 6, 0xFFFF)
    problems = []
    _file_pieces(Bytes(0, bytes(image)), 0, problems)
    assert problems[0] == "65535 sections are claimed, 96 are taken"


hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies
NUMBER = st.sampled_from([0, 1, 0x200, 0x3FF, 0x1000, 0x1800, 0x5000, 0x8000, 0x9001, 0x7FFFFFFF, 0xFFFFFFFF])


@hypothesis.given(sections=st.lists(st.tuples(NUMBER, NUMBER, NUMBER, NUMBER), max_size=6))
def test_any_section_table(sections):
    """Whatever the headers say: the parts lie inside the image, in order, and hold its bytes."""
    image = made([(b".s", *one) for one in sections])
    try:
        pieces = _file_pieces(Bytes(0, image), 0, [])
    except kdmp.FormatError:
        return
    end = 0
    for piece in pieces:
        assert piece.offset >= end
        assert 0 <= piece.rva < piece.rva + piece.size <= len(image)
        end = piece.offset + piece.size
    if end > 1 << 20:
        return
    result, data = written(Bytes(0, image), 0)
    assert result.complete
    for part in result.parts:
        assert data[part.offset : part.offset + part.size] == image[part.va : part.va + part.size]
