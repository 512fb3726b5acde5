"""results.svg: how many times longer the other readers take, if matplotlib is installed.

SPDX-License-Identifier: MIT
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import BOUND, OURS, PEERS, Row

_COLOURS = dict(zip((*PEERS, BOUND), ("#4878a8", "#c8803c", "#7a9a4a", "#999999"), strict=True))


def draw(rows: Sequence[Row], path: Path) -> bool:
    """Draw the chart; return False if there is no matplotlib or nothing to show."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    chosen = _chosen(rows)
    if not chosen:
        return False
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "kdmp"  # the same file for the same figures
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 0.4 * len(chosen) + 1.4), layout="constrained")
    names = [who for who in _COLOURS if any(row.ratio(who) for row in chosen)]
    height = 0.8 / len(names)
    for k, who in enumerate(names):
        places = [at + (k - (len(names) - 1) / 2) * height for at in range(len(chosen))]
        ratios = [row.ratio(who) or 1 for row in chosen]
        widths = [ratio - 1 for ratio in ratios]
        axes.barh(places, widths, height, left=1, label=who, color=_COLOURS[who])
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(
        range(len(chosen)), [f"{row.name} ({row.dump})" if row.dump else row.name for row in chosen]
    )
    axes.invert_yaxis()
    axes.set_xlabel(f"time or memory, {OURS} = 1 (right of the line: {OURS} needs less)")
    figure.legend(loc="outside upper center", ncols=len(names))
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return True


def _chosen(rows: Sequence[Row]) -> list[Row]:
    """Rows of the main dumps with a peer to compare with, one thread."""
    dumps = ("bitmap-1g", "bitmap-64g", "")
    groups = ("open", "translate", "read", "scan", "memory", "mappings", "windows")
    return [
        row
        for row in rows
        if row.group in groups
        and row.dump in dumps
        and any((row.ratio(who) or 0) > 0 for who in PEERS)
        and (row.dump != "bitmap-64g" or row.group == "open")
    ]
