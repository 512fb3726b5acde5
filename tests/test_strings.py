"""Reader.strings(): the texts in memory, against a search character by character.

SPDX-License-Identifier: MIT
"""

import random

import pytest
import shareddata
from conftest import KERNEL_VA, small_machine
from dumpbuilder import PAGE
from searchoracle import strings
from test_leaks import small_triage
from test_search import space

import kdmp
from kdmp import search_engine

LETTERS = [b"a", b"~", b"\t", b" ", b"\0", b"\0", b"\x7f", b"\x1f", b"\x80", b"\xff", b"\xa0", b"\n"]


def noise(seed):
    rng = random.Random(seed)
    out = b""
    while len(out) < PAGE:
        letter = rng.choice(LETTERS)
        out += rng.choice([letter, letter * rng.randrange(9), (letter + b"\0") * rng.randrange(9)])
    return out[:PAGE]


@pytest.fixture(scope="module")
def reader():
    return space([0x20, 0x22, None, 0x21, 0x20, 0x23], {0x20 + k: noise(k) for k in range(4)})


def texts(found):
    return sorted((text.address, text.encoding, text.text) for text in found)


@pytest.mark.parametrize("least", [2, 3, 4, 9])
@pytest.mark.parametrize("encodings", ["ascii", "utf-16-le", ("ascii", "utf-16-le")], ids=str)
def test_against_oracle(least, encodings, reader):
    for some in (reader, reader.dump.phys):
        found = some.strings(least, encodings)
        wanted = (encodings,) if isinstance(encodings, str) else encodings
        assert texts(found) == strings(some, least, wanted) != []
        assert found.complete


def test_results(reader):
    found = list(reader.strings(3))
    assert [text.address for text in found] == sorted(text.address for text in found)
    for text in found:
        raw = reader.read(text.va, text.size)
        assert raw.decode("utf-16-le" if text.encoding == "utf-16-le" else "ascii") == text.text
        assert reader.translate(text.va).pa == text.pa
        assert reader.dump.read_file(text.offset, 1) == raw[:1]
    physical = next(reader.dump.phys.strings(3))
    assert physical.va is None
    assert physical.to_dict() == {
        "pa": physical.pa, "offset": physical.offset, "size": physical.size, "encoding": physical.encoding,
        "text": physical.text,
    }  # fmt: skip


@pytest.mark.parametrize("threads", [1, 3])
def test_pieces_do_not_show(threads, reader, monkeypatch):
    expected = texts(reader.strings(2))
    monkeypatch.setattr(search_engine, "_SHARE", 1000)
    monkeypatch.setattr(search_engine, "_SLICE", 512)
    monkeypatch.setattr(search_engine, "_BUNCH", 3)
    assert texts(reader.strings(2, threads=threads)) == expected


def test_over_a_page_boundary():
    reader = space([0x20, 0x21], {0x20: bytes(PAGE - 3) + b"abc", 0x21: b"def" + bytes(PAGE - 3)})
    (text,) = reader.strings()
    assert (text.va, text.text) == (KERNEL_VA + PAGE - 3, "abcdef")
    assert not list(reader.strings(start=text.va + 1))  # it begins before
    assert [one.text for one in reader.strings(last=text.va)] == ["abcdef"]
    assert not list(reader.strings(last=text.va - 1))
    assert not list(reader.strings(7))
    # Physically they are not neighbours of anything else.
    assert [one.text for one in reader.dump.phys.strings()] == ["abcdef"]


def test_latin_letters_are_text_in_utf16_only():
    data = "grün".encode("utf-16-le").ljust(100, b"\0") + "grün".encode("latin-1")
    reader = space([0x20], {0x20: data.ljust(PAGE, b"\0")})
    assert [(text.va - KERNEL_VA, text.text) for text in reader.strings(2)] == [(0, "grün"), (100, "gr")]


def test_options(reader):
    everything = list(reader.strings(2))
    assert list(reader.strings(2, limit=5)) == everything[:5]
    assert len(list(reader.strings(2, unique=True))) < len(everything)
    by_file = list(reader.dump.phys.strings(2, order="file"))
    assert sorted(by_file) == sorted(reader.dump.phys.strings(2))
    assert [text.offset for text in by_file] == sorted(text.offset for text in by_file)
    calls = []
    list(reader.strings(progress=lambda *at: calls.append(at)))
    assert calls[-1] == (5 * PAGE, 5 * PAGE)


@pytest.mark.parametrize(
    "arguments",
    [(1,), (65537,), (4, ()), (4, "utf-8"), (4, ["ascii", "utf-7"])],
    ids=str,
)
def test_arguments(arguments, reader):
    with pytest.raises(ValueError):
        reader.strings(*arguments)


def test_triage():
    reader = kdmp.Dump(small_triage()).reader()
    assert texts(reader.strings()) == strings(reader)
    assert "block" * 8 + "next" in [text.text for text in reader.strings()]


def test_small_machine():
    dump = kdmp.Dump(small_machine().dump())
    assert [(text.pa, text.encoding, text.text) for text in dump.phys.strings()] == [
        (0x20100, "ascii", "hello"),
        (0x20200, "utf-16-le", "hello"),
    ]


def test_names_of_a_machine():
    truth = shareddata.truth("win10-19041")
    with kdmp.open(shareddata.machine_dump("win10-19041", "full")) as dump:
        found = {(text.va, text.text) for text in dump.reader().strings(3)}
        offset = dump.windows.layout.offset("_EPROCESS", "ImageFileName")
        for process in truth["processes"]:
            if len(process["image_file_name"]) >= 3:
                assert (process["eprocess"] + offset, process["image_file_name"]) in found
