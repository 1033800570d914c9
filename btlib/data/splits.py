"""Who trains, who is tested, and what crosses between."""

import numpy as np
import pandas as pd

from btlib import CLASSES, NO_TUMOR, DataError
from btlib.params import Split

UNIT = {"image": "image_id", "patient": "patient_id", "group": "patient_group", "author": "patient_id"}
"""First word of a protocol to the manifest's column that is kept together."""

ROLES = ("train", "validation", "test")


def folds_of(protocol: str, split: Split) -> range:
    """Return the fold numbers of a protocol: 0 alone for a hold-out, 0 to k-1 for folds, 0 to 4 for the author's."""
    if protocol.endswith("holdout"):
        return range(1)
    return range(5 if protocol == "author_folds" else split.folds)


def make(
    manifest: pd.DataFrame, protocol: str, fold: int, seed: int, split: Split, author_folds: pd.Series | None = None
) -> pd.DataFrame:
    """Give every slice a role, the same one whenever the arguments are the same.

    Args:
        manifest: the slices; those labelled no_tumor take no part.
        protocol: what is kept together (image, patient, patient group, author's fold) and how often (hold-out, folds).
        fold: 0 for a hold-out; 0 to k-1 else: that part is tested.
        seed: of the partition. Folds are cut by it too, so that all folds of one seed are disjoint.
        split: sizes.
        author_folds: image_id to 1..5, from cvind.mat; only for "author_folds".

    Returns:
        image_id, role ("train", "validation" or "test"), in the manifest's order. Validation slices are taken from
        the training part by the same unit as the test slices, so that what is chosen on them is chosen fairly.

    Raises:
        DataError: the fold does not exist, there is no cvind.mat, or a class has too few patients to be divided.

    Notebook 02.
    """
    if fold not in folds_of(protocol, split):
        raise DataError(f"{protocol}: fold {fold} does not exist; allowed: 0 to {len(folds_of(protocol, split)) - 1}")
    table = manifest[manifest["label"] != NO_TUMOR]
    label, unit = table["label"].to_numpy(), table[UNIT[protocol.split("_")[0]]].to_numpy()
    if protocol == "author_folds":
        if author_folds is None:
            raise DataError("author_folds: the data set has no cvind.mat, which holds them")
        tested = author_folds.reindex(table["image_id"]).to_numpy() == fold + 1
    elif protocol.endswith("holdout"):
        tested = _take(label, unit, split.test_fraction, seed, protocol)
    else:
        tested = _folds(label, unit, split.folds, seed, protocol) == fold
    role = np.where(tested, "test", "train").astype(object)
    rest = np.flatnonzero(~tested)
    if not split.validation_fraction:
        return pd.DataFrame({"image_id": table["image_id"].to_numpy(), "role": role})
    fraction = min(0.5, split.validation_fraction * len(label) / len(rest))
    # A stream of its own: validation slices must not depend on how the test slices were drawn.
    role[rest[_take(label[rest], unit[rest], fraction, seed + 7919 * (fold + 1), protocol)]] = "validation"
    return pd.DataFrame({"image_id": table["image_id"].to_numpy(), "role": role})


def _folds(label, unit, k, seed, name):
    """Part number 0..k-1 a slice: units whole, classes balanced."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    for c in CLASSES:
        units = len(set(unit[label == c]))
        if units < k:
            raise DataError(
                f"{name}: {c} has {units} {'slices' if len(unit) == len(set(unit)) else 'patients'}; needs {k}"
            )
    single = len(set(unit)) == len(unit)
    maker = (StratifiedKFold if single else StratifiedGroupKFold)(k, shuffle=True, random_state=seed % 2**32)
    part = np.empty(len(label), int)
    for number, (_, rows) in enumerate(maker.split(label, label, None if single else unit)):
        part[rows] = number
    return part


def _take(label, unit, fraction, seed, name):
    """Boolean: about `fraction` of the slices, as the parts of a finer partition that together come closest."""
    k = max(2, min(20, round(1 / fraction))) if fraction <= 0.5 else 20
    part = _folds(label, unit, k, seed, name)
    return part < max(1, round(fraction * k))


def report(manifest: pd.DataFrame, split: pd.DataFrame) -> dict:
    """Count a split: slices and patients in each role, and patients and groups that cross from training to test.

    Args:
        manifest: the slices.
        split: what `make` returned.

    Returns:
        Dict of counts: n_train, n_validation, n_test, patients_train, patients_test, patients_crossing,
        groups_crossing, slices_of_crossing_patients (test slices whose patient also trains or validates).

    Notebook 02 writes it to splits.csv, with the near-identical neighbours that `overlap.crossing` counts.
    """
    table = split.merge(manifest, on="image_id", validate="one_to_one")
    test, rest = table[table["role"] == "test"], table[table["role"] != "test"]
    counts = {f"n_{role}": int((table["role"] == role).sum()) for role in ROLES}
    return counts | {
        "patients_train": rest["patient_id"].nunique(),
        "patients_test": test["patient_id"].nunique(),
        "patients_crossing": len(set(test["patient_id"]) & set(rest["patient_id"])),
        "groups_crossing": len(set(test["patient_group"]) & set(rest["patient_group"])),
        "slices_of_crossing_patients": int(test["patient_id"].isin(set(rest["patient_id"])).sum()),
    }
