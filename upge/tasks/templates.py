r"""How a problem becomes a prompt, and a solution a demonstration whose answer is in a box."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from upge.common.errors import UpgeError, unknown
from upge.tasks.answers import boxed
from upge.tasks.rendering import render

INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."

#: Templates by name, with «problem» for the problem.
TEMPLATES = {
    # Nothing but the instruction.
    "plain": f"«problem»\n{INSTRUCTION}\n",
    # What the tokenizers of Qwen2.5-Math, the base models' too, make of a question (their
    # chat_template with its default system prompt); as the official code prompts Qwen.
    "qwen": f"<|im_start|>system\n{INSTRUCTION}<|im_end|>\n<|im_start|>user\n«problem»<|im_end|>\n"
    "<|im_start|>assistant\n",
    # For LLaMA's base model: data.zero_temp and data.suffix_prompt of exp_scripts/train_llama.sh.
    "zero": f"Question:\n«problem»\n{INSTRUCTION}\nAnswer:\nLet's think step by step.",
}

#: The tokenizer's own template.
CHAT = "chat"

#: What stands for a question and an answer where a chat template is looked at.
_QUESTION, _ANSWER = "What is 1+1?", "It is 2."


def prompt(problem: str, template: str, tokenizer: Any = None) -> str:
    """The prompt of a problem, as :func:`upge.tasks.encoding.encode` takes it.

    Args:
        problem: the question.
        template: one of :data:`TEMPLATES`, or ``chat`` for the tokenizer's own.
        tokenizer: read for ``chat`` alone.

    Raises:
        UpgeError: an unknown template; a tokenizer without one, or with one that can't be rendered.
    """
    if template in TEMPLATES:
        return TEMPLATES[template].replace("«problem»", problem)
    if template != CHAT:
        raise unknown("template", template, (*TEMPLATES, CHAT))
    if not getattr(tokenizer, "chat_template", None):
        raise UpgeError(
            "template: the model's tokenizer has no chat template of its own; take one of "
            f"{', '.join(TEMPLATES)}"
        )
    message = {"role": "user", "content": f"{problem}\n{INSTRUCTION}"}
    return render(tokenizer, [message], opened=True)


@dataclass(frozen=True)
class ChatFormat:
    """What a chat template writes around a user's message and the assistant's answer to it.

    Args:
        before: in front of the message.
        opening: behind it, up to the answer.
        closing: behind the answer.
    """

    before: str
    opening: str
    closing: str

    def has(self, prompt: str) -> bool:
        """Whether a prompt is in this format, as far as that shows."""
        if self.opening:
            return prompt.endswith(self.opening)
        return bool(self.before) and prompt.startswith(self.before)


def chat_format(tokenizer: Any) -> ChatFormat | None:
    """The format of a tokenizer's chat template; None where it has none that can be rendered."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    key = json.dumps([tokenizer.chat_template, tokenizer.special_tokens_map], default=str)
    if key not in _FORMATS:
        _FORMATS[key] = _chat_format(tokenizer)
    return _FORMATS[key]


#: Formats by template and special tokens.
_FORMATS: dict[str, ChatFormat | None] = {}


def _chat_format(tokenizer: Any) -> ChatFormat | None:
    user = {"role": "user", "content": _QUESTION}
    assistant = {"role": "assistant", "content": _ANSWER}
    try:
        opened = render(tokenizer, [user], opened=True)
        answered = render(tokenizer, [user, assistant])
    except UpgeError:  # said where the template is asked for
        return None
    if _QUESTION not in opened or _ANSWER not in answered:
        return None
    before, opening = opened.split(_QUESTION, 1)
    return ChatFormat(before, opening, answered.rsplit(_ANSWER, 1)[1])


def demonstration(solution: str, answer: str) -> str:
    """A solution that ends in its boxed answer; one that has a box stays as it is."""
    if boxed(solution) is not None:
        return solution
    return f"{solution}\nThe answer is \\boxed{{{answer}}}."
