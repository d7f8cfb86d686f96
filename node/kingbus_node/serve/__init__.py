"""The source side: what replicas and administrators connect to.

`supervisor` (in the core process) starts a few `worker` processes that accept on one listening socket. A worker runs
one `session` per connection: handshake and login, then commands: `sql` answers statements, `dump` streams the binlog.
"""
