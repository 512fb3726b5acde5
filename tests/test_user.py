"""PEB, process parameters, environment, TEB: the machines, both widths made by hand, damage.

SPDX-License-Identifier: MIT
"""

import random
import time

import pytest
from shareddata import KINDS, MACHINES, machine_dump, truth
from spaces import FakeProcess, Space, damaged_pids, fake_windows, is_missing, known_layouts, processes_of

import kdmp
from kdmp.windows import user
from kdmp.windows.userbase import ABI

FACTS = {
    "image_path_name": "image_path",
    "command_line": "command_line",
    "current_directory": "current_directory",
    "environment": "environment",
}
# Where a field is in type information, by the names used here.
TYPE_OF = {"UniqueProcess": "ClientId", "ExceptionList": "NtTib", "Self": "NtTib", "StackBase": "NtTib"}


# ---- the machines ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("machine", MACHINES)
def test_parameters_of_the_machines(machine, kind):
    """What is there equals the truth; what is None names the memory that is missing."""
    facts_of, seen, lost = truth(machine), 0, 0
    with kdmp.open(machine_dump(machine, kind)) as dump:
        for process, facts in processes_of(dump, facts_of):
            for wow64 in (False, True):
                expected = facts["peb32"] if wow64 else facts["peb"]
                block = user.peb(process, wow64=wow64)
                if block is None:
                    assert not expected
                    continue
                assert block.address == expected
                found = user.parameters(process, wow64=wow64)
                if found is None:
                    assert block.parameters is None
                    assert is_missing(process.reader, block.problems)
                    assert any(problem.what == "parameters" for problem in process.problems)
                    lost += 1
                    continue
                for name, key in FACTS.items():
                    value = getattr(found, name)
                    if value is None:
                        mine = [p for p in found.problems if p.what == name]
                        assert is_missing(process.reader, mine), (facts["pid"], name, found.problems)
                    else:
                        assert value == facts[key], (facts["pid"], name)
                        seen += 1
    assert seen >= 4 * (11 if kind in ("full", "bitmap", "rdmpA") else 1) or kind in ("kernel", "rdmp8")
    assert lost or kind in ("full", "bitmap", "rdmpA")


@pytest.mark.parametrize("machine", MACHINES)
def test_peb_of_the_machines(machine):
    facts_of = truth(machine)
    lost = damaged_pids(facts_of, "missing-page")
    with kdmp.open(machine_dump(machine, "full")) as dump:
        for process, facts in processes_of(dump, facts_of):
            block = user.peb(process)
            if block is None or facts["pid"] in lost:
                continue
            assert block.image_base == facts["image_base"]
            assert block.being_debugged is False
            assert block.os_build in (0, facts_of["build"])
            assert block.problems == ()
            if facts["wow64"]:
                narrow = user.peb(process, wow64=True)
                assert (narrow.image_base, narrow.width) == (facts["image_base"], 4)


@pytest.mark.parametrize("machine", MACHINES)
def test_teb_of_the_machines(machine):
    seen = 0
    with kdmp.open(machine_dump(machine, "full")) as dump:
        for process, facts in processes_of(dump, truth(machine)):
            for thread in facts["threads"]:
                block = user.teb((process, thread["teb"]))
                if block is None or block.self_pointer is None:
                    continue
                if block.self_pointer:
                    assert block.self_pointer == thread["teb"]
                    assert block.thread_id in (0, thread["tid"])
                    assert block.peb in (0, facts["peb"])
                    seen += 1
    assert seen > 5


def test_a_length_that_lies():
    """The command line of one process says 65534 bytes: its text up to the NUL comes, with a problem."""
    facts_of = truth("win10-19041-damaged")
    (damage,) = (one for one in facts_of["damage"] if one["kind"] == "string-length")
    with kdmp.open(machine_dump("win10-19041-damaged", "full")) as dump:
        process, facts = next(
            (process, facts)
            for process, facts in processes_of(dump, facts_of)
            if facts["pid"] == damage["pid"]
        )
        found = user.parameters(process)
        assert found.command_line == facts["command_line"]
        (problem,) = found.problems
        assert problem.what == "command_line"
        assert "0xfffe" in problem.why
        assert problem.address == damage["address"]


# ---- layouts ----


def test_offsets_equal_type_information():
    """The fixed offsets are those of every release whose types are known."""
    checked = set()
    for layout in known_layouts():
        widths = {"_PEB": layout.pointer_size, "_TEB": layout.pointer_size, "_PEB32": 4, "_TEB32": 4}
        for struct, width in widths.items():
            table = ABI[width].peb if "PEB" in struct else ABI[width].teb
            for name, offset in table.items():
                if struct in layout and layout.has(struct, name):
                    assert layout.offset(struct, name) == offset, (layout, struct, name)
                    checked.add((struct, name))
        struct, table = "_RTL_USER_PROCESS_PARAMETERS", ABI[layout.pointer_size].parameters
        for name, offset in table.items():
            if struct in layout and layout.has(struct, name):
                assert layout.offset(struct, name) == offset, (layout, name)
                checked.add((layout.pointer_size, name))
    assert {(8, "EnvironmentSize"), (8, "CommandLine"), (8, "CurrentDirectory")} <= checked
    assert {("_PEB32", "Ldr"), ("_TEB32", "TlsSlots"), ("_TEB", "LastStatusValue")} <= checked


# ---- both widths, made by hand ----


PEB, PARAMETERS, TEXTS, ENVIRONMENT = 0x10000, 0x20000, 0x30000, 0x40000
STRINGS = {"ImagePathName": "C:\\a.exe", "CommandLine": "a.exe --näh", "CurrentDirectory": "C:\\"}


def made(width, *, environment="A=1\0=C:=C:\\x\0Empty=\0odd\0a=b=c\0A=2\0\0", normalized=True, size=None):
    """A process with parameters of one width: (process, space)."""
    space, abi = Space(), ABI[width]
    space.put(PEB, bytes(0x1000))
    space.put(PARAMETERS, bytes(0x1000))
    space.put_uint(PEB + abi.peb["ProcessParameters"], PARAMETERS, width)
    space.put_uint(PEB + abi.peb["OSBuildNumber"], 19041, 2)
    space.put_uint(PARAMETERS + abi.parameters["Flags"], int(normalized), 4)
    at = TEXTS
    for name, text in STRINGS.items():
        data = text.encode("utf-16-le")
        field = PARAMETERS + abi.parameters[name]
        space.put_uint(field, len(data), 2)
        space.put_uint(field + 2, len(data) + 2, 2)
        space.put_uint(field + width, at if normalized else at - PARAMETERS, width)
        space.put(at, data + b"\0\0")
        at += 0x100
    data = environment.encode("utf-16-le")
    space.put(ENVIRONMENT, data)
    space.put_uint(PARAMETERS + abi.parameters["Environment"], ENVIRONMENT, width)
    field = PARAMETERS + abi.parameters["EnvironmentSize"]
    space.put_uint(field, len(data) if size is None else size, width)
    windows = fake_windows(None, Space(), pointer_size=width)
    return FakeProcess(windows, space, peb=PEB), space


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("width", [4, 8])
def test_made(width, normalized):
    process, _ = made(width, normalized=normalized)
    found = user.parameters(process)
    assert found.normalized is normalized
    assert found.command_line == STRINGS["CommandLine"]
    assert found.image_path_name == STRINGS["ImagePathName"]
    assert found.current_directory == STRINGS["CurrentDirectory"]
    assert found.dll_path is None
    # The first of equal names counts; what has no "=" is a name without a value.
    assert found.environment == {"A": "1", "=C:": "C:\\x", "Empty": "", "odd": "", "a": "b=c"}
    assert list(found.environment)[1] == "=C:"
    assert found.problems == ()
    assert user.peb(process).os_build == 19041
    assert found.to_dict()["command_line"] == STRINGS["CommandLine"]
    assert "command_line" in str(found)


@pytest.mark.parametrize("width", [4, 8])
def test_wow64_is_asked_by_its_own_peb(width):
    process, _ = made(4)
    process.peb32, process.peb = PEB, 0
    process.windows.dump.pointer_size = width
    assert user.parameters(process) is None
    assert user.parameters(process, wow64=True).command_line == STRINGS["CommandLine"]


def test_environments():
    for width in (4, 8):
        assert user.parameters(made(width, environment="\0\0")[0]).environment == {}
        # A character U+xx00 before the end, and one at a page boundary.
        long = "L=" + "x" * 0x7F0 + "Ā\0K=1\0\0"
        for size in (None, 0):
            environment = user.parameters(made(width, environment=long, size=size)[0]).environment
            assert environment == {"L": "x" * 0x7F0 + "Ā", "K": "1"}


def test_environment_without_an_end():
    process, space = made(8, environment="A=1\0B=2\0", size=0)
    found = user.parameters(process)  # what follows is zeros: the end
    assert found.environment == {"A": "1", "B": "2"}
    space.put(ENVIRONMENT, b"x\0" * 0x800)
    found = user.parameters(process)
    assert found.environment is None
    assert "no page" in found.problems[0].why
    for k in range(1, 0x200):
        space.put(ENVIRONMENT + k * 0x1000, b"x\0" * 0x800)
    found = user.parameters(process)
    assert found.environment is None
    assert "no end" in found.problems[0].why


def test_environment_that_is_cut_off():
    """A page is missing: no environment, but the strings before it for who asks."""
    process, space = made(8, environment="A=1\0" + "B=" + "x" * 0x1000 + "\0\0")
    space.drop(ENVIRONMENT + 0x1000)
    found = user.parameters(process)
    assert found.environment is None
    assert found.problems[0].what == "environment"
    strings, missing = found.environment_strings()
    assert strings == ["A=1"]
    assert "no page" in missing


def test_lengths_that_lie():
    abi = ABI[8]
    process, space = made(8)
    field = PARAMETERS + abi.parameters["CommandLine"]
    good = STRINGS["CommandLine"]
    space.put_uint(field, 0xFFFE, 2)  # beyond MaximumLength
    found = user.parameters(process)
    assert found.command_line == good
    assert [p.what for p in found.problems] == ["command_line"]
    space.put_uint(field + 2, 0xFFFF, 2)  # MaximumLength lies, too: up to the NUL
    assert user.parameters(process).command_line == good
    space.put_uint(field, 5, 2)  # odd
    found = user.parameters(process)
    assert found.command_line == good[:2]
    assert "0x5" in found.problems[0].why
    space.put_uint(field, 0, 2)
    assert user.parameters(process).command_line == ""
    space.put_uint(field + 8, 0)
    assert user.parameters(process).command_line is None
    space.put_uint(field, 8, 2)
    found = user.parameters(process)
    assert found.command_line is None
    assert "NULL" in found.problems[0].why
    space.put_uint(field + 8, (1 << 64) - 4)
    found = user.parameters(process)
    assert found.command_line is None
    assert found.image_path_name == STRINGS["ImagePathName"]


def test_missing_pages_cost_what_was_on_them():
    process, space = made(8)
    space.drop(TEXTS)
    found = user.parameters(process)
    assert found.command_line is None
    assert found.environment["A"] == "1"
    space.drop(PARAMETERS)
    found = user.parameters(process)
    assert found.command_line is found.environment is None
    assert {p.what for p in found.examine()} >= {"command_line", "environment", "normalized"}
    space.drop(PEB)
    assert user.parameters(process) is None
    assert process.problems[0][0] == "parameters"
    process.reader = None
    assert user.peb(process).image_base is None


@pytest.mark.parametrize("width", [4, 8])
def test_teb_made(width):
    space, abi, va = Space(), ABI[width], 0x50000
    space.put(va, bytes(0x2000))
    for name, value in {"Self": va, "UniqueProcess": 4, "UniqueThread": 8, "StackBase": 0x90000,
                        "StackLimit": 0x8F000, "ProcessEnvironmentBlock": PEB}.items():  # fmt: skip
        space.put_uint(va + abi.teb[name], value, width)
    space.put_uint(va + abi.teb["LastErrorValue"], 5, 4)
    space.put_uint(va + abi.teb["LastStatusValue"], 0xC0000022, 4)
    for slot in range(64):
        space.put_uint(va + abi.teb["TlsSlots"] + slot * width, slot + 1, width)
    process = FakeProcess(fake_windows(None, Space(), pointer_size=width), space)
    found = user.teb((process, va))
    assert (found.process_id, found.thread_id, found.peb, found.self_pointer) == (4, 8, PEB, va)
    assert (found.stack_base, found.stack_limit) == (0x90000, 0x8F000)
    assert (found.last_error, found.last_status) == (5, 0xC0000022)
    assert [found.tls_slot(n) for n in range(64)] == list(range(1, 65))
    for wrong in (-1, 64):
        with pytest.raises(IndexError):
            found.tls_slot(wrong)
    thread = type("Thread", (), {"process": process, "teb": va})
    assert user.teb(thread) == found
    assert user.teb((process, 0)) is None
    assert found.wow64 is None


def test_teb_of_wow64():
    space, va = Space(), 0x50000
    space.put(va, bytes(0x4000))
    space.put_uint(va + ABI[8].teb["Self"], va)
    process = FakeProcess(fake_windows(None, Space()), space, peb32=0x1000)
    assert user.teb((process, va)).wow64 is None  # nothing knows itself there
    space.put_uint(va + 0x2000 + ABI[4].teb["Self"], va + 0x2000, 4)
    assert user.teb((process, va)).wow64.address == va + 0x2000
    space.put(0x80000, bytes(0x1000))
    space.put_uint(0x80000 + ABI[4].teb["Self"], 0x80000, 4)
    space.put_uint(va, 0x80000)  # ExceptionList
    narrow = user.teb((process, va)).wow64
    assert (narrow.address, narrow.width) == (0x80000, 4)


def test_two_processes_at_one_address_differ():
    first, second = made(8)[0], made(8)[0]
    second.windows, second.address = first.windows, first.address + 0x1000
    assert user.peb(first) == user.peb(first)
    assert user.peb(first) != user.peb(second)
    assert len({user.peb(first), user.peb(first), user.peb(second)}) == 2


def test_garbage_costs_properties_and_little_time():
    """Random bytes in all of it: nothing but None, problems, and other values."""
    began, rng = time.process_time(), random.Random(7)
    for turn in range(60):
        process, space = made((4, 8)[turn % 2])
        for place in (PEB, PARAMETERS, TEXTS, ENVIRONMENT):
            for _ in range(rng.choice((1, 10, 200))):
                space.put(place + rng.randrange(0x440), rng.randbytes(8))
        block = user.peb(process)
        block.examine()
        str(block), block.to_dict()
        if found := block.parameters:
            found.examine()
            str(found), found.to_dict()
    assert time.process_time() - began < 20
