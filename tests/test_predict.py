"""Files to classes: what the study itself would have said of each slice, and a clear word on every bad file."""

import os
import re
import struct
import zlib
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_publish import made_run

from btlib import DataError, __main__, params
from btlib.data import datasets
from btlib.data.figshare import CLASSES
from btlib.deploy import explorer, predict, publish, volumes
from btlib.figures import gradcam as figures
from btlib.fitting import runs, training

RAMP = np.add.outer(3 * np.arange(40), 2 * np.arange(40)).astype(np.uint8)


@pytest.fixture
def run(home, study):
    """Its held-out slices have so little energy that none is below."""
    odds = [("meningioma", [-48.0, -50, -50])] * 3 + [("glioma", [-48.0, -50, -50])]
    return made_run(home, study, odds, odds)


@pytest.fixture
def opened(run):
    return publish.open_model("some_run")[:2]


def test_a_slice_gets_the_probabilities_that_its_run_stored(home, study):
    fit = runs.fit_of(study, datasets.fingerprint(study.data), study.proposed, "image_holdout", 0, 0)
    fitted = training.fit(study, fit)
    stored = fitted.predictions().head(5)
    paths = datasets.load(study.data, study.preprocessing).manifest.set_index("image_id")["path"]
    names = [str(datasets.folder(study.data) / paths[i]) for i in stored["image_id"]]
    model, facts, _ = publish.open_model(fitted.id)
    rows = pd.DataFrame(predict.classify(model, facts, names))
    assert list(rows.columns) == predict.columns(CLASSES)
    odds = np.exp(stored[runs.logits_of(CLASSES)].to_numpy() / (facts.temperature or 1))
    expected = odds / odds.sum(1, keepdims=True)
    np.testing.assert_allclose(rows[[f"p_{c}" for c in CLASSES]].to_numpy(), expected, atol=1e-4)
    assert list(rows["class"]) == [CLASSES[k] for k in expected.argmax(1)]
    assert (rows["error"] == "").all()


def bad_files(folder):
    """Six files that are no slices, and two that can be answered."""
    (folder / "1_text.jpg").write_text("hello")
    (folder / "2_zero.png").write_bytes(b"")
    Image.fromarray(np.tile(RAMP, (1, 500))).save(folder / "3_wide.png")
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    (folder / "4_bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    Image.new("L", (40, 40), 7).save(folder / "5_even.png")
    (folder / "6\n.jpg").write_bytes(b"x")
    Image.fromarray(RAMP).save(folder / "7_slice.jpg")
    colours = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], -1)
    Image.fromarray(colours).save(folder / "8_photo.webp")
    (folder / "notes.txt").write_text("passed over: a text")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bad_file_costs_one_line_and_exit_code_1_and_the_rest_is_done(run, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    bad_files(folder)
    words = ["predict", "some_run", str(folder), str(tmp_path / "nothere.png"), "--csv", str(tmp_path / "out.csv")]
    monkeypatch.setattr("sys.argv", ["btlib", *words])
    with pytest.raises(SystemExit) as stopped:
        __main__.main()
    assert stopped.value.code == 1
    out, err = capsys.readouterr()
    assert [line.split()[-1] for line in out.splitlines()[:3]] == ["file", "in/7_slice.jpg", "in/8_photo.webp"]
    assert out.splitlines()[3] == "  WARNING: the picture is coloured, MR slices are grey"
    assert max(map(len, out.splitlines())) <= 80
    lines = err.splitlines()
    expected = ["1_text.jpg: .*no picture of", "2_zero.png: has 0 bytes", "3_wide.png: is 20000 x 40 pixels"]
    expected += ["4_bomb.png: .*20000 x 20000|4_bomb.png: .*400000000 pixels", "5_even.png: all its pixels are alike"]
    expected += [r"6\\n.jpg", "nothere.png: .*No such file"]
    refused = lines[-1 - len(expected) : -1]
    assert len(refused) == len(expected)
    assert all(re.search(e, line) for e, line in zip(expected, refused, strict=True))
    assert lines[-1].startswith("2 of 9 files classified, 1 with a warning; 1 passed over")
    table = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert list(table.columns) == predict.columns(CLASSES) and len(table) == 9
    assert list(table["class"] != "") == [False] * 6 + [True, True, False]
    assert list(table["warning"] != "") == [False] * 7 + [True, False]
    assert "coloured" in table["warning"][7]


def test_without_a_bad_file_the_exit_code_is_0(run, tmp_path, monkeypatch, capsys):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    monkeypatch.setattr("sys.argv", ["btlib", "predict", "some_run", str(tmp_path / "a.png")])
    with pytest.raises(SystemExit) as stopped:
        __main__.main()
    assert stopped.value.code == 0
    assert "not a medical device" in capsys.readouterr().err


def test_a_slice_of_low_energy_is_warned_of(opened, tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    model, facts = opened
    (row,) = predict.classify(model, facts.model_copy(update={"energy": None}), [str(tmp_path / "a.png")])
    assert row["warning"] == ""
    for limit, warned in ((row["energy"] + 0.1, True), (row["energy"] - 0.1, False)):
        (again,) = predict.classify(model, facts.model_copy(update={"energy": limit}), [str(tmp_path / "a.png")])
        assert ("unlike the training slices" in again["warning"]) == warned


@pytest.mark.parametrize("ending", ["png", "webp", "JPG"])
def test_grey_pictures_stored_in_colour_are_not_coloured(tmp_path, ending):
    name = str(tmp_path / f"a.{ending}")
    Image.fromarray(RAMP).convert("RGB").save(name, "JPEG" if ending == "JPG" else None, quality=30)
    image, tint, _ = predict.read(name)
    assert tint < predict.TINT and np.abs(image.astype(int) - RAMP).mean() < 4


def dicom(path, pixels, **changes):
    """Write a DICOM file of one frame."""
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (pip install -e .[dicom])")
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
    file.Rows, file.Columns = pixels.shape[:2]
    file.SamplesPerPixel, file.PhotometricInterpretation = (1, "MONOCHROME2") if pixels.ndim == 2 else (3, "RGB")
    file.BitsAllocated = file.BitsStored = 8 * pixels.itemsize
    file.HighBit, file.PixelRepresentation, file.PlanarConfiguration = file.BitsStored - 1, 0, 0
    file.PixelData = pixels.tobytes()
    for key, value in changes.items():
        setattr(file, key, value)
    file.save_as(path, enforce_file_format=True)
    return str(path)


def test_dicom_is_read_upright_square_and_white_on_black(tmp_path):
    wide = (100 * np.arange(1600, dtype=np.uint16)).reshape(20, 80)
    np.testing.assert_array_equal(predict.read(dicom(tmp_path / "a.dcm", wide))[0], wide)
    inverted, *_ = predict.read(dicom(tmp_path / "b.dcm", wide, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(inverted, wide.max() - wide.astype(float))
    # Rows 2 mm apart, columns 1 mm: as many square pixels as millimetres.
    stretched, *_ = predict.read(dicom(tmp_path / "c.dcm", wide, PixelSpacing=[2, 1]))
    assert stretched.shape == (40, 80)
    colour = np.dstack([RAMP, RAMP[::-1], RAMP])
    assert predict.read(dicom(tmp_path / "d.DCM", colour))[1] > predict.TINT


def test_dicom_that_is_no_slice_is_refused(tmp_path):
    wide = np.arange(1600, dtype=np.uint16).reshape(20, 80)
    for changes, message in (
        ({"NumberOfFrames": 2, "PixelData": wide.tobytes() * 2}, "holds 2 frames"),
        ({"PixelSpacing": [1, 0]}, "pixels measure"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR"),
        ({"Rows": 60_000, "Columns": 60_000}, "60000 x 60000"),
        ({"PixelData": b"\0\0"}, "cannot be read"),
    ):
        with pytest.raises(DataError, match=rf"a\.dcm: .*{message}"):
            predict.read(dicom(tmp_path / "a.dcm", wide, **changes))
    (tmp_path / "text.dcm").write_text("hello")
    with pytest.raises(DataError, match=r"text\.dcm: cannot be read"):
        predict.read(str(tmp_path / "text.dcm"))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "IPR", "ASL"])
def test_nifti_slices_look_as_radiologists_have_them(tmp_path, codes):
    """Whatever way the array is stored, front is above, the patient's right is left, and slice 0 is at the feet."""
    import nibabel
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    volume = np.zeros((30, 40, 20), np.int16)  # right, front, head
    volume[25, 35, 3], volume[2, 20, 10] = 100, 50
    image = nibabel.Nifti1Image(volume, np.eye(4))
    image = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(codes)))
    name = str(tmp_path / "a.nii.gz")
    nibabel.save(image, name)
    low, _, warnings = predict.read(f"{name}:3")
    assert warnings == ()
    assert low.shape == (40, 30) and np.argwhere(low == 100).tolist() == [[39 - 35, 29 - 25]]
    middle, _, warnings = predict.read(name)
    assert warnings == ("axial slice 10 of 0 to 19 taken, the middle one; FILE:k takes slice k",)
    assert np.argwhere(middle == 50).tolist() == [[39 - 20, 29 - 2]]
    with pytest.raises(DataError, match=r"a\.nii\.gz:20: has 20 axial slices; allowed: 0 to 19"):
        predict.read(f"{name}:20")


def test_nifti_pixels_become_square_and_other_shapes_are_refused(tmp_path):
    import nibabel

    filled = np.random.default_rng(0).normal(size=(30, 40, 5))
    nibabel.save(nibabel.Nifti1Image(filled, np.diag([1, 2, 1, 1])), tmp_path / "a.nii")
    assert predict.read(str(tmp_path / "a.nii"))[0].shape == (80, 30)
    nibabel.save(nibabel.Nifti1Image(filled[..., None].repeat(2, 3), np.eye(4)), tmp_path / "b.nii")
    with pytest.raises(DataError, match=r"b\.nii: is 30 x 40 x 5 x 2"):
        predict.read(str(tmp_path / "b.nii"))
    (tmp_path / "c.nii.gz").write_text("hello")
    with pytest.raises(DataError, match=r"c\.nii\.gz: cannot be read"):
        predict.read(str(tmp_path / "c.nii.gz"))


def test_folders_are_expanded_in_order_and_empty_ones_are_named(tmp_path):
    for name in ("b/2.png", "b/10.PNG", "a.jpg", ".hidden.jpg", "c.txt"):
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(b"")
    (tmp_path / "empty").mkdir()
    found, passed_over = predict.expand([str(tmp_path / "x"), str(tmp_path / "empty"), "other.png"])
    assert passed_over == 2
    assert [os.path.relpath(f, tmp_path) for f in found[:4]] == ["x/a.jpg", "x/b/10.PNG", "x/b/2.png", "empty"]
    assert found[4:] == ["other.png"]
    with pytest.raises(DataError, match=r"empty: is a folder without a picture, DICOM"):
        predict.read(str(tmp_path / "empty"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="is no regular file"):
        predict.read(str(tmp_path / "pipe.png"))


def test_overlays_are_numbered_pictures(opened, tmp_path):
    names = [tmp_path / "1" / "a b.png", tmp_path / "2" / "a b.png"]
    for name in names:
        name.parent.mkdir()
        Image.fromarray(RAMP).save(name)
    rows = list(predict.classify(*opened, [str(names[0]), "nothere.png", str(names[1])], tmp_path / "maps"))
    assert [r["gradcam"] for r in rows] == ["0001_a_b.png", "", "0003_a_b.png"]
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == ["0001_a_b.png", "0003_a_b.png"]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("x/a b.png", "a_b"),
        ("v.nii.gz:42", "v_42"),
        ("IM0001", "IM0001"),
        ("IM0002.IMA", "IM0002_IMA"),
        ("ä/1.2.840.dcm", "1_2_840"),
    ],
)
def test_a_picture_is_named_for_its_slice_without_a_second_ending(name, stem):
    assert predict._stem(name) == stem


def test_an_overlay_says_all_that_its_row_says(opened, tmp_path, monkeypatch):
    drawn = {}
    draw = figures.gradcam_overlay
    monkeypatch.setattr(predict.figures, "gradcam_overlay", lambda *given: drawn.update(given=given) or draw(*given))
    colours = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], -1)
    Image.fromarray(colours).save(tmp_path / "a$x$_{.png")
    (row,) = predict.classify(*opened, [str(tmp_path / "a$x$_{.png")], tmp_path / "maps")
    assert row["gradcam"] == "0001_a_x___.png" and (tmp_path / "maps" / row["gradcam"]).stat().st_size > 5000
    _, heat, title, words = drawn["given"]
    assert title == "a$x$_{.png" and heat.shape == (32, 32)
    assert all(f"{c} {row[f'p_{c}']:.3f}" in words[0] for c in CLASSES)
    assert "of 7 x 7 places; toy, run" in words[1], "two convolutions of stride 2 on 32 pixels: 15, then 7"
    assert words[2] == f"WARNING: {row['warning']}" and words[3].startswith("not a medical device")


def test_more_files_than_a_block_come_back_in_order(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "BLOCK", 4)
    names = []
    for k in range(10):
        names.append(str(tmp_path / f"{k}.png"))
        Image.fromarray(np.roll(RAMP, 4 * k, axis=k % 2)).save(names[-1])
    whole = [row["energy"] for row in predict.classify(*opened, names)]
    alone = [next(predict.classify(*opened, [name]))["energy"] for name in names]
    assert len(set(np.round(alone, 5))) > 5
    np.testing.assert_allclose(whole, alone, rtol=1e-4)


def test_help_has_one_example_for_every_command_and_each_parses(capsys):
    parser = __main__.parser()
    commands = re.findall(r"^    (\w+)  ", parser.format_help(), re.M)
    examples = re.findall(r"^  python -m btlib (\w+)(.*)$", parser.epilog, re.M)
    assert [name for name, _ in examples] == commands and {"predict", "export", "study"} <= set(commands)
    for name, rest in examples:
        assert callable(parser.parse_args([name, *rest.split()]).run)


def test_dicom_is_known_by_its_content_and_what_a_folder_holds_is_read_refused_or_counted(tmp_path):
    wide = np.arange(1600, dtype=np.uint16).reshape(20, 80)
    folder = tmp_path / "study"
    (folder / ".cache").mkdir(parents=True)
    dicom(folder / "IM0001", wide)
    dicom(folder / "IM0002.IMA", wide)
    dicom(folder / "IM0003.png", wide)
    whole = (folder / "IM0001").read_bytes()
    (folder / "old scanner").write_bytes(whole[132:])
    Image.fromarray(RAMP).save(folder / "thumb.png")
    Image.fromarray(RAMP).save(folder / "picture", "PNG")
    (folder / "tool.exe").write_bytes(b"MZ" + bytes(500))
    for name in ("DICOMDIR", "readme.TXT", "._IM0001", "Thumbs.db", ".cache/x.png"):
        (folder / name).write_bytes(whole)
    names, passed_over = predict.expand([str(folder)])
    read = ["IM0001", "IM0002.IMA", "IM0003.png", "old scanner", "picture", "thumb.png"]
    assert [os.path.basename(name) for name in names] == [*read, "tool.exe"]
    assert passed_over == 5, "DICOMDIR, readme.TXT, ._IM0001, Thumbs.db, and the folder .cache"
    for name in names[:4]:
        np.testing.assert_array_equal(predict.read(name).pixels, wide)
    with pytest.raises(DataError, match=r"tool\.exe: is no picture, DICOM, NIfTI or Figshare slice"):
        predict.read(names[-1])


@pytest.mark.parametrize(
    ("head", "with_preamble", "without"),
    [
        (bytes(128) + b"DICM", True, True),
        (b"\x08\0\x05\0CS\x0a\0ISO_IR 100", False, True),
        (b"\x08\0\x05\0\x0a\0\0\0ISO_IR 100", False, True),
        (b"\x89PNG\r\n\x1a\n", False, False),
        (b"BM\x36\x00", False, False),
        (b"", False, False),
    ],
)
def test_dicom_has_a_mark_or_begins_with_an_element_of_group_2_or_8(head, with_preamble, without):
    assert volumes.is_dicom(head) == with_preamble
    assert volumes.is_dicom(head, preamble=False) == without


def test_a_folder_that_is_a_link_is_refused_by_name(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "link").symlink_to(tmp_path / "real")
    names, passed_over = predict.expand([str(tmp_path / "study")])
    assert (names, passed_over) == ([str(tmp_path / "study" / "link")], 0)
    with pytest.raises(DataError, match="link: is a link to a folder"):
        predict.read(names[0])


def test_dicom_values_are_rescaled_and_padding_is_dark(tmp_path):
    wide = np.arange(1600, dtype=np.uint16).reshape(20, 80)
    falling = predict.read(dicom(tmp_path / "a.dcm", wide, RescaleSlope=-2, RescaleIntercept=10)).pixels
    np.testing.assert_array_equal(falling, 10 - 2.0 * wide)
    padded = wide.copy()
    padded[0] = 60_000
    seen = predict.read(dicom(tmp_path / "b.dcm", padded, PixelPaddingValue=60_000)).pixels
    np.testing.assert_array_equal(seen[0], wide[1].min())
    np.testing.assert_array_equal(seen[1:], wide[1:])
    seen = predict.read(
        dicom(tmp_path / "c.dcm", padded, PixelPaddingValue=60_000, PhotometricInterpretation="MONOCHROME1")
    ).pixels
    assert (seen[0] == 0).all() and seen.max() == wide.max() - wide[1].min(), "inverted, padding is still dark"
    ratio = predict.read(dicom(tmp_path / "d.dcm", wide, PixelAspectRatio=["2", "1"])).pixels
    assert ratio.shape == (40, 80)
    assert predict.read(dicom(tmp_path / "e.dcm", wide, Modality="CT")).warnings == (
        "its modality is CT, the model knows MR",
    )


def test_dicom_that_is_no_slice_says_what_it_is(tmp_path):
    wide = np.arange(1600, dtype=np.uint16).reshape(20, 80)
    for changes, message in (
        ({"Modality": "SEG"}, "is a segmentation"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "is a mosaic of many slices"),
        ({"DirectoryRecordSequence": []}, "is a DICOMDIR"),
    ):
        with pytest.raises(DataError, match=rf"a\.dcm: {message}"):
            predict.read(dicom(tmp_path / "a.dcm", wide, **changes))


def test_compressed_dicom_is_read_or_names_the_package_that_would(tmp_path, monkeypatch):
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (pip install -e .[dicom])")
    from pydicom import pixels, uid

    wide = np.arange(1600, dtype=np.uint16).reshape(20, 80)
    file = pydicom.dcmread(dicom(tmp_path / "a.dcm", wide))
    file.compress(uid.RLELossless)
    file.save_as(tmp_path / "rle.dcm")
    np.testing.assert_array_equal(predict.read(str(tmp_path / "rle.dcm")).pixels, wide)
    file.file_meta.TransferSyntaxUID = uid.JPEGLSLossless
    file.save_as(tmp_path / "jpegls.dcm")
    monkeypatch.setattr(pixels.decoders.base.Decoder, "is_available", False)
    with pytest.raises(DataError, match=r"jpegls\.dcm: its pixels are compressed \(JPEG-LS.*pip install python-gdcm"):
        predict.read(str(tmp_path / "jpegls.dcm"))


def test_nifti_of_one_volume_is_read_whatever_its_header_leaves_open(tmp_path):
    import nibabel

    filled = np.random.default_rng(0).normal(size=(30, 40, 5))
    nibabel.save(nibabel.Nifti1Image(filled[..., None], np.eye(4)), tmp_path / "four.nii")
    nibabel.save(nibabel.Nifti1Image(filled, np.eye(4)), tmp_path / "three.nii")
    np.testing.assert_array_equal(*(predict.read(str(tmp_path / f"{n}.nii:2")).pixels for n in ("four", "three")))
    nibabel.save(nibabel.Nifti1Image(filled, None), tmp_path / "nowhere.nii")
    assert (
        predict.read(str(tmp_path / "nowhere.nii:2")).warnings[0].startswith("it does not record how the patient lay")
    )
    nibabel.save(nibabel.Nifti1Image(filled.astype(np.complex64), np.eye(4)), tmp_path / "complex.nii")
    with pytest.raises(DataError, match=r"complex\.nii: holds complex voxels"):
        predict.read(str(tmp_path / "complex.nii"))
    colours = np.zeros((30, 40, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), tmp_path / "rgb.nii")
    with pytest.raises(DataError, match=r"rgb\.nii: holds colour voxels"):
        predict.read(str(tmp_path / "rgb.nii"))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_lines_fit_into_80_columns_for_any_number_of_classes(count):
    classes = ["no_tumor", "glioma", "meningioma", "pituitary", "metastasis"][:count]
    row = {f"p_{c}": 0.1 for c in classes} | {"p_glioma": 0.9, "class": "glioma", "warning": "long " * 30}
    lines = [predict.heading(classes), *predict.line(row, classes, "folder/slice_0001.png").splitlines()]
    assert max(map(len, lines)) <= 80 and lines[1].split()[0] == "glioma" and "0.900" in lines[1]
    assert lines[0].index("file") == lines[1].index("folder/"), "headings stand over their columns"


@pytest.mark.parametrize("classes", [["glioma", "other"], ["a", "b", "c", "d", "e"]])
def test_a_model_of_any_classes_predicts_by_the_facts_beside_it(study, tmp_path, classes):
    from btlib.models import registry

    registry.build("toy", None, 32, study.head, 0, classes=len(classes)).save(tmp_path / "m.keras")
    prepared = params.load("quick").preprocessing.model_copy(update={"image_size": 32})
    facts = {"name": "m", "data": "x", "preprocessing": prepared, "temperature": None, "energy": None}
    (tmp_path / "m.json").write_text(publish.Facts(classes=classes, **facts).model_dump_json())
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    model, told, _ = publish.open_model(str(tmp_path / "m.keras"))
    (row,) = predict.classify(model, told, [str(tmp_path / "a.png")], tmp_path / "maps")
    assert list(row) == predict.columns(classes) and row["class"] in classes
    assert sum(row[f"p_{c}"] for c in classes) == pytest.approx(1)


def test_a_slice_of_ones_own_is_shown_in_a_panel_with_all_that_predict_says(run, tmp_path):
    words = explorer.own("some_run", panel=False).data
    assert "btlib predict some_run" in words
    Image.fromarray(RAMP).save(tmp_path / "a<b>.png")
    controls, words, picture = explorer.own("some_run", panel=True).children
    upload, path = controls.children
    assert "not a medical device" in words.value
    path.value = str(tmp_path / "a<b>.png")
    assert bytes(picture.value).startswith(b"\x89PNG") and "a&lt;b&gt;.png" in words.value
    path.value = "nothere.png"
    assert bytes(picture.value) == b"" and "nothere.png: cannot be read: No such file" in words.value
    content = memoryview((tmp_path / "a<b>.png").read_bytes())
    upload.value = (
        {
            "name": "up.png",
            "type": "image/png",
            "size": len(content),
            "content": content,
            "last_modified": datetime.now(UTC),
        },
    )
    assert bytes(picture.value).startswith(b"\x89PNG") and "up.png" in words.value
