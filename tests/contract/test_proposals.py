"""What every proposal method does, found by itself; drafts and verifiers are tables."""

from collections import defaultdict
from itertools import product

import pytest
import torch

from speculators.composition.compose import compose
from speculators.config import SpeculatorModelConfig
from speculators.format.published import speculator_dict
from speculators.proposals import TokenProposalConfig
from speculators.proposals.method import ProposalMethod
from speculators.proposals.sampler import Sampler
from speculators.protocols.draft import Draft, Verdict
from speculators.utils.messages import WrongInput
from speculators.verifier.facts import VerifierFacts

from .outcomes import outcomes
from .tables import Table, TableDrafter, Text, no_context, node_texts, verify

PROPOSALS = sorted(TokenProposalConfig.registry or {})
# Of the sequences' own, so that side by side they are not alike.
VERIFIERS = [Table(f"verifier {i}", 5) for i in range(40)]
DRAFTS = [Table(f"draft {i}", 5) for i in range(40)]


def settings(name: str) -> TokenProposalConfig:
    """A method as its YAML has it, with sizes so small that every outcome can be looked at."""
    chosen = compose([f"proposal={name}"]).proposal
    small = {k: min(v, 3) for k, v in chosen.model_dump().items() if isinstance(v, int) and not isinstance(v, bool)}
    return type(chosen).model_validate(chosen.model_dump() | small)


# Those whose text is the verifier's, when it is sampled.
SAMPLED = [n for n in PROPOSALS if not list(settings(n).problems(1.0)) and settings(n).lossy(1.0) is None]
GREEDY = [n for n in PROPOSALS if settings(n).lossy(0.0) is None]


def round_of(method: ProposalMethod, verifiers: list[Table], drafter: TableDrafter) -> tuple[Draft, Verdict]:
    """A draft and the verdict on it."""
    draft = method.draft(drafter, no_context(len(verifiers)))
    return draft, method.judge(draft, verify(draft, verifiers))


def emitted(draft: Draft, verdict: Verdict, row: int) -> Text:
    """The tokens that a sequence gets out of a round; the accepted nodes must be a path of valid ones."""
    path = [node for node in verdict.node_BD[row].tolist() if node >= 0]
    assert verdict.node_BD[row].tolist() == path + [-1] * (verdict.node_BD.shape[1] - len(path))
    parents, valid = draft.parents()[row].tolist(), draft.valid()[row].tolist()
    assert [parents[node] for node in path] == [-1, *path][: len(path)] and all(valid[node] for node in path)
    return (*(draft.token_BM[row].tolist()[node] for node in path), int(verdict.token_B[row]))


@pytest.mark.parametrize("name", PROPOSALS)
def test_it_is_published_as_chosen(name: str) -> None:
    """Its settings stand in the published config, and reading that gives the method again."""
    run = compose([f"proposal={name}"])
    config = SpeculatorModelConfig.from_dict(speculator_dict(run, VerifierFacts.read(run.verifier.name_or_path)))
    assert config.speculators_config.default_proposal_method == name
    assert config.speculators_config.proposal_methods == [run.proposal]
    again = SpeculatorModelConfig.from_dict(config.to_diff_dict())
    assert again.speculators_config.proposal_methods == [run.proposal]


@pytest.mark.parametrize("name", PROPOSALS)
def test_an_unknown_key_is_refused_with_the_nearest(name: str) -> None:
    """A slip in any key of the method names the right one."""
    for key in set((TokenProposalConfig.registry or {})[name].model_fields) - {"proposal_type"}:
        with pytest.raises(WrongInput, match=rf"proposal\.{key}x .*did you mean proposal\.{key}\?"):
            compose([f"proposal={name}", f"+proposal.{key}x=1"])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", PROPOSALS)
def test_a_draft_has_the_form_that_its_settings_say(name: str, temperature: float) -> None:
    """At most `nodes` tokens in at most `depth` levels, siblings differ, and a pass of the draft for each level."""
    config = settings(name)
    assert config.nodes >= config.levels >= 1
    drafter = TableDrafter(list(DRAFTS))
    method = ProposalMethod.of(config, Sampler(temperature, torch.Generator().manual_seed(0)))
    draft, verdict = round_of(method, VERIFIERS, drafter)
    assert draft.token_BM.dtype == verdict.node_BD.dtype == verdict.token_B.dtype == torch.int64
    assert draft.token_BM.shape[0] == len(DRAFTS) and 1 <= draft.token_BM.shape[1] <= config.nodes
    assert verdict.node_BD.shape == (len(DRAFTS), config.levels)
    assert draft.is_chain or config.is_tree
    assert len(drafter.calls) == config.levels - 1
    for row in range(len(DRAFTS)):
        texts = node_texts(draft, row)
        assert len(set(texts)) == len(texts) and max(map(len, texts)) <= config.levels


@pytest.mark.parametrize("name", PROPOSALS)
def test_each_sequence_is_drafted_and_judged_by_itself(name: str) -> None:
    """Side by side, a sequence gets what it gets alone; some are accepted whole, some in part, some not at all."""
    config, counts = settings(name), set()
    method = ProposalMethod.of(config, Sampler(0.0, torch.Generator()))
    # Every fifth draft is the verifier itself.
    drafts = [v if i % 5 == 0 else d for i, (v, d) in enumerate(zip(VERIFIERS, DRAFTS, strict=True))]
    draft, verdict = round_of(method, VERIFIERS, TableDrafter(list(drafts)))
    for row, (verifier, table) in enumerate(zip(VERIFIERS, drafts, strict=True)):
        alone = round_of(method, [verifier], TableDrafter([table]))
        assert emitted(*alone, 0) == emitted(draft, verdict, row)
        counts.add(int(verdict.accepted_B[row]))
    assert 0 in counts and len(counts) > 1


@pytest.mark.parametrize("name", GREEDY)
def test_greedy_text_is_the_verifiers_own(name: str) -> None:
    """Whatever was drafted, the tokens of a round are the verifier's most likely ones."""
    method = ProposalMethod.of(settings(name), Sampler(0.0, torch.Generator()))
    draft, verdict = round_of(method, VERIFIERS, TableDrafter(list(DRAFTS)))
    for row, verifier in enumerate(VERIFIERS):
        text = emitted(draft, verdict, row)
        assert text == verifier.greedy((), len(text))


@pytest.mark.parametrize(
    "closed", [set[Text](), {()}, {(0,), (1,), (2, 0)}], ids=["open", "root closed", "some closed"]
)
@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_text_has_the_verifiers_law(name: str, closed: set[Text]) -> None:
    """Over all outcomes of all random choices, the text of a round, continued by the verifier, is distributed as its own."""
    config, verifier, draft = settings(name), Table("p", 3), Table("q", 3)

    def one_round(sampler: Sampler) -> Text:
        method = ProposalMethod.of(config, sampler)
        return emitted(*round_of(method, [verifier], TableDrafter([draft], closed)), 0)

    length, law, total = config.levels + 1, defaultdict[Text, float](float), 0.0
    for chance, text in outcomes(one_round):
        law[text] += chance
        total += chance
    assert total == pytest.approx(1, abs=1e-9)
    assert len({len(text) for text in law}) > 1 or () in closed
    for text in product(range(3), repeat=length):
        found = sum(law[text[:n]] * probability(verifier, text, n) for n in range(1, length + 1) if text[:n] in law)
        assert found == pytest.approx(probability(verifier, text, 0), abs=1e-12)


def probability(table: Table, text: Text, start: int) -> float:
    """That a text, known up to `start`, goes on like this."""
    chance = 1.0
    for i in range(start, len(text)):
        chance *= table.probs(text[:i])[text[i]]
    return chance


@pytest.mark.parametrize("name", GREEDY)
def test_nothing_is_accepted_below_a_closed_node(name: str) -> None:
    """A draft that ends early is judged as far as it goes; the text stays the verifier's own."""
    method = ProposalMethod.of(settings(name), Sampler(0.0, torch.Generator()))
    drafter = TableDrafter(list(VERIFIERS), {()} | {(t,) for t in range(2)})
    draft, verdict = round_of(method, VERIFIERS, drafter)
    assert not draft.valid().any() and not verdict.accepted_B.any()
    drafter = TableDrafter(list(VERIFIERS), {(t,) for t in range(5)})
    draft, verdict = round_of(method, VERIFIERS, drafter)
    assert verdict.accepted_B.max() <= 1
    for row, verifier in enumerate(VERIFIERS):
        assert max(len(t) for t, v in zip(node_texts(draft, row), draft.valid()[row], strict=True) if v) == 1
        text = emitted(draft, verdict, row)
        assert text == verifier.greedy((), len(text))
