"""EvaluationResult: the measurements of one evaluation. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class EvaluationResult:
    """Measurements of decoding with a draft, with vLLM's definitions of the counters.

    Attributes:
        objective: the value of evaluation.objective.
        acceptance_length: 1 + accepted / drafts, tokens per pass of the verifier.
        acceptance_per_position: share of drafts of which a token was accepted at level k = 1, 2, ...: k tokens in all.
        speculative_tokens: maximum number of drafted tokens that one pass verifies.
        num_prompts: prompts decoded.
        max_new_tokens: limit of each text.
        drafts: drafts that were verified, over all prompts.
        drafted: drafted tokens that were verified.
        accepted: drafted tokens accepted.
        generated: tokens of all texts.
        matches_plain_decoding: every token of every text is the verifier's own choice, apart from ties; None if sampled
            or `lossy`.
        ties: tokens that are not the verifier's most likely one, but within evaluation.tie_epsilon of it.
        lossy: the setting of the proposal that makes decoding lossy; None if it is lossless.
        tokens_per_second: generated tokens a second with the draft.
        plain_tokens_per_second: without it, in the same loop.
        prompts, tokens: token ids of each prompt and of the text decoded with the draft; result.json leaves out these lists.
        rounds: of each prompt, the drafted tokens that each draft had accepted; left out, too.
        acceptance_length_interval: 95 % bootstrap interval over prompts; None with one prompt, and in files of earlier
            versions.
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
    prompts: list[list[int]] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    rounds: list[list[int]] = field(default_factory=list)
    acceptance_length_interval: tuple[float, float] | None = None


def between(interval: Sequence[float] | None) -> str:
    """An interval of an acceptance length in words, to be appended to the number; empty if there is none."""
    return "" if interval is None else f" (95 %: {interval[0]:.2f} to {interval[1]:.2f})"
