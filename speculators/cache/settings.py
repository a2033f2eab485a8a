"""Settings of the cache. Torch-free."""

from pydantic import Field

from speculators.utils.strict import Strict


class CacheSettings(Strict):
    """Tokenised data, regenerated answers and cached hidden states, shared by all runs."""

    dir: str | None = Field(min_length=1, description="null is $SPECULATORS_CACHE, or ~/.cache/speculators")
    limit_gb: float | None = Field(
        gt=0,
        description="gigabytes that the cache may take; above it, the least recently used entries are removed; null is no limit",
    )
