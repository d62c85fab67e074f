"""The command line from end to end: what each command prints, and what it says when it can't."""

import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner

from upge import REGISTRY
from upge.cli import main as cli
from upge.cli import weights as weights_cli
from upge.normalization import TokenSum
from upge.verification import published
from upge.verification import verify as verification
from upge.verification.verify import CHECKS, Finding, Request

UPGE = [sys.executable, "-m", "upge.cli"]
COMMANDS = sorted(
    name
    for name, command in get_command(cli.app).commands.items()  # type: ignore[attr-defined]
    if not command.hidden
)


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The installed command, in this process."""
    monkeypatch.setenv("COLUMNS", "400")

    def call(*arguments: object, stdin: str = "") -> Outcome:
        monkeypatch.setattr(sys, "argv", ["upge", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert isinstance(end.value.code, int)
        return Outcome(end.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run checks in this process, so that they see what a test has broken."""

    def run_lanes(
        request: Request, lanes: Sequence[Sequence[str]], progress: Callable[[Finding], None]
    ) -> Iterator[Finding]:
        for check in (check for lane in lanes for check in lane):
            for finding in CHECKS[check](request):
                progress(finding)
                yield finding

    monkeypatch.setattr(verification, "_run_lanes", run_lanes)


def in_a_process(*arguments: object, **environment: str) -> Outcome:
    plain = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "COLUMNS")}
    done = subprocess.run(
        [*UPGE, *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        env=plain | {"OMP_THREAD_LIMIT": "1", "PYTHONUTF8": "1"} | environment,
        timeout=200,
        input=json.dumps(BATCH),
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def is_one_sentence(outcome: Outcome, *fragments: str) -> None:
    """Exit code 2, one line on stderr, no traceback and nothing else printed."""
    assert outcome.code == 2 and outcome.out == ""
    assert outcome.err.startswith("upge: ") and outcome.err.count("\n") == 1, outcome.err
    assert "Traceback" not in outcome.err
    for fragment in fragments:
        assert fragment in outcome.err


# --------------------------------------------------------------------------------- a batch by hand


def log(*probabilities: float) -> list[float]:
    return [math.log(p) for p in probabilities]


#: Question a: one of its two rollouts is right; question b: neither is. Each has a demonstration.
BATCH: dict[str, Any] = {
    "logp": [
        log(0.75, 0.5),  # a, R = 1: ratios 1.5 and 1
        log(0.425, 1),  # a, R = 0: ratio 0.85
        log(0.5, 0.25),  # a's demonstration
        log(0.5, 1),  # b, R = 0: ratio 1
        log(0.5, 1),  # b, R = 0: ratio 2
        log(0.2, 1),  # b's demonstration
    ],
    "old_logp": [log(0.5, 0.5), log(0.5, 1), log(1, 1), log(0.5, 1), log(0.25, 1), log(1, 1)],
    "mask": [[1, 1], [1, 0], [1, 1], [1, 0], [1, 0], [1, 0]],
    "reward": [1, 0, 1, 0, 0, 1],
    "group": ["a", "a", "a", "b", "b", "b"],
    "offline": [0, 0, 1, 0, 0, 1],
    "max_length": 4,
}
Z, U = 1 / math.sqrt(2), 1 / math.sqrt(3)
NONE = [0, 0]

#: The weights of BATCH, by what is asked of the command.
EXPECTED: dict[tuple[str, ...], list[list[float]]] = {
    # 1/3 for each of the demonstrations' three tokens.
    ("sft",): [NONE, NONE, [1 / 3, 1 / 3], NONE, NONE, [1 / 3, 0]],
    # a's rewards 1, 0 have mean 1/2 and std 1/√2 (n − 1), so Â = ±1/√2; b's are equal, so Â = 0.
    # w = ratio · Â / (2 questions · 2 rollouts · tokens); the ratio 1.5 is clipped, as Â > 0.
    ("grpo",): [[0, Z / 8], [-0.85 * Z / 4, 0], NONE, NONE, NONE, NONE],
    # Now 0.85 < 1 − 0.1 is clipped too, as Â < 0.
    ("grpo", "grpo.clip=0.1"): [[0, Z / 8], NONE, NONE, NONE, NONE, NONE],
    # Any ratio is left as it is.
    ("grpo", "grpo.clip=1e300"): [[1.5 * Z / 8, Z / 8], [-0.85 * Z / 4, 0], *[NONE] * 4],
    ("grpo", "grpo.clip=inf"): [[1.5 * Z / 8, Z / 8], [-0.85 * Z / 4, 0], *[NONE] * 4],
    # The rollouts have five tokens.
    ("grpo", "grpo.normalizer=token_mean"): [[0, Z / 5], [-0.85 * Z / 5, 0], *[NONE] * 4],
    # Â = ±1/2 without std, over 4 rollouts and the allowed length of 4.
    ("dr_grpo",): [[0, 0.5 / 16], [-0.85 * 0.5 / 16, 0], NONE, NONE, NONE, NONE],
    # Over rollouts and demonstrations: a's rewards 1, 0, 1 have mean 2/3 and std 1/√3, so Â = 1/√3
    # and −2/√3; b's 0, 0, 1 have Â = −1/√3 and 2/√3. Eight tokens in all, no clip. A demonstration
    # with f(π) = π/(π + 0.1) has w = f'(π) π Â/8 = 0.1 π/(π + 0.1)² Â/8.
    ("luffy",): [
        [1.5 * U / 8, U / 8],
        [-0.85 * 2 * U / 8, 0],
        [0.1 * 0.5 / 0.6**2 * U / 8, 0.1 * 0.25 / 0.35**2 * U / 8],
        [-U / 8, 0],
        [-2 * U / 8, 0],
        [0.1 * 0.2 / 0.3**2 * 2 * U / 8, 0],
    ],
    # P(a) = 1/2 > 0 takes RL: ratio · Â / (2 questions · 2 rollouts), summed over tokens; P(b) = 0
    # takes SFT: 1 / (2 questions · 1 demonstration · 1 token).
    ("hpt",): [[0, Z / 4], [-0.85 * Z / 4, 0], NONE, NONE, NONE, [1 / 2, 0]],
    # α = P, β = 1 − P: a gets half of RL and half of SFT, 1/2 · 1/(2 questions · 2 tokens).
    ("hpt", "hpt.gate=linear"): [
        [0, Z / 8],
        [-0.85 * Z / 8, 0],
        [1 / 8, 1 / 8],
        NONE,
        NONE,
        [1 / 2, 0],
    ],
}


@pytest.fixture
def batch_file(tmp_path: Path) -> Path:
    path = tmp_path / "batch.json"
    path.write_text(json.dumps(BATCH), encoding="utf-8")
    return path


@pytest.mark.parametrize("asked", EXPECTED, ids=" ".join)
def test_weights_are_those_worked_by_hand(run: Run, batch_file: Path, asked: Any) -> None:
    name, *settings = asked
    outcome = run("weights", batch_file, "-a", name, *(f"--set={s}" for s in settings))
    assert (outcome.code, outcome.err) == (0, "")
    (result,) = (results := json.loads(outcome.out)).values()
    assert list(results) == [name]
    for row, expected in zip(result["weights"], EXPECTED[asked], strict=True):
        assert row == pytest.approx(expected, rel=1e-12, abs=1e-15)
    loss = -sum(
        w * logp
        for row, own in zip(EXPECTED[asked], BATCH["logp"], strict=True)
        for w, logp in zip(row, own, strict=True)
    )
    assert result["loss"] == pytest.approx(loss, rel=1e-12)
    assert result["metrics"]["term0/mass"] > 0


def test_the_objective_rises_along_the_weights(run: Run, batch_file: Path) -> None:
    """Differences of GRPO's J, written out for BATCH, are the weights: ∇J = Σ w ∇log π."""

    def objective(logp: list[list[float]]) -> float:
        def surrogate(i: int, t: int, advantage: float) -> float:
            ratio = math.exp(logp[i][t] - BATCH["old_logp"][i][t])
            return min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)

        right = (surrogate(0, 0, Z) + surrogate(0, 1, Z)) / 2
        wrong = surrogate(1, 0, -Z)
        return (right + wrong) / 2 / 2  # rollouts of a, questions; b's advantages are 0

    def slope(i: int, t: int, step: float = 1e-6) -> float:
        up, down = ([[*row] for row in BATCH["logp"]] for _ in range(2))
        up[i][t] += step
        down[i][t] -= step
        return (objective(up) - objective(down)) / (2 * step)

    weights = json.loads(run("weights", batch_file, "-a", "grpo").out)["grpo"]["weights"]
    for i, t in ((0, 0), (0, 1), (1, 0)):
        assert weights[i][t] == pytest.approx(slope(i, t), abs=1e-8)
    assert weights[0][1] > 0 > weights[1][0]


def test_all_algorithms_by_default_with_reasons_for_those_that_cannot(run: Run) -> None:
    outcome = run("weights", "-", stdin=json.dumps(BATCH))
    results = json.loads(outcome.out)
    assert outcome.code == 0 and list(results) == list(REGISTRY)
    for name, result in results.items():
        needs = {"ppo": "values", "ppo_dual_clip": "values", "srft": "entropy"}
        if lacking := needs.get(name.removesuffix("_official")):
            assert list(result) == ["error"] and f"{name} needs {lacking}" in result["error"]
        else:
            assert [len(row) for row in result["weights"]] == [2] * 6
            assert math.isfinite(result["loss"])
    full = BATCH | {"values": [[0.5, 0.25]] * 6, "entropy": [[1.0, 2.0]] * 6}
    results = json.loads(run("weights", "-", stdin=json.dumps(full)).out)
    assert all("weights" in result for result in results.values())


def test_weights_as_a_table(run: Run, batch_file: Path) -> None:
    lines = run("weights", batch_file, "-a", "grpo", "--format", "table").out.splitlines()
    assert lines[0].startswith("grpo: loss ")
    rows = [line.replace("│", " ").split() for line in lines if line.startswith("│")]
    assert [row[2] for row in rows] == ["rollout", "rollout", "demo", "rollout", "rollout", "demo"]
    assert rows[0][1:] == ["1", "rollout", "+0", "+0.08839"]
    assert rows[1][1:] == ["0", "rollout", "-0.1503"]


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_coloured_table(
    run: Run, batch_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminal() -> Console:
        return Console(force_terminal=True, color_system="standard", width=200)

    monkeypatch.setattr(weights_cli, "Console", terminal)
    monkeypatch.setattr(sys, "stdout", screen := Screen())
    assert run("weights", batch_file, "-a", "grpo").code == 0
    assert "\x1b[32m+0.08839" in screen.getvalue() and "\x1b[31m-0.1503" in screen.getvalue()
    monkeypatch.setattr(sys, "stdout", screen := Screen())
    assert run("weights", batch_file, "-a", "grpo", "--format", "json").code == 0
    assert list(json.loads(screen.getvalue())) == ["grpo"]


def test_a_pipe_gets_json_whatever_the_colour_variables_say() -> None:
    outcome = in_a_process("weights", "-", "-a", "dr_grpo", FORCE_COLOR="1")
    assert outcome.code == 0
    weights = json.loads(outcome.out)["dr_grpo"]["weights"]
    assert weights[0] == pytest.approx([0, 0.5 / 16])


# ------------------------------------------------------------------------------------ bad requests

WITHOUT_DEMOS = BATCH | {"offline": [0] * 6}
WITHOUT_ROLLOUTS = BATCH | {"offline": [1] * 6}
WITHOUT_OLD = {name: value for name, value in BATCH.items() if name != "old_logp"}


@pytest.mark.parametrize(
    ("batch", "arguments", "fragment"),
    [
        # the batch; test_batch_json.py has more of them
        ("{", [], "the batch is no JSON"),
        ({}, [], "logp: is missing from the batch"),
        (BATCH | {"old_lgp": []}, [], "unknown field of the batch 'old_lgp'; did you mean 'old_l"),
        (BATCH | {"logp": [[-1.0, -1.0], [-1.0]] * 3}, [], "logp: got rows of 1 to 2 entries"),
        (BATCH | {"reward": [1, 0]}, [], "reward: got shape (2,), wanted (6,)"),
        (BATCH | {"logp": [[math.nan, 0]] * 6}, [], "logp: got nan at [0, 0], wanted finite"),
        (BATCH | {"reward": [math.inf] * 6}, [], "reward: got inf at [0], wanted finite"),
        (BATCH | {"logp": [[0.5, 0.5]] * 6}, [], "logp: got 0.5, wanted log-probabilities"),
        (
            BATCH | {"max_length": -4},
            [],
            "max_length: got -4, wanted a whole number of tokens, at least 1",
        ),
        # what an algorithm needs and the batch lacks
        (WITHOUT_DEMOS, ["-a", "sft"], "the batch has no offline samples; add demonstrations"),
        (WITHOUT_DEMOS, ["-a", "hpt"], "hpt has an offline term"),
        (WITHOUT_ROLLOUTS, ["-a", "grpo"], "the batch has no online samples; add rollouts"),
        (WITHOUT_OLD, ["-a", "grpo"], "grpo needs old_logp, which the batch lacks"),
        (BATCH, ["-a", "ppo"], "ppo needs values, which the batch lacks"),
        (BATCH, ["--set", "ppo.clip=0.1"], "ppo needs values, which the batch lacks"),
        (BATCH, ["-a", "srft"], "srft needs entropy, which the batch lacks"),
        # names
        (BATCH, ["-a", "gropo"], "unknown algorithm 'gropo'; did you mean 'grpo'?"),
        (BATCH, ["-a", ""], "unknown algorithm ''; known: "),
        (BATCH, ["--set", "gropo.clip=1"], "unknown algorithm 'gropo'; did you mean 'grpo'?"),
        (BATCH, ["--set", "grpo.clop=1"], "unknown option of grpo 'clop'; did you mean 'clip'?"),
        (BATCH, ["--set", "grpo.normaliser=x"], "did you mean 'normalizer'?"),
        (BATCH, ["--set", "grpo.normalizer=token_men"], "did you mean 'token_mean'?"),
        (BATCH, ["--set", "hpt.gate=liner"], "unknown gate 'liner'; did you mean 'linear'?"),
        (BATCH, ["--set", "grpo.gate=linear"], "grpo has no gated term"),
        # an option of what is not asked for would change nothing, unseen
        (BATCH, ["-a", "sft", "--set", "grpo.clop=1"], "grpo"),
        (BATCH, ["-a", "sft", "--set", "grpo.clip=0.1"], "grpo"),
        # syntax
        (BATCH, ["--set", "clip=0.1"], "wanted ALGORITHM.OPTION=VALUE, as grpo.clip=0.1"),
        (BATCH, ["--set", "grpo.clip"], "wanted ALGORITHM.OPTION=VALUE"),
        (BATCH, ["--set", "grpo.=1"], "wanted ALGORITHM.OPTION=VALUE"),
        (BATCH, ["--set", "=1"], "wanted ALGORITHM.OPTION=VALUE"),
        (BATCH, ["--set", ""], "wanted ALGORITHM.OPTION=VALUE"),
        # values
        (BATCH, ["--set", "grpo.clip=wide"], "grpo.clip: got 'wide', wanted a number"),
        (BATCH, ["--set", "grpo.clip="], "grpo.clip: got '', wanted a number"),
        (BATCH, ["--set", "grpo.clip=1=2"], "grpo.clip: got '1=2', wanted a number"),
        (BATCH, ["--set", "grpo.clip=-0.1"], "Clip.low: got -0.1, wanted a"),
        (BATCH, ["--set", "grpo.clip=nan"], "Clip.low: got nan, wanted a"),
        (BATCH, ["--set", "sapo.tau_pos=1e999"], "SigmoidGate.tau_pos: got inf, wanted a finite"),
        (BATCH, ["--set", "hpt.gamma=2"], "Switch.gamma: got 2.0, wanted a number from 0 to 1"),
        (BATCH, ["--set", "luffy.shaping=0"], "PolicyShaping.gamma: got 0.0, wanted a"),
        (BATCH, ["--set", "grpo.normalizer=0.5"], "grpo.normalizer: got 0.5, wanted a word"),
        (BATCH, ["--set", "hpt.gate=1"], "hpt.gate: got 1.0, wanted a word"),
    ],
)
def test_a_bad_request_is_one_sentence(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    batch: dict[str, Any] | str,
    arguments: list[str],
    fragment: str,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = batch if isinstance(batch, str) else json.dumps(batch)
    is_one_sentence(run("weights", "-", *arguments, stdin=text), fragment)


def test_a_file_that_cannot_be_read(run: Run, tmp_path: Path) -> None:
    latin = tmp_path / "latin.json"
    latin.write_bytes('{"group": ["é"]}'.encode("latin-1"))
    for path in (tmp_path / "nowhere.json", tmp_path, latin):
        is_one_sentence(run("weights", path), f"{path}: can't be read")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize("arguments", [("algorithms",), ("algorithms", "sft")])
def test_an_output_that_cannot_be_written(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run([*UPGE, *arguments], stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 2
    assert ended.stderr.strip() == "upge: the output: No space left on device"


def test_a_process_ends_with_exit_code_2() -> None:
    outcome = in_a_process("weights", "-", "-a", "gropo")
    is_one_sentence(outcome, "unknown algorithm 'gropo'; did you mean 'grpo'?")


@pytest.mark.parametrize("arguments", [["wieghts"], ["weights"], ["weights", "-", "--format=xml"]])
def test_misuse_is_explained_by_typer(run: Run, arguments: list[str]) -> None:
    outcome = run(*arguments)
    assert outcome.code == 2 and outcome.out == ""
    assert "Usage: " in outcome.err and "Traceback" not in outcome.err


# --------------------------------------------------------------------------- help, and the registry


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help(command: str | None) -> None:
    result = CliRunner().invoke(cli.app, [command, "--help"] if command else ["--help"])
    assert result.exit_code == 0 and "Usage: " in result.output
    for name in [] if command else COMMANDS:
        assert name in result.output


def test_help_imports_no_torch() -> None:
    """Of any command, so that it appears at once."""
    code = (
        "import sys\n"
        "from upge.cli.__main__ import main\n"
        "for command in ([], *([name] for name in sys.argv[1:])):\n"
        "    sys.argv = ['upge', *command, '--help']\n"
        "    try: main()\n"
        "    except SystemExit as end: assert end.code == 0, command\n"
        "    assert 'torch' not in sys.modules, command\n"
    )
    command = [sys.executable, "-c", code, *COMMANDS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"upge {name}" in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_the_packages_of_the_command_line(package: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None; from upge.cli.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    outcome = Outcome(done.returncode, done.stdout, done.stderr)
    is_one_sentence(outcome, f"{package} can't be imported", "pip install 'upge[cli]'")


def test_the_commands_are_there() -> None:
    assert {"algorithms", "verify", "weights"} <= set(COMMANDS)


def cells(text: str) -> dict[str, list[str]]:
    """The printed tables' rows by their first cell."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()]
    return {row[0]: row[1:] for row in rows if row}


def test_the_list_of_algorithms(run: Run) -> None:
    outcome = run("algorithms")
    assert outcome.code == 0
    assert cells(outcome.out) == {e.name: [e.title, e.source] for e in REGISTRY.values()}


@pytest.mark.parametrize("name", REGISTRY)
def test_an_algorithm_with_all_that_is_open(run: Run, name: str) -> None:
    outcome = run("algorithms", name)
    entry = REGISTRY[name]
    assert (outcome.code, outcome.err) == (0, "")
    for text in (entry.title, entry.source, entry.note):
        assert text in outcome.out
    printed = cells(outcome.out)
    for option, given in entry.options.items():
        default, origin = printed[option]
        assert float(default) == given.default and origin == given.origin
    assert "token_mean" in printed["normalizer"][1]
    assert ("gate" in printed) == any(term.gate is not None for term in entry.terms)
    for term in entry.terms:
        for part in (term.reference, term.advantage, term.stabilization, term.normalizer):
            assert part.text in outcome.out and part.label in outcome.out
            assert all(choice in outcome.out for choice in part.choices)
        assert term.gate is None or all(choice in outcome.out for choice in term.gate.choices)


@pytest.mark.parametrize(
    ("name", "open_choices"),
    [
        ("grpo", ["clip │ 0.2", "std divides by n − 1", "nothing is added to std", "Â = 0 where"]),
        ("gspo", ["clip_low │ 0.0003", "clip_high │ 0.0004", "arXiv 2507.18071, section 5.1"]),
        ("cispo", ["ratio_max │ 5", "does not state its upper bound"]),
        ("luffy", ["shaping │ 0.1", "arXiv 2504.14945"]),
        ("hpt", ["gamma │ 0", "γ = 0 for Qwen", "successes", "without a demonstration"]),
        ("ppo", ["gae_lambda │ 0.95", "the reward stands at the last response token"]),
    ],
)
def test_open_choices_by_name(run: Run, name: str, open_choices: list[str]) -> None:
    shown = " ".join(run("algorithms", name).out.split())
    for choice in open_choices:
        assert choice in shown


def test_an_algorithm_that_is_not_there(run: Run) -> None:
    is_one_sentence(run("algorithms", "luffi"), "unknown algorithm 'luffi'; did you mean 'luffy'?")


# ------------------------------------------------------------------------------------------- verify


@pytest.mark.slow
def test_verify_in_a_process() -> None:
    outcome = in_a_process("verify", "--check", "float64", "-a", "grpo", "-a", "sft")
    assert outcome.code == 0, outcome.err
    rows = cells(outcome.out)
    assert list(rows) == ["grpo", "sft"]
    for row in rows.values():
        (error,) = (float(cell) for cell in row if cell not in ("", "–", "not run"))
        assert 0 < error <= 1e-10


@pytest.mark.usefixtures("here")
def test_verify_writes_the_tables(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuted = Finding("printed", "cispo", "fail", note="a rollout of reward 1")
    monkeypatch.setitem(CHECKS, "printed", lambda request: iter([refuted]))
    folder = tmp_path / "new" / "tables"
    checks = ("--check", "symbolic", "--check", "printed")
    outcome = run("verify", *checks, "-a", "cispo", "--out", folder)
    assert outcome.code == 0, "a row that is not exact as printed is the paper's, not a failure"
    assert "Not exact as printed: cispo. a rollout of reward 1." in outcome.out
    written = {path.name for path in folder.iterdir()}
    assert {"table1.md", "table1.tex", "table1.csv", "parity.md", "parity.csv"} <= written
    assert all(name in outcome.out for name in written)
    _, line = (folder / "table1.csv").read_text(encoding="utf-8").splitlines()
    assert line.startswith("cispo,") and ",no,proved," in line


@pytest.mark.spread(1)
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("check", ["symbolic", "float64"])
@pytest.mark.parametrize("broken", ["the published loss", "the row"])
def test_a_failure_is_shown_and_the_exit_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, check: str, broken: str
) -> None:
    if broken == "the published loss":
        sft = published.sft
        monkeypatch.setitem(published.LOSSES, "sft", lambda *given: 1.01 * sft(*given))
    else:
        (term,) = REGISTRY["sft"].terms
        wrong = replace(REGISTRY["sft"], build=lambda: (replace(term, normalizer=TokenSum()),))
        monkeypatch.setitem(REGISTRY, "sft", wrong)
    outcome = run("verify", "--check", check, "-a", "sft")
    assert outcome.code == 1
    assert f"failed: {check} of sft" in outcome.out


@pytest.mark.usefixtures("here")
def test_a_note_is_printed_as_it_stands(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    note = "install upge[trl], or not [/at all]"
    finding = Finding("symbolic", "sft", "fail", note=note)
    monkeypatch.setitem(CHECKS, "symbolic", lambda request: iter([finding]))
    outcome = run("verify", "--check", "symbolic", "-a", "sft")
    assert outcome.code == 1 and f"failed: symbolic of sft: {note}" in outcome.out


@pytest.mark.usefixtures("here")
def test_why_the_real_model_was_not_checked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "no model can be loaded from 'smollm3'"
    findings = [Finding("real", name, "none", note=reason) for name in ("sft", "grpo")]
    monkeypatch.setitem(CHECKS, "real", lambda request: iter(findings))
    asked = ("--check", "real", "--model", "smollm3", "-a", "sft", "-a", "grpo")
    outcome = run("verify", *asked)
    assert (outcome.out + outcome.err).count(reason) == 1


def test_verify_refuses(run: Run, tmp_path: Path) -> None:
    is_one_sentence(run("verify", "--check", "floot64"), "'floot64'; did you mean 'float64'?")
    is_one_sentence(run("verify", "--check", "zzz"), "unknown check 'zzz'; known: float64, ")
    is_one_sentence(run("verify", "-a", "gropo"), "did you mean 'grpo'?")


def unwritable(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "file"
    file.write_text("in the way", encoding="utf-8")
    yield from (file, file / "below")
    if Path("/proc/self").exists():  # where not even root can write
        yield from (Path("/proc/none"), Path("/proc"))
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    if not os.access(locked, os.W_OK):
        yield locked


def test_verify_refuses_where_it_cannot_write_before_any_work(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: Any) -> Iterator[Finding]:
        raise AssertionError("the checks have begun")

    monkeypatch.setattr(verification, "_run_lanes", work)
    for folder in unwritable(tmp_path):
        is_one_sentence(run("verify", "-a", "sft", "--out", folder), f"--out {folder}: ")
