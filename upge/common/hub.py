"""The Hugging Face hub, asked without lines of its own, and not for long where no way leads to it.

Left alone, huggingface_hub asks for every single file six times over 24 seconds, and says so each
time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from upge.common.optional import require


@contextmanager
def hub(extra: str) -> Iterator[None]:
    """Inside, the hub is asked; its cache on this machine alone, if no way leads to the hub itself.

    Args:
        extra: the one that installs what asks.

    Raises:
        UpgeError: huggingface_hub is missing.
    """
    constants = require("huggingface_hub.constants", extra)
    before = constants.HF_HUB_OFFLINE
    with quiet_hub():
        constants.HF_HUB_OFFLINE = before or not reached(extra)
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = before


def reached(extra: str) -> bool:
    """Whether the hub can be connected to, at the second trial if not the first.

    A slow network has HF_HUB_ETAG_TIMEOUT seconds for each, 10 if nobody says otherwise.
    """
    constants, httpx = require("huggingface_hub.constants", extra), require("httpx", extra)
    utils = require("huggingface_hub.utils", extra)
    try:
        utils.http_backoff(
            "HEAD", constants.ENDPOINT, max_retries=1, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError):
        return False
    except (httpx.HTTPError, OSError):
        return True  # it is there: what is wrong will be said of the file that is asked for
    return True


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Without a line for each trial to reach the hub."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
