import os
import signal

import pytest

from speculators.train.interrupt import Interrupt, Interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_the_first_signal_asks_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with Interrupt() as interrupt:
        assert not interrupt.asked
        os.kill(os.getpid(), number)
        assert interrupt.asked
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_ends_at_once():
    # Whoever starts the tests in the background may have it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), Interrupt():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_it_says_how_to_go_on_and_exits_with_130():
    stop = Interrupted(7, "speculators run runs/a")
    assert stop.code == 130
    assert "speculators run runs/a" in str(stop)
