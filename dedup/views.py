"""One image as verification looks at it: at each side, blurred, inverted, without lines, prepared when asked for."""

from __future__ import annotations

from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from dedup.collages import fills_a_cell, is_divided
from dedup.drawings import is_drawn, plainness, strength
from dedup.geometry import noise, softened
from dedup.local_features import SIDE, Picture, grey_at, lost_at_a_glance, picture
from dedup.overlays import thin, without_thin
from dedup.pages import find_box
from dedup.small_evidence import SMALL_SIDE, SmallView, resized, small_view

UInt8Array = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

# Pictures that lose more of their contrast at half the size, as print does, are looked at in full at once: of 160 pairs
# of copies of printed pages the first look gave up 36 that the second accepts.
FINE = 1 / 3

# Of 2,307 photographs 87 are as plain as drawings, and 25 of these so soft (grey levels per pixel) that they have no
# strokes to compare. Screenshots of 64 pixels have 4.7, all other drawings more, but flags and what is nearly flat.
SOFT = 4.5
AS_FLAT_AS_FLAGS = 0.97  # share of their pixels that three grey levels have


class Views:
    """One image at the sides at which it is compared, each prepared when first asked for."""

    def __init__(self, rgb: UInt8Array, much_cut_off: bool = False) -> None:
        """`rgb` (H, W, 3) uint8, the picture, at SIDE pixels or more where it has so many; whether it is a part of its
        image, of which much was cut off."""
        small = max(rgb.shape[:2]) <= SMALL_SIDE
        # Of larger pictures no more is held than the views need.
        self._hold(small, rgb if small else grey_at(rgb, SIDE), resized(rgb), much_cut_off)

    def _hold(self, small: bool, pixels: UInt8Array, colour: UInt8Array, much_cut_off: bool) -> None:
        self.small, self._pixels, self._colour, self._much_cut_off = small, pixels, colour, much_cut_off
        self._prepared: dict[int, Picture] = {}
        self._without_thin: dict[bool, Views] = {}

    @cached_property
    def thin(self) -> tuple[float, float]:
        """`overlays.thin`."""
        return thin(self._grey)

    def without_thin(self, brighter: bool) -> Views:
        """`overlays.without_thin`, at SIDE."""
        if brighter not in self._without_thin:
            self._without_thin[brighter] = self._with(without_thin(self._grey, brighter))
        return self._without_thin[brighter]

    def with_levels(self, levels: UInt8Array) -> Views:
        """With each grey level replaced by that of `levels` (256,), at SIDE."""
        return self._with(np.asarray(cv2.LUT(self._grey, levels)))

    def inverted(self) -> Views:
        """The negative: its levels taken from 255."""
        negative = object.__new__(Views)
        negative._hold(self.small, 255 - self._pixels, 255 - self._colour, self._much_cut_off)
        return negative

    @cached_property
    def _grey(self) -> UInt8Array:
        return grey_at(self._pixels, SIDE) if self.small else self._pixels

    def at(self, side: int) -> Picture:
        if side not in self._prepared:
            self._prepared[side] = picture(self._grey, side)
        return self._prepared[side]

    @cached_property
    def lost(self) -> float:
        """The share of its contrast that a first look does not show."""
        return lost_at_a_glance(self._grey)

    @cached_property
    def noise(self) -> float:
        """`geometry.noise`, at SIDE."""
        return noise(self._grey)

    @property
    def fine(self) -> bool:
        """Whether a first look shows too little of it."""
        return self.lost > FINE

    @cached_property
    def drawn(self) -> bool:
        """Whether more is asked of it."""
        return is_drawn(self._grey, self.fine)

    @cached_property
    def flat(self) -> float:
        """The share of its pixels, 0..1, that three grey levels have: nearly all of flags and signs."""
        return float(plainness(self._grey[None])[0, 1])

    @cached_property
    def on_page(self) -> bool:
        """Whether it may be a page on which a picture lies."""
        return find_box(self._grey) is not None

    @cached_property
    def _divided(self) -> bool:
        return is_divided(self._grey)

    def holds_beside_others(self, part: Views, onto: Floats) -> bool:
        """Whether it is a collage of that picture and others; `onto` as of `collages.fills_a_cell`."""
        return self._divided and not part._much_cut_off and fills_a_cell(part._grey, self._grey, onto)

    @cached_property
    def strength(self) -> float:
        """`drawings.strength`."""
        return strength(self._grey)

    def softened(self, lost: float) -> Views:
        """At SIDE, blurred until it would lose about as much at a glance as a picture that loses `lost`."""
        return self._with(softened(self._grey, lost_at_a_glance, lost))

    def smoothed(self, sigma: float) -> Views:
        """At SIDE, blurred by so many pixels."""
        return self._with(np.asarray(cv2.GaussianBlur(self._grey, (0, 0), sigma)))

    def _with(self, grey: UInt8Array) -> Views:
        """This one, (H, W) at SIDE, in its place."""
        views = object.__new__(Views)
        views._hold(False, grey, self._colour, self._much_cut_off)
        return views

    @cached_property
    def as_small(self) -> SmallView:
        return small_view(self._colour)


def both_drawn(a: Views, b: Views) -> bool:
    """Whether both are drawings: of these either has strokes, or is as flat as a flag."""
    if not (a.drawn and b.drawn):
        return False
    return max(a.strength, b.strength) >= SOFT or max(a.flat, b.flat) >= AS_FLAT_AS_FLAGS
