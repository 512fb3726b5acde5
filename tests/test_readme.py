"""README.md and docs/guide.md are true: their Python blocks run, their commands print what they show.

```python blocks share one namespace; with `>>>` they are doctests. In ```console blocks the lines
`$ kdmp ...` run through kdmp.cli.main, and the lines below each are what it prints ("..." stands for
anything). Both run in a folder that holds sample.dmp, from kdmp.sample. Other blocks are for the eye.

SPDX-License-Identifier: MIT
"""

import doctest
import re
import shlex
from pathlib import Path

import pytest

import kdmp.cli
import kdmp.sample

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/guide.md")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(text, language):
    """(line number, content) of every fenced block in that language."""
    for found in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield text.count("\n", 0, found.start(1)) + 1, found[1]


def commands(block):
    """(arguments, expected output) of every `$ kdmp` line; other commands are left out."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        line, _, expected = part.partition("\n")
        if line.split(None, 1)[0] == "kdmp":
            yield shlex.split(line, comments=True)[1:], expected


@pytest.fixture(scope="module", params=PAGES)
def page(request):
    return ROOT / request.param


@pytest.fixture(scope="module")
def text(page):
    return page.read_text("utf-8")


@pytest.fixture(scope="module")
def folder(page, tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    kdmp.sample.build(folder / "sample.dmp")
    return folder


@pytest.fixture
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")


def test_python_blocks(page, text, inside):
    namespace = {"__name__": "readme"}
    found = list(blocks(text, "python"))
    assert found, f"{page.name} has no ```python block"
    for line, source in found:
        if ">>>" in source:
            example = doctest.DocTestParser().get_doctest(source, namespace, page.name, str(page), line)
            report = []
            runner = doctest.DocTestRunner(optionflags=FLAGS)
            runner.run(example, out=report.append, clear_globs=False)
            namespace.update(example.globs)
            assert runner.failures == 0, "".join(report)
        else:
            exec(compile("\n" * (line - 1) + source, str(page), "exec"), namespace)


def test_console_blocks(page, text, inside, capsys):
    checker = doctest.OutputChecker()
    count = 0
    for line, block in blocks(text, "console"):
        for arguments, expected in commands(block):
            count += 1
            status = kdmp.cli.main(arguments)
            printed = capsys.readouterr()
            assert status == 0, f"{page.name}:{line}: kdmp {arguments}: {printed.err}"
            if expected.strip():
                command = " ".join(["kdmp", *arguments])
                assert checker.check_output(expected, printed.out, FLAGS), (
                    f"{page.name}:{line}: {command} printed\n{printed.out}\nexpected\n{expected}"
                )
    assert count, f"{page.name} shows no kdmp command"


def test_make_targets_exist():
    text = (ROOT / "README.md").read_text("utf-8")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = set(
        re.findall(r"\bmake ([a-z]+)\b", "\n".join(re.findall(r"`[^`]+`|^```.*?^```", text, re.M | re.S)))
    )
    assert {"demo", "test"} <= named
    assert named <= targets


def test_links_to_files_exist(page, text):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_commands_exist(text):
    """Those that the text names in passing, too."""
    known = kdmp.cli.build_parser()._subparsers._group_actions[0].choices
    named = set(re.findall(r"`kdmp ([a-z]+)\b", text))
    assert named <= set(known)


DOCS = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


def named(text):
    """Files and folders in backquotes."""
    return re.findall(r"`((?:csrc|kdmp|tests|tools|docs|benchmarks)/[\w./*]*)`", text)


@pytest.mark.parametrize("name", DOCS)
def test_what_is_named_exists(name):
    """Files and folders in backquotes, and those that links lead to."""
    page = ROOT / name
    text = page.read_text("utf-8")
    missing = [path for path in named(text) if not list(ROOT.glob(path.rstrip("/").replace("NAME", "*")))]
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert missing + [link for link in links if not (page.parent / link).exists()] == []


def test_names_are_seen():
    assert len(named((ROOT / "docs" / "internals.md").read_text("utf-8"))) > 40
