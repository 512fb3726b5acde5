"""Processors: every fact of the machines' truth files, real triage dumps, and dumps that lie.

SPDX-License-Identifier: MIT
"""

import json
import lzma
import random
from bisect import bisect_right
from functools import cache

import pytest
import shareddata
from cpudumps import agree, bundled

import kdmp
from kdmp.symbols import SymbolError
from kdmp.windows import prcb, special, trapframe
from kdmp.windows.cpus import cpus
from kdmp.windows.cpustate import KPCR_FIELDS
from kdmp.windows.session import Windows

ALL = [(machine, kind) for machine in shareddata.MACHINES for kind in shareddata.KINDS]


@pytest.fixture(scope="module", params=ALL, ids="-".join)
def machine(request):
    name, kind = request.param
    with kdmp.open(shareddata.machine_dump(name, kind)) as dump:
        yield dump, shareddata.truth(name)


def test_truth(machine):
    dump, truth = machine
    listing = dump.windows.cpus
    assert listing.problems == ()
    assert [cpu.number for cpu in listing] == [one["cpu"] for one in truth["cpus"]]
    assert listing.crashing == 0
    for one in truth["cpus"]:
        cpu = listing[one["cpu"]]
        agree(cpu, one)
        assert cpu.is_crashing is (one["cpu"] == 0)
        wanted = "KPRCB.Context" if one["context_pointer"] else "ProcessorState.ContextFrame"
        assert cpu.context_source == ("header" if cpu.is_crashing else wanted)
        assert cpu.saved_contexts[0][0] == wanted
        assert [entry.handler for entry in cpu.idt] == one["idt_handlers"]
        assert [entry.vector for entry in cpu.idt] == list(range(256))
        assert all(entry.present and entry.selector == 0x10 for entry in cpu.idt)
        assert {entry.vector for entry in cpu.idt if entry.dpl == 3} >= {3, 4}
        assert {entry.dpl for entry in cpu.idt} == {0, 3}
        assert cpu.examine() == ()
        assert cpu.long_mode is True
    crashed = next(p for p in truth["processes"] if p["pid"] == truth["current_process"])
    assert listing[0].current_process == crashed["eprocess"]
    assert (listing[0].process.pid, listing[0].process.address) == (crashed["pid"], crashed["eprocess"])
    assert listing[0].thread.address == truth["cpus"][0]["current_thread"]
    assert listing[0].thread.tid in {thread["tid"] for thread in crashed["threads"]}


def test_registers_in_one_view(machine):
    """C58: segments, descriptor tables, control registers and MSRs, each with where it is from."""
    dump, truth = machine
    for one in truth["cpus"]:
        view = dump.windows.cpus[one["cpu"]].registers
        assert view.known.items() >= one["registers"].items()
        assert (view.gs_base, view.gs_swap) == (one["specials"]["MsrGsBase"], one["specials"]["MsrGsSwap"])
        assert (view.lstar, view.cr3) == (one["specials"]["MsrLStar"], one["specials"]["Cr3"])
        assert (view.cs_long, view.source("cs_long")) == (1, "GDT")
        assert view.efer is None and "not save" in view.source("efer")
        assert "SpecialRegisters" in view.source("cr3") and "context" in view.source("rip")
        assert view.fs_base == one["specials"].get("MsrFsBase")
        assert view.xcr0 == one["specials"].get("Xcr0")
    for bad in (1.0, "0", None):
        with pytest.raises(TypeError, match="integer"):
            dump.windows.cpus[bad]


def test_without_symbols_kdbg_and_fixed_offsets_give_the_same(machine):
    dump, truth = machine
    listing = cpus(NoSymbols(dump))
    assert len(listing) == len(truth["cpus"])
    for one in truth["cpus"]:
        agree(listing[one["cpu"]], one)
        # Which of them this build has is told by the room there is.
        for name in ("Xcr0", "MsrFsBase"):
            assert listing[one["cpu"]].special[name] == one["specials"].get(name)
    # KDBG of Windows 7 does not say where a thread's stack is, but the registers were saved.
    assert listing.crashing == 0


class NoSymbols(Windows):
    """A session that knows no structure."""

    @property
    def layout(self):
        raise SymbolError("no symbols")


class NoBlock(NoSymbols):
    """And no debugger data."""

    kdbg = None


def test_nothing_leads_to_the_processors(machine):
    dump, _ = machine
    listing = cpus(NoBlock(dump))
    assert not listing and listing.problems
    with pytest.raises(IndexError):
        listing[0]


@cache
def isf_names(truth_pdb):
    """Addresses of the functions of a complete symbol file, read here without the package."""
    path = shareddata.require("isf", truth_pdb)
    symbols = json.loads(lzma.decompress(path.read_bytes()))["symbols"]
    names = {}
    for name, symbol in symbols.items():
        names.setdefault(symbol["address"], set()).add(name)
    return names


@pytest.mark.parametrize(
    ("name", "pdb", "fault"),
    [
        ("win7-7601", "339E74133576439CBCDF7E0229DA3773-1.json.xz", "KiPageFault"),
        ("win10-19041-damaged", "5278AFF86C341677D7D7835C85B7B844-1.json.xz", "KiPageFault"),
        ("win11-22000-pti", "0CE4A95C0CD782A7596B034D8648E585-1.json.xz", "KiPageFaultShadow"),
    ],
)
def test_idt_symbols(name, pdb, fault):
    truth, names = shareddata.truth(name), isf_names(pdb)
    places = sorted(names)
    with kdmp.open(shareddata.machine_dump(name, "kernel"), symbols=shareddata.require("isf")) as dump:
        for one in truth["cpus"]:
            cpu = dump.windows.cpus[one["cpu"]]
            assert cpu.idt[0x0E].symbol == f"nt!{fault}"
            assert (cpu.idt[0x0E].name, cpu.idt[0x1F].name, cpu.idt[0x2F].name) == ("#PF", "APC", "DPC")
            exact = 0
            for entry in cpu.idt:
                text = entry.symbol.removeprefix("nt!")
                function, _, offset = text.partition("+")
                rva = entry.handler - truth["kernel_base"] - int(offset or "0", 16)
                assert function in names[rva]
                # It is the nearest one below.
                assert places[bisect_right(places, entry.handler - truth["kernel_base"]) - 1] == rva
                exact += not offset
            assert exact >= 12
            # Handlers of the processor's own registers have names, too.
            star = dump.windows.symbolize(cpu.special.msr_lstar)
            assert star == f"nt!{one['syscall']}"


# ---- real triage dumps ----


@pytest.fixture(scope="module", params=range(12))
def real(request):
    entry = shareddata.triage_index()[request.param]
    with kdmp.open(shareddata.unpack("triage", entry["file"])) as dump:
        yield dump, entry


def test_real_triage_dumps(real):
    dump, entry = real
    listing = dump.windows.cpus
    kdbg = dump.triage.debugger_data
    number_at = int.from_bytes(kdbg[0x2BE:0x2C0], "little")
    crashed = int.from_bytes(dump.triage.prcb[number_at : number_at + 4], "little")
    assert listing.crashing == crashed
    cpu = listing[crashed]
    assert (cpu.ip, cpu.sp) == (entry["rip_or_pc"], entry["rsp_or_sp"])
    assert cpu.context_source == "header" and cpu.is_crashing
    assert cpu.kprcb is not None and cpu.kprcb - cpu.kpcr == (0x980 if dump.arch == "arm64" else 0x180)
    saved = {one.number: one for one in dump.triage.processors()}
    assert {one.number for one in listing} == set(saved)
    for one in listing:
        assert one.is_crashing is (one.number == crashed)
        assert saved[one.number].prcb in (one.kprcb, None)
        if one.number != crashed:
            assert one.context == saved[one.number].context
            assert one.context_source == "KPRCB.Context"
            # On ARM64 the pointer leads to the embedded frame: that is one, not two.
            assert len(one.saved_contexts) == 1
        assert one.current_thread and one.idle_thread
        assert one.mhz and 600 < one.mhz < 6000
        if dump.arch == "x64":
            assert one.vendor in ("GenuineIntel", "AuthenticAMD")
            assert one.special.cr3 and one.special.cr4 and not one.special.cr3 & 0xFFF
            # Windows' own dumps do not have the MSRs; they have zeros there.
            for name in ("msr_gs_base", "msr_gs_swap", "msr_star", "msr_lstar", "msr_cstar"):
                assert one.special[name] is None and one.special.source(name).startswith("not saved")
            assert one.kpcr_agrees is None
        one.examine()
        assert str(one) and one.to_dict()["number"] == one.number
    triage_thread = next(r.address for r in dump.ranges if r.origin == "thread")
    triage_process = next(r.address for r in dump.ranges if r.origin == "process")
    assert (cpu.current_thread, cpu.current_process) == (triage_thread, triage_process)


def test_stacks_tell_the_same_as_the_triage_header(real):
    """The rule for dumps that do not say which processor crashed, where the answer is known."""
    from kdmp.windows.crashcpu import _on_stack

    dump, _ = real
    listing = dump.windows.cpus
    offsets = prcb.Offsets(dump.windows)
    hits = [cpu.number for cpu in listing if _on_stack(dump.windows, cpu, dump.context.sp, offsets)]
    assert hits == [listing.crashing]


def test_a_copy_of_a_kprcb_tells_its_address(real):
    dump, _ = real
    known = [r.address for r in dump.ranges if r.origin == "processor"]
    address = prcb.own_address(dump.triage.prcb, dump.pointer_size)
    assert known in ([], [address])
    assert prcb.own_address(b"", 8) is None
    assert prcb.own_address(bytes(0x8000), 8) is None
    assert prcb.own_address(random.Random(1).randbytes(0x8000), 8) is None


@pytest.mark.parametrize("base", [0xFFFF9D04_12340180, 0x7FF0_12340180])
def test_lists_that_point_to_themselves_need_kernel_addresses(base):
    lists = b"".join((base + at).to_bytes(8, "little") * 2 for at in range(0, 0x1000, 16))
    assert prcb.own_address(lists, 8) == (base if base >> 63 else None)
    # Two kernels' worth of votes are no answer.
    other = b"".join((base + 0x777000 + at).to_bytes(8, "little") * 2 for at in range(0, 0x1000, 16))
    assert prcb.own_address(lists + other, 8) is None


def test_a_partly_captured_idt():
    with kdmp.open(shareddata.unpack("triage", "rtech_7e_0.dmp.xz")) as dump:
        cpu = dump.windows.cpus[9]
        there = [entry for entry in cpu.idt if entry.present is not None]
        assert (len(cpu.idt), len(there)) == (256, 16)
        assert cpu.idt[2].ist == 3 and cpu.idt[3].dpl == 3 and cpu.idt[200].handler is None
        assert [entry.kind for entry in cpu.gdt] == [
            "64-bit code", "data", "32-bit code", "data", "64-bit code", "busy TSS", "data",
        ]  # fmt: skip
        assert any("256 of its 4096 bytes" in str(problem) for problem in cpu.problems)
        # A context of user mode: the kernel's GS base is in MsrGsSwap's place, if it was saved at all.
        user = dump.windows.cpus[2]
        assert user.registers.cs == 0x33 and user.registers.gs_base is None and user.long_mode


# ---- layouts ----


@pytest.mark.parametrize("arch", ["x64", "x86"])
def test_special_registers_lie_where_all_symbols_say(arch):
    checked = 0
    for layout in bundled():
        if layout.arch != arch or "_KSPECIAL_REGISTERS" not in layout:
            continue
        for name, offset, size in special.FIELDS[arch].values():
            if layout.has("_KSPECIAL_REGISTERS", name):
                field = layout.field("_KSPECIAL_REGISTERS", name)
                assert (field.offset, field.size) == (offset, size), (layout, name)
                checked += 1
    assert checked > 16


def test_fixed_offsets_agree_with_all_symbols():
    checked = 0
    for layout in bundled():
        if layout.arch == "arm64" or layout.build.number < 7600:
            continue
        offsets = prcb.Offsets(FakeWindows(layout.arch, layout.build.number))
        for member, (_, struct, path) in prcb._MEMBERS.items():
            known = offsets.get(member)
            if known is not None and layout.has(struct, path):
                assert known == layout.offset(struct, path), (layout, member)
                checked += 1
        assert offsets.contained == prcb._CONTAINED[layout.arch]
        for path in ("Prcb",) if layout.arch == "x64" else ("PrcbData",):
            assert not layout.has("_KPCR", path) or layout.offset("_KPCR", path) == offsets.contained
        names = {"GdtBase": "GDT", "IdtBase": "IDT", "TssBase": "TSS"} if layout.arch == "x86" else {}
        for path, offset in KPCR_FIELDS[layout.arch].items():
            path = names.get(path, path)
            assert not layout.has("_KPCR", path) or layout.offset("_KPCR", path) == offset
        if layout.arch == "x64" and "_KTRAP_FRAME" in layout:
            for path, (offset, size) in trapframe._FIXED_X64.items():
                field = layout.field("_KTRAP_FRAME", path)
                assert (field.offset, field.size) == (offset, size), (layout, path)
    assert checked > 100


class FakeDump:
    triage = None

    def __init__(self, arch, build):
        self.arch, self.build = arch, build


class FakeWindows:
    """A session with a build number only."""

    has_layout, kdbg = False, None

    def __init__(self, arch, build):
        self.dump = FakeDump(arch, build)

    @property
    def layout(self):
        raise SymbolError("none")
