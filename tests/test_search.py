"""The search: configurations judged on validation slices alone, and the rule that was written down before."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest

from btlib import params
from btlib.data import datasets
from btlib.fitting import runs, training
from btlib.scores import explanations
from btlib.study import search

NUMBERS = {  # accuracy, pointing, right without the tumour, right with as much erased elsewhere
    "best but points nowhere": (1.0, 0.4, 0.5, 1.0),
    "good and rests on the tumour": (0.9, 0.5, 0.6, 0.9),
    "answers without the tumour": (0.95, 0.9, 0.7, 0.95),
    "loses elsewhere": (0.95, 0.9, 0.5, 0.9),
    "worse and rests on the tumour": (0.8, 0.9, 0.1, 0.8),
}


def judged(accuracy, pointing, erased, elsewhere):
    columns = {"right": accuracy, "pointing": pointing, "right_erased": erased, "right_elsewhere": elsewhere}
    return pd.DataFrame({name: [1] * round(20 * v) + [0] * round(20 - 20 * v) for name, v in columns.items()})


def test_the_rule_takes_the_most_accurate_of_those_that_point_and_rest_on_the_tumour(study, home, monkeypatch):
    given = study.model_dump()
    given["ablation"]["changes"] = [{"head.dropout": 0.01 * k} for k in range(1, len(NUMBERS))]
    study = params.check(given, "x")
    plan = runs.plan(study, "data")
    numbers = dict(zip(plan.loc[plan["purpose"] == "ablation", "id"], NUMBERS.values(), strict=True))

    facts = {"fit_seconds": 60, "commit": "c"}
    monkeypatch.setattr(search, "judged", lambda fit, study: (judged(*numbers[fit.id]), facts))
    log = search.trials(study, plan)
    assert log["accuracy"].tolist() == sorted((v[0] for v in NUMBERS.values()), reverse=True)
    assert log.loc[log["eligible"], "accuracy"].tolist() == [0.9, 0.8]
    assert log.loc[log["chosen"], "accuracy"].tolist() == [0.9]


def test_a_fit_is_judged_on_its_validation_slices_once_and_kept_without_its_run(study, home, monkeypatch):
    fit = runs.fit_of(study, datasets.fingerprint(study.data), study.proposed, "image_holdout", 0, 0)
    run = training.fit(study, fit)
    table, facts = search.judged(fit, study)
    own = run.predictions("validation")
    assert sorted(table["image_id"]) == sorted(own["image_id"])
    logits = own[runs.logits_of(fit.classes)].to_numpy()
    assert table["right"].mean() == pytest.approx((logits.argmax(1) == own["label"].map(fit.classes.index)).mean())
    assert table[["pointing", "right_erased"]].stack().isin([0, 1]).all()
    assert facts["commit"] == run.provenance()["commit"]
    shutil.rmtree(run.folder)
    pd.testing.assert_frame_equal(search.judged(fit, study)[0], table)


def test_a_slice_without_a_mask_is_judged_without_its_map(study, home, monkeypatch):
    fit = runs.fit_of(study, datasets.fingerprint(study.data), study.proposed, "image_holdout", 0, 0)
    run = training.fit(study, fit)
    data = datasets.load(study.data, fit.preprocessing)
    first = int(explanations.test_slices(run, data, "validation")["row"].iloc[0])
    masks = np.array(data.masks)
    masks[first] = 0
    blank = dataclasses.replace(data, images=np.array(data.images), masks=masks)
    monkeypatch.setattr(search.datasets, "load", lambda *_: blank)
    table = search.judge(run, study).set_index("image_id")
    lost = data.manifest["image_id"].iloc[first]
    assert table["pointing"].isna().sum() == 1 and np.isnan(table.loc[lost, "pointing"])


def test_a_configuration_without_all_its_folds_is_shown_and_not_chosen(study, home, monkeypatch):
    given = study.model_dump()
    given["protocols"] = [{"protocol": "image_folds", "seeds": [0]}]
    given["comparison"], given["gradcam"]["protocol"] = given["protocols"][0], "image_folds"
    given["ablation"] = {"protocol": "image_folds", "seeds": [0], "folds": [0, 1], "changes": [{"head.dropout": 0.1}]}
    study = params.check(given, "x")
    plan = runs.plan(study, "data")
    assert search.trials(study, plan).empty
    first = plan.loc[plan["factor"] == "head.dropout", "id"].iloc[0]
    facts = {"fit_seconds": 60, "commit": "c"}
    perfect = judged(1, 1, 0, 1), facts
    monkeypatch.setattr(search, "judged", lambda fit, study: perfect if fit.id == first else None)
    log = search.trials(study, plan)
    assert log[["folds", "eligible", "chosen"]].to_numpy().tolist() == [["1 of 2", False, False]]
