"""Made-up people: the MNI152 brain in a made-up head, with a made-up tumour where each class sits, and its scans."""

import itertools
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial.transform import Rotation

NO_TUMOR = "no_tumor"
"""Class of people without a tumour."""

# Millimetres of MNI space at voxel (0, 0, 0), and the box's size: the template's box and, below and before it, a face.
ORIGIN = np.array([-100, -134, -126], np.float32)
SHAPE = (200, 252, 240)
MIDDLE = np.array([0, -18, 8], np.float32)
T1, WHITE, DEPTH, SKIN, FACE, VESSEL = range(6)
"""Channels of `head`: depth below the brain's surface and below the skin are kept in quarters of a millimetre."""

ELLIPSOIDS = Path(__file__).with_name("anatomy.csv")
"""Outline and parts of the head, in millimetres of MNI space; what has x > 0 is mirrored."""

# Points, radius and brightness of lines, mirrored likewise.
VESSELS = (
    (((0, -106, -8), (30, -98, -18), (55, -76, -28), (64, -48, -38), (54, -38, -52), (40, -36, -72)), 3.2, 0.90),
    (((0, -40, 4), (0, -62, 2), (0, -104, -8)), 1.8, 0.90),
    (((0, -34, 6), (0, -20, 12), (0, 2, 14)), 1.0, 0.80),
    (((12, 2, -20), (28, 4, -16), (42, -4, -2), (46, -24, 10)), 1.3, 0.85),
    (((0, -24, -60), (0, -15, -30), (0, -15, -20)), 1.6, 0.85),
    (((3, 12, -16), (3, 38, -2), (3, 34, 22), (3, 8, 34)), 1.2, 0.80),
    (((8, -18, -18), (24, -30, -6), (16, -66, 0)), 1.1, 0.75),
)
SKULL_BASE = ((28, 20, -12), (0, 40, -18), (10, 38, -16), (0, 14, -18), (38, -58, -28), (22, -40, -38))
"""Where meningiomas sit that are neither on the convexity nor on the falx: wing, groove, tuberculum, tentorium, angle."""

# Rows run down and columns to the right as radiologists look at them: the patient's right, or the face, on the left.
PLANES = {
    "axial": SimpleNamespace(down=(0, -1, 0), right=(-1, 0, 0), middle=(0, -16, 0), wider=1.0),
    "coronal": SimpleNamespace(down=(0, 0, -1), right=(-1, 0, 0), middle=(0, 0, -4), wider=1.0),
    "sagittal": SimpleNamespace(down=(0, 0, -1), right=(0, -1, 0), middle=(0, -8, -6), wider=1.06),
}
"""Of each plane the directions of rows and columns, and where and how wide it is cut."""

SCANNERS = {
    "a": SimpleNamespace(
        field=(225, 255), grey=0.34, white=0.41, blur=(0.35, 0.6), noise=(0.010, 0.025), coil=0.10, gamma=(1, 1)
    ),
    "b": SimpleNamespace(
        field=(200, 225), grey=0.36, white=0.50, blur=(0.5, 0.9), noise=(0.015, 0.04), coil=0.20, gamma=(0.75, 1)
    ),
}
"""How the two hospitals scan: field of view in millimetres, brightness of tissues, and what spoils the picture."""


@lru_cache(1)
def head() -> np.ndarray:
    """Return the head without a tumour, one voxel a millimetre: SHAPE x 6 uint8, channels T1 ... VESSEL."""
    from nilearn import datasets

    volume = np.zeros((*SHAPE, 6), np.uint8)
    for channel, load in ((T1, datasets.load_mni152_template), (WHITE, datasets.load_mni152_wm_template)):
        image = load(resolution=1)
        data = np.asarray(image.dataobj)
        at = (image.affine[:3, 3] - ORIGIN).astype(int)
        # The template is cut through the brainstem; the cord goes on below.
        room = [(a, max(n - a - m, 0)) for a, n, m in zip(at, SHAPE, data.shape, strict=True)]
        data = np.pad(np.pad(data, [(0, 0), (0, 0), room[2]], "edge"), [room[0], room[1], (0, 0)])
        volume[..., channel] = np.rint(data[: SHAPE[0], : SHAPE[1], : SHAPE[2]] * 255)
    parts = pd.read_csv(ELLIPSOIDS).groupby("part")
    ellipsoids = {name: rows.drop(columns="part").to_numpy() for name, rows in parts}
    depth, skin = _depths(volume[::2, ::2, ::2, T1] > 12, ellipsoids["outline"])
    volume[..., DEPTH] = _double(np.clip((depth + 24) * 4, 0, 255).astype(np.uint8))
    volume[..., SKIN] = _double(np.clip((skin + 40) * 4, 0, 255).astype(np.uint8))

    tissue = 255 * (0.34 + 0.3 * np.clip((np.arange(256) / 32 - 4) / 2, 0, 1))
    tiles = np.ix_(*(np.arange(n) * 2 // 3 % 48 for n in SHAPE))
    volume[..., FACE] = tissue.astype(np.uint8)[_grain()[..., 0]][tiles]
    for channel, part in ((FACE, "face"), (VESSEL, "enhancing")):
        for row in ellipsoids[part]:
            for side in _sides(row[None, :3]):
                _paint(volume[..., channel], side, row[3:6], row[6])
    for points, radius, value in VESSELS:
        for side in _sides(points):
            for ends in itertools.pairwise(side):
                _paint(volume[..., VESSEL], np.array(ends), (radius,) * 3, value)
    return volume


def _depths(tissue: np.ndarray, outline: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return millimetres below (negative) and above the brain's surface and the skin, at every second voxel."""
    brain = ndimage.binary_closing(np.pad(tissue, 7, "edge"), iterations=6)
    brain = ndimage.binary_fill_holes(brain[7:-7, 7:-7, 7:-7])
    depth = ndimage.distance_transform_edt(~brain) - ndimage.distance_transform_edt(brain)
    depth = 2 * ndimage.gaussian_filter(depth.astype(np.float32), 1.0)
    x, y, z = (o * 2 + s for o, s in zip(np.ogrid[tuple(slice(n // 2) for n in SHAPE)], ORIGIN, strict=True))
    parts = [ndimage.gaussian_filter(depth, 3.0) - 14]
    parts += [np.maximum(50 * (np.sqrt((x / 56) ** 2 + ((y + 26) / 58) ** 2) - 1), z + 52)]  # the neck
    for row in outline:
        away = sum(((a - c) / r) ** 2 for a, c, r in zip((np.abs(x), y, z), row[:3], row[3:6], strict=True))
        parts.append(row[4] * (np.sqrt(away) - 1))
    return depth, -4 * np.log(sum(np.exp(-np.clip(part, -60, 60) / 4) for part in parts))


def _sides(points) -> list[np.ndarray]:
    points = np.array(points, np.float32)
    return [points, points * [-1, 1, 1]] if points[:, 0].any() else [points]


def _paint(volume: np.ndarray, points: np.ndarray, radii, value: float) -> None:
    """Paint an ellipsoid around a point, or around every point of a line, into one channel."""
    points, radii = points.astype(np.float32) - ORIGIN, np.array(radii, np.float32)
    low = np.maximum(np.floor(points.min(0) - radii - 1), 0).astype(int)
    high = np.minimum(np.ceil(points.max(0) + radii + 2), SHAPE).astype(int)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    at = np.stack(np.mgrid[box].astype(np.float32), -1)
    line = points[-1] - points[0]
    along = np.clip((at - points[0]) @ line / max(line @ line, 1e-6), 0, 1)[..., None]
    inside = radii.min() * (1 - np.linalg.norm((at - points[0] - along * line) / radii, axis=-1))
    volume[box] = np.rint(_over(volume[box], 255 * value, _step(inside)))


def _double(volume: np.ndarray) -> np.ndarray:
    """Put the mean of each voxel and the next between them, along each axis."""
    for axis in range(3):
        after = np.take(volume, np.minimum(np.arange(volume.shape[axis]) + 1, volume.shape[axis] - 1), axis)
        between = (np.add(volume, after, dtype=np.uint16) // 2).astype(np.uint8)
        shape = [n * 2 if a == axis else n for a, n in enumerate(volume.shape)]
        volume = np.stack([volume, between], axis + 1).reshape(shape)
    return volume


@lru_cache(1)
def _grain() -> np.ndarray:
    """Return smooth noise that repeats every 48 voxels: (49, 49, 49, 2) uint8, mean 128, standard deviation 32."""
    noise = np.random.default_rng(152).normal(size=(2, 48, 48, 48))
    noise = np.stack([ndimage.gaussian_filter(n, 1.6, mode="wrap") for n in noise], -1)
    noise = np.pad(noise, [(0, 1)] * 3 + [(0, 0)], "wrap")
    return np.rint(np.clip(128 + 32 * noise / noise.std(), 0, 255)).astype(np.uint8)


def sample(volume: np.ndarray, at: np.ndarray, channels: slice = slice(None)) -> np.ndarray:
    """Return the channels of an (X, Y, Z, C) volume at voxel coordinates (3, n), trilinear: (C, n) float32."""
    shape = np.array(volume.shape[:3])
    at = np.clip(at, 0, (shape - 1.001)[:, None]).astype(np.float32)
    whole = at.astype(np.int32)
    after = at - whole
    flat = volume.reshape(-1, volume.shape[3])
    start = (whole[0] * shape[1] + whole[1]) * shape[2] + whole[2]
    result = 0.0
    for corner in np.ndindex(2, 2, 2):
        x, y, z = (after[a] if corner[a] else 1 - after[a] for a in range(3))
        step = (corner[0] * shape[1] + corner[1]) * shape[2] + corner[2]
        result = result + flat[start + step, channels] * (x * y * z)[:, None]
    return result.T


def _noise(at: np.ndarray, millimetres: float, origin: np.ndarray) -> np.ndarray:
    """Return two smooth noises at MNI millimetres (3, n), mean 0, standard deviation 1, of about this grain."""
    return sample(_grain(), ((at / millimetres + origin[:, None]) * 1.6) % 48) / 32 - 4


@lru_cache(1)
def _seats() -> dict[str, np.ndarray]:
    """Return where tumours may start, in MNI millimetres (n, 3): deep white matter, the convexity, the base."""
    coarse = head()[::4, ::4, ::4].astype(np.float32)
    at = np.moveaxis(np.indices(coarse.shape[:3]), 0, -1) * 4.0 + ORIGIN
    depth = coarse[..., DEPTH] / 4 - 24
    deep = (coarse[..., WHITE] > 215) & (depth < -12) & (at[..., 2] > -20) & (np.abs(at[..., 0]) > 8)
    outer = (np.abs(depth) < 2) & (at[..., 2] > 0)
    base = (np.abs(depth) < 2) & (at[..., 2] < 0) & (at[..., 2] > -50)
    return {"deep": at[deep], "outer": at[outer], "base": at[base]}


@lru_cache(4)
def person(seed: tuple[int, ...], label: str) -> SimpleNamespace:
    """Return a made-up person with or without (`NO_TUMOR`) a tumour, in MNI millimetres: what `scan` takes."""
    rng = np.random.default_rng(seed)
    waves = rng.normal(size=(4, 3))
    waves *= (2 * np.pi / rng.uniform(70, 150, 4) / np.linalg.norm(waves, axis=1))[:, None]
    side = float(rng.choice([-1, 1]))
    kind, radius = rng.random(), rng.uniform(8, 21)
    rough, bright = rng.uniform(0.04, 0.10), rng.uniform(0.55, 0.92)
    shape = rng.uniform(0.85, 1.2, 3)
    if label == "meningioma" and 0.6 <= kind < 0.82:  # on the falx
        centre = np.array([side * radius * 0.5, rng.uniform(-75, 45), rng.uniform(38, 58)])
        centre[2] -= abs(centre[1] + 15) * 0.25
    elif label == "meningioma":
        if kind < 0.6:
            seat = rng.permutation(_seats()["outer"])[0]
        else:
            base = np.array(rng.permutation(SKULL_BASE)[0]) * [side, 1, 1] + rng.normal(0, 3, 3)
            seat = min(_seats()["base"], key=lambda at: np.linalg.norm(at - base))
            radius *= 0.8
        inward, side = MIDDLE - seat, 0.0
        centre = seat + inward / np.linalg.norm(inward) * radius * 0.45
    elif label == "glioma":
        centre, radius, rough = rng.permutation(_seats()["deep"])[0], rng.uniform(9, 24), rng.uniform(0.16, 0.34)
        bright = rng.uniform(0.5, 0.95)
    elif label == "pituitary":
        radius, bright = rng.uniform(5.5, 15), rng.uniform(0.5, 0.85)
        centre = np.array([rng.normal(0, 1.5), 4 + rng.normal(0, 1.5), -35 + 0.8 * radius])
        shape = np.array([1.0, 0.85, 1.05])
    else:
        centre, radius = rng.normal(0, [28, 34, 22]) + MIDDLE, 0.0
    return SimpleNamespace(
        scale=rng.normal(1.0, 0.035, 3).clip(0.92, 1.08),
        waves=waves.astype(np.float32),
        phases=rng.uniform(0, 2 * np.pi, 4).astype(np.float32),
        shifts=rng.normal(0, 1.6, (3, 4)).astype(np.float32),
        scalp=rng.uniform(4, 8),
        skull=rng.uniform(5, 8),
        marrow=rng.uniform(0.2, 0.6),
        atrophy=rng.uniform(0, 1),
        texture=rng.uniform(0, 30, 3).astype(np.float32),
        label=label,
        centre=centre.astype(np.float32),
        radii=(radius * shape).astype(np.float32),
        rough=rough,
        bright=bright,
        style=rng.random(),
        rim=rng.uniform(2.5, 5),
        core=rng.uniform(0.10, 0.26),
        oedema=rng.uniform(4, 16) * (label == "glioma" or rng.random() < 0.35),
        side=side,
    )


def outside(anatomy: SimpleNamespace, at: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return millimetres, about, from the tumour's surface at MNI millimetres (3, n); negative inside."""
    way = at - anatomy.centre[:, None]
    direction = way / np.maximum(np.linalg.norm(way, axis=0), 1e-3)
    # Noise of the direction alone: however rough, the tumour stays in one piece.
    coarse, fine = _noise(direction * 10, 5, anatomy.texture)
    radius = 1 + anatomy.rough * np.clip(coarse + 0.5 * fine, -2.2, 2.2)
    result = (np.linalg.norm(way / anatomy.radii[:, None], axis=0) - radius) * anatomy.radii.min()
    if anatomy.label == "meningioma":
        result = np.maximum(result, depth - 2.2)
        if anatomy.side:
            result = np.maximum(result, 1 - anatomy.side * at[0])
    if anatomy.label == "glioma":
        result = np.maximum(result, np.maximum(depth + 1.5, 1.5 - np.sign(anatomy.centre[0]) * at[0]))
    return result.astype(np.float32)


def scan(
    anatomy: SimpleNamespace, hospital: str, plane: str, size: int, tilt, enhancement: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return a slice through a person's tumour, as a hospital scans it, and the tumour in it.

    Args:
        anatomy, hospital, plane: what `person` returned, one of `SCANNERS`, one of `PLANES`.
        size: the slice's side in pixels.
        tilt: degrees by which the head is turned about the three axes.
        enhancement: of vessels and dura by contrast agent, about 1.
    """
    scanner, cut = SCANNERS[hospital], PLANES[plane]
    turn = Rotation.from_euler("XYZ", tilt + rng.normal(0, 2, 3), degrees=True).as_matrix()
    down, right = turn @ cut.down, turn @ cut.right
    normal = np.cross(down, right)
    target = _from_template(anatomy, anatomy.centre)
    field = rng.uniform(*scanner.field) * cut.wider
    middle = np.array(cut.middle) + rng.normal(0, 3, 3)
    middle = middle + normal * ((target - middle) @ normal)
    grid = (np.arange(size) + 0.5) / size - 0.5
    inside = middle[:, None, None] + field * (down[:, None, None] * grid[:, None] + right[:, None, None] * grid)
    flat = inside.reshape(3, -1).astype(np.float32)
    image, mask = np.zeros(flat.shape[1], np.float32), np.zeros(flat.shape[1], bool)
    reach = float(anatomy.radii.min()) * rng.uniform(-0.65, 0.65)
    away = None
    for part in (1.0, 0.5, 0.0):  # nearer to the tumour's centre, until enough of it is seen
        at = _to_template(anatomy, flat + (normal * reach * part).astype(np.float32)[:, None])
        near = np.clip(at - ORIGIN[:, None], 0, np.array(SHAPE)[:, None] - 1).astype(np.int32)
        shown = head()[(*near, SKIN)] < 4 * (40 + 3)
        at = at[:, shown]
        channels = sample(head(), at - ORIGIN[:, None])
        if anatomy.label == NO_TUMOR:
            break
        away = outside(anatomy, at, channels[DEPTH] / 4 - 24)
        if (away <= 0).sum() >= 12:
            break
    image[shown] = _look(anatomy, at, channels, away, enhancement, scanner)
    if away is not None:
        mask[shown] = away <= 0
    return _acquire(image.reshape(size, size), scanner, rng), mask.reshape(size, size)


def _to_template(anatomy: SimpleNamespace, at: np.ndarray) -> np.ndarray:
    waves = np.sin(anatomy.waves @ at + anatomy.phases[:, None])
    scaled = (at - MIDDLE[:, None]) / anatomy.scale[:, None] + MIDDLE[:, None]
    return (scaled + anatomy.shifts @ waves).astype(np.float32)


def _from_template(anatomy: SimpleNamespace, point: np.ndarray) -> np.ndarray:
    at = point.astype(np.float32)[:, None]
    for _ in range(12):
        at = at + (point[:, None] - _to_template(anatomy, at))
    return at[:, 0]


def _step(x: np.ndarray) -> np.ndarray:
    return np.clip(x + 0.5, 0, 1)


def _over(below, value, alpha):
    return below + alpha * (value - below)


def _look(anatomy: SimpleNamespace, at, channels, away, enhancement: float, scanner: SimpleNamespace) -> np.ndarray:
    """Return brightness, 0 to about 1, of a slice's points as a T1-weighted scan with contrast agent shows them."""
    depth, skin = channels[DEPTH] / 4 - 24, channels[SKIN] / 4 - 40
    if away is not None:
        # A tumour takes its place by pushing the brain aside: points near it show what was nearer its centre.
        way = at - anatomy.centre[:, None]
        far = np.maximum(np.linalg.norm(way / anatomy.radii[:, None], axis=0), 1)
        pushed = anatomy.centre[:, None] + way * np.cbrt(1 - 0.55 / far**3)
        channels[: WHITE + 1] = sample(head(), pushed - ORIGIN[:, None], slice(WHITE + 1))
    t1, white, face, vessel = (channels[c] / 255 for c in (T1, WHITE, FACE, VESSEL))
    grain, dots = _noise(at, 3.5, anatomy.texture)

    inner, outer = 2.6, 2.6 + anatomy.skull
    image = _over(face, 0.92 + 0.05 * grain, _step(skin + anatomy.scalp))
    image = _over(image, 0.60, _step(skin + 1.5))
    image = _over(image, 0.05, _step(outer - depth))
    image = _over(image, anatomy.marrow + 0.06 * grain, _step(outer - 1.8 - depth) * _step(depth - inner - 1.6))
    image = _over(image, 0.30 + 0.30 * enhancement, _step(inner - depth))
    image = _over(image, 0.12, _step(inner - 0.9 - depth))
    known = [0, 0.2, 0.36 + 0.08 * anatomy.atrophy, 0.65, 0.87, 1]
    levels = np.interp(t1, known, [0, 0.11, 0.13, scanner.grey, scanner.white, scanner.white + 0.02])
    image = _over(image, levels + 0.008 * grain, np.clip(t1 / 0.2, 0, 1) * _step(2 - depth))
    sulcus = np.clip((0.62 - t1) * 6, 0, 1) * _step(1.5 - depth) * _step(depth + 14)
    image = _over(image, 0.75 * enhancement, np.clip(dots - 1.5, 0, 1) * sulcus)
    midline = np.abs(at[0])
    falx = np.clip(1.2 - midline, 0, 1) * _step(depth + 26) * _step(1 - depth) * _step(at[2] - 18 + 0.2 * at[1])
    image = _over(image, 0.55 * enhancement, falx)
    sinus = _step(3.8 - midline - 0.4 * np.abs(depth - 3))
    sinus = sinus * _step(5 - depth) * _step(depth + 1.5) * _step((at[2] - 5) / 4)
    image = _over(image, 0.95 * enhancement, sinus)
    image = _over(image, 0.95 * enhancement, vessel)
    image = image * _step(-skin)
    return image if away is None else _with_tumour(image, anatomy, at, away, white, depth)


def _with_tumour(image, anatomy: SimpleNamespace, at, away, white, depth) -> np.ndarray:
    mottle, edge = _noise(at, 4.5, anatomy.texture + 7)
    swollen = np.clip((anatomy.oedema + 3 * edge - away) / 5, 0, 1) * (anatomy.oedema > 0)
    swollen = swollen * (0.25 + 0.75 * white) * _step(-1 - depth)
    image = image * (1 - 0.38 * swollen)
    bright, core = anatomy.bright, anatomy.core
    if anatomy.label == "glioma":
        if anatomy.style < 0.6:
            wall = _step((away + (anatomy.rim + 0.8 * mottle)) / 1.5)
            value = core + 0.03 * edge + (bright - core) * wall * (1 + 0.12 * edge)
        elif anatomy.style < 0.85:
            value = _over(0.30, bright, np.clip(0.45 + 0.6 * mottle, 0, 1))
        else:
            value = 0.22 + 0.04 * mottle + 0.25 * bright * np.clip(edge - 1, 0, 1)
    elif anatomy.label == "pituitary":
        hollow = np.clip(mottle - 0.4, 0, 1) if anatomy.style < 0.3 else 0.0
        value = bright * (1 + 0.05 * edge) * (1 - 0.5 * hollow)
    else:
        image = _over(image, 0.14, np.clip(1 - np.abs(away - 1) / 1.2, 0, 1) * _step(-1 - depth))
        image = _over(image, bright, np.clip(1 - away / 12, 0, 1) * _step(1.2 - np.abs(depth - 1.5)))
        hollow = np.clip(mottle - 1.2, 0, 1) if anatomy.style < 0.25 else 0.0
        value = bright * (1 + 0.04 * edge) * (1 - 0.5 * hollow)
    return _over(image, value, _step(-away))


def _acquire(image: np.ndarray, scanner: SimpleNamespace, rng: np.random.Generator) -> np.ndarray:
    """Return what a scanner makes of a slice: blur, uneven coil, Rician noise, a window of 8 bits."""
    size = image.shape[0]
    blur, sigma = rng.uniform(*scanner.blur), rng.uniform(*scanner.noise)
    image = ndimage.gaussian_filter(image, blur * size / 192)
    v, u = np.ogrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    a, b, c = rng.normal(0, [0.12, 0.12, scanner.coil])
    image = image * np.exp(a * u + b * v + c * (u**2 + v**2))
    noise = rng.normal(0, sigma, (2, size, size))
    image = np.hypot(image + noise[0], noise[1])
    image = image / np.percentile(image, rng.uniform(98.5, 99.7))
    return np.rint(255 * np.clip(image, 0, 1) ** rng.uniform(*scanner.gamma)).astype(np.uint8)
