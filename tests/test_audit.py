import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_overlap import head, resized

from btlib import DataError, __main__
from btlib.deploy import audit, owners, pictures


def save(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(picture)).save(path)


def save_mat(path, picture, label, patient):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        group = file.create_group("cjdata")
        group["image"] = picture.T.astype(np.int16)
        group["tumorMask"] = np.zeros(picture.T.shape, np.uint8)
        group["label"] = np.array([[float(label)]])
        group["PID"] = np.array([[ord(c)] for c in patient], np.uint16)


def run(*args):
    return audit.run(__main__.parser().parse_args(["audit", *map(str, args)]))


def turned(picture, degrees):
    """Clockwise, as the report counts."""
    return np.asarray(Image.fromarray(picture).rotate(-degrees, Image.Resampling.BILINEAR))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Twelve heads in Training; in Testing copies of six, changed, and one head of its own."""
    root = tmp_path_factory.mktemp("sets") / "published"
    for seed in range(12):
        save(root / "Training" / ("glioma" if seed < 6 else "no_tumor") / f"{seed}.png", head(seed))
    changes = {
        "glioma/mirrored": head(0)[:, ::-1],
        "glioma/quarter": np.rot90(head(1), -1),
        "glioma/degrees": turned(head(2), 6),
        "glioma/cropped": resized(head(3)[26:-22, 30:-34], 128),
        "meningioma/window": (255 * (head(4) / 255) ** 0.5).astype(np.uint8),
        "notumor/same": head(6),
        "notumor/new": head(99),
    }
    for name, picture in changes.items():
        save(root / "Testing" / f"{name}.png", picture)
    return root


@pytest.fixture(scope="module")
def published_pairs(published):
    return audit.pairs([pictures.read(published)])


def test_each_copy_is_listed_with_its_source_and_what_was_done_to_it(published_pairs):
    rows = published_pairs[["image_a", "image_b", "change"]].to_numpy().tolist()
    assert sorted(rows) == [
        ["Testing/glioma/cropped.png", "Training/glioma/3.png", "cropped"],
        ["Testing/glioma/degrees.png", "Training/glioma/2.png", "turned 6"],
        ["Testing/glioma/mirrored.png", "Training/glioma/0.png", "mirrored"],
        ["Testing/glioma/quarter.png", "Training/glioma/1.png", "turned 90"],
        ["Testing/meningioma/window.png", "Training/glioma/4.png", "re-windowed"],
        ["Testing/notumor/same.png", "Training/no_tumor/6.png", "nothing"],
    ]


def test_labels_that_disagree_are_told_and_other_spellings_are_not(published_pairs):
    assert published_pairs.loc[published_pairs["conflict"], "image_a"].tolist() == ["Testing/meningioma/window.png"]


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("512Glioma", "glioma"),
        ("glioma_tumor", "glioma"),
        ("Pituitary Tumour", "pituitary"),
        ("notumor", "no_tumor"),
        ("no_tumor", "no_tumor"),
        ("512Normal", "no_tumor"),
        ("class1", "class1"),
        ("2", "2"),
    ],
)
def test_labels_are_compared_without_what_data_sets_write_around_them(label, expected):
    assert audit.plain(label) == expected


def test_counts_say_how_many_of_each_part_and_class_have_a_copy_where(published, published_pairs):
    counts = audit.counts(published_pairs, {"published": pictures.read(published).table})
    counts = counts.set_index(["part", "label", "of_part"])[["images", "copies", "mirrored", "turned", "conflict"]]
    assert counts.loc[("test", "all", "train")].tolist() == [7, 6, 1, 2, 1]
    assert counts.loc[("test", "glioma", "train")].tolist() == [4, 4, 1, 2, 0]
    assert counts.loc[("train", "no_tumor", "test")].tolist() == [6, 1, 0, 0, 0]
    assert counts.loc[("test", "all", "test")].tolist() == [7, 0, 0, 0, 0]
    assert counts.loc[("all", "all", "all")].tolist() == [19, 12, 2, 4, 2]


def test_two_sets_give_the_same_pairs_in_either_order(tmp_path):
    for seed in range(8):
        save(tmp_path / "a" / f"{seed}.png", head(seed))
    save(tmp_path / "b" / "cropped.png", resized(head(3)[26:-22, 30:-34][:, ::-1], 128))
    save(tmp_path / "b" / "other.png", head(50))
    a, b = pictures.read(tmp_path / "a"), pictures.read(tmp_path / "b")
    there, back = audit.pairs([a, b]), audit.pairs([b, a])
    assert there[["image_a", "image_b", "change"]].to_numpy().tolist() == [
        ["3.png", "cropped.png", "mirrored, cropped"]
    ]
    assert back[["image_b", "image_a", "change"]].to_numpy().tolist() == [["3.png", "cropped.png", "mirrored, cropped"]]
    columns = ["shown", "covered"]
    np.testing.assert_allclose(there[columns], back[columns[::-1]], atol=0.02)


def ends(name, images, patients=None):
    patients = [""] * len(images) if patients is None else patients
    return pd.DataFrame({"image": images, "label": "x", "part": "", "patient": patients})


def pair(a, b, score, tables, conflict=False):
    row = {"score": score, "conflict": conflict, "change": "", "exact": False}
    for end, (name, image) in (("a", a), ("b", b)):
        of = tables[name].set_index("image").loc[image]
        row |= {f"set_{end}": name, f"image_{end}": image}
        row |= {f"{key}_{end}": of[key] for key in ("label", "part", "patient")}
    return row


def test_patients_are_recovered_through_the_best_copy_and_chains_stay_together():
    tables = {
        "kaggle": ends("kaggle", ["a", "b", "c", "d", "e", "f"]),
        "figshare": ends("figshare", ["1", "2", "3", "4"], ["MR1", "MR1B", "90", "91"]),
    }
    pairs = [
        (("kaggle", "a"), ("figshare", "1"), 0.99),  # a belongs to MR1
        (("kaggle", "a"), ("figshare", "2"), 0.95),  # MR1B is the same group: not ambiguous
        (("kaggle", "b"), ("figshare", "4"), 0.93),
        (("kaggle", "b"), ("figshare", "3"), 0.97),  # b belongs to 90, but 91 is as well a copy
        (("kaggle", "c"), ("kaggle", "d"), 0.92),  # nobody knows whose c and d are
        (("kaggle", "e"), ("kaggle", "a"), 0.94),  # e is no copy of a known slice, yet of MR1's chain
    ]
    people = owners.recovered(pd.DataFrame([pair(*p, tables) for p in pairs]), tables).set_index("image")
    columns = ["patient", "group", "through", "ambiguous"]
    assert people.loc[list("abcdef"), columns].to_numpy().tolist() == [
        ["MR1", "MR1", "1", ""],
        ["90", "90", "3", "90|91"],
        ["", "c", "", ""],
        ["", "c", "", ""],
        ["", "MR1", "", ""],
        ["", "f", "", ""],
    ]
    # b joins the patients 90 and 91: their own slices go to one side too.
    assert people.loc[list("1234"), "group"].tolist() == ["MR1", "MR1", "90", "90"]
    assert people.loc["b", "score"] == 0.97


def test_a_split_keeps_groups_apart_and_classes_even():
    groups = [f"g{i // 4}" for i in range(320)]
    people = pd.DataFrame({"image": range(320), "label": ["x", "y"] * 160, "group": groups})
    split = owners.clean_split(people)
    assert (split.groupby("group")["part"].nunique() == 1).all()
    # 80 groups of two x and two y: 15 of them are three of 16 folds.
    assert (split["part"] == "test").groupby(split["label"]).sum().to_dict() == {"x": 30, "y": 30}
    with pytest.raises(DataError, match="2 groups"):
        owners.clean_split(people.head(8))
    with pytest.raises(DataError, match="largest class has 8 images; a split needs 16"):
        owners.clean_split(people.head(24).assign(group=range(24), label=["x", "y", "z"] * 8))


def test_a_split_of_one_of_two_sets_knows_of_the_copies_inside_it(tmp_path):
    for seed in range(18):
        save(tmp_path / "a" / ("x" if seed % 2 else "y") / f"{seed}.png", head(seed))
    for seed in range(18):
        save(tmp_path / "a" / ("x" if seed % 2 else "y") / f"again{seed}.png", head(seed))
    save(tmp_path / "b" / "0.png", head(77))
    run(tmp_path / "a", tmp_path / "b", "--split", tmp_path / "split.csv")
    split = pd.read_csv(tmp_path / "split.csv")
    assert split["group"].nunique() == 18
    assert (split.groupby("group")["part"].nunique() == 1).all()


def test_one_picture_is_a_copy_of_nothing(tmp_path):
    save(tmp_path / "a" / "0.png", head(1))
    assert run(tmp_path / "a", "--csv", tmp_path / "pairs.csv") == 0
    assert list(pd.read_csv(tmp_path / "pairs.csv").columns) == list(audit.PAIRS)


def test_one_name_in_two_sets_is_two_groups():
    none = pd.DataFrame(columns=audit.PAIRS)
    tables = {
        name: pd.DataFrame({"image": ["a.jpg", f"{name}.jpg"], "label": "", "part": "", "patient": ""}) for name in "st"
    }
    people = owners.recovered(none, tables)
    assert people["group"].tolist() == ["s/a.jpg", "s.jpg", "t/a.jpg", "t.jpg"]


def test_what_cannot_be_written_is_said_before_the_search(published, tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "pairs", None)
    with pytest.raises(OSError, match="is a folder"):
        run(published, "--csv", tmp_path)


def test_a_linked_folder_is_named_and_not_passed_over(published, tmp_path):
    (tmp_path / "set").mkdir()
    save(tmp_path / "set" / "own.png", head(3))
    (tmp_path / "set" / "linked").symlink_to(published)
    with pytest.raises(DataError, match="linked: is a symbolic link"):
        run(tmp_path / "set")


def test_a_tables_parts_are_understood_as_folders_are(tmp_path):
    save(tmp_path / "a.png", head(1))
    for part, told in (("Training", "train"), ("Testing", "test"), ("", "")):
        (tmp_path / "t.csv").write_text(f"path,part\na.png,{part}\n")
        assert pictures.read(tmp_path / "t.csv").table["part"].tolist() == [told]
    (tmp_path / "t.csv").write_text("path,part\na.png,holdout\n")
    with pytest.raises(DataError, match=r"t\.csv, line 2: part is 'holdout'; allowed: empty, train, validation, test"):
        pictures.read(tmp_path / "t.csv")


def test_shared_counts_test_images_whose_patient_is_in_training():
    rows = [("train", "p", "p"), ("test", "p", "p"), ("test", "q", "q"), ("train", "", "c"), ("test", "", "c")]
    people = pd.DataFrame(rows, columns=["part", "patient", "group"]).assign(set="s", image=range(5))
    assert owners.shared(people).to_numpy().tolist() == [["s", "test", 3, 2, 1, 2]]


def test_folders_figshare_files_and_tables_are_compared_in_any_mixture(tmp_path):
    for seed in range(4):
        save_mat(tmp_path / "figshare" / "part1" / f"{seed}.mat", head(seed).astype(int) * 37, seed % 3 + 1, f"P{seed}")
    save(tmp_path / "own" / "pics" / "deep" / "a.png", head(2))
    save(tmp_path / "own" / "pics" / "deep" / "b.png", head(60))
    table = "path,label,patient_id,mask,part\npics/deep/a.png,2,H1,,test\npics/deep/b.png,glioma,H2,,train\n"
    (tmp_path / "own" / "slices.csv").write_text(table)
    save(tmp_path / "colour" / "pituitary" / "c.png", np.stack([head(2)] * 3, axis=2))
    save(tmp_path / "deep16" / "glioma" / "d.png", head(2).astype(np.uint16) * 200)
    sets = [tmp_path / name for name in ("figshare", "own/slices.csv", "colour", "deep16")]
    assert run(*sets, "--csv", tmp_path / "pairs.csv", "--patients", tmp_path / "people.csv") == 1
    pairs = pd.read_csv(tmp_path / "pairs.csv", dtype=str, keep_default_na=False)
    assert sorted(zip(pairs["image_a"], pairs["image_b"], strict=True)) == [
        ("2", "glioma/d.png"),
        ("2", "pics/deep/a.png"),
        ("2", "pituitary/c.png"),
        ("pics/deep/a.png", "glioma/d.png"),
        ("pics/deep/a.png", "pituitary/c.png"),
        ("pituitary/c.png", "glioma/d.png"),
    ]
    first = pairs[pairs["image_b"] == "pics/deep/a.png"].iloc[0]
    assert first[["label_a", "patient_a", "label_b", "patient_b", "part_b"]].tolist() == [
        "pituitary",
        "P2",
        "2",
        "H1",
        "test",
    ]
    people = pd.read_csv(tmp_path / "people.csv", keep_default_na=False).set_index("image")
    assert people.loc["glioma/d.png", ["patient", "ambiguous", "group"]].tolist() == ["P2", "H1|P2", "H1"]


def test_exit_codes_tell_clean_sets_copies_and_what_could_not_run(published, tmp_path, monkeypatch, capsys):
    def code(*args):
        monkeypatch.setattr(sys, "argv", ["btlib", "audit", *map(str, args)])
        with pytest.raises(SystemExit) as stopped:
            __main__.main()
        return stopped.value.code

    save(tmp_path / "clean" / "a.png", head(70))
    save(tmp_path / "clean" / "b.png", head(71))
    (tmp_path / "empty").mkdir()
    assert code(tmp_path / "clean") == 0
    assert code(tmp_path / "clean" / "a.png") == 0
    assert code(published) == 1
    # 12 of 19 images have a copy.
    assert code(published, "--allow", "0.64") == 0
    assert code(published, "--allow", "0.63") == 1
    capsys.readouterr()
    assert code(tmp_path / "empty") == 2
    assert f"{tmp_path / 'empty'}: no pictures found" in capsys.readouterr().err
    assert code(tmp_path / "absent") == 2
    assert code(tmp_path / "clean", "--score", "90") == 2


def test_unreadable_files_are_named_and_counted_or_with_strict_an_error(tmp_path, capsys):
    save(tmp_path / "s" / "a.png", head(1))
    (tmp_path / "s" / "broken.jpg").write_bytes(b"no picture")
    assert run(tmp_path / "s", "--json", tmp_path / "facts.json") == 0
    printed = capsys.readouterr()
    assert "s: 1 images, 1 not readable" in printed.out
    assert "broken.jpg" in printed.err
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert [len(s["skipped"]) for s in facts["sets"]] == [1]
    with pytest.raises(DataError, match=r"broken\.jpg.*1 of 2 pictures"):
        run(tmp_path / "s", "--strict")
    (tmp_path / "s" / "a.png").unlink()
    with pytest.raises(DataError, match=r"broken\.jpg.*1 of 1 pictures"):
        run(tmp_path / "s")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.png,x\n", "has no column path; found 'file', 'label'"),
        ("path,colour\na.png,x\n", "has a column 'colour'; allowed: path"),
        ("path\n", "lists nothing"),
        ("path\na.png\na.png\n", "'a.png' stands in more than one row"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        pictures.read(tmp_path / "t.csv")


def test_odd_and_tiny_pictures_and_many_of_them(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(300):
        save(tmp_path / "many" / f"{number}.png", rng.integers(0, 255, (8, 8), np.uint8))
    save(tmp_path / "many" / "line.png", rng.integers(0, 255, (1, 300), np.uint8))
    save(tmp_path / "many" / "dot.png", np.full((1, 1), 7, np.uint8))
    save(tmp_path / "many" / "again.png", np.asarray(Image.open(tmp_path / "many" / "17.png")))
    pairs = audit.pairs([pictures.read(tmp_path / "many")])
    exact = pairs[pairs["exact"]]
    assert exact[["image_a", "image_b"]].to_numpy().tolist() == [["17.png", "again.png"]]


def test_the_page_shows_disagreeing_pairs_first(published, published_pairs):
    page = audit.sheet(published_pairs, [pictures.read(published)], most=2)
    assert page.count("<figure>") == 4
    assert page.index("labels disagree") < page.index("</section>")
    assert "2 of 6 pairs" in page


def test_a_folder_gets_a_table_for_each_two_sets(published, tmp_path):
    save(tmp_path / "mine" / "x.png", head(2))
    run(published, tmp_path / "mine", "--within", "--csv", f"{tmp_path}/out/", "--patients", f"{tmp_path}/people/")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["published-mine.csv", "published.csv"]
    assert len(pd.read_csv(tmp_path / "people" / "published.csv")) == 19


def test_the_command_starts_without_tensorflow():
    code = (
        "import sys; from btlib import __main__; from btlib.deploy import audit; "
        "print([m for m in ('tensorflow', 'keras', 'torch', 'sklearn', 'scipy.stats', 'matplotlib') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parent.parent
    run_ = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert run_.stdout.strip() == "[]", run_.stderr


# ---- what is kept of the real sets ------------------------------------------------------------------------------------

KEPT = Path(__file__).resolve().parent.parent / "reports"


def kept(name):
    return pd.read_csv(KEPT / name, dtype=str, keep_default_na=False)


@pytest.mark.parametrize(
    ("pairs", "counts"),
    [
        ("nickparvar-figshare", "nickparvar-figshare"),
        ("bhuvaji-figshare", "pmram-bhuvaji-figshare"),
        ("pmram-figshare", "pmram-bhuvaji-figshare"),
        ("pmram-bhuvaji", "pmram-bhuvaji-figshare"),
        ("pmram-nickparvar", "pmram-nickparvar"),
    ],
)
def test_the_kept_counts_follow_from_the_kept_pairs(pairs, counts):
    one, other = pairs.split("-")
    told = pd.read_csv(KEPT / "audit" / f"counts-{counts}.csv", keep_default_na=False)
    told = told[(told["set"] == one) & (told["of_set"] == other)]
    told = told.query("of_part == 'all' and part == 'all' and label != 'all'")
    copies = kept(f"audit/pairs/{pairs}.csv").groupby("label_a")["image_a"].nunique()
    assert copies.to_dict() == {row.label: row.copies for row in told.itertuples() if row.copies}


def test_the_kept_pairs_across_the_published_split_are_as_many_as_told():
    told = pd.read_csv(KEPT / "audit" / "counts-nickparvar-figshare.csv", keep_default_na=False)
    own = "set == 'nickparvar' and of_set == 'nickparvar' and part == 'test' and of_part == 'train' and label == 'all'"
    crossing = kept("audit/pairs/nickparvar-test-train.csv")
    ends = pd.concat([crossing[[f"image_{s}", f"part_{s}"]].set_axis(["image", "part"], axis=1) for s in "ab"])
    assert ends.loc[ends["part"] == "test", "image"].nunique() == told.query(own)["copies"].item() == 999


def test_the_kept_split_keeps_patients_and_chains_apart_and_places_every_image():
    split, owners = kept("nickparvar/split.csv"), kept("nickparvar/patients.csv")
    assert set(split["image"]) == set(owners["image"]) and split["image"].is_unique
    assert split.groupby("group")["part"].nunique().max() == 1
    assert (split.set_index("image")["group"] == owners.set_index("image")["group"]).all()
    patients = owners[owners["patient"] != ""].merge(split[["image", "part"]].rename(columns={"part": "clean"}))
    assert patients.groupby("patient")["clean"].nunique().max() == 1
    pairs = kept("audit/pairs/nickparvar-test-train.csv")
    part = split.set_index("image")["part"]
    assert (part.loc[pairs["image_a"]].to_numpy() == part.loc[pairs["image_b"]].to_numpy()).all()
