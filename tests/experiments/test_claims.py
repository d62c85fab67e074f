"""The ledger decides every claim, and decides otherwise when its inputs are broken."""

import csv
import io
import math
import os
import re
from typing import Any, ClassVar

import pytest
import torch
import typer
from torch import Tensor
from typer.testing import CliRunner

from experiments.claims import CLAIMS, VERDICTS, Claim
from experiments.claims.__main__ import claims as command
from experiments.claims.advantage import gain
from experiments.claims.claim import Trial, claim, judge, rule
from experiments.claims.conflict import any_policy, natural_inner_product, optimum
from experiments.claims.estimator import keep_all
from experiments.claims.finite import F_DOT, MU, SCORE, D, P, R, derivative, size, vanishes
from experiments.claims.lab import (
    Case,
    Sampled,
    at_success,
    distance,
    estimator,
    moments,
    random_case,
    reweighted,
)
from experiments.claims.ledger import (
    CSV_COLUMNS,
    chosen,
    claims_csv,
    claims_markdown,
    decide,
    equations,
    write_ledger,
)
from experiments.claims.losses import eq12
from experiments.claims.mixing import Average
from experiments.claims.toys import smallest, toys
from upge.advantage import GroupCentered, GroupZScore, Reward, Signed
from upge.algorithms import get
from upge.batch import TrajectoryBatch
from upge.common.errors import UpgeError
from upge.exact.enumeration import TabularPolicy, Tree
from upge.exact.moments import exact
from upge.exact.objective import Objective
from upge.feedback import Linear
from upge.normalization import TokenMean, TrajectoryMean
from upge.reference import ConstantOne, CurrentPolicy, RolloutPolicy, SequenceRatio
from upge.stabilization import Clip, NoMask, Stabilization

SLOW = ("table1-s", "table1-p", "table1-gr", "table1-c", "table1-gs", "table1-l", "words-clip-v")

VERDICT = {
    "eq1": "proved",
    "eq1-finite": "conditional",
    "eq2": "proved",
    "eq2-sign": "exact",
    "eq3": "conditional",
    "eq3-support": "conditional",
    "eq3-tokens": "conditional",
    "eq4-v2": "proved",
    "eq4-v1": "conditional",
    "eq4-split": "proved",
    "eq5": "conditional",
    "eq5-centred": "conditional",
    "words-std": "conditional",
    "words-centring": "proved",
    "eq6-mask": "conditional",
    "eq6-sample": "conditional",
    "eq6-reference": "conditional",
    "eq7": "conditional",
    "eq8": "proved",
    "eq9-10": "exact",
    "eq13-exclusive": "conditional",
    "eq13-objective": "conditional",
    "eq11": "proved",
    "eq11-dr-grpo": "fails",
    "eq12": "proved",
    "eq12-length": "conditional",
    "eq14-15": "proved",
    "eq16-18-ppo": "proved",
    "eq16-18-grpo": "proved",
    "eq16-18-length": "conditional",
    "eq19-20": "proved",
    "table1-gae": "conditional",
    "B.1-score": "proved",
    "B.1-derivative": "proved",
    "B.1-measure": "proved",
    "B.2": "proved",
    "B.3": "proved",
    "eq21": "conditional",
    "table1-sft": "proved",
    "table1-ppo": "proved",
    "table1-grpo": "proved",
    "table1-reinforce": "proved",
    "table1-cispo": "fails",
    "table1-gspo": "proved",
    "table1-srft_offline": "proved",
    "table1-luffy_offline": "proved",
    "words-one-objective": "proved",
    "words-conflict": "conditional",
    "words-conflict-natural": "conditional",
    "words-conflict-optimum": "conditional",
    "words-reinforce-bias": "exact",
    "words-reinforce-variance": "conditional",
    "words-ratio-variance": "conditional",
    "words-ratio-bias": "exact",
    "words-one-bias": "conditional",
    "words-one-stability": "conditional",
    "words-clip-variance": "conditional",
    "words-clip-bias": "conditional",
    "words-average": "exact",
    "words-weighting": "exact",
}


TIMED = [
    pytest.param(name, marks=pytest.mark.slow if name.startswith(SLOW) else ()) for name in VERDICT
]


# --- the ledger -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TIMED)
def test_every_claim_is_decided_with_value_and_evidence(name: str) -> None:
    decided = CLAIMS[name]()
    assert decided.verdict == VERDICT[name], decided.evidence
    assert decided.verdict in VERDICTS
    assert decided.id == name
    number, meaning = re.fullmatch(r"(\S+) \((.+)\)", decided.value).groups()  # type: ignore[union-attr]
    assert not math.isnan(float(number))
    assert meaning
    assert re.match(r"experiments\.claims\.\w+\.\w+.*: holds in \d+ of \d+ ", decided.evidence)
    if decided.verdict in ("conditional", "fails"):
        assert "smallest counterexample: " in decided.evidence
    if decided.verdict == "conditional":
        assert re.search(r" where .*, and in \d+ of \d+ others", decided.evidence)


def test_the_ledger_holds_these_claims_in_this_order() -> None:
    assert list(CLAIMS) == list(VERDICT)


def test_every_equation_has_a_claim() -> None:
    assert set().union(*(equations(c.source) for c in CLAIMS.values())) == set(range(1, 22))
    assert {"B.1", "B.2", "B.3"} <= {c.source.split(",")[0] for c in CLAIMS.values()}


def test_every_printed_row_has_a_claim() -> None:
    rows = {c.source.removeprefix("Table 1, ") for c in CLAIMS.values() if "Table 1," in c.source}
    assert len(rows) == 8


def test_statements_differ() -> None:
    assert len({c.claim for c in CLAIMS.values()}) == len(CLAIMS)


@pytest.mark.parametrize(
    ("source", "numbers"),
    [
        ("eq. 9–10", {9, 10}),
        ("eq. 3 with eq. 11, 16–18", {3, 11, 16, 17, 18}),
        ("eq. 4 (v2)", {4}),
        ("§2.2–2.3", set()),
        ("Table 1, PPO", set()),
    ],
)
def test_equations_of_a_source(source: str, numbers: set[int]) -> None:
    assert equations(source) == numbers


# --- broken inputs turn the verdicts --------------------------------------------------------------


class BothWays(Clip):
    """A mask that forgets the direction."""

    def __call__(self, batch: TrajectoryBatch, advantage: Tensor) -> Tensor:
        ratio = batch.token_log_ratio("it").exp()
        return ((ratio < 1 + self.high) & (ratio > 1 - self.low)).to(advantage.dtype)


class Halved(Stabilization):
    """A constant factor, which is no mask."""

    text: ClassVar[str] = "1/2"
    latex: ClassVar[str] = "1/2"

    def __call__(self, batch: TrajectoryBatch, advantage: Tensor) -> Tensor:
        return torch.full_like(advantage, 0.5)


def exactly(case: Case) -> Sampled:
    """An estimator without any error."""
    return Sampled(case.truth, (case.truth @ case.truth).item())


BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("eq1", {"divergence": "reverse"}, "fails"),
    ("eq1-finite", {"logit": -700.0}, "exact"),
    ("eq2", {"sign": -1}, "fails"),
    ("eq2-sign", {"sign": -1}, "fails"),
    ("eq3", {"covering": True}, "proved"),
    ("eq3-support", {"kinds": (0, 1)}, "exact"),
    ("eq3-tokens", {"level": "trajectory"}, "exact"),
    ("eq4-v2", {"indicator": True}, "fails"),
    ("eq4-v1", {"indicator": False}, "proved"),
    ("eq4-split", {"reward_on_demonstrations": True}, "fails"),
    ("eq5", {"advantage": GroupCentered()}, "exact"),
    ("eq5-centred", {"advantage": GroupZScore()}, "fails"),
    ("words-std", {"advantage": GroupCentered()}, "fails"),
    ("words-std", {"sizes": (4, 5)}, "proved"),
    ("words-centring", {"advantage": GroupZScore()}, "fails"),
    ("eq6-mask", {"mask": keep_all}, "exact"),
    ("eq6-reference", {"names": ("ppo", "grpo")}, "exact"),
    ("eq6-reference", {"names": ("sft",)}, "fails"),
    ("eq7", {"levels": ((0, 1),)}, "exact"),
    ("eq8", {"imagined": 1}, "fails"),
    ("eq9-10", {"kind": Linear}, "fails"),
    ("eq13-exclusive", {"gate": "linear"}, "fails"),
    ("eq13-objective", {"gate": None, "advantage": GroupCentered()}, "exact"),
    ("eq11", {"advantage": GroupCentered()}, "fails"),
    ("eq11-dr-grpo", {"advantage": GroupCentered()}, "proved"),
    ("eq12", {"normalizer": TokenMean()}, "fails"),
    ("eq12-length", {"per_token": False}, "exact"),
    ("eq14-15", {"loss": eq12}, "fails"),
    ("eq16-18-ppo", {"clip": 0.3}, "fails"),
    ("eq16-18-grpo", {"normalizer": "token_mean"}, "fails"),
    ("eq16-18-length", {"normalizer": TrajectoryMean()}, "exact"),
    ("eq19-20", {"reference": "dft"}, "fails"),
    ("table1-gae", {"critics": ("exact",)}, "exact"),
    ("B.1-score", {"baseline": R}, "fails"),
    ("B.1-derivative", {"inner": 2}, "fails"),
    ("B.1-measure", {"covering": False}, "fails"),
    ("B.2", {"factor": 2}, "fails"),
    ("B.3", {"mask": BothWays}, "fails"),
    ("B.3", {"mask": lambda low, high: Clip(high, low)}, "fails"),
    ("eq21", {"mask": BothWays}, "fails"),
    ("words-one-objective", {"sign": -1}, "fails"),
    ("words-conflict", {"agreeing": (any_policy,), "others": ()}, "fails"),
    ("words-conflict-natural", {"metric": lambda case: float(case.rl @ case.sft)}, "fails"),
    ("words-conflict-optimum", {"faultless": False}, "fails"),
    ("words-reinforce-bias", {"shift": 0.5}, "fails"),
    ("words-reinforce-variance", {"rates": (1 / 4,)}, "exact"),
    ("words-ratio-variance", {"corrected": False}, "fails"),
    ("words-ratio-bias", {"level": "trajectory"}, "fails"),
    ("words-one-bias", {"reference": RolloutPolicy}, "fails"),
    ("words-clip-variance", {"mask": NoMask(), "seeds": (0, 1)}, "exact"),
    ("words-clip-bias", {"mask": NoMask(), "seeds": (0, 1)}, "fails"),
    ("words-average", {"partner": exactly}, "fails"),
    ("words-weighting", {"rates": (0.5,), "seeds": (0,)}, "fails"),
    ("table1-reinforce", {"row": get("grpo")}, "fails"),
    ("table1-cispo", {"row": get("cispo")}, "proved"),
]


@pytest.mark.parametrize(
    ("name", "inputs", "verdict"),
    [
        pytest.param(
            *broken,
            id=f"{broken[0]} {' '.join(broken[1])}",
            marks=pytest.mark.slow if broken[0].startswith(SLOW) else (),
        )
        for broken in BROKEN
    ],
)
def test_broken_inputs_turn_the_verdict(name: str, inputs: dict[str, Any], verdict: str) -> None:
    assert VERDICT[name] != verdict
    decided = CLAIMS[name](**inputs)
    assert decided.verdict == verdict, decided.evidence
    if verdict == "fails":
        assert "smallest counterexample: " in decided.evidence


@pytest.mark.parametrize("mask", [Halved(), BothWays(0.2, 0.2)])
def test_other_masks_are_judged_too(mask: Stabilization) -> None:
    assert CLAIMS["B.3"](mask=lambda low, high: mask).verdict == "fails"


# --- verdicts from trials -------------------------------------------------------------------------

YES, NO = Trial(True, "yes"), Trial(False, "no")
YES_OUT, NO_OUT = Trial(True, "yes", inside=False), Trial(False, "out", inside=False)


@pytest.mark.parametrize(
    ("trials", "verdict"),
    [
        ([YES], "exact"),
        ([YES, YES_OUT], "exact"),
        ([YES, NO_OUT], "conditional"),
        ([NO], "fails"),
        ([YES, NO, YES_OUT], "fails"),
    ],
)
def test_judgement(trials: list[Trial], verdict: str) -> None:
    assert judge(trials) == verdict


def test_no_instance_is_no_verdict() -> None:
    with pytest.raises(RuntimeError, match="nothing was compared"):
        judge([NO_OUT])


def test_evidence_counts_and_names_the_first_failure() -> None:
    result = rule([YES, NO_OUT, Trial(False, "later", inside=False)], 2.0, "x", condition="c")
    assert result.evidence == (
        "holds in 1 of 1 instances where c, and in 0 of 2 others; smallest counterexample: out"
    )
    assert rule([YES], 0.0, "x", symbolic=True, notes=["n", ""]).evidence == (
        "holds in 1 of 1 instances; n"
    )


def test_what_the_search_finds_counts() -> None:
    result = rule([YES], 0.0, "x", counterexample=lambda: "small")
    assert result.verdict == "conditional"
    assert result.evidence == (
        "holds in 1 of 1 instances, and in 0 of 1 others; smallest counterexample: small"
    )
    assert rule([YES, NO], 0.0, "x", counterexample=lambda: "small").verdict == "fails"
    assert rule([YES, NO_OUT], 0.0, "x", counterexample=lambda: None).evidence.endswith("out")


def test_a_claim_is_registered_once() -> None:
    with pytest.raises(UpgeError, match="'eq1' is registered twice"):
        claim("eq1", "", "")(lambda: rule([YES], 0.0, ""))


# --- tables and command line ----------------------------------------------------------------------

CHEAP = ["eq9-10", "B.1-score", "eq4-v1"]


@pytest.fixture(scope="module")
def decided() -> list[Claim]:
    return decide(CHEAP)


def test_claims_come_in_the_order_of_the_ledger(decided: list[Claim]) -> None:
    assert [c.id for c in decided] == ["eq4-v1", "eq9-10", "B.1-score"]


def test_progress_is_told_of_each() -> None:
    seen: list[str] = []
    decide(["eq9-10"], lambda c: seen.append(c.id))
    assert seen == ["eq9-10"]


def test_an_unknown_claim_is_named() -> None:
    with pytest.raises(UpgeError, match="unknown claim 'eq22'"):
        chosen(["eq22"])


def test_csv_columns(decided: list[Claim]) -> None:
    rows = list(csv.DictReader(io.StringIO(claims_csv(decided))))
    assert CSV_COLUMNS == ("id", "claim", "source", "verdict", "value", "evidence")
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["verdict"] for row in rows] == [c.verdict for c in decided]
    assert [row["claim"] for row in rows] == [c.claim for c in decided]


def test_markdown_keeps_its_table(decided: list[Claim]) -> None:
    text = claims_markdown(decided, {"commit": "abc", "date": "today"})
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(decided)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {7}
    assert "- **conditional** (1): " in text
    assert text.endswith("commit abc; date today\n")


def test_files_are_written(decided: list[Claim], tmp_path: Any) -> None:
    paths = write_ledger(decided, {"commit": "abc"}, tmp_path / "new")
    assert [path.name for path in paths] == ["claims.md", "claims.csv"]
    assert paths[1].read_text(encoding="utf-8") == claims_csv(decided)


@pytest.fixture
def run() -> Any:
    app = typer.Typer()
    app.command()(command)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_the_command_prints_evidence_of_what_is_asked(run: Any) -> None:
    result = run("--claim", "eq9-10")
    assert result.exit_code == 0
    assert "eq9-10 (eq. 9–10): exact" in result.output
    assert "experiments.claims.gate.switch: holds in" in result.output.replace("\n", " ")


def test_the_command_writes_and_sums_up(
    run: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(CLAIMS):
        if name not in CHEAP:
            monkeypatch.delitem(CLAIMS, name)
    result = run("--out", str(tmp_path))
    assert result.exit_code == 0
    assert "conditional" in result.output
    assert len((tmp_path / "claims.csv").read_text(encoding="utf-8").splitlines()) == 4


def test_the_command_refuses_before_it_computes(run: Any, tmp_path: Any) -> None:
    assert isinstance(run("--claim", "eq99").exception, UpgeError)
    (tmp_path / "file").write_text("")
    assert isinstance(run("--out", str(tmp_path / "file")).exception, UpgeError)


def test_the_command_writes_no_ledger_of_some_claims(run: Any, tmp_path: Any) -> None:
    result = run("--claim", "eq9-10", "--out", str(tmp_path / "ledger"))
    assert "leave out --claim" in str(result.exception)
    assert not (tmp_path / "ledger").exists()


def test_a_ledger_is_written_whole_or_not_at_all(tmp_path: Any) -> None:
    (tmp_path / f".claims.md.{os.getpid()}.partial").mkdir()
    (tmp_path / "claims.md").write_text("before")
    with pytest.raises(UpgeError, match=r"claims\.md: can't be written"):
        write_ledger([], {}, tmp_path)
    assert (tmp_path / "claims.md").read_text() == "before"


# --- what the checks stand on ---------------------------------------------------------------------


def test_what_vanishes() -> None:
    assert vanishes(MU * D)
    assert vanishes(derivative(P * R) - P * R * SCORE)
    assert not vanishes(R * D)
    assert not vanishes(P * F_DOT)
    assert size(R * D) == 1
    assert size(0 * D) == 0


@pytest.mark.parametrize("reference", [CurrentPolicy, RolloutPolicy, ConstantOne, SequenceRatio])
@pytest.mark.parametrize("advantage", [Reward(), Signed()])
@pytest.mark.parametrize("mask", [NoMask(), Clip(0.2, 0.2)])
def test_groups_of_one_have_the_moments_of_the_package(
    reference: Any, advantage: Any, mask: Stabilization
) -> None:
    what = estimator(reference(), advantage, mask)
    for old in (True, False):
        case = random_case(3, hidden=2)
        fast, slow = moments(what, case, old=old), exact(what, case.setting(old=old))
        assert distance(fast.mean, slow.mean) < 1e-9
        assert fast.trace_cov == pytest.approx(slow.trace_cov, rel=1e-9)


@pytest.mark.parametrize(("vocab", "horizon"), [(2, 1), (2, 4), (3, 3), (4, 2)])
def test_reweighted_trajectories(vocab: int, horizon: int) -> None:
    case = random_case(1, vocab=vocab, horizon=horizon)
    factor = torch.rand(case.policy.tree.trajectories, dtype=torch.float64)
    factor[::3] = 0
    wanted = case.policy.logp().exp() * factor
    torch.testing.assert_close(reweighted(case.policy, factor).logp().exp(), wanted / wanted.sum())


def test_success_rates_are_met() -> None:
    for p in (0.01, 0.5, 0.99):
        assert at_success(random_case(2), p).success == pytest.approx(p, abs=1e-12)


def test_toys_come_small_first_and_say_what_they_are() -> None:
    first = next(toys(2, 1, ("theta", "demo")))
    assert first.words("theta", "demo") == (
        "answers of one token with r = (0, 1), π_θ = (1/2, 1/2), π_β = (0, 1)"
    )
    sizes = [sum(toy.theta) for toy in toys(3, 1, ("theta",), top=3)]
    assert sizes == sorted(sizes)
    longer = next(toys(2, 2, ("old",)))
    assert longer.words("old") == (
        "answers 0, 10, 11 with r = (0, 0, 1), π_θold = (1/2, 1/2) after the start and (1/2, 1/2) "
        "after 1"
    )
    assert smallest(lambda case: False, toys(2, 1, ("theta",))) is None


def test_gain_is_the_factor_that_enumeration_finds() -> None:
    case, n = random_case(5), 5
    mean = moments(estimator(CurrentPolicy(), GroupZScore()), case, n, old=False).mean
    symbol = next(iter(gain(GroupZScore(), n).free_symbols))
    factor = float(gain(GroupZScore(), n).subs(symbol, case.success))
    assert distance(mean, factor * case.rl) < 1e-9


def test_the_optimum_is_stationary_and_best() -> None:
    reward = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
    beta = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    tree = Tree(3, 0, 1)
    best = optimum(reward, beta, 0.5)
    assert best.sum().item() == pytest.approx(1)
    objective = Objective(reward, 0.5, TabularPolicy(tree, beta.log()[None]))
    policy = TabularPolicy(tree, best.log()[None])
    assert objective.gradient(policy).norm().item() < 1e-12
    value = objective(policy).item()
    for seed in range(20):
        assert objective(TabularPolicy.random(tree, seed)).item() < value


def test_natural_inner_product_is_the_difference_in_reward() -> None:
    case = random_case(4)
    expected = (case.demo.logp().exp() - case.policy.logp().exp()) @ case.reward
    assert natural_inner_product(case) == pytest.approx(expected.item(), abs=1e-12)


def test_gain_of_an_average() -> None:
    assert Average(0.5, 1.0, 2.0, 4.0).gain == 0.5
    assert Average(0.0, 0.0, 2.0, 0.0).gain == 1.0
