"""Every algorithm as a sum of terms: the registry from which Table 1 is printed.

A row is data: a name, where it comes from, its options with their origins, and a function from
options to terms. A new algorithm is a new row here and its published loss, by the same name, in
``verification/published.py``; everything else reads the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from upge.advantage import (
    GAE,
    BatchZScore,
    GroupCentered,
    GroupRelative,
    GroupZScore,
    LeaveOneOut,
    One,
    Signed,
)
from upge.batch import Samples
from upge.common.errors import UpgeError, unknown
from upge.component import UNIT
from upge.estimator import EntropyWeight, Estimator, Term
from upge.feedback import Feedback, Gate, Linear, Sigmoid, Switch
from upge.likelihood import Complement, PolicyShaping
from upge.normalization import (
    FixedLength,
    LengthSum,
    Normalizer,
    QuestionMean,
    QuestionSum,
    TokenMean,
    TrajectoryMean,
)
from upge.reference import ConstantOne, CurrentPolicy, RolloutPolicy, SequenceRatio
from upge.stabilization import Clip, Correction, DualClip, GeometricClip, SigmoidGate, WeightClip
from upge.wiener import Wiener

Value = float | str
Terms = tuple[Term, ...]

#: Options beside an algorithm's own: what each takes, and what it makes of the estimator.
COMMON: dict[str, tuple[type, Callable[[Estimator, Any, Mapping[str, Value]], Estimator]]] = {
    "normalizer": (str, lambda e, name, _: e.with_normalizer(name)),
    "gate": (str, lambda e, name, own: e.with_feedback(feedback(name, **own))),
    "is_cap": (float, lambda e, cap, _: e.with_is_cap(cap)),
    "correction": (str, lambda e, name, own: e.with_correction(correction(name, **own))),
    "kl": (float, lambda e, beta, own: e.with_kl(beta, str(own.get("kl_gradient", "k2")))),
    "kl_reward": (float, lambda e, beta, _: e.with_kl_reward(beta)),
    "entropy_bonus": (float, lambda e, c, _: replace(e, entropy_bonus=c)),
}

#: Options of these options.
_FURTHER = {"correction_low": float, "correction_high": float, "kl_gradient": str}

#: Gates by name; each is built from the options it has.
GATES: dict[str, type[Feedback]] = {
    "switch": Switch,
    "linear": Linear,
    "sigmoid": Sigmoid,
    "wiener": Wiener,
}


@dataclass(frozen=True)
class Option:
    """A hyperparameter: its default and where the default comes from."""

    default: Value
    origin: str


@dataclass(frozen=True)
class Algorithm:
    """A registry entry; calling it with options gives its :class:`~upge.estimator.Estimator`."""

    name: str
    title: str
    source: str
    build: Callable[..., Terms]
    options: Mapping[str, Option]
    note: str = ""

    def __call__(self, /, **options: Value) -> Estimator:
        """The estimator with ``options`` over the defaults; see :data:`COMMON` for those of all.

        Raises:
            UpgeError: an option that is not known, or a value of the wrong type.
        """
        defaults = {name: option.default for name, option in self.options.items()}
        for name, value in options.items():
            self._check_option(name, value)
        settings = defaults | {name: x for name, x in options.items() if name in defaults}
        further = {name: x for name, x in options.items() if name in _FURTHER}
        estimator = Estimator(self.build(**settings), self.name)
        for name, (_, change) in COMMON.items():
            if name in options:
                estimator = change(estimator, options[name], settings | further)
        return estimator

    def _check_option(self, name: str, value: Value) -> None:
        kinds: dict[str, type] = {n: type(o.default) for n, o in self.options.items()}
        kinds |= _FURTHER | {n: kind for n, (kind, _) in COMMON.items()}
        if name not in kinds:
            raise unknown(f"option of {self.name}", name, kinds)
        wanted = str if kinds[name] is str else (int, float)
        if isinstance(value, bool) or not isinstance(value, wanted):
            kind = "a word" if wanted is str else "a number"
            raise UpgeError(f"{self.name}.{name}: got {value!r}, wanted {kind}")

    @property
    def terms(self) -> Terms:
        """The terms at default options."""
        return self().terms


def feedback(name: str, gamma: Value = 0.0, **options: Value) -> Feedback:
    """The gate called ``name`` at threshold ``gamma``, with those of the options that it has.

    Raises:
        UpgeError: an unknown name.
    """
    if name not in GATES:
        raise unknown("gate", name, GATES)
    settings = options | {"gamma": gamma}
    return GATES[name](
        **{f.name: settings[f.name] for f in fields(GATES[name]) if f.name in settings}
    )


def correction(
    name: str, correction_low: Value = 0.0, correction_high: Value = 2.0, **_: Value
) -> Correction:
    """The sampler's correction called ``name``: a level and a rule, as ``token-truncate``.

    Raises:
        UpgeError: an unknown level or rule, or bounds that are none.
    """
    level, _dash, rule = name.partition("-")
    return Correction(level, rule, correction_low, correction_high)  # type: ignore[arg-type]


REGISTRY: dict[str, Algorithm] = {}

Build = Callable[..., Term | Terms]


def register(
    name: str, title: str, source: str, *, note: str = "", **options: Option
) -> Callable[[Build], Callable[..., Terms]]:
    """Add the decorated function from options to a term, or terms, to the registry.

    Raises:
        UpgeError: the name is taken.
    """

    def add(build: Build) -> Callable[..., Terms]:
        if name in REGISTRY:
            raise UpgeError(f"algorithm {name!r} is registered twice; rename one")

        def terms(*values: Value, **settings: Value) -> Terms:
            built = build(*values, **settings)
            return (built,) if isinstance(built, Term) else built

        REGISTRY[name] = Algorithm(name, title, source, terms, options, note)
        return terms

    return add


def get(name: str, /, **options: Value) -> Estimator:
    """The estimator of a registered algorithm: ``get("grpo", clip=0.1)``.

    Raises:
        UpgeError: an unknown algorithm or option, with the nearest known name.
    """
    return algorithm(name)(**options)


def algorithm(name: str) -> Algorithm:
    """The registry entry called ``name``.

    Raises:
        UpgeError: there is none; with the nearest known name.
    """
    if not isinstance(name, str) or name not in REGISTRY:
        raise unknown("algorithm", name, REGISTRY)
    return REGISTRY[name]


_CLIP = Option(0.2, "PPO, arXiv 1707.06347, table 3 (best of its clips); default of TRL and verl")
_DISCOUNT = Option(1.0, "undiscounted, as usual for a reward at the last token; verl's default")
_LAMBDA = Option(0.95, "PPO, arXiv 1707.06347, table 3")
_GSPO_LOW = Option(3e-4, "GSPO, arXiv 2507.18071, section 5.1")
_GSPO_HIGH = Option(4e-4, "GSPO, arXiv 2507.18071, section 5.1")
_GMPO_CLIP = Option(0.4, "GMPO, arXiv 2507.20673: ratios clipped to (e^-0.4, e^0.4)")
_SHAPING = Option(0.1, "LUFFY, arXiv 2504.14945, section 3.2 and its scripts")
_GAMMA = Option(0.0, "paper, section 4.1: γ = 0 for Qwen (2/8 for LLaMA)")
_DEVICES = Option(8, "official scripts: 8 GPUs, over which FSDP averages gradients")


#: Terms over rollouts of π_θold, over rollouts taken to be π_θ's, over demonstrations.
_rollouts = partial(Term, "online", RolloutPolicy())
_on_policy = partial(Term, "online", CurrentPolicy())
_sequences = partial(Term, "online", SequenceRatio())
_imitate = partial(Term, "offline", CurrentPolicy(), One())
_demos = partial(Term, "offline", ConstantOne())
_SOLVED, _FAILED = Signed(1.0, 0.0), Signed(0.0, -1.0)


def _share(devices: float) -> float:
    if not 1 <= devices < float("inf"):
        raise UpgeError(f"devices: got {devices}, wanted a finite number ≥ 1")
    return 1 / devices


def _row(
    name: str, title: str, source: str, build: Build, note: str = "", **options: Option
) -> None:
    register(name, title, source, note=note, **options)(build)


def _terms(name: str, **options: Value) -> Terms:
    return REGISTRY[name].build(**options)


def _chord(mu: float, clip: float) -> Terms:
    if mu not in UNIT:
        raise UpgeError(f"mu: got {mu}, wanted {UNIT}")
    (rollouts,) = _terms("grpo", clip=clip)
    demonstrations = _demos(One(), TokenMean(), shaping=Complement(), coefficient=mu)
    return (replace(rollouts, coefficient=1 - mu), demonstrations)


def _luffy(shaping: float) -> Terms:
    union = TokenMean("batch")
    (demonstrations,) = _terms("luffy_offline", shaping=shaping)
    return (_rollouts(GroupZScore("all"), union), replace(demonstrations, normalizer=union))


def _srft() -> Terms:
    mean, falls, rises = TrajectoryMean(), EntropyWeight(-1, "batch"), EntropyWeight(1, "batch")
    return (
        _imitate(mean, coefficient=0.5, entropy_weight=falls),
        *_terms("srft_offline"),
        _on_policy(_SOLVED, mean, coefficient=0.1, entropy_weight=rises),
        _on_policy(_FAILED, mean),
    )


def _off_policy(over: Samples, shaping: float, coefficient: float) -> Term:
    """As the official scripts: a set of one reward is not centered."""
    advantage, shape = GroupCentered(over, keep_singletons=True), PolicyShaping(shaping)
    return _demos(advantage, LengthSum(), shaping=shape, coefficient=coefficient)


def _srft_official(shaping: float, devices: float) -> Terms:
    share, total, rises = _share(devices), LengthSum(), EntropyWeight(1)
    return (
        _imitate(TokenMean(), coefficient=0.5, entropy_weight=EntropyWeight(-1)),
        _off_policy("all", shaping, share),
        _on_policy(_SOLVED, total, coefficient=0.1 * share, entropy_weight=rises),
        _on_policy(_FAILED, total, coefficient=share),
    )


def _hpt(gate: Feedback, rollouts: Term, normalizer: Normalizer, coefficient: float = 1.0) -> Terms:
    """RL on rollouts and SFT on demonstrations, under the two sides of a gate."""
    imitation = _imitate(normalizer, coefficient=coefficient, gate=Gate(gate, "sft"))
    return (replace(rollouts, gate=Gate(gate, "rl")), imitation)


def _one_token_count(gate: Feedback, clip: float) -> Terms:
    joint = TokenMean("joint")
    return _hpt(gate, _rollouts(GroupCentered(), joint, Clip(clip, clip)), joint)


def _official(gamma: float, sft_coefficient: float, devices: float) -> Terms:
    advantage, share = GroupCentered(keep_singletons=True), _share(devices)
    rollouts = _rollouts(advantage, LengthSum(), coefficient=share)
    return _hpt(Switch(gamma), rollouts, TokenMean("open"), sft_coefficient)


def _gated_off_policy(gamma: float, shaping: float, coefficient: float) -> Term:
    term = _off_policy("offline", shaping, coefficient)
    return replace(term, gate=Gate(Switch(gamma), "sft"))


_STUDY = "this package, study mixing: "
_OFFICIAL = "github.com/TsinghuaC3I/Unify-Post-Training"
_OFF_NOTE = "A gated question's demonstrations form a group of their own, so one alone has Â = R."

# The table: name, title, source, terms, note, options. In the order of the paper's Table 1 first.
# fmt: off

_row("sft", "SFT", "paper, eq. 12 and 14–15",
     lambda: _imitate(TokenMean()))
_row("ppo", "PPO", "PPO, arXiv 1707.06347, eq. 7; paper, eq. 16",
     lambda clip, gamma, gae_lambda:
         _rollouts(GAE(gamma, gae_lambda), QuestionMean(), Clip(clip, clip)),
     clip=_CLIP, gamma=_DISCOUNT, gae_lambda=_LAMBDA)
_row("grpo", "GRPO", "GRPO, arXiv 2402.03300, eq. 3; paper, eq. 5 and 17–18",
     lambda clip: _rollouts(GroupZScore(), QuestionMean(), Clip(clip, clip)), clip=_CLIP)
_row("reinforce", "REINFORCE", "Williams 1992; paper, Table 1",
     lambda: _on_policy(Signed(), TrajectoryMean()))
_row("cispo", "CISPO", "CISPO, arXiv 2506.13585, eq. 4–5",
     lambda ratio_max, ratio_min:
         _rollouts(GroupZScore(), TokenMean(), WeightClip(ratio_min, ratio_max)),
     "The weight is clipped, no token is masked: the exact stabilizer is clip(r)/r. No 0/1 mask "
     "can stand in for it, as a clipped token keeps a weight that is neither 0 nor r Â.",
     ratio_max=Option(5.0, "the paper of CISPO does not state its upper bound; 5 is ScaleRL's, "
                           "arXiv 2510.13786, and TRL's recommendation"),
     ratio_min=Option(0.0, "CISPO, arXiv 2506.13585: no lower bound is imposed"))
_row("gspo", "GSPO", "GSPO, arXiv 2507.18071, eq. 5–7",
     lambda clip_low, clip_high:
         _sequences(GroupZScore(), QuestionMean(), Clip(clip_low, clip_high, "sequence")),
     clip_low=_GSPO_LOW, clip_high=_GSPO_HIGH)
_row("srft_offline", "SRFT (offline)", "SRFT, arXiv 2506.19767; paper, eq. 19–20",
     lambda: _demos(GroupZScore("all"), QuestionMean()))
_row("luffy_offline", "LUFFY (offline)", "LUFFY, arXiv 2504.14945; paper, Table 1",
     lambda shaping: _demos(GroupZScore("all"), TokenMean(), shaping=PolicyShaping(shaping)),
     shaping=_SHAPING)

# Further losses of rollouts.

_row("dr_grpo", "Dr. GRPO", "arXiv 2503.20783; paper, section 4",
     lambda clip: _rollouts(GroupCentered(), FixedLength(), Clip(clip, clip)), clip=_CLIP)
_row("rloo", "RLOO", "arXiv 2402.14740, eq. 8",
     lambda: _on_policy(LeaveOneOut(), TrajectoryMean()))
_row("reinforce_plus_plus", "REINFORCE++", "arXiv 2501.03262, without its KL",
     lambda clip: _rollouts(BatchZScore(), TokenMean(), Clip(clip, clip)), clip=_CLIP)
_row("reinforce_plus_plus_baseline", "REINFORCE++ with a baseline",
     "arXiv 2501.03262, without its KL",
     lambda clip: _rollouts(BatchZScore("centered"), TokenMean(), Clip(clip, clip)), clip=_CLIP)
_row("dapo", "DAPO", "arXiv 2503.14476, eq. 8; without its dynamic sampling, a choice of data",
     lambda clip_low, clip_high: _rollouts(GroupZScore(), TokenMean(), Clip(clip_low, clip_high)),
     clip_low=Option(0.2, "DAPO, arXiv 2503.14476, section 4.1"),
     clip_high=Option(0.28, "DAPO, arXiv 2503.14476, section 4.1"))
_row("ppo_dual_clip", "PPO, dual clip", "arXiv 1912.09729, eq. 5",
     lambda clip, dual_clip, gamma, gae_lambda:
         _rollouts(GAE(gamma, gae_lambda), QuestionMean(), DualClip(clip, clip, dual=dual_clip)),
     clip=_CLIP, dual_clip=Option(3.0, "arXiv 1912.09729, section 4; verl's default"),
     gamma=_DISCOUNT, gae_lambda=_LAMBDA)
_row("tis", "Truncated importance sampling",
     "Yao et al. 2025, for rollouts whose sampler differs from the trainer; arXiv 1802.01561",
     lambda cap: _rollouts(GroupZScore(), QuestionMean(), WeightClip(0.0, cap)),
     "The rollout policy π_θold is the sampler's own distribution.",
     cap=Option(2.0, "Yao et al. 2025 and verl's default threshold"))
_row("gspo_token", "GSPO-token", "GSPO, arXiv 2507.18071, eq. 13–14",
     lambda clip_low, clip_high: _terms("gspo", clip_low=clip_low, clip_high=clip_high),
     "With one advantage a trajectory its gradient is GSPO's.",
     clip_low=_GSPO_LOW, clip_high=_GSPO_HIGH)
_row("luspo", "LUSPO", "arXiv 2602.05261",
     lambda clip_low, clip_high:
         _sequences(GroupZScore(), QuestionSum(), Clip(clip_low, clip_high, "sequence")),
     "GSPO with each trajectory's term times its length.",
     clip_low=_GSPO_LOW, clip_high=_GSPO_HIGH)
_row("gmpo", "GMPO", "arXiv 2507.20673",
     lambda clip_low, clip_high:
         _sequences(GroupZScore(), QuestionMean(), GeometricClip(clip_low, clip_high)),
     clip_low=_GMPO_CLIP, clip_high=_GMPO_CLIP)
_row("sapo", "SAPO", "arXiv 2511.20347",
     lambda tau_pos, tau_neg:
         _rollouts(GroupZScore(), QuestionMean(), SigmoidGate(tau_pos, tau_neg)),
     tau_pos=Option(1.0, "SAPO, arXiv 2511.20347, section 5; TRL's default"),
     tau_neg=Option(1.05, "SAPO, arXiv 2511.20347, section 5; TRL's default"))

_row("maxrl", "MaxRL", "arXiv 2602.02710",
     lambda: _on_policy(GroupRelative(), TrajectoryMean()),
     "Made for R ∈ {0, 1}. A question without a success has no gradient.")
_row("psr", "Positive samples alone", "PSR, arXiv 2506.01347",
     lambda: _on_policy(_SOLVED, TrajectoryMean()))
_row("nsr", "Negative samples alone", "NSR, arXiv 2506.01347",
     lambda: _on_policy(_FAILED, TrajectoryMean()))
_row("w_reinforce", "Weighted REINFORCE", "W-REINFORCE, arXiv 2506.01347",
     lambda positive: _on_policy(Signed(positive, -1.0), TrajectoryMean()),
     positive=Option(0.1, "λ of arXiv 2506.01347; the value its code recommends"))
_row("asymre", "AsymRE", "arXiv 2506.20520",
     lambda delta: (
         _on_policy(GroupCentered(), TrajectoryMean()),
         _on_policy(One(), TrajectoryMean(), coefficient=delta)),
     "The baseline is the group's mean less delta. No ratio makes up for an older π_θold.",
     delta=Option(0.1, "this package: small, as arXiv 2506.20520 finds a baseline slightly below "
                       "the mean stable"))

# Demonstrations, and mixtures.

_row("dft", "DFT", "arXiv 2508.05629, eq. 9: −sg(π) log π",
     lambda: _demos(One(), TokenMean()))
_row("offline_reinforce", "Offline REINFORCE", "REINFORCE on demonstrations with their reward",
     lambda: Term("offline", CurrentPolicy(), Signed(), TrajectoryMean()))
_row("chord", "CHORD-φ", "arXiv 2508.11408: (1 − μ) GRPO + μ SFT with token weight π(1 − π)",
     _chord, mu=Option(0.1, "CHORD, arXiv 2508.11408"), clip=_CLIP)
_row("luffy", "LUFFY", "arXiv 2504.14945, eq. 5 and 8", _luffy,
     "No clip on the rollouts: the paper prints one, its scripts and authors leave it out.",
     shaping=_SHAPING)
_row("srft", "SRFT", "arXiv 2506.19767, eq. 6–13", _srft,
     "H, which the paper leaves open, is the mean over all tokens that the term reads.")
_row("srft_official", "SRFT, official re-implementation", f"{_OFFICIAL}, mix_actor.py (srft)",
     _srft_official, "H is the mean token entropy of each sequence.",
     shaping=_SHAPING, devices=_DEVICES)
_row("sft_rl", "SFT + RL, fixed", "paper, eq. 13 with constant α = 1 and β",
     lambda sft_coefficient, clip:
         (*_terms("grpo", clip=clip), _imitate(TokenMean(), coefficient=sft_coefficient)),
     sft_coefficient=Option(1.0, "not stated; eq. 13 with α = β = 1"), clip=_CLIP)

# HPT: two losses under one gate.

_row("hpt", "HPT, as published", "paper, eq. 5 and 7–13, literally",
     lambda gamma, clip: _hpt(
         Switch(gamma), _rollouts(GroupZScore(), QuestionSum("batch"), Clip(clip, clip)),
         QuestionMean("batch")),
     "RL: clipped, std in Â, token sums, mean over a question's rollouts. SFT: token mean of a "
     "demonstration. Both: mean over all questions.",
     gamma=_GAMMA, clip=_CLIP)
_row("hpt_official", "HPT, as coded", f"{_OFFICIAL}, exp_scripts/train.sh", _official,
     "Against hpt: no std, no clip, RL token sum over L without a count of samples, averaged over "
     "devices; SFT: mean over all gated demonstrations' tokens; a set of one reward is not "
     "centered. Entropy bonus and norm-80 skip belong to the training loop.",
     gamma=_GAMMA, devices=_DEVICES,
     sft_coefficient=Option(1.0, "official scripts: 1.0 (Qwen 7B, LLaMA), 0.3 (Qwen 1.5B)"))
_row("hpt_global_token", "HPT, one token count",
     "this package: eq. 13 with both losses as token sums over the tokens of both",
     lambda gamma, clip: _one_token_count(Switch(gamma), clip),
     "Â without std; rollouts of gated questions and unused demonstrations don't count.",
     gamma=_GAMMA, clip=_CLIP)
_row("hpt_wiener", "HPT, Wiener weights",
     "this package: hpt_global_token with the weights that estimate ∇J_μ best given P and n",
     lambda clip, **weights: _one_token_count(Wiener(**weights), clip),
     "Both losses act on every question with a demonstration, one of which is assumed. α and β "
     "follow from upge.wiener.Wiener's model of rollouts and demonstrations, for one step; in the "
     "study the switch ends ahead after many.",
     mu=Option(0.5, _STUDY + "within 5 % of the best gate's gain in E[r] at every length of a "
                             "step"),
     noise=Option(3.0, _STUDY + "nearly flat: 0.3 to 30 differ by 1 % of the gain on the "
                                "development cases"),
     novelty=Option(0.25, _STUDY + "between what suits E[r] after finite steps (0) and ∇J_μ (0.5)"),
     prior_solved=Option(0.5, "Jeffreys' prior of a success rate"),
     prior_failed=Option(0.5, "Jeffreys' prior of a success rate"), clip=_CLIP)
_row("off_on", "OFF/ON", "paper, Table 5; the official code's off-policy branch",
     lambda gamma, shaping, devices: (
         _official(gamma, 1.0, devices)[0], _gated_off_policy(gamma, shaping, _share(devices))),
     _OFF_NOTE, gamma=_GAMMA, shaping=_SHAPING, devices=_DEVICES)
_row("mix_on", "Mix/ON", "paper, Table 5; the official code's mixed branch",
     lambda gamma, sft_coefficient, off_coefficient, shaping, devices: (
         *_official(gamma, sft_coefficient, devices),
         _gated_off_policy(gamma, shaping, off_coefficient * _share(devices))),
     _OFF_NOTE, gamma=_GAMMA, sft_coefficient=Option(0.1, "official scripts"),
     off_coefficient=Option(1.0, "official scripts"), shaping=_SHAPING, devices=_DEVICES)
