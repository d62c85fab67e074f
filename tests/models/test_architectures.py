"""Every causal architecture of transformers, built small: log π, its gradient, and sampling."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from experiments.architectures import architectures, markdown, table, verdict

#: Weights are float64, but many architectures take norms, positions or states in float32.
LOG_PI, GRADIENT, SAMPLED = 1e-5, 1e-5, 1e-4

TABLE = Path(__file__).parents[2] / "paper_tables" / "architectures.csv"

#: What can't be trained or sampled from, and why.
EXCEPTIONS = {
    "big_bird": "refused: .* depend on later tokens",  # a decoder reads both ways in 5.10
    "cpmant": "refused: .* depend on later tokens",
    "doge": "refused: .* depend on later tokens",  # with fused attention, where nothing is masked
    "gemma3n": "not built: .* timm",
    "gemma4_assistant": "refused: .* gives no logits for tokens alone",
    "gemma4_unified_assistant": "refused: .* gives no logits for tokens alone",
    "glm_moe_dsa": "refused: .* depend on later tokens",  # as doge
    "megatron-bert": "refused: .* depend on later tokens",
    "musicgen": "not built: .* 'text_encoder'",
    "musicgen_melody": "not built: .* 'text_encoder'",
    "prophetnet": "refused: .* depend on later tokens",
    "reformer": ".*, but no gradient",
    "rembert": "refused: .* depend on later tokens",
    "roformer": "refused: .* depend on later tokens",
    "rwkv": ".*, but no gradient",
    "xlm": "refused: .* depend on later tokens or on padding",  # counts the tokens that are none
    "xlnet": "refused: .* depend on later tokens",
}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", architectures())
def test_log_pi_is_the_models(architecture: str) -> None:
    found = verdict(architecture)
    if architecture in EXCEPTIONS:
        assert re.match(EXCEPTIONS[architecture], found.head)
        return
    assert found.head in ("plain", "adjusted", "whole")
    assert found.log_pi is not None and found.log_pi < LOG_PI
    assert found.gradient is not None and found.gradient < GRADIENT
    assert found.sampled is not None and found.sampled < SAMPLED


def test_the_committed_table_knows_every_architecture() -> None:
    committed = pd.read_csv(TABLE)
    assert committed["architecture"].tolist() == architectures()
    odd = committed[committed["sampling"].isna()]["architecture"]
    assert set(odd) == set(EXCEPTIONS)


def test_a_row_an_architecture() -> None:
    frame = table([verdict("qwen2"), verdict("granite"), verdict("musicgen")])
    assert frame["head"].tolist()[:2] == ["plain", "adjusted"]
    text = markdown(frame)
    assert "Of 3, 2 are trained and sampled from." in text
    assert "(plain) in 1" in text and "(adjusted), in 1" in text
    assert text.count("\n| ") == 5  # header, rule and rows
