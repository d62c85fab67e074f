"""How many of many samples are right, problem by problem, of a trained policy on a suite."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from experiments.records import NAMED, read_checked, read_record
from upge.common.config import build
from upge.common.errors import UpgeError, unknown
from upge.tasks.problem import Problem
from upge.training.config import RunConfig
from upge.training.data import load_dataset
from upge.training.records import RunFolder

#: What a row of the counts is.
COLUMNS = ("run", "method", "seed", "suite", "level", "prompt", "right", "samples")


@dataclass(frozen=True)
class Policy:
    """A finished run's.

    Args:
        path: the run's folder.
        config: its configuration.
    """

    path: Path
    config: RunConfig


def find_policies(folder: Path, methods: Sequence[str]) -> list[Policy]:
    """The finished runs of a comparison, by seed and in the methods' order."""
    named = read_checked(folder / "comparison.json", NAMED)
    paths = [folder.parent / name for name in (named.runs if named else ())]
    found = [Policy(path, _config(path)) for path in paths if RunFolder(path).result is not None]
    wanted = [policy for policy in found if policy.config.name in methods]
    return sorted(wanted, key=lambda p: (p.config.seed, methods.index(p.config.name)))


def _config(run: Path) -> RunConfig:
    given = read_record(run / "config.json")
    try:
        return build({key: value for key, value in given.items() if key != "key"}, RunConfig)
    except UpgeError as error:
        raise UpgeError(f"{run / 'config.json'}: {error}; make the run again") from error


def hardest(policies: Sequence[Policy], count: int) -> list[str]:
    """The suites in distribution on which these policies are right least often, hardest first.

    AIME and AMC are the paper's hardest as well: where one sample is nearly always right, many
    samples tell policies apart no better than one.
    """
    results = [RunFolder(policy.path).result or {} for policy in policies]
    accuracy = pd.DataFrame([result.get("suites", {}) for result in results]).mean()
    unseen = load_dataset(policies[0].config).unseen
    ordered = accuracy.drop(list(unseen), errors="ignore").sort_values(kind="stable")
    return [str(name) for name in ordered.index[:count]]


@dataclass(frozen=True)
class Job:
    """A policy's samples on a suite.

    Args:
        policy: who answers.
        suite: what.
        problems: how many problems, as many of each level.
        samples: responses to each.
    """

    policy: Policy
    suite: str
    problems: int
    samples: int

    @property
    def responses(self) -> int:
        """All of them."""
        return self.problems * self.samples


def count(job: Job) -> pd.DataFrame:
    """Sample and grade as the run's own test does; :data:`COLUMNS`, a row a problem.

    Raises:
        UpgeError: a policy that can't be loaded, or fewer problems than are asked for.
    """
    from upge.evaluation.run import respond
    from upge.models.pretrained import load_pretrained
    from upge.rollouts import CachedSampler

    config, dataset = job.policy.config, load_dataset(job.policy.config)
    model, tokenizer = load_pretrained(str(RunFolder(job.policy.path).policy))
    responses = respond(
        first_of_levels(dataset.tests[job.suite], job.problems),
        sampler=CachedSampler(model, tokenizer.eos_token_id),
        tokenizer=tokenizer,
        verifier=dataset.verifier,
        samples=job.samples,
        settings=config.evaluation.sampling(config.max_tokens),
        seed=config.seed,
    )
    right = (responses.rewards > 0).sum(1).tolist()
    fixed = (job.policy.path.name, config.name, config.seed, job.suite)
    rows = [
        (*fixed, problem.level, problem.prompt, own, job.samples)
        for problem, own in zip(responses.problems, right, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


#: As many as AIME has.
_MOST = 30


def counted(
    tests: Mapping[str, Sequence[Problem]], suites: Sequence[str], problems: int | None
) -> dict[str, int]:
    """How many problems of each suite are answered.

    Args:
        tests: all suites.
        suites: those that are asked for.
        problems: of each; None for up to 30, as many of each level.

    Raises:
        UpgeError: an unknown suite, or a number that its levels can't share.
    """
    for suite in suites:
        if suite not in tests:
            raise unknown("suite", suite, tests)
    counts = {suite: problems or _default(tests[suite]) for suite in suites}
    for suite, count in counts.items():
        first_of_levels(tests[suite], count)
    return counts


def _default(problems: Sequence[Problem]) -> int:
    levels = _by_level(problems)
    share = min(_MOST // len(levels), *map(len, levels.values()))
    return len(levels) * max(share, 1)


def _by_level(problems: Sequence[Problem]) -> Mapping[int | None, list[Problem]]:
    levels = defaultdict[int | None, list[Problem]](list)
    for problem in problems:
        levels[problem.level].append(problem)
    return levels


def first_of_levels(problems: Sequence[Problem], count: int) -> list[Problem]:
    """``count`` problems, the first ones of each level.

    Raises:
        UpgeError: not as many of each level, or fewer than that.
    """
    levels = _by_level(problems)
    share, rest = divmod(count, len(levels))
    most = min(map(len, levels.values()))
    if rest or not 1 <= share <= most:
        raise UpgeError(
            f"--problems: got {count}, wanted a multiple of the {len(levels)} levels up to "
            f"{most * len(levels)}"
        )
    return [problem for own in levels.values() for problem in own[:share]]
