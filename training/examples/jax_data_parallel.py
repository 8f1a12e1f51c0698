"""Trains a network on scanned digits with Keras' JAX backend, on all devices that JAX sees, without TensorFlow.

    python training/examples/jax_data_parallel.py

takes one GPU or eight of them. Without any, JAX makes several devices of a processor, to try it out:

    XLA_FLAGS=--xla_force_host_platform_device_count=2 python training/examples/jax_data_parallel.py

Several machines each run the same command with their own number; the first address is that of process 0:

    python training/examples/jax_data_parallel.py --coordinator localhost:5100 --processes 2 --process 0
    python training/examples/jax_data_parallel.py --coordinator localhost:5100 --processes 2 --process 1

What is trained does not depend on how many devices and processes there are: `DataParallel` cuts every batch among the devices,
and batch normalisation sees the whole of it.
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_resnets as kr

TEST_IMAGES = 256


class Batches(keras.utils.PyDataset):
    """A process's share of every batch: as many consecutive images as each of the others has.

    Args:
        images, labels: of all processes.
        batch_size: of all processes together, a multiple of their number.
        process, processes: number of this one, and how many there are.
        seed: of the order, which is another one in every epoch; None to go through the images as they are.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, batch_size: int, process: int, processes: int,
                 seed: int | None = None) -> None:  # fmt: skip
        super().__init__()
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.process, self.share, self.seed = process, batch_size // processes, seed
        self.epoch = 0
        self.order = self._order()

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        start = number * self.batch_size + self.process * self.share
        chosen = self.order[start : start + self.share]
        return self.images[chosen], self.labels[chosen]

    def on_epoch_end(self) -> None:
        self.epoch += 1
        self.order = self._order()

    def _order(self) -> np.ndarray:
        places = np.arange(len(self.images))
        return places if self.seed is None else np.random.default_rng((self.seed, self.epoch)).permutation(places)


def digits(size: int) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's scans in a fixed random order: grey images `(1797, size, size, 1)` in -1..1, and their labels."""
    source = load_digits()
    large = np.kron(source.images, np.ones((size // 8, size // 8)))[..., np.newaxis]
    order = np.random.default_rng(0).permutation(len(large))
    return (large / 8 - 1).astype("float32")[order], source.target[order]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--depth", type=int, default=3, help="residual blocks per stage (default %(default)s: ResNet-20)"
    )
    parser.add_argument(
        "--size", type=int, default=16, help="side of the images, a multiple of 8 (default %(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=10, help="default %(default)s")
    parser.add_argument("--batch-size", type=int, default=128, help="of all devices together (default %(default)s)")
    parser.add_argument("--lr", type=float, default=0.05, help="learning rate at the beginning (default %(default)s)")
    parser.add_argument("--save", metavar="FILE", help="a .keras file for the trained network")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0, for several processes")
    parser.add_argument("--processes", type=int, default=1, help="how many (default %(default)s)")
    parser.add_argument("--process", type=int, default=0, help="number of this one (default %(default)s)")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.coordinator:
        keras.distribution.initialize(options.coordinator, options.processes, options.process)
    keras.utils.set_random_seed(0)
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    devices = len(keras.distribution.list_devices())

    images, labels = digits(options.size)
    share = (options.batch_size, options.process, options.processes)
    training = Batches(images[:-TEST_IMAGES], labels[:-TEST_IMAGES], *share, seed=0)
    testing = Batches(images[-TEST_IMAGES:], labels[-TEST_IMAGES:], *share)

    network = kr.create_model("resnet20_cifar", classes=10, input_shape=images.shape[1:], depth=options.depth)
    rate = keras.optimizers.schedules.CosineDecay(options.lr, options.epochs * len(training))
    network.compile(keras.optimizers.SGD(rate, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
    chief = options.process == 0
    if chief:
        print(f"{devices} devices, {options.batch_size // devices} images each", flush=True)
    history = network.fit(
        training, validation_data=testing, epochs=options.epochs, shuffle=False, verbose=2 if chief else 0
    )
    if chief:
        print(
            f"last epoch: loss {history.history['loss'][-1]:.7f}, test accuracy {history.history['val_accuracy'][-1]:.2%}"
        )
        if options.save:
            # Every process has all weights, and one writes. Saving makes variables, for which the others would be waited for.
            keras.distribution.set_distribution(None)
            network.save(options.save)


if __name__ == "__main__":
    main()
