"""``upge evaluate --benchmark``: a model on real problems, kept response by response."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from upge.cli.printing import By, Format, Row, show
from upge.cli.train import INTERRUPTED
from upge.common.errors import UpgeError
from upge.common.optional import available, hint, require

if TYPE_CHECKING:
    from upge.evaluation.benchmarks import Benchmark
    from upge.evaluation.folder import EvaluationFolder
    from upge.evaluation.run import Evaluator
    from upge.rollouts.backends import Backend
    from upge.rollouts.sampler import Sampling
    from upge.training.config import RunConfig

#: Where evaluations go unless --out says otherwise.
_FOLDERS = Path("evaluations")

#: Tokens of responses sampled at a time, at most, which bounds the memory that they take.
_AT_ONCE = {"cpu": 2**14, "cuda": 2**18}
#: vLLM looks after its memory itself, and is the faster the more it is asked.
_AT_ONCE_VLLM = 2**22
#: Responses sampled at a time on a CPU, at least and at most, since a kill costs what is under way.
#: (SmolLM2 samples 118 tokens a second in batches of 102, 109 of 64, 101 of 32, 80 of 16 and 60 of
#: 8; a step of 1 takes 0.08 s, of 8 0.13 s, of 102 0.87 s.)
_CPU_ROWS = (8, 48)

#: Seconds between the lines that say how far it is, where no terminal shows a bar.
_LINES = 30.0


@dataclass(frozen=True)
class Asked:
    """What ``upge evaluate`` is given, by its options; None where the default is to be found."""

    model: str
    suites: Sequence[str]
    data: Path | None
    prompt: str | None
    marker: str | None
    per_level: int | None
    benchmarks: Sequence[str]
    limit: int | None
    template: str | None
    against: Path | None
    samples: int | None
    temperature: float
    top_p: float
    max_tokens: int | None
    seed: int
    backend: Backend
    by: By
    out: Path | None
    form: Format


def evaluate_benchmarks(asked: Asked, config: RunConfig | None) -> None:
    """Sample what is missing, keep it, print the results.

    Args:
        asked: by options.
        config: of the finished run that the model is; None if it is a model.

    Raises:
        UpgeError: whatever can't be evaluated, before the model is loaded.
    """
    from upge.evaluation.benchmarks import check_positions, read_benchmarks, split_names
    from upge.evaluation.folder import EvaluationFolder
    from upge.evaluation.responses import BLOCK
    from upge.models.pretrained import load_config, load_tokenizer
    from upge.rollouts.sampler import Sampling

    names = split_names(asked.benchmarks)
    settings = Sampling(_max_tokens(asked, config), asked.temperature, asked.top_p)
    _check_extras(asked.backend)
    _other(asked)
    name = _model(asked, config)
    tokenizer = load_tokenizer(name)
    template = _template(asked, config, tokenizer)
    benchmarks = read_benchmarks(
        names, template=template, tokenizer=tokenizer, samples=asked.samples, limit=asked.limit
    )
    model = load_config(name)
    length = check_positions(benchmarks, tokenizer, model, settings.max_tokens)
    group = min(max(own.samples for own in benchmarks), BLOCK)
    about = _settings(asked, name, model, template, tokenizer, settings)
    folder = EvaluationFolder(asked.out or _FOLDERS / _folder_name(asked.model, about))
    with folder.locked():
        held = {own.name: {"digest": own.digest, "problems": own.of} for own in benchmarks}
        folder.open(asked.model, about, held)
        _complete(benchmarks, folder, lambda: _evaluator(asked, name, settings, group, length))
        counts = {own.name: len(own.problems) for own in benchmarks}
        folder.write_results(_report(folder, counts, asked))


def show_evaluation(asked: Asked) -> None:
    """Print the results of an evaluation's folder, as far as it got.

    Args:
        asked: by options; the model is the folder, and no benchmark stands for all that it holds.

    Raises:
        UpgeError: a folder holds no evaluation, or not of these benchmarks.
    """
    from upge.evaluation.benchmarks import split_names

    folder = _existing(Path(asked.model))
    held = folder.about["benchmarks"]
    given = asked.benchmarks
    names = [Path(name).stem for name in split_names(given)] if given else list(held)
    for name in names:
        if name not in held:
            raise UpgeError(f"{folder.path}: has no {name}; it holds {', '.join(held)}")
    _report(folder, dict.fromkeys(names, asked.limit), asked)


# ------------------------------------------------------------------------------------ what is asked


def _check_extras(backend: Backend) -> None:
    for module, extra in (("pyarrow", "train"), ("math_verify", "train")):
        require(module, extra)
    if backend == "vllm" and not available("vllm"):
        raise UpgeError(
            f"vllm is not installed; install it with {hint('vllm', 'vllm')}, or take --backend "
            "transformers"
        )


def _existing(path: Path) -> EvaluationFolder:
    from upge.evaluation.folder import EvaluationFolder, is_evaluation

    if not is_evaluation(path):
        raise UpgeError(
            f"{path}: holds no evaluation; name a folder that upge evaluate --benchmark made"
        )
    return EvaluationFolder(path)


def _other(asked: Asked) -> EvaluationFolder | None:
    return None if asked.against is None else _existing(asked.against)


def _model(asked: Asked, config: RunConfig | None) -> str:
    """What the model is loaded by."""
    from upge.training.records import RunFolder

    return asked.model if config is None else str(RunFolder(Path(asked.model)).policy)


def _max_tokens(asked: Asked, config: RunConfig | None) -> int:
    from upge.evaluation.benchmarks import MAX_TOKENS

    if asked.max_tokens is not None:
        return asked.max_tokens
    return MAX_TOKENS if config is None else config.max_tokens


def _template(asked: Asked, config: RunConfig | None, tokenizer: Any) -> str:
    from upge.evaluation.benchmarks import default_template
    from upge.training.config import Benchmarks

    if asked.template is not None:
        return asked.template
    if config is not None and isinstance(config.data, Benchmarks):
        return config.data.template
    return default_template(tokenizer)


def _settings(
    asked: Asked, name: str, model: Any, template: str, tokenizer: Any, settings: Sampling
) -> dict[str, Any]:
    """What determines the responses, whatever the benchmark."""
    from upge.tasks.templates import prompt

    return {
        "weights": _weights(name, model),
        "template": template,
        "prompt": prompt("«problem»", template, tokenizer),
        "samples": asked.samples or "as the paper",
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "seed": asked.seed,
        "backend": asked.backend,
        "dtype": _DTYPES[_device()],
    }


def _weights(name: str, model: Any) -> str:
    """A digest of a model's files; of one from the hub its id and revision."""
    from upge.common.files import file_digest
    from upge.models.pretrained import weight_files

    digests = [file_digest(path) for path in weight_files(name)]
    if not digests:
        return f"{name}@{getattr(model, '_commit_hash', None)}"
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _folder_name(model: str, settings: Mapping[str, Any]) -> str:
    """As run folders are called: after the model, and a hash of what determines the result."""
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    name = re.sub(r"[^\w.-]+", "-", Path(model).name)[:100]
    return f"{name}-{key}"


# --------------------------------------------------------------------------------------- the work

#: What weights are computed in: on a GPU as the paper's models are published.
_DTYPES = {"cpu": "float32", "cuda": "bfloat16"}


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _evaluator(asked: Asked, name: str, settings: Sampling, group: int, length: int) -> Evaluator:
    """The model, loaded, and what grades it."""
    import torch

    from upge.evaluation.run import Evaluator
    from upge.models.pretrained import load_pretrained
    from upge.rollouts.backends import open_sampler
    from upge.rollouts.memory import check_sampler_memory
    from upge.tasks.math_verifier import BoxedAnswer

    device = _device()
    dtype = getattr(torch, _DTYPES[device])
    rows = _rows(asked.backend, device, settings.max_tokens)
    if asked.backend == "transformers":  # an engine looks after its memory itself
        check_sampler_memory(name, size=dtype.itemsize, rows=rows, group=group, length=length)
    policy, tokenizer = load_pretrained(name, dtype)
    return Evaluator(
        open_sampler(asked.backend, policy.to(device), tokenizer),
        tokenizer,
        BoxedAnswer().judge,
        settings,
        asked.seed,
        rows=rows,
    )


def _rows(backend: Backend, device: str, max_tokens: int) -> int:
    """How many responses are sampled, and kept, at a time."""
    if backend == "vllm":
        return max(_AT_ONCE_VLLM // max_tokens, 1)
    rows = max(_AT_ONCE[device] // max_tokens, 1)
    least, most = _CPU_ROWS
    return min(max(rows, least), most) if device == "cpu" else rows


def _complete(
    benchmarks: Sequence[Benchmark], folder: EvaluationFolder, load: Callable[[], Evaluator]
) -> None:
    """Sample what the folder lacks; the model is loaded only if it lacks something."""
    done = _done(benchmarks, folder)
    total = sum(len(own.problems) for own in benchmarks)
    if sum(done) == total:
        return
    if any(done):
        _say(f"{folder.path}: {sum(done)} of {total} problems have their responses, going on")
    left = [(own, len(own.problems) - count) for own, count in zip(benchmarks, done, strict=True)]
    responses = sum(own.samples * count for own, count in left)
    names = ", ".join(own.name for own, count in left if count)
    problems = f"{total - sum(done)} problem{'s' if total - sum(done) > 1 else ''}"
    _say(f"sampling {responses} responses to {problems} of {names} into {folder.path}")
    try:
        with _watching(benchmarks, done) as progress:
            load().run(benchmarks, folder, progress)
    except KeyboardInterrupt:
        _say(
            f"Interrupted at {sum(_done(benchmarks, folder))} of {total} problems; the same "
            f"command goes on in {folder.path}"
        )
        raise typer.Exit(INTERRUPTED) from None


def _done(benchmarks: Sequence[Benchmark], folder: EvaluationFolder) -> list[int]:
    """How many problems of each have their responses."""
    return [len(folder.done(own.name).intersection(range(len(own.problems)))) for own in benchmarks]


@contextmanager
def _watching(
    benchmarks: Sequence[Benchmark], done: Sequence[int]
) -> Iterator[Callable[[str, int], None]]:
    """What shows the responses as they come in: a bar in a terminal, elsewhere a line at times."""
    total = sum(own.samples * len(own.problems) for own in benchmarks)
    before = sum(own.samples * count for own, count in zip(benchmarks, done, strict=True))
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("responses"),
        TimeRemainingColumn(),
    )
    hidden = not console.is_terminal
    started = said = monotonic()
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("loading", total=total, completed=before)

        def progress(name: str, responses: int) -> None:
            nonlocal said
            bar.update(task, advance=responses, description=name)
            if hidden and monotonic() >= said + _LINES:
                said = monotonic()
                now = int(bar.tasks[task].completed)
                left = (said - started) / (now - before) * (total - now)
                _say(f"{now} of {total} responses ({name}), {_time(left)} left")

        yield progress


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _say(text: str) -> None:
    console = Console(stderr=True)
    console.print(text, highlight=False, markup=False, soft_wrap=True)


# ---------------------------------------------------------------------------------------- results


def _report(
    folder: EvaluationFolder, counts: Mapping[str, int | None], asked: Asked
) -> dict[str, Any]:
    """Print the results; as a record."""
    from upge.evaluation.results import result_rows

    against = _other(asked)
    rows = result_rows(folder, counts, by=asked.by, against=against)
    record = folder.about
    about = {"model": record["model"], **record["settings"], "out": str(folder.path)}
    about |= {"limit": asked.limit, "of": _wholes(rows, record["benchmarks"])}
    if against is not None:
        about["against"] = str(against.path)
    show(rows, about, asked.form, _short, _legend(rows, about))
    for sentence in _doubts(rows, record["settings"]["max_tokens"]):
        _say(sentence)
    files = ", ".join(f"{name}.parquet" for name in counts)
    _say(f"Results and responses are in {folder.path}: results.json, {files}")
    return about | {"rows": rows}


def _by_suite(rows: Sequence[Row]) -> dict[str, Counter[str]]:
    """What is counted of each suite, whatever its rows are."""
    suites: dict[str, Counter[str]] = {}
    for row in rows:
        counts = {name: row[name] for name in ("problems", "truncated", "unboxed")}
        counts["responses"] = row["problems"] * row["samples"]
        suites.setdefault(row["suite"], Counter()).update(counts)
    return suites


def _wholes(rows: Sequence[Row], benchmarks: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """How many problems the benchmarks have of which only some count."""
    wholes = {name: own.get("problems", 0) for name, own in benchmarks.items()}
    return {
        name: wholes[name]
        for name, counts in _by_suite(rows).items()
        if counts["problems"] < wholes[name]
    }


def _doubts(rows: Sequence[Row], max_tokens: int) -> Iterator[str]:
    """A sentence on each suite whose responses are mostly cut off or without an answer."""
    for suite, counts in _by_suite(rows).items():
        total = counts["responses"]
        reasons = {
            "truncated": (f"reached --max-tokens {max_tokens}", "raise --max-tokens"),
            "unboxed": ("have no \\boxed{} and count as wrong", "take another --template"),
        }
        found = {name: reason for name, reason in reasons.items() if 2 * counts[name] > total}
        if found:
            said = ", ".join(f"{counts[name]} of {total} {own}" for name, (own, _) in found.items())
            yield f"{suite}: of the responses {said}; {' or '.join(do for _, do in found.values())}"


def _short(rows: Sequence[Row]) -> list[Row]:
    """Rows of the table: what was reached or, against another evaluation, how much more."""
    return [_compared(row) if "other" in row else _reached(row, rows) for row in rows]


def _reached(row: Row, rows: Sequence[Row]) -> Row:
    short = _left(row)
    if any(own["samples"] > 1 for own in rows):
        short["pass@k"] = _percent(row["pass@k"])
    total = row["problems"] * row["samples"]
    short |= {"tokens": f"{row['tokens']:.0f}"}
    short |= {"cut off": _share(row["truncated"], total), "no box": _share(row["unboxed"], total)}
    for name in ("refused", "over_limit"):
        if any(own[name] for own in rows):
            short[name.replace("_", " ")] = row[name]
    return short


def _compared(row: Row) -> Row:
    return _left(row) | {
        "minus other": _mean(row, "minus_other"),
        "alone": f"+{row['alone']} −{row['other_alone']}",
    }


def _left(row: Row) -> dict[str, Any]:
    left = {name: row[name] for name in ("suite", "family", "level") if name in row}
    return left | {"problems": row["problems"], "k": row["samples"], "avg@k": _mean(row, "avg@k")}


def _mean(row: Row, name: str) -> str:
    low, high = _percent(row[f"{name} low"]), _percent(row[f"{name} high"])
    return f"{_percent(row[name])} [{low}, {high}]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.0f} %"


def _legend(rows: Sequence[Row], about: Mapping[str, Any]) -> str:
    """What the table's numbers are, and of which problems."""
    lines = ["avg@k in % [its 95 % interval over problems]"]
    if "against" in about:
        lines = [
            f"{lines[0]}; minus other: less that of {about['against']} on the same problems; "
            "alone: problems that only one of both solves, in most of its responses"
        ]
    cut = [
        f"{counts['problems']} of the {about['of'][name]} of {name}"
        for name, counts in _by_suite(rows).items()
        if name in about["of"]
    ]
    return "\n".join([*lines, *([f"problems: {', '.join(cut)}"] if cut else [])])
