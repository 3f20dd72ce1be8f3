"""Modules of a built network are named by the decision that made them, so that weights can be followed by name."""

import numpy as np
import pytest

from nasenv.errors import InputError
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.spaces.darts_cell import DARTSCell
from nasenv.spaces.encoder import Encoder
from nasenv.spaces.grammar import Grammar
from nasenv.spaces.mobile_net import MobileNet
from nasenv.spaces.nas_bench_201 import NASBench201
from nasenv.spaces.nas_bench_macro import NASBenchMacro
from nasenv.spaces.res_net import ResNet
from nasenv.task import Images, Table, Task

TASK = Task(Images((1, 8, 8)), outputs=10)
SPACES = [
    ChainCNN(task=TASK),
    DARTSCell(channels=4, task=TASK),
    Encoder(task=TASK),
    Encoder("autoformer_tiny", task=TASK),
    MobileNet(task=TASK),
    NASBench201(channels=4, cells=2, task=TASK),
    NASBenchMacro(channels=4, features=16, task=TASK),
    ResNet(task=TASK),
    Grammar(channels=4, task=TASK),
]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
def test_what_differs_between_networks_is_named_by_a_decision(space):
    names = [set(space.build(a).state_dict()) for a in space.sample(20, np.random.default_rng(0))]
    skeleton = set.intersection(*names)
    made = set.union(*names) - skeleton
    decisions = {decision.name.partition(".")[0] for decision in space.decisions}
    assert made
    assert [name for name in made if not decisions & set(name.split("."))] == []


@pytest.mark.parametrize("kind", [ChainCNN, DARTSCell, Encoder, Grammar, MobileNet, NASBench201, NASBenchMacro, ResNet])
def test_a_space_of_images_refuses_other_inputs(kind):
    with pytest.raises(InputError, match=f"{kind.__name__} reads images, and the task's inputs are table"):
        kind(task=Task(Table((4,)), outputs=3))
