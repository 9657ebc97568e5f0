"""Runs one program, and says how long it took and how much memory it had at most.

A process of its own, and a small one: a process's peak begins with what the one it was forked from had, so that
psql, started from the benchmark itself, would appear as large as the benchmark. Hence it imports only what the
interpreter has loaded anyway. Run by path, `launch.py BOUND LOG PROGRAM ARGUMENT...`; one line on stdout.
"""

from __future__ import annotations

import os
import signal
import sys
import time

_STOPS = (signal.SIGALRM, signal.SIGINT, signal.SIGTERM)


def main(bound: float, log: str, argv: list[str]) -> None:
    """Run `argv` with its output in `log`, and end it with all that it started once `bound` seconds are over.

    Prints seconds, peak as the system counts it, exit code, and 1 where it was ended for the time.
    """
    met: list[int] = []
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)  # none may come between the start and the handlers
    output = os.open(log, os.O_WRONLY | os.O_TRUNC)
    begun = time.perf_counter()
    child = os.posix_spawnp(
        argv[0],
        argv,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
        ],
        setpgroup=0,
        setsigmask=(),
        setsigdef=(signal.SIGPIPE,),
    )

    def end(number: int, _: object) -> None:
        met.append(number)
        os.killpg(child, signal.SIGKILL)

    for stop in _STOPS:
        signal.signal(stop, end)
    signal.setitimer(signal.ITIMER_REAL, bound)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    # Seen ended, but not yet reaped, its group cannot be another's, and the signal of a late alarm hurts no one.
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    seconds = time.perf_counter() - begun
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    _, status, usage = os.wait4(child, 0)
    print(seconds, usage.ru_maxrss, os.waitstatus_to_exitcode(status), int(signal.SIGALRM in met))


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2], sys.argv[3:])
