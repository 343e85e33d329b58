"""Records one message of every kind of a version of the wire, for the versions after it.

``python -m tests.contract.wire.record DESCRIPTORS FOLDER`` is run once, when a version is left;
DESCRIPTORS is what ``protoc --include_imports --descriptor_set_out`` makes of its protos. The
folder then holds the descriptors, a ``.bin`` for every kind (and for every choice of a oneof), and
``expectations.json``: what each of them means.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

PACKAGE = "hansa.v1"
DESCRIPTORS = "descriptors.bin"
EXPECTATIONS = "expectations.json"

_WHOLE = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
}


class Wire:
    """A version of the protocol, apart from the code of the present one."""

    def __init__(self, descriptors: bytes) -> None:
        self._set = FileDescriptorSet.FromString(descriptors)
        self.pool = DescriptorPool()
        for file in self._set.file:
            self.pool.Add(file)

    def messages(self) -> Iterator[Descriptor]:
        for file in self._set.file:
            for message in file.message_type:
                yield self.pool.FindMessageTypeByName(f"{PACKAGE}.{message.name}")

    def services(self) -> Iterator[Any]:
        for file in self._set.file:
            for service in file.service:
                yield self.pool.FindServiceByName(f"{PACKAGE}.{service.name}")

    def kind(self, name: str) -> type[Message]:
        """The class of a message, by its name without the package."""
        return GetMessageClass(self.pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))


def filled(kind: Descriptor) -> Iterator[tuple[str, Message]]:
    """Messages of a kind with a value in every field, one for every choice of a oneof."""
    choices = [[field.name for field in oneof.fields] for oneof in kind.oneofs] or [[""]]
    assert len(choices) == 1, "write down how several oneofs go together"
    for choice in choices[0]:
        message = GetMessageClass(kind)()
        for field in kind.fields:
            if field.containing_oneof is None or field.name == choice:
                _fill(message, field)
        yield f"{kind.name}.{choice}" if choice else kind.name, message


def _fill(message: Message, field: FieldDescriptor) -> None:
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        child = next(filled(field.message_type))[1]
        if field.is_repeated:
            getattr(message, field.name).extend([child, child])
        else:
            getattr(message, field.name).CopyFrom(child)
            getattr(message, field.name).SetInParent()
    elif field.is_repeated:
        getattr(message, field.name).extend([_value(field, 0), _value(field, 1)])
    else:
        setattr(message, field.name, _value(field, 0))


def _value(field: FieldDescriptor, index: int) -> Any:
    text = f"{field.containing_type.name}.{field.name}.{index}"
    if field.cpp_type in _WHOLE:
        return 1000 * field.number + index + 7
    return {
        FieldDescriptor.CPPTYPE_STRING: text
        if field.type == FieldDescriptor.TYPE_STRING
        else text.encode(),
        FieldDescriptor.CPPTYPE_BOOL: True,
        FieldDescriptor.CPPTYPE_DOUBLE: field.number + 0.25,
        FieldDescriptor.CPPTYPE_ENUM: 1,
    }[field.cpp_type]


def meaning(message: Message) -> dict[str, Any]:
    """What a message says, in JSON's words."""
    return MessageToDict(message, preserving_proto_field_name=True)


def record(descriptors: bytes, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DESCRIPTORS).write_bytes(descriptors)
    expectations = {}
    for kind in Wire(descriptors).messages():
        for name, message in filled(kind):
            (folder / f"{name}.bin").write_bytes(message.SerializeToString(deterministic=True))
            expectations[name] = meaning(message)
    text = json.dumps(expectations, indent=1, sort_keys=True)
    (folder / EXPECTATIONS).write_text(text + "\n")


if __name__ == "__main__":
    record(Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]))
