"""Table 1 proved: the gradient of every published loss is the gradient of its row.

A loss depends on the parameters θ through l = log π_θ(τ_t) of each token alone, so its gradient is
Σ ∂L/∂l ∇l, and that of a row is −Σ w ∇l (see :mod:`upge.estimator`). The claim that

    ∂L/∂l = −w,   w = Σ over terms of c · α · 1_stable · (π_θ/π_ref) · Â · f'(π_θ) · e^{±H} / Z

is shown here by sympy, for all log-probabilities, critic's values and entropies at once, on small
batches (:data:`PATTERNS`) with rational rewards and options. L is the loss of
:mod:`upge.theory.published`. w is built from the registry's own terms, through a *twin* for each
type of component: the formula of its docstring in scalars, evaluated here over symbols and, by
:func:`weights`, over numbers, which ties the twins to the tensors that train.

Both sides are smooth but for a choice here and there (a clip, the sign of Â). The choices cut the
space into cells. Every cell that a grid of points around all thresholds meets is taken in turn: its
choices are made, and what is left of the difference has to be the symbol 0. Left out are the
borders of the cells, a set of measure zero where a clipped loss has no derivative, and ratios
beyond e^±60, which the package clamps.
"""

from __future__ import annotations

import inspect
import math
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise, product
from typing import Any, Protocol, TypeVar

import mpmath
import sympy

from upge.advantage import (
    GAE,
    BatchZScore,
    GroupCentered,
    GroupZScore,
    LeaveOneOut,
    One,
    Reward,
    Signed,
)
from upge.algorithms import Algorithm, Terms, Value
from upge.batch import Samples
from upge.errors import UpgeError
from upge.estimator import EntropyWeight, Estimator, Term
from upge.feedback import Gate, Linear, Sigmoid, Switch
from upge.likelihood import Complement, PolicyShaping, Unshaped
from upge.normalization import (
    FixedLength,
    LengthSum,
    QuestionMean,
    QuestionSum,
    SequenceMean,
    TokenMean,
    TokenSum,
    TrajectoryMean,
)
from upge.reference import ConstantOne, CurrentPolicy, RolloutPolicy, SequenceRatio
from upge.stabilization import (
    CISMask,
    Clip,
    DualClip,
    GeometricClip,
    NoMask,
    SigmoidGate,
    WeightClip,
)
from upge.theory.published import LOSSES, Sample

Scalar = Any  #: a sympy expression, or a float
Loss = Callable[..., Scalar]
_Point = Mapping[Scalar, Scalar]  #: a number for each symbol

# ------------------------------------------------------------------------------------------- maths


class Where(sympy.Function):  # type: ignore[misc]
    """``yes`` where gap > 0, ``no`` where gap < 0; at gap = 0 nothing is claimed.

    sympy's Piecewise would do, were it not for the simplifications it tries on its own.
    """

    nargs = 3

    @classmethod
    def eval(cls, gap: Scalar, yes: Scalar, no: Scalar) -> Scalar | None:
        """Drop a choice that is none."""
        if yes == no:
            return yes
        if gap.is_number:
            return yes if gap > 0 else no
        return None

    def _eval_derivative(self, symbol: Scalar) -> Scalar:
        gap, yes, no = self.args
        return Where(gap, yes.diff(symbol), no.diff(symbol))


def exact(x: Scalar) -> Scalar:
    """The expression with every decimal (0.2, 3e-4) as the fraction that is meant."""
    if isinstance(x, float):
        return _fraction(x)
    x = sympy.sympify(x)
    return x.xreplace({number: _fraction(float(number)) for number in x.atoms(sympy.Float)})


def _fraction(x: float) -> Scalar:
    near = Fraction(x).limit_denominator(10**6)
    meant = near if math.isclose(float(near), x, rel_tol=1e-12) else Fraction(x)
    return sympy.Rational(meant.numerator, meant.denominator)


class Maths(Protocol):
    """What twins calculate with."""

    def number(self, x: float) -> Scalar:
        """A component's option."""

    def exp(self, x: Scalar) -> Scalar:
        """e^x."""

    def sqrt(self, x: Scalar) -> Scalar:
        """√x."""

    def where(self, gap: Scalar, yes: Scalar, no: Scalar) -> Scalar:
        """``yes`` where gap > 0, else ``no``."""


class SymbolicOps:
    """sympy for twins (:class:`Maths`) and for published losses (``published.Ops``)."""

    def __init__(self) -> None:
        self._detached: dict[Scalar, Scalar] = {}

    def number(self, x: float) -> Scalar:
        """An option as a fraction."""
        return exact(x)

    def exp(self, x: Scalar) -> Scalar:
        """e^x."""
        return sympy.exp(exact(x))

    def log(self, x: Scalar) -> Scalar:
        """The natural logarithm."""
        return sympy.log(exact(x))

    def sqrt(self, x: Scalar) -> Scalar:
        """√x."""
        return sympy.sqrt(exact(x))

    def sigmoid(self, x: Scalar) -> Scalar:
        """1/(1 + e^−x)."""
        return 1 / (1 + self.exp(-x))

    def where(self, gap: Scalar, yes: Scalar, no: Scalar) -> Scalar:
        """A choice left open."""
        return Where(exact(gap), exact(yes), exact(no))

    def minimum(self, a: Scalar, b: Scalar) -> Scalar:
        """The smaller one."""
        return self.where(b - a, a, b)

    def maximum(self, a: Scalar, b: Scalar) -> Scalar:
        """The larger one."""
        return self.where(a - b, a, b)

    def detach(self, x: Scalar) -> Scalar:
        """A symbol of its own in the place of x, which differentiation takes for a constant."""
        stopped = sympy.Dummy("sg")
        self._detached[stopped] = self.attach(exact(x))
        return stopped

    def attach(self, x: Scalar) -> Scalar:
        """The expression with what was detached put back."""
        return x.xreplace(self._detached)


class Floats:
    """Floating-point numbers for twins."""

    def number(self, x: float) -> float:
        """An option."""
        return float(x)

    def exp(self, x: float) -> float:
        """e^x."""
        return math.exp(x)

    def sqrt(self, x: float) -> float:
        """√x."""
        return math.sqrt(x)

    def where(self, gap: float, yes: float, no: float) -> float:
        """A choice made."""
        return yes if gap > 0 else no


# ------------------------------------------------------------------------------------------- twins


@dataclass(frozen=True)
class Rows:
    """A batch as twins see it: trajectories i of tokens t, and the maths to use on them."""

    samples: Sequence[Sample]
    max_length: Scalar
    maths: Maths

    def of(self, samples: Samples) -> list[int]:
        """The rows that a term over ``samples`` reads."""
        kept = {"all": (False, True), "online": (False,), "offline": (True,)}[samples]
        return [i for i, sample in enumerate(self.samples) if sample.demonstration in kept]

    def question(self, i: int, samples: Samples) -> list[int]:
        """Those of them that answer the question of row i."""
        wanted = self.samples[i].question
        return [j for j in self.of(samples) if self.samples[j].question == wanted]

    def reward(self, i: int) -> Scalar:
        """R(τ_i)."""
        return self.maths.number(self.samples[i].reward)

    def rewards(self, rows: Sequence[int]) -> list[Scalar]:
        """R of several rows."""
        return [self.reward(i) for i in rows]

    def length(self, i: int) -> int:
        """|τ_i|."""
        return len(self.samples[i].logp)

    def entropy(self, i: int) -> Sequence[Scalar]:
        """H of the row's tokens."""
        return self._given(self.samples[i].entropy, "entropy")

    def values(self, i: int) -> Sequence[Scalar]:
        """V of the row's tokens."""
        return self._given(self.samples[i].values, "values")

    def _given(self, numbers: Sequence[Scalar] | None, name: str) -> Sequence[Scalar]:
        if numbers is None:
            raise UpgeError(f"a term needs {name}, which a sample lacks; give it to every sample")
        return numbers

    def log_ratio(self, i: int, t: int) -> Scalar:
        """log(π_θ/π_θold) of a token."""
        return self.samples[i].logp[t] - self.samples[i].old_logp[t]

    def ratio(self, i: int, t: int) -> Scalar:
        """π_θ/π_θold of a token."""
        return self.maths.exp(self.log_ratio(i, t))

    def mean_log_ratio(self, i: int) -> Scalar:
        """(1/|τ_i|) log(π_θ(τ_i)/π_θold(τ_i))."""
        return sum(self.log_ratio(i, t) for t in range(self.length(i))) / self.length(i)


Twin = TypeVar("Twin", bound=Callable[..., Any])
TWINS: dict[type, Callable[..., Any]] = {}


def twin(kind: type) -> Callable[[Twin], Twin]:
    """Makes the decorated function the twin of components of this very type.

    Unlike with ``functools.singledispatch`` a subclass has no twin until it is given its own: it
    exists because its formula differs. A twin takes the component, the :class:`Rows` and, by its
    kind: reference (i, t), log π_ref; stabilization (i, t, Â); advantage and shaping (i, t);
    normalizer (i, the term's rows, the counted rows), 1/Z; feedback (P), the pair (α, β).
    """

    def add(formula: Twin) -> Twin:
        TWINS[kind] = formula
        return formula

    return add


def _twin(component: Any, *args: Any) -> Any:
    if type(component) not in TWINS:
        name = type(component).__name__
        raise UpgeError(
            f"{name} has no symbolic twin; write its formula in upge/theory/symbolic.py under "
            f"@twin({name})"
        )
    return TWINS[type(component)](component, *args)


@twin(CurrentPolicy)
def _current_policy(_: CurrentPolicy, rows: Rows, i: int, t: int) -> Scalar:
    return rows.samples[i].logp[t]


@twin(RolloutPolicy)
def _rollout_policy(_: RolloutPolicy, rows: Rows, i: int, t: int) -> Scalar:
    return rows.samples[i].old_logp[t]


@twin(ConstantOne)
def _constant_one(_: ConstantOne, rows: Rows, i: int, t: int) -> Scalar:
    return 0


@twin(SequenceRatio)
def _sequence_ratio(_: SequenceRatio, rows: Rows, i: int, t: int) -> Scalar:
    return rows.samples[i].logp[t] - rows.mean_log_ratio(i)


@twin(NoMask)
def _no_mask(_: NoMask, rows: Rows, i: int, t: int, advantage: Scalar) -> Scalar:
    return 1


def _clip(ratio: Scalar, advantage: Scalar, low: float, high: float, maths: Maths) -> Scalar:
    """0 if Â > 0 and ratio > 1 + high, or Â < 0 and ratio < 1 − low; else 1."""
    too_high = maths.where(ratio - (1 + maths.number(high)), 0, 1)
    too_low = maths.where((1 - maths.number(low)) - ratio, 0, 1)
    return maths.where(advantage, too_high, maths.where(-advantage, too_low, 1))


@twin(Clip)
def _ratio_clip(c: Clip, rows: Rows, i: int, t: int, advantage: Scalar) -> Scalar:
    sequence = c.level == "sequence"
    ratio = rows.maths.exp(rows.mean_log_ratio(i)) if sequence else rows.ratio(i, t)
    return _clip(ratio, advantage, c.low, c.high, rows.maths)


@twin(CISMask)
def _cis_mask(c: CISMask, rows: Rows, i: int, t: int, advantage: Scalar) -> Scalar:
    return _clip(rows.ratio(i, t), advantage, c.low, c.high, rows.maths)


@twin(DualClip)
def _dual_clip(c: DualClip, rows: Rows, i: int, t: int, advantage: Scalar) -> Scalar:
    where = rows.maths.where
    far = where(-advantage, where(rows.ratio(i, t) - rows.maths.number(c.dual), 0, 1), 1)
    return far * _ratio_clip(c, rows, i, t, advantage)


@twin(WeightClip)
def _weight_clip(c: WeightClip, rows: Rows, i: int, t: int, advantage: Scalar) -> Scalar:
    where, number = rows.maths.where, rows.maths.number
    ratio, low, high = rows.ratio(i, t), number(c.low), number(c.high)
    return where(ratio - high, high, where(low - ratio, low, ratio)) / ratio


@twin(SigmoidGate)
def _sigmoid_gate(c: SigmoidGate, rows: Rows, i: int, t: int, advantage: Scalar) -> Scalar:
    tau = rows.maths.where(advantage, rows.maths.number(c.tau_pos), rows.maths.number(c.tau_neg))
    p = 1 / (1 + rows.maths.exp(-tau * (rows.ratio(i, t) - 1)))
    return 4 * p * (1 - p)


@twin(GeometricClip)
def _geometric_clip(c: GeometricClip, rows: Rows, i: int, t: int, advantage: Scalar) -> Scalar:
    where, low, high = rows.maths.where, rows.maths.number(c.low), rows.maths.number(c.high)

    def beyond(s: int) -> Scalar:
        """log(r_s/clip(r_s)): positive above the range, negative below it."""
        raw = rows.log_ratio(i, s)
        above = where(raw - high, raw - high, 0)
        below = where(-low - raw, raw + low, 0)
        return where(advantage, above, below)

    inside_high = where(rows.log_ratio(i, t) - high, 0, 1)
    inside_low = where(-low - rows.log_ratio(i, t), 0, 1)
    total = sum(beyond(s) for s in range(rows.length(i)))
    return where(advantage, inside_high, inside_low) * rows.maths.exp(-total / rows.length(i))


@twin(One)
def _one(_: One, rows: Rows, i: int, t: int) -> Scalar:
    return 1


@twin(Reward)
def _reward(_: Reward, rows: Rows, i: int, t: int) -> Scalar:
    return rows.reward(i)


@twin(Signed)
def _signed(a: Signed, rows: Rows, i: int, t: int) -> Scalar:
    return rows.maths.number(a.positive if rows.reward(i) > 0 else a.negative)


@twin(GAE)
def _gae(a: GAE, rows: Rows, i: int, t: int) -> Scalar:
    if rows.samples[i].demonstration:
        return 0
    values, last = rows.values(i), rows.length(i) - 1
    gamma, lam = rows.maths.number(a.gamma), rows.maths.number(a.lam)

    def delta(s: int) -> Scalar:
        return (rows.reward(i) if s == last else gamma * values[s + 1]) - values[s]

    return sum((gamma * lam) ** (s - t) * delta(s) for s in range(t, last + 1))


def _mean(numbers: Sequence[Scalar]) -> Scalar:
    return sum(numbers) / len(numbers)


def _z_score(x: Scalar, among: Sequence[Scalar], maths: Maths) -> Scalar:
    """(x − mean)/std, with n − 1 in std."""
    squares = sum((y - _mean(among)) ** 2 for y in among)
    return (x - _mean(among)) / maths.sqrt(squares / (len(among) - 1))


def _all_equal(numbers: Sequence[Scalar]) -> bool:
    return len(set(numbers)) <= 1


@twin(GroupZScore)
def _group_z_score(a: GroupZScore, rows: Rows, i: int, t: int) -> Scalar:
    among = rows.rewards(rows.question(i, a.over))
    return 0 if _all_equal(among) else _z_score(rows.reward(i), among, rows.maths)


@twin(GroupCentered)
def _group_centered(a: GroupCentered, rows: Rows, i: int, t: int) -> Scalar:
    among = rows.rewards(rows.question(i, a.over))
    if a.lone_reward and len(among) <= 1:
        return rows.reward(i)
    return 0 if _all_equal(among) else rows.reward(i) - _mean(among)


@twin(LeaveOneOut)
def _leave_one_out(a: LeaveOneOut, rows: Rows, i: int, t: int) -> Scalar:
    others = rows.rewards([j for j in rows.question(i, "online") if j != i])
    return rows.reward(i) - _mean(others) if others else 0


@twin(BatchZScore)
def _batch_z_score(a: BatchZScore, rows: Rows, i: int, t: int) -> Scalar:
    among = [rows.reward(j) for j in rows.of("online") for _ in range(rows.length(j))]
    return 0 if _all_equal(among) else _z_score(rows.reward(i), among, rows.maths)


@twin(Unshaped)
def _unshaped(_: Unshaped, rows: Rows, i: int, t: int) -> Scalar:
    return 1


@twin(PolicyShaping)
def _policy_shaping(f: PolicyShaping, rows: Rows, i: int, t: int) -> Scalar:
    gamma = rows.maths.number(f.gamma)
    return gamma / (rows.maths.exp(rows.samples[i].logp[t]) + gamma) ** 2


@twin(Complement)
def _complement(_: Complement, rows: Rows, i: int, t: int) -> Scalar:
    return 1 - rows.maths.exp(rows.samples[i].logp[t])


@twin(TokenSum)
def _token_sum(_: TokenSum, rows: Rows, i: int, own: list[int], counted: list[int]) -> Scalar:
    return 1


@twin(TokenMean)
def _token_mean(_: TokenMean, rows: Rows, i: int, own: list[int], counted: list[int]) -> Scalar:
    return rows.maths.number(1) / (max(sum(rows.length(j) for j in counted), 1))


@twin(TrajectoryMean)
def _trajectory_mean(
    _: TrajectoryMean, rows: Rows, i: int, own: list[int], counted: list[int]
) -> Scalar:
    return rows.maths.number(1) / (max(len(counted), 1))


@twin(SequenceMean)
def _sequence_mean(
    _: SequenceMean, rows: Rows, i: int, own: list[int], counted: list[int]
) -> Scalar:
    return rows.maths.number(1) / (max(len(counted), 1) * rows.length(i))


@twin(FixedLength)
def _fixed_length(_: FixedLength, rows: Rows, i: int, own: list[int], counted: list[int]) -> Scalar:
    return rows.maths.number(1) / (max(len(counted), 1) * rows.max_length)


@twin(LengthSum)
def _length_sum(_: LengthSum, rows: Rows, i: int, own: list[int], counted: list[int]) -> Scalar:
    return rows.maths.number(1) / rows.max_length


@twin(QuestionSum)
def _question_sum(_: QuestionSum, rows: Rows, i: int, own: list[int], counted: list[int]) -> Scalar:
    questions = {rows.samples[j].question for j in counted}
    of_this = [j for j in own if rows.samples[j].question == rows.samples[i].question]
    return rows.maths.number(1) / (max(len(questions), 1) * len(of_this))


@twin(QuestionMean)
def _question_mean(
    z: QuestionMean, rows: Rows, i: int, own: list[int], counted: list[int]
) -> Scalar:
    return _question_sum(z, rows, i, own, counted) / rows.length(i)


@twin(Switch)
def _switch(f: Switch, rows: Rows, p: Scalar) -> tuple[Scalar, Scalar]:
    # A P within 1e-6 of gamma is equal to it, as in the component.
    return (1, 0) if p - rows.maths.number(f.gamma) > 1e-6 else (0, 1)


@twin(Linear)
def _linear(f: Linear, rows: Rows, p: Scalar) -> tuple[Scalar, Scalar]:
    return p, 1 - p


@twin(Sigmoid)
def _sigmoid(f: Sigmoid, rows: Rows, p: Scalar) -> tuple[Scalar, Scalar]:
    x = rows.maths.number(f.steepness) * (p - rows.maths.number(f.gamma))
    return 1 / (1 + rows.maths.exp(-x)), 1 / (1 + rows.maths.exp(x))


@twin(Gate)
def _gate(gate: Gate, rows: Rows, i: int) -> Scalar:
    """α or β at P, the share of solved rollouts; 1 or 0 where there is no demonstration."""
    rewards = rows.rewards(rows.question(i, "online"))
    solved = rows.maths.number(sum(1 for reward in rewards if reward > 0))
    pair = (1, 0)
    if rows.question(i, "offline"):
        pair = _twin(gate.feedback, rows, solved / max(len(rewards), 1))
    return pair[0] if gate.side == "rl" else pair[1]


@twin(EntropyWeight)
def _entropy_weight(e: EntropyWeight, rows: Rows, i: int, samples: Samples) -> Scalar:
    over = [i] if e.level == "sequence" else rows.of(samples)
    return rows.maths.exp(e.sign * _mean([h for j in over for h in rows.entropy(j)]))


def _open_rows(term: Term, rows: Rows) -> list[int]:
    own = rows.of(term.samples)
    return own if term.gate is None else [i for i in own if _twin(term.gate, rows, i) != 0]


def _term_weight(term: Term, terms: Terms, rows: Rows, i: int, t: int) -> Scalar:
    """One token's c · α · 1_stable · (π_θ/π_ref) · Â · f'(π_θ) · e^{±H} / Z."""
    own = rows.of(term.samples)
    if i not in own:
        return 0
    counted = {
        "term": own,
        "open": _open_rows(term, rows),
        "joint": sorted({j for other in terms for j in _open_rows(other, rows)}),
        "batch": rows.of("all"),
    }[term.normalizer.scope]
    advantage = _twin(term.advantage, rows, i, t)
    weight = rows.maths.number(term.coefficient)
    weight *= _twin(term.normalizer, rows, i, own, counted) * advantage
    weight *= _twin(term.stabilization, rows, i, t, advantage)
    weight *= rows.maths.exp(rows.samples[i].logp[t] - _twin(term.reference, rows, i, t))
    weight *= _twin(term.shaping, rows, i, t)
    if term.gate is not None:
        weight *= _twin(term.gate, rows, i)
    if term.entropy_weight is not None:
        weight *= _twin(term.entropy_weight, rows, i, term.samples)
    return weight


def _weight(terms: Terms, rows: Rows, i: int, t: int) -> Scalar:
    return sum(_term_weight(term, terms, rows, i, t) for term in terms)


def weights(
    estimator: Estimator, samples: Sequence[Sample], *, max_length: int | None = None
) -> list[list[float]]:
    """The twins' w of every token of every sample, in numbers.

    Args:
        estimator: what to take the weights of.
        samples: trajectories of plain numbers.
        max_length: the longest response allowed; the longest one in ``samples`` if not given.
    """
    longest = max((len(sample.logp) for sample in samples), default=1)
    rows = Rows(samples, max_length or longest, Floats())
    return [
        [float(_weight(estimator.terms, rows, i, t)) for t in range(rows.length(i))]
        for i in range(len(samples))
    ]


# ------------------------------------------------------------------------------------------- proof

#: The small batches: for each question the rewards of its rollouts and of its demonstrations. The
#: first trajectory of each kind has two tokens, the others have one.
Pattern = tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
PATTERNS: tuple[Pattern, ...] = (
    ((("1",), ()),),
    ((("0",), ()),),
    (((), ("1",)),),
    ((("1",), ("0",)),),
    *((((a, b), (demo,)),) for a, b in product("01", repeat=2) for demo in "01"),
    *(((rewards, ()),) for rewards in product("01", repeat=3)),
    ((("1", "0"), ("1", "0")),),
    ((("0", "1", "0", "0"), ("1",)),),
    ((("3/2", "-1/2", "1/4"), ("1", "-2/3")),),
    ((("1", "0"), ("1",)), (("0",), ("1",))),
    ((("0", "0", "1"), ()), (("0",), ("1", "1")), ((), ("0",))),
)


@dataclass(frozen=True)
class SymbolicResult:
    """What :func:`verify_symbolic` found.

    Attributes:
        algorithm: its name.
        proved: whether the difference of both sides is the symbol 0 in every cell of every batch.
        cells: how many cells were compared, over all tokens and instances.
        instances: how many small batches they come from.
        counterexample: if not proved, the first token and cell that differ, and both sides there.
    """

    algorithm: str
    proved: bool
    cells: int
    instances: int
    counterexample: str | None = None


def verify_symbolic(
    algorithm: Algorithm,
    *,
    terms: Terms | None = None,
    loss: Loss | None = None,
    **options: Value,
) -> SymbolicResult:
    """Prove on every batch of :data:`PATTERNS` that ∂L/∂l = −w for each token.

    Args:
        algorithm: a registry entry.
        terms: stand in for the entry's terms, e.g. a row read as the paper prints it.
        loss: stands in for the published loss of the entry's name.
        options: options of the entry over its defaults; they go to both sides.

    Raises:
        UpgeError: a component without a twin, an algorithm without a published loss, or an option
            that the published loss does not have.
    """
    published = loss or _published(algorithm)
    known = inspect.signature(published).parameters
    if foreign := [name for name in options if name not in known]:
        raise UpgeError(
            f"the published loss of {algorithm.name} has no option {foreign[0]!r}; leave it at its "
            "default to verify the algorithm"
        )
    settings = {name: option.default for name, option in algorithm.options.items()} | options
    exact_settings: dict[str, Scalar] = {
        name: x if isinstance(x, str) else exact(x) for name, x in settings.items() if name in known
    }
    if "max_length" in known:
        exact_settings["max_length"] = _MAX_LENGTH
    prover = _Prover(
        partial(published, **exact_settings),
        algorithm(**options).terms if terms is None else terms,
    )
    cells = 0
    for count, pattern in enumerate(PATTERNS, 1):
        found, counterexample = prover.verify(pattern)
        cells += found
        if counterexample:
            return SymbolicResult(algorithm.name, False, cells, count, counterexample)
    return SymbolicResult(algorithm.name, True, cells, len(PATTERNS))


def _published(algorithm: Algorithm) -> Loss:
    if algorithm.name not in LOSSES:
        raise UpgeError(
            f"{algorithm.name} has no published loss; add one of that name to "
            "upge/theory/published.py"
        )
    return LOSSES[algorithm.name]


_MAX_LENGTH = sympy.Symbol("L", positive=True)


def _symbolic_samples(pattern: Pattern) -> list[Sample]:
    """The trajectories of a pattern, every number of a token a symbol of its own."""

    def trajectory(i: int, reward: str, question: int, demonstration: bool, length: int) -> Sample:
        def symbols(name: str) -> list[Scalar]:
            return [sympy.Symbol(f"{name}_{i}_{t}", real=True) for t in range(length)]

        return Sample(
            logp=symbols("l"),
            old_logp=symbols("o"),
            reward=sympy.Rational(reward),
            question=question,
            demonstration=demonstration,
            values=symbols("V"),
            entropy=symbols("H"),
        )

    samples: list[Sample] = []
    for question, kinds in enumerate(pattern):
        for demonstration, rewards in zip((False, True), kinds, strict=True):
            for place, reward in enumerate(rewards):
                length = 1 if place else 2
                samples.append(trajectory(len(samples), reward, question, demonstration, length))
    return samples


class _Unknowns:
    """The symbols that expressions are compared in, and values for them.

    Log-probabilities are written as logarithms of positive symbols: log π_θ = log π_θold + log r of
    a rollout, log π_θ of a demonstration. A symbol is the |τ|-th root of what it stands for, so
    that geometric means are rational functions too.
    """

    def __init__(self) -> None:
        self._lengths: dict[Scalar, int] = {}

    def of(self, sample: Sample, tag: str) -> dict[Scalar, Scalar]:
        """What to put in the place of a trajectory's symbols; ``tag`` goes into the names."""
        length = len(sample.logp)
        meaning: dict[Scalar, Scalar] = {}
        for t in range(length):
            old = length * sympy.log(self._root(f"old{t}{tag}", length))
            name, base = ("pi", 0) if sample.demonstration else ("r", old)
            log = length * sympy.log(self._root(f"{name}{t}{tag}", length))
            meaning[sample.old_logp[t]], meaning[sample.logp[t]] = old, log + base
            for given, kind in ((sample.values, "V"), (sample.entropy, "H")):
                if given is not None:
                    meaning[given[t]] = sympy.Symbol(f"{kind}{t}{tag}", real=True)
        return meaning

    def _root(self, name: str, length: int) -> Scalar:
        symbol = sympy.Symbol(name if length == 1 else f"{name}^(1/{length})", positive=True)
        self._lengths[symbol] = length
        return symbol

    def readable(self, x: Scalar) -> Scalar:
        """The expression in r and π instead of their roots."""
        return x.xreplace(
            {
                root: sympy.Symbol(root.name.split("^")[0], positive=True) ** sympy.Rational(1, n)
                for root, n in self._lengths.items()
            }
        )

    def points(self, choices: set[Scalar]) -> Iterator[_Point]:
        """Values of the symbols that choices depend on, around every number c that is in them.

        A ratio may be compared with c, and a log-ratio too: values of r lie below, between and
        above all c, e^c and e^−c. V is far below and far above any reward.
        """
        symbols = sorted(set().union(*(c.args[0].free_symbols for c in choices)), key=str)
        numbers = {abs(float(c)) for choice in choices for c in choice.atoms(sympy.Rational)}
        powers = {math.exp(sign * c) for c in numbers if c < 20 for sign in (-1, 1)}
        ratios = _around(sorted(c for c in numbers | powers if c > 0))
        grid = [
            [_fraction(x ** (1 / self._lengths[s])) for x in ratios]
            if s in self._lengths
            else [sympy.Integer(-3), sympy.Integer(4)]
            for s in symbols
        ]
        for values in product(*grid):
            yield dict(zip(symbols, values, strict=True))


def _around(bounds: Sequence[float]) -> list[float]:
    """A number below, between and above positive bounds; those within 1e-5 count as one."""
    apart: list[float] = []
    for bound in bounds:
        if not apart or bound > apart[-1] * (1 + 1e-5):
            apart.append(bound)
    if not apart:
        return [1.0]
    inner = [math.sqrt(low * high) for low, high in pairwise(apart)]
    return [apart[0] / 2, *inner, apart[-1] * 2]


class _Border(Exception):
    """A point lies on the border of two cells."""


@dataclass(frozen=True)
class _Cell:
    """The choices made, as (gap, whether positive), and both sides under them."""

    choices: tuple[tuple[Scalar, bool], ...]
    published: Scalar
    row: Scalar


class _Prover:
    """Compares a loss with terms; a pair of derivatives it has seen it does not compare again."""

    def __init__(self, loss: Loss, terms: Terms) -> None:
        self._loss = loss
        self._terms = terms
        self._unknowns = _Unknowns()
        self._functions: dict[Scalar, tuple[list[Scalar], Callable[..., Any]]] = {}
        self._seen: dict[tuple[Scalar, Scalar], tuple[int, _Cell | None]] = {}

    def verify(self, pattern: Pattern) -> tuple[int, str | None]:
        """The number of cells of a pattern's tokens, and the first counterexample."""
        samples, ops, cells = _symbolic_samples(pattern), SymbolicOps(), 0
        loss = exact(self._loss(samples, ops))
        rows = Rows(samples, _MAX_LENGTH, ops)
        tagged = ChainMap(*(self._unknowns.of(s, f"_{i}") for i, s in enumerate(samples)))
        for i, sample in enumerate(samples):
            # A trajectory's own symbols have no tag, so that equal derivatives look equal.
            meaning = {**tagged, **self._unknowns.of(sample, "")}
            for t, logp in enumerate(sample.logp):
                published = ops.attach(loss.diff(logp)).xreplace(meaning)
                row = sympy.sympify(-_weight(self._terms, rows, i, t)).xreplace(meaning)
                if (published, row) not in self._seen:
                    self._seen[published, row] = self._compare(published, row)
                found, cell = self._seen[published, row]
                cells += found
                if cell:
                    return cells, _where(pattern, samples, i, t) + self._describe(cell)
        return cells, None

    def _compare(self, published: Scalar, row: Scalar) -> tuple[int, _Cell | None]:
        """The number of cells, and of those in which the two sides differ the simplest one."""
        cells = self._cells(published, row)
        if not cells:
            raise RuntimeError("no point lies inside a cell, so nothing would be compared")
        differing = [cell for cell in cells if not _vanishes(cell.published - cell.row)]
        return len(cells), min(differing, key=lambda cell: len(cell.choices), default=None)

    def _cells(self, published: Scalar, row: Scalar) -> list[_Cell]:
        cells: dict[tuple[tuple[Scalar, bool], ...], _Cell] = {}
        for point in self._unknowns.points(published.atoms(Where) | row.atoms(Where)):
            made: dict[Scalar, bool] = {}
            try:
                sides = [self._choose(side, point, made) for side in (published, row)]
            except _Border:
                continue
            choices = tuple(made.items())
            cells.setdefault(choices, _Cell(choices, *sides))
        return list(cells.values())

    def _choose(self, x: Scalar, point: _Point, made: dict[Scalar, bool]) -> Scalar:
        """The expression x as it is around a point; the choices it takes are noted in ``made``."""
        if not x.has(Where):
            return x
        if not isinstance(x, Where):
            return x.func(*(self._choose(part, point, made) for part in x.args))
        gap = self._choose(x.args[0], point, made)
        if gap not in made and not gap.is_number:
            made[gap] = self._positive(gap, point)
        positive = made[gap] if gap in made else bool(gap > 0)
        return self._choose(x.args[1 if positive else 2], point, made)

    def _positive(self, gap: Scalar, point: _Point) -> bool:
        """Whether gap > 0, from 30 digits; a gap that is 0 everywhere is not."""
        if gap not in self._functions:
            symbols = sorted(gap.free_symbols, key=str)
            self._functions[gap] = symbols, sympy.lambdify(symbols, gap, "mpmath")
        symbols, function = self._functions[gap]
        with mpmath.workdps(30):
            value = function(*(mpmath.mpf(point[s].p) / point[s].q for s in symbols))
        if abs(value) < 1e-20 and not _vanishes(gap):
            raise _Border
        return bool(value > 0)

    def _describe(self, cell: _Cell) -> str:
        """Where and what: r0 is π_θ/π_θold of token 0, pi0 a demonstration's π_θ."""
        readable = self._unknowns.readable
        made = dict.fromkeys(_condition(readable(gap), yes) for gap, yes in cell.choices)
        conditions = " and ".join(condition for condition in made if condition)
        where = f", where {conditions}" if conditions else ""
        published, row = (sympy.factor_terms(readable(x)) for x in (cell.published, cell.row))
        return f"{where}, the published loss has dL/dl = {published}, the row has -w = {row}"


def _vanishes(x: Scalar) -> bool:
    """Whether x is 0, by algebra; a number shows quickly where it is not."""
    x = sympy.expand(x)
    somewhere = {
        s: sympy.Rational(k + 3, k + 7) for k, s in enumerate(sorted(x.free_symbols, key=str))
    }
    if abs(x.xreplace(somewhere).evalf(30)) > 1e-15:
        return False
    for simpler in (sympy.cancel, sympy.simplify):
        if x == 0:
            return True
        x = simpler(x)
    return bool(x == 0)


def _condition(gap: Scalar, positive: bool) -> str:
    """A choice as an inequality, such as r0 > 5; empty if it is none."""
    symbols = gap.free_symbols
    factor, rest = sympy.factor(gap).as_independent(*symbols, as_Add=False)
    constant, varying = rest.as_independent(*symbols, as_Add=True)
    scale, left = varying.as_coeff_Mul()
    right = -constant / scale
    condition = left > right if positive == (factor * scale > 0) else left < right
    return "" if condition == sympy.true else str(condition)


def _where(pattern: Pattern, samples: Sequence[Sample], i: int, t: int) -> str:
    """Which token of which batch, in words."""
    batch = "; ".join(
        f"question {q}: rollouts [{', '.join(rollouts)}], demonstrations [{', '.join(demos)}]"
        for q, (rollouts, demos) in enumerate(pattern)
    )
    kind = "demonstration" if samples[i].demonstration else "rollout"
    return (
        f"with rewards of {batch}: token {t} (of {len(samples[i].logp)}) of question "
        f"{samples[i].question}'s {kind} with R = {samples[i].reward}"
    )
