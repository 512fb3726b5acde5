"""Reader.scan(): patterns, pointers and text in memory, against a search byte by byte.

SPDX-License-Identifier: MIT
"""

import io
import random
import threading

import numpy as np
import pytest
import shareddata
from archtables import flat
from conftest import KERNEL_VA
from dumpbuilder import GB1, MB2, PAGE, PROTOTYPE, Memory, P, Tables, W
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_triage import triage

import kdmp
from kdmp._kdmp import Matcher, ReaderBase

BLOCK = 0x10000
PRINTABLE = frozenset([9, *range(0x20, 0x7F)])
LATIN = PRINTABLE | frozenset(range(0xA0, 0x100))


# ---- the oracle ----


def pieces(reader):
    """Readable memory as (address, bytes), each as long as addresses follow each other."""
    out = []
    for one in reader.extents():
        data = reader.read_exact(one.address, one.size)
        if out and out[-1][0] + len(out[-1][1]) == one.address:
            out[-1][1].extend(data)
        else:
            out.append((one.address, bytearray(data)))
    return [(address, bytes(data)) for address, data in out]


def find_pattern(data, value, mask):
    """Offsets of a pattern."""
    array, found = np.frombuffer(data, np.uint8), np.arange(max(len(data) - len(value) + 1, 0))
    for k, (v, m) in enumerate(zip(value, mask, strict=True)):
        found = found[array[found + k] & m == v & m]
        if len(found) < 50:
            break
    value, mask = np.frombuffer(value, np.uint8), np.frombuffer(mask, np.uint8)
    return [int(k) for k in found if (array[k : k + len(value)] & mask == value & mask).all()]


def find_pointers(data, first, last, size):
    return [
        k
        for k in range(len(data) - size + 1)
        if first <= int.from_bytes(data[k : k + size], "little") <= last
    ]


def find_text(data, address, minimum, wide, phase=0):
    """(offset, size) of runs of one kind. Characters of UTF-16 (`wide`) are those whose last byte has an odd
    or even address, as `phase` says."""
    out, start, end = [], 0, 0  # a run from start to before end; none if they are equal
    for k, byte in enumerate(data):
        if wide and (address + k) % 2 != phase:
            continue
        is_char = byte == 0 and k > 0 and data[k - 1] in LATIN if wide else byte in PRINTABLE
        block = address + k - (address + k) % BLOCK
        whole_block = address + start <= block - BLOCK and address + end <= block
        if end > start and (not is_char or whole_block):
            out.append((start, end - start))
            start = end = 0
        if is_char:
            start, end = (start if end > start else k - wide), k + 1
    if end > start:
        out.append((start, end - start))
    return [(at, size) for at, size in out if size >> wide >= minimum]


def expected(memory, *, patterns=(), pointers=(), text=None, alignment=1, start=0, last=2**64 - 1):
    """[(address, size, number)] of all that begins from start to last."""
    found = []
    for address, data in memory:
        for number, (value, mask) in enumerate(patterns):
            found += [(address + k, len(value), number) for k in find_pattern(data, value, mask)]
        for number, (first, end, size) in enumerate(pointers, len(patterns)):
            found += [(address + k, size, number) for k in find_pointers(data, first, end, size)]
        if text is not None:
            minimum, kinds = text
            runs = [(find_text(data, address, minimum, 0), 0)] if kinds & 1 else []
            if kinds & 2:
                runs += [(find_text(data, address, minimum, 1, phase), 1) for phase in (0, 1)]
            found += [(address + at, size, number) for some, number in runs for at, size in some]
    found.sort(key=lambda one: (one[0], one[2]))
    return [one for one in found if start <= one[0] <= last and one[0] % alignment == 0]


def scan(reader, matcher, start=0, last=None, *, limit=4096, budget=1 << 24):
    """All matches by as many calls as it takes, and the bytes looked at."""
    matches, size, at, calls = [], 0, start, 0
    while at is not None:
        found = reader.scan(matcher, at, last, limit=limit, budget=budget)
        assert all(at <= one[0] and (last is None or one[0] <= last) for one in found.matches)
        if found.next is not None:
            assert found.next >= at
            assert found.next > at or not found.matches
            assert all(one[0] < found.next for one in found.matches)
        addresses = [one[0] for one in found.matches]
        assert len(addresses) <= limit or len(set(addresses[limit - 1 :])) == 1
        keys = [(one[0], one[4]) for one in found.matches]
        assert keys == sorted(keys)
        matches += found.matches
        size += found.size
        calls += 1
        assert calls < 100_000
        at = found.next
    return matches, size


def check_places(reader, matches):
    """pa and offset are those of the extent in which a match begins."""
    extents = list(reader.extents())
    starts = np.array([one.address for one in extents], np.uint64)
    for address, pa, offset, size, _ in matches[:300]:
        one = extents[int(np.searchsorted(starts, np.uint64(address), "right")) - 1]
        skip = address - one.address
        assert skip < one.size
        assert pa == (None if one.pa is None else one.pa + skip)
        assert offset == (None if one.offset is None else one.offset + skip)
        assert len(reader.read(address, size)) == size


def check(reader, start=0, last=None, *, limit=4096, budget=1 << 24, memory=None, **what):
    matcher = Matcher(
        [value if set(mask) == {0xFF} else (value, mask) for value, mask in what.get("patterns", ())],
        pointers=what.get("pointers", ()), text=what.get("text"), alignment=what.get("alignment", 1),
    )  # fmt: skip
    matches, size = scan(reader, matcher, start, last, limit=limit, budget=budget)
    end = last if last is not None else 2**64 - 1
    want = expected(memory if memory is not None else pieces(reader), start=start, last=end, **what)
    assert [(one[0], one[3], one[4]) for one in matches] == want
    assert size == sum(one.size for one in reader.extents(start, last))
    check_places(reader, matches)
    return matches


def plain(*values):
    return [(value, b"\xff" * len(value)) for value in values]


# ---- spaces ----


def fill(rng, style, size):
    """Bytes in which what is looked for is frequent, and nearly what is looked for, too."""
    if style == "zeros":
        return bytes(size)
    if style == "periodic":
        unit = rng.randbytes(rng.choice((1, 2, 3, 8)))
        return (unit * (size // len(unit) + 1))[:size]
    if style == "letters":
        return bytes(rng.choices(b"\0aB\x01", k=size))
    if style == "text":
        words = [b"kernel", b"\0", b"A\0b\0\xe9\0d\0", b"\0\0", b"\x81", b"\t", b"~" * 40, b"x\0" * 30]
        return b"".join(rng.choices(words, k=size // 2))[:size]
    return rng.randbytes(size)


STYLES = ("zeros", "periodic", "letters", "text", "random")


def virtual_space(rng, style, pages, holes=0.1, contiguous=0.3, kind=5):
    """A reader of a space of some pages in a row (with holes) whose frames lie anywhere."""
    memory = Memory()
    tables = Tables(memory, spare=0x2000)
    frames = rng.sample(range(0x10, 0x10 + 3 * pages), 2 * pages)
    at, pfn = KERNEL_VA, frames.pop()
    data = fill(rng, style, PAGE * pages)
    for k in range(pages):
        if rng.random() < holes:
            at += PAGE * rng.choice((1, 2, 600))
        pfn = pfn + 1 if rng.random() < contiguous else frames.pop()
        if pfn not in memory.pages:
            memory.page(pfn)[:] = data[k * PAGE : (k + 1) * PAGE]
        tables.map(at, pfn * PAGE)
        at += PAGE
    return kdmp.open(memory.dump(kind=kind)).reader()


def samples(rng, memory, count, longest):
    """Patterns cut out of memory, some damaged, some with wildcards."""
    out = []
    for _ in range(count):
        _, data = rng.choice(memory)
        size = min(rng.choice((1, 2, 3, 4, 6, 7, 8, 9, 17, 40, 70, longest)), longest, len(data))
        at = rng.randrange(len(data) - size + 1)
        value, mask = bytearray(data[at : at + size]), bytearray(b"\xff" * size)
        style = rng.randrange(6)
        if style == 0:
            value[-1] ^= 1
        for k in rng.sample(range(size), size // 3) if style in (1, 2) else ():
            mask[k] = rng.choice((0, 0xF0, 0x0F, 0xDF))
            value[k] ^= rng.randrange(256) & ~mask[k]
        if style == 3:
            mask = bytearray(0xDF if chr(b).isalpha() and b < 128 else 0xFF for b in value)
        if not any(mask):
            mask[0] = 1
        out.append((bytes(value), bytes(mask)))
    return out


# ---- patterns ----


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seed", range(2))
def test_patterns(style, seed):
    """One, some and many patterns of any kind, from any place to any place, in small and large steps."""
    rng = random.Random(f"{style} {seed}")
    reader = virtual_space(rng, style, 8)
    memory = pieces(reader)
    first, last = memory[0][0], memory[-1][0] + len(memory[-1][1])
    for count in (1, 1, 2, 9, 30):
        patterns = samples(rng, memory, count, rng.choice((9, 70, 5000)))
        if style in ("zeros", "periodic"):  # everything is found everywhere
            patterns = patterns[:3]
        bounds = {}
        if rng.random() < 0.6:
            low, high = sorted(rng.randrange(first - 9, last + 9) for _ in range(2))
            bounds = {"start": low, "last": high}
        check(
            reader, **bounds, patterns=patterns, memory=memory, alignment=rng.choice((1, 1, 2, 3, 16, PAGE)),
            limit=rng.choice((500, 4096, 100_000)), budget=rng.choice((3000, 20_000, 1 << 20)),
        )  # fmt: skip


@given(st.data())
@settings(max_examples=15)
def test_any_small_search(data):
    """Little memory of few letters, any patterns of them, any steps."""
    letters = st.sampled_from(b"\0\0ab")
    rng = random.Random(data.draw(st.integers(0, 1000)))
    memory = Memory()
    tables = Tables(memory, spare=0x100)
    text = bytes(data.draw(st.lists(letters, min_size=20, max_size=200)))
    for k, frame in enumerate(data.draw(st.lists(st.integers(0x20, 0x26), min_size=1, max_size=5))):
        at = data.draw(st.integers(0, PAGE - len(text)))
        page = memory.page(frame)
        page[at : at + len(text)] = text
        page[-40:] = page[:40] = bytes(rng.choices(b"\0ab", k=40))
        tables.map(KERNEL_VA + (k + k // 3) * PAGE, frame * PAGE)
    reader = kdmp.open(memory.dump()).reader()
    values = data.draw(
        st.lists(
            st.tuples(st.lists(letters, min_size=1, max_size=12), st.integers(0, 2**12)),
            min_size=1,
            max_size=12,
        )
    )
    patterns = []
    for value, wild in values:
        mask = bytes(0 if wild >> k & 1 and len(value) > 1 else 0xFF for k in range(len(value)))
        patterns.append((bytes(value), mask if any(mask) else b"\xff" * len(value)))
    check(reader, patterns=patterns, limit=data.draw(st.integers(20, 5000)), memory=pieces(reader))


@pytest.mark.parametrize("size", [1, 2, 8, 33, 600, 3000, 9000])
@pytest.mark.parametrize("many", [False, True])
def test_boundaries(size, many):
    """A pattern at every place around the edges of pages, stretches, holes and what is searched at once."""
    rng = random.Random(size)
    value = bytes(rng.choices(range(1, 256), k=size))
    others = plain(*(rng.randbytes(12) for _ in range(8))) if many else []
    memory = Memory()
    tables = Tables(memory, spare=0x200)
    frames = [0x20, 0x21, 0x22, 0x30, 0x40, 0x50, 0x41, 0x60, 0x61]
    for k, pfn in enumerate(frames):
        memory.page(pfn)
        tables.map(KERNEL_VA + (k + (k > 6)) * PAGE, pfn * PAGE)
    reader = kdmp.open(memory.dump()).overlay().reader(0x1000, "x64")
    places = {0, 8 * PAGE - size, 9 * PAGE - size - 1, 10 * PAGE - size}
    for edge in (PAGE, 3 * PAGE, 4 * PAGE, 7 * PAGE):
        places |= {edge - size + d for d in (-1, 0, 1)} | {edge + d for d in (-1, 0, 1)}
        places |= {edge - rng.randrange(size) for _ in range(4)}
    for place in sorted(places):
        at = KERNEL_VA + place
        if place < 0 or not reader.is_readable(at, size):
            continue
        reader.write(at, value)
        for start, last in ((0, None), (at, at), (at + 1, None), (0, at - 1), (at - 5, at + 5)):
            matcher = Matcher([one[0] for one in others] + [value])
            for limit, budget in ((4096, 1 << 24), (1, 1)):
                found, _ = scan(reader, matcher, start, last, limit=limit, budget=budget)
                want = [at] if start <= at <= (last if last is not None else at) else []
                assert [one[0] for one in found if one[4] == len(others) and one[0] == at] == want
        reader.write(at, bytes(size))


def test_long_patterns():
    """64 KiB over sixteen pages that lie anywhere, and the same with wildcards."""
    rng = random.Random(5)
    reader = virtual_space(rng, "letters", 60, holes=0)
    memory = pieces(reader)
    data = memory[0][1]
    values = [data[k : k + 65536] for k in (0, 1, 100_000, len(data) - 65536)]
    masked = [(values[2], bytes(rng.choices((0, 0xFF), k=65535)) + b"\xff")]
    found = check(reader, patterns=[*plain(*values), *masked], memory=memory)
    assert len(found) == 5
    with pytest.raises(ValueError, match="65537"):
        Matcher([bytes(65537)])


@pytest.mark.parametrize("size", [1, 16, 64, 65, 4096, 65536])
def test_periodic_memory(size):
    """Zeros among zeros, and needles that nearly fit everywhere: no more than some work for each byte."""
    rng = random.Random(size)
    reader = virtual_space(rng, "zeros", 300, holes=0, contiguous=0.99)
    memory = pieces(reader)
    total = len(memory[0][1])
    matches, looked = scan(reader, Matcher([bytes(size)], alignment=64), limit=100_000)
    assert [one[0] for one in matches] == [
        a for a in range(KERNEL_VA, KERNEL_VA + total - size + 1) if a % 64 == 0
    ]
    assert looked == total + sum(len(data) for _, data in memory[1:])
    if size > 1:
        for value in (bytes(size - 1) + b"\1", b"\1" + bytes(size - 1), bytes(size // 2).ljust(size, b"\1")):
            assert scan(reader, Matcher([value]))[0] == []
    some = [one[0] for one in reader.scan(Matcher([bytes(size)]), limit=1000).matches]
    assert 500 <= len(some) <= 1000
    assert some == list(range(KERNEL_VA, KERNEL_VA + len(some)))


def test_runs_that_nearly_fit():
    """A long run of one byte that ends again and again, where the search has lost its patience."""
    memory = Memory()
    content = ((b"a" * 200 + b"b") * 3000)[: 100 * PAGE]
    for k in range(100):
        memory.page(0x20 + k)[:] = content[k * PAGE : (k + 1) * PAGE]
    reader = kdmp.open(memory.dump()).phys
    for length in (150, 200, 201):
        needle = b"a" * length
        matches, _ = scan(reader, Matcher([needle]), 0x20000, limit=1 << 20)
        want = [0x20000 + k for k in range(len(content)) if content.startswith(needle, k)]
        assert [one[0] for one in matches] == want
        assert bool(want) == (length < 201)


def test_a_page_before_tables_with_nothing():
    """What is found is not forgotten where a call ends in empty tables."""
    memory = Memory()
    memory.page(0x20)[100:106] = b"needle"
    memory.page(0x100)  # an empty page table, for 9 GiB
    memory.put_u64(0x1000, 0x2067)
    for k in range(9):
        memory.put_u64(0x2000 + 8 * k, 0x3000 + k * PAGE | 0x67)
        for index in range(512):
            memory.put_u64(0x3000 + k * PAGE + 8 * index, 0x100067 if (k, index) != (0, 0) else 0x101067)
    memory.put_u64(0x101000 + 8 * 7, 0x20067)
    memory.fill(*range(0x200, 0x400))  # the more memory, the more tables are believed
    reader = kdmp.open(memory.dump()).reader()
    matches, size = scan(reader, Matcher([b"needle"]), 0)
    assert [one[0] for one in matches] == [0x7064]
    assert size == PAGE
    assert [tuple(one)[:2] for one in reader.extents()] == [(0x7000, 0x20000)]


def test_many_patterns_that_nearly_fit_take_bounded_steps():
    """Zeros, and patterns of zeros that differ where they are compared last: a call ends early."""
    memory = Memory()
    for pfn in range(0x20, 0x38):
        memory.page(pfn)[:] = bytes([2 if pfn < 0x30 else 0]) * PAGE
    reader = kdmp.open(memory.dump()).phys
    size = 4096
    mask = bytearray(b"\xff" * size)
    mask[-1] = 0xFE
    patterns = [(bytes(size - 1) + b"\2", bytes(mask))] * 500
    found = reader.scan(Matcher(patterns), 0x20000)
    assert not found.matches
    assert found.size <= 0x10000 + 512  # not a whole block of 16 KiB of them
    memory.page(0x37)[-1] = 3
    reader = kdmp.open(memory.dump()).phys
    matches, _ = scan(reader, Matcher(patterns[:40]), 0x36000)
    assert [one[0] for one in matches if one[4] == 39] == [0x37000]


def test_many_patterns():
    """A thousand of them, of every length, some found often."""
    rng = random.Random(1)
    reader = virtual_space(rng, "random", 30)
    memory = pieces(reader)
    absent = plain(*(rng.randbytes(rng.choice((4, 8, 12))) for _ in range(700)))
    patterns = samples(rng, memory, 300, 40) + absent
    check(reader, patterns=patterns, memory=memory)
    same = plain(*[memory[0][1][100:110]] * 40)
    found = check(reader, patterns=same, memory=memory, limit=3)
    assert [one[4] for one in found][:40] == list(range(40))


def test_ignoring_case():
    memory = Memory()
    words = [b"NtCreateFile", b"ZwClose", b"KeBugCheckEx", b"lsass.exe", b"MZ"]
    memory.put(0x5000, b" ".join(words) + b"@[`{" + b" ".join(words).swapcase())
    memory.put(0x5FFA, b"lsAsS.eXe")
    memory.page(6)
    reader = kdmp.open(memory.dump()).phys
    patterns = [(w, bytes(0xDF if chr(b).isalpha() else 0xFF for b in w)) for w in words]
    wide = [(w.decode().encode("utf-16-le"), b"".join(bytes([m, 255]) for m in mask)) for w, mask in patterns]
    found = check(reader, patterns=patterns + wide)
    assert len(found) >= 11


# ---- pointers ----


@pytest.mark.parametrize("seed", range(4))
def test_pointers(seed):
    rng = random.Random(seed)
    reader = virtual_space(rng, "random", 6)
    memory = pieces(reader)
    edges = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
    for alignment in (1, 2, 3, 4, 8, 24):
        pointers = []
        for size in (4, 8, 8):
            value = [rng.choice((*edges, rng.getrandbits(64))) % 2 ** (8 * size) for _ in range(2)]
            pointers.append((*sorted(value), size))
        at = rng.randrange(PAGE)
        exact = int.from_bytes(memory[0][1][at : at + 8], "little")
        pointers.append((exact, exact, 8))
        patterns = samples(rng, memory, 2, 8)
        check(
            reader, patterns=patterns, pointers=pointers, alignment=alignment, memory=memory,
            limit=rng.choice((5, 4096, 100_000)), start=rng.choice((0, KERNEL_VA + 5)),
        )  # fmt: skip


# ---- text ----


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kinds", [1, 2, 3])
def test_text(style, kinds):
    rng = random.Random(f"{style} {kinds}")
    reader = virtual_space(rng, style, 12)
    memory = pieces(reader)
    first, last = memory[0][0], memory[-1][0] + len(memory[-1][1])
    for minimum in (2, 3, 5, 8, 33, 64, 65, 200):
        bounds = {}
        if rng.random() < 0.7:
            low, high = sorted(rng.randrange(first - 9, last + 9) for _ in range(2))
            bounds = {"start": low, "last": high}
        check(
            reader, **bounds, text=(minimum, kinds), memory=memory, alignment=rng.choice((1, 1, 2, 4)),
            limit=rng.choice((1, 3, 9, 4096)), budget=rng.choice((1, 5000, 1 << 20)),
        )  # fmt: skip


@given(st.lists(st.sampled_from([0, 0, 65, 65, 0x7E, 0x7F, 0xA0, 0x80, 9]), min_size=1, max_size=150),
       st.integers(2, 7), st.integers(0, 130), st.integers(1, 12))  # fmt: skip
@example([65] * 100, 2, 63, 1)
@settings(max_examples=150)
def test_any_little_text(values, minimum, at, limit):
    data = bytes(values)
    reader = kdmp.open(triage([(0x1000 + at, data), (0x1000 + at + len(data), b"Ab\0c\0d\0")])).reader()
    memory = pieces(reader)
    check(reader, text=(minimum, 3), memory=memory, limit=limit)
    middle = 0x1000 + at + len(data) // 2
    check(reader, middle, middle + 9, text=(minimum, 3), memory=memory, limit=limit)


@pytest.mark.parametrize("unit", [b"x", b"y\0"])
@pytest.mark.parametrize("skew", [0, 1, 7])
def test_long_text(unit, skew):
    """Runs of hundreds of KiB are cut, wherever the search begins or ends."""
    memory = Memory()
    base = 0x10_0000
    data = bytearray(7 * BLOCK)
    for at, size in ((5, 3 * BLOCK + 77), (4 * BLOCK - 20, 40), (5 * BLOCK, BLOCK + 3), (6 * BLOCK + 9, 100)):
        data[at + skew : at + skew + size] = (unit * size)[:size]
    for k in range(0, len(data), PAGE):
        memory.page((base + k) >> 12)[:] = data[k : k + PAGE]
    reader = kdmp.open(memory.dump()).phys
    whole = pieces(reader)
    found = check(reader, text=(4, 3), memory=whole)
    assert {one[3] for one in found} > {BLOCK}
    rng = random.Random(skew)
    wide = len(unit) - 1
    everything = [(one[0], one[3], one[4]) for one in found]
    for _ in range(60):
        start, last = sorted(base + rng.choice((0, 5, BLOCK, 2 * BLOCK, 3 * BLOCK, 4 * BLOCK, 5 * BLOCK))
                             + rng.randrange(-3, 80) for _ in range(2))  # fmt: skip
        got, size = scan(
            reader, Matcher(text=(4, 3)), start, last,
            limit=rng.choice((1, 50)), budget=rng.choice((1, 1 << 20)),
        )  # fmt: skip
        assert [(one[0], one[3], one[4]) for one in got] == [
            one for one in everything if start <= one[0] <= last
        ], (hex(start), hex(last), wide)
        assert size == sum(one.size for one in reader.extents(start, last))


# ---- other memory ----


def test_machines():
    """Physical and virtual memory of a whole machine, against bytes.find."""
    with kdmp.open(shareddata.machine_dump("win10-19041", "bitmap")) as dump:
        for reader in (dump.phys, dump.reader()):
            memory = pieces(reader)
            for value in (b"MZ\x90\0", b"This program cannot", "ntoskrnl.exe".encode("utf-16-le"), b"Proc"):
                want = []
                for address, data in memory:
                    at = data.find(value)
                    while at >= 0:
                        want.append(address + at)
                        at = data.find(value, at + 1)
                assert [one[0] for one in scan(reader, Matcher([value]))[0]] == want
            check(reader, text=(6, 3), memory=memory[:2], last=memory[1][0] + len(memory[1][1]) - 1)


def test_streams_files_and_raw_images(tmp_path):
    rng = random.Random(3)
    memory = Memory()
    tables = Tables(memory, spare=0x400)
    for k, pfn in enumerate(rng.sample(range(0x20, 0x3A0), 30)):
        memory.page(pfn)[:] = fill(rng, "letters", PAGE)
        tables.map(KERNEL_VA + k * PAGE, pfn * PAGE)
    image = memory.dump(kind=5)
    path = tmp_path / "image.dmp"
    path.write_bytes(image)
    whole = pieces(kdmp.open(image).reader())
    patterns = samples(rng, whole, 3, 9000)
    for source, options in ((path, {"io": "read"}), (path, {"io": "map"}), (io.BytesIO(image), {})):
        with kdmp.open(source, **options) as opened:
            for reader in (opened.reader(), opened.phys):
                for budget in (1 << 24, 3000):
                    check(reader, patterns=patterns, budget=budget, limit=100_000)
                    check(reader, text=(9, 3), budget=budget)
    with kdmp.open_raw(flat(memory), arch="x64", dtb=0x1000) as raw:
        check(raw.reader(), patterns=patterns, limit=100_000)


def test_triage_dumps():
    """Stretches of single bytes, and patterns over many of them."""
    rng = random.Random(4)
    blocks, at = [], 0x1000
    for _ in range(200):
        at += rng.choice((0, 0, 0, 1, 60000))
        blocks.append((at, bytes(rng.choices(b"abc\0", k=rng.choice((1, 2, 3, 50, 700))))))
        at += len(blocks[-1][1])
    reader = kdmp.open(triage(data_blocks=blocks)).reader()
    memory = pieces(reader)
    for count in (1, 20):
        for limit, budget in ((4096, 1 << 20), (2, 1)):
            patterns = samples(rng, memory, count, 300)
            check(reader, patterns=patterns, memory=memory, limit=limit, budget=budget)
    check(reader, text=(3, 3), memory=memory)
    check(reader, pointers=[(0x61616161, 0x62626262, 4)], memory=memory)
    assert all(one[1] is None for one in scan(reader, Matcher([b"a"]))[0])


def test_overlays():
    rng = random.Random(6)
    memory = Memory()
    tables = Tables(memory, spare=0x100)
    for k in range(20):
        memory.page(0x20 + k)[:] = fill(rng, "letters", PAGE)
        tables.map(KERNEL_VA + k * PAGE, (0x20 + k) * PAGE)
    tables.map(KERNEL_VA + 20 * PAGE, 0x90000)
    for source in (memory.dump(), io.BytesIO(memory.dump())):
        overlay = kdmp.Dump(source).overlay()
        reader = overlay.reader(0x1000, "x64")
        reader.write(KERNEL_VA + 3 * PAGE - 4, b"over the edge")
        overlay.create(0x90)
        overlay.remap(0x25, 0x31)
        matches = check(reader, patterns=plain(b"over the edge", b"\0a"), limit=100_000)
        assert matches[0][:1] != ()
        found = [one for one in matches if one[4] == 0]
        assert [(one[0], one[1], one[2]) for one in found] == [(KERNEL_VA + 3 * PAGE - 4, 0x22FFC, None)]
        check(overlay.phys, patterns=plain(b"over the edge", b"a\0\0"), limit=100_000)
        check(reader, text=(4, 3))


def test_large_pages_and_the_ends_of_a_space():
    memory = Memory()
    tables = Tables(memory)
    for pfn in range(0x200, 0x210):
        memory.page(pfn)[:] = b"needle".ljust(PAGE, b"\0")
    memory.page(0x3F)[-6:] = b"needle"
    memory.page(0x40)[:6] = b"needle"
    tables.map(4 * MB2, MB2, size=MB2)
    tables.map(GB1, 0x40000)
    tables.map(2**64 - PAGE, 0x3F000)
    tables.map(0, 0x40000)
    reader = kdmp.open(memory.dump()).reader(paging="x64")
    for budget in (1, 1 << 20):
        for limit in (1, 100):
            found = check(reader, patterns=plain(b"needle"), budget=budget, limit=limit)
    assert (found[0][0], found[-1][0]) == (0, 2**64 - 6)
    assert len(found) == 19
    last = check(reader, 2**64 - 1, patterns=plain(b"e"))
    assert [one[0] for one in last] == [2**64 - 1]
    check(reader, text=(4, 3), limit=1, budget=1)


@pytest.mark.parametrize("tail", [b"", b"\1"])
def test_text_up_to_the_last_address(tail):
    """The room for results ends in the last word of the space."""
    memory = Memory()
    tables = Tables(memory)
    text = b"\1".join(b"text%d" % k for k in range(9)) + tail
    memory.page(0x3F)[:] = text.rjust(PAGE, b"\1")
    tables.map(2**64 - PAGE, 0x3F000)
    reader = kdmp.open(memory.dump()).reader(paging="x64")
    for limit in (1, 4, 8, 9):
        for start in (0, 2**64 - 40):
            check(reader, start, text=(4, 3), limit=limit)
    assert len(list(reader.strings(limit=8))) == 8


def test_pages_that_only_vads_know():
    """As for reads: the views are asked for when an entry refers to them."""
    import struct

    memory = Memory()
    tables = Tables(memory)
    memory.put(0x70100, b"shared needle")
    tables.map(KERNEL_VA, 0x60000)
    memory.put_u64(0x60000, 0x70000 | P | W)
    tables.raw(0x5000, PROTOTYPE | 0xFFFF_FFFF << 32)

    class Viewed(ReaderBase):
        asked = 0

        def _load_views(self):
            Viewed.asked += 1
            return struct.pack("<QQQ", 0x5000, 0x6000, KERNEL_VA)

    for what in ({"patterns": [b"shared needle"]}, {"text": (9, 1)}):
        reader = Viewed(kdmp.Dump(memory.dump()), paging="x64", dtb=0x1000)
        found = reader.scan(Matcher(**what), 0, 2**47)
        assert [one[:2] for one in found.matches] == [(0x5100, 0x70100)]
        assert Viewed.asked in (1, 2)


# ---- the calls ----


def test_matchers():
    patterns = [b"abc", (b"abcd", b"\xff\0\xff\xff"), bytearray(b"x")]
    matcher = Matcher(patterns, pointers=[(1, 2, 8)], alignment=4)
    assert (len(matcher), matcher.longest, matcher.alignment) == (4, 8, 4)
    assert repr(matcher) == "<kdmp._kdmp.Matcher of 4, longest 8 bytes>"
    assert len(Matcher(text=(5, 1))) == 2
    for wrong in ([], [b""], [(b"ab", b"\0\0")], [(b"ab", b"\1")], [b"a"] * 65537, [bytes(65536)] * 257):
        with pytest.raises(ValueError):
            Matcher(wrong)
    for wrong in (["text"], "text", b"abc", 5, [(b"a",)], [(b"a", b"\1", b"\1")], [(b"a", 5)]):
        with pytest.raises(TypeError):
            Matcher(wrong)
    for wrong in ([(2, 1, 8)], [(1, 2, 3)], [(0, 2**32, 4)], [(1, 2, 8)] * 65, []):
        with pytest.raises(ValueError):
            Matcher(pointers=wrong)
    for wrong in (5, [5], [(1, 2)], [("1", 2, 8)]):
        with pytest.raises(TypeError):
            Matcher(pointers=wrong)
    with pytest.raises(OverflowError):
        Matcher(pointers=[(-1, 2, 8)])
    for wrong in ((0, 1), (1, 1), (65537, 1), (5, 0), (5, 4), (2, 2**40)):
        with pytest.raises(ValueError):
            Matcher(text=wrong)
    for wrong in ((5,), 5, ("a", 1)):
        with pytest.raises(TypeError):
            Matcher(text=wrong)
    with pytest.raises(ValueError, match="separately"):
        Matcher([b"a"], text=(5, 1))
    for alignment in (0, 2**20 + 1):
        with pytest.raises(ValueError, match="alignment"):
            Matcher([b"a"], alignment=alignment)
    with pytest.raises(TypeError):
        Matcher([b"a"], alignment="1")
    with pytest.raises(TypeError):
        Matcher(needles=[b"a"])


def test_arguments_of_scan(small_image):
    dump = kdmp.open(small_image)
    reader, matcher = dump.reader(), Matcher([b"hello"])
    found = reader.scan(matcher)
    assert [one[0] for one in found.matches] == [KERNEL_VA + 0x100]
    assert found == (found.matches, None, 0x2000, found.tables)
    assert found.tables == 4
    assert repr(found).startswith("Scanned(matches=[(")
    assert reader.scan(matcher, last=5) == ([], None, 0, 1)
    for wrong, error in (
        ((matcher, 5, 4), ValueError), ((b"hello",), TypeError), ((), TypeError),
        ((matcher, -1), OverflowError), ((matcher, "a"), TypeError), ((matcher, 0, 2**64), OverflowError),
        ((matcher, 0, 5, 1), TypeError),
    ):  # fmt: skip
        with pytest.raises(error):
            reader.scan(*wrong)
    for options in ({"limit": 0}, {"budget": 0}, {"limit": -1}):
        with pytest.raises(ValueError):
            reader.scan(matcher, **options)
    dump.close()
    with pytest.raises(ValueError):
        reader.scan(matcher)


def test_hostile_tables(instrumented):
    """Pages without an end: each call ends."""
    memory = Memory()
    for index in range(512):
        memory.put_u64(0x1000 + 8 * index, 0x1067)
    reader = kdmp.open(memory.dump()).reader()
    at, tables = 0, 0
    for _ in range(4):
        found = reader.scan(Matcher([b"not there at all"]), at)
        assert found.next > at
        assert found.size >= 1 << 24 and found.tables < 100
        at = found.next
    nothing = Memory()
    for level in (1, 2, 3, 4):
        for index in range(512):
            nothing.put_u64(level * PAGE + 8 * index, (level + 1) * PAGE | 0x67 if level < 4 else 0x99067)
    reader = kdmp.open(nothing.dump()).reader()
    with pytest.raises(kdmp.KdmpError, match="without an end"):
        while True:
            found = reader.scan(Matcher([b"x"]), at)
            at, tables = found.next, tables + found.tables
            assert tables < 1 << 20


@pytest.mark.parametrize("what", [{"patterns": [b"not there at all"]}, {"text": (4, 3)}])
def test_nothing_for_long_around_the_last_address(what):
    """A call that goes on behind `last` and gives up there has come to the end."""
    memory = Memory()
    for level in (1, 2, 3):
        for index in range(512):
            memory.put_u64(level * PAGE + 8 * index, (level + 1) * PAGE | 0x67)
    memory.page(4)
    for pfn in range(0x100, 0x100 + 6000):
        memory.page(pfn)
    reader = kdmp.open(memory.dump()).reader()
    matcher = Matcher(**what)
    at = reader.scan(matcher, 0).next
    assert reader.scan(matcher, 0, at).next is not None
    for last in (at - 1, at - 5):
        assert reader.scan(matcher, 0, last).next is None


def test_errors_of_a_file_object():
    class Failing(io.BytesIO):
        broken = False

        def read(self, *args):
            if self.broken:
                raise OSError(5, "the disk is gone")
            return super().read(*args)

    memory = Memory()
    Tables(memory).map(0x5000, 0x1000)
    source = Failing(memory.dump())
    with kdmp.open(source) as opened:
        reader = opened.reader()
        for what in ({"patterns": [b"\x67"]}, {"text": (2, 3)}):
            source.broken = True
            for one in (reader, opened.phys):
                with pytest.raises(OSError, match="gone"):
                    one.scan(Matcher(**what))
            source.broken = False
            reader.scan(Matcher(**what))


def test_threads_share_a_matcher():
    rng = random.Random(9)
    reader = virtual_space(rng, "letters", 200)
    memory = pieces(reader)
    matcher = Matcher([value for value, _ in samples(rng, memory, 9, 30)])
    want, results = scan(reader, matcher)[0], []

    def run():
        results.append(scan(reader, matcher, limit=100)[0] == want)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 4


def test_closing_is_refused_meanwhile():
    """close() while another thread scans: an error, and the scan is not disturbed."""
    memory = Memory()
    memory.fill(*range(0x100, 0x900))
    dump = kdmp.open(memory.dump())
    matcher, refused, stop = Matcher([b"not there"]), [], threading.Event()

    def close():
        while not stop.is_set():
            try:
                dump.close()
            except (BufferError, ValueError) as error:
                refused.append(error)
            else:
                return

    thread = threading.Thread(target=close)
    thread.start()
    try:
        while not refused:
            dump.phys.scan(matcher)
    except ValueError:
        pass  # it was closed between two calls
    stop.set()
    thread.join()
