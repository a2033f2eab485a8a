"""Verifiers and drafts that are tables: the next token's logits for each text, with nothing computed."""

import random
from dataclasses import dataclass, field

import torch
from torch import Tensor

from speculators.protocols.draft import Draft
from speculators.protocols.drafter import Context, Predictions

Text = tuple[int, ...]


@dataclass(frozen=True)
class Table:
    """Logits over V tokens after each text, arbitrary and always the same.

    Attributes:
        name: another name is another table.
        vocab: V.
        spread: standard deviation of the logits.
    """

    name: str
    vocab: int
    spread: float = 1.5

    def logits(self, text: Text) -> list[float]:
        """After a text."""
        chance = random.Random(f"{self.name} {text}")
        return [chance.gauss(0, self.spread) for _ in range(self.vocab)]

    def probs(self, text: Text) -> list[float]:
        """The next token's distribution at temperature 1, in float64."""
        return torch.tensor(self.logits(text), dtype=torch.float64).softmax(0).tolist()

    def greedy(self, text: Text, count: int) -> Text:
        """The most likely continuation."""
        for _ in range(count):
            logits = self.logits(text)
            text += (logits.index(max(logits)),)
        return text


@dataclass
class TableDrafter:
    """A drafter that reads a table for each sequence; the texts begin after the last verified token.

    Attributes:
        tables: one a sequence.
        closed: texts after which a sequence's draft says that nothing is worth drafting.
        calls: nodes of each `expand`.
    """

    tables: list[Table]
    closed: set[Text] = field(default_factory=set)
    calls: list[int] = field(default_factory=list)

    def select(self, rows: Tensor) -> None:
        self.tables = [self.tables[i] for i in rows.tolist()]

    def extend(self, context: Context, depth: int) -> Predictions:
        self.calls, self.level = [], [[()] for _ in self.tables]
        return self._predict()

    def expand(self, token_BN: Tensor, parent_BN: Tensor) -> Predictions:
        self.calls.append(token_BN.shape[1])
        self.level = [
            [texts[p] + (t,) for t, p in zip(tokens, parents, strict=True)]
            for texts, tokens, parents in zip(self.level, token_BN.tolist(), parent_BN.tolist(), strict=True)
        ]
        return self._predict()

    def _predict(self) -> Predictions:
        logits = [[t.logits(text) for text in texts] for t, texts in zip(self.tables, self.level, strict=True)]
        open_BN = torch.tensor([[text not in self.closed for text in texts] for texts in self.level])
        return Predictions(torch.tensor(logits, dtype=torch.float64), open_BN if self.closed else None)


def no_context(batch_size: int) -> Context:
    """What a table does not look at: one place for each sequence."""
    zero_B1 = torch.zeros(batch_size, 1, dtype=torch.int64)
    return Context(zero_B1, zero_B1, None, zero_B1, zero_B1 == 0)


def node_texts(draft: Draft, row: int) -> list[Text]:
    """The text of each node of one sequence's draft, from its root."""
    texts: list[Text] = []
    for token, parent in zip(draft.token_BM[row].tolist(), draft.parents()[row].tolist(), strict=True):
        assert parent < len(texts), "a parent comes before its children"
        texts.append((texts[parent] if parent >= 0 else ()) + (token,))
    return texts


def verify(draft: Draft, tables: list[Table]) -> Tensor:
    """[B, 1 + M, V] logits of the verifiers after the root and after every node; NaN after nodes that are not valid."""
    rows = []
    for row, table in enumerate(tables):
        valid = draft.valid()[row].tolist()
        texts = [(), *node_texts(draft, row)]
        lost = [float("nan")] * table.vocab
        rows.append([table.logits(t) if v else lost for t, v in zip(texts, [True, *valid], strict=True)])
    return torch.tensor(rows, dtype=torch.float64)
