"""What weights hold beside the policy term: a KL penalty, an entropy bonus, the sampler."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from upge.advantage import KLGradient
from upge.common.errors import UpgeError
from upge.estimator import KL_GRADIENTS, Estimator, Term
from upge.normalization import NORMALIZERS, Counted, Normalizer
from upge.stabilization import Correction
from upge.testing.components import PaddedMean
from upge.testing.curves import Curve, read_curves, snap
from upge.testing.designs import pairs, random_batch
from upge.testing.inputs import Inputs
from upge.testing.reader import Composed, Reader, agree, over_zero
from upge.testing.report import Reading
from upge.testing.scale import Scale

Anchor = Literal["reference", "teacher"]
_ANCHORS: dict[str, Anchor] = {"ref_logp": "reference", "teacher_logp": "teacher"}

#: Gradients of KL penalties by mistake: ψ(k, r) of w = −β ψ, and what is wrong.
_WRONG_KL: tuple[tuple[str, str, Callable[[Tensor, Tensor], Tensor]], ...] = (
    ("e^k − 1: k3 of the reversed ratio", "kl_reversed", lambda k, r: torch.expm1(k)),
    ("sign(k): |k| differentiated", "kl", lambda k, r: k.sign()),
    ("k e^k: KL of the reversed policies", "kl", lambda k, r: k * k.exp()),
    ("r (1 − e^−k): k3 times r without its gradient", "kl", lambda k, r: -r * torch.expm1(-k)),
    ("r k3 + r (1 − e^−k)", "kl", lambda k, r: r * (torch.expm1(-k) + k) - r * torch.expm1(-k)),
)


@dataclass(frozen=True)
class Kl:
    """A KL term: its β over the policy term's coefficient, and how it is differentiated."""

    beta: float
    gradient: str
    to: Anchor
    normalizer: Normalizer
    error: float


def kl_batches(reader: Reader) -> list[Inputs]:
    """Batches with Â = 0, of ragged rows whose reference is near and far."""
    equal = reader.subject.has_equal_groups
    return [
        reader.neutral(reader.sided(random_batch(20 + i, spread=s, equal_groups=equal), "online"))
        for i, s in enumerate((0.1, 0.6, 1.0))
    ]


def read_kl(reader: Reader, scale: Scale) -> tuple[Kl | None, Reading | None]:
    """The KL term in what is left of the weights where Â = 0."""
    anchors = [name for name in _ANCHORS if name in reader.asks]
    if not anchors and "inputs" not in reader.asks:
        return None, None
    batches = kl_batches(reader)
    measured = [reader.subject.weights(inputs) for inputs in batches]
    if not any(w.any() for w in measured):
        return None, None
    best = math.inf
    for name in anchors or ["ref_logp"]:
        to = _ANCHORS[name]
        for gradient, (reference, psi) in KL_GRADIENTS.items():
            for normalizer in _normalizers_for(scale):
                term = Term("online", reference, KLGradient(psi, to), normalizer)
                model = Composed(Estimator((term,)), handed=False, has_length=scale.has_length)
                found = agree(
                    [(w, model.weights(x)) for w, x in zip(measured, batches, strict=True)]
                )
                best = min(best, found.error)
                if found.error <= reader.tolerance:
                    beta = snap(found.factor / scale.factor, reader.rounding)
                    kl = Kl(beta, gradient, to, normalizer, found.error)
                    return kl, _kl_reading(kl, scale)
    return None, _wrong_kl(reader, batches, measured, scale, best)


def _normalizers_for(scale: Scale) -> list[Normalizer]:
    others = [kind() for kind in NORMALIZERS.values() if kind is not type(scale.normalizer)]
    return [scale.normalizer, *others]


def _kl_reading(kl: Kl, scale: Scale) -> Reading:
    words = {
        "k1": "k differentiated: nothing in expectation",
        "k2": "k²/2 differentiated: ∇KL(π_θ‖π_ref) on-policy",
        "k3": "k3 differentiated: ∇KL(π_ref‖π_θ) on-policy",
        "r*k1": "r·k differentiated",
        "r*k3": "r·k3 differentiated: w ∝ r k",
    }.get(kl.gradient, kl.gradient)
    other = "" if kl.normalizer == scale.normalizer else f", over {kl.normalizer.text}"
    target = "" if kl.to == "reference" else " to the teacher"
    faults = ("kl_sign",) if kl.beta < 0 else ()
    return Reading(
        "kl", f"β = {kl.beta:.10g}{target}, {kl.gradient}: {words}{other}", kl.error, faults
    )


def _wrong_kl(
    reader: Reader,
    batches: list[Inputs],
    measured: list[Tensor],
    scale: Scale,
    best: float,
) -> Reading:
    for words, fault, psi in _WRONG_KL:
        for normalizer in _normalizers_for(scale):
            predicted = [_psi_weights(psi, normalizer, x, scale) for x in batches]
            found = agree(list(zip(measured, predicted, strict=True)))
            if found.error <= reader.tolerance:
                beta = snap(found.factor / scale.factor, reader.rounding)
                return Reading("kl", f"β = {beta:.10g}, w = −β ({words})", found.error, (fault,))
    return Reading(
        "kl",
        "a term of its own beside Â",
        undecided=f"no known KL gradient gives its weights (nearest: off by {best:.2g})",
    )


def _psi_weights(
    psi: Callable[[Tensor, Tensor], Tensor], normalizer: Normalizer, x: Inputs, scale: Scale
) -> Tensor:
    batch = x.batch(scale.has_length)
    read = Counted(batch.tokens_of("online"), batch.rows_of("online"))
    values = -psi(x.logp - x.ref_logp, (x.logp - x.old_logp).exp()) * normalizer(batch, read, read)
    return torch.where(x.mask, values, 0.0)


# ------------------------------------------------------------------------------------ the entropy


def read_entropy(reader: Reader, scale: Scale) -> tuple[float, Reading | None]:
    """The entropy bonus over the policy term's coefficient, and its reading."""
    if not reader.asks & {"entropy", "logits", "model"}:
        return 0.0, None
    equal = reader.subject.has_equal_groups
    batches = [
        reader.sided(random_batch(30 + i, spread=0.01, equal_groups=equal), "online")
        for i in range(3)
    ]
    measured = []
    for inputs in batches:
        found_there = reader.subject.measure(inputs).entropy_weights
        if found_there is None:
            return 0.0, None
        measured.append(torch.where(inputs.mask, found_there, 0.0))
    largest = max(float(w.abs().max()) for w in measured)
    if largest <= 1e-9 * abs(scale.factor):
        return 0.0, None
    known: list[Normalizer] = [kind() for kind in NORMALIZERS.values()]
    for normalizer in [NORMALIZERS["token_mean"](), *known, PaddedMean()]:
        predicted = []
        for inputs in batches:
            batch = inputs.batch(scale.has_length)
            read = Counted(batch.tokens_of("online"), batch.rows_of("online"))
            predicted.append(normalizer(batch, read, read).expand(inputs.mask.shape) * inputs.mask)
        found = agree(list(zip(measured, predicted, strict=True)))
        if found.error <= max(reader.tolerance, 1e-8):
            bonus = snap(found.factor / scale.factor, max(1e-8, reader.rounding))
            faults = ("entropy_sign",) if bonus < 0 else ()
            text = f"c = {bonus:.10g}, over {normalizer.text}"
            return bonus, Reading("entropy", text, found.error, faults)
    return 0.0, Reading(
        "entropy",
        "a bonus",
        undecided="no known normalizer gives its weights on the entropies",
    )


# ------------------------------------------------------------------------------------ the sampler


def read_correction(reader: Reader, scale: Scale) -> tuple[Correction | None, Reading | None]:
    """What makes up for the sampler: w against ρ = π_θold/π_sampler at ratio 1."""
    if "sampler_logp" not in reader.asks:
        return None, None
    measured = _sampler_fits(reader)
    if all(bool(((ratio - 1).abs() < reader.tolerance).all()) for _, ratio in measured):
        return None, Reading("correction", "none: the sampler's log-probabilities change nothing")
    curves = read_curves(_sampler_response(reader), reader.noise)
    bounds = sorted(
        {snap(math.exp(x), reader.rounding) for c in curves if c is not None for x in c.breaks}
    )
    best = math.inf
    for level in ("token", "sequence", "geometric"):
        for rule in ("truncate", "mask", "reject"):
            for low in (0.0, *bounds):
                for high in (math.inf, *bounds):
                    try:
                        correction = Correction(level, rule, low, high)
                    except UpgeError:
                        continue
                    error = _correction_error(correction, measured)
                    best = min(best, error)
                    if error <= reader.tolerance:
                        return correction, Reading("correction", correction.text, error)
    return None, _other_correction(curves, measured, reader, best)


def _sampler_response(reader: Reader) -> Callable[[Tensor], Tensor]:
    """W against ρ over w at ρ = 1, for either sign of Â; ρ is upside down for some."""

    def at(x: Tensor) -> Tensor:
        inputs = reader.sided(pairs(torch.zeros(len(x), 1, dtype=torch.float64), -8.0), "online")
        rho = x.repeat_interleave(2)[:, None]
        return reader.policy_weights(inputs.with_(sampler_logp=inputs.old_logp - rho)).view(-1, 2)

    return over_zero(at)


def _sampler_fits(reader: Reader) -> list[tuple[Inputs, Tensor]]:
    gen = torch.Generator().manual_seed(11)
    fits = []
    for size in (0.05, 0.5, 1.2):
        rho = size * torch.randn(12, 3, generator=gen, dtype=torch.float64)
        inputs = reader.sided(pairs(torch.zeros_like(rho), -8.0), "online")
        base = reader.policy_weights(inputs)
        inputs = inputs.with_(sampler_logp=inputs.old_logp - rho.repeat_interleave(2, 0))
        ratio = reader.policy_weights(inputs) / torch.where(base == 0, torch.nan, base)
        fits.append((inputs, ratio.nan_to_num(1.0)))
    return fits


def _correction_error(correction: Correction, fits: list[tuple[Inputs, Tensor]]) -> float:
    worst = 0.0
    for inputs, measured in fits:
        batch = inputs.batch()
        at_one = correction(replace(batch, sampler_logp=batch.old_logp))
        predicted = correction(batch).expand(measured.shape)
        if not bool((at_one == 1).all()):
            return math.inf
        rest = (measured - predicted).abs() / (measured.abs() + 1e-3)
        worst = max(worst, float(rest.max()))
    return worst


def _other_correction(
    curves: tuple[Curve | None, Curve | None],
    fits: list[tuple[Inputs, Tensor]],
    reader: Reader,
    best: float,
) -> Reading:
    curve = curves[0] or curves[1]
    text = "" if curve is None else curve.text().replace("r", "ρ")
    inverse = [
        (x.with_(sampler_logp=x.old_logp, old_logp=x.sampler_logp), ratio) for x, ratio in fits
    ]
    single = [piece for piece in (() if curve is None else curve.pieces) if piece.power == -1]
    if single and len(inverse):
        return Reading("correction", text, faults=("correction_upside_down",))
    return Reading(
        "correction",
        f"single tokens are weighed by {text}" if text else "reads the sampler",
        undecided=f"no known level and rule give its weights (nearest: off by {best:.2g})",
    )
