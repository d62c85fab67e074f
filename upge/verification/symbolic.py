"""Table 1 proved: the gradient of every published loss is the gradient of its row.

A loss depends on the parameters θ through l = log π_θ(τ_t) of each token alone, so its gradient is
Σ ∂L/∂l ∇l, and that of a row is −Σ w ∇l (see :mod:`upge.estimator`). The claim that

    ∂L/∂l = −w,   w = Σ over terms of c · α · 1_stable · (π_θ/π_ref) · Â · f'(π_θ) · e^{±H} / Z

is shown here by sympy, for all log-probabilities, critic's values and entropies at once, on small
batches (:data:`PATTERNS`) with rational rewards and options. L is the loss of
:mod:`upge.verification.published`. w is built from the registry's own terms, through a *twin* for
each type of component: the formula of its docstring in scalars, evaluated here over symbols and, by
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
from functools import partial
from itertools import pairwise, product
from typing import Any

import mpmath
import sympy

from upge.algorithms import Algorithm, Terms, Value
from upge.common.errors import UpgeError
from upge.verification.formulas import Rows, weight
from upge.verification.maths import Scalar, SymbolicOps, Where, exact, fraction
from upge.verification.published import Sample, loss_of

Loss = Callable[..., Scalar]
_Point = Mapping[Scalar, Scalar]  #: a number for each symbol

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
    published = loss or loss_of(algorithm.name)
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
            [fraction(x ** (1 / self._lengths[s])) for x in ratios]
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
                row = sympy.sympify(-weight(self._terms, rows, i, t)).xreplace(meaning)
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
