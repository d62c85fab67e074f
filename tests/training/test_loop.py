"""The loop on every algorithm: what is sampled, read, ordered, learnt and recorded."""

from __future__ import annotations

import json
import re
from collections import Counter
from math import isfinite

import pytest
import tiny_runs
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import numbers, run, weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from upge.algorithms import REGISTRY
from upge.common.errors import UpgeError
from upge.feedback import ROUNDING
from upge.rollouts import CachedSampler, derive_seed
from upge.training.config import RunConfig
from upge.training.experience import question_order
from upge.training.gradient import GradientAccumulator
from upge.training.loop import Trainer
from upge.training.records import RunFolder, run_folder
from upge.training.update import Updater

TRAINED = sorted(name for name, entry in REGISTRY.items() if "values" not in entry().needs)
CRITIC = sorted(set(REGISTRY) - set(TRAINED))
#: Those whose loss is of demonstrations alone, and compares them with nothing.
SFT_LIKE = ["dft", "offline_reinforce", "sft"]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return tiny_runs.Tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def plans(monkeypatch):
    """The plans that gradients were taken of."""
    seen, call = [], GradientAccumulator.__call__

    def spy(self, plan, *args, **options):
        if options.get("only") is None:
            seen.append(plan)
        return call(self, plan, *args, **options)

    monkeypatch.setattr(GradientAccumulator, "__call__", spy)
    return seen


# ------------------------------------------------------------------------------ every algorithm


@pytest.mark.parametrize("name", TRAINED)
def test_every_algorithm_trains_and_repeats_itself(tiny, tmp_path, name):
    config = tiny.config(name)
    one, other = run(config, tmp_path / "one"), run(config, tmp_path / "other")
    lines = numbers(one)
    assert lines == numbers(other)
    assert weights(one) == weights(other)
    assert weights(one) != (tiny.model / "model.safetensors").read_bytes()
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(isfinite(value) for line in lines for value in line.values() if is_number(value))
    assert any(line["grad_norm"] > 0 for line in lines)
    assert all(line["skipped"] == 0 for line in lines)
    terms = len(REGISTRY[name].terms)
    assert [len(line.get("per_term_grad_norm", ())) for line in lines] == [terms, 0, terms]
    assert all(f"term{i}/mass" in line for line in lines for i in range(terms))
    samples = name not in SFT_LIKE
    assert all(("reward" in line) == samples for line in lines)
    tokens = [line["tokens_computed"] + line["tokens_avoided"] for line in lines]
    assert all(count > 0 for count in tokens)
    assert one.result is not None


def is_number(value):
    return isinstance(value, int | float)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", "grpo", "hpt", "srft"])
def test_seeds_differ(tiny, tmp_path, name):
    one, other = (run(tiny.config(name, seed=s), tmp_path / str(s)) for s in (0, 1))
    assert numbers(one) != numbers(other)
    assert weights(one) != weights(other)


@pytest.mark.parametrize("name", CRITIC)
def test_what_needs_a_critic_is_refused(tiny, name):
    with pytest.raises(UpgeError, match=f"{name} needs a critic"):
        tiny.config(name)


@pytest.mark.parametrize("name", SFT_LIKE)
def test_who_reads_demonstrations_alone_samples_nothing(tiny, tmp_path, name, monkeypatch):
    def refuse(*args):
        raise AssertionError("sampled")

    monkeypatch.setattr(CachedSampler, "__call__", refuse)
    config = tiny.config(name)
    with pytest.raises(AssertionError, match="sampled"):  # the spy can tell
        run(tiny.config("grpo"), tmp_path / "grpo")
    lines = run(config.model_copy(update={"data": no_tests(config)}), tmp_path / "run").metrics()
    assert all(line["offline_ratio"] == 1 and "tokens_sampled" not in line for line in lines)


def no_tests(config):
    return config.data.model_copy(update={"test": None})


# ----------------------------------------------------------------------------- against references


def test_sft_equals_a_plain_training_script(tiny, tmp_path):
    """transformers' own loss, torch's clip and AdamW; three steps with a rising rate."""
    config = tiny.config("sft", warmup=2, max_grad_norm=0.5, weight_decay=0.01, steps=3)
    folder = run(config, tmp_path / "run")
    trainer = Trainer(config, RunFolder(tmp_path / "other"))
    trainer.run()
    pool = [q for q in trainer.prepared.questions if q.demonstration]
    model = AutoModelForCausalLM.from_pretrained(tiny.model)
    stage = config.stages[0]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1, betas=stage.betas, weight_decay=stage.weight_decay
    )
    expected = []
    for step in range(stage.steps):
        order = derive_seed(config.seed, 0, "order")
        own = [pool[i] for i in question_order(len(pool), stage.prompts_per_step, step, order)]
        width = max(len(q.prompt) + len(q.demonstration) for q in own)
        ids, labels = torch.zeros(len(own), width).long(), torch.full((len(own), width), -100)
        for row, q in enumerate(own):
            ids[row, : len(q.prompt + q.demonstration)] = torch.tensor(q.prompt + q.demonstration)
            start = len(q.prompt)
            labels[row, start : start + len(q.demonstration)] = torch.tensor(q.demonstration)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), stage.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = stage.lr * min((step + 1) / 2, 1)
        optimizer.step()
        optimizer.zero_grad()
        expected.append((loss.item(), norm.item()))
    seen = [(line["loss"], line["grad_norm"]) for line in folder.metrics()]
    assert seen == [pytest.approx(pair, rel=1e-4) for pair in expected]
    assert seen[0][1] > stage.max_grad_norm  # the clip acts
    trained = AutoModelForCausalLM.from_pretrained(folder.policy)
    for own, theirs in zip(trained.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-4, atol=2e-6)


def test_a_step_updates_in_parts_and_epochs(tiny, tmp_path, plans):
    config = tiny.config("luffy", steps=1, prompts_per_step=5, minibatches=2, epochs=2)
    lines = run(config, tmp_path / "run").metrics()
    groups = [set(plan.batch.group.tolist()) for plan in plans]
    assert groups[:2] == groups[2:]
    assert groups[0] | groups[1] == set(range(5))
    assert not groups[0] & groups[1]
    assert sorted(map(len, groups[:2])) == [2, 3]
    rows = [len(plan.batch.mask) for plan in plans]
    assert sum(rows) == 2 * (5 * 4 + lines[0]["demonstrations"])
    whole = sum(int(plan.batch.attention.sum()) for plan in plans)
    assert lines[0]["tokens_computed"] + lines[0]["tokens_avoided"] == whole


def test_every_update_counts(tiny, tmp_path):
    """Off-policy after the first: two epochs end elsewhere, with twice the tokens."""
    one = run(tiny.config("sft", epochs=1), tmp_path / "one")
    two = run(tiny.config("sft", epochs=2), tmp_path / "two")
    assert weights(one) != weights(two)
    for a, b in zip(one.metrics(), two.metrics(), strict=True):
        assert b["tokens_computed"] == 2 * a["tokens_computed"]
        assert b["flops"] == 2 * a["flops"]


# --------------------------------------------------------------------------------------- the gate


@pytest.mark.parametrize("gamma", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("name", ["hpt", "hpt_official", "hpt_global_token", "off_on"])
def test_the_gate_decides_between_rollouts_and_demonstration(tiny, tmp_path, plans, name, gamma):
    config = tiny.config(name, steps=4, prompts_per_step=8, options={"gamma": gamma})
    lines = run(config, tmp_path / "run").metrics()
    switched = Counter()
    for plan, line in zip(plans, lines, strict=True):
        batch = plan.batch
        weight = torch.stack([part.scale * part.advantage for part in plan.parts]).abs().sum(0)
        has_weight, offline = (weight > 0).any(1), batch.offline.any(1)
        for slot, solved in enumerate(line["solved"]):
            own = batch.group == slot
            if not (own & offline).any():
                continue
            assert solved == (batch.reward[own & ~offline] > 0).double().mean()
            supervised = solved <= gamma + ROUNDING
            switched[supervised] += 1
            assert (own & offline & has_weight).any() == supervised
            if supervised:
                assert not (own & ~offline & has_weight).any()
            elif 0 < solved < 1:
                assert (own & ~offline & has_weight).any()
    assert switched[True]
    assert gamma == 1 or switched[False]


def test_the_offline_ratio_of_luffy_is_one_in_n_plus_1(tiny, tmp_path):
    every = tmp_path / "every.jsonl"
    tiny_runs.write_problems(every, demonstrations=30)
    for n in (2, 5):
        config = tiny.config("luffy", group_size=n, data=tiny.data(train=str(every)))
        lines = run(config, tmp_path / str(n)).metrics()
        assert [line["offline_ratio"] for line in lines] == [1 / (n + 1)] * 3


def test_the_offline_ratio_of_hpt_is_of_the_gated(tiny, tmp_path, plans):
    lines = run(tiny.config("hpt", steps=4), tmp_path / "run").metrics()
    for plan, line in zip(plans, lines, strict=True):
        batch = plan.batch
        with_demo = set(batch.group[batch.offline.any(1)].tolist())
        gated = [s for s, p in enumerate(line["solved"]) if p == 0 and s in with_demo]
        rollouts = 4 * (4 - len(gated))
        assert line["demonstrations"] == len(gated)
        assert line["offline_ratio"] == len(gated) / (len(gated) + rollouts)
    assert len({line["offline_ratio"] for line in lines}) > 1


# ------------------------------------------------------------------------------- order and supply


@given(
    count=st.integers(1, 40), size=st.integers(1, 50), seed=st.integers(0, 99), n=st.integers(1, 9)
)
def test_each_epoch_asks_every_question_once(count, size, seed, n):
    asked = [i for step in range(n) for i in question_order(count, size, step, seed)]
    assert len(asked) == n * size
    for start in range(0, len(asked) - count + 1, count):
        assert sorted(asked[start : start + count]) == list(range(count))
    assert question_order(count, size, n - 1, seed) == asked[-size:]  # whatever came before


def test_epochs_and_seeds_are_shuffled_anew():
    orders = [tuple(question_order(50, 50, step, seed)) for step in (0, 1) for seed in (0, 1)]
    assert len(set(orders)) == 4


@pytest.mark.parametrize("name", SFT_LIKE)
def test_only_questions_with_a_demonstration_are_asked(tiny, tmp_path, plans, name):
    """20 of 30 problems are worked, 4 are held out: 26 can be asked, at most 20 are."""
    config = tiny.config(name, steps=4, prompts_per_step=8)
    run(config, tmp_path / "run")
    assert all(len(plan.batch.mask) == 8 for plan in plans)
    asked = Counter(tuple(row[:4].tolist()) for plan in plans for row in plan.batch.tokens)
    assert 16 <= len(asked) <= 20
    assert max(asked.values()) - min(asked.values()) <= 1


def test_a_demonstration_is_offered_only_where_there_is_one(tiny, tmp_path, plans):
    few = tmp_path / "few.jsonl"
    tiny_runs.write_problems(few, demonstrations=3)
    config = tiny.config("luffy", steps=7, data=tiny.data(train=str(few), validation=str(few)))
    lines = run(config, tmp_path / "run").metrics()
    assert sum(line["demonstrations"] for line in lines) <= 3
    offline = torch.cat([plan.batch.offline.any(1) for plan in plans])
    assert 1 <= offline.sum() <= 3  # 28 of 30 questions in the first epoch


def test_fewer_questions_than_a_step_asks(tiny, tmp_path, plans):
    few = tmp_path / "few.jsonl"
    tiny_runs.write_problems(few, demonstrations=3, count=3)
    config = tiny.config(
        "luffy", prompts_per_step=7, steps=2, data=tiny.data(train=str(few), validation=str(few))
    )
    run(config, tmp_path / "run")
    assert all(plan.batch.num_questions == 7 for plan in plans)
    prompts = Counter(tuple(r[:4].tolist()) for plan in plans for r in plan.batch.tokens)
    assert len(prompts) == 3


# ---------------------------------------------------------------------------------------- learning


def likelihood(folder, questions):
    model, total, count = AutoModelForCausalLM.from_pretrained(folder), 0.0, 0
    for q in questions:
        ids = torch.tensor([q.prompt + q.demonstration])
        with torch.no_grad():
            logp = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        own = logp.gather(1, ids[0, 1:, None])[len(q.prompt) - 1 :]
        total, count = total + own.sum().item(), count + len(own)
    return total / count


@pytest.mark.parametrize("name", ["sft", "hpt", "srft"])
def test_demonstrations_become_likelier(tiny, tmp_path, name):
    trainer = Trainer(tiny.config(name, steps=15, lr=3e-3), RunFolder(tmp_path))
    trainer.run()
    shown = [q for q in trainer.prepared.questions if q.demonstration]
    assert likelihood(tmp_path / "policy", shown) > likelihood(tiny.model, shown) + 0.1


def test_rewards_rise_under_grpo(tiny, tmp_path):
    config = tiny.config("dr_grpo", steps=30, prompts_per_step=16, group_size=8, lr=3e-3)
    rewards = [line["reward"] for line in run(config, tmp_path).metrics()]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.1


def test_the_entropy_bonus_raises_entropy(tiny, tmp_path):
    def entropy(bonus):
        config = tiny.config("grpo", steps=12, lr=3e-3, entropy_bonus=bonus, prompts_per_step=8)
        lines = run(config, tmp_path / str(bonus)).metrics()
        return [line["entropy"] for line in lines if "entropy" in line][-1]

    assert entropy(1.0) > entropy(0.0) + 0.1


def test_entropy_is_of_the_policy_and_not_of_the_method(tiny, tmp_path):
    """At the first step all methods have the same policy and rollouts."""
    first = [
        run(tiny.config(name, steps=1, group_size=4), tmp_path / name).metrics()[0]["entropy"]
        for name in ("grpo", "srft", "hpt")
    ]
    assert first[0] > 0.1
    assert first == [first[0]] * 3


# ------------------------------------------------------------------------------ stages and records


def two_stages(tiny, **changes):
    def stage(name, steps):
        return tiny.config(name, steps=steps).model_dump(mode="json")["stages"][0]

    return tiny.config("sft", stages=[stage("sft", 3), stage("grpo", 2)], **changes)


def test_stages_follow_each_other(tiny, tmp_path, monkeypatch):
    config = two_stages(tiny)
    states, start = [], Updater.start

    def spy(self, optimizer):
        start(self, optimizer)
        moments = self.strategy.optimizer.state
        states.append((self.stage.algorithm, len(moments), self.progress.updates))

    monkeypatch.setattr(Updater, "start", spy)
    lines = run(config, tmp_path).metrics()
    assert [(line["step"], line["stage"]) for line in lines] == [
        (1, 0),
        (2, 0),
        (3, 0),
        (4, 1),
        (5, 1),
    ]
    assert ["reward" in line for line in lines] == [False, False, False, True, True]
    assert states == [("sft", 0, 0), ("grpo", 0, 0)]


def test_validation_falls_due(tiny, tmp_path):
    every = {"every": 2, "validation_samples": 2, "test_samples": 3}
    folder = run(tiny.config("sft", steps=5, evaluation=every), tmp_path)
    due = [line["step"] for line in folder.metrics() if "validation" in line]
    assert due == [2, 4, 5]
    assert set(folder.result["suites"]) == {"held"}


def test_a_finished_run_is_not_repeated(tiny, tmp_path, monkeypatch):
    config = tiny.config("sft")
    run(config, tmp_path)
    before = weights(RunFolder(tmp_path))
    monkeypatch.setattr(Trainer, "step", None)
    assert Trainer(config, RunFolder(tmp_path)).run() == RunFolder(tmp_path).result
    assert weights(RunFolder(tmp_path)) == before


def test_another_configuration_is_refused_even_when_finished(tiny, tmp_path):
    run(tiny.config("sft"), tmp_path)
    with pytest.raises(UpgeError, match="another configuration; choose another --out"):
        run(tiny.config("sft", seed=1), tmp_path)


def test_the_key_is_of_all_that_determines_numbers(tiny):
    config = tiny.config("sft")
    assert config.key == tiny.config("sft").key
    assert config.key == config.model_copy(update={"name": "another"}).key
    others = [
        tiny.config("sft", seed=1),
        tiny.config("sft", lr=2e-3),
        tiny.config("dft"),
        tiny.config("sft", data=tiny.data(held_out=5)),
    ]
    assert len({config.key, *(other.key for other in others)}) == 5
    assert run_folder(tiny.folder, config).path.name == f"sft-s0-{config.key}"


def test_the_configuration_and_its_origin_are_kept(tiny, tmp_path):
    config = tiny.config("hpt")
    run(config, tmp_path)
    kept = json.loads((tmp_path / "config.json").read_text())
    assert kept.pop("key") == config.key
    assert RunConfig.model_validate_json(json.dumps(kept)) == config
    (start,) = json.loads((tmp_path / "provenance.json").read_text())["starts"]
    assert {"commit", "python", "torch", "hardware", "date"} <= set(start)


def test_the_trained_model_is_a_hub_model(tiny, tmp_path):
    run(tiny.config("sft", steps=30, lr=5e-3), tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
    ids = tokenizer("3+4=", return_tensors="pt").input_ids
    text = tokenizer.decode(model.generate(ids, max_new_tokens=8, do_sample=False)[0, 4:])
    assert re.match(r"\d\d#\d", text)  # worked, as the demonstrations are


def test_only_the_metrics_observed_are_recorded(tiny, tmp_path):
    seen = []
    Trainer(tiny.config("hpt"), RunFolder(tmp_path), seen.append).run()
    assert seen == RunFolder(tmp_path).metrics()


def test_a_last_update_that_breaks_the_policy_is_no_result(tiny, tmp_path, monkeypatch):
    apply = Updater._apply

    def spoil(self, *args):
        apply(self, *args)
        next(self.strategy.whole.parameters()).data.fill_(float("nan"))

    monkeypatch.setattr(Updater, "_apply", spoil)
    measured = {"every": 1, "validation_samples": 2, "test_samples": None}
    config = tiny.config("sft", steps=1, evaluation=measured)
    with pytest.raises(UpgeError, match="no finite probability, it has broken; start anew with a"):
        run(config, tmp_path)
    assert run_folder(tmp_path, config).result is None
