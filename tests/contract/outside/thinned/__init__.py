"""Thinned: networks side by side, trained on fewer rows the further ahead they draft."""
