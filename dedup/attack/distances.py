"""Distances between images, as Carlini et al. (2023, arXiv 2301.13188, section 4) define them.

All are in units of pixel values, which lie in [0, 1]: 0 for equal images, 1 for black against white; lower is closer.
Computed in float64 on any torch device that has it, so that equal images are at distance 0 within 1e-7, whichever way
the work is divided.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dedup.errors import ConfigError

GRID = 4  # an image has 4 x 4 tiles
ROWS = 1024  # images of either side that are compared at once: what bounds the memory


def l2(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """sqrt(mean((a - b)²)) of images that correspond: (N, C, S, S), (N, C, S, S) -> (N,) float64."""
    return (a.double() - b.double()).square().flatten(1).mean(1).sqrt()


def tiles(images: torch.Tensor) -> list[torch.Tensor]:
    """(N, C, S, S) -> the 16 tiles of a 4 x 4 grid, row by row, each (N, C, h, w).

    They do not overlap and leave nothing out. Where 4 does not divide S, the first S mod 4 rows and columns of tiles
    are one pixel longer. Raises ConfigError where S < 4.
    """
    if min(images.shape[-2:]) < GRID:
        raise ConfigError(f"images of {tuple(images.shape[-2:])} pixels cannot be cut into {GRID} x {GRID} tiles")
    return [tile for row in images.tensor_split(GRID, -2) for tile in row.tensor_split(GRID, -1)]


def tile_l2(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`l2` of each of the 16 tiles of images that correspond: (N, C, S, S), (N, C, S, S) -> (N, 16) float64.

    The tiled distance is the maximum over the tiles: two images with the same large background are far apart by it
    where what stands before the background differs.
    """
    return torch.stack([l2(x, y) for x, y in zip(tiles(a), tiles(b), strict=True)], 1)


def contrast(images: torch.Tensor) -> torch.Tensor:
    """(N, C, h, w) -> (N,) float64: the standard deviation of the pixels about the mean of their channel.

    0 for flat images; at most 0.5.
    """
    pixels = images.double().flatten(2)
    return (pixels - pixels.mean(2, keepdim=True)).square().mean((1, 2)).sqrt()


def pairwise_l2(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`l2` of each of `a` to each of `b`: (N, C, S, S), (M, C, S, S) -> (N, M) float64."""
    x, y = a.double().flatten(1), b.double().flatten(1)
    squares = x.square().sum(1)[:, None] + y.square().sum(1)[None, :] - 2 * (x @ y.T)
    return (squares.clamp(min=0) / x.shape[1]).sqrt()


def pairwise_tiled_l2(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The tiled distance of each of `a` to each of `b`: (N, C, S, S), (M, C, S, S) -> (N, M) float64."""
    greatest = torch.zeros(len(a), len(b), dtype=torch.float64, device=a.device)
    for x, y in zip(tiles(a), tiles(b), strict=True):
        greatest = torch.maximum(greatest, pairwise_l2(x, y))
    return greatest


def nearest_groups(
    queries: torch.Tensor, images: torch.Tensor, group: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` groups nearest to each query.

    `queries` (N, C, S, S); `images` (V, C, S, S) and `group` (V,) int64 on the same device, group numbers in any
    order. The distance to a group is the least `l2` to one of its images. Returns distances (N, k) float64, ascending,
    and group numbers (N, k) int64, k = min(count, number of groups). Memory grows with ROWS and the largest group, and
    with N and V only for what is given and returned.
    """
    order = torch.argsort(group, stable=True)
    blocks = [(images[rows], group[rows]) for rows in _whole_groups(group[order], order)]
    found = [_nearest_groups(some, blocks, count) for some in torch.split(queries, ROWS)]
    return torch.cat([distance for distance, _ in found]), torch.cat([number for _, number in found])


def _whole_groups(group: torch.Tensor, order: torch.Tensor) -> Iterator[torch.Tensor]:
    """Splits `order`, which sorts by `group`, into blocks of about ROWS that no group crosses."""
    sizes = torch.unique_consecutive(group, return_counts=True)[1].cpu()
    block = torch.cumsum(sizes, 0).sub(1).div(ROWS, rounding_mode="floor")  # where each group ends
    lengths = torch.zeros(int(block[-1]) + 1, dtype=torch.int64).index_add_(0, block, sizes)
    yield from torch.split(order, [int(length) for length in lengths if length])


def _nearest_groups(
    queries: torch.Tensor, blocks: list[tuple[torch.Tensor, torch.Tensor]], count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    distance = torch.empty(len(queries), 0, dtype=torch.float64, device=queries.device)
    number = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for images, group in blocks:
        numbers, column = torch.unique_consecutive(group, return_inverse=True)
        least = torch.full((len(queries), len(numbers)), torch.inf, dtype=torch.float64, device=queries.device)
        least.scatter_reduce_(1, column.expand(len(queries), -1), pairwise_l2(queries, images), "amin")
        distance = torch.cat([distance, least], 1)
        number = torch.cat([number, numbers.expand(len(queries), -1)], 1)
        distance, best = distance.topk(min(count, distance.shape[1]), dim=1, largest=False)
        number = number.gather(1, best)
    return distance, number
