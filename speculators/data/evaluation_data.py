"""The prompts of `evaluation.data`: decoded in an evaluation, but no part of the data that a draft is trained on."""

from dataclasses import dataclass

import numpy as np

from speculators.data.conversations import read
from speculators.data.prepare import Prompt, nothing, prompts_of
from speculators.data.template import ChatTemplate
from speculators.data.unused import Unused
from speculators.settings.run_config import RunConfig
from speculators.verifier.location import public_name

KEY = "evaluation.data"


@dataclass(frozen=True)
class EvaluationData:
    """Prompts to decode.

    Attributes:
        source: name of their file, folder, pattern or data set, without the folders of an absolute path.
        prompts: the prompts.
        trained_on: places of those prompts that are trained on as well; None if that is unknown.
    """

    source: str
    prompts: list[Prompt]
    trained_on: list[str] | None

    def __str__(self) -> str:
        count = f"{len(self.prompts)} prompts of {self.source}"
        if self.trained_on is None:
            return count
        first = f" (first: {self.trained_on[0]})" if self.trained_on else ""
        return f"{count}, {len(self.trained_on)} of them also in the training data{first}"


def evaluation_data(run: RunConfig, template: ChatTemplate, trained: np.ndarray | None) -> EvaluationData | None:
    """The first evaluation.num_prompts distinct prompts of a run's evaluation.data; None if the run has none.

    Args:
        run: the run.
        template: of its verifier.
        trained: hashes of the prompts that are trained on; None if they are unknown.

    Raises:
        ValueError: the source is missing or broken, or has no usable prompt.
    """
    source, unused = run.evaluation.data, Unused()
    if source is None or not run.evaluation.num_prompts:
        return None
    rows = read(source, KEY, unused, answered=False)
    found = prompts_of(rows, template, run.data.max_length, unused, run.evaluation.num_prompts)
    if not found:
        raise ValueError(nothing(unused, KEY))
    # The result is published, and a published file names no folders of the machine that it was made on.
    both = None if trained is None else [public_name(prompt.place) for prompt in found if prompt.hash in trained]
    return EvaluationData(public_name(str(source.path or source.name)), found, both)
