"""Reader.search(): bytes, masks, text, pointers; against a search byte by byte, and against the truth.

SPDX-License-Identifier: MIT
"""

import copy
import pickle
import random
import re

import pytest
import shareddata
from conftest import KERNEL_VA, small_machine
from dumpbuilder import BITMAP, FULL, PAGE, RANGES9, Memory, P, Tables, U, W
from searchoracle import hits, search
from triagedumps import small_triage

import kdmp
from kdmp import Pattern
from kdmp.patterns import as_patterns
from kdmp.search import Match, Search

ALPHABET = b"ab\0B"


def space(frames, contents, kind=FULL):
    """A reader of pages at KERNEL_VA, one for each number in `frames` (None: a hole), and its dump."""
    memory = Memory()
    tables = Tables(memory)
    for k, frame in enumerate(frames):
        if frame is not None:
            tables.map(KERNEL_VA + k * PAGE, frame << 12, flags=P | W | U)
    for frame, data in contents.items():
        memory.page(frame)[:] = data
    dump = kdmp.Dump(memory.dump(kind, minor_version=19041))
    return dump.reader(dtb=0x1000, paging="x64", discover=False)


def noise(seed, letters=ALPHABET):
    """A page of few letters."""
    return bytes(random.Random(seed).choices(letters, k=PAGE))


@pytest.fixture(scope="module")
def world():
    contents = {0x20 + k: noise(k) for k in range(5)}
    frames = [0x20, 0x22, 0x21, None, 0x23, 0x20, 0x99, 0x24]
    return space(frames, contents)


# ---- patterns ----


def test_hex():
    pattern = Pattern.hex("48 8B ?? 05 4? ?5")
    assert pattern == Pattern.bytes(b"\x48\x8b\xaa\x05\x4a\xa5", b"\xff\xff\x00\xff\xf0\x0f")
    assert pattern == Pattern.hex("488b??05 4??5") == Pattern.hex("48 8B ? 05 4? ?5\n")
    assert pattern.size == 6
    assert repr(pattern) == "Pattern.hex('48 8B ?? 05 4? ?5')"
    assert Pattern.hex("0a0b") == Pattern.bytes(b"\n\x0b")


@pytest.mark.parametrize("text", ["", "4", "4 8", "??", "? ?", "48 8B0", "xy", "48,8b", "0x48", "48 ???"])
def test_not_hex(text):
    with pytest.raises(ValueError):
        Pattern.hex(text)


def test_text():
    assert [s.value for s in Pattern.text("aé").sequences] == [b"a\xc3\xa9", b"a\0\xe9\0"]
    assert [s.value for s in Pattern.text("a", ("ascii", "utf-8")).sequences] == [b"a"]
    assert Pattern.text("a", "utf-16-be").sequences[0].value == b"\0a"
    assert Pattern.text("ab").size is None
    assert Pattern.text("ab", "ascii").size == 2
    (ascii_, wide) = Pattern.text("aZ1é@[", ("latin-1", "utf-16-le"), ignore_case=True).sequences
    assert (ascii_.value, ascii_.mask) == (b"AZ1\xe9@[", b"\xdf\xdf\xff\xff\xff\xff")
    assert wide.mask == b"\xdf\xff\xdf\xff" + b"\xff" * 8
    assert Pattern.text("12", ignore_case=True).sequences[0].mask is None
    # EBCDIC letters differ in another bit.
    (only,) = Pattern.text("a", "cp037", ignore_case=True).sequences
    assert {byte for byte in range(256) if byte & only.mask[0] == only.value[0]} == {0x81, 0xC1}


def test_ignored_case_is_exactly_the_letters():
    for char in map(chr, range(128)):
        (only,) = Pattern.text(char, "ascii", ignore_case=True).sequences
        mask = (only.mask or b"\xff")[0]
        matched = {chr(byte) for byte in range(256) if byte & mask == only.value[0]}
        assert matched == {char.upper(), char.lower()}


def test_pointers():
    pattern = Pattern.pointers(5, 9)
    assert (pattern.first, pattern.last, pattern.size) == (5, 9, None)
    assert Pattern.of(range(5, 10)) == pattern
    assert Pattern.of(7) == Pattern.pointers(7, 7)
    assert (
        repr(Pattern.pointers(1, 2, size=4, alignment=1)) == "Pattern.pointers(0x1, 0x2, size=4, alignment=1)"
    )


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda: Pattern.bytes(b""), ValueError),
        (lambda: Pattern.bytes(b"x" * 65537), ValueError),
        (lambda: Pattern.bytes(b"ab", b"\xff"), ValueError),
        (lambda: Pattern.bytes(b"ab", b"\0\0"), ValueError),
        (lambda: Pattern.bytes("ab"), TypeError),
        (lambda: Pattern.text(""), ValueError),
        (lambda: Pattern.text("é", "ascii"), UnicodeEncodeError),
        (lambda: Pattern.text("a", ()), ValueError),
        (lambda: Pattern.text("a", "no-such"), LookupError),
        (lambda: Pattern.text("x" * 70000), ValueError),
        (lambda: Pattern.pointers(2, 1), ValueError),
        (lambda: Pattern.pointers(-1, 1), ValueError),
        (lambda: Pattern.pointers(1, 1 << 64), ValueError),
        (lambda: Pattern.pointers(1, 2, size=2), ValueError),
        (lambda: Pattern.pointers(1 << 32, 1 << 33, size=4), ValueError),
        (lambda: Pattern.pointers(1, 2, alignment=3), ValueError),
        (lambda: Pattern.regex(re.compile("text")), TypeError),
        (lambda: Pattern.regex(7), TypeError),
        (lambda: Pattern.regex(b"("), re.error),
        (lambda: Pattern.regex(b"a", max_match=0), ValueError),
        (lambda: Pattern.of(range(0)), ValueError),
        (lambda: Pattern.of(range(0, 9, 2)), ValueError),
        (lambda: Pattern.of(True), TypeError),
        (lambda: Pattern.of(None), TypeError),
        (lambda: Pattern.of(-1), ValueError),
        (lambda: as_patterns([]), ValueError),
        (lambda: as_patterns([[b"a"]]), TypeError),
        (lambda: as_patterns(1.5), TypeError),
    ],
)
def test_no_pattern(call, error):
    with pytest.raises(error):
        call()


PATTERNS = [
    Pattern.bytes(b"ab\0"),
    Pattern.bytes(b"ab", b"\xff\xf0"),
    Pattern.hex("4? 5?"),
    Pattern.text("lsass", ignore_case=True),
    Pattern.pointers(1, 2),
    Pattern.pointers(1, 2, size=8, alignment=1),
    Pattern.regex(b"a+", re.IGNORECASE, max_match=7),
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
def test_pattern_is_a_value(pattern):
    assert eval(repr(pattern), {"Pattern": Pattern, "re": re}) == pattern
    assert pickle.loads(pickle.dumps(pattern)) == copy.copy(pattern) == pattern
    assert len({pattern, copy.deepcopy(pattern)}) == 1
    assert sum(pattern == other for other in PATTERNS) == 1
    with pytest.raises(AttributeError):
        pattern.kind = "other"


def test_kinds_of_what():
    several = as_patterns([bytearray(b"x"), "x", 7, range(3), re.compile(b"x"), Pattern.hex("4?")])
    assert [pattern.kind for pattern in several] == "bytes text pointers pointers regex bytes".split()
    assert as_patterns(memoryview(b"xy")) == (Pattern.bytes(b"xy"),)
    assert as_patterns({"x"}) == as_patterns("x") == as_patterns(one for one in "x")


# ---- search ----

WHAT = [
    b"ab",
    b"aab\0Bb",
    "ab",
    Pattern.text("ab", ignore_case=True),
    Pattern.hex("61 ?? 6? 61"),
    Pattern.bytes(b"ba", b"\xff\x5f"),
    range(0x6161_0000_0000_0000, 0x6200_0000_0000_0000),
    Pattern.pointers(0x6161_0000, 0x6162_FFFF, size=4),
    Pattern.pointers(0x6161_0000, 0x6162_FFFF, size=4, alignment=2),
    [b"ab", "B", b"\0\0\0", Pattern.hex("4? 4?"), range(1 << 40)],
    [re.compile(rb"a\0+b"), b"a\0", re.compile(rb"b[ab]{3}")],
]


@pytest.mark.parametrize("what", WHAT, ids=repr)
@pytest.mark.parametrize("alignment", [1, 4])
def test_against_oracle(what, alignment, world):
    for reader in (world, world.dump.phys):
        found = reader.search(what, alignment=alignment)
        assert hits(found) == search(reader, what, alignment=alignment)
        assert found.complete
        done, total = found.progress
        assert done == total == sum(extent.size for extent in reader.extents())


def test_crosses_pages(world):
    joined = world.read(KERNEL_VA + PAGE - 20, 40)
    (match,) = world.search(joined)
    assert match.va == KERNEL_VA + PAGE - 20
    assert match.data == joined
    # Frames 0x20 and 0x22 are neighbours there only.
    assert not list(world.dump.phys.search(joined))
    # What lies on both sides of a hole is not.
    ends = world.read(KERNEL_VA + 3 * PAGE - 8, 8) + world.read(KERNEL_VA + 4 * PAGE, 8)
    assert not list(world.search(ends))


def test_bounds_are_where_matches_begin(world):
    data = world.read(KERNEL_VA, 2 * PAGE)
    word = data[PAGE - 3 : PAGE + 3]
    at = KERNEL_VA + PAGE - 3
    everywhere = hits(world.search(word))
    assert (at, 0, 6, None) in everywhere
    assert hits(world.search(word, at, at)) == [(at, 0, 6, None)]
    assert not list(world.search(word, at + 1, at + 6))
    assert not list(world.search(word, at - 6, at - 1))
    for start, last in ((KERNEL_VA + 5, KERNEL_VA + 0x1805), (0, KERNEL_VA + 1), (KERNEL_VA + 0x7000, None)):
        end = (1 << 64) - 1 if last is None else last
        for what in (b"ab", re.compile(rb"ab+")):
            assert hits(world.search(what, start, last)) == search(world, what, start, end)
    assert not list(world.search(b"ab", 10, 5))


def test_places(world):
    for match in world.search(b"ab"):
        assert match.address == match.va
        assert world.translate(match.va).pa == match.pa
        assert world.dump.read_file(match.offset, match.size) == match.data == b"ab"
    match = next(world.dump.phys.search(b"ab"))
    assert (match.va, match.address) == (None, match.pa)
    assert match.to_dict() == {
        "pa": match.pa, "offset": match.offset, "size": 2, "number": 0, "pattern": "bytes(b'ab')",
    }  # fmt: skip
    assert repr(match) == f"<Match {match.pa:#x}: 2 bytes, Pattern.bytes(b'ab')>"
    assert repr(next(world.search(b"ab"))).startswith("<Match va 0xfffff8")


def test_text_tells_the_encoding():
    dump = kdmp.Dump(small_machine().dump())
    found = list(dump.phys.search("hello"))
    assert [(match.pa, match.encoding, match.size) for match in found] == [
        (0x20100, "utf-8", 5),
        (0x20200, "utf-16-le", 10),
    ]
    assert [match.number for match in dump.phys.search(["no such", "HELLO", "hello"])] == [2, 2]
    assert [match.pa for match in dump.phys.search(Pattern.text("HelLO", ignore_case=True))] == [
        0x20100,
        0x20200,
    ]


def test_pointer_size_is_the_readers():
    memory = Memory()
    memory.put(0x5010, (0x8000_1234).to_bytes(4, "little"))
    dump = kdmp.open_raw(b"".join(bytes(memory.pages.get(k, bytes(PAGE))) for k in range(6)), arch="x86")
    assert [(match.pa, match.size) for match in dump.phys.search(0x8000_1234)] == [(0x5010, 4)]
    with pytest.raises(ValueError):
        dump.phys.search(1 << 32)
    assert [match.pa for match in dump.phys.search(range(0x8000_0000, 1 << 40))] == [0x5010]


def test_triage():
    reader = kdmp.Dump(small_triage()).reader()
    for what in (b"block", "blocknext", re.compile(rb"k(next)?"), b"kblo", b"stack"):
        found = list(reader.search(what))
        assert hits(found) == search(reader, what)
        assert all(match.pa is None and match.data for match in found)
        assert all(reader.dump.read_file(match.offset, match.size)[:1] == match.data[:1] for match in found)
    assert list(reader.search(b"block"))
    assert next(reader.search(b"blocknext")).va == KERNEL_VA + 35


def test_overlay(world):
    with world.owner.overlay() as overlay:
        before = len(list(overlay.phys.search(b"XYZ")))
        reader = overlay.reader(dtb=0x1000, paging="x64", discover=False)
        reader.write(KERNEL_VA + PAGE - 1, b"XYZ")
        (match,) = reader.search(b"XYZ")
        assert (before, match.va, match.data) == (0, KERNEL_VA + PAGE - 1, b"XYZ")
        assert match.offset is None
        assert hits(overlay.phys.search(b"YZ")) == search(overlay.phys, b"YZ") == [(0x22000, 0, 2, None)]
        overlay.create_frame(0x50)
        overlay.phys.write(0x50FFE, b"ab")
        assert hits(overlay.phys.search(b"ab")) == search(overlay.phys, b"ab")
        for order in ("address", "file"):
            found = [match.address for match in overlay.phys.search(b"ab", order=order)]
            assert sorted(found) == [hit[0] for hit in search(overlay.phys, b"ab")]
    assert not list(world.search(b"XYZ"))


def test_limit(world):
    everything = hits(world.search(b"a"))
    for limit in (0, 1, 7, len(everything), len(everything) + 1):
        for threads in (1, 3):
            found = world.search(b"a", limit=limit, threads=threads)
            assert hits(found) == everything[:limit]
            assert found.complete == (limit > len(everything))
            assert not found.cancelled


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({"alignment": 3}, ValueError),
        ({"alignment": 0}, ValueError),
        ({"alignment": 1 << 21}, ValueError),
        ({"order": "size"}, ValueError),
        ({"order": "file"}, ValueError),
        ({"limit": -1}, ValueError),
        ({"threads": 0}, ValueError),
        ({"threads": 1000}, ValueError),
        ({"threads": 1.5}, TypeError),
        ({"start": -1}, OverflowError),
        ({"last": 1 << 64}, OverflowError),
        ({"start": "text"}, TypeError),
    ],
)
def test_arguments(arguments, error, world):
    with pytest.raises(error):
        world.search(b"ab", **arguments)


def test_closed_dump():
    dump = kdmp.Dump(small_machine().dump())
    found = dump.phys.search(b"hello")
    match = next(found)
    dump.close()
    with pytest.raises(ValueError):
        match.data
    with pytest.raises(ValueError):
        list(dump.phys.search(b"hello"))
    assert isinstance(found, Search)
    assert isinstance(match, Match)


def test_unread(world):
    assert [tuple(one) for one in world.search(b"a").unread()] == [(KERNEL_VA + 6 * PAGE, PAGE, "valid")]
    assert not list(world.search(b"a", KERNEL_VA, KERNEL_VA + 0x5FFF).unread())
    (part,) = world.search(b"a", KERNEL_VA + 0x6800, KERNEL_VA + 0x7000).unread()
    assert tuple(part) == (KERNEL_VA + 0x6800, 0x800, "valid")
    assert not list(world.dump.phys.search(b"a").unread())


@pytest.mark.parametrize("kind", [FULL, BITMAP, RANGES9])
@pytest.mark.parametrize("io", ["map", "read"])
def test_kinds_and_ways(kind, io, tmp_path):
    path = tmp_path / "small.dmp"
    path.write_bytes(small_machine().dump(kind))
    with kdmp.open(path, io=io) as dump:
        for match in dump.phys.search(["hello", re.compile(b"lo")]):
            assert dump.read_file(match.offset, match.size) == match.data
        assert hits(dump.phys.search("hello")) == search(dump.phys, "hello") != []


def test_random_memory_against_oracle():
    pytest.importorskip("hypothesis")
    from hypothesis import given, settings
    from hypothesis import strategies as st

    letters = st.sampled_from(ALPHABET)
    words = st.lists(letters, min_size=1, max_size=5).map(bytes)
    frame = st.one_of(st.none(), st.sampled_from([0x20, 0x21, 0x22]))

    @settings(max_examples=10)
    @given(
        st.lists(frame, min_size=1, max_size=5),
        st.integers(0, 99),
        st.lists(words, min_size=1, max_size=3),
        st.sampled_from([1, 2, 8]),
    )
    def check(frames, seed, what, alignment):
        reader = space(frames, {0x20 + k: noise(seed + k) for k in range(3)})
        for some in (reader, reader.dump.phys):
            assert hits(some.search(what, alignment=alignment)) == search(some, what, alignment=alignment)

    check()


def test_holes_are_no_faults(world):
    with world.owner.collect_faults() as faults:
        assert list(world.search([b"ab", re.compile(rb"[ab]+")]))
        assert list(world.strings(2))
        assert list(world.search(b"ab", unique=True).unread())
    assert not faults


# ---- the synthetic machines ----


@pytest.mark.parametrize("machine", ["win7-7601", "win10-19041", "win11-22000-pti"])
def test_names_of_a_machine(machine):
    truth = shareddata.truth(machine)
    with kdmp.open(shareddata.machine_dump(machine, "full")) as dump:
        kernel = dump.reader()
        names = sorted({process["image_file_name"] for process in truth["processes"]})
        found = {}
        for match in kernel.search([name.encode() for name in names], threads=2):
            found.setdefault(names[match.number], []).append(match.va)
        offset = dump.windows.layout.offset("_EPROCESS", "ImageFileName")
        for process in truth["processes"]:
            assert process["eprocess"] + offset in found[process["image_file_name"]]
        for module in truth["modules"]:
            wide = Pattern.text(module["name"], "utf-16-le")
            places = [match.va for match in kernel.search(wide)]
            entry = kernel.read_struct(module["ldr"], "_KLDR_DATA_TABLE_ENTRY")
            assert entry.BaseDllName.Buffer in places


def test_pointers_to_a_process():
    truth = shareddata.truth("win10-19041")
    with kdmp.open(shareddata.machine_dump("win10-19041", "full")) as dump:
        kernel = dump.reader()
        process = next(one for one in truth["processes"] if one["handle_count"])
        found = [match.va for match in kernel.search(process["eprocess"])]
        assert all(kernel.read_u64(va) == process["eprocess"] and va % 8 == 0 for va in found)
        assert found
        low, high = truth["kernel_base"], truth["kernel_base"] + truth["kernel_size"]
        start = truth["kdbg"]["address"] & -PAGE
        expected = [va for va in range(start, start + 0x1000, 8) if low <= kernel.read_u64(va) < high]
        assert [match.va for match in kernel.search(range(low, high), start, start + 0xFFF)] == expected
