"""Writing to memory without changing the dump: an overlay keeps the frames that differ.

    with dump.overlay() as ov:
        ov.reader().write_u64(va, 0)
        print(list(ov.diff()))
        ov.save_as("patched.dmp")

SPDX-License-Identifier: MIT
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from heapq import merge
from operator import index
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple, Self, SupportsIndex, cast

from kdmp._kdmp import AccessContext, OverlayBase
from kdmp.reader import Reader

if TYPE_CHECKING:
    from kdmp._kdmp import Address
    from kdmp.convert import ConversionReport
    from kdmp.dump import Dump
    from kdmp.watches import Watch, Watches

_PAGE = 0x1000


class Change(NamedTuple):
    """Bytes that differ from the dump's: frame `pfn`, `offset` in it, `old` and `new` content.

    `old` is None for a frame that the dump does not have; `new` is the whole frame then.
    """

    pfn: int
    offset: int
    old: bytes | None
    new: bytes

    def __repr__(self) -> str:
        was = "" if self.old is None else f", was {self.old[:16].hex(' ')}"
        return (
            f"<Change {self.pfn << 12 | self.offset:#x}: {len(self.new)} bytes {self.new[:16].hex(' ')}{was}>"
        )


class Overlay(OverlayBase):
    """Writes over a dump, which itself never changes. Get it from `Dump.overlay()`.

    An overlay is a view of the dump: `phys` and `reader()` give readers that see and make its writes, with
    everything a Reader can do; page tables that are written count from the next read on. A frame is copied
    when it is first written. `len()` counts the frames that are not the dump's, `frames()` lists them. Frames
    that the dump does not have cannot be written, but created.

    The facts of the dump (header, symbols, `dump.windows`) are those of the dump as it is.

    One thread at a time should use an overlay and its readers: what others read meanwhile may be half
    written. Any number may read the dump and other overlays. Without a GIL this is a must.

    As a context manager it is destroyed at the end: its changes are forgotten. Raises UnsupportedDumpError
    for a triage dump, which has no frames, and for an encrypted one.
    """

    def __init__(self, dump: "Dump", name: str | None = None) -> None:
        _ = dump.phys  # raises if there are no frames
        super().__init__(dump)
        self._name = name
        self._next = 0
        self._watches: Watches | None = None
        self._view = dump.views._add(self, name)

    def __repr__(self) -> str:
        name = f" {self._name!r}" if self._name is not None else ""
        return f"<kdmp.Overlay {self._view}{name} {len(self)} frames changed>"

    def __bool__(self) -> bool:
        return True

    def __reduce__(self) -> Any:
        raise TypeError("an overlay cannot be pickled: save_as() writes it to a file")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.owner.views._remove(self)
        if not self.owner.closed and self.owner.lost is None:
            self.reset()

    @property
    def owner(self) -> "Dump":
        """The dump under the overlay, as `dump`."""
        return cast("Dump", self.dump)

    @property
    def view(self) -> int:
        """The number of this view in `Dump.views`."""
        return self._view

    @property
    def name(self) -> str | None:
        """The name of this view, None if it has none."""
        return self._name

    # ---- readers ----

    @cached_property
    def phys(self) -> Reader:
        """Physical memory with the changes, as a Reader."""
        return Reader(self.dump, paging="physical", overlay=self)

    @cached_property
    def _virtual(self) -> Reader:
        return self.reader()

    def reader(
        self,
        dtb: SupportsIndex | None = None,
        paging: str | None = None,
        *,
        invalid_pte_mask: SupportsIndex | None = None,
        zero_fill: bool = False,
        discover: bool = True,
        translation_cache: SupportsIndex = 8192,
    ) -> Reader:
        """Return a Reader for one address space of this view; arguments as of `Dump.reader`."""
        return self.owner.reader(
            dtb, paging, invalid_pte_mask=invalid_pte_mask, zero_fill=zero_fill, discover=discover,
            translation_cache=translation_cache, view=self,
        )  # fmt: skip

    # ---- writing ----

    def _reader_of(self, address: "Address") -> Reader:
        if isinstance(address, AccessContext) and not address.physical:
            return self._virtual
        return self.phys

    def write(self, address: "Address", data: Any) -> None:
        """Write bytes: at a physical address, or where an AccessContext says.

        A virtual one without a root is that of the dump's own space. As `Reader.write`: all or nothing, and
        UnreadableError if a page is not there.
        """
        self._reader_of(address).write(address, data)

    def write_u8(self, address: "Address", value: SupportsIndex) -> None:
        """Write a byte; addresses as of `write`, OverflowError if it does not fit."""
        self._reader_of(address).write_u8(address, value)

    def write_u16(self, address: "Address", value: SupportsIndex) -> None:
        """Write a 16-bit number, little-endian; as `write_u8`."""
        self._reader_of(address).write_u16(address, value)

    def write_u32(self, address: "Address", value: SupportsIndex) -> None:
        """Write a 32-bit number, little-endian; as `write_u8`."""
        self._reader_of(address).write_u32(address, value)

    def write_u64(self, address: "Address", value: SupportsIndex) -> None:
        """Write a 64-bit number, little-endian; as `write_u8`."""
        self._reader_of(address).write_u64(address, value)

    def write_struct(self, address: "Address", value: Any, spec: Any = None) -> None:
        """Write a structure; addresses as of `write`, values as of `Reader.write_struct`."""
        self._reader_of(address).write_struct(address, value, spec)

    # ---- frames ----

    @property
    def dirty_frames(self) -> list[int]:
        """The numbers of the frames that are not the dump's: written, created or remapped; ascending."""
        return [pfn for pfn, _, _ in self.frames()]

    def has_frame(self, pfn: SupportsIndex) -> bool:
        """Return whether a frame can be read in this view."""
        number = index(pfn)
        return 0 <= number < 1 << 52 and self.phys.is_readable(number << 12)

    def runs(self) -> Iterator[tuple[int, int]]:
        """Iterate over the frames that there are, as ascending (pfn, count) that do not touch."""
        made_up = [(pfn, 1) for pfn, _, synthetic in self.frames() if synthetic]
        first = count = 0
        for pfn, more in merge(((run.pfn, run.count) for run in self.dump.pages.runs()), made_up):
            if count and pfn == first + count:
                count += more
                continue
            if count:
                yield first, count
            first, count = pfn, more
        if count:
            yield first, count

    def create_frame(self, pfn: SupportsIndex | None = None) -> int:
        """Make up a frame of zeros and return its number: `pfn`, or the first free one above the dump's.

        ValueError if the frame exists. The dump may lack it for whatever reason.
        """
        if pfn is not None:
            number = index(pfn)
            self.create(number)
            return number
        number = max(self._next, self.dump.figures["pfn_end"])
        while self.frame(number) is not None:
            number += 1
        self.create(number)
        self._next = number + 1
        return number

    def create(self, pfn: SupportsIndex, /) -> None:
        """Make up a frame of zeros; ValueError if the frame exists."""
        super().create(pfn)
        self._moved()

    def free_frame(self, pfn: SupportsIndex) -> None:
        """Take back a frame that was made up; ValueError if it was not, or if a remapped frame shows it."""
        known = self.frame(pfn)
        if known is None or not known[2] or known[1] is not None:
            raise ValueError(f"frame {index(pfn):#x} was not made up")
        self.revert_frame(pfn)

    def remap(self, pfn: SupportsIndex, target: SupportsIndex, /) -> None:
        """Let frame `pfn` show the content of frame `target`; writes to it go there.

        ValueError if `pfn` has been written or made up, or if this would make a chain;
        UnreadableError if there is no frame `target`.
        """
        super().remap(pfn, target)
        self._moved()

    def unmap(self, pfn: SupportsIndex) -> bool:
        """End a `remap`; return whether there was one."""
        known = self.frame(pfn)
        return known is not None and known[1] is not None and self.revert_frame(pfn)

    # ---- going back ----

    def diff(self) -> Iterator[Change]:
        """Iterate over the bytes that differ from the dump's, ascending, as Change.

        Each is as long as it can be within its frame. A remapped frame differs where what it shows does.
        """
        original = self.owner.phys
        for pfn, _, _ in self.frames():
            new = self.phys.try_read_exact(pfn << 12, _PAGE)
            if new is not None:  # None: taken back since
                yield from _changes(pfn, original.try_read_exact(pfn << 12, _PAGE), new)

    def revert_frame(self, pfn: SupportsIndex, /) -> bool:
        """Make a frame the dump's again; return whether it was not.

        ValueError for a made-up frame that a remapped one shows.
        """
        changed = super().revert_frame(pfn)
        self._moved()
        return changed

    def revert(self, pfns: SupportsIndex | Iterable[SupportsIndex] | None = None) -> int:
        """Make these frames, or all, the dump's again; return how many were not.

        Unlike `reset` this is a change like others, that snapshots can undo.
        """
        if pfns is None:
            chosen = set(self.dirty_frames)
        elif isinstance(pfns, Iterable):
            chosen = {index(pfn) for pfn in pfns}
        else:
            chosen = {index(pfns)}
        remapped = {pfn for pfn, _, _ in self.remaps()}
        # Those first: what they show may be made up.
        return sum(self.revert_frame(pfn) for pfn in (*(chosen & remapped), *(chosen - remapped)))

    def restore(self, snapshot: SupportsIndex, /) -> int:
        """Go back to a snapshot, which stays; return how many frames that changed.

        Snapshots taken after it are gone; ValueError for one that is gone. Costs what was
        written since, not what the overlay holds.
        """
        changed = super().restore(snapshot)
        self._moved()
        return changed

    @contextmanager
    def scratch(self) -> Iterator[Self]:
        """A context in which changes are tried out: at its end they are undone.

        Nothing is undone if the snapshot taken for it is gone then: the overlay was reset, set back to an
        older one, or told to forget it; nor if the dump was closed.
        """
        snapshot = self.snapshot()
        try:
            yield self
        except BaseException:
            with suppress(Exception):  # would hide the one that ended the block
                self._undo(snapshot)
            raise
        self._undo(snapshot)

    def _undo(self, snapshot: int) -> None:
        with suppress(ValueError):  # it is gone, or the dump is closed
            self.restore(snapshot)
            self.forget(snapshot)

    def reset(self) -> None:
        """Forget all changes, all snapshots and all watches."""
        super().reset()
        if self._watches is not None:
            self._watches.clear()
        self._next = 0

    def _moved(self) -> None:
        """Whole frames have changed."""
        self._next = 0
        if self._watches is not None:
            self._watches.forget_places()

    # ---- watches ----

    def watch(
        self,
        start: SupportsIndex,
        size: SupportsIndex | None,
        callback: "Callable[[Overlay, int, int], Any]",
        space: Reader | Literal["physical"] = "physical",
    ) -> "Watch":
        """Have `callback(overlay, address, size)` called after writes to `size` bytes from `start` on.

        Addresses are physical, or virtual ones of the reader `space` (of this view, at most 65536 pages), and
        so is what the callback is given: the part of the range that was written. It is the bytes that are
        watched: writes by other addresses of the same frame count, and a virtual range is followed when page
        tables are written. `size` None means up to the end of the addresses, which in a 32-bit space is at
        4 GiB. ValueError for a range that begins behind it.

        This is software: writes through this overlay are seen, nothing else is, and no reads. Reverting and
        restoring are no writes. The write is done when the callback is called; its exception comes out of the
        write, after the other callbacks were called. A callback is not called for its own writes. Returns a
        Watch, whose `remove` ends it; any number may be on one range. `on_write` belongs to the watches then.
        """
        from kdmp.watches import Watches

        first = index(start)
        reader = space if isinstance(space, Reader) else None
        if reader is None and space != "physical":
            raise ValueError('space must be "physical" or a reader of this overlay')
        if reader is not None and reader.overlay is not self:
            raise ValueError("the reader is of another view")
        if reader is not None and reader.paging == "physical":
            reader = None
        if self._watches is None:
            self._watches = Watches(self)
        end = 1 << 32 if reader is not None and reader.paging in ("x86", "pae") else 1 << 64
        if first >= end:
            raise ValueError(f"{first:#x} is above the last address, {end - 1:#x}")
        count = end - first if size is None else index(size)
        return self._watches.add(first, count, callback, reader)

    @property
    def watches(self) -> "list[Watch]":
        """The watches that there are."""
        return [] if self._watches is None else list(self._watches.all)

    def watches_on(self, pfn: SupportsIndex) -> "list[Watch]":
        """Return the watches on bytes of a frame."""
        return [] if self._watches is None else self._watches.on_frame(index(pfn))

    # ---- saving ----

    def save_as(
        self,
        path: str | os.PathLike[str] | BinaryIO,
        kind: int | str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> "ConversionReport":
        """Write what this view shows as a dump: header, context and exception are the original's.

        `kind` is one that `kdmp.convert.convert` can write; None is the dump's own, or the nearest: a bitmap
        of type 6 for types 2 and 7, a memory image for one. Created frames are in it, remapped ones with what
        they show. Raises what `convert` does.
        """
        from kdmp.convert import convert, own_kind

        return convert(
            self.owner, path, own_kind(self.owner) if kind is None else kind, progress, overlay=self
        )


def _changes(pfn: int, old: bytes | None, new: bytes) -> Iterator[Change]:
    """The runs of bytes that differ; whole words are compared first."""
    if old is None:
        yield Change(pfn, 0, None, new)
        return
    if old == new:
        return
    start = end = 0
    for word, (a, b) in enumerate(zip(memoryview(old).cast("Q"), memoryview(new).cast("Q"), strict=True)):
        if a == b:
            continue
        for at in range(8 * word, 8 * word + 8):
            if old[at] == new[at]:
                continue
            if at != end:
                if end > start:
                    yield Change(pfn, start, old[start:end], new[start:end])
                start = at
            end = at + 1
    yield Change(pfn, start, old[start:end], new[start:end])
