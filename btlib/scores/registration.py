"""One head laid upon another: shifted, stretched and, if asked, turned until they agree, then correlated."""

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

STAGES = ((4, 4, None, 0.75), (2, 2, 1.5, None), (1, 1, 3.0, None))
"""Coarse to fine: pixels that become one, steps, coarsest detail correlated (None: all), least score to go on."""
GIVEN_UP = 0.1
"""How far below the threshold a pair may lie at half the resolution."""


def lay(a, b, start, threshold: float, turning: bool = False):
    """Lay heads b upon heads a, coarse to fine, and correlate what remains without broad shading.

    Gauss-Newton steps (Lucas, Kanade 1981) with free gain and offset. A point y of a, in lengths of the head from its
    centre, falls on `matrix @ y + shift` of b.

    Args:
        a, b: float32 (m, n, n), equalised, 0 to 1; n divides by 4.
        start: (m, 2, 2) what of b to begin with: down and across, centre and length, in lengths of the head.
        threshold: what a pair must reach in the end; what falls well short of it on the way is given up.
        turning: whether b may be turned and sheared too; slower.

    Returns:
        score, float (m,), 0 for a pair that was given up; shift (m, 2); matrix (m, 2, 2), diagonal unless `turning`.
    """
    shift, matrix = start[..., 0].copy(), start[..., 1, None] * np.eye(2)
    score, alive = np.zeros(len(a)), np.arange(len(a))
    for factor, steps, detail, least in STAGES:
        small_a, small_b = _shrunk(a[alive], factor), _shrunk(b[alive], factor)
        shift[alive], matrix[alive] = _register(small_a, small_b, shift[alive], matrix[alive], steps, turning)
        laid, inside = warp(small_b, shift[alive], matrix[alive], turning)
        score[alive] = _correlation(_fine(small_a, detail), _fine(laid, detail), inside)
        if factor > 1:
            given_up = score[alive] < (threshold - GIVEN_UP if least is None else least)
            score[alive[given_up]] = 0
            alive = alive[~given_up]
        if not len(alive):
            break
    return score, shift, matrix


def warp(b, shift, matrix, turning: bool = False):
    """Return b as seen from a, and where that lies inside b, both float32 (m, n, n); arguments as of `lay`."""
    return _turned(b, shift, matrix) if turning else _stretched(b, shift, matrix)


def _register(a, b, shift, matrix, steps: int, turning: bool):
    m, n = len(a), a.shape[-1]
    along = ((np.arange(n) + 0.5) / n - 0.5).astype(np.float32)
    for _ in range(steps):
        laid, inside = warp(b, shift, matrix, turning)
        down, across = (np.gradient(laid, axis=axis) * np.float32(n) for axis in (1, 2))
        columns = [down, across, down * along[:, None], across * along]
        if turning:
            columns += [down * along, across * along[:, None]]
        columns += [laid, np.ones_like(laid)]
        columns = (np.stack(columns, axis=1) * inside[:, None]).reshape(m, len(columns), -1)
        normal = (columns @ columns.swapaxes(1, 2)).astype(float) + 1e-3 * np.eye(columns.shape[1])
        right = (columns @ a.reshape(m, -1, 1)).astype(float)
        solved = np.linalg.solve(normal, right)[:, :, 0]
        step = np.clip(solved[:, :-2] / np.maximum(solved[:, -2:-1], 0.2), -0.1, 0.1)
        change = np.zeros((m, 2, 2))
        change[:, (0, 1), (0, 1)] = step[:, 2:4]
        if turning:
            change[:, (0, 1), (1, 0)] = step[:, 4:6]
        shift = np.clip(shift + (matrix @ step[:, :2, None])[:, :, 0], -0.3, 0.3)
        matrix = matrix + matrix @ change
        matrix[:, (0, 1), (0, 1)] = np.clip(matrix[:, (0, 1), (0, 1)], 0.6, 1.7)
        matrix[:, (0, 1), (1, 0)] = np.clip(matrix[:, (0, 1), (1, 0)], -0.5, 0.5)
    return shift, matrix


def _stretched(b, shift, matrix):
    """As `warp` for diagonal matrices, faster: two products of small matrices."""
    n = b.shape[-1]
    along = (np.arange(n) + 0.5) / n - 0.5
    weights, inside = [], []
    for axis in (0, 1):
        at = (along * matrix[:, axis, axis, None] + shift[:, axis, None] + 0.5) * n - 0.5
        inside.append(((at > -0.51) & (at < n - 0.49)).astype(np.float32))
        at = np.clip(at, 0, n - 1).astype(np.float32)
        weights.append(np.clip(1 - np.abs(np.arange(n, dtype=np.float32) - at[:, :, None]), 0, None))
    laid = weights[0] @ b @ weights[1].swapaxes(1, 2)
    return laid, inside[0][:, :, None] * inside[1][:, None, :]


def _turned(b, shift, matrix):
    """As `warp` for any matrices."""
    m, n = b.shape[:2]
    along = (np.arange(n) + 0.5) / n - 0.5
    places = np.stack(np.meshgrid(along, along, indexing="ij")).reshape(2, -1)
    at = ((matrix @ places + shift[:, :, None] + 0.5) * n - 0.5).reshape(m, 2, n, n)
    inside = ((at > -0.51) & (at < n - 0.49)).all(axis=1).astype(np.float32)
    laid = [map_coordinates(head, where, order=1, mode="nearest") for head, where in zip(b, at, strict=True)]
    return np.array(laid, np.float32).reshape(b.shape), inside


def _shrunk(x, factor: int):
    n = x.shape[-1] // factor
    return x.reshape(len(x), n, factor, n, factor).mean(axis=(2, 4)) if factor > 1 else x


def _fine(x, detail: float | None):
    """Keep structure finer than `detail` pixels and coarser than compression noise; all of it where None."""
    if detail is None:
        return x
    x = gaussian_filter(x, (0, 0.7, 0.7), truncate=3)
    return x - gaussian_filter(x, (0, detail, detail), truncate=2)


def _correlation(a, b, inside) -> np.ndarray:
    axes, count = (1, 2), np.maximum(inside.sum(axis=(1, 2)), 1)
    a, b = ((x - ((x * inside).sum(axis=axes) / count)[:, None, None]) * inside for x in (a, b))
    return (a * b).sum(axis=axes) / np.sqrt((a * a).sum(axis=axes) * (b * b).sum(axis=axes) + 1e-9)
