"""Blocks: a block of tokens after each sampled anchor, each told the token before it, with a confidence."""
