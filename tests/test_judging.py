"""Fits at a glance: judged once, kept without their run, and what each change of the ablation does to where they look."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from btlib import DataError, params
from btlib.data import datasets
from btlib.fitting import runs, training
from btlib.scores import explanations, reliance
from btlib.study import judging, tables


def test_a_fit_is_judged_on_its_validation_slices_once_and_kept_without_its_run(study, home, monkeypatch):
    fit = runs.fit_of(study, datasets.fingerprint(study.data), study.proposed, "image_holdout", 0, 0)
    run = training.fit(study, fit)
    table, facts = judging.judged(fit, study, "validation")
    own = run.predictions("validation")
    assert sorted(table["image_id"]) == sorted(own["image_id"])
    logits = own[runs.logits_of(fit.classes)].to_numpy()
    assert table["right"].mean() == pytest.approx((logits.argmax(1) == own["label"].map(fit.classes.index)).mean())
    assert table[["pointing", "right_erased"]].stack().isin([0, 1]).all()
    assert facts["commit"] == run.provenance()["commit"]
    shutil.rmtree(run.folder)
    pd.testing.assert_frame_equal(judging.judged(fit, study, "validation")[0], table)


def test_a_slice_without_a_mask_is_judged_without_its_map(study, home, monkeypatch):
    fit = runs.fit_of(study, datasets.fingerprint(study.data), study.proposed, "image_holdout", 0, 0)
    run = training.fit(study, fit)
    data = datasets.load(study.data, fit.preprocessing)
    first = int(explanations.test_slices(run, data, "validation")["row"].iloc[0])
    masks = np.array(data.masks)
    masks[first] = 0
    blank = dataclasses.replace(data, images=np.array(data.images), masks=masks)
    monkeypatch.setattr(judging.datasets, "load", lambda *_: blank)
    table = judging.judge(run, study, "validation").set_index("image_id")
    lost = data.manifest["image_id"].iloc[first]
    assert table["pointing"].isna().sum() == 1 and np.isnan(table.loc[lost, "pointing"])


def test_a_fit_that_was_made_anew_is_judged_anew_and_one_of_another_role_is_none(study, home):
    fit = runs.fit_of(study, datasets.fingerprint(study.data), study.proposed, "image_holdout", 0, 0)
    assert judging.judged(fit, study, "test") is None
    run = training.fit(study, fit)
    first, facts = judging.judged(fit, study, "test")
    path = tables.folder(study.profile) / "judged" / f"{fit.id}.csv"
    kept = path.read_text()
    path.write_text(kept.splitlines()[0] + "\n")
    assert judging.judged(fit, study, "test")[0].empty, "what is kept of this very fit is read"
    about = json.loads((run.folder / "provenance.json").read_text()) | {"hardware": "another"}
    (run.folder / "provenance.json").write_text(json.dumps(about))
    again, other = judging.judged(fit, study, "test")
    pd.testing.assert_frame_equal(again, first)
    assert (facts["hardware"], other["hardware"]) != ("another", facts["hardware"]) and path.read_text() == kept
    shutil.rmtree(run.folder)
    assert judging.judged(fit, study, "validation") is None


def test_what_is_judged_agrees_with_the_tables_of_explanations(study, home):
    fit = runs.fit_of(study, datasets.fingerprint(study.data), study.proposed, "image_holdout", 0, 0)
    run = training.fit(study, fit)
    data = datasets.load(study.data, fit.preprocessing)
    explained = explanations.explain_run(run, data, study.gradcam, study.seed)
    table = judging.judge(run, study, "test").set_index("image_id")
    maps = explained["gradcam"].query("method == 'gradcam' and kind == 'map'").set_index("image_id")
    for name in ("energy", "pointing"):
        assert table[name].to_dict() == pytest.approx(maps[name].to_dict(), abs=1e-4), name
    assert set(table["grid"]) == set(maps["grid"])
    erased = explained["erased"].query(f"fill == {judging.FILL!r}").set_index("image_id")
    right = (erased["predicted"] == erased["label"]).astype(int)
    for place, name in (("tumour", "right_erased"), ("elsewhere", "right_elsewhere")):
        assert table[name].dropna().to_dict() == right[erased["erased"] == place].to_dict(), name
    assert judging.FILL in reliance.UNTRAINED


def ablated(study, monkeypatch, numbers):
    """A study of one change on one fold, and its plan, judged as `numbers` say: columns of slices by setting."""
    given = study.model_dump()
    given["ablation"] = {"protocol": "image_holdout", "seeds": [0], "folds": None, "changes": [{"recipe.cam_loss": 2}]}
    study = params.check(given, "x")
    plan = runs.plan(study, "data")
    by_id = dict(zip(plan.loc[plan["purpose"] == "ablation", "id"], numbers, strict=True))

    def judged(fit, study, role):
        assert role == "test"
        return (pd.DataFrame(by_id[fit.id]), {}) if by_id[fit.id] is not None else None

    monkeypatch.setattr(judging, "judged", judged)
    return study, plan


def test_the_ablation_says_where_each_change_looks_on_the_same_slices(study, home, monkeypatch):
    slices = {"image_id": [*"abcd"], "patient_id": [*"pqrs"], "grid": "4 x 4"}
    own = slices | {
        "pointing": [1, 1, 0, np.nan],
        "energy": [0.5, 0.4, 0.3, np.nan],
        "right_erased": [0, 1, np.nan, np.nan],
    }
    other = slices | {
        "pointing": [0, 1, 0, np.nan],
        "energy": [0.2, 0.4, 0.3, np.nan],
        "right_erased": [1, 1, 1, np.nan],
    }
    study, plan = ablated(study, monkeypatch, [own, other])
    table = judging.ablation(study, plan)
    assert table["change"].tolist() == ["none: the proposed network", "recipe.cam_loss 2"]
    assert table[["grid", "slices", "patients"]].to_numpy().tolist() == [["4 x 4", 3, 3]] * 2
    first, last = table.to_dict("records")
    assert [first[k] for k in ("pointing", "energy", "accuracy_erased")] == pytest.approx([2 / 3, 0.4, 0.5])
    assert [last[k] for k in ("pointing", "energy", "accuracy_erased")] == pytest.approx([1 / 3, 0.3, 1])
    gaps = [f"{k}_difference" for k in ("pointing", "energy", "accuracy_erased")]
    assert [first[k] for k in gaps] == [0, 0, 0]
    assert [last[k] for k in gaps] == pytest.approx([-1 / 3, -0.1, 0.5])
    assert last["pointing_difference_low"] == -1 and last["pointing_difference_high"] == 0
    assert table["proposed"].tolist() == [True, False]
    assert table[["factor", "setting"]].to_numpy().tolist() == [["proposed", "proposed"], ["recipe.cam_loss", "2"]]


def test_the_ablation_of_slices_without_masks_has_no_rows_and_one_not_fitted_is_refused(study, home, monkeypatch):
    none = {"image_id": ["a"], "patient_id": ["p"], "grid": "4 x 4", "pointing": [np.nan], "right_erased": [np.nan]}
    assert judging.ablation(*ablated(study, monkeypatch, [none, none])).empty
    with pytest.raises(DataError, match="not fitted yet: toy"):
        judging.ablation(
            *ablated(study, monkeypatch, [none | {"pointing": [1.0], "energy": [0.5], "right_erased": [1]}, None])
        )
