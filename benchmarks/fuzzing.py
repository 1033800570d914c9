"""Mutated slices, pictures and parameter files, and a process that reads them: for benchmarks/torture.py and its short versions."""

import contextlib
import io
import multiprocessing
import re
import resource
import shutil
import struct
import sys
import tempfile
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from btlib import DataError, ParamsError, params
from btlib.data import preprocessing

MEMORY_MB = 2000
SECONDS = 5
HOW = params.Preprocessing(image_size=64, crop_to_head=True, low_percentile=0.5, high_percentile=99.5)


def figure(measured: str, value, at_most=None, at_least=None, equals=None) -> dict:
    """One figure of a line; without a bound it is told and not judged."""
    allowed, holds = "", ""
    if at_most is not None:
        allowed, holds = f"at most {at_most:g}", value <= at_most
    if at_least is not None:
        allowed, holds = f"at least {at_least:g}", value >= at_least
    if equals is not None:
        allowed, holds = f"{equals}", value == equals
    return {
        "measured": measured,
        "value": value,
        "allowed": allowed,
        "holds": {True: "yes", False: "no"}.get(holds, ""),
    }


class Worker:
    """A process that reads one mutated file after another, so that a crash, a hang or a leak is seen from outside."""

    def __init__(self, kind: str, seed: int, folder: Path, patience: float = 60):
        self.given, self.patience = (kind, seed, folder), patience
        self.process = None

    def ask(self, number: int) -> dict:
        """Have file `number` read; a worker that dies or is silent for `patience` seconds is replaced."""
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.pipe, other = context.Pipe()
            self.process = context.Process(target=_work, args=(other, *self.given), daemon=True)
            self.process.start()
            other.close()
            self.pipe.recv()
        self.pipe.send(number)
        try:
            if self.pipe.poll(self.patience):
                return self.pipe.recv()
            outcome = "hung"
        except (EOFError, ConnectionError):
            outcome = "crashed"
        self.close()
        return {"outcome": outcome, "told": f"file {number}", "seconds": self.patience, "mb": 0.0, "what": ""}

    def close(self):
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


def _work(pipe, kind, seed, folder):
    # Twice what is allowed: who asks for more dies of it, who merely uses more is measured.
    resource.setrlimit(resource.RLIMIT_AS, (4 * MEMORY_MB * 2**20, resource.RLIM_INFINITY))
    warnings.simplefilter("ignore")
    make, read, allowed = FUZZ[kind]
    folder.mkdir(parents=True, exist_ok=True)
    make(np.random.default_rng(0), folder)  # what is imported and cached once is no file's doing
    pipe.send("ready")
    while True:
        number = pipe.recv()
        rng = np.random.default_rng([seed, number])
        for old in folder.iterdir():
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        what, name = make(rng, folder)
        begun, outcome, told = time.process_time(), "read", ""
        try:
            read(folder)
        except allowed as error:
            told = str(error)
            outcome = "refused" if _names(told, name) else "refused without a name"
        except BaseException as error:
            outcome, told = "another exception", f"{type(error).__name__}: {error}"
        pipe.send(
            {
                "outcome": outcome,
                "told": told[:300],
                "seconds": time.process_time() - begun,
                "mb": peak_mb(),
                "what": what,
            }
        )


def peak_mb() -> float:
    """The most main memory that this process has held. Linux's getrusage counts its parent's too, before the exec."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)


def _names(told: str, name: str) -> bool:
    """Whether a message names the file, and for a parameter file also the key or that it is no mapping."""
    if not name.endswith(".yaml"):
        return name in told
    rest = told.partition(name)[2]
    first = [line.strip().split(":")[0] for line in rest.lstrip(":").strip().splitlines()[:1]]
    keyed = bool(first) and bool(first[0]) and " " not in first[0].split("[")[0].split(".")[0]
    return bool(rest) and (keyed or "YAML" in rest or "allowed: a mapping" in rest)


def fuzz(kind: str, n: int, seed: int, verbose: bool = True) -> list[dict]:
    """Have n mutated files of a kind read in another process; return the figures."""
    rows, worst = [], {}
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(kind, seed, Path(folder, "f"))
        for number in range(n):
            row = worker.ask(number)
            rows.append(row)
            if verbose and (row["outcome"] not in ("read", "refused") or row["seconds"] > SECONDS):
                print(kind, number, row, flush=True)
            if row["mb"] > worst.get("mb", 0) + 50:
                worst = row
                if verbose and row["mb"] > 800:
                    print(kind, number, "memory", row, flush=True)
        worker.close()
    table = pd.DataFrame(rows)
    count = table["outcome"].value_counts()
    error = "ParamsError that names file and key" if kind == "parameters" else "DataError that names the file"
    wrong = n - int(count.get("read", 0)) - int(count.get("refused", 0))
    return [
        figure(f"mutated {NAMES[kind]}", n),
        figure("read" if kind != "parameters" else "valid", int(count.get("read", 0))),
        figure(f"refused with a {error}", int(count.get("refused", 0))),
        figure("other exceptions, crashes or hangs", wrong, at_most=0),
        figure("longest, s of CPU", round(float(table["seconds"].max()), 2), at_most=SECONDS),
        figure("most memory of the reading process, MB", round(table["mb"].max()), at_most=MEMORY_MB),
    ]


def spoil(data: bytes, rng) -> bytes:
    """Flip, overwrite, cut, repeat or drop bytes; half of the places lie near the front, where the structure is."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        if not data:
            break
        at = int(rng.integers(len(data) if rng.random() < 0.5 else min(len(data), 4096)))
        kind = int(rng.integers(7))
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at] = int(rng.integers(256))
        elif kind == 2:
            data[at : at + 8] = rng.bytes(8)
        elif kind == 3:
            some = (b"\xff\xff\xff\x7f", b"\xff" * 8, b"\x00" * 4, b"\x00\x00\x00\x80", b"\x01\x00\x00\x00")
            piece = some[int(rng.integers(len(some)))]
            data[at : at + len(piece)] = piece
        elif kind == 4:
            length = int(rng.integers(1, 200))
            data[at:at] = data[at : at + length]
        elif kind == 5:
            del data[at : at + int(rng.integers(1, 200))]
        elif rng.random() < 0.5:
            del data[at:]
    return bytes(data)


def slice_picture(rng, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[:height, :width]
    head = ((rows / height - 0.5) ** 2 + (columns / width - 0.5) ** 2) < 0.18
    mask = ((rows / height - 0.4) ** 2 + (columns / width - 0.6) ** 2) < 0.01
    image = (head * 300 + mask * 200 + rng.integers(0, 60, (height, width))).astype(np.int16)
    return image, mask


def make_mat(rng, folder: Path) -> tuple[str, str]:
    """Write one mutated slice as 1.mat (or as cvind.mat beside a good one); say what was done to it."""
    image, mask = slice_picture(rng, *(int(n) for n in rng.integers(40, 160, 2)))
    form = str(rng.choice(["7.3", "7.3", "7.3 plain", "folds"]))
    path = folder / ("cvind.mat" if form == "folds" else "1.mat")
    what = write_hdf5(path, image, mask, rng, form)
    if what == "as it is" or rng.random() < 0.5:
        path.write_bytes(spoil(path.read_bytes(), rng))
        what += ", bytes spoilt"
    if form == "folds":
        write_hdf5(folder / "2.mat", image, mask, rng, "7.3", whole=True)
    return f"{form}: {what}", path.name


def write_hdf5(path: Path, image, mask, rng, form: str, whole: bool = False) -> str:
    import h5py

    fields = {
        "PID": np.array([[ord(c)] for c in "MR040240B"], np.uint16),
        "image": image.T,
        "label": np.array([[float(rng.integers(1, 4))]]),
        "tumorMask": mask.T.astype(np.uint8),
    }
    prefix = "cjdata/"
    if form == "folds":
        fields, prefix = {"cvind": np.array([rng.integers(1, 6, 90)], float)}, ""
    packed = {} if form == "7.3 plain" else {"chunks": (16, 16), "compression": "gzip"}
    what = "as it is"
    with h5py.File(path, "w", userblock_size=512) as file:
        for key, value in fields.items():
            file.create_dataset(prefix + key, data=value, **(packed if value.size > 100 else {}))
        if not whole and rng.random() < 0.5:
            key = str(rng.choice(list(fields)))
            what = f"{key} {_restructure(file, prefix + key, fields[key], rng)}"
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return what


def _restructure(file, key: str, value: np.ndarray, rng) -> str:
    """Replace one dataset of an HDF5 file by something that is no such dataset."""
    import h5py

    parent = file[key].parent
    del file[key]
    rows, columns = value.shape

    def huge(**more):
        side = int(rng.choice([4096, 20_000, 30_000, 1_000_000, 2**40]))
        file.create_dataset(key, (side, side), rng.choice(["f8", "u1", "i2"]), **more)

    def bomb():
        data = file.create_dataset(key, (64, 64), "i2", chunks=(64, 64), compression="gzip")
        data.id.write_direct_chunk((0, 0), zlib.compress(bytes(30 << 20), 9))

    def group_in_itself():
        file.create_group(key)
        file[f"{key}/again"] = file[key]

    made = {
        "removed": lambda: None,
        "group": lambda: file.create_group(key),
        "group in itself": group_in_itself,
        "number": lambda: file.create_dataset(key, data=3.0),
        "empty": lambda: file.create_dataset(key, (0, 5), "f8"),
        "null": lambda: file.create_dataset(key, data=h5py.Empty("f8")),
        "3-D": lambda: file.create_dataset(key, (20, 20, 3), "f8"),
        "32-D": lambda: file.create_dataset(key, (1,) * 32, "f8"),
        "text": lambda: file.create_dataset(key, data="x" * 1000),
        "texts": lambda: file.create_dataset(key, (40, 40), h5py.string_dtype()),
        "ragged": lambda: file.create_dataset(key, (40, 40), h5py.vlen_dtype("i4")),
        "references": lambda: file.create_dataset(key, (40, 40), h5py.ref_dtype),
        "compound": lambda: file.create_dataset(key, (40, 40), [("a", "f8"), ("b", "i4")]),
        "arrays": lambda: file.create_dataset(key, (40, 40), np.dtype("(3,)f4")),
        "enum": lambda: file.create_dataset(key, value.shape, h5py.enum_dtype({"A": 0, "B": 1}, basetype="i1")),
        "complex": lambda: file.create_dataset(key, data=value * 1j),
        "other type": lambda: file.create_dataset(key, data=value.astype(rng.choice([">f8", "f2", "u8", "g", "?"]))),
        "turned": lambda: file.create_dataset(key, data=value.T),
        "flat": lambda: file.create_dataset(key, data=value.ravel()),
        "other size": lambda: file.create_dataset(key, (rows + 7, columns), "i2"),
        "not finite": lambda: file.create_dataset(key, data=np.full(value.shape, np.inf)),
        "extreme": lambda: file.create_dataset(key, data=np.where(value % 2, 1e308, -1e308)),
        "huge, never written": huge,
        "huge, in chunks": lambda: huge(chunks=(64, 64), compression="gzip"),
        "huge chunks": lambda: huge(chunks=(4096, 4096)),
        "growing": lambda: file.create_dataset(key, data=value, maxshape=(None, None), chunks=(1, 1)),
        "lzf": lambda: file.create_dataset(key, data=value, chunks=(min(8, rows), 1), compression="lzf"),
        "bomb": bomb,
        "link elsewhere": lambda: parent.__setitem__(key.split("/")[-1], h5py.ExternalLink("/etc/passwd", "/x")),
        "link to itself": lambda: parent.__setitem__(key.split("/")[-1], h5py.SoftLink(f"/{key}")),
        "pixels elsewhere": lambda: file.create_dataset(key, (40, 40), "u1", external=[("/etc/passwd", 0, 1600)]),
    }
    what = str(rng.choice(list(made)))
    with contextlib.suppress(ValueError, TypeError, OSError):  # some do not exist for every field
        made[what]()
    return what


def read_mat(folder: Path) -> None:
    """What a study does with a folder of slices: list, read, prepare, ask for the author's folds."""
    from btlib.data import figshare

    figshare.folds(folder)
    for name in figshare.manifest(folder)["path"]:
        preprocessing.prepare(*figshare.read(folder, name), HOW)


def make_picture(rng, folder: Path) -> tuple[str, str]:
    """Write one mutated picture into a class folder; say what was done to it."""
    from PIL import Image

    grey, _ = slice_picture(rng, *(int(n) for n in rng.integers(20, 120, 2)))
    grey = (grey // 3).clip(0, 255).astype(np.uint8)
    mode = str(rng.choice(["L", "RGB", "RGBA", "P", "1", "I;16", "CMYK", "LA"]))
    kind = str(
        rng.choice({"I;16": ["PNG"], "CMYK": ["JPEG"], "P": ["PNG"], "1": ["PNG"]}.get(mode, ["JPEG", "PNG", "WEBP"]))
    )
    if kind == "JPEG" and mode in ("RGBA", "LA"):
        mode = "RGB"
    picture = Image.fromarray(grey.astype(np.uint16) * 200) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = int(rng.integers(0, 12))
    more = {"PNG": {"optimize": bool(rng.integers(2))}, "JPEG": {"progressive": bool(rng.integers(2))}, "WEBP": {}}[
        kind
    ]
    if kind == "WEBP" and rng.random() < 0.3:
        more = {"save_all": True, "append_images": [picture.copy()]}
    stream = io.BytesIO()
    picture.save(stream, kind, exif=exif, **more)
    data, what = stream.getvalue(), "as it is"
    if kind == "PNG" and rng.random() < 0.4:
        data, what = _rechunk(data, rng)
    if rng.random() < 0.05:
        other = str(rng.choice(["GIF", "TIFF", "BMP", "PPM"]))
        stream = io.BytesIO()
        Image.fromarray(grey).save(stream, other)
        data, what = stream.getvalue(), f"really a {other}"
    if what == "as it is" or rng.random() < 0.5:
        data, what = spoil(data, rng), f"{what}, bytes spoilt"
    name = f"m{rng.choice(['.png', '.jpg', '.webp', '.JPEG'])}"
    (folder / "glioma_tumor").mkdir(exist_ok=True)
    (folder / "glioma_tumor" / name).write_bytes(data)
    return f"{kind} {mode}: {what}", name


def _rechunk(data: bytes, rng) -> tuple[bytes, str]:
    """Change a PNG's header or the order of its chunks, with checksums that are right."""
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + length]])
        at += 12 + length
    what = str(rng.choice(["size", "depth", "shuffled", "doubled", "text bomb"]))
    if what == "size":
        side = [int(rng.choice([0, 1, 50, 3000, 7999, 60_000, 2**31 - 1])) for _ in "wh"]
        chunks[0][1] = struct.pack(">II", *side) + chunks[0][1][8:]
    elif what == "depth":
        chunks[0][1] = chunks[0][1][:8] + rng.bytes(5)
    elif what == "shuffled":
        chunks = [chunks[int(i)] for i in rng.permutation(len(chunks))]
    elif what == "doubled":
        chunks.insert(int(rng.integers(len(chunks))), chunks[int(rng.integers(len(chunks)))])
    else:
        chunks.insert(1, [b"zTXt", b"x\x00\x00" + zlib.compress(bytes(80 << 20), 9)])
    packed = [struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks]
    return data[:8] + b"".join(packed), what


def read_picture(folder: Path) -> None:
    """What a study does with class folders of pictures: list, read, prepare."""
    from btlib.data import folders

    for name in folders.manifest(folder, {"glioma_tumor": "glioma"})["path"]:
        preprocessing.prepare(*folders.read(folder, name), HOW)


WEIRD = [
    None,
    True,
    -1,
    0,
    1,
    10**30,
    1e308,
    float("nan"),
    float("-inf"),
    "",
    "x",
    "\x00",
    "a: b",
    [],
    [[]],
    {},
    {"a": 1},
]
WEIRD += [[None], "../x", "$(touch pwned)", ["x"] * 50, {1: 2}, {"": {}}, "é" * 300, "2024-13-45", 0.5, "1e3", [0, 0]]
TEXTS = [
    "seed: 2024-13-45",
    "seed: " + "9" * 5000,
    "seed: 0x" + "f" * 5000,
    "profile: " + "[" * 3000,
    "profile: " + "{a: " * 3000,
    "profile: !!python/object/apply:os.system [touch pwned]",
    "profile: !!binary x",
    "profile: !!set {a}",
    "profile: !!float x",
    "profile: !!int x",
    "profile: !!timestamp 2001-01-01T99:99:99",
    "profile: *nowhere",
    "profile: &a [*a]",
    "? [a, b]\n: c",
    "1: 2",
    "~: 2",
    "seed: 1\nseed: 2",
    "<<: 3",
    "<<: {profile: quick}",
    "\tseed: 1",
    "--- \n--- \nseed: 1",
    "%YAML 9.9\n---\nseed: 1",
    "a: &a ["
    + "x, " * 9
    + "]\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [" + f"*{chr(97 + i)}, " * 9 + "]\n" for i in range(9))
    + "profile: *j",
]


def make_parameters(rng, folder: Path) -> tuple[str, str]:
    """Write one mutated parameter file, spoilt as text or with a key or value changed."""
    name = str(rng.choice(["quick", "figshare", "paper"]))
    text = (params.PARAMS_DIR / f"{name}.yaml").read_text(encoding="utf-8")
    text = text.replace(f"profile: {name}", "profile: mutated")  # a file's name is its profile
    path = folder / "mutated.yaml"
    kind = str(rng.choice(["bytes", "lines", "text", "value", "value", "value", "key"]))
    if kind == "bytes":
        path.write_bytes(spoil(text.encode(), rng))
        return f"{name}: bytes spoilt", path.name
    if kind == "lines":
        lines = text.splitlines()
        for _ in range(int(rng.integers(1, 4))):
            at, other = (int(n) for n in rng.integers(len(lines), size=2))
            how = int(rng.integers(4))
            lines[at] = [lines[other], "", "  " + lines[at], lines[at].strip()][how]
        path.write_text("\n".join(lines), encoding="utf-8")
        return f"{name}: lines moved", path.name
    if kind == "text":
        what = TEXTS[int(rng.integers(len(TEXTS)))]
        path.write_text(text + what + "\n" if rng.random() < 0.5 else what + "\n", encoding="utf-8")
        return f"{name}: {what[:40]}", path.name
    given = yaml.safe_load(text)
    places = list(_places(given))
    parent, key = places[int(rng.integers(len(places)))]
    if kind == "value":
        parent[key] = WEIRD[int(rng.integers(len(WEIRD)))]
    elif isinstance(parent, dict):
        value = parent.pop(key)
        if rng.random() < 0.6:
            parent[str(key)[::-1] if rng.random() < 0.5 else str(key) + "s"] = value
    else:
        parent.append(parent[key])
    path.write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
    return f"{name}: {key} {kind}", path.name


def _places(node):
    """Every key of every mapping and every place of every list, with what holds it."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield node, key
        yield from _places(value)


def read_parameters(folder: Path) -> None:
    """Read a parameter file by each of the ways that lead to a study."""
    study = params.load(folder / "mutated.yaml")
    assert params.from_mapping(study.model_dump(context=params.WHOLE)) == study


FUZZ = {
    "slices": (make_mat, read_mat, DataError),
    "pictures": (make_picture, read_picture, DataError),
    "parameters": (make_parameters, read_parameters, ParamsError),
}
NAMES = {"slices": ".mat files", "pictures": "pictures", "parameters": "parameter files"}
