from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SearchRequest(_message.Message):
    __slots__ = ("query", "limit")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    query: str
    limit: int
    def __init__(self, query: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class RecommendRequest(_message.Message):
    __slots__ = ("item_ids", "limit", "only_new")
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    ONLY_NEW_FIELD_NUMBER: _ClassVar[int]
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    limit: int
    only_new: bool
    def __init__(self, item_ids: _Optional[_Iterable[str]] = ..., limit: _Optional[int] = ..., only_new: _Optional[bool] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("item_id", "title", "price", "score")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    title: str
    price: float
    score: float
    def __init__(self, item_id: _Optional[str] = ..., title: _Optional[str] = ..., price: _Optional[float] = ..., score: _Optional[float] = ...) -> None: ...

class Answers(_message.Message):
    __slots__ = ("items", "release_version")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_VERSION_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Answer]
    release_version: int
    def __init__(self, items: _Optional[_Iterable[_Union[Answer, _Mapping]]] = ..., release_version: _Optional[int] = ...) -> None: ...
