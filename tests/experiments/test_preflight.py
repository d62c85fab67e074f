"""What a comparison on a GPU refuses before its first run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments import preflight
from experiments.comparison import Recipe, load_comparisons
from upge.common.config import merge
from upge.common.errors import UpgeError
from upge.training import data

EXPERIMENTS = Path(__file__).parents[2] / "experiments"

TOKENIZER = SimpleNamespace(
    chat_template="{{ messages[0].content }}",
    get_chat_template=lambda: "{{ messages[0].content }}",
    special_tokens_map={},
    encode=lambda text, add_special_tokens: text.split(),
)


@pytest.fixture(autouse=True)
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "load_tokenizer", lambda model: TOKENIZER)


def recipe(folder: Path, *solutions: str | None) -> Recipe:
    """Table 2 under the profile gpu, on sums with these solutions."""
    records = [
        {"problem": f"{i} + 1?", "answer": str(i + 1)} | ({"solution": text} if text else {})
        for i, text in enumerate(solutions)
    ]
    path = folder / "sums.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    made = load_comparisons(EXPERIMENTS, "table2", "gpu")["table2"]
    sums = {"train_set": str(path), "validation_set": str(path), "test_sets": []}
    return made.model_copy(update={"run": merge(made.run, {"data": sums | {"overlap": "keep"}})})


def check(made: Recipe, *methods: str, on_cpu: bool = False) -> list[str]:
    return list(preflight.check(made, methods or made.compared, on_cpu=on_cpu))


def test_without_a_gpu_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    made = recipe(tmp_path, "So.", r"\boxed{5}", "So.")
    with pytest.raises(UpgeError, match="asks for a GPU and torch finds none; take PROFILE=cpu"):
        check(made)
    assert check(made, on_cpu=True) == [
        "on the CPU, though the profile asks for a GPU",
        "dropped from the training problems: 1 × demonstration that the verifier grades as wrong",
    ]


def test_a_gpu_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (24 * 10**9, 80 * 10**9))
    check(recipe(tmp_path, "So."))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (12 * 10**9, 80 * 10**9))
    with pytest.raises(UpgeError, match=r"sft: needs about .* of which 12\.0 are free; lower"):
        check(recipe(tmp_path, "So."))


def test_a_method_without_its_demonstrations(tmp_path: Path) -> None:
    made = recipe(tmp_path, None, None)
    with pytest.raises(UpgeError, match="sft learns from demonstrations, but no training problem"):
        check(made, on_cpu=True)
    assert check(made, "grpo", on_cpu=True)
