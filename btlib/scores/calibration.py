"""How far confidence can be trusted: calibration, temperature, answering only when sure, slices of no known class.

`y` is int (n,) and logits and probabilities are float (n, k), a column a class, as in `classification`, whose errors hold
here, too.
"""

import numpy as np
import pandas as pd
from scipy import optimize, special

from btlib.scores.classification import checked, softmax
from btlib.scores.resampling import wilson

BINS = 15


def reliability(y, probabilities, level: float = 0.95) -> pd.DataFrame:
    """Tabulate how often predictions of one confidence are right, in 15 equal-width bins of the top probability.

    Columns are bin_low, bin_high, n, confidence (mean), accuracy, and low and high, Wilson's interval of that level; bins
    without a slice are left out.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    y, probabilities = checked(y, probabilities)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == y
    # Bins are open below and closed above, so that a confidence of 1 falls into the last one.
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
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
    """Return the expected calibration error: the mean gap of confidence and accuracy over bins, weighted by slices."""
    table = reliability(y, probabilities)
    return float((table["n"] * (table["confidence"] - table["accuracy"]).abs()).sum() / table["n"].sum())


def brier(y, probabilities) -> float:
    """Return the multi-class Brier score: squared distance to the one-hot truth, summed over classes, 0 to 2.

    Source: Brier, Monthly Weather Review 78 (1950).
    """
    from sklearn.metrics import brier_score_loss

    y, probabilities = checked(y, probabilities)
    return float(brier_score_loss(y, probabilities, labels=range(probabilities.shape[1]), scale_by_half=False))


def fit_temperature(logits, y) -> float:
    """Find the temperature T, 0.05 to 20, that makes softmax(logits / T) most likely; fit it on validation, never on test.

    Above 1 the model was too sure. Where every slice is right, likelihood grows without end as T falls, and T means
    nothing: take more validation slices.

    Source: Guo et al., ICML 2017.
    """
    logits = np.asarray(logits, dtype=np.float64)

    def loss(log_temperature):
        scaled = logits / np.exp(log_temperature)
        return -special.log_softmax(scaled, axis=1)[np.arange(len(y)), y].mean()

    # The loss is convex in 1/T, so it has one minimum in log T and a bounded search cannot miss it.
    bounds = np.log((0.05, 20.0))
    inside = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x
    return float(np.exp(min([inside, *bounds], key=loss)))


def accuracy_coverage(y, probabilities, level: float = 0.95) -> pd.DataFrame:
    """Tabulate accuracy when only the most confident slices are answered and the rest goes to a reader.

    Columns are threshold (least top probability answered), n, coverage (share answered), accuracy, risk (1 - accuracy), and
    low and high, Wilson's interval of that level; a row for each distinct confidence, from the surest slice to all of them.

    Source: El-Yaniv, Wiener, JMLR 11 (2010).
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


def selective(y, probabilities, level: float = 0.95) -> pd.DataFrame:
    """Return the rows of `accuracy_coverage` that first reach each five per cent of coverage."""
    whole = accuracy_coverage(y, probabilities, level)
    reached = np.searchsorted(whole["coverage"].to_numpy(), np.linspace(0.05, 1, 20) - 1e-9)
    return whole.iloc[np.unique(np.minimum(reached, len(whole) - 1))].copy()


def known_scores(logits) -> dict[str, np.ndarray]:
    """Score how much a slice looks like what the model was trained on; higher is more familiar for all three, float64 (n,).

    max_probability (1/k to 1), entropy (of the probabilities, in nats, sign turned: -log k to 0) and energy (log of the sum
    of exp(logits), unbounded).

    Source: Hendrycks, Gimpel, ICLR 2017; Liu et al., "Energy-based out-of-distribution detection", NeurIPS 2020.
    """
    logits = np.asarray(logits, dtype=np.float64)
    probabilities = softmax(logits)
    return {
        "max_probability": probabilities.max(axis=1),
        "entropy": -special.entr(probabilities).sum(axis=1),
        "energy": special.logsumexp(logits, axis=1),
    }


def auroc(known, unknown) -> float:
    """Return the chance that a known slice scores higher than an unknown one, ties counting half; neither is without slices.

    Source: Hanley, McNeil, Radiology 143 (1982).
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.repeat([1, 0], [len(known), len(unknown)]), np.concatenate([known, unknown])))
