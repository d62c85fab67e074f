"""Other people's libraries without their output, network access or traces in the process."""

from __future__ import annotations

import logging
import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module

import torch

from upge.common.optional import available

_ENVIRONMENT = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "VERL_USE_EXTERNAL_PLUGINS": "none",
    "WANDB_MODE": "disabled",
}

#: What is read from the environment once, at import, and so has to be set there.
_CONSTANTS = {
    "huggingface_hub.constants": ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"),
    "datasets.config": ("HF_HUB_OFFLINE",),
}


@contextmanager
def isolated() -> Iterator[None]:
    """Run the block offline and silently; put back what it changes outside of itself."""
    with ExitStack() as stack, open(os.devnull, "w", encoding="utf-8") as nowhere:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for restore in (_offline, _environment, _logging, _one_thread, _random_state, _accelerate):
            stack.enter_context(restore())
        stack.enter_context(redirect_stdout(nowhere))
        stack.enter_context(redirect_stderr(nowhere))
        yield


@contextmanager
def _offline() -> Iterator[None]:
    # All are imported before any is changed, since some copy the others' constants.
    modules = {
        name: import_module(name) for name in _CONSTANTS if available(name.partition(".")[0])
    }
    before = [
        (module, constant, getattr(module, constant))
        for name, module in modules.items()
        for constant in _CONSTANTS[name]
    ]
    for module, constant, _ in before:
        setattr(module, constant, True)
    try:
        yield
    finally:
        for module, constant, value in before:
            setattr(module, constant, value)


@contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _logging() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.manager.disable, root.level, list(root.handlers))
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before[0])
        root.setLevel(before[1])
        root.handlers[:] = before[2]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads, many times so beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _random_state() -> Iterator[None]:
    numpy = import_module("numpy.random")
    before = (random.getstate(), numpy.get_state())
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(before[0])
        numpy.set_state(before[1])


@contextmanager
def _accelerate() -> Iterator[None]:
    """Forget accelerate's choice of the CPU, unless the process had made one of its own."""

    def shared() -> bool:
        module = sys.modules.get("accelerate.state")
        return module is not None and bool(module.PartialState._shared_state)

    chosen = shared()
    try:
        yield
    finally:
        if shared() and not chosen:
            sys.modules["accelerate.state"].AcceleratorState._reset_state(True)
