"""From picture files to classes: each file is answered or refused by itself, and a strange picture is warned of."""

import math
import os
import re
import stat
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import special

from btlib import DataError, files
from btlib.data import figshare, folders, preprocessing
from btlib.deploy import publish, volumes
from btlib.deploy.volumes import Slice
from btlib.figures import gradcam as figures
from btlib.fitting import batches
from btlib.scores import gradcam

DICOM, NIFTI, MATLAB = (".dcm", ".dicom"), (".nii", ".nii.gz"), (".mat",)
ENDINGS = (*folders.ENDINGS, *DICOM, *NIFTI, *MATLAB)
KINDS = "picture, DICOM, NIfTI or Figshare slice"
INDEXES = ("dicomdir",)
"""Names, in small letters, of files that list others."""

MAX_BYTES = 2**30
SIDES = 16, 8000
"""Least and most pixels that a side may have; preprocessing pads a slice to a square of its longer side."""

BLOCK = 64
"""Most slices that are read and answered at a time."""

TINT = 4.0
"""A picture is called coloured if red, green and blue differ by more than this on average, of 255. Greyscale pictures
that JPEG stored in colour lie below 1, photographs above 20."""

WIDTH = 80
"""Columns of a terminal that a line of `line` fits into, but for long names."""


def columns(classes: Sequence[str]) -> list[str]:
    """Return the keys of what `classify` yields, in order."""
    return ["file", "class", *(f"p_{c}" for c in classes), "energy", "warning", "error", "gradcam"]


def classify(model, facts: publish.Facts, names: Sequence[str], overlays: Path | None = None) -> Iterator[dict]:
    """Classify the slices in some files, a bad file being one row with an error.

    A warning says that the picture is coloured (its tint is above `TINT`), that the logits' energy is below that of
    all but 1 of 100 held-out slices, or what `read` found odd. It cannot say that a slice is one of the classes: notebook
    06 measures how well energy tells slices without a tumour, and it is not well.

    Args:
        model, facts: as `publish.open_model` returns them.
        names: as `expand` returns them.
        overlays: folder for Grad-CAM pictures, <number>_<file's name>.png, or None.

    Yields:
        Dicts with the keys `columns`, in the order of `names`: class and calibrated probabilities or an error, one
        line; numbers are None and words empty where there is nothing to say.
    """
    empty = dict.fromkeys(columns(facts.classes)) | dict.fromkeys(("warning", "error", "gradcam"), "")
    blocks = max(1, math.ceil(len(names) / BLOCK))
    size = math.ceil(len(names) / blocks) or 1  # of one size, as the model computes what the last lacks as well
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(names), size):
            block = names[start : start + size]
            results = list(pool.map(lambda name: _prepared(name, facts), block))
            pictures = [result.pixels for result in results if isinstance(result, Slice)]
            answers = iter(_answers(model, facts, np.stack(pictures), size) if pictures else [])
            for number, (name, result) in enumerate(zip(block, results, strict=True), start + 1):
                row = empty | {"file": plain(name)}
                if isinstance(result, DataError):
                    yield row | {"error": " ".join(str(result).split())}
                    continue
                row |= next(answers)
                row["warning"] = "; ".join(_warnings(row["energy"], result, facts))
                if overlays is not None:
                    row["gradcam"] = _overlay(
                        model, facts, result.pixels, row, overlays / f"{number:04d}_{_stem(name)}.png"
                    )
                yield row


def expand(names: Sequence[str]) -> tuple[list[str], int]:
    """Put a folder's files, at any depth and sorted, in its place; a folder without any stays and is an error later.

    Args:
        names: files and folders; a NIfTI file may be given as "file.nii.gz:42".

    Returns:
        What has to be read or refused by name; and how many files and folders were passed over: hidden ones, those that
        systems leave (`files.is_stray`), texts and indexes.
    """
    listed, passed_over = [], 0
    for name in names:
        inside = []
        for folder, subfolders, leaves in os.walk(name):
            links = [sub for sub in subfolders if os.path.islink(os.path.join(folder, sub))]
            kept = [leaf for leaf in (*leaves, *links) if not _is_aside(leaf)]
            walked = [sub for sub in subfolders if not files.is_stray(sub)]
            passed_over += len(leaves) + len(links) - len(kept) + len(subfolders) - len(walked)
            subfolders[:] = walked
            inside += [os.path.join(folder, leaf) for leaf in kept]
        listed += sorted(inside) or [name]
    return listed, passed_over


def _is_aside(leaf: str) -> bool:
    return files.is_stray(leaf) or leaf.lower().endswith(folders.TEXTS) or leaf.lower() in INDEXES


def read(name: str) -> Slice:
    """Read one slice from a file of any format that the study knows; DICOM is known by its content, whatever its name.

    Args:
        name: of a file; for NIfTI, ":k" may follow: the axial slice, else the middle one is taken.

    Raises:
        DataError: it is missing, empty, damaged, too large, of another format, or all its pixels are alike.
    """
    path, number = re.fullmatch(r"(.*?)(?::(\d+))?", name, re.S).groups() if ".nii" in name.lower() else (name, None)
    shown = plain(name)
    try:
        found = _reader(path, None if number is None else int(number))
    except DataError as error:
        said = str(error)
        raise DataError(said if said.startswith((shown, path)) else f"{shown}: {said}") from None
    # Damaged files raise nearly anything out of pydicom, nibabel and the decoders that they call.
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{shown}: cannot be read: {reason}") from None
    height, width = found.pixels.shape
    if not SIDES[0] <= min(height, width) <= max(height, width) <= SIDES[1]:
        raise DataError(f"{shown}: is {width} x {height} pixels; allowed: sides of {SIDES[0]} to {SIDES[1]}")
    if found.pixels.min() == found.pixels.max():
        raise DataError(f"{shown}: all its pixels are alike; a slice shows a head")
    return found


def _reader(path: str, number: int | None) -> Slice:
    """Read a file as what its content, or else its name, says that it is."""
    _check(path)
    ending = next((e for e in ENDINGS if path.lower().endswith(e)), None)
    with open(path, "rb") as file:
        head = file.read(volumes.HEAD)
    if volumes.is_dicom(head, preamble=ending is not None) or ending in DICOM:
        return volumes.dicom(path)
    if ending in NIFTI:
        return volumes.nifti(path, number)
    if ending in MATLAB:
        return Slice(figshare.read(Path(path).parent, Path(path).name)[0])
    try:
        return Slice(*folders.look(Path(path).read_bytes(), plain(path)))
    except DataError as error:
        if ending is None and "no picture of" in str(error):
            raise DataError(f"is no {KINDS}") from None
        raise


def _check(path: str) -> None:
    about = os.stat(path)
    if stat.S_ISDIR(about.st_mode):
        link = os.path.islink(path)
        raise DataError(f"is a {'link to a folder; give the folder itself' if link else f'folder without a {KINDS}'}")
    if not stat.S_ISREG(about.st_mode):
        raise DataError("is no regular file")
    if not 0 < about.st_size <= MAX_BYTES:
        raise DataError(f"has {about.st_size:,} bytes; allowed: 1 to {MAX_BYTES:,}")


def _prepared(name: str, facts: publish.Facts) -> Slice | DataError:
    try:
        found = read(name)
        return found._replace(pixels=preprocessing.prepare(found.pixels, None, facts.preprocessing)[0])
    except DataError as error:
        return error


def _answers(model, facts: publish.Facts, slices: np.ndarray, size: int) -> list[dict]:
    logits = batches.predict(model, slices, batch_size=size if len(slices) > size // 4 else len(slices))
    logits = logits.astype(np.float64)
    p = special.softmax(logits / (facts.temperature or 1.0), axis=1)
    rows = pd.DataFrame(p, columns=[f"p_{c}" for c in facts.classes]).assign(energy=special.logsumexp(logits, axis=1))
    rows.insert(0, "class", [facts.classes[k] for k in p.argmax(1)])
    return rows.to_dict("records")


def _warnings(energy: float, found: Slice, facts: publish.Facts) -> list[str]:
    said = []
    if found.tint > TINT:
        said.append("the picture is coloured, MR slices are grey")
    if facts.energy is not None and energy < facts.energy:
        said.append(f"unlike the training slices: energy {energy:.2f}, held-out slices lie above {facts.energy:.2f}")
    return [*said, *found.warnings]


def _overlay(model, facts: publish.Facts, prepared: np.ndarray, row: dict, path: Path) -> str:
    """Draw a slice and its map with all that is said of it; such pictures travel without their table."""
    number = facts.classes.index(row["class"])
    coarse = gradcam.coarse_maps(model, prepared[None], number, ["gradcam"])["gradcam"]
    heat = gradcam.enlarged(coarse, len(prepared))[0]
    words = [
        ",  ".join(f"{c} {row[f'p_{c}']:.3f}" for c in facts.classes),
        f"map of {row['class']}, of {coarse.shape[1]} x {coarse.shape[2]} places; {facts.name}",
        *([f"WARNING: {row['warning']}"] if row["warning"] else []),
        "not a medical device; for research only",
    ]
    title = os.path.basename(row["file"])
    drawn = figures.gradcam_overlay(prepared, heat, title if len(title) < 60 else f"...{title[-57:]}", words)
    with files.replacing(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script that the font has not
        drawn.savefig(temporary, dpi=150)
    return path.name


def heading(classes: Sequence[str]) -> str:
    """Return the line above those of `line`."""
    return _joined(classes, "class", list(classes) if _fits(classes) else ["p", "next", "p"], "file")


def line(row: dict, classes: Sequence[str], name: str) -> str:
    """Write a row of `classify` for a terminal: class, probabilities (the two highest, if not all fit), name, warning."""
    if _fits(classes):
        cells = [f"{row[f'p_{c}']:.3f}" for c in classes]
    else:
        first, second = sorted(classes, key=lambda c: -row[f"p_{c}"])[:2]
        cells = [f"{row[f'p_{first}']:.3f}", second, f"{row[f'p_{second}']:.3f}"]
    text = _joined(classes, row["class"], cells, name)
    if row["warning"]:
        text += "\n" + textwrap.fill(f"WARNING: {row['warning']}", WIDTH, initial_indent="  ", subsequent_indent="    ")
    return text


def _fits(classes: Sequence[str]) -> bool:
    return max(map(len, classes)) + sum(max(len(c), 5) + 2 for c in classes) <= WIDTH - 24


def _joined(classes: Sequence[str], first: str, cells: list[str], last: str) -> str:
    longest = max(5, *map(len, classes))
    widths = [max(len(c), 5) for c in classes] if _fits(classes) else [5, longest, 5]
    return "  ".join([f"{first:<{longest}}", *(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True)), last])


def plain(name: str) -> str:
    """Return a file's name on one line, whatever bytes it has."""
    return name if name.isprintable() else ascii(name)


def _stem(name: str) -> str:
    """A file's name without its ending, a NIfTI slice's number behind it, in characters that any system takes."""
    leaf, number = re.fullmatch(r"(.*?)(?::(\d+))?", Path(name).name, re.S).groups()
    ending = next((e for e in sorted(ENDINGS, key=len, reverse=True) if leaf.lower().endswith(e)), "")
    stem = leaf.removesuffix(leaf[len(leaf) - len(ending) :]) if ending else leaf
    return re.sub(r"[^\w-]+", "_", f"{stem}_{number}" if number else stem, flags=re.ASCII)[:100]
