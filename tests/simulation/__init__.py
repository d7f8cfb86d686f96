"""A deterministic simulator of the Raft cluster: many nodes in one process, virtual time, every fault from one seed."""
