"""A batch as a few lines of Python that show what a loss does on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from upge.testing.call import Subject, arguments_of
from upge.testing.inputs import Inputs

_TYPES = {torch.float64: "f", torch.bfloat16: "h", torch.float32: "s"}


def script(subject: Subject, batches: Mapping[str, Inputs], ending: Sequence[str]) -> str:
    """Python lines that bind each batch's weights to its name, and what comes after.

    Args:
        subject: the loss.
        batches: by the names that ``ending`` has for their weights.
        ending: lines that compare the weights.
    """
    if subject.target.asks & {"model", "inputs"}:
        return ""
    variable = _variable(subject)
    if variable is None:
        return ""
    calls = []
    for name, inputs in batches.items():
        values = arguments_of(subject, inputs)
        leaf = values.pop(variable)
        rest = "".join(f", {n}={_code(v)}" for n, v in values.items())
        constants = "".join(f", {n}={v!r}" for n, v in subject.target.constants.items())
        calls.append(f"{name} = w({_code(leaf)}{rest}{constants})")
    used = "\n".join(calls)
    made = {
        "f": "f = lambda x: torch.tensor(x, dtype=torch.float64)",
        "h": "h = lambda x: torch.tensor(x, dtype=torch.bfloat16)",
        "s": "s = lambda x: torch.tensor(x, dtype=torch.float32)",
    }
    helpers = [line for letter, line in made.items() if f"{letter}([" in used]
    special = ["nan, inf = float('nan'), float('inf')"] if "nan" in used or "inf" in used else []
    array = ["import numpy as np"] if "np.array" in used else []
    several = issubclass(subject.returns, (tuple, list))
    call = f"out = loss({variable}=x, **rest)"
    if subject.target.positional:
        call = f"out = loss(x, *rest.values())  # {', '.join(subject.target.positional)}"
    return "\n".join(
        [
            "import torch",
            *array,
            *(subject.target.source or ("# loss = the callable under test",)),
            *special,
            *helpers,
            "def w(x, **rest):  # −∂loss/∂log π",
            f"    x = x.requires_grad_(); {call}",
            *(["    out = next(v for v in out if v.requires_grad)"] if several else []),
            *(["    out = out['loss']"] if issubclass(subject.returns, Mapping) else []),
            "    return -torch.autograd.grad(out.sum(), x)[0]",
            *calls,
            *ending,
        ]
    )


def _variable(subject: Subject) -> str | None:
    for wanted in ("logp", "logits"):
        for name, meant in subject.target.parameters.items():
            if meant == wanted:
                return name
    return None


def _code(value: Any) -> str:
    if isinstance(value, Tensor):
        letter = _TYPES.get(value.dtype)
        body = _numbers(value.detach().tolist())
        return f"{letter}({body})" if letter else f"torch.tensor({body})"
    if hasattr(value, "tolist"):
        return f"np.array({value.tolist()!r})"
    return repr(value)


def _numbers(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_numbers, value)) + "]"
    return f"{value:.12g}" if isinstance(value, float) else repr(value)
