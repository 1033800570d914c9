"""Keras's other backend that a study may run on: the tests of fits and maps that rest on the backend, run once more on it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.mark.parametrize(
    ("file", "names", "count"),
    [
        ("test_training.py", "goes_on_to_the_same_numbers and 1.5 or renewed_statistics", 2),
        ("test_gradcam.py", "gradients_equal_finite_differences", 5),
    ],
)
def test_passes_on_jax(file, names, count):
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        str(TESTS / file),
        "-k",
        names,
    ]
    done = subprocess.run(
        words, env=os.environ | {"KERAS_BACKEND": "jax"}, capture_output=True, text=True, cwd=TESTS.parent
    )
    assert done.returncode == 0 and f"{count} passed" in done.stdout, done.stdout[-3000:] + done.stderr[-1000:]
