"""What a fit is worth: scores with intervals over patients, paired tests, calibration, confidence on unknown slices.

Throughout, `y` is an int array (n,) of indices into `CLASSES`, and probabilities and logits are float (n, 3) in that
order. A class that `y` lacks has no recall and no AUC: its own scores are left out, and macro averages are taken over
the classes that `y` has.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from btlib import CLASSES, DataError

BINS = 15
"""Equal-width bins of calibration tables (Guo et al., "On calibration of modern neural networks", ICML 2017)."""


class McNemar(NamedTuple):
    """Slices that only one of two models has right, and the exact two-sided p."""

    only_a: int
    only_b: int
    p: float


class Difference(NamedTuple):
    """Accuracy of a minus accuracy of b, its interval and two-sided p."""

    value: float
    low: float
    high: float
    p: float


def softmax(logits) -> np.ndarray:
    """Return probabilities, float64 (n, 3), of logits of any float type; large logits do not overflow.

    Raises:
        DataError: logits are not (n, 3) or not finite.

    Used by notebooks 03 to 07.
    """
    return special.softmax(_columns(logits, "logits"), axis=1)


def scores(y, probabilities) -> dict[str, float]:
    """Score predictions: the class of highest probability for all scores but AUC, which ranks probabilities.

    Args:
        y: int (n,), n > 0.
        probabilities: float (n, 3), rows adding up to 1.

    Returns:
        accuracy, balanced_accuracy, macro precision, recall, f1 and one-vs-rest auc, then precision_<class>,
        recall_<class>, f1_<class>, auc_<class> for each class in `y`. A class never predicted has precision 0.
        Where `y` has one class only, no AUC exists: auc is NaN, an empty cell in a table, and auc_<class> is left out.

    Raises:
        DataError: shapes differ, values are out of range, or there are no slices.

    Used by notebooks 03, 04, 06 and 07.
    """
    y, probabilities = _checked(y, probabilities)
    weights = np.ones((1, len(y)))
    return {
        name: float(value[0]) for name, value in _weighted_scores(y, probabilities, np.arange(len(y)), weights).items()
    }


def confusion(y, predicted) -> pd.DataFrame:
    """Count slices by true and predicted class: columns label, predicted, n, share (of the label's slices, 0 to 1).

    Args:
        y: int (n,).
        predicted: int (n,).

    Returns:
        Nine rows, a label's three together; share is 0 where the label has no slices.

    Raises:
        DataError: shapes differ or values are out of range.

    Used by notebooks 03, 04 and 06.
    """
    y, predicted = _labels(y, "y"), _labels(predicted, "predicted")
    _same_length(y=y, predicted=predicted)
    counts = np.bincount(y * len(CLASSES) + predicted, minlength=len(CLASSES) ** 2).reshape(len(CLASSES), -1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return pd.DataFrame(
        {
            "label": np.repeat(CLASSES, len(CLASSES)),
            "predicted": CLASSES * len(CLASSES),
            "n": counts.ravel(),
            "share": shares.ravel(),
        }
    )


def intervals(y, probabilities, patients, samples: int, level: float, seed: int) -> pd.DataFrame:
    """Give every score of `scores` a percentile bootstrap interval that resamples patients, not slices.

    Slices of one patient resemble each other, so resampling slices would pretend to more evidence than there is.
    A resample that lacks a class says nothing about it and is left out for that class and for macro averages.
    The bootstrap cannot see an error that did not happen: without one it would give [1, 1]. Accuracy, and any score
    that no resample changes, therefore gets at least Wilson's interval over its slices (the class's slices for a
    class's score). That one takes slices for independent, so it is a lower limit of the doubt, not a measure of it.

    Args:
        y: int (n,).
        probabilities: float (n, 3), rows adding up to 1.
        patients: (n,) patient ids, the unit that is resampled.
        samples: resamples, at least 1.
        level: two-sided, between 0 and 1, for example 0.95.
        seed: of the resampling.

    Returns:
        Columns score, value, low, high; rows in the order of `scores`.

    Raises:
        DataError: as `scores`.

    Source: Efron, Tibshirani 1993, ch. 13; resampling whole clusters: Field, Welsh, JRSS B 69 (2007).
    Used by notebooks 03, 04, 06 and 07.
    """
    y, probabilities = _checked(y, probabilities)
    weights, member = _resamples(patients, len(y), samples, seed)
    values = scores(y, probabilities)
    drawn = _weighted_scores(y, probabilities, member, weights)
    rows = []
    for name, value in values.items():
        seen = drawn[name][~np.isnan(drawn[name])]
        low, high = _percentiles(seen, level) if len(seen) else (value, value)
        if not np.isnan(value) and (name == "accuracy" or np.isclose(low, high, rtol=0, atol=1e-12)):
            own = [c for c, label in enumerate(CLASSES) if name.endswith(f"_{label}")]
            n = int((y == own[0]).sum()) if own else len(y)
            bounds = wilson(value * n, n, level)
            low, high = min(low, bounds[0]), max(high, bounds[1])
        rows.append((name, value, low, high))
    return pd.DataFrame(rows, columns=["score", "value", "low", "high"])


def mean_interval(values, patients, samples: int, level: float, seed: int) -> tuple[float, float, float]:
    """Return a mean over slices and its percentile bootstrap interval, resampling patients.

    As in `intervals`, a mean of shares that no resample changes gets Wilson's interval over its slices.

    Args:
        values: float (n,), n > 0, finite.
        patients: (n,) patient ids.
        samples, level, seed: as `intervals`.

    Returns:
        Mean, low, high.

    Raises:
        DataError: no values, values that are not finite, or not one patient a slice.

    Used by notebook 05.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise DataError(f"values: got shape {values.shape}; allowed: (n,), n > 0, all finite")
    return mean_intervals(values[:, None], patients, samples, level, seed)[0]


def mean_intervals(values, patients, samples: int, level: float, seed: int) -> list[tuple[float, float, float]]:
    """Return what `mean_interval` returns for each of several scores of the same slices, from the same resamples.

    Args:
        values: float (n, m), n > 0, finite: a column a score.
        patients: (n,) patient ids.
        samples, level, seed: as `intervals`.

    Returns:
        Mean, low, high of each column.

    Raises:
        DataError: as `mean_interval`.

    Used by notebook 05.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not len(values) or not np.isfinite(values).all():
        raise DataError(f"values: got shape {values.shape}; allowed: (n, m), n > 0, all finite")
    weights, member = _resamples(patients, len(values), samples, seed)
    drawn_sizes = weights @ np.bincount(member)
    rows = []
    for column in values.T:
        mean = float(column.mean())
        low, high = _percentiles((weights @ np.bincount(member, column)) / drawn_sizes, level)
        if np.isclose(low, high, rtol=0, atol=1e-12) and column.min() >= 0 and column.max() <= 1:
            low, high = wilson(column.sum(), len(column), level)
        rows.append((mean, min(low, mean), max(high, mean)))
    return rows


def wilson(k: float, n: int, level: float) -> tuple[float, float]:
    """Return Wilson's two-sided score interval for k right of n independent slices.

    Args:
        k: 0 to n; a share times n need not be whole.
        n: at least 1.
        level: between 0 and 1.

    Raises:
        DataError: k or n is out of range.

    Source: Wilson, JASA 22 (1927) 209-212. Used by notebook 07 for the paper's own number.
    """
    if n < 1 or not 0 <= k <= n * (1 + 1e-12):
        raise DataError(f"wilson: got k = {k}, n = {n}; allowed: n at least 1 and k from 0 to n")
    low, high = _wilson(np.array([k], float), np.array([n], float), level)
    return float(low[0]), float(high[0])


def mcnemar(y, a, b) -> McNemar:
    """Test exactly whether two models are right equally often on the same slices, slices taken for independent.

    Args:
        y, a, b: int (n,): the truth and two models' predicted classes.

    Raises:
        DataError: shapes differ or values are out of range.

    Source: McNemar, Psychometrika 12 (1947); exact form: binomial test of the discordant pairs.
    Used by notebooks 03 and 07.
    """
    right_a, right_b = _paired(y, a, b)
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return McNemar(only_a, only_b, float(p))


def paired_bootstrap(y, a, b, patients, samples: int, level: float, seed: int) -> Difference:
    """Bootstrap the accuracy difference of two models on the same slices, resampling patients.

    p is the share of resamples that lie as far from the difference found as that lies from 0, the sample found
    counted among them, so it is never below 1 / (samples + 1).

    Args:
        y, a, b: int (n,): the truth and two models' predicted classes.
        patients: (n,) patient ids.
        samples, level, seed: as `intervals`.

    Raises:
        DataError: as `mcnemar`.

    Source: Efron, Tibshirani 1993, ch. 16 (null by shifting). Used by notebooks 03 and 07.
    """
    right_a, right_b = _paired(y, a, b)
    weights, member = _resamples(patients, len(right_a), samples, seed)
    size = np.bincount(member, minlength=weights.shape[1])
    ahead = np.bincount(member, right_a.astype(float) - right_b, minlength=weights.shape[1])
    drawn = (weights @ ahead) / (weights @ size)
    value = ahead.sum() / size.sum()
    p = (1 + (np.abs(drawn - value) >= abs(value) - 1e-12).sum()) / (1 + len(drawn))
    return Difference(float(value), *_percentiles(drawn, level), float(p))


def gap_bootstrap(right_a, patients_a, right_b, patients_b, samples: int, level: float, seed: int) -> Difference:
    """Bootstrap the difference of two accuracies on different slices of the same patients, resampling patients.

    A patient drawn twice counts twice in both tests, so what the two have in common cancels.

    Args:
        right_a, right_b: bool (n_a,), (n_b,): whether each test slice was classified right.
        patients_a, patients_b: (n_a,), (n_b,) patient ids.
        samples, level, seed: as `intervals`.

    Returns:
        Accuracy of a minus that of b; p as in `paired_bootstrap`.

    Raises:
        DataError: a test without slices, or ids that are not one a slice.

    Source: Field, Welsh, JRSS B 69 (2007). Used by notebook 07.
    """
    right = [np.asarray(right_a, float), np.asarray(right_b, float)]
    if not all(len(r) for r in right):
        raise DataError(f"gap_bootstrap: got {len(right[0])} and {len(right[1])} slices; allowed: more than 0 in each")
    names = np.concatenate([np.asarray(patients_a).astype(str), np.asarray(patients_b).astype(str)])
    weights, member = _resamples(names, sum(map(len, right)), samples, seed)
    shares, values = [], []
    for mine, of in zip(right, np.split(member, [len(right[0])]), strict=True):
        count = [np.bincount(of, w, minlength=weights.shape[1]) for w in (mine, np.ones(len(mine)))]
        with np.errstate(invalid="ignore"):  # a resample may have no patient of one test: it says nothing
            shares.append((weights @ count[0]) / (weights @ count[1]))
        values.append(mine.mean())
    value, drawn = values[0] - values[1], shares[0] - shares[1]
    drawn = drawn[~np.isnan(drawn)]
    p = (1 + (np.abs(drawn - value) >= abs(value) - 1e-12).sum()) / (1 + len(drawn))
    return Difference(float(value), *_percentiles(drawn, level), float(p))


def compare(y, predictions: dict, reference: str, patients, samples: int, level: float, seed: int) -> pd.DataFrame:
    """Compare every model with one of them on the same slices; p values are also given after Holm's correction.

    Args:
        y: int (n,).
        predictions: model's name -> int (n,) predicted classes.
        reference: the name in `predictions` that the others are compared with.
        patients: (n,) patient ids.
        samples, level, seed: as `intervals`; every model meets the same resamples.

    Returns:
        One row a model other than the reference: model, reference, n, accuracy, reference_accuracy,
        difference (model minus reference), low, high, only_model, only_reference (slices that only this one has
        right), mcnemar_p, mcnemar_p_holm, bootstrap_p, bootstrap_p_holm.

    Raises:
        DataError: the reference is not in `predictions`, or as `mcnemar`.

    Source: Holm, Scand. J. Statist. 6 (1979). Used by notebooks 03 and 07.
    """
    if reference not in predictions:
        raise DataError(f"compare: reference is {reference!r}; allowed: {', '.join(map(str, predictions))}")
    base = predictions[reference]
    rows = []
    for model, predicted in predictions.items():
        if model == reference:
            continue
        test = mcnemar(y, predicted, base)
        difference = paired_bootstrap(y, predicted, base, patients, samples, level, seed)
        rows.append(
            {
                "model": model,
                "reference": reference,
                "n": len(y),
                "accuracy": float(np.mean(np.asarray(predicted) == y)),
                "reference_accuracy": float(np.mean(np.asarray(base) == y)),
                "difference": difference.value,
                "low": difference.low,
                "high": difference.high,
                "only_model": test.only_a,
                "only_reference": test.only_b,
                "mcnemar_p": test.p,
                "bootstrap_p": difference.p,
            }
        )
    columns = [
        *("model", "reference", "n", "accuracy", "reference_accuracy", "difference", "low", "high"),
        *("only_model", "only_reference", "mcnemar_p", "mcnemar_p_holm", "bootstrap_p", "bootstrap_p_holm"),
    ]
    table = pd.DataFrame(rows, columns=columns)
    for name in ("mcnemar_p", "bootstrap_p"):
        table[f"{name}_holm"] = _holm(table[name]) if len(table) else table[name]
    return table


def roc(y, probabilities) -> pd.DataFrame:
    """Return the one-vs-rest ROC curves as one long table: columns label, fpr, tpr, auc.

    Classes that `y` lacks, or that it consists of, have no curve and are left out.

    Args:
        y: int (n,).
        probabilities: float (n, 3).

    Raises:
        DataError: as `scores`.

    Used by notebooks 03 and 04.
    """
    from sklearn.metrics import roc_curve

    y, probabilities = _checked(y, probabilities)
    curves = []
    for c, label in enumerate(CLASSES):
        if 0 < (y == c).sum() < len(y):
            fpr, tpr, _ = roc_curve(y == c, probabilities[:, c])
            curves.append(pd.DataFrame({"label": label, "fpr": fpr, "tpr": tpr, "auc": np.trapezoid(tpr, fpr)}))
    return pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(columns=["label", "fpr", "tpr", "auc"])


def reliability(y, probabilities, level: float = 0.95) -> pd.DataFrame:
    """Tabulate how often predictions of one confidence are right, in 15 equal-width bins of the top probability.

    Args:
        y: int (n,).
        probabilities: float (n, 3).
        level: of Wilson's interval for each bin's accuracy.

    Returns:
        Columns bin_low, bin_high, n, confidence (mean), accuracy, low, high; bins without a slice are left out.

    Raises:
        DataError: as `scores`.

    Source: Guo et al., ICML 2017. Used by notebook 06.
    """
    y, probabilities = _checked(y, probabilities)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == y
    # Bins are open below and closed above, so that a confidence of 1 falls into the last one.
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    n = np.bincount(bins, minlength=BINS)
    full = np.flatnonzero(n)
    correct = np.bincount(bins, right, minlength=BINS)[full]
    low, high = _wilson(correct, n[full], level)
    return pd.DataFrame(
        {
            "bin_low": full / BINS,
            "bin_high": (full + 1) / BINS,
            "n": n[full],
            "confidence": np.bincount(bins, confidence, minlength=BINS)[full] / n[full],
            "accuracy": correct / n[full],
            "low": low,
            "high": high,
        }
    )


def ece(y, probabilities) -> float:
    """Return the expected calibration error: the mean gap of confidence and accuracy over bins, weighted by slices.

    Args:
        y: int (n,).
        probabilities: float (n, 3).

    Raises:
        DataError: as `scores`.

    Source: Guo et al., ICML 2017. Used by notebook 06.
    """
    table = reliability(y, probabilities)
    return float((table["n"] * (table["confidence"] - table["accuracy"]).abs()).sum() / table["n"].sum())


def brier(y, probabilities) -> float:
    """Return the multi-class Brier score: squared distance to the one-hot truth, summed over classes, 0 to 2.

    Args:
        y: int (n,).
        probabilities: float (n, 3).

    Raises:
        DataError: as `scores`.

    Source: Brier, Monthly Weather Review 78 (1950). Used by notebook 06.
    """
    y, probabilities = _checked(y, probabilities)
    return float(((probabilities - np.eye(len(CLASSES))[y]) ** 2).sum(axis=1).mean())


def fit_temperature(logits, y) -> float:
    """Find the temperature T that makes softmax(logits / T) most likely; fit it on validation, never on test.

    Args:
        logits: float (n, 3).
        y: int (n,).

    Returns:
        T from 0.05 to 20; above 1 the model was too sure. Where every slice is right, likelihood grows without end
        as T falls, and T means nothing: take more validation slices.

    Raises:
        DataError: shapes differ, values are out of range or not finite, or there are no slices.

    Source: Guo et al., ICML 2017. Used by notebook 06.
    """
    logits, y = _columns(logits, "logits"), _labels(y, "y")
    _same_length(y=y, logits=logits)
    chosen = np.arange(len(y)), y

    def loss(log_temperature):
        return -special.log_softmax(logits / np.exp(log_temperature), axis=1)[chosen].mean()

    # The loss is convex in 1/T, so it has one minimum in log T and a bounded search cannot miss it.
    bounds = np.log([0.05, 20.0])
    found = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    best = min([found.x, *bounds], key=loss)
    return float(np.exp(best))


def accuracy_coverage(y, probabilities, level: float = 0.95) -> pd.DataFrame:
    """Tabulate accuracy when only the most confident slices are answered and the rest goes to a reader.

    Args:
        y: int (n,).
        probabilities: float (n, 3).
        level: of Wilson's interval for accuracy.

    Returns:
        Columns threshold (least top probability answered), n, coverage (share answered), accuracy, risk
        (1 - accuracy), low, high; a row for each distinct confidence, from the surest slice to all of them. Slices of
        equal confidence are answered together.

    Raises:
        DataError: as `scores`.

    Source: El-Yaniv, Wiener, JMLR 11 (2010). Used by notebook 06.
    """
    y, probabilities = _checked(y, probabilities)
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    right = np.cumsum((probabilities.argmax(axis=1) == y)[order])
    last = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True))
    n, right = last + 1, right[last]
    low, high = _wilson(right, n, level)
    return pd.DataFrame(
        {
            "threshold": confidence[order][last],
            "n": n,
            "coverage": n / len(y),
            "accuracy": right / n,
            "risk": 1 - right / n,
            "low": low,
            "high": high,
        }
    )


def known_scores(logits) -> dict[str, np.ndarray]:
    """Score how much a slice looks like what the model was trained on; higher is more familiar for all three.

    Args:
        logits: float (n, 3).

    Returns:
        max_probability (1/3 to 1), entropy (of the probabilities, in nats, sign turned: -1.10 to 0) and energy
        (log of the sum of exp(logits), unbounded), each float64 (n,).

    Raises:
        DataError: as `softmax`.

    Source: Hendrycks, Gimpel, ICLR 2017; Liu et al., "Energy-based out-of-distribution detection", NeurIPS 2020.
    Used by notebook 06.
    """
    logits = _columns(logits, "logits")
    probabilities = softmax(logits)
    return {
        "max_probability": probabilities.max(axis=1),
        "entropy": -special.entr(probabilities).sum(axis=1),
        "energy": special.logsumexp(logits, axis=1),
    }


def auroc(known, unknown) -> float:
    """Return the chance that a known slice scores higher than an unknown one, ties counting half.

    Args:
        known: float (n,) scores of slices of the trained classes.
        unknown: float (m,) scores of other slices, such as those without a tumour.

    Raises:
        DataError: one of the two is empty or not finite.

    Source: Hanley, McNeil, Radiology 143 (1982). Used by notebook 06.
    """
    known, unknown = np.asarray(known, float).ravel(), np.asarray(unknown, float).ravel()
    for name, values in (("known", known), ("unknown", unknown)):
        if not len(values) or not np.isfinite(values).all():
            raise DataError(f"auroc: {name} has {len(values)} values; allowed: one or more, all finite")
    ranks = stats.rankdata(np.concatenate([known, unknown]))[: len(known)]
    return float((ranks.sum() - len(known) * (len(known) + 1) / 2) / (len(known) * len(unknown)))


def _weighted_scores(y, probabilities, member, weights) -> dict[str, np.ndarray]:
    """Compute every score for every row of weights (samples, patients); NaN where a resample lacks a class."""
    kinds = len(CLASSES)
    predicted = probabilities.argmax(axis=1)
    counts = np.zeros((weights.shape[1], kinds * kinds))
    np.add.at(counts, (member, y * kinds + predicted), 1)
    tables = (weights @ counts).reshape(-1, kinds, kinds)
    right = np.diagonal(tables, axis1=1, axis2=2)
    true, said = tables.sum(axis=2), tables.sum(axis=1)
    there = np.flatnonzero(np.bincount(y, minlength=kinds))
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = right / true
        precision = np.where(true > 0, right / np.maximum(said, 1), np.nan)
        f1 = np.where(true > 0, 2 * right / (true + said), np.nan)
    has_auc = there if len(there) > 1 else there[:0]
    auc = {c: _weighted_auc(y == c, probabilities[:, c], member, weights) for c in has_auc}
    macro_auc = np.mean(list(auc.values()), axis=0) if auc else np.full(len(weights), np.nan)
    found = {
        "accuracy": right.sum(axis=1) / true.sum(axis=1),
        "balanced_accuracy": recall[:, there].mean(axis=1),
        "precision": precision[:, there].mean(axis=1),
        "recall": recall[:, there].mean(axis=1),
        "f1": f1[:, there].mean(axis=1),
        "auc": macro_auc,
    }
    for c in there:
        found[f"precision_{CLASSES[c]}"] = precision[:, c]
        found[f"recall_{CLASSES[c]}"] = recall[:, c]
        found[f"f1_{CLASSES[c]}"] = f1[:, c]
        if c in auc:
            found[f"auc_{CLASSES[c]}"] = auc[c]
    return found


def _weighted_auc(positive, score, member, weights) -> np.ndarray:
    """Return, for every row of weights, the share of (positive, negative) pairs in order, ties counting half."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(score[order]) != 0))
    member, positive = member[order], positive[order].astype(weights.dtype)
    found = []
    # In blocks: all resamples of 100,000 slices at once would not fit in memory.
    for block in np.array_split(weights, -(-weights.shape[0] * len(score) // 2_000_000)):
        drawn = block[:, member]
        up = np.add.reduceat(drawn * positive, starts, axis=1)
        down = np.add.reduceat(drawn * (1 - positive), starts, axis=1)
        below = np.cumsum(down, axis=1) - down / 2
        pairs = up.sum(axis=1) * down.sum(axis=1)
        with np.errstate(invalid="ignore"):
            found.append(np.where(pairs > 0, (up * below).sum(axis=1) / pairs, np.nan))
    return np.concatenate(found)


def _resamples(patients, n: int, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each resample has each patient, float (samples, patients), and each slice's patient."""
    names, member = np.unique(np.asarray(patients).astype(str), return_inverse=True)
    if len(member) != n:
        raise DataError(f"patients: got {len(member)} ids for {n} slices; allowed: one a slice")
    drawn = np.random.default_rng(seed).integers(0, len(names), (samples, len(names)))
    flat = drawn + np.arange(samples)[:, None] * len(names)
    return np.bincount(flat.ravel(), minlength=samples * len(names)).reshape(samples, -1).astype(float), member


def _percentiles(drawn, level: float) -> tuple[float, float]:
    low, high = np.percentile(drawn, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def _wilson(k, n, level: float) -> tuple[np.ndarray, np.ndarray]:
    z2 = stats.norm.ppf((1 + level) / 2) ** 2
    share = k / n
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * np.maximum(share * (1 - share), 0) / n + (z2 / (2 * n)) ** 2) / (1 + z2 / n)
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)


def _holm(p) -> np.ndarray:
    from statsmodels.stats.multitest import multipletests

    return multipletests(p, method="holm")[1]


def _paired(y, a, b) -> tuple[np.ndarray, np.ndarray]:
    y, a, b = _labels(y, "y"), _labels(a, "a"), _labels(b, "b")
    _same_length(y=y, a=a, b=b)
    return a == y, b == y


def _checked(y, probabilities) -> tuple[np.ndarray, np.ndarray]:
    y, probabilities = _labels(y, "y"), _columns(probabilities, "probabilities")
    _same_length(y=y, probabilities=probabilities)
    # A thousandth leaves room for float16 and CSV rounding; logits given by mistake miss by far more.
    if (probabilities < 0).any() or (np.abs(probabilities.sum(axis=1) - 1) > 1e-3).any():
        raise DataError("probabilities: rows must hold values from 0 to 1 that add up to 1; give softmax(logits)")
    return y, probabilities


def _labels(values, name: str) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1 or not len(values) or not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"{name}: got shape {values.shape}, dtype {values.dtype}; allowed: one integer a slice, n > 0")
    if values.min() < 0 or values.max() >= len(CLASSES):
        raise DataError(f"{name}: got values {values.min()} to {values.max()}; allowed: 0 to {len(CLASSES) - 1}")
    return values


def _columns(values, name: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != len(CLASSES) or not len(values):
        raise DataError(f"{name}: got shape {values.shape}; allowed: (n, {len(CLASSES)}), n > 0")
    if not np.isfinite(values).all():
        raise DataError(f"{name}: row {int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])} is not finite")
    return values


def _same_length(**arrays) -> None:
    if len({len(a) for a in arrays.values()}) > 1:
        raise DataError("one entry a slice: got " + ", ".join(f"{len(a)} for {name}" for name, a in arrays.items()))
