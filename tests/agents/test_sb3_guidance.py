"""PPO's guidance: architectures that are new, neighbours of good ones, imitation, and what the update learns from."""

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

from nasenv.agents import PPO, MaskablePPO, ModelAssistedPPO, RecurrentPPO
from nasenv.agents.model_assisted_ppo import Screening
from nasenv.agents.novelty import Seen
from nasenv.agents.sb3_guidance import Revision, episode_batch, imitate, relabel, values_and_log_probs
from nasenv.search.budget import Budget
from nasenv.search.search import Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.spaces.nas_bench_201 import NASBench201
from nasenv.surrogates.gaussian_process import Surrogate
from tests.fakes import Hashed

SPACE = ChainCNN(max_layers=3)
PRODUCT = NASBench201()  # every choice is valid, so what is drawn is what is made
PPOS = [PPO, MaskablePPO, RecurrentPPO]
UNGUIDED = {"replace_repeats": False, "mutation_share": 0.0, "imitation_steps": 0}


def a_search(agent=None, evaluations=48, space=SPACE):
    return Search(space, Hashed(space), agent, Budget(evaluations))


class AtRolloutEnd(BaseCallback):
    """Calls a function with the algorithm before each update."""

    def __init__(self, look):
        super().__init__()
        self._look = look

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self._look(self.model)


def looked_at(agent, look, space=SPACE):
    """Run a search whose algorithm is looked at before each update, after its guidance."""
    guided = agent.guidance_for

    def guidance_for(search):
        guidance, looking = guided(search), AtRolloutEnd(look)
        at_end = guidance._on_rollout_end

        def both():
            at_end()
            looking.model = guidance.model
            looking._on_rollout_end()

        guidance._on_rollout_end = both
        return guidance

    agent.guidance_for = guidance_for
    search = a_search(agent, space=space)
    search.run()
    return search


def architectures_in(model):
    return list(map(tuple, model.rollout_buffer.actions[:, :, 0].T.astype(int).tolist()))


def learnt_by(agent):
    """Return a search, and the architectures that its algorithm learns from."""
    learnt = []
    return looked_at(agent, lambda model: learnt.extend(architectures_in(model))), learnt


def columns(buffer):
    kept = ("observations", "actions", "values", "log_probs", "advantages", "returns", "rewards", "action_masks")
    memory = ("hidden_states_pi", "cell_states_pi", "hidden_states_vf", "cell_states_vf")
    return {name: getattr(buffer, name).copy() for name in (*kept, *memory) if hasattr(buffer, name)}


@pytest.mark.parametrize("agent", PPOS)
def test_relabelling_by_what_was_drawn_changes_nothing(agent):
    compared = []

    def look(model):
        before = columns(model.rollout_buffer)
        architectures = architectures_in(model)
        relabel(model, episode_batch(PRODUCT, architectures), np.arange(len(architectures)))
        for name, after in columns(model.rollout_buffer).items():
            begun = int("states" in name)  # what an LSTM remembers at the beginning of an episode is not looked at
            np.testing.assert_allclose(after[begun:], before[name][begun:], atol=1e-5, err_msg=name)
        compared.append(len(architectures))

    looked_at(agent(**UNGUIDED, relabelling=False), look, PRODUCT)
    assert sum(compared) >= 40


@pytest.mark.parametrize("agent", PPOS)
def test_the_update_learns_from_what_was_evaluated(agent):
    search, learnt = learnt_by(agent(mutation_share=0.5))
    assert learnt == search.history.architectures[: len(learnt)]
    assert len(learnt) >= 40


def test_without_relabelling_it_learns_from_what_was_drawn():
    search, learnt = learnt_by(MaskablePPO(mutation_share=1.0, relabelling=False))
    assert learnt[16:] != search.history.architectures[16 : len(learnt)]


def test_no_architecture_is_proposed_twice_while_there_are_others():
    search = a_search(PPO(), evaluations=300)
    search.run()
    assert search.history.proposals == len(search.history) == 300


def test_no_network_is_evaluated_twice_while_there_are_others():
    search = a_search(MaskablePPO(), evaluations=300)
    search.run()
    assert len(search.history) == 300
    assert len({SPACE.canonical(architecture) for architecture in search.history.architectures}) == 300


def test_where_each_architecture_has_a_row_equal_networks_are_both_evaluated():
    class Apart(Hashed):
        def representative(self, architecture):
            return architecture

    search = Search(SPACE, Apart(SPACE), MaskablePPO(), Budget(300))
    search.run()
    assert len({SPACE.canonical(architecture) for architecture in search.history.architectures}) < 300


def test_a_space_without_new_architectures_ends_the_search():
    space = ChainCNN(max_layers=1)
    search = Search(space, Hashed(space), PPO(), Budget(10 * space.size))
    search.run()
    assert len(search.history) == space.size


def test_mutants_are_neighbours_of_the_best():
    search = a_search(evaluations=200)
    search.evaluate(SPACE.sample(100, np.random.default_rng(0)))
    drawn = np.array(SPACE.sample(40, np.random.default_rng(1)))
    revised = Revision(search, replace_repeats=True, mutation_share=1.0)(drawn)
    parents = [o.architecture for o in search.history.top(20)]
    near = {neighbour for parent in parents for neighbour in SPACE.neighbours(parent)}
    assert np.mean([tuple(architecture) in near for architecture in revised.tolist()]) > 0.8
    assert not any(search.history.has(tuple(architecture)) for architecture in revised.tolist())


@pytest.mark.parametrize("agent", PPOS)
def test_imitation_makes_architectures_likelier_until_it_is_enough(agent):
    architectures = SPACE.sample(4, np.random.default_rng(0))
    episodes, told = episode_batch(SPACE, architectures), []
    chosen = torch.from_numpy(episodes.masks.sum(axis=2).T > 1)

    def look(model):
        if not told:
            for steps, enough in ((0, 1.0), (30, 1.0), (30, 1e-6)):
                imitate(model.policy, episodes, steps, enough)
                told.append(float(values_and_log_probs(model.policy, episodes)[1].detach()[chosen].sum()))

    looked_at(agent(), look)
    assert told[1] > told[0] + 1.0
    assert told[2] == told[1]


def test_screening_takes_the_most_promising_new_neighbour():
    search = a_search(evaluations=200)
    search.evaluate(SPACE.sample(40, np.random.default_rng(0)))
    drawn = np.array(SPACE.sample(3, np.random.default_rng(1)))
    screened = Screening(search, mutation_share=0.0, neighbours=1000, beta=1.0)(drawn)
    surrogate, seen = Surrogate(SPACE), Seen(search)
    seen.catch_up()
    surrogate.observe(search.history.architectures, search.history.answers.rewards)
    for architecture, best in zip(map(tuple, drawn.tolist()), map(tuple, screened.tolist()), strict=True):
        near = [d for d in (architecture, *SPACE.neighbours(architecture)) if d not in seen]
        assert surrogate.ucb([best], 1.0)[0] == pytest.approx(surrogate.ucb(near, 1.0).max())
        surrogate.believe([best])
        seen.add(best)


def test_the_policy_learns_from_the_screened_architectures():
    search, learnt = learnt_by(ModelAssistedPPO())
    assert learnt == search.history.architectures[: len(learnt)]
    assert len(learnt) >= 40
