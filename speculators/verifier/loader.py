"""Loads a run's verifier: whole only while its layers are needed, otherwise its embedding, final norm and head alone."""

import gc
import logging

import torch
from torch import nn

from speculators.protocols.head import VerifierHead
from speculators.verifier.head import read_final_norm, read_head
from speculators.verifier.in_process import Verifier, run_dtype
from speculators.verifier.settings import VerifierSettings
from speculators.verifier.structure import final_norm_of
from speculators.verifier.tensors import NotInSafetensors

log = logging.getLogger(__name__)


class VerifierLoader:
    """Loads a verifier on demand.

    Args:
        settings: which verifier.
        device: where it is loaded.

    Attributes:
        dtype: name of the dtype that it runs in; `auto` is that of its checkpoint, whatever it is.
    """

    def __init__(self, settings: VerifierSettings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.dtype = run_dtype(settings, device.type == "cpu")
        self._whole: Verifier | None = None

    def whole(self) -> Verifier:
        """The whole model, loaded if it is not in memory."""
        if self._whole is None:
            self._whole = Verifier.load(self.settings, self.device)
        return self._whole

    def head(self) -> VerifierHead:
        """Embedding and head; the layers are loaded too only if the checkpoint's tensors have other names."""
        try:
            return read_head(self.settings, self.dtype, self.device)
        except NotInSafetensors as error:
            log.info("loading the whole verifier, for its embedding and head: %s", error)
            return self.whole().head

    def final_norm(self) -> nn.Module:
        """The norm before the head, as `head`; ValueError if the verifier has none."""
        try:
            return read_final_norm(self.settings, self.dtype, self.device)
        except NotInSafetensors:
            return final_norm_of(self.whole().model, self.settings.name_or_path)

    def release(self) -> None:
        """Release the whole model; parts already taken from it, such as its head, stay."""
        self._whole = None
        gc.collect()
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()
