"""One pass of the verifier over a tree of drafted tokens: what each node sees, and what stays in the cache."""

import pytest
import torch

from speculators.decoding.tree_mask import ancestors
from speculators.decoding.verification import Verification
from speculators.protocols.draft import Draft, Verdict
from speculators.verifier.in_process import Verifier

# Two sequences, each with a tree of its own. Of the second, node 4 and what hangs below it are not there.
PARENTS = [[-1, -1, 0, 0, 1, 2, 4, 6], [-1, 0, 1, 2, -1, 3, 4, 4]]
TOKENS = [[3, 7, 1, 9, 4, 8, 2, 6], [11, 5, 30, 2, 17, 39, 1, 0]]
VALID = [[True] * 8, [True, True, True, True, False, True, False, False]]
PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12, 13], [20, 21, 22]]
LAST = [14, 23]
TREE = Draft(torch.tensor(TOKENS), torch.tensor(PARENTS), torch.tensor(VALID))
LAYERS = (1, 3)


def path_of(parents: list[int], node: int) -> list[int]:
    """Nodes from the root down to one."""
    return [] if node < 0 else [*path_of(parents, parents[node]), node]


def test_ancestors_are_those_of_a_walk() -> None:
    """A deep chain, a star and a bushy tree: who lies on the path to whom."""
    generator = torch.Generator().manual_seed(0)
    bushy = [int(torch.randint(-1, max(i, 1), (1,), generator=generator)) if i else -1 for i in range(30)]
    parents = [list(range(-1, 29)), [-1] * 30, bushy]
    found = ancestors(Draft(torch.zeros(3, 30, dtype=torch.int64), torch.tensor(parents)))
    for row, own in enumerate(parents):
        for node in range(30):
            assert found[row, node].nonzero().flatten().tolist() == path_of(own, node)


def alone(verifier: Verifier, tokens: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Verification]:
    """Logits and states after each token of one text, read at once, and the cache that this leaves."""
    verification = Verification(verifier, LAYERS)
    read, _ = verification.start([tokens])
    aux_TA = read.states.aux_BTA
    assert aux_TA is not None
    return verifier.head.logits(read.states.last_BTH[0]), read.states.last_BTH[0], aux_TA[0], verification


def test_a_node_sees_its_path_alone(verifier: Verifier) -> None:
    """After every node of both trees: logits and states are those of prompt, last token and path, read as one text."""
    verification = Verification(verifier, LAYERS)
    verification.start(PROMPTS)
    read = verification.read(torch.tensor(LAST), TREE)
    assert read.states.aux_BTA is not None
    for row in range(2):
        for node in range(-1, 8):
            if node >= 0 and not VALID[row][node]:
                continue
            path = path_of(PARENTS[row], node)
            text = [*PROMPTS[row], LAST[row], *(TOKENS[row][n] for n in path)]
            logits_TV, last_TH, aux_TA, _ = alone(verifier, text)
            place = 1 + node
            assert read.position_BP[row, place] == len(text) - 1
            torch.testing.assert_close(read.logits_BPV[row, place], logits_TV[-1], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(read.states.last_BTH[row, place], last_TH[-1], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(read.states.aux_BTA[row, place], aux_TA[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("paths", [[[0, 2, 5], [0, 1, 2, 3, 5]], [[1], []], [[], []]], ids=["deep", "short", "nothing"])
def test_the_cache_after_a_round_is_that_of_the_accepted_text(verifier: Verifier, paths: list[list[int]]) -> None:
    """Keys and values, lengths, and the context for the draft; then another round goes on from there."""
    verification = Verification(verifier, LAYERS)
    verification.start(PROMPTS)
    read = verification.read(torch.tensor(LAST), TREE)
    node_BD = torch.tensor([[*path, *[-1] * (5 - len(path))] for path in paths])
    verdict = Verdict(node_BD, torch.tensor([15, 16]))
    verification.keep(verdict, read.token_BP.shape[1])
    context = read.context(verdict, with_states=True)
    assert context.states is not None
    texts = [[*p, last, *(t[n] for n in path)] for p, last, t, path in zip(PROMPTS, LAST, TOKENS, paths, strict=True)]
    assert verification.length_B.tolist() == [len(text) for text in texts]
    for row, text in enumerate(texts):
        logits_TV, last_TH, _, single = alone(verifier, text)
        for found, expected in zip(verification.cache.kv.layers, single.cache.kv.layers, strict=True):
            assert found.keys is not None and expected.keys is not None
            own = verification.cache.valid_BL[row]
            torch.testing.assert_close(found.keys[row][:, own], expected.keys[0], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(found.values[row][:, own], expected.values[0], rtol=1e-5, atol=1e-5)
        places, new = context.valid_BT[row], 1 + len(paths[row])
        assert context.token_BT[row, places].tolist() == text[-new:]
        assert context.next_token_BT[row, places].tolist() == [*text[len(text) - new + 1 :], [15, 16][row]]
        assert context.position_BT[row, places].tolist() == list(range(len(text) - new, len(text)))
        torch.testing.assert_close(context.states.last_BTH[row, places], last_TH[-new:], rtol=1e-5, atol=1e-5)
    chain = Draft(torch.tensor([[1, 2], [3, 4]]))
    read = verification.read(verdict.token_B, chain)
    for row, text in enumerate(texts):
        logits_TV, _, _, _ = alone(verifier, [*text, [15, 16][row], *chain.token_BM[row].tolist()])
        torch.testing.assert_close(read.logits_BPV[row], logits_TV[-3:], rtol=1e-5, atol=1e-5)


def test_a_chain_written_as_a_tree_is_read_alike(verifier: Verifier) -> None:
    """The mask of a tree with one node a level is causal attention."""
    token_BM = torch.tensor(TOKENS)
    logits = []
    for draft in (Draft(token_BM), Draft(token_BM, Draft(token_BM).parents())):
        verification = Verification(verifier, ())
        verification.start(PROMPTS)
        logits.append(verification.read(torch.tensor(LAST), draft).logits_BPV)
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-5, atol=1e-5)
