"""Figures of the study's answer: the ladder, the splits, the claims, and accuracy against size."""

import textwrap

import matplotlib as mpl
import numpy as np
import pandas as pd

from btlib.figures import theme
from btlib.figures.theme import described


def ladder(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw what accuracy becomes from the paper's number down to another hospital's slices, a row a way of testing.

    Args:
        table: in the order to draw: group (heading in words; the first is the paper's), row (words), value, low, high
            (0 to 1), n, wrong (counts), unit where not all are slices ("patients").

    Used by the results page and README.
    """
    groups = list(table["group"].unique())
    # A heading takes a row of its own, and half a row of air before it.
    at = np.arange(len(table)) + 1.3 * table["group"].map(groups.index).to_numpy() + 0.9
    heads = [at[(table["group"] == group).to_numpy()].min() - 0.9 for group in groups]
    figure, axis = theme.subplots(1, 1, 7.4, 0.6 + 0.23 * (at.max() + 1))
    values = theme.percent(table)
    for number, group in enumerate(groups):
        rows = (table["group"] == group).to_numpy()
        colour, marker = (theme.INK, *theme.COLOURS)[number % 8], ("D", *theme.MARKERS)[number % 6]
        theme.dots(axis, values[rows], at[rows], colour, marker, mfc="white" if number == 0 else colour)
        axis.text(
            0,
            heads[number],
            f"{group}  ",
            transform=axis.get_yaxis_transform(),
            ha="right",
            va="center",
            weight="bold",
            size=9,
        )
    axis.axvline(values["value"].iloc[0], color=theme.INK, lw=0.8, ls="--", zorder=0)
    theme.name_rows(axis, table["row"], at)
    axis.tick_params(axis="y", labelsize=8.5)
    axis.set_ylim(at.max() + 0.7, -0.6)
    units = table["unit"].where(table["unit"] != "slices", "") if "unit" in table else [""] * len(table)
    counts = [
        " ".join(f"{w} of {n} {u} wrong".split()) for w, n, u in zip(table["wrong"], table["n"], units, strict=True)
    ]
    decimals = np.where(table["group"] == groups[0], 2, 1)
    for y, value, places, text in zip(at, values["value"], decimals, counts, strict=True):
        theme.beside_row(axis, y, f"{value:.{places}f} %", gap=50, ha="right", weight="bold")
        theme.beside_row(axis, y, text, gap=58)
    axis.set_xlabel("Accuracy (%), with its interval")
    axis.set_xlim(right=100.4)
    return described(figure, "ladder", rows=theme.told(table["group"] + ", " + table["row"], values))


def leakage(table: pd.DataFrame, paper: float = 0.9935) -> mpl.figure.Figure:
    """Draw the accuracy of one model under every way of splitting, each fit with its interval, beside the paper's.

    Args:
        table: leakage.csv: protocol, seed, accuracy, accuracy_low, accuracy_high (0 to 1). The row that pools the seeds
            of a protocol is drawn as the mean of the others.
        paper: the paper's accuracy, 0 to 1.

    Used by notebook 07.
    """
    table = table[table["seed"].astype(str) != "all"]
    protocols = [name for name in theme.PROTOCOL_NAMES if name in set(table["protocol"])]
    protocols += [name for name in table["protocol"].unique() if name not in protocols]
    figure, axis = theme.subplots(1, 1, 6.4, 1.15 + 0.55 * len(protocols))
    said = []
    for at, protocol in enumerate(protocols):
        values = theme.percent(table[table["protocol"] == protocol], "accuracy")
        places = at + (np.arange(len(values)) - (len(values) - 1) / 2) * min(0.16, 0.7 / len(values))
        random = protocol.startswith("image")
        theme.dots(axis, values, places, theme.COLOURS[int(random)], "s" if random else "o", ms=4.5)
        mean = values["value"].mean()
        words = f"{mean:.1f} %" + (f"\nmean of {len(values)}" if len(values) > 1 else "")
        theme.beside_row(axis, at, words)
        said.append(f"{theme.in_print(protocol)} {words}".replace("\n", " "))
    axis.axvline(100 * paper, color=theme.INK, lw=1, ls="--")
    axis.set_title(f"Dashed line, the paper's: {100 * paper:.2f} %", size=8, loc="right")
    theme.name_rows(axis, [theme.in_print(name) for name in protocols])
    axis.set_xlim(right=100.2)
    axis.set_xlabel("Accuracy on test slices (%), interval over patients")
    return described(figure, "leakage", paper=100 * paper, rows="; ".join(said))


def claims(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw the paper's value of each claim beside ours with its interval, and the verdict.

    Args:
        table: claims.csv: claim, paper, ours, low, high (shares, 0 to 1), verdict, data. Claims without a number on both
            sides are left out: they are in the table.

    Used by notebook 07.
    """
    rows = table.dropna(subset=["paper", "ours"]).reset_index(drop=True)
    figure, axis = theme.subplots(1, 1, 7.4, 1.0 + 0.55 * max(len(rows), 1))
    at, paper = np.arange(len(rows)), 100 * rows["paper"]
    values = theme.percent(rows, "ours")
    axis.hlines(at, paper, values["value"], color="#CCCCCC", lw=1, zorder=0)
    theme.dots(axis, values, at, label="This study, with its interval")
    axis.plot(paper, at, "D", mfc="white", mec=theme.COLOURS[1], mew=1.5, ms=6, label="Paper")
    one = rows["data"].nunique() == 1
    words = rows["claim"] if one else rows["claim"] + " [" + rows["data"] + "]"
    if len(rows):
        theme.name_rows(axis, [textwrap.fill(text, 38) for text in words])
    for y, verdict in zip(at, rows["verdict"], strict=True):
        theme.beside_row(axis, y, textwrap.fill(str(verdict), 24))
    axis.set_xlim(right=100.5)
    axis.set_xlabel("Accuracy or score (%)" + (f", {rows['data'][0]}" if one else ""))
    theme.legend(figure, axis)
    told = "; ".join(
        f"{text}: paper {p:.2f} %, ours {o:.1f} %, {verdict}"
        for text, p, o, verdict in zip(rows["claim"], paper, values["value"], rows["verdict"], strict=True)
    )
    return described(figure, "claims", rows=told)


def size(table: pd.DataFrame, x: str = "parameters") -> mpl.figure.Figure:
    """Draw accuracy with its interval against what a model costs; pretrained and random networks never in one axis.

    Args:
        table: one row a model and initialisation, all of one protocol: model, weights ("imagenet", other words, or empty
            for random), image_size (pixels, told where it differs), accuracy or value with its bounds (0 to 1), and
            parameters or macs (counts).
        x: "parameters" or "macs".

    Used by notebook 07 and the results page.
    """
    from adjustText import adjust_text

    label, unit = {"parameters": ("Parameters (millions", 1e6), "macs": ("Multiply-adds a slice (billions", 1e9)}[x]
    random = table["weights"].isna() | table["weights"].isin(("", "random"))
    groups = [
        (name, part) for name, part in (("Pretrained", table[~random]), ("Random weights", table[random])) if len(part)
    ]
    figure, axes = theme.subplots(1, max(len(groups), 1), 3.9 * max(len(groups), 1), 3.4, squeeze=False)
    said = []
    for axis, (title, part), colour in zip(axes[0], groups, theme.COLOURS, strict=False):
        values, cost = theme.percent(part, "value" if "value" in part else "accuracy"), part[x] / unit
        names = [theme.model_name(name) for name in part["model"]]
        if table["image_size"].nunique() > 1:
            names = [f"{name}, {pixels} px" for name, pixels in zip(names, part["image_size"], strict=True)]
        theme.whiskers(axis, cost, values, ecolor=theme.PALE)
        axis.plot(cost, values["value"], "o", color=colour, ms=6)
        # Room for the names, which stand right of their points.
        room = 4 * (cost.max() / cost.min()) ** 0.5
        axis.set(xscale="log", xlim=(cost.min() / 2, cost.max() * room), title=title)
        axis.set(xlabel=f"{label}, log scale)", ylabel="Accuracy (%)")
        axis.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 3)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
        said.append(f"{title}: {theme.told(names, values)}")
        spots = zip(1.12 * cost, values["value"], names, strict=True)
        texts = [axis.text(px, py, name, size=7.5, va="center") for px, py, name in spots]
        figure.draw_without_rendering()  # the layout must stand before names are moved
        # Names keep off the intervals too: each is given as a few points.
        along = np.linspace(values["low"], values["high"], 7).ravel()
        line = {"arrowstyle": "-", "color": theme.PALE}
        where = {"x": np.tile(cost, 7), "y": along, "target_x": cost.to_numpy(), "target_y": values["value"].to_numpy()}
        adjust_text(texts, ax=axis, expand=(1.1, 1.5), iter_lim=300, arrowprops=line, **where)
    return described(figure, "size", cost=label.split(" (")[0].lower(), rows=". ".join(said))
