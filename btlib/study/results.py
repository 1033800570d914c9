"""From finished runs to the study's tables: one row a fit, a protocol, a setting or a claim."""

import json
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml

from btlib import DataError, files, home, params
from btlib.data import datasets, splits
from btlib.fitting import batches, runs
from btlib.models import counts
from btlib.scores import metrics
from btlib.study import tables

MODELS = (
    *("model", "weights", "protocol", "fold", "seed", "image_size", "n_train", "n_test"),
    *("accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy", "precision", "recall", "f1", "auc"),
    *("parameters", "macs", "fit_seconds"),
)
RANDOM = "random"
"""What tables write for `weights: null`: a model whose every weight was drawn at random."""


def versions() -> str:
    """Return what a notebook ran with, in one line: Python, packages and the code's commit. Every notebook's last cell."""
    from importlib.metadata import version
    from platform import python_version

    packages = ("keras", "tensorflow", "numpy", "pandas", "scikit-learn")
    return (
        f"Python {python_version()}, {', '.join(f'{p} {version(p)}' for p in packages)}; code at {runs.commit()[:12]}"
    )


def classes_of(predictions: pd.DataFrame) -> tuple[str, ...]:
    """Return the classes that predictions have logits of, in the order of their columns. Notebooks 03 to 07."""
    return tuple(name.removeprefix("logit_") for name in predictions.columns if name.startswith("logit_"))


def truth(predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return y (n,) int, logits (n, k) and patient ids (n,) of a run's predictions.

    Args:
        predictions: columns label, patient_id and a logit_<class> for each of k classes.

    Raises:
        DataError: a label is none of the classes.

    Notebooks 03 to 07.
    """
    classes = classes_of(predictions)
    if len(strange := predictions.loc[~predictions["label"].isin(classes), "label"]):
        raise DataError(f"predictions: label {strange.iloc[0]!r}; allowed: {', '.join(classes)}")
    y = predictions["label"].map(classes.index).to_numpy(int)
    return y, predictions[[f"logit_{c}" for c in classes]].to_numpy(), predictions["patient_id"].to_numpy()


def resamples(study: params.Study, patients) -> metrics.Resamples:
    """Return the study's samples of the patients, (n,) ids, of n slices. Notebooks 03 to 07."""
    return metrics.Resamples(patients, study.statistics.bootstrap, study.statistics.level, study.seed)


def intervals(study: params.Study, predictions: pd.DataFrame) -> pd.DataFrame:
    """Score predictions with the study's bootstrap: score, value, low, high. Notebooks 03 to 07."""
    y, logits, patients = truth(predictions)
    return metrics.intervals(y, metrics.softmax(logits), classes_of(predictions), resamples(study, patients))


def finished(plan: pd.DataFrame, *purposes: str) -> list[runs.Run]:
    """Return the runs of the plan's fits for these purposes, each once, in the plan's order.

    Args:
        plan: `runs.plan`, whose runs lie under runs/, or `kept.read`, whose runs the repository keeps.
        purposes: of the plan.

    Raises:
        DataError: a fit is not done; fits are `training.fit`'s business.
    """
    rows = plan[plan["purpose"].isin(purposes)].drop_duplicates("id")
    done = list(rows["run"]) if "run" in rows else [runs.load(fit) for fit in rows["fit"]]
    missing = [fit.title for fit, run in zip(rows["fit"], done, strict=True) if run is None]
    if missing:
        raise DataError(f"not fitted yet: {missing[0]} and {len(missing) - 1} more; `python -m btlib fit` fits them")
    return done


def pooled(plan: pd.DataFrame) -> dict[tuple[str, int], pd.DataFrame]:
    """Return the proposed model's test predictions by (protocol, seed), folds together and told by a column fold.

    Args:
        plan: as `finished`.

    Notebooks 04, 06 and 07.
    """
    folds: dict = {}
    for run in finished(plan, "proposed"):
        key = run.fit.protocol, run.fit.seed
        folds.setdefault(key, []).append(run.predictions("test").assign(fold=run.fit.fold))
    return {key: pd.concat(members, ignore_index=True) for key, members in folds.items()}


def _first_seeds(plan: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The same by protocol, each with its first seed, so that no slice counts twice."""
    first: dict = {}
    for (protocol, _), predictions in pooled(plan).items():
        first.setdefault(protocol, predictions)
    return first


def models(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Return models.csv: one row a fit of the proposed model or a baseline, scored on its own test slices.

    Args:
        study: the parameters.
        plan: `runs.plan`, all of it fitted.

    Returns:
        Columns `MODELS`. Notebook 04.
    """
    rows = []
    for run in finished(plan, "proposed", "baseline"):
        table = intervals(study, run.predictions("test")).set_index("score")
        facts, fit = run.provenance(), run.fit
        rows.append(
            {
                **{k: getattr(fit, k) for k in ("model", "protocol", "fold", "seed")},
                "weights": fit.weights or RANDOM,
                "image_size": fit.preprocessing.image_size,
                **{k: facts[k] for k in ("n_train", "n_test", "parameters", "macs", "fit_seconds")},
                **table["value"].to_dict(),
                "accuracy_low": table.loc["accuracy", "low"],
                "accuracy_high": table.loc["accuracy", "high"],
            }
        )
    return pd.DataFrame(rows)[list(MODELS)]


def planes(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Return planes.csv: the proposed model's accuracy on axial, coronal and sagittal slices, under each split.

    Returns:
        protocol, seed, plane (inferred; "unknown" where it could not be), n_test, patients, accuracy, low, high; folds
        of one seed are pooled. Notebook 04.
    """
    rows = []
    for (protocol, seed), predictions in pooled(plan).items():
        for plane, group in predictions.replace({"plane": {"": "unknown"}}).groupby("plane"):
            y, logits, patients = truth(group)
            accuracy = resamples(study, patients).mean(logits.argmax(1) == y)
            rows.append((protocol, seed, plane, len(group), len(set(patients)), *accuracy))
    return pd.DataFrame(rows, columns=["protocol", "seed", "plane", "n_test", "patients", "accuracy", "low", "high"])


def per_class(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Return per_class.csv: every score of each model under the comparison protocol, and of the proposed one elsewhere.

    Returns:
        protocol, model, weights, score, value, low, high, support (slices of the score's class, or all); folds of a
        protocol's first seed are pooled. Notebooks 03 and 04.
    """
    own = (study.proposed.model, study.proposed.weights or RANDOM)
    tested = {(study.comparison.protocol, *names): table for names, table in compared(study, plan).items()}
    tested = {(protocol, *own): table for protocol, table in _first_seeds(plan).items()} | tested
    parts = []
    for (protocol, model, weights), predictions in tested.items():
        scores, y = intervals(study, predictions), truth(predictions)[0]
        scores["support"] = [metrics.support(score, y, classes_of(predictions)) for score in scores["score"]]
        parts.append(scores.assign(protocol=protocol, model=model, weights=weights))
    names = ["protocol", "model", "weights", "score", "value", "low", "high", "support"]
    return pd.concat(parts, ignore_index=True)[names]


def confusion(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Return confusion.csv: the proposed model's true and predicted classes under every split, side by side.

    Returns:
        protocol, label, predicted, n, share (of the label's slices); folds of a protocol's first seed are pooled.
        Notebook 04.
    """
    parts = []
    for protocol, predictions in _first_seeds(plan).items():
        y, logits, _ = truth(predictions)
        parts.append(metrics.confusion(y, logits.argmax(1), classes_of(predictions)).assign(protocol=protocol))
    return pd.concat(parts, ignore_index=True)[["protocol", "label", "predicted", "n", "share"]]


def roc(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Return roc.csv: the proposed model's one-vs-rest ROC curves under every split.

    Returns:
        protocol, label, fpr, tpr, auc; folds of a protocol's first seed are pooled, so that a curve also shows whether
        their probabilities mean the same. Notebook 04.
    """
    parts = []
    for protocol, predictions in _first_seeds(plan).items():
        y, logits, _ = truth(predictions)
        parts.append(metrics.roc(y, metrics.softmax(logits), classes_of(predictions)).assign(protocol=protocol))
    return pd.concat(parts, ignore_index=True)[["protocol", "label", "fpr", "tpr", "auc"]]


def patients(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Return patients.csv: how many patients the proposed model names rightly, all tested slices of each together.

    Under slices at random, other slices of nearly every patient trained: those rows say nothing about new patients.

    Returns:
        protocol, seed, rule ("mean probability" of the slices, or their "majority", a tie going to the higher mean
        probability), label ("all" or a class), patients, right, accuracy, low, high (Wilson's interval: patients are
        independent), slices. Folds of one seed are pooled. Notebooks 04 and 07.

    Raises:
        DataError: slices of one patient have different labels.
    """
    rows = []
    for (protocol, seed), predictions in pooled(plan).items():
        classes = classes_of(predictions)
        y, logits, ids = truth(predictions)
        probabilities, label = pd.DataFrame(metrics.softmax(logits)).groupby(ids).mean(), pd.Series(y).groupby(ids)
        if len(mixed := label.nunique()[label.nunique() > 1]):
            raise DataError(
                f"patient {mixed.index[0]}: slices of {mixed.iloc[0]} classes; allowed: one class a patient"
            )
        votes = pd.DataFrame(np.eye(len(classes))[logits.argmax(1)]).groupby(ids).mean()
        for rule, belief in (("mean probability", probabilities), ("majority", votes + 1e-6 * probabilities)):
            right = belief.to_numpy().argmax(1) == label.first().to_numpy()
            for c, name in ((None, "all"), *enumerate(classes)):
                among = (label.first() == c).to_numpy() if c is not None else np.ones(len(right), bool)
                if among.any():
                    accuracy = metrics.share(int(right[among].sum()), int(among.sum()), study.statistics.level)
                    counts = int(among.sum()), int(right[among].sum())
                    rows.append((protocol, seed, rule, name, *counts, *accuracy, int(label.size()[among].sum())))
    names = ["protocol", "seed", "rule", "label", "patients", "right", "accuracy", "low", "high", "slices"]
    return pd.DataFrame(rows, columns=names)


def temperatures(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Return temperatures.csv: what folds say about scaling the proposed model's logits (`temperature_by_folds`).

    Returns:
        protocol, seed, folds, n, use (the temperature, empty where folds say that none helps), temperature, low, high,
        loss, loss_low, loss_high, ece, ece_low, ece_high (after minus before, on folds that it was not fitted on); no
        row for a protocol of one fold. Notebook 06.
    """
    rows = []
    for (protocol, seed), predictions in pooled(plan).items():
        if (folds := predictions["fold"].nunique()) > 1:
            y, logits, ids = truth(predictions)
            use, *numbers = metrics.temperature_by_folds(logits, y, predictions["fold"], resamples(study, ids))
            rows.append((protocol, seed, folds, len(y), use, *(value for number in numbers for value in number)))
    names = [f"{name}{bound}" for name in ("loss", "ece") for bound in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["protocol", "seed", "folds", "n", "use", "temperature", "low", "high", *names])


def compared(study: params.Study, plan: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """Return test predictions by (model, weights), the proposed model first, all on the very same slices.

    Raises:
        DataError: two models were tested on different slices.
    """
    key = (study.comparison.protocol, study.comparison.seeds[0])
    parts: dict = {}
    for run in finished(plan[[(f.protocol, f.seed) == key for f in plan["fit"]]], "proposed", "baseline"):
        parts.setdefault((run.fit.model, run.fit.weights or RANDOM), []).append(run.predictions("test"))
    tables = {name: pd.concat(p).sort_values("image_id").reset_index(drop=True) for name, p in parts.items()}
    first = next(iter(tables.values()))
    for name, table in tables.items():
        if not table["image_id"].equals(first["image_id"]):
            raise DataError(f"{name[0]}: tested on other slices than the proposed model")
    return tables


def comparison(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Compare every baseline with the proposed model on the same slices, naming what else differs in the row.

    Returns:
        `metrics.compare`'s columns, with weights and image_size (pixels) of both. Notebook 03.
    """
    tables = compared(study, plan)
    (reference, reference_weights), first = next(iter(tables.items()))
    y, _, patients = truth(first)
    predicted = {model: truth(t)[1].argmax(1) for (model, _), t in tables.items()}
    table = metrics.compare(y, predicted, reference, resamples(study, patients))
    weights = dict(tables)
    table.insert(1, "weights", [w for m in table["model"] for (n, w) in weights if n == m])
    sizes = {m.model: study.image_size_of(m) for m in [study.proposed, *study.baselines]}
    table.insert(2, "image_size", table["model"].map(sizes))
    table.insert(4, "reference_weights", reference_weights)
    table.insert(5, "reference_image_size", sizes[reference])
    return table


def ablation(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Return ablation.csv: accuracy of each setting, and its difference from the proposed model's on the same slices.

    Returns:
        factor, setting, fits, n_test, accuracy (over all test slices), accuracy_low, accuracy_high, difference,
        difference_low, difference_high (from the proposed model), proposed. No setting was chosen by these numbers: they are
        test accuracies, to be read, not to be picked from. Notebook 04.
    """
    rows = plan[plan["purpose"] == "ablation"].drop_duplicates(["factor", "value", "id"])
    run_of = {run.id: run for run in finished(plan, "ablation")}
    settings, base = [], None
    for (factor, value), group in rows.groupby(["factor", "value"], sort=False):
        tested = pd.concat(run_of[id].predictions("test") for id in group["id"])
        base = tested if factor == "proposed" else base  # the proposed model comes first
        accuracy = intervals(study, tested).set_index("score").loc["accuracy", ["value", "low", "high"]]
        gap = (np.nan,) * 3 if factor == "proposed" else _gap(study, tested, base)
        settings.append((factor, value or "proposed", len(group), len(tested), *accuracy, *gap, factor == "proposed"))
    columns = ["factor", "setting", "fits", "n_test", "accuracy", "accuracy_low", "accuracy_high"]
    columns += ["difference", "difference_low", "difference_high", "proposed"]
    return pd.DataFrame(settings, columns=columns)


def leakage(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Return leakage.csv: the proposed model under every way of splitting, and what each loses against slice by slice.

    Folds of one seed are pooled, so that a row's slices are all that its protocol tests. A protocol with several seeds
    has a last row that pools them, `seed` "all": its accuracy is their mean.

    Returns:
        protocol, seed, fits, n_test, accuracy, accuracy_low, accuracy_high, difference (accuracy minus that of
        image_holdout, all its seeds pooled), difference_low, difference_high (empty for image_holdout itself, and
        where it was not fitted), kept_together (the unit of the split). Notebook 07.
    """
    parts: dict = {}
    for run in finished(plan, "proposed"):
        tested = run.predictions("test")
        for seed in (str(run.fit.seed), "all"):
            parts.setdefault((run.fit.protocol, seed), []).append(tested)
    base = parts.get(("image_holdout", "all"))
    rows = []
    for (protocol, seed), members in sorted(parts.items(), key=lambda item: [*map(str, item[0])]):
        if seed == "all" and len(runs.seeds_of(study, protocol)) == 1:
            continue
        predictions = pd.concat(members)
        accuracy = intervals(study, predictions).set_index("score").loc["accuracy"]
        gap = (
            (np.nan,) * 3 if base is None or protocol == "image_holdout" else _gap(study, predictions, pd.concat(base))
        )
        unit = splits.rule(protocol).column
        numbers = accuracy[["value", "low", "high"]]
        rows.append((protocol, seed, len(members), len(predictions), *numbers, *gap, unit))
    names = ("protocol", "seed", "fits", "n_test", "accuracy", "accuracy_low", "accuracy_high")
    table = pd.DataFrame(rows, columns=[*names, "difference", "difference_low", "difference_high", "kept_together"])
    order = list(dict.fromkeys(p.protocol for p in study.protocols))
    return table.sort_values("protocol", key=lambda c: c.map(order.index), kind="stable").reset_index(drop=True)


def mirrored(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Return mirrored.csv: what averaging the logits of a slice and of its mirror image changes, under each split.

    All fits of a protocol are pooled. Fits are those of leakage.csv, so that only the second look at each slice differs.

    Returns:
        protocol, fits, n_test, accuracy, accuracy_low, accuracy_high (of the averaged logits), difference, difference_low,
        difference_high (from one look at each slice). Notebook 04, where `test_time_augmentation` is true.
    """
    parts: dict = {}
    for run in finished(plan, "proposed"):
        once = run.predictions("test")
        data = datasets.load(study.data, run.fit.preprocessing)
        row = pd.Series(np.arange(len(data.manifest)), data.manifest["image_id"])
        logits = batches.predict(run.model(), data.images, row.loc[once["image_id"]], flip=True)
        twice = once.assign(**dict(zip(runs.logits_of(run.fit.classes), logits.T, strict=True)))
        parts.setdefault(run.fit.protocol, []).append((twice, once))
    rows = []
    for protocol, pairs in parts.items():
        twice, once = map(pd.concat, zip(*pairs, strict=True))
        accuracy = intervals(study, twice).set_index("score").loc["accuracy", ["value", "low", "high"]]
        rows.append((protocol, len(pairs), len(twice), *accuracy, *_gap(study, twice, once)))
    names = ("protocol", "fits", "n_test", "accuracy", "accuracy_low", "accuracy_high")
    return pd.DataFrame(rows, columns=[*names, "difference", "difference_low", "difference_high"])


def _gap(study, predictions, base) -> tuple[float, float, float]:
    """Accuracy on one table of predictions minus that on another, of other slices of the same patients perhaps."""
    y, logits, patients = truth(pd.concat([predictions, base]))
    right, first = (logits.argmax(1) == y).astype(float), np.arange(len(y)) < len(predictions)
    a, b = np.where(first, right, np.nan), np.where(first, np.nan, right)
    return resamples(study, patients).difference(a, b)[:3]


def epoch_choice(plan: pd.DataFrame) -> pd.DataFrame:
    """Return epoch_choice.csv: what choosing the epoch on the very slices that are scored would add.

    A score of the best epoch on the scored slices, which early stopping on a test set gives, is too high by this much; the
    study takes its fits as their last epoch left them. Measured on validation slices, so that no test slice is looked at, and
    before BatchNorm's statistics are renewed, as histories are.

    Returns:
        protocol, fits, epochs (of the last stage), n_validation (all fits'), last, best (accuracies of all fits' validation
        slices together, after the last epoch and after each fit's best), gain (best minus last), gain_least, gain_most (of
        single fits). Protocols whose last stage has one epoch are left out. Notebook 07.
    """
    rows: dict = {}
    for run in finished(plan, "proposed"):
        history = run.history()
        seen = history.loc[history["stage"] == history["stage"].iloc[-1], "val_accuracy"]
        if len(seen) > 1:
            n = len(run.predictions("validation"))
            rows.setdefault(run.fit.protocol, []).append((n, len(seen), seen.iloc[-1], seen.max()))
    made = []
    for protocol, fits in rows.items():
        n, epochs, last, best = map(np.array, zip(*fits, strict=True))
        pooled = [np.average(score, weights=n) for score in (last, best)]
        gains = best - last
        made.append((protocol, len(n), epochs.max(), n.sum(), *pooled, pooled[1] - pooled[0], gains.min(), gains.max()))
    names = ("protocol", "fits", "epochs", "n_validation", "last", "best", "gain", "gain_least", "gain_most")
    return pd.DataFrame(made, columns=names)


def reproduced(study: params.Study, fingerprint: str) -> pd.DataFrame:
    """Compare fits made here with the rows that the study keeps of the very same fits, made at another time or place.

    Args:
        study: the parameters.
        fingerprint: of the data set, `datasets.fingerprint`.

    Returns:
        id, model, protocol, fold, seed, n_test, accuracy (of the fit made here), kept, kept_low, kept_high (of models.csv),
        inside (whether accuracy lies in that interval), hardware, commit, kept_hardware, kept_commit. Also written to
        reports/<profile>/reproduced.csv by `python -m btlib compare`; rows of other machines stay there.

    Raises:
        DataError: the study keeps no tables, or no fit made here stands beside a kept one.
    """
    table, about = tables.read(study.profile, "models"), tables.folder(study.profile) / "provenance.json"
    kept = {f["id"]: f for f in json.loads(about.read_text(encoding="utf-8"))["fits"]} if about.exists() else {}
    rows = table.set_index(["model", "weights", "protocol", "fold", "seed"])
    plan = runs.plan(study, fingerprint)
    plan = plan[plan["purpose"].isin(["proposed", "baseline"]) & plan["id"].isin(kept)]
    made = []
    for fit in plan.drop_duplicates("id")["fit"]:
        run, other = runs.load(fit), kept[fit.id]
        if run is None or {"id": fit.id, **run.provenance()} == other:  # the one that the row is of
            continue
        row = rows.loc[(fit.model, fit.weights or RANDOM, fit.protocol, fit.fold, fit.seed)]
        y, logits, _ = truth(run.predictions("test"))
        accuracy, (low, high) = float(np.mean(logits.argmax(1) == y)), row[["accuracy_low", "accuracy_high"]]
        here = (fit.id, fit.model, fit.protocol, fit.fold, fit.seed, len(y), accuracy, row["accuracy"], low, high)
        made.append(
            (*here, low <= accuracy <= high, *(f[k] for f in (run.provenance(), other) for k in ("hardware", "commit")))
        )
    if not made:
        raise DataError(
            f"{about}: lists no fit that was made here again; `python -m btlib fit` makes them, or one of them"
        )
    names = ("id", "model", "protocol", "fold", "seed", "n_test", "accuracy", "kept", "kept_low", "kept_high", "inside")
    result = pd.DataFrame(made, columns=[*names, "hardware", "commit", "kept_hardware", "kept_commit"])
    path = about.with_name("reproduced.csv")
    if path.exists():
        result = pd.concat([pd.read_csv(path, dtype={"id": str}), result]).drop_duplicates(
            ["id", "hardware"], keep="last"
        )
    with files.replacing(path) as temporary:
        result.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    return result.reset_index(drop=True)


SLICES = 3064
"""Slices of the Figshare set, which the paper names; of how many its test set was, its abstract does not say."""

HELD_OUT = (0.1, 0.15, 0.2)
"""Shares of them that a random hold-out usually takes."""

COPIES = 0.05
"""Share of copies of the study's slices above which a score on an external set is no test of carrying over."""


class Finding(NamedTuple):
    """What the study found for a claim; a value that is counted, not estimated, has bounds that are NaN."""

    value: float
    low: float
    high: float
    n: int | None = None
    """Slices that it was measured on, where the paper's own number of slices has to be guessed from it."""
    untested: str = ""
    """Why the number tests no claim: the whole verdict."""
    data: str = ""
    """What it was measured on, where that is not the study's own data."""


def claims(study: params.Study, found: dict[str, Finding]) -> pd.DataFrame:
    """Return claims.csv: what the paper claims, what came out here, and a verdict on two uncertain numbers.

    Args:
        study: the parameters.
        found: claim's key in params/claims.yaml to what came out; a claim without an entry was not tested here.

    Returns:
        claim, paper, paper_low, paper_high (Wilson's interval, the widest of those that its unknown test size allows),
        ours, low, high, verdict, data, assumption (about that size). The verdict is ours against the paper's number, or
        against 0 where the claim has none: "higher", "lower", "cannot be told apart" (also where the possible sizes do
        not agree), "not tested: why" or "not testable: N % are copies". A claim is of models trained on one data set (`data`
        in params/claims.yaml); a study of another tests none of it, and its numbers do not stand here. Notebook 07.
    """
    rows = []
    for key, claim in listed_claims().items():
        ours = Finding(*found.get(key, (np.nan,) * 3))
        if study.data.source not in (claim["data"], "phantom"):
            ours = Finding(np.nan, np.nan, np.nan, untested=ANOTHER)
        sizes, assumption = _paper_sizes(key, claim["value"], ours.n)
        theirs = [metrics.share(round(claim["value"] * n), n, study.statistics.level) for n in sizes]
        paper = np.nan if claim["value"] is None else claim["value"]
        bounds = (min(i.low for i in theirs), max(i.high for i in theirs)) if theirs else (np.nan, np.nan)
        data = "" if np.isnan(ours.value) else ours.data or said_of(study.data)
        verdict = _verdict(study, ours, theirs)
        rows.append((claim["text"], paper, *bounds, *ours[:3], verdict, data, assumption))
    names = ["claim", "paper", "paper_low", "paper_high", "ours", "low", "high", "verdict", "data", "assumption"]
    return pd.DataFrame(rows, columns=names)


ANOTHER = "not tested: another data set"
"""Verdict on a claim about models of another data set than the study's."""


def _paper_sizes(key: str, value: float | None, n: int | None) -> tuple[list[int], str]:
    """The possible sizes of the test set that a number of the paper stands on, and what they assume."""
    if value is None:
        return [], ""
    if key.startswith("external"):
        return ([n], f"paper's test size unknown: taken as ours, {n} slices") if n else ([], "")
    sizes = [int(np.ceil(share * SLICES)) for share in HELD_OUT]
    shares = ", ".join(f"{100 * share:g}" for share in HELD_OUT)
    return sizes, f"paper's test size unknown: {', '.join(map(str, sizes))} slices ({shares} %)"


def listed_claims() -> dict[str, dict]:
    """Read params/claims.yaml: the key of each claim, its text, its value (None where the paper gives none), its data."""
    return yaml.safe_load((params.PARAMS_DIR / "claims.yaml").read_text(encoding="utf-8"))


def _verdict(study, ours: Finding, theirs: list[metrics.Interval]) -> str:
    if ours.untested == ANOTHER:
        return ANOTHER
    if np.isnan(ours.value):
        return "not tested: not run here"
    if study.data.source == "phantom":
        return "not tested: made-up slices"
    if ours.untested:
        return ours.untested
    bounds = (ours.value if np.isnan(bound) else bound for bound in ours[1:3])
    own = metrics.Interval(ours.value, *bounds)
    words = {metrics.verdict(own, other) for other in theirs or [metrics.Interval(0, 0, 0)]}
    return words.pop() if len(words) == 1 else metrics.ALIKE


RIVALS = ("vgg16", "resnet152v2", "vit_b16")
"""The networks that the paper's EfficientNet is said to be ahead of."""


def found(study: params.Study, scores: pd.DataFrame, split: pd.DataFrame) -> dict[str, Finding]:
    """Collect what this study found for each claim of params/claims.yaml.

    Args:
        study: the parameters.
        scores: models.csv.
        split: leakage.csv.

    Returns:
        Claim's key to what came out; keys of what was not run are absent. Notebook 07.
    """
    made = {}
    for key, protocols in (("accuracy", ["image_holdout"]), ("accuracy_patients", ["group_folds", "group_holdout"])):
        rows = next((r for p in protocols if len(r := split[split["protocol"] == p])), None)
        if rows is not None:  # the last row of a protocol pools its seeds
            made[key] = Finding(*rows.iloc[-1][["accuracy", "accuracy_low", "accuracy_high"]])
    compared = _read(study, "comparison")
    compared = compared[compared["model"].isin(RIVALS)] if len(compared) else compared
    if len(compared):
        best = compared.sort_values("accuracy").iloc[-1]
        theirs, own = (f"{best[f'{who}weights']} weights, {best[f'{who}image_size']} px" for who in ("", "reference_"))
        untested = "" if theirs == own else f"not tested: no fair test, {theirs} against {own}"
        made["baselines"] = Finding(-best["difference"], -best["high"], -best["low"], untested=untested)
        rivals = scores[scores["model"].isin(RIVALS)]["parameters"].min()
        own = scores[scores["model"] == study.proposed.model]["parameters"].iloc[0]
        made["parameters"] = Finding(1 - own / rivals, np.nan, np.nan)  # counted, not estimated
    maps = _read(study, "gradcam_controls")
    if len(maps):
        first = (maps["model"] == study.proposed.model) & (maps["method"] == study.gradcam.methods[0])
        rows = maps[first & (maps["score"] == "energy")]
        best = rows.sort_values("control_mean").iloc[-1]  # bounds of a difference from two intervals: cautious
        made["gradcam"] = Finding(
            best["mean"] - best["control_mean"],
            best["low"] - best["control_high"],
            best["high"] - best["control_low"],
        )
    made |= _outside(study, _read(study, "cross_dataset"))
    return made


def _outside(study: params.Study, table: pd.DataFrame) -> dict[str, Finding]:
    """What the first external set that has a score says: which one the paper took, its abstract does not tell."""
    made: dict = {}
    name = next((name for name in study.external if len(table) and (table["set"] == name).any()), None)
    table = table[table["set"] == name] if name else table
    n = table.drop_duplicates("slices").set_index("slices")["n"] if name else {}
    for key, kind in (("external", "all"), ("external_clean", "clean")):
        if name and n[kind]:
            copies = 0 if kind == "clean" else 1 - n["clean"] / n["all"]
            untested = f"not testable: {100 * copies:.0f} % are copies" if copies > COPIES else ""
            numbers = table[table["slices"] == kind].iloc[0][["accuracy", "accuracy_low", "accuracy_high"]]
            made[key] = Finding(*numbers, int(n[kind]), untested, said_of(study.external[name]))
    return made


def _read(study, name) -> pd.DataFrame:
    """A table of another notebook, or an empty one where that notebook had nothing to write."""
    try:
        return tables.read(study.profile, name)
    except (DataError, pd.errors.EmptyDataError):
        return pd.DataFrame()


def costs(study: params.Study) -> pd.DataFrame:
    """Return cost.csv: what the study's models cost in time and memory, as `make bench` last measured it.

    Returns:
        The rows of reports/cost.csv (`benchmarks.cost.table`, hardware, commit) of the proposed model and the baselines; none where
        it was not measured. Notebook 07.
    """
    path = home() / "reports" / "cost.csv"
    if not path.exists():
        return pd.DataFrame(columns=[*counts.COLUMNS, "hardware", "commit"])
    table = pd.read_csv(path)
    names = {m.model for m in [study.proposed, *study.baselines]}
    return table[table["model"].isin(names)].reset_index(drop=True)


def holdout_errors(accuracy: float, slices: int, level: float) -> pd.DataFrame:
    """Say how many errors an accuracy leaves in a random hold-out, and how wide its interval is.

    Args:
        accuracy: 0 to 1, as published.
        slices: of the whole data set.
        level: of Wilson's interval.

    Returns:
        fraction held out, n_test, right, wrong, accuracy (of that count), low, high. Notebook 07.
    """
    rows = []
    for fraction in HELD_OUT:
        n = int(np.ceil(fraction * slices))
        right = round(accuracy * n)
        rows.append((fraction, n, right, n - right, *metrics.share(right, n, level)))
    return pd.DataFrame(rows, columns=["fraction", "n_test", "right", "wrong", "accuracy", "low", "high"])


def said_of(data: params.Data) -> str:
    """Name a data set in a few words, a made-up one as such. Every notebook."""
    return {
        "phantom": "made-up slices (phantom)",
        "figshare": "Figshare 1512427",
        "folders": data.path,
        "table": data.path,
    }[data.source]


def banner(study: params.Study) -> str:
    """Return the sentence that stands on top of every notebook. Markdown."""
    if study.data.source == "phantom":
        return "> **Made-up slices.** Every number on this page comes from phantoms; it says nothing about patients."
    return f"> Data: {said_of(study.data)}. Profile `{study.profile}`, seed {study.seed}."


def percent(value: float, low: float | None = None, high: float | None = None) -> str:
    """Write a share as per cent, with its interval where there is one: 99.35 % (98.33 to 99.75 %)."""
    text = f"{100 * value:.2f} %"
    return text if low is None else f"{text} ({100 * low:.2f} to {100 * high:.2f} %)"


def baselines_in_words(study: params.Study, table: pd.DataFrame) -> str:
    """Say what `comparison` found, initialisations named. Markdown, notebook 03."""
    if table.empty:
        return f"The profile `{study.profile}` names no baseline; nothing was compared."
    lines = [banner(study), ""]
    for row in table.itertuples():
        lines.append(
            f"- {row.model} ({row.weights} initialisation, {row.image_size} px) {percent(row.accuracy)} against "
            f"{row.reference} ({row.reference_weights} initialisation, {row.reference_image_size} px) "
            f"{percent(row.reference_accuracy)}: difference "
            f"{100 * row.difference:+.2f} points ({100 * row.low:+.2f} to {100 * row.high:+.2f}); McNemar "
            f"p = {row.mcnemar_p_holm:.2g}, bootstrap p = {row.bootstrap_p_holm:.2g} (Holm)."
        )
    if table["weights"].ne(table["reference_weights"]).any():
        lines.append("\nWhere initialisations differ, the difference is one of pretraining as much as of architecture.")
    if table["image_size"].ne(table["reference_image_size"]).any():
        lines.append("\nWhere image sizes differ, so do the budgets: a smaller slice costs less and shows less.")
    return "\n".join(lines)


def proposed_in_words(study: params.Study, table: pd.DataFrame) -> str:
    """Say the proposed model's accuracy under each split. Markdown, notebook 04."""
    own = table[table["model"] == study.proposed.model]
    lines = [
        f"- {r.protocol}, fold {r.fold}, seed {r.seed}: {round(r.accuracy * r.n_test)} of {r.n_test} slices right, "
        f"{percent(r.accuracy, r.accuracy_low, r.accuracy_high)}."
        for r in own.itertuples()
    ]
    return "\n".join([banner(study), "", *lines])


def verdict_in_words(study: params.Study, table: pd.DataFrame, split: pd.DataFrame) -> str:
    """Say claim by claim what came out, and what the split alone makes. Markdown, notebook 07."""
    lines = [banner(study), ""]
    for row in table.itertuples():
        bounds = [] if np.isnan(row.paper_low) else [row.paper_low, row.paper_high]
        paper = "" if np.isnan(row.paper) else f" Paper: {percent(row.paper, *bounds)}."
        ours = (
            ""
            if np.isnan(row.ours)
            else f" Here: {percent(row.ours, *([] if np.isnan(row.low) else [row.low, row.high]))}."
        )
        lines.append(f"- {row.claim}.{paper}{ours} **{row.verdict}**")
    for row in split.dropna(subset=["difference"]).itertuples():
        lines.append(
            f"- {row.protocol} (seed {row.seed}) lies {100 * row.difference:+.2f} points "
            f"({100 * row.difference_low:+.2f} to {100 * row.difference_high:+.2f}) from image_holdout."
        )
    return "\n".join(lines)
