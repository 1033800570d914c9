"""Erased slices whose tumour is the only bright thing, judged by a network that sees brightness alone."""

from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest

from btlib import params
from btlib.data.figshare import CLASSES
from btlib.models import erasing
from btlib.scores import reliance

SIZE = 32


def bright_is_a_glioma():
    """Logits (1, largest value / 100, 0): glioma where something is brighter than 100, else meningioma."""
    image = keras.Input((SIZE, SIZE, 1))
    x = keras.layers.Dense(3, name="logits")(keras.layers.GlobalMaxPooling2D()(image))
    model = keras.Model(image, x)
    model.layers[-1].set_weights([np.float32([[0, 0.01, 0]]), np.float32([1, 0, 0])])
    return model


@pytest.fixture(scope="module")
def data():
    """Four even heads of grey 60, each of a patient; the first three have a tumour of grey 255, the last no mask."""
    images, masks = np.zeros((4, SIZE, SIZE), np.uint8), np.zeros((4, SIZE, SIZE), np.uint8)
    images[:, 2:30, 2:30] = 60
    for k, corner in enumerate((6, 14, 22)):
        masks[k, corner : corner + 4, 6:10] = 1
    images[masks > 0] = 255
    manifest = pd.DataFrame(
        {
            "image_id": [*"abcd"],
            "label": ["glioma", "glioma", "pituitary", "glioma"],
            "patient_id": ["p", "q", "r", "s"],
            "patient_group": ["p", "q", "r", "s"],
            "plane": "axial",
            "mask_area": [1, 1, 1, 0],
        }
    )
    return SimpleNamespace(manifest=manifest, images=images, masks=masks)


@pytest.fixture(scope="module")
def table(data):
    slices = data.manifest.assign(row=np.arange(4))
    return reliance.predictions(bright_is_a_glioma(), slices, data, CLASSES)


def test_the_answer_goes_with_the_tumour_and_stays_without_the_rest(table):
    assert set(table["image_id"]) == {*"abc"}  # d has no mask, so there is nothing to erase
    counts = table.groupby(["erased", "fill"]).size().to_dict()
    assert counts.pop(("elsewhere", "donated")) <= 3  # fewer where other tumours lie there
    rest = {(erased, fill): 3 for erased in ("tumour", "elsewhere") for fill in reliance.FILLS}
    rest.pop(("elsewhere", "donated"))
    assert counts == {("nothing", ""): 3, **rest}
    glioma = table[table["image_id"] != "c"]
    assert (glioma.loc[glioma["erased"] == "tumour", "predicted"] == "meningioma").all()
    assert (glioma.loc[glioma["erased"] != "tumour", "predicted"] == "glioma").all()
    # Logits (1, 2.55, 0) as it is, (1, 0.6, 0) without the tumour.
    e = np.exp
    whole = glioma.loc[glioma["erased"] == "nothing", "probability"]
    assert whole.tolist() == pytest.approx([e(2.55) / (e(1) + e(2.55) + 1)] * 2)
    erased = glioma.loc[(glioma["erased"] == "tumour") & (glioma["fill"] == "grey"), "probability"]
    assert erased.tolist() == pytest.approx([e(0.6) / (e(1) + e(0.6) + 1)] * 2)


def test_what_is_erased_is_the_widened_tumour_or_as_much_beside_it(data):
    image, mask = data.images[0], data.masks[0] > 0
    striped = np.where(image > 0, image - np.arange(SIZE) % 7, image).astype(np.uint8)
    for erased, _, picture in list(reliance.erased_slices(striped, mask, "a", lambda *_: None))[1:]:
        changed, region = picture != striped, erasing.widen(mask, reliance.MARGIN)
        if erased == "tumour":
            assert changed[mask].all() and not changed[~region].any()
        else:
            assert changed.any() and not changed[region].any() and changed.sum() <= region.sum()


def test_the_same_slice_is_erased_the_same_way_again(data):
    image, mask = data.images[1], data.masks[1] > 0
    random = np.random.default_rng(0).integers(0, 9, image.shape).astype(np.uint8)
    donor = lambda region, rng: rng.integers(0, 255, image.shape).astype(np.uint8)  # noqa: E731
    first, again, other = (
        [p for *_, p in reliance.erased_slices(image + random * (image == 60), mask, name, donor)]
        for name in ("b", "b", "c")
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_donor_is_another_patient_s_healthy_tissue_of_the_same_plane(data):
    about = data.manifest.assign(row=range(4)).iloc[0]
    region = np.zeros((SIZE, SIZE), bool)
    region[22:26, 6:10] = True  # where c has its tumour: only b can give
    donor = reliance._donors(about, data)
    np.testing.assert_array_equal(donor(region, np.random.default_rng(0)), data.images[1])
    region[14:18, 6:10] = True  # now b cannot either, and d's tumour is not known
    assert donor(region, np.random.default_rng(0)) is None
    sagittal = data.manifest.assign(plane=["axial", "sagittal", "axial", "axial"])
    donor = reliance._donors(about, SimpleNamespace(manifest=sagittal, images=data.images, masks=data.masks))
    region[14:18] = False
    assert donor(region, np.random.default_rng(0)) is None


def test_a_tumour_that_leaves_no_room_has_no_row_elsewhere(data):
    mask = np.zeros((SIZE, SIZE), bool)
    mask[6:26, 6:26] = True
    rows = [(erased, fill) for erased, fill, _ in reliance.erased_slices(data.images[0], mask, "a", lambda *_: None)]
    assert rows == [("nothing", ""), *(("tumour", f) for f in (*erasing.TRAINED, "inpainted"))]


def test_no_masks_no_rows(data):
    # Also where the manifest knows of a mask that is less than a pixel of the prepared slice.
    slices = data.manifest.assign(row=np.arange(4), mask_area=1).iloc[3:]
    found = reliance.predictions(bright_is_a_glioma(), slices, data, CLASSES)
    assert len(found) == 0 and list(found) == list(reliance.COLUMNS)
    described = found.assign(model="", label="", patient_id="")
    assert not len(reliance.summary(described, {"m": ["grey"]}, params.Statistics(bootstrap=100, level=0.95), 0))


def test_summary_averages_by_class(data, table):
    described = table.merge(data.manifest[["image_id", "label", "patient_id"]], on="image_id").assign(model="m")
    found = reliance.summary(described, {"m": ["grey"]}, params.Statistics(bootstrap=100, level=0.95), 0)
    by = found.set_index(["erased", "fill", "group"])
    assert by.loc[("nothing", "", "all slices"), ["slices", "patients"]].tolist() == [3, 3]
    assert by.loc[("nothing", "", "all slices"), "accuracy"] == pytest.approx(2 / 3)  # the pituitary one is wrong
    assert by.loc[("tumour", "grey", "glioma"), "accuracy"] == 0
    assert by.loc[("elsewhere", "grey", "glioma"), "accuracy"] == 1
    assert by.loc[("tumour", "grey", "all slices"), "trained"] and not by.loc[("tumour", "pasted", "glioma"), "trained"]
    assert not by.loc[("tumour", "mirrored", "all slices"), "trained"], "it is trained on by others, not by this one"
    assert not reliance.summary(described, {}, params.Statistics(bootstrap=100, level=0.95), 0)["trained"].any()
    assert set(found["group"]) == {"all slices", "glioma", "pituitary"} < {"all slices", *CLASSES}
