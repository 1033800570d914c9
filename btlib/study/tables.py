"""The only writer of results: tables as CSV, figures as SVG and PNG with their caption, under reports/<profile>/."""

import json
import re
from pathlib import Path

import matplotlib.figure
import pandas as pd
import yaml

from btlib import DataError, files, home

WORDS = yaml.safe_load((Path(__file__).parent / "captions.yaml").read_text(encoding="utf-8"))
"""Titles of figures, captions of tables, what their columns say, and cells in words."""

IDS = ("image_id", "image_id_a", "image_id_b", "patient_id", "patient_group")
"""Columns that are names, though they may be digits alone."""


def folder(profile: str) -> Path:
    """Return reports/<profile>."""
    return home() / "reports" / profile


def write(profile: str, name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Write reports/<profile>/tables/<name>.csv, floats to six significant digits, and return it as it will be read back."""
    path = folder(profile) / "tables" / f"{name}.csv"
    with files.replacing(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    _note("table", name)
    return read(profile, name)


def read(profile: str, name: str, **how) -> pd.DataFrame:
    """Read reports/<profile>/tables/<name>.csv.

    Args:
        profile, name: which.
        how: further arguments of `pandas.read_csv`, in place of those that keep ids text and empty cells empty.

    Raises:
        DataError: it has not been written yet.
    """
    path = folder(profile) / "tables" / f"{name}.csv"
    if not path.exists():
        raise DataError(f"{path}: no such table yet; run the notebook that writes it, or `make report`")
    how = {"dtype": dict.fromkeys(IDS, str), "na_values": [""]} | how
    return pd.read_csv(path, keep_default_na=False, **how)


def save(profile: str, name: str, figure: matplotlib.figure.Figure) -> matplotlib.figure.Figure:
    """Write reports/<profile>/figures/<name>.svg, .png (200 dpi) and .json and return the figure to show.

    The .json holds title, caption and alt text: the figure's own, where it has them (`theme.described`).
    """
    for ending in ("svg", "png"):
        path = folder(profile) / "figures" / f"{name}.{ending}"
        with files.replacing(path) as temporary:
            figure.savefig(
                temporary, dpi=200, bbox_inches="tight", metadata={"Date": None} if ending == "svg" else None
            )
    said = said_of(name)
    said |= {key: getattr(figure, key, said[key]) for key in ("caption", "alt")}
    files.write_text(folder(profile) / "figures" / f"{name}.json", json.dumps(said, indent=2) + "\n")
    _note("figure", name)
    return figure


def model_name(name: str) -> str:
    """Return a model in print, also as MODEL/RECIPE/STRIDE or "MODEL (weights)"; one that is not listed keeps its name."""
    words = WORDS["words"]
    model, between, rest = re.match(r"([^ /]*)([ /]?)(.*)", str(name), re.DOTALL).groups()
    if between == "/":
        return f"{words.get(model, model)}, {rest.replace('/', ', stride ')}"
    return words.get(model, model) + between + rest.replace("imagenet", "ImageNet")


def change_name(factor: str, setting: str) -> str:
    """Name a change of the ablation for people: "recipe.cam_loss, head.pooling" and "0, gmp" are "no guide, global max pooling".

    Args:
        factor, setting: of ablation.csv: keys of the parameter file, and what each was set to.
    """
    words, keys, values = WORDS["words"], factor.split(", "), setting.split(", ")
    if len(keys) != len(values):  # a list, such as stages
        keys, values = [factor], [setting]
    pairs = zip(keys, values, strict=True)
    return ", ".join(words.get(f"{key} {value}") or words.get(key, key + " {}").format(value) for key, value in pairs)


def part_name(name: str) -> str:
    """Name slices for people: of "bhuvaji, held out copies" (`external.divided`) the set and the part in words."""
    return ", ".join(WORDS["words"].get(part.replace(" ", "_"), part) for part in name.split(", "))


def said_of(name: str) -> dict[str, str]:
    """Return title, caption and alt of a figure that says nothing of itself, by its name alone."""
    title = title_of(name)
    return {"title": title, "caption": f"{title}.", "alt": f"Figure: {title}."}


def title_of(name: str) -> str:
    """Return a figure's title of captions.yaml; the entry `roc_*` serves `roc_vgg16`, no entry: the name in words."""
    entries = WORDS["figures"]
    if name in entries:
        return entries[name]
    family = max((key for key in entries if key.endswith("*") and name.startswith(key[:-1])), key=len, default=None)
    if family is None:
        return name.replace("_", " ").capitalize()
    which = name.removeprefix(family[:-1])
    return entries[family].replace("{which}", WORDS["words"].get(which, which))


def _note(kind: str, name: str) -> None:
    """Leave an unseen output in the notebook that runs: a report shows what its notebooks wrote, and no leftovers."""
    from IPython import get_ipython
    from IPython.display import publish_display_data

    if get_ipython() is not None:
        publish_display_data({}, {"btlib": {kind: name}})
