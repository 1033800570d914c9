"""How sure a number is: Wilson's interval, samples of patients, paired tests, and the word for two uncertain numbers."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from btlib import DataError, params

ALIKE = "cannot be told apart"
"""The verdict on two numbers whose difference has an interval that holds 0."""


class Interval(NamedTuple):
    """A number and the bounds of its interval."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """A number minus another, the bounds of its interval, and a two-sided p."""

    value: float
    low: float
    high: float
    p: float


class McNemar(NamedTuple):
    """Slices that only one of two models has right, and the exact two-sided p."""

    only_a: int
    only_b: int
    p: float


class Resamples:
    """Samples of patients, drawn once with replacement, that give any statistic of their slices an interval.

    Slices of one patient resemble each other, so resampling slices would pretend to more evidence than there is. Folds
    are pooled by giving the slices of all of them.

    Args:
        patients: (n,) patient ids, one a slice.
        level: of two-sided intervals, between 0 and 1.

    Source: Efron, Tibshirani 1993, ch. 13; resampling whole clusters: Field, Welsh, JRSS B 69 (2007).
    """

    def __init__(self, patients, samples: int, level: float, seed: int):
        names, self.member = np.unique(np.asarray(patients).astype(str), return_inverse=True)
        draws = np.random.default_rng(seed).integers(0, len(names), (samples, len(names)))
        flat = draws + np.arange(samples)[:, None] * len(names)
        counts = np.bincount(flat.ravel(), minlength=samples * len(names))
        self.weights, self.level = counts.reshape(samples, -1).astype(float), level

    def sums(self, values) -> np.ndarray:
        """Sum values, float (n,) or (n, k), over the slices of each sample, a patient drawn twice counting twice."""
        totals = np.zeros((self.weights.shape[1], *np.shape(values)[1:]))
        np.add.at(totals, self.member, values)
        return self.weights @ totals

    def bounds(self, drawn) -> tuple[float, float]:
        """Return the percentile interval of a statistic, float (samples,); samples where it is NaN say nothing."""
        low, high = np.nanpercentile(drawn, [50 * (1 - self.level), 50 * (1 + self.level)])
        return float(low), float(high)

    def mean(self, values) -> Interval:
        """Return the mean of values, float (n,); for shares that no sample changes the interval is Wilson's over slices."""
        values = np.asarray(values, dtype=np.float64)
        mean = float(values.mean())
        low, high = self.bounds(self.sums(values) / self.sums(np.ones(len(values))))
        if np.isclose(low, high, rtol=0, atol=1e-12) and values.min() >= 0 and values.max() <= 1:
            low, high = wilson(values.sum(), len(values), self.level)
        return Interval(mean, min(low, mean), max(high, mean))

    def difference(self, a, b) -> Difference:
        """Return the mean of a minus that of b, float or bool (n,), of the same slices; NaN where a slice has one only.

        What the two have in common, their patients, cancels. p is the share of samples that lie as far from the difference
        as that lies from 0, the data counted among them, so it is never below 1 / (samples + 1).

        Source: Efron, Tibshirani 1993, ch. 16 (null by shifting).
        """
        values, means = [], []
        for scores in (np.asarray(a, float), np.asarray(b, float)):
            known = ~np.isnan(scores)
            with np.errstate(invalid="ignore"):  # a sample may have no patient of one of the two
                means.append(self.sums(np.where(known, scores, 0)) / self.sums(known))
            values.append(scores[known].mean())
        value, drawn = float(values[0] - values[1]), means[0] - means[1]
        drawn = drawn[~np.isnan(drawn)]
        p = (1 + (np.abs(drawn - value) >= abs(value) - 1e-12).sum()) / (1 + len(drawn))
        return Difference(value, *self.bounds(drawn), float(p))


def mean_intervals(values, patients, statistics: params.Statistics, seed: int) -> list[Interval]:
    """Return `Resamples.mean` of each column of values, float (n, m), from the same resamples."""
    resamples = Resamples(patients, statistics.bootstrap, statistics.level, seed)
    return [resamples.mean(column) for column in np.asarray(values, dtype=np.float64).T]


def wilson(k: float, n: int, level: float) -> tuple[float, float]:
    """Return Wilson's two-sided score interval for k right of n independent slices, or arrays of such; k need not be whole.

    Raises:
        DataError: n is below 1, or k not from 0 to n.

    Source: Wilson, JASA 22 (1927) 209-212.
    """
    from statsmodels.stats.proportion import proportion_confint

    if np.any(np.less(n, 1)) or np.any(np.less(k, 0)) or np.any(np.greater(k, np.multiply(n, 1 + 1e-12))):
        raise DataError(f"wilson: got k = {k}, n = {n}; allowed: n at least 1 and k from 0 to n")
    return proportion_confint(np.minimum(k, n), n, alpha=1 - level, method="wilson")


def share(k: int, n: int, level: float) -> Interval:
    """Return k of n as a share with Wilson's interval; arguments and errors as `wilson`."""
    return Interval(k / n, *map(float, wilson(k, n, level)))


def mcnemar(y, a, b) -> McNemar:
    """Test exactly whether predicted classes a and b, int (n,), are right equally often, slices taken for independent.

    Source: McNemar, Psychometrika 12 (1947); exact form: binomial test of the discordant pairs.
    """
    y, a, b = map(np.asarray, (y, a, b))
    only_a, only_b = int(((a == y) & (b != y)).sum()), int(((b == y) & (a != y)).sum())
    p = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return McNemar(only_a, only_b, float(p))


def compare(y, predictions: dict, reference: str, resamples: Resamples) -> pd.DataFrame:
    """Compare every model with one of them on the same slices; p values are also given after Holm's correction.

    Args:
        y, predictions: int (n,), and model's name -> int (n,) predicted classes.
        reference: the name in `predictions` that the others are compared with.

    Returns:
        One row a model other than the reference: model, reference, n, accuracy, reference_accuracy, difference, low, high,
        only_model, only_reference (slices that only this one has right), mcnemar_p, mcnemar_p_holm, bootstrap_p,
        bootstrap_p_holm.

    Source: Holm, Scand. J. Statist. 6 (1979).
    """
    from statsmodels.stats.multitest import multipletests

    rows, right = [], {model: predicted == y for model, predicted in predictions.items()}
    for model in (m for m in predictions if m != reference):
        only, only_reference, mcnemar_p = mcnemar(y, predictions[model], predictions[reference])
        value, low, high, p = resamples.difference(right[model], right[reference])
        accuracies = right[model].mean(), right[reference].mean()
        rows.append((model, reference, len(y), *accuracies, value, low, high, only, only_reference, mcnemar_p, p))
    names = ("model", "reference", "n", "accuracy", "reference_accuracy", "difference", "low", "high")
    table = pd.DataFrame(rows, columns=[*names, "only_model", "only_reference", "mcnemar_p", "bootstrap_p"])
    for name in ("mcnemar_p", "bootstrap_p"):
        holm = multipletests(table[name], method="holm")[1] if len(table) else table[name]
        table.insert(table.columns.get_loc(name) + 1, f"{name}_holm", holm)
    return table


def apart(a: Interval, b: Interval) -> Interval:
    """Return a minus b with an interval made of the two numbers' own; one that is counted or given has its value as bounds.

    Source: Newcombe, Statistics in Medicine 17 (1998) 873-890, method 10, with each side's own interval in the place
    of Wilson's: Zou, Donner, Statistics in Medicine 27 (2008) 1693-1702.
    """
    a, b = Interval(*a), Interval(*b)
    value = a.value - b.value
    low = value - np.hypot(a.value - a.low, b.high - b.value)
    return Interval(value, float(low), float(value + np.hypot(a.high - a.value, b.value - b.low)))


def verdict(ours: Interval, other: Interval) -> str:
    """Say "higher" or "lower" where the interval of the difference, as of `apart`, lies on one side of 0, else `ALIKE`."""
    _, low, high = apart(ours, other)
    return "higher" if low > 0 else "lower" if high < 0 else ALIKE
