"""From the kept tables to the tables that the results page draws: no data, no fit, no network."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from btlib import DataError
from btlib.models import cams
from btlib.scores.resampling import share
from btlib.study import tables

PRINTED = "The paper"
"""Group of the ladder's first row."""
PAPER, SLICES = 0.9935, 613
"""The paper's accuracy, and the slices of a fifth of the data set, on which it would be 609 right."""

SETS = {
    "bhuvaji": "Bhuvaji's set",
    "kaggle_sartaj": "Bhuvaji's set",
    "nickparvar": "Nickparvar's set",
    "pmram": "PMRAM",
}
"""Second data sets in print, by the folder that they lie in."""

APART = ("group_folds", "group_holdout", "author_folds", "patient_folds", "patient_holdout")
"""Protocols that keep patients apart, the strictest first."""

BLIND = ("uniform", "centred Gaussian", "class-average mask")
"""Controls of `localisation.controls` that never saw the slice."""

GROUPS = {
    "image": "Slices at random",
    "author": "Patients apart",
    "patient": "Patients apart",
    "group": "Patients apart",
    "published": "As published",
}
ROWS = {
    "image_holdout": "Hold-out",
    "image_folds": "Folds",
    "published": "The publisher's test part",
    "author_folds": "The author's folds",
    "patient_folds": "Folds",
    "patient_holdout": "Hold-out",
    "group_folds": "Patient groups, folds",
    "group_holdout": "Patient groups, hold-out",
}


class Kept(dict):
    """A profile's kept tables by name, each read when it is asked for; None for a table that is not kept."""

    def __init__(self, folder: Path):
        """Open a folder of results, which holds tables/*.csv and provenance.json.

        Raises:
            DataError: there is no provenance.json, or no table.
        """
        super().__init__()
        self.folder = folder
        about = folder / "provenance.json"
        if not about.exists() or not list(folder.glob("tables/*.csv")):
            raise DataError(f"{folder}: nothing is kept here; needed: provenance.json and tables/*.csv of a report")
        self.about = json.loads(about.read_text(encoding="utf-8"))
        proposed = self.about["parameters"]["proposed"]
        self.model, self.weights = proposed["model"], proposed["weights"] or "random"
        # The paper and those before it speak of the Figshare slices alone.
        self.of_the_paper = self.about["parameters"]["data"]["source"] in ("figshare", "phantom")

    def __missing__(self, name: str) -> pd.DataFrame | None:
        path = self.folder / "tables" / f"{name}.csv"
        table = pd.read_csv(path, keep_default_na=False, na_values=[""]) if path.exists() else None
        self[name] = None if table is None or table.empty else table
        return self[name]


def _row(group: str, row: str, value: float, low: float, high: float, n: int, unit: str = "slices") -> dict:
    wrong = round((1 - value) * n)
    return {"group": group, "row": row, "value": value, "low": low, "high": high, "n": n, "wrong": wrong, "unit": unit}


def ladder(kept: Kept) -> pd.DataFrame | None:
    """Return the accuracy of one network tested ever more strictly, below the paper's where it is of the same data.

    Returns:
        group, row (words), value, low, high (0 to 1), n, wrong (counts), unit ("slices" or "patients"); the paper's row has
        Wilson's interval of 609 of 613. None where no fit is kept.
    """
    split = kept["leakage"]
    if split is None:
        return None
    right = round(PAPER * SLICES)
    interval = share(right, SLICES, kept.about["parameters"]["statistics"]["level"])
    rows = [_row(PRINTED, f"As printed: {right} of {SLICES}, if a fifth", PAPER, *interval[1:], SLICES)]
    rows = rows if kept.of_the_paper else []
    single = split[split["seed"].astype(str) != "all"]
    for r in single.itertuples():
        seed = f", seed {r.seed}" if (single["protocol"] == r.protocol).sum() > 1 else ""
        group = GROUPS.get(r.protocol.split("_")[0], "Other splits")
        name = ROWS.get(r.protocol, r.protocol.replace("_", " ")) + seed
        rows.append(_row(group, name, r.accuracy, r.accuracy_low, r.accuracy_high, r.n_test))
    rows += [row for row in (_voted(kept["patients"]),) if row]
    for name, part in second_sets(kept).items():
        for r in part[part["slices"].isin(["all", "clean"]) & (part["n"] > 0)].itertuples():
            words = {"all": "As downloaded", "clean": "Without its copies"}[r.slices]
            rows.append(_row(name, words, r.value, r.low, r.high, r.n))
    return pd.DataFrame(rows)


def _voted(patients: pd.DataFrame | None) -> dict | None:
    """The row of patients, all slices of each together, under the strictest protocol."""
    if patients is None:
        return None
    one = patients[(patients["label"] == "all") & (patients["rule"] == "mean probability")]
    protocol = next((p for p in APART if p in set(one["protocol"])), None)
    if protocol is None:
        return None
    r = one[one["protocol"] == protocol].iloc[0]
    words = f"{ROWS[protocol]}, each patient's slices together"
    return _row("Patients apart", words, r["accuracy"], r["low"], r["high"], r["patients"], "patients")


def second_sets(kept: Kept) -> dict[str, pd.DataFrame]:
    """Return for each second data set, by its name in print, its accuracy on all slices, on copies and on the rest.

    The column `set` of cross_dataset names several sets; without it the set is provenance.json's.

    Returns:
        slices ("all", "copies of training slices", "clean"), value, low, high (0 to 1), n. Empty where no set is kept.
    """
    table = kept["cross_dataset"]
    if table is None:
        return {}
    table = table[table["augmentation"] == "none"] if "augmentation" in table else table
    if "set" not in table:
        path = next((d["path"] for d in kept.about["data"] if d["name"] == "external"), "a second set")
        table = table.assign(set=path)
    made = {}
    for path, part in table.groupby("set", sort=False):
        part = part.replace({"slices": {"overlapping": "copies of training slices"}})
        part = part[part["slices"].isin(["all", "copies of training slices", "clean"])]
        names = {"accuracy": "value", "accuracy_low": "low", "accuracy_high": "high"}
        made[in_print(path)] = part.rename(columns=names).reset_index(drop=True)
    return made


def in_print(path: str) -> str:
    """Name a second data set by the folder that it lies in; one that is not known keeps its path."""
    return next((words for folder, words in SETS.items() if folder in str(path).lower()), str(path))


def copies(kept: Kept) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Return what `figures.external.copies` draws: slices and copies of each class, and accuracy on all, copies and rest.

    Returns:
        set, label, n, copies; and set, slices, value, low, high, n. None where no set is kept.
    """
    counts, scores = [], []
    for name, part in second_sets(kept).items():
        rows = part.set_index("slices")
        for column in [c for c in part if c.startswith("n_")]:
            n, clean = int(rows.loc["all", column]), int(rows.loc["clean", column])
            counts.append((name, column.removeprefix("n_"), n, n - clean))
        scores.append(part.assign(set=name)[["set", "slices", "value", "low", "high", "n"]])
    if not counts:
        return None
    return pd.DataFrame(counts, columns=["set", "label", "n", "copies"]), pd.concat(scores, ignore_index=True)


def looks(kept: Kept) -> pd.DataFrame | None:
    """Return how often maps peak inside the tumour, by class, for the network and its variants, controls and ceiling.

    Returns:
        label ("all" or a class), row (words), kind, value, low, high (0 to 1). None where no map is kept.
    """
    table = kept["gradcam_summary"]
    if table is None:
        return None
    table = table[(table["score"] == "pointing") & table["by"].isin(["all", "label"])]
    table = table[table["model"].str.split("/").str[0] == kept.model]
    first = table["model"].iloc[0]
    # Controls belong to the first network's grid; another's would stand in rows of the same name.
    table = table[(table["kind"] == "map") | (table["model"] == first)]
    words = table["method"].replace({method: tables.WORDS["words"][method] for method in cams.METHODS})
    several = table.loc[table["kind"] == "map", "model"].nunique() > 1
    recipe = table["model"].str.partition("/")[2].replace("", "as proposed")
    recipe = recipe.str.replace("_", " ").str.replace("/", ", stride ")
    words = words.where((table["kind"] != "map") | (not several), words + ", " + recipe)
    if "grid" in table and table["grid"].nunique() > 1:
        words = words + " (" + table["grid"].astype(str) + ")"
    made = table.assign(row=words, label=np.where(table["by"] == "all", "all", table["group"]), value=table["mean"])
    order = ["map", "control", "ceiling"]
    labels = ["all", *made.loc[made["label"] != "all", "label"].unique()]
    made["order"] = [order.index(k) * 100 + labels.index(c) for k, c in zip(made["kind"], made["label"], strict=True)]
    return made.sort_values("order", kind="stable")[["label", "row", "kind", "value", "low", "high"]]


def erased(table: pd.DataFrame | None) -> pd.DataFrame | None:
    """Return what `figures.gradcam.erased` draws, from gradcam_erase; None where there is none."""
    if table is None:
        return None
    table = table[(table["by"] == "all") & (table["erased"].isin(["tumour", "elsewhere"]))]
    parts = []
    for score in ("accuracy", "probability"):
        names = {"model": "network", "erased": "region", score: "value", f"{score}_low": "low", f"{score}_high": "high"}
        parts.append(table.rename(columns=names).assign(score=score))
    columns = ["network", "fill", "trained", "region", "score", "value", "low", "high"]
    return pd.concat(parts, ignore_index=True)[columns]


def own(kept: Kept, name: str) -> tuple[pd.DataFrame | None, str]:
    """Return the proposed network's rows of a table under the strictest kept split, and that split's name.

    The table has a column protocol or, before there was one, is of the comparison's protocol alone.
    """
    table, protocol = kept[name], kept.about["parameters"]["comparison"]["protocol"]
    if table is None:
        return None, protocol
    if "protocol" in table:
        protocol = next((p for p in APART if p in set(table["protocol"])), protocol)
        table = table[table["protocol"] == protocol]
    if "model" in table:
        table = table[(table["model"] == kept.model) & (table["weights"] == kept.weights)]
    return table.reset_index(drop=True), protocol


def per_class(confusion: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of each class from a confusion matrix.

    Args:
        confusion: label, predicted, n (slices), a row a pair of classes.
    """
    cells = confusion.pivot(index="label", columns="predicted", values="n").fillna(0)
    labels = list(dict.fromkeys(confusion["label"]))
    cells = cells.reindex(index=labels, columns=labels, fill_value=0).to_numpy(float)
    right, true, called = np.diag(cells), cells.sum(1), cells.sum(0)
    precision, recall = right / np.maximum(called, 1), right / true
    specificity = 1 - (called - right) / (cells.sum() - true)
    made = {"label": labels, "support": true.astype(int), "precision": precision, "recall": recall}
    return pd.DataFrame(made | {"specificity": specificity, "f1": 2 * right / (called + true)})


def reliability(kept: Kept) -> tuple[pd.DataFrame, pd.DataFrame, float] | None:
    """Return the proposed network's bins of confidence before and after scaling, from kept predictions of patients kept apart.

    Returns:
        Two tables as `calibration.reliability` makes them, and the mean temperature: each fold is scaled by what its other
        folds say. None where fewer than two folds are kept.
    """
    from btlib.scores import calibration, classification

    parts = []
    for fit in kept.about.get("fits", []):
        path = kept.folder / "predictions" / f"{fit['id']}.csv"
        if path.exists() and "proposed" in fit.get("what_for", ()) and ", group_folds fold" in fit["title"]:
            table = pd.read_csv(path)
            parts.append(table[table["role"] == "test"])
    if len(parts) < 2:
        return None
    classes = [c.removeprefix("logit_") for c in parts[0] if c.startswith("logit_")]
    logits = [part[[f"logit_{c}" for c in classes]].to_numpy() for part in parts]
    y = [part["label"].map(classes.index).to_numpy() for part in parts]
    folds = range(len(parts))
    others = [[i for i in folds if i != k] for k in folds]
    fitted = [
        calibration.fit_temperature(np.concatenate([logits[i] for i in o]), np.concatenate([y[i] for i in o]))
        for o in others
    ]
    bins = [
        calibration.reliability(
            np.concatenate(y), classification.softmax(np.concatenate([x / t for x, t in zip(logits, ts, strict=True)]))
        )
        for ts in ([1.0] * len(parts), fitted)
    ]
    return *bins, float(np.mean(fitted))


def flow(kept: Kept) -> pd.DataFrame | None:
    """Return how patients and slices came into the parts of the first patient-apart fold: `figures.data.patient_flow`.

    Returns:
        part (words), kind ("step", "excluded" or "part"), patients, slices; None where not every slice's patient is known.
    """
    data, split = kept["dataset"], kept["splits"]
    if data is None or split is None:
        return None
    whole = data[data["label"] == "all"].iloc[0]
    protocol = next((p for p in APART if p in set(split["protocol"])), split["protocol"].iloc[0])
    one = split[split["protocol"] == protocol].iloc[0]
    if pd.isna(one["patients_train"]):
        return None
    rest = int(one["n_train"] + one["n_validation"])
    training = "Training" + (f" ({int(one['n_validation'])} to validate)" if one["n_validation"] else "")
    rows = [
        ("In the study", "step", int(whole["patients"]), int(whole["slices"])),
        (training, "part", int(one["patients_train"]), rest),
        ("Tested", "part", int(one["patients_test"]), int(one["n_test"])),
    ]
    return pd.DataFrame(rows, columns=["part", "kind", "patients", "slices"])


def costs(kept: Kept) -> pd.DataFrame | None:
    """Return what each network costs, in single precision, beside its accuracy where it was fitted.

    Returns:
        model, start ("pretrained" or "random"), parameters, macs, latency_ms, file_mb, accuracy (comparison's protocol,
        first seed, 0 to 1; NaN where not fitted), image_size (pixels of the fit), image_size_cost (pixels of the cost).
    """
    table, fits = kept["cost"], kept["models"]
    if table is None or fits is None:
        return None
    comparison = kept.about["parameters"]["comparison"]
    same = (fits["protocol"] == comparison["protocol"]) & (fits["seed"] == comparison["seeds"][0]) & (fits["fold"] == 0)
    fitted = fits[same].drop_duplicates("model").set_index("model")[["weights", "accuracy", "image_size"]]
    table = table[table["precision"] == "float32"].rename(columns={"image_size": "image_size_cost"})
    table = table.join(fitted, on="model")
    start = table["weights"].map({"random": "random", "imagenet": "pretrained"}).fillna("not fitted")
    return table.assign(start=start)


def share_of_copies(kept: Kept) -> dict[str, float]:
    """Return the share of each second set's slices that are copies of the study's."""
    sizes = {name: part.set_index("slices")["n"] for name, part in second_sets(kept).items()}
    return {name: 1 - n["clean"] / n["all"] for name, n in sizes.items()}
