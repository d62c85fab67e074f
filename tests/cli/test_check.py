"""``upge check`` as people type it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

MINE = """
import torch

def loss(logprobs, old_logprobs, advantages, response_mask, clip=0.2):
    ratio = (logprobs - old_logprobs).exp()
    terms = torch.max(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))
    return (terms * response_mask).sum(1).div(response_mask.sum(1).clamp(min=1)).mean()
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return file


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "upge.cli", "check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_a_claim_that_holds(mine: Path) -> None:
    done = run(f"{mine}:loss", "--as", "grpo", "--set", "clip=0.2", "--law", "none")
    assert done.returncode == 0, done.stderr
    assert "Claim: it is grpo (clip=0.2): holds" in done.stdout


def test_a_claim_that_fails_and_a_picture(mine: Path, tmp_path: Path) -> None:
    picture = tmp_path / "mine.png"
    done = run(f"{mine}:loss", "--as", "dapo", "--json", "--plot", str(picture), "--law", "none")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["claim"]["faults"] == ["clip_bounds", "normalizer"]
    assert report["match"]["name"] == "ppo" and not report["passes"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


def test_a_broken_law_is_shown_with_lines_that_run(mine: Path) -> None:
    done = run(f"{mine}:loss", "--law", "nan_padding")
    assert done.returncode == 1
    lines = [line[4:] for line in done.stdout.splitlines() if line.startswith("    ")]
    script = mine.with_name("shown.py")
    script.write_text("\n".join(lines))
    shown = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert shown.returncode == 0 and "nan" in shown.stdout, shown.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere.py:loss"], "nowhere.py: no such file"),
        (["mine.py"], "wanted FILE.py:NAME"),
        (["mine.py:los"], "has no 'los'"),
        (["mine.py:loss", "--as", "grop"], "did you mean 'grpo'"),
        (["mine.py:loss", "--set", "clip=0.1"], "give both"),
        (["mine.py:loss", "--plot", "none/x.png"], "there is no folder none"),
        (["mine.py:loss", "--as", "grpo", "--set", "clip"], "--set clip: wanted NAME=QUANTITY"),
    ],
)
def test_mistakes(
    mine: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.chdir(mine.parent)
    done = run(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr and "Traceback" not in done.stderr
