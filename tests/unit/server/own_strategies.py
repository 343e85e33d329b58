"""Strategies as a user might write them."""

import math
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import FedAvg

NUMBER = 3
Text = str


class Halved(FedAvg):
    def __init__(self, factor: float = 0.5) -> None:
        super().__init__(min_train_nodes=1, min_available_nodes=1)
        self.factor = factor


class Patient(FedAvg):
    def __init__(self) -> None:
        super().__init__(min_available_nodes=9)


def make() -> Halved:
    return Halved()


instance = Halved(factor=0.125)


class Book:
    def __init__(self) -> None:
        self.spent = 0.0
        self.lock = object()

    def state_dict(self) -> dict[str, Any]:
        return {"spent": self.spent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.spent = state["spent"]


class Counting(FedAvg):
    seen = 0


class Wrapper(FedAvg):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Counting()
        self.book = Book()


class Hoarder(FedAvg):
    def __init__(self, *, full: bool = False) -> None:
        super().__init__()
        self.numbers = [1, -(2**70), 0.1, math.inf, -math.inf, math.nan, True, None, "text"]
        self.pair = (1.5, [np.float32(0.1), np.int64(7)])
        self.by_name = {"a:b": np.arange(3), "": {}, "deep": [{"x": np.zeros((0, 2), np.float16)}]}
        self.record = ArrayRecord({"w": Array(np.eye(2, dtype=np.float32))})
        self.mask = np.array([True, False])
        if not full:
            for name in ("numbers", "pair", "by_name", "record", "mask"):
                setattr(self, name, None)
