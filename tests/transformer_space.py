"""Transformer encoders that read an image row by row; `nasenv train --space transformer_space.Encoders`."""

from torch import nn

from nasenv.spaces.choice_space import ChoiceSpace


def build_encoder(task, num_layers, hidden_dim, num_heads, activation, dropout):
    channels, height, width = task.shape
    layers = [
        nn.TransformerEncoderLayer(hidden_dim, num_heads, 2 * hidden_dim, dropout, activation, batch_first=True)
        for _ in range(num_layers)
    ]
    rows = [nn.Flatten(1, 2), nn.Linear(width, hidden_dim)]  # each row of each channel is a token
    return nn.Sequential(*rows, *layers, nn.Flatten(), nn.Linear(channels * height * hidden_dim, task.outputs))


class Encoders(ChoiceSpace):
    def __init__(self, task=None):
        super().__init__(
            {
                "num_layers": (1, 2, 3, 4),
                "hidden_dim": (12, 16, 24, 32, 48),
                "num_heads": (1, 2, 3, 4, 6, 8),
                "activation": ("relu", "gelu"),
                "dropout": (0.0, 0.1, 0.2),
            },
            build=build_encoder,
            constraints=[lambda hidden_dim, num_heads: hidden_dim % num_heads == 0],
            reference={"num_layers": 2, "hidden_dim": 32, "num_heads": 4, "activation": "gelu", "dropout": 0.1},
            task=task,
        )
