"""The smoke recipe with the parts that tests vary."""

import re
from pathlib import Path

import pytest

SMOKE = Path(__file__).parents[2] / "training/recipes/smoke.toml"
BOTH = '[{ name = "sts", share = 0.5 }, { name = "phantom", share = 0.5 }]'


@pytest.fixture(scope="session")
def tiny_recipe():
    """A function of what differs -> text of a recipe; schedules change in both stages."""

    def text(
        cues="in-fold", phantoms=2, implants=0, sources=BOTH, norm="batch", epochs=2, steps=2, freeze=False, dice="batch"
    ) -> str:
        recipe = SMOKE.read_text()
        for line, value in (
            ("cues", f'"{cues}"'),
            ("dice", f'"{dice}"'),
            ("phantoms", phantoms),
            ("implants", implants),
            ("sources", sources),
            ("epochs", epochs),
            ("steps_per_epoch", steps),
            ("freeze_norms", str(freeze).lower()),
        ):
            recipe, count = re.subn(rf"^{line} = .*$", f"{line} = {value}", recipe, flags=re.MULTILINE)
            assert count
        return recipe.replace('norm = "batch"', f'norm = "{norm}"')

    return text
