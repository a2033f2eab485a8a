"""EvaluationResult: the measurements of one evaluation. Torch-free."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

from speculators.runfolder.folder import RunFolder, read_object


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
        source: file or data set of the prompts, if they are those of evaluation.data.
        trained_on: of these, the places of prompts that are trained on as well; None if that is unknown.
        evaluation_data: the same measurements on the prompts of evaluation.data; the objective of both is measured there.
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
    source: str | None = None
    trained_on: list[str] | None = None
    evaluation_data: "EvaluationResult | None" = None

    @property
    def each(self) -> list["EvaluationResult"]:
        """This result, and after it that on the prompts of evaluation.data if there is one."""
        return [self, *([self.evaluation_data] if self.evaluation_data else [])]

    def as_json(self) -> dict[str, Any]:
        """Its values by name, without the texts."""
        values = {name: value for name, value in vars(self).items() if name not in TEXTS}
        own = self.evaluation_data
        return values | {"evaluation_data": None if own is None else own.as_json()}


def between(interval: Sequence[float] | None) -> str:
    """An interval of an acceptance length in words, to be appended to the number; empty if there is none."""
    return "" if interval is None else f" (95 %: {interval[0]:.2f} to {interval[1]:.2f})"


# The texts, which are in generations.jsonl, by their keys there.
TEXTS = {"prompts": "prompt", "tokens": "tokens", "rounds": "accepted"}


def load_result(folder: str | PathLike[str]) -> EvaluationResult:
    """Read the measurements of an evaluated run.

    Args:
        folder: of the run, or the output of `speculators evaluate`.

    Raises:
        ValueError: there is no result, or one of its files is broken.
    """
    own = RunFolder(Path(folder))
    if not own.result.is_file():
        raise ValueError(f"{folder}: there is no {own.result.name}; give the folder of a run that was evaluated")
    result = _with_texts(read_object(own.result, EvaluationResult), own.generations)
    if result.evaluation_data is None:
        return result
    return replace(result, evaluation_data=_with_texts(result.evaluation_data, own.data_generations))


def _with_texts(result: EvaluationResult, file: Path) -> EvaluationResult:
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        texts: dict[str, Any] = {name: [row.get(key, []) for row in rows] for name, key in TEXTS.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{file}: it cannot be read ({error}); evaluate the draft again") from error
    return replace(result, **texts)
