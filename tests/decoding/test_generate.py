"""What decoding notes beside each token."""

import torch

from speculators.decoding.generate import margin


def test_a_margin_is_what_rounding_cannot_make() -> None:
    """By hand: bfloat16 has 7 bits behind the first, so twice its eps of a logit of 10 is 0.15625; float32's is nothing."""
    near, far = torch.tensor([10.0, 3.0, 9.9375]), torch.tensor([9.0, 10.0, -5.0])
    torch.testing.assert_close(margin(near), torch.tensor(0.0625), atol=1e-5, rtol=0)
    torch.testing.assert_close(margin(far), torch.tensor(1.0), atol=1e-5, rtol=0)
    both = torch.stack((near, far)).bfloat16()
    torch.testing.assert_close(margin(both), torch.tensor([0.0, 1 - 0.15625]))
    assert margin(both).dtype == torch.float32
