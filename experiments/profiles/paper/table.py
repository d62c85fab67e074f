"""What every run of the profile takes, as a table."""

from __future__ import annotations

from collections.abc import Iterator

from upge.planning.cluster import Cluster, load_cluster

from experiments.profiles.paper.recipes import FOLDER, SETTINGS, methods, models, run_config
from upge.common.config import load
from upge.planning.plan import Assumptions, make_plan

_HEAD = (
    "| model | settings | method | GB a GPU | fits | tokens sampled | tokens trained on | FLOPs "
    "| hours | of them sampling | benchmarks, hours of one GPU |"
)


def plan_table(cluster: Cluster | None = None) -> str:
    """All models, settings and methods on the paper's machine, or another, as Markdown."""
    cluster = cluster or load_cluster(FOLDER / "cluster.yaml")
    assumed = load(FOLDER / "assumptions.yaml", Assumptions)
    rows = [
        _row(model, settings, method, cluster, assumed)
        for model in models()
        for settings in SETTINGS
        for method in methods(settings)
    ]
    return "\n".join([*_preface(cluster, assumed), _HEAD, _HEAD_RULE, *rows, ""])


_HEAD_RULE = "|" + " --- |" * _HEAD.count(" | ") + " --- |"


def _preface(cluster: Cluster, assumed: Assumptions) -> Iterator[str]:
    yield "# The paper's runs, planned"
    yield ""
    yield (
        f"On {cluster.gpus} × {cluster.gpu} of {cluster.type.memory:g} GB, from formulas "
        "(`upge/planning`); **none of these runs has been made**. Made by `python -m "
        "experiments.profiles.paper plan`."
    )
    yield ""
    yield (
        f"Assumed, not measured: {assumed.prompt} tokens a prompt, {assumed.response} a response, "
        f"{assumed.demonstration} a demonstration, {assumed.gated:.0%} of HPT's questions gated, "
        f"{cluster.use_of_flops:.0%} of the peak FLOP/s and {cluster.use_of_bandwidth:.0%} of the "
        "memory's bandwidth. Hours are proportional to these; they leave out communication, "
        "start-up and grading. The last column is what `evaluate.sh` takes after the run: "
        f"{assumed.benchmark_responses:,} responses, by one GPU."
    )
    yield ""


def _row(model: str, settings: str, method: str, cluster: Cluster, assumed: Assumptions) -> str:
    config = run_config(model, settings, method)
    plan = make_plan(config, cluster, assumed)
    cost = plan.expected
    cells = [
        model,
        settings,
        method,
        f"{plan.memory.needed / 1e9:.0f}",
        "yes" if plan.memory.fits else "no",
        f"{cost.sampled_tokens:.1e}",
        f"{cost.trained_tokens:.1e}",
        f"{cost.flops:.1e}",
        f"{cost.seconds / 3600:.1f}",
        f"{cost.sampling_seconds / 3600:.1f}",
        f"{plan.benchmarks.seconds / 3600:.1f}",
    ]
    return f"| {' | '.join(cells)} |"
