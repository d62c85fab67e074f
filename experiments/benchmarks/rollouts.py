"""How long sampling takes, a response token: ours against transformers' ways and vLLM's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter
from typing import Any

import torch

from upge.common.errors import UpgeError
from upge.models.pretraining import WORKED
from upge.rollouts import CachedSampler, Sampler, Sampling, open_sampler
from upge.tasks.benchmarks import load
from upge.tasks.synthetic import IN_DISTRIBUTION, suite

#: Tokens of the longest response, as in the comparison's runs.
MAX_TOKENS = 64

#: The backend that others are compared with.
OURS = "CachedSampler"


@dataclass(frozen=True)
class Workload:
    """What is sampled.

    Args:
        name: as the table calls it.
        questions: prompts, at random over families and levels.
        samples: responses to each.
        mark: what stands before each prompt.
        temperature, top_p: of the sampling.
        data: a data set's name, or a file; the package's own families if empty.
    """

    name: str
    questions: int
    samples: int
    mark: str = ""
    temperature: float = 1.0
    top_p: float = 1.0
    data: str = ""

    def prompts(self, tokenizer: Any) -> list[list[int]]:
        """Ids of the prompts, always the same."""
        texts = [self.mark + text for text in Random(0).sample(self._pool(), self.questions)]
        return [tokenizer.encode(text, add_special_tokens=False) for text in texts]

    def _pool(self) -> list[str]:
        if self.data:
            return [f"{problem.prompt}\n" for problem in load(self.data)]
        return [p.prompt for family in IN_DISTRIBUTION for p in suite(family, "train", 10)]


WORKLOADS = (
    Workload("training step, 16 × 8, short answers", 16, 8),
    Workload("training step, 16 × 8, worked answers", 16, 8, mark=WORKED),
    Workload("validation, 180 × 4", 180, 4, temperature=0.6, top_p=0.95),
)


def of_data(data: str, questions: int, samples: int) -> Workload:
    """Problems in words."""
    return Workload(f"{Path(data).stem}, {questions} × {samples}", questions, samples, data=data)


#: A backend: from model, tokenizer, workload and seed to the number of tokens sampled.
Backend = Callable[[Any, Any, Workload, int], int]


def cached_sampler(model: Any, tokenizer: Any, work: Workload, seed: int) -> int:
    """Ours, which returns log-probabilities too."""
    return _tokens_of(CachedSampler(model, tokenizer.eos_token_id), tokenizer, work, seed)


def vllm(model: Any, tokenizer: Any, work: Workload, seed: int) -> int:
    """An engine that runs already, with the model's weights; returns log-probabilities too."""
    return _tokens_of(_engine(model, tokenizer), tokenizer, work, seed)


@lru_cache(maxsize=1)
def _engine(model: Any, tokenizer: Any) -> Sampler:
    return open_sampler("vllm", model, tokenizer)


def _tokens_of(sampler: Sampler, tokenizer: Any, work: Workload, seed: int) -> int:
    prompts = work.prompts(tokenizer)
    settings = Sampling(MAX_TOKENS, work.temperature, work.top_p)
    seeds = [seed * len(prompts) + i for i in range(len(prompts))]
    return int(sampler(prompts, work.samples, settings, seeds).mask.sum())


def generate(model: Any, tokenizer: Any, work: Workload, seed: int, cache: str = "dynamic") -> int:
    """``model.generate`` on the whole batch, padded left."""
    prompts = work.prompts(tokenizer)
    width = max(map(len, prompts))
    ids = torch.tensor([[_padding(tokenizer)] * (width - len(p)) + p for p in prompts])
    attention = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    torch.manual_seed(seed)
    with torch.inference_mode():
        tokens = model.generate(
            ids,
            attention_mask=attention,
            num_return_sequences=work.samples,
            **_settings(tokenizer, work),
            **({} if cache == "dynamic" else {"cache_implementation": cache}),
        )[:, ids.shape[1] :]
    ends = (tokens == tokenizer.eos_token_id).long()
    # What stands behind the first end of sequence is padding.
    return int((ends.cumsum(1) - ends == 0).sum())


def generate_static(model: Any, tokenizer: Any, work: Workload, seed: int) -> int:
    """``model.generate`` over a cache of fixed size."""
    return generate(model, tokenizer, work, seed, "static")


def generate_batch(model: Any, tokenizer: Any, work: Workload, seed: int) -> int:
    """``model.generate_batch``: continuous batching over a paged cache."""
    from transformers import GenerationConfig

    torch.manual_seed(seed)
    found = model.generate_batch(
        inputs=[ids for ids in work.prompts(tokenizer) for _ in range(work.samples)],
        generation_config=GenerationConfig(**_settings(tokenizer, work)),
        progress_bar=False,
    )
    assert len(found) == work.questions * work.samples
    return sum(len(output.generated_tokens) for output in found.values())


def _settings(tokenizer: Any, work: Workload) -> dict[str, Any]:
    return {
        "do_sample": True,
        "temperature": work.temperature,
        "top_p": work.top_p,
        "top_k": 0,
        "max_new_tokens": MAX_TOKENS,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": _padding(tokenizer),
    }


def _padding(tokenizer: Any) -> int:
    own = tokenizer.pad_token_id
    return int(tokenizer.eos_token_id if own is None else own)


BACKENDS: dict[str, Backend] = {
    OURS: cached_sampler,
    "generate": generate,
    "generate, static cache": generate_static,
    "generate_batch (continuous batching)": generate_batch,
    "vLLM": vllm,
}


@dataclass
class Times:
    """Seconds a response token of one backend on one workload, by repetition.

    Args:
        seconds: one number a repetition.
        failure: why it doesn't run, if it doesn't.
    """

    seconds: list[float] = field(default_factory=list)
    failure: str = ""


#: By workload and backend.
Measured = dict[str, dict[str, Times]]


def measure(
    model: Any,
    tokenizer: Any,
    repetitions: int,
    progress: Callable[[], object] = lambda: None,
    workloads: tuple[Workload, ...] = WORKLOADS,
) -> Measured:
    """Time all backends in turn, ``repetitions`` times over, after a first one that isn't counted.

    Args:
        model: the policy.
        tokenizer: its tokenizer.
        repetitions: that are counted.
        progress: called after each measurement.
        workloads: what is sampled.
    """
    found = {work.name: {name: Times() for name in BACKENDS} for work in workloads}
    for repetition in range(repetitions + 1):
        for work in workloads:
            for name in BACKENDS:
                times = found[work.name][name]
                _time(BACKENDS[name], times, (model, tokenizer, work, repetition), repetition > 0)
                progress()
    return found


def _time(
    backend: Backend, times: Times, given: tuple[Any, Any, Workload, int], kept: bool
) -> None:
    if times.failure:
        return
    started = perf_counter()
    try:
        tokens = backend(*given)
    except Exception as error:  # whatever keeps a backend from running here is the finding
        reason = " ".join(str(error).split()).replace("|", "∣")
        ours = isinstance(error, UpgeError)  # a sentence by itself
        times.failure = reason if ours else f"{type(error).__name__}: {reason[:80]}"
        return
    if kept:
        times.seconds.append((perf_counter() - started) / tokens)


def ratios(times: dict[str, Times], name: str) -> list[float]:
    """How many times longer than ours a backend took, by repetition."""
    return [a / b for a, b in zip(times[name].seconds, times[OURS].seconds, strict=True)]


def markdown(found: Measured) -> Iterator[str]:
    """The table, line by line."""
    yield "| workload | backend | µs a token, median | × ours, least | × ours, median |"
    yield "| --- | --- | --- | --- | --- |"
    for work, times in found.items():
        for name, own in times.items():
            if own.failure:
                yield f"| {work} | {name} | does not run here: {own.failure} | – | – |"
                continue
            compared = ratios(times, name)
            middle = f"{median(own.seconds) * 1e6:.0f}"
            shares = f"{min(compared):.2f} | {median(compared):.2f}"
            yield f"| {work} | {name} | {middle} | {shares} |"
