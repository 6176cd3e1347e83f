"""Kernels for notebooks in batch, forked from a process that has imported what they all need: it takes seconds each."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext  # not on every system

_IMPORTED = [
    "ipykernel.kernelapp", "sfolib.experiments.notebook", "sfolib.plotting", "sfolib.training.run", "torch.optim",
    "scipy.stats", "sklearn.datasets",
]  # fmt: skip
_INLINE = "module://matplotlib_inline.backend_inline"


class ForkedKernelManager(AsyncKernelManager):
    """Starts kernels as forks where the system has them, and otherwise as programs of their own."""

    async def _async_pre_start_kernel(self, **settings: Any) -> tuple[list[str], dict[str, Any]]:
        if self.provisioner is None and "forkserver" in multiprocessing.get_all_start_methods():
            self.provisioner = _Fork(kernel_spec=self.kernel_spec, parent=self)
        return await super()._async_pre_start_kernel(**settings)


class _Fork(LocalProvisioner):
    async def launch_kernel(self, cmd: list[str], **settings: Any) -> Any:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_IMPORTED)  # those of the first kernel count
        self.process = _Process(context, cmd[3:], settings.get("cwd"), settings.get("env", os.environ))
        self.pid, self.cwd = self.process.pid, settings.get("cwd")
        return self.connection_info


class _Process:
    """What `LocalProvisioner` uses of a `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, context: ForkServerContext, arguments: Sequence[str], cwd: Any, env: Mapping[str, str]):
        self._process = context.Process(target=_kernel, args=(arguments, cwd, dict(env)))
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def send_signal(self, signal: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def _kernel(arguments: Sequence[str], cwd: Any, env: Mapping[str, str]) -> None:
    import matplotlib
    from ipykernel.kernelapp import launch_new_instance
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a kernel that is ended leaves behind
    os.setsid()  # a Ctrl-C in the terminal is for whoever started it
    os.chdir(cwd or ".")
    os.environ.update(env, JPY_PARENT_PID=str(os.getppid()))  # the kernel ends with it
    matplotlib.rcParams["backend"] = os.environ.get("MPLBACKEND") or _INLINE  # which it takes when it is imported
    launch_new_instance(argv=[*arguments])
