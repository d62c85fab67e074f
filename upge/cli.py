"""The command line: ``upge verify``, ``weights``, ``algorithms``, ``train`` and the others."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from upge.algorithms import REGISTRY, Value, algorithm
from upge.batch import TrajectoryBatch
from upge.batch_json import parse_batch
from upge.claims_cli import claims
from upge.console import steps_bar
from upge.doctor_cli import doctor
from upge.errors import UpgeError, naming_memory
from upge.estimator import Estimate, Term
from upge.evaluate_cli import evaluate, sample
from upge.files import make_folder, read_text
from upge.moments_cli import moments
from upge.normalization import NORMALIZERS
from upge.plan_cli import plan
from upge.policies.pretrained import SMOLLM2
from upge.train_cli import train

if TYPE_CHECKING:
    from upge.theory.verify import Finding

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Every LLM post-training algorithm as one policy gradient estimator.",
)


def _out() -> Console:
    return Console()


#: Columns of a terminal that hold Table 1's components beside its checks.
_WIDE = 150


class Format(StrEnum):
    """How results are printed; ``auto`` is a table in a terminal and JSON in a pipe."""

    AUTO = "auto"
    JSON = "json"
    TABLE = "table"


Names = Annotated[
    list[str] | None, typer.Option("--algorithm", "-a", help="Only this algorithm; repeatable.")
]


# ------------------------------------------------------------------------------------------ verify


@app.command()
def verify(
    names: Names = None,
    check: Annotated[
        list[str] | None,
        typer.Option(help="Only this check (symbolic, printed, float64, real, trl, verl)."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Pretrained model: smollm2, a hub id, a folder, a .gguf file.")
    ] = SMOLLM2,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Seed of the real model's rollouts.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Write Table 1 and the parity matrix to this folder.")
    ] = None,
) -> None:
    """Derive and check every algorithm's gradient; with --out, write Table 1."""
    from upge.errors import unknown
    from upge.provenance import provenance
    from upge.theory.tables import write_tables
    from upge.theory.verify import CHECKS, Request, failures
    from upge.theory.verify import verify as run

    checks = check or list(CHECKS)
    for name in checks:
        if name not in CHECKS:
            raise unknown("check", name, CHECKS)
    request = Request(tuple(algorithm(n).name for n in names or REGISTRY), model, seed)
    if out is not None:
        make_folder(out)
    with steps_bar() as bar:
        task = bar.add_task("starting", total=len(checks) * len(request.names))

        def advance(finding: Finding) -> None:
            bar.update(task, advance=1, description=f"{finding.check}: {finding.algorithm}")

        findings = run(request, checks, advance)
    _out().print(_summary(findings))
    for finding in findings:
        if finding.check == "printed" and finding.verdict == "fail":
            _out().print(
                f"Not exact as printed: {finding.algorithm}. {finding.note}.", markup=False
            )
    if out is not None:
        paths = write_tables(findings, provenance(), out)
        _out().print(f"Written to {out}/: {', '.join(path.name for path in paths)}")
    idle = _idle_checks(findings)
    for name, why in idle.items():
        _out().print(f"{name} did not run: {why}", highlight=False, markup=False)
    failed = failures(findings)
    for finding in failed:
        _out().print(
            f"[red]failed[/]: {finding.check} of {finding.algorithm}: {escape(finding.note)}"
        )
    unmet = idle.keys() & set(check or ()) or ("real" in idle and model != SMOLLM2)
    raise typer.Exit(1 if failed or unmet else 0)


def _idle_checks(findings: Sequence[Finding]) -> dict[str, str]:
    """Checks that could be made of no algorithm, and why; the paper's rows aside."""
    notes: dict[str, str] = {}
    for check in dict.fromkeys(f.check for f in findings if f.check != "printed"):
        own = [f for f in findings if f.check == check]
        if all(f.verdict == "none" for f in own):
            notes[check] = own[0].note
    return notes


def _summary(findings: Sequence[Finding]) -> Table:
    from upge.theory.tables import rows_of, summary_columns

    table = Table(title="Table 1: the unified view, verified", title_justify="left")
    columns = summary_columns(wide=_out().width >= _WIDE)
    for header, _ in columns:
        table.add_column(header, overflow="fold")
    for row in rows_of(findings):
        table.add_row(*(render(row) for _, render in columns))
    return table


# ----------------------------------------------------------------------------------------- weights


@app.command()
def weights(
    batch: Annotated[str, typer.Argument(metavar="BATCH.json", help="The batch; - for stdin.")],
    names: Names = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="An option, as grpo.clip=0.1; repeatable."),
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="auto, json or table.")] = Format.AUTO,
) -> None:
    """Per-token weights w of algorithms on a batch, so that ∇J = Σ w ∇log π, and the loss.

    The batch has logp, old_logp, mask (N × T, response tokens), reward, group, offline (N) and
    optionally values, entropy (N × T) and max_length. The loss is −Σ w log π.
    """
    record = parse_batch(read_text(batch))
    options = _options(settings or [])
    chosen = [algorithm(name).name for name in names or REGISTRY]
    for name in options:
        if algorithm(name).name not in chosen:
            raise UpgeError(f"--set {name}.…: {name} is not among the chosen algorithms")
    results: dict[str, Estimate | str] = {}
    for name in chosen:
        try:
            results[name] = _estimate(name, record, options.get(name, {}))
        except UpgeError as error:
            if names or name in options:
                raise
            results[name] = str(error)
    as_json = form is Format.JSON or (form is Format.AUTO and not sys.stdout.isatty())
    if as_json:
        print(
            json.dumps(
                {name: _as_json(result) for name, result in results.items()}, allow_nan=False
            )
        )
    else:
        for name, result in results.items():
            _print_weights(name, result, record)


def _options(settings: list[str]) -> dict[str, dict[str, Value]]:
    """``algorithm.option=value`` strings by algorithm."""
    options: dict[str, dict[str, Value]] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        name, dot, option = key.partition(".")
        if not (equals and dot and option):
            raise UpgeError(f"--set {setting}: wanted ALGORITHM.OPTION=VALUE, as grpo.clip=0.1")
        if option in options.setdefault(name, {}):
            raise UpgeError(f"--set {key}: is given twice, wanted once")
        options[name][option] = _value(value)
    return options


def _value(text: str) -> Value:
    try:
        return float(text)
    except ValueError:
        return text


def _estimate(name: str, batch: TrajectoryBatch, options: dict[str, Value]) -> Estimate:
    estimate = algorithm(name)(**options)(batch, batch.require("logp", name), batch.entropy)
    if not estimate.weights.isfinite().all():
        raise UpgeError(f"{name}: its weights overflow on this batch; look at rewards and options")
    return estimate


def _as_json(result: Estimate | str) -> dict[str, object]:
    if isinstance(result, str):
        return {"error": result}
    return {
        "weights": result.weights.tolist(),
        "loss": result.loss.item(),
        "metrics": result.metrics,
    }


def _print_weights(name: str, result: Estimate | str, batch: TrajectoryBatch) -> None:
    if isinstance(result, str):
        _out().print(f"[bold]{name}[/]: {escape(result)}\n")
        return
    table = Table(title=f"{name}: loss {result.loss.item():.6g}", title_justify="left")
    for header in ("q", "R", "from", *map(str, range(batch.mask.shape[1]))):
        table.add_column(header, justify="right")
    for i, row in enumerate(result.weights.tolist()):
        kind = _source(batch, i)
        cells = [_colored(w) if batch.mask[i, t] else "" for t, w in enumerate(row)]
        table.add_row(str(batch.group[i].item()), f"{batch.reward[i].item():g}", kind, *cells)
    _out().print(table)


def _source(batch: TrajectoryBatch, i: int) -> str:
    online, offline = (bool(batch.rows_of(kind)[i]) for kind in ("online", "offline"))
    return {(1, 0): "rollout", (0, 1): "demo", (1, 1): "mixed", (0, 0): "padding"}[online, offline]


def _colored(weight: float) -> str:
    color = "dim" if weight == 0 else "green" if weight > 0 else "red"
    return f"[{color}]{weight:+.4g}[/]"


app.command()(moments)
app.command()(claims)
app.command()(train)
app.command()(plan)
app.command()(doctor)
app.command()(evaluate)
app.command()(sample)

# -------------------------------------------------------------------------------------- algorithms


@app.command()
def algorithms(
    name: Annotated[str | None, typer.Argument(help="An algorithm, for its details.")] = None,
) -> None:
    """List the registered algorithms, or show one's terms, options and their origins."""
    if name is not None:
        _print_algorithm(name)
        return
    table = Table("name", "title", "source")
    for entry in REGISTRY.values():
        table.add_row(entry.name, entry.title, entry.source)
    _out().print(table)


def _print_algorithm(name: str) -> None:
    entry = algorithm(name)
    _out().print(f"[bold]{entry.title}[/] ({entry.name})", highlight=False)
    _out().print(f"Source: {entry.source}", highlight=False, markup=False)
    if entry.note:
        _out().print(entry.note, highlight=False, markup=False)
    for i, term in enumerate(entry.terms, 1):
        _out().print(f"\n[bold]Term {i}[/], over {_SAMPLES[term.samples]}", highlight=False)
        _out().print(_term_table(term))
    _out().print("\n[bold]Options[/]")
    table = Table("option", "default", "origin")
    for option, value in entry.options.items():
        table.add_row(
            option,
            f"{value.default:g}" if isinstance(value.default, float) else str(value.default),
            escape(value.origin),
        )
    table.add_row("normalizer", "each term's own", f"the source's; or {', '.join(NORMALIZERS)}")
    if any(term.gate for term in entry.terms):
        table.add_row("gate", "switch", "paper, eq. 10; linear, sigmoid and wiener are soft ones")
    if any(term.takes_ratio_cap for term in entry.terms):
        table.add_row("ratio_cap", "none", "Yao et al. 2025, with 2: where another engine samples")
    _out().print(table)
    choices = dict.fromkeys(choice for term in entry.terms for choice in term.choices)
    if choices:
        _out().print("\n[bold]What the formulas leave open[/]")
        for choice in choices:
            _out().print(f"  • {choice}", highlight=False, markup=False)


_SAMPLES = {"online": "rollouts", "offline": "demonstrations", "all": "all samples"}


def _term_table(term: Term) -> Table:
    table = Table("component", "value", "as code", show_header=False)
    for label, part in (
        ("reference policy π_ref", term.reference),
        ("advantage Â", term.advantage),
        ("stabilization mask", term.stabilization),
        ("likelihood shaping f'", term.shaping),
    ):
        table.add_row(label, part.text or "–", part.label)
    table.add_row("normalizer", term.normalizer.text, term.normalizer.label)
    if term.coefficient != 1:
        table.add_row("coefficient", f"{term.coefficient:g}", "")
    if term.gate is not None:
        side = "α = f(P)" if term.gate.side == "rl" else "β = g(P)"
        table.add_row("gate", side, term.gate.feedback.label)
    if term.entropy_weight is not None:
        table.add_row("weight", term.entropy_weight.text, f"H per {term.entropy_weight.level}")
    return table


def main() -> None:
    """Run the command line; a user's mistake ends with one sentence and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # formulas, on terminals that lack the letters
    try:
        _run()
    except UpgeError as error:
        stderr = Console(stderr=True)
        stderr.print(f"upge: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)


def _run() -> None:
    """The command; an output that can't be written, as to a full disk, is the user's to mend."""
    try:
        try:
            with naming_memory():
                app()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        sys.stdout = None  # what it still holds would fail again at exit
        raise UpgeError(f"{error.filename or 'the output'}: {error.strerror}") from error


if __name__ == "__main__":
    main()
