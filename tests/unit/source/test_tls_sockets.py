"""TLS toward a source that is gone before it begins."""

from __future__ import annotations

import gc
import socket
import struct
import warnings

import pytest

from kingbus_node.config import SourceTls
from kingbus_node.source.connection import tls_context

RESET_AT_CLOSE = struct.pack("ii", 1, 0)


@pytest.mark.filterwarnings("error")
def test_a_source_that_is_gone_before_tls_begins_leaves_no_socket_open() -> None:
    context = tls_context(SourceTls(mode="required"))
    assert context is not None
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        theirs.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()  # what others left is not counted here
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with pytest.raises(ConnectionResetError):
                context.wrap_socket(ours, server_hostname="db.example")
            gc.collect()
    assert not [str(one.message) for one in caught]
