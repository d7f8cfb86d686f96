"""Sites: network namespaces of this machine, with lines between them that are slow, lose packets and can be cut."""
