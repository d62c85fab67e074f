"""Suites of problems as a model reads them, checked before the model is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from upge.common.errors import UpgeError
from upge.tasks.benchmarks import SAMPLES, load, local_file
from upge.tasks.encoding import check_vocabulary, encode, tokens_left
from upge.tasks.problem import Problem
from upge.tasks.templates import CHAT, prompt

#: The longest response, in tokens, that the paper allows (section 4.1).
MAX_TOKENS = 8192


@dataclass(frozen=True)
class Suite:
    """A suite's problems for a model.

    Args:
        name: of the suite, or of its file.
        problems: as the model reads them; the first ones, if they are limited.
        samples: responses to each.
        digest: of all its questions and answers, limited or not, whatever the prompts around them.
        of: how many problems these are.
    """

    name: str
    problems: Sequence[Problem]
    samples: int
    digest: str
    of: int


def make_suite(
    name: str,
    problems: Sequence[Problem],
    written: Sequence[Problem],
    samples: int,
    limit: int | None = None,
) -> Suite:
    """A suite of problems.

    Args:
        name: of the suite.
        problems: as the model reads them.
        written: the same with the questions as they are written, whatever prompts are made of them.
        samples: responses to each.
        limit: the first so many problems; None for all.

    Raises:
        UpgeError: a problem without an answer, or with text that is no Unicode.
    """
    for place, problem in enumerate(written, 1):
        if problem.answer.strip() in ("", "None"):  # None is what the hub's columns may hold
            raise UpgeError(
                f"{name}: its problem {place} has no answer, so nothing can be graded; take a "
                "split or file that has answers"
            )
    content = json.dumps([[p.prompt, p.answer, p.family] for p in written], ensure_ascii=False)
    try:
        digest = hashlib.sha256(content.encode()).hexdigest()
    except UnicodeEncodeError as error:
        raise UpgeError(f"{name}: has half of a surrogate pair, no character ({error})") from error
    return Suite(name, problems[:limit], samples, digest, len(written))


def split_names(texts: Iterable[str]) -> list[str]:
    """The names in comma lists, each once.

    Raises:
        UpgeError: none, an unknown one, or two files of one name.
    """
    names = [name.strip() for text in texts for name in text.split(",")]
    names = list(dict.fromkeys(filter(None, names)))
    if not names:
        raise UpgeError("--benchmark: got no name, wanted some, as aime24,math500")
    places: dict[str, str] = {}
    for name in names:
        local_file(name)  # says which there are
        other = places.setdefault(Path(name).stem, name)
        if other != name:
            raise UpgeError(f"--benchmark: {other} and {name} have one name; rename a file")
    return names


def read_benchmarks(
    names: Sequence[str],
    template: str,
    tokenizer: Any,
    samples: int | None = None,
    limit: int | None = None,
) -> list[Suite]:
    """Benchmarks by their names, from UPGE_DATA or the hub.

    Args:
        names: as :func:`upge.tasks.benchmarks.load` takes them.
        template: how a problem becomes a prompt; see :mod:`upge.tasks.templates`.
        tokenizer: the model's.
        samples: responses to each problem; None for as many as the paper takes.
        limit: the first so many problems of each; None for all.

    Raises:
        UpgeError: see :func:`~upge.tasks.benchmarks.load`,
            :func:`~upge.tasks.templates.prompt` and :func:`make_suite`.
    """
    suites = []
    for name in names:
        written, stem = load(name), Path(name).stem
        problems = [replace(p, prompt=prompt(p.prompt, template, tokenizer)) for p in written]
        count = samples or SAMPLES.get(stem, 1)
        suites.append(make_suite(stem, problems, written, count, limit))
    return suites


def default_template(tokenizer: Any) -> str:
    """The template that fits a model, as the paper prompts such models.

    ``qwen`` where the tokenizer's own template already asks for a boxed answer, as Qwen2.5-Math's
    does; ``chat`` where it has another one; ``zero`` where it has none, as those of base models.
    """
    own = getattr(tokenizer, "chat_template", None)
    if not own:
        return "zero"
    return "qwen" if "\\boxed{" in str(own) else CHAT


def check_positions(suites: Sequence[Suite], tokenizer: Any, config: Any, max_tokens: int) -> int:
    """Tokens of the longest prompt and response, where the model has tokens and positions for all.

    Args:
        suites: what will be asked.
        tokenizer: the model's.
        config: the model's configuration.
        max_tokens: the longest response.

    Raises:
        UpgeError: a prompt can't be encoded; the tokenizer is another model's; the longest prompt
            and response are longer.
    """
    prompts = {own.name: [encode(tokenizer, p.prompt) for p in own.problems] for own in suites}
    check_vocabulary([ids for own in prompts.values() for ids in own], config)
    lengths = {name: max(map(len, own)) for name, own in prompts.items()}
    name = max(lengths, key=lengths.__getitem__)
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and lengths[name] + max_tokens > positions:
        default = ", the paper's" if max_tokens == MAX_TOKENS else ""
        raise UpgeError(
            f"--max-tokens: {max_tokens}{default}, and the longest prompt ({lengths[name]} tokens "
            f"in {name}) are more than the model's {positions} positions; wanted "
            f"{tokens_left(positions - lengths[name])}"
        )
    return lengths[name] + max_tokens
