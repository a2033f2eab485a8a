"""What runs share on disk: tokenised data, the verifier's answers and its hidden states."""
