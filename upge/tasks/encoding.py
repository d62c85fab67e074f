"""Texts as token ids, with sentences for what a tokenizer or a model can't take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from upge.common.errors import UpgeError
from upge.tasks.templates import chat_format


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
    """Token ids of a prompt, which begin as in the tokenizer's own call.

    What the tokenizer adds in front of a text, as ``<bos>``, is not added to a prompt in its chat
    format, nor to one that has it.

    Raises:
        UpgeError: the text is empty, or has a character that the tokenizer doesn't know.
    """
    ids = _encode(tokenizer, text)
    added = _added_in_front(tokenizer, text, ids)
    if not added or ids[: len(added)] == added:
        return ids
    form = chat_format(tokenizer)
    return ids if form is not None and form.has(text) else [*added, *ids]


def encode_response(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a response, with the end that the policy learns to write.

    That is the end of a turn in the tokenizer's chat template, and the tokenizer's own without one.

    Raises:
        UpgeError: as :func:`encode`; the tokenizer has no token that ends a text.
    """
    end = turn_end(tokenizer)
    end = tokenizer.eos_token_id if end is None else end
    if end is None:
        raise UpgeError(
            "model: its tokenizer has no end-of-sequence token, so no demonstration could end; set "
            "eos_token in tokenizer_config.json"
        )
    return [*_encode(tokenizer, text), end]


def turn_end(tokenizer: Any) -> int | None:
    """The token by which the tokenizer's chat template ends a turn, if it has one for that."""
    form = chat_format(tokenizer)
    if form is None or not form.closing.strip():
        return None
    ids: list[int] = tokenizer.encode(form.closing.strip(), add_special_tokens=False)
    special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", ())}
    ends = [token for token in ids if token in special] or (ids if len(ids) == 1 else [])
    return ends[0] if ends else None


def end_ids(tokenizer: Any) -> list[int]:
    """The tokens that end a response: the tokenizer's own, and the one of its chat template."""
    ends = (tokenizer.eos_token_id, turn_end(tokenizer))
    return [token for token in dict.fromkeys(ends) if token is not None]


def _encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids, with nothing added.

    Raises:
        UpgeError: the text is empty, or has a character that the tokenizer doesn't know.
    """
    ids = _ids(tokenizer, text)
    if not ids or _has_unknown(tokenizer, text, ids):
        letters = dict.fromkeys(text)
        lacking = [c for c in letters if _has_unknown(tokenizer, c, _ids(tokenizer, c))]
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


def _has_unknown(tokenizer: Any, text: str, ids: list[int]) -> bool:
    """Whether ids stand for something unknown: for it, or padding, where the text has neither.

    Both may be tokens that a text does have, as <bos> or the end of a chat's turn.
    """
    fillers = {tokenizer.unk_token_id: tokenizer.unk_token}
    fillers |= {tokenizer.pad_token_id: tokenizer.pad_token}
    return any(
        ids.count(token) > text.count(written)
        for token, written in fillers.items()
        if token is not None
    )


def _added_in_front(tokenizer: Any, text: str, ids: list[int]) -> list[int]:
    """What the tokenizer's own call puts in front of a text's ids."""
    whole: list[int] = tokenizer(text).input_ids
    places = range(len(whole) - len(ids) + 1)
    start = next((i for i in places if whole[i : i + len(ids)] == ids), 0)
    return whole[:start]


def tokens_left(positions: int) -> str:
    """What to want where prompt and response don't fit: so many tokens at most, if any are left."""
    return f"at most {positions}" if positions > 0 else "shorter prompts, or a longer model"
