"""A fit as a folder: what it depends on, what it left, where it came from."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from filelock import FileLock

from btlib import DataError, files, home, params
from btlib.data import datasets, splits
from btlib.models import registry as models
from btlib.models import weights

VERSION = 2
"""Raised when the code that fits changes what a fit gives: a run of another version is never taken for this one's."""


def logits_of(classes) -> list[str]:
    """Return the names of the columns of predictions that hold the logits of some classes."""
    return [f"logit_{c}" for c in classes]


class Fit(params.Section):
    """Everything that a run's result depends on, but for rounding: the machine and Keras's backend are provenance."""

    data: str
    classes: list[str]
    model: str
    weights: params.Weights
    output_stride: int
    protocol: params.Protocol
    fold: int
    seed: int
    preprocessing: params.Preprocessing
    split: params.Split
    head: params.Head
    augmentation: params.Augmentation | None
    recipe: params.Recipe

    @property
    def id(self) -> str:
        """Twelve hex digits of the SHA-256 of all of it, the code's version and Keras's minor version."""
        keras = ".".join(version("keras").split(".")[:2])
        text = json.dumps([VERSION, keras, self.model_dump()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def title(self) -> str:
        """One line for people: model, weights, protocol, fold, seed."""
        return f"{self.model} ({self.weights or 'random'}), {self.protocol} fold {self.fold}, seed {self.seed}"


def fit_of(study: params.Study, fingerprint: str, model: params.Model, protocol: str, fold: int, seed: int) -> Fit:
    """Return the fit of one model under one split, with the study's parameters; `seed` is of both split and fit."""
    recipe = study.recipes[model.recipe]
    return Fit(
        data=fingerprint,
        classes=study.classes,
        model=model.model,
        weights=model.weights,
        output_stride=model.output_stride or models.REGISTRY[model.model].strides[0],
        protocol=protocol,
        fold=fold,
        seed=seed,
        preprocessing=study.preprocessing.model_copy(update={"image_size": study.image_size_of(model)}),
        split=study.split,
        head=study.head,
        augmentation=study.augmentation if recipe.augment else None,
        recipe=recipe,
    )


def plan(study: params.Study, fingerprint: str) -> pd.DataFrame:
    """List every fit that the study means. Notebooks 03 and 04.

    Returns:
        purpose ("proposed", "baseline", "ablation", "gradcam"), factor (of an ablation, else ""), value (of an ablation, or
        the name in `gradcam.models`, else ""), id, fit (Fit).
        A fit that serves two purposes stands twice, with one id.
    """
    rows = []

    def add(purpose, model, protocols, factor="", value="", parameters=study):
        for seed, fold in pairs_of(study, protocols):
            fit = fit_of(parameters, fingerprint, model, protocols.protocol, fold, seed)
            rows.append((purpose, factor, value, fit))

    for protocols in study.protocols:
        add("proposed", study.proposed, protocols)
    for model in study.baselines:
        add("baseline", model, study.comparison)
    budget = {"recipe.epochs": study.ablation.epochs} if study.ablation.epochs else {}
    for change in [{}, *study.ablation.changes] if study.ablation.changes else []:
        own = {"proposed.recipe", "recipe.epochs", "recipe.stages"} & change.keys()
        changed = study.changed(change if own else budget | change)
        factor = ", ".join(change) or "proposed"
        value = ", ".join(v if isinstance(v, str) else json.dumps(v) for v in change.values())
        add("ablation", changed.proposed, study.ablation, factor, value, changed)
    explained = next(p for p in study.protocols if p.protocol == study.gradcam.protocol)
    for name in study.gradcam.models:
        once = explained.model_copy(update={"seeds": explained.seeds[:1]})
        add("gradcam", study.model_of(name), once, value=name)
    table = pd.DataFrame(rows, columns=["purpose", "factor", "value", "fit"])
    table.insert(3, "id", [f.id for f in table["fit"]])
    return table


def ensure_weights(study: params.Study) -> None:
    """Make sure that the pretrained weights of every planned fit are here; WeightsError as `weights.ensure`."""
    for name, which in dict.fromkeys((f.model, f.weights) for f in plan(study, "")["fit"] if f.weights):
        weights.ensure(models.REGISTRY[name].sources[which])


def check(study: params.Study, manifest: pd.DataFrame) -> None:
    """Stop where the study's data cannot carry one of its protocols or recipes; DataError as `splits.check`."""
    folds = datasets.author_folds(study.data)
    fits = plan(study, "")["fit"]
    for protocol, guided in dict.fromkeys((f.protocol, bool(f.recipe.cam_loss or f.recipe.erase)) for f in fits):
        splits.check(manifest, protocol, study.classes, folds, guided)


def outlook(plan: pd.DataFrame, slices: int, costs: pd.DataFrame | None = None) -> pd.DataFrame:
    """Say of each fit whether it is done, and how long it will take by what was measured on this machine.

    `slices` is how many the data set has, `costs` is reports/cost.csv (`benchmarks.cost.table`), where it was made.

    Returns:
        id, fit (its title), what_for (its purpose, and what tells it from others of it), state ("done" or "to do"), minutes,
        by. Minutes are "measured" for a done one. For one to do they are its epochs times the mean of an epoch in the plan's
        done fits with the same model, image size, precision, output stride and use of masks ("epochs of such fits"), else in
        costs, by the number of pixels ("cost.csv"), else NaN.
    """
    done = {f.id: run.provenance()["fit_seconds"] / 60 for f in plan["fit"] if (run := load(f))}
    like: dict = {}
    for f in plan["fit"]:
        if f.id in done:
            like.setdefault(_kind(f), []).append(done[f.id] / _epochs(f))
    rows = []
    for _, row in plan.iterrows():
        f, minutes, by = row["fit"], float("nan"), ""
        about = {"model": f.model, "precision": f.recipe.precision, "output_stride": f.output_stride}
        if f.id in done:
            minutes, by = done[f.id], "measured"
        elif known := like.get(_kind(f)):
            minutes, by = _epochs(f) * sum(known) / len(known), "epochs of such fits"
        elif costs is not None and len(cost := costs[(costs[list(about)] == pd.Series(about)).all(axis=1)]):
            hundreds = slices * (1 - f.split.test_fraction) * (1 - f.split.validation_fraction) / 100
            area = (f.preprocessing.image_size / cost["image_size"].iloc[0]) ** 2
            minutes, by = _epochs(f) * hundreds * area * cost["fit_seconds_per_100"].iloc[0] / 60, "cost.csv"
        rows.append((f.id, f.title, what_for(row), "done" if f.id in done else "to do", round(minutes, 1), by))
    return pd.DataFrame(rows, columns=["id", "fit", "what_for", "state", "minutes", "by"])


def what_for(row: pd.Series) -> str:
    """Say what a row of a plan is fitted for, and what tells it from others of its kind: fits of several have one title."""
    return " ".join(filter(None, (row["purpose"], row["factor"], row["value"])))


def outlook_in_words(table: pd.DataFrame) -> str:
    """Say how many fits `outlook` lists, how many are to do, and how long these take."""
    todo = table[table["state"] == "to do"]
    text = f"{len(table)} fits, {len(todo)} to do"
    if len(todo) > (unknown := int(todo["minutes"].isna().sum())):
        text += f": {todo['minutes'].sum() / 60:.1f} hours one after the other"
    if unknown:
        text += f"; {unknown} of models never timed here (`python -m benchmarks bench cost` times them)"
    return text


def _kind(fit: Fit) -> tuple[str, int, str, int, bool]:
    """What an epoch's time depends on most."""
    guided = bool(fit.recipe.cam_loss or fit.recipe.erase)
    return fit.model, fit.preprocessing.image_size, fit.recipe.precision, fit.output_stride, guided


def _epochs(fit: Fit) -> float:
    """Epochs at full size: smaller slices cost by their pixels; a stage of the head alone computes its features once."""
    size = fit.preprocessing.image_size
    return sum(
        1 if stage.unfreeze == "head" else stage.epochs * (stage.size_of(size) / size) ** 2
        for stage in fit.recipe.stages
    )


def seeds_of(study: params.Study, protocol: str) -> list[int]:
    """Return the seeds that the study repeats a protocol with."""
    return next(p.seeds for p in study.protocols if p.protocol == protocol)


def pairs_of(study: params.Study, protocols: params.Protocols) -> list[tuple[int, int]]:
    """Return every (seed, fold) of a protocol that the study fits."""
    folds = protocols.folds
    if folds is None:
        listed = next((p.folds for p in study.protocols if p.protocol == protocols.protocol), None)
        folds = listed if listed is not None else list(splits.folds_of(protocols.protocol, study.split))
    return [(seed, fold) for seed in protocols.seeds for fold in folds]


@dataclass(frozen=True)
class Run:
    """A finished fit: a folder of fit.json, model.keras, history.csv, predictions.csv and, written last, provenance.json."""

    fit: Fit
    at: Path | None = None
    """Where it lies, if not under runs/."""

    @property
    def id(self) -> str:
        return self.fit.id

    @property
    def folder(self) -> Path:
        return self.at or home() / "runs" / self.id

    def model(self):
        """Load the fitted keras.Model; DataError where it was not brought here with the run, or is not safe to load."""
        import keras

        path = self.folder / "model.keras"
        if not path.exists():
            raise DataError(f"{path}: not kept with this run; remove its folder to fit it again")
        try:
            return keras.models.load_model(path, compile=False, safe_mode=True)
        except Exception as error:  # Keras raises nearly anything for a damaged or forbidden file
            reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
            raise DataError(
                f"{path}: no model that can be loaded safely ({reason}); remove its folder to fit it again"
            ) from None

    def history(self) -> pd.DataFrame:
        """One row an epoch: stage, epoch, loss, accuracy, val_loss, val_accuracy, seconds, learning_rate (at its start).

        stage says which, and what it fits on what: "2 = all layers, 160 px".
        """
        table = pd.read_csv(self.folder / "history.csv")
        size = self.fit.preprocessing.image_size
        names = [f"{k} = {s.in_words(size)}" for k, s in enumerate(self.fit.recipe.stages, start=1)]
        return table.assign(stage=table["stage"].map(dict(enumerate(names))))

    def predictions(self, role: str | None = None) -> pd.DataFrame:
        """One row a slice of a role ("validation" or "test"), or of both: image_id, role, label, patient_id, patient_group,
        plane, the logits."""
        text = ("image_id", "role", "label", "patient_id", "patient_group", "plane")
        table = pd.read_csv(self.folder / "predictions.csv", dtype=dict.fromkeys(text, str), keep_default_na=False)
        return table if role is None else table[table["role"] == role].reset_index(drop=True)

    def provenance(self) -> dict:
        """Where, when and with what it was fitted."""
        return json.loads((self.folder / "provenance.json").read_text(encoding="utf-8"))


def load(fit: Fit) -> Run | None:
    """Return the run of a fit if it is finished, else None; DataError where the folder of its id holds another's run."""
    run = Run(fit)
    if not (run.folder / "provenance.json").exists():
        return None
    path = run.folder / "fit.json"
    try:
        same = json.loads(path.read_text(encoding="utf-8")) == json.loads(fit.model_dump_json())
    except (OSError, ValueError):
        same = False
    if not same:
        raise DataError(
            f"{path}: is not of the fit that its folder is named for ({fit.title}); allowed: a run as this code leaves it. "
            "Remove the folder to fit it again"
        )
    return run


def read(folder: Path) -> Run:
    """Return the finished run that lies in a folder; DataError where it holds none of this version of the code."""
    for name in ("fit.json", "predictions.csv", "provenance.json"):
        if not (folder / name).is_file():
            raise DataError(f"{folder}: holds no {name}; a finished run has one")
    try:
        return Run(Fit.model_validate_json((folder / "fit.json").read_bytes()), folder)
    except ValueError as error:
        reason = "; ".join(str(error).splitlines()[1:3]) or error
        raise DataError(f"{folder / 'fit.json'}: not written by this version of the code ({reason})") from None


@contextmanager
def claim(fit: Fit) -> Iterator[Path]:
    """Hold a fit while other processes wait, and yield the folder to fit in, with what a killed process left; see `finish`."""
    folder = home() / "runs"
    # Lock files stay: the system frees the lock of a killed process, and removing the file would let two hold it.
    (folder / ".locks").mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".locks" / fit.id):
        partial = folder / f".{fit.id}"
        partial.mkdir(exist_ok=True)
        for left in partial.glob(".*"):  # a killed process's temporary files; none is being written, the lock is ours
            left.unlink()
        try:
            yield partial
        finally:
            if partial.exists() and not any(partial.iterdir()):  # another process had finished the fit
                partial.rmdir()


def finish(fit: Fit, partial: Path, provenance: dict) -> Run:
    """Write the provenance and put the whole folder in its place at once."""
    files.write_text(partial / "fit.json", fit.model_dump_json(indent=1) + "\n")
    files.write_text(partial / "provenance.json", json.dumps(provenance, indent=1, sort_keys=True) + "\n")
    run = Run(fit)
    if run.folder.exists():  # without provenance.json: not a run of ours, or one whose end was lost
        shutil.rmtree(run.folder)
    os.replace(partial, run.folder)
    return run


def machine() -> dict:
    """Return the hardware and the versions that a result may depend on."""
    import keras

    backend = keras.config.backend()
    packages = ("keras", "tensorflow", "numpy", "h5py", "pillow", "keras-cv", "keras-hub", "scikit-learn")
    return {
        "hardware": _device(backend),
        "cores": os.cpu_count(),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "backend": backend,
        "versions": {p: _version(p) for p in dict.fromkeys((*packages, backend))},
        "commit": commit(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:
        return "not installed"


def commit() -> str:
    """Return the commit that the code is at, with "+changes" where files differ from it; "unknown" outside git."""
    if "BTLIB_COMMIT" in os.environ:
        return os.environ["BTLIB_COMMIT"]
    root = Path(__file__).resolve().parents[2]

    def git(*words):
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "btlib", "benchmarks", "params", "notebooks", "Snakefile")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _device(backend: str) -> str:
    if backend == "jax":
        import jax

        found = jax.devices()[0]
        return processor() if found.platform == "cpu" else found.device_kind
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(found[0]).get("device_name", "GPU") if found else processor()


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
