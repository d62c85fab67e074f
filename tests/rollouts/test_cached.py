"""Sampling over the cache against ``generate``, the whole forward pass and exact probabilities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from upge import UpgeError
from upge.common.optional import available

if not available("transformers"):
    pytest.skip("transformers is not installed", allow_module_level=True)

import transformers

from experiments.benchmarks import rollouts as benchmark
from upge.models.policy import Policy
from upge.models.tiny import build_model, build_tokenizer
from upge.rollouts import CachedSampler, Rollouts, Sampling, derive_seed
from upge.rollouts.cached import _invert
from upge.tasks.synthetic import ALPHABET

PAD, EOS, VOCABULARY = 0, 1, 7


def random_model(seed: int = 0, dtype: torch.dtype = torch.float64, spread: float = 0.3) -> Any:
    """A model of weights so large that its distributions are far from uniform."""
    model = build_model(VOCABULARY, hidden=16, layers=2, heads=2, seed=seed)
    gen = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += spread * torch.randn(parameter.shape, generator=gen)
    return model.to(dtype).eval()


#: A model that no test changes.
shared_model = cache(random_model)


def gpt2(seed: int = 0) -> Any:
    """A model that reads the positions themselves, not only their distances."""
    sizes = {"n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
    ids = {"bos_token_id": EOS, "eos_token_id": EOS}
    config = transformers.GPT2Config(vocab_size=VOCABULARY, **sizes, **ids)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.GPT2LMHeadModel(config)
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape)
    return model.double().eval()


def ended_at(model: Any, bias: float) -> Any:
    """The model with ``bias`` added to the logit of the end of sequence."""

    def add(_: Any, __: Any, logits: Tensor) -> Tensor:
        return logits + bias * torch.nn.functional.one_hot(torch.tensor(EOS), VOCABULARY)

    model.lm_head.register_forward_hook(add)
    return model


token = st.integers(2, VOCABULARY - 1)
prompts_of_any_length = st.lists(st.lists(token, min_size=1, max_size=8), min_size=1, max_size=6)


def seeds_of(prompts: Sequence[Sequence[int]], seed: int = 0) -> list[int]:
    return [derive_seed(seed, i) for i in range(len(prompts))]


def responses(rollouts: Rollouts) -> list[list[int]]:
    """Each response's tokens up to its end."""
    return [row[kept].tolist() for row, kept in zip(rollouts.tokens, rollouts.mask, strict=True)]


def log_softmax_of(model: Any, prompt: Sequence[int], response: Sequence[int], t: float) -> Tensor:
    """(len(response), V): log-probabilities at each of its places, from the whole text at once."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *response]])).logits[0].double()
    return torch.log_softmax(logits[len(prompt) - 1 : -1] / t, -1)


def p_value(observed: list[int], probability: list[float]) -> float:
    """Of Pearson's χ² test; cells that expect fewer than 5 are thrown together."""
    count = sum(observed)
    cells = [(o, p * count) for o, p in zip(observed, probability, strict=True)]
    rare = [cell for cell in cells if cell[1] < 5]
    cells = [cell for cell in cells if cell[1] >= 5]
    if sum(e for _, e in rare) >= 5:
        cells.append((sum(o for o, _ in rare), sum(e for _, e in rare)))
    statistic = torch.tensor(sum((o - e) ** 2 / e for o, e in cells), dtype=torch.float64)
    return torch.special.gammaincc(
        torch.tensor((len(cells) - 1) / 2.0).double(), statistic / 2
    ).item()


# ---------------------------------------------------------------------------------------- generate


@pytest.mark.slow
@given(prompts=prompts_of_any_length, seed=st.integers(0, 9), rows=st.sampled_from([1, 3, 512]))
def test_greedy_tokens_are_those_of_generate(
    prompts: list[list[int]], seed: int, rows: int
) -> None:
    model, length = shared_model(seed), 12
    ours = CachedSampler(model, EOS, rows)(
        prompts, 1, Sampling(length, temperature=0), seeds_of(prompts)
    )
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts])
    attention = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    theirs = model.generate(
        ids,
        attention_mask=attention,
        do_sample=False,
        max_new_tokens=length,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )[:, width:].tolist()
    cut = [row[: row.index(EOS) + 1] if EOS in row else row for row in theirs]
    assert responses(ours) == cut
    assert ours.finished.tolist() == [EOS in row for row in theirs]


def test_the_greedy_comparison_sees_ends_early_and_late() -> None:
    # What the test above compares is no accident of models that never end, or always at once.
    prompts = [[2], [3, 4], [5, 6, 2], [6]]
    lengths = set()
    for seed in range(10):
        model = shared_model(seed)
        rollouts = CachedSampler(model, EOS)(prompts, 1, Sampling(12, 0.0), seeds_of(prompts))
        lengths |= set(rollouts.mask.sum(1)[rollouts.finished].tolist())
    assert len(lengths) >= 4 and min(lengths) < 4 < max(lengths)


# ------------------------------------------------------------------------------- log-probabilities


@pytest.mark.parametrize(
    "model",
    [random_model(4, torch.float32), random_model(5), gpt2()],
    ids=["Qwen2, float32", "Qwen2, float64", "GPT-2"],
)
@given(
    prompts=prompts_of_any_length,
    temperature=st.sampled_from([0.5, 1.0, 1.6]),
    top_p=st.sampled_from([0.7, 1.0]),
    seed=st.integers(0, 9),
)
def test_log_probabilities_are_those_of_the_whole_text(
    model: Any, prompts: list[list[int]], temperature: float, top_p: float, seed: int
) -> None:
    samples = 3
    rollouts = CachedSampler(model, EOS)(
        prompts, samples, Sampling(8, temperature, top_p), seeds_of(prompts, seed)
    )
    assert len(rollouts.tokens) == len(prompts) * samples
    for row, response in enumerate(responses(rollouts)):
        log_pi = log_softmax_of(model, prompts[row // samples], response, temperature)
        own = log_pi.gather(1, torch.tensor(response)[:, None]).squeeze(1)
        found = rollouts.logp[row][rollouts.mask[row]]
        torch.testing.assert_close(found.double(), own, rtol=0, atol=1e-5)


def test_greedy_log_probabilities_are_at_temperature_1() -> None:
    model, prompts = random_model(), [[2, 3], [4]]
    rollouts = CachedSampler(model, EOS)(prompts, 1, Sampling(6, 0.0), seeds_of(prompts))
    for row, response in enumerate(responses(rollouts)):
        log_pi = log_softmax_of(model, prompts[row], response, 1.0)
        assert log_pi.argmax(1).tolist() == response
        found = rollouts.logp[row][rollouts.mask[row]].double()
        torch.testing.assert_close(found, log_pi.max(1).values, rtol=0, atol=1e-5)
        assert found.max() < -1e-3  # not those of the limit, which are 0


def test_the_policy_finds_the_same_log_probabilities() -> None:
    model, prompts, temperature = random_model(), [[2, 3, 4], [5, 6, 2]], 0.8
    rollouts = CachedSampler(model, EOS)(prompts, 4, Sampling(6, temperature), seeds_of(prompts))
    prompt = torch.tensor(prompts).repeat_interleave(4, 0)
    tokens = torch.cat([prompt, rollouts.tokens], 1)
    mask = torch.cat([torch.zeros_like(prompt, dtype=torch.bool), rollouts.mask], 1)
    logp, _ = Policy(model, temperature)(tokens, mask)
    found, own = rollouts.logp[rollouts.mask].double(), logp[:, 3:][rollouts.mask]
    torch.testing.assert_close(found, own.detach(), rtol=0, atol=1e-5)
    # What is sampled is no inference tensor: autograd takes it.
    ((logp[:, 3:] - rollouts.logp).exp() * rollouts.mask).sum().backward()
    assert model.lm_head.weight.grad.abs().max() > 0


# ----------------------------------------------------------------------------------- distributions


def sequences(model: Any, prompt: list[int], t: float, length: int) -> dict[tuple[int, ...], float]:
    """Every response of at most ``length`` tokens, and its exact probability."""
    exact = {}
    for first in range(VOCABULARY):
        p = log_softmax_of(model, prompt, [first], t)[0, first].exp().item()
        if first == EOS or length == 1:
            exact[first,] = p
        else:
            rest = sequences(model, [*prompt, first], t, length - 1)
            exact |= {(first, *tail): p * q for tail, q in rest.items()}
    return exact


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
def test_responses_are_distributed_as_they_should_be(temperature: float) -> None:
    model, prompt = ended_at(random_model(3), 1.0), [2, 3]
    exact = sequences(model, prompt, temperature, 3)
    assert sum(exact.values()) == pytest.approx(1)
    assert {len(response) for response in exact} == {1, 2, 3}
    rollouts = CachedSampler(model, EOS)([prompt], 20_000, Sampling(3, temperature), [7])
    found = Counter(map(tuple, responses(rollouts)))
    assert set(found) <= set(exact)
    assert p_value([found[s] for s in exact], list(exact.values())) > 1e-4
    # The test would see another temperature.
    other = sequences(model, prompt, 1.25 * temperature, 3)
    assert p_value([found[s] for s in exact], [other[s] for s in exact]) < 1e-8


@pytest.mark.parametrize("top_p", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("seed", range(3))
def test_only_the_nucleus_is_sampled(top_p: float, seed: int) -> None:
    model, prompt, temperature = random_model(seed), [2, 3, 4], 0.7
    probability = log_softmax_of(model, prompt, [2], temperature)[0].exp().tolist()
    nucleus: list[int] = []
    for candidate in sorted(range(VOCABULARY), key=lambda i: -probability[i]):
        if sum(probability[i] for i in nucleus) < top_p:
            nucleus.append(candidate)
    rollouts = CachedSampler(model, EOS)([prompt], 10_000, Sampling(1, temperature, top_p), [seed])
    found = Counter(rollouts.tokens.flatten().tolist())
    assert set(found) == set(nucleus)
    total = sum(probability[i] for i in nucleus)
    if len(nucleus) > 1:
        shares = [probability[i] / total for i in nucleus]
        assert p_value([found[i] for i in nucleus], shares) > 1e-4


def test_the_nuclei_above_are_of_several_sizes() -> None:
    sizes = set()
    for seed in range(3):
        sampler = CachedSampler(random_model(seed), EOS)
        for top_p in (0.3, 0.6, 0.95):
            rollouts = sampler([[2, 3, 4]], 10_000, Sampling(1, 0.7, top_p), [seed])
            sizes.add(len(rollouts.tokens.unique()))
    assert len(sizes) >= 3 and max(sizes) < VOCABULARY


def test_the_smallest_nucleus_is_greedy() -> None:
    model, prompts = random_model(), [[2, 3], [4, 5, 6]]
    sampler = CachedSampler(model, EOS)
    narrow = sampler(prompts, 4, Sampling(8, 1.0, 1e-9), seeds_of(prompts))
    greedy = sampler(prompts, 4, Sampling(8, 0.0), seeds_of(prompts))
    assert responses(narrow) == responses(greedy)


@given(
    weights=st.lists(st.sampled_from([0.0, 1e-7, 0.1, 1 / 3, 0.5, 1.0]), min_size=1, max_size=8),
    uniform=st.sampled_from([0.0, 2**-24, 0.3, 0.5, 1 - 2**-24]),
    top_p=st.sampled_from([0.2, 0.9, 1.0]),
)
@example(weights=[0.0, 1.0], uniform=0.0, top_p=1.0)
@example(weights=[1.0], uniform=1 - 2**-24, top_p=1.0)
def test_a_token_of_probability_0_is_never_taken(
    weights: list[float], uniform: float, top_p: float
) -> None:
    probability = torch.tensor([[*weights, 1e-3, 0.0]])
    probability /= probability.sum()
    token = _invert(probability, torch.tensor([uniform]), top_p)
    assert probability[0, token] > 0


# ------------------------------------------------------------------------- independence, seeds


@given(
    prompts=prompts_of_any_length,
    rows=st.sampled_from([1, 4, 7, 512]),
    samples=st.integers(1, 4),
    top_p=st.sampled_from([0.8, 1.0]),
    shuffle=st.randoms(use_true_random=False),
)
def test_a_prompt_is_answered_alone_as_in_company(
    prompts: list[list[int]], rows: int, samples: int, top_p: float, shuffle: Any
) -> None:
    model, settings = shared_model(1), Sampling(8, 1.2, top_p)
    seeds = seeds_of(prompts)
    order = list(range(len(prompts)))
    shuffle.shuffle(order)
    together = CachedSampler(model, EOS, rows)(
        [prompts[i] for i in order], samples, settings, [seeds[i] for i in order]
    )
    for place, i in enumerate(order):
        alone = CachedSampler(model, EOS)([prompts[i]], samples, settings, [seeds[i]])
        own = slice(place * samples, (place + 1) * samples)
        assert responses(Rollouts(*(part[own] for part in together))) == responses(alone)
        assert torch.equal(together.mask[own], alone.mask)
        assert torch.equal(together.finished[own], alone.finished)
        kept = alone.mask
        torch.testing.assert_close(together.logp[own][kept], alone.logp[kept], rtol=1e-6, atol=1e-6)


def test_seeds_decide() -> None:
    model, prompts, settings = random_model(), [[2, 3], [2, 3]], Sampling(8)
    sampler = CachedSampler(model, EOS)
    torch.manual_seed(0)
    one = sampler(prompts, 4, settings, [1, 2])
    torch.manual_seed(1)
    before = torch.get_rng_state()
    again = sampler(prompts, 4, settings, [1, 2])
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    first, second = responses(one)[:4], responses(one)[4:]
    assert first != second  # equal prompts, other seeds
    assert len(set(map(tuple, first))) > 1  # one seed, several responses
    assert responses(sampler(prompts, 4, settings, [2, 1])) == second + first


def test_a_seed_is_the_same_everywhere() -> None:
    # sha256 of "0␟order", its first eight bytes, halved.
    assert derive_seed(0, "order") == 0x694B939A48EA6C2D


@given(
    parts=st.lists(st.integers() | st.text("ab", max_size=3), max_size=4),
    others=st.lists(st.integers() | st.text("ab", max_size=3), max_size=4),
)
def test_other_names_give_other_seeds(parts: list[int | str], others: list[int | str]) -> None:
    assert 0 <= derive_seed(*parts) < 2**63
    # No part and an empty one are the same.
    same = [str(p) for p in parts] or [""], [str(p) for p in others] or [""]
    assert (derive_seed(*parts) == derive_seed(*others)) == (same[0] == same[1])


# -------------------------------------------------------------------------------------------- ends


@given(seed=st.integers(0, 9), bias=st.sampled_from([-1.0, 0.0, 1.0, 3.0]))
def test_the_mask_ends_at_the_first_end_of_sequence(seed: int, bias: float) -> None:
    model, prompts, length = ended_at(random_model(seed), bias), [[2], [3, 4, 5]], 8
    rollouts = CachedSampler(model, EOS)(prompts, 50, Sampling(length), seeds_of(prompts, seed))
    assert rollouts.tokens.shape == rollouts.mask.shape == rollouts.logp.shape == (100, length)
    assert rollouts.mask.dtype == torch.bool and rollouts.finished.dtype == torch.bool
    for tokens, mask, finished in zip(*(rollouts[i].tolist() for i in (0, 1, 3)), strict=True):
        size = sum(mask)
        assert EOS not in tokens[: size - 1] and finished == (tokens[size - 1] == EOS)
        assert finished or size == length
        assert mask == [True] * size + [False] * (length - size)


def test_any_of_several_ends_ends_a_response() -> None:
    """Of the generation configuration, of the caller, and none twice or beyond the vocabulary."""
    model, prompts, length = random_model(3), [[2], [3, 5]], 8
    model.generation_config.eos_token_id = [4, EOS, VOCABULARY + 5]
    rollouts = CachedSampler(model, [6, 4])(prompts, 50, Sampling(length), seeds_of(prompts))
    ended = set()
    for tokens, mask, finished in zip(*(rollouts[i].tolist() for i in (0, 1, 3)), strict=True):
        size = sum(mask)
        assert not {EOS, 4, 6} & {*tokens[: size - 1]}
        assert finished == (tokens[size - 1] in (EOS, 4, 6))
        ended |= {tokens[size - 1]} if finished else set()
    assert ended == {EOS, 4, 6}


class Counted:
    """A model that counts the rows of its forward passes."""

    def __init__(self, model: Any) -> None:
        self.rows: list[int] = []
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _: Any, __: Any, inputs: dict[str, Any]) -> None:
        self.rows.append(len(inputs["input_ids"]))


def test_prompts_are_encoded_once_and_finished_responses_leave() -> None:
    model, prompts, samples, length = ended_at(random_model(), 1.5), [[2], [3, 4], [5]], 40, 20
    sampler = CachedSampler(model, EOS)
    counted = Counted(model)
    rollouts = sampler(prompts, samples, Sampling(length), seeds_of(prompts))
    lengths = rollouts.mask.sum(1)
    encoded, *steps = counted.rows
    assert encoded == len(prompts)
    # No step after the longest response, and each with few rows too many.
    assert len(steps) == lengths.max() - 1
    running = [int((lengths > t).sum()) for t in range(1, len(steps) + 1)]
    for rows, needed in zip(steps, running, strict=True):
        assert needed <= rows and needed > 0.875 * rows
    assert sum(steps) < 0.5 * len(lengths) * len(steps)


def test_rows_bound_a_forward_pass() -> None:
    model, prompts = random_model(), [[2], [3], [4], [5], [6]]
    counted = Counted(model)
    CachedSampler(model, EOS, rows=8)(prompts, 4, Sampling(5), seeds_of(prompts))
    assert max(counted.rows) == 8
    counted.rows.clear()
    CachedSampler(model, EOS, rows=2)(prompts, 4, Sampling(5), seeds_of(prompts))
    assert max(counted.rows) == 4  # a group stays together


def test_memory_bounds_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many rows as their caches at full length and their logits fit, and the same responses."""
    model, prompts, settings = random_model(), [[i, 2, 3] for i in range(2, 5)] * 3, Sampling(5)
    sampler = CachedSampler(model, EOS)
    counted = Counted(model)
    whole = sampler(prompts, 2, settings, seeds_of(prompts))
    assert counted.rows[0] == 9  # prompts of the first pass
    c = model.config
    cache = (
        2
        * c.num_hidden_layers
        * c.num_key_value_heads
        * (c.hidden_size // c.num_attention_heads)
        * 8
        * (3 + 5)
    )
    row = cache + c.vocab_size * 36
    counted.rows.clear()
    monkeypatch.setenv("UPGE_SAMPLER_MEMORY", str(9.5 * row / 2**30))
    sampler = CachedSampler(model, EOS)
    counted.rows.clear()
    bounded = sampler(prompts, 2, settings, seeds_of(prompts))
    assert counted.rows[0] == 4 and max(counted.rows) <= 8  # of 9, whole groups
    assert responses(bounded) == responses(whole)
    monkeypatch.setenv("UPGE_SAMPLER_MEMORY", "1e-9")
    sampler = CachedSampler(model, EOS)
    counted.rows.clear()
    sampler(prompts, 2, settings, seeds_of(prompts))
    assert counted.rows[0] == 1


@pytest.mark.parametrize("given", ["", "much", "0", "-1", "inf", "nan", "1e308"])
def test_an_amount_of_memory_that_is_none(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("UPGE_SAMPLER_MEMORY", given)
    with pytest.raises(UpgeError, match=r"UPGE_SAMPLER_MEMORY: got .*, wanted a number of GiB"):
        CachedSampler(random_model(), EOS)


@given(prompts=prompts_of_any_length, samples=st.integers(1, 3))
def test_a_single_token(prompts: list[list[int]], samples: int) -> None:
    model = random_model()
    sampler = CachedSampler(model, EOS)
    counted = Counted(model)
    rollouts = sampler(prompts, samples, Sampling(1), seeds_of(prompts))
    assert rollouts.tokens.shape == (len(prompts) * samples, 1) and rollouts.mask.all()
    assert torch.equal(rollouts.finished, rollouts.tokens[:, 0] == EOS)
    assert counted.rows == [len(prompts)]


def test_a_model_that_is_no_number_ends_without_an_error() -> None:
    model = random_model()
    model.lm_head.weight.data.fill_(float("nan"))
    for settings in (Sampling(4), Sampling(4, 1.0, 0.9), Sampling(4, 0.0)):
        rollouts = CachedSampler(model, EOS)([[2], [3]], 2, settings, [0, 1])
        assert rollouts.logp[rollouts.mask].isnan().all()
        assert rollouts.tokens.min() >= 0 and rollouts.tokens.max() < VOCABULARY


# --------------------------------------------------------------------------------- mode, mistakes


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training: bool) -> None:
    model = random_model().train(training)
    modes = []
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    sampler = CachedSampler(model, EOS)
    sampler([[2]], 2, Sampling(3), [0])
    assert model.training is training and not any(modes) and modes

    def fail(*_: Any) -> None:
        raise RuntimeError("on purpose")

    model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        sampler([[2]], 2, Sampling(3), [0])
    assert model.training is training


@pytest.mark.parametrize(
    ("prompts", "samples", "length", "seeds", "message"),
    [
        ([], 1, 4, [], "prompts: wanted at least one, and at least one token in each"),
        ([[2], []], 1, 4, [0, 1], "prompts: wanted at least one, and at least one token in each"),
        ([[2]], 0, 4, [0], "samples: got 0, wanted at least 1 a prompt"),
        ([[2], [3]], 1, 4, [0], "seeds: got 1, wanted one for each of 2 prompts"),
        (
            [[2], [3] * 200],
            1,
            57,
            [0, 1],
            "max_tokens: got 57, which with the longest prompt (200 tokens) is more than the "
            "model's 256 positions; wanted at most 56",
        ),
    ],
)
def test_mistakes(
    prompts: list[list[int]], samples: int, length: int, seeds: list[int], message: str
) -> None:
    with pytest.raises(UpgeError) as error:
        CachedSampler(random_model(), EOS)(prompts, samples, Sampling(length), seeds)
    assert str(error.value) == message


def test_the_longest_text_that_fits() -> None:
    prompts = [[3] * 254]
    rollouts = CachedSampler(random_model(), EOS)(prompts, 1, Sampling(2), [0])
    assert rollouts.tokens.shape == (1, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((0,), "max_tokens: got 0, wanted at least 1"),
        ((1, -0.1), "temperature: got -0.1, wanted a finite number ≥ 0"),
        ((1, float("inf")), "temperature: got inf, wanted a finite number ≥ 0"),
        ((1, float("nan")), "temperature: got nan, wanted a finite number ≥ 0"),
        ((1, 1.0, 0.0), "top_p: got 0.0, wanted a number above 0, at most 1"),
        ((1, 1.0, 1.1), "top_p: got 1.1, wanted a number above 0, at most 1"),
        ((1, 1.0, float("nan")), "top_p: got nan, wanted a number above 0, at most 1"),
    ],
)
def test_settings_that_make_no_sense(settings: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UpgeError) as error:
        Sampling(*settings)
    assert str(error.value) == message


# --------------------------------------------------------------------------------- the benchmark


@pytest.fixture(scope="module")
def small() -> tuple[Any, Any]:
    tokenizer = build_tokenizer(ALPHABET)
    model = build_model(len(tokenizer), hidden=16, layers=1, heads=2, seed=0).eval()
    gen = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.5 * torch.randn(parameter.shape, generator=gen)
    return model, tokenizer


def test_backends_do_the_same_work(small: tuple[Any, Any]) -> None:
    # So small a nucleus is greedy, and greedy responses are equally long.
    work = benchmark.Workload("greedy", 12, 2, top_p=1e-6)
    counts = {
        name: benchmark.BACKENDS[name](*small, work, 0)
        for name in (benchmark.OURS, "generate", "generate, static cache")
    }
    assert len(set(counts.values())) == 1
    assert 24 < counts["generate"] < 24 * benchmark.MAX_TOKENS  # some end by themselves


@pytest.mark.slow
def test_continuous_batching_does_the_same_work(small: tuple[Any, Any]) -> None:
    work = benchmark.Workload("greedy", 12, 2, top_p=1e-6)
    found = benchmark.generate_batch(*small, work, 0)
    assert found == benchmark.cached_sampler(*small, work, 0)


def test_the_benchmark_compares_within_repetitions(
    small: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    calls: list[tuple[str, int]] = []

    def backend(name: str, seconds: list[float]) -> benchmark.Backend:
        def run(model: Any, tokenizer: Any, work: Any, seed: int) -> int:
            calls.append((name, seed))
            now[0] += seconds[seed]
            return 10

        return run

    def fails(*_: Any) -> int:
        calls.append(("fails", -1))
        raise RuntimeError("not\non this | machine")

    backends = {
        benchmark.OURS: backend("ours", [99.0, 1.0, 2.0, 4.0]),
        "other": backend("other", [99.0, 3.0, 4.0, 20.0]),
        "broken": fails,
    }
    monkeypatch.setattr(benchmark, "BACKENDS", backends)
    monkeypatch.setattr(benchmark, "perf_counter", lambda: now[0])
    ticks: list[None] = []
    work = benchmark.Workload("w", 1, 1)
    found = benchmark.measure(*small, 3, lambda: ticks.append(None), (work,))
    assert calls[:4] == [("ours", 0), ("other", 0), ("fails", -1), ("ours", 1)]
    assert calls.count(("fails", -1)) == 1 and len(ticks) == 12
    assert benchmark.ratios(found["w"], "other") == pytest.approx([3.0, 2.0, 5.0])
    *_, ours, other, broken = benchmark.markdown(found)
    assert ours == f"| w | {benchmark.OURS} | 200000 | 1.00 | 1.00 |"
    assert other == "| w | other | 400000 | 2.00 | 3.00 |"
    assert (
        broken == "| w | broken | does not run here: RuntimeError: not on this ∣ machine | – | – |"
    )
