"""Trainings in workers on a GPU."""

import numpy as np
import pytest
import torch

from nasenv.data.dataset import load_dataset
from nasenv.evaluators.training import TrainingEvaluator
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.trial import Trial


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_workers_train_and_capture_and_none_is_lost():
    space = ChainCNN()
    with TrainingEvaluator(space, load_dataset("digits"), devices="cuda") as evaluator:
        measured = evaluator.measure([Trial(a) for a in space.sample(12, np.random.default_rng(0))])
        assert [m.error for m in measured] == [None] * 12
        assert not evaluator.eager
        assert evaluator._pool.starts == len(evaluator._pool.pids) == evaluator.slots
