"""Does the answer rest on the tumour? Predictions for slices whose tumour is erased, or as much of the head elsewhere."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from btlib import params, watched
from btlib.data.datasets import Dataset
from btlib.fitting import batches
from btlib.models import erasing
from btlib.scores.classification import softmax
from btlib.scores.resampling import mean_intervals

MARGIN = 2
"""Pixels by which a mask is widened before the tumour is erased."""

UNTRAINED = ("pasted", "donated", "inpainted")
"""Fills that no network is trained on: tissue from elsewhere in the head, from another patient's slice, a smooth surface."""

FILLS = (*erasing.TRAINED, *UNTRAINED)
"""Every fill, in the order of the tables."""

COLUMNS = ("image_id", "erased", "fill", "predicted", "probability")
"""Columns of `predictions`: erased is "nothing", "tumour" or "elsewhere"; probability is that of the true class."""

DONORS = 20
"""Slices of other patients that are tried before a slice goes without a donor."""

_TOGETHER = 16


def predictions(
    model, slices: pd.DataFrame, data: Dataset, classes: Sequence[str], fills: Sequence[str] = ("", *FILLS)
) -> pd.DataFrame:
    """Return what a network says to test slices with the tumour erased, and with an equal shape elsewhere erased.

    Args:
        model: keras.Model from (n, S, S, 1) to logits.
        slices: as of `explanations.test_slices`; those without a mask are left out.
        data: the data set, prepared as the model's run was.
        classes: names of the model's classes, in the order of its logits.
        fills: of `FILLS`, and "" for the slice as it is.

    Returns:
        `COLUMNS`, one row a slice, place and fill; "nothing" has one row a slice, fill "". Where there is no room
        elsewhere in the head, or no donor, that row is missing.
    """
    tables = [pd.DataFrame(columns=list(COLUMNS))]
    masked = slices[[bool(data.masks[row].any()) for row in slices["row"]]]
    starts = range(0, len(masked), _TOGETHER)
    for start in tqdm(starts, "slices erased", unit="batch", leave=False, disable=not watched()):
        rows, pictures = [], []
        for _, about in masked.iloc[start : start + _TOGETHER].iterrows():
            image, mask = data.images[about["row"]], data.masks[about["row"]] > 0
            for erased, fill, picture in erased_slices(image, mask, about["image_id"], _donors(about, data), fills):
                rows.append((about["image_id"], erased, fill, classes.index(about["label"])))
                pictures.append(picture)
        shares = softmax(batches.predict(model, np.stack(pictures)))
        table = pd.DataFrame(rows, columns=["image_id", "erased", "fill", "true"])
        table["predicted"] = np.array(classes)[shares.argmax(1)]
        table["probability"] = shares[np.arange(len(shares)), table["true"]]
        tables.append(table[list(COLUMNS)])
    return pd.concat(tables[1:] or tables, ignore_index=True)


def erased_slices(
    image: np.ndarray, mask: np.ndarray, image_id: str, donor: Callable, fills: Sequence[str] = ("", *FILLS)
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield a slice as it is and all its erased versions: erased and fill, as in `predictions`, and the picture.

    Args:
        image, mask: uint8 and bool (S, S); the mask has at least one pixel and is widened by `MARGIN`.
        image_id: seeds what is drawn, with the names of place and fill.
        donor: from a region, bool (S, S), and a generator to a slice of another patient, uint8 (S, S), or None.
        fills: as of `predictions`.
    """
    if "" in fills:
        yield "nothing", "", image
    head = erasing.head_of(image)
    tumour = erasing.widen(mask, MARGIN)
    places = {"tumour": tumour, "elsewhere": erasing.elsewhere(tumour, head, _rng(image_id, "elsewhere"))}
    for erased, region in places.items():
        if region is None:
            continue
        for fill in filter(None, fills):
            rng = _rng(image_id, f"{erased} {fill}")
            # Nothing that is put in a tumour's place, or elsewhere, may be tumour.
            picture = _filled(fill, image, region, head & ~tumour, rng, donor)
            if picture is not None:
                yield erased, fill, picture


def _filled(fill, image, region, tissue, rng, donor):
    if fill in erasing.TRAINED:
        return erasing.filled(fill, image, region, tissue)
    if fill == "inpainted":
        return erasing.inpainted(image, region)
    if fill == "pasted":
        source = erasing.elsewhere(region, tissue, rng)
        return None if source is None else erasing.pasted(image, region, source)
    other = donor(region, rng)
    return None if other is None else erasing.pasted(image, region, region, other)


def _rng(image_id: str, words: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(f"{image_id} {words}".encode()))


def _donors(about: pd.Series, data: Dataset) -> Callable:
    """Return what finds slices of other patients, cut in the same plane, with healthy tissue in a given region."""
    table = data.manifest
    fits = (table["mask_area"] > 0) & (table["patient_group"] != about["patient_group"])
    rows = np.flatnonzero(fits & (table["plane"] == data.manifest["plane"].iloc[about["row"]]))

    def donor(region, rng):
        for row in rng.permutation(rows)[:DONORS]:
            tumour = erasing.widen(data.masks[int(row)] > 0, MARGIN)
            if not (tumour & region).any():
                image = data.images[int(row)]
                if erasing.head_of(image)[region].all():
                    return image
        return None

    return donor


def summary(
    table: pd.DataFrame, trained: Mapping[str, Sequence[str]], statistics: params.Statistics, seed: int
) -> pd.DataFrame:
    """Average right answers and the true class's probability over slices, with intervals over patients.

    Args:
        table: `COLUMNS` with model, label, patient_id, as `explanations.pooled` returns it.
        trained: model to the fills that its training slices got; one that is not named was trained without any.

    Returns:
        model, erased, fill, trained (of `trained`), by ("all" or "label"), group, slices, patients, and accuracy and
        probability, each with _low and _high.
    """
    rows = []
    whole = table.assign(all="all slices", right=(table["predicted"] == table["label"]).astype(float))
    for by in ("all", "label"):
        for (model, erased, fill, group), some in whole.groupby(["model", "erased", "fill", by], sort=False):
            values, patients = some[["right", "probability"]], some["patient_id"]
            accuracy, probability = mean_intervals(values, patients, statistics, seed)
            about = model, erased, fill, fill in trained.get(model, ()), by, group
            rows.append((*about, len(some), patients.nunique(), *accuracy, *probability))
    scores = [f"{score}{end}" for score in ("accuracy", "probability") for end in ("", "_low", "_high")]
    about = ["model", "erased", "fill", "trained", "by", "group", "slices", "patients"]
    return pd.DataFrame(rows, columns=[*about, *scores])
