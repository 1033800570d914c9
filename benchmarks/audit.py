"""Speed, recall and false pairs of `python -m btlib audit` beside perceptual hashes, on the same pictures.

    python -m benchmarks.audit [changed] [sets] [tiny]

Writes reports/audit/benchmark.csv; lines that are not asked for stay as they are. `changed`: real slices, changed on
purpose, looked for among others. `sets`: Nickparvar against Figshare. `tiny`: 10,000 small files.
The hashes are imagehash's; imagededup computes the same two (it imports torch, so its code is not run here).
Seconds are of processor time, children included: other programs may share the machine.
"""

import functools
import io
import itertools
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from PIL import Image

from btlib import files, home
from btlib.data import figshare, folders, preprocessing
from btlib.deploy import audit, pictures
from btlib.scores import heads, overlap

try:
    import imagehash
except ImportError:
    raise SystemExit("imagehash is missing: pip install imagehash") from None

SOURCES, CHANGED, SEED = 1000, 60, 0
HASHES = {"pHash": imagehash.phash, "dHash": imagehash.dhash}
DISTANCES = (2, 10)
"""Bits of 64 by which two pictures' hashes may differ."""
COLUMNS = ("line", "what", "method", "images_a", "images_b", "copies", "found", "false", "seconds", "wall", "peak_mb")
TURNS = [(turn, mirrored) for turn in range(4) for mirrored in (False, True)]
"""Orientations that the audit looks at; hashes do once without them and once with."""


def _resized(picture, side):
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR))


def _jpeg(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=10)
    return np.asarray(Image.open(buffer))


def _cut(picture, share):
    edge = round(len(picture) * share)
    return _resized(np.ascontiguousarray(picture[edge:-edge, edge:-edge]), 224)


def _turned(picture, degrees):
    return np.asarray(Image.fromarray(picture).rotate(degrees, Image.Resampling.BILINEAR))


CHANGES = {
    "224 pixels": lambda p: _resized(p, 224),
    "64 pixels": lambda p: _resized(p, 64),
    "JPEG quality 10": _jpeg,
    "wide margin": lambda p: np.pad(p, ((20, 90), (60, 40))),
    "gamma 0.7": lambda p: (255 * (p / 255) ** 0.7).astype(np.uint8),
    "mirrored": lambda p: np.ascontiguousarray(p[:, ::-1]),
    "turned 90": lambda p: np.ascontiguousarray(np.rot90(p)),
    "12 % cut from every side": lambda p: _cut(p, 0.12),
    "16 % cut from every side": lambda p: _cut(p, 0.16),
    "turned 3": lambda p: _turned(p, 3),
    "turned 6": lambda p: _turned(p, 6),
    "turned 10": lambda p: _turned(p, 10),
    "negative": lambda p: 255 - p,
}


def changed() -> list[dict]:
    """Look for slices changed in one way each among other slices; false are those paired with another patient's."""
    own = pictures.read(home() / "data" / "figshare")
    rng = np.random.default_rng(SEED)
    rows = rng.choice(len(own.table), SOURCES, replace=False)
    owner = own.table["patient"].to_numpy()[rows]
    plain = [_grey(own.root, own.table["path"][row]) for row in rows]
    known = own.heads[rows]
    lines = []
    for name, change in CHANGES.items():
        with _Clock() as clock:
            copies = np.stack([heads.head(pictures._prepared(change(p))) for p in plain[:CHANGED]])
            pairs = overlap.search(copies, known)
        lines.append(_line("changed", name, "audit", clock, pairs["a"].to_numpy(), pairs["b"].to_numpy(), owner))
        for method, of in HASHES.items():
            with _Clock() as clock:
                near = _distances(
                    [of(Image.fromarray(change(p))) for p in plain[:CHANGED]], [_hash(method, p) for p in plain]
                )
            for most in DISTANCES:
                lines.append(_line("changed", name, f"{method}, {most} bits", clock, *np.nonzero(near <= most), owner))
    return lines


def _line(line, what, method, clock, a, b, owner) -> dict:
    """Count a change's copies that were found with their source, and copies paired with another patient's slice."""
    found, false = len(set(a[a == b])), len(set(a[owner[a] != owner[b]]))
    row = dict(line=line, what=what, method=method, images_a=CHANGED, images_b=SOURCES, copies=CHANGED)
    return row | dict(found=found, false=false, seconds=clock.seconds, wall=clock.wall)


def sets() -> list[dict]:
    """Nickparvar against Figshare: copies are what the audit calls so; a hash's false images pair with none."""
    folders_ = [home() / "data" / name for name in ("nickparvar", "figshare")]
    with _Clock() as decoding:
        a, b = (pictures.read(folder) for folder in folders_)
    with _Clock() as clock:
        pairs = audit.pairs([a, b])
    copies = set(zip(pairs["image_a"], pairs["image_b"], strict=True))
    images = {image for image, _ in copies}
    common = dict(line="sets", what="Nickparvar against Figshare", images_a=len(a.table), images_b=len(b.table))
    common["copies"] = len(images)
    timed = dict(seconds=clock.seconds + decoding.seconds, wall=clock.wall + decoding.wall, peak_mb=_peak_mb())
    lines = [common | dict(method="audit", found=len(images), false=None) | timed]
    for method, turns in itertools.product(HASHES, (TURNS[:1], TURNS)):
        with _Clock() as clock:
            first, second = (
                list(files.spread(functools.partial(_hashed, method, turned, part.root), part.table["path"]))
                for part, turned in ((a, TURNS[:1]), (b, turns))
            )
            own = [hashes[0] for hashes in first]
            near = np.min([_distances(own, [hashes[k] for hashes in second]) for k in range(len(turns))], axis=0)
        for most in DISTANCES:
            i, j = np.nonzero(near <= most)
            said = pd.DataFrame({"a": a.table["image"].to_numpy()[i], "b": b.table["image"].to_numpy()[j]})
            right = {x for x, y in zip(said["a"], said["b"], strict=True) if (x, y) in copies}
            name = f"{method}, {most} bits" + (", eight orientations" if len(turns) > 1 else "")
            row = dict(method=name, found=len(right), false=len(set(said["a"]) - right))
            lines.append(common | row | dict(seconds=clock.seconds, wall=clock.wall))
    return lines


def _peak_mb() -> float:
    """Most memory that this process and its largest finished child held, in 10^6 bytes."""
    held = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(held) * (1024 if sys.platform == "linux" else 1) / 1e6


def tiny() -> list[dict]:
    """10,000 pictures of 16 x 16 pixels, 100 of them there twice."""
    rng = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(10_000):
            name = number if number < 9_900 else number - 9_900
            picture = np.random.default_rng(name).integers(0, 255, (16, 16), np.uint8)
            Image.fromarray(picture).save(Path(folder) / f"{rng.integers(1e9)}-{number}.png")
        with _Clock() as clock:
            own = pictures.read(Path(folder))
            pairs = audit.pairs([own])
    row = dict(line="tiny", what="10,000 tiny files", method="audit", images_a=10_000, images_b=10_000, copies=100)
    return [
        row
        | dict(
            found=int(pairs["exact"].sum()), false=int((~pairs["exact"]).sum()), seconds=clock.seconds, wall=clock.wall
        )
    ]


class _Clock:
    """Processor time and wall time of a block; workers that outlive it are counted for what they did in it."""

    def __enter__(self):
        self._before, self._start = _processor_seconds(), time.perf_counter()
        return self

    def __exit__(self, *_):
        self.seconds, self.wall = _processor_seconds() - self._before, time.perf_counter() - self._start


def _processor_seconds() -> float:
    own = psutil.Process()
    times = [own.cpu_times(), *(worker.cpu_times() for worker in own.children(recursive=True))]
    return sum(t.user + t.system for t in times) + own.cpu_times().children_user + own.cpu_times().children_system


def _grey(root, path) -> np.ndarray:
    read = figshare.read if path.endswith(".mat") else folders.read
    return preprocessing.normalise(read(root, path)[0], 0.5, 99.5)


def _hash(method, picture):
    return HASHES[method](Image.fromarray(picture))


def _hashed(method, turns, root, path):
    grey = _grey(root, path)
    views = (np.rot90(grey[:, ::-1] if mirrored else grey, turn) for turn, mirrored in turns)
    return [_hash(method, np.ascontiguousarray(view)) for view in views]


def _distances(a, b) -> np.ndarray:
    bits = [np.stack([h.hash.ravel() for h in hashes]).astype(np.float32) * 2 - 1 for hashes in (a, b)]
    return (64 - bits[0] @ bits[1].T) / 2


def main(asked: list[str]) -> None:
    """Measure the lines asked for, or all, and write the table."""
    target = home() / "reports" / "audit" / "benchmark.csv"
    before = pd.read_csv(target) if target.exists() else pd.DataFrame(columns=COLUMNS)
    for line in asked or ["changed", "sets", "tiny"]:
        rows = pd.DataFrame({"changed": changed, "sets": sets, "tiny": tiny}[line](), columns=COLUMNS)
        before = pd.concat([t for t in (before[before["line"] != line], rows) if len(t)], ignore_index=True)
        with files.replacing(target) as temporary:
            before.to_csv(temporary, index=False, float_format="%.4g", lineterminator="\n")
        print(rows.to_string(index=False))


if __name__ == "__main__":
    main(sys.argv[1:])
