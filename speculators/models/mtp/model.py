"""MTP: the verifier's own layer, applied again to its output (FastMTP, arXiv:2509.18362), as vLLM computes MiMo's."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from speculators.model import SpeculatorModel, TrainingContext
from speculators.models.mtp.config import MTPSpeculatorConfig
from speculators.models.mtp.export import MTPLayout
from speculators.nn.attention import Attend, Seen
from speculators.nn.decoder_layer import DecoderLayer
from speculators.nn.norm import RMSNorm
from speculators.nn.recurrent_drafter import RecurrentDrafter
from speculators.nn.rotary import Rotary
from speculators.nn.unroll import Step, unroll
from speculators.protocols.batch import Batch
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.protocols.initialisation import Initialisation
from speculators.protocols.rows import DraftOutput, Rows


class MTPLayer(DecoderLayer):
    """A decoder layer with a projection before it, and norms on what is projected and on its output.

    Args:
        config: the verifier's layer config.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        size, eps = config.hidden_size, config.rms_norm_eps
        self.hidden_layernorm, self.token_layernorm = RMSNorm(size, eps), RMSNorm(size, eps)
        self.input_proj = nn.Linear(2 * size, size, bias=False)
        self.final_layernorm = RMSNorm(size, eps)
        # Upstream's layers of plain Qwen3 models put the embedding first, and keep the one at position 0.
        self.of_mimo = config.model_type == "qwen2"

    def joined(self, embed_BTH: Tensor, fed_BTH: Tensor, position_BT: Tensor) -> Tensor:
        """[B, T, H] the decoder layer's input, of a token's embedding and the state before it."""
        if self.of_mimo:  # vllm/model_executor/models/mimo_mtp.py:MiMoMultiTokenPredictorLayer.forward
            embed_BTH = embed_BTH.masked_fill((position_BT == 0).unsqueeze(-1), 0.0)
        parts = self.hidden_layernorm(fed_BTH), self.token_layernorm(embed_BTH)
        return self.input_proj(torch.cat(parts if self.of_mimo else parts[::-1], dim=-1))


@SpeculatorModel.register("mtp")
class MTPDraftModel(SpeculatorModel):
    """One layer over the verifier's state and the next token's embedding; its output takes the state's place."""

    config_class = MTPSpeculatorConfig
    config: MTPSpeculatorConfig

    same_at_any_depth = True

    def __init__(self, config: MTPSpeculatorConfig) -> None:
        super().__init__(config)
        layer = config.transformer_layer_config
        self.mtp_layers = nn.ModuleList([MTPLayer(layer)])
        self.rotary = Rotary(layer)
        self.post_init()

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers, under the name that they have in other drafts."""
        return self.mtp_layers

    @property
    def layer_ids(self) -> tuple[int, ...]:
        """The state after the last layer, before the final norm: what MiMo's model in vLLM returns and feeds its MTP layer.

        vllm/model_executor/models/mimo.py:MiMoForCausalLM.compute_logits applies the norm.
        """
        return (self.config.transformer_layer_config.num_hidden_layers,)

    @torch.no_grad()
    def initialise(self, given: Initialisation) -> None:
        """The verifier's own layer.

        Raises:
            ValueError: the verifier's checkpoint has none.
        """
        checkpoint = given.open_checkpoint()
        for name, tensor in self.state_dict().items():
            stored = MTPLayout.native_name(name)
            if stored not in checkpoint.names:
                raise ValueError(
                    f"verifier.name_or_path: the checkpoint has no tensor {stored}, and this algorithm trains the MTP layer "
                    "that the verifier comes with; choose a verifier that has one"
                )
            tensor.copy_(checkpoint.read(stored, tensor.device, tensor.dtype))

    def features(self, states: VerifierStates) -> Tensor:
        """The verifier's state before its final norm."""
        assert states.aux_BTA is not None  # layer_ids is never empty
        return states.aux_BTA.to(self.dtype)

    def embed(self, token_BT: Tensor, verifier: VerifierHead) -> Tensor:
        """The verifier's embedding."""
        return verifier.embed(token_BT).to(self.dtype)

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
        """One pass; the normalised output is both what the head reads and what is fed back."""
        (layer,) = self.mtp_layers
        assert isinstance(layer, MTPLayer)
        x_BTH = layer.joined(embed_BTH, fed_BTH, position_BT)
        x_BTH, seen = layer(x_BTH, self.rotary(position_BT, x_BTH.dtype), past[0], attend)
        output_BTH = layer.final_layernorm(x_BTH)
        return Step(output_BTH, output_BTH, [seen])

    def forward(
        self, batch: Batch, states: VerifierStates, verifier: VerifierHead, context: TrainingContext[Any]
    ) -> DraftOutput:
        """Rows of all slots, unrolled as in `unroll`."""
        output_RH = unroll(self, batch, states, verifier)
        return DraftOutput({"rows": Rows.of(output_RH, verifier.head_VH, scaled_as_verifier=True)})

    def drafter(self, verifier: VerifierHead, batch_size: int) -> RecurrentDrafter:
        """Each token is drafted from the layer's output at the token before it."""
        return RecurrentDrafter(self, verifier, batch_size)
