"""Calling a loss under test: its arguments in the layout that it takes, its weights, its faults.

The callable is the user's own code and runs in this process: nothing is kept from it. What it can
do by mistake, though, ends in one sentence: an exception, NaN, no end.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import itertools
import linecache
import logging
import os
import random
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from upge.common.errors import UpgeError
from upge.testing.inputs import Inputs, TableModel, token_ids, token_logits, token_rewards
from upge.testing.names import WORDS
from upge.testing.target import Outside, Target

#: Seconds that one call may take.
LIMIT = 20.0

#: How long after the limit a call that can't be interrupted ends the process.
_GRACE = 5.0

_HERE = str(Path(__file__).parent)
_GPU = ("cuda", "nvidia", "triton", "hip error", "device-side", "no kernel image")


class CallError(UpgeError):
    """The callable did not give a loss: what happened, and where in its own code."""


class Timeout(CallError):
    """A call took longer than it may."""


@dataclass(frozen=True)
class Layout:
    """How tensors are handed over: what the callable did not refuse."""

    mask: torch.dtype = torch.bool
    advantage: str = "row"
    reward: str = "row"
    group: str = "tensor"
    labels: str = "shifted"
    demos: str = "token"
    ignored: int = -100


def _layouts(asks: frozenset[str], names: Mapping[str, str]) -> Iterator[Layout]:
    """Layouts to try, those first whose misuse raises rather than broadcasts."""
    by_token = any("token" in name for name, meant in names.items() if meant == "reward")
    masks = (torch.bool, torch.int64, torch.float64) if asks & {"mask", "offline", "online"} else ()
    choices: dict[str, tuple[Any, ...]] = {
        "ignored": (-100, 0) if "tokens" in asks else (),
        "labels": ("shifted", "aligned") if "logits" in asks else (),
        "reward": (("token", "row") if by_token else ("row", "token")) if "reward" in asks else (),
        "advantage": ("row", "token", "column") if "advantage" in asks else (),
        "group": _group_forms(names) if "group" in asks else (),
        "demos": ("token", "row") if asks & {"offline", "online"} else (),
        "mask": masks,
    }
    kept = {name: values for name, values in choices.items() if values}
    for values in itertools.product(*kept.values()):
        yield Layout(**dict(zip(kept, values, strict=True)))


def _group_forms(names: Mapping[str, str]) -> tuple[str, ...]:
    """Verl's ids are an array; tensors in their place are keys that never meet again."""
    arrays = {"uid", "uids", "index"} & {n for n, meant in names.items() if meant == "group"}
    return ("numpy", "tensor", "list") if arrays else ("tensor", "numpy", "list")


@dataclass(frozen=True)
class Measured:
    """What one call gave.

    Attributes:
        weights: (N, T), w = −∂loss/∂log π_θ.
        loss: its value.
        entropy_weights: (N, T), −∂loss/∂H, where the callable reads entropies or logits.
        kind: ``scalar``, or ``terms`` where it returned one term a token or row.
    """

    weights: Tensor
    loss: float
    entropy_weights: Tensor | None = None
    kind: str = "scalar"


@dataclass
class Subject:
    """A loss under test.

    Attributes:
        target: the callable and what it asks for.
        advantage: an advantage function whose Â is handed to the loss, as a trainer composes them.
        limit: seconds that one call may take.
        fixed: quantities that are not handed over, so that their parameters keep their defaults.
    """

    target: Target
    advantage: AdvantageSubject | None = None
    limit: float = LIMIT
    fixed: frozenset[str] = frozenset()
    printed: int = 0
    seed: int = 0
    drew: bool = False
    mutated: set[str] = field(default_factory=set)
    returns: type = Tensor
    single: bool = False

    @property
    def asks(self) -> frozenset[str]:
        """The quantities that the loss reads, those of its advantage function included."""
        asks = self.target.asks - self.fixed
        if "inputs" in asks:
            asks |= {"mask", "old_logp"}
        if self.advantage is not None:
            asks = (asks - {"advantage"}) | (self.advantage.target.asks - {"logp"})
        return frozenset(asks)

    @property
    def has_equal_groups(self) -> bool:
        """Whether it takes groups to be of one size and to follow each other."""
        return "group_size" in self.asks and "group" not in self.asks

    @cached_property
    def layout(self) -> Layout:
        """The first layout that the callable does not refuse.

        Raises:
            CallError: it refuses all.
        """
        from upge.testing.designs import ordinary

        inputs, first = ordinary(), None
        for layout in _layouts(self.target.asks, self.target.parameters):
            try:
                self._measure(inputs, layout)
                return layout
            except (Timeout, Outside):
                raise
            except CallError as error:
                first = first or error
        assert first is not None
        raise first

    def measure(self, inputs: Inputs) -> Measured:
        """Weights and loss on a batch.

        Raises:
            CallError: an exception, a loss without gradient, or no end.
            Outside: a gradient on logits that no weights on the tokens taken give.
        """
        return self._measure(inputs, self.layout)

    def weights(self, inputs: Inputs) -> Tensor:
        """(N, T), w = −∂loss/∂log π_θ; see :meth:`measure`."""
        return self.measure(inputs).weights

    def _measure(self, inputs: Inputs, layout: Layout) -> Measured:
        if self.advantage is not None:
            inputs = inputs.with_(advantage=self.advantage.values(inputs))
        leaves = _leaves(inputs, self.target.asks, layout)
        arguments = {
            name: _provide(quantity, inputs, layout, leaves)
            for name, quantity in self.target.parameters.items()
            if quantity not in self.fixed
        }
        self.drew = False
        before = {name: x.detach().clone() for name, x in arguments.items() if _is_tensor(x)}
        result = self._call(arguments)
        self.returns = type(result)
        self.mutated |= {
            name
            for name, old in before.items()
            if old.shape != arguments[name].shape
            or not torch.equal(old.nan_to_num(7e7), arguments[name].detach().nan_to_num(7e7))
        }
        loss, kind = _loss_of(result, inputs, self.target.title)
        return _gradients(loss, kind, leaves, inputs, layout, self)

    def _call(self, arguments: Mapping[str, Any]) -> Any:
        with limited(self.limit, self.target.title), _quiet(self.seed) as output:
            try:
                given = dict(arguments) | dict(self.target.constants)
                first = [given.pop(name) for name in self.target.positional]
                return self.target.call(*first, **given)
            except Timeout:
                raise
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                raise call_error(self.target.title, error) from error
            finally:
                self.drew |= bool((torch.get_rng_state() != _rng(self.seed)).any())
                self.printed = max(self.printed, output.getvalue().count("\n"))


@dataclass
class AdvantageSubject:
    """An advantage function under test."""

    target: Target
    limit: float = LIMIT

    @cached_property
    def layout(self) -> Layout:
        """As :attr:`Subject.layout`."""
        from upge.testing.designs import ordinary

        inputs, first = ordinary(), None
        for layout in _layouts(self.target.asks, self.target.parameters):
            try:
                self._values(inputs, layout)
                return layout
            except Timeout:
                raise
            except CallError as error:
                first = first or error
        assert first is not None
        raise first

    def values(self, inputs: Inputs) -> Tensor:
        """Â, (N, T).

        Raises:
            CallError: as :meth:`Subject.measure`, and a result of another shape.
        """
        return self._values(inputs, self.layout)

    def _values(self, inputs: Inputs, layout: Layout) -> Tensor:
        arguments = {
            name: _provide(quantity, inputs, layout, {})
            for name, quantity in self.target.parameters.items()
        }
        result = Subject(self.target, limit=self.limit)._call(arguments)
        found = _first_tensor(result)
        if found is None:
            raise CallError(f"{self.target.title} returned {_kind(result)}, wanted a tensor of Â")
        if found.shape == inputs.mask.shape:
            return found.detach()
        if found.numel() == len(inputs.mask):
            return found.detach().reshape(-1, 1).expand(inputs.mask.shape)
        raise CallError(
            f"{self.target.title} returned a tensor of shape {tuple(found.shape)}, wanted "
            f"{(len(inputs.mask),)} or {tuple(inputs.mask.shape)}"
        )


# ------------------------------------------------------------------------------ handing things over


def _leaves(inputs: Inputs, asks: frozenset[str], layout: Layout) -> dict[str, Tensor]:
    """The tensors that gradients are taken of."""
    leaves: dict[str, Tensor] = {}
    if asks & {"logits", "model"}:
        ids = token_ids(inputs)
        logits = token_logits(inputs, ids)
        if layout.labels == "shifted" or "model" in asks:
            logits = torch.cat([logits, torch.zeros_like(logits[:, :1])], 1)
        leaves["logits"] = logits.requires_grad_()
        leaves["ids"] = ids
    if asks & {"logp", "inputs"}:
        leaves["logp"] = inputs.logp.detach().clone().requires_grad_()
    if "entropy" in asks and not asks & {"logits", "model"}:
        leaves["entropy"] = inputs.entropy.detach().clone().requires_grad_()
    return leaves


def _provide(quantity: str, inputs: Inputs, layout: Layout, leaves: Mapping[str, Tensor]) -> Any:
    if quantity in leaves:
        return leaves[quantity]
    if quantity == "mask":
        return inputs.mask.to(layout.mask).clone()
    if quantity in ("offline", "online"):
        rows = inputs.offline if quantity == "offline" else inputs.mask & ~inputs.offline
        return (rows.any(1) if layout.demos == "row" else rows).to(layout.mask)
    if quantity == "advantage":
        return _of_rows(inputs.advantage, inputs, layout.advantage)
    if quantity == "reward":
        return token_rewards(inputs) if layout.reward == "token" else inputs.reward.clone()
    if quantity == "reward_parts":
        parts = inputs.parts_of_reward
        return inputs.reward[:, None].clone() if parts is None else parts.clone()
    if quantity == "group":
        return _group(inputs.group, layout.group)
    if quantity in ("tokens", "attention", "model", "inputs"):
        return _sequences(quantity, inputs, layout, leaves)
    if quantity == "group_size":
        return inputs.group_size
    if quantity == "batch_tokens":
        return inputs.tokens
    if quantity == "batch_rows":
        return inputs.rows
    value = getattr(inputs, quantity)
    return value.clone() if isinstance(value, Tensor) else value


def _of_rows(advantage: Tensor, inputs: Inputs, form: str) -> Tensor:
    if form == "token":
        return advantage.clone()
    first = inputs.mask.int().argmax(1, keepdim=True)
    rows = advantage.gather(1, first) if inputs.mask.shape[1] else advantage.sum(1, keepdim=True)
    return rows if form == "column" else rows.squeeze(1)


def _group(group: Tensor, form: str) -> Any:
    if form == "numpy":
        return group.numpy().copy()
    return group.tolist() if form == "list" else group.clone()


def _sequences(quantity: str, inputs: Inputs, layout: Layout, leaves: Mapping[str, Tensor]) -> Any:
    ids = leaves.get("ids", token_ids(inputs))
    whole = layout.labels == "shifted" or "logits" not in leaves
    labels = torch.where(inputs.mask, ids[:, 1:], layout.ignored)
    prompt = torch.full_like(ids[:, :1], layout.ignored)
    if quantity == "tokens":
        return torch.cat([prompt, labels], 1) if whole else labels
    attention = torch.cat([torch.ones_like(prompt), inputs.mask.long()], 1)
    if quantity == "attention":
        return attention if whole else inputs.mask.long()
    if quantity == "model":
        return leaves["model"] if "model" in leaves else _model(leaves)
    named = {"input_ids": ids, "labels": torch.cat([prompt, labels], 1)}
    named |= {"attention_mask": attention}
    for meant, names in _IN_A_DICT.items():
        value = _provide(meant, inputs, layout, leaves)
        named |= dict.fromkeys(names, value)
    return named


#: What a dictionary of inputs holds, by the names that trainers give it.
_IN_A_DICT = {
    "mask": ("completion_mask", "response_mask", "loss_mask", "mask"),
    "old_logp": ("old_per_token_logps", "old_log_probs", "old_logp", "old_logprobs"),
    "ref_logp": ("ref_per_token_logps", "ref_log_prob", "ref_logp", "ref_logprobs"),
    "sampler_logp": ("sampling_per_token_logps", "rollout_log_probs", "sampler_logp"),
    "advantage": ("advantages", "advantage"),
    "reward": ("rewards", "reward"),
    "batch_tokens": ("num_items_in_batch",),
}


def _model(leaves: Mapping[str, Tensor]) -> TableModel:
    model = TableModel(leaves["logits"][:, :-1].detach(), leaves["ids"])
    assert isinstance(leaves, dict)
    leaves["model"] = model
    return model


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


# ------------------------------------------------------------------------------ what comes back


def _loss_of(result: Any, inputs: Inputs, title: str) -> tuple[Tensor, str]:
    """The loss as one number, and whether it was one."""
    loss = _first_tensor(result)
    if loss is None:
        raise CallError(
            f"{title} returned {_kind(result)}, wanted a tensor, or a tuple or dictionary with the "
            "loss in it"
        )
    if loss.numel() == 1:
        return loss.reshape(()), "scalar"
    if loss.shape == inputs.mask.shape:
        return torch.where(inputs.mask, loss, 0.0).sum(), "terms"
    rows, width = inputs.mask.shape
    flat = (rows, int(inputs.mask.sum()), rows * width, rows * (width + 1))
    if loss.shape[:1] in tuple((n,) for n in flat):
        return loss.sum(), "terms"
    raise CallError(
        f"{title} returned a tensor of shape {tuple(loss.shape)}, wanted a scalar, or one term a "
        f"token {tuple(inputs.mask.shape)} or row"
    )


_LOSS_KEYS = ("loss", "pg_loss", "policy_loss", "actor_loss", "total_loss", "advantages")


def _first_tensor(result: Any) -> Tensor | None:
    if isinstance(result, Tensor):
        return result
    if isinstance(result, Mapping):
        values = [result[key] for key in _LOSS_KEYS if key in result] or list(result.values())
    elif isinstance(result, (tuple, list)):
        values = list(result)
    elif hasattr(result, "loss"):
        values = [result.loss]
    elif hasattr(result, "__array__"):
        return torch.as_tensor(result)
    else:
        return None
    tensors = [value for value in values if isinstance(value, Tensor)]
    differentiable = [value for value in tensors if value.requires_grad]
    nested = [_first_tensor(value) for value in values if isinstance(value, (tuple, Mapping))]
    return next(iter([*differentiable, *tensors, *(x for x in nested if x is not None)]), None)


def _kind(result: Any) -> str:
    return "nothing (None)" if result is None else f"a {type(result).__name__}"


def _gradients(
    loss: Tensor,
    kind: str,
    leaves: Mapping[str, Any],
    inputs: Inputs,
    layout: Layout,
    subject: Subject,
) -> Measured:
    title = subject.target.title
    if "model" in leaves:
        variables = [leaves["model"].table]
    elif "logits" in leaves:
        variables = [leaves["logits"]]
    else:
        variables = [leaves[name] for name in ("logp", "entropy") if name in leaves]
    if not variables:
        raise CallError(
            f"{title} takes neither log-probabilities nor logits nor a model, so it has no "
            "gradient; to check an advantage function, name no loss beside it"
        )
    if not loss.requires_grad:
        raise CallError(
            f"{title}: its result has no gradient with respect to log π_θ; something detaches it, "
            "or it works on numbers that are no tensors"
        )
    with limited(subject.limit, title), _quiet():
        try:
            found = torch.autograd.grad(loss, variables, allow_unused=True, materialize_grads=True)
        except Timeout:
            raise
        except Exception as error:
            raise call_error(title, error) from error
    if "logits" in leaves:
        gradient = found[0]
        if "model" in leaves:
            gradient = gradient[leaves["ids"]]
        subject.single = torch.equal(gradient, gradient.float().double())
        weights, on_entropy = _from_logits(gradient, leaves, inputs, layout, title)
        return Measured(weights, loss.item(), on_entropy, kind)
    bonus = -found[1] if "entropy" in leaves and len(found) > 1 else None
    return Measured(-found[0], loss.item(), bonus, kind)


def _from_logits(
    gradient: Tensor, leaves: Mapping[str, Tensor], inputs: Inputs, layout: Layout, title: str
) -> tuple[Tensor, Tensor]:
    """Weights on log π_θ and on entropies that give this gradient on logits.

    ∂log π(y)/∂z = 1_y − π and ∂H/∂z = −π (log π + H); at each position the two coefficients follow
    by least squares, of as many equations as there are tokens.
    """
    ids, logits = leaves["ids"], leaves["logits"].detach()
    width = inputs.mask.shape[1]
    gradient, logits = gradient[:, :width], logits[:, :width]
    if not gradient.isfinite().all():
        unknown = torch.full(inputs.mask.shape, torch.nan, dtype=gradient.dtype)
        return unknown, unknown
    log_pi = logits.log_softmax(-1)
    pi = log_pi.exp()
    taken = torch.zeros_like(pi).scatter(2, ids[:, 1:, None], 1.0)
    entropy = -(pi * log_pi).sum(-1, keepdim=True)
    basis = torch.stack([taken - pi, -pi * (log_pi + entropy)], -1)
    solved = torch.linalg.lstsq(basis, -gradient[..., None]).solution
    rest = (basis @ solved)[..., 0] + gradient
    scale = gradient.abs().max().clamp(min=torch.finfo(gradient.dtype).tiny)
    exact = 1e-4 if torch.equal(gradient, gradient.float().double()) else 1e-8
    if (rest.abs().max() > exact * scale).item():
        raise Outside(
            f"{title}: its gradient on logits is none of weights on the tokens taken and their "
            f"entropy (it is off by {rest.abs().max() / scale:.1g} of the largest): it reads the "
            "whole vocabulary, as a KL divergence of whole distributions or a distillation does, "
            "which is outside of the unified view"
        )
    return solved[..., 0, 0], solved[..., 1, 0]


# ------------------------------------------------------------------------------ faults


def call_error(title: str, error: BaseException) -> CallError:
    """What an exception of the callable says, with the line of its own code."""
    where = _own_line(error)
    said = " ".join(str(error).split())[:300]
    if isinstance(error, SystemExit):
        return CallError(f"{title} ends the process (sys.exit({error.code!r})){where}")
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if any(word in said.lower() for word in _GPU):
        return CallError(
            f"{title} needs a GPU, which is not here{where}: {text}; let it take the device of "
            "its inputs"
        )
    return CallError(f"{title} raised {text}{where}")


def _own_line(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    site = f"{os.sep}site-packages{os.sep}torch{os.sep}"
    own = [f for f in frames if not f.filename.startswith(_HERE) and site not in f.filename]
    for frame in reversed(own or frames):
        line = linecache.getline(frame.filename, frame.lineno or 0).strip()
        if line:
            return f" at {Path(frame.filename).name}, line {frame.lineno}, in {frame.name}: {line}"
    return ""


@contextlib.contextmanager
def limited(seconds: float, title: str) -> Iterator[None]:
    """Raise :class:`Timeout` when the block takes longer; end the process if it can't be reached.

    A thread other than the main one has no such limit.
    """
    if threading.current_thread() is not threading.main_thread() or seconds <= 0:
        yield
        return

    def ring(_signal: int, _frame: Any) -> None:
        raise Timeout(f"{title} took longer than {seconds:g} s on a small batch and was ended")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    hard = _hard_limit(seconds + _GRACE)
    try:
        with hard:
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


#: Set in a process that exists for the check alone, where it may be ended.
in_child = False


@contextlib.contextmanager
def _hard_limit(seconds: float) -> Iterator[None]:
    if not in_child:
        yield
        return
    faulthandler.dump_traceback_later(
        seconds, exit=True, file=sys.stderr.fileno() if sys.__stderr__ is None else sys.__stderr__
    )
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@cache
def _rng(seed: int) -> Tensor:
    """The generator's state after seeding."""
    return torch.Generator().manual_seed(seed).get_state()


@contextlib.contextmanager
def _quiet(seed: int = 0) -> Iterator[io.StringIO]:
    """Keep what is printed, and warnings, out of the report; and Python's random state."""
    output = io.StringIO()
    state = random.getstate()
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        logged = logging.root.manager.disable
        logging.disable()
        drawn = torch.get_rng_state()
        torch.set_rng_state(_rng(seed))
        random.seed(seed)
        try:
            yield output
        finally:
            random.setstate(state)
            torch.set_rng_state(drawn)
            logging.disable(logged)


def arguments_of(subject: Subject, inputs: Inputs) -> dict[str, Any]:
    """What the loss is handed for a batch, by parameter."""
    if subject.advantage is not None:
        inputs = inputs.with_(advantage=subject.advantage.values(inputs))
    leaves = _leaves(inputs, subject.target.asks, subject.layout)
    return {
        name: _provide(quantity, inputs, subject.layout, leaves)
        for name, quantity in subject.target.parameters.items()
        if quantity not in subject.fixed
    }


def describe(parameters: Mapping[str, str]) -> str:
    """Parameters and what they are taken for, in words."""
    return ", ".join(f"{name} = {WORDS[meant]}" for name, meant in parameters.items())


def without(subject: Subject, quantity: str) -> Subject:
    """The same without one of the quantities that it can do without."""
    return replace(subject, fixed=subject.fixed | {quantity})
