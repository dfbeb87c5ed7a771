"""What MiDaS v3.1 comes as with a BEiT or a SwinV2 encoder: sizes of the six published networks."""

from dataclasses import dataclass

TILE = 32
"""Pixels; both sides of every network's input are multiples of it."""


@dataclass(frozen=True)
class BeitConfig:
    """Size of a BEiT encoder; patches of 16 pixels."""

    width: int
    """Channels per token."""
    depth: int
    """Blocks."""
    heads: int
    """Attention heads."""
    grid: int
    """Patches per side that the relative position tables were trained on."""
    hooks: tuple[int, int, int, int]
    """Blocks whose outputs the decoder reads."""
    levels: tuple[int, int, int, int]
    """Channels of the four reassembled levels, finest first."""


@dataclass(frozen=True)
class Swin2Config:
    """Size of a SwinV2 encoder; patches of 4 pixels, four stages."""

    width: int
    """Channels of the first stage; every further one has twice as many."""
    depths: tuple[int, int, int, int]
    """Blocks per stage; the decoder reads what the last one of each hands on."""
    heads: tuple[int, int, int, int]
    """Attention heads per stage."""
    window: int
    """Patches per side of an attention window, where the stage is that large."""
    coordinates: tuple[int, int, int, int]
    """Patches per side of the window whose coordinates the position network was trained on, per stage."""

    @property
    def levels(self) -> tuple[int, int, int, int]:
        """Channels of the four stages, finest first."""
        return self.width, 2 * self.width, 4 * self.width, 8 * self.width


@dataclass(frozen=True)
class MidasConfig:
    """One published network."""

    name: str
    """Registry name."""
    title: str
    """In words."""
    encoder: BeitConfig | Swin2Config
    """The encoder."""
    input_size: int
    """Pixels per side that the weights were trained at."""
    million_parameters: float
    """Parameters / 1e6, unused ones included."""
    published_file: str
    """Stem of the published file's name."""


CONFIGS = (
    MidasConfig("midas-beit-base-384", "MiDaS v3.1, BEiT-B encoder",
                BeitConfig(768, 12, 12, 24, (2, 5, 8, 11), (96, 192, 384, 768)), 384, 111.532, "dpt_beit_base_384"),
    MidasConfig("midas-beit-large-384", "MiDaS v3.1, BEiT-L encoder",
                BeitConfig(1024, 24, 16, 24, (5, 11, 17, 23), (256, 512, 1024, 1024)), 384, 344.339,
                "dpt_beit_large_384"),
    MidasConfig("midas-beit-large-512", "MiDaS v3.1, BEiT-L encoder at 512 pixels",
                BeitConfig(1024, 24, 16, 32, (5, 11, 17, 23), (256, 512, 1024, 1024)), 512, 345.014,
                "dpt_beit_large_512"),
    MidasConfig("midas-swin2-tiny-256", "MiDaS v3.1, SwinV2-T encoder",
                Swin2Config(96, (2, 2, 6, 2), (3, 6, 12, 24), 16, (16, 16, 16, 8)), 256, 41.701, "dpt_swin2_tiny_256"),
    MidasConfig("midas-swin2-base-384", "MiDaS v3.1, SwinV2-B encoder",
                Swin2Config(128, (2, 2, 18, 2), (4, 8, 16, 32), 24, (12, 12, 12, 6)), 384, 102.379,
                "dpt_swin2_base_384"),
    MidasConfig("midas-swin2-large-384", "MiDaS v3.1, SwinV2-L encoder",
                Swin2Config(192, (2, 2, 18, 2), (6, 12, 24, 48), 24, (12, 12, 12, 6)), 384, 213.412,
                "dpt_swin2_large_384"),
)  # fmt: skip


def window_side(grid: int, window: int) -> int:
    """Side of a window along an axis of ``grid`` patches: ``window`` where it tiles the axis, all of a shorter axis,
    otherwise the largest divisor of ``grid`` from half to below twice the window.

    Raises ValueError where there is none.
    """
    window = min(window, grid)
    if grid % window == 0:
        return window
    divisors = [side for side in range(window // 2, 2 * window) if grid % side == 0]
    if not divisors:
        raise ValueError(f"no window of {window // 2} to {2 * window - 1} patches tiles an axis of {grid}")
    return max(divisors)
