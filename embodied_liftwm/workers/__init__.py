"""Work spread over processes: one scheduler, and two engines that start the processes.

    contract.py         what is to be done (`Work`), and what an engine offers
    scheduling.py       `run_tasks`: hands out tasks, replaces workers that died
    local_engine.py     processes of this machine
    watcher.py          ends what a killed process has started
    side_by_side.py     a few tasks, a process and a bar each
    ray_engine.py       actors of Ray on one machine or a cluster; the only module that imports Ray

Any of the processes may die at any moment: what it had left to do is done by another.
"""

from embodied_liftwm.workers.contract import Engine, Work
from embodied_liftwm.workers.scheduling import run_tasks

__all__ = ["Engine", "Work", "find_engine", "run_tasks"]


def find_engine(name: str, workers: int, ray_address: str = "") -> Engine:
    """The engine of a name, which starts nothing before it is used.

    Args:
        name: `local` or `ray`.
        workers: how many processes it may run at a time.
        ray_address: a Ray cluster to join; empty starts Ray on this machine for as long as it is needed.

    Raises:
        UserError: Ray is not installed.
    """
    if name == "ray":
        from embodied_liftwm.workers.ray_engine import RayEngine

        return RayEngine(workers, ray_address)
    from embodied_liftwm.workers.local_engine import LocalEngine

    return LocalEngine(workers)
