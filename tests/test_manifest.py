"""The manifest: what a slice is, and what a data set is."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from btlib import DataError
from btlib.data import manifest

SQUARE = np.array([[0, 1], [2, 300]])
ROW = {
    "image_id": "1",
    "path": "a/1.mat",
    "label": "glioma",
    "patient_id": "MR040240B",
    "plane": "axial",
    "width": 2,
    "height": 2,
    "mask_area": 1,
    "sha256": "0" * 64,
    "part": "",
}


def test_identity_is_that_of_size_values_and_mask():
    plain = b"2 x 2 <i2" + bytes([0, 0, 1, 0, 2, 0, 44, 1])  # 300 = 44 + 1 * 256
    assert manifest.identity(SQUARE, None) == hashlib.sha256(plain).hexdigest()
    mask = np.array([[True, False], [False, True]])
    assert manifest.identity(SQUARE, mask) == hashlib.sha256(plain + bytes([0b10010000])).hexdigest()
    assert manifest.identity(SQUARE, mask & False) == manifest.identity(SQUARE, None)


@pytest.mark.parametrize("kind", ["i2", "u2", ">i4", "u8", "f4", ">f8"])
def test_identity_knows_no_dtype_and_no_order_in_memory(kind):
    for array in (SQUARE.astype(kind), np.asfortranarray(SQUARE.astype(kind))):
        assert manifest.identity(array, None) == manifest.identity(SQUARE, None)


@pytest.mark.parametrize(
    "other",
    [SQUARE.T, SQUARE.reshape(1, 4), SQUARE + 1, SQUARE * 2**20, SQUARE * 2**40, SQUARE + 0.5, SQUARE * 1e300],
)
def test_other_values_or_another_shape_are_another_slice(other):
    assert manifest.identity(other, None) != manifest.identity(SQUARE, None)


def test_zero_has_no_sign():
    assert manifest.identity(np.array([[0.0, 0.5]]), None) == manifest.identity(np.array([[-0.0, 0.5]]), None)


@pytest.mark.parametrize(
    ("column", "value"),
    [("image_id", "2"), ("label", "pituitary"), ("patient_id", "MR040240"), ("sha256", "1" * 64), ("part", "test")],
)
def test_fingerprint_follows_pixels_label_patient_and_part(column, value):
    before = manifest.fingerprint(manifest.make([ROW], "folder"))
    assert manifest.fingerprint(manifest.make([ROW | {column: value}], "folder")) != before
    assert manifest.fingerprint(manifest.make([ROW | {"path": "b.mat", "plane": "coronal"}], "folder")) == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"label": "Glioma tumor"}, r"a/1\.mat: label is 'Glioma tumor'; allowed: small letters"),
        ({"plane": "oblique"}, "plane is 'oblique'; allowed: axial"),
        ({"part": "Training"}, "part is 'Training'; allowed: empty, train, validation, test"),
    ],
)
def test_unknown_words_are_refused_with_those_that_are_known(changes, told):
    with pytest.raises(DataError, match=told):
        manifest.make([ROW | changes], "folder")


def test_two_slices_of_one_name_and_no_slices_are_refused():
    with pytest.raises(DataError, match="image_id '1' stands for more than one slice"):
        manifest.make([ROW, ROW | {"path": "b/1.mat"}], "folder")
    with pytest.raises(DataError, match="folder: no slices"):
        manifest.make([], "folder")


def test_columns_come_in_one_order():
    table = manifest.make([dict(reversed(ROW.items()))], "folder")
    assert isinstance(table, pd.DataFrame) and tuple(table.columns) == manifest.COLUMNS
    assert table["patient_group"].tolist() == ["MR040240"]


def test_what_was_left_out_and_passed_over_is_told():
    table = manifest.make([ROW], "folder")
    table.attrs |= {"skipped": [("2.mat", "f/2.mat: is empty")], "passed_over": ["Thumbs.db", "a.zip", "b.zip"]}
    assert manifest.in_words(table, most=2) == (
        "1 slices are read, 1 left out because they cannot be read. f/2.mat: is empty. "
        "Files and folders passed over, being no slices: 3: Thumbs.db, a.zip and 1 more."
    )
    table.attrs |= {"skipped": [], "passed_over": []}
    assert manifest.in_words(table).endswith("being no slices: 0.")
