"""The page-table monitor against a model that knows no index: it goes through all addresses at every step.

Few frames are tables, at any level, of any root, of themselves: one page at two levels and self maps are the
rule. P8, P20, P21, P25 and all rules of `process`, over 4-level, 5-level and PAE tables.

SPDX-License-Identifier: MIT
"""

from random import Random

import pytest
from dumpbuilder import MB2, NX, PAT_LARGE, TRANSITION, A, D, P, U, W
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from monitorworld import World

import kdmp
from kdmp._kdmp import OverlayBase
from kdmp.monitor import PageIn, PageTableMonitor

PS = 0x80
TABLES = (1, 2, 3, 4, 5)  # frames
HOLES = (6, 7)  # frames that the dump has not
PAGES = (0x200, 0x201, 0x400, 0x4_0000, 0x8_0000)
SLOTS = (0, 1, 2, 3)
ROOTS = (0x1000, 0x1000, 0x1000, 0x2000, HOLES[0] << 12)
ADDRESS = 0x000F_FFFF_FFFF_F000

frames = st.sampled_from(TABLES * 3 + HOLES + PAGES)
flags = st.sampled_from(
    (P, P, P, P | W | U, P | W | U | A | D, P | PS, P | PS | PAT_LARGE | A, P | NX, TRANSITION, 0)
)
values = st.one_of(st.just(0), st.builds(lambda pfn, bits: pfn << 12 | bits, frames, flags))
places = st.builds(
    lambda pfn, slot: pfn << 12 | 8 * slot, st.sampled_from(TABLES + HOLES), st.sampled_from(SLOTS)
)
writers = st.sampled_from((0, 0, 1))
views = st.sampled_from((1, 1, 1, 2))


def decode(paging, value, level):
    """(is it a leaf, where it leads), None if it is neither a page nor a table."""
    if value is None or not value & P:
        return None
    if paging == "pae" and level == 3:
        return None if value & (NX | 0x1E6) else (False, value & ADDRESS)
    if level == 1:
        return True, value & ADDRESS
    if not value & PS:
        return False, value & ADDRESS
    return {2: (True, value & ADDRESS & ~(MB2 - 1)), 3: (True, value & ADDRESS & ~((1 << 30) - 1))}.get(level)


def some_slots(random):
    """A way through five tables; through the same entry again and again, sometimes."""
    first = random.choice(SLOTS)
    return [first if random.random() < 0.6 else random.choice(SLOTS) for _ in range(5)]


class Address:
    """A monitored address as the model has it."""

    def __init__(self, view, va, root, tag):
        self.view, self.va, self.root, self.tag = view, va, root, tag
        self.references, self.chain = 1, []

    def page(self, paging):
        level, _, value = self.chain[-1]
        leads = decode(paging, value, level)
        if leads is None:
            return None
        size = 1 << 12 + 9 * (level - 1)
        return leads[1] | self.va & size - 1, level, size


class MonitorMachine(RuleBasedStateMachine):
    """Writes, marks and calls in any order."""

    paging, levels, offset = "x64", 4, 0

    def __init__(self):
        super().__init__()
        self.addresses = []  # in the order of registration
        self.marks = {0: set(), 1: set()}
        self.told = {}
        self.writer = 0

    @initialize(seed=st.integers(0, 1 << 32), count=st.integers(0, 8))
    def start(self, seed, count):
        random = Random(seed)
        world = World(self.paging)
        for pfn in (*TABLES, PAGES[0]):
            world.memory.page(pfn)
        for place in (pfn << 12 | 8 * slot for pfn in TABLES for slot in SLOTS):
            pfn = random.choice(random.choice((TABLES, TABLES, TABLES, PAGES, HOLES)))
            value = pfn << 12 | random.choice((P, P, P | W | U, P | PS)) if random.random() < 0.9 else 0
            world.memory.put_u64(place + self.offset_of(place), value)
        world.open()
        self.dump = world.dump
        self.overlays = {1: world.overlay, 2: OverlayBase(world.dump)}
        self.phys = {
            view: kdmp.Reader(world.dump, paging="physical", overlay=overlay)
            for view, overlay in self.overlays.items()
        }
        self.monitor = PageTableMonitor(self.overlays[1])
        self.introduce()
        for _ in range(count):
            self.watch_one(1, some_slots(random)[: self.levels], random.choice(ROOTS) + self.offset, None)

    def offset_of(self, pa):
        return 0

    # ---- the model ----

    def read(self, view, pa):
        return self.phys[view].try_read_exact(pa, 8)

    def number(self, view, pa):
        data = self.read(view, pa)
        return None if data is None else int.from_bytes(data, "little")

    def walk(self, address, level, table):
        chain = []
        while True:
            bits = 2 if (self.paging, level) == ("pae", 3) else 9
            pa = table + 8 * (address.va >> 12 + 9 * (level - 1) & (1 << bits) - 1)
            value = self.number(address.view, pa)
            chain.append((level, pa, value))
            leads = decode(self.paging, value, level)
            if leads is None or leads[0]:
                return chain
            level, table = level - 1, leads[1]

    def entries(self):
        return {(one.view, pa) for one in self.addresses for _, pa, _ in one.chain}

    def mark(self, view, first, size, writer):
        for pa in range(first & ~7, first + size, 8):
            if (view, pa) in self.entries():
                self.marks[writer].add((view, pa))

    def forget(self, address):
        self.addresses.remove(address)
        self.drop_marks()

    def drop_marks(self):
        for marks in self.marks.values():
            marks &= self.entries()

    def moved(self, address, link):
        level, pa, value = link
        now = decode(self.paging, self.number(address.view, pa), level)
        return now != decode(self.paging, value, level)

    def expected(self, writer):
        """The events by the rules, in order."""
        chosen = [writer] if writer is not None else [0, 1]
        left = set().union(*(self.marks[one] for one in chosen))
        highest = {}
        for address in self.addresses:
            for level, pa, _ in address.chain:
                key = address.view, pa
                highest[key] = max(highest.get(key, 0), level)
        events = []
        for key in sorted(left, key=lambda key: (-highest[key], key[1], key[0])):
            for address in self.addresses:
                if address.view == key[0]:
                    self.expected_of(address, key, left, events)
            left.discard(key)
            for one in chosen:
                self.marks[one].discard(key)
        return events

    def expected_of(self, address, key, left, events):
        for depth in range(self.levels):
            if depth >= len(address.chain) or address.chain[depth][1] != key[1]:
                continue
            level, pa, old = address.chain[depth]
            new = self.number(address.view, pa)
            if new == old:
                continue
            above = address.chain[:depth]
            if any((address.view, up[1]) in left and self.moved(address, up) for up in above):
                continue
            leads = decode(self.paging, new, level)
            if leads == decode(self.paging, old, level):
                address.chain[depth] = level, pa, new
                continue
            before = address.page(self.paging)
            below = [] if leads is None or leads[0] else self.walk(address, level - 1, leads[1])
            address.chain = [*above, (level, pa, new), *below]
            self.drop_marks()
            after = address.page(self.paging)
            for kind, page in (("PageOut", before), ("PageIn", after)):
                if page is not None:
                    events.append((kind, address.view, address.va, address.root, address.tag, *page))

    # ---- what can be done ----

    @rule(view=views, pa=places, value=values, writer=writers)
    def write(self, view, pa, value, writer):
        self.store(view, pa + self.offset_of(pa), value, writer)

    def store(self, view, pa, value, writer):
        self.set_writer(writer)
        if self.read(view, pa) is not None:
            self.phys[view].write_u64(pa, value)
            self.mark(view, pa, 8, writer)

    @rule(view=views, pa=places, bit=st.integers(0, 63), size=st.integers(1, 20), shift=st.integers(0, 7))
    def flip(self, view, pa, bit, size, shift):
        """A write that is no entry's."""
        self.set_writer(0)
        old = self.phys[view].try_read_exact(pa + shift, size)
        if old is not None:
            number = int.from_bytes(old, "little") ^ 1 << bit % (8 * size)
            # Not beyond what can be a frame of 36 bits: the tables stay few.
            self.phys[view].write(pa + shift, number.to_bytes(size, "little"))
            self.mark(view, pa + shift, size, 0)

    def set_writer(self, writer):
        self.monitor.writer = self.writer = writer

    @rule(view=views, pfn=st.sampled_from(HOLES))
    def create(self, view, pfn):
        self.set_writer(0)
        if self.read(view, pfn << 12) is None:
            self.overlays[view].create(pfn)
            self.mark(view, pfn << 12, 0x1000, 0)

    @rule(view=views, pfn=st.sampled_from(TABLES + HOLES))
    def revert(self, view, pfn):
        self.set_writer(0)
        if self.overlays[view].revert_frame(pfn):
            self.mark(view, pfn << 12, 0x1000, 0)

    @rule(view=views, pa=places, writer=writers)
    def mark_dirty(self, view, pa, writer):
        pa += self.offset_of(pa)
        new = (view, pa) in self.entries() and (view, pa) not in self.marks[writer]
        assert self.monitor.mark_dirty(pa, view=view, writer=writer) == new
        if new:
            self.marks[writer].add((view, pa))

    def address_of(self, slots):
        va = 0
        for slot in slots:
            va = va << 9 | slot
        return va << 12 | 0x123

    def known(self, view, va, root):
        for address in self.addresses:
            if (address.view, address.va, address.root) == (view, va, root):
                return address
        return None

    @rule(
        view=views,
        slots=st.lists(st.sampled_from(SLOTS), min_size=5, max_size=5),
        root=st.sampled_from(ROOTS),
        tag=st.sampled_from((None, "a", 7)),
    )
    def watch(self, view, slots, root, tag):
        self.watch_one(view, slots[: self.levels], root + self.offset, tag)

    def watch_one(self, view, slots, root, tag):
        va = self.address_of(slots)
        state = self.monitor.monitor(va, root, view=view, tag=tag, paging=self.paging)
        address = self.known(view, va, root)
        if address is not None:
            address.references += 1
        else:
            address = Address(view, va, root, tag)
            address.chain = self.walk(address, self.levels, root)
            self.addresses.append(address)
            self.told[view, va, root] = address.page(self.paging)
        page = address.page(self.paging)
        assert (state.pa, state.level, state.size) == (page or (None, address.chain[-1][0], None))

    @rule(number=st.integers(0, 20), how=st.sampled_from(("one",) * 6 + ("force",) * 2 + ("all", "view")))
    def unwatch(self, number, how):
        there = number < len(self.addresses)
        one = self.addresses[number] if there else Address(1, 0x7000, 0x1000, None)
        if how in ("one", "force"):
            call = self.monitor.unmonitor_by_force if how == "force" else self.monitor.unmonitor
            assert call(one.va, one.root, view=one.view, paging=self.paging) == there
            one.references -= 1
            gone = [one] if there and (how == "force" or one.references == 0) else []
        elif how == "all":
            gone = list(self.addresses)
            self.monitor.unmonitor_all()
        else:
            gone = [other for other in self.addresses if other.view == one.view]
            assert self.monitor.unmonitor_view(one.view) == len(gone)
            if one.view == 2:  # which is forgotten, too
                self.introduce()
        for address in gone:
            self.forget(address)

    def introduce(self):
        """Make the second view known."""
        self.monitor.monitor(0, 0x5000, view=self.overlays[2], paging=self.paging)
        self.monitor.unmonitor(0, 0x5000, view=self.overlays[2], paging=self.paging)

    @rule(number=st.integers(0, 20), link=st.integers(0, 4), value=values, writer=writers)
    def write_used(self, number, link, value, writer):
        """An entry that somebody depends on."""
        if self.addresses:
            one = self.addresses[number % len(self.addresses)]
            self.store(one.view, one.chain[link % len(one.chain)][1], value, writer)

    @rule(writer=st.sampled_from((None, None, None, 0, 1)))
    def process(self, writer):
        expected = self.expected(writer)
        found = self.monitor.process(writer)
        assert [
            (type(one).__name__, one.view, one.va, one.root, one.tag, one.pa, one.level, one.size)
            for one in found
        ] == expected
        for event in found:  # out what was in, and in what was out
            key, page = (event.view, event.va, event.root), (event.pa, event.level, event.size)
            arrives = isinstance(event, PageIn)
            assert self.told[key] == (None if arrives else page)
            self.told[key] = page if arrives else None
        if writer is None:
            self.everything_is_known()

    def everything_is_known(self):
        """Nothing was missed: all is as a walk from the root says, and as the core says."""
        assert self.monitor.process() == []
        for one in self.addresses:
            assert one.chain == self.walk(one, self.levels, one.root)
            state = self.monitor.status(one.va, one.root, view=one.view, paging=self.paging)
            assert self.told[one.view, one.va, one.root] == one.page(self.paging)
            overlay = self.overlays[one.view]
            reader = kdmp.Reader(self.dump, paging=self.paging, dtb=one.root, overlay=overlay)
            walk = reader.try_translate(one.va)
            # The core goes on through tables in transition, which the processor does not.
            present = walk is not None and all(entry.value & P for entry in walk.entries)
            pa = walk.pa if present else None
            assert state.pa == pa

    @invariant()
    def figures(self):
        if not hasattr(self, "monitor"):
            return
        entries = self.entries()
        assert self.monitor.entries == len(entries)
        assert self.monitor.tables == len({(view, pa >> 12) for view, pa in entries})
        assert self.monitor.paged_in == sum(one.page(self.paging) is not None for one in self.addresses)
        assert len(self.monitor) == len(self.addresses)
        marked = {writer: len(marks) for writer, marks in self.marks.items() if marks}
        assert self.monitor.state()["marked"] == marked


class FiveLevels(MonitorMachine):
    paging, levels = "la57", 5


class Pae(MonitorMachine):
    """The root's entries are shifted by its offset, which is a multiple of 32."""

    paging, levels, offset = "pae", 3, 0x20

    def offset_of(self, pa):
        return self.offset if pa >> 12 in (1, 2) and pa & 8 else 0


MACHINES = [MonitorMachine, FiveLevels, Pae]


@pytest.mark.parametrize("machine", MACHINES)
def test_model(machine):
    from hypothesis.stateful import run_state_machine_as_test

    profile = settings.get_profile(settings._current_profile)
    run_state_machine_as_test(machine, settings=settings(profile, stateful_step_count=40))


def some_value(random):
    pfn = random.choice(random.choice((TABLES, TABLES, TABLES, PAGES, HOLES)))
    bits = random.choice(
        (P, P, P | W | U, P | W | U | A | D, P | PS, P | PS | PAT_LARGE, P | NX, TRANSITION, 0)
    )
    return pfn << 12 | bits


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("machine", MACHINES)
def test_long_runs(machine, seed):
    """The same steps, chosen so that there is always much to monitor."""
    random = Random(seed)
    model = machine()
    model.start(seed, 8)
    for _ in range(250):
        view, writer, number = random.choice((1, 1, 1, 2)), random.choice((0, 0, 1)), random.randrange(20)
        place = random.choice(TABLES + HOLES) << 12 | 8 * random.choice(SLOTS)
        step = random.randrange(20)
        if step < 9:
            model.write_used(number, random.randrange(5), some_value(random), writer)
        elif step < 11:
            model.write(view, place, some_value(random), writer)
        elif step == 11:
            model.flip(view, place, random.randrange(64), random.randrange(1, 20), random.randrange(8))
        elif step == 12:
            random.choice((model.create, model.create, model.revert))(view, random.choice(HOLES))
        elif step == 13:
            model.mark_dirty(view, place, writer)
        elif step < 16 or len(model.addresses) < 4:
            model.watch(view, some_slots(random), random.choice(ROOTS), number)
        elif step == 16:
            model.unwatch(number, random.choice(("one", "one", "one", "force", "view")))
        elif step == 17:
            model.process(random.choice((0, 1)))
        else:
            model.process(None)
        model.figures()


class Frames:
    """A source of its own: entries by address; frames that are not there."""

    def __init__(self, entries, missing):
        self.entries, self.missing = entries, missing

    def read_u64(self, pa):
        return None if pa >> 12 in self.missing else self.entries.get(pa, 0)


def changes_of(before, after, paging, va):
    """The events of one address, by name: what a walk found before and after."""

    def end(chain):
        level, _, value = chain[-1]
        leads = decode(paging, value, level)
        page = None if leads is None else (leads[1] | va & (1 << 12 + 9 * (level - 1)) - 1, level)
        if value is None:
            return "unknown", None
        if value & P:
            return ("valid" if page else "bad"), page
        if not value or (paging, level) == ("pae", 3):
            return ("zero" if not value else "bad"), None
        if value & TRANSITION:
            return f"transition to {value >> 12 & 0xFFFFFFFFF:x}", None
        # By the number of the page file, and the page in it.
        fields = value >> 12 & 0xF, value >> 32
        return ("demand_zero" if fields == (0, 0) else f"pagefile {fields}"), None

    first, second = end(before), end(after)
    events = []
    for old, new in zip(before, after, strict=False):
        if (old[2] is None) != (new[2] is None) or decode(paging, *old[::-2]) != decode(paging, *new[::-2]):
            if first[1] and new[2] is not None:
                events.append(("PageOut", *first[1]))
            if second[1]:
                events.append(("PageIn", *second[1]))
            break
    if second[0] == "unknown":
        events += [("Unknown", after[-1][1])] if first[0] != "unknown" else []
    elif first[0] != second[0]:
        events.append(("StateChanged", first[0].split()[0], second[0].split()[0]))
    return events


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("paging, levels", [("x64", 4), ("la57", 5), ("pae", 3)])
def test_series(paging, levels, seed):
    """5c: from one state to the next, with everything that can change in between."""
    random = Random(seed)
    places = [pfn << 12 | 8 * slot for pfn in TABLES + HOLES for slot in SLOTS]
    entries = {pa: some_value(random) for pa in places}
    source = Frames(dict(entries), {random.choice(TABLES[1:])})
    monitor = PageTableMonitor(source)
    model = type("Model", (MonitorMachine,), {"paging": paging, "levels": levels})()
    model.number = lambda view, pa: source.read_u64(pa)
    addresses = {}
    for _ in range(8):
        va = model.address_of(some_slots(random)[:levels])
        monitor.monitor(va, 0x1000, paging=paging, tag=va)
        addresses[va] = Address(0, va, 0x1000, va)
        addresses[va].chain = model.walk(addresses[va], levels, 0x1000)
    for _ in range(10):
        for pa in random.sample(places, 4):
            entries[pa] = some_value(random)
        source = Frames(dict(entries), set(random.sample(TABLES[1:], random.randrange(3))))
        found = {va: [] for va in addresses}
        for event in monitor.advance(source):
            name, more = type(event).__name__, ()
            if name in ("PageIn", "PageOut"):
                more = event.pa, event.level
            elif name != "ProtectionChanged":
                more = (event.pa,) if name == "Unknown" else (event.old, event.new)
            if name != "ProtectionChanged":
                found[event.va].append((name, *more))
        for va, one in addresses.items():
            before, one.chain = one.chain, model.walk(one, levels, 0x1000)
            assert found[va] == changes_of(before, one.chain, paging, va)
        assert monitor.process() == []
