"""Two virtual CPU devices share each batch: the same losses as one device, within rounding."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from btlib import ParamsError, params
from btlib.fitting import training

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import os, sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
sys.path.insert(0, "tests")
from conftest import toy
from btlib import params
from btlib.fitting import training
from btlib.models import registry as models
models.REGISTRY["toy"] = models.Backbone(toy, (1 / 127.5, -1.0), "top_activation", r"^(block\\d)_", {})
study = params.load(sys.argv[1])
for how in ("none", "data_parallel"):
    os.environ["BTLIB_HOME"] = os.path.join(sys.argv[2], how)
    print(training.find(study.model_copy(update={"distribution": how}), "toy", "image_holdout").folder)
"""


def test_batches_are_not_shared_out_on_jax(monkeypatch):
    monkeypatch.setattr(training.keras.config, "backend", lambda: "jax")
    with pytest.raises(ParamsError, match="distribution: got 'data_parallel'; allowed with KERAS_BACKEND=jax: none"):
        training.shared_out("data_parallel", 32).__enter__()


def test_two_devices_give_the_losses_of_one(study, home):
    given = study.model_dump()
    # Each device draws the same random numbers for its part of the batch: nothing random here.
    given["recipes"]["scratch"]["augment"], given["head"]["dropout"] = False, 0.0
    params.write(study.model_validate(given), home / "tiny.yaml")
    for how in ("none", "data_parallel"):
        (home / how).mkdir()
        (home / how / "data").symlink_to(home / "data")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM, str(home / "tiny.yaml"), str(home)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    folders = [Path(line) for line in done.stdout.strip().splitlines()[-2:]]
    one, two = (pd.read_csv(folder / "history.csv") for folder in folders)
    assert folders[0].name == folders[1].name, "how a fit was shared out is no part of what it is"
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=2e-3)
    np.testing.assert_allclose(two["val_loss"], one["val_loss"], rtol=2e-2)
    assert '"devices": 2' in (folders[1] / "provenance.json").read_text()


def test_a_batch_that_cannot_be_shared_out_is_refused(monkeypatch):
    monkeypatch.setattr("tensorflow.config.list_logical_devices", lambda kind: [object()] * 2)
    with pytest.raises(ParamsError, match="got 5; allowed with 2 devices: a multiple of 2"):
        training.shared_out("data_parallel", 5).__enter__()
