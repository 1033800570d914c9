"""Figures of the study's answer (notebook 07, results page): the ladder, the splits, the claims, accuracy against size."""

import textwrap

import matplotlib as mpl
import numpy as np
import pandas as pd

from btlib.figures import theme
from btlib.figures.theme import described


def ladder(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw accuracy from the paper's number down to another hospital's slices, a row a way of testing.

    Args:
        table: group (heading; the first is the paper's), row (words), value, low, high (0 to 1), n, wrong (counts;
            empty where not told), unit ("slices" or "patients").
    """
    groups = list(table["group"].unique())
    number = table["group"].map(groups.index).to_numpy()
    # A heading takes a row of its own, and some air before it.
    at = np.arange(len(table)) + 1.3 * number + 0.9
    figure, axis = theme.subplots(1, 1, 7.4, 0.6 + 0.23 * (at.max() + 1))
    values, names = theme.percent(table), table["group"] + ", " + table["row"]
    for i, group in enumerate(groups):
        rows = number == i
        colour, marker = (theme.INK, *theme.COLOURS)[i % 8], ("D", *theme.MARKERS)[i % 6]
        theme.dots(axis, values[rows], at[rows], colour, marker, mfc=colour if i else "white")
        head = {"xycoords": axis.get_yaxis_transform(), "textcoords": "offset points", "weight": "bold", "size": 9}
        axis.annotate(group, (0, at[rows].min() - 0.9), (-5, 0), ha="right", va="center", **head)
    axis.axvline(values["value"].iloc[0], color=theme.INK, lw=0.8, ls="--", zorder=0)
    theme.name_rows(axis, table["row"], at)
    axis.tick_params(axis="y", labelsize=8.5)
    axis.set(xlabel="Accuracy (%), with its interval", ylim=(at.max() + 0.7, -0.6))
    axis.set_xlim(right=100.4)
    for y, i, value, row in zip(at, number, values["value"], table.itertuples(), strict=True):
        # The paper prints two decimals.
        theme.beside_row(axis, y, f"{value:.{1 if i else 2}f} %", gap=50, ha="right", weight="bold")
        if not np.isnan(row.n):
            unit = "" if row.unit == "slices" else f" {row.unit}"
            theme.beside_row(axis, y, f"{row.wrong:.0f} of {row.n:.0f}{unit} wrong", gap=58)
    first = number == 0
    told = theme.told(names[first], values[first], 2), theme.told(names[~first], values[~first])
    return described(figure, "ladder", rows="; ".join(told))


def leakage(table: pd.DataFrame, paper: float | None = 0.9935) -> mpl.figure.Figure:
    """Draw leakage.csv as a ladder, below the accuracy of the paper, None where it is of other data."""
    table = table[table["seed"].astype(str) != "all"]
    order = theme.strictness(table["protocol"])
    table = table.sort_values("protocol", key=lambda names: names.map(order.index), kind="stable")
    rows = (theme.percent(table, "accuracy") / 100).assign(n=table["n_test"], row="Seed " + table["seed"].astype(str))
    rows["group"] = [" ".join(theme.in_print(name).split()) for name in table["protocol"]]
    rows = rows.assign(wrong=((1 - rows["value"]) * rows["n"]).round(), unit="slices")
    printed = [{"group": "The paper", "row": "As printed", "value": paper}] if paper else []
    figure = ladder(pd.concat([pd.DataFrame(printed), rows], ignore_index=True))
    return described(figure, "leakage", rows=figure.alt.split(": ", 1)[1].rstrip("."))


def claims(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw the paper's value beside ours, and the verdict, of the rows of claims.csv that have both numbers."""
    rows = table.dropna(subset=["paper", "ours"]).reset_index(drop=True)
    figure, axis = theme.subplots(1, 1, 7.4, 1.0 + 0.62 * len(rows))
    at, paper = np.arange(len(rows)), 100 * rows["paper"]
    values = theme.percent(rows, "ours")
    axis.hlines(at, paper, values["value"], color="#CCCCCC", lw=1, zorder=0)
    theme.dots(axis, values, at, label="This study, with its interval")
    axis.plot(paper, at, "D", mfc="white", mec=theme.COLOURS[1], mew=1.5, ms=6, label="Paper")
    one = rows["data"].nunique() == 1
    words = rows["claim"] if one else rows["claim"] + " [" + rows["data"].astype(str) + "]"
    theme.name_rows(axis, [textwrap.fill(text, 46) for text in words])
    axis.tick_params(axis="y", labelsize=8)
    for y, verdict in zip(at, rows["verdict"], strict=True):
        theme.beside_row(axis, y, textwrap.fill(str(verdict), 24))
    axis.set_xlim(right=100.5)
    axis.set_xlabel("Accuracy or score (%)" + (f", {rows['data'][0]}" if one else ""))
    theme.legend(figure, axis)
    told = [
        f"{r.claim}: paper {100 * r.paper:.2f} %, ours {100 * r.ours:.1f} %, {r.verdict}" for r in rows.itertuples()
    ]
    return described(figure, "claims", rows="; ".join(told))


def size(table: pd.DataFrame, x: str = "parameters") -> mpl.figure.Figure:
    """Draw the accuracy of `digest.networks` against cost; pretrained and random networks never in one axis.

    `x` is "parameters" or "macs".
    """
    label, unit = {"parameters": ("Parameters (millions", 1e6), "macs": ("Multiply-adds a slice (billions", 1e9)}[x]
    groups = list(table.groupby(table["weights"].eq("random").map({False: "Pretrained", True: "Random weights"})))
    figure, axes = theme.subplots(1, len(groups), 3.9 * len(groups), 3.4, squeeze=False)
    said = []
    for axis, (title, part), colour in zip(axes[0], groups, theme.COLOURS, strict=False):
        values, cost = theme.percent(part, "accuracy"), part[x] / unit
        names = part["model"] + (" (" + part["weights"] + ")" if part["weights"].nunique() > 1 else "")
        names = [theme.model_name(name) for name in names]
        if table["image_size"].nunique() > 1:
            names = [f"{name}, {pixels} px" for name, pixels in zip(names, part["image_size"], strict=True)]
        theme.whiskers(axis, cost, values, theme.PALE)
        axis.plot(cost, values["value"], "o", color=colour, ms=6)
        # Room for the names, which stand right of their points; a letter takes less than a fiftieth of the axis.
        left, letters = cost.min() / 2, np.array([min(len(name), 35) for name in names])
        right = left * np.exp((np.log(1.12 * cost / left) / (1 - letters / 50)).max())
        axis.set(xscale="log", xlim=(left, right), title=title)
        axis.set(xlabel=f"{label}, log scale)", ylabel="Accuracy (%)")
        theme.log_ticks(axis)
        said.append(f"{title}: {theme.told(names, values)}")
        _name_points(figure, axis, cost, values, names)
    return described(figure, "size", cost=label.split(" (")[0].lower(), rows=". ".join(said))


def _name_points(figure, axis, x, values: pd.DataFrame, names) -> None:
    """Write a name beside each point, clear of other names and of the intervals."""
    from adjustText import adjust_text

    spots = zip(1.12 * x, values["value"], names, strict=True)
    texts = [axis.text(px, py, name, size=7.5, va="center") for px, py, name in spots]
    figure.draw_without_rendering()  # the layout must stand before names are moved
    # An interval is given as a few points along it.
    along = np.linspace(values["low"], values["high"], 7).ravel()
    where = {"x": np.tile(x, 7), "y": along, "target_x": x.to_numpy(), "target_y": values["value"].to_numpy()}
    line = {"arrowstyle": "-", "color": theme.PALE}
    # Pushed harder from points than pulled to them: a name as wide as the gap to the next interval stands below.
    push = {"expand": (1.1, 1.5), "force_static": (0.3, 0.6), "force_pull": (0.001, 0.001), "iter_lim": 600}
    adjust_text(texts, ax=axis, arrowprops=line, **push, **where)
