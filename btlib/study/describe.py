"""What the data are and what a network gets to see of them: the tables of notebooks 01 and 02.

`study` is the parameters, `table` what `slices` returns and `dataset` the prepared slices.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from btlib import params
from btlib.data import datasets, preprocessing, splits
from btlib.scores import overlap

SAMPLE = 300
"""How many slices, taken evenly, intensities are measured on."""


def slices(data: params.Data) -> pd.DataFrame:
    """Return slices.csv: what is known of each slice, with the tumour's size and the author's fold.

    Returns:
        The manifest without path and checksum; mask_area_percent (of the whole slice, empty without a mask);
        author_fold where there is cvind.mat.
    """
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
    paths = datasets.manifest(data).set_index("image_id")["path"]
    both = [datasets.read(data, paths[image_id]) for image_id in image_ids]
    return [preprocessing.normalise(image, 0.5, 99.5) for image, _ in both], [mask for _, mask in both]


def stages(study: params.Study, image_ids) -> tuple[list, list, list, list]:
    """Read some slices and take the first steps of preprocessing one by one.

    Returns:
        Lists, an entry a slice: image as stored (H, W), in scanner units; normalised, uint8 (H, W); the square around
        the head (top, left, bottom, right); mask, bool (H, W), or None.
    """
    paths, how = datasets.manifest(study.data).set_index("image_id")["path"], study.preprocessing
    stored, masks = map(list, zip(*(datasets.read(study.data, paths[i]) for i in image_ids), strict=True))
    normalised = [preprocessing.normalise(image, how.low_percentile, how.high_percentile) for image in stored]
    return stored, normalised, [preprocessing.head_box(image) for image in normalised], masks


def intensities(study: params.Study, dataset: datasets.Dataset) -> pd.DataFrame:
    """Return preprocessing.csv: what preprocessing evens out, measured on slices taken evenly.

    A row a measure: stage ("stored" or "prepared"), measure, and its 5th, 50th and 95th percentile over slices.
    """
    rows = np.unique(np.linspace(0, len(dataset.manifest) - 1, SAMPLE).astype(int))
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
    values = [np.percentile(v, (5, 50, 95)) for v in measured.values()]
    return pd.DataFrame(list(measured), columns=["stage", "measure"]).join(
        pd.DataFrame(values, columns=["p5", "median", "p95"]).round(2)
    )


def partitions(study: params.Study, dataset: datasets.Dataset, pairs: pd.DataFrame) -> pd.DataFrame:
    """Return splits.csv: every split that the study uses, and what crosses from training to test in it.

    A row a (protocol, seed, fold): what `splits.report` counts, and test_near_identical: test slices with a near-identical
    neighbour in training, by `overlap.within`'s pairs.
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
    """Let the augmentation layer change each picture several times.

    Args:
        layer: an `augmentation.Augment`.
        images: uint8 (n, S, S).
        times: draws of each.

    Returns:
        float32 (n, times, S, S), 0 to 255.
    """
    changed = layer(np.repeat(images, times, axis=0)[..., None].astype("float32"), training=True)
    return np.asarray(changed).reshape(len(images), times, *images.shape[1:])


def one_of_each(manifest: pd.DataFrame, classes: Sequence[str]) -> list[int]:
    """Return the row of the middle slice with a mask, or of any, of each class: a rule, not a choice."""
    rows = []
    for label in classes:
        part = manifest[manifest["label"] == label]
        masked = part["mask_area"] > 0
        part = part[masked] if masked.any() else part
        rows += [int(part.index[len(part) // 2])] if len(part) else []
    return sorted(rows)


def changes(images: np.ndarray, changed: np.ndarray, labels: list[str]) -> pd.DataFrame:
    """Return augmentation.csv: how much each draw of `drawn` changes a picture, uint8 (n, S, S), whose classes are `labels`.

    Mean grey before and after, and mean absolute difference of a pixel, 0 to 255.
    """
    rows = [
        {
            "label": label,
            "draw": draw,
            "grey_before": round(float(image.mean()), 1),
            "grey_after": round(float(after.mean()), 1),
            "difference": round(float(np.abs(after - image).mean()), 1),
        }
        for label, image, draws in zip(labels, images, changed, strict=True)
        for draw, after in enumerate(draws)
    ]
    return pd.DataFrame(rows)


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
