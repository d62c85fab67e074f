"""By which code log π follows from a causal language model of transformers.

Most models multiply hidden states by an output embedding and nothing else, so that
:func:`~upge.likelihood.token_likelihood` never holds all logits. Others scale or cap these
products, or transform the hidden states first. No list of settings is complete, so
:func:`find_head` compares each way with ``model(x).logits``, on the model itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.utils.checkpoint import checkpoint

from upge.common.errors import UpgeError
from upge.likelihood import Likelihood, token_likelihood

#: Tokens of the two rows that ways are compared on; the second is padded to the first.
_LENGTHS = (7, 4)

#: Nothing in a chunk is random, so the generators' states need not be kept.
_RECOMPUTE: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}

#: Log π and entropy, flat over the tokens at a mask, of (model, tokens, mask, temperature, chunk).
Head = Callable[[Any, Tensor, Tensor, float, int], Likelihood]


def _plain(model: Any, tokens: Tensor, mask: Tensor, temperature: float, chunk: int) -> Likelihood:
    """By the output embedding, in chunks of positions."""
    hidden = forward(_decoder(model), tokens[:, :-1]).last_hidden_state
    scored = mask[:, 1:]
    head = model.get_output_embeddings()
    return token_likelihood(
        hidden[scored],
        head.weight,
        tokens[:, 1:][scored],
        bias=head.bias,
        temperature=temperature,
        chunk=chunk,
    )


def _adjusted(
    model: Any, tokens: Tensor, mask: Tensor, temperature: float, chunk: int
) -> Likelihood:
    """By the model's code behind its decoder, in chunks of positions."""
    scored = mask[:, 1:]
    if not scored.any():  # a row of no states is one that models aren't made for
        return _whole(model, tokens, mask, temperature, chunk)
    output = forward(_decoder(model), tokens[:, :-1])

    def score(hidden: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
        return score_tokens(_logits_of(model, type(output), hidden), taken, temperature)

    hidden, taken = output.last_hidden_state[scored], tokens[:, 1:][scored]
    return _in_chunks(score, (hidden, taken), chunk)


def _whole(model: Any, tokens: Tensor, mask: Tensor, temperature: float, chunk: int) -> Likelihood:
    """By the model's logits, in chunks of whole rows."""

    def score(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        scored = mask[:, 1:]
        logits = forward(model, tokens[:, :-1]).logits[scored]
        return score_tokens(logits, tokens[:, 1:][scored], temperature)

    return _in_chunks(score, (tokens, mask), max(chunk // tokens.shape[1], 1))


#: The ways, those that hold fewer logits first.
HEADS: Mapping[str, Head] = {"plain": _plain, "adjusted": _adjusted, "whole": _whole}


def _in_chunks(
    score: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    inputs: tuple[Tensor, Tensor],
    chunk: int,
) -> Likelihood:
    """What ``score`` makes of a chunk of its inputs at a time, in the backward pass once more."""
    count = max(math.ceil(len(inputs[0]) / chunk), 1)
    pieces = [
        checkpoint(score, *parts, **_RECOMPUTE)
        for parts in zip(*(x.tensor_split(count) for x in inputs), strict=True)
    ]
    return Likelihood(*(torch.cat(parts) for parts in zip(*pieces, strict=True)))


def score_tokens(logits: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log π of tokens (K,), and entropy, from logits (K, V)."""
    # Half-precision log-softmax loses the ratios' digits.
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    policy = Categorical(logits=logits / temperature, validate_args=False)
    return policy.log_prob(tokens), policy.entropy()


# --------------------------------------------------------------------------------- a model's parts


def forward(module: Any, tokens: Tensor) -> Any:
    """The output of a model or its decoder for rows of tokens, without a cache.

    Activation checkpointing would add each layer's keys to a cache twice.
    """
    options = {"use_cache": False} if accepts(module, "use_cache") else {}
    return module(input_ids=tokens, **options)


def accepts(module: nn.Module, option: str) -> bool:
    """Whether the module's forward pass takes an option of that name."""
    parameters = signature(module.forward).parameters
    any_name = any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values())
    return any_name or option in parameters


def _decoder(model: Any) -> Any:
    """The part of a model that makes the hidden states.

    Raises:
        StopIteration: it has no such part.
    """
    parts = (model.get_decoder(), *model.children())
    return next(p for p in parts if p is not model and hasattr(p, "get_input_embeddings"))


def _logits_of(model: Any, output: Any, hidden: Tensor) -> Tensor:
    """The logits (K, V) that the model makes of hidden states (K, H).

    Args:
        model: the model.
        output: the class of its decoder's output.
        hidden: states of any positions; the model sees them as one row.
    """
    tokens = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
    with _replaced(_decoder(model), lambda *_, **__: output(last_hidden_state=hidden[None])):
        logits: Tensor = forward(model, tokens).logits[0]
    return logits


@contextmanager
def _replaced(module: Any, function: Callable[..., Any]) -> Iterator[None]:
    """Give a module another forward pass meanwhile."""
    before = vars(module).get("forward")
    module.forward = function
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


# ------------------------------------------------------------------------------------- comparison


def find_head(model: Any) -> tuple[str, int]:
    """The first of :data:`HEADS` that agrees with the model's logits, and the vocabulary's size.

    Log π of a batch of random tokens, padded on the right, is compared with log π by
    ``model(x).logits`` of each row alone. No random number of the run is used.

    Raises:
        UpgeError: a model that gives no logits for tokens alone, or whose logits depend on later
            tokens.
    """
    with evaluating(model):
        tokens = random_rows(model, len(_LENGTHS), max(_LENGTHS))
        logits = [logits_alone(model, row[:n]) for row, n in zip(tokens, _LENGTHS, strict=True)]
        mask = torch.arange(tokens.shape[1]) < torch.tensor(_LENGTHS)[:, None]
        mask[:, 0] = False
        mask = mask.to(tokens.device)
        own = torch.cat([own[:-1] for own in logits])
        taken = tokens[mask]
        wanted, _ = score_tokens(own, taken, 1.0)
        for name, head in HEADS.items():
            if name == "plain" and not _is_product(model):
                continue
            with failing_quietly():
                found = head(model, tokens, mask, 1.0, 3).logp
                if close((found - wanted).abs(), own):
                    return name, own.shape[-1]
    raise not_causal(model)


def not_causal(model: Any) -> UpgeError:
    """The error for a model that gives a token no probability given those before it."""
    return UpgeError(
        f"model: the logits of {type(model).__name__} depend on later tokens or on padding, so it "
        "gives a token no probability; take a causal language model (with is_decoder: true in "
        "config.json, where its architecture has that)"
    )


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """In evaluation mode and without gradients meanwhile."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


@contextmanager
def failing_quietly() -> Iterator[None]:
    """For a way that may not work with a model at all, which then is none: out of memory it is."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception:
        return


def random_rows(model: Any, rows: int, width: int) -> Tensor:
    """Tokens (rows, width) that the model reads and writes, the same at each call.

    The second of each is padding's, at which some models skip a position wherever it stands.
    """
    generator = torch.Generator().manual_seed(0)
    written = logits_alone(model, torch.zeros(2, dtype=torch.long, device=model.device)).shape[-1]
    vocabulary = min(model.get_input_embeddings().num_embeddings, written)
    tokens = torch.randint(vocabulary, (rows, width), generator=generator)
    pad = getattr(model.config.get_text_config(), "pad_token_id", None)
    if isinstance(pad, int) and 0 <= pad < vocabulary:
        tokens[:, 1] = pad
    return tokens.to(model.device)


def logits_alone(model: Any, row: Tensor) -> Tensor:
    """``model(x).logits`` (T, V) of one row of tokens (T,).

    Raises:
        UpgeError: the model gives none for tokens alone.
    """
    try:
        logits: Tensor = forward(model, row[None]).logits[0]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".: ")[:200]
        raise UpgeError(
            f"model: {type(model).__name__} gives no logits for tokens alone ({reason}); take a "
            "causal language model of text"
        ) from error
    return logits


def close(distance: Tensor, logits: Tensor) -> bool:
    """Whether distances (K,) are rounding's: below √ε of the logits' (K, V) spread.

    In float64 too ε is that of float32, in which many models take their norms.
    """
    precision = max(torch.finfo(dtype).eps for dtype in (logits.dtype, torch.float32))
    limit = precision**0.5 * logits.float().std(-1)
    return bool(((distance <= limit) | limit.isnan()).all())  # of NaN nothing can be told


def close_logits(found: Tensor, wanted: Tensor) -> bool:
    """Whether logits (K, V) differ from others by rounding alone, up to a constant each."""
    difference = (found - wanted).float()
    return close(difference.std(-1), wanted)


def _is_product(model: Any) -> bool:
    """Whether logits are hidden states times output embedding, for any weights.

    The model is run with random hidden states in the place of its decoder's, and large random
    numbers in the place of its head's output, which show a cap however small the weights are.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or "forward" in vars(head):
        return False
    generator = torch.Generator().manual_seed(0)
    hidden, large = (
        scale * torch.randn(3, size, generator=generator).to(head.weight)
        for scale, size in ((1, head.in_features), (100, head.out_features))
    )
    calls: list[tuple[Tensor, Tensor]] = []

    def substitute(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        calls.append((inputs[0], output))
        return large[None]

    hook = head.register_forward_hook(substitute)
    same = False
    try:
        with failing_quietly():
            output = type(forward(_decoder(model), torch.zeros(1, 3).to(hidden.device).long()))
            logits = _logits_of(model, output, hidden)
            product = nn.functional.linear(hidden[None], head.weight, head.bias)
            ((read, made),) = calls
            pairs = ((read, hidden[None]), (made, product), (logits.to(large), large))
            same = all(torch.equal(one, other) for one, other in pairs)
    finally:
        hook.remove()
    return same
