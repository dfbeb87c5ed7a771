"""Pickles are programs: none of them runs, none of them reaches outside its file."""

import builtins
import os
import pickle
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cdm_export.reference_model import unpickle
from cdm_export.reference_model.checkpoint import read_checkpoint
from cdm_export.runtimes.errors import CheckpointError

State = dict[str, Tensor]


def saved(path: Path, tree: object, **options: Any) -> Path:
    torch.save(tree, path, **options)
    return path


def test_views_and_strides(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    tree = {"t": base.T, "row": base[2], "shared": base, "scalar": torch.tensor(5), "empty": torch.empty(0, 3)}
    for zipped in (True, False):
        path = saved(tmp_path / "w.pt", tree, _use_new_zipfile_serialization=zipped)
        read = read_checkpoint(path).state_dict
        assert read.keys() == tree.keys()
        assert all(torch.equal(read[name], tensor) for name, tensor in tree.items())
        del read


class Runs:
    """Calls ``function(*arguments)`` when unpickled."""

    def __init__(self, function: Any, *arguments: object, state: object = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "place",
    [
        lambda payload, state: {"state_dict": state, "extra": payload},
        lambda payload, state: {"state_dict": state, "extra": [1, {"deep": ({"er": payload},)}]},
        lambda payload, state: {payload: 1, "state_dict": state},
        lambda payload, state: {"state_dict": state | {payload: 2}},
        lambda payload, state: {"state_dict": state | {"hidden": payload}},
    ],
    ids=["value", "nested", "key", "key-of-state-dict", "value-of-state-dict"],
)
def test_payloads_do_not_run_and_are_listed(
    tmp_path: Path, place: Callable[[Any, State], object], zipped: bool
) -> None:
    state = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}
    marker = tmp_path / "ran"
    touch = f"open({str(marker)!r}, 'w').close()"
    payloads = {
        f"{os.system.__module__}.system": Runs(os.system, f"touch {marker}"),
        "exec": Runs(builtins.exec, touch),
        "eval": Runs(builtins.eval, touch),
        "getattr": Runs(getattr, 1, "real"),
        ".Popen": Runs(subprocess.Popen, ["touch", str(marker)], state={"a": 1}),
        "torch.storage._load_from_bytes": Runs(torch.storage._load_from_bytes, pickle.dumps(Runs(exec, touch))),
    }
    for name, payload in payloads.items():
        path = saved(tmp_path / "evil.pt", place(payload, state), _use_new_zipfile_serialization=zipped)
        checkpoint = read_checkpoint(path)
        assert checkpoint.state_dict.keys() == state.keys()
        assert all(torch.equal(checkpoint.state_dict[key], tensor) for key, tensor in state.items())
        assert any(met.endswith(name) for met in checkpoint.ignored), checkpoint.ignored
        assert not marker.exists(), name


def test_such_a_payload_does_run_in_an_ordinary_unpickler(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    pickle.loads(pickle.dumps(Runs(builtins.exec, f"open({str(marker)!r}, 'w').close()")))
    assert marker.exists()


def test_objects_of_the_unpickler_cannot_be_altered(tmp_path: Path) -> None:
    """BUILD and REDUCE on the few names that are answered: nothing outlives the file, nothing but CheckpointError."""
    planted = {"planted": 1}
    targets = [
        b"ccollections\nOrderedDict\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch._utils\n_rebuild_parameter\n",
        b"ctorch\nSize\n",
        b"ctorch\nFloatStorage\n",
        b"cos\nsystem\n",
    ]
    plain = saved(tmp_path / "plain.pt", {"a": torch.ones(3)})
    for target in targets:
        for attributes in (planted, (None, planted), (planted, planted)):
            evil = b"\x80\x02" + target + pickle.dumps(attributes, 2)[2:-1] + b"b."
            path = with_pickle(plain, tmp_path / "evil.pt", evil)
            with pytest.raises(CheckpointError):
                read_checkpoint(path)
    assert not hasattr(tuple, "planted") and not hasattr(torch.float32, "planted")
    assert not any(hasattr(known, "planted") for known in (*unpickle._GLOBALS.values(), unpickle.Ignored))
    assert torch.equal(read_checkpoint(plain).state_dict["a"], torch.ones(3))


@pytest.mark.parametrize(
    ("storage", "arguments"),
    [
        (("0", 3), (0, (4,), (1,))),
        (("0", 3), (2, (2,), (1,))),
        (("0", 3), (-1, (2,), (1,))),
        (("0", 3), (0, (3,), (-1,))),
        (("0", 3), (0, (2**62, 4), (1, 2**62))),
        (("0", 300), (0, (300,), (1,))),
        (("0", -3), (0, (3,), (1,))),
        (("7", 3), (0, (3,), (1,))),
        (("0", 3), (0, "abc", None)),
        (("0", "3"), (0, (3,), (1,))),
    ],
)
def test_a_tensor_cannot_leave_its_storage(tmp_path: Path, storage: tuple[Any, Any], arguments: Any) -> None:
    key, numel = storage

    class Describes(pickle.Pickler):
        def persistent_id(self, obj: object) -> Any:
            return ("storage", torch.FloatStorage, key, "cpu", numel) if obj is storage else None

    with (tmp_path / "data.pkl").open("wb") as file:
        rebuilt = Runs(torch._utils._rebuild_tensor_v2, storage, *arguments, False, {})
        Describes(file, protocol=2).dump({"a": rebuilt})
    plain = saved(tmp_path / "plain.pt", {"a": torch.ones(3)})
    path = with_pickle(plain, tmp_path / "evil.pt", (tmp_path / "data.pkl").read_bytes())
    with pytest.raises(CheckpointError, match="cannot be rebuilt"):
        read_checkpoint(path)


def with_pickle(source: Path, target: Path, pickled: bytes) -> Path:
    """Copy of a zip checkpoint with another ``data.pkl``."""
    with zipfile.ZipFile(source) as read, zipfile.ZipFile(target, "w") as write:
        for name in read.namelist():
            write.writestr(name, pickled if name.endswith("/data.pkl") else read.read(name))
    return target
