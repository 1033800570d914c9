"""The parameter files: what a study runs, typed and checked before any work starts."""

from __future__ import annotations

import difflib
import os
import reprlib
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_serializer, model_validator

from btlib import CLASSES, NO_TUMOR, ParamsError, files
from btlib.models import registry as models

PARAMS_DIR = Path(__file__).resolve().parent.parent / "params"
DEFAULT = "quick"
QUICK = "as in params/quick.yaml"
"""What a notebook's parameter cell gives to a section that it leaves alone."""

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
ImageSize = Annotated[int, Field(ge=32, le=1024)]
Protocol = Literal[
    "image_holdout",
    "patient_holdout",
    "group_holdout",
    "image_folds",
    "patient_folds",
    "group_folds",
    "author_folds",
]
Weights = Literal["imagenet"] | None
Method = Literal["gradcam", "gradcam++", "hirescam", "layercam", "scorecam", "eigencam"]


class Section(BaseModel):
    """A part of a parameter file: none of its keys may be left out but those with a default, none added, nothing is converted
    silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _defaults_go_unsaid(self, dump):
        # A fit is named for what is dumped here; earlier fits keep their names when a key with a default is added.
        fields = type(self).model_fields
        return {k: v for k, v in dump(self).items() if fields[k].is_required() or v != fields[k].default}


class Data(Section):
    """One data set. Notebooks 01, 02 and, for the external set, 06."""

    source: Literal["phantom", "figshare", "folders"]
    path: str = Field(min_length=1)
    phantom: Phantom | None
    labels: dict[str, Literal[(*CLASSES, NO_TUMOR)]] | None
    unreadable: Literal["error", "skip"]

    @model_validator(mode="after")
    def _fits_source(self):
        if (self.source == "phantom") != (self.phantom is not None):
            raise ValueError("`phantom` is a section where source is phantom, and null elsewhere")
        if (self.source == "folders") != (self.labels is not None):
            raise ValueError("`labels` is a table of folder names where source is folders, and null elsewhere")
        return self


class Phantom(Section):
    """Made-up slices: how many and from which made-up hospital."""

    patients: Annotated[int, Field(ge=6, le=100_000)]
    slices_per_patient: Annotated[int, Field(ge=1, le=50)]
    size: Annotated[int, Field(ge=64, le=1024)]
    seed: Annotated[int, Field(ge=0)]
    hospital: Literal["a", "b"]
    copies: Annotated[int, Field(ge=0)]


class Preprocessing(Section):
    """From a decoded slice to the picture a model is given. Notebook 02."""

    image_size: ImageSize
    crop_to_head: bool
    low_percentile: Annotated[float, Field(ge=0, lt=50)]
    high_percentile: Annotated[float, Field(gt=50, le=100)]


class Split(Section):
    """Sizes of the parts; which unit is kept together is the protocol's business. Notebook 02."""

    test_fraction: Annotated[float, Field(gt=0, lt=0.9)]
    validation_fraction: Annotated[float, Field(gt=0, lt=0.9)]
    folds: Annotated[int, Field(ge=2, le=50)]


class Head(Section):
    """The changed top layers: pooling, dropout, an optional dense layer (0: none), logits."""

    pooling: Literal["gap", "gmp", "flatten"]
    dropout: Fraction
    dense: Annotated[int, Field(ge=0, le=8192)]


class Augmentation(Section):
    """Random changes of training slices, drawn anew at every step; 0 or false turns one off."""

    flip: bool
    rotation_degrees: Annotated[float, Field(ge=0, le=180)]
    shift: Fraction
    zoom: Fraction
    contrast: Fraction
    gamma: Fraction
    bias_field: Fraction
    noise: Fraction
    mixup: Annotated[float, Field(ge=0, le=1)]


class Stage(Section):
    """One stage of fine-tuning: which layers learn, for how long, how fast, on slices of which size.

    A first stage on small slices costs a part of the time, and the next goes on from what it learned (progressive resizing:
    Howard & Gugger 2020, fastai). `image_scale` may be left out, for 1: the study's own size.
    """

    unfreeze: Literal["head", "all"] | Positive
    epochs: Positive
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    schedule: Literal["constant", "cosine", "plateau"]
    warmup_epochs: Annotated[float, Field(ge=0)]
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    image_scale: Annotated[float, Field(gt=0, le=1)] = 1

    @model_validator(mode="after")
    def _head_at_full_size(self):
        if self.unfreeze == "head" and self.image_scale != 1:
            raise ValueError(
                "image_scale: must be 1 where `unfreeze` is head; features are computed once, at full size"
            )
        return self

    def in_words(self, image_size: int) -> str:
        """Say which layers learn, on slices of which size: "last 3 blocks, 96 px"."""
        layers = {"head": "head alone", "all": "all layers"}.get(self.unfreeze, f"last {self.unfreeze} blocks")
        return f"{layers}, {self.size_of(image_size)} px"

    def size_of(self, image_size: int) -> int:
        """Return the side of this stage's slices, in whole 32 pixels (what backbones divide by), of `image_size` at most."""
        return (
            image_size
            if self.image_scale == 1
            else min(image_size, max(32, 32 * round(self.image_scale * image_size / 32)))
        )


class Recipe(Section):
    """How a model is fitted.

    `cam_loss` weighs an auxiliary loss against the classes': what speaks for a class is to lie where the tumour does, by the
    masks of training slices (`training.CamLoss`). It may be left out, for 0: none. No mask is used in prediction.
    """

    batch_size: Annotated[int, Field(ge=1, le=4096)]
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"]
    augment: bool
    weight_decay: Annotated[float, Field(ge=0, lt=1)]
    label_smoothing: Fraction
    class_weights: bool
    batchnorm: Literal["frozen", "train"]
    renew_statistics: bool
    ema: Fraction
    patience: Annotated[int, Field(ge=0)]
    stages: Annotated[list[Stage], Field(min_length=1)]
    cam_loss: Annotated[float, Field(ge=0, le=100)] = 0


class Model(Section):
    """Which backbone, from which weights, fitted by which recipe, on slices of which size (null: `preprocessing`'s)."""

    model: str = Field(min_length=1)
    weights: Weights
    recipe: str
    image_size: ImageSize | None


class Protocols(Section):
    """A way of splitting, with the seeds to repeat it with."""

    protocol: Protocol
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class Ablation(Section):
    """One factor at a time away from the proposed model. Notebook 04."""

    protocol: Protocol
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    pooling: list[Literal["gap", "gmp", "flatten"]]
    dropout: list[Fraction]
    dense: list[Annotated[int, Field(ge=0, le=8192)]]
    unfreeze: list[Literal["head", "all"] | Positive]
    augment: list[bool]
    image_size: list[ImageSize]
    weights: list[Weights]
    recipe: list[str]


class GradCAM(Section):
    """Which maps are made and how they are scored. Notebook 05.

    `models` names fitted ones, NAME; NAME/RECIPE is one of them with another recipe than its own.
    """

    methods: Annotated[list[Method], Field(min_length=1)]
    models: Annotated[list[str], Field(min_length=1)]
    protocol: Protocol
    tolerance_px: Annotated[int, Field(ge=0)]
    deletion_steps: Annotated[int, Field(ge=2, le=200)]


class Statistics(Section):
    """Intervals: how many bootstrap samples, and the two-sided level."""

    bootstrap: Annotated[int, Field(ge=100, le=100_000)]
    level: Annotated[float, Field(gt=0.5, lt=1)]


class Study(Section):
    """A whole parameter file."""

    profile: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    data: Data
    external: Data | None
    preprocessing: Preprocessing
    split: Split
    head: Head
    augmentation: Augmentation
    recipes: dict[str, Recipe]
    distribution: Literal["none", "data_parallel"]
    proposed: Model
    protocols: Annotated[list[Protocols], Field(min_length=1)]
    baselines: list[Model]
    comparison: Protocols
    ablation: Ablation
    gradcam: GradCAM
    test_time_augmentation: bool
    statistics: Statistics

    @model_validator(mode="after")
    def _names_exist(self):
        named = [("proposed", self.proposed), *((f"baselines[{i}]", m) for i, m in enumerate(self.baselines))]
        fitted = [(f"{key}.recipe", model, model.recipe) for key, model in named]
        fitted += [(f"ablation.recipe[{i}]", self.proposed, name) for i, name in enumerate(self.ablation.recipe)]
        for key, _, recipe in fitted:
            if recipe not in self.recipes:
                raise ValueError(f"{key}: got {recipe!r}; allowed: {', '.join(self.recipes)}")
        for key, model in named:
            if model.model not in models.REGISTRY:
                raise ValueError(f"{key}.model: got {model.model!r}; allowed: {', '.join(models.REGISTRY)}")
            models.check(model.model, self.image_size_of(model), model.weights is not None)
        for key, model, recipe in fitted:
            self._suits(key, model, recipe)
        if self.proposed.image_size is not None:
            raise ValueError("proposed.image_size: must be null; `preprocessing.image_size` is the proposed model's")
        for size in self.ablation.image_size:
            models.check(self.proposed.model, size, self.proposed.weights is not None)
        twice = [m.model for _, m in named if sum(m.model == other.model for _, other in named) > 1]
        if twice:
            raise ValueError(f"baselines: {twice[0]} stands twice among proposed and baselines; allowed: once")
        known = [p.protocol for p in self.protocols]
        for key, protocol in [
            ("comparison.protocol", self.comparison.protocol),
            ("gradcam.protocol", self.gradcam.protocol),
            ("ablation.protocol", self.ablation.protocol),
        ]:
            if protocol not in known:
                raise ValueError(f"{key}: got {protocol!r}; allowed, being listed in `protocols`: {', '.join(known)}")
        seeds = next(p.seeds for p in self.protocols if p.protocol == self.comparison.protocol)
        if self.comparison.seeds != seeds[: len(self.comparison.seeds)]:
            raise ValueError(
                f"comparison.seeds: got {self.comparison.seeds}; allowed: the first of {seeds}, the seeds of "
                f"{self.comparison.protocol}"
            )
        names = {self.proposed.model, *(m.model for m in self.baselines)}
        for i, name in enumerate(self.gradcam.models):
            base, slash, recipe = name.partition("/")
            if base not in names or (slash and recipe not in self.recipes):
                raise ValueError(
                    f"gradcam.models[{i}]: got {name!r}; allowed, being fitted: {', '.join(sorted(names))}; or one of them "
                    f"with another recipe: {base if base in names else self.proposed.model}/{next(iter(self.recipes))}"
                )
            if slash:
                self._suits(f"gradcam.models[{i}]", self.model_of(name), recipe)
        if self.external is not None and self.external.path == self.data.path:
            raise ValueError("external.path: must differ from data.path")
        return self

    def _suits(self, key: str, model: Model, name: str) -> None:
        recipe, tokens = self.recipes[name], models.REGISTRY[model.model].tokens
        varied = model is self.proposed
        poolings = {self.head.pooling, *(self.ablation.pooling if varied else ())}
        dense = {self.head.dense, *(self.ablation.dense if varied else ())}
        if (tokens or "flatten" in poolings) and any(stage.image_scale != 1 for stage in recipe.stages):
            reason = f"{model.model} has tokens" if tokens else "`flatten` has a weight for each place"
            raise ValueError(f"{key}: got {name!r}, with an `image_scale`; allowed: stages of one size, as {reason}")
        reasons = {
            f"{model.model} has tokens": tokens,
            "folders hold no masks": self.data.source == "folders",
            "only `gap` and no dense layer let a place speak for a class": poolings != {"gap"} or dense != {0},
        }
        if recipe.cam_loss and any(reasons.values()):
            reason = next(reason for reason, so in reasons.items() if so)
            raise ValueError(f"{key}: got {name!r}, with a `cam_loss`; allowed: none, as {reason}")

    def model_of(self, name: str) -> Model:
        """Return the model that a name in `gradcam.models` means: NAME, or NAME/RECIPE with another recipe than its own."""
        name, slash, recipe = name.partition("/")
        chosen = next(m for m in [self.proposed, *self.baselines] if m.model == name)
        return chosen.model_copy(update={"recipe": recipe}) if slash else chosen

    def image_size_of(self, model: Model) -> int:
        """Return the side, in pixels, of the slices that one of the study's models is given."""
        return model.image_size or self.preprocessing.image_size


SECTIONS = tuple(Study.model_fields)

MAX_DEPTH = 20

_SHORT = reprlib.Repr()
"""Shows what was given in one line, however large it is."""

_SHORT.maxstring, _SHORT.maxother, _SHORT.maxlevel = 80, 80, 3


def load(name: str | os.PathLike) -> Study:
    """Read a parameter file.

    Args:
        name: a profile's name ("quick") or the path of a YAML file.

    Raises:
        ParamsError: the file is missing, is no YAML, or holds a key or value that is not allowed.

    Used by every notebook.
    """
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else PARAMS_DIR / f"{name}.yaml"
    return check(_read(path), origin=str(name) if path == Path(name) else f"params/{path.name}")


def from_mapping(given: dict[str, Any], origin: str = "parameters") -> Study:
    """Check parameters that came through papermill, Snakemake or a notebook's own parameter cell.

    A mapping that names its `profile` is a whole file and must be complete. One that does not changes whole
    top-level keys of the quick profile, so that an empty one is the quick profile.

    Args:
        given: top-level keys and their values.
        origin: where they came from, for messages.

    Raises:
        ParamsError: as `load`.
    """
    if "profile" not in given:
        given = {**_read(PARAMS_DIR / f"{DEFAULT}.yaml"), **given}
    return check(given, origin)


def from_notebook(namespace: dict[str, Any]) -> Study:
    """Check the parameters of a notebook: every plain value that its first cells defined.

    papermill accepts a parameter that no cell knows; here an unknown name stops the notebook.

    Args:
        namespace: the notebook's `globals()`, in the cell after the parameter cell.

    Raises:
        ParamsError: as `load`, and for a plain value whose name is no section.
    """
    plain = (str, int, float, bool, list, dict, types.NoneType)
    given = {
        name: value
        for name, value in namespace.items()
        if isinstance(value, plain) and not name.startswith("_") and name not in ("In", "Out")
    }
    return from_mapping({k: v for k, v in given.items() if v != QUICK}, "notebook parameters")


def check(given: Any, origin: str) -> Study:
    """Check a whole mapping against `Study`.

    Raises:
        ParamsError: naming every key at fault, what was given and what is allowed.
    """
    if not isinstance(given, dict):
        raise ParamsError(
            f"{origin}: got {type(given).__name__}; allowed: a mapping with the keys {', '.join(SECTIONS)}"
        )
    try:
        return Study.model_validate(given)
    except ValidationError as error:
        lines = "\n  ".join(dict.fromkeys(_explain(e) for e in error.errors()))
        raise ParamsError(f"{origin}:\n  {lines}") from None


def write(study: Study, path: Path) -> None:
    """Write a study as a parameter file, unless the file already says the same.

    Args:
        study: the parameters.
        path: a YAML file; `load` gives the same study back.
    """
    text = yaml.safe_dump(study.model_dump(), sort_keys=False, allow_unicode=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        files.write_text(path, text)


def _read(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            # A few lines of aliases of aliases unfold to more than any memory holds; deep nesting takes PyYAML minutes.
            if isinstance(event, yaml.AliasEvent):
                raise ParamsError(f"{path}: has a YAML alias (*{event.anchor}); write the value out where it is meant")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ParamsError(f"{path}: is nested more than {MAX_DEPTH} deep in YAML; a parameter file never is")
        return yaml.safe_load(text)
    except ParamsError:
        raise
    except FileNotFoundError:
        have = ", ".join(sorted(p.stem for p in PARAMS_DIR.glob("*.yaml") if p.stem != "claims"))
        raise ParamsError(f"{path}: no such parameter file; profiles here: {have}") from None
    except Exception as error:  # PyYAML raises nearly anything for a number, date or nesting that is none
        raise ParamsError(f"{path}: cannot be read as YAML: {error}") from None


def _key(location: tuple) -> str:
    shown = [
        part
        for part in location
        if not (isinstance(part, str) and (part.startswith(("literal[", "constrained-")) or part in ("int", "str")))
    ]
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in shown).lstrip(".")


def _fields(location: tuple) -> list[str]:
    """Names allowed beside the last part of a location."""
    kind: Any = Study
    for part in location[:-1]:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[part].annotation
        elif typing.get_origin(kind) in (list, dict):
            kind = typing.get_args(kind)[-1]
        if typing.get_origin(kind) in (Union, types.UnionType):
            kind = next((k for k in typing.get_args(kind) if isinstance(k, type) and issubclass(k, BaseModel)), kind)
        if typing.get_origin(kind) is Annotated:
            kind = typing.get_args(kind)[0]
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _explain(error: dict) -> str:
    key, kind, given = _key(error["loc"]), error["type"], error["input"]
    if kind == "extra_forbidden":
        names = _fields(error["loc"])
        near = difflib.get_close_matches(str(error["loc"][-1]), names, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"{key}: unknown key{hint}; allowed: {', '.join(names)}"
    if kind == "missing":
        return f"{key}: missing; every key must be given"
    if kind == "value_error":
        message = str(error["ctx"]["error"])
        return f"{key}: {message}" if key else message
    message = error["msg"][0].lower() + error["msg"][1:]
    try:
        shown = _SHORT.repr(given)
    except ValueError:  # Python writes no number of more than 4300 digits
        shown = "a number of thousands of digits"
    return f"{key}: got {shown}; allowed: {message.removeprefix('input should be ')}"
