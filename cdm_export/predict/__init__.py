"""Frames of a source through a pipeline, and the pictures and files that come out."""
