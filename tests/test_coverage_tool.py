"""tools/coverage.py: what it takes for an explanation, and that those there are quote lines that exist.

SPDX-License-Identifier: MIT
"""

import importlib.util
import re
import sys

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def coverage():
    path = ROOT / "tools" / "coverage.py"
    if not path.exists():
        pytest.skip("no tools here")
    spec = importlib.util.spec_from_file_location("kdmp_coverage", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # which dataclasses look for
    spec.loader.exec_module(module)
    return module


SOURCE = """
int f(int x)
{
    if (x < 0)
        return -1;
    if (x == 5)
        return -1;
    return 0;
}
"""


@pytest.fixture
def source(coverage):
    made = coverage.Source([line.strip() for line in SOURCE.splitlines()])
    for line, count in {4: 3, 5: 0, 6: 3, 7: 0, 8: 3}.items():
        made.counts[line] = count
        made.functions[line] = "f"
    return made


def reason(coverage, *quote, path="a.c", function="f"):
    lines = [f"{path} {function}", *(f"| {line}" for line in quote), "Because."]
    return coverage.read_reasons("\n".join(lines))


@pytest.mark.parametrize(
    "quote, explained",
    [
        (["return -1;"], {5, 7}),
        (["if (x == 5)", "    return -1;"], {7}),
        (["if (x < 0)", "return -1;", "if (x == 5)"], {5}),
        (["return 0;"], set()),
        (["return 1;"], set()),
    ],
)
def test_what_a_reason_explains(coverage, source, quote, explained, capsys):
    wrong = coverage.judge({"a.c": source}, reason(coverage, *quote))
    assert len(wrong) == 2 - len(explained) + (not explained)
    for line in (5, 7):
        assert (f"a.c:{line}: not covered, not explained: return -1;" in wrong) == (line not in explained)
    assert any("fits no uncovered line" in line for line in wrong) == (not explained)
    assert capsys.readouterr().out.count("Because.") == len(explained)


def test_a_reason_is_for_one_function(coverage, source):
    for elsewhere in (
        reason(coverage, "return -1;", function="g"),
        reason(coverage, "return -1;", path="b.c"),
    ):
        assert len(coverage.judge({"a.c": source}, elsewhere)) == 3


def test_figures(coverage, source, capsys):
    assert coverage.print_figures({"csrc/a.c": source}) == 60
    assert "csrc/a.c                              5        3   60.00" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["a.c\n| x\nWhy.\n", "a.c f\n| x\n", "a.c f\nWhy.\n"])
def test_paragraphs_that_are_not_whole(coverage, text):
    with pytest.raises(ValueError, match="line 2: expected file and function"):
        coverage.read_reasons("# About this file.\n" + text)


def test_reasons_quote_what_is_there(coverage):
    """Whether a line is still not covered, `make coverage` knows; here, that it is still there."""
    reasons = coverage.read_reasons(coverage.EXPLAINED.read_text("utf-8"))
    assert reasons
    for given in reasons:
        lines = [line.strip() for line in (ROOT / given.path).read_text("utf-8").splitlines()]
        size = len(given.quote)
        found = any(lines[k : k + size] == given.quote for k in range(len(lines)))
        assert found, f"coverage.txt:{given.at}: {given.path} no longer has these lines"
        begins = rf"{given.function}\(|DEFINE_\w+\({given.function},"  # a macro may make it
        assert any(re.match(begins, line) for line in lines), given
