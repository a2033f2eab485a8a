"""What an evaluation came to. Torch-free."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EvaluationResult:
    """What decoding with a draft came to; counted as vLLM counts.

    Attributes:
        objective: what evaluation.objective names.
        acceptance_length: 1 + accepted / drafts, tokens per pass of the verifier.
        acceptance_per_position: share of drafts of which a token was accepted at level k = 1, 2, ...: k tokens in all.
        speculative_tokens: drafted tokens that a pass judges, at most.
        num_prompts: prompts decoded.
        max_new_tokens: limit of each text.
        drafts: drafts that the verifier judged, over all prompts.
        drafted: drafted tokens that the verifier judged.
        accepted: drafted tokens accepted.
        generated: tokens of all texts.
        matches_plain_decoding: every text is the verifier's own, ties aside; None where it was sampled or `lossy`.
        ties: texts that leave the verifier's own where its two largest logits lie within evaluation.tie_epsilon.
        lossy: which setting of the proposal makes the text differ from the verifier's own; None if none does.
        tokens_per_second: generated tokens a second with the draft.
        plain_tokens_per_second: without it, in the same loop.
        prompts, tokens: token ids of each prompt and of the text decoded with the draft.
    """

    objective: float
    acceptance_length: float
    acceptance_per_position: list[float]
    speculative_tokens: int
    num_prompts: int
    max_new_tokens: int
    drafts: int
    drafted: int
    accepted: int
    generated: int
    matches_plain_decoding: bool | None
    ties: int
    lossy: str | None
    tokens_per_second: float
    plain_tokens_per_second: float
    prompts: list[list[int]]
    tokens: list[list[int]]
