"""An evaluator whose faults are ordered through files: a node dies of an evaluation, a process, or it hangs."""

import os
import signal
import time
import uuid
from pathlib import Path

from nasenv.configuration import digest
from nasenv.errors import InputError
from tests.cheap_evaluators import Hashed


class Faulty(Hashed):
    """As `Hashed`, but for what files of a folder say; each is obeyed by one evaluation, ``always-`` ones by all."""

    indifferent = ("folder", "seconds")

    def __init__(self, space, folder, seconds=0.02):
        super().__init__(space)
        self.folder, self.seconds = Path(folder), seconds
        self.timeout_seconds = 3.0

    def fingerprint(self):
        return digest("faulty")

    def measure(self, trials):
        time.sleep(self.seconds)
        for order in self.folder.glob("*"):
            if order.name.startswith("always-"):
                self.obey(order.name.removeprefix("always-"))
            elif order.name in FAULTS:
                try:
                    order.rename(order.with_name(f"obeyed-{uuid.uuid4()}"))
                except FileNotFoundError:  # by another
                    continue
                self.obey(order.name)
        return super().measure(trials)

    def obey(self, fault):
        FAULTS[fault]()


def kill_node():
    """End the raylet whose worker this is."""
    parent = os.getppid()
    assert Path(f"/proc/{parent}/comm").read_text().strip() == "raylet"
    os.kill(parent, signal.SIGKILL)
    time.sleep(60)


def kill_worker():
    os.kill(os.getpid(), signal.SIGKILL)


def hang():
    time.sleep(60)


def fail():
    raise RuntimeError("a fault\nof the user's own")


def refuse():
    raise InputError("the data are bad")


FAULTS = {"node": kill_node, "worker": kill_worker, "hang": hang, "fail": fail, "refuse": refuse}
