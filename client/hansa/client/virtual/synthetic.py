"""Shops that do not exist: a catalogue and shoppers made from a seed, with something to learn.

Synthetic, and good for rehearsing a plan, its cost and its engine; what a federation will gain from
real shoppers they do not tell. What there is to learn:

* some materials sell several times better than others, whatever the shopper bought before;
* a shopper has a department and a colour that it likes, and buys a second colour with the first.

The departments that a merchant's shoppers like are drawn from a Dirichlet distribution, so that
merchants differ as real ones do; the numbers of their shoppers are log-normal.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

DEPARTMENTS = {
    "kitchen": ("kettle", "frying pan", "chopping board", "salad bowl", "bread knife"),
    "garden": ("flower pot", "garden hose", "bird feeder", "lantern", "hand rake"),
    "living room": ("table lamp", "bookshelf", "floor cushion", "wall clock", "picture frame"),
    "clothing": ("rain coat", "wool hat", "leather belt", "running shoes", "winter scarf"),
    "office": ("desk tray", "pen holder", "notebook", "office chair", "reading light"),
    "travel": ("suitcase", "toiletry bag", "neck pillow", "water bottle", "backpack"),
}
COLOURS = ("red", "blue", "green", "black", "white", "yellow")
MATERIALS = ("oak", "steel", "bamboo", "recycled")

_SALES_BY_MATERIAL = (4.0, 2.0, 1.0, 0.5)
_LIKED_DEPARTMENT = 6.0
_LIKED_COLOUR = 8.0
_SECOND_COLOUR = 3.0
_CONCENTRATION = 0.5
_MEDIAN_SHOPPERS = 30.0
_SPREAD = 0.7
_MEAN_PURCHASES = 12.0
_FEWEST_PURCHASES = 4
_FEWEST_SHOPPERS = 3


@dataclass(frozen=True, kw_only=True)
class SyntheticItem:
    """One thing of the synthetic catalogue."""

    title: str
    department: int
    colour: int
    material: int


def catalogue() -> tuple[SyntheticItem, ...]:
    """All combinations of things, colours and materials; always the same."""
    return tuple(
        SyntheticItem(
            title=f"{colour_name} {material_name} {thing}",
            department=department,
            colour=colour,
            material=material,
        )
        for department, things in enumerate(DEPARTMENTS.values())
        for thing in things
        for colour, colour_name in enumerate(COLOURS)
        for material, material_name in enumerate(MATERIALS)
    )


def shop(items: tuple[SyntheticItem, ...], rng: np.random.Generator) -> list[Integers]:
    """One merchant's shoppers: what each bought, as places in the catalogue, in order of time."""
    count = max(_FEWEST_SHOPPERS, int(rng.lognormal(np.log(_MEDIAN_SHOPPERS), _SPREAD)))
    departments = rng.dirichlet(np.full(len(DEPARTMENTS), _CONCENTRATION))
    liked = rng.choice(len(DEPARTMENTS), size=count, p=departments)
    colour = rng.integers(len(COLOURS), size=count)
    weights = _weights(items, liked, colour)
    sizes = np.maximum(rng.poisson(_MEAN_PURCHASES, size=count), _FEWEST_PURCHASES)
    # The largest of log(weight) plus Gumbel noise are a draw without replacement.
    keys = np.log(weights) + rng.gumbel(size=weights.shape)
    order = np.argsort(-keys, axis=1, kind="stable")
    return [order[row, : sizes[row]] for row in range(count)]


def _weights(
    items: tuple[SyntheticItem, ...], liked: Integers, colour: Integers
) -> npt.NDArray[np.float64]:
    """How readily each shopper buys each item, ``(shoppers, items)``."""
    departments = np.array([item.department for item in items])
    colours = np.array([item.colour for item in items])
    sales = np.array(_SALES_BY_MATERIAL)[[item.material for item in items]]
    second = (colour + 1) % len(COLOURS)
    return np.asarray(
        sales
        * np.where(departments == liked[:, None], _LIKED_DEPARTMENT, 1.0)
        * np.where(colours == colour[:, None], _LIKED_COLOUR, 1.0)
        * np.where(colours == second[:, None], _SECOND_COLOUR, 1.0)
    )
