"""From files to a run: base.yaml, then the settings, the method, and the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from upge.common.config import build, merge, read_yaml
from upge.common.errors import UpgeError, unknown
from upge.training.config import RunConfig

FOLDER = Path(__file__).parent

#: The paper's formulas, and the official scripts.
SETTINGS = ("published", "coded")


def models() -> list[str]:
    """The names of the paper's models."""
    return sorted(path.stem for path in (FOLDER / "models").glob("*.yaml"))


def methods(settings: str) -> list[str]:
    """The names of the methods that have such settings."""
    return list(_settings(settings)["methods"])


def model_file(model: str) -> dict[str, Any]:
    """What differs for a model.

    Raises:
        UpgeError: an unknown model.
    """
    if model not in models():
        raise unknown("model", model, models())
    return read_yaml(FOLDER / "models" / f"{model}.yaml")


def run_config(model: str, settings: str, method: str, seed: int | None = None) -> RunConfig:
    """The run of a model and a method under these settings.

    Raises:
        UpgeError: an unknown model, setting or method.
    """
    base, shared, model_part = (
        read_yaml(FOLDER / "base.yaml"),
        _settings(settings),
        model_file(model),
    )
    if method not in shared["methods"]:
        raise unknown(f"method as {settings}", method, shared["methods"])
    stage = merge(base["stage"], shared["stage"])
    stages = [
        merge(merge(stage, part), model_part["algorithms"].get(part["algorithm"], {}))
        for part in shared["methods"][method]
    ]
    run = merge(base["run"], model_part["run"])
    run |= {"name": f"{model}-{settings}-{method}", "stages": stages}
    return build(run if seed is None else run | {"seed": seed}, RunConfig)


def _settings(settings: str) -> dict[str, Any]:
    if settings not in SETTINGS:
        raise UpgeError(f"settings: got {settings!r}, wanted {' or '.join(SETTINGS)}")
    return read_yaml(FOLDER / f"{settings}.yaml")
