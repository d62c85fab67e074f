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
per_term_grad_norm               each term's gradient norm, every ``norms_every`` steps
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
import io
import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import torch

from upge.common.errors import UpgeError
from upge.common.files import atomic_write, locked, parse_object, read_json, sync, write_json
from upge.common.provenance import provenance
from upge.training.config import RunConfig

#: What a result has beside the accuracies of the suites.
_AVERAGES = ("in_distribution", "out_of_distribution")


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
        """The final numbers, if the run is finished.

        Raises:
            UpgeError: they were changed into something else.
        """
        path = self.path / "result.json"
        found = read_json(path)
        if found is not None and not self._is_whole(found):
            raise UpgeError(
                f"{path}: doesn't hold the run's accuracies any more; restore it, or delete it: "
                "the same upge train then goes on from the last checkpoint, if there is one"
            )
        return found

    def _is_whole(self, result: Mapping[str, Any]) -> bool:
        """Whether a result is of the right types, and has the suites that were tested."""
        suites = result.get("suites", {})
        if suites == {} and any(self.evaluation.glob("*.parquet")):  # what a test leaves first
            return False
        averages = [result.get(name) for name in _AVERAGES]
        known = [average for average in averages if average is not None]
        return isinstance(suites, dict) and all(map(_is_accuracy, [*suites.values(), *known]))

    def check(self, config: RunConfig) -> None:
        """Refuse a folder that holds another run.

        Raises:
            UpgeError: the folder's configuration determines other numbers.
        """
        own = read_json(self.path / "config.json")
        if own is not None and own.get("key") != config.key:
            raise UpgeError(
                f"{self.path}: holds a run with another configuration; choose another --out or "
                "delete it"
            )

    def open(self, config: RunConfig) -> None:
        """Write the configuration and note the start.

        Raises:
            OSError: something here can't be written, which the last step alone would find out.
        """
        for folder in (self.policy, self.evaluation):
            _try_folder(folder)
        if (place := self.path / "result.json").is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(place))
        given = {"key": config.key} | config.model_dump(mode="json")
        write_json(self.path / "config.json", given)
        starts = (read_json(self.path / "provenance.json") or {}).get("starts")
        before = starts if isinstance(starts, list) else []
        write_json(self.path / "provenance.json", {"starts": [*before, provenance()]})

    def locked(self) -> AbstractContextManager[None]:
        """Keep a second process from working on the same run."""
        return locked(self.path, "run")

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a step's metrics."""
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def flush(self) -> None:
        """Have the metrics on the disk before a checkpoint relies on them."""
        sync(self.metrics_path)

    def metrics(self) -> list[dict[str, Any]]:
        """The steps' metrics, up to a line that is damaged or not the next step's."""
        try:
            lines = self.metrics_path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
        except (FileNotFoundError, NotADirectoryError):
            return []
        found: list[dict[str, Any]] = []
        for line in map(parse_object, lines):
            if line is None or line.get("step") != len(found) + 1:
                break
            if not _is_accuracy(line.get("validation", 0)):
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
        atomic_write(self.metrics_path, "".join(kept))

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


def write_tensors(path: Path, value: Mapping[str, Any]) -> None:
    """``torch.save``, but a full disk is an OSError, as with other files."""
    buffer = io.BytesIO()
    torch.save(dict(value), buffer)
    path.write_bytes(buffer.getbuffer())


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


def _try_folder(path: Path) -> None:
    """Make a folder and see that it can be written to; an empty one is not left."""
    path.mkdir(exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    with suppress(OSError):  # it isn't empty
        path.rmdir()


def _is_accuracy(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1
