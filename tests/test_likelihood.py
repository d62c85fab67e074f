"""Component 4: log-probabilities in chunks against the whole softmax, and shapings."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import close, make_batch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from upge import UpgeError, token_likelihood
from upge.likelihood import Complement, PolicyShaping, Shaping, Unshaped


def inputs(
    shape: tuple[int, ...], width: int, vocabulary: int, seed: int = 0, biased: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    gen = torch.Generator().manual_seed(seed)

    def leaf(*size: int) -> Tensor:
        return torch.randn(size, generator=gen, dtype=torch.float64).requires_grad_()

    tokens = torch.randint(vocabulary, shape, generator=gen)
    bias = leaf(vocabulary) if biased else None
    return leaf(*shape, width), leaf(vocabulary, width), tokens, bias


def whole(
    hidden: Tensor, head: Tensor, tokens: Tensor, bias: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor]:
    """The same from one softmax over all positions."""
    logits = hidden @ head.T if bias is None else hidden @ head.T + bias
    log_pi = torch.log_softmax(logits / temperature, -1)
    entropy = torch.special.entr(log_pi.exp()).sum(-1)
    return torch.gather(log_pi, -1, tokens[..., None])[..., 0], entropy


def test_by_hand() -> None:
    # Logits ln 1, ln 1, ln 2 at temperature 1: π = 1/4, 1/4, 1/2, entropy 2 · ¼ ln 4 + ½ ln 2.
    # At temperature ½ they double: π = 1/6, 1/6, 4/6, entropy 2 · ⅙ ln 6 + ⅔ ln 1.5.
    head = torch.tensor([[0.0], [0.0], [math.log(2)]], dtype=torch.float64)
    hidden, tokens = torch.ones(2, 1, dtype=torch.float64), torch.tensor([0, 2])
    logp, entropy = token_likelihood(hidden, head, tokens)
    close(logp.exp(), torch.tensor([1 / 4, 1 / 2], dtype=torch.float64))
    close(entropy, 1.5 * math.log(2))
    logp, entropy = token_likelihood(hidden, head, tokens, temperature=0.5)
    close(logp.exp(), torch.tensor([1 / 6, 4 / 6], dtype=torch.float64))
    close(entropy, math.log(6) / 3 + 2 * math.log(1.5) / 3)


@given(
    shape=st.sampled_from([(7,), (2, 3), (2, 1, 3), (1,), (0,), (3, 0), ()]),
    chunk=st.sampled_from([1, 2, 3, 6, 7, 100]),
    temperature=st.floats(0.3, 3.0),
    biased=st.booleans(),
    seed=st.integers(0, 999),
)
def test_chunks_are_the_whole_softmax(
    shape: tuple[int, ...], chunk: int, temperature: float, biased: bool, seed: int
) -> None:
    hidden, head, tokens, bias = inputs(shape, 4, 5, seed, biased)
    leaves = [hidden, head] if bias is None else [hidden, head, bias]
    ours = token_likelihood(hidden, head, tokens, bias=bias, temperature=temperature, chunk=chunk)
    expected = whole(hidden, head, tokens, bias, temperature)
    gen = torch.Generator().manual_seed(seed)
    cotangents = [torch.randn(shape, generator=gen, dtype=torch.float64) for _ in range(2)]
    grads = []
    for pair in (ours, expected):
        total = sum((x * c).sum() for x, c in zip(pair, cotangents, strict=True))
        grads.append(torch.autograd.grad(total, leaves))
    for actual, wanted in zip([*ours, *grads[0]], [*expected, *grads[1]], strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("biased", [True, False])
def test_gradcheck(biased: bool) -> None:
    hidden, head, tokens, bias = inputs((2, 2), 2, 3, biased=biased)

    def both(hidden: Tensor, head: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        return tuple(token_likelihood(hidden, head, tokens, bias=bias, temperature=0.7, chunk=3))

    assert torch.autograd.gradcheck(both, (hidden, head, bias))


class Sizes(TorchDispatchMode):
    """The number of elements of every tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        leaves = torch.utils._pytree.tree_leaves(out)
        self.seen += [x.numel() for x in leaves if isinstance(x, Tensor)]
        return out


def test_logits_are_never_held_whole() -> None:
    # Head 3 · 211 = 633 and hidden 101 · 3 = 303 elements are fewer than a chunk's 7 · 211 = 1477.
    hidden, head, tokens, bias = inputs((101,), 3, 211)
    assert bias is not None
    given = {x.untyped_storage().data_ptr() for x in (hidden, head, tokens, bias)}
    saved: list[int] = []

    def pack(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in given:
            saved.append(x.numel())
        return x

    with Sizes() as forward, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        logp, entropy = token_likelihood(hidden, head, tokens, bias=bias, chunk=7)
    with Sizes() as backward:
        (logp.sum() + entropy.sum()).backward()
    for seen in (forward.seen, backward.seen):
        assert max(seen) == 7 * 211, "a chunk's logits, and no more"
    assert sum(saved) < 7 * 211, "not even one chunk's logits wait for the backward pass"


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_half_precision_is_raised_before_the_softmax(temperature: float) -> None:
    hidden, head, tokens, bias = inputs((50,), 4, 11)
    assert bias is not None
    half = [x.detach().bfloat16() for x in (hidden, head, bias)]
    logp, entropy = token_likelihood(
        half[0], half[1], tokens, bias=half[2], temperature=temperature
    )
    assert logp.dtype == entropy.dtype == torch.float32
    # The softmax of the rounded logits, but nothing rounded again after them.
    logits = torch.nn.functional.linear(*half).double() / temperature
    expected = torch.log_softmax(logits, -1).gather(-1, tokens[:, None]).squeeze(1)
    torch.testing.assert_close(logp.double(), expected, rtol=1e-5, atol=1e-5)


H, V = torch.zeros(2, 3, 4), torch.zeros(5, 4)
IDS = torch.zeros(2, 3, dtype=torch.long)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: token_likelihood(H, V, IDS[0]), "token_likelihood: got hidden (2, 3, 4)"),
        (lambda: token_likelihood(H, V[:, :3], IDS), "head (5, 3)"),
        (lambda: token_likelihood(H, V[0], IDS), "head (4,)"),
        (lambda: token_likelihood(H, V, IDS, bias=torch.zeros(4)), "bias: got shape (4,)"),
        (lambda: token_likelihood(H, V, IDS, bias=torch.zeros(1)), "bias: got shape (1,)"),
        (lambda: token_likelihood(H, V, IDS, temperature=0.0), "temperature: got 0.0"),
        (lambda: token_likelihood(H, V, IDS, temperature=-1.0), "temperature: got -1.0"),
        (lambda: token_likelihood(H, V, IDS, temperature=math.nan), "temperature: got nan"),
        (lambda: token_likelihood(H, V, IDS, chunk=0), "chunk: got 0"),
    ],
)
def test_bad_input_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(UpgeError, match="wanted") as error:
        call()
    assert message in str(error.value)


# ------------------------------------------------------------------------------------- shapings


def factor(shaping: Shaping, probability: float) -> float:
    b = make_batch([1.0], old_logp=[[-1.0]])
    b = b.at(torch.tensor([[math.log(probability)]], dtype=torch.float64))
    return float(shaping(b))


@pytest.mark.parametrize(
    ("shaping", "probability", "expected"),
    [
        (Unshaped(), 0.3, 1.0),
        (PolicyShaping(0.1), 0.4, 0.4),  # 0.1/(0.4 + 0.1)² = 0.1/0.25
        (PolicyShaping(0.5), 0.5, 0.5),  # 0.5/1²
        (Complement(), 0.3, 0.7),
        (Complement(), 1.0, 0.0),
    ],
)
def test_shapings_by_hand(shaping: Shaping, probability: float, expected: float) -> None:
    assert factor(shaping, probability) == pytest.approx(expected)


SHAPES: list[tuple[Shaping, Callable[[Tensor], Tensor]]] = [
    (Unshaped(), lambda p: p),
    (PolicyShaping(0.1), lambda p: p / (p + 0.1)),
    (Complement(), lambda p: p - p**2 / 2),
]


@pytest.mark.parametrize(("shaping", "f"), SHAPES, ids=lambda x: getattr(x, "label", ""))
@given(probability=st.floats(1e-9, 1.0))
def test_a_shaping_is_the_derivative_of_f(
    shaping: Shaping, f: Callable[[Tensor], Tensor], probability: float
) -> None:
    p = torch.tensor(probability, dtype=torch.float64, requires_grad=True)
    f(p).backward()
    assert p.grad is not None
    assert factor(shaping, probability) == pytest.approx(p.grad.item(), abs=1e-12)


@pytest.mark.parametrize("gamma", [0.0, -0.1, math.nan])
def test_a_bad_shaping_is_named(gamma: float) -> None:
    with pytest.raises(UpgeError, match=r"PolicyShaping.gamma: got .*, wanted a finite number > 0"):
        PolicyShaping(gamma)
