"""Figures of second data sets (notebook 06, results page): their copies of the study's slices, and how they differ."""

import textwrap

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns

from btlib.figures import theme
from btlib.figures.theme import class_name, described


def overlap_pairs(external, own, pairs: pd.DataFrame) -> mpl.figure.Figure:
    """Draw external slices, uint8 (S, S) each, above the slices of the study that they are copies of.

    `pairs` has their score (correlation) and transform.
    """
    count = max(len(pairs), 1)
    figure, axes = theme.pictures(2, count, max(2.5, 0.95 * count), 2.7)
    for above, below, a, b, about in zip(*axes, external, own, pairs.itertuples(), strict=False):
        theme.show(above, a)
        theme.show(below, b)
        above.set_title(f"{about.score:.2f}\n{textwrap.fill(about.transform, 12)}", size=6.5, pad=2)
    if len(pairs):
        axes[0, 0].set_ylabel("External", size=7)
        axes[1, 0].set_ylabel("The study's own", size=7)
    else:
        figure.suptitle("no copies found", size=8)
    return described(figure, "overlap_pairs", n=len(pairs))


def domain_shift(measured: pd.DataFrame, names: dict[str, str]) -> mpl.figure.Figure:
    """Draw the share of slices of each set below each value of each measure; `names` has the measures' axis labels."""
    figure, axes = theme.subplots(2, -(-len(names) // 2), 7.4, 4.2, sharey=True, squeeze=False)
    for axis, (measure, label) in zip(axes.flat, names.items(), strict=False):
        for number, (name, values) in enumerate(measured.groupby("set", sort=False)[measure]):
            style = {"color": theme.COLOURS[number % 7], "ls": theme.LINES[number % 5], "stat": "percent"}
            sns.ecdfplot(values, label=name, ax=axis, **style)
        axis.set_xlabel(textwrap.fill(label[:1].upper() + label[1:], 28), size=8)
        axis.set_ylabel("Slices with less (%)")
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    theme.legend(figure, axes[0, 0])
    return described(figure, "domain_shift", sets=" and ".join(measured["set"].unique()), k=len(names))


def copies(counts: pd.DataFrame, accuracy: pd.DataFrame) -> mpl.figure.Figure:
    """Draw how many slices of each class of a second set are copies, beside accuracy on all, on copies and on the rest.

    Args:
        counts: set, label, n (slices), copies (of them).
        accuracy: set, slices (as `digest.second_sets` has them), value, low, high (0 to 1), n.
    """
    sets = list(counts["set"].unique())
    heights = [max((table["set"] == name).sum() for table in (counts, accuracy)) for name in sets]
    size = (7.4, 0.9 + sum(0.5 + 0.27 * h for h in heights))
    figure, axes = theme.subplots(len(sets), 2, *size, squeeze=False, sharex="col", height_ratios=heights)
    for (bars, points), name in zip(axes, sets, strict=True):
        part = counts[counts["set"] == name]
        at, colour = np.arange(len(part)), theme.COLOURS[1]
        bars.barh(at, part["copies"], color=colour, label="Copies of the study's slices", height=0.7)
        clean = part["n"] - part["copies"]
        bars.barh(at, clean, left=part["copies"], color=theme.PALE, label="No copies", height=0.7)
        for y, row in zip(at, part.itertuples(), strict=True):
            bars.text(row.n, y, f" {row.copies} of {row.n}", va="center", size=7.5)
        bars.set_yticks(at, [class_name(label) for label in part["label"]])
        bars.invert_yaxis()
        for axis in (bars, points):
            axis.set_title(name, size=9, loc="left")
        scored = accuracy[accuracy["set"] == name]
        theme.dots(points, theme.percent(scored), np.arange(len(scored)))
        words = scored["slices"].replace("clean", "no copies").str.capitalize()
        theme.name_rows(points, words + " (n = " + scored["n"].astype(str) + ")")
    axes[0, 0].set_xlim(0, 1.6 * counts["n"].max())  # room for the words beside the bars
    axes[-1, 0].set_xlabel("Slices")
    axes[-1, 1].set_xlabel("Accuracy (%), with its interval")
    theme.legend(figure, axes[0, 0])
    told = "; ".join(f"{r.set}, {class_name(r.label)} {r.copies} of {r.n}" for r in counts.itertuples())
    scores = theme.told(accuracy["set"] + ", " + accuracy["slices"], theme.percent(accuracy))
    return described(figure, "copies", rows=told, accuracy=scores)
