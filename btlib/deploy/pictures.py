"""Pictures of any kind as the audit sees them: whose they are, how they are labelled, and the head of each."""

import functools
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd

from btlib import DataError, files
from btlib.data import figshare, folders, preprocessing, table
from btlib.data import manifest as manifests
from btlib.scores import heads

MATLAB = ".mat"
TABLE = ("path", "label", "patient_id", "mask", "part")
"""Columns of a CSV table; all but the first may be absent, and masks are not looked at."""
COLUMNS = ("image", "path", "label", "part", "patient", "digest")
PREPARED = SimpleNamespace(image_size=160, crop_to_head=True, low_percentile=0.5, high_percentile=99.5)


@dataclass(frozen=True)
class Pictures:
    """The readable pictures of one input: row i of `table` (`COLUMNS`) is `heads[i]`; `skipped` names the others."""

    name: str
    root: Path
    table: pd.DataFrame
    heads: np.ndarray
    skipped: list[str]

    def prepared(self, image: str) -> np.ndarray:
        """Return one picture, uint8 (160, 160), cropped to its head's square, for people to look at."""
        path = self.table.set_index("image")["path"][image]
        return _prepared(_pixels(self.root, path))


def read(path: Path, name: str | None = None, strict: bool = False) -> Pictures:
    """Read every picture of a folder, a CSV table, or one file, on all cores.

    Folders are searched at any depth for JPEG, PNG and WebP pictures and for Figshare's .mat files. A picture's label
    is the name of the nearest folder inside `path`; Training and Testing are parts, not labels. Figshare's files hold
    label and patient id themselves. A CSV table has the columns `TABLE`, its paths relative to it.

    Args:
        path: folder, .csv or picture.
        name: what to call the set; the last part of `path` where None.
        strict: whether a picture that cannot be read is an error, rather than left out and listed in `skipped`.

    Raises:
        DataError: nothing is there, the table cannot be used, two rows are one picture, or no picture can be read.
    """
    path = Path(path)
    root, rows = _listing(path)
    results = list(files.spread(functools.partial(_row, root), rows))
    skipped = [str(result) for result in results if isinstance(result, DataError)]
    readable = [result for result in results if not isinstance(result, DataError)]
    if skipped and (strict or not readable):
        raise DataError(f"{skipped[0]} ({len(skipped)} of {len(rows)} pictures of {path} cannot be read)")
    read_ = pd.DataFrame([row for row, _ in readable], columns=COLUMNS)
    stems = read_["path"].map(lambda p: PurePosixPath(p).stem if p.lower().endswith(MATLAB) else p)
    read_["image"] = read_["path"] if stems.duplicated().any() else stems
    return Pictures(name or path.name, root, read_, np.stack([head for _, head in readable]), skipped)


def _listing(path: Path) -> tuple[Path, list[dict]]:
    if path.suffix.lower() == ".csv" and path.is_file():
        return path.parent, _table(path)
    if _readable(path.name) and path.is_file():
        return path.parent, [_described(path.name)]
    if not path.is_dir():
        raise DataError(f"{path}: no such folder, .csv table or picture ({', '.join((*folders.ENDINGS, MATLAB))})")
    paths = [name for name in files.listing(path)[0] if _readable(files.leaf(name))]
    if not paths:
        raise DataError(f"{path}: no pictures found; allowed: {', '.join((*folders.ENDINGS, MATLAB))}, at any depth")
    return path, [_described(p) for p in paths]


def _readable(name: str) -> bool:
    return name.lower().endswith((*folders.ENDINGS, MATLAB)) and not name.startswith(".") and name != figshare.FOLDS


def _described(path: str) -> dict:
    names = PurePosixPath(path).parts[:-1]
    labels = [name for name in names if name.lower() not in folders.PARTS]  # Training and Testing are no labels
    parts = [folders.PARTS[name.lower()] for name in names if name.lower() in folders.PARTS]
    label = "" if path.lower().endswith(MATLAB) else (labels or [""])[-1]
    return {"path": path, "label": label, "part": (parts or [""])[-1], "patient": ""}


def _table(path: Path) -> list[dict]:
    lines = table.rows(path, TABLE[:1])
    if unknown := [name for name in lines[0] if name and name not in TABLE]:
        raise DataError(f"{path}: has a column {unknown[0]!r}; allowed: {', '.join(TABLE)}")
    paths = pd.Series([line["path"] for line in lines])
    if paths.duplicated().any():
        raise DataError(f"{path}: {paths[paths.duplicated()].iloc[0]!r} stands in more than one row")
    rows = []
    for line in lines:
        part = folders.PARTS.get(line.get("part", "").lower(), line.get("part", ""))
        if part not in manifests.PARTS:
            words = ", ".join(a or "empty" for a in manifests.PARTS)
            raise DataError(f"{path}, line {line['']}: part is {part!r}; allowed: {words}")
        about = {"path": line["path"], "label": line.get("label", ""), "part": part}
        rows.append(about | {"patient": line.get("patient_id", "")})
    return rows


def _row(root: Path, row: dict) -> tuple[dict, np.ndarray] | DataError:
    try:
        pixels = _pixels(root, row["path"])
        row = row | {"digest": manifests.identity(pixels, None)}
        if row["path"].lower().endswith(MATLAB):
            # A table's own words about a slice go before the file's.
            row |= {key: row[key] or value for key, value in _facts(root / row["path"]).items()}
        return row, heads.head(_prepared(pixels))
    except (DataError, OSError) as error:
        return DataError(str(error))


def _pixels(root: Path, path: str) -> np.ndarray:
    return (figshare if path.lower().endswith(MATLAB) else folders).read(root, path)[0]


def _prepared(pixels: np.ndarray) -> np.ndarray:
    return preprocessing.prepare(pixels, None, PREPARED)[0]


def _facts(path: Path) -> dict:
    """Return label and patient of a Figshare file that `figshare.read` has checked."""
    with h5py.File(path) as file:
        slice_ = file["cjdata"]
        label, codes = int(slice_["label"][0, 0]), slice_["PID"][()].ravel()
    return {"label": figshare.CLASSES[label - 1], "patient": "".join(map(chr, codes)).strip()}
