"""SpeculatorModel: the base of every draft model, and the rows that it emits."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from speculators.config import SpeculatorModelConfig
from speculators.protocols.batch import Batch
from speculators.protocols.drafter import Drafter
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.utils.discovery import import_part
from speculators.utils.registry import ClassRegistryMixin


@dataclass(frozen=True)
class Rows:
    """What a draft predicts: row (s, n) imitates the verifier's state at target n from s positions before it.

    Attributes:
        hidden_SNH: states that the head reads, after the draft's own norm.
        heads: [D, H] weights; one for all slots, or one a slot.
        kept_D: verifier token ids of a reduced vocabulary's rows, int64; None if D is the whole vocabulary.
        scaled_as_verifier: the heads' products are scaled and capped as the verifier's: the head is the verifier's own.
    """

    hidden_SNH: Tensor
    heads: tuple[Tensor, ...]
    kept_D: Tensor | None = None
    scaled_as_verifier: bool = False


@dataclass(frozen=True)
class DraftOutput:
    """A forward pass.

    Attributes:
        rows: for the distillation loss.
        extra_losses: losses of other kinds, each the mean over targets; a field of the settings' `loss` weighs each.
    """

    rows: Rows
    extra_losses: Mapping[str, Tensor] = field(default_factory=dict)


# Options of a download, which transformers would take from the arguments of from_pretrained for the config as well.
_DOWNLOAD = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


class SpeculatorModel(ClassRegistryMixin, PreTrainedModel):
    """Base of every draft model; `models/<name>/model.py` registers the one called `<name>`.

    The verifier's embedding and head are no part of the draft: they come as an argument, so a draft is complete once
    built and its state dict is what is published.
    """

    config: SpeculatorModelConfig

    @property
    def layer_ids(self) -> tuple[int, ...]:
        """Verifier layers whose states the draft reads beside the last, ascending; `VerifierStates` defines the ids."""
        return ()

    @property
    def kept_D(self) -> Tensor | None:
        """[D] int64 verifier ids of a reduced vocabulary's tokens; None if the draft has all."""
        return None

    @property
    def heads(self) -> tuple[Tensor, ...]:
        """[D, H] vocabulary heads of the draft's own, one for all slots or one a slot; none if it uses the verifier's."""
        return ()

    def initialise(self, verifier: VerifierHead, token_count_V: Tensor) -> None:
        """Give a fresh draft its first weights, those of the verifier's that it copies included.

        Args:
            verifier: the verifier's embedding and head.
            token_count_V: int64 count of each supervised token in the training data, for a reduced vocabulary.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it starts")

    def borrow(self, missing: Collection[str], verifier: VerifierHead) -> None:
        """Take the verifier's tensors for those that a published file leaves to it, as engines do.

        Args:
            missing: names of this model's tensors that were not in the file.
            verifier: its embedding and head.

        Raises:
            ValueError: the algorithm takes nothing of the verifier's.
        """
        if missing:
            raise ValueError(f"{', '.join(sorted(missing))}: missing in the published file; export it again")

    def forward(self, batch: Batch, states: VerifierStates, verifier: VerifierHead) -> DraftOutput:
        """Rows for every slot and target of a packed batch."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it computes")

    def drafter(self, verifier: VerifierHead) -> Drafter:
        """This draft as decoding uses it."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it drafts")

    @classmethod
    def for_config(cls, config: SpeculatorModelConfig) -> type["SpeculatorModel"]:
        """The model class registered for the config's `speculators_model_type`."""
        import_part("model")
        return (cls.registry or {})[config.speculators_model_type]

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]  the config is transformers' only option
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        *,
        config: SpeculatorModelConfig | None = None,
        **kwargs: Any,
    ) -> "SpeculatorModel":
        """Load a published draft; called on the base, it builds the class that the config names.

        Args:
            pretrained_model_name_or_path: hub id or folder.
            config: instead of the folder's own.
            kwargs: for transformers: dtype, revision, token, cache_dir, ...

        Raises:
            TypeError: it was called on another algorithm's class.
        """
        if config is None:
            download = {k: v for k, v in kwargs.items() if k in _DOWNLOAD}
            config = SpeculatorModelConfig.from_pretrained(pretrained_model_name_or_path, **download)
        model = cls.for_config(config)
        if not issubclass(model, cls):
            raise TypeError(
                f"{pretrained_model_name_or_path} holds a draft of type {config.speculators_model_type}, "
                f"which {cls.__name__} cannot load; use SpeculatorModel.from_pretrained"
            )
        return super(SpeculatorModel, model).from_pretrained(pretrained_model_name_or_path, config=config, **kwargs)
