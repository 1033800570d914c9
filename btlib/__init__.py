"""Brain tumour classification study: the code behind the notebooks."""

import json
import logging
import os
import sys
from pathlib import Path

__version__ = "0.1.0"


class DataError(ValueError):
    """A file or folder of data cannot be used; the message names it, says what was found and what is allowed."""


class ParamsError(ValueError):
    """A parameter file cannot be used; the message names the key, what was given and what is allowed."""


class WeightsError(RuntimeError):
    """Pretrained weights cannot be had; the message names the file, its checksum and where to put it."""


class PlaceError(RuntimeError):
    """The code that runs is not that of the project that it is run in; the message names both folders."""


def watched() -> bool:
    """Say whether somebody sees progress bars: in JupyterLab or a terminal, not in papermill's notebooks or a log."""
    if "ipykernel" in sys.modules:
        return "JPY_SESSION_NAME" in os.environ
    return sys.stderr is not None and sys.stderr.isatty()


def repository() -> Path | None:
    """Return the repository that this code lies in; None where it was installed without one."""
    folder = Path(__file__).resolve().parent.parent
    return folder if _is_project(folder) else None


def shipped() -> Path:
    """Return the folder that holds params/ and published/ as this code came with them: the repository's, or pip's copy."""
    if folder := repository():
        return folder
    from importlib import metadata

    base = next(file for file in metadata.files("btlib") if file.match("share/btlib/params/base.yaml"))
    return Path(base.locate()).resolve().parents[1]


def home() -> Path:
    """Return the folder of data/, runs/ and reports/: $BTLIB_HOME, else the repository, else the current folder.

    Raises:
        PlaceError: the current folder lies in another project with code of its own (a copy whose environment still runs the
            original): results would go from the one into the other.
    """
    current = Path.cwd()
    project = next((folder for folder in (current, *current.parents) if _is_project(folder)), None)
    code = Path(__file__).resolve().parent
    if project is not None and (project / "btlib").resolve() != code:
        raise PlaceError(
            f"{project}: is a project with code of its own, but this is the code of {code}; remove {project / '.venv'} and "
            "run make there, which sets it up anew, or work outside of that folder"
        )
    return Path(os.environ.get("BTLIB_HOME") or repository() or current)


def _is_project(folder: Path) -> bool:
    return all((folder / name).exists() for name in ("pyproject.toml", "params/base.yaml", "btlib/__init__.py"))


def _settle_keras() -> None:
    """Keep a person's keras.json (channels first, half precision, another backend) out of the study; refuse backends untried."""
    keras = sys.modules.get("keras")
    backend = keras.config.backend() if keras else os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend not in ("tensorflow", "jax"):
        raise ParamsError(f"KERAS_BACKEND: got {backend!r}; allowed: tensorflow, jax, or nothing")
    if keras:
        keras.config.set_floatx("float32")
        keras.config.set_image_data_format("channels_last")
        return
    folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        settings = json.loads((folder / "keras.json").read_text(encoding="utf-8"))
        usual = {"floatx": "float32", "image_data_format": "channels_last"}
        odd = any(settings.get(key, value) != value for key, value in usual.items())
    except (OSError, ValueError, AttributeError):
        return
    if odd:  # Keras reads these from its file alone
        os.environ["KERAS_HOME"] = str(folder / "btlib")


# TensorFlow writes its start-up notes to stderr, where a notebook's warnings must stand out.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# It leaves oneDNN's kernels off where the processor has no AVX-512; with them a guided step takes two thirds of its time there.
# (bfloat16, which such a processor only imitates, is several times as slow with them; no profile uses it.)
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# It warns of traced functions with their addresses, which no second run repeats; a study traces a model a fold.
logging.getLogger("tensorflow").setLevel(logging.ERROR)
_settle_keras()
