"""Clusters for tests: several nodes of Raft on this machine, and a network between them that a test can break."""
