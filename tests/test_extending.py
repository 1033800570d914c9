"""A backbone, a protocol, a CAM method and a data set of one's own: one place each, and a study runs with them."""

import dataclasses

import cv2
import keras
import numpy as np
import pytest

from btlib import ParamsError, params
from btlib.data import datasets, splits
from btlib.fitting import runs, training
from btlib.models import cams
from btlib.models import registry as models
from btlib.scores import gradcam
from btlib.study import results


def changed(study, **sections):
    return params.check(study.model_dump() | sections, "x")


def fitted(study):
    plan = runs.plan(study, datasets.fingerprint(study.data))
    return plan, [training.fit(study, fit) for fit in plan["fit"].drop_duplicates()]


def test_a_backbone_is_one_entry(study, home, monkeypatch):
    def make(size, weights, stride):
        image = keras.Input((size, size, 3))
        x = keras.layers.Conv2D(5, 3, strides=4, padding="same", activation="relu", name="mine_last")(image)
        return keras.Model(image, x)

    entry = dataclasses.replace(models.REGISTRY["toy"], make=make, feature_layer="mine_last", block="(mine)_")
    monkeypatch.setitem(models.REGISTRY, "mine", entry)
    proposed = study.model_dump()["proposed"] | {"model": "mine"}
    other = changed(study, proposed=proposed, gradcam=study.model_dump()["gradcam"] | {"models": ["mine"]})
    plan, _ = fitted(other)
    assert set(results.models(other, plan)["model"]) == {"mine"}


def test_a_protocol_is_one_row(study, home, monkeypatch):
    with pytest.raises(ParamsError, match=r"protocols\[0\]\.protocol: got 'halves'"):
        changed(study, protocols=[{"protocol": "halves", "seeds": [0]}])
    row = splits.Protocol("patient_id", "holdout", "persons apart, hold-out")
    monkeypatch.setitem(splits.PROTOCOLS, "person_holdout", row)
    given = study.model_dump() | {"protocols": [{"protocol": "person_holdout", "seeds": [0]}]}
    for section in ("comparison", "ablation", "gradcam"):
        given[section]["protocol"] = "person_holdout"
    other = params.check(given, "x")
    _, (run,) = fitted(other)
    patients = datasets.manifest(other.data).set_index("image_id")["patient_id"]
    table = run.predictions()
    tested = set(table.loc[table["role"] == "test", "patient_id"])
    assert tested and not tested & set(patients.drop(table["image_id"]))


def test_a_cam_method_is_one_function(study, home, monkeypatch):
    with pytest.raises(ParamsError, match=r"gradcam\.methods\[0\]: got 'brightest'; allowed: gradcam, "):
        changed(study, gradcam=study.model_dump()["gradcam"] | {"methods": ["brightest"]})
    monkeypatch.setitem(cams.METHODS, "brightest", lambda features, gradients: features.max(-1))
    other = changed(study, gradcam=study.model_dump()["gradcam"] | {"methods": ["brightest"]})
    _, (run, *_) = fitted(other)
    images = np.random.default_rng(0).integers(0, 255, (2, 32, 32), np.uint8)
    found = gradcam.coarse_maps(run.model(), images, None, other.gradcam.methods)["brightest"]
    assert found.shape[0] == 2 and found.max() > 0


def test_a_data_set_is_one_csv(study, home, tmp_path):
    rng, lines = np.random.default_rng(0), ["path,label,patient_id"]
    for n in range(60):
        assert cv2.imwrite(str(tmp_path / f"{n}.png"), rng.integers(0, 255, (40, 40), np.uint8))
        lines.append(f"{n}.png,{study.classes[n % 3]},p{n % 3}_{n // 6}")
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    data = {
        "source": "table",
        "path": str(tmp_path / "mine.csv"),
        "phantom": None,
        "labels": None,
        "unreadable": "error",
    }
    given = study.model_dump() | {
        "data": data,
        "external": {},
        "protocols": [{"protocol": "patient_holdout", "seeds": [0]}],
    }
    for section in ("comparison", "ablation", "gradcam"):
        given[section]["protocol"] = "patient_holdout"
    other = params.check(given, "x")
    _, (run,) = fitted(other)
    table, manifest = run.predictions("test"), datasets.manifest(other.data)
    assert set(manifest["label"]) == set(study.classes) and len(manifest) == 60
    tested = manifest["patient_id"].isin(table["patient_id"])
    assert 0 < tested.sum() == len(table), "a tested patient is tested with all pictures"
