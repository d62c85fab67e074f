"""Base models: recipes, pre-training that repeats bit for bit, folders that are whole."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from upge import UpgeError
from upge.common.optional import available

if not available("transformers"):
    pytest.skip("transformers is not installed", allow_module_level=True)

from experiments.bases import __main__ as command
from experiments.bases import build, measure
from upge.models import bases, pretraining
from upge.models.bases import CHECKPOINTS, RECORD, base_folder, base_names
from upge.models.pretrained import load_pretrained
from upge.models.pretraining import WORKED, PretrainingRecipe, examples, pretrain
from upge.tasks.problem import Problem
from upge.tasks.synthetic import FAMILIES, LEVELS, split_of, suite

#: Trained in a second, to no use.
MINUTE = PretrainingRecipe(hidden=16, layers=1, heads=2, steps=3, batch_tokens=256)
NAMES = ["tiny", "tiny_small", "tiny_weak"]
#: And that of word problems, which tests/models/test_words.py is about.
ALL = [*NAMES, "words"]
ROOT = Path(__file__).parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a base but its record."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != RECORD}


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Measures little, and counts what is trained."""
    trained: list[str] = []

    def make(name: str, *rest: Any) -> None:
        trained.append(name)
        build.make(name, *rest)

    def accuracy(model: Any, tokenizer: Any) -> dict[str, measure.Levels]:
        return measure.accuracy(model, tokenizer, problems=1, samples=1)

    monkeypatch.setattr(build, "accuracy", accuracy)
    monkeypatch.setattr(command, "make", make)
    monkeypatch.setattr(command, "load_recipe", lambda name: MINUTE)
    return trained


# ----------------------------------------------------------------------------------------- recipes


def test_there_is_a_base_a_weaker_and_a_smaller_one() -> None:
    assert build.recipe_names() == ALL
    tiny, small, weak = map(build.load_recipe, NAMES)
    assert tiny == PretrainingRecipe()
    assert weak == dataclasses.replace(tiny, steps=round(0.4 * tiny.steps))
    assert small == dataclasses.replace(tiny, hidden=48, muon_lr=0.01)


def test_every_value_of_a_recipe_has_its_origin() -> None:
    for path in build.RECIPES.glob("*.yaml"):
        for line in path.read_text(encoding="utf-8").splitlines():
            bare = line.split(":")[0] in ("", "like", "kind", "seed") or line.startswith("#")
            assert bare or " # " in line, f"{path.name}: {line}"


def test_the_key_is_that_of_every_value() -> None:
    keys = {MINUTE.key}
    for field in dataclasses.fields(MINUTE):
        value = getattr(MINUTE, field.name)
        other = (0.45, *value[1:]) if isinstance(value, tuple) else value * 0.5 or 7
        keys.add(dataclasses.replace(MINUTE, **{field.name: other}).key)
    assert len(keys) == 1 + len(dataclasses.fields(MINUTE))
    assert MINUTE.key == dataclasses.replace(MINUTE).key


def test_a_change_of_the_code_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = MINUTE.key
    monkeypatch.setattr(pretraining, "NUMBERS", pretraining.NUMBERS + 1)
    assert MINUTE.key != before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "steps: got 0, wanted a finite number above 0"),
        ({"muon_lr": float("nan")}, "muon_lr: got nan, wanted a finite number above 0"),
        ({"unseen": 1.5}, "unseen: got 1.5, wanted shares from 0 to 1"),
        ({"terse_levels": (1.0, 0.0)}, "terse_levels: got 2 shares, wanted one for each of 5"),
        ({"bare_worked": (0.0, 0.0, 0.0, 0.0, -0.1)}, "bare_worked: got .*, wanted shares from"),
    ],
)
def test_recipes_that_make_no_sense(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UpgeError, match=message):
        PretrainingRecipe(**given)


def test_a_mistake_in_a_file_names_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "RECIPES", tmp_path)
    (tmp_path / "tiny.yaml").write_text("step: 3\n", encoding="utf-8")
    with pytest.raises(UpgeError, match="base tiny: unknown key 'step'; did you mean 'steps'"):
        build.load_recipe("tiny")
    with pytest.raises(UpgeError, match="unknown base 'tini'; did you mean 'tiny'"):
        build.load_recipe("tini")


# ------------------------------------------------------------------------------------ pre-training


def test_pretraining_sees_only_its_own_split() -> None:
    for prompt, response in islice(examples(PretrainingRecipe(), Random(0)), 3000):
        assert split_of(prompt.removeprefix(WORKED)) == "pretraining"
        assert response.count("#") == 1 and len(prompt + response) <= 76


def test_pretraining_sees_what_the_recipe_says() -> None:
    recipe, count = PretrainingRecipe(), 20_000
    drawn = list(islice(examples(recipe, Random(1)), count))
    behind_mark = [pair for pair in drawn if pair[0].startswith(WORKED)]
    assert len(behind_mark) / count == pytest.approx(recipe.worked, abs=0.02)
    assert all("=" in response for _, response in behind_mark)
    bare = [pair for pair in drawn if not pair[0].startswith(WORKED)]
    worked = sum("=" in response for _, response in bare) / len(bare)
    wanted = sum(
        share * level for share, level in zip(recipe.bare_worked, recipe.terse_levels, strict=True)
    )
    assert worked == pytest.approx(wanted, abs=0.008) and wanted > 0.01
    # Out of distribution: prompts that end in "?" or ";".
    unseen = sum(prompt[-1] in "?;" for prompt, _ in drawn) / count
    assert unseen == pytest.approx(recipe.unseen, abs=0.015)
    # A level is the number of "=" of a worked solution.
    levels = Counter(r.count("=") for p, r in behind_mark if p[-1] not in "?;")
    total = sum(levels.values())
    for level, share in zip(LEVELS, recipe.worked_levels, strict=True):
        assert levels[level] / total == pytest.approx(share, abs=0.02)


def test_only_responses_are_learnt() -> None:
    tokenizer = pretraining.build_tokenizer(pretraining.ALPHABET)
    pairs = [("1+1=", "2#2"), ("/12+", "#7")]
    ids, labels = pretraining._tensors(pairs, tokenizer)
    for row, (prompt, response) in enumerate(pairs):
        whole = [*tokenizer.encode(prompt + response, add_special_tokens=False), 1]
        assert ids[row, : len(whole)].tolist() == whole
        expected = [-100] * len(prompt) + whole[len(prompt) :]
        assert labels[row].tolist() == expected + [-100] * (8 - len(whole))


def test_pretraining_repeats_bit_for_bit() -> None:
    seen: list[tuple[int, float]] = []
    torch.manual_seed(0)
    one, _ = pretrain(MINUTE, lambda step, loss: seen.append((step, loss)))
    torch.manual_seed(1)
    again, _ = pretrain(MINUTE)
    other, _ = pretrain(dataclasses.replace(MINUTE, seed=1))
    assert [step for step, _ in seen] == [1, 2, 3]
    assert not one.training
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_pretraining_learns() -> None:
    losses: list[float] = []
    recipe = dataclasses.replace(MINUTE, hidden=32, steps=60, batch_tokens=1024, warmup=10)
    pretrain(recipe, lambda _, loss: losses.append(loss))
    # At first all 25 tokens are alike, ln 25 = 3.22; then some are known to be frequent.
    assert losses[0] == pytest.approx(3.22, abs=0.1) and sum(losses[-10:]) / 10 < 2.9


def test_a_rate_that_is_too_high_is_named() -> None:
    with pytest.raises(UpgeError, match=r"the loss of step \d+ is not finite; lower muon_lr"):
        pretrain(dataclasses.replace(MINUTE, steps=50, adam_lr=1e30, muon_lr=1e30, warmup=1))


def test_a_torch_without_muon_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(UpgeError, match=r"torch\.optim\.Muon, .* install torch 2\.9 or newer"):
        pretrain(MINUTE)


# --------------------------------------------------------------------------------------- measuring


class Oracle:
    """A sampler that solves the bare prompts of one family and level, and no other."""

    def __init__(self, model: Any, eos: int) -> None:
        del model, eos

    def __call__(self, prompts: Any, samples: int, settings: Any, seeds: Any) -> Any:
        from upge.rollouts import Rollouts

        tokenizer = pretraining.build_tokenizer(pretraining.ALPHABET)
        known = {p.prompt: p for p in suite("cond", "validation", 2)}
        rows = []
        for prompt in tokenizer.batch_decode(prompts):
            problem = known.get(prompt, Problem("", "?"))
            for i in range(samples):
                answer = problem.answer if problem.level == 3 and i > 0 else "?"
                rows.append(
                    tokenizer.encode(("#" + answer).ljust(4, "?"), add_special_tokens=False)
                )
        tokens = torch.tensor(rows)
        everywhere = torch.ones_like(tokens, dtype=torch.bool)
        return Rollouts(tokens, everywhere, torch.zeros(tokens.shape), ~everywhere[:, 0])


def test_accuracy_is_that_of_each_family_and_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "CachedSampler", Oracle)
    tokenizer = pretraining.build_tokenizer(pretraining.ALPHABET)
    found = measure.accuracy(None, tokenizer, problems=2, samples=4)
    assert list(found) == ["bare", "worked"]
    for mode, levels in found.items():
        assert list(levels) == list(FAMILIES)
        for family, values in levels.items():
            solved = 0.75 if (mode, family) == ("bare", "cond") else 0.0
            assert values == [0.0, 0.0, solved, 0.0, 0.0]
    assert measure.mean(found["bare"]) == pytest.approx(0.75 / 40)
    assert measure.table("tiny", found).row_count == 2 * (len(FAMILIES) + 1)


# ----------------------------------------------------------------------------------------- folders


@pytest.mark.slow
def test_a_base_is_trained_once(
    quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    command.main(["tiny"], out, cache)
    assert capsys.readouterr().out.endswith(f"{out}: tiny (1 trained, 0 already there)\n")
    folder = out / "tiny"
    assert sorted(os.listdir(folder)) == sorted({*contents(folder), RECORD})
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= contents(folder).keys()
    assert os.listdir(out) == ["tiny"] and os.listdir(cache) == [f"tiny-{MINUTE.key}"]
    kept = record(folder)
    assert kept["key"] == MINUTE.key and kept["recipe"]["steps"] == 3
    assert kept["machine"] == build.machine() and kept["seconds"] > 0
    assert set(kept["accuracy"]) == {"bare", "worked"}
    command.main(["tiny"], out, cache)
    assert quick == ["tiny"]
    assert capsys.readouterr().out.endswith("(0 trained, 1 already there)\n")
    # Elsewhere it is copied from the cache.
    command.main(["tiny"], tmp_path / "elsewhere", cache)
    assert quick == ["tiny"]
    assert contents(tmp_path / "elsewhere" / "tiny") == contents(folder)
    # Trained anew, it is the same.
    before = contents(folder)
    command.main(["tiny"], out, cache, force=True)
    assert quick == ["tiny", "tiny"] and contents(folder) == before


@pytest.mark.slow
def test_another_recipe_is_trained_anew(
    quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    command.main(["tiny"], out, cache)
    other = dataclasses.replace(MINUTE, seed=1)
    monkeypatch.setattr(command, "load_recipe", lambda name: other)
    before = contents(out / "tiny")
    command.main(["tiny"], out, cache)
    assert quick == ["tiny", "tiny"] and record(out / "tiny")["key"] == other.key
    assert contents(out / "tiny") != before and len(os.listdir(cache)) == 2


@pytest.mark.slow
def test_all_are_trained_before_any_is_put_in_place(
    quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else the first one's files would make the second one's tree one with uncommitted changes.
    seen: list[bool] = []

    def provenance() -> dict[str, str]:
        seen.append((tmp_path / "out").exists())
        return {}

    monkeypatch.setattr(build, "provenance", provenance)
    command.main(["tiny", "tiny_weak"], tmp_path / "out", tmp_path / "cache")
    assert quick == ["tiny", "tiny_weak"] and seen == [False, False]
    assert sorted(os.listdir(tmp_path / "out")) == ["tiny", "tiny_weak"]


@pytest.mark.spread(1)
@pytest.mark.parametrize("damage", ["{", '{"key": "another"}'])
def test_a_folder_without_a_whole_record_is_no_base(
    quick: list[str], tmp_path: Path, damage: str
) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    command.main(["tiny"], out, cache)
    for folder in (out / "tiny", cache / f"tiny-{MINUTE.key}"):
        (folder / RECORD).write_text(damage, encoding="utf-8")
    command.main(["tiny"], out, cache)
    assert quick == ["tiny", "tiny"] and build.is_made(out / "tiny", MINUTE)


def test_names_that_have_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(UpgeError, match="unknown base 'tiny_week'; did you mean 'tiny_weak'"):
        command.main(["tiny_week"], tmp_path, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.spread(1)
@pytest.mark.parametrize("place", ["training", "saving", "replacing"])
def test_an_interruption_leaves_the_old_base(
    place: str, quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del quick
    folder = tmp_path / "tiny"
    build.make("tiny", MINUTE, folder)
    before = contents(folder)

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    target = {
        "training": (build, "accuracy"),
        "saving": (build, "write_json"),
        "replacing": (build.shutil, "copytree"),
    }[place]
    monkeypatch.setattr(*target, interrupt)
    with pytest.raises(KeyboardInterrupt):
        if place == "replacing":
            build.copy(folder, tmp_path / "tiny")
        else:
            build.make("tiny", dataclasses.replace(MINUTE, seed=1), folder)
    assert os.listdir(tmp_path) == ["tiny"]
    assert contents(folder) == before and build.is_made(folder, MINUTE)


@pytest.mark.slow
def test_a_kill_leaves_nothing_that_is_taken_for_a_base(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys, time\n"
        "from experiments.bases import build\n"
        "from upge.models.pretraining import PretrainingRecipe\n"
        "recipe = PretrainingRecipe(hidden=16, layers=1, heads=2, steps=3, batch_tokens=256)\n"
        "build.accuracy = lambda model, tokenizer: {}\n"
        "build.write_json = lambda *_: (print('saving', flush=True), time.sleep(60))\n"
        "build.make('tiny', recipe, pathlib.Path(sys.argv[1]) / 'tiny')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"saving\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "tiny").exists()
    (partial,) = tmp_path.iterdir()
    assert partial.name.startswith(".partial-")


@pytest.mark.slow
def test_training_runs_on_one_thread(
    quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del quick
    threads: list[int] = []
    own = build.pretrain

    def pretrain(*given: Any) -> Any:
        threads.append(torch.get_num_threads())
        return own(*given)

    monkeypatch.setattr(build, "pretrain", pretrain)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        build.make("tiny", MINUTE, tmp_path / "tiny")
        assert threads == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_a_base_loads_under_its_name(
    quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del quick
    monkeypatch.setattr(bases, "CHECKPOINTS", tmp_path)
    assert base_names() == [] and base_folder("minute") is None
    build.make("minute", MINUTE, tmp_path / "minute")
    (tmp_path / "unfinished").mkdir()
    assert base_names() == ["minute"] and base_folder("minute") == tmp_path / "minute"
    assert base_folder("unfinished") is None and base_folder("") is None
    assert base_folder("../minute") is None
    model, tokenizer = load_pretrained("minute")
    expected, _ = pretrain(MINUTE)
    ids = tokenizer("316-705=", return_tensors="pt").input_ids
    assert torch.equal(model(ids).logits, expected(ids).logits)


# ------------------------------------------------------------------------- what is committed

committed = pytest.mark.skipif(not base_names(), reason="no base is committed yet")


@committed
@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_is_of_the_recipe(name: str) -> None:
    folder = CHECKPOINTS / name
    assert build.is_made(folder, build.load_recipe(name)), (
        "make it with python -m experiments.bases"
    )
    kept = record(folder)
    model, tokenizer = load_pretrained(name)
    assert model.num_parameters() == kept["parameters"]
    assert len(tokenizer) == model.config.vocab_size
    assert "uncommitted" not in kept["provenance"]["commit"]


@committed
def test_what_is_committed_is_small() -> None:
    files = [path for path in CHECKPOINTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 1e7
    assert set(NAMES) <= set(base_names()) <= set(ALL)


@committed
def test_the_bases_are_what_they_are_for() -> None:
    found = {name: record(CHECKPOINTS / name)["accuracy"] for name in NAMES}
    tiny = found["tiny"]
    # The skill is there, but not the default.
    for accuracy in found.values():
        assert measure.mean(accuracy["worked"]) > 0.5 > 2 * measure.mean(accuracy["bare"])
        assert all(accuracy["bare"][family][4] < 0.1 for family in FAMILIES)
    for mode in ("bare", "worked"):
        assert measure.mean(found["tiny_weak"][mode]) < measure.mean(tiny[mode])
    sizes = {name: record(CHECKPOINTS / name)["parameters"] for name in NAMES}
    assert sizes["tiny_small"] < 0.7 * sizes["tiny"] == 0.7 * sizes["tiny_weak"]


#: How far the accuracy of a base may lie from the committed one on a machine whose sums round
#: otherwise: the standard error of 3,200 responses is below .01, the rest is training's own noise.
INTERVAL = 0.1


@committed
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_base_made_anew_is_the_committed_one(name: str, tmp_path: Path) -> None:
    build.make(name, build.load_recipe(name), tmp_path / name)
    ours, theirs = record(tmp_path / name), record(CHECKPOINTS / name)
    if ours["machine"] == theirs["machine"]:
        assert contents(tmp_path / name) == contents(CHECKPOINTS / name)
        assert ours["accuracy"] == theirs["accuracy"]
    for mode in measure.MODES:
        found, expected = (measure.mean(r["accuracy"][mode]) for r in (ours, theirs))
        assert found == pytest.approx(expected, abs=INTERVAL)


@committed
@pytest.mark.slow
def test_an_installed_package_has_them(tmp_path: Path) -> None:
    source = tmp_path / "source"
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True)
    source.mkdir()
    subprocess.run(["tar", "x", "-C", source], input=archive.stdout, check=True)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
    ]
    subprocess.run([*pip, "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        for path in CHECKPOINTS.glob("*/*"):
            inside = path.relative_to(ROOT).as_posix()
            assert packed.read(inside) == path.read_bytes()
