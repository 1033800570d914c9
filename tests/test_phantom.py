import csv
import json
import socket
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
from PIL import Image

from btlib import DataError, params
from btlib.data import anatomy, figshare, folders, phantom

A = params.Phantom(patients=8, slices_per_patient=2, size=64, seed=3, hospital="a", copies=0)
B = params.Phantom(patients=7, slices_per_patient=2, size=64, seed=4, hospital="b", copies=9)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Both hospitals, made with every way to the network shut."""
    folder = tmp_path_factory.mktemp("phantom")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the phantom went to the network"))
        anatomy.head.cache_clear()
        phantom.generate(folder / "a", A, None)
        phantom.generate(folder / "b", B, folder / "a")
    return folder


def files(root):
    return {str(p.relative_to(root)): p for p in sorted(root.rglob("*")) if p.is_file()}


def arrays(path):
    with h5py.File(path) as file:
        found = {}
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def planted(root):
    with open(root / "planted.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def source(roots, row):
    path = next((roots / "a").glob(f"*/{row['source_image_id']}.mat"))
    image = arrays(path)["cjdata/image"].T
    return np.rint(image / (image.max() / 255))


def head_middle(image):
    columns = np.flatnonzero((image > 40).any(0))
    return (columns[0] + columns[-1]) / 2


def test_same_parameters_give_the_same_data(roots, tmp_path):
    phantom.generate(tmp_path / "a", A, None)
    phantom.generate(tmp_path / "b", B, tmp_path / "a")
    for hospital in "ab":
        first, second = files(roots / hospital), files(tmp_path / hospital)
        assert list(first) == list(second)
        for name, path in first.items():
            if path.suffix == ".mat":
                one, two = arrays(path), arrays(second[name])
                assert list(one) == list(two) and all(np.array_equal(one[k], two[k]) for k in one)
            else:
                assert path.read_bytes() == second[name].read_bytes(), name


def test_other_seeds_give_other_data_and_other_patients_do_not():
    image, mask, _ = phantom.slice_of(A, 1, 0)
    again = phantom.slice_of(A.model_copy(update={"patients": 500, "slices_per_patient": 9}), 1, 0)
    assert np.array_equal(image, again[0]) and np.array_equal(mask, again[1])
    assert not np.array_equal(image, phantom.slice_of(A.model_copy(update={"seed": 5}), 1, 0)[0])


def test_figshare_layout(roots):
    path = next((roots / "a").glob("*/5.mat"))
    assert path.parent.name == "brainTumorDataPublic_5-8"
    with open(path, "rb") as file:
        header = file.read(128)
    assert header.startswith(b"MATLAB 7.3 MAT-file") and header[124:] == b"\x00\x02IM"
    found = arrays(path)
    assert {name: (value.dtype.str, value.shape) for name, value in found.items()} == {
        "cjdata/PID": ("<u2", (8, 1)) if phantom.patient_id(2).startswith("MR") else ("<u2", (6, 1)),
        "cjdata/image": ("<i2", (64, 64)),
        "cjdata/label": ("<f8", (1, 1)),
        "cjdata/tumorMask": ("|u1", (64, 64)),
    }


def test_mat_files_hold_what_was_made(roots):
    table = figshare.manifest(roots / "a")
    assert list(table["image_id"]) == [str(i) for i in range(1, 17)]
    for i in range(16):
        row, (image, mask, _) = table.iloc[i], phantom.slice_of(A, i // 2, i % 2)
        assert (row["label"], row["patient_id"]) == (phantom.label_of(i // 2, "a"), phantom.patient_id(i // 2))
        stored, stored_mask = figshare.read(roots / "a", row["path"])
        gain = stored.max() // 255
        assert 3 <= gain <= 13 and np.array_equal(stored, image.astype(int) * gain)
        assert np.array_equal(stored_mask, mask)


def test_one_patient_in_twenty_is_seen_again_under_a_suffix(roots):
    assert phantom.patient_id(7) == phantom.patient_id(0) + "B"
    ids = [phantom.patient_id(i) for i in range(2000)]
    assert len(set(ids)) == 2000 and sum(i.endswith("B") for i in ids) == 100
    assert all(phantom.label_of(i, "a") == phantom.label_of(i - 7, "a") for i in range(7, 2000, 20))
    table = figshare.manifest(roots / "a")
    assert (table["patient_id"].nunique(), table["patient_group"].nunique()) == (8, 7)


def test_author_folds_keep_patients_apart(roots):
    folds = arrays(roots / "a" / "cvind.mat")["cvind"]
    assert folds.shape == (1, 16) and folds.dtype == np.float64
    assert folds.ravel().tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 1, 1, 2, 2, 3, 3]
    table = figshare.manifest(roots / "a")
    matched = figshare.match(figshare.folds(roots / "a"), table)
    assert matched.tolist() == folds.ravel().tolist()
    assert matched.groupby(table["patient_id"].to_numpy()).nunique().eq(1).all()


@pytest.mark.parametrize("hospital", ["a", "b"])
def test_six_patients_have_every_class(hospital):
    assert {phantom.label_of(i, hospital) for i in range(6)} == set(phantom.TURNS[hospital])


def test_planes_take_turns():
    assert {phantom.slice_of(A, 2, n)[2] for n in range(3)} == {"axial", "coronal", "sagittal"}


def test_every_tumour_is_in_its_slice_and_no_tumor_has_none():
    fine = params.Phantom(patients=28, slices_per_patient=1, size=96, seed=1, hospital="b", copies=0)
    for patient in range(28):
        image, mask, _ = phantom.slice_of(fine, patient, 0)
        assert image.dtype == np.uint8 and image.shape == mask.shape == (96, 96) and mask.dtype == bool
        assert mask.any() == (phantom.label_of(patient, "b") != "no_tumor")
        assert image.max() == 255 and (image[mask] > 0).mean() > 0.9 if mask.any() else True


def test_tumours_sit_where_their_class_does():
    fine = params.Phantom(patients=42, slices_per_patient=3, size=96, seed=1, hospital="a", copies=0)
    off_middle = {label: [] for label in phantom.TURNS["a"]}
    height = {label: [] for label in phantom.TURNS["a"]}
    for patient in range(42):
        for number in range(3):
            image, mask, plane = phantom.slice_of(fine, patient, number)
            if plane != "sagittal":
                away = abs(np.nonzero(mask)[1].mean() - head_middle(image))
                off_middle[phantom.label_of(patient, "a")].append(away)
            if plane == "coronal":
                top = np.flatnonzero((image > 40).any(1))[0]
                height[phantom.label_of(patient, "a")].append(np.nonzero(mask)[0].mean() - top)
    assert max(off_middle["pituitary"]) < 10 and np.median(off_middle["pituitary"]) < 4
    assert np.median(off_middle["glioma"]) > 8 and np.median(off_middle["meningioma"]) > 8
    assert np.median(height["pituitary"]) > np.median(height["meningioma"]) + 10


def test_meningioma_is_brighter_than_brain():
    fine = params.Phantom(patients=42, slices_per_patient=1, size=128, seed=2, hospital="a", copies=0)
    for patient in range(1, 42, 7):
        image, mask, _ = phantom.slice_of(fine, patient, 0)
        assert phantom.label_of(patient, "a") == "meningioma"
        assert np.median(image[mask]) > 1.15 * np.median(image[image > 40])


def test_meningioma_reaches_the_dura_or_the_falx_and_glioma_stays_in_the_brain():
    for patient in range(70):
        person = anatomy.person((A.seed, 0, patient), phantom.label_of(patient, "a"))
        if person.label == "pituitary":
            continue
        at = person.centre[:, None] + np.random.default_rng(0).uniform(-30, 30, (3, 4000)).astype(np.float32)
        depth = anatomy.sample(anatomy.head(), at - anatomy.ORIGIN[:, None])[anatomy.DEPTH] / 4 - 24
        tumour = anatomy.outside(person, at, depth) <= 0
        if person.label == "glioma":
            assert depth[tumour].max() <= -1.5
        else:
            assert depth[tumour].max() > -3 or np.abs(at[0, tumour]).min() < 3


def test_class_folders_hold_every_slice_and_copy(roots):
    table = folders.manifest(roots / "b", phantom.LABELS)
    counts = table["label"].value_counts().to_dict()
    made = [phantom.label_of(i, "b") for i in range(7) for _ in range(2)]
    made += [phantom.label_of((int(row["source_image_id"]) - 1) // 2, "a") for row in planted(roots / "b")]
    assert counts == {label: made.count(label) for label in counts} and len(table) == len(made) == 14 + 9
    assert {p.suffix for p in files(roots / "b").values()} >= {".jpg", ".png"}
    assert table[["width", "height"]].drop_duplicates().shape[0] > 5


def test_every_copy_is_listed_with_its_source_and_change(roots):
    rows = planted(roots / "b")
    assert [row["change"] for row in rows] == [*phantom.CHANGES, "exact", "re-encoded"]
    assert len({row["source_image_id"] for row in rows}) == 9
    for row in rows:
        copy, before = folders.read(roots / "b", row["image_id"])[0].astype(float), source(roots, row)
        change = row["change"]
        if change == "exact":
            assert np.array_equal(copy, before)
        elif change == "re-encoded":
            assert 0 < np.abs(copy - before).mean() < 8
        elif change == "flipped":
            assert np.abs(copy - before[:, ::-1]).mean() < 4 < np.abs(copy - before).mean()
        elif change == "re-windowed":
            assert np.corrcoef(copy.ravel(), before.ravel())[0, 1] > 0.95 and np.abs(copy - before).mean() > 4
        elif change == "resized":
            same = np.asarray(Image.fromarray(copy.astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC))
            assert copy.shape != (64, 64) and np.corrcoef(same.ravel(), before.ravel())[0, 1] > 0.95
        else:
            assert (copy.shape < (64, 64)) == (change == "cropped") and (copy.shape > (64, 64)) == (change == "padded")


def test_marker_keeps_a_complete_phantom_and_replaces_another(tmp_path):
    small = A.model_copy(update={"patients": 6, "slices_per_patient": 1})
    phantom.generate(tmp_path / "a", small, None)
    marker = tmp_path / "a" / phantom.MARKER
    before = marker.stat().st_mtime_ns
    phantom.generate(tmp_path / "a", small, None)
    assert marker.stat().st_mtime_ns == before
    phantom.generate(tmp_path / "a", small.model_copy(update={"slices_per_patient": 2}), None)
    assert len(list((tmp_path / "a").glob("*/*.mat"))) == 12
    assert json.loads(marker.read_text())["phantom"]["slices_per_patient"] == 2


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="left alone"):
        phantom.generate(tmp_path / "a", A, None)
    assert (tmp_path / "a" / "thesis.txt").read_text() == "mine"
    with pytest.raises(DataError, match="a link or a file"):
        phantom.generate(tmp_path / "a" / "thesis.txt", A, None)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_interrupted_phantom_leaves_nothing(tmp_path, monkeypatch, error):
    def stop(*_):
        raise error

    monkeypatch.setattr(phantom, "_write_mat", stop)
    with pytest.raises(error if isinstance(error, type) else OSError):
        phantom.generate(tmp_path / "a", A, None)
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    (tmp_path / ".a.partial").mkdir()
    (tmp_path / ".a.partial" / "1.mat").write_text("half")
    phantom.generate(tmp_path / "a", A.model_copy(update={"patients": 6, "slices_per_patient": 1}), None)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["a"] and not (tmp_path / "a" / "1.mat").exists()


def test_two_at_once_make_it_once(tmp_path, monkeypatch):
    made, write = [], phantom._write_mat
    monkeypatch.setattr(phantom, "_write_mat", lambda path, *rest: (made.append(path.name), write(path, *rest)))
    small = A.model_copy(update={"patients": 6, "slices_per_patient": 1})
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: phantom.generate(tmp_path / "a", small, None), range(2)))
    assert sorted(made) == [*(f"{i}.mat" for i in range(1, 7)), "cvind.mat"]


@pytest.mark.parametrize(
    ("which", "message"),
    [("none", "copy from"), ("empty", "copy from"), ("few", "at most 16"), ("a", "allowed: 0")],
)
def test_copies_that_cannot_be_made_are_refused(roots, tmp_path, which, message):
    settings = {
        "none": (B, None),
        "empty": (B, tmp_path),
        "few": (B.model_copy(update={"copies": 17}), roots / "a"),
        "a": (A.model_copy(update={"copies": 1}), roots / "a"),
    }[which]
    with pytest.raises(DataError, match=message):
        phantom.generate(tmp_path / "x", *settings)
    assert not (tmp_path / "x").exists()
