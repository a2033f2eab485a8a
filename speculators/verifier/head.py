"""The verifier's embedding, final norm and output head, of a loaded model or alone from its safetensors files."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from speculators.protocols.head import VerifierHead
from speculators.verifier.settings import VerifierSettings
from speculators.verifier.structure import final_norm_of, without_weights
from speculators.verifier.tensors import NotInSafetensors, VerifierTensors


def head_of(model: PreTrainedModel) -> VerifierHead:
    """Embedding and head of a model; its other weights are not read, and may be on the meta device."""
    config = model.config.get_text_config().to_dict()
    embedding: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    return VerifierHead(
        embed_VH=embedding.weight.detach(),
        head_VH=head.weight.detach(),
        bias_V=None if head.bias is None else head.bias.detach(),
        logit_scale=_logit_scale(config),
        softcap=config.get("final_logit_softcapping"),
    )


def _logit_scale(config: dict[str, Any]) -> float:
    """The factor by which a model multiplies its logits.

    Cohere and Falcon-H1 multiply by it, Granite divides; `Verifier.load` checks the result.
    """
    scaling = config.get("logits_scaling") or 1.0
    if config["model_type"] == "hyperclovax":  # Granite's key, but multiplied
        return scaling
    return config.get("logit_scale") or config.get("lm_head_multiplier") or 1.0 / scaling


def read_head(settings: VerifierSettings, dtype: str, device: torch.device) -> VerifierHead:
    """Embedding and head alone, equal to those of the loaded model.

    Args:
        settings: where the verifier is.
        dtype: of the weights as they are run, or `auto`: the config's, else the checkpoint's.
        device: where they go.

    Raises:
        NotInSafetensors: the checkpoint has another format, or other names for these tensors.
    """
    tensors = VerifierTensors(settings)
    with torch.device("meta"):
        model = without_weights(settings, dtype)
    embedding: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    tied = head.weight is embedding.weight
    read: dict[str, Tensor] = {}
    for module, other in ((embedding, head), (head, embedding)):
        _fill(model, module, [other] if tied else [], tensors, device, read)
    return head_of(model)


def read_final_norm(settings: VerifierSettings, dtype: str, device: torch.device) -> nn.Module:
    """The norm before the output head alone, equal to that of the loaded model.

    Args: as `read_head`.

    Raises:
        NotInSafetensors: as `read_head`.
        ValueError: the verifier has no such norm.
    """
    with torch.device("meta"):
        model = without_weights(settings, dtype)
    norm = final_norm_of(model, settings.name_or_path)
    _fill(model, norm, [], VerifierTensors(settings), device, {})
    return norm.requires_grad_(False).eval()


def _fill(
    model: PreTrainedModel,
    module: nn.Module,
    tied: Sequence[nn.Module],
    tensors: VerifierTensors,
    device: torch.device,
    read: dict[str, Tensor],
) -> None:
    """Read the parameters of one module of a model from the checkpoint.

    Args:
        model: on the meta device.
        module: one of its modules.
        tied: modules whose `weight` is the same tensor, and may be the one that is stored.
        tensors: of the checkpoint.
        device: where the parameters go.
        read: what was read so far, by its name in the checkpoint; what is read is added.
    """
    prefixes = {m: name for name, m in model.named_modules()}
    values = {}
    for name, parameter in module.named_parameters():
        owners = (module, *tied) if name == "weight" else (module,)
        stored = _stored(tensors, [f"{prefixes[owner]}.{name}" for owner in owners], parameter)
        if stored not in read:
            # Without a dtype in the config, from_pretrained takes the checkpoint's.
            read[stored] = tensors.read(stored, device, parameter.dtype if model.config.dtype else None)
        values[name] = read[stored]
    module.load_state_dict(values, strict=False, assign=True)


def _stored(tensors: VerifierTensors, names: list[str], parameter: nn.Parameter) -> str:
    """The checkpoint's name of a parameter: the model's own, or the only one with the same ending and shape.

    Checkpoints of multimodal or older models have other prefixes before the names.
    """
    for name in names:
        if name in tensors.names:
            return name
        last = ".".join(name.split(".")[-2:])
        alike = [n for n in tensors.names if f".{n}".endswith(f".{last}") and tensors.shape(n) == parameter.shape]
        if len(alike) == 1:
            return alike[0]
    raise NotInSafetensors(f"no tensor in the safetensors files is {' or '.join(names)}")
