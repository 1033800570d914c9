"""The search for the proposed network's recipe: configurations judged on validation slices, and the rule that picks one."""

import json

import pandas as pd

from btlib import files, params
from btlib.data import datasets
from btlib.fitting import runs
from btlib.models import registry as models
from btlib.scores import explanations, gradcam, localisation, reliance
from btlib.study import tables

FILL = "pasted"
"""What is put in a tumour's place to judge: tissue from elsewhere in the head, which no network is trained on."""

POINTING, ERASED, ELSEWHERE = 0.5, 0.7, 0.02
"""The rule of params/search.yaml: pointing at least so much, accuracy without the tumour below, and lost at most elsewhere."""


def judged(fit: runs.Fit, study: params.Study) -> tuple[pd.DataFrame, dict] | None:
    """Return how a fit did on its validation slices, and where it was made; None where it is neither kept nor finished.

    Returns:
        What `judge` returns, and fit_seconds, commit and hardware: reports/<profile>/judged/<id>.csv and .json.
    """
    path = tables.folder(study.profile) / "judged" / f"{fit.id}.csv"
    if not path.exists():
        run = runs.load(fit)
        if run is None:
            return None
        with files.replacing(path) as temporary:
            judge(run, study).to_csv(temporary, index=False, lineterminator="\n")
        facts = {key: run.provenance()[key] for key in ("title", "fit_seconds", "commit", "hardware")}
        files.write_text(path.with_suffix(".json"), json.dumps(facts, indent=1) + "\n")
    return pd.read_csv(path, dtype={"image_id": str}), json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def judge(run: runs.Run, study: params.Study) -> pd.DataFrame:
    """Judge a finished run on its validation slices.

    Returns:
        One row a validation slice: image_id, label, patient_group, right, pointing, right_erased, right_elsewhere (1, 0;
        empty where it has no mask, or no room elsewhere in the head).
    """
    data = datasets.load(study.data, run.fit.preprocessing)
    slices, model = explanations.test_slices(run, data, "validation"), run.model()
    images, masks = (pixels[slices["row"].to_numpy()] for pixels in (data.images, data.masks))
    layer = models.REGISTRY[run.fit.model].feature_layer
    coarse = gradcam.coarse_maps(model, images, slices["class_index"].to_numpy(), ["gradcam"], layer)["gradcam"]
    maps = gradcam.enlarged(coarse, images.shape[1])
    table = slices[["image_id", "label", "patient_group"]].assign(right=(slices["outcome"] == "right").astype(int))
    masked = masks.any((1, 2))
    scored = localisation.scores(maps[masked], masks[masked], study.gradcam.tolerance_px)
    table.loc[masked, "pointing"] = scored["pointing"].to_numpy()
    said = reliance.predictions(model, slices, data, run.fit.classes)
    said = said[said["fill"] == FILL].merge(slices[["image_id", "label"]])
    said["right"] = (said["predicted"] == said["label"]).astype(int)
    for erased, name in (("tumour", "right_erased"), ("elsewhere", "right_elsewhere")):
        table[name] = table["image_id"].map(said[said["erased"] == erased].set_index("image_id")["right"])
    return table


def trials(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Log every fitted configuration of the plan's ablation, and choose by the rule of params/search.yaml.

    Returns:
        A row a configuration, the best accuracy first, folds pooled: eligible says whether all folds are there and the
        rule is kept; chosen is the eligible one of best accuracy.
    """
    rows = []
    for setting, group in plan[plan["purpose"] == "ablation"].groupby(["factor", "value"], sort=False):
        finished = {fit.id: both for fit in group["fit"] if (both := judged(fit, study))}
        if not finished:
            continue
        table, facts = pd.concat(t for t, _ in finished.values()), [f for _, f in finished.values()]
        scores = table[["right", "pointing", "right_erased", "right_elsewhere"]].mean()
        whole = table.loc[table["right_elsewhere"].notna(), "right"].mean()
        rests = scores["right_erased"] < ERASED and whole - scores["right_elsewhere"] <= ELSEWHERE
        eligible = bool(len(finished) == len(group) and scores["pointing"] >= POINTING and rests)
        minutes = round(sum(f["fit_seconds"] for f in facts) / 60, 1)
        words = ": ".join(setting) if setting[1] else "proposed"
        folds, commits = f"{len(finished)} of {len(group)}", " ".join(dict.fromkeys(f["commit"] for f in facts))
        rows.append((words, folds, len(table), *scores, eligible, False, minutes, " ".join(finished), commits))
    scores = ("accuracy", "pointing", "accuracy_erased", "accuracy_elsewhere")
    names = ["setting", "folds", "n_validation", *scores, "eligible", "chosen", "minutes", "fits", "commit"]
    log = pd.DataFrame(rows, columns=names).sort_values("accuracy", ascending=False, ignore_index=True)
    if log["eligible"].any():
        log.loc[log["eligible"].idxmax(), "chosen"] = True
    return log
