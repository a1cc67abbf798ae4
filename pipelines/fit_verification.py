"""Fits the coefficients of verification and writes dedup/verification_model.py.

    python -m pipelines.fit_verification --photos PHOTOS --uniform UNIFORM

PHOTOS: shards of different photographs. UNIFORM: shards of one kind of thing, those of one thing within NEARBY places
of each other. The coefficients for small images are fitted by `pipelines.fit_small`.

Copies are planted with `dedup.transforms`, single and two in a row. What is no copy: the likeliest pairs by the
embedded model among different pictures, pictures that share a decoration, and the sets that `pipelines.lookalikes`
draws.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cyclopts
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.optimize import minimize

from dedup import embedders, images, pair_features, verification_model
from dedup.borders import without_borders
from dedup.evidence import compare
from dedup.listing import list_shards
from dedup.local_features import SIDE, picture
from dedup.records import sample_id
from dedup.shards import ShardReader
from dedup.thumbnails import likeness
from dedup.transforms import TRANSFORMS, compose
from pipelines.lookalikes import LOOKALIKES

logger = logging.getLogger(__name__)
app = cyclopts.App(help=__doc__)

Floats = npt.NDArray[np.float64]
NEARBY = 30
DECORATIONS = ("overlay", "frame", "watermark", "text_bar", "caption", "border", "letterbox", "veil")
# The sets hold far more look-alikes than a scrape does. Weighing their copies up puts the operating point for both
# sizes of image at the same probability.
COPY_WEIGHT = 12.0
# Most pictures of a scrape have fewer than five candidates, and so a crowding of 0. So each set of photographs counts a
# second time with that. Of the look-alikes, too, some occur by twos and threes, where no crowding tells: they are given
# this weight.
LONE_LOOKALIKE_WEIGHT = 0.2


@dataclass
class PictureSet:
    """Encoded pictures, and which original each is of (itself, or the one that it was made from)."""

    name: str
    data: list[bytes] = field(default_factory=list)
    family: list[int] = field(default_factory=list)
    copy: list[bool] = field(default_factory=list)

    def add(self, data: bytes, family: int, copy: bool) -> None:
        self.data.append(data)
        self.family.append(family)
        self.copy.append(copy)


@dataclass(frozen=True)
class Examples:
    """Features (N, F) of pairs, whether they are copies (N,), of which set they are, and what each pair counts."""

    name: str
    features: Floats
    copies: npt.NDArray[np.bool_]
    weight: float = 1.0


def read(pattern: str) -> Iterator[tuple[str, bytes]]:
    for shard in list_shards([pattern])[1]:
        for sample in ShardReader(shard):
            if sample.image is not None:
                yield sample_id(shard.shard_id, sample.key), sample.image.data


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def random_copy(image: Image.Image, rng: np.random.Generator) -> bytes:
    """By one transform, or by two in a row one time in four."""
    names = rng.choice(list(TRANSFORMS), 2, replace=False)
    transform = TRANSFORMS[names[0]]
    if rng.random() < 0.25:
        transform = compose(transform, TRANSFORMS[names[1]])
    return transform(image, rng).data


def _planted(name: str, originals: list[bytes], copies: int, rng: np.random.Generator, every: int = 1) -> PictureSet:
    planted = PictureSet(name)
    for number, data in enumerate(originals):
        planted.add(data, number, False)
    for number, data in enumerate(originals):
        for _ in range(copies if number % every == 0 else 0):
            planted.add(random_copy(images.decode(data, 0).rgb, rng), number, True)
    return planted


def _decorated(originals: list[bytes], rng: np.random.Generator) -> PictureSet:
    """Two and two different photographs with the same overlay, frame, words."""
    decorated = PictureSet("decorated")
    for number in range(0, len(originals) - 1, 2):
        transform, seed = TRANSFORMS[DECORATIONS[number // 2 % len(DECORATIONS)]], int(rng.integers(1 << 30))
        for family in (number, number + 1):
            image = images.decode(originals[family], 0).rgb.resize((400, 300))
            decorated.add(transform(image, np.random.default_rng(seed)).data, family, False)
    return decorated


def _sets(photos: list[bytes], uniform: list[bytes], rng: np.random.Generator) -> Iterator[tuple[PictureSet, int]]:
    """Each set, and how far apart two originals must be to be different things."""
    yield _planted("photos", photos, 4, rng), 1
    many = PictureSet("many copies")
    for family, data in enumerate(photos[:24]):
        many.add(data, family, False)
    for family, data in enumerate(photos[:24]):
        for transform in TRANSFORMS.values():
            many.add(transform(images.decode(data, 0).rgb, rng).data, family, True)
    yield many, 1
    yield _decorated(photos, rng), 1
    for name, make in LOOKALIKES.items():
        yield _planted(name, [_png(image) for image in make(40, rng)], 2, rng), 1
    yield _planted("uniform", uniform, 1, rng, every=3), NEARBY


def _pairs(planted: PictureSet, likes: Floats, apart: int) -> list[tuple[int, int, bool]]:
    """Each copy with its original, and each picture with the three likeliest of other families."""
    family = np.array(planted.family)
    found = {(planted.family[row], row): True for row, copy in enumerate(planted.copy) if copy}
    others = np.where(np.abs(family[:, None] - family[None]) < apart, -1.0, likes)
    for row in range(len(family)):
        for other in np.argsort(-others[row], kind="stable")[:3].tolist():
            if others[row, other] >= 0.5:
                found.setdefault((min(row, other), max(row, other)), False)
    return [(a, b, same) for (a, b), same in sorted(found.items())]


def _examples(planted: PictureSet, apart: int, embedder: embedders.Embedder) -> tuple[Examples, Examples]:
    """(by thumbnails, by pixels)."""
    decoded = [without_borders(images.decode(data, SIDE).rgb) for data in planted.data]
    thumbnails = np.stack([images.thumbnail(image) for image in decoded])
    squares = np.stack([images.square(image, embedder.image_size) for image in decoded])
    batches = (squares[at : at + embedder.batch_size] for at in range(0, len(squares), embedder.batch_size))
    rows = np.concatenate(list(embedder.embed(batches)))
    likes = np.asarray(rows @ rows.T, np.float64)
    np.fill_diagonal(likes, -1.0)
    fifth = np.sort(likes, axis=1)[:, -5]
    pairs = _pairs(planted, likes, apart)
    i, j = np.array([a for a, _, _ in pairs]), np.array([b for _, b, _ in pairs])
    copies = np.array([same for _, _, same in pairs])
    found = likeness(thumbnails, i, j)
    prepared = [picture(np.asarray(image)) for image in decoded]
    pixels = [
        pair_features.pixel_features(compare(prepared[a], prepared[b], found.map[row]), min(fifth[a], fifth[b]))
        for row, (a, b, _) in enumerate(pairs)
    ]
    logger.info("%s: %d pairs, %d of them copies", planted.name, len(pairs), copies.sum())
    return (
        Examples(planted.name, pair_features.thumbnail_features(found), copies),
        Examples(planted.name, np.stack(pixels), copies),
    )


def _alone(examples: Examples, of_kind: bool) -> Examples:
    """The same pairs without crowding; `of_kind`: only those of different pictures of a uniform set."""
    chosen = ~examples.copies if of_kind else np.ones(len(examples.copies), bool)
    features = examples.features[chosen]
    features[:, pair_features.PIXEL_FEATURES.index("crowding")] = 0
    weight = LONE_LOOKALIKE_WEIGHT if of_kind else 1.0
    return Examples(f"{examples.name}, alone", features, examples.copies[chosen], weight)


def fit(sets: list[Examples], signs: tuple[int, ...], copy_weight: float = 1.0) -> verification_model.Logistic:
    """Logistic regression, L2 of 1 on standardised features; `signs`: 1 and -1 bound a coefficient to that side, 0 not.

    The bounds keep a model from learning of these sets what cannot be so: that more agreement speaks against a copy.
    """
    x = np.concatenate([examples.features for examples in sets])
    y = np.concatenate([examples.copies for examples in sets]).astype(np.float64)
    weight = np.concatenate([np.full(len(examples.copies), examples.weight) for examples in sets])
    weight = np.where(y == 1, copy_weight * weight, weight)
    mean, spread = x.mean(0), x.std(0) + 1e-9
    z = (x - mean) / spread

    def loss(parameters: Floats) -> tuple[float, Floats]:
        score = z @ parameters[1:] + parameters[0]
        slope = weight * (1 / (1 + np.exp(-score)) - y)
        value = (weight * np.logaddexp(0, np.where(y == 1, -score, score))).sum() + (parameters[1:] ** 2).sum() / 2
        return float(value), np.r_[slope.sum(), z.T @ slope + parameters[1:]]

    bounds = [(None, None), *({1: (0, None), -1: (None, 0), 0: (None, None)}[sign] for sign in signs)]
    best = minimize(loss, np.zeros(1 + x.shape[1]), jac=True, method="L-BFGS-B", bounds=bounds).x
    coefficients = best[1:] / spread
    rounded = tuple(round(float(value), 3) for value in coefficients)
    return verification_model.Logistic(round(float(best[0] - coefficients @ mean), 3), rounded)


def report(name: str, model: verification_model.Logistic, sets: list[Examples], threshold: float) -> str:
    """One line per set: copies found, and pairs of different pictures accepted, at that probability."""
    lines = [f"{name} at {threshold}"]
    for examples in sets:
        accepted, copies = model(examples.features) >= threshold, examples.copies
        found, false = (accepted & copies).sum(), (accepted & ~copies).sum()
        lines.append(f"  {examples.name:19s} found {found}/{copies.sum()}, false {false}/{(~copies).sum()}")
    return "\n".join(lines)


FEATURES = {
    "thumbnails": pair_features.THUMBNAIL_FEATURES,
    "pixels": pair_features.PIXEL_FEATURES,
    "small": pair_features.SMALL_FEATURES,
}


def write(fitted: dict[str, verification_model.Logistic]) -> None:
    """Into dedup/verification_model.py; models that were not fitted keep their coefficients."""
    path = Path(verification_model.__file__)
    text = path.read_text(encoding="utf-8")
    head, rest = text.split("MODELS = {", 1)
    tail = rest.split("\n}\n", 1)[1]
    lines = ["MODELS = {"]
    for name, model in (verification_model.MODELS | fitted).items():
        lines += [f'    "{name}": Logistic(', f"        {model.intercept},", "        ("]
        lines += [f"            {c},  # {f}" for f, c in zip(FEATURES[name], model.coefficients, strict=True)]
        lines += ["        ),", "    ),"]
    path.write_text(head + "\n".join(lines) + "\n}\n" + tail, encoding="utf-8")


@app.default
def main(*, photos: str, uniform: str, seed: int = 1, dry: bool = False) -> None:
    """Fit, report how the sets fare, and write the coefficients.

    Half of the photographs is left for judging. `--dry` reports only.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rng = np.random.default_rng(seed)
    embedder = embedders.resolve("efficientnet_lite0", "cpu")
    assert embedder is not None
    pictures = [data for _, data in read(photos)]
    sets = _sets(pictures[: len(pictures) // 2], [data for _, data in read(uniform)], rng)
    both = [_examples(planted, apart, embedder) for planted, apart in sets]
    coarse, fine = [thumbnails for thumbnails, _ in both], [pixels for _, pixels in both]
    scraped = ("photos", "many copies", "decorated")
    fine += [_alone(examples, of_kind=examples.name not in scraped) for examples in fine]
    models = {"thumbnails": fit(coarse, (1, 1, 0)), "pixels": fit(fine, (1, 1, 1, -1), COPY_WEIGHT)}
    threshold = verification_model.OPERATING_POINTS["copies"].min_probability
    for name, examples, at in (("pixels", fine, threshold), ("thumbnails", coarse, 0.01)):
        logger.info(report(name, models[name], examples, at))
    if not dry:
        write(models)


if __name__ == "__main__":
    app()
