"""Two virtual CPU devices share each batch: the same losses as one device, within rounding."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from btlib import ParamsError, params
from btlib.fitting import distribution

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * int(sys.argv[2]))
sys.path.insert(0, "tests")
from conftest import toy
from btlib import params
from btlib.fitting import training
from btlib.models import registry as models
models.REGISTRY["toy"] = models.Backbone(toy, (1 / 127.5, -1.0), "top_activation", r"^(block\\d)_", None)
study = params.load(sys.argv[1])
run = training.find(study, "toy", "image_holdout")
print(run.folder)
"""


def test_two_devices_give_the_losses_of_one(study, tmp_path):
    given = study.model_dump()
    # Each device draws the same random numbers for its part of the batch: nothing random here.
    given["recipes"]["scratch"]["augment"], given["head"]["dropout"] = False, 0.0
    folders = []
    for devices, how in ((1, "none"), (2, "data_parallel")):
        home = tmp_path / how
        home.mkdir()
        path = home / "tiny.yaml"
        params.write(study.model_validate(given | {"distribution": how}), path)
        env = os.environ | {"BTLIB_HOME": str(home), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", PROGRAM, str(path), str(devices)]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        folders.append(Path(done.stdout.strip().splitlines()[-1]))
    one, two = (pd.read_csv(folder / "history.csv") for folder in folders)
    assert folders[0].name == folders[1].name, "how a fit was shared out is no part of what it is"
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=2e-3)
    np.testing.assert_allclose(two["val_loss"], one["val_loss"], rtol=2e-2)
    assert '"devices": 2' in (folders[1] / "provenance.json").read_text()


def test_a_batch_that_cannot_be_shared_out_is_refused():
    with pytest.raises(ParamsError, match="got 5; allowed with 2 devices: a multiple of 2"):
        distribution._check(5, 2)
