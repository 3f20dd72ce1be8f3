import sys
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch

from nasenv.agents import (
    A2C,
    DQN,
    PPO,
    TPE,
    Agent,
    GaussianProcess,
    LocalSearch,
    LSTMReinforce,
    MaskablePPO,
    ModelAssistedPPO,
    QLearning,
    RandomSearch,
    RecurrentPPO,
    RegularizedEvolution,
    Reinforce,
    StableBaselines,
)
from nasenv.agents.reinforce import _Adam
from nasenv.errors import InputError
from nasenv.search.budget import Budget
from nasenv.search.search import Search
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.trial import Measurement, Outcome
from tests.fakes import HiddenArchitecture

SPACE = ChainCNN(max_layers=2)
HIDDEN = SPACE.from_text("conv5x32|sep_conv5x16+skip")


def search_of(agent, **budget):
    search = Search(SPACE, HiddenArchitecture(SPACE, HIDDEN), agent, Budget(**budget))
    search.run()
    return search


@pytest.mark.parametrize("agent", [PPO, MaskablePPO])
def test_one_architecture_at_a_time_is_enough_to_learn_from(agent):
    assert len(search_of(agent(num_envs=1), evaluations=3).history) == 3


class Wide(HiddenArchitecture):
    """Works on several architectures at once, as it says."""

    excluded_from_identity = ("slots",)

    def __init__(self, space, hidden, slots):
        super().__init__(space, hidden)
        self.at_once = slots

    @property
    def slots(self):
        return self.at_once


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize(("slots", "architectures"), [(1, 16), (2, 16), (12, 24), (40, 40)])
def test_architectures_at_a_time_follow_the_slots_with_which_the_search_began(tmp_path, slots, architectures):
    agent = PPO(num_envs="auto")
    for there in (slots, 7):  # it goes on where there are others
        parts = (SPACE, Wide(SPACE, HIDDEN, there), agent, Budget(evaluations=60))
        with Search(*parts, run_dir=tmp_path) as search:
            assert agent.architectures_at_once(search) == architectures
            if there == slots:
                search.callbacks.append(lambda search, _: search.stop("enough") if len(search.history) > 20 else None)
            search.run()
    assert len(search.history) == 60


def test_a_policy_that_collapses_ends_the_search_with_a_reason():
    """Without entropy and penalty, at a high learning rate, PPO proposes a few architectures for ever."""
    unguided = {"replace_repeats": False, "mutation_share": 0.0}
    agent = PPO(learning_rate=0.1, ent_coef=0.0, repeat_penalty=0.0, **unguided)
    search = search_of(agent, evaluations=200, repeats_per_evaluation=2)
    assert search.ended.endswith("its policy has collapsed")
    assert len(search.history) < 200


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomSearch(0), "must be an integer of 1 or more, got 0"),
        (lambda: RegularizedEvolution(5, 10), "population_size .* must be an integer of 10 or more, got 5"),
        (lambda: RegularizedEvolution(50, 0), "sample_size must be an integer of 1 or more, got 0"),
        (lambda: LocalSearch("worst"), "improvement must be first or best, got 'worst'"),
        (lambda: Reinforce(learning_rate=0.0), "Reinforce: learning_rate must be a positive number, got 0.0"),
        (lambda: Reinforce(learning_rate="fast"), "learning_rate must be a positive number, got 'fast'"),
        (lambda: Reinforce(baseline_decay=1.1), r"baseline_decay must be a number in \[0, 1\]"),
        (lambda: LSTMReinforce(hidden_size=0), "hidden_size must be an integer of 1 or more, got 0"),
        (lambda: LSTMReinforce(entropy_weight=-1.0), "entropy_weight must be a number of 0 or more, got -1.0"),
        (lambda: QLearning(discount=1.1), r"discount must be a number in \[0, 1\], got 1.1"),
        (lambda: QLearning(replays=None), "replays must be an integer of 1 or more, got None"),
        (lambda: QLearning(memory=0), "memory must be an integer of 1 or more, got 0"),
        (lambda: TPE(candidates=0), "candidates must be an integer of 1 or more, got 0"),
        (
            lambda: GaussianProcess(startup_trials=0),
            "startup_trials must be an integer of 1 or more, got 0",
        ),
        (lambda: GaussianProcess(noise=0.0), "GaussianProcess: noise must be a positive number, got 0.0"),
        (lambda: GaussianProcess(beta=-1.0), "GaussianProcess: beta must be a number of 0 or more, got -1.0"),
        (lambda: A2C(learning_rate=-1.0), "learning_rate must be a positive number, got -1.0"),
        (lambda: DQN(gradient_steps=0), "gradient_steps must be an integer of 1 or more, got 0"),
        (lambda: DQN(exploration_fraction=-1), r"exploration_fraction must be a number in \[0, 1\], got -1"),
        (lambda: PPO(ent_coef="x"), "ent_coef must be a number of 0 or more, got 'x'"),
        (lambda: RecurrentPPO(lstm_hidden_size=0), "lstm_hidden_size must be an integer of 1 or more, got 0"),
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


class MyPPO(PPO):
    """A user's, with an option of its own; a parent's option is settled, another has another default."""

    def __init__(self, boldness: float = 2.0, n_epochs: int = 3, **kwargs: Any) -> None:
        super().__init__(n_epochs=n_epochs, clip_range=0.1 * boldness, **kwargs)
        self.boldness = boldness


class MyScreened(ModelAssistedPPO):
    """A user's, with an option of its own and no others."""

    def __init__(self, boldness: float = 1.0) -> None:
        super().__init__(beta=boldness)


def options(agent):
    return agent.config()["init_args"]


def test_a_configuration_holds_the_defaults_of_all_parents():
    ppo, base = options(PPO()), {"reward": "rank", "repeat_penalty": 1.0}
    assert ppo.items() > base.items()
    assert options(MaskablePPO()) == ppo
    without_network = {name: value for name, value in ppo.items() if name != "network"}
    assert options(RecurrentPPO()) == without_network | {"lstm_hidden_size": 64, "net_arch": []}
    settled = {"replace_repeats", "relabelling"}
    assert options(ModelAssistedPPO()) == {name: value for name, value in ppo.items() if name not in settled} | {
        **{"neighbours": 23, "beta": 1.0, "num_envs": 4, "n_epochs": 4, "imitation_steps": 2}
    }
    assert options(A2C()).items() > base.items()
    assert options(DQN()).items() > base.items()
    assert next(iter(options(StableBaselines(stable_baselines3.PPO)))) == "algorithm"


@pytest.mark.parametrize("agent", [RecurrentPPO, ModelAssistedPPO, A2C, DQN, MyPPO])
def test_what_is_passed_on_to_a_parent_is_kept_and_holds(agent):
    made = agent(learning_rate=0.5, reward="raw")
    assert (options(made)["learning_rate"], options(made)["reward"]) == (0.5, "raw")
    assert (made.settings["learning_rate"], made.reward) == (0.5, "raw")
    assert agent(**options(made)).config() == made.config()
    with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rat'"):
        agent(learning_rat=0.5)


def test_own_options_and_defaults_of_a_users_subclass():
    kept = {name: value for name, value in options(PPO()).items() if name != "clip_range"}
    assert options(MyPPO()) == kept | {"boldness": 2.0, "n_epochs": 3}
    mine = MyPPO(boldness=3.0, gamma=0.5)
    assert (mine.settings["n_epochs"], mine.settings["gamma"], mine.settings["clip_range"]) == (3, 0.5, 0.1 * 3.0)
    assert mine.identity() != MyPPO().identity()
    assert options(MyScreened()) == {"boldness": 1.0}
    assert (MyScreened().num_envs, MyScreened(2.0).beta) == (4, 2.0)
    assert len(search_of(MyPPO(boldness=1.0, num_envs=2), evaluations=3).history) == 3


@pytest.mark.parametrize("settings", [{"no_such": 1}, {"n_steps": 1, "batch_size": 1}, {"policy_kwargs": {"no": 1}}])
def test_settings_that_an_algorithm_does_not_take_are_said_in_one_line(settings):
    with pytest.raises(InputError, match=r"PPO cannot be made with .*: .*") as caught:
        search_of(StableBaselines(stable_baselines3.PPO, settings=settings, num_envs=1), evaluations=5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"n_epochs": -1}, {"n_epochs": 0}, {"learning_rate": 0.0}, {"clip_range": 0.0}])
def test_ppo_that_could_not_learn_is_refused(wrong):
    with pytest.raises(InputError, match=r"must be (an integer of 1 or more|a positive number), got"):
        PPO(**wrong)


def test_tpe_without_optuna_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"TPE needs Optuna .*: pip install optuna"):
        search_of(TPE(), evaluations=3)


def test_evolution_mutates_the_best_of_a_sample_and_lets_the_oldest_die():
    """A tournament of the whole population is won by its best; when it has aged out, the best of the rest wins."""
    agent = RegularizedEvolution(population_size=3, sample_size=3)
    agent.begin(SPACE, Always())
    outcomes = [
        outcome(a, r) for a, r in zip(SPACE.sample(4, np.random.default_rng(0)), (0.9, 0.1, 0.5, 0.2), strict=True)
    ]
    agent.tell(outcomes[:3])
    assert agent._parent() == outcomes[0].architecture
    agent.tell(outcomes[3:])
    assert agent._parent() == outcomes[2].architecture


@pytest.mark.parametrize("improvement", ["first", "best"])
def test_local_search_climbs_to_an_architecture_that_no_neighbour_beats_before_it_starts_again(improvement):
    """Where agreement with a hidden architecture is paid, each climb ends there, after T steps up at most."""
    search = Search(SPACE, HiddenArchitecture(SPACE, HIDDEN), LocalSearch(improvement), Budget(1000, target_reward=1.0))
    search.run()
    assert search.history.best.architecture == HIDDEN
    assert search.history.repeats == 0


def test_reinforces_score_is_the_gradient_of_the_log_probability():
    """Against torch's autograd through a masked softmax."""
    agent = Reinforce()
    agent.begin(SPACE, np.random.default_rng(0))
    agent._logits += np.random.default_rng(1).standard_normal(agent._logits.shape)
    for architecture in SPACE.sample(5, np.random.default_rng(2)):
        logits = torch.tensor(agent._logits, requires_grad=True)
        masks = torch.from_numpy(
            np.concatenate([SPACE.mask(np.array([architecture[:t]])) for t in range(len(architecture))])
        )
        log_probs = logits.masked_fill(~masks, -torch.inf).log_softmax(dim=1)
        log_probs[range(len(architecture)), architecture].sum().backward()
        np.testing.assert_allclose(agent._score(architecture), logits.grad, atol=1e-12)


def test_reinforces_adam_is_torchs():
    rng = np.random.default_rng(0)
    ours = rng.standard_normal((2, 3))
    theirs = torch.tensor(ours, requires_grad=True)
    adam, reference = _Adam(ours, 0.1), torch.optim.Adam([theirs], lr=0.1, maximize=True)
    for gradient in rng.standard_normal((5, 2, 3)):
        adam.ascend(gradient)
        theirs.grad = torch.tensor(gradient)
        reference.step()
    np.testing.assert_allclose(ours, theirs.detach())


def test_the_lstm_samples_architectures_as_often_as_it_says():
    """Frequencies in 20,000 draws are within 5 standard errors of the probabilities, which sum to one."""
    space = ChainCNN(max_layers=1, widths=(4,))
    controller = LSTMReinforce()
    controller.begin(space, np.random.default_rng(0))
    with torch.no_grad():
        for parameter in controller._controller.parameters():
            parameter *= 10
        architectures = sorted(set(space.sample(500, np.random.default_rng(0))))
        probabilities = controller._controller(np.array(architectures))[0].exp().numpy()
    assert len(architectures) == space.size
    assert probabilities.sum() == pytest.approx(1.0, abs=1e-5)
    drawn = controller.ask(20_000)
    shares = np.array([drawn.count(d) for d in architectures]) / len(drawn)
    assert np.all(np.abs(shares - probabilities) < 5 * np.sqrt(probabilities / len(drawn)) + 1e-6)


def test_q_values_of_a_deterministic_game_become_the_best_reward_that_can_follow():
    """With a full memory and enough replays, Q is the backward induction over the architectures seen."""
    agent = QLearning(learning_rate=0.5, replays=2000, evaluations=1)
    search = Search(SPACE, HiddenArchitecture(SPACE, HIDDEN), agent, Budget(40, repeats_per_evaluation=1), seed=0)
    search.run()
    seen = {o.architecture: o.reward for o in search.history}
    for steps, reward in agent._episodes[:20]:
        last = steps[-1]
        assert agent._q[last.state][last.choice] == pytest.approx(reward, abs=1e-3)
    first = {d[0] for d in seen}
    for choice in first:
        followed = max(r for d, r in seen.items() if d[0] == choice)
        assert agent._q[()][choice] == pytest.approx(max(followed, 0.5), abs=0.01)


class Always:
    """A generator whose samples are the whole population, in order."""

    def integers(self, n, size):
        return np.arange(size) % n


def outcome(architecture, reward):
    return Outcome(architecture, Measurement(reward), reward, 1, 1)
