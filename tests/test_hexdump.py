"""kdmp.hexdump: lines of bytes and numbers in which missing bytes are `??`.

SPDX-License-Identifier: MIT
"""

import doctest

import pytest
from dumpbuilder import BITMAP, PAGE, build

import kdmp
import kdmp.hexdump
from kdmp.hexdump import hexdump, hexdump_lines

BASE = 0xFFFFF80012340000
DATA = bytes(range(0x41, 0x41 + 20))


def test_bytes_have_their_address_and_text():
    first, second = hexdump(DATA, BASE).split("\n")
    assert first == "fffff80012340000  41 42 43 44 45 46 47 48 49 4a 4b 4c 4d 4e 4f 50  ABCDEFGHIJKLMNOP"
    assert second == "fffff80012340010  51 52 53 54                                      QRST"


def test_what_is_no_ascii_letter_is_a_dot():
    assert hexdump(b"a\x00\x1b\x7f\xe9 ~", address_digits=4).endswith("  a.... ~")


def test_holes_are_question_marks_in_both_columns():
    line = hexdump(DATA[:16], BASE, holes=[(BASE + 1, 2), (BASE + 15, 1)])
    assert line == "fffff80012340000  41 ?? ?? 44 45 46 47 48 49 4a 4b 4c 4d 4e 4f ??  A??DEFGHIJKLMNO?"


@pytest.mark.parametrize(
    "width, cells",
    [
        (2, "4241 4443 4645 4847 4a49 4c4b 4e4d 504f"),
        (4, "44434241 48474645 4c4b4a49 504f4e4d"),
        (8, "4847464544434241 504f4e4d4c4b4a49"),
    ],
)
def test_wide_units_are_little_endian_numbers(width, cells):
    assert hexdump(DATA[:16], BASE, width=width) == f"fffff80012340000  {cells}"


@pytest.mark.parametrize(
    "width, cells",
    [(4, "44434241 ????4645 4c4b4a?? 504f4e4d"), (8, "????464544434241 504f4e4d4c4b4a??")],
)
def test_a_unit_shows_which_of_its_bytes_are_missing(width, cells):
    assert hexdump(DATA[:16], 0, width=width, holes=[(6, 3)]) == f"{0:016x}  {cells}"


def test_a_unit_cut_off_by_the_end_is_short():
    assert hexdump(DATA[:6], 0, width=4, address_digits=1) == "0  44434241     4645"


def test_holes_outside_of_the_data_do_not_count():
    plain = hexdump(DATA, BASE)
    assert hexdump(DATA, BASE, holes=[(BASE - 10, 10), (BASE + 20, 5), (BASE + 3, 0)]) == plain
    assert "?" not in plain


def test_a_hole_larger_than_the_data_covers_it():
    lines = list(hexdump_lines(DATA, BASE, holes=[(0, 1 << 64)]))
    assert [line.split("  ")[1].split() for line in lines] == [["??"] * 16, ["??"] * 4]


def test_the_last_byte_of_the_address_space():
    assert hexdump(b"\x90", (1 << 64) - 1) == "ffffffffffffffff  90" + " " * 47 + "."


def test_columns_address_digits_and_text_can_be_chosen():
    assert hexdump(DATA[:4], 0x10, columns=2, address_digits=8, text=False) == (
        "00000010  41 42\n00000012  43 44"
    )
    assert hexdump(DATA[:8], 0, width=8, columns=8, text=True, address_digits=1) == (
        "0  4847464544434241  ABCDEFGH"
    )


def test_the_gaps_of_a_read_are_holes():
    with kdmp.open(build(BITMAP, {1: b"\x41" * PAGE, 3: b"\x42" * PAGE})) as dump:
        data, gaps = dump.phys.read_gaps(0x1FF8, PAGE + 16)
        lines = hexdump(data, 0x1FF8, holes=gaps, text=False).split("\n")
    assert lines[0] == f"{0x1FF8:016x}  " + "41 " * 8 + "?? " * 7 + "??"
    assert lines[-1] == f"{0x2FF8:016x}  " + "?? " * 8 + "42 " * 7 + "42"


def test_nothing_gives_no_line():
    assert list(hexdump_lines(b"")) == []


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_like_object(kind):
    assert hexdump(kind(b"AB"), text=False) == f"{0:016x}  41 42"


@pytest.mark.parametrize(
    "arguments", [{"width": 3}, {"width": 16}, {"columns": 0}, {"width": 8, "columns": 12}]
)
def test_widths_that_do_not_exist_are_refused(arguments):
    with pytest.raises(ValueError, match=r"width|columns"):
        hexdump(DATA, **arguments)


def test_every_line_of_a_large_dump_has_the_same_width():
    lines = list(hexdump_lines(bytes(range(256)) * 4, BASE, holes=[(BASE + 100, 300)]))
    assert len(lines) == 64
    assert len({len(line) for line in lines}) == 1


def test_the_docstring_tells_the_truth():
    results = doctest.testmod(kdmp.hexdump)
    assert results.attempted > 0
    assert results.failed == 0
