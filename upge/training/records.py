"""Run folders: what was asked, where it ran, what was measured at each step, what came out.

config.json        the resolved configuration
provenance.json    commit, versions, hardware, when it was started and resumed
metrics.jsonl      one line a step
checkpoints/       the newest two
evaluation/        sampled responses as Parquet, a file for each evaluation
bad_steps/         batches whose gradient was not finite, or above ``skip_norm``
policy/            the trained model and its tokenizer, in the Hugging Face format
result.json        the final numbers; there if and only if the run is finished

A line of metrics.jsonl:

step, stage              from 1; from 0, in the order of the configuration
reward                   mean over the step's rollouts
solved                   share of solved rollouts of each question, P
offline_ratio            demonstrations among the samples that some term reads through an open gate
demonstrations           how many these are
response_length          tokens, mean over rollouts
finished                 share of rollouts that ended by themselves
entropy                  mean of −log π over all rollout tokens, nats: of the policy that sampled
                         them, at its temperature, without bias
mismatch/logp, /kl, /ratio   between sampler and policy, where another engine samples (vllm):
                         see :func:`upge.rollouts.mismatch.mismatch`
tokens_sampled           of all rollouts
tokens_computed          of prompts and responses that went forward and backward
tokens_avoided           of those that had no weight
term0/mass               Σ|w| of the algorithm's first term; terms as in ``upge algorithms NAME``
term0/clip_fraction      share of its tokens that the stabilizer changes
term0/effective_sample_size  of its ratios π_θ/π_ref, over its tokens: 1 where all are equal
term_norms               each term's gradient norm, every ``norms_every`` steps
grad_norm                of the whole gradient, before the clip
loss                     −Σ w log π: not comparable between steps but for SFT
skipped                  updates that were not applied
flops                    of sampling and training, not of measuring the mismatch
validation               accuracy, every ``evaluation.every`` steps and after the last
seconds, cpu_seconds     of the step with its validation

What rollouts alone have is missing where none were sampled. Of several updates a step, masses,
loss and norms are means, tokens sums.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from upge.errors import UpgeError
from upge.provenance import provenance
from upge.training.config import RunConfig


class RunFolder:
    """A run's folder; made when it is first used.

    Args:
        path: where it is. :func:`run_folder` names it after the method, the seed and the hash of
            the configuration.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics_path = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.evaluation = path / "evaluation"
        self.policy = path / "policy"

    @property
    def result(self) -> dict[str, Any] | None:
        """The final numbers, if the run is finished."""
        return _read_json(self.path / "result.json")

    def check(self, config: RunConfig) -> None:
        """Refuse a folder that holds another run.

        Raises:
            UpgeError: the folder's configuration determines other numbers.
        """
        own = _read_json(self.path / "config.json")
        if own is not None and own.get("key") != config.key:
            raise UpgeError(
                f"{self.path}: holds a run with another configuration; choose another --out or "
                "delete it"
            )

    def open(self, config: RunConfig) -> None:
        """Write the configuration and note the start."""
        given = {"key": config.key} | config.model_dump(mode="json")
        write_json(self.path / "config.json", given)
        starts = (_read_json(self.path / "provenance.json") or {}).get("starts")
        before = starts if isinstance(starts, list) else []
        write_json(self.path / "provenance.json", {"starts": [*before, provenance()]})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process from working on the same run."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UpgeError(
                    f"{self.path}: another process is working on this run; wait for it or stop it"
                ) from error
            yield

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a step's metrics."""
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def flush(self) -> None:
        """Have the metrics on the disk before a checkpoint relies on them."""
        sync(self.metrics_path)

    def metrics(self) -> list[dict[str, Any]]:
        """The steps' metrics, up to a line that was cut short or is not the next step's."""
        try:
            lines = self.metrics_path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
        except (FileNotFoundError, NotADirectoryError):
            return []
        found: list[dict[str, Any]] = []
        for line in map(_parse_object, lines):
            if line is None or line.get("step") != len(found) + 1:
                break
            found.append(line)
        return found

    @property
    def recorded(self) -> int:
        """The last step whose metrics are there."""
        return len(self.metrics())

    def rewind(self, step: int) -> None:
        """Forget the metrics of later steps: they are done again."""
        kept = [json.dumps(line) + "\n" for line in self.metrics()[:step]]
        write_atomically(self.metrics_path, "".join(kept))

    def keep_bad_step(self, name: str, batch: Mapping[str, Any]) -> Path:
        """Write a batch that no update was made from; the path of the file."""
        path = self.path / "bad_steps" / f"{name}.pt"
        path.parent.mkdir(exist_ok=True)
        write_tensors(path, batch)
        return path

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the final numbers."""
        write_json(self.path / "result.json", result)


def run_folder(runs: Path, config: RunConfig) -> RunFolder:
    """The folder of a run below ``runs``."""
    return RunFolder(runs / f"{config.name}-s{config.seed}-{config.key}")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file as a whole or not at all."""
    write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write a file as a whole or not at all, also when the machine goes down."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise


def write_tensors(path: Path, value: Mapping[str, Any]) -> None:
    """``torch.save``, but a full disk is an OSError, as with other files."""
    buffer = io.BytesIO()
    torch.save(dict(value), buffer)
    path.write_bytes(buffer.getbuffer())


def sync(path: Path) -> None:
    """Have a file or a folder's entries on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_error(error: Exception, folder: Path, step: int) -> UpgeError:
    """What kept a run from writing, in a sentence.

    Args:
        error: as it was raised.
        folder: the run's.
        step: of the newest checkpoint.
    """
    full = {errno.ENOSPC, errno.EDQUOT}
    if getattr(error, "errno", None) in full or "No space left" in str(error):
        return UpgeError(
            f"{folder}: the disk is full; free space and run the same command: it resumes from "
            f"step {step}"
        )
    return UpgeError(
        f"{getattr(error, 'filename', None) or folder}: can't be used "
        f"({getattr(error, 'strerror', None) or error}); mend that, or choose another --out"
    )


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return _parse_object(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def _parse_object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is; None if it is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
