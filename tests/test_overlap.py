import csv
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from btlib import params
from btlib.data import datasets
from btlib.scores import heads, overlap

SIDE = 128


def head(seed):
    """A made-up head: a bright rim, much the same for all, around structures that no other seed has, on dark noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    radius = np.hypot(y / rng.uniform(0.7, 0.8), x / rng.uniform(0.55, 0.65))
    coarse, fine = (gaussian_filter(rng.normal(size=(SIDE, SIDE)), s) for s in (8, 2))
    inside = 110 + 25 * coarse / coarse.std() + 15 * fine / fine.std()
    picture = np.where(radius < 0.9, inside, np.where(radius < 1, 230, 0)) + rng.normal(0, 2, (SIDE, SIDE))
    return np.clip(picture, 0, 255).astype(np.uint8)


def resized(picture, width, height=None):
    return np.asarray(Image.fromarray(picture).resize((width, height or width), Image.Resampling.BILINEAR))


def squeezed(picture):
    return np.pad(resized(picture, SIDE, 96), ((16, 16), (0, 0)))


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def jpeg(picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "a.jpg", quality=30)
    return np.asarray(Image.open(tmp_path / "a.jpg"))


def dataset(pictures, ids=None):
    table = pd.DataFrame({"image_id": [f"s{i}" for i in range(len(pictures))] if ids is None else ids})
    images = np.stack(pictures) if len(pictures) else np.zeros((0, SIDE, SIDE), np.uint8)
    return SimpleNamespace(images=images, manifest=table)


@pytest.fixture(scope="module")
def sources():
    return dataset([head(seed) for seed in range(30)])


CHANGES = {
    "nothing": (lambda p: p, "identity"),
    "half the size": (lambda p: resized(resized(p, 64), SIDE), "identity"),
    "squeezed": (squeezed, "identity"),
    "margin cut off": (lambda p: resized(p[12:-12, 20:-20], SIDE), "identity"),
    "cut into the head": (lambda p: resized(p[26:-22, 30:-34], SIDE), "identity"),
    "wide margin": (lambda p: resized(np.pad(p, ((10, 50), (40, 20))), SIDE), "identity"),
    "darker window": (lambda p: np.clip((p.astype(float) - 20) * 1.4, 0, 255).astype(np.uint8), "identity"),
    "gamma": (lambda p: (255 * (p / 255) ** 0.7).astype(np.uint8), "identity"),
    "mirrored": (lambda p: p[:, ::-1], "flip left-right"),
    "upside down": (lambda p: p[::-1], "flip up-down"),
    "half turn": (lambda p: p[::-1, ::-1], "rotate 180"),
    "transposed": (lambda p: p.T, "transpose"),
    "quarter turn": (lambda p: np.rot90(p, -1), "rotate 90"),
    "mirrored and cut": (lambda p: resized(p[26:-22, 30:-34][:, ::-1], SIDE), "flip left-right"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_kind_of_copy_is_found_with_its_source_and_no_other(sources, change):
    how, transform = CHANGES[change]
    # Slices of other heads stand between the copies, changed in the same way.
    pictures = [how(head(seed)) for seed in (3, 103, 17, 117, 29)]
    pairs = overlap.audit(dataset(pictures, ids=list("abcde")), sources)
    assert list(zip(pairs["image_id_a"], pairs["image_id_b"], strict=True)) == [("a", "s3"), ("c", "s17"), ("e", "s29")]
    assert set(pairs["transform"]) == {transform}
    assert pairs["exact"].tolist() == [change == "nothing"] * 3


def test_a_recompressed_copy_is_found_and_not_called_exact(sources, tmp_path):
    pairs = overlap.audit(dataset([jpeg(head(5), tmp_path)]), sources)
    assert pairs["image_id_b"].tolist() == ["s5"]
    assert not pairs["exact"].any()


def test_sets_of_different_image_size_are_compared(sources):
    pairs = overlap.audit(dataset([resized(head(8), 224)]), sources)
    assert pairs["image_id_b"].tolist() == ["s8"]


def test_planted_copies_of_a_phantom_are_found_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setenv("BTLIB_HOME", str(tmp_path))
    common = {"slices_per_patient": 2, "size": 160}
    a = {"patients": 21, "seed": 0, "hospital": "a", "copies": 0}
    b = {"patients": 8, "seed": 1, "hospital": "b", "copies": 14}
    sets = [
        params.Data(
            source="phantom", path=p["hospital"], phantom=params.Phantom(**common, **p), labels=None, unreadable="error"
        )
        for p in (a, b)
    ]
    how = params.Preprocessing(image_size=96, crop_to_head=True, low_percentile=0.5, high_percentile=99.5)
    ours, external = datasets.load(sets[0], how), datasets.load(sets[1], how, copies_from=sets[0])
    pairs = overlap.audit(external, ours)
    with open(tmp_path / "b" / "planted.csv", encoding="utf-8") as file:
        planted = {(row["image_id"], row["source_image_id"]): row["change"] for row in csv.DictReader(file)}
    assert len(planted) == 14
    assert set(zip(pairs["image_id_a"], pairs["image_id_b"], strict=True)) == set(planted)


def test_nothing_is_found_in_empty_sets(sources):
    empty = dataset([])
    assert overlap.audit(empty, sources).columns.tolist() == list(overlap.COLUMNS)
    assert len(overlap.audit(empty, sources)) == len(overlap.audit(sources, empty)) == 0
    assert len(overlap.within(empty)) == 0


def test_slices_without_structure_are_no_copies(sources):
    blank = dataset([np.zeros((SIDE, SIDE), np.uint8), np.full((SIDE, SIDE), 200, np.uint8)])
    assert len(overlap.audit(blank, sources)) == len(overlap.audit(blank, blank)) == 0


def test_within_gives_each_pair_once():
    twin = CHANGES["darker window"][0](head(1))
    data = dataset([head(0), head(1), head(2), head(0), twin])
    pairs = overlap.within(data).query("score >= @overlap.COPY")  # the made-up heads are alike, too
    assert pairs[["image_id_a", "image_id_b", "exact"]].to_numpy().tolist() == [["s0", "s3", True], ["s1", "s4", False]]


def test_within_does_not_pair_a_symmetric_slice_with_itself():
    half = head(4)[:, : SIDE // 2]
    pairs = overlap.within(dataset([np.concatenate([half, half[:, ::-1]], axis=1), head(6)]))
    assert (pairs["image_id_a"] != pairs["image_id_b"]).all() and (pairs["score"] < overlap.COPY).all()


def test_crossing_counts_test_slices_beside_a_training_slice():
    pairs = pd.DataFrame({"image_id_a": ["1", "2", "3", "5"], "image_id_b": ["2", "3", "4", "6"]})
    roles = {"1": "test", "2": "train", "3": "test", "4": "validation", "5": "test", "6": "test", "7": "test"}
    split = pd.DataFrame({"image_id": roles.keys(), "role": roles.values()})
    # 1 and 3 lie beside 2; 4 lies beside 3 only, which is held out; 5 and 6 beside each other.
    assert overlap.crossing(pairs, split) == 2


def test_candidates_are_the_largest_dot_products_above_the_threshold():
    rng = np.random.default_rng(0)
    a, b = (unit(rng.normal(size=(n, 5))) for n in (1100, 90))
    a[7] = b[3] = 0  # without structure: like none
    i, j, value = overlap.candidates(a, b, k=3, threshold=0.6)
    product = a @ b.T
    for row in (0, 7, 500, 1023, 1099):
        expected = [c for c in np.argsort(-product[row])[:3] if product[row, c] > 0.6]
        assert j[i == row].tolist() == expected
        np.testing.assert_allclose(value[i == row], product[row, expected], rtol=1e-5)
    assert len(i) == np.minimum((product > 0.6).sum(axis=1), 3).sum()


def test_candidates_of_each_row_exceed_its_own_threshold():
    a = np.eye(3, dtype=np.float32)[[0, 0, 1]]
    b = np.float32([[0.5, 0, 0.75**0.5], [0.7, 0, 0.51**0.5], [0, 0.9, 0.19**0.5]])
    i, j, _ = overlap.candidates(a, b, k=2, threshold=np.float32([0.4, 0.6, 0.95]))
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 1), (0, 0), (1, 1)]


def test_a_signature_keeps_under_a_window_and_a_margin():
    picture = head(2)
    windowed = (255 * (picture / 255.0) ** 0.8).astype(np.uint8)
    moved = np.roll(picture, (9, -5), axis=(0, 1))
    plain, *others = heads.signatures(np.stack([heads.head(p) for p in (picture, windowed, moved, head(3))]))
    assert np.linalg.norm(plain) == pytest.approx(1, abs=1e-5)
    assert plain.sum() == pytest.approx(0, abs=1e-4)
    assert (np.stack(others[:2]) @ plain > 0.97).all()
    assert others[2] @ plain < 0.6


def test_images_are_read_in_blocks(sources):
    class Lazy:
        shape, largest = sources.images.shape, 0

        def __len__(self):
            return self.shape[0]

        def __getitem__(self, rows):
            Lazy.largest = max(Lazy.largest, rows.stop - rows.start if isinstance(rows, slice) else 1)
            return sources.images[rows]

    lazy = SimpleNamespace(images=Lazy(), manifest=sources.manifest)
    assert overlap.audit(lazy, sources)["image_id_b"].tolist() == sources.manifest["image_id"].tolist()
    assert 0 < Lazy.largest <= overlap.BATCH
