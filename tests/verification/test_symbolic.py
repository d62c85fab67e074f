"""The symbolic proof: it holds for every row, it can fail, and its twins are the tensors' twins."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar

import pytest
import sympy
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from upge.advantage import KLGradient, Reward
from upge.algorithms import GATES, REGISTRY, algorithm, get
from upge.batch import TrajectoryBatch
from upge.common.errors import UpgeError
from upge.component import Component
from upge.estimator import KL_GRADIENTS, EntropyWeight, Estimator, Term, compose
from upge.feedback import Gate
from upge.normalization import NORMALIZERS, TokenMean
from upge.reference import ConstantOne, CurrentPolicy
from upge.stabilization import Clip, Stabilization
from upge.verification import formulas as twins
from upge.verification import published, symbolic
from upge.verification.formulas import FORMULAS, formula, weights
from upge.verification.maths import SymbolicOps, Where, exact
from upge.verification.printed import PRINTED, terms_as_printed
from upge.verification.published import Sample
from upge.verification.symbolic import PATTERNS, verify_symbolic

# --- the proof holds ------------------------------------------------------------------------------


@pytest.mark.slow  # make reproduce-table1 proves every row, too
@pytest.mark.parametrize("name", REGISTRY)
def test_published_gradient_is_the_row(name: str) -> None:
    result = verify_symbolic(REGISTRY[name])
    assert result.proved, result.counterexample
    assert result.instances == len(PATTERNS)
    assert result.cells >= sum(_tokens(pattern) for pattern in PATTERNS)


@pytest.mark.spread(3)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dapo", {"clip_low": 0.5, "clip_high": 1.5}),
        ("gspo", {"clip_low": 0.2, "clip_high": 0.3}),
        ("cispo", {"ratio_min": 0.5, "ratio_max": 1.3}),
        ("ppo", {"gamma": 0.5, "gae_lambda": 0.0}),
        ("sapo", {"tau_pos": 2.0, "tau_neg": 0.7}),
        ("hpt", {"gamma": 0.25}),
        ("hpt_official", {"gamma": 0.25, "sft_coefficient": 0.3, "devices": 1}),
    ],
)
def test_it_holds_for_other_options(name: str, options: dict[str, float]) -> None:
    result = verify_symbolic(algorithm(name), **options)
    assert result.proved, result.counterexample


@pytest.mark.parametrize("name", ["ppo_dual_clip", "gmpo"])
@pytest.mark.slow
def test_a_finer_grid_finds_no_further_cells(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    coarse = symbolic._around

    def fine(bounds: list[float]) -> list[float]:
        return sorted([*coarse(bounds), 0.31, 0.93, 2.3])

    expected = verify_symbolic(algorithm(name)).cells
    monkeypatch.setattr(symbolic, "_around", fine)
    assert verify_symbolic(algorithm(name)).cells == expected


def _tokens(pattern: symbolic.Pattern) -> int:
    return sum(len(rewards) + bool(rewards) for question in pattern for rewards in question)


# --- the proof can fail ---------------------------------------------------------------------------


def test_cispo_as_printed_is_refuted() -> None:
    cispo = algorithm("cispo")
    printed = terms_as_printed("cispo", ratio_max=5.0, ratio_min=0.0)
    result = verify_symbolic(cispo, terms=printed)
    assert not result.proved
    assert result.counterexample == (
        "with rewards of question 0: rollouts [0, 1], demonstrations [0]: token 0 (of 2) of "
        "question 0's rollout with R = 0, where r0 > 5, the published loss has dL/dl = "
        "5*sqrt(2)/6, the row has -w = sqrt(2)*r0/6"
    )


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        pytest.param("grpo", get("grpo", clip=0.3), id="another epsilon"),
        pytest.param("dapo", get("dapo", normalizer="question_mean"), id="another normalizer"),
        pytest.param("grpo", get("dapo"), id="token mean, higher clip"),
        pytest.param("grpo", get("dr_grpo"), id="no std"),
        pytest.param("gspo", get("grpo"), id="token level"),
        pytest.param("gmpo", get("gspo", clip_low=0.4, clip_high=0.4), id="sequence clip"),
        pytest.param("ppo_dual_clip", get("ppo"), id="no dual clip"),
        pytest.param("ppo", get("ppo", gae_lambda=0.9), id="another lambda"),
        pytest.param("luffy", get("luffy", shaping=0.2), id="another shaping"),
        pytest.param("srft", get("srft_official"), id="another entropy weight"),
        pytest.param("hpt", get("hpt", gamma=0.5), id="another gate"),
        pytest.param("hpt", get("hpt", gate="linear"), id="soft gate"),
        pytest.param("sapo", get("sapo", tau_neg=1.0), id="another steepness"),
        pytest.param("sft", get("dft"), id="another reference"),
    ],
)
def test_wrong_rows_are_refuted(name: str, wrong: Estimator) -> None:
    result = verify_symbolic(algorithm(name), terms=wrong.terms)
    assert not result.proved
    assert result.counterexample is not None


def test_a_clip_that_forgets_the_harmful_direction_is_refuted() -> None:
    def clipped_either_way(samples: list[Sample], ops: published.Ops, *, clip: float) -> object:
        loss = 0
        groups = published._questions(published._rollouts(samples))
        for group in groups:
            for sample in group:
                advantage = published._group_advantage(sample, group, ops)
                for t in range(len(sample.logp)):
                    ratio = published._ratio(sample, t, ops)
                    surrogate = published._clip(ratio, 1 - clip, 1 + clip, ops) * advantage
                    loss = loss - surrogate / (len(groups) * len(group) * len(sample.logp))
        return loss

    result = verify_symbolic(algorithm("grpo"), loss=clipped_either_way)
    assert not result.proved
    assert result.counterexample is not None
    assert "the published loss has dL/dl = 0" in result.counterexample


def test_dividing_std_by_n_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    right = published._z_score

    def by_n(reward: float, rewards: list[float], ops: published.Ops) -> object:
        n = len(rewards)
        return right(reward, rewards, ops) * (ops.sqrt(sympy.Rational(n, n - 1)) if n > 1 else 1)

    monkeypatch.setattr(published, "_z_score", by_n)
    assert not verify_symbolic(algorithm("grpo")).proved
    assert not verify_symbolic(algorithm("reinforce_plus_plus")).proved


@pytest.mark.parametrize("name", ["dft", "cispo", "tis", "chord"])
def test_a_missing_stop_gradient_is_refuted(name: str) -> None:
    class Attached(SymbolicOps):
        def detach(self, x: object) -> object:
            return x

    loss = published.LOSSES[name]

    def without_stop(samples: list[Sample], ops: published.Ops, **options: object) -> object:
        return loss(samples, Attached(), **options)

    without_stop.__signature__ = inspect.signature(loss)  # type: ignore[attr-defined]
    assert verify_symbolic(algorithm(name), loss=loss).proved
    assert not verify_symbolic(algorithm(name), loss=without_stop).proved


def test_a_threshold_that_is_no_option_is_found() -> None:

    def almost(samples: list[Sample], ops: published.Ops) -> object:
        return published.grpo(samples, ops, clip=exact(0.2003))

    result = verify_symbolic(algorithm("grpo"), loss=almost)
    assert not result.proved
    assert result.counterexample is not None
    assert "12003/10000" in result.counterexample


def test_coupling_between_trajectories_is_found() -> None:
    def coupled(samples: list[Sample], ops: published.Ops) -> object:
        first, *others = (sample.logp[0] for sample in samples)
        bonus = first * others[0] if others else 0
        return published.reinforce(samples, ops) + bonus

    assert not verify_symbolic(algorithm("reinforce"), loss=coupled).proved


# --- twins are the tensors' twins -----------------------------------------------------------------

#: With this step no difference of log-probabilities is a clip's threshold.
COARSE, THIN = 0.0137, 0.00013


@st.composite
def batches(draw: st.DrawFn) -> list[Sample]:
    def trajectory(demonstration: bool) -> Sample:
        length = draw(st.integers(1, 3))

        def tokens(numbers: st.SearchStrategy[float]) -> list[float]:
            return draw(st.lists(numbers, min_size=length, max_size=length))

        logp = tokens(st.integers(160, 290).map(lambda k: -COARSE * k))
        steps = tokens(
            st.one_of(
                st.integers(-140, 140).map(lambda k: COARSE * k),
                st.integers(-5, 5).map(lambda k: THIN * k),
            )
        )
        return Sample(
            logp=logp,
            old_logp=[new - step for new, step in zip(logp, steps, strict=True)],
            reward=draw(st.sampled_from([0.0, 1.0, 1.0, -0.5, 0.3])),
            question=draw(st.integers(0, 2)),
            demonstration=demonstration,
            values=tokens(st.floats(-2, 2)),
            entropy=tokens(st.floats(0, 3)),
            sampler_logp=[min(x + draw(st.floats(-1, 1)), 0.0) for x in logp],
            ref_logp=tokens(st.floats(-6, -0.1)),
            teacher_logp=tokens(st.floats(-6, -0.1)),
        )

    kinds = draw(st.lists(st.booleans(), max_size=5))
    return [trajectory(kind) for kind in [False, *kinds, True]]


def torch_weights(estimator: Estimator, samples: list[Sample], max_length: int) -> Tensor:
    width = max(len(sample.logp) for sample in samples)

    def double(name: str) -> Tensor:
        rows = [list(getattr(sample, name)) for sample in samples]
        return torch.tensor([row + [0.0] * (width - len(row)) for row in rows], dtype=torch.float64)

    lengths = torch.tensor([len(sample.logp) for sample in samples])
    batch = TrajectoryBatch(
        mask=torch.arange(width) < lengths[:, None],
        reward=torch.tensor([sample.reward for sample in samples], dtype=torch.float64),
        group=torch.tensor([sample.question for sample in samples]),
        offline=torch.tensor([sample.demonstration for sample in samples]),
        old_logp=double("old_logp"),
        values=double("values"),
        sampler_logp=double("sampler_logp"),
        ref_logp=double("ref_logp"),
        teacher_logp=double("teacher_logp"),
        max_length=max_length,
    )
    return estimator(batch, double("logp"), double("entropy")).weights


def estimators() -> Iterator[tuple[str, Estimator]]:
    for name, entry in REGISTRY.items():
        yield name, entry()
        if name in PRINTED and PRINTED[name].build is not None:
            options = {key: option.default for key, option in entry.options.items()}
            yield f"{name} as printed", compose(*terms_as_printed(name, **options))
    for name in NORMALIZERS:
        yield f"grpo with {name}", get("grpo", normalizer=name)
        yield f"hpt with {name}", get("hpt", normalizer=name)
    yield "grpo with a capped ratio", get("grpo", clip=0.4, is_cap=1.1)
    for gate in GATES:
        yield f"hpt with {gate}", get("hpt_global_token", gate=gate, gamma=0.4)
    for psi in KL_GRADIENTS:
        yield f"dapo with a {psi} penalty", get("dapo", kl=0.3, kl_gradient=psi)
    distillation = Term("online", CurrentPolicy(), KLGradient("k2", "teacher"), TokenMean())
    yield "on-policy distillation", compose(distillation)
    for level, rule in product(("token", "sequence", "geometric"), ("truncate", "mask", "reject")):
        bounds = {"correction_low": 0.7, "correction_high": 1.2}
        yield f"grpo, {level} {rule}", get("grpo", correction=f"{level}-{rule}", **bounds)
    yield "rloo with a KL in the reward", get("rloo", kl_reward=0.2)
    for sign in (-1, 1):
        term = Term(
            "online", ConstantOne(), Reward(), TokenMean(), entropy_weight=EntropyWeight(sign)
        )
        yield f"reward, entropy {sign}", compose(term, replace(term, samples="all"))


@pytest.mark.spread(30)
@pytest.mark.parametrize(
    "estimator", [pytest.param(estimator, id=name) for name, estimator in estimators()]
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(samples=batches(), longer=st.integers(0, 2))
def test_twins_are_the_tensors_twins(
    estimator: Estimator, samples: list[Sample], longer: int
) -> None:
    max_length = max(len(sample.logp) for sample in samples) + longer
    expected = torch_weights(estimator, samples, max_length)
    for i, row in enumerate(weights(estimator, samples, max_length=max_length)):
        assert row == pytest.approx(expected[i, : len(row)].tolist(), rel=1e-9, abs=1e-12)
        assert not expected[i, len(row) :].any()


def concrete(kind: type) -> Iterator[type]:
    for child in kind.__subclasses__():
        yield from concrete(child)
        members = (getattr(child, name) for name in dir(child))
        abstract = any(getattr(member, "__isabstractmethod__", False) for member in members)
        outside = (".exact.", ".verification.", ".integrations.", ".testing.")
        core = child.__module__.startswith("upge.") and not any(
            part in child.__module__ for part in outside
        )
        if core and not abstract:
            yield child


def test_every_component_has_a_twin() -> None:
    assert {*concrete(Component), EntropyWeight, Gate} == set(FORMULAS)


@dataclass(frozen=True)
class Halved(Clip):
    """A component without a twin, though its parent has one."""


def test_a_component_without_twin_is_named() -> None:
    terms = (replace(algorithm("grpo").terms[0], stabilization=Halved(0.2, 0.2)),)
    with pytest.raises(UpgeError, match="Halved has no symbolic twin"):
        verify_symbolic(algorithm("grpo"), terms=terms)


def test_a_twin_can_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "FORMULAS", dict(FORMULAS))

    @dataclass(frozen=True)
    class Half(Stabilization):
        latex: ClassVar[str] = r"\tfrac12"

        def __call__(self, batch: TrajectoryBatch, advantage: Tensor) -> Tensor:
            return torch.full_like(advantage, 0.5)

    formula(Half)(lambda component, rows, i, t, advantage: rows.maths.number(0.5))
    terms = (replace(algorithm("reinforce").terms[0], stabilization=Half()),)

    def halved(samples: list[Sample], ops: published.Ops) -> object:
        return published.reinforce(samples, ops) / 2

    assert verify_symbolic(algorithm("reinforce"), terms=terms, loss=halved).proved
    assert not verify_symbolic(algorithm("reinforce"), terms=terms).proved


# --- mistakes and parts ---------------------------------------------------------------------------


def test_options_that_the_published_loss_lacks_are_refused() -> None:
    with pytest.raises(UpgeError, match="no option 'normalizer'"):
        verify_symbolic(algorithm("grpo"), normalizer="token_mean")


def test_an_algorithm_without_published_loss_is_named() -> None:
    with pytest.raises(UpgeError, match="mine has no published loss"):
        verify_symbolic(replace(algorithm("grpo"), name="mine"))


@pytest.mark.parametrize("name", ["values", "entropy"])
def test_missing_numbers_are_named(name: str) -> None:
    sample = Sample([-1.0], [-1.0], 1.0, 0, False, values=[0.0], entropy=[0.0])
    estimator = get("ppo" if name == "values" else "srft_official")
    with pytest.raises(UpgeError, match=f"needs {name}"):
        weights(estimator, [replace(sample, **{name: None})])


@pytest.mark.parametrize(
    ("number", "meant"),
    [(0.2, "1/5"), (3e-4, "3/10000"), (1 - 0.1, "9/10"), (0.1 + 0.2, "3/10"), (1 / 3, "1/3")],
)
def test_decimals_become_the_fraction_meant(number: float, meant: str) -> None:
    x = sympy.Symbol("x")
    assert exact(number) == sympy.Rational(meant)
    assert exact(number * x) == sympy.Rational(meant) * x


def test_choices_are_differentiated_branch_by_branch() -> None:
    x = sympy.Symbol("x", real=True)
    ops = SymbolicOps()
    assert ops.minimum(x**2, 3 * x).diff(x) == Where(3 * x - x**2, 2 * x, 3)
    assert ops.maximum(x, x) == x
    assert ops.minimum(sympy.sqrt(2), 1) == 1


def test_detached_is_constant_and_comes_back() -> None:
    x = sympy.Symbol("x", real=True)
    ops = SymbolicOps()
    inner = ops.detach(x**2)
    outer = ops.detach(inner * x)
    assert ops.attach((inner * outer * x).diff(x)) == x**5
