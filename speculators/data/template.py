"""Conversations in the verifier's chat template: token ids, and which of them the verifier itself would write.

A template with `{% generation %}` says so itself. Any other is asked: an answer's text is looked up behind the point
where the rendering of everything before it ends, and its end-of-turn token, the first special token behind it, belongs
to it, for the verifier must emit that one too. Some templates rewrite earlier turns once a later one is there (Qwen3
drops the thinking); then each answer becomes a document of its own, in the context in which it was given.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from speculators.data.conversations import Conversation, Message


@dataclass(frozen=True)
class Document:
    """Tokens that see each other and no others.

    Attributes:
        tokens: token ids.
        supervised: for each token, whether it is part of an answer.
    """

    tokens: list[int]
    supervised: list[bool]


class TemplateRefused(ValueError):
    """The template raised on a conversation, or its answer cannot be found in what it rendered."""


class ChatTemplate:
    """A tokenizer's chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.marked = "{% generation" in str(tokenizer.chat_template)
        self.special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)

    def prompt(self, messages: list[Message]) -> list[int]:
        """Token ids of `messages` and of the start of an answer."""
        return self._tokens(self._render(messages, add_generation_prompt=True))["input_ids"]

    def documents(self, conversation: Conversation) -> Iterator[Document]:
        """A conversation's documents: one, or one an answer where the template rewrites earlier turns.

        Raises:
            TemplateRefused: no document can be made.
        """
        messages = conversation.messages
        answers = [i for i, m in enumerate(messages) if m["role"] == "assistant" and m["content"].strip()]
        if self.marked:
            document = self._by_marks(messages)
            yield _without_end(document, self.special) if conversation.truncated else document
            return
        texts = [self._render(messages[: i + 1]) for i in answers]
        whole = texts[-1]
        if all(whole.startswith(text) for text in texts):
            spans = [self._span(messages, i, text) for i, text in zip(answers, texts, strict=True)]
            found = [(whole, spans)]
        else:
            found = [(text, [self._span(messages, i, text)]) for i, text in zip(answers, texts, strict=True)]
        for n, (text, spans) in enumerate(found, start=1):
            document = self._by_spans(text, spans)
            cut = conversation.truncated and n == len(found)
            yield _without_end(document, self.special) if cut else document

    def _render(self, messages: list[Message], **options: Any) -> str:
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, **options))
        except TemplateError as error:
            raise TemplateRefused(str(error)) from error

    def _tokens(self, text: str, **options: Any) -> Any:
        # The template wrote the special tokens already.
        return self.tokenizer(text, add_special_tokens=False, **options)

    def _by_marks(self, messages: list[Message]) -> Document:
        try:
            out: Any = self.tokenizer.apply_chat_template(
                messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
            )
        except TemplateError as error:
            raise TemplateRefused(str(error)) from error
        return Document(list(out["input_ids"]), [bool(m) for m in out["assistant_masks"]])

    def _span(self, messages: list[Message], answer: int, text: str) -> tuple[int, int]:
        before = self._render(messages[:answer], add_generation_prompt=True)
        shared = next(
            (i for i, (a, b) in enumerate(zip(before, text, strict=False)) if a != b), min(len(before), len(text))
        )
        content = messages[answer]["content"].strip()
        start = text.find(content, shared)
        if start < 0:
            raise TemplateRefused("the template changes an answer's text")
        return start, start + len(content)

    def _by_spans(self, text: str, spans: list[tuple[int, int]]) -> Document:
        out = self._tokens(text, return_offsets_mapping=True)
        tokens, supervised = list(out["input_ids"]), [False] * len(out["input_ids"])
        for start, end in spans:
            inside = [i for i, (a, b) in enumerate(out["offset_mapping"]) if b > start and a < end and b > a]
            last = inside[-1] + 1
            while last < len(tokens) and tokens[last] not in self.special:
                last += 1
            # No special token behind it: the template ends a turn with plain text, which is not the verifier's.
            stop = last + 1 if last < len(tokens) and last - inside[-1] <= 2 else inside[-1] + 1
            for i in range(inside[0], stop):
                supervised[i] = True
        return Document(tokens, supervised)


def _without_end(document: Document, special: set[int]) -> Document:
    """An answer that was cut did not end: its end-of-turn token and what follows are no part of the document."""
    last = max((i for i, s in enumerate(document.supervised) if s), default=-1)
    if document.tokens[last] in special:
        last -= 1
    return Document(document.tokens[: last + 1], document.supervised[: last + 1])
