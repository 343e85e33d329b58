"""The commands around a plan that has not begun."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hansa.core.base_models import parse_base_models
from hansa.core.errors import InvalidInputError
from hansa.core.flower_plan import FlowerPlan, read_any_plan
from hansa.server.cli_options import AsJson, PlanFile
from hansa.server.plan_check import PlanCost, check_plan
from hansa.server.shop_check import ShopOutlook

plan_app = typer.Typer(help="Look at a plan before it begins.", no_args_is_help=True)
_console = Console()


@plan_app.command("check")
def plan_check(
    plan: PlanFile,
    target_epsilon: Annotated[
        float | None, typer.Option(help="Solve for the noise that keeps the whole run to this.")
    ] = None,
    merchants: Annotated[
        int | None, typer.Option(min=1, help="Merchants that one shopper may be a customer of.")
    ] = None,
    shoppers: Annotated[
        int | None, typer.Option(min=1, help="A shop's size, to see whether it is too small.")
    ] = None,
    base_model: Annotated[
        list[str] | None,
        typer.Option(envvar="HANSA_BASE_MODEL", help="NAME=FOLDER; default: installed MiniLM."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a plan costs each shopper and what protection is left, before anything starts."""
    found = read_any_plan(plan)
    if isinstance(found, FlowerPlan):
        typer.echo(
            f"{found.client_app} decides by itself what it lets out: no epsilon can be stated; "
            "each merchant must allow it by name"
        )
        return
    cost = check_plan(
        found,
        base_models=_base_models(base_model),
        merchants=merchants,
        shoppers=shoppers,
        target_epsilon=target_epsilon,
    )
    if as_json:
        typer.echo(cost.model_dump_json(indent=2))
    else:
        show(cost, _console)


def show(cost: PlanCost, console: Console) -> None:
    """Prints a plan's cost for people."""
    console.print(_spending(cost), _presence(cost), sep="\n")
    console.print(f"noise: {cost.mechanism}; accountant: {cost.accountant}")
    if cost.calibration is not None:
        console.print(
            f"for epsilon {cost.calibration.target_epsilon:g} a {cost.unit}: noise_multiplier "
            f"{cost.calibration.noise_multiplier:g}, for which all figures here are"
        )
    console.print(
        f"the other unit, {cost.second_unit}: epsilon {cost.second_epsilon}, {cost.second_meaning}"
    )
    console.print(
        f"a merchant as a whole ({cost.merchant.shoppers} shoppers): epsilon up to "
        f"{cost.merchant.epsilon}, which is {cost.merchant.verdict}"
    )
    if cost.bytes_per_round is not None:
        console.print(f"each merchant sends {cost.bytes_per_round} bytes a round")
    if cost.shop is not None:
        _show_shop(cost.shop, console)
    for note in cost.notes:
        console.print(note)


def _spending(cost: PlanCost) -> Table:
    table = Table(
        "epsilon:", "round", "training", "metrics", "whole run", "delta", "unit", "steps", "noise"
    )
    table.add_row(
        "",
        cost.epsilon_per_round,
        cost.epsilon_training,
        cost.epsilon_metrics,
        cost.epsilon_total,
        f"{cost.delta:g}",
        cost.unit,
        str(cost.steps),
        f"{cost.noise_multiplier:g}",
    )
    return table


def _presence(cost: PlanCost) -> Table:
    table = Table("merchants of a shopper", "epsilon of the shopper, whole run")
    for one in cost.shoppers:
        table.add_row(str(one.merchants), one.epsilon)
    return table


def _show_shop(shop: ShopOutlook, console: Console) -> None:
    console.print(f"a shop of {shop.shoppers} shoppers: {shop.verdict}")
    console.print(f"  a step expects {shop.sampled_per_step:g} of its units")
    if shop.fitting_sampling_rate is not None:
        needed = shop.needed_noise_multiplier
        console.print(
            f"  at the sampling rate that fits it, {shop.fitting_sampling_rate:.4g}, epsilon "
            f"{shop.epsilon} needs a noise multiplier of "
            + ("more than 1000" if needed is None else f"{needed:g}")
        )


def _base_models(pairs: list[str] | None) -> dict[str, Path]:
    """What was named must exist; the installed default may be missing."""
    try:
        return parse_base_models(pairs or [])
    except InvalidInputError:
        if pairs:
            raise
        return {}
