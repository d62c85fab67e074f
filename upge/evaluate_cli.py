"""``upge evaluate`` and ``upge sample``: what a model or a finished run answers, and how well."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from upge.errors import UpgeError, unknown
from upge.extras import require
from upge.moments_cli import Format
from upge.train_cli import SYNTHETIC_TOKENS, TEXT_TOKENS

if TYPE_CHECKING:
    from upge.evaluation.responses import Responses
    from upge.tasks.dataset import Dataset
    from upge.training.config import RunConfig

Row = dict[str, Any]

#: Responses or problems, at most: more is a typing error, and more than any memory holds.
_MOST = 1_000_000

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A base model's name, a hub id, a folder in the Hugging Face format, or the folder of "
        "a finished run.",
    ),
]
Form = Annotated[
    Format, typer.Option("--format", help="auto is a table in a terminal, JSON in a pipe.")
]


class By(StrEnum):
    """What a row of the results is, within its suite."""

    SUITE = "suite"
    FAMILY = "family"
    LEVEL = "level"


# ---------------------------------------------------------------------------------------- evaluate


def evaluate(
    model: Model,
    suites: Annotated[
        list[str] | None, typer.Option("--suite", "-s", help="Only this suite; repeatable.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="A JSON Lines file with problem and answer (and maybe family and level) a line. "
            "Default: the run's test suites, or the synthetic ones."
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="How a problem of --data becomes a prompt. Default: the run's, or '{problem}' and "
            "a newline.",
            show_default=False,
        ),
    ] = None,
    marker: Annotated[
        str | None,
        typer.Option(
            help="What the answers to --data stand behind. Default: the run's, or ####.",
            show_default=False,
        ),
    ] = None,
    per_level: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=_MOST,
            help="Synthetic problems a suite and level. Default: the run's, or 20.",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", "-k", min=1, max=_MOST, help="Responses to each problem.")
    ] = 8,
    temperature: Annotated[float, typer.Option(help="0 is greedy; 0.6 is the paper's.")] = 0.6,
    top_p: Annotated[float, typer.Option(help="0.95 is the paper's.")] = 0.95,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="The longest response. Default: the run's, or 64 for the synthetic suites and 512 "
            "for --data."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sampling.")] = 0,
    by: Annotated[By, typer.Option(help="A row a suite, or a family or level of it.")] = By.SUITE,
    out: Annotated[
        Path | None, typer.Option(help="Keep the responses in this folder, a Parquet file a suite.")
    ] = None,
    form: Form = Format.AUTO,
) -> None:
    """Measure a model on test problems: avg@k and pass@k, by suite, family or level.

    avg@k is the mean reward of k responses, pass@k the chance that one of k is right (without bias,
    from all samples). All suites are sampled together; a problem's responses hang on --seed alone.
    """
    from upge.evaluation.responses import respond_suites
    from upge.rollouts import Sampling

    config = _run_config(model)
    dataset = _dataset(config, data, {"prompt": prompt, "marker": marker}, per_level)
    chosen = _chosen(dataset, suites or list(dataset.tests))
    settings = Sampling(_max_tokens(max_tokens, config, data), temperature, top_p)
    if out is not None:
        _prepare(out)
    loaded = _load(model, config)
    console = Console(stderr=True)
    hidden = not console.is_terminal
    with Progress(*_COLUMNS, console=console, transient=True, disable=hidden) as bar:
        total = samples * sum(map(len, chosen.values()))
        task = bar.add_task("responses", total=total)
        responses = respond_suites(
            chosen,
            sampler=loaded.sampler,
            tokenizer=loaded.tokenizer,
            verifier=dataset.verifier,
            samples=samples,
            settings=settings,
            seed=seed,
            progress=lambda count: bar.advance(task, count),
        )
    if out is not None:
        for name, own in responses.items():
            own.save(out / f"{name}.parquet")
    about = {
        "model": model,
        "samples": samples,
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": settings.max_tokens,
        "seed": seed,
    }
    _show([row for name, own in responses.items() for row in _rows(name, own, by)], about, form)


_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeRemainingColumn(),
)


def _dataset(
    config: RunConfig | None,
    data: Path | None,
    templates: Mapping[str, str | None],
    per_level: int | None,
) -> Dataset:
    """Test suites and their verifier: those of a file, of the run, or the synthetic ones."""
    from upge.training.config import JsonLines, RunConfig, Synthetic
    from upge.training.data import load_dataset

    own = config.data if config is not None else Synthetic()
    if data is not None:
        own = own if isinstance(own, JsonLines) else JsonLines(kind="jsonl", train=str(data))
        files = dict.fromkeys(("train", "validation", "test"), str(data))
        given = {name: text for name, text in templates.items() if text is not None}
        own = own.model_copy(update=files | given)
    elif isinstance(own, Synthetic) and per_level is not None:
        own = own.model_copy(update={"test": per_level})
    model = config.model if config is not None else "tiny"  # a chat template is its tokenizer's
    dataset = load_dataset(RunConfig(name="evaluation", model=model, data=own, stages=()))
    if not dataset.tests:
        raise UpgeError("the run names no file of test problems; name one by --data")
    return dataset


def _chosen(dataset: Dataset, names: Sequence[str]) -> dict[str, Any]:
    for name in names:
        if name not in dataset.tests:
            raise unknown("suite", name, dataset.tests)
    return {name: dataset.tests[name] for name in names}


def _rows(suite: str, responses: Responses, by: By) -> list[Row]:
    """avg@k and pass@k of a suite, or of each of its families or levels."""
    import torch

    from upge.evaluation.metrics import avg_at_k, doublings, mean_by, pass_at_k

    rewards = responses.rewards
    n = rewards.shape[1]
    names = [f"avg@{n}", *(f"pass@{k}" for k in doublings(n))]
    values = torch.cat([avg_at_k(rewards)[:, None], pass_at_k(rewards, doublings(n))], 1)
    labels = [suite if by is By.SUITE else getattr(p, by.value) for p in responses.problems]
    counts = Counter(labels)
    return [
        {"suite": suite, by.value: label, "problems": counts[label]}
        | dict(zip(names, means.tolist(), strict=True))
        for label, means in sorted(mean_by(values, labels).items())
    ]


def _prepare(folder: Path) -> None:
    require("pyarrow", "train")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UpgeError(f"--out {folder}: can't be made a folder ({error.strerror})") from error


# ------------------------------------------------------------------------------------------ sample


def sample(
    model: Model,
    prompts: Annotated[
        list[str], typer.Argument(metavar="PROMPT", help="Prompts, as the model reads them.")
    ],
    samples: Annotated[
        int, typer.Option("--samples", "-n", min=1, max=_MOST, help="Responses to each prompt.")
    ] = 4,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Sample from the likeliest tokens only.")] = 1.0,
    max_tokens: Annotated[
        int | None, typer.Option(help="The longest response. Default: the run's, or 64.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sampling.")] = 0,
    form: Form = Format.AUTO,
) -> None:
    """Print a model's responses to prompts, with their log-probabilities.

    log π is the sum over a response's tokens, at the sampling temperature (at 1 if that is 0) and
    before --top-p. A prompt is taken as it is, without the template that a run may have.
    """
    from upge.rollouts import Sampling, question_seed
    from upge.training.experience import encode

    config = _run_config(model)
    settings = Sampling(_max_tokens(max_tokens, config, None), temperature, top_p)
    loaded = _load(model, config)
    rollouts = loaded.sampler(
        [encode(loaded.tokenizer, prompt) for prompt in prompts],
        samples,
        settings,
        [question_seed(seed, "sample", place) for place in range(len(prompts))],
    )
    rows = [
        {
            "prompt": prompts[i // samples],
            "response": loaded.tokenizer.decode(tokens[mask], skip_special_tokens=True),
            "tokens": int(mask.sum()),
            "log π": logp[mask].sum().item(),
            "finished": bool(finished),
        }
        for i, (tokens, mask, logp, finished) in enumerate(zip(*rollouts, strict=True))
    ]
    _show(rows, {"model": model, "temperature": temperature, "top_p": top_p, "seed": seed}, form)


# ---------------------------------------------------------------------------------------- in common


@dataclass(frozen=True)
class _Loaded:
    tokenizer: Any
    sampler: Any


def _run_config(model: str) -> RunConfig | None:
    """The configuration of a finished run; None if this is a model."""
    for module in ("pydantic", "yaml"):
        require(module, "train")
    from upge.config import build
    from upge.training.config import RunConfig
    from upge.training.records import RunFolder

    path = Path(model)
    try:
        given = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(given, dict) or "stages" not in given:
        return None
    if RunFolder(path).result is None:
        raise UpgeError(f"{path}: this run is not finished; go on with it by the same upge train")
    return build({key: value for key, value in given.items() if key != "key"}, RunConfig)


def _max_tokens(given: int | None, config: RunConfig | None, data: Path | None) -> int:
    if given is not None:
        return given
    if config is not None:
        return config.max_tokens
    return SYNTHETIC_TOKENS if data is None else TEXT_TOKENS


def _load(model: str, config: RunConfig | None) -> _Loaded:
    import torch

    from upge.policies.pretrained import load_pretrained
    from upge.rollouts import CachedSampler
    from upge.training.records import RunFolder

    name = model if config is None else str(RunFolder(Path(model)).policy)
    policy, tokenizer = load_pretrained(name)
    policy.to("cuda" if torch.cuda.is_available() else "cpu")
    return _Loaded(tokenizer, CachedSampler(policy, tokenizer.eos_token_id))


def _show(rows: Sequence[Row], about: Mapping[str, Any], form: Format) -> None:
    """Rows of like keys as JSON, CSV or a table."""
    console = Console()
    if form is Format.CSV:
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    elif form is Format.JSON or (form is Format.AUTO and not console.is_terminal):
        print(json.dumps({**about, "rows": rows}, ensure_ascii=False))
    else:
        table = Table()
        for name in rows[0]:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*(_cell(value) for value in row.values()))
        console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else escape(str(value))
