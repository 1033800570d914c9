"""Copies between and within data sets: what was seen in training already, told from the pixels alone.

Two steps. A signature, the ranks of 12 x 12 cells of the head, finds a few candidates for each slice by blocked matrix
products; then the pixels decide: the two heads are laid upon each other and their fine structure is correlated.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter, uniform_filter
from scipy.stats import rankdata
from threadpoolctl import threadpool_limits

from btlib import DataError

GRID = 96
"""Pixels along a side of the head as it is compared."""
CELLS = 12
"""Cells along a side of a signature."""
NEIGHBOURS = 12
"""Candidates a slice: a copy has its source and slices next to it in the same head as rivals."""
SIMILAR = 0.6
"""Least correlation of two signatures that is worth a look at the pixels."""
COPY = 0.9
"""Least correlation of fine structure that makes a copy. Nothing hangs on the exact value: on real slices no external
slice's best score lies between 0.77 and 0.97, and copies changed on purpose lie above 0.93."""
NEAR = 0.8
"""Least correlation of near-identical neighbours. The 623 pairs of real slices above it are all of one group (586
of one patient id): slices next to each other in one head. The nearest two of different groups reach 0.79."""
ORIENTATIONS = (
    ("identity", False, False, False),
    ("flip left-right", False, False, True),
    ("flip up-down", False, True, False),
    ("rotate 180", False, True, True),
    ("transpose", True, False, False),
    ("rotate 90", True, False, True),
    ("rotate 270", True, True, False),
    ("transpose and rotate 180", True, True, True),
)
"""What may have been done to a slice: name, transposed (a MATLAB file read without care is), upside down, mirrored."""
CUTS = ((0.0, 1.0), (-0.075, 0.85), (0.075, 0.85), (-0.15, 0.7), (0.15, 0.7), (0.0, 0.82), (0.0, 0.68))
"""What may be left of the head along one axis: centre and length of it, in lengths of the head."""
WHOLE, *WINDOWS = ((down, across) for down in CUTS for across in CUTS)
"""What a copy may have been cropped to: what is left down and across."""
COLUMNS = ("image_id_a", "image_id_b", "score", "transform", "exact")
BATCH = 128


def audit(a, b, threshold: float = COPY) -> pd.DataFrame:
    """Find the slices of one data set that are copies of slices of another.

    Found are exact, re-encoded, resized (by each axis on its own too), padded, mirrored, turned by quarters, re-windowed
    and cropped copies. Of 60 real slices each, changed on purpose, it found all with JPEG quality 10, with a margin, or
    with 12 % cut from every side; 95 % with 16 % cut; 98 % shrunk to 64 pixels. Not found are negatives and copies
    turned by a few degrees, and half of those with a gamma of 0.5, which makes the noise in the air as bright as a head.

    Args:
        a: the later set (copies are looked for here): anything with `manifest` and `images`, uint8 (n, S, S).
        b: the earlier set (sources are looked for here), likewise.
        threshold: least score of a pair, 0 to 1.

    Returns:
        Columns image_id_a, image_id_b, score (correlation of fine structure, -1 to 1), transform (what was done to b)
        and exact (equal, pixel by pixel); a slice may have several sources, such as slices next to each other. Sorted
        by image_id_a in the order of a, then best first.

    Raises:
        DataError: images and manifest differ in length.

    Notebook 06.
    """
    heads_a, digests_a = _heads(a.images)
    heads_b, digests_b = _heads(b.images)
    for name, digests, manifest in (("a", digests_a, a.manifest), ("b", digests_b, b.manifest)):
        if len(digests) != len(manifest):
            raise DataError(f"audit: {name} has {len(digests)} images and {len(manifest)} rows in its manifest")
    i, j, score, turn = _pairs(heads_a, heads_b, threshold)
    return _table(i, j, score, turn, digests_a, digests_b, a.manifest["image_id"], b.manifest["image_id"])


def within(a, threshold: float = NEAR) -> pd.DataFrame:
    """Find the near-identical neighbours inside one data set: copies, and slices next to each other in one head.

    Copies may be mirrored, re-encoded, resized, padded and re-windowed; turned or cropped ones are not looked for.

    Args:
        a: anything with `manifest` and `images`, uint8 (n, S, S).
        threshold: least score of a pair, 0 to 1.

    Returns:
        As `audit`, each pair once, with the columns same_patient and same_group.

    Notebook 02.
    """
    heads, digests = _heads(a.images)
    i, j, score, turn = _pairs(heads, heads, threshold, apart=True)
    ids = a.manifest["image_id"]
    table = _table(i, j, score, turn, digests, digests, ids, ids)
    of = a.manifest.set_index("image_id")
    for name, column in (("same_patient", "patient_id"), ("same_group", "patient_group")):
        known = of[column].to_dict()
        table[name] = [known[x] == known[y] for x, y in zip(table["image_id_a"], table["image_id_b"], strict=True)]
    return table


def crossing(pairs: pd.DataFrame, split: pd.DataFrame) -> dict[str, int]:
    """Count the held-out slices that have a near-identical neighbour in training.

    Args:
        pairs: as `within` returns it.
        split: columns image_id and role (train, validation or test).

    Returns:
        test and validation: slices in each; test_crossing and validation_crossing: those with such a neighbour.

    Notebook 02.
    """
    role = dict(zip(split["image_id"], split["role"], strict=True))
    ends = pairs[["image_id_a", "image_id_b"]].to_numpy()
    both = np.concatenate([ends, ends[:, ::-1]])
    near = {x for x, y in both if role.get(y) == "train"}
    counts = {}
    for part in ("test", "validation"):
        members = set(split.loc[split["role"] == part, "image_id"])
        counts[part], counts[f"{part}_crossing"] = len(members), len(members & near)
    return counts


def signatures(images) -> np.ndarray:
    """Describe slices by the ranks of 12 x 12 cells of the head, so that margins, size and window drop out.

    Args:
        images: uint8 (n, S, S), read in blocks: an h5py dataset serves.

    Returns:
        float32 (n, 144), mean zero and length one (or all zero for a slice without structure), so that a dot product
        is Spearman's rank correlation.

    Used by `audit`.
    """
    return _signatures(_heads(images)[0])


def candidates(
    a: np.ndarray, b: np.ndarray, k: int = NEIGHBOURS, threshold: float | np.ndarray = SIMILAR, block: int = 4096
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the rows of b most like each row of a, by matrix products of blocks.

    Args:
        a: float32 (n, d) signatures.
        b: float32 (m, d) signatures.
        k: rows of b kept for a row of a.
        threshold: what a dot product must exceed, one for all or (n,), one for each row of a.
        block: rows of b at a time; memory is about block times 1024 float32.

    Returns:
        row of a, row of b, dot product: one entry a candidate, sorted by row of a, then best first.

    Used by `audit`.
    """
    found, threshold = [], np.broadcast_to(np.float32(threshold), len(a))
    for first in range(0, len(a), 1024):
        rows = a[first : first + 1024]
        best = np.repeat(threshold[first : first + 1024, None], k, axis=1)
        which = np.full((len(rows), k), -1)
        for start in range(0, len(b), block):
            product = rows @ b[start : start + block].T
            hit = np.flatnonzero(product.max(axis=1) > best.min(axis=1))
            if not len(hit):
                continue
            product, width = product[hit], min(k, product.shape[1])
            top = np.argpartition(-product, width - 1, axis=1)[:, :width]
            both = np.concatenate([best[hit], np.take_along_axis(product, top, axis=1)], axis=1)
            names = np.concatenate([which[hit], top + start], axis=1)
            order = np.argsort(-both, axis=1, kind="stable")[:, :k]
            best[hit] = np.take_along_axis(both, order, axis=1)
            which[hit] = np.take_along_axis(names, order, axis=1)
        row, column = np.nonzero(which >= 0)
        found.append((row + first, which[row, column], best[row, column]))
    if not found:
        return np.zeros(0, int), np.zeros(0, int), np.zeros(0, np.float32)
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))


def _pairs(heads_a, heads_b, threshold: float, apart: bool = False):
    """Return row of a, row of b, score and orientation of all pairs that pass, sorted by row of a, then best first."""
    even_a, even_b = _equalised(heads_a), _equalised(heads_b)
    plain, everyone = _signatures(heads_a), np.arange(len(heads_a))
    # Inside one set, only the two that are the same both ways, so that each pair is looked at once.
    proposed = _proposed(plain, heads_b, everyone, (WHOLE,), range(2 if apart else len(ORIENTATIONS)), apart)
    found = [_passed(even_a, even_b, *proposed, threshold)]
    if not apart:
        # Only slices that nothing was found for can be crops; where copies abound they are few.
        rest = np.setdiff1d(everyone, found[0][0][found[0][2] >= COPY])
        found.append(_passed(even_a, even_b, *_proposed(plain, heads_b, rest, WINDOWS, (0, 1)), threshold))
    i, j, score, turn = (np.concatenate(part) for part in zip(*found, strict=True))
    keep = _best_first(i, j, score, turn)
    return i[keep], j[keep], score[keep], turn[keep]


def _proposed(plain, heads_b, rows, windows, turns, apart: bool = False):
    """Return row of a, row of b, orientation and what of b to begin with, for the best of all windows and turns."""
    n, k = len(heads_b), NEIGHBOURS + apart * len(turns)
    floor = np.full(len(rows), SIMILAR, np.float32)
    best = [np.zeros(0, kind) for kind in (int, int, np.float32, int, int)]
    for number, window in enumerate(windows):
        view = _signatures(heads_b, window).reshape(n, CELLS, CELLS)
        turned = np.concatenate([_turned(view, turn).reshape(n, CELLS**2) for turn in turns])
        i, j, similarity = candidates(plain[rows], turned, k, floor)
        more = i, j % max(n, 1), similarity, np.array(turns)[j // max(n, 1)], np.full(len(i), number)
        best = [np.concatenate(pair) for pair in zip(best, more, strict=True)]
        order = np.lexsort((-best[2], best[0]))
        place = np.arange(len(order)) - np.searchsorted(best[0][order], best[0][order])
        best = [part[order[place < k]] for part in best]
        # Another window has to do better than the last of the k that there are.
        last = np.flatnonzero(place[place < k] == k - 1)
        floor[best[0][last]] = best[2][last]
    i, j, _, turn, number = best
    start = np.array(windows)[number]
    # A window is given on the source as it is; mirrored, its centre lies on the other side.
    start[turn == 1, 1, 0] *= -1
    i = rows[i]
    if apart:
        # A slice is its own best candidate in every orientation that suits it.
        other = i != j
        i, j, turn = np.unique([np.minimum(i, j)[other], np.maximum(i, j)[other], turn[other]], axis=1)
        start = start[: len(i)]
    return i, j, turn, start


def _passed(even_a, even_b, i, j, turn, start, threshold: float):
    """Keep the pairs whose pixels agree: row of a, row of b, score, orientation."""

    def score(part):
        source = np.empty((len(part), GRID, GRID), np.float32)
        for t in np.unique(turn[part]):
            of = turn[part] == t
            source[of] = _turned(even_b[j[part][of]], t)
        return _compare(even_a[i[part]] / np.float32(255), source / np.float32(255), start[part], threshold)

    parts = [np.arange(first, min(first + BATCH, len(i))) for first in range(0, len(i), BATCH)]
    # Products of small matrices: one thread a batch is fast, two that wait for each other are not.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        scores = np.concatenate([np.zeros(0), *pool.map(score, parts)])
    good = np.flatnonzero(scores >= threshold)
    return i[good], j[good], scores[good], turn[good]


def _best_first(i, j, score, turn) -> np.ndarray:
    """Keep the best entry of each pair, sorted by i, then by falling score; ties go to the plainer orientation."""
    if not len(i):
        return np.zeros(0, int)
    order = np.lexsort((turn, -np.round(score, 3), j, i))
    order = order[np.r_[True, (np.diff(i[order]) != 0) | (np.diff(j[order]) != 0)]]
    return order[np.lexsort((j[order], -score[order], i[order]))]


def _table(i, j, score, turn, digests_a, digests_b, ids_a, ids_b) -> pd.DataFrame:
    names = np.array([name for name, *_ in ORIENTATIONS])
    return pd.DataFrame(
        {
            "image_id_a": ids_a.to_numpy()[i],
            "image_id_b": ids_b.to_numpy()[j],
            "score": score,
            "transform": names[turn],
            "exact": [digests_a[x] == digests_b[y] for x, y in zip(i, j, strict=True)],
        },
        columns=COLUMNS,
    )


def _heads(images) -> tuple[np.ndarray, list[bytes]]:
    """Cut every slice to its head and stretch that to uint8 (n, GRID, GRID); with a digest of each slice as it was."""
    heads, digests = np.zeros((len(images), GRID, GRID), np.uint8), []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(images), BATCH):
            block = np.ascontiguousarray(images[first : first + BATCH])
            for at, (head, digest) in enumerate(pool.map(_head, block), first):
                heads[at] = head
                digests.append(digest)
    return heads, digests


def _head(picture: np.ndarray) -> tuple[np.ndarray, bytes]:
    head = Image.fromarray(picture).resize((GRID, GRID), Image.Resampling.BILINEAR, box=_box(picture))
    return np.asarray(head), hashlib.sha256(picture).digest()


def _box(picture: np.ndarray) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of the head, in pixels: the rows and columns that are not air.

    Tight on all four sides, unlike the square that models are given, so that a changed aspect ratio drops out too.
    """
    smooth = uniform_filter(picture, 3)
    head = smooth > _air(smooth)
    edges = []
    for axis in (0, 1):
        filled = head.mean(axis=axis) > 0.04
        edges.append((int(filled.argmax()), len(filled) - int(filled[::-1].argmax())))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def _air(picture: np.ndarray) -> float:
    """Half of Otsu's threshold (Otsu 1979): it moves with the noise in the air, and skin and fat are far above it."""
    counts = np.bincount(picture.ravel(), minlength=256).astype(float)
    below = np.cumsum(counts)
    above, sums = below[-1] - below, np.cumsum(counts * np.arange(256))
    between = (sums[-1] * below - sums * below[-1]) ** 2 / np.maximum(below * above, 1)
    return between.argmax() / 2


def _signatures(heads: np.ndarray, window=WHOLE) -> np.ndarray:
    down, across = (_means(0.5 + centre - length / 2, 0.5 + centre + length / 2) for centre, length in window)
    found = np.zeros((len(heads), CELLS * CELLS), np.float32)
    for first in range(0, len(heads), 4096):
        cells = down @ heads[first : first + 4096].astype(np.float32) @ across.T
        # Whole grey levels: the ranks of noise in the air would weigh as much as the head.
        ranks = rankdata(np.rint(cells.reshape(len(cells), -1)), axis=1)
        ranks -= ranks.mean(axis=1, keepdims=True)
        found[first : first + 4096] = ranks / np.maximum(np.linalg.norm(ranks, axis=1, keepdims=True), 1e-6)
    return found


def _means(low: float, high: float) -> np.ndarray:
    """Return float32 (CELLS, GRID): weights of the means over equal parts of a stretch of the head, given in 0..1."""
    width = (high - low) * GRID / CELLS
    centre = low * GRID + (np.arange(CELLS) + 0.5) * width - 0.5
    weights = np.clip(1 - np.abs(np.arange(GRID) - centre[:, None]) / width, 0, None)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _turned(images: np.ndarray, turn: int) -> np.ndarray:
    _, transposed, upside_down, mirrored = ORIENTATIONS[turn]
    images = images.swapaxes(1, 2) if transposed else images
    images = images[:, ::-1] if upside_down else images
    return images[:, :, ::-1] if mirrored else images


def _equalised(heads: np.ndarray) -> np.ndarray:
    """Replace grey levels by their ranks among the pixels, 0..255, so that any monotone window drops out."""
    found = np.empty_like(heads)
    for one, picture in zip(found, heads, strict=True):
        counts = np.bincount(picture.ravel(), minlength=256)
        one[:] = ((np.cumsum(counts) - counts / 2) * (255 / picture.size)).astype(np.uint8)[picture]
    return found


def _compare(a: np.ndarray, b: np.ndarray, start: np.ndarray, threshold: float) -> np.ndarray:
    """Lay b upon a by shifting and stretching it, coarse to fine, and correlate what remains without broad shading.

    Args:
        a, b: float32 (m, GRID, GRID), equalised, 0..1.
        start: (m, 2, 2) what of b to begin with: down and across, centre and length.
        threshold: what a pair must reach in the end; what falls well short of it on the way is given up.

    Returns:
        float (m,); 0 for a pair that was given up.
    """
    shift, stretch = start[..., 0].copy(), start[..., 1].copy()
    score, alive = np.zeros(len(a)), np.arange(len(a))
    for factor, steps, detail, least in ((4, 4, None, 0.75), (2, 2, 1.5, threshold - 0.1), (1, 1, 3.0, None)):
        small_a, small_b = _shrunk(a[alive], factor), _shrunk(b[alive], factor)
        shift[alive], stretch[alive] = _register(small_a, small_b, shift[alive], stretch[alive], steps)
        laid, inside = _warp(small_b, shift[alive], stretch[alive])
        score[alive] = _correlation(_fine(small_a, detail), _fine(laid, detail), inside)
        if least is not None:
            given_up = score[alive] < least
            score[alive[given_up]] = 0
            alive = alive[~given_up]
        if not len(alive):
            break
    return score


def _register(a, b, shift, stretch, steps: int):
    """Refine shift and stretch of b, per axis, by Gauss-Newton steps (Lucas, Kanade 1981) with free gain and offset."""
    m, n = len(a), a.shape[-1]
    along = ((np.arange(n) + 0.5) / n - 0.5).astype(np.float32)
    for _ in range(steps):
        laid, inside = _warp(b, shift, stretch)
        down, across = (np.gradient(laid, axis=axis) * np.float32(n) for axis in (1, 2))
        columns = [down, across, down * along[:, None], across * along, laid, np.ones_like(laid)]
        columns = (np.stack(columns, axis=1) * inside[:, None]).reshape(m, 6, -1)
        normal = (columns @ columns.swapaxes(1, 2)).astype(float) + 1e-3 * np.eye(6)
        right = (columns @ a.reshape(m, -1, 1)).astype(float)
        solved = np.linalg.solve(normal, right)[:, :, 0]
        step = np.clip(solved[:, :4] / np.maximum(solved[:, 4:5], 0.2), -0.1, 0.1)
        shift = np.clip(shift + step[:, :2] * stretch, -0.3, 0.3)
        stretch = np.clip(stretch * (1 + step[:, 2:]), 0.6, 1.7)
    return shift, stretch


def _warp(b, shift, stretch):
    """Return b as seen from a, and where that lies inside b, both float32 (m, n, n)."""
    n = b.shape[-1]
    along = (np.arange(n) + 0.5) / n - 0.5
    weights, inside = [], []
    for axis in (0, 1):
        at = (along * stretch[:, axis, None] + shift[:, axis, None] + 0.5) * n - 0.5
        inside.append(((at > -0.51) & (at < n - 0.49)).astype(np.float32))
        at = np.clip(at, 0, n - 1).astype(np.float32)
        weights.append(np.clip(1 - np.abs(np.arange(n, dtype=np.float32) - at[:, :, None]), 0, None))
    laid = weights[0] @ b @ weights[1].swapaxes(1, 2)
    return laid, inside[0][:, :, None] * inside[1][:, None, :]


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
