"""Any classes from a CSV with masks, through what notebooks 02, 04 and 05 call; and what data cannot carry is refused."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from btlib import DataError, params
from btlib.data import datasets
from btlib.fitting import runs, training
from btlib.models import registry as models
from btlib.scores import explanations, map_tables, overlap
from btlib.study import describe, probing, results, verdicts


def hospital(root, classes, patients=10, masks=True):
    """Write a table of 40-pixel slices: a head, and a square tumour whose brightness is its class; two slices a patient."""
    rows, rng = [], np.random.default_rng(0)
    for p in range(patients * len(classes)):
        k = p % len(classes)
        for s in range(2):
            image, mask = np.full((40, 40), 20.0) + rng.normal(0, 2, (40, 40)), np.zeros((40, 40))
            image[4:36, 4:36] += 60
            down, across = rng.integers(8, 24, 2)
            mask[down : down + 8, across : across + 8] = 255
            image[mask > 0] = 110 + 140 * k / (len(classes) - 1)
            for kind, pixels in (("image", image), ("mask", mask)):
                Image.fromarray(pixels.astype(np.uint8)).save(root / f"{p}_{s}_{kind}.png")
            part = "test" if p % 5 == 0 else "train"
            rows.append(
                (f"{p}_{s}_image.png", classes[k], f"P{p}", f"{p}_{s}_mask.png" if masks else "", part, f"s{p % 7}")
            )
    table = pd.DataFrame(rows, columns=["path", "label", "patient_id", "mask", "part", "scanner"])
    table.to_csv(root / "slices.csv", index=False)
    return str(root / "slices.csv")


def study_of(study, path, classes, **changes):
    given = study.model_dump()
    given["data"] = {"source": "table", "path": path, "phantom": None, "labels": None, "unreadable": "error"}
    given |= {"classes": list(classes), "external": {}, "profile": "own", "test_time_augmentation": False}
    given["protocols"] = [{"protocol": p, "seeds": [0]} for p in ("patient_holdout", "published")]
    given["comparison"] = given["ablation"] = {"protocol": "patient_holdout", "seeds": [0]}
    given["ablation"] = given["comparison"] | {"changes": []}
    given["gradcam"] |= {"protocol": "patient_holdout", "methods": ["gradcam"], "deletion_steps": 2}
    given["preprocessing"] |= {"crop_to_head": False}
    return params.check(given | changes, "own")


@pytest.mark.parametrize("classes", [("benign", "malignant"), ("a", "b", "c", "d", "e")])
def test_any_number_of_classes_is_trained_on_from_a_table_with_masks(home, study, tmp_path, classes):
    study = study_of(study, hospital(tmp_path, classes), classes)
    dataset = training.prepare(study)
    # Notebooks 01 and 02.
    summary = describe.summary(describe.slices(study.data), study.classes)
    assert summary["label"].tolist() == [*classes, "all"] and (summary["with_mask"] == summary["slices"]).all()
    assert len(describe.one_of_each(dataset.manifest, study.classes)) == len(classes)
    splits = describe.partitions(study, dataset, overlap.within(dataset))
    assert splits.set_index("protocol").loc["patient_holdout", "patients_crossing"] == 0
    # Notebook 04.
    size = study.preprocessing.image_size
    model = models.build("toy", None, size, study.head, 0, len(study.classes))
    assert model.output_shape == (None, len(classes))
    plan = runs.plan(study, dataset.fingerprint)
    fitted = [training.fit(study, fit) for fit in plan.drop_duplicates("id")["fit"]]
    scores = results.models(study, plan)
    assert scores["protocol"].tolist() == ["patient_holdout", "published"] and scores["accuracy"].between(0, 1).all()
    confusion = results.confusion(study, plan)
    assert set(confusion["label"]) == set(confusion["predicted"]) == set(classes)
    assert list(fitted[0].predictions().filter(like="logit_")) == [f"logit_{c}" for c in classes]
    own = verdicts.claims(study, verdicts.found(study, scores, results.leakage(study, plan)))
    assert set(own["verdict"]) == {"not tested: another data set"} and own["ours"].isna().all()
    # Notebook 05.
    slices = explanations.test_slices(fitted[0], dataset)
    assert set(slices["label"]) == set(classes) and set(slices["predicted"]) <= set(classes)
    images, masks, maps, _ = explanations.pictures(fitted[0], dataset, study.gradcam.methods)
    assert images.shape == masks.shape == maps["gradcam"].shape and masks.any((1, 2)).all()
    explained = explanations.explain_run(fitted[0], dataset, study.gradcam, study.seed)
    table = explanations.pooled({"toy": [explained]}, "gradcam")
    assert len(table[table["kind"] == "map"]) and table.loc[table["kind"] == "map", "energy"].notna().all()
    assert len(map_tables.pick(slices)) >= len(classes)


def test_a_label_that_is_no_class_takes_no_part(home, study, tmp_path):
    path = hospital(tmp_path, ("a", "b", "healthy"))
    study = study_of(study, path, ("b", "a"))
    dataset = training.prepare(study)
    splits = describe.partitions(study, dataset, overlap.within(dataset))
    assert (splits[["n_train", "n_validation", "n_test"]].sum(axis=1) == 40).all()
    run = training.find(study, "toy", "patient_holdout")
    assert list(run.predictions().filter(like="logit_")) == ["logit_b", "logit_a"]
    assert set(run.predictions()["label"]) == {"a", "b"}


GUIDED = {"cam_loss": 0.3, "erase": None}


@pytest.mark.parametrize(
    ("protocols", "classes", "recipe", "told"),
    [
        (["image_holdout", "author_folds"], ("a", "b"), {}, r"author_folds: the data have no author's folds"),
        (
            ["image_holdout"],
            ("a", "b", "c"),
            {},
            r"classes: the data have no slices of c; labels of the data: a \(20\), b \(20\)",
        ),
        (["image_holdout"], ("a", "b"), GUIDED, "image_holdout: the data have no tumour masks"),
        (["image_holdout", "size_folds"], ("a", "b"), {}, "size_folds: the data have no column size"),
        (
            ["image_holdout", "patient_holdout"],
            ("a", "b"),
            {},
            "patient_holdout: the data have no patient ids for 40 of 40",
        ),
        (["image_holdout", "published"], ("a", "b"), {}, "published: the data have no published part for 40 of 40"),
    ],
)
def test_what_the_data_cannot_carry_is_refused_before_any_fit(home, study, tmp_path, protocols, classes, recipe, told):
    path = hospital(tmp_path, ("a", "b"), masks=False)
    plain = pd.read_csv(path, dtype=str, keep_default_na=False).drop(columns=["patient_id", "part", "mask"])
    plain.to_csv(path, index=False)
    listed = [{"protocol": p, "seeds": [0]} for p in protocols]
    first = {"protocol": "image_holdout", "seeds": [0]}
    recipes = study.model_dump()["recipes"]
    recipes["scratch"] |= recipe
    maps = study.model_dump()["gradcam"] | {"protocol": "image_holdout"}
    rest = {"comparison": first, "ablation": first | {"changes": []}, "gradcam": maps, "recipes": recipes}
    asked = study_of(study, path, classes, protocols=listed, **rest)
    with pytest.raises(DataError, match=told):
        runs.check(asked, datasets.manifest(asked.data))
    with pytest.raises(DataError, match=told):
        training.prepare(asked)
    assert not (home / "runs").exists()


@dataclasses.dataclass
class Kept:
    """A run of which only the predictions are there."""

    fit: runs.Fit
    table: pd.DataFrame

    def predictions(self, role=None):
        return self.table


def logits(labels, sure):
    """Two classes, glioma first: log odds of the label."""
    sign = np.where(np.array(labels) == "glioma", 1, -1)
    return {"logit_glioma": sign * np.array(sure) / 2, "logit_pituitary": -sign * np.array(sure) / 2}


def test_gliomas_are_compared_by_the_source_of_their_ids(study):
    label = ["glioma"] * 6 + ["pituitary"] * 2
    ids = ["MR1", "MR1", "MR2", "MR3", "77", "78", "79", "80"]
    table = pd.DataFrame({"image_id": range(8), "label": label, "patient_id": ids})
    table = table.assign(**logits(label, [9, 9, 9, -9, 9, -9, 9, 9]))
    fit = runs.fit_of(study, "x", study.proposed, "image_holdout", 0, 0)
    plan = pd.DataFrame({"purpose": ["proposed"], "id": ["x"], "fit": [fit], "run": [Kept(fit, table)]})
    found = probing.sources(study, plan).set_index("ids")
    assert found["recall"].to_dict() == {"MR": 0.75, "other": 0.5, "difference": 0.25}
    assert found["n"].to_dict() == {"MR": 4, "other": 2, "difference": 6}
    sure, unsure = 1 / (1 + np.exp(-9)), 1 / (1 + np.exp(9))
    assert found.loc["other", "confidence"] == pytest.approx((sure + unsure) / 2)


def test_the_source_is_told_from_thumbnails_only_where_they_differ(study):
    rng, n = np.random.default_rng(0), 80
    ids = [f"MR{p}" if p % 2 else f"{p}" for p in range(n // 2) for _ in range(2)]
    table = pd.DataFrame({"image_id": range(n), "label": "glioma", "patient_id": ids, "patient_group": ids})
    noise = rng.integers(0, 256, (n, 32, 32)).astype(np.uint8)
    marked = noise.copy()
    marked[[name.startswith("MR") for name in ids], :8] = 255
    study = study.model_copy(update={"statistics": params.Statistics(bootstrap=100, level=0.95)})
    scores = [probing.source_classifier(study, Pictures(table, images)) for images in (noise, marked)]
    (even,), (told,) = (s.to_dict("records") for s in scores)
    assert told["auroc"] == pytest.approx(1) and told["low"] == pytest.approx(1)
    assert (told["n"], told["n_mr"], told["patients"]) == (80, 40, 40)
    assert even["low"] < 0.5 < even["high"]
    assert probing.source_classifier(study, Pictures(table.assign(patient_id="1"), noise)).empty


@dataclasses.dataclass
class Pictures:
    manifest: pd.DataFrame
    images: np.ndarray


def test_a_slice_that_contradicts_its_label_is_listed_and_an_unsure_one_is_not():
    label = ["glioma"] * 4 + ["pituitary"] * 4
    table = pd.DataFrame({"image_id": list("abcdefgh"), "label": label, "patient_id": list("abcdefgh")})
    # d is surely of the other class; h is unsure, and below both thresholds.
    table = table.assign(**logits(label, [4, 4, 4, -4, 4, 4, 4, 0]))
    found = probing.second_look(table)
    assert found[["image_id", "label", "suggested"]].to_numpy().tolist() == [["d", "glioma", "pituitary"]]
    assert found["p_suggested"][0] == pytest.approx(1 / (1 + np.exp(-4)))
    assert found["margin"][0] == pytest.approx(1 - 2 * found["p_suggested"][0])


def test_spoiled_slices_are_scored_for_all_networks_alike(home, study):
    dataset = training.prepare(study)
    run = training.find(study, "toy", "image_holdout")
    table = probing.robustness(study, {"plain": run, "same": run}, dataset, most=4)
    plain, same = (table[table["network"] == name].drop(columns="network") for name in ("plain", "same"))
    np.testing.assert_array_equal(plain.to_numpy(), same.to_numpy())
    assert len(plain) == 7 * 6 and (plain["n"] == 4).all()
    assert (plain.loc[plain["strength"] == 0, ["loss", "loss_low", "loss_high"]] == 0).all(axis=None)
    assert (same.filter(like="difference") == 0).all(axis=None), "the same network beside itself"
    gaps = plain["accuracy"].iloc[0] - plain["accuracy"]
    np.testing.assert_allclose(plain["loss"], gaps, atol=1e-12)
    assert ((plain["loss_low"] <= plain["loss"]) & (plain["loss"] <= plain["loss_high"])).all()
    assert json.loads(plain.groupby("change")["strength"].agg(list).to_json())["blur"] == [0, 1, 2, 3, 4, 5]
