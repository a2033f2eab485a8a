"""EAGLE-1: a recurrent draft on the verifier's last state (Li et al. 2024, arXiv:2401.15077), as vLLM computes it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speculators.model import SpeculatorModel, TrainingContext
from speculators.models.eagle.config import EagleSpeculatorConfig
from speculators.models.eagle.loss import state_distance
from speculators.nn.attention import Attend, Seen
from speculators.nn.decoder_layer import DecoderLayer
from speculators.nn.noise import uniform_noise
from speculators.nn.recurrent_drafter import RecurrentDrafter
from speculators.nn.rotary import Rotary
from speculators.nn.start import start_weights
from speculators.nn.unroll import Step, unroll
from speculators.protocols.batch import Batch
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.protocols.initialisation import Initialisation
from speculators.protocols.rows import DraftOutput, Rows


def noisy(states: VerifierStates, batch: Batch, width: float) -> VerifierStates:
    """The verifier's last states with uniform noise, as EAGLE's and HASS's code add it: 512 / T times `width` wide.

    T are the tokens of a packed sequence, where their code has one conversation.
    """
    noise_BTH = uniform_noise(batch, states.last_BTH)
    for noise_TH, length in zip(noise_BTH, batch.rows.lengths, strict=True):
        noise_TH.mul_(width * 512 / length)
    return VerifierStates(states.last_BTH + noise_BTH, states.aux_BTA)


@SpeculatorModel.register("eagle")
class EagleSpeculator(SpeculatorModel):
    """The verifier's state and the next token's embedding, fused, through decoder layers; the output is the next state."""

    config_class = EagleSpeculatorConfig
    config: EagleSpeculatorConfig

    same_at_any_depth = True

    def __init__(self, config: EagleSpeculatorConfig) -> None:
        super().__init__(config)
        if config.layernorms or config.fusion_bias:
            raise ValueError("layernorms, fusion_bias: only drafts with both false can be computed, as in vLLM")
        layer = config.transformer_layer_config
        self.fc = nn.Linear(2 * layer.hidden_size, layer.hidden_size, bias=False)
        self.layers = nn.ModuleList(DecoderLayer(layer, input_norm=i > 0) for i in range(layer.num_hidden_layers))
        self.rotary = Rotary(layer)
        self.post_init()

    @torch.no_grad()
    def initialise(self, given: Initialisation) -> None:
        """Random layers; embedding and head stay the verifier's."""
        start_weights(self, self.config.transformer_layer_config.initializer_range)

    def features(self, states: VerifierStates) -> Tensor:
        """The verifier's state after its final norm."""
        return states.last_BTH.to(self.fc.weight.dtype)

    def embed(self, token_BT: Tensor, verifier: VerifierHead) -> Tensor:
        """The verifier's embedding."""
        return verifier.embed(token_BT).to(self.fc.weight.dtype)

    def logits(self, output_NH: Tensor, verifier: VerifierHead) -> Tensor:
        """The verifier's head."""
        return verifier.logits(output_NH.to(verifier.head_VH.dtype))

    def step(
        self,
        embed_BTH: Tensor,
        fed_BTH: Tensor,
        position_BT: Tensor,
        past: Sequence[Seen],
        attend: Attend,
    ) -> Step:
        """One pass; the residual stream, without a final norm, is both what the head reads and what is fed back."""
        rotation = self.rotary(position_BT, embed_BTH.dtype)
        x_BTH = self.fc(torch.cat((embed_BTH, fed_BTH), dim=-1))
        seen = []
        for i, layer in enumerate(self.layers):
            x_BTH, own = layer(x_BTH, rotation, past[i], attend)
            seen.append(own)
        return Step(x_BTH, x_BTH, seen)

    def forward(
        self, batch: Batch, states: VerifierStates, verifier: VerifierHead, context: TrainingContext[Any]
    ) -> DraftOutput:
        """Rows of all slots, unrolled as in `unroll`, and the distance between states."""
        fed, detach = states, False
        if self.training:
            detach, width = context.settings.detach_feedback, context.settings.state_noise
            fed = noisy(states, batch, width) if width else states
        output_RH = unroll(self, batch, fed, verifier, detach)
        distance = state_distance(output_RH, states.last_BTH.flatten(0, 1), batch.rows)
        rows = Rows.of(output_RH, verifier.head_VH, scaled_as_verifier=True)
        return DraftOutput({"rows": rows}, {"smooth_l1": lambda _: distance})

    def drafter(self, verifier: VerifierHead, batch_size: int) -> RecurrentDrafter:
        """Each token is drafted from the state of the token before it."""
        return RecurrentDrafter(self, verifier, batch_size)
