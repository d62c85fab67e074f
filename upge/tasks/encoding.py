"""Texts as token ids, with sentences for what a tokenizer or a model can't take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from upge.common.errors import UpgeError


def check_vocabulary(prompts: Iterable[Sequence[int]], model: Any) -> None:
    """Refuse the tokenizer of another model, which may give ids that are no row of an embedding.

    Args:
        prompts: ids, none empty.
        model: the model's configuration.

    Raises:
        UpgeError: an id is none of the model's tokens.
    """
    largest = max(map(max, prompts), default=-1)
    vocabulary = getattr(model, "vocab_size", None)
    if vocabulary is not None and largest >= vocabulary:
        raise UpgeError(
            f"model: its tokenizer gives ids up to {largest}, but it knows {vocabulary} tokens; "
            "put the tokenizer that belongs to it into its folder"
        )


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids without special tokens.

    Raises:
        UpgeError: the text is empty, or has a character that the tokenizer doesn't know.
    """
    ids = _ids(tokenizer, text)
    unknown = {tokenizer.unk_token_id, tokenizer.pad_token_id} - {None, tokenizer.eos_token_id}
    if not ids or not unknown.isdisjoint(ids):
        letters = dict.fromkeys(text)
        lacking = [c for c in letters if not unknown.isdisjoint(_ids(tokenizer, c))]
        named = f" (it lacks {', '.join(map(repr, lacking[:5]))})" if lacking else ""
        raise UpgeError(
            f"the model's tokenizer can't encode {text[:40]!r}{named}; take a model whose "
            "vocabulary has these characters, or templates without them"
        )
    return ids


def _ids(tokenizer: Any, text: str) -> list[int]:
    if text.encode(errors="ignore").decode() != text:  # half of a surrogate pair is no character
        return []
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def tokens_left(positions: int) -> str:
    """What to want where prompt and response don't fit: so many tokens at most, if any are left."""
    return f"at most {positions}" if positions > 0 else "shorter prompts, or a longer model"
