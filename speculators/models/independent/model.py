"""An independent draft: transformers' own language model, trained on the verifier's distributions."""

from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, DynamicCache
from transformers.cache_utils import DynamicLayer

from speculators.data.row_plan import conditional_drop_token
from speculators.model import SpeculatorModel, TrainingContext
from speculators.models.independent.config import IndependentSpeculatorConfig
from speculators.models.independent.draft import LanguageModelDrafter, MaskedPlacesDrafter
from speculators.models.independent.settings import IndependentSettings
from speculators.nn.attention import additive_mask
from speculators.nn.masked_chains import MaskedPlaces, masked_chains
from speculators.nn.precision import product_dtype
from speculators.protocols.batch import Batch
from speculators.protocols.drafter import Drafter
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.protocols.initialisation import Initialisation
from speculators.protocols.rows import DraftOutput, PackedTargets, Rows, SequenceRows


@SpeculatorModel.register("independent")
class IndependentSpeculator(SpeculatorModel):
    """A small language model of the verifier's vocabulary (Leviathan et al. 2023, arXiv:2211.17192)."""

    config_class = IndependentSpeculatorConfig
    config: IndependentSpeculatorConfig
    reads_states: ClassVar[bool] = False

    def __init__(self, config: IndependentSpeculatorConfig) -> None:
        super().__init__(config)
        if config.parallel_drafting and config.pard_token is None:
            raise ValueError("pard_token: a draft with parallel_drafting=true cannot be built without it")
        # Of masked places; None drafts token by token.
        self.mask_token = config.pard_token if config.parallel_drafting else None
        self.one_pass = self.mask_token is not None
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

    @classmethod
    def plan_rows(cls, settings: IndependentSettings, sequence: PackedTargets, generator: Generator) -> SequenceRows:
        """Every target; in parallel, nested chains of masked places that thin out from slot to slot."""
        if not settings.parallel_drafting:
            return super().plan_rows(settings, sequence, generator)
        ratios = settings.down_sample_ratio, settings.down_sample_ratio_min
        return conditional_drop_token(sequence, settings.para_num, *ratios, generator)

    def forward(
        self, batch: Batch, states: VerifierStates, verifier: VerifierHead, context: TrainingContext[Any]
    ) -> DraftOutput:
        """A row of slot 1 reads its document's true tokens up to its target, those of further slots up to slot 1's target.

        Token by token there is one slot, whose target is any: drafting reads the tokens that it has drafted as if true.
        """
        same_BTT = batch.document_BT.unsqueeze(2) == batch.document_BT.unsqueeze(1)
        dtype, cache = product_dtype(self.head_VH), None if self.mask_token is None else DynamicCache()
        hidden_BTH = self.model(
            input_ids=batch.token_BT,
            position_ids=batch.position_BT,
            attention_mask=additive_mask(same_BTT.tril(), dtype),
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        output_RH = hidden_BTH.flatten(0, 1)[batch.rows.of_slot(batch.rows.target_R, 1)]
        if cache is not None:
            output_RH = torch.cat((output_RH, self.chains(cache, batch, dtype, output_RH[:0])))
        return DraftOutput({"rows": Rows.of(output_RH, self.head_VH)})

    def chains(self, cache: DynamicCache, batch: Batch, dtype: torch.dtype, empty_0H: Tensor) -> Tensor:
        """[R', H] outputs of the rows of slot 2 and further, in the plan's order; `cache` is of the text.

        A mask token stands at a row's target, and at each position between that and the token after its anchor, which is true.
        """
        text: list[tuple[Tensor, Tensor]] = []
        for layer in cache.layers:
            assert isinstance(layer, DynamicLayer) and layer.keys is not None and layer.values is not None
            text.append((layer.keys, layer.values))

        def compute(places: MaskedPlaces) -> Tensor:
            past = DynamicCache([places.text(*of_layer) for of_layer in text])
            return self.model(
                input_ids=torch.full_like(places.position_1C, self.mask_token or 0),
                position_ids=places.position_1C,
                attention_mask=places.mask_11CL,
                past_key_values=past,
                use_cache=True,
            ).last_hidden_state[0]

        return masked_chains(batch, 1, dtype, empty_0H, compute)

    def drafter(self, verifier: VerifierHead, batch_size: int) -> Drafter:
        """Each token from the text and the tokens drafted before it, or all from the text in one pass."""
        one_by_one = LanguageModelDrafter(self.model, lambda hidden: F.linear(hidden, self.head_VH), batch_size)
        return one_by_one if self.mask_token is None else MaskedPlacesDrafter(one_by_one, self.mask_token)
