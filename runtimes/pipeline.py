"""Frame in, depth out: the same processing around every backend, so that parity measures the backend alone."""

import logging
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.contract import ErrorClass, ModelContract
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.frame import DepthResult, Frame, Health, Timing
from cdm_export.runtimes.processing import at_camera_size, output, preprocess, stacked
from cdm_export.runtimes.processing.depth import NEAREST, outside_share, usable
from cdm_export.runtimes.runtime import Description, DeviceClock, Runtime

_LOG = logging.getLogger("cdm_export")
_UNITS = {ErrorClass.RELATIVE: "m", ErrorClass.RANGE: "", ErrorClass.PIXELS: "px"}
"""Of the result's values."""
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
        self._buffers: list[Mapping[str, NDArray[Any]]] = [{}] * self.contract.batch
        self._warned = False

    def __call__(self, frame: Frame) -> DepthResult:
        """Refine one frame. Raises InputError when it does not fit the contract."""
        return self.many([frame])[0]

    def many(self, frames: Sequence[Frame]) -> list[DepthResult]:
        """Refine up to as many frames as the artifact takes at once; the timing of each result is that of the whole
        call. A last, partial batch is filled up with its last frame, whose further results are dropped.

        Raises InputError for more frames, or none, or one that does not fit the contract.
        """
        if not isinstance(frames, Sequence) or not all(isinstance(frame, Frame) for frame in frames):
            kinds = (
                [type(frame).__name__ for frame in frames] if isinstance(frames, Sequence) else type(frames).__name__
            )
            raise InputError(
                f"frames are cdm_export.Frame objects, got {', '.join(kinds) if isinstance(kinds, list) else kinds}",
                "Make one: cdm_export.Frame(rgb=..., depth=...)",
            )
        if not 1 <= len(frames) <= self.contract.batch:
            raise InputError(
                f"this artifact takes up to {self.contract.batch} frame(s) at once, got {len(frames)}",
                "Open the bundle with the batch you call it with: cdm_export.open(BUNDLE, batch=...)",
            )
        started = time.perf_counter()
        prepared_frames = [
            preprocess(frame, self.contract, buffers) for frame, buffers in zip(frames, self._buffers, strict=False)
        ]
        self._buffers[: len(frames)] = prepared_frames
        missing = self.contract.batch - len(frames)
        inputs = stacked([*prepared_frames, *prepared_frames[-1:] * missing])
        prepared = time.perf_counter()
        raw = self.runtime(inputs)[self.contract.output.name]
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
            if self.contract.reads("depth"):
                outside = outside_share(frame.depth, self.contract.max_depth)
                self._warn_once(outside)
        return DepthResult(
            values=values,
            valid=valid,
            semantics=self.contract.semantics,
            unit=_UNITS[self.contract.semantics.error_class],
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
        """One call on empty frames, so that the first real one is not the slow one."""
        camera, reads = self.contract.camera, self.contract.reads
        image = np.zeros((camera.height, camera.width, 3), np.uint8)
        depth = np.zeros(image.shape[:2], np.float32) if reads("depth") else None
        self.many([Frame(image, depth=depth, right=image if reads("right") else None)] * self.contract.batch)

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
