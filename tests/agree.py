"""Comparing kdmp with the reference: one walk, one read, one dump at a time.

SPDX-License-Identifier: MIT
"""

import refreader as ref

import kdmp

STATUS = {
    kdmp.NotPresentError: ref.NOT_PRESENT,
    kdmp.NotInDumpError: ref.NOT_IN_DUMP,
    kdmp.TruncatedError: ref.TRUNCATED,
    kdmp.NonCanonicalError: ref.NON_CANONICAL,
    kdmp.BadEntryError: ref.BAD_ENTRY,
    kdmp.AddressEndError: ref.ADDRESS_END,
}

RIGHTS = (
    "page_size state writable executable user hardware_writable global_ accessed dirty copy_on_write "
    "write_through cache_disable pat nx_ignored unswizzled protection level prototype prototype_value"
).split()


def status(exc):
    """The reference's word for an exception of kdmp."""
    return STATUS[type(exc)]


def entries(evidence):
    """Entries of a Translation or an error as plain tuples."""
    return [(e.level, e.pa, e.value) for e in evidence.entries]


def agree_on_walk(reader, space, va):
    """Assert that kdmp and the reference walk `va` alike; return the reference's Walk."""
    want = space.walk(va)
    try:
        got = reader.translate(va)
    except kdmp.TranslationError as exc:
        assert status(exc) == want.status, (hex(va), exc)
        assert entries(exc) == want.entries, hex(va)
        assert (exc.va, exc.address, exc.paging) == (va, va, reader.paging)
        if want.status == ref.NON_CANONICAL:
            assert (exc.level or 0, exc.entry) == (0, None)
        elif want.status == ref.NOT_IN_DUMP and want.state == "transition":
            assert exc.level == 0, "the page itself is missing, not a table"
        else:
            assert exc.level == want.level, hex(va)
        if want.status in (ref.NOT_PRESENT, ref.BAD_ENTRY):
            assert (exc.state, exc.entry_pa, exc.entry) == (want.state, *want.entries[-1][1:])
            assert (exc.prototype, exc.prototype_value) == (want.prototype, want.prototype_value), hex(va)
            assert (exc.pagefile, exc.pagefile_page) == (want.pagefile, want.pagefile_page), hex(va)
        if want.status in (ref.NOT_IN_DUMP, ref.TRUNCATED):
            assert exc.pa == want.pa, hex(va)
        assert reader.try_translate(va) is None
        return want
    assert want.status == ref.OK, (hex(va), want.status, got)
    assert got.pa == want.pa, hex(va)
    assert entries(got) == want.entries, hex(va)
    for name in RIGHTS:
        assert getattr(got, name) == getattr(want, name), (hex(va), name)
    assert (got.va, got.pfn, got.offset, int(got)) == (va, got.pa >> 12, got.pa % got.page_size, got.pa)
    assert got.transition == (got.state == "transition")
    assert got.paging == reader.paging
    return want


def agree_on_read(reader, space, address, size):
    """Assert that every way to read `size` bytes at `address` gives what the reference gives."""
    want, why = space.read(address, size)
    buffer = bytearray(b"\xcc") * size
    assert reader.read(address, size) == want, (hex(address), size)
    assert reader.read_into(address, buffer) == len(want)
    assert bytes(buffer) == want + b"\xcc" * (size - len(want)), "bytes beyond the hole were touched"
    assert reader.is_readable(address, size) == (why is None)
    if why is None:
        assert reader.read_exact(address, size) == want
        assert reader.try_read_exact(address, size) == want
        return want, why
    assert reader.try_read_exact(address, size) is None
    try:
        reader.read_exact(address, size)
    except kdmp.PartialReadError as exc:
        assert (exc.expected, exc.actual, exc.data) == (size, len(want), want)
        assert exc.address == exc.reason.address == address + len(want)
        assert status(exc.reason) == why
    else:
        raise AssertionError("read_exact() did not notice the hole")
    return want, why


def agree_on_gaps(reader, space, address, size, fill=0):
    """Assert that read_gaps() names the same holes for the same reasons."""
    want, holes = space.read_gaps(address, size, fill)
    got, gaps = reader.read_gaps(address, size, fill)
    assert got == want
    found = [(gap.address, gap.size, status(gap.reason)) for gap in gaps]
    assert all(gap_size > 0 for _, gap_size, _ in found)
    assert ref.merge(found) == ref.merge(holes)
    return want, holes


def agree_on_pages(dump, reference):
    """Assert that the set of frames and their bytes are the same."""
    frames = reference.frames()
    assert len(dump.pages) == len(frames)
    assert list(dump.pages) == frames
    assert dump.truncated == reference.truncated
    for pfn in frames:
        assert pfn in dump.pages
        assert dump.pages[pfn] == reference.page(pfn), hex(pfn)
    for pfn in {0, *(pfn + step for pfn in frames[:64] for step in (-1, 1)), 1 << 40, 1 << 63} - set(frames):
        assert pfn not in dump.pages, hex(pfn)
    runs = [(run.pfn, run.count, run.file_offset) for run in dump.pages.runs()]
    spelled = [(pfn + k, offset + k * ref.PAGE) for pfn, count, offset in runs for k in range(count)]
    assert spelled == [(pfn, reference.offsets[pfn]) for pfn in frames]
