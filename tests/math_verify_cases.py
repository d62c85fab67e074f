"""math-verify's own test cases, read from a checkout of its repository, as answers in a box.

They are not part of this repository: the variable UPGE_MATH_VERIFY names the checkout of
https://github.com/huggingface/Math-Verify. Nothing of it is imported or run.

    UPGE_MATH_VERIFY=… python tests/math_verify_cases.py

prints where our verdict is another than the one that is wanted there.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from upge.tasks.answers import boxed
from upge.tasks.grading import Verdict, grade

CHECKOUT = "UPGE_MATH_VERIFY"


class Case(NamedTuple):
    """A gold answer, an answer in a box, and whether it is right by math-verify's tests."""

    gold: str
    answer: str
    right: bool

    @property
    def name(self) -> str:
        """A short name, as the texts are not repeated here."""
        return sha256(f"{self.gold}\n{self.answer}".encode()).hexdigest()[:8]

    @property
    def agrees(self) -> bool:
        return (grade(self.gold, self.answer) is Verdict.RIGHT) == self.right


def cases(checkout: Path) -> list[Case]:
    """Those that fit into a box, each once: not sentences that an answer has to be found in."""
    found = {}
    for row in _rows(checkout):
        gold, answer = _in_a_box(row["gold"]), _in_a_box(row["pred"])
        # Settings that have no counterpart here.
        ours = row.get("strict", True) and row.get("allow_set_relation_comp", True)
        if gold and answer and ours and row.get("precision", 6) == 6:
            case = Case(gold, answer, bool(row.get("expected", row.get("result"))))
            found[case.name] = case
    return list(found.values())


def _rows(checkout: Path) -> Iterator[dict[str, Any]]:
    """The parameters of its tests that compare two answers."""
    for path in sorted((checkout / "tests").glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith("parametrize"):
                continue
            names = str(ast.literal_eval(node.args[0])).replace(" ", "").split(",")
            if names[:2] != ["gold", "pred"] or not isinstance(node.args[1], ast.List):
                continue
            for row in node.args[1].elts:
                try:
                    values = ast.literal_eval(row)
                except ValueError:  # computed
                    continue
                yield dict(zip(names, values, strict=True))


_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$]+)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL)


def _in_a_box(text: str) -> str | None:
    """What a response that says this would have in its box."""
    if "boxed" in text:
        return boxed(text)
    formulas = [next(filter(None, found.groups())) for found in _FORMULA.finditer(text)]
    prose = _FORMULA.sub("", text)
    if len(formulas) == 1 and len(text) < 200 and not re.search(r"[\d$]", prose):
        return formulas[0]
    is_prose = len(text) > 60 or re.search(r"[A-Za-z]{3} ", prose)
    return None if is_prose else text


if __name__ == "__main__":
    found = cases(Path(os.environ[CHECKOUT]))
    for case in found:
        if not case.agrees:
            print(case.name, "right" if case.right else "wrong", case.gold, "|", case.answer)
    print(f"{sum(case.agrees for case in found)} of {len(found)} agree", file=sys.stderr)
