"""Calibration and confidence, against hand arithmetic and known scales."""

import numpy as np
import pytest

from btlib import DataError
from btlib.scores import metrics

Y = np.array([0, 0, 1, 1, 1, 2])


def certain(predicted):
    return np.eye(3)[predicted]


def test_calibration_by_hand():
    # Four slices at 0.8 (three right) and one at 0.5 (wrong): gaps 0.05 and 0.5.
    probabilities = np.array([[0.8, 0.1, 0.1]] * 4 + [[0.5, 0.3, 0.2]])
    y = np.array([0, 0, 0, 1, 2])
    table = metrics.reliability(y, probabilities)
    assert table["n"].tolist() == [1, 4]
    assert table["confidence"].tolist() == pytest.approx([0.5, 0.8])
    assert table["accuracy"].tolist() == pytest.approx([0, 0.75])
    assert ((table["bin_low"] < table["confidence"]) & (table["confidence"] <= table["bin_high"])).all()
    assert list(table.loc[1, ["low", "high"]]) == pytest.approx(list(metrics.wilson(3, 4, 0.95)))
    assert metrics.ece(y, probabilities) == pytest.approx((4 * 0.05 + 1 * 0.5) / 5)
    right, wrong, last = 0.04 + 0.01 + 0.01, 0.64 + 0.81 + 0.01, 0.25 + 0.09 + 0.64
    assert metrics.brier(y, probabilities) == pytest.approx((3 * right + wrong + last) / 5)


def test_certain_and_right_is_calibrated_certain_and_wrong_is_not():
    assert metrics.ece(Y, certain(Y)) == 0
    assert metrics.brier(Y, certain(Y)) == 0
    assert metrics.ece(Y, certain((Y + 1) % 3)) == 1
    assert metrics.brier(Y, certain((Y + 1) % 3)) == 2


def test_temperature_undoes_a_known_scale():
    # y drawn from softmax(logits): their own temperature is 1, three times the logits need 3.
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20000, 3))
    chance = np.cumsum(metrics.softmax(logits), axis=1)
    y = (rng.random(20000)[:, None] > chance).sum(axis=1).clip(max=2)
    own = metrics.fit_temperature(logits, y)
    assert own == pytest.approx(1, abs=0.03)
    assert metrics.fit_temperature(3 * logits, y) == pytest.approx(3 * own, rel=1e-3)
    before, after = (metrics.ece(y, metrics.softmax(3 * logits / t)) for t in (1, 3 * own))
    assert after < 0.02 < before


def test_temperature_stays_in_its_bounds():
    logits = np.eye(3)
    assert metrics.fit_temperature(logits, np.array([0, 1, 2])) == pytest.approx(0.05)
    assert metrics.fit_temperature(logits, np.array([1, 2, 0])) == pytest.approx(20)


def test_accuracy_coverage_by_hand():
    probabilities = np.array([[0.9, 0.1, 0], [0.6, 0.4, 0], [0.8, 0.2, 0], [0.6, 0.4, 0]])
    table = metrics.accuracy_coverage(np.array([0, 1, 0, 0]), probabilities)
    assert table["threshold"].tolist() == [0.9, 0.8, 0.6]
    assert table["coverage"].tolist() == [0.25, 0.5, 1]
    assert table["accuracy"].tolist() == [1, 1, 0.75]
    assert table["risk"].tolist() == [0, 0, 0.25]
    assert list(table.loc[2, ["low", "high"]]) == pytest.approx(list(metrics.wilson(3, 4, 0.95)))


def test_known_scores_by_hand():
    found = metrics.known_scores([[np.log(1), np.log(2), np.log(5)], [0, 0, 0]])
    assert found["max_probability"] == pytest.approx([5 / 8, 1 / 3])
    assert found["energy"] == pytest.approx([np.log(8), np.log(3)])
    shares = np.array([1, 2, 5]) / 8
    assert found["entropy"] == pytest.approx([(shares * np.log(shares)).sum(), -np.log(3)])
    assert np.isfinite(metrics.known_scores([[1e4, 0, 0]])["entropy"]).all()


def test_auroc_by_hand():
    assert metrics.auroc([3, 4], [1, 2]) == 1
    assert metrics.auroc([1], [1]) == 0.5
    assert metrics.auroc([1, 3], [2, 2]) == 0.5
    assert metrics.auroc([2, 3], [1, 2]) == pytest.approx(3.5 / 4)
    with pytest.raises(DataError, match="unknown has 0 values"):
        metrics.auroc([1], [])


def drawn(n, scale, seed=0, k=3):
    """Logits too large by `scale`, and labels drawn from what they say without it."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, k))
    y = (rng.random(n)[:, None] > np.cumsum(metrics.softmax(logits), axis=1)).sum(axis=1).clip(max=k - 1)
    return scale * logits, y


def test_cross_fit_takes_each_folds_temperature_from_the_others():
    logits, y = drawn(300, 1.0)
    folds = np.repeat([0, 1, 2], 100)
    temperatures = metrics.cross_fit(logits, y, folds)
    for fold in range(3):
        others = metrics.fit_temperature(logits[folds != fold], y[folds != fold])
        assert temperatures[folds == fold] == pytest.approx(np.full(100, others))
    with pytest.raises(DataError, match="folds: got 1; allowed: 2 or more"):
        metrics.cross_fit(logits, y, np.zeros(300))


@pytest.mark.parametrize("k", [2, 5])
def test_folds_advise_a_temperature_where_it_helps_and_none_where_it_does_not(k):
    folds, patients = np.arange(3000) % 5, np.arange(3000) // 10
    logits, y = drawn(3000, 3.0, k=k)
    resamples = metrics.Resamples(patients, 200, 0.95, 0)
    scaling = metrics.temperature_by_folds(logits, y, folds, resamples)
    assert scaling.use == scaling.temperature.value == metrics.fit_temperature(logits, y)
    assert scaling.temperature.low < 3 < scaling.temperature.high
    assert scaling.loss.high < 0 and scaling.ece.value < 0
    before, after = (
        metrics.ece(y, metrics.softmax(logits / t)) for t in (1, metrics.cross_fit(logits, y, folds)[:, None])
    )
    assert scaling.ece.value == pytest.approx(after - before)
    fair = logits / metrics.fit_temperature(logits, y)
    assert metrics.temperature_by_folds(fair, y, folds, resamples).use is None


def test_a_temperature_of_few_slices_that_others_contradict_is_not_used():
    # One fold is far too sure, the other not sure enough: what one asks for makes the other worse.
    (sure, y_sure), (shy, y_shy) = drawn(400, 4.0, seed=1), drawn(400, 0.25, seed=2)
    logits, y, folds = np.concatenate([sure, shy]), np.concatenate([y_sure, y_shy]), np.repeat([0, 1], 400)
    scaling = metrics.temperature_by_folds(logits, y, folds, metrics.Resamples(np.arange(800), 200, 0.95, 0))
    assert scaling.use is None and scaling.loss.low > 0
