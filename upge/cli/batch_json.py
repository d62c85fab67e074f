"""A batch written as JSON, for ``upge weights``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from upge.batch import TrajectoryBatch
from upge.common.errors import UpgeError, unknown
from upge.common.files import parse_strictly

#: Fields of (N, T) numbers, and whether they must be there.
_OTHERS = ("old_logp", "sampler_logp", "ref_logp", "teacher_logp", "demo_logp", "values", "entropy")
_TOKEN_FIELDS = {"logp": True, "mask": True} | dict.fromkeys(_OTHERS, False)
_ROW_FIELDS = {"reward": True, "group": True, "offline": False}


def parse_batch(text: str) -> TrajectoryBatch:
    """Read ``logp``, ``mask``, ``reward``, ``group`` and what else is there, in float64.

    ``logp``, ``mask``, ``values``, ``entropy`` and the log-probabilities of other policies are
    N × T lists over response positions, ``reward``, ``group`` and ``offline`` lists of N;
    ``offline`` may be N × T too and is all false if left out.

    Raises:
        UpgeError: not JSON, a field that is missing, unknown, ragged or of the wrong type.
    """
    record = parse_strictly(text, "batch")
    known = [*_TOKEN_FIELDS, *_ROW_FIELDS, "max_length"]
    for name in record:
        if name not in known:
            raise unknown("field of the batch", name, known)
    for name, needed in (_TOKEN_FIELDS | _ROW_FIELDS).items():
        if needed and record.get(name) is None:
            raise UpgeError(f"{name}: is missing from the batch, wanted {_shape(name)}")
    rows = _list("mask", record["mask"])
    numbers = {
        name: _matrix(name, record[name]) for name in _TOKEN_FIELDS if record.get(name) is not None
    }
    offline = [False] * len(rows) if record.get("offline") is None else record["offline"]
    return TrajectoryBatch(
        mask=numbers["mask"],
        reward=_vector("reward", record["reward"]),
        group=_questions(record["group"]),
        offline=_flags(offline),
        old_logp=numbers.get("old_logp"),
        sampler_logp=numbers.get("sampler_logp"),
        ref_logp=numbers.get("ref_logp"),
        teacher_logp=numbers.get("teacher_logp"),
        demo_logp=numbers.get("demo_logp"),
        values=numbers.get("values"),
        max_length=record.get("max_length"),
        logp=numbers["logp"],
        entropy=numbers.get("entropy"),
    )


def _shape(name: str) -> str:
    return "a list of N lists of T numbers" if name in _TOKEN_FIELDS else "a list of N entries"


def _list(name: str, given: Any) -> list[Any]:
    if not isinstance(given, list):
        raise UpgeError(f"{name}: got {given!r:.60}, wanted {_shape(name)}")
    return given


def _number(name: str, given: Any) -> float:
    flag = name in ("mask", "offline")
    if not isinstance(given, (int, float)) or (isinstance(given, bool) and not flag):
        raise UpgeError(f"{name}: got {given!r:.60}, wanted a number")
    try:
        return float(given)
    except OverflowError as error:
        raise UpgeError(f"{name}: got {given!s:.20}…, wanted a finite number") from error


def _vector(name: str, given: Any) -> Tensor:
    return torch.tensor([_number(name, x) for x in _list(name, given)], dtype=torch.float64)


def _matrix(name: str, given: Any) -> Tensor:
    rows = [[_number(name, x) for x in _list(name, row)] for row in _list(name, given)]
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise UpgeError(
            f"{name}: got rows of {lengths[0]} to {lengths[-1]} entries, wanted all of length T; "
            "pad them and mask the padding"
        )
    width = lengths[0] if lengths else 0
    return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), width)


def _questions(given: Any) -> Tensor:
    """Questions may be named by numbers or words."""
    names = _list("group", given)
    for name in names:
        if isinstance(name, bool) or not isinstance(name, (int, str)):
            raise UpgeError(f"group: got {name!r:.60}, wanted whole numbers or names")
    index = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([index[name] for name in names], dtype=torch.long)


def _flags(given: Any) -> Tensor:
    entries = _list("offline", given)
    nested = bool(entries) and isinstance(entries[0], list)
    return _matrix("offline", entries) if nested else _vector("offline", entries)
