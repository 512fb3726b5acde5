"""Entities, facts and listings: what missing memory costs, and how they print.

SPDX-License-Identifier: MIT
"""

import builtins
import pickle
from datetime import UTC, datetime

import pytest
import shareddata
from conftest import small_machine

import kdmp
from kdmp.symbols import SymbolError
from kdmp.windows.entity import Entity, Listing, Problem, fact, plain, show


class Thing(Entity):
    """An entity whose facts come from a dict."""

    FACTS = ("number", "text", "gone", "place", "when")
    COLUMNS = ("address", "number", "text")
    HEX = Entity.HEX | {"place"}

    def __init__(self, address, **values):
        super().__init__(None, address)
        self.values = values
        self.reads = 0

    def _get(self, name):
        self.reads += 1
        if name not in self.values:
            raise kdmp.UnreadableError(f"no {name} at all")
        return self.values[name]

    @fact
    def number(self):
        """A number."""
        return self._get("number")

    @fact
    def text(self):
        return self._get("text")

    @fact
    def gone(self):
        return self._get("gone")

    @fact
    def place(self):
        return self._get("place")

    @fact
    def when(self):
        return self._get("when")


NOW = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)


@pytest.fixture
def thing():
    return Thing(0x1000, number=5, text="a <b>", place=0x7FF0, when=NOW)


def test_a_fact_is_read_once(thing):
    assert (thing.number, thing.number) == (5, 5)
    assert thing.reads == 1
    assert Thing.number.__doc__ == "A number."


def test_missing_memory_costs_one_property_and_says_why(thing):
    assert thing.problems == ()
    assert thing.gone is None
    assert thing.gone is None
    assert thing.problems == (Problem("gone", "no gone at all"),)
    assert str(thing.problems[0]) == "gone: no gone at all"
    assert thing.number == 5


def test_examine_reads_everything(thing):
    assert [problem.what for problem in thing.examine()] == ["gone"]
    assert thing.reads == 5


@pytest.mark.parametrize("error", [OverflowError("x"), kdmp.KdmpError("x"), kdmp.FormatError("x")])
def test_what_a_fact_may_meet(error):
    class Bad(Entity):
        @fact
        def value(self):
            raise error

    assert Bad(None, 1).value is None


def test_a_mistake_is_not_hidden():
    class Wrong(Entity):
        @fact
        def value(self):
            return {}["nothing"]

    with pytest.raises(KeyError):
        _ = Wrong(None, 1).value


def test_an_entity_is_its_address(thing):
    assert int(thing) == 0x1000
    assert hex(thing) == "0x1000"
    assert thing == Thing(0x1000)
    assert thing != Thing(0x1001)
    assert thing != 0x1000
    assert len({thing, Thing(0x1000)}) == 1
    assert repr(thing) == "<Thing at 0x1000>"


def test_printing(thing):
    text = str(thing)
    assert "number  5" in text
    assert "place   0x7ff0" in text
    assert "2024-05-06 07:08:09+00:00" in text
    assert "a &lt;b&gt;" in thing._repr_html_()
    assert thing.to_dict() == {
        "address": 0x1000,
        "number": 5,
        "text": "a <b>",
        "gone": None,
        "place": 0x7FF0,
        "when": NOW,
    }


def test_values_as_text_and_as_data(thing):
    assert show(None) == ""
    assert show(True) == "yes"
    assert show(255, hexadecimal=True) == "0xff"
    assert show([1, 255], hexadecimal=True) == "0x1, 0xff"
    assert show(thing) == "0x1000"
    assert plain(thing) == 0x1000
    assert plain([thing, {"k": (1, 2)}]) == [0x1000, {"k": [1, 2]}]
    assert plain(Problem("a", "b")) == {"what": "a", "why": "b", "address": None}


def test_a_listing(thing):
    listing = Listing([thing, Thing(0x2000, text="second")], [Problem("list", "cut short")])
    assert len(listing) == 2
    assert listing.to_dicts()[1]["text"] == "second"
    lines = str(listing).splitlines()
    assert lines[0].split() == ["address", "number", "text"]
    assert lines[1].split() == ["0x1000", "5", "a", "<b>"]
    assert lines[-1] == "(list: cut short)"
    html = listing._repr_html_()
    assert "a &lt;b&gt;" in html
    assert "cut short" in html
    assert str(Listing([], kind=Thing)).split() == ["address", "number", "text"]


def test_a_frame(thing):
    pandas = pytest.importorskip("pandas")
    frame = Listing([thing]).to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == ["address", *Thing.FACTS]
    assert frame.number[0] == 5
    assert list(Listing([thing]).to_frame(["text"]).columns) == ["text"]
    assert list(Listing([], kind=Thing).to_frame().columns) == ["address", *Thing.FACTS]


def test_without_pandas_one_sentence_says_what_to_install(thing, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"install kdmp\[pandas\]"):
        Listing([thing]).to_frame()


def test_closed_dumps_and_pickles():
    with kdmp.open(shareddata.machine_dump("win10-19041", "kernel")) as dump:
        windows = dump.windows
        process, thread, module = windows.processes()[3], windows.threads()[0], windows.modules()[0]
        assert repr(windows.processes()[4]).startswith("<Process 4")
    for entity in (process, thread, module, windows):
        assert "closed" in repr(entity) or hex(entity.address) in repr(entity)
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(entity)


def test_an_error_of_the_layout_stands_alone():
    with kdmp.open(small_machine().dump(minor_version=3)) as dump:
        for _ in range(2):
            with pytest.raises(SymbolError) as caught:
                dump.windows.processes()
            assert caught.value.__context__ is None
        assert not dump.windows.has_layout
