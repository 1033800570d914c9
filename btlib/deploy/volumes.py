"""One slice out of what scanners and their tools write: DICOM and NIfTI."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from btlib import DataError
from btlib.data import folders

MAX_VOXELS = 2**29
HEAD = 132
"""So many bytes at a file's start tell whether it is DICOM."""
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


class Slice(NamedTuple):
    """A slice as read: pixels (H, W) of any real dtype, finite; tint as `folders.look` says; what has to be warned of."""

    pixels: np.ndarray
    tint: float = 0.0
    warnings: tuple[str, ...] = ()


def is_dicom(head: bytes, preamble: bool = True) -> bool:
    """Say by a file's first `HEAD` bytes whether it is DICOM.

    Args:
        preamble: whether the mark after the preamble decides alone; else a first element of group 2 or 8 does, too, as old
            scanners left the preamble out.
    """
    if head[128:132] == b"DICM":
        return True
    group, high, rest = head[:2], head[3:4], head[4:8]
    short = (rest[:2].isalpha() and rest[:2].isupper()) or int.from_bytes(rest, "little") < 1024
    return not preamble and group in (b"\x02\0", b"\x08\0") and high == b"\0" and short


def dicom(path: str) -> Slice:
    """Read a DICOM file of one frame, square: values rescaled, not windowed; black low; padding as dark as the darkest.

    Raises:
        DataError: it holds no picture, more than one, a segmentation, colours other than 8-bit RGB, or compressed pixels
            that no installed package decodes.

    Source: DICOM PS3.3, C.7.6.3 and C.11.1.
    """
    try:
        import pydicom
    except ImportError:
        raise DataError(
            "DICOM needs pydicom: pip install pydicom python-gdcm (the extra `dicom` brings both)"
        ) from None

    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # odd entries elsewhere do not matter
    with open(path, "rb") as opened:
        known = is_dicom(opened.read(HEAD), preamble=False)
    file = pydicom.dcmread(path, force=known)
    _check_frame(file)
    _check_compression(file)
    image = file.pixel_array
    if image.ndim == 3:
        if image.dtype != np.uint8 or not file.PhotometricInterpretation.startswith(("RGB", "YBR")):
            raise DataError(_colours(file))
        tint = float((image.max(2).astype(float) - image.min(2)).mean())
        return Slice(_square_pixels(np.asarray(Image.fromarray(image).convert("L")), _spacing(file)), tint, _odd(file))
    if not file.PhotometricInterpretation.startswith("MONOCHROME"):
        raise DataError(_colours(file))
    image = pydicom.pixels.apply_modality_lut(_without_padding(image, file), file)
    if file.PhotometricInterpretation == "MONOCHROME1":
        image = float(image.max()) - image.astype(np.float64)
    if not np.isfinite(image).all():
        raise DataError("holds pixels that are NaN or infinite")
    return Slice(_square_pixels(image, _spacing(file)), 0.0, _odd(file))


def _check_frame(file) -> None:
    """Stop at what is not one picture; nothing is decoded yet."""
    if "DirectoryRecordSequence" in file:
        raise DataError("is a DICOMDIR, an index; give the files that it lists, or their folder")
    modality = str(file.get("Modality") or "")
    if "Rows" not in file or "Columns" not in file or not any(key in file for key in PIXELS):
        raise DataError(f"is DICOM without a picture{f' ({modality})' if modality else ''}")
    if modality == "SEG":
        raise DataError("is a segmentation; give the slices that it was drawn on")
    frames = int(file.get("NumberOfFrames") or 1)
    if frames != 1:
        raise DataError(
            f"holds {frames} frames; allowed: one slice a file (or convert it to NIfTI and give FILE.nii:k)"
        )
    if "MOSAIC" in (file.get("ImageType") or []):
        raise DataError("is a mosaic of many slices; allowed: one slice a file (or convert it to NIfTI)")
    if file.Rows * file.Columns > folders.MAX_PIXELS:
        raise DataError(f"claims {file.Columns} x {file.Rows} pixels; allowed: {folders.MAX_PIXELS:,} in all")


def _check_compression(file) -> None:
    """Stop where no installed package decodes the pixels; say which one would."""
    from pydicom import pixels, uid

    if not file.file_meta.get("TransferSyntaxUID"):  # a file without its preamble does not say
        implicit, little = file.original_encoding
        plain = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        file.file_meta.TransferSyntaxUID = plain if little else uid.ExplicitVRBigEndian
    syntax = file.file_meta.TransferSyntaxUID
    try:
        available = pixels.get_decoder(syntax).is_available
    except NotImplementedError:
        raise DataError(f"its pixels are stored as {syntax.name}, which is not read; save it uncompressed") from None
    if not available:
        raise DataError(
            f"its pixels are compressed ({syntax.name}): pip install python-gdcm (the extra `dicom` brings it), or save it "
            "uncompressed"
        )


def _colours(file) -> str:
    return f"holds {file.PhotometricInterpretation} pixels; allowed: greyscale, or 8-bit RGB; save it as greyscale"


def _without_padding(image: np.ndarray, file) -> np.ndarray:
    """Give pixels outside of the field of view, which bear a value of their own, the darkest value of the others."""
    first = file.get("PixelPaddingValue")
    if first is None:
        return image
    last = file.get("PixelPaddingRangeLimit")
    low, high = sorted((first, first if last is None else last))
    padding = (image >= low) & (image <= high)
    if not padding.any() or padding.all():
        return image
    inside = image[~padding]
    dark = inside.max() if file.PhotometricInterpretation == "MONOCHROME1" else inside.min()
    return np.where(padding, dark, image)


def _spacing(file):
    """(rows apart, columns apart) in millimetres or as a ratio, wherever the file says so; None: it does not."""
    groups = [g for name in ("Shared", "PerFrame") for g in file.get(f"{name}FunctionalGroupsSequence") or []]
    measures = [m for g in groups for m in g.get("PixelMeasuresSequence") or []]
    stated = [m.get("PixelSpacing") for m in (file, *measures)]
    return next((s for s in [*stated, file.get("PixelAspectRatio")] if s), None)


def _odd(file) -> tuple[str, ...]:
    modality = str(file.get("Modality") or "MR")
    return () if modality == "MR" else (f"its modality is {modality}, the model knows MR",)


def nifti(path: str, number: int | None) -> Slice:
    """Read one axial slice as radiologists have it: front above, the patient's right on the left.

    Args:
        path: a file ending in .nii or .nii.gz.
        number: of the axial slice, counted from 0 at the feet; None for the middle one, which is warned of.

    Raises:
        DataError: it is no single volume of real numbers, no axis runs from feet to head, or there is no such slice.
    """
    import nibabel

    volume = nibabel.load(path)
    shape, kind = volume.shape, volume.get_data_dtype()
    spatial, more = shape[:3], shape[3:]
    if len(spatial) != 3 or set(more) - {1} or int(np.prod(shape, dtype=object)) > MAX_VOXELS or min(shape) < 1:
        raise DataError(
            f"is {' x '.join(map(str, shape))}; allowed: one volume of three dimensions, {MAX_VOXELS:,} voxels in all"
        )
    if kind.kind not in "iuf":
        raise DataError(f"holds {'complex' if kind.kind == 'c' else 'colour'} voxels; allowed: real numbers")
    codes = nibabel.aff2axcodes(volume.affine)
    axis = next((i for i, code in enumerate(codes) if code in ("S", "I")), None)
    if axis is None:
        raise DataError(f"its axes are {codes}; none runs from feet to head")
    count = shape[axis]
    if number is not None and number >= count:
        raise DataError(f"has {count} axial slices; allowed: 0 to {count - 1}")
    warnings = []
    if number is None and count > 1:
        warnings.append(f"axial slice {count // 2} of 0 to {count - 1} taken, the middle one; FILE:k takes slice k")
    if volume.header.get("sform_code") == 0 and volume.header.get("qform_code") == 0:
        warnings.append("it does not record how the patient lay; sides and slices may be swapped")
    slice_number = count // 2 if number is None else number
    place = slice_number if codes[axis] == "S" else count - 1 - slice_number
    cut = tuple(slice(place, place + 1) if i == axis else slice(None) for i in range(3)) + (0,) * len(more)
    # Only then turned upright: turning the volume would unpack all of it.
    one = nibabel.as_closest_canonical(volume.slicer[cut])
    image = np.nan_to_num(np.asarray(one.dataobj, np.float64)[:, ::-1, 0].T, posinf=0, neginf=0)[:, ::-1]
    wide, high = one.header.get_zooms()[:2]
    return Slice(_square_pixels(image, (high, wide)), 0.0, tuple(warnings))


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
