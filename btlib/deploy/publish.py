"""A fitted model as files for others: the .keras file, the facts beside it, its model card, ONNX."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from btlib import CLASSES, DataError, files, home, params
from btlib.fitting import runs
from btlib.scores import metrics
from btlib.study import results, tables

MODEL, FACTS, CARD = "model.keras", "model.json", "README.md"
"""What a folder published/<name>/ holds."""

MAX_BYTES = 20 * 2**20
"""A published model lies in the repository, so it must be small."""

PERCENTILE = 1
"""A slice is called unlike the training slices if its energy is below this percentile of the held-out slices'."""

ROOT = Path(__file__).resolve().parents[2]
LICENCES = {"figshare": "CC BY 4.0 (doi 10.6084/m9.figshare.1512427)", "phantom": "none needed; made up on the spot"}


class Facts(params.Section):
    """What predicting needs and a .keras file does not say; kept beside it as JSON, model.json for model.keras.

    name: what the model is called.
    data: the slices that it was fitted on, in words.
    classes: in the order of the logits.
    preprocessing: how a slice becomes the picture that it is given.
    temperature: what its logits are divided by before softmax, fitted on its validation slices; None: not calibrated.
    energy: log of the sum of exp(logits) below which a slice is unlike the held-out ones; None: not known.
    """

    name: str
    data: str
    classes: list[str]
    preprocessing: params.Preprocessing
    temperature: float | None
    energy: float | None


def find(name: str) -> Path:
    """Return the .keras file of a run (its folder or id), of a published model (its folder or name), or as given.

    Args:
        name: looked up as a path first, then in runs/, then in published/.

    Raises:
        DataError: there is none; the message lists the published models and the runs.

    Used by `open_model`.
    """
    path = Path(name)
    if path.is_file() and path.suffix == ".keras":
        return path
    for folder in (path, home() / "runs" / name, *(root / "published" / name for root in (home(), ROOT))):
        if folder.is_dir():
            if not (folder / MODEL).is_file():
                raise DataError(f"{folder}: holds no {MODEL}; allowed: a run, a published model, a .keras file")
            return folder / MODEL
    published = sorted({p.parent.name for root in (home(), ROOT) for p in (root / "published").glob(f"*/{MODEL}")})
    fitted = sorted(p.parent.name for p in (home() / "runs").glob(f"[!.]*/{MODEL}"))
    raise DataError(
        f"{name}: no such model; published: {', '.join(published) or 'none'}; runs: {', '.join(fitted) or 'none'}; "
        "or the path of a .keras file"
    )


def open_model(name: str) -> tuple:
    """Load a model with its facts; Keras's safe mode stays on, so no code that a file carries is run.

    Args:
        name: as for `find`.

    Returns:
        keras.Model, its `Facts`, and what has to be said about them, a list of sentences.

    Raises:
        DataError: there is no such model, it cannot be loaded safely, or it is no model of this study's classes.

    Used by `python -m btlib predict` and `export`.
    """
    path = find(name)
    model = _load(path)
    given = model.input_shape
    if len(model.inputs) != 1 or len(given) != 4 or given[1] != given[2] or given[3] != 1 or given[1] is None:
        raise DataError(f"{path}: takes {given}; allowed: (None, S, S, 1)")
    if model.output_shape != (None, len(CLASSES)):
        raise DataError(f"{path}: gives {model.output_shape}; allowed: (None, {len(CLASSES)}), the logits of {CLASSES}")
    facts, said = _facts_beside(path, given[1])
    if facts.preprocessing.image_size != given[1]:
        raise DataError(f"{path}: takes {given[1]} pixels; the facts beside it say {facts.preprocessing.image_size}")
    if facts.temperature is None:
        said.append("its probabilities are not calibrated")
    if facts.energy is None:
        said.append("slices unlike its training slices are not recognised, but for coloured pictures")
    return model, facts, said


def _load(path: Path):
    import keras

    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    # A damaged or hostile file raises whatever the loader stumbles over.
    except Exception as error:
        if "lambda" in str(error).lower():
            raise DataError(
                f"{path}: holds code of its own (a Lambda layer), which is not run; allowed: Keras's own layers"
            ) from None
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: cannot be loaded as a Keras model ({reason})") from None


def _facts_beside(path: Path, image_size: int) -> tuple[Facts, list[str]]:
    beside = path.with_suffix(".json")
    if beside.is_file():
        try:
            facts = Facts.model_validate_json(beside.read_bytes())
        except ValueError as error:
            raise DataError(f"{beside}: {'; '.join(str(error).splitlines()[1:3])}") from None
        if facts.classes != list(CLASSES):
            raise DataError(f"{beside}: classes are {', '.join(facts.classes)}; allowed: {', '.join(CLASSES)}")
        return facts, []
    if path.name == MODEL and (path.parent / "fit.json").is_file():
        return facts_of(runs.read(path.parent)), []
    prepared = params.load("quick").preprocessing.model_copy(update={"image_size": image_size})
    facts = Facts(
        name=path.stem,
        data="unknown slices",
        classes=list(CLASSES),
        preprocessing=prepared,
        temperature=None,
        energy=None,
    )
    return facts, [f"no {beside.name} beside it: slices are prepared as params/quick.yaml says"]


def facts_of(run: runs.Run, name: str | None = None) -> Facts:
    """Return a run's facts, from its parameters and its predictions.

    Where every validation slice is right no temperature can be fitted, and there is none.

    Args:
        run: finished.
        name: None for "<model>, run <id>".
    """
    y, logits, _ = results.truth(run.predictions("validation"))
    fitted = len(y) and bool((logits.argmax(1) != y).any())
    known = metrics.known_scores(results.truth(run.predictions())[1])["energy"]
    return Facts(
        name=name or f"{run.fit.model}, run {run.id}",
        data=_said_of(run),
        classes=list(CLASSES),
        preprocessing=run.fit.preprocessing,
        temperature=round(metrics.fit_temperature(logits, y), 6) if fitted else None,
        energy=round(float(np.percentile(known, PERCENTILE)), 6) if len(known) else None,
    )


def write(run: runs.Run, name: str) -> Path:
    """Write published/<name>/: the model without its optimizer, its facts and its card.

    Args:
        run: finished; its accuracy goes into the card.
        name: lower-case letters, digits, "-" and "_".

    Returns:
        The folder.

    Raises:
        DataError: the name is no such name, or the model is larger than `MAX_BYTES`; nothing is written then.

    Used by `python -m btlib export`.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise DataError(f"--publish: got {name!r}; allowed: lower-case letters, digits, - and _")
    folder = home() / "published" / name
    model, facts = _load(run.folder / MODEL), facts_of(run, name)
    with files.replacing(folder / MODEL) as temporary:
        model.save(temporary)
        if (size := temporary.stat().st_size) > MAX_BYTES:
            raise DataError(f"{run.folder}: its model takes {size:,} bytes; allowed for a published one: {MAX_BYTES:,}")
    files.write_text(folder / FACTS, facts.model_dump_json(indent=1) + "\n")
    files.write_text(folder / CARD, card(run, facts))
    return folder


def onnx(model, facts: Facts, path: Path) -> None:
    """Write a model as ONNX: from "image", float32 (batch, S, S, 1) of 0 to 255, to "logits" (batch, 3).

    Args:
        model: as `open_model` returns it, of float32 layers.
        facts: go into the file's metadata as JSON, under the key "btlib".
        path: the file, ending in .onnx.

    Raises:
        DataError: another ending, tf2onnx is not installed, or the model computes in mixed precision.

    Used by `python -m btlib export`.
    """
    import keras

    if path.suffix != ".onnx":
        raise DataError(f"{path}: ends in {path.suffix!r}; allowed: .onnx")
    mixed = sorted({x.compute_dtype for x in model.layers} - {"float32"})
    if mixed:
        raise DataError(f"{facts.name}: computes in {', '.join(mixed)}; allowed for ONNX: float32")
    try:
        import onnx as format_
        import tf2onnx  # noqa: F401  (Keras's exporter needs it)
    except ImportError as error:
        raise DataError(f"{path}: {error.name} is not installed: pip install -e '.[onnx]'") from None
    # A loaded model counts as never called, so Keras has to be told what it takes.
    taken = keras.InputSpec(shape=(None, *model.input_shape[1:]), dtype="float32", name="image")
    with files.replacing(path) as temporary:
        model.export(temporary, format="onnx", verbose=False, input_signature=[taken])
        made = format_.load(temporary)
        _rename(made.graph, "logits")
        format_.helper.set_model_props(made, {"btlib": facts.model_dump_json()})
        format_.checker.check_model(made)
        format_.save(made, temporary)


def _rename(graph, output: str) -> None:
    """Give an ONNX graph's one output and the batch dimension names of ours."""
    old = graph.output[0].name
    graph.output[0].name = output
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [output if n == old else n for n in names]
    for value in (graph.input[0], graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


def card(run: runs.Run, facts: Facts) -> str:
    """Write a model card from a run's own numbers: Markdown with the front matter that Hugging Face reads.

    Args:
        run: finished.
        facts: of it.

    Used by `write`.
    """
    fit, made, study = run.fit, run.provenance(), _study_of(run)
    test = run.predictions("test")
    y, logits, patients = results.truth(test)
    statistics = (study or params.load("figshare")).statistics
    p = metrics.softmax(logits)
    resamples = metrics.Resamples(patients, statistics.bootstrap, statistics.level, fit.seed)
    scores = metrics.intervals(y, p, results.classes_of(test), resamples).set_index("score")
    wanted = ["accuracy", "balanced_accuracy", "precision", "recall", "f1", "auc", *(f"recall_{c}" for c in CLASSES)]
    scores = scores.loc[[s for s in wanted if s in scores.index]]
    table = pd.DataFrame(
        [(s.replace("_", " "), results.percent(*r)) for s, r in zip(scores.index, scores.to_numpy(), strict=True)],
        columns=["score on the test slices", f"value ({100 * statistics.level:g} % interval over patients)"],
    )
    right = int((p.argmax(1) == y).sum())
    source = study.data.source if study else "unknown"
    front = {
        "license": "apache-2.0",
        "language": ["en"],
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["medical", "mri", "brain-tumor", *(["made-up-data"] if source == "phantom" else [])],
        "metrics": ["accuracy", "f1"],
        "model-index": [
            {
                "name": facts.name,
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {"name": f"{facts.data}, {fit.protocol} fold {fit.fold}, test", "type": source},
                        "metrics": [
                            {"type": m, "value": round(float(scores.loc[m, "value"]), 6)} for m in ("accuracy", "f1")
                        ],
                    }
                ],
            }
        ],
    }
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# {facts.name}",
        "",
        "**Not a medical device; for research only.** Nothing that it gives is fit for diagnosis or treatment.",
        "",
        *(["**Fitted on made-up slices: it says nothing about patients.**", ""] if source == "phantom" else []),
        f"Tells {len(CLASSES)} kinds of brain tumour apart on single MR slices: {', '.join(CLASSES)}. {made['title']}; "
        f"{made['parameters']:,} parameters, {made['macs']:,} multiply-adds a slice of {fit.preprocessing.image_size} "
        "pixels.",
        "",
        "## Intended use",
        "",
        "- To check and to compare published claims about such classifiers; to try explanation, calibration and audits.",
        "- Not for patients, not for screening, and not for slices without a tumour: it always names one of its classes.",
        "",
        "## Data",
        "",
        f"- {facts.data}, fingerprint {fit.data}. Licence: {LICENCES.get(source, 'that of the data, which is not known')}.",
        f"- {made['n_train']} slices to fit, {made['n_validation']} to validate, {made['n_test']} to test; split: "
        f"{fit.protocol}, fold {fit.fold}, seed {fit.seed}.",
        *(
            ["- Slices were split at random: patients of the test slices were seen in training. Expect less on others."]
            if fit.protocol.startswith("image_")
            else []
        ),
        "",
        "## Scores",
        "",
        f"{right} of {len(y)} test slices right.",
        "",
        table.to_markdown(index=False),
        "",
        *_elsewhere(run, study),
        "## Probabilities and warnings",
        "",
        (
            f"- Logits are divided by {facts.temperature:.4f} before softmax, fitted on the validation slices. Calibration "
            f"error (ECE) on the test slices: {100 * metrics.ece(y, p):.1f} points before, "
            f"{100 * metrics.ece(y, metrics.softmax(logits / facts.temperature)):.1f} after."
            if facts.temperature
            else "- Not calibrated: every validation slice was right, so no temperature could be fitted."
        ),
        f"- `predict` warns where the energy, log of the sum of exp(logits), is below {facts.energy:.3f}, as it is for "
        f"{PERCENTILE} of 100 held-out slices, and where a picture is coloured. No warning is no proof: most slices "
        "without a tumour, and of other sequences, look familiar to such a test.",
        "",
        "## Limits",
        "",
        *_limits(source),
        "## How it was fitted",
        "",
        f"{made['fit_seconds']:.0f} s on {made['hardware']} ({made['cores']} cores), Keras {made['versions']['keras']} on "
        f"{made['backend']}, commit {made['commit']}. All parameters:",
        "",
        "```json",
        fit.model_dump_json(indent=1),
        "```",
        "",
        "## How to use it",
        "",
        f"    python -m btlib predict {facts.name if ',' not in facts.name else run.id} SLICE.png",
        "",
        "## Cite",
        "",
        "`CITATION.cff` of this repository names the study, the paper that it reproduces and the data.",
        "",
    ]
    return "\n".join(lines)


def _study_of(run: runs.Run) -> params.Study | None:
    """The study that a run belongs to, by the reports that are kept; None where none names its data."""
    for path in sorted((home() / "reports").glob("*/provenance.json")):
        about = json.loads(path.read_text(encoding="utf-8"))
        if run.fit.data in [d["fingerprint"] for d in about["data"] if d["name"] == "data"]:
            return params.check(about["parameters"], str(path))
    return None


def _said_of(run: runs.Run) -> str:
    study = _study_of(run)
    return results.said_of(study.data) if study else "slices that no report here names"


def _elsewhere(run: runs.Run, study: params.Study | None) -> list[str]:
    """Say how the study's proposed model does on its external sets; nothing for any other run."""
    if study is None or not study.external:
        return []
    seed = study.comparison.seeds[0]
    if runs.fit_of(study, run.fit.data, study.proposed, study.comparison.protocol, 0, seed) != run.fit:
        return []
    found = tables.read(study.profile, "cross_dataset").query("slices == 'clean' and augmentation == 'none' and n > 0")
    return [
        f"On {r.n} slices of {results.said_of(study.external[r.set])} that are no copies of its own: accuracy "
        f"{results.percent(r.accuracy, r.accuracy_low, r.accuracy_high)}.\n"
        for r in found.itertuples()
    ]


def _limits(source: str) -> list[str]:
    """The report's limitations that touch a model: of its data where these are Figshare's, and of the task."""
    text = (ROOT / "btlib" / "site" / "limitations.md").read_text(encoding="utf-8")
    wanted = ["The data", "The task"] if source == "figshare" else ["The task"]
    parts = (re.search(rf"^## {w}\n\n(.*?)(?=^## )", text, re.M | re.S) for w in wanted)
    bullets = [bullet for part in parts for bullet in part[1].strip().splitlines()]
    return [b for b in bullets if not b.startswith("- **Made-up slices")] + [""]
