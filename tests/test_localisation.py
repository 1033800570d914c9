"""Scores of maps that can be worked out by hand, controls, and another package's scores of the same maps."""

import numpy as np
import pytest

from btlib.scores import localisation


def square(top, left, side=2, size=4):
    mask = np.zeros((1, size, size))
    mask[0, top : top + side, left : left + side] = 1
    return mask


def localised(heat, mask, tolerance=0):
    return localisation.scores(heat, mask, tolerance).iloc[0]


def test_energy_pointing_and_iou_by_hand():
    heat = np.zeros((1, 4, 4))
    heat[0, 0, :4] = [4, 3, 2, 1]
    found = localised(heat, square(0, 0))  # inside: 4 and 3 of 10; largest four pixels: two inside, two outside
    assert found.energy == pytest.approx(0.7)
    assert found.pointing == 1
    assert found.iou == pytest.approx(2 / 6)


def test_a_map_that_is_the_mask_scores_one():
    found = localised(square(1, 1), square(1, 1))
    assert (found[["energy", "pointing", "pointing_tolerance", "iou"]] == 1).all()


def test_tolerance_is_a_distance_in_pixels():
    heat, mask = np.zeros((1, 9, 9)), np.zeros((1, 9, 9))
    mask[0, 0, 0] = heat[0, 3, 4] = 1  # five pixels away
    assert localised(heat, mask, 4).pointing_tolerance == 0
    assert localised(heat, mask, 5).pointing_tolerance == 1
    assert localised(heat, mask, 5).pointing == 0


def test_a_uniform_map_scores_what_chance_does():
    found = localised(np.ones((1, 4, 4)), square(0, 0))
    assert found.energy == found.pointing == 4 / 16
    assert found.iou == pytest.approx(1 / 7)  # of 4 pixels at random, 1 hits: 1 / (4 + 4 - 1)


@pytest.mark.filterwarnings("error")
def test_a_zero_map_scores_zero():
    found = localised(np.zeros((1, 4, 4)), square(0, 0), 15)
    assert (found[["energy", "pointing", "pointing_tolerance", "iou"]] == 0).all()


def test_a_map_smaller_than_the_mask_is_not_filled_up_with_zeros():
    heat = np.zeros((1, 4, 4))
    heat[0, 0, 0] = 1
    assert localised(heat, square(0, 0)).iou == pytest.approx(1 / 4)


@pytest.mark.filterwarnings("ignore")  # theirs, of arguments that are not used here
def test_quantus_gives_the_same_pointing_and_energy():
    import quantus

    rng = np.random.default_rng(0)
    heat, masks = rng.random((8, 12, 12)), rng.random((8, 12, 12)) < 0.3
    ours = localisation.scores(heat, masks, 0)
    first = {"x_batch": heat[:, None], "y_batch": np.zeros(8, int), "a_batch": heat[:, None], "s_batch": masks[:, None]}
    pointing = quantus.PointingGame(disable_warnings=True)(model=None, channel_first=True, **first)
    energy = quantus.RelevanceMassAccuracy(disable_warnings=True)(model=None, channel_first=True, **first)
    assert set(ours["pointing"]) == {0, 1}
    assert ours["pointing"].tolist() == [float(hit) for hit in pointing]
    np.testing.assert_allclose(ours["energy"], energy, rtol=1e-6)


# ---- controls


def test_cells_share_pixels_by_their_overlap():
    # Two cells of a row of three pixels: each has one pixel and half of the middle one.
    np.testing.assert_allclose(localisation._cells(2, 3), np.array([[2, 1, 0], [0, 1, 2]]) / 3)
    assert localisation._cells(4, 4).tolist() == np.eye(4).tolist()


def test_a_picture_on_a_grid_is_the_mean_of_each_cell():
    picture = np.zeros((1, 4, 4))
    picture[0, :2, :2] = [[4, 0], [0, 0]]  # the first cell's mean is 1, the other three are 0
    found = localisation.on_grid(picture, (2, 2))[0]
    # Bilinear between cell centres: 1, 3/4, 1/4, 0 along a side.
    along = np.array([1, 0.75, 0.25, 0])
    np.testing.assert_allclose(found, along[:, None] * along, atol=1e-6)
    assert not localisation.on_grid(np.zeros((1, 4, 4)), (2, 2)).any()
    np.testing.assert_allclose(localisation.on_grid(picture, (4, 4)), picture / 4)


def test_the_class_average_leaves_out_the_slice_s_own_patient():
    masks = np.zeros((4, 2, 2), np.uint8)
    masks[0, 0, 0] = masks[1, 0, 0] = masks[1, 0, 1] = masks[2, 1, 1] = masks[3, 1, 0] = 1
    training = masks, np.array([0, 0, 0, 1]), np.array(["a", "b", "c", "d"])
    found = localisation.class_average([0, 0, 1, 2], ["x", "b", "d", "x"], *training)
    np.testing.assert_allclose(found[0], np.array([[2, 1], [0, 1]]) / 3)
    np.testing.assert_allclose(found[1], [[0.5, 0], [0, 0.5]])  # b's own is left out
    assert not found[2].any() and not found[3].any()  # d has the only one of class 1; class 2 has none


def test_controls_come_on_both_grids_and_the_ceiling_on_one():
    images = np.zeros((1, 8, 8), np.uint8)
    images[0, :, 4:] = 200
    masks = square(0, 0, side=4, size=8)
    training = masks, np.array([0]), np.array(["a"])
    found = localisation.controls(images, masks, [0], ["b"], training, (2, 2))
    drawn = ["uniform", "centred Gaussian", "class-average mask", "brightness", "edges"]
    assert list(found) == [*((d, "8 x 8") for d in drawn), *((d, "2 x 2") for d in drawn), ("ceiling", "2 x 2")]
    assert all(heat.shape == (1, 8, 8) and heat.dtype == np.float32 for heat in found.values())
    assert (found["uniform", "8 x 8"] == 1).all() and (found["uniform", "2 x 2"] == 1).all()
    bell = found["centred Gaussian", "8 x 8"][0]
    assert bell[3, 3] == bell[4, 4] == 1 and bell[3, 2] == pytest.approx(np.exp(-(1.5**2 - 0.5**2) / 2 / 2**2))
    np.testing.assert_array_equal(found["class-average mask", "8 x 8"], masks)
    np.testing.assert_allclose(found["brightness", "8 x 8"], images / 255)
    assert set(found["edges", "8 x 8"][0].argmax(1)) <= {3, 4}
    # The mask is one whole cell: on the grid its largest value lies inside, but it spreads beyond.
    ceiling = localisation.scores(found["ceiling", "2 x 2"], masks, 0).iloc[0]
    assert ceiling.pointing == 1 and 0.5 < ceiling.energy < 1
