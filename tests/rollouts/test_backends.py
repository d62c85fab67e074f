"""Backends by name, without the optional ones; how far a sampler is from the policy."""

import copy
import math
import os
from functools import partial

import pytest
import tiny_runs
import torch
from hypothesis import given
from hypothesis import strategies as st

from upge import UpgeError
from upge.common.config import build
from upge.common.optional import available
from upge.models.tiny import build_model, build_tokenizer
from upge.rollouts import CachedSampler, backends, check_backend, open_sampler
from upge.rollouts.mismatch import mismatch, mismatch_sums
from upge.rollouts.vllm import _environment
from upge.training import prepare
from upge.training.config import RunConfig

logs = st.lists(st.floats(-3, 0), min_size=1, max_size=6)


@pytest.fixture
def open_as():
    tokenizer = build_tokenizer("01+=")
    model = build_model(len(tokenizer), hidden=64, layers=1, heads=2, seed=0)
    return partial(open_sampler, model=model, tokenizer=tokenizer)


def test_backends_by_name(open_as):
    assert isinstance(open_as("transformers"), CachedSampler)
    with pytest.raises(UpgeError, match="unknown backend 'vlm'; did you mean 'vllm'"):
        open_as("vlm")


@pytest.mark.skipif(available("vllm"), reason="vLLM is installed")
def test_a_missing_backend_says_how_to_install_it(open_as):
    with pytest.raises(UpgeError, match=r"vllm can't be imported.*pip install 'upge\[vllm\]'"):
        open_as("vllm")
    with pytest.raises(UpgeError, match=r"vllm is not installed; .* take backend: transformers"):
        check_backend("vllm")
    check_backend("transformers")


@pytest.mark.parametrize(
    ("device", "shown", "seen"),
    [("cuda:1", "4,5", "5"), ("cuda:1", None, "1"), ("cpu", "4,5", "4,5"), ("cpu", None, None)],
)
def test_an_engine_sees_its_policys_gpu_and_no_launcher(monkeypatch, tmp_path, device, shown, seen):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    launched = {"RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT", "TORCHELASTIC_RUN_ID"}
    for name in (*launched, "VLLM_LOGGING_LEVEL", "RANKS"):
        monkeypatch.setenv(name, "1")
    before = dict(os.environ)
    with _environment(tmp_path, torch.device(device)):
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == seen
        assert not launched & os.environ.keys()
        assert os.environ["VLLM_LOGGING_LEVEL"] == os.environ["RANKS"] == "1"  # the user's
        assert os.environ["VLLM_NO_USAGE_STATS"] == "1"
    assert os.environ == before


def test_the_default_backend_leaves_a_runs_key_alone():
    given = {"name": "x", "stages": [{"algorithm": "hpt", "steps": 3, "lr": 1e-3}]}
    keys = {name: build(given | own, RunConfig).key for name, own in CHOICES.items()}
    assert keys["none"] == keys["transformers"] != keys["vllm"]


CHOICES = {"none": {}} | {name: {"backend": name} for name in ("transformers", "vllm")}


@given(ours=logs, data=st.data())
def test_mismatch_by_hand(ours, data):
    """Split over two processes, with a token that was not sampled."""
    theirs = data.draw(st.lists(st.floats(-3, 0), min_size=len(ours), max_size=len(ours)))
    parts = [
        mismatch_sums(
            torch.tensor([[a, 0.0]]), torch.tensor([[b, -2.0]]), torch.tensor([[True, False]])
        )
        for a, b in zip(ours, theirs, strict=True)
    ]
    found = mismatch(torch.stack(parts))
    ratios = [math.exp(a - b) for a, b in zip(ours, theirs, strict=True)]
    close = partial(pytest.approx, rel=1e-5, abs=1e-6)
    assert found["mismatch/logp"] == close(sum(abs(math.log(r)) for r in ratios) / len(ratios))
    assert found["mismatch/kl"] == close(sum(r - 1 - math.log(r) for r in ratios) / len(ratios))
    assert found["mismatch/ratio"] == close(max(ratios))


def test_no_tokens_are_no_mismatch():
    nothing = mismatch_sums(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2).bool())
    assert mismatch(nothing[None]) == dict.fromkeys(
        ("mismatch/logp", "mismatch/kl", "mismatch/ratio"), 0.0
    )


# ------------------------------------------------------------------ what a is_cap is there for


class Copy:
    """Samples from a copy of the policy, as engines do; a stale one keeps its first weights."""

    def __init__(self, model, tokenizer, dtype, device, stale):
        self.model, self.copy, self.stale = model, copy.deepcopy(model), stale
        self.sampler = CachedSampler(self.copy, tokenizer.eos_token_id)

    def __call__(self, *request):
        return self.sampler(*request)

    def synchronize(self):
        if not self.stale:
            self.copy.load_state_dict(self.model.state_dict())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_runs.Tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def train(tiny, tmp_path, monkeypatch):
    """Metrics and weights of eight steps of REINFORCE with a cap, on a stale copy or not."""

    def run(stale, **options):
        own = partial(Copy, stale=stale)
        monkeypatch.setattr(backends, "_OPEN", {**backends._OPEN, "vllm": own})
        monkeypatch.setattr(prepare, "check_backend", lambda name: None)
        config = tiny.config("reinforce", backend="vllm", steps=8, lr=1e-2, options=options)
        folder = tiny_runs.run(config, tmp_path / f"{stale}-{options}")
        return folder.metrics(), tiny_runs.weights(folder)

    return run


@pytest.mark.slow
def test_a_cap_bounds_what_stale_weights_do(train):
    """Ratios beyond the cap are cut there, others are not touched."""
    lines, capped = train(stale=True, is_cap=1.2)
    _, wide = train(stale=True, is_cap=1e9)
    assert max(line["mismatch/ratio"] for line in lines) > 1.2
    assert capped != wide
    lines, capped = train(stale=False, is_cap=1.2)
    _, wide = train(stale=False, is_cap=1e9)
    assert max(line["mismatch/ratio"] for line in lines) < 1.001
    assert capped == wide
