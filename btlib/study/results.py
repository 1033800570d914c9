"""From finished runs to the study's tables of them: one row a fit, a protocol, a class or a setting.

`study` is always the parameters, and `plan` what `runs.plan` returns, whose runs lie under runs/, or `kept.read`, whose
runs the repository keeps. What a column means stands in captions.yaml.
"""

import numpy as np
import pandas as pd

from btlib import DataError, home, params
from btlib.data import datasets, splits
from btlib.fitting import batches, runs
from btlib.models import counts, registry
from btlib.scores import calibration, classification, resampling
from btlib.study import tables

MODELS = (
    *("model", "weights", "protocol", "fold", "seed", "image_size", "n_train", "n_test"),
    *("accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy", "precision", "recall", "f1", "auc"),
    *("parameters", "macs", "fit_seconds"),
)
ACCURACY = ("accuracy", "accuracy_low", "accuracy_high")
DIFFERENCE = ("difference", "difference_low", "difference_high")
RANDOM = "random"
"""What tables write for `weights: null`: a model whose every weight was drawn at random."""


def classes_of(predictions: pd.DataFrame) -> tuple[str, ...]:
    """Return the classes that predictions have logits of, in the order of their columns."""
    return tuple(name.removeprefix("logit_") for name in predictions.columns if name.startswith("logit_"))


def truth(predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return y (n,) int, logits (n, k) and whose slices they are (n,), of predictions as a run makes them.

    A slice is its patient's; one of a patient whom nobody knows is its patient_group's, such as a chain of copies.

    Raises:
        DataError: a label is none of the classes.
    """
    classes = classes_of(predictions)
    if len(strange := predictions.loc[~predictions["label"].isin(classes), "label"]):
        raise DataError(f"predictions: label {strange.iloc[0]!r}; allowed: {', '.join(classes)}")
    y = predictions["label"].map(classes.index).to_numpy(int)
    whose = predictions["patient_id"]
    if "patient_group" in predictions:
        whose = whose.where(whose != predictions["image_id"], predictions["patient_group"])
    return y, predictions[[f"logit_{c}" for c in classes]].to_numpy(), whose.to_numpy()


def resamples(study: params.Study, patients) -> resampling.Resamples:
    """Return the study's samples of the patients, (n,) ids, of n slices."""
    return resampling.Resamples(patients, study.statistics.bootstrap, study.statistics.level, study.seed)


def intervals(study: params.Study, predictions: pd.DataFrame) -> pd.DataFrame:
    """Score predictions with the study's bootstrap: score, value, low, high."""
    y, logits, patients = truth(predictions)
    probabilities = classification.softmax(logits)
    return classification.intervals(y, probabilities, classes_of(predictions), resamples(study, patients))


def mean_right(study: params.Study, predictions: pd.DataFrame) -> resampling.Interval:
    """Return the accuracy of predictions, one slice or more, as `Resamples.mean`."""
    y, logits, patients = truth(predictions)
    return resamples(study, patients).mean(logits.argmax(1) == y)


def told_apart(study: params.Study, positive, score, patients) -> resampling.Interval:
    """Return how often a positive slice scores higher than another, ties counting half (AUROC), with the study's bootstrap.

    positive is bool (n,), with slices of both kinds, score float (n,), patients (n,) ids.
    """
    positive, score, samples = np.asarray(positive), np.asarray(score), resamples(study, patients)
    value = calibration.auroc(score[positive], score[~positive])
    low, high = samples.bounds(classification.weighted_auc(positive, score, samples.member, samples.weights))
    return resampling.Interval(value, min(low, value), max(high, value))


def finished(plan: pd.DataFrame, *purposes: str) -> list[runs.Run]:
    """Return the runs of the plan's fits for these purposes, each once; DataError where one is not done."""
    rows = plan[plan["purpose"].isin(purposes)].drop_duplicates("id")
    done = list(rows["run"]) if "run" in rows else [runs.load(fit) for fit in rows["fit"]]
    missing = [fit.title for fit, run in zip(rows["fit"], done, strict=True) if run is None]
    if missing:
        raise DataError(f"not fitted yet: {missing[0]} and {len(missing) - 1} more; `python -m btlib fit` fits them")
    return done


def pooled(plan: pd.DataFrame) -> dict[tuple[str, int], pd.DataFrame]:
    """Return the proposed model's test predictions by (protocol, seed), folds together."""
    return _together(((run.fit.protocol, run.fit.seed), run.predictions("test")) for run in finished(plan, "proposed"))


def _together(pairs) -> dict:
    """Pool the tables of (key, table) by key, in the order in which keys come."""
    parts: dict = {}
    for key, table in pairs:
        parts.setdefault(key, []).append(table)
    return {key: pd.concat(members, ignore_index=True) for key, members in parts.items()}


def _first_seeds(plan: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The same by protocol, each with its first seed, so that no slice counts twice."""
    first: dict = {}
    for (protocol, _), predictions in pooled(plan).items():
        first.setdefault(protocol, predictions)
    return first


def models(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Return models.csv, columns `MODELS`: a row a fit of the proposed model or a baseline, on its own test slices."""
    rows = []
    for run in finished(plan, "proposed", "baseline"):
        table, fit = intervals(study, run.predictions("test")).set_index("score"), run.fit
        row = dict(fit) | run.provenance() | table["value"].to_dict()
        row |= {"weights": fit.weights or RANDOM, "image_size": fit.preprocessing.image_size}
        rows.append(row | dict(zip(ACCURACY, table.loc["accuracy"], strict=True)))
    return pd.DataFrame(rows)[list(MODELS)]


def planes(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Return planes.csv: the proposed model's accuracy by inferred plane, or "unknown", folds of a seed pooled."""
    rows = []
    for (protocol, seed), predictions in pooled(plan).items():
        for plane, group in predictions.replace({"plane": {"": "unknown"}}).groupby("plane"):
            rows.append((protocol, seed, plane, len(group), len(set(truth(group)[2])), *mean_right(study, group)))
    return pd.DataFrame(rows, columns=["protocol", "seed", "plane", "n_test", "patients", "accuracy", "low", "high"])


def per_class(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Return per_class.csv: every score of each model under the comparison protocol, and of the proposed one elsewhere.

    Folds of a protocol's first seed are pooled; support is the slices of the score's class, or all.
    """
    own = (study.proposed.model, study.proposed.weights or RANDOM)
    tested = {(study.comparison.protocol, *names): table for names, table in compared(study, plan).items()}
    tested = {(protocol, *own): table for protocol, table in _first_seeds(plan).items()} | tested
    parts = []
    for (protocol, model, weights), predictions in tested.items():
        scores, y, classes = intervals(study, predictions), truth(predictions)[0], classes_of(predictions)
        scores["support"] = [classification.support(score, y, classes) for score in scores["score"]]
        parts.append(scores.assign(protocol=protocol, model=model, weights=weights))
    names = ["protocol", "model", "weights", "score", "value", "low", "high", "support"]
    return pd.concat(parts, ignore_index=True)[names]


def confusion(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Return confusion.csv: the proposed model's true and predicted classes by protocol, its first seed's folds pooled."""
    return _by_protocol(plan, lambda y, logits, classes: classification.confusion(y, logits.argmax(1), classes))


def roc(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Return roc.csv: the proposed model's one-vs-rest ROC curves by protocol.

    Folds of the first seed are pooled, so that a curve also shows whether their probabilities mean the same.
    """
    return _by_protocol(plan, lambda y, logits, classes: classification.roc(y, classification.softmax(logits), classes))


def _by_protocol(plan: pd.DataFrame, scored) -> pd.DataFrame:
    parts = {}
    for protocol, predictions in _first_seeds(plan).items():
        y, logits, _ = truth(predictions)
        parts[protocol] = scored(y, logits, classes_of(predictions))
    return pd.concat(parts, names=["protocol"]).droplevel(1).reset_index()


def patients(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Return patients.csv: how many patients the proposed model names rightly, all tested slices of each together.

    By the "mean probability" of the slices, or their "majority", a tie going to the higher mean probability. Intervals
    are Wilson's: patients are independent. Folds of one seed are pooled; slices of patients whom nobody knows are left out.
    Under slices at random, other slices of nearly every patient trained: those rows say nothing about new patients.

    Raises:
        DataError: slices of one patient have different labels.
    """
    rows = []
    for (protocol, seed), predictions in pooled(plan).items():
        classes = classes_of(predictions)
        y, logits, ids = truth(predictions[predictions["patient_id"] != predictions["image_id"]])
        label = pd.Series(y).groupby(ids)
        probabilities = pd.DataFrame(classification.softmax(logits)).groupby(ids).mean()
        if len(mixed := label.nunique().loc[lambda count: count > 1]):
            raise DataError(
                f"patient {mixed.index[0]}: slices of {mixed.iloc[0]} classes; allowed: one class a patient"
            )
        votes = pd.DataFrame(np.eye(len(classes))[logits.argmax(1)]).groupby(ids).mean()
        true, number = label.first().to_numpy(), label.size().to_numpy()
        for rule, belief in (("mean probability", probabilities), ("majority", votes + 1e-6 * probabilities)):
            right = belief.to_numpy().argmax(1) == true
            for name in ("all", *classes):
                among = np.full(len(true), True) if name == "all" else true == classes.index(name)
                if n := among.sum():
                    k = right[among].sum()
                    accuracy = resampling.share(k, n, study.statistics.level)
                    rows.append((protocol, seed, rule, name, n, k, *accuracy, number[among].sum()))
    names = ["protocol", "seed", "rule", "label", "patients", "right", "accuracy", "low", "high", "slices"]
    return pd.DataFrame(rows, columns=names)


def compared(study: params.Study, plan: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """Return test predictions by (model, weights), the proposed model first, all on the very same slices.

    Raises:
        DataError: two models were tested on different slices.
    """
    key = (study.comparison.protocol, study.comparison.seeds[0])
    fitted = finished(plan[[(f.protocol, f.seed) == key for f in plan["fit"]]], "proposed", "baseline")
    by_model = _together(((r.fit.model, r.fit.weights or RANDOM), r.predictions("test")) for r in fitted)
    by_model = {name: table.sort_values("image_id", ignore_index=True) for name, table in by_model.items()}
    first = next(iter(by_model.values()))
    for name, table in by_model.items():
        if not table["image_id"].equals(first["image_id"]):
            raise DataError(f"{name[0]}: tested on other slices than the proposed model")
    return by_model


def comparison(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Return comparison.csv: `resampling.compare` of the proposed model and the baselines, with weights and image sizes."""
    by_model = compared(study, plan)
    (reference, reference_weights), first = next(iter(by_model.items()))
    y, _, patients = truth(first)
    predicted = {model: truth(t)[1].argmax(1) for (model, _), t in by_model.items()}
    table = resampling.compare(y, predicted, reference, resamples(study, patients))
    table.insert(1, "weights", table["model"].map(dict(by_model.keys())))
    sizes = {m.model: study.image_size_of(m) for m in [study.proposed, *study.baselines]}
    table.insert(2, "image_size", table["model"].map(sizes))
    table.insert(4, "reference_weights", reference_weights)
    table.insert(5, "reference_image_size", sizes[reference])
    return table


def ablation(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Return ablation.csv: accuracy of each setting, and its difference from the proposed model's on the same slices.

    No setting was chosen by these numbers: they are test accuracies, to be read, not to be picked from.
    """
    run_of = {run.id: run for run in finished(plan, "ablation")}
    rows, base = [], None
    for (factor, value), group in settings(plan):
        tested = pd.concat(run_of[id].predictions("test") for id in group["id"])
        base = tested if factor == "proposed" else base  # the proposed model comes first
        numbers = _numbers(study, tested, None if factor == "proposed" else base)
        epochs = sum(stage.epochs for stage in group["fit"].iloc[0].recipe.stages)
        backends = " and ".join(sorted({run_of[id].provenance()["backend"] for id in group["id"]}))
        about = (
            factor,
            value or "proposed",
            tables.change_name(factor, value),
            backends,
            len(group),
            epochs,
            len(tested),
        )
        rows.append((*about, *numbers, factor == "proposed"))
    columns = ["factor", "setting", "change", "backend", "fits", "epochs", "n_test", *ACCURACY, *DIFFERENCE, "proposed"]
    return pd.DataFrame(rows, columns=columns)


def settings(plan: pd.DataFrame):
    """Group the plan's ablation by (factor, value), the proposed network, "proposed" and "", first; each fit once."""
    rows = plan[plan["purpose"] == "ablation"].drop_duplicates(["factor", "value", "id"])
    return rows.groupby(["factor", "value"], sort=False)


def leakage(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Return leakage.csv: the proposed model under every way of splitting, and what each loses against the loosest.

    Folds of one seed are pooled, so that a row's slices are all that its protocol tests. A protocol with several seeds
    has a last row that pools them, `seed` "all": its accuracy is their mean. The difference is from the first of
    `splits.LOOSE` that was fitted, all its seeds pooled; empty for itself, and where none was.
    """
    parts: dict = {}
    for run in finished(plan, "proposed"):
        tested = run.predictions("test")
        for seed in (str(run.fit.seed), "all"):
            parts.setdefault((run.fit.protocol, seed), []).append(tested)
    loose = next((p for p in splits.LOOSE if (p, "all") in parts), None)
    rows = []
    for (protocol, seed), members in sorted(parts.items(), key=lambda item: [*map(str, item[0])]):
        if seed == "all" and len(runs.seeds_of(study, protocol)) == 1:
            continue
        predictions = pd.concat(members)
        other = None if loose in (None, protocol) else pd.concat(parts[loose, "all"])
        numbers = _numbers(study, predictions, other)
        rows.append((protocol, seed, len(members), len(predictions), *numbers, splits.rule(protocol).column))
    columns = ["protocol", "seed", "fits", "n_test", *ACCURACY, *DIFFERENCE, "kept_together"]
    order = list(dict.fromkeys(p.protocol for p in study.protocols))
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values("protocol", key=lambda c: c.map(order.index), kind="stable").reset_index(drop=True)


def neighbours(study: params.Study, plan: pd.DataFrame, pairs: pd.DataFrame, manifest: pd.DataFrame) -> pd.DataFrame:
    """Return neighbours.csv: accuracy on test slices that have a near-identical slice in training, and on the others.

    `pairs` are `overlap.within` of all slices, `manifest` is the study's; folds of a protocol's first seed are pooled.
    """
    ends = pairs[["image_id_a", "image_id_b"]].to_numpy()
    known = set(manifest.loc[manifest["label"].isin(study.classes), "image_id"])
    parts = []
    for run in finished(plan, "proposed"):
        if run.fit.seed == runs.seeds_of(study, run.fit.protocol)[0]:
            trained = known - set(run.predictions()["image_id"])
            beside = {x for x, y in (*ends, *ends[:, ::-1]) if y in trained}
            tested = run.predictions("test")
            there = tested["image_id"].isin(beside).map({True: "in training", False: "none"})
            parts.append((run.fit.protocol, tested.assign(neighbour=there)))
    rows = []
    for protocol, both in _together(parts).items():
        for neighbour, tested in both.groupby("neighbour"):
            for label in ("all", *study.classes):
                some = tested if label == "all" else tested[tested["label"] == label]
                if len(some):
                    rows.append((protocol, neighbour, label, len(some), *mean_right(study, some)))
    return pd.DataFrame(rows, columns=["protocol", "neighbour", "label", "n", "accuracy", "low", "high"])


def mirrored(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Return mirrored.csv: what averaging the logits of a slice and of its mirror image changes, under each split.

    All fits of a protocol are pooled; the difference is from one look at each slice, by the same fits.
    """
    parts: dict = {}
    for run in finished(plan, "proposed"):
        once = run.predictions("test")
        data = datasets.load(study.data, run.fit.preprocessing)
        row = pd.Series(np.arange(len(data.manifest)), data.manifest["image_id"])
        twice, names = once.copy(), runs.logits_of(run.fit.classes)
        twice[names] += batches.predict(run.model(), data.images, row.loc[once["image_id"]], mirrored=True)
        twice[names] /= 2
        parts.setdefault(run.fit.protocol, []).append((twice, once))
    rows = []
    for protocol, pairs in parts.items():
        twice, once = map(pd.concat, zip(*pairs, strict=True))
        rows.append((protocol, len(pairs), len(twice), *_numbers(study, twice, once)))
    return pd.DataFrame(rows, columns=["protocol", "fits", "n_test", *ACCURACY, *DIFFERENCE])


def _numbers(study, predictions, base) -> tuple:
    """`ACCURACY`, and `DIFFERENCE` from that on other predictions, of other slices of the same patients perhaps, or none."""
    accuracy = intervals(study, predictions).set_index("score").loc["accuracy"]
    if base is None:
        return (*accuracy, np.nan, np.nan, np.nan)
    y, logits, patients = truth(pd.concat([predictions, base]))
    right, first = (logits.argmax(1) == y).astype(float), np.arange(len(y)) < len(predictions)
    a, b = np.where(first, right, np.nan), np.where(first, np.nan, right)
    return (*accuracy, *resamples(study, patients).difference(a, b)[:3])


def temperature(plan: pd.DataFrame, run: runs.Run, folds: str) -> tuple[float, str]:
    """Return what to divide a run's logits by so that its confidence means something, and where that comes from in words.

    Fitted on the run's validation slices; where it has none, on what the fits of `folds`, a protocol of the plan, say of
    slices that neither they nor this run's test see. 1 where there are none either.
    """
    slices, source = run.predictions("validation"), "its validation slices"
    if slices.empty:
        others = finished(plan[[f.protocol == folds for f in plan["fit"]]], "proposed")
        slices = pd.concat(other.predictions("test") for other in others).drop_duplicates("image_id")
        slices = slices[~slices["image_id"].isin(run.predictions("test")["image_id"])]
        source = f"slices that the fits of other folds ({splits.rule(folds).words}) did not see"
    if slices.empty:
        return 1.0, "as there are no other slices to fit one on"
    y, logits, _ = truth(slices)
    return calibration.fit_temperature(logits, y), f"fitted on {len(y)} slices: {source}"


def epoch_choice(plan: pd.DataFrame) -> pd.DataFrame:
    """Return epoch_choice.csv: what choosing the epoch on the very slices that are scored would add.

    Measured on validation slices, so that no test slice is looked at, and before BatchNorm's statistics are renewed, as
    histories are. Accuracies are of all fits' slices together, gain_least and gain_most of single fits. Fits without
    validation slices, or with a last stage of one epoch, are left out.
    """
    rows: dict = {}
    for run in finished(plan, "proposed"):
        history = run.history()
        n, last_stage = len(run.predictions("validation")), history["stage"] == history["stage"].iloc[-1]
        if n and last_stage.sum() > 1:
            seen = history.loc[last_stage, "val_accuracy"]
            rows.setdefault(run.fit.protocol, []).append((n, len(seen), seen.iloc[-1], seen.max()))
    table = []
    for protocol, fits in rows.items():
        n, epochs, last, best = map(np.array, zip(*fits, strict=True))
        gains = best - last
        means = [np.average(score, weights=n) for score in (last, best, gains)]
        table.append((protocol, len(n), epochs.max(), n.sum(), *means, gains.min(), gains.max()))
    names = ("protocol", "fits", "epochs", "n_validation", "last", "best", "gain", "gain_least", "gain_most")
    return pd.DataFrame(table, columns=names)


def costs(study: params.Study) -> pd.DataFrame:
    """Return cost.csv: the rows of reports/cost.csv of the study's models at their output stride."""
    path = home() / "reports" / "cost.csv"
    if not path.exists():
        return pd.DataFrame(columns=[*counts.COLUMNS, "hardware", "commit"])
    table = pd.read_csv(path)
    models_ = [study.proposed, *study.baselines]
    strides = {m.model: m.output_stride or registry.REGISTRY[m.model].strides[0] for m in models_}
    return table[table["model"].map(strides) == table["output_stride"]].reset_index(drop=True)
