"""What a loss may ask for, by the names that trainers give it."""

from __future__ import annotations

from collections.abc import Mapping

from upge.common.errors import unknown

#: Names in use (TRL, verl, OpenRLHF, SkyRL, AReaL, Trinity-RFT, oxRL, Liger, NeMo-RL, prime-rl,
#: slime, open-instruct), by what is meant.
ALIASES: dict[str, tuple[str, ...]] = {
    "logp": (
        "log_prob", "log_probs", "logprob", "logprobs", "logps", "log_p", "log_pi", "logpi",
        "per_token_logps", "new_log_prob", "new_log_probs", "new_logprobs", "new_logps", "new_logp",
        "policy_logp", "policy_logps", "policy_logprobs", "policy_log_probs", "action_log_probs",
        "cur_log_probs", "current_logprobs", "curr_logprobs", "current_log_probs", "logprobs_new",
        "log_probs_new", "token_log_probs", "token_logprobs", "trainer_logprobs", "pi_logprobs",
        "theta_logps", "completion_logps", "chosen_token_logps",
    ),
    "old_logp": (
        "old_log_prob", "old_log_probs", "old_logprob", "old_logprobs", "old_logps",
        "old_per_token_logps", "logprobs_old", "log_probs_old", "proximal_logprobs", "prox_logp",
        "old_action_log_probs", "prev_logprobs", "previous_logprobs", "old_policy_logprobs",
        "log_pi_old", "logp_old", "logps_old", "fixed_log_probs",
    ),
    "sampler_logp": (
        "rollout_log_prob", "rollout_log_probs", "rollout_logprobs", "rollout_logp",
        "sampling_per_token_logps", "sampling_logprobs", "sampler_logprobs", "sampler_logps",
        "inference_logprobs", "generation_logprobs", "vllm_logprobs", "vllm_logps",
        "behavior_logprobs", "behaviour_logprobs", "behavior_logps", "behavior_logp",
        "behav_logprobs", "mu_logprobs", "engine_logprobs",
    ),
    "ref_logp": (
        "ref_log_prob", "ref_log_probs", "ref_logprob", "ref_logprobs", "ref_logps",
        "ref_per_token_logps", "reference_logprobs", "reference_logps", "reference_log_probs",
        "log_probs_ref", "logprobs_ref", "logp_ref", "base_logprobs", "base_log_probs",
        "base_action_log_probs",
    ),
    "teacher_logp": (
        "teacher_log_prob", "teacher_log_probs", "teacher_logprob", "teacher_logprobs",
        "teacher_logps", "teacher_per_token_logps",
    ),
    "advantage": ("advantages", "adv", "advs", "token_advantages", "adv_estimates"),
    "reward": (
        "rewards", "scores", "score", "outcome_rewards", "rewards_per_sequence", "token_rewards",
        "token_level_rewards", "token_level_scores", "returns_per_sequence",
    ),
    "reward_parts": ("rewards_per_func", "reward_components"),
    "group": (
        "groups", "index", "uid", "uids", "group_id", "group_ids", "group_index", "group_idx",
        "prompt_index", "prompt_idx", "prompt_id", "question", "questions", "question_ids",
    ),
    "group_size": (
        "num_generations", "n_samples_per_prompt", "samples_per_prompt", "n_rollouts",
        "num_rollouts", "rollout_n", "n_samples", "num_return_sequences",
    ),
    "mask": (
        "response_mask", "completion_mask", "loss_mask", "action_mask", "eos_mask", "masks",
        "token_mask", "response_masks", "completion_masks", "action_masks", "label_mask",
        "assistant_mask", "sequence_mask", "padding_mask_inverted",
    ),
    "offline": (
        "prefix_mask", "is_demo", "demo_mask", "is_offline", "off_policy_mask", "offline_mask",
        "is_expert", "expert_mask", "is_demonstration", "demonstration_mask", "sft_mask",
    ),
    "online": ("on_policy_mask", "online_mask", "is_online"),
    "values": ("value", "old_values", "value_preds", "baseline_values"),
    "entropy": (
        "entropies", "per_token_entropy", "token_entropy", "entropys", "per_token_entropies",
        "token_entropies",
    ),
    "logits": ("policy_logits", "shift_logits", "lm_logits", "vocab_logits"),
    "tokens": (
        "labels", "input_ids", "targets", "target_ids", "token_ids", "completion_ids", "responses",
        "response_ids", "selected_token_ids", "target_tokens", "shift_labels",
    ),
    "attention": ("attention_mask",),
    "model": ("policy_model", "policy", "lm", "actor"),
    "inputs": ("batch", "data", "micro_batch", "minibatch", "sample", "samples"),
    "max_length": (
        "max_completion_length", "max_response_length", "max_tokens", "max_len", "response_length",
        "generate_max_len", "loss_scale_factor", "max_new_tokens", "max_seq_len",
    ),
    "batch_tokens": (
        "num_items_in_batch", "batch_num_tokens", "num_tokens", "total_tokens", "n_tokens",
        "global_num_tokens", "global_valid_toks", "num_total_tokens", "loss_denominator",
        "total_response_tokens", "global_tokens", "global_token_count", "token_count",
    ),
    "batch_rows": (
        "global_batch_size", "num_sequences", "global_valid_seqs", "num_samples", "num_rows",
        "global_num_samples", "total_sequences", "num_trajectories", "batch_size",
    ),
    "ranks": (
        "dp_size", "world_size", "num_processes", "data_parallel_size", "n_ranks", "num_ranks",
    ),
    "parts": (
        "gradient_accumulation_steps", "num_micro_batches", "num_microbatches",
        "accumulation_steps", "grad_accum_steps", "current_gradient_accumulation_steps",
    ),
}  # fmt: skip

#: Each name, its own included, and what it means.
QUANTITIES: dict[str, str] = {
    name: quantity for quantity, names in ALIASES.items() for name in (quantity, *names)
}


def quantity_of(name: str, given: Mapping[str, str]) -> str | None:
    """What a parameter's name means; None if nobody calls anything so.

    Args:
        name: the parameter's.
        given: names of this callable alone, with what they mean.

    Raises:
        UpgeError: a meaning that there is not.
    """
    if name in given:
        meant = given[name]
        if meant not in QUANTITIES:
            raise unknown("quantity", meant, QUANTITIES)
        return QUANTITIES[meant]
    return QUANTITIES.get(name) or QUANTITIES.get(name.lower().strip("_"))


#: Quantities that are whole numbers: handed over even where the parameter's default is one.
COUNTS = frozenset({"group_size", "max_length", "batch_tokens", "batch_rows", "ranks", "parts"})

#: Parameters that only losses outside of the unified view have, by the kind of loss.
OUTSIDE: dict[str, tuple[str, ...]] = {
    "a loss of pairs (DPO and its kin)": ("chosen", "rejected", "chosen_logps", "rejected_logps"),
    "a value loss": ("vpreds", "vpred", "value_pred", "returns", "cliprange_value", "new_values"),
    "a loss of whole distributions (distillation of logits)": (
        "teacher_logits", "student_logits", "ref_logits", "teacher_probs", "teacher_input",
    ),
}  # fmt: skip

#: How a report calls each.
WORDS: dict[str, str] = {
    "logp": "log π_θ",
    "old_logp": "log π_θold",
    "sampler_logp": "log π_sampler",
    "ref_logp": "log π_ref",
    "teacher_logp": "log π_T",
    "advantage": "Â",
    "reward": "R",
    "reward_parts": "parts of R",
    "group": "question",
    "group_size": "rollouts a question",
    "mask": "response tokens",
    "offline": "demonstrations",
    "online": "rollouts",
    "values": "V",
    "entropy": "H",
    "logits": "logits",
    "tokens": "token ids",
    "attention": "attention mask",
    "model": "model",
    "inputs": "all by name",
    "max_length": "longest response",
    "batch_tokens": "tokens of the batch",
    "batch_rows": "rows of the batch",
    "ranks": "processes",
    "parts": "micro-batches",
}
