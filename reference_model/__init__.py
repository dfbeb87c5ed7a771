"""PyTorch: the truth every artefact is compared with. Networks keep their original order of operations."""
