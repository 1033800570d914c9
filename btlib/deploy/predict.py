"""From picture files to classes: each file is answered or refused by itself, and a strange picture is warned of."""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from btlib import CLASSES, DataError, files
from btlib.data import figshare, folders, preprocessing
from btlib.deploy import publish
from btlib.figures import gradcam as figures
from btlib.fitting import batches
from btlib.scores import gradcam, metrics

DICOM, NIFTI, MATLAB = (".dcm", ".dicom"), (".nii", ".nii.gz"), (".mat",)
ENDINGS = (*folders.ENDINGS, *DICOM, *NIFTI, *MATLAB)
MAX_BYTES = 2**30
MAX_VOXELS = 2**29
SIDES = 16, 8000
"""Least and most pixels that a side may have; preprocessing pads a slice to a square of its longer side."""

BLOCK = 64

TINT = 4.0
"""A picture is called coloured if red, green and blue differ by more than this on average, of 255. Greyscale pictures
that JPEG stored in colour lie below 1, photographs above 20."""

COLUMNS = ("file", "class", *(f"p_{c}" for c in CLASSES), "energy", "warning", "error", "gradcam")


def classify(model, facts: publish.Facts, names: Sequence[str], overlays: Path | None = None) -> Iterator[dict]:
    """Classify the slices in some files, a bad file being one row with an error.

    A warning says that the picture is coloured (its tint is above `TINT`), or that the logits' energy is below that of
    all but 1 of 100 held-out slices. It cannot say that a slice is one of the three tumours: notebook 06 measures how
    well energy tells slices without a tumour, and it is not well.

    Args:
        model, facts: as `publish.open_model` returns them.
        names: as `expand` returns them.
        overlays: folder for Grad-CAM pictures, <number>_<file's name>.png, or None.

    Yields:
        Dicts with the keys `COLUMNS`, in the order of `names`: class and calibrated probabilities or an error, one
        line; numbers are None and words empty where there is nothing to say.

    Used by `python -m btlib predict`.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(names), BLOCK):
            block = names[start : start + BLOCK]
            read_ = list(pool.map(lambda name: _prepared(name, facts), block))
            slices = [found[0] for found in read_ if not isinstance(found, DataError)]
            answers = iter(_answers(model, facts, np.stack(slices)) if slices else [])
            for number, (name, found) in enumerate(zip(block, read_, strict=True), start + 1):
                row = dict.fromkeys(COLUMNS[1:6]) | dict.fromkeys(COLUMNS[6:], "") | {"file": _plain(name)}
                if isinstance(found, DataError):
                    yield row | {"error": " ".join(str(found).split())}
                    continue
                row |= next(answers)
                row["warning"] = "; ".join(_warnings(row["energy"], found[1], facts))
                if overlays is not None:
                    row["gradcam"] = _overlay(model, found[0], row, overlays / f"{number:04d}_{_stem(name)}.png")
                yield row


def expand(names: Sequence[str]) -> list[str]:
    """Put a folder's slices, at any depth and sorted, in its place; a folder without any stays and is an error later.

    Args:
        names: files and folders; a NIfTI file may be given as "file.nii.gz:42".
    """
    found = []
    for name in names:
        inside = [os.path.join(folder, n) for folder, _, leaves in os.walk(name) for n in leaves]
        found += sorted(n for n in inside if n.lower().endswith(ENDINGS) and not Path(n).name.startswith(".")) or [name]
    return found


def read(name: str) -> tuple[np.ndarray, float]:
    """Read one slice from a file of any format that the study knows.

    A DICOM file must hold one frame; its stored values are taken without windowing, inverted where MONOCHROME1. Of a
    NIfTI file, axial slice k is taken for "file.nii.gz:k", counted from 0 at the feet, else the middle one, laid out as
    radiologists do: front above, the patient's right on the left. Both are stretched to square pixels.

    Args:
        name: ends in one of `ENDINGS`, in any case; for NIfTI, ":k" may follow.

    Returns:
        (H, W), any real dtype, finite; and its tint, as `folders.look` says, 0 for all formats but pictures.

    Raises:
        DataError: it is missing, empty, damaged, too large, of another format, or all its pixels are alike.

    Used by `classify`.
    """
    path, number = re.fullmatch(r"(.*?)(?::(\d+))?", name, re.S).groups() if ".nii" in name.lower() else (name, None)
    kind = next((e for e in ENDINGS if path.lower().endswith(e)), None)
    plain = _plain(name)
    try:
        _check(path, kind)
        if kind in folders.ENDINGS:
            image, tint = folders.look(Path(path).read_bytes(), plain)
        elif kind in MATLAB:
            image, tint = figshare.read(Path(path).parent, Path(path).name)[0], 0.0
        elif kind in DICOM:
            image, tint = _dicom(path)
        else:
            image, tint = _nifti(path, None if number is None else int(number)), 0.0
    except DataError as error:
        said = str(error)
        raise DataError(said if said.startswith((plain, path)) else f"{plain}: {said}") from None
    # Damaged files raise nearly anything out of pydicom, nibabel and the decoders that they call.
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{plain}: cannot be read: {reason}") from None
    if not SIDES[0] <= min(image.shape) <= max(image.shape) <= SIDES[1]:
        raise DataError(
            f"{plain}: is {image.shape[1]} x {image.shape[0]} pixels; allowed: sides of {SIDES[0]} to {SIDES[1]}"
        )
    if image.min() == image.max():
        raise DataError(f"{plain}: all its pixels are alike; a slice shows a head")
    return image, tint


def _check(path: str, kind: str | None) -> None:
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise DataError(f"is a folder without a file ending in {', '.join(ENDINGS)}")
    if kind is None:
        raise DataError(f"ends in none of {', '.join(ENDINGS)}")
    if not stat.S_ISREG(found.st_mode):
        raise DataError("is no regular file")
    if not 0 < found.st_size <= MAX_BYTES:
        raise DataError(f"has {found.st_size:,} bytes; allowed: 1 to {MAX_BYTES:,}")


def _dicom(path: str) -> tuple[np.ndarray, float]:
    try:
        import pydicom
    except ImportError:
        raise DataError("DICOM needs pydicom: pip install -e '.[dicom]'") from None

    file = pydicom.dcmread(path)
    if "Rows" not in file or "Columns" not in file:
        raise DataError("is DICOM without a picture")
    frames = int(file.get("NumberOfFrames") or 1)
    if frames != 1:
        raise DataError(f"holds {frames} frames; allowed: one slice a file")
    if file.Rows * file.Columns > folders.MAX_PIXELS:
        raise DataError(f"claims {file.Columns} x {file.Rows} pixels; allowed: {folders.MAX_PIXELS:,} in all")
    image = file.pixel_array
    if image.ndim == 3:
        if image.dtype != np.uint8 or "RGB" not in file.PhotometricInterpretation:
            raise DataError(f"holds {file.PhotometricInterpretation} pixels; allowed: greyscale, or 8-bit RGB")
        tint = float((image.max(2) - image.min(2)).mean())
        return np.asarray(Image.fromarray(image).convert("L")), tint
    if file.PhotometricInterpretation == "MONOCHROME1":
        image = float(image.max()) - image.astype(np.float64)
    elif file.PhotometricInterpretation != "MONOCHROME2":
        raise DataError(f"holds {file.PhotometricInterpretation} pixels; allowed: greyscale, or 8-bit RGB")
    return _square_pixels(image, file.get("PixelSpacing")), 0.0


def _nifti(path: str, number: int | None) -> np.ndarray:
    import nibabel

    volume = nibabel.load(path)
    shape = volume.shape
    if len(shape) != 3 or int(np.prod(shape, dtype=object)) > MAX_VOXELS or min(shape) < 1:
        raise DataError(f"is {' x '.join(map(str, shape))}; allowed: three dimensions of {MAX_VOXELS:,} voxels in all")
    codes = nibabel.aff2axcodes(volume.affine)
    axis = next((i for i, c in enumerate(codes) if c in ("S", "I")), None)
    if axis is None:
        raise DataError(f"its axes are {codes}; none runs from feet to head")
    count = shape[axis]
    if number is not None and number >= count:
        raise DataError(f"has {count} axial slices; allowed: 0 to {count - 1}")
    chosen = count // 2 if number is None else number
    place = chosen if codes[axis] == "S" else count - 1 - chosen
    here = tuple(slice(place, place + 1) if i == axis else slice(None) for i in range(3))
    # Only then turned upright: turning the volume would unpack all of it.
    one = nibabel.as_closest_canonical(volume.slicer[here])
    image = np.nan_to_num(np.asarray(one.dataobj, np.float64)[:, ::-1, 0].T, posinf=0, neginf=0)[:, ::-1]
    wide, high = one.header.get_zooms()[:2]
    return _square_pixels(image, (high, wide))


def _square_pixels(image: np.ndarray, spacing) -> np.ndarray:
    """Stretch the longer side of oblong pixels; spacing is (rows apart, columns apart), or None for square ones."""
    if spacing is None:
        return image
    down, across = (float(s) for s in spacing)
    if not (min(down, across) > 0 and max(down, across) < 20 * min(down, across)):
        raise DataError(f"its pixels measure {down:g} x {across:g}; allowed: sides that differ less than 20 times")
    if abs(down / across - 1) < 0.01:
        return image
    fine = min(down, across)
    size = round(image.shape[1] * across / fine), round(image.shape[0] * down / fine)
    if size[0] * size[1] > folders.MAX_PIXELS:
        raise DataError(f"has {size[0]} x {size[1]} square pixels; allowed: {folders.MAX_PIXELS:,} in all")
    return np.asarray(Image.fromarray(image.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))


def _prepared(name: str, facts: publish.Facts) -> tuple[np.ndarray, float] | DataError:
    try:
        image, tint = read(name)
        return preprocessing.prepare(image, None, facts.preprocessing)[0], tint
    except DataError as error:
        return error


def _answers(model, facts: publish.Facts, slices: np.ndarray) -> list[dict]:
    logits = batches.predict(model, slices, batch_size=BLOCK if len(slices) > BLOCK // 4 else len(slices))
    p = metrics.softmax(logits / (facts.temperature or 1.0))
    rows = pd.DataFrame(p, columns=COLUMNS[2:5]).assign(energy=metrics.known_scores(logits)["energy"])
    rows.insert(0, "class", [CLASSES[k] for k in p.argmax(1)])
    return rows.to_dict("records")


def _warnings(energy: float, tint: float, facts: publish.Facts) -> list[str]:
    said = []
    if tint > TINT:
        said.append("the picture is coloured, MR slices are grey")
    if facts.energy is not None and energy < facts.energy:
        said.append(f"unlike the training slices: energy {energy:.2f}, held-out slices lie above {facts.energy:.2f}")
    return said


def _overlay(model, prepared: np.ndarray, row: dict, path: Path) -> str:
    heat = gradcam.maps(model, prepared[None], CLASSES.index(row["class"]))[0]
    drawn = figures.gradcam_overlay(prepared, heat, f"{row['class']}, p = {row['p_' + row['class']]:.2f}")
    with files.replacing(path) as temporary:
        drawn.savefig(temporary, dpi=150)
    return path.name


def _plain(name: str) -> str:
    """A file's name on one line, whatever bytes it has."""
    return name if name.isprintable() else ascii(name)


def _stem(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", Path(name).name, flags=re.ASCII)[:100]
