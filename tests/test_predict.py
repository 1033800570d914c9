"""Files to classes: what the study itself would have said of each slice, and a clear word on every bad file."""

import os
import re
import struct
import zlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_publish import made_run

from btlib import CLASSES, DataError, __main__
from btlib.data import datasets
from btlib.deploy import predict, publish
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
    assert set(rows.columns) == set(predict.COLUMNS)
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
    (folder / "notes.txt").write_text("left out: no picture")


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
    assert len(out.splitlines()) == 2
    lines = err.splitlines()
    expected = ["1_text.jpg: .*no JPEG, PNG or WebP", "2_zero.png: has 0 bytes", "3_wide.png: is 20000 x 40 pixels"]
    expected += ["4_bomb.png: .*20000 x 20000|4_bomb.png: .*400000000 pixels", "5_even.png: all its pixels are alike"]
    expected += [r"6\\n.jpg", "nothere.png: .*No such file"]
    refused = [line for line in lines if line.startswith("DataError")]
    assert len(refused) == len(expected)
    assert all(re.search(e, line) for e, line in zip(expected, refused, strict=True))
    assert lines[-1].startswith("2 of 9 files classified, 1 with a warning")
    table = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert list(table.columns) == list(predict.COLUMNS) and len(table) == 9
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
    image, tint = predict.read(name)
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
    inverted, _ = predict.read(dicom(tmp_path / "b.dcm", wide, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(inverted, wide.max() - wide.astype(float))
    # Rows 2 mm apart, columns 1 mm: as many square pixels as millimetres.
    stretched, _ = predict.read(dicom(tmp_path / "c.dcm", wide, PixelSpacing=[2, 1]))
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
    low, _ = predict.read(f"{name}:3")
    assert low.shape == (40, 30) and np.argwhere(low == 100).tolist() == [[39 - 35, 29 - 25]]
    middle, _ = predict.read(name)
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
    found = predict.expand([str(tmp_path / "x"), str(tmp_path / "empty"), "other.png"])
    assert [os.path.relpath(f, tmp_path) for f in found[:4]] == ["x/a.jpg", "x/b/10.PNG", "x/b/2.png", "empty"]
    assert found[4:] == ["other.png"]
    with pytest.raises(DataError, match=r"empty: is a folder without a file ending in \.jpg"):
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
    assert [r["gradcam"] for r in rows] == ["0001_a_b.png.png", "", "0003_a_b.png.png"]
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == ["0001_a_b.png.png", "0003_a_b.png.png"]
    assert Image.open(tmp_path / "maps" / "0001_a_b.png.png").size == (660, 375)


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
