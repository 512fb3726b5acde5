"""The same output with rich, for terminals. Imported only when there is one and rich is installed.

rich itself honours NO_COLOR. Nothing from a dump is taken for markup.

SPDX-License-Identifier: MIT
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text


def facts(rows: Sequence[tuple[str, str]]) -> None:
    """Label and value pairs as a grid on stdout."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(Text(label), Text(value))
    Console().print(grid)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> None:
    """A table on stdout; the columns named in `right` are aligned to the right."""
    result = Table(box=box.SIMPLE_HEAD, header_style="bold cyan")
    for title in titles:
        result.add_column(title, justify="right" if title in right else "left", overflow="fold")
    for row in rows:
        result.add_row(*(Text(cell) for cell in row))
    Console().print(result)


@contextlib.contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, to be called with (done, total)."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
