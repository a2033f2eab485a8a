"""Sweeps (Hydra multiruns): checks of all points, one process per trial, shared trainings, and results."""
