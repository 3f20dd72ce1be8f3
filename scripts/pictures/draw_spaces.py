"""Draws the hand-made architecture of each space that has one, for nasenv/spaces/README.md: ``space_NAME.png``."""

from pathlib import Path

import nasenv
from nasenv.plots import draw_diagram, to_png

HERE = Path(__file__).parent
SPACES = (
    nasenv.ChainCNN(),
    nasenv.Encoder(),
    nasenv.MobileNet(),
    nasenv.NASBench201(),
    nasenv.NASBenchMacro(),
    nasenv.DARTSCell(),
    nasenv.ResNet(),
    nasenv.Grammar(),
)


def main() -> None:
    """Draw all."""
    for space in SPACES:
        architecture = space.reference()
        if architecture is not None:
            name = type(space).__name__
            figure = draw_diagram(space.diagram(architecture), title=f"{name}: the hand-made reference")
            (HERE / f"space_{name}.png").write_bytes(to_png(figure, dpi=70))


if __name__ == "__main__":
    main()
