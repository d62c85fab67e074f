"""What the README shows works as it stands."""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.main import get_command

from upge import UpgeError
from upge.cli import main as cli
from upge.cli.batch_json import parse_batch

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"

if not README.exists():
    pytest.skip("README.md is not there yet", allow_module_level=True)

TEXT = README.read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[list[str]]:
    """The arguments of each call of a program in a block of commands."""
    lines = [line for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line[:1] == [program]]


def run(code: list[str]) -> dict[str, Any]:
    """What blocks of Python leave behind, run one after another."""
    namespace: dict[str, Any] = {"__name__": "readme"}
    with torch.random.fork_rng(devices=[]):
        for block in code:
            exec(compile(block, "a block of README.md", "exec"), namespace)
    return namespace


def test_there_are_examples() -> None:
    assert blocks("python") and commands("upge") and commands("make")


def test_python_runs() -> None:
    shown = run(blocks("python"))
    assert torch.isfinite(shown["estimate"].loss) and shown["estimate"].weights.any()
    assert shown["estimate"].metrics


@pytest.mark.parametrize("arguments", commands("upge"), ids=" ".join)
def test_commands_are_understood(arguments: list[str]) -> None:
    """Names, options and their types are those of the command line; nothing is run."""
    group: Any = get_command(cli.app)
    context = group.make_context("upge", list(arguments))
    name, command, rest = group.resolve_command(context, list(arguments))
    with command.make_context(name, rest, parent=context) as parsed:
        assert parsed.command is command


@pytest.mark.parametrize(
    "arguments", [a for a in commands("upge") if a[0] in ("algorithms", "weights")], ids=" ".join
)
def test_quick_commands_run(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On the README's own batch, in the file that it speaks of."""
    batch = run(blocks("python")[:1])["estimate"].batch
    fields = ("logp", "old_logp", "mask", "reward", "group", "offline")
    record = {name: getattr(batch, name).tolist() for name in fields}
    (tmp_path / "batch.json").write_text(json.dumps(record), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["upge", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    printed = capsys.readouterr()
    assert end.value.code == 0 and printed.out and not printed.err


def test_fields_of_the_batch_are_those_that_are_read() -> None:
    (sentence,) = re.findall(r"`batch\.json` holds (.*?)\n\n", TEXT, re.DOTALL)
    with pytest.raises(UpgeError) as error:
        parse_batch('{"zzzzzz": 0}')
    known = set(str(error.value).split("known: ")[1].split(", "))
    assert set(re.findall("`([a-z_]+)`", sentence)) == known


@pytest.mark.parametrize(
    "target", sorted({a for words in commands("make") for a in words if "=" not in a})
)
def test_targets_of_make_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_files_of_the_tree_exist() -> None:
    (tree,) = re.findall(r"^```\n(upge/ .*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    inside = re.findall(r"^  (\S+)", tree, re.MULTILINE)
    assert inside
    for name in inside:
        assert (ROOT / "upge" / name).exists(), name
