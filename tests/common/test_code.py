"""A digest changes with the code that is run, and with nothing else."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from upge.algorithms import REGISTRY
from upge.common.code import (
    code_of,
    code_of_parts,
    code_version,
    differing,
    listed,
    versions,
)

PACKAGE = {
    "__init__.py": "",
    "whole.py": "from toy_code.part import f\nimport toy_code.other\nfrom . import beside\nX = 1\n",
    "part.py": "def f():\n    from toy_code import lazy\n    return lazy.Y\n",
    "other.py": "Z = 3\n",
    "lazy.py": "Y = 2\n",
    "beside.py": "W = 4\n",
    "unused.py": "V = 5\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "toy_code"
    folder.mkdir()
    for name, text in PACKAGE.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return folder


def rewrite(path: Path, text: str) -> None:
    """With another time of change, however coarse the file system's clock is."""
    import os

    before = path.stat().st_mtime_ns
    path.write_text(text)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def test_all_that_is_imported_counts(package: Path) -> None:
    code = code_of("toy_code.whole")
    names = {"whole", "part", "other", "lazy", "beside"}
    assert {name.removeprefix("toy_code.") for name in code if name != "toy_code"} == names
    for name in names:
        path = package / f"{name}.py"
        rewrite(path, path.read_text().replace("1", "9").replace("Y", "QQ") + "\nT = 0\n")
        changed = code_of("toy_code.whole")
        assert differing(code, changed) == [f"toy_code.{name}"]
        assert code_version("toy_code.whole") != code_version("toy_code.part")
        code = changed
    rewrite(package / "unused.py", "V = 6\n")
    assert code_of("toy_code.whole") == code


def test_comments_docstrings_and_layout_do_not(package: Path) -> None:
    before = code_version("toy_code.whole")
    rewrite(package / "other.py", '"""Says what it is."""\n\n\nZ   =  (3)  # three\n')
    rewrite(package / "part.py", 'def f():\n    """f."""\n' + PACKAGE["part.py"][9:])
    assert code_version("toy_code.whole") == before


def test_what_is_left_out_counts_neither_with_what_it_imports(package: Path) -> None:
    code = code_of("toy_code.whole", without=["toy_code.part"])
    assert not {"toy_code.part", "toy_code.lazy"} & code.keys()


def test_every_module_of_a_training_step_counts() -> None:
    code = code_of("upge.training.loop")
    wanted = {"upge.advantage", "upge.estimator", "upge.training.update", "upge.tasks.verifier"}
    assert wanted <= code.keys()
    assert not any(name.startswith(("upge.cli", "upge.verification", "torch")) for name in code)


SCRIPT = """
import sys
from upge.algorithms import REGISTRY, register
from upge.common.code import code_of_parts
from helper import Half

@register("mine", "Mine", "nowhere")
def mine():
    from upge.estimator import Term
    from upge.normalization import TokenMean
    from upge.reference import ConstantOne
    return (Term("offline", ConstantOne(), Half(), TokenMean()),)

entry = REGISTRY["mine"]
print(sorted(code_of_parts(entry.build, entry()).items()))
"""
HELPER = """
from dataclasses import dataclass
from upge.advantage import Advantage, One

@dataclass(frozen=True)
class Half(One):
    def __call__(self, batch):
        return super().__call__(batch) * 0.5
"""


def say(folder: Path, *command: str, text: str | None = None) -> str:
    ran = subprocess.run(
        [sys.executable, *command], cwd=folder, input=text, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_an_algorithm_of_ones_own_counts_with_its_helpers(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SCRIPT)
    (tmp_path / "helper.py").write_text(HELPER)
    before = say(tmp_path, "mine.py")
    assert "'__main__'" in before and "'helper'" in before and "torch" not in before
    assert say(tmp_path, "mine.py") == before
    (tmp_path / "helper.py").write_text(HELPER.replace("0.5", "0.25"))
    assert say(tmp_path, "mine.py") != before
    (tmp_path / "helper.py").write_text("# mine\n" + HELPER)
    assert say(tmp_path, "mine.py") == before


@pytest.mark.slow
def test_one_without_a_file_counts_by_its_bytecode(tmp_path: Path) -> None:
    """As typed at a prompt."""
    typed = SCRIPT.replace("from helper import Half\n", HELPER)
    before = say(tmp_path, "-", text=typed)
    assert "__main__.mine" in before and "__main__.Half" in before
    assert say(tmp_path, "-", text=typed) == before
    assert say(tmp_path, "-", text=typed.replace("0.5", "0.25")) != before
    assert say(tmp_path, "-", text=typed.replace("ConstantOne()", "ConstantOne( )")) == before


def test_the_packages_algorithms_need_no_further_code() -> None:
    for entry in REGISTRY.values():
        assert code_of_parts(entry.build, entry()) == {}


def test_a_function_in_itself_is_no_endless_walk() -> None:
    def outer(n: int) -> int:
        return outer(n - 1) if n else 0

    assert __name__ in code_of_parts(outer, [outer], {"again": outer})


def test_versions_are_of_what_is_installed() -> None:
    import torch

    found = versions("torch", "no-such-package")
    assert found["torch"] == torch.__version__.partition("+")[0]
    assert found.keys() == {"python", "torch"}


def test_many_names_are_a_short_list() -> None:
    assert listed(["a"]) == "a"
    assert listed(["a", "b"]) == "a and b"
    assert listed("abcde") == "a, b, c, d and e"
    assert listed("abcdef") == "a, b, c, d and 2 others"
    assert listed([]) == "nothing"
