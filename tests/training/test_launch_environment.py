"""What a launcher can get wrong in the environment is one sentence, before anything is trained."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest


def doctor(**environment):
    done = subprocess.run(
        [sys.executable, "-m", "upge.cli", "doctor"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"} | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stderr.strip()


ALONE = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}


@pytest.mark.spread(2)
@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE: got 'x', wanted a number of processes"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE: got '', wanted a number of processes"),
        ({"ACCELERATE_MIXED_PRECISION": "fp99"}, "mixed_precision: got 'fp99' from the launcher"),
        ({"ACCELERATE_USE_CPU": "maybe"}, "the launcher's processes can't be connected"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "x"}, "the launcher's processes can't be"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "the launcher's processes can't"),
    ],
)
def test_nonsense_is_a_sentence(environment, sentence):
    code, said = doctor(**environment)
    assert code == 2 and sentence in said and "\n" not in said


def test_a_port_that_is_taken_is_a_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, said = doctor(**ALONE, MASTER_PORT=str(taken.getsockname()[1]))
    assert code == 2 and "the launcher's processes can't be connected" in said
    assert "Traceback" not in said
