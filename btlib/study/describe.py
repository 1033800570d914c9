"""What the data are and what a network gets to see of them: the tables of notebooks 01 and 02.

`study` is the parameters, `table` what `slices` returns and `dataset` the prepared slices.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from btlib import params
from btlib.data import datasets, preprocessing, splits
from btlib.scores import overlap


def slices(data: params.Data) -> pd.DataFrame:
    """Return slices.csv: the manifest with the tumour's size and, where it is known, the author's fold."""
    table = datasets.manifest(data).drop(columns=["path", "sha256"])
    percent = 100 * table["mask_area"] / (table["width"] * table["height"])
    table["mask_area_percent"] = percent.where(percent > 0).round(4)
    folds = datasets.author_folds(data)
    return table if folds is None else table.assign(author_fold=table["image_id"].map(folds))


def summary(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return dataset.csv: a row a label, `classes` first, labels that no model is trained on after them, and one for all."""
    there = set(table["label"])
    labels = [*(c for c in classes if c in there), *sorted(there - set(classes))]
    parts = {label: table[table["label"] == label] for label in labels} | {"all": table}
    return pd.DataFrame([{"label": label, **_counts(part)} for label, part in parts.items()])


def groups(table: pd.DataFrame) -> pd.DataFrame:
    """Count patients and groups of ids that differ only in a last letter, and what of them the author's folds divide."""
    ids = table.groupby("patient_group")["patient_id"].nunique()
    counts = {
        "patient ids": _named(table)["patient_id"].nunique(),
        "groups of ids": len(ids),
        "groups of more than one id": int((ids > 1).sum()),
        "patients with more than one class": int((table.groupby("patient_id")["label"].nunique() > 1).sum()),
    }
    if "author_fold" in table:
        for name, column in (("patient ids", "patient_id"), ("groups", "patient_group")):
            folds = table.groupby(column)["author_fold"].nunique()
            counts[f"{name} in more than one of the author's folds"] = int((folds > 1).sum())
    return pd.DataFrame({"what": list(counts), "count": list(counts.values())})


def examples(table: pd.DataFrame) -> pd.DataFrame:
    """Choose a slice for each class and plane: the one whose tumour has the median size; without masks the middle name."""
    masked = table[table["mask_area"] > 0]
    ordered = (masked if len(masked) else table).sort_values(["mask_area_percent", "image_id"])
    parts = [part.iloc[[len(part) // 2]] for _, part in ordered.groupby(["label", "plane"], observed=True)]
    return pd.concat(parts)


def shown(data: params.Data, image_ids) -> tuple[list, list]:
    """Read some slices for a picture: uint8 (H, W), the brightest 0.5 % cut off, and mask, bool (H, W)."""
    stored, masks = _read(data, image_ids)
    return [preprocessing.normalise(image, 0.5, 99.5) for image in stored], masks


def stages(study: params.Study, image_ids) -> tuple[list, list, list, list]:
    """Read some slices and take the first steps of preprocessing one by one.

    Returns:
        Of each slice the image as stored (H, W), in scanner units; normalised, uint8 (H, W); the square around the head
        (top, left, bottom, right); the mask, bool (H, W), or None.
    """
    how, (stored, masks) = study.preprocessing, _read(study.data, image_ids)
    normalised = [preprocessing.normalise(image, how.low_percentile, how.high_percentile) for image in stored]
    return stored, normalised, [preprocessing.head_box(image) for image in normalised], masks


def _read(data: params.Data, image_ids) -> tuple[list, list]:
    paths = datasets.manifest(data).set_index("image_id")["path"]
    return tuple(map(list, zip(*(datasets.read(data, paths[image_id]) for image_id in image_ids), strict=True)))


def intensities(study: params.Study, dataset: datasets.Dataset) -> pd.DataFrame:
    """Return preprocessing.csv: percentiles of what preprocessing evens out, measured on 300 slices taken evenly."""
    rows = np.unique(np.linspace(0, len(dataset.manifest) - 1, 300).astype(int))
    stored, _, boxes, _ = stages(study, dataset.manifest["image_id"].iloc[rows])
    prepared = [dataset.images[row] for row in rows]
    measured = {
        ("stored", "brightest intensity, scanner units"): [image.max() for image in stored],
        ("stored", "mean intensity, scanner units"): [image.mean() for image in stored],
        ("stored", "side of the head's square, % of the slice"): [
            100 * (box[2] - box[0]) / max(image.shape) for box, image in zip(boxes, stored, strict=True)
        ],
        ("prepared", "mean grey, 0 to 255"): [image.mean() for image in prepared],
        ("prepared", "pixels darker than 10, %"): [100 * (image < 10).mean() for image in prepared],
    }
    rows = [(*names, *np.percentile(values, (5, 50, 95)).round(2)) for names, values in measured.items()]
    return pd.DataFrame(rows, columns=["stage", "measure", "p5", "median", "p95"])


def partitions(study: params.Study, dataset: datasets.Dataset, pairs: pd.DataFrame) -> pd.DataFrame:
    """Return splits.csv: every split that the study uses, and what crosses from training to test in it.

    `pairs` of `overlap.within` tell which test slices have a near-identical neighbour in training.
    """
    folds = datasets.author_folds(study.data)
    rows, slices_ = [], dataset.manifest[dataset.manifest["label"].isin(study.classes)]
    for one in study.protocols:
        for seed in one.seeds:
            for fold in splits.folds_of(one.protocol, study.split):
                split = splits.make(slices_, one.protocol, fold, seed, study.split, folds)
                counts = splits.report(dataset.manifest, split)
                counts |= {"test_near_identical": overlap.crossing(pairs, split)}
                rows.append({"protocol": one.protocol, "seed": seed, "fold": fold, **counts})
    return pd.DataFrame(rows)


def drawn(layer, images: np.ndarray, times: int) -> np.ndarray:
    """Let an `augmentation.Augment` change each picture, uint8 (n, S, S): float32 (n, times, S, S), 0 to 255."""
    changed = layer(np.repeat(images, times, axis=0)[..., None].astype("float32"), training=True)
    return np.asarray(changed).reshape(len(images), times, *images.shape[1:])


def one_of_each(manifest: pd.DataFrame, classes: Sequence[str]) -> list[int]:
    """Return the row of the middle slice with a mask, or of any, of each class: a rule, not a choice."""
    rows = []
    for _, part in manifest[manifest["label"].isin(classes)].groupby("label"):
        masked = part[part["mask_area"] > 0]
        part = masked if len(masked) else part
        rows.append(int(part.index[len(part) // 2]))
    return sorted(rows)


def changes(images: np.ndarray, changed: np.ndarray, labels: list[str]) -> pd.DataFrame:
    """Return augmentation.csv: how much each draw of `drawn` changes a picture, uint8 (n, S, S), whose classes are `labels`.

    Mean grey before and after, and mean absolute difference of a pixel, 0 to 255.
    """
    rows = []
    for label, image, draws in zip(labels, images, changed, strict=True):
        for draw, after in enumerate(draws):
            rows.append((label, draw, image.mean(), float(after.mean()), float(np.abs(after - image).mean())))
    return pd.DataFrame(rows, columns=["label", "draw", "grey_before", "grey_after", "difference"]).round(1)


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """Return the slices whose source names a patient: others bear their own name as one."""
    return table[table["patient_id"] != table["image_id"]]


def _counts(part: pd.DataFrame) -> dict:
    sizes = (part["width"].astype(str) + " x " + part["height"].astype(str)).value_counts()
    return {
        "slices": len(part),
        "named": len(_named(part)),
        "patients": _named(part)["patient_id"].nunique(),
        "patient_groups": part["patient_group"].nunique(),
        **{plane: int((part["plane"] == plane).sum()) for plane in ("axial", "coronal", "sagittal", "unknown")},
        "with_mask": int((part["mask_area"] > 0).sum()),
        "mask_area_percent_median": round(part["mask_area_percent"].median(), 2),
        "commonest_size": sizes.index[0],
        "of_commonest_size": int(sizes.iloc[0]),
        "sizes": len(sizes),
    }
