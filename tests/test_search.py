"""The search: configurations judged on validation slices alone, and the rule that was written down before."""

import pandas as pd

from btlib import params
from btlib.fitting import runs
from btlib.study import judging, search

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
    monkeypatch.setattr(judging, "judged", lambda fit, study, role: (judged(*numbers[fit.id]), facts))
    log = search.trials(study, plan)
    assert log["accuracy"].tolist() == sorted((v[0] for v in NUMBERS.values()), reverse=True)
    assert log.loc[log["eligible"], "accuracy"].tolist() == [0.9, 0.8]
    assert log.loc[log["chosen"], "accuracy"].tolist() == [0.9]


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
    monkeypatch.setattr(judging, "judged", lambda fit, study, role: perfect if fit.id == first else None)
    log = search.trials(study, plan)
    assert log[["folds", "eligible", "chosen"]].to_numpy().tolist() == [["1 of 2", False, False]]
