"""Losses and advantage functions as trainers ship them: called where they are, never copied.

Each library is installed by itself, without its dependencies, most of which serve a cluster; what
its losses import at the top of a file and never call is stood in for by an empty module.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Library:
    """A package with losses.

    Attributes:
        name: as people call it.
        requirement: what pip installs.
        folder: that it lies in; None where it is in the environment itself.
        bare: packages of it whose ``__init__`` is not run.
        stand_ins: modules that are imported and not called.
    """

    name: str
    requirement: str
    bare: tuple[str, ...] = ()
    stand_ins: tuple[str, ...] = ()

    def prepare(self, folder: Path) -> None:
        """Make its modules importable from ``folder``."""
        sys.path.insert(0, str(folder))
        for name in self.bare:
            package = ModuleType(name)
            package.__path__ = [str(folder / name.replace(".", "/"))]
            sys.modules[name] = package
        sys.meta_path.insert(0, _StandIns(self.stand_ins))


@dataclass(frozen=True)
class _StandIns(MetaPathFinder, Loader):
    """Finds stand-ins for some modules and all below them."""

    names: tuple[str, ...]

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        below = any(fullname == n or fullname.startswith(f"{n}.") for n in self.names)
        return ModuleSpec(fullname, self, is_package=True) if below else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _StandIn(ModuleType):
    """Whatever is asked of it is one more of its kind."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _StandIn(f"{self.__name__}.{name}")

    def __deepcopy__(self, _: Any) -> Any:
        return self

    def __copy__(self) -> Any:
        return self

    def __reduce__(self) -> Any:
        return (_StandIn, (self.__name__,))

    def __iter__(self) -> Any:
        return iter(())

    def __or__(self, _: Any) -> Any:
        return Any

    __ror__ = __or__

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self

    def __getitem__(self, _: Any) -> Any:
        return Any

    def __mro_entries__(self, _: Any) -> tuple[type, ...]:
        return (object,)


@dataclass(frozen=True)
class Shipped:
    """One loss or advantage function.

    Attributes:
        library: its name.
        place: where it is, and the settings that choose it.
        make: imports it.
        arguments: what its parameters mean, or constants.
        note: what a reader has to know.
    """

    library: str
    place: str
    make: Callable[[], Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


LIBRARIES = (
    Library("TRL", "trl"),
    Library("verl", "verl"),
    Library(
        "OpenRLHF",
        "openrlhf==0.11.2",
        ("openrlhf", "openrlhf.models", "openrlhf.utils"),
        ("deepspeed", "ray", "peft", "flash_attn", "optree", "bitsandbytes"),
    ),
    Library(
        "SkyRL",
        "skyrl==0.3.0",
        (
            "skyrl",
            "skyrl.backends",
            "skyrl.backends.skyrl_train",
            "skyrl.backends.skyrl_train.utils",
            "skyrl.train",
        ),
        ("jaxtyping", "ray", "loguru", "skyrl.train.config"),
    ),
    Library(
        "AReaL",
        "areal==1.0.4",
        ("areal", "areal.utils", "areal.utils.functional"),
        (
            "uvloop", "uvicorn", "ray", "colorlog", "aiohttp", "tenacity", "tensordict",
            "pybase64", "fastapi", "torchdata", "swanlab", "wandb", "einops", "numba", "aiofiles",
            "requests", "megatron", "areal.infra", "areal.api", "areal.utils.network",
            "areal.utils.perf_tracer", "areal.utils.logging",
        ),
    ),
    Library(
        "Trinity-RFT",
        "trinity-rft==0.6.0",
        ("trinity", "trinity.algorithm", "trinity.algorithm.policy_loss_fn"),
    ),
    Library("oxRL", "oxrl==1.7.2", ("oxrl", "oxrl.algs", "oxrl.algs.losses")),
    Library("Liger", "liger-kernel==0.8.5", ("liger_kernel", "liger_kernel.chunked_loss")),
    Library(
        "LLaMA-Factory",
        "llamafactory==0.9.5",
        ("llamafactory", "llamafactory.train", "llamafactory.extras"),
        (
            "peft", "trl", "galore_torch", "apollo_torch", "badam", "swanlab",
            "llamafactory.extras.logging", "llamafactory.extras.misc",
            "llamafactory.extras.packages", "llamafactory.extras.constants",
            "llamafactory.hparams", "llamafactory.model",
        ),
    ),
    Library(
        "ms-swift",
        "ms-swift==4.6.0",
        ("swift", "swift.trainers"),
        ("modelscope", "peft", "datasets", "swift.utils", "swift.model", "swift.template"),
    ),
)  # fmt: skip


def _of(module: str, name: str) -> Callable[[], Any]:
    return lambda: getattr(import_module(module), name)


# ------------------------------------------------------------------------------------------ TRL


def _trl(**settings: Any) -> Callable[[], Any]:
    """GRPOTrainer's ``_compute_loss`` for given log-probabilities: the model answers with them."""

    def make() -> Any:
        from upge.verification.parity import trl as parity

        row = parity.TrlRow(trainer="GRPOTrainer", ours={}, note="", settings=settings)
        size = len(row.rewards[0])
        data = [{"prompt": prompt} for prompt in parity.PROMPTS for _ in range(size)]
        arguments = {
            "max_completion_length": parity.LONGEST,
            "num_generations": size,
            "per_device_train_batch_size": len(data),
            "steps_per_generation": 1,
        }
        rewards = [0.0] * len(data)
        trainer = parity._trainer(
            row, 0, mkdtemp(), data, arguments, reward_funcs=lambda **_: rewards
        )

        def grpo_trainer(
            per_token_logps: Tensor,
            old_per_token_logps: Tensor,
            advantages: Tensor,
            completion_mask: Tensor,
            num_items_in_batch: int,
            current_gradient_accumulation_steps: int,
            world_size: int,
        ) -> Any:
            rows, width = per_token_logps.shape
            ids = torch.ones(rows, width, dtype=torch.long)
            mask = completion_mask.long()
            inputs = {
                "prompt_ids": ids[:, :1],
                "prompt_mask": torch.ones_like(ids[:, :1]),
                "completion_ids": ids,
                "completion_mask": mask,
                "advantages": advantages,
                "old_per_token_logps": old_per_token_logps,
                "num_items_in_batch": torch.tensor(num_items_in_batch),
            }
            trainer.current_gradient_accumulation_steps = current_gradient_accumulation_steps

            def model(**_: Any) -> Any:
                blank = torch.zeros_like(per_token_logps)
                return SimpleNamespace(
                    log_probs=per_token_logps,
                    entropy=blank,
                    is_top1=blank.bool(),
                    label_mask=mask.bool(),
                )

            return trainer._compute_loss(model, inputs)

        return grpo_trainer

    return make


_TRL = tuple(
    Shipped("TRL", f"GRPOTrainer, {text}", _trl(**settings))
    for text, settings in (
        ("loss_type=grpo", {"loss_type": "grpo"}),
        ("loss_type=bnpo", {"loss_type": "bnpo"}),
        ("loss_type=dapo", {"loss_type": "dapo"}),
        ("loss_type=dr_grpo", {"loss_type": "dr_grpo"}),
        ("loss_type=cispo", {"loss_type": "cispo", "epsilon_high": 5.0}),
        ("loss_type=sapo", {"loss_type": "sapo"}),
        ("loss_type=luspo", {"loss_type": "luspo", "importance_sampling_level": "sequence"}),
        (
            "loss_type=grpo, importance_sampling_level=sequence",
            {"loss_type": "grpo", "importance_sampling_level": "sequence"},
        ),
    )
)


# ----------------------------------------------------------------------------------------- verl

_VERL = "verl.trainer.ppo.core_algos"


def _verl_loss(name: str, aggregation: str = "token-mean", **settings: Any) -> Callable[[], Any]:
    """A policy loss with verl's own configuration."""

    def make() -> Any:
        from verl.workers.config import ActorConfig

        config = ActorConfig(
            strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, **settings
        )
        call = getattr(import_module(_VERL), f"compute_policy_loss_{name}")

        def policy_loss(
            old_log_prob: Tensor,
            log_prob: Tensor,
            advantages: Tensor,
            response_mask: Tensor,
            batch_num_tokens: int,
            global_batch_size: int,
            dp_size: int,
        ) -> Any:
            config.global_batch_info.update(
                batch_num_tokens=batch_num_tokens,
                global_batch_size=global_batch_size,
                dp_size=dp_size,
            )
            return call(
                old_log_prob,
                log_prob,
                advantages,
                response_mask,
                loss_agg_mode=aggregation,
                config=config,
            )[0]

        return policy_loss

    return make


_VERL_LOSSES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("vanilla", "token-mean", {"clip_ratio_high": 0.28}),
    ("vanilla", "seq-mean-token-mean", {}),
    ("vanilla", "seq-mean-token-sum", {}),
    ("vanilla", "seq-mean-token-sum-norm", {}),
    ("gspo", "seq-mean-token-mean", {"clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4}),
    ("sapo", "seq-mean-token-mean", {"tau_pos": 1.0, "tau_neg": 1.05}),
    ("gpg", "token-mean", {}),
    ("geo_mean", "seq-mean-token-mean", {"clip_ratio_low": 0.4, "clip_ratio_high": 0.4}),
    ("cispo", "token-mean", {"clip_ratio_low": 1.0, "clip_ratio_high": 4.0}),
    ("dppo_tv", "token-mean", {}),
    ("dppo_kl", "token-mean", {}),
    ("clip_cov", "token-mean", {}),
    ("kl_cov", "token-mean", {}),
)

_VERL_ADVANTAGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("grpo_outcome", {}),
    ("grpo_outcome", {"norm_adv_by_std_in_grpo": False}),
    ("grpo_vectorized_outcome", {}),
    ("rloo_outcome", {}),
    ("rloo_vectorized_outcome", {}),
    ("opo_outcome", {}),
    ("gpg_outcome", {}),
    ("reinforce_plus_plus_baseline_outcome", {}),
)


def _verl_advantage(name: str) -> Callable[[], Any]:
    """The Â of an advantage function; verl returns it twice."""

    def make() -> Any:
        call = getattr(import_module(_VERL), f"compute_{name}_advantage")

        def advantage(
            token_level_rewards: Tensor, response_mask: Tensor, uid: Any, **settings: Any
        ) -> Tensor:
            return call(  # type: ignore[no-any-return]
                token_level_rewards=token_level_rewards,
                response_mask=response_mask,
                index=uid,
                **settings,
            )[0]

        return advantage

    return make


def _said(name: str, settings: Mapping[str, Any]) -> str:
    return ", ".join([name, *(f"{n}={v:g}" for n, v in settings.items())])


_VERL_ROWS = (
    *(
        Shipped(
            "verl",
            _said(f"{name}, {aggregation}", settings),
            _verl_loss(name, aggregation, **settings),
        )
        for name, aggregation, settings in _VERL_LOSSES
    ),
    *(
        Shipped("verl", _said(f"Â: {name}", settings), _verl_advantage(name), settings)
        for name, settings in _VERL_ADVANTAGES
    ),
)


# -------------------------------------------------------------------------------------- the others


def _openrlhf(**settings: Any) -> Callable[[], Any]:
    return lambda: import_module("openrlhf.models.loss").PolicyLoss(**settings)


def _trinity(module: str, name: str, **settings: Any) -> Callable[[], Any]:
    """A loss of Trinity-RFT, whose metaclass hides the names of its parameters."""

    def make() -> Any:
        place = f"trinity.algorithm.policy_loss_fn.{module}"
        call = getattr(import_module(place), name)(**settings)
        names = {"old_logprob": "old_log_probs", "action_mask": "response_mask"}

        def policy_loss(
            logprob: Tensor, old_logprob: Tensor, advantages: Tensor, action_mask: Tensor
        ) -> Any:
            given = {
                "old_logprob": old_logprob,
                "advantages": advantages,
                "action_mask": action_mask,
            }
            return call(logprob, **{names.get(n, n): given[n] for n in call._select_keys})[0]

        def imitation_loss(logprob: Tensor, action_mask: Tensor) -> Any:
            return call(logprob, response_mask=action_mask)[0]

        return policy_loss if "advantages" in call._select_keys else imitation_loss

    return make


def _skyrl(name: str, **settings: Any) -> Callable[[], Any]:
    def make() -> Any:
        call = getattr(import_module("skyrl.backends.skyrl_train.utils.ppo_utils"), name)
        off = SimpleNamespace(
            tis_ratio_type=None,
            sequence_mask_metric=None,
            outlier_token_is_threshold_low=None,
            outlier_token_is_threshold_high=None,
            token_mask_is_threshold_low=None,
            token_mask_is_threshold_high=None,
        )
        config = SimpleNamespace(off_policy_correction=off, **settings)

        def policy_loss(
            log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, loss_mask: Tensor
        ) -> Any:
            return call(log_probs, old_log_probs, advantages, config, loss_mask)[0]

        return policy_loss

    return make


def _areal(name: str, **settings: Any) -> Callable[[], Any]:
    def make() -> Any:
        call = getattr(import_module("areal.utils.functional.functional"), name)

        def actor_loss(
            logprobs: Tensor, proximal_logprobs: Tensor, advantages: Tensor, loss_mask: Tensor
        ) -> Any:
            return call(
                logprobs=logprobs,
                proximal_logprobs=proximal_logprobs,
                old_logprobs=proximal_logprobs,
                advantages=advantages,
                loss_mask=loss_mask,
                **settings,
            )[0]

        return actor_loss

    return make


def _liger(loss_type: str, **settings: Any) -> Callable[[], Any]:
    """Liger's fused head and loss: the head is the identity, so that its input are the logits."""

    def make() -> Any:
        kind = import_module("liger_kernel.chunked_loss.grpo_loss").LigerFusedLinearGRPOLoss
        call = kind(beta=0.0, compiled=False, use_ref_model=False, loss_type=loss_type, **settings)

        def fused(
            logits: Tensor,
            labels: Tensor,
            completion_mask: Tensor,
            advantages: Tensor,
            old_per_token_logps: Tensor,
            num_items_in_batch: int,
        ) -> Any:
            head = torch.eye(logits.shape[-1], dtype=logits.dtype)
            return call(
                logits,
                head,
                labels.clamp(min=0),
                completion_mask,
                advantages,
                old_per_token_logps=old_per_token_logps,
                num_items_in_batch=torch.tensor(num_items_in_batch),
            )[0]

        return fused

    return make


def _supervised(module: str, name: str, **settings: Any) -> Callable[[], Any]:
    """A loss of a model's outputs and its labels."""

    def make() -> Any:
        call = getattr(import_module(module), name)

        def loss(logits: Tensor, labels: Tensor, num_items_in_batch: int) -> Any:
            return call(
                {"logits": logits},
                labels,
                num_items_in_batch=torch.tensor(num_items_in_batch),
                **settings,
            )

        return loss

    return make


def _swift(**settings: Any) -> Callable[[], Any]:
    """Terms of each token, which ms-swift's trainer reduces."""

    def make() -> Any:
        call = import_module("swift.trainers.utils").per_token_loss_func

        def loss(logits: Tensor, labels: Tensor) -> Any:
            return call(SimpleNamespace(logits=logits, device=logits.device), labels, **settings)

        return loss

    return make


_CLIP = {"clip_low": 0.2, "clip_high": 0.28, "ent_coeff": 0.01, "kl_coeff": 0.001}
_TRINITY_CLIP = {"clip_range_low": 0.2, "clip_range_high": 0.28}
_SKYRL_DUAL = {
    "policy_loss_type": "dual_clip",
    "eps_clip_low": 0.2,
    "eps_clip_high": 0.28,
    "clip_ratio_c": 3.0,
}
_SKYRL = {"policy_loss_type": "regular", "eps_clip_low": 0.2, "eps_clip_high": 0.28}

SHIPPED: tuple[Shipped, ...] = (
    *_TRL,
    *_VERL_ROWS,
    Shipped("OpenRLHF", "PolicyLoss", _openrlhf()),
    Shipped("OpenRLHF", "PolicyLoss, token_level_loss=False", _openrlhf(token_level_loss=False)),
    Shipped("OpenRLHF", "PolicyLoss, dual_clip=3", _openrlhf(dual_clip=3.0)),
    Shipped("OpenRLHF", "PolicyLoss, policy_loss_type=gspo", _openrlhf(policy_loss_type="gspo")),
    Shipped(
        "OpenRLHF",
        "PolicyLoss, is_correction token clip [0.5, 5]",
        _openrlhf(is_correction_level="token", is_correction_mode="clip"),
    ),
    Shipped("SkyRL", "ppo_policy_loss", _skyrl("ppo_policy_loss", **_SKYRL)),
    Shipped(
        "SkyRL",
        "ppo_policy_loss, dual_clip",
        _skyrl("ppo_policy_loss", **_SKYRL_DUAL),
    ),
    Shipped(
        "SkyRL",
        "gspo_policy_loss",
        _skyrl("gspo_policy_loss", **(_SKYRL | {"eps_clip_low": 3e-4, "eps_clip_high": 4e-4,
                                                "loss_reduction": "sequence_mean"})),
    ),
    Shipped(
        "SkyRL",
        "compute_policy_loss_cispo",
        _skyrl("compute_policy_loss_cispo", cispo=SimpleNamespace(
            cispo_eps_clip_low=1.0, cispo_eps_clip_high=4.0)),
    ),
    Shipped("AReaL", "ppo_actor_loss_fn", _areal("ppo_actor_loss_fn", eps_clip=0.2)),
    Shipped(
        "AReaL",
        "ppo_actor_loss_fn, sequence",
        _areal("ppo_actor_loss_fn", eps_clip=3e-4, importance_sampling_level="sequence"),
    ),
    Shipped("AReaL", "ppo_actor_loss_fn, c_clip=3", _areal(
        "ppo_actor_loss_fn", eps_clip=0.2, c_clip=3.0)),
    Shipped("Trinity-RFT", "PPOPolicyLossFn", _trinity(
        "ppo_policy_loss", "PPOPolicyLossFn", **_TRINITY_CLIP)),
    Shipped("Trinity-RFT", "GSPOLossFn", _trinity(
        "gspo_policy_loss", "GSPOLossFn", clip_range_low=3e-4, clip_range_high=4e-4)),
    Shipped("Trinity-RFT", "CISPOPolicyLossFn", _trinity(
        "cispo_policy_loss", "CISPOPolicyLossFn", clip_range_high=4.0)),
    Shipped("Trinity-RFT", "SAPOPolicyLossFn", _trinity("sapo_policy_loss", "SAPOPolicyLossFn")),
    Shipped("Trinity-RFT", "TOPRPolicyLossFn", _trinity("topr_policy_loss", "TOPRPolicyLossFn")),
    Shipped("Trinity-RFT", "RECPolicyLossFn", _trinity("rec_policy_loss", "RECPolicyLossFn")),
    Shipped("Trinity-RFT", "OPMDPolicyLossFn", _trinity("opmd_policy_loss", "OPMDPolicyLossFn")),
    Shipped("Trinity-RFT", "SFTLossFn", _trinity("sft_loss", "SFTLossFn")),
    Shipped("Trinity-RFT", "SFTPhiLossFn", _trinity("chord_policy_loss", "SFTPhiLossFn")),
    Shipped("Trinity-RFT", "SFTISLossFn", _trinity("chord_policy_loss", "SFTISLossFn")),
    *(
        Shipped("oxRL", f"compute_{name}_loss", _of(f"oxrl.algs.losses.{name}",
                                                    f"compute_{name}_loss"), _CLIP)
        for name in ("sgrpo", "gspo", "cispo")
    ),
    *(
        Shipped("Liger", f"LigerFusedLinearGRPOLoss, {name}", _liger(name, **settings))
        for name, settings in (
            ("grpo", {}), ("bnpo", {}), ("dapo", {}), ("dr_grpo", {"max_completion_length": 12}),
            ("cispo", {"epsilon_high": 5.0}), ("sapo", {}),
            ("luspo", {"importance_sampling_level": "sequence"}),
        )
    ),
    Shipped("LLaMA-Factory", "dft_loss_func", _supervised(
        "llamafactory.train.trainer_utils", "dft_loss_func")),
    Shipped("ms-swift", "per_token_loss_func, enable_dft_loss", _swift(enable_dft_loss=True)),
    Shipped("ms-swift", "per_token_loss_func", _swift()),
    Shipped("LLaMA-Factory", "eaft_loss_func", _supervised(
        "llamafactory.train.trainer_utils", "eaft_loss_func")),
)  # fmt: skip
