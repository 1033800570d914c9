"""Scores, intervals, paired tests and calibration, against hand arithmetic and independent libraries."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btlib import CLASSES, DataError, metrics

# Six slices: meningioma right, meningioma taken for glioma, three gliomas right, pituitary right.
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
    assert metrics.softmax([[0, 0, 0]]) == pytest.approx(np.full((1, 3), 1 / 3))
    assert metrics.softmax([[np.log(1), np.log(2), np.log(5)]]) == pytest.approx(np.array([[1 / 8, 2 / 8, 5 / 8]]))
    assert metrics.softmax([[1e4, 0, -1e4]]) == pytest.approx(np.array([[1, 0, 0]]))


def test_scores_by_hand():
    found = metrics.scores(Y, certain(PREDICTED))
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
    probabilities = np.round(metrics.softmax(logits), decimals)
    probabilities[:, 2] = 1 - probabilities[:, 0] - probabilities[:, 1]
    probabilities = np.clip(probabilities, 0, 1)
    predicted = probabilities.argmax(axis=1)
    found = metrics.scores(y, probabilities)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(y, predicted))
    assert found["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(y, predicted))
    assert found["auc"] == pytest.approx(reference.roc_auc_score(y, probabilities, multi_class="ovr"))
    by_class = reference.precision_recall_fscore_support(y, predicted)
    for name, values in zip(("precision", "recall", "f1"), by_class, strict=False):
        assert found[name] == pytest.approx(np.mean(values))
        assert [found[f"{name}_{c}"] for c in CLASSES] == pytest.approx(list(values))


def test_a_class_that_y_lacks_is_left_out():
    found = metrics.scores(np.array([0, 0, 1, 1]), certain(np.array([0, 2, 1, 1])))
    assert not [name for name in found if name.endswith("pituitary")]
    assert found["recall"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["precision"] == pytest.approx(1)
    only = metrics.scores(np.array([1, 1]), certain(np.array([1, 0])))
    assert np.isnan(only["auc"]) and "auc_glioma" not in only
    assert only["accuracy"] == only["recall"] == only["recall_glioma"] == 0.5


def test_a_class_never_predicted_has_precision_0():
    found = metrics.scores(np.array([0, 1, 2]), certain(np.array([0, 0, 2])))
    assert found["precision_glioma"] == found["f1_glioma"] == 0
    assert found["precision"] == pytest.approx((1 / 2 + 0 + 1) / 3)


def test_confusion_counts_and_shares():
    table = metrics.confusion(Y, PREDICTED).set_index(["label", "predicted"])
    assert table.loc[("meningioma", "glioma"), "n"] == 1
    assert table.loc[("meningioma", "glioma"), "share"] == 0.5
    assert table.loc[("glioma", "glioma"), "n"] == 3
    assert table["n"].sum() == 6 and len(table) == 9
    assert metrics.confusion(np.array([0]), np.array([2]))["share"].sum() == 1


def test_wilson_known_values():
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263 and 15 of 148.
    assert metrics.wilson(81, 263, 0.95) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert metrics.wilson(15, 148, 0.95) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    # n of n: low is n / (n + z^2), and z is 1.959964.
    assert metrics.wilson(10, 10, 0.95) == pytest.approx((10 / (10 + 1.959964**2), 1))
    assert metrics.wilson(0, 10, 0.95)[0] == pytest.approx(0, abs=1e-12)


def test_wilson_of_the_papers_number():
    from statsmodels.stats.proportion import proportion_confint

    low, high = metrics.wilson(609, 613, 0.95)
    assert (low, high) == pytest.approx(proportion_confint(609, 613, method="wilson"))
    assert low == pytest.approx(0.983, abs=5e-4) and high == pytest.approx(0.998, abs=1e-3)


@pytest.mark.parametrize(("k", "n"), [(5, 4), (-1, 4), (0, 0)])
def test_wilson_refuses(k, n):
    with pytest.raises(DataError, match=f"k = {k}, n = {n}"):
        metrics.wilson(k, n, 0.95)


def test_intervals_hold_the_value_and_repeat():
    y, logits, patients = made_up()
    table = metrics.intervals(y, metrics.softmax(logits), patients, 300, 0.95, 7)
    assert list(table.columns) == ["score", "value", "low", "high"]
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    assert (table["low"] < table["high"]).all()
    expected = metrics.scores(y, metrics.softmax(logits))
    assert dict(zip(table["score"], table["value"], strict=True)) == pytest.approx(expected)
    assert list(table["score"]) == list(expected)
    again = metrics.intervals(y, metrics.softmax(logits), patients, 300, 0.95, 7)
    pd.testing.assert_frame_equal(table, again)


def test_patients_that_fail_as_a_whole_widen_the_interval():
    # 20 patients of 30 slices; 4 patients are all wrong. With slices of one fate per patient the standard error of
    # accuracy is sqrt(0.8 * 0.2 / 20) = 0.089; were slices independent, sqrt(0.8 * 0.2 / 600) = 0.016.
    patients = np.repeat(np.arange(20), 30)
    y = np.tile([0, 1, 2], 200)
    predicted = np.where(patients < 4, (y + 1) % 3, y)
    by_patient = metrics.intervals(y, certain(predicted), patients, 4000, 0.95, 0).set_index("score").loc["accuracy"]
    by_slice = (
        metrics.intervals(y, certain(predicted), np.arange(600), 4000, 0.95, 0).set_index("score").loc["accuracy"]
    )
    assert by_patient["high"] - by_patient["low"] == pytest.approx(2 * 1.96 * 0.0894, rel=0.1)
    assert by_slice["high"] - by_slice["low"] == pytest.approx(2 * 1.96 * 0.0163, rel=0.1)


def test_intervals_are_those_of_resampling_patients_one_by_one():
    from sklearn.metrics import f1_score, roc_auc_score

    y, logits, patients = made_up(n=120, patients=15, skill=1.0)
    probabilities = metrics.softmax(logits)
    table = metrics.intervals(y, probabilities, patients, 50, 0.9, 3).set_index("score")
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
    table = metrics.intervals(y, certain(y), np.arange(60) // 6, 200, 0.95, 0).set_index("score")
    assert list(table.loc["accuracy", ["value", "high"]]) == [1, 1]
    assert table.loc["accuracy", "low"] == pytest.approx(60 / (60 + 1.959964**2))
    assert table.loc["recall_glioma", "low"] == pytest.approx(20 / (20 + 1.959964**2))
    assert table.loc["auc", "low"] < 1


def test_intervals_leave_out_resamples_without_a_class():
    # Three patients, one of each class: most resamples lack a class, and none of them may turn recall into NaN or 0.
    y = np.repeat([0, 1, 2], 10)
    predicted = y.copy()
    predicted[0] = 1
    table = metrics.intervals(y, certain(predicted), y, 200, 0.95, 0).set_index("score")
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
        table = metrics.intervals(y, certain(np.where(right, y, (y + 1) % 3)), patients, 200, 0.95, 0)
        hits += table.loc[0, "low"] <= 0.8 <= table.loc[0, "high"]
    assert 180 <= hits <= 199


def test_intervals_of_the_whole_set_are_quick():
    y, logits, patients = made_up(n=3064, patients=233)
    start = time.perf_counter()
    metrics.intervals(y, metrics.softmax(logits), patients, 2000, 0.95, 0)
    assert time.perf_counter() - start < 6


def test_mean_interval_resamples_patients():
    # 20 patients of 30 slices, each patient's slices alike: the mean's standard error is sd / sqrt(20).
    by_patient = np.linspace(0, 1, 20)
    mean, low, high = metrics.mean_interval(np.repeat(by_patient, 30), np.repeat(np.arange(20), 30), 4000, 0.95, 0)
    assert mean == pytest.approx(0.5)
    assert high - low == pytest.approx(2 * 1.96 * by_patient.std() / np.sqrt(20), rel=0.1)


def test_mean_interval_of_hits_only_does_not_claim_certainty():
    mean, low, high = metrics.mean_interval(np.ones(10), np.arange(10) // 2, 100, 0.95, 0)
    assert (mean, low, high) == pytest.approx((1, 10 / (10 + 1.959964**2), 1))
    with pytest.raises(DataError, match="finite"):
        metrics.mean_interval([np.nan], ["a"], 100, 0.95, 0)


def test_mcnemar_by_hand():
    # a alone is right on 5 slices, b alone on 1: two-sided exact p is 2 * (1 + 6) / 2**6.
    y = np.zeros(10, int)
    a = np.array([0] * 5 + [1] + [0] * 4)
    b = np.array([1] * 5 + [0] + [0] * 4)
    assert metrics.mcnemar(y, a, b) == (5, 1, pytest.approx(14 / 64))
    assert metrics.mcnemar(y, a, a) == (0, 0, 1.0)


def test_mcnemar_agrees_with_statsmodels():
    from statsmodels.stats.contingency_tables import mcnemar

    y, logits, _ = made_up()
    a, b = logits.argmax(axis=1), made_up(seed=1)[1].argmax(axis=1)
    table = np.array([[((a == y) == i) & ((b == y) == j) for j in (True, False)] for i in (True, False)]).sum(axis=2)
    assert metrics.mcnemar(y, a, b).p == pytest.approx(mcnemar(table, exact=True).pvalue)


def test_paired_bootstrap_known_cases():
    y = np.tile([0, 1, 2], 100)
    patients = np.repeat(np.arange(50), 6)
    same = metrics.paired_bootstrap(y, y, y, patients, 500, 0.95, 0)
    assert same == (0, 0, 0, 1)
    # b misses one slice of each patient, so each resample has the same difference of 1/6.
    b = y.copy()
    b[::6] = (b[::6] + 1) % 3
    clear = metrics.paired_bootstrap(y, y, b, patients, 500, 0.95, 0)
    assert clear[:3] == pytest.approx((1 / 6, 1 / 6, 1 / 6))
    assert clear.p == pytest.approx(1 / 501)
    reverse = metrics.paired_bootstrap(y, b, y, patients, 500, 0.95, 0)
    assert reverse.value == pytest.approx(-clear.value)


def test_paired_bootstrap_counts_patients_not_slices():
    # b fails on 3 patients of 12 as a whole: 30 discordant slices look overwhelming, 3 patients do not.
    y = np.zeros(120, int)
    patients = np.repeat(np.arange(12), 10)
    b = np.where(patients < 3, 1, 0)
    assert metrics.mcnemar(y, y, b).p < 1e-8
    by_patient = metrics.paired_bootstrap(y, y, b, patients, 4000, 0.95, 0)
    assert 0.02 < by_patient.p < 0.12
    assert by_patient.high - by_patient.low == pytest.approx(2 * 1.96 * np.sqrt(0.25 * 0.75 / 12), rel=0.2)


def test_paired_bootstrap_rejects_a_true_null_at_its_rate():
    rng = np.random.default_rng(1)
    y, patients = np.zeros(300, int), np.repeat(np.arange(60), 5)
    p = [
        metrics.paired_bootstrap(y, *(rng.random((2, 300)) < 0.2).astype(int), patients, 200, 0.95, 0).p
        for _ in range(200)
    ]
    assert 2 <= (np.array(p) < 0.05).sum() <= 20


def test_gap_bootstrap_known_cases():
    patients = np.repeat(np.arange(40), 5)
    right = np.ones(200, bool)
    right[::5] = False  # one slice of five wrong in each patient: every resample has the same gap
    gap = metrics.gap_bootstrap(right, patients, np.ones(80, bool), patients[:80], 300, 0.95, 0)
    assert gap[:3] == pytest.approx((-0.2, -0.2, -0.2)) and gap.p == pytest.approx(1 / 301)
    same = metrics.gap_bootstrap(right, patients, right, patients, 300, 0.95, 0)
    assert same[:3] == pytest.approx((0, 0, 0)) and same.p == 1


def test_gap_bootstrap_is_as_wide_as_theory_says_where_the_tests_share_no_patient():
    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.8
    gap = metrics.gap_bootstrap(right[:200], np.arange(200), right[200:], np.arange(200, 400), 4000, 0.95, 0)
    expected = 2 * 1.96 * np.sqrt(sum(p * (1 - p) / 200 for p in (right[:200].mean(), right[200:].mean())))
    assert gap.high - gap.low == pytest.approx(expected, rel=0.1)
    with pytest.raises(DataError, match="0 and 1 slices"):
        metrics.gap_bootstrap([], [], [True], ["a"], 100, 0.95, 0)


def test_compare_corrects_with_holm():
    y, logits, patients = made_up(n=600, patients=100)
    good = logits.argmax(axis=1)
    rng = np.random.default_rng(2)
    predictions = {"good": good}
    for name, spoiled in (("worse", 40), ("worst", 120), ("same", 0)):
        wrong = good.copy()
        wrong[rng.choice(np.flatnonzero(good == y), spoiled, replace=False)] += 1
        predictions[name] = wrong % 3
    table = metrics.compare(y, predictions, "good", patients, 500, 0.95, 0).set_index("model")
    assert list(table.index) == ["worse", "worst", "same"]
    assert table.loc["worst", "difference"] == pytest.approx(-120 / 600)
    assert table.loc["worst", ["only_model", "only_reference"]].tolist() == [0, 120]
    # Holm, three tests: the least p times 3, the next times 2, the greatest as it is.
    assert table.loc["worst", "mcnemar_p_holm"] == pytest.approx(3 * table.loc["worst", "mcnemar_p"])
    assert table.loc["worse", "mcnemar_p_holm"] == pytest.approx(2 * table.loc["worse", "mcnemar_p"])
    assert table.loc["same", "mcnemar_p_holm"] == table.loc["same", "bootstrap_p_holm"] == 1
    assert (table["accuracy"] - table["reference_accuracy"]).to_list() == pytest.approx(table["difference"].to_list())


def test_compare_with_nothing_or_an_unknown_reference():
    table = metrics.compare(Y, {"a": PREDICTED}, "a", Y, 100, 0.95, 0)
    assert len(table) == 0 and "mcnemar_p_holm" in table
    with pytest.raises(DataError, match="reference is 'b'; allowed: a"):
        metrics.compare(Y, {"a": PREDICTED}, "b", Y, 100, 0.95, 0)


def test_roc_by_hand():
    probabilities = np.array([[0.8, 0.1, 0.1], [0.4, 0.5, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1]])
    table = metrics.roc(np.array([0, 0, 1, 1]), probabilities)
    assert set(table["label"]) == {"meningioma", "glioma"}
    # Meningioma's scores 0.8 and 0.4 against 0.6 and 0.2: three of four pairs in order.
    assert table.loc[table["label"] == "meningioma", "auc"].unique() == pytest.approx([0.75])
    assert table.groupby("label")[["fpr", "tpr"]].max().eq(1).all(axis=None)
    assert len(metrics.roc(np.array([1, 1]), probabilities[:2])) == 0


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


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
def test_scores_lie_between_0_and_1_whatever_the_input(seed, n):
    rng = np.random.default_rng(seed)
    probabilities = np.round(rng.dirichlet([0.3] * 3, n), 2)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    table = metrics.intervals(rng.integers(0, 3, n), probabilities, rng.integers(0, 5, n), 20, 0.95, 0)
    defined = table.dropna()
    assert set(table["score"]) - set(defined["score"]) <= {"auc"}
    assert defined[["value", "low", "high"]].stack().between(-1e-9, 1 + 1e-9).all()
    assert (defined["low"] <= defined["high"]).all()


@pytest.mark.parametrize(
    ("y", "probabilities", "message"),
    [
        ([0, 3], [[1, 0, 0]] * 2, "y: got values 0 to 3; allowed: 0 to 2"),
        ([0.0, 1.0], [[1, 0, 0]] * 2, "y: got .*float64; allowed: one integer a slice"),
        ([], np.zeros((0, 3)), "y: got shape"),
        ([0, 1], [[1, 0]] * 2, r"probabilities: got shape \(2, 2\); allowed: \(n, 3\)"),
        ([0, 1], [[1, 0, 0], [np.nan, 0, 0]], "probabilities: row 1 is not finite"),
        ([0, 1], [[4, -1, 0]] * 2, "add up to 1"),
        ([0, 1], [[1, 0, 0]], "got 2 for y, 1 for probabilities"),
    ],
)
def test_bad_input_is_named(y, probabilities, message):
    with pytest.raises(DataError, match=message):
        metrics.scores(np.array(y) if y else np.array([], int), np.array(probabilities, float))


def test_patients_of_another_length_are_refused():
    with pytest.raises(DataError, match="patients: got 2 ids for 6 slices"):
        metrics.intervals(Y, certain(PREDICTED), ["a", "b"], 100, 0.95, 0)


def test_mean_interval():
    # Two patients with means 0 and 1: a resample has mean 0, 0.5 or 1 with probabilities 1/4, 1/2, 1/4.
    mean, low, high = metrics.mean_interval([0, 0, 1, 1], ["a", "a", "b", "b"], 1000, 0.9, 0)
    assert (mean, low, high) == (0.5, 0, 1)
    mean, low, high = metrics.mean_interval([0.0] * 8, [*"aabbccdd"], 100, 0.95, 0)
    assert (mean, low) == (0, 0) and high == pytest.approx(metrics.wilson(0, 8, 0.95)[1])
    with pytest.raises(DataError, match="finite"):
        metrics.mean_interval([np.nan], ["a"], 100, 0.95, 0)
    both = metrics.mean_intervals(np.array([[0, 1], [0, 0], [1, 0], [1, 0.0]]), ["a", "a", "b", "b"], 1000, 0.9, 0)
    assert both == [metrics.mean_interval(v, ["a", "a", "b", "b"], 1000, 0.9, 0) for v in ([0, 0, 1, 1], [1, 0, 0, 0])]
    with pytest.raises(DataError, match="finite"):
        metrics.mean_intervals(np.zeros(3), [*"abc"], 100, 0.95, 0)
