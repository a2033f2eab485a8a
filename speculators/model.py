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
    """Inputs of a training forward pass besides its batch.

    Attributes:
        settings: of the algorithm, with those for training only: sample sizes, noise, annealing.
        progress: fraction of the optimizer steps completed, in [0, 1).
    """

    settings: Settings
    progress: float


# Download options of from_pretrained that must also be passed on to the config.
_DOWNLOAD = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


class SpeculatorModel(ClassRegistryMixin, PreTrainedModel):
    """Base of every draft model; `models/<name>/model.py` registers the one called `<name>`.

    The verifier's embedding and head are not part of the draft: they are passed as an argument, so a draft is complete
    after construction and its state dict is what is published.
    """

    config: SpeculatorModelConfig

    # Whether drafting reads the verifier's states; a small language model reads only the text.
    reads_states: ClassVar[bool] = True
    # Whether the first tokens of a draft are the same however many are asked for: not if a block has more mask tokens then.
    same_at_any_depth: ClassVar[bool] = False
    # Whether one pass of the draft gives the predictions of all levels, at most with a term that depends on the token before; a
    # draft may know it from its config alone.
    one_pass: bool = False

    def passes(self, levels: int) -> int:
        """How many passes of the draft make a tree or chain of so many levels."""
        return 1 if self.one_pass else levels

    @property
    def layer_ids(self) -> tuple[int, ...]:
        """Verifier layers whose states the draft reads besides the last, ascending; ids as in `VerifierStates`."""
        return ()

    @property
    def kept_D(self) -> Tensor | None:
        """[D] int64 verifier ids of the tokens of a reduced draft vocabulary; None if the draft has all tokens."""
        return None

    @property
    def heads(self) -> tuple[Tensor, ...]:
        """The draft's own [D, H] heads, one for all slots or one per slot; empty if it uses the verifier's head."""
        return ()

    def initialise(self, given: Initialisation) -> None:
        """Initialise every parameter and buffer of a new draft, in place.

        Args:
            given: the verifier's embedding, head and checkpoint, and the token counts of the training data.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement initialise")

    @classmethod
    def plan_rows(cls, settings: Any, sequence: PackedTargets, generator: Generator) -> SequenceRows:
        """Choose the rows of one packed sequence that are trained, on the host, before the batch moves to the device.

        The default is every slot of every target; algorithms that sample or draft blocks override it.

        Args:
            settings: of the algorithm.
            sequence: its documents and the positions that may be targets.
            generator: the sequence's own, on the host. It must be the only source of randomness, or the rows would
                depend on the batch that the sequence is in.

        Returns:
            The rows; anchors must lie in their target's document, or the row must be invalid.
        """
        return dense_rows(sequence, settings.slots)

    def borrow(self, missing: Collection[str], verifier: VerifierHead) -> None:
        """Use the verifier's tensors for those that a published file omits, as engines do.

        Args:
            missing: names of this model's tensors that were not in the file.
            verifier: its embedding and head.

        Raises:
            ValueError: a tensor is missing that the algorithm does not take from the verifier.
        """
        if missing:
            raise ValueError(f"{', '.join(sorted(missing))}: missing in the published file; export the draft again")

    def forward(
        self, batch: Batch, states: VerifierStates, verifier: VerifierHead, context: TrainingContext[Any]
    ) -> DraftOutput:
        """Compute predictions for every row of a packed batch, in training and for held-out losses.

        The model computes no logits: it returns the head's inputs, and the reduction applies the head in chunks.
        A row's prediction may depend only on its own document, and there only on the verifier's states up to the row's
        anchor and on tokens up to its target.

        Args:
            batch: B packed sequences of T tokens on the device, and the R rows that `plan_rows` chose.
            states: the verifier's at every position, in the verifier's dtype, which may be half of the draft's;
                `aux_BTA` has the layers of `layer_ids`.
            verifier: its embedding and head.
            context: settings and progress. Noise is applied only if `self.training` is True.

        Returns:
            One or more sets of rows, each with one input per row for every term, in the order of `batch.rows`; and
            losses besides the divergences.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement forward")

    def drafter(self, verifier: VerifierHead, batch_size: int) -> Drafter:
        """Create a drafter with empty state, with which decoding drafts for one batch of sequences.

        Args:
            verifier: the verifier's embedding and head.
            batch_size: sequences of the batch.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement drafter")

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
        """Load a published draft; called on the base class, it builds the class registered for the config.

        Args:
            pretrained_model_name_or_path: hub id or folder.
            config: used instead of the folder's own.
            kwargs: for transformers: dtype, revision, token, cache_dir, ...; unlike there, only safetensors files are read
                unless use_safetensors=False is given.

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
        options = {"config": config, "use_safetensors": True, **kwargs}
        return super(SpeculatorModel, model).from_pretrained(pretrained_model_name_or_path, **options)
