"""Frame in, depth out: the same processing around every backend, so that parity measures the backend alone."""

import logging
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.contract import ModelContract
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.frame import DepthResult, Frame, Health, Timing
from cdm_export.runtimes.processing import at_camera_size, output, preprocess, stacked
from cdm_export.runtimes.processing.depth import NEAREST, outside_share, usable
from cdm_export.runtimes.runtime import Description, DeviceClock, Runtime

_LOG = logging.getLogger("cdm_export")
_MOST_OUTSIDE = 0.5
"""Share of readings outside the range above which the depth is probably in another unit."""


class DepthPipeline:
    """Processing + runtime. Call it with a ``Frame``; use it as a context manager or ``close()`` it.

    Opened with a batch it takes that many frames at once, through ``many``.
    """

    def __init__(self, runtime: Runtime, contract: ModelContract | None = None) -> None:
        self.runtime = runtime
        self.contract = contract or runtime.contract
        """The runtime's contract, possibly with another ``max_depth`` or ``far``."""
        self._images: list[NDArray[Any] | None] = [None] * self.contract.batch
        self._warned = False

    def __call__(self, frame: Frame) -> DepthResult:
        """Refine one frame. Raises InputError when it does not fit the contract."""
        return self.many([frame])[0]

    def many(self, frames: Sequence[Frame]) -> list[DepthResult]:
        """Refine as many frames as the artifact takes at once; the timing of each result is that of the whole call.

        Raises InputError for another number of frames, or one that does not fit the contract.
        """
        if not isinstance(frames, Sequence) or not all(isinstance(frame, Frame) for frame in frames):
            kinds = (
                [type(frame).__name__ for frame in frames] if isinstance(frames, Sequence) else type(frames).__name__
            )
            raise InputError(
                f"frames are cdm_export.Frame objects, got {', '.join(kinds) if isinstance(kinds, list) else kinds}",
                "Make one: cdm_export.Frame(rgb=..., depth=...)",
            )
        if len(frames) != self.contract.batch:
            raise InputError(
                f"this artifact takes {self.contract.batch} frame(s) at once, got {len(frames)}",
                "Open the bundle with the batch you call it with: cdm_export.open(BUNDLE, batch=...)",
            )
        started = time.perf_counter()
        prepared_frames = [
            preprocess(frame, self.contract, image) for frame, image in zip(frames, self._images, strict=True)
        ]
        self._images = [inputs["image"] for inputs in prepared_frames]
        inputs = stacked(prepared_frames)
        prepared = time.perf_counter()
        raw = self.runtime(inputs)[self.contract.outputs[0].name]
        inferred = time.perf_counter()
        interpreted = [
            output.interpret(at_camera_size(raw[index : index + 1], self.contract), self.contract)
            for index in range(len(frames))
        ]
        finished = time.perf_counter()
        timing = Timing(
            preprocess=1e3 * (prepared - started),
            inference=1e3 * (inferred - prepared),
            postprocess=1e3 * (finished - inferred),
            device=self.runtime.device_stages() if isinstance(self.runtime, DeviceClock) else {},
        )
        return [self._result(frame, raw[index], *interpreted[index], timing) for index, frame in enumerate(frames)]

    def _result(
        self, frame: Frame, raw: NDArray[np.float32], values: NDArray[np.float32], valid: NDArray[np.bool_],
        timing: Timing,
    ) -> DepthResult:  # fmt: skip
        sensor_share = outside = None
        if frame.depth is not None:
            sensor_share = _share(usable(frame.depth, self.contract.max_depth))
            if self.contract.depth_input is not None:
                outside = outside_share(frame.depth, self.contract.max_depth)
                self._warn_once(outside)
        return DepthResult(
            values=values,
            valid=valid,
            semantics=self.contract.semantics,
            unit="m" if self.contract.metric else "",
            timing=timing,
            health=Health(
                non_finite_share=1 - _share(np.isfinite(raw)),
                valid_share=_share(valid),
                sensor_share=sensor_share,
                age=None if frame.captured_at is None else time.monotonic() - frame.captured_at,
                outside_share=outside,
            ),
        )

    def _warn_once(self, outside: float | None) -> None:
        """Say in the log that depth is probably not meters: a control loop goes on, and its log is read once."""
        if outside is not None and outside > _MOST_OUTSIDE and not self._warned:
            self._warned = True
            _LOG.warning(
                "%.0f %% of the sensor's readings are nearer than %g m or beyond max_depth, %g m: is the depth in "
                "meters? See DepthResult.health.outside_share; said once per pipeline",
                100 * outside,
                NEAREST,
                self.contract.max_depth,
            )

    def warm_up(self) -> None:
        """One call on empty frames, so that the first real one is not the slow one. Raises InputError, and leaves the
        runtime alone, for a contract with an input that the processing does not make.
        """
        camera = self.contract.camera
        plane = (camera.height, camera.width)
        empty = Frame(rgb=np.zeros((*plane, 3), np.uint8), depth=np.zeros(plane, np.float32))
        self.many([empty] * self.contract.batch)

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
