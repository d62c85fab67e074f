"""``data: {kind: reasoning_gym}``: from a configuration to a data set."""

from __future__ import annotations

import re
from typing import Any

import pytest

from upge import UpgeError
from upge.common.optional import available

if not available("reasoning_gym") or not available("pydantic"):
    pytest.skip("reasoning_gym or pydantic is not installed", allow_module_level=True)

from upge.common.config import build
from upge.tasks.dataset import Dataset
from upge.training.config import RunConfig
from upge.training.data import load_dataset

SFT = {"algorithm": "sft", "steps": 1, "lr": 1e-3}


def config(algorithm: str = "sft", **data: Any) -> RunConfig:
    given = {"kind": "reasoning_gym", "train": {"gsm_symbolic": {"size": 20}}, "held_out": 4}
    stage = SFT | {"algorithm": algorithm}
    return build({"name": "run", "stages": [stage], "data": given | data}, RunConfig)


def dataset(algorithm: str = "sft", **data: Any) -> Dataset:
    return load_dataset(config(algorithm, **data))


def test_sets_become_training_validation_and_suites() -> None:
    found = dataset(
        train={"word_problems": {"size": 27}, "chain_sum": {"size": 5}},
        validation={"word_problems": {"size": 9, "parts": ["bare"]}},
        test={
            "new templates": {"dataset": "word_problems", "parts": ["unseen"], "size": 9},
            "short": {"dataset": "chain_sum", "max_terms": 2, "size": 3},
        },
        unseen=["new templates"],
    )
    assert [p.family.split()[0] for p in found.train] == [
        *["worked"] * 18,
        *["bare"] * 9,
        *["chain_sum"] * 5,
    ]
    assert {p.split for p in found.train} == {"train"}
    assert [p.split for p in found.validation] == ["validation"] * 9
    assert {name: len(suite) for name, suite in found.tests.items()} == {
        "new templates": 9,
        "short": 3,
    }
    assert found.unseen == {"new templates"}
    assert all(p.prompt.count("+") + p.prompt.count("-") == 1 for p in found.tests["short"])
    with_solution = [bool(p.demonstration) for p in found.train]
    assert with_solution == [True] * 27 + [False] * 5


def test_demonstrations_end_in_what_the_verifier_reads() -> None:
    found = dataset(marker="Answer:", prompt="Q: {problem}\nA: ")
    assert all(p.prompt.startswith("Q: ") and p.prompt.endswith("\nA: ") for p in found.train)
    texts = [str(p.demonstration) for p in found.train]
    assert all(re.search(r"\nAnswer: \S+$", text) for text in texts)
    assert found.verifier(texts, found.train) == [1.0] * len(texts)


def test_problems_are_held_out_where_no_set_is_named() -> None:
    found = dataset()
    assert (len(found.train), len(found.validation)) == (16, 4)
    assert not {p.prompt for p in found.train} & {p.prompt for p in found.validation}
    assert found.verifier([f"#### {p.answer}" for p in found.validation], found.validation)


def test_training_problems_that_are_tested_on_are_dropped_and_counted() -> None:
    found = dataset(
        train={"gsm_symbolic": {"size": 20, "seed": 5}},
        validation={"gsm_symbolic": {"size": 6, "seed": 5}},
        test={"gsm_symbolic": {"size": 10, "seed": 5}},
    )
    assert len(found.train) == 10
    assert found.omissions == (
        "dropped from the training problems: 10 × the same as one that is validated or tested on"
    )


def test_a_solution_that_is_wrong_is_no_demonstration() -> None:
    # Negative ages, of which gsm_symbolic's grader reads no sign.
    found = dataset(train={"gsm_symbolic": {"size": 1500, "seed": 3}})
    negative = [p for p in found.train if p.answer.startswith("-")]
    assert negative and not any(p.demonstration for p in negative)
    assert "demonstration that the verifier grades as wrong" in found.omissions


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"train": {"chain_sum": {"size": 90}}},
            "data.train: sft learns from demonstrations, but chain_sum has no worked solutions; "
            "take gsm_symbolic",
        ),
        (
            {"train": {"chain_sums": {"size": 9}}},
            "unknown data set of reasoning-gym 'chain_sums'; did you mean 'chain_sum'",
        ),
        ({"train": {"g": {"dataset": "gsm_symbolic", "sise": 9}}}, "unknown key of gsm_symbolic"),
        (
            {
                "train": {"gsm_symbolic": {"size": 5, "seed": 1}},
                "validation": {"gsm_symbolic": {"size": 5, "seed": 1}},
            },
            "data.train: all of its problems are validated or tested on too; take more",
        ),
        ({"marker": " "}, "marker: got ' ', wanted a visible text"),
        ({"prompt": "{question}"}, "data: a template is wrong"),
    ],
)
def test_what_can_be_no_data_set(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UpgeError, match=re.escape(message)):
        dataset(**data)


def test_without_demonstrations_no_solutions_are_needed() -> None:
    found = dataset("grpo", train={"chain_sum": {"size": 10}})
    assert len(found.train) == 6


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"train": {}}, "data.train"),
        ({"unseen": ["chain_sum"]}, "unseen: got 'chain_sum', wanted some of the suites of test"),
        ({"tests": {}}, "unknown key 'data.tests'; did you mean 'data.test'"),
    ],
)
def test_configurations_that_make_no_sense(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UpgeError, match=re.escape(message)):
        config(**data)


def test_the_key_depends_on_every_field_of_a_set() -> None:
    one, other = ({"gsm_symbolic": {"size": 20, "seed": seed}} for seed in (1, 2))
    assert config(train=one).key == config(train=one).key != config(train=other).key
