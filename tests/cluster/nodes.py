"""A Ray cluster of several nodes on this machine, whose nodes tests kill."""

QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_failure_threshold": 3,
    "prestart_worker_first_driver": False,
}
STORE = 80 * 2**20
NOBODY_LOOKS = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}


class Nodes:
    """A cluster: a head without processors, on which this process is, and nodes of one each."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "object_store_memory": STORE, "_system_config": QUICK, **NOBODY_LOOKS}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address = self.cluster.address

    def lose_one(self):
        """End a node, which tells nobody."""
        self.cluster.remove_node(next(iter(self.cluster.worker_nodes)), allow_graceful=False)

    def have(self, count):
        """Return when there are so many nodes beside the head."""
        nodes = self.cluster.worker_nodes
        for node in [node for node in nodes if any(kind == "raylet" for kind, _ in node.dead_processes())]:
            self.cluster.remove_node(node, allow_graceful=False)
        for node in [*nodes][count:]:
            self.cluster.remove_node(node)  # which tells the head that it goes
        while len(nodes) < count:
            self.cluster.add_node(num_cpus=1, object_store_memory=STORE, wait=False)
