r"""Means over seeds and problems, with intervals, and which differences are more than chance.

A method's accuracy on a suite is the mean m over S seeds (trainings) and P problems of a_sp, the
share of right answers. Both are samples: other seeds and other problems of the same kind would give
another mean. The bootstrap draws

    m* = m  +  Σ_s w_s (a_s· − m) / S · √(S/(S−1)) · √(ν / χ²_ν)  +  Σ_p (v_p − 1) (a_·p − m) / P

where w counts S seeds drawn with replacement, v counts problems drawn with replacement within each
level, which keeps a suite's mix of levels, and ν = S − 1. S is small: resampling alone makes
intervals too narrow by √((S−1)/S), and again by what S seeds leave unknown of their own spread;
the two factors bring both back, so that for normal seeds the interval is Student's. (In simulations
with 2 to 5 seeds the plain bootstrap's 95 % interval covers 61 to 97 %, this one 95 % or more.)
Likewise each level's part is widened by √(n/(n−1)). What seeds and problems do together counts in
both parts, which makes intervals slightly too wide rather than too narrow.

All methods answer the same problems and share v, so that differences are paired; w is drawn for
each method, since a seed means nothing across methods, and ν of a difference is Welch's and
Satterthwaite's: methods may differ in how much seeds matter. Suites share w: averages over suites
keep what a lucky training brings to all of them.

Beside the average stands the interquartile mean over suites (Agarwal et al., arXiv 2108.13264), of
each training its own, then their mean: one easy or one hard suite doesn't move it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from upge.common.errors import UpgeError

#: Bootstrap draws. Holm's first threshold for 13 methods is .05 / 78: about 13 draws of these.
DRAWS = 20_000

#: Quantiles of a 95 % interval, and the level of tests.
TAILS = (0.025, 0.975)
SIGNIFICANCE = 0.05

#: Share of repetitions of a comparison that a detectable difference is found in.
POWER = 0.8

#: Name the random numbers behind χ²: in intervals, and in repetitions.
_CHI_SQUARE, _REPEATED = 2, 3

#: The suite column's values for the mean over a split's suites, and for the mean of its middle
#: half. Two suites have no other middle than their mean.
AVERAGE, MIDDLE = "average", "interquartile mean"
_FEWEST = 3

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean, or a difference of means, and its bootstrapped errors.

    Args:
        mean: over seeds and problems.
        seed_errors: (B,) of the mean over seeds, before the factor with χ².
        problem_errors: (B,) of the mean over problems.
        variance: of the mean, from seeds.
        freedom: ν; 0 for one seed.
        seeds: S; of a difference, of the method that has fewer.
        problems: P.
    """

    mean: float
    seed_errors: Array
    problem_errors: Array
    variance: float
    freedom: float
    seeds: int
    problems: int

    @cached_property
    def draws(self) -> Array:
        """(B,) bootstrapped means."""
        errors = student(self.seed_errors, self.freedom) + self.problem_errors
        return np.asarray(self.mean + errors)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval; for one seed over problems alone."""
        low, high = np.quantile(self.draws, TAILS)
        return float(low), float(high)

    def __sub__(self, other: Estimate) -> Estimate:
        """The paired difference."""
        return Estimate(
            self.mean - other.mean,
            self.seed_errors - other.seed_errors,
            self.problem_errors - other.problem_errors,
            self.variance + other.variance,
            _welch(self, other),
            min(self.seeds, other.seeds),
            self.problems,
        )

    @property
    def p_value(self) -> float:
        """Of "the mean is 0", two-sided; NaN for one seed, which says nothing of its method."""
        if self.seeds < 2:
            return float("nan")
        draws = self.draws
        below, above = (draws <= 0).sum(), (draws >= 0).sum()
        return min(1.0, 2 * float(min(below, above) + 1) / (len(draws) + 1))

    def detectable(self, tests: int = 1) -> float:
        """The least true mean that such a design tells from 0 with probability :data:`POWER`.

        A repetition finds ``mean + error`` and estimates its own spread anew, by √(χ²_ν/ν) more or
        less in what comes from seeds; the mean is told from 0 beyond the critical value times that.

        Args:
            tests: made beside each other. The threshold is Holm's first and strictest, so that
                this many tests find it or a smaller one.

        Returns:
            In the mean's unit; NaN for one seed.
        """
        if self.seeds < 2:
            return float("nan")
        critical = np.quantile(np.abs(self.draws - self.mean), 1 - SIGNIFICANCE / tests)
        errors = self.seed_errors + self.problem_errors
        random = np.random.default_rng([_REPEATED, *_named(self.freedom)])
        anew = random.chisquare(self.freedom, size=len(errors)) / self.freedom
        of_seeds, of_problems = self.seed_errors.var(), self.problem_errors.var()
        total = of_seeds + of_problems
        spread = np.sqrt((of_seeds * anew + of_problems) / total) if total else np.ones(len(errors))
        return float(np.quantile(critical * spread + errors, POWER))


def _welch(a: Estimate, b: Estimate) -> float:
    """Degrees of freedom of a difference (Welch, Biometrika 34, 1947); 0 if either has one seed."""
    if not (a.freedom and b.freedom):
        return 0.0
    total = a.variance + b.variance
    if total == 0:
        return min(a.freedom, b.freedom)
    return total**2 / (a.variance**2 / a.freedom + b.variance**2 / b.freedom)


def student(errors: Array, freedom: float) -> Array:
    """Errors (B, …) of spread 1 that become Student's: by √(ν/χ²_ν), the same for all of a draw."""
    if not freedom:
        return errors
    random = np.random.default_rng([_CHI_SQUARE, *_named(freedom)])
    factor = np.sqrt(freedom / random.chisquare(freedom, size=len(errors)))
    return np.asarray(errors * factor.reshape(-1, *[1] * (errors.ndim - 1)))


def _named(freedom: float) -> bytes:
    """ν as a name of random numbers: six digits, as the others may differ by machine."""
    return np.float64(f"{freedom:.6g}").tobytes()


def seed_errors(values: ArrayLike, name: str, draws: int = DRAWS) -> Array:
    """Bootstrapped errors of means over seeds, of the right spread but not yet Student's.

    Args:
        values: (S, …), a row a seed.
        name: of the method: the same name, the same resampled seeds.
        draws: B.

    Returns:
        (B, …); zeros for a single seed, whose error can't be known.
    """
    values = np.asarray(values, dtype=float)
    count = len(values)
    if count == 1:
        return np.zeros((draws, *values.shape[1:]))
    random = np.random.default_rng([count, *name.encode()])
    weights = random.multinomial(count, np.full(count, 1 / count), size=draws) / count
    widened = np.sqrt(count / (count - 1))
    return np.asarray(np.tensordot(weights, values - _center(values), axes=1) * widened)


def _center(values: Array) -> Array:
    """The mean over the first axis, of equal values exactly, so that no spread is made up."""
    return np.asarray(np.where((values == values[0]).all(0), values[0], values.mean(0)))


def problem_errors(
    values: ArrayLike, strata: Sequence[object], name: str, draws: int = DRAWS
) -> Array:
    """Bootstrapped errors of means over problems, resampled within strata.

    Args:
        values: (M, P), a row a method.
        strata: P labels. Where one has a single problem, problems are drawn from all of them.
        name: of the suite: the same name, the same resampled problems.
        draws: B.

    Returns:
        (B, M).
    """
    values = np.asarray(values, dtype=float)
    random = np.random.default_rng([values.shape[1], *name.encode()])
    codes = pd.factorize(np.asarray(strata))[0]
    if np.bincount(codes).min() < 2:
        codes = np.zeros_like(codes)
    errors = np.zeros((draws, len(values)))
    for code in range(codes.max() + 1):
        own = values[:, codes == code]
        size = own.shape[1]
        counts = random.multinomial(size, np.full(size, 1 / size), size=draws).astype(float)
        widened = np.sqrt(size / max(size - 1, 1))
        for i, row in enumerate(own):  # one by one: a method's numbers don't hang on the others
            errors[:, i] += counts @ (row - _center(row)) * widened
    return np.asarray(errors / values.shape[1])


def estimates(problems: pd.DataFrame, suites: Mapping[str, str]) -> dict[tuple[str, ...], Estimate]:
    """The estimate of every method and suite, and of the means over each split's suites.

    Args:
        problems: ``method, seed, suite, level, prompt, accuracy``, as
            :meth:`analysis.runs.Runs.problems` gives them.
        suites: the split of each suite.

    Returns:
        By ``(method, suite, split)``. The suite of a mean over suites is :data:`AVERAGE`; of that
        over the middle half of at least three suites :data:`MIDDLE`.

    Raises:
        UpgeError: runs that were evaluated on different problems.
    """
    found: dict[tuple[str, ...], Scores] = {}
    for suite, split in suites.items():
        own = problems[problems["suite"] == suite]
        scores = {str(m): _table(frame, suite) for m, frame in own.groupby("method", sort=False)}
        _check_same_problems(scores, suite)
        for method, score in _suite_scores(scores, suite).items():
            found[method, suite, split] = score
    for split in dict.fromkeys(suites.values()):
        names = [suite for suite, own in suites.items() if own == split]
        for method in problems["method"].unique():
            parts = [
                found[method, suite, split] for suite in names if (method, suite, split) in found
            ]
            if len(parts) == len(names):
                found[method, AVERAGE, split] = _average(parts)
            if len(parts) == len(names) >= _FEWEST:
                found[method, MIDDLE, split] = _middle(parts)
    return {key: score.estimate(key[0]) for key, score in found.items()}


def _table(frame: pd.DataFrame, suite: str) -> pd.DataFrame:
    """Seeds by problems (level, prompt)."""
    table = frame.pivot_table(index="seed", columns=["level", "prompt"], values="accuracy")
    if table.isna().any(axis=None):
        raise UpgeError(
            f"{frame['method'].iloc[0]}: its seeds were evaluated on different problems of "
            f"{suite}; delete its runs and make them again"
        )
    return table


def _check_same_problems(scores: Mapping[str, pd.DataFrame], suite: str) -> None:
    for (a, left), (b, right) in zip(
        list(scores.items())[:-1], list(scores.items())[1:], strict=True
    ):
        if not left.columns.equals(right.columns):
            raise UpgeError(
                f"{a} and {b} were evaluated on different problems of {suite}; delete the runs of "
                "one and make them again"
            )


def _suite_scores(scores: Mapping[str, pd.DataFrame], suite: str) -> dict[str, Scores]:
    if not scores:
        return {}
    tables = list(scores.values())
    levels = list(tables[0].columns.get_level_values("level"))
    errors = problem_errors(np.stack([t.to_numpy().mean(0) for t in tables]), levels, suite)
    return {
        method: Scores(table.to_numpy().mean(1), errors[:, i], table.shape[1])
        for i, (method, table) in enumerate(scores.items())
    }


@dataclass(frozen=True)
class Scores:
    """A method's accuracy of each seed, (S,), and errors from problems, (B,), of P problems."""

    by_seed: Array
    problem_errors: Array
    problems: int

    def estimate(self, method: str) -> Estimate:
        """The mean with its errors."""
        seeds = len(self.by_seed)
        spread = self.by_seed - _center(self.by_seed)
        variance = float((spread**2).sum() / max(seeds - 1, 1) / seeds)
        mean, errors = float(self.by_seed.mean()), seed_errors(self.by_seed, method)
        return Estimate(
            mean, errors, self.problem_errors, variance, seeds - 1, seeds, self.problems
        )


def _average(parts: Sequence[Scores]) -> Scores:
    """Over suites."""
    return Scores(
        np.mean([part.by_seed for part in parts], axis=0),
        np.mean([part.problem_errors for part in parts], axis=0),
        sum(part.problems for part in parts),
    )


def _middle(parts: Sequence[Scores]) -> Scores:
    """The interquartile mean over suites, of each seed and of means over resampled problems."""
    by_seed = np.stack([part.by_seed for part in parts])
    means = by_seed.mean(1, keepdims=True)
    moved = means + np.stack([part.problem_errors for part in parts])
    errors = interquartile_mean(moved) - interquartile_mean(means)
    return Scores(interquartile_mean(by_seed), errors, sum(part.problems for part in parts))


def interquartile_mean(values: ArrayLike) -> Array:
    """The mean of the middle half, over the first axis.

    Values at a quarter's border count in part. (``scipy.stats.trim_mean`` rounds quarters down: of
    six values it would keep four.)
    """
    ordered = np.sort(np.asarray(values, dtype=float), axis=0)
    count = len(ordered)
    ranks = np.arange(count)
    inside = np.minimum(ranks + 1, 3 * count / 4) - np.maximum(ranks, count / 4)
    weights = np.clip(inside, 0, None) / (count / 2)
    # One after the other: a product of matrices rounds by machine, and equal columns differently.
    return np.asarray(sum(weight * row for weight, row in zip(weights, ordered, strict=True)))


def within(interval: tuple[float, float]) -> tuple[float, float]:
    """The part of an interval that an accuracy can be in."""
    low, high = np.clip(interval, 0, 1).tolist()
    return low, high


def cells(found: Mapping[tuple[str, ...], Estimate]) -> pd.DataFrame:
    """``method, suite, split, mean, low, high, seeds, problems``; accuracies from 0 to 1."""
    rows = [(*key, e.mean, *within(e.interval), e.seeds, e.problems) for key, e in found.items()]
    names = ["method", "suite", "split", "mean", "low", "high", "seeds", "problems"]
    return pd.DataFrame(rows, columns=names)


def comparisons(found: Mapping[tuple[str, ...], Estimate]) -> pd.DataFrame:
    """Every pair of methods on every suite and average.

    Returns:
        ``suite, split, method, other, difference, low, high, p, p_holm, distinguishable,
        detectable``. The interval is the pair's own; Holm's correction, and what was detectable
        (:meth:`Estimate.detectable`), are for all pairs of the same suite or average.
    """
    rows = []
    for suite, split in dict.fromkeys(key[1:] for key in found):
        methods = [key[0] for key in found if key[1:] == (suite, split)]
        pairs = list(combinations(methods, 2))
        differences = [found[a, suite, split] - found[b, suite, split] for a, b in pairs]
        p_values = [difference.p_value for difference in differences]
        tests = int((~np.isnan(p_values)).sum())
        for (a, b), d, p, holm in zip(
            pairs, differences, p_values, corrected(p_values), strict=True
        ):
            tested = (p, holm, holm < SIGNIFICANCE, d.detectable(tests))
            rows.append((suite, split, a, b, d.mean, *d.interval, *tested))
    names = ["suite", "split", "method", "other", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=[*names, "p", "p_holm", "distinguishable", "detectable"])


def corrected(p_values: Sequence[float]) -> list[float]:
    """Holm's correction (Scand. J. Statist. 6, 1979); NaN stays, and is no comparison."""
    p = np.asarray(p_values, dtype=float)
    order = [i for i in np.argsort(p, kind="stable") if not np.isnan(p[i])]
    adjusted = p.copy()
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1) if order else []
    return [float(x) for x in adjusted]


def verdict(table: pd.DataFrame, a: str, b: str) -> str:
    """``better``, ``worse`` or ``not distinguishable``: a against b, in one suite's comparisons.

    With a single seed nothing was compared: ``not compared``.
    """
    straight = table[(table["method"] == a) & (table["other"] == b)]
    row = (
        straight if len(straight) else table[(table["method"] == b) & (table["other"] == a)]
    ).iloc[0]
    if np.isnan(row["p"]):
        return "not compared"
    if not row["distinguishable"]:
        return "not distinguishable"
    return "better" if (row["difference"] > 0) == bool(len(straight)) else "worse"
