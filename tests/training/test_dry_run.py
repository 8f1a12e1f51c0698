"""What is said before training: steps, learning rate, memory."""

import dataclasses
import io
import json
import math
import os
import pathlib
import subprocess
import sys

import pytest
import tiny_run
from rich.console import Console

import keras_resnets as kr
from training import dry_run, memory
from training.networks import build_network
from training.recipe import Recipe, load_recipe

ROOT = pathlib.Path(__file__).parents[2]


def said(recipe: Recipe, **more: object) -> str:
    console, data = Console(file=io.StringIO(), width=100), tiny_run.data()
    dry_run.describe(recipe, data, build_network(recipe, data), console, **more)  # type: ignore[arg-type]
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_description(tmp_path: pathlib.Path) -> None:
    """52 images in batches of 16 are three steps; the picture is written, and nothing else."""
    text = said(dataclasses.replace(tiny_run.RECIPE, epochs=20), plot=tmp_path / "rate.png")
    for words in ("optimizer.l2 0.0001", "augment.shift 2", "52 to train on, 20 held out, 10 classes", "3 per epoch, 60 in all",
                  "269,722 trained, 271,098 with statistics", "an estimate", "Learning rate over the 60 steps"):  # fmt: skip
        assert words in " ".join(text.split()), words
    assert [path.name for path in tmp_path.iterdir()] == ["rate.png"]
    assert (tmp_path / "rate.png").read_bytes().startswith(b"\x89PNG")


def test_rates_are_those_of_the_steps() -> None:
    """Warm-up over the first of three epochs of four steps, then half a cosine: the formula of the paper."""
    steps, rates = dry_run.learning_rates(dataclasses.replace(tiny_run.RECIPE, epochs=3), 4, 100)
    assert steps == list(range(12))
    expected = [0.0125, 0.025, 0.0375, 0.05] + [0.025 * (1 + math.cos(math.pi * t / 8)) for t in range(8)]
    assert rates == pytest.approx(expected, abs=1e-7)
    steps, rates = dry_run.learning_rates(dataclasses.replace(tiny_run.RECIPE, epochs=100), 1000, 64)
    assert (len(steps), steps[0], steps[-1]) == (64, 0, 99_999)


def test_chart() -> None:
    """Five columns of a chart four lines high, an eighth of a line being the finest."""
    assert dry_run.chart([0, 0.25, 0.5, 0.53, 1.0], height=4) == [
        "        1     █",
        "             ▁█",
        "      0.5   ███",
        "           ████",
    ]
    assert dry_run.chart([1.0, 0.5], " *", height=2) == ["        1 * ", "      0.5 **"]
    assert dry_run.chart([0.0, 0.0], height=2) == ["        1   ", "      0.5   "]


def test_recipe_that_cannot_be_carried_out() -> None:
    with pytest.raises(ValueError, match="batch_size 64 is more than the 52 training images"):
        said(dataclasses.replace(tiny_run.RECIPE, batch_size=64))


def test_network_that_is_tested_at_another_size() -> None:
    """Its own input has no fixed size; the memory is that of the training images."""
    data = dataclasses.replace(tiny_run.RECIPE.data, test_size=48)
    same, other = (" ".join(said(recipe).split()).split("memory of a step ")[1].split(" (")[0]
                   for recipe in (tiny_run.RECIPE, dataclasses.replace(tiny_run.RECIPE, data=data)))  # fmt: skip
    assert same == other and same.startswith("about ")


def test_parts_of_the_memory() -> None:
    """ResNet-20 for CIFAR has 269,722 weights and 1,376 statistics; activations by hand."""
    network = kr.create_model("resnet20_cifar", classifier_activation=None)
    recipe = dataclasses.replace(tiny_run.RECIPE, batch_size=64)
    found = memory.estimate(network, recipe)
    assert (found.weights, found.gradients, found.optimizer) == (4 * 271_098, 4 * 269_722, 4 * 269_722)
    # Convolutions read the image, 7 maps of 16 channels at 32x32, 6 of 32 at 16x16 and 6 of 64 at 8x8 less those that change
    # the size, which read the larger ones; normalisations read all 19 outputs; the classifier reads 64 numbers.
    full = 32 * 32 * 16
    convolutions = 3 * 32 * 32 + 7 * full + (5 + 1) * full // 2 + 5 * full // 4
    normalisations = 7 * full + 6 * full // 2 + 6 * full // 4
    elements = convolutions + normalisations + 64
    assert memory.activation_elements(network) == elements
    assert found.activations == round(memory.OVERHEAD * elements * 64 * 4)
    assert found.total == found.weights + found.gradients + found.optimizer + found.activations

    half = memory.estimate(network, dataclasses.replace(recipe, precision="mixed_float16", ema=0.999))
    assert half.activations == round(found.activations / 2) and half.weights == 2.5 * found.weights
    parts = memory.estimate(network, dataclasses.replace(recipe, accumulate=4), replicas=2)
    assert parts.activations == round(found.activations / 8) and parts.gradients == 2 * found.gradients
    adaptive = dataclasses.replace(recipe.optimizer, name="lamb", l2=0.0)
    assert memory.estimate(network, dataclasses.replace(recipe, optimizer=adaptive)).optimizer == 2 * found.optimizer


def test_published_recipe() -> None:
    """ResNeSt-50 was trained with 128 images on each GPU, of 16 GiB or more: it fits, and a quarter of that would not do."""
    network = kr.create_model("resnest50d", classifier_activation=None)
    recipe = dataclasses.replace(load_recipe("resnest"), batch_size=8192, precision="mixed_float16")
    assert 4 * 2**30 < memory.estimate(network, recipe, replicas=64).total < 16 * 2**30


MEASURE = """
import json, sys
import tensorflow as tf
from benchmarks.fresh import reset_peak, status
import keras_resnets as kr
from training.optimizers import SGD
name, size, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
network = kr.create_model(name, input_shape=(size, size, 3), classes=10, classifier_activation=None)
optimizer = SGD(0.1)
optimizer.build(network.trainable_variables)

@tf.function
def step(images, labels):
    with tf.GradientTape() as tape:
        losses = tf.nn.softmax_cross_entropy_with_logits(labels, network(images, training=True))
    optimizer.apply(tape.gradient(losses, [v.value for v in network.trainable_variables]), network.trainable_variables)

images, labels = tf.random.normal((batch, size, size, 3)), tf.one_hot(tf.zeros(batch, tf.int32), 10)
step(images[:1], labels[:1])
step.get_concrete_function(images, labels)
before = reset_peak()
step(images, labels)
print(json.dumps(status("VmHWM") - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not pathlib.Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak memory of a process"
)
@pytest.mark.parametrize(("name", "size", "batch"), [("resnet20_cifar", 32, 128), ("densenet40_k12_cifar", 32, 32)])
def test_measured_peak(name: str, size: int, batch: int) -> None:
    """What a step in a fresh process takes beyond the weights and the optimizer's slots, within a factor of 1.5."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", MEASURE, name, str(size), str(batch)], env=environment, capture_output=True,
                          text=True, check=True)  # fmt: skip
    measured = json.loads(done.stdout.splitlines()[-1])
    network = kr.create_model(name, input_shape=(size, size, 3), classes=10, classifier_activation=None)
    found = memory.estimate(network, dataclasses.replace(tiny_run.RECIPE, batch_size=batch))
    assert 1 / 1.5 < measured / (found.activations + found.gradients) < 1.5
