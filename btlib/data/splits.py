"""Who trains, who is tested, and what crosses between."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from btlib import DataError
from btlib.data import manifest as manifests
from btlib.params import Split


@dataclass(frozen=True)
class Protocol:
    """A way of splitting: the manifest's column whose slices stay together, how parts are cut, and words for people."""

    column: str
    kind: str  # "holdout" (one part tested), "folds" (each in turn), "author" (the author's in turn) or "published"
    words: str


PROTOCOLS = {
    "image_holdout": Protocol("image_id", "holdout", "slices at random, hold-out"),
    "image_folds": Protocol("image_id", "folds", "slices at random, folds"),
    "patient_holdout": Protocol("patient_id", "holdout", "patients apart, hold-out"),
    "patient_folds": Protocol("patient_id", "folds", "patients apart, folds"),
    "author_folds": Protocol("patient_id", "author", "the author's patient folds"),
    "group_holdout": Protocol("patient_group", "holdout", "patient groups apart, hold-out"),
    "group_folds": Protocol("patient_group", "folds", "patient groups apart, folds"),
    "published": Protocol("image_id", "published", "the publisher's test part"),
}
"""Every protocol by its name; a new one is a row. COLUMN_holdout and COLUMN_folds name any manifest column besides, also one
that a table of slices has of its own (scanner_folds)."""

LOOSE = ("image_holdout", "published")
"""Protocols that keep nothing together; what the others lose is told against the first of them that was fitted."""

UNITS = {"image_id": "slices", "patient_id": "patients", "patient_group": "patient groups"}
ROLES = ("train", "validation", "test")


def rule(protocol: str) -> Protocol:
    """Return what a protocol's name stands for: one of `PROTOCOLS`, or COLUMN_holdout or COLUMN_folds; DataError where neither."""
    column, _, kind = protocol.rpartition("_")
    if protocol in PROTOCOLS:
        return PROTOCOLS[protocol]
    if kind in ("holdout", "folds") and column:
        return Protocol(column, kind, f"{column.replace('_', ' ')}s apart, {kind.replace('holdout', 'hold-out')}")
    raise DataError(
        f"protocol: got {protocol!r}; allowed: {', '.join(PROTOCOLS)}, and COLUMN_holdout or COLUMN_folds where COLUMN is "
        f"one of {', '.join(manifests.COLUMNS)}, or a further column of the data"
    )


def folds_of(protocol: str, split: Split) -> range:
    """Return the fold numbers of a protocol: 0 alone for one test part, 0 to k-1 for folds, 0 to 4 for the author's."""
    return range({"folds": split.folds, "author": 5}.get(rule(protocol).kind, 1))


def check(
    manifest: pd.DataFrame,
    protocol: str,
    classes: Sequence[str],
    author_folds: pd.Series | None = None,
    guided: bool = False,
) -> None:
    """Stop where data cannot carry a protocol, before anything is fitted; `guided` training asks for tumour masks.

    Raises:
        DataError: what is missing (a class, patient ids, the author's folds, published parts, masks, a column), and what the
            data can carry.
    """
    labels = manifest["label"].value_counts()
    if absent := [c for c in classes if c not in labels]:
        shown = ", ".join(f"{label} ({n})" for label, n in labels.items())
        raise DataError(f"classes: the data have no slices of {' and '.join(absent)}; labels of the data: {shown}")
    table = manifest[manifest["label"].isin(classes)]
    if guided and not (table["mask_area"] > 0).any():
        raise DataError(
            f"{protocol}: the data have no tumour masks, which the recipe's cam_loss or erase asks for; allowed: a recipe "
            "with neither, or data with masks (source figshare, or a table with a column mask)"
        )
    if lack := _lack(table, protocol, author_folds):
        carried = [name for name in PROTOCOLS if not _lack(table, name, author_folds)]
        raise DataError(f"{protocol}: the data have no {lack}; protocols that they can carry: {', '.join(carried)}")


def _lack(table: pd.DataFrame, protocol: str, author_folds: pd.Series | None) -> str:
    """Say what of a data set a protocol needs and does not find; empty where it finds all."""
    one, number = rule(protocol), len(table)
    if one.column not in table:
        return f"column {one.column}: theirs are {', '.join(table.columns)}"
    if one.kind == "author" and author_folds is None:
        return "author's folds: there is no cvind.mat, which holds them"
    if one.kind == "author" and (missing := int((~table["image_id"].isin(author_folds.index)).sum())):
        return f"author's fold for {missing} of {number} slices"
    if one.kind == "published":
        counts = table["part"].value_counts()
        if none := counts.get("", 0):
            return f"published part for {none} of {number} slices"
        if absent := [name for name in ("train", "test") if name not in counts]:
            return f"published {absent[0]} part"
    if one.column in ("patient_id", "patient_group") and (unnamed := int(manifests.unnamed(table, one.column).sum())):
        return f"patient ids for {unnamed} of {number} slices"
    if empty := int((table[one.column] == "").sum()):
        return f"{one.column} for {empty} of {number} slices"
    return ""


def make(
    manifest: pd.DataFrame, protocol: str, fold: int, seed: int, split: Split, author_folds: pd.Series | None = None
) -> pd.DataFrame:
    """Give every slice a role, the same one whenever the arguments are the same. Notebook 02.

    Args:
        manifest: the slices that take part.
        protocol: as for `rule`.
        fold: 0 where there is one test part; 0 to k-1 else: that part is tested.
        seed: of the partition. Folds are cut by it too, so that all folds of one seed are disjoint.
        split: sizes; a `validation_fraction` of 0 leaves all but the test part to training.
        author_folds: image_id to 1..5, from cvind.mat; only for "author_folds".

    Returns:
        image_id, role ("train", "validation" or "test"), in the manifest's order. Validation slices are taken from
        the training part by the same unit as the test slices, so that what is chosen on them is chosen fairly; where
        the publisher names them, they are the publisher's.

    Raises:
        DataError: the fold does not exist, the data cannot carry the protocol, a class has too few units to be divided,
            or the split breaks its promise: a part is empty, or a unit lies on both sides.
    """
    one = rule(protocol)
    if fold not in folds_of(protocol, split):
        raise DataError(f"{protocol}: fold {fold} does not exist; allowed: 0 to {len(folds_of(protocol, split)) - 1}")
    if lack := _lack(manifest, protocol, author_folds):
        raise DataError(f"{protocol}: the data have no {lack}")
    label, unit = manifest["label"].to_numpy(), manifest[one.column].to_numpy()
    if one.kind == "author":
        tested = author_folds.reindex(manifest["image_id"]).to_numpy() == fold + 1
    elif one.kind == "published":
        tested = manifest["part"].to_numpy() == "test"
    elif one.kind == "holdout":
        tested = _take(label, unit, split.test_fraction, seed, f"{protocol}, split.test_fraction", one.column)
    else:
        tested = _folds(label, unit, split.folds, seed, f"{protocol}, split.folds", one.column) == fold
    role = np.where(tested, "test", "train").astype(object)
    _check_parts(role, ("train", "test"), protocol)
    if split.validation_fraction:
        named = (manifest["part"].to_numpy() == "validation") & (one.kind == "published")
        role[named if named.any() else _validation(label, unit, tested, protocol, fold, seed, split)] = "validation"
        _check_parts(role, ROLES, protocol)
    _check_promise(unit, role, protocol, one.column)
    return pd.DataFrame({"image_id": manifest["image_id"].to_numpy(), "role": role})


def _validation(label, unit, tested, protocol, fold, seed, split) -> np.ndarray:
    rest = np.flatnonzero(~tested)
    fraction = min(0.5, split.validation_fraction * len(label) / len(rest))
    name = f"{protocol}, split.validation_fraction"
    # A stream of its own: validation slices must not depend on how the test slices were drawn.
    return rest[_take(label[rest], unit[rest], fraction, seed + 7919 * (fold + 1), name, rule(protocol).column)]


def _check_parts(role: np.ndarray, roles: tuple[str, ...], protocol: str) -> None:
    if empty := [name for name in roles if not (role == name).any()]:
        raise DataError(f"{protocol}: of {len(role)} slices the {empty[0]} part gets none; it needs some")


def _check_promise(unit: np.ndarray, role: np.ndarray, protocol: str, column: str) -> None:
    """Stop where one unit lies in two parts, whoever divided the data set."""
    roles = pd.Series(role).groupby(unit).unique()
    divided = roles[roles.map(len) > 1]
    if len(divided):
        raise DataError(
            f"{protocol}: promises that {UNITS.get(column, column)} stay together, and {len(divided)} of {len(roles)} do "
            f"not: {divided.index[0]} lies in {' and '.join(sorted(divided.iloc[0]))}; do the folds belong to these slices?"
        )


def _folds(label, unit, k, seed, name, column):
    """Part number 0..k-1 a slice: units whole, classes balanced."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    for c in pd.unique(label):
        units = len(set(unit[label == c]))
        if units < k:
            raise DataError(f"{name}: {c} has {units} {UNITS.get(column, f'values of {column}')}; needs {k}")
    single = len(set(unit)) == len(unit)
    maker = (StratifiedKFold if single else StratifiedGroupKFold)(k, shuffle=True, random_state=seed % 2**32)
    part = np.empty(len(label), int)
    for number, (_, rows) in enumerate(maker.split(label, label, None if single else unit)):
        part[rows] = number
    return part


def _take(label, unit, fraction, seed, name, column):
    """Boolean: about `fraction` of the slices, as some parts of the coarsest partition that comes within 1.5 points of it."""
    shares = ((k, max(1, round(fraction * k))) for k in range(2, 21))
    near = (pair for pair in shares if abs(pair[1] / pair[0] - fraction) <= 0.015)
    k, taken = next(near, (20, max(1, round(fraction * 20))))
    return _folds(label, unit, k, seed, name, column) < taken


def report(manifest: pd.DataFrame, split: pd.DataFrame) -> dict:
    """Count a split's slices and patients, and what crosses from training or validation to test. Notebook 02.

    Returns:
        Dict of counts: n_train, n_validation, n_test, patients_train, patients_test, patients_crossing,
        groups_crossing, slices_of_crossing_patients. Those of patients are NaN where some slices name none.
    """
    table = split.merge(manifest, on="image_id", validate="one_to_one")
    test, rest = table[table["role"] == "test"], table[table["role"] != "test"]
    crossing = test["patient_id"].isin(rest["patient_id"])
    counts = {
        **{f"n_{role}": int((table["role"] == role).sum()) for role in ROLES},
        "patients_train": rest["patient_id"].nunique(),
        "patients_test": test["patient_id"].nunique(),
        "patients_crossing": test["patient_id"][crossing].nunique(),
        "groups_crossing": len(set(test["patient_group"]) & set(rest["patient_group"])),
        "slices_of_crossing_patients": int(crossing.sum()),
    }
    if manifests.unnamed(table, "patient_group").any():
        counts["groups_crossing"] = np.nan
    if manifests.unnamed(table).any():
        counts |= {name: np.nan for name in counts if "patients" in name}
    return counts
