"""The run that a file or the options of ``upge train`` describe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from upge.common.errors import UpgeError
from upge.common.files import check_name
from upge.common.optional import require
from upge.models.bases import WORDS, base_folder

if TYPE_CHECKING:
    from upge.training.config import RunConfig

#: Default max_tokens: for the synthetic suites, word problems, and texts.
SYNTHETIC_TOKENS, WORDS_TOKENS, TEXT_TOKENS = 64, 176, 512

#: Default learning rates: for the package's bases, and the paper's (official scripts).
_TINY_RATE, _RATE = 1e-3, 5e-6

#: Held-out validation problems: a tenth of the file, at most the configuration's default.
_HELD_OUT = 64


def resolve(config: Path | None, made: dict[str, Any], settings: list[str] | None) -> RunConfig:
    """The run that a file or options describe, with settings applied.

    Args:
        config: a YAML or JSON file.
        made: options in place of a file, by name, without those that were left out.
        settings: ``key=value`` texts.

    Raises:
        UpgeError: both a file and options, or neither; a path that isn't UTF-8; see also
            :func:`upge.common.config.build` and :func:`upge.common.config.override`.
    """
    for module in ("pydantic", "yaml"):
        require(module, "train")
    from upge.common.config import build, override, read_yaml
    from upge.training.config import RunConfig

    for name in ("model", "data"):
        check_name(Path(made.get(name, "")))
    if config is None:
        given = _from_options(made)
    elif made:
        option = next(iter(made)).replace("_", "-")
        raise UpgeError(f"--{option}: goes without a CONFIG; change its values by --set KEY=VALUE")
    else:
        given = read_yaml(config)
        given.pop("key", None)  # which config.json has in a run's folder
    for setting in settings or ():
        override(given, setting)
    return build(_named(given), RunConfig)


def _named(given: dict[str, Any]) -> dict[str, Any]:
    """The values with a name; by default the algorithms of the stages."""
    stages = given.get("stages")
    if "name" in given or not isinstance(stages, list):
        return given
    algorithms = [stage.get("algorithm") for stage in stages if isinstance(stage, dict)]
    return {"name": "-".join(map(str, algorithms)), **given} if algorithms else given


def _from_options(made: dict[str, Any]) -> dict[str, Any]:
    if "algorithm" not in made:
        raise UpgeError("what to train? Name a CONFIG.yaml, or an algorithm by --algorithm")
    model = made.get("model", "tiny")
    is_base = base_folder(model) is not None
    is_tiny = is_base and model != WORDS
    stage = {
        "algorithm": made["algorithm"],
        "steps": made.get("steps", 200),
        "lr": made.get("lr", _TINY_RATE if is_base else _RATE),
    }
    return {
        "name": made["algorithm"],
        "model": model,
        "max_tokens": made.get("max_tokens", _longest(model, is_tiny or "data" not in made)),
        "seed": made.get("seed", 0),
        "data": _json_lines(made["data"], is_tiny) if "data" in made else _problems(model),
        "stages": [
            stage | {key: made[key] for key in ("prompts_per_step", "group_size") if key in made}
        ],
    }


def _longest(model: str, synthetic: bool) -> int:
    if model == WORDS:
        return WORDS_TOKENS
    return SYNTHETIC_TOKENS if synthetic else TEXT_TOKENS


def _problems(model: str) -> dict[str, Any]:
    """What a model is trained on where no data are named."""
    if model != WORDS:
        return {"kind": "synthetic"}
    suites = {
        part: {"dataset": "word_problems", "parts": [part], "size": 108}
        for part in ("worked", "bare", "unseen")
    }
    return {
        "kind": "reasoning_gym",
        "train": {"word_problems": {"size": 810}},
        "validation": {"word_problems": {"size": 108}},
        "test": suites,
        "unseen": ["unseen"],
    }


#: Templates for the tiny bases, whose alphabet has neither blank nor newline.
_TINY_TEMPLATES = {
    "prompt": "{problem}",
    "demonstration": "{solution}#{answer}",
    "marker": "#",
}


def _json_lines(path: Path, is_tiny: bool) -> dict[str, Any]:
    from upge.tasks.problem import load_problems

    held_out = min(max(len(load_problems(path)) // 10, 1), _HELD_OUT)
    templates = _TINY_TEMPLATES if is_tiny else {}
    return {"kind": "jsonl", "train": str(path), "held_out": held_out, **templates}
