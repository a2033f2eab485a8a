"""The plot of an evaluation, from a result made by hand."""

from speculators.composition.compose import compose
from speculators.evaluate.printout import bars_of
from speculators.runfolder.result import EvaluationResult

RESULT = EvaluationResult(
    objective=2.61, acceptance_length=2.61, acceptance_per_position=[0.8, 0.5, 0.31], speculative_tokens=3, num_prompts=4,
    max_new_tokens=16, drafts=100, drafted=300, accepted=161, generated=261, matches_plain_decoding=True, ties=0, lossy=None,
    tokens_per_second=300.2, plain_tokens_per_second=120.0, acceptance_length_interval=(2.4, 2.823),
)  # fmt: skip


def test_the_plot_names_what_was_measured() -> None:
    """Length and interval, algorithm, verifier and prompts in the title; a bar for each position."""
    (axes,) = bars_of(RESULT, compose(["algorithm=medusa"])).axes
    assert axes.get_title().splitlines() == [
        "acceptance length 2.61 (95 %: 2.40 to 2.82)",
        "medusa for tiny, 4 prompts of data=chat",
    ]
    assert [bar.get_height() for bar in axes.patches] == RESULT.acceptance_per_position
