"""The contract of every registered algorithm: a new entry is tested the day it is added."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Case, cases, close, estimate, fill, in_processes, weights
from torch import Tensor

from upge import REGISTRY, Term, TrajectoryBatch, UpgeError, algorithm, get
from upge.advantage import GAE, BatchZScore, GroupCentered, GroupZScore, LeaveOneOut, One
from upge.algorithms import GATES
from upge.likelihood import Unshaped
from upge.reference import CurrentPolicy, RolloutPolicy
from upge.verification.notation import latex
from upge.verification.published import LOSSES

#: Every entry at its defaults, and every gated one with every other gate.
VARIANTS = {name: get(name) for name in REGISTRY} | {
    f"{name}-{gate}": get(name, gate=gate)
    for name, entry in REGISTRY.items()
    if any(term.gate for term in entry.terms)
    for gate in GATES
    if gate != "switch"
}
each = pytest.mark.parametrize("variant", VARIANTS)
each_entry = pytest.mark.parametrize("name", REGISTRY)
few = settings(max_examples=8)


def invariant_to(kind: Callable[[Term], bool]) -> Any:
    """Parametrises by the entries all of whose terms are of a kind."""
    chosen = [name for name, estimator in VARIANTS.items() if all(map(kind, estimator.terms))]
    return pytest.mark.parametrize("variant", chosen)


def example(on_policy: bool = False) -> Case:
    """Two questions of three rollouts and a demonstration each."""
    lengths = torch.tensor([3, 1, 2, 3, 2, 2, 3, 1])
    return fill(
        torch.arange(3)[None] < lengths[:, None],
        torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 1]).double(),
        torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]),
        torch.tensor([0, 0, 0, 1, 0, 0, 0, 1]).bool()[:, None].expand(8, 3),
        seed=3,
        on_policy=on_policy,
        spread=1.5,
    )


# ------------------------------------------------------------------------------------- the entry


@each_entry
def test_an_entry_is_complete(name: str) -> None:
    entry = REGISTRY[name]
    assert entry.name == name and algorithm(name) is entry
    assert entry.title.strip() and entry.source.strip()
    for option in entry.options.values():
        assert option.origin.strip()
        assert isinstance(option.default, int | float | str) and option.default is not True
    entry.build(**{name: option.default for name, option in entry.options.items()})
    assert entry.terms and all(isinstance(term, Term) for term in entry.terms)
    assert entry().name == name


@each_entry
def test_components_can_be_printed(name: str) -> None:
    for term in REGISTRY[name].terms:
        parts = [term.reference, term.advantage, term.stabilization, term.normalizer]
        parts += [] if isinstance(term.shaping, Unshaped) else [term.shaping]
        parts += [term.gate.feedback] if term.gate else []
        for part in parts:
            printed = latex(part)
            assert part.text.strip() and part.label.startswith(type(part).__name__)
            assert printed.strip() and printed.count("{") == printed.count("}")
            assert not set(printed) & set("πθτγΣ∑"), "LaTeX spells its symbols out"


@each_entry
def test_options_at_their_defaults_change_nothing(name: str) -> None:
    defaults = {option: given.default for option, given in REGISTRY[name].options.items()}
    assert get(name, **defaults) == get(name)


@each_entry
def test_only_its_options_are_accepted(name: str) -> None:
    with pytest.raises(UpgeError, match=f"unknown option of {name} 'nonsense'"):
        get(name, nonsense=1.0)
    for option, given_option in REGISTRY[name].options.items():
        with pytest.raises(UpgeError, match=f"did you mean '{option}'"):
            get(name, **{option + "x": given_option.default})
        wrong: Any = 1.0 if isinstance(given_option.default, str) else "word"
        for value in (wrong, True, None):
            with pytest.raises(UpgeError, match=rf"^{name}\.{option}: got .*, wanted a "):
                get(name, **{option: value})
        if not isinstance(given_option.default, str):
            with pytest.raises(UpgeError, match="wanted"):
                get(name, **{option: float("nan")})


@each_entry
def test_an_option_is_refused_or_gives_finite_weights(name: str) -> None:
    for option, given_option in REGISTRY[name].options.items():
        for value in (0.0, -1.0, 1e30, float("inf")):
            if isinstance(given_option.default, str):
                continue
            try:
                estimator = get(name, **{option: value})
            except UpgeError:
                continue
            for case in (example(), example(on_policy=True)):
                assert torch.isfinite(weights(estimator, case)).all(), (option, value)


@each_entry
def test_a_published_loss_takes_the_same_options(name: str) -> None:
    parameters = inspect.signature(LOSSES[name]).parameters
    options = REGISTRY[name].options
    assert set(options) <= set(parameters)
    assert not {"samples", "ops"} & set(options)
    for extra in set(parameters) - set(options) - {"samples", "ops", "max_length"}:
        assert parameters[extra].default is not inspect.Parameter.empty, extra


@each_entry
def test_any_normaliser_can_be_asked_for(name: str) -> None:
    for term in get(name, normalizer="token_sum").terms:
        assert type(term.normalizer).__name__ == "TokenSum"
    with pytest.raises(UpgeError, match="did you mean 'token_sum'"):
        get(name, normalizer="token_som")


@given(case=cases(spread=1.0), cap=st.floats(0.5, 3.0))
def test_a_cap_on_the_ratio_is_truncated_importance_sampling(case: Case, cap: float) -> None:
    """By hand for REINFORCE, ±1 per token's mean; as the algorithm of that name for GRPO."""
    ratio = (case.logp - case.batch.require("old_logp", "a test")).exp()
    plain = weights(get("reinforce"), case)
    expected = torch.where(plain != 0, plain * ratio.clamp(max=cap), 0.0)
    close(weights(get("reinforce", is_cap=cap), case), expected)
    unclipped = weights(get("grpo", clip=1e9, is_cap=cap), case)
    close(unclipped, weights(get("tis", cap=cap), case))


@each_entry
def test_a_cap_that_nothing_reaches_changes_nothing(name: str) -> None:
    online = [term for term in REGISTRY[name].terms if term.samples == "online"]
    token = CurrentPolicy, RolloutPolicy
    if not online or not all(isinstance(term.reference, token) for term in online):
        with pytest.raises(UpgeError, match="is_cap"):
            get(name, is_cap=2.0)
        return
    case = example(on_policy=True)
    close(weights(get(name, is_cap=1.0), case), weights(get(name), case))


def test_names_that_are_not_known() -> None:
    with pytest.raises(UpgeError, match="unknown algorithm 'gppo'; did you mean"):
        get("gppo")
    with pytest.raises(UpgeError, match=r"unknown algorithm 'zzz'; known: .*grpo"):
        get("zzz")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("grpo", {"clip": -0.2}, "Clip.low: got -0.2, wanted a number ≥ 0"),
        ("dapo", {"clip_high": -1.0}, "Clip.high: got -1.0, wanted a number ≥ 0"),
        ("ppo", {"gamma": 1.5}, "GAE.gamma: got 1.5, wanted a number from 0 to 1"),
        ("ppo", {"gae_lambda": -0.5}, "GAE.gae_lambda: got -0.5, wanted a number from 0 to 1"),
        ("hpt", {"gamma": 2.0}, "Switch.gamma: got 2.0, wanted a number from 0 to 1"),
        ("luffy", {"shaping": 0.0}, "PolicyShaping.gamma: got 0.0, wanted a finite number > 0"),
        ("grpo", {"gate": "linear"}, "grpo has no gated term"),
        ("hpt", {"gate": "liner"}, "did you mean 'linear'"),
    ],
)
def test_a_bad_option_is_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UpgeError) as error:
        get(name, **options)
    assert message in str(error.value)


# ----------------------------------------------------------------------------------- the estimate


@each
@given(case=cases())
def test_the_gradient_is_minus_the_weights(variant: str, case: Case) -> None:
    estimator = VARIANTS[variant]
    logp = case.logp.clone().requires_grad_()  # NaN and ±inf where masked
    entropy = case.entropy.clone().requires_grad_()
    result = estimator(case.batch, logp, entropy)
    result.loss.backward()
    assert logp.grad is not None and entropy.grad is None
    assert torch.equal(logp.grad, -result.weights)
    assert not result.weights.requires_grad
    assert (result.weights[~case.batch.mask] == 0).all()
    assert result.loss.shape == () and torch.isfinite(result.loss)
    close(sum((term.weights for term in result.terms), torch.zeros(())), result.weights)
    for term, part in zip(estimator.terms, result.terms, strict=True):
        assert (part.weights[~case.batch.tokens_of(term.samples)] == 0).all()


@each
@given(case=cases(), data=st.data())
def test_the_order_of_rows_does_not_matter(variant: str, case: Case, data: st.DataObject) -> None:
    estimator = VARIANTS[variant]
    order = torch.tensor(data.draw(st.permutations(range(len(case.batch.reward)))))
    before, after = estimate(estimator, case), estimate(estimator, case.select(order))
    close(after.weights, before.weights[order])
    close(after.loss, before.loss)
    for name, value in before.metrics.items():
        assert after.metrics[name] == pytest.approx(value), name


def padded(case: Case, rows: int, columns: int, seed: int) -> tuple[Case, Tensor, Tensor]:
    """The case among rows and columns of garbage, and where its rows and columns are now."""
    count, width = case.batch.mask.shape
    gen = torch.Generator().manual_seed(seed)
    where = torch.randperm(count + rows, generator=gen)[:count]
    kept = torch.randperm(width + columns, generator=gen)[:width].sort().values
    mask = torch.zeros(count + rows, width + columns, dtype=torch.bool)
    mask[where[:, None], kept] = case.batch.mask

    def spread(x: Tensor, out: Tensor) -> Tensor:
        out[where[:, None], kept] = x
        return out

    random = torch.randint(2, mask.shape, generator=gen).bool()
    reward, group = torch.zeros(len(mask)).double(), torch.randint(4, (len(mask),), generator=gen)
    reward[where], group[where] = case.batch.reward, case.batch.group
    around = fill(mask, reward, group, spread(case.batch.offline, random), seed)
    old_logp, values = case.batch.old_logp, case.batch.values
    assert old_logp is not None and values is not None
    batch = replace(
        around.batch,
        old_logp=spread(old_logp, torch.full(mask.shape, torch.nan).double()),
        values=spread(values, torch.full(mask.shape, torch.inf).double()),
        max_length=case.batch.max_length,
    )
    return (
        Case(batch, spread(case.logp, around.logp), spread(case.entropy, around.entropy)),
        where,
        kept,
    )


@each
@given(case=cases(), rows=st.integers(0, 3), columns=st.integers(0, 2), seed=st.integers(0, 999))
def test_padding_does_not_matter(
    variant: str, case: Case, rows: int, columns: int, seed: int
) -> None:
    estimator = VARIANTS[variant]
    around, where, kept = padded(case, rows, columns, seed)
    before, after = estimate(estimator, case), estimate(estimator, around)
    expected = torch.zeros_like(after.weights)
    expected[where[:, None], kept] = before.weights
    close(after.weights, expected)
    close(after.loss, before.loss)
    for name, value in before.metrics.items():
        assert after.metrics[name] == pytest.approx(value), name


@each
@given(case=cases(), shift=st.integers(-9, 9))
def test_labels_of_questions_do_not_matter(variant: str, case: Case, shift: int) -> None:
    estimator = VARIANTS[variant]
    relabelled = case.with_batch(group=(shift - 7 * case.batch.group).int())
    close(weights(estimator, relabelled), weights(estimator, case))


@each
@given(case=cases(), data=st.data())
def test_micro_batches_add_up(variant: str, case: Case, data: st.DataObject) -> None:
    estimator = VARIANTS[variant]
    count = len(case.batch.reward)
    part_of = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)))
    whole = estimate(estimator, case)
    plan = estimator.plan(case.with_batch(entropy=case.entropy).batch)
    loss = torch.zeros(()).double()
    for part in range(3):  # questions are split, and a part may be empty
        rows = part_of == part
        chosen = rows if part else rows.nonzero().squeeze(1)
        piece = plan.select(chosen).estimate(case.logp[rows], case.entropy[rows])
        close(piece.weights, whole.weights[rows])
        loss += piece.loss
    close(loss, whole.loss)


@each
@few
@given(case=cases(min_questions=2), data=st.data())
def test_processes_are_one(variant: str, case: Case, data: st.DataObject) -> None:
    """Each process holds some of the questions, perhaps none."""
    estimator = VARIANTS[variant]
    sides = data.draw(st.lists(st.integers(0, 2), min_size=3, max_size=3))
    side_of = torch.tensor(sides)[case.batch.group]
    whole = estimate(estimator, case)

    def work(rank: int, all_sum: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        own = case.select(side_of == rank).with_batch(all_sum=all_sum)
        result = estimate(estimator, own)
        return result.weights, result.loss

    results = in_processes(3, work)
    for rank, (own_weights, _) in enumerate(results):
        close(own_weights, whole.weights[side_of == rank])
    close(torch.stack([loss for _, loss in results]).sum(), whole.loss)


@each
@given(case=cases(), seed=st.integers(0, 999))
def test_rows_that_are_not_needed_have_no_weight(variant: str, case: Case, seed: int) -> None:
    plan = VARIANTS[variant].plan(case.with_batch(entropy=case.entropy).batch)
    needed = plan.nonzero_rows()
    logp = fill(case.batch.mask, case.batch.reward, case.batch.group, case.batch.offline, seed).logp
    whole = plan.estimate(logp, case.entropy)
    assert (whole.weights[~needed] == 0).all()
    kept = plan.select(needed).estimate(logp[needed], case.entropy[needed])
    close(kept.weights, whole.weights[needed])
    close(kept.loss, whole.loss)


CENTRED = (GroupZScore, GroupCentered, LeaveOneOut, BatchZScore)


@invariant_to(
    lambda term: (
        term.gate is None
        and isinstance(term.advantage, (*CENTRED, One))
        and not getattr(term.advantage, "keep_singletons", False)
    )
)
@given(case=cases(), shift=st.sampled_from([-3.0, 0.1, 5.0]))
def test_a_constant_added_to_all_rewards_changes_nothing(
    variant: str, case: Case, shift: float
) -> None:
    estimator = VARIANTS[variant]
    shifted = case.with_batch(reward=case.batch.reward + shift)
    close(weights(estimator, shifted), weights(estimator, case))


@invariant_to(lambda term: isinstance(term.advantage, GroupZScore | BatchZScore | One))
@given(case=cases(), scale=st.sampled_from([0.01, 3.0, 1e4]))
def test_z_scores_do_not_see_the_size_of_rewards(variant: str, case: Case, scale: float) -> None:
    estimator = VARIANTS[variant]
    scaled = case.with_batch(reward=case.batch.reward * scale)
    close(weights(estimator, scaled), weights(estimator, case))


@invariant_to(lambda term: isinstance(term.advantage, CENTRED) and term.samples == "online")
@given(case=cases(rewards=(0.3,)))
def test_agreeing_rollouts_teach_nothing(variant: str, case: Case) -> None:
    estimator = VARIANTS[variant]
    if not any(getattr(term.advantage, "keep_singletons", False) for term in estimator.terms):
        assert not estimator.plan(case.batch).nonzero_rows().any()
        assert (weights(estimator, case) == 0).all()


# ------------------------------------------------------------------------------------- the edges


@each
@pytest.mark.parametrize(
    ("rows", "width"), [(0, 0), (0, 3), (3, 0), (3, 2)], ids=["0x0", "0x3", "3x0", "all-masked"]
)
def test_nothing_gives_nothing(variant: str, rows: int, width: int) -> None:
    estimator = VARIANTS[variant]
    mask = torch.zeros(rows, width, dtype=torch.bool)
    offline = (torch.arange(rows) % 2 == 0)[:, None].expand_as(mask)
    case = fill(mask, torch.ones(rows).double(), torch.zeros(rows).long(), offline, 0)
    logp = case.logp.clone().requires_grad_()
    result = estimator(case.batch, logp, case.entropy)
    result.loss.backward()
    assert result.loss.item() == 0
    assert logp.grad is not None and torch.equal(logp.grad, torch.zeros_like(logp))
    assert all(value == 0 for value in result.metrics.values())
    assert not estimator.plan(case.batch).nonzero_rows().any()


EXTREMES = st.sampled_from([0.0, -1e-6, -1.0, -60.0, -150.0, -1e4])


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(case=cases(pure_rows=True), numbers=st.lists(EXTREMES, min_size=8, max_size=8))
def test_extreme_log_ratios_stay_finite(
    variant: str, dtype: torch.dtype, case: Case, numbers: list[float]
) -> None:
    shape = case.logp.shape
    tiled = torch.tensor(numbers, dtype=dtype).repeat(shape.numel() // 4 + 1)
    logp = tiled[: shape.numel()].view(shape).clone().requires_grad_()
    old_logp = tiled.flip(0)[: shape.numel()].view(shape)
    entropy = torch.full(shape, 12.0, dtype=dtype)  # ln of the largest vocabularies
    result = VARIANTS[variant](case.with_batch(old_logp=old_logp).batch, logp, entropy)
    result.loss.backward()
    assert torch.isfinite(result.loss) and torch.isfinite(result.weights).all()
    assert logp.grad is not None and torch.equal(logp.grad, -result.weights)
    assert all(torch.isfinite(torch.tensor(value)) for value in result.metrics.values())


@each
@few
@given(case=cases())
def test_float32_agrees_with_float64(variant: str, case: Case) -> None:
    estimator = VARIANTS[variant]

    def narrow(x: Tensor | None) -> Tensor:
        assert x is not None
        return x.float()

    b = case.batch
    single = Case(
        replace(b, reward=narrow(b.reward), old_logp=narrow(b.old_logp), values=narrow(b.values)),
        case.logp.float(),
        case.entropy.float(),
    )
    # The ratios of one and the same numbers, rounded to float32.
    double = Case(
        replace(b, old_logp=narrow(b.old_logp).double(), values=narrow(b.values).double()),
        single.logp.double(),
        single.entropy.double(),
    )
    ours, expected = estimate(estimator, single), estimate(estimator, double)
    assert ours.weights.dtype == ours.loss.dtype == torch.float32
    assert expected.weights.dtype == expected.loss.dtype == torch.float64
    torch.testing.assert_close(ours.weights.double(), expected.weights, rtol=1e-4, atol=1e-5)


@each
@few
@given(case=cases())
def test_half_precision_log_probabilities_are_accepted(variant: str, case: Case) -> None:
    b = case.batch
    assert b.old_logp is not None
    logp = case.logp.bfloat16().requires_grad_()
    half = replace(b, reward=b.reward.float(), old_logp=b.old_logp.bfloat16())
    result = VARIANTS[variant](half, logp, case.entropy.bfloat16())
    result.loss.backward()
    assert result.weights.dtype == torch.float32
    assert torch.isfinite(result.weights).all() and torch.isfinite(result.loss)
    assert logp.grad is not None and torch.equal(logp.grad, -result.weights.bfloat16())


@each
@given(case=cases())
def test_what_is_needed_is_what_is_read(variant: str, case: Case) -> None:
    estimator = VARIANTS[variant]
    optional = {"old_logp": case.batch.old_logp, "values": case.batch.values}
    kept = {name: x if name in estimator.needs else None for name, x in optional.items()}
    bare = replace(case.batch, **kept)
    entropy = case.entropy if "entropy" in estimator.needs else None
    close(estimator(bare, case.logp, entropy).weights, weights(estimator, case))


@each
def test_what_is_missing_is_named(variant: str) -> None:
    estimator = VARIANTS[variant]
    mask, rows = torch.ones(2, 1), torch.tensor([0, 1])
    one = torch.full((2, 1), -1.0)
    full = TrajectoryBatch(mask, torch.ones(2), 0 * rows, rows, old_logp=one, values=one)
    for name in estimator.needs - {"logp", "entropy"}:
        with pytest.raises(UpgeError, match=f"needs {name}, which the batch lacks; pass"):
            estimator(replace(full, **{name: None}), one, one)
    if "entropy" in estimator.needs:
        with pytest.raises(UpgeError, match="needs entropy, which the batch lacks; pass"):
            estimator(full, one)
    for kind in {term.samples for term in estimator.terms} - {"all"}:
        row = rows.bool() if kind == "online" else ~rows.bool()
        with pytest.raises(UpgeError, match=f"has an {kind} term, but the batch has no {kind}"):
            estimator(full.select(row), one[row], one[row])


def test_entries_differ() -> None:
    """No entry is another's copy, but for those that say that their gradient is."""
    seen: dict[tuple[float, ...], str] = {}
    for name, entry in REGISTRY.items():
        key = tuple(weights(get(name), example()).flatten().round(decimals=9).tolist())
        assert key not in seen or "its gradient is" in entry.note, (name, seen[key])
        seen[key] = name


def test_gae_is_the_only_rule_that_reads_values() -> None:
    for name, entry in REGISTRY.items():
        reads = any(isinstance(term.advantage, GAE) for term in entry.terms)
        assert ("values" in entry().needs) == reads, name
