"""Laws that every policy loss should keep, tested with what the callable asks for.

A law is a function of a batch: how far the loss is from keeping it there. A law that a designed
batch breaks is broken once more on small batches, from one token up; the first breach is shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from upge.normalization import FixedLength, LengthSum, SequenceMean, TokenMean
from upge.testing.call import CallError, Subject, Timeout, without
from upge.testing.designs import build, lengths_mask, ordinary, small_batches
from upge.testing.identify import Identity
from upge.testing.inputs import Inputs
from upge.testing.reader import Reader, Side, agree
from upge.testing.report import Law
from upge.testing.reproduce import script

#: Fields of (N, T) numbers that a loss reads.
_TOKEN_FIELDS = (
    "logp",
    "old_logp",
    "sampler_logp",
    "ref_logp",
    "teacher_logp",
    "values",
    "entropy",
)


@dataclass(frozen=True)
class Breach:
    """How a law is broken on a batch.

    Attributes:
        size: how far, relative to the largest weight; infinite for NaN and exceptions.
        batches: what was handed over, by the names that ``ending`` uses.
        ending: Python lines that compare the weights.
        said: what an exception said.
    """

    size: float
    batches: Mapping[str, Inputs]
    ending: tuple[str, ...] = ()
    said: str = ""


Test = Callable[[Reader, Inputs], Breach]


@dataclass(frozen=True)
class Rule:
    """A law: its test, when it applies, and what a breach is likely due to."""

    test: Test
    words: str
    fault: str
    applies: Callable[[Reader, Identity], str] = lambda reader, identity: ""
    cause: Callable[[Reader, Identity, Breach], tuple[str, str]] | None = None
    tolerance: float = 0.0


def _apart(a: Tensor, b: Tensor) -> float:
    """The largest difference over the largest weight; infinite if one is NaN."""
    if a.numel() == 0:
        return 0.0
    scale = float(torch.maximum(a.abs().max(), b.abs().max()))
    if not math.isfinite(scale):
        return math.inf
    return float((a - b).abs().max()) / scale if scale else 0.0


_DIFFER = ("print('differ by', (a - b).abs().max().item())",)


# ------------------------------------------------------------------------------ the laws


def _row_order(reader: Reader, x: Inputs) -> Breach:
    order = torch.arange(len(x.mask)).flip(0)
    turned = replace(x.select(order), batch_tokens=None, batch_rows=None)
    size = _apart(reader.subject.weights(turned), reader.subject.weights(x)[order])
    return Breach(size, {"a": x, "b": turned}, ("b = b.flip(0)", *_DIFFER))


def _padding(reader: Reader, x: Inputs) -> Breach:
    wide = _widened(x, 2)
    width = x.mask.shape[1]
    size = _apart(reader.subject.weights(wide)[:, :width], reader.subject.weights(x))
    return Breach(size, {"a": x, "b": wide}, (f"b = b[:, :{width}]", *_DIFFER))


def _widened(x: Inputs, columns: int) -> Inputs:
    rows = len(x.mask)

    def wider(value: Tensor, fill: Any) -> Tensor:
        return torch.cat([value, torch.full((rows, columns), fill, dtype=value.dtype)], 1)

    changes = {name: wider(getattr(x, name), -0.75) for name in _TOKEN_FIELDS}
    last = x.advantage[:, -1:].expand(rows, columns)
    return x.with_(
        mask=wider(x.mask, False),
        offline=wider(x.offline, False),
        advantage=torch.cat([x.advantage, last], 1),
        **changes,
    )


def _filled(x: Inputs, values: Sequence[float]) -> Inputs:
    """The batch with other numbers at its padding."""
    changes = {
        name: torch.where(x.mask, getattr(x, name), values[i % len(values)])
        for i, name in enumerate(_TOKEN_FIELDS)
    }
    return x.with_(**changes)


def _padding_values(reader: Reader, x: Inputs) -> Breach:
    other = _filled(x, (-7.5, -0.1, -3.25, -1.5))
    a, b = (reader.subject.weights(v) * v.mask for v in (x, other))
    mask = f"m = torch.tensor({x.mask.tolist()})"
    return Breach(_apart(a, b), {"a": x, "b": other}, (mask, "a, b = a * m, b * m", *_DIFFER))


def _masked_gradient(reader: Reader, x: Inputs) -> Breach:
    w = reader.subject.weights(x)
    size = _apart(torch.where(x.mask, 0.0, w), torch.zeros_like(w)) if w.isfinite().all() else 0.0
    size = size and float((w * ~x.mask).abs().max() / w.abs().max())
    return Breach(size, {"a": x}, (f"print('masked:', a[~torch.tensor({x.mask.tolist()})])",))


def _nan_padding(reader: Reader, x: Inputs) -> Breach:
    clean = reader.subject.weights(x) * x.mask
    for value in (math.nan, -math.inf, math.inf):
        dirty = _filled(x, (value,))
        size = _apart(reader.subject.weights(dirty), clean)
        if size > 1e-9:
            return Breach(size, {"a": x, "b": dirty}, ("print(a, b, sep='\\n')",))
    return Breach(0.0, {})


def _summed(
    reader: Reader, x: Inputs, rows_of: Sequence[Tensor], counts: Mapping[str, int]
) -> tuple[Tensor, dict[str, Inputs]]:
    """The parts' weights, each computed by itself, in the place of their rows."""
    total = torch.zeros(x.mask.shape, dtype=torch.float64)
    pieces = {}
    for i, rows in enumerate(rows_of):
        piece = x.select(rows).with_(**counts)
        total[rows] = reader.subject.weights(piece)
        pieces[f"part{i}"] = piece
    return total, pieces


def _split_law(reader: Reader, x: Inputs, parts: Sequence[Sequence[int]], name: str) -> Breach:
    reader, x = _with_advantage(reader, x)
    whole = reader.subject.weights(x)
    rows = [torch.tensor(p) for p in parts]
    total, pieces = _summed(reader, x, rows, {name: len(parts)})
    found = agree([(total, whole)]) if whole.any() else None
    size = _apart(total, whole) if found is None else found.error
    if found is not None and size < 1e-6 and not _whole_number(found.factor, len(parts)):
        size = abs(found.factor - 1)
    order = [i for p in parts for i in p]
    joined = ", ".join(pieces)
    ending = (
        f"b = torch.cat([{joined}])[{[order.index(i) for i in range(len(order))]}]",
        "a, b = a / a.abs().max(), b / b.abs().max()  # whatever is averaged over parts",
        *_DIFFER,
    )
    return Breach(size, {"a": x, **pieces}, ending)


def _whole_number(factor: float, parts: int) -> bool:
    return any(abs(factor - c) <= 1e-6 for c in (1.0, float(parts), 1 / parts))


def _with_advantage(reader: Reader, x: Inputs) -> tuple[Reader, Inputs]:
    """Advantages come of the whole batch, before it is split."""
    if reader.subject.advantage is None:
        return reader, x
    x = x.with_(advantage=reader.subject.advantage.values(x))
    return Reader(replace(reader.subject, advantage=None)), x


def _halves(x: Inputs) -> list[list[list[int]]]:
    rows = list(range(len(x.mask)))
    half = len(rows) // 2
    return [[rows[:half], rows[half : 2 * half]], [rows[0 : 2 * half : 2], rows[1 : 2 * half : 2]]]


def _micro_batches(reader: Reader, x: Inputs) -> Breach:
    if len(x.mask) < 2:  # one row can't be split
        return Breach(0.0, {})
    x = _even(x)
    breaches = [_split_law(reader, x, parts, "parts") for parts in _halves(x)]
    return max(breaches, key=lambda b: b.size)


def _ranks(reader: Reader, x: Inputs) -> Breach:
    if len(x.mask) < 2:
        return Breach(0.0, {})
    rows = list(range(len(x.mask)))
    cut = 1 if reader.asks & {"batch_tokens", "batch_rows"} else len(rows) // 2
    if cut == len(rows) // 2:
        x = _even(x)
        rows = list(range(len(x.mask)))
    return _split_law(reader, x, [rows[:cut], rows[cut:]], "ranks")


def _even(x: Inputs) -> Inputs:
    if len(x.mask) % 2 == 0:
        return x
    kept = torch.arange(len(x.mask) - 1)
    return replace(x.select(kept), batch_tokens=None, batch_rows=None)


def _empty_row(reader: Reader, x: Inputs) -> Breach:
    """The last row loses its tokens; the others keep their proportions."""
    mask = x.mask.clone()
    mask[-1] = False
    emptied = x.with_(mask=mask, offline=x.offline & mask)
    found = reader.subject.measure(emptied)
    w = found.weights
    if not w.isfinite().all() or not math.isfinite(found.loss):
        return Breach(math.inf, {"a": emptied}, ("print(a)",))
    kept = len(mask) - 1
    # Counts of rows and tokens may change; what may not is that tokens of a row differ as before.
    before = reader.subject.weights(x)[:kept]
    size = max((_proportion(w[i], before[i]) for i in range(kept)), default=0.0)
    size = max(size, float(w[-1].abs().max()))
    ending = ("a, b = a[:-1] / a[:-1].abs().max(), b[:-1] / b[:-1].abs().max()", *_DIFFER)
    return Breach(size, {"a": x, "b": emptied}, ending)


def _proportion(a: Tensor, b: Tensor) -> float:
    return agree([(a, b)]).error if b.any() and a.any() else 0.0


def _empty_batch(reader: Reader, x: Inputs) -> Breach:
    nothing = torch.zeros_like(x.mask)
    empty = x.with_(mask=nothing, offline=nothing)
    found = reader.subject.measure(empty)
    bad = not (found.weights == 0).all() or not math.isfinite(found.loss)
    return Breach(math.inf if bad else 0.0, {"a": empty}, ("print(a)",))


def _bfloat16(reader: Reader, x: Inputs) -> Breach:
    half = _cast(x, torch.bfloat16)
    double = _cast(half, torch.float64)
    w = reader.subject.weights(half).double()
    ending = ("a, b = a / a.abs().max(), b / b.abs().max()", *_DIFFER)
    return Breach(_apart(w, reader.subject.weights(double)), {"a": double, "b": half}, ending)


def _cast(x: Inputs, dtype: torch.dtype) -> Inputs:
    names = (*_TOKEN_FIELDS, "advantage", "reward")
    return x.with_(**{name: getattr(x, name).to(dtype) for name in names})


def _inputs_unchanged(reader: Reader, x: Inputs) -> Breach:
    reader.subject.mutated.clear()
    reader.subject.weights(x)
    changed = ", ".join(sorted(reader.subject.mutated))
    return Breach(math.inf if changed else 0.0, {}, said=f"it changes {changed} in place")


def _reward_shift(reader: Reader, x: Inputs) -> Breach:
    shifted = x.with_(reward=x.reward + 3.0)
    size = _apart(reader.subject.weights(shifted), reader.subject.weights(x))
    return Breach(size, {"a": x, "b": shifted}, _DIFFER)


def _sampler(reader: Reader, x: Inputs) -> Breach:
    """Equal log-probabilities of sampler and trainer are as good as none handed over."""
    equal = x.with_(sampler_logp=x.old_logp)
    other = Reader(without(reader.subject, "sampler_logp"))
    size = _apart(reader.subject.weights(equal), other.subject.weights(equal))
    return Breach(size, {"a": equal}, ("print(a)",))


def _old_policy(reader: Reader, x: Inputs) -> Breach:
    """A policy that is π_θold still has the weights of a policy that is almost π_θold."""
    equal = x.with_(old_logp=x.logp, sampler_logp=x.logp)
    near = x.with_(old_logp=x.logp - 1e-10, sampler_logp=x.logp - 1e-10)
    size = _apart(reader.subject.weights(equal), reader.subject.weights(near))
    return Breach(0.0 if size < 1e-6 else size, {"a": equal, "b": near}, _DIFFER)


def _own_old_policy(reader: Reader, x: Inputs) -> Breach:
    """Without log π_θold the policy itself is taken, without gradient."""
    equal = x.with_(old_logp=x.logp, sampler_logp=x.logp)
    other = Reader(without(reader.subject, "old_logp"))
    size = _apart(reader.subject.weights(equal), other.subject.weights(equal))
    return Breach(size, {"a": equal}, ("print(a)",))


# ------------------------------------------------------------------------------ when they apply


def _always(reader: Reader, identity: Identity) -> str:
    return ""


def _has_mask(reader: Reader, identity: Identity) -> str:
    reads = reader.asks & {"mask", "tokens", "inputs", "attention"}
    return "" if reads else "it asks for no mask"


def _reads_logp(reader: Reader, identity: Identity) -> str:
    computes = reader.asks & {"logits", "model"}
    return "it computes log π_θ itself, from logits" if computes else ""


def _is_handed_mask(reader: Reader, identity: Identity) -> str:
    return _reads_logp(reader, identity) or _has_mask(reader, identity)


def _splits(reader: Reader, identity: Identity) -> str:
    if reader.subject.advantage is None and reader.rewarded:
        return "it takes rewards, whose advantages are of the whole batch"
    if reader.subject.measure(ordinary()).kind == "terms":
        return "it returns terms, which the trainer reduces"
    return ""


def _centers(reader: Reader, identity: Identity) -> str:
    if not reader.rewarded:
        return "it reads no rewards"
    if identity.scale is None:
        return "its advantage could not be told"
    return "" if identity.scale.advantage.centers else "its advantage takes off no mean"


def _samples(reader: Reader, identity: Identity) -> str:
    if "sampler_logp" not in reader.asks:
        return "it reads no sampler"
    optional = _optional(reader, "sampler_logp")
    return "" if optional else "it can't be called without the sampler's log-probabilities"


def _optional(reader: Reader, quantity: str) -> bool:
    target = reader.subject.target
    return any(q == quantity and n in target.optional for n, q in target.parameters.items())


def _is_off_policy(reader: Reader, identity: Identity) -> str:
    return "" if "old_logp" in reader.asks else "it reads no log π_θold"


def _may_omit_old(reader: Reader, identity: Identity) -> str:
    if not _optional(reader, "old_logp"):
        return "log π_θold is always handed in"
    return ""


def _has_empty(reader: Reader, identity: Identity) -> str:
    if reader.subject.has_equal_groups:
        return "it takes groups to be of one size"
    return _has_mask(reader, identity)


# ------------------------------------------------------------------------------ likely causes


def _split_cause(reader: Reader, identity: Identity, breach: Breach) -> tuple[str, str]:
    counts = "the batch's own count has to be handed in (num_items_in_batch, global_batch_size)"
    if reader.asks & {"batch_tokens", "batch_rows"}:
        counts = "it asks for the batch's counts but does not divide by them alone"
    reading = identity.reading("advantage")
    if reading is not None and "whitens" in reading.faults:
        return "standardizes Â over the part that it is handed", "split"
    kind = type(identity.scale.normalizer) if identity.scale is not None else None
    if kind is TokenMean:
        return (
            "divides by the micro-batch's tokens: gradients depend on how the batch is split; "
            + counts,
            "split",
        )
    if kind is SequenceMean:
        return (
            "divides by the micro-batch's rows: gradients depend on how the batch is split; "
            + counts,
            "split",
        )
    return f"its divisor changes with the micro-batch; {counts}", "split"


def _padding_cause(reader: Reader, identity: Identity, breach: Breach) -> tuple[str, str]:
    reference = identity.reading("reference")
    if reference is not None and "sequence" in reference.text:
        return "the length of a sequence counts its padding", "length_counts_padding"
    kind = identity.scale.normalizer if identity.scale is not None else None
    if isinstance(kind, FixedLength | LengthSum):
        fault = "padded_mean" if isinstance(kind, FixedLength) else "padded_width"
        return (
            "divides by the width of the padded batch, which is another for every batch unless "
            "all are padded to one length; take the longest response allowed",
            fault,
        )
    return "columns without a response token act on the weights: the mask is left out", "padding"


def _values_cause(reader: Reader, identity: Identity, breach: Breach) -> tuple[str, str]:
    return (
        "numbers at masked positions reach the weights of others: the mask is left out of a sum "
        "or mean",
        "padding_values",
    )


def _nan_cause(reader: Reader, identity: Identity, breach: Breach) -> tuple[str, str]:
    return (
        "multiplies by the mask, and 0 · NaN is NaN: select with torch.where or masked_fill before "
        "exp, and before the sum",
        "nan_padding",
    )


def _empty_cause(reader: Reader, identity: Identity, breach: Breach) -> tuple[str, str]:
    return "divides by a count of 0: clamp it to at least 1", ""


LAWS: dict[str, Rule] = {
    "masked_gradient": Rule(
        _masked_gradient, "masked tokens have no gradient", "masked_gradient", _is_handed_mask
    ),
    "padding_values": Rule(
        _padding_values, "what stands at padding does not matter", "padding_values",
        _is_handed_mask, _values_cause,
    ),
    "padding": Rule(
        _padding, "columns of padding do not matter", "padding", _has_mask, _padding_cause
    ),
    "nan_padding": Rule(
        _nan_padding,
        "NaN and ±inf at padding do not matter",
        "nan_padding",
        _is_handed_mask,
        _nan_cause,
    ),
    "row_order": Rule(_row_order, "the order of rows does not matter", "row_order"),
    "micro_batches": Rule(
        _micro_batches, "micro-batches add up to the batch", "split", _splits, _split_cause
    ),
    "ranks": Rule(
        _ranks, "two processes with uneven rows are one", "ranks", _splits, _split_cause
    ),
    "old_policy": Rule(
        _old_policy, "a policy that is π_θold has ratio 1", "old_policy", _is_off_policy
    ),
    "own_old_policy": Rule(
        _own_old_policy, "without log π_θold, log π_θ without gradient stands for it",
        "stop_gradient", _may_omit_old,
    ),
    "sampler": Rule(
        _sampler, "equal sampler and trainer change nothing", "sampler", _samples
    ),
    "reward_shift": Rule(
        _reward_shift, "a constant added to all rewards changes nothing", "reward_shift", _centers
    ),
    "empty_row": Rule(
        _empty_row, "a row without response tokens changes nothing", "empty_row", _has_empty,
        _empty_cause,
    ),
    "empty_batch": Rule(
        _empty_batch, "a batch without response tokens has loss and gradient 0", "empty_batch",
        _has_empty, _empty_cause,
    ),
    "inputs_unchanged": Rule(_inputs_unchanged, "what is handed over is left as it is", "mutates"),
    "bfloat16": Rule(
        _bfloat16, "bfloat16 inputs give the same weights, to 3 %", "bfloat16", _reads_logp,
        tolerance=0.03,
    ),
}  # fmt: skip


def _designed(name: str) -> list[Inputs]:
    """Batches that a law is tested on first."""
    if name == "bfloat16":
        long = lengths_mask((300, 257, 3, 1))
        gen = torch.Generator().manual_seed(3)
        logp = -0.25 - 2 * torch.rand(long.shape, generator=gen, dtype=torch.float64)
        steps = torch.tensor([-0.5, 0.0, 0.5])[torch.randint(3, long.shape, generator=gen)]
        return [
            build(long, logp=logp, max_length=300),
            build(long, logp=logp - 1, old_logp=logp - 1 - steps.double(), max_length=300),
        ]
    return [ordinary(), ordinary(1, spread=0.05), ordinary(2, spread=0.0)]


def law_verdicts(
    reader: Reader, identity: Identity, names: Sequence[str] | None = None
) -> list[Law]:
    """Every law's verdict."""
    side: Side = "offline" if reader.imitates and not reader.reads_demos else "online"
    found = []
    for name in LAWS if names is None else names:
        rule = LAWS[name]
        if why := rule.applies(reader, identity):
            found.append(Law(name, rule.words, "none", why))
            continue
        batches = [reader.sided(x, side) for x in _designed(name)]
        if name in ("micro_batches", "ranks") and reader.rewarded:
            batches = [x for x in batches if len(x.mask) % 4 == 0] or batches
        tolerance = rule.tolerance or 10 * reader.tolerance
        breach = _worst(rule, reader, batches, tolerance)
        if breach is None:
            found.append(Law(name, rule.words, "kept"))
            continue
        small = _smallest(rule, reader, side, tolerance) if name != "bfloat16" else None
        breach = small or breach
        cause, fault = ("", "") if rule.cause is None else rule.cause(reader, identity, breach)
        cause = cause or breach.said
        if breach.said and breach.said not in cause:
            cause = f"{breach.said}" + (f" ({cause})" if cause else "")
        lines = _script(reader.subject, breach)
        found.append(Law(name, rule.words, "broken", cause, fault or rule.fault, lines))
    return found


def _script(subject: Subject, breach: Breach) -> str:
    sizes = [x.mask.numel() for x in breach.batches.values()]
    if not sizes or max(sizes) > 40:
        return ""
    return script(subject, breach.batches, breach.ending)


def _tested(rule: Rule, reader: Reader, x: Inputs) -> Breach:
    try:
        breach = rule.test(reader, x)
    except Timeout:
        raise
    except CallError as error:
        return Breach(math.inf, {"a": x}, (), str(error))
    return replace(breach, size=math.inf) if math.isnan(breach.size) else breach


def _worst(
    rule: Rule, reader: Reader, batches: Sequence[Inputs], tolerance: float
) -> Breach | None:
    for x in batches:
        breach = _tested(rule, reader, x)
        if breach.size > tolerance:
            return breach
    return None


def _smallest(rule: Rule, reader: Reader, side: Side, tolerance: float) -> Breach | None:
    """The breach on the first batch that breaks the law, of small ones by size."""
    for x in small_batches(reader.rewarded):
        breach = _tested(rule, reader, reader.sided(x, side))
        if breach.size > tolerance:
            return breach
    return None
