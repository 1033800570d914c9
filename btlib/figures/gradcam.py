"""Figures of class activation maps (notebook 05, results page, `predict`).

Pictures are (n, S, S) arrays, images and masks uint8 and maps 0 to 1; row i of the table beside them has slice
i's label, predicted and confidence.
"""

import textwrap

import matplotlib as mpl
import numpy as np
import pandas as pd

from btlib.figures import theme
from btlib.figures.theme import class_name, described

SCORE_NAMES = {
    "energy": "Energy inside the mask",
    "pointing": "Pointing game",
    "pointing_tolerance": "Pointing game,\nwith tolerance",
    "iou": "Area-matched IoU",
    "insertion": "Insertion AUC\n(higher is better)",
    "deletion": "Deletion AUC\n(lower is better)",
    "rank_correlation": "Rank correlation\nwith the fitted network's map",
    "ssim": "Structural similarity\nwith the fitted network's map",
}

KINDS = {"map": theme.COLOURS[0], "control": theme.PALE, "ceiling": theme.INK}


def _said(about) -> str:
    called = "" if about["label"] == about["predicted"] else f"called {class_name(about['predicted'])},\n"
    return f"{class_name(about['label'])},\n{called}p = {about['confidence']:.2f}"


def gradcam_three(images, maps, masks, chosen: pd.DataFrame, grid: str) -> mpl.figure.Figure:
    """Draw a few slices large, above the same slices under their maps, of `grid` cells ("10 x 10"), with the tumour's border."""
    figure, axes = theme.pictures(2, len(chosen), 2.4 * len(chosen), 5.3)
    for (above, below), image, heat, mask, about in zip(axes.T, images, maps, masks, chosen.itertuples(), strict=True):
        theme.show(above, image)
        above.set_title(class_name(about.label), size=10)
        theme.show(below, image, heat, mask)
        below.set_xlabel(f"Called {class_name(about.predicted)}, {100 * about.confidence:.1f} %", size=9)
    return described(figure, "gradcam_three", names=", ".join(map(class_name, chosen["label"])), grid=grid)


def gradcam_examples(images, maps, masks, chosen: pd.DataFrame) -> mpl.figure.Figure:
    """Draw slice, heat map and overlay with the mask's outline: right and wrong slices of each class, chosen by rule.

    `chosen` also has outcome ("right" or "wrong") and rule ("highest", "median" or "lowest").
    """
    rows = [(label, outcome) for label in theme.colours(chosen["label"]) for outcome in ("right", "wrong")]
    figure, axes = theme.pictures(len(rows), 9, 7.4, 0.95 * len(rows))
    rules = ("highest", "median", "lowest")
    for row, (label, outcome) in enumerate(rows):
        axes[row, 0].set_ylabel(f"{textwrap.fill(class_name(label), 10)}\n{outcome}", size=7)
        places = np.flatnonzero((chosen["label"] == label) & (chosen["outcome"] == outcome))
        if not len(places):
            axes[row, 4].text(0.5, 0.5, f"no {outcome} slice", transform=axes[row, 4].transAxes, ha="center", size=8)
        for place in places:
            about = chosen.iloc[place]
            first = 3 * rules.index(about["rule"])
            theme.show(axes[row, first], images[place])
            axes[row, first + 1].imshow(maps[place], cmap="inferno", vmin=0, vmax=1)
            theme.show(axes[row, first + 2], images[place], maps[place], masks[place])
            said = f"{class_name(about['predicted'])}, p = {about['confidence']:.2f}"
            axes[row, first + 1].set_title(said, size=6.5, pad=2)
    for first, rule in zip((1, 4, 7), rules, strict=True):
        title = axes[0, first].get_title()
        axes[0, first].set_title(f"{rule.capitalize()} confidence\n{title}", size=6.5, pad=2)
    return described(figure, "gradcam_examples")


def gradcam_failures(images, maps, masks, wrong: pd.DataFrame) -> mpl.figure.Figure:
    """Draw at most 30 wrong predictions, the most confident first, with map and mask's outline."""
    order = np.argsort(-wrong["confidence"].to_numpy(), kind="stable")[:30]
    rows = max(1, -(-len(order) // 6))
    figure, axes = theme.pictures(rows, 6, 7.4, 0.35 + 1.5 * rows)
    for axis, place in zip(axes.flat, order, strict=False):
        theme.show(axis, images[place], maps[place], masks[place])
        axis.set_title(_said(wrong.iloc[place]), size=6.5, pad=2)
    figure.suptitle(f"{len(order)} of {len(wrong)} wrong predictions, the most confident first", size=8)
    return described(figure, "gradcam_failures", drawn=len(order), wrong=len(wrong))


def gradcam_class_means(maps, masks, slices: pd.DataFrame) -> mpl.figure.Figure:
    """Draw the mean map of each true class, with the outline of where at least a quarter of its peak of masks lies."""
    labels = list(theme.colours(slices["label"]))
    figure, axes = theme.pictures(1, len(labels), 0.6 + 2.3 * len(labels), 2.7)
    for axis, label in zip(axes[0], labels, strict=True):
        rows = (slices["label"] == label).to_numpy()
        axis.set_title(f"{class_name(label)} (n = {rows.sum()})", size=8)
        drawn = axis.imshow(np.mean(maps[rows], axis=0), cmap="inferno", vmin=0, vmax=1)
        usual = np.mean(masks[rows], axis=0)
        if usual.any():
            axis.contour(usual, levels=[usual.max() / 4], colors="#56B4E9", linewidths=1)
    figure.colorbar(drawn, ax=axes, shrink=0.8, label="Mean map (0 to 1)")
    return described(figure, "gradcam_class_means")


def gradcam_against_controls(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw gradcam_summary.csv: mean scores over all slices, a row a model, a column a score."""
    whole = table[table["by"] == "all"]
    whole = whole.assign(words=whole["method"].replace(theme.WORDS) + " (" + whole["grid"].astype(str) + ")")
    models, scores = list(whole["model"].unique()), [s for s in SCORE_NAMES if s in set(whole["score"])]
    counts = [whole.loc[whole["model"] == model, "words"].nunique() for model in models]
    size = (1.7 + 1.1 * len(scores), 0.9 + sum(0.4 + 0.17 * n for n in counts))
    figure, axes = theme.subplots(len(models), len(scores), *size, squeeze=False, sharey="row", height_ratios=counts)
    for row, model in zip(axes, models, strict=True):
        for axis, score in zip(row, scores, strict=True):
            part = whole[(whole["model"] == model) & (whole["score"] == score)].drop_duplicates("words")
            bars = theme.bars(part.rename(columns={"mean": "value"}))
            style = {"color": part["kind"].map(KINDS), "ecolor": theme.GREY, "capsize": 2.5, "height": 0.75}
            axis.barh(part["words"], part["mean"], xerr=bars, **style)
            axis.set_xlim(left=0)
            axis.tick_params(labelsize=7)
        row[0].set_ylabel(theme.model_name(model).replace(", ", "\n"), size=8)
        row[0].invert_yaxis()  # once: the row shares its y axis
    for axis, score in zip(axes[0], scores, strict=True):
        axis.set_title(SCORE_NAMES[score], size=7.5)
    figure.supxlabel("Mean over test slices (blue: maps, grey: controls; bars: intervals over patients)", size=8)
    first = whole[(whole["score"] == scores[0]) & (whole["kind"] == "map")]
    names = first["model"].map(theme.model_name) + " " + first["words"]
    said = theme.told(names, first.rename(columns={"mean": "value"}), 2, "")
    return described(figure, "gradcam_against_controls", score=SCORE_NAMES[scores[0]], rows=said)


def gradcam_cascade(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw gradcam_cascade.csv: how like the fitted network's maps those of a randomised one are."""
    scores = list(table["score"].unique())
    figure, axes = theme.subplots(1, len(scores), 7.4, 3.1, squeeze=False)
    for axis, score in zip(axes[0], scores, strict=True):
        for number, (model, part) in enumerate(table[table["score"] == score].groupby("model", sort=False)):
            colour = theme.COLOURS[number % 7]
            style = {"color": colour, "marker": theme.MARKERS[number % 5], "ms": 4}
            axis.plot(part["number"], part["mean"], label=theme.model_name(model), **style)
            theme.whiskers(axis, part["number"], part.rename(columns={"mean": "value"}), colour)
        axis.axhline(0, color=theme.GREY, lw=0.8, ls=":")
        axis.set(ylabel=SCORE_NAMES[score], ylim=(None, 1), xlabel="Step (0: head, last: whole network)")
        theme.whole_numbers(axis.xaxis)
    theme.legend(figure, axes[0, 0])
    return described(figure, "gradcam_cascade")


def gradcam_methods(images, maps: dict, masks, slices: pd.DataFrame) -> mpl.figure.Figure:
    """Draw some slices, a row each, with the map of every method and the mask's outline."""
    figure, axes = theme.pictures(len(images), 1 + len(maps), 1.2 + 1.2 * len(maps), 0.3 + 1.35 * len(images))
    for row, axis in enumerate(axes):
        theme.show(axis[0], images[row], mask=masks[row])
        axis[0].set_title(_said(slices.iloc[row]), size=6.5, pad=2)
        for place, (method, heat) in zip(axis[1:], maps.items(), strict=True):
            theme.show(place, images[row], heat[row], masks[row])
            if row == 0:
                place.set_title(theme.WORDS.get(method, method), size=7)
    return described(figure, "gradcam_methods", methods=", ".join(theme.WORDS.get(m, m) for m in maps))


def gradcam_overlay(image, heat, title: str, words: list[str]) -> mpl.figure.Figure:
    """Draw one slice, (S, S) uint8, beside the same slice under its map, (S, S), 0 to 1, a title above and lines below."""
    lines = [line for text in words for line in textwrap.wrap(text, 78)]
    figure, axes = theme.pictures(1, 2, 4.6, 2.6 + 0.14 * len(lines))
    theme.show(axes[0, 0], image)
    theme.show(axes[0, 1], image, heat)
    figure.suptitle(title, size=9)
    figure.supxlabel("\n".join(lines), size=7)
    return described(figure, "gradcam_overlay", words="; ".join([title, *lines]))


def where_it_looks(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw how often the map's largest value lies in the tumour, by class, beside controls and the ceiling.

    Args:
        table: label (class, or "all"), row (words: network, control or ceiling with its grid), kind ("map", "control" or
            "ceiling"), value, low, high (0 to 1).
    """
    labels, rows = ["all", *theme.colours(table.loc[table["label"] != "all", "label"])], list(table["row"].unique())
    figure, axes = theme.subplots(1, len(labels), 7.4, 1.1 + 0.27 * len(rows), sharey=True, squeeze=False)
    for axis, label in zip(axes[0], labels, strict=True):
        for (kind, colour), marker in zip((KINDS | {"control": theme.GREY}).items(), ("o", "s", "D"), strict=True):
            part = table[(table["label"] == label) & (table["kind"] == kind)]
            theme.dots(axis, theme.percent(part), part["row"].map(rows.index), colour, marker, label=kind.capitalize())
        axis.set(xlim=(-5, 105), xticks=(0, 50, 100))
        axis.set_title("All classes" if label == "all" else class_name(label), size=9)
        axis.set_xlabel("Peak in the tumour\n(% of slices)", size=8)
        theme.name_rows(axis, rows)
    theme.legend(figure, axes[0, 0])
    first = table[table["kind"] == "map"]
    names = first["row"] + ", " + first["label"].map(class_name)
    return described(figure, "where_it_looks", rows=theme.told(names, theme.percent(first)))


def erased(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw accuracy and mean probability with the tumour erased, and with as much erased elsewhere, by kind of fill.

    Args:
        table: network, fill (words), trained (bool: training erased by this fill), region ("tumour" or "elsewhere"),
            score ("accuracy", or "probability" of the true class), value, low, high (0 to 1).
    """
    networks, scores = list(table["network"].unique()), list(table["score"].unique())
    fills = list(table.sort_values("trained", ascending=False, kind="stable")["fill"].unique())
    size = (7.4, 0.9 + len(scores) * (0.5 + 0.3 * len(fills)))
    figure, axes = theme.subplots(len(scores), len(networks), *size, sharex=True, sharey=True, squeeze=False)
    regions = {"tumour": ("Tumour", theme.COLOURS[1], "o", -0.14)}
    regions |= {"elsewhere": ("As much elsewhere", theme.COLOURS[0], "s", 0.14)}
    for (row, column), axis in np.ndenumerate(axes):
        part = table[(table["score"] == scores[row]) & (table["network"] == networks[column])]
        for region, (what, colour, marker, shift) in regions.items():
            for trained, face in ((True, colour), (False, "white")):
                points = part[(part["region"] == region) & (part["trained"].astype(bool) == trained)]
                words = f"{what} erased, fill {'' if trained else 'not '}trained"
                at = points["fill"].map(fills.index).astype(float) + shift
                theme.dots(axis, theme.percent(points), at, colour, marker, mfc=face, label=words, ms=4.5)
        theme.name_rows(axis, [textwrap.fill(fill, 22) for fill in fills])
        axis.set(xlim=(-3, 103), title=theme.model_name(networks[column]) if row == 0 else "")
        words = {"accuracy": "Accuracy (%)", "probability": "Mean probability of the true class (%)"}
        axis.set_xlabel(words[scores[row]], size=8)
        axis.xaxis.set_tick_params(labelbottom=True)
    theme.legend(figure, axes[0, 0], ncols=2)
    part = table[table["score"] == scores[0]]
    names = part["network"].map(theme.model_name) + ", " + part["fill"] + ", " + part["region"] + " erased,"
    return described(figure, "erased", score=scores[0], rows=theme.told(names, theme.percent(part)))


def changes(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw where each setting of gradcam_ablation.csv looks, and how often it is right without the tumour."""
    names = table["change"].where(~table["proposed"], "the proposed network")
    other = table["grid"] != table["grid"][table["proposed"]].iloc[0]
    names = names + (" (" + table["grid"] + " cells)").where(other, "")
    names = [textwrap.fill(name, 34) for name in names]
    scores = {
        "pointing": "Peak in the tumour\n(% of slices)",
        "energy": "Map in the tumour\n(% of its sum)",
        "accuracy_erased": "Right with the tumour\npasted over (%)",
    }
    figure, axes = theme.subplots(1, len(scores), 7.4, 0.9 + 0.34 * len(table), sharey=True)
    for axis, (score, words) in zip(axes, scores.items(), strict=True):
        values = theme.percent(table, score)
        theme.dots(axis, values, range(len(table)))
        axis.axvline(values["value"][table["proposed"].to_numpy()].iloc[0], color=theme.GREY, lw=0.9, ls="--", zorder=0)
        axis.set_xlabel(words, size=8)
        theme.name_rows(axis, names)
    rows = theme.told(names, theme.percent(table, "pointing"))
    return described(figure, "changes", rows=rows, erased=theme.told(names, theme.percent(table, "accuracy_erased")))
