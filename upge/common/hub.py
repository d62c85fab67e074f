"""The Hugging Face hub, with short timeouts and no log noise.

By default huggingface_hub retries each file six times over 24 seconds, with a warning each time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from upge.common.optional import require


@contextmanager
def hub(extra: str) -> Iterator[None]:
    """Use the hub within; only its cache on this machine if it can't be reached.

    Args:
        extra: the extra that installs huggingface_hub.

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
    """Whether the hub can be connected to, at the second attempt if not the first.

    An attempt may take HF_HUB_ETAG_TIMEOUT seconds, 10 by default.
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
        return True  # it is there; the request for a file will say what is wrong
    return True


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Silence warnings about each attempt to reach the hub."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
