"""LIST_ENTRY walks: whole lists, broken ones, cyclic ones, and random garbage.

SPDX-License-Identifier: MIT
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmp import KdmpError
from kdmp.windows.lists import walk_list

HEAD = 0xFFFF800000001000


class Memory:
    """Pointers by address; what is not there cannot be read."""

    def __init__(self, cells):
        self.cells = cells
        self.reads = 0

    def read_uint(self, va, size):
        self.reads += 1
        if va not in self.cells:
            raise KdmpError(f"nothing at {va:#x}")
        return self.cells[va]


def ring(entries, width=8, head=HEAD):
    """Cells of an intact list."""
    whole = [head, *entries]
    cells = {}
    for place, entry in enumerate(whole):
        cells[entry] = whole[(place + 1) % len(whole)]
        cells[entry + width] = whole[place - 1]
    return cells


def entries(count, width=8):
    base = HEAD + 0x10000 if width == 8 else 0x80010000
    return [base + 0x100 * k for k in range(count)]


@pytest.mark.parametrize("count", [0, 1, 2, 50])
@pytest.mark.parametrize(("width", "head"), [(8, HEAD), (4, 0x80001000)])
def test_a_whole_list_is_walked_once_and_in_order(count, width, head):
    expected = entries(count, width)
    memory = Memory(ring(expected, width, head))
    walk = walk_list(memory, head, width)
    assert walk.links == tuple(expected)
    assert walk.complete
    assert walk.repaired == 0
    assert walk.problems == ()
    assert memory.reads <= 2 * count + 2


@pytest.mark.parametrize("bad", [0, 1, 0x10, 0xFFFF, 0x1234567812345678, HEAD + 0x999998])
@pytest.mark.parametrize("place", [0, 3, 9])
def test_a_broken_flink_is_repaired_from_behind(bad, place):
    expected = entries(10)
    cells = ring(expected)
    cells[expected[place]] = bad
    walk = walk_list(Memory(cells), HEAD, 8)
    assert walk.links == tuple(expected)
    assert not walk.complete
    assert walk.repaired == 9 - place
    assert any(f"{expected[place]:#x}" in text for text, _ in walk.problems)


def test_an_entry_that_is_not_in_the_dump_costs_itself_only():
    expected = entries(10)
    cells = ring(expected)
    del cells[expected[4]], cells[expected[4] + 8]
    walk = walk_list(Memory(cells), HEAD, 8)
    # Both walks end at it, so it is an entry, though nothing of it can be read.
    assert walk.links == tuple(expected)
    assert walk.unread == ()


def test_garbage_that_only_one_side_names_is_no_entry():
    expected = entries(6)
    cells = ring(expected)
    cells[expected[2]] = HEAD + 0x5550000
    walk = walk_list(Memory(cells), HEAD, 8)
    assert walk.links == tuple(expected)
    assert walk.unread == (HEAD + 0x5550000,)


def test_two_entries_lost_in_the_middle():
    expected = entries(10)
    cells = ring(expected)
    for entry in expected[4:6]:
        del cells[entry], cells[entry + 8]
    walk = walk_list(Memory(cells), HEAD, 8)
    assert walk.links == tuple(expected[:4] + expected[6:])
    assert set(walk.unread) == set(expected[4:6])


def test_a_cycle_that_misses_the_head_ends_and_the_rest_is_found_backward():
    expected = entries(10)
    cells = ring(expected)
    cells[expected[6]] = expected[2]
    walk = walk_list(Memory(cells), HEAD, 8)
    assert walk.links == tuple(expected)
    assert any("cycle" in text for text, _ in walk.problems)


def test_an_entry_that_links_to_itself():
    expected = entries(5)
    cells = ring(expected)
    cells[expected[2]] = expected[2]
    walk = walk_list(Memory(cells), HEAD, 8)
    assert walk.links == tuple(expected)


def test_cycles_both_ways_end():
    expected = entries(6)
    cells = ring(expected)
    cells[expected[1]], cells[expected[4] + 8] = expected[0], expected[5]
    walk = walk_list(Memory(cells), HEAD, 8)
    assert walk.links == (expected[0], expected[1], expected[4], expected[5])


def test_a_wrong_blink_is_told_but_changes_nothing():
    expected = entries(4)
    cells = ring(expected)
    cells[expected[2] + 8] = expected[0]
    walk = walk_list(Memory(cells), HEAD, 8)
    assert walk.links == tuple(expected)
    assert walk.complete
    assert [address for _, address in walk.problems] == [expected[2]]


def test_the_number_of_entries_is_bounded():
    walk = walk_list(Memory(ring(entries(100))), HEAD, 8, limit=10)
    assert len(walk.links) <= 20
    assert not walk.complete
    assert any("10 entries" in text for text, _ in walk.problems)


def test_a_head_that_is_not_there():
    walk = walk_list(Memory({}), HEAD, 8)
    assert walk.links == ()
    assert not walk.complete
    assert walk.problems


CELL = st.integers(0, 12).map(lambda k: HEAD + 0x100 * k)


@given(st.dictionaries(st.tuples(CELL, st.sampled_from([0, 8])), CELL | st.integers(0, 2**64 - 1)))
def test_any_memory_ends_and_lists_each_entry_once(drawn):
    memory = Memory({address + off: value for (address, off), value in drawn.items()})
    walk = walk_list(memory, HEAD, 8)
    assert len(set(walk.links)) == len(walk.links)
    assert HEAD not in walk.links
    assert memory.reads < 200


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(st.just(n), st.integers(0, n - 1), st.integers(0, 2**64 - 1))
    )
)
def test_one_broken_flink_never_loses_a_true_entry(drawn):
    count, place, value = drawn
    expected = entries(count)
    cells = ring(expected)
    cells[expected[place]] = value
    walk = walk_list(Memory(cells), HEAD, 8)
    assert set(expected) <= set(walk.links)
