"""Fields of a dataclass become options, declared once and in their order."""

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from embedl_deploy.cli.spread import spread


@dataclass(frozen=True, kw_only=True)
class Base:
    name: Annotated[str, typer.Argument()]
    size: Annotated[int, typer.Option(help="How large.")] = 1


@dataclass(frozen=True, kw_only=True)
class Wide(Base):
    place: Annotated[str, typer.Argument()]
    size: Annotated[int, typer.Option(help="How wide.")] = 2


@spread
def command(order: Wide, *, loud: Annotated[bool, typer.Option("--loud")] = False) -> None:
    """Say it."""
    typer.echo(f"{order.name} {order.size} {order.place} {loud}")


app = typer.Typer()
app.command()(command)


def said(*arguments: str) -> str:
    return CliRunner().invoke(app, arguments).output


def test_arguments_options_and_defaults_are_those_of_the_fields() -> None:
    assert said("a", "b") == "a 2 b False\n"
    assert said("a", "b", "--size", "5", "--loud") == "a 5 b True\n"
    assert "Missing argument" in said("a")
    assert "How wide." in said("--help")
    assert "Say it." in said("--help")
