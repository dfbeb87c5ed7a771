"""What ``verify``, and a bisect, are asked for."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class VerifyRequest:
    """What to verify."""

    bundle: Path
    """Bundle to verify; all its files are hashed."""
    backend: str = "auto"
    """One backend, or ``auto`` for every one that can run here."""
    frames: str | None = None
    """Frame source; None for the bundle's golden frames."""
    depth_scale: float = 1000.0
    """Sensor units per meter of those frames."""
    fit: bool = False
    """Crop and resize frames of another size."""
    checkpoint: Path | None = None
    """Compare with PyTorch on this checkpoint (its sha256 must be the bundle's)."""
    threads: int = 0
    """Compute threads; 0 for all."""
    precision: str = "auto"
    """One precision, or ``auto`` for every one that can run here."""
