"""``upge evaluate`` and ``upge sample``: what a model or a finished run answers, and how well."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from upge.cli.benchmarks import Asked, evaluate_benchmarks, show_evaluation
from upge.cli.printing import By, Format, show
from upge.cli.run_config import SYNTHETIC_TOKENS, TEXT_TOKENS
from upge.common.errors import UpgeError, unknown
from upge.common.optional import require

#: As :data:`upge.rollouts.backends.Backend`, which imports torch.
Backend = Literal["transformers", "vllm"]

if TYPE_CHECKING:
    from upge.evaluation.responses import Responses
    from upge.rollouts import Sampling
    from upge.tasks.dataset import Dataset
    from upge.tasks.problem import Problem
    from upge.tasks.verifier import Verifier
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
            help="Another evaluation's folder: the difference of avg@k on the same problems, and "
            "how many only one of both solves.",
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

    An interrupted evaluation on benchmarks goes on when the same command is given again; a kill
    costs the batch under way, at most 48 responses on a CPU (whole problems, so more where k is
    larger).
    """
    asked = Asked(
        model=_one_model(model, named),
        suites=suites or [],
        data=data,
        prompt=prompt,
        marker=marker,
        per_level=per_level,
        benchmarks=benchmarks or [],
        limit=limit,
        template=template,
        against=against,
        samples=samples,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        seed=seed,
        backend=backend,
        by=by,
        out=out,
        form=form,
    )
    held = _is_evaluation(asked.model)
    _check_options(asked, bool(asked.benchmarks) or held)
    if held:
        show_evaluation(asked)
    elif asked.benchmarks:
        evaluate_benchmarks(asked, _run_config(asked.model))
    else:
        _evaluate_suites(asked, _run_config(asked.model))


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


#: Options that say something only without --benchmark, or only with it, and what holds them.
_WITHOUT = {
    "--suite": "suites",
    "--data": "data",
    "--prompt": "prompt",
    "--marker": "marker",
    "--per-level": "per_level",
}
_WITH = {"--limit": "limit", "--template": "template", "--against": "against"}


def _check_options(asked: Asked, of_benchmarks: bool) -> None:
    wrong, how = (_WITHOUT, "without") if of_benchmarks else (_WITH, "with")
    for option, name in wrong.items():
        if getattr(asked, name):
            raise UpgeError(f"{option}: goes {how} --benchmark")


def _evaluate_suites(asked: Asked, config: RunConfig | None) -> None:
    from upge.rollouts import Sampling

    dataset = _dataset(asked, config)
    chosen = _chosen(dataset, asked.suites or list(dataset.tests))
    max_tokens = _max_tokens(asked.max_tokens, config, asked.data)
    settings = Sampling(max_tokens, asked.temperature, asked.top_p)
    if asked.out is not None:
        _prepare(asked.out)
    asked = replace(asked, samples=asked.samples or _SAMPLES, max_tokens=max_tokens)
    responses = _respond(asked, config, chosen, dataset.verifier, settings)
    if asked.out is not None:
        for name, own in responses.items():
            own.save(asked.out / f"{name}.parquet")
    names = ("model", "samples", "temperature", "top_p", "max_tokens", "seed")
    about = {name: getattr(asked, name) for name in names}
    rows = [row for name, own in responses.items() for row in _rows(name, own, asked.by)]
    show(rows, about, asked.form)


def _respond(
    asked: Asked,
    config: RunConfig | None,
    suites: Mapping[str, Sequence[Problem]],
    verifier: Verifier,
    settings: Sampling,
) -> Mapping[str, Responses]:
    """Load the model and have it answer, under a bar."""
    from upge.evaluation.responses import BLOCK, respond_suites

    samples = asked.samples or _SAMPLES
    prompts = [problem.prompt for own in suites.values() for problem in own]
    request = _Request(prompts, samples, min(samples, BLOCK), settings.max_tokens)
    loaded = _load(asked.model, config, request, asked.backend)
    console = Console(stderr=True)
    hidden = not console.is_terminal
    with Progress(*_COLUMNS, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("responses", total=samples * len(prompts))
        return respond_suites(
            suites,
            sampler=loaded.sampler,
            tokenizer=loaded.tokenizer,
            verifier=verifier,
            samples=samples,
            settings=settings,
            seed=asked.seed,
            progress=lambda count: bar.advance(task, count),
        )


_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeRemainingColumn(),
)


def _dataset(asked: Asked, config: RunConfig | None) -> Dataset:
    """Test suites and their verifier: those of a file, of the run, or the synthetic ones."""
    from upge.training.config import JsonLines, RunConfig, Synthetic
    from upge.training.data import load_dataset

    own = config.data if config is not None else Synthetic()
    if asked.data is not None:
        path = str(asked.data)
        own = own if isinstance(own, JsonLines) else JsonLines(kind="jsonl", train=path)
        files = dict.fromkeys(("train", "validation", "test"), path)
        texts = {"prompt": asked.prompt, "marker": asked.marker}
        given = {name: text for name, text in texts.items() if text is not None}
        own = own.model_copy(update=files | given)
    elif isinstance(own, Synthetic) and asked.per_level is not None:
        own = own.model_copy(update={"test": asked.per_level})
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

    from upge.evaluation.metrics import avg_at_k, mean_by, pass_at_k, powers_of_two

    rewards = responses.rewards
    n = rewards.shape[1]
    names = [f"avg@{n}", *(f"pass@{k}" for k in powers_of_two(n))]
    values = torch.cat([avg_at_k(rewards)[:, None], pass_at_k(rewards, powers_of_two(n))], 1)
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
    from upge.rollouts import Sampling, derive_seed

    config = _run_config(model)
    settings = Sampling(_max_tokens(max_tokens, config, None), temperature, top_p)
    loaded = _load(model, config, _Request(prompts, samples, samples, settings.max_tokens))
    rollouts = loaded.sampler(
        loaded.prompts,
        samples,
        settings,
        [derive_seed(seed, "sample", place) for place in range(len(prompts))],
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
class _Request:
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
    from upge.common.config import build
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
    model: str, config: RunConfig | None, asked: _Request, backend: Backend = "transformers"
) -> _Loaded:
    """The model, once it is seen to know what it will be asked, and to have room."""
    import torch

    from upge.models.pretrained import load_config, load_pretrained, load_tokenizer
    from upge.rollouts.backends import open_sampler
    from upge.rollouts.memory import check_sampler_memory
    from upge.tasks.encoding import check_vocabulary, encode
    from upge.training.records import RunFolder

    name = model if config is None else str(RunFolder(Path(model)).policy)
    tokenizer = load_tokenizer(name)
    ids = [encode(tokenizer, prompt) for prompt in asked.prompts]
    check_vocabulary(ids, load_config(name))
    if backend == "transformers":  # an engine looks after its memory itself
        check_sampler_memory(
            name,
            size=torch.float32.itemsize,
            rows=len(ids) * asked.samples,
            group=asked.group,
            length=max(map(len, ids), default=0) + asked.max_tokens,
        )
    policy, tokenizer = load_pretrained(name)
    policy.to("cuda" if torch.cuda.is_available() else "cpu")
    return _Loaded(ids, tokenizer, open_sampler(backend, policy, tokenizer))
