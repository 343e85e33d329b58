import re
import socket

import pytest

from hansa.core.endpoints import ADDRESS_PATTERN, endpoints_of
from hansa.core.machine import connect_errors


@pytest.mark.parametrize(
    ("address", "endpoints"),
    [
        ("shop.example:443", ("shop.example:443",)),
        ("ipv4:192.0.2.1:1,192.0.2.2:2", ("192.0.2.1:1", "192.0.2.2:2")),
        ("ipv6:[2001:db8::1]:1,[2001:db8::2]:2", ("[2001:db8::1]:1", "[2001:db8::2]:2")),
    ],
)
def test_an_address_names_its_servers_in_the_order_of_trying(address, endpoints) -> None:
    assert re.fullmatch(ADDRESS_PATTERN, address)
    assert endpoints_of(address) == endpoints


@pytest.mark.parametrize(
    "address", ["", "shop.example", "a b:1", "dns:///shop:1", "ipv4:", "ipv4:192.0.2.1", "a:1\n"]
)
def test_what_is_no_address_is_told_apart(address) -> None:
    assert not re.fullmatch(ADDRESS_PATTERN, address)


def test_each_server_of_an_address_is_tried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, so that nobody else listens there
        here, nobody = server.getsockname()[1], closed.getsockname()[1]
        refused, well = connect_errors(f"ipv4:127.0.0.1:{nobody},127.0.0.1:{here}")
    assert well is None
    assert refused is not None
    assert f"no connection to 127.0.0.1:{nobody}" in refused
