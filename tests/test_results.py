"""Verdicts follow from numbers by rule, and nothing pretrained is compared silently with something random."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from btlib import DataError, params
from btlib.data import datasets
from btlib.fitting import runs, training
from btlib.scores import classification, resampling
from btlib.study import results, sentences, tables, verdicts

RIVAL = {
    "model": "vgg16",
    "weights": "random",
    "image_size": 96,
    "reference": "efficientnet_lite0",
    "reference_weights": "imagenet",
    "reference_image_size": 160,
    "accuracy": 0.7,
    "difference": -0.25,
    "low": -0.3,
    "high": -0.2,
}


@pytest.fixture
def real(monkeypatch, tmp_path):
    """The figshare profile in an empty home: its tables are what a test writes there."""
    monkeypatch.setenv("BTLIB_HOME", str(tmp_path))
    return params.load("figshare")


def verdict(study, key, *numbers):
    table = verdicts.claims(study, {key: verdicts.Finding(*numbers)})
    texts = dict(zip(verdicts.listed_claims(), table["verdict"], strict=True))
    assert set(texts.values()) - {"not tested: not run here"} == {texts[key]}
    return texts[key]


@pytest.mark.parametrize(
    ("key", "numbers", "expected"),
    [
        # The paper's count is 305 of 307, 457 of 460 or 609 of 613: 0.9766 to 0.9982 at the least, 0.9833 to 0.9975.
        ("accuracy", (0.9935, 0.98, 1.0), "cannot be told apart"),
        ("accuracy", (0.98, 0.975, 0.985), "cannot be told apart"),
        ("accuracy", (0.95, 0.93, 0.97), "lower"),
        # Above 609 of 613 alone, for hypot(0.0003, 0.0040) is less than 0.0042: the three sizes do not agree.
        ("accuracy", (0.9977, 0.9974, 0.998), "cannot be told apart"),
        ("accuracy", (0.9996, 0.9995, 1.0), "higher"),
        ("baselines", (0.1, 0.05, 0.2), "higher"),
        ("baselines", (0.1, -0.05, 0.2), "cannot be told apart"),
        ("baselines", (-0.1, -0.2, -0.05), "lower"),
        ("parameters", (0.8, float("nan"), float("nan")), "higher"),
        ("baselines", (0.1, 0.05, 0.2, None, "not tested: no fair test"), "not tested: no fair test"),
        ("external", (0.99, 0.98, 1.0, 2475, "not testable: 94 % are copies"), "not testable: 94 % are copies"),
        # 247 of 267 is the paper's share of the clean slices: 0.887 to 0.951.
        ("external_clean", (0.77, 0.72, 0.82, 267), "lower"),
        ("external_clean", (0.90, 0.86, 0.93, 267), "cannot be told apart"),
    ],
)
def test_a_verdict_follows_from_value_and_interval(real, key, numbers, expected):
    assert verdict(real, key, *numbers) == expected


def test_made_up_slices_get_no_verdict():
    assert verdict(params.load("quick"), "accuracy", 1.0, 0.99, 1.0) == "not tested: made-up slices"


def test_a_claim_is_judged_on_the_data_set_that_it_was_made_on_alone(real):
    other = real.model_copy(update={"data": real.data.model_copy(update={"source": "table"})})
    table = verdicts.claims(other, {"accuracy": verdicts.Finding(0.95, 0.93, 0.97)})
    assert set(table["verdict"]) == {"not tested: another data set"}
    assert table[["ours", "low", "high"]].isna().all(axis=None) and (table["data"] == "").all()


def test_of_a_network_from_random_weights_the_count_of_parameters_alone_is_judged(real):
    """The paper's networks were pretrained, so neither their numbers nor their order are tested by it."""
    real = real.model_copy(update={"proposed": real.proposed.model_copy(update={"weights": None})})
    found = {"accuracy": verdicts.Finding(0.8, 0.7, 0.9), "baselines": verdicts.Finding(0.1, 0.05, 0.2)}
    table = verdicts.claims(real, found | {"parameters": verdicts.Finding(0.7, np.nan, np.nan)})
    said = table.set_index(pd.Index(verdicts.listed_claims()))
    assert said.loc["parameters", ["ours", "verdict"]].tolist() == [0.7, "higher"]
    others = said.drop("parameters")
    assert set(others["verdict"]) == {"not tested: random weights here, the paper's were pretrained"}
    assert others[["ours", "low", "high"]].isna().all(axis=None)


def test_the_papers_number_has_the_interval_of_its_least_test_set_and_says_what_is_assumed(real):
    table = verdicts.claims(real, {"external_clean": verdicts.Finding(0.77, 0.72, 0.82, 267)})
    rows = dict(zip(verdicts.listed_claims(), table.to_dict("records"), strict=True))
    least = resampling.wilson(305, 307, 0.95)[0], max(resampling.wilson(*c, 0.95)[1] for c in ((305, 307), (609, 613)))
    assert (rows["accuracy"]["paper_low"], rows["accuracy"]["paper_high"]) == pytest.approx(least)
    assert "307, 460, 613 slices (10, 15, 20 %)" in rows["accuracy"]["assumption"]
    assert rows["external_clean"]["paper_low"] == pytest.approx(resampling.wilson(247, 267, 0.95)[0])
    assert "267 slices" in rows["external_clean"]["assumption"] and rows["baselines"]["assumption"] == ""


@pytest.mark.parametrize(("clean", "untested"), [(6, "not testable: 94 % are copies"), (96, "")])
def test_an_external_score_that_stands_on_copies_is_no_test(real, clean, untested):
    numbers = {"accuracy": 0.98, "accuracy_low": 0.97, "accuracy_high": 0.99}
    rows = [{"slices": "all", "n": 100}, {"slices": "clean", "n": clean}]
    rows = [{"set": "bhuvaji", **row, **numbers} for row in rows]
    rows += [row | {"set": "pmram", "n": 7, "accuracy": 0.5} for row in rows]
    tables.write(real.profile, "cross_dataset", pd.DataFrame(rows))
    findings = verdicts.found(real, pd.DataFrame(), pd.DataFrame({"protocol": []}))
    assert findings["external"] == (
        0.98,
        0.97,
        0.99,
        100,
        untested,
        "Kaggle: sartajbhuvaji/brain-tumor-classification-mri",
        "",
    )
    assert findings["external_clean"] == (
        0.98,
        0.97,
        0.99,
        clean,
        "",
        "Kaggle: sartajbhuvaji/brain-tumor-classification-mri",
        "",
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ["not tested: no fair test", "random weights, 96 px against imagenet weights, 160 px"]),
        ({"weights": "imagenet"}, ["not tested: no fair test", "96 px", "160 px"]),
        ({"weights": "imagenet", "image_size": 160}, []),
    ],
)
def test_a_random_or_smaller_rival_is_no_fair_test(real, changes, told):
    tables.write(real.profile, "comparison", pd.DataFrame([RIVAL | changes, RIVAL | {"model": "efficientnet_b0"}]))
    scores = pd.DataFrame({"model": ["efficientnet_lite0", "vgg16", "efficientnet_b0"], "parameters": [3.0, 12.0, 4.0]})
    split = pd.DataFrame({"protocol": []})
    value, low, high, _, said, *_ = verdicts.found(real, scores, split)["baselines"]
    assert (value, low, high) == pytest.approx((0.25, 0.2, 0.3))
    assert all(words in said for words in told) and bool(said) == bool(told)
    assert verdicts.found(real, scores, split)["parameters"][0] == pytest.approx(1 - 3 / 12)


def test_maps_are_judged_against_the_best_control_over_all_slices(real):
    """A class's own control may be higher, and is no control of all slices."""
    one = {"model": "efficientnet_lite0", "method": "gradcam", "score": "energy"}
    rows = [
        one | {"by": by, "control_mean": control, "control_low": control - 0.01, "control_high": control + 0.01}
        for by, control in (("all", 0.10), ("all", 0.12), ("label", 0.3))
    ]
    rows = [row | {"mean": 0.25, "low": 0.24, "high": 0.26} for row in rows]
    rows = [row | {"control": f"control {i}", "control_grid": "8 x 8"} for i, row in enumerate(rows)]
    rows += [row | {"model": "efficientnet_lite0/plain/32", "mean": 0.05, "control_mean": 0.2} for row in rows[:1]]
    tables.write(real.profile, "gradcam_controls", pd.DataFrame(rows))
    found = verdicts.found(real, pd.DataFrame(), pd.DataFrame({"protocol": []}))["gradcam"]
    assert found[:3] == pytest.approx((0.25 - 0.12, 0.24 - 0.13, 0.26 - 0.11))
    claims = verdicts.claims(real, {"gradcam": found}).set_index("verdict")
    assert claims.loc["higher", "assumption"] == "best control: control 1, 8 x 8"
    plain = verdicts.found(real, pd.DataFrame(), pd.DataFrame({"protocol": []}))["gradcam_plain"]
    assert plain[:3] == pytest.approx((0.05 - 0.2, 0.24 - 0.11, 0.26 - 0.09))


def test_epochs_are_told_where_those_of_compared_networks_differ():
    chances = {"reference_accuracy": 0.95, "n": 613, "mcnemar_p_holm": 0.1, "bootstrap_p_holm": 0.1}
    table = pd.DataFrame([RIVAL | chances])
    said = sentences.baselines_in_words(params.load("scratch"), table)
    assert "Epochs differ: EfficientNet-Lite0 40, EfficientNet-B0 40, VGG16 20, ResNet152V2 17, ViT-B/16 12." in said
    assert "Epochs differ" not in sentences.baselines_in_words(params.load("rivals"), table)


def test_an_efficientnet_is_no_rival_of_the_paper(real):
    tables.write(real.profile, "comparison", pd.DataFrame([RIVAL | {"model": "efficientnet_b0"}]))
    scores = pd.DataFrame({"model": ["efficientnet_lite0", "efficientnet_b0"], "parameters": [3.0, 4.0]})
    assert verdicts.found(real, scores, pd.DataFrame({"protocol": []})) == {}


@pytest.mark.parametrize(
    ("share", "n_test", "right", "wrong"), [(0.1, 307, 305, 2), (0.15, 460, 457, 3), (0.2, 613, 609, 4)]
)
def test_the_papers_accuracy_is_a_handful_of_errors(share, n_test, right, wrong):
    row = verdicts.holdout_errors(0.9935, 3064, 0.95).set_index("fraction").loc[share]
    assert tuple(row[["n_test", "right", "wrong"]]) == (n_test, right, wrong)
    assert row["low"] < 0.9935 < row["high"]


@dataclass
class Fitted:
    """A run that was never fitted: what it predicts is written here."""

    fit: runs.Fit
    tested: pd.DataFrame

    @property
    def id(self):
        return self.fit.id

    def predictions(self, role):
        return self.tested[self.tested["role"] == role].reset_index(drop=True)

    def provenance(self):
        return {"n_train": 9, "n_test": len(self.tested), "parameters": 5, "macs": None, "fit_seconds": 1.5}


def slices(classes, rows):
    """Test predictions from (patient, label, most likely class, its probability); the other classes share the rest."""
    table = []
    for number, (patient, label, named, p) in enumerate(rows):
        rest = (1 - p) / (len(classes) - 1)
        logits = {f"logit_{c}": np.log(p if c == named else rest) for c in classes}
        about = {"image_id": str(number), "role": "test", "label": label, "patient_id": patient, "plane": ""}
        table.append(about | {"patient_group": patient} | logits)
    return pd.DataFrame(table)


def planned(study, folds):
    """A plan of the proposed model under author_folds, a table of predictions a fold."""
    fit = runs.plan(study, "0" * 16)["fit"].iloc[0]
    fits = [fit.model_copy(update={"protocol": "author_folds", "fold": k}) for k in range(len(folds))]
    ran = [Fitted(f, table) for f, table in zip(fits, folds, strict=True)]
    return pd.DataFrame({"purpose": "proposed", "id": [f.id for f in fits], "fit": fits, "run": ran})


FOLDS = [
    # Patient a: two of three slices right; b: one wrong slice that is surer than the right one; c: wrong.
    [("a", "x", "x", 0.6), ("a", "x", "x", 0.6), ("a", "x", "y", 0.9)],
    [("b", "y", "y", 0.6), ("b", "y", "x", 0.95), ("c", "y", "x", 0.7), ("d", "y", "y", 0.8)],
]


@pytest.mark.parametrize("classes", [("x", "y"), ("x", "y", "z", "u", "v")])
def test_a_patient_is_named_by_the_mean_of_its_slices_and_by_their_majority(study, classes):
    plan = planned(study, [slices(classes, rows) for rows in FOLDS])
    table = results.patients(study, plan).set_index(["rule", "label"])
    # Patient a: with two classes x has 0.6 + 0.6 + 0.1 and y 0.4 + 0.4 + 0.9; with five 1.225 against 1.1.
    assert table.loc[("mean probability", "x"), "right"] == {2: 0, 5: 1}[len(classes)]
    # b has more of x than of y by the mean, and one slice each, a tie that the mean decides.
    assert table.loc[("mean probability", "y"), ["patients", "right", "slices"]].tolist() == [3, 1, 4]
    assert table.loc[("majority", "x"), ["patients", "right", "slices"]].tolist() == [1, 1, 3]
    assert table.loc[("majority", "y"), ["patients", "right"]].tolist() == [3, 1]
    row = table.loc[("majority", "all")]
    assert (row["patients"], row["right"], row["accuracy"], row["slices"]) == (4, 2, 0.5, 7)
    assert tuple(row[["low", "high"]]) == pytest.approx(resampling.wilson(2, 4, study.statistics.level))


def test_a_patient_of_two_classes_is_refused(study):
    plan = planned(study, [slices(("x", "y"), [("a", "x", "x", 0.6), ("a", "y", "x", 0.6)])])
    with pytest.raises(DataError, match="patient a: slices of 2 classes"):
        results.patients(study, plan)


def test_a_label_that_has_no_logit_is_named():
    with pytest.raises(DataError, match="label 'z'; allowed: x, y"):
        results.truth(slices(("x", "y"), [("a", "x", "x", 0.6), ("a", "z", "x", 0.6)]))


def test_a_slice_of_nobody_known_is_resampled_with_the_copies_that_it_is_of():
    """Chains of copies are one source of evidence, as a patient's slices are; a named patient stays one, whatever its group."""
    given = {
        "image_id": ["a", "b", "c"],
        "label": "x",
        "patient_id": ["a", "b", "P1A"],
        "patient_group": ["ab", "ab", "P1"],
    }
    predictions = pd.DataFrame(given | {"logit_x": 1.0, "logit_y": 0.0})
    assert results.truth(predictions)[2].tolist() == ["ab", "ab", "P1A"]
    assert results.truth(predictions.drop(columns="patient_group"))[2].tolist() == ["a", "b", "P1A"]


def test_confusion_and_roc_pool_the_folds_of_a_protocol(study):
    plan = planned(study, [slices(("x", "y"), rows) for rows in FOLDS])
    table = results.confusion(study, plan)
    assert table["n"].tolist() == [2, 1, 2, 2] and set(table["protocol"]) == {"author_folds"}
    curve = results.roc(study, plan)
    # x has 0.6, 0.6, 0.1 in slices of x, and 0.4, 0.95, 0.7, 0.2 in slices of y: 2 + 2 + 0 of 12 pairs in order.
    assert curve["auc"].to_numpy() == pytest.approx(4 / 12)


def test_leakage_pools_seeds_and_measures_every_split_from_slices_at_random(study, home):
    given = study.model_dump()
    given["protocols"] = [{"protocol": "group_holdout", "seeds": [0]}, {"protocol": "image_holdout", "seeds": [0, 1]}]
    study = params.check(given, "x")
    plan = runs.plan(study, datasets.fingerprint(study.data))
    right, tested = {}, {}
    for fit in plan["fit"]:
        tested[fit.protocol] = training.fit(study, fit).predictions("test")
        y, logits, _ = results.truth(tested[fit.protocol])
        right[fit.protocol, fit.seed] = (logits.argmax(1) == y).mean()
    table = results.leakage(study, plan)
    assert list(zip(table["protocol"], table["seed"], table["fits"], strict=True)) == [
        ("group_holdout", "0", 1),
        ("image_holdout", "0", 1),
        ("image_holdout", "1", 1),
        ("image_holdout", "all", 2),
    ]
    mean = (right["image_holdout", 0] + right["image_holdout", 1]) / 2
    assert table["accuracy"].tolist()[1:] == pytest.approx([right["image_holdout", 0], right["image_holdout", 1], mean])
    first = table.iloc[0]
    assert first["difference"] == pytest.approx(right["group_holdout", 0] - mean)
    assert first["difference_low"] <= first["difference"] <= first["difference_high"]
    assert table["difference"].isna().tolist() == [False, True, True, True]
    assert table["kept_together"].tolist() == ["patient_group"] + ["image_id"] * 3

    planes = results.planes(study, plan).set_index(["protocol", "seed"])
    for key, share in right.items():
        part = planes.loc[key]
        assert set(part["plane"]) <= {"axial", "coronal", "sagittal", "unknown"}
        assert (part["accuracy"] * part["n_test"]).sum() / part["n_test"].sum() == pytest.approx(share)

    data = datasets.load(study.data, study.preprocessing)
    twice = results.mirrored(study, plan).set_index("protocol")
    assert twice[["fits", "n_test"]].to_numpy().tolist() == [
        [1, len(tested["group_holdout"])],
        [2, 2 * len(tested["image_holdout"])],
    ]
    for protocol, row in twice.iterrows():
        shares = []
        for fit in plan.loc[[f.protocol == protocol for f in plan["fit"]], "fit"].drop_duplicates():
            seen = runs.Run(fit).predictions("test")
            slices = np.stack([data.images[data.manifest["image_id"].tolist().index(i)] for i in seen["image_id"]])[
                ..., None
            ]
            model = runs.Run(fit).model()
            logits = model.predict(slices, verbose=0) + model.predict(slices[:, :, ::-1], verbose=0)
            shares.append((logits.argmax(1) == results.truth(seen)[0]).mean())
        assert row["accuracy"] == pytest.approx(np.mean(shares))
        once = np.mean([share for key, share in right.items() if key[0] == protocol])
        assert row["difference"] == pytest.approx(np.mean(shares) - once)
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]


def test_the_best_epochs_gain_is_over_the_last_of_its_stage_and_fits_are_pooled_by_their_slices(
    study, home, monkeypatch
):
    given = study.model_dump()
    given["protocols"] = [{"protocol": "image_holdout", "seeds": [0, 1]}]
    study = params.check(given, "x")
    plan = runs.plan(study, datasets.fingerprint(study.data))
    sizes = [len(training.fit(study, fit).predictions("validation")) for fit in plan["fit"].drop_duplicates()]
    scores = iter([[0.9, 0.5, 0.75, 0.5], [0.1, 0.25, 0.5, 0.5]])
    stages = ["1 = head alone, 32 px"] + ["2 = all layers, 32 px"] * 3
    monkeypatch.setattr(runs.Run, "history", lambda _: pd.DataFrame({"stage": stages, "val_accuracy": next(scores)}))
    (row,) = results.epoch_choice(plan).to_dict("records")
    last, best = (np.average(s, weights=sizes) for s in ([0.5, 0.5], [0.75, 0.5]))
    assert (row["fits"], row["epochs"], row["n_validation"]) == (2, 3, sum(sizes))
    assert [row[k] for k in ("last", "best", "gain")] == pytest.approx([last, best, best - last])
    assert (row["gain_least"], row["gain_most"]) == (0, 0.25)


def test_ablation_says_what_each_change_is_worth_on_the_same_slices(study, home):
    given = study.model_dump()
    changes = [{"recipe.cam_loss": 2.0}, {"recipe.augment": False, "recipe.learning_rate": 1e-9}]
    given["protocols"] = [{"protocol": "image_folds", "seeds": [0]}]
    given["comparison"] = given["protocols"][0]
    given["gradcam"]["protocol"] = "image_folds"
    given["ablation"] = {"protocol": "image_folds", "seeds": [0], "folds": [0, 1], "changes": changes, "epochs": 2}
    study = params.check(given, "x")
    plan = runs.plan(study, datasets.fingerprint(study.data))
    rows = plan[plan["purpose"] == "ablation"]
    assert {f.recipe.stages[0].epochs for f in rows["fit"]} == {2}
    assert {f.recipe.stages[0].epochs for f in plan.loc[plan["purpose"] == "proposed", "fit"]} == {3}
    assert [
        (f.fold, f.recipe.cam_loss, f.augmentation is None, f.recipe.stages[0].learning_rate) for f in rows["fit"]
    ] == [
        *((0, 0, False, 0.003), (1, 0, False, 0.003), (0, 2, False, 0.003), (1, 2, False, 0.003)),
        *((0, 0, True, 1e-9), (1, 0, True, 1e-9)),
    ]
    right = {}
    for value, fit in zip(rows["value"], rows["fit"], strict=True):
        y, logits, _ = results.truth(training.fit(study, fit).predictions("test"))
        right.setdefault(value or "proposed", []).extend(logits.argmax(1) == y)
    table = results.ablation(study, plan).set_index("setting")
    assert table.index.tolist() == ["proposed", "2.0", "false, 1e-09"]
    assert table["fits"].tolist() == table["epochs"].tolist() == [2, 2, 2]
    assert table["change"].tolist()[::2] == [
        "none: the proposed network",
        "no augmentation, recipe.learning_rate 1e-09",
    ]
    assert set(table["backend"]) == {"tensorflow"}
    assert table["accuracy"].to_dict() == pytest.approx({k: np.mean(v) for k, v in right.items()})
    assert ((table["accuracy_low"] <= table["accuracy"]) & (table["accuracy"] <= table["accuracy_high"])).all()
    gap = np.mean(right["false, 1e-09"]) - np.mean(right["proposed"])
    last = table.iloc[-1]
    assert last["difference"] == pytest.approx(gap)
    assert last["difference_low"] <= gap <= last["difference_high"]
    assert table["difference"].isna().tolist() == [True, False, False]


def test_a_slice_and_its_mirror_image_are_averaged(study, home):
    plan = runs.plan(study, datasets.fingerprint(study.data))
    plan = plan[plan["purpose"] == "proposed"].drop_duplicates("id")[:1]
    run = training.fit(study, plan["fit"].iloc[0])
    once = run.predictions("test")
    data = datasets.load(study.data, run.fit.preprocessing)
    rows = data.manifest.reset_index().set_index("image_id").loc[once["image_id"], "index"]
    images, model = np.stack([data.images[k] for k in rows]), run.model()
    both = model.predict(images[..., None], verbose=0) + model.predict(images[:, :, ::-1, None], verbose=0)
    right = both.argmax(1) == once["label"].map(run.fit.classes.index)
    (found,) = results.mirrored(study, plan).to_dict("records")
    assert (found["fits"], found["n_test"]) == (1, len(once)) and found["accuracy"] == pytest.approx(right.mean())
    logits = once[runs.logits_of(run.fit.classes)].to_numpy()
    before = (logits.argmax(1) == once["label"].map(run.fit.classes.index)).mean()
    assert found["difference"] == pytest.approx(right.mean() - before)


@pytest.mark.parametrize(
    ("factor", "setting", "words"),
    [
        ("proposed", "", "none: the proposed network"),
        ("recipe.cam_loss, head.pooling", "0, gmp", "no guide, global max pooling"),
        ("head.dropout, recipe.learning_rate", "0.1, 0.01", "dropout 0.1, recipe.learning_rate 0.01"),
        (
            "recipe.stages",
            '[{"unfreeze": "head", "epochs": 1}, {"unfreeze": 3, "epochs": 2}]',
            "in stages: head, then 3",
        ),
        (
            "recipe.stages, recipe.erase",
            '[{"unfreeze": "head"}, {"epochs": 6}], null',
            "in stages: head, then all, no tumours erased",
        ),
        (
            "recipe.erase, recipe.cam_loss",
            '{"tumor": 0.4, "elsewhere": 0.2}, 0',
            'recipe.erase {"tumor": 0.4, "elsewhere": 0.2}, no guide',
        ),
    ],
)
def test_a_change_is_named_key_by_key_though_values_have_commas(factor, setting, words):
    assert tables.change_name(factor, setting) == words


def test_costs_are_those_of_the_studys_models_and_none_before_they_were_measured(study, home):
    assert results.costs(study).empty
    rows = pd.DataFrame({"model": ["toy", "toy", "vgg16"], "output_stride": [4, 2, 16], "latency_ms": [1.5, 3.5, 2.5]})
    rows = rows.assign(precision="float32", hardware="x")
    (home / "reports").mkdir()
    rows.to_csv(home / "reports" / "cost.csv", index=False)
    pd.testing.assert_frame_equal(results.costs(study), rows[:1])


def test_a_run_without_validation_slices_takes_its_temperature_from_slices_of_other_fits(study, home):
    given = study.model_dump()
    given["split"]["validation_fraction"] = 0.0
    given["protocols"] = [{"protocol": p, "seeds": [0]} for p in ("image_holdout", "group_folds")]
    given["gradcam"]["protocol"] = "group_folds"
    whole = params.check(given, "x")
    plan = runs.plan(whole, datasets.fingerprint(whole.data))
    fits = {(f.protocol, f.fold): training.fit(whole, f) for f in plan["fit"].drop_duplicates()}
    assert results.epoch_choice(plan).empty
    for run, own in ((fits["image_holdout", 0], "image_holdout"), (fits["group_folds", 0], "group_folds")):
        seen = pd.concat(run.predictions("test") for (p, k), run in fits.items() if p == "group_folds")
        tested = set(run.predictions("test")["image_id"])
        rest = seen[~seen["image_id"].isin(tested)]
        y, logits, _ = results.truth(rest)
        value, source = results.temperature(plan, run, "group_folds")
        grid = np.geomspace(0.05, 20, 4001)
        losses = [-np.log(classification.softmax(logits / t)[np.arange(len(y)), y]).mean() for t in grid]
        assert value == pytest.approx(grid[np.argmin(losses)], rel=5e-3), own
        assert (
            source
            == f"fitted on {len(rest)} slices: slices that the fits of other folds (patient groups apart, folds) did not see"
        )
    alone = plan[[f.protocol == "image_holdout" for f in plan["fit"]]]
    assert results.temperature(alone, fits["image_holdout", 0], "image_holdout")[0] == 1.0
    kept = params.check(study.model_dump(), "x")
    plan = runs.plan(kept, datasets.fingerprint(kept.data))
    run = training.fit(kept, plan["fit"].iloc[0])
    assert results.temperature(plan, run, run.fit.protocol)[1].endswith("slices: its validation slices")


def test_test_slices_with_a_near_identical_training_slice_are_told_from_the_others(study, home):
    plan = runs.plan(study, datasets.fingerprint(study.data))
    manifest = datasets.manifest(study.data)
    (run, *_) = [training.fit(study, fit) for fit in plan["fit"].drop_duplicates()]
    tested, held = run.predictions("test"), set(run.predictions()["image_id"])
    trained = [
        i for i, c in zip(manifest["image_id"], manifest["label"], strict=True) if i not in held and c in study.classes
    ]
    a, b, c = tested["image_id"].iloc[:3]
    unseen = next(i for i in run.predictions("validation")["image_id"])
    # In either order; a pair with a validation slice, or of two test slices, is none with training.
    pairs = pd.DataFrame([(a, trained[0]), (trained[1], b), (c, unseen), (a, c)], columns=["image_id_a", "image_id_b"])
    found = results.neighbours(study, plan, pairs, manifest)
    own = found[(found["protocol"] == run.fit.protocol) & (found["label"] == "all")].set_index("neighbour")
    y, logits, _ = results.truth(tested)
    right = logits.argmax(1) == y
    assert own["n"].to_dict() == {"in training": 2, "none": len(tested) - 2}
    assert own.loc["in training", "accuracy"] == right[:2].mean()
    assert own.loc["none", "accuracy"] == pytest.approx(right[2:].mean())


def test_what_a_split_loses_is_told_against_the_published_one_where_none_is_at_random(study, home, monkeypatch):
    given = study.model_dump()
    given["protocols"] = [{"protocol": p, "seeds": [0]} for p in ("patient_holdout", "group_holdout")]
    monkeypatch.setattr(results.splits, "LOOSE", ("image_holdout", "patient_holdout"))
    given["comparison"] = {"protocol": "patient_holdout", "seeds": [0]}
    given["gradcam"]["protocol"] = given["ablation"]["protocol"] = "patient_holdout"
    other = params.check(given, "x")
    plan = runs.plan(other, datasets.fingerprint(other.data))
    for fit in plan["fit"].drop_duplicates():
        training.fit(other, fit)
    table = results.leakage(other, plan).set_index("protocol")
    assert np.isnan(table.loc["patient_holdout", "difference"])
    gap = table.loc["group_holdout", "accuracy"] - table.loc["patient_holdout", "accuracy"]
    assert table.loc["group_holdout", "difference"] == pytest.approx(gap)
