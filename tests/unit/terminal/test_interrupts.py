"""Ctrl-C and SIGTERM: first a request, then an end."""

from __future__ import annotations

import queue
import signal
import threading
import time

import pytest

from lakelet.terminal.interrupts import stopping_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_the_update_to_end(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    stop = threading.Event()
    with stopping_on_signals(stop, abort=lambda: pytest.fail("aborted")) as interrupts:
        signal.raise_signal(number)
    assert stop.is_set()
    assert interrupts.count == 1
    assert "once more aborts" in capsys.readouterr().err


def test_the_second_signal_aborts() -> None:
    aborted: list[bool] = []
    with stopping_on_signals(threading.Event(), abort=lambda: aborted.append(True)):
        signal.raise_signal(signal.SIGINT)
        assert not aborted
        signal.raise_signal(signal.SIGTERM)
    assert aborted == [True]


@pytest.mark.timeout(30)
def test_a_signal_that_comes_while_the_main_thread_holds_the_lock_of_the_event() -> None:
    stop = threading.Event()
    with stopping_on_signals(stop):
        with stop._cond:  # as inside of `stop.wait`
            signal.raise_signal(signal.SIGINT)
        assert stop.wait(10)


@pytest.mark.timeout(30)
def test_a_signal_that_does_not_wake_the_main_thread() -> None:
    stop, ended = threading.Event(), queue.SimpleQueue[bool]()

    def work() -> None:
        time.sleep(0.2)  # until then the main thread waits for the end of this flow, and for nothing else
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        ended.put(stop.wait(10))

    with stopping_on_signals(stop) as interrupts:
        threading.Thread(target=work).start()
        assert ended.get(timeout=20)
    assert interrupts.count == 1


def test_afterwards_signals_do_what_they_did_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stopping_on_signals(threading.Event()):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_of_the_main_thread_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def work() -> None:
        with stopping_on_signals(threading.Event()):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
