"""The one table that every data source yields: a row a slice. Nothing downstream knows the source."""

import hashlib
import re
from pathlib import Path

import pandas as pd

from btlib import CLASSES, NO_TUMOR, DataError

COLUMNS = (
    "image_id",
    "path",
    "label",
    "patient_id",
    "patient_group",
    "plane",
    "width",
    "height",
    "has_mask",
    "sha256",
)
PLANES = ("axial", "coronal", "sagittal", "unknown")


def make(rows: list[dict], name: str) -> pd.DataFrame:
    """Return rows as a manifest, in the order given.

    Args:
        rows: one dict a slice with the keys of `COLUMNS`, but `patient_group`, which is derived.
        name: the folder the slices came from, for messages.

    Raises:
        DataError: there are no rows, two share an image_id, or a label or plane is unknown.
    """
    if not rows:
        raise DataError(f"{name}: no slices found")
    table = pd.DataFrame(rows)
    table["patient_group"] = [patient_group(p) for p in table["patient_id"]]
    table = table[list(COLUMNS)].reset_index(drop=True)
    twice = table["image_id"][table["image_id"].duplicated()]
    if len(twice):
        raise DataError(f"{name}: image_id {twice.iloc[0]!r} stands for more than one slice")
    for column, allowed in (("label", (*CLASSES, NO_TUMOR)), ("plane", PLANES)):
        wrong = table[~table[column].isin(allowed)]
        if len(wrong):
            row = wrong.iloc[0]
            raise DataError(f"{row['path']}: {column} is {row[column]!r}; allowed: {', '.join(allowed)}")
    return table


def patient_group(patient_id: str) -> str:
    """Return a patient id without a last letter after digits: MR040240B becomes MR040240.

    Ids that differ only there may be repeat examinations of one patient. Notebook 01 counts them.
    """
    return re.sub(r"(?<=\d)[A-Za-z]$", "", patient_id)


def fingerprint(manifest: pd.DataFrame) -> str:
    """Return 16 hex digits that change when any slice, label or patient does, but not when files move."""
    digest = hashlib.sha256()
    for row in manifest[["image_id", "label", "patient_id", "sha256"]].itertuples(index=False):
        digest.update("\x1f".join(row).encode() + b"\n")
    return digest.hexdigest()[:16]


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
