"""Regular expressions over memory: what is found does not show in which pieces memory was read.

SPDX-License-Identifier: MIT
"""

import random
import re
from itertools import pairwise

import pytest
from conftest import KERNEL_VA
from dumpbuilder import PAGE
from searchoracle import hits, runs, search
from test_search import noise, space

from kdmp import Pattern, search_regex

MOST = 8


@pytest.fixture
def small_windows(monkeypatch):
    """Memory is looked at in windows of 32 bytes."""
    monkeypatch.setattr(search_regex, "_WINDOW", 32)


@pytest.fixture(scope="module")
def reader():
    contents = {0x20 + k: noise(k, b"ab\0\n ") for k in range(4)}
    return space([0x20, 0x22, None, 0x21, 0x20, 0x23], contents)


def whole(expression, data, most):
    """Matches in a run as they are documented: each ends `most` bytes behind its start at the latest."""
    at = 0
    while True:
        for match in expression.finditer(data, at):
            start, end = match.span()
            if end - start > most:
                cut = expression.match(data, start, start + most)
                if cut is None or cut.end() == start:
                    at = start + 1
                    break
                start, end = cut.span()
                yield start, end
                at = end
                break
            if end > start:
                yield start, end
        else:
            return


EXPRESSIONS = [
    rb"ab", rb"a+", rb"a*", rb"(a|ab)(\0|b\0)", rb"[ab]{3,}", rb"a.{3}b", rb"(?s)a.*b", rb"a.*?b", rb"\bab*",
    rb"(?<=b\0)a", rb"(?<!a)a(?!a)", rb"(?i)AB", rb"(?m)^a+", rb"(?m)b+$", rb"(a)(b)\1", rb"\s+\S", rb"a??b",
    rb"[^\0]{8}", rb"[^\0]{9}", rb"a(?=b)", rb"|ab", rb"\Ab?a", rb"(?s).", rb"(?s).{8}",
]  # fmt: skip


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_windows_do_not_show(expression, reader, small_windows):
    pattern = Pattern.regex(expression, max_match=MOST)
    found = [(match.address, match.size) for match in reader.search(pattern)]
    expected = [
        (address + start, end - start)
        for address, data in runs(reader)
        for start, end in whole(pattern.expression, data, MOST)
    ]
    assert found == expected
    assert all(size <= MOST for _, size in found)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_short_matches_are_those_of_finditer(expression, reader):
    what = re.compile(expression)
    for some in (reader, reader.dump.phys):
        expected = search(some, what)
        if all(size <= 4096 for _, _, size, _ in expected):
            assert hits(some.search(what)) == expected


def test_random_memory():
    pytest.importorskip("hypothesis")
    from hypothesis import given, settings
    from hypothesis import strategies as st

    atom = st.sampled_from([rb"a", rb"b", rb"\0", rb".", rb"[ab]", rb"[^a]", rb"(a|bb)", rb"\n"])
    times = st.sampled_from([b"", b"", b"+", b"*", b"?", b"{2}", b"{1,3}", b"+?", b"*?"])
    piece = st.tuples(atom, times).map(b"".join)
    expressions = st.lists(piece, min_size=1, max_size=4).map(b"".join)
    # A window of 16 KiB at least: more memory than that is needed.
    seeds = {seed: space([0x20, 0x21, 0x22] * 3, {0x20 + k: noise(seed * 3 + k, b"ab\0\n") for k in range(3)})
             for seed in range(3)}  # fmt: skip

    @settings(max_examples=20)
    @given(st.sampled_from(sorted(seeds)), expressions, st.integers(1, 9))
    def check(seed, expression, most):
        pattern = Pattern.regex(expression, max_match=most)
        found = [(match.address, match.size) for match in seeds[seed].search(pattern)]
        assert found == [
            (address + start, end - start)
            for address, data in runs(seeds[seed])
            for start, end in whole(pattern.expression, data, most)
        ]

    check()


def test_no_empty_matches(reader):
    assert not list(reader.search(re.compile(rb"(?=a)")))
    assert not list(reader.search(re.compile(rb"^")))
    assert hits(reader.search(re.compile(rb"x*"))) == []


def test_a_long_match_is_cut():
    reader = space([0x20, 0x21, 0x22], {0x20: b"-" + b"a" * (PAGE - 1), 0x21: b"a" * PAGE, 0x22: b"b" * PAGE})
    total = 2 * PAGE - 1
    for most in (1, 100, 4096, 5000):
        found = list(reader.search(Pattern.regex(b"a+", max_match=most)))
        sizes = [match.size for match in found]
        assert sizes == [most] * (total // most) + ([total % most] if total % most else [])
        assert found[0].va == KERNEL_VA + 1
        assert all(after.va == before.va + before.size for before, after in pairwise(found))
    # What cannot be had so short is not found.
    assert not list(reader.search(Pattern.regex(b"-a+b", max_match=4096)))
    assert [m.size for m in reader.search(Pattern.regex(b"-a+b", max_match=total + 2))] == [total + 2]
    assert [m.size for m in reader.search(re.compile(b"-.*"))] == [4096]


def test_edges_of_a_stretch(reader):
    starts = [address for address, _ in runs(reader)]
    ends = [address + len(data) for address, data in runs(reader)]
    assert [match.va for match in reader.search(re.compile(rb"(?s)\A.."))] == starts
    assert [match.va + match.size for match in reader.search(re.compile(rb"(?s)..\Z"))] == ends
    assert [match.va for match in reader.search(re.compile(rb"(?s)(?<!.)."))] == starts
    # A stretch begins where the search does.
    at = KERNEL_VA + 5
    assert [match.va for match in reader.search(re.compile(rb"(?s)\A."), at, at + 9)] == [at]
    assert [match.va for match in reader.search(re.compile(rb"(?s)."), at, at + 9)] == list(
        range(at, at + 10)
    )


def test_begins_before_and_ends_behind_the_last_address():
    reader = space([0x20, 0x21], {0x20: b"a" * PAGE, 0x21: b"a" * 9 + b"b" * (PAGE - 9)})
    at = KERNEL_VA + PAGE - 1
    assert [(m.va, m.size) for m in reader.search(re.compile(b"a+"), at, at)] == [(at, 10)]
    assert [(m.va, m.size) for m in reader.search(re.compile(b"ab"), at, at + 100)] == [(at + 9, 2)]
    assert not list(reader.search(re.compile(b"ab"), at, at + 8))


def test_alignment(reader):
    expression = re.compile(rb"[ab]{2}")
    everything = search(reader, expression)
    assert hits(reader.search(expression, alignment=4)) == [hit for hit in everything if hit[0] % 4 == 0]


def test_order_with_other_patterns(reader):
    rng = random.Random(5)
    what = [b"ab", re.compile(rb"\0+a"), b"a", re.compile(rb"ba"), range(1 << 50, 1 << 63)]
    rng.shuffle(what)
    for threads in (1, 2):
        found = hits(reader.search(what, threads=threads))
        assert found == search(reader, what)
        assert found == sorted(found, key=lambda hit: hit[:3])


def test_as_str_and_flags(reader):
    expected = search(reader, re.compile(b"AB", re.IGNORECASE))
    assert hits(reader.search(Pattern.regex("AB", re.IGNORECASE))) == expected != []
    with pytest.raises(UnicodeEncodeError):
        Pattern.regex("é")


def test_a_bad_expression_can_be_ended(reader):
    """Work is bounded by the window, and by the longest match."""
    memory = space([0x20] * 5, {0x20: b"a" * PAGE})
    seen = []
    found = memory.search(Pattern.regex(rb"(?s)a.*b", max_match=256), progress=lambda *at: seen.append(at))
    assert not list(found)
    assert seen[-1] == (5 * PAGE, 5 * PAGE)
