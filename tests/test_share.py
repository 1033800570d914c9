"""What others get of the splits: no pixel, and a description that a reader of Croissant accepts."""

import hashlib
import json
from pathlib import Path

import pandas as pd

from btlib.data import datasets
from btlib.deploy import share

KEPT = Path(__file__).resolve().parent.parent / "reports" / "figshare"


def valid(path):
    import mlcroissant

    return mlcroissant.Dataset(jsonld=path)


def test_manifest_and_parts_are_read_back_through_their_description(study, home):
    path = share.write(study)
    dataset, table = valid(path), datasets.manifest(study.data)
    rows = list(dataset.records("manifest"))
    assert [row["manifest/image_id"].decode() for row in rows] == list(table["image_id"])
    assert [row["manifest/sha256"].decode() for row in rows] == list(table["sha256"])
    parts = pd.read_csv(path.with_name("parts.csv"), dtype=str)
    assert set(parts["image_id"]) == set(table["image_id"]) and set(parts.iloc[:, 1]) <= {"train", "validation", "test"}


def test_a_patient_apart_is_in_one_part(study, home):
    table = datasets.manifest(study.data)
    parts = share.parts(study, table).merge(table[["image_id", "patient_group"]], on="image_id")
    (column,) = [c for c in parts if c.startswith("group_holdout")][:1]
    assert (parts.groupby("patient_group")[column].nunique() == 1).all()


def test_the_kept_description_is_valid_and_its_hashes_are_of_the_kept_files():
    path = KEPT / "croissant.json"
    valid(path)
    for entry in json.loads(path.read_text())["distribution"]:
        assert entry["sha256"] == hashlib.sha256((KEPT / entry["contentUrl"]).read_bytes()).hexdigest()


def test_no_path_of_a_machine_is_shared():
    assert "path" not in share.COLUMNS
