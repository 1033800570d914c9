"""Short versions of `make torture`: each line's own function, on fewer files, kills and kilobytes."""

import fcntl
import os
import subprocess
import sys

import pandas as pd
import pytest

from benchmarks import torture
from btlib import DataError, files, params
from btlib.fitting import runs


def holds(rows):
    wrong = [row for row in rows if row["holds"] == "no"]
    assert not wrong
    return {row["measured"]: row["value"] for row in rows}


@pytest.fixture(autouse=True)
def back_again(monkeypatch):
    monkeypatch.setenv("BTLIB_HOME", os.environ.get("BTLIB_HOME", ""))
    monkeypatch.setenv("NO_PROXY", os.environ.get("NO_PROXY", ""))
    monkeypatch.chdir(torture.ROOT)


@pytest.mark.parametrize("kind", ["slices", "pictures", "parameters"])
def test_mutated_files_are_read_or_refused(kind):
    found = holds(torture.fuzz(kind, 100, seed=1, verbose=False))
    counts = [value for name, value in found.items() if name.startswith(("read", "valid", "refused"))]
    assert sum(counts) == 100 and min(counts) > 0


def test_what_is_made_to_harm_is_refused_and_shell_characters_are_only_names():
    found = holds(torture.hostile(seed=0))
    assert list(found.values()).count("refused") == 25


def test_what_would_be_wrong_without_a_word_is_refused_or_counted():
    assert len(holds(torture.silent(seed=0))) == 5


def test_a_killed_fit_gives_the_same_result():
    found = holds(torture.kill_fit(seed=0, n=2))
    assert found["kill -9 at random moments"] == 2


def test_what_other_versions_left_is_never_misread():
    holds(torture.upgrade(seed=0))


def test_a_full_or_read_only_disk_loses_nothing():
    rows = torture.disk(seed=0, n=1)
    if rows[0]["measured"].startswith("not run"):
        pytest.skip("mounting a tmpfs is not allowed here")
    found = holds(rows)
    assert found["full disk: stopped by an error that names the file and the cause"] > 0


def test_a_second_report_waits_while_the_first_ones_snakemake_runs(tmp_path):
    """The lock is what a Snakemake holds whose parent was killed."""
    study = tmp_path / "torture.yaml"
    params.write(torture.tiny(), study)
    lock = tmp_path / "home" / "runs" / ".locks" / "study-torture"
    lock.parent.mkdir(parents=True)
    (tmp_path / "home" / "data").write_text("no folder, so that Snakemake stops at once")
    command = [sys.executable, "-m", "btlib", "study", str(study)]
    env = {**os.environ, "BTLIB_HOME": str(tmp_path / "home")}
    with open(lock, "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.communicate(timeout=15)
    told, _ = waiting.communicate(timeout=300)
    assert b"data" in told and waiting.returncode == 1
    assert lock.exists(), "removed, it could be held twice"


def test_what_a_killed_writer_left_is_cleared_and_a_living_ones_is_not(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mine = files.prefix("a")
    theirs = mine.replace(f"-{os.getpid()}-", f"-{gone.pid}-")
    (tmp_path / f"{theirs}x.csv").write_text("half")
    (tmp_path / f"{mine}x.csv").write_text("being written")
    (tmp_path / f"{theirs}y").mkdir()
    files.write_text(tmp_path / "a.csv", "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([f"{mine}x.csv", "a.csv"])


def test_a_state_that_is_not_whole_and_a_lock_that_is_held_are_seen(tmp_path):
    """The harness itself can fail."""
    (tmp_path / "runs" / ".abc").mkdir(parents=True)
    (tmp_path / "runs" / ".abc" / "state.npz").write_bytes(b"PK\x03\x04half")
    (tmp_path / "runs" / ".locks").mkdir()
    attempt = tmp_path / "reports" / "quick" / "notebooks" / ".01_a.123"
    attempt.mkdir(parents=True)
    (attempt / "it.ipynb").write_text("half")
    (attempt.parent / "02_b.ipynb").write_text("half")
    torn = ["reports/quick/notebooks/02_b.ipynb", "runs/.abc/state.npz"]
    assert [told.split(":")[0] for told in torture.whole(tmp_path)] == torn
    with open(tmp_path / "runs" / ".locks" / "x", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert torture.blocked(tmp_path) == ["runs/.locks/x"]
    assert torture.blocked(tmp_path) == []
    assert torture.left_over(tmp_path) == ["reports/quick/notebooks/.01_a.123", "runs/.abc"]


def test_the_report_keeps_other_lines_and_says_what_was_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "commit", lambda: "0123456789abcdef")
    torture.note("memory", [torture.figure("ratio", 1.5, at_most=1.1)], 3, tmp_path)
    torture.note("upgrade", [torture.figure("a run", "loaded", equals="loaded")], 4, tmp_path)
    torture.note("memory", [torture.figure("ratio", 1.0, at_most=1.1)], 5, tmp_path)
    table = pd.read_csv(tmp_path / "reliability.csv", dtype=str)
    assert table[["line", "value", "holds", "seed"]].values.tolist() == [
        ["memory", "1.0", "yes", "5"],
        ["upgrade", "loaded", "yes", "4"],
    ]
    text = (tmp_path / "reliability.md").read_text()
    assert text.count("**Not run yet.**") == len(torture.LINES) - 2
    assert "`make torture LINES=upgrade SEED=4`; commit 0123456789ab" in text
    torture.note("memory", [torture.figure("slices", 7), torture.figure("ratio", 1.5)], 5, tmp_path, " N=7")
    assert list(pd.read_csv(tmp_path / "reliability.csv", dtype=str)["value"]) == ["7", "1.5", "loaded"]
    assert "LINES=memory SEED=5 N=7`" in (tmp_path / "reliability.md").read_text()


def test_the_committed_report_is_what_its_figures_say():
    folder = torture.ROOT / "reports"
    table = pd.read_csv(folder / "reliability.csv", dtype=str, keep_default_na=False)
    assert (folder / "reliability.md").read_text(encoding="utf-8") == torture.markdown(table)
    assert "no" not in set(table["holds"])


def test_a_run_is_taken_for_its_own_fit_only(tmp_path, monkeypatch):
    monkeypatch.setenv("BTLIB_HOME", str(tmp_path))
    study = params.load("quick")
    fit = runs.fit_of(study, "0", study.proposed, "image_holdout", 0, 0)
    folder = runs.Run(fit).folder
    files.write_text(folder / "provenance.json", "{}")
    files.write_text(folder / "fit.json", fit.model_dump_json())
    assert runs.load(fit).id == fit.id
    files.write_text(folder / "fit.json", fit.model_copy(update={"seed": 1}).model_dump_json())
    with pytest.raises(DataError, match=rf"{fit.id}/fit\.json: is not of the fit"):
        runs.load(fit)
