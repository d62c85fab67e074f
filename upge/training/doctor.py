"""Does this launcher configuration take the step that one plain process takes?

A small random model takes steps on a random batch of ragged rows: by the training loop's own
gradient, optimizer and update under the user's launcher; and by a plain loop over the rows here,
which shares nothing with it. AdamW's first step is blind to the gradient's length, so its epsilon
is made so large that the step *is* the gradient.

What this can't see: what shows at size alone (memory, half precision of large sums, offloaded
buckets that fill up only there), the second moments of AdamW over many steps, the rollout backend,
and a user's own data.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from upge.batch import TrajectoryBatch
from upge.common.config import build
from upge.common.errors import UpgeError, unknown
from upge.common.optional import require
from upge.training.config import RunConfig, Stage
from upge.training.diagnosis import Diagnosis, Rows, diagnose
from upge.training.gradient import GradientAccumulator, sum_over_processes
from upge.training.launch import open_accelerator, open_strategy, unchanged
from upge.training.loop import Trainer
from upge.training.records import RunFolder
from upge.training.vigil import is_broken, main_first

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
    """What the doctor found.

    Attributes:
        launcher: what was examined, in words.
        cases: by the name of the case.
        main: whether this process is the one that speaks.
    """

    launcher: str
    cases: Mapping[str, Diagnosis]
    main: bool

    @property
    def sound(self) -> bool:
        """Whether every step is the plain one."""
        return not any(case.fault for case in self.cases.values())


def examine(
    architecture: str = "qwen2",
    accelerator: Any = None,
    make_gradient: type[GradientAccumulator] = GradientAccumulator,
    tied: bool | None = None,
) -> Report:
    """Take a step in each of :data:`CASES`, in every process of the launcher.

    Args:
        architecture: of the small model, for launchers that name its layers.
        accelerator: Accelerate's object; one as the launcher configures it, if not given.
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
    is_main = bool(accelerator.is_main_process)
    with main_first(is_main), TemporaryDirectory() as folder, unchanged(accelerator):
        patient = _Patient(plain, accelerator, make_gradient, Path(folder))
        cases = {name: patient.step(*case) for name, case in CASES.items()}
    return Report(_launcher(accelerator), cases, is_main)


def check_launcher(accelerator: Any, config: Any) -> None:
    """Refuse to train a model under a launcher whose steps are not those of the batch.

    Args:
        accelerator: Accelerate's object; of a single plain process nothing is asked.
        config: of the model to be trained.

    Raises:
        UpgeError: names the fault; see also :func:`examine`.
    """
    if accelerator.distributed_type == "NO":
        return
    kind = config.model_type
    tied = bool(getattr(config, "tie_word_embeddings", False))
    report = examine(kind if kind in ARCHITECTURES else "qwen2", accelerator, tied=tied)
    if not report.sound:
        name, case = next((name, case) for name, case in report.cases.items() if case.fault)
        raise UpgeError(
            f"steps under this launcher ({report.launcher}) are not those of the batch: {name}, "
            f"{case.fault}; mend its configuration (upge doctor says more), or give --no-doctor"
        )


def _launcher(accelerator: Any) -> str:
    count, kind = accelerator.num_processes, accelerator.distributed_type.value
    spread = "" if kind == "NO" else f", {kind.lower().replace('_', ' ')}"
    precision = {"no": "float32 products"}.get(accelerator.mixed_precision)
    return (
        f"{count} process{'es' if count > 1 else ''} on {accelerator.device.type}{spread}, "
        f"{precision or f'{accelerator.mixed_precision} products'}"
    )


class _Patient:
    """The training loop around a small model and a random batch."""

    def __init__(
        self,
        plain: Any,
        accelerator: Any,
        make_gradient: type[GradientAccumulator],
        folder: Path,
    ) -> None:
        self.accelerator, self.make_gradient = accelerator, make_gradient
        self.plain = plain
        self.trainer = Trainer(_config(), RunFolder(folder))
        self.trainer.accelerator = accelerator
        with _in_words("can't be prepared", accelerator):
            self.trainer.strategy = open_strategy(accelerator, copy.deepcopy(self.plain))
        self.tokens = _random_rows(accelerator.num_processes)

    def step(self, micro_batch: int | None, clip: float | None) -> Diagnosis:
        """Take one and compare it with the plain one."""
        before = self._parameters()
        rows = self._rows(micro_batch)
        gradients, k, norm = self._shared(lambda: self._plain_gradients(before, rows))
        limit = None if clip is None else clip * norm
        with _in_words("can't take a step", self.accelerator):
            self._take_step(micro_batch, k, limit)
        after = self._parameters()
        scale = k * (1.0 if clip is None else clip)
        tolerance = _TOLERANCE.get(self.accelerator.mixed_precision, max(_TOLERANCE.values()))
        found: Diagnosis = self._shared(
            lambda: diagnose(after - before, gradients, rows, scale=scale, tolerance=tolerance)
        )
        return found

    # ------------------------------------------------------------------------------ the loop's step

    def _take_step(self, micro_batch: int | None, k: float, limit: float | None) -> None:
        stage = _stage(k * _EPSILON, limit)
        strategy = self.trainer.strategy
        strategy.start_stage(stage, {})
        for group in strategy.optimizer.param_groups:
            group["eps"] = _EPSILON
        gradient = self.make_gradient(
            strategy.policy, self.accelerator, 10**6, micro_batch or len(self.tokens)
        )
        plan = gradient.plan(stage.estimator, self._own_batch())
        report = gradient(plan)
        self.trainer._update(stage, plan, report, strategy.norm())

    def _own_batch(self) -> TrajectoryBatch:
        """The rows of this process, as demonstrations."""
        world = self.accelerator.num_processes
        own = range(len(self.tokens))[self.accelerator.process_index :: world]
        shared = {} if world == 1 else {"all_sum": self._all_sum}
        width = _PROMPT + _LONGEST
        tokens = torch.zeros(len(own), width, dtype=torch.long)
        attention = torch.zeros(len(own), width, dtype=torch.bool)
        for place, row in enumerate(own):
            tokens[place, : len(self.tokens[row])] = torch.tensor(self.tokens[row])
            attention[place, : len(self.tokens[row])] = True
        device = self.accelerator.device
        mask = attention & (torch.arange(width) >= _PROMPT)
        return TrajectoryBatch(
            mask=mask.to(device),
            reward=torch.ones(len(own), dtype=torch.float64, device=device),
            group=torch.tensor(own, device=device),
            offline=torch.ones(len(own), dtype=torch.bool, device=device),
            old_logp=torch.zeros(mask.shape, device=device),
            tokens=tokens.to(device),
            attention=attention.to(device),
            **shared,  # type: ignore[arg-type]
        )

    def _all_sum(self, x: Tensor) -> Tensor:
        return sum_over_processes(self.accelerator, x)

    # ---------------------------------------------------------------------------- the plain process

    def _rows(self, micro_batch: int | None) -> Rows:
        world = self.accelerator.num_processes
        places = torch.arange(len(self.tokens))
        tokens = torch.tensor([len(row) - _PROMPT for row in self.tokens])
        micro = places // world // (micro_batch or len(places))
        return Rows(tokens, places % world, micro)

    def _parameters(self) -> Tensor:
        """(D,) all of them, in the order of the plain model's."""
        self.trainer.strategy.synchronize()
        parameters = self.trainer.strategy.model.parameters()
        return torch.cat([p.detach().flatten().float().cpu() for p in parameters])

    def _plain_gradients(self, theta: Tensor, rows: Rows) -> tuple[Tensor, float, float]:
        """Σ_t ∇log π of each row; k for a step of the wanted length; the whole gradient's norm."""
        parameters = list(self.plain.parameters())
        torch.nn.utils.vector_to_parameters(theta, parameters)
        found = []
        for row in self.tokens:
            ids = torch.tensor([row])
            logp = self.plain(input_ids=ids).logits[0, _PROMPT - 1 : -1].log_softmax(-1)
            own = logp.gather(-1, ids[0, _PROMPT:, None]).sum()
            found.append(torch.cat([g.flatten() for g in torch.autograd.grad(own, parameters)]))
        gradients = torch.stack(found)
        norm = float((gradients.sum(0) / rows.total).norm())
        return gradients, _LENGTH * float(theta.norm()) / norm, norm

    def _shared(self, compute: Any) -> Any:
        """What the main process computes, in every process."""
        found = [compute() if self.accelerator.is_main_process else None]
        require("accelerate", "train").utils.broadcast_object_list(found)
        return found[0]


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
            f"the training loop {what} under {kind} ({reason}); mend the launcher's "
            "configuration, or take one of experiments/launch"
        ) from error


def _stage(lr: float, max_grad_norm: float | None) -> Stage:
    given = {"algorithm": "sft", "steps": 1, "lr": lr, "warmup": 0, "max_grad_norm": max_grad_norm}
    return build(given, Stage)


def _config() -> RunConfig:
    return build({"name": "doctor", "stages": []}, RunConfig)


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
