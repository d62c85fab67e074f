"""The policy's log-probabilities against whole logits, and the tiny model and its tokenizer."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from upge.common.optional import available

if not available("transformers"):
    pytest.skip("transformers is not installed", allow_module_level=True)

import transformers

from upge.models.policy import Policy, positions_at_a_time
from upge.models.pretrained import load_pretrained
from upge.models.pretraining import WORKED
from upge.models.tiny import EOS, PAD, build_model, build_tokenizer
from upge.tasks.synthetic import ALPHABET, FAMILIES, suite

VOCABULARY = 11


def sharpened(model: Any, seed: int) -> Any:
    """The model in float64, with weights so large that its distributions are far from uniform."""
    gen = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    for parameter in model.parameters():
        scale = 0.4 if parameter.dim() == 2 else 0.2
        parameter.data += scale * torch.randn(parameter.shape, generator=gen, dtype=torch.float64)
    return model


def qwen2(seed: int) -> Any:
    return sharpened(build_model(VOCABULARY, hidden=16, layers=2, heads=4, seed=seed), seed)


def phi(seed: int) -> Any:
    """A model whose output embedding is its own, and has a bias."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    config = transformers.PhiConfig(vocab_size=VOCABULARY, num_attention_heads=2, **sizes, **ids)
    return sharpened(transformers.PhiForCausalLM(config), seed)


def gpt2(seed: int) -> Any:
    """A model with learned positions."""
    ids = {"bos_token_id": 1, "eos_token_id": 1}
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=2, n_head=2, **ids
    )
    return sharpened(transformers.GPT2LMHeadModel(config), seed)


#: Of models that no test changes.
once = cache(lambda make, seed: make(seed))


def naive(
    model: Any, rows: list[list[int]], spans: list[tuple[int, int]], temperature: float
) -> tuple[list[Tensor], list[Tensor]]:
    """Log-probabilities and entropies of each row's span, one row at a time, from whole logits."""
    logps, entropies = [], []
    for row, (start, stop) in zip(rows, spans, strict=True):
        logits = model(torch.tensor([row])).logits[0] / temperature
        log_pi = torch.log_softmax(logits, -1)
        logps.append(torch.stack([log_pi[t - 1, row[t]] for t in range(start, stop)]))
        entropies.append(
            torch.stack([-(log_pi[t - 1].exp() * log_pi[t - 1]).sum() for t in range(start, stop)])
        )
    return logps, entropies


@st.composite
def ragged(draw: st.DrawFn) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """Rows of ids, and the part of each to score: never the first token."""
    token = st.integers(0, VOCABULARY - 1)
    rows = draw(st.lists(st.lists(token, min_size=2, max_size=9), min_size=1, max_size=4))
    spans = []
    for row in rows:
        start = draw(st.integers(1, len(row) - 1))
        spans.append((start, draw(st.integers(start + 1, len(row)))))
    return rows, spans


def pad(
    rows: list[list[int]], spans: list[tuple[int, int]], extra: int, seed: int
) -> tuple[Tensor, Tensor]:
    """The rows with arbitrary ids behind them, and the mask."""
    width = max(map(len, rows)) + extra
    gen = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCABULARY, (len(rows), width), generator=gen)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, (row, (start, stop)) in enumerate(zip(rows, spans, strict=True)):
        tokens[i, : len(row)] = torch.tensor(row)
        mask[i, start:stop] = True
    return tokens, mask


@pytest.mark.parametrize("make", [qwen2, phi, gpt2])
@given(
    batch=ragged(),
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    chunk=st.sampled_from([1, 3, 2048]),
    extra=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_log_probabilities_are_those_of_whole_logits(
    make: Any,
    batch: tuple[list[list[int]], list[tuple[int, int]]],
    temperature: float,
    chunk: int,
    extra: int,
    seed: int,
) -> None:
    model = once(make, seed % 3)
    rows, spans = batch
    tokens, mask = pad(rows, spans, extra, seed)
    logp, entropy = Policy(model, temperature, chunk)(tokens, mask)
    expected = naive(model, rows, spans, temperature)
    for ours, theirs in zip((logp, entropy), expected, strict=True):
        assert ours.shape == mask.shape
        assert ours[~mask].eq(0).all()
        torch.testing.assert_close(ours[mask], torch.cat(theirs), rtol=1e-10, atol=1e-12)
    # The gradient of an arbitrary function of both.
    gen = torch.Generator().manual_seed(seed)
    cotangents = torch.randn(2, int(mask.sum()), generator=gen, dtype=torch.float64)
    gradients = [
        torch.autograd.grad((cotangents[0] * a + cotangents[1] * b).sum(), list(model.parameters()))
        for a, b in [(logp[mask], entropy[mask]), tuple(map(torch.cat, expected))]
    ]
    scale = max(g.abs().max() for g in gradients[1])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12 * scale.item())


def test_what_stands_behind_a_row_is_not_read() -> None:
    policy = Policy(qwen2(0))
    rows, spans = [[2, 3, 4], [5, 6, 7, 8, 9]], [(1, 3), (2, 5)]
    one, other = (policy(*pad(rows, spans, 2, seed)) for seed in (0, 1))
    assert not torch.equal(pad(rows, spans, 2, 0)[0], pad(rows, spans, 2, 1)[0])
    assert torch.equal(one.logp, other.logp) and torch.equal(one.entropy, other.entropy)


def test_logits_at_a_time_are_bounded_by_their_memory() -> None:
    """2,048 positions of small vocabularies, as ever; of Qwen's 151,936 tokens 256 MiB."""
    assert [positions_at_a_time(size) for size in (11, 2**15)] == [2048, 2048]
    assert positions_at_a_time(151_936) == 441
    assert positions_at_a_time(10**9) == 1
    for size in (49_152, 151_936):
        assert 0.99 < positions_at_a_time(size) * size / 2**26 <= 1
    assert Policy(once(qwen2, 0)).chunk == 2048
    assert Policy(once(qwen2, 0), chunk=7).chunk == 7


def test_nothing_to_score() -> None:
    tokens = torch.tensor([[2, 3, 4]])
    logp, entropy = Policy(qwen2(0))(tokens, torch.zeros_like(tokens, dtype=torch.bool))
    assert logp.tolist() == entropy.tolist() == [[0.0, 0.0, 0.0]]


def test_tied_parameters_count_once() -> None:
    model = qwen2(0)
    sizes = {p.data_ptr(): p.numel() for p in model.state_dict().values()}
    assert len(sizes) < len(model.state_dict())
    assert Policy(model).parameter_count == sum(sizes.values())


# --------------------------------------------------------------------------------- the tiny model


def test_weights_hang_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = build_model(VOCABULARY, 16, 2, 4, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    same, other = (build_model(VOCABULARY, 16, 2, 4, seed) for seed in (0, 1))
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name])
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert one.config.architectures is None or one.config.architectures == ["Qwen2ForCausalLM"]
    assert one.get_input_embeddings().weight is one.get_output_embeddings().weight


def test_a_saved_tiny_model_loads_as_any_other(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(ALPHABET)
    model = build_model(len(tokenizer), 16, 2, 4, seed=0).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, loaded_tokenizer = load_pretrained(str(tmp_path))
    ids = tokenizer("316-705=", return_tensors="pt").input_ids
    assert torch.equal(loaded_tokenizer("316-705=", return_tensors="pt").input_ids, ids)
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert loaded.generation_config.eos_token_id == loaded_tokenizer.eos_token_id == 1
    assert loaded.generation_config.pad_token_id == loaded_tokenizer.pad_token_id == 0


# ----------------------------------------------------------------------------------- the tokenizer


@pytest.fixture(scope="module", params=["built", "saved"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    built = build_tokenizer(ALPHABET)
    if request.param == "built":
        return built
    folder = tmp_path_factory.mktemp("tokenizer")
    built.save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


def test_each_character_is_a_token(tokenizer: Any) -> None:
    assert len(tokenizer) == len(ALPHABET) + 2
    assert tokenizer.encode(ALPHABET, add_special_tokens=False) == list(range(2, len(ALPHABET) + 2))
    assert tokenizer.convert_ids_to_tokens([0, 1]) == [PAD, EOS]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    assert tokenizer.encode("", add_special_tokens=False) == []


def test_every_text_of_the_suites_comes_back(tokenizer: Any) -> None:
    for family in FAMILIES:
        for problem in suite(family, "train", 20):
            text = f"{WORKED}{problem.prompt}{problem.demonstration}"
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert len(ids) == len(text)
            assert tokenizer.decode([*ids, 1, 0], skip_special_tokens=True) == text


@given(text=st.text(ALPHABET, max_size=30))
def test_every_text_of_the_alphabet_comes_back(text: str) -> None:
    tokenizer = build_tokenizer(ALPHABET)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.batch_decode([ids, ids], skip_special_tokens=True) == [text, text]


@pytest.mark.parametrize("unknown", ["x", " ", "é", "\n", "３", "🙂", "\0"])
def test_an_unknown_character_is_padding(tokenizer: Any, unknown: str) -> None:
    ids = tokenizer.encode(f"1{unknown}2", add_special_tokens=False)
    assert ids == [ALPHABET.index("1") + 2, 0, ALPHABET.index("2") + 2]


@pytest.mark.parametrize("make", [qwen2, phi, gpt2])
def test_recomputed_activations_give_the_same_gradient(make: Any) -> None:
    """As launchers recompute them: each layer wrapped, so that its forward pass runs twice."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    tokens, mask = pad([[2, 3, 4, 5], [3, 4]], [(1, 4), (1, 2)], 0, 0)
    given = make(0)

    def gradient(wrapped: bool) -> list[Tensor]:
        model = copy.deepcopy(given)
        if wrapped:
            decoder = model.get_decoder()
            layers = decoder.h if hasattr(decoder, "h") else decoder.layers
            for place, layer in enumerate(layers):
                layers[place] = checkpoint_wrapper(layer)
        policy = Policy(model)
        policy(tokens, mask)[0].sum().backward()
        return [p.grad for p in policy.parameters() if p.grad is not None]

    for one, other in zip(gradient(True), gradient(False), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
