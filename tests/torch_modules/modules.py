"""Modules of all kinds, and the rows that they are exported with."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from torch import nn

ROWS = 400
SOURCE = np.random.default_rng(0)
FEATURES = pa.table(
    {
        "avg basket": SOURCE.normal(size=ROWS),
        "visits": SOURCE.integers(0, 50, ROWS),
        "1st": SOURCE.normal(size=ROWS).round(2),
    }
)
MISSING = FEATURES.set_column(
    2,
    "1st",
    pa.array(FEATURES["1st"].to_numpy(), mask=SOURCE.random(ROWS) < 0.2),
)


def tensor_of(table, dtype=torch.float32):
    """Return the table as a tensor (rows, features), with NaN for NULL."""
    columns = [column.to_numpy().astype(np.float64) for column in table.columns]
    return torch.tensor(np.column_stack(columns), dtype=dtype)


def mlp(*last, width=1):
    """Return a new perceptron with the weights of the seed 0, and running statistics."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(3, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(16, width),
        *last,
    )
    module[1].running_mean.copy_(torch.randn(16))
    module[1].running_var.copy_(torch.rand(16) + 0.5)
    return module


class Attentive(nn.Module):
    """Attends from each feature to the others of its row."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.embed = nn.Linear(1, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 1)

    def forward(self, rows):
        return self.head(self.layer(self.embed(rows.unsqueeze(2))).mean(dim=1)).squeeze(1)


class AttendsToOtherRows(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True)

    def forward(self, rows):
        together = rows.unsqueeze(0)
        return self.attention(together, together, together)[0].squeeze(0)


class Embeds(nn.Module):
    """Reads a feature as the place in a table."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.table = nn.Embedding(50, 4)

    def forward(self, rows):
        return self.table(rows[:, 1].long().clamp(0, 49))


class TwoHeads(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.body, self.wrap = mlp(width=4), wrap

    def forward(self, rows):
        values = self.body(rows)
        return self.wrap(values[:, 0], values, values.argmax(dim=1))


class Of(nn.Module):
    """A linear layer, and a function of the rows and of the layer."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(3)
        self.layer, self.function = nn.Linear(3, 1), function

    def forward(self, rows):
        return self.function(rows, self.layer)


def fills_in_place(rows, layer):
    rows[torch.isnan(rows)] = 0.5
    return layer(rows)


class Counts(nn.Module):
    """Keeps a state from call to call that its output does not use."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, rows):
        self.calls += 1
        return self.layer(rows)
