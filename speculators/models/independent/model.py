"""An independent draft: transformers' own language model, trained on the verifier's distributions."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel

from speculators.model import SpeculatorModel, TrainingContext
from speculators.models.independent.config import IndependentSpeculatorConfig
from speculators.models.independent.draft import LanguageModelDrafter
from speculators.nn.attention import additive_mask
from speculators.nn.precision import product_dtype
from speculators.protocols.batch import Batch
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.protocols.initialisation import Initialisation
from speculators.protocols.rows import DraftOutput, Rows


@SpeculatorModel.register("independent")
class IndependentSpeculator(SpeculatorModel):
    """A small language model of the verifier's vocabulary (Leviathan et al. 2023, arXiv:2211.17192)."""

    config_class = IndependentSpeculatorConfig
    config: IndependentSpeculatorConfig
    reads_states: ClassVar[bool] = False

    def __init__(self, config: IndependentSpeculatorConfig) -> None:
        super().__init__(config)
        layer = config.transformer_layer_config
        self.model = AutoModel.from_config(layer, attn_implementation="sdpa")
        tied = layer.tie_word_embeddings
        self.lm_head = None if tied else nn.Linear(layer.hidden_size, layer.vocab_size, bias=False)
        self.post_init()

    @property
    def head_VH(self) -> Tensor:
        """The vocabulary head, which may be the embedding."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    @property
    def heads(self) -> tuple[Tensor, ...]:
        """[V, H] the language model's own head."""
        return (self.head_VH,)

    @torch.no_grad()
    def initialise(self, given: Initialisation) -> None:
        """The weights of the model that the settings name; else random layers between the verifier's ends, if as wide."""
        for module in (*self.model.modules(), *([self.lm_head] if self.lm_head is not None else [])):
            self.model._init_weights(module)  # also the rotary embedding's frequencies, which are no weights
        if given.start is not None:
            for name, tensor in self.state_dict().items():
                tensor.copy_(given.start.read(name, tensor.device, tensor.dtype))
        elif given.verifier.embed_VH.shape[1] == self.head_VH.shape[1]:
            self.model.embed_tokens.weight.copy_(given.verifier.embed_VH)
            self.head_VH.copy_(given.verifier.head_VH)

    def forward(
        self, batch: Batch, states: VerifierStates, verifier: VerifierHead, context: TrainingContext[Any]
    ) -> DraftOutput:
        """A row reads its document's true tokens up to its target: those after the anchor too, as drafting does."""
        document_BT = batch.document_BT
        same_BTT = document_BT.unsqueeze(2) == document_BT.unsqueeze(1)
        hidden_BTH = self.model(
            input_ids=batch.token_BT,
            position_ids=batch.position_BT,
            attention_mask=additive_mask(same_BTT.tril(), product_dtype(self.head_VH)),
            use_cache=False,
        ).last_hidden_state
        return DraftOutput({"rows": Rows.of(hidden_BTH.flatten(0, 1)[batch.rows.target_R], self.head_VH)})

    def drafter(self, verifier: VerifierHead, batch_size: int) -> LanguageModelDrafter:
        """Each token from the text and the tokens drafted before it."""
        return LanguageModelDrafter(self.model, lambda hidden: F.linear(hidden, self.head_VH), batch_size)
