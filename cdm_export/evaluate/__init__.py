"""What an artifact costs in a benchmark's own numbers: metrics, and protocols that say what they are taken over."""
