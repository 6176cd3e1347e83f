"""First on PYTHONPATH, this lets no Python process of a test reach anything but this machine, and notes who tries."""

import os
import sys


def _watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # others are sockets of this machine
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host not in (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0"):
        with open(os.environ["OFFLINE"], "a") as file:
            file.write(f"{event} {host}\n")
        raise ConnectionRefusedError(f"{host}: tests reach no network")


sys.addaudithook(_watch)
