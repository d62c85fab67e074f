"""Beginnings and ends of prompts and demonstrations, as the tokenizer itself has them."""

from __future__ import annotations

from typing import Any

import pytest

from upge import UpgeError
from upge.common.optional import available

if not available("transformers"):
    pytest.skip("transformers is not installed", allow_module_level=True)

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from upge.tasks.encoding import encode, encode_response, end_ids, turn_end
from upge.tasks.templates import prompt

SPECIAL = ["<unk>", "<bos>", "<eos>", "<turn>", "<end>"]
UNK, BOS, EOS, TURN, END = range(5)

#: Gemma's form: a beginning that the template writes, and an end of turns that is not the text's.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<turn>{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>{% endif %}"
)


def tokenizer(*, bos: bool = True, template: str | None = None, **special: str) -> Any:
    letters = sorted({*"abcdefghijklmnopqrstuvwxyzW1+?2.{}, \nIPAOS\\"})
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *letters])}
    model = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    model.pre_tokenizer = Split("", "isolated")
    if bos:
        model.post_processor = TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", BOS)]
        )
    names = {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>"} | special
    made = PreTrainedTokenizerFast(
        tokenizer_object=model, additional_special_tokens=["<turn>", "<end>"], **names
    )
    made.chat_template = template
    return made


def letters(made: Any, text: str) -> list[int]:
    return [made.convert_tokens_to_ids(letter) for letter in text]


def test_a_prompt_begins_as_in_the_tokenizers_own_call() -> None:
    made = tokenizer()
    assert encode(made, "ab") == [BOS, *letters(made, "ab")] == made("ab").input_ids
    without = tokenizer(bos=False)
    assert encode(without, "ab") == letters(without, "ab")


def test_a_beginning_is_not_written_twice() -> None:
    made = tokenizer(template=TEMPLATE)
    assert encode(made, "<bos>ab") == [BOS, *letters(made, "ab")]
    ids = encode(made, prompt("ab", "chat", made))
    assert ids.count(BOS) == 1 and ids[:2] == [BOS, TURN] and ids[-1] == TURN


def test_a_chat_format_without_a_beginning_gets_none() -> None:
    made = tokenizer(template=TEMPLATE.replace("{{ bos_token }}", ""))
    assert BOS not in encode(made, prompt("ab", "chat", made))
    assert encode(made, "ab")[0] == BOS  # which is in no chat format


def test_a_demonstration_ends_as_a_turn_does() -> None:
    made = tokenizer(template=TEMPLATE)
    assert turn_end(made) == END and end_ids(made) == [EOS, END]
    assert encode_response(made, "ab") == [*letters(made, "ab"), END]
    plain = tokenizer()
    assert turn_end(plain) is None and end_ids(plain) == [EOS]
    assert encode_response(plain, "ab") == [*letters(plain, "ab"), EOS]


def test_a_template_that_closes_no_turn_leaves_the_texts_end() -> None:
    open_ended = "{% for m in messages %}<turn>{{ m.content }}\n{% endfor %}"
    made = tokenizer(template=open_ended)
    assert turn_end(made) is None and encode_response(made, "a")[-1] == EOS


@pytest.mark.parametrize(
    "special",
    [
        {"pad_token": "<bos>"},
        {"pad_token": "<eos>"},
        {"pad_token": "<end>"},
        {"unk_token": "<bos>"},
        {"pad_token": "<unk>"},
    ],
)
def test_padding_that_is_another_token_too(special: dict[str, str]) -> None:
    made = tokenizer(template=TEMPLATE, **special)
    ids = encode(made, prompt("ab", "chat", made))
    assert ids[:2] == [BOS, TURN] and END in ids and ids[-1] == TURN
    assert encode_response(made, "ab")[-1] == END


@pytest.mark.parametrize("text", ["aß", "\udc80", ""])
def test_what_a_tokenizer_lacks_is_refused(text: str) -> None:
    with pytest.raises(UpgeError, match="tokenizer can't encode"):
        encode(tokenizer(), text)


def test_a_tokenizer_without_any_end() -> None:
    made = tokenizer()
    made.eos_token = None
    with pytest.raises(UpgeError, match="no demonstration could end; set eos_token"):
        encode_response(made, "ab")
