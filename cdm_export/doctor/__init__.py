"""What this machine can build and run."""
