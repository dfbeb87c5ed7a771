"""Parts of a picture: values in color with what the colors mean, titles and captions, all drawn by OpenCV."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.cache import write_atomically

Rgb = NDArray[np.uint8]
PAPER = (250, 250, 250)
_INK, _ALARM = (30, 30, 30), (190, 20, 20)
_FONT = cv2.FONT_HERSHEY_DUPLEX
_HATCH_LIGHT, _HATCH_DARK, _HATCH_EVERY = 188, 128, 8
"""Grays of the hatching that stands for no reading, and pixels from one line to the next: no color map holds it."""
_PHONE = 1.9
"""Text is drawn so much larger than a monitor needs: a picture is looked at on a phone, a quarter as wide."""


def encode_png(rgb: Rgb) -> bytes:
    """A picture as the bytes of its file."""
    written, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    assert written
    return data.tobytes()


def write_png(path: Path, rgb: Rgb) -> None:
    """Write a picture whole or not at all."""
    write_atomically(path, encode_png(rgb))


def hatching(height: int, width: int) -> Rgb:
    """[H, W, 3] gray diagonal lines: no reading."""
    diagonal = (np.arange(height)[:, None] + np.arange(width)) % _HATCH_EVERY
    gray = np.where(diagonal < 2, _HATCH_DARK, _HATCH_LIGHT).astype(np.uint8)
    return gray[:, :, None].repeat(3, axis=2)


def color(share: NDArray[np.floating], colors: int | None, missing: NDArray[np.bool_]) -> Rgb:
    """[H, W] of 0..1 -> RGB of OpenCV's color map ``colors``, gray for None; hatched where ``missing``."""
    levels = (255 * share).astype(np.uint8)
    if colors is None:
        picture = cv2.cvtColor(levels, cv2.COLOR_GRAY2RGB)
    else:
        picture = cv2.cvtColor(cv2.applyColorMap(levels, colors), cv2.COLOR_BGR2RGB)
    shown = np.asarray(picture, np.uint8)
    if missing.any():
        shown[missing] = hatching(*missing.shape)[missing]
    return shown


def drawable(text: str) -> str:
    """``text`` with what does not print as an escape: OpenCV draws it as it is, and crashes on the surrogates that
    stand for the bytes of a file name that is not UTF-8 (5.0).
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def bar(height: int, colors: int | None, labels: Sequence[str], *, reverse: bool = False, hatched: bool = False) -> Rgb:
    """Vertical color bar, first label at the bottom; below it, where the picture is ``hatched``, what that means."""
    scale = _scale(height)
    legend = round(34 * scale) if hatched else 0
    margin, width, left = round(12 * scale), round(12 * scale), round(5 * scale)
    widest = max(_width(label, scale) for label in (*labels, "reading" if hatched else ""))
    picture = np.full((height, left + width + round(8 * scale) + widest + round(6 * scale), 3), PAPER, np.uint8)
    end = height - margin - legend
    ramp = np.linspace(1, 0, end - margin)[:, None].repeat(width, 1)
    nothing_missing = np.zeros(ramp.shape, bool)
    picture[margin:end, left : left + width] = color(1 - ramp if reverse else ramp, colors, nothing_missing)
    beside = left + width + round(4 * scale)
    for index, label in enumerate(labels):
        middle = end - round(index / (len(labels) - 1) * (end - margin))
        _text(picture, label, beside, middle + round(5 * scale), scale)
    if hatched:
        top = height - legend + round(8 * scale)
        picture[top : top + width, left : left + width] = hatching(width, width)
        _text(picture, "no", beside, top + round(6 * scale), scale)
        _text(picture, "reading", beside, top + round(19 * scale), scale)
    return picture


def blank_bar(like: Rgb) -> Rgb:
    """Nothing, as large as a bar, beside what needs none."""
    return np.full_like(like, PAPER)


def titled(image: Rgb, beside: Rgb, title: str) -> Rgb:
    """An image and its bar under their title, which is shrunk until it fits."""
    scale = _scale(image.shape[0])
    body = np.concatenate((image, beside), axis=1)
    head = np.full((round(22 * scale), body.shape[1], 3), PAPER, np.uint8)
    fitting = scale * min(1.0, (body.shape[1] - 12) / max(_width(title, scale), 1))
    _text(head, title, round(4 * scale), round(15 * scale), fitting)
    return np.concatenate((head, body))


def grid(rows: Sequence[Sequence[Rgb]]) -> Rgb:
    """Tiles of equal size beside and under each other."""
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def captioned(picture: Rgb, caption: str, warning: str) -> Rgb:
    """Caption, and warnings in red, under the picture: the caption shrunk until it fits, every line of ``warning``
    broken into as many as it needs.
    """
    base = max(picture.shape[1] / 1000, 0.5)
    lines = [(drawable(caption), _INK)]
    for line in filter(None, warning.split("\n")):
        lines += [(part, _ALARM) for part in _broken(drawable(line), picture.shape[1] - 20, base)]
    strips = []
    for text, ink in lines:
        scale = base * min(1.0, (picture.shape[1] - 20) / max(_width(text, base), 1))
        strip = np.full((round(24 * base), picture.shape[1], 3), PAPER, np.uint8)
        _text(strip, text, 8, round(17 * base), scale, ink)
        strips.append(strip)
    return np.concatenate((picture, *strips))


def _scale(height: int) -> float:
    return _PHONE * max(height / 480, 0.35)


def _text(picture: Rgb, text: str, left: int, baseline: int, scale: float, ink: Sequence[int] = _INK) -> None:
    text = drawable(text)
    cv2.putText(picture, text, (left, baseline), _FONT, 0.5 * scale, ink, max(1, round(0.8 * scale)), cv2.LINE_AA)


def _width(text: str, scale: float) -> int:
    (wide, _), _ = cv2.getTextSize(text, _FONT, 0.5 * scale, max(1, round(0.8 * scale)))
    return wide


def _broken(text: str, width: int, scale: float) -> list[str]:
    """``text`` in lines of at most ``width`` pixels, broken between words."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and _width(longer, scale) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
