"""Conversations → documents: rendered, tokenised, and cut to length."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

from speculators.data.conversations import Conversation
from speculators.data.regenerate import NO_ROOM
from speculators.data.template import ChatTemplate, Document, TemplateRefused
from speculators.data.unused import Unused

# Conversations that are in memory at a time.
AT_ONCE = 256


def rendered(
    side: Iterable[Conversation],
    template: ChatTemplate,
    max_length: int,
    unused: Unused,
    left_out: Unused,
    cut: Counter[str],
) -> Iterator[Document]:
    """Documents of conversations as they are, each with supervised tokens, tokenised in chunks.

    Args:
        side: conversations with answers.
        template: the verifier's.
        max_length: tokens of a document.
        unused: counts those that the template refuses, and documents whose prompt fills the whole length.
        left_out: counts what the template does not render.
        cut: counts documents that were longer.
    """
    for conversation, document in whole(side, template, unused, left_out):
        short = limited(document, max_length, cut)
        if any(short.supervised):
            yield short
        else:
            unused.add(NO_ROOM, conversation.place)


def whole(
    side: Iterable[Conversation], template: ChatTemplate, unused: Unused, left_out: Unused
) -> Iterator[tuple[Conversation, Document]]:
    """Documents of any length, each with its conversation; arguments as of `rendered`."""
    left = iter(side)
    while some := list(islice(left, AT_ONCE)):
        owners, texts = [], []
        for conversation in some:
            try:
                made = template.rendered(conversation, left_out)
            except TemplateRefused as error:
                unused.add(str(error), conversation.place)
                continue
            texts += made
            owners += [conversation] * len(made)
        yield from zip(owners, template.tokenised(texts), strict=True)


def limited(document: Document, max_length: int, cut: Counter[str]) -> Document:
    """The first `max_length` tokens of a document."""
    if len(document.tokens) <= max_length:
        return document
    cut["documents"] += 1
    return Document(document.tokens[:max_length], document.supervised[:max_length])
