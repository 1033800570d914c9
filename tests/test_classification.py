"""Scores of any number of classes and their intervals, against hand arithmetic and scikit-learn."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btlib import DataError
from btlib.scores import classification, resampling

# Six slices: meningioma right, meningioma taken for glioma, three gliomas right, pituitary right.
NAMES = ("meningioma", "glioma", "pituitary")
Y = np.array([0, 0, 1, 1, 1, 2])
PREDICTED = np.array([0, 1, 1, 1, 1, 2])


def certain(predicted):
    return np.eye(3)[predicted]


def made_up(n=400, patients=60, seed=0, skill=2.0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    logits = rng.normal(size=(n, 3))
    logits[np.arange(n), y] += skill
    return y, logits, rng.integers(0, patients, n)


def test_softmax_by_hand_and_without_overflow():
    assert classification.softmax([[0, 0, 0]]) == pytest.approx(np.full((1, 3), 1 / 3))
    assert classification.softmax([[np.log(1), np.log(2), np.log(5)]]) == pytest.approx(
        np.array([[1 / 8, 2 / 8, 5 / 8]])
    )
    assert classification.softmax([[1e4, 0, -1e4]]) == pytest.approx(np.array([[1, 0, 0]]))


def test_scores_by_hand():
    found = classification.scores(Y, certain(PREDICTED), NAMES)
    assert found["accuracy"] == pytest.approx(5 / 6)
    assert found["recall_meningioma"] == pytest.approx(1 / 2)
    assert found["precision_glioma"] == pytest.approx(3 / 4)
    assert found["f1_glioma"] == pytest.approx(6 / 7)
    assert found["balanced_accuracy"] == found["recall"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert found["precision"] == pytest.approx((1 + 3 / 4 + 1) / 3)
    # Meningioma: one of two scores 1, the other ties with all four negatives at 0: (4 + 4 / 2) / 8.
    assert found["auc_meningioma"] == pytest.approx(6 / 8)
    # Glioma: all three score 1, one of the three negatives as well: 3 * (2 + 1 / 2) / 9.
    assert found["auc_glioma"] == pytest.approx(7.5 / 9)
    assert found["auc"] == pytest.approx((6 / 8 + 7.5 / 9 + 1) / 3)


@pytest.mark.parametrize("decimals", [1, 12])
def test_scores_agree_with_scikit_learn(decimals):
    from sklearn import metrics as reference

    y, logits, _ = made_up(skill=1.0)
    probabilities = np.round(classification.softmax(logits), decimals)
    probabilities[:, 2] = 1 - probabilities[:, 0] - probabilities[:, 1]
    probabilities = np.clip(probabilities, 0, 1)
    predicted = probabilities.argmax(axis=1)
    found = classification.scores(y, probabilities, NAMES)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(y, predicted))
    assert found["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(y, predicted))
    assert found["auc"] == pytest.approx(reference.roc_auc_score(y, probabilities, multi_class="ovr"))
    by_class = reference.precision_recall_fscore_support(y, predicted)
    for name, values in zip(("precision", "recall", "f1"), by_class, strict=False):
        assert found[name] == pytest.approx(np.mean(values))
        assert [found[f"{name}_{c}"] for c in NAMES] == pytest.approx(list(values))


def test_a_class_that_y_lacks_is_left_out():
    found = classification.scores(np.array([0, 0, 1, 1]), certain(np.array([0, 2, 1, 1])), NAMES)
    assert not [name for name in found if name.endswith("pituitary")]
    assert found["recall"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["precision"] == pytest.approx(1)
    only = classification.scores(np.array([1, 1]), certain(np.array([1, 0])), NAMES)
    assert np.isnan(only["auc"]) and "auc_glioma" not in only
    assert only["accuracy"] == only["recall"] == only["recall_glioma"] == 0.5


def test_a_class_never_predicted_has_precision_0():
    found = classification.scores(np.array([0, 1, 2]), certain(np.array([0, 0, 2])), NAMES)
    assert found["precision_glioma"] == found["f1_glioma"] == 0
    assert found["precision"] == pytest.approx((1 / 2 + 0 + 1) / 3)


def test_confusion_counts_and_shares():
    table = classification.confusion(Y, PREDICTED, NAMES).set_index(["label", "predicted"])
    assert table.loc[("meningioma", "glioma"), "n"] == 1
    assert table.loc[("meningioma", "glioma"), "share"] == 0.5
    assert table.loc[("glioma", "glioma"), "n"] == 3
    assert table["n"].sum() == 6 and len(table) == 9
    assert classification.confusion(np.array([0]), np.array([2]), NAMES)["share"].sum() == 1


def test_intervals_hold_the_value_and_repeat():
    y, logits, patients = made_up()
    table = classification.intervals(
        y, classification.softmax(logits), NAMES, resampling.Resamples(patients, 300, 0.95, 7)
    )
    assert list(table.columns) == ["score", "value", "low", "high"]
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    assert (table["low"] < table["high"]).all()
    expected = classification.scores(y, classification.softmax(logits), NAMES)
    assert dict(zip(table["score"], table["value"], strict=True)) == pytest.approx(expected)
    assert list(table["score"]) == list(expected)
    again = classification.intervals(
        y, classification.softmax(logits), NAMES, resampling.Resamples(patients, 300, 0.95, 7)
    )
    pd.testing.assert_frame_equal(table, again)


def test_patients_that_fail_as_a_whole_widen_the_interval():
    # 20 patients of 30 slices; 4 patients are all wrong. With slices of one fate per patient the standard error of
    # accuracy is sqrt(0.8 * 0.2 / 20) = 0.089; were slices independent, sqrt(0.8 * 0.2 / 600) = 0.016.
    patients = np.repeat(np.arange(20), 30)
    y = np.tile([0, 1, 2], 200)
    predicted = np.where(patients < 4, (y + 1) % 3, y)
    by_patient = (
        classification.intervals(y, certain(predicted), NAMES, resampling.Resamples(patients, 4000, 0.95, 0))
        .set_index("score")
        .loc["accuracy"]
    )
    by_slice = (
        classification.intervals(y, certain(predicted), NAMES, resampling.Resamples(np.arange(600), 4000, 0.95, 0))
        .set_index("score")
        .loc["accuracy"]
    )
    assert by_patient["high"] - by_patient["low"] == pytest.approx(2 * 1.96 * 0.0894, rel=0.1)
    assert by_slice["high"] - by_slice["low"] == pytest.approx(2 * 1.96 * 0.0163, rel=0.1)


def test_intervals_are_those_of_resampling_patients_one_by_one():
    from sklearn.metrics import f1_score, roc_auc_score

    y, logits, patients = made_up(n=120, patients=15, skill=1.0)
    probabilities = classification.softmax(logits)
    table = classification.intervals(y, probabilities, NAMES, resampling.Resamples(patients, 50, 0.9, 3)).set_index(
        "score"
    )
    names = np.unique(patients.astype(str))
    drawn = np.random.default_rng(3).integers(0, len(names), (50, len(names)))
    found = {"f1": [], "auc": []}
    for chosen in drawn:
        rows = np.concatenate([np.flatnonzero(patients.astype(str) == names[i]) for i in chosen])
        found["f1"].append(f1_score(y[rows], probabilities[rows].argmax(axis=1), average="macro"))
        found["auc"].append(roc_auc_score(y[rows], probabilities[rows], multi_class="ovr"))
    for name, values in found.items():
        assert list(table.loc[name, ["low", "high"]]) == pytest.approx(list(np.percentile(values, [5, 95])))


def test_intervals_without_an_error_do_not_claim_certainty():
    y = np.tile([0, 1, 2], 20)
    table = classification.intervals(
        y, certain(y), NAMES, resampling.Resamples(np.arange(60) // 6, 200, 0.95, 0)
    ).set_index("score")
    assert list(table.loc["accuracy", ["value", "high"]]) == [1, 1]
    assert table.loc["accuracy", "low"] == pytest.approx(60 / (60 + 1.959964**2))
    assert table.loc["recall_glioma", "low"] == pytest.approx(20 / (20 + 1.959964**2))
    assert table.loc["auc", "low"] < 1


def test_intervals_leave_out_resamples_without_a_class():
    # Three patients, one of each class: most resamples lack a class, and none of them may turn recall into NaN or 0.
    y = np.repeat([0, 1, 2], 10)
    predicted = y.copy()
    predicted[0] = 1
    table = classification.intervals(y, certain(predicted), NAMES, resampling.Resamples(y, 200, 0.95, 0)).set_index(
        "score"
    )
    assert table.notna().all(axis=None)
    assert table.loc["recall_meningioma", "value"] == 0.9
    assert table.loc["balanced_accuracy", "low"] > 0.8


def test_coverage_of_the_interval():
    # 200 studies of 50 patients, each patient's slices right with a chance of its own, 0.8 in the mean.
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(50), 6)
    hits = 0
    for _ in range(200):
        right = rng.random(300) < np.repeat(rng.beta(4, 1, 50), 6)
        y = np.tile([0, 1, 2], 100)
        table = classification.intervals(
            y, certain(np.where(right, y, (y + 1) % 3)), NAMES, resampling.Resamples(patients, 200, 0.95, 0)
        )
        hits += table.loc[0, "low"] <= 0.8 <= table.loc[0, "high"]
    assert 180 <= hits <= 199


def test_intervals_of_the_whole_set_are_quick():
    y, logits, patients = made_up(n=3064, patients=233)
    start = time.perf_counter()
    classification.intervals(y, classification.softmax(logits), NAMES, resampling.Resamples(patients, 2000, 0.95, 0))
    assert time.perf_counter() - start < 6


def test_roc_by_hand():
    probabilities = np.array([[0.8, 0.1, 0.1], [0.4, 0.5, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1]])
    table = classification.roc(np.array([0, 0, 1, 1]), probabilities, NAMES)
    assert set(table["label"]) == {"meningioma", "glioma"}
    # Meningioma's scores 0.8 and 0.4 against 0.6 and 0.2: three of four pairs in order.
    assert table.loc[table["label"] == "meningioma", "auc"].unique() == pytest.approx([0.75])
    assert table.groupby("label")[["fpr", "tpr"]].max().eq(1).all(axis=None)
    assert len(classification.roc(np.array([1, 1]), probabilities[:2], NAMES)) == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
def test_scores_lie_between_0_and_1_whatever_the_input(seed, n):
    rng = np.random.default_rng(seed)
    probabilities = np.round(rng.dirichlet([0.3] * 3, n), 2)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    table = classification.intervals(
        rng.integers(0, 3, n), probabilities, NAMES, resampling.Resamples(rng.integers(0, 5, n), 20, 0.95, 0)
    )
    defined = table.dropna()
    assert set(table["score"]) - set(defined["score"]) <= {"auc", "specificity"}
    assert defined[["value", "low", "high"]].stack().between(-1e-9, 1 + 1e-9).all()
    assert (defined["low"] <= defined["high"]).all()


@pytest.mark.parametrize(
    ("y", "probabilities", "message"),
    [
        ([0, 3], [[1, 0, 0]] * 2, "allowed: .*0 to k - 1"),
        ([], np.zeros((0, 3)), r"probabilities \(0, 3\); allowed: .* n > 0"),
        ([0, 1], [[1, 0, 0]], r"got y \(2,\), probabilities \(1, 3\)"),
        ([0, 1], [[1, 0, 0], [np.nan, 0, 0]], "add up to 1"),
        ([0, 1], [[4, -1, 0]] * 2, "add up to 1"),
    ],
)
def test_bad_input_is_named(y, probabilities, message):
    with pytest.raises(DataError, match=message):
        classification.scores(np.array(y, int), np.array(probabilities, float), NAMES)


def test_specificity_and_support_by_hand():
    # Glioma: three slices of other classes, one of them taken for glioma.
    scores = classification.scores(Y, certain(PREDICTED), NAMES)
    assert scores["specificity_glioma"] == pytest.approx(2 / 3)
    assert scores["specificity_meningioma"] == scores["specificity_pituitary"] == 1
    assert scores["specificity"] == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert [classification.support(f"recall_{c}", Y, NAMES) for c in NAMES] == [2, 3, 1]
    assert classification.support("accuracy", Y, NAMES) == classification.support("recall", Y, NAMES) == 6
    table = classification.intervals(Y, certain(PREDICTED), NAMES, resampling.Resamples(np.zeros(6), 20, 0.95, 0))
    low = table.set_index("score").loc["specificity_pituitary", "low"]
    # One patient, so that no sample differs: Wilson's interval of the five slices of other classes.
    assert low == pytest.approx(5 / (5 + 1.959964**2))


def test_two_classes_by_hand():
    # Three healthy slices, one called ill; two ill ones, both called ill.
    y, predicted, names = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1]), ("healthy", "ill")
    scores = classification.scores(y, np.eye(2)[predicted], names)
    assert scores["accuracy"] == 4 / 5
    assert scores["recall_ill"] == scores["specificity_healthy"] == 1
    assert scores["recall_healthy"] == scores["specificity_ill"] == pytest.approx(2 / 3)
    assert scores["precision_ill"] == pytest.approx(2 / 3)
    assert scores["auc_ill"] == scores["auc_healthy"] == pytest.approx((2 + 2 + 1) / 6)
    assert classification.confusion(y, predicted, names)["n"].tolist() == [2, 1, 0, 2]
    assert classification.roc(y, np.eye(2)[predicted], names)["label"].unique().tolist() == ["healthy", "ill"]


def test_five_classes_whose_names_end_in_each_other():
    names = ("a", "b", "a_b", "no_tumor", "tumor")
    y = np.arange(5).repeat(2)
    predicted = y.copy()
    predicted[[0, 4, 8]] = 1  # one slice of a, of a_b and of tumor is taken for b
    scores = classification.scores(y, np.eye(5)[predicted], names)
    assert [scores[f"recall_{c}"] for c in names] == [0.5, 1, 0.5, 1, 0.5]
    assert scores["precision_b"] == pytest.approx(2 / 5) and scores["specificity_b"] == pytest.approx(5 / 8)
    assert scores["recall"] == pytest.approx(3.5 / 5)
    assert classification.support("recall_a_b", y, names) == 2
    table = classification.intervals(y, np.eye(5)[predicted], names, resampling.Resamples(np.arange(10), 100, 0.95, 0))
    assert dict(zip(table["score"], table["value"], strict=True)) == pytest.approx(scores)
    counts = classification.confusion(y, predicted, names)
    assert len(counts) == 25 and counts["n"].sum() == 10
