"""The images that are nearest by tiles: of all, blockwise, without a loop over pairs.

By the tiled distance two images are as far apart as the worst of their 16 tiles (Carlini et al. 2023, arXiv 2301.13188,
section 4); by the template distance as far as most tiles keep to, so that a few may hold anything (Webster 2023, arXiv
2305.08694). One batched matrix product gives the distances of all tiles of a block. A sort of the tiles of all pairs
would take many times as long, so the template distance is only taken of the pairs in which enough tiles are nearer than
the best yet.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from dedup.attack.distances import GRID, ROWS, contrast, tile_l2, tiles

TILES = GRID * GRID
# So many queries and images are compared at once: 8 MiB of distances, which stay in a processor's cache.
QUERIES, IMAGES = 128, 512
_ROUNDING = 1e-7  # who is nearer by less than this is not nearer


@dataclass(frozen=True, eq=False)
class Nearest:
    """For each query its `distance` (N,) float64, lower is closer, and to which image: `row` (N,) int64."""

    distance: torch.Tensor
    row: torch.Tensor

    def improve(self, queries: slice, distance: torch.Tensor, first: int) -> None:
        """Takes over what is nearer in a block: `distance` (n, m) of these queries to the images from `first` on."""
        least, column = distance.min(1)
        nearer = least < self.distance[queries] - _ROUNDING
        self.distance[queries] = torch.where(nearer, least, self.distance[queries])
        self.row[queries] = torch.where(nearer, column + first, self.row[queries])


def nearest_by_tiles(
    queries: torch.Tensor, images: torch.Tensor, guess: torch.Tensor, share: float, min_contrast: float
) -> tuple[Nearest, Nearest]:
    """The nearest of all images by the tiled, and by the template distance.

    `queries` (N, C, S, S) and `images` (V, C, S, S) in [0, 1] on one device; `guess` (N,) int64, an image likely to be
    near each query: the better, the faster, and where no other is nearer it stays. The template distance is that to
    which `share` of the image's tiles keep, flat ones (contrast below `min_contrast`) not counted: they agree with
    every picture on the same background. It is infinite where less than a quarter of the tiles are left. Both are
    those of all pairs to within 1e-7. Memory grows with QUERIES, IMAGES and ROWS, and with N and V only for what is
    given and returned. Raises ConfigError for images of less than 4 pixels a side.
    """
    telling = torch.stack([contrast(tile) >= min_contrast for tile in tiles(images)], 1)
    count = telling.sum(1)
    needed = (share * count.double() - 1e-9).ceil().long().clamp(min=1)
    needed[count < TILES / 4] = TILES + 1  # never
    tiled, template = _of_guess(queries, images, guess, telling, needed)
    for first in range(0, len(images), IMAGES):
        right = _factors(images[first : first + IMAGES])[1].mT
        tells, must = telling[first : first + IMAGES].T, needed[first : first + IMAGES]
        for start in range(0, len(queries), QUERIES):
            part = slice(start, start + QUERIES)
            squares = (_factors(queries[part])[0] @ right).clamp_(min=0)
            tiled.improve(part, squares.amax(0).sqrt(), first)
            bound = (template.distance[part] - _ROUNDING).clamp(min=0).square()
            agree = ((squares < bound[:, None]) & tells[:, None]).sum(0, dtype=torch.int8)
            query, image = torch.nonzero(agree >= must, as_tuple=True)
            distance = torch.full_like(squares[0], torch.inf)
            distance[query, image] = _kept_to(squares[:, query, image].T.sqrt(), tells.T[image], must[image])
            template.improve(part, distance, first)
    return tiled, template


def _of_guess(
    queries: torch.Tensor, images: torch.Tensor, guess: torch.Tensor, telling: torch.Tensor, needed: torch.Tensor
) -> tuple[Nearest, Nearest]:
    tiled, template = torch.full((2, len(queries)), torch.inf, dtype=torch.float64, device=queries.device)
    for start in range(0, len(queries), ROWS):
        part = slice(start, start + ROWS)
        rows = guess[part]
        by_tile = tile_l2(queries[part], images[rows])
        tiled[part] = by_tile.max(1).values
        template[part] = _kept_to(by_tile, telling[rows], needed[rows])
    return Nearest(tiled, guess.clone()), Nearest(template, guess.clone())


def _kept_to(by_tile: torch.Tensor, telling: torch.Tensor, needed: torch.Tensor) -> torch.Tensor:
    """(N, 16) distances of tiles, (N, 16) which count, (N,) how many must agree -> (N,): what so many keep to."""
    ordered = torch.where(telling, by_tile, torch.inf).sort(1).values
    distance = ordered.gather(1, needed[:, None].clamp(max=TILES) - 1)[:, 0]
    return torch.where(needed <= TILES, distance, torch.inf)


def _factors(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two (16, N, D) of which left @ right.mT are the squared l2 of tiles: of a to b, -2ab + a² + b²."""
    parts = [tile.double().flatten(1) / tile[0].numel() ** 0.5 for tile in tiles(images)]
    longest = max(part.shape[1] for part in parts)
    x = torch.stack([pad(part, (0, longest - part.shape[1])) for part in parts])
    square, one = x.square().sum(2, keepdim=True), torch.ones_like(x[:, :, :1])
    return torch.cat([-2 * x, square, one], 2), torch.cat([x, one, square], 2)
