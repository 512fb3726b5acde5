"""docs/limits.md says what the code does, and the worst files stay within it.

Hostile files are opened in a process of its own whose memory and processor time have an end: what takes too
much dies there. No clock is looked at. See also test_pitfalls.py (R rows), test_damage.py, test_packed.py.

SPDX-License-Identifier: MIT
"""

import array
import bz2
import io
import random
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import dumpbuilder
import pytest
from dumpbuilder import HEADER, PAGE
from pfndumps import Machine
from test_vads import PROTOTYPES, SUBSECTION, put_subsection, view

import kdmp
from kdmp import convert, packed, pfn, series_frames
from kdmp.packed import cab, unpack, zips
from kdmp.symbols import isf_file
from kdmp.windows import vadpages, vads

ROOT = Path(__file__).resolve().parents[1]
DOC = ROOT / "docs" / "limits.md"
NAME = r"_?[A-Z0-9_]*(?:MAX_|_MAX|LIMIT|MOST)[A-Z0-9_]*"
PLAIN_NUMBER = re.compile(r"[\s0-9a-fA-Fx()<+*_-]+")

# Constants with such a name that bound nothing a file can make large: fields of formats, what is believed of
# one value, what kdmp writes.
NOT_LIMITS = {
    "csrc/kdmp.h KDMP_E_LIMIT",
    "kdmp/_headers.py MAX_BITMAP_BITS",
    "kdmp/cli/values.py _LIMIT",
    "kdmp/context.py _MAX_PARAMETERS",
    "kdmp/doctor/header.py _MAX_PROCESSORS",
    "kdmp/doctor/rawheader.py _MAX_PFN",
    "kdmp/emulator_wtf.py _TSS_LIMIT",
    "kdmp/freeptes.py MAX_PAGE_FILES",
    "kdmp/packed/cab.py _MAX_NAME",
    "kdmp/packed/cab.py _MAX_PACKED",
    "kdmp/pfn.py _MAX_FRAME",
    "kdmp/sample.py _STACK_LIMIT",
    "kdmp/triage_writer.py _MAX_SIZE",
    "kdmp/windows/choose.py _MAX_WRONG",
    "kdmp/windows/derive.py _MAX_SIZE",
    "kdmp/windows/kdbg.py MAX_SIZE",
    "kdmp/windows/pe.py _MAX_HEADER",
    "kdmp/windows/process_sources.py MAX_ID",
    "kdmp/windows/process_sources.py _MAX_ROOT",
    "kdmp/windows/processes.py _MAX_NAME",
    "kdmp/windows/processes.py _MAX_SESSION",
    "kdmp/windows/threads.py _MAX_INCREMENT",
    "kdmp/windows/trapframe.py _MAX_SIZE",
    "kdmp/windows/vadflags.py _MAX_SIZE",
    "kdmp/writer.py _MAX_PFN",
}


# ---- the document and the code ----


def value_of(text):
    """The number that a constant is set to, None if it is not plainly one."""
    text = re.sub(r"UINT64_C\((\w+)\)", r"\1", text)
    text = re.sub(r"\((?:u?int64_t|size_t)\)", "", text)
    text = re.sub(r"\b(0x[0-9a-fA-F]+|\d+)[uUlL]+\b", r"\1", text)
    return (
        eval(text) if PLAIN_NUMBER.fullmatch(text) and text.strip() else None
    )  # numbers and operators alone


def constants(name=NAME):
    """The constants of the code with such a name: "file NAME" -> its value as written."""
    found = {}
    for path in sorted([*ROOT.glob("csrc/**/*.[ch]"), *ROOT.glob("kdmp/**/*.py")]):
        text, where = path.read_text("utf-8"), path.relative_to(ROOT).as_posix()
        pattern = (
            rf"^({name})(?:: [\w\[\]]+)? = ([^#\n]+)"
            if path.suffix == ".py"
            else rf"^(?:#define |[ \t]+)({name})(?: =)? ([^,/\n]*[0-9][^,/\n]*)"
        )
        found.update((f"{where} {match[1]}", match[2]) for match in re.finditer(pattern, text, re.M))
    return found


@pytest.fixture(scope="module")
def documented():
    """The last table of the document: "file NAME" -> number."""
    if not DOC.exists():
        pytest.skip("docs/ is not part of this copy")
    rows = re.findall(rf"^\| `([\w/.]+)`: `({NAME}|\w+)` \| (2\^)?(\d+) \|", DOC.read_text("utf-8"), re.M)
    assert len(rows) > 90
    return {
        f"{path} {name}": 1 << int(number) if power else int(number) for path, name, power, number in rows
    }


def test_documented_numbers_are_the_codes(documented):
    """Each row of the table has the number that the code has."""
    code, wrong = constants(r"_?[A-Z][A-Z0-9_]+"), {}
    for key, number in documented.items():
        if key not in code or value_of(code[key]) != number:
            wrong[key] = number, code.get(key)
    assert not wrong


def test_every_limit_is_documented(documented):
    """A constant whose name says limit is in the table, or known to be none."""
    code = set(constants())
    assert len(code) > 100
    assert not code - set(documented) - NOT_LIMITS
    assert not NOT_LIMITS - code, "no longer there"
    assert not NOT_LIMITS & set(documented)


def test_numbers_of_the_prose(documented):
    """What the text above the table says of the limits that the issue names."""
    text = " ".join(DOC.read_text("utf-8").split())
    for words, key in (
        ("Up to 2^23 ranges", "csrc/fmt_ranges.c MAX_RANGES"),
        ("2^36 bits (256 TiB) are accepted", "csrc/index.h MAX_BITMAP_BITS"),
        ("2^34 stored frames (64 TiB)", "csrc/index.h MAX_PAGES"),
        ("beyond 2^40 frames", "csrc/index.h MAX_PFN"),
        ("or after 2^18 entries", "kdmp/windows/lists.py MAX_ENTRIES"),
        ("2^18 VADs", "kdmp/windows/vads.py MAX_VADS"),
    ):
        assert words in text
        assert documented[key] == 1 << int(re.search(r"2\^(\d+)", words)[1]), words


# ---- hostile files, in a process whose memory and time have an end ----


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
import kdmp
path = {path!r}
def fails(call, *error):
    try:
        result = call()
    except error:
        return True
    raise AssertionError(repr(result))
{code}
print("done")
"""


@pytest.fixture
def limited(tmp_path, instrumented):
    """Run code that opens `path` within a number of MiB and 20 s of processor time."""
    if instrumented:
        pytest.skip("a sanitizer wants terabytes of addresses")

    def run(path, code, mebibytes=512):
        script = LIMITED.format(path=str(path), code=code, memory=mebibytes << 20)
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
        assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr[-2000:]

    return run


def bitmap_file(path, bits, pattern=b"", pages=0):
    """A bitmap dump with `bits` bits: a hole, or `pattern` over and over; and a hole for pages."""
    head = bytearray(dumpbuilder.bitmap_dump(64, [0])[: HEADER + 0x38])
    first = HEADER + 0x38 + bits // 8
    first += -first % PAGE
    struct.pack_into("<QQQ", head, HEADER + 0x20, first, bits, bits)
    with open(path, "wb") as file:
        file.write(head)
        for _ in range(bits // 8 // len(pattern) if pattern else 0):
            file.write(pattern)
        file.truncate(first + pages * PAGE)
    return path


def ranges_file(path, entries, pages=1):
    """A range dump whose table is an array of numbers."""
    head = bytearray(dumpbuilder.ranges_dump([(1, 1)])[: HEADER + 0x30])
    metadata = 16 + 8 * len(entries)
    first = HEADER + 0x20 + metadata
    struct.pack_into("<QQ", head, HEADER + 0x10, metadata, first)
    with open(path, "wb") as file:
        file.write(head)
        entries.tofile(file)
        file.truncate(first + pages * PAGE)
    return path


def looped_tables():
    """Four pages that are tables of each other at every level; rights change from entry to entry."""
    entries = [[(k + i) % 4 << 12 | 3 | (i & 1) << 2 for i in range(512)] for k in range(4)]
    return [struct.pack("<512Q", *page) for page in entries]


def test_bitmap_of_four_billion_bits(limited, tmp_path):
    """It opens with a quarter of its size, and asking for frames costs nothing."""
    path = bitmap_file(tmp_path / "large.dmp", 1 << 32, pages=16)
    with open(path, "r+b") as file:
        file.seek(HEADER + 0x38 + (1 << 28))
        file.write(b"\x55\x55\x55\x55")
    limited(
        path,
        """
with kdmp.open(path) as dump:
    first = 1 << 31
    assert list(dump.pages) == [first + 2 * k for k in range(16)] and len(list(dump.pages.runs())) == 16
    assert first + 2 in dump.pages and first + 1 not in dump.pages
    assert len(dump.pages[first : first + 8]) == 4 and len(dump.pages[:first]) == 0
""",
        mebibytes=512 + 128 + 256,
    )


def test_bitmap_beyond_the_limit(limited, tmp_path):
    """One bit more than can be: refused, though the file has them all."""
    path = bitmap_file(tmp_path / "huge.dmp", (1 << 36) + 64)
    limited(path, "fails(lambda: kdmp.open(path), kdmp.FormatError)", mebibytes=(8 << 10) + 256)
    path = bitmap_file(tmp_path / "large.dmp", (1 << 34) + 64)
    limited(path, 'fails(lambda: kdmp.open(path, io="read"), kdmp.UnsupportedDumpError)', mebibytes=256)


@pytest.mark.parametrize("order", ["ascending", "shuffled", "nested"])
def test_many_ranges(limited, tmp_path, order):
    """2^17 ranges, in order or overlapping in the worst ways: a little memory for each."""
    count, entries = 1 << 17, array.array("Q")
    for i in range(count):
        entries.extend(
            {
                "ascending": (2 * i + 1, 1),
                "shuffled": (i * 2654435761 % count * 3 + 1, 1024),
                "nested": (count - i, min(2 * i + 1, 1 << 16)),
            }[order]
        )
    path = ranges_file(tmp_path / "many.dmp", entries, pages=1 << 20)
    limited(
        path,
        "with kdmp.open(path) as dump:\n    assert len(dump.pages) > 1000 and dump.findings",
        mebibytes=(4 << 10) + 256,  # the file is mapped
    )


@pytest.mark.slow
def test_ranges_beyond_the_limit(limited, tmp_path):
    """2^23 + 1 ranges: counted, and refused before memory is taken for them."""
    path = tmp_path / "ranges.dmp"
    ranges_file(path, array.array("Q", [1, 1]) * ((1 << 23) + 1))
    limited(path, "fails(lambda: kdmp.open(path), kdmp.FormatError)", mebibytes=128 + 256)


@pytest.mark.parametrize("claimed", [4, (1 << 34) - 2])
def test_tables_that_refer_to_each_other(limited, tmp_path, claimed):
    """Enumerating ends by what the file has, whatever it claims."""
    image = bytearray(dumpbuilder.runs_dump([(0, 4)], pages=looped_tables()))
    struct.pack_into("<QQQ", image, 0x90, claimed, 0, claimed)
    path = tmp_path / "loop.dmp"
    path.write_bytes(image)
    limited(
        path,
        """
reader = kdmp.open(path).reader(dtb=0x1000)
def count():
    return sum(1 for _ in reader.mappings())
fails(count, kdmp.KdmpError)
fails(lambda: list(reader.find_frame(0x123456)), kdmp.KdmpError)
fails(lambda: reader.mappings_buffer(), kdmp.KdmpError)
assert reader.dump.windows.kernel_base is None
""",
        mebibytes=768,
    )


def test_tables_made_up_in_an_overlay():
    """More of them than the dump has frames are no endless loop."""
    count, overlay = 5 * 512, kdmp.open(dumpbuilder.runs_dump([(0, 1)])).overlay()
    root, upper, directories, tables = 0x1000, 0x1001, 0x1002, 0x2000
    for frame in (root, upper, *range(directories, directories + 5), *range(tables, tables + count)):
        overlay.create_frame(frame)
    phys = overlay.phys
    phys.write_u64(root << 12, upper << 12 | 3)
    phys.write(upper << 12, struct.pack("<5Q", *(directories + k << 12 | 3 for k in range(5))))
    for k in range(count):
        phys.write_u64((directories << 12) + 8 * k, tables + k << 12 | 3)
        phys.write_u64(tables + k << 12, 0x3)
    ranges = list(overlay.reader(dtb=root << 12).mappings())
    assert [one.start for one in ranges] == [k << 21 for k in range(count)]


@pytest.mark.slow
def test_ranges_of_a_buffer_end(limited, tmp_path):
    """More than 2^24 ranges are not put into one buffer."""
    image = bytearray(dumpbuilder.runs_dump([(0, 4)], pages=looped_tables()))
    struct.pack_into("<QQQ", image, 0x90, 1 << 16, 0, 1 << 16)
    path = tmp_path / "loop.dmp"
    with open(path, "wb") as file:
        file.write(image)
        file.truncate(HEADER + (PAGE << 16))
    limited(
        path,
        "fails(lambda: kdmp.open(path).reader(dtb=0x1000).mappings_buffer(), kdmp.KdmpError)",
        mebibytes=640 + 256 + 512,
    )


def elf_core(segments, size):
    """An ELF core of `size` bytes with `segments` segments, each of which shows all of it."""
    pages = size // PAGE
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, segments, 64, 0, 0)
    for i in range(segments):
        place = i * pages * PAGE
        head += struct.pack("<IIQQQQQQ", 1, 6, 0, 0, place, pages * PAGE, pages * PAGE, PAGE)
    return head.ljust(size, b"\0")


def test_elf_core_that_shows_its_bytes_again_and_again():
    """A file may show itself 16 times, not 17 times."""
    size = 64 * PAGE
    with kdmp.open_raw(elf_core(16, size)) as dump:
        assert len(dump.pages) == 16 * 64
    with pytest.raises(kdmp.FormatError, match="more than 16 times"):
        kdmp.open_raw(elf_core(17, size))


def test_triage_blocks_that_show_the_same_bytes():
    """Blocks that together show more than 16 times the file are left out; those before stay."""
    size, count = 0x40000, 1000
    image = bytearray(b"PAGE" * (HEADER // 4))
    image[:8] = b"PAGEDU64"
    struct.pack_into("<II", image, 8, 15, 19041)
    struct.pack_into("<II", image, 0x30, 0x8664, 4)
    struct.pack_into("<I", image, 0xF98, 4)
    header = bytearray(0x80)
    struct.pack_into("<II", header, 0x78, 0x3000, count)
    image += header
    image += bytes(0x3000 - len(image))
    for i in range(count):
        image += struct.pack("<QII", 0xFFFF800000000000 + i * 0x10000, 0x8000, 0x10000)
    image += bytes(size - len(image))
    with kdmp.open(bytes(image)) as dump:
        assert len(dump.ranges) == 16 * size // 0x10000
        assert dump.reader().is_readable(0xFFFF800000000000, 0x10000)


def test_image_without_a_root(limited, tmp_path):
    """Looking for page tables does not go through a whole image again for each page that looks like one."""
    page = struct.pack("<512Q", *([0x1001] * 512))
    path = tmp_path / "memory.raw"
    path.write_bytes(page * 4096)
    limited(path, "assert kdmp.open_raw(path).windows.kernel_base is None")


# ---- packed files ----


def test_bombs_are_bounded_by_the_packed_size(monkeypatch, tmp_path):
    """256 times the packed file, a floor for small ones, and max_size for those who know better."""
    monkeypatch.setattr(packed, "_ALWAYS_ALLOWED", 1 << 20)
    head = b"PAGEDU64".ljust(HEADER, b"\0")
    bomb = bz2.compress(head + bytes(4 << 20))
    assert len(bomb) < 1000
    with pytest.raises(kdmp.FormatError, match=r"limit of 1048576 bytes \(max_size"):
        unpack(bomb, directory=tmp_path, memory_limit=1 << 16)
    with pytest.raises(kdmp.FormatError, match="max_size"):
        kdmp.open(bomb)
    assert not list(tmp_path.iterdir())
    assert unpack(bomb, max_size=8 << 20).size == HEADER + (4 << 20)
    padded = bomb + bz2.compress(random.Random(1).randbytes(40_000))
    assert len(padded) * 256 > 5 << 20
    assert unpack(padded).size > 4 << 20


def test_members_of_unbounded_methods(monkeypatch):
    """Only some of the members packed by bzip2 or LZMA are looked into, and all that are stored."""
    monkeypatch.setattr(zips, "_MAX_UNBOUNDED", 3)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_BZIP2) as archive:
        for k in range(8):
            archive.writestr(f"{k}.bin", bytes(1000 + k))
        archive.writestr("small.dmp", b"PAGEDU64".ljust(500, b"\0"), zipfile.ZIP_STORED)
    opened = zips.ZipArchive(packed.Input(io.BytesIO(target.getvalue()), None))
    assert [member.name for member, _ in opened.heads(8)] == ["7.bin", "6.bin", "5.bin", "small.dmp"]
    assert unpack(target.getvalue()).name == "small.dmp"


def test_directory_of_an_archive(monkeypatch, tmp_path):
    """A directory larger than the limit is not read, of dumps or of symbol files."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for k in range(100):
            archive.writestr(f"{k}.json", b"PAGEDU64".ljust(200, b"\0"))
    monkeypatch.setattr(zips, "_MAX_DIRECTORY", 1000)
    with pytest.raises(kdmp.FormatError, match="the limit is 1000"):
        unpack(target.getvalue())
    path = tmp_path / "symbols.zip"
    path.write_bytes(target.getvalue())
    assert len(isf_file.members(str(path))) == 100
    monkeypatch.setattr(isf_file._ArchiveFile, "most", 1000)
    with pytest.raises(ValueError, match="a directory of"):
        isf_file.members(str(path))


def test_member_without_a_name():
    """It is looked into like any other."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("x", b"PAGEDU64".ljust(500, b"\0"))
    data = target.getvalue().replace(b"x", b"\0")
    assert unpack(data).size == 500


def test_dictionary_of_a_member():
    """LZMA that wants 4 GiB for its dictionary is refused."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.dmp", b"PAGEDU64".ljust(500, b"\0"))
    data = bytearray(target.getvalue())
    assert unpack(bytes(data)).size == 500
    at = 30 + len("a.dmp") + 5
    struct.pack_into("<I", data, at, 0xFFFFFFFF)
    with pytest.raises(kdmp.UnsupportedDumpError, match="dictionary of 4294967295 bytes"):
        unpack(bytes(data))


def test_folders_of_a_cabinet_share_their_blocks(monkeypatch):
    """Each file lies at the end of a folder of its own, and all folders are the same 50 blocks."""
    blocks, folders = 50, 20
    block = struct.pack("<IHH", 0, 0x8000, 0x8000) + bytes(0x8000)
    names = [b"%d\0" % k for k in range(folders)]
    files_at = 36 + 8 * folders
    data_at = files_at + sum(16 + len(name) for name in names)
    image = struct.pack("<4sIIIIIBBHHHHH", b"MSCF", 0, 0, 0, files_at, 0, 3, 1, folders, folders, 0, 0, 0)
    image += struct.pack("<IHH", data_at, blocks, 0) * folders
    for k, name in enumerate(names):
        image += struct.pack("<IIHHHH", 64, blocks * 0x8000 - 64, k, 0, 0, 0) + name
    image += block * blocks
    monkeypatch.setattr(cab, "_MAX_LOOKED_AT", 3 * blocks)
    heads = list(cab.CabArchive(packed.Input(io.BytesIO(image), None)).heads(8))
    assert [isinstance(head, bytes) for _, head in heads] == [True] * 3 + [False] * (folders - 3)


# ---- what is made of Windows' structures ----


def test_views_in_many_subsections_are_walked_once():
    """A part for each of 300 subsections, and a few reads for each, not 300 times that."""
    count = 300
    vad, space = view(first=PROTOTYPES, last=PROTOTYPES, pages=count)
    for k in range(count):
        following = SUBSECTION + (k + 1) * 0x100 if k + 1 < count else 0
        put_subsection(space, SUBSECTION + k * 0x100, PROTOTYPES + k * 0x10, 1, following)
    space.reads = 0
    runs = vadpages.section_runs(vad, [count + 1])
    assert space.reads < 10 * count
    expected = [vadpages.prototype_address(vad, vad.start + k * PAGE) for k in range(count)]
    assert runs == [
        (vad.start + k * PAGE, vad.start + (k + 1) * PAGE, first) for k, first in enumerate(expected)
    ]
    assert vadpages.section_runs(vad, [10]) == runs[:10]


def test_damaged_trees_are_walked_once(monkeypatch):
    """Looking for many addresses in a tree that says nothing does not collect it for each."""
    vad, _space = view()
    process, calls = vad.process, []

    def counted(one):
        calls.append(one)
        return walk(one)

    walk = vads.vads
    monkeypatch.setattr(vads, "vads", counted)
    monkeypatch.setattr(vads, "_MAX_DEPTH", 0)  # nothing is found by going down
    for k in range(5):
        assert vads.find(process, vad.start + k * PAGE) == vad
    assert len(calls) == 1


def alternating(path):
    """A dump with every second of 2^16 frames."""
    return kdmp.open(bitmap_file(path, 1 << 16, b"\x55" * 0x2000, pages=1 << 15))


def test_converting_more_runs_than_can_be_listed(monkeypatch, tmp_path):
    """Refused before anything is written."""
    monkeypatch.setattr(convert, "_MAX_RUNS", 1000)
    with alternating(tmp_path / "a.dmp") as dump, pytest.raises(kdmp.UnsupportedDumpError, match="1000 runs"):
        convert.convert(dump, tmp_path / "out.dmp", "bitmap")
    assert not (tmp_path / "out.dmp").exists()


def test_comparing_more_runs_than_can_be_kept(monkeypatch, tmp_path):
    """Dumps that differ in too many places."""
    monkeypatch.setattr(series_frames, "_MAX_RUNS", 1000)
    with (
        alternating(tmp_path / "a.dmp") as one,
        kdmp.open(dumpbuilder.runs_dump([(0, 1)])) as other,
        pytest.raises(kdmp.UnsupportedDumpError, match="1000 runs"),
    ):
        series_frames.compare_frames(one, other, threads=1)


def test_more_pfn_entries_than_the_file_has_room_for(monkeypatch):
    """What page tables that refer to each other show ends; arrays of too many frames are refused."""
    machine = Machine()
    machine.kdbg(runs=[(0, 0x40)])
    dump = kdmp.open(machine.dump())
    total = dump.pfns.summary().total
    with monkeypatch.context() as small:
        small.setattr(pfn, "_MAX_ROWS", 1)
        with pytest.raises(ValueError, match="the limit is 1"):
            dump.pfns.arrays()
    monkeypatch.setattr(pfn, "_CHUNK", 1)
    with pytest.raises(kdmp.KdmpError, match="room for"):
        pfn.PfnDatabase(SmallFile(dump)).summary()
    assert total > 1


class SmallFile:
    """A dump that says its file is empty."""

    file_size = 0

    def __init__(self, dump):
        self._dump = dump

    def __getattr__(self, name):
        return getattr(self._dump, name)
