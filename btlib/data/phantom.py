"""Phantoms: data sets of made-up slices, with the layouts of the real ones."""

import csv
import io
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import filelock
import h5py
import numpy as np
from PIL import Image, ImageOps

from btlib import DataError, files, params
from btlib.data import anatomy, figshare
from btlib.data.anatomy import NO_TUMOR

VERSION = 1
"""Part of every marker: phantoms of another version are made anew."""

MARKER = "phantom.json"
HEADER = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
CHANGES = ("exact", "re-encoded", "resized", "cropped", "padded", "flipped", "re-windowed")
LABELS = {
    "glioma_tumor": "glioma",
    "meningioma_tumor": "meningioma",
    "pituitary_tumor": "pituitary",
    "no_tumor": NO_TUMOR,
}
"""Hospital b's folders, as `folders.manifest` takes them."""

# Shares near those of the real sets. A period of seven is coprime to the five folds, so folds are stratified.
TURNS = {
    "a": ("glioma", "meningioma", "pituitary", "glioma", "meningioma", "pituitary", "glioma"),
    "b": ("glioma", "meningioma", "pituitary", NO_TUMOR, "glioma", "meningioma", "pituitary"),
}
PREFIX = {"glioma": "gg", "meningioma": "m", "pituitary": "p", NO_TUMOR: "image"}


def generate(root: Path, phantom: params.Phantom, copies_from: Path | None) -> None:
    """Make a phantom data set, or leave it alone where the same one is complete already.

    Hospital "a" has Figshare's layout: MATLAB v7.3 files and cvind.mat. Hospital "b" has class folders of JPEG and PNG
    and, where asked for, changed copies of slices of an "a", listed in planted.csv (image_id, source_image_id, change).
    No number measured on either says anything about patients.

    Args:
        root: the folder to make. Replaced as a whole, and only if it is empty or a phantom.
        phantom: how many slices, of which size in pixels, from which hospital and seed.
        copies_from: the phantom of hospital "a" to copy from; needed where `phantom.copies` is not 0.

    DataError where `root` holds something else, or copies are asked for that cannot be made.

    Source: ICBM 2009a nonlinear symmetric template (Fonov and others, NeuroImage 54, 2011), as nilearn carries it.
    """
    marker = {"version": VERSION, "phantom": phantom.model_dump(), "copies_from": _source(phantom, copies_from)}
    if _marker(root) == marker:
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = root.with_name(f".{root.name}.partial")
    with filelock.FileLock(root.with_name(f".{root.name}.lock")):
        if _marker(root) == marker:
            return
        _refuse_foreign(root)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            with files.naming(root):
                partial.mkdir()
                _write_a(partial, phantom) if phantom.hospital == "a" else _write_b(partial, phantom, copies_from)
                (partial / MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
                if root.exists():
                    shutil.rmtree(root)
                os.replace(partial, root)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def slice_of(phantom: params.Phantom, patient: int, number: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Return a made-up slice of a patient, both numbered from 0; planes take turns. Other slices have no part in it.

    Returns:
        (size, size) uint8 image, (size, size) bool mask of the tumour (enhancing part and core, without oedema),
        plane ("axial", "coronal" or "sagittal").
    """
    seed = (phantom.seed, "ab".index(phantom.hospital))
    first = _first_visit(patient, phantom.hospital)
    person = anatomy.person((*seed, first), label_of(patient, phantom.hospital))
    visit = np.random.default_rng([*seed, patient, 1])
    tilt, enhancement, offset = visit.normal(0, 4, 3), visit.uniform(0.65, 1.05), int(visit.integers(3))
    if patient != first:
        grown = person.radii * np.float32(visit.uniform(1.0, 1.15))
        person = SimpleNamespace(**vars(person) | {"radii": grown})
    plane = tuple(anatomy.PLANES)[(number + offset) % 3]
    rng = np.random.default_rng([*seed, patient, 2, number])
    image, mask = anatomy.scan(person, phantom.hospital, plane, phantom.size, tilt, enhancement, rng)
    return image, mask, plane


def label_of(patient: int, hospital: str) -> str:
    """Return the class of a patient; classes take turns, so all are there from six on."""
    return TURNS[hospital][patient % 7]


def patient_id(patient: int) -> str:
    """Return a made-up hospital number; one patient in twenty has another's with a B, being that one seen again."""
    first = _first_visit(patient, "a")
    number = 100_000 + first * 7919 % 900_000
    return f"{'' if first % 3 == 2 else 'MR'}{number}{'B' if first != patient else ''}"


def _first_visit(patient: int, hospital: str) -> int:
    # Seven back has the same class, and is never such a patient itself.
    return patient - 7 if hospital == "a" and patient % 20 == 7 else patient


def _marker(root: Path) -> dict | None:
    try:
        return json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _refuse_foreign(root: Path) -> None:
    if root.is_symlink() or (root.exists() and not root.is_dir()):
        raise DataError(f"{root}: is a link or a file; a phantom needs a folder of its own")
    if root.exists() and any(root.iterdir()) and _marker(root) is None:
        raise DataError(
            f"{root}: holds files and no {MARKER}, so it is no phantom and is left alone; name another folder"
        )


def _source(phantom: params.Phantom, copies_from: Path | None) -> dict | None:
    """The marker of the phantom that copies are taken from; None where none are asked for."""
    if not phantom.copies:
        return None
    marker = _marker(copies_from) if copies_from is not None and phantom.hospital == "b" else None
    if marker is None or marker["phantom"]["hospital"] != "a":
        raise DataError(
            f"phantom: copies is {phantom.copies}; allowed: 0, unless hospital is b and there is a phantom a to copy from"
        )
    have = marker["phantom"]["patients"] * marker["phantom"]["slices_per_patient"]
    if phantom.copies > have:
        raise DataError(f"phantom: copies is {phantom.copies}; allowed: at most {have}, the slices of {copies_from}")
    return marker


def _write_a(root: Path, phantom: params.Phantom) -> None:
    total = phantom.patients * phantom.slices_per_patient
    chunk = -(-total // 4)
    for index in range(total):
        first = index // chunk * chunk
        folder = root / f"brainTumorDataPublic_{first + 1}-{min(first + chunk, total)}"
        folder.mkdir(exist_ok=True)
        patient, number = divmod(index, phantom.slices_per_patient)
        image, mask, _ = slice_of(phantom, patient, number)
        # As in scanners, each slice has an intensity scale of its own; a whole number, so that 8 bits can be had back.
        gain = int(np.random.default_rng([phantom.seed, patient, number]).integers(3, 14))
        label = figshare.CLASSES.index(label_of(patient, "a")) + 1
        variables = {
            "cjdata/PID": np.array([[ord(c)] for c in patient_id(patient)], np.uint16),
            "cjdata/image": image.T.astype(np.int16) * gain,
            "cjdata/label": np.array([[label]], np.float64),
            "cjdata/tumorMask": mask.T.astype(np.uint8),
        }
        _write_mat(folder / f"{index + 1}.mat", variables)
    folds = [patient % 5 + 1 for patient in range(phantom.patients) for _ in range(phantom.slices_per_patient)]
    _write_mat(root / figshare.FOLDS, {"cvind": np.array([folds], np.float64)})


def _write_mat(path: Path, variables: dict[str, np.ndarray]) -> None:
    """Write arrays as MATLAB 7.3 does: HDF5 behind a header."""
    buffer = io.BytesIO()  # HDF5 keeps a file open that it could not write to a full disk, and later ends the process
    with h5py.File(buffer, "w", userblock_size=512) as file:
        for name, value in variables.items():
            file.create_dataset(name, data=value, compression="gzip" if value.size > 1000 else None)
    path.write_bytes(HEADER + buffer.getvalue()[len(HEADER) :])


def _write_b(root: Path, phantom: params.Phantom, copies_from: Path | None) -> None:
    folder_of = {label: folder for folder, label in LABELS.items()}
    counts = dict.fromkeys(PREFIX, 0)
    for folder in LABELS:
        (root / folder).mkdir()

    def save(picture: Image.Image, label: str, ending: str, **options) -> str:
        counts[label] += 1
        name = f"{folder_of[label]}/{PREFIX[label]} ({counts[label]}).{ending}"
        picture.save(root / name, **options)
        return name

    for patient in range(phantom.patients):
        for number in range(phantom.slices_per_patient):
            label = label_of(patient, "b")
            rng = np.random.default_rng([phantom.seed, 3, patient, number])
            picture = _reframe(Image.fromarray(slice_of(phantom, patient, number)[0]), rng)
            if rng.random() < 0.1:
                save(picture, label, "png")
            else:
                picture = picture.convert("RGB") if rng.random() < 0.3 else picture
                save(picture, label, "jpg", quality=int(rng.integers(75, 96)))
    if phantom.copies:
        planted = [("image_id", "source_image_id", "change"), *_plant(phantom, copies_from, save)]
        with open(root / "planted.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(planted)


def _plant(phantom: params.Phantom, copies_from: Path, save) -> list[tuple[str, str, str]]:
    """Save changed copies of another phantom's slices; return the rows of planted.csv."""
    source = params.Phantom(**_marker(copies_from)["phantom"])
    rng = np.random.default_rng([phantom.seed, 4])
    chosen = rng.choice(source.patients * source.slices_per_patient, phantom.copies, replace=False)
    rows = []
    for i, index in enumerate(chosen.tolist()):
        path = next(copies_from.glob(f"*/{index + 1}.mat")).relative_to(copies_from).as_posix()
        image, _ = figshare.read(copies_from, path)
        picture = Image.fromarray(np.rint(image * (255 / image.max())).astype(np.uint8))
        change = CHANGES[i % len(CHANGES)]
        label = label_of(index // source.slices_per_patient, "a")
        if change == "exact":
            name = save(picture, label, "png")
        else:
            picture = _changed(picture, change, np.random.default_rng([phantom.seed, 5, i]))
            name = save(picture, label, "jpg", quality=60 if change == "re-encoded" else 92)
        rows.append((name, str(index + 1), change))
    return rows


def _reframe(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    width, height = picture.size
    left, top, right, bottom = (rng.uniform(0, 0.05, 4) * [width, height, width, height]).astype(int)
    picture = picture.crop((left, top, width - right, height - bottom))
    return _zoomed(picture, rng.uniform(0.8, 1.3))


def _zoomed(picture: Image.Image, zoom: float) -> Image.Image:
    return picture.resize((round(picture.width * zoom), round(picture.height * zoom)), Image.Resampling.BICUBIC)


def _changed(picture: Image.Image, change: str, rng: np.random.Generator) -> Image.Image:
    width, height = picture.size
    match change:
        case "resized":
            return _zoomed(picture, rng.choice([rng.uniform(0.6, 0.85), rng.uniform(1.2, 1.5)]))
        case "cropped":
            sides = (rng.uniform(0.02, 0.06, 4) * width).astype(int)
            return picture.crop((sides[0], sides[1], width - sides[2], height - sides[3]))
        case "padded":
            return ImageOps.expand(picture, tuple((rng.uniform(0.05, 0.15, 4) * width).astype(int).tolist()))
        case "flipped":
            return ImageOps.mirror(picture)
        case "re-windowed":
            low, high, gamma = rng.uniform(5, 15), rng.uniform(190, 230), rng.uniform(0.75, 0.9)
            return picture.point([round(255 * min(max((v - low) / (high - low), 0), 1) ** gamma) for v in range(256)])
    return picture
