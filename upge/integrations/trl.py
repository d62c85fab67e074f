"""TRL's GRPOTrainer with any algorithm of the registry, and demonstrations beside the rollouts.

The data set may have a column ``demonstration``: a worked solution as the model would write it, a
text or a list of messages of which the last one counts; None or blank where a question has none.
The reward functions grade it like a completion.

    from upge.integrations.trl import UpgeTrainer

    trainer = UpgeTrainer(
        model, reward_funcs=reward, args=GRPOConfig(...), train_dataset=dataset, algorithm="hpt"
    )
    trainer.train()

TRL samples, grades, logs, saves and steps as ever; the loss is the estimator's. A step's plan is
made on all its rollouts and demonstrations, of all processes, and split into micro-batches
afterwards, so that gates see whole questions and every normaliser is global. Rows without weight
are left out of the forward pass.

π_θold is the sampler's own log-probability where the sampler tells it (vLLM, ``rollout_func``), in
place of TRL's importance sampling correction; otherwise that of the policy as it sampled. So a
sampler may tell some tokens' and give None for others.
"""

from __future__ import annotations

import functools
import reprlib
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from upge.algorithms import get
from upge.batch import TrajectoryBatch
from upge.common.errors import UpgeError
from upge.common.optional import require
from upge.estimator import Estimate, Estimator, Plan, term_metrics
from upge.integrations.rows import trajectories, unknown_logp
from upge.models.heads import close, evaluating, logits_alone, random_rows, score_tokens
from upge.models.policy import Policy
from upge.rollouts.sampler import end_tokens
from upge.tasks.encoding import encode_response, end_ids
from upge.training.processes import sum_over_processes

_trl: Any = require("trl", "trl")

#: What the estimator decides in place of these settings of TRL's loss.
_REPLACED = (
    "beta",
    "delta",
    "entropy_coef",
    "epsilon",
    "epsilon_high",
    "importance_sampling_level",
    "loss_type",
    "multi_objective_aggregation",
    "off_policy_mask_threshold",
    "router_aux_loss_coef",
    "scale_rewards",
    "top_entropy_quantile",
    "use_adaptive_entropy",
)


class UpgeTrainer(_trl.GRPOTrainer):  # type: ignore[misc]
    """A ``GRPOTrainer`` whose loss is an estimator's.

    Evaluation is TRL's own: its rewards are those of the policy, its ``eval_loss`` is TRL's.

    Args:
        *args: as GRPOTrainer takes them.
        algorithm: a name of the registry, or an estimator, as ``upge.get("hpt", gamma=0.25)``.
        success: the reward from which a response is a success, as REINFORCE and HPT's P count them;
            None for any reward above 0.
        **kwargs: as GRPOTrainer takes them.

    Raises:
        UpgeError: an algorithm that needs a critic, or demonstrations that the data set lacks; a
            demonstration that is no text, or longer than ``max_completion_length``; a batch that
            splits questions; a setting of TRL's loss, which would have no effect; transformers 5.2
            to 5.5.3 with accumulation.
    """

    def __init__(
        self,
        *args: Any,
        algorithm: str | Estimator = "hpt",
        success: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.success = success
        self.estimator = get(algorithm) if isinstance(algorithm, str) else algorithm
        given = dict(zip(("model", "reward_funcs", "args", "train_dataset"), args, strict=False))
        given |= kwargs
        _check_estimator(self.estimator)
        _check_data(self.estimator, given)
        if given.get("args") is not None:
            _check_settings(given["args"])
        super().__init__(*args, **kwargs)
        if self.accelerator.gradient_accumulation_steps > 1:
            raise UpgeError(
                "this transformers divides accumulated gradients twice, as 5.2 to 5.5.3 do; "
                "install 5.5.4 or newer"
            )
        self._check_demonstrations()
        self._add_ends()
        self._policy: Policy | None = self._open_policy()
        self._steps: list[TrajectoryBatch] = []
        self._micro_batches: list[Plan] = []
        self._sums = torch.zeros(len(self.estimator.terms), 5)

    # ------------------------------------------------------------------------ what TRL calls

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if "demonstration" not in self._signature_columns:
            self._signature_columns.append("demonstration")

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        accumulated = self.args.gradient_accumulation_steps
        every = self.args.steps_per_generation * self.num_iterations
        if not self._steps or self._step % every == 0:
            self._steps = self._sample(generation_batch)
        if self._step % accumulated == 0:
            batch = self._steps[self._step // accumulated % len(self._steps)]
            self._micro_batches = self._split(self._plan(batch))
        return self._micro_batches[self._step % accumulated]

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        self._rewards = super()._calculate_rewards(*args, **kwargs)
        return self._rewards

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        if not isinstance(inputs, Plan):
            return super()._compute_loss(model, inputs)
        logp, entropy = self._likelihood(model, inputs.batch)
        if inputs.batch.old_logp is None:  # on policy
            inputs = replace(inputs, batch=replace(inputs.batch, old_logp=logp.detach()))
        estimate = inputs.estimate(logp, entropy)
        self._record(estimate)
        # Processes' gradients are averaged; ours are parts of one sum.
        return estimate.loss * self.accelerator.num_processes

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **options: Any,
    ) -> tuple[Any, Any, Any]:
        """Log π_θ, entropy (N, logits_to_keep), and TRL's auxiliary loss.

        Of rows moved to the left: with padding in front of them, models that count positions by
        themselves give other logits.
        """
        attended = attention_mask.bool()
        scored = attended.clone()
        scored[:, :-logits_to_keep] = False
        order = (~attended).long().argsort(dim=1, stable=True)
        width = max(int(attended.sum(1).max()), 2)
        tokens, attended, scored = (
            x.gather(1, order)[:, :width] for x in (input_ids, attended, scored)
        )
        if self._policy is None:
            first = scored.any(0).nonzero().flatten()
            kept = width - max(int(first[0]), 1) if len(first) else 1
            scores = super()._get_per_token_logps_and_entropies(
                model, tokens, attended.long(), kept, batch_size, compute_entropy, **options
            )
        else:
            parts = (x.split(batch_size or len(x)) for x in (tokens, scored))
            pieces = [model(likelihood=part) for part in zip(*parts, strict=True)]
            scores = *(torch.cat(x) for x in zip(*pieces, strict=True)), None
        logp, entropy, loss = scores

        def moved_back(x: Tensor) -> Tensor:
            x = torch.nn.functional.pad(x, (width - x.shape[1], order.shape[1] - width))
            return torch.zeros_like(x).scatter(1, order, x)[:, -logits_to_keep:]

        return moved_back(logp), moved_back(entropy) if compute_entropy else None, loss

    # -------------------------------------------------------------------------------- the policy

    def _add_ends(self) -> None:
        """Have the end of a turn in the chat template end a response, besides TRL's tokens."""
        ends = end_tokens(self.model, end_ids(self._tokenizer))
        self.eos_token_ids = ends
        if self.use_vllm:
            self.vllm_generation.generation_kwargs.setdefault("stop_token_ids", ends)
        elif "eos_token_id" not in (self.args.generation_kwargs or {}):
            self.generation_kwargs["eos_token_id"] = self.generation_config.eos_token_id = ends

    def _open_policy(self) -> Policy | None:
        """What scores tokens where TRL doesn't find the model's own log π; None where it does.

        TRL takes hidden states times output embedding, changed as settings of some names say.
        """
        policy = Policy(self.model, self.temperature)
        if policy.head == "plain" and self._agrees():
            return None
        model, inner = self.model, self.model.forward

        @functools.wraps(inner)
        def forward(
            *args: Any, likelihood: tuple[Tensor, Tensor] | None = None, **kwargs: Any
        ) -> Any:
            """The model's own, or log π: wrappers see gradients of what goes through it alone."""
            return inner(*args, **kwargs) if likelihood is None else policy(*likelihood)

        model.forward = forward
        return policy

    def _agrees(self) -> bool:
        """Whether TRL's log π and entropy of random tokens are those of the model's logits."""
        tokens = random_rows(self.model, 1, 8)
        with evaluating(self.model), self.accelerator.autocast():
            logits = logits_alone(self.model, tokens[0])[:-1]
            found = super()._get_per_token_logps_and_entropies(
                self.model, tokens, torch.ones_like(tokens), len(logits), compute_entropy=True
            )
        wanted = score_tokens(logits, tokens[0, 1:], self.temperature)
        return all(close((x[0] - y).abs(), logits) for x, y in zip(found, wanted, strict=False))

    # ------------------------------------------------------------------------ a step's batches

    def _sample(self, examples: list[dict[str, Any]]) -> list[TrajectoryBatch]:
        """A generation batch as one batch an optimizer step."""
        rollouts = self._generate_and_score_completions(examples)
        reward = self._local_rewards(len(examples))
        questions = examples[:: self.num_generations]
        batch = trajectories(
            rollouts,
            reward,
            *self._demonstrations(questions),
            max_length=self.max_completion_length,
            success=self.success,
            all_sum=partial(sum_over_processes, self.accelerator),
        )
        batch = self._with_known_logp(batch, rollouts)
        steps = self.args.steps_per_generation // self.args.gradient_accumulation_steps
        step = batch.group // (len(questions) // steps)
        return [batch.select(step == i) for i in range(steps)]

    def _with_known_logp(
        self, batch: TrajectoryBatch, rollouts: Mapping[str, Tensor]
    ) -> TrajectoryBatch:
        """The batch with the policy's log π, as of now, for tokens that the sampler knows none of.

        Such a token is scored and counted as any other; its ratio is 1 until the policy changes.
        """
        unknown = unknown_logp(rollouts)
        if not batch.all_sum(unknown.sum()):
            return batch
        count, length = unknown.shape
        start = rollouts["prompt_ids"].shape[1]
        logp, _ = self._score(batch.select(torch.arange(count, device=unknown.device)))
        old_logp = batch.require("old_logp", "unknown log-probabilities").clone()
        told = old_logp[:count, start : start + length]
        own = logp[:, start : start + length].to(told.dtype)
        old_logp[:count, start : start + length] = torch.where(unknown, own, told)
        return replace(batch, old_logp=old_logp)

    def _local_rewards(self, count: int) -> Tensor:
        """(count,) the process's rewards; NaN where no function gave one."""
        start = self.accelerator.process_index * count
        mine = self._rewards[start : start + count]
        total: Tensor = (mine * self.reward_weights.to(mine.device)).nansum(1)
        return torch.where(mine.isnan().all(1), torch.nan, total)

    def _demonstrations(self, examples: list[dict[str, Any]]) -> tuple[list[list[int]], Tensor]:
        """Token ids of the examples' demonstrations, and their rewards by the same functions."""
        if not _reads_demonstrations(self.estimator):
            return [[] for _ in examples], torch.zeros(len(examples), device=self.args.device)
        texts = [_text(example.get("demonstration")) for example in examples]
        ids = [encode_response(self._tokenizer, text) if text else [] for text in texts]
        prompts = [example["prompt"] for example in examples]
        completions = [
            [{"role": "assistant", "content": text}] if isinstance(prompt, list) else text
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        self._calculate_rewards(examples, prompts, completions, ids)
        # What reward functions log belongs to the rollouts' tables.
        self._pending_extra_logs.clear()
        self._pending_metrics.clear()
        return ids, self._local_rewards(len(examples))

    def _plan(self, batch: TrajectoryBatch) -> Plan:
        if self.estimator.weighs_by_batch:
            batch = self._with_entropy(batch)
        known = batch.old_logp is not None
        stand_in = batch if known else replace(batch, old_logp=torch.zeros(batch.mask.shape))
        plan = replace(self.estimator.plan(stand_in, partial=True), batch=batch)
        shown = plan.gated_in() & ~batch.rows_of("online")
        counts = batch.all_sum(torch.stack([shown.sum(), plan.gated_in().sum()])).tolist()
        self._metrics["train"]["offline_ratio"].append(counts[0] / max(counts[1], 1))
        return plan

    def _with_entropy(self, batch: TrajectoryBatch) -> TrajectoryBatch:
        entropy = self._score(batch)[1]
        return batch.at(torch.zeros_like(entropy), entropy)

    def _score(self, batch: TrajectoryBatch) -> tuple[Tensor, Tensor]:
        """Log π_θ and entropy (N, T) without gradient, some rows at a time."""
        rows = torch.arange(len(batch.mask), device=batch.mask.device)
        with torch.no_grad():
            parts = [
                self._likelihood(self.model, batch.select(part))
                for part in rows.split(self.args.per_device_train_batch_size)
            ]
        logp, entropy = (torch.cat(own) for own in zip(*parts, strict=True))
        return logp, entropy

    def _split(self, plan: Plan) -> list[Plan]:
        """The rows that bear weight, in as many parts as gradients are accumulated."""
        rows = plan.nonzero_rows().nonzero().flatten()
        parts = rows.tensor_split(self.args.gradient_accumulation_steps)
        return [plan.select(part) for part in parts]

    def _likelihood(self, model: Any, batch: TrajectoryBatch) -> tuple[Tensor, Tensor]:
        """Log π_θ and entropy (N, T) by TRL, in the columns that are in use; 0 elsewhere."""
        tokens, attention = batch.tokens, batch.attention
        assert tokens is not None and attention is not None
        if not len(tokens):  # an empty part still takes part in what processes do together
            tokens, attention = tokens.new_ones(1, 2), attention.new_ones(1, 2)
        used = attention.any(0).nonzero().flatten()
        start, end = int(used[0]), int(used[-1]) + 1
        scored = batch.mask.any(0).nonzero().flatten()
        kept = end - int(scored[0]) if len(scored) else 1
        logp, entropy, _ = self._get_per_token_logps_and_entropies(
            model,
            tokens[:, start:end],
            attention[:, start:end].long(),
            kept,
            compute_entropy=True,
        )
        rows, width = batch.mask.shape
        around = (max(end - kept, 0), max(width - end, 0))
        logp, entropy = (torch.nn.functional.pad(x, around)[:rows, :width] for x in (logp, entropy))
        return logp, entropy.detach()

    def _record(self, estimate: Estimate) -> None:
        """Metrics of each term, of whole optimizer steps and all processes."""
        self._sums = self._sums + torch.stack([term.sums() for term in estimate.terms]).cpu()
        if (self._step + 1) % self.args.gradient_accumulation_steps:
            return
        total = sum_over_processes(self.accelerator, self._sums.to(self.accelerator.device))
        for i, sums in enumerate(total):
            for name, value in term_metrics(sums).items():
                self._metrics["train"][f"term{i}/{name}"].append(value)
        self._sums = torch.zeros_like(self._sums)

    # ------------------------------------------------------------------------ what is refused

    def _check_demonstrations(self) -> None:
        data = self.train_dataset
        if not _reads_demonstrations(self.estimator) or not hasattr(data, "__len__"):
            return
        texts = [text for text in map(_text, data["demonstration"]) if text]
        if not texts:
            raise UpgeError(
                f"{self.estimator.name} learns from demonstrations, and the data set's column "
                "'demonstration' is empty; fill it, or take an algorithm of rollouts alone"
            )
        longest = max(len(encode_response(self._tokenizer, text)) for text in texts)
        if self.max_completion_length is not None and longest > self.max_completion_length:
            raise UpgeError(
                f"the longest demonstration has {longest} tokens with its end, "
                f"max_completion_length is {self.max_completion_length}; raise it, or filter the "
                "data set"
            )


def _reads_demonstrations(estimator: Estimator) -> bool:
    return any(term.samples != "online" for term in estimator.terms)


def _text(demonstration: Any) -> str:
    """The demonstration as text; empty if there is none."""
    text = "" if demonstration is None or demonstration == [] else demonstration
    if isinstance(text, list):
        text = text[-1].get("content") if isinstance(text[-1], Mapping) else None
    if not isinstance(text, str):
        raise UpgeError(
            f"demonstration: got {reprlib.repr(demonstration)}, wanted a text or messages with a "
            "text as content"
        )
    return text if text.strip() else ""


def _check_estimator(estimator: object) -> None:
    if not isinstance(estimator, Estimator):
        raise UpgeError(
            f"algorithm: got {estimator!r}, wanted a name of the registry or an estimator, as "
            "'hpt' or upge.get('hpt', gamma=0.25)"
        )
    if "values" in estimator.needs:
        raise UpgeError(
            f"{estimator.name} needs a critic's values, and TRL's GRPOTrainer trains no critic; "
            "take another algorithm"
        )


def _check_data(estimator: Estimator, given: Mapping[str, Any]) -> None:
    columns = getattr(given.get("train_dataset"), "column_names", None)
    if columns is not None and not isinstance(columns, dict):
        if _reads_demonstrations(estimator) and "demonstration" not in columns:
            raise UpgeError(
                f"{estimator.name} learns from demonstrations, and the data set has no column "
                "'demonstration'; add one, or take an algorithm of rollouts alone"
            )
        if {"image", "images"} & set(columns):
            raise UpgeError("the data set has images, which UpgeTrainer can't score; drop them")
    if given.get("environment_factory") is not None:
        raise UpgeError(
            "environment_factory: UpgeTrainer can't grade demonstrations by an environment; give "
            "reward_funcs instead"
        )


def _check_settings(config: Any) -> None:
    defaults = {field.name: field.default for field in fields(config)}
    for name in _REPLACED:
        if (value := getattr(config, name)) != defaults[name]:
            raise UpgeError(
                f"GRPOConfig.{name}: got {value!r}, which has no effect, as the algorithm decides "
                "it; leave it out and set the algorithm's options"
            )
    accumulated, generated = config.gradient_accumulation_steps, config.steps_per_generation
    if generated % accumulated:
        raise UpgeError(
            f"GRPOConfig.steps_per_generation: got {generated}, wanted a multiple of "
            f"gradient_accumulation_steps ({accumulated}), so that a step's rollouts are at hand"
        )
    rows = config.per_device_train_batch_size * accumulated
    if rows % config.num_generations:
        raise UpgeError(
            f"GRPOConfig: per_device_train_batch_size × gradient_accumulation_steps is {rows}, "
            f"wanted a multiple of num_generations ({config.num_generations}), so that every "
            "process has whole questions"
        )
