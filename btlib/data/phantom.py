"""Made-up slices: the MNI152 brain in a made-up head, with a made-up tumour where each class sits."""

import csv
import io
import itertools
import json
import os
import shutil
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import filelock
import h5py
import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

from btlib import DataError, params
from btlib.data import figshare

NO_TUMOR = "no_tumor"
"""Label of the slices of hospital b that show no tumour."""

VERSION = 1
"""Part of every marker: phantoms of another version are made anew."""

MARKER = "phantom.json"
CHANGES = ("exact", "re-encoded", "resized", "cropped", "padded", "flipped", "re-windowed")
PLANES = ("axial", "coronal", "sagittal")
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

# Millimetres of MNI space at voxel (0, 0, 0), and the box's size: the template's box and, below and before it, a face.
ORIGIN = np.array([-100, -134, -126], np.float32)
SHAPE = (200, 252, 240)
MIDDLE = np.array([0, -18, 8], np.float32)
T1, WHITE, DEPTH, SKIN, FACE, VESSEL = range(6)

# (centre, radii, brightness) in millimetres of MNI space; what has x > 0 is mirrored.
OUTLINE = (
    ((0, 34, -66), (62, 60, 76)),
    ((0, 62, -110), (36, 32, 30)),
    ((0, -2, -70), (70, 52, 58)),
    ((0, 90, -54), (11, 15, 17)),
    ((76, -24, -38), (6, 13, 24)),
)
FACE_PARTS = (
    ((34, 50, -66), (15, 17, 16), 0.45),
    ((34, 50, -66), (13, 15, 14), 0.04),
    ((0, 50, -56), (12, 29, 17), 0.04),
    ((0, 22, -44), (12, 12, 9), 0.04),
    ((30, 46, -41), (17, 26, 16), 0.78),
    ((22, 42, -41), (2, 22, 4), 0.55),
    ((40, 44, -41), (2, 20, 4), 0.55),
    ((30, 44, -31), (4, 20, 2), 0.55),
    ((30, 36, -41), (2.5, 24, 2.5), 0.40),
    ((32, 66, -41), (13, 13, 13), 0.50),
    ((32, 66, -41), (12, 12, 12), 0.12),
    ((32, 76, -41), (5, 2.5, 5), 0.30),
    ((48, -34, -46), (15, 16, 13), 0.07),
    ((52, 10, -62), (9, 20, 24), 0.38),
    ((0, 48, -104), (24, 34, 22), 0.40),
    ((0, 58, -79), (20, 30, 3), 0.20),
    ((0, 6, -86), (8, 6, 40), 0.03),
    ((0, -10, -112), (13, 9, 34), 0.50),
    ((0, -72, -100), (4, 14, 26), 0.80),
    ((30, -60, -98), (20, 14, 26), 0.40),
)
ENHANCING_PARTS = (
    ((0, 4, -32), (6.5, 5, 4), 0.85),
    ((11.5, 0, -33), (3.5, 9, 5), 0.70),
    ((0, 50, -56), (1.6, 27, 15), 0.60),
    ((8, 48, -64), (3, 22, 4), 0.80),
    ((7, 46, -51), (2.5, 18, 3), 0.75),
    ((20, -40, 12), (2.5, 7, 4), 0.80),
    ((0, -18, -46), (5, 6, 8), 0.35),
)
VESSELS = (
    (((0, -106, -8), (30, -98, -18), (55, -76, -28), (64, -48, -38), (54, -38, -52), (40, -36, -72)), 3.2, 0.90),
    (((0, -40, 4), (0, -62, 2), (0, -104, -8)), 1.8, 0.90),
    (((0, -34, 6), (0, -20, 12), (0, 2, 14)), 1.0, 0.80),
    (((12, 2, -20), (28, 4, -16), (42, -4, -2), (46, -24, 10)), 1.3, 0.85),
    (((0, -24, -60), (0, -15, -30), (0, -15, -20)), 1.6, 0.85),
    (((3, 12, -16), (3, 38, -2), (3, 34, 22), (3, 8, 34)), 1.2, 0.80),
    (((8, -18, -18), (24, -30, -6), (16, -66, 0)), 1.1, 0.75),
)
SKULL_BASE = ((28, 20, -12), (0, 40, -18), (10, 38, -16), (0, 14, -18), (38, -58, -28), (22, -40, -38))
"""Where meningiomas sit that are neither on the convexity nor on the falx: wing, groove, tuberculum, tentorium, angle."""


class Anatomy(NamedTuple):
    """One made-up person, in MNI millimetres: what bends the template, and the tumour."""

    scale: np.ndarray
    waves: np.ndarray
    phases: np.ndarray
    shifts: np.ndarray
    scalp: float
    skull: float
    marrow: float
    atrophy: float
    texture: np.ndarray
    label: str
    centre: np.ndarray
    radii: np.ndarray
    rough: float
    bright: float
    style: float
    rim: float
    core: float
    oedema: float
    side: float


def generate(root: Path, phantom: params.Phantom, copies_from: Path | None) -> None:
    """Make a phantom data set, or leave it alone where the same one is complete already.

    Hospital "a" has Figshare's layout: MATLAB v7.3 files and cvind.mat. Hospital "b" has class folders of JPEG and PNG
    and, where asked for, changed copies of slices of an "a", listed in planted.csv (image_id, source_image_id, change).
    No number measured on either says anything about patients.

    Args:
        root: the folder to make. Replaced as a whole, and only if it is empty or a phantom.
        phantom: how many slices, of which size in pixels, from which hospital and seed.
        copies_from: the phantom of hospital "a" to copy from; needed where `phantom.copies` is not 0.

    Raises:
        DataError: `root` holds something else, or copies are asked for that cannot be made.
        OSError: the disk is full or cannot be written; the message names a file or `root`.

    Source: ICBM 2009a nonlinear symmetric template (Fonov and others, NeuroImage 54, 2011), as nilearn carries it.
    Used by notebook 01.
    """
    root = Path(root)
    marker = {"version": VERSION, "phantom": phantom.model_dump(), "copies_from": _source(phantom, copies_from)}
    if _marker(root) == marker:
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (root.with_name(f".{root.name}.{part}") for part in ("partial", "old"))
    with filelock.FileLock(root.with_name(f".{root.name}.lock")):
        if _marker(root) == marker:
            return
        _refuse_foreign(root)
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            if phantom.hospital == "a":
                _write_a(partial, phantom)
            else:
                _write_b(partial, phantom, copies_from)
            (partial / MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
            shutil.rmtree(old, ignore_errors=True)
            if root.exists():
                os.replace(root, old)
            os.replace(partial, root)
        except OSError as error:
            if error.filename is None:  # writing to a full disk names no file
                raise OSError(
                    error.errno, os.strerror(error.errno) if error.errno else str(error), str(root)
                ) from error
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def slice_of(phantom: params.Phantom, patient: int, number: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Return one made-up slice, its tumour and its plane; other patients and slices have no part in it.

    Args:
        phantom: `patients`, `slices_per_patient` and `copies` are not looked at.
        patient: 0 or more.
        number: 0 or more; planes take turns.

    Returns:
        (size, size) uint8 image, (size, size) bool mask of the tumour (enhancing part and core, without oedema),
        plane ("axial", "coronal" or "sagittal").

    Used by notebook 01.
    """
    hospital = "ab".index(phantom.hospital)
    anatomy = _anatomy(phantom, _person(patient, phantom.hospital))
    visit = np.random.default_rng([phantom.seed, hospital, patient, 1])
    tilt, enhancement, offset = visit.normal(0, 4, 3), visit.uniform(0.65, 1.05), int(visit.integers(3))
    if patient != _person(patient, phantom.hospital):
        anatomy = anatomy._replace(radii=anatomy.radii * np.float32(visit.uniform(1.0, 1.15)))
    rng = np.random.default_rng([phantom.seed, hospital, patient, 2, number])
    plane = PLANES[(number + offset) % 3]
    image, mask = _scan(anatomy, plane, phantom, tilt, enhancement, rng)
    return image, mask, plane


def label_of(patient: int, hospital: str) -> str:
    """Return the class of a patient of hospital "a" or "b"; classes take turns, so all are there from six on."""
    return TURNS[hospital][patient % 7]


def patient_id(patient: int) -> str:
    """Return a made-up hospital number; one patient in twenty has another's with a B, being that one seen again."""
    person = _person(patient, "a")
    number = 100_000 + person * 7919 % 900_000
    return f"{'' if person % 3 == 2 else 'MR'}{number}{'B' if person != patient else ''}"


def _person(patient: int, hospital: str) -> int:
    # Seven back has the same class, and is never such a patient itself.
    return patient - 7 if hospital == "a" and patient % 20 == 7 else patient


# --- files ---


def _marker(root: Path) -> dict | None:
    try:
        found = json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "version" in found and "phantom" in found else None


def _refuse_foreign(root: Path) -> None:
    if root.is_symlink() or (root.exists() and not root.is_dir()):
        raise DataError(f"{root}: is a link or a file; a phantom needs a folder of its own")
    if root.exists() and any(root.iterdir()) and _marker(root) is None:
        raise DataError(
            f"{root}: holds files and no {MARKER}, so it is no phantom and is left alone; name another folder"
        )


def _source(phantom: params.Phantom, copies_from: Path | None) -> dict | None:
    if not phantom.copies:
        return None
    if phantom.hospital == "a" or copies_from is None:
        raise DataError(
            f"phantom: copies is {phantom.copies}; allowed: 0, unless hospital is b and there is a phantom a to copy from"
        )
    marker = _marker(Path(copies_from))
    if marker is None or marker["phantom"]["hospital"] != "a":
        raise DataError(f"{copies_from}: is no phantom of hospital a, so there is nothing to copy from")
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
        _write_mat(folder / f"{index + 1}.mat", image.astype(np.int16) * gain, mask, label, patient_id(patient))
    folds = [patient % 5 + 1 for patient in range(phantom.patients) for _ in range(phantom.slices_per_patient)]
    with _mat(root / "cvind.mat") as file:
        _put(file, "cvind", np.array([folds], np.float64), "double")


def _write_mat(path: Path, image: np.ndarray, mask: np.ndarray, label: int, patient: str) -> None:
    with _mat(path) as file:
        group = file.create_group("cjdata")
        group.attrs["MATLAB_class"] = np.bytes_("struct")
        _put(group, "PID", np.array([[ord(c)] for c in patient], np.uint16), "char")
        _put(group, "image", image.T, "int16")
        _put(group, "label", np.array([[label]], np.float64), "double")
        _put(group, "tumorBorder", _border(mask), "double")
        _put(group, "tumorMask", mask.T.astype(np.uint8), "logical")


def _put(group: h5py.Group, name: str, value: np.ndarray, matlab_class: str) -> None:
    packed = {"compression": "gzip", "compression_opts": 3} if value.size > 1000 else {}
    group.create_dataset(name, data=value, **packed).attrs["MATLAB_class"] = np.bytes_(matlab_class)


@contextmanager
def _mat(path: Path):
    """Give an HDF5 file in memory to fill; it is then written as MATLAB 7.3 writes one.

    HDF5 itself keeps a file open that it could not write to a full disk, and later ends the process.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=512) as file:
        yield file
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    path.write_bytes(header + buffer.getvalue()[len(header) :])


def _border(mask: np.ndarray) -> np.ndarray:
    """Return the mask's outermost pixels by angle around their centre as one row: x1, y1, x2, y2, ..."""
    rows, columns = np.nonzero(mask)
    angle = np.arctan2(rows - rows.mean(), columns - columns.mean())
    distance = np.hypot(rows - rows.mean(), columns - columns.mean())
    sector = np.floor((angle + np.pi) / (2 * np.pi) * 24).astype(int) % 24
    far = [np.flatnonzero(sector == s)[np.argmax(distance[sector == s])] for s in np.unique(sector)]
    return np.stack([columns[far], rows[far]], 1).reshape(1, -1).astype(np.float64)


def _write_b(root: Path, phantom: params.Phantom, copies_from: Path | None) -> None:
    counts = dict.fromkeys(PREFIX, 0)
    folder_of = {label: folder for folder, label in LABELS.items()}
    for folder in LABELS:
        (root / folder).mkdir()

    def name(label: str, ending: str) -> str:
        counts[label] += 1
        return f"{folder_of[label]}/{PREFIX[label]} ({counts[label]}).{ending}"

    for patient in range(phantom.patients):
        for number in range(phantom.slices_per_patient):
            label = label_of(patient, "b")
            image, _, _ = slice_of(phantom, patient, number)
            rng = np.random.default_rng([phantom.seed, 3, patient, number])
            picture = _reframe(Image.fromarray(image), rng)
            if rng.random() < 0.1:
                picture.save(root / name(label, "png"))
            else:
                picture = picture.convert("RGB") if rng.random() < 0.3 else picture
                picture.save(root / name(label, "jpg"), quality=int(rng.integers(75, 96)))
    if not phantom.copies:
        return
    source = params.Phantom(**_marker(Path(copies_from))["phantom"])
    rng = np.random.default_rng([phantom.seed, 4])
    chosen = rng.choice(source.patients * source.slices_per_patient, phantom.copies, replace=False)
    planted = []
    for i, index in enumerate(chosen.tolist()):
        change = CHANGES[i % len(CHANGES)]
        label = label_of(index // source.slices_per_patient, "a")
        path = next(Path(copies_from).glob(f"*/{index + 1}.mat")).relative_to(copies_from).as_posix()
        image, _ = figshare.read(Path(copies_from), path)
        picture = Image.fromarray(np.rint(image * (255 / image.max())).astype(np.uint8))
        picture, ending, options = _changed(picture, change, np.random.default_rng([phantom.seed, 5, i]))
        image_id = name(label, ending)
        picture.save(root / image_id, **options)
        planted.append((image_id, str(index + 1), change))
    with open(root / "planted.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("image_id", "source_image_id", "change"), *planted])


def _reframe(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    width, height = picture.size
    left, top, right, bottom = (rng.uniform(0, 0.05, 4) * [width, height, width, height]).astype(int)
    picture = picture.crop((left, top, width - right, height - bottom))
    zoom = rng.uniform(0.8, 1.3)
    return picture.resize((round(picture.width * zoom), round(picture.height * zoom)), Image.Resampling.BICUBIC)


def _changed(picture: Image.Image, change: str, rng: np.random.Generator) -> tuple[Image.Image, str, dict]:
    width, height = picture.size
    quality = 92
    match change:
        case "exact":
            return picture, "png", {}
        case "re-encoded":
            quality = 60
        case "resized":
            zoom = rng.choice([rng.uniform(0.6, 0.85), rng.uniform(1.2, 1.5)])
            picture = picture.resize((round(width * zoom), round(height * zoom)), Image.Resampling.BICUBIC)
        case "cropped":
            sides = (rng.uniform(0.02, 0.06, 4) * width).astype(int)
            picture = picture.crop((sides[0], sides[1], width - sides[2], height - sides[3]))
        case "padded":
            picture = ImageOps.expand(picture, tuple((rng.uniform(0.05, 0.15, 4) * width).astype(int).tolist()))
        case "flipped":
            picture = ImageOps.mirror(picture)
        case "re-windowed":
            low, high, gamma = rng.uniform(5, 15), rng.uniform(190, 230), rng.uniform(0.75, 0.9)
            picture = picture.point(
                [round(255 * min(max((v - low) / (high - low), 0), 1) ** gamma) for v in range(256)]
            )
    return picture, "jpg", {"quality": quality}


# --- the head ---


@lru_cache(1)
def _head() -> np.ndarray:
    """Return the head without a tumour, one voxel a millimetre: SHAPE x 6 uint8, channels T1 ... VESSEL."""
    from nilearn import datasets

    head = np.zeros((*SHAPE, 6), np.uint8)
    for channel, load in ((T1, datasets.load_mni152_template), (WHITE, datasets.load_mni152_wm_template)):
        image = load(resolution=1)
        data = np.asarray(image.dataobj)
        at = (image.affine[:3, 3] - ORIGIN).astype(int)
        # The template is cut through the brainstem; the cord goes on below.
        room = [(a, max(n - a - m, 0)) for a, n, m in zip(at, SHAPE, data.shape, strict=True)]
        data = np.pad(np.pad(data, [(0, 0), (0, 0), room[2]], "edge"), [room[0], room[1], (0, 0)])
        head[..., channel] = np.rint(data[: SHAPE[0], : SHAPE[1], : SHAPE[2]] * 255)

    brain = ndimage.binary_closing(np.pad(head[::2, ::2, ::2, T1] > 12, 7, "edge"), iterations=6)
    brain = ndimage.binary_fill_holes(brain[7:-7, 7:-7, 7:-7])
    depth = ndimage.distance_transform_edt(~brain) - ndimage.distance_transform_edt(brain)
    depth = 2 * ndimage.gaussian_filter(depth.astype(np.float32), 1.0)
    x, y, z = (o * 2 + s for o, s in zip(np.ogrid[tuple(slice(n // 2) for n in SHAPE)], ORIGIN, strict=True))
    rounds = [
        radii[1]
        * (np.sqrt(sum(((a - c) / r) ** 2 for a, c, r in zip((np.abs(x), y, z), centre, radii, strict=True))) - 1)
        for centre, radii in OUTLINE
    ]
    neck = np.maximum(50 * (np.sqrt((x / 56) ** 2 + ((y + 26) / 58) ** 2) - 1), z + 52)
    skin = -4 * np.log(
        sum(np.exp(-np.clip(part, -60, 60) / 4) for part in (ndimage.gaussian_filter(depth, 3.0) - 14, neck, *rounds))
    )
    head[..., DEPTH] = _double(np.clip((depth + 24) * 4, 0, 255).astype(np.uint8))
    head[..., SKIN] = _double(np.clip((skin + 40) * 4, 0, 255).astype(np.uint8))

    tissue = 255 * (0.34 + 0.3 * np.clip((np.arange(256) / 32 - 4) / 2, 0, 1))
    tiles = np.ix_(*(np.arange(n) * 2 // 3 % 48 for n in SHAPE))
    head[..., FACE] = tissue.astype(np.uint8)[_grain()[..., 0]][tiles]
    for channel, parts in ((FACE, FACE_PARTS), (VESSEL, ENHANCING_PARTS)):
        for centre, radii, value in parts:
            for side in _sides([centre]):
                _paint(head[..., channel], [side[0]], radii, value)
    for points, radius, value in VESSELS:
        for side in _sides(points):
            for start, end in itertools.pairwise(side):
                _paint(head[..., VESSEL], [start, end], (radius,) * 3, value)
    return head


def _sides(points) -> list[np.ndarray]:
    points = np.array(points, np.float32)
    return [points, points * [-1, 1, 1]] if points[:, 0].any() else [points]


def _paint(volume: np.ndarray, points, radii, value: float) -> None:
    """Paint an ellipsoid around a point, or around every point of a line, into one channel."""
    points, radii = np.array(points, np.float32) - ORIGIN, np.array(radii, np.float32)
    low = np.maximum(np.floor(points.min(0) - radii - 1), 0).astype(int)
    high = np.minimum(np.ceil(points.max(0) + radii + 2), SHAPE).astype(int)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    at = np.stack(np.meshgrid(*(np.arange(s.start, s.stop, dtype=np.float32) for s in box), indexing="ij"), -1)
    line = points[-1] - points[0]
    along = np.clip((at - points[0]) @ line / max(line @ line, 1e-6), 0, 1)[..., None]
    inside = radii.min() * (1 - np.linalg.norm((at - points[0] - along * line) / radii, axis=-1))
    alpha = np.clip(inside + 0.5, 0, 1)
    volume[box] = np.rint(volume[box] + alpha * (255 * value - volume[box]))


def _double(volume: np.ndarray) -> np.ndarray:
    for axis in range(3):
        volume = np.moveaxis(volume, axis, 0)
        fine = np.empty((2 * len(volume), *volume.shape[1:]), np.uint8)
        fine[::2] = volume
        fine[1::2] = np.add(volume, np.concatenate([volume[1:], volume[-1:]]), dtype=np.uint16) // 2
        volume = np.moveaxis(fine, 0, axis)
    return volume


@lru_cache(1)
def _grain() -> np.ndarray:
    """Return smooth noise that repeats every 48 voxels: (49, 49, 49, 2) uint8, mean 128, standard deviation 32."""
    noise = np.random.default_rng(152).normal(size=(2, 48, 48, 48))
    noise = np.stack([ndimage.gaussian_filter(n, 1.6, mode="wrap") for n in noise], -1)
    noise = np.pad(noise, [(0, 1)] * 3 + [(0, 0)], "wrap")
    return np.rint(np.clip(128 + 32 * noise / noise.std(), 0, 255)).astype(np.uint8)


def _sample(volume: np.ndarray, at: np.ndarray, channels: slice = slice(None)) -> np.ndarray:
    """Return the channels of an (X, Y, Z, C) volume at voxel coordinates (3, n), trilinear: (C, n) float32."""
    shape = np.array(volume.shape[:3])
    at = np.clip(at, 0, (shape - 1.001)[:, None]).astype(np.float32)
    whole = at.astype(np.int32)
    after = at - whole
    flat = volume.reshape(-1, volume.shape[3])
    start = (whole[0] * shape[1] + whole[1]) * shape[2] + whole[2]
    result = 0.0
    for corner in np.ndindex(2, 2, 2):
        x, y, z = (after[a] if corner[a] else 1 - after[a] for a in range(3))
        step = (corner[0] * shape[1] + corner[1]) * shape[2] + corner[2]
        result = result + flat[start + step, channels] * (x * y * z)[:, None]
    return result.T


def _noise(at: np.ndarray, millimetres: float, origin: np.ndarray) -> np.ndarray:
    """Return two smooth noises at MNI millimetres (3, n), mean 0, standard deviation 1, of about this grain."""
    return _sample(_grain(), ((at / millimetres + origin[:, None]) * 1.6) % 48) / 32 - 4


# --- a person, a tumour ---


@lru_cache(1)
def _seats() -> dict[str, np.ndarray]:
    """Return where tumours may start, in MNI millimetres (n, 3): deep white matter, the convexity, the base."""
    coarse = _head()[::4, ::4, ::4].astype(np.float32)
    at = np.stack(
        np.meshgrid(*(np.arange(n) * 4.0 + o for n, o in zip(coarse.shape, ORIGIN, strict=False)), indexing="ij"), -1
    )
    depth = coarse[..., DEPTH] / 4 - 24
    deep = (coarse[..., WHITE] > 215) & (depth < -12) & (at[..., 2] > -20) & (np.abs(at[..., 0]) > 8)
    outer = (np.abs(depth) < 2) & (at[..., 2] > 0)
    base = (np.abs(depth) < 2) & (at[..., 2] < 0) & (at[..., 2] > -50)
    return {"deep": at[deep], "outer": at[outer], "base": at[base]}


@lru_cache(4)
def _anatomy(phantom: params.Phantom, person: int) -> Anatomy:
    rng = np.random.default_rng([phantom.seed, "ab".index(phantom.hospital), person])
    label = label_of(person, phantom.hospital)
    waves = rng.normal(size=(4, 3))
    waves *= (2 * np.pi / rng.uniform(70, 150, 4) / np.linalg.norm(waves, axis=1))[:, None]
    side = float(rng.choice([-1, 1]))
    kind, radius = rng.random(), rng.uniform(8, 21)
    rough, bright = rng.uniform(0.04, 0.10), rng.uniform(0.55, 0.92)
    shape = rng.uniform(0.85, 1.2, 3)
    if label == "meningioma":
        if kind < 0.6:
            seat = rng.permutation(_seats()["outer"])[0]
            inward = MIDDLE - seat
            centre = seat + inward / np.linalg.norm(inward) * radius * 0.45
            side = 0.0
        elif kind < 0.82:
            centre = np.array([side * radius * 0.5, rng.uniform(-75, 45), rng.uniform(38, 58)])
            centre[2] -= abs(centre[1] + 15) * 0.25
        else:
            base = np.array(rng.permutation(SKULL_BASE)[0]) * [side, 1, 1] + rng.normal(0, 3, 3)
            seat = min(_seats()["base"], key=lambda at: np.linalg.norm(at - base))
            radius, side = radius * 0.8, 0.0
            centre = seat + (MIDDLE - seat) / np.linalg.norm(MIDDLE - seat) * radius * 0.45
    elif label == "glioma":
        centre, radius, rough = rng.permutation(_seats()["deep"])[0], rng.uniform(9, 24), rng.uniform(0.16, 0.34)
        bright = rng.uniform(0.5, 0.95)
    elif label == "pituitary":
        radius, bright = rng.uniform(5.5, 15), rng.uniform(0.5, 0.85)
        centre, shape = (
            np.array([rng.normal(0, 1.5), 4 + rng.normal(0, 1.5), -35 + 0.8 * radius]),
            np.array([1.0, 0.85, 1.05]),
        )
    else:
        centre, radius = rng.normal(0, [28, 34, 22]) + MIDDLE, 0.0
    return Anatomy(
        scale=rng.normal(1.0, 0.035, 3).clip(0.92, 1.08),
        waves=waves.astype(np.float32),
        phases=rng.uniform(0, 2 * np.pi, 4).astype(np.float32),
        shifts=rng.normal(0, 1.6, (3, 4)).astype(np.float32),
        scalp=rng.uniform(4, 8),
        skull=rng.uniform(5, 8),
        marrow=rng.uniform(0.2, 0.6),
        atrophy=rng.uniform(0, 1),
        texture=rng.uniform(0, 30, 3).astype(np.float32),
        label=label,
        centre=centre.astype(np.float32),
        radii=(radius * shape).astype(np.float32),
        rough=rough,
        bright=bright,
        style=rng.random(),
        rim=rng.uniform(2.5, 5),
        core=rng.uniform(0.10, 0.26),
        oedema=rng.uniform(4, 16) * (label == "glioma" or rng.random() < 0.35),
        side=side,
    )


def _outside(anatomy: Anatomy, at: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return millimetres, about, from the tumour's surface at MNI millimetres (3, n); negative inside."""
    way = at - anatomy.centre[:, None]
    direction = way / np.maximum(np.linalg.norm(way, axis=0), 1e-3)
    # Noise of the direction alone: however rough, the tumour stays in one piece.
    coarse, fine = _noise(direction * 10, 5, anatomy.texture)
    radius = 1 + anatomy.rough * np.clip(coarse + 0.5 * fine, -2.2, 2.2)
    result = (np.linalg.norm(way / anatomy.radii[:, None], axis=0) - radius) * anatomy.radii.min()
    if anatomy.label == "meningioma":
        result = np.maximum(result, depth - 2.2)
        if anatomy.side:
            result = np.maximum(result, 1 - anatomy.side * at[0])
    if anatomy.label == "glioma":
        result = np.maximum(result, np.maximum(depth + 1.5, 1.5 - np.sign(anatomy.centre[0]) * at[0]))
    return result.astype(np.float32)


# --- a slice ---


def _rotation(degrees) -> np.ndarray:
    a, b, c = np.deg2rad(degrees)
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return x @ y @ z


def _to_template(anatomy: Anatomy, at: np.ndarray) -> np.ndarray:
    waves = np.sin(anatomy.waves @ at + anatomy.phases[:, None])
    return ((at - MIDDLE[:, None]) / anatomy.scale[:, None] + MIDDLE[:, None] + anatomy.shifts @ waves).astype(
        np.float32
    )


def _from_template(anatomy: Anatomy, point: np.ndarray) -> np.ndarray:
    at = point.astype(np.float32)[:, None]
    for _ in range(12):
        at = at + (point[:, None] - _to_template(anatomy, at))
    return at[:, 0]


def _step(x: np.ndarray) -> np.ndarray:
    return np.clip(x + 0.5, 0, 1)


def _scan(
    anatomy: Anatomy, plane: str, phantom: params.Phantom, tilt, enhancement: float, rng
) -> tuple[np.ndarray, np.ndarray]:
    ours = phantom.hospital == "a"
    turn = _rotation(tilt + rng.normal(0, 2, 3))
    # Rows run down and columns to the right as radiologists look at them: the patient's right, or the face, on the left.
    down, right = {
        "axial": ((0, -1, 0), (-1, 0, 0)),
        "coronal": ((0, 0, -1), (-1, 0, 0)),
        "sagittal": ((0, 0, -1), (0, -1, 0)),
    }[plane]
    down, right = turn @ down, turn @ right
    normal = np.cross(down, right)
    target = _from_template(anatomy, anatomy.centre)
    field = (rng.uniform(225, 255) if ours else rng.uniform(200, 225)) * (1.06 if plane == "sagittal" else 1.0)
    middle = np.array({"axial": (0, -16, 0), "coronal": (0, 0, -4), "sagittal": (0, -8, -6)}[plane]) + rng.normal(
        0, 3, 3
    )
    middle = middle + normal * ((target - middle) @ normal)
    grid = (np.arange(phantom.size) + 0.5) / phantom.size - 0.5
    inside = middle[:, None, None] + field * (down[:, None, None] * grid[:, None] + right[:, None, None] * grid)
    flat = inside.reshape(3, -1).astype(np.float32)
    image, mask = np.zeros(flat.shape[1], np.float32), np.zeros(flat.shape[1], bool)
    reach = float(anatomy.radii.min()) * rng.uniform(-0.65, 0.65)
    for part in (1.0, 0.5, 0.0):
        at = _to_template(anatomy, flat + (normal * reach * part).astype(np.float32)[:, None])
        near = np.clip(at - ORIGIN[:, None], 0, np.array(SHAPE)[:, None] - 1).astype(np.int32)
        shown = _head()[(*near, SKIN)] < 4 * (40 + 3)
        at = at[:, shown]
        head = _sample(_head(), at - ORIGIN[:, None])
        if anatomy.label == NO_TUMOR:
            outside = None
            break
        outside = _outside(anatomy, at, head[DEPTH] / 4 - 24)
        if (outside <= 0).sum() >= 12:
            break
    image[shown] = _look(anatomy, at, head, outside, enhancement, ours)
    if outside is not None:
        mask[shown] = outside <= 0
    size = (phantom.size, phantom.size)
    return _acquire(image.reshape(size), ours, rng), mask.reshape(size)


def _look(anatomy: Anatomy, at, head, outside, enhancement: float, ours: bool) -> np.ndarray:
    """Return brightness, 0 to about 1, of a slice's points as a T1-weighted scan with contrast agent shows them."""
    depth, skin = head[DEPTH] / 4 - 24, head[SKIN] / 4 - 40
    if outside is not None:
        # A tumour takes its place by pushing the brain aside: points near it show what was nearer its centre.
        way = at - anatomy.centre[:, None]
        far = np.maximum(np.linalg.norm(way / anatomy.radii[:, None], axis=0), 1)
        pushed = anatomy.centre[:, None] + way * np.cbrt(1 - 0.55 / far**3)
        head[: WHITE + 1] = _sample(_head(), pushed - ORIGIN[:, None], slice(WHITE + 1))
    t1, white, face, vessel = (head[c] / 255 for c in (T1, WHITE, FACE, VESSEL))
    grain, dots = _noise(at, 3.5, anatomy.texture)

    def over(below, value, alpha):
        return below + alpha * (value - below)

    grey_level, white_level = (0.34, 0.41) if ours else (0.36, 0.50)
    inner, outer = 2.6, 2.6 + anatomy.skull
    image = over(face, 0.92 + 0.05 * grain, _step(skin + anatomy.scalp))
    image = over(image, 0.60, _step(skin + 1.5))
    image = over(image, 0.05, _step(outer - depth))
    image = over(image, anatomy.marrow + 0.06 * grain, _step(outer - 1.8 - depth) * _step(depth - inner - 1.6))
    image = over(image, 0.30 + 0.30 * enhancement, _step(inner - depth))
    image = over(image, 0.12, _step(inner - 0.9 - depth))
    levels = np.interp(
        t1,
        [0, 0.2, 0.36 + 0.08 * anatomy.atrophy, 0.65, 0.87, 1],
        [0, 0.11, 0.13, grey_level, white_level, white_level + 0.02],
    )
    image = over(image, levels + 0.008 * grain, np.clip(t1 / 0.2, 0, 1) * _step(2 - depth))
    sulcus = np.clip((0.62 - t1) * 6, 0, 1) * _step(1.5 - depth) * _step(depth + 14)
    image = over(image, 0.75 * enhancement, np.clip(dots - 1.5, 0, 1) * sulcus)
    midline = np.abs(at[0])
    falx = np.clip(1.2 - midline, 0, 1) * _step(depth + 26) * _step(1 - depth) * _step(at[2] - 18 + 0.2 * at[1])
    image = over(image, 0.55 * enhancement, falx)
    sinus = (
        _step(3.8 - midline - 0.4 * np.abs(depth - 3)) * _step(5 - depth) * _step(depth + 1.5) * _step((at[2] - 5) / 4)
    )
    image = over(image, 0.95 * enhancement, sinus)
    image = over(image, 0.95 * enhancement, vessel)
    image = image * _step(-skin)
    return image if outside is None else _with_tumour(image, anatomy, at, outside, white, depth)


def _with_tumour(image, anatomy: Anatomy, at, outside, white, depth) -> np.ndarray:
    mottle, edge = _noise(at, 4.5, anatomy.texture + 7)
    swollen = (
        np.clip((anatomy.oedema + 3 * edge - outside) / 5, 0, 1)
        * (anatomy.oedema > 0)
        * (0.25 + 0.75 * white)
        * _step(-1 - depth)
    )
    image = image * (1 - 0.38 * swollen)
    bright = anatomy.bright
    if anatomy.label == "glioma":
        if anatomy.style < 0.6:
            wall = anatomy.rim + 0.8 * mottle
            value = (
                anatomy.core
                + 0.03 * edge
                + (bright - anatomy.core) * np.clip((outside + wall) / 1.5 + 0.5, 0, 1) * (1 + 0.12 * edge)
            )
        elif anatomy.style < 0.85:
            value = 0.30 + (bright - 0.30) * np.clip(0.45 + 0.6 * mottle, 0, 1)
        else:
            value = 0.22 + 0.04 * mottle + 0.25 * bright * np.clip(edge - 1, 0, 1)
    elif anatomy.label == "pituitary":
        hollow = np.clip(mottle - 0.4, 0, 1) if anatomy.style < 0.3 else 0.0
        value = bright * (1 + 0.05 * edge) * (1 - 0.5 * hollow)
    else:
        image = image + np.clip(1 - np.abs(outside - 1) / 1.2, 0, 1) * _step(-1 - depth) * (0.14 - image)
        near = np.clip(1 - outside / 12, 0, 1) * _step(1.2 - np.abs(depth - 1.5))
        image = image + near * (bright - image)
        hollow = np.clip(mottle - 1.2, 0, 1) if anatomy.style < 0.25 else 0.0
        value = bright * (1 + 0.04 * edge) * (1 - 0.5 * hollow)
    return image + _step(-outside) * (value - image)


def _acquire(image: np.ndarray, ours: bool, rng: np.random.Generator) -> np.ndarray:
    """Return what a scanner makes of a slice: blur, uneven coil, Rician noise, a window of 8 bits."""
    size = image.shape[0]
    blur, sigma = (
        (rng.uniform(0.35, 0.6), rng.uniform(0.010, 0.025))
        if ours
        else (rng.uniform(0.5, 0.9), rng.uniform(0.015, 0.04))
    )
    image = ndimage.gaussian_filter(image, blur * size / 192)
    v, u = np.ogrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    a, b, c = rng.normal(0, [0.12, 0.12, 0.10 if ours else 0.2])
    image = image * np.exp(a * u + b * v + c * (u**2 + v**2))
    noise = rng.normal(0, sigma, (2, size, size))
    image = np.hypot(image + noise[0], noise[1])
    image = image / np.percentile(image, rng.uniform(98.5, 99.7))
    return np.rint(255 * np.clip(image, 0, 1) ** (1.0 if ours else rng.uniform(0.75, 1.0))).astype(np.uint8)
