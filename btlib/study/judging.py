"""A fit at a glance: is a slice right, does its map peak in the tumour, and is it right without the tumour?"""

import json

import pandas as pd

from btlib import DataError, files, params
from btlib.data import datasets
from btlib.fitting import runs
from btlib.models import registry as models
from btlib.scores import explanations, gradcam, localisation, reliance
from btlib.study import results, tables

FILL = "pasted"
"""What is put in a tumour's place to judge: tissue from elsewhere in the head, which no network is trained on."""

METHOD = "gradcam"

SCORES = {"pointing": "pointing", "energy": "energy", "right_erased": "accuracy_erased"}
"""Columns of `judge` that the ablation averages, and what its table calls them."""

DIFFERENCE = ("_difference", "_difference_low", "_difference_high")


def judged(fit: runs.Fit, study: params.Study, role: str) -> tuple[pd.DataFrame, dict] | None:
    """Return how a fit did on its slices of a role, and where it was made; None where it is neither kept nor finished.

    Returns:
        What `judge` returns, and role, title, fit_seconds, commit and hardware: reports/<profile>/judged/<id>.csv and
        .json. A fit that was made here anew is judged anew.

    Raises:
        DataError: the run was brought here without its model.
    """
    path = tables.folder(study.profile) / "judged" / f"{fit.id}.csv"
    about, run = path.with_suffix(".json"), runs.load(fit)
    kept = json.loads(about.read_text(encoding="utf-8")) if path.exists() and about.exists() else None
    if run is not None:
        made = run.provenance()
        facts = {"role": role} | {key: made[key] for key in ("title", "fit_seconds", "commit", "hardware")}
        if kept != facts:
            about.unlink(missing_ok=True)
            with files.replacing(path) as temporary:
                judge(run, study, role).to_csv(temporary, index=False, float_format="%.4g", lineterminator="\n")
            files.write_text(about, json.dumps(facts, indent=1) + "\n")
            kept = facts
    if kept is None or kept["role"] != role:
        return None
    return pd.read_csv(path, dtype={"image_id": str, "patient_id": str}), kept


def judge(run: runs.Run, study: params.Study, role: str) -> pd.DataFrame:
    """Judge a finished run on its slices of a role, "test" or "validation".

    Returns:
        One row a slice: image_id, label, patient_id, grid (of the map: "10 x 10"), right, energy, pointing (of the map by
        `METHOD`), right_erased, right_elsewhere (by `FILL`). Right is 1 or 0; what needs a mask is empty where there is
        none, right_elsewhere also where there is no room elsewhere in the head.
    """
    data = datasets.load(study.data, run.fit.preprocessing)
    slices, model = explanations.test_slices(run, data, role), run.model()
    images, masks = (pixels[slices["row"].to_numpy()] for pixels in (data.images, data.masks))
    layer = models.REGISTRY[run.fit.model].feature_layer
    coarse = gradcam.coarse_maps(model, images, slices["class_index"].to_numpy(), [METHOD], layer)[METHOD]
    maps, right = gradcam.enlarged(coarse, images.shape[1]), slices["outcome"] == "right"
    table = slices[["image_id", "label", "patient_id"]].assign(grid=localisation.in_words(coarse.shape[1:]))
    table, masked = table.assign(right=right.astype(int)), masks.any((1, 2))
    scored = localisation.scores(maps[masked], masks[masked], study.gradcam.tolerance_px)
    for name in ("energy", "pointing"):
        table.loc[masked, name] = scored[name].to_numpy()
    said = reliance.predictions(model, slices, data, run.fit.classes, [FILL]).merge(slices[["image_id", "label"]])
    said["right"] = (said["predicted"] == said["label"]).astype(int)
    for erased, name in (("tumour", "right_erased"), ("elsewhere", "right_elsewhere")):
        table[name] = table["image_id"].map(said[said["erased"] == erased].set_index("image_id")["right"])
    return table


def ablation(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Return gradcam_ablation.csv: where each setting of the ablation looks, and what its answer rests on.

    Of test slices with a mask, folds together; differences are from the proposed network on the same slices.

    Raises:
        DataError: a fit is not there, or was brought here without its model and is not kept as judged.
    """
    rows, base = [], None
    for (factor, value), group in results.settings(plan):
        table = pd.concat([_there(fit, study) for fit in group["fit"]]).set_index("image_id").dropna(subset="pointing")
        if table.empty:  # the data have no masks
            break
        base = table if base is None else base  # the proposed network comes first
        resamples = results.resamples(study, table["patient_id"])
        scores = []
        for name in SCORES:
            own, known = table[name], table[name].notna()
            scores += results.resamples(study, table["patient_id"][known]).mean(own[known])
            scores += resamples.difference(own, base[name].reindex(table.index))[:3]
        about = (
            factor,
            value or "proposed",
            tables.change_name(factor, value),
            table["grid"].iloc[0],
            len(table),
            table["patient_id"].nunique(),
        )
        rows.append((*about, *scores, table is base))
    names = [f"{name}{end}" for name in SCORES.values() for end in ("", "_low", "_high", *DIFFERENCE)]
    return pd.DataFrame(rows, columns=["factor", "setting", "change", "grid", "slices", "patients", *names, "proposed"])


def _there(fit: runs.Fit, study: params.Study) -> pd.DataFrame:
    if (found := judged(fit, study, "test")) is None:
        raise DataError(f"not fitted yet: {fit.title}; `python -m btlib fit` fits it")
    return found[0]
