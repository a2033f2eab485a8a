"""What masked places see and where they are, by hand."""

import torch

from speculators.data.collate import collate
from speculators.data.row_plan import conditional_drop_token
from speculators.data.template import Document
from speculators.nn.masked_chains import MaskedPlaces, masked_chains
from speculators.protocols.batch import Span
from speculators.protocols.rows import PackedTargets, SequenceRows


def every_row(sequence: PackedTargets, generator: torch.Generator) -> SequenceRows:
    """Three slots of every anchor that has them."""
    return conditional_drop_token(sequence, 3, 1.0, 0.0, generator)


def test_by_hand() -> None:
    """Behind a document of three tokens one of six: targets 1 to 4, two chains of two masked places, and one of one."""
    batch = collate([[Document([1, 2, 3], [False] * 3), Document([7] * 6, [True] * 6)]], every_row)
    for ahead in (0, 1):
        passes: list[MaskedPlaces] = []

        def number(places: MaskedPlaces, passes: list[MaskedPlaces] = passes) -> torch.Tensor:
            passes.append(places)
            return torch.arange(5.0).unsqueeze(1)

        output_R1 = masked_chains(batch, ahead, torch.float32, torch.zeros(0, 1), number)
        (places,) = passes
        # Chains lie side by side, (anchor, slot): (0, 2) (0, 3) (1, 2) (1, 3) (2, 2). The plan is sorted by slot.
        assert output_R1.flatten().tolist() == [0, 2, 4, 1, 3]
        assert (places.position_1C[0] - ahead).tolist() == [1, 2, 2, 3, 3]
        # The text of the second document up to the last anchor, 2, and what its place stands for.
        assert places.seen == Span(0, 3, 3 + 2 + 1 + ahead)
        assert places.key_1L[0].tolist() == [0, 1, 2, 3][: 3 + ahead] + places.position_1C[0].tolist()
        sees = [
            "100  10000",
            "100  11000",
            "110  00100",
            "110  00110",
            "111  00001",
        ]
        if ahead:
            sees = [
                "1100 10000",
                "1100 11000",
                "1110 00100",
                "1110 00110",
                "1111 00001",
            ]
        found_CL = (places.mask_11CL[0, 0] == 0).int()
        assert ["".join(map(str, row)) for row in found_CL.tolist()] == [row.replace(" ", "") for row in sees]
