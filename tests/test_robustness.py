"""Changes at strength 0 are none, and each step takes a slice further from what it was."""

import numpy as np
import pytest

from btlib.scores import robustness

DOWN, ACROSS = np.mgrid[-1:1:64j, -1:1:64j]
HEAD = (200 * (DOWN**2 + ACROSS**2 < 0.7) * (0.6 + 0.4 * np.sin(9 * ACROSS) * np.cos(7 * DOWN))).astype(np.uint8)


@pytest.mark.parametrize("change", robustness.CHANGES)
def test_nothing_happens_at_strength_0_and_more_at_each_step(change):
    images = np.stack([HEAD, HEAD.T])
    np.testing.assert_array_equal(robustness.changed(images, change, 0), images)
    steps = [robustness.changed(images, change, s) for s in robustness.STRENGTHS]
    assert all(step.dtype == np.uint8 and step.shape == images.shape for step in steps)
    away = [np.abs(step.astype(int) - images).mean() for step in steps]
    assert away[0] > 0 and (np.diff(away) > 0).all()


def test_what_a_step_does_can_be_said_in_the_head():
    flat = np.full((4, 4), 100, np.uint8)
    half = np.array([[0, 200], [0, 200]], np.uint8)
    assert robustness.contrast(half, 2).tolist() == [[30, 170], [30, 170]]  # 70 % of 100 away from the mean, 100
    assert robustness.gamma(flat, 1)[0, 0] == round(255 * (100 / 255) ** 1.25)
    assert robustness.blur(flat, 5).tolist() == flat.tolist()
    field = robustness.bias_field(flat, 2, seed=1).astype(int)
    assert (field + field[::-1, ::-1] == 200).all()  # what one side gains, the other loses
    checks = np.kron(np.indices((4, 4)).sum(0) % 2, np.ones((1, 1))).astype(np.uint8) * 200
    assert set(np.unique(robustness.downsampling(checks, 2))) == {100}


def test_the_same_seed_draws_the_same_and_each_slice_its_own():
    both = robustness.changed(np.stack([HEAD, HEAD]), "noise", 2, seed=3)
    np.testing.assert_array_equal(both, robustness.changed(np.stack([HEAD, HEAD]), "noise", 2, seed=3))
    assert (both[0] != both[1]).any()
    air = robustness.noise(np.zeros((200, 200), np.uint8), 1)
    assert air.mean() == pytest.approx(6 * np.sqrt(np.pi / 2), abs=0.1)  # Rayleigh's mean
