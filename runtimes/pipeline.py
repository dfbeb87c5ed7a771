"""Frame in, depth out: the same processing around every backend, so that parity measures the backend alone."""

import time
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.contract import ModelContract
from runtimes.frame import DepthResult, Frame, Health, Timing
from runtimes.processing import at_camera_size, output, preprocess
from runtimes.processing.depth import usable
from runtimes.runtime import Description, Runtime


class DepthPipeline:
    """Processing + runtime. Call it with a ``Frame``; use it as a context manager or ``close()`` it."""

    def __init__(self, runtime: Runtime, contract: ModelContract | None = None) -> None:
        self.runtime = runtime
        self.contract = contract or runtime.contract
        """The runtime's contract, possibly with another ``max_depth`` or ``far``."""
        self._image: NDArray[Any] | None = None

    def __call__(self, frame: Frame) -> DepthResult:
        """Refine one frame. Raises InputError when it does not fit the contract."""
        started = time.perf_counter()
        inputs = preprocess(frame, self.contract, self._image)
        self._image = inputs["image"]
        prepared = time.perf_counter()
        raw = self.runtime(inputs)[self.contract.outputs[0].name]
        inferred = time.perf_counter()
        values, valid = output.interpret(at_camera_size(raw, self.contract), self.contract)
        finished = time.perf_counter()
        sensor_share = None
        if frame.depth is not None:
            sensor_share = _share(usable(frame.depth, self.contract.max_depth))
        return DepthResult(
            values=values,
            valid=valid,
            semantics=self.contract.semantics,
            unit="m" if self.contract.metric else "",
            timing=Timing(1e3 * (prepared - started), 1e3 * (inferred - prepared), 1e3 * (finished - inferred)),
            health=Health(
                non_finite_share=1 - _share(np.isfinite(raw)),
                valid_share=_share(valid),
                sensor_share=sensor_share,
                age=None if frame.captured_at is None else time.monotonic() - frame.captured_at,
            ),
        )

    def warm_up(self) -> None:
        """One call on an empty frame, so that the first real one is not the slow one."""
        camera = self.contract.camera
        plane = (camera.height, camera.width)
        self(Frame(rgb=np.zeros((*plane, 3), np.uint8), depth=np.zeros(plane, np.float32)))

    def describe(self) -> Description:
        """What the runtime says of itself."""
        return self.runtime.describe()

    def close(self) -> None:
        """Free the device."""
        self.runtime.close()

    def __enter__(self) -> "DepthPipeline":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _share(mask: NDArray[np.bool_]) -> float:
    """Of true elements, 0..1."""
    return np.count_nonzero(mask) / mask.size
