"""Tables 2, 3, 5 and 6: their comparisons, rows and names."""

from __future__ import annotations

from analysis.accuracy.table import Layout
from analysis.methods import METHODS

_GATES = {f"hpt_gamma_{right}": f"γ = {right}/8" for right in (1, 2, 4, 6)}

LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            name="table2",
            heading="Table 2: HPT and its baselines",
            comparisons=("table2",),
            rows=METHODS,
            focus=("hpt", "hpt_global_token"),
        ),
        Layout(
            name="table3",
            heading="Table 3: HPT and its baselines on two more base models",
            comparisons=("table3-weak", "table3-small"),
            rows=("base", "sft", "grpo", "sft_grpo", "luffy", "srft", "hpt", "hpt_global_token"),
            focus=("hpt", "hpt_global_token"),
            note="`tiny_weak` was pre-trained for fewer steps than Table 2's model, and its HPT "
            "has the gate that the paper uses for LLaMA; `tiny_small` has fewer parameters, and "
            "its HPT has Table 2's gate.",
        ),
        Layout(
            name="table5",
            heading="Table 5: off-policy RL or SFT where HPT turns to demonstrations",
            comparisons=("table5",),
            rows=("base", "off_on", "mix_on", "hpt_official"),
            focus=("hpt_official",),
            titles={"hpt_official": "SFT/ON"},
            note="A question without a correct rollout trains on its demonstration: by off-policy "
            "RL (OFF/ON), by off-policy RL and some SFT (Mix/ON) or by SFT (SFT/ON, which is Table "
            "2's HPT as coded). All three have the official code's normalizers, entropy bonus and "
            "skipped steps.",
        ),
        Layout(
            name="table6",
            heading="Table 6: HPT's gate, from RL alone to SFT alone",
            comparisons=("table6",),
            rows=("base", "rl_end", "hpt_global_token", *_GATES, "hpt_gamma_8"),
            focus=("hpt_global_token",),
            titles={
                "rl_end": "RL alone",
                "hpt_global_token": "γ = 0",
                **_GATES,
                "hpt_gamma_8": "γ = 8/8 (SFT alone)",
            },
            note="A question trains on its demonstration if at most a share γ of its rollouts is "
            "correct, and on these rollouts otherwise. γ = 0 is Table 2's HPT, one token count. RL "
            "alone has that row's advantage and normalizer but no demonstrations; SFT alone "
            "samples rollouts that decide nothing.",
        ),
    )
}
