"""Settings of `data`: where conversations come from and how they become training sequences."""

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from speculators.utils.strict import PositiveInt, Strict

# Variables of a chat template that are set per conversation.
OF_A_CONVERSATION = ("messages", "tools", "documents", "add_generation_prompt", "strftime_now")


def _variables(variables: dict[str, Any]) -> dict[str, Any]:
    if taken := [name for name in variables if name in OF_A_CONVERSATION]:
        raise ValueError(f"{taken[0]} is set by each conversation; remove it")
    if odd := [name for name in variables if not name.isidentifier()]:
        raise ValueError(f"{odd[0]!r} is not a valid variable name")
    return variables


def _date(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError as error:
        raise ValueError("should be a date as YYYY-MM-DD") from error
    return text


class DataSettings(Strict):
    """Settings that all sources of conversations share."""

    max_length: int = Field(ge=16, description="tokens of a packed sequence; longer conversations are truncated")
    max_conversations: PositiveInt | None = Field(
        description="number of conversations used, after shuffling; null is all"
    )
    heldout_fraction: float = Field(
        gt=0, lt=1, description="share of the prompts held out of the training, for evaluation"
    )
    chat_template_kwargs: Annotated[dict[str, Any], AfterValidator(_variables)] | None = Field(
        description="variables of the verifier's chat template, e.g. {enable_thinking: false}"
    )
    chat_template_date: Annotated[str, AfterValidator(_date)] | None = Field(
        description="date that a chat template gets as today's, YYYY-MM-DD; null is the day of the run"
    )
    regenerate: bool = Field(description="replace each answer by one that the verifier generates")
    regenerate_max_new_tokens: PositiveInt | None = Field(
        description="most tokens of a regenerated answer; null is what data.max_length leaves after the prompt"
    )
    regenerate_temperature: float = Field(ge=0, description="sampling temperature of regenerated answers; 0 is greedy")
    regenerate_seed: int = Field(ge=0, lt=2**32, description="seed of regenerated answers with a temperature above 0")
    regenerate_samples: PositiveInt = Field(
        description="different sampled answers to each prompt that is trained on; held-out prompts get one"
    )
    regenerate_unfinished: Literal["keep", "drop"] = Field(
        description="keep or drop a regenerated answer that reached its most tokens before it ended"
    )


class ChatData(DataSettings):
    """The embedded conversations: greedy answers of the embedded verifier."""

    source: Literal["chat"]


class JsonlData(DataSettings):
    """Files of conversations: JSON lines, also compressed, or parquet, in ShareGPT's or OpenAI's format."""

    source: Literal["jsonl"]
    path: str = Field(min_length=1, description="a file, a folder of files, or a glob pattern")


class HubData(DataSettings):
    """A data set of the Hub, read by `datasets`."""

    source: Literal["hub"]
    name: str = Field(min_length=1, description="data set id")
    subset: str | None = Field(description="configuration of the data set")
    split: str = Field(min_length=1, description="split to read")
    revision: str | None = Field(description="branch, tag or commit")
    streaming: bool = Field(
        description="read rows from the Hub as they are needed, without downloading the data set first"
    )


class Place(Strict):
    """Files or a data set of the Hub, as one value; keys have defaults here, since conf/ cannot set those inside a value."""

    path: str | None = Field(default=None, min_length=1, description="as data.path of data=jsonl")
    name: str | None = Field(default=None, min_length=1, description="as data.name of data=hub")
    subset: str | None = Field(default=None, description="configuration of the data set")
    split: str = Field(default="train", min_length=1, description="split to read")
    revision: str | None = Field(default=None, description="branch, tag or commit")
    streaming: bool = Field(
        default=False, description="read rows from the Hub as they are needed, without downloading the data set first"
    )

    @model_validator(mode="after")
    def _one_place(self) -> "Place":
        if (self.path is None) == (self.name is None):
            raise ValueError("a source must have either path or name")
        return self


class Source(Place):
    """One source of a mixture."""

    weight: float | None = Field(
        default=None, gt=0, description="share of the conversations, relative to the sum of all weights"
    )


def _all_weighed(sources: list[Source]) -> list[Source]:
    if len({source.weight is None for source in sources}) > 1:
        raise ValueError("either all sources must have a weight, or none")
    return sources


class MixtureData(DataSettings):
    """Several sources in one run."""

    source: Literal["mixture"]
    sources: Annotated[list[Source], AfterValidator(_all_weighed)] = Field(
        min_length=1, description="each with a path or a name, and a weight"
    )
