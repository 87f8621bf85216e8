"""Record what was attacked, how often, and which attacks did harm."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Attack:
    """One row of the table. `harm` describes each attack that did something it must not."""

    promise: str
    what: str
    attacks: int = 0
    harm: list[str] = field(default_factory=list)

    def made(self, *, harm: str | None = None, times: int = 1) -> None:
        """Count an attack, and record its harm."""
        self.attacks += times
        if harm is not None:
            self.harm.append(harm)
