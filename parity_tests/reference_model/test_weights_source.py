"""One record says where weights come from; a checkpoint is looked at once, however often it is read."""

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from cdm_export.reference_model import checkpoint as reading
from cdm_export.reference_model.checkpoint import load_network
from cdm_export.reference_model.random_weights import seeded_network
from cdm_export.reference_model.registry import get_variant
from cdm_export.reference_model.weights_source import WeightsSource
from cdm_export.runtimes.bundle import Provenance, RandomWeights
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.errors import CheckpointError

SEEDED = RandomWeights(seed=3, scale=1.0, shift=0.0)


@pytest.fixture
def variant():
    """The smallest one that ships."""
    return get_variant("cdm-vitt")


@pytest.fixture
def contract(variant):
    return variant.contract("cdm-vitt", Size(98, 70), 70)


@pytest.fixture
def file(tmp_path, variant):
    path = tmp_path / "a.pt"
    torch.save(seeded_network(variant, 3).state_dict(), path)
    return path


@pytest.fixture
def looks(monkeypatch):
    """How often every number of a file was looked at."""
    seen = []
    found = reading.find_damage
    monkeypatch.setattr(reading, "find_damage", lambda state: seen.append(len(state)) or found(state))
    return seen


@pytest.mark.parametrize("given", [{}, {"checkpoint": "a", "seed": 1}, {"seed": 1, "seeded": SEEDED}])
def test_weights_come_from_one_place(given):
    with pytest.raises(ValidationError, match="one of checkpoint, seed, seeded"):
        WeightsSource(**given)


def test_what_was_made_is_made_again(file, variant, contract):
    first, *_ = load_network(file, variant)
    provenance = Provenance(checkpoint="a.pt", sha256=reading.cached_sha256(file), random_weights=None, license="")
    again = WeightsSource(checkpoint=str(file)).made(provenance)
    assert again.sha256 == provenance.sha256 and WeightsSource.model_validate_json(again.model_dump_json()) == again
    seeded = WeightsSource(seed=3).made(provenance.model_copy(update={"random_weights": SEEDED}))
    for source in (again, seeded):
        network = source.exportable(contract).get_submodule("network")
        for name, tensor in first.state_dict().items():
            assert torch.equal(network.state_dict()[name], tensor), name


def test_an_export_s_processes_look_once(file, variant, contract, looks):
    """Six take the weights: which model it is, ONNX, every low precision again, INT8, Core ML, its integers."""
    source = WeightsSource(checkpoint=str(file))
    reading.read_checkpoint(file)
    for _ in range(5):
        source.exportable(contract)
    assert len(looks) == 1
    load_network(file, variant)
    assert len(looks) == 1


def test_another_file_of_the_same_name_is_looked_at(file, variant, looks):
    load_network(file, variant)
    state = torch.load(file, weights_only=True)
    state["pretrained.blocks.0.attn.qkv.weight"][5] = np.nan
    torch.save(state, file)
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        load_network(file, variant)
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        load_network(file, variant)


def test_a_file_that_changes_during_an_export_is_refused(file, contract, variant):
    provenance = Provenance(checkpoint="a.pt", sha256=reading.cached_sha256(file), random_weights=None, license="")
    source = WeightsSource(checkpoint=str(file)).made(provenance)
    source.exportable(contract)
    torch.save(seeded_network(variant, 4).state_dict(), file)
    with pytest.raises(CheckpointError, match="was changed while it was exported"):
        source.exportable(contract)


def test_what_is_remembered_is_no_proof_for_another_model(file, looks, tmp_path, monkeypatch):
    load_network(file, get_variant("cdm-vitt"))
    cache = tmp_path / "elsewhere"
    monkeypatch.setenv("CDM_EXPORT_CACHE", str(cache))
    load_network(file, get_variant("cdm-vitt"))
    assert len(looks) == 2, "another cache knows nothing"
    (entry,) = (cache / "checked").iterdir()
    entry.write_text(json.dumps({**json.loads(entry.read_text()), "size": 1}))
    load_network(file, get_variant("cdm-vitt"))
    entry.write_text("{")
    load_network(file, get_variant("cdm-vitt"))
    assert len(looks) == 4, "an entry of another file, or none, proves nothing"
