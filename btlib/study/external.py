"""The external sets: whose slices they are, what a score on them is worth, and whether the model knows what it cannot know.

A copy of a training slice was learned by heart; a copy of a held-out slice is no slice of another hospital either.
So every score is given for all external slices, for both kinds of copies, and for the clean ones, always together.
Slices whose label is none of the study's classes are unseen: no score counts them, and the model should be unsure of them.

`study` is the parameters, `sets` what `load` returns, `pairs` what `copies` returns and `table` what `predictions` returns.
What a column means stands in captions.yaml.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import special
from scipy.ndimage import laplace

from btlib import DataError, params
from btlib.data import datasets
from btlib.fitting import batches, runs
from btlib.scores import calibration as confidence
from btlib.scores import overlap
from btlib.scores.classification import softmax
from btlib.scores.resampling import share
from btlib.study import results, sentences, tables

PARTS = ("all", "overlapping", "held_out_copies", "clean")
"""All external slices of the classes; those with a source in training; those with sources held out only; those with none."""
SCORES = ("accuracy", "balanced_accuracy", "auc")
CHECKED = Path(__file__).resolve().parent / "overlap_checked.csv"
"""Pairs of the real sets that were looked at by eye: sample, external path, source's image_id, whether it is a copy."""
MEASURES = {
    "width": "width (pixels)",
    "height": "height (pixels)",
    "mean": "mean intensity (0 to 255)",
    "spread": "spread of intensity (standard deviation)",
    "air": "share of dark pixels (below 16)",
    "sharpness": "fine structure (standard deviation of the Laplacian)",
}
"""What can be measured on a slice without knowing what it shows."""


def load(study: params.Study) -> dict[str, datasets.Dataset]:
    """Return the external sets that are there, by name.

    Raises:
        DataError: a set that is `required` is not there; a set cannot be used, or has no slice of the study's classes.
    """
    sets = {}
    for name, data in study.external.items():
        if lack := datasets.absent(data):
            if data.required:
                raise DataError(f"external.{name}: {lack}")
            continue
        sets[name] = datasets.load(data, study.preprocessing, copies_from=study.data)
        labels = set(sets[name].manifest["label"])
        if not labels & set(study.classes):
            raise DataError(
                f"external.{name}: its labels are {', '.join(sorted(labels))}; allowed: some of the study's classes, "
                f"{', '.join(study.classes)}"
            )
    return sets


def copies(sets: Mapping[str, datasets.Dataset], own: datasets.Dataset) -> pd.DataFrame:
    """Return overlap.csv: set, then `overlap.audit` of its slices and the study's own."""
    tables = [overlap.audit(other, own).assign(set=name) for name, other in sets.items()]
    columns = ["set", *overlap.COLUMNS]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def predictions(
    study: params.Study, run: runs.Run, sets: Mapping[str, datasets.Dataset], pairs: pd.DataFrame
) -> pd.DataFrame:
    """Return a run's logits for every external slice, unseen ones too, whose it is, and its part: of `PARTS` but "all"."""
    held_out, names = set(run.predictions()["image_id"]), runs.logits_of(study.classes)
    tables, model = [], run.model() if sets else None
    for name, other in sets.items():
        table = other.manifest[["image_id", "label", "patient_id"]].reset_index(drop=True)
        table.insert(0, "set", name)
        sources = pairs[pairs["set"] == name].groupby("image_id_a")["image_id_b"].agg(set)
        kinds = {image: PARTS[2] if of <= held_out else PARTS[1] for image, of in sources.items()}
        table["part"] = [kinds.get(image, PARTS[3]) for image in table["image_id"]]
        logits = batches.predict(model, other.images)
        tables.append(table.assign(**dict(zip(names, logits.T, strict=True))))
    columns = ["set", "image_id", "label", "patient_id", "part", *names]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def mirrored(run: runs.Run, sets: Mapping[str, datasets.Dataset], table: pd.DataFrame) -> pd.DataFrame:
    """Return what `predictions` returned of these sets, its logits averaged with those of the mirrored slices."""
    if not sets:
        return table
    names, model = runs.logits_of(results.classes_of(table)), run.model()
    other = np.concatenate([batches.predict(model, data.images, mirrored=True) for data in sets.values()])
    return table.assign(**{name: (table[name] + other[:, k]) / 2 for k, name in enumerate(names)})


def parts(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Divide predictions of one set's slices into `PARTS`; unseen slices are in none of them."""
    seen = table[table["label"].isin(results.classes_of(table))]
    return {part: seen if part == "all" else seen[seen["part"] == part] for part in PARTS}


def divided(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Divide predictions by set and part, under names in words: "bhuvaji, held out copies"."""
    sets = {name: parts(rows) for name, rows in table.groupby("set", sort=False)}
    return {f"{name}, {part.replace('_', ' ')}": rows for name, by in sets.items() for part, rows in by.items()}


def scores(study: params.Study, table: pd.DataFrame, augmentation: str = "none") -> pd.DataFrame:
    """Return cross_dataset.csv: a row a set and one of `PARTS`, intervals from resampled patients.

    A part without slices has no scores, a class without slices no recall. `augmentation` says what was done at test time.
    """
    names = (*SCORES, *(f"recall_{c}" for c in study.classes))
    rows = []
    for name, of_set in table.groupby("set", sort=False):
        for kind, part in parts(of_set).items():
            row = {"set": name, "slices": kind, "augmentation": augmentation, "n": len(part)}
            row |= {f"n_{c}": int((part["label"] == c).sum()) for c in study.classes}
            scored = results.intervals(study, part).set_index("score") if len(part) else pd.DataFrame()
            for score in set(names) & set(scored.index):
                row |= dict(zip((score, f"{score}_low", f"{score}_high"), scored.loc[score], strict=True))
            rows.append(row)
    columns = ["set", "slices", "augmentation", "n", *(f"n_{c}" for c in study.classes)]
    return pd.DataFrame(rows, columns=columns + [f"{score}{end}" for score in names for end in ("", "_low", "_high")])


def together(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Stack tables of `scores`, the one without augmentation first."""
    return pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)


def by_class(study: params.Study, table: pd.DataFrame) -> pd.DataFrame:
    """Return cross_dataset_classes.csv: recall of each class of each set on all slices, on copies, and on the clean ones.

    Intervals are Wilson's. A class without slices of a kind keeps its row, with n 0 and no recall.
    """
    rows = []
    for name, of_set in table.groupby("set", sort=False):
        right = of_set[runs.logits_of(study.classes)].to_numpy().argmax(1)
        right = np.array(study.classes)[right] == of_set["label"].to_numpy()
        clean = of_set["part"].to_numpy() == PARTS[3]
        for label in study.classes:
            own = of_set["label"].to_numpy() == label
            for kind, of_kind in (("all", own), ("copies", own & ~clean), ("clean", own & clean)):
                n, k = int(of_kind.sum()), int((right & of_kind).sum())
                recall = share(k, n, study.statistics.level) if n else (np.nan,) * 3
                rows.append((name, label, kind, n, k, *recall))
    return pd.DataFrame(rows, columns=["set", "label", "slices", "n", "right", "recall", "low", "high"])


def calibration(tables: Mapping[str, pd.DataFrame], temperature: float) -> pd.DataFrame:
    """Return calibration.csv: how far confidence is from accuracy, before and after temperature scaling.

    `tables` is predictions by name; an empty one has no row.
    """
    rows = []
    for name, table in tables.items():
        for scaling, value in (("before", 1.0), ("after", temperature)) if len(table) else ():
            y, p = _probabilities(table, value)
            right, sure = float(np.mean(p.argmax(1) == y)), float(p.max(1).mean())
            rows.append((name, scaling, value, len(y), right, sure, confidence.ece(y, p), confidence.brier(y, p)))
    names = ["slices", "scaling", "temperature", "n", "accuracy", "confidence", "ece", "brier"]
    return pd.DataFrame(rows, columns=names)


def reliability(table: pd.DataFrame, temperature: float, level: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the reliability tables of predictions before and after temperature scaling."""
    return tuple(confidence.reliability(*_probabilities(table, t), level) for t in (1.0, temperature))


def selective(tables: Mapping[str, pd.DataFrame], temperature: float, level: float) -> pd.DataFrame:
    """Return selective.csv: accuracy on the surest slices, in steps of five per cent of coverage.

    Rows of `calibration.selective`; arguments as for `calibration`.
    """
    steps = [pd.DataFrame(columns=["set", "threshold", "n", "coverage", "accuracy", "risk", "low", "high"])]
    for name, table in tables.items():
        if len(table):
            rows = confidence.selective(*_probabilities(table, temperature), level)
            rows.insert(0, "set", name)
            steps.append(rows)
    return pd.concat(steps[1:] or steps, ignore_index=True)


def unknown(study: params.Study, tested: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return ood.csv: how well confidence, entropy and energy tell slices of no class from those of the classes.

    Each set's clean slices of no class are told from `tested`, the run's own test slices, and from the set's clean ones of
    the classes; no row where either side is empty.
    """
    rows = []
    for name, of_set in table.groupby("set", sort=False):
        classes = results.classes_of(table)
        strange = of_set[~of_set["label"].isin(classes) & (of_set["part"] == PARTS[3])]
        for kind, known in (("test", tested), ("clean", parts(of_set)["clean"])):
            if len(known) and len(strange):
                both, ours = pd.concat([known, strange]), np.arange(len(known) + len(strange)) < len(known)
                for score, values in confidence.known_scores(both[runs.logits_of(classes)]).items():
                    auroc = results.told_apart(study, ours, values, both["patient_id"])
                    rows.append((name, kind, score, *auroc, len(known), len(strange)))
    return pd.DataFrame(rows, columns=["set", "known", "score", "auroc", "low", "high", "n_known", "n_unknown"])


def networks(
    study: params.Study, fitted: Mapping[str, runs.Run], sets: Mapping[str, datasets.Dataset], pairs: pd.DataFrame
) -> pd.DataFrame:
    """Return foreign.csv: what several networks make of the clean slices of each set, those of no class among them.

    `fitted` is runs by their name for people, all on slices prepared as those of the sets. auroc is how often a slice of
    a class has a higher confidence than one of none; there is no number where there are no such slices.
    """
    clean = {}
    for name, other in sets.items():
        copied = other.manifest["image_id"].isin(pairs.loc[pairs["set"] == name, "image_id_a"]).to_numpy()
        images = np.asarray(other.images)[~copied]
        clean[name] = dataclasses.replace(other, manifest=other.manifest[~copied], images=images)
    rows = []
    for network, run in fitted.items():
        table = predictions(study, run, clean, pairs)
        table["sure"] = special.softmax(table[runs.logits_of(study.classes)].to_numpy(float), axis=1).max(1)
        for name in clean:
            of_set = table[table["set"] == name]
            seen = of_set["label"].isin(study.classes)
            known, strange = of_set[seen], of_set[~seen]
            accuracy = results.mean_right(study, known) if len(known) else [np.nan] * 3
            auroc = [np.nan] * 3
            if len(known) and len(strange):
                auroc = results.told_apart(study, seen.to_numpy(), of_set["sure"], of_set["patient_id"])
            numbers = known["sure"].mean(), len(strange), strange["sure"].mean(), *auroc
            rows.append((name, network, len(known), *accuracy, *numbers))
    names = ["set", "network", "n", "accuracy", "low", "high", "confidence", "n_unknown", "confidence_unknown"]
    names += ["auroc", "auroc_low", "auroc_high"]
    return pd.DataFrame(rows, columns=names).sort_values("set", kind="stable", ignore_index=True)


def checked(study: params.Study, sets: Mapping[str, datasets.Dataset], pairs: pd.DataFrame) -> pd.DataFrame:
    """Return overlap_checked.csv: the audit's precision and recall on those pairs of `CHECKED` that are here."""
    rows = []
    looked = pd.read_csv(CHECKED, dtype=str, keep_default_na=False)
    for name, other in sets.items() if study.data.source == "figshare" else ():
        seen = looked[looked["external"].isin(set(other.manifest["image_id"]))]
        claimed = seen["external"].isin(set(pairs.loc[pairs["set"] == name, "image_id_a"])).to_numpy()
        copy = (seen["verdict"] == "copy").to_numpy()
        for kind, of in (("precision", claimed), ("recall", copy)):
            if n := int(of.sum()):
                rows.append((name, kind, *share(int((claimed & copy).sum()), n, study.statistics.level), n))
    return pd.DataFrame(rows, columns=["set", "measure", "value", "low", "high", "n"])


def examples(pairs: pd.DataFrame, count: int = 8) -> pd.DataFrame:
    """Choose pairs to show: each external slice's best, from the lowest score to the highest in even steps."""
    best = pairs.drop_duplicates(["set", "image_id_a"]).sort_values("score", kind="stable")
    return best.iloc[np.unique(np.linspace(0, len(best) - 1, min(count, len(best))).astype(int))]


def pictures(sets: Mapping[str, datasets.Dataset], own: datasets.Dataset, pairs: pd.DataFrame) -> tuple[list, list]:
    """Return the external slice, uint8 (S, S), of each pair and the study's own beside it."""

    def shown(data, image_id):
        return data.images[data.manifest["image_id"].tolist().index(image_id)]

    theirs = [shown(sets[p.set], p.image_id_a) for p in pairs.itertuples()]
    return theirs, [shown(own, p.image_id_b) for p in pairs.itertuples()]


def measure(sets: Mapping[str, datasets.Dataset]) -> pd.DataFrame:
    """Return set, label and the columns of `MEASURES` of every slice of some data sets."""
    rows = []
    for name, data in sets.items():
        for about, image in zip(data.manifest.itertuples(), data.images, strict=True):
            picture = np.asarray(image, np.float32)
            numbers = picture.mean(), picture.std(), (picture < 16).mean(), laplace(picture).std()
            rows.append((name, about.label, float(about.width), float(about.height), *map(float, numbers)))
    return pd.DataFrame(rows, columns=["set", "label", *MEASURES])


def shift(measured: pd.DataFrame) -> pd.DataFrame:
    """Return domain_shift.csv: each measure's mean, spread and quantiles in each set, from what `measure` returns."""
    rows = []
    for name in MEASURES:
        for of_set, v in measured.groupby("set", sort=False)[name]:
            rows.append((name, of_set, len(v), v.mean(), v.std(), *v.quantile([0.05, 0.5, 0.95])))
    return pd.DataFrame(rows, columns=["measure", "set", "n", "mean", "sd", "p5", "median", "p95"])


def absent_in_words(study: params.Study) -> str:
    """Say which external sets were passed over and where to get them, a line each. Markdown."""
    lacks = {name: datasets.absent(data) for name, data in study.external.items()}
    return "\n".join(f"- Passed over: {name}. {lack}." for name, lack in lacks.items() if lack)


def in_words(study, cross, classes, calibrated, ood) -> str:
    """Say what external sets show, a sentence a set and two on confidence, from the tables of these names. Markdown."""
    lines = [sentences.banner(study), "", *filter(None, [absent_in_words(study)])]
    if not study.external:
        lines.append("The parameter file names no external set (`external: null`), so nothing was scored.")
    for name, rows in cross[cross["augmentation"] == "none"].groupby("set", sort=False):
        said = _set_in_words(rows.set_index("slices"), classes[classes["set"] == name])
        lines.append(f"- **{tables.part_name(name)}**: {said}")
    own = calibrated[calibrated["slices"] == "test"].set_index("scaling")
    if len(own):
        before, after, temperature = own.loc["before", "ece"], own.loc["after", "ece"], own.loc["after", "temperature"]
        scaled = f"{100 * after:.1f} after scaling with T = {temperature:.2f}"
        lines.append(
            f"- On the study's own test slices, confidence and accuracy are {100 * before:.1f} points apart (ECE), "
            f"{scaled if temperature != 1 else 'and there was nothing to fit a temperature on'}."
        )
    if len(ood):
        row = ood.loc[ood["auroc"].idxmax()]
        lines.append(
            f"- Slices of no class are told from those of a class at best with AUROC {row['auroc']:.3f} "
            f"({row['low']:.3f} to {row['high']:.3f}; {row['set']}, {row['score'].replace('_', ' ')}, against {row['known']}); 0.5 is chance."
        )
    return "\n".join(lines)


def _set_in_words(cross: pd.DataFrame, classes: pd.DataFrame) -> str:
    """One set's copies, scores of all and of clean slices, and the classes that its clean slices do not show."""
    whole, clean = cross.loc["all"], cross.loc["clean"]
    copied = whole["n"] - clean["n"]
    part = sentences.percent(copied / max(whole["n"], 1))
    words = (
        f"{copied} of {whole['n']} slices ({part}) are copies of the study's own, at a score of {overlap.COPY} or more"
    )
    for name, row in (("all", whole), ("clean", clean)):
        if row["n"]:
            accuracy = sentences.percent(row["accuracy"], row["accuracy_low"], row["accuracy_high"])
            words += f"; {name}: accuracy {accuracy} of {row['n']} slices"
    n = classes.set_index(["slices", "label"])["n"]
    if missing := [label for label in n.loc["clean"].index if not n["clean", label]]:
        words += f". No clean slice shows {' or '.join(missing)}: the clean score says nothing about that class"
    return words + "."


def _probabilities(table: pd.DataFrame, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    y, logits, _ = results.truth(table)
    return y, softmax(logits / temperature)
