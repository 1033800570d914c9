"""Fits: the same numbers twice, whole after any interruption, and layers that do what they say."""

import json
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import scipy.stats

from btlib import ParamsError, params
from btlib.data import datasets
from btlib.fitting import batches, runs, training
from btlib.models import augmentation, layers
from btlib.models import registry as models

AUGMENT = dict(flip=False, rotation_degrees=0, shift=0, zoom=0, contrast=0, gamma=0, bias_field=0, noise=0, mixup=0)


def wanted(study, **changes):
    recipe = study.recipes["scratch"].model_copy(update=changes)
    made = runs.fit_of(study, datasets.fingerprint(study.data), study.proposed, "image_holdout", 0, 0)
    return made.model_copy(update={"recipe": recipe})


def test_a_fit_leaves_a_whole_run_and_is_loaded_the_second_time(study, home, monkeypatch):
    fit = wanted(study)
    run = training.fit(study, fit)
    assert sorted(p.name for p in run.folder.iterdir()) == [
        "fit.json",
        "history.csv",
        "model.keras",
        "predictions.csv",
        "provenance.json",
    ]
    assert sorted(p.name for p in (home / "runs").iterdir()) == [".locks", fit.id]
    assert json.loads((run.folder / "fit.json").read_text()) == json.loads(fit.model_dump_json())
    assert list(run.history()["epoch"]) == [0, 1, 2]
    seen = run.predictions()
    assert len(run.predictions("test")) == run.provenance()["n_test"]
    data = datasets.load(study.data, study.preprocessing)
    rows = data.manifest.reset_index().set_index("image_id").loc[seen["image_id"], "index"].to_numpy()
    again = batches.predict(run.model(), data.images, rows)
    np.testing.assert_allclose(seen[runs.logits_of(study.classes)].to_numpy(), again, atol=1e-4)
    monkeypatch.setattr(training, "fit_split", None)
    assert training.fit(study, fit).id == run.id


def test_averaged_weights_need_no_validation_slices(study, home, monkeypatch):
    """They are put in for validation and taken out again; without validation they would stay, and be trained on."""
    given = study.model_dump()
    given["recipes"]["scratch"]["ema"] = 0.5
    same = params.check(given, "x")
    given["split"]["validation_fraction"] = 0.0
    alone = params.check(given, "x")
    swaps: list[str] = []
    for name in ("on_test_begin", "on_test_end"):
        monkeypatch.setattr(keras.callbacks.SwapEMAWeights, name, lambda self, logs=None, name=name: swaps.append(name))
    training.find(same, "toy", "image_holdout")
    assert swaps == [*["on_test_begin", "on_test_end"] * 3, "on_test_begin"]
    swaps.clear()
    training.find(alone, "toy", "image_holdout")
    assert swaps == ["on_test_begin"]


def test_a_head_learns_at_its_schedules_rate(study, home):
    stage = (
        study.recipes["scratch"]
        .stages[0]
        .model_copy(update={"unfreeze": "head", "schedule": "cosine", "warmup_epochs": 0, "learning_rate": 0.01})
    )
    run = training.fit(study, wanted(study, stages=[stage]))
    rates = run.history()["learning_rate"].tolist()
    assert rates[0] == pytest.approx(0.01) and rates == sorted(rates, reverse=True) and rates[-1] < 0.005


@pytest.mark.parametrize(("ema", "scale", "cam_loss"), [(0, 1, 0), (0.5, 1, 0), (0.5, 0.5, 0), (0, 1, 1.5)])
def test_an_interrupted_fit_goes_on_to_the_same_numbers(study, home, monkeypatch, ema, scale, cam_loss):
    stages = [s.model_copy(update={"image_scale": scale}) for s in study.recipes["scratch"].stages]
    larger = study.preprocessing.model_copy(update={"image_size": round(32 / scale)})
    fit = wanted(study, ema=ema, patience=5, stages=stages, cam_loss=cam_loss).model_copy(
        update={"preprocessing": larger}
    )
    whole = training.fit(study, fit)
    expected, history = whole.predictions(), whole.history().drop(columns="seconds")
    whole.folder.rename(home / "whole")

    saved, calls = training._State.save, []

    def stops(self, *args):
        saved(self, *args)
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(training._State, "save", stops)
    with pytest.raises(KeyboardInterrupt):
        training.fit(study, fit)
    assert runs.load(fit) is None
    resumed = training.fit(study, fit)
    assert len(calls) == 3, "two epochs before it was stopped, and the end of the stage"
    assert resumed.predictions().equals(expected)
    assert resumed.history().drop(columns="seconds").equals(history)


def test_two_processes_fit_once_and_a_killed_one_leaves_no_lock(home, tmp_path):
    given = params.load("quick").model_dump()
    given["data"]["phantom"].update(patients=42, slices_per_patient=2, size=64)
    given["preprocessing"]["image_size"] = 32
    given["recipes"]["guided"]["stages"] = [given["recipes"]["guided"]["stages"][1] | {"epochs": 1}]
    given["protocols"], given["baselines"] = given["protocols"][:1], []
    given["ablation"]["changes"] = []
    path = tmp_path / "p.yaml"
    params.write(params.check({**given, "profile": "p"}, "p"), path)
    command = [sys.executable, "-m", "btlib", "fit", str(path)]
    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(home.glob("runs/.locks/*")) and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"]
    told = [p.communicate() for p in both]
    assert [p.returncode for p in both] == [0, 0], told
    assert told[0][0] == told[1][0]
    locks, folder = sorted((home / "runs").iterdir())
    assert locks.name == ".locks"
    assert json.loads((folder / "provenance.json").read_text())["n_train"] > 0


def test_a_run_of_another_version_is_not_taken_for_this_ones(study, home, monkeypatch):
    before = wanted(study).id
    monkeypatch.setattr(runs, "VERSION", runs.VERSION + 1)
    assert wanted(study).id != before


def test_every_number_of_a_fit_changes_its_id(study, home):
    fit = wanted(study)
    ids = {fit.id, fit.model_copy(update={"seed": 1}).id, fit.model_copy(update={"data": "x"}).id}
    ids.add(fit.model_copy(update={"head": params.Head(pooling="gmp", dropout=0.2, dense=0)}).id)
    ids.add(wanted(study, batch_size=9).id)
    assert len(ids) == 5


def test_a_change_of_the_ablation_that_takes_another_recipe_has_its_epochs(study):
    given = study.model_dump()
    given["recipes"]["long"] = given["recipes"]["scratch"] | {"weight_decay": 0.5}
    given["recipes"]["long"]["stages"] = [s | {"epochs": 7} for s in given["recipes"]["long"]["stages"]]
    changes = [{"head.dropout": 0.1}, {"proposed.recipe": "long"}, {"recipe.epochs": 2, "proposed.recipe": "long"}]
    given["ablation"] |= {"epochs": 1, "changes": changes}
    plan = runs.plan(params.check(given, "x"), "some data")
    fits = plan[plan["purpose"] == "ablation"].drop_duplicates("id")["fit"]
    told = [(f.recipe.stages[0].epochs, f.recipe.weight_decay == 0.5, f.head.dropout) for f in fits]
    assert told == [(1, False, 0.2), (1, False, 0.1), (7, True, 0.2), (2, True, 0.2)]


def test_a_baseline_may_see_smaller_slices_than_the_proposed_model(study, home):
    given = study.model_dump()
    given["baselines"] = [given["proposed"] | {"model": "vgg16", "image_size": 48}]
    plan = runs.plan(params.check(given, "x"), "some data").set_index("purpose")["fit"]
    assert plan["baseline"].preprocessing == study.preprocessing.model_copy(update={"image_size": 48})
    assert {f.preprocessing.image_size for f in plan["proposed"]} == {32}


def test_maps_are_made_of_a_study_s_models_with_their_own_or_another_recipe(study, home):
    given = study.model_dump()
    given["recipes"]["guided"] = given["recipes"]["scratch"] | {"cam_loss": 1.0}
    given["gradcam"]["models"] = ["toy", "toy/guided"]
    study = params.check(given, "x")
    own, guided = (training.find(study, name, "image_holdout") for name in study.gradcam.models)
    assert (own.fit.recipe, guided.fit.recipe) == (study.recipes["scratch"], study.recipes["guided"])
    assert own.fit.model == guided.fit.model == "toy"
    plan = runs.plan(study, datasets.fingerprint(study.data))
    assert plan.loc[plan["purpose"] == "gradcam", "id"].tolist() == [own.id, guided.id]
    given["head"]["dense"] = 8
    with pytest.raises(
        ParamsError, match=r"gradcam.models\[1\]: got 'guided', with a `cam_loss`; allowed: none, as only"
    ):
        params.check(given, "x")


def test_augmentation_is_off_outside_training_and_drawn_by_its_seed():
    x = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 1)).astype(np.float32)
    a = params.Augmentation(**{**AUGMENT, "flip": True, "rotation_degrees": 20, "noise": 0.1, "gamma": 0.3})
    layer = augmentation.Augment(a, 16, 1)
    np.testing.assert_array_equal(layer(x, training=False), x)
    one, two = (np.asarray(augmentation.Augment(a, 16, 1)(x, training=True)) for _ in "ab")
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, layer(x, training=True)) or not np.array_equal(one, layer(x, training=True))
    assert one.min() >= 0 and one.max() <= 255


def test_a_flip_alone_gives_the_slice_or_its_mirror_image():
    x = np.random.default_rng(0).integers(0, 255, (32, 8, 8, 1)).astype(np.float32)
    out = np.asarray(augmentation.Augment(params.Augmentation(**{**AUGMENT, "flip": True}), 8, 0)(x, training=True))
    same = np.isclose(out, x, atol=1e-3).all((1, 2, 3))
    mirrored = np.isclose(out, x[:, :, ::-1], atol=1e-3).all((1, 2, 3))
    assert (same ^ mirrored).all() and 5 < same.sum() < 27


def test_a_shift_moves_what_is_there_and_brings_in_black():
    x = np.full((64, 20, 20, 1), 200, np.float32)
    out = np.asarray(augmentation.Augment(params.Augmentation(**{**AUGMENT, "shift": 0.2}), 20, 0)(x, training=True))
    kept = (out > 190).mean((1, 2, 3))
    assert kept.min() >= 0.8**2 - 0.1 and kept.mean() < 0.95
    assert np.isclose(out[:, 10, 10], 200, atol=1e-2).all()


def test_renewed_statistics_are_the_mean_and_variance_of_clean_slices():
    import keras

    image = keras.Input((4, 4, 1))
    norm = keras.layers.BatchNormalization()
    model = keras.Model(image, keras.layers.Dropout(0.5)(norm(image)))
    slices = np.random.default_rng(0).integers(0, 255, (32, 4, 4)).astype(np.uint8)
    training.renew_statistics(model, [norm], slices, np.arange(32), 8)
    batches = slices[np.random.default_rng(0).permutation(32)].reshape(4, -1).astype(float)
    assert float(norm.moving_mean[0]) == pytest.approx(slices.mean(), rel=1e-4)
    assert float(norm.moving_variance[0]) == pytest.approx(batches.var(axis=1).mean(), rel=1e-3)
    assert norm.momentum == 0.99


@pytest.mark.parametrize(
    ("thawed", "batchnorm", "renewed"), [("all", "train", True), ("head", "train", False), ("all", "frozen", False)]
)
def test_statistics_that_no_stage_moved_stay_those_that_the_head_learned_with(study, home, thawed, batchnorm, renewed):
    stages = [s.model_copy(update={"unfreeze": thawed}) for s in study.recipes["scratch"].stages]
    run = training.fit(study, wanted(study, stages=stages, batchnorm=batchnorm, renew_statistics=True))
    begun = models.build("toy", None, 32, study.head, 0, 3).get_layer("block1_bn").moving_mean.numpy()
    assert bool(np.any(run.model().get_layer("block1_bn").moving_mean.numpy() != begun)) == renewed


def test_the_fused_norm_is_kerass_norm_forwards_backwards_and_in_what_it_remembers():
    import keras
    import tensorflow as tf

    x = np.random.default_rng(0).normal(3, 2, (4, 5, 5, 6)).astype(np.float32)
    seen = {}
    for kind in (keras.layers.BatchNormalization, layers.FusedNorm):
        norm = kind(momentum=0.9)
        norm.build(x.shape)
        norm.set_weights([np.linspace(0.5, 2, 6), np.linspace(-1, 1, 6), np.zeros(6), np.ones(6)])
        with tf.GradientTape() as tape:
            tape.watch(given := tf.constant(x))
            y = norm(given, training=True)
            loss = tf.reduce_sum(y * tf.sin(y))
        slopes = tape.gradient(loss, [given, norm.gamma.value, norm.beta.value])
        seen[kind] = [y, *slopes, *norm.get_weights(), norm(x, training=False)]
        kept = np.array(norm.moving_mean)
        norm.trainable = False
        seen[kind].append(norm(x, training=True))
        assert np.array_equal(norm.moving_mean, kept)
    assert not np.array_equal(seen[layers.FusedNorm][5], np.zeros(6)), "the moving mean moved"
    for ours, theirs in zip(*seen.values(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


def test_a_stage_sees_slices_of_its_size_and_the_kept_model_those_of_the_study(study, home, monkeypatch):
    sizes, copy = [], layers.copy_of
    monkeypatch.setattr(layers, "copy_of", lambda model, size: sizes.append(size) or copy(model, size))
    preprocessing = study.preprocessing.model_copy(update={"image_size": 64})
    stage = study.recipes["scratch"].stages[0].model_copy(update={"epochs": 1})
    stages = [stage.model_copy(update={"image_scale": 0.5}), stage]
    fit = wanted(study, stages=stages).model_copy(update={"preprocessing": preprocessing})
    run = training.fit(study, fit)
    assert sizes == [32, 64]
    model = run.model()
    assert model.input_shape == (None, 64, 64, 1)
    assert type(model.get_layer("block1_bn")).__name__ == "BatchNormalization"
    assert run.history()["stage"].tolist() == ["1 = all layers, 32 px", "2 = all layers, 64 px"]


def test_the_cam_loss_is_the_divergence_of_the_tumours_places_from_those_that_speak_for_the_class():
    random = np.random.default_rng(0)
    features = random.uniform(0, 6, (3, 2, 2, 5)).astype(np.float32)
    kernel, bias = random.normal(0, 4, (5, 3)), np.zeros(3)
    dense = keras.layers.Dense(3)
    dense.build((None, 5))
    dense.set_weights([kernel, bias])
    logits = np.asarray(dense(keras.layers.GlobalAveragePooling2D()(features)))
    added = features @ kernel / 4  # by each place to each logit: (n, 2, 2, 3)
    assert added.sum((1, 2)) == pytest.approx(logits, rel=1e-3)
    named = np.stack([added[i, ..., k] - added[i].mean(-1) for i, k in enumerate(logits.argmax(1))]).reshape(3, 4)
    spoken = np.exp(named) / np.exp(named).sum(-1, keepdims=True)
    masks = np.zeros((3, 2, 2, 1), np.float32)  # of the features' size, so that nothing is blurred
    masks[0, :, 1] = 255  # the right half
    masks[1, 0] = [[51], [25.5]]  # a fifth of one place, a tenth of the next; and no tumour at all
    shares = [[0, 1 / 2, 0, 1 / 2], [2 / 3, 1 / 3, 0, 0]]
    expected = [scipy.stats.entropy(share, spoken[i]) for i, share in enumerate(shares)] + [0]
    loss = layers.CamLoss(2.0, dense)
    for i, divergence in enumerate(expected):
        one = slice(i, i + 1)
        assert np.array_equal(loss(logits[one], features[one], masks[one]), logits[one])
        assert float(loss.losses[-1]) == pytest.approx(2 * divergence, rel=1e-4, abs=1e-6)
    loss(logits, features, masks)
    assert float(loss.losses[-1]) == pytest.approx(2 * np.mean(expected), rel=1e-4)
    dense.set_weights([kernel + np.arange(5)[:, None], bias])  # the same more for each class
    loss(logits, features, masks)
    assert float(loss.losses[-1]) == pytest.approx(2 * np.mean(expected), rel=1e-3)


def test_masks_move_with_their_slices_and_keep_their_values():
    moves = AUGMENT | {"flip": True, "rotation_degrees": 20, "shift": 0.1, "zoom": 0.1}
    slices = np.zeros((6, 24, 24, 1), np.uint8)
    slices[:, 5:12, 8:20] = 255
    both = np.concatenate([slices, slices], axis=-1)
    moved = np.asarray(augmentation.Augment(params.Augmentation(**moves), 24, 0)(both, training=True))
    assert not np.array_equal(moved[..., 1:], slices) and np.array_equal(moved[..., 0], moved[..., 1])
    shaded = params.Augmentation(**moves | {"contrast": 0.5, "gamma": 0.5, "bias_field": 0.5, "noise": 0.1})
    changed = np.asarray(augmentation.Augment(shaded, 24, 0)(both, training=True))
    assert np.array_equal(changed[..., 1], moved[..., 1])
    assert np.abs(changed[..., 0] - moved[..., 0]).max() > 10


def test_masks_guide_a_fit_and_leave_no_trace_in_the_model(study, home):
    guided, plain = (training.fit(study, wanted(study, cam_loss=weight)) for weight in (3.0, 0))
    assert guided.id != plain.id
    assert [layer.name for layer in guided.model().layers] == [layer.name for layer in plain.model().layers]
    assert guided.model().input_shape == (None, 32, 32, 1)
    assert (guided.history()["loss"] > plain.history()["loss"]).iloc[0]
    assert not guided.predictions().equals(plain.predictions())


ERASE = params.Erase(tumor=0.5, elsewhere=0.25, fills=["grey"], noise=0)


def test_a_slice_that_loses_its_tumour_loses_its_class_and_one_that_loses_as_much_elsewhere_keeps_it():
    slices = np.full((4, 32, 32, 1), 100, np.uint8)
    masks = np.zeros_like(slices)
    masks[:, 8:12, 20:24], slices[:, 8:12, 20:24] = 1, 200
    slices[:, :2] = slices[:, -2:] = slices[:, :, :2] = slices[:, :, -2:] = 0
    targets = np.eye(3, dtype=np.float32)[[0, 1, 2, 1]]
    new = augmentation.erased(slices, masks, targets, ERASE, np.random.default_rng(0))
    assert (slices[:, 8:12, 20:24] == 200).all() and masks.any((1, 2, 3)).all()  # the arguments stay as they are
    lost = ~new[1].any((1, 2, 3))
    assert lost.sum() == 2
    np.testing.assert_allclose(new[2][lost], 1 / 3)
    np.testing.assert_array_equal(new[2][~lost], targets[~lost])
    assert (new[0][lost, 8:12, 20:24] == 100).all()
    assert (new[0][~lost, 8:12, 20:24] == 200).all()
    np.testing.assert_array_equal(new[1][~lost], masks[~lost])


def test_a_slice_without_a_mask_stays_whole():
    slices, masks = np.full((4, 32, 32, 1), 100, np.uint8), np.zeros((4, 32, 32, 1), np.uint8)
    targets = np.eye(2, dtype=np.float32)[[0, 1, 0, 1]]
    new = augmentation.erased(slices, masks, targets, ERASE, np.random.default_rng(0))
    assert all(np.array_equal(a, b) for a, b in zip(new, (slices, masks, targets), strict=True))


def test_accuracy_is_counted_over_slices_that_have_a_class():
    metric = layers.KnownAccuracy()
    targets = np.array([[1, 0, 0], [0, 1, 0], [1 / 3, 1 / 3, 1 / 3], [1 / 3, 1 / 3, 1 / 3]], np.float32)
    metric.update_state(targets, np.array([[2, 1, 0], [2, 1, 0], [2, 1, 0], [0, 1, 0]], np.float32))
    assert float(metric.result()) == 0.5


def test_a_fit_with_erased_tumours_and_no_validation_slices_ends(study, home):
    split = study.split.model_copy(update={"validation_fraction": 0})
    fit = wanted(study, erase=ERASE, cam_loss=1.0).model_copy(update={"split": split})
    run = training.fit(study, fit)
    facts = run.provenance()
    assert (facts["n_validation"], facts["n_train"] + facts["n_test"]) == (0, 84)
    assert set(run.predictions()["role"]) == {"test"}
    assert "val_loss" not in run.history()


def test_a_network_whose_multiply_adds_are_unknown_is_fitted_and_says_why(study, home, monkeypatch):
    monkeypatch.setattr(training.counts, "macs_or_reason", lambda model: (None, "layer mine: is not known"))
    about = training.fit(study, wanted(study)).provenance()
    assert (about["macs"], about["macs_unknown"]) == (None, "layer mine: is not known")


def test_a_stages_size_is_whole_32s_and_goes_unsaid_where_it_is_the_studys(study):
    stage = study.recipes["scratch"].stages[0]
    sizes = {(scale, full): stage.model_copy(update={"image_scale": scale}).size_of(full) for scale, full in SIZES}
    assert sizes == SIZES
    assert "image_scale" not in stage.model_dump()
    assert stage.model_copy(update={"image_scale": 0.6}).model_dump()["image_scale"] == 0.6
    assert params.Stage.model_validate(stage.model_dump()) == stage


SIZES = {(0.6, 160): 96, (1, 150): 150, (0.99, 50): 50, (0.1, 160): 32, (0.8, 160): 128}


def test_only_the_blocks_that_a_stage_thawed_are_renewed(study, home):
    stages = [s.model_copy(update={"unfreeze": deep}) for s in study.recipes["scratch"].stages for deep in (1, 2)]
    model = models.build("toy", None, 32, study.head, 0, 3)
    assert [n.name for n in training.learned_norms(model, wanted(study, stages=stages))] == ["block1_bn"]
    assert training.learned_norms(model, wanted(study, stages=stages[:1])) == []


def test_lower_layers_learn_more_slowly_by_the_factor_asked_for():
    import keras

    first, second = keras.Variable([1.0, 1.0]), keras.Variable([1.0, 1.0])
    optimizer = layers.LayerwiseAdamW(0.1, weight_decay=0)
    optimizer.scales = [0.5, 1.0]
    optimizer.apply([keras.ops.ones(2), keras.ops.ones(2)], [first, second])
    steps = 1 - np.array([first.numpy()[0], second.numpy()[0]])
    assert steps[1] == pytest.approx(0.1, rel=1e-3) and steps[0] == pytest.approx(0.05, rel=1e-3)


def test_an_epoch_takes_every_slice_once_in_an_order_of_its_own(study, home):
    fit = wanted(study, batch_size=4, class_weights=True)
    images = np.arange(8)[:, None, None] * np.ones((1, 2, 2))
    part = np.arange(8), np.array([0, 0, 0, 0, 1, 1, 2, 2])
    one, again, other = (batches.Batches(images, part, fit, s) for s in ("e0", "e0", "e1"))
    seen = np.concatenate([one[i][0][:, 0, 0, 0] for i in range(2)])
    assert sorted(seen) == list(range(8))
    np.testing.assert_array_equal(one[0][0], again[0][0])
    assert not np.array_equal(one.rows, other.rows)
    weight = np.concatenate([one[i][2] for i in range(2)])
    np.testing.assert_allclose(weight[np.argsort(seen)], [2 / 3] * 4 + [4 / 3] * 4, rtol=1e-6)


def test_an_epoch_steps_as_fit_does(study, home):
    import keras

    fit = wanted(study, batch_size=4)
    images = np.random.default_rng(0).integers(0, 256, (12, 2, 2), np.uint8)
    part, done = (np.arange(12), np.arange(12) % 3), {}
    for how in ("own", "fit"):
        image = keras.Input((2, 2, 1))
        flat = keras.layers.Rescaling(1 / 255)(keras.layers.Flatten()(image))
        model = keras.Model(image, keras.layers.Dense(3, kernel_initializer="zeros")(flat))
        model.compile("adam", keras.losses.CategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        epoch = batches.Batches(images, part, fit, "e")
        if how == "own":
            logs = training.run_epoch(model, epoch)
        else:
            logs = {k: v[0] for k, v in model.fit(epoch, verbose=0, shuffle=False).history.items()}
        done[how] = [logs["loss"], logs["accuracy"], *(w.copy() for w in model.get_weights())]
    assert np.abs(done["own"][2]).max() > 0
    for own, expected in zip(done["own"], done["fit"], strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-6)


def test_slices_are_predicted_as_they_are_or_mirrored():
    import keras

    image = keras.Input((2, 2, 1))
    model = keras.Model(image, keras.layers.Dense(3, kernel_initializer="ones")(keras.layers.Flatten()(image)[:, :1]))
    slices = np.array([[[4, 8], [0, 0]]], np.uint8)
    np.testing.assert_allclose(batches.predict(model, slices), [[4, 4, 4]])
    np.testing.assert_allclose(batches.predict(model, slices, mirrored=True), [[8, 8, 8]])
