"""The verifier's tokenizer."""

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from speculators.verifier.location import local_path
from speculators.verifier.settings import VerifierSettings


def load_tokenizer(settings: VerifierSettings) -> PreTrainedTokenizerBase:
    """The verifier's tokenizer with its chat template.

    Raises:
        ValueError: it has no chat template.
    """
    tokenizer = AutoTokenizer.from_pretrained(
        local_path(settings.name_or_path), revision=settings.revision, trust_remote_code=settings.trust_remote_code
    )
    if not tokenizer.chat_template:
        raise ValueError(
            f"verifier.name_or_path: the tokenizer of {settings.name_or_path} has no chat template; "
            "take the verifier's instruction-tuned version"
        )
    return tokenizer
