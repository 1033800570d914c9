"""The study on a Slurm cluster of two nodes: the same tables as without it, and a killed fit that goes on elsewhere.

Opt-in, as it takes minutes, root, and ports: `BTLIB_TEST_SLURM=1 python -m pytest tests/test_slurm.py`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import bench
from btlib import params
from btlib.study import tables

ROOT = Path(__file__).resolve().parent.parent
TARGET = "04_efficientnet_finetuning"
MISSING = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(name) is None]
MISSING += [name for name in ("snakemake_executor_plugin_slurm",) if find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif("BTLIB_TEST_SLURM" not in os.environ, reason="takes minutes; BTLIB_TEST_SLURM=1 asks for it"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons need root here"),
]
ONE_CORE = ["--default-resources", "cpus_per_task=1", "mem_mb=2500", "runtime=60"]
ONE_CORE += ["--set-resources", "fit:cpus_per_task=1", "fit:mem_mb=2500", "fit:runtime=60"]
QUICK = ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "5", "--latency-wait", "5"]


@pytest.fixture
def cluster(tmp_path):
    script = ROOT / "tests" / "slurm_cluster.sh"
    # Not under tmp_path: munge refuses a socket below a folder that others cannot enter.
    folder = Path("/tmp") / f"slurm-{os.getpid()}"
    subprocess.run([script, "start", folder], check=True)
    yield
    subprocess.run(["scancel", "--user", "root"], check=False)
    subprocess.run([script, "stop", folder], check=True)
    shutil.rmtree(folder, ignore_errors=True)


def started(home, study, *words):
    """Snakemake on one notebook and the fits that it needs, in a home of its own."""
    home.mkdir()
    params.write(study, home / "small.yaml")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--configfile", str(home / "small.yaml"), *words, "--", TARGET]
    env = os.environ | {"BTLIB_HOME": str(home)}
    with open(home / "log", "w") as log:
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)


def saved(home):
    """Of a fit that has an epoch of its last stage behind it and more before it: its id and its history so far."""
    for path in home.glob("runs/.*/state.npz"):
        try:
            with np.load(path) as state:
                facts = json.loads(str(state["facts"]))
        except (OSError, ValueError):
            continue
        if facts["stage"] == 1 and facts["epoch"] in (1, 2):
            return path.parent.name[1:], facts["history"]
    return None


def test_slurm_gives_the_same_tables_and_a_killed_fit_goes_on(cluster, tmp_path, monkeypatch):
    given = bench.small().model_dump()
    given["recipes"]["guided"]["stages"][1]["epochs"] = 5
    study = params.check(given, "small")
    home = tmp_path / "slurm"
    run = started(home, study, "--profile", str(ROOT / "profiles" / "slurm"), *ONE_CORE, *QUICK)
    deadline = time.monotonic() + 1200
    while (found := saved(home)) is None and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    assert found, (home / "log").read_text()[-3000:]
    killed, before = found
    submitted = rf"SLURM jobid (\d+) .*rule_fit/{killed}/"
    (job,) = re.findall(submitted, (home / "log").read_text())
    subprocess.run(["scancel", job], check=True)
    assert run.wait(1800) == 0, (home / "log").read_text()[-3000:]

    assert len(re.findall(submitted, (home / "log").read_text())) == 2, "killed once, submitted twice"
    # Its epochs' own seconds are there: they were not fitted again.
    after = pd.read_csv(home / "runs" / killed / "history.csv")
    kept = [row["seconds"] for row in before if row["stage"] == 1]
    assert after.loc[after["stage"] == 1, "seconds"].tolist()[: len(kept)] == kept
    assert after["stage"].tolist() == [0, 0, 1, 1, 1, 1, 1]

    here = tmp_path / "here"
    alone = started(here, study, "--cores", "1", "--quiet")
    assert alone.wait(1800) == 0, (here / "log").read_text()[-3000:]
    names = sorted(p.stem for p in here.glob("reports/small/tables/*.csv"))
    assert names == sorted(p.stem for p in home.glob("reports/small/tables/*.csv")) and "models" in names
    for name in names:
        both = []
        for folder in (home, here):
            monkeypatch.setenv("BTLIB_HOME", str(folder))
            both.append(tables.read("small", name).drop(columns=["fit_seconds", "seconds"], errors="ignore"))
        pd.testing.assert_frame_equal(*both, rtol=1e-3, atol=1e-4)
