"""Data sets: read once, kept under what they were made from, the same whoever asks and when."""

import multiprocessing
import os
import resource
import shutil
import threading
import tracemalloc

import numpy as np
import pytest

from btlib import DataError, files, params
from btlib.data import datasets, figshare, phantom, preprocessing

HOW = params.Preprocessing(image_size=48, crop_to_head=True, low_percentile=0.5, high_percentile=99.5)
A = params.Data(
    source="phantom",
    path="data/a",
    phantom=params.Phantom(patients=7, slices_per_patient=2, size=64, seed=3, hospital="a", copies=0),
    labels=None,
    unreadable="error",
)
B = params.Data(
    source="phantom",
    path="data/b",
    phantom=params.Phantom(patients=7, slices_per_patient=1, size=64, seed=4, hospital="b", copies=7),
    labels=None,
    unreadable="error",
)


def figshare_data(path, unreadable="error"):
    return params.Data(source="figshare", path=str(path), phantom=None, labels=None, unreadable=unreadable)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Both phantoms, made once; each test works on a copy."""
    root = tmp_path_factory.mktemp("made")
    phantom.generate(root / "data" / "a", A.phantom, None)
    phantom.generate(root / "data" / "b", B.phantom, root / "data" / "a")
    return root


@pytest.fixture
def home(made, tmp_path, monkeypatch):
    shutil.copytree(made / "data", tmp_path / "data")
    monkeypatch.setenv("BTLIB_HOME", str(tmp_path))
    return tmp_path


def test_row_i_of_the_manifest_is_image_i(home):
    data = datasets.load(A, HOW)
    assert data.images.shape == data.masks.shape == (14, 48, 48)
    assert data.images.dtype == data.masks.dtype == np.uint8
    assert not data.images.flags.owndata and not data.images.flags.writeable
    for row in (0, 5, 13):
        slice_ = figshare.read(home / "data" / "a", data.manifest["path"][row])
        picture, mask = preprocessing.prepare(*slice_, HOW)
        np.testing.assert_array_equal(data.images[row], picture)
        np.testing.assert_array_equal(data.masks[row], mask)
    assert data.masks[:].any()


def test_folders_have_no_masks_and_keep_their_labels(home):
    data = datasets.load(B, HOW, copies_from=A)
    assert set(data.manifest["label"]) == {"meningioma", "glioma", "pituitary", "no_tumor"}
    assert len(data.manifest) == len(data.images) == 14
    assert not data.masks[:].any()


def test_a_second_call_reads_no_slice(home, monkeypatch):
    first = datasets.load(A, HOW)
    monkeypatch.setattr(files, "content", lambda *_: pytest.fail("a slice was read again"))
    second = datasets.load(A, HOW)
    assert second.manifest.equals(first.manifest) and second.fingerprint == first.fingerprint
    assert second.manifest.dtypes.equals(first.manifest.dtypes)
    np.testing.assert_array_equal(first.images[:], second.images[:])


def test_manifest_from_the_cache_equals_the_one_just_made(home):
    path = home / "data" / "a"
    fresh = figshare.manifest(path)
    kept = datasets.manifest(figshare_data(path))
    assert kept.to_dict("list") == fresh.to_dict("list")
    assert kept["patient_id"].map(type).eq(str).all()


def test_fingerprint_follows_contents_and_not_places(home):
    before = datasets.fingerprint(figshare_data("data/a"))
    shutil.copytree(home / "data" / "a", home / "elsewhere", copy_function=shutil.copyfile)
    assert datasets.fingerprint(figshare_data(home / "elsewhere")) == before
    next((home / "elsewhere").rglob("1.mat")).unlink()
    assert datasets.fingerprint(figshare_data(home / "elsewhere")) != before


def test_fingerprint_of_a_phantom_follows_its_parameters(home):
    other = A.model_copy(update={"phantom": A.phantom.model_copy(update={"seed": 9})})
    assert datasets.fingerprint(other) != datasets.fingerprint(A)
    assert datasets.fingerprint(B, A) != datasets.fingerprint(B, other)


def test_other_preprocessing_is_another_file(home):
    first = datasets.load(A, HOW)
    second = datasets.load(A, HOW.model_copy(update={"image_size": 32}))
    assert first.path != second.path and second.images.shape == (14, 32, 32)
    assert first.images.shape == (14, 48, 48)


def test_a_changed_file_is_noticed(home):
    data = figshare_data("data/a", "skip")
    assert len(datasets.load(data, HOW).images) == 14
    spoilt = sorted((home / "data" / "a").rglob("*.mat"))[0]
    assert spoilt.name != "cvind.mat"
    spoilt.write_bytes(b"spoilt")
    for _ in range(2):  # made, and from the cache
        after = datasets.load(data, HOW)
        assert len(after.images) == len(after.manifest) == 13
        ((path, why),) = after.manifest.attrs["skipped"]
        assert path.endswith(spoilt.name) and "no MATLAB file" in why
    with pytest.raises(DataError, match="no MATLAB file"):
        datasets.load(figshare_data("data/a"), HOW)


def test_author_folds_come_with_figshares_layout_only(home):
    folds = datasets.author_folds(A)
    assert set(folds.index) == set(datasets.manifest(A)["image_id"])
    datasets.manifest(B, A)
    assert datasets.author_folds(B) is None


def test_data_that_are_not_there_say_how_to_get_them(home):
    with pytest.raises(DataError, match=r"data/none: no such data folder; `python -m btlib fetch figshare data/none`"):
        datasets.load(figshare_data("data/none"), HOW)


def test_a_failed_build_leaves_nothing(home, monkeypatch):
    monkeypatch.setattr(preprocessing, "prepare", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        datasets.load(A, HOW)
    assert not list((home / "data" / ".cache").glob("*.npy")) + list((home / "data" / ".cache").glob(".*.npy"))


def load_and_count(home, barrier, results):
    os.environ["BTLIB_HOME"] = str(home)
    calls, real = [], preprocessing.prepare

    def counted(*given):
        calls.append(1)
        return real(*given)

    preprocessing.prepare = counted
    barrier.wait()
    data = datasets.load(A, HOW)
    results.put((len(calls), int(data.images[:].sum())))


def test_two_processes_at_once_build_it_once(home):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    both = [context.Process(target=load_and_count, args=(home, barrier, results)) for _ in range(2)]
    for process in both:
        process.start()
    (first, sum_first), (second, sum_second) = results.get(timeout=60), results.get(timeout=60)
    for process in both:
        process.join()
    assert sorted([first, second]) == [0, 14] and sum_first == sum_second > 0


def test_threads_read_the_same_slices(home):
    data = datasets.load(A, HOW)
    wanted, wrong = data.images[:], []

    def check(start):
        for i in range(start, start + 200):
            if not np.array_equal(data.images[i % 14], wanted[i % 14]):
                wrong.append(i)

    threads = [threading.Thread(target=check, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_memory_holds_a_batch_and_not_the_data_set(home, monkeypatch):
    big = HOW.model_copy(update={"image_size": 256})
    blank = np.zeros((256, 256), np.uint8)
    monkeypatch.setattr(preprocessing, "prepare", lambda *_: (blank.copy(), blank.copy()))
    table = datasets.manifest(A)
    many = table.loc[np.repeat(table.index, 16)].reset_index(drop=True)
    tracemalloc.start()
    datasets.build(A, big, many, home / "many.npy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6  # a batch is 8 MB, 224 slices are 29 MB


def test_a_full_disk_is_an_error_that_names_the_file(home):
    datasets.manifest(A)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))
    try:
        with pytest.raises(OSError, match=r"\.npy"):
            datasets.load(A, HOW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert not [p for p in (home / "data" / ".cache").iterdir() if p.suffix == ".npy"]
    assert len(datasets.load(A, HOW).images) == 14


def test_many_slices_are_spread_over_processes_in_their_order_and_the_first_error_comes_through(monkeypatch):
    monkeypatch.setattr(files, "AHEAD", 8)
    monkeypatch.setattr(files.os, "cpu_count", lambda: 2)
    here = list(files.spread(_told, range(20)))
    assert here == [(str(n), os.getpid()) for n in range(20)], "few items are worked on in this process"
    elsewhere = list(files.spread(_told, range(20), share=5))
    assert [text for text, _ in elsewhere] == [str(n) for n in range(20)]
    assert os.getpid() not in {process for _, process in elsewhere}
    with pytest.raises(DataError, match="13 is bad"):
        list(files.spread(_told, [*range(10), -13, -14], share=5))


def _told(number):
    if number < 0:
        raise DataError(f"{-number} is bad")
    return str(number), os.getpid()
