"""Asking the hub: quietly, and where no way leads to it from its cache alone, at once."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from upge import UpgeError
from upge.common import hub

constants = pytest.importorskip("huggingface_hub.constants")
httpx = pytest.importorskip("httpx")


def answers(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> list[Any]:
    """A hub that answers, or a way there that ends in an error; how it was asked is kept."""
    import huggingface_hub.utils

    asked: list[Any] = []

    def backoff(method: str, url: str, **options: Any) -> None:
        asked.append((method, url, options))
        if error is not None:
            raise error

    monkeypatch.setattr(huggingface_hub.utils, "http_backoff", backoff)
    return asked


@pytest.mark.parametrize(
    ("error", "reached"),
    [
        (None, True),
        (httpx.ConnectError("Name or service not known"), False),
        (httpx.ConnectTimeout(""), False),
        (httpx.ProxyError("403 Forbidden"), False),
        (httpx.ReadTimeout("slow"), True),
    ],
)
def test_where_no_way_leads_to_it_only_its_cache_is_asked(
    error: Exception | None, reached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    asked = answers(monkeypatch, error)
    with hub.hub("train"):
        assert constants.HF_HUB_OFFLINE is not reached
    assert constants.HF_HUB_OFFLINE is False
    timeout = {"max_retries": 1, "timeout": constants.HF_HUB_ETAG_TIMEOUT}
    assert asked == [("HEAD", constants.ENDPOINT, timeout)]


def test_where_it_is_not_to_be_asked_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = answers(monkeypatch, None)
    with pytest.raises(KeyError), hub.hub("train"):
        raise KeyError
    assert asked == [] and constants.HF_HUB_OFFLINE is True


def test_it_has_no_lines_of_its_own(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers(monkeypatch, None)
    logger = logging.getLogger("huggingface_hub.utils._http")
    level = logging.getLogger("huggingface_hub").level
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    with hub.hub("train"):
        logger.warning("Retrying in 8s [Retry 5/5].")
    logger.warning("Heard.")
    assert [record.getMessage() for record in caplog.records] == ["Heard."]
    assert logging.getLogger("huggingface_hub").level == level


def test_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", None)
    with (
        pytest.raises(UpgeError, match=r"install it with pip install 'upge\[train\]'"),
        hub.hub("train"),
    ):
        pass
