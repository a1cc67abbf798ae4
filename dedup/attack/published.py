"""Published results that measured ones are shown beside: of other protocols, and labelled so."""

from __future__ import annotations

# Carlini et al. 2023, section 7.2: CIFAR-10 before and after removing 5,275 near-duplicates. Unique images extracted
# from 2^20 generations, 986 / 1,280; and the same per image left in the set, 2.20 % / 2.56 %.
PER_IMAGE_LEFT = 0.0220 / 0.0256
PUBLISHED = (("all images: 986 / 1,280", 986 / 1280), ("per image left in the set", PER_IMAGE_LEFT))
# The same paper: unique images extracted of CIFAR-10's 50,000, after so many generations of models that are told
# nothing of an image but at most its class, of 32 x 32 pixels in colour.
PUBLISHED_UNIQUE = (
    ("16 diffusion models", 2**20, 1280),
    ("OpenAI-DDPM", 10**6, 301),
    ("DDPM", 10**6, 232),
    ("StyleGAN-ADA", 10**6, 150),
    ("DiffBigGAN", 10**6, 57),
)
PUBLISHED_GAN = ("GAN to diffusion: 150 / 301", 150 / 301)  # StyleGAN-ADA and OpenAI-DDPM
