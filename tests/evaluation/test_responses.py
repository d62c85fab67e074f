"""Responses through sampling, grading and Parquet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from upge import UpgeError
from upge.evaluation import run as run_module
from upge.evaluation.responses import COLUMNS, Response, Responses, read_table, schema, write_table
from upge.evaluation.run import respond, respond_suites
from upge.models.tiny import build_model, build_tokenizer
from upge.rollouts import CachedSampler, Rollouts, Sampling
from upge.tasks.grading import Verdict
from upge.tasks.problem import Problem
from upge.tasks.verifier import MarkedAnswer

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
    assert {response.tokens for own in found.answers for response in own} == {3}
    verdicts = [response.verdict for own in found.answers for response in own]
    assert verdicts == ["right" if r else "wrong" for r in found.rewards.flatten().tolist()]


@pytest.mark.parametrize(("bound", "block"), [(12, 64), (6, 64), (3, 3), (4, 2), (1, 1)])
def test_rows_in_flight_are_bounded(
    monkeypatch: pytest.MonkeyPatch, bound: int, block: int
) -> None:
    whole = ask(PROBLEMS, Echo(), samples=6)
    monkeypatch.setattr(run_module, "_IN_FLIGHT", bound)
    monkeypatch.setattr(run_module, "BLOCK", block)
    echo = Echo()
    found = ask(PROBLEMS, echo, samples=6)
    if block % 2 == 0:  # whose responses take turns
        assert found.texts == whole.texts and torch.equal(found.rewards, whole.rewards)
    assert max(echo.calls) <= bound and sum(echo.calls) == 24


def test_a_problem_depends_on_nothing_but_itself() -> None:
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
    assert [own for part in parts.values() for own in part.answers] == whole.answers
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
    assert loaded.answers == found.answers
    assert [p.name for p in path.parent.iterdir()] == ["echo.parquet"]


@pytest.mark.parametrize("world", [2, 3, 9])
def test_processes_share_the_problems(world: int) -> None:
    """Each of them samples its share, and each has all responses in the end, in their order."""
    model = build_model(len(TOKENIZER), 16, 1, 2, seed=3).eval()
    sampler = CachedSampler(model, TOKENIZER.eos_token_id)
    options: dict[str, Any] = {"tokenizer": TOKENIZER, "verifier": MarkedAnswer("#"), "seed": 0}
    options |= {"settings": SETTINGS, "sampler": sampler, "samples": 3, "world": world}
    suites = {"b": PROBLEMS[:1], "a": PROBLEMS[1:]}
    shares: list[Any] = []
    for rank in range(world):  # a first time, to know the shares

        def note(own: Any) -> list[Any]:
            shares.append(own)
            return [own]

        with pytest.raises(StopIteration):
            respond_suites(suites, rank=rank, gather=note, **options)
    assert sorted(place for share in shares for place in share) == [0, 1, 2, 3]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    whole = respond_suites(suites, **options | {"world": 1})
    for rank in range(world):
        found = respond_suites(suites, rank=rank, gather=lambda own: shares, **options)
        assert {name: own.answers for name, own in found.items()} == {
            name: own.answers for name, own in whole.items()
        }


def test_the_verifier_s_own_verdicts_are_kept() -> None:
    class Judging:
        def __call__(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[float]:
            raise AssertionError("its verdicts say as much")

        def judge(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
            return [Verdict.RIGHT if "1" in text else Verdict.REFUSED for text in responses]

    found = ask(PROBLEMS, Echo(), verifier=Judging())
    graded = {(r.text, r.reward, r.verdict) for own in found.answers for r in own}
    assert ("#1", 1.0, "right") in graded and ("#4", 0.0, "refused") in graded


def test_files_that_hold_no_responses(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    bad, other, empty, cut = (tmp_path / name for name in ("bad", "other", "empty", "cut"))
    bad.write_bytes(b"no Parquet")
    parquet.write_table(pyarrow.table({"x": [1]}), other)
    ask(PROBLEMS, Echo()).save(empty)
    whole = parquet.read_table(empty)
    parquet.write_table(whole.slice(0, 0), empty)
    cut.write_bytes(empty.read_bytes()[:-9])
    for path in (tmp_path / "nowhere", bad, other, empty, cut):
        with pytest.raises(UpgeError, match=rf"^{path}: can't be read as responses"):
            Responses.load(path)


def of(*rewards: Sequence[float]) -> Responses:
    problems = [problem(f"{i}+", "1") for i in range(len(rewards))]
    return Responses(
        problems,
        [[Response(f"#{i}", r, 2, True, "right") for i, r in enumerate(own)] for own in rewards],
    )


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("reward", None, "reward is null, wanted a number from 0 to 1"),
        ("reward", float("nan"), "reward is nan, wanted a number from 0 to 1"),
        ("reward", -1.0, r"reward is -1\.0, wanted a number from 0 to 1"),
        ("verdict", None, "verdict is null, wanted a value"),
        ("sample", None, "sample is null"),
    ],
)
def test_values_that_are_none_are_named_by_file_and_row(
    tmp_path: Path, name: str, value: Any, sentence: str
) -> None:
    table = of([1.0, 0.0], [1.0]).table("s")
    values = table[name].to_pylist()
    values[1] = value
    place = table.column_names.index(name)
    changed = table.set_column(place, table.schema.field(name), [values])
    write_table(tmp_path / "s.parquet", changed)
    with pytest.raises(UpgeError, match=rf"s\.parquet, row 2: {sentence}"):
        Responses.load(tmp_path / "s.parquet")


def test_a_file_has_the_columns_of_its_description(tmp_path: Path) -> None:
    whole = of([1.0, 0.0], [1.0])
    whole.save(tmp_path / "letters.parquet")
    table = read_table(tmp_path / "letters.parquet")
    assert table.column_names == list(COLUMNS) and table.schema == schema()
    assert set(table["suite"].to_pylist()) == {"letters"}
    assert table["problem"].to_pylist() == [0, 0, 1] and table["sample"].to_pylist() == [0, 1, 0]
    assert Responses.load(tmp_path / "letters.parquet").answers == whole.answers


@pytest.mark.slow
@settings(suppress_health_check=list(HealthCheck), max_examples=300)
@given(st.data())
def test_a_damaged_file_is_never_read_as_other_responses(tmp_path: Path, data: Any) -> None:
    """Bytes changed, cut or put in anywhere: a sentence, or the responses that were written."""
    whole, path = of([1.0, 0.0, 0.0], [0.0, 1.0]), tmp_path / "s.parquet"
    whole.save(path)
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(start + 9, len(content))))
    path.write_bytes(content[:start] + data.draw(st.binary(max_size=9)) + content[end:])
    try:
        found = Responses.load(path)
    except UpgeError as error:
        assert str(path) in str(error)
    else:
        assert (found.answers, found.problems) == (whole.answers, whole.problems)
