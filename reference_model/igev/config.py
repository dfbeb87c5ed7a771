"""IGEV-Stereo's published configuration, whose flags no file of weights holds."""

HIDDEN = 128
"""Channels of every GRU's state, and of its context."""
LEVELS, RADIUS = 2, 4
"""Of the look-up: levels of both pyramids, and places to each side of a place."""
GROUPS = 8
"""Groups of channels that are correlated, and channels of the geometry's volume."""
FACTOR = 4
"""Pixels of the image per pixel of the finest GRU."""
DISPARITIES = 192 // FACTOR
"""Disparities of the volume, coarse pixels: 192 px of the image."""
ITERATIONS = 32
"""Updates of the original script."""
