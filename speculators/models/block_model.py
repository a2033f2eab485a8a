"""What drafts of blocks share: layers whose context is the verifier's states (DFlash, arXiv:2602.06036), as vLLM computes them.

model_executor/models/qwen3_dflash.py has vLLM's.
"""

from collections.abc import Collection, Sequence
from functools import partial

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from speculators.data.row_plan import sampled_blocks
from speculators.losses.weights import dpace
from speculators.model import SpeculatorModel
from speculators.models.block_settings import BlockSettings
from speculators.models.states_config import BlockConfig
from speculators.nn.attention import KeyValue
from speculators.nn.blocks import Attends, LayerKind
from speculators.nn.decoder_layer import DecoderLayer
from speculators.nn.norm import RMSNorm
from speculators.nn.rotary import Rotary
from speculators.nn.start import start_weights
from speculators.nn.vocabulary import FrozenHead, most_frequent, widen
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.protocols.initialisation import Initialisation
from speculators.protocols.rows import PackedTargets, RowWeights, SequenceRows


class BlockModel(SpeculatorModel):
    """Decoder layers over blocks; embedding and head are the verifier's, frozen. Implements `nn.blocks.BlockDraft`."""

    config: BlockConfig

    one_pass = True

    d2t: Tensor
    t2d: Tensor

    def __init__(self, config: BlockConfig) -> None:
        super().__init__(config)
        layer = config.transformer_layer_config
        ids = config.aux_hidden_state_layer_ids
        if ids is None or config.mask_token_id is None:
            raise ValueError(
                "aux_hidden_state_layer_ids, mask_token_id: a draft cannot be built without them, e.g. [2, 16, 29] and 0"
            )
        if layer.model_type != "qwen3":
            raise ValueError(
                f"transformer_layer_config.model_type: {layer.model_type}; these drafts have qwen3 layers alone"
            )
        target_size = config.target_hidden_size or layer.hidden_size
        self.fc = nn.Linear(len(ids) * target_size, layer.hidden_size, bias=False)
        self.hidden_norm = RMSNorm(layer.hidden_size, layer.rms_norm_eps)
        layers = [DecoderLayer(layer) for _ in range(layer.num_hidden_layers)]
        if layer.attention_bias:  # other drafts of Qwen3 layers have no bias there
            for each in layers:
                each.self_attn.o_proj = nn.Linear(each.self_attn.o_proj.in_features, layer.hidden_size)
        self.layers = nn.ModuleList(layers)
        self.norm = RMSNorm(layer.hidden_size, layer.rms_norm_eps)
        self.reduced = config.draft_vocab_size < layer.vocab_size
        if self.reduced:
            self.lm_head = FrozenHead(config.draft_vocab_size, layer.hidden_size)
            # Verifier id of draft token i is i + d2t[i]; t2d marks the verifier's tokens that the draft has.
            self.register_buffer("d2t", torch.zeros(config.draft_vocab_size, dtype=torch.int64))
            self.register_buffer("t2d", torch.zeros(layer.vocab_size, dtype=torch.bool))
        self.rotary = Rotary(layer)
        self.mask_token_id = config.mask_token_id
        self.first_input = 0 if config.sample_from_anchor else 1

    @property
    def kinds(self) -> list[LayerKind]:
        """The window and the direction of each layer."""
        layer = self.config.transformer_layer_config
        sliding = [kind == "sliding_attention" for kind in layer.layer_types]
        windows = [layer.sliding_window if slides else None for slides in sliding]
        return [LayerKind(w, self.is_causal(slides)) for w, slides in zip(windows, sliding, strict=True)]

    def is_causal(self, slides: bool) -> bool:
        """Whether a layer with or without a sliding window sees nothing of later positions, in vLLM."""
        raise NotImplementedError(f"{type(self).__name__} does not say which layers are causal")

    @property
    def layer_ids(self) -> tuple[int, ...]:
        """The verifier layers that are read, ascending."""
        return tuple(self.config.aux_hidden_state_layer_ids or ())

    @property
    def kept_D(self) -> Tensor | None:
        """[D] verifier ids of the draft's tokens; None if it has all."""
        return self.d2t + torch.arange(len(self.d2t), device=self.d2t.device) if self.reduced else None

    def head(self, verifier: VerifierHead) -> Tensor:
        """[D, H] the verifier's head, or its rows of a reduced vocabulary."""
        return self.lm_head.weight if self.reduced else verifier.head_VH

    @torch.no_grad()
    def initialise(self, given: Initialisation) -> None:
        """Random layers; the draft vocabulary is the most frequent tokens."""
        start_weights(self, self.config.transformer_layer_config.initializer_range)
        if self.reduced:
            kept_D = most_frequent(given.token_count_V, len(self.d2t)).to(self.d2t.device)
            self.d2t.copy_(kept_D - torch.arange(len(kept_D), device=kept_D.device))
            self.t2d.zero_()[kept_D] = True
            self.lm_head.weight.copy_(given.verifier.head_VH[kept_D])

    @torch.no_grad()
    def borrow(self, missing: Collection[str], verifier: VerifierHead) -> None:
        """`t2d` says what `d2t` says."""
        super().borrow(set(missing) - {"t2d"}, verifier)

    @classmethod
    def plan_rows(cls, settings: BlockSettings, sequence: PackedTargets, generator: Generator) -> SequenceRows:
        """Blocks after anchors that are drawn anew in every step."""
        return sampled_blocks(sequence, settings.max_anchors, settings.slots, generator)

    @staticmethod
    def row_weights(settings: BlockSettings) -> RowWeights | None:
        """D-PACE's weights, or None."""
        return None if settings.dpace_alpha is None else partial(dpace, alpha=settings.dpace_alpha)

    def embed(self, token_BM: Tensor, verifier: VerifierHead) -> Tensor:
        """The verifier's embedding."""
        return verifier.embed(token_BM).to(self.fc.weight.dtype)

    def features(self, states: VerifierStates) -> Tensor:
        """The verifier's layers, fused to one state and normalised."""
        assert states.aux_BTA is not None  # layer_ids is never empty
        return self.hidden_norm(self.fc(states.aux_BTA.to(self.fc.weight.dtype)))

    def context(self, features_BTH: Tensor, position_BT: Tensor) -> list[KeyValue]:
        """Of every layer, without its input norm."""
        rotation = self.rotary(position_BT, features_BTH.dtype)
        layers = [layer for layer in self.layers if isinstance(layer, DecoderLayer)]  # all of them
        return [layer.self_attn.keys_values(features_BTH, rotation) for layer in layers]

    def block(self, embed_BQH: Tensor, position_BQ: Tensor, past: Sequence[KeyValue], attends: Attends) -> Tensor:
        """The layers over blocks, and the final norm."""
        rotation, x_BQH = self.rotary(position_BQ, embed_BQH.dtype), embed_BQH
        for layer, own, kind in zip(self.layers, past, self.kinds, strict=True):
            x_BQH, _ = layer(x_BQH, rotation, (own,), attends[kind])
        return self.norm(x_BQH)

    def logits(self, output_NH: Tensor, verifier: VerifierHead) -> Tensor:
        """The head over the draft's vocabulary, -inf elsewhere."""
        head_DH = self.head(verifier)
        logits_ND = verifier.scaled(F.linear(output_NH.to(head_DH.dtype), head_DH), self.kept_D)
        return widen(logits_ND, self.kept_D, self.config.target_vocab_size)
