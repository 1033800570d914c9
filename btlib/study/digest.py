"""From the kept tables to the tables that the results page draws: no data, no fit, no network."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from btlib import DataError
from btlib.models import cams
from btlib.scores import calibration, classification
from btlib.scores.resampling import share
from btlib.study import tables, verdicts

PRINTED = "The paper"
"""Group of the ladder's first row."""
PAPER, SLICES = 0.9935, 613
"""The paper's accuracy, and the slices of a fifth of the data set, on which it would be 609 right."""

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
        """Open a folder of results; DataError where it has no provenance.json, or no tables/*.csv."""
        super().__init__()
        self.folder = folder
        about = folder / "provenance.json"
        if not about.exists() or not list(folder.glob("tables/*.csv")):
            raise DataError(f"{folder}: nothing is kept here; needed: provenance.json and tables/*.csv of a report")
        self.about = json.loads(about.read_text(encoding="utf-8"))
        proposed = self.about["parameters"]["proposed"]
        self.model, self.weights = proposed["model"], proposed["weights"] or "random"
        # The paper and those before it speak of the Figshare slices alone.
        source = self.about["parameters"]["data"]["source"]
        self.of_the_paper = source in ("figshare", "phantom")
        self.beside_the_paper = verdicts.may_stand_beside(source, self.weights)

    def __missing__(self, name: str) -> pd.DataFrame | None:
        path = self.folder / "tables" / f"{name}.csv"
        table = pd.read_csv(path, keep_default_na=False, na_values=[""]) if path.exists() else None
        self[name] = None if table is None or table.empty else table
        return self[name]


def ladder(kept: Kept) -> pd.DataFrame | None:
    """Return what `figures.claims.ladder` draws: accuracy tested ever more strictly, the paper's first.

    The paper's row, where data are the same and weights pretrained, has Wilson's interval of 609 of 613. None where no fit is kept.
    """
    split = kept["leakage"]
    if split is None:
        return None
    rows = []
    if kept.beside_the_paper:
        right = round(PAPER * SLICES)
        interval = share(right, SLICES, kept.about["parameters"]["statistics"]["level"])
        rows.append((PRINTED, f"As printed; {right} of {SLICES} if a fifth", PAPER, *interval[1:], SLICES, "slices"))
    single = split[split["seed"].astype(str) != "all"]
    for r in single.itertuples():
        seed = f", seed {r.seed}" if (single["protocol"] == r.protocol).sum() > 1 else ""
        group = GROUPS.get(r.protocol.split("_")[0], "Other splits")
        name = ROWS.get(r.protocol, r.protocol.replace("_", " ")) + seed
        rows.append((group, name, r.accuracy, r.accuracy_low, r.accuracy_high, r.n_test, "slices"))
    rows += _voted(kept["patients"])
    for name, part in second_sets(kept).items():
        for r in part[part["slices"].isin(["all", "clean"]) & (part["n"] > 0)].itertuples():
            words = "As downloaded"
            if r.slices == "clean":  # accuracy there is one class's for the most part
                label = commonest(part)
                words = f"No copies ({getattr(r, f'n_{label}')} {tables.WORDS['words'].get(label, label)})"
            rows.append((name, words, r.value, r.low, r.high, r.n, "slices"))
    table = pd.DataFrame(rows, columns=["group", "row", "value", "low", "high", "n", "unit"])
    return table.assign(wrong=((1 - table["value"]) * table["n"]).round().astype(int))


def _voted(patients: pd.DataFrame | None) -> list[tuple]:
    """The ladder's row of patients, all slices of each together, under the strictest protocol, if there is one."""
    if patients is None:
        return []
    rows = patients[(patients["label"] == "all") & (patients["rule"] == "mean probability")]
    protocol = next((p for p in APART if p in set(rows["protocol"])), None)
    words = f"{ROWS.get(protocol)}, by patient"
    first = rows[rows["protocol"] == protocol].head(1)
    return [("Patients apart", words, r.accuracy, r.low, r.high, r.patients, "patients") for r in first.itertuples()]


def second_sets(kept: Kept) -> dict[str, pd.DataFrame]:
    """Return for each second data set, by its name in print, its accuracy on all slices, on copies and on the rest.

    Returns:
        slices ("all", "copies of training slices", "copies of held-out slices", "clean"), value, low, high (0 to 1), n, and
        further columns of cross_dataset.csv. Empty where no set is kept.
    """
    table = kept["cross_dataset"]
    if table is None:
        return {}
    words = {part: tables.WORDS["words"][part] for part in ("overlapping", "held_out_copies")}
    table = table[table["augmentation"] == "none"].replace({"slices": words})
    table = table.rename(columns={"accuracy": "value", "accuracy_low": "low", "accuracy_high": "high"})
    return {tables.part_name(name): part.reset_index(drop=True) for name, part in table.groupby("set", sort=False)}


def commonest(part: pd.DataFrame) -> str:
    """Return the class of which a second set, as `second_sets` gives it, has most slices that are no copies."""
    counts = part.set_index("slices").loc["clean", [c for c in part if c.startswith("n_")]]
    return counts.astype(int).idxmax().removeprefix("n_")


def copies(kept: Kept) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Return what `figures.external.copies` draws; None where no set is kept."""
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
    """Return what `figures.gradcam.where_it_looks` draws of the network and its variants; None where no map is kept.

    A control stands once, on the grid that suits it best over all slices, the best first.
    """
    table = kept["gradcam_summary"]
    if table is None:
        return None
    table = table[(table["score"] == "pointing") & table["by"].isin(["all", "label"])]
    table = table[table["model"].str.split("/").str[0] == kept.model]
    whole = table[(table["by"] == "all") & (table["kind"] == "control")].sort_values("mean", ascending=False)
    best = whole.drop_duplicates("method").set_index("method")[["model", "grid"]].agg(tuple, axis=1)
    chosen = table[["model", "grid"]].agg(tuple, axis=1) == table["method"].map(best)
    table = table[(table["kind"] != "control") | chosen]
    words = table["method"].replace({method: tables.WORDS["words"][method] for method in cams.METHODS})
    several = table.loc[table["kind"] == "map", "model"].nunique() > 1
    recipe = table["model"].map(tables.model_name).str.partition(", ")[2].str.replace("_", " ")
    recipe = recipe.replace("", kept.about["parameters"]["proposed"]["recipe"])
    words = words.where((table["kind"] != "map") | (not several), words + ", " + recipe)
    if table["grid"].nunique() > 1:
        words = words + " (" + table["grid"] + ")"
    made = table.assign(row=words, label=np.where(table["by"] == "all", "all", table["group"]), value=table["mean"])
    order = ["map", "control", "ceiling", *dict.fromkeys(["all", *made["label"]]), *best.index, *made["method"]]
    made = made.sort_values(["kind", "label", "method"], key=lambda column: column.map(order.index))
    return made[["label", "row", "kind", "value", "low", "high"]]


def erased(table: pd.DataFrame | None) -> pd.DataFrame | None:
    """Return what `figures.gradcam.erased` draws, from gradcam_erase; None where there is none."""
    if table is None:
        return None
    table = table[(table["by"] == "all") & (table["erased"].isin(["tumour", "elsewhere"]))]
    table = table.rename(columns={"model": "network", "erased": "region"})
    parts = []
    for score in ("accuracy", "probability"):
        names = {score: "value", f"{score}_low": "low", f"{score}_high": "high"}
        parts.append(table.rename(columns=names).assign(score=score))
    return pd.concat(parts, ignore_index=True)


def own(kept: Kept, name: str) -> tuple[pd.DataFrame | None, str]:
    """Return the proposed network's rows of a table under the strictest kept split, and that split's name.

    Where the table is not kept, or has no split that keeps patients apart, it is the comparison's split.
    """
    table, protocol = kept[name], kept.about["parameters"]["comparison"]["protocol"]
    if table is None:
        return None, protocol
    protocol = next((p for p in APART if p in set(table["protocol"])), protocol)
    table = table[table["protocol"] == protocol]
    if "model" in table:
        table = table[(table["model"] == kept.model) & (table["weights"] == kept.weights)]
    return table.reset_index(drop=True), protocol


def per_class(confusion: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of each class from rows of label, predicted and n (slices)."""
    from sklearn.metrics import multilabel_confusion_matrix

    label, predicted, n = (confusion[column] for column in ("label", "predicted", "n"))
    counts = multilabel_confusion_matrix(label, predicted, sample_weight=n, labels=label.unique())
    tn, fp, fn, tp = counts.astype(int).reshape(-1, 4).T
    scores = {"precision": tp / np.maximum(tp + fp, 1), "recall": tp / (tp + fn), "specificity": tn / (tn + fp)}
    return pd.DataFrame({"label": label.unique(), "support": tp + fn, **scores, "f1": 2 * tp / (2 * tp + fp + fn)})


def _apart(kept: Kept) -> tuple[np.ndarray, pd.DataFrame, pd.DataFrame, float] | None:
    """Return the kept predictions of the proposed network's folds with patients apart, each scaled by what the others say.

    Returns:
        y (n,), logits and scaled logits (n, k), and the mean temperature; None where fewer than two folds are kept.
    """
    folds = []
    for fit in kept.about["fits"]:
        path = kept.folder / "predictions" / f"{fit['id']}.csv"
        if path.exists() and "proposed" in fit["what_for"] and ", group_folds fold" in fit["title"]:
            folds.append(pd.read_csv(path).query("role == 'test'").assign(fold=fit["id"]))
    if len(folds) < 2:
        return None
    table = pd.concat(folds, ignore_index=True)
    logits = table.filter(like="logit_").rename(columns=lambda name: name.removeprefix("logit_"))
    y = table["label"].map(list(logits).index).to_numpy()
    temperatures = {}
    for fold in table["fold"].unique():
        others = table["fold"] != fold
        temperatures[fold] = calibration.fit_temperature(logits[others].to_numpy(), y[others])
    return y, logits, logits.div(table["fold"].map(temperatures), axis=0), float(np.mean(list(temperatures.values())))


def reliability(kept: Kept) -> tuple[pd.DataFrame, pd.DataFrame, float] | None:
    """Return the proposed network's bins of confidence before and after scaling, patients kept apart, and the temperature.

    Two tables of `calibration.reliability`; each fold is scaled by what the others say. None where fewer than two are kept.
    """
    if (apart := _apart(kept)) is None:
        return None
    y, *logits, temperature = apart
    return *(calibration.reliability(y, classification.softmax(x)) for x in logits), temperature


def answered(kept: Kept) -> pd.DataFrame | None:
    """Return selective.csv behind the same of the folds with patients apart, each scaled by what the others say, where they are kept."""
    table, apart = kept["selective"], _apart(kept)
    if table is None or apart is None:
        return table
    y, _, scaled, _ = apart
    rows = calibration.selective(y, classification.softmax(scaled), kept.about["parameters"]["statistics"]["level"])
    return pd.concat([rows.assign(set="group_folds"), table], ignore_index=True)


def calibrated(kept: Kept) -> pd.DataFrame | None:
    """Return how far confidence lies from accuracy before and after scaling, a row a set: all slices, and those without copies.

    Returns:
        slices, n, temperature, accuracy, confidence_before, confidence_after, ece_before, ece_after. The first row is of the
        proposed network's folds with patients apart, where their predictions are kept. None where no calibration is kept.
    """
    table, apart = kept["calibration"], _apart(kept)
    if table is None:
        return None
    keys = ["slices", "n", "accuracy"]
    table = table[~table["slices"].str.endswith((", overlapping", ", held out copies"))]
    after = table[table["scaling"] == "after"].set_index(keys)[["temperature", "confidence", "ece"]]
    before = table[table["scaling"] == "before"].set_index(keys)[["confidence", "ece"]]
    after = after.rename(columns={"confidence": "confidence_after", "ece": "ece_after"})
    made = after.join(before.add_suffix("_before")).reset_index()
    if apart is not None:
        y, *logits, temperature = apart
        row = {"slices": "group_folds", "n": len(y), "temperature": temperature}
        for when, p in zip(("before", "after"), map(classification.softmax, logits), strict=True):
            row |= {"accuracy": np.mean(p.argmax(1) == y), f"confidence_{when}": p.max(1).mean()}
            row[f"ece_{when}"] = calibration.ece(y, p)
        made = pd.concat([pd.DataFrame([row]), made], ignore_index=True)
    return made


def flow(kept: Kept) -> pd.DataFrame | None:
    """Return what `figures.data.patient_flow` draws of the strictest split; None where patients are unknown."""
    data, split = kept["dataset"], kept["splits"]
    if data is None or split is None:
        return None
    whole = data[data["label"] == "all"].iloc[0]
    protocol = next((p for p in APART if p in set(split["protocol"])), split["protocol"].iloc[0])
    one = split[split["protocol"] == protocol].iloc[0]
    if pd.isna(one["patients_train"]):
        return None
    training = "Training" + (f" ({int(one['n_validation'])} to validate)" if one["n_validation"] else "")
    rows = [
        ("In the study", whole["patients"], whole["slices"]),
        (training, one["patients_train"], one["n_train"] + one["n_validation"]),
        ("Tested", one["patients_test"], one["n_test"]),
    ]
    return pd.DataFrame(rows, columns=["part", "patients", "slices"]).astype({"patients": int, "slices": int})


def networks(models: pd.DataFrame, scores: pd.DataFrame, protocol: str, seed: int) -> pd.DataFrame:
    """Return a row a compared network: its first fit in models.csv, with the accuracy of all its folds by per_class.csv."""
    fits = models[(models["protocol"] == protocol) & (models["seed"] == seed)]
    scores = scores[(scores["protocol"] == protocol) & (scores["score"] == "accuracy")]
    scores = scores.rename(columns={"value": "accuracy", "low": "accuracy_low", "high": "accuracy_high"})
    kept = ["model", "weights", "accuracy", "accuracy_low", "accuracy_high"]
    return fits.drop_duplicates(kept[:2]).drop(columns=kept[2:]).merge(scores[kept], on=kept[:2])


def compared(kept: Kept) -> pd.DataFrame | None:
    """Return `networks` of the kept tables."""
    fits, scores, comparison = kept["models"], kept["per_class"], kept.about["parameters"]["comparison"]
    if fits is None or scores is None:
        return None
    return networks(fits, scores, comparison["protocol"], comparison["seeds"][0])


def costs(kept: Kept) -> pd.DataFrame | None:
    """Return what each network costs, in single precision, beside its accuracy where it was fitted.

    image_size and macs are those of the fit, image_size_cost that of the cost; accuracy is of all the comparison's folds.
    """
    table, fitted = kept["cost"], compared(kept)
    if table is None or fitted is None:
        return None
    fitted = fitted.drop_duplicates("model").set_index("model")[["weights", "accuracy", "image_size", "macs"]]
    table = (
        table[table["precision"] == "float32"].rename(columns={"image_size": "image_size_cost"}).drop(columns="macs")
    )
    table = table.join(fitted, on="model")
    starts = {"random": "random", "imagenet": "pretrained", "edges": tables.WORDS["words"]["edges"]}
    start = table["weights"].map(starts).fillna("not fitted")
    return table.assign(start=start)


def share_of_copies(kept: Kept) -> dict[str, float]:
    """Return the share of each second set's slices that are copies of the study's."""
    sizes = {name: part.set_index("slices")["n"] for name, part in second_sets(kept).items()}
    return {name: 1 - n["clean"] / n["all"] for name, n in sizes.items()}
