"""Chat templates that are no templates, or worse."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from upge import UpgeError
from upge.common.optional import available
from upge.tasks import rendering
from upge.tasks.rendering import render

if not available("transformers"):
    pytest.skip("transformers is not installed", allow_module_level=True)

QUESTION = [{"role": "user", "content": "1+1?"}]


def tokenizer(template: str) -> Any:
    return SimpleNamespace(
        chat_template=template,
        get_chat_template=lambda: template,
        special_tokens_map={"bos_token": "<s>", "eos_token": "</s>"},
    )


def test_a_template_is_rendered_with_the_special_tokens() -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    assert render(tokenizer(template), QUESTION) == "<s>[user]1+1?</s>"
    assert render(tokenizer(template), QUESTION, opened=True) == "<s>[user]1+1?</s>[assistant]"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('only one turn') }}", "only one turn"),
        ("{{ messages[7].content.strip() }}", "has no"),
        ("{% for", "syntax|unexpected|expected"),
        ("{{ 'a' * 10**12 }}", "."),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ 'x' * 2**25 }}", "writes more than"),
    ],
)
def test_one_that_fails_is_one_sentence(template: str, reason: str) -> None:
    with pytest.raises(UpgeError, match=rf"chat template .* fails \(.*({reason}).*\); mend"):
        render(tokenizer(template), QUESTION)
    assert render(tokenizer("{{ messages[0].content }}"), QUESTION) == "1+1?"


def test_one_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "SECONDS", 0.5)
    rendering._renderer.cache_clear()
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(UpgeError, match=r"takes more than 0.5 s"):
        render(tokenizer(loop), QUESTION)
    rendering._renderer.cache_clear()


def test_a_process_killed_meanwhile_is_said_and_started_again() -> None:
    assert render(tokenizer("{{ messages[0].content }}"), QUESTION) == "1+1?"
    process = rendering._renderer(os.getpid()).process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(UpgeError, match="its process ended with code -9"):
        render(tokenizer("{{ messages[0].content }}"), QUESTION)
    assert render(tokenizer("{{ messages[0].content }}"), QUESTION) == "1+1?"
