"""Settings of the cache. Torch-free."""

from pydantic import Field

from speculators.utils.strict import Strict


class CacheSettings(Strict):
    """Tokenised data, regenerated answers and cached hidden states, shared by all runs."""

    dir: str | None = Field(min_length=1, description="null is $SPECULATORS_CACHE, or ~/.cache/speculators")
    limit_gb: float | None = Field(
        gt=0, description="what all of it may take; beyond, what was not used for longest is removed; null is the disk"
    )
