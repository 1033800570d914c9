"""Intervals, paired tests and verdicts, against hand arithmetic, published values and statsmodels."""

import numpy as np
import pytest

from btlib import DataError
from btlib.scores import resampling

Y = np.array([0, 0, 1, 1, 1, 2])
PREDICTED = np.array([0, 1, 1, 1, 1, 2])


def made_up(n=400, patients=60, seed=0, skill=2.0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    logits = rng.normal(size=(n, 3))
    logits[np.arange(n), y] += skill
    return y, logits, rng.integers(0, patients, n)


def paired(y, a, b, patients, samples, level, seed):
    return resampling.Resamples(patients, samples, level, seed).difference(a == y, b == y)


def gap_of(right_a, patients_a, right_b, patients_b, samples, level, seed):
    first = np.arange(len(right_a) + len(right_b)) < len(right_a)
    right = np.concatenate([right_a, right_b]).astype(float)
    resamples = resampling.Resamples(np.concatenate([patients_a, patients_b]), samples, level, seed)
    return resamples.difference(np.where(first, right, np.nan), np.where(first, np.nan, right))


def test_wilson_known_values():
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263 and 15 of 148.
    assert resampling.wilson(81, 263, 0.95) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert resampling.wilson(15, 148, 0.95) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    # n of n: low is n / (n + z^2), and z is 1.959964.
    assert resampling.wilson(10, 10, 0.95) == pytest.approx((10 / (10 + 1.959964**2), 1))
    assert resampling.wilson(0, 10, 0.95)[0] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(5, 4), (-1, 4), (0, 0)])
def test_wilson_refuses(k, n):
    with pytest.raises(DataError, match=f"k = {k}, n = {n}"):
        resampling.wilson(k, n, 0.95)


def test_mean_interval_resamples_patients():
    # 20 patients of 30 slices, each patient's slices alike: the mean's standard error is sd / sqrt(20).
    by_patient = np.linspace(0, 1, 20)
    mean, low, high = resampling.Resamples(np.repeat(np.arange(20), 30), 4000, 0.95, 0).mean(np.repeat(by_patient, 30))
    assert mean == pytest.approx(0.5)
    assert high - low == pytest.approx(2 * 1.96 * by_patient.std() / np.sqrt(20), rel=0.1)


def test_mean_interval_of_hits_only_does_not_claim_certainty():
    mean, low, high = resampling.Resamples(np.arange(10) // 2, 100, 0.95, 0).mean(np.ones(10))
    assert (mean, low, high) == pytest.approx((1, 10 / (10 + 1.959964**2), 1))


def test_mcnemar_by_hand():
    # a alone is right on 5 slices, b alone on 1: two-sided exact p is 2 * (1 + 6) / 2**6.
    y = np.zeros(10, int)
    a = np.array([0] * 5 + [1] + [0] * 4)
    b = np.array([1] * 5 + [0] + [0] * 4)
    assert resampling.mcnemar(y, a, b) == (5, 1, pytest.approx(14 / 64))
    assert resampling.mcnemar(y, a, a) == (0, 0, 1.0)


def test_paired_difference_known_cases():
    y = np.tile([0, 1, 2], 100)
    patients = np.repeat(np.arange(50), 6)
    same = paired(y, y, y, patients, 500, 0.95, 0)
    assert same == (0, 0, 0, 1)
    # b misses one slice of each patient, so each resample has the same difference of 1/6.
    b = y.copy()
    b[::6] = (b[::6] + 1) % 3
    clear = paired(y, y, b, patients, 500, 0.95, 0)
    assert clear[:3] == pytest.approx((1 / 6, 1 / 6, 1 / 6))
    assert clear.p == pytest.approx(1 / 501)
    reverse = paired(y, b, y, patients, 500, 0.95, 0)
    assert reverse.value == pytest.approx(-clear.value)


def test_paired_difference_counts_patients_not_slices():
    # b fails on 3 patients of 12 as a whole: 30 discordant slices look overwhelming, 3 patients do not.
    y = np.zeros(120, int)
    patients = np.repeat(np.arange(12), 10)
    b = np.where(patients < 3, 1, 0)
    assert resampling.mcnemar(y, y, b).p < 1e-8
    by_patient = paired(y, y, b, patients, 4000, 0.95, 0)
    assert 0.02 < by_patient.p < 0.12
    assert by_patient.high - by_patient.low == pytest.approx(2 * 1.96 * np.sqrt(0.25 * 0.75 / 12), rel=0.2)


def test_paired_difference_rejects_a_true_null_at_its_rate():
    rng = np.random.default_rng(1)
    y, patients = np.zeros(300, int), np.repeat(np.arange(60), 5)
    p = [paired(y, *(rng.random((2, 300)) < 0.2).astype(int), patients, 200, 0.95, 0).p for _ in range(200)]
    assert 2 <= (np.array(p) < 0.05).sum() <= 20


def test_gap_known_cases():
    patients = np.repeat(np.arange(40), 5)
    right = np.ones(200, bool)
    right[::5] = False  # one slice of five wrong in each patient: every resample has the same gap
    gap = gap_of(right, patients, np.ones(80, bool), patients[:80], 300, 0.95, 0)
    assert gap[:3] == pytest.approx((-0.2, -0.2, -0.2)) and gap.p == pytest.approx(1 / 301)
    same = gap_of(right, patients, right, patients, 300, 0.95, 0)
    assert same[:3] == pytest.approx((0, 0, 0)) and same.p == 1


def test_gap_is_as_wide_as_theory_says_where_the_tests_share_no_patient():
    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.8
    gap = gap_of(right[:200], np.arange(200), right[200:], np.arange(200, 400), 4000, 0.95, 0)
    expected = 2 * 1.96 * np.sqrt(sum(p * (1 - p) / 200 for p in (right[:200].mean(), right[200:].mean())))
    assert gap.high - gap.low == pytest.approx(expected, rel=0.1)


def test_compare_corrects_with_holm():
    y, logits, patients = made_up(n=600, patients=100)
    good = logits.argmax(axis=1)
    rng = np.random.default_rng(2)
    predictions = {"good": good}
    for name, spoiled in (("worse", 40), ("worst", 120), ("same", 0)):
        wrong = good.copy()
        wrong[rng.choice(np.flatnonzero(good == y), spoiled, replace=False)] += 1
        predictions[name] = wrong % 3
    table = resampling.compare(y, predictions, "good", resampling.Resamples(patients, 500, 0.95, 0)).set_index("model")
    assert list(table.index) == ["worse", "worst", "same"]
    assert table.loc["worst", "difference"] == pytest.approx(-120 / 600)
    assert table.loc["worst", ["only_model", "only_reference"]].tolist() == [0, 120]
    # Holm, three tests: the least p times 3, the next times 2, the greatest as it is.
    assert table.loc["worst", "mcnemar_p_holm"] == pytest.approx(3 * table.loc["worst", "mcnemar_p"])
    assert table.loc["worse", "mcnemar_p_holm"] == pytest.approx(2 * table.loc["worse", "mcnemar_p"])
    assert table.loc["same", "mcnemar_p_holm"] == table.loc["same", "bootstrap_p_holm"] == 1
    assert (table["accuracy"] - table["reference_accuracy"]).to_list() == pytest.approx(table["difference"].to_list())


def test_compare_with_nothing():
    table = resampling.compare(Y, {"a": PREDICTED}, "a", resampling.Resamples(Y, 100, 0.95, 0))
    assert len(table) == 0 and "mcnemar_p_holm" in table


def test_sums_count_a_patient_as_often_as_it_was_drawn():
    resamples = resampling.Resamples(["a", "b", "a"], 200, 0.95, 0)
    counts = resamples.sums(np.eye(3))
    assert (counts[:, 0] == counts[:, 2]).all() and set(counts[:, :2].sum(axis=1)) == {2}
    assert resamples.sums([1, 10, 100]) == pytest.approx(counts @ [1, 10, 100])


@pytest.mark.parametrize(
    ("a", "b", "low", "high"),
    [
        # Newcombe 1998, table II, method 10.
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
    ],
)
def test_the_difference_of_two_shares_is_newcombes(a, b, low, high):
    difference = resampling.apart(resampling.share(*a, 0.95), resampling.share(*b, 0.95))
    assert difference == pytest.approx((a[0] / a[1] - b[0] / b[1], low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("ours", "other", "word"),
    [
        ((0.9, 0.85, 0.95), (0.7, 0.6, 0.8), "higher"),
        ((0.7, 0.6, 0.8), (0.9, 0.85, 0.95), "lower"),
        # Intervals overlap and yet the difference, 0.2, exceeds its lower half-width, hypot(0.1, 0.15) = 0.18.
        ((0.9, 0.8, 0.95), (0.7, 0.6, 0.85), "higher"),
        # The same with a half-width of hypot(0.15, 0.15) = 0.21.
        ((0.9, 0.75, 0.95), (0.7, 0.6, 0.85), "cannot be told apart"),
        # A given number has no width of its own.
        ((0.1, 0.05, 0.2), (0, 0, 0), "higher"),
        ((0.1, -0.05, 0.2), (0, 0, 0), "cannot be told apart"),
        ((-0.1, -0.2, -0.05), (0, 0, 0), "lower"),
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "cannot be told apart"),
    ],
)
def test_a_verdict_compares_two_uncertain_numbers(ours, other, word):
    assert resampling.verdict(ours, other) == word


def test_a_verdict_on_counts():
    # 609 of 613 is the paper's number at a fifth held out: 4 wrong against 9 cannot be told apart, against 20 can.
    paper = resampling.share(609, 613, 0.95)
    assert resampling.verdict(resampling.share(604, 613, 0.95), paper) == "cannot be told apart"
    assert resampling.verdict(resampling.share(593, 613, 0.95), paper) == "lower"
