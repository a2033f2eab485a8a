"""An independent draft computes what transformers' model computes, and starts from one."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from speculators.composition.compose import compose
from speculators.config import SpeculatorModelConfig
from speculators.data.collate import collate
from speculators.data.row_plan import conditional_drop_token
from speculators.data.template import Document
from speculators.execution.input_hashes import hashes
from speculators.execution.run import start_of
from speculators.export.publish import publish
from speculators.format.published import speculator_dict
from speculators.model import SpeculatorModel, TrainingContext
from speculators.nn import masked_chains
from speculators.nn.slot_drafter import SlotDrafter
from speculators.protocols.drafter import Context
from speculators.protocols.head import VerifierHead
from speculators.protocols.initialisation import Initialisation
from speculators.protocols.rows import PackedTargets, SequenceRows
from speculators.settings.run_config import RunConfig
from speculators.train.build import build
from speculators.utils.messages import WrongInput
from speculators.verifier.facts import VerifierFacts

from .compare import TOKENS, layer_config, make_draft, make_verifier

OTHERS = [4, 4, 21, 8, 0, 19]
KINDS = [("llama", True), ("llama", False), ("qwen2", False), ("qwen3", True)]
MASK = 5
PARALLEL = {"parallel_drafting": True, "pard_token": MASK}


def pair(kind: str, tied: bool, **others: Any) -> tuple[SpeculatorModel, PreTrainedModel]:
    """A random draft, and transformers' language model with the same weights."""
    layer = layer_config(kind, 2, tie_word_embeddings=tied)
    draft = make_draft({"speculators_model_type": "independent", "transformer_layer_config": layer, **others})
    reference = AutoModelForCausalLM.from_config(AutoConfig.for_model(**layer)).float().eval()
    found = reference.load_state_dict(draft.state_dict(), strict=False)
    assert found.unexpected_keys == [] and found.missing_keys == (["lm_head.weight"] if tied else [])
    return draft, reference


@torch.no_grad()
def after(reference: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    """Logits after the last token."""
    return reference(torch.tensor([tokens])).logits[0, -1]


@pytest.mark.parametrize("kind, tied", KINDS)
def test_rows_are_transformers_logits(kind: str, tied: bool) -> None:
    """Of two documents side by side, each row's are those after its target in its document alone, to 1e-5."""
    draft, reference = pair(kind, tied)
    head, states = make_verifier(0)
    documents = [TOKENS, OTHERS]
    batch = collate([[Document(d, [True] * len(d)) for d in documents]], 1)
    with torch.no_grad():
        (rows,) = draft(batch, states, head, TrainingContext(None, 0.0)).rows.values()
    (term,) = rows.terms
    logits_RV = term.input_RI @ term.weights[0].T
    for row in batch.rows.valid_R.nonzero().flatten().tolist():
        target = int(batch.rows.target_R[row])
        document, place = divmod(target, len(TOKENS)) if target < len(TOKENS) else (1, target - len(TOKENS))
        expected = after(reference, documents[document][: place + 1])
        torch.testing.assert_close(logits_RV[row], expected, rtol=1e-5, atol=1e-5)
    assert batch.rows.valid_R.sum() == len(TOKENS) + len(OTHERS) - 4


@pytest.mark.parametrize("rows_a_pass", [2, 1024])
@pytest.mark.parametrize("kind, tied", KINDS)
def test_rows_of_masked_places_are_transformers_logits(
    kind: str, tied: bool, rows_a_pass: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slot s of an anchor: after the text up to the token after the anchor, and s - 1 mask tokens, each row alone, to 1e-5."""
    monkeypatch.setattr(masked_chains, "CHUNK_ROWS", rows_a_pass)
    draft, reference = pair(kind, tied, **PARALLEL)
    head, states = make_verifier(0)
    documents = [TOKENS, OTHERS]
    # Two sequences of one document, and one of both.
    packed = [[0], [1], [0, 1]]

    def plan(sequence: PackedTargets, generator: torch.Generator) -> SequenceRows:
        return conditional_drop_token(sequence, 4, 0.9, 0.2, generator)

    batch = collate([[Document(documents[d], [True] * len(documents[d])) for d in own] for own in packed], plan)
    with torch.no_grad():
        (rows,) = draft(batch, states, head, TrainingContext(None, 0.0)).rows.values()
    (term,) = rows.terms
    logits_RV = term.input_RI @ term.weights[0].T
    of_number = [d for own in packed for d in own]
    for row, (anchor, slot) in enumerate(zip(batch.rows.anchor_R.tolist(), batch.rows.slot_R.tolist(), strict=True)):
        text = documents[of_number[int(batch.document_BT.flatten()[anchor])]]
        newest = int(batch.position_BT.flatten()[anchor]) + 1
        expected = after(reference, [*text[: newest + 1], *[MASK] * (slot - 1)])
        torch.testing.assert_close(logits_RV[row], expected, rtol=1e-5, atol=1e-5)
    assert Counter(batch.rows.slot_R.tolist())[4] > 5


@pytest.mark.parametrize("kind, tied", KINDS)
def test_masked_places_are_drafted_as_transformers_computes_them(kind: str, tied: bool) -> None:
    """In three rounds over two texts of different lengths, of which the last goes on with one text alone, to 1e-5."""
    draft, reference = pair(kind, tied, **PARALLEL)
    head, _ = make_verifier(0)
    texts, drafter, depth = [TOKENS, OTHERS], draft.drafter(head, 2), 4
    for starts, ends in (((0, 0), (3, 2)), ((3, 2), (4, 5)), ((4,), (6,))):
        if len(starts) < len(texts):
            drafter.select(torch.tensor([0]))
            del texts[1]
        with torch.no_grad():
            found = [drafter.extend(context_of(texts, starts, ends), depth).logits_BNV]
            for _ in range(depth - 1):
                found.append(
                    drafter.expand(torch.full((len(texts), 2), 7), torch.zeros(len(texts), 2).long()).logits_BNV
                )
        for level, logits_BNV in enumerate(found):
            for b, (text, end) in enumerate(zip(texts, ends, strict=True)):
                expected = after(reference, [*text[: end + 1], *[MASK] * level])
                for logits_V in logits_BNV[b]:
                    torch.testing.assert_close(logits_V, expected, rtol=1e-5, atol=1e-5)


def context_of(texts: list[list[int]], starts: tuple[int, ...], ends: tuple[int, ...]) -> Context:
    """Newly verified positions of each text from its start to its end, whose token was just sampled; padded on the left."""
    width = max(end - start for start, end in zip(starts, ends, strict=True))
    places = [[-1] * (width - end + start) + list(range(start, end)) for start, end in zip(starts, ends, strict=True)]
    token_BT, next_BT = (
        torch.tensor([[t[p + ahead] if p >= 0 else 0 for p in row] for t, row in zip(texts, places, strict=True)])
        for ahead in (0, 1)
    )
    position_BT = torch.tensor(places)
    return Context(token_BT, next_BT, None, position_BT.clamp_min(0), position_BT >= 0)


@pytest.mark.parametrize("kind, tied", KINDS)
def test_every_node_of_a_tree_is_transformers_logits(kind: str, tied: bool) -> None:
    """In two rounds over two texts of different lengths, the second after one text has grown by more, to 1e-5."""
    draft, reference = pair(kind, tied)
    head, _ = make_verifier(0)
    texts, drafter = [TOKENS, OTHERS], draft.drafter(head, 2)
    levels = [([7, 9], [0, 0]), ([1, 2, 3], [1, 0, 1]), ([5], [2])]
    for starts, ends in (((0, 0), (3, 2)), ((3, 2), (4, 5))):
        with torch.no_grad():
            found, paths = [drafter.extend(context_of(texts, starts, ends), len(levels) + 1).logits_BNV], [[[]]]
            for tokens, parents in levels:
                pairs = [torch.tensor([row, row]) for row in (tokens, parents)]
                found.append(drafter.expand(*pairs).logits_BNV)
                paths.append([[*paths[-1][p], t] for t, p in zip(tokens, parents, strict=True)])
        for logits_BNV, level in zip(found, paths, strict=True):
            for b, (text, end) in enumerate(zip(texts, ends, strict=True)):
                for node, path in enumerate(level):
                    expected = after(reference, [*text[: end + 1], *path])
                    torch.testing.assert_close(logits_BNV[b, node], expected, rtol=1e-5, atol=1e-5)


def fresh(run: RunConfig) -> SpeculatorModel:
    """The draft as its training starts, for a random verifier of the run's sizes."""
    facts = VerifierFacts.read(run.verifier.name_or_path)
    torch.manual_seed(0)
    embed_VH, head_VH = (torch.randn(facts.vocab_size, facts.hidden_size) for _ in range(2))
    given = Initialisation(VerifierHead(embed_VH, head_VH), torch.ones(facts.vocab_size), start=start_of(run))
    return build(SpeculatorModelConfig.from_dict(speculator_dict(run, facts)), given, torch.device("cpu"))


@pytest.mark.parametrize("tied", ["true", "false"])
def test_the_native_folder_is_a_language_model(tied: str, tmp_path: Path) -> None:
    """transformers loads it, with no tensor missing, and computes the same."""
    run = compose(["algorithm=independent", f"algorithm.tie_word_embeddings={tied}", "export=vllm"])
    draft = fresh(run)
    folder = publish(draft, run, VerifierFacts.read(run.verifier.name_or_path), tmp_path) / "vllm"
    reference, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    context = Context(
        torch.tensor([[5, 6]]), torch.tensor([[6, 7]]), None, torch.tensor([[0, 1]]), torch.ones(1, 2) > 0
    )
    with torch.no_grad():
        found = draft.drafter(VerifierHead(torch.zeros(1, 1), torch.zeros(1, 1)), 1).extend(context, 1).logits_BNV[0, 0]
    torch.testing.assert_close(found, after(reference.eval(), [5, 6, 7]), rtol=1e-5, atol=1e-5)


def language_model(folder: Path, **others: int) -> Path:
    """A small random Llama."""
    sizes = {"vocab_size": 4096, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 1, "num_key_value_heads": 1, **others}
    LlamaForCausalLM(LlamaConfig.from_dict(sizes)).save_pretrained(folder)
    return folder


GIVEN = ["algorithm=independent", "algorithm.num_hidden_layers=null"]


def test_it_starts_from_a_given_model(tmp_path: Path) -> None:
    """Tensor for tensor; and the run records which weights these were."""
    folder = language_model(tmp_path / "small")
    run = compose([*GIVEN, f"algorithm.init_from={folder}"])
    expected = LlamaForCausalLM.from_pretrained(folder).state_dict()
    draft = fresh(run)
    assert draft.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in draft.state_dict().items())
    before = hashes(run)
    language_model(folder)
    after_ = hashes(run)
    assert {name for name in before if before[name] != after_[name]} == {"starts_from"}


def test_parallel_drafting_is_published_as_vllm_reads_it(tmp_path: Path) -> None:
    """The mask token in the language model's own config, the option in the command of the model card; else neither."""
    for overrides, token in (([], None), (["algorithm.parallel_drafting=true"], 4095)):
        run = compose(["algorithm=independent", "export=vllm", "proposal.speculative_tokens=3", *overrides])
        facts = VerifierFacts.read(run.verifier.name_or_path)
        folder = publish(fresh(run), run, facts, tmp_path / str(token))
        native = json.loads((folder / "vllm" / "config.json").read_text())
        assert native.get("pard_token") == token and ("pard_token" in native) == bool(overrides)
        card = (folder / "README.md").read_text()
        assert "--speculative-config" in card and ('"parallel_drafting": true' in card) == bool(overrides)
        again = SpeculatorModel.from_pretrained(folder).drafter(VerifierHead(torch.zeros(1, 1), torch.zeros(1, 1)), 1)
        assert isinstance(again, SlotDrafter) == bool(overrides)


def test_settings_of_parallel_drafting_that_cannot_be() -> None:
    """A mask token that is none or has no effect, and more tokens than are trained in one pass."""
    parallel = ["algorithm=independent", "algorithm.parallel_drafting=true"]
    for overrides, message in (
        (
            ["algorithm=independent", "algorithm.pard_token=5"],
            "pard_token=5 has no effect without parallel_drafting=true",
        ),
        (
            [*parallel, "algorithm.pard_token=4096"],
            "algorithm.pard_token=4096: must be a token of the verifier, of which there are 4096",
        ),
        ([*parallel, "proposal.speculative_tokens=9"], "drafts at most 8 tokens"),
    ):
        with pytest.raises(WrongInput, match=message):
            compose(overrides)
    assert compose([*parallel, "algorithm.para_num=3"]).proposal.levels == 3


def test_a_model_that_cannot_be_started_from_is_refused(tmp_path: Path) -> None:
    """Before anything is trained: no such folder, other tokens, sizes beside it; and a new model without layers."""
    small = language_model(tmp_path / "small", vocab_size=100)
    biased = language_model(tmp_path / "biased", mlp_bias=True)
    for overrides, message in (
        ([*GIVEN, "algorithm.init_from=/no/such"], "algorithm.init_from=/no/such"),
        ([*GIVEN, f"algorithm.init_from={small}"], "has 100 tokens and the verifier 4096"),
        ([*GIVEN, f"algorithm.init_from={biased}"], "has mlp_bias=True, with which no model can be trained here"),
        (["algorithm=independent", f"algorithm.init_from={small}"], "set num_hidden_layers to null"),
        (GIVEN, "num_hidden_layers=null needs init_from"),
    ):
        with pytest.raises((WrongInput, ValueError), match=message):
            compose(overrides)
