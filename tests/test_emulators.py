"""Registers for emulators (C59, A6): wtf's regs.json and Unicorn's names, against the truth and wtf's checks.

SPDX-License-Identifier: MIT
"""

import json
import random

import pytest
import shareddata
from clidumps import small_dump
from cpudumps import Image

import kdmp
from kdmp import sample
from kdmp.context import Context
from kdmp.context_layouts import LAYOUTS
from kdmp.emulator_state import full_tag_word
from kdmp.emulators import Assumption, unicorn_msrs, unicorn_registers, wtf_state
from kdmp.windows.registers import UnknownRegisterError

pytest_plugins = ["clifixtures"]

# What LoadCpuStateFromJSON() of wtf takes out of the document; it throws if one of them is no text.
NUMBERS = """
    rax rbx rcx rdx rsi rdi rip rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rflags tsc apic_base sysenter_cs
    sysenter_esp sysenter_eip pat efer star lstar cstar sfmask kernel_gs_base tsc_aux fpcw fpsw fptw cr0 cr2
    cr3 cr4 cr8 xcr0 dr0 dr1 dr2 dr3 dr6 dr7 mxcsr mxcsr_mask fpop
""".split()
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "tr", "ldtr")
TABLES = ("gdtr", "idtr")
# Windows saves none of these, whoever writes the dump.
NEVER_SAVED = {"efer", "tsc", "apic_base", "pat", "sysenter_cs", "sysenter_esp", "sysenter_eip", "tsc_aux"}
SPECIAL = 0xE8  # bytes of KSPECIAL_REGISTERS
USER = {"cs": 0x33, "ss": 0x2B, "rip": 0x7FF6_1234_5678}


def load(state):
    """What wtf makes of a document: numbers by name; asserts what its loader and sanity check want."""

    def number(text):
        assert isinstance(text, str) and text.startswith("0x") and 0 <= int(text, 0) < 1 << 64
        return int(text, 0)

    document = json.loads(json.dumps(state))
    found = {name: number(document[name]) for name in NUMBERS}
    for name in SEGMENTS:
        segment = document[name]
        assert type(segment["present"]) is bool
        found[name] = {key: number(segment[key]) for key in ("selector", "base", "limit", "attr")}
        assert segment["present"] == bool(found[name]["attr"] & 0x80)
        assert found[name]["selector"] < 1 << 16 and found[name]["limit"] < 1 << 32
        assert found[name]["attr"] >> 8 & 0xF == found[name]["limit"] >> 16 & 0xF  # SanitizeCpuState()
    for name in TABLES:
        found[name] = {key: number(document[name][key]) for key in ("base", "limit")}
    assert len(document["fpst"]) == 8
    found["fpst"] = [(number(one["fraction"]), number(one["exp"])) for one in document["fpst"]]
    assert set(document) - set(found) <= {f"xmm{n}" for n in range(16)}
    return found


@pytest.fixture(scope="module", params=shareddata.MACHINES)
def machine(request):
    with kdmp.open(shareddata.machine_dump(request.param, "full")) as dump:
        yield dump, shareddata.truth(request.param)


def names(assumed):
    return {one.name for one in assumed}


def test_truth(machine):
    dump, truth = machine
    for one in truth["cpus"]:
        state, assumed = wtf_state(dump, one["cpu"])
        found, registers, special = load(state), one["registers"], one["specials"]
        for name in registers.keys() & found.keys() - set(SEGMENTS):
            assert found[name] == registers[name], name
        assert found["rflags"] == registers["eflags"]
        for ours, theirs in {
            "cr0": "Cr0", "cr2": "Cr2", "cr3": "Cr3", "cr4": "Cr4", "cr8": "Cr8", "star": "MsrStar",
            "lstar": "MsrLStar", "cstar": "MsrCStar", "sfmask": "MsrSyscallMask", "dr6": "KernelDr6",
            "dr7": "KernelDr7", "kernel_gs_base": "MsrGsSwap", "xcr0": "Xcr0",
        }.items():  # fmt: skip
            if theirs in special:
                assert found[ours] == special[theirs], ours
        assert found["gs"]["base"] == special["MsrGsBase"] == one["kpcr"]
        assert {name: found[name]["selector"] for name in ("cs", "ss", "ds", "es", "fs", "gs")} == {
            name: registers[name] for name in ("cs", "ss", "ds", "es", "fs", "gs")
        }
        assert found["tr"] == {"selector": 0x40, "base": one["tss"], "limit": 0x67, "attr": 0x8B}
        assert found["gdtr"] == {"base": one["gdt"], "limit": special["Gdtr.Limit"]}
        assert found["idtr"] == {"base": one["idt"], "limit": special["Idtr.Limit"]}
        assert found["ldtr"] == {"selector": 0, "base": 0, "limit": 0, "attr": 0}
        assert found["cs"]["attr"] & 0x20FF == 0x209B  # 64-bit code of the kernel, present, accessed
        assert found["efer"] == 0xD01 and found["apic_base"] == 0xFEE00800 | (0x100 if one["cpu"] == 0 else 0)
        missing = {"xcr0", "fs.base"} - ({"xcr0", "fs.base"} if "Xcr0" in special else set())
        assert (
            names(assumed) - {"mxcsr_mask", "fpcw", "fpsw", "fptw", "fpop", "fpst"} == NEVER_SAVED | missing
        )
        for item in assumed:
            place = state
            for part in item.name.split("."):
                place = place[part]
            assert item.name == "fpst" or int(place, 0) == item.value
            assert item.why and str(item) == f"{item.name} = {item.value:#x}: {item.why}"
        special_mxcsr = dump.windows.cpus[one["cpu"]].context
        assert found["mxcsr"] == special_mxcsr["mxcsr"]


def test_the_crashing_processor_is_the_default(machine):
    dump, _ = machine
    assert wtf_state(dump) == wtf_state(dump, 0)
    assert wtf_state(dump) != wtf_state(dump, 1)
    with pytest.raises(IndexError, match="no processor 99"):
        wtf_state(dump, 99)
    assert unicorn_registers(dump) == unicorn_registers(dump, 0) != unicorn_registers(dump, 1)


def test_segments_are_those_of_the_gdt(machine):
    """Each by its 8 bytes, decoded here once more."""
    dump, truth = machine
    one = truth["cpus"][0]
    state, _ = wtf_state(dump)
    for name in ("es", "cs", "ss", "ds", "fs", "gs"):
        raw = dump.reader().read_u64(one["gdt"] + (one["registers"][name] & ~7))
        if raw == 0:
            assert state[name]["present"] is False
            continue
        limit = raw & 0xFFFF | (raw >> 48 & 0xF) << 16
        if raw >> 55 & 1:
            limit = limit << 12 | 0xFFF
        assert int(state[name]["limit"], 0) == limit
        assert int(state[name]["attr"], 0) & 0xF0FF == raw >> 40 & 0xF0FF | 1
        if name not in ("fs", "gs"):
            base = raw >> 16 & 0xFFFFFF | raw >> 56 << 24
            assert int(state[name]["base"], 0) == base


def test_an_edited_context(machine):
    dump, _ = machine
    context = dump.context.replace(rip=0x1234, rax=5, st0=(0x3FFF << 64) | 1 << 63, control_word=0x37F)
    plain, _ = wtf_state(dump)
    state, _ = wtf_state(dump, context=context)
    changed = {name for name in plain if plain[name] != state[name]}
    assert changed <= {"rip", "rax", "fpst", "fpcw", "fptw"} and {"rip", "rax"} <= changed
    assert load(state)["rip"] == 0x1234
    if context.valid("st0"):
        assert load(state)["fpst"][0] == (1 << 63, 0x3FFF)
    registers = unicorn_registers(dump, context=context)
    assert registers["UC_X86_REG_RIP"] == 0x1234 and registers["UC_X86_REG_RAX"] == 5
    with pytest.raises(ValueError, match="arm64"):
        wtf_state(dump, context=Context(arm64_context(), "arm64"))


def test_user_mode_has_the_other_gs(machine):
    dump, truth = machine
    one = truth["cpus"][0]
    state, assumed = wtf_state(dump, context=dump.context.replace(**USER))
    found = load(state)
    assert found["gs"]["base"] == one["specials"]["MsrGsSwap"]
    assert found["kernel_gs_base"] == one["kpcr"]
    assert "gs.base" not in names(assumed)
    # Debug registers are the context's own there.
    context = dump.context
    if context.valid("dr7"):
        assert found["dr7"] == context.dr7


def without(image, number, offset, size):
    """Clear a part of the KSPECIAL_REGISTERS of a processor."""
    at = image.offset(image.prcb(number, "ProcessorState.SpecialRegisters") + offset)
    image.data[at : at + size] = bytes(size)


@pytest.mark.parametrize("user", [False, True])
def test_dumps_of_windows_itself_have_no_msrs(user):
    image = Image("win10-19041", "full")
    without(image, 0, 0xA8, SPECIAL - 0xA8)
    one = image.cpus[0]
    with kdmp.open(bytes(image.data)) as dump:
        teb = dump.windows.cpus[0].thread.teb
        context = dump.context.replace(**USER) if user else None
        state, assumed = wtf_state(dump, context=context)
        assert unicorn_msrs(dump) == {}
        assert not {"UC_X86_REG_GS_BASE", "UC_X86_REG_FS_BASE"} & unicorn_registers(dump).keys()
    found = load(state)
    assert teb
    assert (found["gs"]["base"], found["kernel_gs_base"]) == (
        (teb, one["kpcr"]) if user else (one["kpcr"], teb)
    )
    assert (found["star"], found["sfmask"]) == (one["specials"]["MsrStar"], one["specials"]["MsrSyscallMask"])
    more = {"gs.base", "kernel_gs_base", "fs.base", "star", "lstar", "cstar", "sfmask", "xcr0"}
    assert more <= names(assumed)
    why = {item.name: item.why for item in assumed}
    assert "KPCR" in why["kernel_gs_base" if user else "gs.base"]
    assert "TEB" in why["gs.base" if user else "kernel_gs_base"]
    if found["lstar"]:
        assert "KiSystemCall64" in why["lstar"]
    else:
        assert "will not work" in why["lstar"]


def test_system_calls_by_symbols():
    image = Image("win11-22000-pti", "full")
    without(image, 0, 0xA8, SPECIAL - 0xA8)
    with kdmp.open(bytes(image.data), symbols=str(shareddata.require("isf"))) as dump:
        windows = dump.windows
        shadow = windows.try_symbol("KiKvaShadow")
        if shadow is None or windows.try_symbol("KiSystemCall64Shadow") is None:
            pytest.skip("the symbols of this kernel are not complete")
        on = bool(windows.reader.read_u8(shadow))
        name = "KiSystemCall64Shadow" if on else "KiSystemCall64"
        state, assumed = wtf_state(dump)
        assert load(state)["lstar"] == windows.symbol(name)
        assert Assumption("lstar", windows.symbol(name), f"not saved; the address of {name}") in assumed


def test_without_special_registers_there_is_no_state():
    image = Image("win10-19041", "full")
    without(image, 0, 0, SPECIAL)
    with kdmp.open(bytes(image.data)) as dump:
        with pytest.raises(UnknownRegisterError, match=r"processor 0 .*cr0.*cr3.*gdtr_base.*tr"):
            wtf_state(dump)
        registers = unicorn_registers(dump)
        assert registers["UC_X86_REG_RIP"] == dump.context.rip
        assert not any(name in registers for name in ("UC_X86_REG_CR3", "UC_X86_REG_GDTR"))
        assert load(wtf_state(dump, 1).state)["cr3"] == image.cpus[1]["specials"]["Cr3"]


def test_a_gdt_that_is_not_there():
    image = Image("win10-19041", "full")
    at = image.prcb(0, "ProcessorState.SpecialRegisters") + 0x58
    image.put(at, 0xFFFF_9999_0000_0000)
    with kdmp.open(bytes(image.data)) as dump:
        state, assumed = wtf_state(dump)
        registers = unicorn_registers(dump)
    found = load(state)
    assert found["cs"] == {"selector": 0x10, "base": 0, "limit": 0, "attr": 0x209B}
    assert found["ds"] == {"selector": 0x2B, "base": 0, "limit": 0xFFFFFFFF, "attr": 0xCFF3}
    assert (found["tr"]["base"], found["tr"]["attr"]) == (image.cpus[0]["tss"], 0x8B)
    wanted = {f"{name}.attr" for name in ("cs", "ss", "ds", "es", "fs", "gs")} | {"tr.base", "tr.limit"}
    assert wanted <= names(assumed)
    assert "UC_X86_REG_TR" not in registers and "UC_X86_REG_GDTR" in registers


def test_a_gdt_at_the_end_of_the_addresses():
    image = Image("win10-19041", "full")
    image.put(image.prcb(0, "ProcessorState.SpecialRegisters") + 0x58, (1 << 64) - 8)
    with kdmp.open(bytes(image.data)) as dump:
        assert "cs.attr" in names(wtf_state(dump).assumed)


def test_a_context_that_does_not_cover_all(machine):
    dump, _ = machine
    control = LAYOUTS["x64"].flag | 3  # control and integer
    context = dump.context.replace(context_flags=control)
    state, assumed = wtf_state(dump, context=context)
    found = load(state)
    assert {name: found[name]["selector"] for name in ("ds", "es", "fs", "gs")} == {
        "ds": 0x2B, "es": 0x2B, "fs": 0x53, "gs": 0x2B,
    }  # fmt: skip
    assert (found["fpcw"], found["fptw"], found["fpst"]) == (0x27F, 0xFFFF, [(0, 0)] * 8)
    assert found["mxcsr_mask"] == 0xFFBF
    wanted = {"ds.selector", "es.selector", "fs.selector", "gs.selector", "fpcw", "fptw", "fpst"}
    assert wanted <= names(assumed)
    assert not any("FP" in name or "XMM" in name for name in unicorn_registers(context))
    with pytest.raises(UnknownRegisterError, match="rax"):
        wtf_state(dump, context=dump.context.replace(context_flags=LAYOUTS["x64"].flag | 1))


def test_which_processor_crashed_is_not_known():
    with kdmp.open(small_dump()) as dump:
        with pytest.raises(kdmp.KdmpError):
            wtf_state(dump)
        with pytest.raises(kdmp.KdmpError):
            unicorn_registers(dump)
        with pytest.raises((IndexError, kdmp.KdmpError)):
            unicorn_registers(dump, 0)


def test_the_sample(tmp_path):
    """A header context without a kernel: Unicorn gets what there is, wtf nothing."""
    truth = sample.build(tmp_path / "sample.dmp")
    with kdmp.open(tmp_path / "sample.dmp") as dump:
        assert unicorn_registers(dump)["UC_X86_REG_RIP"] == truth.instruction_pointer
        try:
            state, _ = wtf_state(dump)
        except UnknownRegisterError:
            return
        assert load(state)["rip"] == truth.instruction_pointer


@pytest.mark.parametrize("arch", ["x86", "arm64"])
def test_other_machines_are_not_wtfs(arch):
    with kdmp.open_raw(bytes(0x4000), arch=arch) as dump:
        with pytest.raises(kdmp.UnsupportedDumpError, match=f"x64 code, not that of {arch}"):
            wtf_state(dump)
        with pytest.raises(kdmp.KdmpError):
            unicorn_registers(dump)


@pytest.mark.parametrize("seed", range(24))
def test_garbage(seed):
    """Special registers, GDT and KPRCB full of nonsense: a state, or an error that says why not."""
    rng = random.Random(seed)
    image = Image("win10-19041", "kernel")
    one = image.cpus[0]
    places = [image.prcb(0, "ProcessorState.SpecialRegisters"), one["gdt"], one["kpcr"]]
    for _ in range(12):
        va = rng.choice(places) + rng.randrange(0, SPECIAL, 8)
        image.put(va, rng.choice([0, 1, (1 << 64) - 1, rng.getrandbits(64), rng.getrandbits(16)]))
    with kdmp.open(bytes(image.data)) as dump:
        for context in (None, dump.context.replace(cs=rng.getrandbits(16), fs=rng.getrandbits(16))):
            try:
                load(wtf_state(dump, 0, context=context).state)
            except UnknownRegisterError as error:
                assert str(error)
            assert unicorn_registers(dump, 0, context=context, selectors=True)["UC_X86_REG_RAX"] is not None
            unicorn_msrs(dump, 0)


def test_x86_contexts():
    layout = LAYOUTS["x86"]
    context = Context(layout.flag.to_bytes(4, "little") + bytes(layout.size - 4), "x86")
    context = context.replace(context_flags=layout.flag | 0x3F, eip=0x80001234, eax=7, xmm7=9, fx_tag_word=1)
    found = unicorn_registers(context, selectors=True)
    assert (found["UC_X86_REG_EIP"], found["UC_X86_REG_EAX"], found["UC_X86_REG_XMM7"]) == (0x80001234, 7, 9)
    assert found["UC_X86_REG_FPTAG"] == 0xFFFD and "UC_X86_REG_CS" in found
    assert "UC_X86_REG_XMM8" not in found and "UC_X86_REG_RIP" not in found


def arm64_context():
    layout = LAYOUTS["arm64"]
    return layout.flag.to_bytes(4, "little") + bytes(layout.size - 4)


def test_arm64_contexts():
    context = Context(arm64_context(), "arm64").replace(
        context_flags=LAYOUTS["arm64"].flag | 7, pc=5, x28=6, lr=7, v31=8, cpsr=9, sp=10
    )
    found = unicorn_registers(context)
    wanted = {"PC": 5, "X28": 6, "LR": 7, "V31": 8, "PSTATE": 9, "SP": 10, "FP": 0, "FPCR": 0}
    assert found.items() >= {f"UC_ARM64_REG_{name}": value for name, value in wanted.items()}.items()
    assert len(found) == 29 + 5 + 32 + 2  # x0-x28, fp lr sp pc cpsr, v0-v31, fpcr fpsr


@pytest.mark.parametrize("pushed", range(9))
def test_tag_words(pushed):
    """As fstenv has them after so many pushes: Intel SDM, and the table in wtf's own snapshot tool."""
    layout = LAYOUTS["x64"]
    data = bytearray(layout.size)
    data[0x30:0x34] = (layout.flag | 0xF).to_bytes(4, "little")
    top = -pushed & 7
    used = sum(1 << place for place in range(8) if place >= 8 - pushed)
    context = Context(bytes(data), "x64").replace(
        tag_word=used, status_word=top << 11, **{f"st{n}": 0x4009 << 64 | 0xA << 60 for n in range(pushed)}
    )
    assert full_tag_word(context) == 0xFFFF >> 2 * pushed
    if pushed:
        place = (top + pushed - 1) % 8  # the deepest
        for value, tag in ((0, 1), (1 << 79, 1), (0x7FFF << 64, 2), (1, 2), (0x3FFF << 64 | 1, 2)):
            changed = context.replace(**{f"st{pushed - 1}": value})
            assert full_tag_word(changed) >> 2 * place & 3 == tag


def test_floating_point_state(machine):
    dump, _ = machine
    context = dump.context
    if not context.valid("st0"):
        pytest.skip("this machine's context has no floating point")
    context = context.replace(
        st3=0x1234_8000_0000_0000_0001, xmm5=3 << 64 | 4, error_opcode=0x7FF, mxcsr=0x1FA0, mxcsr_mask=0x2FFFF
    )
    state, assumed = wtf_state(dump, context=context)
    found = load(state)
    assert found["fpst"][3] == (0x8000_0000_0000_0001, 0x1234)
    assert state["xmm5"] == ["0x4", "0x3", *["0x0"] * 6]
    assert (found["fpop"], found["mxcsr"], found["mxcsr_mask"]) == (0x7FF, 0x1FA0, 0x2FFFF)
    assert "mxcsr_mask" not in names(assumed)
    registers = unicorn_registers(context)
    assert registers["UC_X86_REG_FP3"] == (0x8000_0000_0000_0001, 0x1234)
    assert registers["UC_X86_REG_XMM5"] == 3 << 64 | 4


def test_unicorn_has_these_names(machine):
    unicorn = pytest.importorskip("unicorn")
    dump, _ = machine
    for name in unicorn_registers(dump, selectors=True):
        assert hasattr(unicorn.x86_const, name)
    for name in unicorn_registers(Context(arm64_context(), "arm64").replace(context_flags=0x400007)):
        assert hasattr(unicorn.arm64_const, name)


def test_unicorn_runs_from_there(machine):
    """The whole machine: physical memory, page tables, two instructions of ours."""
    unicorn = pytest.importorskip("unicorn")
    dump, _ = machine
    code = bytes.fromhex("90 48 89 45 f8")  # nop; mov [rbp - 8], rax
    context = dump.context.replace(rbp=dump.context.rsp)
    reader = dump.reader()
    places = reader.try_translate(context.rip), reader.try_translate(context.rsp - 8)
    if None in places or not places[1].writable:
        pytest.skip("no code or stack in this machine")
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    for run in dump.pages.runs():
        uc.mem_map(run.pfn << 12, run.count << 12)
        uc.mem_write(run.pfn << 12, dump.phys.read_exact(run.pfn << 12, run.count << 12))
    uc.mem_write(places[0].pa, code)
    uc.msr_write(0xC0000080, 0xD01)
    for name, value in unicorn_registers(dump, context=context).items():
        uc.reg_write(getattr(unicorn.x86_const, name), value)
        assert uc.reg_read(getattr(unicorn.x86_const, name)) == value
    for number, value in unicorn_msrs(dump).items():
        uc.msr_write(number, value)
    uc.emu_start(context.rip, context.rip + len(code))
    assert uc.reg_read(unicorn.x86_const.UC_X86_REG_RIP) == context.rip + len(code)
    assert int.from_bytes(uc.mem_read(places[1].pa, 8), "little") == context.rax


# ---- the command line ----


def test_regs_for_wtf(run):
    path = shareddata.machine_dump("win10-19041", "kernel")
    code, out, err = run("regs", path, "--format", "wtf")
    assert code == 0
    with kdmp.open(path) as dump:
        state, assumed = wtf_state(dump)
        other = wtf_state(dump, 1).state
    assert json.loads(out) == state
    assert [line.split(": assumed ")[1] for line in err.splitlines()] == [str(item) for item in assumed]
    assert any("efer = 0xd01" in line for line in err.splitlines())
    assert json.loads(run("regs", path, "--format", "wtf", "--cpu", "1")[1]) == other
    code, out, err = run("regs", path, "--format", "wtf", "--cpu", "77")
    assert (code, out) == (1, "") and "no processor 77" in err


def test_regs_for_unicorn(run):
    path = shareddata.machine_dump("win10-19041", "kernel")
    code, out, err = run("regs", path, "--format", "unicorn")
    assert (code, err) == (0, "")
    with kdmp.open(path) as dump:
        wanted = unicorn_registers(dump)
    assert json.loads(out) == json.loads(json.dumps(wanted))
    code, out, err = run("regs", path, "--format", "qemu")
    assert code == 2


def test_regs_for_wtf_of_a_dump_without_registers(run, small):
    code, out, err = run("regs", small, "--format", "wtf")
    assert code != 0 and out == "" and err
