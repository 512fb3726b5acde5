"""Modules of processes: the machines, lists that are broken or hidden from, images by VADs.

SPDX-License-Identifier: MIT
"""

import random
import time

import pytest
from shareddata import KINDS, MACHINES, machine_dump, truth
from spaces import FakeProcess, Space, damaged_pids, fake_windows, known_layouts, processes_of

import kdmp
from kdmp.windows import ldr, userimages

FACTS = ("base", "size", "entry", "name", "path", "timestamp", "load_count")


def unreadable(process, listing):
    return any(p.address is not None and not process.reader.is_readable(p.address) for p in listing.problems)


# ---- the machines ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("machine", MACHINES)
def test_modules_of_the_machines(machine, kind):
    """Both lists in load order; each fact is the truth's, or None with the memory that is missing."""
    facts_of, seen = truth(machine), 0
    with kdmp.open(machine_dump(machine, kind)) as dump:
        for process, facts in processes_of(dump, facts_of):
            for wow64, key in ((False, "modules"), (True, "modules32")):
                expected = facts[key] or []
                found = ldr.modules(process, wow64=wow64)
                if [module.address for module in found] != [one["ldr"] for one in expected]:
                    assert found == []
                    assert unreadable(process, found), (facts["pid"], found.problems)
                    continue
                for order, (module, one) in enumerate(zip(found, expected, strict=True)):
                    assert module.order == order
                    assert module.arch == ("x86" if wow64 else "x64")
                    for name in FACTS:
                        if name in one and getattr(module, name) is not None:
                            assert getattr(module, name) == one[name], (facts["pid"], one["name"], name)
                            seen += 1
                        elif name in one:
                            assert any(p.what == name for p in module.problems)
                    if "load_time" in one and module.load_time is not None:
                        assert module.load_time == dump.windows.filetime(one["load_time"])
                    if module.symbol_id is not None:
                        assert module.symbol_id == f"{one['guid']}{one['age']:X}"
                        assert module.pdb == one["pdb"]
    if kind in ("full", "bitmap", "rdmpA"):
        assert seen > 6 * 45


@pytest.mark.parametrize("machine", MACHINES)
def test_everything_is_there_in_a_full_dump(machine):
    facts_of = truth(machine)
    lost = damaged_pids(facts_of, "missing-page", "user-module-list-null")
    with kdmp.open(machine_dump(machine, "full")) as dump:
        for process, facts in processes_of(dump, facts_of):
            if facts["pid"] in lost:
                continue
            found = process.modules()
            assert len(found) == len(facts["modules"] or []) + len(facts["modules32"] or [])
            assert found.problems == ()
            for module in found:
                assert module.symbol_id is not None
                assert module.examine() == ()
                assert module.base in module
                assert module.base + module.size not in module
                assert module.lists in (("load", "memory"), ("load", "memory", "init"))
            if found:
                assert found[0].lists == ("load", "memory")
                assert found[0].name in str(found)


def test_a_list_that_ends_in_null():
    facts_of = truth("win10-19041-damaged")
    (damage,) = (one for one in facts_of["damage"] if one["kind"] == "user-module-list-null")
    with kdmp.open(machine_dump("win10-19041-damaged", "full")) as dump:
        process, facts = next(
            pair for pair in processes_of(dump, facts_of) if pair[1]["pid"] == damage["pid"]
        )
        found = ldr.modules(process)
        assert [module.name for module in found] == [one["name"] for one in facts["modules"]]
        assert any("load order" in p.why for p in found.problems)
        assert not any("memory order" in p.why for p in found.problems)


@pytest.mark.parametrize("kind", ["full", "kernel"])
@pytest.mark.parametrize("machine", MACHINES)
def test_images_by_vads(machine, kind):
    """The images of each process, also where its user memory is not in the dump."""
    with kdmp.open(machine_dump(machine, kind)) as dump:
        for process, facts in processes_of(dump, truth(machine)):
            expected = {v["start"]: v for v in facts["vads"] if v["type"] == 2}
            found = userimages.images(process)
            assert [image.base for image in found] == sorted(expected)
            listed = {module.base for module in ldr.modules(process)}
            by_base = {m["base"]: m for m in (facts["modules"] or []) + (facts["modules32"] or [])}
            for image in found:
                assert image.path == expected[image.base]["file"]
                assert image.listed == (image.base in listed)
                assert image.size == expected[image.base]["end"] + 1 - image.base
                if image.symbol_id is not None and image.base in by_base:
                    one = by_base[image.base]
                    assert image.symbol_id == f"{one['guid']}{one['age']:X}"
            if expected:
                ntdll = userimages.find_image(process, "NTDLL.DLL")
                assert ntdll.name == "ntdll.dll"
                assert userimages.find_image(process, "no.dll") is None


# ---- layouts ----


def test_offsets_equal_type_information():
    names = {"base": "DllBase", "entry": "EntryPoint", "size": "SizeOfImage", "path": "FullDllName",
             "name": "BaseDllName", "flags": "Flags", "timestamp": "TimeDateStamp"}  # fmt: skip
    checked = set()
    for layout in known_layouts():
        entry, abi = "_LDR_DATA_TABLE_ENTRY", ldr._ABI[layout.pointer_size]
        if entry in layout:
            for attribute, field in names.items():
                if layout.has(entry, field):
                    assert layout.offset(entry, field) == getattr(abi, attribute), (layout, field)
                    checked.add(field)
            for field in ("LoadCount", "ObsoleteLoadCount"):
                if layout.has(entry, field):
                    assert layout.offset(entry, field) == abi.load_count
                    checked.add(field)
            if layout.has(entry, "LoadTime"):
                seven = layout.build.number < 9200
                assert layout.offset(entry, "LoadTime") == (abi.load_time_7 if seven else abi.load_time_8)
                checked.add(("LoadTime", seven))
        if "_PEB_LDR_DATA" in layout and layout.has("_PEB_LDR_DATA", "InLoadOrderModuleList"):
            assert layout.offset("_PEB_LDR_DATA", "InLoadOrderModuleList") == abi.heads[0]
    assert {*names.values(), "ObsoleteLoadCount", ("LoadTime", True), ("LoadTime", False)} <= checked


# ---- made by hand ----


PEB, LDR, FIRST, STEP, TEXTS = 0x10000, 0x11000, 0x100000, 0x1000, 0x50000


def made(width, count, *, build=19041):
    """A process whose loader lists have `count` modules: (process, space)."""
    space, abi = Space(), ldr._ABI[width]
    space.put(PEB, bytes(0x1000))
    space.put(LDR, bytes(0x100))
    space.put_uint(PEB + (0x18 if width == 8 else 0xC), LDR, width)
    entries = [FIRST + n * STEP for n in range(count)]
    for number, (head, link) in enumerate(zip(abi.heads, abi.links, strict=True)):
        members = entries[1:] if number == 2 else entries
        ring = [LDR + head, *(entry + link for entry in members)]
        for place, at in enumerate(ring):
            space.put_uint(at, ring[(place + 1) % len(ring)], width)
            space.put_uint(at + width, ring[place - 1], width)
    for number, entry in enumerate(entries):
        space.put_uint(entry + abi.base, 0x400000 + number * 0x10000, width)
        space.put_uint(entry + abi.size, 0x5000, 4)
        name = f"m{number}.dll".encode("utf-16-le")
        space.put_uint(entry + abi.name, len(name), 2)
        space.put_uint(entry + abi.name + 2, len(name) + 2, 2)
        space.put_uint(entry + abi.name + width, TEXTS + 0x40 * number, width)
        space.put(TEXTS + 0x40 * number, name)
    windows = fake_windows(None, Space(), pointer_size=width, build=build)
    return FakeProcess(windows, space, peb=PEB), space


def names(listing):
    return [module.name for module in listing]


@pytest.mark.parametrize("width", [4, 8])
def test_made(width):
    process, _ = made(width, 6)
    found = ldr.modules(process)
    assert names(found) == [f"m{n}.dll" for n in range(6)]
    assert found.problems == ()
    assert found[1].base == 0x410000
    assert 0x414FFF in found[1]
    assert found[1].path is None  # its Buffer is NULL
    assert found[0].lists == ("load", "memory")
    assert found[1].lists == ("load", "memory", "init")
    assert found[1].arch == ("x86" if width == 4 else "x64")
    assert found.to_dicts()[1]["lists"] == ["load", "memory", "init"]
    assert found[0].image is None


@pytest.mark.parametrize("width", [4, 8])
def test_unlinked_from_one_list(width):
    """What hides from the load order is found by the others, in its place."""
    process, space = made(width, 6)
    space.put_uint(FIRST + STEP, FIRST + 3 * STEP, width)
    space.put_uint(FIRST + 3 * STEP + width, FIRST + STEP, width)
    found = ldr.modules(process)
    assert names(found) == [f"m{n}.dll" for n in range(6)]
    assert found[2].lists == ("memory", "init")
    assert [module.order for module in found] == list(range(6))


def test_cycles_and_missing_entries():
    process, space = made(8, 6)
    space.put_uint(FIRST + 3 * STEP, FIRST + STEP)  # a cycle in the load order
    found = ldr.modules(process)
    assert sorted(names(found)) == [f"m{n}.dll" for n in range(6)]
    assert any("cycle" in p.why for p in found.problems)
    process, space = made(8, 6)
    space.drop(FIRST + 3 * STEP)
    found = ldr.modules(process)
    assert {m.address for m in found} == {FIRST + n * STEP for n in range(6)}
    lost = found[[m.address for m in found].index(FIRST + 3 * STEP)]
    assert lost.base is lost.name is None
    assert lost.problems


def test_load_times():
    for build, offset in ((6002, None), (7601, 0xD8), (9200, 0x100), (22000, 0x100)):
        process, space = made(8, 1, build=build)
        if offset:
            space.put_uint(FIRST + offset, 133264973550953718)
        module = ldr.modules(process)[0]
        assert (module.load_time is None) == (offset is None)
        assert module.problems == ()


def test_no_lists():
    process, space = made(8, 3)
    space.drop(LDR)
    space.drop(PEB)
    assert ldr.modules(process) == []
    assert len(ldr.modules(process).problems) == 1
    process, space = made(8, 3)
    space.put_uint(PEB + 0x18, 0)
    assert "NULL" in ldr.modules(process).problems[0].why
    process.peb = 0
    assert ldr.modules(process).problems == ()
    process, space = made(8, 3)
    space.put_uint(LDR + 0x10, 0xFFFF_8000_0000_1000)  # a list of the kernel is none of user space
    assert len(ldr.modules(process)) == 3


def test_garbage_ends():
    began, rng = time.process_time(), random.Random(11)
    for _ in range(80):
        process, space = made(rng.choice((4, 8)), 12)
        for _ in range(rng.choice((1, 4, 40))):
            entry = rng.choice([LDR, *(FIRST + n * STEP for n in range(12))])
            value = rng.choice([rng.randbytes(8), (FIRST + STEP * rng.randrange(12)).to_bytes(8, "little")])
            space.put(entry + 4 * rng.randrange(0x20), value)
        found = ldr.modules(process)
        assert len(found) <= 12 * 4
        for module in found:
            module.examine()
        str(found), found.to_dicts()
    assert time.process_time() - began < 20
