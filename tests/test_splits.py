"""Splits: whole, disjoint, stratified, the same every time; and the report says what crosses."""

import numpy as np
import pandas as pd
import pytest

from btlib import CLASSES, NO_TUMOR, DataError
from btlib.data import manifest, splits
from btlib.params import Split

SPLIT = Split(test_fraction=0.2, validation_fraction=0.1, folds=5)


def slices(patients=60, each=4, suffixed=True):
    rows = []
    for p in range(patients):
        name = f"P{p - 1:03d}B" if suffixed and p % 10 == 1 else f"P{p:03d}"
        for s in range(each):
            rows.append(
                {
                    "image_id": f"{p}-{s}",
                    "path": f"{p}-{s}.mat",
                    "label": CLASSES[p % 3],
                    "patient_id": name,
                    "plane": "axial",
                    "width": 8,
                    "height": 8,
                    "mask_area": 4,
                    "sha256": f"{p}{s}",
                    "part": "",
                }
            )
    return manifest.make(rows, "here")


AUTHOR = pd.Series({f"{p}-{s}": 1 + p // 12 for p in range(60) for s in range(4)})


@pytest.mark.parametrize(
    "protocol", ["image_holdout", "patient_holdout", "group_holdout", "group_folds", "author_folds"]
)
def test_roles_are_whole_repeatable_and_keep_units_together(protocol):
    table = slices()
    one = splits.make(table, protocol, 0, 3, SPLIT, AUTHOR)
    assert one.equals(splits.make(table, protocol, 0, 3, SPLIT, AUTHOR))
    assert list(one["image_id"]) == list(table["image_id"])
    assert set(one["role"]) == set(splits.ROLES)
    unit = table[splits.UNIT[protocol.split("_")[0]]]
    assert (one["role"].groupby(unit.to_numpy()).nunique() == 1).all()


@pytest.mark.parametrize("protocol", ["image_folds", "patient_folds", "group_folds", "author_folds"])
def test_folds_test_every_slice_once(protocol):
    table = slices()
    tested = [splits.make(table, protocol, f, 0, SPLIT, AUTHOR).query("role == 'test'") for f in range(5)]
    assert sorted(pd.concat(tested)["image_id"]) == sorted(table["image_id"])


def test_a_hold_out_has_the_sizes_asked_for_and_every_class():
    table = slices(150)
    one = splits.make(table, "image_holdout", 0, 0, SPLIT).merge(table, on="image_id")
    share = one["role"].value_counts(normalize=True)
    assert share["test"] == pytest.approx(0.2, abs=0.01)
    assert share["validation"] == pytest.approx(0.1, abs=0.01)
    by_class = one[one["role"] == "test"]["label"].value_counts(normalize=True)
    assert np.allclose(by_class, 1 / 3, atol=0.02)


def test_another_seed_gives_another_split():
    table = slices()
    a, b = (splits.make(table, "group_holdout", 0, s, SPLIT)["role"] for s in (0, 1))
    assert (a != b).any()


def test_author_folds_follow_the_authors_numbers():
    one = splits.make(slices(), "author_folds", 2, 0, SPLIT, AUTHOR)
    tested = one[one["role"] == "test"]["image_id"]
    assert set(tested) == set(AUTHOR[AUTHOR == 3].index)


def test_slices_without_a_tumour_take_no_part():
    table = slices()
    table.loc[:3, "label"] = NO_TUMOR
    assert len(splits.make(table, "image_holdout", 0, 0, SPLIT)) == len(table) - 4


def test_the_report_counts_what_crosses():
    table = slices(3, 4, suffixed=False)
    roles = ["train"] * 4 + ["train", "test", "test", "validation"] + ["test"] * 4
    counts = splits.report(table, pd.DataFrame({"image_id": table["image_id"], "role": roles}))
    assert counts["n_train"] == 5 and counts["n_validation"] == 1 and counts["n_test"] == 6
    assert counts["patients_crossing"] == 1 and counts["slices_of_crossing_patients"] == 2


@pytest.mark.parametrize(
    ("protocol", "fold", "author", "told"),
    [
        ("group_holdout", 1, None, "fold 1 does not exist"),
        ("author_folds", 5, AUTHOR, "allowed: 0 to 4"),
        ("author_folds", 0, None, r"cvind\.mat"),
    ],
)
def test_what_cannot_be_split_is_said(protocol, fold, author, told):
    with pytest.raises(DataError, match=told):
        splits.make(slices(), protocol, fold, 0, SPLIT, author)


def test_a_class_with_too_few_patients_is_named():
    with pytest.raises(DataError, match="pituitary has 4 patients; needs 5"):
        splits.make(slices(14, 4, suffixed=False), "patient_folds", 0, 0, SPLIT)
