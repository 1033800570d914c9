"""The parameter files: every profile is whole, and every mistake is named with its key before work starts."""

import copy

import numpy as np
import pytest
import yaml

from btlib import ParamsError, params
from btlib.fitting import runs

QUICK = params.load("quick").model_dump()


STAGE = QUICK["recipes"]["guided"]["stages"][1]


def changed(path: str, value):
    given = copy.deepcopy(QUICK)
    *parents, last = path.split(".")
    place = given
    for part in parents:
        place = place[int(part)] if part.isdigit() else place[part]
    place[last] = value
    return given


@pytest.mark.parametrize("profile", ["quick", "figshare", "paper", "sweep"])
def test_every_profile_is_valid_and_carries_its_file_name(profile):
    assert params.load(profile).profile == profile


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("modle", "vgg16", ["modle: unknown key"]),
        ("preprocessing.image_sizes", 64, ["preprocessing.image_sizes: unknown key", "did you mean image_size?"]),
        ("recipes.finetune.epocs", 1, ["recipes.finetune.epocs: unknown key", "stages"]),
        ("recipes.guided.stages.1.epochs", 0, ["recipes.guided.stages[1].epochs: got 0", "greater than or equal"]),
        ("recipes.guided.stages.1.epochs", "3", ["recipes.guided.stages[1].epochs: got '3'", "integer"]),
        ("recipes.guided.stages.0.unfreeze", "hed", ["stages[0].unfreeze: got 'hed'", "'head' or 'all'"]),
        ("recipes.guided.stages.0.learning_rate", float("nan"), ["stages[0].learning_rate: got nan"]),
        ("recipes.guided.stages.0.learning_rate", "1e-3", ["learning_rate: got '1e-3'", "write 0.001 or 1.0e-3"]),
        ("recipes.guided.stages.0.image_scale", 0.5, ["recipes.guided.stages[0]: image_scale: must be 1", "head"]),
        ("recipes.guided.erase.tumor", 0.8, ["recipes.guided.erase: tumor and elsewhere: got 0.8 and 0.25"]),
        ("recipes.guided.erase.fills", ["pasted"], ["recipes.guided.erase.fills[0]: got 'pasted'", "'mirrored'"]),
        (
            "recipes.guided.stages",
            [STAGE | {"unfreeze": "head"}],
            ["recipes.guided: cam_loss: acts in stages that thaw"],
        ),
        (
            "recipes.scratch.stages.0.image_scale",
            0.5,
            ["baselines[2]: got 'scratch', with an `image_scale`", "tokens"],
        ),
        ("recipes.scratch.cam_loss", 1.0, ["baselines[2]: got 'scratch', with a `cam_loss`", "tokens"]),
        ("ablation.changes", [{"proposed.recipe": "x"}], ["ablation.changes[0]: proposed.recipe: got 'x'; allowed:"]),
        (
            "ablation.changes",
            [{"head.poling": "gmp"}],
            ["ablation.changes[0]: head.poling: unknown key (did you mean pool"],
        ),
        (
            "ablation.changes",
            [{"seed": 1}],
            ["ablation.changes[0]: 'seed' leads to no parameter of a fit; allowed: rec"],
        ),
        ("ablation.changes", [{"a.b.c": 1}], ["ablation.changes[0]: 'a.b.c' leads to no parameter"]),
        ("ablation.changes", [{}], ["ablation.changes[0]: is empty"]),
        ("classes", ["glioma", "glioma"], ["classes: got ['glioma', 'glioma']; allowed: each once"]),
        ("classes", ["glioma"], ["classes: got ['glioma']; allowed"]),
        ("data.source", "figshare", ["data: `phantom` is a section where source is phantom"]),
        ("proposed.recipe", "x", ["proposed.recipe: got 'x'; allowed: finetune, guided, plain, scratch"]),
        ("proposed.model", "b0", ["proposed.model: got 'b0'", "efficientnet_b0"]),
        ("baselines.0.model", "vgg", ["baselines[0].model: got 'vgg'", "vgg16"]),
        ("baselines.1.model", "vgg16", ["baselines: vgg16 stands twice"]),
        ("baselines.2.image_size", 100, ["image_size: got 100; vit_b16 needs"]),
        ("proposed.image_size", 64, ["proposed.image_size: must be null"]),
        ("preprocessing.image_size", 31, ["preprocessing.image_size: got 31"]),
        ("head.pooling", "mean", ["head.pooling: got 'mean'", "'gap', 'gmp' or 'flatten'"]),
        ("comparison.protocol", "author_folds", ["comparison.protocol: got 'author_folds'", "image_holdout"]),
        ("proposed.output_stride", 4, ["proposed.output_stride: got 4; allowed: 8, 16 or 32"]),
        ("baselines.0.output_stride", 32, ["output_stride: got 32; vgg16 can be built with 16, or null"]),
        ("comparison.seeds", [1], ["comparison.seeds: got [1]; allowed: the first of [0]"]),
        ("gradcam.models", ["vgg19"], ["gradcam.models[0]: got 'vgg19'", "vgg16"]),
        ("gradcam.models", ["vgg16/x"], ["gradcam.models[0]: got 'vgg16/x'", "with another recipe: vgg16/finetune"]),
        ("gradcam.models", ["vit_b16/"], ["gradcam.models[0]: got 'vit_b16/'", "with another recipe"]),
        ("gradcam.models", ["vgg16/finetune/4"], ["gradcam.models[0]: got 'vgg16/finetune/4'", "stride: /8, /16, /32"]),
        ("gradcam.models", ["vgg16/finetune/16/1"], ["gradcam.models[0]: got 'vgg16/finetune/16/1'"]),
        ("gradcam.models", ["vgg16/finetune/32"], ["output_stride: got 32; vgg16 can"]),
        ("profile", "../x", ["profile: got '../x'"]),
        ("external.hospital_b.path", "data/phantom_a", ["external.hospital_b.path: must differ"]),
        ("external.hospital_b.phantom", None, ["external.hospital_b: `phantom` is a section"]),
    ],
)
def test_a_mistake_is_named_with_its_key(path, value, told):
    with pytest.raises(ParamsError) as error:
        params.check(changed(path, value), "some.yaml")
    assert str(error.value).startswith("some.yaml:")
    for words in told:
        assert words in str(error.value)


def test_a_profile_names_its_external_sets_and_takes_what_it_does_not_say_of_one_from_base(tmp_path):
    base = params.load("figshare").external
    (tmp_path / "mine.yaml").write_text("external: {pmram: {required: true}}\n")
    assert params.load(tmp_path / "mine.yaml").external == {
        "pmram": base["pmram"].model_copy(update={"required": True})
    }
    for given in ("external: {}\n", "external: null\n"):
        (tmp_path / "mine.yaml").write_text(given)
        study = params.load(tmp_path / "mine.yaml")
        assert study.external == {} and list(base) == ["bhuvaji", "nickparvar", "pmram"]
        params.write(study, tmp_path / "mine.yaml")
        assert params.load(tmp_path / "mine.yaml") == study


def test_labels_must_lead_to_the_classes():
    given = params.load("nickparvar").model_dump()
    given["data"]["labels"]["pituitary"] = "other"
    with pytest.raises(ParamsError, match=r"data\.labels: map nothing to pituitary"):
        params.check(given, "x")
    given = params.load("figshare").model_dump()
    given["external"]["pmram"]["labels"] = {"512Normal": "no_tumor"}
    with pytest.raises(ParamsError, match=r"external\.pmram\.labels: map to no_tumor; allowed: to one at least of"):
        params.check(given, "x")


def test_maps_may_be_asked_of_a_network_with_another_recipe_and_stride():
    study = params.check(changed("gradcam.models", ["efficientnet_lite0/finetune/32"]), "x")
    model = study.model_of("efficientnet_lite0/finetune/32")
    assert model == study.proposed.model_copy(update={"recipe": "finetune", "output_stride": 32})
    assert study.proposed.output_stride == 16
    explained = runs.plan(study, "some data").query("purpose == 'gradcam'")["fit"]
    assert {(fit.output_stride, fit.recipe.cam_loss) for fit in explained} == {(32, 0)}


def test_a_missing_key_is_an_error_not_a_default():
    given = copy.deepcopy(QUICK)
    del given["head"]["dropout"]
    with pytest.raises(ParamsError, match=r"head\.dropout: missing"):
        params.check(given, "x")


def test_a_profile_says_only_what_differs_and_a_recipe_may_be_like_another(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "preprocessing: {image_size: 96}\n"
        "recipes:\n"
        "  slow: {like: guided, epochs: 3, batch_size: 4}\n"
        "  staged: {like: slow, learning_rate: 0.5, stages: [{unfreeze: head, epochs: 1}, {layer_decay: 0.9}]}\n"
        "  both: {like: staged, epochs: 7}\n"
    )
    study, base = params.load(tmp_path / "mine.yaml"), params.load("figshare")
    assert study.profile == "mine"
    assert study.preprocessing == base.preprocessing.model_copy(update={"image_size": 96})
    guided, slow, staged, both = (study.recipes[name] for name in ("guided", "slow", "staged", "both"))
    assert slow.stages == [guided.stages[0].model_copy(update={"epochs": 3})]
    assert (slow.batch_size, slow.cam_loss) == (4, guided.cam_loss)
    assert [(s.unfreeze, s.epochs, s.learning_rate, s.layer_decay) for s in staged.stages] == [
        ("head", 1, 0.5, 1),
        ("all", 3, 0.5, 0.9),
    ]
    assert [(s.unfreeze, s.epochs) for s in both.stages] == [("head", 7), ("all", 7)]


@pytest.mark.parametrize(("like", "told"), [("none", "none"), ("b", "b.like: got 'a'"), ("a", "'a'"), (3, "3")])
def test_a_recipe_is_like_one_that_is_there_and_never_like_itself(tmp_path, like, told):
    text = yaml.safe_dump({"recipes": {"a": {"like": like}, "b": {"like": "a"}}})
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ParamsError, match=r"recipes\.(a|b)\.like: got '?.*; allowed: .*guided") as error:
        params.load(tmp_path / "mine.yaml")
    assert told in str(error.value)


def test_a_part_of_a_section_is_enough_and_a_stages_key_holds_for_all_stages():
    changes = {"preprocessing": {"image_size": 160}, "recipes": {"guided": {"epochs": 1}}}
    study, quick = params.from_notebook({"changes": changes}), params.load("quick")
    assert study.preprocessing == quick.preprocessing.model_copy(update={"image_size": 160})
    assert [s.epochs for s in study.recipes["guided"].stages] == [1, 1]
    assert study.profile == "quick-changed"  # the results of params/quick.yaml are of that file alone


def test_a_whole_file_means_the_same_however_it_comes():
    file = params.load("quick")
    raw = yaml.safe_load((params.PARAMS_DIR / "quick.yaml").read_text())
    assert params.from_mapping(QUICK) == params.from_mapping(raw) == params.from_mapping({}) == file
    assert params.from_notebook({**raw, "_": 1, "In": ["", "profile = 'quick'\nchanges = {}"], "runs": runs}) == file
    assert params.from_notebook({"profile": "quick", "changes": {}}) == file
    assert params.from_notebook({"profile": "sweep", "changes": {}}) == params.load("sweep")


def test_a_file_that_names_another_profile_is_refused(tmp_path):
    text = (params.PARAMS_DIR / "figshare.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ParamsError, match="profile: got 'figshare'; allowed: mine"):
        params.load(tmp_path / "mine.yaml")
    (tmp_path / "figshare.yaml").write_text(text)
    assert params.load(tmp_path / "figshare.yaml") == params.load("figshare")
    (tmp_path / "figshare.yaml").write_text(text + "seed: 3\n")
    with pytest.raises(ParamsError, match=r"differs from .*whose results are of the same name"):
        params.load(tmp_path / "figshare.yaml")


@pytest.mark.parametrize("value", [(3,), np.int64(3), "3", 3.0, True])
def test_a_notebook_refuses_a_value_of_another_type(value):
    with pytest.raises(ParamsError, match="seed: got"):
        params.from_notebook({"seed": value})


def test_a_notebook_refuses_a_parameter_that_no_section_has():
    with pytest.raises(ParamsError, match="modle: unknown key"):
        params.from_notebook({"modle": "vgg16"})
    assert params.from_notebook({"seed": 3}).seed == 3


def test_a_notebook_reads_its_parameter_cell_and_papermills_after_it_and_may_run_twice():
    own, injected = "profile = 'quick'\nchanges = {}", "# Parameters\nmodle = 'vgg16'"
    later = {"profile": "quick", "changes": {}, "table": [1], "In": ["", own, "study = 1", "table = [1]", own, "x"]}
    assert params.from_notebook(later) == params.load("quick")
    for cells in (
        [own, injected, "study"],
        [own + "\nmodle = 3", "study"],
        ["%time", own, "y = 2", own, injected, "s"],
    ):
        with pytest.raises(ParamsError, match=r"modle: unknown key .*did you mean|modle: unknown key"):
            params.from_notebook({"profile": "quick", "changes": {}, "modle": "vgg16", "In": cells})
    with pytest.raises(ParamsError, match=r"changes: got \('seed'"):
        params.from_notebook({"changes": ("seed", 3)})


def test_a_written_file_reads_back_the_same(tmp_path):
    study, path = params.load("quick"), tmp_path / "quick" / params.RESOLVED
    params.write(study, path)
    before = path.stat().st_mtime_ns
    params.write(study, path)
    assert params.load(path) == study
    assert path.stat().st_mtime_ns == before


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
    study = params.load("sweep")
    fits = runs.plan(study, "some data").drop_duplicates("id")["fit"]
    swept = {(f.model, f.seed, f.fold) for f in fits if f.protocol == "group_folds"}
    assert swept == {
        (m, s, k) for m in ("efficientnet_lite0", "efficientnet_lite2") for s in range(3) for k in range(5)
    }
    assert len(fits) == 2 * 3 * 5 + 3
