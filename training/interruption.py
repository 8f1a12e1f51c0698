"""How a run is stopped from outside."""

import signal
from typing import Any


class Interrupted(Exception):
    """A signal ended the run, whose checkpoint is written.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Signals:
    """Ctrl-C and SIGTERM end training after the current step: never in the middle of a file. The second one ends it at once."""

    def __enter__(self) -> "Signals":
        self.received = 0
        self.usual: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number, handler in self.usual.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self.usual.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self.received = number
        signal.signal(number, self.usual[number])
