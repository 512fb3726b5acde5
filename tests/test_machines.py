"""The synthetic machines: every dump kind of each, against the machine's truth file.

SPDX-License-Identifier: MIT
"""

import hashlib
from datetime import UTC, datetime, timedelta
from functools import cached_property

import pytest
import refreader as ref
import shareddata
from agree import agree_on_gaps, agree_on_read, agree_on_walk, entries

import kdmp

KIND_NUMBER = {"full": 1, "bitmap": 5, "kernel": 6, "rdmp8": 8, "rdmp9": 9, "rdmpA": 10}
LAYOUT = {1: "runs", 5: "bitmap", 6: "bitmap", 8: "ranges", 9: "ranges", 10: "ranges"}
# Truth names the reason that Windows would give; without a VAD tree the entry alone tells less.
STATE = {"vad-prototype": "prototype", "unmapped": "zero", "demand-zero": "demand_zero"}
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


@pytest.mark.parametrize("mask", ["unknown", "known"])
def test_page_table_samples(machine, mask):
    """Walks, evidence, rights and bytes of each sampled address: R14's "checked by walking", F5, F6."""
    known = machine.truth["invalid_pte_mask"] if mask == "known" else None
    seen = set()
    for sample in machine.truth["ptes"]:
        reader = machine.dump.reader(dtb=sample["dtb"], invalid_pte_mask=known)
        evidence = [(e["level"], e["pa"], e["value"]) for e in sample["entries"]]
        missing = missing_table(machine, sample)
        if missing:
            check_missing_table(reader, sample, evidence, *missing)
            seen.add("no table")
        elif sample["state"] in ("valid", "transition"):
            seen.add(check_page(machine, reader, sample, evidence))
        else:
            check_not_present(reader, sample, evidence)
            seen.add(sample["state"])
    assert {"valid", "prototype", "demand-zero", "pagefile", "zero", "unmapped"} <= seen


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
    assert reader.try_translate(sample["va"]) is None


def check_page(machine, reader, sample, evidence):
    """A resident page: its translation, then its bytes if this dump holds them. Returns what it was."""
    got = None
    frame = sample["pa"] >> 12
    try:
        got = reader.translate(sample["va"])
    except kdmp.NotInDumpError as exc:  # a swizzled frame that no reading finds
        assert sample["state"] == "transition"
        assert reader.invalid_pte_mask is None
        assert frame not in machine.frames
        assert (entries(exc), exc.state) == (evidence, "transition")
        return "no page"
    assert entries(got) == evidence
    assert (got.state, got.level) == (sample["state"], sample["level"])
    if sample["state"] == "valid":
        assert (got.pa, got.page_size) == (sample["pa"], sample["page_size"])
        assert (got.writable, got.user, got.executable) == (
            sample["write"],
            sample["user"],
            sample["execute"],
        )
    elif frame in machine.frames or reader.invalid_pte_mask is not None:
        assert got.pa == sample["pa"]
        assert got.unswizzled == (got.pa != sample["raw"] & 0x000F_FFFF_FFFF_F000)
    page = sample["va"] & ~0xFFF
    if frame in machine.frames:
        assert hashlib.sha256(reader.read_exact(page, 0x1000)).hexdigest() == sample["sha256"]
        return sample["state"]
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
    reference = ref.RefDump(machine.path.read_bytes())
    kernel = [m["base"] + step for m in truth["modules"][:4] for step in (-0x800, 0)]
    kernel += [address - 0x210 for address in truth["symbols"].values()]
    kernel += [info["eprocess"] for info in truth["processes"]]
    ranges = [(truth["current_process"], address, 0x2800) for address in kernel]
    for info in truth["processes"]:
        ranges += [(info["pid"], vad["start"] + 0x123, 0x3000) for vad in info["vads"][:6]]
    checked = 0
    for pid, address, size in ranges:
        dtb = process(machine, pid)["dtb"]
        reader = machine.dump.reader(dtb=dtb)
        space = ref.RefSpace(reference, dtb)
        agree_on_walk(reader, space, address)
        data, _ = agree_on_read(reader, space, address, size)
        agree_on_gaps(reader, space, address, size)
        checked += len(data)
    assert checked > 0x8000
