"""Peers, scripts and committed results; not in the wheel."""
