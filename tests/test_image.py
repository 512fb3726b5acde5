"""PE images in memory: headers, sections, exports, PDB and version, whole, with holes and with garbage.

SPDX-License-Identifier: MIT
"""

import random
import struct
import time
from datetime import UTC, datetime

import pebuilder as made
import pytest
import shareddata
from pebuilder import DEBUG, EXPORTS, PAGE, RESOURCES, FakeReader

import kdmp
from kdmp.windows.image import Image, stamp_time
from kdmp.windows.pe import identify
from kdmp.windows.version import parse_version

BASE = 0xFFFFF80012340000
STRINGS = [
    ("CompanyName", "Microsoft Corporation"),
    ("FileVersion", "10.0.19041.804 (WinBuild)"),
    ("Empty", ""),
]
NAMES = {f"Function{n:03}": n for n in range(100)} | {"Alias": 7, "Zoë": 100, "Forwarded": 101}
FUNCTIONS = [0x1000 + 0x10 * n for n in range(101)] + ["NTDLL.RtlFoo", 0, 0x1F00]


def put(data, base=BASE):
    reader = FakeReader()
    reader.put(base, data)
    return reader


def whole(**options):
    options.setdefault("export_data", made.exports(FUNCTIONS, NAMES))
    options.setdefault("resource_data", made.resources(made.version_resource(STRINGS)))
    return made.image(**options)


@pytest.fixture(params=[True, False], ids=["64", "32"])
def wide(request):
    return request.param


# ---- whole images ----


def test_headers(wide):
    base = BASE if wide else 0x80400000
    image = Image(put(whole(wide=wide), base), base)
    assert (image.bits, image.machine) == ((64, 0x8664) if wide else (32, 0x14C))
    assert (image.timestamp, image.size, image.checksum) == (0x5E00E21E, 0x9000, 0xABCDE)
    assert (image.entry_rva, image.entry) == (0x1010, base + 0x1010)
    assert (image.characteristics, image.subsystem, image.os_version) == (0x2022, 1, (10, 1))
    headers = image.headers
    assert headers.image_base == (0x140000000 if wide else 0x400000)
    assert (headers.image_version, headers.subsystem_version) == ((10, 2), (6, 3))
    assert (headers.linker_version, headers.dll_characteristics) == ((14, 20), 0x4160)
    assert (headers.section_alignment, headers.size_of_headers) == (0x1000, 0x400)
    assert image.directories.keys() == {"export", "resource", "debug"}
    assert image.directories["debug"] == (DEBUG, 28)
    assert image.contains(base) and image.contains(base + 0x8FFF)
    assert not image.contains(base + 0x9000) and not image.contains(base - 1)
    assert image.image_id == "5E00E21E9000"
    assert image.problems == ()


def test_sections(wide):
    image = Image(put(whole(wide=wide)), BASE)
    text, init = image.sections
    assert (text.name, text.rva, text.address, text.size, text.rights) == (
        ".text", 0x1000, BASE + 0x1000, 0x1000, "r-x",
    )  # fmt: skip
    assert (init.name, init.size, init.rights) == ("INITDATA", 0x800, "rw-")
    assert not text.discardable and init.discardable
    assert image.section_at(BASE + 0x8010) == init
    assert image.section_at(BASE + 0x8800) is None


def test_pdb(wide):
    image = Image(put(whole(wide=wide)), BASE)
    guid = made.GUID.hex.upper()
    assert (image.pdb, image.guid, image.age) == ("ntkrnlmp.pdb", guid, 0x1F)
    assert image.codeview.path == "c:\\build\\ntkrnlmp.pdb"
    assert image.symbol_id == guid + "1F"
    assert image.symbol_path == f"ntkrnlmp.pdb/{guid}1F/ntkrnlmp.pdb"
    assert image.reproducible is False
    assert Image(put(whole(reproducible=True)), BASE).reproducible is True
    assert Image(put(whole(reproducible=True)), BASE).guid == guid


def test_old_pdb_record():
    reader = put(whole(nb10=True, pdb=b"old.pdb"))
    image = Image(reader, BASE)
    assert (image.pdb, image.guid, image.age, image.symbol_id) == ("old.pdb", None, 2, "3B7D84102")
    assert identify(reader, BASE).pdb is None  # ImageIdentity has no place for it


def test_exports(wide):
    image = Image(put(whole(wide=wide)), BASE)
    table = image.exports
    assert image.name == "ntoskrnl.exe"
    assert (table.ordinal_base, table.function_count, table.name_count) == (5, 104, 103)
    wanted = {name: FUNCTIONS[index] for name, index in NAMES.items() if name != "Forwarded"}
    forwarded = image.export("Forwarded")
    assert forwarded.forwarder == "NTDLL.RtlFoo"
    assert forwarded.ordinal == 5 + 101
    assert {e.name: e.rva for e in table if e.name and e.forwarder is None} == wanted
    for name, rva in wanted.items():
        found = image.export(name)
        assert (found.name, found.rva, found.address) == (name, rva, BASE + rva)
    for name in ("", "A", "Functio", "Function0011", "Function999", "zzz", "Zoe", "\udc80"):
        assert image.export(name) is None
    assert [e.rva for e in table if e.name is None] == [0x1F00]  # by ordinal only
    assert (image.export(5 + 103).rva, image.export(5).rva) == (0x1F00, 0x1000)
    assert image.export(5 + 102) is None and image.export(4) is None and image.export(5 + 104) is None
    assert [e.ordinal for e in table] == sorted(e.ordinal for e in table)
    assert table.nearest(0x1018).name == "Function001"
    assert table.nearest(0xFFF) is None
    assert image.problems == ()


def test_one_export_needs_few_reads():
    names = {f"Name{n:05}": n for n in range(600)}
    reader = put(made.image(export_data=made.exports(range(1, 601), names)))
    image = Image(reader, BASE)
    assert image.export("Name00300").rva == 301
    assert reader.reads <= 8  # pages, not strings


def test_version(wide):
    image = Image(put(whole(wide=wide)), BASE)
    version = image.version
    assert (version.file_version, version.product_version) == ("10.0.19041.804", "10.0.19041.1")
    assert version.strings == dict(STRINGS)
    assert (version.file_flags, version.file_type, version.complete) == (1, 3, True)
    assert image.to_dict()["version"]["strings"]["CompanyName"] == "Microsoft Corporation"


def test_no_exports_no_resources():
    image = Image(put(made.image()), BASE)
    assert (
        image.exports is None and image.export("X") is None and image.version is None and image.name is None
    )
    assert image.problems == ()


def test_cut_version_resource_gives_less():
    data = made.version_resource(STRINGS)
    full = parse_version(data)
    seen = set()
    for size in range(len(data) + 1):
        try:
            got = parse_version(data[:size], complete=False)
        except kdmp.FormatError:
            continue
        assert got.file_version in (None, full.file_version)
        assert got.strings.items() <= full.strings.items()
        seen.add(len(got.strings))
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize("stamp, plausible", [
    (0, False), (725846399, False), (1577116190, True), (0xF5E79FC4, False), (1577836800, False),
    (None, False),
])  # fmt: skip
def test_stamp_time(stamp, plausible):
    time = stamp_time(stamp, datetime(2019, 12, 31, tzinfo=UTC))
    assert (time is not None) == plausible
    assert not plausible or time.timestamp() == stamp


# ---- no image ----


@pytest.mark.parametrize("change", [(0, b"ZM"), (0x3C, b"\xff\xff"), (0xE8, b"PX"), (0x100, b"\x0c\x03")])
def test_no_image(change):
    data = bytearray(whole())
    data[change[0] : change[0] + 2] = change[1]
    with pytest.raises(kdmp.FormatError, match="no PE image"):
        Image(put(bytes(data)), BASE)
    assert identify(put(bytes(data)), BASE) is None


def test_nothing_there():
    with pytest.raises(kdmp.UnreadableError):
        Image(FakeReader(), BASE)
    assert identify(FakeReader(), BASE) is None


# ---- holes ----


def test_missing_pages_cost_their_parts_only():
    names = {f"{'N' * 30}{n:05}": n for n in range(250)}
    data = whole(export_data=made.exports(range(1, 251), names))
    full = Image(put(data), BASE)
    everything = {e.name: e.rva for e in full.exports}
    assert len(everything) == 250
    for missing in range(1, 9):
        reader = put(data)
        reader.drop(BASE + missing * PAGE)
        image = Image(reader, BASE)
        rva = missing * PAGE
        assert image.sections == full.sections
        assert (image.pdb is None) == (rva == DEBUG)
        assert (image.version is None) == (rva == RESOURCES)
        if rva == EXPORTS:
            assert image.exports is None
            with pytest.raises(kdmp.UnreadableError):
                image.export("X")
        else:
            got = {e.name: e.rva for e in image.exports if e.name is not None}
            assert got.items() <= everything.items()
            assert (got == everything) == (rva not in (EXPORTS + 0x1000, EXPORTS + 0x2000))
        assert bool(image.problems) == (
            rva in (EXPORTS, EXPORTS + 0x1000, EXPORTS + 0x2000, DEBUG, RESOURCES)
        )
        for problem in image.problems:
            assert "nothing at" in problem.why or "cannot be read" in problem.why


def test_lookup_beside_a_hole():
    """Names in pages that are there are found; others raise the reason, never "no such export"."""
    names = {f"{'N' * 30}{n:05}": n for n in range(250)}
    reader = put(made.image(export_data=made.exports(range(1, 251), names)))
    reader.drop(BASE + EXPORTS + 0x1000)
    image = Image(reader, BASE)
    found = lost = 0
    for name, index in names.items():
        try:
            export = image.export(name)
        except kdmp.UnreadableError:
            lost += 1
            continue
        assert export.rva == index + 1
        found += 1
    assert found > 50 and lost > 50
    assert image.export("A") is None  # before all, which is certain


def test_pdb_name_in_a_missing_page_is_not_cut():
    data = bytearray(made.image())
    record = DEBUG + 0x1000 - 0x20  # 8 bytes of the name are in the first page
    struct.pack_into("<I", data, DEBUG + 0x14, record)
    text = struct.pack("<4s16sI", b"RSDS", made.GUID.bytes_le, 1) + b"abcdefghijk.pdb\0"
    struct.pack_into("<I", data, DEBUG + 0x10, len(text))
    data[record : record + len(text)] = text
    reader = put(bytes(data))
    assert Image(reader, BASE).pdb == "abcdefghijk.pdb"
    reader.drop(BASE + DEBUG + 0x1000)
    image = Image(reader, BASE)
    assert image.pdb is None and [p.what for p in image.problems] == ["codeview"]
    assert identify(reader, BASE).pdb is None


def test_version_with_a_missing_second_page():
    strings = [(f"Key{n:03}", "v" * 40) for n in range(60)]
    data = made.image(resource_data=made.resources(made.version_resource(strings)))
    reader = put(data)
    assert len(Image(reader, BASE).version.strings) == 60
    reader.drop(BASE + RESOURCES + 0x1000)
    version = Image(reader, BASE).version
    assert version.file_version == "10.0.19041.804" and not version.complete
    assert 10 < len(version.strings) < 60
    assert set(version.strings.values()) == {"v" * 40}


# ---- garbage ----


def test_huge_counts_are_bounded():
    data = bytearray(whole())
    struct.pack_into("<II", data, EXPORTS + 0x14, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", data, 0xE8 + 6, 0xFFFF)
    image = Image(put(bytes(data)), BASE)
    start = time.process_time()
    assert len(image.exports) <= 1 << 17
    assert len(image.sections) <= 96
    with pytest.raises(kdmp.KdmpError):
        image.export("Function001")  # most of the table is not there
    assert time.process_time() - start < 5
    whats = {problem.what for problem in image.problems}
    assert whats == {"exports", "sections"}
    assert any("claims 4294967295" in problem.why for problem in image.problems)


def test_names_that_are_all_long():
    """65536 names of 4 KiB each do not become 256 MiB."""
    size = 0x90000
    data = bytearray(made.image(size=size, export_data=made.exports([1], {"A": 0})))
    count = 0x10000
    struct.pack_into("<IIIII", data, EXPORTS + 0x14, 1, count, EXPORTS + 0x28, 0x10000, 0x60000)
    data[0x10000:0x50000] = struct.pack("<I", 0x80000) * count
    data[0x80000:0x82000] = b"x" * 0x2000
    start = time.process_time()
    image = Image(put(bytes(data)), BASE)
    total = sum(len(export.name or "") for export in image.exports)
    assert total <= 9 << 20
    assert time.process_time() - start < 10
    assert any("longer" in problem.why for problem in image.problems)


def test_resource_tree_that_leads_back():
    data = bytearray(whole())
    sub = 1 << 31
    # Every entry of the root is "version", and leads to the root.
    count = 0x1F0
    struct.pack_into("<HH", data, RESOURCES + 12, 0, count)
    data[RESOURCES + 16 : RESOURCES + 16 + 8 * count] = struct.pack("<II", 16, sub) * count
    reader = put(bytes(data))
    start = time.process_time()
    image = Image(reader, BASE)
    assert image.version is None
    assert time.process_time() - start < 1


def exercise(reader):
    """Use everything; the image, or None if it is none."""
    try:
        image = Image(reader, BASE)
    except kdmp.KdmpError:
        return None
    image.to_dict()
    image.name
    image.reproducible
    for name in ("Function050", "Alias", "Nothing", 7, 1 << 40):
        try:
            image.export(name)
        except kdmp.KdmpError:
            pass
    for export in image.exports or ():
        assert export.name is None or len(export.name) <= 4096
    if image.exports is not None:
        image.exports.nearest(0x1018)
    assert all(problem.why for problem in image.problems)
    identify(reader, BASE)
    return image


@pytest.mark.parametrize("seed", range(4))
def test_mutations(seed):
    rng = random.Random(seed)
    data = whole(wide=seed % 2 == 0, reproducible=True)
    interesting = (b"\0", b"\xff", b"\x7f", b"\x80", b"\x01")
    regions = ((0, 0x300), (EXPORTS, EXPORTS + 0x800), (DEBUG, DEBUG + 0x140), (RESOURCES, RESOURCES + 0x300))
    seen = set()
    slowest = 0
    for _ in range(1000):
        bad = bytearray(data)
        start, end = rng.choice(regions)
        for _ in range(rng.randint(1, 5)):
            where, width = rng.randrange(start, end), rng.choice((1, 2, 4))
            value = rng.choice(interesting) * width if rng.random() < 0.5 else rng.randbytes(width)
            bad[where : where + width] = value
        reader = put(bytes(bad))
        if rng.random() < 0.3:
            reader.drop(BASE + rng.randrange(1, 9) * PAGE)
        begin = time.process_time()
        image = exercise(reader)
        slowest = max(slowest, time.process_time() - begin)
        seen.add((image is None, bool(image and image.problems), bool(image and image.version)))
    assert slowest < 10
    assert len(seen) >= 4  # all kinds of outcome occur


def test_last_page_of_the_address_space():
    base = (1 << 64) - PAGE
    reader = FakeReader()
    reader.put(base, whole()[:PAGE])
    image = Image(reader, base)
    assert image.exports is None and image.pdb is None and len(image.problems) == 2


# ---- the machines ----


@pytest.mark.parametrize("machine", shareddata.MACHINES)
def test_machines(machine):
    truth = shareddata.truth(machine)
    for kind in shareddata.KINDS:
        with kdmp.open(shareddata.machine_dump(machine, kind)) as dump:
            reader = dump.reader()
            complete = 0
            for module in truth["modules"]:
                if not reader.is_readable(module["base"], PAGE):
                    with pytest.raises(kdmp.UnreadableError):
                        Image(reader, module["base"])
                    continue
                image = Image(reader, module["base"])
                assert (image.size, image.timestamp, image.checksum) == (
                    module["size"], module["timestamp"], module["checksum"],
                )  # fmt: skip
                assert (image.entry, image.entry_rva) == (
                    module["entry"], module["entry"] - module["base"],
                )  # fmt: skip
                record = (image.pdb, image.guid, image.age)
                if record != (module["pdb"], module["guid"], module["age"]):
                    assert record == (None, None, None) and image.problems
                got = {export.name: export.rva for export in image.exports or ()}
                assert got.items() <= module["exports"].items()
                assert got == module["exports"] or image.problems
                for name, rva in module["exports"].items():
                    assert name not in got or image.export(name).rva == rva
                assert image.sections and all(image.contains(section.address) for section in image.sections)
                complete += not image.problems
            assert complete >= len(truth["modules"]) - 1
