"""What all pieces of a plan share."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class PlanPart(BaseModel):
    """A frozen piece of a plan; unknown fields are refused.

    A field that came later than version 1.0 of the wire is written only where it says something
    else than its default: so a plan that needs nothing new keeps its digest in every ledger and
    pack, and a client of the previous version can read it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _leave_out_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        body: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        unsaid = {name for name in self.later if getattr(self, name) == fields[name].default}
        return {name: value for name, value in body.items() if name not in unsaid}
