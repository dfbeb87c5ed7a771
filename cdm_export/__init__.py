"""Checkpoint to verified bundle: export pipeline and command line."""
