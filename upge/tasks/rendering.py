"""Chat templates, rendered in another process, which a template can't hang or break."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from upge.common.errors import UpgeError

_SCRIPT = Path(__file__).with_name("template_worker.py")

#: Processor seconds that one prompt may take; those of real templates take milliseconds.
SECONDS = 5.0

#: Bytes of memory that the process may take (macOS does not enforce it).
_MEMORY = 2**31

Messages = Sequence[dict[str, str]]


def render(tokenizer: Any, messages: Messages, *, opened: bool = False) -> str:
    """A conversation as text, by the tokenizer's chat template.

    Args:
        tokenizer: has a chat template.
        messages: with ``role`` and ``content`` each.
        opened: whether the assistant's turn is opened behind them.

    Raises:
        UpgeError: the template raises, doesn't end, or takes too much memory.
    """
    request = {
        "conversations": [list(messages)],
        "chat_template": _template(tokenizer),
        "add_generation_prompt": opened,
        **tokenizer.special_tokens_map,
    }
    return _renderer(os.getpid())(json.dumps(request, default=str))


def _template(tokenizer: Any) -> str:
    try:
        template: str = tokenizer.get_chat_template()
    except Exception as error:  # several templates, none of which is the default
        raise _failed(str(error)) from error
    return template


class _Renderer:
    """A process of :mod:`upge.tasks.template_worker`, started when it is first needed."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, request: str) -> str:
        with self.lock:
            line, code = self._ask(request)
        if not line:
            late = code == -signal.SIGPROF
            ended = f"its process ended with code {code}"
            raise _failed(f"it takes more than {SECONDS:g} s" if late else ended)
        reply = json.loads(line)
        if "error" in reply:
            raise _failed(reply["error"])
        return str(reply["text"])

    def _ask(self, request: str) -> tuple[str, int | None]:
        """The reply; where the process has ended instead, its exit code."""
        process = self.process = self.process or self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(request + "\n")
            process.stdin.flush()
            if line := process.stdout.readline():
                return line, None
        except BrokenPipeError:
            return "", self._close()
        except BaseException:  # interrupted: its reply would be taken for that to the next request
            self._close()
            raise
        return "", self._close()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            # -P: beside the script lie modules of the package, which are not to be imported.
            [sys.executable, "-P", _SCRIPT, str(SECONDS), str(_MEMORY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # an interrupt from the keyboard is this process's affair
        )

    def _close(self) -> int | None:
        """End the process; the code it ended with, by itself or now."""
        process, self.process = self.process, None
        assert process is not None
        process.kill()
        process.communicate()
        return process.returncode


def _failed(reason: str) -> UpgeError:
    line = (reason.splitlines() or [""])[0].rstrip(".: ")[:200]
    return UpgeError(
        f"the chat template of the model's tokenizer fails ({line}); mend chat_template in the "
        "tokenizer's folder, or take another template than chat"
    )


@lru_cache(maxsize=2)
def _renderer(process: int) -> _Renderer:
    """One a process: a fork must not share its parent's."""
    return _Renderer()
