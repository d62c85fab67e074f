"""Sampling from a vLLM engine that holds a copy of the policy.

The engine runs in processes of its own, on a GPU or on a CPU. New weights reach it through a folder
in the Hugging Face format and its ``reload_weights``, which restores each layer to the form that
checkpoints have, loads it, and packs it again for the kernels: on a CPU these pack weights when
they are loaded, so that loading into what is left of them fails. Tied output embeddings, which no
checkpoint has, are packed again by :mod:`upge.rollouts.vllm_worker`.

TRL's ``VLLMGeneration`` starts and feeds such engines too, but can't serve the protocol: it has one
seed for all prompts, starts from the model's name where the weights may be others (a GGUF file, a
resumed run), and loads new weights parameter by parameter, without restoring layers.

With every reload each process writes the weights, in the engine's precision, into a folder of the
temporary directory (``TMPDIR``); one in memory, as /dev/shm, spares large models the disk.

Environment variables: ``UPGE_VLLM_MEMORY``, the share of a GPU's memory that the engine takes
(0.3); ``VLLM_CPU_KVCACHE_SPACE``, GiB of key-value cache on a CPU (1); all of vLLM's own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from weakref import finalize

import torch

from upge.common.errors import UpgeError
from upge.common.optional import require
from upge.models.pretrained import save_pretrained
from upge.rollouts.sampler import (
    Rollouts,
    Sampling,
    check_request,
    derive_seed,
    end_tokens,
    position_limit,
)
from upge.rollouts.vllm_worker import FOLDER, OWNER
from upge.tasks.encoding import end_ids

#: vLLM raises lower temperatures, but for 0, to the first, and refuses higher ones than the second.
_COLDEST, _HOTTEST = 1e-2, 2.0

#: What engines are given unless the user has set it: silence, and no threads bound to cores that
#: others use.
_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}

#: On a CPU also: compiling what finds the sampled token's rank takes longer than it ever saves.
_CPU_ENVIRONMENT = {"TORCH_COMPILE_DISABLE": "1"}

#: What a launcher tells its processes of each other: an engine is none of them.
_LAUNCHED = re.compile(r"TORCHELASTIC_|MASTER_|((LOCAL|GROUP|ROLE)_)?(RANK|WORLD_SIZE)$")

#: Of a folder that sockets lie in, in characters: their own names have 36, a whole path 107.
_LONGEST = 70

#: The share of a GPU's memory that the engine takes, unless the user says another.
_MEMORY = 0.3


class VLLMSampler:
    """A :class:`~upge.rollouts.sampler.Sampler` on a vLLM engine.

    Its log-probabilities are the engine's own, at the sampling temperature: vLLM gives them after
    temperature and top-p, so they are NaN where ``top_p`` is below 1.

    Args:
        model: the transformers causal language model whose weights it copies.
        tokenizer: its tokenizer.
        dtype: of the engine's weights and products.
        device: that it samples on.

    Raises:
        UpgeError: the extra ``vllm`` is missing; vLLM doesn't know the model, or finds too little
            memory; the model knows no end of sequence; when called, as
            :func:`~upge.rollouts.sampler.check_request` does, and at temperatures that vLLM doesn't
            sample at.
    """

    def __init__(
        self, model: Any, tokenizer: Any, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.dtype, self.device = dtype, device
        self.ends = end_tokens(model, end_ids(tokenizer))
        self._folder = TemporaryDirectory(prefix="upge-vllm-")
        self._versions = count()
        self._is_old = False
        own = Path(self._folder.name)
        self._log, memory = own / "engine.log", _memory()
        with _environment(own, device), _output_to(self._log):
            _check(model)
            with self._weights() as folder:
                self._engine = _start(folder, self._log, device, dtype, memory)
        self._stop = finalize(self, self._engine.llm_engine.engine_core.shutdown)

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        samples: int,
        settings: Sampling,
        seeds: Sequence[int],
    ) -> Rollouts:
        check_request(prompts, samples, settings, seeds, position_limit(self.model))
        self._check_room(max(map(len, prompts)) + settings.max_tokens)
        if settings.temperature and not _COLDEST <= settings.temperature <= _HOTTEST:
            raise UpgeError(
                f"temperature: got {settings.temperature}, at which vLLM doesn't sample; wanted 0, "
                f"which is greedy, or {_COLDEST:g} to {_HOTTEST:g}"
            )
        with self._failures():
            if self._is_old:
                self._reload()
            outputs = self._engine.generate(
                [{"prompt_token_ids": list(prompt)} for prompt in prompts],
                [self._parameters(samples, settings, seed) for seed in seeds],
                use_tqdm=False,
            )
        # Greedy responses to a prompt are all the same, so the engine gives one.
        copies = samples if settings.temperature == 0 else 1
        responses = [own for output in outputs for own in output.outputs for _ in range(copies)]
        return self._gather(responses, settings)

    def synchronize(self) -> None:
        """Have the next call take the policy's weights over first."""
        self._is_old = True

    def close(self) -> None:
        """End the engine's processes; this also happens when the sampler is no longer used."""
        self._stop()
        self._folder.cleanup()

    def _check_room(self, needed: int) -> None:
        """Refuse what the engine has shortened the model for."""
        room = self._engine.model_config.max_model_len
        if needed > room:
            raise UpgeError(
                f"max_tokens: the longest prompt and its response may have {needed} tokens, and "
                f"vLLM's cache holds {room}; lower max_tokens, or give it {_more(self.device)}"
            )

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise UpgeError(
                f"vLLM has failed: {_reason(error, self._log)}; see whether there is memory left, "
                "or take backend: transformers"
            ) from error

    def _parameters(self, samples: int, settings: Sampling, seed: int) -> Any:
        """Sampling parameters of one prompt. vLLM adds a response's number to the prompt's seed."""
        greedy = settings.temperature == 0
        return require("vllm", "vllm").SamplingParams(
            n=1 if greedy else samples,
            temperature=settings.temperature,
            top_p=1.0 if greedy else settings.top_p,
            max_tokens=settings.max_tokens,
            seed=derive_seed("vllm", seed) >> 1,
            stop_token_ids=self.ends,
            ignore_eos=True,  # they are all among these
            detokenize=False,
            logprobs=0,
            flat_logprobs=True,
        )

    def _gather(self, responses: Sequence[Any], settings: Sampling) -> Rollouts:
        shape = len(responses), settings.max_tokens
        tokens, logp = torch.zeros(shape, dtype=torch.long), torch.zeros(shape)
        lengths = torch.tensor([len(response.token_ids) for response in responses])
        for row, (response, length) in enumerate(zip(responses, lengths.tolist(), strict=True)):
            tokens[row, :length] = torch.tensor(response.token_ids)
            logp[row, :length] = torch.tensor(response.logprobs.logprobs)
        mask = torch.arange(settings.max_tokens) < lengths[:, None]
        if settings.top_p < 1 and settings.temperature > 0:
            logp = logp.masked_fill(mask, float("nan"))
        last = tokens.gather(1, lengths[:, None] - 1).squeeze(1)
        finished = torch.isin(last, torch.tensor(self.ends))
        parts = tokens, mask, logp.clamp(max=0), finished
        return Rollouts(*(part.to(self.device) for part in parts))

    @contextmanager
    def _weights(self) -> Iterator[Path]:
        """The policy in a new folder: the last one's files may still be mapped."""
        folder = Path(self._folder.name) / f"weights-{next(self._versions)}"
        save_pretrained(self.model, self.tokenizer, folder, self.dtype)
        yield folder
        for path in folder.glob("*.safetensors"):
            path.unlink()

    def _reload(self) -> None:
        with self._weights() as folder:
            self._engine.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        self._engine.collective_rpc("repack_head")
        self._engine.reset_prefix_cache()
        self._is_old = False


@contextmanager
def _environment(folder: Path, device: torch.device) -> Iterator[None]:
    """What engines started meanwhile inherit."""
    kept = dict(os.environ)
    given = {name: value for name, value in kept.items() if not _LAUNCHED.match(name)}
    ours = {OWNER: str(os.getpid()), FOLDER: str(folder)}
    if len(str(folder)) <= _LONGEST:
        ours["VLLM_RPC_BASE_PATH"] = str(folder)
    if device.index is not None:  # of several GPUs the policy's, whichever process this is
        shown = kept.get("CUDA_VISIBLE_DEVICES", "").split(",")
        ours["CUDA_VISIBLE_DEVICES"] = shown[device.index] if shown != [""] else str(device.index)
    _set_environment(
        _ENVIRONMENT | (_CPU_ENVIRONMENT if device.type == "cpu" else {}) | given | ours
    )
    try:
        yield
    finally:
        _set_environment(kept)


def _set_environment(variables: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)


def _start(folder: Path, log: Path, device: torch.device, dtype: torch.dtype, memory: float) -> Any:
    on_cpu = device.type == "cpu"
    vllm = require("vllm", "vllm")
    try:
        return vllm.LLM(
            str(folder),
            skip_tokenizer_init=True,
            generation_config="vllm",
            dtype=str(dtype).removeprefix("torch."),
            max_model_len=-1,  # as many as the model has and the cache holds
            # vLLM 0.31 draws for each part of a prompt, and then can't wind a CPU's generator back.
            enable_chunked_prefill=False if on_cpu else None,
            gpu_memory_utilization=memory,
            enforce_eager=on_cpu,
            logprobs_mode="processed_logprobs",
            use_tqdm_on_load=False,
            worker_extension_cls="upge.rollouts.vllm_worker.WorkerExtension",
        )
    except Exception as error:
        raise UpgeError(
            f"vLLM can't sample from this model: {_reason(error, log)}; take backend: transformers "
            f"or another model, or give vLLM {_more(device)}"
        ) from error


def _more(device: torch.device) -> str:
    if device.type == "cpu":
        return "more memory for its cache (VLLM_CPU_KVCACHE_SPACE, in GiB)"
    return "a larger share of the GPU's memory (UPGE_VLLM_MEMORY)"


def _memory() -> float:
    text = os.environ.get("UPGE_VLLM_MEMORY", str(_MEMORY))
    try:
        share = float(text)
    except ValueError:
        share = 0
    if not 0 < share <= 1:
        raise UpgeError(
            f"UPGE_VLLM_MEMORY: got {text!r}, wanted the share of the GPU's memory that vLLM takes,"
            " above 0 and at most 1"
        )
    return share


def _check(model: Any) -> None:
    """Refuse what vLLM says at length, or finds out at the first token only.

    On a CPU its kernels know heads of set sizes.
    """
    require("vllm", "vllm")
    platform = require("vllm.platforms", "vllm").current_platform
    if not platform.device_type:
        raise UpgeError(
            "vLLM finds no GPU here, and this build of it knows no other device; install the one "
            "for a CPU by the pins of requirements-extras.lock, or take backend: transformers"
        )
    if not platform.is_cpu():
        return
    config = model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    backend = require("vllm.v1.attention.backends.cpu_attn", "vllm").CPUAttentionBackend
    known = backend.get_supported_head_sizes()
    if size not in known:
        raise UpgeError(
            f"model: its attention heads have {size} numbers, and vLLM on a CPU knows only "
            f"{', '.join(map(str, known))}; take backend: transformers, or another model"
        )


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """What this process and those that it starts print goes to a file, for these for good."""
    kept = [os.dup(1), os.dup(2)]
    try:
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            yield
    finally:
        for number, original in enumerate(kept, 1):
            os.dup2(original, number)
            os.close(original)


def _reason(error: Exception, log: Path) -> str:
    """Why the engine failed, as its own process said or else this one, on one line."""
    text = log.read_text(encoding="utf-8", errors="replace")
    said = re.findall(r"^.*?\b\w+Error: (.+)$", text, re.MULTILINE)
    return " ".join((said[-1] if said else str(error)).split())[:300].rstrip(".: ")
