"""The record of counts: what was sampled is there after each policy and suite, and not repeated.

counts.parquet   a row a problem: the run, its method and seed, the problem, right answers, samples
provenance.json  settings of the sampling, and each start: commit, versions, hardware, date
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.pass_at_k.counts import COLUMNS, Job
from experiments.records import read_record
from upge.common.errors import UpgeError
from upge.common.files import atomic_write, make_folder, write_json
from upge.common.provenance import provenance

COUNTS, PROVENANCE = "counts.parquet", "provenance.json"


class Record:
    """Counts of one setting of the sampling.

    Args:
        folder: where it is, or goes.
        settings: samples, temperature and whatever else all counts have in common.

    Raises:
        UpgeError: the folder holds counts of another setting, or can't be read or written.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.settings = folder, settings
        make_folder(folder)
        known = read_record(folder / PROVENANCE)
        if known.get("settings", settings) != settings:
            raise UpgeError(
                f"{folder}: holds counts of another setting ({_text(known['settings'])}), asked "
                f"for are {_text(settings)}; choose another --out or delete it"
            )
        self.starts: list[dict[str, Any]] = list(known.get("starts", []))
        self.counts = read_counts(folder) if known else pd.DataFrame(columns=list(COLUMNS))
        self._started = False

    def lacks(self, job: Job) -> bool:
        """Whether a job's counts are not there yet."""
        own = self._rows(self.counts, job)
        return int(own.sum()) != job.problems

    def add(self, job: Job, counts: pd.DataFrame) -> None:
        """Keep a job's counts, in the place of older ones; written whole or not at all."""
        others = self.counts[~self._rows(self.counts, job)]
        self.counts = pd.concat([others, counts] if len(others) else [counts], ignore_index=True)
        self._write()

    def keep(self, runs: Sequence[str]) -> None:
        """Forget the counts of all other runs, as of methods with another learning rate since."""
        stale = ~self.counts["run"].isin(runs)
        if stale.any():
            self.counts = self.counts[~stale]
            self._write()

    def _rows(self, counts: pd.DataFrame, job: Job) -> Any:
        return (counts["run"] == job.policy.path.name) & (counts["suite"] == job.suite)

    def _write(self) -> None:
        if not self._started:
            self.starts, self._started = [*self.starts, provenance()], True
        write_json(self.folder / PROVENANCE, {"settings": self.settings, "starts": self.starts})
        order = self.counts.sort_values(["suite", "seed"], kind="stable", ignore_index=True)
        buffer = io.BytesIO()
        order.to_parquet(buffer, index=False, compression="zstd")
        atomic_write(self.folder / COUNTS, buffer.getvalue())


def read_counts(folder: Path) -> pd.DataFrame:
    """The counts in a folder.

    Raises:
        UpgeError: there are none that can be read.
    """
    path = folder / COUNTS
    if not path.exists():
        raise UpgeError(f"{path}: isn't there; `make pass-at-k` samples and counts")
    try:
        return pd.read_parquet(path)[list(COLUMNS)]
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise UpgeError(
            f"{path}: can't be read ({reason}); delete its folder and run `make pass-at-k`"
        ) from error


def _text(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())
