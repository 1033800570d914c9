"""A fitted model as files for others: the .keras file, the facts beside it and its card."""

import json
import re
import zipfile
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field
from scipy import special

from btlib import DataError, files, home, params, shipped
from btlib.deploy import card
from btlib.fitting import runs
from btlib.study import results

MODEL, FACTS, CARD = "model.keras", "model.json", "README.md"
"""What a folder published/<name>/ holds."""

MAX_BYTES = 20 * 2**20
"""A published model lies in the repository, so it must be small."""


class Facts(params.Section):
    """What predicting needs and a .keras file does not say; kept beside it as JSON, model.json for model.keras.

    name: what the model is called.
    data: the slices that it was fitted on, in words.
    classes: in the order of the logits, two or more.
    preprocessing: how a slice becomes the picture that it is given.
    temperature: what its logits are divided by before softmax, fitted on slices that it did not learn from
        (`card.calibrated_on`) or given by whoever published it; None: not calibrated.
    energy: log of the sum of exp(logits) below which a slice is unlike the held-out ones; None: not known.
    """

    name: str
    data: str
    classes: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2)]
    preprocessing: params.Preprocessing
    temperature: Annotated[float, Field(gt=0)] | None
    energy: float | None


def find(name: str) -> Path:
    """Return the .keras file of a name: a path, else a run of runs/, else a model of published/.

    Raises:
        DataError: there is none; the message lists the published models and the runs.
    """
    path = Path(name)
    if path.is_file() and path.suffix == ".keras":
        return path
    for folder in (path, home() / "runs" / name, *(shelf / name for shelf in _shelves())):
        if folder.is_dir():
            if not (folder / MODEL).is_file():
                raise DataError(f"{folder}: holds no {MODEL}; allowed: a run, a published model, a .keras file")
            return folder / MODEL
    published = sorted({p.parent.name for shelf in _shelves() for p in shelf.glob(f"*/{MODEL}")})
    fitted = sorted(p.parent.name for p in (home() / "runs").glob(f"[!.]*/{MODEL}"))
    raise DataError(
        f"{name}: no such model; published: {', '.join(published) or 'none'}; runs: {', '.join(fitted) or 'none'}; "
        "or the path of a .keras file"
    )


def _shelves() -> tuple[Path, ...]:
    """Folders of published models: one's own, and those that came with the code."""
    return (home() / "published", shipped() / "published")


def open_model(name: str) -> tuple:
    """Load the model that `find` finds; Keras's safe mode stays on, so no code that a file carries is run.

    Returns:
        keras.Model, its `Facts`, and what has to be said about them, a list of sentences.

    Raises:
        DataError: there is no such model, it cannot be loaded safely, or it has other logits than its facts have classes.
    """
    path = find(name)
    model = _load(path)
    given = model.input_shape
    if len(model.inputs) != 1 or len(given) != 4 or given[1] != given[2] or given[3] != 1 or given[1] is None:
        raise DataError(f"{path}: takes {given}; allowed: (None, S, S, 1)")
    facts, said = _facts_beside(path, given[1])
    if model.output_shape != (None, len(facts.classes)):
        raise DataError(
            f"{path}: gives {model.output_shape}; allowed: (None, {len(facts.classes)}), the logits of "
            f"{', '.join(facts.classes)}; {path.with_suffix('.json').name} beside it may name other classes"
        )
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
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: cannot be loaded as a Keras model{_origin(path)}: {_ends(reason)}") from None


def _origin(path: Path) -> str:
    """Say which Keras saved a file and which one reads it, where these differ."""
    import keras

    try:
        with zipfile.ZipFile(path) as archive:
            saved = str(json.loads(archive.read("metadata.json"))["keras_version"])
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, NotImplementedError):
        return ""
    if saved == keras.__version__:
        return ""
    return f" (saved by Keras {saved}, read by Keras {keras.__version__}; pip install 'keras=={saved}')"


def _ends(text: str, most: int = 500) -> str:
    """A long message's beginning and end: Keras says first what it read, and the reason last."""
    return text if len(text) <= 2 * most else f"{text[:most]} ... {text[-most:]}"


def _facts_beside(path: Path, image_size: int) -> tuple[Facts, list[str]]:
    beside = path.with_suffix(".json")
    if beside.is_file():
        try:
            facts = Facts.model_validate_json(beside.read_bytes())
        except ValueError as error:
            raise DataError(f"{beside}: {'; '.join(str(error).splitlines()[1:3])}") from None
        if len(set(facts.classes)) < len(facts.classes):
            raise DataError(f"{beside}: classes are {', '.join(facts.classes)}; allowed: each once")
        return facts, []
    if path.name == MODEL and (path.parent / "fit.json").is_file():
        return facts_of(runs.read(path.parent)), []
    quick = params.load("quick")
    prepared = quick.preprocessing.model_copy(update={"image_size": image_size})
    facts = {"name": path.stem, "data": "unknown slices", "classes": quick.classes, "preprocessing": prepared}
    return Facts(**facts, temperature=None, energy=None), [
        f"no {beside.name} beside it: slices are prepared as params/quick.yaml says, and its classes are taken to be "
        f"{', '.join(quick.classes)}, in this order"
    ]


def facts_of(run: runs.Run, name: str | None = None, temperature: float | None = None) -> Facts:
    """Return a run's facts, from its parameters and its predictions.

    Where there are no slices to fit a temperature on, or every one is right, there is none but the given one. The limit of
    the energy is that of all held-out slices, of validation and test.

    Args:
        run: finished.
        name: None for "<model>, run <id>".
        temperature: to be used in place of the fitted one, above 0.
    """
    _, logits, _ = results.truth(run.predictions())
    known = special.logsumexp(logits, axis=1) if len(logits) else logits
    return Facts(
        name=name or f"{run.fit.model}, run {run.id}",
        data=card.said_of(run),
        classes=run.fit.classes,
        preprocessing=run.fit.preprocessing,
        temperature=temperature or card.fitted_temperature(run),
        energy=round(float(np.percentile(known, card.PERCENTILE)), 6) if len(known) else None,
    )


def write(run: runs.Run, name: str, temperature: float | None = None) -> Path:
    """Write published/<name>/, and return it: the model without its optimizer, its facts and its card.

    Args:
        run: finished; its accuracy goes into the card.
        name: lower-case letters, digits, "-" and "_".
        temperature: as for `facts_of`.

    Raises:
        DataError: the name is no such name, the temperature is none, or the model is larger than `MAX_BYTES`; nothing is
            written then.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise DataError(f"--publish: got {name!r}; allowed: lower-case letters, digits, - and _")
    if temperature is not None and not 0 < temperature < np.inf:
        raise DataError(f"--temperature: got {temperature:g}; allowed: a number above 0")
    folder = home() / "published" / name
    facts = facts_of(run, name, temperature)
    model = _load(run.folder / MODEL)
    with files.replacing(folder / MODEL) as temporary:
        model.save(temporary)
        if (size := temporary.stat().st_size) > MAX_BYTES:
            raise DataError(f"{run.folder}: its model takes {size:,} bytes; allowed for a published one: {MAX_BYTES:,}")
    files.write_text(folder / FACTS, facts.model_dump_json(indent=1) + "\n")
    files.write_text(folder / CARD, card.write(run, facts))
    return folder
