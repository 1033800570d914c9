"""Figshare article 1512427 (Cheng 2017): MATLAB slices, their tumour masks and the author's five folds."""

import functools
import math
import re
import warnings
import zipfile
from pathlib import Path, PurePosixPath

import h5py
import numpy as np
import pandas as pd

from btlib import DataError, files, watched
from btlib.data import manifest as manifests
from btlib.data import preprocessing

CLASSES = ("meningioma", "glioma", "pituitary")
"""Names of the labels 1, 2 and 3."""

DOI = "10.6084/m9.figshare.1512427"
FOLDS = "cvind.mat"
MAX_SIDE = 4096
FIELDS = {
    "cjdata": {"PID": (1, 64), "image": (16, MAX_SIDE), "tumorMask": (16, MAX_SIDE), "label": (1, 64)},
    "cvind": {"cvind": (1, 1_000_000)},
}
"""What is read of each variable, and the smallest and largest that a dimension of it may be."""

SLICE = "PID, image, label and tumorMask in a struct cjdata"


def manifest(path: Path, unreadable: str = "error") -> pd.DataFrame:
    """Return the manifest of the .mat files under a folder, at any depth, in the order of their numbers. Notebook 01.

    `unreadable` is as for `manifest.gather`. DataError where the folder is missing, holds no slices or a zip file with
    others, or a slice cannot be used.

    Source: Cheng et al. 2015, doi 10.1371/journal.pone.0140381.
    """
    path = Path(path)
    names, passed_over = _listing(path)
    return manifests.gather(functools.partial(_row, path), names, names, unreadable, path, passed_over)


def read(root: Path, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a slice of the manifest and its tumour mask, both upright; DataError where it cannot be used. Notebook 01.

    Returns:
        image (H, W) in the file's own dtype and scanner units; mask, bool (H, W).
    """
    slice_ = _decode(Path(root), path)
    return slice_["image"], slice_["mask"]


def folds(path: Path) -> pd.Series | None:
    """Return the author's fold, 1 to 5, by the author's number of the slice, from 1; None without cvind.mat. Notebook 01."""
    root = Path(path)
    paths = [name for name in _files(root)[0] if files.leaf(name).lower() == FOLDS]
    if not paths:
        return None
    if len(paths) > 1:
        raise DataError(f"{root}: holds {FOLDS} more than once: {', '.join(paths)}; take all but one away")
    name = f"{root / paths[0]}"
    numbers = _struct(files.content(root, paths[0]), name, "cvind")["cvind"].ravel()
    if not len(numbers) or not np.isin(numbers, (1, 2, 3, 4, 5)).all():
        raise DataError(f"{name}: cvind must hold the author's fold, 1 to 5, of every slice; download the file again")
    return pd.Series(numbers.astype(int), index=pd.RangeIndex(1, len(numbers) + 1), name="fold")


def match(numbered: pd.Series, table: pd.DataFrame) -> pd.Series:
    """Return the author's fold by image_id, found by the number in its name: 1, 0001 and slice_1 are the author's first.

    `numbered` is what `folds` returned, `table` what `manifest` did; slices that it skipped use up their folds. DataError
    where names give no number, or slices or folds are left over.
    """
    image_ids = [*table["image_id"], *(_stem(path) for path, _ in table.attrs.get("skipped", []))]
    numbers = _numbers(image_ids)
    if numbers is None or len(set(numbers)) < len(numbers):
        problem = f"the slices' names give no number for each ({', '.join(image_ids[:3])}, ...)"
    elif left_over := sorted(set(numbers) ^ set(numbered.index)):
        shown = ", ".join(map(str, left_over[:3])) + (", ..." if len(left_over) > 3 else "")
        problem = f"{len(left_over)} numbers have a slice or a fold, not both ({shown})"
    else:
        return pd.Series(numbered.loc[numbers].to_numpy(), index=image_ids, name="fold")[: len(table)]
    raise DataError(
        f"{FOLDS}: has the folds of slices 1 to {len(numbered)}, and {len(image_ids)} slices are there: {problem}; name "
        f"the slices as their author does, 1.mat to {len(numbered)}.mat, and put all there, or take {FOLDS} away"
    )


def _numbers(names: list[str]) -> list[int] | None:
    """Return the one number that tells names apart, or None where other things do as well."""
    pieces = [re.split("([0-9]+)", name) for name in names]
    if len(set(map(len, pieces))) > 1:
        return None
    columns = list(zip(*pieces, strict=True))
    telling = [column for column in columns if len(set(column)) > 1] or columns[1:2]
    if len(telling) != 1 or not all(map(str.isdigit, telling[0])):
        return None
    return [int(number) for number in telling[0]]


def fetch(dest: Path) -> Path:
    """Download the article's files into a folder and unpack them; what is there already is kept, so a second call resumes.

    DataError without a network, or at a wrong answer or checksum; a file is whole and right or not there.
    """
    import pooch
    import requests

    dest, page = Path(dest), f"https://doi.org/{DOI}"
    pooch.get_logger().setLevel("WARNING")
    store, name = pooch.create(path=dest, base_url=f"doi:{DOI}"), "the list of files"
    try:
        with warnings.catch_warnings(action="ignore"):  # that the latest version is taken
            store.load_registry_from_doi()
            for name, md5 in store.registry.items():
                if not (re.fullmatch(r"[\w][\w. -]*", str(name)) and re.fullmatch(r"md5:[0-9a-f]{32}", str(md5))):
                    raise ValueError(f"no name, or no checksum: {md5!r}; nothing was downloaded")
            for name in store.registry:
                unpack = pooch.Unzip(extract_dir=name[:-4]) if name.lower().endswith(".zip") else None
                store.fetch(name, processor=unpack, downloader=pooch.DOIDownloader(progressbar=watched()))
    except (requests.RequestException, LookupError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{page}: {name} could not be had ({type(error).__name__}: {error}); run it again with a network, or unpack the "
            f"four .zip files of {page} into {dest} and put {FOLDS} beside them"
        ) from None
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(dest / name)) from error
    return dest


def _files(path: Path) -> tuple[list[str], list[str]]:
    if not path.is_dir():
        raise DataError(
            f"{path}: no such folder; `python -m btlib fetch figshare {path}` downloads the slices, or give the folder "
            f"that holds the unpacked zip files and {FOLDS} of doi {DOI}"
        )
    return files.listing(path)


def _listing(path: Path) -> tuple[list[str], list[str]]:
    """Return the slices' paths in the order of their numbers, and the other files."""
    names, passed_over = _files(path)
    slices = [name for name in names if name.lower().endswith(".mat") and files.leaf(name).lower() != FOLDS]
    archives = [name for name in names if name.lower().endswith(".zip")]
    if not slices:
        unpack = f"; unpack there: {', '.join(archives)}" if archives else ""
        raise DataError(f"{path}: no slices found; expected .mat files{unpack}")
    for archive in archives:
        files.check_unpacked(path / archive, names, (".mat", ".zip"))
    others = [name for name in names if name not in set(slices) and files.leaf(name).lower() != FOLDS]
    return sorted(slices, key=_natural), sorted([*passed_over, *others])


def _stem(name: str) -> str:
    return PurePosixPath(files.leaf(name)).stem


def _natural(name: str) -> tuple:
    """Sort key that puts 2.mat before 10.mat."""
    pieces = [piece for piece in re.split("([0-9]+)", _stem(name)) if piece]
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in pieces], name


def _row(root: Path, path: str) -> dict:
    slice_ = _decode(root, path)
    image, mask = slice_.pop("image"), slice_.pop("mask")
    return manifests.row(path, image, mask, image_id=_stem(path), plane=preprocessing.plane(image), **slice_)


def _decode(root: Path, path: str) -> dict:
    """Check and unpack one slice: image, mask, label, patient_id."""
    name = f"{root / path}"
    fields = _struct(files.content(root, path), name, "cjdata")
    image, mask = fields["image"], fields["tumorMask"]
    if image.shape != mask.shape:
        raise DataError(f"{name}: image is {_size(image)} but tumorMask is {_size(mask)}; they must be alike")
    for key, array in (("image", image), ("tumorMask", mask)):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"{name}: {key} has pixels that are NaN or infinite; all must be finite")
    label = fields["label"].ravel()
    if label.size != 1 or label[0] not in (1, 2, 3):
        found = f"{label[0]:g}" if label.size == 1 else f"{label.size} values"
        raise DataError(f"{name}: label is {found}; allowed: 1 (meningioma), 2 (glioma), 3 (pituitary tumour)")
    codes = fields["PID"]
    plain = codes.dtype.kind in "iu" and ((codes >= 32) & (codes <= 126)).all()
    patient = "".join(map(chr, codes.ravel())).strip() if plain else ""
    if not patient:
        raise DataError(f"{name}: PID is no text of 1 to 64 plain characters; download the file again")
    return {"image": image, "mask": mask != 0, "label": CLASSES[int(label[0]) - 1], "patient_id": patient}


def _size(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape))


def _struct(data: bytes, name: str, wanted: str) -> dict:
    """Read the variable `wanted` of a MATLAB file of version 7.3."""
    try:
        if b"\x89HDF\r\n\x1a\n" in (data[:8], data[512:520]):
            with h5py.File.in_memory(data) as file:
                return _from_hdf5(file, name, wanted)
    except DataError:
        raise
    except Exception as error:  # damaged and hostile bytes fail in whatever way they fail
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(f"{name}: truncated or damaged MATLAB file ({reason}); download it again") from None
    if data[124:128] in (b"\x00\x01IM", b"\x01\x00MI"):
        raise DataError(f"{name}: a MATLAB file of version 5; load it in MATLAB and save it again with '-v7.3'")
    raise DataError(f"{name}: no MATLAB file of version 7.3; truncated, damaged or of another kind")


def _from_hdf5(file: h5py.File, name: str, wanted: str) -> dict:
    def member(group, key):
        # Links may point to other files; only what lies in this one is read.
        if isinstance(group, h5py.Group) and isinstance(group.get(key, getlink=True), h5py.HardLink):
            return group[key]
        names = list(group)[:8] if isinstance(group, h5py.Group) else []
        if "cvind" in names:
            raise DataError(f"{name}: holds cvind, the author's folds, and no slice; call it {FOLDS}")
        raise DataError(f"{name}: has no {key} but {', '.join(sorted(names)) or 'nothing'}; a slice has {SLICE}")

    group = file if wanted == "cvind" else member(file, wanted)
    result = {}
    for key in FIELDS[wanted]:
        dataset = member(group, key)
        _check(dataset, name, key)
        if dataset.external or dataset.is_virtual:
            raise DataError(f"{name}: {key} lies in another file; a slice holds its own pixels")
        result[key] = dataset[()].T
    return result


def _check(array: h5py.Dataset, name: str, key: str) -> None:
    """Check type and shape as declared, before anything is allocated."""
    if not isinstance(array, h5py.Dataset) or array.shape is None or array.dtype.kind not in "biuf":
        raise DataError(f"{name}: {key} is no array of numbers; a slice has {SLICE}")
    smallest, largest = FIELDS["cvind" if key == "cvind" else "cjdata"][key]
    if key == "cvind" and len(array.shape) == 2 and min(array.shape) > 1:
        raise DataError(f"{name}: cvind is declared as {_size(array)}; allowed: one row or one column of folds")
    if len(array.shape) != 2 or not all(smallest <= n <= largest for n in array.shape):
        raise DataError(
            f"{name}: {key} is declared as {_size(array)}; allowed: two dimensions of {smallest} to {largest} each"
        )
    if math.prod(array.chunks or (1,)) > MAX_SIDE**2:
        raise DataError(f"{name}: {key} is stored in chunks of {array.chunks}; allowed: {MAX_SIDE**2:,} values a chunk")
