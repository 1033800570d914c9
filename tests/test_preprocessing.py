"""Exact small cases of normalising, cropping and resizing."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from btlib import params
from btlib.data import phantom, preprocessing


def how(**changes):
    given = {"image_size": 32, "crop_to_head": False, "low_percentile": 0.0, "high_percentile": 100.0}
    return params.Preprocessing(**{**given, **changes})


def test_normalise_stretches_between_the_percentiles():
    image = np.array([[0, 100], [200, 400]], np.int16)
    assert preprocessing.normalise(image, 0, 100).tolist() == [[0, 64], [128, 255]]


def test_normalise_cuts_off_one_very_bright_pixel():
    image = np.arange(1000, dtype=np.int16).reshape(20, 50)
    image[0, 0] = 30_000
    grey = preprocessing.normalise(image, 0, 99)
    assert grey[0, 0] == 255
    assert grey.ravel()[500] == pytest.approx(500 / 990 * 255, abs=1)


@pytest.mark.parametrize("gain", [0.001, 3, 1e6])
def test_scanner_gain_drops_out(gain):
    image = np.random.default_rng(1).gamma(2, 30, (40, 40))
    plain = preprocessing.normalise(image, 1, 99).astype(int)
    assert np.abs(preprocessing.normalise(image * gain, 1, 99).astype(int) - plain).max() <= 1


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64, bool])
def test_a_constant_slice_is_black(kind):
    grey = preprocessing.normalise(np.ones((9, 7), kind), 1, 99)
    assert grey.dtype == np.uint8
    assert not grey.any()


def test_few_bright_pixels_on_even_ground_stay_visible():
    image = np.zeros((100, 100), np.int16)
    image[50, 50] = 7
    assert preprocessing.normalise(image, 1, 99)[50, 50] == 255


@given(hnp.arrays(np.int16, (6, 9)), st.floats(0, 49), st.floats(51, 100))
@settings(max_examples=100, deadline=None)
def test_counting_gives_the_same_as_sorting(image, low, high):
    by_counts = preprocessing.normalise(image, low, high).astype(int)
    by_sorting = preprocessing.normalise(image.astype(np.float64), low, high).astype(int)
    assert np.abs(by_counts - by_sorting).max() <= 1  # at a tie, the last digit of a percentile decides the rounding


@example(np.eye(5)[:, :1] * np.full(5, 5e-324))
@example(np.where(np.arange(25).reshape(5, 5) > 12, np.arange(25).reshape(5, 5) * 5e-324, -1e308))
@given(hnp.arrays(np.float64, (5, 5), elements=st.floats(allow_nan=False, allow_infinity=False)))
@settings(max_examples=200, deadline=None)
@pytest.mark.filterwarnings("error")
def test_any_finite_slice_is_normalised_without_a_warning(image):
    assert preprocessing.normalise(image, 1, 99).dtype == np.uint8


def disc(height, width, top, left, size, level=200, noise=0.0, seed=0):
    """A bright disc of `size` pixels on dark ground."""
    y, x = np.mgrid[:height, :width]
    radius = size / 2
    inside = (y - top - radius + 0.5) ** 2 + (x - left - radius + 0.5) ** 2 < radius**2
    image = inside * float(level) + np.random.default_rng(seed).normal(0, 1, (height, width)) * noise
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("noise", [0, 5, 15])
@pytest.mark.parametrize("level", [40, 100, 250])
def test_head_box_hugs_the_head(noise, level):
    top, left, bottom, right = preprocessing.head_box(disc(512, 512, 100, 60, 300, level, min(noise, level / 8)))
    assert bottom - top == right - left
    assert np.abs(np.array([top, left, bottom, right]) - [94, 54, 406, 366]).max() <= 12


def test_head_box_leaves_a_distant_bright_speck_out():
    image = disc(512, 512, 150, 150, 200)
    image[5:12, 500:507] = 255
    top, left, bottom, right = preprocessing.head_box(image)
    assert top > 120 and right < 380 and left > 120 and bottom < 380


def test_head_box_of_a_black_slice_is_the_whole_slice():
    assert preprocessing.head_box(np.zeros((256, 256), np.uint8)) == (0, 0, 256, 256)


def test_head_box_of_a_black_oblong_slice_is_the_square_around_it():
    assert preprocessing.head_box(np.zeros((100, 60), np.uint8)) == (0, -20, 100, 80)


def test_head_box_stays_inside_where_there_is_room():
    top, left, bottom, right = preprocessing.head_box(disc(512, 512, 0, 0, 200))
    assert (top, left) == (0, 0) and abs(bottom - 206) <= 8 and bottom == right


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 200), st.integers(1, 200))))
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("error")
def test_head_box_is_a_square_that_meets_the_slice(image):
    top, left, bottom, right = preprocessing.head_box(image)
    assert bottom - top == right - left > 0
    assert top < image.shape[0] and bottom > 0 and left < image.shape[1] and right > 0


def test_prepare_halves_by_averaging():
    image = np.zeros((64, 64))
    image[:, 32:] = 1
    picture, mask = preprocessing.prepare(image, image > 0, how())
    assert picture.shape == mask.shape == (32, 32) and picture.dtype == mask.dtype == np.uint8
    assert not picture[:, :14].any() and (picture[:, 18:] == 255).all()
    assert mask[:, 16:].all() and not mask[:, :16].any()


def test_a_mask_pixel_needs_more_than_half_its_area():
    mask = np.zeros((64, 64), bool)
    mask[0, 0] = True  # a quarter of the first small pixel
    mask[2:4, 2] = mask[2, 3] = True  # three quarters of another
    small = preprocessing.prepare(np.zeros((64, 64)), mask, how())[1]
    assert small[0, 0] == 0 and small[1, 1] == 1 and small.sum() == 1


def test_prepare_without_a_mask_gives_zeros():
    picture, mask = preprocessing.prepare(disc(80, 80, 10, 10, 50), None, how(crop_to_head=True))
    assert picture.max() > 200 and mask.shape == (32, 32) and not mask.any()


def test_prepare_keeps_the_shape_of_the_head():
    picture, _ = preprocessing.prepare(disc(200, 100, 60, 10, 80), None, how(image_size=200))
    assert abs(np.ptp(np.nonzero(picture > 100)[0]) - np.ptp(np.nonzero(picture > 100)[1])) <= 2


def test_mask_follows_the_image_through_crop_and_resize():
    image = disc(300, 260, 40, 30, 200, level=120)
    image[100:140, 90:130] = 255
    picture, mask = preprocessing.prepare(image, image == 255, how(image_size=64, crop_to_head=True))
    assert picture[mask == 1].min() > 150 > picture[mask == 0].mean()
    assert mask.sum() / 64**2 == pytest.approx((40 / 208) ** 2, rel=0.15)


PHANTOM = params.Phantom(patients=12, slices_per_patient=3, size=192, seed=5, hospital="a", copies=0)


def test_plane_of_phantoms_is_mostly_right_and_does_not_hang_on_gain():
    made = [phantom.slice_of(PHANTOM, patient, number) for patient in range(8) for number in range(3)]
    right = [preprocessing.plane(image) == plane for image, _, plane in made]
    assert sum(right) >= 21  # of 24; by guessing, 8
    image = made[0][0]
    assert preprocessing.plane(image) == preprocessing.plane(image * 7.5)


def test_plane_of_a_black_slice_is_unknown():
    assert preprocessing.plane(np.zeros((64, 64), np.int16)) == "unknown"
