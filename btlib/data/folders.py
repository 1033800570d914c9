"""Class folders of JPEG, PNG or WebP pictures, as Kaggle's data sets ship them."""

import functools
import io
import os
import stat
import warnings
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from btlib import DataError, files
from btlib.data import manifest as manifests

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
PARTS = {
    "training": "train",
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "testing": "test",
    "test": "test",
}
"""Name of a folder above the class folders -> what its publisher uses it for."""

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 4096 * 4096
"""A slice has well under a megapixel; a file that claims more than this is a decompression bomb or no slice."""

# Pillow warns of odd metadata in pictures that it decodes well; a picture is either read or refused here.
warnings.filterwarnings("ignore", module=r"PIL\.")


def manifest(path: Path, labels: dict[str, str], unreadable: str = "error") -> pd.DataFrame:
    """Return the manifest of class folders, every picture decoded once to prove that it can be.

    Such folders record no patient, so each slice is its own: patient_id is image_id, the path relative to `path`.
    An empty class folder is accepted. A folder Training or Testing above the class folders gives `part`.

    Args:
        path: the folder that holds the class folders, directly or one level below (Training/glioma_tumor).
        labels: name of each class folder -> one of CLASSES, or NO_TUMOR.
        unreadable: "error" stops at the first picture that cannot be decoded; "skip" leaves such pictures out and lists
            why in the table's `attrs["skipped"]`.

    Raises:
        DataError: a folder that holds pictures is not in `labels`, a folder in `labels` is absent, there are no
            pictures, or, unless skipped, a picture cannot be decoded.

    Used by notebooks 01, 02 and 06.
    """
    root = Path(path)
    results = list(files.spread(functools.partial(_row, root, labels), _pictures(root, labels)))
    skipped = [str(result) for result in results if isinstance(result, DataError)]
    if skipped and unreadable == "error":
        raise DataError(skipped[0])
    table = manifests.make([result for result in results if isinstance(result, dict)], str(root))
    table.attrs["skipped"] = skipped
    return table


def read(root: Path, path: str) -> tuple[np.ndarray, None]:
    """Return one picture's luminance as displayed, and None, for such folders have no masks.

    Args:
        root: the folder given to `manifest`.
        path: a path of the manifest, relative, with "/".

    Returns:
        (height, width) uint8, or uint16 for 16-bit greyscale; transparent parts over black, EXIF rotation applied.

    Raises:
        DataError: it is no regular file below `root`, or cannot be decoded whole.

    Used by notebooks 01, 02 and 06.
    """
    return _decode(_bytes(Path(root), path), f"{root}/{path}"), None


def look(data: bytes, name: str) -> tuple[np.ndarray, float]:
    """Decode one picture from its bytes, and say how coloured it is.

    Args:
        data: a JPEG, PNG or WebP file's content.
        name: of the file, for messages.

    Returns:
        Luminance as `read` gives it, and the tint: the mean over all pixels of largest minus smallest of red, green and
        blue, 0 (grey) to 255.

    Raises:
        DataError: it cannot be decoded whole.

    Used by `python -m btlib predict`.
    """
    return _decode(data, name, lambda picture: (_luminance(picture), _tint(picture)))


def _pictures(root: Path, labels: dict[str, str]) -> list[str]:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; it should hold the class folders {', '.join(sorted(labels))}")
    holding, seen, paths = set(), set(), []
    for folder, names, leaves in os.walk(root):
        names[:] = [n for n in names if not n.startswith((".", "__MACOSX"))]
        here = PurePosixPath(Path(folder).relative_to(root).as_posix())
        for name in names:
            if (Path(folder) / name).is_symlink():
                raise DataError(f"{Path(folder) / name}: is a symbolic link; allowed: real folders and files")
        pictures = [n for n in leaves if n.lower().endswith(ENDINGS) and not n.startswith(".")]
        if len(here.parts) in (1, 2) and here.name in labels:
            seen.add(here.name)
            paths += [str(here / n) for n in pictures]
        elif pictures:
            holding.add(str(here))
    mapped = ", ".join(f"{k} -> {v}" for k, v in sorted(labels.items()))
    if holding:
        raise DataError(
            f"{root}: pictures found in {_shown(sorted(holding))}, for which `labels` has no class; mapped are: {mapped}. "
            "Class folders lie in it directly or one level below"
        )
    absent = sorted(set(labels) - seen)
    if absent:
        found = sorted(p.name for p in root.iterdir() if p.is_dir())
        raise DataError(
            f"{root}: no folder {_shown(absent)}, named in `labels`; found: {_shown(found) or 'no folders'}"
        )
    return sorted(paths)


def _shown(names: list[str], most: int = 12) -> str:
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def _row(root: Path, labels: dict[str, str], path: str) -> dict | DataError:
    try:
        image = _decode(_bytes(root, path), f"{root}/{path}")
    except DataError as error:
        return error
    return {
        "image_id": path,
        "path": path,
        "label": labels[PurePosixPath(path).parent.name],
        "patient_id": path,
        "plane": "unknown",
        "width": image.shape[1],
        "height": image.shape[0],
        "mask_area": 0,
        "sha256": manifests.identity(image, None),
        "part": _part(path),
    }


def _part(path: str) -> str:
    first, *inner = PurePosixPath(path).parts
    return PARTS.get(first.lower(), "") if len(inner) == 2 else ""


def _bytes(root: Path, path: str) -> bytes:
    parts = PurePosixPath(path).parts
    if not parts or PurePosixPath(path).is_absolute() or ".." in parts:
        raise DataError(f"{root}: {path!r} is no path below it")
    try:
        path.encode()
        for i in range(1, len(parts) + 1):
            found = os.lstat(root.joinpath(*parts[:i]))
            if not (stat.S_ISREG(found.st_mode) if i == len(parts) else stat.S_ISDIR(found.st_mode)):
                raise DataError(
                    f"{root}/{'/'.join(parts[:i])}: is a link or a special file; allowed: real folders and files"
                )
        if found.st_size > MAX_BYTES:
            raise DataError(f"{root}/{path}: is larger than {MAX_BYTES >> 20} MB, far more than a slice; remove it")
        return root.joinpath(*parts).read_bytes()
    except UnicodeEncodeError:
        raise DataError(f"{root}/{path!a}: its name is not valid UTF-8; rename it") from None
    except OSError as error:
        raise DataError(f"{root}/{path}: cannot be read: {error.strerror or error}") from None


def _luminance(picture: Image.Image) -> np.ndarray:
    if picture.mode.startswith("I"):
        return np.clip(np.asarray(picture), 0, 65535).astype(np.uint16)
    if picture.has_transparency_data:
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        picture = Image.alpha_composite(black, picture.convert("RGBA"))
    return np.array(picture if picture.mode == "L" else picture.convert("RGB").convert("L"))


def _tint(picture: Image.Image) -> float:
    if picture.mode.startswith(("I", "L", "1")):
        return 0.0
    channels = np.asarray(picture.convert("RGB"))
    return float((channels.max(2) - channels.min(2)).mean())


def _decode(data: bytes, name: str, take=_luminance):
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise DataError(f"{name}: claims {width} x {height} pixels; allowed: {MAX_PIXELS:,} in all")
            return take(ImageOps.exif_transpose(picture))
    except DataError:
        raise
    # Damaged pictures raise nearly anything out of Pillow's parsers: OSError, SyntaxError, struct.error, KeyError, ...
    except Exception as error:
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = "no JPEG, PNG or WebP picture" if unknown else f"{type(error).__name__}: {error}"
        raise DataError(f"{name}: cannot be decoded as a picture: {reason}; {len(data):,} bytes") from None
