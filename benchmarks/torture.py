"""Faults, hostile input and the same numbers twice: `python benchmarks/torture.py [LINE ...] --seed N`.

Each line of reports/reliability.md is one function here; it returns figures, each with what is allowed. Rows of the lines
that ran replace those lines in reports/reliability.csv, and the Markdown is written from that. `make test` runs short
versions of the same functions (tests/test_reliability.py).
"""

import argparse
import contextlib
import hashlib
import http.server
import io
import json
import multiprocessing
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path
from unittest import mock

import filelock
import numpy as np
import pandas as pd
import yaml

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # this file is run by its path, and fits the toy model of the tests

from benchmarks.fuzzing import MEMORY_MB, SECONDS, figure, fuzz, peak_mb, slice_picture, write_hdf5  # noqa: E402
from btlib import DataError, ParamsError, files, params  # noqa: E402
from btlib.data import preprocessing  # noqa: E402
from btlib.fitting import runs  # noqa: E402

COLUMNS = ["line", "measured", "value", "allowed", "holds", "seed", "more", "commit", "hardware"]


# --- killed, and started again ---


def tiny() -> params.Study:
    """The quick profile as small as every notebook allows: 48 slices of 64 px, one fit of one epoch at 32 px."""
    given = params.load("quick").model_dump()
    given["profile"] = "torture"
    given["data"]["phantom"].update(patients=24, slices_per_patient=2, size=64)
    given["external"]["hospital_b"]["phantom"].update(patients=14, slices_per_patient=1, size=64, copies=7)
    given["preprocessing"]["image_size"] = 32
    stage = given["recipes"]["scratch"]["stages"][0]
    given["recipes"]["scratch"].update(batch_size=8, stages=[stage | {"epochs": 1}])
    given["proposed"] = {"model": "efficientnet_lite0", "weights": None, "recipe": "scratch", "image_size": None}
    given["protocols"], given["baselines"] = given["protocols"][:1], []
    given["ablation"]["changes"] = []
    given["gradcam"].update(methods=["gradcam"], deletion_steps=2)
    given["statistics"]["bootstrap"] = 100
    return params.check(given, "torture")


def toy_fit(seed: int = 0):
    """The study and one fit of a toy backbone: a head stage, then four epochs with averaged weights and patience."""
    import conftest

    from btlib.data import datasets
    from btlib.models import registry as models

    models.REGISTRY["toy"] = conftest.TOY
    study = conftest.shrunk()
    recipe = study.recipes["scratch"]
    head = recipe.stages[0].model_copy(update={"unfreeze": "head", "epochs": 2})
    recipe = recipe.model_copy(
        update={"ema": 0.5, "patience": 4, "stages": [head, recipe.stages[0].model_copy(update={"epochs": 4})]}
    )
    fit = runs.fit_of(study, datasets.fingerprint(study.data), study.proposed, "image_holdout", 0, seed)
    return study, fit.model_copy(update={"recipe": recipe})


def _fit_toy(home: str, seed: int, begun=None) -> None:
    os.environ["BTLIB_HOME"] = home
    from btlib.fitting import training

    study, fit = toy_fit(seed)
    if begun is not None:
        begun.set()
    training.fit(study, fit)


def _ready() -> multiprocessing.context.BaseContext:
    """Processes that have TensorFlow imported already, and share nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.torture", "btlib.fitting.training", "conftest"])
    return context


def whole(home: Path) -> list[str]:
    """Read every file that a killed process may have been writing; return those that are not whole."""
    wrong = []
    for path in sorted(p for p in home.rglob("*") if p.is_file() and ".snakemake" not in p.parts):
        attempt = path.match("notebooks/.*/*")  # papermill writes there while it works; moved out once it is whole
        if path.name.startswith(".") or attempt or path.suffix not in READERS:
            continue
        try:
            READERS[path.suffix](path)
        except Exception as error:
            wrong.append(f"{path.relative_to(home)}: {type(error).__name__}: {error}")
    return wrong


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def _picture(path: Path) -> None:
    from PIL import Image

    with Image.open(path) as picture:
        picture.load()


READERS = {
    ".json": lambda p: json.loads(p.read_text(encoding="utf-8")),
    ".ipynb": lambda p: json.loads(p.read_text(encoding="utf-8")),
    ".yaml": lambda p: yaml.safe_load(p.read_text(encoding="utf-8")),
    ".csv": lambda p: pd.read_csv(p),
    ".npz": _zip,
    ".keras": _zip,
    ".png": _picture,
    ".svg": lambda p: p.read_text(encoding="utf-8").rstrip().index("</svg>"),
    ".npy": np.load,
}


def blocked(home: Path) -> list[str]:
    """Return the lock files that cannot be had at once, with no process running."""
    import fcntl

    wrong = []
    locks = [*home.glob("runs/.locks/*"), *home.glob("data/.*.lock"), *home.glob("data/.cache/*.lock")]
    for path in locks:
        with open(path, "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                wrong.append(str(path.relative_to(home)))
    return wrong


def left_over(home: Path) -> list[str]:
    """Return temporary files and folders that nobody will finish."""
    names = ("runs/.[!l]*", "runs/*/.*", "reports/*/.html-*", "reports/*/tables/.*", "reports/*/figures/.*")
    names += ("reports/*/notebooks/.*[0-9]", "data/.*.partial", "data/.*.old", "data/.cache/.*")
    return sorted(str(p.relative_to(home)) for name in names for p in home.glob(name))


def result(home: Path) -> dict[str, str]:
    """All that a study found, by name, as text or checksum, without timings, times and paths."""
    found = {}
    for folder in sorted(p for p in (home / "runs").glob("[!.]*") if p.is_dir()):
        name = f"runs/{folder.name}"
        found[f"{name} files"] = " ".join(sorted(p.name for p in folder.iterdir()))
        found[f"{name} predictions"] = (folder / "predictions.csv").read_text()
        found[f"{name} history"] = pd.read_csv(folder / "history.csv").drop(columns="seconds", errors="ignore").to_csv()
        found[f"{name} weights"] = _weights(folder / "model.keras")
    for path in sorted(home.glob("reports/*/tables/*.csv")):
        found[f"tables/{path.name}"] = _timeless(pd.read_csv(path)).to_csv()
    for path in sorted(home.glob("reports/*/notebooks/[!.]*.ipynb")):
        for i, shown in enumerate(_outputs(path)):
            found[f"notebooks/{path.stem} output {i}"] = shown.replace(str(home), "HOME")
    for path in sorted(home.glob("reports/*/html/index.html")):
        found["html"] = str(len(list(path.parent.glob("*.html"))))
    return found


def _weights(path: Path) -> str:
    import h5py

    digest = hashlib.sha256()
    with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as file:
        file.visititems(
            lambda name, node: digest.update(name.encode() + node[()].tobytes() if hasattr(node, "dtype") else b"")
        )
    return digest.hexdigest()


TIMINGS = r"seconds|minutes|_ms|ms_|throughput|per_s|peak_mb|latency|started|finished|commit"


def _timeless(table: pd.DataFrame) -> pd.DataFrame:
    return table.loc[:, [not re.search(TIMINGS, str(c).replace(" ", "_")) for c in table.columns]]


def _outputs(path: Path) -> list[str]:
    """Text, tables without timings, and checksums of pictures of an executed notebook."""
    shown = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            markup = "".join(data.get("text/html", ""))
            if "<table" in markup:
                shown.append(_timeless(_table(markup)).to_csv())
            elif "image/png" in data:
                shown.append(hashlib.sha256("".join(data["image/png"]).encode()).hexdigest())
            else:
                parts = (
                    output.get("text"),
                    data.get("text/markdown"),
                    markup,
                    data.get("text/plain"),
                    output.get("evalue"),
                )
                text = next(("".join(part) for part in parts if part), "")
                shown.append(re.sub(r"0x[0-9a-f]+", "0x", text))
    return shown


def _table(markup: str) -> pd.DataFrame:
    from bs4 import BeautifulSoup

    rows = [
        [cell.get_text() for cell in row.find_all(["th", "td"])]
        for row in BeautifulSoup(markup, "html.parser").find_all("tr")
    ]
    width = max(map(len, rows))
    return pd.DataFrame(
        [[""] * (width - len(row)) + row for row in rows[1:]], columns=[""] * (width - len(rows[0])) + rows[0]
    )


def differences(one: dict, other: dict) -> list[str]:
    """Return the names of results that two homes do not share or that differ."""
    return sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k))


def _after_kills(kills: int, wrong: list, blocking: list, different: list, left: list, ended: int) -> list[dict]:
    for name, found in (("not whole", wrong), ("blocking", blocking), ("different", different), ("left over", left)):
        if found:
            print(f"{name}: {found[:10]}", file=sys.stderr)
    return [
        figure("kill -9 at random moments", kills),
        figure("times it was let finish", ended, at_least=1),
        figure("files half-written under their own name, after any kill", len(wrong), equals=0),
        figure("locks that block, after any kill", len(blocking), equals=0),
        figure("results that differ from the uninterrupted one's, after the end", len(different), equals=0),
        figure("temporary files left, after the end", len(left), equals=0),
    ]


def kill_fit(seed: int, n: int = 20) -> list[dict]:
    """A fit is killed with -9 at random moments, each time started again, and so on until it is done; then anew.

    A toy backbone of two convolutions, fitted by the code that fits all: a head stage, then four epochs with averaged
    weights and early stopping, from making up the slices on.
    """
    rng, context = random.Random(seed), _ready()
    wrong, blocking, different, left, kills, ended = [], [], [], [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        once = Path(folder, "once")
        once.mkdir()
        process = context.Process(target=_fit_toy, args=(str(once), 0))
        process.start()
        process.join()
        assert process.exitcode == 0
        begun_at = min(p.stat().st_mtime for p in (once / "data").rglob("*"))
        span = max(p.stat().st_mtime for p in (once / "runs").rglob("*")) - begun_at
        expected = result(once)
        while kills < n or not ended:
            home = Path(folder, f"home{ended}")
            home.mkdir(exist_ok=True)
            begun = context.Event()
            process = context.Process(target=_fit_toy, args=(str(home), 0, begun))
            process.start()
            begun.wait(300)
            process.join(rng.uniform(0, span) if kills < n else None)
            if process.is_alive():
                process.kill()
                process.join()
                kills += 1
                wrong += whole(home)
                blocking += blocked(home)
            else:
                assert process.exitcode == 0, process.exitcode
                different += differences(expected, result(home))
                left += left_over(home)
                ended += 1
    return _after_kills(kills, wrong, blocking, different, left, ended)


def start(home: Path, *words: str, log: Path | None = None, python: str = sys.executable, **env) -> subprocess.Popen:
    """Start a Python program of the study in a home of its own and in a process group of its own."""
    home.mkdir(parents=True, exist_ok=True)
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if log else subprocess.DEVNULL
    env = {**os.environ, "BTLIB_HOME": str(home), "PYTHONPATH": str(ROOT), **env}
    return subprocess.Popen(
        [python, *words], cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
    )


def study_in(home: Path, study: params.Study, **more) -> subprocess.Popen:
    """Start `make report`'s command on a study in a home."""
    path = home.with_suffix(".yaml")
    params.write(study, path)
    return start(home, "-m", "btlib", "study", str(path), log=home.with_suffix(".log"), **more)


def _done(process: subprocess.Popen, home: Path) -> None:
    if process.wait() != 0:
        raise RuntimeError(home.with_suffix(".log").read_text(errors="replace")[-3000:])


def _tree(process) -> list:
    import psutil

    try:
        top = psutil.Process(process.pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _kill(processes) -> None:
    import psutil

    for one in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


def kill_report(seed: int, n: int = 20) -> list[dict]:
    """A whole `make report` is killed with -9 at random moments and started again at once, until it is done; then anew.

    In turns all of its processes are killed, or one of them drawn at random, so that the others are orphans and go on
    beside the new start. On the tiny study: 48 made-up slices, one fit, all seven notebooks and the site.
    """
    import psutil

    rng, study = random.Random(seed), tiny()
    wrong, blocking, different, left, kills, ended, failed = [], [], [], [], 0, 0, 0
    underway = True
    with tempfile.TemporaryDirectory() as folder:
        once = Path(folder, "once")
        begun = time.monotonic()
        _done(study_in(once, study), once)
        span = time.monotonic() - begun
        expected = result(once)
        while kills < n or underway:  # what the last kill left is finished too
            home = Path(folder, f"home{ended}")
            process, underway = study_in(home, study), True
            family = set()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0, 0.5 * span) if kills < n else None)
            if process.poll() is None:
                family |= set(_tree(process))
                _kill(family if kills % 2 else [rng.choice(sorted(family, key=lambda p: p.pid))])
                kills += 1
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.3 * span)
                if kills % 2 == 0:
                    psutil.wait_procs(family, 10)
                    blocking += [] if _strangers(home) else blocked(home)  # orphans of an earlier kill may hold one
                _kill([psutil.Process(process.pid)] if process.poll() is None else [])
                wrong += whole(home)
            elif process.returncode:
                failed += 1
                print(home.with_suffix(".log").read_text(errors="replace")[-3000:], file=sys.stderr)
                if failed > n:
                    break
            else:
                deadline = time.monotonic() + 600
                while _strangers(home) and time.monotonic() < deadline:
                    time.sleep(1)
                different += differences(expected, result(home))
                left += left_over(home)
                blocking += blocked(home)
                ended, underway = ended + 1, False
    rows = _after_kills(kills, wrong, blocking, different, left, ended)
    return [*rows, figure("starts that failed without being killed", failed, equals=0)]


def _strangers(home: Path) -> list:
    """Processes that still work in a home."""
    import psutil

    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if one.environ().get("BTLIB_HOME") == str(home):
                found.append(one)
    return found


# --- the same numbers ---


def same_numbers(seed: int, n: int = 2, study: params.Study | None = None) -> list[dict]:
    """Clean runs of a study, the quick profile or the tiny study, are compared: predictions, weights, tables, outputs.

    Timings, times and paths are left out. Then the same fit on one thread is compared with the one on all of them: sums in
    another order round otherwise, so this is told and not judged; across machines and library versions nothing is promised.
    """
    study = study or params.load("quick")
    with tempfile.TemporaryDirectory() as folder:
        homes = [Path(folder, f"home{i}") for i in range(n)]
        for home in homes:
            _done(study_in(home, study), home)
        results = [result(home) for home in homes]
        different = sorted({name for other in results[1:] for name in differences(results[0], other)})
        if different:
            print("different:", different[:40], file=sys.stderr)
        single = Path(folder, "single")
        fit = min(p.name for p in (homes[0] / "runs").glob("[!.]*"))
        path = homes[0].with_suffix(".yaml")
        words = ("-m", "btlib", "fit", str(path), "--id", fit)
        threads = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), "1")
        _done(start(single, *words, log=single.with_suffix(".log"), **threads), single)
        many, one = (
            pd.read_csv(h / "runs" / fit / "predictions.csv")[runs.logits_of(study.classes)].to_numpy()
            for h in (homes[0], single)
        )
    kinds = [name.split("/")[0] for name in results[0]]
    return [
        figure(f"clean runs of the {study.profile} profile", n),
        figure("fits: files, predictions, histories and weights compared", kinds.count("runs")),
        figure("tables compared", kinds.count("tables")),
        figure("outputs of executed notebooks compared", kinds.count("notebooks")),
        figure("of all these, different", len(different), equals=0),
        figure("threads of those runs", os.cpu_count()),
        figure(
            f"fit {fit}, one thread against all: largest difference of a logit",
            float(f"{np.abs(many - one).max():.2g}"),
        ),
        figure(
            "the same: share of validation and test slices with the same class",
            (many.argmax(1) == one.argmax(1)).mean(),
        ),
    ]


def together(seed: int, n: int = 2) -> list[dict]:
    """Two `make report` and four papermill of notebook 04 of the tiny study are started together in one clean home.

    Whether a fit was done once is told by its folder: a second fit would put another in its place.
    """
    study = tiny()
    with tempfile.TemporaryDirectory() as folder:
        alone, home = Path(folder, "alone"), Path(folder, "home")
        _done(study_in(alone, study), alone)
        home.mkdir()
        reports = [study_in(home, study, python=sys.executable) for _ in range(n)]
        notebook, file = "notebooks/04_efficientnet_finetuning.ipynb", str(home.with_suffix(".yaml"))
        notebooks = [
            start(home, "-m", "papermill", notebook, str(Path(folder, f"{i}.ipynb")), "-f", file, "--no-progress-bar")
            for i in range(2 * n)
        ]
        folders = {}
        while any(p.poll() is None for p in reports + notebooks):
            for path in (home / "runs").glob("[!.]*/provenance.json"):
                with contextlib.suppress(FileNotFoundError):  # times are no sign: Snakemake touches what a job made
                    seen = path.parent.stat().st_ino, path.stat().st_ino
                    folders.setdefault(path.parent.name, set()).add(seen)
            time.sleep(0.02)
        failed = sum(p.returncode != 0 for p in reports + notebooks)
        if failed:
            print(home.with_suffix(".log").read_text(errors="replace")[-3000:], file=sys.stderr)
        different = differences(result(alone), result(home))
        outputs = [_outputs(Path(folder, f"{i}.ipynb")) for i in range(2 * n)]
        apart = sum(o != outputs[0] for o in outputs)
        rows = [
            figure("`make report` started together", n),
            figure("papermill started beside them", 2 * n),
            figure("of all these, failed", failed, equals=0),
            figure("fits of the study", len(folders)),
            figure("fits done more than once", sum(len(f) > 1 for f in folders.values()), equals=0),
            figure("results that differ from a lone run's", len(different), equals=0),
            figure("papermill notebooks whose outputs differ from the others'", apart, equals=0),
            figure("files half-written", len(whole(home)), equals=0),
            figure("locks that block afterwards", len(blocked(home)), equals=0),
            figure("temporary files left", len(left_over(home)), equals=0),
        ]
        if different:
            print("different:", different[:20], file=sys.stderr)
    return rows


# --- hostile ---


class Command:
    """A pickle of this runs a command where it is loaded."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def _zip_with(path: Path, members: dict[str, bytes], **attributes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = attributes.get("mode", 0o100644) << 16
            archive.writestr(info, data)


def _good_slice(path: Path) -> bytes:
    write_hdf5(path, *slice_picture(np.random.default_rng(0), 64, 64), random_never(), "7.3")
    return path.read_bytes()


def random_never():
    """A generator whose `random()` is 1: nothing is mutated."""

    class Never:
        def random(self):
            return 1.0

        def integers(self, *_):
            return 2

    return Never()


def hostile_slices(root: Path) -> dict:
    """Attacks on the reader of slices: name to what is to be read."""
    from btlib.data import figshare

    good = _good_slice(root / "good.mat")

    def case(name, make):
        folder = root / name.replace(" ", "_")
        folder.mkdir()
        make(folder)
        return lambda: (figshare.manifest(folder), figshare.folds(folder))

    def endless(folder):
        (folder / "1.mat").symlink_to("/dev/zero")

    def hole(folder):
        with open(folder / "1.mat", "wb") as file:
            file.truncate(20 << 30)

    def wide_folds(folder):
        import h5py

        (folder / "1.mat").write_bytes(good)
        with h5py.File(folder / "cvind.mat", "w", userblock_size=512) as file:
            file.create_dataset("cvind", (15_000, 15_000), "f8")
        with open(folder / "cvind.mat", "r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")

    return {
        "symbolic link to a device": case("link", endless),
        "symbolic link to a folder": case("folder link", lambda f: (f / "in").symlink_to("/etc")),
        "named pipe": case("pipe", lambda f: os.mkfifo(f / "1.mat")),
        "file of 20 GB": case("hole", hole),
        "folds declared as 15000 x 15000": case("wide folds", wide_folds),
    }


def hostile_pictures(root: Path) -> dict:
    """Attacks on the reader of class folders."""
    from PIL import Image

    from btlib.data import folders

    def case(name, make):
        folder = root / name
        (folder / "c").mkdir(parents=True)
        make(folder / "c")
        return lambda: folders.manifest(folder, {"c": "glioma"})

    def bomb(folder):
        Image.new("RGBA", (7999, 7999)).save(folder / "a.png")

    def hole(folder):
        with open(folder / "a.png", "wb") as file:
            file.truncate(20 << 30)

    return {
        "picture of 64 million pixels in 200 kB": case("p_bomb", bomb),
        "picture that is a file of 20 GB": case("p_hole", hole),
        "picture that is a symbolic link": case("p_link", lambda f: (f / "a.png").symlink_to("/etc/passwd")),
        "picture that is a named pipe": case("p_pipe", lambda f: os.mkfifo(f / "a.png")),
        "PostScript called .png": case(
            "p_ps", lambda f: (f / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n(touch pwned) run")
        ),
    }


def hostile_models(root: Path) -> dict:
    """Attacks by a fitted model that was brought here, a weight pickle, a state and a parameter file."""
    import keras

    from btlib.data import datasets
    from btlib.fitting import training
    from btlib.models import weights

    command = f"touch {root}/pwned"

    def checkpoint(name, tensors):
        path = root / f"{name}.pth"
        path.write_bytes(b"".join(pickle.dumps(x, protocol=2) for x in (1, 1001, {}, tensors, [])))
        return lambda: weights.read_tensors(path)

    def raw(name, body):
        path = root / f"{name}.pth"
        path.write_bytes(b"".join(pickle.dumps(x, protocol=2) for x in (1, 1001, {})) + body)
        return lambda: weights.read_tensors(path)

    study, fit = toy_fit(99)

    def model(name, write):
        made = fit.model_copy(update={"seed": 1000 + len(name)})
        run = runs.Run(made)
        run.folder.mkdir(parents=True, exist_ok=True)
        write(run.folder / "model.keras")
        return run.model

    def spoilt(change):
        def write(path):
            image = keras.Input((4, 4, 1))
            keras.Model(image, keras.layers.Dense(3, name="logits")(keras.layers.Flatten()(image))).save(path)
            with zipfile.ZipFile(path) as archive:
                parts = {n: archive.read(n) for n in archive.namelist()}
            config = json.loads(parts["config.json"])
            config = change(config) or config
            parts["config.json"] = json.dumps(config).encode()
            _zip_with(path, parts)

        return write

    def lambda_layer(path):
        image = keras.Input((4,))
        keras.Model(image, keras.layers.Lambda(lambda x: (os.system(command), x)[1], output_shape=(4,))(image)).save(
            path
        )
        (root / "pwned").unlink(missing_ok=True)

    def call(module, name, **given):
        def change(config):
            config["config"]["layers"].append(
                {
                    "module": module,
                    "class_name": name,
                    "registered_name": name,
                    "config": given,
                    "name": "x",
                    "inbound_nodes": [],
                }
            )

        return change

    def whole_config(module, name, *arguments):
        return lambda _: {"module": module, "class_name": name, "registered_name": None, "config": {"args": arguments}}

    def state():
        made = fit.model_copy(update={"seed": 77})
        datasets.load(study.data, made.preprocessing)  # what takes longest is no attack's doing
        partial = root / "runs" / f".{made.id}"
        partial.mkdir(parents=True)
        np.savez(partial / "state.npz", facts=np.array([Command(command)], object))
        return lambda: training.fit(study, made)

    def parameters():
        path = root / "evil.yaml"
        path.write_text(f"profile: !!python/object/apply:os.system ['{command}']\n")
        return lambda: params.load(path)

    def profile():
        return lambda: params.check(params.load("quick").model_dump() | {"profile": f"$({command})"}, "evil")

    return {
        "weight pickle that calls os.system": checkpoint("system", Command(command)),
        "weight pickle that asks for builtins.eval": raw("eval", b"cbuiltins\neval\n(S'1'\ntR."),
        "weight pickle that asks for getattr of what is allowed": raw(
            "getattr", b"cbuiltins\ngetattr\n(ctorch\nFloatStorage\nS'x'\ntR."
        ),
        "weight pickle without tensors": checkpoint("list", [1, 2]),
        ".keras file with a Lambda layer": model("a", lambda_layer),
        ".keras file that names os.system": model("ab", spoilt(call("os", "system", command=command))),
        ".keras file that names builtins.eval": model("abc", spoilt(whole_config("builtins", "eval", command))),
        ".keras file that turns safe mode off": model(
            "abcd", spoilt(whole_config("keras.config", "enable_unsafe_deserialization"))
        ),
        ".keras file that downloads": model(
            "abcde", spoilt(whole_config("keras.utils", "get_file", "x", "file:///etc/passwd"))
        ),
        ".keras file that is no zip file": model("abcdef", lambda p: p.write_bytes(b"PK\x03\x04" + bytes(90))),
        "state of a fit with a pickle in it": state(),
        "parameter file that calls os.system": parameters(),
        "profile named $(command)": profile(),
    }


def hostile_downloads(root: Path) -> tuple[dict, object]:
    """A publisher's server that lies: a wrong checksum, and a name that climbs out."""
    import pooch

    from btlib.data import figshare

    os.environ["NO_PROXY"] = "127.0.0.1"

    class Files(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"wrong")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    right = hashlib.md5(b"right").hexdigest()

    def told(name):
        repository = pooch.downloaders.FigshareRepository(figshare.DOI, "https://figshare.com/articles/1512427")
        address = f"http://127.0.0.1:{server.server_port}/file"
        repository._api_response = [{"name": name, "download_url": address, "computed_md5": right}]
        return repository

    def fetch(name):
        with (
            mock.patch.object(pooch.core, "doi_to_repository", lambda *_, **__: told(name)),
            mock.patch.object(pooch.downloaders, "doi_to_repository", lambda *_, **__: told(name)),
        ):
            figshare.fetch(root / "fetched")

    return {
        "downloaded archive with a wrong checksum": lambda: fetch("a.zip"),
        "download named ../outside.mat": lambda: fetch("../outside.mat"),
    }, server


def shell_names(root: Path) -> dict:
    """A study whose home, interpreter, data folder and slices bear shell characters, as far as notebook 02."""
    names = "we ird;$(touch pwned)&'`touch pwned`\"|>x"
    home = root / names
    (home / "data").mkdir(parents=True)
    venv = root / f"py {names}"
    (venv / "bin").mkdir(parents=True)
    python = venv / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    study = tiny()
    os.environ["BTLIB_HOME"] = str(home)
    from btlib.data import phantom

    phantom.generate(root / "made", study.data.phantom, None)
    folder = home / "data" / "$(touch pwned); `touch pwned`"
    for path in sorted((root / "made").rglob("*.mat")):
        if path.name != "cvind.mat":
            target = folder / "a;touch pwned #" / f"$(touch pwned)-{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    data = {"source": "figshare", "path": f"data/{folder.name}", "phantom": None, "labels": None, "unreadable": "error"}
    given = study.model_dump() | {"data": data, "external": {}}
    path = home / "p $(touch pwned).yaml"
    params.write(params.check(given, "shell"), path)
    before = set(ROOT.iterdir()) | set(root.iterdir())
    code = (
        "import sys, runpy; sys.executable = sys.argv.pop(1); sys.argv[0] = 'snakemake'; "
        "runpy.run_module('snakemake', run_name='__main__')"
    )
    target = "reports/torture/notebooks/02_preprocessing.ipynb"
    words = ("-c", code, str(python), "--snakefile", str(ROOT / "Snakefile"), "--cores", "1", "--configfile", str(path))
    log = root / "log"
    process = start(home, *words, "--", target, log=log)
    process.wait()
    new = (set(ROOT.iterdir()) | set(root.iterdir())) - before - {log, ROOT / ".snakemake"}
    told = log.read_text(errors="replace")
    ran = process.returncode == 0 and (home / target).exists()
    return {"ran": ran, "made": sorted(map(str, [*new, *home.glob("**/pwned")])), "told": told}


def hostile(seed: int, n: int = 0) -> list[dict]:
    """Files made to harm are read, and must be refused by an error of btlib's own, within seconds and megabytes.

    Nothing may be executed, nothing written outside: the attacks' marker file and new files around are looked for. Last, a
    study whose home, interpreter, data folder, slices and parameter file have names full of shell characters must run.
    """
    from btlib import WeightsError

    rows, refused, wrong, seconds = [], [], [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "home")
        root.mkdir()
        os.environ["BTLIB_HOME"] = str(root)
        os.chdir(root)
        downloads, server = hostile_downloads(root)
        attacks = hostile_slices(root) | hostile_pictures(root) | downloads | hostile_models(root)
        held = peak_mb()
        for name, attack in attacks.items():
            begun = time.process_time()
            try:
                attack()
                wrong.append(f"{name}: accepted")
            except (DataError, ParamsError, WeightsError) as error:
                refused.append(name)
                print(f"{name}: {error}"[:200])
            except Exception as error:
                wrong.append(f"{name}: {type(error).__name__}: {error}")
            seconds = max(seconds, time.process_time() - begun)
        server.shutdown()
        marks = [*Path(folder).rglob("pwned"), *Path(folder).rglob("outside.mat"), *Path(folder).glob("*.mat")]
        peak = peak_mb() - held
        shell = shell_names(Path(folder))
        os.chdir(ROOT)
    for told in wrong:
        print(told, file=sys.stderr)
    if not shell["ran"]:
        print(shell["told"][-3000:], file=sys.stderr)
    rows += [figure(name, "refused" if name in refused else "not refused", equals="refused") for name in attacks]
    return [
        *rows,
        figure("commands executed or files written outside", len(marks) + len(shell["made"]), equals=0),
        figure("longest, s of CPU", round(seconds, 2), at_most=SECONDS),
        figure("most memory beyond what the process had held, MB", round(peak), at_most=MEMORY_MB),
        figure(
            "study with shell characters in all its names, through Snakemake to notebook 02",
            "ran" if shell["ran"] else "failed",
            equals="ran",
        ),
    ]


# --- full and read-only disks ---


def _small_disk(folder: Path, n: int) -> list[dict] | None:
    """Run `_disk` on a tmpfs of 24 MB, mounted in a namespace of its own; None where that is not allowed."""
    mount = f"mount -t tmpfs -o size=24m none '{folder}'"
    command = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        allowed = subprocess.run([*command, "sh", "-c", mount], capture_output=True).returncode == 0
    except FileNotFoundError:
        return None
    if not allowed:
        return None
    program = f"{mount} && exec '{sys.executable}' '{Path(__file__).resolve()}' --disk --n {n} --folder '{folder}'"
    done = subprocess.run([*command, "sh", "-c", program], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    print(done.stderr[-3000:], file=sys.stderr, end="")
    return json.loads(done.stdout.splitlines()[-1])


def _earlier(home: Path) -> dict[str, str]:
    """Finish a data set, a fit, a table, a figure and a parameter file; return the checksum of every file."""
    import matplotlib

    matplotlib.use("Agg")
    from btlib.study import tables

    os.environ["BTLIB_HOME"] = str(home)
    _fit_toy(str(home), 0)
    tables.write("tiny", "models", pd.DataFrame({"a": [1, 2]}))
    tables.save("tiny", "roc", _drawn())
    params.write(params.load("quick"), home / "reports" / "tiny" / "parameters.yaml")
    return checksums(home)


def _drawn():
    from matplotlib.figure import Figure

    shown = Figure()
    shown.subplots().imshow(np.random.default_rng(0).random((200, 200)))
    return shown


def checksums(home: Path) -> dict[str, str]:
    """SHA-256 of every file of a home but locks."""
    return {
        str(p.relative_to(home)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(home.rglob("*"))
        if p.is_file() and ".locks" not in p.parts and p.suffix != ".lock" and p.name != "filler"
    }


def _writes(home: Path) -> dict:
    """Everything that writes a result, each anew or over an earlier one."""
    from btlib.data import datasets, phantom
    from btlib.fitting import training
    from btlib.study import tables

    study, other = toy_fit(1)
    how = study.preprocessing.model_copy(update={"image_size": 96})
    made = study.data.phantom.model_copy(update={"seed": 5, "size": 128})
    more = study.seed + 1
    return {
        "a phantom": lambda: phantom.generate(home / "data" / "new", made, None),
        "a phantom of the other hospital": lambda: phantom.generate(
            home / "data" / "b", study.external["hospital_b"].phantom.model_copy(update={"copies": 0}), None
        ),
        "prepared slices": lambda: datasets.load(study.data, how),
        "a table": lambda: tables.write("tiny", "models", pd.DataFrame({"a": range(9999)})),
        "a figure": lambda: tables.save("tiny", "roc", _drawn()),
        "a parameter file": lambda: params.write(
            study.model_copy(update={"seed": more}), home / "reports" / "tiny" / "parameters.yaml"
        ),
        "a fit": lambda: training.fit(study, other),
    }


def _attempt(home: Path, before: dict, names, clear: tuple, found: dict) -> None:
    for name, write in _writes(home).items():
        if name not in names:
            continue
        done = found["done"]
        found["attempts"] += 1
        try:
            write()
            found["done"] += 1
        except (DataError, OSError) as error:
            told = str(error)
            if str(home) in told and any(words in told for words in clear):
                found["refused"] += 1
            else:
                found["unclear"].append(f"{name}: {type(error).__name__}: {told}")
        except Exception as error:
            found["unclear"].append(f"{name}: {type(error).__name__}: {error}")
        now = checksums(home)
        if (
            found["done"] > done and name in REPLACES
        ):  # what a write that was done has replaced is the earlier result now
            before.update({k: now[k] for k in before if k.startswith(REPLACES[name])})
        found["spoilt"] += [k for k in before if now.get(k) != before[k]]
        found["torn"] += whole(home)


REPLACES = {
    "a table": "reports/tiny/tables/models",
    "a figure": "reports/tiny/figures/roc",
    "a parameter file": "reports/tiny/parameters",
}


def _counters() -> dict:
    return {"attempts": 0, "done": 0, "refused": 0, "unclear": [], "spoilt": [], "torn": []}


ROOMS = (0, 100, 400, 4, 16, 40, 200, 800, 1600)


def _disk(home: Path, n: int | None) -> list[dict]:
    """What is measured on the small disk: full first, then read-only."""
    before, full, after, read_only = _earlier(home), _counters(), _counters(), _counters()
    rooms = ROOMS[:n]
    for room in rooms:
        _fill(home, room)
        names = set(_writes(home)) - (set() if room in ROOMS[:3] else {"a fit"})
        _attempt(home, before, names, ("No space left", "disk"), full)
        _forget(home, before)
    _attempt(home, before, set(_writes(home)), (), after)
    _forget(home, before)
    subprocess.run(["mount", "-o", "remount,ro", str(home)], check=True)
    _attempt(home, before, set(_writes(home)), ("Read-only",), read_only)
    rows = [figure("full disk: amounts of room left, kB", " ".join(map(str, sorted(rooms))))]
    rows += _disk_rows("full disk", full)
    rows.append(
        figure("full disk: writes that fail once there is room again", after["attempts"] - after["done"], equals=0)
    )
    rows += _disk_rows("read-only", read_only)
    return [*rows, figure("read-only: earlier results that can no longer be read", len(_unread()), equals=0)]


def _forget(home: Path, before: dict) -> None:
    """Remove what was not there before, for the next writes to write it again."""
    for name in checksums(home).keys() - before.keys():
        (home / name).unlink()
    for path in ("filler", "data/new", "data/b"):
        found = home / path
        shutil.rmtree(found) if found.is_dir() else found.unlink(missing_ok=True)
    for folder in (home / "runs").iterdir():
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _fill(home: Path, room: int) -> None:
    free = os.statvfs(home)
    free = free.f_bavail * free.f_frsize // 1024
    with open(home / "filler", "wb") as file:
        for _ in range(max(0, free - room)):
            try:
                file.write(bytes(1024))
                file.flush()
            except OSError:
                break


def _disk_rows(title: str, found: dict) -> list[dict]:
    for key in ("unclear", "spoilt", "torn"):
        for told in found[key][:20]:
            print(f"{title}: {key}: {told}", file=sys.stderr)
    return [
        figure(
            f"{title}: writes tried (phantoms, prepared slices, tables, figures, parameter files, fits)",
            found["attempts"],
        ),
        figure(f"{title}: done", found["done"]),
        figure(f"{title}: stopped by an error that names the file and the cause", found["refused"]),
        figure(f"{title}: stopped by anything else", len(found["unclear"]), equals=0),
        figure(f"{title}: earlier results lost or changed", len(found["spoilt"]), equals=0),
        figure(f"{title}: files half-written", len(found["torn"]), equals=0),
    ]


def _unread() -> list[str]:
    from btlib.data import datasets
    from btlib.fitting import training

    study, fit = toy_fit(0)
    reads = {
        "prepared slices": lambda: datasets.load(study.data, study.preprocessing).images[0],
        "a run": lambda: training.fit(study, fit).predictions(),
        "a model": lambda: runs.Run(fit).model(),
    }
    failed = []
    for name, read in reads.items():
        try:
            read()
        except Exception as error:
            failed.append(f"{name}: {type(error).__name__}: {error}")
            print(failed[-1], file=sys.stderr)
    return failed


def disk(seed: int, n: int = len(ROOMS)) -> list[dict]:
    """On a tmpfs of 24 MB that is filled but for some kilobytes, or made read-only, everything that writes is tried.

    First a data set, a fit, a table, a figure and a parameter file are finished; these must stay as they are. Root passes
    permission bits, so the read-only folder is a read-only mount. Where mounting is not allowed nothing is measured.
    """
    with tempfile.TemporaryDirectory() as folder:
        rows = _small_disk(Path(folder), n)
    return [figure("not run: mounting is not allowed here", "")] if rows is None else rows


# --- memory ---


def _memory(home: str, count: int, pipe) -> None:
    os.environ["BTLIB_HOME"] = home
    from btlib.data import datasets
    from btlib.fitting import training

    study = params.load("figshare")
    import keras  # noqa: F401 - in the peak from the start

    data = study.data.model_copy(update={"path": f"data/{count}"})
    recipe = study.recipes["guided"]
    stages = [recipe.stages[0].model_copy(update={"epochs": 1})]
    study = study.model_copy(update={"data": data, "recipes": {"guided": recipe.model_copy(update={"stages": stages})}})
    model = study.proposed.model_copy(update={"weights": None})
    datasets.load(study.data, study.preprocessing)
    prepared = peak_mb()
    training.fit(study, runs.fit_of(study, datasets.fingerprint(study.data), model, "image_holdout", 0, 0))
    pipe.send((prepared, peak_mb()))


def memory(seed: int, n: int = 300) -> list[dict]:
    """Peak memory of preparing n and 4 n made-up slices of 512 px and fitting one epoch as the figshare profile does.

    Each in a process of its own, TensorFlow included, from random weights; slices repeat after 60, which memory does not see.
    """
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        rng = np.random.default_rng(seed)
        originals = []
        for i in range(60):
            path = home / "made" / f"{i}.mat"
            path.parent.mkdir(exist_ok=True)
            image, mask = slice_picture(rng, 512, 512)
            _plain_slice(path, image, mask, i % 3 + 1, f"MR{i:06d}")
            originals.append(path)
        for count in (n, 4 * n):
            target = home / "data" / str(count)
            target.mkdir(parents=True)
            for i in range(count):
                os.link(originals[i % 60], target / f"{i + 1}.mat")
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            process = context.Process(target=_memory, args=(str(home), count, theirs))
            process.start()
            theirs.close()
            peaks[count] = ours.recv()
            process.join()
    rows = [figure("slices", f"{n} and {4 * n}")]
    for i, what in enumerate(("preparing the slices", "preparing and one epoch of the figshare profile's fit")):
        small, large = peaks[n][i], peaks[4 * n][i]
        rows += [
            figure(f"{what}: peak for {n}, MB", round(small)),
            figure(f"{what}: peak for {4 * n}, MB", round(large)),
            figure(f"{what}: ratio", round(large / small, 3), at_most=1.1),
        ]
    return rows


def _plain_slice(path: Path, image, mask, label: int, patient: str) -> None:
    import h5py

    fields = {
        "PID": np.array([[ord(c)] for c in patient], np.uint16),
        "image": image.T,
        "label": np.array([[float(label)]]),
        "tumorMask": mask.T.astype(np.uint8),
    }
    with h5py.File(path, "w", userblock_size=512) as file:
        for key, value in fields.items():
            packed = {"compression": "gzip", "compression_opts": 1} if value.size > 100 else {}
            file.create_dataset(f"cjdata/{key}", data=value, **packed)
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


# --- upgrade ---


def upgrade(seed: int, n: int = 0) -> list[dict]:
    """What other versions of the code left is laid where this one looks for it; each case has one allowed outcome.

    "anew": made again beside or in place of the old; "refused": an error of btlib's own that names the file; "loaded".
    """
    from btlib.data import datasets, phantom
    from btlib.fitting import training

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as undo:
        home = Path(folder)
        os.environ["BTLIB_HOME"] = folder
        _fit_toy(folder, 0)
        study, fit = toy_fit(0)
        run = runs.Run(fit)
        place = run.folder  # its id, and so its name, follows the version
        kept = {p.name: p.read_bytes() for p in place.iterdir()}
        fits = []

        def again(name="fit_split", module=training):
            real = getattr(module, name)
            undo.callback(setattr, module, name, real)

            def counted(*given):
                fits.append(name)
                return real(*given) if module is not training else run

            setattr(module, name, counted)

        again()
        again("build", datasets)
        again("_write_a", phantom)

        def outcome(change, call=lambda: training.fit(study, toy_fit(0)[1])):
            fits.clear()
            change()
            try:
                call()
                found = "anew" if fits else "loaded"
            except DataError as error:
                found = "refused" if str(home) in str(error) else f"refused without a name: {error}"
            except Exception as error:
                found = f"{type(error).__name__}: {error}"
            for name, data in kept.items():
                (place / name).write_bytes(data)
            return found

        def put(module, name, value):
            undo.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, value)

        def facts(**changes):
            given = json.loads(kept["fit.json"])
            given.update(changes)
            (place / "fit.json").write_text(json.dumps({k: v for k, v in given.items() if v is not ...}))

        def state(**arrays):
            partial = home / "runs" / f".{toy_fit(5)[1].id}"
            partial.mkdir(exist_ok=True)
            np.savez(partial / "state.npz", **arrays)

        def resume():
            from btlib.models import registry as models

            other = toy_fit(5)[1]
            with runs.claim(other) as partial:
                model = models.build("toy", None, 32, other.head, 5, len(other.classes))
                training._State(partial, model)

        rows = [
            ("run as this code left it", outcome(lambda: None), "loaded"),
            ("fit.json without a field that came later", outcome(lambda: facts(fold=...)), "refused"),
            ("fit.json with a field that is gone", outcome(lambda: facts(optimizer="adam")), "refused"),
            ("fit.json of another fit under this id", outcome(lambda: facts(seed=3)), "refused"),
            ("fit.json cut short", outcome(lambda: (place / "fit.json").write_text('{"data": ')), "refused"),
            ("no fit.json", outcome(lambda: (place / "fit.json").unlink()), "refused"),
            (
                "run whose end was lost (no provenance.json)",
                outcome(lambda: (place / "provenance.json").unlink()),
                "anew",
            ),
            ("state of a fit without what is kept now", outcome(lambda: state(w0=np.ones(3)), resume), "refused"),
            (
                "state of a fit of another graph",
                outcome(
                    lambda: state(facts='{"stage": 0, "epoch": 1, "seconds": 1, "history": []}', w0=np.ones(3)), resume
                ),
                "refused",
            ),
        ]
        load = lambda: datasets.load(study.data, study.preprocessing)  # noqa: E731
        rows += [
            ("prepared slices as this code left them", outcome(lambda: None, load), "loaded"),
            (
                "prepared slices of another preprocessing.VERSION",
                outcome(lambda: put(preprocessing, "VERSION", 99), load),
                "anew",
            ),
            ("phantom of another phantom.VERSION", outcome(lambda: put(phantom, "VERSION", 99), load), "anew"),
        ]
        undo.pop_all().close()
        again()
        rows.append(("run of another runs.VERSION", outcome(lambda: put(runs, "VERSION", runs.VERSION + 1)), "anew"))
        real = runs.version
        other = lambda p: "9.9.9" if p == "keras" else real(p)  # noqa: E731
        rows.append(("run of another minor version of Keras", outcome(lambda: put(runs, "version", other)), "anew"))
        rows.append(
            (
                "the old run's files after all that",
                str(checksums(place) == {k: hashlib.sha256(v).hexdigest() for k, v in kept.items()}),
                "True",
            )
        )
    return [figure(name, found, equals=allowed) for name, found, allowed in rows]


# --- the report ---


def fuzz_slices(seed: int, n: int = 2000) -> list[dict]:
    """Mutated .mat files (plain, packed, and cvind.mat) are listed, read and prepared.

    Bytes flipped, overwritten, cut, repeated; datasets removed, retyped, reshaped, linked elsewhere, declared huge. Each
    is read by a process that is watched from outside, so that a crash, a silence of 60 s and memory are seen.
    """
    return fuzz("slices", n, seed)


def fuzz_pictures(seed: int, n: int = 2000) -> list[dict]:
    """Mutated JPEG, PNG and WebP pictures of eight modes are listed, read and prepared, watched in the same way.

    Bytes as above; PNG headers and chunks changed with right checksums, other formats under these names.
    """
    return fuzz("pictures", n, seed)


def fuzz_parameters(seed: int, n: int = 500) -> list[dict]:
    """Mutated parameter files are checked: spoilt bytes, lines moved, keys renamed or removed, values of other kinds.

    With YAML's own traps: aliases, tags, deep nesting, numbers and dates that are none.
    """
    return fuzz("parameters", n, seed)


def silent(seed: int, n: int = 0) -> list[dict]:
    """What would give a wrong result without a word is tried, one case a kind: it must be refused, or counted aloud.

    Args:
        seed, n: of no effect; nothing is drawn.
    """
    with tempfile.TemporaryDirectory() as folder:
        cases = {kind: _told(make(Path(folder) / str(k))) for k, (kind, make) in enumerate(SILENT.items())}
    return [figure(kind, told, equals=True) for kind, told in cases.items()]


def _told(case) -> bool:
    """Whether a case ends in an error of btlib's own, or says so itself."""
    try:
        return bool(case())
    except (DataError, ParamsError):
        return True


def _nobody(root: Path):
    """Class folders name no patient, and patients are asked to be kept apart."""
    from PIL import Image

    from btlib.data import folders, splits

    for label in ("glioma", "meningioma", "pituitary"):
        (root / label).mkdir(parents=True)
        for k in range(6):
            Image.fromarray(np.full((8, 8), 20 * k + 10, np.uint8)).save(root / label / f"{k}.png")
    table = folders.manifest(root, {label: label for label in ("glioma", "meningioma", "pituitary")})
    return lambda: splits.check(table, "patient_holdout", ("glioma", "meningioma", "pituitary"))


def _unnumbered(root: Path):
    """Two slices, and author's folds for three: a join that leaves one over."""
    from btlib.data import figshare

    table = pd.DataFrame({"image_id": ["1", "2"], "path": ["1.mat", "2.mat"]})
    return lambda: figshare.match(pd.Series([1, 2, 3], index=[1, 2, 3], name="fold"), table) is None


def _tuple(root: Path):
    """A comma behind a number in the parameter cell makes a tuple of it."""
    return lambda: params.from_notebook({"profile": "quick", "changes": {}, "seed": (3,)})


def _leftover(root: Path):
    """A table lies where an earlier report left it, and no notebook of this one wrote it: it is no part of this one."""
    import nbformat

    from btlib.site import build

    (root / "tables").mkdir(parents=True)
    (root / "tables" / "mirrored.csv").write_text("accuracy\n1\n")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    return lambda: "mirrored" not in build._contents(root, {"04": book})["tables"]


def _bmp(root: Path):
    """A class folder of JPEG, TIFF and BMP pictures beside a text: all pictures are read, the text is counted."""
    from PIL import Image

    from btlib.data import folders

    (root / "c").mkdir(parents=True)
    for k, ending in enumerate(("jpg", "tif", "bmp")):
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) + k).save(root / "c" / f"{k}.{ending}")
    (root / "c" / "notes.txt").write_text("x")
    table = folders.manifest(root, {"c": "glioma"})
    return lambda: len(table) == 3 and len(table.attrs["passed_over"]) == 1


SILENT = {
    "a patient protocol on data that name no patient": _nobody,
    "author's folds that leave a slice over": _unnumbered,
    "a parameter of another type": _tuple,
    "a table of an earlier report": _leftover,
    "pictures of other endings in a class folder": _bmp,
}
"""Kinds of silent wrong results: a case each, from a folder to what is called."""


LINES = {
    "same_numbers": ("Same numbers", same_numbers),
    "kill_fit": ("Kill test: a fit", kill_fit),
    "kill_report": ("Kill test: a whole report", kill_report),
    "together": ("Started together", together),
    "fuzz_slices": ("Fuzz: slices", fuzz_slices),
    "fuzz_pictures": ("Fuzz: pictures", fuzz_pictures),
    "fuzz_parameters": ("Fuzz: parameter files", fuzz_parameters),
    "hostile": ("Hostile", hostile),
    "silent": ("Silent wrong results", silent),
    "disk": ("Disk full and read-only", disk),
    "memory": ("Memory", memory),
    "upgrade": ("Upgrade", upgrade),
}


def note(line: str, rows: list[dict], seed: int, folder: Path, more: str = "", commit: str = "") -> None:
    """Put a line's figures in place of its earlier ones in reliability.csv, and write the Markdown from that.

    Args:
        line: key of `LINES`.
        rows: what its function returned.
        seed, more: what it was run with, as `make torture` takes it.
        folder: where both files lie.
        commit: what the code was at when the line began; default: what it is at.
    """
    hardware = f"{runs.processor()}, {os.cpu_count()} cores"
    facts = {"line": line, "seed": str(seed), "more": more, "commit": commit or runs.commit(), "hardware": hardware}
    path = folder / "reliability.csv"
    with filelock.FileLock(Path(tempfile.gettempdir(), "btlib-reliability.lock")):
        old = pd.read_csv(path, dtype=str, keep_default_na=False) if path.exists() else pd.DataFrame(columns=COLUMNS)
        new = pd.DataFrame([row | facts | {"value": str(row["value"])} for row in rows])
        table = pd.concat([old[old["line"] != line], new])[COLUMNS].fillna("")
        table = table.sort_values("line", key=lambda s: s.map(list(LINES).index), kind="stable")
        with files.replacing(path) as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")
        files.write_text(folder / "reliability.md", markdown(table))


def markdown(table: pd.DataFrame) -> str:
    """Tell every line: what is done, its figures, its seed, commit and machine, and how to repeat it."""
    text = [
        "# Reliability\n\nWritten by `make torture`, from reliability.csv; made-up slices throughout. `make test` runs short "
        "versions.\nThe tiny study (profile torture) is the quick profile shrunk to 48 slices and one fit of one epoch (`tiny` in "
        "benchmarks/torture.py).\nA line is repeated alone by the command under it; a figure without a bound is told and not judged.\n"
    ]
    for line, (title, function) in LINES.items():
        rows = table[table["line"] == line]
        about = "\n".join(part.strip() for part in function.__doc__.strip().splitlines())
        text.append(f"## {title}\n\n{about}\n")
        if rows.empty:
            text.append(f"**Not run yet.** `make torture LINES={line}`\n")
            continue
        first = rows.iloc[0]
        text.append(
            rows[["measured", "value", "allowed", "holds"]].to_markdown(index=False, disable_numparse=True) + "\n"
        )
        text.append(
            f"`make torture LINES={line} SEED={first['seed']}{first['more']}`; commit {first['commit'][:12]}"
            f"{'+changes' if '+' in first['commit'] else ''}, {first['hardware']}.\n"
        )
    return "\n".join(text)


def main() -> None:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("lines", nargs="*", metavar="LINE", help=f"default: all of {', '.join(LINES)}")
    top.add_argument("--seed", type=int, default=0)
    top.add_argument("--n", type=int, help="how many of what the line counts, in place of the line's own number")
    top.add_argument("--tiny", action="store_true", help="same_numbers on the tiny study in place of the quick profile")
    top.add_argument("--disk", action="store_true", help=argparse.SUPPRESS)
    top.add_argument("--folder", type=Path, default=ROOT / "reports", help="where to write (default: reports/)")
    args = top.parse_args()
    if args.disk:
        print(json.dumps(_disk(args.folder, args.n)))
        return
    if unknown := set(args.lines) - set(LINES):
        top.error(f"no such line: {', '.join(sorted(unknown))}; there are {', '.join(LINES)}")
    failed = []
    for line in args.lines or LINES:
        given, more = ({"n": args.n}, f" N={args.n}") if args.n else ({}, "")
        if args.tiny and line == "same_numbers":
            given, more = given | {"study": tiny()}, f"{more} TINY=1"
        commit = runs.commit()
        rows = LINES[line][1](args.seed, **given)
        note(line, rows, args.seed, args.folder, more, commit)
        print(pd.DataFrame(rows).to_string(index=False), flush=True)
        failed += [f"{line}: {row['measured']}: {row['value']}" for row in rows if row["holds"] == "no"]
    if failed:
        sys.exit("does not hold:\n" + "\n".join(failed))


if __name__ == "__main__":
    main()
