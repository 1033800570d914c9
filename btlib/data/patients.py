"""Patients of pictures that name none: a table of ids and groups, joined by image path."""

from pathlib import Path

import pandas as pd

from btlib import DataError
from btlib.data import manifest as manifests
from btlib.data import table as tables

COPIES_OF = "copies of {}"
"""Name of a group that is known by one of its images alone, and by no patient."""


def join(manifest: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return a manifest whose slices have the patients, or groups, that a table names for them.

    Args:
        manifest: of class folders, which name no patient; its `attrs["skipped"]` lists slices that were left out.
        path: a CSV table with the columns image (a slice's path), patient, and if wanted group: what must stay on one side
            of a split, such as chains of copies. `python -m btlib audit --patients` writes one; other columns are not read.

    Returns:
        The manifest with patient_id, where the table has one, and patient_group: the table's group, else the patient's. A
        slice without a patient keeps its path as patient_id, so that protocols by patient refuse it; those by group serve.

    Raises:
        DataError: an image stands twice; a slice is not in the table, or an image of the table is no slice; a slice has
            neither patient nor group where others have.

    Used for the data key `patients`; notebook 02.
    """
    lines = tables.rows(Path(path), ("image", "patient"))
    given = pd.DataFrame(lines).set_index("image")
    if len(twice := given.index[given.index.duplicated()]):
        numbers = " and ".join(given.loc[twice[0], ""])
        raise DataError(f"{path}, lines {numbers}: {twice[0]} stands in both; allowed: each image once")
    _check_left_over(manifest, given, path)
    given = given.loc[manifest["image_id"]]
    patient = given["patient"].to_numpy()
    named = pd.Series(patient).where(patient != "", manifest["path"])
    groups = [manifests.patient_group(p) for p in patient]
    if "group" in given:
        images = set(manifest["image_id"])
        both = zip(given["group"], patient, groups, strict=True)
        groups = [COPIES_OF.format(g) if g in images else g or (own if named else "") for g, named, own in both]
    if "" in groups:
        row = given.iloc[groups.index("")]
        raise DataError(f"{path}, line {row['']}: {row.name} has neither patient nor group; allowed: one at least")
    joined = manifest.assign(patient_id=named.to_numpy(), patient_group=groups)
    joined.attrs = manifest.attrs
    return joined


def _check_left_over(manifest: pd.DataFrame, given: pd.DataFrame, path: Path) -> None:
    skipped = {name for name, _ in manifest.attrs.get("skipped", [])}
    unnamed = [name for name in manifest["image_id"] if name not in given.index]
    strange = [name for name in given.index if name not in set(manifest["image_id"]) | skipped]
    for names, words in ((unnamed, "slices that it does not list"), (strange, "images that are no slices of the data")):
        if names:
            raise DataError(
                f"{path}: leaves over {len(names)} {words}, such as {names[0]}; allowed: none, as the split would break its "
                "promise"
            )
