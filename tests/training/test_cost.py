import numpy as np

from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.training.cost import TrainingCost

SPACE = ChainCNN(max_layers=3)


def test_the_longest_come_first_once_enough_was_seen():
    """Where cost is a sum over decisions, the order of architectures never seen is right but for near ties."""
    rng = np.random.default_rng(0)
    weights = rng.random((SPACE.num_decisions, SPACE.max_choices))

    def seconds(architecture):
        return sum(weights[t, choice] for t, choice in enumerate(architecture))

    cost = TrainingCost(SPACE)
    for architecture in SPACE.sample(2000, rng):
        cost.add(architecture, seconds(architecture))
    fresh = SPACE.sample(50, rng)
    falling = [seconds(fresh[i]) for i in cost.longest_first(fresh)]
    assert np.all(np.diff(falling) < 0.02)
    assert np.ptp(falling) > 1.0


def test_nothing_seen_leaves_the_order():
    assert TrainingCost(SPACE).longest_first(SPACE.sample(9, np.random.default_rng(0))) == list(range(9))
