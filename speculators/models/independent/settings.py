"""Settings of an independent draft, and the fields of them that are published. Torch-free.

Leviathan et al. 2023, arXiv:2211.17192; DistillSpec, Zhou et al. 2024, arXiv:2310.08461; PARD, An et al. 2025, arXiv:2504.18583.
"""

from math import gcd
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, Field, model_validator

from speculators.models.layer_config import DraftLayers
from speculators.settings.algorithm import AlgorithmSettings
from speculators.utils.untrusted import MOST, read_json
from speculators.verifier.facts import VerifierFacts
from speculators.verifier.location import config_file

Kind = Literal["llama", "qwen2", "qwen3"]
CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
# What the layers of a given model must have; these are transformers' defaults.
USUAL = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "use_sliding_window": False}


class IndependentFields(BaseModel):
    """Fields that are both chosen and published, named as vLLM does; the defaults serve reading a published config alone."""

    parallel_drafting: bool = Field(
        default=False,
        description="all tokens are drafted in one pass, with a mask token for each after the first (PARD)",
    )
    pard_token: int | None = Field(default=None, description="token id of the mask; null without parallel_drafting")


@AlgorithmSettings.register("independent")
class IndependentSettings(AlgorithmSettings, DraftLayers, IndependentFields):
    """A language model in training: a new one, or one that is there already."""

    engines: ClassVar[tuple[str, ...]] = ("vllm",)
    published_fields: ClassVar[type[BaseModel]] = IndependentFields

    name: Literal["independent"]
    pard_token: Annotated[int, Field(ge=0)] | None = Field(  # type: ignore[assignment] # narrower than published
        description="token id of the mask with parallel_drafting; null is the verifier's last token"
    )
    para_num: int = Field(
        ge=2, le=MOST, description="tokens that the draft is trained to predict in one pass, with parallel_drafting"
    )
    down_sample_ratio: float = Field(
        gt=0,
        le=1,
        description="conditional drop-token: slot s has this share of slot s - 1's rows, with parallel_drafting",
    )
    down_sample_ratio_min: float = Field(
        ge=0, le=1, description="the least share of the targets that a slot has rows of, with parallel_drafting"
    )
    init_from: Annotated[str, Field(min_length=1)] | None = Field(
        description="hub id or folder of the language model that training starts from; null starts a new one"
    )
    num_hidden_layers: Annotated[int, Field(ge=1)] | None = Field(  # type: ignore[assignment] # null beside init_from
        description="decoder layers of a new model; null with init_from"
    )
    hidden_size: Annotated[int, Field(ge=1)] | None = Field(
        description="width of a new model; null is the verifier's, whose embedding and head it then starts with"
    )
    draft_arch: Kind | None = Field(
        description="kind of decoder layer of a new model; null is the verifier's if it is one of these, else llama"
    )
    tie_word_embeddings: bool | None = Field(
        description="the embedding of a new model is its head as well; null is as in the verifier"
    )

    @model_validator(mode="after")
    def check_start(self) -> "IndependentSettings":
        """Sizes are of a new model alone."""
        sizes = ("num_hidden_layers", "hidden_size", "intermediate_size", "draft_arch", "tie_word_embeddings")
        chosen = [key for key in sizes if self.model_dump()[key] is not None]
        if self.init_from is not None and chosen:
            raise ValueError(f"init_from={self.init_from} has sizes of its own: set {', '.join(chosen)} to null")
        if self.init_from is None and self.num_hidden_layers is None:
            raise ValueError("num_hidden_layers=null needs init_from: a new model must have a number of layers")
        return self

    @model_validator(mode="after")
    def check_mask(self) -> "IndependentSettings":
        """A mask token is read in one pass alone."""
        if self.pard_token is not None and not self.parallel_drafting:
            raise ValueError(
                f"pard_token={self.pard_token} has no effect without parallel_drafting=true; set it to null"
            )
        return self

    @property
    def slots(self) -> int:
        """One a token in one pass; else one, for the tokens up to a target are true ones, so that all its slots are alike."""
        return self.para_num if self.parallel_drafting else 1

    @property
    def recurrent(self) -> bool:
        """A language model goes on as far as it is asked; masked places only as far as they were trained."""
        return not self.parallel_drafting

    @property
    def starts_from(self) -> str | None:
        """The language model that is trained further."""
        return self.init_from

    def published(self, facts: VerifierFacts) -> dict[str, Any]:
        """The language model's own config, and how it drafts.

        Raises:
            ValueError: `init_from` is no model that can be trained here.
        """
        token = facts.vocab_size - 1 if self.pard_token is None else self.pard_token
        return {
            "transformer_layer_config": self._new(facts) if self.init_from is None else self._given(facts),
            "parallel_drafting": self.parallel_drafting,
            "pard_token": token if self.parallel_drafting else None,
        }

    def _new(self, facts: VerifierFacts) -> dict[str, Any]:
        kind = self.draft_arch or (facts.model_type if facts.model_type in get_args(Kind) else "llama")
        hidden = self.hidden_size or facts.hidden_size
        heads = max(1, hidden * facts.num_attention_heads // facts.hidden_size)
        tied = facts.tie_word_embeddings if self.tie_word_embeddings is None else self.tie_word_embeddings
        return self._config(facts, kind, tied) | {
            "hidden_size": hidden,
            "num_attention_heads": heads,
            "num_key_value_heads": gcd(heads, facts.num_key_value_heads),
        }

    def _given(self, facts: VerifierFacts) -> dict[str, Any]:
        key = f"algorithm.init_from={self.init_from}"
        try:
            own, config = VerifierFacts.read(self.init_from or ""), read_json(config_file(self.init_from or "", None))
        except ValueError as error:
            raise ValueError(str(error).replace("verifier.name_or_path", key)) from error
        unlike = [f"{k}={config[k]!r}" for k, usual in USUAL.items() if config.get(k, usual) != usual]
        if own.model_type not in get_args(Kind):
            raise ValueError(f"{key}: is a {own.model_type} model; those of {', '.join(get_args(Kind))} can be trained")
        if unlike:
            raise ValueError(f"{key}: has {', '.join(unlike)}, with which no model can be trained here")
        if own.vocab_size != facts.vocab_size:
            raise ValueError(
                f"{key}: has {own.vocab_size} tokens and the verifier {facts.vocab_size}; a draft shares its token ids, so "
                "take a model of the verifier's family"
            )
        return self._config(own, own.model_type, own.tie_word_embeddings)

    def _config(self, sizes: VerifierFacts, kind: str, tied: bool) -> dict[str, Any]:
        return self.layer_config(sizes, "llama") | {
            "model_type": kind,
            "architectures": [CLASSES[kind]],
            "num_hidden_layers": self.num_hidden_layers or sizes.num_hidden_layers,
            "attention_bias": kind == "qwen2",
            "tie_word_embeddings": tied,
        }
