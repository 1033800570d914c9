"""Figures of fitting (notebooks 03 and 04, results page): learning curves, fits, single changes, costs."""

import textwrap

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns

from btlib.figures import theme
from btlib.figures.theme import described


def learning_curves(history: pd.DataFrame, model: str = "the proposed network") -> mpl.figure.Figure:
    """Draw loss, accuracy and learning rate over the epochs of all stages, training beside validation where there is one.

    `history` is a `Run.history`; `model` says whose, in the registry's name or in words.
    """
    figure, axes = theme.subplots(1, 3, 7.4, 2.8)
    epoch, stages = np.arange(1, len(history) + 1), history["stage"].to_numpy()
    validated = "val_loss" in history and history["val_loss"].notna().any()
    scores = (("loss", 1, "Loss (nats)"), ("accuracy", 100, "Accuracy (%)"))
    for axis, (name, scale, label) in zip(axes, scores, strict=False):
        axis.plot(epoch, scale * history[name], color=theme.GREY, marker="o", ms=2.5, label="Training")
        if validated:
            style = {"color": theme.COLOURS[0], "ls": "--", "marker": "s", "ms": 2.5}
            axis.plot(epoch, scale * history[f"val_{name}"], label="Validation", **style)
        axis.set_ylabel(label)
    axes[0].set_ylim(bottom=0)
    rate = history["learning_rate"].where(history["learning_rate"] > 0)  # a cosine ends at 0, which has no logarithm
    axes[2].step(epoch, rate, color=theme.INK, where="mid")
    axes[2].set_ylabel("Learning rate (log)")
    if rate.notna().any():
        # At least a decade, or a rate that hardly moves would look like a cliff.
        axes[2].set(yscale="log", ylim=(min(rate.min() / 1.5, rate.max() / 12), rate.max() * 1.5))
    axes[2].yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    first = np.flatnonzero(np.append(True, stages[1:] != stages[:-1]))
    _mark_stages(axes, first, len(history))
    name = theme.model_name(model)
    words = [f"stages {'; '.join(map(str, stages[first]))}"] if len(first) > 1 else []
    words += [] if validated else ["no slices were kept for validation"]
    title = name[:1].upper() + name[1:] + (f": {', '.join(words)}" if words else "")
    figure.suptitle(textwrap.fill(title, 110), size=8)
    theme.legend(figure, axes[0], "outside lower center")
    said = ("training beside validation slices", "one line for training and one for validation slices")
    said = said if validated else ("on training slices; none were kept for validation", "one line, for training slices")
    return described(figure, "learning_curves", model=name, drawn=said[0], lines=said[1])


def _mark_stages(axes, first, epochs: int) -> None:
    """Number the stages above the curves, with a line where one begins; `first` holds the first epoch of each."""
    for axis in axes:
        axis.set(xlabel="Epoch", xlim=(0.5, epochs + 0.5))
        theme.whole_numbers(axis.xaxis)
        for number, (start, stop) in enumerate(zip(first, [*first[1:], epochs], strict=True), start=1):
            if start:
                axis.axvline(start + 0.5, color=theme.GREY, lw=0.8, ls=":")
            if len(first) > 1:
                place = ((start + stop) / 2 / epochs, 1.02)
                axis.text(*place, number, transform=axis.transAxes, ha="center", va="bottom", size=8)


def fits(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw every fit as a dot, a row a split, from models.csv, of one network."""
    table = table.assign(percent=100 * table["accuracy"], split=table["protocol"].map(theme.in_print))
    order = [theme.in_print(name) for name in theme.strictness(table["protocol"])]
    figure, axis = theme.subplots(1, 1, 6.4, 0.7 + 0.5 * len(order))
    sns.swarmplot(table, x="percent", y="split", order=order, color=theme.COLOURS[0], size=5.5, ax=axis)
    theme.name_rows(axis, order)
    axis.set(xlabel="Accuracy on a fit's own test slices (%)", ylabel="")
    ranges = table.groupby("split")["percent"].agg(["size", "min", "max"]).loc[order]
    words = []
    for n, low, high in ranges.itertuples(index=False, name=None):
        words.append(f"{low:.1f} to {high:.1f} %\n{n} fits" if n > 1 else f"{low:.1f} %\n1 fit")
    for at, text in enumerate(words):
        theme.beside_row(axis, at, text)
    rows = zip(order, words, strict=True)
    return described(figure, "fits", rows="; ".join(" ".join(f"{name}: {text}".split()) for name, text in rows))


def ablation(table: pd.DataFrame) -> mpl.figure.Figure:
    """Draw what each change takes from or adds to the proposed network, with its interval, from ablation.csv."""
    proposed, table = table[table["proposed"]], table[~table["proposed"]]
    values = theme.percent(table, "difference")
    names = [textwrap.fill(change, 36) for change in table["change"]]
    figure, axis = theme.subplots(1, 1, 6.8, 0.9 + 0.34 * len(table))
    theme.dots(axis, values, range(len(table)))
    theme.name_rows(axis, names)
    axis.axvline(0, color=theme.GREY, lw=0.9, ls="--", zorder=0)
    for at, accuracy in enumerate(100 * table["accuracy"]):
        theme.beside_row(axis, at, f"{accuracy:.1f} %")
    fits = " to ".join(str(n) for n in sorted({table["fits"].min(), table["fits"].max()}))
    base = f"{100 * proposed['accuracy'].iloc[0]:.1f} % after {proposed['epochs'].iloc[0]} epochs"
    axis.set_title(f"Proposed network: {base}", size=9)
    axis.set_xlabel(f"Change of accuracy (points), interval over patients, {fits} fit{'' if fits == '1' else 's'}")
    return described(figure, "ablation", base=base, rows=theme.told(names, values, unit=" points"))
