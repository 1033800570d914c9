"""Figshare article 1512427 (Cheng 2017): MATLAB slices, their tumour masks and the author's five folds."""

import functools
import itertools
import math
import os
import re
import stat
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import h5py
import numpy as np
import pandas as pd

from btlib import CLASSES, DataError, files, watched
from btlib.data import manifest as manifests
from btlib.data import preprocessing

ARTICLE = 1512427
FOLDS = "cvind.mat"
MAX_BYTES = 64 * 2**20
MAX_SIDE = 4096
FIELDS = {
    "cjdata": {"PID": (1, 64), "image": (16, MAX_SIDE), "tumorMask": (16, MAX_SIDE), "label": (1, 64)},
    "cvind": {"cvind": (1, 1_000_000)},
}
"""What is read of each variable, and the smallest and largest that a dimension of it may be."""

SLICE = "PID, image, label and tumorMask in a struct cjdata"
NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
    16: "u1",
    17: "u2",
}
"""Element types of version 5 files."""


def manifest(path: Path, unreadable: str = "error") -> pd.DataFrame:
    """Read every slice under a folder once and return the table of them, in the order of their numbers.

    Args:
        path: folder of .mat files at any depth, of the publisher's zip files, or of both.
        unreadable: "error" stops at the first slice that cannot be used; "skip" leaves such slices out and lists them,
            path and reason, in the table's `attrs["skipped"]`.

    Returns:
        A manifest (`btlib.data.manifest.COLUMNS`); `path` is relative to `path`, "a.zip/1.mat" for a member of a zip file.

    Raises:
        DataError: the folder is missing, holds no slices, or a slice cannot be used.

    Source: Cheng et al. 2015, doi 10.1371/journal.pone.0140381. Notebook 01.
    """
    path = Path(path)
    names = _listing(path)
    rows = list(files.spread(functools.partial(_row, path), names))
    skipped = [(name, str(row)) for name, row in zip(names, rows, strict=True) if isinstance(row, DataError)]
    if skipped and (unreadable == "error" or len(skipped) == len(rows)):
        raise DataError(skipped[0][1])
    table = manifests.make([row for row in rows if not isinstance(row, DataError)], str(path))
    table.attrs["skipped"] = skipped
    return table


def read(root: Path, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Read one slice and its tumour mask, both upright.

    Args:
        root: the folder given to `manifest`.
        path: the manifest's `path`.

    Returns:
        image (H, W) in the file's own dtype and scanner units; mask, bool (H, W).

    Raises:
        DataError: the slice cannot be used.

    Notebook 01.
    """
    slice_ = _decode(_content(Path(root), path), f"{Path(root) / path}")
    return slice_["image"], slice_["mask"]


def folds(path: Path) -> pd.Series | None:
    """Read the author's five folds where the folder has cvind.mat.

    Args:
        path: the folder given to `manifest`.

    Returns:
        Fold 1 to 5 by image_id, or None without the file.

    Raises:
        DataError: the file holds something else.

    Notebook 01.
    """
    found = sorted(file for file in _walk(Path(path)) if PurePosixPath(file).name.lower() == FOLDS)
    if not found:
        return None
    name = f"{Path(path) / found[0]}"
    numbers = _struct(_content(Path(path), found[0]), name, "cvind")["cvind"].ravel()
    if not len(numbers) or not np.isin(numbers, (1, 2, 3, 4, 5)).all():
        raise DataError(f"{name}: cvind must hold the author's fold, 1 to 5, of every slice; download the file again")
    index = pd.Index([str(i + 1) for i in range(len(numbers))], name="image_id")
    return pd.Series(numbers.astype(int), index=index, name="fold")


def fetch(dest: Path, api: str = "https://api.figshare.com/v2") -> Path:
    """Download the article's files; those already there with the right checksum are kept, so a second call resumes.

    Args:
        dest: the folder to fill; give it as `data.path`. The zip files are read as they are.
        api: address of figshare's API.

    Raises:
        DataError: no network, an answer that is none, or a wrong checksum; a file is whole and right or not there.

    Source: doi 10.6084/m9.figshare.1512427, CC BY 4.0.
    """
    import pooch
    import requests

    dest, url = Path(dest), f"{api}/articles/{ARTICLE}"
    by_hand = f"or put the four .zip files and {FOLDS} of https://doi.org/10.6084/m9.figshare.{ARTICLE} into {dest}"
    try:
        answer = requests.get(url, timeout=30)
        answer.raise_for_status()
        found = [
            (file["name"], file["download_url"], file.get("computed_md5") or file["supplied_md5"])
            for file in answer.json()["files"]
        ]
    except requests.RequestException as error:
        raise DataError(f"{url}: cannot be reached ({error}); try again with a network, {by_hand}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{url}: the answer is no list of files ({error!r}); try again, {by_hand}") from None
    for name, _, md5 in found:
        if not (re.fullmatch(r"[\w][\w. -]*", str(name)) and re.fullmatch(r"[0-9a-f]{32}", str(md5))):
            raise DataError(f"{url}: lists a file {name!r} with checksum {md5!r}; nothing was downloaded, {by_hand}")
    pooch.get_logger().setLevel("WARNING")
    for name, address, md5 in found:
        try:
            pooch.retrieve(address, f"md5:{md5}", fname=name, path=dest, downloader=_download)
        except requests.RequestException as error:
            raise DataError(f"{address}: download of {name} failed ({error}); run it again, {by_hand}") from None
        except ValueError:
            raise DataError(
                f"{address}: {name} came without its checksum md5:{md5} and was removed; run it again, {by_hand}"
            ) from None
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(dest / name)) from error
    return dest


def _download(url: str, output_file: str, pooch_: object) -> None:
    import pooch
    from tqdm.auto import tqdm

    # pooch puts the true total in, but asks first whether the bar is empty.
    with tqdm(total=1, unit="B", unit_scale=True, leave=False, disable=not watched()) as bar:
        pooch.HTTPDownloader(progressbar=bar, timeout=30)(url, output_file, pooch_)


def _walk(path: Path) -> list[str]:
    """Names of all files under a folder, as POSIX paths relative to it."""
    if not path.is_dir():
        raise DataError(
            f"{path}: no such folder; `python -m btlib fetch figshare {path}` downloads the slices, or give the folder "
            "that holds the four zip files and cvind.mat of doi 10.6084/m9.figshare.1512427"
        )
    names = []
    for folder, inside, leaves in os.walk(path):
        for name in (*inside, *leaves):
            if os.path.islink(os.path.join(folder, name)):
                raise DataError(f"{Path(folder) / name}: is a symbolic link; put the file itself there")
        names += [(Path(folder) / name).relative_to(path).as_posix() for name in leaves if not name.startswith(".")]
    return names


def _listing(path: Path) -> list[str]:
    names = []
    for name in _walk(path):
        if PurePosixPath(name).name.lower() == FOLDS:
            continue
        if name.lower().endswith(".mat"):
            names.append(name)
        elif name.lower().endswith(".zip"):
            names += [f"{name}/{member}" for member in _members(path / name)]
    if not names:
        raise DataError(f"{path}: no slices found; expected .mat files, or the publisher's .zip files with .mat inside")
    return sorted(names, key=_natural)


def _natural(name: str) -> tuple:
    """Sort key that puts 2.mat before 10.mat."""
    stem = PurePosixPath(name).stem
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", stem) if part], name


def _members(path: Path) -> list[str]:
    names = _archive(path)[1]
    slices = [n for n in names if n.lower().endswith(".mat") and PurePosixPath(n).name.lower() != FOLDS]
    if not slices and any(n.lower().endswith(".zip") for n in names):
        raise DataError(f"{path}: holds zip files; unpack this outer one and give the folder with the inner ones")
    return slices


def _archive(path: Path) -> tuple[zipfile.ZipFile, list[str]]:
    try:
        found = path.stat()
        return _open_archive(path, found.st_size, found.st_mtime_ns)
    except DataError:
        raise
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise DataError(f"{path}: no zip file that can be read ({error}); download it again") from None


@functools.lru_cache(maxsize=16)
def _open_archive(path: Path, size: int, changed: int) -> tuple[zipfile.ZipFile, list[str]]:
    """Open an archive once for all its slices: its table of contents is long."""
    archive = zipfile.ZipFile(path)
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    for name in names:
        if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts:
            raise DataError(f"{path}: member {name!r} points out of the archive; do not use this file")
    return archive, names


def _content(root: Path, path: str) -> bytes:
    """Bytes of a file or of a zip member, never more than `MAX_BYTES`."""
    name = f"{root / path}"
    archive, _, member = _split_zip(path)
    try:
        if archive and (root / archive).is_file():
            opened = _archive(root / archive)[0]
            size = opened.getinfo(member).file_size  # zipfile reads no more than this, whatever is in there
            data = opened.read(member) if size <= MAX_BYTES else b""
        else:
            found = os.lstat(root / path)
            if not stat.S_ISREG(found.st_mode):
                raise DataError(f"{name}: is no regular file; put the file itself there")
            size = found.st_size
            data = (root / path).read_bytes() if size <= MAX_BYTES else b""
    except DataError:
        raise
    except (
        OSError,
        KeyError,
        RuntimeError,
        ValueError,
        EOFError,
        zlib.error,
        zipfile.BadZipFile,
        struct.error,
    ) as error:
        raise DataError(f"{name}: cannot be read ({error}); download it again") from None
    if size > MAX_BYTES:
        raise DataError(f"{name}: is larger than {MAX_BYTES >> 20} MB, far more than a slice; remove it")
    if not data:
        raise DataError(f"{name}: is empty; download it again")
    return data


def _split_zip(path: str) -> tuple[str, str, str]:
    match = re.match(r"(.*?\.zip)(/)(.+)", path, re.IGNORECASE)
    return match.groups() if match else ("", "", path)


def _row(root: Path, name: str) -> dict | DataError:
    """A manifest row, or why there is none."""
    try:
        slice_ = _decode(_content(root, name), f"{root / name}")
    except DataError as error:
        return error
    return {
        "image_id": PurePosixPath(name).stem,
        "path": name,
        "label": slice_["label"],
        "patient_id": slice_["patient_id"],
        "plane": preprocessing.plane(slice_["image"]),
        "width": slice_["image"].shape[1],
        "height": slice_["image"].shape[0],
        "mask_area": int(slice_["mask"].sum()),
        "sha256": manifests.identity(slice_["image"], slice_["mask"]),
        "part": "",
    }


def _decode(data: bytes, name: str) -> dict:
    """Check and unpack one slice: image, mask, label, patient_id."""
    fields = _struct(data, name, "cjdata")
    image, mask = (fields[key] for key in ("image", "tumorMask"))
    if image.shape != mask.shape:
        raise DataError(f"{name}: image is {_size(image)} but tumorMask is {_size(mask)}; they must be alike")
    for key, array in (("image", image), ("tumorMask", mask)):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"{name}: {key} has pixels that are NaN or infinite; all must be finite")
    label = fields["label"].ravel()
    if label.size != 1 or label[0] not in (1, 2, 3):
        found = f"{label[0]:g}" if label.size == 1 else f"{label.size} values"
        raise DataError(f"{name}: label is {found}; allowed: 1 (meningioma), 2 (glioma), 3 (pituitary tumour)")
    return {
        "image": image,
        "mask": mask != 0,
        "label": CLASSES[int(label[0]) - 1],
        "patient_id": _text(fields["PID"], name),
    }


def _size(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape))


def _text(codes: np.ndarray, name: str) -> str:
    plain = codes.dtype.kind in "iu" and ((codes >= 32) & (codes <= 126)).all()
    text = "".join(map(chr, codes.ravel())).strip() if plain else ""
    if not text:
        raise DataError(f"{name}: PID is no text of 1 to 64 plain characters; download the file again")
    return text


def _struct(data: bytes, name: str, wanted: str) -> dict:
    """Read the variable `wanted` of a MATLAB file of version 7.3 or 5.

    Libraries meet hostile bytes here, and fail in whatever way they fail: all of it is one DataError.
    """
    try:
        if b"\x89HDF\r\n\x1a\n" in (data[:8], data[512:520]):
            _check_heaps(data)
            with h5py.File.in_memory(data) as file:
                return _from_hdf5(file, name, wanted)
        if data[124:128] in (b"\x00\x01IM", b"\x01\x00MI"):
            return _from_version5(data, name, wanted)
    except DataError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(f"{name}: truncated or damaged MATLAB file ({reason}); download it again") from None
    raise DataError(f"{name}: no MATLAB file of version 7.3 or 5; truncated, damaged or of another kind")


def _missing(name: str, wanted: str, names: list[str]) -> DataError:
    if "cvind" in names:
        return DataError(
            f"{name}: holds cvind, the author's folds, and no slice; call it {FOLDS} so that it is read as such"
        )
    shown = ", ".join(sorted(names)[:8]) or "nothing"
    return DataError(f"{name}: has no {wanted} but {shown}; a slice has {SLICE}")


def _check_heaps(data: bytes) -> None:
    """Refuse a file whose free lists run in a circle: the HDF5 library follows them until memory is full.

    A local heap is "HEAP", four bytes, and three numbers: size, first free place, address (HDF5 File Format, III.D).
    """
    base = 0 if data.startswith(b"\x89HDF") else 512
    if data[base + 8] < 2 and data[base + 13 : base + 15] != b"\x08\x08":
        raise ValueError("addresses are not 8 bytes long")
    places = set()
    for found in itertools.islice(re.finditer(b"HEAP", data), 1000):
        if found.start() + 32 > len(data):
            continue
        size, place, address = struct.unpack_from("<3Q", data, found.start() + 8)
        while place < size and base + address + place + 8 <= len(data):
            if (address, place) in places or len(places) > 10_000:
                raise ValueError("a free list runs in a circle")
            places.add((address, place))
            (place,) = struct.unpack_from("<Q", data, base + address + place)


def _from_hdf5(file: h5py.File, name: str, wanted: str) -> dict:
    def member(group, key):
        # Links may point to other files; only what lies in this one is read.
        if not isinstance(group, h5py.Group) or not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise _missing(name, key, list(group)[:8] if isinstance(group, h5py.Group) else [])
        return group[key]

    group = file if wanted == "cvind" else member(file, wanted)
    result = {}
    for key in FIELDS[wanted]:
        dataset = member(group, key)
        _check(dataset, name, key)
        if dataset.external or dataset.is_virtual:
            raise DataError(f"{name}: {key} lies in another file; a slice holds its own pixels")
        result[key] = dataset[()].T if dataset.chunks is None else inflate(dataset, name, key)
    return result


def _check(array: h5py.Dataset | np.ndarray, name: str, key: str) -> None:
    """Check type and shape as declared, before anything is allocated."""
    if not isinstance(array, h5py.Dataset | np.ndarray) or array.shape is None or array.dtype.kind not in "biuf":
        raise DataError(f"{name}: {key} is no array of numbers; a slice has {SLICE}")
    smallest, largest = FIELDS["cvind" if key == "cvind" else "cjdata"][key]
    if key == "cvind" and len(array.shape) == 2 and min(array.shape) > 1:
        raise DataError(f"{name}: cvind is declared as {_size(array)}; allowed: one row or one column of folds")
    if len(array.shape) != 2 or not all(smallest <= n <= largest for n in array.shape):
        raise DataError(
            f"{name}: {key} is declared as {_size(array)}; allowed: two dimensions of {smallest} to {largest} each"
        )


def inflate(dataset: h5py.Dataset, name: str, key: str) -> np.ndarray:
    """Read a dataset that is stored in chunks, turned upright.

    Args:
        dataset: two dimensions, MATLAB's order: columns first.
        name, key: of the file and of the dataset, for messages.

    Raises:
        DataError: it is stored in a way that MATLAB does not use.

    Chunks are inflated here, not by the HDF5 library: that one grows its buffer to whatever a chunk inflates to, and
    holds a lock meanwhile, while zlib lets other threads go on.
    """
    (width, height), chunk, kind = dataset.shape, dataset.chunks, dataset.dtype
    length = math.prod(chunk)
    size = length * kind.itemsize
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    known = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
    corners = [range(0, n, c) for n, c in zip((width, height), chunk, strict=True)]
    if math.prod(map(len, corners)) > 16_384 or size > MAX_SIDE * MAX_SIDE * 8 or not set(filters) <= known:
        raise DataError(f"{name}: {key} is stored in a way that MATLAB does not use; save it again with MATLAB")
    result = np.zeros((height, width), kind)
    small: dict[tuple[int, bytes], np.ndarray] = {}  # most chunks of a mask are the same few bytes: all zeros
    for corner in itertools.product(*corners):
        left_out, data = dataset.id.read_direct_chunk(corner)
        block = small.get((left_out, data)) if len(data) < 256 else None
        if block is None:
            block = np.frombuffer(_unfilter(data, left_out, filters, kind, size), kind, length).reshape(chunk).T
            if len(data) < 256:
                small[left_out, data] = block
        (left, top), (wide, high) = corner, chunk
        place = result[top : top + high, left : left + wide]
        place[:] = block[: place.shape[0], : place.shape[1]]
    return result


def _unfilter(data: bytes, left_out: int, filters: list[int], kind: np.dtype, size: int) -> bytes:
    """Undo what a chunk of `size` bytes was put through; bit i of `left_out` says that filter i was not used."""
    for i, which in reversed(list(enumerate(filters))):
        if left_out >> i & 1:
            continue
        if which == h5py.h5z.FILTER_DEFLATE:
            data = zlib.decompressobj().decompress(data, size + 4)
        elif which == h5py.h5z.FILTER_FLETCHER32:
            data = data[:-4]
        else:
            data = np.frombuffer(data, np.uint8).reshape(kind.itemsize, -1).T.tobytes()
    return data


def _from_version5(data: bytes, name: str, wanted: str) -> dict:
    """Read a version 5 file (MathWorks, "MAT-File Format"); scipy.io.loadmat crashes on some damaged ones."""
    order = "<" if data[126:128] == b"IM" else ">"
    variables, room = {}, 2 * MAX_BYTES
    for kind, body in _elements(data[128:], order):
        if kind == 15:
            body = zlib.decompressobj().decompress(body, room + 1)
            kind, body = next(_elements(body, order)) if len(body) <= room else (0, body)
        room -= len(body)
        if room < 0:
            raise DataError(f"{name}: unpacks to more than {2 * MAX_BYTES >> 20} MB, far more than a slice; remove it")
        if kind == 14:
            variables.update([_matrix(body, order)])
    if wanted not in variables:
        raise _missing(name, wanted, list(variables))
    group = variables if wanted == "cvind" else variables[wanted]
    for key in FIELDS[wanted]:
        if not isinstance(group, dict) or key not in group:
            raise _missing(name, key, list(group) if isinstance(group, dict) else [])
        _check(group[key], name, key)
    return group


def _elements(data: bytes, order: str):
    """Give the type and the bytes of each element of a version 5 file."""
    position = 0
    while position + 8 <= len(data):
        kind, length = struct.unpack_from(f"{order}II", data, position)
        start = position + 8
        end = start + (length if kind == 15 else -(-length // 8) * 8)
        if kind >> 16:  # up to four bytes lie in the tag itself
            kind, length, start, end = kind & 0xFFFF, kind >> 16, position + 4, start
        if start + length > min(end, len(data)):
            raise ValueError(f"an element of {length} bytes where {len(data) - start} are left")
        yield kind, data[start : start + length]
        position = end


def _matrix(data: bytes, order: str) -> tuple[str, np.ndarray | dict | None]:
    """Return the name and the value of a version 5 variable: an array, a struct's fields, or None for another kind."""
    parts = _elements(data, order)

    def whole(count):
        return np.frombuffer(next(parts)[1], f"{order}i4", count).tolist()

    flags = whole(1)[0]
    shape, name = whole(-1), next(parts)[1].decode("latin-1")
    if flags & 0xFF == 2 and math.prod(shape) == 1:
        width, names = whole(1)[0], next(parts)[1]
        keys = [names[i : i + width].split(b"\0")[0].decode("latin-1") for i in range(0, len(names), width)]
        return name, {key: _matrix(next(parts)[1], order)[1] for key in keys}
    kind, numbers = next(parts, (0, b""))
    if kind not in NUMBERS or not 4 <= flags & 0xFF <= 15 or flags & 0x800:
        return name, None
    return name, np.frombuffer(numbers, order + NUMBERS[kind]).reshape(shape, order="F")
