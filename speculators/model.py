"""SpeculatorModel: the base of every draft model."""

from collections.abc import Collection
from dataclasses import dataclass
from os import PathLike
from typing import Any, ClassVar, Generic, TypeVar

from torch import Generator, Tensor
from transformers import PreTrainedModel

from speculators.config import SpeculatorModelConfig
from speculators.data.row_plan import dense_rows
from speculators.protocols.batch import Batch
from speculators.protocols.drafter import Drafter
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.protocols.initialisation import Initialisation
from speculators.protocols.rows import DraftOutput, PackedTargets, SequenceRows
from speculators.settings.algorithm import AlgorithmSettings
from speculators.utils.discovery import import_part
from speculators.utils.registry import ClassRegistryMixin

Settings = TypeVar("Settings", bound=AlgorithmSettings)


@dataclass(frozen=True)
class TrainingContext(Generic[Settings]):
    """What a forward pass knows of the training beside its batch.

    Attributes:
        settings: the algorithm's, with what only training needs: sizes of samples, noise, annealing.
        progress: share of the optimizer steps that are done, in [0, 1).
    """

    settings: Settings
    progress: float


# Options of a download, which transformers would take from the arguments of from_pretrained for the config as well.
_DOWNLOAD = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


class SpeculatorModel(ClassRegistryMixin, PreTrainedModel):
    """Base of every draft model; `models/<name>/model.py` registers the one called `<name>`.

    The verifier's embedding and head are no part of the draft: they come as an argument, so a draft is complete once
    built and its state dict is what is published.
    """

    config: SpeculatorModelConfig

    # Whether drafting reads the verifier's states; a small language model reads the text alone.
    reads_states: ClassVar[bool] = True

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

    def initialise(self, given: Initialisation) -> None:
        """Give every parameter and buffer of a fresh draft its first value, in place.

        Args:
            given: the verifier's embedding, head and checkpoint, and the token counts of the training data.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it starts")

    @classmethod
    def plan_rows(cls, settings: Any, sequence: PackedTargets, generator: Generator) -> SequenceRows:
        """Which rows of one packed sequence are trained; on the host, before the batch goes to the device.

        Unless an algorithm samples or drafts blocks, every slot of every target.

        Args:
            settings: the algorithm's.
            sequence: its documents and the positions that may be targets.
            generator: the sequence's own, on the host. Nothing else may be random, or the rows would depend on how the
                batch is cut.

        Returns:
            The rows; anchors must lie in their target's document, or the row must be invalid.
        """
        return dense_rows(sequence, settings.slots)

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

    def forward(
        self, batch: Batch, states: VerifierStates, verifier: VerifierHead, context: TrainingContext[Any]
    ) -> DraftOutput:
        """Predictions for every row of a packed batch, in training and for held-out losses.

        The model makes no logits: it returns what the head reads, and the reduction applies the weights chunk by chunk.
        A row's prediction may depend on its own document alone, and there on the verifier's states up to the row's
        anchor and on tokens up to its target.

        Args:
            batch: B packed sequences of T tokens on the device, and the R rows that `plan_rows` chose.
            states: the verifier's at every position, in the verifier's dtype, which may be half of the draft's;
                `aux_BTA` has the layers of `layer_ids`.
            verifier: its embedding and head.
            context: settings and progress. `self.training` says whether noise is wanted.

        Returns:
            One or more sets of rows, each with one input a row for every term, in the order of `batch.rows`; and losses
            beside the divergences.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what it computes")

    def drafter(self, verifier: VerifierHead, batch_size: int) -> Drafter:
        """This draft model as decoding uses it, for one batch of sequences of which it has seen nothing yet.

        Args:
            verifier: the verifier's embedding and head.
            batch_size: sequences of the batch.
        """
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
