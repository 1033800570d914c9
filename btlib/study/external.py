"""The external set: whose slices they are, what a score on them is worth, and whether the model knows what it cannot know.

A copy of a training slice was learned by heart; a copy of a held-out slice is no slice of another hospital either.
So every score is given for all external slices, for both kinds of copies, and for the clean ones, always together.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from scipy.ndimage import laplace

from btlib import CLASSES, NO_TUMOR, params
from btlib.data import datasets
from btlib.data import manifest as manifests
from btlib.fitting import batches, runs
from btlib.scores import metrics, overlap
from btlib.study import results

PARTS = ("all", "overlapping", "held_out_copies", "clean")
"""All external tumour slices; those with a source in training; those with sources held out only; those with none."""
SCORES = ("accuracy", "balanced_accuracy", "auc", *(f"recall_{c}" for c in CLASSES))
CROSS_DATASET = (
    *("slices", "augmentation", "n", *(f"n_{c}" for c in CLASSES)),
    *(f"{score}{end}" for score in SCORES for end in ("", "_low", "_high")),
)
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


def load(study: params.Study):
    """Return the external set, or one without slices where the parameter file names none.

    Args:
        study: the parameters.

    Raises:
        DataError: the set is not there or cannot be used.

    Notebook 06.
    """
    if study.external is not None:
        return datasets.load(study.external, study.preprocessing, copies_from=study.data)
    size = study.preprocessing.image_size
    empty = pd.DataFrame({name: pd.Series(dtype=str) for name in manifests.COLUMNS})
    return SimpleNamespace(manifest=empty, images=np.zeros((0, size, size), np.uint8))


def predictions(study: params.Study, run: runs.Run, external, pairs: pd.DataFrame, flip: bool = False) -> pd.DataFrame:
    """Return a run's logits for every external slice, and whose slice it is.

    Args:
        study: the parameters.
        run: the fitted model.
        external: as `load` returns it.
        pairs: as `overlap.audit` found them, before any score.
        flip: whether to average with the mirrored slice (test-time augmentation).

    Returns:
        image_id, label, patient_id, part (one of `PARTS` but "all") and the logits; a row a slice, no_tumor ones too.

    Notebook 06.
    """
    table = external.manifest[["image_id", "label", "patient_id"]].copy()
    held_out = set(run.predictions()["image_id"])
    copied = pairs.groupby("image_id_a")["image_id_b"].agg(lambda sources: set(sources) <= held_out)
    known = table["image_id"].map({name: PARTS[2] if only else PARTS[1] for name, only in copied.items()})
    table["part"] = known.fillna(PARTS[3]).astype(str)
    logits = np.zeros((0, len(CLASSES)))
    if len(table):
        logits = batches.predict(run.model(), external.images, flip=flip)
    return table.assign(**dict(zip(runs.LOGITS, logits.T, strict=True)))


def parts(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Divide predictions of tumours into `PARTS`; no_tumor slices are in none of them. Notebook 06."""
    tumours = table[table["label"] != NO_TUMOR]
    return {part: tumours if part == "all" else tumours[tumours["part"] == part] for part in PARTS}


def scores(study: params.Study, table: pd.DataFrame, augmentation: str = "none") -> pd.DataFrame:
    """Return the rows of cross_dataset.csv: one for each of `PARTS`, intervals from resampled patients.

    Args:
        study: the parameters.
        table: as `predictions` returns it.
        augmentation: what was done at test time, to tell rows apart.

    Returns:
        Columns `CROSS_DATASET`; a part without slices has no scores, a class without slices no recall.

    Notebook 06.
    """
    rows = []
    for name, part in parts(table).items():
        row = {"slices": name, "augmentation": augmentation, "n": len(part)}
        row |= {f"n_{c}": int((part["label"] == c).sum()) for c in CLASSES}
        found = results.intervals(study, part).set_index("score") if len(part) else pd.DataFrame()
        for score in set(SCORES) & set(found.index):
            row |= dict(zip((score, f"{score}_low", f"{score}_high"), found.loc[score], strict=True))
        rows.append(row)
    return pd.DataFrame(rows if len(table) else [], columns=CROSS_DATASET)


def together(parts_: list[pd.DataFrame]) -> pd.DataFrame:
    """Stack tables of `scores`, the one without augmentation first. Notebook 06."""
    return pd.concat([t for t in parts_ if len(t)] or parts_[:1], ignore_index=True)


def calibration(sets: dict[str, pd.DataFrame], temperature: float) -> pd.DataFrame:
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


def selective(sets: dict[str, pd.DataFrame], temperature: float, level: float) -> pd.DataFrame:
    """Return selective.csv: accuracy on the surest slices, in steps of five per cent of coverage.

    Args:
        sets: name to predictions.
        temperature: fitted on validation slices.
        level: of the intervals.

    Returns:
        set, then the columns of `metrics.accuracy_coverage`: for each step the first row that reaches it.

    Notebook 06.
    """
    made = [pd.DataFrame(columns=["threshold", "n", "coverage", "accuracy", "risk", "low", "high"])]
    made[0].insert(0, "set", [])
    for name, table in sets.items():
        if len(table):
            whole = metrics.accuracy_coverage(*_probabilities(table, temperature), level)
            steps = np.searchsorted(whole["coverage"].to_numpy(), np.linspace(0.05, 1, 20) - 1e-9)
            chosen = whole.iloc[np.unique(np.minimum(steps, len(whole) - 1))].copy()
            chosen.insert(0, "set", name)
            made.append(chosen)
    return pd.concat(made[1:] or made, ignore_index=True)


def unknown(sets: dict[str, pd.DataFrame], table: pd.DataFrame) -> pd.DataFrame:
    """Return ood.csv: how well confidence, entropy and energy tell slices without a tumour from tumours.

    Args:
        sets: name to predictions of tumours.
        table: predictions of the external set; its clean no_tumor slices are the unknown ones.

    Returns:
        known (the set's name), score, auroc (0.5: not at all), n_known, n_unknown; no row where either is empty.

    Notebook 06.
    """
    strange = table[(table["label"] == NO_TUMOR) & (table["part"] == PARTS[3])]
    rows = []
    for name, known in sets.items():
        if len(known) and len(strange):
            ours, theirs = (metrics.known_scores(t[list(runs.LOGITS)]) for t in (known, strange))
            for score in ours:
                auroc = metrics.auroc(ours[score], theirs[score])
                rows.append((name, score, auroc, len(known), len(strange)))
    return pd.DataFrame(rows, columns=["known", "score", "auroc", "n_known", "n_unknown"])


def measure(sets: dict, block: int = 256) -> pd.DataFrame:
    """Measure every slice of some data sets: its size in the file, and the prepared picture's intensities.

    Args:
        sets: name to data set, with `manifest` and `images`.
        block: slices read at a time.

    Returns:
        set, label and the columns of `MEASURES`, a row a slice.

    Notebook 06.
    """
    made = []
    for name, data in sets.items():
        found = np.zeros((len(data.images), 4))
        for first in range(0, len(found), block):
            pictures = np.asarray(data.images[first : first + block], np.float32)
            flat = pictures.reshape(len(pictures), -1)
            fine = np.stack([laplace(p) for p in pictures]).reshape(flat.shape)
            of = flat.mean(1), flat.std(1), (flat < 16).mean(1), fine.std(1)
            found[first : first + block] = np.stack(of, axis=1)
        table = data.manifest[["label", "width", "height"]].assign(set=name).astype({"width": float, "height": float})
        made.append(table.assign(**dict(zip(list(MEASURES)[2:], found.T, strict=True))))
    return pd.concat([t for t in made if len(t)], ignore_index=True)[["set", "label", *MEASURES]]


def shift(measured: pd.DataFrame) -> pd.DataFrame:
    """Return domain_shift.csv: each measure's mean, spread and quantiles in each set.

    Args:
        measured: as `measure` returns it.

    Returns:
        measure, set, n, mean, sd, p5, median, p95. Notebook 06.
    """
    rows = []
    for measure_ in MEASURES:
        for name, values in measured.groupby("set", sort=False)[measure_]:
            v = values.astype(float)
            rows.append((measure_, name, len(v), v.mean(), v.std(), *v.quantile([0.05, 0.5, 0.95])))
    return pd.DataFrame(rows, columns=["measure", "set", "n", "mean", "sd", "p5", "median", "p95"])


def checked(study: params.Study, external, pairs: pd.DataFrame, path: Path = CHECKED) -> pd.DataFrame:
    """Return the audit's precision and recall on the pairs that were looked at by eye, where the sets are those.

    Args:
        study: the parameters.
        external: as `load` returns it.
        pairs: as `overlap.audit` found them.
        path: the table of pairs looked at.

    Returns:
        measure ("precision" or "recall"), value, low, high, n; no row where the slices looked at are not these.

    Notebook 06.
    """
    rows = []
    if study.data.source == "figshare" and path.exists():
        seen = pd.read_csv(path, dtype=str, keep_default_na=False)
        seen = seen[seen["external"].isin(set(external.manifest["image_id"]))]
        claimed = seen["external"].isin(set(pairs["image_id_a"])).to_numpy()
        copy = (seen["verdict"] == "copy").to_numpy()
        for name, of in (("precision", claimed), ("recall", copy)):
            n, k = int(of.sum()), int((claimed & copy).sum())
            if n:
                rows.append((name, k / n, *metrics.wilson(k, n, study.statistics.level), n))
    return pd.DataFrame(rows, columns=["measure", "value", "low", "high", "n"])


def examples(pairs: pd.DataFrame, count: int = 8) -> pd.DataFrame:
    """Choose pairs to show: each external slice's best, from the lowest score to the highest in even steps. Notebook 06."""
    best = pairs.drop_duplicates("image_id_a").sort_values("score", kind="stable")
    return best.iloc[np.unique(np.linspace(0, len(best) - 1, min(count, len(best))).astype(int))]


def in_words(study, external, pairs, cross, eye, calibrated, ood) -> str:
    """Say what notebook 06 found; every number is read from its tables. Markdown."""
    lines = [results.banner(study), ""]
    if study.external is None:
        return "\n".join(
            [*lines, "The parameter file names no external set (`external: null`), so nothing was scored."]
        )
    tumours = external.manifest[external.manifest["label"] != NO_TUMOR]
    copies = tumours["image_id"].isin(set(pairs["image_id_a"])).sum()
    lines.append(
        f"- {copies} of {len(tumours)} external tumour slices ({results.percent(copies / max(len(tumours), 1))}) are "
        f"copies of the study's own slices, at a score of {overlap.COPY} or more."
    )
    for row in eye.itertuples():
        lines.append(f"- By eye: {row.measure} {results.percent(row.value, row.low, row.high)} of {row.n} slices.")
    for row in cross[cross["n"] > 0].itertuples():
        kind = "" if row.augmentation == "none" else f", {row.augmentation}"
        lines.append(
            f"- {row.slices.replace('_', ' ')}{kind}: accuracy "
            f"{results.percent(row.accuracy, row.accuracy_low, row.accuracy_high)} of {row.n} slices, "
            f"balanced {results.percent(row.balanced_accuracy)}."
        )
    missing = [c for c in CLASSES if len(cross) and cross.set_index("slices")[f"n_{c}"].loc[["clean"]].iloc[0] == 0]
    if missing:
        lines.append(f"- No clean slice shows {' or '.join(missing)}: the clean score says nothing about that class.")
    for row in calibrated[calibrated["scaling"] == "after"].itertuples():
        before = calibrated[(calibrated["slices"] == row.slices) & (calibrated["scaling"] == "before")].iloc[0]
        lines.append(
            f"- Calibration error (ECE), {row.slices.replace('_', ' ')}: {100 * before['ece']:.1f} points before and "
            f"{100 * row.ece:.1f} after scaling with T = {row.temperature:.2f}."
        )
    for row in ood.itertuples():
        lines.append(
            f"- {row.score.replace('_', ' ')} tells {row.n_unknown} slices without a tumour from tumours "
            f"({row.known.replace('_', ' ')}) with AUROC {row.auroc:.3f}."
        )
    return "\n".join(lines)


def _probabilities(table: pd.DataFrame, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    y, logits, _ = results.truth(table)
    return y, metrics.softmax(logits / temperature)
