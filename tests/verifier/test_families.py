"""States, logits and texts of every family of verifiers, against the model's own, one document at a time."""

import json
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BartConfig, BloomConfig, CLIPConfig, LlamaForCausalLM, MptConfig, PreTrainedConfig, T5Config

from speculators.composition.compose import compose
from speculators.data.collate import collate
from speculators.data.template import Document
from speculators.decoding.generate import plain
from speculators.decoding.tree_mask import check_reads_trees
from speculators.decoding.verification import Verification
from speculators.protocols.draft import Draft, Verdict
from speculators.utils.messages import WrongInput
from speculators.verifier.facts import VerifierFacts
from speculators.verifier.in_process import Verifier
from speculators.verifier.settings import VerifierSettings

from .families import FAMILIES, VOCAB, random_model

# Of the largest value; a leak between documents is of its own size.
CLOSE = 1e-5
LAYERS = (1, 2, 4)
# Some of their layers have a state instead of keys and values.
HYBRID = ("qwen3_next", "qwen3_5")


@cache
def verifier(family: str) -> Verifier:
    """A random model as training uses it."""
    return Verifier(random_model(family))


def document(length: int, seed: int) -> Document:
    """Random tokens."""
    g = torch.Generator().manual_seed(seed)
    return Document(torch.randint(3, VOCAB, (length,), generator=g).tolist(), [True] * length)


def distance(found: Tensor, right: Tensor) -> float:
    """The largest difference over the largest value."""
    return ((found - right).abs().max() / right.abs().max()).item()


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_states_are_each_documents_own(family: str, on_cpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents longer than a window, side by side and beside padding, computed as on a CPU and as on an accelerator."""
    if not on_cpu:
        monkeypatch.setattr(verifier(family), "packs", verifier(family).isolates)
    documents = [document(n, seed=n) for n in (20, 13, 30, 5)]
    packed = verifier(family)(collate([documents[:2], documents[2:3], documents[3:]], 1), LAYERS)
    places = [(0, 0), (0, 20), (1, 0), (2, 0)]
    assert packed.aux_BTA is not None and packed.last_BTH.shape[:2] == (3, 33)
    for one, (row, start) in zip(documents, places, strict=True):
        token_BT = torch.tensor([one.tokens])
        alone = verifier(family).states(token_BT, torch.arange(len(one.tokens))[None], LAYERS)
        assert alone.aux_BTA is not None
        place = row, slice(start, start + len(one.tokens))
        assert distance(packed.last_BTH[place], alone.last_BTH[0]) < CLOSE
        for found, right in zip(packed.aux_BTA[place].chunk(3, -1), alone.aux_BTA[0].chunk(3, -1), strict=True):
            assert distance(found, right) < CLOSE


@pytest.mark.parametrize("family", FAMILIES)
def test_states_and_logits_are_the_models(family: str) -> None:
    """The residual stream before layers 1 and 2, and the logits of the whole vocabulary."""
    one = torch.tensor([document(30, seed=1).tokens])
    with torch.no_grad():
        right = verifier(family).model(input_ids=one, output_hidden_states=True)
    states = verifier(family).states(one, torch.arange(30)[None], (1, 2))
    assert states.aux_BTA is not None
    assert distance(states.aux_BTA, torch.cat(right.hidden_states[1:3], dim=-1)) < CLOSE
    assert distance(verifier(family).head.logits(states.last_BTH), right.logits) < CLOSE


@pytest.mark.parametrize("family", FAMILIES)
def test_facts_are_those_of_the_model(family: str) -> None:
    """What a run knows before it loads anything."""
    model = verifier(family).model
    facts = VerifierFacts.from_dict(family, json.loads(model.config.to_json_string(use_diff=False)))
    head = verifier(family).head
    assert (facts.vocab_size, facts.hidden_size) == head.embed_VH.shape == head.head_VH.shape
    assert facts.head_bias == (head.bias_V is not None)
    assert facts.num_hidden_layers == 4
    assert not any(isinstance(value, dict) for value in facts.rope_parameters.values())


class Shifted(LlamaForCausalLM):
    """A model that does something of its own to its logits."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits.sort().values
        return output


def test_logits_that_the_head_does_not_make_are_refused() -> None:
    """Every family passes; a class with another last step does not."""
    for family in FAMILIES:
        verifier(family).check_head(family)
    with pytest.raises(
        ValueError, match="^verifier.name_or_path: some/model is a Shifted, whose logits are not the product"
    ):
        Verifier(Shifted(FAMILIES["llama"]())).check_head("some/model")


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_gives_the_models_own_text(family: str) -> None:
    """Prompts of different lengths side by side, some longer than a window, against the whole model without a cache."""
    prompts = [document(n, seed=n).tokens for n in (5, 12, 9)]
    texts = plain(verifier(family), prompts, max_new_tokens=12, batch_size=3)
    for prompt, text in zip(prompts, texts, strict=True):
        with torch.no_grad():
            logits = verifier(family).model(input_ids=torch.tensor([[*prompt, *text]])).logits[0]
        assert text == logits[len(prompt) - 1 : -1].argmax(-1).tolist()


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt_oss", *HYBRID])
def test_a_rejected_draft_leaves_nothing_behind(family: str) -> None:
    """Chains of which none, some and all is accepted, in a batch of texts of different lengths, against each text alone.

    A round reads the last token and three drafted ones of every text; then each text goes on from the accepted ones.
    """
    prompts, accepted = [document(n, seed=n).tokens for n in (5, 12, 9)], [0, 2, 3]
    g = torch.Generator().manual_seed(3)
    first_B, draft_BM = torch.randint(3, VOCAB, (3,), generator=g), torch.randint(3, VOCAB, (3, 3), generator=g)
    node_BD = torch.tensor([[i if i < count else -1 for i in range(3)] for count in accepted])
    verification = Verification(verifier(family), LAYERS)
    verification.start(prompts)
    rounds = []
    for _ in range(2):
        rounds.append(verification.read(first_B, Draft(draft_BM)))
        verification.keep(Verdict(node_BD, first_B), 4)
    for b, (prompt, count) in enumerate(zip(prompts, accepted, strict=True)):
        drafted = [first_B[b].item(), *draft_BM[b].tolist()]
        for r, read in enumerate(rounds):
            text = [*prompt, *(drafted[: count + 1] * r), *drafted]
            alone = verifier(family).states(torch.tensor([text]), torch.arange(len(text))[None], LAYERS)
            assert read.position_BP[b].tolist() == list(range(len(text) - 4, len(text)))
            assert read.states.aux_BTA is not None and alone.aux_BTA is not None
            # Linear attention computes a chunk of tokens and single tokens by different sums.
            assert distance(read.states.last_BTH[b], alone.last_BTH[0, -4:]) < 10 * CLOSE
            assert distance(read.states.aux_BTA[b], alone.aux_BTA[0, -4:]) < 10 * CLOSE


@pytest.mark.parametrize(
    ("family", "kind"), [("qwen3_next", "linear_attention"), ("llama4", "chunked_attention"), ("gpt_oss", None)]
)
def test_layers_that_cannot_read_a_tree_are_named(family: str, kind: str | None) -> None:
    """A state would mix siblings, and chunks count columns, which siblings share."""
    expected = pytest.raises(ValueError, match=f"{kind} layers cannot verify a tree.*proposal=greedy")
    with expected if kind else nullcontext():
        check_reads_trees(verifier(family))


@pytest.mark.parametrize("config", [T5Config(), BartConfig()], ids=["t5", "bart"])
def test_an_encoder_decoder_is_refused_before_a_run_starts(config: PreTrainedConfig, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(WrongInput, match="is an encoder-decoder; .* choose a causal language model"):
        compose(["verifier=hf", f"verifier.name_or_path={tmp_path}"])


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (BloomConfig(n_layer=2), "is a BloomForCausalLM, whose decoder takes no position_ids"),
        (MptConfig(n_layers=2), "is a MptForCausalLM, whose decoder takes no position_ids"),
        (CLIPConfig(), "is a clip, which transformers does not load as a causal language model"),
    ],
    ids=["bloom", "mpt", "clip"],
)
def test_a_class_without_what_a_draft_needs_is_refused(config: PreTrainedConfig, why: str, tmp_path: Path) -> None:
    """Before the weights are read: there are none."""
    config.save_pretrained(tmp_path)
    settings = VerifierSettings(name_or_path=str(tmp_path), revision=None, dtype="auto", trust_remote_code=False)
    with pytest.raises(ValueError, match=f"^verifier.name_or_path: {tmp_path} {why}; choose another verifier$"):
        Verifier.load(settings, torch.device("cpu"))
