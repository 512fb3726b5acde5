"""Processes and images into files: Process.extract, Module.extract, UserModule.extract, UserImage.extract.

SPDX-License-Identifier: MIT
"""

import hashlib
import io
import json
import os
import random
import struct
from types import SimpleNamespace

import pebuilder
import pytest
from shareddata import MACHINES, machine_dump, truth, unpack

import kdmp
from kdmp.mappings import bounds
from kdmp.windows.image import Image
from kdmp.windows.imagefile import _file_pieces, extract_image
from kdmp.windows.processfile import KINDS, _joined, _split, _stretches, extract_process
from kdmp.windows.processmemory import ProcessMemory, Resident
from kdmp.windows.userimages import images
from kdmp.windows.vadpages import read_page
from kdmp.windows.vads import vads

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


# ---- processes ----


def oracle(process):
    """What is in the user half, page by page: {va: bytes}, of the VADs and of what is mapped outside."""
    reader = process.reader
    pages = {}
    places = [va for vad in vads(process) for va in range(vad.start, vad.stop, PAGE) if vad.size < 1 << 30]
    for one in reader.mappings(*bounds(reader.paging, 0, None, "user")):
        if one.state != "table":
            places += range(one.start, one.start + one.size, PAGE)
    for va in dict.fromkeys(places):
        data = read_page(process, va)
        if data is not None:
            pages[va] = data
    return pages


def contents(result, data):
    """The pages that a result says are in its file: {va: bytes}, and those that are gaps."""
    pages, missing = {}, set()
    for one in result.ranges:
        assert one.va % PAGE == one.offset % PAGE == one.size % PAGE == 0
        holes = {va for gap in one.gaps for va in range(gap.address, gap.address + gap.size, PAGE)}
        assert sum(gap.size for gap in one.gaps) == one.missing
        for va in range(one.va, one.stop, PAGE):
            part = data[one.offset + va - one.va :][:PAGE]
            if va in holes:
                assert part == bytes(PAGE)
                missing.add(va)
            else:
                pages[va] = part
    return pages, missing


@pytest.mark.parametrize("kind", ["full", "kernel", "rdmp9"])
@pytest.mark.parametrize("name", MACHINES)
def test_processes_of_the_machines(machine, name, kind, tmp_path):
    for process in machine(name, kind).processes()[::3]:
        path = tmp_path / f"{process.pid}.bin"
        result = process.extract(path)
        data = path.read_bytes()
        assert len(data) == result.size == sum(one.size for one in result.ranges)
        assert [one.offset for one in result.ranges] == [
            sum(one.size for one in result.ranges[:k]) for k in range(len(result.ranges))
        ]
        assert [one.va for one in result.ranges] == sorted(one.va for one in result.ranges)
        pages, missing = contents(result, data)
        expected = oracle(process)
        assert expected.keys() <= pages.keys()
        assert {va: pages[va] for va in expected} == expected
        # What else is in the file are pages that are zero when they are first used.
        for va in pages.keys() - expected.keys():
            assert pages[va] == bytes(PAGE)
            assert process.reader.missing(va).reason.state == "demand_zero"
        assert result.missing == len(missing) * PAGE
        assert result.written == len(pages) * PAGE
        assert (result.pid, result.name) == (process.pid, process.full_name or process.name)


@pytest.mark.parametrize("name", ["win10-19041", "win7-7601", "win11-22000-pti"])
def test_sampled_pages_of_the_truth(machine, name, tmp_path):
    """SHA-256 of pages by the generator of the machines, also of those that only a VAD leads to."""
    windows, seen = machine(name), set()
    for process in windows.processes():
        samples = [
            one
            for one in truth(name)["ptes"]
            if one["pid"] == process.pid and "sha256" in one and one["va"] < 1 << 47
        ]
        if not samples:
            continue
        result = process.extract(tmp_path / str(process.pid))
        data = (tmp_path / str(process.pid)).read_bytes()
        pages, _ = contents(result, data)
        for one in samples:
            assert hashlib.sha256(pages[one["va"] & -PAGE]).hexdigest() == one["sha256"]
            seen.add(one["state"])
    assert {"valid", "transition", "prototype"} <= seen


def test_ranges_are_those_of_the_vads(machine, tmp_path):
    process = machine("win10-19041").process(2316)
    (facts,) = (one for one in truth("win10-19041")["processes"] if one["pid"] == 2316)
    by_address = {one["address"]: one for one in facts["vads"]}
    result = process.extract(tmp_path / "out")
    for one in result.ranges:
        vad = by_address[one.vad]
        assert vad["start"] <= one.va < one.stop <= vad["end"] + 1
        assert one.file == vad["file"]
        assert result.at(one.va) is result.at(one.stop - 1) is one
        assert one.kind in KINDS
    assert result.at(0) is None
    assert {one.kind for one in result.ranges} >= {"private", "image", "mapped"}


def test_the_index_is_beside_the_file(machine, tmp_path):
    process = machine("win10-19041").process(2316)
    result = process.extract(tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["out", "out.json"]
    facts = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert facts == result.to_dict()
    assert (facts["pid"], facts["index"]) == (2316, str(tmp_path / "out.json"))
    assert facts["process"] == "notes-日本語.exe"
    assert facts["ranges"][0]["protection"] == "ReadOnly"
    with pytest.raises(FileExistsError):
        process.extract(tmp_path / "out")
    (tmp_path / "out").unlink()
    with pytest.raises(FileExistsError):
        process.extract(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out.json"]
    process.extract(tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("index, names", [(False, ["out"]), (True, ["out", "out.json"]), ("i", ["i", "out"])])
def test_where_the_index_goes(machine, tmp_path, index, names):
    place = str(tmp_path / index) if isinstance(index, str) else index
    result = machine("win7-7601").process(308).extract(tmp_path / "out", index=place)
    assert sorted(os.listdir(tmp_path)) == names
    assert (result.index is None) == (index is False)


def test_a_process_into_memory(machine, tmp_path):
    process, out = machine("win7-7601").process(308), io.BytesIO()
    result = process.extract(out)
    process.extract(tmp_path / "out")
    assert out.getvalue() == (tmp_path / "out").read_bytes()
    assert result.index is None
    assert result.path is None


@pytest.mark.parametrize("what", ["image", ["private", "mapped"], "none", []])
def test_what_is_wanted(machine, what):
    process = machine("win10-19041").process(2316)
    everything = process.extract(io.BytesIO()).ranges
    got = process.extract(io.BytesIO(), what=what).ranges
    wanted = {what} if isinstance(what, str) else set(what)
    assert [(one.va, one.size) for one in got] == [
        (one.va, one.size) for one in everything if one.kind in wanted
    ]


def test_what_may_be_a_function(machine):
    process = machine("win10-19041").process(2316)
    got = process.extract(io.BytesIO(), what=lambda vad: vad.rights.execute and vad.private)
    assert [one.protection for one in got.ranges] == ["ExecuteReadWrite"]
    with pytest.raises(ValueError, match="no such kind: heap"):
        process.extract(io.BytesIO(), what="heap")


def test_untouched_memory(machine):
    process = machine("win10-19041").process(2316)
    before = process.extract(io.BytesIO())
    after = process.extract(io.BytesIO(), untouched=True)
    assert after.size >= before.size
    assert after.written == before.written
    whole = [vad for vad in vads(process) if vad.private and vad.mem_commit and vad.kind == "private"]
    for vad in whole:
        one = after.at(vad.start)
        assert (one.va, one.stop) == (vad.start, vad.stop)


def test_lost_page_tables_are_told(machine):
    result = machine("win10-19041", "kernel").process("explorer").extract(io.BytesIO())
    assert (result.size, result.ranges) == (0, ())
    assert "page tables are not in the dump" in str(result)


def test_a_process_as_text(machine):
    text = str(machine("win10-19041").process("explorer").extract(io.BytesIO())).splitlines()
    assert text[0].endswith("15 ranges")
    assert any("image, ExecuteWriteCopy, \\Windows\\System32\\ntdll.dll" in line for line in text)
    assert "missing:" in text


def test_interrupted(machine, tmp_path):
    process = machine("win10-19041").process("explorer")

    def stop(done, total):
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process.extract(tmp_path / "out", progress=stop)
    assert os.listdir(tmp_path) == []
    if os.path.exists("/dev/full"):
        with pytest.raises(OSError):
            process.extract("/dev/full")
        with pytest.raises(OSError):
            process.extract(tmp_path / "out", index="/dev/full")
        assert os.listdir(tmp_path) == []


def test_progress_of_a_process(machine):
    calls = []
    result = (
        machine("win10-19041")
        .process("explorer")
        .extract(io.BytesIO(), progress=lambda done, total: calls.append((done, total)))
    )
    assert calls[0] == (0, result.size)
    assert calls[-1] == (result.size, result.size)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_the_limit_of_a_process(machine, tmp_path):
    with pytest.raises(ValueError, match="limit"):
        machine("win10-19041").process("explorer").extract(tmp_path / "out", limit=0x1000)
    assert os.listdir(tmp_path) == []


def test_no_page_tables(machine):
    process = machine("win10-19041").process("explorer")
    other = kdmp.windows.processes.process_at(process.windows, process.address)
    other.__dict__["dtb"] = None
    with pytest.raises(kdmp.RootNotPresentError):
        other.extract(io.BytesIO())


def test_faults_are_not_collected(machine):
    windows = machine("win10-19041")
    with windows.dump.collect_faults() as faults:
        result = windows.process("explorer").extract(io.BytesIO())
    assert result.missing
    assert not faults


def test_mutated_vads_never_crash(machine):
    """Damage in the VADs and page tables costs ranges, and little time."""
    windows = machine("win10-19041")
    dump = windows.dump
    process = windows.process("explorer")
    places = [windows.dump.reader().translate(vad.address).pa for vad in vads(process)]
    places += [entry.pa for entry in process.reader.translate(process.peb).entries]
    rng = random.Random(7)
    for _ in range(25):
        with dump.overlay() as overlay:
            for pa in rng.sample(places, 3):
                at = pa + 8 * rng.randrange(8)
                overlay.write_u64(kdmp.phys(at), rng.choice([0, (1 << 64) - 1, rng.getrandbits(64), at]))
            reader = overlay.reader(dtb=process.dtb)
            hurt = SimpleNamespace(
                windows=windows, address=process.address, object=process.object, reader=reader, pid=1,
                full_name="x", name="x",
            )  # fmt: skip
            try:
                extract_process(
                    hurt, "/dev/null", what=None, untouched=True, index=False, overwrite=False, limit=1 << 62,
                    progress=None,
                )  # fmt: skip
            except kdmp.KdmpError:
                pass


def test_triage_dumps_have_user_memory_too():
    out = io.BytesIO()
    kernel = 0xFFFFF80000000000
    kdmp.write_triage(out, header={}, data_blocks=[(kernel, b"kernel"), (0x7FF000000010, b"user" * 4)])
    with kdmp.open(out.getvalue()) as dump:
        memory = SimpleNamespace(reader=dump.reader())
        assert list(_stretches(memory, [])) == [(0x7FF000000010, 0x7FF000000020)]


def test_the_process_of_a_triage_dump():
    with kdmp.open(unpack("triage", "triage_x64.dmp.xz")) as dump:
        (process,) = dump.windows.processes()
        result = process.extract(io.BytesIO())
        assert (result.pid, result.size) == (4, 0)
        module = next(one for one in dump.windows.modules() if dump.reader().missing(one.base))
        whole = module.extract(io.BytesIO())
        assert whole.size == module.size
        with pytest.raises(kdmp.UnreadableError):
            module.extract(io.BytesIO(), layout="file")


def test_stretches_are_joined_and_cut():
    assert list(_joined([(0, 4), (2, 3), (4, 6), (8, 9), (8, 8), (1, 2)])) == [(0, 6), (8, 9)]
    assert list(_joined([])) == []
    one, two, three = (SimpleNamespace(start=a, stop=b) for a, b in ((2, 5), (4, 8), (8, 9)))
    assert list(_split([(0, 10)], [one, two, three])) == [
        (0, 2, None),
        (2, 5, one),
        (5, 8, two),
        (8, 9, three),
        (9, 10, None),
    ]
    assert list(_split([(0, 1), (3, 4), (20, 21)], [one])) == [(0, 1, None), (3, 4, one), (20, 21, None)]


# ---- memory that only VADs lead to ----


@pytest.mark.parametrize("name", ["win10-19041", "win7-7601"])
def test_process_memory_reads_as_page_by_page(machine, name):
    """Against kdmp.windows.vadpages.read_page, in pieces that end anywhere."""
    rng = random.Random(3)
    for process in machine(name).processes()[-4:]:
        memory = ProcessMemory(process, process.reader, vads(process))
        for vad in vads(process):
            if vad.size > 1 << 22:
                continue
            start = vad.start + rng.randrange(PAGE)
            at = start
            while at < vad.stop:
                buffer = memoryview(bytearray(min(vad.stop - at, rng.randrange(1, 0x5000))))
                got = memory.read_into(at, buffer)
                for va in (at, *range((at | 0xFFF) + 1, at + got, PAGE)) if got else ():
                    page = read_page(process, va)
                    expected = bytes(PAGE) if page is None else page
                    part = bytes(buffer[va - at : got][: PAGE - va % PAGE])
                    assert part == expected[va % PAGE :][: len(part)]
                at += got
                if got < len(buffer):
                    gap = memory.missing(at, vad.stop - at)
                    assert read_page(process, at) is None
                    assert (gap.address, gap.size > 0) == (at, True)
                    for va in range(at, at + gap.size, PAGE):
                        assert read_page(process, va) is None
                    at += gap.size
                    if at < vad.stop:
                        assert (
                            memory.missing(at) is None
                            or type(memory.missing(at).reason) is not type(gap.reason)
                            or memory.reader.missing(at, 1).reason.state == "vad"
                        )


def test_resident_pages_follow_each_other():
    one = Resident(0x1000, 0x5000, 0x2000)
    assert one.stop == 0x3000


# ---- images ----


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
