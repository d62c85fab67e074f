"""Run folders: what was asked, by which code, where it ran, what each step measured, what came out.

config.json        the resolved configuration
code.json          what else determines the result: digests of the code, versions of packages
provenance.json    commit, versions, hardware, when it was started and resumed
metrics.jsonl      one line a step
checkpoints/       the newest two, see :mod:`upge.training.checkpoint`
evaluation/        sampled responses as Parquet, a file for each evaluation
bad_steps/         batches whose gradient was not finite, or above ``skip_norm``
policy/            the trained model and its tokenizer, in the Hugging Face format
result.json        the final numbers, and digests of the files above; there if and only if the run
                   is finished
lock               held by the main process
reported           there once one of several processes has reported how the run was cut short

A line of metrics.jsonl:

step, stage              from 1; from 0, in the order of the configuration
reward                   mean over the step's rollouts
solved                   share of solved rollouts of each question, P
offline_ratio            share of demonstrations among the rows whose gate is open for some term
demonstrations           how many demonstrations these are
response_length          tokens, mean over rollouts
finished                 share of rollouts that ended before max_tokens
entropy                  mean of −log π over all rollout tokens, nats: an unbiased estimate for the
                         policy that sampled them, at its temperature
mismatch/logp, /kl, /ratio   between sampler and policy, where another engine samples (vllm):
                         see :func:`upge.rollouts.mismatch.mismatch`
tokens_sampled           of all rollouts
tokens_computed          of prompts and responses that went forward and backward
tokens_avoided           of rows whose weight is 0 whatever the policy
term0/mass               Σ|w| of the algorithm's first term; terms as in ``upge algorithms NAME``
term0/clip_fraction      share of its tokens that the stabilizer changes
term0/effective_sample_size  of its ratios π_θ/π_ref, over its tokens: 1 where all are equal
per_term_grad_norm       each term's gradient norm, every ``norms_every`` steps
grad_norm                of the whole gradient, before the clip
loss                     −Σ w log π; comparable between steps for SFT alone
skipped                  updates that were not applied
flops                    of sampling and training, without measuring the mismatch
validation               accuracy, every ``evaluation.every`` steps and after the last
seconds, cpu_seconds     of the step and its validation

Entries about rollouts are absent where none were sampled. Over several updates in a step, masses,
loss and norms are means, token counts are sums.
"""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from upge.common.code import differing, listed
from upge.common.config import Config
from upge.common.errors import UpgeError
from upge.common.files import (
    atomic_write,
    check_name,
    file_digest,
    locked,
    read_json,
    sync,
    write_json,
)
from upge.common.provenance import provenance
from upge.training.config import RunConfig, key_of

Accuracy = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]

#: Bytes that are written to see whether anything can be.
_PROBE = 4096

#: One step's metrics.
Line = dict[str, Any]


class _Line(BaseModel):
    """What the loop reads of a line of metrics.jsonl."""

    model_config = ConfigDict(strict=True)

    step: int
    validation: Accuracy = 0.0


class Origin(Config):
    """What code.json holds: what determined a run's numbers.

    Attributes:
        setup, course, code: see :class:`~upge.training.config.RunConfig`.
    """

    setup: str
    course: str
    code: dict[str, str]


class _Result(Config):
    """What result.json holds.

    Attributes:
        steps: of the run.
        suites: accuracy on each test suite.
        in_distribution, out_of_distribution: their averages, where there are any.
        files: digests of what else the run wrote last, by path in its folder.
    """

    steps: int
    suites: dict[str, Accuracy] = Field(default={})
    in_distribution: Accuracy | None = None
    out_of_distribution: Accuracy | None = None
    files: dict[str, str]


def parse_metrics(text: str) -> list[Line]:
    """The lines of metrics.jsonl, up to one that is damaged, cut short or not the next step's."""
    lines: list[Line] = []
    for text_of_line in text.split("\n")[:-1]:
        try:
            step = _Line.model_validate_json(text_of_line).step
        except ValidationError:
            break
        if step != len(lines) + 1:
            break
        lines.append(json.loads(text_of_line))
    return lines


def metrics_text(lines: Iterable[Line]) -> str:
    """The content of metrics.jsonl."""
    return "".join(json.dumps(line) + "\n" for line in lines)


class RunFolder:
    """A run's folder; made when it is first used.

    Args:
        path: where it is. :func:`run_folder` names it after the method, the seed and the hash of
            what determines the result.
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
            UpgeError: they, or files that the run wrote last, aren't what it wrote.
        """
        path = self.path / "result.json"
        if (content := read_json(path)) is None:
            return None
        remedy = "restore it, or delete result.json: rerunning the command then makes it again"
        try:
            result = _Result.model_validate_json(json.dumps(content))
        except ValidationError:
            raise UpgeError(
                f"{path}: doesn't hold the run's accuracies any more; {remedy}"
            ) from None
        for name, digest in result.files.items():
            file = self.path / name
            # A folder that is gone as a whole was deleted, to free space, and misleads nobody.
            if file.parent.exists() and file_digest(file) != digest:
                raise UpgeError(f"{file}: isn't what the run wrote; {remedy}")
        if len(self.metrics()) != result.steps:
            raise UpgeError(f"{self.metrics_path}: isn't what the run wrote; {remedy}")
        return {name: value for name, value in content.items() if name not in ("files", "steps")}

    @property
    def origin(self) -> Origin | None:
        """What determined the run's numbers, where this is known."""
        held = read_json(self.path / "code.json")
        try:
            return None if held is None else Origin.model_validate_json(json.dumps(held))
        except ValidationError:
            return None

    def changed(self, config: RunConfig) -> list[str]:
        """Modules and packages in which the code of the folder's run differs from today's."""
        return [] if self.origin is None else differing(self.origin.code, config.code)

    @property
    def is_finished(self) -> bool:
        """Whether there is a result, whole or not."""
        return (self.path / "result.json").is_file()

    def check(self, config: RunConfig, keep: bool = False) -> None:
        """Refuse a folder that holds another run.

        Args:
            config: the run that is wanted.
            keep: whether one by other code will do.

        Raises:
            UpgeError: its configuration is another one, or its code.
        """
        check_name(self.path)
        origin = self.origin
        if origin is None and not (self.path / "config.json").exists():
            return
        if origin is None or origin.setup != config.setup:
            raise UpgeError(
                f"{self.path}: holds a run with another configuration; choose another --out or "
                "delete it"
            )
        if not keep and (changed := self.changed(config)):
            raise UpgeError(
                f"{self.path}: holds this run by other code ({listed(changed)}); choose another "
                "--out, delete it, or give --keep"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process from working on the same run."""
        with locked(self.path, "run"):
            (self.path / "reported").unlink(missing_ok=True)
            yield

    def probe(self) -> None:
        """See that whatever the run writes can be written, which the last step alone would show.

        Raises:
            OSError: something can't.
        """
        for folder in (self.path, self.checkpoints, self.policy, self.evaluation):
            folder.mkdir(exist_ok=True)
            atomic_write(folder / ".probe", bytes(_PROBE)).unlink()
            with suppress(OSError):  # it isn't empty
                folder.rmdir()
        if (place := self.path / "result.json").is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(place))

    def open(self, config: RunConfig) -> None:
        """Write the configuration and note the start."""
        code, origin = config.code, self.origin
        if origin is not None:  # a run that is kept is of several versions from now on
            code |= dict.fromkeys(differing(origin.code, code), "several versions")
        now = Origin(setup=config.setup, course=config.course, code=code)
        write_json(self.path / "code.json", now.model_dump())
        key = key_of(config.setup, code)
        write_json(self.path / "config.json", {"key": key} | config.model_dump(mode="json"))
        starts = (read_json(self.path / "provenance.json") or {}).get("starts")
        before = starts if isinstance(starts, list) else []
        write_json(self.path / "provenance.json", {"starts": [*before, provenance()]})

    def append(self, line: Line) -> None:
        """Add a step's metrics."""
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(metrics_text([line]))

    def metrics(self) -> list[Line]:
        """The steps' metrics, see :func:`parse_metrics`; none if there is no file."""
        try:
            return parse_metrics(self.metrics_path.read_text(encoding="utf-8", errors="replace"))
        except (FileNotFoundError, NotADirectoryError):
            return []

    @property
    def recorded(self) -> int:
        """The last step whose metrics are there."""
        return len(self.metrics())

    def rewind(self, lines: Iterable[Line]) -> None:
        """Replace the metrics by those that a checkpoint holds: later steps are done again."""
        atomic_write(self.metrics_path, metrics_text(lines))

    def keep_bad_step(self, name: str, batch: Mapping[str, Any]) -> Path:
        """Write a batch that no update was made from; the path of the file."""
        path = self.path / "bad_steps" / f"{name}.pt"
        path.parent.mkdir(exist_ok=True)
        write_tensors(path, batch)
        return path

    def finish(self, result: Mapping[str, Any], steps: int) -> None:
        """Write the final numbers, once all that belongs to them is on the disk.

        Args:
            result: accuracies, see :class:`_Result`.
            steps: of the run.
        """
        folders = [folder for folder in (self.policy, self.evaluation) if folder.exists()]
        files = sorted(file for folder in folders for file in folder.rglob("*") if file.is_file())
        for path in (*files, *folders, self.metrics_path, self.path):
            sync(path)
        digests = {str(file.relative_to(self.path)): file_digest(file) for file in files}
        write_json(self.path / "result.json", {"steps": steps} | dict(result) | {"files": digests})

    def reports(self) -> bool:
        """Whether this process is the first to report how the run was cut short."""
        try:
            (self.path / "reported").touch(exist_ok=False)
        except FileExistsError:
            return False
        except OSError:
            pass  # nothing can be written here, or the run was cut short before its folder was made
        return True


def run_folder(runs: Path, config: RunConfig) -> RunFolder:
    """The folder of a run below ``runs``."""
    return RunFolder(runs / f"{config.name}-s{config.seed}-{config.key}")


def of_other_code(runs: Path, config: RunConfig) -> list[RunFolder]:
    """Runs below ``runs`` that differ in their code alone, the one that got farthest first."""
    others = [
        folder
        for folder, origin in _relatives(runs, config)
        if origin.setup == config.setup and folder.changed(config)
    ]
    return sorted(others, key=lambda folder: (not folder.is_finished, -folder.recorded))


def of_other_length(folder: RunFolder, config: RunConfig) -> list[RunFolder]:
    """Runs beside a run's folder that differ from it in the steps of the last stage alone."""
    return [
        other
        for other, origin in _relatives(folder.path.parent, config)
        if other.path != folder.path
        and (origin.course, origin.code) == (config.course, config.code)
    ]


def _relatives(runs: Path, config: RunConfig) -> Iterator[tuple[RunFolder, Origin]]:
    """Runs of that name and seed, as far as it is known what they are."""
    for path in sorted(runs.glob(f"{escape(config.name)}-s{config.seed}-*")):
        if (origin := RunFolder(path).origin) is not None:
            yield RunFolder(path), origin


def write_tensors(path: Path, value: Mapping[str, Any]) -> None:
    """``torch.save``, but a full disk is an OSError, as with other files."""
    buffer = io.BytesIO()
    torch.save(dict(value), buffer)
    path.write_bytes(buffer.getbuffer())


def file_error(error: Exception, folder: Path, resumes: str) -> UpgeError:
    """What kept a run from writing, in a sentence.

    Args:
        error: as it was raised.
        folder: the run's.
        resumes: where the run resumes when it is started again.
    """
    full = {errno.ENOSPC, errno.EDQUOT}
    if getattr(error, "errno", None) in full or "No space left" in str(error):
        return UpgeError(
            f"{folder}: the disk is full; free space and rerun the command: it {resumes}"
        )
    return UpgeError(
        f"{getattr(error, 'filename', None) or folder}: can't be used "
        f"({getattr(error, 'strerror', None) or error}); mend that, or choose another --out"
    )
