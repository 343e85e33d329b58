"""gRPC reflection, where the operator wants it."""

import grpc

_SERVICES = ("Federation", "Enrolment", "Releases", "Operator", "TransparencyLog")


def reflect(server: grpc.aio.Server) -> None:
    """Tells callers which services there are; its package is loaded only here."""
    from grpc_reflection.v1alpha import reflection

    names = [f"hansa.v1.{name}" for name in _SERVICES]
    reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)
