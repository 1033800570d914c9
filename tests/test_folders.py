import io
import os
import random
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from btlib import DataError
from btlib.data import folders, manifest

LABELS = {"glioma_tumor": "glioma", "no_tumor": "no_tumor"}
RAMP = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4) * 10


@pytest.fixture
def root(tmp_path):
    (tmp_path / "glioma_tumor").mkdir()
    (tmp_path / "no_tumor").mkdir()
    Image.fromarray(RAMP).save(tmp_path / "glioma_tumor" / "a.png")
    return tmp_path


def put(root, name, picture, **options):
    picture.save(root / "glioma_tumor" / name, **options)
    return folders.read(root, f"glioma_tumor/{name}")[0]


def noisy(seed=0, size=64):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size), np.uint8))


def test_manifest_has_a_row_a_picture_and_each_slice_is_its_own_patient(root):
    Image.fromarray(RAMP).save(root / "no_tumor" / "Bild (1) [ü] 脑.JPG", quality=90)
    table = folders.manifest(root, LABELS)
    assert list(table["image_id"]) == ["glioma_tumor/a.png", "no_tumor/Bild (1) [ü] 脑.JPG"]
    assert list(table["label"]) == ["glioma", "no_tumor"]
    assert list(table["patient_id"]) == list(table["path"]) == list(table["image_id"])
    assert table[["width", "height", "mask_area", "plane"]].values.tolist() == [[4, 6, 0, "unknown"]] * 2
    assert table.attrs["skipped"] == []


def test_class_folders_may_lie_one_level_below(root):
    (root / "Training").mkdir()
    (root / "glioma_tumor").rename(root / "Training" / "glioma_tumor")
    assert list(folders.manifest(root, LABELS)["path"]) == ["Training/glioma_tumor/a.png"]


@pytest.mark.parametrize(
    ("folder", "part"), [("Training", "train"), ("testing", "test"), ("Val", "validation"), ("2019", "")]
)
def test_a_folder_above_the_class_folders_says_where_the_publisher_puts_its_slices(root, folder, part):
    (root / folder).mkdir()
    (root / "glioma_tumor").rename(root / folder / "glioma_tumor")
    assert list(folders.manifest(root, LABELS)["part"]) == [part]


def test_a_class_folder_may_be_called_like_a_part(root):
    (root / "glioma_tumor").rename(root / "test")
    assert list(folders.manifest(root, {"test": "glioma", "no_tumor": "no_tumor"})["part"]) == [""]


def test_a_picture_saved_again_without_loss_is_the_same_slice(root):
    Image.fromarray(RAMP).save(root / "glioma_tumor" / "b.png", compress_level=0)
    Image.fromarray(RAMP).save(root / "glioma_tumor" / "c.webp", lossless=True)
    Image.fromarray(RAMP + 1).save(root / "glioma_tumor" / "d.png")
    same = folders.manifest(root, LABELS)["sha256"] == manifest.identity(RAMP, None)
    assert same.tolist() == [True, True, True, False]


def test_grey_png_is_read_as_it_is(root):
    image, mask = folders.read(root, "glioma_tumor/a.png")
    assert image.dtype == np.uint8 and np.array_equal(image, RAMP) and mask is None


def test_rgb_palette_and_bilevel_become_luminance(root):
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 255
    assert put(root, "rgb.png", Image.fromarray(red))[0, 0] == 76  # 0.299 * 255
    grey = Image.fromarray(np.dstack([RAMP] * 3))
    assert np.array_equal(put(root, "palette.png", grey.convert("P", palette=Image.Palette.ADAPTIVE, colors=64)), RAMP)
    assert np.array_equal(put(root, "two.png", Image.fromarray(RAMP > 100)), (RAMP > 100) * 255)
    assert np.array_equal(put(root, "lossless.webp", grey, lossless=True), RAMP)


def test_sixteen_bits_are_kept(root):
    values = RAMP.astype(np.uint16) * 257
    image = put(root, "deep.png", Image.fromarray(values))
    assert image.dtype == np.uint16 and np.array_equal(image, values)


def test_transparency_lies_over_black(root):
    rgba = np.full((1, 3, 4), 200, np.uint8)
    rgba[0, :, 3] = [0, 51, 255]
    assert put(root, "alpha.png", Image.fromarray(rgba)).tolist() == [[0, 40, 200]]
    assert put(root, "la.png", Image.fromarray(rgba).convert("LA")).tolist() == [[0, 40, 200]]
    picture = Image.fromarray(np.array([[7, 9]], np.uint8))
    assert put(root, "trns.png", picture, transparency=9).tolist() == [[7, 0]]


def test_cmyk_jpeg_is_read(root):
    picture = Image.new("CMYK", (8, 8), (0, 0, 0, 0))
    assert put(root, "cmyk.jpg", picture).min() >= 250


def test_exif_rotation_is_applied(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = put(root, "turned.png", Image.fromarray(RAMP), exif=exif)
    assert np.array_equal(image, np.rot90(RAMP, -1))
    row = folders.manifest(root, LABELS).set_index("image_id").loc["glioma_tumor/turned.png"]
    assert (row["width"], row["height"]) == (6, 4)


def cut(root, name="cut.jpg"):
    stream = io.BytesIO()
    noisy().save(stream, "JPEG")
    (root / "glioma_tumor" / name).write_bytes(stream.getvalue()[: len(stream.getvalue()) // 2])


def test_corrupt_picture_is_named(root):
    cut(root)
    with pytest.raises(DataError, match=r"glioma_tumor/cut\.jpg"):
        folders.manifest(root, LABELS, "error")


def test_corrupt_picture_is_left_out_and_listed_on_request(root):
    cut(root)
    (root / "glioma_tumor" / "b.png").write_bytes(b"")
    (root / "glioma_tumor" / "c.jpg").write_bytes(b"GIF89a no picture")
    table = folders.manifest(root, LABELS, "skip")
    assert list(table["image_id"]) == ["glioma_tumor/a.png"]
    paths, reasons = zip(*table.attrs["skipped"], strict=True)
    assert paths == ("glioma_tumor/b.png", "glioma_tumor/c.jpg", "glioma_tumor/cut.jpg")
    assert all(reason.startswith(f"{root}/{path}: ") for path, reason in zip(paths, reasons, strict=True))


def test_unmapped_folder_is_refused_and_listed(root):
    (root / "Testing" / "pituitary").mkdir(parents=True)
    Image.fromarray(RAMP).save(root / "Testing" / "pituitary" / "x.png")
    with pytest.raises(DataError, match=r"'Testing/pituitary'.*glioma_tumor -> glioma, no_tumor -> no_tumor"):
        folders.manifest(root, LABELS)


def test_loose_pictures_are_refused(root):
    Image.fromarray(RAMP).save(root / "x.png")
    with pytest.raises(DataError, match=r"pictures found in '\.'"):
        folders.manifest(root, LABELS)


def test_class_folders_deeper_than_one_level_are_refused(root):
    (root / "x" / "y" / "no_tumor").mkdir(parents=True)
    Image.fromarray(RAMP).save(root / "x" / "y" / "no_tumor" / "x.png")
    with pytest.raises(DataError, match="x/y/no_tumor"):
        folders.manifest(root, LABELS)


def test_absent_class_folder_is_refused(root):
    with pytest.raises(DataError, match=r"no folder 'pituitary_tumor'.*found: 'glioma_tumor', 'no_tumor'"):
        folders.manifest(root, LABELS | {"pituitary_tumor": "pituitary"})


def test_no_pictures_at_all_is_refused(root):
    (root / "glioma_tumor" / "a.png").unlink()
    with pytest.raises(DataError, match="no slices"):
        folders.manifest(root, LABELS)
    with pytest.raises(DataError, match="no such folder"):
        folders.manifest(root / "nowhere", LABELS)


def test_hidden_files_systems_files_and_texts_are_passed_over_and_told(root):
    for name in (
        "planted.csv",
        "LICENCE",
        "desktop.ini",
        ".DS_Store",
        "glioma_tumor/Thumbs.db",
        "glioma_tumor/._a.png",
        "glioma_tumor/index.txt",
        "__MACOSX/a.png",
        ".Trash-1000/files/a.png",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    table = folders.manifest(root, LABELS)
    assert table["path"].tolist() == ["glioma_tumor/a.png"]
    assert table.attrs["passed_over"] == [
        ".DS_Store",
        ".Trash-1000/",
        "LICENCE",
        "__MACOSX/",
        "desktop.ini",
        "glioma_tumor/._a.png",
        "glioma_tumor/Thumbs.db",
        "glioma_tumor/index.txt",
        "planted.csv",
    ]


@pytest.mark.parametrize("name", ["IM0001", "IM2.dcm", "b.nii.gz", "c.mat", "d.zip", "e.heic", "f.svg"])
def test_whatever_else_lies_in_a_class_folder_is_refused_by_name(root, name):
    (root / "glioma_tumor" / name).write_bytes(b"no picture")
    with pytest.raises(DataError, match=rf"glioma_tumor/{name}: cannot be decoded as a picture: no picture of .*PNG"):
        folders.manifest(root, LABELS)


@pytest.mark.parametrize("name", ["b.bmp", "b.gif", "b.jp2", "b.pgm", "b.tif", "b.TIFF", "b.webp", "B.PNG"])
def test_every_kind_of_picture_is_read(root, name):
    options = {"lossless": True} if name == "b.webp" else {}
    assert np.array_equal(put(root, name, Image.fromarray(RAMP), **options), RAMP)
    assert folders.manifest(root, LABELS)["path"].tolist() == sorted(["glioma_tumor/a.png", f"glioma_tumor/{name}"])


def test_a_picture_without_an_ending_is_a_picture(root):
    Image.fromarray(RAMP).save(root / "glioma_tumor" / "IM0001", "PNG")
    assert folders.manifest(root, LABELS)["path"].tolist() == ["glioma_tumor/IM0001", "glioma_tumor/a.png"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (RAMP * 0.001, np.float32),
        (RAMP.astype(np.int32) - 100, np.int32),
        (RAMP.astype(np.int32) * 1000, np.int32),
        (RAMP.astype(np.uint16) * 257, np.uint16),
    ],
)
def test_scanner_units_in_a_tiff_are_kept(root, values, kind):
    image = put(root, "b.tif", Image.fromarray(values.astype(kind)))
    assert image.dtype == kind and np.array_equal(image, values.astype(kind))


def test_a_picture_with_pixels_that_are_no_numbers_is_refused(root):
    with pytest.raises(DataError, match=r"b\.tif: .*NaN"):
        put(root, "b.tif", Image.fromarray(np.full((4, 4), np.nan, np.float32)))


@pytest.mark.parametrize("name", ["b.tif", "b.gif", "b.webp", "b.png"])
def test_a_file_of_several_pictures_is_refused(root, name):
    more = [noisy(seed) for seed in (1, 2)]
    with pytest.raises(DataError, match=r"b\.\w+: holds 3 pictures; save each slice in a file of its own"):
        put(root, name, noisy(), save_all=True, append_images=more)


def test_white_as_zero_is_turned_in_eight_bits_and_refused_in_sixteen(root):
    assert np.array_equal(put(root, "b.tif", Image.fromarray(RAMP), tiffinfo={262: 0}), RAMP)
    data = bytearray((root / "glioma_tumor" / "b.tif").read_bytes())
    tag = data.index(struct.pack("<HHI", 262, 3, 1)) + 8
    data[tag : tag + 2] = struct.pack("<H", 1)  # the same bytes, said to have black as 0
    (root / "glioma_tumor" / "b.tif").write_bytes(data)
    assert np.array_equal(folders.read(root, "glioma_tumor/b.tif")[0], 255 - RAMP)
    with pytest.raises(DataError, match=r"c\.tif: white is stored as 0 in more than 8 bits"):
        put(root, "c.tif", Image.fromarray(RAMP.astype(np.uint16)), tiffinfo={262: 0})


def test_a_zip_file_is_passed_over_where_it_is_unpacked_and_refused_where_not(root):
    with zipfile.ZipFile(root / "archive.zip", "w") as archive:
        archive.writestr("set/glioma_tumor/a.png", b"x")
        archive.writestr("set/readme.txt", b"x")
    assert folders.manifest(root, LABELS).attrs["passed_over"] == ["archive.zip"]
    with zipfile.ZipFile(root / "archive.zip", "a") as archive:
        archive.writestr("set/glioma_tumor/b.png", b"x")
    with pytest.raises(DataError, match=r"archive\.zip: holds 1 files that do not lie unpacked .*b\.png"):
        folders.manifest(root, LABELS)
    with zipfile.ZipFile(root / "archive.zip", "w") as archive:
        archive.writestr("set/another_tumor/a.png", b"x")
    with pytest.raises(DataError, match=r"holds 1 files that do not lie unpacked .*another_tumor/a\.png"):
        folders.manifest(root, LABELS)


def test_links_and_paths_outside_are_refused(root, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    Image.fromarray(RAMP).save(outside / "x.png")
    (root / "glioma_tumor" / "link.png").symlink_to(outside / "x.png")
    with pytest.raises(DataError, match=r"link\.png: is a link"):
        folders.manifest(root, LABELS)
    (root / "glioma_tumor" / "link.png").unlink()
    (root / "more").symlink_to(outside)
    with pytest.raises(DataError, match="more: is a symbolic link"):
        folders.manifest(root, LABELS)
    for path in (
        "more/x.png",
        f"../{outside.name}/x.png",
        str(outside / "x.png"),
        "",
        "glioma_tumor",
        "glioma_tumor/none.png",
    ):
        with pytest.raises(DataError):
            folders.read(root, path)


@pytest.mark.skipif(os.name == "nt", reason="names are bytes on POSIX only")
def test_name_that_is_no_unicode_is_refused(root):
    try:
        (root / "glioma_tumor" / os.fsdecode(b"\xff.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system refuses such names itself")
    with pytest.raises(DataError, match="UTF-8"):
        folders.manifest(root, LABELS)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb_is_refused_undecoded(root):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side in (4097, 12_000, 40_000):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        (root / "glioma_tumor" / "bomb.png").write_bytes(bomb)
        with pytest.raises(DataError, match=r"bomb\.png.*pixels"):
            folders.manifest(root, LABELS)


def test_a_file_larger_than_any_slice_is_refused_unread(root):
    with open(root / "glioma_tumor" / "huge.png", "wb") as file:
        file.truncate(20 << 30)
    with pytest.raises(DataError, match=r"huge\.png: is larger than 64 MB"):
        folders.manifest(root, LABELS)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_mutated_pictures_are_read_or_refused_and_nothing_else(root, kind):
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3
    noisy(size=24).convert("RGB").save(stream, kind, exif=exif)
    good, rng = stream.getvalue(), random.Random(kind)
    file, refused = root / "glioma_tumor" / "m.png", 0
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data) if rng.random() < 0.5 else 200)] = rng.randrange(256)
        file.write_bytes(data[: rng.randint(0, len(data))] if rng.random() < 0.3 else data)
        try:
            assert folders.read(root, "glioma_tumor/m.png")[0].ndim == 2
        except DataError:
            refused += 1
    assert refused
