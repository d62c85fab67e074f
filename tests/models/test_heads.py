"""Log π of models whose logits are more than hidden states times output embedding.

References are the model's own logits of one unpadded row at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments.architectures import own_log_pi, small_model
from upge import UpgeError
from upge.models.heads import find_head
from upge.models.policy import Policy
from upge.models.tiny import build_model

TEMPERATURE = 0.8
ROWS = [([5, 9, 3, 7], [8, 4, 11, 6, 2]), ([6], [7, 13, 2]), ([3, 3], [90])]

#: Architectures, settings that change their logits, and how log π follows.
CHANGED: dict[str, tuple[str, dict[str, Any], str]] = {
    "multiplied": ("falcon_h1", {"lm_head_multiplier": 0.19}, "adjusted"),
    "multiplied by 1": ("falcon_h1", {"lm_head_multiplier": 1.0}, "plain"),
    "capped": ("recurrent_gemma", {"logits_soft_cap": 3.0}, "adjusted"),
    "capped otherwise": ("gemma2", {"final_logit_softcapping": 2.0}, "adjusted"),
    "not capped": ("gemma2", {"final_logit_softcapping": None}, "plain"),
    "divided": ("granite", {"logits_scaling": 7.0}, "adjusted"),
    "scaled": ("cohere", {"logit_scale": 0.0625}, "adjusted"),
    "by a head of two layers": ("bert", {}, "adjusted"),
    "decoder of another name": ("llama4_text", {}, "plain"),
    "recurrent": ("mamba", {}, "plain"),
    "with a bias": ("phi", {}, "plain"),
}


def batch() -> tuple[Tensor, Tensor]:
    """The rows, padded on the right with arbitrary ids, and where responses are."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(97, (len(ROWS), 12), generator=generator)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    for place, (prompt, response) in enumerate(ROWS):
        end = len(prompt) + len(response)
        tokens[place, :end] = torch.tensor(prompt + response)
        mask[place, len(prompt) : end] = True
    return tokens, mask


def assert_own(model: Any, chunk: int = 3) -> Policy:
    """Log π and its gradient are those of the model's logits, in float64."""
    tokens, mask = batch()
    policy = Policy(model, TEMPERATURE, chunk)
    found = policy(tokens, mask).logp[mask]
    wanted = torch.cat([own_log_pi(model, *row, TEMPERATURE) for row in ROWS])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-6)
    weights = torch.linspace(-1, 2, len(wanted), dtype=wanted.dtype)
    parameters = [p for p in model.parameters() if p.requires_grad]
    ours, theirs = (
        torch.autograd.grad((weights * x).sum(), parameters, allow_unused=True)
        for x in (found, wanted)
    )
    scale = max(g.abs().max().item() for g in theirs if g is not None)
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6 * scale)
    return policy


@pytest.mark.parametrize("case", CHANGED)
def test_log_pi_and_its_gradient_are_those_of_the_models_logits(case: str) -> None:
    architecture, settings, head = CHANGED[case]
    model = small_model(architecture, **settings)
    assert find_head(model) == (head, 97)
    assert_own(model.double())


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gpt2", "falcon_h1"])
def test_a_head_that_was_changed_by_hand(architecture: str) -> None:
    """By a hook, another module, or code behind it: none of it is in the configuration."""

    def hooked(model: Any) -> None:
        model.lm_head.register_forward_hook(lambda _, __, logits: 2 * logits)

    def scaled(model: Any) -> None:
        class Scaled(nn.Linear):
            def forward(self, hidden: Tensor) -> Tensor:
                return 2 * super().forward(hidden)

        model.lm_head.__class__ = Scaled

    def adapted(model: Any) -> None:
        """As adapters that begin as no change: equal today, another tomorrow."""
        inner = model.lm_head.forward
        down = nn.Parameter(torch.zeros(97, 32, dtype=torch.float64))
        model.lm_head.adapter = down
        model.lm_head.forward = lambda hidden: inner(hidden) + hidden @ down.T

    def shifted(model: Any) -> None:
        inner = model.forward

        def forward(**inputs: Any) -> Any:
            output = inner(**inputs)
            output.logits = output.logits - 5 * nn.functional.one_hot(torch.tensor(3), 97)
            return output

        model.forward = forward

    changes: list[Callable[[Any], None]] = [hooked, scaled, adapted, shifted]
    for change in changes:
        model = small_model(architecture).double()
        change(model)
        policy = assert_own(model)
        assert policy.head != "plain" or change is adapted
        if change is adapted:
            model.lm_head.adapter.data.normal_()
            assert_own(model)


@pytest.mark.parametrize("weights", ["zero", "small"])
def test_a_change_shows_however_small_the_weights_are(weights: str) -> None:
    """At logits of 1e-6 a cap at 30 changes nothing that could be measured; after training it does.

    The verdict is of the architecture, not of today's weights.
    """
    for architecture in ("recurrent_gemma", "gemma2", "falcon_h1", "granite", "cohere"):
        model = small_model(architecture)
        head = model.get_output_embeddings().weight
        head.data.mul_(0 if weights == "zero" else 1e-6)
        policy = Policy(model.double(), TEMPERATURE)
        assert policy.head == "adjusted"
        head.data.normal_(std=0.5, generator=torch.Generator().manual_seed(0))
        tokens, mask = batch()
        wanted = torch.cat([own_log_pi(model, *row, TEMPERATURE) for row in ROWS])
        torch.testing.assert_close(policy(tokens, mask).logp[mask], wanted, rtol=1e-5, atol=2e-6)


@pytest.mark.spread(3)
@pytest.mark.parametrize("case", ["multiplied", "capped", "by a head of two layers"])
@pytest.mark.parametrize("chunk", [1, 4, 2048])
def test_logits_at_a_time_are_bounded(case: str, chunk: int) -> None:
    architecture, settings, _ = CHANGED[case]
    model = small_model(architecture, **settings).double()
    policy = assert_own(model, chunk)
    seen: list[int] = []
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda _, __, logits: seen.append(logits.numel() // 97))
    tokens, mask = batch()
    policy(tokens, mask).logp.sum().backward()
    assert 0 < max(seen) <= chunk
    assert sum(seen) == 2 * mask.sum()  # forward, and once more in the backward pass


def test_a_model_that_can_not_be_taken_apart_is_scored_row_by_row() -> None:
    """Its decoder gives no states of that name."""

    class Odd(nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def get_input_embeddings(self) -> Any:
            return self.inner.get_input_embeddings()

        def forward(self, input_ids: Tensor, **options: Any) -> tuple[Tensor]:
            return (self.inner(input_ids=input_ids, **options).last_hidden_state,)

    model = small_model("gpt2").double()
    outer = copy.deepcopy(model)
    outer.transformer = Odd(model.transformer)
    inner = type(outer).forward

    def forward(**inputs: Any) -> Any:
        kept, outer.transformer = outer.transformer, model.transformer
        try:
            return inner(outer, **inputs)
        finally:
            outer.transformer = kept

    outer.forward = forward
    policy = assert_own(outer)
    assert policy.head == "whole"
    seen: list[int] = []
    outer.lm_head.register_forward_hook(lambda _, __, logits: seen.append(len(logits)))
    tokens, mask = batch()
    policy(tokens, mask)
    assert seen == [1] * len(ROWS)


@pytest.mark.parametrize("case", ["multiplied", "with a bias"])
def test_nothing_to_score_still_takes_part_in_the_backward_pass(case: str) -> None:
    """As an empty micro-batch of one of several processes does."""
    architecture, settings, _ = CHANGED[case]
    model = small_model(architecture, **settings)
    tokens = torch.tensor([[2, 3, 4]])
    logp, entropy = Policy(model)(tokens, torch.zeros_like(tokens, dtype=torch.bool))
    assert logp.tolist() == entropy.tolist() == [[0.0, 0.0, 0.0]]
    (logp + entropy).sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(gradient.eq(0).all() for gradient in gradients)


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("bert", {"is_decoder": False}),
        ("roberta", {"is_decoder": False}),
        ("xlnet", {}),
        ("xlm", {"causal": False}),
    ],
)
def test_a_model_that_reads_what_comes_later(architecture: str, settings: dict[str, Any]) -> None:
    with pytest.raises(
        UpgeError, match=r"model: the logits of \w+ depend on later tokens"
    ) as error:
        Policy(small_model(architecture, **settings))
    assert "\n" not in str(error.value)


def test_a_model_of_more_than_text() -> None:
    with pytest.raises(
        UpgeError, match="Gemma4AssistantForCausalLM gives no logits for tokens alo"
    ):
        Policy(small_model("gemma4_assistant"))


def test_weights_that_are_no_numbers_are_no_other_architecture() -> None:
    model = build_model(11, hidden=16, layers=1, heads=2, seed=0)
    for weight in model.parameters():
        weight.data.fill_(torch.nan)
    tokens, mask = torch.tensor([[2, 3]]), torch.tensor([[False, True]])
    assert Policy(model)(tokens, mask).logp[mask].isnan().all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("architecture", ["gpt2", "falcon_h1", "bert"])
def test_the_comparison_leaves_no_trace(architecture: str, training: bool) -> None:
    model = small_model(architecture).train(training)
    before = copy.deepcopy(model.state_dict())
    hooks = [len(module._forward_hooks) for module in model.modules()]
    state = torch.get_rng_state()
    find_head(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training is training
    assert all("forward" not in vars(module) for module in model.modules())
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ["qwen2", "falcon_h1", "gemma2", "mixtral"])
def test_half_precision_is_no_other_architecture(architecture: str, dtype: torch.dtype) -> None:
    model = small_model(architecture)
    assert find_head(model.to(dtype)) == find_head(small_model(architecture))
