"""A CDM network small enough for tests of files: random weights where training leaves numbers."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cdm_export.reference_model.cdm.config import CdmConfig
from cdm_export.reference_model.cdm.network import Cdm
from cdm_export.reference_model.config import DptConfig, VitConfig
from cdm_export.reference_model.registry import get_variant
from cdm_export.reference_model.variant import Variant

State = dict[str, Tensor]

CONFIG = CdmConfig(VitConfig(96, 4, 2, (0, 1, 2, 3)), DptConfig(32, (16, 32, 32, 64)))


def small_variant() -> Variant:
    """The registry's, built small."""
    return replace(
        get_variant("cdm-vits"),
        build=lambda: Cdm(CONFIG),
        fits=lambda shapes: shapes.get("depth_pretrained.cls_token") == (1, 1, 96),
    )


def small_state() -> State:
    """Trained-like weights by name, always the same."""
    generator = torch.Generator().manual_seed(0)
    shapes = {name: tensor.shape for name, tensor in Cdm(CONFIG).state_dict().items()}
    return {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()}


def saved(path: Path, tree: object, *, legacy: bool = False) -> Path:
    """``torch.save``, in the zip format or the older one."""
    torch.save(tree, path, _use_new_zipfile_serialization=not legacy)
    return path
