"""The interval of an acceptance length: by hand, and how often it holds the true length."""

from collections.abc import Callable, Sequence

import pytest
import torch

from speculators.evaluate.interval import acceptance_interval


def test_two_prompts_by_hand() -> None:
    """Lengths 1 and 3, with as many drafts: a resample holds one of them twice in half of all cases, so both are the ends."""
    assert acceptance_interval([[0, 0], [2, 2]]) == (1.0, 3.0)
    assert acceptance_interval([[1, 0], [0, 1], [1, 0]]) == (1.5, 1.5)


def test_one_prompt_says_nothing_of_others() -> None:
    """And a prompt without any draft is no division by zero."""
    assert acceptance_interval([[1, 2, 3]]) is None
    assert acceptance_interval([[], []]) == (1.0, 1.0)
    assert acceptance_interval([[], [2]]) == (1.0, 3.0)


def test_it_is_the_same_every_time() -> None:
    """Also with torch's own generator elsewhere."""
    rounds = [[i % 3, i % 4] for i in range(10)]
    first = acceptance_interval(rounds)
    torch.rand(7)
    assert acceptance_interval(rounds) == first


def by_draft(rounds: Sequence[Sequence[int]]) -> tuple[float, float] | None:
    """The interval as it would be if drafts were independent, those of one prompt too."""
    return acceptance_interval([[n] for own in rounds for n in own])


@pytest.mark.parametrize(("interval", "covers"), [(acceptance_interval, True), (by_draft, False)])
def test_it_holds_the_true_length_as_often_as_it_says(
    interval: Callable[..., tuple[float, float]], covers: bool
) -> None:
    """Prompts whose drafts are alike: the interval over prompts holds the true length in about 95 % of samples, the one over
    drafts does not."""
    generator, held, samples = torch.Generator().manual_seed(3), 0, 100
    for _ in range(samples):
        # Half of the prompts are easy: of 5 tokens 4.5 are accepted on average, else 0.5.
        easy_P = torch.rand(40, generator=generator) < 0.5
        accepted_PN = torch.rand(40, 6, 5, generator=generator) < torch.where(easy_P, 0.9, 0.1)[:, None, None]
        low, high = interval(accepted_PN.sum(2).tolist())
        held += low <= 3.5 <= high
    assert (held / samples > 0.90) is covers
    assert held / samples < 0.99
