"""Pictures that were turned by some degrees are turned back.

    image ──turn_in──▶ Turn ──turned_back──▶ the picture as it was before, as far as it is left

Turning leaves four corners of one plain colour. Either the canvas grew, so that the whole picture is inside, or it kept
its size and cut off the picture's own corners. In both cases the angle alone says where the four seams between colour
and picture lie. So an angle counts as found where the picture begins on these seams, nearly all along them: the outline
of a thing on a plain background, a disc, a badge or a vignette does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

UInt8Array = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]

LOOK_SIDE = 256  # seams are looked for at so many pixels of the longer side
MIN_SIDE = 64  # smaller pictures are left as they are
LEAST, MOST = 1.2, 42.0  # degrees: less moves the corners by few pixels of LOOK_SIDE

_TOLERANCE = 14  # levels of a channel that a plain colour may vary, after JPEG
_CORNERS = 28  # ... and from corner to corner, where JPEG mixes in some of the picture
_NARROW = 32  # pixels of LOOK_SIDE: of pictures with a shorter side the seams are too short
_END = 0.3  # of a side's length: so near its deeper end only one seam is seen, whatever the canvas
_APART = 1.0  # degrees by which two seams may differ when first measured
_ROUNDS = 3  # of measuring again, from all that is seen of the seams
_EARLY = 0.7  # pixels by which a picture, mixed with the colour, is usually seen to begin before its seam
_EARLIEST = 3.0  # ... and at most, where it was blurred
_UNLIKELY = 0.05  # agreement that each pixel more or less than usual costs: it tells the two canvases apart
_NEAR = 1.3  # pixels between where a picture is seen to begin and where the angle puts that
_SEAM = 0.6  # share of a seam where it is as near, at three of the seams
_SEAMS = 0.7  # ... and of all four
_BEYOND = 0.25  # share of a seam in front of which another colour is seen at most: specks of JPEG
_CUT = 0.5  # pixels that go on each side, since the outermost were mixed with the colour


@dataclass(frozen=True)
class Turn:
    """How a picture lies on its canvas: turned by `degrees` clockwise around its middle; whether the canvas `grew`."""

    degrees: float
    grew: bool

    def size(self, width: float, height: float) -> tuple[float, float]:
        """(width, height) of the picture on a canvas of that width and height."""
        if not self.grew:
            return width, height
        angle = math.radians(abs(self.degrees))
        cos, sin = math.cos(angle), math.sin(angle)
        return (width * cos - height * sin) / math.cos(2 * angle), (height * cos - width * sin) / math.cos(2 * angle)


def turn_in(image: Image.Image) -> Turn | None:
    """How an RGB image shows a picture, turned by `LEAST` to `MOST` degrees; None where it shows none."""
    if min(image.size) < MIN_SIDE or not has_equal_corners(image):
        return None
    scale = min(1.0, LOOK_SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return find_turn(cv2.resize(np.asarray(image), size, interpolation=cv2.INTER_AREA))


def has_equal_corners(image: Image.Image) -> bool:
    """Most pictures have not, and four pixels tell."""
    right, bottom = image.width - 1, image.height - 1
    corners = np.array([image.getpixel(place) for place in ((0, 0), (right, 0), (0, bottom), (right, bottom))])
    return bool(np.ptp(corners, axis=0).max() <= _CORNERS)


def find_turn(rgb: UInt8Array) -> Turn | None:
    """(H, W, 3) uint8, at most `LOOK_SIDE` pixels -> how the picture lies on it; None where it is not turned."""
    if min(rgb.shape[:2]) < _NARROW:
        return None
    depths = _depths(rgb)
    best, found = 0.0, None
    for direction in (1, -1):  # turned clockwise, each seam leads inwards from left to right, as seen from its side
        degrees = _first_angle([depth[::direction] for depth in depths])
        if degrees is None:
            continue
        sides = _Sides.of(depths, direction)
        for grew in (True, False):
            agreement, measured = _fit(sides, Turn(degrees, grew))
            if agreement > best:
                best, found = agreement, Turn(direction * measured, grew)
    return found


def _depths(rgb: UInt8Array) -> list[Floats]:
    """(H, W, 3) -> (W,), (H,), (W,), (H,): as seen from the top, the right, the bottom and the left, with that side
    turned up, how many pixels of the corners' colour lie before the picture."""
    height, width = rgb.shape[:2]
    colour = np.median(rgb[:: height - 1, :: width - 1].reshape(-1, 3), axis=0)
    plain = cv2.inRange(rgb, colour - _TOLERANCE, colour + _TOLERANCE)
    rows, columns = plain == 0, cv2.transpose(plain) == 0
    depths = []
    for lines in (columns, rows[:, ::-1], columns[::-1, ::-1], rows[::-1]):
        begins = lines.argmax(axis=1)
        empty = ~lines[np.arange(len(lines)), begins]
        depths.append(np.where(empty, lines.shape[1], begins).astype(np.float64))
    return depths


def _first_angle(depths: list[Floats]) -> float | None:
    """Degrees on which two seams agree best: the picture may have the colour of the corners at the others."""
    angles = np.sort([_slope(depth[-int(_END * len(depth)) :]) for depth in depths])
    angles = angles[(angles >= LEAST) & (angles <= MOST)]
    if len(angles) < 2:
        return None
    apart = np.diff(angles)
    closest = int(apart.argmin())
    return float(angles[closest : closest + 2].mean()) if apart[closest] <= _APART else None


def _slope(depth: Floats) -> float:
    """(length,) -> degrees: of the slopes between points half the length apart the mean of the middle half."""
    half = len(depth) // 2
    steps = np.sort(depth[half : 2 * half] - depth[:half])
    return math.degrees(math.atan(steps[half // 4 : half - half // 4].mean() / half))


@dataclass(frozen=True)
class _Sides:
    """The P = 2 (W + H) outermost pixels of a canvas: (P,) the `side` of each, its `place` along that from the middle,
    and the `depth` at which the picture begins there."""

    side: Ints
    place: Floats
    depth: Floats
    width: int
    height: int

    @staticmethod
    def of(depths: list[Floats], direction: int) -> _Sides:
        lengths = [len(depth) for depth in depths]
        place = np.concatenate([np.arange(length) - (length - 1) / 2 for length in lengths])
        return _Sides(np.repeat(np.arange(4), lengths), direction * place, np.concatenate(depths), *lengths[:2])

    def seams(self, turn: Turn) -> Floats:
        """(P,): the depths at which clockwise `turn` puts the seams; negative where the picture reaches the edge."""
        angle = math.radians(turn.degrees)
        across, along = turn.size(self.width, self.height)
        middle = (np.array([self.height, self.width]) - np.array([along, across]) / math.cos(angle)) / 2
        return np.asarray(middle[self.side % 2] + math.tan(angle) * self.place, np.float64)

    def mean(self, values: npt.ArrayLike, where: Bools) -> Floats:
        """(4,): the mean of (P,) values of each side; 0 where there are none."""
        counts = np.bincount(self.side[where], minlength=4)
        sums = np.bincount(self.side[where], np.asarray(values, np.float64)[where], minlength=4)
        return np.asarray(sums / np.maximum(1, counts), np.float64)


def _fit(sides: _Sides, turn: Turn) -> tuple[float, float]:
    """How well the picture begins at the seams of a clockwise turn, 0 where it does not, and the angle in degrees, both
    measured along whole seams."""
    degrees, grew = turn.degrees, turn.grew
    for _ in range(_ROUNDS):
        expected, sooner, _ = _compared(sides, Turn(degrees, grew))
        near = (expected > 0) & (np.abs(sooner) <= _NEAR)
        x = (sides.place - sides.mean(sides.place, near)[sides.side])[near]
        flatter = float(x @ sooner[near]) / max(1.0, float(x @ x))
        degrees = math.degrees(math.atan(math.tan(math.radians(degrees)) - flatter))
        if not LEAST <= degrees <= MOST:
            return 0.0, degrees
    turn = Turn(degrees, grew)
    if min(turn.size(sides.width, sides.height)) < _NARROW / 2:  # on so narrow a canvas nothing lies so steeply
        return 0.0, degrees
    expected, sooner, early = _compared(sides, turn)
    there = expected > _NEAR  # where less is expected, a picture that fills its canvas would do as well
    near = np.sort(sides.mean(np.abs(sooner) <= _NEAR, there))
    if near[1] < _SEAM or near.mean() < _SEAMS or sides.mean(sooner > _NEAR, there).max() > _BEYOND:
        return 0.0, degrees
    return float(near.mean()) - _UNLIKELY * abs(early - _EARLY), degrees


def _compared(sides: _Sides, turn: Turn) -> tuple[Floats, Floats, float]:
    """(P,) the depths at which the picture should be seen to begin, (P,) by how many pixels it begins sooner, and how
    much before its seams, mixed with the colour, it is seen on average: the sooner the more it was blurred."""
    seams = sides.seams(turn)
    sooner = seams - sides.depth
    inside = seams > 2 * _NEAR
    early = np.full(4, _EARLY)
    for side in range(4):
        seen = np.sort(sooner[inside & (sides.side == side)])
        if len(seen):
            early[side] = min(max(0.0, seen[len(seen) // 2]), _EARLIEST)  # the middle one
    return seams - early[sides.side], sooner - early[sides.side], float(early.mean())


def turned_back(image: Image.Image, turn: Turn) -> Image.Image:
    """The picture alone, of an RGB image that shows it turned so; where the canvas cut off its corners, the pixels next
    to them are repeated, so that all else stays in its place."""
    width, height = image.size
    wide, tall = (max(1, int(side - 2 * _CUT)) for side in turn.size(width, height))
    cos, sin = math.cos(math.radians(turn.degrees)), math.sin(math.radians(turn.degrees))
    rotation = np.array([[cos, -sin], [sin, cos]])
    middle = np.array([width - 1, height - 1]) / 2
    matrix = np.column_stack([rotation, middle - rotation @ np.array([wide - 1, tall - 1]) / 2])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    rgb = np.asarray(image)
    return Image.fromarray(cv2.warpAffine(rgb, matrix, (wide, tall), flags=flags, borderMode=cv2.BORDER_REPLICATE))
