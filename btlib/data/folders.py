"""Class folders of pictures, as Kaggle's data sets ship them."""

import functools
import io
import warnings
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from btlib import DataError, files
from btlib.data import manifest as manifests

Image.init()
FORMATS = [
    kind
    for kind in ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
    if kind in Image.OPEN
]
"""Kinds of picture that are read: Pillow's, without those that run programs or that are no pictures of pixels."""

ENDINGS = tuple(sorted(ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS))
TEXTS = (".csv", ".db", ".html", ".ini", ".json", ".log", ".md", ".pdf", ".tsv", ".txt", ".xml")
"""Endings of index files and notes, which may lie among pictures."""

PARTS = {
    **dict.fromkeys(("training", "train"), "train"),
    **dict.fromkeys(("validation", "valid", "val"), "validation"),
    **dict.fromkeys(("testing", "test"), "test"),
}
"""Name of a folder above the class folders -> what its publisher uses it for."""

MAX_PIXELS = 4096 * 4096
"""A slice has well under a megapixel; a file that claims more than this is a decompression bomb or no slice."""

# Pillow warns of odd metadata in pictures that it decodes well; a picture is either read or refused here.
warnings.filterwarnings("ignore", module=r"PIL\.")


def manifest(path: Path, labels: dict[str, str], unreadable: str = "error") -> pd.DataFrame:
    """Return the manifest of class folders, every picture decoded once to prove that it can be. Notebook 06.

    Such folders record no patient, so each slice is its own: patient_id is image_id, the path relative to `path`.
    A folder of `PARTS` above the class folders gives `part`. Whatever lies in a class folder is a slice, but for texts and
    stray files.

    Args:
        path: the folder that holds the class folders, directly or one level below (Training/glioma_tumor).
        labels: name of each class folder -> its class, in small letters, digits and _.
        unreadable: as for `manifest.gather`.

    Raises:
        DataError: a folder that holds pictures is not in `labels`, a folder in `labels` is absent, there are no
            pictures, or, unless skipped, a picture cannot be decoded.
    """
    root = Path(path)
    paths, passed_over = _pictures(root, labels)
    return manifests.gather(functools.partial(_row, root, labels), paths, paths, unreadable, root, passed_over)


def read(root: Path, path: str) -> tuple[np.ndarray, None]:
    """Return a picture's luminance as displayed, and None, for such folders have no masks. Notebook 06.

    Luminance is (height, width) uint8; for greyscale of more bits uint16, int32 or float32, as stored; transparent parts
    lie over black, EXIF rotation is applied. DataError where it is no regular file below `root`, or cannot be decoded whole.
    """
    return _decode(files.content(Path(root), path), f"{root}/{path}"), None


def look(data: bytes, name: str) -> tuple[np.ndarray, float]:
    """Decode a picture from its bytes, and say how coloured it is; `name` is for messages.

    Returns:
        Luminance as `read` gives it, and the tint: the mean over all pixels of largest minus smallest of red, green and
        blue, 0 (grey) to 255.
    """
    return _decode(data, name, lambda picture: (_luminance(picture), _tint(picture)))


def _pictures(root: Path, labels: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return the paths of what must be pictures, and the other files."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; it should hold the class folders {', '.join(sorted(labels))}")
    names, passed_over = files.listing(root)
    paths, elsewhere = [], set()
    for name in names:
        folder = PurePosixPath(name).parent
        in_class = len(folder.parts) in (1, 2) and folder.name in labels
        if in_class and not name.lower().endswith(TEXTS):
            paths.append(name)
        elif not in_class and name.lower().endswith(ENDINGS):
            elsewhere.add(str(folder))
        else:
            passed_over.append(name)
    _check_folders(root, labels, sorted(elsewhere))
    for name in passed_over:
        if name.lower().endswith(".zip") and not files.is_stray(name):
            files.check_unpacked(root / name, names, (*ENDINGS, ".zip"), parts=2)
    return paths, sorted(passed_over)


def _check_folders(root: Path, labels: dict[str, str], elsewhere: list[str]) -> None:
    if elsewhere:
        mapped = ", ".join(f"{k} -> {v}" for k, v in sorted(labels.items()))
        raise DataError(
            f"{root}: pictures found in {_shown(elsewhere)}, for which `labels` has no class; mapped are: {mapped}. "
            "Class folders lie in it directly or one level below"
        )
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not files.is_stray(path.name))
    inner = {path.name for path in root.glob("*/*") if path.is_dir()}
    if absent := sorted(set(labels) - set(folders) - inner):
        raise DataError(
            f"{root}: no folder {_shown(absent)}, named in `labels`; found: {_shown(folders) or 'no folders'}"
        )


def _shown(names: list[str], most: int = 12) -> str:
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def _row(root: Path, labels: dict[str, str], path: str) -> dict:
    *above, folder, _ = PurePosixPath(path).parts
    part = PARTS.get(above[0].lower(), "") if above else ""
    return manifests.row(path, read(root, path)[0], None, label=labels[folder], part=part)


def _luminance(picture: Image.Image) -> np.ndarray:
    if picture.mode.startswith(("I", "F")):
        deep = np.asarray(picture)
        if not np.isfinite(deep).all():
            raise ValueError("pixels that are NaN or infinite")
        fits = picture.mode.startswith("I") and deep.min() >= 0 and deep.max() <= 65535
        return deep.astype(np.uint16) if fits else deep
    if picture.has_transparency_data:
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        picture = Image.alpha_composite(black, picture.convert("RGBA"))
    return np.array(picture if picture.mode == "L" else picture.convert("RGB").convert("L"))


def _tint(picture: Image.Image) -> float:
    if picture.mode.startswith(("I", "F", "L", "1")):
        return 0.0
    channels = np.asarray(picture.convert("RGB"))
    return float((channels.max(2) - channels.min(2)).mean())


def _decode(data: bytes, name: str, take=_luminance):
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise DataError(f"{name}: claims {width} x {height} pixels; allowed: {MAX_PIXELS:,} in all")
            pictures = getattr(picture, "n_frames", 1)
            if pictures > 1 and picture.format != "MPO":  # a camera's JPEG, whose other pictures are previews
                raise DataError(f"{name}: holds {pictures} pictures; save each slice in a file of its own")
            # Pillow turns such pictures of 8 bits, and not those of 16.
            if picture.format == "TIFF" and picture.tag_v2.get(262) == 0 and picture.mode.startswith("I"):
                raise DataError(f"{name}: white is stored as 0 in more than 8 bits; save it with black as 0")
            return take(ImageOps.exif_transpose(picture))
    except DataError:
        raise
    # Damaged pictures raise nearly anything out of Pillow's parsers: OSError, SyntaxError, struct.error, KeyError, ...
    except Exception as error:
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = f"no picture of {', '.join(FORMATS)}" if unknown else f"{type(error).__name__}: {error}"
        raise DataError(f"{name}: cannot be decoded as a picture: {reason}; {len(data):,} bytes") from None
