"""The studies of the theory laboratory: each one question, answered exactly on small policies.

A study is a module with a frozen dataclass ``Recipe``, a function ``study(recipe, progress)`` that
gives rows in long format, and a function ``headlines(rows)`` that reads its few numbers to quote
off the rows. A new study is a new module and its name in ``_NAMES``.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from upge.theory.studies.common import Study

_NAMES = ("reference", "mask", "advantage", "demonstrations", "mixing")


def _study(name: str) -> Study[Any]:
    module = import_module(f"{__name__}.{name}")
    return Study(module.Recipe, module.study, module.headlines)


#: Every study by name.
STUDIES: dict[str, Study[Any]] = {
    name: _study(name) for name in _NAMES if find_spec(f"{__name__}.{name}")
}
