"""Gradients of batches: against naive references, and however they are split into micro-batches."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ragged import TRAINED, VOCABULARY, WIDTH, Accelerator, flat, policy, ragged

import upge
from upge.training.gradient import GradientAccumulator

EXACT = 1e-12


class Counting(torch.nn.Module):
    """A policy that remembers the rows it was given, and how wide they were."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.rows, self.widths = inner, 0, []

    def forward(self, tokens, mask):
        self.rows += len(tokens)
        self.widths.append(tokens.shape[1])
        return self.inner(tokens, mask)


def take(estimator, batch, budget=10**9, bonus=0.0, only=None, module=None, **options):
    """The accumulated gradient and the report."""
    module = module or policy()
    module.zero_grad()
    accumulator = GradientAccumulator(module, Accelerator(), budget, **options)
    report = accumulator(accumulator.plan(estimator, batch), bonus, only)
    gradient = flat(module)
    module.zero_grad()
    return gradient, report


def distributions(batch):
    """log π (T, V) of each row alone, from the model's logits; position t is of tokens[t]."""
    inner = policy()
    rows = []
    for tokens, attention in zip(batch.tokens, batch.attention, strict=True):
        length = int(attention.sum())
        logits = inner.model(input_ids=tokens[None, :length]).logits[0] / inner.temperature
        logp = logits - logits.exp().sum(-1, keepdim=True).log()
        rows.append(torch.cat([torch.zeros(1, VOCABULARY, dtype=torch.float64), logp[:-1]]))
    return rows


def naive_gradient(loss):
    module = policy()
    module.zero_grad()
    loss.backward()
    gradient = flat(module)
    module.zero_grad()
    return gradient


def assert_equal(one, other, tolerance=EXACT):
    assert other.norm() > 1e-8, "the gradients compared are nothing"
    assert (one - other).norm() <= tolerance * other.norm()


def tokens_of(batch, row):
    return batch.mask[row].nonzero().flatten().tolist()


def test_sft_is_the_mean_over_the_demonstrations_tokens():
    batch = ragged()
    logp = distributions(batch)
    picked = [
        logp[i][t][batch.tokens[i, t]]
        for i in range(len(logp))
        if batch.offline[i, 0]
        for t in tokens_of(batch, i)
    ]
    assert_equal(take(upge.get("sft"), batch)[0], naive_gradient(-sum(picked) / len(picked)))


def demonstrations_by_two(batch):
    """Log π of the demonstrations' tokens, two demonstrations a micro-batch; the last has one."""
    logp = distributions(batch)
    rows = [i for i in range(len(logp)) if batch.offline[i, 0]]
    micros = [rows[start : start + 2] for start in range(0, len(rows), 2)]
    return [
        [logp[i][t][batch.tokens[i, t]] for i in micro for t in tokens_of(batch, i)]
        for micro in micros
    ]


def test_rows_a_micro_batch_change_nothing():
    batch = ragged()
    for name in ("sft", "hpt", "luffy"):
        whole = take(upge.get(name), batch)[0]
        assert_equal(take(upge.get(name), batch, micro_batch=2)[0], whole)


def test_the_fault_that_loses_micro_batches():
    batch = ragged()
    *lost, kept = demonstrations_by_two(batch)
    count = len(kept) + sum(map(len, lost))
    options = {"micro_batch": 2, "faults": ("last_micro_batch_only",)}
    expected = naive_gradient(-sum(kept) / count)
    assert lost
    assert_equal(take(upge.get("sft"), batch, **options)[0], expected)


def test_the_fault_that_averages_means():
    batch = ragged()
    micros = demonstrations_by_two(batch)
    expected = naive_gradient(-sum(sum(own) / len(own) for own in micros) / len(micros))
    options = {"micro_batch": 2, "faults": ("mean_of_means",)}
    faulty = take(upge.get("sft"), batch, **options)[0]
    assert_equal(faulty, expected)
    right = take(upge.get("sft"), batch)[0]
    assert (faulty - right).norm() > 0.01 * right.norm()


def test_dr_grpo_is_its_formula():
    """1/(N L) Σ_τ Σ_t min(r Â, clip(r, 1 ± ε) Â), Â = R − mean of the question."""
    batch, clip = ragged(), 0.2
    logp = distributions(batch)
    rollouts = [i for i in range(len(logp)) if not batch.offline[i].any()]
    total = 0.0
    for i in rollouts:
        question = [j for j in rollouts if batch.group[j] == batch.group[i]]
        advantage = float(batch.reward[i]) - sum(float(batch.reward[j]) for j in question) / len(
            question
        )
        for t in tokens_of(batch, i):
            ratio = (logp[i][t][batch.tokens[i, t]] - batch.old_logp[i, t]).exp()
            total = total + torch.minimum(
                ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage
            )
    expected = naive_gradient(-total / (len(rollouts) * WIDTH))
    assert_equal(take(upge.get("dr_grpo", clip=clip), batch)[0], expected)


def test_hpt_as_published_is_its_formula():
    """Mean over questions of α · mean over rollouts of token sums, or of β · demonstration mean."""
    batch, clip = ragged(), 0.2
    logp = distributions(batch)
    rows = range(len(logp))
    total = 0.0
    for question in range(4):
        mine = [i for i in rows if batch.group[i] == question]
        rollouts = [i for i in mine if not batch.offline[i].any()]
        demonstrations = [i for i in mine if batch.offline[i].any()]
        rewards = [float(batch.reward[i]) for i in rollouts]
        mean = sum(rewards) / len(rewards)
        std = (sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1)) ** 0.5
        if sum(rewards) == 0 and demonstrations:
            (i,) = demonstrations
            picked = [logp[i][t][batch.tokens[i, t]] for t in tokens_of(batch, i)]
            total = total + sum(picked) / len(picked) / 4
            continue
        for i in rollouts:
            advantage = 0.0 if std == 0 else (float(batch.reward[i]) - mean) / std
            for t in tokens_of(batch, i):
                ratio = (logp[i][t][batch.tokens[i, t]] - batch.old_logp[i, t]).exp()
                bounded = torch.minimum(
                    ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage
                )
                total = total + bounded / len(rollouts) / 4
    assert_equal(take(upge.get("hpt", clip=clip), batch)[0], naive_gradient(-total))


def test_the_entropy_bonus_is_the_gradient_of_the_mean_entropy():
    """Over all tokens of the rows that bear weight: here those of the two questions with both."""
    batch, bonus = ragged(), 0.3
    logp = distributions(batch)
    live = [i for i in range(len(logp)) if batch.group[i] >= 2 and not batch.offline[i].any()]
    entropies = [-(logp[i][t].exp() * logp[i][t]).sum() for i in live for t in tokens_of(batch, i)]
    expected = naive_gradient(-bonus * sum(entropies) / len(entropies))
    grpo = upge.get("grpo")
    for budget in (1, 30, 10**9):
        with_bonus, _ = take(grpo, batch, budget, bonus)
        assert_equal(with_bonus - take(grpo, batch)[0], expected)


@pytest.mark.parametrize("name", TRAINED)
def test_every_algorithm_is_the_estimator_on_the_whole_batch(name):
    """One forward pass over all rows, padded, with the model's own logits."""
    batch, estimator = ragged(), upge.get(name)
    module = policy()
    logits = module.model(input_ids=batch.tokens, attention_mask=batch.attention.long()).logits
    everything = (logits[:, :-1] / module.temperature).log_softmax(-1)
    own = everything.gather(-1, batch.tokens[:, 1:, None]).squeeze(-1)
    entropy = -(everything.exp() * everything).sum(-1)
    first = torch.zeros(len(own), 1, dtype=torch.float64)
    logp, entropy = torch.cat([first, own], 1), torch.cat([first, entropy.detach()], 1)
    whole = estimator(batch, torch.where(batch.mask, logp, 0.0), entropy)
    expected = naive_gradient(whole.loss)
    gradient, report = take(estimator, batch, budget=25)
    assert_equal(gradient, expected)
    assert report.loss.item() == pytest.approx(whole.loss.item(), rel=EXACT, abs=EXACT)
    metrics = report.metrics()
    for key, value in whole.metrics.items():
        if key != "offline_ratio":
            assert metrics[key] == pytest.approx(value, rel=EXACT, abs=EXACT), key


@pytest.mark.spread(16)
@pytest.mark.parametrize("name", TRAINED)
def test_it_does_not_hang_on_the_micro_batches(name):
    batch, estimator = ragged(seed=1), upge.get(name)
    whole, report = take(estimator, batch, bonus=0.1)
    for budget in (1, 23, 57):
        gradient, other = take(estimator, batch, budget, bonus=0.1)
        assert_equal(gradient, whole)
        torch.testing.assert_close(other.terms, report.terms, rtol=EXACT, atol=EXACT)
        assert (other.computed, other.avoided) == (report.computed, report.avoided)


@given(seed=st.integers(0, 10**6), budget=st.integers(1, 120), name=st.sampled_from(TRAINED))
def test_neither_on_the_batch(seed, budget, name):
    batch, estimator = ragged(seed), upge.get(name)
    whole, _ = take(estimator, batch)
    split, _ = take(estimator, batch, budget)
    assert (whole - split).norm() <= EXACT * (1 + whole.norm())


@pytest.mark.parametrize("name", TRAINED)
def test_terms_add_up(name):
    batch, estimator = ragged(), upge.get(name)
    parts = [
        take(estimator, batch, budget=40, only=term)[0] for term in range(len(estimator.terms))
    ]
    assert_equal(sum(parts), take(estimator, batch, budget=40)[0])


def test_rows_without_weight_are_not_computed():
    """Under GRPO: demonstrations, and the rollouts of the two questions that agree."""
    batch = ragged()
    counting = Counting(policy())
    gradient, report = take(upge.get("grpo"), batch, budget=1, module=counting)
    live = ~batch.offline.any(1) & (batch.group >= 2)
    assert counting.rows == live.sum() == 8
    assert report.computed == batch.attention[live].sum()
    assert report.avoided == batch.attention[~live].sum()
    # The two questions left out still count in the mean over questions.
    assert_equal(2 * gradient, take(upge.get("grpo"), batch.select(live))[0])


def test_tokens_of_rows_without_weight_change_nothing():
    batch = ragged()
    dead = batch.offline.any(1) | (batch.group < 2)
    other = batch.select(torch.arange(len(dead)))
    other.tokens[dead] = (other.tokens[dead] + 1) % VOCABULARY
    assert (other.tokens != batch.tokens).any()
    assert torch.equal(take(upge.get("grpo"), other)[0], take(upge.get("grpo"), batch)[0])


def test_micro_batches_keep_to_the_budget_and_are_no_wider_than_their_rows():
    batch, budget = ragged(), 35
    counting = Counting(policy())
    sizes = []
    counting.register_forward_hook(lambda module, given, out: sizes.append(given[0].shape))
    take(upge.get("reinforce"), batch, budget, module=counting)
    assert len(sizes) > 2
    assert all(rows * width <= budget for rows, width in sizes)
    assert sum(rows for rows, _ in sizes) == (~batch.offline.any(1)).sum()
    assert counting.widths == sorted(counting.widths)
    # No row could have gone into the micro-batch before: each is filled as far as it goes.
    for (rows, _), (_, width) in pairwise(sizes):
        assert (rows + 1) * width > budget


def test_a_batch_without_any_weight_has_no_gradient():
    batch = ragged(questions=2)  # one question failed, one solved
    counting = Counting(policy())
    gradient, report = take(upge.get("grpo"), batch, module=counting)
    assert counting.rows == 0
    assert not gradient.any()
    assert report.finite
    assert report.metrics()["tokens_computed"] == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("budget", [1, 10**9])
def test_what_is_not_finite_is_reported(bad, budget):
    class Broken(Counting):
        def forward(self, tokens, mask):
            logp, entropy = self.inner(tokens, mask)
            logp = logp.clone()
            logp[0, mask[0].nonzero()[-1]] = bad
            return logp, entropy

    _, report = take(upge.get("grpo"), ragged(), budget, module=Broken(policy()))
    assert not report.finite
    assert take(upge.get("grpo"), ragged(), budget)[1].finite


def test_reports_add_up():
    batch = ragged()
    one, other = (take(upge.get("luffy"), ragged(seed))[1] for seed in (0, 1))
    both = (one + other).metrics()
    assert both["tokens_computed"] == one.computed + other.computed
    assert both["loss"] == pytest.approx((one.loss.item() + other.loss.item()) / 2)
    masses = [report.metrics()["term0/mass"] for report in (one, other)]
    assert both["term0/mass"] == pytest.approx(sum(masses) / 2)
    assert take(upge.get("luffy"), batch)[1].metrics() == one.metrics()
