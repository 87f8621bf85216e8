"""What `alert` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from dbt_onnx.cli.show.console import print_text

if TYPE_CHECKING:
    from dbt_onnx.alerts.messages import Message


def show_alert(receiver: str, message: Message) -> None:
    """Print a message that would be sent."""
    print_text(f"{receiver}: {message.summary}", style="bold")
    print_text(message.text)


def show_delivery(receiver: str, summary: str, *, fault: str | None = None) -> None:
    """Print what a receiver was told, or why it was not."""
    if fault is None:
        print_text(f"{receiver}: {summary}")
    else:
        text = f"{receiver}: not delivered: {fault}; it is told with the next alert"
        print_text(text, style="yellow", console=Console(stderr=True))
