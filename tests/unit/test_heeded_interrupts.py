"""A Ctrl-C still takes effect when other code swallows the KeyboardInterrupt."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest

from dbt_onnx.cli.backfill import reraised_interrupts


def test_an_interrupt_that_was_swallowed_is_raised_when_asked() -> None:
    before = signal.getsignal(signal.SIGINT)
    with reraised_interrupts() as raise_if_interrupted:
        raise_if_interrupted()
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            raise_if_interrupted()
    assert signal.getsignal(signal.SIGINT) is before
