"""Copies between and within data sets: what was seen in training already, told from the pixels alone.

Two steps. A signature, the ranks of 12 x 12 cells of the head, finds a few candidates for each slice, its nearest
neighbours; then the pixels decide: the two heads are laid upon each other and their fine structure is correlated.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from btlib.scores import heads, registration

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
NAMES = np.array(heads.ORIENTATIONS)
TURNS = range(len(NAMES))
CUTS = ((0.0, 1.0), (-0.075, 0.85), (0.075, 0.85), (-0.15, 0.7), (0.15, 0.7), (0.0, 0.82), (0.0, 0.68))
"""What may be left of the head along one axis: centre and length of it, in lengths of the head."""
_, *WINDOWS = ((down, across) for down in CUTS for across in CUTS)
"""What a copy may have been cropped to: what is left down and across."""
COLUMNS = ("image_id_a", "image_id_b", "score", "transform", "exact")
LAID = ("shift_down", "shift_across", "down_down", "down_across", "across_down", "across_across")
"""How b lies upon a (`registration.lay`): the shift and the matrix, row by row."""
BATCH = 128
SMALL = 1_000_000
"""Dot products of signatures below which one thread is fastest."""


def audit(a, b) -> pd.DataFrame:
    """Find the slices of one data set that are copies of slices of another.

    Found are exact, re-encoded, resized (also one axis alone), padded, mirrored, quarter-turned, re-windowed and
    cropped copies. Of 60 real slices each, changed on purpose, it found all with JPEG quality 10, with a margin, or
    with 12 % cut from every side; 95 % with 16 % cut; 98 % shrunk to 64 pixels. Not found are negatives and copies
    turned by a few degrees (`search` finds those), and half of those with a gamma of 0.5, which makes the noise in the
    air as bright as a head.

    Args:
        a, b: the later set (of copies) and the earlier (of sources), with `manifest` and `images`, uint8 (n, S, S).

    Returns:
        Columns image_id_a, image_id_b, score (correlation of fine structure, `COPY` to 1), transform (what was done to b)
        and exact (equal, pixel by pixel); a slice may have several sources, such as slices next to each other. Sorted
        by image_id_a in the order of a, then best first.
    """
    return _table(_best_first(_copies(_side(_heads(a.images)), _side(_heads(b.images)), COPY)), a, b)


def within(a) -> pd.DataFrame:
    """Find the near-identical neighbours inside one data set: copies, and slices next to each other in one head.

    Copies may be mirrored, re-encoded, resized, padded and re-windowed; turned or cropped ones are not looked for.
    Arguments and columns as `audit`, the score from `NEAR`; each pair once.
    """
    side = _side(_heads(a.images))
    # Only the two orientations that are the same both ways, so that each pair is looked at once.
    return _table(_best_first(_compared(side, side, NEAR, turns=(0, 1), apart=True)), a, a)


def crossing(pairs: pd.DataFrame, split: pd.DataFrame) -> int:
    """Count the test slices that have a near-identical neighbour in training.

    Pairs are of `within`; split has the columns image_id and role (train, validation or test).
    """
    role = dict(zip(split["image_id"], split["role"], strict=True))
    ends = pairs[["image_id_a", "image_id_b"]].to_numpy()
    both = np.concatenate([ends, ends[:, ::-1]])
    return len({x for x, y in both if role.get(x) == "test" and role.get(y) == "train"})


def candidates(a: np.ndarray, b: np.ndarray, k: int, threshold) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the rows of b most like each row of a, by scikit-learn's brute-force search, whose memory is bounded.

    Args:
        a, b: float32 (n, d) and (m, d) signatures, of length one or zero.
        k: rows of b kept for a row of a.
        threshold: what a dot product must exceed, 0 or more: one for all, or (n,).

    Returns:
        row of a, row of b, dot product: one entry a candidate, sorted by row of a, then best first.
    """
    from sklearn.neighbors import NearestNeighbors  # here, as it takes a second to import

    # A slice without structure has a signature of zeros, which is far from all but its like.
    rows, columns = (np.flatnonzero(x.any(axis=1)) for x in (a, b))
    if not len(rows) or not len(columns):
        return np.zeros(0, int), np.zeros(0, int), np.zeros(0, np.float32)
    search = NearestNeighbors(n_neighbors=min(k, len(columns)), algorithm="brute").fit(b[columns])
    # Threads that wait for each other take longer than small products, ten times so on a busy machine.
    with threadpool_limits(1 if len(rows) * len(columns) < SMALL else None):
        distance, nearest = search.kneighbors(a[rows])
    product = (1 - distance**2 / 2).astype(np.float32)
    row, place = np.nonzero(product > np.broadcast_to(np.float32(threshold), len(a))[rows, None])
    return rows[row], columns[nearest[row, place]], product[row, place]


def search(heads_a: np.ndarray, heads_b: np.ndarray | None = None, threshold: float = COPY) -> pd.DataFrame:
    """Find all copies between two sets of heads, or inside one, and say what was done to them.

    Besides what `audit` finds, these are crops either way and copies turned by a few degrees. Of 60 real slices turned
    by 3, 6, 9, 12 and 15 degrees it found 60, 60, 56, 47 and 35 among 300, and no other.

    Args:
        heads_a: uint8 (n, 96, 96), as `heads.head` gives them.
        heads_b: uint8 (m, 96, 96), or None to look inside a: each pair once, no slice with itself.
        threshold: least score of a pair, 0 to 1.

    Returns:
        a and b (rows), score, transform (one of `NAMES`: what was done to b), angle (degrees clockwise by which it was
        turned besides; a guess where one axis was stretched), shown (share of b's head that a shows), covered (share of
        a's head that b shows) and tone (mean distance of their sorted grey levels, 0 to 255, where both show). Sorted
        by a, then best first.
    """
    apart = heads_b is None
    a = _side(heads_a)
    b = a if apart else _side(heads_b)
    pairs = _copies(a, b, threshold, apart)
    if not apart:
        rest = np.setdiff1d(np.arange(len(heads_b)), pairs["b"])
        pairs = pd.concat([pairs, _exchanged(_compared(b, a, threshold, rest, WINDOWS, (0, 1)))])
    rest = np.setdiff1d(np.arange(len(heads_a)), pairs[["a", "b"] if apart else "a"])
    turned = _compared(a, b, threshold, rest, turns=(0, 1), apart=apart, turning=True)
    return _described(_best_first(pd.concat([pairs, turned]), apart), a.heads, b.heads)


class _Side(NamedTuple):
    """The heads of one of two sets, uint8 (n, 96, 96): as they are, equalised, and their signatures."""

    heads: np.ndarray
    even: np.ndarray
    plain: np.ndarray


def _side(cut: np.ndarray) -> _Side:
    return _Side(cut, heads.equalised(cut), heads.signatures(cut))


def _copies(a: _Side, b: _Side, threshold: float, apart: bool = False) -> pd.DataFrame:
    """Compare whole heads in all orientations, then crops of those for which nothing was found; few where copies abound."""
    pairs = _compared(a, b, threshold, apart=apart)
    rest = np.setdiff1d(np.arange(len(a.heads)), pairs[["a", "b"] if apart else "a"])
    return pd.concat([pairs, _compared(a, b, threshold, rest, WINDOWS, (0, 1), apart)])


def _compared(a, b, threshold, rows=None, windows=(heads.WHOLE,), turns=TURNS, apart=False, turning=False):
    """Return the pairs of some rows of a (None: all) with b that pass, as `_passed` gives them."""
    rows = np.arange(len(a.heads)) if rows is None else rows
    return _passed(a.even, b.even, _proposed(a.plain, b.heads, rows, windows, turns, apart), threshold, turning)


def _proposed(plain, heads_b, rows, windows, turns, apart: bool = False):
    """Return row of a, row of b, orientation and what of b to begin with, for the best of all windows and turns."""
    n, k = len(heads_b), NEIGHBOURS + apart * len(turns)
    floor = np.full(len(rows), SIMILAR, np.float32)
    best = [np.zeros(0, kind) for kind in (int, int, np.float32, int, int)]
    for number, window in enumerate(windows):
        view = heads.signatures(heads_b, window).reshape(n, heads.CELLS, heads.CELLS)
        turned = np.concatenate([heads.turned(view, turn).reshape(n, heads.CELLS**2) for turn in turns])
        i, j, similarity = candidates(plain[rows], turned, k, floor)
        more = i, j % max(n, 1), similarity, np.array(turns)[j // max(n, 1)], np.full(len(i), number)
        best = [np.concatenate(pair) for pair in zip(best, more, strict=True)]
        order = np.lexsort((-best[2], best[0]))
        place = np.arange(len(order)) - np.searchsorted(best[0][order], best[0][order])
        best = [column[order[place < k]] for column in best]
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
        i, j, turn, start = i[other], j[other], turn[other], start[other]
        if len(windows) == 1:
            turn = np.where(i > j, heads.INVERSE[turn], turn)
            (i, j, turn), first = np.unique([np.minimum(i, j), np.maximum(i, j), turn], axis=1, return_index=True)
            start = start[first]
    return i, j, turn, start


def _passed(even_a, even_b, proposed, threshold: float, turning: bool = False) -> pd.DataFrame:
    """Keep the pairs whose pixels agree: a and b (rows), score, turn, and how b was laid upon a."""
    i, j, turn, start = proposed

    def laid(batch):
        a = even_a[i[batch]] / np.float32(255)
        b = _oriented(even_b, j[batch], turn[batch]) / np.float32(255)
        score, shift, matrix = registration.lay(a, b, start[batch], threshold, turning)
        return np.column_stack([score, shift, matrix.reshape(-1, 4)])

    batches = [np.arange(first, min(first + BATCH, len(i))) for first in range(0, len(i), BATCH)]
    # Products of small matrices: one thread a batch is fast, two that wait for each other are not.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        result = np.concatenate([np.zeros((0, 7)), *pool.map(laid, batches)])
    pairs = pd.DataFrame({"a": i, "b": j, "turn": turn}).join(pd.DataFrame(result, columns=("score", *LAID)))
    return pairs[pairs["score"] >= threshold]


def _oriented(images, rows, turns) -> np.ndarray:
    source = np.empty((len(rows), *images.shape[1:]), np.float32)
    for turn in np.unique(turns):
        source[turns == turn] = heads.turned(images[rows[turns == turn]], turn)
    return source


def _exchanged(pairs: pd.DataFrame) -> pd.DataFrame:
    """Turn "a upon b" into "b upon a", for pairs that are mirrored or not."""
    mirror = np.eye(2) * np.where(pairs["turn"].to_numpy()[:, None] == 1, (1, -1), (1, 1))[:, None]
    shift, matrix = _placed(pairs)
    inverse = np.linalg.inv(matrix)
    shift = -(mirror @ inverse @ shift[:, :, None])[:, :, 0]
    values = np.column_stack([shift, (mirror @ inverse @ mirror).reshape(-1, 4)])
    swapped = pairs.rename(columns={"a": "b", "b": "a"})
    return swapped.assign(**dict(zip(LAID, values.T, strict=True)))


def _placed(pairs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    values = pairs[list(LAID)].to_numpy()
    return values[:, :2], values[:, 2:].reshape(-1, 2, 2)


def _best_first(pairs: pd.DataFrame, apart: bool = False) -> pd.DataFrame:
    """Keep the best entry of each pair, sorted by a, then by falling score; ties go to the plainer orientation."""
    ends = np.sort(pairs[["a", "b"]], axis=1) if apart else pairs[["a", "b"]].to_numpy()
    keyed = pairs.assign(first=ends[:, 0], second=ends[:, 1], rounded=-pairs["score"].round(3))
    best = keyed.sort_values(["first", "second", "rounded", "turn"], kind="stable").drop_duplicates(["first", "second"])
    best = best.sort_values(["a", "score", "b"], ascending=[True, False, True], ignore_index=True)
    return best[list(pairs.columns)]


def _described(pairs: pd.DataFrame, heads_a, heads_b) -> pd.DataFrame:
    """Say what was done to b, from how it lies upon a and from the grey levels where both show."""
    covered, tone = np.zeros(len(pairs)), np.zeros(len(pairs))
    a, b, turn = (pairs[name].to_numpy() for name in ("a", "b", "turn"))
    shift, matrix = _placed(pairs)
    for first in range(0, len(pairs), BATCH):
        rows = slice(first, first + BATCH)
        source = _oriented(heads_b, b[rows], turn[rows])
        laid, inside = registration.warp(source, shift[rows], matrix[rows], turning=True)
        covered[rows] = inside.mean(axis=(1, 2))
        for row, head, other, both in zip(range(first, len(pairs)), heads_a[a[rows]], laid, inside > 0, strict=False):
            tone[row] = np.abs(np.sort(head[both]) - np.sort(np.rint(other[both]))).mean()
    angle = np.degrees(np.arctan2(matrix[:, 1, 0] - matrix[:, 0, 1], matrix[:, 0, 0] + matrix[:, 1, 1]))
    shown = np.clip(covered * np.linalg.det(matrix), 0, 1)
    table = pairs[["a", "b", "score"]].assign(transform=NAMES[turn])
    return table.assign(angle=angle, shown=shown, covered=covered, tone=tone)


def _table(pairs: pd.DataFrame, a, b) -> pd.DataFrame:
    i, j = pairs["a"].to_numpy(), pairs["b"].to_numpy()
    return pd.DataFrame(
        {
            "image_id_a": a.manifest["image_id"].to_numpy()[i],
            "image_id_b": b.manifest["image_id"].to_numpy()[j],
            "score": pairs["score"].to_numpy(),
            "transform": NAMES[pairs["turn"]],
            "exact": [np.array_equal(a.images[int(x)], b.images[int(y)]) for x, y in zip(i, j, strict=True)],
        }
    )


def _heads(images) -> np.ndarray:
    """Cut every slice to its head and stretch that to uint8 (n, 96, 96)."""
    blocks = (images[first : first + BATCH] for first in range(0, len(images), BATCH))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        cut = [head for block in blocks for head in pool.map(heads.head, block)]
    return np.array(cut, np.uint8).reshape(-1, heads.GRID, heads.GRID)
