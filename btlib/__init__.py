"""Brain tumour classification study: the code behind the notebooks."""

import os
import sys
from pathlib import Path

__version__ = "0.1.0"

CLASSES = ("meningioma", "glioma", "pituitary")
"""The study's three classes, in the order of Figshare's labels 1, 2, 3 and of every model's logits."""

NO_TUMOR = "no_tumor"
"""Label of slices without a tumour; an external set may have them, no model is trained on them."""


# TensorFlow writes its start-up notes to stderr, where a notebook's warnings must stand out.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


class DataError(ValueError):
    """A file or folder of data cannot be used; the message names it, says what was found and what is allowed."""


class ParamsError(ValueError):
    """A parameter file cannot be used; the message names the key, what was given and what is allowed."""


class WeightsError(RuntimeError):
    """Pretrained weights cannot be had; the message names the file, its checksum and where to put it."""


def watched() -> bool:
    """Say whether somebody sees progress bars: in JupyterLab or a terminal, not in papermill's notebooks or a log."""
    if "ipykernel" in sys.modules:
        return "JPY_SESSION_NAME" in os.environ
    return sys.stderr is not None and sys.stderr.isatty()


def home() -> Path:
    """Return the folder that holds params/, data/, runs/ and reports/: $BTLIB_HOME, or the repository."""
    return Path(os.environ.get("BTLIB_HOME") or Path(__file__).resolve().parent.parent)
