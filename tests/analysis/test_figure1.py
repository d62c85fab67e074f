"""Figure 1 shows what the registry holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib import pyplot as plt

from analysis import figure1
from upge.algorithms import REGISTRY


def row(algorithm: str, term: int = 0) -> list[str]:
    frame = figure1.numbers().set_index(["algorithm", "term"])
    return list(frame.loc[(algorithm, term), [part.name for part in figure1.PARTS]])


def test_algorithms_have_the_components_of_the_papers_table_1() -> None:
    assert row("sft") == ["1", "π_θ", "1", "1"]
    assert row("grpo") == ["1_Clip", "π_θold", "(R − mean_Gon)/std_Gon", "1"]
    assert row("luffy_offline")[1] == "1" and row("luffy_offline")[3] == "f'_shape"
    frame = figure1.numbers()
    assert len(frame[frame["table1"] == "yes"]) == 8
    assert frame[frame["algorithm"] == "hpt"]["samples"].tolist() == ["online", "offline"]
    assert frame[frame["algorithm"] == "hpt"]["gate"].tolist() == ["rl", "sft"]


def test_a_new_algorithm_is_drawn_and_all_text_lies_within_the_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(REGISTRY, "mine", REGISTRY["hpt"].__class__(**vars(REGISTRY["hpt"])))
    object.__setattr__(REGISTRY["mine"], "title", "an algorithm of one's own")
    drawn = figure1.figure()
    (axes,) = drawn.axes
    titles = [text.get_text() for text in axes.texts]
    assert [t for t in titles if t in {e.title for e in REGISTRY.values()}] == [
        entry.title for entry in REGISTRY.values()
    ]
    renderer = drawn.canvas.get_renderer()  # type: ignore[attr-defined]
    page = drawn.bbox
    for text in axes.texts:
        box = text.get_window_extent(renderer)
        assert page.x0 <= box.x0 and box.x1 <= page.x1, text.get_text()
        assert page.y0 <= box.y0 and box.y1 <= page.y1, text.get_text()
    marks = [line for line in axes.lines if line.get_marker() in ("o", "s")]
    choices = {
        (name, part.name, figure1._latex(part.of(term)), term.samples)
        for name, entry in REGISTRY.items()
        for part in figure1.PARTS
        for term in entry.terms
    }
    assert len(marks) == len(choices) + 2  # and the legend's
    plt.close(drawn)


def test_it_is_written_with_its_numbers(tmp_path: Path) -> None:
    figure1.main(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["figure1.csv", "figure1.pdf", "figure1.png"]
