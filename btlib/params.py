"""The parameter files: what a study runs, typed and checked before any work starts.

base.yaml says what holds where a profile says nothing; a profile states its differences. Mappings merge, lists and values
replace; a recipe may be `like` another, and a stage's key on a recipe holds for all its stages.
"""

from __future__ import annotations

import ast
import difflib
import math
import os
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from btlib import ParamsError, files, shipped
from btlib.models import cams
from btlib.models import registry as models

PARAMS_DIR = shipped() / "params"
DEFAULT = "quick"
NO_PROFILES = ("base", "claims")
"""Files of params/ that are no study."""

WHOLE = "whole"
"""Context of a dump that says every key, those with their default too."""

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
ImageSize = Annotated[int, Field(ge=32, le=1024)]
Protocol = Annotated[str, Field(pattern=r"^([a-z][a-z0-9_]*_(holdout|folds)|published)$")]
"""What is kept together, and how often the slices are cut: `image_holdout`, `group_folds`; see `splits.PROTOCOLS`."""
Weights = Literal["imagenet", "edges"] | None
Fill = Literal["surroundings", "grey", "mirrored"]


def _is_method(name: str) -> str:
    if name not in cams.METHODS:
        raise ValueError(f"got {name!r}; allowed: {', '.join(cams.METHODS)}")
    return name


Method = Annotated[str, AfterValidator(_is_method)]
"""How a class activation map is made: a key of `cams.METHODS`."""


class Section(BaseModel):
    """A part of a parameter file: no key may be left out but those with a default, none added, nothing is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _defaults_go_unsaid(self, dump, info):
        # A fit is named for what is dumped here; earlier fits keep their names when a key with a default is added.
        if info.context == WHOLE:
            return dump(self)
        fields = type(self).model_fields
        return {k: v for k, v in dump(self).items() if fields[k].is_required() or v != fields[k].default}


Label = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]


class Data(Section):
    """One data set. Notebooks 01 and 02.

    `path` is a folder, or the CSV file of a `table`. `labels` maps folder names, or a table's labels, to classes. `patients` is
    a CSV file that names the patients of pictures in class folders. `origin` tells people where the set is to be had.
    """

    source: Literal["phantom", "figshare", "folders", "table"]
    path: str = Field(min_length=1)
    phantom: Phantom | None
    labels: dict[str, Label] | None
    unreadable: Literal["error", "skip"]
    patients: Annotated[str, Field(min_length=1)] | None = None
    origin: str = ""

    @model_validator(mode="after")
    def _fits_source(self):
        if (self.source == "phantom") != (self.phantom is not None):
            raise ValueError("`phantom` is a section where source is phantom, and null elsewhere")
        if self.source == "folders" and self.labels is None:
            raise ValueError("`labels` is a table of folder names where source is folders")
        if self.source not in ("folders", "table") and self.labels is not None:
            raise ValueError("`labels` is for sources folders and table, and null elsewhere")
        if self.patients is not None and self.source != "folders":
            raise ValueError("`patients` is for source folders; other sources name patients themselves: null")
        return self


class External(Data):
    """A data set that the study is tested on besides its own. Notebook 06 goes on without one that is not `required`."""

    required: bool = False


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
    """Sizes of the parts; which unit is kept together is the protocol's business. Notebook 02.

    A `validation_fraction` of 0 trains on everything outside the test part.
    """

    test_fraction: Annotated[float, Field(gt=0, lt=0.9)]
    validation_fraction: Annotated[float, Field(ge=0, lt=0.9)]
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
    Howard & Gugger 2020, fastai).
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
            raise ValueError("image_scale: must be 1 where `unfreeze` is head, whose features are of full size")
        return self

    def in_words(self, image_size: int) -> str:
        """Say which layers learn, on slices of which size: "last 3 blocks, 96 px"."""
        layers = {"head": "head alone", "all": "all layers"}.get(self.unfreeze, f"last {self.unfreeze} blocks")
        return f"{layers}, {self.size_of(image_size)} px"

    def size_of(self, image_size: int) -> int:
        """Return the side of this stage's slices, in whole 32 pixels (what backbones divide by), of `image_size` at most."""
        if self.image_scale == 1:
            return image_size
        return min(image_size, max(32, 32 * round(self.image_scale * image_size / 32)))


class Erase(Section):
    """Training slices that lose their tumour and with it their class, and shapes erased elsewhere that change nothing.

    `tumor` and `elsewhere` are shares of each batch; a slice without a mask is left whole. `fills` (`erasing.TRAINED`) are drawn
    at random, so that no fill is a cue, with noise of up to `noise` grey levels (standard deviation).
    """

    tumor: Fraction
    elsewhere: Fraction
    fills: Annotated[list[Fill], Field(min_length=1)]
    noise: Annotated[float, Field(ge=0, le=64)]

    @model_validator(mode="after")
    def _whole_slices_remain(self):
        if self.tumor + self.elsewhere >= 1:
            raise ValueError(f"tumor and elsewhere: got {self.tumor} and {self.elsewhere}; allowed: below 1 together")
        return self


class Recipe(Section):
    """How a model is fitted.

    `cam_loss` weighs an auxiliary loss against the classes': what speaks for a class is to lie where the tumour does, by the
    masks of training slices (`layers.CamLoss`). It and `erase` act in the stages that thaw the backbone. No mask is used in
    prediction.
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
    erase: Erase | None = None

    @model_validator(mode="after")
    def _masks_are_used(self):
        given = [key for key in ("cam_loss", "erase") if getattr(self, key)]
        if given and all(stage.unfreeze == "head" for stage in self.stages):
            raise ValueError(f"{given[0]}: acts in stages that thaw the backbone; allowed: none for the head alone")
        return self


class Model(Section):
    """Which backbone, from which weights, fitted by which recipe.

    `weights` is what a backbone was trained on: imagenet; edges, which VGG16 alone has (ImageNet, then edges of photographs,
    from the extra `edges`); or null, random weights.
    `image_size` is the side of its slices (null: `preprocessing`'s); `output_stride` how many pixels of it one place of its
    last features stands for (null: as the backbone was published): 160 px at 16 make a map of 10 x 10.
    """

    model: str = Field(min_length=1)
    weights: Weights
    recipe: str
    image_size: ImageSize | None = None
    output_stride: Literal[8, 16, 32] | None = None


class Protocols(Section):
    """A way of splitting, with the seeds to repeat it with, and which of its folds (null: all)."""

    protocol: Protocol
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    folds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None


class Ablation(Protocols):
    """Changes of the study, each fitted by itself beside the proposed model. Notebook 04.

    A change gives dotted keys other values: `{head.pooling: gmp}`; `recipe.KEY` is a key of the proposed model's recipe, or of
    all its stages. `epochs` is one budget for the proposed model and its changes alike, of each stage of a recipe, shorter than
    the recipe's own (null: the recipe's own); a change that takes another recipe, or says `recipe.epochs`, has its own.
    """

    changes: list[dict[str, Any]]
    epochs: Positive | None = None


class GradCAM(Section):
    """Which maps are made and how they are scored. Notebook 05.

    `models` names fitted ones, NAME; NAME/RECIPE is one of them with another recipe than its own, NAME/RECIPE/STRIDE with
    another output stride besides: `efficientnet_lite0/plain/32`.
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
    classes: Annotated[list[Label], Field(min_length=2)]
    data: Data
    external: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")], External]
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

    @field_validator("external", mode="before")
    @classmethod
    def _null_names_none(cls, given: Any) -> Any:
        return {} if given is None else given

    @model_validator(mode="after")
    def _fits_together(self):
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes: got {self.classes}; allowed: each once")
        named = {"proposed": self.proposed} | {f"baselines[{i}]": m for i, m in enumerate(self.baselines)}
        for key, model in named.items():
            self._can_be_fitted(key, model)
        names = [m.model for m in named.values()]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"baselines: {twice[0]} stands twice among proposed and baselines; allowed: once")
        if self.proposed.image_size is not None:
            raise ValueError("proposed.image_size: must be null; `preprocessing.image_size` is the proposed model's")
        self._protocols_are_listed()
        for i, name in enumerate(self.gradcam.models):
            self._is_explained(f"gradcam.models[{i}]", name, names)
        self._sets_can_be_used()
        for i, change in enumerate(self.ablation.changes):
            self._is_a_change(f"ablation.changes[{i}]", change)
        return self

    def _sets_can_be_used(self) -> None:
        """Classes that no slice can have are refused here, those that no slice has by `runs.check`."""
        mapped = self.data.labels
        if mapped is not None and (lost := [c for c in self.classes if c not in mapped.values()]):
            raise ValueError(f"data.labels: map nothing to {' or '.join(lost)}; allowed: something to each class")
        for name, data in self.external.items():
            if data.path == self.data.path:
                raise ValueError(f"external.{name}.path: must differ from data.path")
            if data.labels is not None and not set(data.labels.values()) & set(self.classes):
                raise ValueError(
                    f"external.{name}.labels: map to {', '.join(sorted(set(data.labels.values())))}; allowed: to one at least "
                    f"of `classes`: {', '.join(self.classes)}"
                )

    def _can_be_fitted(self, key: str, model: Model) -> None:
        if model.recipe not in self.recipes:
            raise ValueError(f"{key}.recipe: got {model.recipe!r}; allowed: {', '.join(self.recipes)}")
        if model.model not in models.REGISTRY:
            raise ValueError(f"{key}.model: got {model.model!r}; allowed: {', '.join(models.REGISTRY)}")
        models.check(model.model, self.image_size_of(model), model.weights, model.output_stride)
        recipe, got = self.recipes[model.recipe], f"{key}: got {model.recipe!r}"
        tokens = f"{model.model} has tokens" if models.REGISTRY[model.model].tokens else ""
        if any(stage.image_scale != 1 for stage in recipe.stages) and (tokens or self.head.pooling == "flatten"):
            reason = tokens or "`flatten` has a weight for each place"
            raise ValueError(f"{got}, with an `image_scale`; allowed: stages of one size, as {reason}")
        if recipe.cam_loss and (tokens or self.head.pooling != "gap" or self.head.dense):
            reason = tokens or "only `gap` and no dense layer let a place speak for a class"
            raise ValueError(f"{got}, with a `cam_loss`; allowed: none, as {reason}")
        watches = recipe.patience or any(stage.schedule == "plateau" for stage in recipe.stages)
        if watches and not self.split.validation_fraction:
            raise ValueError(f"{got}, with `patience` or a plateau; allowed: none where split.validation_fraction is 0")

    def _protocols_are_listed(self) -> None:
        listed = {p.protocol: p for p in self.protocols}
        for key, some in {"comparison": self.comparison, "gradcam": self.gradcam, "ablation": self.ablation}.items():
            if some.protocol not in listed:
                raise ValueError(f"{key}.protocol: got {some.protocol!r}; allowed, of `protocols`: {', '.join(listed)}")
        for key, some in {"comparison": self.comparison, "ablation": self.ablation}.items():
            seeds, folds = listed[some.protocol].seeds, listed[some.protocol].folds
            if some.seeds != seeds[: len(some.seeds)]:
                raise ValueError(f"{key}.seeds: got {some.seeds}; allowed: the first of {seeds}, {some.protocol}'s")
            if folds is not None and not set(some.folds or folds) <= set(folds):
                raise ValueError(f"{key}.folds: got {some.folds}; allowed: some of {folds}, those of {some.protocol}")

    def _is_explained(self, key: str, name: str, names: list[str]) -> None:
        base, *other = name.split("/")
        recipe, stride = (*other, None, None)[:2]
        known = base in names and (recipe is None or recipe in self.recipes) and len(other) < 3
        if not known or stride not in (None, "8", "16", "32"):
            raise ValueError(
                f"{key}: got {name!r}; allowed, being fitted: {', '.join(sorted(names))}; or one of them with another "
                f"recipe: {base if base in names else self.proposed.model}/{next(iter(self.recipes))}, and another output "
                "stride: /8, /16, /32"
            )
        self._can_be_fitted(key, self.model_of(name))

    def _is_a_change(self, key: str, change: dict[str, Any]) -> None:
        if not change:
            raise ValueError(f"{key}: is empty; allowed: dotted keys and their values")
        try:
            self.changed(change)
        except ValueError as error:
            told = _explain(error.errors()[0]) if isinstance(error, ValidationError) else error
            raise ValueError(f"{key}: {told}") from None

    def changed(self, change: dict[str, Any]) -> Study:
        """Return the study with one of `Ablation.changes`, and no ablation, or raise ValueError where it may not be so."""
        mapping = self.model_dump()
        mapping["ablation"]["changes"] = []
        # The recipe first: its keys are then those of the one that is taken.
        for key, value in sorted(change.items(), key=lambda item: not item[0].startswith("proposed.")):
            *sections, last = key.split(".")
            if sections == ["recipe"]:
                recipe = mapping["recipes"][mapping["proposed"]["recipe"]]
                targets = recipe["stages"] if last in Stage.model_fields else [recipe]
            else:
                target = mapping
                for section in sections:
                    target = target.get(section) if isinstance(target, dict) else None
                targets = [target]
            for target in targets:
                if not isinstance(target, dict) or not sections or sections[0] not in ("recipe", *ABLATED):
                    allowed = ", ".join(f"{s}.KEY" for s in ("recipe", *ABLATED))
                    raise ValueError(f"{key!r} leads to no parameter of a fit; allowed: {allowed}")
                under = target.get(last)
                target[last] = _merge(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
        return Study.model_validate(mapping)

    def model_of(self, name: str) -> Model:
        """Return the model that a name in `gradcam.models` means: NAME, NAME/RECIPE or NAME/RECIPE/STRIDE."""
        name, recipe, stride = [*name.split("/"), None, None][:3]
        model = next(m for m in [self.proposed, *self.baselines] if m.model == name)
        other = {"recipe": recipe or model.recipe, "output_stride": int(stride) if stride else model.output_stride}
        return model.model_copy(update=other)

    def image_size_of(self, model: Model) -> int:
        """Return the side, in pixels, of the slices that one of the study's models is given."""
        return model.image_size or self.preprocessing.image_size


ABLATED = ("proposed", "head", "augmentation", "preprocessing")
"""Sections that a change of the ablation may touch, beside the proposed model's recipe."""

SECTIONS = tuple(Study.model_fields)

RESOLVED = "parameters.yaml"
"""The file beside a report that says everything its study ran with."""

MAX_DEPTH = 20


def load(name: str | os.PathLike) -> Study:
    """Read a parameter file.

    Args:
        name: a profile's name ("quick") or the path of a YAML file, which says only what differs from params/base.yaml.

    Raises:
        ParamsError: the file is missing, is no YAML, holds what is not allowed, or names another profile than its own.
    """
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else PARAMS_DIR / f"{name}.yaml"
    origin = str(name) if path == Path(name) else f"params/{path.name}"
    given = _read(path)
    if path.stem in NO_PROFILES:
        raise ParamsError(f"{origin}: is no study; profiles here: {', '.join(profiles())}")
    own = path.parent.resolve().name if path.name == RESOLVED else path.stem
    if isinstance(given, dict) and given.setdefault("profile", own) != own:
        got = _shown(given["profile"])
        raise ParamsError(f"{origin}: profile: got {got}; allowed: {own}, as a file's name is its profile")
    study = check(_over_base(given, origin), origin)
    kept = PARAMS_DIR / f"{study.profile}.yaml"
    if kept.exists() and path.resolve() != kept.resolve() and study != load(study.profile):
        same = f"differs from {kept}, whose results are of the same name"
        raise ParamsError(f"{origin}: {same}; allowed: the same parameters, or a file of another name")
    return study


def profiles() -> list[str]:
    """Return the names of the studies in params/."""
    return sorted(p.stem for p in PARAMS_DIR.glob("*.yaml") if p.stem not in NO_PROFILES)


def from_mapping(given: dict[str, Any], origin: str = "parameters") -> Study:
    """Check parameters that came through papermill, Snakemake or a notebook's own parameter cell.

    Args:
        given: `profile` (quick where there is none) and what differs from its file in params/, if it has one, else from
            base.yaml. Where something differs from a profile's file, results go to the profile NAME-changed.
        origin: where they came from, for messages.

    Raises:
        ParamsError: as `load`.
    """
    profile = given.get("profile", DEFAULT)
    kept = PARAMS_DIR / f"{profile}.yaml"
    if profile not in profiles():
        return check(_over_base(given, origin), origin)
    study = check(_over_base(_merge(_read(kept), given), origin), origin)
    if study != load(profile):
        study = check(study.model_dump() | {"profile": f"{profile}-changed"}, origin)
    return study


def from_notebook(namespace: dict[str, Any]) -> Study:
    """Check what a notebook's parameter cell, or papermill's after it, gives: `profile`, `changes`, or whole sections.

    Takes the notebook's `globals()`, in the cell after the parameter cell.

    Raises:
        ParamsError: as `load`, and for a name in these cells that is no parameter, which papermill accepts.
    """
    known = (*SECTIONS, "changes")
    for name in _assigned(namespace):
        if name not in known:
            raise ParamsError(f"notebook parameters: {name}: {_unknown(name, known)}")
    given = {name: namespace[name] for name in SECTIONS if name in namespace}
    changes = namespace.get("changes", {})
    if not isinstance(changes, dict):
        raise ParamsError(f"notebook parameters: changes: got {_shown(changes)}; allowed: a mapping")
    return from_mapping(_merge(given, changes), "notebook parameters")


def _assigned(namespace: dict[str, Any]) -> list[str]:
    """Names that the parameter cell and papermill's cell after it give values to; all names where there are no cells."""
    cells = namespace.get("In")
    if not cells:
        return [name for name in namespace if not name.startswith("_")]
    names = []
    for cell in cells:
        try:
            body = ast.parse(cell).body
        except SyntaxError:  # IPython's own commands
            body = []
        names.append([t.id for line in body for t in getattr(line, "targets", []) if isinstance(t, ast.Name)])
    last = max((i for i, found in enumerate(names) if {"profile", "changes"} <= set(found)), default=None)
    if last is None:
        return []
    injected = last + 1 < len(cells) and cells[last + 1].startswith("# Parameters")
    return names[last] + (names[last + 1] if injected else [])


def _over_base(given: Any, origin: str) -> Any:
    """Lay what differs over base.yaml, and write the recipes out."""
    if not isinstance(given, dict):
        return given
    mapping = _merge(_read(PARAMS_DIR / "base.yaml"), given)
    if isinstance(recipes := mapping["recipes"], dict):
        mapping["recipes"] = {name: _recipe(name, recipes, origin) for name in recipes}
    return mapping


def _merge(below: dict, above: dict) -> dict:
    """Lay one mapping over another: mappings merge, all else replaces; a stage's key on a recipe, those of its stages.

    Of `external`, the sets named above are all there are; what is not said of one holds as below.
    """
    merged = dict(below)
    for key, value in above.items():
        under = below.get(key)
        if key == "external" and isinstance(value, dict) and isinstance(under, dict):
            under = {name: under[name] for name in value if name in under}
        if isinstance(value, dict) and isinstance(under, dict):
            value = _merge(under, value)
            if isinstance(stages := under.get("stages"), list) and "stages" not in above[key]:
                value["stages"] = [
                    {k: v for k, v in s.items() if k not in above[key]} if isinstance(s, dict) else s for s in stages
                ]
        merged[key] = value
    return merged


def _recipe(name: str, recipes: dict, origin: str, above: tuple[str, ...] = ()) -> Any:
    """Write a recipe out: what it is `like`, its own keys over it, and its stages' keys in each stage."""
    own = recipes[name]
    if not isinstance(own, dict):
        return own
    own = dict(own)
    like = own.pop("like", None)
    if like is not None and (not isinstance(like, str) or like not in recipes or like in (*above, name)):
        others = ", ".join(r for r in recipes if r not in (*above, name))
        raise ParamsError(f"{origin}: recipes.{name}.like: got {_shown(like)}; allowed: {others}")
    other = _recipe(like, recipes, origin, (*above, name)) if like is not None else {}
    shared = {key: own.pop(key) for key in Stage.model_fields if key in own}
    if isinstance(own.get("stages"), list):
        stage = other["stages"][-1] if other else {}
        stages = [{**stage, **shared, **s} if isinstance(s, dict) else s for s in own.pop("stages")]
    else:
        stages = [{**s, **shared} for s in other.get("stages", [{}])]
    return {**other, "stages": stages, **own}


def check(given: Any, origin: str) -> Study:
    """Check a whole mapping against `Study`, or raise ParamsError that names every key at fault and what is allowed."""
    if not isinstance(given, dict):
        raise ParamsError(f"{origin}: got {type(given).__name__}; allowed: a mapping with keys {', '.join(SECTIONS)}")
    try:
        return Study.model_validate(given)
    except ValidationError as error:
        lines = "\n  ".join(dict.fromkeys(_explain(e) for e in error.errors()))
        raise ParamsError(f"{origin}:\n  {lines}") from None


def write(study: Study, path: Path) -> None:
    """Write a study as a parameter file that `load` gives back, unless the file already says the same."""
    text = in_full(study)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        files.write_text(path, text)


def in_full(study: Study) -> str:
    """Return a study as YAML that leaves nothing to base.yaml. `python -m btlib plan`."""
    return yaml.safe_dump(study.model_dump(context=WHOLE), sort_keys=False, allow_unicode=True)


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
        raise ParamsError(f"{path}: no such parameter file; profiles here: {', '.join(profiles())}") from None
    except Exception as error:  # PyYAML raises nearly anything for a number, date or nesting that is none
        raise ParamsError(f"{path}: cannot be read as YAML: {error}") from None


def _key(location: tuple) -> str:
    shown = [
        part
        for part in location
        if not (isinstance(part, str) and (part.startswith(("literal[", "constrained-")) or part in ("int", "str")))
    ]
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in shown).lstrip(".")


def _fields(location: tuple) -> dict:
    """The fields of the section that the last part of a location lies in, by name."""
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
    return kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else {}


def _may_be_null(location: tuple) -> bool:
    field = _fields(location).get(location[-1]) if location else None
    return field is not None and type(None) in typing.get_args(field.annotation)


def _is_number(given: Any) -> bool:
    try:
        return isinstance(given, str) and math.isfinite(float(given))
    except ValueError:
        return False


def _explain(error: dict) -> str:
    key, kind, given = _key(error["loc"]), error["type"], error["input"]
    if kind == "extra_forbidden":
        return f"{key}: {_unknown(str(error['loc'][-1]), _fields(error['loc']))}"
    if kind == "missing":
        return f"{key}: missing; every key must be given"
    if kind == "value_error":
        message = str(error["ctx"]["error"])
        return f"{key}: {message}" if key else message
    message = error["msg"][0].lower() + error["msg"][1:]
    if _may_be_null(error["loc"]):
        message += ", or null"
    if kind == "float_type" and _is_number(given):
        message += f"; YAML reads {given} as text: write {float(given)!r} or {given.replace('e', '.0e')}"
    return f"{key}: got {_shown(given)}; allowed: {message.removeprefix('input should be ')}"


def _unknown(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, known, 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"unknown key{hint}; allowed: {', '.join(known)}"


def _shown(given: Any) -> str:
    """What was given, cut to one line."""
    try:
        return f"{given!r:.80}"
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number of thousands of digits"
