r"""How a problem becomes a prompt, and a solution a demonstration whose answer is in a box."""

from __future__ import annotations

from typing import Any

from upge.common.errors import UpgeError, unknown
from upge.tasks.answers import boxed

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


def prompt(problem: str, template: str, tokenizer: Any = None) -> str:
    """The prompt of a problem, to be encoded without further special tokens.

    Args:
        problem: the question.
        template: one of :data:`TEMPLATES`, or ``chat`` for the tokenizer's own.
        tokenizer: read for ``chat`` alone.

    Raises:
        UpgeError: an unknown template, or a tokenizer without one.
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
    text: str = tokenizer.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    return text


def demonstration(solution: str, answer: str) -> str:
    """A solution that ends in its boxed answer; one that has a box stays as it is."""
    if boxed(solution) is not None:
        return solution
    return f"{solution}\nThe answer is \\boxed{{{answer}}}."
