from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from btlib import DataError, params
from btlib.data import datasets
from btlib.figures import external as figures
from btlib.fitting import runs
from btlib.study import external

CLASSES = ("meningioma", "glioma", "pituitary")
PAIRS = pd.DataFrame(
    [("a", "train1", 0.99), ("a", "test1", 0.95), ("b", "test1", 0.99), ("d", "train2", 0.91)],
    columns=["image_id_a", "image_id_b", "score"],
).assign(set="far")
LABELS = {"a": "glioma", "b": "meningioma", "c": "glioma", "d": "no_tumor", "e": "no_tumor", "f": "pituitary"}


class Run:
    """A model that is sure of a slice's brightness: 0, 1 and 2 are the three classes."""

    def model(self):
        return SimpleNamespace(output_shape=(None, 3), predict_on_batch=lambda batch: 5 * np.eye(3)[batch[:, 0, 0, 0]])

    def predictions(self, role=None):
        return pd.DataFrame({"image_id": ["test1", "validation1"], "role": ["test", "validation"]})


@pytest.fixture
def study():
    return params.load("quick")


@pytest.fixture
def other():
    # b, f and d are called what they are not.
    brightness = [1, 1, 1, 0, 2, 0]
    table = pd.DataFrame({"image_id": LABELS.keys(), "label": LABELS.values()})
    table = table.assign(patient_id=table["image_id"], width=[10, 20, 30, 40, 50, 60], height=10)
    images = np.ones((6, 32, 32), np.uint8) * np.array(brightness, np.uint8)[:, None, None]
    return SimpleNamespace(manifest=table, images=images)


@pytest.fixture
def predicted(study, other):
    return external.predictions(study, Run(), {"far": other}, PAIRS)


def test_a_slice_belongs_where_its_sources_do(predicted):
    # a has a source in training besides one held out; b only one held out; d is no tumour but copied all the same.
    assert dict(zip(predicted["image_id"], predicted["part"], strict=True)) == {
        "a": "overlapping",
        "b": "held_out_copies",
        "c": "clean",
        "d": "overlapping",
        "e": "clean",
        "f": "clean",
    }


def test_rows_stand_together_and_leave_slices_without_tumour_out(study, predicted):
    table = external.scores(study, predicted).set_index("slices")
    assert table["n"].to_dict() == {"all": 4, "overlapping": 1, "held_out_copies": 1, "clean": 2}
    assert table["accuracy"].to_dict() == {"all": 0.5, "overlapping": 1.0, "held_out_copies": 0.0, "clean": 0.5}
    assert table.loc["clean", ["recall_glioma", "recall_pituitary"]].tolist() == [1.0, 0.0]
    assert np.isnan(table.loc["clean", "recall_meningioma"])
    assert (table["accuracy_low"] <= table["accuracy"]).all() and (table["accuracy"] <= table["accuracy_high"]).all()


def test_a_part_without_slices_keeps_its_row(study, predicted):
    table = external.scores(study, predicted[predicted["part"] == "clean"]).set_index("slices")
    assert table["n"].tolist() == [2, 0, 0, 2]
    assert table.loc["overlapping"].filter(like="accuracy").isna().all()


def test_confidence_is_what_the_logits_say(predicted):
    sets = {"clean": predicted[predicted["image_id"].isin(["c", "f"])], "none": predicted[:0]}
    table = external.calibration(sets, temperature=5.0).set_index("scaling")
    # One of two right; logits 5, 0, 0 and, at temperature 5, 1, 0, 0.
    sure, scaled = np.exp(5) / (np.exp(5) + 2), np.exp(1) / (np.exp(1) + 2)
    assert table["confidence"].tolist() == pytest.approx([sure, scaled])
    assert table["ece"].tolist() == pytest.approx([sure - 0.5, scaled - 0.5])
    assert table["accuracy"].tolist() == [0.5, 0.5]


def test_selective_answers_all_in_its_last_row(predicted):
    table = external.selective({"all": external.parts(predicted)["all"]}, 1.0, 0.95)
    assert table.iloc[-1][["coverage", "accuracy"]].tolist() == [1.0, 0.5]
    assert list(external.selective({"all": predicted[:0]}, 1.0, 0.95).columns) == list(table.columns)


def test_unknown_slices_are_the_clean_ones_without_tumour(study):
    def table(label, part, logits):
        frame = pd.DataFrame({"label": label, "part": part}, index=range(len(logits)))
        frame["patient_id"] = [f"{label} {k}" for k in range(len(logits))]
        return frame.assign(**dict(zip(runs.logits_of(CLASSES), np.transpose(logits), strict=True)))

    known = table("glioma", "clean", [[5.0, 0, 0], [0, 1.0, 0]])
    strange = table("no_tumor", "clean", [[0, 0, 3.0]])
    copied = table("no_tumor", "overlapping", [[9.0, 0, 0]])
    found = external.unknown(study, known[:0], pd.concat([known, strange, copied]).assign(set="far"))
    # One known slice is surer than the unknown one and one is not, by all three scores.
    assert found["auroc"].tolist() == [0.5, 0.5, 0.5]
    assert found[["low", "high"]].to_numpy().tolist() == [[0, 1]] * 3
    assert found[["set", "known", "n_known", "n_unknown"]].drop_duplicates().to_numpy().tolist() == [
        ["far", "clean", 2, 1]
    ]


class SurerOf(Run):
    """The same, and the surer, the brighter the slice is (`sign` 1), or the darker (-1)."""

    def __init__(self, sign):
        self.sign = sign

    def model(self):
        def predict(batch):
            grey = batch[:, 0, 0, 0]
            return np.eye(3)[grey] * (5 + self.sign * grey[:, None].astype(float))

        return SimpleNamespace(output_shape=(None, 3), predict_on_batch=predict)


def test_networks_are_asked_about_the_slices_that_are_no_copies(study, other):
    whole = datasets.Dataset(other.manifest, "", None, other.images, None)
    fitted = {"brighter": SurerOf(1), "darker": SurerOf(-1)}
    table = external.networks(study, fitted, {"far": whole, "new": whole}, PAIRS.assign(set="far"))
    assert list(zip(table["set"], table["network"], strict=True)) == [
        (name, network) for name in ("far", "new") for network in fitted
    ]
    # c (glioma, right, grey 1) and f (pituitary, called a meningioma, grey 0) have a class; e (grey 2) has none.
    assert table.loc[0, ["n", "accuracy", "n_unknown", "auroc"]].tolist() == [2, 0.5, 1, 0]
    assert table.loc[1, ["auroc", "auroc_low", "auroc_high"]].tolist() == [1, 1, 1]
    sure = [np.exp(x) / (np.exp(x) + 2) for x in (6, 5, 7)]
    assert table.loc[0, ["confidence", "confidence_unknown"]].tolist() == pytest.approx([np.mean(sure[:2]), sure[2]])
    assert table.loc[2, ["n", "n_unknown"]].tolist() == [4, 2]


def test_networks_have_no_number_where_there_is_no_slice(study, other):
    def part(rows):
        return datasets.Dataset(other.manifest.iloc[rows], "", None, other.images[rows], None)

    sets = {"known": part([2, 5]), "copied": part([0, 1])}
    table = external.networks(study, {"own": Run()}, sets, PAIRS.assign(set="copied")).set_index("set")
    assert table["n"].to_dict() == {"copied": 0, "known": 2}
    assert table[["auroc", "confidence_unknown"]].isna().all(axis=None) and np.isnan(table.loc["copied", "accuracy"])
    assert external.networks(study, {"own": Run()}, {}, PAIRS).empty


def test_measures_of_a_slice_that_is_half_dark(other):
    picture = np.zeros((1, 4, 4), np.uint8)
    picture[0, :, :2] = 100
    data = SimpleNamespace(manifest=other.manifest[:1], images=picture)
    row = external.measure(
        {"own": data, "none": SimpleNamespace(manifest=other.manifest[:0], images=picture[:0])}
    ).iloc[0]
    assert row[["set", "width", "height", "mean", "spread", "air"]].tolist() == ["own", 10, 10, 50, 50, 0.5]


def test_shift_summarises_each_set(other):
    table = external.shift(external.measure({"own": other}))
    width = table[table["measure"] == "width"].iloc[0]
    assert width[["set", "n", "mean", "median"]].tolist() == ["own", 6, 35, 35]


def test_by_eye_counts_only_slices_that_were_looked_at(tmp_path, other, monkeypatch):
    study = params.load("figshare")
    path = tmp_path / "checked.csv"
    seen = [("a", "copy"), ("b", "no copy"), ("c", "copy"), ("f", "no copy"), ("elsewhere", "copy")]
    pd.DataFrame(seen, columns=["external", "verdict"]).assign(sample="", source="").to_csv(path, index=False)
    monkeypatch.setattr(external, "CHECKED", path)
    table = external.checked(study, {"far": other}, PAIRS).set_index("measure")
    # Claimed are a and b, of which a is a copy; copies are a and c, of which a is claimed.
    assert table[["value", "n"]].to_numpy().tolist() == [[0.5, 2], [0.5, 2]]


def test_the_pairs_looked_at_are_those_of_the_real_sets(study, other):
    seen = pd.read_csv(external.CHECKED, dtype=str, keep_default_na=False)
    assert set(seen["verdict"]) == {"copy", "no copy"}
    assert not seen["external"].duplicated().any()
    assert ((seen["source"] != "") == (seen["verdict"] == "copy")).all()
    assert external.checked(study, {"far": other}, PAIRS).empty


def test_examples_go_from_the_lowest_score_to_the_highest():
    chosen = external.examples(PAIRS, 2)
    assert chosen["score"].tolist() == [0.91, 0.99]
    assert external.examples(PAIRS[:0]).empty


def test_a_study_without_external_set_has_tables_without_rows(study):
    study = study.model_copy(update={"external": {}})
    assert external.load(study) == {}
    pairs = external.copies({}, None)
    predicted = external.predictions(study, Run(), {}, pairs)
    cross = external.together([external.scores(study, predicted)])
    assert cross.empty and list(cross.columns)[:5] == ["set", "slices", "augmentation", "n", "n_meningioma"]
    assert external.divided(predicted) == {}
    classes, ood = external.by_class(study, predicted), external.unknown(study, predicted, predicted)
    calibrated, eye = external.calibration({}, 1.0), external.checked(study, {}, pairs)
    assert classes.empty and ood.empty and calibrated.empty and eye.empty and external.examples(pairs).empty
    assert "names no external set" in external.in_words(study, cross, classes, calibrated, ood)


def test_each_class_has_its_copies_and_its_clean_slices(study, predicted):
    table = external.by_class(study, predicted).set_index(["set", "label", "slices"])
    counts = table.loc["far", ["n", "right"]].to_dict("index")
    assert counts["glioma", "all"] == {"n": 2, "right": 2} and counts["glioma", "copies"] == {"n": 1, "right": 1}
    assert counts["meningioma", "copies"] == {"n": 1, "right": 0} and counts["meningioma", "clean"]["n"] == 0
    assert np.isnan(table.loc[("far", "meningioma", "clean"), "recall"])
    assert table.loc[("far", "pituitary", "clean"), ["recall", "low"]].tolist() == [0, 0]


def test_words_say_what_the_tables_hold(study, predicted):
    cross, classes = external.scores(study, predicted), external.by_class(study, predicted)
    none = pd.DataFrame(columns=["slices", "scaling"])
    text = external.in_words(study, cross, classes, none, none[:0])
    assert "**far**: 2 of 4 slices (50.00 %) are copies" in text
    assert "; clean: accuracy 50.00 %" in text and text.count("\n- ") == 1
    assert "No clean slice shows meningioma:" in text


def test_two_sets_stand_in_one_table_each_with_its_own_copies(study, other):
    sets = {"far": other, "near": other}
    predicted = external.predictions(study, Run(), sets, PAIRS)
    table = external.scores(study, predicted).set_index(["set", "slices"])
    assert table["n"].unstack().loc["far"].to_dict() == {"all": 4, "overlapping": 1, "held_out_copies": 1, "clean": 2}
    assert table.loc[("near", "clean"), "n"] == 4 and table.loc[("near", "overlapping"), "n"] == 0
    assert list(external.divided(predicted))[2:5] == ["far, held out copies", "far, clean", "near, all"]


def test_a_set_that_is_not_there_is_passed_over_with_where_to_get_it_unless_required(home):
    study = params.load("figshare")
    assert external.load(study) == {}
    words = external.absent_in_words(study)
    assert words.count("Passed over") == 3
    assert "nickparvar: no such data folder; get it from Kaggle: masoudnickparvar" in words
    required = study.external["pmram"].model_copy(update={"required": True})
    with pytest.raises(DataError, match=r"external\.pmram: .*pmram: no such data folder; get it from Mendeley"):
        external.load(study.model_copy(update={"external": study.external | {"pmram": required}}))


def test_mirrored_slices_are_averaged(study, other):
    other.images[0, :, 16:] = 2
    sets = {"far": other, "again": other}
    plain = external.predictions(study, Run(), sets, PAIRS)
    both = external.mirrored(Run(), sets, plain)
    assert plain.loc[0, runs.logits_of(CLASSES)].tolist() == [0, 5, 0]
    for first in (0, len(other.manifest)):
        assert both.loc[first, runs.logits_of(CLASSES)].tolist() == [0, 2.5, 2.5]
    pd.testing.assert_frame_equal(both.iloc[:, :5], plain.iloc[:, :5])
    assert external.mirrored(Run(), {}, plain[:0]).empty


def test_the_figure_of_pairs_shows_both_slices_of_each(other):
    pairs = PAIRS[:2].assign(transform=["identity", "flip left-right"])
    drawn = figures.overlap_pairs(list(other.images[:2]), list(other.images[2:4]), pairs)
    shown = [axis.images[0].get_array()[0, 0] for axis in drawn.axes]
    assert shown == [1, 1, 1, 0]
    assert [a.get_title() for a in drawn.axes[:2]] == ["0.99\nidentity", "0.95\nflip left-\nright"]
    assert figures.overlap_pairs([], [], PAIRS[:0].assign(transform="")).get_suptitle() == "no copies found"


def test_the_figure_of_shift_has_a_line_for_each_set(other):
    measured = external.measure({"own": other, "external": other})
    drawn = figures.domain_shift(measured, external.MEASURES)
    assert [len(a.lines) for a in drawn.axes] == [2] * len(external.MEASURES)
    x = drawn.axes[0].lines[0].get_xdata()
    assert sorted(set(x[np.isfinite(x)])) == [10, 20, 30, 40, 50, 60]
