"""CSV tables: of slices (where they lie, what they show, whose they are, where their masks are), and of class folders' patients."""

import csv
import functools
import io
import os
import re
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from btlib import DataError
from btlib.data import folders
from btlib.data import manifest as manifests

NEEDED = ("path", "label")
RESERVED = ("image_id", "width", "height", "mask_area", "sha256", "role")
"""Columns of the manifest and of splits that the reader alone fills."""

COPIES_OF = "copies of {}"
"""Name of a group that is known by one of its images alone, and by no patient."""


def manifest(path: Path, labels: dict[str, str] | None = None, unreadable: str = "error") -> pd.DataFrame:
    """Return the manifest of a table's slices, by path, every picture and mask decoded once to prove that it can be.

    Args:
        path: the CSV file, UTF-8, separated by commas, with a header: path and label; if wanted patient_id, patient_group,
            plane, part and mask, which may be empty in any row; any further columns, which the manifest keeps. Paths are
            relative to the CSV's folder.
        labels: the table's label -> class, where they differ.
        unreadable: as for `manifest.gather`.

    Raises:
        DataError: the table cannot be read, lacks a column, names a slice twice, or holds a value that is not allowed; or,
            unless skipped, a slice or mask cannot be decoded. The message names line and file.
    """
    path = Path(path)
    lines = sorted(_lines(path, labels), key=lambda line: line["path"])
    paths = [line["path"] for line in lines]
    return manifests.gather(functools.partial(_row, path), lines, paths, unreadable, path, passed_over=[])


def read(path: Path, slice_: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a slice of a table as `folders.read` gives it, and its mask, bool (H, W), or None where the table names none.

    DataError where a file cannot be decoded, or the mask is none of this slice.
    """
    path = Path(path)
    return _decode(path, slice_, _masks(path, os.stat(path).st_mtime_ns)[slice_])


def listed(path: Path) -> list[str]:
    """Return the files that a table stands on, relative to its folder: the CSV, and where it can be read what it names."""
    path = Path(path)
    try:
        lines = rows(path, NEEDED)
    except DataError:
        return [path.name]
    return [path.name, *(line[column] for line in lines for column in ("path", "mask") if line.get(column))]


def rows(path: Path, needed: tuple[str, ...]) -> list[dict[str, str]]:
    """Read a CSV table as text: UTF-8, with or without a byte order mark, separated by commas, with a header.

    Returns:
        A dict a row: its cells by column, without spaces around them, and under "" the number of its line.

    Raises:
        DataError: the file is not there or no such table; a column is missing, stands twice or has no plain name; a row has
            more or fewer cells than the header. The message names the line.
    """
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    table: list[dict[str, str]] = []
    header: list[str] = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not header:
                header = _header(path, cells, needed)
            elif len(cells) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: has {len(cells)} cells; the header has {len(header)}. A cell that "
                    'holds a comma stands in "quotes"'
                )
            else:
                table.append({**dict(zip(header, cells, strict=True)), "": str(reader.line_num)})
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: cannot be read as CSV ({error})") from None
    if not table:
        raise DataError(f"{path}: lists nothing; it needs a header with {', '.join(needed)} and a row a slice")
    return table


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            raise DataError(f"{path}: no such file; it should be a CSV table")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no UTF-8 text (byte {error.start}); save it as CSV UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _header(path: Path, names: list[str], needed: tuple[str, ...]) -> list[str]:
    if missing := [name for name in needed if name not in names]:
        raise DataError(
            f"{path}, line 1: has no column {' or '.join(missing)}; found {', '.join(map(repr, names[:12]))}. The header "
            "names the columns, with commas between them"
        )
    for name in names:
        if names.count(name) > 1 or not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name):
            raise DataError(f"{path}, line 1: column {name!r}; allowed: each once, letters, digits and _")
    return names


def _lines(path: Path, labels: dict[str, str] | None) -> list[dict[str, str]]:
    """The table's rows, their values checked, labels and parts in the study's words."""
    lines, first = rows(path, NEEDED), {}
    if taken := sorted(set(lines[0]) & set(RESERVED)):
        raise DataError(f"{path}, line 1: column {taken[0]!r} is the reader's own; give it another name")
    for line in lines:
        where = f"{path}, line {line['']}"
        for column in ("path", "mask"):
            _check_path(where, column, line.get(column, ""))
        if (other := first.setdefault(line["path"], line[""])) != line[""]:
            raise DataError(f"{where}: {line['path']} stands in line {other} too; allowed: once")
        if labels is not None and line["label"] not in labels:
            raise DataError(f"{where}: {line['path']}: label is {line['label']!r}; mapped are {', '.join(labels)}")
        line["label"] = labels[line["label"]] if labels is not None else line["label"]
        line["part"] = folders.PARTS.get(line.get("part", "").lower(), line.get("part", ""))
        line["plane"] = line.get("plane", "") or "unknown"
        manifests.check_words(f"{where}: {line['path']}", line["label"], line["plane"], line["part"])
    return lines


def _check_path(where: str, column: str, path: str) -> None:
    if not path and column == "path":
        raise DataError(f"{where}: path is empty")
    parts = PurePosixPath(path).parts
    if "\\" in path or PurePosixPath(path).is_absolute() or ".." in parts or path != "/".join(parts):
        raise DataError(
            f"{where}: {column} is {path!r}; allowed: a path below the table's folder, such as scans/1.png, with / between "
            "folders"
        )


def _row(path: Path, line: dict[str, str]) -> dict:
    try:
        image, mask = _decode(path, line["path"], line.get("mask", ""))
    except DataError as error:
        raise DataError(f"{path}, line {line['']}: {error}") from None
    known = {"patient_group": "", "mask": ""} | {name: text for name, text in line.items() if name}
    known["patient_id"] = known.get("patient_id") or line["path"]
    return manifests.row(line["path"], image, mask, **known)


def _decode(path: Path, slice_: str, mask: str) -> tuple[np.ndarray, np.ndarray | None]:
    image, _ = folders.read(path.parent, slice_)
    if not mask:
        return image, None
    drawn, _ = folders.read(path.parent, mask)
    name = f"{path.parent}/{mask}"
    if drawn.shape != image.shape:
        sizes = (f"{a.shape[1]} x {a.shape[0]}" for a in (drawn, image))
        raise DataError(f"{name}: is a mask of {next(sizes)} pixels; its slice {slice_} has {next(sizes)}")
    # A mask saved as JPEG has a fringe of greys, and one of several tissues several values: neither says what is tumour.
    values = np.unique(drawn)
    if len(values) > 2 or values[0] != 0:
        raise DataError(
            f"{name}: is a mask with the values {', '.join(map(str, values[:5]))}{', ...' if len(values) > 5 else ''}; "
            "allowed: 0 outside the tumour, and one other value inside"
        )
    return image, drawn > 0


@functools.lru_cache(maxsize=4)
def _masks(path: Path, changed: int) -> dict[str, str]:
    """The mask of each slice; `changed` tells a table from its earlier state."""
    return {line["path"]: line.get("mask", "") for line in rows(path, NEEDED)}


def join_patients(manifest: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return a manifest whose slices have the patients, or groups, that a table names for them.

    A slice without a patient keeps its path as patient_id, so that protocols by patient refuse it; those by group serve.

    Args:
        manifest: of class folders, which name no patient; its `attrs["skipped"]` lists slices that were left out.
        path: a CSV table with the columns image (a slice's path), patient, and if wanted group: what must stay on one side
            of a split, such as chains of copies. `python -m btlib audit --patients` writes one; other columns are not read.

    Raises:
        DataError: an image stands twice; a slice is not in the table, or an image of the table is no slice; a slice has
            neither patient nor group where others have.
    """
    lines = rows(Path(path), ("image", "patient"))
    given = pd.DataFrame(lines).set_index("image")
    if len(twice := given.index[given.index.duplicated()]):
        numbers = " and ".join(given.loc[twice[0], ""])
        raise DataError(f"{path}, lines {numbers}: {twice[0]} stands in both; allowed: each image once")
    _check_left_over(manifest, given, path)
    given = given.loc[manifest["image_id"]]
    patient = given["patient"].to_numpy()
    named = pd.Series(patient).where(patient != "", manifest["path"])
    groups = [manifests.patient_group(p) for p in patient]
    if "group" in given:
        images = set(manifest["image_id"])
        both = zip(given["group"], patient, groups, strict=True)
        groups = [COPIES_OF.format(g) if g in images else g or (own if named else "") for g, named, own in both]
    if "" in groups:
        row = given.iloc[groups.index("")]
        raise DataError(f"{path}, line {row['']}: {row.name} has neither patient nor group; allowed: one at least")
    joined = manifest.assign(patient_id=named.to_numpy(), patient_group=groups)
    joined.attrs = manifest.attrs
    return joined


def _check_left_over(manifest: pd.DataFrame, given: pd.DataFrame, path: Path) -> None:
    skipped = {name for name, _ in manifest.attrs.get("skipped", [])}
    unnamed = [name for name in manifest["image_id"] if name not in given.index]
    strange = [name for name in given.index if name not in set(manifest["image_id"]) | skipped]
    for names, words in ((unnamed, "slices that it does not list"), (strange, "images that are no slices of the data")):
        if names:
            raise DataError(
                f"{path}: leaves over {len(names)} {words}, such as {names[0]}; allowed: none, as the split would break its "
                "promise"
            )
