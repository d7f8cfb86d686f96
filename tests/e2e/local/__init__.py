"""A Kubernetes of two nodes on one Linux machine, without Docker and without a registry; root only.

Each node is a set of namespaces (mount, network, PID) with containerd, kubelet and kube-proxy in it, the first one with
the control plane too. All that a node does to mounts, addresses, sysctls and processes is in its namespaces and ends
with their first process: there is nothing to undo but its cgroups and its folder.
"""
