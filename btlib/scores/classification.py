"""What predictions are worth: scores of all classes and of each, with intervals over patients.

Throughout, `y` is an int array (n,), n > 0, of indices into `classes`, the names of the data's classes, and probabilities
and logits are float (n, k) in that order; k, at least 2, is the data's. A class that `y` lacks has no recall and no AUC: its
own scores are left out, and macro averages are taken over the classes that `y` has.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import special

from btlib import DataError
from btlib.scores.resampling import Resamples, wilson

BY_CLASS = ("precision", "recall", "specificity", "f1", "auc")
"""Scores that each class has: their names end in "_<class>", and without an ending they are means over classes."""


def softmax(logits) -> np.ndarray:
    """Return probabilities, float64 (n, k), of logits of any float type; large logits do not overflow."""
    return special.softmax(np.asarray(logits, dtype=np.float64), axis=1)


def scores(y, probabilities, classes: Sequence[str]) -> dict[str, float]:
    """Score predictions: the class of highest probability for all scores but AUC, which ranks probabilities.

    They are accuracy, balanced_accuracy, macro precision, recall, specificity, f1 and one-vs-rest auc, then each but the
    first two for each class in `y`, as recall_<class>. A class never predicted has precision 0. Where `y` has one
    class only, no specificity and no AUC exist: both are NaN, empty cells in a table, and have no class's row.

    Raises:
        DataError: shapes differ, values are out of range, or there are no slices.
    """
    y, probabilities = checked(y, probabilities)
    values = _weighted_scores(y, probabilities, classes, np.arange(len(y)), np.ones((1, len(y))))
    return {name: float(value[0]) for name, value in values.items()}


def intervals(y, probabilities, classes: Sequence[str], resamples: Resamples) -> pd.DataFrame:
    """Give every score of `scores` a percentile bootstrap interval over patients.

    A sample that lacks a class says nothing about it and is left out for that class and for macro averages.
    The bootstrap cannot see an error that did not happen: without one it would give [1, 1]. Accuracy, and any score
    that no sample changes, therefore gets at least Wilson's interval over its slices (the class's slices for a class's
    score, the other classes' for its specificity). That one takes slices for independent, so it is a lower limit of the
    doubt, not a measure of it.

    Columns are score, value, low, high; rows and errors are those of `scores`.
    """
    y, probabilities = checked(y, probabilities)
    values = scores(y, probabilities, classes)
    drawn = _weighted_scores(y, probabilities, classes, resamples.member, resamples.weights)
    rows = []
    for name, value in values.items():
        low, high = (value, value) if np.isnan(drawn[name]).all() else resamples.bounds(drawn[name])
        if not np.isnan(value) and (name == "accuracy" or np.isclose(low, high, rtol=0, atol=1e-12)):
            n = support(name, y, classes)
            n = len(y) - n if name.startswith("specificity_") else n
            bounds = wilson(value * n, n, resamples.level)
            low, high = min(low, bounds[0]), max(high, bounds[1])
        rows.append((name, value, low, high))
    return pd.DataFrame(rows, columns=["score", "value", "low", "high"])


def support(score: str, y, classes: Sequence[str]) -> int:
    """Count the slices of the class that a score's name ends in, or all slices."""
    own = {f"{kind}_{label}": c for kind in BY_CLASS for c, label in enumerate(classes)}
    return int((y == own[score]).sum()) if score in own else len(y)


def confusion(y, predicted, classes: Sequence[str]) -> pd.DataFrame:
    """Count slices by true and predicted class: k x k rows of label, predicted, n and share (of the label's)."""
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(y, predicted, labels=range(len(classes)))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    pairs = {"label": np.repeat(classes, len(classes)), "predicted": [*classes] * len(classes)}
    return pd.DataFrame(pairs | {"n": counts.ravel(), "share": shares.ravel()})


def roc(y, probabilities, classes: Sequence[str]) -> pd.DataFrame:
    """Return the one-vs-rest ROC curves as one long table: columns label, fpr, tpr, auc.

    Classes that `y` lacks, or that it consists of, have no curve and are left out.
    """
    from sklearn.metrics import roc_curve

    y, probabilities = checked(y, probabilities)
    curves = [pd.DataFrame(columns=["label", "fpr", "tpr", "auc"])]
    for c, label in enumerate(classes):
        if 0 < (y == c).sum() < len(y):
            fpr, tpr, _ = roc_curve(y == c, probabilities[:, c])
            curves.append(pd.DataFrame({"label": label, "fpr": fpr, "tpr": tpr, "auc": np.trapezoid(tpr, fpr)}))
    return pd.concat(curves[1:] or curves, ignore_index=True)


def _weighted_scores(y, probabilities, classes, member, weights) -> dict[str, np.ndarray]:
    """Compute every score for every row of weights (samples, patients); NaN where a sample lacks a class."""
    k = len(classes)
    counts = np.zeros((weights.shape[1], k * k))
    np.add.at(counts, (member, y * k + probabilities.argmax(axis=1)), 1)
    tables = (weights @ counts).reshape(-1, k, k)
    right, true, told = np.diagonal(tables, axis1=1, axis2=2), tables.sum(axis=2), tables.sum(axis=1)
    every = true.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        of_class = {
            "precision": np.where(true > 0, right / np.maximum(told, 1), np.nan),
            "recall": right / true,
            "specificity": (every - true - told + right) / (every - true),
            "f1": np.where(true > 0, 2 * right / (true + told), np.nan),
            "auc": np.full(true.shape, np.nan),
        }
    present = np.flatnonzero(np.bincount(y, minlength=k))
    single = len(present) == 1
    for c in () if single else present:
        of_class["auc"][:, c] = weighted_auc(y == c, probabilities[:, c], member, weights)
    values = {"accuracy": right.sum(axis=1) / every[:, 0], "balanced_accuracy": of_class["recall"][:, present].mean(1)}
    values |= {name: score[:, present].mean(axis=1) for name, score in of_class.items()}
    kinds = [name for name in BY_CLASS if not (single and name in ("specificity", "auc"))]
    return values | {f"{name}_{classes[c]}": of_class[name][:, c] for c in present for name in kinds}


def weighted_auc(positive, score, member, weights) -> np.ndarray:
    """Return the AUC of each of `Resamples`, float (samples,); NaN where a sample has slices of one kind only.

    positive is bool (n,), score float (n,), higher for what looks positive; ties count half.
    """
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(score[order]) != 0))
    member, positive = member[order], positive[order].astype(weights.dtype)
    shares = []
    # In blocks: all samples of 100,000 slices at once would not fit in memory.
    for block in np.array_split(weights, -(-weights.shape[0] * len(score) // 2_000_000)):
        drawn = block[:, member]
        up = np.add.reduceat(drawn * positive, starts, axis=1)
        down = np.add.reduceat(drawn * (1 - positive), starts, axis=1)
        below = np.cumsum(down, axis=1) - down / 2
        pairs = up.sum(axis=1) * down.sum(axis=1)
        with np.errstate(invalid="ignore"):
            shares.append(np.where(pairs > 0, (up * below).sum(axis=1) / pairs, np.nan))
    return np.concatenate(shares)


def checked(y, probabilities) -> tuple[np.ndarray, np.ndarray]:
    """Return y and probabilities as arrays, or raise DataError."""
    y, probabilities = np.asarray(y), np.asarray(probabilities, dtype=np.float64)
    if not len(y) or probabilities.shape[:-1] != y.shape or not 0 <= y.min() <= y.max() < probabilities.shape[1]:
        raise DataError(
            f"got y {y.shape}, probabilities {probabilities.shape}; allowed: (n,), 0 to k - 1, and (n, k), n > 0"
        )
    # A thousandth leaves room for float16 and CSV rounding; logits given by mistake miss by far more.
    if not ((probabilities >= 0).all() and (np.abs(probabilities.sum(axis=1) - 1) <= 1e-3).all()):
        raise DataError("probabilities: rows must hold values from 0 to 1 that add up to 1; give softmax(logits)")
    return y, probabilities
