"""The checklists that journals ask for, each item with where it is answered and the answer printed from the kept tables."""

from pathlib import Path

import pandas as pd
import yaml

from btlib import files
from btlib.figures import theme
from btlib.study import digest

ITEMS = Path(__file__).resolve().parent / "checklist.yaml"


def write(kept: digest.Kept) -> Path:
    """Write checklist.md beside the results page, from the profile's tables, and return its path."""
    lines = [
        "# Checklists",
        "",
        "Values are printed from the kept tables by `make results`; what cannot be answered says why. The wording of the items "
        "is short and ours: the lists in full are their authors'.",
    ]
    known = values(kept)
    for name, items in yaml.safe_load(ITEMS.read_text(encoding="utf-8")).items():
        lines += ["", f"## {name}", "", "| | Item | Where | Answer |", "| ---: | --- | --- | --- |"]
        lines += [f"| {number} | {asked} | {where} | {_answer(how, known)} |" for number, asked, where, how in items]
    files.write_text(kept.folder / "checklist.md", "\n".join(lines) + "\n")
    return kept.folder / "checklist.md"


def _answer(answer: str | dict, known: dict[str, str]) -> str:
    if isinstance(answer, dict):
        return f"**Cannot be answered:** {answer['cannot']}"
    try:
        return answer.format_map(known)
    except KeyError:
        return "**Not told** by this profile's tables"


def values(kept: digest.Kept) -> dict[str, str]:
    """Return what checklist.yaml may print, in words; what no table tells is left out."""
    about, versions = kept.about["parameters"], kept.about["versions"]
    proposed, statistics = about["proposed"], about["statistics"]
    known = {
        "data": "; ".join(f"{d['path']}, {d['n_slices']} slices" for d in kept.about["data"]),
        "pixels": str(proposed.get("image_size") or about["preprocessing"]["image_size"]),
        "protocols": ", ".join(p["protocol"].replace("_", " ") for p in about["protocols"]),
        "network": theme.model_name(kept.model),
        "weights": kept.weights,
        "recipe": proposed["recipe"],
        "epochs": str(sum(stage["epochs"] for stage in about["recipes"][proposed["recipe"]]["stages"])),
        "versions": ", ".join(f"{name} {versions[name]}" for name in ("python", "keras", "tensorflow", "scikit-learn")),
        "level": f"{100 * statistics['level']:g}",
        "bootstrap": str(statistics["bootstrap"]),
        "fits": str(len(kept.about["fits"])),
    }
    return known | _of_data(kept) | _of_scores(kept)


def _of_data(kept: digest.Kept) -> dict[str, str]:
    told, data, split = {}, kept["dataset"], kept["splits"]
    if data is not None:
        whole, classes = data[data["label"] == "all"].iloc[0], data[data["label"] != "all"]
        told = {key: str(whole[key]) for key in ("slices", "patients")}
        told["unmasked"] = str(whole["slices"] - whole["with_mask"])
        told["classes"] = ", ".join(classes["label"])
        counts = [f"{r.label} {r.slices} slices of {r.patients} patients" for r in classes.itertuples()]
        told["imbalance"] = ", ".join(counts)
    if split is not None:
        sums = split.groupby("protocol")[["slices_of_crossing_patients", "n_test"]]
        sums = sums.agg(lambda column: column.sum(skipna=False))
        shares = 100 * sums["slices_of_crossing_patients"] / sums["n_test"]
        apart = next((p for p in digest.APART if p in shares), None)
        for key, protocol in (("crossing", "image_holdout"), ("apart", apart)):
            told |= {key: f"{shares[protocol]:.1f}"} if not pd.isna(shares.get(protocol)) else {}
    return told


def _of_scores(kept: digest.Kept) -> dict[str, str]:
    told, ladder, looks = {}, digest.ladder(kept), digest.looks(kept)
    if ladder is not None:
        own = ladder["group"].isin(digest.GROUPS.values())
        foreign = ladder[~own & (ladder["group"] != digest.PRINTED)]
        for key, rows in (("ladder", ladder[own]), ("external", foreign)):
            words = rows["group"] + ", " + rows["row"].str.lower()
            told |= {key: theme.told(words, theme.percent(rows))} if len(rows) else {}
    if looks is not None:
        first = looks[(looks["label"] == "all") & (looks["kind"] == "map")].iloc[0]
        told["pointing"] = f"{100 * first['value']:.1f}"
    confusion = digest.own(kept, "confusion")[0]
    if confusion is not None:
        worst = digest.per_class(confusion).sort_values("recall").iloc[0]
        told["worst"] = f"{worst['label']}, {100 * worst['recall']:.1f} %"
    if kept["ablation"] is not None:
        told["ablations"] = str(int((~kept["ablation"]["proposed"].astype(bool)).sum()))
    return told
