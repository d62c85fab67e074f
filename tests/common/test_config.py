"""Recipes: every mistake in a file is named in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from upge import UpgeError
from upge.common.config import load


@dataclass(frozen=True)
class Recipe:
    steps: int
    rate: float
    name: str = "base"
    seeds: tuple[int, ...] = (0,)
    kind: Literal["a", "b"] = "a"
    cap: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UpgeError(f"steps: got {self.steps}, wanted at least 1")


def read(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, Recipe)


def test_values_get_their_types(tmp_path: Path) -> None:
    recipe = read(tmp_path, "steps: 3\nrate: 1\nseeds: [1, 2]\nkind: b\n")
    assert recipe == Recipe(3, 1.0, seeds=(1, 2), kind="b")
    assert isinstance(recipe.rate, float)


def test_exponents_without_a_point_are_numbers(tmp_path: Path) -> None:
    assert read(tmp_path, "steps: 1\nrate: 5e-6\n").rate == 5e-6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 1\nrat: 1\n", "recipe.yaml: unknown key 'rat'; did you mean 'rate'?"),
        ("steps: 1\n", "recipe.yaml: rate: is missing"),
        ("steps: 1.5\nrate: 1\n", "recipe.yaml: steps: got 1.5, wanted a whole number"),
        ("steps: true\nrate: 1\n", "recipe.yaml: steps: got True, wanted a whole number"),
        ("steps: 1\nrate: fast\n", "recipe.yaml: rate: got 'fast', wanted a number"),
        ("steps: 1\nrate: 1\nseeds: 3\n", "seeds: got 3, wanted a list"),
        ("steps: 1\nrate: 1\nseeds: [a]\n", "seeds.0: got 'a', wanted a whole number"),
        ("steps: 1\nrate: 1\nkind: c\n", "kind: got 'c', wanted 'a' or 'b'"),
        ("steps: 1\nrate: 1\ncap: x\n", "cap: got 'x', wanted a number"),
        ("steps: 0\nrate: 1\n", "recipe.yaml: steps: got 0, wanted at least 1"),
        ("- 1\n", "recipe.yaml: got list, wanted a mapping of keys to values"),
        ("steps: 1\nrate: 1\nsteps: 2\n", "is no YAML (the key 'steps' is there twice in"),
        ("steps: [1\n", "recipe.yaml: is no YAML"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UpgeError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UpgeError, match=r"nowhere\.yaml: can't be read"):
        load(tmp_path / "nowhere.yaml", Recipe)
