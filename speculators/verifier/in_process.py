"""The verifier, loaded in this process."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin, get_layer_types_and_kwargs

from speculators.protocols.batch import Batch
from speculators.protocols.hidden_states import VerifierStates
from speculators.verifier.alone import groups, placed
from speculators.verifier.head import head_of
from speculators.verifier.location import local_path
from speculators.verifier.settings import VerifierSettings
from speculators.verifier.structure import auto_class, check_structure, read_config, structure_of
from speculators.verifier.tensors import VerifierTensors


class Verifier:
    """A frozen causal language model of transformers; implements `HiddenStates`.

    Args:
        model: the whole model.
        name: used in messages.

    Attributes:
        model: the whole model, in evaluation mode, without gradients.
        head: its embedding and output head.
        eos_ids: tokens that end a text, those of its generation config.
        prefetch_steps: 0, since states are computed when they are requested.

    Raises:
        ValueError: a draft cannot be trained for this class of model.
    """

    prefetch_steps = 0

    def __init__(self, model: PreTrainedModel, name: str = "the verifier") -> None:
        self.model = model.requires_grad_(False).eval()
        structure = structure_of(model, name)
        self.decoder, self._layers = structure.decoder, structure.layers
        self.head = head_of(model)
        eos = model.generation_config.eos_token_id if model.generation_config else model.config.eos_token_id
        self.eos_ids = frozenset(eos if isinstance(eos, list) else [] if eos is None else [eos])

    @classmethod
    def load(cls, settings: VerifierSettings, device: torch.device) -> "Verifier":
        """Read the weights onto `device`.

        Raises:
            NotInSafetensors: the weights are in another format, which may be a pickle.
            ValueError: a draft cannot be trained for this class of model, a file of the weights is outside the folder, or
                a package that the model needs is not installed; raised before the weights are read.
        """
        try:
            check_structure(settings)
            VerifierTensors(settings)  # refuses files that the library would read
            auto: Any = auto_class(read_config(settings), settings.name_or_path)
            model = auto.from_pretrained(
                local_path(settings.name_or_path),
                revision=settings.revision,
                trust_remote_code=settings.trust_remote_code,
                dtype=run_dtype(settings, device.type == "cpu"),
                device_map={"": device},
                use_safetensors=True,
            )
        except ImportError as error:
            raise ValueError(f"verifier.name_or_path: {settings.name_or_path} needs a package: {error}") from error
        verifier = cls(model, settings.name_or_path)
        verifier.check_head(settings.name_or_path)
        return verifier

    @torch.no_grad()
    def check_head(self, name: str) -> None:
        """Check that decoder and head reproduce the model's own logits: some classes compute more than these.

        Args:
            name: the verifier, for the message.

        Raises:
            ValueError: they do not.
        """
        token_BT = torch.arange(1, 5, device=self.device).unsqueeze(0) % len(self.head.embed_VH)
        right_BTV = self.model(input_ids=token_BT, use_cache=False).logits
        states = self.states(token_BT, torch.arange(4, device=self.device).unsqueeze(0), ())
        # Rounding of half precision is below a hundredth of the largest logit.
        far = (self.head.logits(states.last_BTH) - right_BTV).abs().max() > 1e-2 * right_BTV.abs().max()
        if far:
            raise ValueError(
                f"verifier.name_or_path: {name} is a {type(self.model).__name__}, whose logits are not the product of its "
                "output head and its last state; choose another verifier"
            )

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.head.embed_VH.device

    def announce(self, batch: Batch, layer_ids: Sequence[int]) -> None:
        """Does nothing: there is nothing to fetch."""

    def stop_waiting(self) -> None:
        """Does nothing: it waits for no server."""

    def __call__(self, batch: Batch, layer_ids: Sequence[int]) -> VerifierStates:
        """States of a packed batch, for each document as if computed alone; undefined at padding."""
        if self.packs:
            tokens, positions = (x.to(self.device, non_blocking=True) for x in (batch.token_BT, batch.position_BT))
            return self.states(tokens, positions, layer_ids)
        B, T = batch.token_BT.shape
        parts = []
        for index_DL in groups(batch):
            # Padding follows its document, and attention is causal: no token attends to it.
            token_DL = batch.token_BT.flatten()[index_DL.clamp_min(0)].to(self.device)
            position_DL = torch.arange(index_DL.shape[1], device=self.device).expand_as(token_DL)
            parts.append((index_DL, self.states(token_DL, position_DL, layer_ids)))
        last = [(index_DL, states.last_BTH) for index_DL, states in parts]
        aux = [(index_DL, states.aux_BTA) for index_DL, states in parts if states.aux_BTA is not None]
        return VerifierStates(placed(last, (B, T)), placed(aux, (B, T)) if aux else None)

    @property
    def other_layers(self) -> list[str]:
        """Kinds of layers other than full and sliding attention, in the terms of transformers."""
        kinds, _ = get_layer_types_and_kwargs(self.model.config.get_text_config(decoder=True))
        return sorted(set(kinds) - {"full_attention", "sliding_attention"})

    @cached_property
    def packs(self) -> bool:
        """Whether a packed row is computed as it is; otherwise each document gets a row of its own.

        On a CPU the mask of a packed row costs more than the padding of documents in rows of their own.
        """
        return self.device.type != "cpu" and self.isolates

    @cached_property
    def isolates(self) -> bool:
        """Whether restarting positions isolates the documents of a packed row in this model.

        Layers other than full and sliding attention carry state across documents, or count chunks from the start of
        the row. For these two it is measured, on a document packed with two others, because some classes of
        transformers ignore the positions in their masks.
        """
        if self.other_layers:
            return False
        token_T = torch.arange(24, device=self.device) % len(self.head.embed_VH)
        before_2L, own_L = token_T[:16].view(2, 8), token_T[16:]
        token_BT = torch.cat((before_2L, own_L.expand(2, 8)), dim=1)
        position_BT = torch.arange(8, device=self.device).repeat(2, 2)
        one_LH, other_LH = self.states(token_BT, position_BT, ()).last_BTH[:, 8:].float()
        # Rounding may differ where tokens are routed to experts; a false positive costs only padding.
        return bool((one_LH - other_LH).norm() < 1e-2 * one_LH.norm())

    def new_cache(self) -> Cache:
        """An empty cache that keeps every token, also for sliding-window layers."""
        layers = DynamicCache(config=self.model.config).layers
        stateful = [isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers]
        kept = [layer if has_state else DynamicLayer() for layer, has_state in zip(layers, stateful, strict=True)]
        return Cache(layers=kept) if any(stateful) else DynamicCache()

    @torch.no_grad()
    def states(
        self,
        token_BT: Tensor,
        position_BT: Tensor,
        layer_ids: Sequence[int],
        mask_BL: Tensor | Mapping[str, Tensor] | None = None,
        cache: Cache | None = None,
    ) -> VerifierStates:
        """Run one pass of the decoder, without logits.

        Args:
            token_BT: int64 token ids.
            position_BT: int64 positions.
            layer_ids: layers whose input to capture, ascending; the number of layers names the last one's output.
            mask_BL: bool, False at padding; L counts cached tokens, then these. Or masks [B, 1, T, L] that are added to
                attention scores, one for all layers or by kind of layer.
            cache: keys and values of earlier tokens; these are appended.
        """
        captured: dict[int, Tensor] = {}
        with ExitStack() as hooks:
            for i in layer_ids:
                hooks.callback(_capture(self._layers, i, captured).remove)
            output = self.decoder(
                input_ids=token_BT,
                position_ids=position_BT,
                attention_mask=mask_BL,
                past_key_values=cache,
                use_cache=cache is not None,
            )
        aux_BTA = torch.cat([captured[i] for i in layer_ids], dim=-1) if layer_ids else None
        return VerifierStates(output.last_hidden_state, aux_BTA)


def run_dtype(settings: VerifierSettings, on_cpu: bool) -> str:
    """dtype of the weights as they are run; `auto` is the checkpoint's own."""
    # Most CPUs emulate half precision: several times slower than float32.
    return "float32" if settings.dtype == "auto" and on_cpu else settings.dtype


def _capture(layers: Any, layer_id: int, captured: dict[int, Tensor]) -> Any:
    """A hook that keeps the residual stream entering a layer, or leaving the last."""

    def entering(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        captured[layer_id] = args[0] if args else kwargs["hidden_states"]

    def leaving(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        captured[layer_id] = output if isinstance(output, Tensor) else output[0]

    if layer_id < len(layers):
        return layers[layer_id].register_forward_pre_hook(entering, with_kwargs=True)
    return layers[-1].register_forward_hook(leaving)
