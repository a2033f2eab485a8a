"""What a source of conversations gives a run: decoded examples, lengths, duplicates, and what is left out and why."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby, islice

from speculators.data.conversations import Conversation
from speculators.data.mixture import conversations
from speculators.data.regenerate import NO_ROOM
from speculators.data.rendering import limited, whole
from speculators.data.spool import prompt_key
from speculators.data.template import ChatTemplate, Document, TemplateRefused
from speculators.data.unused import Unused
from speculators.settings.data import DataSettings


@dataclass(frozen=True)
class Example:
    """A document in text.

    Attributes:
        place: of its conversation.
        pieces: its text in order, each piece with whether its tokens are supervised.
        tokens: number of tokens, at most data.max_length.
        supervised: those of them that are supervised.
        cut: tokens beyond data.max_length, which are not shown.
    """

    place: str
    pieces: list[tuple[str, bool]]
    tokens: int
    supervised: int
    cut: int


@dataclass
class View:
    """Counts over a whole source.

    Attributes:
        max_length: data.max_length.
        regenerate: answers are the verifier's own, so that only prompts are shown and counted.
        conversations: that are read and have the form that is needed.
        used: those of them with a document that is trained on.
        same: conversations that repeat an earlier one.
        same_prompt: further conversations whose prompt an earlier one has; they are on its side of the split.
        supervised: supervised tokens, after the cut.
        lengths: tokens of each document before the cut at data.max_length.
        cut: documents that are cut.
        unread: lines and rows that are no such conversation, by reason.
        unused: conversations and documents that are skipped, by reason.
        left_out: what the chat template leaves out of conversations that are used.
        examples: the first documents.
    """

    max_length: int
    regenerate: bool
    conversations: int = 0
    used: int = 0
    same: int = 0
    same_prompt: int = 0
    supervised: int = 0
    lengths: list[int] = field(default_factory=list)
    cut: Counter[str] = field(default_factory=Counter)
    unread: Unused = field(default_factory=Unused)
    unused: Unused = field(default_factory=Unused)
    left_out: Unused = field(default_factory=Unused)
    examples: list[Example] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """All that was read."""
        return self.conversations + self.unread.counts.total()

    @property
    def skipped(self) -> Unused:
        """All that is not used, by reason."""
        return self.unread + self.unused

    @property
    def tokens(self) -> int:
        """Tokens after the cut."""
        return sum(min(length, self.max_length) for length in self.lengths)

    def quantile(self, share: float) -> int:
        """The length that a share of the documents does not exceed; there must be one."""
        return sorted(self.lengths)[min(int(share * len(self.lengths)), len(self.lengths) - 1)]


def view(data: DataSettings, template: ChatTemplate, examples: int) -> View:
    """Read a source as a run does.

    Args:
        data: the source; with max_conversations the first so many are read.
        template: the verifier's.
        examples: documents to decode.

    Raises:
        ValueError: the source is missing or broken.
    """
    found = View(data.max_length, data.regenerate)
    read = _counted(islice(conversations(data, found.unread, not data.regenerate, []), data.max_conversations), found)
    documents = (
        _prompts(read, template, found) if data.regenerate else whole(read, template, found.unused, found.left_out)
    )
    last = None
    for conversation, document in documents:
        if data.regenerate:
            short, room = document, len(document.tokens) < data.max_length
        else:
            short = limited(document, data.max_length, found.cut)
            room = any(short.supervised)
        if not room:
            found.unused.add(NO_ROOM, conversation.place)
            continue
        found.used += conversation is not last
        last = conversation
        found.lengths.append(len(document.tokens))
        found.supervised += sum(short.supervised)
        if len(found.examples) < examples:
            found.examples.append(_example(conversation, document, short, template))
    return found


def _counted(read: Iterator[Conversation], found: View) -> Iterator[Conversation]:
    """The same conversations, counted with those that repeat an earlier one or its prompt."""
    seen: set[bytes] = set()
    for conversation in read:
        found.conversations += 1
        same, prompt = (
            sha256(key).digest()
            for key in (repr((conversation.messages, conversation.tools)).encode(), prompt_key(conversation))
        )
        if same in seen:
            found.same += 1
        elif prompt in seen:
            found.same_prompt += 1
        seen |= {same, prompt}
        yield conversation


def _prompts(
    read: Iterator[Conversation], template: ChatTemplate, found: View
) -> Iterator[tuple[Conversation, Document]]:
    """The first prompt of each conversation, without supervised tokens."""
    for conversation in read:
        try:
            tokens = template.prompt(conversation.prompt, conversation.tools)
        except TemplateRefused as error:
            found.unused.add(str(error), conversation.place)
            continue
        yield conversation, Document(tokens, [False] * len(tokens))


def _example(conversation: Conversation, document: Document, short: Document, template: ChatTemplate) -> Example:
    pieces, start = [], 0
    for supervised, group in groupby(short.supervised):
        end = start + len(list(group))
        text = template.tokenizer.decode(list(short.tokens[start:end]), clean_up_tokenization_spaces=False)
        pieces.append((str(text), supervised))
        start = end
    tokens = len(short.tokens)
    return Example(conversation.place, pieces, tokens, sum(short.supervised), len(document.tokens) - tokens)
