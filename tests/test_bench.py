"""The benchmarks' own arithmetic: what is timed, what a row says, and which rows a second run replaces."""

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
    row = dict.fromkeys(bench.COLUMNS, "x")
    one = bench.page(pd.DataFrame([row | {"hardware": "abacus"}] * 2))
    assert one.count("abacus") == 1 and "On abacus." in one
    two = bench.page(pd.DataFrame([row | {"hardware": "abacus"}] * 2 + [row | {"hardware": "quipu"}]))
    assert (two.count("abacus"), two.count("quipu")) == (2, 1)


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
    (row,) = bench.accuracy(study, least=1.1, most=0.001, size=32)
    ours, plain = told
    assert plain["epochs"] == 1 and f"{plain['accuracy']:.2%} in 1 epoch" in row["against"]
    assert ours["epochs"] == 3 and row["met"] == "no", "three epochs are all there are, and none is 110 % right"
    assert row["ratio"] == plain["seconds"] / ours["seconds"]
    assert not (home / "runs").exists(), "the fit that was timed stays out of the study's runs"
    (row,) = bench.accuracy(study, least=0, size=32)
    assert row["ratio"] == 0, "the notebook needs no epoch for none right"
    assert told[-2]["epochs"] == 1, "what comes after the first look is not counted"
    data = datasets.load(study.data, study.preprocessing)
    roles = bench._held_out(study, data)["role"].value_counts()
    assert roles.to_dict() == {"train": ours["n"], "validation": len(data.manifest) - ours["n"]}
    absent = study.data.model_copy(update={"source": "figshare", "phantom": None, "path": "data/absent"})
    assert bench.accuracy(study.model_copy(update={"data": absent})) == []


def test_the_slope_of_a_straight_line_is_found_and_a_million_is_a_thousand_times_it():
    n = np.array([500, 1000, 2000, 4000])
    table = pd.DataFrame({"slices": n, "prepare_seconds": 36 * n / 1000, "cache_mb": 8 * n / 1000 + 1})
    table = table.assign(fit_seconds=n / 100 + 5, epoch_seconds=n / 100, peak_mb=500 + n / 10)
    text = bench.growth_in_words(table)
    assert "| peak_mb | 100 MB | 500 MB | 1.000 |" in text
    assert "10.0 hours to prepare" in text and "8.0 GB of cache at 64 pixels" in text
    assert "2.8 hours an epoch" in text


def test_a_probe_is_kept_for_this_machine_and_names_the_fastest(home, monkeypatch):
    calls = []

    def measured(function, *words):
        calls.append(words)
        return [
            {"precision": "float32", "seconds_per_step": 0.4, "steps": 5},
            {"precision": "mixed_bfloat16", "seconds_per_step": 0.1, "steps": 5},
        ]

    monkeypatch.setattr(bench, "_child", measured)
    for _ in range(2):
        table = bench.probe(["vgg16"], 96, 16)
    assert len(calls) == 1
    assert table.loc[table["best"], "precision"].tolist() == ["mixed_bfloat16"]
    bench.probe(["vgg16"], 96, 32)
    assert len(calls) == 2
    with pytest.raises(ParamsError, match="image_size"):
        bench.probe(["vit_b16"], 100, 16)


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
