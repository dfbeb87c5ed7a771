"""What a file's name says about weights that their shapes leave open.

Depth Anything V1, V2 and V2 metric have equal tensors, and their files travel under names with more in them than was
published: ``..._fp32``, ``-fp16``, ``DepthAnythingV2Metric...``. So words are matched, with any separator or none.
"""

import re
from dataclasses import dataclass

_RELATIVE, _INDOOR, _OUTDOOR = "relative", "indoor", "outdoor"

_VERSION = re.compile(r"(?:anything[\W_]*v|anything|(?<![a-z0-9])da[\W_]*v?)([12])(?![0-9])")
_BARE_VERSION = re.compile(r"(?<![a-z0-9])v([12])[\W_]*(?=metric|vit|hypersim|vkitti)")
"""Only before a published word: elsewhere it counts versions of somebody's own."""
_V1_SIZE = re.compile(r"vit[\W_]*[sblg][\W_]*14(?![0-9])")
"""V1 was published without a version: its files say the patch size."""
_METRIC = re.compile(r"(?<![a-z])metric|anything[\W_]*metric")
_STRUCTURE = re.compile(r"depth[\W_]*anything|(?<![a-z0-9])da(?=[\W_]*v?[12](?![0-9]))|v[12](?![0-9])|"
                        r"vit[\W_]*[sblg](?:[\W_]*14)?(?![a-z0-9])")  # fmt: skip
_NEUTRAL = {
    *("fp16", "fp32", "bf16", "f16", "f32", "float16", "float32", "bfloat16", "half", "full", "precision"),
    *("ema", "model", "models", "weights", "weight", "params", "module", "network", "net", "state", "dict", "sd"),
    *("statedict", "checkpoint", "ckpt", "pytorch", "torch", "pt", "pth", "bin", "safetensors", "dpt", "dinov2"),
    *("best", "final", "last", "latest", "official", "original", "release", "released", "published", "pretrained"),
    *("hf", "converted", "exported", "copy", "download", "downloaded", "resaved", "clean", "stripped", "only", "cpu"),
    *("small", "base", "large", "giant", "s", "b", "l", "g", "cuda", "gpu", "mps", "new", "old"),
}
"""Words that say how weights were stored, not what they mean."""


@dataclass(frozen=True)
class NameClaims:
    """What a name says; an empty set says nothing."""

    versions: frozenset[str]
    """``1``, ``2``."""
    meanings: frozenset[str]
    """``relative``, ``indoor``, ``outdoor`` (the last two metric)."""

    def allow(self, other: "NameClaims") -> bool:
        """Whether the two can be said of the same weights."""
        pairs = ((self.versions, other.versions), (self.meanings, other.meanings))
        return all(not first or not second or first & second for first, second in pairs)


def name_claims(stem: str) -> NameClaims:
    """What a file name without its suffix says. Never raises; a name of one's own says nothing."""
    text = stem.lower()
    versions = set(_VERSION.findall(text))
    if not versions:
        versions = set(_BARE_VERSION.findall(text)) | ({"1"} if _V1_SIZE.search(text) else set())
    return NameClaims(frozenset(versions if len(versions) == 1 else ()), frozenset(_meanings(text, bool(versions))))


def allows(stem: str, published: tuple[str, ...]) -> bool:
    """Whether weights in a file of this name can be what was published under the names ``published``; true of none."""
    claims = name_claims(stem)
    return not published or any(claims.allow(name_claims(name)) for name in published)


def _meanings(text: str, has_version: bool) -> set[str]:
    found = set()
    if "hypersim" in text:
        found.add(_INDOOR)
    if re.search(r"v[\W_]*kitti|virtual[\W_]*kitti", text):
        found.add(_OUTDOOR)
    if _METRIC.search(text) and not found:
        found = {each for each in (_INDOOR, _OUTDOOR) if each in text} or {_INDOOR, _OUTDOOR}
    if re.search(r"(?<![a-z])(?:relative|disparity)(?![a-z])", text):
        found.add(_RELATIVE)
    if not found and has_version and ("anything" in text or _VERSION.search(text)):
        # The name as published, with nothing in it that could mean other training: metric weights would say so.
        rest = re.findall(r"[a-z0-9]+", _STRUCTURE.sub(" ", text))
        if all(word in _NEUTRAL or word.isdigit() for word in rest):
            found.add(_RELATIVE)
    return found
