"""Erased regions on slices small enough to check in the head."""

import time

import numpy as np
import pytest

from btlib.models import erasing


def block(rows, columns, size=8):
    mask = np.zeros((size, size), bool)
    mask[rows, columns] = True
    return mask


@pytest.fixture
def head():
    """A round head on air, with a hole of air in it, and a smaller bright thing beside it."""
    image = np.zeros((32, 32), np.uint8)
    y, x = np.mgrid[:32, :32]
    image[(y - 15) ** 2 + (x - 15) ** 2 <= 12**2] = 100
    image[13:18, 13:18] = 0
    image[28:31, 28:31] = 255
    return image


def test_the_head_is_the_largest_bright_region_with_its_holes(head):
    found = erasing.head_of(head)
    assert found[15, 15] and found[3, 15] and found[27, 15]
    assert not found[29, 29] and not found[0, 0]
    assert not erasing.head_of(np.zeros((8, 8), np.uint8)).any()
    assert erasing.head_of(np.full((8, 8), 90, np.uint8)).all()


def test_widened_by_a_distance():
    found = erasing.widen(block(4, 4), 2)
    y, x = np.mgrid[:8, :8]
    np.testing.assert_array_equal(found, (y - 4) ** 2 + (x - 4) ** 2 <= 4)
    np.testing.assert_array_equal(erasing.widen(block(0, 0), 1), block([0, 0, 1], [0, 1, 0]))
    np.testing.assert_array_equal(erasing.widen(block(4, 4), 0), block(4, 4))
    assert not erasing.widen(np.zeros((8, 8), bool), 2).any()


def test_elsewhere_is_the_only_place_left():
    mask = block([0, 0, 1], [0, 1, 0])  # an L of three pixels
    head = np.zeros((8, 8), bool)
    head[5:7, 3:5] = True
    np.testing.assert_array_equal(erasing.elsewhere(mask, head, np.random.default_rng(0)), block([5, 5, 6], [3, 4, 3]))
    head[5, 4] = False
    assert erasing.elsewhere(mask, head, np.random.default_rng(0)) is None


def test_elsewhere_never_touches_the_mask_and_reaches_every_place():
    mask, head, rng = block(slice(3, 5), slice(3, 5)), np.ones((8, 8), bool), np.random.default_rng(1)
    head[:, 7] = False
    corners = set()
    for _ in range(600):
        moved = erasing.elsewhere(mask, head, rng)
        rows, columns = np.nonzero(moved)
        assert moved.sum() == 4 and np.ptp(rows) == np.ptp(columns) == 1
        assert not (moved & erasing.widen(mask, 1)).any() and columns.max() < 7
        corners.add((int(rows.min()), int(columns.min())))
    # Of 7 x 6 corners, 5 x 5 would cover or touch the mask (corner 1 to 5 each way).
    assert corners == {(r, c) for r in range(7) for c in range(6)} - {(r, c) for r in range(1, 6) for c in range(1, 6)}


def test_surroundings_of_an_even_slice_are_even():
    image = np.full((8, 8), 70, np.uint8)
    region = block(slice(2, 6), slice(2, 6))
    image[region] = 255
    assert (erasing.surroundings(image, region) == 70).all()


def test_surroundings_come_from_the_nearest_side():
    image = np.zeros((40, 40), np.uint8)
    image[:, 20:] = 200
    region = np.zeros((40, 40), bool)
    region[5:35, 8:32] = True
    image[region] = 255
    found = erasing.surroundings(image, region)
    assert found[20, 8] == 0 and found[20, 31] == 200  # more than four standard deviations from where the sides meet
    np.testing.assert_array_equal(found[~region], image[~region])


def test_one_grey_is_the_median_of_the_head_outside():
    image = np.array([[1, 2, 3], [200, 200, 90], [0, 0, 0]], np.uint8)
    head = np.array([[1, 1, 1], [1, 1, 1], [0, 0, 0]], bool)
    region = np.array([[0, 0, 0], [1, 1, 0], [1, 0, 0]], bool)
    # Outside the region the head is 1, 2, 3 and 90: their median 2.5 is cut to 2.
    assert erasing.grey(image, region, head).tolist() == [[1, 2, 3], [2, 2, 90], [2, 0, 0]]
    assert erasing.grey(image, region, region)[1].tolist() == [0, 0, 90]


def test_mirrored_takes_the_other_side_of_the_head():
    image = np.tile(np.arange(8, dtype=np.uint8) * 10, (8, 1))
    head = np.ones((8, 8), bool)
    found = erasing.mirrored(image, block(2, [0, 1]), head)
    assert found[2].tolist() == [70, 60, *range(20, 80, 10)]
    # Where the head begins at column 2 its middle lies between 4 and 5: column 2 comes from 7.
    head[:, :2] = False
    assert erasing.mirrored(image, block(2, 2), head)[2, 2] == 70


def test_mirrored_in_the_middle_is_turned_upside_down():
    image = np.tile(np.arange(8, dtype=np.uint8)[:, None] * 10, (1, 8))
    region = block(6, slice(2, 6))  # its own mirror image
    found = erasing.mirrored(image, region, np.ones((8, 8), bool))
    assert found[6].tolist() == [60, 60, 10, 10, 10, 10, 60, 60]


def test_mirrored_copies_nothing_from_outside_the_given_head():
    image = np.full((8, 8), 50, np.uint8)
    tumour = block(2, 6)
    image[tumour] = 255
    region = block(2, 1)
    head = np.ones((8, 8), bool)
    assert erasing.mirrored(image, region, head)[2, 1] == 255
    assert erasing.mirrored(image, region, head & ~tumour)[2, 1] == 50


def test_pasted_keeps_the_shape():
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    region, source = block([0, 0, 1], [0, 1, 0]), block([5, 5, 6], [3, 4, 3])
    found = erasing.pasted(image, region, source)
    assert found[0, :2].tolist() == [43, 44] and found[1, 0] == 51
    donated = erasing.pasted(image, region, source, image + 100)
    assert donated[0, :2].tolist() == [143, 144] and donated[1, 0] == 151


def test_noise_stays_inside_and_in_range():
    image = np.full((64, 64), 128, np.uint8)
    region = block(slice(8, 56), slice(8, 56), 64)
    found = erasing.noisy(image, region, 10.0, np.random.default_rng(0))
    assert (found[~region] == 128).all()
    assert found[region].std() == pytest.approx(10, rel=0.1) and found[region].mean() == pytest.approx(128, abs=1)
    wild = erasing.noisy(image, region, 1e4, np.random.default_rng(0))
    assert set(np.unique(wild[region])) >= {0, 255}
    np.testing.assert_array_equal(erasing.noisy(image, region, 0.0, np.random.default_rng(0)), image)


FILLS = {
    "surroundings": lambda image, region, head: erasing.surroundings(image, region),
    "grey": erasing.grey,
    "mirrored": erasing.mirrored,
    "inpainted": lambda image, region, head: erasing.inpainted(image, region),
    "noisy": lambda image, region, head: erasing.noisy(image, region, 5.0, np.random.default_rng(0)),
}


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("place", ["middle", "corner", "nowhere"])
def test_fills_leave_their_arguments_and_the_rest_alone(head, fill, place):
    region = np.zeros((32, 32), bool)
    if place != "nowhere":
        region[(slice(10, 20),) * 2 if place == "middle" else (slice(0, 9),) * 2] = True
    before = head.copy(), region.copy()
    found = FILLS[fill](head, region, erasing.head_of(head))
    np.testing.assert_array_equal(head, before[0])
    np.testing.assert_array_equal(region, before[1])
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[~region], head[~region])


@pytest.mark.parametrize("fill", ["surroundings", "grey", "mirrored"])
def test_fills_are_fast_enough_for_training(fill):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (160, 160)).astype(np.uint8)
    region, head = block(slice(60, 100), slice(60, 100), 160), np.ones((160, 160), bool)
    took = []
    for _ in range(20):
        start = time.perf_counter()
        FILLS[fill](image, region, head)
        took.append(time.perf_counter() - start)
    assert min(took) < 2e-3  # 0.2 to 0.6 ms where it was written; the least of 20, so that a busy machine passes


def test_inpainting_goes_on_as_straight_as_it_began():
    ramp = np.add.outer(np.arange(16) * 5, np.arange(16) * 3).astype(np.uint8)  # a plane solves Laplace's equation
    region = block(slice(4, 11), slice(5, 12), 16)
    broken = np.where(region, 255, ramp).astype(np.uint8)
    np.testing.assert_array_equal(erasing.inpainted(broken, region), ramp)
    # At the edge of the slice only the neighbours that exist count: 60 comes in from the left, to the very corner.
    even = np.full((8, 8), 60, np.uint8)
    corner = block(slice(0, 3), slice(5, 8))
    assert (erasing.inpainted(np.where(corner, 9, even).astype(np.uint8), corner) == 60).all()


def test_fills_by_name():
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    region, head = block(2, 2), np.ones((8, 8), bool)
    for kind in erasing.TRAINED:
        np.testing.assert_array_equal(erasing.filled(kind, image, region, head), FILLS[kind](image, region, head))
