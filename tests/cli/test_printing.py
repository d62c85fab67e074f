"""Printed results: terminals obey, and spreadsheets compute, nothing of them."""

from __future__ import annotations

import csv
import io
import json

import pytest

from upge.cli.printing import Format, plain, show

#: A bell, colors, a moved cursor, a hidden title, C1's way to say so, reversed letters.
HOSTILE = "a\x07\x1b[31mred\x1b[2A\x1b]0;title\x07\x9b31m‮cba\r\x7f"


@pytest.mark.parametrize("form", [Format.TABLE, Format.JSON, Format.CSV])
@pytest.mark.parametrize("width", [30, 300])
def test_terminals_obey_no_name_and_no_response(
    form: Format,
    width: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [{"suite": HOSTILE, "response": f"{HOSTILE}\n{HOSTILE}", HOSTILE: "[red]:smile:"}]
    show(rows, {"model": HOSTILE}, form, legend=HOSTILE)
    told = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in told), told
    assert "[red]:smile:" in told.replace("\n", "")  # no markup either
    if form is Format.JSON:
        assert json.loads(told) == {"model": HOSTILE, "rows": rows}


def test_what_is_printable_stays() -> None:
    text = "π_θ: −0.5 → “ja” 数学 é\nnext"
    assert plain(text) == text
    assert plain("\x1b[2J\udcff\t") == "\\x1b[2J\\udcff\\t"


def test_spreadsheets_compute_no_cell(capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "a=1", "", "-", "−1"]
    rows = [{"family": text, "=name": -0.5, "count": -1} for text in texts]
    show(rows, {}, Format.CSV)
    names, *cells = csv.reader(io.StringIO(capsys.readouterr().out))
    assert names == ["family", "'=name", "count"]
    wanted = ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\\t=1", "a=1", "", "'-", "−1"]
    assert [row[0] for row in cells] == wanted
    assert all(row[1:] == ["-0.5", "-1"] for row in cells)  # numbers are numbers
