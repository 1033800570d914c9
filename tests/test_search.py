"""The search: configurations judged on validation slices alone, and the rule that was written down before."""

import json

import pandas as pd
import pytest

from btlib import params
from btlib.data import datasets
from btlib.fitting import runs, training
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

    class Done:
        def __init__(self, fit):
            self.id = fit.id

        def provenance(self):
            return {"fit_seconds": 60, "commit": "c"}

    monkeypatch.setattr(runs, "load", Done)
    monkeypatch.setattr(search, "judge", lambda run, study: judged(*numbers[run.id]))
    log = search.trials(study, plan)
    assert log["accuracy"].tolist() == sorted((v[0] for v in NUMBERS.values()), reverse=True)
    assert log.loc[log["eligible"], "accuracy"].tolist() == [0.9, 0.8]
    assert log.loc[log["chosen"], "accuracy"].tolist() == [0.9]


def test_a_run_is_judged_on_its_validation_slices_once(study, home, monkeypatch):
    fit = runs.fit_of(study, datasets.fingerprint(study.data), study.proposed, "image_holdout", 0, 0)
    run = training.fit(study, fit)
    table = search.judge(run, study)
    own = run.predictions("validation")
    assert sorted(table["image_id"]) == sorted(own["image_id"])
    logits = own[runs.logits_of(fit.classes)].to_numpy()
    assert table["right"].mean() == pytest.approx((logits.argmax(1) == own["label"].map(fit.classes.index)).mean())
    assert table[["pointing", "right_erased"]].stack().isin([0, 1]).all()
    monkeypatch.setattr(datasets, "load", None)
    pd.testing.assert_frame_equal(search.judge(run, study), table)


def test_a_configuration_without_all_its_folds_is_not_judged(study, home):
    given = json.loads(json.dumps(study.model_dump()))
    given["ablation"]["changes"] = [{"head.dropout": 0.1}]
    study = params.check(given, "x")
    assert search.trials(study, runs.plan(study, "data")).empty
