"""Base class of an algorithm's settings, whose values come from `conf/algorithm/<name>.yaml`. Torch-free."""

from typing import Any, ClassVar

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticUndefined

from speculators.utils.discovery import import_part
from speculators.utils.registry import ClassRegistryMixin
from speculators.utils.strict import Strict
from speculators.verifier.facts import VerifierFacts


class LossWeights(Strict):
    """Weights of the divergences between the verifier's next-token distribution p and the draft's q; at least one > 0."""

    kl: float = Field(ge=0, description="forward Kullback-Leibler divergence KL(p || q)")
    rkl: float = Field(ge=0, description="reverse Kullback-Leibler divergence KL(q || p)")
    jsd: float = Field(ge=0, description="Jensen-Shannon divergence")
    ce: float = Field(ge=0, description="cross entropy with the verifier's most likely token")
    topk: float = Field(ge=0, description="cross entropy over the verifier's ten most likely tokens (HASS)")
    tv: float = Field(ge=0, description="total variation: 1 - the probability that a drafted token is accepted")
    nla: float = Field(ge=0, description="negative logarithm of the probability that a drafted token is accepted")
    lk_hybrid: float = Field(ge=0, description="kl where acceptance is low, tv where it is high (LK losses, eta 3)")

    @model_validator(mode="after")
    def check_some_weight(self) -> "LossWeights":
        if not any(self.model_dump().values()):
            raise ValueError("at least one weight must be above 0")
        return self


class NoFields(BaseModel):
    """Of an algorithm none of whose settings is published."""


class AlgorithmSettings(ClassRegistryMixin, Strict):
    """Base of every algorithm's settings; `models/<name>/settings.py` registers the one called `<name>`."""

    registry: ClassVar[dict[str, type["AlgorithmSettings"]] | None] = None

    name: str = Field(description="the algorithm; its folder in speculators/models and its file in conf/algorithm")
    loss: LossWeights = Field(description="weights of the divergences")
    slot_decay: float = Field(gt=0, le=1, description="weight of slot s in the loss is slot_decay ** (s - 1)")

    # Engines that can serve this algorithm, best first; `export.target=auto` chooses from them.
    engines: ClassVar[tuple[str, ...]] = ()
    # Classes of the verifiers that it drafts for, as their config.json names them; empty for every causal language model.
    verifier_architectures: ClassVar[tuple[str, ...]] = ()
    # Keys of the published config: the model of those that are also settings, and the names of those that are derived.
    published_fields: ClassVar[type[BaseModel]] = NoFields
    derived_keys: ClassVar[tuple[str, ...]] = ("transformer_layer_config",)
    # Whether the drafter supports trees: predictions after several tokens of one level, each with its own prefix.
    drafts_trees: ClassVar[bool] = True

    @classmethod
    def __pydantic_init_subclass__(cls) -> None:
        """Remove the defaults, which serve only reading a published config: a run's settings must set every key."""
        for field in cls.model_fields.values():
            field.default = PydanticUndefined
        cls.model_rebuild(force=True)

    @property
    def slots(self) -> int:
        """How many tokens ahead the draft is trained to predict, >= 1."""
        raise NotImplementedError(f"{type(self).__name__} must implement slots")

    @property
    def recurrent(self) -> bool:
        """Whether the draft can draft more tokens than it has trained slots: not with a head or a place for each."""
        return False

    @property
    def starts_from(self) -> str | None:
        """Hub id or folder of a model whose weights a new draft starts with; None for one that starts without."""
        return None

    def published(self, facts: VerifierFacts) -> dict[str, Any]:
        """The algorithm's own fields of the published config.

        Args:
            facts: from the verifier's config.json; sizes that are not settings come from it.

        Returns:
            Keys of the algorithm's `SpeculatorModelConfig` subclass, `speculators_config` aside.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement published")

    @classmethod
    def named(cls, name: str) -> type["AlgorithmSettings"]:
        """The settings class registered as `name`; KeyError if there is none."""
        import_part("settings")
        return (cls.registry or {})[name]

    @classmethod
    def names(cls) -> list[str]:
        """All registered algorithm names, sorted."""
        import_part("settings")
        return sorted(cls.registry or {})
