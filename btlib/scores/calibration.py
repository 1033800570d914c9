"""How far confidence can be trusted: calibration, temperature, answering only when sure, slices of no known class.

`y` is int (n,) and logits and probabilities are float (n, k), a column a class, as in `classification`.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, special

from btlib import DataError
from btlib.scores.classification import checked, columns, labels, same_length, softmax
from btlib.scores.resampling import Interval, Resamples, wilson

BINS = 15
"""Equal-width bins of calibration tables (Guo et al., "On calibration of modern neural networks", ICML 2017)."""

BOUNDS = (0.05, 20.0)
"""Least and greatest temperature that is looked at."""


class Scaling(NamedTuple):
    """What folds say about scaling with a temperature; losses and errors are of folds that it was not fitted on."""

    use: float | None
    """The temperature to divide logits by, or None: leave them as they are."""
    temperature: Interval
    """Fitted on all folds together."""
    loss: Interval
    """Log loss after minus before."""
    ece: Interval
    """Expected calibration error after minus before."""


def reliability(y, probabilities, level: float = 0.95) -> pd.DataFrame:
    """Tabulate how often predictions of one confidence are right, in 15 equal-width bins of the top probability.

    Args:
        y: int (n,).
        probabilities: float (n, k).
        level: of Wilson's interval for each bin's accuracy.

    Returns:
        Columns bin_low, bin_high, n, confidence (mean), accuracy, low, high; bins without a slice are left out.

    Raises:
        DataError: as `classification.scores`.

    Source: Guo et al., ICML 2017. Used by notebook 06.
    """
    y, probabilities = checked(y, probabilities)
    bins, confidence, right = _binned(y, probabilities)
    n = np.bincount(bins, minlength=BINS)
    full = np.flatnonzero(n)
    correct = np.bincount(bins, right, minlength=BINS)[full]
    low, high = wilson(correct, n[full], level)
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

    Arguments, errors and source as `reliability`. Used by notebook 06.
    """
    table = reliability(y, probabilities)
    return float((table["n"] * (table["confidence"] - table["accuracy"]).abs()).sum() / table["n"].sum())


def brier(y, probabilities) -> float:
    """Return the multi-class Brier score: squared distance to the one-hot truth, summed over classes, 0 to 2.

    Arguments and errors as `reliability`. Source: Brier, Monthly Weather Review 78 (1950). Used by notebook 06.
    """
    from sklearn.metrics import brier_score_loss

    y, probabilities = checked(y, probabilities)
    return float(brier_score_loss(y, probabilities, labels=range(probabilities.shape[1]), scale_by_half=False))


def fit_temperature(logits, y) -> float:
    """Find the temperature T that makes softmax(logits / T) most likely; fit it on validation, never on test.

    Args:
        logits: float (n, k).
        y: int (n,).

    Returns:
        T from 0.05 to 20; above 1 the model was too sure. Where every slice is right, likelihood grows without end
        as T falls, and T means nothing: take more validation slices.

    Raises:
        DataError: shapes differ, values are out of range or not finite, or there are no slices.

    Source: Guo et al., ICML 2017. Used by notebook 06.
    """
    logits = columns(logits, "logits")
    y = labels(y, "y", logits.shape[1])
    same_length(y=y, logits=logits)
    # The loss is convex in 1/T, so it has one minimum in log T and a bounded search cannot miss it.
    bounds = np.log(BOUNDS)
    mean = lambda log_temperature: _losses(logits, y, np.exp(log_temperature)).mean()  # noqa: E731
    inside = optimize.minimize_scalar(mean, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x
    return float(np.exp(min([inside, *bounds], key=mean)))


def cross_fit(logits, y, folds) -> np.ndarray:
    """Return the temperature, float (n,), of each slice, fitted on the slices of all other folds.

    Args:
        logits, y: as `fit_temperature`, each slice's logits by the fit that did not see it.
        folds: (n,) the fold that each slice was tested in.

    Raises:
        DataError: there is one fold only, not one fold a slice, or as `fit_temperature`.

    Used by notebook 06.
    """
    logits, y, folds = np.asarray(logits), np.asarray(y), np.asarray(folds)
    same_length(folds=folds, y=y, logits=logits)
    if len(names := np.unique(folds)) < 2:
        raise DataError(f"folds: got {len(names)}; allowed: 2 or more, as a temperature is judged on another fold")
    temperatures = np.empty(len(y))
    for fold in names:
        held_out = folds == fold
        temperatures[held_out] = fit_temperature(logits[~held_out], y[~held_out])
    return temperatures


def temperature_by_folds(logits, y, folds, resamples: Resamples) -> Scaling:
    """Fit a temperature on all folds' slices, and say whether such a one helps on a fold that it was not fitted on.

    It helps where log loss, a proper score, surely falls on held-out folds and their calibration error does not rise.
    A fit's own validation slices are no judge: few, and of the patients that its epochs were watched on.

    Args:
        logits, y, folds: as `cross_fit`.
        resamples: of the slices' patients.

    Returns:
        `Scaling`. The interval of the temperature is that of its fits to the samples, to one per cent; the interval of
        the calibration error can lie above its value, for a sample's error is no less than the mean of what it samples.

    Raises:
        DataError: as `cross_fit`, or not one patient a slice.

    Source: cross-fitting: Chernozhukov et al., Econometrics Journal 21 (2018). Used by notebook 06.
    """
    temperatures = cross_fit(logits, y, folds)
    logits, y = np.asarray(logits, float), np.asarray(y)
    loss = resamples.mean(_losses(logits, y, temperatures) - _losses(logits, y, 1.0))
    before, after = softmax(logits), softmax(logits / temperatures[:, None])
    drawn = _sampled_ece(y, after, resamples) - _sampled_ece(y, before, resamples)
    error = Interval(ece(y, after) - ece(y, before), *resamples.bounds(drawn))
    temperature = fit_temperature(logits, y)
    grid = np.geomspace(*BOUNDS, 601)
    sums = resamples.sums(np.stack([_losses(logits, y, t) for t in grid], axis=1))
    low, high = resamples.bounds(grid[sums.argmin(axis=1)])
    pooled = Interval(temperature, min(low, temperature), max(high, temperature))
    helps = loss.high < 0 and error.value <= 0
    return Scaling(temperature if helps else None, pooled, loss, error)


def accuracy_coverage(y, probabilities, level: float = 0.95) -> pd.DataFrame:
    """Tabulate accuracy when only the most confident slices are answered and the rest goes to a reader.

    Args:
        y: int (n,).
        probabilities: float (n, k).
        level: of Wilson's interval for accuracy.

    Returns:
        Columns threshold (least top probability answered), n, coverage (share answered), accuracy, risk
        (1 - accuracy), low, high; a row for each distinct confidence, from the surest slice to all of them. Slices of
        equal confidence are answered together.

    Raises:
        DataError: as `classification.scores`.

    Source: El-Yaniv, Wiener, JMLR 11 (2010). Used by notebook 06.
    """
    y, probabilities = checked(y, probabilities)
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    right = np.cumsum((probabilities.argmax(axis=1) == y)[order])
    last = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True))
    n, right = last + 1, right[last]
    low, high = wilson(right, n, level)
    accuracy = right / n
    answered = {"threshold": confidence[order][last], "n": n, "coverage": n / len(y)}
    return pd.DataFrame(answered | {"accuracy": accuracy, "risk": 1 - accuracy, "low": low, "high": high})


def known_scores(logits) -> dict[str, np.ndarray]:
    """Score how much a slice looks like what the model was trained on; higher is more familiar for all three.

    Args:
        logits: float (n, k).

    Returns:
        max_probability (1/k to 1), entropy (of the probabilities, in nats, sign turned: -log k to 0) and energy
        (log of the sum of exp(logits), unbounded), each float64 (n,).

    Raises:
        DataError: as `softmax`.

    Source: Hendrycks, Gimpel, ICLR 2017; Liu et al., "Energy-based out-of-distribution detection", NeurIPS 2020.
    Used by notebook 06.
    """
    logits = columns(logits, "logits")
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
    from sklearn.metrics import roc_auc_score

    known, unknown = np.asarray(known, float).ravel(), np.asarray(unknown, float).ravel()
    for name, values in (("known", known), ("unknown", unknown)):
        if not len(values) or not np.isfinite(values).all():
            raise DataError(f"auroc: {name} has {len(values)} values; allowed: one or more, all finite")
    return float(roc_auc_score(np.repeat([1, 0], [len(known), len(unknown)]), np.concatenate([known, unknown])))


def _losses(logits, y, temperature) -> np.ndarray:
    """Log loss of each slice, (n,), at one temperature or at each slice's own."""
    scaled = logits / np.reshape(temperature, (-1, 1))
    return -special.log_softmax(scaled, axis=1)[np.arange(len(y)), y]


def _binned(y, probabilities) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bin of each slice's confidence, the confidence, and whether the slice is right."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == y
    # Bins are open below and closed above, so that a confidence of 1 falls into the last one.
    return np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1), confidence, right


def _sampled_ece(y, probabilities, resamples: Resamples) -> np.ndarray:
    """The expected calibration error of every sample, (samples,)."""
    bins, confidence, right = _binned(y, probabilities)
    gaps = np.eye(BINS)[bins] * (confidence - right)[:, None]
    return np.abs(resamples.sums(gaps)).sum(axis=1) / resamples.sums(np.ones(len(y)))
