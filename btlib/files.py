"""Files that are whole or not there, and many of them at a time: every writer of the study goes through here."""

import ast
import errno
import functools
import glob
import json
import os
import platform
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import psutil

from btlib import DataError

AHEAD = 1024
MAX_BYTES = 64 * 2**20
"""The largest file that is read as a slice: far more than one has."""

STRAY = ("$recycle.bin", "@eadir", "__macosx", "desktop.ini", "ehthumbs.db", "lost+found", "thumbs.db")
"""Names, in small letters, that systems leave in people's folders."""


@contextmanager
def replacing(path: Path):
    """Give a temporary path beside `path`, whose folder is made; once complete and synced it takes the place of `path`, else it is gone.

    Raises:
        OSError: the folder cannot be written or the disk is full; the message names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, path.stem)
    temporary = path.with_name(f"{prefix(path.stem)}{os.urandom(4).hex()}{path.suffix}")
    try:
        with naming(path, instead_of=str(temporary)):
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path, instead_of: str | None = None):
    """Let an OSError that names no file, as that of a full disk, name this one; or one that names `instead_of`."""
    try:
        yield
    except OSError as error:
        if error.filename not in (None, instead_of):
            raise
        raise OSError(error.errno, os.strerror(error.errno) if error.errno else str(error), str(path)) from error


def check_writable(path: Path) -> None:
    """Stop before long work whose result `replacing` could not write to this file.

    Raises:
        OSError: it is a folder, or its folder cannot be made or written; the message names it.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder; allowed: a file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(errno.EACCES, "its folder cannot be written", str(path))


def prefix(stem: str) -> str:
    """Return how the name of a temporary file or folder of this process begins."""
    return f".{stem}-{platform.node()}-{os.getpid()}-"


def sweep(folder: Path, stem: str) -> None:
    """Remove the temporary files and folders that killed processes of this machine left for `stem`."""
    mine = f".{stem}-{platform.node()}-"
    for left in folder.glob(f"{glob.escape(mine)}*"):
        process = left.name.removeprefix(mine).split("-")[0]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def is_stray(name: str) -> bool:
    """Say whether a file, or a folder that it lies in, is hidden (.DS_Store, ._1.mat, ~$list) or a system's own."""
    pieces = [piece for piece in name.lower().replace("\\", "/").split("/") if piece]
    return any(piece.startswith((".", "~$")) or piece in STRAY for piece in pieces)


def listing(root: Path) -> tuple[list[str], list[str]]:
    """List the files under a folder, at any depth: sorted POSIX paths relative to it, and the stray ones (`is_stray`) apart.

    A stray folder, ending in "/", stands for all that it holds.

    Raises:
        DataError: a folder is a symbolic link or cannot be listed.
    """
    names, stray = [], []

    def stop(error: OSError):
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror})")

    for folder, inside, leaves in os.walk(root, onerror=stop):
        above = Path(folder).relative_to(root)
        stray += [f"{(above / name).as_posix()}/" for name in inside if is_stray(name)]
        inside[:] = [name for name in inside if not is_stray(name)]
        for name in inside:
            if os.path.islink(os.path.join(folder, name)):
                raise DataError(f"{Path(folder) / name}: is a symbolic link; put the folder itself there")
        for name in leaves:
            (stray if is_stray(name) else names).append((above / name).as_posix())
    return sorted(names), sorted(stray)


def leaf(name: str) -> str:
    """Return a file's own name, also where a zip file packed on Windows left "folder\\1.mat" as one name."""
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def content(root: Path, path: str) -> bytes:
    """Return the bytes of a file of a data folder, by its path below it, with "/".

    Raises:
        DataError: it is no path below `root`, a link or no file, its name is no UTF-8, it is larger than `MAX_BYTES`, or it
            cannot be read.
    """
    file = root / path
    if not path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise DataError(f"{root}: {path!r} is no path below it")
    try:
        path.encode()
        about = file.lstat()
        if os.path.realpath(file) != os.path.join(os.path.realpath(root), path) or not stat.S_ISREG(about.st_mode):
            raise DataError(f"{file}: is a link or a special file; allowed: real folders and files")
        if about.st_size > MAX_BYTES:
            raise DataError(f"{file}: is larger than {MAX_BYTES >> 20} MB, far more than a slice; remove it")
        return file.read_bytes()
    except UnicodeEncodeError:
        raise DataError(f"{root}/{path!a}: its name is not valid UTF-8; rename it") from None
    except OSError as error:
        raise DataError(f"{root}/{path}: cannot be read: {error.strerror or error}") from None


def check_unpacked(archive: Path, names: list[str], endings: tuple[str, ...], parts: int = 1) -> None:
    """Stop at a zip file in a data folder that holds what does not lie unpacked there.

    Args:
        archive: only its table of contents is read.
        names: of the files in the data folder, as `listing` returns them.
        endings: of the files that matter, in small letters.
        parts: how much of a name tells files apart: 1, itself; 2, with its folder, as where folders are classes.

    Raises:
        DataError: something is not unpacked, or the file is no zip file.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [name for name in opened.namelist() if not is_stray(name)]
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise DataError(f"{archive}: no zip file that can be read ({error}); take it away") from None
    unpacked = {leaf(name) for name in names} | {_last(name, parts) for name in names}
    left = [name for name in members if name.lower().endswith(endings) and _last(name, parts) not in unpacked]
    if left:
        raise DataError(
            f"{archive}: holds {len(left)} files that do not lie unpacked under {archive.parent} ({left[0]}); unpack it "
            "there, or take it away"
        )


def _last(name: str, parts: int) -> str:
    return "/".join(name.replace("\\", "/").split("/")[-parts:])


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def spread(function: Callable, items: Sequence, share: int = 150) -> Iterator:
    """Yield a function's result for each item, in the items' order, computed on all cores; whatever it raises first is raised.

    Args:
        function: of one item; it, the items and the results are pickled. It sees this process's environment as it was
            when the first call here began.
        items: such as file names.
        share: fewest items that are worth a process.
    """
    import joblib

    # Processes: two threads that hand Python's lock to and fro were no faster than one.

    processes = max(1, min(os.cpu_count() or 1, len(items) // share))
    with joblib.Parallel(processes, return_as="generator", batch_size=16) as work:
        for first in range(0, len(items), AHEAD):  # results wait in memory for a slow reader; so many at most
            yield from work(joblib.delayed(function)(item) for item in items[first : first + AHEAD])


def reached(*sources: Path, root: Path) -> list[Path]:
    """Return the files that decide what .py and .ipynb files do, sorted: the Snakefile runs a notebook again when one changes.

    These are the sources; each file of btlib, below `root`, that one of them imports, directly or not, at its top or within a
    function; and files of other kinds beside those (tables, styles), as modules read them.
    """
    files, waiting = set(), list(sources)
    while waiting:
        path = waiting.pop()
        if path not in files:
            files.add(path)
            waiting += [m for name in _imports(_program(path)) for m in _modules(name, root)]
    rooms = {f.parent for f in files if root / "btlib" in f.parents}
    beside = {p for room in rooms for p in room.iterdir() if p.is_file() and p.suffix != ".py"}
    return sorted(files | {p for p in beside if not p.name.startswith(".")})


def _program(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    from IPython.core.inputtransformer2 import TransformerManager  # so that magics are Python too

    cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
    return "\n".join(TransformerManager().transform_cell("".join(c["source"])) for c in cells)


@functools.cache
def _imports(program: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(program)))
    named = {f"{n.module}.{a.name}" for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names}
    return named | {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}


def _modules(name: str, root: Path) -> list[Path]:
    """The files that importing a dotted name of btlib runs: each package on the way, and the module."""
    parts = name.split(".") if name.split(".")[0] == "btlib" else []
    places = [root.joinpath(*parts[: n + 1]) for n in range(len(parts))]
    return [f for p in places for f in (p / "__init__.py", p.with_suffix(".py")) if f.is_file()]
