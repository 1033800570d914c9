"""Whose slices they are: patient ids recovered through copies, chains of copies, and a split that keeps them apart."""

import itertools

import numpy as np
import pandas as pd

from btlib import DataError
from btlib.data import manifest as manifests

ENDS = ("set", "image", "label", "part", "patient")
"""What is told of both ends of a pair."""
PEOPLE = ("set", "image", "label", "part", "patient", "group", "through", "score", "ambiguous")
"""Columns of the table of owners."""
IMAGE = "\x00"
FOLDS, TEST_FOLDS = 16, 3
"""The test part is 3 of 16 folds, as near to the published 1,311 of 7,023 as small numbers get."""


def recovered(table: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Say whose each image is: known, recovered through its best copy, or a chain of copies that nobody has named.

    Args:
        table: as `pairs` returns it; for chains it must look inside the sets.
        tables: name of each set -> its images: columns image, label, part and patient ("" where unknown).

    Returns:
        Columns `PEOPLE`, a row an image. patient: its own id, else that of its best copy with one, "" where there is
        none. through and score: that copy. ambiguous: other ids among its copies, "|" between them. group: what must
        stay on one side of a split that keeps patients apart: images connected by any chain of copies or by a patient (ids that differ only in a
        last letter are one, equal ids of two sets too). It is named by its first patient, or by its first image; an
        image on its own is its own group.
    """
    people = pd.concat([t.assign(set=name) for name, t in tables.items()], ignore_index=True)
    people = people.reindex(columns=PEOPLE)
    key = people["set"] + "\x1f" + people["image"]
    both = both_ways(table)
    both["key"] = both["set_a"] + "\x1f" + both["image_a"]
    known = both[both["patient_b"] != ""].sort_values(["score", "image_b"], ascending=[False, True], kind="stable")
    best = known.drop_duplicates("key").set_index("key")
    unknown = people["patient"] == ""
    for column, source in (("through", "image_b"), ("score", "score")):
        people[column] = key.map(best[source]).where(unknown)
    people["patient"] = people["patient"].where(~unknown, key.map(best["patient_b"])).fillna("")
    others = known.groupby("key")["patient_b"].agg(
        lambda ids: "|".join(sorted({manifests.patient_group(i) for i in ids}))
    )
    several = others[others.str.contains("|", regex=False)]
    people["ambiguous"] = key.map(several).where(unknown).astype(object).fillna("")
    people["group"] = _groups(people, key, both["key"], both["set_b"] + "\x1f" + both["image_b"])
    return people.assign(through=people["through"].astype(object).fillna(""))


def _groups(people: pd.DataFrame, key: pd.Series, starts: pd.Series, ends: pd.Series) -> np.ndarray:
    """Return the name of each image's group; images and patients are nodes, copies and belonging the edges."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    number = pd.Series(range(len(key)), key)
    patients = people["patient"].map(manifests.patient_group)
    owner, names = pd.factorize(patients.where(patients != ""))
    start = np.concatenate([number[starts].to_numpy(), np.flatnonzero(owner >= 0)])
    end = np.concatenate([number[ends].to_numpy(), len(key) + owner[owner >= 0]])
    edges = coo_array((np.ones(len(start)), (start, end)), shape=(len(key) + len(names),) * 2)
    component = connected_components(edges, directed=False)[1]
    many = people.groupby("image")["set"].transform("nunique") > 1  # the same name in two sets is no one image
    titles = pd.Series(
        [*(IMAGE + people["image"].where(~many, people["set"] + "/" + people["image"])), *names], dtype=str
    )
    # A patient goes before an image, and among equals the first in the alphabet.
    title = titles.groupby(component).agg(lambda names: min(names, key=lambda name: (name.startswith(IMAGE), name)))
    return title.loc[component[: len(key)]].str.removeprefix(IMAGE).to_numpy()


def shared(people: pd.DataFrame) -> pd.DataFrame:
    """Count, in sets that have parts, the images outside training whose patient or chain has images in training.

    Args:
        people: as `recovered` returns it.

    Returns:
        set, part, images, with_patient (whose patient is known or recovered), patient_in_training (of those),
        group_in_training (of all).
    """
    rows = []
    for (name, part), images in people[~people["part"].isin(["", "train"])].groupby(["set", "part"], sort=False):
        train = people[(people["set"] == name) & (people["part"] == "train")]
        traced = images[images["patient"] != ""]
        row = {"set": name, "part": part, "images": len(images), "with_patient": len(traced)}
        row["patient_in_training"] = int(traced["patient"].isin(train["patient"]).sum())
        rows.append(row | {"group_in_training": int(images["group"].isin(train["group"]).sum())})
    names = ["set", "part", "images", "with_patient", "patient_in_training", "group_in_training"]
    return pd.DataFrame(rows, columns=names)


def clean_split(people: pd.DataFrame) -> pd.DataFrame:
    """Divide the images of one set so that no group lies on both sides: 3 of 16 folds, about 19 %, are the test part.

    Args:
        people: rows of `recovered`, of one set.

    Returns:
        image, label, group and part ("train" or "test"), in the order given; classes as even as groups allow.

    Raises:
        DataError: there are fewer than 16 groups, or images of every class.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if people["group"].nunique() < FOLDS:
        raise DataError(f"{people['group'].nunique()} groups of images; a split needs {FOLDS} or more")
    if (most := people["label"].value_counts().max()) < FOLDS:
        raise DataError(f"the largest class has {most} images; a split needs {FOLDS} or more")
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(people, people["label"], people["group"])
    test = np.concatenate([rows for _, rows in itertools.islice(folds, TEST_FOLDS)])
    part = np.where(np.isin(np.arange(len(people)), test), "test", "train")
    return people[["image", "label", "group"]].assign(part=part).reset_index(drop=True)


def both_ways(table: pd.DataFrame) -> pd.DataFrame:
    """Return every pair twice, seen from a and from b."""
    swap = {f"{name}_{x}": f"{name}_{y}" for name in ENDS for x, y in ("ab", "ba")}
    return pd.concat([table, table.rename(columns=swap)[list(table.columns)]], ignore_index=True)
