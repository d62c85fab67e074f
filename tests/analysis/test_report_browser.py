"""The report in a real browser, from a file and without a network."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image

from analysis.report.page import Places, page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

if CHROMIUM is None:
    pytest.skip("no headless browser: install Debian's chromium", allow_module_level=True)

PHONE, DESKTOP = 390, 1280
WIDTHS = (PHONE, DESKTOP)
LIGHT, DARK = 1, 0

#: Added to the page under test alone.
MEASURE = (Path(__file__).parents[1] / "report_measure.js").read_text(encoding="utf-8")

#: A window of a browser has a least width, a frame in it none.
FRAMES = """<!doctype html>
<meta charset="utf-8">
<style>body { margin: 0 } iframe { border: 0; display: block }</style>
<pre id="heard" hidden></pre>
<script>
const heard = [], place = document.getElementById("heard")
addEventListener("message", (message) => {
  heard.push(message.data)
  place.textContent = JSON.stringify(heard)
})
</script>
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    text = page(Places())
    (folder / "report.html").write_text(text, encoding="utf-8")
    measured = text.replace("</body>", f"<script>{MEASURE}</script></body>")
    (folder / "measured.html").write_text(measured, encoding="utf-8")
    return folder


def frames(folder: Path, name: str, widths: tuple[int, ...], height: int) -> str:
    """A page with another in it, in frames of these widths."""
    shown = "".join(f'<iframe src="{name}" width="{w}" height="{height}"></iframe>' for w in widths)
    path = folder / f"frames-{'-'.join(map(str, widths))}.html"
    path.write_text(FRAMES + shown, encoding="utf-8")
    return path.as_uri()


def browse(folder: Path, address: str, *options: str, scheme: int = LIGHT) -> str:
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={folder / 'profile'}",
        f"--blink-settings=preferredColorScheme={scheme}",
        *options,
        address,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def measured(folder: Path) -> Mapping[int, Mapping[str, Any]]:
    """What the page measures in itself, by the width of the window."""
    address = frames(folder, "measured.html", WIDTHS, 900)
    document = browse(folder, address, "--dump-dom", "--virtual-time-budget=60000")
    (heard,) = re.findall(r'<pre id="heard" hidden.*?>(.+?)</pre>', document, re.DOTALL)
    return {found["width"]: found for found in json.loads(html.unescape(heard))}


@pytest.fixture(scope="module")
def screenshot(folder: Path) -> Callable[[int, int], np.ndarray]:
    def taken(width: int, scheme: int) -> np.ndarray:
        path = folder / f"{width}-{scheme}.png"
        address = frames(folder, "report.html", (width,), 1200)
        window = f"--window-size={max(WIDTHS)},1200"
        browse(folder, address, f"--screenshot={path}", window, scheme=scheme)
        return image.imread(path)[:, :width, :3]

    return taken


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out(measured: Mapping[int, Mapping[str, Any]], width: int) -> None:
    found = measured[width]
    assert found["content"] <= width
    assert not found["beyond"]
    assert found["boxes"] and max(found["boxes"]) <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_every_table_and_figure_has_a_size(
    measured: Mapping[int, Mapping[str, Any]], width: int
) -> None:
    found = measured[width]
    files = Places()
    tables = sum(p.read_text().count("\n| --- |") for p in files.tables.rglob("*.md"))
    assert len(found["tables"]) >= tables > 0
    assert len(found["images"]) == len(list(files.figures.rglob("*.png"))) > 0
    assert all(w > 30 and h > 20 for w, h in found["tables"])
    assert all(n > 300 and 200 < w <= width and h > 50 for n, w, h in found["images"])
    assert found["formulas"] and all(w > 2 and h > 2 for w, h in found["formulas"])


def test_nothing_is_fetched(measured: Mapping[int, Mapping[str, Any]]) -> None:
    assert not any(found["fetched"] for found in measured.values())


def test_claims_are_filtered_without_a_script(measured: Mapping[int, Mapping[str, Any]]) -> None:
    """The page's own, that is: the click is the test's."""
    for found in measured.values():
        assert len(set(found["verdicts"])) > 1
        assert found["filtered"] == ["fails"] * found["verdicts"].count("fails") != []


def test_a_figure_is_enlarged_in_its_own_box(measured: Mapping[int, Mapping[str, Any]]) -> None:
    before, after, content = measured[PHONE]["zoomed"]
    assert before < PHONE < after and content <= PHONE


@pytest.mark.parametrize("width", WIDTHS)
def test_light_and_dark(screenshot: Callable[[int, int], np.ndarray], width: int) -> None:
    light, dark = (screenshot(width, scheme) for scheme in (LIGHT, DARK))
    assert light.mean() > 0.8 and dark.mean() < 0.3
    for shown in (light, dark):
        ink = np.abs(shown - shown[0, 0]).max(axis=2) > 0.3
        assert 0.01 < ink.mean() < 0.5, "blank, or covered"
        assert ink[:, : width // 2].any() and ink[:, width // 2 :].any()
