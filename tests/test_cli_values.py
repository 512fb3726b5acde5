"""What people type: addresses, lengths and bytes on the command line.

SPDX-License-Identifier: MIT
"""

import argparse

import pytest

from kdmp.cli import values


@pytest.mark.parametrize(
    "text, value",
    [
        ("0", 0),
        ("1000", 0x1000),
        ("0x1000", 0x1000),
        ("0X1000", 0x1000),
        ("fffff800`12345678", 0xFFFFF80012345678),
        ("0xfffff800`12345678", 0xFFFFF80012345678),
        ("FFFFF800_1234_5678", 0xFFFFF80012345678),
        ("ffffffff`ffffffff", (1 << 64) - 1),
        ("0000000000000000000000000000001", 1),
        ("0n1000", 1000),
        ("0N18446744073709551615", (1 << 64) - 1),
        ("0n1_000", 1000),
        (" 10 ", 16),
        ("0b1", 0xB1),  # hexadecimal digits, not binary
    ],
)
def test_addresses(text, value):
    assert values.address(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0x",
        "0n",
        "0nff",
        "xyz",
        "-1",
        "+1",
        "1`",
        "`1",
        "1``2",
        "_1",
        "1 2",
        "1h",
        "10000000000000000",
        "0n18446744073709551616",
        "f" * 5000,
        "0n" + "9" * 5000,
        "٣",
    ],
)
def test_what_is_no_address(text):
    with pytest.raises(argparse.ArgumentTypeError):
        values.address(text)


def test_any_address_is_read_back_in_every_notation():
    hypothesis = pytest.importorskip("hypothesis")

    @hypothesis.given(hypothesis.strategies.integers(0, (1 << 64) - 1))
    def check(value):
        high, low = divmod(value, 1 << 32)
        for text in (f"{value:x}", f"{value:#x}", f"{value:016X}", f"{high:x}`{low:08x}", f"0n{value}"):
            assert values.address(text) == value

    check()


@pytest.mark.parametrize(
    "text, value",
    [
        ("1", 1),
        ("100", 100),
        ("0x100", 256),
        ("0n100", 100),
        ("4K", 4096),
        ("4k", 4096),
        ("0x10K", 0x4000),
        ("2M", 2 << 20),
        ("1G", 1 << 30),
        ("1_000", 1000),
    ],
)
def test_lengths(text, value):
    assert values.length(text) == value


@pytest.mark.parametrize("text", ["", "0", "0x0", "0K", "K", "ff", "-1", "1.5K", "1KB", "1T", "99999999999G"])
def test_what_is_no_length(text):
    with pytest.raises(argparse.ArgumentTypeError):
        values.length(text)


@pytest.mark.parametrize("text, value", [("0", 0), ("cc", 0xCC), ("0xFF", 0xFF), ("0n255", 255)])
def test_bytes(text, value):
    assert values.byte(text) == value


@pytest.mark.parametrize("text", ["100", "0n256", "", "zz"])
def test_what_is_no_byte(text):
    with pytest.raises(argparse.ArgumentTypeError):
        values.byte(text)


def test_pieces():
    assert values.piece("100:2:4") == (0x100, 2, 4)
    assert values.piece("0x7:0x10:fff`0000") == (7, 16, 0xFFF0000)
    assert values.piece("0n16:1K:0n16") == (16, 1024, 16)


@pytest.mark.parametrize("text", ["", "1", "1:2", "1:2:3:4", "1:0:0", "x:1:0", "1:x:0", "1:1:x", "-1:1:0"])
def test_what_is_no_piece(text):
    with pytest.raises(argparse.ArgumentTypeError):
        values.piece(text)
