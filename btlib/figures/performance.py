"""Figures of scores (notebooks 03, 04 and 06, results page): confusion, classes, ROC, calibration, coverage, spoiled slices."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns

from btlib.data import splits
from btlib.figures import theme
from btlib.figures.theme import class_name, described
from btlib.scores.robustness import STEPS
from btlib.study import tables

SCORES = {"precision": "Precision", "recall": "Recall\n(sensitivity)", "specificity": "Specificity", "f1": "F1"}


def confusion(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw confusion.csv in heat maps, a panel for each model, where it has that column, or protocol."""
    by = table.groupby("model" if "model" in table else "protocol", sort=False)
    groups = [(theme.in_print(name), part) for name, part in by]
    labels = list(theme.colours([*table["label"], *table["predicted"]]))
    names = [class_name(label).replace(" ", "\n") for label in labels]
    columns, side = min(len(groups), 3), 0.55 + 0.65 * len(labels)
    rows = -(-len(groups) // columns)
    size = (side * columns + 1.0, (side + 0.6) * rows)
    figure, axes = theme.subplots(rows, columns, *size, squeeze=False, sharey=True)
    style = {"fmt": "", "cmap": "Blues", "vmin": 0, "vmax": 100, "cbar": False, "square": True, "linewidths": 0.5}
    for axis, (name, part) in zip(axes.flat, groups, strict=False):
        cells = part.set_index(["label", "predicted"])[["n", "share"]].unstack()
        n, share = (cells[column].reindex(index=labels, columns=labels).fillna(0) for column in ("n", "share"))
        words = n.map("{:.0f}\n".format) + (100 * share).map("{:.1f} %".format)
        sns.heatmap(100 * share, annot=words, annot_kws={"size": 8}, ax=axis, **style)
        axis.set_xticks(np.arange(len(names)) + 0.5, names, size=7, rotation=0)
        axis.set_yticks(np.arange(len(names)) + 0.5, names, size=7, rotation=0)
        axis.tick_params(length=0)
        axis.set(xlabel="Predicted class", ylabel="")
        axis.set_title(name, size=9)
    for axis in axes.flat[len(groups) :]:
        axis.set_axis_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("True class")
    said = []
    for name, part in groups:
        right = part.loc[part["label"] == part["predicted"], "n"].sum()
        said.append(f"{' '.join(name.split())} {right} of {part['n'].sum()} slices right")
    return described(figure, "confusion", k=len(labels), rows="; ".join(said))


def per_class(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw the scores of classes in per_class.csv, of one protocol, a row for each class of each model."""
    table = table.join(table["score"].str.extract(rf"^(?P<kind>{'|'.join(SCORES)})_(?P<label>.+)$"))
    table = table.dropna(subset="kind").reset_index(drop=True)
    table["who"] = (table["model"] + " (" + table["weights"] + ")").map(theme.model_name)
    who, labels = list(table["who"].unique()), list(theme.colours(table["label"]))
    kinds = [kind for kind in SCORES if kind in set(table["kind"])]
    height = 0.9 + 0.19 * len(who) * (len(labels) + 0.8)
    figure, axes = theme.subplots(1, len(kinds), 7.4, height, sharex=True, sharey=True, squeeze=False)
    table["at"] = table["who"].map(who.index) * (len(labels) + 0.8) + table["label"].map(labels.index)
    for axis, kind in zip(axes[0], kinds, strict=True):
        for number, label in enumerate(labels):
            rows = table[(table["kind"] == kind) & (table["label"] == label)]
            style = {"colour": theme.colours(labels)[label], "marker": theme.MARKERS[number % 5], "ms": 4.5}
            theme.dots(axis, theme.percent(rows), rows["at"], **style)
        axis.set_xlabel(f"{SCORES[kind]} (%)", size=8)
        axis.tick_params(axis="x", labelsize=8)
    least = 100 * table["low"].min()
    room = (100 - least) / 20
    axes[0, 0].set_xlim(least - room, 100 + room)
    rows = table.drop_duplicates("at").sort_values("at")
    names = [f"{class_name(r.label)} (n = {r.support})" for r in rows.itertuples()]
    for axis in axes[0]:
        theme.name_rows(axis, names, rows["at"])
    for number, name in enumerate(who if len(who) > 1 else []):
        at = number * (len(labels) + 0.8) + (len(labels) - 1) / 2
        theme.beside_row(axes[0, -1], at, name)
    recall = table[table["kind"] == kinds[0]]
    told = theme.told(recall["who"] + " " + recall["label"].map(class_name), theme.percent(recall))
    names = ", ".join(SCORES[kind].replace("\n", " ") for kind in kinds)
    return described(figure, "per_class", scores=names, first=SCORES[kinds[0]], rows=told)


def roc(table: pd.DataFrame, intervals: pd.DataFrame | None = None) -> mpl.figure.Figure:
    """Draw roc.csv, of one protocol, whole and enlarged in the corner that matters, with the area in the legend.

    `intervals` has the bounds (score, low, high) of auc_CLASS for the legend.
    """
    bounds = {} if intervals is None else intervals.set_index("score")[["low", "high"]].T.to_dict("list")
    figure, (whole, corner) = theme.subplots(1, 2, 7.4, 2.8)
    name, palette, said = " ".join(theme.in_print(table["protocol"].iloc[0]).split()), theme.colours(table["label"]), []
    for number, (label, curve) in enumerate(table.groupby("label", sort=False)):
        text = f"{class_name(label)}: {curve['auc'].iloc[0]:.3f}"
        if f"auc_{label}" in bounds:
            text += "\n({:.3f} to {:.3f})".format(*bounds[f"auc_{label}"])
        style = {"color": palette[label], "ls": theme.LINES[number % 5], "lw": 1.8, "label": text}
        for axis in (whole, corner):
            axis.plot(curve["fpr"], curve["tpr"], **style)
        said.append(" ".join(f"{name} {text}".split()))
    whole.plot([0, 1], [0, 1], color=theme.GREY, lw=0.8, ls=":")
    whole.set(xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal", title=name)
    corner.set(xlim=(-0.002, 0.2), ylim=(0.8, 1.002), aspect="equal", title="Corner enlarged")
    style = {"title": "Area under the curve", "fontsize": 7.5, "title_fontsize": 8}
    corner.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), **style)
    for axis in (whole, corner):
        axis.set(xlabel="False positive rate", ylabel="True positive rate")
    return described(figure, "roc", rows="; ".join(said))


def reliability(before: pd.DataFrame, after: pd.DataFrame, temperature: float, slices: str) -> mpl.figure.Figure:
    """Draw accuracy against confidence before and after temperature scaling, with the slices of each bin below.

    Args:
        before, after: of `calibration.reliability`.
        temperature: what the logits were divided by.
        slices: whose, in words.
    """
    figure, axes = theme.subplots(2, 2, 6.6, 4.2, sharex=True, sharey="row", height_ratios=[3, 1])
    errors = []
    sides = {"Before": before, f"After, T = {temperature:.2f}": after}
    for (above, below), (title, table) in zip(axes.T, sides.items(), strict=True):
        errors.append(100 * (table["n"] * (table["confidence"] - table["accuracy"]).abs()).sum() / table["n"].sum())
        above.plot([0, 100], [0, 100], color=theme.GREY, lw=0.9, ls="--", label="Perfect calibration")
        values = theme.percent(table, "accuracy")
        theme.whiskers(above, 100 * table["confidence"], values, theme.COLOURS[0])
        label = f"{slices[:1].upper()}{slices[1:]}, by bin, with interval"
        above.plot(100 * table["confidence"], values["value"], "o", color=theme.COLOURS[0], ms=5, label=label)
        above.set_title(f"{title}: error {errors[-1]:.1f} points", size=9)
        widths = 100 * (table["bin_high"] - table["bin_low"])
        below.bar(100 * table["bin_low"], table["n"], widths, align="edge", color=theme.PALE, ec=theme.INK, lw=0.5)
        below.set(yscale="log", xlabel="Confidence (top probability, %)")
    lowest = 100 * min(before["bin_low"].min(), after["bin_low"].min())
    axes[0, 0].set(xlim=(min(lowest, 50), 101), ylim=(-2, 102), ylabel="Accuracy (%)")
    axes[1, 0].set(ylabel="Slices (log)", ylim=(0.7, None))
    theme.legend(figure, axes[0, 0])
    facts = {"slices": slices, "before": errors[0], "after": errors[1], "temperature": temperature}
    return described(figure, "reliability", **facts)


def coverage(table: pd.DataFrame, protocol: str) -> mpl.figure.Figure:
    """Draw selective.csv: accuracy on the slices that are answered, as the least sure ones are left to a reader.

    A panel for each set, or protocol, from a fifth of its slices answered on: on fewer, intervals are wider than what is to
    be seen. `protocol` is the split whose test slices are those called "test".
    """
    table = table[table["coverage"] >= 0.2]
    names = table["set"].str.partition(", ")
    groups = list(table.assign(who=names[0], part=names[2].replace("", "all")).groupby("who", sort=False))
    figure, axes = theme.subplots(1, len(groups), 1.2 + 1.4 * len(groups), 2.6, sharey=True, squeeze=False)
    styles = {"all": ("All slices", 0), "clean": ("Slices that are no copies", 1)}
    said, lines = [], {}
    for axis, (who, parts) in zip(axes[0], groups, strict=True):
        who = protocol if who == "test" else who
        title = theme.in_print(who) if who in splits.PROTOCOLS else tables.part_name(who)
        axis.set_title(title, size=9)
        for part, curve in parts.groupby("part", sort=False):
            (words, number), values = styles[part], theme.percent(curve, "accuracy")
            x, colour = 100 * curve["coverage"], theme.COLOURS[number]
            axis.fill_between(x, values["low"], values["high"], color=colour, alpha=0.15, lw=0)
            (lines[words],) = axis.plot(x, values["value"], color=colour, ls=theme.LINES[number])
            half = values["value"].iloc[(curve["coverage"] - 0.5).abs().argmin()]
            whose = " ".join(f"{title}, {words}".split())
            said.append(f"{whose} {values['value'].iloc[-1]:.1f} % of all, {half:.1f} % of the surest half")
        axis.set(xlim=(20, 100), xticks=(20, 60, 100), xlabel="Answered (%)")
    axes[0, 0].set(ylim=(None, 100.5), ylabel="Accuracy of those\nanswered (%)")
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=2, fontsize=8)
    return described(figure, "coverage", rows="; ".join(said))


def robustness(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw robustness.csv: accuracy against the strength of each change, a line a network."""
    groups = list(table.groupby("change", sort=False))
    columns = min(len(groups), 3)
    rows = -(-len(groups) // columns)
    figure, axes = theme.subplots(rows, columns, 7.4, 0.5 + 2.0 * rows, squeeze=False, sharex=True, sharey=True)
    said, above = [], {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "center", "size": 7}
    for axis, (change, part) in zip(axes.flat, groups, strict=False):
        for number, (network, curve) in enumerate(part.groupby("network", sort=False)):
            curve = curve.sort_values("strength")
            values, colour = theme.percent(curve, "accuracy"), theme.COLOURS[number % 7]
            style = {"color": colour, "ls": theme.LINES[number % 5], "marker": theme.MARKERS[number % 5], "ms": 4}
            axis.plot(curve["strength"], values["value"], label=theme.model_name(network), **style)
            axis.fill_between(curve["strength"], values["low"], values["high"], color=colour, alpha=0.15, lw=0)
            first, last = values["value"].iloc[[0, -1]]
            said.append(f"{change}, {theme.model_name(network)} {first:.1f} to {last:.1f} %")
        axis.set_title(change[:1].upper() + change[1:], size=9, pad=13)
        axis.annotate(STEPS[change], (0.5, 1), (0, 3), **above)
        axis.xaxis.set_tick_params(labelbottom=True)
        theme.whole_numbers(axis.xaxis)
    for axis in axes.flat[len(groups) :]:
        axis.set_axis_off()
    figure.supxlabel("Strength (0: as it is)", size=9)
    figure.supylabel("Accuracy (%)", size=9)
    theme.legend(figure, axes[0, 0])
    return described(figure, "robustness", n=table["n"].max(), rows="; ".join(said))
