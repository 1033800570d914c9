"""One function a figure: takes tables or arrays, returns a matplotlib Figure, writes nothing."""

import textwrap

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from btlib import CLASSES

PALETTE = {"meningioma": "#0072B2", "glioma": "#D55E00", "pituitary": "#009E73", "no_tumor": "#666666"}
"""Okabe and Ito's colours, told apart by colour-blind readers and in grey print (Okabe, Ito 2008)."""


def use_theme() -> None:
    """Set the study's one theme: white, ticks, sizes readable at a journal's column width. Every notebook."""
    sns.set_theme(
        context="paper",
        style="ticks",
        palette=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"],
        font_scale=1.1,
    )
    mpl.rcParams.update(
        {
            "figure.dpi": 110,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.hashsalt": "btlib",
            "image.cmap": "gray",
            "figure.constrained_layout.use": True,
        }
    )


# Notebooks 03, 04, 06 and 07: scores.

MODEL_NAMES = {
    **{f"efficientnet_b{i}": f"EfficientNet-B{i}" for i in range(8)},
    **{f"efficientnet_lite{i}": f"EfficientNet-Lite{i}" for i in range(5)},
    "vgg16": "VGG16",
    "resnet152v2": "ResNet152V2",
    "vit_b16": "ViT-B/16",
}
"""A model's name in print; a model that is not listed keeps the registry's name."""

PROTOCOL_NAMES = {
    "image_holdout": "slices at random,\nhold-out",
    "image_folds": "slices at random,\nfolds",
    "patient_holdout": "patients apart,\nhold-out",
    "patient_folds": "patients apart,\nfolds",
    "group_holdout": "patient groups apart,\nhold-out",
    "group_folds": "patient groups apart,\nfolds",
    "author_folds": "the author's\npatient folds",
}
"""A protocol's name in print, in the order of ever stricter separation."""

INK, GREY = "#222222", "#8A8A8A"
LABELS = {"meningioma": "meningioma", "glioma": "glioma", "pituitary": "pituitary tumour", "no_tumor": "no tumour"}
_LINES = {"meningioma": "-", "glioma": "--", "pituitary": "-."}


def _subplots(rows: int, columns: int, width: float, height: float, **options):
    """Make a figure (inches) that pyplot has forgotten, so that a cell which returns it shows it once."""
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **options)
    plt.close(figure)
    return figure, axes


def _whiskers(axis, x, y, low, high, horizontal=False, **style) -> None:
    """Draw interval bars; bounds are absolute, and an empty one draws nothing."""
    value = np.asarray(x if horizontal else y, float)
    bars = np.vstack([value - np.asarray(low, float), np.asarray(high, float) - value]).clip(min=0)
    style = {"fmt": "none", "ecolor": INK, "elinewidth": 1.1, "capsize": 2.5} | style
    axis.errorbar(x, y, **{"xerr" if horizontal else "yerr": bars}, **style)


def learning_curves(history: pd.DataFrame) -> mpl.figure.Figure:
    """Draw loss, accuracy and learning rate over the epochs of all stages, training beside validation.

    Args:
        history: one row an epoch in the order of training, columns stage (as `Run.history` names it), epoch, loss, accuracy, val_loss,
            val_accuracy (accuracies 0 to 1), learning_rate.

    Used by notebooks 03 and 04.
    """
    figure, axes = _subplots(1, 3, 7.4, 2.5)
    epoch = np.arange(1, len(history) + 1)
    stages = history["stage"].to_numpy()
    first = np.flatnonzero(np.append(True, stages[1:] != stages[:-1]))
    for axis, name, scale, label in (
        (axes[0], "loss", 1, "loss (cross-entropy, nats)"),
        (axes[1], "accuracy", 100, "accuracy (%)"),
    ):
        axis.plot(epoch, scale * history[name], color=GREY, marker="o", markersize=2.5, label="training")
        validation = scale * history[f"val_{name}"]
        axis.plot(epoch, validation, color="#0072B2", ls="--", marker="s", markersize=2.5, label="validation")
        axis.set_ylabel(label)
    axes[0].set_ylim(bottom=0)
    axes[0].legend(frameon=False)
    rate = history["learning_rate"].where(history["learning_rate"] > 0)  # a cosine ends at 0, which has no logarithm
    axes[2].step(epoch, rate, color=INK, where="mid")
    axes[2].set_ylabel("learning rate (log scale)")
    if rate.notna().any():
        # At least a decade, or a rate that hardly moves would look like a cliff.
        axes[2].set(yscale="log", ylim=(min(rate.min() / 1.5, rate.max() / 12), rate.max() * 1.5))
    axes[2].yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
        axis.set_xlim(0.5, len(history) + 0.5)
        for number, (start, stop) in enumerate(zip(first, [*first[1:], len(history)], strict=True), start=1):
            if start:
                axis.axvline(start + 0.5, color=GREY, lw=0.8, ls=":")
            if len(first) > 1:
                middle = (start + stop) / 2 / len(history)
                axis.text(middle, 1.02, number, transform=axis.transAxes, ha="center", va="bottom", color=INK, size=8)
    if len(first) > 1:
        figure.suptitle(f"stages of fine-tuning: {'; '.join(stages[first])}", size=8, x=0.01, ha="left")
    return figure


def confusion_matrix(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw counts and row percentages in one heat map, a panel for each model where there are several.

    Args:
        table: columns label, predicted, n, share as `metrics.confusion` returns them, and model where there are several.

    Used by notebooks 03, 04 and 06.
    """
    groups = list(table.groupby("model", sort=False)) if "model" in table else [(None, table)]
    columns = min(len(groups), 3)
    rows = -(-len(groups) // columns)
    figure, axes = _subplots(rows, columns, 2.5 * columns + 1.2, 2.5 * rows + 0.2, squeeze=False, sharey=True)
    labels = [LABELS[c] for c in CLASSES]
    for axis, (name, part) in zip(axes.flat, groups, strict=False):
        shares = 100 * part.pivot(index="label", columns="predicted", values="share").loc[[*CLASSES], [*CLASSES]]
        counts = part.pivot(index="label", columns="predicted", values="n").loc[[*CLASSES], [*CLASSES]]
        image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        for i, j in np.ndindex(shares.shape):
            share = shares.iloc[i, j]
            colour = "white" if share > 55 else INK
            axis.text(j, i, f"{counts.iloc[i, j]:d}\n{share:.1f} %", ha="center", va="center", color=colour, size=8)
        axis.set_xticks(range(3), [c.replace(" ", "\n") for c in labels], size=7)
        axis.set_yticks(range(3), [c.replace(" ", "\n") for c in labels], size=7)
        axis.tick_params(length=0)
        axis.set_xlabel("predicted class")
        if name is not None:
            axis.set_title(MODEL_NAMES.get(name, name), size=9)
    for axis in axes.flat[len(groups) :]:
        axis.set_axis_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("true class")
    figure.colorbar(image, ax=axes, label="share of the true class (%)", shrink=0.85, aspect=25)
    sns.despine(fig=figure, left=True, bottom=True)
    return figure


def roc_curves(table: pd.DataFrame, intervals: pd.DataFrame | None = None) -> mpl.figure.Figure:
    """Draw one-vs-rest ROC curves, whole and enlarged in the corner that matters, with the area in the legend.

    Args:
        table: columns label, fpr, tpr, auc as `metrics.roc` returns them.
        intervals: columns score, low, high as `metrics.intervals` returns them; bounds of auc_<class> go to the legend.

    Used by notebooks 03 and 04.
    """
    bounds = {} if intervals is None else intervals.set_index("score")[["low", "high"]].T.to_dict("list")
    figure, (whole, corner) = _subplots(1, 2, 7.0, 3.4)
    for label, curve in table.groupby("label", sort=False):
        text = f"{LABELS[label]}: {curve['auc'].iloc[0]:.4f}"
        if f"auc_{label}" in bounds:
            text += " ({:.4f} to {:.4f})".format(*bounds[f"auc_{label}"])
        for axis in (whole, corner):
            axis.plot(
                curve["fpr"],
                curve["tpr"],
                color=PALETTE[label],
                ls=_LINES[label],
                lw=1.8,
                label=text,
                clip_on=axis is corner,
            )
    whole.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls=":")
    whole.set(xlim=(-0.01, 1), ylim=(0, 1.01), title="whole curve", aspect="equal")
    title = "area under the curve" + (" (interval)" if bounds else "")
    corner.set(xlim=(-0.002, 0.2), ylim=(0.8, 1.002), title="upper left corner, enlarged", aspect="equal")
    for axis in (whole, corner):
        axis.set_xlabel("false positive rate")
        axis.set_ylabel("true positive rate")
    handles, labels = whole.get_legend_handles_labels()
    figure.legend(handles, labels, title=title, loc="outside lower center", ncols=3, fontsize=7.5, frameon=False)
    return figure


def accuracy_against(table: pd.DataFrame, x: str = "parameters") -> mpl.figure.Figure:
    """Draw accuracy with its interval against what a model costs; filled: ImageNet weights, open: random ones.

    Args:
        table: one row a model and initialisation, all of one protocol: columns model, weights ("imagenet" or empty),
            image_size (pixels, told where models differ in it), accuracy, accuracy_low, accuracy_high (0 to 1), and
            parameters or macs (counts).
        x: "parameters" or "macs".

    Used by notebooks 03 and 07.
    """
    unit, label = {
        "parameters": (1e6, "parameters (millions, log scale)"),
        "macs": (1e9, "multiply-adds a slice (billions, log scale)"),
    }[x]
    figure, axis = _subplots(1, 1, 5.6, 3.6)
    table = table.reset_index(drop=True)
    cost = table[x] / unit
    pretrained = table["weights"].eq("imagenet")
    axis.set_xscale("log")
    _whiskers(
        axis, cost, 100 * table["accuracy"], 100 * table["accuracy_low"], 100 * table["accuracy_high"], ecolor=GREY
    )
    for chosen, face, name in (
        (pretrained, "#0072B2", "ImageNet weights"),
        (~pretrained, "white", "random initialisation"),
    ):
        if chosen.any():
            axis.plot(
                cost[chosen], 100 * table["accuracy"][chosen], "o", ms=6, mfc=face, mec="#0072B2", mew=1.4, label=name
            )
    axis.set_xlim(cost.min() / 4, cost.max() * 2)
    axis.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    axis.set(xlabel=label, ylabel="accuracy (%)")
    axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=2)
    names = [MODEL_NAMES.get(name, name) for name in table["model"]]
    if table["image_size"].nunique() > 1:
        names = [f"{name}, {size} px" for name, size in zip(names, table["image_size"], strict=True)]
    _label_points(figure, axis, cost, 100 * table["accuracy"], names)
    return figure


def _label_points(figure, axis, x, y, names) -> None:
    """Write a name beside each point, on the side where it covers the least of other names, points and bars."""
    figure.draw_without_rendering()
    points = axis.transData.transform(np.column_stack([x, y]))
    taken = [mpl.transforms.Bbox.from_extents(px - 6, py - 6, px + 6, py + 6) for px, py in points]
    # Interval bars stand in the way as well: each is a thin box through its point.
    for line in [line for group in axis.containers for line in group[2]]:
        taken += [path.get_extents(axis.transData).padded(2) for path in line.get_paths()]
    frame = axis.get_window_extent()
    for px, py, name in sorted(zip(*points.T, names, strict=True)):
        sides = [(dx, dy) for dy in (0, 9, -9, 18, -18, 27, -27) for dx in (7, -7)]
        point = axis.transData.inverted().transform((px, py))
        text = axis.annotate(name, point, sides[0], size=7.5, va="center", textcoords="offset points")
        text.set_in_layout(False)
        tried = []
        for side in sides:
            text.set(position=side, horizontalalignment="left" if side[0] > 0 else "right")
            box = text.get_window_extent()
            hidden = sum(_common(box, other) for other in taken) + box.width * box.height - _common(box, frame)
            tried.append((round(hidden), len(tried), side, box))
        _, _, side, box = min(tried)
        text.set(position=side, horizontalalignment="left" if side[0] > 0 else "right")
        taken.append(box)


def _common(a, b) -> float:
    """Return the area that two boxes share."""
    both = mpl.transforms.Bbox.intersection(a, b)
    return both.width * both.height if both is not None else 0.0


def per_class_bars(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw precision, recall and F1 of each class as bars with intervals, a group for each model.

    Args:
        table: columns model, score, value, low, high (0 to 1): `metrics.intervals` of each model, one below the
            other. A column weights ("imagenet" or empty), where given, is written beside the model.

    Used by notebooks 03 and 04.
    """
    table = table.reset_index(drop=True)
    shown = table["model"].map(lambda name: MODEL_NAMES.get(name, name))
    if "weights" in table:
        shown = shown + "\n(" + table["weights"].eq("imagenet").map({True: "ImageNet", False: "random"}) + ")"
    names = list(dict.fromkeys(shown))
    figure, axes = _subplots(1, 3, 7.4, 1.1 + 0.62 * len(names), sharey=True)
    height = 0.27
    for axis, (score, title) in zip(
        axes, (("precision", "precision"), ("recall", "recall"), ("f1", "F1")), strict=True
    ):
        for c, label in enumerate(CLASSES):
            rows = table[table["score"] == f"{score}_{label}"]
            place = [names.index(shown[i]) + (c - 1) * height for i in rows.index]
            value = 100 * rows["value"]
            # Vermilion and green are one grey in print, so one of them is hatched.
            style = {"color": PALETTE[label], "edgecolor": "white", "lw": 0.5, "hatch": "////" if c == 1 else None}
            axis.barh(place, value, height, label=LABELS[label], **style)
            _whiskers(
                axis, value, place, 100 * rows["low"], 100 * rows["high"], horizontal=True, capsize=1.5, elinewidth=0.9
            )
            for at, number in zip(place, value, strict=True):
                axis.text(103, at, f"{number:.1f}", va="center", size=6.5)
        axis.set(xlim=(0, 100), xlabel=f"{title} (%)")
        axis.set_xticks([0, 25, 50, 75, 100])
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure


def ablation(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw accuracy with its interval, one factor at a time, against the proposed model.

    Args:
        table: one row a setting, in the order to draw: columns factor, setting, seeds (number of fits), accuracy
            (mean, 0 to 1), accuracy_low, accuracy_high, proposed (bool: the setting is the proposed model's).

    Used by notebook 04.
    """
    figure, axis = _subplots(1, 1, 5.6, 0.9 + 0.235 * len(table) + 0.1 * table["factor"].nunique())
    place, last, at = [], None, -1.0
    for factor in table["factor"]:
        at += 1 if factor == last or last is None else 1.45
        last = factor
        place.append(at)
    place = np.array(place)
    value, low, high = (100 * table[f"accuracy{end}"] for end in ("", "_low", "_high"))
    proposed = table["proposed"].astype(bool).to_numpy()
    if proposed.any():
        axis.axvline(value[proposed].iloc[0], color=GREY, lw=0.9, ls="--", zorder=0)
    _whiskers(axis, value, place, low, high, horizontal=True, ecolor="#0072B2", elinewidth=1.4)
    for chosen, face, name in ((~proposed, "#0072B2", "one factor changed"), (proposed, "white", "proposed model")):
        axis.plot(value[chosen], place[chosen], "o", ms=5.5, mfc=face, mec="#0072B2", mew=1.4, ls="none", label=name)
    axis.set_yticks(place, table["setting"].astype(str))
    axis.invert_yaxis()
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", color="#E6E6E6", lw=0.6)
    axis.set_axisbelow(True)
    for factor in table["factor"].unique():
        rows = place[(table["factor"] == factor).to_numpy()]
        text = axis.text(
            1.02, rows.mean(), factor, transform=axis.get_yaxis_transform(), va="center", size=8, style="italic"
        )
        text.set_in_layout(True)
    seeds = table["seeds"]
    fits = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    axis.set_xlabel(f"accuracy (%) with its interval over patients, {fits} seed{'' if fits == '1' else 's'}")
    axis.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def leakage(table: pd.DataFrame, paper: float = 0.9935) -> mpl.figure.Figure:
    """Draw the accuracy of one model under every way of splitting, each fit with its interval, beside the paper's.

    Args:
        table: as leakage.csv: columns protocol, seed, accuracy, accuracy_low, accuracy_high (0 to 1). The row that
            pools the seeds of a protocol is drawn as the mean of the others.
        paper: the paper's accuracy, 0 to 1.

    Used by notebook 07.
    """
    table = table[table["seed"].astype(str) != "all"]
    protocols = [p for p in PROTOCOL_NAMES if p in set(table["protocol"])]
    figure, axis = _subplots(1, 1, 5.8, 1.15 + 0.55 * len(protocols))
    for at, protocol in enumerate(protocols):
        rows = table[table["protocol"] == protocol]
        place = at + (np.arange(len(rows)) - (len(rows) - 1) / 2) * min(0.16, 0.7 / len(rows))
        value = 100 * rows["accuracy"]
        colour, marker = ("#D55E00", "s") if protocol.startswith("image") else ("#0072B2", "o")
        many = {"elinewidth": 0.8, "capsize": 0} if len(rows) > 1 else {}
        _whiskers(
            axis,
            value,
            place,
            100 * rows["accuracy_low"],
            100 * rows["accuracy_high"],
            horizontal=True,
            ecolor=colour,
            **many,
        )
        axis.plot(value, place, marker, color=colour, ms=4 if len(rows) > 1 else 6, ls="none")
        if len(rows) > 1:
            axis.plot([value.mean()] * 2, [at - 0.4, at + 0.4], color=INK, lw=1.6)
        mean = f"{value.mean():.1f} %" + (f"\nmean of {len(rows)}" if len(rows) > 1 else "")
        axis.text(1.02, at, mean, transform=axis.get_yaxis_transform(), va="center", size=8)
    axis.axvline(100 * paper, color=INK, lw=1, ls="--")
    axis.annotate(
        f"paper: {100 * paper:.2f} %",
        (100 * paper, 1),
        (-4, 3),
        xycoords=axis.get_xaxis_transform(),
        textcoords="offset points",
        ha="right",
        va="bottom",
        size=8,
    )
    axis.set_yticks(range(len(protocols)), [PROTOCOL_NAMES[p] for p in protocols])
    axis.set_ylim(len(protocols) - 0.45, -0.55)
    axis.set_xlim(right=100)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("accuracy on test slices (%), interval over patients")
    return figure


def growth(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw what a study costs against its number of slices, each cost with its straight line.

    Args:
        table: as reports/growth.csv: slices, prepare_seconds, cache_mb, epoch_seconds, peak_mb.

    Used by `make bench`.
    """
    costs = {"prepare_seconds": "cache (s)", "cache_mb": "cache (MB)", "epoch_seconds": "epoch (s)"}
    figure, axes = _subplots(1, 4, 8.6, 2.2)
    for axis, (column, label) in zip(axes, (costs | {"peak_mb": "peak memory (MB)"}).items(), strict=True):
        n, values = table["slices"] / 1000, table[column]
        slope, base = np.polyfit(n, values, 1)
        axis.plot(n, base + slope * n, color=GREY, lw=1)
        axis.plot(n, values, "o", color="#0072B2", ms=4)
        axis.set_ylim(0, 1.15 * values.max())
        axis.set_title(f"{slope:+.3g} for 1000 slices", size=8, color=INK)
        axis.set_ylabel(label)
        axis.set_xlabel("slices (thousands)")
    return figure


def claims(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw the paper's value of each claim beside ours with its interval, and the verdict.

    Args:
        table: as claims.csv: columns claim, paper, ours, low, high (shares, 0 to 1), verdict, data. Claims without a
            number on both sides are left out: they are in the table.

    Used by notebook 07.
    """
    rows = table.dropna(subset=["paper", "ours"]).reset_index(drop=True)
    figure, axis = _subplots(1, 1, 7.0, 1.2 + 0.55 * len(rows))
    place = np.arange(len(rows))
    axis.hlines(place, 100 * rows["paper"], 100 * rows["ours"], color="#CCCCCC", lw=1, zorder=0)
    _whiskers(
        axis,
        100 * rows["ours"],
        place,
        100 * rows["low"],
        100 * rows["high"],
        horizontal=True,
        ecolor="#0072B2",
        elinewidth=1.4,
    )
    axis.plot(100 * rows["ours"], place, "o", color="#0072B2", ms=6, label="this study, with interval")
    axis.plot(100 * rows["paper"], place, "D", mfc="white", mec="#D55E00", mew=1.5, ms=6, label="paper")
    one = rows["data"].nunique() == 1
    words = rows["claim"] if one else rows["claim"] + " [" + rows["data"] + "]"
    axis.set_yticks(place, [textwrap.fill(w, 38) for w in words])
    for at, verdict in zip(place, rows["verdict"], strict=True):
        axis.text(1.03, at, textwrap.fill(str(verdict), 24), transform=axis.get_yaxis_transform(), va="center", size=8)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(right=100.5)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("accuracy or score (%)" + (f", {rows['data'][0]}" if one else ""))
    axis.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def reliability_diagram(before: pd.DataFrame, after: pd.DataFrame, temperature: float) -> mpl.figure.Figure:
    """Draw accuracy against confidence before and after temperature scaling, with the slices of each bin below.

    Args:
        before, after: columns bin_low, bin_high, n, confidence, accuracy, low, high as `metrics.reliability` returns.
        temperature: what the logits were divided by, for the title.

    Used by notebook 06.
    """
    figure, axes = _subplots(2, 2, 6.4, 4.1, sharex=True, sharey="row", gridspec_kw={"height_ratios": [3, 1]})
    for (above, below), table, title in zip(
        axes.T, (before, after), ("before", f"after, T = {temperature:.2f}"), strict=True
    ):
        gap = (table["n"] * (table["confidence"] - table["accuracy"]).abs()).sum() / table["n"].sum()
        above.plot([0, 1], [0, 1], color=GREY, lw=0.9, ls="--", label="perfect calibration")
        _whiskers(above, table["confidence"], table["accuracy"], table["low"], table["high"], ecolor="#0072B2")
        above.plot(
            table["confidence"], table["accuracy"], "o", color="#0072B2", ms=5, label="slices, by bin, with interval"
        )
        above.set_title(f"{title}: ECE {100 * gap:.1f} points", size=9)
        below.bar(
            table["bin_low"],
            table["n"],
            table["bin_high"] - table["bin_low"],
            align="edge",
            color="#BBBBBB",
            edgecolor=INK,
            lw=0.5,
        )
        below.set(yscale="log", xlabel="confidence (top probability)")
    axes[0, 0].set(xlim=(0.3, 1.01), ylim=(-0.02, 1.02), ylabel="accuracy")
    axes[1, 0].set(ylabel="slices (log)", ylim=(0.7, None))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return figure


def accuracy_coverage(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw accuracy on the slices that are answered, as the least sure ones are left to a reader.

    Args:
        table: columns coverage, accuracy, low, high (0 to 1) as `metrics.accuracy_coverage` returns them, and set
            where there are several sets of slices.

    Used by notebook 06.
    """
    groups = list(table.groupby("set", sort=False)) if "set" in table else [(None, table)]
    figure, axis = _subplots(1, 1, 4.8, 3.2)
    colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000"]
    for (name, part), colour, line in zip(groups, colours, ("-", "--", "-.", ":", (0, (5, 1))), strict=False):
        coverage = 100 * part["coverage"]
        axis.fill_between(coverage, 100 * part["low"], 100 * part["high"], color=colour, alpha=0.15, lw=0)
        axis.plot(coverage, 100 * part["accuracy"], color=colour, ls=line, lw=1.6, label=name)
    # With few slices answered, intervals reach far down and would flatten the rest.
    wide = table[table["coverage"] >= 0.1]
    axis.set_ylim(max(0, 100 * wide["low"].min() - 1), 100.3)
    axis.set(
        xlim=(0, 100), xlabel="coverage: slices answered, surest first (%)", ylabel="accuracy of those answered (%)"
    )
    if groups[0][0] is not None:
        axis.legend(frameon=False, loc="lower left")
    return figure


# Notebook 05: class activation maps. Pictures are (n, S, S) arrays; row i of the table beside them describes slice i.

METHOD_NAMES = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "scorecam": "Score-CAM",
    "eigencam": "Eigen-CAM",
}
"""A method's name in print; controls keep the name that the tables give them."""

SCORE_NAMES = {
    "energy": "energy inside the mask",
    "pointing": "pointing game",
    "pointing_tolerance": "pointing game,\nwith tolerance",
    "iou": "area-matched IoU",
    "insertion": "insertion AUC\n(higher is better)",
    "deletion": "deletion AUC\n(lower is better)",
    "rank_correlation": "rank correlation\nwith the fitted network's map",
    "ssim": "structural similarity\nwith the fitted network's map",
}

_HEAT, _OUTLINE = "inferno", "#56B4E9"


def _show(axis, image, heat=None, mask=None) -> None:
    """Show a slice, a heat map over it where there is one, and a mask's outline where there is one."""
    axis.imshow(image, cmap="gray", vmin=0, vmax=255)
    if heat is not None:
        # What the map leaves at zero stays as clear as the slice was.
        axis.imshow(heat, cmap=_HEAT, vmin=0, vmax=1, alpha=0.6 * np.sqrt(heat))
    if mask is not None and mask.any():
        axis.contour(mask, levels=[0.5], colors=_OUTLINE, linewidths=0.9)


def _bare(axes) -> None:
    for axis in np.ravel(axes):
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)


def _said(about: pd.Series) -> str:
    right = about["label"] == about["predicted"]
    called = "" if right else f"called {about['predicted']},\n"
    return f"{about['label']},\n{called}p = {about['confidence']:.2f}"


def gradcam_examples(images, maps, masks, chosen: pd.DataFrame) -> mpl.figure.Figure:
    """Draw slice, heat map and overlay with the mask's outline: right and wrong slices of each class, chosen by rule.

    Args:
        images, masks: (n, S, S) uint8.
        maps: (n, S, S), 0 to 1.
        chosen: label, outcome, predicted, confidence, rule ("highest", "median" or "lowest"), a row a slice.

    Used by notebook 05.
    """
    rows = [(label, outcome) for label in CLASSES for outcome in ("right", "wrong")]
    figure, axes = _subplots(len(rows), 9, 7.4, 5.7)
    _bare(axes)
    for row, (label, outcome) in enumerate(rows):
        axes[row, 0].set_ylabel(f"{textwrap.fill(LABELS[label], 10)}\n{outcome}", size=7)
        part = np.flatnonzero((chosen["label"] == label) & (chosen["outcome"] == outcome))
        if not len(part):
            axes[row, 4].text(0.5, 0.5, f"no {outcome} slice", transform=axes[row, 4].transAxes, ha="center", size=8)
        for place in part:
            about = chosen.iloc[place]
            first = 3 * ("highest", "median", "lowest").index(about["rule"])
            _show(axes[row, first], images[place])
            axes[row, first + 1].imshow(maps[place], cmap=_HEAT, vmin=0, vmax=1)
            _show(axes[row, first + 2], images[place], maps[place], masks[place])
            said = f"{about['predicted']}, p = {about['confidence']:.2f}"
            axes[row, first + 1].set_title(said, size=6.5, pad=2)
    for first, rule in ((1, "highest"), (4, "median"), (7, "lowest")):
        title = axes[0, first].get_title()
        axes[0, first].set_title(f"{rule} confidence\n{title}", size=6.5, pad=2)
    return figure


def gradcam_failures(images, maps, masks, wrong: pd.DataFrame, most: int = 30) -> mpl.figure.Figure:
    """Draw the wrong predictions, the most confident first, with map and mask's outline.

    Args:
        images, maps, masks: (n, S, S), of the wrong slices.
        wrong: label, predicted, confidence, a row a slice.
        most: at most this many are drawn; the title says of how many.

    Used by notebook 05.
    """
    order = np.argsort(-wrong["confidence"].to_numpy(), kind="stable")[:most]
    columns = 6
    rows = max(1, -(-len(order) // columns))
    figure, axes = _subplots(rows, columns, 7.4, 0.35 + 1.5 * rows, squeeze=False)
    _bare(axes)
    for axis, place in zip(axes.ravel(), order, strict=False):
        about = wrong.iloc[place]
        _show(axis, images[place], maps[place], masks[place])
        axis.set_title(_said(about), size=6.5, pad=2)
    figure.suptitle(f"{len(order)} of {len(wrong)} wrong predictions, the most confident first", size=8)
    return figure


def gradcam_class_means(maps, masks, slices: pd.DataFrame) -> mpl.figure.Figure:
    """Draw the mean map of each true class, with the outline of where at least a quarter of its peak of masks lies.

    Args:
        maps: (n, S, S), 0 to 1.
        masks: (n, S, S), 0 or 1.
        slices: label, a row a slice.

    Used by notebook 05.
    """
    figure, axes = _subplots(1, len(CLASSES), 7.4, 2.7)
    _bare(axes)
    shown = None
    for axis, label in zip(axes, CLASSES, strict=True):
        part = (slices["label"] == label).to_numpy()
        axis.set_title(f"{LABELS[label]} (n = {part.sum()})", size=8)
        if part.any():
            shown = axis.imshow(np.mean(maps[part], axis=0), cmap=_HEAT, vmin=0, vmax=1)
            usual = np.mean(masks[part], axis=0)
            if usual.any():
                axis.contour(usual, levels=[usual.max() / 4], colors=_OUTLINE, linewidths=1)
    if shown is not None:
        figure.colorbar(shown, ax=axes, shrink=0.8, label="mean map")
    return figure


def _model_name(name: str, between: str) -> str:
    """A name of `gradcam.models` in words: NAME, or NAME/RECIPE."""
    name, *recipe = name.split("/")
    return between.join([MODEL_NAMES.get(name, name), *recipe])


def gradcam_against_controls(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw the mean scores of maps and controls with their intervals, a row a model, a column a score.

    Args:
        table: model, method, kind ("map" or "control"), by, group, score, mean, low, high; rows of by "all" are drawn.

    Used by notebook 05.
    """
    whole = table[table["by"] == "all"]
    models = list(whole["model"].unique())
    names = list(whole["method"].unique())
    scores = [s for s in SCORE_NAMES if s in set(whole["score"])]
    height = 0.9 + len(models) * (0.4 + 0.17 * len(names))
    figure, axes = _subplots(len(models), len(scores), 1.6 + 1.35 * len(scores), height, squeeze=False, sharey=True)
    for row, model in enumerate(models):
        for axis, score in zip(axes[row], scores, strict=True):
            part = whole[(whole["model"] == model) & (whole["score"] == score)].set_index("method").loc[names]
            place = np.arange(len(part))
            colours = np.where(part["kind"] == "map", "#0072B2", "#BBBBBB")
            axis.barh(place, part["mean"], color=colours, height=0.75)
            _whiskers(axis, part["mean"], place, part["low"], part["high"], horizontal=True)
            axis.set(yticks=place, yticklabels=[METHOD_NAMES.get(n, n) for n in names], xlim=(0, None))
            axis.tick_params(labelsize=7)
            if row == 0:
                axis.set_title(SCORE_NAMES[score], size=7.5)
        axes[row, 0].set_ylabel(_model_name(model, "\n"))
        axes[row, 0].invert_yaxis()
    figure.supxlabel("mean over test slices (blue: maps; grey: controls; bars: intervals over patients)", size=8)
    return figure


def gradcam_cascade(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw how like the fitted network's maps those of a network are that is randomised from its head down.

    Args:
        table: model, number, step, score ("rank_correlation" or "ssim"), mean, low, high.

    Used by notebook 05.
    """
    scores = list(table["score"].unique())
    figure, axes = _subplots(1, len(scores), 7.4, 2.9, squeeze=False)
    for axis, score in zip(axes[0], scores, strict=True):
        for number, (model, part) in enumerate(table[table["score"] == score].groupby("model", sort=False)):
            style = {"color": f"C{number}", "marker": "os^Dv"[number % 5], "markersize": 4}
            axis.plot(part["number"], part["mean"], label=_model_name(model, ", "), **style)
            _whiskers(axis, part["number"], part["mean"], part["low"], part["high"], ecolor=f"C{number}")
        axis.axhline(0, color=GREY, lw=0.8, ls=":")
        axis.set(ylabel=SCORE_NAMES[score], ylim=(None, 1), xlabel="step (0: head, last: whole network)")
        axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    axes[0, 0].legend(frameon=False)
    return figure


def gradcam_erase(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw accuracy with the tumour erased and with as much erased elsewhere, a row a model, a column a class, by fill.

    Args:
        table: model, erased ("nothing", "tumour" or "elsewhere"), fill, trained, group, accuracy (0 to 1), accuracy_low,
            accuracy_high.

    Used by notebook 05.
    """
    models, groups = list(table["model"].unique()), list(table["group"].unique())
    fills = table.loc[table["fill"] != "", ["fill", "trained"]].drop_duplicates("fill")
    names = [f"{fill} (trained)" if trained else fill for fill, trained in fills.itertuples(index=False)]
    place = np.arange(len(fills))
    size = 1.4 + 1.6 * len(groups), 0.9 + 1.6 * len(models)
    figure, axes = _subplots(len(models), len(groups), *size, squeeze=False, sharex=True, sharey=True)
    for row, model in enumerate(models):
        for axis, group in zip(axes[row], groups, strict=True):
            some = table[(table["model"] == model) & (table["group"] == group)]
            whole = 100 * some.loc[some["erased"] == "nothing", "accuracy"]
            axis.axvline(whole.iloc[0], color=GREY, lw=0.9, ls=":", label="whole slice")
            for erased, marker, colour in (("tumour", "o", "#D55E00"), ("elsewhere", "s", "#0072B2")):
                lines = some[some["erased"] == erased].set_index("fill").reindex(fills["fill"])
                value, low, high = (100 * lines[f"accuracy{end}"] for end in ("", "_low", "_high"))
                axis.plot(value, place, marker, color=colour, ms=4, label=f"{erased} erased")
                _whiskers(axis, value, place, low, high, horizontal=True, ecolor=colour)
            axis.set(yticks=place, yticklabels=names, xlim=(-3, 103))
            axis.tick_params(labelsize=7)
            if row == 0:
                axis.set_title(LABELS.get(group, group), size=7.5)
        axes[row, 0].set_ylabel(_model_name(model, "\n"))
    axes[0, 0].invert_yaxis()
    axes[0, 0].legend(frameon=False, fontsize=6, loc="lower left")
    figure.supxlabel("accuracy, % of slices (bars: intervals over patients)", size=8)
    return figure


def gradcam_methods(images, maps: dict, masks, slices: pd.DataFrame) -> mpl.figure.Figure:
    """Draw some slices, a row each, with the map of every method and the mask's outline.

    Args:
        images, masks: (n, S, S) uint8.
        maps: method to (n, S, S), 0 to 1.
        slices: label, predicted, confidence, a row a slice.

    Used by notebook 05, and its explorer.
    """
    columns = 1 + len(maps)
    figure, axes = _subplots(len(images), columns, 1.2 * columns, 0.3 + 1.35 * len(images), squeeze=False)
    _bare(axes)
    for row, axis in enumerate(axes):
        about = slices.iloc[row]
        _show(axis[0], images[row], mask=masks[row])
        axis[0].set_title(_said(about), size=6.5, pad=2)
        for place, (method, heat) in zip(axis[1:], maps.items(), strict=True):
            _show(place, images[row], heat[row], masks[row])
            if row == 0:
                place.set_title(METHOD_NAMES.get(method, method), size=7)
    return figure


def gradcam_overlay(image, heat, words: str) -> mpl.figure.Figure:
    """Draw one slice, and beside it the slice under its map.

    Args:
        image: (S, S) uint8.
        heat: (S, S), 0 to 1.
        words: the title.

    Used by `python -m btlib predict`.
    """
    figure, axes = _subplots(1, 2, 4.4, 2.5)
    _bare(axes)
    _show(axes[0], image)
    _show(axes[1], image, heat)
    figure.suptitle(words, size=9)
    return figure


# Notebook 06: the external set.


def overlap_pairs(external, own, pairs: pd.DataFrame) -> mpl.figure.Figure:
    """Draw external slices above the slices of the study that they are copies of.

    Args:
        external, own: (n, S, S) uint8, the two slices of each pair.
        pairs: score, transform, a row a pair.

    Used by notebook 06.
    """
    count = max(len(pairs), 1)
    figure, axes = _subplots(2, count, max(2.5, 0.95 * count), 2.7, squeeze=False)
    _bare(axes)
    for above, below, a, b, about in zip(*axes, external, own, pairs.itertuples(), strict=False):
        _show(above, a)
        _show(below, b)
        above.set_title(f"{about.score:.2f}\n{textwrap.fill(about.transform, 12)}", size=6.5, pad=2)
    if len(pairs):
        axes[0, 0].set_ylabel("external", size=7)
        axes[1, 0].set_ylabel("the study's own", size=7)
    else:
        figure.suptitle("no copies found", size=8)
    return figure


def domain_shift(measured: pd.DataFrame, names: dict[str, str]) -> mpl.figure.Figure:
    """Draw the share of slices below each value of each measure, a line a set.

    Args:
        measured: set and the measures, a row a slice.
        names: measure to axis label with its unit.

    Used by notebook 06.
    """
    figure, axes = _subplots(2, -(-len(names) // 2), 7.4, 4.2, sharey=True)
    for axis, (measure, label) in zip(axes.flat, names.items(), strict=False):
        for (name, values), line in zip(measured.groupby("set", sort=False)[measure], ("-", "--", "-."), strict=False):
            axis.ecdf(values, label=name, ls=line, lw=1.5)
        axis.set_xlabel(textwrap.fill(label, 28), size=8)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("share of slices")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure


# Notebooks 01 and 02: the data.


def class_counts(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw slices, patients and patient groups of each class, counts at the bars.

    Args:
        table: dataset.csv: label, slices, patients, patient_groups.

    Used by notebook 01.
    """
    table = table[table["label"] != "all"]
    figure, axes = _subplots(1, 3, 7.4, 2.5)
    for axis, (column, name) in zip(
        axes,
        {"slices": "slices", "patients": "patients", "patient_groups": "patient groups"}.items(),
        strict=True,
    ):
        colours = [PALETTE[label] for label in table["label"]]
        bars = axis.bar([textwrap.fill(LABELS[label], 11) for label in table["label"]], table[column], color=colours)
        axis.bar_label(bars, size=8)
        axis.set_ylabel(f"number of {name}")
        axis.tick_params(axis="x", labelsize=7.5)
    return figure


def slices_per_patient(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw how many slices patients have, a panel a class.

    Args:
        table: slices.csv: label, patient_id.

    Used by notebook 01.
    """
    counts = table.groupby(["label", "patient_id"]).size()
    labels = [label for label in LABELS if label in counts.index.get_level_values("label")]
    figure, axes = _subplots(1, len(labels), 7.4, 2.3, sharex=True, sharey=True, squeeze=False)
    edges = np.arange(0.5, max(counts.max(), 10) + 1.5, max(1, counts.max() // 25))
    for axis, label in zip(axes[0], labels, strict=True):
        axis.hist(counts[label], edges, color=PALETTE[label], edgecolor="white", linewidth=0.4)
        axis.set(title=LABELS[label], xlabel="slices of a patient")
    axes[0, 0].set_ylabel("patients")
    return figure


def sizes(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw the share of slices with tumours below each size, and the number of slices of each width.

    Args:
        table: slices.csv: label, width, mask_area_percent.

    Used by notebook 01.
    """
    figure, (tumours, widths) = _subplots(1, 2, 7.4, 2.6)
    for label, part in table.dropna(subset="mask_area_percent").groupby("label"):
        tumours.ecdf(part["mask_area_percent"], label=LABELS[label], color=PALETTE[label], ls=_LINES.get(label, ":"))
    tumours.set(xlabel="tumour, % of the slice's pixels", ylabel="share of slices", xscale="log")
    tumours.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 3)))
    tumours.xaxis.set_major_formatter("{x:g}")
    tumours.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    if tumours.get_legend_handles_labels()[0]:
        tumours.legend(frameon=False, fontsize=8)
    counts = table["width"].value_counts().sort_index().tail(12)
    bars = widths.bar(counts.index.astype(str), counts, color=GREY)
    widths.bar_label(bars, size=8)
    widths.set(xlabel="width of the slice, pixels", ylabel="slices")
    widths.margins(x=0.4)
    return figure


def examples(images, masks, chosen: pd.DataFrame) -> mpl.figure.Figure:
    """Draw slices with the tumour's outline, a row a class and a column a plane.

    Args:
        images: uint8 (H, W) each.
        masks: bool (H, W) each.
        chosen: label, plane, image_id, a row a slice.

    Used by notebook 01.
    """
    rows, columns = list(chosen["label"].unique()), sorted(chosen["plane"].unique())
    count = max(len(columns), 1)
    figure, axes = _subplots(max(len(rows), 1), count, 2.2 * count, 2.2 * max(len(rows), 1), squeeze=False)
    _bare(axes)
    for image, mask, about in zip(images, masks, chosen.itertuples(), strict=True):
        axis = axes[rows.index(about.label), columns.index(about.plane)]
        _show(axis, image, mask=mask)
        axis.set_title(f"{LABELS[about.label]}, {about.plane}", size=7.5, pad=2)
    return figure


def preprocessing(stored, normalised, boxes, prepared, masks, labels) -> mpl.figure.Figure:
    """Draw slices as stored, normalised with the head's square, and prepared with the tumour's outline, a row a slice.

    Args:
        stored: (H, W) each, scanner units, all drawn on one scale.
        normalised: uint8 (H, W) each.
        boxes: top, left, bottom, right each, pixels of the slice.
        prepared, masks: uint8 (n, S, S).
        labels: class of each.

    Used by notebook 02.
    """
    figure, axes = _subplots(len(labels), 3, 6.6, 2.2 * len(labels), squeeze=False)
    _bare(axes)
    brightest = max(image.max() for image in stored)
    for row, label in enumerate(labels):
        first, second, third = axes[row]
        first.imshow(stored[row], cmap="gray", vmin=0, vmax=brightest)
        _show(second, normalised[row])
        top, left, bottom, right = boxes[row]
        second.add_patch(mpl.patches.Rectangle((left, top), right - left, bottom - top, fill=False, ec=_OUTLINE))
        _show(third, prepared[row], mask=masks[row])
        first.set_ylabel(LABELS[label], size=8)
    for axis, title in zip(
        axes[0], ("as stored, one scale for all", "normalised, head's square", "prepared"), strict=True
    ):
        axis.set_title(title, size=8)
    return figure


def augmentation(images, changed, labels) -> mpl.figure.Figure:
    """Draw slices beside random changes of them, a row a slice.

    Args:
        images: uint8 (n, S, S).
        changed: (n, times, S, S), 0 to 255.
        labels: class of each.

    Used by notebook 02.
    """
    times = changed.shape[1]
    figure, axes = _subplots(len(labels), times + 1, 7.4, 1.1 * len(labels) + 0.3, squeeze=False)
    _bare(axes)
    for row, label in enumerate(labels):
        for axis, image in zip(axes[row], (images[row], *changed[row]), strict=True):
            _show(axis, image)
        axes[row, 0].set_ylabel(textwrap.fill(LABELS[label], 10), size=7)
    axes[0, 0].set_title("prepared", size=8)
    axes[0, 1].set_title("drawn anew at every step", size=8, loc="left")
    return figure


def splits(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw for each protocol the share of test slices whose patient, or a near-identical slice, is in training.

    Args:
        table: splits.csv: protocol, n_test, slices_of_crossing_patients, test_near_identical.

    Used by notebook 02.
    """
    sums = table.groupby("protocol")[["n_test", "slices_of_crossing_patients", "test_near_identical"]].sum()
    sums = sums.loc[[name for name in PROTOCOL_NAMES if name in sums.index]]
    figure, axis = _subplots(1, 1, 6.4, 2.8)
    measures = {
        "slices_of_crossing_patients": ("of a patient seen in training", "#0072B2"),
        "test_near_identical": ("with a near-identical slice in training", "#E69F00"),
    }
    for place, (column, (name, colour)) in zip((-0.2, 0.2), measures.items(), strict=True):
        share = 100 * sums[column] / sums["n_test"]
        bars = axis.bar(np.arange(len(sums)) + place, share, 0.38, label=name, color=colour)
        axis.bar_label(bars, fmt="%.1f", size=8)
    axis.set_xticks(range(len(sums)), [PROTOCOL_NAMES[name] for name in sums.index], size=7.5)
    axis.set(ylabel="test slices, %", ylim=(0, 110))
    axis.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.2))
    return figure


def gradcam_three(images, maps, masks, chosen: pd.DataFrame) -> mpl.figure.Figure:
    """Draw one slice of each class above the same slice under its heat map, with the tumour's border.

    Args:
        images, masks: (n, S, S) uint8.
        maps: (n, S, S), 0 to 1.
        chosen: label, predicted, confidence, a row a slice.

    Used by notebook 05.
    """
    figure, axes = _subplots(2, len(chosen), 2.4 * len(chosen), 5.1, squeeze=False)
    _bare(axes)
    for place, (_, about) in enumerate(chosen.iterrows()):
        _show(axes[0, place], images[place])
        axes[0, place].set_title(LABELS[about["label"]], size=10)
        _show(axes[1, place], images[place], maps[place], masks[place])
        axes[1, place].set_xlabel(f"called {about['predicted']}, {100 * about['confidence']:.1f} %", size=9)
    return figure
