"""What a callable may take and return, and what it may do wrong: one sentence each."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from upge.common.errors import UpgeError
from upge.testing import assert_laws, check
from upge.testing.target import load


def token_mean(logprobs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    return -torch.where(mask.bool(), logprobs * advantages, 0.0).sum() / mask.sum().clamp(min=1)


def name_of(loss: Any, **arguments: Any) -> str:
    report = check(loss, laws=(), **arguments)
    assert report.match is not None, report.text()
    return report.match.text


class Module(nn.Module):
    def forward(self, logprobs: Tensor, advantages: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"entropy": torch.zeros(()), "loss": token_mean(logprobs, advantages, mask)}


def test_forms_of_one_loss_are_one() -> None:
    plain = name_of(token_mean)
    assert name_of(Module) == name_of(Module()) == plain
    assert name_of(lambda log_probs, adv, mask: (token_mean(log_probs, adv, mask), {})) == plain
    assert name_of(torch.compile(token_mean, backend="eager")) == plain
    positional = eval(
        "lambda logprobs, advantages, mask, /: f(logprobs, advantages, mask)", {"f": token_mean}
    )
    assert name_of(positional) == plain
    assert not check(token_mean, laws=()).notes  # float64 throughout


def test_log_probabilities_from_logits_and_from_a_model() -> None:
    def of_logits(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        logp = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        return -torch.where(mask.bool(), logp, 0.0).sum() / mask.sum().clamp(min=1)

    def of_shifted(logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
        )

    def of_a_model(model: Any, input_ids: Tensor, labels: Tensor) -> Tensor:
        return of_shifted(model(input_ids=input_ids).logits, labels)

    assert name_of(of_logits) == name_of(of_shifted) == "sft"
    assert (
        name_of(
            lambda model, inputs: of_shifted(
                model(input_ids=inputs["input_ids"]).logits, inputs["labels"]
            )
        )
        == "sft"
    )


def test_names_and_constants_that_are_given() -> None:
    def odd(a: Tensor, b: Tensor, m: Tensor, scale: float) -> Tensor:
        return scale * token_mean(a, b, m)

    with pytest.raises(UpgeError, match=r"under the name of its parameter 'a'; .*--arg a=QUANTITY"):
        check(odd)
    given = {"a": "logp", "b": "advantage", "m": "mask", "scale": 2.0}
    report = check(odd, arguments=given, laws=())
    assert report.match is not None and report.match.factor == pytest.approx(2.0)
    with pytest.raises(UpgeError, match="has no parameter 'c'"):
        check(odd, arguments=given | {"c": 1})


def test_an_advantage_function_alone_and_composed() -> None:
    def rloo(rewards: Tensor, group: Tensor) -> Tensor:
        result = torch.zeros_like(rewards)
        for question in group.unique():
            rows = group == question
            n = int(rows.sum())
            if n > 1:
                result[rows] = (rewards[rows] - rewards[rows].mean()) * n / (n - 1)
        return result

    report = check(rloo, claim="rloo", laws=())
    assert report.claim is not None and report.claim.holds
    assert [r.component for r in report.readings] == ["advantage"]
    composed = check(token_mean, advantage=rloo, laws=())
    assert composed.match is not None and composed.match.name == "rloo"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("raise KeyError('gone')", "raised KeyError: 'gone' at .*line 3"),
        ("return None", r"returned nothing \(None\), wanted a tensor"),
        ("return 'loss'", "returned a str, wanted a tensor"),
        ("return logprobs.detach().sum()", "has no gradient with respect to log π_θ"),
        ("return torch.ones(3, 4, 5)", "returned a tensor of shape"),
        ("raise SystemExit(3)", "ends the process"),
        ("return logprobs.sum().to('cuda')", "needs a GPU"),
        ("return logprobs.sum() * float('nan')", "is NaN or infinite on an ordinary batch"),
        ("loss.n = getattr(loss, 'n', 0) + 1; return logprobs.sum() * loss.n", "gives other grad"),
    ],
)
def test_mistakes_are_a_sentence(tmp_path: Path, body: str, sentence: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"import torch\ndef loss(logprobs, advantages, mask):\n    {body}\n")
    found, source = load(f"{file}:loss")
    with pytest.raises(UpgeError, match=sentence):
        check(found, sources=(source, ()))


def test_what_takes_for_ever_is_ended() -> None:
    def endless(logprobs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
        while True:
            time.sleep(0.01)

    with pytest.raises(UpgeError, match=r"took longer than 0\.5 s"):
        check(endless, limit=0.5)


def test_what_it_prints_draws_and_keeps_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    state = torch.get_rng_state()

    def noisy(logprobs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
        print("hello")
        return token_mean(logprobs + 0 * torch.rand(()), advantages, mask)

    report = check(noisy, laws=())
    assert capsys.readouterr().out == ""
    assert torch.equal(torch.get_rng_state(), state)
    assert any("random numbers" in note for note in report.notes)
    assert any("prints" in note for note in report.notes)


def test_other_forms_are_outside_not_misnamed() -> None:
    def dpo(chosen_logps: Tensor, rejected_logps: Tensor) -> Tensor:
        return -nn.functional.logsigmoid(chosen_logps - rejected_logps).mean()

    def value(vpreds: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
        return ((vpreds - returns) ** 2 * mask).sum()

    def whole(logits: Tensor, ref_logits: Tensor) -> Tensor:
        return nn.functional.kl_div(logits.log_softmax(-1), ref_logits.softmax(-1))

    def entropy_of_all(logits: Tensor, labels: Tensor) -> Tensor:
        return logits.logsumexp(-1).sum()

    for loss in (dpo, value, whole, entropy_of_all):
        report = check(loss)
        assert report.outside and report.match is None, report.text()


def test_a_claim_on_a_loss_outside_fails() -> None:
    def unshifted(
        logits: Tensor, labels: Tensor, advantages: Tensor, attention_mask: Tensor
    ) -> Any:
        logp = logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
        return -(logp * advantages[:, None] * attention_mask).sum()

    report = check(unshifted, claim="reinforce")
    assert report.outside and not report.passes
    assert "Claim: it is reinforce: FAILS" in report.text()


def test_a_cause_without_lines_is_said_once() -> None:
    def in_place(logprobs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
        advantages *= 2
        return token_mean(logprobs, advantages, mask)

    text = check(in_place, laws=("inputs_unchanged",)).text()
    assert "it changes advantages in place" in text and "as above" not in text


def test_laws_by_name() -> None:
    assert_laws(token_mean, laws=("padding", "row_order"))
    with pytest.raises(AssertionError, match="divides by the micro-batch's tokens"):
        assert_laws(token_mean)
    with pytest.raises(UpgeError, match="unknown law 'paddings'; did you mean 'padding'"):
        assert_laws(token_mean, laws=("paddings",))
