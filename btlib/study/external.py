"""The external sets: whose slices they are, what a score on them is worth, and whether the model knows what it cannot know.

A copy of a training slice was learned by heart; a copy of a held-out slice is no slice of another hospital either.
So every score is given for all external slices, for both kinds of copies, and for the clean ones, always together.
Slices whose label is none of the study's classes are unseen: no score counts them, and the model should be unsure of them.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from btlib import DataError, params
from btlib.data import datasets
from btlib.fitting import batches, runs
from btlib.scores import metrics, overlap
from btlib.study import results

PARTS = ("all", "overlapping", "held_out_copies", "clean")
"""All external slices of the classes; those with a source in training; those with sources held out only; those with none."""
SCORES = ("accuracy", "balanced_accuracy", "auc")
CHECKED = Path(__file__).resolve().parent / "overlap_checked.csv"
"""Pairs of the real sets that were looked at by eye: sample, external path, source's image_id, whether it is a copy."""


def load(study: params.Study) -> dict[str, datasets.Dataset]:
    """Return the external sets that are there, by name.

    Args:
        study: the parameters.

    Raises:
        DataError: a set that is `required` is not there; a set cannot be used, or has no slice of the study's classes.

    Notebook 06.
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


def absent_in_words(study: params.Study) -> str:
    """Say which external sets were passed over and where to get them, a line each. Markdown, notebook 06."""
    lacks = {name: datasets.absent(data) for name, data in study.external.items()}
    return "\n".join(f"- Passed over: {name}. {lack}." for name, lack in lacks.items() if lack)


def copies(sets: Mapping[str, datasets.Dataset], own: datasets.Dataset) -> pd.DataFrame:
    """Return overlap.csv: which slices of the external sets are copies of the study's own.

    Args:
        sets: as `load` returns them.
        own: the study's data set.

    Returns:
        set, then the columns of `overlap.audit`.

    Notebook 06.
    """
    parts_ = [overlap.audit(other, own).assign(set=name) for name, other in sets.items()]
    columns = ["set", *overlap.COLUMNS]
    return pd.concat(parts_, ignore_index=True)[columns] if parts_ else pd.DataFrame(columns=columns)


def predictions(
    study: params.Study, run: runs.Run, sets: Mapping[str, datasets.Dataset], pairs: pd.DataFrame, flip: bool = False
) -> pd.DataFrame:
    """Return a run's logits for every external slice, and whose slice it is.

    Args:
        study: the parameters.
        run: the fitted model.
        sets: as `load` returns them.
        pairs: as `copies` found them, before any score.
        flip: whether to average with the mirrored slice (test-time augmentation).

    Returns:
        set, image_id, label, patient_id, part (one of `PARTS` but "all") and the logits; a row a slice, unseen ones too.

    Notebook 06.
    """
    held_out, names = set(run.predictions()["image_id"]), runs.logits_of(study.classes)
    tables, model = [], run.model() if sets else None
    for name, other in sets.items():
        table = other.manifest[["image_id", "label", "patient_id"]].reset_index(drop=True)
        table.insert(0, "set", name)
        sources = pairs[pairs["set"] == name].groupby("image_id_a")["image_id_b"].agg(set)
        kinds = {image: PARTS[2] if of <= held_out else PARTS[1] for image, of in sources.items()}
        table["part"] = table["image_id"].map(kinds).fillna(PARTS[3]).astype(str)
        logits = batches.predict(model, other.images, flip=flip)
        tables.append(table.assign(**dict(zip(names, logits.T, strict=True))))
    columns = ["set", "image_id", "label", "patient_id", "part", *names]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def parts(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Divide predictions of one set's slices into `PARTS`; unseen slices are in none of them. Notebook 06."""
    seen = table[table["label"].isin(results.classes_of(table))]
    return {part: seen if part == "all" else seen[seen["part"] == part] for part in PARTS}


def divided(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Divide predictions by set and part, under names in words: "bhuvaji, held out copies". Notebook 06."""
    return {
        f"{name}, {part.replace('_', ' ')}": rows
        for name, of_set in table.groupby("set", sort=False)
        for part, rows in parts(of_set).items()
    }


def scores(study: params.Study, table: pd.DataFrame, augmentation: str = "none") -> pd.DataFrame:
    """Return the rows of cross_dataset.csv: one a set and one of `PARTS`, intervals from resampled patients.

    Args:
        study: the parameters.
        table: as `predictions` returns it.
        augmentation: what was done at test time, to tell rows apart.

    Returns:
        set, slices, augmentation, n, n_<class>; accuracy, balanced_accuracy, auc and recall_<class>, each with _low and
        _high; a part without slices has no scores, a class without slices no recall.

    Notebook 06.
    """
    names = (*SCORES, *(f"recall_{c}" for c in study.classes))
    rows = []
    for name, of_set in table.groupby("set", sort=False):
        for kind, part in parts(of_set).items():
            row = {"set": name, "slices": kind, "augmentation": augmentation, "n": len(part)}
            row |= {f"n_{c}": int((part["label"] == c).sum()) for c in study.classes}
            found = results.intervals(study, part).set_index("score") if len(part) else pd.DataFrame()
            for score in set(names) & set(found.index):
                row |= dict(zip((score, f"{score}_low", f"{score}_high"), found.loc[score], strict=True))
            rows.append(row)
    columns = ["set", "slices", "augmentation", "n", *(f"n_{c}" for c in study.classes)]
    return pd.DataFrame(rows, columns=columns + [f"{score}{end}" for score in names for end in ("", "_low", "_high")])


def together(parts_: list[pd.DataFrame]) -> pd.DataFrame:
    """Stack tables of `scores`, the one without augmentation first. Notebook 06."""
    return pd.concat([t for t in parts_ if len(t)] or parts_[:1], ignore_index=True)


def by_class(study: params.Study, table: pd.DataFrame) -> pd.DataFrame:
    """Return cross_dataset_classes.csv: recall of each class of each set on all slices, on copies, and on the clean ones.

    Args:
        study: the parameters.
        table: as `predictions` returns it.

    Returns:
        set, label, slices ("all", "copies": of any slice of the study, "clean"), n, right, recall, low, high (Wilson's); a
        class without slices of a kind keeps its row, with n 0 and no recall.

    Notebook 06.
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
                recall = metrics.share(k, n, study.statistics.level) if n else (np.nan,) * 3
                rows.append((name, label, kind, n, k, *recall))
    return pd.DataFrame(rows, columns=["set", "label", "slices", "n", "right", "recall", "low", "high"])


def calibration(sets: Mapping[str, pd.DataFrame], temperature: float) -> pd.DataFrame:
    """Return calibration.csv: how far confidence is from accuracy, before and after temperature scaling.

    Args:
        sets: name to predictions.
        temperature: fitted on validation slices.

    Returns:
        slices, scaling ("before" or "after"), temperature, n, accuracy, confidence (mean), ece, brier; no row for an
        empty set.

    Notebook 06.
    """
    rows = []
    for name, table in sets.items():
        for scaling, value in (("before", 1.0), ("after", temperature)) if len(table) else ():
            y, p = _probabilities(table, value)
            right, sure = float(np.mean(p.argmax(1) == y)), float(p.max(1).mean())
            rows.append((name, scaling, value, len(y), right, sure, metrics.ece(y, p), metrics.brier(y, p)))
    names = ["slices", "scaling", "temperature", "n", "accuracy", "confidence", "ece", "brier"]
    return pd.DataFrame(rows, columns=names)


def reliability(table: pd.DataFrame, temperature: float, level: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the reliability tables of predictions before and after temperature scaling. Notebook 06."""
    return tuple(metrics.reliability(*_probabilities(table, t), level) for t in (1.0, temperature))


def selective(sets: Mapping[str, pd.DataFrame], temperature: float, level: float) -> pd.DataFrame:
    """Return selective.csv: accuracy on the surest slices, in steps of five per cent of coverage.

    Args:
        sets: name to predictions.
        temperature: fitted on validation slices.
        level: of the intervals.

    Returns:
        set, then the columns of `metrics.accuracy_coverage`: for each step the first row that reaches it.

    Notebook 06.
    """
    steps = [pd.DataFrame(columns=["set", "threshold", "n", "coverage", "accuracy", "risk", "low", "high"])]
    for name, table in sets.items():
        if len(table):
            whole = metrics.accuracy_coverage(*_probabilities(table, temperature), level)
            reached = np.searchsorted(whole["coverage"].to_numpy(), np.linspace(0.05, 1, 20) - 1e-9)
            rows = whole.iloc[np.unique(np.minimum(reached, len(whole) - 1))].copy()
            rows.insert(0, "set", name)
            steps.append(rows)
    return pd.concat(steps[1:] or steps, ignore_index=True)


def unknown(tested: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return ood.csv: how well confidence, entropy and energy tell slices of no class from those of the classes.

    Args:
        tested: the run's own test predictions.
        table: predictions of the external sets; the clean slices of no class are the unknown ones.

    Returns:
        set (of the unknown slices), known ("test", or "clean": the same set's clean slices), score, auroc (0.5: not at
        all), n_known, n_unknown; no row where either is empty.

    Notebook 06.
    """
    rows = []
    for name, of_set in table.groupby("set", sort=False):
        classes = results.classes_of(table)
        strange = of_set[~of_set["label"].isin(classes) & (of_set["part"] == PARTS[3])]
        for kind, known in (("test", tested), ("clean", parts(of_set)["clean"])):
            if len(known) and len(strange):
                ours, theirs = (metrics.known_scores(t[runs.logits_of(classes)]) for t in (known, strange))
                for score in ours:
                    auroc = metrics.auroc(ours[score], theirs[score])
                    rows.append((name, kind, score, auroc, len(known), len(strange)))
    return pd.DataFrame(rows, columns=["set", "known", "score", "auroc", "n_known", "n_unknown"])


def checked(
    study: params.Study, sets: Mapping[str, datasets.Dataset], pairs: pd.DataFrame, path: Path = CHECKED
) -> pd.DataFrame:
    """Return the audit's precision and recall on the pairs that were looked at by eye, where the sets are those.

    Args:
        study: the parameters.
        sets: as `load` returns them.
        pairs: as `copies` found them.
        path: the table of pairs looked at.

    Returns:
        set, measure ("precision" or "recall"), value, low, high, n; no row where the slices looked at are not these.

    Notebook 06.
    """
    rows = []
    looked = pd.read_csv(path, dtype=str, keep_default_na=False)
    for name, other in sets.items() if study.data.source == "figshare" else ():
        seen = looked[looked["external"].isin(set(other.manifest["image_id"]))]
        claimed = seen["external"].isin(set(pairs.loc[pairs["set"] == name, "image_id_a"])).to_numpy()
        copy = (seen["verdict"] == "copy").to_numpy()
        for measure_, of in (("precision", claimed), ("recall", copy)):
            n, k = int(of.sum()), int((claimed & copy).sum())
            if n:
                rows.append((name, measure_, k / n, *metrics.wilson(k, n, study.statistics.level), n))
    return pd.DataFrame(rows, columns=["set", "measure", "value", "low", "high", "n"])


def examples(pairs: pd.DataFrame, count: int = 8) -> pd.DataFrame:
    """Choose pairs to show: each external slice's best, from the lowest score to the highest in even steps. Notebook 06."""
    best = pairs.drop_duplicates(["set", "image_id_a"]).sort_values("score", kind="stable")
    return best.iloc[np.unique(np.linspace(0, len(best) - 1, min(count, len(best))).astype(int))]


def pictures(sets: Mapping[str, datasets.Dataset], own: datasets.Dataset, pairs: pd.DataFrame) -> tuple[list, list]:
    """Return the external slice, uint8 (S, S), of each pair and the study's own beside it. Notebook 06."""
    rows = {name: _rows(data) for name, data in {**sets, "": own}.items()}
    theirs = [sets[p.set].images[rows[p.set][str(p.image_id_a)]] for p in pairs.itertuples()]
    return theirs, [own.images[rows[""][str(p.image_id_b)]] for p in pairs.itertuples()]


def _rows(data: datasets.Dataset) -> dict[str, int]:
    return {image: row for row, image in enumerate(data.manifest["image_id"])}


def in_words(study, cross, classes, eye, calibrated, ood) -> str:
    """Say what notebook 06 found; every number is read from its tables. Markdown."""
    lines = [results.banner(study), "", *filter(None, [absent_in_words(study)])]
    if not study.external:
        lines.append("The parameter file names no external set (`external: null`), so nothing was scored.")
    for name, rows in cross.groupby("set", sort=False):
        lines += [f"- **{name}**: {line}" for line in _set_in_words(rows, classes[classes["set"] == name])]
    for row in eye.itertuples():
        lines.append(
            f"- {row.set}, by eye: {row.measure} {results.percent(row.value, row.low, row.high)} of {row.n} slices."
        )
    for row in calibrated[calibrated["scaling"] == "after"].itertuples():
        before = calibrated[(calibrated["slices"] == row.slices) & (calibrated["scaling"] == "before")].iloc[0]
        lines.append(
            f"- Calibration error (ECE), {row.slices}: {100 * before['ece']:.1f} points before and "
            f"{100 * row.ece:.1f} after scaling with T = {row.temperature:.2f}."
        )
    for row in ood.itertuples():
        lines.append(
            f"- {row.set}: {row.score.replace('_', ' ')} tells {row.n_unknown} slices of no class from those of a class "
            f"({row.known}) with AUROC {row.auroc:.3f}."
        )
    return "\n".join(lines)


def _set_in_words(cross: pd.DataFrame, classes: pd.DataFrame) -> list[str]:
    """One set's copies, scores, and classes that its clean slices do not show."""
    counts = cross.drop_duplicates("slices").set_index("slices")["n"]
    copied = counts["all"] - counts["clean"]
    lines = [
        f"{copied} of {counts['all']} slices ({results.percent(copied / max(counts['all'], 1))}) are copies of the study's own "
        f"slices, at a score of {overlap.COPY} or more."
    ]
    for row in cross[cross["n"] > 0].itertuples():
        kind = "" if row.augmentation == "none" else f", {row.augmentation}"
        lines.append(
            f"{row.slices.replace('_', ' ')}{kind}: accuracy "
            f"{results.percent(row.accuracy, row.accuracy_low, row.accuracy_high)} of {row.n} slices, "
            f"balanced {results.percent(row.balanced_accuracy)}."
        )
    n = classes.set_index(["slices", "label"])["n"]
    for kind, words in (("all", "No slice shows"), ("clean", "No clean slice shows")):
        missing = [label for label in n.loc[kind].index if not n[kind, label] and (kind == "all" or n["all", label])]
        if missing:
            lines.append(f"{words} {' or '.join(missing)}: the {kind} score says nothing about that class.")
    return lines


def _probabilities(table: pd.DataFrame, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    y, logits, _ = results.truth(table)
    return y, metrics.softmax(logits / temperature)
