"""For those who train with `fit`: what `training.train` does by itself."""

import keras

from keras_resnets.layers import DropBlock


class DropBlockSchedule(keras.callbacks.Callback):
    """Raises the rates of all `DropBlock` layers linearly from nothing to their own over the run, step by step.

    The schedule of ResNeSt's recipe and of the paper (arXiv 1810.12890, section 4.1).

    Args:
        steps: optimizer steps of the whole run.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        layers = [layer for layer in self.model._flatten_layers() if isinstance(layer, DropBlock)]
        self.progresses = [layer.progress for layer in layers if layer.progress is not None]

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        for progress in self.progresses:
            progress.assign(int(self.model.optimizer.iterations) / self.steps)
