"""Comparisons: methods that differ only where their recipe says so, from recipe to run configs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, PositiveInt, model_validator

from upge.config import Config, build, merge, read_yaml
from upge.errors import UpgeError, unknown
from upge.training.config import RunConfig

#: Keys of a method's stage that are the comparison's own: the share of the steps it has, and the
#: method whose chosen learning rate it takes (otherwise the rate is the method's own).
_SHARE, _LR_OF = "share", "lr_of"

#: The method that trains nothing.
BASE = "base"


class Selection(Config):
    """How each method's learning rate is chosen: the same for all.

    Args:
        rates: the grid.
        steps: of a trial; None takes the rate without one, where the grid has a single value.
        seed: of the trials, none of the comparison's.
    """

    rates: Annotated[tuple[float, ...], Field(min_length=1)]
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
        steps: of each method, over all its stages.
        seeds: how many.
        selection: of the learning rate.
    """

    run: dict[str, Any]
    stage: dict[str, Any]
    methods: dict[str, tuple[dict[str, Any], ...]]
    steps: PositiveInt
    seeds: PositiveInt
    selection: Selection

    @model_validator(mode="after")
    def _rates_are_known_in_time(self) -> Self:
        before: set[str] = set()
        for method in self.methods:
            if unmet := self.waits_for(method) - before:
                raise ValueError(
                    f"methods.{method}: {_LR_OF} names {min(unmet)!r}, wanted a method above it"
                )
            before.add(method)
        return self

    def config(
        self, method: str, seed: int, rates: Mapping[str, float], *, steps: int | None = None
    ) -> RunConfig:
        """The run of a method and seed.

        Args:
            method: its name.
            seed: of the run.
            rates: learning rates by method, the method's own and those of its earlier stages.
            steps: of all stages, if not the recipe's.

        Raises:
            UpgeError: an unknown method, or a recipe that makes no valid run.
        """
        if method != BASE and method not in self.methods:
            raise unknown("method", method, [BASE, *self.methods])
        stages = [
            self._stage(method, given, rates, steps or self.steps)
            for given in self.methods.get(method, ())
        ]
        given = self.run | {"name": method, "seed": seed, "stages": stages}
        try:
            return build(given, RunConfig)
        except UpgeError as error:
            raise UpgeError(f"{method}: {error}") from error

    def _stage(
        self, method: str, given: Mapping[str, Any], rates: Mapping[str, float], steps: int
    ) -> dict[str, Any]:
        own = {key: value for key, value in given.items() if key not in (_SHARE, _LR_OF)}
        stage = merge(self.stage, own)
        stage["steps"] = max(round(steps * given.get(_SHARE, 1.0)), 1)
        stage["lr"] = rates[given.get(_LR_OF, method)]
        return stage

    def trial(self, method: str, rate: float, chosen: Mapping[str, float]) -> RunConfig:
        """The run that a learning rate is judged by, on validation problems alone."""
        config = self.config(
            method,
            self.selection.seed,
            {**chosen, method: rate},
            steps=self.selection.steps or self.steps,
        )
        untested = config.evaluation.model_copy(update={"test_samples": None})
        return config.model_copy(update={"evaluation": untested})

    def waits_for(self, method: str) -> set[str]:
        """Methods whose learning rate has to be chosen first."""
        return {stage[_LR_OF] for stage in self.methods[method] if _LR_OF in stage}


def load_recipe(folder: Path, profile: str) -> Recipe:
    """The recipe in ``recipe.yaml`` under the profile in ``profiles/<profile>.yaml``.

    Raises:
        UpgeError: an unknown profile, or a recipe that makes no sense.
    """
    profiles = {path.stem: path for path in (folder / "profiles").glob("*.yaml")}
    if profile not in profiles:
        raise unknown("profile", profile, profiles)
    return build(merge(read_yaml(folder / "recipe.yaml"), read_yaml(profiles[profile])), Recipe)
