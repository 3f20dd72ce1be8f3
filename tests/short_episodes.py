"""Settings under which Stable-Baselines3's algorithms learn from short episodes; their own are for long ones.

An episode has some 25 steps, so PPO's own n_steps of 2048 would be 82 trainings before its first update, DQN's own
exploration would outlast a search, and its own replay buffer of a million observations takes gigabytes.
"""

from typing import Any

PPO: dict[str, Any] = {
    "n_steps": 200,  # 8 designs an update
    "batch_size": 200,
    "n_epochs": 10,
    "learning_rate": 3e-3,
    "gamma": 1.0,
    "gae_lambda": 1.0,
    "ent_coef": 0.01,
}
A2C: dict[str, Any] = {
    "n_steps": 25,
    "learning_rate": 7e-3,
    "gamma": 1.0,
    "ent_coef": 0.01,
    "normalize_advantage": True,
    "use_rms_prop": False,
}
TRPO: dict[str, Any] = {
    "n_steps": 200,
    "batch_size": 200,
    "gamma": 1.0,
    "gae_lambda": 1.0,
    "target_kl": 0.05,
    "learning_rate": 3e-3,
}
DQN: dict[str, Any] = {
    "buffer_size": 10_000,
    "learning_starts": 250,
    "train_freq": 4,
    "gradient_steps": 1,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "gamma": 1.0,
    "target_update_interval": 100,
    "exploration_fraction": 0.5,
    "exploration_final_eps": 0.02,
}
MASKABLE_PPO = PPO
RECURRENT_PPO: dict[str, Any] = PPO | {"n_epochs": 5, "policy_kwargs": {"lstm_hidden_size": 64}}
QRDQN: dict[str, Any] = DQN | {"policy_kwargs": {"n_quantiles": 25}}  # its own 200 take ten times as long
