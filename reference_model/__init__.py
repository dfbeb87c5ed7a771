"""PyTorch: the truth every artifact is compared with. Networks keep their original order of operations."""
