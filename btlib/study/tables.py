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
    """Read a table, ids as text unless `how` tells pandas otherwise; DataError where it has not been written."""
    path = folder(profile) / "tables" / f"{name}.csv"
    if not path.exists():
        raise DataError(f"{path}: no such table yet; run the notebook that writes it, or `make report`")
    how = {"dtype": dict.fromkeys(IDS, str), "na_values": [""]} | how
    return pd.read_csv(path, keep_default_na=False, **how)


def save(profile: str, name: str, figure: matplotlib.figure.Figure) -> matplotlib.figure.Figure:
    """Write reports/<profile>/figures/<name>.svg, .png (200 dpi) and .json and return the figure to show.

    The .json holds title, caption and alt text: the figure's own, where it has them (`theme.described`).
    """
    for ending, metadata in (("svg", {"Date": None}), ("png", None)):
        with files.replacing(folder(profile) / "figures" / f"{name}.{ending}") as temporary:
            figure.savefig(temporary, dpi=200, bbox_inches="tight", metadata=metadata)
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
    return words.get(model, model) + between + re.sub("imagenet|edges", lambda found: words[found[0]], rest)


def change_name(factor: str, setting: str) -> str:
    """Name a change of ablation.csv: "recipe.cam_loss, head.pooling", "0, gmp" is "no guide, global max pooling"."""
    if factor == "proposed":
        return "none: the proposed network"
    words, named = WORDS["words"], []
    for key in factor.split(", "):
        if setting[:1] in ("[", "{"):  # a list has commas of its own
            value, end = json.JSONDecoder().raw_decode(setting)
            said = (
                ", then ".join(str(stage.get("unfreeze", "all")) for stage in value)
                if key == "recipe.stages"
                else setting[:end]
            )
        else:
            said, end = (found := setting.partition(", ")[0]), len(found)
        named.append(words.get(f"{key} {said}") or words.get(key, key + " {}").format(said))
        setting = setting[end:].removeprefix(", ")
    return ", ".join(named)


def part_name(name: str) -> str:
    """Name slices for people: of "bhuvaji, held out copies" (`external.divided`) the set and the part in words."""
    return ", ".join(WORDS["words"].get(part.replace(" ", "_"), part) for part in name.split(", "))


def said_of(name: str) -> dict[str, str]:
    """Return title, caption and alt of a figure by its name alone: by its entry in captions.yaml, or its name in words.

    The entry `roc_*` serves `roc_vgg16`.
    """
    title = WORDS["figures"].get(name, name.replace("_", " ").capitalize())
    for key, words in WORDS["figures"].items():
        if key.endswith("*") and name.startswith(key[:-1]):
            which = name.removeprefix(key[:-1])
            title = words.replace("{which}", WORDS["words"].get(which, which))
    return {"title": title, "caption": f"{title}.", "alt": f"Figure: {title}."}


def _note(kind: str, name: str) -> None:
    """Leave an unseen output in the notebook that runs: a report shows what its notebooks wrote, and no leftovers."""
    from IPython import get_ipython
    from IPython.display import publish_display_data

    if get_ipython() is not None:
        publish_display_data({}, {"btlib": {kind: name}})
