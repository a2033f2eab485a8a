"""The verifier's tokenizer."""

from typing import Any

from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from speculators.verifier.location import local_path
from speculators.verifier.settings import VerifierSettings


def load_tokenizer(settings: VerifierSettings) -> PreTrainedTokenizerBase:
    """The verifier's tokenizer with its chat template.

    Raises:
        ValueError: it cannot be loaded, or has no chat template.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            local_path(settings.name_or_path), revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    except Exception as error:
        # Tokenizers may run Python code from the verifier's repository, so any exception is possible.
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"verifier.name_or_path: the tokenizer of {settings.name_or_path} cannot be loaded "
            f"({type(error).__name__}: {reason})"
        ) from error
    if not tokenizer.chat_template:
        raise ValueError(
            f"verifier.name_or_path: the tokenizer of {settings.name_or_path} has no chat template; "
            "choose the verifier's instruction-tuned version"
        )
    return tokenizer


def end_ids(settings: VerifierSettings, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens at which the verifier stops generating: those of its generation config, and its tokenizer's."""
    try:
        place, revision = local_path(settings.name_or_path), settings.revision or "main"
        found: Any = GenerationConfig.from_pretrained(place, revision=revision).eos_token_id
    except OSError:
        found = None
    ids: list[Any] = [*(found if isinstance(found, list) else [found]), tokenizer.eos_token_id]
    return frozenset(i for i in ids if i is not None)
