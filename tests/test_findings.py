"""The results page is what its kept tables say, and nothing else."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from btlib import DataError
from btlib.site import checklist, findings
from btlib.study import digest

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "reports" / "figshare"


@pytest.fixture(scope="module")
def anew(tmp_path_factory):
    """A copy of the kept tables from which the page is made anew."""
    return made(tmp_path_factory.mktemp("home"), "figshare")


def made(home, profile):
    """Make a profile's page anew from a copy of its kept tables; the folder it lies in."""
    made_anew = shutil.ignore_patterns("figures", "README.md", "checklist.md", "html", "notebooks")
    shutil.copytree(ROOT / "reports" / profile, home / "reports" / profile, ignore=made_anew)
    shutil.copy(ROOT / "reports" / "literature.csv", home / "reports")
    if profile != "nickparvar":  # another profile's page leads there
        (home / "reports" / "nickparvar").mkdir()
        shutil.copy(ROOT / "reports" / "nickparvar" / "README.md", home / "reports" / "nickparvar")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BTLIB_HOME", str(home))
        return findings.write(profile).parent


def skeleton(svg):
    """An SVG's text with its numbers and hashed ids taken out, and the numbers."""
    text = re.sub(r"[mpch][0-9a-f]{10}", "ID", svg)
    number = r"-?\d+(?:\.\d+)?"
    return re.sub(number, "N", text), np.array(re.findall(number, text), float)


def test_the_kept_page_is_what_the_kept_tables_give(anew):
    for name in ("README.md", "checklist.md"):
        assert (anew / name).read_text() == (KEPT / name).read_text(), "run `make results`"


@pytest.mark.parametrize("profile", ["control", "longer", "nickparvar", "rivals", "scratch"])
def test_the_page_of_another_profile_is_what_its_tables_give(tmp_path, profile):
    folder = made(tmp_path, profile)
    for name in ("README.md", "checklist.md"):
        assert (folder / name).read_text() == (ROOT / "reports" / profile / name).read_text(), "run `make results`"


def test_the_kept_figures_are_what_the_kept_tables_give(anew):
    told = set(re.findall(r"\]\(figures/(\w+)\.svg\)", (KEPT / "README.md").read_text()))
    assert told == {path.stem for path in anew.glob("figures/*.svg")}
    for name in told:
        (text, numbers), (kept, others) = (skeleton((d / f"figures/{name}.svg").read_text()) for d in (anew, KEPT))
        assert text == kept, f"{name}: run `make results`"
        np.testing.assert_allclose(numbers, others, atol=0.02, err_msg=name)


def test_no_figure_of_the_page_holds_a_picture_or_takes_a_notebooks_name(anew):
    saved = "".join(path.read_text() for path in (ROOT / "notebooks").glob("*.ipynb"))
    taken = re.findall(r'tables\.save\(study\.profile, \\"(\w+)\\"', saved)
    assert len(taken) > 20
    for path in anew.glob("figures/*.svg"):
        assert "<image" not in path.read_text()
        assert path.stem not in taken


def test_every_link_of_the_page_leads_somewhere(anew):
    links = re.findall(r"\]\(([^)#]+)\)", (KEPT / "README.md").read_text())
    assert len(links) > 30
    assert [link for link in links if "://" not in link and not (KEPT / link).exists()] == []


def test_making_the_page_loads_no_deep_learning_library():
    code = "import sys; from btlib.site import checklist, findings; print({'tensorflow', 'keras', 'torch', 'jax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"


def kept_of(tmp_path, **frames):
    (tmp_path / "tables").mkdir(parents=True)
    for name, frame in frames.items():
        frame.to_csv(tmp_path / "tables" / f"{name}.csv", index=False)
    about = '{"parameters": {"proposed": {"model": "m", "weights": "imagenet", "recipe": "guided"}, "baselines": [], '
    about += '"recipes": {"guided": {"stages": [{"epochs": 4}, {"epochs": 6}]}, "long": {"stages": [{"epochs": 12}]}}, "statistics": {"level": 0.95}, "data": {"source": "figshare"}, '
    about += '"comparison": {"protocol": "image_holdout", "seeds": [0]}}, "data": [], "fits": []}'
    (tmp_path / "provenance.json").write_text(about)
    return digest.Kept(tmp_path)


LEAKAGE = pd.DataFrame(
    [
        ("image_holdout", "0", 100, 0.95, 0.9, 1.0),
        ("image_holdout", "1", 100, 0.97, 0.9, 1.0),
        ("image_holdout", "all", 200, 0.96, 0.9, 1.0),
        ("group_folds", "0", 50, 0.9, 0.8, 1.0),
    ],
    columns=["protocol", "seed", "n_test", "accuracy", "accuracy_low", "accuracy_high"],
)


def test_the_ladder_counts_wrong_slices_and_leaves_out_rows_that_pool_seeds(tmp_path):
    table = digest.ladder(kept_of(tmp_path, leakage=LEAKAGE))
    assert list(table["wrong"]) == [4, 5, 3, 5]
    assert list(table["n"]) == [613, 100, 100, 50]
    assert list(table["group"]) == ["The paper", "Slices at random", "Slices at random", "Patients apart"]
    # Wilson's interval of 609 of 613, by hand: (k + 1.92) / (n + 3.84) -+ 1.96 sqrt(k (n - k) / n + 0.96) / (n + 3.84)
    spread = 1.96 * np.sqrt(609 * 4 / 613 + 0.96)
    bounds = [(610.92 - spread) / 616.84, (610.92 + spread) / 616.84]
    np.testing.assert_allclose(table.loc[0, ["low", "high"]].astype(float), bounds, atol=1e-4)


def test_what_the_answer_rests_on_is_told_by_fills_that_were_never_trained_on(tmp_path):
    columns = ["model", "erased", "fill", "trained", "by", "accuracy"]
    rows = [("m", "nothing", "", False, "all", 0.94), ("m", "nothing", "", False, "label", 0.5)]
    rows += [
        ("m", "tumour", fill, fill == "grey", "all", share) for fill, share in [("grey", 0.1), ("a", 0.65), ("b", 0.72)]
    ]
    rows += [
        ("m", "elsewhere", fill, fill == "grey", "all", share)
        for fill, share in [("grey", 0.2), ("a", 0.93), ("b", 0.9)]
    ]
    plain = [("m/plain/32", "nothing", "", False, "all", 0.95)]
    plain += [
        ("m/plain/32", "tumour", fill, False, "all", share) for fill, share in [("grey", 0.3), ("a", 0.81), ("b", 0.84)]
    ]
    (told,) = findings.findings(kept_of(tmp_path / "both", gradcam_erase=pd.DataFrame(rows + plain, columns=columns)))
    assert told == (
        "**What the answer rests on.** With the tumour erased, by fills that the network never trained on, 65.0 to 72.0 % of "
        "slices are right, by fill (a plain network's: 81.0 to 84.0 %); with as much erased elsewhere 90.0 to 93.0 %, whole 94.0 % (a "
        "plain network's: 95.0 %)."
    )
    (alone,) = findings.findings(kept_of(tmp_path / "alone", gradcam_erase=pd.DataFrame(rows, columns=columns)))
    assert "plain" not in alone


def test_the_papers_row_stands_above_its_own_slices_and_pretrained_networks_alone(tmp_path):
    kept_of(tmp_path, leakage=LEAKAGE)
    about = json.loads((tmp_path / "provenance.json").read_text())
    for section, key, value in (("data", "source", "folders"), ("proposed", "weights", None)):
        parameters = about["parameters"] | {section: about["parameters"][section] | {key: value}}
        (tmp_path / "provenance.json").write_text(json.dumps(about | {"parameters": parameters}))
        assert "The paper" not in set(digest.ladder(digest.Kept(tmp_path))["group"])


def test_calibration_is_of_the_proposed_network_and_scales_each_fold_by_the_others(tmp_path):
    """A plain network, or a change of the ablation, may be fitted on the very same split, under the same title."""
    kept = kept_of(tmp_path, leakage=LEAKAGE)
    (tmp_path / "predictions").mkdir()
    # Log-odds of 2 with 3 of 4 right want T = 2 / ln 3; fold b's want another, and c is another network.
    labels = {"a": "xxxy", "b": "xxxxxxxxxy", "c": "yyyy"}
    for name, true in labels.items():
        table = pd.DataFrame({"role": "test", "label": list(true), "logit_x": 2.0, "logit_y": 0.0})
        table.to_csv(tmp_path / "predictions" / f"{name}.csv", index=False)
    title = "m (imagenet), group_folds fold {}, seed 0"
    fits = [("a", 0, ["proposed", "ablation"]), ("b", 1, ["proposed"]), ("c", 0, ["gradcam"])]
    kept.about["fits"] = [{"id": id, "title": title.format(k), "what_for": purposes} for id, k, purposes in fits]
    before, after, temperature = digest.reliability(kept)
    assert before["n"].sum() == after["n"].sum() == 14
    of_a, of_b = 2 / np.log(3), 2 / np.log(9)
    assert temperature == pytest.approx((of_a + of_b) / 2, rel=1e-3)
    # Each fold by the other's: a's confidence becomes 9 in 10, b's 3 in 4.
    assert sorted(after["confidence"].round(2)) == [0.75, 0.9]
    kept.about["fits"] = kept.about["fits"][1:]
    assert digest.reliability(kept) is None


def test_calibration_is_told_once_a_set_before_and_after_and_of_patients_apart_first(tmp_path):
    columns = ["slices", "scaling", "temperature", "n", "accuracy", "confidence", "ece"]
    rows = [("test", "before", 1, 8, 0.75, 0.9, 0.15), ("test", "after", 2, 8, 0.75, 0.8, 0.05)]
    rows += [("pmram, overlapping", when, 1, 8, 1, 1, 0) for when in ("before", "after")]
    kept = kept_of(tmp_path, leakage=LEAKAGE, calibration=pd.DataFrame(rows, columns=columns))
    (row,) = digest.calibrated(kept).to_dict("records")
    assert row == {
        **{"slices": "test", "n": 8, "accuracy": 0.75, "temperature": 2},
        **{"confidence_before": 0.9, "confidence_after": 0.8, "ece_before": 0.15, "ece_after": 0.05},
    }
    (tmp_path / "predictions").mkdir()
    for fold in "ab":
        table = pd.DataFrame({"role": "test", "label": list("xxxy"), "logit_x": 2.0, "logit_y": 0.0})
        table.to_csv(tmp_path / "predictions" / f"{fold}.csv", index=False)
    fit = {"title": "m (imagenet), group_folds fold 0, seed 0", "what_for": ["proposed"]}
    kept.about["fits"] = [fit | {"id": "a"}, fit | {"id": "b"}]
    first = digest.calibrated(kept).iloc[0]
    assert (first["slices"], first["n"], first["accuracy"]) == ("group_folds", 8, 0.75)
    # Log-odds of 2 say 0.88 where 3 of 4 are right; scaled by the other fold, whose share is the same, they say just that.
    assert first["ece_before"] == pytest.approx(1 / (1 + np.exp(-2)) - 0.75)
    assert first["ece_after"] == pytest.approx(0, abs=1e-3)


def test_a_control_stands_once_on_its_best_grid_and_a_ceiling_on_each(tmp_path):
    columns = ["model", "method", "kind", "grid", "mean"]
    rows = [("m", "gradcam", "map", "10 x 10", 0.6), ("m/plain/32", "gradcam", "map", "5 x 5", 0.1)]
    rows += [("m", "edges", "control", "10 x 10", 0.01), ("m", "edges", "control", "160 x 160", 0.03)]
    rows += [("m/plain/32", "edges", "control", "5 x 5", 0.02), ("m/plain/32", "uniform", "control", "5 x 5", 0.05)]
    rows += [("m", "ceiling", "ceiling", "10 x 10", 0.8), ("m/plain/32", "ceiling", "ceiling", "5 x 5", 0.5)]
    rows += [("other", "gradcam", "map", "10 x 10", 0.9)]
    table = pd.DataFrame(rows, columns=columns).assign(score="pointing", by="all", group="all slices", low=0, high=1)
    looks = digest.looks(kept_of(tmp_path, gradcam_summary=table))
    assert list(looks["value"]) == [0.6, 0.1, 0.05, 0.03, 0.8, 0.5]
    assert list(looks["row"][2:]) == ["uniform (5 x 5)", "edges (160 x 160)", "ceiling (10 x 10)", "ceiling (5 x 5)"]


def test_second_sets_count_what_is_no_copy(tmp_path):
    names = ["slices", "augmentation", "n", "n_glioma", "accuracy", "accuracy_low", "accuracy_high"]
    rows = [("all", "none", 10, 10, 0.9, 0.8, 1), ("clean", "none", 4, 4, 0.5, 0.1, 0.9)]
    rows += [("all", "mirrored slices averaged", 10, 10, 0.1, 0, 1)]
    kept = kept_of(tmp_path, cross_dataset=pd.DataFrame(rows, columns=names).assign(set="pmram"))
    counts, scores = digest.copies(kept)
    assert counts.to_dict("records") == [{"set": "PMRAM", "label": "glioma", "n": 10, "copies": 6}]
    assert list(scores["value"]) == [0.9, 0.5]
    assert digest.share_of_copies(kept) == {"PMRAM": 0.6}


def test_second_sets_are_told_with_their_commonest_class_and_a_set_of_copies_alone_without(tmp_path):
    names = [
        "set",
        "slices",
        "n",
        "n_glioma",
        "n_meningioma",
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "recall_glioma",
    ]
    rows = [("pmram", "all", 10, 5, 5, 0.9, 0.8, 1, 0.9), ("pmram", "clean", 4, 3, 1, 0.5, 0.1, 0.9, 0.66)]
    rows += [("mine", "all", 8, 4, 4, 1, 0.7, 1, 1), ("mine", "clean", 0, 0, 0, np.nan, np.nan, np.nan, np.nan)]
    table = pd.DataFrame(rows, columns=names).assign(augmentation="none")
    (told,) = findings.findings(kept_of(tmp_path, cross_dataset=table))
    assert "100 % of mine and 60 % of PMRAM" in told or "60 % of PMRAM and 100 % of mine" in told
    assert told.endswith(
        "and 50.0 % (10.0 to 90.0) of the slices that are no copies. Of these, the commonest class has 3 of 4 (glioma), of "
        "which 66.0 % are right."
    )


def test_scores_of_a_class_come_from_the_confusion_matrix():
    cells = [("a", "a", 8), ("a", "b", 2), ("b", "a", 1), ("b", "b", 9)]
    table = digest.per_class(pd.DataFrame(cells, columns=["label", "predicted", "n"]))
    assert table.loc[0, ["support", "recall"]].tolist() == [10, 0.8]
    assert table.loc[0, "precision"] == pytest.approx(8 / 9)
    assert table.loc[0, "specificity"] == pytest.approx(9 / 10)
    assert table.loc[0, "f1"] == pytest.approx(16 / 19)


def test_a_page_without_a_table_leaves_its_section_out(tmp_path):
    kept = kept_of(tmp_path, leakage=LEAKAGE)
    assert set(findings.drawn(kept)) == {"ladder"}


def test_an_item_that_no_table_answers_says_so_instead_of_half_a_sentence(tmp_path, monkeypatch):
    items = tmp_path / "items.yaml"
    items.write_text('L:\n  - [1, asked, where, "{crossing} % cross"]\n  - [2, asked, where, "{slices} slices"]\n')
    monkeypatch.setattr(checklist, "ITEMS", items)
    monkeypatch.setattr(checklist, "values", lambda kept: {"slices": "3"})
    text = checklist.write(kept_of(tmp_path, leakage=LEAKAGE)).read_text()
    assert "| where | **Not told** by this profile's tables |" in text and "| where | 3 slices |" in text
    assert "% cross" not in text


def test_nothing_kept_is_told_by_the_folders_name(tmp_path):
    with pytest.raises(DataError, match=str(tmp_path)):
        digest.Kept(tmp_path)


def test_fits_made_twice_are_told_by_their_machines_and_those_of_other_networks_are_not(tmp_path):
    kept = kept_of(tmp_path, leakage=LEAKAGE)
    assert findings.again(kept) == []
    kept.about["fits"] = [{"id": "a"}, {"id": "b"}]
    made = {"n_test": 100, "hardware": "here", "backend": "tensorflow", "kept_hardware": "there", "kept_backend": "jax"}
    rows = [("a", 0.9, 0.93, True, 0.95), ("b", 0.84, 0.8, False, 0.85), ("c", 0.1, 0.9, False, 0.1)]
    table = pd.DataFrame(rows, columns=["id", "accuracy", "kept", "inside", "alike"]).assign(**made)
    table.to_csv(tmp_path / "reproduced.csv", index=False)
    (said,) = findings.again(kept)
    assert said.startswith(
        "2 fits made on there by JAX, and again on here by TensorFlow: from -3 to +4 slices right, of 100 a fit"
    )
    assert "3.5 points as root mean square" in said  # of 3 and 4
    assert "1 within" in said and said.endswith("85.0 to 95.0 % of slices called the same by both")


def test_what_makes_the_network_look_is_told_of_its_own_parts(tmp_path):
    rows = [
        ("proposed", "none: the proposed network", True, 0.6, 0.7),
        ("recipe.cam_loss", "no guide", False, 0.2, 0.75),
        ("head.dropout", "dropout 0", False, 0.5, 0.5),
    ]
    table = pd.DataFrame(rows, columns=["factor", "change", "proposed", "pointing", "accuracy_erased"])
    for score in ("pointing", "accuracy_erased"):
        table = table.assign(**{f"{score}_low": table[score] - 0.1, f"{score}_high": table[score] + 0.1})
    (told,) = findings.findings(kept_of(tmp_path, gradcam_ablation=table))
    assert "as proposed 60.0 % (50.0 to 70.0); no guide 20.0 % (10.0 to 30.0)." in told and "dropout" not in told
    assert told.endswith("pasted over the tumour: as proposed 70.0 % (60.0 to 80.0); no guide 75.0 % (65.0 to 85.0).")


def test_networks_stand_beside_the_studys_own_where_they_began_alike_and_saw_slices_of_one_size(tmp_path):
    begun = [("m", "imagenet", 160), ("vgg16", "edges", 160), ("vgg16", "random", 160), ("resnet152v2", "imagenet", 96)]
    fits = pd.DataFrame(
        [(*start, "image_holdout", 0, fold, 0.5, p, 10 * p) for p, start in enumerate(begun, 1) for fold in (0, 1)],
        columns=["model", "weights", "image_size", "protocol", "seed", "fold", "accuracy", "parameters", "macs"],
    ).assign(accuracy_low=0, accuracy_high=1)
    scores = pd.DataFrame(begun, columns=["model", "weights", "image_size"]).assign(protocol="image_holdout")
    scores = scores.assign(score="accuracy", value=[0.9, 0.8, 0.7, 0.6], low=0.1, high=0.99)
    rows = [(*start, "m", "imagenet", 160, 1226, 0.8, 0.9, -0.1, -0.15, 0.02) for start in begun[1:]]
    names = [
        "model",
        "weights",
        "image_size",
        "reference",
        "reference_weights",
        "reference_image_size",
        "n",
        "accuracy",
    ]
    compared = pd.DataFrame(rows, columns=[*names, "reference_accuracy", "difference", "low", "high"])
    kept = kept_of(tmp_path, comparison=compared, models=fits, per_class=scores)
    (told,) = findings._beside(kept)
    assert (
        "same 1,226 slices of 160 pixels m (ImageNet) is right on 90.0 %; VGG16 (ImageNet, then edges) 80.0 %" in told
    )
    assert told.endswith("-10.0 points (-15.0 to +2.0), with 2.0 times the parameters and 2.0 times the multiply-adds.")
    kept.about["parameters"]["baselines"] = [{"model": "vgg16", "recipe": "long"}]
    (told,) = findings._beside(kept)
    assert (
        "m (ImageNet) after 10 epochs is right on 90.0 %; VGG16 (ImageNet, then edges) after 12 epochs 80.0 %" in told
    )
    pooled = digest.networks(fits, scores, "image_holdout", 0)
    assert list(pooled["accuracy"]) == [0.9, 0.8, 0.7, 0.6] and list(pooled["fold"]) == [0, 0, 0, 0]
