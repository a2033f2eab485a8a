"""A text is the verifier's own only if every one of its tokens is; a wrong one is found wherever it stands."""

import pytest
import torch

from speculators.decoding.generate import plain
from speculators.decoding.same_text import same_text, shortfall
from speculators.verifier.in_process import Verifier

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [20, 21], [30]]
LENGTH, EPSILON = 9, 1e-3


def test_a_shortfall_is_what_rounding_cannot_make() -> None:
    """By hand: bfloat16 has 7 bits behind the first, so twice its eps of a logit of 10 is 0.15625; float32's is nothing."""
    logits_NV = torch.tensor([[10.0, 3.0, 9.9375], [9.0, 10.0, -5.0], [1.0, 2.0, 3.0]])
    token_N = torch.tensor([2, 0, 2])
    torch.testing.assert_close(shortfall(logits_NV, token_N), torch.tensor([0.0625, 1.0, 0.0]), atol=1e-5, rtol=0)
    half_N = shortfall(logits_NV.bfloat16(), token_N)
    torch.testing.assert_close(half_N, torch.tensor([0.0, 1 - 0.15625, 0.0]))
    assert half_N.dtype == torch.float32


def test_a_wrong_token_is_found_wherever_it_stands(verifier: Verifier) -> None:
    """Plain decoding's texts pass; with any single token changed they do not, and that token is named."""
    texts = plain(verifier, PROMPTS, LENGTH, batch_size=3)
    assert same_text(verifier, PROMPTS, texts, LENGTH, EPSILON, 2) == same_text(
        verifier, PROMPTS, texts, LENGTH, EPSILON, 3
    )
    assert same_text(verifier, PROMPTS, texts, LENGTH, EPSILON, 2).wrong == []
    planted = [(row, place) for row in range(3) for place in range(LENGTH)]
    changed = [
        [*texts[row][:n], (texts[row][n] + 1) % len(verifier.head.embed_VH), *texts[row][n + 1 :]] for row, n in planted
    ]
    found = same_text(verifier, [PROMPTS[row] for row, _ in planted], changed, LENGTH, EPSILON, len(planted))
    first = dict(reversed(found.wrong))
    assert first == {text: n for text, (_, n) in enumerate(planted)}


def test_ties_are_counted_and_the_text_after_them_is_still_checked(verifier: Verifier) -> None:
    """With a large epsilon the second most likely token is a tie; an error behind it is found all the same."""
    first = verifier.head.logits(verifier.states(torch.tensor([PROMPTS[0]]), torch.arange(7)[None], ()).last_BTH)[0, -1]
    best, second = first.topk(2).indices.tolist()
    epsilon = float(first[best] - first[second]) * 1.01
    text = [second, *plain(verifier, [[*PROMPTS[0], second]], LENGTH - 1, 1)[0]]
    assert same_text(verifier, PROMPTS[:1], [text], LENGTH, 1e-6, 1).wrong == [(0, 0)]
    found = same_text(verifier, PROMPTS[:1], [text], LENGTH, epsilon, 1)
    assert found.wrong == [] and found.ties >= 1
    worst = int(first.argmin())
    assert (0, 4) in same_text(verifier, PROMPTS[:1], [[*text[:4], worst, *text[5:]]], LENGTH, epsilon, 1).wrong


def test_a_text_ends_where_the_verifier_ends_it(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that is cut short, or goes on after the end, is not the verifier's."""
    (text,) = plain(verifier, PROMPTS[:1], LENGTH, 1)
    assert same_text(verifier, PROMPTS[:1], [text[:-2]], LENGTH, EPSILON, 1).wrong == [(0, LENGTH - 2)]
    end = next(n for n in range(1, LENGTH) if text[n] not in text[:n])
    monkeypatch.setattr(verifier, "eos_ids", frozenset({text[end]}))
    assert same_text(verifier, PROMPTS[:1], [text[: end + 1]], LENGTH, EPSILON, 1).wrong == []
    beyond = [(0, n) for n in range(end + 1, LENGTH)]
    assert same_text(verifier, PROMPTS[:1], [text], LENGTH, EPSILON, 1).wrong == beyond
