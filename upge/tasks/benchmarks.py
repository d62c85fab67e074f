"""The data sets that the paper trains on and is measured on, from a folder or from the hub."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from upge.common.errors import UpgeError, unknown
from upge.tasks.hub import (
    Source,
    arc_record,
    columns,
    fetch,
    gpqa_record,
    gsm8k_record,
    math_record,
    openr1_record,
    svamp_record,
)
from upge.tasks.problem import Problem, Record, data_folder, load_problems, read_problem

#: The benchmarks of Table 2.
IN_DISTRIBUTION = ("aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench")
OUT_OF_DISTRIBUTION = ("arc_challenge", "gpqa_diamond")
BENCHMARKS = IN_DISTRIBUTION + OUT_OF_DISTRIBUTION

#: Sets that mathematical training is no preparation for.
UNSEEN = (*OUT_OF_DISTRIBUTION, "arc_easy")

#: Responses to a problem that the paper takes (section 4.1); one where nothing is said.
SAMPLES = {"aime24": 32, "aime25": 32, "amc23": 32}

_OLYMPIAD = columns("question", "final_answer")

#: Data sets by name, which is also that of their files.
SOURCES: dict[str, Source] = {
    "openr1": Source("Elliott/Openr1-Math-46k-8192", "train", openr1_record),
    "gsm8k_train": Source("openai/gsm8k", "train", gsm8k_record, "main", "number"),
    "gsm8k_test": Source("openai/gsm8k", "test", gsm8k_record, "main", "number"),
    "math_train": Source("DigitalLearningGmbH/MATH-lighteval", "train", math_record),
    "math_test": Source("DigitalLearningGmbH/MATH-lighteval", "test", math_record),
    "svamp": Source("ChilleD/SVAMP", "train+test", svamp_record, kind="number"),
    "aime24": Source("HuggingFaceH4/aime_2024", "train", columns("problem"), kind="number"),
    "aime25": Source("math-ai/aime25", "test", columns("problem"), kind="number"),
    "amc23": Source("math-ai/amc23", "test", columns("question"), kind="number"),
    "math500": Source("HuggingFaceH4/MATH-500", "test", columns("problem", solution="solution")),
    "minerva": Source("math-ai/minervamath", "test", columns("question")),
    "olympiadbench": Source("Hothan/OlympiadBench", "train", _OLYMPIAD, "OE_TO_maths_en_COMP"),
    "arc_challenge": Source("allenai/ai2_arc", "test", arc_record, "ARC-Challenge", "choice"),
    "arc_easy": Source("allenai/ai2_arc", "test", arc_record, "ARC-Easy", "choice"),
    "gpqa_diamond": Source("Idavidrein/gpqa", "train", gpqa_record, "gpqa_diamond", "choice"),
}


class Part(NamedTuple):
    """The problems of some levels of a data set."""

    of: str
    levels: tuple[int, ...]


#: Parts of data sets, each with a name of its own.
PARTS = {"math500_levels_1_2": Part("math500", (1, 2))}

#: How the names of local files end.
_SUFFIXES = (".jsonl", ".parquet")


def local_file(name: str) -> Path | None:
    """A data set's file: the one that is named, or ``NAME.jsonl`` or ``.parquet`` in UPGE_DATA.

    None if it has to come from the hub.

    Raises:
        UpgeError: no data set has this name, UPGE_DATA is no folder, or has a folder of this name.
    """
    if Path(name).suffix in _SUFFIXES:
        return Path(name)
    if name in PARTS:
        return local_file(PARTS[name].of)
    if name not in SOURCES:
        raise unknown("data set", name, [*SOURCES, *PARTS])
    for path in (data_folder() / f"{name}{suffix}" for suffix in (*_SUFFIXES, "")):
        if path.is_dir():
            raise UpgeError(
                f"{path}: is a folder, wanted a file {name}.jsonl or {name}.parquet in UPGE_DATA; "
                "put one there, or take the folder away to ask the hub"
            )
        if path.suffix and path.exists():
            return path
    return None


def load(name: str) -> list[Problem]:
    """The problems of a data set, by its name in :data:`SOURCES` or :data:`PARTS`, or by its file.

    A file in UPGE_DATA goes before the hub. It may have our own layout (``problem``, ``answer``,
    ``solution``) or that of the hub.

    Raises:
        UpgeError: no such data set or file, or no way to the hub.
    """
    if name in PARTS:
        whole, levels = PARTS[name]
        problems = [problem for problem in load(whole) if problem.level in levels]
        if not problems:
            raise UpgeError(
                f"{name}: {local_file(whole) or whole} has no problem of level "
                f"{' or '.join(map(str, levels))}; take a file whose records have 'level'"
            )
        return problems
    path = local_file(name)
    if path is None:
        return fetch(SOURCES[name])
    source = SOURCES.get(path.stem)

    def read(record: Record) -> Problem:
        if source is None:
            return read_problem(record)
        if "problem" in record and "answer" in record:  # our own layout
            return source.declared(read_problem(record))
        return source.problem(record)

    return load_problems(path, read)
