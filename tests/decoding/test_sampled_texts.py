"""Temperature, top-k and top-p give the same texts with every way of drafting as without a draft."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from speculators.decoding.generate import Decoder, Speculation
from speculators.proposals import TokenProposalConfig
from speculators.proposals.method import ProposalMethod
from speculators.proposals.sampler import Sampler
from speculators.protocols.drafter import Context, Predictions
from speculators.verifier.in_process import Verifier

PROMPT, LENGTH, TEXTS = [5, 6, 7], 3, 5_000
TEMPERATURE, TOP_K, TOP_P = 0.8, 3, 0.9
TREE = {"branching_factor": 2, "depth": 2}
METHODS: dict[str, dict[str, object] | None] = {
    "no draft": None,
    "greedy": {"proposal_type": "greedy", "speculative_tokens": 2},
    "sampling": {"proposal_type": "sampling", "speculative_tokens": 2},
    "block": {"proposal_type": "sampling", "speculative_tokens": 2, "rejection_sample_method": "block"},
    "static tree": {"proposal_type": "static_tree", "initial_branching_factor": 3, **TREE},
    "dynamic tree": {"proposal_type": "dynamic_tree", "speculative_tokens": 6, "expansion_factor": 3, "depth": 2},
}


@dataclass
class Bigrams:
    """A drafter that knows the last token alone; `logits_VV` follow each."""

    logits_VV: Tensor

    def select(self, rows: Tensor) -> None:
        """It remembers nothing of a sequence."""

    def extend(self, context: Context, depth: int) -> Predictions:
        return Predictions(self.logits_VV[context.next_token_BT[:, -1:]])

    def expand(self, token_BN: Tensor, parent_BN: Tensor) -> Predictions:
        return Predictions(self.logits_VV[token_BN])


def after(verifier: Verifier, text: list[int], top_p: float) -> list[float]:
    """The verifier's next token after a text, with logits of one plain pass, cut by sorting."""
    tokens = torch.tensor([text])
    states = verifier.states(tokens, torch.arange(len(text))[None], ())
    probs = (verifier.head.logits(states.last_BTH)[0, -1].double() / TEMPERATURE).softmax(0).tolist()
    best = sorted(range(len(probs)), key=lambda token: -probs[token])[:TOP_K]
    total, kept = sum(probs[token] for token in best), 0.0
    law = [0.0] * len(probs)
    for token in best:
        if kept < top_p * total:
            law[token] = probs[token]
            kept += probs[token]
    return [p / kept for p in law]


def law_of_texts(verifier: Verifier, top_p: float) -> dict[tuple[int, ...], float]:
    """The probability of each text that is possible."""
    laws = {(): 1.0}
    for _ in range(LENGTH):
        laws = {
            (*text, token): chance * p
            for text, chance in laws.items()
            for token, p in enumerate(after(verifier, [*PROMPT, *text], top_p))
            if p > 0
        }
    return laws


@pytest.mark.parametrize("verifier", ["full"], indirect=True)
@pytest.mark.parametrize("name", METHODS)
def test_texts_have_the_law_of_the_cut_distribution(verifier: Verifier, name: str) -> None:
    """Pearson's test over all texts; a law with another top-p is rejected at the same size."""
    settings = METHODS[name]
    sampler = Sampler(TEMPERATURE, torch.Generator().manual_seed(1), TOP_K, TOP_P)
    logits_VV = torch.randn(40, 40, generator=torch.Generator().manual_seed(2)) * 2
    speculation = None
    if settings is not None:
        method = ProposalMethod.of(TokenProposalConfig.model_validate(settings), sampler)
        speculation = Speculation(method, lambda count: Bigrams(logits_VV), None)
    decoded = Decoder(verifier, sampler, LENGTH, speculation)([PROMPT] * TEXTS)
    assert settings is None or 0 < decoded.accepted < decoded.drafted
    texts = [tuple(text) for text in decoded.tokens]

    def p_value(law: dict[tuple[int, ...], float]) -> float:
        assert set(texts) <= law.keys()
        due = torch.tensor(list(law.values()), dtype=torch.float64) * TEXTS
        counts = dict.fromkeys(law, 0)
        for text in texts:
            counts[text] += 1
        counted = torch.tensor(list(counts.values()), dtype=torch.float64)
        freedom = torch.tensor((len(law) - 1) / 2, dtype=torch.float64)
        return torch.special.gammaincc(freedom, ((counted - due) ** 2 / due).sum() / 2).item()

    assert p_value(law_of_texts(verifier, TOP_P)) > 1e-3 / len(METHODS)
    assert p_value(law_of_texts(verifier, 1.0)) < 1e-9
