"""Does this launcher configuration take the step that one plain process takes?

A small random model takes steps on a random batch of ragged rows: by the training loop's own
gradient, optimizer and update under the user's launcher; and by a plain loop over the rows here,
which shares no code with it. AdamW's first step is blind to the gradient's length, so its epsilon
is made so large that the step *is* the gradient.

Not covered: what shows at full size alone (memory, half precision of large sums, offloaded buckets
that fill up only there), the second moments of AdamW over many steps, the rollout backend, and the
user's data.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import torch
from torch import Tensor

from upge.batch import TrajectoryBatch
from upge.common.config import build
from upge.common.errors import UpgeError, unknown
from upge.common.optional import require
from upge.training.config import Stage
from upge.training.diagnosis import Diagnosis, Rows, diagnose
from upge.training.gradient import GradientAccumulator
from upge.training.launch import open_accelerator, open_strategy, unchanged
from upge.training.processes import gather, is_broken, main_first, sum_over_processes
from upge.training.update import Updater

#: Architectures whose small random models launcher configurations can be tried on, and whether
#: input and output embeddings are one matrix there, as in most of their models.
ARCHITECTURES: Mapping[str, bool] = {"qwen2": True, "llama": False}

#: Rows a process, of which the last process lacks one; rows a micro-batch under accumulation.
_ROWS, _MICRO_BATCH = 6, 2
_VOCABULARY, _PROMPT, _LONGEST = 64, 3, 13

#: AdamW's epsilon, beside which no gradient counts; and the length of a step beside θ's.
_EPSILON, _LENGTH = 1e6, 0.1

#: How much a share may differ, by Accelerate's mixed precision.
_TOLERANCE = {"no": 1e-3, "bf16": 0.1, "fp16": 0.1, "fp8": 0.3}

#: How the steps are taken: rows a micro-batch, and the clip as a share of the gradient's norm.
CASES: Mapping[str, tuple[int | None, float | None]] = {
    "without accumulation": (None, None),
    "with accumulation": (_MICRO_BATCH, None),
    "with accumulation and a clip": (_MICRO_BATCH, 0.5),
}


@dataclass(frozen=True)
class Report:
    """What a check of a launcher came to.

    Attributes:
        launcher: what was checked, in words.
        cases: the diagnosis of each of :data:`CASES`, by name.
        main: whether this is the main process, which prints it.
    """

    launcher: str
    cases: Mapping[str, Diagnosis]
    main: bool

    @property
    def sound(self) -> bool:
        """Whether every step is that of one plain process."""
        return not any(case.fault for case in self.cases.values())


def check_launch(
    architecture: str = "qwen2",
    accelerator: Any = None,
    make_gradient: type[GradientAccumulator] = GradientAccumulator,
    tied: bool | None = None,
) -> Report:
    """Take a step in each of :data:`CASES`, in every process of the launcher.

    Args:
        architecture: of the small model, for launchers that name its layers.
        accelerator: Accelerate's object; opened as the launcher configures it, if not given.
        make_gradient: what takes gradients.
        tied: whether embeddings are; as :data:`ARCHITECTURES` has it, if not given.

    Raises:
        UpgeError: an unknown architecture, or a launcher configuration under which the training
            loop can't even be prepared, or take a step.
    """
    if architecture not in ARCHITECTURES:
        raise unknown("architecture", architecture, ARCHITECTURES)
    if accelerator is None:
        accelerator = open_accelerator()
    plain = _small_model(architecture, ARCHITECTURES[architecture] if tied is None else tied)
    with main_first(bool(accelerator.is_main_process)), unchanged(accelerator):
        steps = _Steps(plain, accelerator, make_gradient)
        cases = {name: steps.diagnose(*case) for name, case in CASES.items()}
    return Report(_launcher(accelerator), cases, bool(accelerator.is_main_process))


def refuse_faulty(accelerator: Any, config: Any) -> None:
    """Refuse to train a model under a launcher whose steps are not those of the batch.

    Args:
        accelerator: Accelerate's object; a single plain process is not checked.
        config: of the model to be trained.

    Raises:
        UpgeError: names the fault; see also :func:`check_launch`.
    """
    if accelerator.distributed_type == "NO":
        return
    kind = config.model_type
    tied = bool(getattr(config, "tie_word_embeddings", False))
    report = check_launch(kind if kind in ARCHITECTURES else "qwen2", accelerator, tied=tied)
    faults = [(name, case.fault) for name, case in report.cases.items() if case.fault]
    if faults:
        name, fault = faults[0]
        with main_first(report.main):
            raise UpgeError(
                f"steps under this launcher ({report.launcher}) are not those of the batch: "
                f"{name}, {fault}; correct its configuration (upge doctor says more), or give "
                "--no-launch-check"
            )


def _launcher(accelerator: Any) -> str:
    count, kind = accelerator.num_processes, accelerator.distributed_type.value
    spread = "" if kind == "NO" else f", {kind.lower().replace('_', ' ')}"
    precision = {"no": "float32 products"}.get(accelerator.mixed_precision)
    return (
        f"{count} process{'es' if count > 1 else ''} on {accelerator.device.type}{spread}, "
        f"{precision or f'{accelerator.mixed_precision} products'}"
    )


class _Steps:
    """The training loop's optimizer steps, with a small model on a random batch."""

    def __init__(
        self, plain: Any, accelerator: Any, make_gradient: type[GradientAccumulator]
    ) -> None:
        self.plain, self.accelerator, self.make_gradient = plain, accelerator, make_gradient
        with _in_words("can't be prepared", accelerator):
            self.strategy = open_strategy(accelerator, copy.deepcopy(plain))
        self.tokens = _random_rows(accelerator.num_processes)

    def diagnose(self, micro_batch: int | None, clip: float | None) -> Diagnosis:
        """Take a step and compare it with the plain one."""
        before = self._parameters()
        rows = self._rows(micro_batch)
        gradients, k, norm = self._shared(lambda: self._plain_gradients(before, rows))
        with _in_words("can't take a step", self.accelerator):
            self._step(micro_batch, k, None if clip is None else clip * norm)
        step = self._parameters() - before
        scale = k * (1.0 if clip is None else clip)
        tolerance = _TOLERANCE.get(self.accelerator.mixed_precision, max(_TOLERANCE.values()))
        diagnosis: Diagnosis = self._shared(
            lambda: diagnose(step, gradients, rows, scale=scale, tolerance=tolerance)
        )
        return diagnosis

    # ------------------------------------------------------------------------------ the loop's step

    def _step(self, micro_batch: int | None, k: float, max_norm: float | None) -> None:
        gradient = self.make_gradient(
            self.strategy.policy, self.accelerator, 10**6, micro_batch or len(self.tokens)
        )
        updater = Updater(_stage(k * _EPSILON, max_norm), self.strategy, gradient)
        updater.start({})
        for group in self.strategy.optimizer.param_groups:
            group["eps"] = _EPSILON
        updater.step(updater.plan(self._batch()))

    def _batch(self) -> TrajectoryBatch:
        """The rows of this process, as demonstrations."""
        world = self.accelerator.num_processes
        rows = range(len(self.tokens))[self.accelerator.process_index :: world]
        shared = {} if world == 1 else {"all_sum": partial(sum_over_processes, self.accelerator)}
        width = _PROMPT + _LONGEST
        tokens = torch.zeros(len(rows), width, dtype=torch.long)
        attention = torch.zeros(len(rows), width, dtype=torch.bool)
        for place, row in enumerate(rows):
            tokens[place, : len(self.tokens[row])] = torch.tensor(self.tokens[row])
            attention[place, : len(self.tokens[row])] = True
        device = self.accelerator.device
        mask = attention & (torch.arange(width) >= _PROMPT)
        return TrajectoryBatch(
            mask=mask.to(device),
            reward=torch.ones(len(rows), dtype=torch.float64, device=device),
            group=torch.tensor(rows, device=device),
            offline=torch.ones(len(rows), dtype=torch.bool, device=device),
            old_logp=torch.zeros(mask.shape, device=device),
            tokens=tokens.to(device),
            attention=attention.to(device),
            **shared,  # type: ignore[arg-type]
        )

    # ---------------------------------------------------------------------------- the plain process

    def _rows(self, micro_batch: int | None) -> Rows:
        world = self.accelerator.num_processes
        places = torch.arange(len(self.tokens))
        tokens = torch.tensor([len(row) - _PROMPT for row in self.tokens])
        micro = places // world // (micro_batch or len(places))
        return Rows(tokens, places % world, micro)

    def _parameters(self) -> Tensor:
        """(D,) all of them, in the order of the plain model's."""
        self.strategy.synchronize()
        parameters = self.strategy.model.parameters()
        return torch.cat([p.detach().flatten().float().cpu() for p in parameters])

    def _plain_gradients(self, theta: Tensor, rows: Rows) -> tuple[Tensor, float, float]:
        """Σ_t ∇log π of each row; k for a step of the wanted length; the whole gradient's norm."""
        parameters = list(self.plain.parameters())
        torch.nn.utils.vector_to_parameters(theta, parameters)
        scores = []
        for row in self.tokens:
            ids = torch.tensor([row])
            logp = self.plain(input_ids=ids).logits[0, _PROMPT - 1 : -1].log_softmax(-1)
            logp = logp.gather(-1, ids[0, _PROMPT:, None]).sum()
            scores.append(torch.cat([g.flatten() for g in torch.autograd.grad(logp, parameters)]))
        gradients = torch.stack(scores)
        norm = float((gradients.sum(0) / rows.total).norm())
        return gradients, _LENGTH * float(theta.norm()) / norm, norm

    def _shared(self, compute: Any) -> Any:
        """What the main process computes, in every process."""
        return gather(self.accelerator, compute() if self.accelerator.is_main_process else None)[0]


@contextmanager
def _in_words(what: str, accelerator: Any) -> Iterator[None]:
    """Turn what the launcher's libraries raise into a sentence, but for the loss of a process."""
    try:
        yield
    except UpgeError:
        raise
    except Exception as error:
        if is_broken(error):
            raise
        kind = accelerator.distributed_type.value
        reason = (str(error).split("\n")[0] or type(error).__name__).rstrip(".: ")
        raise UpgeError(
            f"the training loop {what} under {kind} ({reason}); correct the launcher's "
            "configuration, or take one of experiments/launch"
        ) from error


def _stage(lr: float, max_grad_norm: float | None) -> Stage:
    values = {"algorithm": "sft", "steps": 1, "lr": lr, "warmup": 0, "max_grad_norm": max_grad_norm}
    return build(values, Stage)


def _small_model(architecture: str, tied: bool) -> Any:
    transformers = require("transformers", "train")
    config = transformers.AutoConfig.for_model(
        architecture,
        vocab_size=_VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=_PROMPT + _LONGEST,
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


def _random_rows(processes: int) -> Sequence[list[int]]:
    """Token ids of every row, prompt and response.

    Neither processes nor micro-batches have the same number of tokens, or averaging their means
    would go unseen.
    """
    random = Random(0)
    lengths = [1 + 7 * row % _LONGEST for row in range(_ROWS * processes - 1)]
    return [[random.randrange(_VOCABULARY) for _ in range(_PROMPT + n)] for n in lengths]
