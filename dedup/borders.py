"""What was put around a picture: plain borders, frames, letterboxes, bars with words, the ground around a disc.

    image ──find_inner──▶ where the picture lies ──Inner.of──▶ the picture inside
          ──────────────without_borders──────────────────────▶

People add such edges when they pass a picture on, and they change what an embedding or a thumbnail sees of it more than
any retouching does. An edge counts as added where it is of one colour, words on it apart, and ends in a straight line
across the whole picture: sky, studio backgrounds and the white around a product end in an outline, and stay. In small
pictures a straight line of one side proves nothing, so there an edge has to lie all around, equally wide. What lies
turned by some degrees is turned back (`rotation`), and of what was cut to a disc the middle is left (`discs`).
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from dedup.discs import disc_in
from dedup.drawings import plainness
from dedup.inner import Inner, Part
from dedup.rotation import turn_in, turned_back

UInt8Array = npt.NDArray[np.uint8]
Levels = npt.NDArray[np.int16]
Shares = npt.NDArray[np.float64]
Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels

LOOK_SIDE = 256  # borders are looked for at so many pixels of the longer side
MIN_SIDE = 64  # of smaller pictures a line or two of few pixels proves nothing: edges all around them are looked for,
LEAST_SIDE = 16  # and of still smaller ones none

_TOLERANCE = 14  # levels of a channel that a plain colour may vary, after JPEG
_PLAIN = 0.8  # share of a line that is of the edge's colour at its outer and its inner end
_WORDS = 0.08  # ... and where words are written on it
_PICTURE = 0.3  # ... and in the picture at most, on the line after the edge
_THICK = 0.1  # of a side's length: so far at least the edge's colour does not return, as it does between lines of text
_RETURNED = 0.5  # share of a line from which it has
_DEEPEST = 0.35  # of a side's length; what is plain further in is the picture
_MOST = 0.6  # of a side's length that edges may take together
# ... but as black, white or grey bars on both sides, as screens have around a picture of another shape. In colours they
# would be a flag's.
_DEEPEST_BARS, _MOST_OF_BARS = 0.42, 0.75
_GREY = 14  # levels by which the channels of a bar may differ
_EMPTY = 0.5  # share of the picture inside that is of one colour, from which it is no photograph
_FEW_TONES = 0.93  # ... and of three grey levels: what is left of a flag without its first band
_MIXED = 2  # lines between two bands of a frame, or of a picture and what was around it
_RINGS = 6  # a frame is peeled band by band

# Around a small picture: the rings of one pixel that are plain, each of its own colour, as the bands of a frame are one
# or two pixels wide. JPEG mixes in more of the picture than of larger ones. With these, 9 of 5,000 images of CIFAR-10
# have an edge, which all were framed, and of 1,000 that get a border or a frame 858 and 845 are found without; many of
# the others lie before the colour of their border already.
_TOLERANCE_OF_RINGS, _PLAIN_RING, _DEEPEST_RING = 24, 0.85, 0.25


def without_borders(image: Image.Image) -> Image.Image:
    """The part of an RGB image that is no added edge, turned upright; the image itself where it is just that."""
    inner = find_inner(image)
    return image if inner is None else inner.of(image)


def find_inner(image: Image.Image) -> Inner | None:
    """Which part of an RGB image is no added edge, and how it is turned; None where nothing is around the picture."""
    turn = turn_in(image)
    if turn is not None:
        upright = turned_back(image, turn)
        box = _edges(upright.crop(_trimmed((0, 0, *upright.size))))
        if box is None:
            return Inner(turn=turn)
        return Inner(turn=turn, after=Part.of([place + _MIXED for place in box], upright.size))
    # Before edges: in few pixels the rows above an arc look like one.
    disc = _within_disc(image)
    if disc is not None:
        return Inner(Part.of(disc, image.size))
    box = _edges(image)
    if box is None:
        return None
    for candidate in (box, _trimmed(box)):
        turn = turn_in(image.crop(candidate))
        if turn is not None:
            return Inner(Part.of(candidate, image.size), turn)
    disc = _within_disc(image.crop(box))
    if disc is not None:
        left, top = box[:2]
        box = left + disc[0], top + disc[1], left + disc[2], top + disc[3]
    return Inner(Part.of(box, image.size))


def _trimmed(box: Box) -> Box:
    """Without the outermost lines, into which some of what was around the picture may be mixed."""
    left, top, right, bottom = box
    return left + _MIXED, top + _MIXED, right - _MIXED, bottom - _MIXED


def _within_disc(image: Image.Image) -> Box | None:
    """The middle of a picture that was cut to a disc; None where it was not, or is as plain as a sign."""
    box = disc_in(image)
    if box is None:
        return None
    inside = image.crop(box)
    inside.thumbnail((LOOK_SIDE, LOOK_SIDE), Image.Resampling.BILINEAR)
    return None if _is_empty(np.asarray(inside)) else box


def without_edges(image: Image.Image) -> Image.Image:
    """Without added edges, of an image that is not turned; the image itself where it has none."""
    box = _edges(image)
    return image if box is None else image.crop(box)


def _edges(image: Image.Image) -> Box | None:
    """The picture inside added edges, of an image that is not turned; None where it has none."""
    if min(image.size) < MIN_SIDE:
        return _all_around(np.asarray(image))
    if not _may_have_edges(image):
        return None
    scale = min(1.0, LOOK_SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = np.asarray(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
    left, top, right, bottom = picture_box(small)
    if (left, top, right, bottom) == (0, 0, *size):
        return None
    # Rounded inwards: a line that belongs half to the edge is worse than one that is missing.
    across, down = image.width / size[0], image.height / size[1]
    return math.ceil(left * across), math.ceil(top * down), int(right * across), int(bottom * down)


def _all_around(rgb: UInt8Array) -> Box | None:
    """The picture inside edges all around it, equally wide, of a small (H, W, 3) picture; None where it has none."""
    height, width = rgb.shape[:2]
    if min(height, width) < LEAST_SIDE:
        return None
    deepest = int(_DEEPEST_RING * min(height, width))
    depth, colour = 0, None
    while depth < deepest:
        ring = _ring(rgb, depth)
        own = _colour(ring)
        if _share_of_ring(ring, own) < _PLAIN_RING:
            break
        depth, colour = depth + 1, own
    if colour is None or depth == deepest:
        return None
    # Between edge and picture lies a ring of both, where the picture was reduced.
    for inside in (depth, depth + 1):
        if _share_of_ring(_ring(rgb, inside), colour) <= _PICTURE:
            empty = _is_empty(np.ascontiguousarray(rgb[inside : height - inside, inside : width - inside]))
            return None if empty else (inside, inside, width - inside, height - inside)
    return None


def _ring(rgb: UInt8Array, depth: int) -> UInt8Array:
    """(H, W, 3) -> (length, 3): the pixels so far from the nearest edge."""
    inside = rgb[depth : len(rgb) - depth, depth : rgb.shape[1] - depth]
    return np.concatenate([inside[0], inside[-1], inside[1:-1, 0], inside[1:-1, -1]])


def _share_of_ring(ring: UInt8Array, colour: Levels) -> float:
    return float((np.abs(ring - colour).max(axis=1) <= _TOLERANCE_OF_RINGS).mean())


def _may_have_edges(image: Image.Image) -> bool:
    """Most pictures have not, and their outermost lines tell."""
    width, height = image.size
    outermost = ((0, 0, width, 1), (0, height - 1, width, height), (0, 0, 1, height), (width - 1, 0, width, height))
    lines = (np.asarray(image.crop(line)).reshape(1, -1, 3) for line in outermost)
    return any(_is_plain(line, _colour(line[0])) for line in lines)


def _is_plain(line: UInt8Array, colour: Levels) -> bool:
    """Whether the outermost line (1, length, 3), mostly of that colour, can be that of an edge."""
    return _share_of_all(line, colour) >= _PLAIN


def picture_box(rgb: UInt8Array) -> Box:
    """(H, W, 3) uint8, at most `LOOK_SIDE` pixels -> (left, top, right, bottom), in pixels, of the picture inside."""
    height, width = rgb.shape[:2]
    columns = cv2.transpose(rgb)  # at once, since lines are read far faster than columns
    left, top, right, bottom = _between_bars(rgb, columns)
    most = _MOST if (left, top, right, bottom) == (0, 0, width, height) else _MOST_OF_BARS
    for ring in range(_RINGS):
        before, mixed = (top, bottom, left, right), _MIXED if ring else 0
        top += _edge(rgb[top:bottom, left:right], mixed)
        bottom -= _edge(rgb[top:bottom, left:right][::-1], mixed)
        left += _edge(columns[left:right, top:bottom], mixed)
        right -= _edge(columns[left:right, top:bottom][::-1], mixed)
        if (top, bottom, left, right) == before:
            break
    if bottom - top < (1 - most) * height or right - left < (1 - most) * width:
        return 0, 0, width, height
    if (left, top, right, bottom) != (0, 0, width, height) and _is_empty(rgb[top:bottom, left:right]):
        return 0, 0, width, height
    return left, top, right, bottom


def _is_empty(inside: UInt8Array) -> bool:
    """A page, a chart, a screenshot, a flag: what is around it tells them apart."""
    if _share_of_all(inside, _colour_of_all(inside)) >= _EMPTY:
        return True
    return bool(plainness(np.asarray(Image.fromarray(inside).convert("L"))[None])[0, 1] >= _FEW_TONES)


def _between_bars(rgb: UInt8Array, columns: UInt8Array) -> Box:
    """`picture_box` of a picture between two deep bars of one grey, above and below or left and right; else of all."""
    height, width = rgb.shape[:2]
    above, below = _bars(rgb)
    if above + below > _MOST * height:
        return 0, above, width, height - below
    first, last = _bars(columns)
    return (first, 0, width - last, height) if first + last > _MOST * width else (0, 0, width, height)


def _bars(lines: UInt8Array) -> tuple[int, int]:
    """How many of the first and of the last (N, length, 3) lines are bars of one grey; none if either side has none."""
    colours = _colour(lines[0]), _colour(lines[-1])
    if np.ptp(colours[0]) > _GREY or np.abs(colours[0] - colours[1]).max() > _TOLERANCE:
        return 0, 0
    first, last = _band(lines, _DEEPEST_BARS), _band(lines[::-1], _DEEPEST_BARS)
    return (first, last) if first and last else (0, 0)


def _edge(lines: UInt8Array, mixed: int) -> int:
    """How many of the first (N, length, 3) lines are an added edge; up to `mixed` of them may be of other colours, as
    JPEG and reducing mix them where two bands of a frame meet."""
    for skipped in range(mixed + 1):
        depth = _band(lines[skipped:])
        if depth:
            return skipped + depth
    return 0


def _band(lines: UInt8Array, deepest: float = _DEEPEST) -> int:
    """`_edge` of the colour of the first line, up to that share of them."""
    reach, thick = int(deepest * len(lines)), int(_THICK * len(lines))
    if not reach:  # of a strip, or of what many bands have left, no line can be spared
        return 0
    colour = _colour(lines[0])
    if not _is_plain(lines[:1], colour):
        return 0
    like = _like(lines[: reach + 2 + thick], colour)
    share = _share(like[:reach])
    foreign = np.flatnonzero(share < _WORDS)
    end = int(foreign[0]) if len(foreign) else reach
    last = int(np.flatnonzero(share[:end] >= _PLAIN)[-1])  # the outermost line is one
    ends = lines.shape[1] // 4  # of the lines beyond, which edges at the other sides may cover
    middle = _share(like[last + 1 :, ends : lines.shape[1] - ends])
    # Between edge and picture lies a line of both, where the picture was reduced.
    beyond = np.flatnonzero(middle[:2] <= _PICTURE)
    if not len(beyond):
        return 0
    mixed = int(beyond[0])
    return last + 1 + mixed if (middle[mixed : mixed + thick] < _RETURNED).all() else 0


def _colour(line: UInt8Array) -> Levels:
    """(length, 3) -> (3,): of each channel the middle value."""
    middle = len(line) // 2
    return np.asarray(np.partition(line, middle, axis=0)[middle], np.int16)


def _colour_of_all(rgb: UInt8Array) -> Levels:
    """`_colour` of all pixels of (H, W, 3), counted: of many that is far faster."""
    counts = [cv2.calcHist([rgb], [channel], None, [256], [0, 256])[:, 0] for channel in range(3)]
    middle = rgb.shape[0] * rgb.shape[1] // 2
    return np.array([np.searchsorted(np.cumsum(each, dtype=np.int64), middle, "right") for each in counts], np.int16)


def _like(lines: UInt8Array, colour: Levels) -> UInt8Array:
    """(N, length, 3) -> (N, length): 255 where a pixel has that colour, else 0."""
    return np.asarray(cv2.inRange(lines, colour - _TOLERANCE, colour + _TOLERANCE))


def _share_of_all(rgb: UInt8Array, colour: Levels) -> float:
    """The share of the pixels of (H, W, 3) that have that colour."""
    return float(cv2.countNonZero(_like(rgb, colour)) / (rgb.shape[0] * rgb.shape[1]))


def _share(like: UInt8Array) -> Shares:
    """`_like`, of at most `LOOK_SIDE` pixels -> (N,): the share of each line's pixels that have the colour."""
    counts = cv2.reduce(like, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0]
    return np.asarray(counts / (255 * like.shape[1]))
