"""Kept predictions give the tables of the runs they came from, and nothing uncommitted or unplanned is kept."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from btlib import DataError, params
from btlib.data import datasets
from btlib.fitting import runs
from btlib.study import judging, kept, results, tables

NAMES = ("meningioma", "glioma", "pituitary")


@pytest.fixture
def fitted(study, home):
    """Two protocols, one of two folds, and a rival, as if fitted at a commit; predictions are drawn at random."""
    given = study.model_dump()
    given["protocols"] = [{"protocol": "image_holdout", "seeds": [0]}, {"protocol": "group_folds", "seeds": [0]}]
    given["split"]["folds"] = 2
    given["comparison"] = {"protocol": "image_holdout", "seeds": [0]}
    given["baselines"] = [given["proposed"] | {"model": "vgg16"}]
    study = params.check(given, "x")
    plan = runs.plan(study, datasets.fingerprint(study.data))
    for number, fit in enumerate(plan.drop_duplicates("id")["fit"]):
        rng = np.random.default_rng(number)
        label = np.arange(24) % 3
        logits = rng.normal(size=(24, 3)) + 2 * np.eye(3)[label]
        columns = {"image_id": [f"{k:02d}" for k in range(24)], "role": ["test"] * 18 + ["validation"] * 6}
        columns |= {"label": np.array(NAMES)[label], "patient_id": [f"{k % 6:03d}" for k in range(24)]}
        columns |= {"patient_group": "g", "plane": ["", "axial"] * 12}
        table = pd.DataFrame(columns | {f"logit_{c}": logits[:, k] for k, c in enumerate(NAMES)})
        with runs.claim(fit) as folder:
            table.to_csv(folder / "predictions.csv", index=False)
            facts = {"title": fit.title, "commit": "0" * 40, "n_train": 9, "n_test": 18, "fit_seconds": 1.5}
            facts |= {"hardware": "a processor", "backend": "tensorflow"}
            runs.finish(fit, folder, facts | {"parameters": 5, "macs": None})
    return study, plan


def facts_of(study):
    return tables.folder(study.profile) / "predictions" / "provenance.json"


def change(study, **entries):
    """Change the first kept fit's entry in provenance.json."""
    about = json.loads(facts_of(study).read_text())
    about["fits"][0] |= entries
    facts_of(study).write_text(json.dumps(about))


def test_tables_from_kept_predictions_are_those_of_the_runs(fitted, home):
    study, plan = fitted
    names = ("models", "leakage", "per_class", "confusion", "roc", "comparison", "patients", "planes")
    before = {name: getattr(results, name)(study, plan) for name in names}
    ids = kept.keep(study)
    assert ids == list(dict.fromkeys(plan["id"]))
    shutil.rmtree(home / "runs")
    (home / "data").unlink()
    again = kept.read(study)
    for name, table in before.items():
        pd.testing.assert_frame_equal(getattr(results, name)(study, again), table, rtol=1e-5, check_dtype=False)
    text = (tables.folder(study.profile) / "predictions" / f"{ids[0]}.csv").read_text().splitlines()
    assert text[0].startswith("image_id,role,label,patient_id,patient_group,plane,logit_")
    assert max(len(number.strip("-").replace(".", "").lstrip("0")) for number in text[1].split(",")[6:]) <= 7


def test_uncommitted_fits_are_not_kept_and_not_read(fitted, home):
    study, plan = fitted
    path = home / "runs" / plan["id"].iloc[0] / "provenance.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"commit": "0" * 40 + "+changes"}))
    with pytest.raises(DataError, match=rf"fit {plan['id'].iloc[0]} .* comes from uncommitted code"):
        kept.keep(study)
    assert not tables.folder(study.profile).exists(), "nothing is written"
    path.write_text(json.dumps(facts))
    kept.keep(study)
    change(study, commit="0" * 40 + "+changes")
    with pytest.raises(DataError, match="uncommitted code"):
        kept.read(study)


def test_fits_that_are_not_planned_are_refused_and_swept(fitted, home):
    study, plan = fitted
    with pytest.raises(DataError, match="nothing is kept"):
        kept.read(study)
    kept.keep(study)
    change(study, id="0" * 12)
    with pytest.raises(DataError, match=f"kept fits that {study.profile} does not plan: 0{{12}}"):
        kept.read(study)
    kept.keep(study)
    folder = tables.folder(study.profile) / "predictions"
    stray = folder / f"{'1' * 12}.csv"
    stray.write_text("")
    with pytest.raises(DataError, match=r"1{12}\.csv: no provenance of this fit"):
        kept.read(study)
    kept.keep(study)
    assert not stray.exists()
    (folder / f"{plan['id'].iloc[0]}.csv").unlink()
    with pytest.raises(DataError, match=rf"{plan['id'].iloc[0]}.csv: no predictions of this fit"):
        kept.read(study)


def test_what_is_kept_stays_when_only_some_fits_are_here(fitted, home):
    study, _ = fitted
    ids = kept.keep(study)
    shutil.rmtree(home / "runs" / ids[0])
    before = facts_of(study).read_text()
    assert kept.keep(study) == ids
    assert facts_of(study).read_text() == before
    assert kept.read(study)["run"].notna().all()


def test_a_fit_that_is_planned_and_not_kept_is_named_by_the_table_that_needs_it(fitted, home):
    study, plan = fitted
    shutil.rmtree(home / "runs" / plan["id"].iloc[0])
    kept.keep(study)
    with pytest.raises(DataError, match="not fitted yet: toy"):
        results.models(study, kept.read(study))


def test_a_fit_made_again_is_compared_with_the_kept_one_of_the_same_id_and_with_no_other(fitted, home):
    study, plan = fitted
    fingerprint = datasets.fingerprint(study.data)
    with pytest.raises(DataError, match="nothing is kept"):
        kept.reproduced(study, fingerprint)
    kept.keep(study)
    with pytest.raises(DataError, match="lists no fit that was made here again"):
        kept.reproduced(study, fingerprint)
    folder = home / "runs" / plan["id"].iloc[0]
    about = folder / "provenance.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"hardware": "abacus", "commit": "c0ffee"}))
    before = pd.read_csv(folder / "predictions.csv", dtype={"image_id": str, "patient_id": str})
    logits = before.filter(like="logit_").to_numpy()
    right = logits.argmax(1) == np.arange(24) % 3
    tested = (before["role"] == "test").to_numpy()
    once = np.flatnonzero(right & tested)[0]  # one slice that was right is now wrong
    logits[once] = -logits[once]
    after = before.assign(**{name: logits[:, k] for k, name in enumerate(before.filter(like="logit_"))})
    after[::-1].to_csv(folder / "predictions.csv", index=False)
    (found,) = kept.reproduced(study, fingerprint).to_dict("records")
    assert (found["id"], found["n_test"], found["inside"]) == (folder.name, 18, True)
    assert [found["kept"], found["accuracy"]] == pytest.approx([right[tested].mean(), right[tested].mean() - 1 / 18])
    assert found["alike"] == pytest.approx(17 / 18)
    assert (found["hardware"], found["commit"], found["kept_commit"]) == ("abacus", "c0ffee", "0" * 40)
    log = tables.folder(study.profile) / "reproduced.csv"
    log.write_text(log.read_text().replace("abacus", "a third machine"))
    assert len(kept.reproduced(study, fingerprint)) == 2, "rows of other machines stay"


ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    "profile", sorted(p.parent.parent.name for p in ROOT.glob("reports/*/predictions/provenance.json"))
)
def test_what_the_repository_keeps_is_planned_and_its_tables_come_again(profile, monkeypatch):
    monkeypatch.setenv("BTLIB_HOME", str(ROOT))
    study = params.load(profile)
    plan = kept.read(study)
    assert plan["run"].notna().any()
    for run in plan["run"].dropna().drop_duplicates():
        table = run.predictions("test")
        assert table["image_id"].is_unique and len(table) == run.provenance()["n_test"]
    about = ROOT / "reports" / profile / "provenance.json"
    fits = {f["id"] for f in json.loads(about.read_text())["fits"]} if about.exists() else set()
    if plan["run"].notna().all() and set(plan["id"]) == fits:
        for name in ("models", "leakage", "per_class", "confusion", "comparison", "ablation"):
            path = ROOT / "reports" / profile / "tables" / f"{name}.csv"
            if path.exists():
                written = io.StringIO(getattr(results, name)(study, plan).to_csv(index=False, float_format="%.6g"))
                again = pd.read_csv(
                    written, dtype=dict.fromkeys(tables.IDS, str), keep_default_na=False, na_values=[""]
                )
                pd.testing.assert_frame_equal(again, tables.read(profile, name), rtol=1e-4, check_dtype=False)
        if (ROOT / "reports" / profile / "tables" / "gradcam_ablation.csv").exists():
            written = tables.read(profile, "gradcam_ablation")
            pd.testing.assert_frame_equal(judging.ablation(study, plan), written, rtol=1e-4, check_dtype=False)
    judged = {path.stem for path in (ROOT / "reports" / profile / "judged").glob("*.csv")}
    assert judged <= set(plan["id"]), "what is judged is planned"
