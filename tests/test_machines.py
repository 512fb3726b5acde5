"""The synthetic machines: every dump kind of each, against the machine's truth file.

SPDX-License-Identifier: MIT
"""

import hashlib
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import cached_property

import pytest
import refptes
import refreader as ref
import shareddata
from agree import agree_on_gaps, agree_on_read, agree_on_walk, entries

import kdmp

KIND_NUMBER = {"full": 1, "bitmap": 5, "kernel": 6, "rdmp8": 8, "rdmp9": 9, "rdmpA": 10}
LAYOUT = {1: "runs", 5: "bitmap", 6: "bitmap", 8: "ranges", 9: "ranges", 10: "ranges"}
# Truth names the reason that Windows would give; without a VAD tree the entry alone tells less.
STATE = {"vad-prototype": "vad", "unmapped": "zero", "demand-zero": "demand_zero"}
ALL_RAM = {"full", "bitmap", "rdmpA"}  # prototype PTEs of all processes are in these
EPOCH = datetime(1601, 1, 1, tzinfo=UTC)


class Machine:
    """One dump of one machine, and what is known about it."""

    def __init__(self, name, kind):
        self.name, self.kind = name, kind
        self.truth = shareddata.truth(name)
        self.path = shareddata.machine_dump(name, kind)
        self.dump = kdmp.open(self.path)
        self.pages = self.truth["dumps"][kind]

    @cached_property
    def reference(self):
        return ref.RefDump(self.path.read_bytes())

    @cached_property
    def frames(self):
        return {pfn for first, count in self.pages["ranges"] for pfn in range(first, first + count)}


@pytest.fixture(
    scope="module",
    params=[(name, kind) for name in shareddata.MACHINES for kind in shareddata.KINDS],
    ids="-".join,
)
def machine(request):
    machine = Machine(*request.param)
    with machine.dump:
        yield machine


def process(machine, pid):
    return next(p for p in machine.truth["processes"] if p["pid"] == pid)


def test_header_facts(machine):
    dump, truth = machine.dump, machine.truth
    assert dump.kind == KIND_NUMBER[machine.kind]
    assert dump.layout == LAYOUT[dump.kind]
    assert (dump.arch, dump.machine, dump.build) == ("x64", 0x8664, truth["build"])
    assert dump.dtb == process(machine, truth["current_process"])["dtb"]
    assert dump.processors == len(truth["cpus"])
    assert dump.ps_loaded_module_list == truth["symbols"]["PsLoadedModuleList"]
    assert dump.ps_active_process_head == truth["symbols"]["PsActiveProcessHead"]
    assert dump.kd_debugger_data_block == truth["kdbg"]["address"]
    assert dump.truncated == 0


def test_times(machine):
    dump, truth = machine.dump, machine.truth
    assert dump.system_time == EPOCH + timedelta(microseconds=truth["system_time"] // 10)
    assert dump.uptime == timedelta(microseconds=truth["uptime"] // 10)


def test_bug_check_and_exception(machine):
    dump, truth = machine.dump, machine.truth
    code, *parameters = truth["bugcheck"]
    assert dump.bugcheck.code == code
    assert [p.value for p in dump.bugcheck.parameters] == parameters
    assert dump.bugcheck.name == "DRIVER_IRQL_NOT_LESS_OR_EQUAL"
    assert dump.exception.code == truth["exception"]["code"]
    assert dump.exception.address == truth["exception"]["address"]


def test_registers(machine):
    registers = machine.truth["cpus"][0]["registers"]
    assert {name: getattr(machine.dump.context, name) for name in registers} == registers


def test_paging_is_chosen(machine):
    assert machine.truth["paging_levels"] == 4
    assert machine.dump.paging == "x64"
    assert machine.dump.reader().dtb == machine.dump.dtb


def test_page_set(machine):
    pages, truth = machine.dump.pages, machine.pages
    assert len(pages) == truth["pages"]
    assert list(pages) == sorted(machine.frames)
    assert [(run.pfn, run.count) for run in merged(pages.runs())] == [tuple(r) for r in truth["ranges"]]
    for pfn in truth["missing"]:
        assert pfn not in pages
        with pytest.raises(kdmp.NotInDumpError):
            machine.dump.phys.read_u8(pfn << 12)


def merged(runs):
    """Runs joined where only the place in the file is not contiguous."""
    out = []
    for run in runs:
        if out and out[-1].pfn + out[-1].count == run.pfn:
            last = out.pop()
            run = type(run)((last.pfn, last.count + run.count, last.file_offset))
        out.append(run)
    return out


def test_page_bytes(machine):
    sampled = machine.pages["sha256"]
    assert sampled
    for pfn, digest in sampled.items():
        assert hashlib.sha256(machine.dump.pages[int(pfn)]).hexdigest() == digest
        assert hashlib.sha256(machine.dump.phys.read_exact(int(pfn) << 12, 0x1000)).hexdigest() == digest


def missing_table(machine, sample):
    """The first (level, pa, value) of a sample's walk whose table this dump lacks; None."""
    for entry in sample["entries"]:
        if entry["pa"] >> 12 not in machine.frames:
            return entry["level"], entry["pa"]
    return None


def opened(machine, mask, sample):
    """(reader, the reference's space) with a mask that is unknown, given, or found by the dump itself."""
    given = machine.truth["invalid_pte_mask"] if mask == "given" else None
    reader = machine.dump.reader(sample["dtb"], invalid_pte_mask=given, discover=mask == "found")
    layout = refptes.X64_NEW
    if mask == "found" and reader.pte_format is not None:
        layout = refptes.X64_NEW7601 if machine.truth["build"] == 7601 else refptes.X64_NEW
        assert reader.pte_format[1:] == layout.format[1:]
    facts = {"mask": reader.invalid_pte_mask, "layout": layout, "kernel_root": machine.dump.dtb}
    return reader, ref.RefSpace(machine.reference, sample["dtb"], **facts)


@pytest.mark.parametrize("mask", ["unknown", "given", "found"])
def test_page_table_samples(machine, mask):
    """Walks, evidence, rights and bytes of each sampled address: R14's "checked by walking", F5, F6, F17."""
    seen = Counter()
    for sample in machine.truth["ptes"]:
        reader, space = opened(machine, mask, sample)
        assert mask != "unknown" or reader.invalid_pte_mask is None
        by_vad = sample["state"] == "vad-prototype" and mask == "found"
        if not by_vad:  # the reference reader knows page tables alone
            agree_on_walk(reader, space, sample["va"])
        evidence = [(e["level"], e["pa"], e["value"]) for e in sample["entries"]]
        missing = missing_table(machine, sample)
        if missing:
            check_missing_table(reader, sample, evidence, *missing)
            seen["no table"] += 1
        elif sample["state"] in ("valid", "transition"):
            seen[check_page(machine, reader, sample, evidence)] += 1
        elif sample["state"] == "prototype":
            seen["prototype", check_prototype(machine, reader, sample, evidence)] += 1
        elif by_vad:
            seen["by VAD", check_by_vad(machine, reader, sample, evidence)] += 1
        else:
            check_not_present(reader, sample, evidence)
            seen[sample["state"]] += 1
    assert {"valid", "demand-zero", "pagefile", "zero", "unmapped"} <= seen.keys()
    assert "vad-prototype" in seen or any(
        ("by VAD", what) in seen for what in ("valid", "transition", "no page")
    )
    if machine.kind in ALL_RAM and mask == "found":
        assert seen["by VAD", "valid"] + seen["by VAD", "transition"] >= 10
    followed = Counter(s["resolves"] for s in machine.truth["ptes"] if s["state"] == "prototype")
    if machine.kind in ALL_RAM:
        lost = seen["prototype", "no page"] + seen["prototype", "unresolved"]
        assert lost <= len(machine.pages["missing"])
        assert sum(seen["prototype", what] for what in followed) == followed.total() - lost
    assert all(seen["prototype", what] for what in ("subsection", "pagefile", "zero"))
    if machine.kind not in ("kernel", "rdmp8"):  # kernel dumps have the prototype PTEs, not the pages
        assert seen["prototype", "valid"] + seen["prototype", "transition"]


def check_missing_table(reader, sample, evidence, level, pa):
    with pytest.raises(kdmp.NotInDumpError) as caught:
        reader.translate(sample["va"])
    exc = caught.value
    assert (exc.level, exc.pa, exc.dtb, exc.va) == (level, pa, sample["dtb"], sample["va"])
    assert entries(exc) == [e for e in evidence if e[0] > level]
    with pytest.raises(kdmp.NotInDumpError) as caught:
        reader.read_u8(sample["va"])
    assert (caught.value.level, caught.value.pa) == (level, pa)


def check_not_present(reader, sample, evidence):
    with pytest.raises(kdmp.NotPresentError) as caught:
        reader.translate(sample["va"])
    exc = caught.value
    assert (exc.level, exc.entry) == (sample["level"], sample["raw"])
    assert (exc.state, entries(exc)) == (STATE.get(sample["state"], sample["state"]), evidence)
    assert (exc.prototype, exc.prototype_value) == (None, None)
    assert (exc.pagefile, exc.pagefile_page) == (sample.get("pagefile"), sample.get("offset"))
    if sample["state"] == "demand-zero":
        assert (exc.protection & 0x18 == 0x10) == sample.get("guard", False)
    assert reader.try_translate(sample["va"]) is None


def check_prototype(machine, reader, sample, evidence):
    """A shared page, by way of its prototype PTE if this dump holds that. Returns what it led to."""
    kernel = ref.RefSpace(machine.reference, sample["dtb"], mask=machine.truth["invalid_pte_mask"])
    word, why = kernel.read(sample["prototype"], 8)
    if why is not None:
        with pytest.raises(kdmp.NotPresentError) as caught:
            reader.translate(sample["va"])
        assert (caught.value.state, caught.value.prototype) == ("prototype", None)
        return "unresolved"
    assert int.from_bytes(word, "little") == sample["prototype_value"]
    if sample["resolves"] in ("valid", "transition"):
        return check_page(machine, reader, sample, evidence)
    with pytest.raises(kdmp.NotPresentError) as caught:
        reader.translate(sample["va"])
    exc, value = caught.value, sample["prototype_value"]
    assert (exc.level, exc.entry, entries(exc)) == (1, sample["raw"], evidence)
    assert (exc.prototype, exc.prototype_value) == (sample["prototype"], value)
    if sample["resolves"] == "zero":
        assert exc.state == ("demand_zero" if value else "zero")
    else:
        assert exc.state == sample["resolves"]
    if exc.state == "pagefile":
        soft = refptes.decode(value, refptes.X64_NEW, machine.truth["invalid_pte_mask"])
        assert (exc.pagefile, exc.pagefile_page) == (soft.pagefile, soft.page)
    return sample["resolves"]


def check_by_vad(machine, reader, sample, evidence):
    """A shared page that only the VAD leads to: as with a prototype PTE, if the VAD can be had."""
    walk = reader.try_translate(sample["va"])
    if walk is None:  # the VAD, or the prototype PTE, is not in this dump
        with pytest.raises(kdmp.NotPresentError) as caught:
            reader.translate(sample["va"])
        assert caught.value.state == "vad"
        return "unresolved"
    assert (walk.prototype, walk.prototype_value) == (sample["prototype"], sample["prototype_value"])
    return check_page(machine, reader, {**sample, "state": "prototype"}, evidence)


def check_page(machine, reader, sample, evidence):
    """A resident page: its translation, then its bytes if this dump holds them. Returns what it was."""
    got = None
    frame = sample["pa"] >> 12
    try:
        got = reader.translate(sample["va"])
    except kdmp.NotInDumpError as exc:  # a swizzled frame that no reading finds
        assert "transition" in (sample["state"], sample.get("resolves"))
        assert reader.invalid_pte_mask is None
        assert frame not in machine.frames
        assert (entries(exc), exc.state) == (evidence, "transition")
        return "no page"
    assert entries(got) == evidence
    assert (got.state, got.level) == (sample["state"], sample["level"])
    assert (got.prototype, got.prototype_value) == (sample.get("prototype"), sample.get("prototype_value"))
    value = sample.get("prototype_value", sample["raw"])
    if sample["state"] == "valid":
        assert (got.pa, got.page_size) == (sample["pa"], sample["page_size"])
        assert (got.writable, got.user, got.executable) == (
            sample["write"],
            sample["user"],
            sample["execute"],
        )
    elif frame in machine.frames or reader.invalid_pte_mask is not None:
        assert got.pa == sample["pa"]
        assert got.unswizzled == (got.pa != value & 0x000F_FFFF_FFFF_F000)
    page = sample["va"] & ~0xFFF
    if frame in machine.frames:
        assert hashlib.sha256(reader.read_exact(page, 0x1000)).hexdigest() == sample["sha256"]
        return sample.get("resolves", sample["state"])
    with pytest.raises(kdmp.PartialReadError) as caught:
        reader.read_exact(page, 0x1000)
    assert isinstance(caught.value.reason, kdmp.NotInDumpError)
    assert (caught.value.address, caught.value.data) == (page, b"")
    return "no page"


def test_physical_memory_equals_the_raw_image(machine):
    """memory.raw holds the low runs; what the dump has of them is the same."""
    facts = machine.truth["files"]["memory.raw"]
    want = shareddata.unpack("machines", machine.name, "memory.raw.xz").read_bytes()
    assert len(want) == facts["size"]
    got, gaps = machine.dump.phys.read_gaps(facts["first_pa"], facts["size"])
    missing = set()
    for gap in gaps:
        assert type(gap.reason) is kdmp.NotInDumpError
        assert gap.address % 0x1000 == gap.size % 0x1000 == 0
        missing.update(range(gap.address >> 12, gap.address + gap.size >> 12))
    low = range(facts["first_pa"] >> 12, facts["first_pa"] + facts["size"] >> 12)
    assert missing == set(low) - machine.frames
    for pfn in low:
        if pfn not in missing:
            assert got[pfn * 0x1000 : pfn * 0x1000 + 0x1000] == want[pfn * 0x1000 : pfn * 0x1000 + 0x1000]
        else:
            assert not any(got[pfn * 0x1000 : pfn * 0x1000 + 0x1000])


def test_virtual_memory_agrees_with_the_reference(machine):
    """Modules, kernel variables and objects, user memory: whole ranges at a time."""
    truth = machine.truth
    reference = machine.reference
    kernel = [m["base"] + step for m in truth["modules"][:4] for step in (-0x800, 0)]
    kernel += [address - 0x210 for address in truth["symbols"].values()]
    kernel += [info["eprocess"] for info in truth["processes"]]
    ranges = [(truth["current_process"], address, 0x2800) for address in kernel]
    for info in truth["processes"]:
        ranges += [(info["pid"], vad["start"] + 0x123, 0x3000) for vad in info["vads"][:6]]
    checked = 0
    for pid, address, size in ranges:
        dtb = process(machine, pid)["dtb"]
        reader = machine.dump.reader(dtb=dtb, discover=False)
        space = ref.RefSpace(reference, dtb, kernel_root=machine.dump.dtb)
        agree_on_walk(reader, space, address)
        data, _ = agree_on_read(reader, space, address, size)
        agree_on_gaps(reader, space, address, size)
        checked += len(data)
    assert checked > 0x8000
