"""Every value of the recipes names its source: a paper, a script, a trial, a choice."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

EXPERIMENTS = Path(__file__).parents[2] / "experiments"

#: What a comment may name as a source.
SOURCE = re.compile(
    r"""\b(?:
        paper | scripts? | trials? | chosen | measured | assumed | required | this\ package
        | accelerate | \w+'s\ defaults? | arXiv\ \d{4}\.\d{5} | eq\.\ \d+ | \w+\ et\ al\.\ \d{4}
    )\b""",
    re.VERBOSE,
)

#: Another value as a source, of this file or of another one, where it is the same.
LIKE = re.compile(
    r"\bas (?:in (?P<same>[\w./-]+\.yaml)|(?P<key>\w+)(?: in (?P<file>[\w./-]+\.yaml))?)"
)


@dataclass(frozen=True)
class Leaf:
    """A scalar, its keys, and the comments on its line and on those of its keys, nearest first."""

    keys: tuple[str, ...]
    value: str
    comments: tuple[str, ...]


def comment(lines: list[str], place: int) -> str:
    """The comment behind a line and in the lines above it that are as far to the right."""
    indent = len(lines[place]) - len(lines[place].lstrip())
    texts = [lines[place].partition(" #")[2]]
    while place > 0 and lines[place - 1].startswith(" " * indent + "#"):
        place -= 1
        texts.append(lines[place].lstrip(" #"))
    return " ".join(texts)


def leaves(text: str) -> list[Leaf]:
    lines = text.splitlines()

    def walk(node: yaml.Node, keys: tuple[str, ...], places: tuple[int, ...]) -> Iterator[Leaf]:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                yield from walk(value, (*keys, key.value), (key.start_mark.line, *places))
        elif isinstance(node, yaml.SequenceNode):
            for item in node.value:
                yield from walk(item, keys, places)
        else:
            on = dict.fromkeys((node.start_mark.line, *places))
            yield Leaf(keys, node.value, tuple(comment(lines, place) for place in on))

    return list(walk(yaml.compose(text), (), ()))


def is_sourced(leaf: Leaf, path: Path) -> bool:
    return any(SOURCE.search(text) or refers(text, leaf, path) for text in leaf.comments)


def refers(text: str, leaf: Leaf, path: Path) -> bool:
    """Whether a comment names a key of the file, or the same value of another file."""
    for like in LIKE.finditer(text):
        key, file = like["key"] or leaf.keys[-1], like["same"] or like["file"]
        if file is None:
            return any(key in other.keys for other in leaves(path.read_text(encoding="utf-8")))
        others = leaves((path.parent / file).read_text(encoding="utf-8"))
        if any(key in other.keys and other.value == leaf.value for other in others):
            return True
    return False


def unsourced(path: Path) -> list[str]:
    return [
        f"{path.name}: {'.'.join(leaf.keys)}: {leaf.value}"
        for leaf in leaves(path.read_text(encoding="utf-8"))
        if not is_sourced(leaf, path)
    ]


RECIPES = sorted(EXPERIMENTS.rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(EXPERIMENTS)))
def test_every_value_names_its_source(path: Path) -> None:
    assert not unsourced(path)


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("a: 1  # paper, section 4.1\n", []),
        ("a: 1\n", ["a: 1"]),
        ("a: 1  # a number of steps\n", ["a: 1"]),
        ("# chosen\n\na: 1\n", ["a: 1"]),
        ("# chosen\na: 1\nb: 2\n", ["b: 2"]),
        ("a:  # chosen\n  b: 1\n  c: {d: [2, 3]}\nd: 4\n", ["d: 4"]),
        ("a:\n  - {b: 1}  # arXiv 2508.05629\n  - {b: 2}\n", ["a.b: 2"]),
        ("a: 1  # chosen\nb: 2  # as a\nc: 3  # as z\n", ["c: 3"]),
        ("a: 1  # as in other.yaml\nb: 2  # as in other.yaml\n", ["b: 2"]),
        ("b: 1  # as a in other.yaml\nc: 2  # as a in other.yaml\n", ["c: 2"]),
    ],
)
def test_a_value_without_a_source_is_found(tmp_path: Path, text: str, bare: list[str]) -> None:
    (tmp_path / "other.yaml").write_text("a: 1\nb: 3\n")
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert unsourced(path) == [f"mine.yaml: {value}" for value in bare]


def test_files_agree_on_what_the_paper_says() -> None:
    """Settings that are the same for all runs, whose own comment begins with the paper."""
    said: dict[tuple[str, ...], set[str]] = defaultdict(set)
    files: dict[tuple[str, ...], int] = defaultdict(int)
    for path in RECIPES:
        for leaf in leaves(path.read_text(encoding="utf-8")):
            if leaf.keys[0] in ("run", "stage") and leaf.comments[0].strip().startswith("paper"):
                said[leaf.keys].add(leaf.value)
                files[leaf.keys] += 1
    shared = {keys: values for keys, values in said.items() if files[keys] > 1}
    assert {".".join(keys): len(values) for keys, values in shared.items()} == {
        "run.evaluation.temperature": 1,
        "run.evaluation.top_p": 1,
        "stage.betas": 2,  # two numbers
        "stage.group_size": 1,
        "stage.temperature": 1,
        "stage.warmup": 1,
    }
