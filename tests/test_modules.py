"""The kernel's modules and the drivers that were unloaded: machines, triage dumps, damage, 32 bits.

SPDX-License-Identifier: MIT
"""

import random
import struct
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import pebuilder as made
import pytest
import shareddata
from pebuilder import PAGE, FakeReader

import kdmp
import kdmp.sample
from kdmp.symbols import layouts
from kdmp.symbols.errors import SymbolError
from kdmp.windows.kernel import Kernel
from kdmp.windows.modules import _FIXED, _STAMP_64, Module, find_module, module_at, modules
from kdmp.windows.pe import identify
from kdmp.windows.session import Windows
from kdmp.windows.unloaded import unloaded_modules

NOW = datetime(2024, 5, 6, tzinfo=UTC)
FILETIME = int((datetime(2024, 5, 1) - datetime(1601, 1, 1)).total_seconds()) * 10**7
TRUTH = {
    "name": "name", "path": "path", "base": "base", "size": "size", "entry": "entry",
    "timestamp": "timestamp", "checksum": "checksum", "address": "ldr",
}  # fmt: skip


class FakeWindows(Windows):
    """A session over memory that a test made, without symbols."""

    @property
    def layout(self):
        raise SymbolError("no symbols")


class Machine:
    """A list of modules, and unloaded drivers, in made memory."""

    def __init__(self, width=8, build=19041, count=5, images=False):
        self.width = width
        high = 0xFFFFF80000000000 if width == 8 else 0x80000000
        self.reader = FakeReader(width)
        self.head, self.entries, self.names = high + 0x10000, high + 0x20000, high + 0x30000
        self.ring, self.variables = high + 0x40000, high + 0x50000
        self.bases = [high + 0x400000 + 0x100000 * n for n in range(count)]
        self.links = [self.entries + 0x100 * n for n in range(count)]
        self.reader.put(self.names, bytes(0x4000))
        self.reader.put(self.ring, bytes(0x1000))
        self.reader.put(self.variables, bytes(0x1000))
        self._name_at = self.names
        chain = [self.head, *self.links]
        for number, link in enumerate(chain):
            self.pointers(link, chain[(number + 1) % len(chain)], chain[number - 1])
        for number, link in enumerate(self.links):
            self.module(link, number)
            if images or number == 0:
                self.reader.put(self.bases[number], made.image(wide=width == 8, stamp=0x50000000 + number))
        self.dump = SimpleNamespace(
            triage=None, ps_loaded_module_list=self.head, build=build, system_time=NOW, pointer_size=width,
            kernel=Kernel(identify(self.reader, self.bases[0]), "test"), kd_debugger_data_block=None,
        )  # fmt: skip

    def pointers(self, va, *values):
        self.reader.put(va, b"".join(value.to_bytes(self.width, "little") for value in values))

    def string(self, va, text):
        """A UNICODE_STRING at `va` and its text somewhere."""
        data = text.encode("utf-16-le", "surrogatepass")
        self.reader.put(self._name_at, data)
        self.reader.put(va, struct.pack("<HH", len(data), len(data) + 2))
        self.pointers(va + self.width, self._name_at)
        self._name_at += len(data) + 2

    def module(self, at, number):
        wide = self.width == 8
        base, entry, size, path, name, flags, count, check = (
            (0x30, 0x38, 0x40, 0x48, 0x58, 0x68, 0x6C, 0x78) if wide
            else (0x18, 0x1C, 0x20, 0x24, 0x2C, 0x34, 0x38, 0x40)
        )  # fmt: skip
        self.name_offset, self.path_offset, self.base_offset = name, path, base
        self.pointers(at + base, self.bases[number])
        self.pointers(at + entry, self.bases[number] + 0x1010 if number else 0)
        for offset, value in ((size, 0x9000), (flags, 0x9104000 + number), (check, 0xC0DE + number)):
            self.reader.put(at + offset, struct.pack("<I", value))
        self.reader.put(at + count, struct.pack("<H", 3))
        if wide:
            self.reader.put(at + 0x80, struct.pack("<I", 0x11111111))  # not TimeDateStamp of this type
            self.reader.put(at + 0x9C, struct.pack("<I", 0x60000000 + number))
        self.string(at + path, f"\\SystemRoot\\system32\\driver{number}.sys")
        self.string(at + name, f"driver{number}.sys")

    def unload(self, count, following, *, pointer=True):
        """Unloaded drivers in the places 0 ... of the ring."""
        size, start = (0x28, 0x10) if self.width == 8 else (0x18, 8)
        for number in range(count):
            at = self.ring + number * size
            self.string(at, f"gone{number}.sys")
            base = self.bases[-1] + 0x1000000 + 0x10000 * number
            self.pointers(at + start, base, base + 0x8000)
            self.reader.put(at + start + 2 * self.width, struct.pack("<Q", FILETIME + number * 10**7))
        self.pointers(self.variables, self.ring if pointer else 0)
        self.reader.put(self.variables + 8, struct.pack("<I", following))

    def windows(self):
        windows = FakeWindows(self.dump)
        windows.__dict__["reader"] = self.reader
        names = {"MmUnloadedDrivers": self.variables, "MmLastUnloadedDriver": self.variables + 8}
        windows.__dict__["kdbg"] = SimpleNamespace(variable=names.get)
        return windows


@pytest.fixture(params=[8, 4], ids=["64", "32"])
def width(request):
    return request.param


# ---- the machines and the triage dumps ----


@pytest.mark.parametrize("kind", shareddata.KINDS)
@pytest.mark.parametrize("machine", shareddata.MACHINES)
def test_modules_of_the_machines(machine, kind):
    truth = shareddata.truth(machine)
    with kdmp.open(shareddata.machine_dump(machine, kind)) as dump:
        listing = modules(dump.windows)
        assert len(listing) == len(truth["modules"]) == 11
        for module, known in zip(listing, truth["modules"], strict=True):
            assert {own: getattr(module, own) for own in TRUTH} == {own: known[k] for own, k in TRUTH.items()}
            assert (module.source, module.end) == ("module list", known["base"] + known["size"])
            assert module.image_id == f"{known['timestamp']:08X}{known['size']:x}"
            if dump.reader().is_readable(known["base"], PAGE):
                record = (module.pdb, module.guid, module.age, module.symbol_id)
                wanted = (known["pdb"], known["guid"], known["age"], f"{known['guid']}{known['age']:X}")
                assert record == wanted or (record == (None,) * 4 and module.problems)
            else:
                assert module.image is None and module.problems
        assert [bool(listing.problems)] == [any(d["kind"] == "module-list-cycle" for d in truth["damage"])]
        for known in truth["modules"]:
            for va in (known["base"], known["base"] + known["size"] - 1):
                assert module_at(dump.windows, va).name == known["name"]
            assert module_at(dump.windows, known["base"] + known["size"]) is None


@pytest.mark.parametrize("kind", shareddata.KINDS)
@pytest.mark.parametrize("machine", shareddata.MACHINES)
def test_unloaded_of_the_machines(machine, kind):
    truth = shareddata.truth(machine)
    with kdmp.open(shareddata.machine_dump(machine, kind)) as dump:
        listing = unloaded_modules(dump.windows)
        got = [(m.name, m.start, m.end, m.time) for m in listing]
        assert got == [
            (u["name"], u["start"], u["end"], dump.windows.filetime(u["time"]))
            for u in reversed(truth["unloaded"])
        ]
        assert [m.index for m in listing] == [3, 2, 1, 0]
        damaged = any(d["kind"] == "unloaded-count" for d in truth["damage"])
        assert bool(listing.problems) == damaged
        assert all(m.time.tzinfo is not None for m in listing)


def test_the_cycle_is_reported():
    with kdmp.open(shareddata.machine_dump("win10-19041-damaged", "kernel")) as dump:
        damage = {d["kind"]: d for d in shareddata.truth("win10-19041-damaged")["damage"]}
        cycle = damage["module-list-cycle"]
        why = [problem for problem in modules(dump.windows).problems if problem.address == cycle["address"]]
        assert any("cycle" in problem.why for problem in why)
        (problem,) = unloaded_modules(dump.windows).problems
        assert problem.address == damage["unloaded-count"]["address"] and "0xfffffff0" in problem.why


@pytest.fixture(params=range(12))
def triage(request):
    facts = shareddata.triage_index()[request.param]
    with kdmp.open(shareddata.unpack("triage", facts["file"])) as dump:
        yield dump, facts


def test_triage_dumps(triage):
    dump, facts = triage
    listing = modules(dump.windows)
    got = [(m.path, m.base, m.size, m.timestamp) for m in listing]
    assert got == [(d["name"], d["base"], d["size"], d["timestamp"]) for d in facts["drivers"]]
    assert {m.source for m in listing} == {"triage driver list"}
    assert all("\\" not in m.name for m in listing)
    assert listing[0].entry is None and "triage" in listing[0].problems[0].why
    for driver in facts["drivers"][::9]:
        found = module_at(dump.windows, driver["base"] + driver["size"] // 2)
        assert (found.base, found.path) == (driver["base"], driver["name"])
    gone = unloaded_modules(dump.windows)
    assert [(m.name, m.start, m.end) for m in gone] == [
        (d["name"], d["start"], d["end"]) for d in facts["unloaded_drivers"]
    ]
    assert all(m.time is None and m.problems for m in gone)
    assert len(set(listing)) == len(listing) and len(set(gone)) == len(gone)


def test_the_sample(tmp_path):
    path = tmp_path / "sample.dmp"
    kdmp.sample.build(path)
    with kdmp.open(path) as dump:
        listing = modules(dump.windows)
        assert listing and listing[0].base == dump.kernel.base and listing.problems == ()
        assert listing[0] == modules(dump.windows)[0]
        assert find_module(dump.windows, "nt") is listing[0]


# ---- made machines ----


def test_fixed_layout(width):
    machine = Machine(width, images=True)
    listing = modules(machine.windows())
    assert listing.problems == ()
    assert [m.base for m in listing] == machine.bases
    for number, module in enumerate(listing):
        assert (module.name, module.path) == (
            f"driver{number}.sys", f"\\SystemRoot\\system32\\driver{number}.sys",
        )  # fmt: skip
        assert (module.size, module.flags, module.load_count) == (0x9000, 0x9104000 + number, 3)
        assert module.checksum == 0xC0DE + number
        assert module.entry == (machine.bases[number] + 0x1010 if number else None)
        # 64 bits: in the entry since Windows 10; else in the image
        assert module.timestamp == (0x60000000 if width == 8 else 0x50000000) + number
        assert (module.pdb, module.age) == ("ntkrnlmp.pdb", 0x1F)
        assert module.time == datetime.fromtimestamp(module.timestamp, UTC)
        assert module.examine() == ()


def test_the_fixed_layout_is_that_of_all_known_builds():
    seen, checked = set(), 0
    for build in layouts.known_builds():
        if (build.arch, build.layout_set) in seen or not build.guid:
            continue
        seen.add((build.arch, build.layout_set))
        layout = layouts.find(guid=build.guid, age=build.age)
        for struct_name in ("_KLDR_DATA_TABLE_ENTRY", "_LDR_DATA_TABLE_ENTRY"):
            if struct_name not in layout:
                continue
            own = dict(_FIXED[layout.pointer_size])
            if struct_name[1] == "K":
                own["TimeDateStamp"] = _STAMP_64
            elif build.number >= 9200:
                own.pop("CheckSum"), own.pop("LoadCount")  # those of user mode have moved
            known = layout.struct(struct_name)
            members = [name for name in own if name in known]
            assert len(members) >= 5, build
            assert {name: own[name] for name in members} == {
                name: known.field(name).offset for name in members
            }, (build, struct_name)
            checked += 1
    assert checked > 10


def test_time_stamps_before_windows_10():
    listing = modules(Machine(8, build=7601, images=True).windows())
    assert [m.timestamp for m in listing] == [0x50000000 + n for n in range(5)]
    listing = modules(Machine(8, build=7601).windows())
    assert listing[1].timestamp is None and listing[1].image_id is None
    assert {problem.what for problem in listing[1].problems} == {"image", "timestamp"}


def test_times_that_may_be_hashes():
    machine = Machine(8, count=3)
    machine.reader.put(machine.bases[1], made.image(reproducible=True))
    first, hashed, absent = modules(machine.windows())
    assert first.time is not None
    assert hashed.time is None  # the image says so
    assert absent.time is None  # nobody knows, on Windows 10
    assert absent.timestamp == 0x60000002


def test_symbols_go_before_the_fixed_layout():
    class Layout:
        def __contains__(self, struct):
            return struct == "_KLDR_DATA_TABLE_ENTRY"

        def has(self, struct, member):
            return member == "SizeOfImage"

        def offset(self, struct, member):
            return 0xF0

    machine = Machine()
    machine.reader.put(machine.links[1] + 0xF0, struct.pack("<I", 0x7000))

    class WithLayout(FakeWindows):
        layout = Layout()

    windows = WithLayout(machine.dump)
    windows.__dict__.update(reader=machine.reader, kdbg=None)
    module = modules(windows)[1]
    assert module.size == 0x7000
    assert module.timestamp is None  # the symbols have the type, but not this member


@pytest.mark.parametrize("number", range(5))
def test_a_broken_link_costs_nothing(width, number):
    for value in (0, 1, 0x1234, None, "self", "wild"):
        machine = Machine(width)
        link = machine.links[number]
        place = {None: machine.links[max(number - 2, 0)], "self": link, "wild": machine.bases[-1] + 0x800000}
        machine.pointers(link, place.get(value, value))
        listing = modules(machine.windows())
        assert [m.base for m in listing] == machine.bases
        assert listing.problems


def test_what_two_broken_links_hide_is_reported():
    machine = Machine(count=6)
    machine.pointers(machine.links[1], 0)
    machine.pointers(machine.links[4] + 8, 0)
    listing = modules(machine.windows())
    assert [machine.bases.index(m.base) for m in listing] == [0, 1, 4, 5]
    assert listing.problems


def test_entries_that_are_no_modules_are_left_out():
    machine = Machine()
    other = machine.names + 0x2000  # zeros: neither name nor base
    machine.pointers(machine.links[2], other)
    machine.pointers(other, machine.links[3], machine.links[2])
    listing = modules(machine.windows())
    assert [m.base for m in listing] == machine.bases
    assert any("no modules" in problem.why for problem in listing.problems)


def test_a_wrong_base_costs_only_itself():
    machine = Machine()
    machine.pointers(machine.links[2] + machine.base_offset, 0x123)
    listing = modules(machine.windows())
    assert listing[2].name == "driver2.sys" and listing[2].problems[0].what == "base"


@pytest.mark.parametrize("length, maximum", [(21, 24), (0xFFFE, 0xFFFF), (24, 22)])
def test_damaged_names(width, length, maximum):
    machine = Machine(width)
    at = machine.links[1] + machine.name_offset
    machine.reader.put(at, struct.pack("<HH", length, maximum))
    listing = modules(machine.windows())
    assert len(listing) == 5
    assert listing[1].name == "driver1.sys"  # from the path
    assert listing[1].problems[0].what == "name"
    machine.reader.put(machine.links[1] + machine.path_offset, struct.pack("<HH", length, maximum))
    module = modules(machine.windows())[1]
    assert module.name is None and module.path is None
    assert {problem.what for problem in module.problems} == {"name", "path"}
    assert "?" in repr(module)


def test_names_without_text(width):
    machine = Machine(width)
    for offset in (machine.name_offset, machine.path_offset):
        machine.pointers(machine.links[1] + offset + width, 0)
        machine.string(machine.links[2] + offset, "a\ud800\x1bb")
    listing = modules(machine.windows())
    assert listing[1].name is None
    assert listing[2].name == "a\ufffd\x1bb"
    assert str(listing) and listing.to_dicts()


def test_names_in_missing_pages():
    machine = Machine()
    machine.reader.drop(machine.names)
    listing = modules(machine.windows())
    assert [m.base for m in listing] == machine.bases
    assert all(m.name is None and m.size == 0x9000 and m.problems for m in listing)


def test_a_wrong_header_is_noticed():
    machine = Machine()
    windows = machine.windows()
    machine.dump.ps_loaded_module_list = machine.names + 0x2000
    names = {"PsLoadedModuleList": machine.head}
    windows.__dict__["kdbg"] = SimpleNamespace(variable=names.get)
    listing = modules(windows)
    assert [m.base for m in listing] == machine.bases
    assert "the header" in listing.problems[0].why


def test_no_list_at_all():
    machine = Machine()
    machine.dump.ps_loaded_module_list = None
    listing = modules(machine.windows())
    assert listing == [] and "PsLoadedModuleList" in listing.problems[0].why
    assert module_at(machine.windows(), machine.bases[0]) is None
    assert find_module(machine.windows(), "nt") is None


def test_module_at_with_overlaps():
    machine = Machine()
    machine.reader.put(machine.links[1] + 0x40, struct.pack("<I", 0x300000))  # reaches over the two behind it
    windows = machine.windows()
    numbers = {0: 0, 0x8FFF: 0, 0x9000: None, 0x100000: 1, 0x200000: 2, 0x209000: 1, 0x3FFFFF: 1, 0x400000: 4}
    for offset, number in numbers.items():
        found = module_at(windows, machine.bases[0] + offset)
        assert (found.base if found else None) == (None if number is None else machine.bases[number])
    assert module_at(windows, 0) is None and module_at(windows, 1 << 65) is None


def test_find_module():
    windows = Machine().windows()
    assert find_module(windows, "DRIVER3.SYS").base == find_module(windows, "driver3").base
    assert find_module(windows, "driver") is None and find_module(windows, "") is None


def test_modules_are_kept():
    windows = Machine().windows()
    assert modules(windows)[1] is modules(windows)[1]
    assert modules(windows) is not modules(windows)
    assert isinstance(modules(windows)[1], Module)
    assert int(modules(windows)[1]) == modules(windows)[1].address


# ---- unloaded ----


def test_ring(width):
    machine = Machine(width)
    machine.unload(50, 7)
    listing = unloaded_modules(machine.windows())
    assert [m.index for m in listing] == [*range(6, -1, -1), *range(49, 6, -1)]
    assert listing[0].name == "gone6.sys" and listing.problems == ()
    assert (listing[0].end - listing[0].start, listing[0].size) == (0x8000, 0x8000)
    assert listing[0].time == datetime(2024, 5, 1, 0, 0, 6, tzinfo=UTC)
    assert listing[0].contains(listing[0].start) and not listing[0].contains(listing[0].end)
    assert listing[0].to_dict()["name"] == "gone6.sys"


@pytest.mark.parametrize("following, problems", [(3, 0), (50, 0), (51, 1), (0xFFFFFFF0, 1)])
def test_the_count_may_be_garbage(width, following, problems):
    machine = Machine(width)
    machine.unload(3, following)
    listing = unloaded_modules(machine.windows())
    assert [m.name for m in listing] == ["gone2.sys", "gone1.sys", "gone0.sys"]
    assert len(listing.problems) == problems


def test_nothing_was_unloaded(width):
    machine = Machine(width)
    machine.unload(0, 0, pointer=False)
    assert unloaded_modules(machine.windows()) == []
    machine.unload(0, 0xFFFFFFFF)
    listing = unloaded_modules(machine.windows())
    assert listing == [] and listing.problems == ()


def test_nothing_tells_where_the_ring_is():
    windows = Machine().windows()
    windows.__dict__["kdbg"] = None
    listing = unloaded_modules(windows)
    assert listing == [] and "MmUnloadedDrivers" in listing.problems[0].why


def test_missing_pages_of_the_ring():
    machine = Machine()
    machine.unload(50, 0)
    machine.reader.drop(machine.ring)
    listing = unloaded_modules(machine.windows())
    assert listing == [] and "50 of 50" in listing.problems[0].why
    machine.reader.drop(machine.variables)
    assert unloaded_modules(machine.windows()).problems


def test_garbage_in_an_entry():
    machine = Machine()
    machine.unload(3, 3)
    machine.reader.put(machine.ring + 0x28, struct.pack("<HH", 0xFFFF, 0x10))
    machine.reader.put(machine.ring + 0x28 + 0x20, b"\xff" * 8)
    last, middle, first = unloaded_modules(machine.windows())
    assert (middle.name, middle.time, middle.index) == (None, None, 1)
    assert {problem.what for problem in middle.problems} == {"name", "time"}
    assert last.name and first.name and middle.start


# ---- mutations ----


@pytest.mark.parametrize("seed", range(4))
def test_mutations(seed):
    rng = random.Random(seed)
    width = 8 if seed % 2 == 0 else 4
    machine = Machine(width, count=8)
    machine.unload(10, 4)
    original = {number: bytes(page) for number, page in machine.reader.pages.items()}
    regions = [(machine.head, 16)] + [(link, 0xA0) for link in machine.links]
    regions += [(machine.ring, 0x190), (machine.variables, 16), (machine.names, 0x200)]
    pointers = [
        machine.head,
        *machine.links,
        machine.names,
        machine.ring,
        0,
        1,
        1 << 63,
        (1 << 64) - 8,
        0xFFFFFFF8,
    ]
    slowest, outcomes = 0.0, set()
    for _ in range(1000):
        for number, page in original.items():
            machine.reader.pages[number] = bytearray(page)
        for _ in range(rng.randint(1, 6)):
            start, size = rng.choice(regions)
            where = start + rng.randrange(0, size, 4)
            if rng.random() < 0.5:
                value = (rng.choice(pointers) & (1 << 8 * width) - 1).to_bytes(width, "little")
            else:
                value = rng.choice((rng.randbytes(4), bytes(4), b"\xff" * 4))
            machine.reader.put(where, value)
        if rng.random() < 0.2:
            machine.reader.drop(rng.choice((machine.head, machine.entries, machine.names, machine.ring)))
        windows = machine.windows()
        begin = time.process_time()
        listing, gone = modules(windows), unloaded_modules(windows)
        for thing in (*listing, *gone):
            thing.to_dict()
            repr(thing)
        for va in (machine.bases[3] + 5, 0, (1 << 64) - 1):
            found = module_at(windows, va)
            assert found is None or found.contains(va)
        str(listing), str(gone)
        slowest = max(slowest, time.process_time() - begin)
        assert len(listing) <= 1000 and len(gone) <= 50
        assert len({module.address for module in listing}) == len(listing)
        outcomes.add((len(listing), bool(listing.problems), len(gone)))
    assert slowest < 5
    assert len(outcomes) > 5


def test_a_long_list_of_garbage_is_bounded():
    machine = Machine()
    start = machine.bases[-1] + 0x10000000
    count = 40000
    data = b"".join(struct.pack("<QQ", start + 16 * (n + 1), start + 16 * (n - 1)) for n in range(count))
    machine.reader.put(start, data)
    machine.pointers(machine.links[1], start)
    begin = time.process_time()
    listing = modules(machine.windows())
    assert [m.base for m in listing][:2] == machine.bases[:2]
    assert set(machine.bases) <= {m.base for m in listing}
    assert time.process_time() - begin < 10
