"""The benchmarks' own arithmetic: what is timed, what a row says, and which rows a second run replaces."""

import shutil
import time

import numpy as np
import pandas as pd
import pytest

from benchmarks import bench
from btlib import ParamsError, params
from btlib.data import datasets
from btlib.fitting import runs, training


def test_the_sides_of_a_row_are_timed_in_turns():
    told = []
    times = bench._medians([lambda: (told.append("a"), time.sleep(0.02)), lambda: told.append("b")], 3)
    assert told == ["a", "b"] * 4, "once to warm up"
    assert times[0] > 0.02 > times[1]


def test_a_ratio_says_how_many_times_as_fast_and_whether_that_is_enough():
    row = bench._row("ours", "theirs", 10, 2.0, 7.0, 5, least=3)
    assert (row["ratio"], row["target"], row["met"]) == (3.5, "at least 3", "yes")
    assert bench._row("ours", "theirs", 10, 2.0, 5.0, 5, least=3)["met"] == "no"
    assert bench._row("ours", "theirs", 1, 0.9, 0.1, 5, limit=1)["met"] == "yes"
    assert bench._row("ours", "theirs", 1, 1.1, 0.1, 5)["met"] == ""


def test_one_line_is_measured_again_and_the_others_stay(home, monkeypatch):
    seconds = iter([1.0, 2.0, 4.0])
    lines = {name: lambda name=name: [bench._row(name, "x", 1, next(seconds), 8.0, 1)] for name in ("one", "two")}
    monkeypatch.setattr(bench, "LINES", lines)
    bench.run()
    table = bench.run(["one"])
    assert table["line"].tolist() == ["one", "two"]
    assert table["ratio"].tolist() == [2.0, 4.0]
    assert pd.read_csv(home / "reports" / "bench.csv")["ratio"].tolist() == [2.0, 4.0]
    assert "| one" in (home / "reports" / "bench.md").read_text()
    with pytest.raises(ParamsError, match="got 'three'; allowed: one, two"):
        bench.run(["three"])


def test_the_loop_compared_with_decodes_the_same_slices(home):
    given = params.load("quick").data
    data = given.model_copy(update={"phantom": given.phantom.model_copy(update={"patients": 6, "size": 64})})
    table = datasets.manifest(data).iloc[:4]
    bench._h5py_loop(datasets.folder(data), table["path"], 32, home / "loop.npz")
    with np.load(home / "loop.npz") as made:
        assert made["images"].shape == made["masks"].shape == (4, 32, 32)
        own = [datasets.read(data, path)[1].mean() for path in table["path"]]
        np.testing.assert_allclose(made["masks"].mean((1, 2)), own, atol=0.02)
        assert [["meningioma", "glioma", "pituitary"][k - 1] for k in made["labels"]] == table["label"].tolist()


def test_the_page_names_one_machine_once_and_several_in_each_row(home):
    row = dict.fromkeys(bench.COLUMNS, "x") | {"ratio": 2.0}
    one = bench.page(pd.DataFrame([row | {"hardware": "abacus"}] * 2))
    assert one.count("abacus") == 1 and "On abacus." in one
    two = bench.page(pd.DataFrame([row | {"hardware": "abacus"}] * 2 + [row | {"hardware": "quipu"}]))
    assert (two.count("abacus"), two.count("quipu")) == (2, 1)


def test_the_page_says_what_is_faster_than_what_others_use_and_why_targets_are_missed():
    rows = [
        ("step", "a step", "Keras", 1.3, "yes"),
        ("step", "a step", "the peak", 0.4, ""),
        ("decode", "x", "y", 0.7, "no"),
    ]
    text = bench.in_words(pd.DataFrame(rows, columns=["line", "what", "against", "ratio", "met"]))
    assert "gains.** a step: 1.3 times as fast as Keras." in text
    assert f"missed.** `decode`: {bench.MISSED['decode']}." in text


def test_the_way_to_an_accuracy_ends_at_the_first_look_that_is_there_and_one_below_it_has_not_met_it(
    study, home, monkeypatch
):
    told = []

    def here(function, path, *words, env):
        with monkeypatch.context() as there:
            there.setenv("BTLIB_HOME", env["BTLIB_HOME"])
            told.append(getattr(bench, function)(path, *words))
        return told[-1]

    monkeypatch.setattr(bench, "_child", here)
    study = study.model_copy(update={"profile": "quick"})  # another than params/quick.yaml, as a changed recipe is
    (row,) = bench.accuracy([study], least=1.1, most=0.001, size=32)
    ours, plain = told
    assert plain["epochs"] == 1 and f"{plain['accuracy']:.2%} in 1 epoch" in row["against"]
    assert ours["epochs"] == 3 and row["met"] == "no", "three epochs are all there are, and none is 110 % right"
    assert row["ratio"] == plain["seconds"] / ours["seconds"]
    assert not (home / "runs").exists(), "the fit that was timed stays out of the study's runs"
    (row, other) = bench.accuracy([study, study.changed({"head.dropout": 0.5})], least=0, size=32)
    assert row["ratio"] == 0, "the notebook needs no epoch for none right"
    assert told[-2]["epochs"] == 1, "what comes after the first look is not counted"
    assert [row["seconds"], other["seconds"]] == [fit["seconds"] for fit in told[-2:-4:-1]], (
        "a row each, in their order"
    )
    data = datasets.load(study.data, study.preprocessing)
    roles = bench._held_out(study, data)["role"].value_counts()
    assert roles.to_dict() == {"train": ours["n"], "validation": len(data.manifest) - ours["n"]}
    absent = study.data.model_copy(update={"source": "figshare", "phantom": None, "path": "data/absent"})
    assert bench.accuracy([study.model_copy(update={"data": absent})]) == []


def test_the_slope_of_a_straight_line_is_found_and_a_million_is_a_thousand_times_it():
    n = np.array([1000, 4000, 16_000])
    table = pd.DataFrame({"slices": n, "manifest_seconds": 60 * n / 1e6, "cache_seconds": 120 * n / 1e6 + 5})
    table = table.assign(split_seconds=7 * n / 1e6, cache_mb=8 * n / 1000, peak_mb=500 + n / 10)
    text = bench.growth_in_words(table.assign(audit_seconds=[3.6, np.nan, np.nan]))
    assert "| peak_mb | 100 MB | 500 MB |" in text
    assert "1 minutes for the manifest" in text and "2 for the cache (8.0 GB at 64 pixels, 50 GB at 160)" in text
    assert "7 seconds for a split" in text
    assert "1000 hours, if its time grows with the square from 1,000 on" in text, "3.6 s, a thousand times a thousand"


def test_growth_takes_pictures_that_differ_through_manifest_cache_split_and_audit(home):
    told = bench._grow_here("30")
    assert told["slices"] == 30 and told["audit_seconds"] > 0
    data = params.Data(source="folders", path="data/grown", phantom=None, labels=GROWN, unreadable="error")
    table = datasets.manifest(data)
    assert table["label"].value_counts().to_dict() == dict.fromkeys(GROWN, 10) and table["sha256"].is_unique
    shutil.rmtree(home / "data" / "grown")


GROWN = {name: name for name in ("meningioma", "glioma", "pituitary")}


def test_the_plan_says_how_long_by_what_was_measured(study, home):
    fingerprint = datasets.fingerprint(study.data)
    done = training.fit(study, runs.fit_of(study, fingerprint, study.proposed, "image_holdout", 0, 0))
    recipe = done.fit.recipe
    longer = recipe.model_copy(update={"stages": [recipe.stages[0].model_copy(update={"epochs": 30})]})
    fits = [done.fit, done.fit.model_copy(update={"recipe": longer}), done.fit.model_copy(update={"model": "vgg16"})]
    fits.append(done.fit.model_copy(update={"model": "resnet152v2"}))
    fits.append(done.fit.model_copy(update={"recipe": recipe.model_copy(update={"cam_loss": 1.0})}))
    plan = pd.DataFrame({"id": [f.id for f in fits], "fit": fits, "purpose": "ablation", "factor": "", "value": ""})
    plan.loc[1, ["factor", "value"]] = "recipe.epochs", "30"
    costs = {"model": ["vgg16"], "precision": ["float32"], "image_size": [64], "fit_seconds_per_100": [100.0]}
    costs |= {"output_stride": [fits[2].output_stride]}
    table = runs.outlook(plan, 1000, pd.DataFrame(costs))
    assert table["by"].tolist() == ["measured", "epochs of such fits", "cost.csv", "", ""], (
        "a guided one is no such fit"
    )
    assert table["what_for"].tolist()[:2] == ["ablation", "ablation recipe.epochs 30"], (
        "fits of one title are told apart"
    )
    own = done.provenance()["fit_seconds"] / 60
    assert table["minutes"].tolist()[1] == pytest.approx(10 * own, abs=0.051), "30 epochs, 3 were measured"
    # 720 of 1000 slices train, 3 epochs, a quarter of the pixels that were timed.
    assert table["minutes"].tolist()[2] == pytest.approx(720 / 100 * 3 * 100 / 4 / 60)
    assert runs.outlook_in_words(table).startswith("5 fits, 4 to do: 0.")
    assert "2 of models never timed here" in runs.outlook_in_words(table)
