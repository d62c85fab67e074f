"""``python -m analysis`` makes results of what there is, and names what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_runs import write_run

from analysis.__main__ import main
from analysis.results import RESULTS


@pytest.mark.slow
def test_the_command_writes_tables_and_figures(table2: Path, tmp_path: Path) -> None:
    tables, figures = tmp_path / "t", tmp_path / "f"
    options = (f"--records={table2.parent}", f"--out={tables}", f"--figures={figures}")
    command = [sys.executable, "-m", "analysis", "table2", "figure5", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    written = {path.name for path in tables.iterdir()}
    assert written == {"table2.md", "table2.tex", "table2.csv", "table2_comparisons.csv"}
    stems = ("figure5", "table2/learning_curves", "table2/offline_ratio", "table2/seeds")
    wanted = {f"{stem}.{kind}" for stem in stems for kind in ("pdf", "png", "csv", "json")}
    found = {str(path.relative_to(figures)) for path in figures.rglob("*.*")}
    assert found == wanted
    assert "make reproduce-table2 PROFILE=cpu SEEDS=3" in done.stdout


def test_what_is_missing_is_named_and_nothing_made_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for comparison in ("table2", "table6", "supply-30"):
        data = {"supply": {"problems": 900, "demonstrations": 30, "families": [], "levels": []}}
        write_run(tmp_path / "cpu" / comparison, "base", 0, given={"data": data})
    out = tmp_path / "out"
    main(["figure8", "figure6", "figure5"], tmp_path / "cpu", out, out)
    printed = capsys.readouterr().out
    assert "table6: no finished run of hpt_gamma_1; `make reproduce-table6 " in printed
    assert "table3-weak: no comparison; `make reproduce-table3` makes it" in printed
    assert "figure5: nothing was drawn" in printed
    assert not out.exists()


@pytest.mark.parametrize("name", sorted(set(RESULTS) - {"figure1"}))
def test_no_runs_are_a_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(SystemExit, match=r"^error: [^\n]*`make [a-z0-9-]+`[^\n]*$"):
        main([name], tmp_path, tmp_path, tmp_path)


@pytest.mark.slow
def test_mistakes_are_a_sentence(table2: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^error: unknown result 'tabel2'; did you mean 'table2'"):
        main(["tabel2"], tmp_path)
    write_run(tmp_path / "table3-weak", "sft", 0, finished=False)
    with pytest.raises(SystemExit, match=r"^error: .*make some with `make reproduce-table3"):
        main(["table3"], tmp_path, tmp_path / "out", tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=r"^error: .*file.*can't be written"):
        main(["table4"], table2.parent, tmp_path / "file", tmp_path)
