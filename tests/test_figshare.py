"""Reading Figshare's slices: what is right, what is wrong with a name, and what is hostile."""

import hashlib
import http.server
import io
import os
import threading
import types
import zipfile

import h5py
import numpy as np
import pandas as pd
import pooch
import pytest
import requests
import scipy.io

from btlib import DataError
from btlib.data import figshare, manifest

HEADER = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"


def picture(height=40, width=30, seed=0):
    return np.random.default_rng(seed).integers(1, 900, (height, width)).astype(np.int16)


def spot(height=40, width=30):
    mask = np.zeros((height, width), bool)
    mask[5:9, 20:27] = True
    return mask


def write(path, image=None, mask=None, label=2, patient="MR040240B", drop=(), storage=None, name="cjdata"):
    """One slice as MATLAB 7.3 writes it: arrays transposed, text as numbers."""
    image = picture() if image is None else image
    mask = spot() if mask is None else mask
    storage = {"chunks": (16, 16), "compression": "gzip"} if storage is None else storage
    fields = {
        "PID": np.array([[ord(c)] for c in patient], np.uint16),
        "image": image.T,
        "label": np.array([[label]], float),
        "tumorBorder": np.ones((1, 8)),
        "tumorMask": mask.T.astype(np.uint8) if mask.dtype == bool else mask.T,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        for key, value in fields.items():
            if key not in drop:
                file.create_dataset(f"{name}/{key}", data=value, **(storage if value.size > 100 else {}))
    with open(path, "r+b") as file:
        file.write(HEADER)
    return path


@pytest.fixture
def three(tmp_path):
    """Slices 2, 10 and 1 of three classes, one in a folder of its own."""
    write(tmp_path / "2.mat", label=1, patient="100360")
    write(tmp_path / "10.mat", label=2, patient="MR040240B")
    write(tmp_path / "deep" / "er" / "1.mat", label=3, image=picture(64, 50), mask=np.zeros((64, 50), bool))
    return tmp_path


def test_manifest_has_a_row_a_slice_in_the_order_of_their_numbers(three):
    table = figshare.manifest(three)
    assert table["image_id"].tolist() == ["1", "2", "10"]
    assert table["path"].tolist() == ["deep/er/1.mat", "2.mat", "10.mat"]
    assert table["label"].tolist() == ["pituitary", "meningioma", "glioma"]
    assert table["patient_id"].tolist() == ["MR040240B", "100360", "MR040240B"]
    assert table["patient_group"].tolist() == ["MR040240", "100360", "MR040240"]
    assert table["height"].tolist() == [64, 40, 40] and table["width"].tolist() == [50, 30, 30]
    assert table["mask_area"].tolist() == [0, 28, 28]
    assert table["sha256"][1] == manifest.identity(picture(), spot())
    assert set(table["part"]) == {""}
    assert table.attrs["skipped"] == []


def test_a_slice_is_the_same_slice_whatever_program_wrote_the_file(tmp_path):
    write(tmp_path / "1.mat")
    write(tmp_path / "2.mat", storage={})
    write(tmp_path / "3.mat", image=picture().astype(">f8"), storage={"chunks": (7, 9), "shuffle": True})
    changed, moved = picture(), spot()
    changed[3, 4] += 1
    moved[0, 0] = True
    write(tmp_path / "4.mat", image=changed)
    write(tmp_path / "5.mat", mask=moved)
    assert figshare.manifest(tmp_path)["sha256"].map({manifest.identity(picture(), spot()): 1}).count() == 3
    assert figshare.manifest(tmp_path)["sha256"].nunique() == 3


def test_read_returns_the_slice_upright(three):
    image, mask = figshare.read(three, "2.mat")
    assert image.dtype == np.int16 and mask.dtype == bool
    np.testing.assert_array_equal(image, picture())
    np.testing.assert_array_equal(mask, spot())


@pytest.mark.parametrize(
    "storage",
    [
        {},
        {"chunks": (7, 9)},
        {"chunks": (16, 16), "compression": "gzip", "shuffle": True, "fletcher32": True},
        {"chunks": (30, 40), "compression": "gzip", "compression_opts": 0},
    ],
)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32, np.float64, ">i2"])
def test_any_usual_storage_reads_alike(tmp_path, storage, kind):
    write(tmp_path / "1.mat", image=picture().astype(kind), storage=storage)
    np.testing.assert_array_equal(figshare.read(tmp_path, "1.mat")[0], picture().astype(kind))


def test_the_chunks_in_which_pixels_are_stored_are_bounded(tmp_path):
    path = write(tmp_path / "1.mat", drop=["image"])
    with h5py.File(path, "r+") as file:
        file.create_dataset("cjdata/image", (30, 40), np.int16, chunks=(4096, 8192), maxshape=(None, None))
    with pytest.raises(DataError, match=r"image is stored in chunks of \(4096, 8192\); allowed: 16,777,216"):
        figshare.read(tmp_path, "1.mat")


def test_a_zip_file_is_to_be_unpacked(three):
    with zipfile.ZipFile(three / "a.zip", "w") as archive:
        archive.writestr("inner/3.mat", b"x")
        archive.writestr("__MACOSX/._4.mat", b"x")
    with pytest.raises(DataError, match=r"a\.zip: holds 1 files that do not lie unpacked .*inner/3\.mat.*; unpack it"):
        figshare.manifest(three)


def test_a_folder_of_zip_files_alone_names_them(tmp_path):
    zipfile.ZipFile(tmp_path / "a.zip", "w").close()
    with pytest.raises(DataError, match=r"no slices found; expected \.mat files; unpack there: a\.zip"):
        figshare.manifest(tmp_path)


def test_folds_left_in_a_zip_file_are_not_forgotten(three):
    with zipfile.ZipFile(three / "cvind.zip", "w") as archive:
        archive.writestr("cvind.mat", b"x")
    with pytest.raises(DataError, match=r"cvind\.zip: .*\(cvind\.mat\)"):
        figshare.manifest(three)


def test_what_is_no_slice_is_passed_over_and_told(three):
    with zipfile.ZipFile(three / "a.zip", "w") as archive:  # beside its unpacked folder
        archive.writestr("a\\2.mat", b"x")
    for name in ("._1.mat", "Thumbs.db", "readme.txt", ".Trash-1000/files/9.mat", "__MACOSX/deep/._2.mat"):
        (three / name).parent.mkdir(parents=True, exist_ok=True)
        (three / name).write_bytes(b"x")
    table = figshare.manifest(three)
    assert table["image_id"].tolist() == ["1", "2", "10"]
    assert table.attrs["passed_over"] == [".Trash-1000/", "._1.mat", "Thumbs.db", "__MACOSX/", "a.zip", "readme.txt"]


def test_names_packed_on_windows_are_read_for_their_last_part(tmp_path):
    write(tmp_path / "dir\\1.mat")
    assert figshare.manifest(tmp_path)["image_id"].tolist() == ["1"]
    (tmp_path / "dir\\._1.mat").write_bytes(b"x")
    assert figshare.manifest(tmp_path).attrs["passed_over"] == ["dir\\._1.mat"]


def write_folds(path, numbers):
    with h5py.File(path, "w", userblock_size=512) as file:
        file["cvind"] = np.array([numbers], float)
    return path


def test_author_folds(three):
    write_folds(three / "cvind.mat", [1, 5, 3, 2])
    assert figshare.folds(three).to_dict() == {1: 1, 2: 5, 3: 3, 4: 2}
    assert len(figshare.manifest(three)) == 3


def test_author_folds_in_two_files_are_refused(three):
    write_folds(three / "cvind.mat", [1])
    write_folds(three / "deep" / "cvind.mat", [1])
    with pytest.raises(DataError, match=r"cvind\.mat more than once: cvind\.mat, deep/cvind\.mat"):
        figshare.folds(three)


NUMBERED = pd.Series([4, 5, 3], index=[1, 2, 3])


@pytest.mark.parametrize(
    "names",
    [
        ["1", "2", "3"],
        ["0001", "0002", "0003"],
        ["slice_1", "slice_2", "slice_3"],
        ["2015 slice 1 of 3064", "2015 slice 2 of 3064", "2015 slice 3 of 3064"],
    ],
)
def test_folds_go_by_the_number_in_the_name(names):
    table = pd.DataFrame({"image_id": names})
    assert figshare.match(NUMBERED, table).to_dict() == dict(zip(names, [4, 5, 3], strict=True))
    turned = figshare.match(NUMBERED, table.iloc[::-1])
    assert turned.to_dict() == figshare.match(NUMBERED, table).to_dict()
    assert turned.index.tolist() == names[::-1]


def test_one_slice_has_one_number():
    assert figshare.match(NUMBERED[:1], pd.DataFrame({"image_id": ["slice_1"]})).to_dict() == {"slice_1": 4}


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["1", "2"], r"2 slices are there: 1 numbers have a slice or a fold, not both \(3\)"),
        (["1", "2", "3", "4", "5"], r"2 numbers have a slice or a fold, not both \(4, 5\)"),
        (["0", "1", "2"], r"2 numbers have a slice or a fold, not both \(0, 3\)"),
        (["a", "b", "c"], r"names give no number for each \(a, b, c, \.\.\.\)"),
        (["p1_1", "p1_2", "p2_3"], "names give no number"),
        (["1", "2", "x3"], "names give no number"),
        (["1", "01", "2"], "names give no number"),
    ],
)
def test_folds_and_slices_that_do_not_match_stop(names, told):
    with pytest.raises(DataError, match=rf"cvind\.mat: has the folds of slices 1 to 3, .*{told}"):
        figshare.match(NUMBERED, pd.DataFrame({"image_id": names}))


def test_a_slice_that_is_skipped_uses_up_its_fold():
    table = pd.DataFrame({"image_id": ["1", "3"]})
    table.attrs["skipped"] = [("deep/2.mat", "damaged")]
    assert figshare.match(NUMBERED, table).to_dict() == {"1": 4, "3": 3}


def test_without_cvind_there_are_no_author_folds(three):
    assert figshare.folds(three) is None


def test_a_fold_that_is_none_is_refused(three):
    write_folds(three / "cvind.mat", [1, 6])
    with pytest.raises(DataError, match=r"cvind\.mat: .*1 to 5"):
        figshare.folds(three)


def nan_image():
    image = picture().astype(np.float32)
    image[3, 4] = np.nan
    return image


FAULTS = {
    "truncated": (lambda p: p.write_bytes(write(p).read_bytes()[:3000]), "truncated or damaged"),
    "truncated in the pixels": (lambda p: p.write_bytes(write(p).read_bytes()[:-900]), "truncated or damaged"),
    "empty": (lambda p: p.write_bytes(b""), "no MATLAB file"),
    "text": (lambda p: p.write_text("hello" * 100), "no MATLAB file"),
    "no tumorMask": (lambda p: write(p, drop=["tumorMask"]), "has no tumorMask but PID, image, label, tumorBorder"),
    "no cjdata": (lambda p: write(p, name="other"), "has no cjdata but other"),
    "shapes differ": (lambda p: write(p, mask=spot(40, 31)), "image is 40 x 30 but tumorMask is 40 x 31"),
    "label 4": (lambda p: write(p, label=4), r"label is 4; allowed: 1 \(meningioma\)"),
    "label NaN": (lambda p: write(p, label=np.nan), "label is nan; allowed"),
    "label 1.5": (lambda p: write(p, label=1.5), "label is 1.5; allowed"),
    "NaN pixel": (lambda p: write(p, image=nan_image()), "image has pixels that are NaN"),
    "NaN mask": (lambda p: write(p, mask=nan_image()), "tumorMask has pixels that are NaN"),
    "no patient": (lambda p: write(p, patient=" "), "PID is no text"),
    "patient with a line break": (lambda p: write(p, patient="a\nb"), "PID is no text"),
    "tiny": (lambda p: write(p, image=picture(8, 8), mask=spot(8, 8)), "image is declared as 8 x 8; allowed"),
    "3-D": (lambda p: write(p, image=np.ones((20, 20, 3)), storage={}), "allowed: two dimensions"),
    "complex": (lambda p: write(p, image=picture() * 1j, storage={}), "no array of numbers"),
    "folds taken for a slice": (
        lambda p: write_folds(p, [1, 2]),
        r"holds cvind, the author's folds, and no slice; call it cvind\.mat",
    ),
    "version 5": (
        lambda p: scipy.io.savemat(p, {"cjdata": {"image": picture()}}),
        r"of version 5; .* save it again with '-v7\.3'",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.filterwarnings("error")
def test_a_fault_is_named_with_its_file_and_skipped_on_demand(three, fault):
    make, message = FAULTS[fault]
    make(three / "5.mat")
    with pytest.raises(DataError, match=rf"{three}/5\.mat: .*{message}"):
        figshare.manifest(three)
    with pytest.raises(DataError, match=message):
        figshare.read(three, "5.mat")
    table = figshare.manifest(three, unreadable="skip")
    assert table["image_id"].tolist() == ["1", "2", "10"]
    ((path, why),) = table.attrs["skipped"]
    assert path == "5.mat" and str(three / "5.mat") in why


def test_a_folder_without_slices(tmp_path):
    (tmp_path / "readme.txt").write_text("nothing")
    with pytest.raises(DataError, match=r"no slices found; expected \.mat files"):
        figshare.manifest(tmp_path)


def test_a_folder_that_is_not_there_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"python -m btlib fetch figshare .*/nowhere"):
        figshare.manifest(tmp_path / "nowhere")


def test_the_same_number_twice(three):
    write(three / "again" / "2.mat")
    with pytest.raises(DataError, match=r"'2' stands for more than one slice: 2\.mat, again/2\.mat"):
        figshare.manifest(three)


def test_links_and_pipes_are_refused(three, tmp_path_factory):
    outside = write(tmp_path_factory.mktemp("outside") / "3.mat")
    (three / "3.mat").symlink_to(outside)
    with pytest.raises(DataError, match=r"3\.mat: is a link or a special file"):
        figshare.manifest(three)
    (three / "3.mat").unlink()
    os.mkfifo(three / "4.mat")
    with pytest.raises(DataError, match=r"4\.mat: is a link or a special file"):
        figshare.manifest(three)


@pytest.mark.parametrize("kind", ["external", "soft", "raw", "virtual"])
def test_a_slice_that_points_elsewhere_is_refused(tmp_path, kind):
    other = write(tmp_path / "other" / "1.mat")
    path = write(tmp_path / "here" / "2.mat", drop=["image"])
    with h5py.File(path, "r+") as file:
        if kind == "external":
            file["cjdata/image"] = h5py.ExternalLink(other, "cjdata/image")
        elif kind == "soft":
            file["cjdata/image"] = h5py.SoftLink("/cjdata/tumorMask")
        elif kind == "raw":
            file.create_dataset("cjdata/image", (30, 40), np.int16, external=[(str(other), 0, h5py.h5f.UNLIMITED)])
        else:
            layout = h5py.VirtualLayout((30, 40), np.int16)
            layout[:] = h5py.VirtualSource(other, "cjdata/image", (30, 40))
            file.create_virtual_dataset("cjdata/image", layout)
    with pytest.raises(DataError, match=r"2\.mat: "):
        figshare.read(path.parent, "2.mat")


def test_a_huge_declared_shape_is_refused_before_it_is_made(tmp_path):
    path = write(tmp_path / "1.mat", drop=["image"])
    with h5py.File(path, "r+") as file:
        file.create_dataset("cjdata/image", (2_000_000, 2_000_000), np.int16, chunks=(64, 64))
    with pytest.raises(DataError, match="image is declared as 2000000 x 2000000; allowed"):
        figshare.read(tmp_path, "1.mat")


def test_folds_that_are_a_huge_square_are_refused_before_they_are_made(three):
    with h5py.File(three / "cvind.mat", "w", userblock_size=512) as file:
        file.create_dataset("cvind", (15_000, 15_000), "f8")
    with open(three / "cvind.mat", "r+b") as file:
        file.write(HEADER)
    with pytest.raises(DataError, match=r"cvind is declared as 15000 x 15000; allowed: one row or one column"):
        figshare.folds(three)


def mutate(data: bytes, rng) -> bytes:
    data = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        kind, at = rng.integers(4), int(rng.integers(len(data)))
        if kind == 0:
            data[at] = rng.integers(256)
        elif kind == 1:
            data[at : at + 8] = rng.bytes(8)
        elif kind == 2:
            data[at : at + 4] = b"\xff\xff\xff\x7f"
        else:
            del data[at:]
        if not data:
            break
    return bytes(data)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.filterwarnings("ignore")
def test_mutated_files_are_read_or_refused(tmp_path, seed):
    rng = np.random.default_rng(seed)
    good = write(tmp_path / "1.mat").read_bytes()
    refused = 0
    for _ in range(100):
        (tmp_path / "1.mat").write_bytes(mutate(good, rng))
        try:
            image, mask = figshare.read(tmp_path, "1.mat")
        except DataError as error:
            assert "1.mat" in str(error)
            refused += 1
        else:
            assert image.shape == mask.shape
    assert 10 < refused <= 100


class Files(http.server.BaseHTTPRequestHandler):
    """The publisher's files; `server.files` is name -> (bytes, md5)."""

    def do_GET(self):
        name = self.path.removeprefix("/")
        self.server.asked.append(name)
        if name not in self.server.files:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.files[name][0])))
        self.end_headers()
        self.wfile.write(self.server.files[name][0])

    def log_message(self, *_):
        pass


@pytest.fixture
def publisher(three, monkeypatch):
    """A server of files; pooch is told what figshare says of them, and asks nobody else."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(three / "2.mat", "2.mat")
        archive.write(three / "10.mat", "10.mat")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    folds = write_folds(three / "cvind.mat", [1, 2]).read_bytes()
    contents = {"brainTumorDataPublic_1-766.zip": packed.getvalue(), "cvind.mat": folds, "README.txt": b"read me"}
    server.files = {name: (body, hashlib.md5(body).hexdigest()) for name, body in contents.items()}
    server.asked = []

    def told(doi, **_):
        repository = pooch.downloaders.FigshareRepository(doi, "https://figshare.com/articles/1512427")
        address = f"http://127.0.0.1:{server.server_port}"
        repository._api_response = [
            {"name": name, "download_url": f"{address}/{name}", "computed_md5": md5}
            for name, (_, md5) in server.files.items()
        ]
        return repository

    for module in (pooch.core, pooch.downloaders):
        monkeypatch.setattr(module, "doi_to_repository", told)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_fetch_downloads_and_unpacks(publisher, tmp_path):
    data = figshare.fetch(tmp_path / "data")
    table = figshare.manifest(data)
    assert table["path"].tolist() == [f"brainTumorDataPublic_1-766/{n}.mat" for n in (2, 10)]
    assert table.attrs["passed_over"] == ["README.txt", "brainTumorDataPublic_1-766.zip"]
    assert figshare.folds(data).tolist() == [1, 2]


def test_fetch_resumes_with_what_is_missing(publisher, tmp_path):
    data = figshare.fetch(tmp_path / "data")
    (data / "cvind.mat").write_bytes(b"half")
    (data / "README.txt").unlink()
    (data / "brainTumorDataPublic_1-766" / "2.mat").unlink()
    publisher.asked.clear()
    figshare.fetch(data)
    assert publisher.asked == ["cvind.mat", "README.txt"]
    assert len(figshare.manifest(data)) == 2 and figshare.folds(data).tolist() == [1, 2]


def test_fetch_refuses_a_wrong_checksum_and_leaves_nothing_of_it(publisher, tmp_path):
    name = "brainTumorDataPublic_1-766.zip"
    publisher.files[name] = (publisher.files[name][0] + b"x", publisher.files[name][1])
    with pytest.raises(DataError, match=rf"{name} could not be had \(ValueError: .*md5:{publisher.files[name][1]}"):
        figshare.fetch(tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("name", ["../outside.mat", "/etc/outside.mat", ".hidden", "a/b.mat", ""])
def test_fetch_refuses_a_name_that_climbs_out(publisher, tmp_path, name):
    publisher.files[name] = (b"x", hashlib.md5(b"x").hexdigest())
    with pytest.raises(DataError, match="nothing was downloaded"):
        figshare.fetch(tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_fetch_names_a_file_that_is_gone(publisher, tmp_path, monkeypatch):
    monkeypatch.setattr(Files, "do_GET", lambda self: self.send_error(404))
    with pytest.raises(DataError, match=r"brainTumorDataPublic_1-766\.zip could not be had \(HTTPError: 404"):
        figshare.fetch(tmp_path / "data")


def test_fetch_without_a_network_says_what_to_put_where(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise requests.ConnectionError("no route")

    monkeypatch.setattr(requests, "get", refuse)
    with pytest.raises(DataError, match=r"https://doi\.org/10\.6084/.* could not be had .*four \.zip files of"):
        figshare.fetch(tmp_path / "data")


@pytest.mark.parametrize("answer", ["sorry", [], [{"name": "a.zip"}]])
def test_fetch_of_an_answer_that_is_no_list(tmp_path, monkeypatch, answer):
    repository = pooch.downloaders.FigshareRepository("10.6084/m9", "https://figshare.com/articles/1")
    response = types.SimpleNamespace(json=lambda: answer, raise_for_status=lambda: None)
    monkeypatch.setattr(requests, "get", lambda *_, **__: response)
    monkeypatch.setattr(pooch.core, "doi_to_repository", lambda *_, **__: repository)
    with pytest.raises(DataError, match="the list of files could not be had"):
        figshare.fetch(tmp_path / "data")
