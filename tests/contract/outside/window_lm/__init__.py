"""Window LM: a small language model that drafts from the last tokens alone (Bengio et al. 2003)."""
