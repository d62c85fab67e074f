"""``python -m experiments.architectures``: log π and sampling of every causal architecture.

Each architecture that transformers' AutoModelForCausalLM knows is built small by its configuration,
with random weights. Log π of the policy and its gradient are compared with the model's own logits
in float64, and log π of sampled responses in float32. The table says by which way each is computed,
see :mod:`upge.models.heads` and :mod:`upge.rollouts.decoding`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from rich.console import Console
from rich.progress import track
from torch import Tensor

from upge.common.errors import UpgeError
from upge.common.files import atomic_write, make_folder
from upge.models.heads import HEADS
from upge.models.policy import Policy
from upge.rollouts import CachedSampler, Sampling

_TEMPERATURE = 0.7

#: Sizes of all configurations that have a setting of that name.
_SIZES: Mapping[str, Any] = {
    "vocab_size": 97,
    **dict.fromkeys(("hidden_size", "hidden_size_global", "n_embd", "d_model", "emb_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers"), 2),
    **dict.fromkeys(("decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "n_inner", "decoder_ffn_dim", "encoder_ffn_dim"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 128),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts"), 4),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "kv_lora_rank"), 8),
    **{"num_key_value_heads": 2, "head_dim": 8, "ffn_dim": 48, "depth": 1},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "is_decoder": True},
    **{"num_experts_per_tok": 2, "moe_intermediate_size": 16, "q_lora_rank": 16},
    **{"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "rotary_dim": 4},
    **{"image_size": 16, "patch_size": 8},
}

#: Attention over compressed keys has as many key heads as heads.
_COMPRESSED = {"num_key_value_heads": 4}

_HYBRID = {
    "layer_types": ["linear_attention", "full_attention"],
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
}

#: What an architecture needs besides, by the name of its model type; and, where it changes its
#: logits by a factor, one that isn't 1.
_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "blt": {"encoder_hash_byte_group_vocab": 97, "max_position_embeddings": 128},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 32, "moe_top_k": 2},
    },
    "deepseek_v2": _COMPRESSED,
    "deepseek_v3": _COMPRESSED,
    "dots1": {"n_shared_experts": 1},
    "falcon_h1": {"mamba_d_ssm": 64, "lm_head_multiplier": 0.3},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "activation_sparsity_pattern": [0.0, 0.0],
        "num_kv_shared_layers": 0,
        **{"laurel_rank": 8, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 97},
    },
    "gemma4_text": {
        **dict.fromkeys(("hidden_size_per_layer_input", "vocab_size_per_layer_input"), 0),
        "final_logit_softcapping": 30.0,
    },
    "glm4_moe_lite": _COMPRESSED,
    "glm_moe_dsa": {**_COMPRESSED, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granite": {"logits_scaling": 4.0},
    "granitemoe": {"logits_scaling": 4.0},
    "granitemoehybrid": {"logits_scaling": 4.0, "layer_types": ["mamba", "attention"]},
    "granitemoeshared": {"logits_scaling": 4.0},
    "hyperclovax": {"logits_scaling": 0.25},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {
        **_COMPRESSED,
        **{"num_layers": 1, "expert_ffn_hidden_size": 16, "ffn_hidden_size": 32},
        **{"moe_topk": 2, "zero_expert_num": 1},
    },
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2, "n_groups": 2},
    "minimax": {"layer_types": ["linear_attention", "full_attention"]},
    "olmo_hybrid": _HYBRID,
    "qwen3_5_moe_text": _HYBRID,
    "qwen3_5_text": _HYBRID,
    "qwen3_next": _HYBRID,
    "recurrent_gemma": {"num_hidden_layers": 3, "lru_width": 32},
    "reformer": {
        **{"axial_pos_embds_dim": (16, 16), "axial_pos_shape": (8, 16), "attention_head_size": 8},
        **{"feed_forward_size": 48, "attn_layers": ["local", "local"]},
        "local_attn_chunk_length": 4,
    },
    "roc_bert": {
        **dict.fromkeys(("pronunciation_vocab_size", "shape_vocab_size"), 97),
        **dict.fromkeys(("pronunciation_embed_dim", "shape_embed_dim"), 8),
    },
    "xlm": {"causal": True},
    "xlstm": {"hidden_size": 128},
    "xmod": {"default_language": "en_XX"},
    "youtu": _COMPRESSED,
    "zamba": {
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        **{"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
        "use_mamba_kernels": False,
    },
    "zamba2": {
        "layers_block_type": ["mamba", "hybrid", "mamba"],
        **{"num_hidden_layers": 3, "hybrid_layer_ids": [1], "num_mem_blocks": 1},
        **{"n_mamba_heads": 4, "mamba_headdim": 16},
    },
}

#: Parameters of a model, at most: a larger one has not been made small.
_LARGEST = 30_000_000


def architectures() -> list[str]:
    """The model types that AutoModelForCausalLM knows."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def small_model(architecture: str, seed: int = 0, **settings: Any) -> Any:
    """A model of some ten thousand weights, random and in evaluation mode.

    Args:
        architecture: its model type.
        seed: of the weights.
        settings: of its configuration, over those made here.

    Raises:
        UpgeError: the model is not small.
    """
    import transformers

    kind = transformers.models.auto.configuration_auto.CONFIG_MAPPING[architecture]
    config = _small(kind, settings)
    with torch.device("meta"):
        size = transformers.AutoModelForCausalLM.from_config(config).num_parameters()
    if size > _LARGEST:
        raise UpgeError(f"{architecture}: has {size} parameters; add sizes that make it small")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Experts together, which is faster, exist in float32 alone.
        model = transformers.AutoModelForCausalLM.from_config(
            config, experts_implementation="eager"
        )
        head = model.get_output_embeddings()
        if head is not None:  # else logits of random weights are all alike
            head.weight.data.normal_(std=0.2)
    return model.eval()


def _small(kind: Any, settings: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    names = {field.name for field in fields(kind)}
    sizes = {name: size for name, size in _SIZES.items() if name in names}
    needed = _SETTINGS.get(kind.model_type, {})
    for name, part in kind.sub_configs.items():
        if name not in needed:
            part = type(getattr(kind(), name)) if part is AutoConfig else part
            sizes[name] = _small(part, {})
    return kind(**{**sizes, **needed, **settings})


# ---------------------------------------------------------------------------------------- verdicts


@dataclass(frozen=True)
class Verdict:
    """What holds for an architecture.

    Args:
        architecture: its model type.
        model: the class.
        head: how log π follows from it; or why there is none.
        log_pi: the largest distance from log softmax(``model(x).logits`` / T), float64.
        gradient: of Σ w log π, the same, over its largest entry.
        sampling: how responses are decoded; or why they can't be.
        sampled: the largest distance of a sampled token's log π from the model's, float32.
    """

    architecture: str
    model: str = ""
    head: str = ""
    log_pi: float | None = None
    gradient: float | None = None
    sampling: str = ""
    sampled: float | None = None


def verdict(architecture: str) -> Verdict:
    """Build the model and compare."""
    try:
        model = small_model(architecture)
    except Exception as error:
        return Verdict(architecture, head=f"not built: {_reason(error)}")
    name = type(model).__name__
    try:
        head = Policy(model).head
        sampling, sampled = _sampling(model)
    except UpgeError as error:
        return Verdict(architecture, name, head=f"refused: {error}")
    try:
        log_pi, gradient = _distances(model.double())
    except (AssertionError, RuntimeError) as error:  # made for training mode alone
        return Verdict(architecture, name, f"{head}, but no gradient: {_reason(error)}")
    return Verdict(architecture, name, head, log_pi, gradient, sampling, sampled)


def own_log_pi(model: Any, prompt: Sequence[int], response: Sequence[int], t: float) -> Tensor:
    """Log π of a response's tokens by the model's logits of this text alone."""
    logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    log_pi = (logits.to(torch.promote_types(logits.dtype, torch.float32)) / t).log_softmax(-1)
    own: Tensor = log_pi.gather(1, torch.tensor(response)[:, None])[:, 0]
    return own


def _distances(model: Any) -> tuple[float, float]:
    """Of log π and its gradient from those by the model's logits, for padded rows."""
    rows = [([5, 9, 3, 7], [8, 4, 11, 6, 2]), ([6], [7, 13, 2])]
    tokens = torch.zeros(len(rows), 9, dtype=torch.long)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    for place, (prompt, response) in enumerate(rows):
        tokens[place, : len(prompt) + len(response)] = torch.tensor(prompt + response)
        mask[place, len(prompt) : len(prompt) + len(response)] = True
    policy = Policy(model, _TEMPERATURE, chunk=3)
    found = policy(tokens, mask).logp[mask]
    wanted = torch.cat([own_log_pi(model, *row, _TEMPERATURE) for row in rows])
    weights = torch.linspace(-1, 1, len(wanted), dtype=wanted.dtype)
    ours, theirs = (_gradient(model, (weights * x).sum()) for x in (found, wanted))
    scale = theirs.abs().max().item()
    return _distance(found, wanted), _distance(ours, theirs) / scale


def _gradient(model: Any, value: Tensor) -> Tensor:
    model.zero_grad()
    value.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return torch.cat([gradient.flatten().double() for gradient in gradients])


def _sampling(model: Any) -> tuple[str, float]:
    """The way of decoding, and the distance of sampled tokens' log π from the model's."""
    prompts = [[5, 9, 3, 7], [6]]
    sampler = CachedSampler(model, 2)
    rollouts = sampler(prompts, 3, Sampling(6, _TEMPERATURE), [0, 1])
    distances = []
    for place, mask in enumerate(rollouts.mask):
        response = rollouts.tokens[place, mask].tolist()
        with torch.no_grad():
            wanted = own_log_pi(model, prompts[place // 3], response, _TEMPERATURE)
        distances.append(_distance(rollouts.logp[place, mask], wanted))
    return sampler.decoding.way.__name__, max(distances)


def _distance(one: Tensor, other: Tensor) -> float:
    return (one - other).detach().abs().max().item()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


# ------------------------------------------------------------------------------------------- table

_SAMPLING = {
    "Cached": "over a cache",
    "Unpadded": "over a cache, prompts of one length at a time",
    "Rerun": "whole rows for every token",
}


def table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """A row an architecture; distances are rounded up to a power of ten, as machines differ."""
    rows = []
    for own in verdicts:
        row = asdict(own) | {"sampling": _SAMPLING.get(own.sampling, own.sampling)}
        for name in ("log_pi", "gradient", "sampled"):
            row[name] = "" if row[name] is None else f"{10 ** math.ceil(_log10(row[name])):.0e}"
        rows.append(row)
    return pd.DataFrame(rows)


def _log10(distance: float) -> float:
    return math.log10(max(distance, 1e-16))


def markdown(frame: pd.DataFrame) -> str:
    """The table with what its columns are."""
    import transformers

    built = frame[frame["sampling"] != ""]
    counts = {name: int((built["head"] == name).sum()) for name in HEADS}
    cells = frame.replace({r"\|": "∣"}, regex=True)
    lines = ["| " + " | ".join(row) + " |" for row in [frame.columns, *cells.to_numpy()]]
    lines.insert(1, "|" + " --- |" * len(frame.columns))
    return (
        f"# The causal architectures of transformers {transformers.__version__}, built small\n\n"
        f"Of {len(frame)}, {len(built)} are trained and sampled from. log π follows from hidden "
        f"states times output embedding (plain) in {counts['plain']}, by the model's code behind "
        f"its decoder, in chunks (adjusted), in {counts['adjusted']}, by whole logits (whole) in "
        f"{counts['whole']}.\n\n"
        "log_pi and gradient: largest distance from log softmax(model(x).logits / T) and from the "
        "gradient of Σ w log π (over its largest entry), with float64 weights; some architectures "
        "compute parts in float32 all the same. sampled: the same of sampled tokens, float32.\n\n"
        + "\n".join(lines)
        + "\n\nMade by `python -m experiments.architectures`.\n"
    )


def main(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]…", help="Model types; all by default.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the table goes.")] = Path("paper_tables"),
) -> None:
    """Compare log π and sampling of architectures with their logits: about 5 minutes for all."""
    import transformers

    transformers.logging.set_verbosity_error()
    chosen = names or architectures()
    for name in chosen:
        if name not in architectures():
            raise UpgeError(f"unknown architecture {name!r}; name a model type of transformers")
    bar = track(chosen, "comparing", console=Console(stderr=True))
    frame = table([verdict(name) for name in bar])
    print(frame.to_string(index=False))
    if names is None:
        make_folder(out)
        atomic_write(out / "architectures.md", markdown(frame))
        atomic_write(out / "architectures.csv", frame.to_csv(index=False))


if __name__ == "__main__":
    try:
        typer.run(main)
    except UpgeError as error:
        sys.exit(f"error: {error}")
