"""``upge evaluate`` and ``upge sample``: what a model or a finished run answers, and how well."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from upge.errors import UpgeError, unknown
from upge.extras import require
from upge.moments_cli import Format
from upge.printing import show
from upge.rollouts.backends import Backend
from upge.train_cli import SYNTHETIC_TOKENS, TEXT_TOKENS

if TYPE_CHECKING:
    from upge.evaluation.responses import Responses
    from upge.tasks.dataset import Dataset
    from upge.training.config import RunConfig

Row = dict[str, Any]

#: Responses or problems, at most: more is a typing error, and more than any memory holds.
_MOST = 1_000_000

#: Responses to each problem of a suite where none are asked for.
_SAMPLES = 8

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


_SUITES, _BENCHMARKS = "Suites", "Benchmarks"


def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A base model's name, a hub id, a folder in the Hugging Face format, the folder "
            "of a finished run, or the folder of an evaluation, to print its results.",
            show_default=False,
        ),
    ] = None,
    named: Annotated[
        str | None, typer.Option("--model", "-m", help="The same, as an option.")
    ] = None,
    suites: Annotated[
        list[str] | None,
        typer.Option("--suite", "-s", help="Only this suite; repeatable.", rich_help_panel=_SUITES),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="A JSON Lines file with problem and answer (and maybe family and level) a line. "
            "Default: the run's test suites, or the synthetic ones.",
            rich_help_panel=_SUITES,
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="How a problem of --data becomes a prompt. Default: the run's, or '{problem}' and "
            "a newline.",
            show_default=False,
            rich_help_panel=_SUITES,
        ),
    ] = None,
    marker: Annotated[
        str | None,
        typer.Option(
            help="What the answers to --data stand behind. Default: the run's, or ####.",
            show_default=False,
            rich_help_panel=_SUITES,
        ),
    ] = None,
    per_level: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=_MOST,
            help="Synthetic problems a suite and level. Default: the run's, or 20.",
            rich_help_panel=_SUITES,
        ),
    ] = None,
    benchmarks: Annotated[
        list[str] | None,
        typer.Option(
            "--benchmark",
            "-b",
            help="Real problems, as aime24,math500, from UPGE_DATA or the hub, or a file of one's "
            "own; repeatable.",
            rich_help_panel=_BENCHMARKS,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=_MOST,
            help="Only the first so many problems of each.",
            rich_help_panel=_BENCHMARKS,
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help="How a problem becomes a prompt: qwen, zero, plain, or chat for the tokenizer's "
            "own. Default: the run's, or what fits the model.",
            show_default=False,
            rich_help_panel=_BENCHMARKS,
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Another evaluation's folder: count the problems that only one of both solves, "
            "in most of its responses.",
            rich_help_panel=_BENCHMARKS,
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            "-k",
            min=1,
            max=_MOST,
            help="Responses to each problem. Default: 8; of benchmarks the paper's, 32 of AIME and "
            "AMC and 1 of the others.",
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy; 0.6 is the paper's.")] = 0.6,
    top_p: Annotated[float, typer.Option(help="0.95 is the paper's.")] = 0.95,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="The longest response. Default: the run's; else 64 for the synthetic suites, 512 "
            "for --data, and the paper's 8192 for benchmarks."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sampling.")] = 0,
    backend: Annotated[Backend, typer.Option(help="What samples.")] = "transformers",
    by: Annotated[By, typer.Option(help="A row a suite, or a family or level of it.")] = By.SUITE,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Keep the responses in this folder, a Parquet file a suite. Default: suites are "
            "not kept, benchmarks in a folder of evaluations/ that is named after the settings."
        ),
    ] = None,
    form: Form = Format.AUTO,
) -> None:
    """Measure a model on test problems: avg@k and pass@k, by suite, family or level.

    avg@k is the mean reward of k responses, pass@k the chance that one of k is right (without bias,
    from all samples). A problem's responses hang on --seed alone.

    Without --benchmark on a run's suites, a file or the synthetic suites, sampled together; with
    it on real problems, as

        upge evaluate --model Qwen/Qwen2.5-Math-7B --benchmark aime24,math500 --samples 32

    An interrupted evaluation on benchmarks goes on when the same command is given again.
    """
    given = _one_model(model, named)
    held = _is_evaluation(given)
    if benchmarks or held:
        texts = {"--data": data, "--prompt": prompt, "--marker": marker, "--per-level": per_level}
        _refuse({"--suite": suites, **texts}, "without")
    else:
        _refuse({"--limit": limit, "--template": template, "--against": against}, "with")
    if held:
        from upge.benchmark_cli import show_evaluation

        chosen = benchmarks or []
        show_evaluation(Path(given), chosen, limit=limit, by=by, against=against, form=form)
    elif benchmarks:
        from upge.benchmark_cli import Asked, evaluate_benchmarks

        asked = Asked(
            model=given,
            benchmarks=benchmarks,
            samples=samples,
            temperature=temperature,
            top_p=top_p,
            max_tokens=max_tokens,
            template=template,
            limit=limit,
            seed=seed,
            backend=backend,
            by=by,
            out=out,
            against=against,
        )
        evaluate_benchmarks(asked, _run_config(given), form)
    else:
        _evaluate_suites(
            given,
            suites=suites,
            data=data,
            templates={"prompt": prompt, "marker": marker},
            per_level=per_level,
            samples=samples or _SAMPLES,
            sampling=(max_tokens, temperature, top_p),
            seed=seed,
            backend=backend,
            by=by,
            out=out,
            form=form,
        )


def _one_model(argument: str | None, option: str | None) -> str:
    if argument is not None and option is not None:
        raise UpgeError("MODEL and --model: got both, wanted one")
    model = argument if argument is not None else option
    if model is None:
        raise UpgeError("which model? Name it as MODEL or by --model")
    return model


def _is_evaluation(model: str) -> bool:
    _require_training()
    from upge.evaluation.folder import is_evaluation

    return is_evaluation(Path(model))


def _refuse(options: Mapping[str, Any], how: str) -> None:
    for name, value in options.items():
        if value:
            raise UpgeError(f"{name}: goes {how} --benchmark")


def _evaluate_suites(
    model: str,
    *,
    suites: list[str] | None,
    data: Path | None,
    templates: Mapping[str, str | None],
    per_level: int | None,
    samples: int,
    sampling: tuple[int | None, float, float],
    seed: int,
    backend: Backend,
    by: By,
    out: Path | None,
    form: Format,
) -> None:
    from upge.evaluation.responses import BLOCK, respond_suites
    from upge.rollouts import Sampling

    config = _run_config(model)
    dataset = _dataset(config, data, templates, per_level)
    chosen = _chosen(dataset, suites or list(dataset.tests))
    max_tokens, temperature, top_p = sampling
    settings = Sampling(_max_tokens(max_tokens, config, data), temperature, top_p)
    if out is not None:
        _prepare(out)
    prompts = [problem.prompt for own in chosen.values() for problem in own]
    asked = _Asked(prompts, samples, min(samples, BLOCK), settings.max_tokens)
    loaded = _load(model, config, asked, backend)
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
    show([row for name, own in responses.items() for row in _rows(name, own, by)], about, form)


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

    config = _run_config(model)
    settings = Sampling(_max_tokens(max_tokens, config, None), temperature, top_p)
    loaded = _load(model, config, _Asked(prompts, samples, samples, settings.max_tokens))
    rollouts = loaded.sampler(
        loaded.prompts,
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
    show(rows, {"model": model, "temperature": temperature, "top_p": top_p, "seed": seed}, form)


# ---------------------------------------------------------------------------------------- in common


@dataclass(frozen=True)
class _Asked:
    """What a model will be asked: responses to each prompt, so many of them together."""

    prompts: Sequence[str]
    samples: int
    group: int
    max_tokens: int


@dataclass(frozen=True)
class _Loaded:
    prompts: list[list[int]]
    tokenizer: Any
    sampler: Any


def _require_training() -> None:
    for module in ("pydantic", "yaml"):
        require(module, "train")


def _run_config(model: str) -> RunConfig | None:
    """The configuration of a finished run; None if this is a model."""
    _require_training()
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


def _load(
    model: str, config: RunConfig | None, asked: _Asked, backend: Backend = "transformers"
) -> _Loaded:
    """The model, once it is seen to know what it will be asked, and to have room."""
    import torch

    from upge.evaluation.memory import check_gpu_memory
    from upge.policies.pretrained import load_config, load_pretrained, load_tokenizer
    from upge.rollouts.backends import open_sampler
    from upge.training.experience import check_vocabulary, encode
    from upge.training.records import RunFolder

    name = model if config is None else str(RunFolder(Path(model)).policy)
    tokenizer = load_tokenizer(name)
    ids = [encode(tokenizer, prompt) for prompt in asked.prompts]
    check_vocabulary(ids, load_config(name))
    if backend == "transformers":  # an engine looks after its memory itself
        check_gpu_memory(
            name,
            size=torch.float32.itemsize,
            rows=len(ids) * asked.samples,
            group=asked.group,
            length=max(map(len, ids), default=0) + asked.max_tokens,
        )
    policy, tokenizer = load_pretrained(name)
    policy.to("cuda" if torch.cuda.is_available() else "cpu")
    return _Loaded(ids, tokenizer, open_sampler(backend, policy, tokenizer))
