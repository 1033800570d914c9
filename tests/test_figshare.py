"""Reading Figshare's slices: what is right, what is wrong with a name, and what is hostile."""

import hashlib
import http.server
import io
import json
import os
import threading
import zipfile
import zlib
from functools import partial

import h5py
import numpy as np
import pytest
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


def write_version5(path, image=None, compressed=True, **fields):
    struct = {
        "PID": "100360",
        "image": picture() if image is None else image,
        "label": 3,
        "tumorMask": spot(),
        **fields,
    }
    scipy.io.savemat(path, {"cjdata": struct}, do_compression=compressed)
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


@pytest.mark.parametrize("compressed", [True, False])
def test_an_older_matlab_file_reads_like_a_new_one(tmp_path, compressed):
    write_version5(tmp_path / "7.mat", compressed=compressed)
    table = figshare.manifest(tmp_path)
    assert table[["image_id", "label", "patient_id"]].values.tolist() == [["7", "pituitary", "100360"]]
    image, mask = figshare.read(tmp_path, "7.mat")
    np.testing.assert_array_equal(image, picture())
    np.testing.assert_array_equal(mask, spot())


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_files_give_the_same_table_as_folders(three, tmp_path_factory, how):
    zips = tmp_path_factory.mktemp("zips")
    with zipfile.ZipFile(zips / "a.zip", "w", how) as archive:
        archive.write(three / "2.mat", "2.mat")
        archive.write(three / "10.mat", "inner/10.mat")
    with zipfile.ZipFile(zips / "b.zip", "w", how) as archive:
        archive.write(three / "deep/er/1.mat", "1.mat")
    table = figshare.manifest(zips)
    assert table["path"].tolist() == ["b.zip/1.mat", "a.zip/2.mat", "a.zip/inner/10.mat"]
    assert table.drop(columns="path").equals(figshare.manifest(three).drop(columns="path"))
    np.testing.assert_array_equal(figshare.read(zips, "a.zip/inner/10.mat")[0], picture())
    assert sorted(p.name for p in zips.iterdir()) == ["a.zip", "b.zip"]


@pytest.mark.parametrize("version", [5, 7.3])
def test_author_folds(three, version):
    numbers = np.array([[1, 5, 3, 2]], float)
    if version == 5:
        scipy.io.savemat(three / "cvind.mat", {"cvind": numbers.T})
    else:
        with h5py.File(three / "cvind.mat", "w", userblock_size=512) as file:
            file["cvind"] = numbers
    assert figshare.folds(three).to_dict() == {"1": 1, "2": 5, "3": 3, "4": 2}
    assert len(figshare.manifest(three)) == 3


def test_without_cvind_there_are_no_author_folds(three):
    assert figshare.folds(three) is None


def test_a_fold_that_is_none_is_refused(three):
    scipy.io.savemat(three / "cvind.mat", {"cvind": np.array([[1, 6]])})
    with pytest.raises(DataError, match=r"cvind\.mat: .*1 to 5"):
        figshare.folds(three)


def nan_image():
    image = picture().astype(np.float32)
    image[3, 4] = np.nan
    return image


FAULTS = {
    "truncated": (lambda p: p.write_bytes(write(p).read_bytes()[:3000]), "truncated or damaged"),
    "truncated in the pixels": (lambda p: p.write_bytes(write(p).read_bytes()[:-900]), "truncated or damaged"),
    "empty": (lambda p: p.write_bytes(b""), "is empty"),
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
    "folds taken for a slice": (lambda p: scipy.io.savemat(p, {"cvind": np.ones((1, 9))}), "author's folds.*cvind.mat"),
    "version 5, no tumorMask": (
        lambda p: scipy.io.savemat(p, {"cjdata": {"image": picture()}}),
        "has no PID but image",
    ),
    "version 5, label 4": (lambda p: write_version5(p, label=4), "label is 4"),
    "version 5, NaN pixel": (lambda p: write_version5(p, image=nan_image()), "NaN"),
    "version 5, truncated": (lambda p: p.write_bytes(write_version5(p).read_bytes()[:900]), "truncated or damaged"),
    "version 5, array of structs": (
        lambda p: scipy.io.savemat(p, {"cjdata": np.array([(1,), (2,)], [("image", "O")])}),
        "has no PID",
    ),
    "version 5, cjdata is a number": (lambda p: scipy.io.savemat(p, {"cjdata": 5}), "has no PID"),
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


def test_cvind_under_another_name_is_no_slice(three):
    with h5py.File(three / "folds.mat", "w", userblock_size=512) as file:
        file["cvind"] = np.ones((1, 9))
    with pytest.raises(
        DataError, match=r"folds\.mat: holds cvind, the author's folds, and no slice; call it cvind\.mat"
    ):
        figshare.manifest(three)


def test_a_folder_without_slices(tmp_path):
    (tmp_path / "readme.txt").write_text("nothing")
    with pytest.raises(DataError, match=r"no slices found; expected \.mat files"):
        figshare.manifest(tmp_path)


def test_a_folder_that_is_not_there_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"python -m btlib fetch figshare .*/nowhere"):
        figshare.manifest(tmp_path / "nowhere")


def test_the_same_number_twice(three):
    write(three / "again" / "2.mat")
    with pytest.raises(DataError, match="'2' stands for more than one slice"):
        figshare.manifest(three)


def test_links_and_pipes_are_refused(three, tmp_path_factory):
    outside = write(tmp_path_factory.mktemp("outside") / "3.mat")
    (three / "3.mat").symlink_to(outside)
    with pytest.raises(DataError, match=r"3\.mat: is a symbolic link"):
        figshare.manifest(three)
    (three / "3.mat").unlink()
    os.mkfifo(three / "4.mat")
    with pytest.raises(DataError, match=r"4\.mat: is no regular file"):
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


def test_a_chunk_that_inflates_beyond_its_size_is_cut_off(tmp_path):
    path = write(tmp_path / "1.mat", drop=["image"])
    bomb = zlib.compress(bytes(50 << 20), 9)
    with h5py.File(path, "r+") as file:
        data = file.create_dataset("cjdata/image", (30, 40), np.int16, chunks=(30, 40), compression="gzip")
        data.id.write_direct_chunk((0, 0), bomb)
    assert not figshare.read(tmp_path, "1.mat")[0].any()


def test_a_free_list_that_runs_in_a_circle_is_refused(tmp_path):
    data = bytearray(write(tmp_path / "1.mat").read_bytes())
    heap = data.index(b"HEAP")
    _, free, address = (int.from_bytes(data[heap + i : heap + i + 8], "little") for i in (8, 16, 24))
    data[512 + address + free : 512 + address + free + 8] = free.to_bytes(8, "little")
    (tmp_path / "1.mat").write_bytes(data)
    with pytest.raises(DataError, match="runs in a circle"):
        figshare.read(tmp_path, "1.mat")


def test_a_version_5_bomb_is_refused(tmp_path):
    body = zlib.compress(bytes(200 << 20), 9)
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    (tmp_path / "1.mat").write_bytes(header + np.array([15, len(body)], "<u4").tobytes() + body)
    with pytest.raises(DataError, match="unpacks to more than"):
        figshare.read(tmp_path, "1.mat")


def test_a_zip_bomb_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("1.mat", "w") as file:
        for _ in range(70):
            file.write(bytes(1 << 20))
    with pytest.raises(DataError, match=r"a\.zip/1\.mat: is larger than 64 MB"):
        figshare.manifest(tmp_path)


@pytest.mark.parametrize("member", ["../1.mat", "/etc/1.mat", "a/../../1.mat", "..\\1.mat"])
def test_a_zip_member_that_climbs_out_is_refused(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member, b"x")
    with pytest.raises(DataError, match=r"a\.zip: member .* points out of the archive"):
        figshare.manifest(tmp_path)


def test_a_damaged_zip_is_named(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(DataError, match=r"a\.zip: no zip file that can be read"):
        figshare.manifest(tmp_path)


def test_a_damaged_zip_member_is_named(three):
    plain = (three / "2.mat").read_bytes()
    with zipfile.ZipFile(three / "a.zip", "w") as archive:
        archive.writestr("3.mat", plain)
    data = bytearray((three / "a.zip").read_bytes())
    data[len(data) // 2] ^= 255
    (three / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.zip/3\.mat: cannot be read \(Bad CRC"):
        figshare.manifest(three)


def test_the_outer_zip_of_a_download_all(tmp_path):
    inner = io.BytesIO()
    zipfile.ZipFile(inner, "w").close()
    with zipfile.ZipFile(tmp_path / "1512427.zip", "w") as archive:
        archive.writestr("brainTumorDataPublic_1-766.zip", inner.getvalue())
    with pytest.raises(DataError, match=r"1512427\.zip: holds zip files; unpack this outer one"):
        figshare.manifest(tmp_path)


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
@pytest.mark.parametrize("version", [5, 7.3])
@pytest.mark.filterwarnings("ignore")
def test_mutated_files_are_read_or_refused(tmp_path, version, seed):
    rng = np.random.default_rng(seed)
    good = (write if version == 7.3 else partial(write_version5, compressed=seed == 0))(tmp_path / "1.mat").read_bytes()
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


class Api(http.server.BaseHTTPRequestHandler):
    """figshare's API for one article; `files` is name -> (bytes, md5)."""

    def do_GET(self):
        self.server.asked.append(self.path)
        name = self.path.rsplit("/", 1)[-1]
        if self.path == f"/v2/articles/{figshare.ARTICLE}":
            self.answer(json.dumps({"id": figshare.ARTICLE, "files": self.server.listing()}).encode())
        elif name in self.server.files:
            self.answer(self.server.files[name][0])
        else:
            self.send_error(404)

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def api(three, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(three / "2.mat", "2.mat")
        archive.write(three / "10.mat", "10.mat")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
    contents = {"brainTumorDataPublic_1-766.zip": packed.getvalue(), "cvind.mat": b"folds", "README.txt": b"read me"}
    server.files = {name: (body, hashlib.md5(body).hexdigest()) for name, body in contents.items()}
    server.asked = []
    server.address = f"http://127.0.0.1:{server.server_port}/v2"
    server.listing = lambda: [
        {
            "id": i,
            "name": name,
            "size": len(body),
            "is_link_only": False,
            "download_url": f"{server.address}/files/{name}",
            "supplied_md5": "",
            "computed_md5": md5,
        }
        for i, (name, (body, md5)) in enumerate(server.files.items())
    ]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_fetch_downloads_what_can_be_read(api, tmp_path):
    figshare.fetch(tmp_path / "data", api.address)
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == sorted(api.files)
    assert figshare.manifest(tmp_path / "data")["image_id"].tolist() == ["2", "10"]


def test_fetch_resumes_with_what_is_missing(api, tmp_path):
    figshare.fetch(tmp_path / "data", api.address)
    (tmp_path / "data" / "cvind.mat").write_bytes(b"half")
    (tmp_path / "data" / "README.txt").unlink()
    api.asked.clear()
    figshare.fetch(tmp_path / "data", api.address)
    assert [path.rsplit("/", 1)[-1] for path in api.asked] == [str(figshare.ARTICLE), "cvind.mat", "README.txt"]
    assert (tmp_path / "data" / "cvind.mat").read_bytes() == b"folds"


def test_fetch_refuses_a_wrong_checksum_and_leaves_nothing_of_it(api, tmp_path):
    name = "brainTumorDataPublic_1-766.zip"
    api.files[name] = (api.files[name][0] + b"x", api.files[name][1])
    with pytest.raises(DataError, match=rf"{name} came without its checksum md5:{api.files[name][1]}"):
        figshare.fetch(tmp_path / "data", api.address)
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("name", ["../outside.mat", "/etc/outside.mat", ".hidden", "a/b.mat", ""])
def test_fetch_refuses_a_name_that_climbs_out(api, tmp_path, name):
    api.files[name] = (b"x", hashlib.md5(b"x").hexdigest())
    with pytest.raises(DataError, match="nothing was downloaded"):
        figshare.fetch(tmp_path / "data", api.address)
    assert not (tmp_path / "data").exists()


def test_fetch_without_a_network_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(
        DataError, match=r"cannot be reached .*four \.zip files and cvind\.mat of https://doi\.org/10\.6084"
    ):
        figshare.fetch(tmp_path / "data", "http://127.0.0.1:9/v2")


def test_fetch_of_an_answer_that_is_no_list(api, tmp_path):
    api.listing = lambda: "sorry"
    with pytest.raises(DataError, match="the answer is no list of files"):
        figshare.fetch(tmp_path / "data", api.address)


def test_fetch_names_a_file_that_is_gone(api, tmp_path):
    listing = api.listing()
    listing[0]["download_url"] += "x"
    api.listing = lambda: listing
    with pytest.raises(DataError, match=r"download of brainTumorDataPublic_1-766\.zip failed \(404"):
        figshare.fetch(tmp_path / "data", api.address)
