"""An independent draft computes what transformers' model computes, and starts from one."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from speculators.composition.compose import compose
from speculators.config import SpeculatorModelConfig
from speculators.data.collate import collate
from speculators.data.template import Document
from speculators.execution.input_hashes import hashes
from speculators.execution.run import start_of
from speculators.export.publish import publish
from speculators.format.published import speculator_dict
from speculators.model import SpeculatorModel, TrainingContext
from speculators.protocols.drafter import Context
from speculators.protocols.head import VerifierHead
from speculators.protocols.initialisation import Initialisation
from speculators.settings.run_config import RunConfig
from speculators.train.build import build
from speculators.utils.messages import WrongInput
from speculators.verifier.facts import VerifierFacts

from .compare import TOKENS, layer_config, make_draft, make_verifier

OTHERS = [4, 4, 21, 8, 0, 19]
KINDS = [("llama", True), ("llama", False), ("qwen2", False), ("qwen3", True)]


def pair(kind: str, tied: bool) -> tuple[SpeculatorModel, PreTrainedModel]:
    """A random draft, and transformers' language model with the same weights."""
    layer = layer_config(kind, 2, tie_word_embeddings=tied)
    draft = make_draft({"speculators_model_type": "independent", "transformer_layer_config": layer})
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


@pytest.mark.parametrize("kind, tied", KINDS)
def test_every_node_of_a_tree_is_transformers_logits(kind: str, tied: bool) -> None:
    """In two rounds over two texts of different lengths, the second after one text has grown by more, to 1e-5."""
    draft, reference = pair(kind, tied)
    head, _ = make_verifier(0)
    texts, drafter = [TOKENS, OTHERS], draft.drafter(head, 2)
    levels = [([7, 9], [0, 0]), ([1, 2, 3], [1, 0, 1]), ([5], [2])]
    for starts, ends in (((0, 0), (3, 2)), ((3, 2), (4, 5))):
        width = max(end - start for start, end in zip(starts, ends, strict=True))
        places = [
            [-1] * (width - end + start) + list(range(start, end)) for start, end in zip(starts, ends, strict=True)
        ]
        token_BT, next_BT = (
            torch.tensor([[t[p + ahead] if p >= 0 else 0 for p in row] for t, row in zip(texts, places, strict=True)])
            for ahead in (0, 1)
        )
        position_BT = torch.tensor(places)
        context = Context(token_BT, next_BT, None, position_BT.clamp_min(0), position_BT >= 0)
        with torch.no_grad():
            found, paths = [drafter.extend(context, len(levels) + 1).logits_BNV], [[[]]]
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
