"""A task that fails, for tests; imports nothing that a new worker would have to wait for."""

import os
import signal


def square(folder, times, item):
    """number² of item = (number, how); but a "bad" one fails, and a "deadly" one ends its process, `times` times."""
    number, how = item
    flag = folder / str(number)
    tries = int(flag.read_text()) if flag.exists() else 0
    flag.write_text(str(tries + 1))
    if how and tries < times:
        if how == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError(f"{number} is bad")
    return number**2
