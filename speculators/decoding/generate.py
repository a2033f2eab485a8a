"""Draft and verify: the verifier's own text, several tokens a pass. Without a drafter the same loop is plain decoding."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from speculators.decoding.acceptance import Acceptance
from speculators.decoding.cache import RaggedCache
from speculators.proposals import GreedyTokenProposalConfig
from speculators.protocols.drafter import Context, Drafter
from speculators.protocols.hidden_states import VerifierStates
from speculators.verifier.in_process import Verifier


@dataclass
class Decoded:
    """Texts and counts, counted as vLLM counts.

    Attributes:
        tokens: generated token ids of each prompt, cut at the end of text and at the token limit.
        gaps: beside each token, how far apart the verifier's two largest logits are, beyond the rounding of their dtype.
        drafts: verifier passes that judged a draft, over all sequences.
        accepted: drafted tokens accepted, before any cut.
        accepted_K: how often the draft's k-th token was accepted.
        seconds: wall-clock time.
    """

    tokens: list[list[int]]
    gaps: list[list[float]]
    accepted_K: list[int]
    drafts: int = 0
    seconds: float = 0.0

    @property
    def accepted(self) -> int:
        """Drafted tokens accepted, before any cut."""
        return sum(self.accepted_K)

    @property
    def generated(self) -> int:
        """Tokens of all texts."""
        return sum(map(len, self.tokens))


@dataclass
class Decoder:
    """One way to decode.

    Attributes:
        verifier: the model whose text it is.
        acceptance: which drafted tokens stay.
        max_new_tokens: tokens per prompt, >= 1.
        drafter: None decodes plainly.
        layer_ids: verifier layers that the drafter reads.
        speculative_tokens: tokens per draft, K; 0 without a drafter.
    """

    verifier: Verifier
    acceptance: Acceptance
    max_new_tokens: int
    drafter: Drafter | None = None
    layer_ids: Sequence[int] = field(default_factory=tuple)
    speculative_tokens: int = 0

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[Sequence[int]]) -> Decoded:
        """Decode prompts side by side.

        Args:
            prompts: token ids, at least one prompt and one token each.
        """
        device, K = self.verifier.device, self.speculative_tokens
        decoded = Decoded([[] for _ in prompts], [[] for _ in prompts], [0] * K)
        start = time.perf_counter()

        # 1. the prompts, padded on the left, and the first token
        width = max(map(len, prompts))
        token_BT = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
        valid_BT = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts], device=device)
        position_BT = (valid_BT.cumsum(1) - 1).clamp_min(0)
        cache = RaggedCache(valid_BT)
        states = self.verifier.states(token_BT, position_BT, self.layer_ids, valid_BT, cache.kv)
        logits_B1V = self.verifier.head.logits(states.last_BTH[:, -1:])
        _, next_B = self.acceptance(logits_B1V, token_BT[:, :0])
        context = Context(torch.cat((token_BT[:, 1:], next_B[:, None]), dim=1), states, position_BT, valid_BT)
        alive = list(range(len(prompts)))
        length_B = valid_BT.sum(1)
        memory = self.drafter.start(len(prompts)) if self.drafter else None
        nothing_B = torch.zeros_like(length_B)
        done = self._take(decoded, alive, next_B[:, None], nothing_B, next_B, logits_B1V)

        while True:
            # 2. finished sequences leave
            if any(done):
                stay = torch.tensor([i for i, d in enumerate(done) if not d], device=device, dtype=torch.long)
                alive = [a for a, d in zip(alive, done, strict=True) if not d]
                if not alive:
                    break
                cache.select(stay)
                context = _select(context, stay)
                next_B, length_B = next_B[stay], length_B[stay]
                memory = self.drafter.select(memory, stay) if self.drafter else None
            # 3. draft
            draft_BK = next_B.new_empty(len(alive), 0)
            if self.drafter:
                draft_BK = self.drafter.propose(memory, context, K, _greedy)
            # 4. verify
            token_BP = torch.cat((next_B[:, None], draft_BK), dim=1)
            position_BP = length_B[:, None] + torch.arange(K + 1, device=device)
            states = self.verifier.states(token_BP, position_BP, self.layer_ids, cache.grow(K + 1), cache.kv)
            logits_BPV = self.verifier.head.logits(states.last_BTH)
            accepted_B, next_B = self.acceptance(logits_BPV, draft_BK)
            # 5. keep what was accepted
            cache.keep(accepted_B, K + 1)
            length_B = length_B + accepted_B + 1
            context = _verified(token_BP, states, position_BP, accepted_B, next_B)
            done = self._take(decoded, alive, draft_BK, accepted_B, next_B, logits_BPV)
            if self.drafter:
                decoded.drafts += len(alive)
        decoded.seconds = time.perf_counter() - start
        return decoded

    def _take(
        self,
        decoded: Decoded,
        alive: Sequence[int],
        draft_BK: Tensor,
        accepted_B: Tensor,
        next_B: Tensor,
        logits_BPV: Tensor,
    ) -> list[bool]:
        """Write a round's tokens down, on the host; whether each sequence is finished."""
        gap_BP = lead(logits_BPV).tolist()
        drafts, counts, nexts = draft_BK.tolist(), accepted_B.tolist(), next_B.tolist()
        done = []
        for row, sequence in enumerate(alive):
            count = counts[row]
            tokens, gaps = decoded.tokens[sequence], decoded.gaps[sequence]
            for k in range(count):
                decoded.accepted_K[k] += 1
            tokens += [*drafts[row][:count], nexts[row]]
            gaps += gap_BP[row][: count + 1]
            end = next((i + 1 for i, t in enumerate(tokens) if t in self.verifier.eos_ids), len(tokens))
            end = min(end, self.max_new_tokens)
            done.append(end < len(tokens) or tokens[-1] in self.verifier.eos_ids or end == self.max_new_tokens)
            del tokens[end:], gaps[end:]
        return done


def lead(logits: Tensor) -> Tensor:
    """How far the largest logit is above the next over the last dimension, beyond the rounding of their dtype; float32."""
    first, second = logits.topk(2, dim=-1).values.float().unbind(-1)
    # In half precision, other kernels give a logit of 10 another last bit, worth 0.06.
    return (first - second - 2 * torch.finfo(logits.dtype).eps * first.abs()).clamp_min(0)


def _greedy(logits_BV: Tensor) -> Tensor:
    return logits_BV.argmax(-1)


def _select(context: Context, rows: Tensor) -> Context:
    states = context.states
    chosen = VerifierStates(states.last_BTH[rows], None if states.aux_BTA is None else states.aux_BTA[rows])
    return Context(context.next_token_BT[rows], chosen, context.position_BT[rows], context.valid_BT[rows])


def _verified(
    token_BP: Tensor, states: VerifierStates, position_BP: Tensor, accepted_B: Tensor, next_B: Tensor
) -> Context:
    """The accepted places of a round, moved to the right edge."""
    P = token_BP.shape[1]
    shift_B1 = (P - 1 - accepted_B).unsqueeze(1)
    index_BP = torch.arange(P, device=token_BP.device) - shift_B1
    valid_BP, index_BP = index_BP >= 0, index_BP.clamp_min(0)
    following_BP = torch.cat((token_BP[:, 1:], next_B[:, None]), dim=1).scatter(1, accepted_B[:, None], next_B[:, None])

    def pick(x: Tensor) -> Tensor:
        return x.gather(1, index_BP.unsqueeze(-1).expand(-1, -1, x.shape[-1]))

    chosen = VerifierStates(pick(states.last_BTH), None if states.aux_BTA is None else pick(states.aux_BTA))
    return Context(following_BP.gather(1, index_BP), chosen, position_BP.gather(1, index_BP) * valid_BP, valid_BP)


def plain(
    verifier: Verifier, prompts: Sequence[Sequence[int]], max_new_tokens: int, batch_size: int
) -> list[list[int]]:
    """The verifier's own greedy answers.

    Args:
        verifier: the model.
        prompts: token ids.
        max_new_tokens: tokens per answer, >= 1.
        batch_size: prompts side by side; those of like length go together.
    """
    decoder = Decoder(verifier, Acceptance.of(GreedyTokenProposalConfig(), 0.0, torch.Generator()), max_new_tokens)
    answers: dict[int, list[int]] = {}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        answers |= dict(zip(chosen, decoder([prompts[i] for i in chosen]).tokens, strict=True))
    return [answers[i] for i in range(len(prompts))]
