"""Components in LaTeX, from the plain characters that they have themselves."""

from __future__ import annotations

import re

from upge.component import Component
from upge.normalization import NORMALIZERS, Normalizer
from upge.stabilization import RatioCap

_GROUPS = {"Gon": "G_{on}", "Goff": "G_{off}", "Gon∪Goff": r"G_{on}\cup G_{off}"}

#: By text; of normalizers by name.
_LATEX = {
    "": "",
    "1": "1",
    # π_ref
    "π_θ": r"\pi_\theta",
    "π_θold": r"\pi_{\theta_{old}}",
    "π_θ·(π_θold(τ|q)/π_θ(τ|q))^(1/|τ|)": (
        r"\pi_\theta \left(\tfrac{\pi_{\theta_{old}}(\tau|q)}{\pi_\theta(\tau|q)}\right)"
        r"^{1/|\tau|}"
    ),
    # Â
    "R": r"R(\tau)",
    "±1": r"\pm 1",
    "GAE": r"\hat A_{GAE}",
    "R − mean of others": r"R_i-\tfrac{1}{n-1}\sum_{j\neq i}R_j",
    "(R − mean_batch)/std_batch": r"\tfrac{R-\mathrm{mean}_{batch}}{\mathrm{std}_{batch}}",
    "(c − mean_batch)/std_batch, c = R − mean_Gon": (
        r"\tfrac{c-\mathrm{mean}_{batch}}{\mathrm{std}_{batch}},\ c=R-\mathrm{mean}_{G_{on}}"
    ),
    # 1_stable
    "1_Clip": r"\mathbf{1}_{Clip}",
    "1_Seq-Clip": r"\mathbf{1}_{Seq\text{-}Clip}",
    "1_Dual-Clip": r"\mathbf{1}_{Dual\text{-}Clip}",
    "1_CIS-Mask": r"\mathbf{1}_{CIS\text{-}Mask}",
    "clip(r)/r": r"\tfrac{\mathrm{clip}(r,\,low,\,high)}{r}",
    "4σ(1−σ)": r"4\,\sigma_\tau(r-1)\,(1-\sigma_\tau(r-1))",
    "1_Clip·∏(clip(r)/r)^(1/|τ|)": (
        r"\mathbf{1}_{Clip}\prod_s\left(\tfrac{\mathrm{clip}(r_s)}{r_s}\right)^{1/|\tau|}"
    ),
    # f'
    "f'_shape": r"f'_{shape}(\pi_\theta)",
    "(1−π_θ)": r"(1-\pi_\theta)",
    "e^H": r"e^{H}",
    "e^−H": r"e^{-H}",
    # 1/Z
    "token_sum": r"\sum_\tau\sum_t",
    "token_mean": r"\tfrac{1}{\sum|\tau|}\sum_\tau\sum_t",
    "trajectory_mean": r"\tfrac1N\sum_\tau\sum_t",
    "sequence_mean": r"\tfrac1N\sum_\tau\tfrac1{|\tau|}\sum_t",
    "fixed_length": r"\tfrac1N\sum_\tau\tfrac1{L_{max}}\sum_t",
    "length_sum": r"\tfrac1{L_{max}}\sum_\tau\sum_t",
    "question_sum": r"\tfrac1Q\sum_q\tfrac1{n_q}\sum_\tau\sum_t",
    "question_mean": r"\tfrac1Q\sum_q\tfrac1{n_q}\sum_\tau\tfrac1{|\tau|}\sum_t",
    # α, β
    "1{P > γ}, 1 − α": r"\alpha=\mathbf 1\{P>\gamma\},\ \beta=1-\alpha",
    "P, 1 − P": r"\alpha=P,\ \beta=1-P",
    "σ(k(P − γ)), 1 − α": r"\alpha=\sigma(k(P-\gamma)),\ \beta=1-\alpha",
    "Wiener weights of ∇J_μ given P and n": (
        r"(\alpha,\beta)=\arg\min\mathbb{E}[\Vert\alpha g_{RL}+\beta g_{SFT}"
        r"-\nabla\mathcal{J}_\mu\Vert^2\mid P,n]"
    ),
}


def latex(component: Component) -> str:
    """The component as Table 1 would print it.

    Raises:
        KeyError: nobody has written its LaTeX yet.
    """
    if isinstance(component, Normalizer):
        name = next(name for name, kind in NORMALIZERS.items() if kind is type(component))
        return _LATEX[name]
    if isinstance(component, RatioCap):
        return rf"{latex(component.inner)}\,\tfrac{{\min(r,\,{component.cap:g})}}{{r}}"
    text = component.text
    if text in _LATEX:
        return _LATEX[text]
    if found := re.fullmatch(r"\(R − mean_(.+)\)/std_\1", text):
        group = _GROUPS[found[1]]
        return rf"\tfrac{{R-\mathrm{{mean}}_{{{group}}}}}{{\mathrm{{std}}_{{{group}}}}}"
    if found := re.fullmatch(r"\(R − mean_(.+)\)/mean_\1", text):
        mean = rf"\mathrm{{mean}}_{{{_GROUPS[found[1]]}}}"
        return rf"\tfrac{{R-{mean}}}{{{mean}}}"
    if found := re.fullmatch(r"R − mean_(\S+)", text):
        return rf"R-\mathrm{{mean}}_{{{_GROUPS[found[1]]}}}"
    if found := re.fullmatch(r"\{(\S+), (\S+)\}", text):
        return rf"\{{{found[1]},\,{found[2]}\}}"
    return _LATEX[text]
