"""Files that are whole or not there, and many of them at a time: every writer of the study goes through here."""

import glob
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

AHEAD = 1024


@contextmanager
def replacing(path: Path):
    """Give a temporary path beside `path` to write to; on success it takes the place of `path`, else it is gone.

    Args:
        path: the file to write. Its folder is made. What was there stays until the new file is complete and synced.

    Raises:
        OSError: the folder cannot be written or the disk is full; the message names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, path.stem)
    handle, name = tempfile.mkstemp(prefix=prefix(path.stem), suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, name):
            raise OSError(error.errno, os.strerror(error.errno) if error.errno else str(error), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


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


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def spread(function: Callable, items: Sequence, share: int = 150) -> Iterator:
    """Yield a function's result for each item, in the items' order, computed on all cores.

    In processes, not threads: decoding a slice is a hundred short calls, and two threads that hand Python's lock to and
    fro were no faster than one. Few items are worked on in this process, as starting others takes a second.

    Args:
        function: of one item; it, the items and the results are pickled. It sees this process's environment as it was
            when the first call here began.
        items: such as file names.
        share: fewest items that are worth a process.

    Raises:
        Whatever the function raised first, in the order of the items.
    """
    import joblib

    processes = max(1, min(os.cpu_count() or 1, len(items) // share))
    with joblib.Parallel(processes, return_as="generator", batch_size=16) as work:
        for first in range(0, len(items), AHEAD):  # results wait in memory for a slow reader; so many at most
            yield from work(joblib.delayed(function)(item) for item in items[first : first + AHEAD])


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
