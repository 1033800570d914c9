"""The study end to end: the same graph as `make report`, on slices small enough for a test; then every output again."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import bench
from btlib import params
from btlib.fitting import runs
from btlib.study import tables

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p.stem for p in (ROOT / "notebooks").glob("*.ipynb"))


def small() -> dict:
    """The benchmarks' small study with one baseline, so that every notebook has something to tell."""
    given = bench.small().model_dump()
    given["recipes"]["scratch"]["stages"][0]["epochs"] = 1
    given["baselines"] = [params.load("quick").model_dump()["baselines"][0] | {"image_size": 32}]
    return given


def btlib(home, *words, **more):
    env = {**os.environ, "BTLIB_HOME": str(home), **more.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "btlib", *words], cwd=ROOT, env=env, capture_output=True, text=True, **more
    )


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    home = tmp_path_factory.mktemp("study")
    path = home / "small.yaml"
    params.write(params.check(small(), "small"), path)
    done = btlib(home, "study", str(path))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    assert done.stdout.strip().endswith(f"{home}/reports/small/html/index.html")
    return home


@pytest.fixture
def here(executed, monkeypatch):
    monkeypatch.setenv("BTLIB_HOME", str(executed))
    return executed


def outputs(home, name):
    cells = json.loads((home / f"reports/small/notebooks/{name}.ipynb").read_text())["cells"]
    return [o for c in cells for o in c.get("outputs", [])]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_without_warnings(executed, name):
    noise = [
        "".join(o["text"]) for o in outputs(executed, name) if o["output_type"] == "stream" and o["name"] == "stderr"
    ]
    assert not noise
    assert outputs(executed, name)


def test_a_second_execution_gives_the_same_outputs(executed):
    paths = [executed / f"reports/small/notebooks/{name}.ipynb" for name in NOTEBOOKS]
    command = [sys.executable, "-m", "pytest", "--nbval", "-q", "-p", "no:cacheprovider", "--rootdir", str(executed)]
    env = {**os.environ, "BTLIB_HOME": str(executed)}
    done = subprocess.run([*command, *map(str, paths)], env=env, cwd=executed, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:]


def test_without_an_external_set_notebook_06_says_so(executed, tmp_path):
    given = small() | {"profile": "alone", "external": None}
    params.write(params.check(given, "alone"), tmp_path / "alone.yaml")
    env = {**os.environ, "BTLIB_HOME": str(executed)}
    out = executed / "reports/alone/notebooks/06_cross_dataset.ipynb"
    out.parent.mkdir(parents=True)
    command = [sys.executable, "-m", "papermill", str(ROOT / "notebooks" / out.name), str(out), "--no-progress-bar"]
    done = subprocess.run([*command, "-f", str(tmp_path / "alone.yaml")], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    last = json.loads(out.read_text())["cells"][-1]["outputs"][-1]["data"]["text/markdown"]
    assert "no external set" in "".join(last)


def test_the_tables_have_their_stable_names_and_columns(here):
    from btlib.study import results

    for name in ("dataset", "splits", "models", "mirrored", "ablation", "claims"):
        assert len(tables.read("small", name)), name
    models = tables.read("small", "models")
    assert tuple(models.columns) == results.MODELS
    assert set(models["weights"]) == {"imagenet", "random"}
    assert (models["accuracy_low"] <= models["accuracy"]).all() and (
        models["accuracy"] <= models["accuracy_high"]
    ).all()
    names = ("claim", "paper", "paper_low", "paper_high", "ours", "low", "high", "verdict", "data", "assumption")
    assert tuple(tables.read("small", "claims").columns) == names


def test_made_up_numbers_are_labelled_and_judged_nowhere(here):
    claims = tables.read("small", "claims")
    assert set(claims["verdict"]) == {"not tested: made-up slices"}
    for page in (here / "reports/small/html").glob("*.html"):
        assert "made-up slices" in page.read_text(encoding="utf-8").lower(), page.name


def test_nothing_changed_means_nothing_done(executed):
    before = {p: p.stat().st_mtime_ns for p in executed.rglob("*") if p.is_file() and ".snakemake" not in p.parts}
    started = time.monotonic()
    done = btlib(executed, "study", str(executed / "small.yaml"))
    assert done.returncode == 0, done.stderr
    after = {p: p.stat().st_mtime_ns for p in executed.rglob("*") if p.is_file() and ".snakemake" not in p.parts}
    assert after == before
    assert time.monotonic() - started < 60


def test_new_kept_results_redo_the_pages_alone(executed):
    kept = executed / "reports" / "figshare" / "README.md"
    kept.parent.mkdir()
    kept.write_text("# Results")
    done = btlib(executed, "study", str(executed / "small.yaml"), "--dry-run")
    shutil.rmtree(kept.parent)
    assert done.returncode == 0, done.stderr
    planned = done.stdout + done.stderr
    assert re.search(r"^report +1$", planned, re.M) and "01_data_exploration" not in planned


def test_one_changed_number_redoes_only_what_depends_on_it(executed, tmp_path):
    given = small()
    given["statistics"]["bootstrap"] = 201
    path = tmp_path / "small" / params.RESOLVED
    params.write(params.check(given, "changed"), path)
    done = btlib(executed, "study", str(path), "--dry-run")
    assert done.returncode == 0, done.stderr
    planned = done.stdout + done.stderr
    assert "04_efficientnet_finetuning" in planned
    assert "01_data_exploration" not in planned
    assert "rule fit" not in planned and re.search(r"\b0 to do", planned)
    assert params.load(executed / "reports/small/parameters.yaml") == params.check(small(), "small")


def test_a_finished_fit_is_kept_though_snakemake_takes_it_for_unfinished(executed):
    folder = next(p for p in (executed / "runs").glob("[!.]*"))
    before = {p.name: p.stat().st_ino for p in folder.iterdir()}
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--cores",
        "1",
        "--configfile",
        str(executed / "small.yaml"),
        "--nolock",
    ]
    env = {**os.environ, "BTLIB_HOME": str(executed)}
    command += ["--forcerun", "fit", "--", f"runs/{folder.name}/provenance.json"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert {p.name: p.stat().st_ino for p in folder.iterdir()} == before


@pytest.mark.parametrize("how", ["study", "papermill", "snakemake"])
def test_a_typo_stops_the_run_before_work_starts(tmp_path, how):
    import yaml

    given = small() | {"profile": "typo", "modle": "vgg16"}
    path = tmp_path / "typo.yaml"
    path.write_text(yaml.safe_dump(given))
    command = {
        "study": [sys.executable, "-m", "btlib", "study", str(path)],
        "papermill": [
            sys.executable,
            "-m",
            "papermill",
            "notebooks/02_preprocessing.ipynb",
            str(tmp_path / "o.ipynb"),
            "-f",
            str(path),
        ],
        "snakemake": [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", str(path), "-n"],
    }[how]
    env = {**os.environ, "BTLIB_HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode != 0
    assert "modle: unknown key" in done.stdout + done.stderr
    assert not (tmp_path / "data").exists() and not (tmp_path / "runs").exists()


def test_papermill_alone_means_the_same_as_the_graph(executed, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    (home / "data").symlink_to(executed / "data")
    (home / "runs").symlink_to(executed / "runs")
    env = {**os.environ, "BTLIB_HOME": str(home)}
    command = [
        sys.executable,
        "-m",
        "papermill",
        "notebooks/03_baselines.ipynb",
        str(tmp_path / "o.ipynb"),
    ]
    subprocess.run([*command, "-f", str(executed / "small.yaml"), "--no-progress-bar"], cwd=ROOT, env=env, check=True)
    for name in ("per_class", "comparison"):
        one, two = (h / f"reports/small/tables/{name}.csv" for h in (executed, home))
        assert one.read_text() == two.read_text()


def test_run_folders_are_named_by_their_fits(here):
    for folder in (here / "runs").glob("[!.]*"):
        fit = runs.Fit.model_validate_json((folder / "fit.json").read_text())
        assert fit.id == folder.name
