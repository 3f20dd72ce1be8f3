import pytest
import stable_baselines3

from nasenv.agents import PPO, Agent, MaskablePPO, RandomSearch, StableBaselines
from nasenv.errors import InputError
from nasenv.search import Budget, Search
from nasenv.spaces.chain_cnn import ChainCNN
from tests.cheap_evaluators import HiddenDesign

SPACE = ChainCNN(max_layers=2)
HIDDEN = SPACE.from_text("conv5x32|sep_conv5x16+skip")


def search_of(agent, **budget):
    search = Search(SPACE, HiddenDesign(SPACE, HIDDEN), agent, Budget(**budget))
    search.run()
    return search


@pytest.mark.parametrize("agent", [PPO, MaskablePPO])
def test_one_design_at_a_time_is_enough_to_learn_from(agent):
    assert len(search_of(agent(num_envs=1), evaluations=3).history) == 3


def test_a_policy_that_collapses_ends_the_search_with_a_reason():
    """Without entropy and penalty, at a high learning rate, PPO proposes a few designs for ever."""
    agent = PPO(learning_rate=0.1, ent_coef=0.0, repeat_penalty=0.0, num_envs=8)
    search = search_of(agent, evaluations=200, repeats_per_evaluation=2)
    assert search.ended.endswith("its policy has collapsed")
    assert len(search.history) < 200


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomSearch(0), "must be an integer of 1 or more, got 0"),
        (lambda: PPO(num_envs=2.5), "must be an integer of 1 or more, got 2.5"),
        (lambda: PPO(reward="rang"), "reward must be rank or raw, got 'rang'"),
        (lambda: PPO(repeat_penalty=float("nan")), "repeat_penalty must be"),
        (lambda: StableBaselines("PPO"), "algorithm must be a class"),
        (lambda: StableBaselines(Agent), "algorithm must be a class"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("settings", [{"no_such": 1}, {"n_steps": 1, "batch_size": 1}, {"policy_kwargs": {"no": 1}}])
def test_settings_that_an_algorithm_does_not_take_are_said_in_one_line(settings):
    with pytest.raises(InputError, match=r"^PPO cannot be made with .*: .*$") as caught:
        search_of(StableBaselines(stable_baselines3.PPO, settings=settings, num_envs=1), evaluations=5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"n_epochs": -1}, {"n_epochs": 0}, {"learning_rate": 0.0}])
def test_ppo_that_could_not_learn_is_refused(wrong):
    with pytest.raises(InputError, match="n_epochs must be 1 or more and learning_rate positive"):
        PPO(**wrong)
