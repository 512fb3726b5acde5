"""VADs: the machines, trees and flags of every release made by hand, damage, sections, pages.

SPDX-License-Identifier: MIT
"""

import hashlib
import random
import time

import pytest
from shareddata import KINDS, MACHINES, machine_dump, truth
from spaces import FakeProcess, Space, fake_windows, known_layouts, processes_of
from vadtrees import Made, address_of, put, tree

import kdmp
from kdmp.windows import roots, sections, vadpages, vads
from kdmp.windows.vadflags import VadShape

EPROCESS = 0xFFFF_8000_0010_0000
FACTS = ("start", "end", "protection", "private", "commit", "mem_commit", "tag", "file")


# ---- the machines ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("machine", MACHINES)
def test_vads_of_the_machines(machine, kind):
    """All VADs, their flags and files, in every dump kind: they are kernel memory."""
    facts_of = truth(machine)
    with kdmp.open(machine_dump(machine, kind)) as dump:
        for process, facts in processes_of(dump, facts_of):
            expected = sorted(facts["vads"], key=lambda one: one["start"])
            found = vads.vads(process)
            assert [vad.address for vad in found] == [one["address"] for one in expected]
            for vad, one in zip(found, expected, strict=True):
                for name in FACTS:
                    assert getattr(vad, name) == one[name], (facts["pid"], hex(vad.start), name)
                assert (vad.type_value, vad.control_area or 0) == (one["type"], one["control_area"])
                assert vad.stop == one["end"] + 1
                assert (vad.kind == "image") == (one["label"] == "image")
                assert vad.examine() == ()
                for va in (vad.start, vad.end, (vad.start + vad.end) // 2):
                    assert va in vad
                    assert vads.find(process, va) == vad
                if vad.start - 1 not in [v.end for v in found]:
                    assert vads.find(process, vad.start - 1) is None
            damaged = [d for d in facts_of["damage"] if d["kind"] == "vad-cycle"]
            cycle = bool(damaged) and damaged[0]["pid"] == facts["pid"]
            assert bool(found.problems) == cycle
            if cycle:
                assert len(found) == damaged[0]["distinct_vads"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("machine", MACHINES)
def test_pages_that_only_vads_lead_to(machine, kind):
    """The prototype PTE, its value, the frame and the bytes are the truth's; nothing wrong is ever read."""
    facts_of, seen = truth(machine), 0
    with kdmp.open(machine_dump(machine, kind)) as dump:
        owners = {facts["eprocess"]: process for process, facts in processes_of(dump, facts_of)}
        by_pid = {facts["pid"]: facts["eprocess"] for facts in facts_of["processes"]}
        for sample in facts_of["ptes"]:
            va = sample["va"]
            if va >> 47 or sample["pid"] not in by_pid:
                continue
            process = owners[by_pid[sample["pid"]]]
            tables = all(entry["pa"] >> 12 in dump.pages for entry in sample["entries"])
            pa, page = vads.resolve(process, va), vads.read_page(process, va)
            if pa is not None:
                assert pa == sample["pa"]
            if page is not None:
                assert hashlib.sha256(page).hexdigest() == sample["sha256"]
            if sample["state"] == "vad-prototype" and tables:
                found = vadpages.vad_page(process, va)
                assert (found.prototype, found.value) == (sample["prototype"], sample["prototype_value"])
                assert (found.state, found.pa) == (sample["resolves"], sample["pa"])
                assert pa == sample["pa"]
                assert (page is not None) == (sample["pa"] >> 12 in dump.pages)
                seen += 1
            elif sample["state"] in ("zero", "unmapped") and tables:
                found = vadpages.vad_page(process, va)
                expected = {
                    "reserved": {"reserved", "untouched"},
                    "reserved, no page table": {"reserved"},
                    "committed, no page table entry yet": {"committed", "untouched"},
                }
                assert found.state in expected[sample["note"]]
                assert pa is page is None
    assert seen or kind in ("kernel", "rdmp8", "rdmp9")


@pytest.mark.parametrize("machine", MACHINES)
def test_owner_of_a_root(machine):
    """By either root of a process, hidden ones included; nobody's root has no owner."""
    with kdmp.open(machine_dump(machine, "full")) as dump:
        for process, facts in processes_of(dump, truth(machine)):
            for root in (facts["dtb"], facts["user_dtb"]):
                if root and root > 0x1000:
                    assert roots.owner(dump.reader(root)).address == process.address
        assert roots.owner(dump.reader(0x7000)) is None
        assert roots.owner(dump.phys) is None


@pytest.mark.parametrize("machine", MACHINES)
def test_user_memory(machine):
    """Images are read where the page tables leave it to the VADs."""
    with kdmp.open(machine_dump(machine, "full")) as dump:
        read = 0
        for process, facts in processes_of(dump, truth(machine)):
            memory = vadpages.UserMemory(process)
            for sample in truth(machine)["ptes"]:
                if sample["pid"] != facts["pid"] or sample["state"] != "vad-prototype":
                    continue
                page = memory.read_exact(sample["va"] & ~0xFFF, 0x1000)
                assert hashlib.sha256(page).hexdigest() == sample["sha256"]
                assert memory.read((sample["va"] & ~0xFFF) + 0xFF0, 16) == page[-16:]
                read += 1
            assert memory.read(0x10, 4) == b""
            with pytest.raises(kdmp.UnreadableError):
                memory.read_exact(0x10, 4)
        assert read > 10


# ---- every release ----


def releases():
    return [
        pytest.param(layout, id=str(layout.build).replace(" ", "-"))
        for layout in known_layouts()
        if layout.has("_EPROCESS", "VadRoot")
    ]


def forest(layout, mades):
    """A process with these VADs: (process, space, {address: Made})."""
    space = Space("pae" if layout.arch == "x86" else layout.arch)
    windows = fake_windows(layout, space)
    address = EPROCESS if layout.pointer_size == 8 else 0x8010_0000
    space.put(address, bytes(0x1000))
    root = address + layout.offset("_EPROCESS", "VadRoot")
    first = layout.build.version == "5.2.3790.0"  # 2003 before SP1 has the flags of XP
    known = tree(
        space, mades, root, layout.build.number, layout.arch, flags=2600 if first else layout.build.number
    )
    if layout.has("_EPROCESS", "VadCount"):
        space.put_uint(address + layout.offset("_EPROCESS", "VadCount"), len(mades), layout.pointer_size)
    elif layout.has("_EPROCESS", "VadRoot.NumberGenericTableElements"):
        field = layout.field("_EPROCESS", "VadRoot.NumberGenericTableElements")
        space.put_uint(address + field.offset, len(mades) << field.bit_start, layout.pointer_size)
    return FakeProcess(windows, space, address=address), space, known


def some(layout, count=40, seed=3):
    """VADs with all that a release can say, not overlapping."""
    rng, found, at = random.Random(seed), [], 0x10000
    narrow = layout.arch == "x86"
    for number in range(count):
        at += 0x10000 * rng.randrange(1, 50) + (0 if narrow or number % 5 else 1 << 40)
        pages = rng.randrange(1, 300)
        old = narrow and layout.build.number < 9200
        private = rng.random() < 0.6
        found.append(
            Made(
                at,
                at + pages * 0x1000 - 1,
                type=rng.choice((0, 0, 2, 4, 5)),
                protection=rng.randrange(32),
                private=private,
                commit=rng.randrange(1 << (19 if old else 30)),
                mem_commit=rng.random() < 0.3 and (private or layout.build.number < 26100),
                tag=b"VadS" if private else b"Vad ",
            )
        )
        at += pages * 0x1000
    return found


@pytest.mark.parametrize("layout", releases())
def test_trees_and_flags_of_all_releases(layout):
    """Written by tables of the tests, read by the layout."""
    mades = some(layout)
    process, _, known = forest(layout, mades)
    found = vads.vads(process)
    assert found.problems == ()
    assert [vad.start for vad in found] == sorted(made.start for made in mades)
    for vad in found:
        made = known[vad.address]
        assert (vad.start, vad.end, vad.protection) == (made.start, made.end, made.protection)
        assert (vad.type_value, vad.private, vad.mem_commit) == (made.type, made.private, made.mem_commit)
        assert (vad.commit, vad.tag) == (made.commit, made.tag.decode())
        assert vads.find(process, made.end) == vad
        assert vad.rights == kdmp.protection.protection_rights(made.protection)
    assert vads.find(process, 0x7000) is None


def test_all_builds_have_a_shape():
    for layout in known_layouts(one_per_number=False):
        if "_MMVAD_SHORT" in layout:
            assert 0x14 < VadShape(layout).size <= 0x48


def test_commit_charge_beyond_32_bits():
    for number, charge in ((19041, 0x5A << 31 | 7), (26100, 0x5A << 32 | 7)):
        layout = layout_of(number)
        process, _, _ = forest(layout, [Made(0x10000, 0x1FFFF, commit=charge)])
        assert vads.vads(process)[0].commit == charge


def layout_of(number, arch="x64"):
    found = [one for one in known_layouts() if one.build.number == number and one.arch == arch]
    if not found:
        pytest.skip(f"no layout of {number}")
    return found[0]


# ---- damage ----


def test_empty_tree_and_missing_process():
    layout = layout_of(19041)
    process, space, _ = forest(layout, [])
    assert vads.vads(process) == []
    assert vads.vads(process).problems == ()
    assert vads.find(process, 0x10000) is None
    space.drop(process.address)
    space.drop(process.address + layout.offset("_EPROCESS", "VadRoot"))
    assert len(vads.vads(process).problems) == 1
    with pytest.raises(kdmp.UnreadableError):
        vads.find(process, 0x10000)


def test_missing_pages_cost_what_hangs_from_them():
    process, space, known = forest(layout_of(19041), some(layout_of(19041), 200))
    lost = address_of(37) // 0x1000
    space.drop(address_of(37))
    found = vads.vads(process)
    missing = [address for address in known if address // 0x1000 == lost]
    assert 150 < len(found) < 200
    assert not {vad.address for vad in found} & set(missing)
    assert any("is lost" in p.why for p in found.problems)
    assert any("counts 200" in p.why for p in found.problems)
    for vad in found:
        assert vads.find(process, vad.start) == vad
    with pytest.raises(kdmp.KdmpError):
        vads.find(process, known[missing[0]].start)


@pytest.mark.parametrize("number", [7601, 9600, 19041, 26100])
def test_cycles_and_wild_pointers(number):
    layout = layout_of(number)
    rng = random.Random(number)
    began = time.process_time()
    for _ in range(60):
        process, space, known = forest(layout, some(layout, 30))
        for _ in range(rng.choice((1, 1, 3, 20))):
            victim = rng.choice(list(known))
            value = rng.choice(
                [rng.choice(list(known)), rng.getrandbits(64), 0xFFFF_8000_0000_0000, victim, process.address]
            )
            space.put_uint(victim + 8 * rng.randrange(8), value)
        found = vads.vads(process)
        assert len({vad.address for vad in found}) == len(found)
        assert [vad.start for vad in found] == sorted(vad.start for vad in found)
        for vad in found:
            vad.examine()
            str(vad), vad.to_dict()
            assert vad.start <= vad.end < 1 << 47
        for va in (0, 0x10000, 1 << 46, (1 << 47) - 1, rng.choice(list(known.values())).start):
            try:
                hit = vads.find(process, va)
            except kdmp.KdmpError:
                continue
            assert hit is None or va in hit
        str(found)
    assert time.process_time() - began < 30


def test_a_child_that_is_no_vad():
    """Memory that looks like a range but neither knows its parent nor has a tag is not believed."""
    layout = layout_of(19041)
    process, space, known = forest(layout, some(layout, 3))
    root = vads.vads(process)[1].address
    fake = 0xFFFF_8A00_0100_0000
    put(space, Made(1 << 45, (1 << 45) + 0xFFF, tag=b"Junk"), fake, 19041, "x64")
    leaf = vads.vads(process)[2].address
    space.put_uint(leaf + 8, fake)
    found = vads.vads(process)
    assert [vad.address for vad in found if vad.address == fake] == []
    assert any("no tag" in p.why for p in found.problems)
    put(space, Made(1 << 45, (1 << 45) + 0xFFF, tag=b"Junk"), fake, 19041, "x64", parent=leaf)
    assert fake in [vad.address for vad in vads.vads(process)]
    assert root in known


def test_layout_without_vads():
    layout = layout_of(19041)
    process, _, _ = forest(layout, [])
    del process.windows.__dict__["layout"]
    process.windows.__dict__["layout"] = type("Bare", (), {"has": lambda *_: False})()
    process.windows.layout.field = layout.field

    class Process(FakeProcess):
        @property
        def object(self):
            raise kdmp.symbols.TypeNotFoundError("_EPROCESS")

    bare = Process(process.windows, process.reader, address=process.address)
    found = vads.vads(bare)
    assert found == []
    assert "_EPROCESS" in found.problems[0].why


# ---- sections ----


SUBSECTION, PROTOTYPES = 0xFFFF_8B00_0000_1000, 0xFFFF_8C00_0000_1000


def view(*, type=0, first=None, last=None, subsection=SUBSECTION, pages=10, number=19041):
    """A process with one view of a section: (vad, space)."""
    first = PROTOTYPES if first is None else first
    last = first + 8 * pages if last is None else last
    more = {0x48: subsection, 0x50: first, 0x58: last}
    made = Made(0x10000, 0x10000 + pages * 0x1000 - 1, type=type, private=False, tag=b"Vad ", more=more)
    process, space, _ = forest(layout_of(number), [made])
    return vads.vads(process)[0], space


def put_subsection(space, address, base, count, following):
    space.put(address, bytes(0x40))
    space.put_uint(address + 8, base)
    space.put_uint(address + 0x10, following)
    space.put_uint(address + 0x2C, count, 4)


def test_prototype_beyond_the_contiguous_ones():
    """The chain of subsections: 4 PTEs, none, 3, then the rest."""
    vad, space = view(first=PROTOTYPES + 8, last=PROTOTYPES + 3 * 8)
    chain = [SUBSECTION + k * 0x100 for k in range(4)]
    arrays = [(PROTOTYPES, 4), (0, 0), (PROTOTYPES + 0x1000, 3), (PROTOTYPES + 0x2000, 100)]
    for (base, count), at, following in zip(arrays, chain, [*chain[1:], 0], strict=True):
        put_subsection(space, at, base, count, following)
    expected = [
        *(PROTOTYPES + 8 * k for k in (1, 2, 3)),
        *(PROTOTYPES + 0x1000 + 8 * k for k in range(3)),
        *(PROTOTYPES + 0x2000 + 8 * k for k in range(4)),
    ]
    assert [vadpages.prototype_address(vad, vad.start + 0x1000 * n) for n in range(10)] == expected
    assert [part.pte_count for part in sections.subsections(vad.windows, SUBSECTION)] == [4, 0, 3, 100]


def test_chains_that_break():
    vad, space = view(last=PROTOTYPES)
    far = vad.start + 0x5000
    put_subsection(space, SUBSECTION, PROTOTYPES, 2, SUBSECTION)  # a cycle
    with pytest.raises(kdmp.FormatError, match="does not end"):
        vadpages.prototype_address(vad, far)
    assert "does not end" in sections.subsections(vad.windows, SUBSECTION).problems[0].why
    put_subsection(space, SUBSECTION, PROTOTYPES, 2, 0)
    with pytest.raises(kdmp.FormatError, match="end before"):
        vadpages.prototype_address(vad, far)
    put_subsection(space, SUBSECTION, PROTOTYPES, 2, 0x1000)
    with pytest.raises(kdmp.FormatError, match="no address"):
        vadpages.prototype_address(vad, far)
    put_subsection(space, SUBSECTION, PROTOTYPES + 0x800, 2, 0)
    with pytest.raises(kdmp.FormatError, match="is not in the subsection"):
        vadpages.prototype_address(vad, far)
    space.drop(SUBSECTION)
    page = vadpages.page_of(vad, far)
    assert page.state == "unknown"
    assert page.why


@pytest.mark.parametrize("first", [0, 0x1000, PROTOTYPES + 4, 0x7FFF_0000_0000])
def test_prototypes_that_are_no_addresses(first):
    vad, _ = view(first=first, last=(1 << 64) - 4)
    page = vadpages.page_of(vad, vad.start)
    assert (page.state, page.pa) == ("unknown", None)


VALUES = {
    0: ("zero", None),
    0x1234 << 12 | 1: ("valid", 0x1234000),
    0x1234 << 12 | 0x800 | 4 << 5 | 0x10: ("transition", 0x1234000),
    4 << 5: ("demand_zero", None),
    7 << 32 | 1 << 12 | 4 << 5: ("pagefile", None),
    0x8B00_0000_1000 << 16 | 0x400 | 4 << 5: ("subsection", None),
}


@pytest.mark.parametrize("value", VALUES)
def test_prototype_values(value):
    vad, space = view()
    space.put_uint(PROTOTYPES + 8, value)
    page = vadpages.page_of(vad, vad.start + 0x1234)
    state, pa = VALUES[value]
    assert (page.state, page.value, page.prototype) == (state, value, PROTOTYPES + 8)
    assert page.pa == (None if pa is None else pa + 0x234)


def test_frames_with_an_unknown_mask():
    """A frame in transition is believed only if the dump has it, with the mask's bits or without."""
    vad, space = view()
    space.invalid_pte_mask = None
    entry = 0x1234 << 12 | 0x800 | 4 << 5
    for value in (entry, entry | 1 << 45):
        space.put_uint(PROTOTYPES, value)
        assert vadpages.page_of(vad, vad.start).pa == 0x1234000
    space.owner.pages = range(0x1000)
    page = vadpages.page_of(vad, vad.start)
    assert (page.state, page.pa) == ("unknown", None)
    assert "L1TF" in page.why


def test_what_has_no_prototypes():
    for kind in (1, 3, 5, 6):
        vad, _ = view(type=kind)
        assert vadpages.page_of(vad, vad.start).state == "other"
    with pytest.raises(ValueError, match="is not in"):
        vadpages.page_of(vad, vad.stop)


@pytest.mark.parametrize("commit, mem_commit, state", [
    (0, False, "reserved"), (3, False, "untouched"), (16, False, "committed"), (0, True, "committed"),
])  # fmt: skip
def test_private_memory(commit, mem_commit, state):
    made = Made(0x10000, 0x1FFFF, commit=commit, mem_commit=mem_commit)
    process, _, _ = forest(layout_of(19041), [made])
    assert vadpages.vad_page(process, 0x10123).state == state
    assert vadpages.vad_page(process, 0x20000) is None
    assert vads.resolve(process, 0x10123) is None
    assert vads.read_page(process, 0x10123) is None


CONTROL, FILE, NAME = 0xFFFF_8D00_0000_1000, 0xFFFF_8D00_0000_2000, 0xFFFF_8D00_0000_3000


def put_section(space, *, flags, file=FILE, number=19041):
    put_subsection(space, SUBSECTION, PROTOTYPES, 10, 0)
    space.put_uint(SUBSECTION, CONTROL)
    space.put(CONTROL, bytes(0x80))
    space.put_uint(CONTROL + 0x38, flags, 4)
    space.put_uint(CONTROL + 0x40, file | 0xD if file else 0)
    space.put(FILE, (5).to_bytes(2, "little") + bytes(0xD6))
    space.put(FILE + 0x58, (10).to_bytes(2, "little") * 2)
    space.put_uint(FILE + 0x60, NAME)
    space.put(NAME, "\\a.nl".encode("utf-16-le"))


@pytest.mark.parametrize("flags, kind", [(0x80, "mapped"), (0xA0, "image"), (0x400, "physical")])
def test_kinds_of_sections(flags, kind):
    for number in (19041, 22621):  # the latter's types lack _SUBSECTION and _MMSECTION_FLAGS
        vad, space = view(number=number)
        put_section(space, flags=flags)
        assert (vad.kind, vad.file, vad.control_area) == (kind, "\\a.nl", CONTROL)
        assert vad.section.file_object == vad.file_object == FILE
        assert vad.problems == ()


def test_section_without_a_file():
    vad, space = view()
    put_section(space, flags=1 << 13, file=0)
    assert (vad.kind, vad.file, vad.file_object) == ("pagefile", None, None)
    assert vad.problems == ()


def test_section_that_is_missing():
    """Each property tells what it lacks; a file that the VAD itself names is found."""
    vad, space = view()
    assert vad.kind is vad.file is vad.control_area is None
    assert {p.what for p in vad.problems} >= {"kind", "file", "control_area"}
    put_section(space, flags=1 << 7)
    space.drop(CONTROL)
    vad, _ = view()
    space.put_uint(vad.address + 0x80, FILE)
    again = vads.Vad(FakeProcess(fake_windows(layout_of(19041), space), space), vad.address, vad._head)
    assert again.kind is None
    assert again.file == "\\a.nl"
    space.put_uint(FILE, 6, 2)
    again = vads.Vad(again.process, vad.address, vad._head)
    assert again.file is None
    assert any("no FILE_OBJECT" in p.why for p in again.problems)


def test_mutated_machines():
    """Bytes of VADs, sections and loader lists of a machine replaced at random: bounded, and no surprise."""
    pristine = machine_dump("win10-19041", "kernel").read_bytes()
    facts = truth("win10-19041")
    began, rng = time.process_time(), random.Random(5)
    with kdmp.open(pristine) as dump:
        reader, places = dump.reader(), []
        for process in facts["processes"]:
            for vad in process["vads"]:
                for address, size in ((vad["address"] - 16, 0x98), (vad["control_area"], 0x80)):
                    place = reader.explain(address).file_offset if address else None
                    if place is not None:
                        places.append((place, size))
    assert len(places) > 200
    for _ in range(12):
        image = bytearray(pristine)
        for place, size in rng.sample(places, 60):
            at = place + 8 * rng.randrange(size // 8)
            image[at : at + 8] = rng.choice(
                [rng.randbytes(8), bytes(8), b"\xff" * 8, image[place + 16 : place + 24]]
            )
        with kdmp.open(bytes(image)) as dump:
            for process, _ in processes_of(dump, facts):
                for vad in vads.vads(process):
                    vad.examine()
                    for va in (vad.start, vad.end):
                        vads.resolve(process, va)
                        vads.read_page(process, va)
                        process.reader.explain(va)
                assert len(vads.vads(process)) <= 20
    assert time.process_time() - began < 60
