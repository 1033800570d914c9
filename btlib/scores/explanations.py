"""What is kept of a run's explanations: each test slice's map and its scores, and its predictions without the tumour.

A run's tables are made once, by `explain_run`, and lie beside its predictions; they hold no pixels. Those of the folds of
one protocol, put together, explain every slice by the network that never saw its patients, and need no network any more.
"""

import json
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from btlib import DataError, files, params, watched
from btlib.data.datasets import Dataset
from btlib.fitting import runs
from btlib.models import registry as models
from btlib.scores import faithfulness, gradcam, localisation, reliance
from btlib.scores.classification import softmax

VERSION = 1
"""Raised when the same run and settings begin to give other tables: they are then made anew."""

FOLLOWED = 60
"""Insertion, deletion and the cascade follow at most this many test slices of a run, evenly spread over them."""

TABLES = {
    "gradcam": ["image_id", "method", "kind", "grid", *localisation.SCORES],
    "erased": list(reliance.COLUMNS),
    "insertion": ["image_id", "method", "kind", "grid", "insertion", "deletion"],
    "cascade": ["image_id", "number", "step", "rank_correlation", "ssim"],
}
"""The tables of a run, each <name>.csv in its folder, and their columns; kind is "map", "control" or "ceiling"."""

_TOGETHER = 64


def slices_of(run: runs.Run, role: str = "test") -> pd.DataFrame:
    """Return the slices of a run's part (the role "test" or "validation"), one a row, in the order of its predictions.

    Columns are image_id, fit (the run's id), label, patient_id, patient_group, plane, predicted, confidence (the predicted
    class's probability, 0 to 1), outcome ("right" or "wrong") and class_index (of the predicted class, which maps explain).
    """
    table = run.predictions(role)
    shares = softmax(table[runs.logits_of(run.fit.classes)].to_numpy())
    predicted = np.array(run.fit.classes)[shares.argmax(1)]
    about = table[["image_id", "label", "patient_id", "patient_group", "plane"]].replace("", "unknown")
    about.insert(1, "fit", run.id)
    return about.assign(
        predicted=predicted,
        confidence=shares.max(1),
        outcome=np.where(predicted == about["label"], "right", "wrong"),
        class_index=shares.argmax(1),
    )


def test_slices(run: runs.Run, data: Dataset, role: str = "test") -> pd.DataFrame:
    """Return `slices_of` in the order of the manifest, with a column row: their place in `data`."""
    rows = pd.Series(np.arange(len(data.manifest)), data.manifest["image_id"])
    slices = slices_of(run, role)
    slices["row"] = rows.loc[slices["image_id"]].to_numpy()
    return slices.sort_values("row", ignore_index=True)


def pictures(run: runs.Run, data: Dataset, methods: Sequence[str]) -> tuple:
    """Return the test slices of a run as pictures, in the order of `test_slices`, with the maps of the predicted classes.

    They are images and masks, uint8 (n, S, S), method to maps, float32 (n, S, S), and the maps' grid in words ("10 x 10").
    """
    network = _Network(run, data, methods)
    (images, masks), coarse = network.pixels, network.maps_of(methods)
    maps = {method: gradcam.enlarged(heat, images.shape[1]) for method, heat in coarse.items()}
    return images, masks, maps, localisation.in_words(coarse[methods[0]].shape[1:])


def explain_run(run: runs.Run, data: Dataset, settings: params.GradCAM, seed: int) -> dict[str, pd.DataFrame]:
    """Explain all test slices of a run and keep the tables in its folder; what is kept already is read.

    Args:
        run: the fitted model; it is loaded only where a table is missing.
        data: the data set, prepared as the run was.
        settings: which methods, and how they are scored.
        seed: of random weights.

    Returns:
        The names of `TABLES` to tables, as `read` returns them. Without masks "gradcam" and "erased" have no rows.

    Raises:
        DataError: a table is missing and the run was brought here without its model.
    """
    network, masked = _Network(run, data, settings.methods, seed), (data.manifest["mask_area"] > 0).sum()
    tolerance, steps = settings.tolerance_px, settings.deletion_steps
    identity = {"version": VERSION, "data": data.fingerprint, "masks": int(masked)}
    shown = identity | {"methods": list(settings.methods), "seed": seed}
    _keep(run, "gradcam", shown | {"tolerance_px": tolerance}, lambda: network.scores(tolerance))
    _keep(run, "erased", identity, network.erased)
    _keep(run, "insertion", shown | {"deletion_steps": steps}, lambda: network.insertion(steps))
    _keep(run, "cascade", shown, network.cascade)
    return read(run)


def read(run: runs.Run) -> dict[str, pd.DataFrame]:
    """Return the kept tables of a run, by the names of `TABLES`, or raise DataError where one is missing.

    Their columns are those of `slices_of` without class_index, then those of `TABLES`. "erased" says what is predicted of
    the erased slice, with confidence and outcome left out.
    """
    about, tables = slices_of(run).drop(columns="class_index"), {}
    for name, columns in TABLES.items():
        path = run.folder / f"{name}.csv"
        if not path.exists():
            raise DataError(f"{path}: no such table; `explanations.explain_run` makes it")
        table = pd.read_csv(path, dtype={"image_id": str}, keep_default_na=False)
        known = about[[c for c in about if c == "image_id" or c not in columns]]
        known = known.drop(columns=["confidence", "outcome"]) if name == "erased" else known
        tables[name] = known.merge(table, on="image_id")
    return tables


def pooled(explained: dict[str, Sequence[dict]], name: str) -> pd.DataFrame:
    """Put one of `TABLES` of several models' runs, as of `read`, together, told by a first column model."""
    parts = {model: pd.concat([each[name] for each in tables]) for model, tables in explained.items()}
    return pd.concat(parts, names=["model"]).reset_index("model").reset_index(drop=True)


def _keep(run: runs.Run, name: str, identity: dict, make: Callable) -> None:
    """Make a table unless it is there and of the same settings; the settings are written last."""
    path, said = run.folder / f"{name}.csv", run.folder / f"{name}.json"
    try:
        if path.exists() and json.loads(said.read_text(encoding="utf-8")) == identity:
            return
    except (OSError, ValueError):
        pass
    table = make()[TABLES[name]]
    said.unlink(missing_ok=True)
    with files.replacing(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.5g", lineterminator="\n")
    files.write_text(said, json.dumps(identity, indent=1, sort_keys=True) + "\n")


class _Network:
    """A run's network and what its tables need of it, each read or made when first asked for."""

    def __init__(self, run, data, methods, seed=0):
        self.run, self.data, self.methods, self.seed = run, data, methods, seed
        self.layer = models.REGISTRY[run.fit.model].feature_layer

    @cached_property
    def slices(self):
        return test_slices(self.run, self.data)

    @cached_property
    def pixels(self):
        return [pixels[self.slices["row"].to_numpy()] for pixels in (self.data.images, self.data.masks)]

    @cached_property
    def model(self):
        return self.run.model()

    @cached_property
    def training(self):
        """Masks, classes and patient groups of the training slices."""
        table = self.data.manifest
        held_out = table["image_id"].isin(self.run.predictions()["image_id"])
        rows = np.flatnonzero(~held_out & (table["mask_area"] > 0) & table["label"].isin(self.run.fit.classes))
        some = table.iloc[rows]
        return (
            self.data.masks[rows],
            some["label"].map(self.run.fit.classes.index).to_numpy(),
            some["patient_group"].to_numpy(),
        )

    @cached_property
    def coarse(self):
        """Method, or control that needs a network, to the maps of all test slices on the layer's grid."""
        steps = faithfulness.cascade_steps(models.depths(self.model, self.run.fit.model))
        first, whole = self.methods[:1], list(steps.values())[-1]
        maps = self.maps_of(self.methods)
        with faithfulness.altered(self.model, steps["head"], faithfulness.shuffled(self.seed)):
            maps["head shuffled"] = self.maps_of(first)[first[0]]
        with faithfulness.altered(self.model, whole, faithfulness.randomised(self.seed)):
            maps["random weights"] = self.maps_of(first)[first[0]]
        return maps

    def maps_of(self, methods, rows=slice(None)):
        classes = self.slices["class_index"].to_numpy()[rows]
        return gradcam.coarse_maps(self.model, self.pixels[0][rows], classes, methods, self.layer)

    def maps(self, rows):
        """Return (method, kind, grid) to the maps and controls, float32 (n, S, S), of some test slices."""
        images, masks = (pixels[rows] for pixels in self.pixels)
        about, grid = self.slices.iloc[rows], next(iter(self.coarse.values())).shape[1:]
        maps = {}
        for method, heat in self.coarse.items():
            kind = "map" if method in self.methods else "control"
            maps[method, kind, localisation.in_words(grid)] = gradcam.enlarged(heat[rows], images.shape[1])
        groups = about["patient_group"].to_numpy()
        drawn = localisation.controls(images, masks, about["class_index"], groups, self.training, grid)
        for (name, words), heat in drawn.items():
            maps[name, "ceiling" if name == localisation.CEILING else "control", words] = heat
        return maps

    def scores(self, tolerance):
        masked = np.flatnonzero(self.pixels[1].any((1, 2)))
        tables = [pd.DataFrame(columns=TABLES["gradcam"])]
        starts = range(0, len(masked), _TOGETHER)
        for start in tqdm(starts, "maps scored", unit="batch", leave=False, disable=not watched()):
            rows = masked[start : start + _TOGETHER]
            masks = self.pixels[1][rows]
            distance = localisation.distances(masks)
            for about, heat in self.maps(rows).items():
                table = localisation.scores(heat, masks, tolerance, distance)
                tables.append(self.described(rows, about, table))
        return pd.concat(tables[1:] or tables, ignore_index=True)

    def erased(self):
        return reliance.predictions(self.model, self.slices, self.data, self.run.fit.classes)

    def insertion(self, steps):
        rows, tables = self.followed, []
        images, classes = self.pixels[0][rows], self.slices["class_index"].to_numpy()[rows]
        ends = faithfulness.ends_of(self.model, images)
        maps = self.maps(rows)
        own_grid = next(iter(maps))[2]
        for about, heat in maps.items():
            if about[1] != "ceiling" and about[2] == own_grid:
                table = faithfulness.insertion_deletion(self.model, images, heat, classes, steps, ends)
                tables.append(self.described(rows, about, table))
        return pd.concat(tables, ignore_index=True)

    def cascade(self):
        rows, method, size = self.followed, self.methods[0], self.pixels[0].shape[1]
        fitted = gradcam.enlarged(self.coarse[method][rows], size)
        steps = faithfulness.cascade_steps(models.depths(self.model, self.run.fit.model))
        tables = []
        for number, (step, layers) in enumerate(steps.items()):
            with faithfulness.altered(self.model, layers, faithfulness.randomised(self.seed)):
                drawn = gradcam.enlarged(self.maps_of([method], rows)[method], size)
            table = faithfulness.similarity(fitted, drawn).assign(number=number, step=step)
            tables.append(table.assign(image_id=self.slices["image_id"].to_numpy()[rows]))
        return pd.concat(tables, ignore_index=True)

    @property
    def followed(self):
        count = len(self.slices)
        return np.unique(np.linspace(0, count - 1, min(FOLLOWED, count)).round().astype(int))

    def described(self, rows, about, table):
        names = dict(zip(("method", "kind", "grid"), about, strict=True))
        return table.assign(image_id=self.slices["image_id"].to_numpy()[rows], **names)
