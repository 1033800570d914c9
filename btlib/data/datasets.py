"""A data set as the rest of the study sees it: its manifest, its fingerprint, its prepared slices."""

import functools
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from tqdm.auto import tqdm

from btlib import DataError, files, home, params, watched
from btlib.data import figshare, folders, phantom, preprocessing
from btlib.data import manifest as manifests
from btlib.data import table as tables

READERS = {"figshare": figshare, "folders": folders, "table": tables}


@dataclass(frozen=True)
class Dataset:
    """Prepared slices of one data set: row i of `manifest` is `images[i]` and `masks[i]`, read from disk when asked.

    Both are uint8 (n, S, S), and cannot be written to; masks are of 0 and 1, and zeros for a slice without one.
    """

    manifest: pd.DataFrame
    fingerprint: str
    path: Path
    images: np.ndarray
    masks: np.ndarray


def load(data: params.Data, how: params.Preprocessing, copies_from: params.Data | None = None) -> Dataset:
    """Return a data set with its slices decoded, cropped and resized; done once, kept in one file. Every notebook.

    Args:
        data: which data set; DataError where it is not there or cannot be used.
        how: slices are prepared.
        copies_from: for a phantom of hospital b with copies, the data set they are copied from.
    """
    table = manifest(data, copies_from)
    name = fingerprint(data, copies_from)
    path = _cache() / f"{name}-{digits(how.model_dump_json(), _version())}.npy"
    _once(path, lambda: build(data, how, table, path))
    slices = np.asarray(np.load(path, mmap_mode="r"))
    return Dataset(table, name, path, slices[:, 0], slices[:, 1])


def manifest(data: params.Data, copies_from: params.Data | None = None) -> pd.DataFrame:
    """Return a data set's manifest, with what its reader says in `attrs`; kept until a file's name, size or time changes.

    A phantom is made first where it is missing. Arguments and errors as for `load`.
    """
    return _known(data, copies_from)[0]


def fingerprint(data: params.Data, copies_from: params.Data | None = None) -> str:
    """Return 16 hex digits that change when any slice, label or patient of the data set does. Arguments as for `load`."""
    if data.phantom is not None:
        source = fingerprint(copies_from) if copies_from is not None else ""
        return digits(data.phantom.model_dump_json(), str(phantom.VERSION), source)
    return _known(data, copies_from)[1]


def author_folds(data: params.Data) -> pd.Series | None:
    """Return the author's fold by image_id (`figshare.match`), or None where the data set has no cvind.mat. Notebook 01."""
    numbered = figshare.folds(folder(data)) if _reader(data) is figshare else None
    return None if numbered is None else figshare.match(numbered, manifest(data))


def read(data: params.Data, path: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return one slice as it is stored: image (H, W) and mask, bool (H, W) or None; `path` is the manifest's."""
    return _reader(data).read(folder(data), path)


def _version() -> str:
    """Part of the name of all that is kept: planes and pixels come from `preprocessing`."""
    return f"preprocessing {preprocessing.VERSION}"


def folder(data: params.Data) -> Path:
    """Return a data set's folder, or the CSV file of a table; a relative path starts at `btlib.home()`."""
    return home() / data.path


def absent(data: params.Data) -> str:
    """Say that a data set is not there and how to get it; empty where it is there, and for phantoms, which are made."""
    root = folder(data)
    if data.patients and not (home() / data.patients).is_file():
        return f"{home() / data.patients}: no such table of patients; `python -m btlib audit {data.path} SETS --patients FOLDER/` writes one a set"
    if data.phantom is not None or (root.is_file() if data.source == "table" else root.is_dir()):
        return ""
    kind = "table" if data.source == "table" else "data folder"
    how = f"get it from {data.origin} and put it there" if data.origin else "put it there"
    how = f"`python -m btlib fetch figshare {data.path}` downloads it" if data.source == "figshare" else how
    return f"{root}: no such {kind}; {how}, or change its path in the parameter file"


def _reader(data: params.Data):
    if data.phantom is not None:
        return figshare if data.phantom.hospital == "a" else folders
    return READERS[data.source]


def _known(data: params.Data, copies_from: params.Data | None) -> tuple[pd.DataFrame, str]:
    root = folder(data)
    if data.phantom is not None:
        phantom.generate(root, data.phantom, folder(copies_from) if copies_from is not None else None)
    elif lack := absent(data):
        raise DataError(lack)
    stands_on = _listing(root) + ([_stamp(home() / data.patients)] if data.patients else [])
    said = data.model_dump_json(exclude={"origin", "required"})
    version = f"{_version()}, manifest {manifests.VERSION}"
    path = _cache() / f"slices-{digits(str(root.resolve()), said, version, *stands_on)}.json"
    _once(path, lambda: _write_manifest(data, path))
    kept = json.loads(path.read_text(encoding="utf-8"))
    table = pd.DataFrame(kept["slices"])
    table.attrs |= {"skipped": [tuple(pair) for pair in kept["skipped"]], "passed_over": kept["passed_over"]}
    return table, kept["fingerprint"]


def _write_manifest(data: params.Data, path: Path) -> None:
    root, reader = folder(data), _reader(data)
    if reader is figshare:
        slices = figshare.manifest(root, data.unreadable)
    else:
        labels = phantom.LABELS if data.phantom is not None else data.labels
        slices = reader.manifest(root, labels, data.unreadable)
    if data.patients:
        slices = tables.join_patients(slices, home() / data.patients)
    kept = {"fingerprint": manifests.fingerprint(slices), **slices.attrs, "slices": slices.to_dict("list")}
    files.write_text(path, json.dumps(kept))


def build(data: params.Data, how: params.Preprocessing, table: pd.DataFrame, path: Path) -> None:
    """Prepare a manifest's slices on all cores and write images and masks as one .npy file, uint8 (n, 2, S, S)."""
    shape = (len(table), 2, how.image_size, how.image_size)
    work = functools.partial(_prepare, _reader(data).read, folder(data), how)
    with (
        files.replacing(path) as temporary,
        open(temporary, "wb") as file,
        tqdm(total=len(table), desc=f"preparing {data.path}", unit="slice", leave=False, disable=not watched()) as bar,
    ):
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for image_and_mask in files.spread(work, list(table["path"])):
            file.write(image_and_mask)
            bar.update()


def _prepare(read_, root: Path, how: params.Preprocessing, path: str) -> np.ndarray:
    return np.stack(preprocessing.prepare(*read_(root, path), how))


def _once(path: Path, make: Callable) -> None:
    """Make a file that is not there yet, in one process while others wait."""
    if not path.exists():
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                make()


def _listing(root: Path) -> list[str]:
    """Name, size and time of every file under a folder, or that a table names: enough to notice a change without reading."""
    if root.is_file():
        return [_stamp(root.parent / name) for name in tables.listed(root)]
    return sorted(_stamp(os.path.join(folder, name)) for folder, _, names in os.walk(root) for name in names)


def _stamp(path: Path | str) -> str:
    try:
        about = os.stat(path)  # a link's own time says nothing of what it leads to
    except OSError:
        return f"{path}\x1fabsent"
    return f"{path}\x1f{about.st_size}\x1f{about.st_mtime_ns}"


def _cache() -> Path:
    path = home() / "data" / ".cache"
    path.mkdir(parents=True, exist_ok=True)
    return path


def digits(*parts: str) -> str:
    """Return 16 hex digits that stand for these texts: the name of what depends on them and nothing else."""
    return hashlib.sha256("\x1e".join(parts).encode()).hexdigest()[:16]
