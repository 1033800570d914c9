"""Splits: whole, disjoint, stratified, the same every time; and the report says what crosses."""

import numpy as np
import pandas as pd
import pytest

from btlib import DataError
from btlib.data import manifest, splits
from btlib.params import Split

CLASSES = ("meningioma", "glioma", "pituitary")
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
    unit = table[splits.rule(protocol).column]
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


@pytest.mark.parametrize("asked", [0.05, 0.1, 0.15, 0.25, 0.3, 0.35, 0.4, 0.45, 0.6, 0.85])
def test_any_share_that_is_asked_for_is_tested_within_two_points(asked):
    split = Split(test_fraction=asked, validation_fraction=0, folds=5)
    role = splits.make(slices(150), "image_holdout", 0, 0, split)["role"]
    assert (role == "test").mean() == pytest.approx(asked, abs=0.02)


def test_another_seed_gives_another_split():
    table = slices()
    a, b = (splits.make(table, "group_holdout", 0, s, SPLIT)["role"] for s in (0, 1))
    assert (a != b).any()


def test_author_folds_follow_the_authors_numbers():
    one = splits.make(slices(), "author_folds", 2, 0, SPLIT, AUTHOR)
    tested = one[one["role"] == "test"]["image_id"]
    assert set(tested) == set(AUTHOR[AUTHOR == 3].index)


def test_every_slice_given_takes_part_whatever_its_class():
    table = slices()
    table.loc[table["label"] == "glioma", "label"] = "no_tumor"
    assert set(splits.make(table, "patient_holdout", 0, 0, SPLIT)["image_id"]) == set(table["image_id"])


WHOLE = SPLIT.model_copy(update={"validation_fraction": 0.0})


@pytest.mark.parametrize("protocol", ["image_holdout", "group_folds", "author_folds", "published"])
def test_without_validation_slices_all_but_the_test_part_trains(protocol):
    table = slices().assign(part=["train", "train", "validation", "test"] * 60)
    tested = splits.make(table, protocol, 0, 3, SPLIT, AUTHOR)["role"] == "test"
    whole = splits.make(table, protocol, 0, 3, WHOLE, AUTHOR)
    assert whole["role"].tolist() == ["test" if row else "train" for row in tested]


def test_the_published_part_is_tested():
    table = slices().assign(part=["train", "test", "train", "train"] * 60)
    roles = splits.make(table, "published", 0, 0, SPLIT)["role"]
    assert (roles == "test").tolist() == [False, True, False, False] * 60
    assert (roles == "validation").sum() == pytest.approx(0.1 * 240, abs=2)
    with pytest.raises(DataError, match="published: fold 1 does not exist"):
        splits.make(table, "published", 1, 0, SPLIT)


def test_the_publishers_validation_slices_are_taken():
    table = slices().assign(part=["train", "validation", "test", "train"] * 60)
    roles = splits.make(table, "published", 0, 0, SPLIT)["role"]
    assert roles.tolist() == ["train", "validation", "test", "train"] * 60


@pytest.mark.parametrize("protocol", ["sha256_holdout", "patient_group_folds"])
def test_any_column_can_be_kept_together(protocol):
    table = slices().assign(sha256=[f"{p % 30}" for p in range(60) for _ in range(4)])
    roles = splits.make(table, protocol, 0, 0, SPLIT)["role"]
    column = protocol.rpartition("_")[0]
    assert (roles.groupby(table[column]).nunique() == 1).all() and set(roles) == set(splits.ROLES)
    assert len(splits.folds_of(protocol, SPLIT)) == (1 if protocol.endswith("holdout") else 5)


def test_a_protocol_is_one_row(monkeypatch):
    monkeypatch.setitem(splits.PROTOCOLS, "twins_folds", splits.Protocol("patient_group", "folds", "twins apart"))
    table = slices()
    assert splits.make(table, "twins_folds", 1, 0, SPLIT).equals(splits.make(table, "group_folds", 1, 0, SPLIT))
    splits.check(table, "twins_folds", CLASSES)


@pytest.mark.parametrize("protocol", ["_holdout", "patient", "holdout", "image_holdouts"])
def test_a_protocol_that_is_none_is_refused_with_those_there_are(protocol):
    with pytest.raises(
        DataError, match=rf"protocol: got '{protocol}'; allowed: image_holdout, .*published, and COLUMN"
    ):
        splits.rule(protocol)


def folders_of_pictures():
    table = slices()
    return table.assign(patient_id=table["path"], patient_group=table["path"], mask_area=0)


@pytest.mark.parametrize(
    ("table", "protocol", "lack"),
    [
        (folders_of_pictures(), "patient_holdout", "patient ids for 240 of 240 slices"),
        (folders_of_pictures(), "group_folds", "patient ids for 240 of 240 slices"),
        (folders_of_pictures(), "patient_group_folds", "patient ids for 240 of 240 slices"),
        (folders_of_pictures(), "author_folds", r"author's folds: there is no cvind\.mat"),
        (folders_of_pictures(), "published", "published part for 240 of 240 slices"),
        (folders_of_pictures().assign(part="train"), "published", "published test part"),
        (folders_of_pictures().assign(part=["test", ""] * 120), "published", "published part for 120 of 240 slices"),
    ],
)
def test_what_data_cannot_carry_is_refused_by_name(table, protocol, lack):
    with pytest.raises(DataError, match=rf"^{protocol}: the data have no {lack}"):
        splits.check(table, protocol, CLASSES)
    with pytest.raises(DataError, match=rf"^{protocol}: the data have no {lack}"):
        splits.make(table, protocol, 0, 0, SPLIT)


def test_the_refusal_lists_what_the_data_can_carry():
    with pytest.raises(DataError, match=r"protocols that they can carry: image_holdout, image_folds$"):
        splits.check(folders_of_pictures(), "patient_folds", CLASSES)
    parts = folders_of_pictures().assign(part=["train", "test"] * 120)
    with pytest.raises(DataError, match=r"can carry: image_holdout, image_folds, published$"):
        splits.check(parts, "patient_folds", CLASSES)
    splits.check(parts, "published", CLASSES)
    splits.check(slices(), "author_folds", CLASSES, AUTHOR)
    with pytest.raises(DataError, match=r"author's fold for 4 of 240 slices; .* group_folds$"):
        splits.check(slices(), "author_folds", CLASSES, AUTHOR[4:])


def test_one_slice_without_a_patient_is_enough_to_refuse():
    table = slices()
    table.loc[0, "patient_id"] = table.loc[0, "path"]
    with pytest.raises(DataError, match="patient ids for 1 of 240 slices"):
        splits.check(table, "patient_holdout", CLASSES)
    splits.check(table, "image_holdout", CLASSES)


def test_a_class_and_masks_that_are_not_there_are_named():
    two = slices().query("label != 'pituitary'")
    with pytest.raises(
        DataError, match=r"classes: the data have no slices of pituitary; labels of the data: .*glioma \(80\)"
    ):
        splits.check(two, "image_holdout", CLASSES)
    splits.check(two, "image_holdout", ["glioma", "meningioma"])
    with pytest.raises(DataError, match="no tumour masks, which the recipe's cam_loss or erase"):
        splits.check(folders_of_pictures(), "image_holdout", CLASSES, guided=True)
    splits.check(slices(), "image_holdout", CLASSES, guided=True)


def test_a_further_column_may_be_kept_together_and_must_be_there_and_full():
    table = slices().assign(scanner=[f"s{p % 30}" for p in range(60) for _ in range(4)])
    splits.check(table, "scanner_folds", CLASSES)
    roles = splits.make(table, "scanner_folds", 0, 0, SPLIT)["role"]
    assert (roles.groupby(table["scanner"]).nunique() == 1).all()
    with pytest.raises(
        DataError, match=r"scanner_folds: the data have no column scanner: theirs are image_id, .*part;"
    ):
        splits.check(slices(), "scanner_folds", CLASSES)
    table.loc[:2, "scanner"] = ""
    with pytest.raises(DataError, match="scanner_folds: the data have no scanner for 3 of 240 slices"):
        splits.make(table, "scanner_folds", 0, 0, SPLIT)


def test_groups_of_copies_serve_where_patients_are_not_known():
    alone = folders_of_pictures()
    table = alone.assign(patient_group=[f"copies of {p // 2}" for p in range(len(alone))])
    splits.check(table, "group_folds", CLASSES)
    with pytest.raises(DataError, match="patient_folds: the data have no patient ids for 240 of 240 slices"):
        splits.check(table, "patient_folds", CLASSES)
    roles = ["train", "test"] + ["train"] * 119 + ["test"] * 119
    counts = splits.report(table, pd.DataFrame({"image_id": table["image_id"], "role": roles}))
    assert counts["groups_crossing"] == 2 and np.isnan(counts["patients_crossing"])


def test_folds_of_other_slices_break_the_promise_and_stop():
    other = pd.Series(AUTHOR.to_numpy(), index=AUTHOR.sample(frac=1, random_state=0).index)
    with pytest.raises(DataError, match=r"author_folds: promises that patients stay together, and .* of 60 do not: P"):
        splits.make(slices(), "author_folds", 0, 0, SPLIT, other)


def test_an_empty_part_stops():
    with pytest.raises(DataError, match="author_folds: of 240 slices the test part gets none"):
        splits.make(slices(), "author_folds", 0, 0, SPLIT, AUTHOR.replace(1, 2))
    with pytest.raises(DataError, match="author_folds: of 240 slices the train part gets none"):
        splits.make(slices(), "author_folds", 0, 0, SPLIT, AUTHOR * 0 + 1)


def test_the_report_counts_what_crosses():
    table = slices(3, 4, suffixed=False)
    roles = ["train"] * 4 + ["train", "test", "test", "validation"] + ["test"] * 4
    counts = splits.report(table, pd.DataFrame({"image_id": table["image_id"], "role": roles}))
    assert counts["n_train"] == 5 and counts["n_validation"] == 1 and counts["n_test"] == 6
    assert counts["patients_crossing"] == 1 and counts["slices_of_crossing_patients"] == 2
    unnamed = splits.report(
        table.assign(patient_id=table["path"]), pd.DataFrame({"image_id": table["image_id"], "role": roles})
    )
    assert unnamed["n_test"] == 6 and np.isnan(unnamed["patients_crossing"])


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
    with pytest.raises(DataError, match=r"patient_folds, split\.folds: pituitary has 4 patients; needs 5"):
        splits.make(slices(14, 4, suffixed=False), "patient_folds", 0, 0, SPLIT)
