"""A run whose map is the slice itself and whose slices are black but for the tumour: all scores are known beforehand."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from networks import SIZE, by_hand

from btlib import DataError, params
from btlib.data.figshare import CLASSES
from btlib.deploy import explorer
from btlib.figures import gradcam as figures
from btlib.models import registry as models
from btlib.scores import explanations, map_tables, reliance
from btlib.study import digest, sentences

SETTINGS = params.GradCAM(
    methods=["gradcam", "layercam"], models=["tiny"], protocol="image_holdout", tolerance_px=1, deletion_steps=4
)
STATISTICS = params.Statistics(bootstrap=200, level=0.95)


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.REGISTRY, "tiny", SimpleNamespace(feature_layer="features", block=r"^(features)$"))
        yield


def made(folder, masked=True):
    """A run with its data: logits are (mean, 0, 0), so that meningioma is predicted and the other classes are wrong."""
    n, random = 18, np.random.default_rng(4)
    masks = np.zeros((n, SIZE, SIZE), np.uint8)
    for mask, (top, left) in zip(masks, random.integers(0, SIZE - 2, (n, 2)), strict=True):
        mask[top : top + 2, left : left + 2] = 1
    about = pd.DataFrame(
        {
            "image_id": [f"s{i}" for i in range(n)],
            "label": [CLASSES[i % 3] for i in range(n)],
            "patient_id": [f"p{i // 2}" for i in range(n)],
            "patient_group": [f"g{i // 2}" for i in range(n)],
            "plane": ["axial", ""] * (n // 2),
            "mask_area": [int(masked and i != 6) for i in range(n)],
        }
    )
    images = masks * 200
    masks[~(about["mask_area"] > 0).to_numpy()] = 0
    predictions = about.iloc[::-1][:12].drop(columns="mask_area")
    predictions = predictions.assign(role="test", logit_meningioma=1.0, logit_glioma=0.0, logit_pituitary=0.0)
    run = SimpleNamespace(
        id="f0",
        folder=folder,
        fit=SimpleNamespace(model="tiny", classes=list(CLASSES)),
        model=lambda: by_hand(weights=((1.0, 0.0, 0.0), (1.0, 0.0, 0.0))),
        predictions=lambda role=None: predictions,
    )
    return run, SimpleNamespace(manifest=about, images=images, masks=masks, fingerprint="d0")


@pytest.fixture(scope="module")
def run_and_data(tmp_path_factory):
    return made(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def explained(run_and_data):
    return explanations.explain_run(*run_and_data, SETTINGS, 0)


@pytest.fixture(scope="module")
def pooled(explained):
    return {name: explanations.pooled({"tiny": [explained]}, name) for name in explanations.TABLES}


@pytest.fixture(scope="module")
def scored(pooled):
    return map_tables.summary(pooled["gradcam"], ["energy", "pointing", "iou"], STATISTICS, 0)


def test_test_slices_are_those_of_the_run_in_the_manifests_order(run_and_data):
    found = explanations.test_slices(*run_and_data)
    assert found["row"].tolist() == list(range(6, 18))
    assert found["image_id"].tolist() == [f"s{i}" for i in range(6, 18)]
    assert found["outcome"].tolist() == ["right", "wrong", "wrong"] * 4
    assert set(found["plane"]) == {"axial", "unknown"} and set(found["fit"]) == {"f0"}
    assert found["confidence"].iloc[0] == pytest.approx(np.e / (np.e + 2))


def test_maps_that_are_the_tumour_score_one(explained):
    table = explained["gradcam"]
    assert not table.isna().any(axis=None)
    assert set(table["image_id"]) == {f"s{i}" for i in range(7, 18)}  # s6 has no mask
    # Two maps, two controls that need a network, five drawn ones on two grids, and the ceiling: here the grids are one.
    assert set(table["grid"]) == {f"{SIZE} x {SIZE}"}
    maps = table[table["kind"] == "map"]
    assert len(maps) == 2 * 11 and (maps[["energy", "pointing", "iou"]].round(4) == 1).all(axis=None)
    ceiling = table[table["kind"] == "ceiling"]
    assert set(ceiling["method"]) == {"ceiling"} and (ceiling["energy"] == 1).all()
    np.testing.assert_allclose(table.loc[table["method"] == "uniform", "energy"], 4 / SIZE**2)
    assert set(table.loc[table["kind"] == "control", "method"]) == {
        *("uniform", "centred Gaussian", "class-average mask", "brightness", "edges", "head shuffled", "random weights")
    }


def test_tables_describe_their_slices(explained):
    first = ["image_id", "fit", "label", "patient_id", "patient_group", "plane"]
    for name, table in explained.items():
        assert list(table)[:6] == first and set(explanations.TABLES[name]) <= set(table), name
    seventh = explained["gradcam"].query("image_id == 's7'").iloc[0]
    assert seventh[first].tolist() == ["s7", "f0", CLASSES[1], "p3", "g3", "unknown"]
    assert seventh["outcome"] == "wrong" and seventh["predicted"] == CLASSES[0]


def test_kept_tables_need_no_network(run_and_data, explained):
    run, data = run_and_data
    without = SimpleNamespace(**{**vars(run), "model": None})
    for again in (explanations.explain_run(without, data, SETTINGS, 0), explanations.read(without)):
        for name, table in explained.items():
            pd.testing.assert_frame_equal(again[name], table)


def test_other_settings_make_only_what_they_change(tmp_path):
    run, data = made(tmp_path)
    explanations.explain_run(run, data, SETTINGS, 0)
    before = {name: (tmp_path / f"{name}.csv").stat().st_mtime_ns for name in explanations.TABLES}
    explanations.explain_run(run, data, SETTINGS.model_copy(update={"deletion_steps": 3}), 0)
    after = {name: (tmp_path / f"{name}.csv").stat().st_mtime_ns for name in explanations.TABLES}
    assert [name for name in before if before[name] != after[name]] == ["insertion"]
    assert json.loads((tmp_path / "insertion.json").read_text())["deletion_steps"] == 3


def test_a_table_that_is_not_there_is_named(tmp_path):
    run, _ = made(tmp_path)
    with pytest.raises(DataError, match=r"gradcam\.csv: no such table; `explanations.explain_run` makes it"):
        explanations.read(run)


def test_runs_of_one_model_are_put_together(explained):
    apart = {n: t.assign(fit="f1", image_id="x" + t["image_id"]) for n, t in explained.items()}
    both = explanations.pooled({"tiny": [explained, apart]}, "gradcam")
    assert list(both)[:2] == ["model", "image_id"] and set(both["model"]) == {"tiny"}
    assert both["fit"].value_counts().to_dict() == dict.fromkeys(["f0", "f1"], len(explained["gradcam"]))


def test_without_masks_there_are_maps_and_no_scores(tmp_path):
    run, data = made(tmp_path, masked=False)
    explained = explanations.explain_run(run, data, SETTINGS, 0)
    assert not len(explained["gradcam"]) and not len(explained["erased"])
    assert len(explained["insertion"]) and len(explained["cascade"])
    pooled = {n: explanations.pooled({"tiny": [explained]}, n) for n in explanations.TABLES}
    summary = map_tables.summary(pooled["gradcam"], ["energy"], STATISTICS, 0)
    verdicts = map_tables.verdicts(map_tables.against_controls(summary))
    erased = reliance.summary(pooled["erased"], {}, STATISTICS, 0)
    assert not len(summary) and not len(verdicts) and not len(erased)
    study = SimpleNamespace(gradcam=SETTINGS)
    assert sentences.maps_in_words(study, summary, verdicts, erased) == sentences.NO_SCORES
    assert explanations.pictures(run, data, ["gradcam"])[2]["gradcam"].any()


def test_summary_has_a_row_for_every_group_and_no_other(scored):
    assert not scored.isna().any(axis=None)
    groups = scored[["by", "group"]].drop_duplicates().apply(tuple, axis=1).tolist()
    assert sorted(groups) == sorted(
        [
            *[("all", "all slices"), *(("label", c) for c in CLASSES)],
            *[("outcome", "right"), ("outcome", "wrong"), ("plane", "axial"), ("plane", "unknown")],
        ]
    )
    whole = scored[(scored["by"] == "all") & (scored["method"] == "gradcam")]
    assert whole["score"].tolist() == ["energy", "pointing", "iou"] and (whole["slices"] == 11).all()
    assert (whole["patients"] == 6).all() and whole["mean"].tolist() == pytest.approx([1, 1, 1])
    assert ((scored["low"] <= scored["mean"]) & (scored["mean"] <= scored["high"])).all()


def test_findings_say_whether_the_controls_are_beaten(pooled, scored):
    verdicts = map_tables.verdicts(map_tables.against_controls(scored))
    # The slice itself is as good a map as a perfect one, so not every control is exceeded.
    assert not verdicts["exceeds"].any() and verdicts["not_exceeded"].str.contains("brightness").all()
    erased = reliance.summary(pooled["erased"], {}, STATISTICS, 0)
    said = sentences.maps_in_words(SimpleNamespace(gradcam=SETTINGS), scored, verdicts, erased)
    assert said.startswith(f"- **tiny, Grad-CAM, {SIZE} x {SIZE} cells:** 100.0 % (")
    assert "(chance 6.2 % (" in said and "do **not** exceed" in said and "tumour erased:** right in" in said


def test_cascade_compares_each_step_with_the_fitted_network(pooled):
    table = map_tables.cascade_summary(pooled["cascade"], STATISTICS, 0)
    assert table["step"].unique().tolist() == ["head", "head and 1 of 2 blocks", "whole network"]
    assert table["score"].tolist() == ["rank_correlation", "ssim"] * 3
    assert not table.isna().any(axis=None) and table["mean"].between(-1, 1).all()


# ---- figures and explorer


@pytest.fixture
def shown(run_and_data):
    images, masks, maps, grid = explanations.pictures(*run_and_data, ["gradcam"])
    assert grid == f"{SIZE} x {SIZE}"
    return images, masks, maps, explanations.test_slices(*run_and_data)


def test_figures_of_maps_are_drawn(shown, pooled, scored, tmp_path):
    images, masks, maps, slices = shown
    heat, picked = maps["gradcam"], map_tables.pick(slices)
    rows, wrong = picked.index.to_numpy(), slices.index[slices["outcome"] == "wrong"].to_numpy()
    same_grid = scored[scored["kind"] != "ceiling"].drop_duplicates(["method", "by", "group", "score"])
    drawn = [
        figures.gradcam_examples(images[rows], heat[rows], masks[rows], picked),
        figures.gradcam_failures(images[wrong], heat[wrong], masks[wrong], slices.loc[wrong]),
        figures.gradcam_failures(images[:0], heat[:0], masks[:0], slices.iloc[:0]),
        figures.gradcam_class_means(heat, masks, slices),
        figures.gradcam_against_controls(same_grid),
        figures.erased(digest.erased(reliance.summary(pooled["erased"], {}, STATISTICS, 0))),
        figures.gradcam_cascade(map_tables.cascade_summary(pooled["cascade"], STATISTICS, 0)),
    ]
    for number, figure in enumerate(drawn):
        figure.savefig(tmp_path / f"{number}.png", dpi=50)
    assert drawn[1]._suptitle.get_text() == "8 of 8 wrong predictions, the most confident first"
    assert [t.get_text() for t in drawn[4].axes[0].get_yticklabels()][:2] == ["Grad-CAM (8 x 8)", "LayerCAM (8 x 8)"]
    assert [bar.get_width() for bar in drawn[4].axes[0].patches][:2] == pytest.approx([1, 1])


def test_explorer_is_a_picture_where_no_server_started_the_kernel(shown, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert len(explorer.explore(*shown).axes) == 3 * 2  # right meningiomas, wrong gliomas, wrong pituitary tumours
    monkeypatch.setenv("JPY_SESSION_NAME", "05_gradcam.ipynb")
    assert type(explorer.explore(*shown)).__name__ == "VBox"


def test_explorer_steps_through_what_was_chosen(shown):
    panel = explorer.explore(*shown, panel=True)
    controls, words, picture = panel.children
    (label, outcome), (_method, confidence), place = (
        *(box.children for box in controls.children[:2]),
        controls.children[2],
    )
    assert words.value == "1 of 12: image_id s6" and bytes(picture.value).startswith(b"\x89PNG")
    label.value = "glioma"
    assert words.value == "1 of 4: image_id s7"
    before = bytes(picture.value)
    place.value = 3
    assert words.value == "4 of 4: image_id s16" and bytes(picture.value) != before
    outcome.value = "right"
    assert words.value == "no such slice" and bytes(picture.value) == b""
    outcome.value, confidence.value = "all", (0.9, 1)
    assert words.value == "no such slice"


def test_explorer_without_slices_is_refused(shown):
    images, masks, maps, slices = shown
    with pytest.raises(DataError, match="none"):
        explorer.explore(images[:0], masks[:0], {m: h[:0] for m, h in maps.items()}, slices.iloc[:0])
