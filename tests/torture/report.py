"""What was attacked, how often, and what came to harm."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Attack:
    """One row of the table. `harm` names the attacks that did what they must not."""

    promise: str
    what: str
    attacks: int = 0
    harm: list[str] = field(default_factory=list)

    def made(self, *, harm: str | None = None, times: int = 1) -> None:
        """Count an attack, and what it did."""
        self.attacks += times
        if harm is not None:
            self.harm.append(harm)
