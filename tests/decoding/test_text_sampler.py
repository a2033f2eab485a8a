"""Sampled texts: the right distribution, and the same text alone, in a batch and in another order."""

import pytest
import torch

from speculators.composition.compose import compose
from speculators.decoding.generate import plain
from speculators.decoding.text_sampler import TextSampler
from speculators.verifier.in_process import Verifier

CPU = torch.device("cpu")
LOGITS_V = torch.tensor([2.0, 0.0, -torch.inf, 1.0, 0.5])


def frequencies(temperature: float, count: int = 20_000) -> torch.Tensor:
    """How often each token is the first of a text, over as many texts."""
    sampler = TextSampler(temperature, 3, [[n] for n in range(count)], 1, CPU)
    return torch.bincount(sampler.choose(LOGITS_V.expand(count, -1)), minlength=5) / count


def fits(found_V: torch.Tensor, expected_V: torch.Tensor, count: int = 20_000) -> bool:
    """Within four standard deviations of each token's share."""
    return bool(((found_V - expected_V).abs() <= 4 * (expected_V * (1 - expected_V) / count).sqrt()).all())


def test_tokens_are_as_frequent_as_they_are_probable() -> None:
    """At two temperatures; another temperature is told apart, and what has no chance never comes."""
    for temperature in (1.0, 0.6):
        assert fits(frequencies(temperature), (LOGITS_V / temperature).softmax(-1))
    assert not fits(frequencies(1.0), (LOGITS_V / 1.1).softmax(-1))
    assert frequencies(1.0)[2] == 0


def test_tokens_of_a_text_are_independent() -> None:
    """The second token does not follow from the first: pairs are as frequent as the product says."""
    sampler = TextSampler(1.0, 3, [[n] for n in range(20_000)], 2, CPU)
    logits_BV = torch.zeros(20_000, 3)
    first, second = sampler.choose(logits_BV), sampler.choose(logits_BV)
    assert fits(torch.bincount(3 * first + second, minlength=9) / 20_000, torch.full((9,), 1 / 9))


@pytest.fixture(scope="module")
def verifier() -> Verifier:
    """The embedded one."""
    return Verifier.load(compose([]).verifier, CPU)


def test_a_text_is_its_prompts_and_the_seeds(verifier: Verifier) -> None:
    """Alone, among others that end earlier, in another order; another seed writes another."""
    prompts = [[5, 6, 7], [5, 6, 8], [9] * 12, [30, 40]]

    def answers(some: list[list[int]], seed: int = 1, batch: int = 4) -> dict[tuple[int, ...], list[int]]:
        written = plain(verifier, some, 24, batch, lambda chosen: TextSampler(0.8, seed, chosen, 24, CPU))
        return dict(zip(map(tuple, some), written, strict=True))

    together = answers(prompts)
    assert together == answers(prompts[::-1]) == answers(prompts, batch=1)
    assert answers(prompts, seed=2) != together and len({tuple(a) for a in together.values()}) == 4
