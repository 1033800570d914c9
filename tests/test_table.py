"""A CSV of slices: read rightly, or refused with line and file; and patients that a table names for class folders."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from btlib import DataError, ParamsError, params
from btlib.data import datasets, table
from btlib.data import manifest as manifests

HOW = params.Preprocessing(image_size=32, crop_to_head=False, low_percentile=0.5, high_percentile=99.5)
HEADER = "path,label,patient_id,mask,part,scanner"


def picture(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    """Two slices of 4 x 6 pixels, the first with a mask of two pixels."""
    for k in range(2):
        picture(tmp_path / "scans" / f"{k}.png", np.arange(24).reshape(4, 6) * 10 + k)
    mask = np.zeros((4, 6))
    mask[1, 2:4] = 255
    picture(tmp_path / "masks" / "0.png", mask)
    return tmp_path


def write(root, *lines, header=HEADER):
    (root / "slices.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return root / "slices.csv"


def data(path, **changes):
    given = {"source": "table", "path": str(path), "phantom": None, "labels": None, "unreadable": "error"}
    return params.Data(**(given | changes))


ONE = "scans/0.png,glioma,P1,masks/0.png,Training,a"
TWO = "scans/1.png,meningioma,,,test,b"


def test_a_table_gives_the_manifest_of_any_source_and_keeps_further_columns(root):
    slices = table.manifest(write(root, TWO, "", ONE))
    assert list(slices.columns) == [*manifests.COLUMNS, "mask", "scanner"]
    assert slices["image_id"].tolist() == ["scans/0.png", "scans/1.png"]
    first, second = slices.to_dict("records")
    expected = {"label": "glioma", "patient_id": "P1", "patient_group": "P1", "mask_area": 2, "part": "train"}
    expected |= {"width": 6, "height": 4, "plane": "unknown", "scanner": "a"}
    assert {key: first[key] for key in expected} == expected
    assert second["patient_id"] == second["path"] and second["mask_area"] == 0 and second["part"] == "test"
    assert manifests.unnamed(slices).tolist() == [False, True]


def test_slices_and_masks_are_read_where_the_table_says(root):
    path = write(root, ONE, TWO)
    image, mask = table.read(path, "scans/0.png")
    assert image[1, 2] == 80 and np.argwhere(mask).tolist() == [[1, 2], [1, 3]]
    assert table.read(path, "scans/1.png")[1] is None
    prepared = datasets.load(data(path), HOW)
    assert prepared.manifest["scanner"].tolist() == ["a", "b"]
    assert prepared.masks[0].any() and not prepared.masks[1].any()


def test_a_table_from_a_spreadsheet_with_a_mark_and_spaces_is_read(root):
    path = root / "slices.csv"
    path.write_bytes(b"\xef\xbb\xbfpath, label\r\nscans/0.png , glioma\r\n\r\n")
    assert table.manifest(path)["label"].tolist() == ["glioma"]


def test_the_order_of_the_rows_changes_nothing_and_a_further_column_does(root):
    one, two = (manifests.fingerprint(table.manifest(write(root, *lines))) for lines in ((ONE, TWO), (TWO, ONE)))
    assert one == two
    assert manifests.fingerprint(table.manifest(write(root, ONE, TWO[:-1] + "c"))) != one


def test_a_changed_mask_or_table_is_noticed(root, home):
    path = write(root, ONE, TWO)
    before = datasets.fingerprint(data(path))
    picture(root / "masks" / "0.png", np.eye(4, 6) * 255)
    after = datasets.fingerprint(data(path))
    write(root, ONE, TWO.replace("meningioma", "glioma"))
    assert len({before, after, datasets.fingerprint(data(path))}) == 3


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ((ONE, ONE.replace("P1", "P2")), "line 3: scans/0.png stands in line 2 too"),
        (
            (TWO.replace("meningioma", "Meningioma"),),
            "line 2: scans/1.png: label is 'Meningioma'; allowed: small letters",
        ),
        ((ONE, ",glioma,,,,"), "line 3: path is empty"),
        (("../1.png,glioma,,,,",), r"line 2: path is '\.\./1.png'; allowed: a path below"),
        (("/scans/1.png,glioma,,,,",), "line 2: path is '/scans/1.png'"),
        ((r"scans\1.png,glioma,,,,",), "line 2: path is .*with / between folders"),
        (("scans/9.png,glioma,,,,",), r"line 2: .*scans/9.png: cannot be read: No such file"),
        ((ONE.replace("masks/0.png", "masks/9.png"),), "line 2: .*masks/9.png: cannot be read"),
        ((ONE.replace("masks/0.png", "scans/1.png"),), r"line 2: .*scans/1.png: is a mask with the values 1, 11, 21"),
        ((ONE.replace("Training", "practice"),), "line 2: scans/0.png: part is 'practice'; allowed: empty, train"),
        ((ONE, "scans/1.png,glioma"), "line 3: has 2 cells; the header has 6"),
        (('scans/1.png,"glioma,,,,',), "line 2: cannot be read as CSV"),
        ((), "lists nothing"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_by_line_and_file(root, lines, told):
    path = write(root, *lines)
    with pytest.raises(DataError, match=rf"slices\.csv(, |: ){told}"):
        table.manifest(path)


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("path;label", r"line 1: has no column path or label; found 'path;label'"),
        ("file,label", "line 1: has no column path; found 'file', 'label'"),
        ("path,label,label", "line 1: column 'label'; allowed: each once"),
        ("path,label,my scanner", "line 1: column 'my scanner'; allowed: each once, letters"),
        ("path,label,sha256", "line 1: column 'sha256' is the reader's own"),
    ],
)
def test_a_header_that_cannot_be_used_is_named(root, header, told):
    row = ",".join(["scans/0.png", "glioma", "x"][: header.count(",") + 1])
    with pytest.raises(DataError, match=rf"slices\.csv, {told}"):
        table.manifest(write(root, row, header=header))


def test_a_mask_of_another_size_or_with_a_fringe_is_refused(root):
    picture(root / "masks" / "0.png", np.zeros((6, 4)))
    with pytest.raises(DataError, match=r"masks/0.png: is a mask of 4 x 6 pixels; its slice scans/0.png has 6 x 4"):
        table.manifest(write(root, ONE))
    picture(root / "masks" / "0.png", np.full((4, 6), 255))
    with pytest.raises(DataError, match="is a mask with the values 255; allowed: 0 outside the tumour"):
        table.manifest(write(root, ONE))


def test_unreadable_slices_are_skipped_where_that_is_asked_for(root):
    (root / "scans" / "1.png").write_bytes(b"no picture")
    slices = table.manifest(write(root, ONE, TWO), unreadable="skip")
    assert slices["image_id"].tolist() == ["scans/0.png"]
    (skipped, why), *_ = slices.attrs["skipped"]
    assert skipped == "scans/1.png" and "line 3" in why


def test_labels_may_be_mapped_and_a_strange_one_is_refused(root):
    path = write(root, "scans/0.png,G II,,,,", "scans/1.png,M,,,,")
    assert table.manifest(path, {"G II": "glioma", "M": "meningioma"})["label"].tolist() == ["glioma", "meningioma"]
    with pytest.raises(DataError, match=r"line 3: scans/1\.png: label is 'M'; mapped are G II"):
        table.manifest(path, {"G II": "glioma"})


def test_a_table_that_is_not_there_says_so(tmp_path, home):
    with pytest.raises(DataError, match=r"none\.csv: no such table; put it there, or change its path"):
        datasets.manifest(data(tmp_path / "none.csv"))


# Patients of class folders.


@pytest.fixture
def folders(tmp_path):
    for k in range(4):
        picture(tmp_path / "set" / ("glioma" if k < 2 else "notumor") / f"{k}.png", np.arange(24).reshape(4, 6) + k)
    return tmp_path


GIVEN = [
    ("glioma/0.png", "MR1", "MR1"),
    ("glioma/1.png", "MR1B", "MR1"),
    ("notumor/2.png", "", "notumor/2.png"),
    ("notumor/3.png", "", "notumor/2.png"),
]


def named(folders, rows=GIVEN, columns=("image", "patient", "group")):
    pd.DataFrame(rows, columns=columns).to_csv(folders / "patients.csv", index=False)
    labels = {"glioma": "glioma", "notumor": "no_tumor"}
    path, by = str(folders / "set"), str(folders / "patients.csv")
    return data(path, source="folders", labels=labels, patients=by)


def test_patients_are_joined_by_path_and_chains_of_copies_are_groups(folders, home):
    slices = datasets.manifest(named(folders))
    assert slices["patient_id"].tolist() == ["MR1", "MR1B", "notumor/2.png", "notumor/3.png"]
    assert slices["patient_group"].tolist() == ["MR1", "MR1", *["copies of notumor/2.png"] * 2]
    assert manifests.unnamed(slices).tolist() == [False, False, True, True]
    assert not manifests.unnamed(slices, "patient_group").any()


def test_another_group_is_another_data_set_and_a_changed_table_is_noticed(folders, home):
    before = datasets.fingerprint(named(folders))
    other = [*GIVEN[:3], ("notumor/3.png", "", "notumor/3.png")]
    assert datasets.fingerprint(named(folders, other)) != before
    plain = named(folders).model_copy(update={"patients": None})
    assert datasets.fingerprint(plain) not in (before, datasets.fingerprint(named(folders, other)))


@pytest.mark.parametrize(
    ("rows", "columns", "told"),
    [
        (GIVEN[:3], None, r"leaves over 1 slices that it does not list, such as notumor/3.png"),
        ([*GIVEN, ("x.png", "P", "P")], None, r"leaves over 1 images that are no slices of the data, such as x.png"),
        ([*GIVEN, GIVEN[0]], None, "lines 2 and 6: glioma/0.png stands in both"),
        ([*GIVEN[:3], ("notumor/3.png", "", "")], None, "line 5: notumor/3.png has neither patient nor group"),
        ([row[:2] for row in GIVEN], ("image", "patient"), "line 4: notumor/2.png has neither patient nor group"),
        (GIVEN, ("file", "patient", "group"), "line 1: has no column image"),
    ],
)
def test_a_join_that_leaves_anything_over_stops(folders, home, rows, columns, told):
    with pytest.raises(DataError, match=rf"patients\.csv(, |: ){told}"):
        datasets.manifest(named(folders, rows, columns or ("image", "patient", "group")))


def test_a_table_of_patients_that_is_not_there_is_missed_before_any_picture_is_read(folders, home, monkeypatch):
    given = named(folders).model_copy(update={"patients": str(folders / "none.csv")})
    monkeypatch.setattr(datasets, "_write_manifest", lambda *_: pytest.fail("pictures were read"))
    with pytest.raises(DataError, match=r"none\.csv: no such table of patients"):
        datasets.manifest(given)


def test_slices_that_were_skipped_may_stand_in_the_table(folders, home):
    (folders / "set" / "glioma" / "0.png").write_bytes(b"no picture")
    slices = datasets.manifest(named(folders).model_copy(update={"unreadable": "skip"}))
    assert slices["patient_id"].tolist() == ["MR1B", "notumor/2.png", "notumor/3.png"]


def test_patients_are_for_folders_alone():
    with pytest.raises(ParamsError, match="`patients` is for source folders"):
        params.check(params.load("figshare").model_dump() | {"data": FIGSHARE | {"patients": "p.csv"}}, "x")


FIGSHARE = params.load("figshare").model_dump(context=params.WHOLE)["data"]


def test_ids_that_differ_in_a_last_letter_are_one_group_without_a_column_group(tmp_path):
    rows = [{"image_id": f"{k}.png", "path": f"{k}.png", "label": "a", "patient_id": f"{k}.png"} for k in range(2)]
    rest = {"plane": "unknown", "width": 1, "height": 1, "mask_area": 0, "sha256": "0", "part": ""}
    slices = manifests.make([row | rest for row in rows], "here")
    path = tmp_path / "p.csv"
    path.write_text("image,patient,score\n1.png,MR2B,0.9\n0.png,MR2,0.8\n")
    assert table.join_patients(slices, path)["patient_group"].tolist() == ["MR2", "MR2"]
    path.write_text("image,patient,group\n1.png,MR2B,\n0.png,,other\n")
    assert table.join_patients(slices, path)["patient_group"].tolist() == ["other", "MR2"], (
        "a patient's where none is given"
    )
