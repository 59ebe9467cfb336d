"""The certificate that somebody shows, whether or not anybody should believe it."""

from __future__ import annotations

import socket
import ssl

from stack import x509


def presented(address: str, port: int, name: str) -> x509.Certificate:
    """What is shown there to who asks for a name. OSError where nobody answers, ValueError for no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # one that has ended is looked at as well
    with (
        socket.create_connection((address, port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=name) as secured,
    ):
        return x509.parse(secured.getpeercert(binary_form=True) or b"")
