"""Sketch: the smallest draft that learns anything, one two-layer network a slot before the verifier's own head."""
