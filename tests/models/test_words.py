"""The base of word problems: what its pre-training shows, and that it resumes to the same end."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from upge import UpgeError
from upge.common.optional import available

if not available("reasoning_gym") or not available("transformers"):
    pytest.skip("reasoning_gym or transformers is not installed", allow_module_level=True)

from experiments.bases import build, measure, words
from experiments.bases.words import WordsRecipe, batches, build_tokenizer, example, fact, pretrain
from upge.models.bases import CHECKPOINTS, RECORD, base_names
from upge.models.pretrained import load_pretrained
from upge.tasks.encoding import encode
from upge.tasks.verifier import MarkedAnswer
from upge.tasks.word_problems import MARKER, TASKS, TEMPLATES, suite

#: Trained in a second, to no use.
MINUTE = WordsRecipe(
    hidden=16,
    feed_forward=16,
    layers=1,
    heads=2,
    vocabulary=300,
    steps=12,
    batch_tokens=512,
    compiled=False,
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pools, and checkpoints after every few steps."""
    monkeypatch.setattr(words, "_POOL", 16)
    monkeypatch.setattr(words, "_LATEST", 2)
    monkeypatch.setattr(words, "_KEPT", 4)


# -------------------------------------------------------------------------------------------- data


def test_facts_are_true() -> None:
    random = Random(0)
    operators: Counter[str] = Counter()
    for _ in range(3000):
        left, right = fact(random)
        assert left.endswith("=")
        plain = re.sub(r"x(?= ?[\d$£€])", "*", left[:-1])
        kept = "".join(c for c in plain if c in "0123456789.+-*/ ")
        value = eval(kept)  # of our own making: digits and operators alone
        result = "".join(c for c in right if c.isdigit())
        assert value == pytest.approx(int(result), abs=1e-9), left + right
        operators.update(c for c in kept if c in "+-*/")
    assert min(operators[c] for c in "+-*/") > 300


def test_pretraining_sees_neither_unseen_templates_nor_other_splits() -> None:
    random = Random(1)
    recipe = WordsRecipe()
    drawn: list[tuple[str, str]] = []
    real = words.draw

    def draw(part: str, split: Any, random: Random) -> Any:
        drawn.append((part, split))
        return real(part, split, random)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "draw", draw)
        examples = [example(recipe, random) for _ in range(1000)]
    assert {split for _, split in drawn} == {"pretraining"}
    assert {part for part, _ in drawn} == {"worked", "bare", *TASKS}
    parts = Counter(part for part, _ in drawn)
    assert parts["worked"] / 1000 == pytest.approx(recipe.worked, abs=0.05)
    assert parts["bare"] / 1000 == pytest.approx(recipe.bare, abs=0.04)
    assert 1 - len(drawn) / 1000 == pytest.approx(recipe.facts, abs=0.05)
    # None of what is measured or trained on later was shown.
    shown = {parts[0][0] for parts in examples}
    for part in (*TEMPLATES, "chain_sum", "leg_counting"):
        for split in ("train", "validation", "test"):
            assert not shown & {problem.prompt for problem in suite([part], split, 36)}


def test_only_worked_problems_have_solutions() -> None:
    random = Random(2)
    for _ in range(500):
        parts = example(WordsRecipe(), random)
        if len(parts) == 2:
            (question, read), (response, learned) = parts
            assert (read, learned) == (False, True) and question.endswith("\n")
            assert response.count(MARKER) == 1
            bare = response.startswith(f"{MARKER} ")
            assert bare or f"\n{MARKER} " in response


def test_results_and_responses_are_what_is_learned() -> None:
    tokenizer = build_tokenizer(MINUTE)
    for ids, labels in batches(MINUTE, tokenizer, 0):
        assert ids.numel() <= max(MINUTE.batch_tokens, ids.shape[1])
        for row, learned in zip(ids, labels, strict=True):
            text = tokenizer.decode(row[row != tokenizer.pad_token_id])
            taught = tokenizer.decode(row[learned != -100])
            assert (learned[learned != -100] == row[learned != -100]).all()
            assert text.endswith(tokenizer.eos_token) and taught.endswith(tokenizer.eos_token)
            question, _, response = text.removesuffix(tokenizer.eos_token).partition("\n")
            if MARKER not in text:
                results = [line.partition("=")[2] for line in [question, *response.splitlines()]]
                assert taught == "\n".join([*results, tokenizer.eos_token])
            else:
                assert taught in text and MARKER in taught and question not in taught


def test_digits_are_tokens_and_any_text_can_be_encoded() -> None:
    tokenizer = build_tokenizer(MINUTE)
    assert len(tokenizer) == MINUTE.vocabulary
    ids = encode(tokenizer, "1234 + 56 = 1290")
    assert [tokenizer.decode([i]) for i in ids if tokenizer.decode([i]).strip().isdigit()] == list(
        "1234561290"
    )
    for text in ("£5 × 3 = £15\n#### 15", "日本 🎲", "a\tb"):
        assert tokenizer.decode(encode(tokenizer, text)) == text
    # A response begins anew behind its question, as post-training encodes it.
    assert encode(tokenizer, "How many?\n") + encode(tokenizer, "So 2.") == encode(
        tokenizer, "How many?\nSo 2."
    )


# ---------------------------------------------------------------------------------------- training


def weights(model: Any) -> list[torch.Tensor]:
    return [weight.clone() for weight in model.state_dict().values()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_rates_rise_stay_and_fall() -> None:
    recipe = dataclasses.replace(MINUTE, steps=100, warmup=10, decay=0.2)
    rates = [recipe.rate(step) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert rates[9:80] == [1.0] * 71 and recipe.falls_from == 80
    assert rates[80:] == pytest.approx([1 - i / 21 for i in range(1, 21)])
    # Before the fall a longer run has the same.
    longer = dataclasses.replace(recipe, steps=200)
    assert [longer.rate(step) for step in range(1, 81)] == rates[:80]


@pytest.mark.parametrize("stopped_at", [1, 5, 10, 11])
def test_an_interrupted_training_ends_in_the_same_weights(stopped_at: int, tmp_path: Path) -> None:
    def interrupt(step: int, loss: float) -> None:
        if step == stopped_at:
            raise KeyboardInterrupt

    whole, _ = pretrain(MINUTE, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        pretrain(MINUTE, tmp_path / "parts", interrupt)
    steps: list[int] = []
    resumed, _ = pretrain(MINUTE, tmp_path / "parts", lambda step, loss: steps.append(step))
    assert steps[0] == (stopped_at - 1) // 2 * 2 + 1 and steps[-1] == 12
    assert same(weights(whole), weights(resumed))
    assert not whole.training and whole.config._attn_implementation == "sdpa"


def test_an_extended_training_is_one_that_was_that_long(tmp_path: Path) -> None:
    longer = dataclasses.replace(MINUTE, steps=20)
    assert longer.key != MINUTE.key and longer.constant_key == MINUTE.constant_key
    whole, _ = pretrain(longer, tmp_path / "whole")
    pretrain(MINUTE, tmp_path / "parts")
    steps: list[int] = []
    extended, _ = pretrain(longer, tmp_path / "parts", lambda step, loss: steps.append(step))
    # The first fell from step 10 on, which the second knows nothing of.
    assert steps == list(range(MINUTE.falls_from + 1, 21))
    assert same(weights(whole), weights(extended))
    # And the shorter one is still there.
    again, _ = pretrain(MINUTE, tmp_path / "other")
    steps.clear()
    back, _ = pretrain(MINUTE, tmp_path / "parts", lambda step, loss: steps.append(step))
    assert same(weights(again), weights(back)) and len(steps) < 12


def test_another_recipe_takes_no_checkpoint_of_this_one(tmp_path: Path) -> None:
    pretrain(MINUTE, tmp_path)
    steps: list[int] = []
    other = dataclasses.replace(MINUTE, seed=1)
    pretrain(other, tmp_path, lambda step, loss: steps.append(step))
    assert steps == list(range(1, 13))


@pytest.mark.slow
def test_training_learns(tmp_path: Path) -> None:
    losses: list[float] = []
    recipe = dataclasses.replace(MINUTE, hidden=32, steps=60, warmup=10, batch_tokens=2048)
    pretrain(recipe, tmp_path, lambda _, loss: losses.append(loss))
    # At first all 300 tokens are alike, ln 300 = 5.7.
    assert losses[0] == pytest.approx(5.7, abs=0.2) and sum(losses[-10:]) / 10 < 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "steps: got 0, wanted a finite number above 0"),
        ({"facts": 0.8}, "facts, worked, bare: got 1.28 in all"),
        ({"decay": 1.5}, "decay: got 1.5; wanted at most 1"),
    ],
)
def test_recipes_that_make_no_sense(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UpgeError, match=message):
        WordsRecipe(**given)


# ----------------------------------------------------------------------------------------- folders


def test_a_base_is_measured_and_saved_in_half_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[torch.Tensor] = []

    def word_accuracy(model: Any, tokenizer: Any) -> dict[str, dict[str, float]]:
        measured.append(next(model.parameters()).clone())
        return measure.word_accuracy(model, tokenizer, problems=9, samples=2)

    monkeypatch.setattr(build, "word_accuracy", word_accuracy)
    monkeypatch.setattr(measure, "_LONGEST_SOLUTION", 4)
    build.make("words", MINUTE, tmp_path / "words")
    kept = json.loads((tmp_path / "words" / RECORD).read_text(encoding="utf-8"))
    assert kept["key"] == MINUTE.key and build.is_made(tmp_path / "words", MINUTE)
    assert set(kept["accuracy"]) == {*TEMPLATES, *TASKS}
    assert kept["accuracy"]["bare"] == {"pass@1": 0.0, "pass@2": 0.0}
    assert measure.table("words", kept["accuracy"]).row_count == 8
    model, _ = load_pretrained(str(tmp_path / "words"))
    assert model.dtype == torch.float32
    assert torch.equal(next(model.parameters()), measured[0])
    size = (tmp_path / "words" / "model.safetensors").stat().st_size
    assert size < 3 * model.num_parameters()
    assert [path.name for path in tmp_path.glob("words-*")] == [f"words-{MINUTE.constant_key}"]


def test_word_accuracy_is_pass_at_k_of_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    class Oracle:
        """Answers one of two problems right, every second time."""

        def __init__(self, *_: Any) -> None: ...

    def respond(problems: Any, **given: Any) -> Any:
        assert isinstance(given["verifier"], MarkedAnswer) and given["samples"] == 4
        rewards = torch.zeros(len(problems), 4)
        rewards[: len(problems) // 2, :2] = 1
        return type("Graded", (), {"rewards": rewards})

    monkeypatch.setattr(measure, "CachedSampler", Oracle)
    monkeypatch.setattr(measure, "respond", respond)
    tokenizer = type("Tokenizer", (), {"eos_token_id": 1})
    found = measure.word_accuracy(None, tokenizer, problems=18, samples=4)
    assert found == {part: {"pass@1": 0.25, "pass@4": 0.5} for part in (*TEMPLATES, *TASKS)}


# ------------------------------------------------------------------------------- what is committed

committed = pytest.mark.skipif("words" not in base_names(), reason="not committed yet")


@committed
def test_what_is_committed_is_of_the_recipe_and_alive() -> None:
    folder = CHECKPOINTS / "words"
    recipe = build.load_recipe("words")
    assert build.is_made(folder, recipe) and isinstance(recipe, WordsRecipe)
    kept = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    assert "uncommitted" not in kept["provenance"]["commit"]
    model, tokenizer = load_pretrained("words")
    assert model.num_parameters() == kept["parameters"] and len(tokenizer) == recipe.vocabulary
    accuracy = kept["accuracy"]
    assert accuracy["worked"]["pass@1"] > 0.4
    for part in ("bare", "unseen"):
        assert accuracy[part]["pass@1"] < 0.2
        assert accuracy[part]["pass@8"] > 2 * accuracy[part]["pass@1"] > 0.02
