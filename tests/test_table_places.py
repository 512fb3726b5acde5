"""Where tables lie is remembered: more of them than there is room for, written ones, missing ones.

Each walk is compared with the reference reader's, entry by entry.

SPDX-License-Identifier: MIT
"""

import random

import pytest
import refreader as ref
from agree import agree_on_walk
from dumpbuilder import BITMAP, PAGE, RANGES9, Memory, P, Tables, U, W

import kdmp

PLACES = 1024  # TABLE_PLACES of csrc/tlb.h


def address(top, third, second, last):
    """The address with these table indices."""
    va = top << 39 | third << 30 | second << 21 | last << 12
    return va | 0xFFFF << 48 if top >> 8 else va


def scattered(kind, count):
    """A dump with `count` tables of the last level, in frames here and there, and an address under each."""
    rng = random.Random(11)
    memory = Memory()
    tables = Tables(memory, spare=0x100)
    addresses = {}
    while len(addresses) < count:
        # A few under each table above, so that there are not as many of those.
        upper = rng.choice((0, 1, 255, 256, 496, 511)), rng.randrange(4), rng.randrange(512)
        addresses.setdefault(upper, address(*upper, rng.randrange(512)) | rng.randrange(PAGE))
    for va in addresses.values():
        tables.spare += rng.randrange(3)
        tables.map(va & ~0xFFF, rng.randrange(1 << 24) * PAGE, flags=rng.choice([P, P | W, P | U, P | W | U]))
    return memory.dump(kind), list(addresses.values())


@pytest.fixture(scope="module", params=[RANGES9, BITMAP], ids=["ranges", "bitmap"])
def crowded(request):
    image, addresses = scattered(request.param, 3 * PLACES)
    return image, addresses, ref.RefSpace(ref.RefDump(image), 0x1000)


def test_more_tables_than_places(crowded):
    """Tables that take each other's places do not take each other's content."""
    image, addresses, space = crowded
    rng = random.Random(3)
    with kdmp.Dump(image) as dump:
        reader = dump.reader(0x1000, "x64", discover=False)
        assert len({reader.translate(va).entries[-1].pa >> 12 for va in addresses}) > 2 * PLACES
        for va in rng.sample(addresses, 1500) * 2:
            agree_on_walk(reader, space, va)


def said(walk):
    return walk.pa, walk.entries, walk.writable, walk.user, walk.executable


def test_with_and_without_a_cache(crowded):
    image, addresses, _ = crowded
    with kdmp.Dump(image) as dump:
        cached, plain = (dump.reader(0x1000, "x64", discover=False) for _ in range(2))
        plain.cache_enabled = False
        for va in addresses + addresses[::-1]:
            assert said(cached.translate(va)) == said(plain.translate(va))


@pytest.mark.parametrize("level", [4, 3, 2, 1])
def test_an_overlay_shows_its_own_tables(crowded, level):
    """A place in the dump is not where a table lies that has been written to, and is again after a reset."""
    image, addresses, _ = crowded
    va, flag = addresses[0], 1 << 9  # a bit that is Windows' own
    with kdmp.Dump(image) as dump, dump.overlay() as overlay:
        reader = overlay.reader(0x1000, "x64")
        before = reader.translate(va)
        entry = next(e for e in before.entries if e.level == level)
        for _ in range(2):
            overlay.write_u64(entry.pa, entry.value ^ flag)
            changed = reader.translate(va)
            assert [e.value ^ (flag if e.level == level else 0) for e in changed.entries] == [
                e.value for e in before.entries
            ]
            assert dump.reader(0x1000, "x64", discover=False).translate(va).entries == before.entries
            overlay.reset()
            assert reader.translate(va).entries == before.entries


def test_tables_beyond_the_end_of_the_file():
    """What is missing is not remembered as anything else, whatever was asked before and after."""
    image, addresses = scattered(BITMAP, 200)
    image = image[: len(image) - 150 * PAGE - 1]
    with kdmp.Dump(image) as dump:
        reader = dump.reader(0x1000, "x64", discover=False)
        space = ref.RefSpace(ref.RefDump(image), 0x1000)
        told = [agree_on_walk(reader, space, va).status for va in addresses * 2]
    assert told.count(ref.OK) > 20
    assert told.count(ref.TRUNCATED) > 20
    assert told[:200] == told[200:]
