"""From a run's configuration to its data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from string import Formatter
from typing import Any

from upge.common.errors import UpgeError
from upge.models.pretrained import load_tokenizer
from upge.tasks import reasoning_gym
from upge.tasks.benchmarks import UNSEEN, load
from upge.tasks.confined import Settings
from upge.tasks.contamination import overlaps
from upge.tasks.dataset import Dataset, split_off, synthetic
from upge.tasks.lengths import within
from upge.tasks.math_verifier import BoxedAnswer
from upge.tasks.problem import Problem, load_problems
from upge.tasks.synthetic import Split
from upge.tasks.templates import demonstration, prompt
from upge.tasks.verifier import MarkedAnswer, Verifier
from upge.training.config import Benchmarks, GymSets, JsonLines, ReasoningGym, RunConfig, Synthetic


def load_dataset(config: RunConfig) -> Dataset:
    """The problems that a run trains on, and is measured on."""
    data = config.data
    if isinstance(data, Benchmarks):
        return _benchmarks(data, config)
    if isinstance(data, ReasoningGym):
        return _reasoning_gym(data, config)
    return _synthetic(data) if isinstance(data, Synthetic) else _json_lines(data)


def _benchmarks(data: Benchmarks, config: RunConfig) -> Dataset:
    tokenizer = load_tokenizer(config.model)
    tests = {Path(name).stem: load(name) for name in data.test_sets}
    if data.validation_set is None:
        train, validation = split_off(load(data.train_set), data.held_out, seed=0)
    else:
        train, validation = load(data.train_set), load(data.validation_set)
    named = len(train)
    train, dropped = _apart(train, {"the validation problems": validation, **tests}, data.overlap)
    train, long = within(
        _prompted(train, data.template, tokenizer),
        lambda text: len(tokenizer.encode(text, add_special_tokens=False)),
        prompt=data.max_prompt,
        demonstration=config.max_tokens if config.long_demonstrations == "drop" else None,
    )
    verifier = BoxedAnswer()
    wrong: Counter[str] = Counter()
    if data.wrong_demonstrations == "drop":
        train, wrong = right(train, verifier)
    dropped += long + wrong
    if not train:
        reasons = ", ".join(f"{count} × {why}" for why, count in dropped.items())
        raise UpgeError(
            f"train_set: none of {named} problems is left to train on (dropped: {reasons}); take "
            "another one or other test_sets, or overlap: keep"
        )
    return Dataset(
        train,
        _prompted(validation, data.template, tokenizer),
        {name: _prompted(test, data.template, tokenizer) for name, test in tests.items()},
        verifier,
        unseen=frozenset(UNSEEN).intersection(tests),
        dropped=dropped,
    )


def right(problems: list[Problem], verifier: Verifier) -> tuple[list[Problem], Counter[str]]:
    """The problems without demonstrations that the verifier grades as wrong, and how many had one.

    An empty demonstration is none.
    """
    grades = verifier([problem.demonstration or "" for problem in problems], problems)
    wrong = [
        bool(problem.demonstration) and grade < 1
        for problem, grade in zip(problems, grades, strict=True)
    ]
    kept = [
        replace(problem, demonstration=None) if is_wrong else problem
        for problem, is_wrong in zip(problems, wrong, strict=True)
    ]
    return kept, +Counter({"demonstration that the verifier grades as wrong": sum(wrong)})


def _apart(
    train: list[Problem], others: Mapping[str, list[Problem]], overlap: str
) -> tuple[list[Problem], Counter[str]]:
    """Training problems that no other set has, and how many each has."""
    found = [] if overlap == "keep" else overlaps(train, others)
    if found and overlap == "refuse":
        first = found[0]
        raise UpgeError(
            f"overlap: {len(found)} training problems are tested on too, as number "
            f"{first.train + 1} ({first.suite}, number {first.test + 1}: "
            f"{train[first.train].prompt[:60]!r}); set overlap: drop"
        )
    places = {overlap.train for overlap in found}
    kept = [problem for place, problem in enumerate(train) if place not in places]
    reasons = {"same": "the same as in {}", "passage": "a passage in common with {}"}
    return kept, Counter(reasons[overlap.kind].format(overlap.suite) for overlap in found)


def _prompted(problems: list[Problem], template: str, tokenizer: Any) -> list[Problem]:
    return [
        replace(
            problem,
            prompt=prompt(problem.prompt, template, tokenizer),
            demonstration=problem.demonstration
            and demonstration(problem.demonstration, problem.answer),
        )
        for problem in problems
    ]


def _reasoning_gym(data: ReasoningGym, config: RunConfig) -> Dataset:
    MarkedAnswer(data.marker)  # says which markers there are
    sealed: dict[tuple[str, str], str] = {}

    def load(sets: GymSets, split: Split) -> dict[str, list[Problem]]:
        loaded: dict[str, list[Problem]] = {}
        for name, fields in sets.items():
            given = dict(fields)
            loaded[name] = []
            for problem, grader in reasoning_gym.load(given.pop("dataset", name), given, split):
                problem = _gym_prompted(problem, data)
                sealed[problem.prompt, problem.answer] = grader
                loaded[name].append(problem)
        return loaded

    train = [problem for problems in load(data.train, "train").values() for problem in problems]
    tests = load(data.test, "test")
    if data.validation is None:
        train, validation = split_off(train, data.held_out, seed=0)
    else:
        sets = load(data.validation, "validation").values()
        validation = [problem for problems in sets for problem in problems]
    _check_solutions(train, data, config)
    held = {p.prompt for problems in (validation, *tests.values()) for p in problems}
    kept = [problem for problem in train if problem.prompt not in held]
    if not kept:
        raise UpgeError("data.train: all of its problems are validated or tested on too; take more")
    verifier = reasoning_gym.ScoredAnswer(data.marker, sealed, Settings(data.answer_seconds))
    shown, wrong = right(kept, verifier)
    dropped = Counter({"the same as one that is validated or tested on": len(train) - len(kept)})
    return Dataset(
        shown, validation, tests, verifier, unseen=frozenset(data.unseen), dropped=dropped + wrong
    )


def _gym_prompted(problem: Problem, data: ReasoningGym) -> Problem:
    solution = problem.demonstration
    if solution and data.marker not in solution:
        solution = f"{solution}\n{data.marker} {problem.answer}"
    prompt = _filled(data.prompt, problem=problem.prompt)
    return replace(problem, prompt=prompt, demonstration=solution)


def _check_solutions(problems: list[Problem], data: ReasoningGym, config: RunConfig) -> None:
    """Refuse to learn from solutions where the data sets have none."""
    readers = [stage.algorithm for stage in config.stages if stage.reads_demonstrations]
    if readers and not any(problem.demonstration for problem in problems):
        raise UpgeError(
            f"data.train: {readers[0]} learns from demonstrations, but {', '.join(data.train)} has "
            f"no worked solutions; take gsm_symbolic or {reasoning_gym.WORD_PROBLEMS}, or an "
            "algorithm without demonstrations, as grpo"
        )


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
    return Dataset(train, validation, tests, MarkedAnswer(data.marker, data.exact))


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
