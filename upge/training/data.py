"""From a run's configuration to its data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from string import Formatter

from upge.errors import UpgeError
from upge.tasks.dataset import Dataset, split_off, synthetic
from upge.tasks.problem import Problem, load_problems
from upge.tasks.verifier import MarkedAnswer
from upge.training.config import JsonLines, RunConfig, Synthetic


def load_dataset(config: RunConfig) -> Dataset:
    """The problems that a run trains on, and is measured on."""
    data = config.data
    return _synthetic(data) if isinstance(data, Synthetic) else _json_lines(data)


def _synthetic(data: Synthetic) -> Dataset:
    supply = data.supply
    return synthetic(
        problems=supply.problems,
        demonstrations=supply.demonstrations,
        families=supply.families,
        levels=supply.levels,
        validation=data.validation,
        test=data.test,
        seed=supply.seed,
    )


def _json_lines(data: JsonLines) -> Dataset:
    train = [_formatted(problem, data) for problem in load_problems(Path(data.train))]
    if data.validation is None:
        train, validation = split_off(train, data.held_out, seed=0)
    else:
        validation = [_formatted(p, data) for p in load_problems(Path(data.validation))]
    tests = {}
    if data.test is not None:
        path = Path(data.test)
        tests[path.stem] = [_formatted(problem, data) for problem in load_problems(path)]
    return Dataset(train, validation, tests, MarkedAnswer(data.marker))


def _formatted(problem: Problem, data: JsonLines) -> Problem:
    prompt = _filled(data.prompt, problem=problem.prompt)
    solution = problem.demonstration
    worked = solution and _filled(data.demonstration, solution=solution, answer=problem.answer)
    return replace(problem, prompt=prompt, demonstration=worked or None)


def _filled(template: str, **texts: str) -> str:
    """The template with texts for its names: no attributes, items, conversions or formats of them.

    Raises:
        UpgeError: it holds something else in braces.
    """
    try:
        for _, name, form, conversion in Formatter().parse(template):
            if name is not None and (name not in texts or form or conversion):
                raise KeyError(name)
        return template.format(**texts)
    except (KeyError, ValueError) as error:
        raise UpgeError(
            f"data: a template is wrong ({error!r}); 'prompt' may hold {{problem}}, "
            "'demonstration' {solution} and {answer}"
        ) from error
