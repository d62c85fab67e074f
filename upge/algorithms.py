"""Every algorithm as a sum of terms: the registry from which Table 1 is printed.

An entry is data: a name, where it comes from, its options with their origins, and a function that
turns options into terms. A new algorithm is a new entry here and its published loss, by the same
name, in ``verification/published.py``; everything else reads the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from upge.advantage import (
    GAE,
    BatchZScore,
    GroupCentered,
    GroupZScore,
    LeaveOneOut,
    One,
    Signed,
)
from upge.batch import Samples
from upge.common.errors import UpgeError, unknown
from upge.estimator import EntropyWeight, Estimator, Term
from upge.feedback import Feedback, Gate, Switch, Wiener, feedback
from upge.likelihood import Complement, PolicyShaping
from upge.normalization import (
    FixedLength,
    LengthSum,
    QuestionMean,
    QuestionSum,
    TokenMean,
    TrajectoryMean,
)
from upge.reference import ConstantOne, CurrentPolicy, RolloutPolicy, SequenceRatio
from upge.stabilization import (
    CISMask,
    Clip,
    DualClip,
    GeometricClip,
    SigmoidGate,
    WeightClip,
)

Value = float | str
Terms = tuple[Term, ...]

#: Options that are no algorithm's own.
_COMMON = ("normalizer", "gate", "is_cap")


@dataclass(frozen=True)
class Option:
    """A hyperparameter: its default and where the default comes from."""

    default: Value
    origin: str


@dataclass(frozen=True)
class Printed:
    """A row of the paper's Table 1 as printed there: group heading, cells, and the literal term."""

    group: str
    reference: str
    advantage: str
    gradient: str
    build: Callable[..., Terms] | None = None


@dataclass(frozen=True)
class Algorithm:
    """A registry entry; calling it with options gives its :class:`~upge.estimator.Estimator`."""

    name: str
    title: str
    source: str
    build: Callable[..., Terms]
    options: Mapping[str, Option]
    printed: Printed | None = None
    note: str = ""

    def __call__(self, /, **options: Value) -> Estimator:
        """The estimator with ``options`` over the defaults.

        Every algorithm also takes ``normalizer``, which replaces that of all its terms; those with
        a gate take ``gate`` (a name of :data:`upge.feedback.GATES`), at their ``gamma``; those that
        read rollouts ``is_cap``, for :meth:`~upge.estimator.Estimator.with_is_cap`.

        Raises:
            UpgeError: an option that is not known, or a value of the wrong type.
        """
        common = {name: options.pop(name) for name in _COMMON if name in options}
        for name, value in options.items():
            self._check_option(name, value)
        settings = {name: option.default for name, option in self.options.items()} | options
        estimator = Estimator(self.build(**settings), self.name)
        if "normalizer" in common:
            estimator = estimator.with_normalizer(str(common["normalizer"]))
        if "gate" in common:
            estimator = estimator.with_feedback(feedback(str(common["gate"]), **settings))
        if "is_cap" in common:
            estimator = estimator.with_is_cap(common["is_cap"])  # type: ignore[arg-type]
        return estimator

    def _check_option(self, name: str, value: Value) -> None:
        if name not in self.options:
            raise unknown(f"option of {self.name}", name, [*self.options, *_COMMON])
        wanted = str if isinstance(self.options[name].default, str) else (int, float)
        if isinstance(value, bool) or not isinstance(value, wanted):
            kind = "a word" if wanted is str else "a number"
            raise UpgeError(f"{self.name}.{name}: got {value!r}, wanted {kind}")

    @property
    def terms(self) -> Terms:
        """The terms at default options."""
        return self().terms


REGISTRY: dict[str, Algorithm] = {}


def register(
    name: str,
    title: str,
    source: str,
    *,
    printed: Printed | None = None,
    note: str = "",
    **options: Option,
) -> Callable[[Callable[..., Terms]], Callable[..., Terms]]:
    """Add the decorated builder, a function from options to terms, to the registry."""

    def add(build: Callable[..., Terms]) -> Callable[..., Terms]:
        if name in REGISTRY:
            raise UpgeError(f"algorithm {name!r} is registered twice; rename one")
        REGISTRY[name] = Algorithm(name, title, source, build, options, printed, note)
        return build

    return add


def get(name: str, /, **options: Value) -> Estimator:
    """The estimator of a registered algorithm: ``get("grpo", clip=0.1)``.

    Raises:
        UpgeError: an unknown algorithm or option, with the nearest known name.
    """
    return algorithm(name)(**options)


def algorithm(name: str) -> Algorithm:
    """The registry entry called ``name``."""
    if not isinstance(name, str) or name not in REGISTRY:
        raise unknown("algorithm", name, REGISTRY)
    return REGISTRY[name]


_CLIP = Option(0.2, "PPO, arXiv 1707.06347, table 3 (best of its clips); default of TRL and verl")
_DISCOUNT = Option(1.0, "undiscounted, as usual for a reward at the last token; verl's default")
_LAM = Option(0.95, "PPO, arXiv 1707.06347, table 3")
_SHAPING = Option(0.1, "LUFFY, arXiv 2504.14945, section 3.2 and its scripts")
_GAMMA = Option(0.0, "paper, section 4.1: γ = 0 for Qwen (2/8 for LLaMA)")
_DEVICES = Option(8, "official scripts: 8 GPUs, over which FSDP averages gradients")


_LENGTH_NOTE = "L is the batch's max_length, or its width T where none is given."

#: A term over rollouts sampled by π_θold, and one over demonstrations.
_rollouts = partial(Term, samples="online", reference=RolloutPolicy())
_demos = partial(Term, samples="offline", reference=CurrentPolicy(), advantage=One())


def _printed(group: str, reference: str, advantage: str, gradient: str) -> Printed:
    return Printed(group, reference, advantage, r"\nabla\pi_\theta\cdot" + gradient)


# ---------------------------------------------------------------- the paper's Table 1, row by row


@register(
    "sft",
    "SFT",
    "paper, eq. 12 and 14–15",
    printed=_printed("", r"\pi_\theta", "1", r"\frac{1}{\pi_\theta}"),
)
def _sft() -> Terms:
    return (_demos(normalizer=TokenMean()),)


@register(
    "ppo",
    "PPO",
    "PPO, arXiv 1707.06347, eq. 7; paper, eq. 16",
    printed=_printed(
        "online RL",
        r"\pi_{\theta_{old}}",
        r"\mathrm{GAE}",
        r"\frac{\hat A\,\mathbf{1}_{Clip}}{\pi_{ref}}",
    ),
    clip=_CLIP,
    gamma=_DISCOUNT,
    gae_lambda=_LAM,
)
def _ppo(clip: float, gamma: float, gae_lambda: float) -> Terms:
    return (
        _rollouts(
            advantage=GAE(gamma, gae_lambda),
            normalizer=QuestionMean(),
            stabilization=Clip(clip, clip),
        ),
    )


@register(
    "grpo",
    "GRPO",
    "GRPO, arXiv 2402.03300, eq. 3; paper, eq. 5 and 17–18",
    printed=_printed(
        "online RL",
        r"\pi_{\theta_{old}}",
        r"\frac{R-\mathrm{mean}_{G_{on}}}{\mathrm{std}_{G_{on}}}",
        r"\frac{\hat A\,\mathbf{1}_{Clip}}{\pi_{ref}}",
    ),
    clip=_CLIP,
)
def _grpo(clip: float) -> Terms:
    return (
        _rollouts(
            advantage=GroupZScore(), normalizer=QuestionMean(), stabilization=Clip(clip, clip)
        ),
    )


@register(
    "reinforce",
    "REINFORCE",
    "Williams 1992; paper, Table 1",
    printed=_printed("online RL", r"\pi_\theta", r"\pm 1", r"\frac{\hat A}{\pi_\theta}"),
)
def _reinforce() -> Terms:
    return (_rollouts(reference=CurrentPolicy(), advantage=Signed(), normalizer=TrajectoryMean()),)


def _cispo_as_printed(ratio_max: float, ratio_min: float) -> Terms:
    """Table 1's row read literally: the 0/1 mask of arXiv 2506.13585, eq. 7, on the full ratio."""
    mask = CISMask(low=max(1 - ratio_min, 0.0), high=max(ratio_max - 1, 0.0))
    return (_rollouts(advantage=GroupZScore(), normalizer=TokenMean(), stabilization=mask),)


@register(
    "cispo",
    "CISPO",
    "CISPO, arXiv 2506.13585, eq. 4–5",
    printed=replace(
        _printed(
            "online RL",
            r"\pi_{\theta_{old}}",
            r"\hat A_{GRPO}",
            r"\frac{\hat A\,\mathbf{1}_{CIS\text{-}Mask}}{\pi_{ref}}",
        ),
        build=_cispo_as_printed,
    ),
    note=(
        "The weight is clipped, no token is masked: the exact stabilizer is clip(r)/r. No 0/1 mask "
        "can stand in for it, as a clipped token keeps a weight that is neither 0 nor r Â."
    ),
    ratio_max=Option(
        5.0,
        "the paper of CISPO does not state its upper bound; 5 is ScaleRL's, arXiv 2510.13786, and "
        "TRL's recommendation",
    ),
    ratio_min=Option(0.0, "CISPO, arXiv 2506.13585: no lower bound is imposed"),
)
def _cispo(ratio_max: float, ratio_min: float) -> Terms:
    return (
        _rollouts(
            advantage=GroupZScore(),
            normalizer=TokenMean(),
            stabilization=WeightClip(ratio_min, ratio_max),
        ),
    )


_GSPO_LOW = Option(3e-4, "GSPO, arXiv 2507.18071, section 5.1")
_GSPO_HIGH = Option(4e-4, "GSPO, arXiv 2507.18071, section 5.1")


@register(
    "gspo",
    "GSPO",
    "GSPO, arXiv 2507.18071, eq. 5–7",
    printed=_printed(
        "online RL",
        r"\pi_\theta\left(\frac{\pi_{\theta_{old}}(\tau|q)}{\pi_\theta(\tau|q)}\right)^{1/|\tau|}",
        r"\hat A_{GRPO}",
        r"\frac{\hat A\,\mathbf{1}_{Seq\text{-}Clip}}{\pi_{ref}}",
    ),
    clip_low=_GSPO_LOW,
    clip_high=_GSPO_HIGH,
)
def _gspo(clip_low: float, clip_high: float) -> Terms:
    return (
        _rollouts(
            reference=SequenceRatio(),
            advantage=GroupZScore(),
            normalizer=QuestionMean(),
            stabilization=Clip(clip_low, clip_high, "sequence"),
        ),
    )


@register(
    "srft_offline",
    "SRFT (offline)",
    "SRFT, arXiv 2506.19767; paper, eq. 19–20",
    printed=_printed(
        "offline/online RL",
        "1",
        r"\frac{R-\mathrm{mean}_{G_{on}\cup G_{off}}}{\mathrm{std}_{G_{on}\cup G_{off}}}",
        r"\frac{\hat A}{1}",
    ),
)
def _srft_offline() -> Terms:
    return (
        _demos(reference=ConstantOne(), advantage=GroupZScore("all"), normalizer=QuestionMean()),
    )


@register(
    "luffy_offline",
    "LUFFY (offline)",
    "LUFFY, arXiv 2504.14945; paper, Table 1",
    printed=_printed(
        "offline/online RL", "1", r"\hat A_{SRFT}", r"\frac{\hat A}{1}\cdot f'_{shape}"
    ),
    shaping=_SHAPING,
)
def _luffy_offline(shaping: float) -> Terms:
    return (
        _demos(
            reference=ConstantOne(),
            advantage=GroupZScore("all"),
            normalizer=TokenMean(),
            shaping=PolicyShaping(shaping),
        ),
    )


# ------------------------------------------------------------------------- further rollout losses


@register(
    "dr_grpo", "Dr. GRPO", "arXiv 2503.20783; paper, section 4", note=_LENGTH_NOTE, clip=_CLIP
)
def _dr_grpo(clip: float) -> Terms:
    return (
        _rollouts(
            advantage=GroupCentered(), normalizer=FixedLength(), stabilization=Clip(clip, clip)
        ),
    )


@register("rloo", "RLOO", "arXiv 2402.14740, eq. 8")
def _rloo() -> Terms:
    return (
        _rollouts(reference=CurrentPolicy(), advantage=LeaveOneOut(), normalizer=TrajectoryMean()),
    )


@register("reinforce_plus_plus", "REINFORCE++", "arXiv 2501.03262, without its KL", clip=_CLIP)
def _reinforce_plus_plus(clip: float) -> Terms:
    return (
        _rollouts(advantage=BatchZScore(), normalizer=TokenMean(), stabilization=Clip(clip, clip)),
    )


@register(
    "dapo",
    "DAPO",
    "arXiv 2503.14476, eq. 8; its dynamic sampling is the training loop's",
    clip_low=Option(0.2, "DAPO, arXiv 2503.14476, section 4.1"),
    clip_high=Option(0.28, "DAPO, arXiv 2503.14476, section 4.1"),
)
def _dapo(clip_low: float, clip_high: float) -> Terms:
    return (
        _rollouts(
            advantage=GroupZScore(),
            normalizer=TokenMean(),
            stabilization=Clip(clip_low, clip_high),
        ),
    )


@register(
    "ppo_dual_clip",
    "PPO, dual clip",
    "arXiv 1912.09729, eq. 5",
    clip=_CLIP,
    dual_clip=Option(3.0, "arXiv 1912.09729, section 4; verl's default"),
    gamma=_DISCOUNT,
    gae_lambda=_LAM,
)
def _ppo_dual_clip(clip: float, dual_clip: float, gamma: float, gae_lambda: float) -> Terms:
    return (
        _rollouts(
            advantage=GAE(gamma, gae_lambda),
            normalizer=QuestionMean(),
            stabilization=DualClip(clip, clip, dual=dual_clip),
        ),
    )


@register(
    "tis",
    "Truncated importance sampling",
    "Yao et al. 2025, for rollouts whose sampler differs from the trainer; arXiv 1802.01561",
    note="The rollout policy π_θold is the sampler's own distribution.",
    cap=Option(2.0, "Yao et al. 2025 and verl's default threshold"),
)
def _tis(cap: float) -> Terms:
    return (
        _rollouts(
            advantage=GroupZScore(),
            normalizer=QuestionMean(),
            stabilization=WeightClip(0.0, cap),
        ),
    )


@register(
    "gspo_token",
    "GSPO-token",
    "GSPO, arXiv 2507.18071, eq. 13–14",
    note="With one advantage a trajectory its gradient is GSPO's.",
    clip_low=_GSPO_LOW,
    clip_high=_GSPO_HIGH,
)
def _gspo_token(clip_low: float, clip_high: float) -> Terms:
    return _gspo(clip_low, clip_high)


@register(
    "gmpo",
    "GMPO",
    "arXiv 2507.20673",
    clip_low=Option(0.4, "GMPO, arXiv 2507.20673: ratios clipped to (e^-0.4, e^0.4)"),
    clip_high=Option(0.4, "GMPO, arXiv 2507.20673: ratios clipped to (e^-0.4, e^0.4)"),
)
def _gmpo(clip_low: float, clip_high: float) -> Terms:
    return (
        _rollouts(
            reference=SequenceRatio(),
            advantage=GroupZScore(),
            normalizer=QuestionMean(),
            stabilization=GeometricClip(clip_low, clip_high),
        ),
    )


@register(
    "sapo",
    "SAPO",
    "arXiv 2511.20347",
    tau_pos=Option(1.0, "SAPO, arXiv 2511.20347, section 5; TRL's default"),
    tau_neg=Option(1.05, "SAPO, arXiv 2511.20347, section 5; TRL's default"),
)
def _sapo(tau_pos: float, tau_neg: float) -> Terms:
    return (
        _rollouts(
            advantage=GroupZScore(),
            normalizer=QuestionMean(),
            stabilization=SigmoidGate(tau_pos, tau_neg),
        ),
    )


# ------------------------------------------------------------------------- demonstrations, mixtures


@register("dft", "DFT", "arXiv 2508.05629, eq. 9: −sg(π) log π")
def _dft() -> Terms:
    return (_demos(reference=ConstantOne(), normalizer=TokenMean()),)


@register("offline_reinforce", "Offline REINFORCE", "REINFORCE on demonstrations with their reward")
def _offline_reinforce() -> Terms:
    return (_demos(advantage=Signed(), normalizer=TrajectoryMean()),)


@register(
    "chord",
    "CHORD-φ",
    "arXiv 2508.11408: (1 − μ) GRPO + μ SFT with token weight π(1 − π)",
    mu=Option(0.1, "CHORD, arXiv 2508.11408"),
    clip=_CLIP,
)
def _chord(mu: float, clip: float) -> Terms:
    if not 0 <= mu <= 1:
        raise UpgeError(f"mu: got {mu}, wanted a number from 0 to 1")
    (rollouts,) = _grpo(clip)
    demonstrations = _demos(
        reference=ConstantOne(), shaping=Complement(), normalizer=TokenMean(), coefficient=mu
    )
    return (replace(rollouts, coefficient=1 - mu), demonstrations)


@register(
    "luffy",
    "LUFFY",
    "arXiv 2504.14945, eq. 5 and 8",
    note="No clip on the rollouts: the paper prints one, its scripts and authors leave it out.",
    shaping=_SHAPING,
)
def _luffy(shaping: float) -> Terms:
    union = TokenMean("batch")
    (demonstrations,) = _luffy_offline(shaping)
    return (
        _rollouts(advantage=GroupZScore("all"), normalizer=union),
        replace(demonstrations, normalizer=union),
    )


_SOLVED, _FAILED = Signed(1.0, 0.0), Signed(0.0, -1.0)


@register(
    "srft",
    "SRFT",
    "arXiv 2506.19767, eq. 6–13",
    note="H, which the paper leaves open, is the mean over all tokens that the term reads.",
)
def _srft() -> Terms:
    on_policy = partial(_rollouts, reference=CurrentPolicy(), normalizer=TrajectoryMean())
    return (
        _demos(
            normalizer=TrajectoryMean(),
            coefficient=0.5,
            entropy_weight=EntropyWeight(-1, "batch"),
        ),
        *_srft_offline(),
        on_policy(advantage=_SOLVED, coefficient=0.1, entropy_weight=EntropyWeight(1, "batch")),
        on_policy(advantage=_FAILED),
    )


#: In the official scripts a set of one reward is not centred.
_OFFICIAL = partial(GroupCentered, keep_singletons=True)


def _share(devices: float) -> float:
    if not 1 <= devices < float("inf"):
        raise UpgeError(f"devices: got {devices}, wanted a finite number ≥ 1")
    return 1 / devices


def _official_off_policy(over: Samples, shaping: float, devices: float) -> Term:
    return _demos(
        reference=ConstantOne(),
        advantage=_OFFICIAL(over),
        shaping=PolicyShaping(shaping),
        normalizer=LengthSum(),
        coefficient=_share(devices),
    )


@register(
    "srft_official",
    "SRFT, official re-implementation",
    "github.com/TsinghuaC3I/Unify-Post-Training, mix_actor.py (srft)",
    note="H is the mean token entropy of each sequence. " + _LENGTH_NOTE,
    shaping=_SHAPING,
    devices=_DEVICES,
)
def _srft_official(shaping: float, devices: float) -> Terms:
    on_policy = partial(
        _rollouts, reference=CurrentPolicy(), normalizer=LengthSum(), coefficient=_share(devices)
    )
    return (
        _demos(normalizer=TokenMean(), coefficient=0.5, entropy_weight=EntropyWeight(-1)),
        _official_off_policy("all", shaping, devices),
        on_policy(
            advantage=_SOLVED, coefficient=0.1 * _share(devices), entropy_weight=EntropyWeight(1)
        ),
        on_policy(advantage=_FAILED),
    )


@register(
    "sft_rl",
    "SFT + RL, fixed",
    "paper, eq. 13 with constant α = 1 and β",
    sft_coefficient=Option(1.0, "not stated; eq. 13 with α = β = 1"),
    clip=_CLIP,
)
def _sft_rl(sft_coefficient: float, clip: float) -> Terms:
    (demonstrations,) = _sft()
    return (*_grpo(clip), replace(demonstrations, coefficient=sft_coefficient))


# ------------------------------------------------------------------ HPT: two losses under one gate


@register(
    "hpt",
    "HPT, as published",
    "paper, eq. 5 and 7–13, literally",
    note=(
        "RL: clipped, std in Â, token sums, mean over a question's rollouts. SFT: token mean of a "
        "demonstration. Both: mean over all questions."
    ),
    gamma=_GAMMA,
    clip=_CLIP,
)
def _hpt(gamma: float, clip: float) -> Terms:
    switch = Switch(gamma)
    return (
        _rollouts(
            advantage=GroupZScore(),
            normalizer=QuestionSum("batch"),
            stabilization=Clip(clip, clip),
            gate=Gate(switch, "rl"),
        ),
        _demos(normalizer=QuestionMean("batch"), gate=Gate(switch, "sft")),
    )


def _official_rl(gamma: float, devices: float) -> Term:
    return _rollouts(
        advantage=_OFFICIAL(),
        normalizer=LengthSum(),
        coefficient=_share(devices),
        gate=Gate(Switch(gamma), "rl"),
    )


def _official_sft(gamma: float, coefficient: float) -> Term:
    return _demos(
        normalizer=TokenMean("open"), coefficient=coefficient, gate=Gate(Switch(gamma), "sft")
    )


@register(
    "hpt_official",
    "HPT, as coded",
    "github.com/TsinghuaC3I/Unify-Post-Training, exp_scripts/train.sh",
    note=(
        "Against hpt: no std, no clip, RL token sum over L without a count of samples, averaged "
        "over devices; SFT: mean over all gated demonstrations' tokens; a set of one reward is "
        "not centred. Entropy bonus and norm-80 skip belong to the training loop. " + _LENGTH_NOTE
    ),
    gamma=_GAMMA,
    sft_coefficient=Option(1.0, "official scripts: 1.0 (Qwen 7B, LLaMA), 0.3 (Qwen 1.5B)"),
    devices=_DEVICES,
)
def _hpt_official(gamma: float, sft_coefficient: float, devices: float) -> Terms:
    return (_official_rl(gamma, devices), _official_sft(gamma, sft_coefficient))


@register(
    "hpt_global_token",
    "HPT, one token count",
    "this package: eq. 13 with both losses as token sums over the tokens of both",
    note="Â without std; rollouts of gated questions and unused demonstrations don't count.",
    gamma=_GAMMA,
    clip=_CLIP,
)
def _hpt_global_token(gamma: float, clip: float) -> Terms:
    return _one_token_count(Switch(gamma), clip)


def _one_token_count(gate: Feedback, clip: float) -> Terms:
    joint = TokenMean("joint")
    return (
        _rollouts(
            advantage=GroupCentered(),
            normalizer=joint,
            stabilization=Clip(clip, clip),
            gate=Gate(gate, "rl"),
        ),
        _demos(normalizer=joint, gate=Gate(gate, "sft")),
    )


_STUDY = "this package, study mixing: "


@register(
    "hpt_wiener",
    "HPT, Wiener weights",
    "this package: hpt_global_token with the weights that estimate ∇J_μ best given P and n",
    note=(
        "Both losses act on every question with a demonstration, one of which is assumed. α and β "
        "follow from upge.feedback.Wiener's model of rollouts and demonstrations, for one step; in "
        "the study the switch ends ahead after many."
    ),
    mu=Option(0.5, _STUDY + "within 5 % of the best gate's gain in E[r] at every length of a step"),
    noise=Option(
        3.0, _STUDY + "nearly flat: 0.3 to 30 differ by 1 % of the gain on the development cases"
    ),
    novelty=Option(0.25, _STUDY + "between what suits E[r] after finite steps (0) and ∇J_μ (0.5)"),
    prior_solved=Option(0.5, "Jeffreys' prior of a success rate"),
    prior_failed=Option(0.5, "Jeffreys' prior of a success rate"),
    clip=_CLIP,
)
def _hpt_wiener(
    mu: float, noise: float, novelty: float, prior_solved: float, prior_failed: float, clip: float
) -> Terms:
    return _one_token_count(Wiener(mu, noise, novelty, prior_solved, prior_failed), clip)


def _gated_off_policy(gamma: float, shaping: float, devices: float) -> Term:
    term = _official_off_policy("offline", shaping, devices)
    return replace(term, gate=Gate(Switch(gamma), "sft"))


_OFF_NOTE = (
    "A gated question's demonstrations form a group of their own, so a single one has Â = R. "
    + _LENGTH_NOTE
)


@register(
    "off_on",
    "OFF/ON",
    "paper, Table 5; the official code's off-policy branch",
    note=_OFF_NOTE,
    gamma=_GAMMA,
    shaping=_SHAPING,
    devices=_DEVICES,
)
def _off_on(gamma: float, shaping: float, devices: float) -> Terms:
    return (_official_rl(gamma, devices), _gated_off_policy(gamma, shaping, devices))


@register(
    "mix_on",
    "Mix/ON",
    "paper, Table 5; the official code's mixed branch",
    note=_OFF_NOTE,
    gamma=_GAMMA,
    sft_coefficient=Option(0.1, "official scripts"),
    off_coefficient=Option(1.0, "official scripts"),
    shaping=_SHAPING,
    devices=_DEVICES,
)
def _mix_on(
    gamma: float, sft_coefficient: float, off_coefficient: float, shaping: float, devices: float
) -> Terms:
    off_policy = _gated_off_policy(gamma, shaping, devices)
    return (
        _official_rl(gamma, devices),
        _official_sft(gamma, sft_coefficient),
        replace(off_policy, coefficient=off_coefficient * off_policy.coefficient),
    )
