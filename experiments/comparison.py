"""Comparisons of methods that differ only where their recipe says so: from recipes to runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import AfterValidator, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator
from typing_extensions import TypedDict

from upge.common.config import C, Config, build, merge, read_yaml
from upge.common.errors import UpgeError, unknown
from upge.training.config import RunConfig

#: Keys of a method's stage that no run has: the stage's share of the steps, and the method whose
#: chosen learning rate it borrows (by default the stage's method).
_SHARE: Final = "share"
_LR_OF: Final = "lr_of"

#: The method that trains nothing.
BASE = "base"


class Difference(TypedDict, total=False):
    """A stage as its differences from what all stages share."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]

    share: PositiveFloat
    lr_of: str


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is there twice")
    return names


def _trained(name: str) -> str:
    if name == BASE:
        raise ValueError(f"{BASE!r} trains nothing; give the method another name")
    return name


class Selection(Config):
    """How learning rates are chosen, the same way for every method.

    Args:
        rates: the grid.
        steps: of a trial; None for no trials, where the grid has a single rate.
        seed: of the trials, different from those of the comparison.
    """

    rates: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
    steps: PositiveInt | None
    seed: int = 1000

    @model_validator(mode="after")
    def _decided(self) -> Self:
        if self.steps is None and len(self.rates) > 1:
            raise ValueError("steps: is missing, and a grid of several rates needs trials")
        return self


class Recipe(Config):
    """A comparison.

    Args:
        run: what all runs share, as :class:`~upge.training.config.RunConfig` has it.
        stage: what all stages share.
        methods: each method's stages, as differences from ``stage``.
        compare: the methods compared; None for all.
        steps: of a whole run; a stage with a ``share`` has that share of them.
        seeds: how many.
        selection: of the learning rate.
        trial_run: what trials share, if not ``run``; rates are then those of another comparison.
        workers: runs at a time.
        gpu: whether the runs are meant for a GPU.
    """

    run: dict[str, Any]
    stage: dict[str, Any]
    methods: dict[
        Annotated[str, AfterValidator(_trained)],
        Annotated[tuple[Difference, ...], Field(min_length=1)],
    ]
    compare: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_distinct)] | None = (
        None
    )
    steps: PositiveInt
    seeds: PositiveInt
    selection: Selection
    trial_run: dict[str, Any] | None = None
    workers: PositiveInt = 2
    gpu: bool = False

    @model_validator(mode="after")
    def _rates_are_known_in_time(self) -> Self:
        before: set[str] = set()
        for method in self.methods:
            if unmet := self.waits_for(method) - before:
                raise ValueError(
                    f"methods.{method}: {_LR_OF} names {min(unmet)!r}, wanted a method above it"
                )
            before.add(method)
        for method in self.compare or ():
            if method not in self.methods:
                raise ValueError(f"compare: {unknown('method', method, self.methods)}")
        return self

    @property
    def compared(self) -> tuple[str, ...]:
        """The methods compared, besides the base model."""
        return tuple(self.methods) if self.compare is None else self.compare

    def steps_of(self, method: str, steps: int | None = None) -> int:
        """Steps of a method's run over all its stages."""
        return sum(_stage_steps(stage, steps or self.steps) for stage in self.methods[method])

    def config(
        self, method: str, seed: int, rates: Mapping[str, float], *, steps: int | None = None
    ) -> RunConfig:
        """The run of a method and seed.

        Args:
            method: its name.
            seed: of the run.
            rates: learning rates by method, including those that its stages borrow.
            steps: of all stages; the recipe's by default.

        Raises:
            UpgeError: an unknown method, or a recipe that makes no valid run.
        """
        if method != BASE and method not in self.methods:
            raise unknown("method", method, [BASE, *self.methods])
        stages = [
            self._stage(method, part, rates, steps or self.steps)
            for part in self.methods.get(method, ())
        ]
        try:
            return build(self.run | {"name": method, "seed": seed, "stages": stages}, RunConfig)
        except UpgeError as error:
            raise UpgeError(f"{method}: {error}") from error

    def _stage(
        self, method: str, part: Mapping[str, Any], rates: Mapping[str, float], steps: int
    ) -> dict[str, Any]:
        differences = {key: x for key, x in part.items() if key not in (_SHARE, _LR_OF)}
        computed = {"steps": _stage_steps(part, steps), "lr": rates[part.get(_LR_OF, method)]}
        return merge(self.stage, differences) | computed

    def trial(self, method: str, rate: float, chosen: Mapping[str, float]) -> RunConfig:
        """The run whose validation accuracy judges a learning rate; it has no test."""
        recipe = self.model_copy(
            update={"run": self.run if self.trial_run is None else self.trial_run}
        )
        config = recipe.config(
            method,
            self.selection.seed,
            {**chosen, method: rate},
            steps=self.selection.steps or self.steps,
        )
        untested = config.evaluation.model_copy(update={"test_samples": None})
        return config.model_copy(update={"evaluation": untested})

    def waits_for(self, method: str) -> set[str]:
        """Methods whose learning rates the method borrows."""
        return {stage[_LR_OF] for stage in self.methods[method] if _LR_OF in stage}

    def rate_of(self, method: str) -> str:
        """The method whose trials choose the rate of a method's last stage; often itself."""
        return str(self.methods[method][-1].get(_LR_OF, method))


def _stage_steps(stage: Mapping[str, Any], steps: int) -> int:
    share: float = stage.get(_SHARE, 1.0)
    return max(round(steps * share), 1)


Settings = dict[str, Any]


class _Outer(Config):
    """Keys of a file of comparisons, or of a profile, that no recipe has.

    Args:
        profiles: differences by profile.
        variants: several comparisons, as differences from the file.
        tune: whether each variant has its own trials, or all take the rates of the file.
        comparisons: the only comparisons that a profile is for; empty for all.
    """

    profiles: dict[str, Settings] = Field(default_factory=dict)
    variants: dict[str, Settings] = Field(default_factory=dict, min_length=1)
    tune: Literal["each", "once"] = "each"
    comparisons: tuple[str, ...] = ()


#: A profile's key for the profile that it extends.
_LIKE = "like"


def load_comparisons(folder: Path, name: str, profile: str) -> dict[str, Recipe]:
    """The comparisons of ``recipes/<name>.yaml`` under ``profiles/<profile>.yaml``.

    Files of comparisons hold their differences from ``recipes/base.yaml``, and profiles those from
    the profile they are ``like``. A file with ``variants`` holds several comparisons; with ``tune:
    once`` these take the rates of the file without its variants.

    Returns:
        By name; a variant's is ``<name>-<variant>``.

    Raises:
        UpgeError: an unknown name or profile, a profile that is not for the comparison, or an
            invalid recipe.
    """
    differences = read_yaml(_known(folder / "recipes", "comparison", name))
    settings = merge(read_yaml(folder / "recipes" / f"{_BASE_FILE}.yaml"), differences)
    by_profile = _split(name, settings)[0].profiles
    for part in _profile(folder, profile):
        settings = merge(merge(settings, part.settings), by_profile.get(part.name, {}))
    outer, shared = _split(name, settings)
    if outer.comparisons and name not in outer.comparisons:
        raise UpgeError(f"{name}: is not for the profile {profile}; take PROFILE=cpu")
    if not outer.variants:
        return {name: _build(name, shared, Recipe)}
    trial_run = {"trial_run": shared.get("run")} if outer.tune == "once" else {}
    return {
        f"{name}-{variant}": _build(
            f"{name}-{variant}", merge(shared, differences) | trial_run, Recipe
        )
        for variant, differences in outer.variants.items()
    }


def _split(name: str, settings: Mapping[str, Any]) -> tuple[_Outer, Settings]:
    """The outer keys and the recipe's, apart."""
    outer = {key: value for key, value in settings.items() if key in _Outer.model_fields}
    rest = {key: value for key, value in settings.items() if key not in outer}
    return _build(f"{name}.yaml", outer, _Outer), rest


class _Part(NamedTuple):
    name: str
    settings: dict[str, Any]


def _profile(folder: Path, name: str, above: tuple[str, ...] = ()) -> list[_Part]:
    """A profile's settings, after those of the profiles it extends."""
    if name in above:
        raise UpgeError(f"like: profiles in a circle, {' → '.join((*above, name))}; drop one")
    settings = read_yaml(_known(folder / "profiles", "profile", name))
    like = settings.pop(_LIKE, None)
    return [*(_profile(folder, str(like), (*above, name)) if like else ()), _Part(name, settings)]


#: The file that all others differ from.
_BASE_FILE = "base"


def comparison_files(folder: Path) -> list[str]:
    """The names of files of comparisons."""
    return sorted(p.stem for p in (folder / "recipes").glob("*.yaml") if p.stem != _BASE_FILE)


def profiles(folder: Path) -> list[str]:
    """The names of the profiles."""
    return sorted(path.stem for path in (folder / "profiles").glob("*.yaml"))


def _known(folder: Path, what: str, name: str) -> Path:
    files = {path.stem: path for path in folder.glob("*.yaml") if path.stem != _BASE_FILE}
    if name not in files:
        raise unknown(what, name, sorted(files))
    return files[name]


def _build(name: str, settings: Mapping[str, Any], kind: type[C]) -> C:
    try:
        return build(settings, kind)
    except UpgeError as error:
        raise UpgeError(f"{name}: {error}") from error
