"""Data sets: the supply of demonstrations, and what is held out."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upge import UpgeError
from upge.tasks.dataset import Dataset, split_off, synthetic
from upge.tasks.problem import Problem
from upge.tasks.synthetic import FAMILIES, IN_DISTRIBUTION, LEVELS, OUT_OF_DISTRIBUTION, suite

names = st.lists(st.sampled_from(list(IN_DISTRIBUTION)), min_size=1, unique=True).map(tuple)
levels = st.lists(st.sampled_from(LEVELS), min_size=1, unique=True).map(tuple)


def make(
    problems: int = 90,
    demonstrations: int | None = None,
    families: tuple[str, ...] = tuple(IN_DISTRIBUTION),
    levels: tuple[int, ...] = LEVELS,
    seed: int = 0,
) -> Dataset:
    return synthetic(
        problems=problems,
        demonstrations=demonstrations,
        families=families,
        levels=levels,
        validation=1,
        test=2,
        seed=seed,
    )


def shown(dataset: Dataset) -> set[str]:
    return {p.prompt for p in dataset.train if p.demonstration is not None}


def test_problems_are_spread_evenly() -> None:
    dataset = make(problems=90)
    cells = Counter((p.family, p.level) for p in dataset.train)
    assert cells == {(family, level): 3 for family in IN_DISTRIBUTION for level in LEVELS}
    assert len({p.prompt for p in dataset.train}) == 90
    assert len(shown(dataset)) == 90


@given(problems=st.integers(1, 100))
def test_as_many_problems_as_asked_for(problems: int) -> None:
    assert len(make(problems=problems).train) == problems


def test_each_split_is_its_own() -> None:
    dataset = make()
    assert {p.split for p in dataset.train} == {"train"}
    assert {p.split for p in dataset.validation} == {"validation"}
    assert len(dataset.validation) == len(IN_DISTRIBUTION) * len(LEVELS)
    assert list(dataset.tests) == list(FAMILIES)
    assert dataset.unseen == set(OUT_OF_DISTRIBUTION)
    for family, problems in dataset.tests.items():
        assert problems == suite(family, "test", 2)


@given(few=st.integers(0, 40), more=st.integers(0, 60), seed=st.integers(0, 3))
def test_a_larger_supply_holds_the_smaller(few: int, more: int, seed: int) -> None:
    small, large = make(demonstrations=few, seed=seed), make(demonstrations=few + more, seed=seed)
    assert len(shown(small)) == few and len(shown(large)) == min(few + more, 90)
    assert shown(small) <= shown(large)
    # Only the demonstrations differ.
    assert [p.prompt for p in small.train] == [p.prompt for p in large.train]
    assert small.validation == large.validation and small.tests == large.tests


@given(families=names, levels=levels, count=st.none() | st.integers(0, 100))
def test_demonstrations_cover_what_they_are_asked_to(
    families: tuple[str, ...], levels: tuple[int, ...], count: int | None
) -> None:
    dataset = make(demonstrations=count, families=families, levels=levels)
    covered = {p.prompt for p in dataset.train if p.family in families and p.level in levels}
    assert len(covered) == 3 * len(families) * len(levels)
    assert shown(dataset) <= covered
    assert len(shown(dataset)) == (len(covered) if count is None else min(count, len(covered)))


def test_narrow_and_wide_supplies_train_on_the_same_problems() -> None:
    narrow, wide = make(families=("sum",), levels=(1,)), make()
    assert [(p.prompt, p.answer) for p in narrow.train] == [
        (p.prompt, p.answer) for p in wide.train
    ]


def test_the_seed_decides_which_problems_there_are() -> None:
    assert make(seed=1).train == make(seed=1).train
    assert {p.prompt for p in make(seed=1).train} != {p.prompt for p in make(seed=2).train}
    # Validation and test stay the same, so that runs on different supplies can be compared.
    assert make(seed=1).tests == make(seed=2).tests
    assert make(seed=1).validation == make(seed=2).validation


def test_the_verifier_takes_every_demonstration() -> None:
    dataset = make()
    problems = [
        *dataset.train,
        *dataset.validation,
        *(p for s in dataset.tests.values() for p in s),
    ]
    assert dataset.verifier([str(p.demonstration) for p in problems], problems) == [1.0] * len(
        problems
    )


def test_a_supply_that_cannot_be() -> None:
    with pytest.raises(UpgeError, match="unknown family 'sums'; did you mean 'sum'"):
        make(families=("sum", "sums"))
    with pytest.raises(UpgeError, match="unknown family 'mix'; known: aff, cond"):
        make(families=("mix",))
    with pytest.raises(UpgeError, match="unknown level 6; known: 1, 2, 3, 4, 5"):
        make(levels=(1, 6))
    with pytest.raises(UpgeError, match="level 1, train: got 1000 asked for, but"):
        make(problems=30_000)


# --------------------------------------------------------------------------------------- held out


@given(
    prompts=st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=30),
    count=st.integers(1, 7),
    seed=st.integers(0, 99),
)
def test_what_is_held_out_is_not_trained_on(prompts: list[str], count: int, seed: int) -> None:
    problems = [Problem(prompt, str(i)) for i, prompt in enumerate(prompts)]
    if len(set(prompts)) <= count:
        with pytest.raises(
            UpgeError, match=rf"held_out: got {count}, but there are only \d problem"
        ):
            split_off(problems, count, seed)
        return
    kept, held = split_off(problems, count, seed)
    assert not {p.prompt for p in kept} & {p.prompt for p in held}
    assert len({p.prompt for p in held}) == count
    assert {p.split for p in held} == {"validation"}
    # Nothing is lost, and the order stays.
    assert [p.answer for p in kept] == [p.answer for p in problems if p in kept]
    assert {p.answer for p in kept} | {p.answer for p in held} == {p.answer for p in problems}
    assert (kept, held) == split_off(problems, count, seed)


def test_the_held_out_problems_hang_on_the_seed() -> None:
    problems = [Problem(str(i), "") for i in range(50)]
    assert split_off(problems, 10, seed=0)[1] != split_off(problems, 10, seed=1)[1]
