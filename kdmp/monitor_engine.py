"""The page-table monitor's engine: which entries the monitored addresses depend on, and what a change means.

Every address remembers the entries of its last walk with the values it has seen in them. An entry knows who
depends on it, at which level: one physical entry can be at several levels, even for one address (by a self
map). Because the values are each address's own, nothing that looks at an entry for one address hides a
pending change from another.

SPDX-License-Identifier: MIT
"""

from collections.abc import Callable, Container, Hashable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

from kdmp.monitor_events import Event, MonitorState, PageIn, PageOut, ProtectionChanged, StateChanged, Unknown
from kdmp.monitor_paging import Paging, Target
from kdmp.monitor_source import Source
from kdmp.pte import decode_entry

EntryKey: TypeAlias = tuple[int, int]  # (view, physical address)
VaKey: TypeAlias = tuple[int, int, int, str]  # (view, address, root, paging)


class Link(NamedTuple):
    """One step of a walk: the value is None if the table is not there."""

    level: int
    pa: int
    value: int | None
    target: Target | None


class Page(NamedTuple):
    """What backs an address."""

    pa: int
    level: int
    size: int


class Summary(NamedTuple):
    """What the events of details are about."""

    state: str
    where: tuple[object, ...]  # tells two of the same state apart
    last: Link
    page: Page | None
    rights: str | None


class Watched:
    """A monitored address."""

    __slots__ = ("chain", "order", "page", "paging", "references", "root", "tag", "va", "view")

    def __init__(self, view: int, va: int, root: int, paging: Paging, tag: Hashable, order: int) -> None:
        self.view, self.va, self.root, self.paging = view, va, root, paging
        self.tag = tag
        self.order = order  # of registration
        self.references = 1
        self.chain: list[Link] = []  # root first
        self.page: Page | None = None

    @property
    def key(self) -> VaKey:
        """By what the address is known."""
        return self.view, self.va, self.root, self.paging.name


# The users of an entry: (order of registration, -level), which is the order to handle them in.
Users: TypeAlias = dict[tuple[int, int], Watched]


class Engine:
    """Entries, tables, marks and events."""

    def __init__(self, details: bool) -> None:
        self.details = details
        self.writer = 0
        self.sources: dict[int, Source] = {}
        self.watched: dict[VaKey, Watched] = {}
        self.entries: dict[EntryKey, Users] = {}
        self.tables: dict[tuple[int, int], int] = {}  # (view, frame): monitored entries in it
        self.marks: dict[int, dict[EntryKey, None]] = {}
        self.paged_in = 0
        self._registered = 0
        self._events: list[Event] = []
        self._before: dict[VaKey, Summary] = {}
        self._layouts: dict[tuple[int, str], Callable[[int, int], tuple[str, tuple[object, ...]]]] = {}

    # ---- coming and going ----

    def add(self, view: int, va: int, root: int, paging: Paging, tag: Hashable) -> Watched:
        """Monitor an address, or count one more reference."""
        watched = self.watched.get((view, va, root, paging.name))
        if watched is not None:
            watched.references += 1
            return watched
        self._registered += 1
        watched = Watched(view, va, root, paging, tag, self._registered)
        chain = self._walk(watched, paging.levels, root)
        self._attach(watched, chain)
        watched.chain = chain
        self._set_page(watched, _page(watched, chain[-1]))
        self.watched[watched.key] = watched
        return watched

    def remove(self, watched: Watched) -> None:
        """Forget an address and what only it depended on."""
        del self.watched[watched.key]
        self._before.pop(watched.key, None)
        self._set_page(watched, None)
        self._detach(watched, watched.chain)

    def replace_source(self, view: int, source: Source, frames: Container[int] | None) -> None:
        """Read a view from elsewhere; all entries in these frames (None: in all) are dirty."""
        old = self.sources[view]
        for place, pfn in self.tables:
            if place == view:
                source.watch(pfn)
                old.unwatch(pfn)
        self.sources[view] = source
        marks = self.marks.setdefault(self.writer, {})
        for key in self.entries:
            if key[0] == view and (frames is None or key[1] >> 12 in frames):
                marks[key] = None

    def _walk(self, watched: Watched, level: int, table: int) -> list[Link]:
        """The steps from a table down to where they end."""
        source, paging, links = self.sources[watched.view], watched.paging, []
        while True:
            pa = paging.entry(table, watched.va, level)
            value = source.read(pa, paging.entry_size)
            target = None if value is None else paging.target(value, level)
            links.append(Link(level, pa, value, target))
            if target is None or target.leaf:
                return links
            level, table = level - 1, target.base

    def _attach(self, watched: Watched, links: Sequence[Link]) -> None:
        done = 0
        try:
            for link in links:
                self._attach_one(watched, link)
                done += 1
        except BaseException:  # a failure leaves nothing behind
            self._detach(watched, links[:done])
            raise

    def _attach_one(self, watched: Watched, link: Link) -> None:
        key, table = (watched.view, link.pa), (watched.view, link.pa >> 12)
        users = self.entries.get(key)
        if users is None:
            count = self.tables.get(table, 0)
            if count == 0:
                self.sources[watched.view].watch(table[1])
            self.tables[table] = count + 1
            users = self.entries[key] = {}
        users[watched.order, -link.level] = watched

    def _detach(self, watched: Watched, links: Iterable[Link]) -> None:
        for link in links:
            key, table = (watched.view, link.pa), (watched.view, link.pa >> 12)
            users = self.entries[key]
            del users[watched.order, -link.level]
            if users:
                continue
            del self.entries[key]
            for marks in self.marks.values():
                marks.pop(key, None)
            self.tables[table] -= 1
            if self.tables[table] == 0:
                del self.tables[table]
                self.sources[watched.view].unwatch(table[1])

    def _set_page(self, watched: Watched, page: Page | None) -> None:
        self.paged_in += (page is not None) - (watched.page is not None)
        watched.page = page

    # ---- marks ----

    def mark(self, key: EntryKey, writer: int) -> bool:
        """Mark an entry; whether it is monitored and was not marked for this writer."""
        if key not in self.entries:
            return False
        marks = self.marks.setdefault(writer, {})
        new = key not in marks
        marks[key] = None
        return new

    def note(self, view: int, units: Iterable[int]) -> None:
        """Mark what an overlay has noted, which may be two entries of 4 bytes."""
        for pa in units:
            self.mark((view, pa), self.writer)
            self.mark((view, pa + 4), self.writer)

    def drain(self) -> None:
        """Have the overlays note what was written so far."""
        for source in self.sources.values():
            source.drain()

    # ---- changes ----

    def process(self, writer: int | None) -> list[Event]:
        """Handle the marks of one writer, or all; return the events.

        If something raises, what is left stays marked and the events so far come with the next call.
        """
        if not (self.marks or self._before or self._events):
            return []
        sets = [marks for name, marks in self.marks.items() if writer is None or name == writer]
        left = {key for marks in sets for key in marks if key in self.entries}
        order = sorted(left, key=lambda key: (min(neg for _, neg in self.entries[key]), key[1], key[0]))
        for key in order:
            if key in self.entries:
                self._entry_changed(key, left)
            left.discard(key)
            for marks in sets:
                marks.pop(key, None)
        self._emit_details()
        for name in [name for name, marks in self.marks.items() if not marks]:
            del self.marks[name]
        events, self._events = self._events, []
        return events

    def _entry_changed(self, key: EntryKey, left: set[EntryKey]) -> None:
        view, pa = key
        source = self.sources[view]
        values: dict[int, int | None] = {}  # by size
        for user in sorted(self.entries[key]):
            watched = self.entries.get(key, {}).get(user)
            if watched is None:
                continue
            level, paging = -user[1], watched.paging
            if paging.entry_size not in values:
                values[paging.entry_size] = source.read(pa, paging.entry_size)
            value = values[paging.entry_size]
            depth = paging.levels - level
            link = watched.chain[depth]
            if value == link.value:
                continue
            new = Link(level, pa, value, None if value is None else paging.target(value, level))
            # A change further up, which is yet to be handled (one page at two levels), makes this one moot.
            if any((view, up.pa) in left and self._has_moved(watched, up) for up in watched.chain[:depth]):
                continue
            if self.details and watched.key not in self._before:
                self._before[watched.key] = self._summary(watched)
            if new.target == link.target:
                watched.chain[depth] = new
            else:
                self._rebuild(watched, depth, new)

    def _has_moved(self, watched: Watched, link: Link) -> bool:
        value = self.sources[watched.view].read(link.pa, watched.paging.entry_size)
        return (None if value is None else watched.paging.target(value, link.level)) != link.target

    def _rebuild(self, watched: Watched, depth: int, new: Link) -> None:
        """Tear down what is below an entry and set it up again."""
        chain = watched.chain
        below = []
        if new.target is not None and not new.target.leaf:
            below = self._walk(watched, new.level - 1, new.target.base)
        before = {(link.pa, link.level) for link in chain[depth + 1 :]}
        after = {(link.pa, link.level) for link in below}
        self._attach(watched, [link for link in below if (link.pa, link.level) not in before])
        gone = [link for link in chain[depth + 1 :] if (link.pa, link.level) not in after]
        watched.chain = [*chain[:depth], new, *below]
        self._detach(watched, gone)
        old_page, page = watched.page, _page(watched, watched.chain[-1])
        self._set_page(watched, page)
        if old_page is not None and not (self.details and new.value is None):
            self._events.append(PageOut(*_where(watched, old_page)))
        if page is not None:
            self._events.append(PageIn(*_where(watched, page)))

    # ---- details ----

    def state_of(self, watched: Watched) -> MonitorState:
        """What is known of an address."""
        page, last = watched.page, watched.chain[-1]
        if page is not None:
            return MonitorState(True, page.pa, "valid", page.level, page.size)
        return MonitorState(False, None, self._state(watched, last)[0], last.level, None)

    def _state(self, watched: Watched, last: Link) -> tuple[str, tuple[object, ...]]:
        if last.value is None:
            return "unknown", ()
        if last.target is not None:
            return "valid", ()
        if last.value & 1:
            return "bad", ()
        key = watched.view, watched.paging.name
        decode = self._layouts.get(key)
        if decode is None:
            decode = self._layouts[key] = _decoder(self.sources[watched.view], watched.paging.name)
        return decode(last.value, last.level)

    def _summary(self, watched: Watched) -> Summary:
        last, rights = watched.chain[-1], None
        if watched.page is not None:
            values = [(link.value or 0, link.level) for link in watched.chain]
            rights = watched.paging.rights(values, watched.va)
        return Summary(*self._state(watched, last), last, watched.page, rights)

    def _emit_details(self) -> None:
        touched = [(self.watched[key], old) for key, old in self._before.items()]
        for watched, old in sorted(touched, key=lambda pair: pair[0].order):
            self._events.extend(_compare(watched, old, self._summary(watched)))
        self._before.clear()


def _page(watched: Watched, last: Link) -> Page | None:
    """The page at the end of a walk, at the address itself."""
    if last.target is None:
        return None
    size = watched.paging.size(last.level)
    return Page(last.target.base | watched.va & size - 1, last.level, size)


def _where(watched: Watched, page: Page) -> tuple[int, int, int, int, Hashable, int, int]:
    return watched.view, watched.va, watched.root, page.pa, watched.tag, page.level, page.size


def _decoder(source: Source, paging: str) -> Callable[[int, int], tuple[str, tuple[object, ...]]]:
    """What Windows means by an entry that is not valid."""
    layout, mask = source.layout(paging)

    def decode(value: int, level: int) -> tuple[str, tuple[object, ...]]:
        found = decode_entry(value, level, paging, layout, mask)
        if found.kind == "pagefile":
            return found.kind, (found.fields["PageFileLow"], found.fields["PageFileHigh"])
        return found.kind, tuple(place for place in (found.pfn, found.address) if place is not None)

    return decode


def _compare(watched: Watched, old: Summary, new: Summary) -> list[Event]:
    """The events of details for one address."""
    view, va, root, tag = watched.view, watched.va, watched.root, watched.tag
    if new.state == "unknown":
        if old.state == "unknown":
            return []
        old_pa = old.page.pa if old.page is not None else None
        return [Unknown(view, va, root, new.last.pa, tag, new.last.level, old.state, old_pa)]
    if (old.state, old.where) != (new.state, new.where):
        levels = old.last.level, new.last.level
        entries = old.last.value, new.last.value
        return [StateChanged(view, va, root, tag, old.state, new.state, *levels, *entries)]
    if new.page is None or new.page != old.page or old.rights is None or new.rights in (None, old.rights):
        return []
    return [ProtectionChanged(*_where(watched, new.page), old.rights, new.rights or "")]
