"""The estimator inside TRL's GRPOTrainer.

Gradients are those that Trainer accumulates for an optimizer step, compared with the library's on a
batch that is put together here, from log-probabilities of one unpadded row at a time.
"""

from __future__ import annotations

import copy
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import upge
from upge.algorithms import REGISTRY
from upge.models.tiny import build_model, build_tokenizer
from upge.verification.parity.isolation import isolated

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
transformers = pytest.importorskip("transformers")

from upge.integrations.trl import UpgeTrainer  # noqa: E402
from upge.integrations.trl import _text as read_demonstration  # noqa: E402

ALPHABET = "0123456789+=#"
LONGEST = 9

#: Prompt, demonstration and four rollouts; "#" at the end marks success.
QUESTIONS: tuple[tuple[str, str | None, tuple[str, ...]], ...] = (
    ("12+3=", "15#", ("1", "2345", "34", "567")),  # all fail: gated
    ("4+4=", "4+4=8#", ("8#", "9", "77", "8#")),
    ("1=", None, ("2", "3", "45", "6")),  # all fail, and nothing to imitate
    ("90+10=", "100", ("100#", "10", "1#", "2#")),  # a demonstration that fails
)
SIZE = 4

#: Gradients are sums of some hundred float32 terms; the largest difference seen was 4e-7 of the
#: largest entry.
TOLERANCE = 5e-6

TRAINED = sorted(name for name in REGISTRY if "values" not in upge.get(name).needs)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> Any:
    with isolated():
        yield


def tokenizer() -> Any:
    made = build_tokenizer(ALPHABET)
    made.padding_side = "left"
    return made


def model(seed: int = 0) -> Any:
    return build_model(len(ALPHABET) + 2, hidden=32, layers=2, heads=4, seed=seed)


def reward(completions: list[str], **_: Any) -> list[float]:
    return [float(text.endswith("#")) for text in completions]


def encoded(text: str, end: bool = False) -> list[int]:
    made = tokenizer()
    return [*made.encode(text, add_special_tokens=False), *([made.eos_token_id] if end else [])]


def row_logp(policy: Any, prompt: str, response: str) -> tuple[Tensor, Tensor]:
    """Log π and entropy of a response's tokens, by the model's own logits."""
    before, after = encoded(prompt), encoded(response, end=True)
    logits = policy(torch.tensor([before + after])).logits[0, len(before) - 1 : -1]
    log_pi = logits.log_softmax(-1)
    entropy = -(log_pi.exp() * log_pi).sum(-1)
    return log_pi.gather(1, torch.tensor(after)[:, None])[:, 0], entropy


def sampler_logp(policy: Any, prompt: str, response: str) -> list[float]:
    """Of a sampler that differs from the policy, by a draw that hangs on the row alone."""
    with torch.no_grad():
        logp, _ = row_logp(policy, prompt, response)
    noise = torch.randn(len(logp), generator=torch.Generator().manual_seed(len(prompt + response)))
    return (logp - 0.4 * noise).clamp(max=-1e-3).tolist()


def rollout_func(policy: Any) -> Callable[..., dict[str, Any]]:
    """The written rollouts instead of sampled ones, with the other sampler's probabilities."""

    def sample(prompts: list[str], _: Any) -> dict[str, Any]:
        answers = {prompt: rollouts for prompt, _, rollouts in QUESTIONS}
        rows = [(prompt, answers[prompt][i % SIZE]) for i, prompt in enumerate(prompts)]
        return {
            "prompt_ids": [encoded(prompt) for prompt, _ in rows],
            "completion_ids": [encoded(response, end=True) for _, response in rows],
            "logprobs": [sampler_logp(policy, *row) for row in rows],
        }

    return sample


class Gradients(transformers.TrainerCallback):  # type: ignore[misc]
    """Keeps each step's gradient, and the parameters it was taken at."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, Tensor], Any]] = []

    def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
        taken = {name: p.grad.clone() for name, p in model.named_parameters()}
        self.seen.append((taken, copy.deepcopy(model.state_dict())))


def table(*, demonstrations: bool = True) -> Any:
    rows = [{"prompt": p, "demonstration": d} for p, d, _ in QUESTIONS]
    data = datasets.Dataset.from_list(rows)
    return data if demonstrations else data.remove_columns("demonstration")


def config(folder: Path, **settings: Any) -> Any:
    return trl.GRPOConfig(
        **{
            "output_dir": str(folder),
            "max_steps": 1,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 4,
            "num_generations": SIZE,
            "max_completion_length": LONGEST,
            "max_grad_norm": 0.0,
            "shuffle_dataset": False,
            "learning_rate": 0.1,
            "optim": "sgd",
            "lr_scheduler_type": "constant",
            "gradient_checkpointing": False,
            "save_strategy": "no",
            "report_to": "none",
            "bf16": False,
            "use_cpu": True,
            "disable_tqdm": True,
        }
        | settings
    )


def trained(
    folder: Path, algorithm: Any, kind: Any = UpgeTrainer, data: Any = None, **settings: Any
) -> tuple[Any, Gradients]:
    policy, gradients = model(), Gradients()
    trainer = kind(
        policy,
        reward_funcs=reward,
        args=config(folder, **settings),
        train_dataset=table() if data is None else data,
        processing_class=tokenizer(),
        callbacks=[gradients],
        rollout_func=rollout_func(copy.deepcopy(policy)),
        **({"algorithm": algorithm} if algorithm is not None else {}),
    )
    trainer.train()
    return trainer, gradients


def expected(estimator: upge.Estimator, policy: Any, questions: slice = slice(None)) -> Any:
    """The library's gradient on the same rows, with the whole batch in one piece."""
    rows = [
        (i, prompt, response, offline)
        for i, (prompt, shown, rollouts) in enumerate(QUESTIONS[questions])
        for response, offline in [
            *((r, False) for r in rollouts),
            *([(shown, True)] if shown else []),
        ]
    ]
    likelihoods = [row_logp(policy, prompt, response) for _, prompt, response, _ in rows]
    sampler = model()
    old = [torch.tensor(sampler_logp(sampler, p, r)) for _, p, r, _ in rows]
    logp, entropy = (
        torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
        for parts in zip(*likelihoods, strict=True)
    )
    lengths = torch.tensor([len(part) for part, _ in likelihoods])
    batch = upge.TrajectoryBatch(
        mask=torch.arange(logp.shape[1]) < lengths[:, None],
        reward=torch.tensor([float(response.endswith("#")) for _, _, response, _ in rows]),
        group=torch.tensor([i for i, *_ in rows]),
        offline=torch.tensor([offline for *_, offline in rows]),
        old_logp=torch.nn.utils.rnn.pad_sequence(old, batch_first=True),
        max_length=LONGEST,
    )
    policy.zero_grad()
    estimator(batch, logp, entropy.detach()).loss.backward()
    return {name: p.grad for name, p in policy.named_parameters()}


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    scale = max(float(g.abs().max()) for g in theirs.values())
    assert scale > 0
    worst = max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)
    assert worst <= tolerance * scale


@pytest.mark.parametrize("name", TRAINED)
def test_gradient_is_the_librarys(name: str, tmp_path: Path) -> None:
    _, gradients = trained(tmp_path, name)
    ((taken, _),) = gradients.seen
    assert_equal(taken, expected(upge.get(name), model()), TOLERANCE)


@pytest.mark.parametrize("name", ["hpt", "hpt_global_token", "srft"])
@pytest.mark.parametrize(("rows", "accumulated"), [(16, 1), (8, 2), (2, 8), (1, 16)])
def test_gradient_does_not_hang_on_the_accumulation(
    name: str, rows: int, accumulated: int, tmp_path: Path
) -> None:
    split = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulated}
    _, gradients = trained(tmp_path, name, **split)
    ((taken, _),) = gradients.seen
    assert_equal(taken, expected(upge.get(name), model()), TOLERANCE)


@pytest.mark.parametrize("name", ["hpt_official", "luffy", "srft"])
def test_steps_of_one_sampling_are_normalised_one_by_one(name: str, tmp_path: Path) -> None:
    """Two optimizer steps on one generation batch, then both again; the policy moves on."""
    settings = {"steps_per_generation": 4, "gradient_accumulation_steps": 2}
    _, gradients = trained(tmp_path, name, **settings, num_iterations=2, max_steps=4)
    assert len(gradients.seen) == 4
    for i, (taken, parameters) in enumerate(gradients.seen):
        policy = model()
        policy.load_state_dict(parameters)
        half = slice(0, 2) if i % 2 == 0 else slice(2, 4)
        assert_equal(taken, expected(upge.get(name), policy, half), TOLERANCE)


def test_dr_grpo_is_trls(tmp_path: Path) -> None:
    """Against TRL's own loss: no std, fixed length. It knows no other sampler than the policy."""
    settings = {"loss_type": "dr_grpo", "scale_rewards": "none"}
    _, theirs = trained(tmp_path, None, trl.GRPOTrainer, **settings)
    _, ours = trained(tmp_path, "dr_grpo", OnPolicy)
    assert_equal(ours.seen[0][0], theirs.seen[0][0], TOLERANCE)


class OnPolicy(UpgeTrainer):
    """Forgets what the sampler says of its own probabilities, as TRL does."""

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        rollouts = super()._generate_and_score_completions(inputs)
        rollouts.pop("sampling_per_token_logps")
        return rollouts


def test_demonstrations_are_not_read_where_no_term_reads_them(tmp_path: Path) -> None:
    _, with_them = trained(tmp_path, "grpo")
    _, without = trained(tmp_path, "grpo", data=table(demonstrations=False))
    assert_equal(with_them.seen[0][0], without.seen[0][0], 0.0)


def test_a_rollout_without_reward_takes_part_in_nothing(tmp_path: Path) -> None:
    """As in a group that lacks it: the other three are centred among themselves."""

    class Ungraded(UpgeTrainer):
        def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
            rewards = super()._calculate_rewards(*args, **kwargs)
            rewards[5::SIZE] = torch.nan  # the second rollout of all questions but the first
            return rewards

    trainer, gradients = trained(tmp_path, "grpo", Ungraded)
    assert trainer.state.log_history
    kept = [(p, d, r[:1] + r[2:]) if i else (p, d, r) for i, (p, d, r) in enumerate(QUESTIONS)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "QUESTIONS", tuple(kept))
        assert_equal(gradients.seen[0][0], expected(upge.get("grpo"), model()), TOLERANCE)


#: Rollouts of TRL that max_completion_length cut off: question and place.
CUT = {(1, 2), (3, 1), (3, 3)}


def cut_off(policy: Any) -> Callable[..., dict[str, Any]]:
    """As ``rollout_func``, with no end behind the responses in CUT."""
    places = {
        (prompt, rollouts[j]): (i, j) in CUT
        for i, (prompt, _, rollouts) in enumerate(QUESTIONS)
        for j in range(SIZE)
    }

    def sample(prompts: list[str], trainer: Any) -> dict[str, Any]:
        rows = rollout_func(policy)(prompts, trainer)
        texts = {p: r for p, _, r in QUESTIONS}
        for i, prompt in enumerate(prompts):
            if places[prompt, texts[prompt][i % SIZE]]:
                for name in ("completion_ids", "logprobs"):
                    rows[name][i] = rows[name][i][:-1]
        return rows

    return sample


def test_truncated_completions_without_loss_stay_in_their_groups(tmp_path: Path) -> None:
    """Dr. GRPO by hand: Â = R − mean over all rollouts, the truncated among them."""
    policy, gradients = model(), Gradients()
    UpgeTrainer(
        policy,
        reward_funcs=reward,
        args=config(tmp_path, mask_truncated_completions=True),
        train_dataset=table(),
        processing_class=tokenizer(),
        callbacks=[gradients],
        rollout_func=cut_off(copy.deepcopy(policy)),
        algorithm="dr_grpo",
    ).train()
    policy, total = model(), torch.zeros(())
    for i, (prompt, _, rollouts) in enumerate(QUESTIONS):
        mean = sum(reward(list(rollouts))) / SIZE
        for j, response in enumerate(rollouts):
            if (i, j) in CUT:
                continue
            logp, _ = row_logp(policy, prompt, response)
            old = torch.tensor(sampler_logp(model(), prompt, response))
            advantage = float(response.endswith("#")) - mean
            ratio = (logp - old).exp()
            clipped = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            total = total - clipped.sum() / LONGEST
    (total / (len(QUESTIONS) * SIZE)).backward()
    wanted = {name: p.grad for name, p in policy.named_parameters()}
    assert_equal(gradients.seen[0][0], wanted, TOLERANCE)


def test_tokens_whose_log_probability_the_sampler_does_not_tell(tmp_path: Path) -> None:
    """Their ratio is 1 at the first step, as if the sampler had told the policy's own."""

    def partly(policy: Any, known: bool) -> Callable[..., dict[str, Any]]:
        def sample(prompts: list[str], trainer: Any) -> dict[str, Any]:
            rows = rollout_func(policy)(prompts, trainer)
            texts = {p: r for p, _, r in QUESTIONS}
            for i, prompt in enumerate(prompts):
                logp, _ = row_logp(policy, prompt, texts[prompt][i % SIZE])
                rows["logprobs"][i][-1] = logp[-1].item() if known else None
            return rows

        return sample

    taken = []
    for known in (True, False):
        policy, gradients = model(), Gradients()
        UpgeTrainer(
            policy,
            reward_funcs=reward,
            args=config(tmp_path),
            train_dataset=table(),
            processing_class=tokenizer(),
            callbacks=[gradients],
            rollout_func=partly(copy.deepcopy(policy), known),
            algorithm="grpo",
        ).train()
        taken.append(gradients.seen[0][0])
    assert_equal(taken[1], taken[0], TOLERANCE)


@pytest.mark.parametrize(("success", "shown"), [(None, 1 / (1 + 3 * SIZE)), (2.0, 3 / (3 + SIZE))])
def test_the_threshold_of_success_opens_the_gate(
    success: float | None, shown: float, tmp_path: Path
) -> None:
    """No reward reaches 2: all questions with a demonstration are gated, rollouts of one remain."""
    trainer = UpgeTrainer(
        model(),
        reward_funcs=reward,
        args=config(tmp_path, logging_steps=1),
        train_dataset=table(),
        processing_class=tokenizer(),
        rollout_func=rollout_func(model()),
        algorithm="hpt",
        success=success,
    )
    trainer.train()
    (seen,) = [row for row in trainer.state.log_history if "offline_ratio" in row]
    assert seen["offline_ratio"] == pytest.approx(shown)


def test_metrics_tell_the_gate(tmp_path: Path) -> None:
    trainer, _ = trained(tmp_path, "hpt", logging_steps=1)
    (seen,) = [row for row in trainer.state.log_history if "offline_ratio" in row]
    # Question 1 is gated: its demonstration stands beside the rollouts of the other three.
    assert seen["offline_ratio"] == pytest.approx(1 / (1 + 3 * SIZE))
    assert seen["term1/mass"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hpt_global_token", "srft"])
def test_two_processes_take_the_gradient_of_one(name: str, tmp_path: Path) -> None:
    """Each has two of the four questions; rows that bear weight differ in number and length."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command = [*launch, "--master_port", str(free_port()), __file__, name, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr[-2000:]
    taken = torch.load(tmp_path / "gradient.pt")
    assert_equal(taken, expected(upge.get(name), model()), TOLERANCE)


def free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("localhost", 0))
        return int(chosen.getsockname()[1])


def one_of_several(name: str, folder: Path) -> None:
    """What each process of the test above does."""
    split = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    trainer, gradients = trained(folder, name, **split, ddp_backend="gloo")
    if trainer.accelerator.is_main_process:
        torch.save(gradients.seen[0][0], folder / "gradient.pt")


def test_evaluation_is_trls(tmp_path: Path) -> None:
    trainer, _ = trained(tmp_path, "hpt", per_device_eval_batch_size=SIZE)
    seen = trainer.evaluate(table())
    rewards = [float(text.endswith("#")) for *_, rollouts in QUESTIONS for text in rollouts]
    assert seen["eval_reward"] == pytest.approx(sum(rewards) / len(rewards))


def conversation(text: str, role: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def test_conversations_are_read_as_texts(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    seen: list[Any] = []

    def graded(completions: list[Any], **_: Any) -> list[float]:
        seen.append(completions)
        return [0.0] * len(completions)

    data = datasets.Dataset.from_list(
        [
            {
                "prompt": conversation(p, "user"),
                "demonstration": conversation(d or "0", "assistant"),
            }
            for p, d, _ in QUESTIONS
        ]
    )
    made = tokenizer()
    made.chat_template = template
    trainer = UpgeTrainer(
        model(),
        reward_funcs=graded,
        args=config(tmp_path),
        train_dataset=data,
        processing_class=made,
        algorithm="sft",
    )
    trainer.train()
    assert seen[1] == [conversation(d or "0", "assistant") for _, d, _ in QUESTIONS]


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "ppo": ("ppo", {}, "needs a critic's values"),
    "no-column": ("hpt", {"data": table(demonstrations=False)}, "has no column 'demonstration'"),
    "empty-column": (
        "hpt",
        {"data": table().map(lambda _: {"demonstration": ""})},
        "column 'demonstration' is empty",
    ),
    "too-long": ("hpt", {"max_completion_length": 6}, "longest demonstration has 7 tokens"),
    "beta": ("hpt", {"beta": 0.1}, "GRPOConfig.beta: got 0.1"),
    "loss-type": ("hpt", {"loss_type": "grpo"}, "GRPOConfig.loss_type: got 'grpo'"),
    "sampling": (
        "hpt",
        {"steps_per_generation": 2},
        "GRPOConfig.steps_per_generation: got 2, wanted a multiple",
    ),
    "split-questions": (
        "hpt",
        {
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "steps_per_generation": 8,
        },
        "× gradient_accumulation_steps is 2",
    ),
    "none": ([], {}, "algorithm: got [], wanted a name of the registry or an estimator"),
    "number": (
        "hpt",
        {"data": table(demonstrations=False).add_column("demonstration", [3] * 4)},
        "demonstration: got 3, wanted a text or messages with a text as content",
    ),
    "no-content": (
        "hpt",
        {"data": table().map(lambda _: {"demonstration": [{"role": "assistant"}]})},
        "demonstration: got [{'role': 'assistant'}], wanted a text or messages",
    ),
    "images": ("grpo", {"data": table().add_column("image", [None] * 4)}, "has images"),
    "unknown": ("htp", {}, "unknown algorithm 'htp'"),
}


@pytest.mark.parametrize(
    ("demonstration", "text"),
    [
        (None, ""),
        ("", ""),
        (" \n", ""),
        ([], ""),
        (conversation("  ", "assistant"), ""),
        (" 5", " 5"),
        ([*conversation("1 + 1?", "user"), *conversation("2", "assistant")], "2"),
    ],
)
def test_a_demonstration_is_a_text_or_messages(demonstration: Any, text: str) -> None:
    assert read_demonstration(demonstration) == text


@pytest.mark.parametrize(
    "demonstration",
    [0, {}, {"content": "5"}, ["text"], [None], [{"role": "assistant"}], [{"content": None}]],
)
def test_another_demonstration_is_refused(demonstration: Any) -> None:
    """Of no content ``None``, the word, was made."""
    with pytest.raises(upge.UpgeError, match=r"^demonstration: got .*, wanted a text or"):
        read_demonstration(demonstration)


@pytest.mark.parametrize("example", ["trl_example", "verl_example"])
@pytest.mark.parametrize(
    ("algorithm", "sentence"), [("htp", "unknown algorithm 'htp'"), ("ppo", "ppo needs a critic's")]
)
@pytest.mark.slow
def test_examples_refuse_without_a_traceback(example: str, algorithm: str, sentence: str) -> None:
    if example == "verl_example":
        pytest.importorskip("verl")
    command = [sys.executable, "-m", f"experiments.integrations.{example}", "--algorithm"]
    told = subprocess.run([*command, algorithm], capture_output=True, text=True, check=False)
    assert told.returncode == 2 and "Traceback" not in told.stderr
    assert told.stderr.splitlines()[-1].startswith(f"error: {sentence}")


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    algorithm, settings, message = REFUSED[case]
    with pytest.raises(upge.UpgeError, match=re.escape(message)) as raised:
        trained(tmp_path, algorithm, **settings)
    assert "\n" not in str(raised.value)


def test_an_environment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(upge.UpgeError, match="environment_factory"):
        UpgeTrainer(
            model(), args=config(tmp_path), train_dataset=table(), environment_factory=object
        )


def test_a_transformers_that_divides_twice_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to 5.5.3 the Trainer told Accelerate to divide by the accumulation steps as well."""
    plugin = transformers.trainer.GradientAccumulationPlugin

    def as_in_5_5_3(**_: Any) -> Any:
        return plugin(num_steps=4)

    monkeypatch.setattr(transformers.trainer, "GradientAccumulationPlugin", as_in_5_5_3)
    with pytest.raises(upge.UpgeError, match=r"divides accumulated gradients twice.*5\.5\.4"):
        trained(tmp_path, "grpo")


def test_without_trl_one_sentence() -> None:
    code = "import sys; sys.modules['trl'] = None; import upge.integrations.trl"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "UpgeError: trl can't be imported" in told.stderr
    assert "pip install 'upge[trl]'" in told.stderr.splitlines()[-1]


def test_three_real_steps_of_hpt() -> None:
    """Sampled, graded and stepped by TRL on the embedded base; unsolved questions are imitated."""
    from transformers import PrinterCallback

    from experiments.integrations import trl_example

    trainer = trl_example.train("hpt", steps=3)
    callbacks = trainer.callback_handler.callbacks
    assert not any(isinstance(callback, PrinterCallback) for callback in callbacks)
    steps = [row for row in trainer.state.log_history if "offline_ratio" in row]
    assert len(steps) == 3
    for row in steps:
        assert 0 < row["offline_ratio"] < 1 and row["term1/mass"] > 0
        assert torch.isfinite(torch.tensor(row["grad_norm"])) and row["grad_norm"] > 0


if __name__ == "__main__":
    one_of_several(sys.argv[1], Path(sys.argv[2]))
