"""The table as a picture. matplotlib is in the environment of the benchmark alone."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot

from .ways import RAW


def draw(speeds: dict[str, list[list[float]]], columns: list[str], file: Path) -> None:
    """Draw the ratios to smtplib: a group of bars for each column, a bar for each way."""
    mpl.rcParams.update({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 9})
    figure, axes = pyplot.subplots(figsize=(9, 4.2), layout="constrained")
    width = 0.8 / len(speeds)
    for place, (name, several) in enumerate(speeds.items()):
        ratios = [
            [one / raw for one, raw in zip(own, others, strict=True)]
            for own, others in zip(several, speeds[RAW], strict=True)
        ]
        at = [number + place * width for number in range(len(columns))]
        middle = [median(some) for some in ratios]
        error: Any = [
            [mid - min(some) for mid, some in zip(middle, ratios, strict=True)],
            [max(some) - mid for mid, some in zip(middle, ratios, strict=True)],
        ]
        axes.bar(at, middle, width, yerr=error, label=name, error_kw={"linewidth": 0.8})
    axes.set_yscale("log")
    axes.axhline(1, color="black", linewidth=0.6)
    axes.set_ylabel("mails per second, to smtplib's on one open connection")
    axes.set_xticks([number + 0.4 - width / 2 for number in range(len(columns))], columns)
    axes.legend(fontsize=8, ncols=2, loc="upper left")
    figure.savefig(file, metadata={"Date": None})
