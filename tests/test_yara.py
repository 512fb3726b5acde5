"""Reader.yara(): YARA rules over memory.

SPDX-License-Identifier: MIT
"""

import sys

import pytest
from conftest import KERNEL_VA, small_machine
from dumpbuilder import PAGE
from test_search import noise, space
from triagedumps import small_triage

import kdmp


@pytest.fixture
def yara_x():
    return pytest.importorskip("yara_x")


HELLO = 'rule hello : greeting { meta: author = "me" strings: $h = "hello" ascii wide condition: $h }'
AB = "rule ab { strings: $a = /a[bB]\\x00/ condition: $a }"


@pytest.fixture(scope="module")
def reader():
    return space([0x20, 0x22, None, 0x21, 0x20, 0x23], {0x20 + k: noise(k) for k in range(4)})


def test_matches(yara_x):
    dump = kdmp.Dump(small_machine().dump(minor_version=19041))
    for reader, base in ((dump.phys, 0x20000), (dump.reader(dtb=0x1000, paging="x64"), KERNEL_VA)):
        found = list(reader.yara(HELLO))
        assert [(match.address, match.size) for match in found] == [(base + 0x100, 5), (base + 0x200, 10)]
        assert [match.data for match in found] == [b"hello", "hello".encode("utf-16-le")]
        for match in found:
            assert dump.read_file(match.offset, match.size) == match.data
            assert (match.pa & 0xFFFF, match.rule, match.namespace, match.pattern) == (
                match.address & 0xFFF, "hello", "default", "$h",
            )  # fmt: skip
            assert (match.tags, match.metadata) == (("greeting",), (("author", "me"),))
    assert found[0].to_dict() == {
        "va": KERNEL_VA + 0x100, "pa": 0x20100, "offset": found[0].offset, "size": 5, "rule": "hello",
        "namespace": "default", "pattern": "$h", "tags": ["greeting"], "metadata": {"author": "me"},
    }  # fmt: skip
    assert repr(found[0]) == "<YaraMatch va 0xfffff80000000100: 5 bytes, default.hello $h>"


@pytest.mark.parametrize("piece, overlap", [(16 << 20, 65536), (PAGE, 16), (100, 3), (10, 2)])
def test_pieces_do_not_show(piece, overlap, yara_x, reader):
    """As `search` finds it: over pages, none twice."""
    import re

    for some in (reader, reader.dump.phys):
        expected = [match.address for match in some.search(re.compile(rb"a[bB]\0"))]
        found = some.yara(AB, piece=piece, overlap=overlap)
        assert [match.address for match in found] == expected != []
        assert found.complete
        assert found.progress[0] == found.progress[1] == sum(extent.size for extent in some.extents())


def test_bounds_and_limit(yara_x, reader):
    everything = [match.va for match in reader.yara(AB)]
    middle = everything[len(everything) // 2]
    assert [match.va for match in reader.yara(AB, middle)] == [va for va in everything if va >= middle]
    assert [match.va for match in reader.yara(AB, last=middle)] == [va for va in everything if va <= middle]
    assert [match.va for match in reader.yara(AB, limit=3)] == everything[:3]


def test_a_rule_without_a_pattern(yara_x, reader):
    found = list(reader.yara("rule every { condition: filesize == 8192 }"))
    assert [(match.va, match.size, match.pattern) for match in found] == [(KERNEL_VA, 0, None)]
    assert found[0].data == b""


def test_forms_of_rules(yara_x, reader, tmp_path):
    path = tmp_path / "one.yar"
    path.write_text(AB)
    (tmp_path / "two.yar").write_text('include "one.yar"\nrule two { strings: $b = "bBb" condition: $b }')
    expected = len(list(reader.yara(AB)))
    assert len(list(reader.yara(path))) == len(list(reader.yara(str(path)))) == expected
    assert len(list(reader.yara(yara_x.compile(AB)))) == expected
    names = {match.rule for match in reader.yara(tmp_path / "two.yar")}
    assert names == {match.rule for match in reader.yara([path, HELLO, HELLO.replace("hello", "x", 1)])} | {
        "two"
    }


def test_holes_are_no_faults(yara_x, reader):
    with reader.owner.collect_faults() as faults:
        assert list(reader.yara(AB, piece=100, overlap=5))
    assert not faults


def test_file_order(yara_x, reader):
    found = [match.offset for match in reader.dump.phys.yara(AB, order="file")]
    assert found == sorted(found) != []


def test_triage(yara_x):
    (match,) = kdmp.Dump(small_triage()).reader().yara('rule r { strings: $s = "blocknext" condition: $s }')
    assert (match.va, match.pa, match.data) == (KERNEL_VA + 35, None, b"blocknext")


@pytest.mark.parametrize(
    "rules, arguments, error",
    [
        ("rule broken {", {}, ValueError),
        ("no/such/file.yar", {}, FileNotFoundError),
        (7, {}, TypeError),
        (AB, {"piece": 5, "overlap": 5}, ValueError),
        (AB, {"piece": 1 << 40}, ValueError),
        (AB, {"overlap": -1}, ValueError),
        (AB, {"limit": -1}, ValueError),
    ],
)
def test_arguments(rules, arguments, error, yara_x, reader):
    with pytest.raises(error):
        reader.yara(rules, **arguments)


def test_timeout(yara_x, reader):
    slow = "rule slow { condition: for all i in (0..2000000000) : (i >= 0) }"
    with pytest.raises(TimeoutError):
        list(reader.yara(slow, timeout=1))


def test_without_yara_x(reader, monkeypatch):
    monkeypatch.setitem(sys.modules, "yara_x", None)
    with pytest.raises(ImportError, match=r"kdmp\[yara\]"):
        reader.yara(AB)
