"""Finds and hides secrets in texts: credentials in URLs, tokens of known forms, secret variables of the environment."""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from speculators.utils.untrusted import printable_lines

HIDDEN = "***"
NO_SECRETS = (
    "holds a secret, which run.yaml and the published draft would show; set it where libraries read it: in the "
    "environment (HF_TOKEN, WANDB_API_KEY) or in ~/.netrc"
)
# Words of a variable's name: WANDB_API_KEY, HF_TOKEN, DB_PASSWORD.
WORDS = {"TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASS", "KEY", "CREDENTIALS", "PAT"}
LEAST = 8  # characters of a variable's value; shorter ones would match by chance
NAMES = (
    r"(?:password|passwd|passphrase|secret|credentials?|(?:api|access|private|secret)[_-]?key|"
    r"(?:auth|access|api|hf|bearer)[_-]?token)"
)
# The group `secret` is hidden. Repetitions have bounds, so that the time is linear in the length of a text.
PATTERNS = [
    re.compile(r"[a-z][a-z0-9+.-]{0,20}://(?P<secret>[^\s/@'\"]{1,200}:[^\s/@'\"]{1,200})@", re.IGNORECASE),
    re.compile(
        rf"[?&;](?:[\w.-]{{0,40}}{NAMES}|token|sig|signature|x-amz-signature)=(?P<secret>[^&;\s'\"]+)", re.IGNORECASE
    ),
    re.compile(rf"(?<![a-z]){NAMES}['\"]?\s*[=:]\s*['\"]?(?P<secret>[^\s'\",;}}\]*]{{4,}})", re.IGNORECASE),
    re.compile(r"\b(?:bearer|basic) +(?P<secret>(?=[\w.~+/-]*\d)[\w.~+/-]{12,}=*)", re.IGNORECASE),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?P<secret>.+?)(?:-----END|$)", re.DOTALL),
    re.compile(
        r"\b(?:[A-Z0-9]+_)*(?:TOKEN|SECRET|PASSWORD|PASSWD|KEY)['\"]?\s*[=:]\s*['\"]?(?P<secret>[^\s'\",;}\]]{8,})"
    ),
    # Hugging Face, OpenAI and others, GitHub, GitLab, Slack, AWS, Google, JSON web tokens.
    re.compile(
        r"(?<![\w-])(?P<secret>hf_[A-Za-z0-9]{30,}|sk-(?=[\w-]*\d)(?=[\w-]*[A-Z])[\w-]{20,}|gh[opsur]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|"
        r"xox[abprs]-[\w-]{10,}|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{30,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,})"
    ),
]


def masked(text: str) -> str:
    """A text with `***` for every secret in it."""
    for value in _of_the_environment():
        text = text.replace(value, HIDDEN)
    for pattern in PATTERNS:
        text = pattern.sub(_without, text)
    return text


def displayed(text: str) -> str:
    """A text as people see it, on a terminal or in a file: secrets masked, control characters escaped, lines kept."""
    return printable_lines(masked(text))


def exposed(values: Mapping[str, Any]) -> dict[str, str]:
    """Of values by dotted key those that hold a secret, masked; a key may say so by its name."""
    texts = {k: f"{k.rpartition('.')[2]}={value}" for k, value in values.items() if isinstance(value, str | list)}
    together = "\n".join(texts.values())
    if masked(together) == together:
        return {}
    return {k: hidden.partition("=")[2] for k, text in texts.items() if (hidden := masked(text)) != text}


class Mask(logging.Filter):
    """Masks what is logged, and escapes what is not printable; for handlers, so that it applies to all loggers."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = displayed(record.getMessage()), None
        if record.exc_info:
            record.exc_text = displayed(logging.Formatter().formatException(record.exc_info))
        return True


def _without(match: re.Match[str]) -> str:
    start, end = (place - match.start() for place in match.span("secret"))
    return match[0][:start] + HIDDEN + match[0][end:]


def _of_the_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        # The name of a file of credentials is not secret.
        if len(value) >= LEAST and WORDS.intersection(name.upper().split("_")) and not os.path.exists(value):
            yield value
