"""``upge train``: any algorithm on any problems, from a configuration or from a few options."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.progress import TextColumn

from upge.cli.run_config import resolve
from upge.common.progress import steps_bar

if TYPE_CHECKING:
    from upge.training.config import RunConfig
    from upge.training.records import RunFolder

#: The options that stand for a file.
_MADE = "Instead of CONFIG"

#: Exit code of a command that was interrupted.
INTERRUPTED = 130


def train(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG.yaml", help="The run, as YAML or JSON.", show_default=False),
    ] = None,
    algorithm: Annotated[
        str | None,
        typer.Option("--algorithm", "-a", help="One of the registry.", rich_help_panel=_MADE),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A base model's name, a hub id or a folder. Default: tiny.", rich_help_panel=_MADE
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="A JSON Lines file with problem, answer and maybe solution a line. Default: the "
            "synthetic suites.",
            rich_help_panel=_MADE,
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Default: 200.", rich_help_panel=_MADE)] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Learning rate. Default: 1e-3 for the package's bases, else 5e-6.",
            rich_help_panel=_MADE,
        ),
    ] = None,
    prompts_per_step: Annotated[
        int | None, typer.Option(help="Questions a step. Default: 16.", rich_help_panel=_MADE)
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(help="Responses to each question. Default: 8.", rich_help_panel=_MADE),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="The longest response. Default: 64 for the tiny bases, 176 for words, else 512 "
            "for --data.",
            rich_help_panel=_MADE,
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Default: 0.", rich_help_panel=_MADE)] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            help="Let Python code that comes with --model run.",
            rich_help_panel=_MADE,
        ),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change any value of the run, as stages.0.lr=3e-4; repeatable. The value is YAML: "
            "quote a text that starts with a brace, as 'data.prompt=\"{problem}\"'.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where run folders go.")] = Path("runs"),
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the whole configuration; train nothing.")
    ] = False,
    launch_check: Annotated[
        bool,
        typer.Option(
            help="With several processes, first compare their steps with a plain process's; see "
            "doctor.",
        ),
    ] = True,
    doctor: Annotated[bool, typer.Option(hidden=True)] = True,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", help="Take a run of the same configuration though other code made it."
        ),
    ] = False,
    questions: Annotated[int | None, typer.Option(hidden=True)] = None,
    rollouts: Annotated[int | None, typer.Option(hidden=True)] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            help="With --dry-run: what the run takes on 8 GPUs of this type; see plan, whose exit "
            "code it is."
        ),
    ] = None,
) -> None:
    """Train a model, and measure it.

    Either CONFIG describes the run (a run folder's config.json is one), or --algorithm and its
    companions do, as in

        upge train --algorithm hpt --steps 200

        upge train --algorithm grpo --model smollm2 --data problems.jsonl

    The tiny bases read and write the letters of the synthetic suites alone: --data with other texts
    wants another --model, as words, which is trained on English word problems if none are named.

    Everything else is reached by --set; --dry-run prints the whole configuration, which can be
    saved and given as CONFIG.

    The run's folder, below --out, is named after the method, the seed and a hash of all that
    determines the result, code included. It holds metrics, checkpoints, sampled responses and the
    trained policy. Rerun the command to resume an interrupted run; results are bit-identical. A
    finished run is not repeated, and a run of more --steps continues a shorter one.
    """
    made = {
        "algorithm": algorithm,
        "model": model,
        "data": data,
        "steps": steps,
        "lr": lr,
        "prompts_per_step": questions if prompts_per_step is None else prompts_per_step,
        "group_size": rollouts if group_size is None else group_size,
        "max_tokens": max_tokens,
        "seed": seed,
        "trust_remote_code": trust_remote_code or None,
    }
    run = resolve(
        config, {name: value for name, value in made.items() if value is not None}, settings
    )
    from upge.models.pretrained import trusting_remote_code
    from upge.training.records import run_folder

    folder = run_folder(out, run)
    if dry_run:
        _print_configuration(run, folder)
        if gpu is not None:
            from upge.planning.plan import make_plan, print_plan
            from upge.planning.setting import load_assumptions

            plan = make_plan(run, load_assumptions(gpu=gpu))
            print_plan(plan, prefix="# ")
            raise typer.Exit(0 if plan.memory.fits else 1)
    else:
        with trusting_remote_code(run.trust_remote_code):
            _train(run, folder, quiet, launch_check and doctor, keep)


def _print_configuration(run: RunConfig, folder: RunFolder) -> None:
    import yaml

    print(f"# key {run.key}; results go to {folder.path}")
    given = run.model_dump(mode="json")
    print(yaml.safe_dump(given, sort_keys=False, allow_unicode=True, width=100), end="")


def _train(run: RunConfig, folder: RunFolder, quiet: bool, launch_check: bool, keep: bool) -> None:
    from upge.models.pretrained import load_config
    from upge.planning.memory import check_run_memory
    from upge.training.launch_check import refuse_faulty
    from upge.training.loop import Trainer, open_run

    log = _Log(stderr=True, quiet=quiet or not _speaks())
    note = partial(log.print, highlight=False, markup=False, soft_wrap=True)
    folder = _chosen(run, folder, keep, note)
    folder.check(run, keep)
    changed = folder.changed(run)
    again = folder.result is not None
    trainer = Trainer(run, folder, note=note, keep=keep)
    try:
        if not again:
            check_run_memory(run)
            trainer.accelerator = open_run(run, folder)
            if launch_check:
                refuse_faulty(trainer.accelerator, load_config(run.model))
        with _watching(run, log) as observe:
            trainer.observe = observe
            result = trainer.run()
    except KeyboardInterrupt:
        if trainer.reports():
            _Log(stderr=True).print(
                f"Interrupted at step {trainer.progress.step} of {run.steps}; rerun the command: "
                f"it {trainer.resumes} in {folder.path}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        raise typer.Exit(INTERRUPTED) from None
    if _speaks():
        _print_to_reader(_closing_line(run, folder, result, again, changed))
        if hint := _hint(folder):
            _Log(stderr=True).print(hint, highlight=False, markup=False, soft_wrap=True)


def _chosen(
    run: RunConfig, folder: RunFolder, keep: bool, note: Callable[[str], None]
) -> RunFolder:
    """The run's folder, or that of a run by other code where this is kept; notes that there is one.

    Args:
        run: what is trained.
        folder: of the run by today's code.
        keep: whether one by other code is taken.
        note: prints a line.
    """
    from upge.common.code import listed
    from upge.training.records import of_other_code

    if folder.origin is not None or not (others := of_other_code(folder.path.parent, run)):
        return folder
    other = others[0]
    state = "finished" if other.is_finished else f"left after step {other.recorded}"
    made = f"{other.path} ({state}) is this run by other code: {listed(other.changed(run))}"
    if keep:
        note(f"{made}; it is taken")
        return other
    note(f"{made}; training anew in {folder.path} (--keep takes the old one)")
    return folder


def _speaks() -> bool:
    """Whether this process prints: a single one, or the first of several."""
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    return not several or os.environ.get("RANK", "0") == "0"


class _Log(Console):
    """A log that tolerates a closed pipe, as of ``head``."""

    def on_broken_pipe(self) -> None:
        """Write nothing from now on, and have others write to an open file."""
        self.quiet = True
        _silence(sys.stderr)


def _print_to_reader(text: str) -> None:
    """Print to standard output; tolerate a closed pipe."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _silence(sys.stdout)


def _silence(stream: TextIO) -> None:
    with suppress(OSError), open(os.devnull, "w") as nothing:  # in tests it may have no number
        os.dup2(nothing.fileno(), stream.fileno())


def _closing_line(
    run: RunConfig,
    folder: RunFolder,
    result: Mapping[str, Any],
    again: bool,
    changed: Sequence[str],
) -> str:
    """Where the results are, the accuracies, and whether other code made them."""
    from upge.common.code import listed

    state = "finished before" if again else f"{run.steps} steps"
    if changed:
        state += f" {'' if again else 'begun '}by other code ({listed(changed)})"
    parts = [f"{run.name}, seed {run.seed}: {state}"]
    validations = [line["validation"] for line in folder.metrics() if "validation" in line]
    if validations:
        parts.append(f"validation {validations[-1]:.3f}")
    suites = result.get("suites") or {}
    if suites:
        parts.append("test " + ", ".join(f"{name} {value:.3f}" for name, value in suites.items()))
    return "; ".join([*parts, f"results in {folder.path}"])


def _hint(folder: RunFolder) -> str:
    """What a run suggests that has learnt nothing from its rollouts; empty otherwise."""
    rewards = [line["reward"] for line in folder.metrics() if "reward" in line]
    if not rewards or any(rewards):
        return ""
    return (
        f"Hint: the reward was 0 in all {len(rewards)} steps with rollouts, so nothing was learnt "
        "from them: see whether the prompts ask for an answer in the form that is graded, whether "
        "max_tokens leaves room for it, and whether the model ever solves such problems (upge "
        "sample shows its responses)"
    )


@contextmanager
def _watching(run: RunConfig, console: Console) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Show the steps: as a bar in a terminal, elsewhere as a line per validation."""
    with steps_bar(TextColumn("{task.fields[numbers]}", markup=False), console=console) as bar:
        task = bar.add_task("loading", total=run.steps, numbers="")
        latest: dict[str, Any] = {}

        def observe(metrics: Mapping[str, Any]) -> None:
            step = metrics["step"]
            if not latest:  # steps of an earlier start don't count for the speed
                bar.reset(task, completed=step - 1)
            latest.update(metrics)
            doing = "testing" if step == run.steps else run.stages[metrics["stage"]].algorithm
            numbers = _numbers(latest)
            bar.update(task, completed=step, description=doing, numbers=numbers)
            if "validation" in metrics and not console.is_terminal:
                console.print(f"step {step}/{run.steps}: {numbers}", highlight=False, markup=False)

        yield observe


#: Metrics in a step's line, and their labels there.
_SHOWN = {"reward": "reward", "offline_ratio": "offline", "loss": "loss", "validation": "valid"}


def _numbers(metrics: Mapping[str, Any]) -> str:
    """The step's line; the loss is shown where there is no reward."""
    return ", ".join(
        f"{label} {metrics[name]:.3f}"
        for name, label in _SHOWN.items()
        if name in metrics and not (name == "loss" and "reward" in metrics)
    )
