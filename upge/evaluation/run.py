"""Sampling and grading responses to whole suites: one path, in memory or into a folder.

While a part is sampled, the one before it is graded and kept: grading waits for other processes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from upge.common.errors import UpgeError
from upge.evaluation.responses import Response, Responses
from upge.rollouts.cached import CachedSampler
from upge.rollouts.sampler import Sampler, Sampling, derive_seed
from upge.tasks.encoding import encode
from upge.tasks.grading import Verdict
from upge.tasks.problem import Problem
from upge.tasks.verifier import Verifier

#: Responses to a problem that share a seed and are sampled together.
BLOCK = 64

#: Responses sampled at a time where they stay in memory, at most.
_IN_FLIGHT = 4096

#: The responses to each problem of a part.
Answers = list[list[Response]]


class Part(NamedTuple):
    """Problems of a suite that are sampled, graded and kept together.

    Attributes:
        suite: its name.
        places: of the problems, in the suite.
        problems: as the model reads them.
        samples: responses to each.
    """

    suite: str
    places: Sequence[int]
    problems: Sequence[Problem]
    samples: int


def parts(
    suite: str,
    problems: Sequence[Problem],
    samples: int,
    rows: int,
    *,
    fewest: int = 1,
    order: Iterable[int] | None = None,
    done: Collection[int] = (),
) -> list[Part]:
    """A suite in parts.

    Args:
        suite: its name.
        problems: all of its problems.
        samples: responses to each.
        rows: responses sampled at a time, at most, but always a :data:`BLOCK` of a problem.
        fewest: parts that there are, if there are as many problems, for processes to share.
        order: places of the problems to ask; all by default.
        done: places to leave out; the parts are the same without them, so that nothing is sampled
            in another batch because of a kill.
    """
    places = list(range(len(problems)) if order is None else order)
    size = max(min(rows // min(samples, BLOCK), -(-len(places) // fewest)), 1)
    chunks = [places[start : start + size] for start in range(0, len(places), size)]
    left = [[place for place in chunk if place not in done] for chunk in chunks]
    return [Part(suite, own, [problems[i] for i in own], samples) for own in left if own]


@dataclass(frozen=True)
class Evaluator:
    """Samples and grades responses.

    A problem's responses depend on the seed, its prompt and the policy, not on the other problems
    (but for rounding in batches of another shape).

    Args:
        sampler: the rollout backend.
        tokenizer: encodes prompts and decodes responses.
        verifier: grades them.
        settings: how they are sampled.
        seed: of the sampling.
    """

    sampler: Sampler
    tokenizer: Any
    verifier: Verifier
    settings: Sampling
    seed: int = 0

    def run(
        self,
        parts: Iterable[Part],
        keep: Callable[[Part, Answers], None],
        progress: Callable[[str, int], None] = lambda suite, responses: None,
    ) -> None:
        """Sample, grade and keep each part; whatever ends this, sampled parts are kept.

        Args:
            parts: what to ask.
            keep: called with each part and its responses, in another thread.
            progress: called with the suite and the number of responses that were sampled.

        Raises:
            UpgeError: a prompt can't be encoded; the policy gives its responses no finite
                probability; what ``keep`` and the verifier raise.
        """
        with ThreadPoolExecutor(1) as keeper:
            kept: Future[None] | None = None
            for part in parts:
                sampled = self._sample(part)
                progress(part.suite, len(part.problems) * part.samples)
                before, kept = kept, keeper.submit(self._keep, part, sampled, keep)
                if before is not None:
                    before.result()
            if kept is not None:
                kept.result()

    def _sample(self, part: Part) -> list[list[tuple[str, int, bool]]]:
        """Text, length and whether it ended by itself, of the responses to each problem."""
        prompts = [encode(self.tokenizer, problem.prompt) for problem in part.problems]
        sampled: list[list[tuple[str, int, bool]]] = [[] for _ in prompts]
        for first in range(0, part.samples, BLOCK):
            count = min(BLOCK, part.samples - first)
            seeds = [derive_seed(self.seed, "evaluation", p.prompt, first) for p in part.problems]
            rollouts = self.sampler(prompts, count, self.settings, seeds)
            if not (self._hides_logp or rollouts.logp.isfinite().all()):
                raise UpgeError(
                    "the policy gives its responses no finite probability, it has broken; start "
                    "anew with a lower lr, or take another policy"
                )
            lengths = rollouts.mask.sum(1).tolist()
            texts = rollouts.texts(self.tokenizer)
            for row, one in enumerate(zip(texts, lengths, rollouts.finished.tolist(), strict=True)):
                sampled[row // count].append(one)
        return sampled

    @property
    def _hides_logp(self) -> bool:
        """Whether the backend may know probabilities only after top-p, and then says NaN."""
        backend = getattr(self.sampler, "sampler", self.sampler)  # the loop's has one inside
        return self.settings.top_p < 1 and not isinstance(backend, CachedSampler)

    def _keep(
        self,
        part: Part,
        sampled: list[list[tuple[str, int, bool]]],
        keep: Callable[[Part, Answers], None],
    ) -> None:
        problems = [problem for problem in part.problems for _ in range(part.samples)]
        texts = [text for own in sampled for text, _, _ in own]
        grades = iter(grade(self.verifier, texts, problems))

        def graded(text: str, tokens: int, finished: bool) -> Response:
            reward, verdict = next(grades)
            return Response(text, reward, tokens, finished, verdict)

        keep(part, [[graded(*one) for one in own] for own in sampled])


def grade(
    verifier: Verifier, texts: Sequence[str], problems: Sequence[Problem]
) -> list[tuple[float, str]]:
    """Reward and verdict of each response, the verdict the verifier's own if it has any."""
    judge: Callable[..., Sequence[Verdict]] | None = getattr(verifier, "judge", None)
    if judge is not None:
        return [(float(v is Verdict.RIGHT), str(v)) for v in judge(texts, problems)]
    rewards = verifier(texts, problems)
    return [(r, str(Verdict.RIGHT if r > 0 else Verdict.WRONG)) for r in rewards]


def respond_suites(
    suites: Mapping[str, Sequence[Problem]],
    *,
    samples: int,
    rank: int = 0,
    world: int = 1,
    gather: Callable[[Mapping[int, Any]], Iterable[Mapping[int, Any]]] = lambda own: [own],
    **evaluator: Any,
) -> dict[str, Responses]:
    """Responses to several suites, sampled together so that batches are full, and kept in memory.

    Args:
        suites: problems by suite.
        samples: responses to each problem.
        rank: of this process, of several that share the problems and all call this.
        world: number of these processes.
        gather: returns the shares of all processes, given this one's.
        evaluator: what :class:`Evaluator` takes.

    Raises:
        UpgeError: no problem; see :meth:`Evaluator.run`.
    """
    asks = Evaluator(**evaluator)
    problems = [problem for own in suites.values() for problem in own]
    if not problems:
        raise UpgeError("there are no problems to respond to; name a file or suite that has some")
    lengths = [len(encode(asks.tokenizer, problem.prompt)) for problem in problems]
    order = sorted(range(len(problems)), key=lengths.__getitem__)[rank::world]
    found: dict[int, list[Response]] = {}
    asks.run(
        parts("", problems, samples, _IN_FLIGHT, order=order),
        lambda part, answers: found.update(zip(part.places, answers, strict=True)),
    )
    answers = iter([own for _, own in sorted(p for share in gather(found) for p in share.items())])
    return {name: Responses(own, [next(answers) for _ in own]) for name, own in suites.items()}


def respond(problems: Sequence[Problem], **options: Any) -> Responses:
    """:func:`respond_suites` of one suite.

    Raises:
        UpgeError: see :func:`respond_suites`.
    """
    return respond_suites({"": problems}, **options)[""]
