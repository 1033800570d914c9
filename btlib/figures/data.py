"""Figures of the data (notebooks 01 and 02, results page): classes, patients, sizes, preparation, and what splits let through."""

import textwrap

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns

from btlib.figures import theme
from btlib.figures.theme import class_name, described


def class_counts(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw slices, patients and patient groups of each class, counts at the bars, from dataset.csv."""
    table = table[table["label"] != "all"]
    names = [textwrap.fill(class_name(label), 11) for label in table["label"]]
    figure, axes = theme.subplots(1, 3, 7.4, 2.5)
    for axis, column in zip(axes, ("slices", "patients", "patient_groups"), strict=True):
        hue = {"hue": list(table["label"]), "palette": theme.colours(table["label"]), "legend": False}
        sns.barplot(x=names, y=table[column].to_numpy(), saturation=1, ax=axis, **hue)
        for bars in axis.containers:
            axis.bar_label(bars, size=8)
        axis.set_ylabel(column.replace("_", " ").capitalize())
        axis.tick_params(axis="x", labelsize=7.5)
        theme.whole_numbers(axis.yaxis)
    told = "; ".join(f"{class_name(r.label)} {r.slices} slices of {r.patients} patients" for r in table.itertuples())
    return described(figure, "class_counts", rows=told)


def slices_per_patient(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw how many slices patients have, a panel a class, from slices.csv.

    A slice whose patient is not known bears its image_id as patient_id; such are left out where others are known.
    """
    named = table[table["patient_id"] != table["image_id"]]
    table = named if len(named) else table
    counts = table.groupby(["label", "patient_id"], sort=False).size()
    labels = theme.colours(table["label"])
    figure, axes = theme.subplots(1, len(labels), 7.4, 2.3, sharex=True, sharey=True, squeeze=False)
    for axis, (label, colour) in zip(axes[0], labels.items(), strict=True):
        sns.histplot(counts[label].to_numpy(), discrete=True, color=colour, alpha=1, ax=axis)
        axis.set(title=class_name(label), xlabel="Slices of a patient", ylabel="Patients")
        theme.whole_numbers(axis.xaxis, axis.yaxis)
    return described(figure, "slices_per_patient", least=counts.min(), most=counts.max(), median=counts.median())


def sizes(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw the share of tumours below each size, where masks tell it, and the slices of each width, from slices.csv."""
    masked = table.dropna(subset="mask_area_percent")
    figure, axes = theme.subplots(1, 2 if len(masked) else 1, 7.4 if len(masked) else 3.7, 2.8)
    *tumours, widths = np.ravel(axes)
    for axis in tumours:
        for (label, colour), line in zip(theme.colours(masked["label"]).items(), 2 * theme.LINES, strict=False):
            percent = masked.loc[masked["label"] == label, "mask_area_percent"]
            sns.ecdfplot(percent, stat="percent", label=class_name(label), ax=axis, color=colour, ls=line)
        axis.set(xlabel="Tumour (% of the slice's pixels, log scale)", ylabel="Slices with less (%)", xscale="log")
        theme.log_ticks(axis)
        theme.legend(figure, axis)
    counts = table["width"].value_counts().sort_index().tail(12)
    widths.bar_label(widths.bar(counts.index.astype(str), counts, color=theme.GREY), size=8)
    widths.set(xlabel="Width of the slice (pixels)", ylabel="Slices")
    widths.margins(x=0.4)
    theme.whole_numbers(widths.yaxis)
    return described(figure, "sizes")


def examples(images, masks, chosen: pd.DataFrame) -> mpl.figure.Figure:
    """Draw slices, uint8 (H, W) each, with the outline of masks, bool (H, W), a row a label and a column a plane."""
    rows, columns = list(theme.colours(chosen["label"])), sorted(chosen["plane"].unique())
    figure, axes = theme.pictures(len(rows), len(columns), 2.2 * len(columns), 2.2 * len(rows))
    for image, mask, about in zip(images, masks, chosen.itertuples(), strict=True):
        axis = axes[rows.index(about.label), columns.index(about.plane)]
        theme.show(axis, image, mask=mask)
        axis.set_title(f"{class_name(about.label)}, {about.plane}", size=7.5, pad=2)
    return described(figure, "examples")


def preprocessing(stored, normalised, boxes, prepared, masks, labels) -> mpl.figure.Figure:
    """Draw slices as stored, normalised with the head's square, and prepared with the tumour's outline, a row a slice.

    Args:
        stored, normalised, boxes: of `describe.stages`.
        prepared, masks: uint8 (n, S, S).
        labels: class of each.
    """
    figure, axes = theme.pictures(len(labels), 3, 6.6, 2.2 * len(labels))
    brightest = max(image.max() for image in stored)
    for row, label in enumerate(labels):
        first, second, third = axes[row]
        first.imshow(stored[row], cmap="gray", vmin=0, vmax=brightest)
        theme.show(second, normalised[row])
        top, left, bottom, right = boxes[row]
        second.add_patch(mpl.patches.Rectangle((left, top), right - left, bottom - top, fill=False, ec="#56B4E9"))
        theme.show(third, prepared[row], mask=masks[row])
        first.set_ylabel(class_name(label), size=8)
    titles = ("As stored, one scale for all", "Normalised, head's square", "Prepared, tumour's outline")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, size=8)
    return described(figure, "preprocessing")


def augmentation(images, changed, labels) -> mpl.figure.Figure:
    """Draw slices, uint8 (n, S, S), beside changes of them, (n, times, S, S), 0 to 255, a row a slice."""
    times = changed.shape[1]
    figure, axes = theme.pictures(len(labels), times + 1, 7.4, 1.1 * len(labels) + 0.3)
    for row, label in enumerate(labels):
        for axis, image in zip(axes[row], (images[row], *changed[row]), strict=True):
            theme.show(axis, image)
        axes[row, 0].set_ylabel(textwrap.fill(class_name(label), 10), size=7)
    axes[0, 0].set_title("Prepared", size=8)
    axes[0, 1].set_title("Drawn anew at every step", size=8, loc="left")
    return described(figure, "augmentation", times=times)


def crossing(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw splits.csv: the share of test slices whose patient, or a near-identical slice, is in training.

    Where not every patient is known there is no bar.
    """
    counts = table.groupby("protocol", sort=False)[["n_test", "slices_of_crossing_patients", "test_near_identical"]]
    sums = counts.agg(lambda column: column.sum(skipna=False))
    sums = sums.loc[theme.strictness(sums.index)]
    names = ["Of a patient seen in training", "With a near-identical slice in training"]
    share = 100 * sums.iloc[:, 1:].div(sums["n_test"], axis=0).set_axis(names, axis=1)
    share.index = [theme.in_print(name) for name in share.index]
    figure, axis = theme.subplots(1, 1, 6.8, 0.9 + 0.55 * len(share))
    long = share.rename_axis("split").reset_index().melt("split", var_name="what", value_name="percent")
    palette = dict(zip(names, (theme.COLOURS[1], theme.COLOURS[0]), strict=True))
    sns.barplot(long, y="split", x="percent", hue="what", palette=palette, saturation=1, legend=False, ax=axis)
    for bars, name in zip(axis.containers, names, strict=True):
        axis.bar_label(bars, fmt="%.1f", size=8, padding=2)
        bars.set_label(name)
    theme.legend(figure, axis)
    axis.set(xlabel="Test slices (%)", ylabel="", xlim=(0, 108))
    percent = {k: ["unknown" if pd.isna(v) else f"{v:.1f} %" for v in row] for k, *row in share.itertuples()}
    told = "; ".join(f"{' '.join(k.split())} {' and '.join(words)}" for k, words in percent.items())
    return described(figure, "crossing", rows=told)


def patient_flow(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw how patients and slices came into the two parts of a split: part (words), patients, slices; the whole first."""
    figure, axis = theme.subplots(1, 1, 7.0, 1.6)
    axis.set(xlim=(0, 1), ylim=(-1.4, 0.4))
    axis.set_axis_off()
    told = []
    for (x, y), row in zip(((0.5, 0), (0.25, -1), (0.75, -1)), table.itertuples(), strict=True):
        if y:
            style = {"arrowstyle": "-|>", "color": theme.INK, "shrinkA": 0, "shrinkB": 0}
            axis.annotate("", (x, -0.7), (0.5, -0.3), arrowprops=style)
        axis.add_patch(mpl.patches.Rectangle((x - 0.18, y - 0.3), 0.36, 0.6, fc="white", ec=theme.INK))
        counts = f"{row.patients:,} patient{'s' * (row.patients != 1)}, {row.slices:,} slice{'s' * (row.slices != 1)}"
        axis.text(x, y, f"{textwrap.fill(row.part, 31)}\n{counts}", ha="center", va="center", size=8)
        told.append(f"{row.part} {counts}")
    return described(figure, "patient_flow", rows="; ".join(told))
