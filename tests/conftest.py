"""A study small enough to fit in seconds: a toy backbone on a few made-up slices, in a home of its own."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

from btlib import params
from btlib.models import registry as models


def toy(image_size, path, output_stride):
    import keras

    image = keras.Input((image_size, image_size, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, name="block1_conv")(image)
    x = keras.layers.BatchNormalization(name="block1_bn")(x)
    x = keras.layers.Conv2D(8, 3, strides=2, name="block2_conv")(x)
    return keras.Model(image, keras.layers.ReLU(name="top_activation")(x))


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory):
    """One folder for the session's made-up slices; runs in it are shared by tests that only read them."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def home(shared_home, tmp_path, monkeypatch):
    """A home whose data are shared and whose runs and reports are this test's own."""
    (shared_home / "data").mkdir(exist_ok=True)
    (tmp_path / "data").symlink_to(shared_home / "data")
    monkeypatch.setenv("BTLIB_HOME", str(tmp_path))
    return tmp_path


TOY = models.Backbone(toy, (1 / 127.5, -1.0), "top_activation", r"^(block\d)_", {}, strides=(4,))


@pytest.fixture
def study(monkeypatch):
    """The quick profile, shrunk: a toy backbone, 32 pixels, 42 patients, three epochs."""
    monkeypatch.setitem(models.REGISTRY, "toy", TOY)
    return shrunk()


def shrunk() -> params.Study:
    given = params.load("quick").model_dump()
    given["data"]["phantom"].update(patients=42, slices_per_patient=2, size=64)
    given["external"]["hospital_b"]["phantom"].update(patients=14, slices_per_patient=2, size=64, copies=7)
    given["preprocessing"]["image_size"] = 32
    stage = given["recipes"]["scratch"]["stages"][0]
    given["recipes"]["scratch"].update(batch_size=8, stages=[stage | {"epochs": 3, "learning_rate": 0.003}])
    given["proposed"] = {"model": "toy", "weights": None, "recipe": "scratch", "image_size": None}
    given["baselines"], given["gradcam"]["models"] = [], ["toy"]
    given["ablation"]["changes"] = []
    given["profile"] = "tiny"
    return params.check(given, "tiny")
