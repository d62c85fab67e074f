"""Numeric verification: the estimator's gradient against autograd of the published loss.

Both start from the same states of a language model and go separate ways: the estimator takes
log π_θ in chunks and differentiates −Σ w log π_θ; the published loss (``published.py``) takes it
from plain logits and is differentiated as written, one scalar at a time.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from upge.algorithms import Algorithm, Value
from upge.batch import TrajectoryBatch
from upge.estimator import Estimator
from upge.likelihood import token_likelihood
from upge.verification.published import Sample, loss_of


class TorchOps:
    """The maths of ``published.py`` on torch scalars and plain numbers."""

    def exp(self, x: float | Tensor) -> Tensor:
        """eˣ."""
        return torch.as_tensor(x).exp()

    def log(self, x: float | Tensor) -> Tensor:
        """Natural logarithm."""
        return torch.as_tensor(x).log()

    def sqrt(self, x: float | Tensor) -> Tensor:
        """Square root, in double precision for plain numbers."""
        return (x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64)).sqrt()

    def minimum(self, a: float | Tensor, b: float | Tensor) -> Tensor:
        """The smaller of two; at a tie the gradient is shared."""
        return torch.minimum(*self._pair(a, b))

    def maximum(self, a: float | Tensor, b: float | Tensor) -> Tensor:
        """The larger of two; at a tie the gradient is shared."""
        return torch.maximum(*self._pair(a, b))

    def sigmoid(self, x: float | Tensor) -> Tensor:
        """1/(1 + e⁻ˣ)."""
        return torch.as_tensor(x).sigmoid()

    def detach(self, x: float | Tensor) -> Tensor:
        """Stop-gradient."""
        return torch.as_tensor(x).detach()

    @staticmethod
    def _pair(a: float | Tensor, b: float | Tensor) -> tuple[Tensor, Tensor]:
        like = a if isinstance(a, Tensor) else b
        dtype = like.dtype if isinstance(like, Tensor) else torch.float64
        return torch.as_tensor(a, dtype=dtype), torch.as_tensor(b, dtype=dtype)


def samples_of(batch: TrajectoryBatch, logp: Tensor, entropy: Tensor | None) -> list[Sample]:
    """The batch as the list of samples that the published losses read, one scalar a token."""

    def row(x: Tensor | None, i: int) -> list[Tensor] | None:
        return None if x is None else [x[i, t] for t in batch.mask[i].nonzero().flatten().tolist()]

    zeros = torch.zeros_like(logp)
    old_logp = zeros if batch.old_logp is None else batch.old_logp
    return [
        Sample(
            logp=row(logp, i) or [],
            old_logp=row(old_logp, i) or [],
            reward=batch.reward[i].item(),
            question=int(batch.group[i]),
            demonstration=bool(batch.offline[i][batch.mask[i]].all()),
            values=row(batch.values, i),
            entropy=row(None if entropy is None else entropy.detach(), i),
        )
        for i in range(len(batch.mask))
        if batch.mask[i].any()
    ]


def published_loss(
    algorithm: Algorithm,
    batch: TrajectoryBatch,
    logp: Tensor,
    entropy: Tensor | None = None,
    **options: Value,
) -> Tensor:
    """The published loss of the registry entry's name, at its default or the given options.

    Raises:
        UpgeError: there is none of that name.
    """
    loss = loss_of(algorithm.name)
    settings: dict[str, Value] = {name: o.default for name, o in algorithm.options.items()}
    settings |= options
    if "max_length" in inspect.signature(loss).parameters:
        settings["max_length"] = batch.max_length or batch.mask.shape[1]
    value = loss(samples_of(batch, logp, entropy), TorchOps(), **settings)
    return torch.as_tensor(value) + 0 * torch.where(batch.mask, logp, 0.0).sum()


@dataclass(frozen=True)
class Case:
    """A batch, and the states that predict its tokens in a model with parameters.

    Attributes:
        hidden: (N, T, H) with the graph to the parameters.
        head: (V, H) output embedding.
        tokens: (N, T).
        parameters: what gradients are taken with respect to.
    """

    batch: TrajectoryBatch
    hidden: Tensor
    head: Tensor
    tokens: Tensor
    parameters: tuple[Tensor, ...]


def estimator_gradient(estimator: Estimator, case: Case, chunk: int = 64) -> tuple[Tensor, ...]:
    """∇(−J) over the parameters, from the estimator's weights and chunked likelihoods."""
    mask = case.batch.mask
    likelihood = token_likelihood(case.hidden[mask], case.head, case.tokens[mask], chunk=chunk)
    logp, entropy = (_scatter(mask, x) for x in likelihood)
    return _gradient(estimator(case.batch, logp, entropy).loss, case.parameters)


def published_gradient(algorithm: Algorithm, case: Case, **options: Value) -> tuple[Tensor, ...]:
    """The gradient of the published loss over the parameters, from plain logits."""
    mask = case.batch.mask
    log_pi = nn.functional.log_softmax(case.hidden[mask] @ case.head.T, dim=-1)
    entropy = torch.distributions.Categorical(logits=log_pi.detach()).entropy()
    logp = log_pi.gather(1, case.tokens[mask][:, None]).squeeze(1)
    loss = published_loss(
        algorithm, case.batch, _scatter(mask, logp), _scatter(mask, entropy), **options
    )
    return _gradient(loss, case.parameters)


def _scatter(mask: Tensor, x: Tensor) -> Tensor:
    return torch.zeros_like(mask, dtype=x.dtype).masked_scatter(mask, x)


def _gradient(loss: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(
        loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )


@dataclass(frozen=True)
class Agreement:
    """How far two gradients are apart.

    Attributes:
        error: ‖a − b‖/‖b‖ over all parameters; 0 if both vanish, infinite if only b does.
        cosine: of the angle between them; 1 if both vanish.
        norm: ‖b‖; two vanishing gradients agree, but prove nothing.
    """

    error: float
    cosine: float
    norm: float = 1.0


def worst_of(errors: Iterable[float]) -> float:
    """The largest error; NaN if any is NaN, 0 if there is none."""
    worst = 0.0
    for error in errors:
        worst = error if math.isnan(error) or error > worst else worst
        if math.isnan(worst):
            break
    return worst


def agreement(a: Sequence[Tensor], b: Sequence[Tensor]) -> Agreement:
    """Compare gradient ``a`` with the reference ``b``, accumulating in float64."""
    aa = bb = ab = dd = 0.0
    for x, y in zip(a, b, strict=True):
        x, y = x.flatten().double(), y.flatten().double()
        aa, bb, ab = aa + (x @ x).item(), bb + (y @ y).item(), ab + (x @ y).item()
        dd += ((x - y) @ (x - y)).item()
    if bb == 0:
        return Agreement(0.0, 1.0, 0.0) if aa == 0 else Agreement(float("inf"), 0.0, 0.0)
    return Agreement((dd / bb) ** 0.5, ab / (aa * bb) ** 0.5 if aa else 0.0, bb**0.5)


class TinyTransformer(nn.Module):
    """A random causal transformer over a small vocabulary, in float64."""

    def __init__(self, vocabulary: int = 11, width: int = 8, longest: int = 16) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width, dtype=torch.float64)
        self.positions = nn.Embedding(longest, width, dtype=torch.float64)
        self.layer = nn.TransformerEncoderLayer(
            width, 2, 2 * width, dropout=0.0, batch_first=True, dtype=torch.float64
        )
        self.head = nn.Linear(width, vocabulary, bias=False, dtype=torch.float64)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T) ids → (N, T, H) states; state t has seen tokens up to and including t."""
        length = tokens.shape[1]
        x = self.tokens(tokens) + self.positions(torch.arange(length))
        causal = nn.Transformer.generate_square_subsequent_mask(length, dtype=x.dtype)
        states: Tensor = self.layer(x, src_mask=causal, is_causal=True)
        return states


#: How far log π_θold lies from log π_θ, from GSPO's clip range to beyond dual clip and truncation.
OLD_POLICY_NOISE = (0.0, 2e-4, 1e-3, 0.1, 0.4, 1.5)

#: Rewards a random batch may draw from: pass/fail, all equal, ±1, and real ones.
REWARDS = ((0.0, 1.0), (0.0, 0.0), (1.0, 1.0), (-1.0, 1.0), (0.25, 0.25), (-0.7, 0.2, 0.3, 1.9))


def random_case(seed: int) -> Case:
    """A random batch on a random transformer: ragged lengths and groups, every kind of reward.

    Group sizes are 1 to 4 rollouts with 0 to 2 demonstrations; the first question has both, so
    that every algorithm finds what it reads. Noise of the old policy and kind of reward cycle
    with the seed.
    """
    g = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=g))

    group, offline = [], []
    for question in range(draw(1, 4)):
        demonstrations = draw(1 if question == 0 else 0, 2)
        rollouts = draw(1, 4)
        group += [question] * (rollouts + demonstrations)
        offline += [False] * rollouts + [True] * demonstrations
    rows, length = len(group), 8
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TinyTransformer()
    tokens = torch.randint(0, 11, (rows, length + 1), generator=g)
    start = torch.randint(0, 3, (rows, 1), generator=g)
    response = torch.randint(1, length - 2, (rows, 1), generator=g)
    position = torch.arange(length)
    mask = (position >= start) & (position < start + response)
    rewards = torch.tensor(REWARDS[seed % len(REWARDS)], dtype=torch.float64)
    hidden = model(tokens[:, :-1])
    logp = model.head(hidden).log_softmax(-1).gather(2, tokens[:, 1:, None]).squeeze(2).detach()
    noise = OLD_POLICY_NOISE[(seed // len(REWARDS)) % len(OLD_POLICY_NOISE)]
    shift = torch.randn(rows, length, generator=g, dtype=torch.float64)
    batch = TrajectoryBatch(
        mask=mask,
        reward=rewards[torch.randint(0, len(rewards), (rows,), generator=g)],
        group=torch.tensor(group),
        offline=torch.tensor(offline),
        old_logp=(logp + noise * shift).clamp(max=0),
        values=torch.randn(rows, length, generator=g, dtype=torch.float64),
        max_length=length + draw(0, 8),
    )
    return Case(batch, hidden, model.head.weight, tokens[:, 1:], tuple(model.parameters()))


@dataclass(frozen=True)
class NumericResult:
    """The largest relative error over the batches, how many there were, how many had a gradient."""

    error: float
    batches: int
    nonzero: int


def verify_float64(
    algorithm: Algorithm, seeds: Sequence[int] = tuple(range(144)), **options: Value
) -> NumericResult:
    """Estimator against published loss on random batches, in float64 over all parameters.

    The default seeds pair every one of :data:`REWARDS` and :data:`OLD_POLICY_NOISE` four times.
    """
    estimator = algorithm(**options)
    errors, nonzero = [], 0
    for seed in seeds:
        case = random_case(seed)
        reference = published_gradient(algorithm, case, **options)
        result = agreement(estimator_gradient(estimator, case, chunk=7), reference)
        errors.append(result.error)
        nonzero += result.norm > 0
    return NumericResult(worst_of(errors), len(seeds), nonzero)
