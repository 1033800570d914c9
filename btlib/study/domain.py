"""How data sets differ in what can be measured on a slice without knowing what it shows: one table of notebook 06."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.ndimage import laplace

from btlib.data.datasets import Dataset

MEASURES = {
    "width": "width (pixels)",
    "height": "height (pixels)",
    "mean": "mean intensity (0 to 255)",
    "spread": "spread of intensity (standard deviation)",
    "air": "share of dark pixels (below 16)",
    "sharpness": "fine structure (standard deviation of the Laplacian)",
}


def measure(sets: Mapping[str, Dataset], block: int = 256) -> pd.DataFrame:
    """Measure every slice of some data sets: its size in the file, and the prepared picture's intensities.

    Args:
        sets: name to data set, with `manifest` and `images`.
        block: slices read at a time.

    Returns:
        set, label and the columns of `MEASURES`, a row a slice.

    Notebook 06.
    """
    made = []
    for name, data in sets.items():
        found = np.zeros((len(data.images), 4))
        for first in range(0, len(found), block):
            pictures = np.asarray(data.images[first : first + block], np.float32)
            flat = pictures.reshape(len(pictures), -1)
            fine = np.stack([laplace(p) for p in pictures]).reshape(flat.shape)
            of = flat.mean(1), flat.std(1), (flat < 16).mean(1), fine.std(1)
            found[first : first + block] = np.stack(of, axis=1)
        table = data.manifest[["label", "width", "height"]].assign(set=name).astype({"width": float, "height": float})
        made.append(table.assign(**dict(zip(list(MEASURES)[2:], found.T, strict=True))))
    return pd.concat([t for t in made if len(t)], ignore_index=True)[["set", "label", *MEASURES]]


def shift(measured: pd.DataFrame) -> pd.DataFrame:
    """Return domain_shift.csv: each measure's mean, spread and quantiles in each set.

    Args:
        measured: as `measure` returns it.

    Returns:
        measure, set, n, mean, sd, p5, median, p95. Notebook 06.
    """
    rows = []
    for measure_ in MEASURES:
        for name, values in measured.groupby("set", sort=False)[measure_]:
            v = values.astype(float)
            rows.append((measure_, name, len(v), v.mean(), v.std(), *v.quantile([0.05, 0.5, 0.95])))
    return pd.DataFrame(rows, columns=["measure", "set", "n", "mean", "sd", "p5", "median", "p95"])
