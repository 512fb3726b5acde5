"""Raw memory images and ELF cores: `open_raw`, and page-table roots found by trial.

SPDX-License-Identifier: MIT
"""

import hashlib
import io
import os
import pickle
import random
import struct
import time

import pytest
import shareddata
from archtables import KUSER, MODES, ArchTables, error_of, flat, machine, put_kuser
from dumpbuilder import PAGE, Memory, stamp

import kdmp
from kdmp import open_raw

NOTE, LOAD = 4, 1
CORE, EXECUTABLE = 4, 2
E_386, E_X64, E_ARM64 = 3, 62, 183


# ---- the synthetic machines ----


@pytest.fixture(scope="module", params=shareddata.MACHINES)
def image(request):
    path = shareddata.unpack("machines", request.param, "memory.raw.xz")
    with open_raw(path) as dump:
        yield dump, shareddata.truth(request.param), path


def test_flat_image(image):
    dump, _, path = image
    size = path.stat().st_size
    assert (dump.layout, dump.arch, dump.kind, dump.build, dump.dtb) == ("raw", "x64", None, None, None)
    assert len(dump.pages) == size // PAGE
    assert [tuple(run) for run in dump.pages.runs()] == [(0, size // PAGE, 0)]
    assert dump.bugcheck is dump.context is dump.exception is dump.triage is None
    with open(path, "rb") as file:
        file.seek(0x5123)
        assert dump.phys.read(0x5123, 100) == file.read(100)
    assert list(dump.blobs()) == []


def test_root_by_trial_maps_the_kernel(image):
    """The root need not be the crashing process', but the kernel half must be as the truth says."""
    dump, truth, path = image
    root = dump.find_root("x64")
    assert root is not None and root % PAGE == 0
    roots = {p[name] & ~0xFFF for p in truth["processes"] for name in ("dtb",)} | {truth["dtb"] & ~0xFFF}
    assert root in roots, hex(root)
    shadow = {(p["user_dtb"] or 0) & ~0xFFF for p in truth["processes"]} - {0}
    assert root not in shadow - roots, "a user table of KVA shadow"
    assert (dump.paging, dump.paging_source) == ("x64", "trial")
    reader = dump.reader()
    assert reader.dtb == root
    frames = path.stat().st_size // PAGE
    seen = 0
    for pte in truth["ptes"]:
        if pte["state"] != "valid" or not pte["va"] >> 63:
            continue
        if pte["dtb"] & ~0xFFF != root:
            continue
        found = reader.translate(pte["va"])
        assert found.pa == pte["pa"]
        if pte["pa"] // PAGE < frames:
            page = reader.read(pte["va"] & ~0xFFF, PAGE)
            assert hashlib.sha256(page).hexdigest() == pte["sha256"]
            seen += 1
    kuser = reader.read(KUSER[True], 0x274)
    assert kuser[0x30:0x42].decode("utf-16-le") == "C:\\Window"
    assert struct.unpack_from("<I", kuser, 0x26C)[0] in (6, 10)
    # What every process shares: the module list.
    head = truth["symbols"]["PsLoadedModuleList"]
    try:
        assert reader.read_ptr(reader.read_ptr(head) + 8) == head
    except kdmp.NotInDumpError:
        pass  # the runs at 1 GiB and 4 GiB are not in the image
    else:
        seen += 1
    assert seen


def test_same_pages_as_the_full_dump(image):
    dump, truth, path = image
    for pfn, digest in truth["dumps"]["full"]["sha256"].items():
        if int(pfn) in dump.pages:
            assert hashlib.sha256(dump.pages[int(pfn)]).hexdigest() == digest
    name = next(name for name in shareddata.MACHINES if f"-{name}-" in path.name)
    with kdmp.open(shareddata.machine_dump(name, "full")) as full:
        run = next(full.pages.runs())
        with open_raw(shareddata.machine_dump(name, "full"), full.pages.runs(), full.dtb) as again:
            assert list(again.pages[run.pfn : run.pfn + 50]) == list(full.pages[run.pfn : run.pfn + 50])
            assert len(again.pages) == len(full.pages)
            head = truth["symbols"]["PsLoadedModuleList"]
            assert again.reader().read(head, 16) == full.reader().read(head, 16)


# ---- roots of every architecture ----


@pytest.mark.parametrize("paging", ["x86", "pae", "x64", "la57", "arm64"])
def test_root_by_trial(paging):
    memory, tables = machine(paging)
    arch = {"la57": "x64", "x86": "x86", "pae": "x86"}.get(paging, paging)
    wide = arch != "x86"
    with open_raw(flat(memory), arch=arch) as dump:
        assert dump.find_root(paging) == tables.root
        assert (dump.paging, dump.paging_source) == (paging, "trial")
        reader = dump.reader()
        assert reader.dtb == tables.root
        assert reader.pointer_size == (8 if wide else 4)
        assert reader.read_wstr(KUSER[wide] + 0x30) == "C:\\Windows"
        assert reader.read_u32(KUSER[wide] + 0x26C) == 10


@pytest.mark.parametrize("paging", ["x86", "pae", "x64", "arm64"])
@pytest.mark.parametrize("damage", ["no self map", "no windows", "old", "future", "unmapped", "empty"])
def test_no_root(paging, damage):
    memory, tables = machine(paging, self_map=damage != "no self map")
    if damage == "no windows":
        memory.put(0x3_0030, "somewhere".encode("utf-16-le"))
    elif damage in ("old", "future"):
        put_kuser(memory, 0x3_0000, major=4 if damage == "old" else 21)
    elif damage == "unmapped":
        tables.raw(KUSER[paging not in ("x86", "pae")], 0)
    elif damage == "empty":
        memory = Memory()
        memory.fill(1, 2, 3)
    arch = "x86" if paging in ("x86", "pae") else paging
    with open_raw(flat(memory), arch=arch) as dump:
        assert dump.find_root(paging) is None
        if damage != "empty":
            assert dump.phys.read_u8(0x3_0030 if damage != "no windows" else 0) is not None
        with pytest.raises(kdmp.RootNotPresentError, match="dtb="):
            dump.reader()
        with pytest.raises(kdmp.RootNotPresentError):
            _ = dump.paging
        given = dump.reader(tables.root, paging)
        assert given.dtb == tables.root


def test_the_user_tables_of_kva_shadow_are_not_taken():
    """They map KUSER_SHARED_DATA and themselves, too, but hardly anything else of the kernel."""
    memory, _ = machine("x64", kernel_entries=12, root=0x5000)
    shadow = ArchTables(memory, "x64", root=0x1000, spare=0x40)
    shadow.map(KUSER[True], 0x3_0000)
    shadow.store(0x1000 + 8 * 0x1ED, 0x1000 | 0x63)
    with open_raw(flat(memory)) as dump:
        assert dump.find_root("x64") == 0x5000


def test_find_root_of_other_dumps(small_image):
    with kdmp.open(small_image) as dump:
        assert dump.find_root("x64") is None
        for wrong in ("physical", "triage"):
            with pytest.raises((kdmp.KdmpError, ValueError)):
                dump.find_root(wrong)
        with pytest.raises(ValueError):
            dump.find_root("none")
        with pytest.raises(TypeError):
            dump.find_root(7)


def test_find_root_is_bounded_for_directories_without_a_table():
    """PAE: each candidate costs a scan; a memory full of them must not take their square."""
    page = bytearray(PAGE)
    frames = 2000
    out = bytearray()
    for pfn in range(frames):
        for k in range(4):
            struct.pack_into("<Q", page, 8 * k, pfn << 12 | 0x63)
        out += page
    start = time.process_time()
    with open_raw(bytes(out), arch="x86") as dump:
        assert dump.find_root("pae") is None
    assert time.process_time() - start < 2


def test_find_root_is_bounded_by_the_bytes_that_exist():
    """A core whose segments all show the whole file: sixty million frames out of 4 MiB."""
    count, size = 60_000, 4 << 20
    image = bytearray(elf([(LOAD, 0, b"")], count=count)[:64]).ljust(size, b"\0")
    for k in range(count):
        struct.pack_into("<IIQQQQQQ", image, 64 + 56 * k, LOAD, 7, 0, 0, k << 22, size, size, 0)
    start = time.process_time()
    try:
        with open_raw(bytes(image)) as dump:
            assert dump.find_root("x64") is None
            assert dump.find_root("pae") is None
    except kdmp.FormatError:
        pass  # as good
    assert time.process_time() - start < 1


@pytest.mark.parametrize("how", ["map", "read", "file", "bytes"])
def test_sources(how, tmp_path):
    memory, tables = machine("x64")
    path = tmp_path / "memory.raw"
    path.write_bytes(flat(memory) + b"tail that is no page")
    with open(path, "rb") as file:
        source = {"file": file, "bytes": path.read_bytes()}.get(how, path)
        options = {"io": "read"} if how == "read" else {}
        with open_raw(source, **options) as dump:
            assert dump.io == {"bytes": "memory"}.get(how, how)
            assert len(dump.pages) == max(memory.pages) + 1
            assert dump.reader().dtb == tables.root
            assert dump.reader().read_wstr(KUSER[True] + 0x30) == "C:\\Windows"
            assert type(error_of(dump.phys.read_u8, (max(memory.pages) + 1) * PAGE)) is kdmp.NotInDumpError


def test_pickling(tmp_path):
    memory, _ = machine("pae")
    path = tmp_path / "memory.raw"
    path.write_bytes(flat(memory))
    with open_raw(path, arch="x86", runs=[(0, max(memory.pages) + 1, 0)], io="read") as dump:
        again = pickle.loads(pickle.dumps(dump))
        assert (again.layout, again.arch, again.io, again.paging) == ("raw", "x86", "read", "pae")
        assert list(again.pages.runs()) == list(dump.pages.runs())
        assert again.reader().read_u32(KUSER[False] + 0x26C) == 10
        again.close()
    with open_raw(path, dtb=0x1060, paging="pae", arch="x86") as dump:
        again = pickle.loads(pickle.dumps(dump))
        assert (again.dtb, again.paging, again.paging_source) == (0x1060, "pae", "argument")
        again.close()
    with open_raw(path.read_bytes()) as dump, pytest.raises(TypeError, match="path"):
        pickle.dumps(dump)


def test_given_roots_and_modes():
    memory, tables = machine("x86")
    data = flat(memory)
    with open_raw(data, dtb=tables.root, arch="x86", paging="x86") as dump:
        assert (dump.paging, dump.paging_source, dump.dtb) == ("x86", "argument", tables.root)
        assert dump.reader().read_u32(KUSER[False] + 0x26C) == 10
    with open_raw(data, arch="x86", paging="x86") as dump:
        assert dump.reader().dtb == tables.root
    with open_raw(data, arch="x86", paging="pae") as dump, pytest.raises(kdmp.RootNotPresentError):
        dump.reader()
    with open_raw(data, dtb=0x9000, arch="x86") as dump:
        assert (dump.paging, dump.paging_source) == ("pae", "default")
    with pytest.raises(ValueError):
        open_raw(data, arch="mips")


# ---- runs ----


def test_runs_place_the_pieces():
    data = b"HEAD" * 8 + stamp(1) + stamp(2) + b"xx" + stamp(3)
    runs = [(0x100, 2, 32), (0x5, 1, 32 + 2 * PAGE + 2)]
    with open_raw(data, runs) as dump:
        assert list(dump.pages) == [5, 0x100, 0x101]
        assert [bytes(dump.pages[pfn]) for pfn in dump.pages] == [stamp(3), stamp(1), stamp(2)]
        assert dump.phys.read(0x100FF8, 16) == stamp(1)[-8:] + stamp(2)[:8]
        assert dump.truncated == 0
    with open_raw(data[:-1], runs) as dump:
        assert (list(dump.pages), dump.truncated) == ([0x100, 0x101], 1)
        assert type(error_of(dump.phys.read_u8, 0x5000)) is kdmp.TruncatedError


def test_overlapping_runs_first_wins():
    data = stamp(1) + stamp(2)
    with open_raw(data, [(7, 1, PAGE), (7, 2, 0)]) as dump:
        assert [bytes(dump.pages[pfn]) for pfn in dump.pages] == [stamp(2), stamp(2)]
        assert dump.figures["pages_overlapped"] == 1


@pytest.mark.parametrize(
    "runs",
    [
        [(1 << 40, 1, 0)], [(0, 1 << 40, 0)], [((1 << 40) - 1, 2, 0)], [(0, 1 << 63, 0)],
        [(0, 1 << 34, 0)] * 9,
        [(1, 1, 2**64 - 1)], [(2**64 - 1, 2**64 - 1, 2**64 - 1)], [(1, 2)], [(1, 2, 3, 4)], ["abc"], [7],
        [(-1, 1, 0)], [(0, 1, 2**64)],
    ],
)  # fmt: skip
def test_impossible_runs(runs):
    with pytest.raises((kdmp.KdmpError, ValueError, TypeError, OverflowError)):
        open_raw(bytes(PAGE), runs)


def test_runs_without_pages():
    with open_raw(bytes(PAGE), [(5, 0, 0)]) as dump:
        assert list(dump.pages) == [] and dump.find_root("x64") is None


def test_too_small_for_a_page():
    for size in (0, 1, PAGE - 1):
        with pytest.raises(kdmp.KdmpError):
            open_raw(bytes(size))
    with open_raw(bytes(PAGE)) as dump:
        assert list(dump.pages) == [0]


def test_a_dump_as_raw_is_just_bytes(small_image):
    with open_raw(small_image) as dump:
        assert dump.layout == "raw" and dump.phys.read(0, 8) == b"PAGEDU64"


# ---- ELF cores ----


def elf(segments, *, bits=64, kind=CORE, cpu=E_X64, count=None, xnum=None, entry_size=None, data=1, pad=0):
    """A core: (type, physical address, bytes) segments, each stored where the one before ends."""
    is64 = bits == 64
    head, entry, section = (64, 56, 64) if is64 else (52, 32, 40)
    entry_size = entry if entry_size is None else entry_size
    table = head
    sections = table + entry_size * len(segments)
    first = sections + (section if xnum is not None else 0) + pad
    out, body, offset = bytearray(), bytearray(), first
    for number, (what, paddr, content) in enumerate(segments):
        size = len(content)
        if is64:
            packed = struct.pack("<IIQQQQQQ", what, 7, offset, 0xFFFF_0000 * number, paddr, size, size, 0)
        else:
            packed = struct.pack("<IIIIIIII", what, offset, 0xFFFF_0000, paddr, size, size, 7, 0)
        out += packed.ljust(entry_size, b"\xee")
        body += content
        offset += size
    number = len(segments) if count is None else count
    ident = b"\x7fELF" + bytes([2 if is64 else 1, data, 1]) + bytes(9)
    rest = (0, table, sections if xnum is not None else 0, 0, head, entry_size, number, section, 1, 0)
    header = ident + struct.pack("<HHI" + ("QQQ" if is64 else "III") + "IHHHHHH", kind, cpu, 1, *rest)
    assert len(header) == head
    if xnum is not None:
        out += struct.pack("<IIQQQQIIQQ" if is64 else "<10I", 0, 0, 0, 0, 0, 0, 0, xnum, 0, 0)
    return header + bytes(out) + bytes(pad) + bytes(body)


CPUS = [(64, E_X64, "x64"), (64, E_ARM64, "arm64"), (32, E_386, "x86"), (64, E_386, "x86")]


@pytest.mark.parametrize("bits, cpu, arch", CPUS)
def test_elf_core_as_qemu_writes_it(bits, cpu, arch):
    """A PT_NOTE, then the RAM below and above a hole."""
    data = elf(
        [(NOTE, 0, b"note" * 11), (LOAD, 0, stamp(1) + stamp(2)), (LOAD, 0x10_0000, stamp(3))],
        bits=bits,
        cpu=cpu,
    )
    with open_raw(data) as dump:
        assert (dump.layout, dump.arch, dump.pointer_size) == ("raw", arch, 4 if arch == "x86" else 8)
        assert [bytes(dump.pages[pfn]) for pfn in dump.pages] == [stamp(1), stamp(2), stamp(3)]
        assert list(dump.pages) == [0, 1, 0x100]
        assert dump.machine == {"x64": 0x8664, "arm64": 0xAA64, "x86": 0x14C}[arch]
        assert type(error_of(dump.phys.read_u8, 0x2000)) is kdmp.NotInDumpError
    with open_raw(data, arch="x86") as dump:
        assert dump.arch == "x86"


@pytest.mark.parametrize("paging", ["pae", "x64", "arm64"])
def test_elf_core_with_a_root_to_find(paging):
    memory, tables = machine(paging)
    cpu = {"pae": E_386, "x64": E_X64, "arm64": E_ARM64}[paging]
    segments = [(NOTE, 0, b"n" * 20)]
    segments += [(LOAD, pfn * PAGE, bytes(page)) for pfn, page in sorted(memory.pages.items())]
    with open_raw(elf(segments, cpu=cpu, bits=32 if paging == "pae" else 64)) as dump:
        assert (dump.paging, dump.reader().dtb) == (paging, tables.root)
        assert dump.reader().read_u32(KUSER[MODES[paging].machine != 0x14C] + 0x26C) == 10


@pytest.mark.parametrize("skew", [1, 8, 0x800, PAGE - 1])
@pytest.mark.parametrize("pages", [0, 1, 2, 3])
def test_unaligned_segments_give_their_whole_pages(skew, pages):
    content = b"".join(stamp(k) for k in range(5))
    part = content[skew : skew + pages * PAGE]
    with_others = elf([(LOAD, 0x9000 + skew, part), (LOAD, 0x2_0000, stamp(9))], pad=3)
    with open_raw(with_others) as dump:
        whole = max(pages - 1, 0)
        assert list(dump.pages) == [*range(10, 10 + whole), 0x20]
        for k in range(whole):
            assert bytes(dump.pages[10 + k]) == stamp(k + 1)


@pytest.mark.parametrize("bits", [32, 64])
def test_more_segments_than_16_bits_count(bits):
    """PN_XNUM: the true count is in the first section header's sh_info."""
    segments = [(NOTE, 0, b"")] + [(LOAD, 2 * k * PAGE, stamp(k)) for k in range(20)]
    with open_raw(elf(segments, bits=bits, count=0xFFFF, xnum=21)) as dump:
        assert list(dump.pages) == list(range(0, 40, 2))
    for wrong in (0, 1 << 31, 0xFFFF_FFFF, 70_000):
        with pytest.raises(kdmp.FormatError):
            open_raw(elf(segments, bits=bits, count=0xFFFF, xnum=wrong))
    with pytest.raises(kdmp.FormatError):
        image = bytearray(elf(segments, bits=bits, count=0xFFFF, xnum=21))
        struct.pack_into("<I", image, 40 if bits == 64 else 32, len(image) - 8)
        open_raw(image)


def test_program_headers_may_be_larger():
    with open_raw(elf([(LOAD, 0x3000, stamp(3))], entry_size=80)) as dump:
        assert bytes(dump.pages[3]) == stamp(3)


@pytest.mark.parametrize(
    "wrong, error",
    [
        ({"kind": EXECUTABLE}, kdmp.WrongFileError),
        ({"data": 2}, kdmp.WrongFileError),
        ({"count": 0}, kdmp.FormatError),
        ({"entry_size": 8}, kdmp.FormatError),
        ({"count": 1000}, kdmp.FormatError),
    ],
)
def test_wrong_elf_files(wrong, error):
    if "entry_size" in wrong:
        image = bytearray(elf([(LOAD, 0, stamp(1))]))
        struct.pack_into("<H", image, 54, 8)
    else:
        image = elf([(LOAD, 0, stamp(1))], **wrong)
    with pytest.raises(error):
        open_raw(image)


def test_elf_without_memory():
    with pytest.raises(kdmp.FormatError, match="without memory"):
        open_raw(elf([(NOTE, 0, b"note")]))
    with pytest.raises(kdmp.FormatError):
        open_raw(elf([(LOAD, 1 << 63, stamp(1))]))


def test_an_elf_core_given_to_open_is_named():
    """R17: the error says what the file is and what opens it."""
    with pytest.raises(kdmp.WrongFileError, match="ELF"):
        kdmp.open(elf([(LOAD, 0, stamp(1))]))


@pytest.mark.parametrize("bits", [32, 64])
def test_every_prefix_of_a_core(bits):
    image = elf([(NOTE, 0, b"note" * 3), (LOAD, 0, stamp(1)), (LOAD, 0x8000, stamp(2))], bits=bits)
    known = len(image) - 2 * PAGE - 12
    for size in range(4, len(image) + 1, 1):
        if size < known:
            with pytest.raises(kdmp.FormatError) as caught:
                open_raw(image[:size])
            assert caught.value.offset <= len(image)
            continue
        with open_raw(image[:size]) as dump:
            stored = max(size - known - 12, 0) // PAGE
            assert (len(dump.pages), dump.truncated) == (stored, 2 - stored)


def test_a_thousand_mutations():
    """Results or typed errors; no claim allocates or takes long."""
    rng = random.Random(20_240_302)
    images = []
    for paging, bits, cpu in (("x64", 64, E_X64), ("pae", 32, E_386), ("arm64", 64, E_ARM64)):
        memory, tables = machine(paging)
        pages = [(LOAD, pfn * PAGE, bytes(page)) for pfn, page in sorted(memory.pages.items())]
        images.append((elf([(NOTE, 0, b"note"), *pages], bits=bits, cpu=cpu), paging, tables.root))
    images.append((elf([(LOAD, 0, stamp(1))] * 3, count=0xFFFF, xnum=3), "x64", 0x1000))
    values = (
        0,
        1,
        7,
        0xFFFF,
        0xFFFF_FFFF,
        1 << 31,
        1 << 40,
        1 << 52,
        (1 << 64) - 1,
        (1 << 64) - PAGE,
        1 << 63,
    )
    outcomes = {"used": 0, "refused": 0}
    for _ in range(1000):
        image, paging, root = rng.choice(images)
        out = bytearray(image)
        for _ in range(rng.choice((1, 1, 2, 4))):
            at = rng.randrange(4, 64 + 56 * 6) if rng.random() < 0.8 else rng.randrange(len(out) - 8)
            size = rng.choice((1, 2, 4, 8))
            new = rng.choice((rng.choice(values), rng.getrandbits(8 * size)))
            out[at : at + size] = (new & (1 << 8 * size) - 1).to_bytes(size, "little")
        if rng.random() < 0.1:
            del out[rng.randrange(len(out)) :]
        start = time.process_time()
        try:
            dump = open_raw(bytes(out))
        except kdmp.KdmpError:
            outcomes["refused"] += 1
            continue
        with dump:
            assert len(dump.pages) * PAGE <= len(out) * 8
            for pfn in list(dump.pages[: 1 << 20])[:5]:
                assert dump.pages[pfn].nbytes == PAGE
            found = dump.find_root(paging)
            reader = dump.reader(root if found is None else found, paging)
            for address in (0, KUSER[paging != "pae"], root):
                reader.try_translate(address)
                reader.read_gaps(address, 0x1800)
            outcomes["used"] += 1
        assert time.process_time() - start < 1
    assert min(outcomes.values()) > 100, outcomes


def test_a_shrinking_file_is_an_error(tmp_path):
    path = tmp_path / "memory.raw"
    path.write_bytes(stamp(1) + stamp(2))
    with open_raw(path, io="read") as dump:
        os.truncate(path, PAGE)
        assert dump.phys.read(0, 16) == stamp(1)[:16]
        with pytest.raises((OSError, kdmp.KdmpError)):
            dump.phys.read_exact(PAGE, 16)


def test_a_file_object_that_fails():
    class Broken(io.BytesIO):
        def read(self, size=-1):
            if self.tell() >= PAGE:
                raise OSError("the disk fails")
            return super().read(size)

    with open_raw(Broken(stamp(1) + stamp(2))) as dump:
        assert dump.phys.read(0, 16) == stamp(1)[:16]
        with pytest.raises(OSError, match="the disk fails"):
            dump.phys.read_exact(PAGE, 16)
