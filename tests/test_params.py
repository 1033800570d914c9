"""The parameter files: every profile is whole, and every mistake is named with its key before work starts."""

import copy

import pytest
import yaml

from btlib import ParamsError, params

QUICK = yaml.safe_load((params.PARAMS_DIR / "quick.yaml").read_text())


def changed(path: str, value):
    given = copy.deepcopy(QUICK)
    *parents, last = path.split(".")
    place = given
    for part in parents:
        place = place[int(part)] if part.isdigit() else place[part]
    place[last] = value
    return given


@pytest.mark.parametrize("profile", [p.stem for p in params.PARAMS_DIR.glob("*.yaml") if p.stem != "claims"])
def test_every_profile_is_valid_and_carries_its_file_name(profile):
    assert params.load(profile).profile == profile


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("modle", "vgg16", ["modle: unknown key"]),
        ("preprocessing.image_sizes", 64, ["preprocessing.image_sizes: unknown key", "did you mean image_size?"]),
        ("recipes.finetune.epocs", 1, ["recipes.finetune.epocs: unknown key", "stages"]),
        ("recipes.finetune.stages.1.epochs", 0, ["recipes.finetune.stages[1].epochs: got 0", "greater than or equal"]),
        ("recipes.finetune.stages.1.epochs", "3", ["recipes.finetune.stages[1].epochs: got '3'", "integer"]),
        ("recipes.finetune.stages.0.unfreeze", "hed", ["stages[0].unfreeze: got 'hed'", "'head' or 'all'"]),
        ("recipes.finetune.stages.0.learning_rate", float("nan"), ["stages[0].learning_rate: got nan"]),
        ("recipes.finetune.stages.0.image_scale", 0.5, ["recipes.finetune.stages[0]: image_scale: must be 1", "head"]),
        (
            "recipes.scratch.stages.0.image_scale",
            0.5,
            ["baselines[2].recipe: got 'scratch', with an `image_scale`", "tokens"],
        ),
        ("recipes.scratch.cam_loss", 1.0, ["baselines[2].recipe: got 'scratch', with a `cam_loss`", "tokens"]),
        ("ablation.recipe", ["none"], ["ablation.recipe[0]: got 'none'; allowed: finetune, scratch"]),
        ("data.source", "figshare", ["data: `phantom` is a section where source is phantom"]),
        ("proposed.recipe", "x", ["proposed.recipe: got 'x'; allowed: finetune, scratch"]),
        ("proposed.model", "b0", ["proposed.model: got 'b0'", "efficientnet_b0"]),
        ("baselines.0.model", "vgg", ["baselines[0].model: got 'vgg'", "vgg16"]),
        ("baselines.1.model", "vgg16", ["baselines: vgg16 stands twice"]),
        ("baselines.2.image_size", 100, ["image_size: got 100; vit_b16 needs"]),
        ("proposed.image_size", 64, ["proposed.image_size: must be null"]),
        ("preprocessing.image_size", 100, ["image_size: got 100; vit_b16 needs", "multiple of 16"]),
        ("head.pooling", "mean", ["head.pooling: got 'mean'", "'gap', 'gmp' or 'flatten'"]),
        ("comparison.protocol", "author_folds", ["comparison.protocol: got 'author_folds'", "image_holdout"]),
        ("comparison.seeds", [1], ["comparison.seeds: got [1]; allowed: the first of [0]"]),
        ("gradcam.models", ["vgg19"], ["gradcam.models[0]: got 'vgg19'", "vgg16"]),
        ("gradcam.models", ["vgg16/x"], ["gradcam.models[0]: got 'vgg16/x'", "with another recipe: vgg16/finetune"]),
        ("gradcam.models", ["vit_b16/"], ["gradcam.models[0]: got 'vit_b16/'", "with another recipe"]),
        ("profile", "../x", ["profile: got '../x'"]),
        ("external.path", "data/phantom_a", ["external.path: must differ"]),
    ],
)
def test_a_mistake_is_named_with_its_key(path, value, told):
    with pytest.raises(ParamsError) as error:
        params.check(changed(path, value), "some.yaml")
    assert str(error.value).startswith("some.yaml:")
    for words in told:
        assert words in str(error.value)


def test_a_missing_key_is_an_error_not_a_default():
    given = copy.deepcopy(QUICK)
    del given["head"]["dropout"]
    with pytest.raises(ParamsError, match=r"head\.dropout: missing"):
        params.check(given, "x")


def test_a_whole_file_means_the_same_however_it_comes():
    file = params.load("quick")
    assert params.from_mapping(QUICK) == file
    assert params.from_mapping({}) == file
    assert params.from_notebook({**QUICK, "_": 1, "In": [], "params": params}) == file
    assert params.from_notebook(dict.fromkeys(params.SECTIONS, params.QUICK)) == file


def test_a_file_with_a_profile_takes_nothing_from_the_quick_one():
    with pytest.raises(ParamsError, match="data: missing"):
        params.from_mapping({"profile": "mine"})


def test_a_notebook_refuses_a_parameter_that_no_section_has():
    with pytest.raises(ParamsError, match="modle: unknown key"):
        params.from_notebook({"modle": "vgg16"})
    assert params.from_notebook({"seed": 3}).seed == 3


def test_a_written_file_reads_back_the_same(tmp_path):
    study = params.load("quick")
    params.write(study, tmp_path / "p.yaml")
    before = (tmp_path / "p.yaml").stat().st_mtime_ns
    params.write(study, tmp_path / "p.yaml")
    assert params.load(tmp_path / "p.yaml") == study
    assert (tmp_path / "p.yaml").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "- 1",
            "a: [",
            "\x00",
            "seed: 2024-13-45",
            "seed: " + "9" * 5000,
            "seed: !!float x",
            "seed: !!timestamp x",
        ),
        *("a: &a [1]\nseed: *a", "seed: " + "[" * 3000, "seed: " + "{a: " * 3000, "seed: 0x" + "f" * 5000),
    ],
)
def test_a_file_that_is_no_mapping_is_named(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ParamsError, match=r"bad\.yaml"):
        params.load(tmp_path / "bad.yaml")


def test_a_missing_file_lists_the_profiles():
    with pytest.raises(ParamsError, match="quick"):
        params.load("quik")


def test_the_sweep_means_each_model_under_each_seed_and_fold():
    from btlib.fitting import runs

    study = params.load("sweep")
    fits = runs.plan(study, "some data").drop_duplicates("id")["fit"]
    swept = {(f.model, f.seed, f.fold) for f in fits if f.protocol == "group_folds"}
    assert swept == {
        (m, s, k) for m in ("efficientnet_lite0", "efficientnet_lite2") for s in range(3) for k in range(5)
    }
    assert len(fits) == 2 * 3 * 5 + 3
