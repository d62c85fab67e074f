"""verl: rollouts and demonstrations in one loss, through the hook that verl's engines call.

verl's policy losses see neither demonstrations nor questions. Its engines, though, take any
function of model outputs and data for their loss, and hand it every field of the batch. So the
trainer's process plans the whole batch (gates, advantages, global normalisers) and sends each row's
part along, and the workers are told once what to do with it; here for verl's ``RayPPOTrainer``:

    class MixedTrainer(RayPPOTrainer):
        def init_workers(self):
            super().init_workers()
            self.actor_rollout_wg.set_loss_fn(engine_loss(estimator))

        def _update_actor(self, batch):
            uids = batch.non_tensor_batch["uid"]
            mixed = mixed_batch(batch.batch, estimator, uids, demonstrations, rewards, …)
            return super()._update_actor(DataProto(batch=mixed, meta_info=batch.meta_info))

A plan is for one optimizer step, so that what it is made of must be one mini-batch: ``multiple`` is
``ppo_mini_batch_size`` × ``rollout.n``, large enough for n rollouts and a demonstration a question
(for 128 questions and n = 8, 144 × 8), which verl accepts with ``use_dynamic_bsz`` alone.

What stands in the way of more, in verl 0.9.1:

* No trainer of its own calls the hook or adds rows, so that a subclass has to.
* ``RayPPOTrainer`` (``main_ppo_v0``) is deprecated. The trainers of ``main_ppo`` hold a batch as
  keys of a TransferQueue: their subclass would put demonstrations there under keys of their own.
* Engines are registered for cuda and npu. Nothing of this has met a GPU or a cluster; the tests
  call the loss as the engines do, with verl's own padding, splitting and metrics, on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from upge.batch import TrajectoryBatch
from upge.common.errors import UpgeError
from upge.common.optional import require
from upge.estimator import Estimator, term_metrics
from upge.integrations.fixed import fixed
from upge.integrations.rows import padded
from upge.integrations.verl import question_ids

require("verl", "verl")

#: Fields of a row: scale · Â of a term by its number, and whether it is a demonstration.
_TERM, _OFFLINE = "upge_term{}", "upge_offline"

#: What is read of verl's batch.
_READ = (
    "prompts",
    "responses",
    "attention_mask",
    "response_mask",
    "old_log_probs",
    "token_level_rewards",
)


def mixed_batch(
    data: Mapping[str, Tensor],
    estimator: Estimator,
    index: Sequence[Any],
    demonstrations: Mapping[Any, Sequence[int]],
    rewards: Mapping[Any, float],
    *,
    max_length: int,
    multiple: int = 1,
) -> Any:
    """Rollouts, demonstrations and plan in a TensorDict, as verl's actor update takes it.

    Args:
        data: ``prompts`` (N, P), padded on the left, ``responses`` (N, R), padded on the right,
            ``attention_mask`` (N, P + R), ``response_mask``, ``old_log_probs`` and
            ``token_level_rewards`` (N, R).
        estimator: all that it plans by is in the batch.
        index: verl's ``uid`` of each row: its question.
        demonstrations: token ids with their end, by question; a question may lack one.
        rewards: of the demonstrations, by question.
        max_length: the longest response the run allows.
        multiple: rows are filled up to a multiple of it, as verl's split over processes and
            micro-batches needs it; what fills them has no response.

    Raises:
        UpgeError: an estimator that reads values or the whole batch's entropy; a field that
            ``data`` lacks; a demonstration without a reward, or longer than ``responses`` are wide.
    """
    _check(estimator)
    _check_rows(data, index, demonstrations, rewards, multiple)
    first: dict[Any, int] = {}
    for row, uid in enumerate(index):
        first.setdefault(uid, row)
    shown = [uid for uid in first if demonstrations.get(uid)]
    spare = -(len(index) + len(shown)) % multiple
    rows = _with_rows(
        data,
        [first[uid] for uid in shown] + [0] * spare,
        [demonstrations[uid] for uid in shown] + [[] for _ in range(spare)],
    )
    own = data["token_level_rewards"].sum(1).double()
    group = question_ids(index)
    questions = torch.tensor([int(group[first[uid]]) for uid in shown] + [0] * spare)
    batch = TrajectoryBatch(
        mask=rows["response_mask"],
        reward=torch.cat([own, own.new_tensor([rewards[uid] for uid in shown] + [0.0] * spare)]),
        group=torch.cat([group, questions.long()]).to(own.device),
        offline=torch.arange(len(index) + len(shown) + spare, device=own.device) >= len(index),
        old_logp=rows["old_log_probs"],
        max_length=max_length,
    )
    return _tensordict(rows | _plan_fields(estimator, batch))


def _check_rows(
    data: Mapping[str, Tensor],
    index: Sequence[Any],
    demonstrations: Mapping[Any, Sequence[int]],
    rewards: Mapping[Any, float],
    multiple: int,
) -> None:
    if missing := [name for name in _READ if name not in data.keys()]:  # noqa: SIM118, a TensorDict
        raise UpgeError(f"data: has no {', '.join(missing)}; wanted {', '.join(_READ)}")
    if multiple < 1:
        raise UpgeError(f"multiple: got {multiple}, wanted a whole number from 1")
    for uid in index:
        if demonstrations.get(uid) and uid not in rewards:
            raise UpgeError(
                f"rewards: has none for the demonstration of {uid!r}; grade it like a rollout, or "
                "leave the demonstration out"
            )


def _check(estimator: object) -> None:
    if not isinstance(estimator, Estimator):
        raise UpgeError(
            f"estimator: got {estimator!r}, wanted an estimator, as upge.get('hpt', gamma=0.25)"
        )
    if "values" in estimator.needs:
        raise UpgeError(
            f"{estimator.name} needs a critic's values, which the mixed loss doesn't carry; take "
            "another algorithm"
        )
    if estimator.weighs_by_batch:
        raise UpgeError(
            f"{estimator.name} weighs by the whole batch's entropy, which verl doesn't know before "
            "its update; take one that weighs by each sequence's, as srft_official"
        )


def _with_rows(
    data: Mapping[str, Tensor], sources: Sequence[int], responses: Sequence[Sequence[int]]
) -> dict[str, Tensor]:
    """The fields of a batch and of further rows: the prompts of ``sources``, new responses."""
    prompts, device = data["prompts"], data["prompts"].device
    width = data["responses"].shape[1]
    longest = max(map(len, responses), default=0)
    if longest > width:
        raise UpgeError(
            f"a demonstration has {longest} tokens, responses are {width} wide; raise "
            "data.max_response_length, or leave it out"
        )
    ids, mask = padded(responses, device)
    ids, mask = (pad(x, (0, width - longest)) for x in (ids, mask))
    attention = data["attention_mask"].bool()
    new_attention = torch.cat([attention[sources, : prompts.shape[1]], mask], 1)
    rows = {
        "prompts": torch.cat([prompts, prompts[sources]]),
        "responses": torch.cat([data["responses"], ids]),
        "attention_mask": torch.cat([attention, new_attention]).long(),
        "response_mask": torch.cat([data["response_mask"].bool(), mask]).long(),
        "old_log_probs": pad(data["old_log_probs"], (0, 0, 0, len(responses))),
    }
    position = (rows["attention_mask"].cumsum(1) - 1).clamp(min=0)
    tokens = torch.cat([rows["prompts"], rows["responses"]], 1)
    return rows | {"input_ids": tokens, "position_ids": position}


def _plan_fields(estimator: Estimator, batch: TrajectoryBatch) -> dict[str, Tensor]:
    """What the engines are told of the plan, by row."""
    plan = estimator.plan(batch, partial=True)
    terms = {
        _TERM.format(i): (part.scale * part.advantage).to(batch.dtype)
        for i, part in enumerate(plan.parts)
    }
    return {_OFFLINE: batch.rows_of("offline"), **terms}


def _tensordict(fields: Mapping[str, Tensor]) -> Any:
    tensordict = require("tensordict", "verl")
    return tensordict.TensorDict(dict(fields), batch_size=[len(fields["responses"])])


def engine_loss(estimator: Estimator) -> Callable[..., tuple[Tensor, dict[str, Any]]]:
    """The loss of a micro-batch of :func:`mixed_batch`, as ``set_loss_fn`` takes it.

    An estimator that reads entropies needs verl's ``calculate_entropy``.
    """
    _check(estimator)
    return partial(_engine_loss, estimator)


def _engine_loss(
    estimator: Estimator, model_output: Mapping[str, Tensor], data: Any, dp_group: Any = None
) -> tuple[Tensor, dict[str, Any]]:
    unpadded = import_module("verl.workers.utils.padding").no_padding_2_padding
    metric = import_module("verl.utils.metric").Metric
    logp = unpadded(model_output["log_probs"], data)
    entropy = model_output.get("entropy")
    entropy = None if entropy is None else unpadded(entropy, data).detach()
    names = [_TERM.format(i) for i in range(len(estimator.terms))]
    fields = data.select("response_mask", "old_log_probs", _OFFLINE, *names).to_padded_tensor()
    batch = TrajectoryBatch(
        mask=fields["response_mask"],
        reward=torch.zeros(len(logp), device=logp.device),
        group=torch.arange(len(logp), device=logp.device),
        offline=fields[_OFFLINE],
        old_logp=fields["old_log_probs"],
    )
    one = torch.ones((), device=logp.device)
    terms = (fixed(t, fields[name], one) for t, name in zip(estimator.terms, names, strict=True))
    seen = replace(estimator, terms=tuple(terms)).plan(batch, partial=True).estimate(logp, entropy)
    # Data parallel processes average gradients and metrics; ours are parts of one sum.
    processes = data["dp_size"]
    sums = {"actor/pg_loss": seen.loss.detach()} | {
        f"actor/term{i}/mass": term_metrics(term.sums())["mass"]
        for i, term in enumerate(seen.terms)
    }
    summed = {
        name: metric(value=value * processes, aggregation="sum") for name, value in sums.items()
    }
    return seen.loss * processes, summed
