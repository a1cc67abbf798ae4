"""Everything that images are drawn from: networks, preconditioning, sampler, training, closed form, GAN."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dedup.attack.closed_form import OptimalDenoiser
from dedup.attack.denoisers import DENOISERS, NetworkSettings, check_shape, preconditioned
from dedup.attack.edm import (
    SIGMA_DATA,
    Preconditioned,
    SamplerSettings,
    denoising_loss,
    heun,
    loss_weight,
    noise_like,
)
from dedup.attack.gan import GanSettings, GanTraining, train_gan
from dedup.attack.training import Training, TrainSettings
from dedup.attack.utility import compare_utility, energy_distance, held_out_loss
from dedup.errors import ConfigError
from tests.attack_makers import near_to, noise

SHAPE = (1, 8, 8)
TINY: dict[str, NetworkSettings] = {
    "mlp": NetworkSettings("mlp", width=32, depth=1),
    "unet": NetworkSettings("unet", width=32, depth=2),
}
SAMPLER = SamplerSettings(sampler_steps=4, sample_batch=8)
TRAIN = TrainSettings(steps=12, batch=8, checkpoints=2)


def training(
    images: np.ndarray[Any, Any] | None = None, settings: TrainSettings = TRAIN, seed: int = 0, labels: int = 0
) -> Training:
    images = noise(10, seed=1) if images is None else images
    given = np.arange(len(images), dtype=np.int64) % max(1, labels)
    return Training(images, given, labels, TINY["mlp"], settings, seed)


@pytest.mark.parametrize("labels", [0, 3])
@pytest.mark.parametrize("name", DENOISERS)
class TestEveryDenoiser:
    def test_gives_estimates_of_the_images_shape_that_know_noise_and_label(self, name: str, labels: int) -> None:
        model = preconditioned(SHAPE, labels, TINY[name], seed=0)
        with torch.no_grad():
            for parameter in model.parameters():  # some are 0 at the beginning
                parameter.add_(0.01)
        x = noise_like(SHAPE, range(2), seed=0)
        given = torch.tensor([0, 2]) if labels else None
        sigma = torch.tensor([0.5, 2.0])
        estimate = model(x, sigma, given)
        assert estimate.shape == x.shape
        assert not torch.allclose(estimate[1], model(x, torch.tensor([0.5, 0.5]), given)[1])
        if labels:
            assert not torch.allclose(estimate, model(x, sigma, torch.tensor([1, 1])))
            assert torch.allclose(estimate[0], model(x[:1], sigma[:1], torch.tensor([0]))[0], atol=1e-5)

    def test_weights_depend_on_the_seed_alone(self, name: str, labels: int) -> None:
        def weights(seed: int) -> torch.Tensor:
            torch.rand(1)  # what was drawn before must not matter
            return torch.cat([p.flatten() for p in preconditioned(SHAPE, labels, TINY[name], seed).parameters()])

        assert torch.equal(weights(0), weights(0))
        assert not torch.equal(weights(0), weights(1))


def test_a_colour_u_net_takes_sides_that_its_levels_halve() -> None:
    model = preconditioned((3, 16, 16), 0, NetworkSettings("unet", 32, 3), seed=0)
    assert model(noise_like((3, 16, 16), range(1), 0), torch.ones(1)).shape == (1, 3, 16, 16)
    with pytest.raises(ConfigError, match="multiple of 4"):
        check_shape((3, 18, 18), NetworkSettings("unet", 32, 3))


def test_preconditioning_leaves_clean_images_alone_and_weighs_the_loss_to_one() -> None:
    class Zero(torch.nn.Module):
        def forward(self, x: torch.Tensor, *_: Any) -> torch.Tensor:
            return torch.zeros_like(x)

    denoise = Preconditioned(Zero())
    x = noise_like((1, 64, 64), range(64), 0) * SIGMA_DATA
    assert torch.allclose(denoise(x, torch.full((64,), 1e-4)), x, atol=1e-4)
    for level in (0.05, 0.5, 5.0):
        sigma = torch.full((64,), level)
        loss = denoising_loss(denoise, x, sigma, noise_like((1, 64, 64), range(64), 1), None)
        assert loss.shape == (64,)
        assert float(loss.mean()) == pytest.approx(1, abs=0.03)
    assert float(loss_weight(torch.tensor([0.5]))[0]) == pytest.approx(0.5 / 0.0625)


def test_the_sampler_turns_noise_into_the_data_of_a_known_denoiser() -> None:
    # Of data N(m, s^2) the optimal denoiser is linear, and the flow maps noise z to m + s z almost exactly.
    mean, spread = 0.3, 0.2

    def denoise(x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:  # noqa: ARG001
        s = sigma.view(-1, 1, 1, 1)
        return mean + spread**2 / (spread**2 + s**2) * (x - mean)

    z = noise_like(SHAPE, range(50), 0)
    drawn = heun(denoise, z, None, SamplerSettings(sampler_steps=40))
    assert torch.allclose(drawn, mean + spread * z, atol=0.02)


def test_a_generation_depends_on_seed_and_number_not_on_how_many_are_drawn() -> None:
    model = training().generator(SAMPLER)
    few, many = model.sample(5, seed=3), model.sample(21, seed=3)
    assert few.shape == (5, *SHAPE)
    assert few.dtype == np.float32
    assert np.array_equal(few, many[:5])
    assert not np.array_equal(few, model.sample(5, seed=4))
    assert many.min() >= 0
    assert many.max() <= 1
    assert model.sample(0, seed=0).shape == (0, *SHAPE)


def test_a_conditional_generation_depends_on_its_label() -> None:
    trained = training(labels=2)
    trained.run_to(12)
    model = trained.generator(SAMPLER)
    zeros, ones = (model.sample(4, 0, np.full(4, label, np.int64)) for label in (0, 1))
    mixed = model.sample(4, 0, np.array([0, 1, 0, 1]))
    assert not np.array_equal(zeros, ones)
    np.testing.assert_allclose(mixed[[0, 2]], zeros[[0, 2]], atol=1e-5)
    np.testing.assert_allclose(mixed[[1, 3]], ones[[1, 3]], atol=1e-5)


def test_the_null_label_is_trained_and_tells_what_images_have_in_common() -> None:
    """Of images that their labels tell apart, captions never seen say nothing, and the null label says enough."""
    images = np.concatenate([near_to(np.repeat(noise(1, seed=s), 8, 0), 0.05, s) for s in range(2)])
    labels = np.repeat(np.arange(2), 8)
    network = NetworkSettings("mlp", width=64, depth=1)
    losses = {}
    for share in (0.1, 1e-9):
        settings = TrainSettings(steps=300, batch=16, ema=0.9, drop_labels=share)
        trained = Training(images, labels, 3, network, settings, 0)
        trained.run_to(300)
        model = trained.generator(SAMPLER).denoiser
        for label in (2, trained.null_label):
            asked = np.full(len(images), label, np.int64)
            losses[share, label] = held_out_loss(model, images, asked, trained.device)
    assert trained.null_label == 3
    assert losses[0.1, 3] < 0.8 * min(losses[0.1, 2], losses[1e-9, 2], losses[1e-9, 3])


def test_unconditional_training_draws_no_labels() -> None:
    """So that what conditional models need changes nothing for the others."""
    few, many = (training(settings=replace(TRAIN, drop_labels=share)) for share in (0.1, 0.9))
    for trained in (few, many):
        trained.run_to(12)
    assert np.array_equal(few.generator(SAMPLER).sample(4, 0), many.generator(SAMPLER).sample(4, 0))


def test_training_learns_and_is_the_same_each_time() -> None:
    images = noise(4, seed=5)
    settings = TrainSettings(steps=150, batch=16, ema=0.9)
    trained = training(images, settings)
    before = held_out_loss(trained.generator(SAMPLER).denoiser, images, None, trained.device)
    trained.run_to(150)
    after = held_out_loss(trained.generator(SAMPLER).denoiser, images, None, trained.device)
    assert after < 0.6 * before
    again = training(images, settings)
    again.run_to(150)
    assert again.checkpoint() == trained.checkpoint()


def test_an_interrupted_training_goes_on_to_the_same_weights() -> None:
    whole = training()
    whole.run_to(12)
    part = training()
    part.run_to(6)
    resumed = training()
    assert resumed.resume(part.checkpoint([{"steps": 6}]), "a.pt") == [{"steps": 6}]
    assert resumed.step == 6
    resumed.run_to(12)
    assert np.array_equal(resumed.generator(SAMPLER).sample(4, 0), whole.generator(SAMPLER).sample(4, 0))


@pytest.mark.parametrize("change", ["settings", "images", "seed"])
def test_a_checkpoint_of_another_training_is_refused(change: str) -> None:
    other = {
        "settings": training(settings=replace(TRAIN, batch=4)),
        "images": training(noise(10, seed=2)),
        "seed": training(seed=1),
    }[change]
    with pytest.raises(ConfigError, match=r"a\.pt is a checkpoint of other settings, images or another seed"):
        training().resume(other.checkpoint(), "a.pt")


@pytest.mark.parametrize("damage", ["empty", "other", "cut", "flipped", "longer"])
def test_a_damaged_checkpoint_is_refused(damage: str) -> None:
    whole = training().checkpoint()
    middle = len(whole) // 2
    damaged = {
        "empty": b"",
        "other": b"PK\x03\x04cut",
        "cut": whole[:middle],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "longer": whole + b"0",
    }[damage]
    with pytest.raises(ConfigError, match=r"a\.pt is no whole checkpoint: delete it"):
        training().resume(damaged, "a.pt")


def test_an_interrupted_gan_goes_on_to_the_same_weights_and_refuses_other_checkpoints() -> None:
    images, settings = noise(8, seed=0), GanSettings(gan_steps=12, gan_width=32, gan_batch=4)
    part = GanTraining(images, settings, seed=0)
    part.run_to(5)
    resumed = GanTraining(images, settings, seed=0)
    resumed.resume(part.checkpoint(), "gan.pt")
    assert resumed.step == 5
    resumed.run_to(12)
    whole = train_gan(images, settings, 0, sample_batch=8)
    assert np.array_equal(resumed.generator(8).sample(4, 1), whole.sample(4, 1))
    for other in (GanTraining(images, settings, 1), GanTraining(images[:7], settings, 0)):
        with pytest.raises(ConfigError, match=r"gan\.pt is a checkpoint of other settings"):
            other.resume(part.checkpoint(), "gan.pt")


def test_arms_share_the_draws_of_a_step() -> None:
    # On sets of one repeated image the draws of rows do not matter, so the trainings must agree to the bit.
    image = noise(1, seed=0)
    few, many = training(np.repeat(image, 3, 0)), training(np.repeat(image, 7, 0))
    for trained in (few, many):
        trained.run_to(12)
    assert np.array_equal(few.generator(SAMPLER).sample(4, 0), many.generator(SAMPLER).sample(4, 0))


def test_milestones_end_with_the_last_step() -> None:
    assert TrainSettings(steps=10, checkpoints=4).milestones() == [2, 5, 8, 10]
    assert TrainSettings(steps=3, checkpoints=3).milestones() == [1, 2, 3]


def test_the_optimal_denoiser_is_the_weighted_mean_that_it_is_defined_as() -> None:
    images, copies = noise(3, seed=0), np.array([1, 5, 2])
    denoise = OptimalDenoiser(images, copies, SAMPLER)
    noisy = torch.from_numpy(images[:2] * 2 - 1) + 0.3
    for row, sigma in enumerate((0.4, 2.0)):
        weights = [
            k * math.exp(-float(((noisy[row].numpy() - (x * 2 - 1)) ** 2).sum()) / (2 * sigma**2))
            for k, x in zip(copies, images, strict=True)
        ]
        expected = sum(w * (x * 2 - 1) for w, x in zip(weights, images, strict=True)) / sum(weights)
        np.testing.assert_allclose(denoise(noisy, torch.tensor([0.4, 2.0]))[row].numpy(), expected, atol=1e-6)
    with pytest.raises(ConfigError, match="numbers of copies"):
        OptimalDenoiser(images, np.array([1, 0, 1]), SAMPLER)


def test_the_gan_learns_its_images_and_is_the_same_each_time() -> None:
    images = np.repeat(noise(1, seed=0), 8, 0)
    settings = GanSettings(gan_steps=300, gan_width=32, gan_batch=16)
    gan = train_gan(images, settings, seed=0, sample_batch=8)
    drawn = gan.sample(10, seed=1)
    assert drawn.shape == (10, *SHAPE)
    assert float(np.sqrt(np.mean((drawn - images[0]) ** 2))) < 0.15  # unlike pictures are 0.41 apart
    assert np.array_equal(drawn[:3], gan.sample(3, seed=1))
    assert np.array_equal(drawn, train_gan(images, settings, seed=0, sample_batch=8).sample(10, seed=1))


def test_the_energy_distance_is_nil_for_equal_and_grows_with_unlike_distributions() -> None:
    a, b = noise(300, seed=0), noise(300, seed=1)
    assert abs(energy_distance(a, b)) < 0.002
    assert energy_distance(a, b * 0.5) > 10 * abs(energy_distance(a, b))
    # Two points each, by hand: 2 * 0.5 - 1 - 0 with distances 0, 1 between and 1, 0 within.
    zero, one = np.zeros((1, 1, 8, 8), np.float32), np.ones((1, 1, 8, 8), np.float32)
    assert energy_distance(np.concatenate([zero, one]), np.concatenate([zero, zero])) == pytest.approx(0.0)
    with pytest.raises(ConfigError, match="two images"):
        energy_distance(zero, a)


def test_utility_is_compared_paired_by_seed() -> None:
    def entries(*losses: float | None) -> list[dict[str, Any]]:
        return [
            {"seed": seed, "utility": {"held_out_loss": loss, "distribution_distance": 0.1 * seed}}
            for seed, loss in enumerate(losses)
        ]

    arms = {"duplicated": entries(0.5, 0.7, 0.6), "oracle": entries(0.6, 0.8, 0.7), "other": entries(None, None)}
    loss, distance, of_other = compare_utility(arms)
    assert (loss["arm"], loss["against"], loss["measure"], loss["seeds"]) == (
        "oracle", "duplicated", "held_out_loss", 3
    )  # fmt: skip
    assert (loss["base"], loss["value"]) == (pytest.approx(0.6), pytest.approx(0.7))
    # Paired: the seeds differ, their differences do not.
    assert (loss["difference"], loss["low"], loss["high"]) == pytest.approx((0.1, 0.1, 0.1))
    assert (distance["measure"], distance["difference"]) == ("distribution_distance", 0)
    assert (of_other["arm"], of_other["measure"], of_other["low"]) == ("other", "distribution_distance", None)
    assert compare_utility({"oracle": entries(0.5)}) == []


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        (SamplerSettings, {"sampler_steps": 1}),
        (SamplerSettings, {"sigma_min": 100.0}),
        (SamplerSettings, {"sample_batch": 0}),
        (NetworkSettings, {"model": "transformer"}),
        (NetworkSettings, {"width": 33}),
        (NetworkSettings, {"depth": 0}),
        (TrainSettings, {"steps": 0}),
        (TrainSettings, {"steps": 2, "checkpoints": 3}),
        (TrainSettings, {"learning_rate": 0.0}),
        (TrainSettings, {"ema": 1.0}),
        (GanSettings, {"gan_steps": 0}),
        (GanSettings, {"gan_rate": -1.0}),
    ],
)
def test_unusable_settings_are_refused_by_name(settings: type, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="|".join(change)):
        settings(**change)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_models_train_on_a_gpu() -> None:
    trained = Training(noise(4, 0), np.zeros(4, np.int64), 0, TINY["unet"], TRAIN, 0, "cuda")
    trained.run_to(12)
    assert trained.generator(SAMPLER).sample(4, 0).shape == (4, *SHAPE)
