"""A Ray of two nodes on this machine, one of which is removed in mid-study; prints what became of the study as JSON.

For tests/test_ray.py: Ray binds every address of its host, so this runs in a network namespace of its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ray.cluster_utils import Cluster

from harness.events import Ended, Event, Started, Stepped
from harness.options import AblateOptions, RunOptions
from harness.spec.ablation import load_study
from harness.study.ablate import ablate


class NodeRemover:
    """Removes the second node as soon as runs are under way on both."""

    def __init__(self, cluster: Cluster):
        self.cluster = cluster
        self.second = cluster.add_node(num_cpus=1)
        self.started: list[str] = []
        self.stepped: set[str] = set()
        self.ended: list[str] = []
        self.removed = False

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self.started.append(event.run_id)
        if isinstance(event, Ended):
            self.ended.append(event.run_id)
        if isinstance(event, Stepped) and event.epoch > 2:
            self.stepped.add(event.run_id)
        if len(self.stepped) >= 2 and not self.removed:
            self.removed = True
            self.cluster.remove_node(self.second, allow_graceful=False)


def main() -> None:
    import ray

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")  # while there is one node to be on
    remover = NodeRemover(cluster)
    cluster.wait_for_nodes()
    study = load_study(Path("study.yaml"), sys.argv[2:])
    options = RunOptions(wandb="disabled", device="cpu", checkpoint_every=0)
    outcome = ablate(study, AblateOptions(options, executor="ray"), remover)
    found = {
        "removed": remover.removed,
        "statuses": sorted(outcome.statuses.values()),
        "done": outcome.plan.count("done"),
        "ended": len(remover.ended),
        "started_again": len(remover.started) - len(set(remover.started)),
    }
    Path(sys.argv[1]).write_text(json.dumps(found))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
