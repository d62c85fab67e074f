"""The record: what it derives from its fields, and what it refuses."""

from typing import Any

import pytest
import torch
from hypothesis import given
from strategies import Case, cases, make_batch

from upge import TrajectoryBatch, UpgeError, get
from upge.batch import MAX_LOG_RATIO

# Row 0 is a rollout, row 1 a demonstration, row 2 begins with a demonstration's token and goes on
# with the policy's own, row 3 is padding.
MASK = [[1, 1, 0], [0, 1, 1], [1, 1, 0], [0, 0, 0]]
OFFLINE = [[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0]]


def batch(**fields: Any) -> TrajectoryBatch:
    return make_batch([1.0, 2.0, 3.0, 4.0], **{"mask": MASK, "group": [7, -2, 7, 9], **fields})


def with_tokens() -> TrajectoryBatch:
    return TrajectoryBatch(
        mask=torch.tensor(MASK),
        reward=torch.arange(4.0),
        group=torch.tensor([7, -2, 7, 9]),
        offline=torch.tensor(OFFLINE),
    )


def test_samples_are_told_apart_token_by_token() -> None:
    b = with_tokens()
    assert b.tokens_of("online").int().tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert b.tokens_of("offline").int().tolist() == [[0, 0, 0], [0, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert b.tokens_of("all").int().tolist() == MASK
    assert b.rows_of("online").tolist() == [True, False, True, False]
    assert b.rows_of("offline").tolist() == [False, True, True, False]
    assert b.rows_of("all").tolist() == [True, True, True, False]


def test_offline_may_be_given_row_by_row() -> None:
    assert batch(demos=[0, 1, 0, 1]).offline.int().tolist() == [[0] * 3, [1] * 3, [0] * 3, [1] * 3]


def test_questions_are_numbered_and_summed_over() -> None:
    b = batch()
    assert b.num_questions == 3
    assert b.question.tolist() == [1, 0, 1, 2]
    # Question −2 has row 1, question 7 rows 0 and 2, question 9 row 3.
    assert b.per_question(torch.tensor([1.0, 10.0, 100.0, 1000.0])).tolist() == [10, 101, 1000]


def test_trajectory_mean_is_over_the_tokens_of_its_samples() -> None:
    x = torch.tensor([[1.0, 3.0, 99.0], [99.0, 4.0, 6.0], [5.0, 7.0, 99.0], [99.0] * 3])
    # Online: (1 + 3)/2, none, 7, none. Offline: none, (4 + 6)/2, 5, none.
    assert with_tokens().trajectory_mean(x).squeeze(1).tolist() == [2, 0, 7, 0]
    assert with_tokens().trajectory_mean(x, "offline").squeeze(1).tolist() == [0, 5, 5, 0]
    assert with_tokens().trajectory_mean(x, "all").squeeze(1).tolist() == [2, 5, 6, 0]


def test_log_ratios_are_clamped() -> None:
    b = make_batch([1.0], width=3, old_logp=[[-1.0, -1e4, 0.0]])
    ratio = b.at(torch.tensor([[-1.5, -0.5, -1e4]], dtype=torch.float64)).token_log_ratio("a test")
    assert ratio.tolist() == [[-0.5, MAX_LOG_RATIO, -MAX_LOG_RATIO]]


@pytest.mark.parametrize(
    ("given_type", "wanted"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_weights_are_computed_in_float32_at_least(
    given_type: torch.dtype, wanted: torch.dtype
) -> None:
    b = batch(old_logp=[[-1.0] * 3] * 4)
    assert b.dtype == torch.float64
    assert b.at(torch.full((4, 3), -1.0, dtype=given_type)).dtype == wanted


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float16])
def test_rewards_of_any_type_become_floats(dtype: torch.dtype) -> None:
    b = make_batch([0.0, 1.0])
    b = TrajectoryBatch(b.mask, b.reward.to(dtype), b.group, b.offline)
    assert (b.reward.dtype, b.reward.tolist()) == (torch.float64, [0, 1])


@given(cases())
def test_what_is_not_read_is_zero(case: Case) -> None:
    b = case.batch.at(case.logp, case.entropy)
    online = b.tokens_of("online")
    for name, read in (
        ("logp", b.mask),
        ("entropy", b.mask),
        ("old_logp", online),
        ("values", online),
    ):
        assert (b.require(name, "a test")[~read] == 0).all(), name
    assert (b.reward[~b.rows_of("all")] == 0).all()


def test_at_cuts_the_gradient() -> None:
    logp = torch.full((4, 3), -1.0, requires_grad=True)
    at = batch().at(logp, logp * 2)
    assert at.logp is not None and not at.logp.requires_grad
    assert at.entropy is not None and not at.entropy.requires_grad


def test_weights_carry_no_gradient_of_any_field() -> None:
    fields = {
        name: torch.full((4, 3), -1.0, requires_grad=True)
        for name in ("old_logp", "values", "logp", "entropy")
    }
    b = TrajectoryBatch(
        torch.tensor(MASK),
        torch.arange(4.0).requires_grad_(),
        torch.tensor([7, 7, 7, 9]),
        torch.tensor(OFFLINE),
        **fields,
    )
    for name in ("reward", *fields):
        assert not getattr(b, name).requires_grad, name
    for algorithm in ("ppo", "dr_grpo"):
        assert not get(algorithm)(b, fields["logp"], fields["entropy"]).weights.requires_grad


@given(cases())
def test_select_takes_rows_by_index_and_by_mask(case: Case) -> None:
    chosen = torch.arange(len(case.batch.reward)) % 2 == 0
    by_mask = case.batch.select(chosen)
    by_index = case.batch.select(chosen.nonzero().squeeze(1))
    for name in ("mask", "offline", "reward", "group", "old_logp", "values"):
        assert torch.equal(getattr(by_mask, name), getattr(case.batch, name)[chosen])
        assert torch.equal(getattr(by_mask, name), getattr(by_index, name))
    assert by_mask.max_length == case.batch.max_length


def test_a_flag_may_be_any_zero_or_one() -> None:
    b = TrajectoryBatch(
        torch.tensor([[1.0, 0.0]]),
        torch.ones(1),
        torch.zeros(1, dtype=torch.int32),
        torch.tensor([1], dtype=torch.uint8),
    )
    assert b.mask.tolist() == [[True, False]] and b.offline.all()


def nan_at(value: float) -> torch.Tensor:
    return torch.tensor([[-1.0, value, -1.0]])


GOOD: dict[str, Any] = {
    "mask": torch.ones(2, 3),
    "reward": torch.ones(2),
    "group": torch.zeros(2, dtype=torch.long),
    "offline": torch.zeros(2),
}
LOGP = torch.full((2, 3), -1.0)
BAD: list[tuple[str, Any, str, str]] = [
    # argument, what is given, what the message says came and was wanted
    ("mask", [[1, 1, 1]] * 2, "list", "tensor"),
    ("mask", torch.ones(2), "(2,)", "(N, T)"),
    ("mask", torch.full((2, 3), 0.5), "other than 0 and 1", "bool"),
    ("mask", torch.full((2, 3), torch.nan), "other than 0 and 1", "bool"),
    ("reward", torch.ones(3), "(3,)", "(2,)"),
    ("reward", torch.ones(2, 1), "(2, 1)", "(2,)"),
    ("reward", torch.tensor([1.0, torch.nan]), "nan at [1]", "finite"),
    ("reward", torch.tensor([-torch.inf, 0.0]), "-inf at [0]", "finite"),
    ("reward", [1.0, 2.0], "list", "tensor"),
    ("group", torch.zeros(2), "float32", "integers"),
    ("group", torch.zeros(2, dtype=torch.bool), "bool", "integers"),
    ("group", torch.zeros(1, dtype=torch.long), "(1,)", "(2,)"),
    ("offline", torch.zeros(3), "(3,)", "(2,)"),
    ("offline", torch.zeros(2, 2), "(2, 2)", "(2, 3)"),
    ("offline", torch.tensor([0, 2]), "other than 0 and 1", "bool"),
    ("old_logp", LOGP[:, :2], "(2, 2)", "(2, 3)"),
    ("old_logp", LOGP.long(), "int64", "floating-point"),
    ("old_logp", LOGP * torch.nan, "nan at [0, 0]", "finite"),
    ("old_logp", LOGP * torch.inf, "-inf at [0, 0]", "finite"),
    ("old_logp", LOGP + 1.5, "0.5", "≤ 0"),
    ("old_logp", LOGP.tolist(), "list", "tensor"),
    ("values", LOGP[0], "(3,)", "(2, 3)"),
    ("values", LOGP * torch.nan, "nan at [0, 0]", "finite"),
    ("logp", LOGP[:1], "(1, 3)", "(2, 3)"),
    ("logp", nan_at(torch.nan).expand(2, 3), "nan at [0, 1]", "finite"),
    ("logp", nan_at(-torch.inf).expand(2, 3), "-inf at [0, 1]", "finite"),
    ("logp", nan_at(0.25).expand(2, 3), "0.25", "≤ 0"),
    ("entropy", LOGP * torch.nan, "nan at [0, 0]", "finite"),
    ("entropy", LOGP[:, :1], "(2, 1)", "(2, 3)"),
    ("tokens", torch.zeros(2, 4, dtype=torch.long), "(2, 4)", "(2, 3)"),
    ("tokens", [[1, 2, 3]] * 2, "list", "tensor"),
    ("attention", torch.ones(2), "(2,)", "(2, 3)"),
    ("max_length", -1, "-1", "at least 1"),
    ("max_length", 0, "0", "at least 1"),
    ("max_length", 2, "2", "3 tokens"),
    ("max_length", 3.0, "3.0", "whole number"),
    ("max_length", True, "True", "whole number"),
]


@pytest.mark.parametrize(
    ("name", "value", "came", "wanted"), BAD, ids=[f"{b[0]}-{i}" for i, b in enumerate(BAD)]
)
def test_a_bad_field_is_named(name: str, value: Any, came: str, wanted: str) -> None:
    with pytest.raises(UpgeError) as error:
        TrajectoryBatch(**GOOD | {name: value})
    message = str(error.value)
    assert message.startswith(f"{name}: got ") and "\n" not in message
    assert came in message.split("wanted")[0] and wanted in message.split("wanted")[1]


def test_rounding_may_lift_a_certain_token_above_one() -> None:
    TrajectoryBatch(**GOOD, old_logp=torch.full((2, 3), 5e-4), logp=torch.full((2, 3), 5e-4))


@pytest.mark.parametrize(
    "value",
    [LOGP * torch.nan, LOGP * torch.inf, LOGP + 1.5, LOGP[:1], LOGP[0], LOGP.long(), LOGP.tolist()],
)
def test_a_bad_current_policy_is_named(value: Any) -> None:
    with pytest.raises(UpgeError, match=r"^logp: got .*, wanted "):
        get("reinforce")(TrajectoryBatch(**GOOD), value)


@pytest.mark.parametrize(
    ("algorithm", "missing", "remedy"),
    [
        ("ppo", "old_logp", "policy's own log-probabilities before the update"),
        ("ppo", "values", "a critic's values"),
        ("grpo", "old_logp", "policy's own log-probabilities before the update"),
        ("gspo", "old_logp", "policy's own log-probabilities before the update"),
    ],
)
def test_a_missing_field_is_named(algorithm: str, missing: str, remedy: str) -> None:
    fields = GOOD | {"old_logp": LOGP, "values": LOGP, missing: None}
    with pytest.raises(UpgeError) as error:
        get(algorithm)(TrajectoryBatch(**fields), LOGP)
    assert f"{algorithm} needs {missing}, which the batch lacks" in str(error.value)
    assert remedy in str(error.value)
