"""Agreement with PyTorch: comparison, gates, reference frames, and the command that verifies a bundle."""
