"""The benchmarks' own code: how samples are taken, judged and shown.

SPDX-License-Identifier: MIT
"""

import json
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import kdmp  # noqa: E402
from benchmarks import bounds, claims, contents, dumps, peers, report  # noqa: E402
from benchmarks.harness import (  # noqa: E402
    BOUND,
    BOUND_ONE,
    ONE,
    OURS,
    PEER,
    Claim,
    Mismatch,
    Row,
    expect_equal,
    for_a_while,
    interleaved,
)


def row(claim, dump="", **samples):
    names = {"ours": OURS, "peer": PEER, "bound": BOUND, "bound_one": BOUND_ONE}
    return Row("g", "thing", "ns", {names[k]: v for k, v in samples.items()}, claim, dump=dump)


def test_sides_alternate():
    calls = []

    def side(name):
        def one():
            calls.append(name)
            return float(len(calls))

        return one

    samples = interleaved({"a": side("a"), "b": side("b")}, 3, warm=False)
    assert calls == list("abbaab")
    assert samples == {"a": [1.0, 4.0, 5.0], "b": [2.0, 3.0, 6.0]}
    calls.clear()
    interleaved({"a": side("a"), "b": side("b")}, 1)
    assert calls == list("abab")


def test_who_takes_long_gets_fewer_samples():
    def slow():
        time.sleep(0.03)
        return 7.0

    assert interleaved({"slow": slow}, 9, patience=0.01) == {"slow": [7.0]}
    assert len(interleaved({"slow": slow}, 9, patience=0.1)["slow"]) < 4
    assert len(interleaved({"slow": slow}, 2, patience=5)["slow"]) == 2


def test_a_loop_goes_on_where_it_was():
    seen = []
    loop = for_a_while(seen.append, range(100), 0)
    assert seen == list(range(16))
    assert loop() == 16
    assert seen[16:] == list(range(16, 32))
    for _ in range(5):
        loop()
    assert seen[-16:] == list(range(16))  # from the start, where not enough are left


def test_answers_are_compared():
    expect_equal("x", {"a": 1, "b": 1})
    with pytest.raises(Mismatch, match="x: b answers 0x2, a 0x1"):
        expect_equal("x", {"a": 1, "b": 2})


def test_wrong_answers_disqualify():
    def fails(va):
        raise RuntimeError("no")

    sides = peers.Sides(
        {
            name: peers.Peer(name, {"translate": f})
            for name, f in (("good", abs), ("bad", str), ("sad", fails))
        },
        {"absent": "is not installed"},
    )
    sides.check("translate", [1, 2], lambda va: va)
    assert set(sides.calls("translate")) == {"good"}
    missing = sides.missing("translate")
    assert missing["absent"] == "is not installed"
    assert missing["bad"] == "bad, translate: wrong answer for 0x1"
    assert missing["sad"] == "sad, translate: fails: RuntimeError: no"
    assert sides.missing("scan")["good"] == "good has no such function"


@pytest.mark.parametrize(
    ("claim", "samples", "met"),
    [
        (Claim("ratio", 10), {"ours": [1, 1, 5], "peer": [10, 11, 10]}, True),
        (Claim("ratio", 10), {"ours": [1.1], "peer": [10]}, False),
        (Claim("ratio", 10), {"ours": [1]}, None),
        (Claim("slowdown", 1.25), {"ours": [1.25], "bound": [1]}, True),
        (Claim("slowdown", 1.25), {"ours": [1.26], "bound": [1]}, False),
        (Claim("value", 5), {"ours": [5]}, True),
        (Claim("value", 5), {"ours": [5.1]}, False),
        (Claim("value", 5), {}, None),
        (Claim("reach", 40), {"ours": [40], "bound": [10]}, True),
        (Claim("reach", 40), {"ours": [41], "bound": [10]}, False),
        (Claim("reach", 40), {"ours": [50], "bound": [50]}, True),
    ],
)
def test_claims_are_judged(claim, samples, met):
    assert row(claim, **samples).met() is met


def test_one_claim_of_several_that_fails_is_a_failure():
    both = (Claim("value", 5), Claim("ratio", 2))
    assert row(both, ours=[4], peer=[8]).met() is True
    assert row(both, ours=[4], peer=[7]).met() is False
    assert row(both, ours=[4]).met() is True  # the other cannot be judged


@pytest.mark.parametrize(
    ("claim", "samples", "beyond"),
    [
        (Claim("ratio", 2), {"ours": [10], "peer": [10], "bound": [6]}, True),
        (Claim("ratio", 2), {"ours": [10], "peer": [10], "bound": [5]}, False),
        (Claim("ratio", 2), {"ours": [10], "peer": [10]}, False),
        (Claim("ratio", 1.8, ONE), {"ours": [10], "bound": [6], "bound_one": [10]}, True),
        (Claim("ratio", 1.8, ONE), {"ours": [10], "bound": [5], "bound_one": [10]}, False),
        (Claim("value", 5), {"ours": [10], "bound": [6]}, False),
    ],
)
def test_what_the_bound_would_not_meet(claim, samples, beyond):
    assert row(claim, **samples).beyond(claim) is beyond


def test_promises_are_computed():
    line = claims.IMPORT
    rows = [row(Claim("value", 30, line=line), ours=[29]), row(Claim("value", 30), ours=[31])]
    (verdict,) = [one for one in claims.verdicts(rows) if one.line == line]
    assert verdict.met is True
    assert verdict.measured == ("thing: 29 ns",)
    rows.append(row(Claim("value", 30, line=line), "d", ours=[31]))
    (verdict,) = [one for one in claims.verdicts(rows) if one.line == line]
    assert verdict.met is False
    assert verdict.measured[1] == "thing, d: 31 ns (NOT met)"
    others = [one for one in claims.verdicts(rows) if one.line != line]
    assert {one.met for one in others} == {None}
    text = claims.as_table(claims.verdicts(rows))
    assert text.count("\n") == len(claims.LINES) + 1
    assert "| NO |" in text


def test_the_table_gives_reasons():
    one = row(Claim("ratio", 2), "d", ours=[1, 2, 3], peer=[40])
    one.missing = {"memprocfs": "does not run", "volatility3": "does not run"}
    remarks = report.Remarks()
    table = report.table([one], remarks)
    assert remarks.texts == ["does not run"]
    assert table.count("— [1]") == 2
    assert "2 (1.5..2.5)" in table
    assert "40 20x" in table
    heads, rule, line = table.splitlines()
    assert len(heads) == len(rule) == len(line)


def test_json_holds_the_figures(tmp_path):
    rows = [row(Claim("ratio", 2), ours=[1.0, 2.0, 3.0], peer=[40.0]), row(None, ours=[5.0])]
    report.write_json(tmp_path / "r.json", report.as_data(rows, {"cpu": "x"}, samples=False))
    data = json.loads((tmp_path / "r.json").read_text())
    assert data["rows"][0]["median"] == {OURS: 2.0, PEER: 40.0}
    assert data["rows"][0]["samples"] == {OURS: 3, PEER: 1}
    assert data["rows"][0]["quartiles"][OURS] == [1.5, 2.5]
    assert data["rows"][0]["claims"] == [{"claim": "≥ 2x", "met": True}]
    assert len(data["promises"]) == len(claims.LINES)
    report.write_json(tmp_path / "s.json", report.as_data(rows, {}, samples=True))
    assert json.loads((tmp_path / "s.json").read_text())["rows"][1]["samples"] == {OURS: [5.0]}


SMALL = dumps.Machine("tiny", 5, 1, 1 << 12, filled=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return dumps.ensure(SMALL, tmp_path_factory.mktemp("bench"))


def test_dumps_hold_what_the_generator_says(tiny):
    with kdmp.Dump(tiny) as dump:
        reader = dump.reader()
        for window in (dumps.SHUFFLED, dumps.LINEAR, dumps.LARGE_PAGES):
            for va in SMALL.random_addresses(300, window=window):
                pa = SMALL.physical(va)
                assert reader.translate(va).pa == pa
                assert reader.read_u64(va) == SMALL.word(pa)
        assert reader.read_exact(dumps.LINEAR, 16 << 20).count(contents.NEEDLE) == 2


def test_bounds_do_the_same_work(tiny, tmp_path):
    with kdmp.Dump(tiny) as dump, bounds.Bound(dump, tiny, tmp_path) as bound:
        if not bound.usable:
            pytest.skip("no C compiler")
        vas = bounds.as_numbers(SMALL.random_addresses(500))
        out = bounds.as_numbers([0] * 500)
        bounds.shared(bound.walk("translate", SMALL.dtb, vas, out), 500, 2)
        assert [int(pa) for pa in out] == [SMALL.physical(int(va)) for va in vas]
        bound.walk("read_u64", SMALL.dtb, vas, out)(0, 500)
        assert [int(value) for value in out] == [SMALL.word(SMALL.physical(int(va))) for va in vas]
        find = bound.find(SMALL.data_start, [contents.NEEDLE, contents.TEXT.encode("utf-16-le")])
        assert find(0, 16 << 20) == 3
        data = dump.phys.read_exact(SMALL.data_start, 16 << 20)
        assert bound.find_byte(SMALL.data_start, 0x7F)(0, 16 << 20) == data.count(0x7F)
        bound.copy(SMALL.data_start, 1 << 16)(0, (1 << 20) + 5)
        assert bound.one_by_one(SMALL.dtb, vas, load=False)() == 500
