"""The picture of the README. matplotlib is in the environment of the benchmark alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot

from .ways import CONNECTIONS, FRESH, KEPT, OURS_BATCH, OURS_FRESH, PARALLEL, RAW

# From above. Django's open connection is left out: it is as fast as smtplib's.
BARS = {
    FRESH: "Django's backend",
    RAW: "smtplib, held open",
    OURS_FRESH: "email_hosts",
    KEPT: "email_hosts, conn_max_age",
    OURS_BATCH: "email_hosts, a list",
    PARALLEL: f"email_hosts, parallel={CONNECTIONS}",
}
# Apart for the colour-blind, and in print, too. Okabe and Ito chose the blue.
GREY, BLUE, INK = "#9A9A9A", "#0072B2", "#1F1F1F"


def draw(table: Mapping[Any, Any], columns: Sequence[Any], file: Path) -> None:
    """Draw mails per second: a part for each column, a bar for each way."""
    mpl.rcParams.update({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 11})
    mpl.rcParams.update(dict.fromkeys(("text.color", "axes.labelcolor", "ytick.color"), INK))
    figure, parts = pyplot.subplots(
        1, len(columns), figsize=(8.2, 3.7), sharex=True, sharey=True, layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    colors = [GREY if way in {FRESH, RAW} else BLUE for way in BARS]
    times = []
    for axes, column in zip(parts, columns, strict=True):
        speeds = {way: median(table[way, column].speeds) for way in BARS}
        times.append(round(speeds[KEPT] / speeds[FRESH]))
        bars = axes.barh(list(BARS.values()), list(speeds.values()), color=colors)
        texts = [f"{speed:.{0 if speed > 10 else 1}f}" for speed in speeds.values()]
        axes.bar_label(bars, texts, padding=4)
        axes.set_title(f"to {column.recipients} recipient" + "s" * (column.recipients > 1))
        axes.set_xlabel("mails per second")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.15)
    parts[0].invert_yaxis()
    figure.suptitle(
        f"{columns[0].milliseconds:g} ms away, a kept connection sends {times[0]} times "
        f"as many mails as\nDjango's backend, and {times[1]} times as many to 20 recipients",
        fontweight="bold",
    )
    figure.savefig(file, facecolor="white", metadata={"Date": None})
