"""A batch as JSON: what is read, and which sentence refuses what can't be meant."""

import json
from typing import Any

import pytest
import torch
from strategies import close

from upge import UpgeError
from upge.cli.batch_json import parse_batch

GOOD: dict[str, Any] = {
    "logp": [[-1.0, -0.5], [-0.25, 0]],
    "mask": [[1, 1], [1, 0]],
    "reward": [1, 0.5],
    "group": [7, 7],
}


def parse(**changes: Any) -> Any:
    return parse_batch(json.dumps(GOOD | changes))


def test_what_is_read() -> None:
    batch = parse(
        old_logp=[[-2, -3], [-4, -5]],
        values=[[0.1, 0.2], [0.3, 0.4]],
        entropy=[[1, 2], [3, 4]],
        offline=[False, True],
        max_length=9,
    )
    close(batch.logp, torch.tensor([[-1.0, -0.5], [-0.25, 0.0]]).double())
    assert batch.mask.tolist() == [[True, True], [True, False]]
    assert batch.reward.tolist() == [1.0, 0.5] and batch.reward.dtype == torch.float64
    assert batch.offline.tolist() == [[False, False], [True, True]]
    assert batch.max_length == 9
    close(batch.old_logp[0], torch.tensor([-2.0, -3.0]).double())
    close(batch.values[0], torch.tensor([0.1, 0.2], dtype=torch.float64))
    close(batch.entropy[0], torch.tensor([1.0, 2.0]).double())
    for field in (batch.logp, batch.old_logp, batch.values, batch.entropy):
        assert field.dtype == torch.float64


def test_what_may_be_left_out() -> None:
    for batch in (parse(), parse(old_logp=None, values=None, offline=None, max_length=None)):
        assert not batch.offline.any()
        assert batch.old_logp is None and batch.values is None and batch.entropy is None
        assert batch.max_length is None


def test_tokens_may_be_demonstrations_one_by_one() -> None:
    assert parse(offline=[[1, 0], [0, 0]]).offline.tolist() == [[True, False], [False, False]]


def test_questions_have_any_names() -> None:
    three = {name: [row[0], row[0], row[0]] for name, row in GOOD.items()}
    for names, same in (
        (["b", "a", "b"], [0, 1, 0]),
        ([9, 2, 9], [0, 1, 0]),
        ([1, "1", 1], [0, 1, 0]),
    ):
        group = parse_batch(json.dumps(three | {"group": names})).group
        assert group.tolist() == (same or [0, 1, 2])


def test_padding_may_hold_anything_finite_or_not() -> None:
    batch = parse(logp=[[-1, -1], [-1, float("nan")]], old_logp=[[-1, -1], [-1, float("-inf")]])
    assert batch.logp[1, 1] == 0 and torch.isfinite(batch.old_logp).all()


def test_an_empty_batch() -> None:
    batch = parse_batch('{"logp": [], "mask": [], "reward": [], "group": []}')
    assert tuple(batch.mask.shape) == (0, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the batch is no JSON: Expecting value"),
        ("{'logp': 1}", "the batch is no JSON"),
        ('{"logp": [[-1.0]]', "the batch is no JSON"),
        ("[1, 2]", "the batch is a JSON list, wanted an object"),
        ('{"logp": [[-1]], "logp": [[-2]]}', "the batch has 'logp' twice in one map, wanted once"),
        ("null", "the batch is a JSON NoneType, wanted an object"),
        ("[" * 100_000, "the batch is no JSON"),
    ],
)
def test_what_is_no_batch(text: str, message: str) -> None:
    with pytest.raises(UpgeError, match=message):
        parse_batch(text)


@pytest.mark.parametrize("name", GOOD)
def test_what_must_be_there(name: str) -> None:
    wanted = "N lists of T numbers" if name in ("logp", "mask") else "a list of N entries"
    for record in ({k: v for k, v in GOOD.items() if k != name}, GOOD | {name: None}):
        with pytest.raises(
            UpgeError, match=f"^{name}: is missing from the batch, wanted .*{wanted}"
        ):
            parse_batch(json.dumps(record))


HUGE = 10**400


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": [1, 0]}, "unknown field of the batch 'rewards'; did you mean 'reward'?"),
        (
            {"tokens": [[1, 2], [3, 4]]},
            "unknown field of the batch 'tokens'; known: demo_logp",
        ),
        # shapes
        ({"logp": -1.0}, "logp: got -1.0, wanted a list of N lists of T numbers"),
        ({"logp": [-1.0, -0.5]}, "logp: got -1.0, wanted a list of N lists of T numbers"),
        ({"logp": [[-1.0, -0.5], [-1.0]]}, "logp: got rows of 1 to 2 entries, wanted all of len"),
        ({"logp": [[-1.0, -0.5]]}, "logp: got shape (1, 2), wanted (2, 2) to go with mask (2, 2)"),
        ({"old_logp": [[-1.0], [-1.0]]}, "old_logp: got shape (2, 1), wanted (2, 2)"),
        ({"values": [[1.0], [1.0]]}, "values: got shape (2, 1), wanted (2, 2)"),
        ({"entropy": [[1.0], [1.0]]}, "entropy: got shape (2, 1), wanted (2, 2)"),
        ({"mask": [[1, 1]]}, "(1, 2)"),
        ({"reward": 1}, "reward: got 1, wanted a list of N entries"),
        ({"reward": [1]}, "reward: got shape (1,), wanted (2,)"),
        ({"group": [0, 0, 1]}, "group: got shape (3,), wanted (2,)"),
        ({"offline": [0]}, "offline: got shape (1,), wanted (2,)"),
        ({"offline": []}, "offline: got shape (0,), wanted (2,)"),
        ({"offline": [[0], [1]]}, "offline: got shape (2, 1), wanted (2, 2)"),
        # types
        ({"logp": [["-1", -1], [-1, -1]]}, "logp: got '-1', wanted a number"),
        ({"reward": [None, 1]}, "reward: got None, wanted a number"),
        ({"reward": {"0": 1}}, "reward: got {'0': 1}, wanted a list"),
        ({"group": [0.5, 1]}, "group: got 0.5, wanted whole numbers or names"),
        ({"group": [None, 1]}, "group: got None, wanted whole numbers or names"),
        ({"group": "ab"}, "group: got 'ab', wanted a list"),
        ({"offline": ["yes", "no"]}, "offline: got 'yes', wanted a number"),
        ({"offline": 0}, "offline: got 0, wanted a list"),
        ({"offline": False}, "offline: got False, wanted a list"),
        ({"offline": [[0, 1], 0]}, "offline: got 0, wanted a list"),
        # numbers
        ({"mask": [[1, 2], [1, 1]]}, "mask: got values other than 0 and 1"),
        ({"mask": [[1, float("nan")], [1, 1]]}, "mask: got values other than 0 and 1"),
        ({"offline": [0, -1]}, "offline: got values other than 0 and 1"),
        ({"logp": [[0.5, -1], [-1, -1]]}, "logp: got 0.5, wanted log-probabilities"),
        ({"old_logp": [[1.0, -1], [-1, -1]]}, "old_logp: got 1, wanted log-probabilities"),
        ({"logp": [[float("nan"), -1], [-1, -1]]}, "logp: got nan at [0, 0], wanted finite"),
        ({"logp": [[float("-inf"), -1], [-1, -1]]}, "logp: got -inf at [0, 0], wanted finite"),
        ({"reward": [1, float("nan")]}, "reward: got nan at [1], wanted finite"),
        ({"values": [[0, float("inf")], [0, 0]]}, "values: got inf at [0, 1], wanted finite"),
        ({"entropy": [[0, 0], [float("nan"), 0]]}, "entropy: got nan at [1, 0], wanted finite"),
        ({"reward": [HUGE, 0]}, "reward: got"),
        ({"logp": [[-HUGE, 0], [0, 0]]}, "logp: got"),
        # the longest response allowed
        ({"max_length": -1}, "max_length: got -1, wanted a whole number of tokens, at least 1"),
        ({"max_length": 0}, "max_length: got 0, wanted a whole number of tokens, at least 1"),
        (
            {"max_length": 1},
            "max_length: got 1, wanted a whole number of tokens, at least 1 and the "
            "longest response's 2",
        ),
        ({"max_length": 8.0}, "max_length: got 8.0, wanted a whole number"),
        ({"max_length": "8"}, "max_length: got '8', wanted a whole number"),
        ({"max_length": True}, "max_length: got True, wanted a whole number"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UpgeError) as error:
        parse(**changes)
    assert message in str(error.value)
    assert len(str(error.value)) < 300 and "\n" not in str(error.value)
