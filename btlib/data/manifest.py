"""The one table that every data source yields: a row a slice. Nothing downstream knows the source."""

import hashlib
import re

import numpy as np
import pandas as pd

from btlib import DataError

COLUMNS = (
    "image_id",
    "path",
    "label",
    "patient_id",
    "patient_group",
    "plane",
    "width",
    "height",
    "mask_area",
    "sha256",
    "part",
)
PARTS = ("", "train", "validation", "test")
"""Where the publisher puts a slice; empty where nobody has divided the data set."""

VERSION = 3
"""Raised when the same files begin to give another table: kept tables are then made anew."""

PLANES = ("axial", "coronal", "sagittal", "unknown")


def make(rows: list[dict], name: str) -> pd.DataFrame:
    """Return rows as a manifest, in the order given.

    Args:
        rows: one dict a slice with the keys of `COLUMNS`, and further ones, which are kept; `patient_group` is derived where
            it is left out or empty; `mask_area` counts the mask's pixels at the slice's own size (0: no mask), `sha256` is
            what `identity` returns. Where the source names no patient, patient_id is the path.
        name: the folder the slices came from, for messages.

    Raises:
        DataError: there are no rows, two share an image_id, or a label is no plain word, a plane or part unknown.
    """
    if not rows:
        raise DataError(f"{name}: no slices found")
    table = pd.DataFrame(rows)
    given = table["patient_group"] if "patient_group" in table else [""] * len(table)
    table["patient_group"] = [g or patient_group(p) for g, p in zip(given, table["patient_id"], strict=True)]
    table = table[[*COLUMNS, *further(table)]].reset_index(drop=True)
    twice = table["image_id"][table["image_id"].duplicated()]
    if len(twice):
        paths = ", ".join(table["path"][table["image_id"] == twice.iloc[0]])
        raise DataError(f"{name}: image_id {twice.iloc[0]!r} stands for more than one slice: {paths}")
    for label, path in zip(table["label"], table["path"], strict=True):
        if not re.fullmatch("[a-z0-9][a-z0-9_]*", label):
            raise DataError(f"{path}: label is {label!r}; allowed: small letters, digits and _")
    for column, allowed in (("plane", PLANES), ("part", PARTS)):
        wrong = table[~table[column].isin(allowed)]
        if len(wrong):
            row = wrong.iloc[0]
            raise DataError(
                f"{row['path']}: {column} is {row[column]!r}; allowed: {', '.join(a or 'empty' for a in allowed)}"
            )
    return table


def further(manifest: pd.DataFrame) -> list[str]:
    """Return the columns that a source has besides `COLUMNS`. Used by `fingerprint` and by messages of `splits`."""
    return [column for column in manifest.columns if column not in COLUMNS]


def unnamed(manifest: pd.DataFrame, column: str = "patient_id") -> pd.Series:
    """Say of each slice whether its source names no patient, or no patient_group: it then is its path. Used by `splits`."""
    nobody = manifest["patient_id"] == manifest["path"]
    derived = manifest["path"].map(patient_group) if column == "patient_group" else manifest["path"]
    return nobody & (manifest[column] == derived)


def patient_group(patient_id: str) -> str:
    """Return a patient id without a last letter after digits: MR040240B becomes MR040240.

    Ids that differ only there may be repeat examinations of one patient. Notebook 01 counts them.
    """
    return re.sub(r"(?<=\d)[A-Za-z]$", "", patient_id)


def identity(image: np.ndarray, mask: np.ndarray | None) -> str:
    """Return the SHA-256, in hex, of a slice as it is read: the same whatever program wrote the file, and how.

    Args:
        image: (H, W), any real dtype; equal values (below 2^63) give equal digits in any dtype.
        mask: bool (H, W), or None; a mask without a pixel is none.

    Used by the readers, for the manifest's `sha256`.
    """
    pixels = _plainest(image)
    digest = hashlib.sha256(f"{image.shape[0]} x {image.shape[1]} {pixels.dtype.str}".encode())
    digest.update(np.ascontiguousarray(pixels))
    if mask is not None and mask.any():
        digest.update(np.packbits(mask))
    return digest.hexdigest()


def _plainest(image: np.ndarray) -> np.ndarray:
    """Return the values in the first of a few dtypes that holds them all: which one, the values alone decide."""
    low, high = image.min().item(), image.max().item()
    if image.dtype.kind != "f" or np.array_equal(image, np.rint(image)):
        for kind, end in (("<i2", 2**15), ("<i4", 2**31), ("<i8", 2**63)):
            if -end <= low and high < end:
                return image.astype(kind)
    # 0 is added because -0.0 equals 0.0 and has other bytes.
    return image.astype("<f8") + 0.0 if image.dtype.kind == "f" else image.astype("<u8")


def in_words(manifest: pd.DataFrame, most: int = 5) -> str:
    """Say how many slices were left out, and why, and which other files were passed over.

    Args:
        manifest: as a reader returns it, with `attrs["skipped"]` and `attrs["passed_over"]`.
        most: how many of each are named.

    Notebook 01.
    """
    skipped, passed_over = manifest.attrs["skipped"], manifest.attrs["passed_over"]
    reasons = "".join(f" {reason}." for _, reason in skipped[:most])
    names = f": {', '.join(passed_over[:most])}" if passed_over else ""
    names += f" and {len(passed_over) - most} more" if len(passed_over) > most else ""
    return (
        f"{len(manifest)} slices are read, {len(skipped)} left out because they cannot be read.{reasons} "
        f"Files and folders passed over, being no slices: {len(passed_over)}{names}."
    )


def fingerprint(manifest: pd.DataFrame) -> str:
    """Return 16 hex digits that change when a slice's pixels, mask, label, patient or part do, not when files move.

    A group that is not the one of the patient's id, and further columns, count too: a split may go by them.
    """
    digest = hashlib.sha256()
    for row in manifest[["image_id", "label", "patient_id", "sha256", "part"]].itertuples(index=False):
        digest.update("\x1f".join(row).encode() + b"\n")
    derived = manifest["patient_id"].map(patient_group)
    columns = [c for c in further(manifest) if c != "mask"]
    columns += [] if manifest["patient_group"].equals(derived) else ["patient_group"]
    for column in sorted(columns):
        digest.update("\x1f".join([column, *manifest[column]]).encode() + b"\n")
    return digest.hexdigest()[:16]
