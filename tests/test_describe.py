"""Notebooks 01 and 02's tables, on a handful of slices counted by hand."""

import numpy as np
import pandas as pd
import pytest

from btlib.study import describe, sentences

ROWS = [
    # image_id, label, patient_id, group, plane, side, mask, area, fold
    ("1", "meningioma", "7", "7", "axial", 512, 9, 1.0, 1),
    ("2", "meningioma", "7", "7", "axial", 512, 9, 3.0, 1),
    ("3", "meningioma", "7", "7", "coronal", 256, 9, 2.0, 1),
    ("4", "glioma", "MR1", "MR1", "axial", 512, 9, 5.0, 2),
    ("5", "glioma", "MR1B", "MR1", "sagittal", 512, 0, np.nan, 3),
]


@pytest.fixture
def table():
    columns = [
        "image_id",
        "label",
        "patient_id",
        "patient_group",
        "plane",
        "width",
        "mask_area",
        "mask_area_percent",
        "author_fold",
    ]
    made = pd.DataFrame(ROWS, columns=columns)
    return made.assign(height=made["width"])


def test_summary_has_a_row_a_class_and_one_for_all(table):
    summary = describe.summary(table, ["meningioma", "glioma", "pituitary"]).set_index("label")
    assert summary.index.tolist() == ["meningioma", "glioma", "all"]
    assert summary["slices"].tolist() == [3, 2, 5]
    assert summary["patients"].tolist() == [1, 2, 3]
    assert summary["patient_groups"].tolist() == [1, 1, 2]
    assert summary[["axial", "coronal", "sagittal", "unknown"]].values.tolist() == [
        [2, 1, 0, 0],
        [1, 0, 1, 0],
        [3, 1, 1, 0],
    ]
    assert summary["mask_area_percent_median"].tolist() == [2.0, 5.0, 2.5]
    assert summary["with_mask"].tolist() == [3, 1, 4]
    assert summary["commonest_size"].tolist() == ["512 x 512"] * 3
    assert summary["of_commonest_size"].tolist() == [2, 2, 4]


def test_slices_that_bear_their_own_name_as_patient_are_of_no_patient_that_is_known(table):
    some = table.assign(patient_id=["1", "2", "3", "MR1", "MR1"])  # as image_id, but for the last two
    whole = describe.summary(some, ["meningioma", "glioma"]).set_index("label").loc["all"]
    assert (whole["slices"], whole["named"], whole["patients"]) == (5, 2, 1)
    words = sentences.data_in_words(describe.summary(some, ["meningioma", "glioma"]), describe.groups(some))
    assert "2 of them are of 1 patients that are named" in words and "- 2.0 slices a patient" in words


def test_groups_counts_what_the_authors_folds_divide(table):
    counts = describe.groups(table).set_index("what")["count"]
    assert counts["patient ids"] == 3 and counts["groups of ids"] == 2 and counts["groups of more than one id"] == 1
    assert counts["patient ids in more than one of the author's folds"] == 0
    assert counts["groups in more than one of the author's folds"] == 1
    assert len(describe.groups(table.drop(columns="author_fold"))) == 4


def test_examples_are_the_median_tumour_of_each_class_and_plane(table):
    more = pd.concat([table, table.iloc[[0]].assign(image_id="9", mask_area_percent=2.5)])
    chosen = describe.examples(more)
    assert sorted(chosen["image_id"]) == ["3", "4", "9"] and chosen["label"].is_monotonic_increasing


def test_examples_of_slices_without_masks_are_those_in_the_middle_by_name(table):
    bare = table.assign(mask_area=0, mask_area_percent=np.nan, label="a", plane="unknown")
    assert describe.examples(bare)["image_id"].tolist() == [sorted(bare["image_id"])[len(bare) // 2]]


def test_one_of_each_takes_the_middle_slice_of_a_class(table):
    assert describe.one_of_each(table, ["meningioma", "glioma", "pituitary"]) == [1, 3]


def test_changes_measure_each_draw():
    images = np.full((1, 2, 2), 10, np.uint8)
    changed = np.stack([images.astype(np.float32), images + 4.0], axis=1)
    found = describe.changes(images, changed, ["glioma"])
    assert found["difference"].tolist() == [0.0, 4.0] and found["grey_after"].tolist() == [10.0, 14.0]


def test_drawn_keeps_the_pictures_apart():
    images = np.stack([np.zeros((4, 4)), np.full((4, 4), 9)]).astype(np.uint8)
    changed = describe.drawn(lambda x, training: x + training, images, 3)
    assert changed.shape == (2, 3, 4, 4)
    assert (changed[0] == 1).all() and (changed[1] == 10).all()


def test_words_come_from_the_tables(table):
    words = sentences.data_in_words(
        describe.summary(table, ["meningioma", "glioma", "pituitary"]), describe.groups(table)
    )
    assert "5 slices (3 meningioma, 2 glioma); 5 of them are of 3 patients that are named" in words
    assert "1 of these groups lie in more than one of the author's folds" in words
    split = pd.DataFrame(
        {"protocol": ["patient_folds"] * 2, "n_test": [10, 30], "slices_of_crossing_patients": [10, 0]}
    )
    words = sentences.splits_in_words(split.assign(test_near_identical=[2, 2]))
    assert (
        "Patients apart, folds: 25.0 % of test slices are of a patient that the network has seen, 10.0 % have" in words
    )
