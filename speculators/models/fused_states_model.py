"""The model of drafts that read fused states of several of the verifier's layers, as vLLM computes it."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speculators.model import SpeculatorModel
from speculators.models.states_config import FusedStatesConfig
from speculators.nn.attention import Attend, Seen, layer_windows
from speculators.nn.decoder_layer import DecoderLayer, FusingLayer
from speculators.nn.norm import RMSNorm
from speculators.nn.rotary import Rotary
from speculators.nn.start import start_weights
from speculators.nn.unroll import Step
from speculators.nn.vocabulary import most_frequent, widen
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.protocols.initialisation import Initialisation


class FusedStatesModel(SpeculatorModel):
    """Base of drafts that read fused verifier layers and the next token's embedding, computed as vLLM computes them.

    A subclass calls `post_init` when it has made its own tensors.
    """

    config: FusedStatesConfig
    # Upstream's checkpoints hold the verifier's embedding, which a draft here is given.
    _keys_to_ignore_on_load_unexpected = ["embed_tokens.weight"]

    d2t: Tensor
    t2d: Tensor

    def __init__(self, config: FusedStatesConfig) -> None:
        super().__init__(config)
        layer = config.transformer_layer_config
        ids = config.eagle_aux_hidden_state_layer_ids
        if ids is None:
            raise ValueError("eagle_aux_hidden_state_layer_ids: a draft cannot be built without them, e.g. [2, 16, 29]")
        target_size = config.target_hidden_size or layer.hidden_size
        self.embed_tokens = nn.Embedding(layer.vocab_size, layer.hidden_size) if config.embed_requires_grad else None
        self.input_norm = RMSNorm(len(ids) * target_size, layer.rms_norm_eps) if config.norm_before_fc else None
        self.fc_norm = nn.ModuleList(RMSNorm(target_size, layer.rms_norm_eps) for _ in ids) if config.fc_norm else None
        self.fc = nn.Linear(len(ids) * target_size, layer.hidden_size, bias=False)
        first, *further = layer_windows(layer)
        self.layers = nn.ModuleList([FusingLayer(layer, config.norm_before_residual, first)])
        self.layers.extend(DecoderLayer(layer, window=window) for window in further)
        self.norm = RMSNorm(layer.hidden_size, layer.rms_norm_eps)
        self.lm_head = nn.Linear(layer.hidden_size, config.draft_vocab_size, bias=False)
        if config.draft_vocab_size < layer.vocab_size:
            # Verifier id of draft token i is i + d2t[i]; t2d marks the verifier's tokens that the draft has.
            self.register_buffer("d2t", torch.zeros(config.draft_vocab_size, dtype=torch.int64))
            self.register_buffer("t2d", torch.zeros(layer.vocab_size, dtype=torch.bool))
        self.rotary = Rotary(layer)

    @property
    def layer_ids(self) -> tuple[int, ...]:
        """The fused verifier layers, ascending."""
        return tuple(self.config.eagle_aux_hidden_state_layer_ids or ())

    @property
    def kept_D(self) -> Tensor | None:
        """[D] verifier ids of the draft's tokens; None if it has all."""
        if self.config.draft_vocab_size == self.config.target_vocab_size:
            return None
        return self.d2t + torch.arange(len(self.d2t), device=self.d2t.device)

    @property
    def heads(self) -> tuple[Tensor, ...]:
        """[D, H] head of all slots."""
        return (self.lm_head.weight,)

    @torch.no_grad()
    def initialise(self, given: Initialisation) -> None:
        """Random layers; head and embedding start as the verifier's; the draft vocabulary is the most frequent tokens."""
        verifier = given.verifier
        start_weights(self, self.config.transformer_layer_config.initializer_range)
        if self.config.draft_vocab_size < self.config.target_vocab_size:
            kept_D = most_frequent(given.token_count_V, len(self.d2t)).to(self.d2t.device)
            self.d2t.copy_(kept_D - torch.arange(len(kept_D), device=kept_D.device))
            self.t2d.zero_()[kept_D] = True
        head_VH = verifier.head_VH
        self.lm_head.weight.copy_(head_VH if self.kept_D is None else head_VH[self.kept_D])
        if self.embed_tokens is not None:
            self.embed_tokens.weight.copy_(verifier.embed_VH)

    @torch.no_grad()
    def borrow(self, missing: Collection[str], verifier: VerifierHead) -> None:
        """The whole vocabulary's head is the verifier's where the file has none; `t2d` says what `d2t` says."""
        if "lm_head.weight" in missing:
            self.lm_head.weight.copy_(verifier.head_VH)
        super().borrow(set(missing) - {"lm_head.weight", "t2d"}, verifier)

    def features(self, states: VerifierStates) -> Tensor:
        """The verifier's layers, fused to one state."""
        assert states.aux_BTA is not None  # layer_ids is never empty
        return self.fuse(states.aux_BTA.to(self.fc.weight.dtype))

    def fuse(self, aux_BTA: Tensor) -> Tensor:
        """[B, T, H] one state of the layers' states, which lie side by side."""
        if self.input_norm is not None:
            aux_BTA = self.input_norm(aux_BTA)
        if self.fc_norm is not None:
            parts = aux_BTA.chunk(len(self.fc_norm), dim=-1)
            aux_BTA = torch.cat([norm(part) for norm, part in zip(self.fc_norm, parts, strict=True)], dim=-1)
        return self.fc(aux_BTA)

    def embed(self, token_BT: Tensor, verifier: VerifierHead) -> Tensor:
        """The draft's own embedding, or the verifier's."""
        embed_BTH = verifier.embed(token_BT) if self.embed_tokens is None else self.embed_tokens(token_BT)
        return embed_BTH.to(self.fc.weight.dtype)

    def logits(self, output_NH: Tensor, verifier: VerifierHead) -> Tensor:
        """The draft's head, over the verifier's vocabulary."""
        return widen(F.linear(output_NH, self.lm_head.weight), self.kept_D, self.config.target_vocab_size)

    def step(
        self,
        embed_BTH: Tensor,
        fed_BTH: Tensor,
        position_BT: Tensor,
        past: Sequence[Seen],
        attend: Attend,
    ) -> Step:
        """One pass; the next step is fed the residual stream, or the normalised one with `norm_output`."""
        rotation = self.rotary(position_BT, embed_BTH.dtype)
        x_BTH, own = self.layers[0](embed_BTH, fed_BTH, rotation, past[0], attend)
        seen = [own]
        for i, layer in enumerate(self.layers[1:], start=1):
            x_BTH, own = layer(x_BTH, rotation, past[i], attend)
            seen.append(own)
        output_BTH = self.norm(x_BTH)
        return Step(output_BTH if self.config.norm_output else x_BTH, output_BTH, seen)
