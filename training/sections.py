"""The sections of recipes: every key, its type, range and default. `training.recipe` puts them together."""

import dataclasses
from math import inf
from typing import Annotated, Any, Literal

from keras_resnets.assembly import nearest
from training.schema import Between

SOURCES = ("digits", "folder", "tfds", "tfrecord")
Fraction = Annotated[float, Between(0, 1)]
Positive = Annotated[int, Between(1)]
NotNegative = Annotated[float, Between(0)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """The network.

    Attributes:
        name: as in `keras_resnets.list_models`.
        preprocessing: tag of the weights entry of that network whose preprocessing the images get, and as whose weights
            the trained network will be known. Empty for that of `weights` if this is a tag, else for the network's usual one.
        weights: what training starts from: a tag of the network's weights, or the path of a checkpoint (`.safetensors`,
            `.pth`, `.pt`, `.weights.h5`) or of a saved network (`.keras`); empty for random weights.
        freeze: the last part that is not trained, as in `keras_resnets.freeze`, or "head" to train the classifier alone.
        options: further keywords of `keras_resnets.create_model`, such as `zero_gamma`, `drop_path_rate`, `bn_synchronized`.
    """

    name: str
    preprocessing: str = ""
    weights: str = ""
    freeze: str = "none"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        is_tag = self.weights and not any(character in self.weights for character in "./")
        if is_tag and not self.preprocessing:
            object.__setattr__(self, "preprocessing", self.weights)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """Where images come from, and how large the network sees them.

    Attributes:
        source: "digits", the 1,797 handwritten digits inside scikit-learn; "folder:PATH", a folder of class folders, or of
            `train` and `val` folders of such; "tfds:NAME", a dataset of tensorflow-datasets; "tfrecord:FOLDER", written by
            `training.make_tfrecords`.
        test_fraction: share of every class that is held out for testing, of sources that have no test part of their own.
        split_seed: draws the held-out images.
        image_size: side of the square training images in pixels; the 8x8 digits are enlarged to it.
        test_size: side of the square test images; 0 for `image_size`.
        test_crop: share of the short side that a test image keeps; 1 for sources that are small already.
        interpolation: of every resize.
        repeats: how many times an image occurs in a batch, augmented differently (Hoffer et al., 2020, arXiv 1901.09335), but for
            the last image of a batch that is no multiple of it; an epoch has as many steps as without.
    """

    source: str
    test_fraction: Annotated[float, Between(0.01, 0.99)] = 0.2
    split_seed: Annotated[int, Between(0)] = 0
    image_size: Annotated[int, Between(8)] = 32
    test_size: Annotated[int, Between(0)] = 0
    test_crop: Annotated[float, Between(0.1, 1)] = 1.0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    repeats: Positive = 1

    def __post_init__(self) -> None:
        kind, colon, place = self.source.partition(":")
        if (kind == "digits") == bool(colon) or kind not in SOURCES or bool(colon) != bool(place):
            raise ValueError(f"data.source: unknown source {self.source!r}: {nearest(kind, SOURCES)} (digits, folder:PATH, "
                             "tfds:NAME, tfrecord:FOLDER)")  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentRecipe:
    """Random changes of training images, in this order; by default none.

    Attributes:
        crop: "resize" the whole image to the square; "random_area", a random area and aspect ratio (Szegedy et al., 2014,
            arXiv 1409.4842); "random_scale", the short side uniform in `short_side`, then a random square; "pad", a margin of
            `pad` pixels, then a random square; "centre", as for testing; "shifted_centre", the same with a random place
            along the longer side (FixRes).
        area, aspect: ranges of "random_area": share of the image, and width over height.
        short_side: range of "random_scale" in pixels.
        pad: of "pad".
        pad_value: "zero", or "mean" for the mean that the preprocessing subtracts.
        flip: mirror half of the images.
        shift, rotation, zoom, shear: largest amounts of one random affine map: pixels along both axes, degrees, fraction of
            the size along both axes, degrees of the vertical axis.
        policy: "autoaugment" (Cubuk et al., 2018, arXiv 1805.09501, ImageNet policy) or "randaugment" (2019, arXiv
            1909.13719), or none.
        policy_ops, policy_magnitude, policy_noise: of "randaugment": operations per image, their strength of 10, and its
            standard deviation.
        policy_first: apply the policy to the whole image, before the crop.
        brightness, contrast, saturation: largest change of each, as a fraction, in random order; `hue`: as a fraction of the
            circle.
        lighting: standard deviation of noise along the principal components of ImageNet's colours (Krizhevsky et al., 2012).
        erasing: probability that a random rectangle is blanked (Zhong et al., 2017, arXiv 1708.04896).
        mixup, cutmix: alpha of the Beta distribution (Zhang et al., 2017, arXiv 1710.09412; Yun et al., 2019, arXiv 1905.04899), 0
            for none; with both, each batch gets one of them, with equal chances.
        mixup_off_epoch: from this epoch on there is neither; 0 for never.
    """

    crop: Literal["resize", "random_area", "random_scale", "pad", "centre", "shifted_centre"] = "resize"
    area: tuple[Fraction, ...] = (0.08, 1.0)
    aspect: tuple[NotNegative, ...] = (3 / 4, 4 / 3)
    short_side: tuple[Positive, ...] = (256, 480)
    pad: Annotated[int, Between(0)] = 4
    pad_value: Literal["zero", "mean"] = "zero"
    flip: bool = False
    shift: NotNegative = 0.0
    rotation: Annotated[float, Between(0, 180)] = 0.0
    zoom: Annotated[float, Between(0, 0.9)] = 0.0
    shear: Annotated[float, Between(0, 80)] = 0.0
    policy: Literal["none", "autoaugment", "randaugment"] = "none"
    policy_ops: Positive = 2
    policy_magnitude: Annotated[float, Between(0, 10)] = 9.0
    policy_noise: NotNegative = 0.0
    policy_first: bool = False
    brightness: Fraction = 0.0
    contrast: Fraction = 0.0
    saturation: Fraction = 0.0
    hue: Annotated[float, Between(0, 0.5)] = 0.0
    lighting: NotNegative = 0.0
    erasing: Fraction = 0.0
    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0
    mixup_off_epoch: Annotated[int, Between(0)] = 0

    def __post_init__(self) -> None:
        for key in ("area", "aspect", "short_side"):
            low_high = getattr(self, key)
            if len(low_high) != 2 or not 0 < low_high[0] <= low_high[1]:
                raise ValueError(f"augment.{key} must be [smallest, largest], both above 0, not {list(low_high)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerRecipe:
    """Stochastic gradient descent with momentum, LAMB or RMSProp, see `training.optimizers`.

    Attributes:
        lr: learning rate at the end of the warm-up.
        lr_batch: batch size that `lr` is meant for; other batch sizes scale it in proportion (Goyal et al., 2017, arXiv
            1706.02677). 0 leaves it as it is.
        momentum: of "sgd" and "rmsprop"; nesterov: of "sgd".
        l2: coupled weight decay, of "sgd" and "rmsprop".
        l2_on: "kernels", of convolutions and dense layers, or "all", biases and normalisation as well.
        weight_decay: of kernels, within the update, of "lamb".
        rho, epsilon: of "rmsprop": weight of the old mean of squares, and what is added to it.
        clip_norm: largest norm of the gradient of the whole batch over all weights; 0 for no limit.
    """

    name: Literal["sgd", "lamb", "rmsprop"] = "sgd"
    lr: NotNegative
    lr_batch: Annotated[int, Between(0)] = 0
    momentum: Fraction = 0.9
    nesterov: bool = True
    l2: NotNegative = 0.0
    l2_on: Literal["kernels", "all"] = "kernels"
    weight_decay: NotNegative = 0.0
    rho: Fraction = 0.9
    epsilon: NotNegative = 1.0
    clip_norm: NotNegative = 0.0

    def __post_init__(self) -> None:
        for key, owners in (("l2", ("sgd", "rmsprop")), ("weight_decay", ("lamb",))):
            if getattr(self, key) and self.name not in owners:
                raise ValueError(f"optimizer.{key} is for {' and '.join(owners)}, the optimizer is {self.name!r}")
        for key in ("momentum", "rho"):
            if getattr(self, key) == 1:
                raise ValueError(f"optimizer.{key} must be below 1")
        if self.name == "rmsprop" and not self.epsilon:
            raise ValueError("optimizer.epsilon must be above 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleRecipe:
    """The learning rate over the steps, see `training.schedules`.

    Attributes:
        name: "cosine" down to `final` of the rate; "step"; "exponential"; or "constant".
        warmup_epochs: of rise.
        warmup: "linear", or "constant" at the share `warmup_from` of the rate.
        warmup_from: share of the rate that the warm-up starts at; 0 for the first of as many equal parts as it has steps.
        drop_epochs: where "step" multiplies the rate by `factor`.
        factor: of "step", and of "exponential" every `every_epochs`.
        every_epochs: of "exponential".
        final: of "cosine", share of the rate.
    """

    name: Literal["cosine", "step", "exponential", "constant"] = "cosine"
    warmup_epochs: NotNegative = 0.0
    warmup: Literal["linear", "constant"] = "linear"
    warmup_from: Fraction = 0.0
    drop_epochs: tuple[NotNegative, ...] = ()
    factor: Annotated[float, Between(0, 1)] = 0.1
    every_epochs: NotNegative = 1.0
    final: Fraction = 0.0

    def __post_init__(self) -> None:
        if bool(self.drop_epochs) != (self.name == "step"):
            raise ValueError("schedule.drop_epochs must be given for 'step', and for no other schedule")
        if list(self.drop_epochs) != sorted(set(self.drop_epochs)) or self.warmup_epochs > min(
            self.drop_epochs, default=inf
        ):
            raise ValueError(f"schedule.drop_epochs must ascend and come after the warm-up of {self.warmup_epochs:g} epochs, "
                             f"not {list(self.drop_epochs)}")  # fmt: skip
        if self.final and self.name != "cosine":
            raise ValueError(f"schedule.final is for 'cosine', the schedule is {self.name!r}")
        for key in ("factor", "every_epochs"):
            if not getattr(self, key):
                raise ValueError(f"schedule.{key} must be above 0")
        if self.warmup == "constant" and not self.warmup_from:
            raise ValueError("schedule.warmup_from must be above 0 for the warm-up 'constant'")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationRecipe:
    """A teacher whose probabilities are learned beside the labels (Hinton et al., 2015, arXiv 1503.02531).

    Attributes:
        teacher: a network as in `keras_resnets.list_models`; empty for none.
        weights: of the teacher: a tag, or the path of a checkpoint (`.safetensors`, `.pth`, `.pt`) or a `.keras` file.
        temperature: by which both sets of logits are divided.
        weight: of the teacher's part of the loss, which has the factor temperature squared besides.
    """

    teacher: str = ""
    weights: str = ""
    temperature: Annotated[float, Between(0.01)] = 20.0
    weight: NotNegative = 1.0

    def __post_init__(self) -> None:
        if bool(self.teacher) != bool(self.weights):
            raise ValueError("distillation.teacher and distillation.weights must both be given, or neither")
