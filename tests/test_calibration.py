"""Calibration and confidence, against hand arithmetic and known scales."""

import numpy as np
import pytest

from btlib.scores import calibration, classification, resampling

Y = np.array([0, 0, 1, 1, 1, 2])


def certain(predicted):
    return np.eye(3)[predicted]


def test_calibration_by_hand():
    # Four slices at 0.8 (three right) and one at 0.5 (wrong): gaps 0.05 and 0.5.
    probabilities = np.array([[0.8, 0.1, 0.1]] * 4 + [[0.5, 0.3, 0.2]])
    y = np.array([0, 0, 0, 1, 2])
    table = calibration.reliability(y, probabilities)
    assert table["n"].tolist() == [1, 4]
    assert table["confidence"].tolist() == pytest.approx([0.5, 0.8])
    assert table["accuracy"].tolist() == pytest.approx([0, 0.75])
    assert ((table["bin_low"] < table["confidence"]) & (table["confidence"] <= table["bin_high"])).all()
    assert list(table.loc[1, ["low", "high"]]) == pytest.approx(list(resampling.wilson(3, 4, 0.95)))
    assert calibration.ece(y, probabilities) == pytest.approx((4 * 0.05 + 1 * 0.5) / 5)
    right, wrong, last = 0.04 + 0.01 + 0.01, 0.64 + 0.81 + 0.01, 0.25 + 0.09 + 0.64
    assert calibration.brier(y, probabilities) == pytest.approx((3 * right + wrong + last) / 5)


def test_certain_and_right_is_calibrated_certain_and_wrong_is_not():
    assert calibration.ece(Y, certain(Y)) == 0
    assert calibration.brier(Y, certain(Y)) == 0
    assert calibration.ece(Y, certain((Y + 1) % 3)) == 1
    assert calibration.brier(Y, certain((Y + 1) % 3)) == 2


def test_temperature_undoes_a_known_scale():
    # y drawn from softmax(logits): their own temperature is 1, three times the logits need 3.
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20000, 3))
    chance = np.cumsum(classification.softmax(logits), axis=1)
    y = (rng.random(20000)[:, None] > chance).sum(axis=1).clip(max=2)
    own = calibration.fit_temperature(logits, y)
    assert own == pytest.approx(1, abs=0.03)
    assert calibration.fit_temperature(3 * logits, y) == pytest.approx(3 * own, rel=1e-3)
    before, after = (calibration.ece(y, classification.softmax(3 * logits / t)) for t in (1, 3 * own))
    assert after < 0.02 < before


def test_temperature_stays_in_its_bounds():
    logits = np.eye(3)
    assert calibration.fit_temperature(logits, np.array([0, 1, 2])) == pytest.approx(0.05)
    assert calibration.fit_temperature(logits, np.array([1, 2, 0])) == pytest.approx(20)


def test_accuracy_coverage_by_hand():
    probabilities = np.array([[0.9, 0.1, 0], [0.6, 0.4, 0], [0.8, 0.2, 0], [0.6, 0.4, 0]])
    table = calibration.accuracy_coverage(np.array([0, 1, 0, 0]), probabilities)
    assert table["threshold"].tolist() == [0.9, 0.8, 0.6]
    assert table["coverage"].tolist() == [0.25, 0.5, 1]
    assert table["accuracy"].tolist() == [1, 1, 0.75]
    assert table["risk"].tolist() == [0, 0, 0.25]
    assert list(table.loc[2, ["low", "high"]]) == pytest.approx(list(resampling.wilson(3, 4, 0.95)))


def test_known_scores_by_hand():
    found = calibration.known_scores([[np.log(1), np.log(2), np.log(5)], [0, 0, 0]])
    assert found["max_probability"] == pytest.approx([5 / 8, 1 / 3])
    assert found["energy"] == pytest.approx([np.log(8), np.log(3)])
    shares = np.array([1, 2, 5]) / 8
    assert found["entropy"] == pytest.approx([(shares * np.log(shares)).sum(), -np.log(3)])
    assert np.isfinite(calibration.known_scores([[1e4, 0, 0]])["entropy"]).all()


def test_auroc_by_hand():
    assert calibration.auroc([3, 4], [1, 2]) == 1
    assert calibration.auroc([1], [1]) == 0.5
    assert calibration.auroc([1, 3], [2, 2]) == 0.5
    assert calibration.auroc([2, 3], [1, 2]) == pytest.approx(3.5 / 4)
