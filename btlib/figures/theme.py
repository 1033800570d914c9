"""What all figures share: one theme, names in print, captions, and points with their intervals."""

import re
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import yaml

from btlib.data import splits
from btlib.study import tables
from btlib.study.tables import model_name

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, told apart by colour-blind readers (Okabe, Ito 2008)."""

INK, GREY, PALE = "#222222", "#767676", "#BBBBBB"
LINES, MARKERS = ("-", "--", "-.", ":", (0, (5, 1))), ("o", "s", "^", "D", "v")

_CAPTIONS = yaml.safe_load((Path(__file__).parent / "captions.yaml").read_text(encoding="utf-8"))

WORDS = tables.WORDS["words"]


def use_theme() -> None:
    """Set the study's one theme."""
    sns.set_theme(context="paper", style="ticks", palette=COLOURS, font_scale=1.1)
    mpl.rcParams.update(
        {
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "image.cmap": "gray",
            # Words stay words in an SVG, laid out by the one font that every matplotlib brings.
            "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
            "svg.fonttype": "none",
            "svg.hashsalt": "btlib",
        }
    )


def subplots(rows: int, columns: int, width: float, height: float, **options):
    """Make a figure (inches) that pyplot has forgotten, so that a cell which returns it shows it once."""
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **options)
    plt.close(figure)
    return figure, axes


def described(figure: mpl.figure.Figure, name: str, **facts) -> mpl.figure.Figure:
    """Give a figure what a page says with it, by its entry in captions.yaml, whose {words} are the facts that it shows.

    Sets `figure.caption`, and `figure.alt` for who cannot see it.
    """
    for words in ("caption", "alt"):
        text = _CAPTIONS[name][words].format(**facts)
        setattr(figure, words, text[:1].upper() + text[1:])
    return figure


def class_name(label: str) -> str:
    """Return a class in print: its known name, or spaces for underscores, in title case."""
    return " ".join(word[:1].upper() + word[1:] for word in WORDS.get(label, label.replace("_", " ")).split())


def in_print(name: str) -> str:
    """Return a protocol, on two lines, or a model, as a figure shows it; one that is not known keeps its name."""
    if name not in splits.PROTOCOLS:
        return model_name(name)
    words = splits.PROTOCOLS[name].words
    return re.sub(r"(,|'s) ", r"\1\n", words[:1].upper() + words[1:], count=1)


def strictness(protocols) -> list[str]:
    """Return each protocol once, in the order of ever stricter separation, those that are not known last."""
    names = list(dict.fromkeys(protocols))
    return [p for p in splits.PROTOCOLS if p in names] + [p for p in names if p not in splits.PROTOCOLS]


def colours(labels) -> dict[str, str]:
    """Return each class once with its colour; classes that the study knows have one order and colour in all figures."""
    known = {"meningioma": COLOURS[0], "glioma": COLOURS[1], "pituitary": COLOURS[2], "no_tumor": GREY}
    labels = dict.fromkeys(labels)
    unknown = [label for label in labels if label not in known]
    others = {label: COLOURS[(3 + i) % len(COLOURS)] for i, label in enumerate(unknown)}
    return {label: colour for label, colour in (known | others).items() if label in labels}


def percent(table: pd.DataFrame, name: str = "value") -> pd.DataFrame:
    """Return value, low and high times 100, of columns NAME, NAME_low, NAME_high, or of value, low, high."""
    bounds = (f"{name}_low", f"{name}_high") if f"{name}_low" in table else ("low", "high")
    return 100 * table[[name, *bounds]].astype(float).set_axis(["value", "low", "high"], axis=1)


def told(names, values: pd.DataFrame, decimals: int = 1, unit: str = " %") -> str:
    """Say each row of `percent` in words, for an alt text: "Slices at random 97.4 % (96.0 to 98.4); ..."."""
    rows = []
    for name, row in zip(names, values.itertuples(), strict=True):
        interval = f" ({row.low:.{decimals}f} to {row.high:.{decimals}f})" if row.low <= row.high else ""
        rows.append(f"{' '.join(str(name).split())} {row.value:.{decimals}f}{unit}{interval}")
    return "; ".join(rows)


def bars(values: pd.DataFrame) -> np.ndarray:
    """Return how far intervals reach below and above their values, as matplotlib draws them; nothing where a bound is empty."""
    reach = [values["value"] - values["low"], values["high"] - values["value"]]
    return np.clip(np.asarray(reach, float), 0, None)


def dots(axis, values: pd.DataFrame, at, colour: str = COLOURS[0], marker: str = "o", **style) -> None:
    """Draw value, low, high (an empty bound draws no bar) as points in rows; `style` is of the points."""
    axis.errorbar(values["value"], at, xerr=bars(values), fmt="none", ecolor=colour, elinewidth=1.3, capsize=2.5)
    axis.plot(values["value"], at, marker, **{"color": colour, "mec": colour, "ms": 5.5, "mew": 1.3} | style)


def whiskers(axis, x, values: pd.DataFrame, colour: str) -> None:
    """Draw the intervals of value, low, high over x; an empty bound draws none."""
    axis.errorbar(x, values["value"], bars(values), fmt="none", ecolor=colour, elinewidth=1.1, capsize=2.5)


def name_rows(axis, names, at=None) -> None:
    """Name the rows of a plot of points, the first on top, each on a thin line."""
    at = np.arange(len(names)) if at is None else np.asarray(at, float)
    axis.set_yticks(at, names)
    axis.set_ylim(at.max() + 0.6, at.min() - 0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", color="#E6E6E6", lw=0.6)
    axis.set_axisbelow(True)


def beside_row(axis, at, text: str, gap: float = 7, **style) -> None:
    """Write a text right of a row, `gap` typographic points from the axis."""
    style = {"va": "center", "size": 8, "textcoords": "offset points"} | style
    axis.annotate(text, (1, at), (gap, 0), xycoords=axis.get_yaxis_transform(), **style)


def log_ticks(axis) -> None:
    """Tick a logarithmic x axis at 1, 3, 10, 30 ..., in plain numbers."""
    axis.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 3)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())


def legend(figure, axis, where: str = "outside upper center", **options) -> None:
    """Put the legend of an axis beside the drawing, never on it."""
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc=where, **{"ncols": min(len(handles), 4), "fontsize": 8} | options)


def whole_numbers(*axes) -> None:
    """Tick counts and epochs at whole numbers alone."""
    for axis in axes:
        axis.set_major_locator(mpl.ticker.MaxNLocator(integer=True, nbins=6))


def pictures(rows: int, columns: int, width: float, height: float):
    """Make a figure (inches) for pictures: axes (rows, columns) without ticks and frame."""
    figure, axes = subplots(rows, columns, width, height, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return figure, axes


def show(axis, image, heat=None, mask=None) -> None:
    """Show a slice, a heat map over it where there is one, and a mask's outline where there is one."""
    axis.imshow(image, cmap="gray", vmin=0, vmax=255)
    if heat is not None:
        # What the map leaves at zero stays as clear as the slice was.
        axis.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.6 * np.sqrt(heat))
    if mask is not None and np.any(mask):
        axis.contour(mask, levels=[0.5], colors="#56B4E9", linewidths=0.9)
