"""The one table that every data source yields: a row a slice. Nothing downstream knows the source."""

import functools
import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from btlib import DataError, files

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


def row(path: str, image: np.ndarray, mask: np.ndarray | None, /, **known) -> dict:
    """Return the row of a slice, of which the source knows the columns `known`: label at least.

    Without a patient_id its patient is its path, which begins below the data set's folder. Image and mask as `identity`.
    """
    return {
        "image_id": path,
        "path": path,
        "patient_id": path,
        "plane": "unknown",
        "width": image.shape[1],
        "height": image.shape[0],
        "mask_area": 0 if mask is None else int(mask.sum()),
        "sha256": identity(image, mask),
        "part": "",
        **known,
    }


def gather(
    read: Callable, items: Sequence, paths: list[str], unreadable: str, root: Path, passed_over: list[str]
) -> pd.DataFrame:
    """Read every slice of a data set once, on all cores, and return their manifest.

    Args:
        read: from one of `items` to its `row`; it raises DataError for a slice that cannot be used.
        items, paths: one of each a slice.
        unreadable: "error" stops at the first slice that cannot be used; "skip" leaves such slices out and lists them,
            path and reason, in the manifest's `attrs["skipped"]`.
        root: for messages.
        passed_over: files that are no slices, for `attrs["passed_over"]`.

    Raises:
        DataError: a slice, or with "skip" every slice, cannot be used; or as `make`.
    """
    rows = list(files.spread(functools.partial(_row_or_reason, read), items))
    skipped = [(path, str(row)) for path, row in zip(paths, rows, strict=True) if isinstance(row, DataError)]
    if skipped and (unreadable == "error" or len(skipped) == len(rows)):
        raise DataError(skipped[0][1])
    table = make([row for row in rows if isinstance(row, dict)], str(root))
    table.attrs |= {"skipped": skipped, "passed_over": passed_over}
    return table


def _row_or_reason(read: Callable, item) -> dict | DataError:
    try:
        return read(item)
    except DataError as error:
        return error


def make(rows: list[dict], name: str) -> pd.DataFrame:
    """Return rows, of `row`, as a manifest in the order given; `patient_group` is derived where it is left out or empty.

    DataError, which names the data set, where there are no rows, two share an image_id, or `check_words` stops.
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
    for path, label, plane, part in table[["path", "label", "plane", "part"]].itertuples(index=False):
        check_words(path, label, plane, part)
    return table


def check_words(where: str, label: str, plane: str, part: str) -> None:
    """Stop at a label that is no plain word, or at an unknown plane or part; `where` begins the message."""
    if not re.fullmatch("[a-z0-9][a-z0-9_]*", label):
        raise DataError(
            f"{where}: label is {label!r}; allowed: small letters, digits and _, or a table `labels` in the parameter file "
            "that maps it"
        )
    for column, word, allowed in (("plane", plane, PLANES), ("part", part, PARTS)):
        if word not in allowed:
            words = ", ".join(a or "empty" for a in allowed)
            raise DataError(f"{where}: {column} is {word!r}; allowed: {words}")


def further(manifest: pd.DataFrame) -> list[str]:
    """Return the columns that a source has besides `COLUMNS`."""
    return [column for column in manifest.columns if column not in COLUMNS]


def unnamed(manifest: pd.DataFrame, column: str = "patient_id") -> pd.Series:
    """Say of each slice whether its source names no patient, or no patient_group: it then is its path."""
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

    Equal values (below 2^63) of an image (H, W) give equal digits in any dtype. A mask without a pixel is none.
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
    """Say how many slices were left out, and why, and which other files were passed over; name `most` of each. Notebook 01."""
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
