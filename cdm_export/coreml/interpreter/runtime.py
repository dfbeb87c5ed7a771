"""The backend ``coreml-reference``: verifies packages where there is no Mac; never chosen to run one."""

from importlib.util import find_spec
from pathlib import Path

from cdm_export.runtimes.backends import Backend
from cdm_export.runtimes.contract import ModelContract
from cdm_export.runtimes.errors import BackendUnavailable
from cdm_export.runtimes.install import install
from cdm_export.runtimes.runtime import Session


def load(path: Path, contract: ModelContract, backend: Backend, precision: str, threads: int) -> Session:
    """Open a package.

    Raises BackendUnavailable without PyTorch, which is the arithmetic here; BundleError for a package that does not
    hold together, holds an operation unknown here, or was made for another contract.
    """
    if find_spec("torch") is None:
        raise BackendUnavailable(
            f"backend '{backend.name}' computes with PyTorch, which is not installed here",
            f"Add it with: {install('export', 'coreml')}",
        )
    from cdm_export.coreml.interpreter.session import open_package

    return open_package(path, contract, precision, threads)
