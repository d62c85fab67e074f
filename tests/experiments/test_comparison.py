"""Comparisons: from recipes to runs, and how each method gets its learning rate."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
from rich.console import Console

from experiments import run_comparison as runner
from experiments.comparison import (
    BASE,
    Recipe,
    comparison_files,
    load_comparisons,
    profiles,
)
from experiments.run_comparison import run_comparison
from experiments.scheduler import Failure, Job, last_lines
from upge.common.config import build, merge
from upge.common.errors import UpgeError

NAME = "mine"
EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def recipe(**changes) -> Recipe:
    given = {
        "run": {"evaluation": {"every": 2}},
        "stage": {"prompts_per_step": 2, "group_size": 2},
        "methods": {
            "sft": [{"algorithm": "sft"}],
            "grpo": [{"algorithm": "grpo"}],
            "both": [
                {"algorithm": "sft", "share": 0.5, "lr_of": "sft"},
                {"algorithm": "grpo", "share": 0.5},
            ],
        },
        "steps": 8,
        "seeds": 2,
        "selection": {"rates": [1e-3, 1e-2], "steps": 4, "seed": 1000},
    }
    return build(given | changes, Recipe)


def stage(**changes):
    return {"methods": {"a": [{"algorithm": "sft"} | changes]}}


class Pretended:
    """In place of ``as_finished``: runs end at once, with the accuracy that ``accuracy`` says."""

    def __init__(self, accuracy) -> None:
        self.accuracy, self.made = accuracy, []

    def __call__(self, jobs: Sequence[Job], *_: object) -> Iterator[tuple[Job, Failure | None]]:
        for job in jobs:
            if job.folder.result is None:
                self.made.append(job)
            value = self.accuracy(job)
            if value is None:
                yield job, Failure(job, "it diverged")
                continue
            job.folder.path.mkdir(parents=True, exist_ok=True)
            steps = [{"step": step} for step in range(1, job.config.steps)]
            steps.append({"step": job.config.steps, "validation": value})
            job.folder.metrics_path.write_text("".join(json.dumps(s) + "\n" for s in steps))
            job.folder.finish({"in_distribution": value}, job.config.steps)
            yield job, None


@pytest.fixture
def run(tmp_path, monkeypatch):
    def start(accuracy, methods=None, *, seeds=2, of=None):
        of = of or recipe()
        pretended = Pretended(accuracy)
        monkeypatch.setattr(runner, "as_finished", pretended)
        monkeypatch.setattr(runner, "worker_pool", lambda workers: nullcontext())
        methods = methods or list(of.methods)
        with Console(stderr=True) as console:
            failures = run_comparison(of, tmp_path / NAME, seeds, methods, console)
        return pretended.made, failures

    return start


def rate_of(job: Job) -> float:
    return job.config.stages[-1].lr if job.config.stages else 0.0


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_each_method_takes_the_rate_that_validates_best(run, tmp_path) -> None:
    best = {"sft": 1e-3, "grpo": 1e-2, "both": 1e-2}
    made, failures = run(lambda job: 0.5 + 0.1 * (rate_of(job) == best.get(job.config.name)))
    assert not failures
    final = [job for job in made if job.config.seed < 1000]
    assert {job.config.name: rate_of(job) for job in final} == {BASE: 0.0, **best}
    assert sorted((job.config.name, job.config.seed) for job in final) == sorted(
        (method, seed) for method in (BASE, *best) for seed in (0, 1)
    )
    selection = read(tmp_path / NAME / "selection.json")
    assert selection["grpo"] == {"lr": 1e-2, "grid": {"0.001": 0.5, "0.01": 0.6}}


def test_of_equally_good_rates_the_lower_one_is_taken(run, tmp_path) -> None:
    run(lambda job: 0.5)
    assert {entry["lr"] for entry in read(tmp_path / NAME / "selection.json").values()} == {1e-3}


def test_trials_have_their_own_seed_and_steps_and_no_test(run) -> None:
    made, _ = run(lambda job: 0.5)
    trials = [job for job in made if job.folder.path.parent.name == "selection"]
    assert len(trials) == 6
    assert {job.config.seed for job in trials} == {1000}
    assert {job.config.steps for job in trials} == {4}
    assert {job.config.evaluation.test_samples for job in trials} == {None}


def test_a_later_stage_waits_for_the_rate_of_an_earlier_one(run) -> None:
    made, _ = run(lambda job: rate_of(job), ["both"])
    both = [job.config for job in made if job.config.name == "both"]
    assert {config.stages[0].lr for config in both} == {1e-2}  # what sft's trials chose
    assert {config.stages[1].lr for config in both} == {1e-3, 1e-2}
    assert [stage.steps for stage in both[-1].stages] == [4, 4]


def test_a_method_whose_trials_all_fail_has_no_runs(run, tmp_path) -> None:
    made, failures = run(lambda job: None if job.config.name == "sft" else 0.5)
    assert {failure.job.config.name for failure in failures} == {"sft"}
    final = {job.config.name for job in made if job.config.seed < 1000}
    assert final == {BASE, "grpo"}  # nor has the one that starts from sft's rate
    assert read(tmp_path / NAME / "selection.json")["sft"]["lr"] is None


def test_a_part_run_alone_keeps_the_rest(run, tmp_path) -> None:
    run(lambda job: 0.5)
    files = [tmp_path / NAME / name for name in ("selection.json", "comparison.json")]
    before = [read(file) for file in files]
    made, _ = run(lambda job: 0.5, ["sft"])
    assert not made
    assert [
        read(tmp_path / NAME / name) for name in ("selection.json", "comparison.json")
    ] == before
    assert len(before[1]["runs"]) == 8


def test_a_single_rate_needs_no_trial(run, tmp_path) -> None:
    made, _ = run(lambda job: 0.5, of=recipe(selection={"rates": [1e-3], "steps": None}))
    assert all(job.config.seed < 1000 for job in made)
    assert read(tmp_path / NAME / "selection.json")["sft"] == {"lr": 1e-3, "grid": {"0.001": None}}


@pytest.mark.parametrize(
    "text", ["{]", "[]", '{"sft": 3}', '{"sft": {"lr": "fast", "grid": {}}}', '{"sft": {"lr": 1}}']
)
def test_a_damaged_choice_is_a_sentence(run, tmp_path, text) -> None:
    run(lambda job: 0.5)
    (tmp_path / NAME / "selection.json").write_text(text)
    with pytest.raises(UpgeError, match=r"selection\.json: is damaged.*; delete it and run"):
        run(lambda job: 0.5)


def test_a_full_disk_is_a_sentence_and_leaves_what_was_there(run, tmp_path, monkeypatch) -> None:
    run(lambda job: 0.5)
    before = read(tmp_path / NAME / "selection.json")

    write = Path.write_bytes

    def full(partial: Path, content: bytes) -> int:
        if "selection.json" not in partial.name:
            return write(partial, content)
        partial.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UpgeError, match=r"selection\.json: can't be written .No space left"):
        run(lambda job: 0.4)
    assert read(tmp_path / NAME / "selection.json") == before
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"selection": {"rates": [1e-3, 1e-2], "steps": None}}, "a grid of several rates needs"),
        ({"selection": {"rates": [], "steps": 4}}, "selection.rates"),
        ({"seeds": 0}, "seeds: got 0"),
        (stage(share="half"), "methods.a.0.share: got 'half', wanted a number"),
        *((stage(share=x), f"methods.a.0.share: got {x}") for x in (0, -1)),
        (stage(lr_of=["a"]), "methods.a.0.lr_of: got ['a'], wanted a text"),
        ({"methods": {"a": []}}, "methods.a: got [], "),
        ({"methods": {"a": [3]}}, "methods.a.0: got 3, wanted a mapping"),
        ({"methods": {"base": [{"algorithm": "sft"}]}}, "'base' trains nothing; give"),
        ({"compare": []}, "compare: got [], "),
        ({"compare": ["sft", "sft"]}, "compare: 'sft' is there twice"),
        ({"selection": {"rates": [-1e-3], "steps": None}}, "selection.rates.0: got -0.001"),
        ({"stepss": 1}, "unknown key 'stepss'; did you mean 'steps'?"),
        (
            {"methods": {"a": [{"algorithm": "sft", "lr_of": "b"}], "b": [{"algorithm": "sft"}]}},
            "methods.a: lr_of names 'b', wanted a method above it",
        ),
        (
            {"methods": {"a": [{"algorithm": "sft", "lr_of": "a"}]}},
            "methods.a: lr_of names 'a', wanted a method above it",
        ),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(changes, sentence) -> None:
    with pytest.raises(UpgeError) as caught:
        recipe(**changes)
    assert sentence in str(caught.value)


def test_a_method_that_makes_no_run_is_named() -> None:
    wrong = recipe(methods={"mine": [{"algorithm": "sfft"}]})
    with pytest.raises(UpgeError, match=r"mine: .*did you mean 'sft'"):
        wrong.config("mine", 0, {"mine": 1e-3})
    with pytest.raises(UpgeError, match="unknown method 'sfft'; did you mean 'sft'"):
        recipe().config("sfft", 0, {})


def test_a_borrowed_rate_needs_no_trial(run, tmp_path) -> None:
    """And a pipeline's stages may borrow from one that borrows itself."""
    of = recipe(
        methods={
            "sft": [{"algorithm": "sft"}],
            "both": [
                {"algorithm": "sft", "share": 0.5, "lr_of": "sft"},
                {"algorithm": "grpo", "share": 0.5},
            ],
            "long": [
                {"algorithm": "sft", "share": 2.0, "lr_of": "sft"},
                {"algorithm": "grpo", "share": 1.5, "lr_of": "both"},
            ],
        },
        compare=["long"],
    )
    best = {"sft": 1e-2, "both": 1e-3}
    made, _ = run(
        lambda job: 0.5 + 0.1 * (rate_of(job) == best.get(job.config.name)), ["long"], of=of
    )
    trials = [job.config.name for job in made if job.config.seed == 1000]
    assert trials == ["sft", "sft", "both", "both"]
    final = [job.config for job in made if job.config.name == "long"]
    assert [[(s.steps, s.lr) for s in config.stages] for config in final] == [
        [(16, 1e-2), (12, 1e-3)]
    ] * 2
    chosen = read(tmp_path / NAME / "selection.json")["long"]
    assert chosen == {"lr": 1e-3, "grid": {}, "of": "both"}
    named = read(tmp_path / NAME / "comparison.json")
    assert len(named["trials"]) == 4
    assert {name.split("-")[0] for name in named["runs"]} == {BASE, "long"}


def test_runs_and_trials_are_shared_between_comparisons(run, tmp_path) -> None:
    run(lambda job: rate_of(job))
    with Console(stderr=True) as console:
        failures = run_comparison(recipe(), tmp_path / "other", 2, ["sft"], console)
    assert not failures
    names = [read(tmp_path / name / "comparison.json") for name in (NAME, "other")]
    assert {name for name in names[1]["runs"]} < {name for name in names[0]["runs"]}


def test_trials_of_another_supply_choose_the_rates(run) -> None:
    few = {"kind": "synthetic", "supply": {"demonstrations": 3}}
    tuned = recipe(run={"evaluation": {"every": 2}, "data": few}, trial_run={})
    made, _ = run(lambda job: 0.5, ["sft"], of=tuned)
    supplies = {(job.config.seed == 1000, _demonstrations(job)) for job in made}
    assert supplies == {(True, None), (False, 3)}


def _demonstrations(job: Job) -> int | None:
    return job.config.data.supply.demonstrations


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        *(
            (name, profile)
            for name in comparison_files(EXPERIMENTS)
            for profile in ("cpu", "smoke")
        ),
        *(("table2", profile) for profile in profiles(EXPERIMENTS) if profile.startswith("gpu")),
    ],
)
def test_every_method_of_every_comparison_makes_a_run(name, profile) -> None:
    for recipe in load_comparisons(EXPERIMENTS, name, profile).values():
        rates = dict.fromkeys(recipe.methods, 1e-3)
        configs = [recipe.config(method, 0, rates) for method in (BASE, *recipe.compared)]
        assert len({config.key for config in configs}) == len(configs)
        for method, config in zip(recipe.compared, configs[1:], strict=True):
            assert config.steps == recipe.steps_of(method)
            assert config.model_dump()["data"] == configs[0].model_dump()["data"]


def test_methods_of_table_2_take_as_many_steps() -> None:
    table = load_comparisons(EXPERIMENTS, "table2", "cpu")["table2"]
    assert {table.steps_of(method) for method in table.compared} == {400}


def test_comparisons_share_the_runs_that_are_the_same() -> None:
    """The γ = 0 of Table 6, the correct SFT of the audit and full supply are Table 2's."""
    keys = {}
    for name in ("table2", "table6", "audit", "supply"):
        for variant, recipe in load_comparisons(EXPERIMENTS, name, "cpu").items():
            rates = dict.fromkeys(recipe.methods, 1e-3)
            keys[variant] = {m: recipe.config(m, 0, rates).key for m in recipe.compared}
            trials = {m: recipe.trial(m, 1e-3, rates).key for m in recipe.compared}
            if "sft" in trials:
                keys.setdefault("trials", {})[variant] = trials["sft"]
    shared = {"table6": "hpt_global_token", "audit": "sft", "supply-900": "luffy"}
    for variant, method in shared.items():
        assert keys[variant][method] == keys["table2"][method], variant
    assert keys["supply-30"]["sft"] != keys["table2"]["sft"]
    assert len(set(keys["trials"].values())) == 1


@pytest.fixture
def folder(tmp_path) -> Path:
    """Of recipes: what all share, a profile, and comparisons to be written."""
    for name, text in {
        "recipes/base": "run: {}\nstage: {}\nmethods: {sft: [{algorithm: sft}]}\n",
        "profiles/cpu": "steps: 4\nseeds: 5\nselection: {rates: [1.0e-3], steps: null}\n",
    }.items():
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir()
        path.write_text(text)
    return tmp_path


def test_a_comparison_differs_from_the_base_and_from_the_profile(folder) -> None:
    text = "profiles: {cpu: {seeds: 2}}\nvariants: {a: {steps: 8}, b: {run: {model: tiny_weak}}}\n"
    (folder / "recipes" / "mine.yaml").write_text(text)
    found = load_comparisons(folder, "mine", "cpu")
    assert {name: (recipe.steps, recipe.seeds) for name, recipe in found.items()} == {
        "mine-a": (8, 2),
        "mine-b": (4, 2),
    }
    assert found["mine-b"].run["model"] == "tiny_weak"
    assert comparison_files(folder) == ["mine"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("compare: [stf]\n", "mine: compare: unknown method 'stf'; did you mean 'sft'"),
        *(
            (f"{key}: {value.replace('None', 'null')}\n", f"mine.yaml: {key}: got {value}")
            for key in ("profiles", "variants")
            for value in ("None", "['a']", "{}" if key == "variants" else "3")
        ),
        ("variants: {a: 3}\n", "mine.yaml: variants.a: got 3, wanted a mapping"),
        ("comparisons: 3\n", "mine.yaml: comparisons: got 3, wanted a list"),
        ("compare: [sft]\ncompare: [sft]\n", "the key 'compare' is there twice"),
        ("tune: never\n", "mine.yaml: tune: got 'never', wanted 'each' or 'once'"),
        ("variants: {a: {sedes: 1}}\n", "mine-a: unknown key 'sedes'; did you mean 'seeds'"),
        ("compares: [sft]\n", "mine: unknown key 'compares'; did you mean 'compare'"),
    ],
)
def test_a_comparison_that_makes_no_sense_is_named(folder, text, sentence) -> None:
    (folder / "recipes" / "mine.yaml").write_text(text)
    with pytest.raises(UpgeError) as caught:
        load_comparisons(folder, "mine", "cpu")
    assert sentence in str(caught.value)


def test_other_data_replace_the_profile_s() -> None:
    base = {"kind": "a", "x": 1}
    assert merge({"data": base}, {"data": {"kind": "b", "y": 2}}) == {"data": {"kind": "b", "y": 2}}
    for difference in ({"y": 2}, {"kind": "a", "y": 2}):
        assert merge({"data": base}, {"data": difference}) == {"data": base | {"y": 2}}
    assert merge({"data": {"x": 1}}, {"data": base})["data"] == base


def test_profiles_in_a_circle_are_a_sentence(folder) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (folder / "profiles" / f"{name}.yaml").write_text(f"like: {other}\n")
    (folder / "recipes" / "mine.yaml").write_text("{}\n")
    with pytest.raises(UpgeError, match="profiles in a circle, a → b → a; drop one"):
        load_comparisons(folder, "mine", "a")


def test_a_profile_may_be_like_another(folder) -> None:
    """Its own settings come last, after what the comparison says of the other."""
    (folder / "profiles" / "larger.yaml").write_text("like: cpu\nseeds: 9\nsteps: 6\n")
    text = "profiles: {cpu: {steps: 8, seeds: 2}, larger: {steps: 7}}\n"
    (folder / "recipes" / "mine.yaml").write_text(text)
    (recipe,) = load_comparisons(folder, "mine", "larger").values()
    assert (recipe.seeds, recipe.steps, recipe.selection.rates) == (9, 7, (1e-3,))


def test_a_profile_is_for_the_comparisons_that_it_names(folder) -> None:
    (folder / "profiles" / "cpu.yaml").write_text(
        "comparisons: [mine]\nsteps: 4\nseeds: 5\nselection: {rates: [1.0e-3], steps: null}\n"
    )
    for name in ("mine", "other"):
        (folder / "recipes" / f"{name}.yaml").write_text("{}\n")
    assert load_comparisons(folder, "mine", "cpu")
    with pytest.raises(UpgeError, match="other: is not for the profile cpu; take PROFILE=cpu"):
        load_comparisons(folder, "other", "cpu")


def test_unknown_names_are_named() -> None:
    with pytest.raises(UpgeError, match="unknown profile 'gpus'"):
        load_comparisons(EXPERIMENTS, "table2", "gpus")
    with pytest.raises(UpgeError, match="unknown comparison 'tabel2'; did you mean 'table2'"):
        load_comparisons(EXPERIMENTS, "tabel2", "cpu")


def test_the_last_lines_are_those_that_are_whole(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert last_lines(path) == []
    lines = [json.dumps({"step": step, "solved": [0.125] * 40}) for step in range(1000)]
    path.write_text("\n".join(lines) + "\n" + '{"step": 1000', encoding="utf-8")
    found = last_lines(path)
    assert found[-1]["step"] == 999
    assert [line["step"] for line in found] == list(range(1000 - len(found), 1000))
