"""A run as files for others: facts from its own predictions, a card, ONNX; and no model that carries code."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
import yaml

from btlib import DataError, __main__, params, shipped
from btlib.data.figshare import CLASSES
from btlib.deploy import card, onnx_file, publish
from btlib.fitting import runs
from btlib.models import registry as models

FAMILIAR = [[float(e), -60.0, -60.0] for e in range(101)]
"""Logits whose energies are 0 to 100: their 1st percentile is 1."""


def made_run(home, study, validation, test, name="some_run", classes=CLASSES, split=("image_holdout", 0)):
    """Lay a finished run down by hand: validation and test are lists of (label, logits); name None is the fit's own."""
    fit = runs.fit_of(study, "0123456789abcdef", study.proposed, *split, 0)
    fit = fit.model_copy(update={"classes": list(classes)})
    folder = home / "runs" / (name or fit.id)
    folder.mkdir(parents=True)
    rows = [(f"v{i}", "validation", label, *logits) for i, (label, logits) in enumerate(validation)]
    rows += [(f"t{i}", "test", label, *logits) for i, (label, logits) in enumerate(test)]
    table = pd.DataFrame(rows, columns=["image_id", "role", "label", *runs.logits_of(classes)])
    table = table.assign(patient_id=table["image_id"], patient_group=table["image_id"], plane="axial")
    table.to_csv(folder / "predictions.csv", index=False)
    (folder / "fit.json").write_text(fit.model_dump_json())
    facts = {"title": fit.title, "fit_seconds": 9.0, "parameters": 1234, "macs": 5678, "hardware": "abacus", "cores": 2}
    facts |= {"n_train": 10, "n_validation": len(validation), "n_test": len(test), "backend": "tensorflow"}
    (folder / "provenance.json").write_text(json.dumps(facts | {"versions": {"keras": "3"}, "commit": "c0ffee"}))
    models.build("toy", None, 32, study.head, seed=0, classes=len(classes)).save(folder / "model.keras")
    return runs.read(folder)


@pytest.fixture
def run(home, study):
    """Of four validation slices three are right, each with odds of 9 to 1: a temperature above 1 (see below)."""
    odds = [math.log(8), 0.0, -40.0]
    wrong = [("glioma", odds)]
    test = [("meningioma", [3.0, 0, 0])] * 7 + [("glioma", [3.0, 0, 0])] * 2 + [("pituitary", [0, 0, 3.0])]
    return made_run(home, study, [("meningioma", odds)] * 3 + wrong, test)


def test_facts_calibrate_on_validation_slices_alone(run):
    """Two classes with log-odds ln 8 and 3 of 4 right: the best T turns the odds into 3 to 1, T = ln 8 / ln 3."""
    facts = publish.facts_of(run)
    assert facts.temperature == pytest.approx(math.log(8) / math.log(3), rel=1e-3)
    assert facts.preprocessing == run.fit.preprocessing and facts.classes == ["meningioma", "glioma", "pituitary"]


def test_energy_limit_leaves_one_of_100_held_out_slices_below(home, study):
    every = [(CLASSES[0], logits) for logits in FAMILIAR]
    made = made_run(home, study, every[::2], every[1::2])
    assert publish.facts_of(made).energy == pytest.approx(1.0, abs=1e-6)


def test_without_a_wrong_validation_slice_there_is_no_temperature(home, study):
    made = made_run(home, study, [("glioma", [0, 2.0, 0])] * 5, [("glioma", [0, 2.0, 0])])
    assert publish.facts_of(made).temperature is None
    assert "Not calibrated: every slice that may tell" in card.write(made, publish.facts_of(made))
    assert "its probabilities are not calibrated" in publish.open_model("some_run")[2]


def test_a_published_model_is_found_by_name_and_computes_what_the_run_does(run, home):
    folder = publish.write(run, "small")
    assert folder == home / "published" / "small"
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "model.json", "model.keras"]
    given = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1)).astype("float32")
    (model, facts, said), (own, _, _) = publish.open_model("small"), publish.open_model("some_run")
    np.testing.assert_allclose(model.predict_on_batch(given), own.predict_on_batch(given), atol=1e-6)
    assert facts.name == "small" and said == [] and getattr(model, "optimizer", None) is None
    assert facts.model_copy(update={"name": ""}) == publish.facts_of(run).model_copy(update={"name": ""})


def test_card_states_what_the_predictions_say(run):
    text = card.write(run, publish.facts_of(run, "small"))
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == "keras" and front["pipeline_tag"] == "image-classification"
    (found,) = front["model-index"][0]["results"]
    assert {m["type"]: m["value"] for m in found["metrics"]}["accuracy"] == pytest.approx(8 / 10)
    assert "8 of 10 test slices right" in text and "80.00 % (" in text
    for wanted in ("Not a medical device", "0123456789abcdef", "patients of the test slices were seen in training"):
        assert wanted in text
    assert "made up" not in text, "no report here names the data"


def test_card_says_what_masks_were_used_for(run, study):
    assert "Masks of training slices" not in card.write(run, publish.facts_of(run))
    erase = params.Erase(tumor=0.4, elsewhere=0.2, fills=["grey"], noise=0)
    for changes, told in (
        ({"cam_loss": 0.3}, "were used to guide its class activation maps (`cam_loss` 0.3). None"),
        (
            {"erase": erase},
            "were used to erase tumours, and with them the class (40 % of each batch), or as much elsewhere (20 %). None",
        ),
    ):
        fit = run.fit.model_copy(update={"recipe": run.fit.recipe.model_copy(update=changes)})
        assert told in card.write(dataclasses.replace(run, fit=fit, at=run.folder), publish.facts_of(run))


def test_card_knows_data_of_kept_predictions_and_is_not_stopped_by_an_old_report(run, home, study):
    old = {"data": [{"name": "data", "fingerprint": run.fit.data}], "parameters": {"profile": "tiny"}}
    kept = {"data": {"fingerprint": run.fit.data}, "parameters": study.model_dump(mode="json")}
    for folder, about in (("reports/tiny", old), ("reports/tiny/predictions", kept)):
        (home / folder).mkdir(parents=True, exist_ok=True)
        (home / folder / "provenance.json").write_text(json.dumps(about))
    assert card.said_of(run) == "made-up slices (phantom)"


def test_card_names_the_data_of_a_run_that_a_report_lists(run, home, study):
    about = {"data": [{"name": "data", "fingerprint": run.fit.data}], "parameters": study.model_dump(mode="json")}
    (home / "reports" / "tiny").mkdir(parents=True)
    (home / "reports" / "tiny" / "provenance.json").write_text(json.dumps(about))
    (home / "reports" / "tiny" / "tables").mkdir()
    columns = "set,slices,augmentation,n,accuracy,accuracy_low,accuracy_high\n"
    row = f"{next(iter(study.external))},clean,none,50,0.5,0.25,0.75\n"
    (home / "reports" / "tiny" / "tables" / "cross_dataset.csv").write_text(columns + row)
    text = card.write(run, publish.facts_of(run))
    assert "it says nothing about patients" in text and "made-up slices (phantom), fingerprint" in text
    assert "On 50 slices of made-up slices (phantom) that are no copies of its own: accuracy 50.00 % (25.00 to" in text


def test_publishing_refuses_names_and_sizes(run, home, monkeypatch):
    with pytest.raises(DataError, match=r"--publish: got '\.\./x'"):
        publish.write(run, "../x")
    monkeypatch.setattr(publish, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match=r"allowed for a published one: 1,000"):
        publish.write(run, "small")
    assert list((home / "published" / "small").iterdir()) == []


def test_an_unknown_model_is_answered_with_the_known_ones(run, home):
    publish.write(run, "small")
    with pytest.raises(DataError, match=r"nothere: no such model; published: .*small.*; runs: some_run; or the path"):
        publish.find("nothere")
    (home / "runs" / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: holds no model\.keras"):
        publish.find("empty")


def test_a_keras_file_alone_is_opened_with_a_word_on_what_is_missing(run, tmp_path):
    alone = (run.folder / "model.keras").rename(tmp_path / "alone.keras")
    _, facts, said = publish.open_model(str(alone))
    assert facts.preprocessing == params.load("quick").preprocessing.model_copy(update={"image_size": 32})
    assert facts.temperature is None and facts.energy is None
    assert [s.split()[0] for s in said] == ["no", "its", "slices"]
    beside = json.loads(publish.facts_of(run).model_dump_json())
    (tmp_path / "alone.json").write_text(json.dumps(beside))
    assert publish.open_model(str(alone))[1:] == (publish.facts_of(run), [])
    for wrong, message in (
        ({"classes": ["glioma", "glioma", "other"]}, "classes are glioma, glioma, other; allowed: each once"),
        (
            {"classes": ["glioma", "other"]},
            r"alone\.keras: gives \(None, 3\); allowed: \(None, 2\), the logits of glioma",
        ),
        ({"temperature": 0.0}, "temperature"),
        ({"temprature": 1.0}, "temprature"),
        ({"preprocessing": beside["preprocessing"] | {"image_size": 64}}, "the facts beside it say 64"),
    ):
        (tmp_path / "alone.json").write_text(json.dumps(beside | wrong))
        with pytest.raises(DataError, match=message):
            publish.open_model(str(alone))


def test_a_model_with_code_inside_is_refused_and_nothing_runs(tmp_path):
    import keras

    trap = str(tmp_path / "ran")
    image = keras.Input((32, 32, 1))
    x = keras.layers.Lambda(lambda t: (open(trap, "w").close(), t)[1], output_shape=(32, 32, 1))(image)
    x = keras.layers.Dense(3)(keras.layers.Flatten()(x))
    keras.Model(image, x).save(tmp_path / "trap.keras")
    (tmp_path / "ran").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"trap\.keras: holds code of its own \(a Lambda layer\), which is not run"):
        publish.open_model(str(tmp_path / "trap.keras"))
    assert not (tmp_path / "ran").exists()


def test_damaged_files_and_other_models_are_refused(tmp_path):
    import keras

    (tmp_path / "text.keras").write_text("hello")
    with pytest.raises(DataError, match=r"text\.keras: cannot be loaded"):
        publish.open_model(str(tmp_path / "text.keras"))
    image = keras.Input((32, 32, 3))
    keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(image))).save(tmp_path / "rgb.keras")
    with pytest.raises(DataError, match=r"rgb\.keras: takes \(None, 32, 32, 3\)"):
        publish.open_model(str(tmp_path / "rgb.keras"))
    image = keras.Input((32, 32, 1))
    keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(image))).save(tmp_path / "two.keras")
    with pytest.raises(DataError, match=r"two\.keras: gives \(None, 2\);.*two\.json beside it may name"):
        publish.open_model(str(tmp_path / "two.keras"))
    with pytest.raises(DataError, match="holds no fit"):
        runs.read(tmp_path)
    for name, text in (("fit", '{"data": 3}'), ("provenance", "{}"), ("predictions", "")):
        (tmp_path / f"{name}.{'csv' if name == 'predictions' else 'json'}").write_text(text)
    with pytest.raises(DataError, match=r"fit\.json: not written by this version"):
        runs.read(tmp_path)


@pytest.mark.parametrize(("name", "size"), [("toy", 32), ("efficientnet_lite0", 64)])
def test_onnx_gives_what_keras_gives(study, run, tmp_path, name, size):
    pytest.importorskip("tf2onnx", reason="tf2onnx is not installed (pip install -e .[onnx])")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (pip install -e .[onnx])")
    model = models.build(name, None, size, study.head, 1, 3)
    rng = np.random.default_rng(2)
    # Statistics that a new model has not: as they are, BatchNorm would do nothing.
    for layer in model.layers:
        if type(layer).__name__ == "BatchNormalization":
            layer.set_weights([rng.uniform(0.8, 1.2, w.shape) for w in layer.get_weights()])
    onnx_file.write(model, publish.facts_of(run), tmp_path / "m.onnx")
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.shape, given.name, given.shape) == (
        "image",
        ["batch", size, size, 1],
        "logits",
        ["batch", 3],
    )
    for count in (1, 3):
        slices = rng.integers(0, 256, (count, size, size, 1)).astype("float32")
        found, expected = session.run(None, {"image": slices})[0], model.predict_on_batch(slices)
        assert np.ptp(expected) > 1e-3
        np.testing.assert_allclose(found, expected, atol=1e-4)
    kept = json.loads(session.get_modelmeta().custom_metadata_map["btlib"])
    assert kept == json.loads(publish.facts_of(run).model_dump_json())


def test_onnx_says_what_it_cannot_write(study, run, tmp_path):
    model, facts, _ = publish.open_model("some_run")
    with pytest.raises(DataError, match=r"model\.txt: ends in '\.txt'; allowed: \.onnx"):
        onnx_file.write(model, facts, tmp_path / "model.txt")
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = models.build("toy", None, 32, study.head, 0, 3)
    finally:
        keras.config.set_dtype_policy("float32")
    with pytest.raises(DataError, match=r"computes in bfloat16; allowed for ONNX: float32"):
        onnx_file.write(mixed, facts, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_export_writes_what_is_asked_for(run, home, monkeypatch):
    def call(*words):
        monkeypatch.setattr("sys.argv", ["btlib", *words])
        with pytest.raises(SystemExit) as stopped:
            __main__.main()
        return stopped.value.code

    assert "neither --publish NAME nor --onnx FILE" in call("export", "some_run")
    assert "--temperature: goes into a published model" in call(
        "export", "some_run", "--onnx", "m.onnx", "--temperature", "2"
    )
    assert "--temperature: got -1" in call("export", "some_run", "--publish", "small", "--temperature", "-1")
    assert not (home / "published").exists()
    (home / "file").write_text("")
    assert "file: " in call("export", "some_run", "--publish", "small", "--onnx", str(home / "file" / "m.onnx"))
    assert not (home / "published").exists(), "what cannot be written is said before anything is"
    assert call("export", "some_run", "--publish", "small") in (0, None)
    assert (home / "published" / "small" / "README.md").is_file()
    assert "holds no fit.json" in call("export", "small", "--publish", "again")


@pytest.mark.parametrize("folder", sorted((shipped() / "published").iterdir()), ids=lambda p: p.name)
def test_a_published_model_is_whole_and_small_and_knows_its_facts(folder):
    assert {p.name for p in folder.iterdir()} == {publish.MODEL, publish.FACTS, publish.CARD}
    assert (folder / publish.MODEL).stat().st_size <= publish.MAX_BYTES
    _, facts, said = publish.open_model(folder.name)
    assert facts.name == folder.name and said == []
    assert f"# {folder.name}" in (folder / publish.CARD).read_text(encoding="utf-8")


def test_a_run_without_validation_slices_is_published_with_a_given_temperature_or_none(home, study):
    test = [("meningioma", logits) for logits in FAMILIAR]
    made = made_run(home, study, [], test)
    facts = publish.facts_of(made)
    assert facts.temperature is None and facts.energy == pytest.approx(1.0), "the 1st percentile of 0 to 100"
    text = card.write(made, facts)
    assert "Not calibrated: it was fitted without validation slices" in text
    assert "1 of 100 held-out slices (101 of test)" in text
    publish.write(made, "given", 2.0)
    _, facts, said = publish.open_model("given")
    assert facts.temperature == 2 and said == []
    text = (home / "published" / "given" / "README.md").read_text()
    assert "divided by 2.0000 before softmax, given by whoever published it" in text


def test_a_run_without_validation_slices_is_calibrated_on_the_other_folds(home, study):
    test = [("meningioma", logits) for logits in FAMILIAR]
    made = made_run(home, study, [], test, split=("group_folds", 1))
    odds = [math.log(8), 0.0, -40.0]
    for fold, label in ((0, "meningioma"), (2, "meningioma"), (3, "meningioma"), (4, "glioma")):
        made_run(home, study, [], [(label, odds)], name=None, split=("group_folds", fold))
    facts = publish.facts_of(made)
    assert facts.temperature == pytest.approx(math.log(8) / math.log(3), rel=1e-3), "3 of 4 right, as of `run`"
    assert "fitted on 4 slices of the split's other folds, as fits" in card.write(made, facts)


@pytest.mark.parametrize("classes", [("glioma", "other"), ("a", "b", "c", "d", "e")])
def test_a_run_of_any_classes_is_published_and_opened(home, study, classes):
    logits = np.eye(len(classes)) * 3
    test = [(c, list(logits[k])) for k, c in enumerate(classes)] * 3
    validation = [(classes[0], list(logits[0]))] * 3 + [(classes[1], list(logits[0]))]
    publish.write(made_run(home, study, validation, test, classes=classes), "any")
    model, facts, _ = publish.open_model("any")
    assert facts.classes == list(classes) and model.output_shape == (None, len(classes))
    text = (home / "published" / "any" / "README.md").read_text()
    assert f"Tells {len(classes)} classes of MR slices apart: {', '.join(classes)}" in text
    assert f"{len(test)} of {len(test)} test slices right" in text and f"recall {classes[-1]}" in text


def test_a_file_of_another_keras_is_refused_with_both_versions_and_the_reason_in_full(home, run, tmp_path):
    import zipfile

    import keras

    with zipfile.ZipFile(run.folder / "model.keras") as archive, zipfile.ZipFile(tmp_path / "m.keras", "w") as other:
        config = json.loads(archive.read("config.json"))
        layer = next(x for x in config["config"]["layers"] if x["class_name"] == "Conv2D")
        layer["config"]["setting_of_the_future"] = 1
        other.writestr("config.json", json.dumps(config))
        other.writestr("metadata.json", json.dumps({"keras_version": "99.1.0"}))
        other.writestr("model.weights.h5", archive.read("model.weights.h5"))
    with pytest.raises(DataError) as refused:
        publish.open_model(str(tmp_path / "m.keras"))
    text = str(refused.value)
    assert f"saved by Keras 99.1.0, read by Keras {keras.__version__}; pip install 'keras==99.1.0'" in text
    assert "setting_of_the_future" in text[-300:], "Keras says the reason last"


def test_the_exact_gelu_of_transformers_is_written_as_onnx_without_a_word(run, tmp_path, capfd):
    import keras

    pytest.importorskip("tf2onnx", reason="tf2onnx is not installed (pip install -e .[onnx])")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (pip install -e .[onnx])")
    image = keras.Input((32, 32, 1), name="image")
    x = keras.layers.Conv2D(4, 3, activation=lambda t: keras.activations.gelu(t, approximate=False))(image)
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
    facts = publish.facts_of(run)
    capfd.readouterr()
    onnx_file.write(model, facts, tmp_path / "m.onnx")
    assert capfd.readouterr() == ("", "")
    slices = np.random.default_rng(0).uniform(-3, 3, (2, 32, 32, 1)).astype("float32")
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    np.testing.assert_allclose(session.run(None, {"image": slices})[0], model.predict_on_batch(slices), atol=1e-5)


def test_a_constant_that_the_export_leaves_outside_is_refused_in_words(run, tmp_path):
    import keras

    pytest.importorskip("tf2onnx", reason="tf2onnx is not installed (pip install -e .[onnx])")

    class Positions(keras.layers.Layer):
        """Adds a tensor made before the first call, as a Vision Transformer's layer of positions holds it."""

        def build(self, shape):
            self.positions = keras.ops.reshape(keras.ops.arange(np.prod(shape[1:]), dtype="float32"), (1, *shape[1:]))

        def call(self, x):
            return x + self.positions

    image = keras.Input((8, 8, 1), name="image")
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(Positions()(image))))
    with pytest.raises(
        DataError, match=r"would ask for .+ beside the image.*allowed: a model that takes its slices alone"
    ):
        onnx_file.write(model, publish.facts_of(run), tmp_path / "m.onnx")
    assert not [*tmp_path.glob("*.onnx*")]
