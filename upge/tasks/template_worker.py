"""The process that chat templates are rendered in, run as a script.

A template is code of whoever made the model: jinja2's sandbox keeps it from everything but time and
memory, which the kernel bounds here. Requests and replies are lines of JSON.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

#: Characters of a prompt, at most.
_LONGEST = 2**24


def _render(request: dict[str, Any]) -> dict[str, str]:
    try:
        text = render_jinja_template(**request)[0][0]
    except Exception as error:  # templates may raise what they like
        return {"error": str(error) or type(error).__name__}
    if len(text) > _LONGEST:
        return {"error": f"it writes more than {_LONGEST} characters"}
    return {"text": text}


def serve(seconds: float, memory: int) -> None:
    """Render what standard input asks for until it ends; each takes so much time at most."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        reply = _render(request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    serve(float(sys.argv[1]), int(sys.argv[2]))
