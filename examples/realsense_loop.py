"""Live refinement: aligned depth in, refined depth out, the newest frame wins.

    python examples/realsense_loop.py d435.bundle                                  # a RealSense camera, a preview
    python examples/realsense_loop.py d435.bundle --source recorded/ --fps 30      # a folder instead of the camera
    python examples/realsense_loop.py d435.bundle --no-preview --save refined/     # on a robot, without a screen

The camera fills a slot of one frame from its own thread; the runtime stays in the thread that opened it. A frame that
was not refined before the next one came is dropped and counted: what comes out is never older than one refinement.
"""

import argparse
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

import cdm_export
from cdm_export.predict.drawing import write_png
from cdm_export.predict.pictures import color_depth

NEAR_AND_FAR = (0.2, 6.0)
"""Colors of the preview, meters."""
LEAST_VALID, LEAST_SENSOR = 0.05, 0.01
"""Shares under which a frame is not to be acted on."""


class Camera(Protocol):
    """Something that delivers frames, depth aligned to color, in meters."""

    def frames(self) -> Generator[cdm_export.Frame, None, None]:
        """One after the other, as they come; ends when the camera does."""
        ...


class RealSense:
    """A RealSense camera at the size the bundle was made for."""

    def __init__(self, size: cdm_export.Size, fps: int) -> None:
        self._size = size
        self._fps = fps

    def frames(self) -> Generator[cdm_export.Frame, None, None]:
        """Needs ``pyrealsense2``. Raises CdmExportError without it."""
        try:
            import pyrealsense2 as rs
        except ImportError as error:
            raise cdm_export.CdmExportError(
                "a RealSense camera needs the package 'pyrealsense2', which is not installed here",
                "Add it with: pip install pyrealsense2 (Jetson: librealsense with Python bindings), or play a folder: "
                "--source FOLDER",
            ) from error
        pipeline, config = rs.pipeline(), rs.config()
        config.enable_stream(rs.stream.color, self._size.width, self._size.height, rs.format.rgb8, self._fps)
        config.enable_stream(rs.stream.depth, self._size.width, self._size.height, rs.format.z16, self._fps)
        scale = pipeline.start(config).get_device().first_depth_sensor().get_depth_scale()
        align = rs.align(rs.stream.color)
        try:
            while True:
                both = align.process(pipeline.wait_for_frames())
                captured_at = time.monotonic()
                color, depth = both.get_color_frame(), both.get_depth_frame()
                if not color or not depth:
                    continue
                # Copies: the camera takes its buffers back.
                yield cdm_export.Frame(
                    rgb=np.array(color.get_data()),
                    depth=np.asarray(depth.get_data()).astype(np.float32) * np.float32(scale),
                    captured_at=captured_at,
                )
        finally:
            pipeline.stop()


class Recorded:
    """A folder of frames played at the camera's pace."""

    def __init__(self, folder: Path, size: cdm_export.Size, fps: float, repeat: bool) -> None:
        from cdm_export.runtimes.sources import open_source

        self._source = open_source(str(folder), camera=size, fit=True)
        self._period = 1 / fps
        self._repeat = repeat

    def frames(self) -> Generator[cdm_export.Frame, None, None]:
        """Each frame once, or for ever."""
        due = time.monotonic()
        while True:
            for index in range(len(self._source)):
                frame = self._source.load(index).frame
                time.sleep(max(0.0, due - time.monotonic()))
                due = max(due + self._period, time.monotonic())
                yield cdm_export.Frame(frame.rgb, frame.depth, captured_at=time.monotonic())
            if not self._repeat:
                return


class Newest:
    """A slot of one: the camera's thread puts, the refining thread takes."""

    def __init__(self, camera: Camera) -> None:
        self.dropped = 0
        self._camera = camera
        self._frame: cdm_export.Frame | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="camera", daemon=True)
        self._thread.start()

    def take(self) -> cdm_export.Frame | None:
        """Wait for a frame that was not taken yet; None when the camera has ended. Raises what the camera raised."""
        with self._changed:
            while self._frame is None and not self._ended:
                self._changed.wait(0.2)  # so that Ctrl-C is heard
            frame, self._frame = self._frame, None
            if frame is None and self._error is not None:
                raise self._error
            return frame

    def close(self) -> None:
        """Stop the camera."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _fill(self) -> None:
        try:
            with closing(self._camera.frames()) as frames:
                for frame in frames:
                    with self._changed:
                        self.dropped += self._frame is not None
                        self._frame = frame
                        self._changed.notify()
                    if self._stop.is_set():
                        return
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()


@dataclass
class Statistics:
    """What a run amounts to."""

    refined: int = 0
    """Frames that came out."""
    unhealthy: int = 0
    """Of these, frames not to be acted on."""
    dropped: int = 0
    """Frames that were overtaken by a newer one."""
    oldest: float = 0.0
    """Largest age of a result, seconds."""


def healthy(result: cdm_export.DepthResult) -> bool:
    """Whether a robot may act on a frame: the network is sound, the lens is not covered, and there is depth at all."""
    health = result.health
    sensor = health.sensor_share is None or health.sensor_share >= LEAST_SENSOR
    return health.non_finite_share == 0 and sensor and health.valid_share >= LEAST_VALID


def loop(
    refine: Callable[[cdm_export.Frame], cdm_export.DepthResult],
    newest: Newest,
    show: Callable[[cdm_export.Frame, cdm_export.DepthResult], bool],
    most: int = 0,
) -> Statistics:
    """Refine until the camera ends, ``show`` says no, or ``most`` frames came out (0: no limit)."""
    statistics = Statistics()
    while not most or statistics.refined < most:
        frame = newest.take()
        if frame is None:
            break
        result = refine(frame)
        statistics.refined += 1
        statistics.unhealthy += not healthy(result)
        statistics.dropped = newest.dropped
        statistics.oldest = max(statistics.oldest, result.health.age or 0.0)
        if not show(frame, result):
            break
    return statistics


def preview(frame: cdm_export.Frame, result: cdm_export.DepthResult) -> bool:
    """Color beside refined depth in a window; False when q or Esc was pressed."""
    picture = np.hstack([frame.rgb, color_depth(result.depth_m, NEAR_AND_FAR)])
    text = f"{result.timing.total:.0f} ms, {result.health.valid_share:.0%} valid" + (
        "" if healthy(result) else "  DO NOT USE"
    )
    cv2.putText(picture, text, (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 2)
    cv2.imshow("cdm-export", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return cv2.waitKey(1) & 0xFF not in (ord("q"), 27)


def saver(folder: Path) -> Callable[[cdm_export.Frame, cdm_export.DepthResult], bool]:
    """Write every refined frame as meters (.npy) and as a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0

    def save(frame: cdm_export.Frame, result: cdm_export.DepthResult) -> bool:
        nonlocal count
        np.save(folder / f"{count:06d}.npy", result.depth_m)
        write_png(folder / f"{count:06d}.png", color_depth(result.depth_m, NEAR_AND_FAR))
        count += 1
        return True

    return save


def main(arguments: list[str] | None = None) -> Statistics:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--source", type=Path, help="folder of recorded frames instead of a RealSense camera")
    parser.add_argument("--repeat", action="store_true", help="play the folder again and again")
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--frames", type=int, default=0, help="stop after this many; 0 for no limit")
    parser.add_argument("--no-preview", action="store_true")
    parser.add_argument("--save", type=Path, help="folder for refined frames")
    given = parser.parse_args(arguments)
    if given.fps < 1:
        parser.error(f"--fps {given.fps}: at least 1 frame per second")
    shows: list[Callable[[cdm_export.Frame, cdm_export.DepthResult], bool]] = []
    if given.save:
        shows.append(saver(given.save))
    if not given.no_preview:
        shows.append(preview)

    def show(frame: cdm_export.Frame, result: cdm_export.DepthResult) -> bool:
        return all(one(frame, result) for one in shows)

    # Opening warms up, which on a GPU also captures the graph: the first frame of the camera is not the slow one.
    with cdm_export.open(given.bundle, given.backend, given.precision, warmup=True) as refine:
        said: Any = refine.describe()
        print(f"{said.backend} {said.precision} on {said.device}")
        size = cdm_export.Size(*refine.contract.camera)
        camera: Camera = RealSense(size, given.fps)
        if given.source:
            camera = Recorded(given.source, size, given.fps, given.repeat)
        newest = Newest(camera)
        try:
            statistics = loop(refine, newest, show, given.frames)
        finally:
            newest.close()
    print(
        f"{statistics.refined} refined, {statistics.dropped} overtaken, {statistics.unhealthy} not to be used; "
        f"oldest result {statistics.oldest * 1e3:.0f} ms"
    )
    return statistics


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("stopped")
    except cdm_export.CdmExportError as error:
        raise SystemExit(f"error: {error}") from None
