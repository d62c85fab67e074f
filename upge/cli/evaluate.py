"""``upge evaluate`` and ``upge sample``: what a model or a finished run answers, and how well."""

from __future__ import annotations

import glob
import hashlib
import inspect
import json
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from upge.cli.printing import By, Format, Row, plain, show
from upge.cli.run_config import SYNTHETIC_TOKENS, TEXT_TOKENS
from upge.cli.train import INTERRUPTED
from upge.common.errors import UpgeError, unknown
from upge.common.optional import require
from upge.common.progress import steps_bar

#: As :data:`upge.rollouts.backends.Backend`, which imports torch.
Backend = Literal["transformers", "vllm"]

if TYPE_CHECKING:
    from upge.evaluation.folder import EvaluationFolder
    from upge.evaluation.ranks import Ranks
    from upge.evaluation.run import Part
    from upge.evaluation.suites import Suite
    from upge.rollouts import Sampling
    from upge.tasks.verifier import Verifier
    from upge.training.config import RunConfig

#: Responses or problems, at most: more is a typing error, and more than any memory holds.
_MOST = 1_000_000

#: Modules that determine a response and its reward, with all that they import.
_CODE = ("upge.evaluation.run", "upge.evaluation.suites", "upge.models.pretrained", "upge.rollouts")

#: Responses to each problem of a suite that is no benchmark, where none are asked for.
_SAMPLES = 8

#: Where evaluations go unless --out says otherwise.
_FOLDERS = Path("evaluations")

#: Tokens of responses sampled, and then kept, at a time: what a kill costs (on a CPU 2 to 3 minutes
#: of SmolLM2) and memory; vLLM manages its memory, and is faster the more it is asked.
_AT_ONCE = {"cpu": 2**14, "cuda": 2**18, "vllm": 2**22}

#: Parts of a suite, at least, that processes can share; their number changes no part.
_SHARES = 8

#: Seconds between the lines that say how far it is, where no terminal shows a bar.
_LINES = 30.0

_MODEL = "A base model's name, a hub id, a folder in the Hugging Face format, the folder of a "
_SUITES, _BENCHMARKS = "Suites", "Benchmarks"

Form = Annotated[
    Format, typer.Option("--format", help="auto is a table in a terminal, JSON in a pipe.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of the sampling.")]
Trust = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let Python code that comes with MODEL run.")
]


def _of(panel: str, *names: str, **options: Any) -> Any:
    """An option in a panel of the help, without a default there."""
    return typer.Option(*names, rich_help_panel=panel, show_default=False, **options)


@dataclass(frozen=True)
class EvalArgs:
    """The options of ``upge evaluate``; None where the default depends on the others."""

    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help=f"{_MODEL}finished run, or that of an evaluation, to print its results.",
            show_default=False,
        ),
    ] = None
    named: Annotated[str | None, typer.Option("--model", "-m", help="The same, as an option.")] = (
        None
    )
    suites: Annotated[
        list[str] | None, _of(_SUITES, "--suite", "-s", help="Only this suite; repeatable.")
    ] = None
    data: Annotated[
        Path | None,
        _of(
            _SUITES,
            help="A JSON Lines file with problem and answer (and maybe family and level) a line. "
            "Default: the run's test suites, or the synthetic ones.",
        ),
    ] = None
    prompt: Annotated[
        str | None,
        _of(
            _SUITES,
            help="How a problem of --data becomes a prompt. Default: the run's, or '{problem}' and "
            "a newline.",
        ),
    ] = None
    marker: Annotated[
        str | None,
        _of(_SUITES, help="What the answers to --data stand behind. Default: the run's, or ####."),
    ] = None
    per_level: Annotated[
        int | None,
        _of(
            _SUITES,
            min=1,
            max=_MOST,
            help="Synthetic problems a suite and level. Default: the run's, or 20.",
        ),
    ] = None
    benchmarks: Annotated[
        list[str] | None,
        _of(
            _BENCHMARKS,
            "--benchmark",
            "-b",
            help="Real problems, as aime24,math500, from UPGE_DATA or the hub, or a file of one's "
            "own; repeatable.",
        ),
    ] = None
    template: Annotated[
        str | None,
        _of(
            _BENCHMARKS,
            help="How a problem becomes a prompt: qwen, zero, plain, or chat for the tokenizer's "
            "own. Default: the run's, or what fits the model.",
        ),
    ] = None
    limit: Annotated[
        int | None,
        typer.Option(min=1, max=_MOST, help="Only the first so many problems of each suite."),
    ] = None
    against: Annotated[
        Path | None,
        typer.Option(
            help="Another evaluation's folder: the difference of avg@k on the same problems, and "
            "how many only one of both solves."
        ),
    ] = None
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
    ] = None
    temperature: Annotated[float, typer.Option(help="0 is greedy; 0.6 is the paper's.")] = 0.6
    top_p: Annotated[float, typer.Option(help="0.95 is the paper's.")] = 0.95
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The longest response. Default: the run's; else 64 for the synthetic suites, 512 "
            "for --data, and the paper's 8192 for benchmarks.",
        ),
    ] = None
    seed: Seed = 0
    backend: Annotated[Backend, typer.Option(help="What samples.")] = "transformers"
    by: Annotated[By, typer.Option(help="A row a suite, or a family or level of it.")] = By.SUITE
    out: Annotated[
        Path | None,
        typer.Option(
            help="Keep the responses in this folder, a Parquet file a suite. Default: a folder of "
            "evaluations/ that is named after the settings."
        ),
    ] = None
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", help="Take responses with the same settings though other code made them."
        ),
    ] = False
    trust_remote_code: Trust = False
    form: Form = Format.AUTO


def _with_options_of(options: Any) -> Callable[[Callable[[Any], None]], Callable[..., None]]:
    """Make a function of ``options`` a command whose parameters are the fields of these."""

    def decorate(run: Callable[[Any], None]) -> Callable[..., None]:
        @wraps(run)
        def command(**values: Any) -> None:
            run(options(**values))

        command.__dict__["__signature__"] = inspect.signature(options, eval_str=True)
        return command

    return decorate


@_with_options_of(EvalArgs)
def evaluate(args: EvalArgs) -> None:
    """Measure a model on test problems: avg@k and pass@k, by suite, family or level.

    avg@k (mean@k) is the mean reward of k responses, pass@k the chance that one of k is right
    (without bias, from all samples). A problem's responses depend on --seed alone.

    Without --benchmark on a run's suites, a file or the synthetic suites; with it on real problems:

        upge evaluate --model Qwen/Qwen2.5-Math-7B --benchmark aime24,math500 --samples 32

    Rerun the command to resume an interrupted evaluation: a kill costs the batch under way. Several
    processes share the problems, with the same results:

        torchrun --nproc_per_node 2 -m upge.cli evaluate ...
    """
    if args.model is not None and args.named is not None:
        raise UpgeError("MODEL and --model: got both, wanted one")
    model = args.model or args.named
    if model is None:
        raise UpgeError("which model? Name it as MODEL or by --model")
    for module in ("pydantic", "yaml", "pyarrow"):
        require(module, "train")
    from upge.evaluation.folder import is_evaluation
    from upge.models.pretrained import trusting_remote_code

    held = is_evaluation(Path(model))
    _check_options(args, held)
    with trusting_remote_code(args.trust_remote_code):
        (_show_evaluation if held else _evaluate)(args, model)


#: Options that say nothing of benchmarks.
_WITHOUT = ("data", "prompt", "marker", "per_level")


def _check_options(args: EvalArgs, held: bool) -> None:
    """Reject options that contradict each other, and names that results can't hold."""
    for name, value in vars(args).items():
        if name in _WITHOUT and value is not None and (args.benchmarks or held):
            raise UpgeError(f"--{name.replace('_', '-')}: goes without --benchmark")
        for text in map(str, value if isinstance(value, list) else [value]):
            if text.encode(errors="ignore").decode() != text:
                raise UpgeError(f"{text!r} is not UTF-8, so results can't hold it; rename it")
    if args.template is not None and not (args.benchmarks or held):
        raise UpgeError("--template: goes with --benchmark")


@dataclass(frozen=True)
class _Evaluation:
    """What is evaluated, read and checked before the model is loaded.

    Args:
        model: what the model is loaded by.
        suites: the problems.
        verifier: grades responses.
        sampling: how they are sampled.
        settings: all that determines them, by name.
        folder: where they are kept.
        length: tokens of the longest prompt and response.
    """

    model: str
    suites: Sequence[Suite]
    verifier: Verifier
    sampling: Sampling
    settings: Mapping[str, Any]
    folder: EvaluationFolder
    length: int


def _evaluate(args: EvalArgs, model: str) -> None:
    """Sample what is missing, keep it, print the results."""
    from upge.evaluation.folder import UnkeptError
    from upge.evaluation.ranks import Ranks

    ranks = Ranks.launched()
    if not ranks.is_first:
        try:
            ranks.wait()
        except UpgeError:  # the first has said what is wrong
            raise typer.Exit(2) from None
    asked = _read(args, model)
    folder, counts = asked.folder, {own.name: len(own.problems) for own in asked.suites}
    with folder.locked() if ranks.is_first else nullcontext():
        if ranks.is_first:
            folder.open(model, asked.settings, asked.suites, code_of_evaluation(), args.keep)
            ranks.wait()
        try:
            _complete(args, asked, ranks)
        except UnkeptError:  # what can't be kept is printed all the same
            if ranks.is_first:
                _report(folder, {n: c for n, c in counts.items() if len(folder.table(n))}, args)
            raise
        ranks.wait()
        if ranks.is_first:
            _check_complete(asked)
            results = _report(folder, counts, args)
            for own in asked.suites:
                folder.finish(own.name, len(own.problems), own.samples)
            folder.write_results(results)
            files = ", ".join(f"{name}.parquet" for name in counts)
            _say(f"Results and responses are in {folder.path}: results.json, {files}")


def _check_complete(asked: _Evaluation) -> None:
    for own in asked.suites:
        done = asked.folder.done(own.name, own.samples)
        if not done.issuperset(range(len(own.problems))):
            raise UpgeError(
                f"{asked.folder.path}: lacks responses of other processes; name an --out on a disk "
                "that they share"
            )


def _show_evaluation(args: EvalArgs, path: str) -> None:
    """Print the results of an evaluation's folder, as far as it got."""
    folder = _existing(Path(path))
    held = folder.record.suites if folder.record else {}
    texts = [*(args.suites or ()), *(args.benchmarks or ())]
    names = [Path(name.strip()).stem for text in texts for name in text.split(",")] or list(held)
    for name in names:
        if name not in held:
            raise UpgeError(f"{folder.path}: has no {name}; it holds {', '.join(held)}")
    _report(folder, dict.fromkeys(names, args.limit), args)


def _existing(path: Path) -> EvaluationFolder:
    from upge.evaluation.folder import EvaluationFolder, is_evaluation

    if not is_evaluation(path):
        raise UpgeError(f"{path}: holds no evaluation; name a folder that upge evaluate made")
    return EvaluationFolder(path)


# ------------------------------------------------------------------------------------ what is asked


def _read(args: EvalArgs, given: str) -> _Evaluation:
    """What the options ask for; whatever is wrong with it is found here."""
    from upge.evaluation.folder import EvaluationFolder
    from upge.evaluation.suites import MAX_TOKENS, check_positions
    from upge.models.pretrained import load_config, load_tokenizer
    from upge.rollouts import Sampling, check_backend

    model, config = _run(given)
    default = MAX_TOKENS if args.benchmarks and config is None else _max_tokens(config, args.data)
    sampling = Sampling(args.max_tokens or default, args.temperature, args.top_p)
    check_backend(args.backend)
    if args.against is not None:
        _existing(args.against)
    tokenizer = load_tokenizer(model)
    suites, verifier, prompts = _suites(args, config, tokenizer)
    digests = [] if "template" in prompts else [own.digest for own in suites]
    known = {own.name: own for own in suites}
    for name in args.suites or ():
        if name not in known:
            raise unknown("suite", name, known)
    suites = [known[name] for name in dict.fromkeys(args.suites or known)]
    about = load_config(model)
    length = check_positions(suites, tokenizer, about, sampling.max_tokens)
    settings = {
        "weights": _weights(model, about),
        **prompts,
        "samples": args.samples or ("as the paper" if "template" in prompts else _SAMPLES),
        **vars(sampling),
        "seed": args.seed,
        "backend": args.backend,
        "dtype": "bfloat16" if "template" in prompts and _device() == "cuda" else "float32",
        "verifier": repr(verifier),
    }
    path = args.out or _default_folder(args, given, settings, digests)
    return _Evaluation(model, suites, verifier, sampling, settings, EvaluationFolder(path), length)


def code_of_evaluation() -> dict[str, str]:
    """What identifies the code that samples and grades: responses by other code are not taken."""
    from upge.common.code import code_of, versions

    return code_of(*_CODE) | versions("torch", "transformers", "vllm")


def _default_folder(
    args: EvalArgs, given: str, settings: Mapping[str, Any], digests: Sequence[str]
) -> Path:
    """Named after the model and all that determines the responses; --keep takes another code's."""
    from upge.evaluation.folder import EvaluationFolder

    code = code_of_evaluation()
    text = json.dumps([settings, digests, code], sort_keys=True)
    name = re.sub(r"[^\w.-]+", "-", Path(given).name)[:100]
    path = _FOLDERS / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    for other in sorted(_FOLDERS.glob(f"{glob.escape(name)}-*")) if not path.exists() else ():
        with suppress(UpgeError):
            record = EvaluationFolder(other).record
            if record is None or record.settings != settings:
                continue
            if not digests or {held.digest for held in record.suites.values()} <= {*digests}:
                changed = (
                    f"{other} is this evaluation by other code ({', '.join(record.changed(code))})"
                )
                if args.keep:
                    _say(f"{changed}; it is taken")
                    return other
                _say(f"{changed}; evaluating anew in {path} (--keep takes the old one)")
    return path


_UNTESTED = "the run names no file of test problems; name one by --data"


def _suites(
    args: EvalArgs, config: RunConfig | None, tokenizer: Any
) -> tuple[list[Suite], Verifier, dict[str, str]]:
    """The suites, what grades them, and how a problem becomes a prompt where that can be chosen."""
    from upge.evaluation.suites import default_template, make_suite, read_benchmarks, split_names
    from upge.tasks.math_verifier import BoxedAnswer
    from upge.tasks.problem import load_problems
    from upge.tasks.templates import prompt
    from upge.training.config import Benchmarks, JsonLines, RunConfig, Synthetic
    from upge.training.data import load_dataset

    data: Any = config.data if config is not None else Synthetic()
    own = data if isinstance(data, Benchmarks) else None
    if own and args.data is None and not (args.benchmarks or own.test_sets):
        raise UpgeError(_UNTESTED)
    if args.benchmarks or (own and args.data is None):
        template = args.template or (own.template if own else default_template(tokenizer))
        names = split_names(args.benchmarks or (own.test_sets if own else ()))
        suites = read_benchmarks(names, template, tokenizer, args.samples, args.limit)
        about = {"template": template, "prompt": prompt("«problem»", template, tokenizer)}
        return suites, BoxedAnswer(), about
    if args.data is not None:
        data = data if isinstance(data, JsonLines) else JsonLines(kind="jsonl", train="")
        texts = {"prompt": args.prompt, "marker": args.marker}
        files = dict.fromkeys(("train", "validation", "test"), str(args.data))
        data = data.model_copy(update=files | {k: v for k, v in texts.items() if v is not None})
    elif isinstance(data, Synthetic) and args.per_level is not None:
        data = data.model_copy(update={"test": args.per_level})
    dataset = load_dataset(RunConfig(name="evaluation", data=data, stages=()))
    if not dataset.tests:
        raise UpgeError(_UNTESTED)
    written = data.test and load_problems(Path(data.test)) if isinstance(data, JsonLines) else None
    suites = [
        make_suite(name, problems, written or problems, args.samples or _SAMPLES, args.limit)
        for name, problems in dataset.tests.items()
    ]
    return suites, dataset.verifier, {"prompt": data.prompt} if written else {}


def _weights(name: str, model: Any) -> str:
    """A digest of a model's files; of one from the hub its id and revision."""
    from upge.common.files import file_digest
    from upge.models.pretrained import weight_files

    digests = [file_digest(path) for path in weight_files(name)]
    if not digests:
        return f"{name}@{getattr(model, '_commit_hash', None)}"
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


# --------------------------------------------------------------------------------------- the work


def _complete(args: EvalArgs, asked: _Evaluation, ranks: Ranks) -> None:
    """Sample this process's share of what the folder lacks; the model is loaded only for that."""
    from upge.evaluation.run import BLOCK, Evaluator, parts

    folder, suites = asked.folder, asked.suites
    engine = args.backend == "vllm"
    rows = _rows("vllm" if engine else _device(), asked.sampling.max_tokens)
    fewest = ranks.world if engine else _SHARES
    todo = [
        part
        for own in suites
        for done in [folder.done(own.name, own.samples)]
        for part in parts(own.name, own.problems, own.samples, rows, fewest=fewest, done=done)
    ]
    ranks.wait()  # all have seen what is done, before one adds to it
    if not todo:
        return
    left, total = (sum(len(own.problems) for own in each) for each in (todo, suites))
    say = _say if ranks.is_first else lambda text: None
    if left < total:
        say(f"{folder.path}: {total - left} of {total} problems have responses, resuming")
    names = ", ".join(dict.fromkeys(part.suite for part in todo))
    responses = sum(len(part.problems) * part.samples for part in todo)
    say(f"sampling {responses} responses to {left} problems of {names} into {folder.path}")
    todo = todo[ranks.rank :: ranks.world]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # schedulers send it before a kill
    try:
        tokenizer, sampler = _load(
            asked.model,
            args.backend,
            asked.settings["dtype"],
            rows=rows,
            group=min(max(own.samples for own in suites), BLOCK),
            length=asked.length,
        )
        with _watching(todo, say, ranks.is_first) as progress:
            Evaluator(sampler, tokenizer, asked.verifier, asked.sampling, args.seed).run(
                todo, folder.add, progress
            )
    except KeyboardInterrupt:
        done = [
            folder.done(own.name, own.samples).intersection(range(len(own.problems)))
            for own in suites
        ]
        say(
            f"Interrupted at {sum(map(len, done))} of {total} problems; rerun the command to resume"
        )
        raise typer.Exit(INTERRUPTED) from None


def _rows(kind: str, max_tokens: int) -> int:
    """How many responses are sampled, and kept, at a time."""
    return max(_AT_ONCE[kind] // max_tokens, 8)


@contextmanager
def _watching(
    todo: Sequence[Part], say: Callable[[str], None], shown: bool
) -> Iterator[Callable[[str, int], None]]:
    """What shows the responses as they come in: a bar in a terminal, elsewhere a line at times."""
    total = sum(len(part.problems) * part.samples for part in todo)
    started = said = monotonic()
    bar = steps_bar()
    hidden = bar.disable
    bar.disable |= not shown
    with bar:
        task = bar.add_task("responses", total=total)

        def progress(name: str, responses: int) -> None:
            nonlocal said
            bar.update(task, advance=responses, description=name)
            if hidden and monotonic() >= said + _LINES:
                said, now = monotonic(), bar.tasks[task].completed
                left = timedelta(seconds=round((said - started) / now * (total - now)))
                say(f"{now:.0f} of {total} responses ({name}), {left} left")

        yield progress


def _say(text: str) -> None:
    Console(stderr=True).print(plain(text), highlight=False, markup=False, soft_wrap=True)


# ---------------------------------------------------------------------------------------- results


def _report(
    folder: EvaluationFolder, counts: Mapping[str, int | None], args: EvalArgs
) -> dict[str, Any]:
    """Print the results; as a record."""
    from upge.evaluation.results import result_rows

    against = None if args.against is None else _existing(args.against)
    rows = result_rows(folder, counts, by=args.by, against=against)
    record = folder.record
    assert record is not None
    totals = _totals(rows)
    of = {name: record.suites[name].problems for name in totals}
    about = {"model": record.model, **record.settings, "out": str(folder.path), "limit": args.limit}
    about["of"] = {name: whole for name, whole in of.items() if totals[name]["problems"] < whole}
    lines = ["avg@k (mean@k) in % [95 % interval over problems]"]
    if against is not None:
        about["against"] = str(against.path)
        lines.append(
            f"minus other: less that of {against.path} on the same problems; alone: problems that "
            "only one of both solves, in most of its responses"
        )
    lines += [
        f"{totals[name]['problems']} of the {n} problems of {name}"
        for name, n in about["of"].items()
    ]
    show(rows, about, args.form, _short, "\n".join(lines))
    for sentence in _doubts(totals):
        _say(sentence)
    return about | {"rows": rows}


def _totals(rows: Sequence[Row]) -> dict[str, Counter[str]]:
    """The counts of each suite, whatever its rows are."""
    totals: dict[str, Counter[str]] = {}
    for row in rows:
        counts = {name: value for name, value in row.items() if isinstance(value, int)}
        totals.setdefault(row["suite"], Counter()).update(counts)
    return totals


#: What to do where most of a suite's responses are so.
_REMEDIES = {"truncated": "raise --max-tokens", "unboxed": "take another --template"}


def _doubts(totals: Mapping[str, Counter[str]]) -> Iterator[str]:
    """A sentence on each suite most of whose responses were cut off, or are no answer."""
    for suite, counts in totals.items():
        often = [n for n in ("truncated", *_uncompared()) if 2 * counts[n] > counts["responses"]]
        if often:
            shares = ", ".join(f"{counts[name]} are {name}" for name in often)
            remedies = " or ".join(_REMEDIES[name] for name in often if name in _REMEDIES)
            said = f"{suite}: of {counts['responses']} responses {shares}"
            yield "; ".join(filter(None, [said, remedies]))


def _uncompared() -> list[str]:
    """The verdicts on responses that were not compared with the answer: all are worth 0."""
    from upge.tasks.grading import Verdict

    return [str(verdict) for verdict in Verdict if verdict not in (Verdict.RIGHT, Verdict.WRONG)]


def _short(rows: Sequence[Row]) -> list[Row]:
    """Rows of the table: what was reached or, against another evaluation, how much more."""
    several = any(row["samples"] > 1 for row in rows)
    seen = [name for name in ("truncated", *_uncompared()) if any(row[name] for row in rows)]
    table: list[Row] = []
    for row in rows:
        names = ("suite", "family", "level", "problems")
        short: dict[str, Any] = {name: row[name] for name in names if name in row}
        short |= {"k": row["samples"], "avg@k": _mean(row, "avg@k")}
        if "other" in row:
            short["minus other"] = _mean(row, "minus_other")
            short["alone"] = f"+{row['alone']} −{row['other_alone']}"
        else:
            short |= {"pass@k": _percent(row["pass@k"])} if several else {}
            short["tokens"] = f"{row['tokens']:.0f}"
            short |= {name: f"{100 * row[name] / row['responses']:.0f} %" for name in seen}
        table.append(short)
    return table


def _mean(row: Row, name: str) -> str:
    low, high = _percent(row[f"{name} low"]), _percent(row[f"{name} high"])
    return f"{_percent(row[name])} [{low}, {high}]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


# ------------------------------------------------------------------------------------------ sample


def sample(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"{_MODEL}finished run.")],
    prompts: Annotated[
        list[str], typer.Argument(metavar="PROMPT", help="Prompts, as the model reads them.")
    ],
    samples: Annotated[
        int, typer.Option("--samples", "-n", min=1, max=_MOST, help="Responses to each prompt.")
    ] = 4,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Sample from the likeliest tokens only.")] = 1.0,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="The longest response. Default: the run's, or 64.")
    ] = None,
    seed: Seed = 0,
    trust_remote_code: Trust = False,
    form: Form = Format.AUTO,
) -> None:
    """Print a model's responses to prompts, with their log-probabilities.

    log π is the sum over a response's tokens, at the sampling temperature (at 1 if that is 0) and
    before --top-p. A prompt is taken as it is, without the template that a run may have.
    """
    from upge.models.pretrained import load_config, load_tokenizer, trusting_remote_code
    from upge.rollouts import Sampling, derive_seed
    from upge.tasks.encoding import check_vocabulary, encode

    name, config = _run(model)
    settings = Sampling(max_tokens or _max_tokens(config, None), temperature, top_p)
    with trusting_remote_code(trust_remote_code):
        tokenizer = load_tokenizer(name)
        ids = [encode(tokenizer, prompt) for prompt in prompts]
        check_vocabulary(ids, load_config(name))
        tokenizer, sampler = _load(
            name,
            "transformers",
            "float32",
            rows=len(ids) * samples,
            group=samples,
            length=max(map(len, ids), default=0) + settings.max_tokens,
        )
    seeds = [derive_seed(seed, "sample", place) for place in range(len(prompts))]
    rollouts = sampler(ids, samples, settings, seeds)
    rows = [
        {
            "prompt": prompts[i // samples],
            "response": text,
            "tokens": int(mask.sum()),
            "log π": logp[mask].sum().item(),
            "finished": bool(finished),
        }
        for i, (text, mask, logp, finished) in enumerate(
            zip(rollouts.texts(tokenizer), *rollouts[1:], strict=True)
        )
    ]
    show(rows, {"model": model, "temperature": temperature, "top_p": top_p, "seed": seed}, form)


# ---------------------------------------------------------------------------------------- in common


def _run(model: str) -> tuple[str, RunConfig | None]:
    """What the model is loaded by, and the configuration of a finished run if it is one."""
    for module in ("pydantic", "yaml"):
        require(module, "train")
    from upge.common.config import build
    from upge.common.files import read_json
    from upge.training.config import RunConfig
    from upge.training.records import RunFolder

    folder = RunFolder(Path(model))
    config = read_json(folder.path / "config.json")
    if config is None or "stages" not in config:
        return model, None
    if folder.result is None:
        raise UpgeError(f"{model}: this run is not finished; rerun its upge train to resume it")
    config.pop("key", None)
    return str(folder.policy), build(config, RunConfig)


def _max_tokens(config: RunConfig | None, data: Path | None) -> int:
    if config is not None:
        return config.max_tokens
    return SYNTHETIC_TOKENS if data is None else TEXT_TOKENS


def _load(
    name: str, backend: Backend, dtype: str, *, rows: int, group: int, length: int
) -> tuple[Any, Any]:
    """The model's tokenizer and its sampler, if there is memory for them."""
    import torch

    from upge.models.pretrained import load_pretrained
    from upge.rollouts.backends import open_sampler
    from upge.rollouts.memory import check_sampler_memory

    kind = getattr(torch, dtype)
    if backend == "transformers":  # an engine looks after its memory itself
        check_sampler_memory(name, size=kind.itemsize, rows=rows, group=group, length=length)
    policy, tokenizer = load_pretrained(name, kind)
    return tokenizer, open_sampler(backend, policy.to(_device()), tokenizer)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
