"""Metrics against exact enumeration; responses through sampling, grading and Parquet."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from upge import UpgeError
from upge.evaluation import responses as responses_module
from upge.evaluation.folder import COLUMNS, schema
from upge.evaluation.metrics import (
    Rule,
    avg_at_k,
    exclusive_solves,
    mean_by,
    pass_at_k,
    pass_at_k_of_counts,
    powers_of_two,
    solved,
)
from upge.evaluation.responses import Responses, respond, respond_suites
from upge.models.tiny import build_model, build_tokenizer
from upge.rollouts import CachedSampler, Rollouts, Sampling
from upge.tasks.problem import Problem
from upge.tasks.verifier import MarkedAnswer

RULES: tuple[Rule, ...] = ("majority", "any", "all")


def row(correct: int, n: int) -> list[float]:
    return [1.0] * correct + [0.0] * (n - correct)


@st.composite
def reward_tables(draw: st.DrawFn) -> torch.Tensor:
    n = draw(st.integers(1, 12))
    rows = draw(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n), min_size=1))
    return torch.tensor(rows)


# ----------------------------------------------------------------------------------------- metrics


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_draws_with_a_success(n: int) -> None:
    """Every draw of k responses is written out."""
    for correct in range(n + 1):
        rewards = row(correct, n)
        for k in range(1, n + 1):
            draws = list(combinations(rewards, k))
            exact = Fraction(sum(any(drawn) for drawn in draws), len(draws))
            found = pass_at_k(torch.tensor([rewards]), [k]).item()
            assert found == pytest.approx(float(exact), rel=1e-14, abs=0)


@pytest.mark.parametrize("correct", [0, 1, 2, 37, 1024, 2000, 2047, 2048])
def test_pass_at_k_of_2048_responses(correct: int) -> None:
    """Against whole numbers of hundreds of digits."""
    n, ks = 2048, [1, 2, 64, 1024, 2047, 2048]
    found = pass_at_k(torch.tensor([row(correct, n)]), ks)[0].tolist()
    for value, k in zip(found, ks, strict=True):
        exact = 1 - Fraction(comb(n - correct, k), comb(n, k))
        assert value == pytest.approx(float(exact), rel=1e-13, abs=0)


def test_pass_at_k_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0]])
    found = pass_at_k(rewards, [4, 1, 2])
    wanted = [[1, 1 / 4, 1 / 2], [0, 0, 0], [1, 1 / 2, 5 / 6]]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-14, atol=0)
    assert avg_at_k(rewards).tolist() == [0.25, 0.0, 0.5]


@given(reward_tables(), st.randoms(use_true_random=False))
def test_properties_of_pass_at_k(rewards: torch.Tensor, random: Any) -> None:
    n = rewards.shape[1]
    found = pass_at_k(rewards, range(1, n + 1))
    assert ((found >= 0) & (found <= 1)).all()
    assert (found.diff(dim=1) >= -1e-15).all()
    torch.testing.assert_close(found[:, 0], avg_at_k(rewards), rtol=1e-14, atol=0)
    assert torch.equal(found[:, -1], (rewards > 0).any(1).double())
    order = random.sample(range(n), n)
    assert torch.equal(pass_at_k(rewards[:, order], range(1, n + 1)), found)


@pytest.mark.parametrize("k", [0, -1, 4])
def test_a_k_that_no_responses_give(k: int) -> None:
    with pytest.raises(UpgeError, match=f"k: got {k} with 3 responses a problem, wanted 1 to 3"):
        pass_at_k(torch.ones(2, 3), [1, k])


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3,)])
def test_rewards_of_nothing(shape: tuple[int, ...]) -> None:
    rewards = torch.zeros(shape)
    for metric in (avg_at_k, solved, lambda r: pass_at_k(r, [1]), lambda r: exclusive_solves(r, r)):
        with pytest.raises(UpgeError, match=r"rewards: got shape .* at least one"):
            metric(rewards)


def test_doublings() -> None:
    assert [powers_of_two(n) for n in (1, 2, 3, 8, 9)] == [
        [1],
        [1, 2],
        [1, 2],
        [1, 2, 4, 8],
        [1, 2, 4, 8],
    ]


def test_means_by_label() -> None:
    found = mean_by(torch.tensor([1.0, 0.0, 0.5, 1.0]), ["b", "a", "b", "b"])
    assert {label: value.item() for label, value in found.items()} == {
        "b": pytest.approx(2.5 / 3),
        "a": 0.0,
    }
    assert list(found) == ["b", "a"]
    table = mean_by(torch.tensor([[1.0, 0.0], [0.0, 0.5]]), [3, 3])
    assert table[3].tolist() == [0.5, 0.25]


def test_labels_that_do_not_fit() -> None:
    for values, labels in ((torch.ones(2), ["a"]), (torch.ones(0), [])):
        with pytest.raises(UpgeError, match="labels: got"):
            mean_by(values, labels)


def test_when_a_problem_is_solved() -> None:
    rewards = torch.tensor([row(c, 4) for c in range(5)])
    assert solved(rewards, "any").tolist() == [False, True, True, True, True]
    assert solved(rewards).tolist() == [False, False, False, True, True]  # half is no majority
    assert solved(rewards, "all").tolist() == [False, False, False, False, True]
    with pytest.raises(UpgeError, match="unknown rule 'mayority'; did you mean 'majority'"):
        solved(rewards, "mayority")  # type: ignore[arg-type]


@given(reward_tables())
def test_one_response_needs_no_rule(rewards: torch.Tensor) -> None:
    one = rewards[:, :1]
    assert all(torch.equal(solved(one, rule), one.bool().flatten()) for rule in RULES)
    assert (solved(rewards, "all") <= solved(rewards)).all()
    assert (solved(rewards) <= solved(rewards, "any")).all()


def test_exclusive_solves_by_hand() -> None:
    first = torch.tensor([[1.0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]])
    second = torch.tensor([[0.0], [1], [1], [0]])
    found = exclusive_solves(first, second)
    assert found.first.tolist() == [True, False, False, False]
    assert found.second.tolist() == [False, True, False, False]
    assert exclusive_solves(first, second, "any").second.tolist() == [False] * 4
    with pytest.raises(UpgeError, match="got 4 and 3 problems"):
        exclusive_solves(first, second[:3])


@given(reward_tables(), st.sampled_from(RULES))
def test_exclusive_solves_mirror_each_other(rewards: torch.Tensor, rule: Rule) -> None:
    there, back = (
        exclusive_solves(rewards, 1 - rewards, rule),
        exclusive_solves(1 - rewards, rewards, rule),
    )
    assert torch.equal(there.first, back.second) and torch.equal(there.second, back.first)
    assert not (there.first & there.second).any()
    gained = int(solved(rewards, rule).sum()) - int(solved(1 - rewards, rule).sum())
    assert int(there.first.sum()) - int(there.second.sum()) == gained


# --------------------------------------------------------------------------------------- responses


TOKENIZER = build_tokenizer("0123456789+=#")
SETTINGS = Sampling(5, 1.0)


class Echo:
    """Answers ``#`` and the prompt's first digit in even responses, the last one in odd ones."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        samples: int,
        settings: Sampling,
        seeds: Sequence[int],
    ) -> Rollouts:
        assert len(seeds) == len(prompts)
        self.calls.append(len(prompts) * samples)
        (mark,) = TOKENIZER.encode("#")
        rows = [[mark, p[-(i % 2)], 1, 0] for p in prompts for i in range(samples)]
        tokens = torch.tensor(rows)
        return Rollouts(tokens, tokens > 0, torch.zeros(tokens.shape), torch.ones(len(rows)).bool())


def problem(prompt: str, answer: str, level: int = 1) -> Problem:
    return Problem(prompt, answer, family="echo", level=level)


PROBLEMS = [problem("123", "1", 2), problem("4", "4"), problem("56", "6"), problem("78", "0", 3)]


def ask(problems: Sequence[Problem], sampler: Any, samples: int = 3, **options: Any) -> Responses:
    given = {"tokenizer": TOKENIZER, "verifier": MarkedAnswer("#"), "settings": SETTINGS, "seed": 0}
    return respond(problems, sampler=sampler, samples=samples, **(given | options))


def test_responses_are_graded_in_the_order_of_the_problems() -> None:
    found = ask(PROBLEMS, Echo())
    assert found.texts == [["#1", "#3", "#1"], ["#4"] * 3, ["#5", "#6", "#5"], ["#7", "#8", "#7"]]
    assert found.rewards.tolist() == [[1, 0, 1], [1, 1, 1], [0, 1, 0], [0, 0, 0]]
    assert found.lengths.tolist() == [[3] * 3] * 4


@pytest.mark.parametrize(("bound", "block"), [(12, 64), (6, 64), (3, 3), (4, 2), (1, 1)])
def test_rows_in_flight_are_bounded(
    monkeypatch: pytest.MonkeyPatch, bound: int, block: int
) -> None:
    whole = ask(PROBLEMS, Echo(), samples=6)
    monkeypatch.setattr(responses_module, "_IN_FLIGHT", bound)
    monkeypatch.setattr(responses_module, "BLOCK", block)
    echo, seen = Echo(), list[int]()
    if block % 2 == 0:
        found = ask(PROBLEMS, echo, samples=6, progress=seen.append)
        assert found.texts == whole.texts and torch.equal(found.rewards, whole.rewards)
    else:
        ask(PROBLEMS, echo, samples=6, progress=seen.append)
    assert max(echo.calls) <= bound and sum(echo.calls) == 24 and seen == echo.calls


def test_a_problem_hangs_on_nothing_but_itself() -> None:
    """Alone, in its suite or with another one, sampled by a real model, in one block or more."""
    model = build_model(len(TOKENIZER), 16, 1, 2, seed=3).eval()
    sampler = CachedSampler(model, TOKENIZER.eos_token_id)
    whole = ask(PROBLEMS, sampler, samples=70)
    assert len({tuple(texts) for texts in whole.texts}) == len(PROBLEMS)
    assert whole.texts[0][:6] != whole.texts[0][64:]  # each block has its own seed
    assert ask(PROBLEMS[2:3], sampler, samples=70).texts == whole.texts[2:3]
    assert ask(PROBLEMS, sampler, samples=70, seed=1).texts != whole.texts
    options = {"tokenizer": TOKENIZER, "verifier": MarkedAnswer("#"), "settings": SETTINGS}
    suites = {"b": PROBLEMS[:1], "a": PROBLEMS[1:]}
    parts = respond_suites(suites, sampler=sampler, samples=70, seed=0, **options)
    assert list(parts) == ["b", "a"]
    assert [*parts["b"].texts, *parts["a"].texts] == whole.texts
    assert torch.equal(torch.cat([p.rewards for p in parts.values()]), whole.rewards)
    assert torch.equal(torch.cat([p.lengths for p in parts.values()]), whole.lengths)
    assert [part.problems for part in parts.values()] == list(suites.values())


def test_suites_share_batches() -> None:
    echo = Echo()
    options = {"tokenizer": TOKENIZER, "verifier": MarkedAnswer("#"), "settings": SETTINGS}
    respond_suites({"a": PROBLEMS, "b": PROBLEMS}, sampler=echo, samples=4, seed=0, **options)
    assert echo.calls == [32]


def test_probabilities_that_a_backend_does_not_know() -> None:
    """After top-p they aren't the policy's; without it, none at all is a broken policy."""

    class Silent(Echo):
        def __call__(self, *request: Any) -> Rollouts:
            rollouts = super().__call__(*request)
            return rollouts._replace(logp=torch.full_like(rollouts.logp, float("nan")))

    found = ask(PROBLEMS, Silent(), settings=Sampling(5, 1.0, 0.95))
    assert found.texts == ask(PROBLEMS, Echo()).texts
    with pytest.raises(UpgeError, match="no finite probability"):
        ask(PROBLEMS, Silent())


def test_problems_that_cannot_be_asked() -> None:
    with pytest.raises(UpgeError, match="there are no problems"):
        ask([], Echo())
    with pytest.raises(UpgeError, match="the model's tokenizer can't encode 'what'"):
        ask([*PROBLEMS, problem("what", "1")], Echo())


def test_responses_are_kept(tmp_path: Path) -> None:
    found = ask([*PROBLEMS, PROBLEMS[0]], Echo())
    path = tmp_path / "deep" / "echo.parquet"
    found.save(path)
    loaded = Responses.load(path)
    assert loaded.problems == found.problems and loaded.texts == found.texts
    assert torch.equal(loaded.rewards, found.rewards) and loaded.rewards.dtype == torch.float64
    assert torch.equal(loaded.lengths, found.lengths)
    assert [p.name for p in path.parent.iterdir()] == ["echo.parquet"]


def test_a_file_is_as_an_evaluation_s_and_one_of_before_is_read_too(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    found, path = ask(PROBLEMS, Echo()), tmp_path / "letters.parquet"
    found.save(path)
    kept = parquet.read_table(path)
    lacking = {"finished", "verdict"}
    assert kept.column_names == [name for name in COLUMNS if name not in lacking]
    assert kept.schema == schema(kept.column_names)
    rows = kept.to_pydict()
    assert set(rows["suite"]) == {"letters"} and set(rows["family"]) == {"echo"}
    before = {name: own for name, own in rows.items() if name != "family"}
    parquet.write_table(pyarrow.table(before | {"suite": rows["family"]}), path)
    assert Responses.load(path).problems == found.problems


def test_files_that_hold_no_responses(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    bad, other, empty, cut = (tmp_path / name for name in ("bad", "other", "empty", "cut"))
    bad.write_bytes(b"no Parquet")
    parquet.write_table(pyarrow.table({"x": [1]}), other)
    ask(PROBLEMS, Echo()).save(empty)
    whole = parquet.read_table(empty)
    parquet.write_table(whole.slice(0, 0), empty)
    parquet.write_table(whole.slice(0, 5), cut)
    for path in (tmp_path / "nowhere", bad, other, empty, cut):
        with pytest.raises(UpgeError, match=rf"^{path}: can't be read as responses"):
            Responses.load(path)


def test_pass_at_k_of_counts_is_that_of_any_responses_so_many_of_which_are_right() -> None:
    rewards = torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
    found = pass_at_k_of_counts(torch.tensor([2, 0, 4]), 4, [1, 3])
    assert torch.equal(found, pass_at_k(rewards, [1, 3]))
    with pytest.raises(UpgeError, match="got 5 of 4 responses"):
        pass_at_k_of_counts(torch.tensor([5]), 4, [1])
