"""`Reader.explain` with the help of VADs: the machines, every answer a VAD can give, nobody to ask.

SPDX-License-Identifier: MIT
"""

from types import SimpleNamespace

import pytest
from dumpbuilder import Memory, P, Tables, U, W
from shareddata import KINDS, MACHINES, machine_dump, truth
from spaces import FakeProcess, Space, fake_windows, known_layouts
from vadtrees import Made, tree

import kdmp
from kdmp.windows import roots, vadpages, vads

VA = 0x7FF0_0000_5000


# ---- the machines ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("machine", MACHINES)
def test_machines(machine, kind):
    """Range, file, prototype PTE, frame and file offset are the truth's."""
    facts_of, seen = truth(machine), set()
    processes = {facts["pid"]: facts for facts in facts_of["processes"]}
    with kdmp.open(machine_dump(machine, kind)) as dump:
        for sample in facts_of["ptes"]:
            if sample["state"] not in ("vad-prototype", "zero", "unmapped") or sample["va"] >> 47:
                continue
            reader = dump.reader(sample["dtb"])
            found = reader.explain(sample["va"])
            if found.reason == "table_not_in_dump":
                assert not all(entry["pa"] >> 12 in dump.pages for entry in sample["entries"])
                continue
            (vad,) = (
                one for one in processes[sample["pid"]]["vads"] if one["start"] <= sample["va"] <= one["end"]
            )
            assert (found.vad_start, found.vad_end) == (vad["start"], vad["end"])
            assert found.file == vad["file"]
            resident = sample["state"] == "vad-prototype" and sample["pa"] >> 12 in dump.pages
            assert found.readable is reader.is_readable(sample["va"]) is resident
            assert f"{vad['start']:#x}-{vad['end']:#x}" in str(found)
            if sample["state"] == "vad-prototype":
                assert (found.prototype, found.prototype_value) == (
                    sample["prototype"],
                    sample["prototype_value"],
                )
                inside = sample["pa"] >> 12 in dump.pages
                assert (found.reason, found.in_dump) == ("readable" if inside else "not_in_dump", inside)
                assert (found.pa, found.pfn) == (sample["pa"], sample["pa"] >> 12)
                assert (found.file_offset is not None) == inside
                if inside:
                    page = dump.read_file(found.file_offset - sample["va"] % 0x1000, 0x1000)
                    assert page == dump.phys.read(sample["pa"] & ~0xFFF, 0x1000)
                    assert f"{found.file_offset:#x}" in str(found)
                    assert reader.read_exact(sample["va"] & ~0xFFF, 0x1000) == page
            else:
                assert found.reason in ("untouched", "reserved")
                assert found.protection == vad["protection"]
            assert found.to_dict()["vad_start"] == vad["start"]
            seen.add(sample["state"])
    assert seen == {"vad-prototype", "zero", "unmapped"}


@pytest.mark.parametrize("machine", MACHINES)
def test_what_no_vad_covers(machine):
    facts_of = truth(machine)
    with kdmp.open(machine_dump(machine, "full")) as dump:
        for facts in facts_of["processes"]:
            if not facts["vads"] or facts["pid"] == 596:
                continue
            found = dump.reader(facts["dtb"]).explain(0x1000)
            assert found.reason == "not_allocated"
            assert "no VAD" in str(found)
            assert found.vad_start is None


# ---- nobody to ask ----


def space(entry):
    """A dump without a kernel, with this entry for VA."""
    memory = Memory()
    tables = Tables(memory)
    memory.put_u64(tables.entry(VA), entry)
    tables.map(0xFFFF_F800_0000_5000, 0x20000, flags=P | W | U)
    memory.fill(0x20, 0x21)
    return kdmp.open(memory.dump(minor_version=19041))


@pytest.mark.parametrize("entry, reason", [(0, "empty"), (0xFFFFFFFF_00000430, "vad")])
def test_without_windows(entry, reason):
    """What the page tables alone say."""
    with space(entry) as dump:
        found = dump.reader().explain(VA)
        assert found.reason == reason
        assert "look up the VAD" in found.suggestion
        assert "vad_start" not in found.to_dict()


# ---- every answer ----

LAYOUT = next(one for one in known_layouts() if (one.build.number, one.arch) == (19041, "x64"))
PROTOTYPES = 0xFFFF_8C00_0000_1000


def asked(monkeypatch, made, value=None, *, entry=0, name="a.exe"):
    """The explanation of VA for a process that has one VAD."""
    kernel = Space()
    windows = fake_windows(LAYOUT, kernel)
    address = 0xFFFF_8000_0010_0000
    kernel.put(address, bytes(0x1000))
    tree(kernel, [made] if made else [], address + LAYOUT.offset("_EPROCESS", "VadRoot"), 19041, "x64")
    if value is not None:
        kernel.put_uint(PROTOTYPES, value)
    process = FakeProcess(windows, kernel, address=address)
    process.name = name
    monkeypatch.setattr(roots, "owner", lambda reader: process)
    with space(entry) as dump:
        return dump.reader().explain(VA)


def private(**facts):
    return Made(VA & ~0xFFF, (VA | 0xFFF) + 0x3000, **facts)


def mapped(**facts):
    more = {0x48: 0, 0x50: PROTOTYPES, 0x58: PROTOTYPES + 0x18}
    return Made(VA & ~0xFFF, (VA | 0xFFF) + 0x3000, private=False, tag=b"Vad ", more=more, **facts)


def test_private_memory(monkeypatch):
    found = asked(monkeypatch, private())
    assert (found.reason, found.protection_name, found.vad_kind) == ("reserved", "ReadWrite", "private")
    assert "reserved, not committed: private memory" in str(found)
    found = asked(monkeypatch, private(commit=2))
    assert found.reason == "untouched"
    assert "of whose 4 pages 2 are committed" in str(found)
    for made in (private(commit=4), private(mem_commit=True)):
        found = asked(monkeypatch, made)
        assert (found.reason, found.readable) == ("demand_zero", False)
        assert "a page of zeros" in str(found)
    found = asked(monkeypatch, private(type=3))
    assert (found.reason, found.vad_kind) == ("empty", "awe")


VALUES = {
    0x21 << 12 | 1: ("vad", "names frame 0x21, at file offset"),
    0x21 << 12 | 0x800 | 4 << 5 | 0x10: ("vad", "frame 0x21, in transition"),
    0x99 << 12 | 1: ("not_in_dump", "frame 0x99, which is not in this dump"),
    0: ("empty", "is not committed"),
    4 << 5: ("demand_zero", "is demand zero by the VAD's prototype PTE"),
    7 << 32 | 1 << 12 | 4 << 5: ("paged_out", "page 0x7 of page file 1"),
    0x8B00_0000_1000 << 16 | 0x400 | 4 << 5: ("file_backed", "not in memory"),
}


@pytest.mark.parametrize("entry", [0, 0xFFFFFFFF_00000430])
@pytest.mark.parametrize("value", VALUES)
def test_views(monkeypatch, value, entry):
    reason, words = VALUES[value]
    found = asked(monkeypatch, mapped(type=2), value, entry=entry)
    assert found.reason == reason
    assert words in str(found)
    assert (found.prototype, found.prototype_value) == (PROTOTYPES, value)
    assert found.vad_kind == "image"
    if reason == "paged_out":
        assert (found.pagefile, found.pagefile_page) == (1, 7)
    own = "has no entry of its own" if entry else "has an empty entry"
    assert (own in str(found)) == (reason in ("vad", "not_in_dump"))


def test_views_whose_prototypes_are_missing(monkeypatch):
    found = asked(monkeypatch, mapped(type=2))
    assert (found.reason, found.pa) == ("vad", None)
    assert "cannot be had" in str(found)


def test_no_vad(monkeypatch):
    found = asked(monkeypatch, None)
    assert found.reason == "not_allocated"
    assert "no VAD of the process a.exe covers it" in str(found)
    assert "no VAD of the process covers it" in str(asked(monkeypatch, None, name=None))
    assert "\\x1b[2Jx covers" in str(asked(monkeypatch, None, name="\x1b[2Jx"))
    assert "its entry says that a VAD" in str(asked(monkeypatch, None, entry=0xFFFFFFFF_00000430))


def test_damaged_trees_are_nobody_to_ask(monkeypatch):
    monkeypatch.setattr(roots, "owner", lambda reader: SimpleNamespace(name="x"))

    def broken(process, va):
        raise kdmp.FormatError("damaged")

    monkeypatch.setattr(vadpages, "vad_page", broken)
    with space(0) as dump:
        assert dump.reader().explain(VA).reason == "empty"


def test_finding_is_quick():
    """Going down the tree reads a few VADs, not all."""
    kernel = Space()
    windows = fake_windows(LAYOUT, kernel)
    address = 0xFFFF_8000_0010_0000
    kernel.put(address, bytes(0x1000))
    mades = [Made(0x10000 * n, 0x10000 * n + 0xFFF) for n in range(1, 1000)]
    tree(kernel, mades, address + LAYOUT.offset("_EPROCESS", "VadRoot"), 19041, "x64")
    process = FakeProcess(windows, kernel, address=address)
    kernel.reads = 0
    assert vads.find(process, 0x10000 * 777).start == 0x10000 * 777
    assert vads.find(process, 0x10000 * 777 + 0x1000) is None
    assert kernel.reads < 40
